//! A check reports in advance what the next start finds, after power cuts and after damage.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::log::testing::Fault;

/// Does to a log what a node does, in short; `None` if it was stopped.
fn live(storage: &FaultyStorage) -> Option<()> {
    let append = |files: &mut LogFiles, epoch: u64, lengths: &[usize]| {
        let each = lengths.iter().map(|bytes| (epoch, *bytes));
        let records = Records::new(files.end().0, each);
        files.append(&records.batches(&[2])).ok()
    };
    let mut files = open_log(storage).ok()?.0;
    // As a node does it: first the mark, then a log epoch.
    meta(Some(CLUSTER)).save(storage).ok()?;
    append(&mut files, 1, &[10, 100])?;
    files.sync().ok()?;
    append(&mut files, 2, &[100, 100, 100, 50, 100, 20])?;
    files.sync().ok()?;
    files.truncate(Offset(3)).ok()?;
    append(&mut files, 4, &[90, 90, 90, 90, 90])?;
    let mut files = open_log(storage).ok()?.0;
    append(&mut files, 5, &[300, 5])?;
    files.sync().ok()?;
    files.truncate(Offset(5)).ok()?;
    append(&mut files, 6, &[5, 50, 400])?;
    files.close().ok()
}

/// Compares the report on a directory with what a start does with it.
fn compare(storage: &(impl Storage + Clone), case: &str) -> Report {
    let found = directory(storage).unwrap();
    let torn: u64 = found
        .findings
        .iter()
        .filter_map(|finding| finding.torn_bytes)
        .sum();
    match open_log(storage) {
        Err(error) => assert!(found.is_damaged(), "{case}: {error}\n{found:#?}"),
        Ok((_, _, start)) if start.damaged.is_some() => {
            assert!(found.is_damaged(), "{case}: {start:?}\n{found:#?}");
        }
        // Older segments are not read at a start.
        Ok(_) if found.is_damaged() => {}
        Ok((_, _, start)) => {
            let said = (found.end, torn);
            assert_eq!(said, (start.end, start.torn_bytes), "{case}: {found:#?}");
        }
    }
    found
}

#[test]
fn a_power_cut_at_any_step_is_never_reported_as_damage() {
    for stop in 0.. {
        let storage = FaultyStorage::new();
        storage.fail_at(stop, Fault::Stop);
        let stopped = live(&storage).is_none();
        for seed in 0..12 {
            let left = storage.after_power_cut(seed);
            if directory(&left).is_err_and(|error| matches!(error, CheckError::NoNode)) {
                assert!(stop < 20, "a node was here at step {stop}");
                continue;
            }
            let case = format!("step {stop}, seed {seed}");
            let found = compare(&left, &case);
            assert!(!found.is_damaged(), "{case}: {found:#?}");
        }
        if !stopped {
            assert!(stop > 50, "only {stop} steps");
            break;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_start_finds_no_damage_that_a_check_did_not_report(
        mark in 0..=16_u64,
        harm in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..6_u8, any::<u8>()),
            0..4,
        ),
    ) {
        let (storage, _) = some_node();
        set_mark(&storage, mark);
        for (which, at, how, byte) in &harm {
            let segments = segments(&storage);
            let Some((path, bytes)) = segments.iter().nth(which.index(segments.len().max(1))) else {
                break;
            };
            let at = at.index(bytes.len() + 1);
            match how {
                0 => storage.remove(path).unwrap(),
                1 => change(&storage, path, |bytes| bytes.truncate(at)),
                2 => change(&storage, path, |bytes| bytes[at..].fill(0)),
                3 => change(&storage, path, |bytes| bytes.insert(at, *byte)),
                4 => change(&storage, path, |bytes| bytes.resize(bytes.len() + at, *byte)),
                _ => change(&storage, path, |bytes| {
                    if let Some(changed) = bytes.get_mut(at) {
                        *changed ^= byte | 1;
                    }
                }),
            }
        }
        let files: BTreeMap<String, Vec<u8>> = dump(&storage);
        let found = directory(&storage).unwrap();
        prop_assert_eq!(dump(&storage), files);
        prop_assert!(found.records <= 16 && found.end <= Offset(16));
        compare(&storage, &format!("{harm:?}"));
    }
}

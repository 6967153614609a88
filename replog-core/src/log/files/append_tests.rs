//! Appends of several records in a log: their visibility through failures in the middle of one.

use proptest::prelude::*;

use super::*;
use crate::{
    limits::BATCH_BYTES_MAX,
    log::{
        files::LastAppend,
        testing::{
            Fault, FaultyStorage, content, dump, open_log, open_log_scanning, segments,
            set_content, storage_of,
        },
    },
    record::{HEADER_BYTES, testing::appends},
    storage::MemoryStorage,
};

/// Returns the ends of appends, by a naive look at the flags.
fn ends(go_on: &[u64], end: u64) -> Vec<u64> {
    let closed = (0..end).filter(|offset| !go_on.contains(offset));
    std::iter::once(0)
        .chain(closed.map(|offset| offset + 1))
        .collect()
}

fn last_end(go_on: &[u64], until: u64) -> Offset {
    Offset(*ends(go_on, until).last().unwrap())
}

/// Bytes of every record; all are equally long.
const RECORD_BYTES: u64 = HEADER_BYTES as u64 + 1;

#[test]
fn an_append_is_shown_once_all_of_it_is_durable() {
    let (mut files, view, _) = open_log(&MemoryStorage::new()).unwrap();
    let all = appends(0..6, 1, &[1, 2, 4]);
    let part = |from, until| [all.slice(Offset(from), Offset(until)).unwrap()];
    let mut watch = view.visible_end_watch();
    let shown = [(0, 1, 1), (1, 2, 1), (2, 3, 1), (3, 5, 4), (5, 6, 6)];
    for (from, until, end) in shown {
        let before = view.visible_end();
        files.append(&part(from, until)).unwrap();
        assert_eq!(view.visible_end(), before, "it is not durable yet");
        files.sync().unwrap();
        assert_eq!(view.visible_end(), Offset(end), "{from}..{until}");
        assert_eq!(*watch.borrow_and_update(), Offset(end));
        assert_eq!(
            view.durable_end(),
            Offset(until),
            "links and acks know more"
        );
        view.check();
    }
}

#[test]
fn a_log_that_ends_inside_an_append_knows_where_the_append_begins() {
    // So many that the append fills segments from their beginning to their end.
    let go_on: Vec<u64> = (3..60).collect();
    let storage = MemoryStorage::new();
    let (mut files, view, _) = open_log(&storage).unwrap();
    files.append(&[appends(0..60, 1, &go_on)]).unwrap();
    files.sync().unwrap();
    assert!(view.segments() > 3);
    for (mut files, view) in [(files, view), {
        let (files, view, _) = open_log(&storage).unwrap();
        (files, view)
    }] {
        assert_eq!(
            (view.written_end(), view.visible_end()),
            (Offset(60), Offset(3))
        );
        assert_eq!(files.last_append().unwrap(), LastAppend::Ends(Offset(3)));
    }
    let (mut files, view, _) = open_log(&storage).unwrap();
    files.truncate(Offset(3)).unwrap();
    assert_eq!(
        (view.written_end(), view.visible_end()),
        (Offset(3), Offset(3))
    );
    assert_eq!(files.last_append().unwrap(), LastAppend::Ends(Offset(3)));
    let (_, view, _) = open_log(&storage).unwrap();
    assert_eq!(view.visible_end(), Offset(3));
}

#[test]
fn the_beginning_of_an_append_is_not_guessed_when_it_is_unreadable() {
    let go_on: Vec<u64> = (3..60).collect();
    let storage = MemoryStorage::new();
    let (mut files, ..) = open_log(&storage).unwrap();
    files.append(&[appends(0..60, 1, &go_on)]).unwrap();
    files.close().unwrap();
    // In the first segment, which no start reads.
    let (path, _) = segments(&storage).pop_first().unwrap();
    let mut bytes = content(&storage, &path);
    let at = bytes.len() - 5;
    bytes[at] ^= 1;
    set_content(&storage, &path, &bytes);
    let (mut files, view, _) = open_log(&storage).unwrap();
    let damaged = match files.last_append().unwrap() {
        LastAppend::Damaged(offset) => offset,
        other => panic!("{other:?}"),
    };
    assert_eq!(view.visible_end(), Offset(3));
    // Once the damage is known, it is mended, and then the end that was unknown is known.
    files.inspect(damaged, HeldBack::Yes).unwrap();
    let all = appends(0..60, 1, &go_on);
    files
        .append(&[all.slice(damaged, Offset(60)).unwrap()])
        .unwrap();
    assert_eq!(files.last_append().unwrap(), LastAppend::Ends(Offset(3)));
    files.append(&[appends(60..61, 1, &[])]).unwrap();
    files.sync().unwrap();
    assert_eq!(view.visible_end(), Offset(61));
}

#[test]
fn no_part_of_an_append_with_damage_is_shown() {
    let go_on = [1, 2, 3, 4, 6, 7];
    for rotten in 0..10_u64 {
        let storage = MemoryStorage::new();
        let (mut files, ..) = open_log(&storage).unwrap();
        files.append(&[appends(0..10, 1, &go_on)]).unwrap();
        files.close().unwrap();
        let (path, bytes) = segments(&storage).pop_first().unwrap();
        let mut bytes = bytes.clone();
        let at = bytes.len() - ((10 - rotten) * RECORD_BYTES) as usize + 30;
        bytes[at] ^= 1;
        set_content(&storage, &path, &bytes);
        let (mut files, view, _) = open_log_scanning(&storage, OpenScan::AllSegments).unwrap();
        assert_eq!(view.durable_end(), Offset(rotten));
        assert_eq!(view.visible_end(), last_end(&go_on, rotten), "{rotten}");
        let all = appends(0..10, 1, &go_on);
        files
            .append(&[all.slice(Offset(rotten), Offset(10)).unwrap()])
            .unwrap();
        files.sync().unwrap();
        assert_eq!(view.visible_end(), Offset(10), "{rotten}: mended");
        view.check();
    }
}

/// Rules 2 and 10: no matter what fails or crashes in the middle of an append, no part of it is
/// shown.
#[test]
fn no_part_of_an_append_is_shown_after_any_failure_while_it_is_written() {
    let go_on: Vec<u64> = (0..30).filter(|offset| offset % 15 != 14).collect();
    let all = appends(0..30, 1, &go_on);
    let shown = |view: &LogView| {
        let end = view.visible_end();
        assert!(
            ends(&go_on, 30).contains(&end.0),
            "{end} is inside an append"
        );
        end
    };
    let full = io::ErrorKind::StorageFull;
    for fault in [Fault::Error(full), Fault::Short(40, full)] {
        for step in 0.. {
            let storage = FaultyStorage::new();
            let (mut files, view, _) = open_log(&storage).unwrap();
            storage.fail_at(step, fault);
            let failed = files
                .append(std::slice::from_ref(&all))
                .and_then(|()| files.sync());
            shown(&view);
            for seed in 0..4 {
                let after = storage.after_power_cut(seed);
                let (mut files, again, _) = open_log(&after).unwrap();
                let end = shown(&again);
                assert!(end >= view.visible_end(), "step {step}: it was durable");
                assert_eq!(files.last_append().unwrap(), LastAppend::Ends(end));
            }
            match failed {
                Ok(()) => {
                    assert!(step > 5, "only {step} steps");
                    break;
                }
                Err(LogError::Write(_)) => {
                    files.mend().unwrap();
                    let end = shown(&view);
                    assert_eq!(files.last_append().unwrap(), LastAppend::Ends(end));
                    files.truncate(end).unwrap();
                    let (_, view, _) = open_log(&storage).unwrap();
                    assert_eq!(shown(&view), view.written_end(), "step {step}");
                }
                Err(LogError::Final(_)) => {}
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Sync,
    Cut(u64),
    Open,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..9_usize).prop_map(Step::Append),
        3 => Just(Step::Sync),
        1 => (0..12_u64).prop_map(Step::Cut),
        1 => Just(Step::Open),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Rule 2, for appends too, against a naive look at the flags.
    #[test]
    fn the_visible_end_is_the_end_of_an_append(
        flags in prop::collection::vec(prop::bool::weighted(0.8), 120),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let go_on: Vec<u64> = (0..120).filter(|at| flags[*at as usize]).collect();
        let all = appends(0..120, 1, &go_on);
        prop_assert!(all.bytes().len() < BATCH_BYTES_MAX);
        let storage = MemoryStorage::new();
        let (mut files, mut view, _) = open_log(&storage).unwrap();
        let mut shown = Offset::ZERO;
        for step in steps {
            let end = files.end();
            match step {
                Step::Append(count) => {
                    let until = end.plus(count as u64);
                    if let Some(records) = all.slice(end, until) {
                        files.append(&[records]).unwrap();
                    }
                }
                Step::Sync => files.sync().unwrap(),
                Step::Cut(back) => {
                    files.sync().unwrap();
                    files.truncate(Offset(end.0.saturating_sub(back))).unwrap();
                }
                Step::Open => {
                    files.sync().unwrap();
                    drop(files);
                    (files, view, _) = open_log(&storage_of(&dump(&storage))).unwrap();
                    (files, view, _) = {
                        drop((files, view));
                        open_log(&storage).unwrap()
                    };
                }
            }
            view.check();
            let durable = view.durable_end();
            let expected = last_end(&go_on, durable.0);
            // Records that are written and not durable may hide ones that are: a group is synced as
            // a whole.
            if files.is_synced() {
                prop_assert_eq!(view.visible_end(), expected);
                prop_assert_eq!(
                    files.last_append().unwrap(),
                    LastAppend::Ends(last_end(&go_on, files.end().0))
                );
            } else {
                prop_assert!(ends(&go_on, durable.0).contains(&view.visible_end().0));
                prop_assert!(view.visible_end() >= shown);
            }
            shown = view.visible_end();
        }
    }
}

//! The whole life of a log, compared with a plain list: repeated power cuts between appends, cuts
//! and clean stops, and rot at the end. Keeps rules 2 and 10.

use super::*;

/// Steps until the storage stops at some moment, then a power cut.
#[derive(Clone, Debug)]
struct Life {
    steps: Vec<Step>,
    stop: prop::sample::Index,
    seed: u64,
}

fn any_life() -> impl Strategy<Value = Life> {
    (
        prop::collection::vec(any_step(), 1..12),
        any::<prop::sample::Index>(),
        any::<u64>(),
    )
        .prop_map(|(steps, stop, seed)| Life { steps, stop, seed })
}

/// Lives once, from the state that the life before left; returns the state that the next one finds.
fn live(storage: FaultyStorage, mut pair: Pair<FaultyStorage>, life: &Life) -> Pair<FaultyStorage> {
    // About as many steps of the storage as the life has; a stop beyond them never comes.
    storage.fail_at(life.stop.index(life.steps.len() * 8), Fault::Stop);
    for step in &life.steps {
        if pair.step(step).is_err() {
            break;
        }
    }
    pair.log = None;
    let left = storage.after_power_cut(life.seed);
    let (mut files, view, report) = open_log(&left).unwrap();
    view.check();
    let end = report.end.0;
    assert!(end >= pair.durable, "{end} of {}", pair.durable);
    let found = read_all(&view, 700);
    assert!(pair.records.bytes().starts_with(&found));
    files.close().unwrap();
    Pair {
        preallocate_bytes: pair.preallocate_bytes,
        storage: left,
        log: None,
        // An epoch ends when its master loses power: its offsets may be given out again in the
        // next.
        records: pair.records.truncated(end),
        epoch: pair.epoch + 1,
        durable: end,
    }
}

/// Returns those segments in `known` that hold a record. A cut may leave a last one with nothing
/// but its header, which nobody misses.
fn with_records(
    storage: &dyn Storage,
    known: &BTreeMap<String, Vec<u8>>,
) -> BTreeMap<String, Vec<u8>> {
    let mut found = segments(storage);
    found.retain(|path, _| {
        let bytes = &known[path];
        let header = SegmentHeader::decode(bytes);
        header.map_or(true, |header| header.encoded_bytes() < bytes.len() as u64)
    });
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn many_power_cuts_lose_nothing_that_was_durable_before_any_of_them(
        lives in prop::collection::vec(any_life(), 1..6),
        ahead in 0..900_u64,
    ) {
        let mut pair = Pair::new(FaultyStorage::new(), ahead);
        for life in &lives {
            pair = live(pair.storage.clone(), pair, life);
        }
        let (_, view, _) = open_log(&pair.storage).unwrap();
        prop_assert_eq!(read_all(&view, 300), pair.records.bytes());
    }

    #[test]
    fn rot_anywhere_below_the_mark_is_never_shown_nor_cut_away(
        steps in prop::collection::vec(any_step(), 1..25),
        at in any::<prop::sample::Index>(),
        change in 1..=255_u8,
    ) {
        let mut pair = Pair::new(MemoryStorage::new(), 0);
        for step in &steps {
            pair.step(step).unwrap();
        }
        let Some((mut files, _)) = pair.log.take() else { return Ok(()) };
        files.close().unwrap();
        let all = with_records(&pair.storage, &segments(&pair.storage));
        let total: usize = all.values().map(Vec::len).sum();
        if total == 0 {
            return Ok(());
        }
        let mut at = at.index(total);
        for (path, bytes) in &all {
            if at < bytes.len() {
                let mut bytes = bytes.clone();
                bytes[at] ^= change;
                set_content(&pair.storage, path, &bytes);
                break;
            }
            at -= bytes.len();
        }
        let rotten = with_records(&pair.storage, &all);
        let (mut files, view, report) = open_log(&pair.storage).unwrap();
        for offset in 0..view.written_end().0 {
            if let Ok(batches) = view.read(Offset(offset), Offset(offset + 1), 1) {
                let bytes: Vec<u8> = batches.iter().flat_map(|batch| batch.bytes().to_vec()).collect();
                prop_assert_eq!(bytes, pair.records.bytes_of(offset, offset + 1));
            }
        }
        let after = with_records(&pair.storage, &all);
        for (path, bytes) in &rotten {
            // As it was; or with a rebuilt header; or cut because nothing readable follows.
            let now = after.get(path);
            let ends = report.damaged == Some(view.written_end());
            let is_cut = now.is_none_or(|now| bytes.starts_with(now)) && ends;
            prop_assert!(now == Some(bytes) || now == all.get(path) || is_cut);
        }
        // An older segment is checked when it is read.
        for offset in 0..view.written_end().0 {
            if view.read(Offset(offset), Offset(offset + 1), 1).is_err() {
                files.inspect(Offset(offset), HeldBack::Yes).unwrap();
                // A header is rebuilt at once; the rest is known to be unreadable.
                let is_readable = view.read(Offset(offset), Offset(offset + 1), 1).is_ok();
                prop_assert!(is_readable || files.whole_end() <= Offset(offset));
            }
        }
        let (from, end) = (files.whole_end(), Offset(pair.records.end()));
        if let Some(lacking) = pair.records.batch().slice(from, end) {
            files.append(&[lacking]).unwrap();
            files.sync().unwrap();
        }
        prop_assert_eq!(view.durable_end(), end);
        prop_assert_eq!(with_records(&pair.storage, &all), all);
    }
}

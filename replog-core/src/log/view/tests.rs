//! Reads from tail and files, damage, and cuts in the middle of a read.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use proptest::prelude::*;

use super::*;
use crate::frame::testing::appends;
use crate::{
    log::{
        LogFiles,
        testing::{CLUSTER, FaultyStorage, HookTime, Records, open_log, options},
    },
    storage::MemoryStorage,
    types::SyncPolicy,
};

fn log_of(
    storage: &(impl Storage + Clone),
    options: LogOptions,
    batches: &[FrameBatch],
) -> (LogFiles, Arc<LogView>) {
    let storage = Arc::new(storage.clone());
    let (mut files, view, _) =
        crate::log::testing::open_with(storage, options, Some(CLUSTER)).unwrap();
    files.append(batches).unwrap();
    files.sync().unwrap();
    (files, view)
}

fn ends(batches: &[FrameBatch]) -> Vec<(u64, u64)> {
    batches
        .iter()
        .map(|batch| (batch.first().0, batch.end().0))
        .collect()
}

#[test]
fn the_tail_holds_the_newest_batches_within_its_bytes() {
    // 56 bytes each.
    let records = Records::new(0, [(1, 9); 20]);
    let options = LogOptions {
        tail_bytes: 340,
        ..options()
    };
    let (_, view) = log_of(&MemoryStorage::new(), options, &records.batches(&[2]));
    view.check();
    assert_eq!(view.tail_first(), Offset(14));
    let read = |from, until, bytes_max| {
        view.read_tail(Offset(from), Offset(until), bytes_max)
            .map(|batches| ends(&batches))
    };
    let table = [
        ((13, 20, 1000), None),
        ((14, 20, 1000), Some(vec![(14, 16), (16, 18), (18, 20)])),
        ((14, 99, 1000), Some(vec![(14, 16), (16, 18), (18, 20)])),
        ((15, 19, 1000), Some(vec![(15, 16), (16, 18), (18, 19)])),
        ((14, 20, 0), Some(vec![(14, 15)])),
        ((14, 20, 55), Some(vec![(14, 15)])),
        ((14, 20, 112), Some(vec![(14, 16)])),
        ((14, 20, 113), Some(vec![(14, 16)])),
        ((14, 20, 168), Some(vec![(14, 16), (16, 17)])),
        ((15, 20, 168), Some(vec![(15, 16), (16, 18)])),
        ((20, 99, 1000), Some(vec![])),
        ((5, 5, 1000), Some(vec![])),
        ((9, 3, 1000), Some(vec![])),
        ((21, 99, 1000), None),
    ];
    for ((from, until, bytes_max), expected) in table {
        assert_eq!(
            read(from, until, bytes_max),
            expected,
            "{from}..{until}, {bytes_max} bytes"
        );
    }
    let too_far = view.read(Offset(21), Offset(99), 1000);
    assert!(
        matches!(too_far, Err(ReadError::Cut { offset: Offset(20) })),
        "{too_far:?}"
    );
}

#[test]
fn the_newest_batch_stays_in_the_tail_however_long_it_is() {
    let records = Records::new(0, [(1, 5000), (1, 6000)]);
    let options = LogOptions {
        tail_bytes: 0,
        ..options()
    };
    let (_, view) = log_of(&MemoryStorage::new(), options, &records.batches(&[1]));
    view.check();
    assert_eq!(view.tail_first(), Offset(1));
}

/// Rule 11: those who read it a little at a time do not read all of it each time.
#[test]
fn a_long_frame_is_read_from_the_files_once() {
    let storage = FaultyStorage::new();
    let options = LogOptions {
        tail_bytes: 0,
        ..options()
    };
    let long = appends(1, 1, &[BATCH_BYTES_MAX / 5]);
    let end = long.end();
    let all = [appends(0, 1, &[1]), long, appends(end.0, 1, &[1])];
    let (_, view) = log_of(&storage, options, &all);
    let read = |offset: u64| {
        let before = storage.reads();
        let read = view.read(Offset(offset), Offset(offset + 1), 1).unwrap();
        assert_eq!((read[0].first(), read[0].end()), (Offset(1), end));
        storage.reads() - before
    };
    assert!(read(5) > 1);
    let again = read(90_000);
    assert!(
        again <= 1,
        "{again} reads: more than the header of the frame"
    );
    view.check();
}

#[test]
fn readers_keep_few_segments_open_and_scan_little() {
    let storage = FaultyStorage::new();
    let records = Records::new(0, (0..30).map(|_| (1, 50_000)));
    let options = LogOptions {
        segment_bytes: 100_000,
        tail_bytes: 0,
        ..options()
    };
    let (_, view) = log_of(&storage, options, &records.batches(&[1]));
    assert_eq!(view.segments(), 30);
    for _ in 0..2 {
        for offset in 0..30 {
            let read = view
                .read(Offset(offset), Offset(offset + 1), 1 << 20)
                .unwrap();
            assert_eq!(read[0].bytes()[..], records.encoded[offset as usize].1[..]);
            view.check();
        }
    }
    assert_eq!(view.state().opened.len(), SEGMENTS_OPEN_MAX);
    // Small steps through one large segment: each begins near the end of the last one.
    let records = Records::new(0, (0..20_000).map(|_| (1, 100)));
    let options = LogOptions {
        segment_bytes: 1 << 30,
        tail_bytes: 0,
        ..options_always()
    };
    let storage = FaultyStorage::new();
    drop(log_of(&storage, options.clone(), &records.batches(&[100])));
    let storage = Arc::new(storage);
    let (_, view, _) = crate::log::testing::open_with(storage, options, Some(CLUSTER)).unwrap();
    let entries = view
        .state()
        .active
        .as_ref()
        .unwrap()
        .index()
        .floor(Offset(19_999))
        .0;
    assert!(entries > Offset(19_000), "the index ends at {entries}");
}

fn options_always() -> LogOptions {
    LogOptions {
        sync: SyncPolicy::Always,
        ..options()
    }
}

#[test]
fn records_before_damage_are_read_and_the_damage_is_named() {
    let storage = MemoryStorage::new();
    let records = Records::new(0, [(1, 50); 30]);
    let options = LogOptions {
        tail_bytes: 0,
        ..options()
    };
    let (_, view) = log_of(&storage, options, &records.batches(&[1]));
    // The third record of the first segment.
    let path = segment::path(Offset(0));
    let position = (segment::HEADER_BYTES_MIN + 2 * records.encoded[0].1.len()) as u64;
    let file = storage.open(&path, OpenHow::Existing).unwrap();
    file.write_at(position + 40, b"!").unwrap();
    let read = view.read(Offset(0), Offset(30), 10_000).unwrap();
    assert_eq!(ends(&read), [(0, 2)]);
    match view.read(Offset(2), Offset(30), 10_000) {
        Err(ReadError::Damaged {
            path: found,
            position: at,
            offset,
            source,
        }) => {
            assert_eq!((found, at, offset), (path, position, Offset(2)));
            assert!(matches!(source, FrameError::Checksum { .. }), "{source}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        ends(&view.read(Offset(3), Offset(4), 10_000).unwrap()),
        [(3, 4)]
    );
    // Segments whose beginning or name is wrong, and one that is too short.
    let damaged = |offset| match view.read(Offset(offset), Offset(30), 1000) {
        Err(ReadError::Damaged {
            position,
            offset,
            source,
            ..
        }) => (position, offset.0, source),
        other => panic!("{other:?}"),
    };
    let firsts = view.segment_firsts();
    let open_nth = |nth: usize| storage.open(&segment::path(firsts[nth]), OpenHow::Existing);
    view.state().opened.clear();
    open_nth(1).unwrap().write_at(20, b"!").unwrap();
    assert_eq!(damaged(firsts[1].0).0, 0);
    assert!(matches!(
        damaged(firsts[1].0).2,
        FrameError::Checksum { .. }
    ));
    let third = open_nth(2).unwrap();
    third.truncate(third.size().unwrap() - 1).unwrap();
    let last = firsts[3].0 - 1;
    assert_eq!(damaged(last).1, last);
    assert!(matches!(damaged(last).2, FrameError::Incomplete { .. }));
    storage.remove(&segment::path(firsts[4])).unwrap();
    let gone = view.read(firsts[4], Offset(30), 1000);
    assert!(matches!(gone, Err(ReadError::Io { .. })), "{gone:?}");
}

#[test]
fn a_cut_at_any_moment_of_a_read_gives_no_mixture() {
    let old = Records::new(0, (0..30).map(|n| (1 + n / 10, 50)));
    for time in [HookTime::BeforeRead, HookTime::AfterRead] {
        for to in [0, 5, 12, 20] {
            for from in [0, 4, 6, 13, 20, 29] {
                let mut new = old.truncated(to);
                (0..15).for_each(|_| new.push(9, 50));
                for reads in 0.. {
                    if !cut_during_a_read(&old, &new, (time, reads), to, from) {
                        break;
                    }
                }
            }
        }
    }
}

/// Returns `true` if there were enough reads for the cut to happen.
fn cut_during_a_read(
    old: &Records,
    new: &Records,
    (time, reads): (HookTime, usize),
    to: u64,
    from: u64,
) -> bool {
    let storage = FaultyStorage::new();
    let options = LogOptions {
        tail_bytes: 0,
        ..options()
    };
    let (files, view) = log_of(&storage, options, &old.batches(&[1]));
    let files = Arc::new(Mutex::new(files));
    let branch = Records {
        first: to,
        encoded: new.encoded[to as usize..].to_vec(),
    };
    let writer = files.clone();
    // Runs inside the read: if a lock were held across I/O, this would deadlock.
    storage.hook_read(reads, time, move || {
        let mut files = writer.lock().unwrap();
        files.truncate(Offset(to)).unwrap();
        files.append(&branch.batches(&[2])).unwrap();
        files.sync().unwrap();
    });
    let read = view.read(Offset(from), Offset(30), 200);
    let was_cut = !storage.is_hooked();
    let now = if was_cut { new } else { old };
    match read {
        Ok(batches) => {
            for batch in batches {
                let there = &now.bytes_of(batch.first().0, batch.end().0);
                assert!(
                    batch.bytes() == there,
                    "{batch:?}, {time:?} {reads}, cut to {to}"
                );
            }
        }
        Err(ReadError::Cut { .. }) => assert!(was_cut && from > new.end()),
        Err(error) => panic!("{error}, {time:?} {reads}, cut to {to}, read from {from}"),
    }
    let pairs = view.epoch_starts_before(Offset(to + 1), 10).unwrap();
    assert_eq!(pairs, now.epoch_starts(to + 1));
    view.check();
    was_cut
}

#[test]
fn readers_never_see_two_branches_as_one_while_a_writer_cuts() {
    const EPOCHS: usize = 150;
    let storage = MemoryStorage::new();
    let options = LogOptions {
        tail_bytes: 200,
        ..options()
    };
    let (mut files, view) = log_of(&storage, options, &[Records::new(0, [(0, 40); 30]).batch()]);
    // Beginning of each epoch.
    let starts: Vec<AtomicU64> = (0..EPOCHS).map(|_| AtomicU64::new(0)).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..2_u64 {
            let (view, starts, done) = (&view, &starts, &done);
            scope.spawn(move || {
                let mut from = reader;
                while !done.load(Ordering::Relaxed) {
                    from = (from * 7 + 3) % 60;
                    let batches = match view.read(Offset(from), Offset(1000), 600) {
                        Ok(batches) => batches,
                        Err(ReadError::Cut { .. }) => continue,
                        Err(error) => panic!("{error}"),
                    };
                    let mut before: Option<Epoch> = None;
                    for frame in batches.iter().flat_map(FrameBatch::frames) {
                        if before.is_some_and(|before| before != frame.epoch) {
                            let start = &starts[frame.epoch.0 as usize];
                            assert_eq!(start.load(Ordering::Relaxed), frame.first.0);
                        }
                        before = Some(frame.epoch);
                    }
                }
            });
        }
        for (epoch, start) in starts.iter().enumerate().skip(1) {
            let to = (epoch as u64 * 13) % 30;
            files.truncate(Offset(to)).unwrap();
            let first = files.end().0;
            start.store(first, Ordering::Relaxed);
            let records = Records::new(first, [(epoch as u64, 40); 30]);
            files.append(&records.batches(&[4])).unwrap();
            files.sync().unwrap();
            view.check();
        }
        done.store(true, Ordering::Relaxed);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_read_gives_the_records_it_asks_for(
        lengths in prop::collection::vec(0..120_usize, 1..60),
        batches in prop::collection::vec(1..8_usize, 1..4),
        tail_bytes in 0..2000_usize,
        from in 0..70_u64, until in 0..70_u64, bytes_max in 0..1000_usize,
    ) {
        let records = Records::new(0, lengths.iter().map(|length| (1, *length)));
        let options = LogOptions { tail_bytes, ..options() };
        let storage = MemoryStorage::new();
        let (_, view) = log_of(&storage, options, &records.batches(&batches));
        let (_, reopened, _) = open_log(&storage).unwrap();
        let end = records.end();
        for view in [view, reopened] {
            view.check();
            let read = view.read(Offset(from), Offset(until), bytes_max);
            if from > end && from < until {
                prop_assert!(read.is_err());
                continue;
            }
            let read = read.unwrap();
            if from >= until.min(end) {
                prop_assert!(read.is_empty());
                continue;
            }
            let got = read.last().unwrap().end().0;
            prop_assert!(got <= until);
            let bytes: Vec<u8> = read.iter().flat_map(|batch| batch.bytes().to_vec()).collect();
            prop_assert_eq!(&bytes, &records.bytes_of(from, got));
            prop_assert!(bytes.len() <= bytes_max || got == from + 1);
        }
    }
}

#[test]
fn bytes_from_an_offset_are_exact_in_the_tail_and_at_segments_and_estimated_elsewhere() {
    // 56 bytes each, and one that is longer.
    let mut sizes = [(1, 9); 40];
    sizes[1].1 = 109;
    let records = Records::new(0, sizes);
    let options = LogOptions {
        tail_bytes: 340,
        segment_bytes: 700,
        ..options()
    };
    let (_, view) = log_of(&MemoryStorage::new(), options, &records.batches(&[2]));
    assert!(view.segments() > 2);
    let tail_first = view.tail_first();
    for from in tail_first.0..=40 {
        assert_eq!(view.bytes_from(Offset(from)), 56 * (40 - from));
    }
    assert_eq!(view.bytes_from(Offset(99)), 0);
    assert_eq!(view.bytes_from(Offset(0)), view.bytes());
    let all: Vec<u64> = (0..tail_first.0)
        .map(|from| view.bytes_from(Offset(from)))
        .collect();
    assert!(all.is_sorted_by(|a, b| a >= b), "{all:?}");
    assert!(all.iter().all(|bytes| *bytes > 0), "{all:?}");
}

//! Appends of several messages in a log: each is there as a whole or not at all, through failures in the middle of one.

use proptest::prelude::*;

use super::*;
use crate::{
    error::ReadError,
    frame::{
        self, KIND_MESSAGES, VERSION,
        testing::{self, appends},
    },
    log::testing::{
        Fault, FaultyStorage, dump, open_log, open_log_scanning, segments, set_content, storage_of,
    },
    storage::MemoryStorage,
};

/// Returns the ends of appends of these sizes.
fn ends(counts: &[usize]) -> Vec<u64> {
    let ends = counts.iter().scan(0, |end, count| {
        *end += *count as u64;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

fn last_end(counts: &[usize], until: u64) -> Offset {
    let ends = ends(counts);
    Offset(*ends.iter().rfind(|end| **end <= until).unwrap())
}

#[test]
fn an_append_is_shown_once_all_of_it_is_durable() {
    let (mut files, view, _) = open_log(&MemoryStorage::new()).unwrap();
    let mut watch = view.durable_end_watch();
    let mut next = 0;
    for count in [1, 3, 2] {
        files.append(&[appends(next, 1, &[count])]).unwrap();
        assert_eq!(view.durable_end(), Offset(next), "it is not durable yet");
        files.sync().unwrap();
        next += count as u64;
        assert_eq!(view.durable_end(), Offset(next));
        assert_eq!(*watch.borrow_and_update(), Offset(next));
        view.check();
    }
}

#[test]
fn a_read_from_the_middle_of_an_append_begins_with_the_append() {
    let storage = MemoryStorage::new();
    let (mut files, written, _) = open_log(&storage).unwrap();
    let counts = [3, 1, 4, 9, 2, 40, 6];
    for (nth, first) in ends(&counts)[..counts.len()].iter().enumerate() {
        files
            .append(&[appends(*first, 1, &counts[nth..=nth])])
            .unwrap();
    }
    files.close().unwrap();
    let (_, opened, _) = open_log(&storage).unwrap();
    assert!(opened.segments() > 1);
    for view in [written, opened] {
        for from in 0..65 {
            for until in from + 1..66 {
                let read = view.read(Offset(from), Offset(until), 1).unwrap();
                assert_eq!(read.len(), 1);
                assert_eq!(read[0].first(), last_end(&counts, from), "{from}..{until}");
                assert_eq!(read[0].frames().count(), 1);
                let all = view.read(Offset(from), Offset(until), 1 << 20).unwrap();
                let before = all.last().unwrap().frames().last().unwrap().first;
                assert!(before < Offset(until), "more than was asked for");
            }
        }
    }
}

#[test]
fn a_cut_inside_an_append_cuts_all_of_it() {
    let counts = [3, 1, 4, 9, 2, 40, 6];
    let total = *ends(&counts).last().unwrap();
    for to in 0..=total {
        let storage = MemoryStorage::new();
        let (mut files, view, _) = open_log(&storage).unwrap();
        files.append(&[appends(0, 1, &counts)]).unwrap();
        files.sync().unwrap();
        let expected = last_end(&counts, to);
        let cut = files.truncate(Offset(to)).unwrap().cut();
        assert_eq!(cut.from, expected, "{to}");
        assert_eq!(cut.records, total - expected.0);
        assert_eq!(view.durable_end(), expected);
        view.check();
        let (mut files, view, _) = open_log(&storage).unwrap();
        assert_eq!(view.durable_end(), expected);
        files.append(&[appends(expected.0, 2, &[5])]).unwrap();
        files.sync().unwrap();
        assert_eq!(view.durable_end(), expected.plus(5));
    }
}

#[test]
fn damage_anywhere_in_an_append_hides_all_of_it_until_it_is_mended() {
    let counts = [1, 4, 3, 2];
    let all = appends(0, 1, &counts);
    let ends = ends(&counts);
    for damaged in 0..all.bytes().len() {
        let storage = MemoryStorage::new();
        let (mut files, ..) = open_log(&storage).unwrap();
        files.append(std::slice::from_ref(&all)).unwrap();
        files.close().unwrap();
        let (path, bytes) = segments(&storage).pop_first().unwrap();
        let mut bytes = bytes.clone();
        let begin = bytes.len() - all.bytes().len();
        bytes[begin + damaged] ^= 1;
        set_content(&storage, &path, &bytes);
        let (mut files, view, _) = open_log_scanning(&storage, OpenScan::AllSegments).unwrap();
        let position = all.frames().scan(0, |end, frame| {
            *end += frame.encoded_bytes();
            Some(*end)
        });
        let nth = position.take_while(|end| *end <= damaged).count();
        assert_eq!(view.durable_end(), Offset(ends[nth]), "byte {damaged}");
        let rest = all.slice(view.durable_end(), Offset(10)).unwrap();
        files.append(&[rest]).unwrap();
        files.sync().unwrap();
        assert_eq!(view.durable_end(), Offset(10), "byte {damaged}: mended");
        view.check();
    }
}

/// Rules 2 and 10: no matter what fails or crashes in the middle of an append, no part of it is
/// there.
#[test]
fn no_part_of_an_append_is_there_after_any_failure_while_it_is_written() {
    let counts = [15, 15, 40];
    let all = appends(0, 1, &counts);
    let shown = |view: &LogView| {
        let end = view.durable_end();
        assert!(ends(&counts).contains(&end.0), "{end} is inside an append");
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
                let (_, again, _) = open_log(&after).unwrap();
                let end = shown(&again);
                assert!(end >= view.durable_end(), "step {step}: it was durable");
                assert_eq!(again.written_end(), end);
            }
            match failed {
                Ok(()) => {
                    assert!(step > 5, "only {step} steps");
                    break;
                }
                Err(LogError::Write(_)) => {
                    files.mend().unwrap();
                    assert_eq!(shown(&view), view.written_end(), "step {step}");
                    let (_, view, _) = open_log(&storage).unwrap();
                    assert_eq!(shown(&view), view.written_end(), "step {step}");
                }
                Err(LogError::Final(_)) => {}
            }
        }
    }
}

/// An intact frame of a later program is neither damage nor a torn tail: nothing may be cut or mended because of it.
#[test]
fn a_frame_of_an_unknown_version_or_kind_is_refused_by_name_and_left_as_it_is() {
    let sentences = [
        (
            8,
            VERSION + 1,
            "the frame has format version 3, and this program knows version 2",
        ),
        (
            9,
            KIND_MESSAGES + 7,
            "the frame is of kind 7, and this program knows kind 0, messages",
        ),
    ];
    for (at, value, sentence) in sentences {
        for clean in [true, false] {
            let storage = MemoryStorage::new();
            let (mut files, ..) = open_log(&storage).unwrap();
            files.append(&[appends(0, 1, &[2, 3])]).unwrap();
            match clean {
                true => files.close().unwrap(),
                false => files.sync().unwrap(),
            }
            drop(files);
            let (path, bytes) = segments(&storage).pop_first().unwrap();
            let last = appends(2, 1, &[3]).bytes().len();
            let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            let mut other = bytes.clone();
            let unknown = &mut other[end - last..end];
            unknown[at] = value;
            let crc = frame::checksum(unknown);
            unknown[4..8].copy_from_slice(&crc.to_le_bytes());
            set_content(&storage, &path, &other);
            let before = dump(&storage);
            for look in [OpenScan::LastSegment, OpenScan::AllSegments] {
                let error = open_log_scanning(&storage, look).unwrap_err();
                assert_eq!(error.to_string(), format!("{path}: {sentence}"));
                assert!(matches!(error, OpenError::Format { .. }));
                assert_eq!(dump(&storage), before, "nothing is changed");
            }
        }
    }
}

#[test]
fn a_frame_of_an_unknown_kind_that_is_met_later_is_no_damage() {
    let storage = MemoryStorage::new();
    let (mut files, ..) = open_log(&storage).unwrap();
    files.append(&[appends(0, 1, &[60, 60, 60])]).unwrap();
    files.close().unwrap();
    let (path, mut bytes) = segments(&storage).pop_first().unwrap();
    let begin = bytes.len() - appends(0, 1, &[60]).bytes().len();
    bytes[begin + 9] = 7;
    let crc = frame::checksum(&bytes[begin..]);
    bytes[begin + 4..begin + 8].copy_from_slice(&crc.to_le_bytes());
    set_content(&storage, &path, &bytes);
    let (mut files, view, _) = open_log(&storage).unwrap();
    let error = view.read(Offset(0), Offset(1), 1).unwrap_err();
    assert!(matches!(error, ReadError::Io { .. }), "{error:?}");
    assert!(!view.is_hole(Offset(0)));
    files.inspect(Offset(0), HeldBack::Yes).unwrap_err();
}

/// A header proves nothing: what it says about its version counts only if the checksum is right.
#[test]
fn a_flipped_bit_in_a_version_or_kind_is_damage_wherever_a_read_begins() {
    for at in [8, 9, 36, 0] {
        let storage = MemoryStorage::new();
        let (mut files, ..) = open_log(&storage).unwrap();
        let counts = [5, 5, 5, 5, 40, 60, 60];
        files.append(&[appends(0, 1, &counts)]).unwrap();
        files.close().unwrap();
        let (path, mut bytes) = segments(&storage).pop_first().unwrap();
        let begin = segment::HEADER_BYTES_MIN + appends(0, 1, &[5]).bytes().len();
        bytes[begin + at] ^= 1;
        set_content(&storage, &path, &bytes);
        for from in [5, 7, 10, 16] {
            let storage = storage_of(&dump(&storage));
            let (mut files, view, _) = open_log(&storage).unwrap();
            let error = view.read(Offset(from), Offset(60), 1).unwrap_err();
            let found = match error {
                ReadError::Damaged { offset, .. } => offset,
                other => panic!("byte {at} from {from}: {other}"),
            };
            // A wrong length leads to the wrong place for the frame behind it, which is blamed first.
            let blamed = if (at, from) == (0, 10) { 10 } else { 5 };
            assert_eq!(found, Offset(blamed), "byte {at} from {from}");
            // Mended, everything behind it is found again, also by those who looked before.
            files.inspect(found, HeldBack::No).unwrap();
            let good = appends(0, 1, &counts).slice(Offset(5), Offset(10)).unwrap();
            files.append(&[good]).unwrap();
            for from in 0..60 {
                let read = view.read(Offset(from), Offset(60), 1).unwrap();
                assert_eq!(read[0].first(), last_end(&counts, from), "byte {at}");
            }
        }
    }
}

/// A client may append bytes that look like a frame. Where damage hides the frame around them, they are found instead,
/// and the log ends there as soon as the right records come.
#[test]
fn a_frame_within_a_message_that_is_taken_for_one_is_cut_when_the_right_records_come() {
    let mut inner = bytes::BytesMut::new();
    testing::fields(8, 1).encode(&[b"x"], &mut inner);
    let mut outer = bytes::BytesMut::new();
    testing::fields(7, 1).encode(&[b"one", &inner, b"two"], &mut outer);
    let outer = FrameBatch::check(Offset(7), outer.freeze()).unwrap();
    for last in [true, false] {
        let storage = MemoryStorage::new();
        let (mut files, ..) = open_log(&storage).unwrap();
        let before = appends(0, 1, &[7]);
        files.append(&[before.clone(), outer.clone()]).unwrap();
        if !last {
            files.append(&[appends(10, 1, &[2])]).unwrap();
        }
        files.close().unwrap();
        let (path, mut bytes) = segments(&storage).pop_first().unwrap();
        let begin = segment::HEADER_BYTES_MIN + before.bytes().len();
        bytes[begin..begin + 4].fill(0xff);
        set_content(&storage, &path, &bytes);
        let (mut files, view, _) = open_log_scanning(&storage, OpenScan::AllSegments).unwrap();
        assert_eq!(view.durable_end(), Offset(7));
        let rest = [outer.clone(), appends(10, 1, &[2, 3])];
        files.append(&rest).unwrap();
        files.sync().unwrap();
        assert_eq!(view.durable_end(), Offset(15), "last: {last}");
        for from in 0..15 {
            let read = view.read(Offset(from), Offset(15), 1).unwrap();
            assert_eq!(read[0].first(), last_end(&[7, 3, 2, 3], from));
        }
        view.check();
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
        6 => (1..4_usize).prop_map(Step::Append),
        3 => Just(Step::Sync),
        1 => (0..12_u64).prop_map(Step::Cut),
        1 => Just(Step::Open),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Rule 2, for appends too.
    #[test]
    fn every_end_lies_between_appends(
        counts in prop::collection::vec(1..9_usize, 60),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let all = appends(0, 1, &counts);
        let ends = ends(&counts);
        let storage = MemoryStorage::new();
        let (mut files, mut view, _) = open_log(&storage).unwrap();
        for step in steps {
            let end = files.end();
            match step {
                Step::Append(frames) => {
                    let nth = ends.iter().position(|at| *at == end.0).unwrap();
                    let until = Offset(ends[(nth + frames).min(counts.len())]);
                    if let Some(records) = all.slice(end, until) {
                        files.append(&[records]).unwrap();
                    }
                }
                Step::Sync => files.sync().unwrap(),
                Step::Cut(back) => {
                    files.sync().unwrap();
                    let to = end.0.saturating_sub(back);
                    let cut = files.truncate(Offset(to)).unwrap().cut();
                    prop_assert_eq!(cut.from, last_end(&counts, to));
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
            prop_assert!(ends.contains(&view.written_end().0));
            prop_assert!(ends.contains(&view.durable_end().0));
        }
    }
}

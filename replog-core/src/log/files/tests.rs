//! Opening, appending, syncing and truncating, with every kind of stop and failure in between.

mod lives;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{opening::at, *};
use crate::{
    log::testing::{
        CLUSTER, Fault, FaultyStorage, Records, content, dump, open_log, open_log_ahead,
        open_log_scanning, options, read_all, segments, set_content, storage_of,
    },
    storage::{FileStorage, MemoryStorage},
    types::EpochStart,
};

/// Returns enough records for several segments, of three epochs and of different lengths.
fn some_records(count: u64) -> Records {
    Records::new(
        0,
        (0..count).map(|n| (1 + n / 7, 10 + (n as usize * 37) % 60)),
    )
}

/// Returns a log with these records, all synced.
fn written(records: &Records) -> (MemoryStorage, LogFiles, Arc<LogView>) {
    let storage = MemoryStorage::new();
    let (mut files, view, _) = open_log(&storage).unwrap();
    files.append(&records.batches(&[3])).unwrap();
    files.sync().unwrap();
    view.check();
    (storage, files, view)
}

fn last_segment(storage: &dyn Storage) -> String {
    segments(storage).pop_last().unwrap().0
}

/// Sets the mark, as a power cut may have left it.
fn set_mark(storage: &dyn Storage, end: u64) {
    let mark = MarkFile::open(storage).unwrap();
    mark.write(Mark {
        end: Offset(end),
        state: MarkState::Open,
    })
    .unwrap();
}

/// Returns the damage that is reported before anything is changed: file, byte, offset.
pub(super) fn damaged_at(storage: &(impl Storage + Clone)) -> (String, u64, u64) {
    let mut found = None;
    let refuse = |condition: &LogCondition| {
        let damage = condition.damage.as_ref().expect("the log is damaged");
        found = Some((damage.path.clone(), damage.position, damage.offset.0));
        Err(OpenError::Locked)
    };
    let shared = Arc::new(storage.clone());
    let before = dump(storage);
    let opened = open(
        shared,
        options(),
        Some(CLUSTER),
        OpenScan::LastSegment,
        refuse,
    );
    assert!(matches!(opened, Err(OpenError::Locked)), "it opened");
    assert_eq!(dump(storage), before, "something was changed");
    found.expect("it was refused")
}

#[test]
fn a_blank_directory_opens_as_an_empty_log() {
    let storage = MemoryStorage::new();
    for cluster in [None, Some(CLUSTER)] {
        let (files, view, report) =
            crate::log::testing::open_with(Arc::new(storage.clone()), options(), cluster).unwrap();
        view.check();
        assert_eq!(files.end(), Offset::ZERO);
        assert_eq!(
            (view.written_end(), view.durable_end()),
            (Offset::ZERO, Offset::ZERO)
        );
        assert_eq!((view.segments(), view.bytes()), (0, 0));
        assert_eq!((report.end, report.torn_bytes), (Offset::ZERO, 0));
    }
}

#[test]
fn appended_records_are_there_after_reopening() {
    let records = some_records(40);
    let (storage, mut files, view) = written(&records);
    assert_eq!(
        (view.written_end(), view.durable_end()),
        (Offset(40), Offset(40))
    );
    assert!(view.segments() > 3, "{} segments", view.segments());
    assert_eq!(read_all(&view, 200), records.bytes());
    files.close().unwrap();
    let (_, view, report) = open_log(&storage).unwrap();
    view.check();
    let expected = OpenReport {
        end: Offset(40),
        torn_bytes: 0,
        damaged: None,
        clean: true,
        repairs: Repairs::default(),
    };
    assert_eq!(report, expected);
    assert_eq!(read_all(&view, 1000), records.bytes());
    // The mark does not say clean while the log is open.
    assert!(!open_log(&storage).unwrap().2.clean);
}

#[test]
fn a_log_on_files_is_the_same_as_one_in_memory() {
    let records = some_records(40);
    let (memory, mut files, _) = written(&records);
    files.close().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let storage = FileStorage::open(dir.path()).unwrap();
    let (mut files, view, _) = open_log(&storage).unwrap();
    files.append(&records.batches(&[5, 1])).unwrap();
    files.sync().unwrap();
    files
        .append(&Records::new(40, [(9, 10); 20]).batches(&[7]))
        .unwrap();
    let cut = Cut {
        from: Offset(40),
        records: 20,
    };
    let truncation = files.truncate(Offset(40)).unwrap();
    assert_eq!(truncation, Truncation::Cut(cut));
    assert_eq!(read_all(&view, 200), records.bytes());
    files.close().unwrap();
    assert_eq!(dump(&storage), dump(&memory));
    let (_, view, report) = open_log(&storage).unwrap();
    assert!(report.clean);
    assert_eq!(read_all(&view, 10_000), records.bytes());
}

#[test]
fn a_record_longer_than_a_segment_gets_one_of_its_own() {
    let records = Records::new(0, [(1, 10), (1, 5000), (1, 5000), (1, 10), (1, 10)]);
    let (storage, _, view) = written(&records);
    let firsts: Vec<String> = segments(&storage).into_keys().collect();
    let expected = [0, 1, 2, 3].map(|first| segment::path(Offset(first)));
    assert_eq!(firsts, expected);
    assert_eq!(read_all(&view, 100), records.bytes());
    assert_eq!(
        read_all(&open_log(&storage).unwrap().1, 100),
        records.bytes()
    );
}

#[test]
fn written_records_are_not_durable_yet_unless_the_policy_says_so() {
    for sync in [
        SyncPolicy::Never,
        SyncPolicy::Interval(std::time::Duration::from_secs(1)),
    ] {
        let options = LogOptions {
            sync,
            segment_bytes: 1 << 20,
            ..options()
        };
        let storage = Arc::new(MemoryStorage::new());
        let (mut files, view, _) =
            crate::log::testing::open_with(storage, options, Some(CLUSTER)).unwrap();
        files.append(&[some_records(5).batch()]).unwrap();
        assert_eq!(
            (view.written_end(), view.durable_end()),
            (Offset(5), Offset(5))
        );
        assert!(!files.is_synced());
    }
    let (mut files, view, _) = open_log(&MemoryStorage::new()).unwrap();
    let mut watch = view.durable_end_watch();
    files.append(&[some_records(5).batch()]).unwrap();
    assert_eq!(
        (view.written_end(), view.durable_end()),
        (Offset(5), Offset::ZERO)
    );
    assert!(!watch.has_changed().unwrap());
    files.sync().unwrap();
    assert_eq!(view.durable_end(), Offset(5));
    assert!(watch.has_changed().unwrap());
    assert_eq!(*watch.borrow_and_update(), Offset(5));
    files.truncate(Offset(2)).unwrap();
    assert_eq!(*watch.borrow_and_update(), Offset(2));
}

#[test]
fn a_torn_last_record_is_cut_wherever_it_is_torn() {
    let mut records = some_records(8);
    let (storage, _, _) = written(&records);
    let before = dump(&storage);
    let good = records.bytes();
    records.push(3, 25);
    let path = last_segment(&storage);
    let torn = records.encoded.last().unwrap().1.clone();
    for length in 1..torn.len() {
        for garbage in [0, 100] {
            let storage = storage_of(&before);
            let mut bytes = before[&path].clone();
            bytes.extend_from_slice(&torn[..length]);
            bytes.extend(std::iter::repeat_n(0xab, garbage));
            set_content(&storage, &path, &bytes);
            let (mut files, view, report) = open_log(&storage).unwrap();
            view.check();
            // Zeros at the end are not content.
            let zeros = torn[..length]
                .iter()
                .rev()
                .take_while(|byte| **byte == 0)
                .count();
            let torn_bytes = (length + garbage - if garbage == 0 { zeros } else { 0 }) as u64;
            assert_eq!((report.end, report.torn_bytes), (Offset(8), torn_bytes));
            assert_eq!(segments(&storage)[&path], before[&path]);
            files.append(&[Records::new(8, [(4, 5)]).batch()]).unwrap();
            files.sync().unwrap();
            let (_, view, report) = open_log(&storage).unwrap();
            assert_eq!((report.end, report.torn_bytes), (Offset(9), 0));
            assert!(read_all(&view, 10_000).starts_with(&good));
        }
    }
}

#[test]
fn a_zero_filled_tail_reads_as_the_end() {
    let records = some_records(8);
    let (storage, _, _) = written(&records);
    let path = last_segment(&storage);
    let before = content(&storage, &path);
    let more = Records::new(8, [(4, 100), (4, 100)]);
    for zeros in [1, 3, 4, 35, 36, 5000] {
        let mut bytes = before.clone();
        bytes.extend(std::iter::repeat_n(0, zeros));
        let storage = storage_of(&dump(&storage));
        set_content(&storage, &path, &bytes);
        let (mut files, view, report) = open_log(&storage).unwrap();
        assert_eq!(
            (report.end, report.torn_bytes),
            (Offset(8), 0),
            "{zeros} zeros"
        );
        assert_eq!(read_all(&view, 100), records.bytes());
        // Records overwrite them, and a clean stop removes the rest.
        let mut all = records.clone();
        all.encoded.extend(more.encoded.clone());
        files.append(&[more.batch()]).unwrap();
        files.sync().unwrap();
        assert_eq!(read_all(&open_log(&storage).unwrap().1, 100), all.bytes());
        files.close().unwrap();
        assert_eq!(segments(&storage), segments(&written(&all).0));
        assert_eq!(read_all(&view, 100), all.bytes());
    }
}

#[test]
fn preallocated_zeros_save_syncs_of_the_length() {
    let storage = FaultyStorage::new();
    let (mut files, view, _) = open_log_ahead(&storage, 240).unwrap();
    let records = Records::new(0, [(1, 10); 20]);
    let (mut lengths, mut sizes) = (0, BTreeSet::new());
    for batch in records.batches(&[1]) {
        lengths += batch.bytes().len();
        files.append(&[batch]).unwrap();
        files.sync().unwrap();
        let written: usize = segments(&storage).values().map(Vec::len).sum();
        assert!(written >= lengths);
        sizes.insert(written);
    }
    assert!(sizes.len() < 8, "{} lengths for 20 records", sizes.len());
    assert_eq!(read_all(&view, 1000), records.bytes());
    let (_, again, report) = open_log(&storage).unwrap();
    assert_eq!((report.end, report.torn_bytes), (Offset(20), 0));
    assert_eq!(read_all(&again, 1000), records.bytes());
    files.close().unwrap();
    assert_eq!(segments(&storage), segments(&written(&records).0));
}

#[test]
fn nothing_is_preallocated_for_a_long_group() {
    let storage = MemoryStorage::new();
    let (mut files, ..) = open_log_ahead(&storage, 240).unwrap();
    let records = Records::new(0, [(1, 60)]);
    files.append(&[records.batch()]).unwrap();
    files.sync().unwrap();
    assert_eq!(segments(&storage), segments(&written(&records).0));
}

/// Opens a log after each single change of a byte in its last segment, with the mark at `mark`.
fn with_each_byte_flipped(mark: u64, check: impl Fn(usize, &Records, &BTreeMap<String, Vec<u8>>)) {
    let records = Records::new(0, [(1, 60), (1, 60), (1, 60), (2, 60), (2, 20), (2, 30)]);
    let (storage, _, _) = written(&records);
    set_mark(&storage, mark);
    let files = dump(&storage);
    let path = last_segment(&storage);
    assert_eq!(path, segment::path(Offset(4)));
    for at in 0..files[&path].len() {
        for bit in [0x01, 0x80] {
            let mut files = files.clone();
            files.get_mut(&path).unwrap()[at] ^= bit;
            check(at, &records, &files);
        }
    }
}

#[test]
fn a_flipped_byte_above_the_mark_is_a_cut_and_nothing_before_it_is_lost() {
    let header_bytes = segment::HEADER_BYTES_MIN + 2 * 16;
    with_each_byte_flipped(4, |at, records, files| {
        let first_bytes = records.encoded[4].1.len();
        let end = if at < header_bytes + first_bytes {
            4
        } else {
            5
        };
        let storage = storage_of(files);
        let (mut log, view, report) = open_log(&storage).unwrap();
        view.check();
        assert_eq!(report.end, Offset(end), "byte {at}");
        assert!(report.torn_bytes > 0, "byte {at}");
        assert_eq!(read_all(&view, 1000), records.truncated(end).bytes());
        let mut records = records.truncated(end);
        let more = Records::new(end, [(5, 70), (5, 1)]);
        log.append(&[more.batch()]).unwrap();
        log.close().unwrap();
        records.encoded.extend(more.encoded);
        assert_eq!(
            segments(&storage),
            segments(&written(&records).0),
            "byte {at}"
        );
    });
}

#[test]
fn a_flipped_byte_below_the_mark_is_damage_except_in_a_header_which_is_rebuilt() {
    let header_bytes = (segment::HEADER_BYTES_MIN + 2 * 16) as u64;
    with_each_byte_flipped(6, |at, records, files| {
        let second = header_bytes + records.encoded[4].1.len() as u64;
        let storage = storage_of(files);
        let expected = match at as u64 {
            at if at < header_bytes => {
                let (_, view, report) = open_log(&storage).unwrap();
                assert_eq!((report.end, report.damaged), (Offset(6), None));
                assert_eq!((report.repairs.headers, report.repairs.marks), (1, 0));
                assert_eq!(read_all(&view, 1000), records.bytes());
                let (good, _, _) = written(records);
                assert_eq!(segments(&storage), segments(&good), "byte {at}");
                return;
            }
            at if at < second => (header_bytes, 4),
            _ => (second, 5),
        };
        let (path, position, offset) = damaged_at(&storage);
        assert_eq!(path, segment::path(Offset(4)));
        assert_eq!((position, offset), expected, "byte {at}");
    });
}

#[test]
fn a_log_without_a_mark_does_not_count_as_intact() {
    let records = some_records(20);
    let (storage, _, _) = written(&records);
    for mark in [None, Some(&b"no mark"[..]), Some(&b""[..])] {
        match mark {
            None => storage.remove(mark::PATH).unwrap(),
            Some(bytes) => set_content(&storage, mark::PATH, bytes),
        }
        assert_eq!(damaged_at(&storage), (mark::PATH.to_owned(), 0, 20));
        let (_, view, report) = open_log(&storage).unwrap();
        assert_eq!((report.end, report.clean), (Offset(20), false));
        assert_eq!(report.damaged, Some(Offset(20)));
        assert_eq!((report.repairs.headers, report.repairs.marks), (0, 1));
        assert_eq!(view.repairs(), report.repairs);
        assert_eq!(read_all(&view, 1000), records.bytes());
        assert_eq!(Mark::load(&storage).unwrap().unwrap().end, Offset(20));
        let (_, _, report) = open_log(&storage).unwrap();
        assert_eq!((report.damaged, report.repairs), (None, Repairs::default()));
    }
    storage.remove(mark::PATH).unwrap();
    let path = last_segment(&storage);
    let file = storage.open(&path, OpenHow::Existing).unwrap();
    file.truncate(file.size().unwrap() - 1).unwrap();
    assert_eq!(damaged_at(&storage).2, 19);
    let (_, view, report) = open_log(&storage).unwrap();
    assert_eq!((report.end, report.damaged), (Offset(19), Some(Offset(19))));
    assert_eq!(read_all(&view, 1000), records.truncated(19).bytes());
}

#[test]
fn a_log_that_is_gone_with_its_mark_does_not_count_as_an_empty_one() {
    let storage = MemoryStorage::new();
    let (_, _, report) = open_log_scanning(&storage, OpenScan::AllSegments).unwrap();
    assert_eq!((report.damaged, report.repairs), (None, Repairs::default()));
    for files in [vec![], vec!["lock"]] {
        let storage = MemoryStorage::new();
        for path in files {
            set_content(&storage, path, b"");
        }
        assert_eq!(damaged_at(&storage), (mark::PATH.to_owned(), 0, 0));
        let (_, _, report) = open_log_scanning(&storage, OpenScan::LastSegment).unwrap();
        assert_eq!(report.damaged, Some(Offset(0)));
        assert_eq!(report.repairs.marks, 1);
    }
}

#[test]
fn records_above_the_mark_are_copied_to_a_new_file() {
    let records = some_records(10);
    let (storage, _, _) = written(&records);
    let path = last_segment(&storage);
    let old = storage.open(&path, OpenHow::Existing).unwrap();
    let before = segments(&storage);
    // Nothing above it: the file stays.
    open_log(&storage).unwrap();
    assert_eq!(content(&storage, &path), before[&path]);
    old.append(&[IoSlice::new(b"junk")]).unwrap();
    set_mark(&storage, 9);
    set_content(&storage, "log/00000000000000000003.log.new", b"left over");
    let (_, view, report) = open_log(&storage).unwrap();
    view.check();
    assert_eq!(
        (report.end, report.torn_bytes, report.clean),
        (Offset(10), 4, false)
    );
    assert_eq!(segments(&storage), before);
    assert_eq!(Mark::load(&storage).unwrap().unwrap().end, Offset(10));
    old.append(&[IoSlice::new(b"more")]).unwrap();
    assert_eq!(
        segments(&storage),
        before,
        "the log still stands on the old file"
    );
}

#[test]
fn a_missing_part_of_a_log_is_damage() {
    let records = some_records(40);
    let (storage, _, _) = written(&records);
    let before = dump(&storage);
    let paths: Vec<String> = segments(&storage).into_keys().collect();
    for (nth, path) in paths.iter().enumerate() {
        let mut files = before.clone();
        files.remove(path);
        let storage = storage_of(&files);
        let (found, _, offset) = damaged_at(&storage);
        let next: u64 = path[4..24].parse().unwrap();
        if nth + 1 < paths.len() {
            assert_eq!((&found, offset), (path, next));
        } else {
            assert_eq!(
                (&found, offset),
                (&paths[nth - 1], next),
                "the log ends before the mark"
            );
        }
        // Segments after the gap are quarantined, and the log is one that can be filled again.
        let (mut log, view, report) = open_log(&storage).unwrap();
        view.check();
        assert_eq!(
            (report.end, report.damaged),
            (Offset(next), Some(Offset(next)))
        );
        for (path, bytes) in files.iter().filter(|(other, _)| *other > path) {
            if let Some(name) = path.strip_prefix("log/") {
                assert_eq!(&content(&storage, &format!("quarantine/{name}")), bytes);
            }
        }
        log.append(&[records.batch().slice(Offset(next), Offset(40)).unwrap()])
            .unwrap();
        log.sync().unwrap();
        assert_eq!(read_all(&view, 1000), records.bytes());
        assert_eq!(segments(&storage), segments(&storage_of(&before)));
    }
    let mut files = before.clone();
    files.retain(|path, _| path == mark::PATH);
    assert_eq!(damaged_at(&storage_of(&files)).2, 0);
    set_mark(&storage, 41);
    assert_eq!(damaged_at(&storage).2, 40);
    // The last segment cut to whole records, below the mark.
    let last = before
        .iter()
        .next_back()
        .filter(|(path, _)| *path == mark::PATH);
    assert!(last.is_some());
    let mut files = before.clone();
    let last = files.get_mut(paths.last().unwrap()).unwrap();
    last.truncate(last.len() - records.encoded.last().unwrap().1.len());
    assert_eq!(damaged_at(&storage_of(&files)).2, 39);
}

#[test]
fn a_segment_with_an_incomplete_header_is_removed() {
    let records = some_records(5);
    let (storage, _, _) = written(&records);
    let before = dump(&storage);
    let header = {
        let epoch_starts = records.epoch_starts(5);
        let number = segments(&storage).len() as u64;
        SegmentHeader {
            cluster: CLUSTER,
            first: Offset(5),
            number,
            epoch_starts,
        }
        .encode()
    };
    for length in 0..=header.len() {
        let storage = storage_of(&before);
        let path = segment::path(Offset(5));
        set_content(&storage, &path, &header[..length]);
        let (_, view, report) = open_log(&storage).unwrap();
        view.check();
        assert_eq!(report.end, Offset(5));
        assert_eq!(dump(&storage), before, "{length} bytes of a header");
        // With a record in it, the mark has passed its beginning.
        set_content(&storage, &path, &header[..length]);
        set_mark(&storage, 6);
        assert_eq!(damaged_at(&storage).2, 5);
    }
    for length in 0..segment::HEADER_BYTES_MIN {
        let storage = MemoryStorage::new();
        set_mark(&storage, 0);
        set_content(&storage, &segment::path(Offset(0)), &header[..length]);
        assert_eq!(open_log(&storage).unwrap().2.end, Offset(0));
        assert!(segments(&storage).is_empty());
    }
}

#[test]
fn files_that_are_not_this_nodes_are_refused() {
    let (storage, _, _) = written(&some_records(20));
    let before = dump(&storage);
    let other = ClusterId::from_bytes([8; 16]);
    let open_as = |cluster| {
        crate::log::testing::open_with(Arc::new(storage.clone()), options(), cluster).map(|_| ())
    };
    assert!(matches!(
        open_as(Some(other)),
        Err(OpenError::OtherCluster { found, expected, .. })
            if found == CLUSTER && expected == other
    ));
    assert!(matches!(open_as(None), Err(OpenError::Format { .. })));
    for name in [
        "x.log",
        "0.log",
        "99999999999999999999.log",
        "+0000000000000000000.log",
    ] {
        let storage = storage_of(&before);
        set_content(&storage, &format!("log/{name}"), b"");
        let result = open_log(&storage).map(|_| ());
        assert!(
            matches!(result, Err(OpenError::Format { .. })),
            "{name}: {result:?}"
        );
    }
    for name in ["notes.txt", "log", "00000000000000000000.idx"] {
        let storage = storage_of(&before);
        set_content(&storage, &format!("log/{name}"), b"something");
        open_log(&storage).unwrap();
        assert_eq!(content(&storage, &format!("log/{name}")), b"something");
    }
    // A segment under another segment's name.
    let mut files = before.clone();
    let paths: Vec<String> = segments(&storage).into_keys().collect();
    files.insert(paths[3].clone(), files[&paths[2]].clone());
    files.retain(|path, _| !paths[4..].contains(path));
    let result = open_log(&storage_of(&files)).map(|_| ());
    assert!(
        matches!(result, Err(OpenError::Format { .. })),
        "{result:?}"
    );
    // An older version, intact.
    let mut bytes = before[&paths[0]].clone();
    bytes[8] = 1;
    let crc = crc32c::crc32c(&bytes[..segment::HEADER_BYTES_MIN - 4]);
    bytes[segment::HEADER_BYTES_MIN - 4..segment::HEADER_BYTES_MIN]
        .copy_from_slice(&crc.to_le_bytes());
    let files = BTreeMap::from([(paths[0].clone(), bytes)]);
    let result = open_log(&storage_of(&files)).map(|_| ());
    let text = result.unwrap_err().to_string();
    assert!(
        text.contains("has format 1, and this program reads 2"),
        "{text}"
    );
}

#[test]
fn a_cut_leaves_the_files_that_the_records_below_it_alone_would_have_made() {
    let records = some_records(30);
    for to in 0..=31 {
        let (storage, mut files, view) = written(&records);
        let cut = files.truncate(Offset(to)).unwrap().cut();
        view.check();
        let kept = records.truncated(to);
        let (from, count) = (Offset(to.min(30)), 30_u64.saturating_sub(to));
        assert_eq!(
            cut,
            Cut {
                from,
                records: count
            }
        );
        assert_eq!((view.written_end(), view.durable_end()), (from, from));
        assert_eq!(read_all(&view, 100), kept.bytes());
        assert_eq!(view.epoch_starts(64), kept.epoch_starts(u64::MAX));
        assert_eq!(view.cuts(), u64::from(count > 0));
        let more = Records::new(from.0, [(9, 30), (9, 70), (10, 10), (10, 90), (10, 50)]);
        let mut all = kept.clone();
        all.encoded.extend(more.encoded.clone());
        files.append(&more.batches(&[2])).unwrap();
        files.sync().unwrap();
        assert_eq!(read_all(&view, 100), all.bytes());
        assert_eq!(
            segments(&storage),
            segments(&written(&all).0),
            "cut to {to}"
        );
        drop(files);
        let (_, view, report) = open_log(&storage).unwrap();
        assert_eq!((report.end.0, report.torn_bytes), (all.end(), 0));
        assert_eq!(read_all(&view, 1000), all.bytes());
    }
}

#[test]
fn a_cut_at_a_place_hidden_by_damage_changes_nothing() {
    let (storage, mut files, view) = written(&some_records(30));
    let (path, mut bytes) = segments(&storage).pop_first().unwrap();
    let second: Offset = Offset(
        segments(&storage).into_keys().nth(1).unwrap()[4..24]
            .parse()
            .unwrap(),
    );
    let at = bytes.len() - 1;
    bytes[at] ^= 1;
    let file = storage.open(&path, OpenHow::Existing).unwrap();
    file.write_at(at as u64, &bytes[at..]).unwrap();
    let before = dump(&storage);
    let last = Offset(second.0 - 1);
    let truncation = files.truncate(second).unwrap();
    assert_eq!(truncation, Truncation::Damaged(last));
    assert_eq!(dump(&storage), before);
    assert_eq!((view.written_end(), view.cuts()), (Offset(30), 0));
}

/// Appends, cuts and appends again, with this fault at that step; returns `true` if the fault
/// happened.
fn a_life_with(storage: &FaultyStorage, records: &Records, step: usize, fault: Fault) -> bool {
    let live = || -> Result<(), LogError> {
        let (mut files, ..) = open_log_ahead(storage, 450).map_err(io::Error::other)?;
        files.append(&[records.truncated(12).batch()])?;
        files.sync()?;
        storage.fail_at(step, fault);
        files.append(
            &records
                .batch()
                .slice(Offset(12), Offset(17))
                .into_iter()
                .collect::<Vec<_>>(),
        )?;
        files.sync()?;
        files.truncate(Offset(9))?.cut();
        let other = Records::new(9, [(50, 60), (50, 20), (50, 40)]);
        files.append(&[other.batch()])?;
        files.sync()
    };
    let _ = live();
    storage.has_failed()
}

#[test]
fn a_power_cut_does_not_change_what_a_start_showed_after_a_failed_sync() {
    let records = some_records(20);
    let refused = Fault::Short(130, io::ErrorKind::StorageFull);
    for (step, fault) in (0..40).flat_map(|step| [(step, Fault::LostSync), (step, refused)]) {
        for starting_step in 0.. {
            let storage = FaultyStorage::new();
            if !a_life_with(&storage, &records, step, fault) {
                assert!(step > 20, "{step} steps");
                return;
            }
            storage.fail_at(starting_step, Fault::LostSync);
            let _ = open_log(&storage);
            let is_over = !storage.has_failed();
            storage.cancel_fault();
            let (_, shown, _) = open_log(&storage).unwrap();
            let shown = read_all(&shown, 5000);
            for seed in 0..4 {
                let (_, left, _) = open_log(&storage.after_power_cut(seed)).unwrap();
                let left = read_all(&left, 5000);
                let is_same = left == shown;
                assert!(is_same, "{fault:?} at {step}, start at {starting_step}");
            }
            if is_over {
                break;
            }
        }
    }
}

#[test]
fn after_any_failure_nothing_more_is_done() {
    let faults = [
        Fault::Error(io::ErrorKind::StorageFull),
        Fault::Short(0, io::ErrorKind::StorageFull),
        Fault::Short(50, io::ErrorKind::StorageFull),
        Fault::Short(150, io::ErrorKind::StorageFull),
    ];
    let records = some_records(20);
    for fault in faults {
        for step in 0.. {
            let storage = FaultyStorage::new();
            let (mut files, view, _) = open_log(&storage).unwrap();
            files.append(&[records.truncated(10).batch()]).unwrap();
            files.sync().unwrap();
            let more = records.batch().slice(Offset(10), Offset(20)).unwrap();
            storage.fail_at(step, fault);
            let result = files
                .append(&[more])
                .and_then(|()| files.sync())
                .and_then(|()| files.truncate(Offset(15)))
                .and_then(|_| files.close());
            if !storage.has_failed() {
                result.unwrap();
                assert!(step > 10, "only {step} steps");
                break;
            }
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
            view.check();
            let (steps, durable_end) = (storage.steps(), view.durable_end());
            let errors = [
                files.append(&[records.batch()]).unwrap_err(),
                files.sync().unwrap_err(),
                files.truncate(Offset(0)).unwrap_err(),
                files.close().unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                assert!(
                    error
                        .to_string()
                        .starts_with("the log accepts no more writes: "),
                    "{error}"
                );
            }
            assert_eq!(storage.steps(), steps, "something was done after a failure");
            assert!(durable_end >= Offset(10));
            // A partial write is a torn tail for the next start.
            drop(files);
            let (_, again, report) = open_log(&storage).unwrap();
            again.check();
            assert!(report.end >= durable_end, "{} of {durable_end}", report.end);
            assert!(records.bytes().starts_with(&read_all(&again, 1000)));
        }
    }
}

#[test]
fn a_failed_sync_makes_nothing_durable_and_is_not_retried() {
    let storage = FaultyStorage::new();
    let (mut files, view, _) = open_log(&storage).unwrap();
    files.append(&[some_records(3).batch()]).unwrap();
    storage.fail_at(0, Fault::Error(io::ErrorKind::Other));
    files.sync().unwrap_err();
    let syncs = storage.file_syncs();
    files.sync().unwrap_err();
    assert_eq!(storage.file_syncs(), syncs);
    assert_eq!(
        (view.written_end(), view.durable_end()),
        (Offset(3), Offset(0))
    );
}

#[test]
#[should_panic(expected = "a batch does not follow the written end")]
fn appending_a_batch_that_does_not_follow_panics() {
    let (_, mut files, _) = written(&some_records(3));
    let _ = files.append(&[Records::new(4, [(1, 5)]).batch()]);
}

#[test]
#[should_panic(expected = "nothing is appended before a cluster is known")]
fn appending_without_a_cluster_panics() {
    let (mut files, _, _) =
        crate::log::testing::open_with(Arc::new(MemoryStorage::new()), options(), None).unwrap();
    let _ = files.append(&[some_records(3).batch()]);
}

#[test]
fn a_group_is_one_write_and_one_sync_for_each_segment() {
    let storage = FaultyStorage::new();
    let options = LogOptions {
        segment_bytes: 1 << 20,
        ..options()
    };
    let (mut files, _, _) =
        crate::log::testing::open_with(Arc::new(storage.clone()), options, Some(CLUSTER)).unwrap();
    files.append(&[Records::new(0, [(1, 10)]).batch()]).unwrap();
    files.sync().unwrap();
    let (appends, syncs) = (storage.appends(), storage.file_syncs());
    files
        .append(&Records::new(1, [(1, 10); 500]).batches(&[1]))
        .unwrap();
    files.sync().unwrap();
    assert_eq!(
        (storage.appends(), storage.file_syncs()),
        (appends + 1, syncs + 1)
    );
    files.sync().unwrap();
    assert_eq!(storage.file_syncs(), syncs + 1, "there was nothing to sync");
}

#[test]
fn epoch_starts_reach_back_over_segments_and_cuts() {
    // More epochs than a header or memory holds.
    let count = 1500;
    let mut records = Records::new(0, (0..count).map(|n| (1 + n - n % 2, 1)));
    records.push(5000, 10);
    let (storage, mut files, view) = written(&records);
    let check = |view: &Arc<LogView>, records: &Records| {
        let all = records.epoch_starts(u64::MAX);
        let newest = |pairs: Vec<EpochStart>, limit: usize| {
            pairs[pairs.len().saturating_sub(limit)..].to_vec()
        };
        for limit in [0, 1, 3, 64] {
            assert_eq!(view.epoch_starts(limit), newest(all.clone(), limit));
        }
        for before in [0, 1, 2, 3, 50, 51, 700, 1000, 1499, 1500, 1501, 9999] {
            for limit in [1, 5, 64, 200, 10_000] {
                let expected = newest(records.epoch_starts(before), limit);
                let found = view.epoch_starts_before(Offset(before), limit).unwrap();
                assert_eq!(found, expected, "{limit} before {before}");
            }
        }
        let end = records.end();
        assert_eq!(view.epoch_at(Offset(end)), None);
        let last = records.encoded.last().unwrap().0;
        assert_eq!(view.epoch_at(Offset(end - 1)).unwrap().0, last);
    };
    check(&view, &records);
    files.truncate(Offset(1100)).unwrap();
    let mut records = records.truncated(1100);
    check(&view, &records);
    let more = Records::new(1100, (0..200).map(|n| (6000 + n / 3, 10)));
    files.append(&more.batches(&[10])).unwrap();
    files.sync().unwrap();
    records.encoded.extend(more.encoded);
    check(&view, &records);
    drop(files);
    check(&open_log(&storage).unwrap().1, &records);
}

/// Operation on a log, with numbers that are taken modulo what is possible.
#[derive(Clone, Debug)]
enum Step {
    Append {
        lengths: Vec<usize>,
        batches: Vec<usize>,
        new_epoch: bool,
    },
    Sync,
    Truncate {
        to: u64,
    },
    Reopen {
        clean: bool,
    },
    Read {
        from: u64,
        until: u64,
        bytes_max: usize,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let lengths = prop::collection::vec(0..150_usize, 1..12);
    let batches = prop::collection::vec(1..6_usize, 1..4);
    prop_oneof![
        4 => (lengths, batches, any::<bool>())
            .prop_map(|(lengths, batches, new_epoch)| Step::Append { lengths, batches, new_epoch }),
        2 => Just(Step::Sync),
        2 => any::<u64>().prop_map(|to| Step::Truncate { to }),
        1 => any::<bool>().prop_map(|clean| Step::Reopen { clean }),
        2 => (any::<u64>(), any::<u64>(), 0..2000_usize)
            .prop_map(|(from, until, bytes_max)| Step::Read { from, until, bytes_max }),
    ]
}

/// A log and the plain list of the records that should be in it.
struct Pair<S> {
    storage: S,
    preallocate_bytes: u64,
    log: Option<(LogFiles, Arc<LogView>)>,
    records: Records,
    epoch: u64,
    /// Everything below this was reported as durable.
    durable: u64,
}

impl<S: Storage + Clone> Pair<S> {
    fn new(storage: S, preallocate_bytes: u64) -> Pair<S> {
        Pair {
            storage,
            preallocate_bytes,
            log: None,
            records: Records::default(),
            epoch: 1,
            durable: 0,
        }
    }

    /// Does one step; an error is the storage's.
    fn step(&mut self, step: &Step) -> Result<(), OpenError> {
        if self.log.is_none() {
            let (files, view, report) = open_log_ahead(&self.storage, self.preallocate_bytes)?;
            assert_eq!(report.end.0, self.records.end());
            self.durable = report.end.0;
            self.log = Some((files, view));
        }
        let (files, view) = self.log.as_mut().unwrap();
        let end = self.records.end();
        match step {
            Step::Append {
                lengths,
                batches,
                new_epoch,
            } => {
                self.epoch += u64::from(*new_epoch);
                let each = lengths.iter().map(|length| (self.epoch, *length));
                let more = Records::new(end, each);
                self.records.encoded.extend(more.encoded.clone());
                files.append(&more.batches(batches)).map_err(at("append"))?;
                self.durable = self.durable.max(view.durable_end().0);
            }
            Step::Sync => {
                files.sync().map_err(at("sync"))?;
                self.durable = end;
            }
            Step::Truncate { to } => {
                let to = to % (end + 1);
                // The records that follow are another branch, so they are of another epoch.
                self.epoch += 1;
                self.durable = self.durable.min(to);
                let cut = files.truncate(Offset(to)).map_err(at("truncate"))?.cut();
                assert_eq!(
                    cut,
                    Cut {
                        from: Offset(to),
                        records: end - to
                    }
                );
                self.records = self.records.truncated(to);
                if to < end {
                    self.durable = to;
                }
            }
            Step::Reopen { clean } => {
                if *clean {
                    files.close().map_err(at("close"))?;
                }
                self.log = None;
                return Ok(());
            }
            Step::Read {
                from,
                until,
                bytes_max,
            } => {
                let from = from % (end + 1);
                let until = from + until % (end + 2 - from);
                let batches = view.read(Offset(from), Offset(until), *bytes_max).unwrap();
                let bytes: Vec<u8> = batches
                    .iter()
                    .flat_map(|batch| batch.bytes().to_vec())
                    .collect();
                let there = Records {
                    first: from,
                    encoded: self.records.truncated(until).encoded[from as usize..].to_vec(),
                };
                assert!(there.bytes().starts_with(&bytes));
                assert_eq!(bytes.is_empty(), there.encoded.is_empty());
            }
        }
        view.check();
        assert_eq!(view.durable_end().0, self.durable);
        Ok(())
    }

    fn check_content(&self) {
        let Some((_, view)) = &self.log else { return };
        assert_eq!(read_all(view, 300), self.records.bytes());
        assert_eq!(
            view.epoch_starts(64).len(),
            self.records.epoch_starts(u64::MAX).len().min(64)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_log_behaves_like_a_plain_list(
        steps in prop::collection::vec(any_step(), 1..40),
        ahead in 0..900_u64,
    ) {
        let mut pair = Pair::new(MemoryStorage::new(), ahead);
        for step in &steps {
            pair.step(step).unwrap();
            pair.check_content();
        }
        // No matter what happened before, the files are those of a log that only ever grew.
        let mut files = match pair.log.take() {
            Some((files, _)) => files,
            None => open_log(&pair.storage).unwrap().0,
        };
        files.close().unwrap();
        if !pair.records.encoded.is_empty() {
            prop_assert_eq!(segments(&pair.storage), segments(&written(&pair.records).0));
        }
    }

    #[test]
    fn files_do_not_depend_on_how_records_were_batched(
        lengths in prop::collection::vec((0..3_u64, 0..200_usize), 1..60),
        batches in prop::collection::vec(1..10_usize, 1..5),
        groups in prop::collection::vec(1..6_usize, 1..5),
    ) {
        let mut epoch = 1;
        let records = Records::new(0, lengths.into_iter().map(|(bump, length)| {
            epoch += bump / 2;
            (epoch, length)
        }));
        let storage = MemoryStorage::new();
        let (mut files, view, _) = open_log(&storage).unwrap();
        let mut queue = &records.batches(&batches)[..];
        for group in groups.into_iter().cycle() {
            let (now, later) = queue.split_at(group.min(queue.len()));
            files.append(now).unwrap();
            queue = later;
            if queue.is_empty() {
                break;
            }
        }
        files.sync().unwrap();
        view.check();
        let (one_by_one, mut files) = (MemoryStorage::new(), None);
        for batch in records.batches(&[1]) {
            let files = files.get_or_insert_with(|| open_log(&one_by_one).unwrap().0);
            files.append(&[batch]).unwrap();
        }
        drop(files);
        prop_assert_eq!(segments(&storage), segments(&one_by_one));
        for (path, bytes) in segments(&storage) {
            let header = SegmentHeader::decode(&bytes).unwrap();
            prop_assert_eq!(segment::path(header.first), path);
            let mut pairs = records.epoch_starts(header.first.0);
            pairs.drain(..pairs.len().saturating_sub(EPOCH_STARTS_MAX));
            prop_assert_eq!(header.epoch_starts, pairs);
        }
    }

    #[test]
    fn a_power_cut_loses_no_durable_record(
        steps in prop::collection::vec(any_step(), 1..25),
        stop in any::<prop::sample::Index>(),
        second_stop in 0..30_usize,
        seed in any::<u64>(),
        ahead in 0..900_u64,
    ) {
        // Once to count the steps, and once more up to the stop.
        let rehearsal = FaultyStorage::new();
        let mut pair = Pair::new(rehearsal.clone(), ahead);
        for step in &steps {
            pair.step(step).unwrap();
        }
        let storage = FaultyStorage::new();
        storage.fail_at(stop.index(rehearsal.steps() + 1), Fault::Stop);
        let mut pair = Pair::new(storage.clone(), ahead);
        for step in &steps {
            if pair.step(step).is_err() {
                break;
            }
        }
        check_after_power_cut(&storage, &pair, second_stop, seed)?;
    }
}

/// Opens what a power cut left, with another power cut while it opens.
fn check_after_power_cut(
    storage: &FaultyStorage,
    pair: &Pair<FaultyStorage>,
    second_stop: usize,
    seed: u64,
) -> Result<(), TestCaseError> {
    let mut left = storage.after_power_cut(seed);
    left.fail_at(second_stop, Fault::Stop);
    if open_log(&left).is_err() {
        left = left.after_power_cut(seed ^ 1);
    }
    left.cancel_fault();
    let (mut files, view, report) = match open_log(&left) {
        Ok(opened) => opened,
        Err(error) => return Err(TestCaseError::fail(format!("it does not open: {error}"))),
    };
    view.check();
    let found = read_all(&view, 1000);
    prop_assert!(
        report.end.0 >= pair.durable,
        "{} of {}",
        report.end,
        pair.durable
    );
    prop_assert!(pair.records.bytes().starts_with(&found));
    // The end reported at the start is as durable as any.
    let mut again = left.after_power_cut(seed ^ 2);
    prop_assert_eq!(read_all(&open_log(&again).unwrap().1, 1000), found);
    // And the log continues from there.
    let more = Records::new(report.end.0, [(1 << 20, 30), (1 << 20, 100)]);
    files.append(&[more.batch()]).unwrap();
    files.sync().unwrap();
    again = left.after_power_cut(seed ^ 3);
    let (_, view, after) = open_log(&again).unwrap();
    prop_assert_eq!(after.end.0, more.end());
    let mut records = pair.records.truncated(report.end.0);
    records.encoded.extend(more.encoded);
    prop_assert_eq!(read_all(&view, 1000), records.bytes());
    Ok(())
}

#[test]
fn a_power_cut_at_every_step_of_a_scenario_loses_nothing_durable() {
    let append = |lengths: &[usize], new_epoch| Step::Append {
        lengths: lengths.to_vec(),
        batches: vec![2],
        new_epoch,
    };
    let steps = [
        append(&[10, 100], false),
        Step::Sync,
        append(&[100, 100, 100, 50, 100], true),
        Step::Sync,
        append(&[100, 100, 100, 100], false),
        Step::Truncate { to: 3 },
        append(&[90, 90, 90, 90, 90], false),
        Step::Reopen { clean: false },
        append(&[5], true),
        Step::Sync,
        Step::Truncate { to: 5 },
        Step::Reopen { clean: true },
        append(&[5, 50], true),
        Step::Sync,
    ];
    for ahead in [0, 450] {
        for stop in 0.. {
            let storage = FaultyStorage::new();
            storage.fail_at(stop, Fault::Stop);
            let mut pair = Pair::new(storage.clone(), ahead);
            let stopped = steps.iter().any(|step| pair.step(step).is_err());
            for seed in 0..12 {
                let result = check_after_power_cut(&storage, &pair, seed as usize, seed);
                assert!(result.is_ok(), "step {stop}, seed {seed}: {result:?}");
            }
            if !stopped {
                assert!(stop > 50, "only {stop} steps");
                break;
            }
        }
    }
}

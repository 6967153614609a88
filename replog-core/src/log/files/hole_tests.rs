//! Damage between readable records: found, left as it is, filled in place.

use std::ops::Range;

use super::*;
use crate::{
    log::testing::{
        Fault, FaultyStorage, Records, content, dump, open_log, open_log_scanning, read_all,
        segments, set_content, storage_of,
    },
    storage::MemoryStorage,
    types::Epoch,
};

/// Returns forty records in segments of a few each.
fn records() -> Records {
    Records::new(0, (0..40).map(|n| (1 + n / 15, 60)))
}

fn all() -> Vec<FrameBatch> {
    vec![records().batch()]
}

fn part(from: u64, until: u64) -> Vec<FrameBatch> {
    all()[0]
        .slice(Offset(from), Offset(until))
        .into_iter()
        .collect()
}

fn written() -> MemoryStorage {
    let storage = MemoryStorage::new();
    let (mut files, _, _) = open_log(&storage).unwrap();
    files.append(&all()).unwrap();
    files.sync().unwrap();
    storage
}

/// Returns the location of the record of `offset`: file, first byte, length.
fn place(storage: &dyn Storage, offset: u64) -> (String, usize, usize) {
    let files = segments(storage);
    let path = segment::path(Offset(offset));
    let (path, bytes) = files.range(..=path).next_back().unwrap();
    let header = SegmentHeader::decode(bytes).unwrap();
    let mut position = header.encoded_bytes() as usize;
    let mut at = header.first.0;
    loop {
        let length = crate::frame::encoded_len(&bytes[position..]).unwrap();
        if at == offset {
            return (path.clone(), position, length);
        }
        (position, at) = (position + length, at + 1);
    }
}

/// Changes a byte of each of these records, from its length (0) to its payload (40 and on).
fn rot_each(storage: &dyn Storage, offsets: &[u64], byte: usize) {
    let places = offsets.iter().map(|offset| place(storage, *offset));
    for (path, position, length) in places.collect::<Vec<_>>() {
        assert!(byte < length);
        let mut bytes = content(storage, &path);
        bytes[position + byte] ^= 0x40;
        set_content(storage, &path, &bytes);
    }
}

fn rot(storage: &dyn Storage, offset: u64, byte: usize) {
    rot_each(storage, &[offset], byte);
}

/// Returns the first offset of the last segment.
fn last_first(storage: &dyn Storage) -> u64 {
    let (path, _) = segments(storage).pop_last().unwrap();
    path[4..24].parse().unwrap()
}

fn range(from: u64, until: u64) -> Range<Offset> {
    Offset(from)..Offset(until)
}

#[test]
fn a_record_that_rotted_at_any_byte_is_a_hole_that_the_same_record_fills() {
    let good = written();
    let offset = last_first(&good) + 1;
    let (_, _, length) = place(&good, offset);
    for byte in 0..length {
        let storage = storage_of(&dump(&good));
        rot(&storage, offset, byte);
        let rotten = dump(&storage);
        let (mut files, view, report) = open_log(&storage).unwrap();
        view.check();
        assert_eq!(report.damaged, Some(Offset(offset)), "byte {byte}");
        assert_eq!(
            (report.end, view.durable_end()),
            (Offset(offset), Offset(offset))
        );
        assert_eq!(view.written_end(), Offset(40));
        assert_eq!(files.damaged_ranges(), [range(offset, offset + 1)]);
        assert_eq!(
            segments(&storage),
            segments(&storage_of(&rotten)),
            "it was touched"
        );
        files.append(&part(offset, offset + 1)).unwrap();
        assert_eq!(view.durable_end(), Offset(40));
        view.check();
        assert_eq!(segments(&storage), segments(&good), "byte {byte}");
    }
}

#[test]
fn records_sent_again_after_a_hole_are_skipped_and_new_ones_appended() {
    let storage = written();
    let first = last_first(&storage);
    rot(&storage, first + 1, 30);
    let (mut files, view, _) = open_log(&storage).unwrap();
    let more = Records::new(40, [(3, 10), (4, 10)]).batch();
    let mut batches = part(first + 1, 40);
    batches.push(more);
    files.append(&batches).unwrap();
    files.sync().unwrap();
    assert_eq!(view.durable_end(), Offset(42));
    assert_eq!(view.epoch_at(Offset(41)), Some(Epoch(4)));
    let (_, view, report) = open_log(&storage).unwrap();
    assert_eq!((report.end, report.damaged), (Offset(42), None));
    assert_eq!(
        &read_all(&view, 500)[..records().bytes().len()],
        records().bytes()
    );
}

#[test]
fn a_hole_is_filled_bit_by_bit_and_each_part_is_durable() {
    let good = written();
    let first = last_first(&good);
    let storage = storage_of(&dump(&good));
    rot_each(&storage, &[first + 1, first + 2], 2);
    let (mut files, view, report) = open_log(&storage).unwrap();
    assert_eq!(report.end, Offset(first + 1));
    assert_eq!(files.damaged_ranges(), [range(first + 1, first + 3)]);
    files.append(&part(first + 1, first + 2)).unwrap();
    assert_eq!(view.durable_end(), Offset(first + 2));
    // A stop in between: the filled records are there.
    let (mut files, view, report) = open_log_scanning(&storage, OpenScan::AllSegments).unwrap();
    assert_eq!(report.end, Offset(first + 2));
    files.append(&part(first, 40)).unwrap();
    assert_eq!(view.durable_end(), Offset(40));
    assert_eq!(segments(&storage), segments(&good));
}

#[test]
fn holes_of_older_segments_are_found_by_reading_through_and_filled_in_order() {
    let good = written();
    let storage = storage_of(&dump(&good));
    let rotten = [1, 7, 8, 20];
    rot_each(&storage, &rotten, 50);
    let (_, _, report) = open_log(&storage).unwrap();
    assert_eq!(
        report.damaged, None,
        "older segments are read when they are needed"
    );
    let (mut files, view, report) = open_log_scanning(&storage, OpenScan::AllSegments).unwrap();
    view.check();
    assert_eq!((report.end, report.damaged), (Offset(1), Some(Offset(1))));
    files.append(&part(1, 5)).unwrap();
    assert_eq!(view.durable_end(), Offset(7));
    files.append(&part(5, 40)).unwrap();
    assert_eq!(view.durable_end(), Offset(40));
    assert_eq!(segments(&storage), segments(&good));
}

/// A record that is found after damage is not one if the right records do not fit before it.
#[test]
fn nothing_after_a_hole_is_trusted_when_the_records_do_not_fit() {
    let storage = written();
    let first = last_first(&storage);
    rot(&storage, first + 1, 3);
    let before = dump(&storage);
    for length in [10, 59, 61, 300] {
        let other = Records::new(first + 1, [(3, length)]).batch();
        let storage = storage_of(&before);
        let (mut files, view, _) = open_log(&storage).unwrap();
        files.append(std::slice::from_ref(&other)).unwrap();
        files.sync().unwrap();
        view.check();
        assert_eq!(
            (files.end(), view.durable_end()),
            (Offset(first + 2), Offset(first + 2))
        );
        let read = read_all(&view, 400);
        assert!(read.ends_with(other.bytes()));

        // A leading master cannot cut: it fails, and starts with such a log.
        let storage = storage_of(&before);
        let (mut files, _, _) = open_log(&storage).unwrap();
        files.inspect(Offset(first), HeldBack::No).unwrap();
        let error = files.append(&[other]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(segments(&storage), segments(&storage_of(&before)));
    }
}

#[test]
fn a_segment_that_a_start_removes_leaves_no_hole_after_the_end() {
    let good = written();
    let paths: Vec<String> = segments(&good).into_keys().collect();
    let last: u64 = paths.last().unwrap()[4..24].parse().unwrap();
    let storage = storage_of(&dump(&good));
    // Neither the last segment nor the end of the one before has a readable record.
    let header = {
        let bytes = content(&storage, paths.last().unwrap());
        SegmentHeader::decode(&bytes).unwrap().encoded_bytes() as usize
    };
    let bytes = content(&storage, paths.last().unwrap());
    set_content(&storage, paths.last().unwrap(), &bytes[..header]);
    rot(&storage, last - 1, 50);
    let (mut files, view, report) = open_log_scanning(&storage, OpenScan::AllSegments).unwrap();
    view.check();
    assert_eq!(
        (report.end, files.end()),
        (Offset(last - 1), Offset(last - 1))
    );
    assert_eq!(files.damaged_ranges(), []);
    files.append(&part(last - 1, 40)).unwrap();
    files.sync().unwrap();
    assert_eq!(read_all(&view, 400), records().bytes());
    assert_eq!(segments(&storage), segments(&good));
}

#[test]
fn a_filled_hole_is_visible_at_once_under_any_sync_policy() {
    let good = written();
    let first = last_first(&good);
    for sync in [
        SyncPolicy::Never,
        SyncPolicy::Interval(std::time::Duration::from_secs(9)),
    ] {
        let storage = storage_of(&dump(&good));
        rot(&storage, first + 1, 50);
        let options = LogOptions {
            sync,
            ..crate::log::testing::options()
        };
        let cluster = Some(crate::log::testing::CLUSTER);
        let storage: Arc<dyn Storage> = Arc::new(storage);
        let (mut files, view, _) =
            crate::log::testing::open_with(storage, options, cluster).unwrap();
        assert_eq!(view.durable_end(), Offset(first + 1));
        files.append(&part(first + 1, first + 2)).unwrap();
        assert_eq!(view.durable_end(), Offset(40));
    }
}

#[test]
fn filling_a_hole_does_not_hide_epochs_that_are_not_in_memory() {
    let records = Records::new(0, (0..900).map(|n| (1 + n / 9, 60)));
    let storage = MemoryStorage::new();
    let (mut files, _, _) = open_log(&storage).unwrap();
    files.append(&[records.batch()]).unwrap();
    files.sync().unwrap();
    rot_each(&storage, &[50, 90], 50);
    let (mut files, view, _) = open_log_scanning(&storage, OpenScan::AllSegments).unwrap();
    files.append(&[records.batch()]).unwrap();
    files.sync().unwrap();
    assert_eq!(view.durable_end(), Offset(900));
    for offset in 0..900 {
        let known = view.epoch_at(Offset(offset));
        assert!(
            known.is_none_or(|epoch| epoch == Epoch(1 + offset / 9)),
            "{offset}"
        );
    }
    let starts = view.epoch_starts_before(Offset(900), 1000).unwrap();
    assert_eq!(starts, records.epoch_starts(900));
}

#[test]
fn a_cut_within_a_hole_is_made_at_its_beginning_and_one_after_it_leaves_it() {
    let good = written();
    let first = last_first(&good);
    let rotten = storage_of(&dump(&good));
    rot_each(&rotten, &[first + 1, first + 2], 1);
    for to in first - 1..40 {
        let storage = storage_of(&dump(&rotten));
        let (mut files, view, _) = open_log(&storage).unwrap();
        let cut = files.truncate(Offset(to)).unwrap().cut();
        view.check();
        let is_in_hole = (first + 2..=first + 3).contains(&to);
        let end = if is_in_hole { first + 1 } else { to };
        assert_eq!(
            (cut.from, files.end()),
            (Offset(end), Offset(end)),
            "to {to}"
        );
        assert_eq!(view.durable_end(), Offset(end.min(first + 1)));
        files.append(&part(view.durable_end().0, 40)).unwrap();
        files.sync().unwrap();
        assert_eq!(view.durable_end(), Offset(40), "to {to}");
        assert_eq!(segments(&storage), segments(&good), "to {to}");
        assert_eq!(read_all(&view, 400), records().bytes());
    }
}

#[test]
fn records_above_the_mark_are_copied_with_the_holes_below_it() {
    let good = written();
    let first = last_first(&good);
    let storage = storage_of(&dump(&good));
    rot(&storage, first + 1, 40);
    let mark = MarkFile::open(&storage).unwrap();
    let (end, state) = (Offset(first + 3), MarkState::Open);
    mark.write(Mark { end, state }).unwrap();
    let before = segments(&storage);
    let (mut files, view, report) = open_log(&storage).unwrap();
    assert_eq!(
        (report.end, view.written_end()),
        (Offset(first + 1), Offset(40))
    );
    assert_eq!(segments(&storage), before);
    files.append(&part(first + 1, first + 2)).unwrap();
    assert_eq!(segments(&storage), segments(&good));
}

#[test]
fn an_epoch_that_begins_in_a_hole_is_known_once_it_is_filled() {
    let good = written();
    let storage = storage_of(&dump(&good));
    rot(&storage, 30, 45);
    let (mut files, view, report) = open_log_scanning(&storage, OpenScan::AllSegments).unwrap();
    assert_eq!(report.end, Offset(30));
    files.append(&part(30, 31)).unwrap();
    for offset in 0..40 {
        let expected = Epoch(1 + offset / 15);
        assert_eq!(view.epoch_at(Offset(offset)).unwrap_or(expected), expected);
    }
    assert_eq!(
        view.epoch_starts_before(Offset(40), 9).unwrap(),
        records().epoch_starts(40)
    );
}

#[test]
fn damage_that_a_reader_meets_is_reported_until_it_is_known() {
    let good = written();
    let storage = storage_of(&dump(&good));
    rot(&storage, 5, 41);
    rot(&storage, 6, 41);
    let (mut files, view, _) = open_log(&storage).unwrap();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let tell = told.clone();
    view.on_damage(move |offset| tell.lock().unwrap().push(offset.0));
    for _ in 0..2 {
        view.read(Offset(5), Offset(9), 1000).unwrap_err();
    }
    assert_eq!(*told.lock().unwrap(), [5, 5]);
    files.inspect(Offset(5), HeldBack::No).unwrap();
    assert_eq!(view.durable_end(), Offset(40), "a leading master continues");
    assert_eq!(files.whole_end(), Offset(5));
    view.read(Offset(6), Offset(9), 1000).unwrap_err();
    assert_eq!(told.lock().unwrap().len(), 2);
    files.append(&[Records::new(40, [(3, 9)]).batch()]).unwrap();
    files.sync().unwrap();
    assert_eq!(view.durable_end(), Offset(41));
    files.inspect(Offset(5), HeldBack::Yes).unwrap();
    assert_eq!(view.durable_end(), Offset(5));
    files.append(&part(5, 7)).unwrap();
    assert_eq!(view.durable_end(), Offset(41));
    assert_eq!(
        read_all(&view, 400)[..records().bytes().len()],
        records().bytes()
    );
}

#[test]
fn the_rest_of_an_older_segment_may_be_missing() {
    let good = written();
    let paths: Vec<String> = segments(&good).into_keys().collect();
    let (path, next) = (&paths[1], paths[2][4..24].parse::<u64>().unwrap());
    for kept in [1, 2] {
        let storage = storage_of(&dump(&good));
        let first: u64 = path[4..24].parse().unwrap();
        let (_, position, _) = place(&storage, first + kept);
        let bytes = content(&storage, path);
        set_content(&storage, path, &bytes[..position + 5]);
        let (mut files, view, report) = open_log_scanning(&storage, OpenScan::AllSegments).unwrap();
        assert_eq!(report.end, Offset(first + kept));
        assert_eq!(files.damaged_ranges(), [range(first + kept, next)]);
        files.append(&part(first + kept, 40)).unwrap();
        assert_eq!(read_all(&view, 400), records().bytes());
        assert_eq!(segments(&storage), segments(&good));
    }
}

#[test]
fn a_power_cut_while_a_hole_is_filled_leaves_a_log_that_can_be_filled() {
    for step in 0..12 {
        let storage = FaultyStorage::new();
        let (mut files, _, _) = open_log(&storage).unwrap();
        files.append(&all()).unwrap();
        files.sync().unwrap();
        let good = segments(&storage);
        let first = last_first(&storage);
        rot_each(&storage, &[3, first + 1], 38);
        for path in good.keys() {
            storage
                .open(path, OpenHow::Existing)
                .unwrap()
                .sync()
                .unwrap();
        }
        storage.sync_dir(DIR).unwrap();
        storage.fail_at(step, Fault::Stop);
        if let Ok((mut files, _, _)) = open_log_scanning(&storage, OpenScan::AllSegments) {
            let _ = files.append(&part(3, 40));
        }
        let after = storage.after_power_cut(step as u64);
        let (mut files, view, report) = open_log_scanning(&after, OpenScan::AllSegments).unwrap();
        if let Some(offset) = report.damaged {
            files.append(&part(offset.0, 40)).unwrap();
            files.sync().unwrap();
        }
        assert_eq!(view.durable_end(), Offset(40));
        assert_eq!(read_all(&view, 400), records().bytes());
        assert_eq!(segments(&after), good, "step {step}");
    }
}

#[test]
fn a_cut_across_unknown_damage_is_made_once_the_damage_is_known() {
    let good = written();
    for (rotten, to, is_in_the_way, end) in [(5, 7, true, 7), (6, 7, true, 6), (4, 20, false, 20)] {
        let storage = storage_of(&dump(&good));
        rot(&storage, rotten, 1);
        let (mut files, view, _) = open_log(&storage).unwrap();
        if is_in_the_way {
            let truncation = files.truncate(Offset(to)).unwrap();
            assert_eq!(truncation, Truncation::Damaged(Offset(rotten)));
        }
        files.inspect(Offset(rotten), HeldBack::Yes).unwrap();
        assert_eq!(files.truncate(Offset(to)).unwrap().cut().from, Offset(end));
        view.check();
        assert_eq!(view.durable_end(), Offset(rotten.min(end)));
        files.append(&part(files.whole_end().0, 40)).unwrap();
        files.sync().unwrap();
        assert_eq!(view.durable_end(), Offset(40));
        assert_eq!(segments(&storage), segments(&good));
    }
}

#[test]
fn a_cut_across_damage_next_to_a_known_hole_is_made_once_that_is_known_too() {
    let good = written();
    let first = last_first(&good);
    for (beside, end) in [(first, first + 3), (first + 2, first + 1)] {
        let storage = storage_of(&dump(&good));
        rot(&storage, first + 1, 20);
        let (mut files, view, _) = open_log(&storage).unwrap();
        assert_eq!(files.whole_end(), Offset(first + 1));
        rot(&storage, beside, 1);
        let truncation = files.truncate(Offset(first + 3)).unwrap();
        assert_eq!(truncation, Truncation::Damaged(Offset(beside)));
        files.inspect(Offset(beside), HeldBack::Yes).unwrap();
        let cut = files.truncate(Offset(first + 3)).unwrap().cut();
        assert_eq!((cut.from, files.end()), (Offset(end), Offset(end)));
        files.append(&part(files.whole_end().0, 40)).unwrap();
        files.sync().unwrap();
        view.check();
        assert_eq!(view.durable_end(), Offset(40));
        assert_eq!(segments(&storage), segments(&good));
    }
}

#[test]
fn a_header_that_rots_while_the_node_runs_is_rebuilt_and_the_segment_copied_at_the_next_start() {
    let good = written();
    let paths: Vec<String> = segments(&good).into_keys().collect();
    let first: u64 = paths[2][4..24].parse().unwrap();
    for to in [None, Some(first + 1)] {
        let storage = storage_of(&dump(&good));
        let (mut files, view, _) = open_log(&storage).unwrap();
        let mut bytes = content(&storage, &paths[2]);
        bytes[3] ^= 1;
        set_content(&storage, &paths[2], &bytes);
        match to {
            None => files.inspect(Offset(first), HeldBack::Yes).unwrap(),
            Some(to) => {
                files.truncate(Offset(to)).unwrap();
                files.append(&part(to, 40)).unwrap();
                files.sync().unwrap();
            }
        }
        assert_eq!(view.durable_end(), Offset(40));
        assert_eq!(segments(&storage), segments(&good));
        assert!(!Unproven::load(&storage).unwrap().is_empty());
        let (_, _, report) = open_log(&storage).unwrap();
        assert_eq!((report.end, report.damaged), (Offset(40), None));
        assert!(Unproven::load(&storage).unwrap().is_empty());
        assert_eq!(segments(&storage), segments(&good));
    }
}

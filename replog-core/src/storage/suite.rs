//! Conformance tests for every [`Storage`]: one function per behaviour, run against each implementation.
//!
//! [`check`] runs them all against a storage of your own; this library's storages have one test for each. None of
//! them tests a power cut: that synced data survives it is up to the storage.
//!
//! ```
//! use std::sync::Arc;
//!
//! use replog_core::storage::{MemoryStorage, Storage, suite};
//!
//! suite::check(|| (Arc::new(MemoryStorage::new()) as Arc<dyn Storage>, ()));
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by a panic that says where, in any program that runs it"
)]

use std::{
    io::{self, IoSlice},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{OpenHow, Storage, StorageFile};

/// Runs all behaviours, each on an empty storage from `fresh`, which also returns something to keep alive with it:
/// a directory that is removed when it is dropped, or `()`.
///
/// # Panics
///
/// If the storage fails in any behaviour; the message names all of those, after every one was run.
pub fn check<K>(mut fresh: impl FnMut() -> (Arc<dyn Storage>, K)) {
    let mut failed = Vec::new();
    for (name, behaviour) in BEHAVIOURS {
        let (storage, _keep) = fresh();
        // A panic has printed its reason by now.
        if catch_unwind(AssertUnwindSafe(|| behaviour(storage))).is_err() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "the storage fails in {failed:?}");
}

/// Passes all behaviours to the macro `to`, after the arguments given.
macro_rules! behaviours {
    ($($to:ident)::+, $($given:tt)*) => {
        $($to)::+! {
            $($given)*
            a_missing_directory_has_no_entries,
            names_are_listed_in_ascending_order,
            a_directory_can_be_created_twice_and_with_its_parents,
            a_missing_file_is_opened_only_if_it_may_be_created,
            opening_truncated_empties_and_opening_to_create_keeps,
            a_file_is_not_made_in_a_missing_directory,
            parts_are_appended_one_after_the_other,
            more_parts_than_one_call_takes_are_all_written,
            parts_at_a_position_overwrite_and_extend_the_file,
            more_parts_at_a_position_than_one_call_takes_are_all_written,
            a_read_is_short_only_at_the_end,
            writing_at_a_position_changes_only_what_it_covers,
            writing_beyond_the_end_leaves_zeros_between,
            truncating_cuts_and_extends_with_zeros,
            an_append_after_a_cut_follows_what_is_left,
            allocated_space_reads_as_zeros_and_never_shrinks_a_file,
            a_rename_replaces_and_an_open_handle_follows_the_file,
            a_removed_file_is_still_readable_through_an_open_handle,
            removing_or_renaming_a_missing_file_is_not_found,
            a_second_handle_sees_what_the_first_wrote,
            syncing_files_and_directories_keeps_their_content,
            syncing_a_missing_directory_is_an_error,
            the_lock_has_one_holder_until_it_is_dropped,
            files_in_their_place_pass_the_check,
            a_reader_sees_consistent_prefixes_while_a_writer_appends,
        }
    };
}

macro_rules! table {
    ($($behaviour:ident,)*) => {
        &[$((stringify!($behaviour), $behaviour)),*]
    };
}

type Behaviour = (&'static str, fn(Arc<dyn Storage>));

const BEHAVIOURS: &[Behaviour] = behaviours!(table,);

/// Turns each behaviour into a test. The argument gives an empty storage and something to keep alive with it.
#[cfg(test)]
macro_rules! conformance {
    ($fresh:expr) => {
        mod conformance {
            use $crate::storage::suite;
            suite::behaviours!(suite::tests, $fresh;);
        }
    };
}

#[cfg(test)]
macro_rules! tests {
    ($fresh:expr; $($behaviour:ident,)*) => {
        $(
            #[test]
            fn $behaviour() {
                let (storage, _keep) = $fresh;
                suite::$behaviour(storage);
            }
        )*
    };
}

#[cfg(test)]
pub(crate) use {behaviours, conformance, tests};

pub(crate) fn a_missing_directory_has_no_entries(storage: Arc<dyn Storage>) {
    assert_eq!(storage.list("").unwrap(), Vec::<String>::new());
    assert_eq!(storage.list("nowhere").unwrap(), Vec::<String>::new());
}

pub(crate) fn names_are_listed_in_ascending_order(storage: Arc<dyn Storage>) {
    storage.create_dir("dir").unwrap();
    for name in ["b", "dir/2", "a", "dir/10", "c", "dir/1"] {
        storage.open(name, OpenHow::Create).unwrap();
    }
    assert_eq!(storage.list("").unwrap(), ["a", "b", "c", "dir"]);
    assert_eq!(storage.list("dir").unwrap(), ["1", "10", "2"]);
}

pub(crate) fn a_directory_can_be_created_twice_and_with_its_parents(storage: Arc<dyn Storage>) {
    storage.create_dir("a/b").unwrap();
    storage.create_dir("a/b").unwrap();
    storage.create_dir("a").unwrap();
    assert_eq!(storage.list("a").unwrap(), ["b"]);
    storage.open("a/b/file", OpenHow::Create).unwrap();
    assert_eq!(storage.list("a/b").unwrap(), ["file"]);
}

pub(crate) fn a_missing_file_is_opened_only_if_it_may_be_created(storage: Arc<dyn Storage>) {
    assert_eq!(
        kind(storage.open("file", OpenHow::Existing)),
        io::ErrorKind::NotFound
    );
    assert_eq!(storage.list("").unwrap(), Vec::<String>::new());
    assert_eq!(
        storage
            .open("file", OpenHow::Create)
            .unwrap()
            .size()
            .unwrap(),
        0
    );
    storage.open("file", OpenHow::Existing).unwrap();
    storage.open("other", OpenHow::Truncated).unwrap();
    assert_eq!(storage.list("").unwrap(), ["file", "other"]);
}

pub(crate) fn opening_truncated_empties_and_opening_to_create_keeps(storage: Arc<dyn Storage>) {
    file_with(&*storage, "file", b"content");
    assert_eq!(
        content(&*storage.open("file", OpenHow::Create).unwrap()),
        b"content"
    );
    assert_eq!(
        content(&*storage.open("file", OpenHow::Existing).unwrap()),
        b"content"
    );
    assert_eq!(
        content(&*storage.open("file", OpenHow::Truncated).unwrap()),
        b""
    );
}

pub(crate) fn a_file_is_not_made_in_a_missing_directory(storage: Arc<dyn Storage>) {
    for how in [OpenHow::Existing, OpenHow::Create, OpenHow::Truncated] {
        assert_eq!(kind(storage.open("dir/file", how)), io::ErrorKind::NotFound);
    }
}

pub(crate) fn parts_are_appended_one_after_the_other(storage: Arc<dyn Storage>) {
    let file = storage.open("file", OpenHow::Create).unwrap();
    file.append(&[]).unwrap();
    file.append(&[
        IoSlice::new(b""),
        IoSlice::new(b"ab"),
        IoSlice::new(b""),
        IoSlice::new(b"c"),
    ])
    .unwrap();
    file.append(&[IoSlice::new(b"")]).unwrap();
    file.append(&[IoSlice::new(b"de")]).unwrap();
    assert_eq!(content(&*file), b"abcde");
    let again = storage.open("file", OpenHow::Existing).unwrap();
    again.append(&[IoSlice::new(b"f")]).unwrap();
    assert_eq!(content(&*file), b"abcdef");
}

fn more_pieces_than_one_call_takes() -> Vec<[u8; 4]> {
    (0..5000_u32).map(u32::to_le_bytes).collect()
}

pub(crate) fn more_parts_than_one_call_takes_are_all_written(storage: Arc<dyn Storage>) {
    let file = storage.open("file", OpenHow::Create).unwrap();
    let pieces = more_pieces_than_one_call_takes();
    let parts: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    file.append(&parts).unwrap();
    assert!(content(&*file) == pieces.concat());
}

pub(crate) fn parts_at_a_position_overwrite_and_extend_the_file(storage: Arc<dyn Storage>) {
    let file = file_with(&*storage, "file", b"0123");
    file.allocate(8).unwrap();
    let parts = |parts: [&'static [u8]; 3]| parts.map(IoSlice::new);
    file.write_parts_at(2, &parts([b"ab", b"", b"c"])).unwrap();
    assert_eq!(content(&*file), b"01abc\0\0\0");
    file.write_parts_at(5, &parts([b"de", b"fg", b"h"]))
        .unwrap();
    assert_eq!(content(&*file), b"01abcdefgh");
    file.write_parts_at(12, &parts([b"i", b"j", b""])).unwrap();
    assert_eq!(content(&*file), b"01abcdefgh\0\0ij");
    file.write_parts_at(1, &[]).unwrap();
    file.append(&[IoSlice::new(b"!")]).unwrap();
    assert_eq!(content(&*file), b"01abcdefgh\0\0ij!");
}

pub(crate) fn more_parts_at_a_position_than_one_call_takes_are_all_written(
    storage: Arc<dyn Storage>,
) {
    let file = file_with(&*storage, "file", b"begin");
    let pieces = more_pieces_than_one_call_takes();
    let parts: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    file.write_parts_at(5, &parts).unwrap();
    assert!(content(&*file) == [b"begin", &*pieces.concat()].concat());
}

pub(crate) fn a_read_is_short_only_at_the_end(storage: Arc<dyn Storage>) {
    let file = file_with(&*storage, "file", b"0123456789");
    let table: [(u64, usize, &[u8]); 6] = [
        (0, 10, b"0123456789"),
        (0, 3, b"012"),
        (4, 3, b"456"),
        (8, 5, b"89"),
        (10, 5, b""),
        (1 << 40, 5, b""),
    ];
    for (position, length, expected) in table {
        let mut buffer = vec![0xff; length];
        let read = file.read_at(position, &mut buffer).unwrap();
        assert_eq!(&buffer[..read], expected, "{length} bytes at {position}");
    }
}

pub(crate) fn writing_at_a_position_changes_only_what_it_covers(storage: Arc<dyn Storage>) {
    let file = file_with(&*storage, "file", b"0123456789");
    file.write_at(3, b"abc").unwrap();
    assert_eq!(content(&*file), b"012abc6789");
    file.write_at(8, b"xyz").unwrap();
    assert_eq!(content(&*file), b"012abc67xyz");
    file.append(&[IoSlice::new(b"!")]).unwrap();
    assert_eq!(content(&*file), b"012abc67xyz!");
}

pub(crate) fn writing_beyond_the_end_leaves_zeros_between(storage: Arc<dyn Storage>) {
    let file = file_with(&*storage, "file", b"ab");
    file.write_at(4, b"cd").unwrap();
    assert_eq!(content(&*file), b"ab\0\0cd");
}

pub(crate) fn truncating_cuts_and_extends_with_zeros(storage: Arc<dyn Storage>) {
    let file = file_with(&*storage, "file", b"0123456789");
    file.truncate(4).unwrap();
    assert_eq!(content(&*file), b"0123");
    file.truncate(6).unwrap();
    assert_eq!(content(&*file), b"0123\0\0");
    file.truncate(0).unwrap();
    assert_eq!(content(&*file), b"");
}

pub(crate) fn an_append_after_a_cut_follows_what_is_left(storage: Arc<dyn Storage>) {
    let file = file_with(&*storage, "file", b"0123456789");
    file.truncate(4).unwrap();
    file.append(&[IoSlice::new(b"ab")]).unwrap();
    assert_eq!(content(&*file), b"0123ab");
}

pub(crate) fn allocated_space_reads_as_zeros_and_never_shrinks_a_file(storage: Arc<dyn Storage>) {
    let file = file_with(&*storage, "file", b"abc");
    file.allocate(6).unwrap();
    assert_eq!(content(&*file), b"abc\0\0\0");
    file.allocate(2).unwrap();
    assert_eq!(content(&*file), b"abc\0\0\0");
    file.write_at(3, b"d").unwrap();
    file.append(&[IoSlice::new(b"e")]).unwrap();
    assert_eq!(content(&*file), b"abcd\0\0e");
}

pub(crate) fn a_rename_replaces_and_an_open_handle_follows_the_file(storage: Arc<dyn Storage>) {
    storage.create_dir("dir").unwrap();
    let old = file_with(&*storage, "dir/name", b"old");
    let new = file_with(&*storage, "dir/name.new", b"new");
    storage.rename("dir/name.new", "dir/name").unwrap();
    assert_eq!(storage.list("dir").unwrap(), ["name"]);
    new.append(&[IoSlice::new(b"er")]).unwrap();
    assert_eq!(
        content(&*storage.open("dir/name", OpenHow::Existing).unwrap()),
        b"newer"
    );
    assert_eq!(content(&*old), b"old");
}

pub(crate) fn a_removed_file_is_still_readable_through_an_open_handle(storage: Arc<dyn Storage>) {
    let file = file_with(&*storage, "file", b"content");
    storage.remove("file").unwrap();
    assert_eq!(storage.list("").unwrap(), Vec::<String>::new());
    assert_eq!(content(&*file), b"content");
    let again = storage.open("file", OpenHow::Create).unwrap();
    assert_eq!(content(&*again), b"");
}

pub(crate) fn removing_or_renaming_a_missing_file_is_not_found(storage: Arc<dyn Storage>) {
    assert_eq!(kind(storage.remove("file")), io::ErrorKind::NotFound);
    assert_eq!(
        kind(storage.rename("file", "other")),
        io::ErrorKind::NotFound
    );
}

pub(crate) fn a_second_handle_sees_what_the_first_wrote(storage: Arc<dyn Storage>) {
    let writer = storage.open("file", OpenHow::Create).unwrap();
    let reader = storage.open("file", OpenHow::Existing).unwrap();
    writer.append(&[IoSlice::new(b"abc")]).unwrap();
    assert_eq!(content(&*reader), b"abc");
    assert_eq!(reader.size().unwrap(), 3);
    writer.truncate(1).unwrap();
    assert_eq!(content(&*reader), b"a");
}

pub(crate) fn syncing_files_and_directories_keeps_their_content(storage: Arc<dyn Storage>) {
    storage.create_dir("dir").unwrap();
    let file = file_with(&*storage, "dir/file", b"abc");
    file.sync().unwrap();
    storage.sync_dir("dir").unwrap();
    storage.sync_dir("").unwrap();
    file.append(&[IoSlice::new(b"d")]).unwrap();
    file.sync().unwrap();
    assert_eq!(content(&*file), b"abcd");
}

pub(crate) fn syncing_a_missing_directory_is_an_error(storage: Arc<dyn Storage>) {
    assert_eq!(kind(storage.sync_dir("nowhere")), io::ErrorKind::NotFound);
}

pub(crate) fn the_lock_has_one_holder_until_it_is_dropped(storage: Arc<dyn Storage>) {
    let lock = storage.lock().unwrap();
    for _ in 0..2 {
        assert_eq!(kind(storage.lock()), io::ErrorKind::WouldBlock);
    }
    drop(lock);
    drop(storage.lock().unwrap());
    drop(storage.lock().unwrap());
}

pub(crate) fn files_in_their_place_pass_the_check(storage: Arc<dyn Storage>) {
    storage.check_place().unwrap();
    let lock = storage.lock().unwrap();
    storage.create_dir("dir").unwrap();
    let file = file_with(&*storage, "dir/name.new", b"content");
    storage.check_place().unwrap();
    file.check_place("dir/name.new").unwrap();
    let old = file_with(&*storage, "dir/name", b"old");
    storage.rename("dir/name.new", "dir/name").unwrap();
    file.check_place("dir/name").unwrap();
    drop(old);
    file.append(&[IoSlice::new(b"more")]).unwrap();
    file.sync().unwrap();
    storage.check_place().unwrap();
    file.check_place("dir/name").unwrap();
    drop(lock);
}

pub(crate) fn a_reader_sees_consistent_prefixes_while_a_writer_appends(storage: Arc<dyn Storage>) {
    const PIECES: usize = 300;
    let writer = storage.open("file", OpenHow::Create).unwrap();
    let reader = storage.open("file", OpenHow::Existing).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for piece in 0..PIECES {
                writer
                    .append(&[IoSlice::new(&[(piece % 251) as u8; 100])])
                    .unwrap();
            }
        });
        loop {
            let size = reader.size().unwrap();
            let mut seen = vec![0xff; usize::try_from(size).unwrap()];
            assert_eq!(reader.read_at(0, &mut seen).unwrap(), seen.len());
            for (at, byte) in seen.iter().enumerate() {
                assert_eq!(usize::from(*byte), at / 100 % 251, "byte {at} of {size}");
            }
            if seen.len() == PIECES * 100 {
                break;
            }
        }
    });
}

fn file_with(storage: &dyn Storage, path: &str, bytes: &[u8]) -> Arc<dyn StorageFile> {
    let file = storage.open(path, OpenHow::Create).unwrap();
    file.append(&[IoSlice::new(bytes)]).unwrap();
    file
}

fn content(file: &dyn StorageFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
    bytes
}

fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error.kind(),
    }
}

#[cfg(test)]
mod own_tests {
    use crate::storage::MemoryStorage;

    use super::*;

    #[test]
    fn a_correct_storage_passes() {
        check(|| (Arc::new(MemoryStorage::new()) as Arc<dyn Storage>, ()));
    }

    #[test]
    #[should_panic(expected = r#"the storage fails in ["a_missing_directory_has_no_entries"]"#)]
    fn a_faulty_storage_is_reported_with_every_behaviour_that_fails() {
        let mut first = true;
        check(|| {
            let storage = MemoryStorage::new();
            if std::mem::take(&mut first) {
                storage.open("left behind", OpenHow::Create).unwrap();
            }
            (Arc::new(storage) as Arc<dyn Storage>, ())
        });
    }
}

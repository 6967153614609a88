//! Records that a node must give up, kept aside first: those that it cuts because of a master's hello
//! or a forced recovery, and segments that damage has separated from the log.
//!
//! Owns the files below `set-aside/`. The latter are there as they were, under their old names. Each
//! of the former is a segment, header and records as they stood in the log, named by its first offset,
//! its end, and the epoch of the master because of which they were cut. Written to a new file, synced,
//! renamed, directory synced; never written over, never read by a node again. They are for a person,
//! who alone can say what of them is to be appended again. The [`SET_ASIDE_FILES_MAX`] of the newest
//! epochs are kept.

use std::io::{self, IoSlice};

use std::sync::Arc;

use tracing::{error, warn};

use super::{
    LogError, LogView,
    segment::{self, SegmentHeader},
};
use crate::{
    error::ReadError,
    limits::SET_ASIDE_FILES_MAX,
    storage::{OpenHow, Storage},
    types::{ClusterId, Epoch, Offset},
};

/// Where they are kept.
pub(super) const DIR: &str = "set-aside";
/// Where the next one is written.
const PATH_NEW: &str = "set-aside/new";
/// Bytes that are read and written at once.
const COPY_BYTES: usize = 1 << 20;

/// Keeps the records from `from` up to `end` aside. When this returns, the file is durable. What
/// is damaged, and all behind it, cannot be copied and is said in the log.
///
/// # Errors
///
/// The storage's. After [`LogError::Write`] there is no file, or one that is whole.
pub(super) fn set_aside(
    storage: &dyn Storage,
    view: &Arc<LogView>,
    cluster: ClusterId,
    (from, end): (Offset, Offset),
    epoch: Epoch,
) -> Result<(), LogError> {
    if from >= end {
        return Ok(());
    }
    storage.create_dir(DIR).map_err(LogError::Write)?;
    storage.sync_dir("")?;
    let file = storage
        .open(PATH_NEW, OpenHow::Truncated)
        .map_err(LogError::Write)?;
    let header = SegmentHeader {
        cluster,
        first: from,
        number: 0,
        epoch_starts: Vec::new(),
    };
    let write = |bytes: &[u8]| file.append(&[IoSlice::new(bytes)]).map_err(LogError::Write);
    write(&header.encode())?;
    let mut next = from;
    while next < end {
        match view.read(next, end, COPY_BYTES) {
            Ok(batches) if batches.is_empty() => break,
            Ok(batches) => {
                for batch in batches {
                    write(batch.bytes())?;
                    next = batch.end();
                }
            }
            Err(error @ ReadError::Damaged { .. }) => {
                error!(%error, "records that are cut cannot be kept aside");
                break;
            }
            Err(error) => return Err(LogError::Final(io::Error::other(error))),
        }
    }
    file.sync()?;
    let path = free_path(storage, (from, next), epoch)?;
    storage.rename(PATH_NEW, &path).map_err(LogError::Write)?;
    storage.sync_dir(DIR)?;
    view.kept_aside(next.records_since(from));
    warn!(%from, end = %next, path, "the records that are cut are kept aside");
    remove_oldest(storage, &path)?;
    Ok(())
}

/// Removes the files of the oldest epochs where there are too many, and never the one at `newest`.
/// Each cut is one of a master's epoch, and a node's masters have ascending ones. Segments that damage
/// has separated stay.
fn remove_oldest(storage: &dyn Storage, newest: &str) -> io::Result<()> {
    let names = storage.list(DIR)?.into_iter();
    let mut cuts: Vec<(u64, String)> = names
        .filter_map(|name| Some((epoch_of(&name)?, format!("{DIR}/{name}"))))
        .collect();
    cuts.sort();
    let surplus = cuts.len().saturating_sub(SET_ASIDE_FILES_MAX);
    let oldest = cuts.iter().filter(|(_, path)| path != newest);
    for (_, path) in oldest.take(surplus) {
        warn!(
            path,
            "records that were kept aside are removed: newer ones are there"
        );
        storage.remove(path)?;
    }
    match surplus {
        0 => Ok(()),
        _ => storage.sync_dir(DIR),
    }
}

/// The epoch in the name of a file of records that were cut.
fn epoch_of(name: &str) -> Option<u64> {
    let (_, rest) = name.strip_suffix(".log")?.split_once("-epoch-")?;
    let digits = rest.split('-').next()?;
    digits.parse().ok()
}

/// Moves a whole segment aside: the log before it has a gap. When this returns, the move is durable.
///
/// # Errors
///
/// The storage's.
pub(super) fn move_aside(storage: &dyn Storage, first: Offset) -> io::Result<()> {
    storage.create_dir(DIR)?;
    storage.sync_dir("")?;
    let path = segment::path(first);
    let taken = storage.list(DIR)?;
    let name = |nth: u64| match nth {
        0 => format!("{:020}.log", first.0),
        nth => format!("{:020}-{nth}.log", first.0),
    };
    let free = (0..).map(name).find(|name| !taken.contains(name));
    let free = free.expect("a directory does not hold endless files");
    let to = format!("{DIR}/{free}");
    error!(path, to, "a segment behind a gap is kept aside");
    storage.rename(&path, &to)?;
    storage.sync_dir(DIR)?;
    storage.sync_dir(segment::DIR)
}

/// A name that no file has yet: the same range may be cut twice, with other records in it.
fn free_path(
    storage: &dyn Storage,
    (from, end): (Offset, Offset),
    epoch: Epoch,
) -> io::Result<String> {
    let taken = storage.list(DIR)?;
    let name = |nth: u64| {
        let more = if nth == 0 {
            String::new()
        } else {
            format!("-{nth}")
        };
        format!("{:020}-{:020}-epoch-{epoch}{more}.log", from.0, end.0)
    };
    let free = (0..).map(name).find(|name| !taken.contains(name));
    let free = free.expect("a directory does not hold endless files");
    Ok(format!("{DIR}/{free}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::{
            files::LogFiles,
            segment,
            testing::{CLUSTER, Fault, FaultyStorage, Records, content, open_log, read_all},
        },
        storage::MemoryStorage,
    };

    fn records() -> Records {
        Records::new(0, (0..40).map(|n| (1 + n / 15, 30)))
    }

    fn written(storage: &(impl Storage + Clone)) -> (LogFiles, Arc<LogView>) {
        let (mut files, view, _) = open_log(storage).unwrap();
        files.append(&[records().batch()]).unwrap();
        files.sync().unwrap();
        (files, view)
    }

    #[test]
    fn what_is_kept_aside_is_a_segment_with_exactly_these_records() {
        let storage = MemoryStorage::new();
        let (mut files, view) = written(&storage);
        files.set_aside(Offset(12), Epoch(9)).unwrap();
        files.truncate(Offset(12)).unwrap();
        assert_eq!(read_all(&view, 1000), records().bytes_of(0, 12));
        let name = "00000000000000000012-00000000000000000040-epoch-9.log";
        assert_eq!(storage.list(DIR).unwrap(), [name]);
        let bytes = content(&storage, &format!("{DIR}/{name}"));
        let header = SegmentHeader::decode(&bytes).unwrap();
        assert_eq!((header.first, header.cluster), (Offset(12), CLUSTER));
        let begin = usize::try_from(header.encoded_bytes()).unwrap();
        assert_eq!(bytes[begin..], records().bytes_of(12, 40));
        let file = storage
            .open(&format!("{DIR}/{name}"), OpenHow::Existing)
            .unwrap();
        let scanned = segment::scan(&*file, &header, Offset(u64::MAX), bytes.len() as u64).unwrap();
        assert_eq!((scanned.end, scanned.bad), (Offset(40), None));
    }

    #[test]
    fn nothing_is_written_over_and_nothing_is_kept_of_nothing() {
        let storage = MemoryStorage::new();
        let (mut files, _) = written(&storage);
        files.set_aside(Offset(40), Epoch(9)).unwrap();
        assert_eq!(storage.list(DIR).unwrap(), Vec::<String>::new());
        for _ in 0..3 {
            files.set_aside(Offset(39), Epoch(9)).unwrap();
        }
        files.set_aside(Offset(39), Epoch(10)).unwrap();
        let names = storage.list(DIR).unwrap();
        assert_eq!(names.len(), 4, "{names:?}");
        // The log opens beside them as ever.
        files.close().unwrap();
        assert_eq!(open_log(&storage).unwrap().2.end, Offset(40));
    }

    #[test]
    fn the_files_of_the_newest_epochs_are_kept_and_what_damage_separated() {
        let storage = MemoryStorage::new();
        let (mut files, view) = written(&storage);
        files.set_aside(Offset(39), Epoch(5)).unwrap();
        let separated = format!("{DIR}/{:020}.log", 7);
        storage.open(&separated, OpenHow::Create).unwrap();
        let many = SET_ASIDE_FILES_MAX as u64 + 3;
        for nth in 0..many {
            files
                .set_aside(Offset(30 + nth % 9), Epoch(9 + nth))
                .unwrap();
        }
        let names = storage.list(DIR).unwrap();
        assert_eq!(names.len(), SET_ASIDE_FILES_MAX + 1, "{names:?}");
        let mut epochs: Vec<u64> = names.iter().filter_map(|name| epoch_of(name)).collect();
        epochs.sort_unstable();
        assert_eq!(epochs, (12..9 + many).collect::<Vec<_>>());
        let cut = (0..many).map(|nth| 10 - nth % 9).sum::<u64>();
        assert_eq!(view.records_kept_aside(), 1 + cut);
    }

    #[test]
    fn a_refused_write_leaves_no_part_of_a_file_and_is_tried_again() {
        for step in 0.. {
            let storage = FaultyStorage::new();
            let (mut files, _) = written(&storage);
            storage.fail_at(step, Fault::Short(9, io::ErrorKind::StorageFull));
            let result = files.set_aside(Offset(5), Epoch(9));
            if !storage.has_failed() {
                result.unwrap();
                assert!(step > 5, "{step} steps");
                break;
            }
            let mut names = storage.list(DIR).unwrap();
            names.retain(|name| name != "new");
            if let Err(LogError::Write(_)) = result {
                assert_eq!(names, Vec::<String>::new(), "step {step}");
                files.mend().unwrap();
                files.set_aside(Offset(5), Epoch(9)).unwrap();
                assert_eq!(storage.list(DIR).unwrap().len(), 1);
            }
        }
    }
}

//! Quarantine of records that a node must give up: those that it cuts because of a master's handshake or a forced
//! recovery, copied before the cut, and segments that damage has separated from the log.
//!
//! Owns the files below `quarantine/`. Separated segments are kept as they were, under their old names. Records
//! before a cut are written as a segment, header and records as they stood in the log, named by its first offset,
//! its end, the epoch of the master that caused the cut, and, from the second on, the number of the file. It is
//! written to a new file, synced, renamed, directory synced; never overwritten, and never used by a node again. The
//! files are for a person, who alone can decide which of the records are to be appended again. The newest
//! [`QUARANTINE_FILES_MAX`] are kept: newest by number, since a cluster whose epochs were repaired continues with
//! lower ones.

use std::io::{self, IoSlice};

use std::sync::Arc;

use tracing::{error, warn};

use super::{
    LogError, LogView,
    segment::{self, SegmentHeader},
};
use crate::{
    error::ReadError,
    frame::FrameBatch,
    limits::QUARANTINE_FILES_MAX,
    storage::{OpenHow, Storage, StorageFile},
    types::{ClusterId, Epoch, Offset},
};

/// Directory of the quarantined files.
pub(super) const DIR: &str = "quarantine";
/// Path of the next file while it is written.
const PATH_NEW: &str = "quarantine/new";
/// Bytes that are read and written at once.
const COPY_BYTES: usize = 1 << 20;

/// Quarantines the records from `from` up to `end`. When this returns, the file is durable. Damaged records, and
/// all behind them, cannot be copied; that is logged. Returns `true` if a file was made: none is made if there is
/// nothing to keep, or an existing file has the same content.
///
/// # Errors
///
/// The storage's. After [`LogError::Write`] there is no file, or a complete one.
pub(super) fn quarantine(
    storage: &dyn Storage,
    view: &Arc<LogView>,
    cluster: ClusterId,
    (from, end): (Offset, Offset),
    epoch: Epoch,
) -> Result<bool, LogError> {
    if from >= end {
        return Ok(false);
    }
    // A cut inside an append is made at its beginning.
    let from = match view.read(from, end, 1) {
        Ok(first) => first.first().map_or(from, FrameBatch::first),
        Err(_) => from,
    };
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
                error!(%error, "records that are about to be cut cannot be quarantined");
                break;
            }
            Err(error) => return Err(LogError::Final(io::Error::other(error))),
        }
    }
    file.sync()?;
    let files = files_of_cuts(storage)?;
    let range = format!("{:020}-{:020}-epoch-{epoch}", from.0, next.0);
    // The epoch ends the range: a prefix alone would take `-epoch-10` for `-epoch-1`.
    let is_of_range = |name: &str| {
        let rest = name.strip_prefix(&range);
        rest.is_some_and(|rest| rest.starts_with(['-', '.']))
    };
    for (_, known) in files.iter().filter(|(_, name)| is_of_range(name)) {
        let known = storage.open(&format!("{DIR}/{known}"), OpenHow::Existing)?;
        if is_same(&*file, &*known)? {
            // A cut that failed, or before which the node ended, is made again.
            storage.remove(PATH_NEW)?;
            storage.sync_dir(DIR)?;
            view.quarantined(next.records_since(from));
            return Ok(false);
        }
    }
    let path = match files.last() {
        None => format!("{DIR}/{range}.log"),
        Some((newest, _)) => format!("{DIR}/{range}-{}.log", newest + 1),
    };
    storage.rename(PATH_NEW, &path).map_err(LogError::Write)?;
    storage.sync_dir(DIR)?;
    view.quarantined(next.records_since(from));
    warn!(%from, end = %next, path, "records that are about to be cut were quarantined");
    Ok(true)
}

/// Removes the oldest files of cuts if there are too many, but none of the `made` that the current cut needs.
/// Segments that damage has separated stay. A file that cannot be removed is logged, and stays.
pub(super) fn remove_oldest(storage: &dyn Storage, made: usize) {
    let remove = || -> io::Result<()> {
        let files = files_of_cuts(storage)?;
        let surplus = files.len().saturating_sub(QUARANTINE_FILES_MAX.max(made));
        for (_, name) in &files[..surplus] {
            let path = format!("{DIR}/{name}");
            storage.remove(&path)?;
            warn!(
                path,
                "an old file of quarantined records is removed: there are enough newer ones"
            );
        }
        match surplus {
            0 => Ok(()),
            _ => storage.sync_dir(DIR),
        }
    };
    if let Err(error) = remove() {
        warn!(%error, "old files of quarantined records cannot be removed");
    }
}

/// Returns the files of records that were cut, with their numbers, oldest first.
fn files_of_cuts(storage: &dyn Storage) -> io::Result<Vec<(u64, String)>> {
    let names = storage.list(DIR)?.into_iter();
    let mut files: Vec<_> = names
        .filter_map(|name| Some((number_of(&name)?, name)))
        .collect();
    files.sort();
    Ok(files)
}

/// Returns the number of a file of records that were cut; `None` for other files.
fn number_of(name: &str) -> Option<u64> {
    let (_, rest) = name.strip_suffix(".log")?.split_once("-epoch-")?;
    match rest.split_once('-') {
        None => Some(0),
        Some((_, number)) => number.parse().ok(),
    }
}

/// Returns `true` if two files hold the same bytes.
fn is_same(one: &dyn StorageFile, other: &dyn StorageFile) -> io::Result<bool> {
    let size = one.size()?;
    if size != other.size()? {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; COPY_BYTES], vec![0; COPY_BYTES]);
    let mut at = 0;
    while at < size {
        let (read, also) = (one.read_at(at, &mut left)?, other.read_at(at, &mut right)?);
        if read == 0 || left[..read] != right[..also] {
            return Ok(false);
        }
        at += read as u64;
    }
    Ok(true)
}

/// Moves a whole segment into quarantine, because the log before it has a gap. When this returns, the move is
/// durable.
///
/// # Errors
///
/// The storage's.
pub(super) fn move_to_quarantine(storage: &dyn Storage, first: Offset) -> io::Result<()> {
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
    error!(path, to, "a segment after a gap is quarantined");
    storage.rename(&path, &to)?;
    storage.sync_dir(DIR)?;
    storage.sync_dir(segment::DIR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::{
            files::LogFiles,
            segment,
            testing::{
                CLUSTER, Fault, FaultyStorage, Records, content, open_log, read_all, set_content,
            },
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
    fn a_quarantined_file_is_a_segment_with_exactly_these_records() {
        let storage = MemoryStorage::new();
        let (mut files, view) = written(&storage);
        files.quarantine(Offset(12), Epoch(9)).unwrap();
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
    fn no_file_is_overwritten_and_an_empty_range_makes_none() {
        let storage = MemoryStorage::new();
        let (mut files, _) = written(&storage);
        files.quarantine(Offset(40), Epoch(9)).unwrap();
        assert_eq!(storage.list(DIR).unwrap(), Vec::<String>::new());
        for _ in 0..3 {
            files.quarantine(Offset(39), Epoch(9)).unwrap();
        }
        let first = "00000000000000000039-00000000000000000040-epoch-9";
        let name = |number: &str| format!("{first}{number}.log");
        assert_eq!(storage.list(DIR).unwrap(), [name("")], "the same again");
        // Other records of the same range, and the same for another master.
        set_content(&storage, &format!("{DIR}/{}", name("")), b"other");
        files.quarantine(Offset(39), Epoch(9)).unwrap();
        files.quarantine(Offset(39), Epoch(10)).unwrap();
        // The number of this epoch is the beginning of the previous one's.
        files.quarantine(Offset(39), Epoch(1)).unwrap();
        let of_epoch =
            |epoch: &str| format!("00000000000000000039-00000000000000000040-epoch-{epoch}.log");
        let names = storage.list(DIR).unwrap();
        let others = [of_epoch("1-3"), of_epoch("10-2")];
        assert_eq!(names[..2], others);
        assert_eq!(names[2..], [name("-1"), name("")]);
        // The log still opens as usual.
        files.close().unwrap();
        assert_eq!(open_log(&storage).unwrap().2.end, Offset(40));
    }

    #[test]
    fn the_newest_files_are_kept_whatever_their_epochs_and_so_are_separated_segments() {
        let storage = MemoryStorage::new();
        let (mut files, view) = written(&storage);
        // From a master whose epoch could not be believed: its file is still the oldest.
        files.quarantine(Offset(39), Epoch(1 << 61)).unwrap();
        let separated = format!("{DIR}/{:020}.log", 7);
        storage.open(&separated, OpenHow::Create).unwrap();
        let many = QUARANTINE_FILES_MAX as u64 + 3;
        for nth in 0..many {
            files
                .quarantine(Offset(30 + nth % 9), Epoch(9 + nth))
                .unwrap();
        }
        let names = storage.list(DIR).unwrap();
        assert_eq!(names.len(), QUARANTINE_FILES_MAX + 1, "{names:?}");
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (4..=many).collect::<Vec<_>>());
        let cut = (0..many).map(|nth| 10 - nth % 9).sum::<u64>();
        assert_eq!(view.records_quarantined(), 1 + cut);
    }

    #[test]
    fn a_refused_write_leaves_no_partial_file_and_can_be_retried() {
        for step in 0.. {
            let storage = FaultyStorage::new();
            let (mut files, _) = written(&storage);
            storage.fail_at(step, Fault::Short(9, io::ErrorKind::StorageFull));
            let result = files.quarantine(Offset(5), Epoch(9));
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
                files.quarantine(Offset(5), Epoch(9)).unwrap();
                assert_eq!(storage.list(DIR).unwrap().len(), 1);
            }
        }
    }

    #[test]
    fn a_power_cut_leaves_cut_records_in_the_log_or_in_quarantine() {
        let name = "00000000000000000012-00000000000000000040-epoch-9.log";
        let path = format!("{DIR}/{name}");
        let expected = {
            let storage = MemoryStorage::new();
            written(&storage)
                .0
                .quarantine(Offset(12), Epoch(9))
                .unwrap();
            content(&storage, &path)
        };
        let mut left_over = 0;
        for stop in 0.. {
            let storage = FaultyStorage::new();
            let (mut files, _) = written(&storage);
            storage.fail_at(stop, Fault::Stop);
            let cut = match files.quarantine(Offset(12), Epoch(9)) {
                Ok(()) => files.truncate(Offset(12)).is_ok(),
                Err(_) => false,
            };
            for seed in 0..20 {
                let what = format!("step {stop}, seed {seed}");
                let left = storage.after_power_cut(seed);
                let names = left.list(DIR).unwrap();
                let has_file = names.iter().any(|known| known == name);
                left_over += usize::from(names.iter().any(|known| known == "new"));
                let (mut files, _, report) = open_log(&left).unwrap();
                match report.end {
                    Offset(40) => assert!(!cut, "{what}"),
                    _ => assert!(has_file, "{what}: ends at {}", report.end),
                }
                if has_file {
                    assert_eq!(content(&left, &path), expected, "{what}");
                }
                // The next attempt completes whatever this one left.
                if report.end == Offset(40) {
                    files.quarantine(Offset(12), Epoch(9)).unwrap();
                    assert_eq!(left.list(DIR).unwrap(), [name], "{what}");
                    assert_eq!(content(&left, &path), expected, "{what}");
                }
            }
            if !storage.has_failed() {
                assert!(cut && left_over > 0, "{left_over} unfinished files");
                break;
            }
        }
    }
}

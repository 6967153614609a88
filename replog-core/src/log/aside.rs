//! Records that are about to be cut after a forced recovery, kept aside first.
//!
//! Owns the files below `set-aside/`: each is a segment, header and records as they stood in the
//! log, named by its first offset, its end, and the epoch that was forced. Written to a new file,
//! synced, renamed, directory synced; never written over, never read by a node again. They are for
//! a person, who alone can say what of them is to be appended again.

use std::io::{self, IoSlice};

use std::sync::Arc;

use tracing::{error, warn};

use super::{LogError, LogView, segment::SegmentHeader};
use crate::{
    error::ReadError,
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
    warn!(%from, end = %next, path, "a recovery was forced: the records that are cut are kept aside");
    Ok(())
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

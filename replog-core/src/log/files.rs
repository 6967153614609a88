//! The write side of a log: opening, appending, syncing, truncating.
//!
//! Owns the order in which bytes reach the disk, which is what makes a start after any stop
//! possible. After an error it does nothing any more. A failed sync is final; where only a write
//! was refused, [`LogFiles::mend`] undoes what came of it. Keeps rules 2 and 10.
//!
//! What opening rests on, and every change here keeps:
//!
//! - A segment is synced to its end before the next one is made, whatever the sync policy is.
//!   So only the last one can be torn, and only the last one is read at a start.
//! - A header and the directory are synced before a record is written behind the header.
//! - The mark is raised after a sync, and lowered and synced before a cut.
//! - A segment without records is removed at a start, unless it is the first: where the next one
//!   begins depends on the records alone, not on where a stop came.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use tracing::{info, warn};

use super::{
    failure::LogError,
    mark::{self, Mark, MarkFile},
    segment::{self, DIR, FileName, HeaderError, Scan, ScanError, Scanned, SegmentHeader},
};
use crate::{
    error::OpenError,
    limits::EPOCH_STARTS_MAX,
    log::LogView,
    record::RecordBatch,
    storage::{OpenHow, Storage, StorageFile},
    types::{ClusterId, Offset, SyncPolicy},
};

/// Bytes that a copy of a segment writes at once.
const COPY_BYTES: usize = 1 << 20;

/// How a log is kept.
#[derive(Clone, Debug)]
pub(crate) struct LogOptions {
    pub(crate) segment_bytes: u64,
    pub(crate) tail_bytes: usize,
    pub(crate) sync: SyncPolicy,
}

/// What opening a log found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenReport {
    /// The offset after the last record; durable.
    pub(crate) end: Offset,
    /// Bytes of a torn tail that were cut away.
    pub(crate) torn_bytes: u64,
    /// The first damaged offset below the mark, if the log has one.
    pub(crate) damaged: Option<Offset>,
    /// Whether the stop before was a clean one.
    pub(crate) clean: bool,
}

/// What a truncation took away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The new end of the log; where nothing was cut, its end as it was.
    pub(crate) from: Offset,
    /// Records that are gone.
    pub(crate) records: u64,
}

/// Opens the log in `storage`, or prepares an empty one. `cluster` is what meta says.
///
/// First looks, then changes: while anything is refused, not a byte is written.
///
/// # Errors
///
/// [`OpenError::Damaged`] when something is bad or missing below the mark,
/// [`OpenError::Format`] and [`OpenError::OtherCluster`] when a file is not this node's,
/// [`OpenError::Io`] when the storage refuses.
pub(crate) fn open(
    storage: Arc<dyn Storage>,
    options: LogOptions,
    cluster: Option<ClusterId>,
) -> Result<(LogFiles, Arc<LogView>, OpenReport), OpenError> {
    let found = Found::look(&*storage)?;
    let ending = found.read_end(&*storage, cluster)?;
    let end = ending.end();
    let clean = found.is_clean(&ending);
    if ending.torn_bytes > 0 {
        warn!(%end, torn_bytes = ending.torn_bytes, "a torn tail is cut from the log");
    }
    let (mark, file) = found.settle(&*storage, &ending)?;
    let view = LogView::new(storage.clone(), options.clone(), cluster, end);
    let view = Arc::new(view);
    view.found_segments(&ending.segments);
    let active = ending.last.zip(file).map(|(last, file)| {
        let (first, bytes) = (last.header.first, last.scanned.position);
        view.becomes_active(
            first,
            bytes,
            file.clone(),
            last.scanned.index,
            last.scanned.epochs,
        );
        let header_bytes = last.header.encoded_bytes();
        Active {
            file,
            bytes,
            header_bytes,
            number: last.header.number,
        }
    });
    let report = OpenReport {
        end,
        torn_bytes: ending.torn_bytes,
        damaged: None,
        clean,
    };
    let files = LogFiles {
        storage,
        options,
        cluster,
        view: view.clone(),
        mark,
        active,
        written_end: end,
        synced_end: end,
        half_made: None,
        failure: None,
    };
    Ok((files, view, report))
}

/// The files of a log, owned by the one that writes.
#[derive(Debug)]
pub(crate) struct LogFiles {
    storage: Arc<dyn Storage>,
    options: LogOptions,
    cluster: Option<ClusterId>,
    view: Arc<LogView>,
    mark: MarkFile,
    /// The last segment; absent before the first record.
    active: Option<Active>,
    written_end: Offset,
    synced_end: Offset,
    /// The segment that is being made: a leftover of it belongs to nobody.
    half_made: Option<Offset>,
    /// Why nothing is done any more.
    failure: Option<LogError>,
}

/// The segment that is written.
#[derive(Debug)]
struct Active {
    file: Arc<dyn StorageFile>,
    /// Bytes written, the header included: where the next record goes.
    bytes: u64,
    header_bytes: u64,
    number: u64,
}

impl LogFiles {
    /// Names the cluster that new segments belong to; before it, nothing can be appended.
    ///
    /// # Panics
    ///
    /// When the log belongs to another one already.
    pub(crate) fn set_cluster(&mut self, cluster: ClusterId) {
        let before = self.cluster.replace(cluster);
        let same = before.is_none_or(|before| before == cluster);
        assert!(
            same,
            "a log of cluster {before:?} cannot become one of {cluster}"
        );
        self.view.set_cluster(cluster);
    }

    /// The offset after the last written record.
    pub(crate) fn end(&self) -> Offset {
        self.written_end
    }

    /// The offset after the last record that this node holds under its sync policy.
    pub(crate) fn durable_end(&self) -> Offset {
        self.view.durable_end()
    }

    /// Whether everything written is synced.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced_end == self.written_end
    }

    /// When a written record counts as held.
    pub(crate) fn sync_policy(&self) -> SyncPolicy {
        self.options.sync
    }

    /// Writes batches that follow the written end, in order, with as few calls as there are
    /// segments. A record that would make its segment longer than `segment_bytes` opens the
    /// next, however the records were batched; a longer one has a segment for itself.
    ///
    /// # Errors
    ///
    /// The storage's. Some of the records may be written; nothing is done here any more, after
    /// [`LogError::Write`] until it is mended.
    ///
    /// # Panics
    ///
    /// When a batch does not follow, or no cluster is set.
    pub(crate) fn append(&mut self, batches: &[RecordBatch]) -> Result<(), LogError> {
        self.attempt(|files| files.try_append(batches))
    }

    /// Makes all that is written durable, then writes the mark. Does nothing when nothing was
    /// written since.
    ///
    /// # Errors
    ///
    /// The storage's. A failed sync is final: what was not durable before is not known to be, and
    /// nothing is done here any more.
    pub(crate) fn sync(&mut self) -> Result<(), LogError> {
        self.attempt(LogFiles::try_sync)
    }

    /// Cuts the log back to `to`: mark lowered and synced, newest segment first, directory
    /// synced. When it returns, the cut and every record below `to` are durable. A `to` at or
    /// beyond the end cuts nothing and syncs nothing.
    ///
    /// # Errors
    ///
    /// The storage's, and `InvalidData` when damage hides where the record at `to` begins; then
    /// nothing was cut. Nothing is done here any more. All of them are final but one: when the
    /// mark cannot be lowered, nothing was cut and the log can be mended.
    pub(crate) fn truncate(&mut self, to: Offset) -> Result<Cut, LogError> {
        self.attempt(|files| files.try_truncate(to))
    }

    /// Syncs and leaves a mark that says the stop was clean. Nothing can be done afterwards.
    ///
    /// # Errors
    ///
    /// The storage's: then the stop was not clean.
    pub(crate) fn close(&mut self) -> Result<(), LogError> {
        self.attempt(|files| {
            files.try_sync()?;
            files.mark.write_synced(Mark {
                end: files.synced_end,
                clean: true,
            })?;
            Ok(())
        })?;
        self.failure = Some(LogError::Final(io::Error::other("it was closed")));
        Ok(())
    }

    /// Does something unless anything failed before, and remembers a failure.
    fn attempt<T>(
        &mut self,
        what: impl FnOnce(&mut LogFiles) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        if let Some(failure) = &self.failure {
            return Err(failure.refusal());
        }
        let result = what(self);
        if let Err(error) = &result {
            self.failure = Some(error.again());
        }
        result
    }

    fn try_append(&mut self, batches: &[RecordBatch]) -> Result<(), LogError> {
        // Both assertions guard the disk against a caller that lost count.
        let (mut next, mut epoch) = (self.written_end, self.view.last_epoch());
        for batch in batches {
            assert_eq!(
                batch.first(),
                next,
                "a batch does not follow the written end"
            );
            let falls = epoch.is_some_and(|epoch| batch.first_epoch() < epoch);
            assert!(!falls, "epoch {} behind {epoch:?}", batch.first_epoch());
            (next, epoch) = (batch.end(), Some(batch.last_epoch()));
        }
        let mut group = Vec::with_capacity(batches.len());
        let mut group_bytes = 0;
        for batch in batches {
            let mut rest = Some(batch.clone());
            while let Some(records) = rest {
                if self.active.is_none() {
                    self.start_segment()?;
                }
                let until = self.fitting_end(&records, group_bytes);
                if let Some(fitting) = records.slice(Offset::ZERO, until) {
                    group_bytes += fitting.bytes().len() as u64;
                    group.push(fitting);
                }
                rest = records.slice(until, records.end());
                if rest.is_some() {
                    self.write(&group)?;
                    (group_bytes, group) = (0, Vec::new());
                    self.try_sync()?;
                    self.start_segment()?;
                }
            }
        }
        self.write(&group)
    }

    /// The end of those `records` that belong into the last segment, behind `queued_bytes`.
    fn fitting_end(&self, records: &RecordBatch, queued_bytes: u64) -> Offset {
        let active = self.active.as_ref().expect("a segment was started");
        let used = active.bytes + queued_bytes;
        let room = self.options.segment_bytes.saturating_sub(used);
        if records.bytes().len() as u64 <= room {
            return records.end();
        }
        let mut until = records.first();
        let mut bytes = 0;
        for record in records.records() {
            bytes += record.encoded_bytes() as u64;
            let alone = used == active.header_bytes && until == records.first();
            if bytes > room && !alone {
                break;
            }
            until = record.offset.plus(1);
        }
        until
    }

    /// Writes a group that fits into the last segment, and tells the view.
    fn write(&mut self, group: &[RecordBatch]) -> Result<(), LogError> {
        let Some(last) = group.last() else {
            return Ok(());
        };
        let active = self.active.as_mut().expect("a segment was started");
        let parts: Vec<_> = group
            .iter()
            .map(|batch| IoSlice::new(batch.bytes()))
            .collect();
        active.file.append(&parts).map_err(LogError::Write)?;
        active.bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        self.written_end = last.end();
        self.view.wrote(group);
        Ok(())
    }

    /// Makes the segment that begins at the written end. All before it is synced.
    fn start_segment(&mut self) -> Result<(), LogError> {
        assert!(self.is_synced(), "a segment is left before it is synced");
        let first = self.written_end;
        let cluster = self
            .cluster
            .expect("nothing is appended before a cluster is known");
        let number = self.active.as_ref().map_or(0, |active| active.number + 1);
        let epoch_starts = self.view.epoch_starts(EPOCH_STARTS_MAX);
        let header = SegmentHeader {
            cluster,
            first,
            number,
            epoch_starts,
        };
        self.half_made = Some(first);
        let file = self
            .storage
            .open(&segment::path(first), OpenHow::Truncated)
            .map_err(LogError::Write)?;
        file.append(&[IoSlice::new(&header.encode())])
            .map_err(LogError::Write)?;
        file.sync()?;
        self.storage.sync_dir(DIR)?;
        self.half_made = None;
        let bytes = header.encoded_bytes();
        self.view.rolled(first, bytes, file.clone());
        self.active = Some(Active {
            file,
            bytes,
            header_bytes: bytes,
            number,
        });
        Ok(())
    }

    fn try_sync(&mut self) -> Result<(), LogError> {
        if self.is_synced() {
            return Ok(());
        }
        let active = self
            .active
            .as_ref()
            .expect("what was written is in a segment");
        active.file.sync()?;
        self.synced_end = self.written_end;
        // The mark may lag: these records are durable whether or not it can be written.
        self.view.synced(self.synced_end);
        self.mark
            .write(Mark {
                end: self.synced_end,
                clean: false,
            })
            .map_err(LogError::Write)
    }

    fn try_truncate(&mut self, to: Offset) -> Result<Cut, LogError> {
        if to >= self.written_end {
            return Ok(Cut {
                from: self.written_end,
                records: 0,
            });
        }
        let cut = Cut {
            from: to,
            records: self.written_end.records_since(to),
        };
        // The segment that ends the log then. One that begins at `to` would be empty, and goes.
        let firsts = self.view.segment_firsts();
        let last = firsts
            .partition_point(|first| *first < to)
            .saturating_sub(1);
        let (first, removed) = (firsts[last], &firsts[last + 1..]);
        let path = segment::path(first);
        let file = self.storage.open(&path, OpenHow::Existing)?;
        let damaged = |what: String| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{path} is damaged: {what}"),
            )
        };
        let header = SegmentHeader::read(&*file)?.map_err(|error| damaged(error.to_string()))?;
        let scanned = segment::scan(&*file, &header, to, file.size()?)?;
        if scanned.end < to {
            return Err(damaged(format!("offset {} cannot be read", scanned.end)).into());
        }
        let synced_end = self.synced_end.min(to);
        self.mark.write_synced(Mark {
            end: synced_end,
            clean: false,
        })?;
        self.synced_end = synced_end;
        let bytes = scanned.position;
        self.view.cut(
            to,
            (first, bytes),
            file.clone(),
            scanned.index,
            scanned.epochs,
        );
        for first in removed.iter().rev() {
            self.storage.remove(&segment::path(*first))?;
            // Each by itself: a power cut must not bring back a newer one without an older.
            self.storage.sync_dir(DIR)?;
        }
        file.truncate(bytes)?;
        file.sync()?;
        let header_bytes = header.encoded_bytes();
        self.active = Some(Active {
            file,
            bytes,
            header_bytes,
            number: header.number,
        });
        (self.written_end, self.synced_end) = (to, to);
        self.mark.write(Mark {
            end: to,
            clean: false,
        })?;
        self.view.synced(to);
        Ok(cut)
    }
}

/// What lies in the directory before anything is changed.
#[derive(Debug)]
struct Found {
    /// First offset and size, ascending.
    segments: Vec<(Offset, u64)>,
    /// Names of copies that were never finished.
    copies: Vec<String>,
    mark: Option<Mark>,
}

/// How the log ends, as it was read.
#[derive(Debug)]
struct Ending {
    /// The segments that stay.
    segments: Vec<(Offset, u64)>,
    /// Torn and empty ones that go, newest first.
    removed: Vec<Offset>,
    /// The last of those that stay.
    last: Option<Last>,
    torn_bytes: u64,
}

#[derive(Debug)]
struct Last {
    file: Arc<dyn StorageFile>,
    size: u64,
    header: SegmentHeader,
    scanned: Scanned,
}

impl Ending {
    fn end(&self) -> Offset {
        self.last
            .as_ref()
            .map_or(Offset::ZERO, |last| last.scanned.end)
    }
}

impl Found {
    fn look(storage: &dyn Storage) -> Result<Found, OpenError> {
        let mark = Mark::load(storage).map_err(at(mark::PATH))?;
        let (mut segments, mut copies) = (Vec::new(), Vec::new());
        for name in storage.list(DIR).map_err(at(DIR))? {
            match FileName::of(&name) {
                FileName::Segment(first) => {
                    let path = segment::path(first);
                    let file = storage.open(&path, OpenHow::Existing).map_err(at(&path))?;
                    segments.push((first, file.size().map_err(at(&path))?));
                }
                FileName::Copy => copies.push(format!("{DIR}/{name}")),
                FileName::Malformed => {
                    let what = "is not the name of a segment".to_owned();
                    return Err(OpenError::Format {
                        path: format!("{DIR}/{name}"),
                        what,
                    });
                }
                FileName::Foreign => {}
            }
        }
        let found = Found {
            segments,
            copies,
            mark,
        };
        let first = found.segments.first().map(|(first, _)| *first);
        if first.map_or(found.mark_end() > Offset::ZERO, |first| {
            first > Offset::ZERO
        }) {
            return Err(missing(Offset::ZERO));
        }
        Ok(found)
    }

    /// Everything below is known to be synced; zero where nothing is known.
    fn mark_end(&self) -> Offset {
        self.mark.map_or(Offset::ZERO, |mark| mark.end)
    }

    fn is_clean(&self, ending: &Ending) -> bool {
        let end = ending.end();
        match self.mark {
            Some(mark) => mark.clean && mark.end == end && ending.torn_bytes == 0,
            None => self.segments.is_empty(),
        }
    }

    /// Finds the end of the log, reading as little as possible and writing nothing.
    fn read_end(
        &self,
        storage: &dyn Storage,
        cluster: Option<ClusterId>,
    ) -> Result<Ending, OpenError> {
        let mut segments = self.segments.clone();
        let (mut removed, mut torn_bytes) = (Vec::new(), 0);
        // All before the last segment was synced before that was made.
        let last_first = segments.last().map_or(Offset::ZERO, |(first, _)| *first);
        let floor = self.mark_end().max(last_first);
        while let Some(&(first, size)) = segments.last() {
            let path = segment::path(first);
            let file = storage.open(&path, OpenHow::Existing).map_err(at(&path))?;
            // What is read below may still be in the cache only.
            file.sync().map_err(at(&path))?;
            let header = match SegmentHeader::read(&*file).map_err(at(&path))? {
                Ok(header) => header,
                Err(error @ HeaderError::Version(_)) => {
                    return Err(OpenError::Format {
                        path,
                        what: error.to_string(),
                    });
                }
                Err(error) if self.mark.is_none() || first < floor => {
                    return Err(damaged(first, (first, 0), error.to_string()));
                }
                Err(_) => {
                    torn_bytes += size;
                    removed.push(first);
                    segments.pop();
                    continue;
                }
            };
            self.check_header(storage, &header, &segments, cluster)?;
            let scanned =
                segment::scan(&*file, &header, Offset(u64::MAX), size).map_err(at(&path))?;
            self.check_end(first, &scanned, floor, !removed.is_empty())?;
            torn_bytes += scanned.rest_bytes;
            if scanned.end == first && first > Offset::ZERO {
                removed.push(first);
                segments.pop();
                continue;
            }
            let last = Some(Last {
                file,
                size,
                header,
                scanned,
            });
            return Ok(Ending {
                segments,
                removed,
                last,
                torn_bytes,
            });
        }
        Ok(Ending {
            segments,
            removed,
            last: None,
            torn_bytes,
        })
    }

    /// Checks that a segment is the one that belongs there.
    fn check_header(
        &self,
        storage: &dyn Storage,
        header: &SegmentHeader,
        segments: &[(Offset, u64)],
        cluster: Option<ClusterId>,
    ) -> Result<(), OpenError> {
        let (first, _) = *segments.last().expect("there is one that has this header");
        let path = segment::path(first);
        if header.first != first {
            let what = format!("is the segment of offset {}", header.first);
            return Err(OpenError::Format { path, what });
        }
        match cluster {
            None => {
                let what = format!(
                    "belongs to cluster {}, and this node to none",
                    header.cluster
                );
                return Err(OpenError::Format { path, what });
            }
            Some(expected) if expected != header.cluster => {
                let found = header.cluster;
                return Err(OpenError::OtherCluster {
                    path,
                    found,
                    expected,
                });
            }
            Some(_) => {}
        }
        if header.number + 1 != segments.len() as u64 {
            return Err(find_gap(storage, segments)?);
        }
        Ok(())
    }

    /// Tells damage from a torn tail.
    fn check_end(
        &self,
        first: Offset,
        scanned: &Scanned,
        floor: Offset,
        is_followed: bool,
    ) -> Result<(), OpenError> {
        let at = (scanned.end, scanned.position);
        match &scanned.bad {
            Some(bad) if self.mark.is_none() => {
                let what = format!("{bad}, and no mark tells how far the log was synced");
                Err(damaged(first, at, what))
            }
            Some(bad) if scanned.end < floor => Err(damaged(first, at, bad.to_string())),
            None if scanned.end < floor => {
                let what = format!("the records up to {floor} are missing");
                Err(damaged(first, at, what))
            }
            _ if is_followed && scanned.end > floor => {
                let what = format!("it goes on behind {floor}, where the next segment began");
                Err(damaged(first, at, what))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Brings the directory to the state that `ending` describes, all of it durable, and takes
    /// the mark. Gives the last segment's file.
    fn settle(
        &self,
        storage: &dyn Storage,
        ending: &Ending,
    ) -> Result<(MarkFile, Option<Arc<dyn StorageFile>>), OpenError> {
        storage.create_dir(DIR).map_err(at(DIR))?;
        for path in &self.copies {
            storage.remove(path).map_err(at(path))?;
        }
        for first in &ending.removed {
            let path = segment::path(*first);
            storage.remove(&path).map_err(at(&path))?;
            storage.sync_dir(DIR).map_err(at(DIR))?;
        }
        let end = ending.end();
        let file = match &ending.last {
            None => None,
            // Reading these records proves nothing: they may be in the cache only, and after a
            // sync that failed the cache would be believed for ever. A header without records is
            // as doubtful: the mark says nothing about it.
            Some(last) if end > self.mark_end() || end == last.header.first => {
                let path = segment::path(last.header.first);
                info!(%path, %end, mark = %self.mark_end(), "records above the mark are copied");
                Some(copy(storage, last).map_err(at(&path))?)
            }
            Some(last) => {
                if last.size > last.scanned.position {
                    let path = segment::path(last.header.first);
                    last.file
                        .truncate(last.scanned.position)
                        .map_err(at(&path))?;
                    last.file.sync().map_err(at(&path))?;
                }
                Some(last.file.clone())
            }
        };
        // The start before may have ended between making a file and syncing its entry.
        storage.sync_dir(DIR).map_err(at(DIR))?;
        let mark = MarkFile::open(storage).map_err(at(mark::PATH))?;
        let now = Mark { end, clean: false };
        if self.mark.is_some() {
            mark.write(now).map_err(at(mark::PATH))?;
        } else {
            // From here on the mark can be read, so that what cannot be is damage.
            mark.write_synced(now).map_err(at(mark::PATH))?;
        }
        storage.sync_dir("").map_err(at(""))?;
        Ok((mark, file))
    }
}

/// Writes the good records of a segment to a new file that takes its place.
fn copy(storage: &dyn Storage, last: &Last) -> io::Result<Arc<dyn StorageFile>> {
    let (header, scanned) = (&last.header, &last.scanned);
    let copy_path = segment::copy_path(header.first);
    let file = storage.open(&copy_path, OpenHow::Truncated)?;
    let mut queued = header.encode();
    let begin = (header.first, header.encoded_bytes());
    let mut scan = Scan::new(&*last.file, begin, scanned.position);
    loop {
        // Read and checked again: the cache may have given way to the disk in between.
        match scan.next() {
            Ok(None) => break,
            Ok(Some((_, record))) => queued.extend_from_slice(record),
            Err(ScanError::Io(error)) => return Err(error),
            Err(ScanError::Bad(error)) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        if queued.len() >= COPY_BYTES {
            file.append(&[IoSlice::new(&queued)])?;
            queued.clear();
        }
    }
    file.append(&[IoSlice::new(&queued)])?;
    file.sync()?;
    storage.rename(&copy_path, &segment::path(header.first))?;
    storage.sync_dir(DIR)?;
    Ok(file)
}

/// Finds where the segments stop following each other. For an error only, so it may read long.
fn find_gap(storage: &dyn Storage, segments: &[(Offset, u64)]) -> Result<OpenError, OpenError> {
    let mut end = Offset::ZERO;
    for &(first, size) in segments {
        if first > end {
            return Ok(missing(end));
        }
        let path = segment::path(first);
        let file = storage.open(&path, OpenHow::Existing).map_err(at(&path))?;
        let header = match SegmentHeader::read(&*file).map_err(at(&path))? {
            Ok(header) => header,
            Err(error) => return Ok(damaged(first, (first, 0), error.to_string())),
        };
        let scanned = segment::scan(&*file, &header, Offset(u64::MAX), size).map_err(at(&path))?;
        if let Some(bad) = scanned.bad {
            return Ok(damaged(
                first,
                (scanned.end, scanned.position),
                bad.to_string(),
            ));
        }
        end = scanned.end;
    }
    let (first, _) = *segments.last().expect("an empty log has no gap");
    let what = format!(
        "there are {} segments, and it counts others",
        segments.len()
    );
    Ok(OpenError::Format {
        path: segment::path(first),
        what,
    })
}

fn at<E: Into<io::Error>>(path: &str) -> impl FnOnce(E) -> OpenError + use<E> {
    let path = path.to_owned();
    |source| OpenError::Io {
        path,
        source: source.into(),
    }
}

fn damaged(segment: Offset, (offset, position): (Offset, u64), what: String) -> OpenError {
    OpenError::Damaged {
        path: segment::path(segment),
        position,
        offset,
        what,
    }
}

fn missing(first: Offset) -> OpenError {
    damaged(first, (first, 0), "the segment is missing".to_owned())
}

mod mend;

#[cfg(test)]
mod mend_tests;
#[cfg(test)]
mod tests;

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
//! - There is a mark, synced with its directory, before anything passes for whole: a log epoch without
//!   one means that the log was damaged.
//! - The mark is raised after a sync, and lowered and synced before a cut. Before a file is made
//!   shorter in place it says so, and the next start believes that file only once it has copied it.
//! - A segment without records is removed at a start, unless it is the first: where the next one
//!   begins depends on the records alone, not on where a stop came.
//!
//! What cannot be read below the mark is damage. Records between others that can be read are a
//! hole: they stay as they are, and [`LogFiles::append`] fills the hole in place with the same
//! records from another node (`holes.rs`). Where nothing readable follows, the log ends. What lies
//! behind a segment that is missing, or cannot be opened, is moved aside as a whole. Whose log is
//! damaged must know it before a byte is changed: [`open`] says so first.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use tracing::{error, info, warn};

use super::{
    failure::LogError,
    mark::{self, Mark, MarkFile, MarkState},
    quarantine,
    segment::{self, DIR, FileName, HeaderError, Hole, Scan, ScanError, Scanned, SegmentHeader},
    unproven::{self, Unproven},
};
use crate::{
    error::{OpenError, ReadError},
    limits::EPOCH_STARTS_MAX,
    log::LogView,
    record::RecordBatch,
    storage::{OpenHow, Storage, StorageFile},
    types::{ClusterId, Offset, SyncPolicy},
};

/// Zeros are written ahead only of groups so short that at least as many find room in them.
const PREALLOCATED_GROUPS_MIN: u64 = 4;

/// How a log is kept.
#[derive(Clone, Debug)]
pub(crate) struct LogOptions {
    pub(crate) segment_bytes: u64,
    pub(crate) tail_bytes: usize,
    /// Zeros ahead of the records, at most.
    pub(crate) preallocate_bytes: u64,
    pub(crate) sync: SyncPolicy,
}

/// What a truncation took away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The new end of the log; where nothing was cut, its end as it was.
    pub(crate) from: Offset,
    /// Records that are gone.
    pub(crate) records: u64,
}

/// What came of a truncation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truncation {
    /// The cut is durable.
    Cut(Cut),
    /// Nothing was cut: the record at this offset cannot be read, which must be known first, or a log
    /// that passes for intact would lose more than it is told to.
    Damaged(Offset),
}

/// Where the last append of a log ends that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastAppend {
    /// At the log's end, unless that is inside an append.
    Ends(Offset),
    /// Not known: the record at this offset cannot be read.
    Damaged(Offset),
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
    /// Records below the end that cannot be read.
    holes: Holes,
    /// Segments that were written to below the end.
    unproven: Unproven,
    /// The segment that is being made: a leftover of it belongs to nobody.
    half_made: Option<Offset>,
    /// Why nothing is done any more.
    failure: Option<LogError>,
}

/// The segment that is written.
#[derive(Debug)]
struct Active {
    first: Offset,
    file: Arc<dyn StorageFile>,
    /// Bytes written, the header included: where the next record goes.
    bytes: u64,
    /// How long the file is: zeros follow what is written.
    size: u64,
    header_bytes: u64,
    number: u64,
}

impl Active {
    /// Takes away what lies behind the last record, durably.
    fn cut_to_written(&mut self) -> Result<(), LogError> {
        self.file.truncate(self.bytes).map_err(LogError::Write)?;
        self.file.sync()?;
        self.size = self.bytes;
        Ok(())
    }
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

    /// The end of what can be read from the beginning on, and is held.
    pub(crate) fn whole_end(&self) -> Offset {
        let held = self.held_end();
        self.holes.first().map_or(held, |hole| hole.min(held))
    }

    /// The end of what is held, holes before it or not.
    fn held_end(&self) -> Offset {
        match self.options.sync.is_durable() {
            true => self.synced_end,
            false => self.written_end,
        }
    }

    /// Where the last append ends that is in the log as a whole.
    ///
    /// # Errors
    ///
    /// The storage's, where older files must be read and cannot be.
    pub(crate) fn last_append(&mut self) -> Result<LastAppend, LogError> {
        self.attempt(|files| match files.view.whole_appends_end() {
            Ok(end) => Ok(LastAppend::Ends(end)),
            Err(ReadError::Damaged { offset, .. }) => Ok(LastAppend::Damaged(offset)),
            Err(error) => Err(io::Error::other(error).into()),
        })
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
    /// While the log has holes, and after, batches may also be of records below the end: those
    /// that belong into a hole are written there, and those that are held are passed over.
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
    /// beyond the end cuts nothing and syncs nothing; where damage is found on the way that nobody
    /// knows of, nothing is cut either.
    ///
    /// # Errors
    ///
    /// The storage's; nothing is done here any more. All of them are final but one: when the mark
    /// cannot be lowered, nothing was cut and the log can be mended.
    pub(crate) fn truncate(&mut self, to: Offset) -> Result<Truncation, LogError> {
        self.attempt(|files| files.try_truncate(to))
    }

    /// Checks that the directory, the mark and the last segment are still in their places.
    ///
    /// # Errors
    ///
    /// Where one of them is known to be gone. Final: what is written from then on is found by no start.
    pub(crate) fn check_place(&mut self) -> Result<(), LogError> {
        self.attempt(|files| {
            files.storage.check_place()?;
            files.mark.check_place()?;
            if let Some(active) = &files.active {
                active.file.check_place(&segment::path(active.first))?;
            }
            Ok(())
        })
    }

    /// Syncs and leaves a mark that says the stop was clean. Nothing can be done afterwards.
    ///
    /// # Errors
    ///
    /// The storage's: then the stop was not clean.
    pub(crate) fn close(&mut self) -> Result<(), LogError> {
        self.attempt(|files| {
            files.try_sync()?;
            files.trim()?;
            files.mark.write_synced(Mark {
                end: files.synced_end,
                state: MarkState::Clean,
            })
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
        let behind;
        let batches = match self.holes.were_found() {
            false => batches,
            true => {
                behind = self.fill_holes(batches)?;
                &behind
            }
        };
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
        let group_bytes = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        let end = active.bytes + group_bytes;
        // A long group pays for its own length.
        let ahead = self.options.preallocate_bytes;
        if end > active.size && group_bytes <= ahead / PREALLOCATED_GROUPS_MIN {
            let segment_end = self.options.segment_bytes.max(end);
            let size = (end + ahead).min(segment_end);
            active.file.allocate(size).map_err(LogError::Write)?;
            active.size = size;
        }
        active
            .file
            .write_parts_at(active.bytes, &parts)
            .map_err(LogError::Write)?;
        active.bytes = end;
        active.size = active.size.max(end);
        self.written_end = last.end();
        self.view.wrote(group);
        Ok(())
    }

    /// Makes the segment that begins at the written end. All before it is synced.
    fn start_segment(&mut self) -> Result<(), LogError> {
        assert!(self.is_synced(), "a segment is left before it is synced");
        self.trim()?;
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
            first,
            file,
            bytes,
            size: bytes,
            header_bytes: bytes,
            number,
        });
        Ok(())
    }

    /// Takes the zeros behind the last record away. All before them is synced, and nothing is written
    /// there any more: whether a power cut brings them back makes no difference.
    fn trim(&mut self) -> Result<(), LogError> {
        if let Some(active) = &mut self.active
            && active.size > active.bytes
        {
            active.cut_to_written()?;
        }
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
                state: MarkState::Open,
            })
            .map_err(LogError::Write)
    }

    fn try_truncate(&mut self, to: Offset) -> Result<Truncation, LogError> {
        // Nobody knows where a record in a hole begins: the hole goes as a whole.
        let to = self.holes.cut_at(to);
        if to >= self.written_end {
            return Ok(Truncation::Cut(Cut {
                from: self.written_end,
                records: 0,
            }));
        }
        // The segment that ends the log then. One that begins at `to` would be empty, and goes.
        let firsts = self.view.segment_firsts();
        let last = firsts
            .partition_point(|first| *first < to)
            .saturating_sub(1);
        let (first, removed) = (firsts[last], &firsts[last + 1..]);
        let file = self
            .storage
            .open(&segment::path(first), OpenHow::Existing)?;
        let header = self.header_of(&*file, first, last as u64)?;
        let extent = (to, file.size()?);
        let scanned = segment::scan_past_damage(&*file, &header, extent, to)?;
        if let Some(offset) = self.holes.unknown_among(&scanned, to) {
            return Ok(Truncation::Damaged(offset));
        }
        let bytes = scanned.position;
        let cut = Cut {
            from: to,
            records: self.written_end.records_since(to),
        };
        let synced_end = self.synced_end.min(to);
        self.mark.write_synced(Mark {
            end: synced_end,
            state: MarkState::Cutting,
        })?;
        self.synced_end = synced_end;
        self.view.cut(
            to,
            (first, bytes),
            file.clone(),
            scanned.index,
            scanned.epochs,
        );
        self.holes.truncate(to);
        self.publish_holes();
        for first in removed.iter().rev() {
            self.storage.remove(&segment::path(*first))?;
            // Each by itself: a power cut must not bring back a newer one without an older.
            self.storage.sync_dir(DIR)?;
        }
        file.truncate(bytes)?;
        file.sync()?;
        let header_bytes = header.encoded_bytes();
        self.active = Some(Active {
            first,
            file,
            bytes,
            size: bytes,
            header_bytes,
            number: header.number,
        });
        (self.written_end, self.synced_end) = (to, to);
        self.mark.write(Mark {
            end: to,
            state: MarkState::Open,
        })?;
        self.view.synced(to);
        Ok(Truncation::Cut(cut))
    }
}

mod holes;
mod mend;
mod opening;

pub(crate) use holes::HeldBack;
use holes::Holes;
#[cfg(test)]
pub(crate) use opening::OpenReport;
pub(crate) use opening::{Damage, LogCondition, Look, Repairs, open, was_used};

#[cfg(test)]
mod append_tests;
#[cfg(test)]
mod hole_tests;
#[cfg(test)]
mod mend_tests;
#[cfg(test)]
mod tests;

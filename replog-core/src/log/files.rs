//! The write side of a log: opening, appending, syncing, truncating.
//!
//! Owns the order in which bytes reach the disk, which makes a start after any stop possible. After an error it
//! does nothing any more. A failed sync is final; after a refused write, [`LogFiles::mend`] undoes the effects.
//! Keeps rules 2 and 10.
//!
//! Invariants that opening relies on, and every change here keeps:
//!
//! - A segment is synced to its end before the next one is created, whatever the sync policy. So only the last one
//!   can be torn, and only the last one is read at a start.
//! - A header and the directory are synced before a record is written after the header.
//! - A mark is written and synced with its directory before a log counts as intact: a log epoch without a mark
//!   means that the log was damaged.
//! - The mark is raised after a sync, and lowered and synced before a cut. Before a file is truncated in place the
//!   mark says so, and the next start trusts that file only once it has copied it.
//! - A segment without records is removed at a start, unless it is the first: the beginning of the next one depends
//!   on the records alone, not on the moment of a stop.
//!
//! Unreadable records below the mark are damage. Between readable records they are a hole: they stay as they are,
//! and [`LogFiles::append`] fills the hole in place with the same records from another node (`holes.rs`). If
//! nothing readable follows, the log ends there. Segments after one that is missing, or cannot be opened, are moved
//! to quarantine as a whole. The owner of a damaged log must know of the damage before a byte is changed: [`open`]
//! reports it first.

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
    error::OpenError,
    frame::FrameBatch,
    limits::EPOCH_STARTS_MAX,
    log::LogView,
    storage::{OpenHow, Storage, StorageFile},
    types::{ClusterId, Offset, SyncPolicy},
};

/// Zeros are preallocated only for groups so short that at least this many fit in them.
const PREALLOCATED_GROUPS_MIN: u64 = 4;

/// Settings of a log.
#[derive(Clone, Debug)]
pub(crate) struct LogOptions {
    pub(crate) segment_bytes: u64,
    pub(crate) tail_bytes: usize,
    /// Maximum number of zero bytes ahead of the records.
    pub(crate) preallocate_bytes: u64,
    pub(crate) sync: SyncPolicy,
}

/// Effect of a truncation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The new end of the log; if nothing was cut, its unchanged end.
    pub(crate) from: Offset,
    /// Number of records that were cut.
    pub(crate) records: u64,
}

/// Outcome of a truncation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truncation {
    /// The cut is durable.
    Cut(Cut),
    /// Nothing was cut: the record at this offset cannot be read. That must be known first, or a log that counts as
    /// intact would lose more than it is told to.
    Damaged(Offset),
}

/// The files of a log, owned by the writer.
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
    /// The segment that is being created: a leftover of it belongs to nobody.
    unfinished_segment: Option<Offset>,
    /// Failure after which nothing is done any more.
    failure: Option<LogError>,
}

/// The segment that is being written.
#[derive(Debug)]
struct Active {
    first: Offset,
    file: Arc<dyn StorageFile>,
    /// Bytes written, including the header: the position of the next record.
    bytes: u64,
    /// Length of the file: zeros follow the written bytes.
    size: u64,
    header_bytes: u64,
    number: u64,
}

impl Active {
    /// Truncates the file after the last record, durably.
    fn cut_to_written(&mut self) -> Result<(), LogError> {
        self.file.truncate(self.bytes).map_err(LogError::Write)?;
        self.file.sync()?;
        self.size = self.bytes;
        Ok(())
    }
}

impl LogFiles {
    /// Sets the cluster that new segments belong to; before that, nothing can be appended.
    ///
    /// # Panics
    ///
    /// If the log already belongs to another one.
    pub(crate) fn set_cluster(&mut self, cluster: ClusterId) {
        let before = self.cluster.replace(cluster);
        let same = before.is_none_or(|before| before == cluster);
        assert!(
            same,
            "a log of cluster {before:?} cannot become one of {cluster}"
        );
        self.view.set_cluster(cluster);
    }

    /// Returns the offset after the last written record.
    pub(crate) fn end(&self) -> Offset {
        self.written_end
    }

    /// Returns the offset after the last record that this node holds under its sync policy.
    pub(crate) fn durable_end(&self) -> Offset {
        self.view.durable_end()
    }

    /// Returns the end of the records that are held and can be read without a gap from the beginning.
    pub(crate) fn whole_end(&self) -> Offset {
        let held = self.held_end();
        self.holes.first().map_or(held, |hole| hole.min(held))
    }

    /// Returns the end of what is held, regardless of holes before it.
    fn held_end(&self) -> Offset {
        match self.options.sync.is_durable() {
            true => self.synced_end,
            false => self.written_end,
        }
    }

    /// Returns `true` if everything written is synced.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced_end == self.written_end
    }

    /// Returns the sync policy, which defines when a written record counts as held.
    pub(crate) fn sync_policy(&self) -> SyncPolicy {
        self.options.sync
    }

    /// Writes batches that follow the written end, in order, with one call per segment. A frame that would make
    /// its segment longer than `segment_bytes` starts the next one, regardless of batching; a longer frame gets a
    /// segment of its own.
    ///
    /// Once the log has had holes, batches may also contain records below the end: those that belong into a hole
    /// are written there, and those already held are skipped.
    ///
    /// # Errors
    ///
    /// The storage's. Some of the records may have been written; nothing more is done here, after
    /// [`LogError::Write`] until the log is mended.
    ///
    /// # Panics
    ///
    /// If a batch does not follow, or no cluster is set.
    pub(crate) fn append(&mut self, batches: &[FrameBatch]) -> Result<(), LogError> {
        self.attempt(|files| files.try_append(batches))
    }

    /// Makes everything written durable, then writes the mark. Does nothing if nothing was written since the last
    /// sync.
    ///
    /// # Errors
    ///
    /// The storage's. A failed sync is final: records that were not durable before are not known to be, and nothing
    /// more is done here.
    pub(crate) fn sync(&mut self) -> Result<(), LogError> {
        self.attempt(LogFiles::try_sync)
    }

    /// Cuts the log back to `to`: mark lowered and synced, newest segment first, directory synced. When it returns,
    /// the cut and every record below it are durable. A `to` inside an append cuts all of that append. A `to` at or
    /// beyond the end cuts nothing and syncs nothing; if unknown damage is found on the way, nothing is cut either.
    ///
    /// # Errors
    ///
    /// The storage's; nothing more is done here. All of them are final but one: if the mark cannot be lowered,
    /// nothing was cut and the log can be mended.
    pub(crate) fn truncate(&mut self, to: Offset) -> Result<Truncation, LogError> {
        self.attempt(|files| files.try_truncate(to))
    }

    /// Checks that the directory, the mark and the last segment are still in their places.
    ///
    /// # Errors
    ///
    /// If one of them is known to be gone. Final: no start finds anything that is written from then on.
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

    /// Syncs and leaves a mark that records a clean stop. Nothing can be done afterwards.
    ///
    /// # Errors
    ///
    /// The storage's: the stop was then not clean.
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

    /// Runs an operation unless anything failed before, and remembers a failure.
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

    fn try_append(&mut self, batches: &[FrameBatch]) -> Result<(), LogError> {
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

    /// Returns the end of those `records` that fit into the last segment, after `queued_bytes`.
    fn fitting_end(&self, records: &FrameBatch, queued_bytes: u64) -> Offset {
        let active = self.active.as_ref().expect("a segment was started");
        let used = active.bytes + queued_bytes;
        let room = self.options.segment_bytes.saturating_sub(used);
        if records.bytes().len() as u64 <= room {
            return records.end();
        }
        let mut until = records.first();
        let mut bytes = 0;
        for frame in records.frames() {
            bytes += frame.encoded_bytes() as u64;
            let alone = used == active.header_bytes && until == records.first();
            if bytes > room && !alone {
                break;
            }
            until = frame.end();
        }
        until
    }

    /// Writes a group that fits into the last segment, and updates the view.
    fn write(&mut self, group: &[FrameBatch]) -> Result<(), LogError> {
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
        // A long group is not preallocated for: its sync pays for the change of length.
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

    /// Creates the segment that begins at the written end. Everything before it is synced.
    fn start_segment(&mut self) -> Result<(), LogError> {
        assert!(
            self.is_synced(),
            "the segment is not synced, and the next one is started"
        );
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
        self.unfinished_segment = Some(first);
        let file = self
            .storage
            .open(&segment::path(first), OpenHow::Truncated)
            .map_err(LogError::Write)?;
        file.append(&[IoSlice::new(&header.encode())])
            .map_err(LogError::Write)?;
        file.sync()?;
        self.storage.sync_dir(DIR)?;
        self.unfinished_segment = None;
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

    /// Truncates the zeros after the last record. Everything before them is synced, and nothing more is written
    /// there: it makes no difference if a power cut brings them back.
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
            .expect("written records are in a segment");
        active.file.sync()?;
        self.synced_end = self.written_end;
        // The mark may lag: these records are durable even if it cannot be written.
        self.view.synced(self.synced_end);
        self.mark
            .write(Mark {
                end: self.synced_end,
                state: MarkState::Open,
            })
            .map_err(LogError::Write)
    }

    fn try_truncate(&mut self, to: Offset) -> Result<Truncation, LogError> {
        // The position of a record in a hole is unknown: the hole is cut as a whole.
        let to = self.holes.cut_at(to);
        if to >= self.written_end {
            return Ok(Truncation::Cut(Cut {
                from: self.written_end,
                records: 0,
            }));
        }
        // The segment that then ends the log. One that begins at `to` would be empty, and is removed.
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
        if scanned.splits {
            return self.try_truncate(scanned.end);
        }
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
            // Each separately: a power cut must not bring back a newer one without an older one.
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
pub(crate) use opening::{Damage, LogCondition, OpenScan, Repairs, open, was_used};

#[cfg(test)]
mod append_tests;
#[cfg(test)]
mod hole_tests;
#[cfg(test)]
mod mend_tests;
#[cfg(test)]
mod tests;

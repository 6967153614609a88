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
    aside,
    failure::LogError,
    mark::{self, Mark, MarkFile},
    segment::{self, DIR, FileName, HeaderError, Hole, Scan, ScanError, Scanned, SegmentHeader},
    unproven::{self, Unproven},
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
    /// The offset after the last record before which all can be read; durable.
    pub(crate) end: Offset,
    /// Bytes of a torn tail that were cut away.
    pub(crate) torn_bytes: u64,
    /// The first damaged offset below the mark, if the log has one.
    pub(crate) damaged: Option<Offset>,
    /// Whether the stop before was a clean one.
    pub(crate) clean: bool,
}

/// Damage that opening a log found, before anything is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The file.
    pub(crate) path: String,
    /// The byte where it begins.
    pub(crate) position: u64,
    /// The first offset that cannot be read.
    pub(crate) offset: Offset,
    /// What is wrong there.
    pub(crate) what: String,
}

/// How much of a log is read when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// The last segment: what lies before it is read when it is needed.
    AtTheEnd,
    /// All of it: a log that is not known to be whole.
    Through,
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
/// First looks, then changes: while anything is refused, not a byte is written. Of damage
/// `on_damage` is told in between, which must make known for good that this log is not whole:
/// what is changed then takes the signs of it away.
///
/// # Errors
///
/// [`OpenError::Damaged`] when segments contradict each other, [`OpenError::Format`] and
/// [`OpenError::OtherCluster`] when a file is not this node's, [`OpenError::Io`] when the storage
/// refuses, and what `on_damage` returns.
pub(crate) fn open(
    storage: Arc<dyn Storage>,
    options: LogOptions,
    cluster: Option<ClusterId>,
    look: Look,
    on_damage: impl FnOnce(&Damage) -> Result<(), OpenError>,
) -> Result<(LogFiles, Arc<LogView>, OpenReport), OpenError> {
    let found = Found::look(&*storage)?;
    // What is to be copied must be read, and what is read there may be damaged.
    let look = match found.unproven.is_empty() {
        true => look,
        false => Look::Through,
    };
    let ending = found.read_end(&*storage, cluster, look)?;
    let end = ending.end();
    let clean = found.is_clean(&ending);
    if let Some(damage) = &ending.damage {
        on_damage(damage)?;
    }
    if ending.torn_bytes > 0 {
        warn!(%end, torn_bytes = ending.torn_bytes, "a torn tail is cut from the log");
    }
    let (mark, file) = found.settle(&*storage, &ending)?;
    let holes = Holes::found(ending.holes, HeldBack::Yes);
    let whole_end = holes.first().unwrap_or(end);
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
    view.damaged(holes.all(), holes.held_back_at());
    let report = OpenReport {
        end: whole_end,
        torn_bytes: ending.torn_bytes,
        damaged: ending.damage.map(|damage| damage.offset),
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
        holes,
        unproven: Unproven::default(),
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

    /// The end of what can be read from the beginning on, and is held.
    pub(crate) fn whole_end(&self) -> Offset {
        let held = match self.options.sync.is_durable() {
            true => self.synced_end,
            false => self.written_end,
        };
        self.holes.first().map_or(held, |hole| hole.min(held))
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
    /// beyond the end cuts nothing and syncs nothing.
    ///
    /// # Errors
    ///
    /// The storage's, and `InvalidData` when there is damage on the way that was not known, which
    /// [`LogFiles::unknown_damage_before`] tells; then nothing was cut. Nothing is done here any
    /// more. All of them are final but one: when the mark cannot be lowered, nothing was cut and the
    /// log can be mended.
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
        // Nobody knows where a record in a hole begins: the hole goes as a whole.
        let to = self.holes.cut_at(to);
        // The segment that ends the log then. One that begins at `to` would be empty, and goes.
        let firsts = self.view.segment_firsts();
        let last = firsts
            .partition_point(|first| *first < to)
            .saturating_sub(1);
        let (first, removed) = (firsts[last], &firsts[last + 1..]);
        let path = segment::path(first);
        let file = self.storage.open(&path, OpenHow::Existing)?;
        let header = self.header_of(&*file, first, last as u64)?;
        let extent = (to, file.size()?);
        let scanned = segment::scan_past_damage(&*file, &header, extent, to)?;
        if let Some(offset) = self.holes.unknown_among(&scanned, to) {
            let what = format!("{path} is damaged: offset {offset} cannot be read");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what).into());
        }
        let bytes = scanned.position;
        let cut = Cut {
            from: to,
            records: self.written_end.records_since(to),
        };
        let synced_end = self.synced_end.min(to);
        self.mark.write_synced(Mark {
            end: synced_end,
            clean: false,
        })?;
        self.synced_end = synced_end;
        self.holes.truncate(to);
        self.tell_holes();
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
    unproven: Unproven,
}

/// How the log ends, as it was read.
#[derive(Debug, Default)]
struct Ending {
    /// The segments that stay.
    segments: Vec<(Offset, u64)>,
    /// Torn and empty ones that go, newest first.
    removed: Vec<Offset>,
    /// Those that follow nothing any more, ascending.
    aside: Vec<Offset>,
    /// Headers that cannot be read and are made again from the log before them.
    headers: Vec<SegmentHeader>,
    /// What cannot be read among the segments that stay, by the segment.
    holes: Vec<(Offset, Hole)>,
    /// The last of those that stay.
    last: Option<Last>,
    torn_bytes: u64,
    /// The first damage below the mark.
    damage: Option<Damage>,
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

    fn damaged(
        &mut self,
        segment: Offset,
        (offset, position): (Offset, u64),
        what: &dyn std::fmt::Display,
    ) {
        let (path, what) = (segment::path(segment), what.to_string());
        warn!(%path, position, %offset, what, "a part of the log cannot be read");
        if self
            .damage
            .as_ref()
            .is_none_or(|first| offset < first.offset)
        {
            self.damage = Some(Damage {
                path,
                position,
                offset,
                what,
            });
        }
    }

    fn holes_in(&mut self, segment: Offset, holes: &[Hole]) {
        for hole in holes {
            let what = format!("the records up to {} cannot be read", hole.end);
            self.damaged(segment, (hole.first, hole.position), &what);
            self.holes.push((segment, *hole));
        }
    }

    /// The segments from this number on follow nothing.
    fn move_aside(&mut self, from: usize) {
        let more: Vec<Offset> = self
            .segments
            .drain(from..)
            .map(|(first, _)| first)
            .collect();
        self.aside.splice(0..0, more);
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
        let unproven = Unproven::load(storage).map_err(at(unproven::PATH))?;
        Ok(Found {
            segments,
            copies,
            mark,
            unproven,
        })
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
        look: Look,
    ) -> Result<Ending, OpenError> {
        let mut ending = Ending {
            segments: self.segments.clone(),
            ..Ending::default()
        };
        if look == Look::Through || self.begins_late() {
            self.read_through(storage, cluster, &mut ending)?;
        }
        // All before the last segment was synced before that was made.
        let last_first = self
            .segments
            .last()
            .map_or(Offset::ZERO, |(first, _)| *first);
        let floor = self.mark_end().max(last_first);
        while let Some(&(first, size)) = ending.segments.last() {
            let path = segment::path(first);
            let file = storage.open(&path, OpenHow::Existing).map_err(at(&path))?;
            // What is read below may still be in the cache only.
            file.sync().map_err(at(&path))?;
            let header = match SegmentHeader::read(&*file).map_err(at(&path))? {
                Ok(header) => header,
                Err(error @ HeaderError::Version(_)) => return Err(format_of(first, &error)),
                Err(error) if self.mark.is_none() || first < floor => {
                    match derive_header(storage, cluster, &ending.segments)? {
                        Some(header) => ending.headers.push(header.clone()),
                        None => {
                            ending.damaged(first, (first, 0), &error);
                            ending.move_aside(ending.segments.len() - 1);
                            continue;
                        }
                    }
                    ending.headers[ending.headers.len() - 1].clone()
                }
                Err(_) => {
                    ending.torn_bytes += size;
                    ending.removed.push(first);
                    ending.segments.pop();
                    continue;
                }
            };
            check_header(&header, first, cluster)?;
            if header.number + 1 != ending.segments.len() as u64 {
                if look == Look::Through {
                    let what = format!("it is number {} of the segments", header.number);
                    return Err(OpenError::Format { path, what });
                }
                // One is missing, or there are too many: all of them are looked at.
                return self.read_end(storage, cluster, Look::Through);
            }
            let below = match self.mark {
                Some(_) => floor,
                None => Offset(u64::MAX),
            };
            let extent = (Offset(u64::MAX), size);
            let scanned =
                segment::scan_past_damage(&*file, &header, extent, below).map_err(at(&path))?;
            ending.holes_in(first, &scanned.holes);
            self.check_end(&mut ending, first, &scanned, floor)?;
            ending.torn_bytes += scanned.rest_bytes;
            if scanned.end == first && first > Offset::ZERO {
                ending.removed.push(first);
                ending.segments.pop();
                continue;
            }
            ending.last = Some(Last {
                file,
                size,
                header,
                scanned,
            });
            break;
        }
        if ending.last.is_none() && floor > Offset::ZERO && ending.damage.is_none() {
            let what = "the records of the log are missing";
            ending.damaged(Offset::ZERO, (Offset::ZERO, 0), &what);
        }
        Ok(ending)
    }

    /// Whether the log's beginning is missing.
    fn begins_late(&self) -> bool {
        let first = self.segments.first().map(|(first, _)| *first);
        first.is_some_and(|first| first > Offset::ZERO)
    }

    /// Reads all segments but the last: finds their holes, and where they stop following each
    /// other. What lies behind that belongs to nothing.
    fn read_through(
        &self,
        storage: &dyn Storage,
        cluster: Option<ClusterId>,
        ending: &mut Ending,
    ) -> Result<(), OpenError> {
        let mut expected = Offset::ZERO;
        for nth in 0..self.segments.len() {
            let (first, size) = self.segments[nth];
            if first != expected {
                ending.damaged(expected, (expected, 0), &"the segment is missing");
                ending.move_aside(nth);
                return Ok(());
            }
            let Some(&(next, _)) = self.segments.get(nth + 1) else {
                return Ok(());
            };
            let path = segment::path(first);
            let file = storage.open(&path, OpenHow::Existing).map_err(at(&path))?;
            let header = match SegmentHeader::read(&*file).map_err(at(&path))? {
                Ok(header) => header,
                Err(error @ HeaderError::Version(_)) => return Err(format_of(first, &error)),
                Err(error) => {
                    match derive_header(storage, cluster, &self.segments[..=nth])? {
                        Some(header) => ending.headers.push(header.clone()),
                        None => {
                            ending.damaged(first, (first, 0), &error);
                            ending.move_aside(nth);
                            return Ok(());
                        }
                    }
                    ending.headers[ending.headers.len() - 1].clone()
                }
            };
            check_header(&header, first, cluster)?;
            let scanned = segment::scan_past_damage(&*file, &header, (next, size), next)
                .map_err(at(&path))?;
            ending.holes_in(first, &scanned.holes);
            // Where the next segment begins is known only if that follows.
            let follows = self.follows(storage, nth + 1)?;
            expected = if follows { next } else { scanned.end };
            if scanned.end < expected {
                let hole = Hole {
                    first: scanned.end,
                    end: next,
                    position: scanned.position,
                    end_position: None,
                };
                ending.holes_in(first, &[hole]);
            }
        }
        Ok(())
    }

    /// Whether the segment says itself that it is the one of this number.
    fn follows(&self, storage: &dyn Storage, nth: usize) -> Result<bool, OpenError> {
        let path = segment::path(self.segments[nth].0);
        let file = storage.open(&path, OpenHow::Existing).map_err(at(&path))?;
        let header = SegmentHeader::read(&*file).map_err(at(&path))?;
        Ok(header.is_ok_and(|header| header.number == nth as u64))
    }

    /// Tells damage from a torn tail.
    fn check_end(
        &self,
        ending: &mut Ending,
        first: Offset,
        scanned: &Scanned,
        floor: Offset,
    ) -> Result<(), OpenError> {
        let place = (scanned.end, scanned.position);
        match &scanned.bad {
            Some(bad) if self.mark.is_none() => {
                let what = format!("{bad}, and no mark tells how far the log was synced");
                ending.damaged(first, place, &what);
            }
            Some(bad) if scanned.end < floor => ending.damaged(first, place, bad),
            None if scanned.end < floor => {
                let what = format!("the records up to {floor} are missing");
                ending.damaged(first, place, &what);
            }
            _ if !ending.removed.is_empty() && scanned.end > floor => {
                return Err(OpenError::Damaged {
                    path: segment::path(first),
                    position: scanned.position,
                    offset: scanned.end,
                    what: format!("it goes on behind {floor}, where the next segment began"),
                });
            }
            Some(_) | None => {}
        }
        Ok(())
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
        for first in ending.aside.iter().rev() {
            aside::move_aside(storage, *first).map_err(at(aside::DIR))?;
        }
        let end = ending.end();
        let last_first = ending.last.as_ref().map(|last| last.header.first);
        for (first, size) in &ending.segments {
            if Some(*first) != last_first && self.is_doubtful(*first, ending) {
                let path = segment::path(*first);
                info!(%path, "a segment that was written to in place is copied");
                let file = storage.open(&path, OpenHow::Existing).map_err(at(&path))?;
                let made = ending.headers.iter().find(|header| header.first == *first);
                let header = match made {
                    Some(made) => made.clone(),
                    None => SegmentHeader::read(&*file)
                        .map_err(at(&path))?
                        .map_err(|error| format_of(*first, &error))?,
                };
                copy(storage, &*file, (&header, *size), &ending.holes).map_err(at(&path))?;
            }
        }
        let file = match &ending.last {
            None => None,
            // Reading these records proves nothing: they may be in the cache only, and after a
            // sync that failed the cache would be believed for ever. A header without records is
            // as doubtful: the mark says nothing about it.
            Some(last)
                if end > self.mark_end()
                    || end == last.header.first
                    || self.is_doubtful(last.header.first, ending) =>
            {
                let path = segment::path(last.header.first);
                info!(%path, %end, mark = %self.mark_end(), "records above the mark are copied");
                let extent = (&last.header, last.scanned.position);
                let copied = copy(storage, &*last.file, extent, &ending.holes);
                Some(copied.map_err(at(&path))?)
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
        // Synced even where it is raised: the start before may have ended at a sync of it that
        // failed, and a mark that is in the cache alone is none after a power cut.
        mark.write_synced(now).map_err(at(mark::PATH))?;
        if !self.unproven.is_empty() {
            storage.remove(unproven::PATH).map_err(at(unproven::PATH))?;
        }
        storage.sync_dir("").map_err(at(""))?;
        Ok((mark, file))
    }

    /// Whether a segment must be copied: its header is made again, or it was written to in place,
    /// which only a new file proves.
    fn is_doubtful(&self, first: Offset, ending: &Ending) -> bool {
        let mut made = ending.headers.iter();
        self.unproven.contains(first) || made.any(|header| header.first == first)
    }
}

/// Writes the records of a segment, up to the byte `limit`, to a new file that takes its place; what
/// lies in its holes as it is.
fn copy(
    storage: &dyn Storage,
    from: &dyn StorageFile,
    (header, limit): (&SegmentHeader, u64),
    holes: &[(Offset, Hole)],
) -> io::Result<Arc<dyn StorageFile>> {
    let copy_path = segment::copy_path(header.first);
    let file = storage.open(&copy_path, OpenHow::Truncated)?;
    let mut holes = holes
        .iter()
        .filter(|(segment, _)| *segment == header.first)
        .map(|(_, hole)| hole);
    let mut queued = header.encode();
    let begin = (header.first, header.encoded_bytes());
    let mut scan = Scan::new(from, begin, limit);
    loop {
        // Read and checked again: the cache may have given way to the disk in between.
        match scan.next() {
            Ok(None) => break,
            Ok(Some((_, record))) => queued.extend_from_slice(record),
            Err(ScanError::Io(error)) => return Err(error),
            Err(ScanError::Bad(error)) => match holes.next() {
                Some(&Hole {
                    position,
                    end,
                    end_position: Some(end_position),
                    ..
                }) if position == scan.position() => {
                    let begins = queued.len();
                    queued.resize(begins + (end_position - position) as usize, 0);
                    from.read_at(position, &mut queued[begins..])?;
                    scan = Scan::new(from, (end, end_position), limit);
                }
                // Nothing that can be read follows in this segment.
                Some(hole) if hole.position == scan.position() => break,
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            },
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

/// The header of the last of these segments, which cannot be read, from the log before it; `None`
/// where that cannot be read either, or no record follows where the header would end.
fn derive_header(
    storage: &dyn Storage,
    cluster: Option<ClusterId>,
    segments: &[(Offset, u64)],
) -> Result<Option<SegmentHeader>, OpenError> {
    let (Some(cluster), Some((&(first, size), before))) = (cluster, segments.split_last()) else {
        return Ok(None);
    };
    let mut epoch_starts = Vec::new();
    if let Some(&(before_first, before_size)) = before.last() {
        let path = segment::path(before_first);
        let file = storage.open(&path, OpenHow::Existing).map_err(at(&path))?;
        let Ok(header) = SegmentHeader::read(&*file).map_err(at(&path))? else {
            return Ok(None);
        };
        let scanned = segment::scan(&*file, &header, first, before_size).map_err(at(&path))?;
        if scanned.end != first || header.number + 1 != before.len() as u64 {
            return Ok(None);
        }
        epoch_starts = scanned.epochs.newest_before(first, EPOCH_STARTS_MAX);
    } else if first > Offset::ZERO {
        return Ok(None);
    }
    let header = SegmentHeader {
        cluster,
        first,
        number: before.len() as u64,
        epoch_starts,
    };
    let path = segment::path(first);
    let file = storage.open(&path, OpenHow::Existing).map_err(at(&path))?;
    let scanned = segment::scan(&*file, &header, first.plus(1), size).map_err(at(&path))?;
    Ok((scanned.end > first).then_some(header))
}

/// Checks that a segment is this cluster's, and the one of its name.
fn check_header(
    header: &SegmentHeader,
    first: Offset,
    cluster: Option<ClusterId>,
) -> Result<(), OpenError> {
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
            Err(OpenError::Format { path, what })
        }
        Some(expected) if expected != header.cluster => {
            let found = header.cluster;
            Err(OpenError::OtherCluster {
                path,
                found,
                expected,
            })
        }
        Some(_) => Ok(()),
    }
}

fn format_of(segment: Offset, error: &HeaderError) -> OpenError {
    OpenError::Format {
        path: segment::path(segment),
        what: error.to_string(),
    }
}

fn at<E: Into<io::Error>>(path: &str) -> impl FnOnce(E) -> OpenError + use<E> {
    let path = path.to_owned();
    |source| OpenError::Io {
        path,
        source: source.into(),
    }
}

mod holes;
mod mend;

pub(crate) use holes::HeldBack;
use holes::Holes;

#[cfg(test)]
mod hole_tests;
#[cfg(test)]
mod mend_tests;
#[cfg(test)]
mod tests;

//! Opening a log: finds its end, reports damage, and then puts the directory in order.
//!
//! Owns the order of a start: first everything is examined, then damage is reported, and only then a byte is
//! changed. Keeps rules 5 and 10.

use super::*;
use crate::frame::FrameError;

/// Bytes that a copy of a segment writes at once.
const COPY_BYTES: usize = 1 << 20;

/// Result of opening a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenReport {
    /// The offset after the last record before which everything can be read; durable.
    pub(crate) end: Offset,
    /// Bytes of a torn tail that were cut away.
    pub(crate) torn_bytes: u64,
    /// The first damaged offset below the mark, if there is one.
    pub(crate) damaged: Option<Offset>,
    /// `true` if the last stop was a clean one.
    pub(crate) clean: bool,
    /// Parts that were rebuilt because they were missing or unreadable.
    pub(crate) repairs: Repairs,
}

/// Parts of a directory that a start rebuilt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Repairs {
    /// Number of segment headers, rebuilt from the records around them.
    pub(crate) headers: u64,
    /// Number of marks, rebuilt from the end of the log.
    pub(crate) marks: u64,
}

/// Condition of a log when it is opened, before anything is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogCondition {
    /// The first damage below the mark, if there is any.
    pub(crate) damage: Option<Damage>,
    /// Previous end of the log, as certain as the end of an intact log: given by its mark, and by the last readable
    /// record, regardless of damage before it. Absent if a part that would tell is missing.
    pub(crate) known_end: Option<Offset>,
}

/// Damage that was found by opening a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Path of the file.
    pub(crate) path: String,
    /// Position of its first byte in the file.
    pub(crate) position: u64,
    /// The first offset that cannot be read.
    pub(crate) offset: Offset,
    /// Description of the damage.
    pub(crate) what: String,
}

/// Amount of a log that is read when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenScan {
    /// The last segment: the ones before it are read when they are needed. For a log that counts as intact, so that
    /// one without a mark is damaged.
    LastSegment,
    /// The whole log, for one that is not known to be intact.
    AllSegments,
}

/// Opens the log in `storage`, or prepares an empty one. `cluster` is the one in the meta file.
///
/// Examines first, then changes: if anything is refused, not a byte has been written. In between, `before_changes`
/// receives the condition of the log, and must make its consequences durable (that the log is not intact, and where
/// it ended): the changes remove the evidence.
///
/// # Errors
///
/// [`OpenError::Damaged`] when segments contradict each other, [`OpenError::Format`] and
/// [`OpenError::OtherCluster`] when a file is not this node's, [`OpenError::Io`] when the storage refuses, and any
/// error from `before_changes`.
pub(crate) fn open(
    storage: Arc<dyn Storage>,
    options: LogOptions,
    cluster: Option<ClusterId>,
    look: OpenScan,
    before_changes: impl FnOnce(&LogCondition) -> Result<(), OpenError>,
) -> Result<(LogFiles, Arc<LogView>, OpenReport), OpenError> {
    let found = DirectoryState::look(&*storage)?;
    let lacks_mark = look == OpenScan::LastSegment && found.mark.is_none();
    // Segments to be copied must be read, and may turn out to be damaged.
    let look = match found.unproven.is_empty() && !lacks_mark {
        true => look,
        false => OpenScan::AllSegments,
    };
    let mut ending = found.read_end(&*storage, cluster, look)?;
    if lacks_mark {
        found.report_missing_mark(&mut ending);
    }
    let known_end = found.known_end(&*storage, &ending)?;
    let end = ending.end();
    let clean = found.is_clean(&ending);
    let condition = LogCondition {
        damage: ending.damage.take(),
        known_end,
    };
    before_changes(&condition)?;
    ending.damage = condition.damage;
    if ending.torn_bytes > 0 {
        warn!(%end, torn_bytes = ending.torn_bytes, "a torn tail is cut from the log");
    }
    let (mark, file) = found.apply(&*storage, &ending)?;
    let repairs = found.repairs(&ending);
    let holes = Holes::found(ending.holes, HeldBack::Yes);
    let whole_end = holes.first().unwrap_or(end);
    let view = LogView::new(storage.clone(), options.clone(), cluster, end);
    let view = Arc::new(view);
    view.found_segments(&ending.segments);
    let active = ending.last.zip(file).map(|(last, file)| {
        let (first, bytes) = (last.header.first, last.scanned.position);
        view.set_active(
            first,
            bytes,
            file.clone(),
            last.scanned.index,
            last.scanned.epochs,
        );
        // Zeros after the end remain if the file does; a copy has none.
        let size = match Arc::ptr_eq(&file, &last.file) {
            true => last.size,
            false => bytes,
        };
        let header_bytes = last.header.encoded_bytes();
        Active {
            first,
            file,
            bytes,
            size,
            header_bytes,
            number: last.header.number,
        }
    });
    view.damaged(holes.all(), holes.readable_limit(), end);
    view.count_repairs(repairs);
    let report = OpenReport {
        end: whole_end,
        torn_bytes: ending.torn_bytes,
        damaged: ending.damage.map(|damage| damage.offset),
        clean,
        repairs,
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
        unfinished_segment: None,
        failure: None,
    };
    Ok((files, view, report))
}

/// Returns `true` if anything was ever written to the log in `storage`.
///
/// # Errors
///
/// [`OpenError::Io`].
pub(crate) fn was_used(storage: &dyn Storage) -> Result<bool, OpenError> {
    let mark = Mark::load(storage).map_err(at(mark::PATH))?;
    let names = storage.list(DIR).map_err(at(DIR))?;
    let has_segment = names
        .iter()
        .any(|name| matches!(FileName::of(name), FileName::Segment(_)));
    Ok(has_segment || mark.is_some_and(|mark| mark.end > Offset::ZERO))
}

/// Content of the directory before anything is changed.
#[derive(Debug)]
struct DirectoryState {
    /// First offset and size of each segment, ascending.
    segments: Vec<(Offset, u64)>,
    /// Names of copies that were never finished.
    copies: Vec<String>,
    /// Absent if the file is missing or unreadable.
    mark: Option<Mark>,
    mark_is_there: bool,
    unproven: Unproven,
}

/// End of the log, as it was read.
#[derive(Debug, Default)]
struct LogEnd {
    /// Segments that stay.
    segments: Vec<(Offset, u64)>,
    /// Torn and empty segments that are removed, newest first.
    removed: Vec<Offset>,
    /// Segments that no longer follow anything, ascending.
    quarantine: Vec<Offset>,
    /// Unreadable headers, rebuilt from the log before them.
    headers: Vec<SegmentHeader>,
    /// Holes in the segments that stay, with the segment of each.
    holes: Vec<(Offset, Hole)>,
    /// The last segment that stays.
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

impl LogEnd {
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

    /// Marks the segments from this number on for quarantine: they follow nothing.
    fn move_to_quarantine(&mut self, from: usize) {
        let more: Vec<Offset> = self
            .segments
            .drain(from..)
            .map(|(first, _)| first)
            .collect();
        self.quarantine.splice(0..0, more);
    }
}

impl DirectoryState {
    fn look(storage: &dyn Storage) -> Result<DirectoryState, OpenError> {
        let mark = Mark::load(storage).map_err(at(mark::PATH))?;
        let names = storage.list("").map_err(at(""))?;
        let mark_is_there = names.iter().any(|name| name == mark::PATH);
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
        Ok(DirectoryState {
            segments,
            copies,
            mark,
            mark_is_there,
            unproven,
        })
    }

    /// Returns the end below which everything is known to be synced; zero if nothing is known.
    fn mark_end(&self) -> Offset {
        self.mark.map_or(Offset::ZERO, |mark| mark.end)
    }

    /// Reports a missing mark as damage of a log that counts as intact: nothing tells how far it was synced, so its
    /// last records, or all of them, may be missing.
    fn report_missing_mark(&self, ending: &mut LogEnd) {
        if ending.damage.is_some() {
            return;
        }
        let what = match self.mark_is_there {
            true => "it is unreadable, and nothing else tells how far the log was synced",
            false => "it is missing, and nothing else tells how far the log was synced",
        };
        ending.damage = Some(Damage {
            path: mark::PATH.to_owned(),
            position: 0,
            offset: ending.end(),
            what: what.to_owned(),
        });
    }

    /// Returns the previous end of the log, if it is known. As always, unreadable data above the mark counts as
    /// torn.
    fn known_end(
        &self,
        storage: &dyn Storage,
        ending: &LogEnd,
    ) -> Result<Option<Offset>, OpenError> {
        let Some(mark) = self.mark else {
            return Ok(None);
        };
        if ending.damage.is_none() {
            return Ok(Some(mark.end.max(ending.end())));
        }
        // Everything before the last segment was synced before that one was created.
        let Some(&(first, size)) = self.segments.last() else {
            return Ok(Some(mark.end));
        };
        let path = segment::path(first);
        let file = storage.open(&path, OpenHow::Existing).map_err(at(&path))?;
        let made = ending.headers.iter().find(|header| header.first == first);
        let header = match SegmentHeader::read(&*file).map_err(at(&path))? {
            Ok(header) => Some(header),
            Err(_) => made.cloned(),
        };
        let Some(header) = header else {
            // The records after it cannot be read. Above the mark there are none.
            return Ok((first >= mark.end).then_some(first));
        };
        let extent = (Offset(u64::MAX), size);
        let scanned = segment::scan_past_damage(&*file, &header, extent, Offset(u64::MAX))
            .map_err(at(&path))?;
        Ok(Some(mark.end.max(first).max(scanned.end)))
    }

    /// Counts the parts that [`DirectoryState::apply`] rebuilds. A directory in which nothing was ever written has no mark
    /// that could be missing.
    fn repairs(&self, ending: &LogEnd) -> Repairs {
        let was_used = self.mark_is_there || !self.segments.is_empty() || ending.damage.is_some();
        Repairs {
            headers: ending.headers.len() as u64,
            marks: u64::from(self.mark.is_none() && was_used),
        }
    }

    fn was_cutting(&self) -> bool {
        let state = self.mark.map(|mark| mark.state);
        state == Some(MarkState::Cutting)
    }

    fn is_clean(&self, ending: &LogEnd) -> bool {
        let end = ending.end();
        match self.mark {
            Some(mark) => {
                mark.state == MarkState::Clean && mark.end == end && ending.torn_bytes == 0
            }
            None => self.segments.is_empty(),
        }
    }

    /// Finds the end of the log, reading as little as possible and writing nothing.
    fn read_end(
        &self,
        storage: &dyn Storage,
        cluster: Option<ClusterId>,
        look: OpenScan,
    ) -> Result<LogEnd, OpenError> {
        let mut ending = LogEnd {
            segments: self.segments.clone(),
            ..LogEnd::default()
        };
        if look == OpenScan::AllSegments || self.lacks_beginning() {
            self.read_through(storage, cluster, &mut ending)?;
        }
        // Everything before the last segment was synced before that one was created.
        let last_first = self
            .segments
            .last()
            .map_or(Offset::ZERO, |(first, _)| *first);
        let floor = self.mark_end().max(last_first);
        while let Some(&(first, size)) = ending.segments.last() {
            let path = segment::path(first);
            let file = storage.open(&path, OpenHow::Existing).map_err(at(&path))?;
            // The data that is read below may still be in the cache only.
            file.sync().map_err(at(&path))?;
            let header = match SegmentHeader::read(&*file).map_err(at(&path))? {
                Ok(header) => header,
                Err(error @ HeaderError::Version(_)) => return Err(format_of(first, &error)),
                Err(error) if self.mark.is_none() || first < floor => {
                    match derive_header(storage, cluster, &ending.segments)? {
                        Some(header) => ending.headers.push(header.clone()),
                        None => {
                            ending.damaged(first, (first, 0), &error);
                            ending.move_to_quarantine(ending.segments.len() - 1);
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
                if look == OpenScan::AllSegments {
                    let what = format!("it is number {} of the segments", header.number);
                    return Err(OpenError::Format { path, what });
                }
                // One is missing, or there are too many: all of them are examined.
                return self.read_end(storage, cluster, OpenScan::AllSegments);
            }
            let below = match self.mark {
                Some(_) => floor,
                None => Offset(u64::MAX),
            };
            let extent = (Offset(u64::MAX), size);
            let scanned =
                segment::scan_past_damage(&*file, &header, extent, below).map_err(at(&path))?;
            // Its holes were already found when all segments were read.
            ending.holes.retain(|(segment, _)| *segment != first);
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

    /// Returns `true` if the log's beginning is missing.
    fn lacks_beginning(&self) -> bool {
        let first = self.segments.first().map(|(first, _)| *first);
        first.is_some_and(|first| first > Offset::ZERO)
    }

    /// Reads all segments but the last: finds their holes, and the point where they stop following each other.
    /// Segments after that belong to nothing.
    fn read_through(
        &self,
        storage: &dyn Storage,
        cluster: Option<ClusterId>,
        ending: &mut LogEnd,
    ) -> Result<(), OpenError> {
        let mut expected = Offset::ZERO;
        for nth in 0..self.segments.len() {
            let (first, size) = self.segments[nth];
            if first != expected {
                ending.damaged(expected, (expected, 0), &"the segment is missing");
                ending.move_to_quarantine(nth);
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
                            ending.move_to_quarantine(nth);
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
            // The beginning of the next segment is known only if that segment follows.
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

    /// Returns `true` if the segment's own header has this number.
    fn follows(&self, storage: &dyn Storage, nth: usize) -> Result<bool, OpenError> {
        let path = segment::path(self.segments[nth].0);
        let file = storage.open(&path, OpenHow::Existing).map_err(at(&path))?;
        let header = SegmentHeader::read(&*file).map_err(at(&path))?;
        Ok(header.is_ok_and(|header| header.number == nth as u64))
    }

    /// Distinguishes damage from a torn tail.
    fn check_end(
        &self,
        ending: &mut LogEnd,
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
                    what: format!("it continues beyond {floor}, where the next segment began"),
                });
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    /// Brings the directory to the state that `ending` describes, all of it durable, and writes the mark. Returns
    /// the last segment's file.
    fn apply(
        &self,
        storage: &dyn Storage,
        ending: &LogEnd,
    ) -> Result<(MarkFile, Option<Arc<dyn StorageFile>>), OpenError> {
        let repairs = self.repairs(ending);
        if repairs.marks > 0 {
            let end = ending.end();
            warn!(path = mark::PATH, %end, "the mark is missing or unreadable and is rewritten");
        }
        for header in &ending.headers {
            let path = segment::path(header.first);
            warn!(
                path,
                "the header of a segment is unreadable and is rebuilt from the log"
            );
        }
        storage.create_dir(DIR).map_err(at(DIR))?;
        for path in &self.copies {
            storage.remove(path).map_err(at(path))?;
        }
        for first in &ending.removed {
            let path = segment::path(*first);
            storage.remove(&path).map_err(at(&path))?;
            storage.sync_dir(DIR).map_err(at(DIR))?;
        }
        for first in ending.quarantine.iter().rev() {
            quarantine::move_to_quarantine(storage, *first).map_err(at(quarantine::DIR))?;
        }
        let end = ending.end();
        let last_first = ending.last.as_ref().map(|last| last.header.first);
        for (nth, (first, size)) in ending.segments.iter().enumerate() {
            if Some(*first) != last_first && self.is_doubtful(*first, ending) {
                let path = segment::path(*first);
                info!(%path, "copying a segment that was written to in place");
                let file = storage.open(&path, OpenHow::Existing).map_err(at(&path))?;
                let made = ending.headers.iter().find(|header| header.first == *first);
                let header = match made {
                    Some(made) => made.clone(),
                    None => SegmentHeader::read(&*file)
                        .map_err(at(&path))?
                        .map_err(|error| format_of(*first, &error))?,
                };
                let next = ending.segments.get(nth + 1);
                let until = next.map_or(Offset(u64::MAX), |(next, _)| *next);
                copy(storage, &*file, &header, (until, *size), &ending.holes).map_err(at(&path))?;
            }
        }
        let file = match &ending.last {
            None => None,
            // Reading these records proves nothing: they may be in the cache only, and after a failed sync the
            // cache would be trusted for ever. A header without records is as doubtful: the mark says nothing about
            // it. And a file that was truncated in place may be shorter in the cache only.
            Some(last)
                if end > self.mark_end()
                    || end == last.header.first
                    || last.scanned.rest_bytes > 0
                    || self.was_cutting()
                    || self.is_doubtful(last.header.first, ending) =>
            {
                let path = segment::path(last.header.first);
                info!(%path, %end, mark = %self.mark_end(), "the last segment is copied");
                let extent = (end, last.scanned.position);
                let copied = copy(storage, &*last.file, &last.header, extent, &ending.holes);
                Some(copied.map_err(at(&path))?)
            }
            Some(last) => Some(last.file.clone()),
        };
        // The previous start may have ended between creating a file and syncing its entry.
        storage.sync_dir(DIR).map_err(at(DIR))?;
        let mark = MarkFile::open(storage).map_err(at(mark::PATH))?;
        let now = Mark {
            end,
            state: MarkState::Open,
        };
        // Synced even if it is raised: the previous start may have ended at a failed sync of the mark, and a mark
        // that is only in the cache is gone after a power cut.
        mark.write_synced(now).map_err(at(mark::PATH))?;
        if !self.unproven.is_empty() {
            storage.remove(unproven::PATH).map_err(at(unproven::PATH))?;
        }
        storage.sync_dir("").map_err(at(""))?;
        Ok((mark, file))
    }

    /// Returns `true` if a segment must be copied: its header was rebuilt, or it was written to in place, which
    /// only a new file proves.
    fn is_doubtful(&self, first: Offset, ending: &LogEnd) -> bool {
        let mut made = ending.headers.iter();
        self.unproven.contains(first) || made.any(|header| header.first == first)
    }
}

/// Copies the records of a segment, up to the offset `until` or the byte `limit`, to a new file that replaces it;
/// the bytes in its holes are copied as they are.
fn copy(
    storage: &dyn Storage,
    from: &dyn StorageFile,
    header: &SegmentHeader,
    (until, limit): (Offset, u64),
    holes: &[(Offset, Hole)],
) -> io::Result<Arc<dyn StorageFile>> {
    let copy_path = segment::copy_path(header.first);
    let file = storage.open(&copy_path, OpenHow::Truncated)?;
    let mut holes = holes
        .iter()
        .filter(|(segment, _)| *segment == header.first)
        .map(|(_, hole)| hole)
        .peekable();
    let mut queued = header.encode();
    let begin = (header.first, header.encoded_bytes());
    let mut scan = Scan::new(from, begin, limit);
    while scan.offset() < until {
        if let Some(hole) = holes.next_if(|hole| hole.position == scan.position()) {
            let Some(end_position) = hole.end_position else {
                // No readable record follows in this segment.
                break;
            };
            let begins = queued.len();
            queued.resize(begins + (end_position - hole.position) as usize, 0);
            from.read_at(hole.position, &mut queued[begins..])?;
            scan = Scan::new(from, (hole.end, end_position), limit);
            continue;
        }
        // Read and checked again: the cache may have given way to the disk in between.
        match scan.next() {
            Ok(None) => break,
            Ok(Some((_, record))) => queued.extend_from_slice(record),
            Err(ScanError::Io(error)) => return Err(error),
            Err(ScanError::Bad(error)) => return Err(error.into()),
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

/// Rebuilds the unreadable header of the last of these segments from the log before it; `None` if that is
/// unreadable too, or no record follows where the header would end.
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
    let before = header.epoch_starts.last().map(|newest| newest.epoch);
    let mut scan = Scan::new(&*file, (first, header.encoded_bytes()), size);
    let follows = match scan.next() {
        Ok(Some((frame, _))) => before.is_none_or(|before| before <= frame.epoch),
        Err(ScanError::Bad(error)) if error.is_unknown() => return Err(at(&path)(error)),
        Ok(None) | Err(ScanError::Bad(_)) => false,
        Err(ScanError::Io(error)) => return Err(at(&path)(error)),
    };
    Ok(follows.then_some(header))
}

/// Checks that a segment belongs to this cluster and matches its name.
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

pub(super) fn at<E: Into<io::Error>>(path: &str) -> impl FnOnce(E) -> OpenError + use<E> {
    let path = path.to_owned();
    |source| {
        let source: io::Error = source.into();
        match FrameError::unknown_in(&source) {
            Some(frame) => OpenError::Format {
                path,
                what: frame.to_string(),
            },
            None => OpenError::Io { path, source },
        }
    }
}

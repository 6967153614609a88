//! The shared, read-only side of a log: its ends, the recent tail, the beginnings of epochs, and reads from tail
//! and files.
//!
//! Owns the in-memory state of the log, and the handles that readers use. Only [`LogFiles`](super::LogFiles)
//! changes it, after the files; a cut is the exception: it is published here before the files change, so that
//! concurrent readers notice. No lock is held across I/O. Keeps rules 2, 10 and 11.

use std::{
    collections::VecDeque,
    fmt, io,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::{
    cuts::Cuts,
    files::{LogOptions, Repairs},
    segment::{self, Epochs, HeaderError, Hole, Index, OpenSegment, ScanError, SegmentHeader},
};
use crate::{
    error::ReadError,
    frame::{Claimed, FrameBatch, FrameError, HEADER_BYTES, encoded_len},
    limits::{BATCH_BYTES_MAX, LONG_FRAMES_KEPT, SEGMENTS_OPEN_MAX},
    storage::{OpenHow, Storage, StorageFile},
    types::{ClusterId, Epoch, EpochStart, Offset},
    watch,
};

/// View of a log for everyone but the writer. `Send + Sync`; no lock is held across I/O.
#[derive(Debug)]
pub(crate) struct LogView {
    storage: Arc<dyn Storage>,
    options: LogOptions,
    /// Copies of the ends in `state`, for readers that only want an end.
    written_end: AtomicU64,
    durable_end: AtomicU64,
    shown: watch::Sender<Offset>,
    /// Nothing from here on is held, because of a hole; `u64::MAX` if there is none.
    readable_limit: AtomicU64,
    /// Number of records quarantined before a cut, since the log was opened.
    quarantined: AtomicU64,
    /// Callback for records that cannot be read.
    on_damage: OnceLock<OnDamage>,
    /// Parts that the start rebuilt.
    repairs: OnceLock<Repairs>,
    state: Mutex<State>,
}

/// Callback for an offset that cannot be read.
struct OnDamage(Box<dyn Fn(Offset) + Send + Sync>);

impl fmt::Debug for OnDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnDamage")
    }
}

/// State of the log at one instant.
#[derive(Debug, Default)]
struct State {
    written_end: Offset,
    /// Ascending and without gaps: each ends where the next begins, the last at `written_end`.
    segments: Vec<Segment>,
    /// The last segment's file.
    active: Option<Arc<OpenSegment>>,
    /// Older segments that readers have opened, the most recently used one last.
    opened: VecDeque<Arc<OpenSegment>>,
    /// The newest records, without gaps, up to `written_end`.
    tail: VecDeque<FrameBatch>,
    tail_bytes: usize,
    epochs: Epochs,
    cluster: Option<ClusterId>,
    /// Long frames that were read from files, by segment and position, the newest last.
    long_frames: VecDeque<(u64, u64, FrameBatch)>,
    /// Known holes, with the segment of each, ascending.
    holes: Vec<(Offset, Hole)>,
    /// Cuts since the log was opened: records read across a cut may be of two branches.
    cuts: Cuts,
    /// Id of the next segment.
    next_id: u64,
}

/// Position of a segment in the log, opened or not.
#[derive(Clone, Copy, Debug)]
struct Segment {
    id: u64,
    first: Offset,
    /// Bytes that belong to the log; the file may have more.
    bytes: u64,
}

/// Location of some records, at the instant of `cuts`.
#[derive(Debug)]
struct Place {
    segment: Segment,
    /// The offset after the last record of the segment.
    end: Offset,
    cuts: u64,
    cluster: Option<ClusterId>,
    opened: Option<Arc<OpenSegment>>,
}

/// Returns the beginning of each hole of a segment, and offset and position of the first frame after it.
fn holes_of(
    holes: &[(Offset, Hole)],
    segment: Offset,
) -> impl Iterator<Item = (Offset, Offset, u64)> + use<'_> {
    let holes = holes.iter().filter(move |(of, _)| *of == segment);
    holes.filter_map(|(_, hole)| Some((hole.first, hole.end, hole.end_position?)))
}

impl LogView {
    /// Returns the offset after the last written record: links may ship up to here.
    pub(crate) fn written_end(&self) -> Offset {
        Offset(self.written_end.load(Ordering::Acquire))
    }

    /// Returns the offset after the last record that this node holds (synced, under `SyncPolicy::Always`; otherwise
    /// written): readers see the log up to here.
    pub(crate) fn durable_end(&self) -> Offset {
        Offset(self.durable_end.load(Ordering::Acquire))
    }

    /// Follows the durable end. It goes back when the log is cut; also notified of every cut and of every change of
    /// holes.
    pub(crate) fn durable_end_watch(&self) -> watch::Receiver<Offset> {
        self.shown.subscribe()
    }

    /// Returns the bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.state()
            .segments
            .iter()
            .map(|segment| segment.bytes)
            .sum()
    }

    /// Returns the bytes of recent records in memory.
    #[cfg(feature = "sim")]
    pub(crate) fn tail_memory(&self) -> usize {
        self.state().tail_bytes
    }

    /// Returns the number of segments.
    pub(crate) fn segments(&self) -> usize {
        self.state().segments.len()
    }

    /// Returns the bytes of the log from the record at `from` on: exact if that is in the tail or begins a segment,
    /// otherwise as if all records of its segment were equally long. 0 from the end on.
    pub(crate) fn bytes_from(&self, from: Offset) -> u64 {
        let (batch, behind) = {
            let state = self.state();
            if from >= state.written_end {
                return 0;
            }
            if from < state.tail_first() {
                return state.bytes_from(from);
            }
            let at = state.tail.partition_point(|batch| batch.end() <= from);
            let behind = state.tail.range(at + 1..).map(|batch| batch.bytes().len());
            (state.tail[at].clone(), behind.sum::<usize>())
        };
        // Finding the record in its batch takes a while: not under the lock.
        let part = batch.slice(from, batch.end());
        part.map_or(0, |part| part.bytes().len() as u64) + behind as u64
    }

    /// Returns the number of records quarantined before a cut, since the log was opened.
    pub(crate) fn records_quarantined(&self) -> u64 {
        self.quarantined.load(Ordering::Relaxed)
    }

    /// Adds to the number of quarantined records.
    pub(super) fn quarantined(&self, records: u64) {
        self.quarantined.fetch_add(records, Ordering::Relaxed);
    }

    /// Returns the number of cuts since the log was opened. Records read before a cut and after it may be of two
    /// branches: a reader that follows the log compares the numbers.
    pub(crate) fn cuts(&self) -> u64 {
        self.state().cuts.count()
    }

    /// Like [`LogView::cuts`], and also returns the lowest end that a cut left since there were `count` of them.
    pub(crate) fn cuts_since(&self, count: u64) -> (u64, Option<Offset>) {
        let state = self.state();
        (state.cuts.count(), state.cuts.lowest_since(count))
    }

    /// Stores the parts that the start rebuilt. Once only.
    pub(super) fn count_repairs(&self, repairs: Repairs) {
        let first = self.repairs.set(repairs);
        assert!(first.is_ok(), "a log is opened once");
    }

    /// Returns the parts that the start rebuilt.
    pub(crate) fn repairs(&self) -> Repairs {
        self.repairs.get().copied().unwrap_or_default()
    }

    /// Returns `true` if the record at `offset` is known to be unreadable.
    pub(crate) fn is_hole(&self, offset: Offset) -> bool {
        self.state().is_hole(offset)
    }

    /// Registers `tell` to be called, from any thread, whenever a record could not be read and that was not known
    /// before. Once only.
    pub(crate) fn on_damage(&self, tell: impl Fn(Offset) + Send + Sync + 'static) {
        let first = self.on_damage.set(OnDamage(Box::new(tell)));
        assert!(first.is_ok(), "damage is reported to one callback only");
    }

    /// Returns the first offset of the tail in memory; the written end if the tail is empty.
    #[cfg(test)]
    pub(crate) fn tail_first(&self) -> Offset {
        self.state().tail_first()
    }

    /// Returns the newest `limit` pairs of the written log, ascending.
    pub(crate) fn epoch_starts(&self, limit: usize) -> Vec<EpochStart> {
        self.state().epochs.newest_before(Offset(u64::MAX), limit)
    }

    /// Returns the newest `limit` pairs whose first offset is below `before`, ascending; blocking: may read files.
    ///
    /// # Errors
    ///
    /// Like [`LogView::read`], if the pairs in memory do not reach back far enough.
    pub(crate) fn epoch_starts_before(
        &self,
        before: Offset,
        limit: usize,
    ) -> Result<Vec<EpochStart>, ReadError> {
        self.retry_across_cuts(before, limit, &[])
    }

    /// Like [`LogView::epoch_starts_before`], but returns all of them and reads across known holes: an epoch that
    /// begins in a hole is listed from the first readable record after it, or not at all.
    ///
    /// # Errors
    ///
    /// Like [`LogView::read`].
    pub(crate) fn readable_epoch_starts_before(
        &self,
        before: Offset,
    ) -> Result<Vec<EpochStart>, ReadError> {
        let range = |(_, hole): &(Offset, Hole)| hole.first..hole.end;
        let holes: Vec<Range<Offset>> = self.state().holes.iter().map(range).collect();
        self.retry_across_cuts(before, usize::MAX, &holes)
    }

    fn retry_across_cuts(
        &self,
        before: Offset,
        limit: usize,
        holes: &[Range<Offset>],
    ) -> Result<Vec<EpochStart>, ReadError> {
        loop {
            let (cuts, newest) = {
                let state = self.state();
                (
                    state.cuts.count(),
                    state.epochs.newest_before(before, limit),
                )
            };
            let found = self.walk_epoch_starts(before, limit, newest, holes);
            if self.cuts() == cuts {
                return self.report_new_damage(found);
            }
        }
    }

    /// Returns the epoch of the record at `offset`; `None` if it is not held, or older than the pairs in memory.
    pub(crate) fn epoch_at(&self, offset: Offset) -> Option<Epoch> {
        let state = self.state();
        if offset >= state.written_end {
            None
        } else {
            state.epochs.epoch_at(offset)
        }
    }

    /// Returns the frames with records of `from..until` from the tail in memory, up to `bytes_max` and at least one
    /// frame; `None` if `from` is not in the tail. They may begin before `from` and end after `until`. Empty if there
    /// is nothing to read: `from >= until`, or `from` is the written end. Never blocks.
    pub(crate) fn read_tail(
        &self,
        from: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> Option<Vec<FrameBatch>> {
        if from >= until {
            return Some(Vec::new());
        }
        // Whole batches under the lock, their parts after it.
        let mut batches = {
            let state = self.state();
            if from == state.written_end {
                return Some(Vec::new());
            }
            if !(state.tail_first()..state.written_end).contains(&from) {
                return None;
            }
            let begin = state.tail.partition_point(|batch| batch.end() <= from);
            let mut bytes = 0;
            let wanted = state
                .tail
                .range(begin..)
                .enumerate()
                .take_while(|(nth, batch)| {
                    // The first may have little after `from`: it is not counted.
                    let taken = bytes < bytes_max && batch.first() < until;
                    bytes += if *nth == 0 { 0 } else { batch.bytes().len() };
                    *nth == 0 || taken
                });
            wanted.map(|(_, batch)| batch.clone()).collect::<Vec<_>>()
        };
        batches[0] = batches[0].covering(from, until)?;
        let mut left = bytes_max;
        for nth in 0..batches.len() {
            let batch = batches[nth].covering(from, until)?.head(left);
            let bytes = batch.bytes().len();
            if nth > 0 && bytes > left {
                batches.truncate(nth);
                break;
            }
            let whole = batch.count() == batches[nth].count();
            batches[nth] = batch;
            left = left.saturating_sub(bytes);
            if !whole || left == 0 {
                batches.truncate(nth + 1);
                break;
            }
        }
        Some(batches)
    }

    /// Like `read_tail`, but also reads from the files if the tail does not reach back: may block. Everything from
    /// a file is checked. The result may end early, as at a segment's end.
    ///
    /// # Errors
    ///
    /// [`ReadError::Cut`] when `from` is beyond the written end: it was cut away. [`ReadError::Damaged`] when the
    /// frame at `from` is damaged; frames before damage are returned first. [`ReadError::Io`] when the storage
    /// refuses, or the frame is one that this program does not know.
    pub(crate) fn read(
        &self,
        from: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> Result<Vec<FrameBatch>, ReadError> {
        loop {
            if let Some(batches) = self.read_tail(from, until, bytes_max) {
                return Ok(batches);
            }
            let Some(place) = self.locate(from) else {
                return match self.written_end() {
                    end if end < from => Err(ReadError::Cut { offset: end }),
                    // The log grew between the two checks.
                    _ => continue,
                };
            };
            let batch = self.read_segment(&place, from, until, bytes_max);
            // Only a result read while nothing was cut is of one branch, errors included.
            if self.cuts() == place.cuts {
                return self.report_new_damage(batch.map(|batch| vec![batch]));
            }
        }
    }

    /// Checks the invariants.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let state = self.state();
        let mut next = state.tail_first();
        for batch in &state.tail {
            assert_eq!(batch.first(), next, "the tail has a gap");
            next = batch.end();
        }
        assert_eq!(
            next, state.written_end,
            "the tail ends elsewhere than the log"
        );
        let bytes: usize = state.tail.iter().map(|batch| batch.bytes().len()).sum();
        assert_eq!(bytes, state.tail_bytes, "the tail's bytes are miscounted");
        let bounded = bytes <= self.options.tail_bytes || state.tail.len() == 1;
        assert!(
            bounded,
            "the tail has {bytes} bytes in {} batches",
            state.tail.len()
        );
        for pair in state.segments.windows(2) {
            assert!(
                pair[0].first < pair[1].first,
                "segments {pair:?} are out of order"
            );
        }
        let last = state.segments.last();
        assert!(
            last.is_none_or(|last| last.first <= state.written_end),
            "{last:?}"
        );
        let active = state.active.as_ref().map(|active| active.id);
        assert_eq!(
            active,
            last.map(|last| last.id),
            "the active segment is not the last"
        );
        assert!(
            state.opened.len() <= SEGMENTS_OPEN_MAX,
            "{} are open",
            state.opened.len()
        );
        state.epochs.check();
        state.cuts.check();
        assert_eq!(state.written_end, self.written_end());
        assert_eq!(*self.shown.borrow(), self.durable_end());
        assert!(
            self.durable_end() <= state.written_end,
            "more is durable than written"
        );
    }

    /// Passes on the result of a read, and reports damage that was not known.
    fn report_new_damage<T>(&self, read: Result<T, ReadError>) -> Result<T, ReadError> {
        if let Err(ReadError::Damaged { offset, .. }) = &read
            && !self.is_hole(*offset)
        {
            self.publish_damage(*offset);
        }
        read
    }

    /// Reports that the record at `offset` cannot be read.
    fn publish_damage(&self, offset: Offset) {
        if let Some(OnDamage(tell)) = self.on_damage.get() {
            tell(offset);
        }
    }

    fn walk_epoch_starts(
        &self,
        before: Offset,
        limit: usize,
        mut pairs: Vec<EpochStart>,
        holes: &[Range<Offset>],
    ) -> Result<Vec<EpochStart>, ReadError> {
        loop {
            let oldest = pairs
                .first()
                .map_or(before.min(self.written_end()), |pair| pair.first);
            if pairs.len() >= limit || oldest == Offset::ZERO {
                pairs.drain(..pairs.len().saturating_sub(limit));
                return Ok(pairs);
            }
            let last = Offset(oldest.0 - 1);
            let Some(place) = self.locate(last) else {
                return Ok(pairs);
            };
            let opened = self.open_segment(&place)?;
            let header = self.read_header(&place, &*opened.file)?;
            let extent = (oldest, place.segment.bytes);
            let known = holes.iter().map(|hole| hole.end).rfind(|end| *end < oldest);
            let below = known.map_or(Offset::ZERO, |end| end.plus(1));
            let scanned = segment::scan_past_damage(&*opened.file, &header, extent, below)
                .map_err(|error| place.io(error))?;
            let is_known = |at: Offset| holes.iter().any(|hole| hole.contains(&at));
            if let Some(hole) = scanned.holes.iter().find(|hole| !is_known(hole.first)) {
                return Err(place.damaged((hole.first, hole.position), FrameError::Absent));
            }
            // What another node names may lie inside an append, whose beginning is then the end.
            if scanned.end < oldest && !scanned.splits && !is_known(scanned.end) {
                let error = scanned.bad.unwrap_or(FrameError::Absent);
                return Err(place.damaged((scanned.end, scanned.position), error));
            }
            let mut older = scanned.epochs.newest_before(oldest, limit);
            if older.is_empty() {
                // The log begins with a hole.
                assert!(
                    !holes.is_empty(),
                    "no epoch begins before {oldest} in {place:?}"
                );
                return Ok(pairs);
            }
            older.append(&mut pairs);
            pairs = older;
        }
    }

    fn locate(&self, offset: Offset) -> Option<Place> {
        let mut state = self.state();
        if offset >= state.written_end {
            return None;
        }
        let after = state
            .segments
            .partition_point(|segment| segment.first <= offset);
        let segment = state.segments[after.checked_sub(1)?];
        let end = state
            .segments
            .get(after)
            .map_or(state.written_end, |next| next.first);
        let opened = state.opened(segment.id);
        Some(Place {
            segment,
            end,
            cuts: state.cuts.count(),
            cluster: state.cluster,
            opened,
        })
    }

    fn open_segment(&self, place: &Place) -> Result<Arc<OpenSegment>, ReadError> {
        if let Some(opened) = &place.opened {
            return Ok(opened.clone());
        }
        let Segment { id, first, .. } = place.segment;
        let path = segment::path(first);
        let file = self
            .storage
            .open(&path, OpenHow::Existing)
            .map_err(|error| place.io(error))?;
        let header = self.read_header(place, &*file)?;
        let index = Index::new((first, header.encoded_bytes()));
        let opened = Arc::new(OpenSegment::new(id, first, file, index));
        self.state().keep_open(opened.clone());
        Ok(opened)
    }

    fn read_header(
        &self,
        place: &Place,
        file: &dyn StorageFile,
    ) -> Result<SegmentHeader, ReadError> {
        let first = place.segment.first;
        let needed = segment::HEADER_BYTES_MIN;
        let error = match SegmentHeader::read(file).map_err(|error| place.io(error))? {
            Ok(header) if header.first != first => FrameError::Offset {
                found: header.first,
                expected: first,
            },
            Ok(header) if place.cluster.is_some_and(|ours| ours != header.cluster) => {
                let what = format!("the segment belongs to cluster {}", header.cluster);
                return Err(place.io(io::Error::new(io::ErrorKind::InvalidData, what)));
            }
            Ok(header) => return Ok(header),
            Err(HeaderError::Incomplete { have }) => FrameError::Incomplete { needed, have },
            Err(HeaderError::Checksum { found, expected }) => {
                FrameError::Checksum { found, expected }
            }
            Err(HeaderError::Shape) => FrameError::Absent,
            Err(error @ HeaderError::Version(_)) => {
                return Err(place.io(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
        };
        Err(place.damaged((first, 0), error))
    }

    fn read_segment(
        &self,
        place: &Place,
        from: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> Result<FrameBatch, ReadError> {
        let opened = self.open_segment(place)?;
        let limit = place.segment.bytes;
        let (first, position) = opened
            .find(from, limit)
            .map_err(|(at, error)| match error {
                ScanError::Io(error) => place.io(error),
                ScanError::Bad(error) => place.damaged(at, error),
            })?;
        if let Some(frame) = self.state().long_frame(place.segment.id, position) {
            return Ok(frame);
        }
        let until = until.min(place.end);
        let frames =
            read_frames(&*opened.file, position, limit, until, bytes_max).map_err(|error| {
                match error {
                    ScanError::Io(error) => place.io(error),
                    ScanError::Bad(error) => place.damaged((first, position), error),
                }
            })?;
        match FrameBatch::check(first, frames.clone()) {
            Ok(batch) => {
                if batch.bytes().len() > BATCH_BYTES_MAX {
                    self.state().keep_long(place.segment.id, position, &batch);
                }
                Ok(batch)
            }
            Err((0, error)) => Err(place.damaged((first, position), error)),
            // The frames before the damage are good; the next read will meet it.
            Err((good, _)) => Ok(FrameBatch::check(first, frames.slice(..good))
                .expect("these bytes were just found to be good")),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the bytes of whole frames by their headers, not checked: those that begin before `until`, up to `bytes_max`
/// bytes and at least one frame.
fn read_frames(
    file: &dyn StorageFile,
    position: u64,
    limit: u64,
    until: Offset,
    bytes_max: usize,
) -> Result<Bytes, ScanError> {
    let left = usize::try_from(limit.saturating_sub(position)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; bytes_max.max(HEADER_BYTES).min(left)];
    let read = file.read_at(position, &mut bytes)?;
    bytes.truncate(read);
    let first = encoded_len(&bytes).map_err(ScanError::Bad)?;
    if first > bytes.len() {
        let have = bytes.len();
        if first > left {
            return Err(ScanError::Bad(FrameError::Incomplete {
                needed: first,
                have: left,
            }));
        }
        bytes.resize(first, 0);
        let more = file.read_at(position + have as u64, &mut bytes[have..])?;
        if have + more < first {
            let have = have + more;
            return Err(ScanError::Bad(FrameError::Incomplete {
                needed: first,
                have,
            }));
        }
    }
    let mut at = first;
    loop {
        match Claimed::read(&bytes[at..]) {
            Ok(next) if next.first < until && at + next.bytes <= bytes.len().min(bytes_max) => {
                at += next.bytes;
            }
            // Too long for this read, the end, or damage that the next read will report.
            Ok(_) | Err(_) => break,
        }
    }
    bytes.truncate(at);
    Ok(bytes.into())
}

impl Place {
    fn io(&self, source: io::Error) -> ReadError {
        ReadError::Io {
            path: segment::path(self.segment.first),
            source: Arc::new(source),
        }
    }

    /// Returns the error of a frame that cannot be read. One that this program does not know is not damaged: it must
    /// not be mended.
    fn damaged(&self, (offset, position): (Offset, u64), source: FrameError) -> ReadError {
        if source.is_unknown() {
            return self.io(source.into());
        }
        ReadError::Damaged {
            path: segment::path(self.segment.first),
            position,
            offset,
            source,
        }
    }
}

/// Updates from the writer. Only [`LogFiles`](super::LogFiles) calls these, from one thread.
impl LogView {
    /// Creates the view of a log that was just opened and whose records are all durable.
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        options: LogOptions,
        cluster: Option<ClusterId>,
        end: Offset,
    ) -> LogView {
        LogView {
            storage,
            options,
            written_end: AtomicU64::new(end.0),
            durable_end: AtomicU64::new(end.0),
            shown: watch::Sender::new(end),
            readable_limit: AtomicU64::new(u64::MAX),
            quarantined: AtomicU64::new(0),
            on_damage: OnceLock::new(),
            repairs: OnceLock::new(),
            state: Mutex::new(State {
                written_end: end,
                cluster,
                ..State::default()
            }),
        }
    }

    /// Adds the segments that opening found, as first offsets and bytes; only the last of them is open.
    pub(super) fn found_segments(&self, segments: &[(Offset, u64)]) {
        let mut state = self.state();
        for &(first, bytes) in segments {
            let id = state.draw_id();
            state.segments.push(Segment { id, first, bytes });
        }
    }

    /// Sets the file of the last segment, after opening, with the records in it.
    pub(super) fn set_active(
        &self,
        first: Offset,
        bytes: u64,
        file: Arc<dyn StorageFile>,
        index: Index,
        epochs: Epochs,
    ) {
        self.state().set_last(first, bytes, file, index, epochs);
    }

    /// Updates the holes: nothing from `readable_limit` on is shown, and the node holds everything else below
    /// `held_end`.
    pub(super) fn damaged(
        &self,
        holes: &[(Offset, Hole)],
        readable_limit: Option<Offset>,
        held_end: Offset,
    ) {
        {
            let mut state = self.state();
            state.holes = holes.to_vec();
            // No walk leads across them.
            for opened in state.opened.iter().chain(&state.active) {
                let behind = holes_of(holes, opened.first);
                behind.for_each(|(damaged, offset, at)| {
                    opened.index().add_behind_damage(damaged, offset, at);
                });
            }
        }
        let readable_limit = readable_limit.unwrap_or(Offset(u64::MAX));
        self.readable_limit
            .store(readable_limit.0, Ordering::Release);
        self.publish_durable(held_end);
        // Even if the end is unchanged, the readable records below it may have changed.
        self.shown.send_modify(|_| {});
    }

    /// Updates the view after a hole was filled with these records, up to `position` in its segment.
    pub(super) fn filled(&self, segment: Offset, position: u64, batch: &FrameBatch) {
        let mut state = self.state();
        batch
            .epoch_starts()
            .for_each(|pair| state.epochs.fill(pair));
        let mut segments = state.segments.iter_mut();
        if let Some(segment) = segments.find(|known| known.first == segment) {
            segment.bytes = segment.bytes.max(position);
        }
    }

    /// Returns the cluster that the log belongs to; `None` while the node has joined none.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.state().cluster
    }

    pub(super) fn set_cluster(&self, cluster: ClusterId) {
        self.state().cluster = Some(cluster);
    }

    /// Adds a new segment, with nothing but its header so far.
    pub(super) fn rolled(&self, first: Offset, bytes: u64, file: Arc<dyn StorageFile>) {
        let mut state = self.state();
        assert_eq!(
            first, state.written_end,
            "a segment begins behind the log's end"
        );
        if let Some(before) = state.active.take() {
            state.keep_open(before);
        }
        let id = state.draw_id();
        state.segments.push(Segment { id, first, bytes });
        let index = Index::new((first, bytes));
        state.active = Some(Arc::new(OpenSegment::new(id, first, file, index)));
    }

    /// Adds these batches, written after the last segment's bytes.
    pub(super) fn wrote(&self, batches: &[FrameBatch]) {
        let end = {
            let mut state = self.state();
            for batch in batches {
                state.wrote(batch);
            }
            state.trim_tail(self.options.tail_bytes);
            self.written_end
                .store(state.written_end.0, Ordering::Release);
            state.written_end
        };
        if !self.options.sync.is_durable() {
            self.publish_durable(end);
        }
    }

    /// Marks everything below `end` as synced.
    pub(super) fn synced(&self, end: Offset) {
        if self.options.sync.is_durable() {
            self.publish_durable(end);
        }
    }

    /// Cuts the view to `to`, in the middle of this file or at its end; the files follow.
    pub(super) fn cut(
        &self,
        to: Offset,
        (first, bytes): (Offset, u64),
        file: Arc<dyn StorageFile>,
        index: Index,
        epochs: Epochs,
    ) {
        {
            let mut state = self.state();
            state.cuts.on_cut(to);
            state.written_end = to;
            let kept = state
                .segments
                .partition_point(|segment| segment.first < first);
            state.segments.truncate(kept);
            let id = state.draw_id();
            state.segments.push(Segment { id, first, bytes });
            // Handles of files that are about to be removed or changed.
            state.opened.retain(|opened| opened.first < first);
            state.set_last(first, bytes, file, index, epochs);
            state.cut_tail(to);
            self.written_end.store(to.0, Ordering::Release);
        }
        self.publish_durable(self.durable_end().min(to));
        // Readers that showed more than is visible now are notified, even if the end did not change.
        self.shown.send_modify(|_| {});
    }

    /// Returns the first offsets of all segments, ascending.
    pub(super) fn segment_firsts(&self) -> Vec<Offset> {
        self.state()
            .segments
            .iter()
            .map(|segment| segment.first)
            .collect()
    }

    /// Returns the epoch of the newest record.
    pub(super) fn last_epoch(&self) -> Option<Epoch> {
        self.state().epochs.last_epoch()
    }

    fn publish_durable(&self, end: Offset) {
        let durable_end = end.min(Offset(self.readable_limit.load(Ordering::Acquire)));
        if self.durable_end() != durable_end {
            self.durable_end.store(durable_end.0, Ordering::Release);
            self.shown.send_replace(durable_end);
        }
    }
}

impl State {
    fn is_hole(&self, offset: Offset) -> bool {
        let contains = |hole: &Hole| hole.first <= offset && offset < hole.end;
        self.holes.iter().any(|(_, hole)| contains(hole))
    }

    fn tail_first(&self) -> Offset {
        self.tail
            .front()
            .map_or(self.written_end, FrameBatch::first)
    }

    /// Returns the bytes of the log from a record on, by the segments alone.
    fn bytes_from(&self, from: Offset) -> u64 {
        let at = self
            .segments
            .partition_point(|segment| segment.first <= from);
        let behind: u64 = self.segments[at..]
            .iter()
            .map(|segment| segment.bytes)
            .sum();
        let Some(segment) = at.checked_sub(1).map(|at| self.segments[at]) else {
            return behind;
        };
        let next = self
            .segments
            .get(at)
            .map_or(self.written_end, |next| next.first);
        let records = next.records_since(segment.first).max(1);
        let share = u128::from(segment.bytes) * u128::from(next.records_since(from));
        behind + u64::try_from(share / u128::from(records)).unwrap_or(segment.bytes)
    }

    /// Returns the long frame at a position, if it was read before.
    fn long_frame(&self, segment: u64, position: u64) -> Option<FrameBatch> {
        let mut frames = self.long_frames.iter();
        let found = frames.find(|(id, at, _)| (*id, *at) == (segment, position));
        found.map(|(_, _, frame)| frame.clone())
    }

    /// Keeps what was read from a file if it is one frame.
    fn keep_long(&mut self, segment: u64, position: u64, batch: &FrameBatch) {
        let is_one = encoded_len(batch.bytes()) == Ok(batch.bytes().len());
        if !is_one || self.long_frame(segment, position).is_some() {
            return;
        }
        if self.long_frames.len() == LONG_FRAMES_KEPT {
            self.long_frames.pop_front();
        }
        self.long_frames
            .push_back((segment, position, batch.clone()));
    }

    fn draw_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Returns the open file of a segment, which becomes the most recently used one.
    fn opened(&mut self, id: u64) -> Option<Arc<OpenSegment>> {
        if let Some(active) = self.active.as_ref().filter(|active| active.id == id) {
            return Some(active.clone());
        }
        let at = self.opened.iter().position(|opened| opened.id == id)?;
        let opened = self.opened.remove(at)?;
        self.opened.push_back(opened.clone());
        Some(opened)
    }

    fn keep_open(&mut self, opened: Arc<OpenSegment>) {
        let behind = holes_of(&self.holes, opened.first);
        behind.for_each(|(damaged, offset, at)| {
            opened.index().add_behind_damage(damaged, offset, at);
        });
        // A file opened before a cut may be gone; a file that two readers opened is kept once.
        let known = self
            .segments
            .iter()
            .rev()
            .any(|segment| segment.id == opened.id);
        if !known || self.opened(opened.id).is_some() {
            return;
        }
        if self.opened.len() == SEGMENTS_OPEN_MAX {
            self.opened.pop_front();
        }
        self.opened.push_back(opened);
    }

    fn set_last(
        &mut self,
        first: Offset,
        bytes: u64,
        file: Arc<dyn StorageFile>,
        index: Index,
        epochs: Epochs,
    ) {
        let last = self
            .segments
            .last_mut()
            .expect("the active segment is the last of some");
        assert_eq!(last.first, first, "another segment is the last");
        last.bytes = bytes;
        self.active = Some(Arc::new(OpenSegment::new(last.id, first, file, index)));
        self.epochs = epochs;
    }

    fn wrote(&mut self, batch: &FrameBatch) {
        assert_eq!(
            batch.first(),
            self.written_end,
            "a batch does not follow the log's end"
        );
        let last = self
            .segments
            .last_mut()
            .expect("a record is written into a segment");
        let active = self.active.as_ref().expect("the last segment is open");
        let mut position = last.bytes;
        last.bytes += batch.bytes().len() as u64;
        let mut index = active.index();
        if batch.bytes().len() as u64 <= crate::limits::INDEX_STEP_BYTES {
            index.add(batch.first(), position);
        } else {
            for frame in batch.frames() {
                index.add(frame.first, position);
                position += frame.encoded_bytes() as u64;
            }
        }
        batch.epoch_starts().for_each(|pair| self.epochs.push(pair));
        self.written_end = batch.end();
        self.tail_bytes += batch.bytes().len();
        self.tail.push_back(batch.clone());
    }

    fn trim_tail(&mut self, bytes_max: usize) {
        while self.tail_bytes > bytes_max && self.tail.len() > 1 {
            let oldest = self.tail.pop_front().expect("more than one is there");
            self.tail_bytes -= oldest.bytes().len();
        }
    }

    fn cut_tail(&mut self, to: Offset) {
        while self.tail.back().is_some_and(|newest| newest.end() > to) {
            let Some(newest) = self.tail.pop_back() else {
                break;
            };
            self.tail_bytes -= newest.bytes().len();
            if let Some(kept) = newest.slice(Offset::ZERO, to) {
                self.tail_bytes += kept.bytes().len();
                self.tail.push_back(kept);
            }
        }
    }
}

#[cfg(test)]
mod tests;

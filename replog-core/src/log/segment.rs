//! Segments: the files that hold the records, each named by its first offset.
//!
//! Owns names, the header, the walk over a file's records and the index of one open file. Never
//! writes by itself, and knows nothing of the mark: [`files`](super::files) decides what a bad
//! record means. Keeps rule 10: nothing comes out of a file unchecked.
//!
//! A segment is a header followed by records. Zeros up to the end of the file are preallocated
//! space. The content of a file depends only on the records of the log and the segment size, so the
//! files of two nodes are equal for the same offsets. All integers are little-endian.
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | `REPLOGSG` |
//! | 8 | 4 | format version, 2 |
//! | 12 | 4 | length of the header, including the checksum |
//! | 16 | 16 | cluster id |
//! | 32 | 8 | first offset, the one in the name |
//! | 40 | 8 | segments before this one |
//! | 48 | 4 | number of pairs, at most 64 |
//! | 52 | 16 each | epoch and its first offset: the newest pairs of the log before this segment |
//! | | 4 | CRC-32C over all before |

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    frame::{
        Claimed, Frame, FrameError, HEADER_BYTES as FRAME_HEADER_BYTES, MESSAGE_HEADER_BYTES,
        encoded_len,
    },
    limits::{EPOCH_STARTS_KEPT, EPOCH_STARTS_MAX, INDEX_STEP_BYTES},
    storage::StorageFile,
    types::{ClusterId, Epoch, EpochStart, Offset},
    words::counted,
};

/// Directory of all segments.
pub(crate) const DIR: &str = "log";
/// Suffix of a segment's name.
const SUFFIX: &str = ".log";
/// Suffix of the name of an unfinished copy.
const COPY_SUFFIX: &str = ".log.new";

const MAGIC: [u8; 8] = *b"REPLOGSG";
const VERSION: u32 = 2;
/// Bytes before the pairs.
const FIXED_BYTES: usize = 52;
const PAIR_BYTES: usize = 16;
const CRC_BYTES: usize = 4;
/// Bytes of a header without pairs.
pub(crate) const HEADER_BYTES_MIN: usize = FIXED_BYTES + CRC_BYTES;
/// Limit for the header of another version, which may be longer.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Bytes that a walk over the records reads at once.
const SCAN_BYTES: usize = 256 << 10;

const _: () = assert!(HEADER_BYTES_MIN + EPOCH_STARTS_MAX * PAIR_BYTES <= HEADER_BYTES_MAX);

/// Returns the path of the segment that begins at `first`.
pub(crate) fn path(first: Offset) -> String {
    format!("{DIR}/{:020}{SUFFIX}", first.0)
}

/// Returns the path of an unfinished copy of that segment.
pub(crate) fn copy_path(first: Offset) -> String {
    format!("{DIR}/{:020}{COPY_SUFFIX}", first.0)
}

/// Kind of a name in the directory of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileName {
    /// A segment.
    Segment(Offset),
    /// A copy that was never finished.
    Copy,
    /// A name with the suffix of a segment that is not one.
    Malformed,
    /// Not a file of the node.
    Foreign,
}

impl FileName {
    /// Classifies `name`.
    pub(crate) fn of(name: &str) -> FileName {
        if name.ends_with(COPY_SUFFIX) {
            return FileName::Copy;
        }
        let Some(digits) = name.strip_suffix(SUFFIX) else {
            return FileName::Foreign;
        };
        let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
        match digits.parse() {
            Ok(first) if plain => FileName::Segment(Offset(first)),
            _ => FileName::Malformed,
        }
    }
}

/// Header of a segment, before the first record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The cluster that the log belongs to.
    pub(crate) cluster: ClusterId,
    /// Offset of the first record, present or not yet.
    pub(crate) first: Offset,
    /// Number of segments before this one: reveals a missing one.
    pub(crate) number: u64,
    /// The newest [`EPOCH_STARTS_MAX`] pairs of the log before `first`, ascending; fewer if the log
    /// has no more.
    pub(crate) epoch_starts: Vec<EpochStart>,
}

/// Reason why bytes are not a header that this program reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// The file ends before the header does.
    #[error("its header is incomplete: there are only {}", counted(have, "byte"))]
    Incomplete {
        /// Bytes that are there.
        have: usize,
    },
    /// The file does not begin as a segment does, or has an impossible length.
    #[error("it does not begin as a segment does")]
    Shape,
    /// The checksum does not match.
    #[error("its header has checksum {found:08x} and should have {expected:08x}")]
    Checksum {
        /// The checksum that was read.
        found: u32,
        /// The checksum computed over the bytes that were read.
        expected: u32,
    },
    /// The header is intact, and of another version.
    #[error("it has format {0}, and this program reads {VERSION}")]
    Version(u32),
}

impl SegmentHeader {
    /// Returns the bytes that the header takes in the file.
    pub(crate) fn encoded_bytes(&self) -> u64 {
        (HEADER_BYTES_MIN + self.epoch_starts.len() * PAIR_BYTES) as u64
    }

    /// Encodes the header.
    ///
    /// # Panics
    ///
    /// If it has more than [`EPOCH_STARTS_MAX`] pairs.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let pairs = self.epoch_starts.len();
        assert!(pairs <= EPOCH_STARTS_MAX, "{pairs} pairs for a header");
        let length = HEADER_BYTES_MIN + pairs * PAIR_BYTES;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
        bytes.extend_from_slice(&self.cluster.to_bytes());
        bytes.extend_from_slice(&self.first.0.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&(pairs as u32).to_le_bytes());
        for pair in &self.epoch_starts {
            bytes.extend_from_slice(&pair.epoch.0.to_le_bytes());
            bytes.extend_from_slice(&pair.first.0.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes the header at the beginning of `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<SegmentHeader, HeaderError> {
        let incomplete = HeaderError::Incomplete { have: bytes.len() };
        let fixed = bytes.get(..HEADER_BYTES_MIN).ok_or(incomplete.clone())?;
        let length = u32_at(fixed, 12) as usize;
        if fixed[..8] != MAGIC || !(HEADER_BYTES_MIN..=HEADER_BYTES_MAX).contains(&length) {
            return Err(HeaderError::Shape);
        }
        let (body, crc) = bytes
            .get(..length)
            .ok_or(incomplete)?
            .split_at(length - CRC_BYTES);
        let (found, expected) = (u32_at(crc, 0), crc32c::crc32c(body));
        if found != expected {
            return Err(HeaderError::Checksum { found, expected });
        }
        let version = u32_at(body, 8);
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let pairs = body[FIXED_BYTES..].chunks_exact(PAIR_BYTES);
        if !pairs.remainder().is_empty() || pairs.len() != u32_at(body, 48) as usize {
            return Err(HeaderError::Shape);
        }
        let pair = |bytes: &[u8]| EpochStart {
            epoch: Epoch(u64_at(bytes, 0)),
            first: Offset(u64_at(bytes, 8)),
        };
        Ok(SegmentHeader {
            cluster: ClusterId::from_bytes(body[16..32].try_into().expect("16 bytes")),
            first: Offset(u64_at(body, 32)),
            number: u64_at(body, 40),
            epoch_starts: pairs.map(pair).collect(),
        })
    }

    /// Reads the header of a file.
    ///
    /// # Errors
    ///
    /// The outer error is the storage's.
    pub(crate) fn read(file: &dyn StorageFile) -> io::Result<Result<SegmentHeader, HeaderError>> {
        let mut bytes = vec![0; HEADER_BYTES_MIN + EPOCH_STARTS_MAX * PAIR_BYTES];
        let mut read = file.read_at(0, &mut bytes)?;
        // Only another version has a longer header.
        let length = if read >= HEADER_BYTES_MIN {
            u32_at(&bytes, 12) as usize
        } else {
            0
        };
        if length > read && length <= HEADER_BYTES_MAX {
            bytes.resize(length, 0);
            read = file.read_at(0, &mut bytes)?;
        }
        Ok(SegmentHeader::decode(&bytes[..read]))
    }
}

/// Walk over the records of a segment file, in order.
///
/// Reads in chunks and keeps one of them, or one record where that is longer.
pub(crate) struct Scan<'a> {
    file: &'a dyn StorageFile,
    /// The file's end, or an earlier limit.
    limit: u64,
    /// Bytes per read, unless one record needs more.
    chunk_bytes: usize,
    /// Position of the next record in the file.
    position: u64,
    /// The offset that the next record must have.
    offset: Offset,
    buffer: Vec<u8>,
    /// Position of `buffer` in the file.
    buffer_at: u64,
}

/// Reason why a walk cannot continue.
#[derive(Debug)]
pub(crate) enum ScanError {
    /// The storage refused.
    Io(io::Error),
    /// There is no good record at the position of the walk.
    Bad(FrameError),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> ScanError {
        ScanError::Io(error)
    }
}

impl<'a> Scan<'a> {
    /// Creates a walk from the record of `offset`, which begins at `position`, to the byte `limit`.
    pub(crate) fn new(
        file: &'a dyn StorageFile,
        (offset, position): (Offset, u64),
        limit: u64,
    ) -> Scan<'a> {
        let buffer = Vec::new();
        let chunk_bytes = SCAN_BYTES;
        Scan {
            file,
            limit,
            chunk_bytes,
            position,
            offset,
            buffer,
            buffer_at: position,
        }
    }

    /// Makes the walk read in steps of the index, for one that ends soon.
    fn in_small_chunks(mut self) -> Scan<'a> {
        self.chunk_bytes = INDEX_STEP_BYTES as usize;
        self
    }

    /// Returns the position of the next record.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Returns the offset of the next record.
    pub(crate) fn offset(&self) -> Offset {
        self.offset
    }

    /// Returns the next frame and its bytes, checked; `None` at the limit. After an error the walk
    /// has not moved.
    pub(crate) fn next(&mut self) -> Result<Option<(Frame<'_>, &[u8])>, ScanError> {
        let expected = self.offset;
        let Some(total) = self.next_len()? else {
            return Ok(None);
        };
        self.fill(total)?;
        let start = self.start();
        let frame = Frame::decode(&self.buffer[start..]).map_err(ScanError::Bad)?;
        if frame.first != expected {
            let error = FrameError::Offset {
                found: frame.first,
                expected,
            };
            return Err(ScanError::Bad(error));
        }
        self.position += total as u64;
        self.offset = frame.end();
        Ok(Some((frame, &self.buffer[start..start + total])))
    }

    /// Passes over checked frames up to the offset `until`, as long as epochs do not decrease:
    /// `epochs` receives the beginnings of epochs, `each` the position of every frame. Returns the
    /// error at the position where the walk stopped; `None` at the limit, at `until`, or before the
    /// frame in which `until` lies.
    ///
    /// # Errors
    ///
    /// The storage's, and `InvalidData` for a frame that this program does not know. A bad frame is
    /// not an error here.
    pub(crate) fn walk(
        &mut self,
        until: Offset,
        epochs: &mut Epochs,
        mut each: impl FnMut(Offset, u64),
    ) -> io::Result<Option<FrameError>> {
        while self.offset < until {
            let (offset, position) = (self.offset, self.position);
            let (epoch, end) = match self.next() {
                Ok(None) => break,
                Ok(Some((frame, _))) => (frame.epoch, frame.end()),
                Err(ScanError::Io(error)) => return Err(error),
                Err(ScanError::Bad(error)) if error.is_unknown() => {
                    return Err(error.into());
                }
                Err(ScanError::Bad(error)) => return Ok(Some(error)),
            };
            if end > until {
                (self.offset, self.position) = (offset, position);
                break;
            }
            if let Some(before) = epochs.last_epoch().filter(|before| epoch < *before) {
                // The walk has already passed the frame; it must stop before it.
                (self.offset, self.position) = (offset, position);
                let found = epoch;
                return Ok(Some(FrameError::Epoch { found, before }));
            }
            epochs.push(EpochStart {
                epoch,
                first: offset,
            });
            each(offset, position);
        }
        Ok(None)
    }

    /// Passes over one frame by its header alone, without reading all of it, unless `wanted` lies
    /// in it: damage in its messages does not hide the frames after it. `false` at the limit and
    /// before the wanted frame.
    pub(crate) fn skip_before(&mut self, wanted: Offset) -> Result<bool, ScanError> {
        if self.next_len()?.is_none() {
            return Ok(false);
        }
        let frame = Claimed::read(&self.buffer[self.start()..]).map_err(ScanError::Bad)?;
        if frame.first != self.offset {
            let error = FrameError::Offset {
                found: frame.first,
                expected: self.offset,
            };
            return Err(ScanError::Bad(error));
        }
        let (needed, have) = (frame.bytes as u64, self.limit - self.position);
        if needed > have {
            let (needed, have) = (frame.bytes, usize::try_from(have).unwrap_or(usize::MAX));
            return Err(ScanError::Bad(FrameError::Incomplete { needed, have }));
        }
        if frame.end > wanted {
            return Ok(false);
        }
        self.position += needed;
        self.offset = frame.end;
        Ok(true)
    }

    /// Passes over unreadable records, up to the next good one with an offset below `below` and an
    /// epoch not older than `epoch`, where the walk then stands. `None` if there is none: the walk
    /// has not moved.
    ///
    /// A client that embeds records in the payloads of records can deceive this after damage. That
    /// is discovered when the hole is filled: the right records do not fit.
    fn skip_damage(&mut self, below: Offset, epoch: Option<Epoch>) -> io::Result<Option<Hole>> {
        let (first, position) = (self.offset, self.position);
        // There are no more messages than this.
        let most = (self.limit - position) / MESSAGE_HEADER_BYTES as u64;
        let below = below.min(Offset(first.0.saturating_add(most)));
        if below <= first || !self.search(below, epoch)? {
            return Ok(None);
        }
        if self.offset == first {
            // A record, but not where it belongs.
            *self = Scan::new(self.file, (first, position), self.limit);
            return Ok(None);
        }
        Ok(Some(Hole {
            first,
            end: self.offset,
            position,
            end_position: Some(self.position),
        }))
    }

    /// Returns the end of the last byte before the limit that is not zero and not before the next
    /// record. `None` if there are only zeros.
    pub(crate) fn last_content(&mut self) -> io::Result<Option<u64>> {
        let mut chunk = vec![0; SCAN_BYTES];
        let (mut at, mut last) = (self.position, None);
        while at < self.limit {
            let length = (self.limit - at).min(SCAN_BYTES as u64) as usize;
            let read = self.file.read_at(at, &mut chunk[..length])?;
            if let Some(found) = chunk[..read].iter().rposition(|byte| *byte != 0) {
                last = Some(at + found as u64 + 1);
            }
            if read < length {
                break;
            }
            at += length as u64;
        }
        Ok(last)
    }

    /// Returns the length of the next record by its header, which is then in the buffer; `None` at
    /// the limit.
    fn next_len(&mut self) -> Result<Option<usize>, ScanError> {
        if self.position >= self.limit {
            return Ok(None);
        }
        self.fill(FRAME_HEADER_BYTES)?;
        let start = self.start();
        encoded_len(&self.buffer[start..])
            .map(Some)
            .map_err(ScanError::Bad)
    }

    /// Returns the position of the next record in the buffer.
    fn start(&self) -> usize {
        (self.position - self.buffer_at) as usize
    }

    /// Fills the buffer with at least `wanted` bytes from the position on, if the file has them.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        let left = usize::try_from(self.limit - self.position).unwrap_or(usize::MAX);
        let start = usize::try_from(self.position - self.buffer_at).unwrap_or(usize::MAX);
        let have = self.buffer.len().saturating_sub(start);
        if have >= wanted.min(left) {
            return Ok(());
        }
        self.buffer.drain(..start.min(self.buffer.len()));
        self.buffer_at = self.position;
        self.buffer
            .resize(wanted.max(self.chunk_bytes).min(left), 0);
        let read = self
            .file
            .read_at(self.position + have as u64, &mut self.buffer[have..])?;
        self.buffer.truncate(have + read);
        Ok(())
    }
}

/// Unreadable records of a segment, before a readable one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    /// The first unreadable record.
    pub(crate) first: Offset,
    /// The record after the last of them; it can be read, or begins the next segment.
    pub(crate) end: Offset,
    /// Position of their beginning in the file.
    pub(crate) position: u64,
    /// Position of their end in the file; `None` if they are its last ones.
    pub(crate) end_position: Option<u64>,
}

/// Result of a walk over a whole segment.
#[derive(Debug)]
pub(crate) struct Scanned {
    /// The offset after the last good record.
    pub(crate) end: Offset,
    /// Position of the end of that record in the file.
    pub(crate) position: u64,
    /// The newest pairs of the log up to `end`, including those of the header.
    pub(crate) epochs: Epochs,
    /// Positions of some records.
    pub(crate) index: Index,
    /// Unreadable records before `end`, ascending. An epoch that begins among them is known only
    /// from the first readable record after it.
    pub(crate) holes: Vec<Hole>,
    /// The error of the bytes that follow; `None` if nothing or only zeros follow.
    pub(crate) bad: Option<FrameError>,
    /// Bytes after `position`, up to the last that is not zero.
    pub(crate) rest_bytes: u64,
    /// `true` if the walk was to end inside the frame that follows.
    pub(crate) splits: bool,
}

/// Reads and checks the records of a segment up to the offset `until` or the byte `limit`. The
/// first bad record ends the walk.
///
/// # Errors
///
/// The storage's. A bad record is not an error here.
pub(crate) fn scan(
    file: &dyn StorageFile,
    header: &SegmentHeader,
    until: Offset,
    limit: u64,
) -> io::Result<Scanned> {
    scan_past_damage(file, header, (until, limit), Offset::ZERO)
}

/// Like [`scan`], but continues past bad records if a good one with an offset below `below`
/// follows.
///
/// # Errors
///
/// The storage's.
pub(crate) fn scan_past_damage(
    file: &dyn StorageFile,
    header: &SegmentHeader,
    (until, limit): (Offset, u64),
    below: Offset,
) -> io::Result<Scanned> {
    let begin = (header.first, header.encoded_bytes());
    let mut index = Index::new(begin);
    let mut epochs = Epochs::before(header);
    let mut scan = Scan::new(file, begin, limit);
    let mut holes = Vec::new();
    let bad = loop {
        let bad = scan.walk(until, &mut epochs, |offset, position| {
            index.add(offset, position);
        })?;
        if bad.is_none() {
            break None;
        }
        match scan.skip_damage(below, epochs.last_epoch())? {
            Some(hole) => holes.push(hole),
            None => break bad,
        }
        let damaged = holes.last().map_or(header.first, |hole| hole.first);
        index.add_behind_damage(damaged, scan.offset(), scan.position());
    };
    let splits = bad.is_none() && scan.offset() < until && scan.position() < limit;
    let mut bad = bad;
    let mut rest_bytes = 0;
    if bad.is_some() {
        match scan.last_content()? {
            Some(end) => rest_bytes = end - scan.position(),
            None => bad = None,
        }
    }
    Ok(Scanned {
        end: scan.offset(),
        position: scan.position(),
        epochs,
        index,
        holes,
        bad,
        rest_bytes,
        splits,
    })
}

/// Beginnings of epochs, ascending: the newest [`EPOCH_STARTS_KEPT`] of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epochs {
    pairs: VecDeque<EpochStart>,
}

impl Epochs {
    /// Returns those of the log before a segment, as far as its header has them.
    pub(crate) fn before(header: &SegmentHeader) -> Epochs {
        let mut epochs = Epochs::default();
        header
            .epoch_starts
            .iter()
            .for_each(|pair| epochs.push(*pair));
        epochs
    }

    /// Adds a record: a pair if its epoch is a new one.
    pub(crate) fn push(&mut self, pair: EpochStart) {
        if self.last_epoch() == Some(pair.epoch) {
            return;
        }
        if self.pairs.len() == EPOCH_STARTS_KEPT {
            self.pairs.pop_front();
        }
        self.pairs.push_back(pair);
    }

    /// Adds a record that lies among those already added and could not be read before.
    pub(crate) fn fill(&mut self, pair: EpochStart) {
        let at = self.pairs.partition_point(|known| known.epoch < pair.epoch);
        let is_full = self.pairs.len() == EPOCH_STARTS_KEPT;
        // It is unknown what lies between it and the oldest pair that is kept, unless it is the
        // log's first record.
        let is_older = at == 0 && (is_full || pair.first > Offset::ZERO);
        match self.pairs.get_mut(at) {
            Some(known) if known.epoch == pair.epoch => known.first = known.first.min(pair.first),
            _ if is_older => {}
            _ => {
                self.pairs.insert(at, pair);
                if is_full {
                    self.pairs.pop_front();
                }
            }
        }
    }

    /// Returns the epoch of the newest record.
    pub(crate) fn last_epoch(&self) -> Option<Epoch> {
        self.pairs.back().map(|pair| pair.epoch)
    }

    /// Returns the newest `limit` pairs whose first offset is below `before`, ascending.
    pub(crate) fn newest_before(&self, before: Offset, limit: usize) -> Vec<EpochStart> {
        let end = self.pairs.partition_point(|pair| pair.first < before);
        self.pairs
            .range(end.saturating_sub(limit)..end)
            .copied()
            .collect()
    }

    /// Returns the epoch of the record at `offset`, unless that is older than all pairs.
    pub(crate) fn epoch_at(&self, offset: Offset) -> Option<Epoch> {
        let after = self.pairs.partition_point(|pair| pair.first <= offset);
        Some(self.pairs[after.checked_sub(1)?].epoch)
    }

    /// Checks the invariants.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        for (before, after) in self.pairs.iter().zip(self.pairs.iter().skip(1)) {
            assert!(before.epoch < after.epoch, "{before:?} before {after:?}");
            assert!(before.first < after.first, "{before:?} before {after:?}");
        }
    }
}

/// Positions of some records of a segment: about one every [`INDEX_STEP_BYTES`].
#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// Ascending; the first is the first record of the segment.
    entries: Vec<(Offset, u64)>,
}

impl Index {
    pub(crate) fn new(begin: (Offset, u64)) -> Index {
        Index {
            entries: vec![begin],
        }
    }

    /// Adds the position of the record at `offset`, if it is far enough from the last entry.
    pub(crate) fn add(&mut self, offset: Offset, position: u64) {
        let (_, last) = *self.entries.last().expect("never empty");
        if position >= last + INDEX_STEP_BYTES {
            self.entries.push((offset, position));
        }
    }

    /// Like [`Index::add`], for the frame after the damage that begins at `damaged`, and always
    /// keeps the entry: no walk leads there. Entries from within the damage are wrong.
    pub(crate) fn add_behind_damage(&mut self, damaged: Offset, offset: Offset, position: u64) {
        self.entries
            .retain(|(known, _)| *known <= damaged || offset < *known);
        let at = self.entries.partition_point(|(known, _)| *known < offset);
        self.entries.insert(at, (offset, position));
    }

    /// Returns the last known record at or before `offset`.
    pub(crate) fn floor(&self, offset: Offset) -> (Offset, u64) {
        let after = self.entries.partition_point(|(first, _)| *first <= offset);
        assert!(after > 0, "offset {offset} lies before the segment");
        self.entries[after - 1]
    }
}

/// One open segment file and the known positions in it.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    /// Distinguishes it from another file that had the same name: after a cut, a file opened before
    /// it must not be mistaken for the current one.
    pub(crate) id: u64,
    pub(crate) first: Offset,
    pub(crate) file: Arc<dyn StorageFile>,
    index: Mutex<Index>,
}

impl OpenSegment {
    pub(crate) fn new(id: u64, first: Offset, file: Arc<dyn StorageFile>, index: Index) -> Self {
        OpenSegment {
            id,
            first,
            file,
            index: Mutex::new(index),
        }
    }

    /// Locks the index, briefly: never held across I/O.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the first offset and the position of the frame that has `offset`, in a file that is
    /// read up to the byte `limit`. Goes by headers alone, which prove nothing.
    ///
    /// # Errors
    ///
    /// The frame that could not be passed over, with its position.
    pub(crate) fn find(
        &self,
        offset: Offset,
        limit: u64,
    ) -> Result<(Offset, u64), ((Offset, u64), ScanError)> {
        let begin = self.index().floor(offset);
        let mut scan = Scan::new(&*self.file, begin, limit).in_small_chunks();
        while scan.offset() < offset {
            let (first, position) = (scan.offset(), scan.position());
            match scan.skip_before(offset) {
                // Only where the header there says so, too: that of the frame before it may be wrong.
                Ok(true) => self.index().add(first, position),
                Ok(false) if scan.position() < limit => break,
                Ok(false) => {
                    let error = ScanError::Bad(FrameError::Absent);
                    return Err(((scan.offset(), scan.position()), error));
                }
                Err(error) => return Err(self.first_bad(begin, &scan, error)),
            }
        }
        Ok((scan.offset(), scan.position()))
    }

    /// Finds the first bad frame when the chain of headers broke at `broken`: the fault may be in
    /// a frame passed before it, so all of them are checked in full, and then that one: a header
    /// alone does not tell an unknown version from damage.
    fn first_bad(
        &self,
        begin: (Offset, u64),
        broken: &Scan<'_>,
        error: ScanError,
    ) -> ((Offset, u64), ScanError) {
        let mut scan = Scan::new(&*self.file, begin, broken.limit);
        while scan.offset() <= broken.offset() {
            match scan.next() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return ((scan.offset(), scan.position()), error),
            }
        }
        ((broken.offset(), broken.position()), error)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

mod search;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{assert_golden, golden};
    use crate::{
        log::testing::{CLUSTER, Records, set_content},
        storage::{MemoryStorage, OpenHow, Storage as _},
    };

    #[test]
    fn the_header_format_is_fixed_byte_for_byte() {
        let header = SegmentHeader {
            cluster: ClusterId::from_bytes(std::array::from_fn(|n| n as u8)),
            first: Offset(0x0102_0304_0506_0708),
            number: 3,
            epoch_starts: vec![pair(1, 0), pair(5, 0x0102)],
        };
        let expected = golden("segment header");
        assert_golden("segment header", &header.encode());
        assert_eq!(header.encoded_bytes(), expected.len() as u64);
        assert_eq!(SegmentHeader::decode(&expected), Ok(header));
    }

    #[test]
    fn any_changed_or_missing_byte_of_a_header_is_noticed() {
        let header = SegmentHeader {
            cluster: CLUSTER,
            first: Offset(9),
            number: 1,
            epoch_starts: vec![pair(1, 0), pair(2, 8)],
        };
        let good = header.encode();
        for at in 0..good.len() {
            let cut = SegmentHeader::decode(&good[..at]);
            assert_eq!(cut, Err(HeaderError::Incomplete { have: at }));
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                let error = SegmentHeader::decode(&bad).unwrap_err();
                assert!(
                    !matches!(error, HeaderError::Version(_)),
                    "bit {bit} of byte {at}"
                );
            }
        }
        assert_eq!(SegmentHeader::decode(&[0; 2000]), Err(HeaderError::Shape));
    }

    #[test]
    fn a_longer_header_of_a_newer_version_is_not_mistaken_for_damage() {
        let (first, epoch_starts) = (Offset(0), Vec::new());
        let header = SegmentHeader {
            cluster: CLUSTER,
            first,
            number: 0,
            epoch_starts,
        };
        let mut bytes = header.encode();
        bytes[8] = 9;
        bytes.truncate(FIXED_BYTES);
        bytes.resize(5000, 0xee);
        let length = bytes.len() as u32 + 4;
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let storage = MemoryStorage::new();
        set_content(&storage, "log/x", &bytes);
        let file = storage.open("log/x", OpenHow::Existing).unwrap();
        assert_eq!(
            SegmentHeader::read(&*file).unwrap(),
            Err(HeaderError::Version(9))
        );
    }

    #[test]
    fn a_file_name_is_the_first_offset_in_twenty_digits() {
        let table = [
            ("00000000000000000000.log", FileName::Segment(Offset(0))),
            ("00000000000000012345.log", FileName::Segment(Offset(12345))),
            (
                "18446744073709551615.log",
                FileName::Segment(Offset(u64::MAX)),
            ),
            ("18446744073709551616.log", FileName::Malformed),
            ("0000000000000000000.log", FileName::Malformed),
            ("000000000000000000000.log", FileName::Malformed),
            ("+0000000000000000000.log", FileName::Malformed),
            (".log", FileName::Malformed),
            ("00000000000000000000.log.new", FileName::Copy),
            ("00000000000000000000.idx", FileName::Foreign),
            ("log", FileName::Foreign),
        ];
        for (name, expected) in table {
            assert_eq!(FileName::of(name), expected, "{name}");
        }
        assert_eq!(path(Offset(12345)), "log/00000000000000012345.log");
        assert_eq!(copy_path(Offset(7)), "log/00000000000000000007.log.new");
    }

    #[test]
    fn a_record_is_found_by_the_index_and_the_lengths_of_those_before_it() {
        let records = Records::new(3, (0..500).map(|n| (1, n % 700 + 1)));
        let (file, index) = file_of(&records);
        let limit = file.size().unwrap();
        let opened = OpenSegment::new(0, Offset(3), file, index);
        let mut position = HEADER_BYTES_MIN as u64;
        let positions = records.encoded.iter().map(|(_, bytes)| {
            let here = position;
            position += bytes.len() as u64;
            here
        });
        let positions: Vec<u64> = positions.collect();
        for at in [400, 3, 0, 499, 120, 121, 250] {
            let found = opened.find(Offset(3 + at as u64), limit).unwrap();
            assert_eq!(found, (Offset(3 + at as u64), positions[at]));
        }
        let entries = opened.index().entries.clone();
        assert!(entries.len() > 1);
        for pair in entries.windows(2) {
            let step = pair[1].1 - pair[0].1;
            assert!(
                (INDEX_STEP_BYTES..INDEX_STEP_BYTES + 1000).contains(&step),
                "{pair:?}"
            );
        }
        for (offset, position) in entries {
            assert_eq!(position, positions[offset.0 as usize - 3]);
        }
        let (at, error) = opened.find(Offset(504), limit).unwrap_err();
        assert_eq!(at, (Offset(503), limit));
        assert!(matches!(error, ScanError::Bad(FrameError::Absent)));
    }

    #[test]
    fn damage_in_a_payload_does_not_hide_what_comes_after_it() {
        let records = Records::new(0, [(1, 100), (1, 100), (1, 100)]);
        let (file, index) = file_of(&records);
        let limit = file.size().unwrap();
        let second = (HEADER_BYTES_MIN + records.encoded[0].1.len()) as u64;
        file.write_at(second + 60, b"xxx").unwrap();
        let opened = OpenSegment::new(0, Offset(0), file, index);
        let third = second + records.encoded[1].1.len() as u64;
        assert_eq!(opened.find(Offset(2), limit).unwrap(), (Offset(2), third));
        // A wrong length is blamed on the record that has it.
        opened.file.write_at(second, &90_u32.to_le_bytes()).unwrap();
        let (at, error) = opened.find(Offset(3), limit).unwrap_err();
        assert_eq!(at, (Offset(1), second));
        assert!(
            matches!(error, ScanError::Bad(FrameError::Checksum { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn a_record_longer_than_the_chunk_is_read_and_passed_over() {
        let records = Records::new(0, [(1, 10), (1, 3 * SCAN_BYTES), (1, 10), (2, SCAN_BYTES)]);
        let (file, index) = file_of(&records);
        let limit = file.size().unwrap();
        let mut scan = Scan::new(&*file, index.floor(Offset(0)), limit);
        for (epoch, bytes) in &records.encoded {
            let (frame, found) = scan.next().unwrap().unwrap();
            assert_eq!(frame.epoch, Epoch(*epoch));
            assert!(found == bytes);
        }
        assert!(scan.next().unwrap().is_none());
        let mut scan = Scan::new(&*file, index.floor(Offset(0)), limit).in_small_chunks();
        while scan.skip_before(Offset(u64::MAX)).unwrap() {}
        assert_eq!((scan.offset(), scan.position()), (Offset(4), limit));
    }

    #[test]
    fn a_decreasing_epoch_ends_the_walk_before_it() {
        let mut records = Records::new(0, [(5, 10), (6, 10)]);
        let good = (HEADER_BYTES_MIN + records.bytes().len()) as u64;
        records.push(4, 10);
        let (file, _) = file_of(&records);
        let header = header_of(&records);
        let scanned = scan(&*file, &header, Offset(u64::MAX), file.size().unwrap()).unwrap();
        assert_eq!((scanned.end, scanned.position), (Offset(2), good));
        let expected = FrameError::Epoch {
            found: Epoch(4),
            before: Epoch(6),
        };
        assert_eq!(scanned.bad, Some(expected));
    }

    #[test]
    fn only_the_newest_pairs_are_kept() {
        let mut epochs = Epochs::default();
        let count = EPOCH_STARTS_KEPT as u64 + 10;
        for n in 0..count {
            epochs.push(pair(n + 1, 2 * n));
            epochs.push(pair(n + 1, 2 * n + 1));
        }
        epochs.check();
        let newest = [pair(count - 1, 2 * count - 4), pair(count, 2 * count - 2)];
        assert_eq!(epochs.newest_before(Offset(u64::MAX), 2), newest);
        assert_eq!(
            epochs.newest_before(Offset(u64::MAX), usize::MAX).len(),
            EPOCH_STARTS_KEPT
        );
        assert_eq!(epochs.epoch_at(Offset(19)), None);
        assert_eq!(epochs.epoch_at(Offset(20)), Some(Epoch(11)));
        assert_eq!(epochs.epoch_at(Offset(21)), Some(Epoch(11)));
    }

    fn pair(epoch: u64, first: u64) -> EpochStart {
        EpochStart {
            epoch: Epoch(epoch),
            first: Offset(first),
        }
    }

    fn header_of(records: &Records) -> SegmentHeader {
        let first = Offset(records.first);
        SegmentHeader {
            cluster: CLUSTER,
            first,
            number: 0,
            epoch_starts: Vec::new(),
        }
    }

    fn file_of(records: &Records) -> (Arc<dyn StorageFile>, Index) {
        let header = header_of(records);
        let storage = MemoryStorage::new();
        set_content(
            &storage,
            "log/x",
            &[header.encode(), records.bytes()].concat(),
        );
        let file = storage.open("log/x", OpenHow::Existing).unwrap();
        (file, Index::new((header.first, header.encoded_bytes())))
    }
}

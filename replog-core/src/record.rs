//! The record codec: one log entry as stored on disk and sent on the wire, encoded once.
//!
//! Owns the format and its checks; knows nothing about files or nodes. All integers are
//! little-endian.
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | length of what follows the checksum, at least 28; 0: no record here |
//! | 4 | 4 | CRC-32C over the length and all that follows the checksum |
//! | 8 | 8 | offset |
//! | 16 | 8 | epoch of the author |
//! | 24 | 8 | timestamp, milliseconds since 1970, by the master's clock |
//! | 32 | 1 | kind: 0 is a message; other kinds are kept and copied, and not shown |
//! | 33 | 1 | flags: bit 0, the same append continues in the next record; others are kept |
//! | 34 | 2 | length of the key in bytes |
//! | 36 | | key, then payload |

mod message_batch;

use bytes::{BufMut as _, Bytes, BytesMut};

pub use message_batch::MessageBatch;

use crate::{
    limits::RECORD_BYTES_MAX,
    types::{Epoch, Offset},
    words::counted,
};

/// Bytes before the key.
pub const HEADER_BYTES: usize = 36;
/// Bytes that the length field does not count: itself and the checksum.
const PREFIX_BYTES: usize = 8;
/// Kind of a message.
pub const KIND_MESSAGE: u8 = 0;
/// Flag: the same append continues in the next record.
pub const FLAG_APPEND_GOES_ON: u8 = 1;

/// Fields of one record, borrowed from its bytes or about to be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Position in the log.
    pub offset: Offset,
    /// Epoch of its author.
    pub epoch: Epoch,
    /// Time of the append, by the master's clock.
    pub timestamp_ms: u64,
    /// Kind: [`KIND_MESSAGE`] or something newer.
    pub kind: u8,
    /// Flags: [`FLAG_APPEND_GOES_ON`] or something newer.
    pub flags: u8,
    /// Idempotency key; empty where there is none.
    pub key: &'a [u8],
    /// Payload, opaque.
    pub payload: &'a [u8],
}

/// Reason why bytes are not a valid record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Length 0, or nothing at all: no record was ever written here.
    #[error("no record here")]
    Absent,
    /// The bytes end before the record does.
    #[error("the record needs {} and has only {have}", counted(needed, "byte"))]
    Incomplete {
        /// Bytes that the record takes by its length field, or that its header needs.
        needed: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// The length field has a value that no record has.
    #[error("no record has a length of {}", counted(length, "byte"))]
    Length {
        /// The length field.
        length: u32,
    },
    /// The checksum does not match.
    #[error("the checksum is {found:08x} and should be {expected:08x}")]
    Checksum {
        /// The checksum that was read.
        found: u32,
        /// The checksum computed over the bytes that were read.
        expected: u32,
    },
    /// The key's length exceeds the record.
    #[error("a key of {} exceeds the record", counted(key_bytes, "byte"))]
    Key {
        /// The key's length field.
        key_bytes: u16,
    },
    /// The record has another offset than the one expected here.
    #[error("the record has offset {found} where {expected} belongs")]
    Offset {
        /// The offset that was read.
        found: Offset,
        /// The offset that is expected here.
        expected: Offset,
    },
    /// The record has an older epoch than the one before it; no master writes that.
    #[error("the record has epoch {found} after epoch {before}")]
    Epoch {
        /// The epoch that was read.
        found: Epoch,
        /// The epoch of the record before it.
        before: Epoch,
    },
}

impl<'a> Record<'a> {
    /// Returns the number of bytes that the record takes when encoded.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        HEADER_BYTES + self.key.len() + self.payload.len()
    }

    /// Appends the encoded record to `into`.
    ///
    /// # Panics
    ///
    /// If the record is longer than [`RECORD_BYTES_MAX`] or its key longer than a key can be:
    /// both are refused before an offset is assigned.
    pub fn encode(&self, into: &mut BytesMut) {
        let total = self.encoded_bytes();
        assert!(
            total <= RECORD_BYTES_MAX,
            "a record of {total} bytes was admitted"
        );
        let key_bytes = u16::try_from(self.key.len()).expect("keys are bounded at admission");
        let length = u32::try_from(total - PREFIX_BYTES).expect("bounded by RECORD_BYTES_MAX");
        into.reserve(total);
        let start = into.len();
        into.put_u32_le(length);
        into.put_u32_le(0);
        into.put_u64_le(self.offset.0);
        into.put_u64_le(self.epoch.0);
        into.put_u64_le(self.timestamp_ms);
        into.put_u8(self.kind);
        into.put_u8(self.flags);
        into.put_u16_le(key_bytes);
        into.put_slice(self.key);
        into.put_slice(self.payload);
        let crc = checksum(&into[start..]);
        into[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Decodes the record at the beginning of `bytes` and checks all of it.
    ///
    /// # Errors
    ///
    /// Any [`RecordError`] except those about neighbouring records. `Incomplete` says how many
    /// bytes are needed.
    pub fn decode(bytes: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let total = encoded_len(bytes)?;
        let bytes = match bytes.get(..total) {
            Some(bytes) => bytes,
            None => {
                return Err(RecordError::Incomplete {
                    needed: total,
                    have: bytes.len(),
                });
            }
        };
        let found = u32_at(bytes, 4);
        let expected = checksum(bytes);
        if found != expected {
            return Err(RecordError::Checksum { found, expected });
        }
        Record::parse(bytes)
    }

    /// Decodes bytes that were checked before: [`Record::decode`] without the checksum. `bytes` is
    /// exactly one record.
    fn parse(bytes: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let key_bytes = u16::from_le_bytes([bytes[34], bytes[35]]);
        let Some((key, payload)) = bytes[HEADER_BYTES..].split_at_checked(key_bytes.into()) else {
            return Err(RecordError::Key { key_bytes });
        };
        Ok(Record {
            offset: Offset(u64_at(bytes, 8)),
            epoch: Epoch(u64_at(bytes, 16)),
            timestamp_ms: u64_at(bytes, 24),
            kind: bytes[32],
            flags: bytes[33],
            key,
            payload,
        })
    }

    /// Returns `true` if the same append continues in the next record.
    #[must_use]
    pub fn append_goes_on(&self) -> bool {
        self.flags & FLAG_APPEND_GOES_ON != 0
    }

    /// Returns the first offset of the append that continues after this record, given that of the
    /// append that continues after the record before.
    fn open_from(&self, before: Option<Offset>) -> Option<Offset> {
        let goes_on = self.append_goes_on();
        goes_on.then(|| before.unwrap_or(self.offset))
    }
}

/// Returns the total length of the record at the beginning of `bytes`, by its length field.
///
/// # Errors
///
/// [`RecordError::Absent`], [`RecordError::Incomplete`] when not even a complete header is there,
/// or [`RecordError::Length`].
pub fn encoded_len(bytes: &[u8]) -> Result<usize, RecordError> {
    if bytes.is_empty() {
        return Err(RecordError::Absent);
    }
    if bytes.len() < 4 {
        return Err(RecordError::Incomplete {
            needed: HEADER_BYTES,
            have: bytes.len(),
        });
    }
    let length = u32_at(bytes, 0);
    if length == 0 {
        return Err(RecordError::Absent);
    }
    let total = PREFIX_BYTES + length as usize;
    if !(HEADER_BYTES..=RECORD_BYTES_MAX).contains(&total) {
        return Err(RecordError::Length { length });
    }
    if bytes.len() < HEADER_BYTES {
        return Err(RecordError::Incomplete {
            needed: total,
            have: bytes.len(),
        });
    }
    Ok(total)
}

/// Consecutive records in one buffer, as the master encodes them together, a link sends them and a
/// writer writes them. Cheap to clone; never empty; always checked.
#[derive(Clone, PartialEq, Eq)]
pub struct RecordBatch {
    first: Offset,
    count: u64,
    first_epoch: Epoch,
    last_epoch: Epoch,
    /// First offset, among these records, of the append that continues after them.
    open_from: Option<Offset>,
    bytes: Bytes,
}

impl RecordBatch {
    /// Checks bytes that came from a disk or another node: every record is checked, offsets must be
    /// consecutive from `first`, epochs must not decrease.
    ///
    /// # Errors
    ///
    /// The first [`RecordError`], with its position in `bytes`; [`RecordError::Absent`] when there
    /// is no record at all.
    pub fn check(first: Offset, bytes: Bytes) -> Result<RecordBatch, (usize, RecordError)> {
        let (mut at, mut next) = (0, first);
        let mut epochs: Option<(Epoch, Epoch)> = None;
        let mut open_from = None;
        while at < bytes.len() || epochs.is_none() {
            let record = Record::decode(&bytes[at..]).map_err(|error| (at, error))?;
            if record.offset != next {
                let error = RecordError::Offset {
                    found: record.offset,
                    expected: next,
                };
                return Err((at, error));
            }
            let (first_epoch, before) = epochs.unwrap_or((record.epoch, record.epoch));
            if record.epoch < before {
                return Err((
                    at,
                    RecordError::Epoch {
                        found: record.epoch,
                        before,
                    },
                ));
            }
            epochs = Some((first_epoch, record.epoch));
            open_from = record.open_from(open_from);
            at += record.encoded_bytes();
            next = next.plus(1);
        }
        let (first_epoch, last_epoch) = epochs.expect("the loop above ran at least once");
        let count = next.records_since(first);
        Ok(RecordBatch {
            first,
            count,
            first_epoch,
            last_epoch,
            open_from,
            bytes,
        })
    }

    /// Wraps bytes that this process has encoded itself: `count` records of one epoch from `first`,
    /// each an append of its own.
    pub(crate) fn encoded_here(first: Offset, count: u64, epoch: Epoch, bytes: Bytes) -> Self {
        debug_assert!(RecordBatch::check(first, bytes.clone()).is_ok_and(|b| b.count == count));
        assert!(count > 0, "an empty batch was encoded at {first}");
        RecordBatch {
            first,
            count,
            first_epoch: epoch,
            last_epoch: epoch,
            open_from: None,
            bytes,
        }
    }

    /// Plants a bug: the last append seems to end with these records.
    #[cfg(feature = "sim")]
    pub(crate) fn forget_open_append(&mut self) {
        self.open_from = None;
    }

    /// Returns the first record's offset.
    #[must_use]
    pub fn first(&self) -> Offset {
        self.first
    }

    /// Returns the offset after the last record.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.first.plus(self.count)
    }

    /// Returns the number of records.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the first record's epoch.
    #[must_use]
    pub fn first_epoch(&self) -> Epoch {
        self.first_epoch
    }

    /// Returns the last record's epoch.
    #[must_use]
    pub fn last_epoch(&self) -> Epoch {
        self.last_epoch
    }

    /// Returns the first offset, as far as these records show, of the append that continues after
    /// the last of them; `None` where an append ends there.
    #[must_use]
    pub fn open_from(&self) -> Option<Offset> {
        self.open_from
    }

    /// Returns the records as stored on disk and sent on the wire.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns an iterator over the records, in order, borrowing from the buffer.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = self.bytes.get(at..).filter(|rest| !rest.is_empty())?;
            let total = encoded_len(rest).expect("a batch holds only checked records");
            at += total;
            Some(Record::parse(&rest[..total]).expect("a batch holds only checked records"))
        })
    }

    /// Returns its records within `from..until`, sharing the buffer; `None` if there are none.
    #[must_use]
    pub fn slice(&self, from: Offset, until: Offset) -> Option<RecordBatch> {
        let (from, until) = (from.max(self.first), until.min(self.end()));
        if from >= until {
            return None;
        }
        if (from, until) == (self.first, self.end()) {
            return Some(self.clone());
        }
        let (mut at, mut start, mut end) = (0, 0, self.bytes.len());
        let mut epochs: Option<(Epoch, Epoch)> = None;
        let mut open_from = None;
        for record in self.records() {
            if record.offset == from {
                start = at;
            }
            if record.offset == until {
                end = at;
                break;
            }
            if record.offset >= from {
                let first = epochs.map_or(record.epoch, |(first, _)| first);
                epochs = Some((first, record.epoch));
                open_from = record.open_from(open_from);
            }
            at += record.encoded_bytes();
        }
        let (first_epoch, last_epoch) = epochs.expect("from < until, both within the batch");
        Some(RecordBatch {
            first: from,
            count: until.records_since(from),
            first_epoch,
            last_epoch,
            open_from,
            bytes: self.bytes.slice(start..end),
        })
    }

    /// Returns the longest prefix of at most `bytes_max` bytes, and at least one record.
    #[must_use]
    pub fn head(&self, bytes_max: usize) -> RecordBatch {
        if self.bytes.len() <= bytes_max {
            return self.clone();
        }
        let mut bytes = 0;
        let mut until = self.first;
        for record in self.records() {
            bytes += record.encoded_bytes();
            if bytes > bytes_max && until > self.first {
                break;
            }
            until = record.offset.plus(1);
        }
        self.slice(self.first, until).expect("at least one record")
    }

    /// Returns the first offset of each epoch among these records.
    pub fn epoch_starts(&self) -> impl Iterator<Item = crate::types::EpochStart> {
        let mut before = None;
        let single = self.first_epoch == self.last_epoch;
        let records = if single { 1 } else { usize::MAX };
        self.records().take(records).filter_map(move |record| {
            let starts = before != Some(record.epoch);
            before = Some(record.epoch);
            starts.then_some(crate::types::EpochStart {
                epoch: record.epoch,
                first: record.offset,
            })
        })
    }
}

impl std::fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "records {}..{} ({} bytes)",
            self.first,
            self.end(),
            self.bytes.len()
        )
    }
}

pub(crate) fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..4]), &record[PREFIX_BYTES..])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Records for the tests of other modules.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Returns the records of `range`, all of one epoch, each with the payload `x`; those in
    /// `go_on` are followed by another record of the same append.
    pub(crate) fn appends(range: std::ops::Range<u64>, epoch: u64, go_on: &[u64]) -> RecordBatch {
        let mut bytes = BytesMut::new();
        for offset in range.clone() {
            Record {
                offset: Offset(offset),
                epoch: Epoch(epoch),
                timestamp_ms: 0,
                kind: KIND_MESSAGE,
                flags: match go_on.contains(&offset) {
                    true => FLAG_APPEND_GOES_ON,
                    false => 0,
                },
                key: b"",
                payload: b"x",
            }
            .encode(&mut bytes);
        }
        RecordBatch::check(Offset(range.start), bytes.freeze()).unwrap()
    }

    /// Returns the records of `range`, all of one epoch, each with the payload `x`.
    pub(crate) fn batch(range: std::ops::Range<u64>, epoch: u64) -> RecordBatch {
        let mut bytes = BytesMut::new();
        for offset in range.clone() {
            Record {
                offset: Offset(offset),
                epoch: Epoch(epoch),
                timestamp_ms: 0,
                kind: KIND_MESSAGE,
                flags: 0,
                key: b"",
                payload: b"x",
            }
            .encode(&mut bytes);
        }
        let count = range.end - range.start;
        RecordBatch::encoded_here(Offset(range.start), count, Epoch(epoch), bytes.freeze())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::EpochStart;

    #[test]
    fn the_encoding_of_a_record_is_fixed_byte_for_byte() {
        let record = Record {
            offset: Offset(0x0102_0304_0506_0708),
            epoch: Epoch(0x1112_1314_1516_1718),
            timestamp_ms: 0x2122_2324_2526_2728,
            kind: KIND_MESSAGE,
            flags: FLAG_APPEND_GOES_ON,
            key: b"key",
            payload: b"payload",
        };
        #[rustfmt::skip]
        let expected = [
            38, 0, 0, 0,
            63, 216, 98, 81,
            8, 7, 6, 5, 4, 3, 2, 1,
            0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
            0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21,
            0,
            1,
            3, 0,
            b'k', b'e', b'y',
            b'p', b'a', b'y', b'l', b'o', b'a', b'd',
        ];
        assert_eq!(encoded(&[record]), expected[..]);
        assert_eq!(record.encoded_bytes(), expected.len());
        assert_eq!(encoded_len(&expected), Ok(expected.len()));
        assert_eq!(Record::decode(&expected), Ok(record));
        assert!(record.append_goes_on());
    }

    #[test]
    fn the_smallest_record_has_neither_key_nor_payload() {
        let bytes = encoded(&[plain(0, 1, b"")]);
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(bytes[..4], [28, 0, 0, 0]);
        assert_eq!(Record::decode(&bytes), Ok(plain(0, 1, b"")));
    }

    #[test]
    fn invalid_bytes_are_refused_with_the_reason() {
        let good = encoded(&[plain(4, 1, b"payload")]);
        let needed = good.len();
        assert_eq!(Record::decode(&[]), Err(RecordError::Absent));
        assert_eq!(Record::decode(&[0; 100]), Err(RecordError::Absent));
        for have in 1..needed {
            let expected = if have < 4 { HEADER_BYTES } else { needed };
            let error = RecordError::Incomplete {
                needed: expected,
                have,
            };
            assert_eq!(Record::decode(&good[..have]), Err(error), "{have} bytes");
        }
        for length in [
            1,
            27,
            (RECORD_BYTES_MAX - PREFIX_BYTES + 1) as u32,
            u32::MAX,
        ] {
            let mut bad = good.to_vec();
            bad[..4].copy_from_slice(&length.to_le_bytes());
            assert_eq!(Record::decode(&bad), Err(RecordError::Length { length }));
        }
        let mut bad = good.to_vec();
        bad[34] = 200;
        let crc = checksum(&bad);
        bad[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(
            Record::decode(&bad),
            Err(RecordError::Key { key_bytes: 200 })
        );
    }

    #[test]
    fn unknown_kinds_and_flags_are_kept() {
        let record = Record {
            kind: 200,
            flags: 0xfe,
            ..plain(0, 1, b"x")
        };
        let bytes = encoded(&[record]);
        assert_eq!(Record::decode(&bytes), Ok(record));
        assert!(!record.append_goes_on());
    }

    #[test]
    #[should_panic(expected = "was admitted")]
    fn a_record_beyond_the_limit_is_not_encoded() {
        let payload = vec![0; RECORD_BYTES_MAX - HEADER_BYTES + 1];
        plain(0, 1, &payload).encode(&mut BytesMut::new());
    }

    #[test]
    fn a_batch_takes_only_consecutive_records() {
        let check = |records: &[Record<'_>]| RecordBatch::check(Offset(5), encoded(records));
        let length = HEADER_BYTES + 1;
        let good = check(&[plain(5, 2, b"a"), plain(6, 2, b"b"), plain(7, 3, b"c")]).unwrap();
        assert_eq!(
            (good.first(), good.end(), good.count()),
            (Offset(5), Offset(8), 3)
        );
        assert_eq!(
            (good.first_epoch(), good.last_epoch()),
            (Epoch(2), Epoch(3))
        );
        let starts = [(2, 5), (3, 7)].map(|(epoch, first)| EpochStart {
            epoch: Epoch(epoch),
            first: Offset(first),
        });
        assert_eq!(good.epoch_starts().collect::<Vec<_>>(), starts);
        assert_eq!(check(&[]).unwrap_err(), (0, RecordError::Absent));
        let wrong = RecordError::Offset {
            found: Offset(4),
            expected: Offset(5),
        };
        assert_eq!(check(&[plain(4, 1, b"a")]).unwrap_err(), (0, wrong));
        for offset in [5, 7] {
            let (found, expected) = (Offset(offset), Offset(6));
            let wrong = RecordError::Offset { found, expected };
            let records = [plain(5, 1, b"a"), plain(offset, 1, b"b")];
            assert_eq!(check(&records).unwrap_err(), (length, wrong));
        }
        let falls = RecordError::Epoch {
            found: Epoch(1),
            before: Epoch(2),
        };
        let records = [plain(5, 2, b"a"), plain(6, 1, b"b")];
        assert_eq!(check(&records).unwrap_err(), (length, falls));
        let mut torn = encoded(&[plain(5, 1, b"a"), plain(6, 1, b"b")]);
        torn.truncate(length + 3);
        let (at, error) = RecordBatch::check(Offset(5), torn).unwrap_err();
        assert_eq!(at, length);
        assert!(matches!(error, RecordError::Incomplete { have: 3, .. }));
    }

    #[test]
    fn a_batch_knows_if_its_last_append_continues_after_it() {
        let all = testing::appends(3..9, 1, &[4, 5, 7, 8]);
        let table = [
            (3, 9, Some(7)),
            (3, 4, None),
            (3, 5, Some(4)),
            (3, 6, Some(4)),
            (3, 7, None),
            (5, 6, Some(5)),
            (5, 7, None),
            (6, 8, Some(7)),
            (8, 9, Some(8)),
        ];
        for (from, until, open_from) in table {
            let part = all.slice(Offset(from), Offset(until)).unwrap();
            assert_eq!(part.open_from(), open_from.map(Offset), "{part:?}");
            let again = RecordBatch::check(part.first(), part.bytes().clone()).unwrap();
            assert_eq!(again, part);
        }
        assert_eq!(
            all.head(3 * (HEADER_BYTES + 1)).open_from(),
            Some(Offset(4))
        );
    }

    fn plain(offset: u64, epoch: u64, payload: &[u8]) -> Record<'_> {
        Record {
            offset: Offset(offset),
            epoch: Epoch(epoch),
            timestamp_ms: 0,
            kind: KIND_MESSAGE,
            flags: 0,
            key: b"",
            payload,
        }
    }

    fn encoded(records: &[Record<'_>]) -> Bytes {
        let mut bytes = BytesMut::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        bytes.freeze()
    }

    /// Fields of a record except its offset and epoch.
    type Fields = (u64, u8, u8, Vec<u8>, Vec<u8>);

    fn fields() -> impl Strategy<Value = Fields> {
        let bytes = |length| prop::collection::vec(any::<u8>(), 0..length);
        (
            any::<u64>(),
            any::<u8>(),
            any::<u8>(),
            bytes(40),
            bytes(300),
        )
    }

    fn record(offset: u64, epoch: u64, fields: &Fields) -> Record<'_> {
        let (timestamp_ms, kind, flags, key, payload) = fields;
        Record {
            offset: Offset(offset),
            epoch: Epoch(epoch),
            timestamp_ms: *timestamp_ms,
            kind: *kind,
            flags: *flags,
            key,
            payload,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_record_survives_a_round_trip(
            offset in any::<u64>(), epoch in any::<u64>(), fields in fields(),
        ) {
            let record = record(offset, epoch, &fields);
            let bytes = encoded(&[record]);
            prop_assert_eq!(bytes.len(), record.encoded_bytes());
            prop_assert_eq!(Record::decode(&bytes), Ok(record));
            let mut followed = bytes.to_vec();
            followed.extend_from_slice(b"whatever follows");
            prop_assert_eq!(Record::decode(&followed), Ok(record));
        }

        #[test]
        fn a_few_changed_bytes_are_always_noticed(
            fields in fields(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
        ) {
            let good = encoded(&[record(3, 4, &fields)]);
            let mut bad = good.to_vec();
            for (at, change) in changes {
                let at = at.index(bad.len());
                bad[at] ^= change;
            }
            if bad[..] != good[..] {
                prop_assert!(Record::decode(&bad).is_err());
            }
        }

        #[test]
        fn decoding_any_bytes_does_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            length in 0..220_u32,
            right_checksum in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if bytes.len() >= HEADER_BYTES {
                bytes[..4].copy_from_slice(&length.to_le_bytes());
                let end = (PREFIX_BYTES + length as usize).min(bytes.len());
                if right_checksum {
                    let crc = checksum(&bytes[..end]);
                    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
                }
            }
            if let Ok(decoded) = Record::decode(&bytes) {
                prop_assert_eq!(&encoded(&[decoded])[..], &bytes[..decoded.encoded_bytes()]);
            }
            let _ = RecordBatch::check(Offset(0), bytes.into());
        }

        /// Rule 10: damage is found where it is, and nothing after it is trusted.
        #[test]
        fn a_changed_byte_in_a_batch_is_found_in_its_record(
            all in prop::collection::vec(fields(), 1..8),
            at in any::<prop::sample::Index>(),
            change in 1..=255_u8,
        ) {
            let records: Vec<Record<'_>> =
                all.iter().zip(3..).map(|(fields, offset)| record(offset, 4, fields)).collect();
            let mut bytes = encoded(&records).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            let (begin, _) = RecordBatch::check(Offset(3), bytes.clone().into()).unwrap_err();
            let before: Vec<Record<'_>> = records
                .iter()
                .scan(0, |end, record| {
                    *end += record.encoded_bytes();
                    (*end <= at).then_some(*record)
                })
                .collect();
            prop_assert_eq!(begin, encoded(&before).len());
            prop_assert_eq!(&bytes[..begin], &encoded(&before)[..]);
        }

        /// Rule 10: the rest of a truncated batch is its first records, or is refused.
        #[test]
        fn a_truncated_batch_is_refused_unless_cut_between_records(
            all in prop::collection::vec(fields(), 1..8),
            keep in any::<prop::sample::Index>(),
        ) {
            let records: Vec<Record<'_>> =
                all.iter().zip(3..).map(|(fields, offset)| record(offset, 4, fields)).collect();
            let whole = encoded(&records);
            let keep = keep.index(whole.len());
            let kept = whole.slice(..keep);
            let ends = records.iter().scan(0, |end, record| {
                *end += record.encoded_bytes();
                Some(*end)
            });
            let full = ends.take_while(|end| *end <= keep).last().unwrap_or(0);
            match RecordBatch::check(Offset(3), kept) {
                Ok(batch) => {
                    prop_assert_eq!(full, keep);
                    prop_assert!(batch.records().eq(records.iter().copied().take(batch.count() as usize)));
                }
                Err((at, _)) => {
                    prop_assert_eq!(at, full);
                    prop_assert!(full < keep || keep == 0);
                }
            }
        }

        #[test]
        fn slices_of_a_batch_are_the_records_asked_for(
            all in prop::collection::vec((fields(), 0..3_u64), 1..12),
            from in 0..20_u64, until in 0..20_u64, bytes_max in 0..2000_usize,
        ) {
            let mut epoch = 1;
            let records: Vec<Record<'_>> = all.iter().zip(3..).map(|((fields, bump), offset)| {
                epoch += bump / 2;
                record(offset, epoch, fields)
            }).collect();
            let batch = RecordBatch::check(Offset(3), encoded(&records)).unwrap();
            prop_assert_eq!(batch.records().collect::<Vec<_>>(), records.clone());
            let named = |record: &&Record<'_>| (from..until).contains(&record.offset.0);
            let wanted: Vec<Record<'_>> = records.iter().filter(named).copied().collect();
            match batch.slice(Offset(from), Offset(until)) {
                None => prop_assert!(wanted.is_empty()),
                Some(part) => {
                    let again = RecordBatch::check(wanted[0].offset, encoded(&wanted)).unwrap();
                    prop_assert_eq!(&part, &again);
                    prop_assert_eq!(part.first_epoch(), wanted[0].epoch);
                }
            }
            let head = batch.head(bytes_max);
            prop_assert_eq!(head.first(), batch.first());
            prop_assert!(head.bytes().len() <= bytes_max || head.count() == 1);
            if let Some(next) = records.get(head.count() as usize) {
                prop_assert!(head.bytes().len() + next.encoded_bytes() > bytes_max);
            }
        }
    }
}

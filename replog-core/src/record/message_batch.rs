//! Messages that are appended together: records encoded except for the fields that the master assigns.
//!
//! Owns the bytes from the caller on: each payload is copied once, into the record that will be on every disk and
//! wire, and the master only stamps offset, epoch, time and checksum into it. Stored in chunks of one replication
//! batch each, so that a part that is no longer needed keeps no other memory alive. Never assigns an offset. Keeps
//! rule 11.

use bytes::{BufMut as _, BytesMut};

use super::{
    FLAG_APPEND_GOES_ON, HEADER_BYTES, KIND_MESSAGE, PREFIX_BYTES, RecordBatch, checksum,
    encoded_len,
};
use crate::{
    limits::{APPEND_BYTES_MAX, BATCH_BYTES_MAX, KEY_BYTES_MAX},
    types::{Epoch, Offset},
    words::counted,
};

/// The messages of one append, in order: all of them get consecutive offsets in the log, or none gets any.
///
/// ```
/// use replog_core::MessageBatch;
///
/// let mut batch: MessageBatch = ["one", "two"].into_iter().collect();
/// batch.push("three");
/// assert_eq!(batch.len(), 3);
/// ```
#[derive(Clone, Default)]
pub struct MessageBatch {
    chunks: Vec<Chunk>,
    count: u64,
    bytes: usize,
    /// Bytes of the longest payload.
    longest: usize,
}

/// Consecutive records, of about one replication batch.
#[derive(Clone, Default)]
struct Chunk {
    count: u64,
    bytes: BytesMut,
}

impl MessageBatch {
    /// Creates an empty batch.
    #[must_use]
    pub fn new() -> MessageBatch {
        MessageBatch::default()
    }

    /// Adds a message after the others.
    pub fn push(&mut self, payload: impl AsRef<[u8]>) {
        let payload = payload.as_ref();
        self.count += 1;
        self.longest = self.longest.max(payload.len());
        if payload.len() > APPEND_BYTES_MAX {
            // No master takes it: the batch is refused for its longest message.
            return;
        }
        let total = HEADER_BYTES + payload.len();
        self.bytes += total;
        let has_room = |chunk: &Chunk| chunk.bytes.len() + total <= BATCH_BYTES_MAX;
        if !self.chunks.last().is_some_and(has_room) {
            self.chunks.push(Chunk::default());
        }
        let chunk = self.chunks.last_mut().expect("one was just pushed");
        chunk.count += 1;
        let into = &mut chunk.bytes;
        into.reserve(total);
        into.put_u32_le(length_field(total));
        // The master fills in checksum, offset, epoch and timestamp.
        into.put_bytes(0, 28);
        into.put_u8(KIND_MESSAGE);
        into.put_u8(FLAG_APPEND_GOES_ON);
        into.put_u16_le(0);
        into.put_slice(payload);
    }

    /// Returns the number of messages.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }

    /// Returns `true` if there is no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the number of messages, which is the number of offsets that they take.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Returns the bytes that the batch takes in memory and in the log: for each message its payload and 36 more.
    /// They count towards `max_queued_bytes`, and an append of more than
    /// [`APPEND_BYTES_MAX`](crate::limits::APPEND_BYTES_MAX), its key included, is refused.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the bytes of the longest payload.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// Returns the payloads, in order.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().flat_map(|chunk| {
            let mut rest = &chunk.bytes[..];
            std::iter::from_fn(move || {
                let total = record_len(rest)?;
                let record;
                (record, rest) = rest.split_at(total);
                let key_bytes = usize::from(u16::from_le_bytes([record[34], record[35]]));
                Some(&record[HEADER_BYTES + key_bytes..])
            })
        })
    }

    /// Writes an idempotency key into the first record, which has none yet.
    pub(crate) fn set_key(&mut self, key: &[u8]) {
        assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes", key.len());
        let Some(chunk) = self.chunks.first_mut() else {
            return;
        };
        let old = std::mem::take(&mut chunk.bytes);
        let total = record_len(&old).expect("a chunk has a record");
        let mut bytes = BytesMut::with_capacity(old.len() + key.len());
        bytes.put_u32_le(length_field(total + key.len()));
        bytes.put_slice(&old[4..34]);
        bytes.put_u16_le(u16::try_from(key.len()).expect("keys are bounded"));
        bytes.put_slice(key);
        bytes.put_slice(&old[HEADER_BYTES..]);
        chunk.bytes = bytes;
        self.bytes += key.len();
    }

    /// Returns the records, from `first` on, in batches of about [`BATCH_BYTES_MAX`].
    pub(crate) fn stamp(
        self,
        first: Offset,
        epoch: Epoch,
        timestamp_ms: u64,
    ) -> impl Iterator<Item = RecordBatch> {
        let last = Offset((first.0 + self.count).saturating_sub(1));
        let mut next = first;
        self.chunks
            .into_iter()
            .map(move |Chunk { count, mut bytes }| {
                let begins = next;
                let mut rest = &mut bytes[..];
                while let Some(total) = record_len(rest) {
                    let (record, behind) = rest.split_at_mut(total);
                    record[8..16].copy_from_slice(&next.0.to_le_bytes());
                    record[16..24].copy_from_slice(&epoch.0.to_le_bytes());
                    record[24..32].copy_from_slice(&timestamp_ms.to_le_bytes());
                    if next == last {
                        record[33] &= !FLAG_APPEND_GOES_ON;
                    }
                    let crc = checksum(record);
                    record[4..8].copy_from_slice(&crc.to_le_bytes());
                    next = next.plus(1);
                    rest = behind;
                }
                assert_eq!(
                    next.records_since(begins),
                    count,
                    "a chunk miscounted its records"
                );
                let batch = RecordBatch {
                    first: begins,
                    count,
                    first_epoch: epoch,
                    last_epoch: epoch,
                    open_from: (next <= last).then_some(begins),
                    bytes: bytes.freeze(),
                };
                debug_assert_eq!(
                    RecordBatch::check(begins, batch.bytes.clone()).as_ref(),
                    Ok(&batch)
                );
                batch
            })
    }
}

/// Returns the length of the record at the beginning of `bytes`; `None` at their end.
fn record_len(bytes: &[u8]) -> Option<usize> {
    let total = (!bytes.is_empty()).then(|| encoded_len(bytes));
    total.map(|total| total.expect("these records were encoded here"))
}

fn length_field(total: usize) -> u32 {
    u32::try_from(total - PREFIX_BYTES).expect("bounded by APPEND_BYTES_MAX")
}

impl<P: AsRef<[u8]>> Extend<P> for MessageBatch {
    fn extend<T: IntoIterator<Item = P>>(&mut self, payloads: T) {
        payloads.into_iter().for_each(|payload| self.push(payload));
    }
}

impl<P: AsRef<[u8]>> FromIterator<P> for MessageBatch {
    fn from_iter<T: IntoIterator<Item = P>>(payloads: T) -> MessageBatch {
        let mut batch = MessageBatch::new();
        batch.extend(payloads);
        batch
    }
}

impl std::fmt::Debug for MessageBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (messages, bytes) = (counted(self.count, "message"), counted(self.bytes, "byte"));
        write!(f, "{messages} ({bytes})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Record;

    #[test]
    fn a_batch_of_one_has_the_same_bytes_as_a_single_message() {
        let mut batch: MessageBatch = [b"payload"].into_iter().collect();
        batch.set_key(b"k");
        let stamped: Vec<RecordBatch> = batch.stamp(Offset(7), Epoch(2), 9).collect();
        let mut alone = BytesMut::new();
        Record {
            offset: Offset(7),
            epoch: Epoch(2),
            timestamp_ms: 9,
            kind: KIND_MESSAGE,
            flags: 0,
            key: b"k",
            payload: b"payload",
        }
        .encode(&mut alone);
        assert_eq!(stamped.len(), 1);
        assert_eq!(stamped[0].bytes(), &alone);
    }

    #[test]
    fn many_small_messages_share_chunks_instead_of_allocating_each() {
        let batch: MessageBatch = std::iter::repeat_n("1", 100_000).collect();
        assert_eq!((batch.len(), batch.bytes()), (100_000, 3_700_000));
        let chunks: Vec<RecordBatch> = batch.stamp(Offset(5), Epoch(1), 0).collect();
        assert_eq!(chunks.len(), 4);
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk.bytes().len() <= BATCH_BYTES_MAX)
        );
    }

    #[test]
    fn a_message_that_no_master_takes_is_counted_and_not_kept() {
        let mut batch = MessageBatch::new();
        batch.push(vec![0; APPEND_BYTES_MAX + 1]);
        let found = (batch.longest(), batch.bytes(), batch.len());
        assert_eq!(found, (APPEND_BYTES_MAX + 1, 0, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn the_records_are_the_messages_in_order_and_all_but_the_last_are_flagged(
            payloads in prop::collection::vec((0..3_usize, any::<u8>()), 1..12),
            key in prop::option::of("[a-z]{1,9}"),
        ) {
            // Some of them are as long as a chunk, or nearly.
            let lengths = [5, BATCH_BYTES_MAX / 2 - 50, BATCH_BYTES_MAX + 1];
            let payloads: Vec<Vec<u8>> = payloads
                .into_iter()
                .map(|(kind, byte)| vec![byte; lengths[kind]])
                .collect();
            let mut batch: MessageBatch = payloads.iter().collect();
            if let Some(key) = &key {
                batch.set_key(key.as_bytes());
            }
            prop_assert!(batch.payloads().eq(payloads.iter().map(|payload| &payload[..])));
            let (bytes, count) = (batch.bytes(), batch.count());
            let stamped: Vec<RecordBatch> = batch.stamp(Offset(3), Epoch(4), 5).collect();
            prop_assert_eq!(stamped.iter().map(|part| part.bytes().len()).sum::<usize>(), bytes);
            let mut next = Offset(3);
            for part in &stamped {
                prop_assert_eq!(part.first(), next);
                let checked = RecordBatch::check(next, part.bytes().clone()).unwrap();
                prop_assert_eq!(part, &checked);
                for record in checked.records() {
                    let nth = record.offset.records_since(Offset(3));
                    prop_assert_eq!(record.payload, &payloads[nth as usize][..]);
                    prop_assert_eq!(record.append_goes_on(), nth + 1 < count);
                    let expected = key.as_deref().filter(|_| nth == 0).unwrap_or_default();
                    prop_assert_eq!(record.key, expected.as_bytes());
                    prop_assert_eq!((record.epoch, record.timestamp_ms), (Epoch(4), 5));
                }
                next = part.end();
            }
            prop_assert_eq!(next.records_since(Offset(3)), count);
        }
    }
}

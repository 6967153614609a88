//! Messages that are appended together: a frame without the fields that the master assigns.
//!
//! Owns the bytes from the caller on: each payload is copied once, to where it will be on every disk and wire, and the
//! master only fills in the header in front of them. Never assigns an offset. Keeps rule 11.

use bytes::{BufMut as _, BytesMut};

use super::{FrameBatch, FrameFields, HEADER_BYTES, MESSAGE_HEADER_BYTES, payloads, put_message};
use crate::{
    limits::{FRAME_BYTES_MAX, KEY_BYTES_MAX},
    types::{Epoch, Offset},
    words::counted,
};

/// Bytes kept free in front of the messages, for a header with the longest key.
const FRONT_BYTES: usize = HEADER_BYTES + KEY_BYTES_MAX;

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
    /// [`FRONT_BYTES`], then each message after its length; empty before the first message.
    buffer: BytesMut,
    count: u64,
    /// Bytes of the longest payload.
    longest: usize,
    key: Vec<u8>,
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
        if payload.len() > FRAME_BYTES_MAX {
            // No master takes it: the batch is refused for its longest message.
            return;
        }
        if self.buffer.is_empty() {
            self.buffer.put_bytes(0, FRONT_BYTES);
        }
        self.buffer.reserve(MESSAGE_HEADER_BYTES + payload.len());
        put_message(payload, &mut self.buffer);
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

    /// Returns the bytes that the batch takes in the log: 42, and for each message its payload and 4 more.
    /// They count towards `max_queued_bytes`, and an append of more than
    /// [`FRAME_BYTES_MAX`](crate::limits::FRAME_BYTES_MAX), its key included, is refused.
    #[must_use]
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.key.len() + self.messages().len()
    }

    /// Returns the bytes of the longest payload.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// Returns the payloads, in order.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        payloads(self.messages())
    }

    /// Sets the idempotency key.
    pub(crate) fn set_key(&mut self, key: &[u8]) {
        assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes", key.len());
        self.key = key.to_vec();
    }

    /// Returns the frame of the batch, with the offsets from `first` on.
    pub(crate) fn stamp(mut self, first: Offset, epoch: Epoch, timestamp_ms: u64) -> FrameBatch {
        let fields = FrameFields {
            first,
            epoch,
            timestamp_ms,
            key: &self.key,
        };
        let mut frame = self
            .buffer
            .split_off(FRONT_BYTES - HEADER_BYTES - self.key.len());
        frame[HEADER_BYTES..][..self.key.len()].copy_from_slice(&self.key);
        fields.seal(self.count, &mut frame);
        FrameBatch::encoded_here(first, first.plus(self.count), epoch, frame.freeze())
    }

    fn messages(&self) -> &[u8] {
        self.buffer.get(FRONT_BYTES..).unwrap_or_default()
    }
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
        let (messages, bytes) = (
            counted(self.count, "message"),
            counted(self.bytes(), "byte"),
        );
        write!(f, "{messages} ({bytes})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_batch_of_one_has_the_same_bytes_as_a_single_message() {
        let mut batch: MessageBatch = [b"payload"].into_iter().collect();
        batch.set_key(b"k");
        let mut alone = BytesMut::new();
        let fields = FrameFields {
            first: Offset(7),
            epoch: Epoch(2),
            timestamp_ms: 9,
            key: b"k",
        };
        fields.encode(&[b"payload"], &mut alone);
        assert_eq!(batch.bytes(), alone.len());
        assert_eq!(batch.stamp(Offset(7), Epoch(2), 9).bytes(), &alone);
    }

    #[test]
    fn a_message_takes_four_bytes_more_than_its_own() {
        let batch: MessageBatch = std::iter::repeat_n("1", 100_000).collect();
        assert_eq!((batch.len(), batch.bytes()), (100_000, 42 + 500_000));
    }

    #[test]
    fn a_message_that_no_master_takes_is_counted_and_not_kept() {
        let mut batch = MessageBatch::new();
        batch.push(vec![0; FRAME_BYTES_MAX + 1]);
        let found = (batch.longest(), batch.bytes(), batch.len());
        assert_eq!(found, (FRAME_BYTES_MAX + 1, HEADER_BYTES, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_batch_is_one_frame_with_its_messages_in_order(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..12),
            key in prop::option::of("[a-z]{1,9}"),
        ) {
            let mut batch: MessageBatch = payloads.iter().collect();
            let key = key.unwrap_or_default();
            batch.set_key(key.as_bytes());
            prop_assert!(batch.payloads().eq(payloads.iter().map(|payload| &payload[..])));
            let bytes = batch.bytes();
            let stamped = batch.stamp(Offset(3), Epoch(4), 5);
            prop_assert_eq!(stamped.bytes().len(), bytes);
            let checked = FrameBatch::check(Offset(3), stamped.bytes().clone()).unwrap();
            prop_assert_eq!(&stamped, &checked);
            prop_assert_eq!(checked.frames().count(), 1);
            prop_assert_eq!(checked.count(), payloads.len() as u64);
            for (message, nth) in checked.messages().zip(0..) {
                prop_assert_eq!(message.offset, Offset(3 + nth as u64));
                prop_assert_eq!(message.payload, &payloads[nth][..]);
                let expected = if nth == 0 { key.as_bytes() } else { b"" };
                prop_assert_eq!(message.key, expected);
                prop_assert_eq!((message.epoch, message.timestamp_ms), (Epoch(4), 5));
            }
        }
    }
}

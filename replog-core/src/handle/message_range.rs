//! [`MessageRange`]: messages as they were read from a log.
//!
//! Owns the frames that were read and the range of offsets in them that was asked for, which may begin and end inside
//! an append. Copies nothing: every message shares the buffer of its frame. Keeps rule 2.

use crate::{
    frame::{FrameBatch, HEADER_BYTES, MessagePlace, MessageRef},
    types::Offset,
    views::Message,
};

/// Consecutive messages of a log, at least one, as they were read. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct MessageRange {
    frames: FrameBatch,
    from: Offset,
    until: Offset,
    /// Place of the message at `from`.
    begin: MessagePlace,
}

/// Bytes that each message counts more than its own where the bytes of messages are limited: short ones take more in
/// memory, and as text, than in the log.
const COUNTED_BYTES: usize = HEADER_BYTES;

impl MessageRange {
    /// Returns those of the frames' messages that are in `from..until`; `None` if there are none.
    #[must_use]
    pub fn new(frames: FrameBatch, from: Offset, until: Offset) -> Option<MessageRange> {
        let from = from.max(frames.first());
        let until = until.min(frames.end());
        if from >= until {
            return None;
        }
        Some(MessageRange {
            begin: frames.place_of(from)?,
            frames,
            from,
            until,
        })
    }

    /// Returns the first messages, up to `bytes_max` bytes and at least one, and how many bytes they count: each its own
    /// and [`COUNTED_BYTES`] more.
    pub(super) fn head(mut self, bytes_max: usize) -> (MessageRange, usize) {
        let more =
            COUNTED_BYTES.saturating_mul(usize::try_from(self.count()).unwrap_or(usize::MAX));
        let most = self.frames.bytes().len().saturating_add(more);
        if most <= bytes_max {
            return (self, most);
        }
        let (mut bytes, mut until) = (0, self.from);
        for message in self.refs() {
            let with = bytes + message.payload.len() + COUNTED_BYTES;
            if with > bytes_max && until > self.from {
                break;
            }
            (bytes, until) = (with, message.offset.plus(1));
        }
        self.until = until;
        (self, bytes)
    }

    /// Returns the first message's offset.
    #[must_use]
    pub fn first(&self) -> Offset {
        self.from
    }

    /// Returns the offset after the last message.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.until
    }

    /// Returns the number of messages.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.until.records_since(self.from)
    }

    /// Returns the messages, in order. Their payloads share one buffer with each other.
    pub fn messages(&self) -> impl Iterator<Item = Message> {
        let bytes = self.frames.bytes();
        self.refs().map(|message| Message {
            offset: message.offset,
            epoch: message.epoch,
            timestamp_ms: message.timestamp_ms,
            key: (!message.key.is_empty())
                .then(|| String::from_utf8_lossy(message.key).into_owned()),
            payload: bytes.slice_ref(message.payload),
        })
    }

    /// Returns the messages, in order, without allocating anything for one.
    pub fn refs(&self) -> impl Iterator<Item = MessageRef<'_>> {
        let until = self.until;
        let messages = self.frames.messages_from(self.begin);
        messages.take_while(move |message| message.offset < until)
    }

    /// Returns the appends that the messages belong to, as stored on disk: the first may begin before
    /// [`first`](MessageRange::first), and the last may end after [`end`](MessageRange::end).
    #[must_use]
    pub fn frames(&self) -> &FrameBatch {
        &self.frames
    }
}

impl std::fmt::Debug for MessageRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "messages {}..{}", self.from, self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::testing::appends;

    #[test]
    fn a_range_may_begin_and_end_inside_an_append() {
        let frames = appends(3, 1, &[2, 3, 1, 2]);
        for (from, until) in [(0, 20), (3, 11), (4, 7), (5, 8), (6, 7), (10, 11)] {
            let range = MessageRange::new(frames.clone(), Offset(from), Offset(until)).unwrap();
            let expected: Vec<u64> = (from.max(3)..until.min(11)).collect();
            let offsets: Vec<u64> = range.refs().map(|message| message.offset.0).collect();
            assert_eq!(offsets, expected);
            assert_eq!(range.count(), expected.len() as u64);
            assert!(range.messages().map(|message| message.offset.0).eq(offsets));
        }
        let whole = MessageRange::new(frames.clone(), Offset(4), Offset(11)).unwrap();
        let one = COUNTED_BYTES + 1;
        for (bytes_max, count) in [(0, 1), (one, 1), (2 * one - 1, 1), (5 * one, 5)] {
            let (head, bytes) = whole.clone().head(bytes_max);
            assert_eq!(
                (head.first(), head.count(), bytes),
                (Offset(4), count, count as usize * one)
            );
        }
        assert_eq!(whole.clone().head(10_000).0, whole);
        for (from, until) in [(0, 3), (11, 20), (5, 5)] {
            let range = MessageRange::new(frames.clone(), Offset(from), Offset(until));
            assert_eq!(range, None);
        }
    }
}

//! The frame codec: one append as stored on disk and sent on the wire, encoded once.
//!
//! Owns the format and its checks; knows nothing about files or nodes. A frame has one message or several: its
//! checksum proves that all of an append is there, or none of it. All integers are little-endian.
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | length of what follows the checksum; 0: no frame here |
//! | 4 | 4 | CRC-32C over the length and all that follows the checksum |
//! | 8 | 1 | version of the format, 2 |
//! | 9 | 1 | kind: 0, messages; there is no other |
//! | 10 | 2 | flags: none is defined, and all are kept |
//! | 12 | 8 | offset of the first message; the others have the offsets after it |
//! | 20 | 8 | epoch of the author |
//! | 28 | 8 | timestamp, milliseconds since 1970, by the master's clock |
//! | 36 | 4 | number of messages, at least 1 |
//! | 40 | 2 | length of the key in bytes |
//! | 42 | | the key |
//! | | | for each message 4 bytes with its length, then the message |
//!
//! Whatever a later version changes, it keeps the first ten bytes and the limit of the length: a frame of an unknown
//! version or kind is recognised as such, and refused by name instead of being taken for damage.

mod batch;
mod message_batch;

use std::io;

use bytes::{BufMut as _, BytesMut};

pub use batch::FrameBatch;
pub(crate) use batch::MessagePlace;
pub use message_batch::MessageBatch;

use crate::{
    limits::FRAME_BYTES_MAX,
    types::{Epoch, Offset},
    words::counted,
};

/// Version of the format of frames.
pub const VERSION: u8 = 2;
/// Kind of a frame with messages.
pub const KIND_MESSAGES: u8 = 0;
/// Bytes before the key.
pub const HEADER_BYTES: usize = 42;
/// Bytes that each message takes besides its own: its length.
pub const MESSAGE_HEADER_BYTES: usize = 4;
/// Bytes that the length field does not count: itself and the checksum.
const PREFIX_BYTES: usize = 8;
/// Bytes that every version has: length, checksum, version and kind.
const COMMON_BYTES: usize = 10;

/// One append: the fields of its frame and its messages, borrowed from the frame's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Offset of the first message.
    pub first: Offset,
    /// Epoch of its author.
    pub epoch: Epoch,
    /// Time of the append, by the master's clock.
    pub timestamp_ms: u64,
    /// Flags; none is defined.
    pub flags: u16,
    /// Number of messages.
    pub count: u32,
    /// Idempotency key; empty where there is none.
    pub key: &'a [u8],
    /// The messages, each after its length.
    messages: &'a [u8],
}

/// One message of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageRef<'a> {
    /// Position in the log.
    pub offset: Offset,
    /// Epoch of its author.
    pub epoch: Epoch,
    /// Time of the append, by the master's clock.
    pub timestamp_ms: u64,
    /// Idempotency key of the append, which its first message has; empty for all others and where there is none.
    pub key: &'a [u8],
    /// Payload, opaque.
    pub payload: &'a [u8],
}

/// Reason why bytes are not a valid frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Length 0, or nothing at all: no frame was ever written here.
    #[error("no frame here")]
    Absent,
    /// The bytes end before the frame does.
    #[error("the frame needs {} and has only {have}", counted(needed, "byte"))]
    Incomplete {
        /// Bytes that the frame takes by its length field, or that its header needs.
        needed: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// The length field has a value that no frame has.
    #[error("no frame has a length of {}", counted(length, "byte"))]
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
    /// The frame is intact, and of another version.
    #[error("the frame has format version {0}, and this program knows version {VERSION}")]
    Version(u8),
    /// The frame is intact, and of another kind.
    #[error("the frame is of kind {0}, and this program knows kind {KIND_MESSAGES}, messages")]
    Kind(u8),
    /// The key's length exceeds the frame.
    #[error("a key of {} exceeds the frame", counted(key_bytes, "byte"))]
    Key {
        /// The key's length field.
        key_bytes: u16,
    },
    /// The messages do not fill the frame exactly, or are not as many as it says.
    #[error(
        "the frame does not have the {} that it says",
        counted(count, "message")
    )]
    Messages {
        /// The number of messages that it says.
        count: u32,
    },
    /// The frame has another first offset than the one expected here.
    #[error("the frame begins at offset {found} where {expected} belongs")]
    Offset {
        /// The offset that was read.
        found: Offset,
        /// The offset that is expected here.
        expected: Offset,
    },
    /// The frame has an older epoch than the one before it; no master writes that.
    #[error("the frame has epoch {found} after epoch {before}")]
    Epoch {
        /// The epoch that was read.
        found: Epoch,
        /// The epoch of the frame before it.
        before: Epoch,
    },
}

impl FrameError {
    /// Returns `true` if the bytes are an intact frame that this program does not know: not damage, and neither cut
    /// away nor mended.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, FrameError::Version(_) | FrameError::Kind(_))
    }

    /// Returns the error of an unknown frame that an error of reading it was made from.
    pub(crate) fn unknown_in(error: &io::Error) -> Option<&FrameError> {
        let frame = error.get_ref()?.downcast_ref::<FrameError>();
        frame.filter(|frame| frame.is_unknown())
    }
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

impl<'a> Frame<'a> {
    /// Returns the number of bytes that the frame takes when encoded.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        self.messages_at() + self.messages.len()
    }

    /// Returns the position of the first message's length.
    fn messages_at(&self) -> usize {
        HEADER_BYTES + self.key.len()
    }

    /// Returns the offset after the last message.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.first.plus(self.count.into())
    }

    /// Decodes the frame at the beginning of `bytes` and checks all of it.
    ///
    /// # Errors
    ///
    /// Any [`FrameError`] except those about neighbouring frames. `Incomplete` says how many bytes are needed.
    pub fn decode(bytes: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        let total = encoded_len(bytes)?;
        let bytes = match bytes.get(..total) {
            Some(bytes) => bytes,
            None => {
                return Err(FrameError::Incomplete {
                    needed: total,
                    have: bytes.len(),
                });
            }
        };
        let found = u32_at(bytes, 4);
        let expected = checksum(bytes);
        if found != expected {
            return Err(FrameError::Checksum { found, expected });
        }
        let frame = Frame::parse(bytes)?;
        frame.check_messages()?;
        Ok(frame)
    }

    /// Decodes bytes that were checked before. `bytes` is exactly one frame.
    fn parse(bytes: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        check_version(bytes)?;
        if bytes.len() < HEADER_BYTES {
            return Err(FrameError::Length {
                length: u32_at(bytes, 0),
            });
        }
        let key_bytes = u16::from_le_bytes([bytes[40], bytes[41]]);
        let Some((key, messages)) = bytes[HEADER_BYTES..].split_at_checked(key_bytes.into()) else {
            return Err(FrameError::Key { key_bytes });
        };
        Ok(Frame {
            first: Offset(u64_at(bytes, 12)),
            epoch: Epoch(u64_at(bytes, 20)),
            timestamp_ms: u64_at(bytes, 28),
            flags: u16::from_le_bytes([bytes[10], bytes[11]]),
            count: u32_at(bytes, 36),
            key,
            messages,
        })
    }

    /// Checks that the messages fill the frame, and that all of them can have an offset.
    fn check_messages(&self) -> Result<(), FrameError> {
        let count = self.count;
        let mut rest = self.messages;
        for _ in 0..count {
            let Some((_, behind)) = split_message(rest) else {
                return Err(FrameError::Messages { count });
            };
            rest = behind;
        }
        let ends = self.first.0.checked_add(count.into());
        if count == 0 || !rest.is_empty() || ends.is_none() {
            return Err(FrameError::Messages { count });
        }
        Ok(())
    }

    /// Returns an iterator over the payloads, in order.
    pub fn payloads(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        payloads(self.messages)
    }

    /// Returns an iterator over the messages, in order.
    pub fn messages(&self) -> impl Iterator<Item = MessageRef<'a>> + use<'a> {
        let frame = *self;
        (frame.first.0..)
            .zip(frame.payloads())
            .map(move |(offset, payload)| frame.message(Offset(offset), payload))
    }

    fn message(&self, offset: Offset, payload: &'a [u8]) -> MessageRef<'a> {
        MessageRef {
            offset,
            epoch: self.epoch,
            timestamp_ms: self.timestamp_ms,
            key: match offset == self.first {
                true => self.key,
                false => b"",
            },
            payload,
        }
    }
}

/// Fields of a frame that is about to be encoded.
#[derive(Clone, Copy, Debug)]
pub struct FrameFields<'a> {
    /// Offset of the first message.
    pub first: Offset,
    /// Epoch of its author.
    pub epoch: Epoch,
    /// Time of the append, by the master's clock.
    pub timestamp_ms: u64,
    /// Idempotency key; empty where there is none.
    pub key: &'a [u8],
}

impl FrameFields<'_> {
    /// Appends the frame of these messages to `into`.
    ///
    /// # Panics
    ///
    /// If there is no message, the frame is longer than [`FRAME_BYTES_MAX`], or its key longer than a key can be: all
    /// are refused before an offset is assigned.
    pub fn encode(&self, payloads: &[&[u8]], into: &mut BytesMut) {
        let start = into.len();
        let bytes = payloads.iter().map(|payload| payload.len()).sum();
        into.reserve(bytes_of(self.key.len(), payloads.len(), bytes));
        into.put_bytes(0, HEADER_BYTES);
        into.put_slice(self.key);
        for payload in payloads {
            put_message(payload, into);
        }
        self.seal(payloads.len() as u64, &mut into[start..]);
    }

    /// Writes the header of a frame of `count` messages, whose key and messages are in `frame` already.
    fn seal(&self, count: u64, frame: &mut [u8]) {
        let total = frame.len();
        assert!(
            total <= FRAME_BYTES_MAX,
            "a frame of {total} bytes was admitted"
        );
        assert!(count > 0, "a frame without a message at {}", self.first);
        let length = u32::try_from(total - PREFIX_BYTES).expect("bounded by FRAME_BYTES_MAX");
        let count = u32::try_from(count).expect("each message takes bytes of the frame");
        let key_bytes = u16::try_from(self.key.len()).expect("keys are bounded at admission");
        let mut header = &mut frame[..HEADER_BYTES];
        header.put_u32_le(length);
        header.put_u32_le(0);
        header.put_u8(VERSION);
        header.put_u8(KIND_MESSAGES);
        header.put_u16_le(0);
        header.put_u64_le(self.first.0);
        header.put_u64_le(self.epoch.0);
        header.put_u64_le(self.timestamp_ms);
        header.put_u32_le(count);
        header.put_u16_le(key_bytes);
        let crc = checksum(frame);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Appends a message with its length.
fn put_message(payload: &[u8], into: &mut BytesMut) {
    into.put_u32_le(u32::try_from(payload.len()).expect("bounded by FRAME_BYTES_MAX"));
    into.put_slice(payload);
}

/// Returns the bytes of the frame of an append: with a key of this length, and this many messages of these bytes
/// altogether.
#[must_use]
pub fn bytes_of(key_bytes: usize, messages: usize, payload_bytes: usize) -> usize {
    HEADER_BYTES + key_bytes + messages * MESSAGE_HEADER_BYTES + payload_bytes
}

/// Returns the payloads of messages that each come after their length.
fn payloads(messages: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = messages;
    std::iter::from_fn(move || {
        let payload;
        (payload, rest) = split_message(rest)?;
        Some(payload)
    })
}

/// Splits off the first message, without its length; `None` if there is none.
fn split_message(messages: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = messages.split_first_chunk::<MESSAGE_HEADER_BYTES>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// Returns the total length of the frame at the beginning of `bytes`, by its length field.
///
/// # Errors
///
/// [`FrameError::Absent`], [`FrameError::Incomplete`] when not even what every version has is there, or
/// [`FrameError::Length`].
pub fn encoded_len(bytes: &[u8]) -> Result<usize, FrameError> {
    if bytes.is_empty() {
        return Err(FrameError::Absent);
    }
    if bytes.len() < 4 {
        return Err(FrameError::Incomplete {
            needed: HEADER_BYTES,
            have: bytes.len(),
        });
    }
    let length = u32_at(bytes, 0);
    if length == 0 {
        return Err(FrameError::Absent);
    }
    let total = PREFIX_BYTES.saturating_add(length as usize);
    if !(COMMON_BYTES..=FRAME_BYTES_MAX).contains(&total) {
        return Err(FrameError::Length { length });
    }
    if bytes.len() < HEADER_BYTES.min(total) {
        return Err(FrameError::Incomplete {
            needed: total,
            have: bytes.len(),
        });
    }
    Ok(total)
}

/// Claims of a frame's header, which prove nothing: only the checksum does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// Bytes of the frame.
    pub(crate) bytes: usize,
    pub(crate) first: Offset,
    pub(crate) end: Offset,
    pub(crate) epoch: Epoch,
}

impl Claimed {
    /// Reads the header at the beginning of `bytes`, which need not have more of the frame.
    pub(crate) fn read(bytes: &[u8]) -> Result<Claimed, FrameError> {
        let total = encoded_len(bytes)?;
        check_version(bytes)?;
        if total < HEADER_BYTES {
            let length = u32_at(bytes, 0);
            return Err(FrameError::Length { length });
        }
        let (first, count) = (u64_at(bytes, 12), u32_at(bytes, 36));
        let end = first.checked_add(count.into()).filter(|end| *end > first);
        Ok(Claimed {
            bytes: total,
            first: Offset(first),
            end: Offset(end.ok_or(FrameError::Messages { count })?),
            epoch: Epoch(u64_at(bytes, 20)),
        })
    }
}

fn check_version(frame: &[u8]) -> Result<(), FrameError> {
    match (frame[8], frame[9]) {
        (VERSION, KIND_MESSAGES) => Ok(()),
        (VERSION, kind) => Err(FrameError::Kind(kind)),
        (version, _) => Err(FrameError::Version(version)),
    }
}

pub(crate) fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[PREFIX_BYTES..])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Frames for the tests of other modules.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Returns frames of one epoch from offset `first` on, with these numbers of messages, each with the payload `x`.
    pub(crate) fn appends(first: u64, epoch: u64, counts: &[usize]) -> FrameBatch {
        let mut bytes = BytesMut::new();
        let mut next = first;
        for &count in counts {
            fields(next, epoch).encode(&vec![&b"x"[..]; count], &mut bytes);
            next += count as u64;
        }
        FrameBatch::encoded_here(Offset(first), Offset(next), Epoch(epoch), bytes.freeze())
    }

    /// Returns the messages of `range`, each an append of its own, all of one epoch, each with the payload `x`.
    pub(crate) fn batch(range: std::ops::Range<u64>, epoch: u64) -> FrameBatch {
        let count = usize::try_from(range.end - range.start).unwrap();
        appends(range.start, epoch, &vec![1; count])
    }

    /// Returns the fields of a frame without a key.
    pub(crate) fn fields(first: u64, epoch: u64) -> FrameFields<'static> {
        FrameFields {
            first: Offset(first),
            epoch: Epoch(epoch),
            timestamp_ms: 0,
            key: b"",
        }
    }
}

#[cfg(test)]
mod tests;

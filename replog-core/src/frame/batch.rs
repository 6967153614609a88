//! Consecutive frames in one buffer.
//!
//! Owns the bytes of whole frames and what was learned when they were checked. Never splits a frame: every part of a
//! batch begins and ends between frames. Keeps rules 2 and 10.

use bytes::Bytes;

use super::{Frame, FrameError, MESSAGE_HEADER_BYTES, MessageRef, encoded_len, split_message};
use crate::types::{Epoch, EpochStart, Offset};

/// Consecutive frames in one buffer, as the master encodes them together, a link sends them and a writer writes them.
/// Cheap to clone; never empty; always checked.
#[derive(Clone, PartialEq, Eq)]
pub struct FrameBatch {
    first: Offset,
    end: Offset,
    first_epoch: Epoch,
    last_epoch: Epoch,
    bytes: Bytes,
}

/// Place of a message in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessagePlace {
    offset: Offset,
    /// Position of its frame in the batch.
    frame: usize,
    /// Position of the message in its frame.
    message: usize,
}

impl FrameBatch {
    /// Checks bytes that came from a disk or another node: every frame is checked, offsets must be consecutive from
    /// `first`, epochs must not decrease.
    ///
    /// # Errors
    ///
    /// The first [`FrameError`], with its position in `bytes`; [`FrameError::Absent`] when there is no frame at all.
    pub fn check(first: Offset, bytes: Bytes) -> Result<FrameBatch, (usize, FrameError)> {
        let (mut at, mut next) = (0, first);
        let mut epochs: Option<(Epoch, Epoch)> = None;
        while at < bytes.len() || epochs.is_none() {
            let frame = Frame::decode(&bytes[at..]).map_err(|error| (at, error))?;
            let (found, expected) = (frame.first, next);
            if found != expected {
                return Err((at, FrameError::Offset { found, expected }));
            }
            let (first_epoch, before) = epochs.unwrap_or((frame.epoch, frame.epoch));
            let found = frame.epoch;
            if found < before {
                return Err((at, FrameError::Epoch { found, before }));
            }
            epochs = Some((first_epoch, found));
            at += frame.encoded_bytes();
            next = frame.end();
        }
        let (first_epoch, last_epoch) = epochs.expect("the loop above ran at least once");
        Ok(FrameBatch {
            first,
            end: next,
            first_epoch,
            last_epoch,
            bytes,
        })
    }

    /// Wraps frames of one epoch, from `first` to `end`, that this process has encoded itself.
    pub(crate) fn encoded_here(first: Offset, end: Offset, epoch: Epoch, bytes: Bytes) -> Self {
        assert!(first < end, "an empty batch was encoded at {first}");
        let batch = FrameBatch {
            first,
            end,
            first_epoch: epoch,
            last_epoch: epoch,
            bytes,
        };
        debug_assert_eq!(
            FrameBatch::check(first, batch.bytes.clone()).as_ref(),
            Ok(&batch)
        );
        batch
    }

    /// Returns the first message's offset.
    #[must_use]
    pub fn first(&self) -> Offset {
        self.first
    }

    /// Returns the offset after the last message.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Returns the number of messages.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.end.records_since(self.first)
    }

    /// Returns the first frame's epoch.
    #[must_use]
    pub fn first_epoch(&self) -> Epoch {
        self.first_epoch
    }

    /// Returns the last frame's epoch.
    #[must_use]
    pub fn last_epoch(&self) -> Epoch {
        self.last_epoch
    }

    /// Returns the frames as stored on disk and sent on the wire.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns an iterator over the frames, in order, borrowing from the buffer.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        self.frames_from(0)
    }

    /// Returns an iterator over the frames from this byte on, at which one begins.
    fn frames_from(&self, at: usize) -> impl Iterator<Item = Frame<'_>> {
        let mut at = at;
        std::iter::from_fn(move || {
            let rest = self.bytes.get(at..).filter(|rest| !rest.is_empty())?;
            let total = encoded_len(rest).expect("a batch holds only checked frames");
            at += total;
            Some(Frame::parse(&rest[..total]).expect("a batch holds only checked frames"))
        })
    }

    /// Returns an iterator over all messages, in order, borrowing from the buffer.
    pub fn messages(&self) -> impl Iterator<Item = MessageRef<'_>> {
        self.frames().flat_map(|frame| frame.messages())
    }

    /// Finds the place of the message at `offset`; `None` if it is not in the batch.
    pub(crate) fn place_of(&self, offset: Offset) -> Option<MessagePlace> {
        let mut at = 0;
        for frame in self.frames() {
            if frame.first <= offset && offset < frame.end() {
                let before = offset.records_since(frame.first);
                let before = frame.payloads().take(usize::try_from(before).ok()?);
                let before: usize = before.map(|p| MESSAGE_HEADER_BYTES + p.len()).sum();
                return Some(MessagePlace {
                    offset,
                    frame: at,
                    message: frame.messages_at() + before,
                });
            }
            at += frame.encoded_bytes();
        }
        None
    }

    /// Returns an iterator over the messages from a place on, without a look at those before it.
    pub(crate) fn messages_from(
        &self,
        place: MessagePlace,
    ) -> impl Iterator<Item = MessageRef<'_>> {
        let mut frames = self.frames_from(place.frame);
        let mut frame = frames.next().expect("the place was found in this batch");
        let mut rest = &frame.messages[place.message - frame.messages_at()..];
        let mut offset = place.offset;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                frame = frames.next()?;
                (rest, offset) = (frame.messages, frame.first);
            }
            let payload;
            (payload, rest) = split_message(rest)?;
            let message = frame.message(offset, payload);
            offset = offset.plus(1);
            Some(message)
        })
    }

    /// Returns `true` if `offset` lies inside a frame: between two messages of one append.
    #[must_use]
    pub fn splits(&self, offset: Offset) -> bool {
        self.first < offset
            && offset < self.end
            && self
                .frames()
                .any(|frame| frame.first < offset && offset < frame.end())
    }

    /// Returns the frames that lie in `from..until` as a whole, sharing the buffer; `None` if there are none.
    #[must_use]
    pub fn slice(&self, from: Offset, until: Offset) -> Option<FrameBatch> {
        self.part(from, until, |frame| {
            from <= frame.first && frame.end() <= until
        })
    }

    /// Returns the frames that have a message of `from..until`, sharing the buffer; `None` if there are none. They may
    /// begin before `from` and end after `until`.
    #[must_use]
    pub fn covering(&self, from: Offset, until: Offset) -> Option<FrameBatch> {
        self.part(from, until, |frame| {
            from < frame.end() && frame.first < until
        })
    }

    /// Returns the longest prefix of at most `bytes_max` bytes, and at least one frame.
    #[must_use]
    pub fn head(&self, bytes_max: usize) -> FrameBatch {
        if self.bytes.len() <= bytes_max {
            return self.clone();
        }
        let mut bytes = 0;
        let mut until = self.first;
        for frame in self.frames() {
            bytes += frame.encoded_bytes();
            if bytes > bytes_max && until > self.first {
                break;
            }
            until = frame.end();
        }
        self.slice(self.first, until).expect("at least one frame")
    }

    /// Returns the frames that `wanted` accepts, which must follow each other and have messages of `from..until`; `None`
    /// if there are none.
    fn part(
        &self,
        from: Offset,
        until: Offset,
        wanted: impl Fn(&Frame<'_>) -> bool,
    ) -> Option<FrameBatch> {
        if from.max(self.first) >= until.min(self.end) {
            return None;
        }
        if from <= self.first && self.end <= until {
            return Some(self.clone());
        }
        let mut at = 0;
        let mut part: Option<(usize, FrameBatch)> = None;
        for frame in self.frames() {
            let begin = at;
            at += frame.encoded_bytes();
            match (&mut part, wanted(&frame)) {
                (None, false) => {}
                (Some(_), false) => break,
                (Some((end, part)), true) => {
                    (*end, part.end, part.last_epoch) = (at, frame.end(), frame.epoch);
                }
                (None, true) => {
                    let bytes = self.bytes.slice(begin..);
                    let one = FrameBatch {
                        first: frame.first,
                        end: frame.end(),
                        first_epoch: frame.epoch,
                        last_epoch: frame.epoch,
                        bytes,
                    };
                    part = Some((at, one));
                }
            }
        }
        let (end, mut part) = part?;
        let behind = self.bytes.len() - end;
        part.bytes.truncate(part.bytes.len() - behind);
        Some(part)
    }

    /// Returns the first offset of each epoch among these frames.
    pub fn epoch_starts(&self) -> impl Iterator<Item = EpochStart> {
        let mut before = None;
        let single = self.first_epoch == self.last_epoch;
        let frames = if single { 1 } else { usize::MAX };
        self.frames().take(frames).filter_map(move |frame| {
            let starts = before != Some(frame.epoch);
            before = Some(frame.epoch);
            starts.then_some(EpochStart {
                epoch: frame.epoch,
                first: frame.first,
            })
        })
    }
}

impl std::fmt::Debug for FrameBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "records {}..{} ({} bytes)",
            self.first,
            self.end,
            self.bytes.len()
        )
    }
}

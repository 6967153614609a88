//! Messages as a streamed body: JSON, NDJSON or server-sent events, in memory that grows neither with the answer nor
//! with a follower's backlog.
//!
//! Each batch of records is read, written out as text and sent before the next one is read: the connection sets the
//! pace (backpressure), and a slow reader reads on from the log. Followers take turns, so that many of them delay no
//! append. A read ends before a damaged record as it ends at the log's end; a follower waits there as it waits at the
//! end. Any other failure aborts the transfer, so that no reader takes a part for the whole, and so does a cut of what
//! was sent, if the form cannot express it. Keeps rules 2 and 11.

mod layout;
#[cfg(test)]
mod tests;

use std::{future::Future, time::Duration};

use actix_web::{
    HttpResponse,
    body::{BodyStream, BoxBody, MessageBody as _},
    http::header::{CACHE_CONTROL, HeaderValue},
};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use replog_core::{
    Followed, Follower, MessageRange,
    error::ReadError,
    limits::FOLLOW_SIGN_INTERVAL,
    types::{ClusterId, Offset},
};
use tokio::time::{Instant, sleep_until, timeout};

pub(crate) use layout::{Layout, View};

use crate::{
    accept::Form,
    message::Fields,
    problem::{Problem, chain},
    shares::Wait,
};

/// Bytes of messages that are read at once: a few times what a socket takes, so that reading costs few wake-ups and
/// little memory, however many readers there are at the same time. One message is always read, however long.
const READ_BYTES: usize = 256 << 10;

/// Resolution of the runtime's timers.
const CLOCK_TICK: Duration = Duration::from_millis(1);

/// The messages asked for, from the source's offset on.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) until: Until,
    /// Maximum number of messages.
    pub(crate) limit: u64,
    /// The slot of a slow reader, held until its answer ends.
    pub(crate) slot: Option<Wait>,
    /// The log that is followed, if the reader asked for another one.
    pub(crate) other: Option<ClusterId>,
}

/// The end of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// At the end that was visible when the request came.
    End(Offset),
    /// With the node, or with the follower's connection.
    Stopped,
}

/// A source of records: a log, or a test's own.
pub(crate) trait Source: 'static {
    /// Returns the next offset.
    fn offset(&self) -> Offset;

    /// Returns the next records before `until`, up to `bytes_max` and at least one; `None` if there are none.
    fn read_on(
        &mut self,
        until: Offset,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Option<Followed>, ReadError>>;

    /// Returns what `read_on` does, but waits if there is nothing. Loses nothing if the future is dropped.
    fn next(&mut self, bytes_max: usize) -> impl Future<Output = Result<Followed, ReadError>>;
}

impl Source for Follower {
    fn offset(&self) -> Offset {
        Follower::offset(self)
    }

    async fn read_on(
        &mut self,
        until: Offset,
        bytes_max: usize,
    ) -> Result<Option<Followed>, ReadError> {
        Follower::read_on(self, until, bytes_max).await
    }

    async fn next(&mut self, bytes_max: usize) -> Result<Followed, ReadError> {
        Follower::next(self, bytes_max).await
    }
}

/// Answers with the messages of `span`. If they are more than one chunk, `enter` gives them a slot, unless they have
/// one: a reader may take any time for the rest.
///
/// # Errors
///
/// A problem, if not even the first records can be read, or there is no slot.
pub(crate) async fn respond(
    source: impl Source,
    span: Span,
    layout: Layout,
    enter: impl FnOnce() -> Result<Wait, Problem>,
) -> Result<HttpResponse, Problem> {
    let mut messages = Messages::new(source, span, layout);
    let mut response = HttpResponse::Ok();
    response.content_type(layout.form.media_type());
    if layout.form == Form::Events || messages.follows() {
        response.insert_header((CACHE_CONTROL, HeaderValue::from_static("no-store")));
    }
    let first = match messages.follows() {
        // A follower learns at once that its request succeeded, whether there is a message or not.
        true => None,
        // Read before the status is sent: a failure here is an error answer, while a later failure can only abort the
        // transfer.
        false => messages.next_chunk().await?,
    };
    if messages.phase == Phase::Done {
        // All of it fits: an answer with a length, which costs less than a stream.
        return Ok(response.body(first.unwrap_or_default()));
    }
    if messages.slot.is_none() {
        messages.slot = Some(enter()?);
    }
    let body = BodyStream::new(chunks(first, messages));
    Ok(response.body(BoxBody::new(body.boxed())))
}

fn chunks<S: Source>(
    first: Option<Bytes>,
    messages: Messages<S>,
) -> impl Stream<Item = Result<Bytes, ReadError>> {
    stream::try_unfold((first, messages), |(ready, mut messages)| async move {
        let chunk = match ready {
            Some(chunk) => Some(chunk),
            None => messages.next_chunk().await.inspect_err(|error| {
                log::warn!("a read was aborted: {}", chain(error));
            })?,
        };
        Ok(chunk.map(|chunk| (chunk, (None, messages))))
    })
}

/// Progress of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was written.
    Begin,
    /// Messages are being written.
    Middle,
    /// Everything was written.
    Done,
}

/// An answer being written.
struct Messages<S> {
    source: S,
    layout: Layout,
    phase: Phase,
    /// The offset to continue from.
    next: Offset,
    until: Until,
    /// Number of messages still wanted.
    left: u64,
    /// A message was written, from which the next one must be separated.
    any: bool,
    /// The log that is followed, if that is still to be announced.
    other: Option<ClusterId>,
    /// Something was read for it since its last turn: it looks for more in its next one.
    awaits_turn: bool,
    /// The reader's slot, released with the body.
    slot: Option<Wait>,
}

impl<S: Source> Messages<S> {
    fn new(source: S, span: Span, layout: Layout) -> Messages<S> {
        Messages {
            next: source.offset(),
            source,
            layout,
            phase: Phase::Begin,
            until: span.until,
            left: span.limit,
            any: false,
            other: span.other,
            awaits_turn: false,
            slot: span.slot,
        }
    }

    fn follows(&self) -> bool {
        self.until == Until::Stopped
    }

    /// Returns the next part of the body; `None` after the last one.
    async fn next_chunk(&mut self) -> Result<Option<Bytes>, ReadError> {
        if self.phase == Phase::Done {
            return Ok(None);
        }
        let mut text = BytesMut::new();
        if self.phase == Phase::Begin {
            self.layout.open(&mut text);
            if let Some(log) = self.other.take() {
                self.layout.another_log(log, &mut text);
            }
            self.phase = Phase::Middle;
        }
        match self.until {
            Until::End(end) => self.write_to(end, &mut text).await?,
            Until::Stopped => self.write_next(&mut text).await?,
        }
        Ok((!text.is_empty()).then(|| text.freeze()))
    }

    /// Writes a part of the messages before `end`.
    async fn write_to(&mut self, end: Offset, text: &mut BytesMut) -> Result<(), ReadError> {
        while text.len() < READ_BYTES / 4 {
            let until = Offset(self.next.0.saturating_add(self.left)).min(end);
            let followed = match self.source.read_on(until, READ_BYTES).await {
                Ok(followed) => followed,
                Err(ReadError::Damaged { offset, .. }) => {
                    log::warn!("a read ends before the damaged record at offset {offset}");
                    None
                }
                Err(error) => return Err(error),
            };
            match followed {
                Some(Followed::Records(ranges)) => {
                    self.write(&ranges, text);
                    if self.left > 0 && self.next < end {
                        continue;
                    }
                }
                Some(Followed::Cut { offset }) => return self.write_cut(offset, text),
                None => {}
            }
            self.layout.close(self.next, text);
            self.phase = Phase::Done;
            break;
        }
        Ok(())
    }

    /// Waits for something to write: messages, a sign of life after a while without any, or an end.
    async fn write_next(&mut self, text: &mut BytesMut) -> Result<(), ReadError> {
        while text.is_empty() && self.phase != Phase::Done {
            let turn = self.take_turn();
            let next = async {
                if let Some(turn) = turn {
                    sleep_until(turn).await;
                }
                self.source.next(READ_BYTES).await
            };
            match timeout(FOLLOW_SIGN_INTERVAL, next).await {
                Ok(Ok(Followed::Records(ranges))) => {
                    self.write(&ranges, text);
                    self.awaits_turn = true;
                }
                Ok(Ok(Followed::Cut { offset })) => self.write_cut(offset, text)?,
                Ok(Err(ReadError::Stopped)) => {
                    self.layout.bye(text);
                    self.phase = Phase::Done;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => self.layout.sign(text),
            }
            if self.left == 0 {
                self.phase = Phase::Done;
            }
        }
        Ok(())
    }

    /// Takes its turn to look for more, if something was read since the last one. Only a follower that goes on takes
    /// one: those that end leave no gaps between the turns of the others. Returns its time, if that must be waited for.
    fn take_turn(&mut self) -> Option<Instant> {
        if !std::mem::take(&mut self.awaits_turn) {
            return None;
        }
        let now = Instant::now();
        let turn = self.slot.as_ref()?.next_turn(now);
        // With few followers, its turn comes before any timer could fire.
        (turn > now + CLOCK_TICK).then_some(turn)
    }

    fn write(&mut self, ranges: &[MessageRange], text: &mut BytesMut) {
        for message in ranges.iter().flat_map(MessageRange::refs) {
            if self.left == 0 {
                break;
            }
            assert!(
                message.offset >= self.next,
                "offset {} was read twice",
                message.offset
            );
            self.next = message.offset.plus(1);
            if self.any {
                self.layout.separate(text);
            }
            self.layout.message(&Fields::of_ref(message), text);
            self.any = true;
            self.left -= 1;
        }
    }

    fn write_cut(&mut self, offset: Offset, text: &mut BytesMut) -> Result<(), ReadError> {
        self.phase = Phase::Done;
        match self.layout.cut(offset, text) {
            true => Ok(()),
            false => Err(ReadError::Cut { offset }),
        }
    }
}

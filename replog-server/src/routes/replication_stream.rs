//! The secondary's end of a stream: requests of a master in, answers out, many under way at once.
//!
//! Owns one connection's state and its limits. What is around a message is the library's business,
//! as is what a request means. A stream ends with the node, with its master, or when nothing came
//! for a long time.

use std::{
    convert::Infallible,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_codec::{Decoder as _, Encoder as _};
use actix_http::ws::{self, Codec, Frame, Item, Message};
use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodyStream, BoxBody, MessageBody as _},
    http::header::SEC_WEBSOCKET_PROTOCOL,
    web,
};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream::FuturesUnordered};
use replog_core::{
    Secondary,
    transport::{FaultInjector, Response, TransportError, wire},
};
use tokio::time::{Instant, Sleep};

use crate::{
    body::Share,
    node::NodeState,
    problem::Problem,
    routes::{State, replication},
};

/// Requests of one stream under way at once, at most: what comes after them is not looked at.
const CALLS_MAX: usize = 64;
/// How long a stream is kept on which nothing comes and nothing is under way.
const IDLE_TIME_MAX: Duration = Duration::from_secs(75);
/// Bytes of one message, at most, with its number.
const MESSAGE_BYTES_MAX: usize = wire::BODY_BYTES_MAX + 8;
/// Bytes of a frame before its payload, at most.
const FRAME_HEAD_BYTES_MAX: usize = 14;

/// Makes a stream of the connection.
pub(crate) async fn open(
    state: State,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let secondary = replication::admit(&state, &request)?;
    let mut response = ws::handshake(request.head())
        .map_err(|error| Problem::malformed(format!("only WebSockets are served here: {error}")))?;
    let speaks_it = request
        .headers()
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|names| names.to_str().ok())
        .flat_map(|names| names.split(','))
        .any(|name| name.trim() == wire::stream::PROTOCOL);
    if !speaks_it {
        let known = wire::stream::PROTOCOL;
        return Err(Problem::malformed(format!(
            "the WebSocket subprotocol must be {known}"
        )));
    }
    let stream = ReplicationStream::new(&state, secondary.clone(), payload);
    response
        .insert_header((SEC_WEBSOCKET_PROTOCOL, wire::stream::PROTOCOL))
        .message_body::<BoxBody>(BodyStream::new(stream).boxed())
        .map(HttpResponse::from)
        .map_err(|error| Problem::malformed(error.to_string()))
}

/// The future of one request: its number, and what it came to.
type Call = Pin<Box<dyn Future<Output = (u64, Result<Response, TransportError>)>>>;

/// The answers of one stream, as the body of the response that switched protocols.
struct ReplicationStream {
    secondary: Secondary,
    faults: Option<FaultInjector>,
    payload: web::Payload,
    codec: Codec,
    /// What came and was not looked at yet.
    received: BytesMut,
    /// The fragments of a message whose last one has not come, and their bytes.
    fragments: Vec<Bytes>,
    fragments_bytes: usize,
    /// What both take of the node's budget.
    share: Share,
    calls: FuturesUnordered<Call>,
    answers: BytesMut,
    last_received: Instant,
    idle: Pin<Box<Sleep>>,
    stopped: Pin<Box<dyn Future<Output = ()>>>,
    /// The master was told that this is the end.
    closed: bool,
}

/// Why a stream ends.
struct End(String);

impl ReplicationStream {
    fn new(state: &NodeState, secondary: Secondary, payload: web::Payload) -> ReplicationStream {
        let now = Instant::now();
        let node = secondary.clone();
        ReplicationStream {
            secondary,
            faults: state.faults.clone(),
            payload,
            codec: Codec::new().max_size(MESSAGE_BYTES_MAX),
            received: BytesMut::new(),
            fragments: Vec::new(),
            fragments_bytes: 0,
            share: Share::of(&state.replication_budget),
            calls: FuturesUnordered::new(),
            answers: BytesMut::new(),
            last_received: now,
            idle: Box::pin(tokio::time::sleep_until(now + IDLE_TIME_MAX)),
            stopped: Box::pin(async move {
                node.stopped().await;
            }),
            closed: false,
        }
    }

    /// Does all that can be done at once; ready when there are answers, or an end.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(End("the node is stopping".to_owned())));
        }
        loop {
            while let Poll::Ready(Some((number, answer))) = self.calls.poll_next_unpin(cx) {
                self.answer(number, answer)?;
            }
            if let Some(frame) = self.next_frame()? {
                self.take(frame)?;
                continue;
            }
            if !self.answers.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if self.calls.len() >= CALLS_MAX {
                return Poll::Pending;
            }
            match self.payload.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(chunk))) => self.receive(&chunk)?,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(End(error.to_string()))),
                Poll::Ready(None) => return Poll::Ready(Err(End("its master left".to_owned()))),
                Poll::Pending => return self.wait(cx),
            }
        }
    }

    /// Waits for more, for a while.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        while self.idle.as_mut().poll(cx).is_ready() {
            let until = match self.calls.is_empty() {
                true => self.last_received + IDLE_TIME_MAX,
                false => Instant::now() + IDLE_TIME_MAX,
            };
            if until <= Instant::now() {
                return Poll::Ready(Err(End("nothing came for a long time".to_owned())));
            }
            self.idle.as_mut().reset(until);
        }
        Poll::Pending
    }

    fn receive(&mut self, chunk: &Bytes) -> Result<(), End> {
        self.last_received = Instant::now();
        let grown = self.share.grow(chunk.len());
        grown.map_err(|problem| End(problem.to_string()))?;
        self.received.extend_from_slice(chunk);
        Ok(())
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, End> {
        if self.received.is_empty() || self.calls.len() >= CALLS_MAX {
            return Ok(None);
        }
        let before = self.received.len();
        let frame = self.codec.decode(&mut self.received);
        let Some(frame) = frame.map_err(|error| End(error.to_string()))? else {
            // The codec waits for a whole frame, however long.
            return match before <= FRAME_HEAD_BYTES_MAX + MESSAGE_BYTES_MAX {
                true => Ok(None),
                false => Err(End(format!("a frame of more than {before} bytes"))),
            };
        };
        let payload = match &frame {
            Frame::Binary(bytes)
            | Frame::Continuation(
                Item::FirstBinary(bytes) | Item::Continue(bytes) | Item::Last(bytes),
            ) => bytes.len(),
            _ => 0,
        };
        // What is around the payload is gone with the frame.
        self.share.shrink(before - self.received.len() - payload);
        Ok(Some(frame))
    }

    fn take(&mut self, frame: Frame) -> Result<(), End> {
        match frame {
            Frame::Binary(message) => self.call(&message, Vec::new()),
            Frame::Continuation(Item::FirstBinary(part) | Item::Continue(part)) => {
                self.fragments_bytes += part.len();
                self.fragments.push(part);
                match self.fragments_bytes <= MESSAGE_BYTES_MAX {
                    true => Ok(()),
                    false => Err(End(format!(
                        "a message of more than {MESSAGE_BYTES_MAX} bytes"
                    ))),
                }
            }
            Frame::Continuation(Item::Last(last)) => {
                self.fragments_bytes = 0;
                let mut parts = mem::take(&mut self.fragments);
                parts.push(last);
                let head = parts.remove(0);
                self.call(&head, parts)
            }
            Frame::Ping(payload) => self.write(Message::Pong(payload)),
            Frame::Pong(_) => Ok(()),
            Frame::Close(_) => Err(End("its master closed it".to_owned())),
            Frame::Text(_) | Frame::Continuation(Item::FirstText(_)) => {
                Err(End("text is no request".to_owned()))
            }
        }
    }

    /// Hands a request over.
    fn call(&mut self, head: &Bytes, parts: Vec<Bytes>) -> Result<(), End> {
        let bytes = head.len() + parts.iter().map(Bytes::len).sum::<usize>();
        let share = self.share.split(bytes);
        let (number, request) =
            wire::stream::decode_request(head, parts).map_err(|error| End(error.to_string()))?;
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                log::debug!("a replication request was refused: {error}");
                return self.answer(number, Err(TransportError::HttpStatus(400)));
            }
        };
        let (secondary, faults) = (self.secondary.clone(), self.faults.clone());
        self.calls.push(Box::pin(async move {
            let answer = replication::answer(&secondary, faults.as_ref(), request).await;
            drop(share);
            (number, answer)
        }));
        Ok(())
    }

    fn answer(&mut self, number: u64, answer: Result<Response, TransportError>) -> Result<(), End> {
        let answer = answer.as_ref().map_err(replication::status_of);
        let message = wire::stream::encode_answer(number, answer);
        self.write(Message::Binary(message))
    }

    fn write(&mut self, message: Message) -> Result<(), End> {
        let written = self.codec.encode(message, &mut self.answers);
        written.map_err(|error| End(error.to_string()))
    }
}

impl Stream for ReplicationStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        if self.closed {
            return Poll::Ready(None);
        }
        if let Err(End(why)) = ready!(self.advance(cx)) {
            log::debug!("a stream ends: {why}");
            // The web server waits for the other end to close: the master does when it reads this.
            self.closed = true;
            if self.write(Message::Close(None)).is_err() {
                return Poll::Ready(None);
            }
        }
        Poll::Ready(Some(Ok(self.answers.split().freeze())))
    }
}

#[cfg(test)]
mod tests;

//! The master's end of a stream (see [`wire::stream`]): one connection on which many requests are
//! under way at once.
//!
//! Owns the connection, in a task of its own, and who waits for which answer. Makes a connection
//! when one is needed and none is there, and sends a request once more where a kept one broke, as
//! for a POST. A call that is dropped gives its connection up: what else is under way there may come
//! to its end, and the next call makes a new one. So a connection that swallows requests costs one
//! time-out.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use actix_codec::{Decoder, Encoder};
use actix_http::ws::{Frame, Item, Message, ProtocolError};
use awc::{
    BoxedSocket, Client,
    error::WsClientError,
    http::{
        Uri,
        header::{AUTHORIZATION, HeaderValue},
    },
    ws::Codec,
};
use bytes::{Bytes, BytesMut};
use tokio::{sync::oneshot, time::Instant};

use crate::transport::{TransportError, message::Request, message::Response, wire};

/// How long a peer that took no stream is not asked again: it may be replaced by a newer one.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

type Framed = actix_codec::Framed<BoxedSocket, BoundedCodec>;

/// Frames of no more than a message. The codec within waits for a whole frame, however long, before
/// it says that it is too long.
struct BoundedCodec(Codec);

impl BoundedCodec {
    /// A message, and what is around it.
    const BYTES_MAX: usize = wire::BODY_BYTES_MAX + 1024;
}

impl Decoder for BoundedCodec {
    type Item = Frame;
    type Error = ProtocolError;

    fn decode(&mut self, received: &mut BytesMut) -> Result<Option<Frame>, ProtocolError> {
        match self.0.decode(received)? {
            None if received.len() > BoundedCodec::BYTES_MAX => Err(ProtocolError::Overflow),
            frame => Ok(frame),
        }
    }
}

impl Encoder<Message> for BoundedCodec {
    type Error = ProtocolError;

    fn encode(&mut self, message: Message, to: &mut BytesMut) -> Result<(), ProtocolError> {
        self.0.encode(message, to)
    }
}

/// The stream to one peer.
pub(super) struct Streams {
    client: Client,
    uri: Uri,
    authorization: Option<HeaderValue>,
    /// How long a stream without use is trusted.
    keep_alive: Duration,
    /// Held while a stream is being opened, so that calls at the same time share one.
    current: tokio::sync::Mutex<Option<Rc<Stream>>>,
    refused_at: Cell<Option<Instant>>,
}

/// Why a call over a stream has no outcome of its own.
pub(super) enum NoStream {
    /// The peer takes none: another way is to be used.
    NotTaken,
    /// No connection, or it broke.
    Failed(TransportError),
}

impl Streams {
    pub(super) fn new(
        client: Client,
        uri: Uri,
        authorization: Option<HeaderValue>,
        keep_alive: Duration,
    ) -> Streams {
        Streams {
            client,
            uri,
            authorization,
            keep_alive,
            current: tokio::sync::Mutex::default(),
            refused_at: Cell::default(),
        }
    }

    /// Sends a request and waits for its answer. Where a stream that was kept breaks before that,
    /// the request is sent once more on a new one.
    pub(super) async fn call(&self, request: &Request) -> Result<Response, NoStream> {
        let (stream, kept) = self.stream().await?;
        let outcome = match stream.call(request).await {
            Err(Broken(error)) if kept => {
                tracing::debug!(%error, "a kept stream was closed, sending once more");
                let (stream, _) = self.stream().await?;
                stream.call(request).await
            }
            outcome => outcome,
        };
        outcome
            .unwrap_or_else(|Broken(error)| Err(error))
            .map_err(NoStream::Failed)
    }

    /// A stream, and whether it was there before.
    async fn stream(&self) -> Result<(Rc<Stream>, bool), NoStream> {
        let refused = |at: Instant| at.elapsed() < ASK_AGAIN_AFTER;
        if self.refused_at.get().is_some_and(refused) {
            return Err(NoStream::NotTaken);
        }
        let mut current = self.current.lock().await;
        if let Some(stream) = current
            .as_ref()
            .filter(|stream| stream.is_good(self.keep_alive))
        {
            return Ok((Rc::clone(stream), true));
        }
        // The old one ends when nobody waits for it any more.
        *current = None;
        let mut request = self
            .client
            .ws(&self.uri)
            .protocols([wire::stream::PROTOCOL])
            .max_frame_size(wire::BODY_BYTES_MAX);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        match request.connect().await {
            Ok((_, framed)) => {
                let stream = Stream::start(framed.into_map_codec(BoundedCodec));
                *current = Some(Rc::clone(&stream));
                Ok((stream, false))
            }
            Err(WsClientError::SendRequest(error)) => Err(NoStream::Failed(super::failed(&error))),
            Err(error) => {
                tracing::debug!(%error, "the peer takes no stream");
                self.refused_at.set(Some(Instant::now()));
                Err(NoStream::NotTaken)
            }
        }
    }
}

/// The stream ended without an answer.
struct Broken(TransportError);

type Outcome = Result<Response, TransportError>;

/// One stream, from both sides: callers hold it, and the task of its connection looks in. The
/// connection is closed when nobody holds it any more.
struct Stream(RefCell<State>);

struct State {
    /// Requests in fragments, in the order in which they are sent.
    outgoing: VecDeque<Vec<Bytes>>,
    waiting: BTreeMap<u64, oneshot::Sender<Outcome>>,
    next_number: u64,
    last_used: Instant,
    /// A call was dropped before its answer: what is under way may end, and no more begins.
    given_up: bool,
    ended: Option<TransportError>,
    task: Option<Waker>,
}

impl Stream {
    /// Starts the task of a connection.
    fn start(framed: Framed) -> Rc<Stream> {
        let stream = Rc::new(Stream(RefCell::new(State {
            outgoing: VecDeque::new(),
            waiting: BTreeMap::new(),
            next_number: 0,
            last_used: Instant::now(),
            given_up: false,
            ended: None,
            task: None,
        })));
        let looked_at = Rc::downgrade(&stream);
        let mut framed = Box::pin(framed);
        tokio::task::spawn_local(poll_fn(move |cx| match looked_at.upgrade() {
            Some(stream) => stream.0.borrow_mut().poll(framed.as_mut(), cx),
            None => Poll::Ready(()),
        }));
        stream
    }

    /// Whether another request may be sent on it.
    fn is_good(&self, keep_alive: Duration) -> bool {
        let state = self.0.borrow();
        let idle = state.waiting.is_empty() && state.last_used.elapsed() >= keep_alive;
        state.ended.is_none() && !state.given_up && !idle
    }

    async fn call(&self, request: &Request) -> Result<Outcome, Broken> {
        let (number, answer) = {
            let mut state = self.0.borrow_mut();
            if let Some(error) = &state.ended {
                return Err(Broken(error.clone()));
            }
            let number = state.next_number;
            state.next_number += 1;
            state
                .outgoing
                .push_back(wire::stream::encode_request(number, request));
            let (answer_to, answer) = oneshot::channel();
            state.waiting.insert(number, answer_to);
            state.wake();
            (number, answer)
        };
        let waiting = Waiting {
            stream: self,
            number,
        };
        let outcome = answer.await;
        drop(waiting);
        outcome.map_err(|_| {
            let ended = self.0.borrow().ended.clone();
            Broken(ended.unwrap_or_else(|| closed("its task was dropped")))
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.get_mut().wake();
    }
}

/// A call that waits. Dropped before its answer, it gives the stream up.
struct Waiting<'a> {
    stream: &'a Stream,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.stream.0.borrow_mut();
        if state.waiting.remove(&self.number).is_some() {
            state.given_up = true;
            state.wake();
        }
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Sends and receives what there is; ready when the connection shall be closed.
    fn poll(&mut self, framed: Pin<&mut Framed>, cx: &mut Context<'_>) -> Poll<()> {
        self.task = Some(cx.waker().clone());
        if let Poll::Ready(error) = self.exchange(framed, cx) {
            self.ended = Some(error);
            // Those who wait find the reason above.
            self.waiting.clear();
            return Poll::Ready(());
        }
        match self.given_up && self.waiting.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Ready when the stream has ended, and why.
    fn exchange(
        &mut self,
        mut framed: Pin<&mut Framed>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportError> {
        loop {
            // Answers first: what they set free may be sent in the same write.
            if let Poll::Ready(message) = framed.as_mut().next_item(cx) {
                let Some(message) = message else {
                    return Poll::Ready(closed("it was closed before an answer"));
                };
                match message {
                    Ok(Frame::Binary(answer)) => match wire::stream::decode_answer(&answer) {
                        Ok((number, outcome)) => self.answer(number, outcome),
                        Err(error) => {
                            return Poll::Ready(TransportError::BadAnswer(error.to_string()));
                        }
                    },
                    Ok(Frame::Ping(payload)) => {
                        if let Err(error) = framed.as_mut().write(Message::Pong(payload)) {
                            return Poll::Ready(closed(error));
                        }
                    }
                    Ok(Frame::Pong(_)) => {}
                    Ok(Frame::Close(_)) => return Poll::Ready(closed("the peer closed it")),
                    Ok(Frame::Text(_) | Frame::Continuation(_)) => {
                        let detail = "a message that is no answer".to_owned();
                        return Poll::Ready(TransportError::BadAnswer(detail));
                    }
                    Err(ProtocolError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
                        return Poll::Ready(closed(error));
                    }
                    Err(error) => {
                        return Poll::Ready(TransportError::BadAnswer(error.to_string()));
                    }
                }
                continue;
            }
            if framed.is_write_ready()
                && let Some(request) = self.outgoing.pop_front()
            {
                if let Err(error) = write(framed.as_mut(), request) {
                    return Poll::Ready(closed(error));
                }
                continue;
            }
            return match ready!(framed.as_mut().flush::<Message>(cx)) {
                Err(error) => Poll::Ready(closed(error)),
                Ok(()) if self.outgoing.is_empty() => Poll::Pending,
                Ok(()) => continue,
            };
        }
    }

    /// To a call that was given up: nobody.
    fn answer(&mut self, number: u64, outcome: Outcome) {
        self.last_used = Instant::now();
        if let Some(answer_to) = self.waiting.remove(&number) {
            let _ = answer_to.send(outcome);
        }
    }
}

/// Puts a message of these fragments into the buffer.
fn write(mut framed: Pin<&mut Framed>, fragments: Vec<Bytes>) -> Result<(), ProtocolError> {
    let last = fragments.len() - 1;
    for (at, fragment) in fragments.into_iter().enumerate() {
        let message = match at {
            0 if last == 0 => Message::Binary(fragment),
            0 => Message::Continuation(Item::FirstBinary(fragment)),
            _ if at < last => Message::Continuation(Item::Continue(fragment)),
            _ => Message::Continuation(Item::Last(fragment)),
        };
        framed.as_mut().write(message)?;
    }
    Ok(())
}

fn closed(why: impl std::fmt::Display) -> TransportError {
    TransportError::Connection(format!("stream: {why}"))
}

#[cfg(test)]
mod tests;

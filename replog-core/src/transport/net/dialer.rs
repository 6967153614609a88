//! [`ClusterNetwork`]: connections from one node to the others' cluster listeners.
//!
//! Owns one connection to each peer, and the requests that wait for their answers. All of a peer's
//! requests go over it in the order in which they were made, including those that are sent again: a
//! heartbeat never overtakes the records before it. Never times out except while it connects: links do,
//! and are notified whenever bytes of their request, or of what precedes it, arrive at the other end.
//!
//! ```text
//!   call ─▶ pending, by number ─▶ connection (made when needed) ─▶ answers, in any order
//!                ▲                      │ breaks, having worked before
//!                └── once, in order ────┘
//! ```
//!
//! A connection that the peer closes just as a request is sent breaks before any answer. That says
//! nothing about the peer, so such requests are sent once more, which is safe: every request of
//! the protocol may arrive twice. A connection that ends before it carried any request counts as one
//! that could not be made. A connection is abandoned together with a request if nothing at all has
//! arrived since that request was sent.
//!
//! The send buffer is limited to `CLUSTER_BUFFER_BYTES_MAX`: requests beyond it wait for their turn
//! outside the connection, where they cost nothing more once they are abandoned.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, TlsStream};

use super::{
    ClusterIdentity,
    conduit::{Conduit, ConduitError, Wire, tls_socket},
    counters::NetCounters,
    identity,
    packet::{self, Kind, PACKET_BYTES_MAX, Packet, PacketHeader, Preamble},
    resolve::Resolver,
    tls_errors::{TlsFailure, classify},
};
use crate::{
    address::{self, BadAddress, HostPort},
    config::Peer,
    error::ConfigError,
    limits::CLUSTER_RECEIPT_INTERVAL,
    transport::{
        BytesMoved, CallFuture, Network, OnBytesMoved, Transport, TransportError,
        message::{Request, Response},
        wire,
    },
    types::Incarnation,
};

/// The time within which an abandoned request says nothing about its connection.
const SILENCE_MIN: Duration = Duration::from_millis(100);

/// The time limit for closing a connection.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(1);

/// Settings of a [`ClusterNetwork`].
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// The time limit for resolving a name, connecting, and proving identities. A backstop:
    /// links give up earlier.
    pub connect_timeout: Duration,
    /// The idle time after which a connection is no longer used. Shorter than the peer keeps it open.
    pub keep_alive: Duration,
    /// The counters of connections.
    pub counters: Arc<NetCounters>,
}

impl Default for NetworkOptions {
    fn default() -> NetworkOptions {
        NetworkOptions {
            connect_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_secs(15),
            counters: Arc::default(),
        }
    }
}

/// A network that reaches nodes at their cluster listeners: a [`Peer`]'s address is `HOST:PORT`.
///
/// Its transports need a tokio runtime with I/O and time, and a `LocalSet` around the calls.
#[derive(Clone, Debug)]
pub struct ClusterNetwork {
    identity: ClusterIdentity,
    options: NetworkOptions,
}

impl ClusterNetwork {
    /// Creates a network that connects as `identity`.
    #[must_use]
    pub fn new(identity: ClusterIdentity, options: NetworkOptions) -> ClusterNetwork {
        ClusterNetwork { identity, options }
    }
}

impl Network for ClusterNetwork {
    fn connect(&self, peer: &Peer) -> Rc<dyn Transport> {
        Rc::new(ClusterTransport(Rc::new(Line {
            peer: peer.clone(),
            identity: self.identity.clone(),
            options: self.options.clone(),
            resolver: Rc::default(),
            logged_failure: RefCell::default(),
            state: RefCell::default(),
        })))
    }

    fn check(&self, peers: &[Peer]) -> Result<(), ConfigError> {
        address::check_peers(peers)
    }
}

/// The transport to one peer. The connection closes when this and the last of its calls are dropped.
struct ClusterTransport(Rc<Line>);

impl Transport for ClusterTransport {
    fn call(&self, request: Request) -> CallFuture {
        self.call_observed(request, Rc::new(|_| {}))
    }

    fn call_observed(&self, request: Request, moved: OnBytesMoved) -> CallFuture {
        // Now, not when the future is first polled, so that requests are in the order of calls.
        let line = Rc::clone(&self.0);
        let (number, answer) = line.enqueue(&request, moved);
        let call = Call { line, number };
        Box::pin(async move {
            let outcome = answer.await;
            drop(call);
            outcome.unwrap_or_else(|_| Err(closed("its task was dropped")))
        })
    }
}

/// A waiting call. If it is dropped before its answer, its request is no longer sent, or no longer waited for.
struct Call {
    line: Rc<Line>,
    number: u64,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.line.state.borrow_mut().abandon(self.number);
    }
}

type Outcome = Result<Response, TransportError>;

/// The state shared by the calls to one peer, which own it, and the task of its connection, which borrows it.
struct Line {
    peer: Peer,
    identity: ClusterIdentity,
    options: NetworkOptions,
    /// The resolver, which outlives attempts to connect: a look-up may take longer than one of them.
    resolver: Rc<RefCell<Resolver>>,
    /// The last failure that was logged for an operator, so that it is logged only once.
    logged_failure: RefCell<Option<TransportError>>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Unanswered requests, in order.
    pending: BTreeMap<u64, Pending>,
    next_number: u64,
    /// True while the task runs.
    is_running: bool,
    task: Option<Waker>,
    /// The last time that bytes arrived on this connection.
    last_received_at: Option<Instant>,
    /// True once a request was abandoned and nothing had arrived since it was sent: this connection is no longer used.
    abandoned: bool,
}

struct Pending {
    parts: Vec<Bytes>,
    answer_to: oneshot::Sender<Outcome>,
    moved: OnBytesMoved,
    /// The time when its turn came on this connection. It may still wait for room there.
    taken_at: Option<Instant>,
    /// Its end position in the stream, once it is in flight.
    sent_end: Option<u64>,
    /// True if its connection had worked before.
    on_reused: bool,
    sent_again: bool,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.state.get_mut().wake();
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    fn abandon(&mut self, number: u64) {
        let Some(pending) = self.pending.remove(&number) else {
            return;
        };
        let Some(taken_at) = pending.taken_at else {
            return;
        };
        // Only what arrived after the request proves that the connection still works; a peer that is slow
        // with this one request has answered others meanwhile.
        let is_silent = self.last_received_at.is_none_or(|at| at <= taken_at);
        if is_silent && taken_at.elapsed() >= SILENCE_MIN {
            self.abandoned = true;
            self.wake();
        }
    }

    fn answer(&mut self, number: u64, outcome: Outcome) {
        // A request without a waiting call was abandoned.
        if let Some(pending) = self.pending.remove(&number) {
            let _ = pending.answer_to.send(outcome);
        }
    }

    /// Fails the requests for which `doomed` is true.
    fn fail(&mut self, error: &TransportError, doomed: impl Fn(&Pending) -> bool) {
        let failed: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| doomed(pending))
            .map(|(number, _)| *number)
            .collect();
        for number in failed {
            self.answer(number, Err(error.clone()));
        }
    }

    /// Handles the end of the connection: its requests are sent once more if it had worked before.
    fn connection_ended(&mut self, error: &TransportError) {
        (self.last_received_at, self.abandoned) = (None, false);
        self.fail(error, |pending| {
            pending.sent_end.is_some() && (!pending.on_reused || pending.sent_again)
        });
        for pending in self.pending.values_mut() {
            pending.sent_again |= pending.sent_end.take().is_some();
            pending.taken_at = None;
        }
    }
}

impl Line {
    fn enqueue(
        self: &Rc<Line>,
        request: &Request,
        moved: OnBytesMoved,
    ) -> (u64, oneshot::Receiver<Outcome>) {
        let (answer_to, answer) = oneshot::channel();
        let mut state = self.state.borrow_mut();
        let number = state.next_number;
        state.next_number += 1;
        let pending = Pending {
            parts: wire::encode_request(request),
            answer_to,
            moved,
            taken_at: None,
            sent_end: None,
            on_reused: false,
            sent_again: false,
        };
        state.pending.insert(number, pending);
        match std::mem::replace(&mut state.is_running, true) {
            true => state.wake(),
            false => {
                tokio::task::spawn_local(run(Rc::downgrade(self)));
            }
        }
        (number, answer)
    }

    fn fail_all(&self, error: &TransportError) {
        let mut state = self.state.borrow_mut();
        state.fail(error, |_| true);
        state.is_running = false;
    }

    /// Logs a failure that an operator must fix, once when it begins; `None` means that it is over. Reports
    /// whether it logged.
    fn log_failure(&self, error: Option<&TransportError>) -> bool {
        let news = match error {
            None => {
                self.logged_failure.take();
                return false;
            }
            Some(
                error @ (TransportError::WrongSecret(_)
                | TransportError::WrongNode(_)
                | TransportError::Refused(_)),
            ) => error,
            // It may occur between two of the others, and does not end such a failure.
            Some(_) => return false,
        };
        if self.logged_failure.borrow().as_ref() == Some(news) {
            return false;
        }
        self.logged_failure.replace(Some(news.clone()));
        let (node, peer, address) = (self.identity.name(), &self.peer.name, &self.peer.address);
        tracing::warn!(%node, %peer, %address, error = %news, "cannot use another node");
        true
    }
}

/// The data needed to connect, without holding the line.
struct Dial {
    peer: Peer,
    identity: ClusterIdentity,
    options: NetworkOptions,
    resolver: Rc<RefCell<Resolver>>,
}

/// Makes connections as long as there are requests, and exchanges packets on them.
async fn run(line: Weak<Line>) {
    loop {
        let Some(dial) = line.upgrade().map(|line| Dial {
            peer: line.peer.clone(),
            identity: line.identity.clone(),
            options: line.options.clone(),
            resolver: Rc::clone(&line.resolver),
        }) else {
            return;
        };
        let Some(connected) = while_wanted(&line, dial.connect()).await else {
            return;
        };
        let mut connection = {
            let Some(line) = line.upgrade() else { return };
            let counters = &line.options.counters;
            match connected {
                Ok(conduit) => {
                    NetCounters::count(&counters.dialled);
                    Connection::new(conduit)
                }
                Err(error) => {
                    NetCounters::count(&counters.dial_failures);
                    line.log_failure(Some(&error));
                    line.fail_all(&error);
                    return;
                }
            }
        };
        let ended = poll_fn(|cx| match line.upgrade() {
            Some(line) => connection.poll(&line, cx).map(Some),
            None => Poll::Ready(None),
        });
        let ended = ended.await;
        if let Some(line) = line.upgrade() {
            let ended = ended.unwrap_or_else(|| closed("no longer needed"));
            tracing::debug!(peer = %line.peer.name, %ended, "a stream to another node ended");
            line.log_failure(Some(&ended));
            let mut state = line.state.borrow_mut();
            state.connection_ended(&ended);
            if connection.carried_nothing {
                // As if it had not been made. Otherwise a peer that accepts connections and closes them at once
                // would be dialled as fast as it does so.
                state.fail(&ended, |_| true);
            }
            if state.pending.is_empty() {
                state.is_running = false;
                drop(state);
                tokio::task::spawn_local(connection.conduit.close(CLOSING_TIME_MAX));
                return;
            }
        } else {
            connection.conduit.close(CLOSING_TIME_MAX).await;
            return;
        }
    }
}

/// Awaits `work` as long as the line lives.
async fn while_wanted<T>(line: &Weak<Line>, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let Some(line) = line.upgrade() else {
            return Poll::Ready(None);
        };
        line.state.borrow_mut().task = Some(cx.waker().clone());
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

impl Dial {
    async fn connect(&self) -> Result<Conduit, TransportError> {
        let began = Instant::now();
        let deadline = began + self.options.connect_timeout;
        let address: HostPort = self
            .peer
            .address
            .parse()
            .map_err(|error: BadAddress| TransportError::Connection(error.to_string()))?;
        let (host, port) = (address.host(), address.port());
        let found = poll_fn(|cx| self.resolver.borrow_mut().poll_addresses(cx, host, port));
        // Before the whole time is over, and with it the caller's timeout, so that the caller learns what
        // it waits for. The answer is not lost: the next attempt uses it.
        let found_by = began + self.options.connect_timeout / 4 * 3;
        let addresses = timeout_at(found_by, found).await.unwrap_or_else(|_| {
            let detail = format!("{host}: no answer from the resolver yet");
            Err(TransportError::NameNotResolved(detail))
        })?;
        let stream = connect_to_any(&addresses, deadline).await?;
        let proven = timeout_at(deadline, self.prove(stream)).await;
        proven.unwrap_or(Err(TransportError::TimedOut))
    }

    /// Turns a connection into a stream, and verifies that it leads to the peer.
    async fn prove(&self, stream: TcpStream) -> Result<Conduit, TransportError> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let peer = &self.peer.name;
        let mut wire = match self.identity.credentials() {
            None => Wire::Plain(stream),
            Some(credentials) => {
                let config = credentials
                    .client(peer)
                    .map_err(|error| TransportError::Connection(error.to_string()))?;
                let connecting = TlsConnector::from(config)
                    .connect(identity::placeholder_name(), tls_socket(stream))
                    .await;
                let stream = connecting.map_err(|error| self.failed(&error))?;
                if stream.get_ref().1.alpn_protocol() != Some(identity::ALPN) {
                    let detail = "it does not speak the protocol between nodes".to_owned();
                    return Err(TransportError::BadAnswer(detail));
                }
                Wire::Tls(Box::new(TlsStream::Client(stream)))
            }
        };
        let preamble = Preamble::new(self.identity.name().clone(), peer.clone());
        let said = async {
            wire.write_all(&preamble.encode()).await?;
            wire.flush().await
        };
        said.await.map_err(|error| self.failed(&error))?;
        let mut received = BytesMut::new();
        loop {
            match packet::decode_reply(&received) {
                Ok(Some((Ok(_), bytes))) => {
                    let received = received.split_off(bytes);
                    let counters = Arc::clone(&self.options.counters);
                    return Ok(Conduit::new(wire, received, counters));
                }
                Ok(Some((Err(reason), _))) => return Err(TransportError::Refused(reason)),
                Ok(None) => {}
                Err(error) => return Err(TransportError::BadAnswer(error.to_string())),
            }
            let read = wire.read_buf(&mut received).await;
            if read.map_err(|error| self.failed(&error))? == 0 {
                return Err(closed("closed before it began"));
            }
        }
    }

    fn failed(&self, error: &io::Error) -> TransportError {
        match classify(error, &self.identity) {
            TlsFailure::OtherAuthority(detail) => TransportError::WrongSecret(detail),
            TlsFailure::OtherName(detail) => TransportError::WrongNode(detail),
            TlsFailure::NotTls(detail) => TransportError::BadAnswer(detail),
            TlsFailure::Other(detail) => TransportError::Connection(detail),
        }
    }
}

/// Connects to the first address that accepts, giving each address its share of the time.
async fn connect_to_any(
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<TcpStream, TransportError> {
    let mut failure = TransportError::TimedOut;
    for (at, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let others = u32::try_from(addresses.len() - at).expect("a name has few addresses");
        failure = match timeout(left / others, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                TransportError::ConnectionRefused
            }
            Ok(Err(error)) => TransportError::Connection(error.to_string()),
            Err(_) => TransportError::TimedOut,
        };
    }
    Err(failure)
}

/// One connection, from the first request to its end.
struct Connection {
    conduit: Conduit,
    /// True once an answer has arrived on it.
    is_proven: bool,
    /// True while it has carried no request, unless it ended for lack of use.
    carried_nothing: bool,
    /// The incarnation of the peer, which is the same for a whole connection.
    incarnation: Option<Incarnation>,
    /// The number of bytes that the peer says it has received.
    acknowledged: u64,
    received_bytes: u64,
    last_used: Instant,
    reported_at: Cell<Instant>,
}

impl Connection {
    fn new(conduit: Conduit) -> Connection {
        Connection {
            received_bytes: conduit.received_bytes(),
            conduit,
            is_proven: false,
            carried_nothing: true,
            incarnation: None,
            acknowledged: 0,
            last_used: Instant::now(),
            reported_at: Cell::new(Instant::now()),
        }
    }

    /// Sends and receives what is available; ready, with the reason, when the connection has ended.
    fn poll(&mut self, line: &Line, cx: &mut Context<'_>) -> Poll<TransportError> {
        line.state.borrow_mut().task = Some(cx.waker().clone());
        if line.state.borrow().abandoned {
            return Poll::Ready(TransportError::TimedOut);
        }
        match self.exchange(line, cx) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    fn exchange(&mut self, line: &Line, cx: &mut Context<'_>) -> Result<(), TransportError> {
        // Answers first: requests that they unblock may go out in the same write.
        loop {
            let packet = self.conduit.poll_packet(cx, PACKET_BYTES_MAX);
            self.note_received(line);
            match packet {
                Poll::Ready(packet) => self.take(line, packet?)?,
                Poll::Pending => break,
            }
        }
        self.queue(line)?;
        match self.conduit.poll_send(cx) {
            Poll::Ready(Err(error)) => Err(ConduitError::from(error).into()),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Queues new requests, in the order of the calls.
    fn queue(&mut self, line: &Line) -> Result<(), TransportError> {
        let mut state = line.state.borrow_mut();
        let is_idle = state
            .pending
            .values()
            .all(|pending| pending.sent_end.is_none());
        let waits = !state.pending.is_empty();
        if is_idle && waits && self.last_used.elapsed() >= line.options.keep_alive {
            // It was idle, which says nothing about the peer.
            self.carried_nothing = false;
            return Err(closed("idle for too long"));
        }
        let now = Instant::now();
        let mut has_room = true;
        for (number, pending) in &mut state.pending {
            if pending.sent_end.is_some() {
                continue;
            }
            pending.taken_at.get_or_insert(now);
            // One that does not fit holds up those behind it, because they go in order.
            has_room &= self.conduit.has_room_for(&pending.parts);
            if has_room {
                let parts = pending.parts.clone();
                let sent_end = self.conduit.queue(Kind::Request, *number, parts);
                (pending.sent_end, pending.on_reused) = (Some(sent_end), self.is_proven);
                (self.carried_nothing, self.last_used) = (false, now);
            }
        }
        Ok(())
    }

    fn take(&mut self, line: &Line, packet: Packet) -> Result<(), TransportError> {
        let Packet { header, body } = packet;
        self.note_acknowledged(line, &header);
        let outcome = match header.kind {
            Kind::Receipt => return Ok(()),
            Kind::Refusal => return Err(TransportError::Refused(packet::readable(&body))),
            Kind::Request => {
                let detail = "a request instead of an answer".to_owned();
                return Err(TransportError::BadAnswer(detail));
            }
            Kind::Failure => {
                packet::check_failure(&body).map_err(bad_answer)?;
                Err(TransportError::Injected)
            }
            Kind::Response => {
                let response = wire::decode_response(body).map_err(bad_answer)?;
                if response.name != line.peer.name {
                    let detail = format!("an answer in the name of {}", response.name);
                    return Err(TransportError::WrongNode(detail));
                }
                self.incarnation = Some(response.incarnation);
                Ok(response)
            }
        };
        if header.number >= line.state.borrow().next_number {
            let detail = "an answer to a request that was never sent".to_owned();
            return Err(TransportError::BadAnswer(detail));
        }
        if !std::mem::replace(&mut self.is_proven, true) {
            line.log_failure(None);
        }
        self.last_used = Instant::now();
        line.state.borrow_mut().answer(header.number, outcome);
        Ok(())
    }

    /// Records the arrival of bytes: the connection works, and a long answer makes progress.
    fn note_received(&mut self, line: &Line) {
        let received_bytes = self.conduit.received_bytes();
        if received_bytes == self.received_bytes {
            return;
        }
        self.received_bytes = received_bytes;
        line.state.borrow_mut().last_received_at = Some(Instant::now());
        // The answers behind a long one wait for it.
        if self.conduit.is_within_long_packet()
            && self.reported_at.get().elapsed() >= CLUSTER_RECEIPT_INTERVAL
        {
            self.report_moved(line, self.incarnation, |_, _| true);
        }
    }

    /// Records that the peer has received more: requests that had not fully arrived make progress. An answer
    /// speaks only for the request that it answers and is no sign of life for the others: it may be a refusal.
    fn note_acknowledged(&mut self, line: &Line, header: &PacketHeader) {
        if header.received <= self.acknowledged {
            return;
        }
        let before = std::mem::replace(&mut self.acknowledged, header.received);
        let is_receipt = header.kind == Kind::Receipt;
        let incarnation = self.incarnation.filter(|_| is_receipt);
        self.report_moved(line, incarnation, |number, pending| {
            // A request that waits for room waits for the same bytes.
            let is_behind = pending.sent_end.is_none_or(|sent_end| sent_end > before);
            is_behind && (is_receipt || number != header.number)
        });
    }

    fn report_moved(
        &self,
        line: &Line,
        incarnation: Option<Incarnation>,
        which: impl Fn(u64, &Pending) -> bool,
    ) {
        self.reported_at.set(Instant::now());
        let moving: Vec<OnBytesMoved> = {
            let state = line.state.borrow();
            let moves = |(number, pending): &(&u64, &Pending)| {
                pending.taken_at.is_some() && which(**number, pending)
            };
            let moving = state.pending.iter().filter(moves);
            moving
                .map(|(_, pending)| Rc::clone(&pending.moved))
                .collect()
        };
        for moved in moving {
            moved(BytesMoved { incarnation });
        }
    }
}

impl From<ConduitError> for TransportError {
    fn from(broken: ConduitError) -> TransportError {
        match broken {
            ConduitError::Packet(error) => bad_answer(error),
            ConduitError::Closed | ConduitError::Io(_) => closed(broken),
        }
    }
}

fn bad_answer(why: impl std::fmt::Display) -> TransportError {
    TransportError::BadAnswer(why.to_string())
}

fn closed(why: impl std::fmt::Display) -> TransportError {
    TransportError::Connection(format!("stream: {why}"))
}

#[cfg(test)]
mod tests;

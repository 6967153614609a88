//! [`ClusterListener`]: the endpoint to which other nodes connect.
//!
//! Owns a node's listening socket, the admission of connections, and the open streams. Checks come before
//! parsing: the first byte, then the protocol offered in TLS, then the certificate, then the
//! names; only then is a message read. What a message means is up to the node.
//!
//! ```text
//!   accept ─▶ first byte ─▶ TLS hello ─▶ certificate ─▶ names, version ─▶ stream ─▶ node
//!               │ HTTP, garbage │ other ALPN  │ other secret  │ other name     │ foreign sender, malformed
//!               ▼               ▼             ▼               ▼                ▼
//!            closed          closed        alert         told why, closed   told why, closed
//! ```
//!
//! A run of a node has one stream, as `streams` says. The cost of strangers' handshakes is limited by `budget`.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::{Future, pending, poll_fn},
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_core::future::BoxFuture;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    time::{Instant, Sleep, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

use super::{
    ClusterIdentity,
    budget::HandshakeBudget,
    conduit::{Conduit, ConduitError, Wire, tls_socket},
    counters::{Gauge, NetCounters, RefusedConnection as Why},
    identity,
    packet::{self, Kind, PACKET_BYTES_MAX, Packet, Preamble},
    streams::{Displaced, Rival, Streams},
    tls_errors::{TlsFailure, classify},
};
use crate::{
    limits::{
        CLUSTER_BUFFER_BYTES_MAX, CLUSTER_CALLS_MAX, CLUSTER_HANDSHAKE_TIME_MAX,
        CLUSTER_HANDSHAKES_MAX, CLUSTER_IDLE_TIME_MAX, CLUSTER_STREAMS_MAX,
    },
    transport::{FaultInjector, Request, Response, Serve, TransportError, wire},
    types::{Epoch, InstanceId, NodeName},
};

/// The pause after a failed accept: the system is out of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The time limit for closing a connection.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(1);

/// The most bytes of unsent answers to a node that does not read them. Beyond it, no more of its requests are read.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The number of addresses whose last refusal is remembered, so that it is logged once.
const REFUSED_ADDRESSES_MAX: usize = 64;

/// The most log lines about refused connections in [`REFUSALS_LOGGED_TIME`]: strangers must not fill logs.
const REFUSALS_LOGGED_MAX: u32 = 20;
/// The period to which [`REFUSALS_LOGGED_MAX`] applies.
const REFUSALS_LOGGED_TIME: Duration = Duration::from_secs(60);

/// The most bytes read of an HTTP request that came to the wrong port.
const HTTP_DROPPED_BYTES_MAX: usize = 4 << 10;

/// The first byte of TLS: a handshake record.
const TLS_FIRST_BYTE: u8 = 0x16;

/// A bound listener that does not serve yet.
#[derive(Debug)]
pub struct ClusterListener {
    listener: StdListener,
    address: SocketAddr,
}

/// Options of a serving listener.
pub struct ServeOptions {
    identity: ClusterIdentity,
    node: Option<Arc<dyn Serve>>,
    faults: Option<FaultInjector>,
    counters: Arc<NetCounters>,
    handshakes_max: usize,
    clients_url: Option<String>,
}

impl ServeOptions {
    /// Returns options for a listener that proves `identity` and refuses every request, as the master of a fixed
    /// cluster does.
    #[must_use]
    pub fn new(identity: ClusterIdentity) -> ServeOptions {
        ServeOptions {
            identity,
            node: None,
            faults: None,
            counters: Arc::default(),
            handshakes_max: CLUSTER_HANDSHAKES_MAX,
            clients_url: None,
        }
    }

    /// Sets the maximum number of simultaneous connections that have not yet proved their identity, from 1 to
    /// [`CLUSTER_HANDSHAKES_MAX`], the default: each is an open file.
    #[must_use]
    pub fn handshakes_max(mut self, connections: usize) -> ServeOptions {
        self.handshakes_max = connections.clamp(1, CLUSTER_HANDSHAKES_MAX);
        self
    }

    /// Sets the URL that is given to clients that connect to the listener by mistake.
    #[must_use]
    pub fn clients_at(mut self, url: Option<String>) -> ServeOptions {
        self.clients_url = url;
        self
    }

    /// Sets the node that answers requests.
    #[must_use]
    pub fn node(mut self, node: Arc<dyn Serve>) -> ServeOptions {
        self.node = Some(node);
        self
    }

    /// Applies the faults of `injector` to requests.
    #[must_use]
    pub fn faults(mut self, injector: FaultInjector) -> ServeOptions {
        self.faults = Some(injector);
        self
    }

    /// Sets the counters of connections.
    #[must_use]
    pub fn counters(mut self, counters: Arc<NetCounters>) -> ServeOptions {
        self.counters = counters;
        self
    }
}

impl std::fmt::Debug for ServeOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServeOptions")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl ClusterListener {
    /// Binds an address; port 0 takes a free one. Connections wait in the system's queue until they are
    /// served.
    ///
    /// # Errors
    ///
    /// The system's error if the address cannot be bound.
    pub fn bind(address: SocketAddr) -> io::Result<ClusterListener> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(ClusterListener { listener, address })
    }

    /// Returns the address on which it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves other nodes with tasks of the surrounding `LocalSet` or actix arbiter: preferably the one of the
    /// node's actors, so that a request wakes no other thread.
    ///
    /// # Errors
    ///
    /// The system's error if the socket cannot be watched.
    ///
    /// # Panics
    ///
    /// Panics outside a `LocalSet` on a tokio runtime with sockets and timers.
    pub fn serve_here(self, options: ServeOptions) -> io::Result<Serving> {
        let listener = TcpListener::from_std(self.listener)?;
        let (stop, stopped) = watch::channel(false);
        let shared = Rc::new(Shared {
            options,
            stopped,
            next: Cell::new(0),
            sockets: Cell::new(0),
            handshakes: RefCell::default(),
            budget: RefCell::new(HandshakeBudget::new(Instant::now())),
            streams: RefCell::default(),
            log: RefCell::new(RefusalLog::new()),
        });
        tokio::task::spawn_local(async move {
            until_stopped(shared.stopped.clone(), accept(&listener, &shared)).await;
        });
        Ok(Serving {
            stop,
            address: self.address,
        })
    }
}

/// A serving listener. Dropping it closes the socket and every connection.
#[derive(Debug)]
pub struct Serving {
    stop: watch::Sender<bool>,
    address: SocketAddr,
}

impl Serving {
    /// Returns the address on which it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Closes the socket and every connection, and waits until they are closed.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.stop.closed().await;
    }
}

/// The state shared by the connections of one listener.
struct Shared {
    options: ServeOptions,
    stopped: watch::Receiver<bool>,
    next: Cell<u64>,
    /// The number of sockets whose owner is not known, including those that are about to be closed.
    sockets: Cell<usize>,
    handshakes: RefCell<Vec<Handshake>>,
    budget: RefCell<HandshakeBudget>,
    streams: RefCell<Streams>,
    log: RefCell<RefusalLog>,
}

/// A connection that has not yet proved its identity.
struct Handshake {
    id: u64,
    address: IpAddr,
    /// Dropped to make room for a newer one.
    _evict: oneshot::Sender<()>,
}

/// The proof that a connection has shown for the name that it will claim.
enum Proof {
    /// No proof, because this node is insecure and accepts every name.
    NotAsked,
    Certificate(CertificateDer<'static>),
}

/// The reason why a connection is refused, and the detail for the log.
struct Refused {
    why: Why,
    detail: String,
}

impl Refused {
    fn new(why: Why, detail: impl Into<String>) -> Refused {
        Refused {
            why,
            detail: detail.into(),
        }
    }
}

/// Runs `work` until it is done or the listener stops.
async fn until_stopped(mut stopped: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        // An error means that the handle is gone, which has the same effect.
        _ = stopped.wait_for(|stopped| *stopped) => {}
        () = work => {}
    }
}

async fn accept(listener: &TcpListener, shared: &Rc<Shared>) {
    let mut fails = false;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                fails = false;
                shared.sockets.set(shared.sockets.get() + 1);
                let (socket, handled) = (UnidentifiedSocket(Rc::clone(shared)), Rc::clone(shared));
                tokio::task::spawn_local(
                    async move { handled.handle(stream, address, socket).await },
                );
                // Each is an open file: evicted ones must be closed before another is accepted.
                while shared.sockets.get() > shared.options.handshakes_max {
                    tokio::task::yield_now().await;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut fails, true) {
                    let node = shared.options.identity.name();
                    tracing::warn!(%node, %error, "the cluster listener cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

impl Shared {
    /// Serves one connection to its end.
    async fn handle(
        self: Rc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        socket: UnidentifiedSocket,
    ) {
        until_stopped(self.stopped.clone(), self.serve(stream, address, socket)).await;
    }

    async fn serve(&self, stream: TcpStream, address: SocketAddr, socket: UnidentifiedSocket) {
        let id = self.next.replace(self.next.get() + 1);
        let admitted = self.admit_in_time(id, stream, address.ip()).await;
        drop(socket);
        let (from, conduit) = match admitted {
            Ok(admitted) => admitted,
            Err(refused) => return self.refuse(address, &refused),
        };
        let (replaced, displaced) = self.streams.borrow_mut().open(id, &from, address);
        self.count_replaced(replaced);
        let _registered = StreamGuard { shared: self, id };
        NetCounters::count(&self.options.counters.accepted);
        let _open = Gauge::raise(&self.options.counters.streams);
        let node = self.options.identity.name();
        tracing::debug!(%node, %from, %address, "another node opened a stream");
        let mut stream = NodeStream::new(self, id, address, from.clone(), conduit);
        let ended = tokio::select! {
            biased;
            displaced = displaced => End::Left(match displaced {
                Ok(Displaced::Fenced) => "this node has promised a newer epoch".to_owned(),
                Ok(Displaced::Replaced) | Err(_) => "a newer one takes its place".to_owned(),
            }),
            ended = stream.run() => ended,
        };
        match ended {
            End::Left(why) => {
                tracing::debug!(%node, %from, %address, %why, "a stream of another node ended");
            }
            End::Refused(refused) => {
                let reason = Bytes::copy_from_slice(packet::shortened(&refused.detail).as_bytes());
                stream.conduit.queue(Kind::Refusal, 0, vec![reason]);
                self.refuse(address, &refused);
                stream.conduit.close(CLOSING_TIME_MAX).await;
            }
        }
    }

    /// Authenticates a connection, within a time limit and unless it is evicted.
    async fn admit_in_time(
        &self,
        id: u64,
        stream: TcpStream,
        address: IpAddr,
    ) -> Result<(NodeName, Conduit), Refused> {
        let evicted = self.enter_handshake(id, address);
        let _entered = HandshakeGuard { shared: self, id };
        let _under_way = Gauge::raise(&self.options.counters.handshakes);
        tokio::select! {
            biased;
            _ = evicted => Err(Refused::new(Why::TooMany, "it made room for newer connections")),
            admitted = timeout(CLUSTER_HANDSHAKE_TIME_MAX, self.admit(stream, address)) => {
                admitted.unwrap_or_else(|_| {
                    let detail = format!("it did not prove its identity within {CLUSTER_HANDSHAKE_TIME_MAX:?}");
                    Err(Refused::new(Why::TimedOut, detail))
                })
            }
        }
    }

    /// Registers a connection whose owner is not known. If there are too many of them, the oldest one of the
    /// address that has the most is evicted, so that one address cannot keep all others out.
    fn enter_handshake(&self, id: u64, address: IpAddr) -> oneshot::Receiver<()> {
        let mut handshakes = self.handshakes.borrow_mut();
        if handshakes.len() >= self.options.handshakes_max {
            let of_address = |address: IpAddr| {
                let same = handshakes.iter().filter(|other| other.address == address);
                same.count()
            };
            let oldest_of_most = (0..handshakes.len())
                .max_by_key(|at| (of_address(handshakes[*at].address), usize::MAX - at))
                .expect("there are some");
            handshakes.remove(oldest_of_most);
        }
        let (evict, evicted) = oneshot::channel();
        handshakes.push(Handshake {
            id,
            address,
            _evict: evict,
        });
        evicted
    }

    /// Waits until the budget allows one more handshake for this address.
    async fn wait_for_budget(&self, address: IpAddr) {
        loop {
            let taken = self.budget.borrow_mut().take(Instant::now(), address);
            match taken {
                Ok(()) => return,
                Err(again_at) => tokio::time::sleep_until(again_at).await,
            }
        }
    }

    async fn admit(
        &self,
        stream: TcpStream,
        address: IpAddr,
    ) -> Result<(NodeName, Conduit), Refused> {
        if let Some(faults) = &self.options.faults {
            faults.wait_while_isolated().await;
        }
        let broken = |error: io::Error| Refused::new(Why::Garbage, error.to_string());
        stream.set_nodelay(true).map_err(broken)?;
        let mut first = [0; 4];
        let have = stream.peek(&mut first).await.map_err(broken)?;
        let credentials = self.options.identity.credentials();
        let expected = match credentials {
            Some(_) => TLS_FIRST_BYTE,
            None => packet::MAGIC[0],
        };
        if let Err(refused) = check_first_bytes(&first[..have], expected) {
            if refused.why == Why::Http {
                answer_http(&stream, self.options.clients_url.as_deref()).await;
            }
            return Err(refused);
        }
        let Some(credentials) = credentials else {
            return self
                .read_preamble(Wire::Plain(stream), &Proof::NotAsked)
                .await;
        };
        let handshake_broke = |error: io::Error| self.refused_by_tls(&error);
        let acceptor =
            LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tls_socket(stream));
        let hello = acceptor.await.map_err(handshake_broke)?;
        // Checked before any expensive computation.
        let speaks_it = hello
            .client_hello()
            .alpn()
            .is_some_and(|mut offered| offered.any(|protocol| protocol == identity::ALPN));
        if !speaks_it {
            let detail = "it speaks TLS but not the protocol between nodes: a browser, or an https URL \
                          used as the address of a cluster listener";
            return Err(Refused::new(Why::OtherProtocol, detail));
        }
        self.wait_for_budget(address).await;
        let stream = hello
            .into_stream(credentials.server())
            .await
            .map_err(handshake_broke)?;
        let chain = stream.get_ref().1.peer_certificates();
        let Some(certificate) = chain.and_then(|chain| chain.first()) else {
            // The TLS settings require one, but this code does not rely on that.
            let detail = "it shows no certificate";
            return Err(Refused::new(Why::Handshake, detail));
        };
        let proof = Proof::Certificate(certificate.clone().into_owned());
        let wire = Wire::Tls(Box::new(TlsStream::Server(stream)));
        self.read_preamble(wire, &proof).await
    }

    /// Reads and answers a node's preamble, and checks it against the node's certificate.
    async fn read_preamble(
        &self,
        mut wire: Wire,
        proof: &Proof,
    ) -> Result<(NodeName, Conduit), Refused> {
        let left = |error: io::Error| self.refused_by_tls(&error);
        let mut received = BytesMut::new();
        let preamble = loop {
            match Preamble::decode(&received) {
                Ok(Some((preamble, bytes))) => {
                    drop(received.split_to(bytes));
                    break preamble;
                }
                Ok(None) => {}
                Err(error) => return Err(Refused::new(Why::Malformed, error.to_string())),
            }
            if wire.read_buf(&mut received).await.map_err(left)? == 0 {
                return Err(Refused::new(
                    Why::Handshake,
                    "it closed the connection before it named itself",
                ));
            }
        };
        let reply = self.check_preamble(&preamble, proof);
        let bytes = packet::encode_reply(&match &reply {
            Ok(version) => Ok(*version),
            Err(refused) => Err(refused.detail.clone()),
        });
        let answered = async {
            wire.write_all(&bytes).await?;
            wire.flush().await
        };
        answered.await.map_err(left)?;
        match reply {
            Ok(_) => {
                let counters = Arc::clone(&self.options.counters);
                Ok((preamble.from, Conduit::new(wire, received, counters)))
            }
            Err(refused) => {
                // An error means that the other end no longer listens.
                let _ = wire.shutdown().await;
                Err(refused)
            }
        }
    }

    /// Converts the error of a TLS handshake, or of the preamble after it, into a refusal.
    fn refused_by_tls(&self, error: &io::Error) -> Refused {
        match classify(error, &self.options.identity) {
            TlsFailure::OtherAuthority(detail) => Refused::new(Why::WrongSecret, detail),
            TlsFailure::OtherName(detail) => Refused::new(Why::WrongName, detail),
            TlsFailure::NotTls(detail) | TlsFailure::Other(detail) => {
                Refused::new(Why::Handshake, detail)
            }
        }
    }

    /// Returns the version to speak with the sender of a preamble, or the reason to refuse it.
    fn check_preamble(&self, preamble: &Preamble, proof: &Proof) -> Result<u16, Refused> {
        let (from, to, own) = (&preamble.from, &preamble.to, self.options.identity.name());
        let is_proven = match proof {
            Proof::NotAsked => true,
            Proof::Certificate(certificate) => identity::names(certificate, from),
        };
        if !is_proven {
            let detail = format!("its certificate does not prove that it is {from}");
            return Err(Refused::new(Why::WrongName, detail));
        }
        if to != own {
            let detail = format!("{from} wants {to}, and this node is {own}: check the addresses");
            return Err(Refused::new(Why::WrongName, detail));
        }
        if from == own {
            let detail = format!(
                "it has the same name as this node, {own}: a node connects to itself, or two nodes have one name"
            );
            return Err(Refused::new(Why::WrongName, detail));
        }
        let version = preamble
            .version()
            .map_err(|detail| Refused::new(Why::Version, detail))?;
        if self.options.node.is_none() {
            let detail = format!(
                "{own} is the master of a fixed cluster and takes no requests from other nodes"
            );
            return Err(Refused::new(Why::NoRequestsHere, detail));
        }
        if !self.streams.borrow().has_room_for(from) {
            let detail = format!("{own} already has {CLUSTER_STREAMS_MAX} streams of other nodes");
            return Err(Refused::new(Why::TooMany, detail));
        }
        Ok(version)
    }

    fn count_replaced(&self, count: usize) {
        for _ in 0..count {
            NetCounters::count(&self.options.counters.replaced);
        }
    }

    /// Records the epoch that this node says it has promised, and ends streams of older epochs.
    fn note_promised(&self, id: u64, promised: Epoch) {
        let fenced = self.streams.borrow_mut().on_promised(id, promised);
        if fenced > 0 {
            let node = self.options.identity.name();
            tracing::debug!(%node, fenced, epoch = promised.0, "ended streams of nodes of older epochs");
        }
    }

    /// Records which instance speaks on a stream, and logs a warning if two use one name.
    fn note_speaker(&self, stream: &NodeStream<'_>, request: &Request) {
        let instance = request.incarnation.instance;
        let noted = self
            .streams
            .borrow_mut()
            .on_request(stream.id, instance, request.epoch);
        let (replaced, rival) = noted;
        self.count_replaced(replaced);
        let Some(Rival {
            instance: other_instance,
            address: other_address,
        }) = rival
        else {
            return;
        };
        if self
            .log
            .borrow_mut()
            .is_news_of_rivals(instance, other_instance)
        {
            let (node, from, address) =
                (self.options.identity.name(), &stream.from, stream.address);
            tracing::warn!(
                %node, %from, %address, %instance, %other_address, %other_instance,
                "two processes with different data directories use the same node name: stop the wrong one"
            );
        }
    }

    fn refuse(&self, address: SocketAddr, refused: &Refused) {
        let Refused { why, detail } = refused;
        let counters = &self.options.counters;
        counters.note_refused(address.ip(), *why, detail);
        let (node, reason) = (self.options.identity.name(), why.as_str());
        let tell = self.log.borrow_mut().is_news(address.ip(), *why);
        match why {
            _ if !tell => {
                tracing::debug!(%node, %address, reason, detail, "refused a connection of another node");
            }
            Why::WrongSecret | Why::WrongName | Why::Version | Why::Malformed => {
                tracing::warn!(%node, %address, reason, detail, "refused a connection of another node");
            }
            _ => {
                tracing::info!(%node, %address, reason, detail, "refused a connection to the cluster listener");
            }
        }
    }
}

/// A socket whose owner is not known yet.
struct UnidentifiedSocket(Rc<Shared>);

impl Drop for UnidentifiedSocket {
    fn drop(&mut self) {
        self.0.sockets.set(self.0.sockets.get() - 1);
    }
}

/// A guard that removes a handshake from the list.
struct HandshakeGuard<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for HandshakeGuard<'_> {
    fn drop(&mut self) {
        let mut handshakes = self.shared.handshakes.borrow_mut();
        handshakes.retain(|handshake| handshake.id != self.id);
    }
}

/// A guard that removes a stream from the list.
struct StreamGuard<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for StreamGuard<'_> {
    fn drop(&mut self) {
        self.shared.streams.borrow_mut().close(self.id);
    }
}

/// Refuses a connection whose first bytes are not of the expected protocol.
fn check_first_bytes(first: &[u8], expected: u8) -> Result<(), Refused> {
    match first.first() {
        None => Err(Refused::new(
            Why::Garbage,
            "it closed the connection without sending anything",
        )),
        Some(byte) if *byte == expected => Ok(()),
        Some(&TLS_FIRST_BYTE) => Err(Refused::new(
            Why::OtherProtocol,
            "it speaks TLS, but this node is insecure: start both nodes with the same kind of identity",
        )),
        Some(_) if first == packet::MAGIC => Err(Refused::new(
            Why::OtherProtocol,
            "it is insecure, but this node speaks TLS: start both nodes with the same kind of identity",
        )),
        Some(byte) if byte.is_ascii_alphabetic() => Err(Refused::new(
            Why::Http,
            "it speaks HTTP: clients must use the node's other address",
        )),
        Some(_) => Err(Refused::new(Why::Garbage, "it does not speak TLS")),
    }
}

/// Tells an HTTP client which address to use. Its request is read but ignored: otherwise the system would
/// reset the connection, and the client might lose the answer.
async fn answer_http(stream: &TcpStream, clients_url: Option<&str>) {
    let place = match clients_url {
        Some(url) => format!("this node's clients use {url}"),
        None => "clients use the node's other port".to_owned(),
    };
    let body = format!("this port is for the other nodes of the cluster: {place}\n");
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    let mut dropped = [0; HTTP_DROPPED_BYTES_MAX];
    let _ = stream.try_read(&mut dropped);
    // Nothing was written before, so there is room in the send buffer.
    let _ = stream.writable().await;
    let _ = stream.try_write(answer.as_bytes());
}

/// A filter of log lines about refusals: one line per change, and few lines a minute whatever happens.
struct RefusalLog {
    /// Addresses and the reason that was logged last, oldest refusal first. The oldest makes room for a new address.
    last: VecDeque<(IpAddr, Why)>,
    /// Pairs of instances of one name that were logged, oldest first.
    rivals: VecDeque<[InstanceId; 2]>,
    since: Instant,
    lines: u32,
}

impl RefusalLog {
    fn new() -> RefusalLog {
        RefusalLog {
            last: VecDeque::new(),
            rivals: VecDeque::new(),
            since: Instant::now(),
            lines: 0,
        }
    }

    fn is_news(&mut self, address: IpAddr, why: Why) -> bool {
        let known = self.last.iter().position(|(known, _)| *known == address);
        let before = known.and_then(|at| self.last.remove(at));
        if before == Some((address, why)) || !self.has_a_line_left() {
            // Refused again, it is the newest: an address that never stops is logged once, however many come and go.
            self.last.extend(before);
            return false;
        }
        if self.last.len() >= REFUSED_ADDRESSES_MAX {
            self.last.pop_front();
        }
        self.last.push_back((address, why));
        true
    }

    fn is_news_of_rivals(&mut self, one: InstanceId, other: InstanceId) -> bool {
        let pair = [one.min(other), one.max(other)];
        if self.rivals.contains(&pair) || !self.has_a_line_left() {
            return false;
        }
        if self.rivals.len() >= REFUSED_ADDRESSES_MAX {
            self.rivals.pop_front();
        }
        self.rivals.push_back(pair);
        true
    }

    fn has_a_line_left(&mut self) -> bool {
        if self.since.elapsed() >= REFUSALS_LOGGED_TIME {
            (self.since, self.lines) = (Instant::now(), 0);
        }
        let has_one = self.lines < REFUSALS_LOGGED_MAX;
        self.lines += u32::from(has_one);
        has_one
    }

    fn forget(&mut self, address: IpAddr) {
        self.last.retain(|(known, _)| *known != address);
    }
}

/// The reason why a stream ends.
enum End {
    /// The other end left, or nothing more can be done.
    Left(String),
    /// The other end sent what no valid node sends.
    Refused(Refused),
}

impl From<ConduitError> for End {
    fn from(broken: ConduitError) -> End {
        match broken {
            ConduitError::Closed | ConduitError::Io(_) => End::Left(broken.to_string()),
            ConduitError::Packet(error) => {
                End::Refused(Refused::new(Why::Malformed, error.to_string()))
            }
        }
    }
}

type Answered = (u64, usize, Result<Response, TransportError>);

/// One node's stream: its requests in, the answers out, many in flight at once.
struct NodeStream<'a> {
    shared: &'a Shared,
    id: u64,
    address: SocketAddr,
    /// The instance that speaks on the stream and its epoch, known from the first valid request on.
    speaker: Option<(InstanceId, Epoch)>,
    from: NodeName,
    node: Option<&'a Arc<dyn Serve>>,
    faults: Option<&'a FaultInjector>,
    conduit: Conduit,
    calls: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Bytes of the requests in flight.
    calls_bytes: usize,
    received_bytes: u64,
    received_at: Instant,
    idle: Pin<Box<Sleep>>,
}

impl<'a> NodeStream<'a> {
    fn new(
        shared: &'a Shared,
        id: u64,
        address: SocketAddr,
        from: NodeName,
        conduit: Conduit,
    ) -> NodeStream<'a> {
        NodeStream {
            shared,
            id,
            address,
            speaker: None,
            from,
            node: shared.options.node.as_ref(),
            faults: shared.options.faults.as_ref(),
            conduit,
            calls: FuturesUnordered::new(),
            calls_bytes: 0,
            received_bytes: 0,
            received_at: Instant::now(),
            idle: Box::pin(tokio::time::sleep(CLUSTER_IDLE_TIME_MAX)),
        }
    }

    /// Serves the stream until it ends. While the node is isolated, nothing is read or sent.
    async fn run(&mut self) -> End {
        let faults = self.faults.cloned();
        loop {
            let isolated = async {
                match &faults {
                    Some(faults) => faults.until_isolated().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = isolated => {}
                end = poll_fn(|cx| self.poll(cx)) => return end,
            }
            if let Some(faults) = &faults {
                faults.wait_while_isolated().await;
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.poll_until_end(cx) {
            Poll::Ready(Err(end)) => Poll::Ready(end),
            Poll::Ready(Ok(never)) => match never {},
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_until_end(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<std::convert::Infallible, End>> {
        loop {
            while let Poll::Ready(Some((number, bytes, outcome))) = self.calls.poll_next_unpin(cx) {
                self.calls_bytes -= bytes;
                self.answer(number, outcome)?;
            }
            let reads = self.calls.len() < CLUSTER_CALLS_MAX
                && self.conduit.outgoing_bytes() < ANSWER_BYTES_MAX;
            if reads {
                let room = match self.calls_bytes {
                    0 => PACKET_BYTES_MAX,
                    bytes => CLUSTER_BUFFER_BYTES_MAX.saturating_sub(bytes),
                };
                let packet = self.conduit.poll_packet(cx, room);
                self.note_received();
                if let Poll::Ready(packet) = packet {
                    self.take(cx, packet?)?;
                    continue;
                }
            }
            self.conduit.queue_receipt();
            let sent = self.conduit.poll_send(cx);
            if let Poll::Ready(sent) = sent {
                sent.map_err(ConduitError::from)?;
                if !reads && self.calls.len() < CLUSTER_CALLS_MAX {
                    // There is room again.
                    continue;
                }
            }
            ready!(self.poll_idle(cx));
            let detail = format!("nothing arrived for {CLUSTER_IDLE_TIME_MAX:?}");
            return Poll::Ready(Err(End::Left(detail)));
        }
    }

    fn note_received(&mut self) {
        let received_bytes = self.conduit.received_bytes();
        if received_bytes > self.received_bytes {
            (self.received_bytes, self.received_at) = (received_bytes, Instant::now());
        }
    }

    /// Becomes ready when nothing has arrived for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.idle.as_mut().poll(cx));
            let until = self.received_at + CLUSTER_IDLE_TIME_MAX;
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            self.idle.as_mut().reset(until);
        }
    }

    fn take(&mut self, cx: &mut Context<'_>, packet: Packet) -> Result<(), End> {
        match packet.header.kind {
            Kind::Request => self.call(cx, packet),
            Kind::Receipt => Ok(()),
            Kind::Refusal => Err(End::Left(packet::readable(&packet.body))),
            Kind::Response | Kind::Failure => {
                let detail = "an answer to a request that was never sent";
                Err(End::Refused(Refused::new(Why::Malformed, detail)))
            }
        }
    }

    /// Hands a request over before the next one is read, so that the node gets them in order.
    fn call(&mut self, cx: &mut Context<'_>, packet: Packet) -> Result<(), End> {
        let (number, bytes) = (packet.header.number, packet.header.bytes);
        let request = wire::decode_request(packet.body)
            .map_err(|error| End::Refused(Refused::new(Why::Malformed, error.to_string())))?;
        if request.from != self.from {
            let detail = format!(
                "a message in the name of {} on the stream of {}",
                request.from, self.from
            );
            return Err(End::Refused(Refused::new(Why::WrongName, detail)));
        }
        let speaker = Some((request.incarnation.instance, request.epoch));
        if self.speaker != speaker {
            if self.speaker.is_none() {
                self.shared.log.borrow_mut().forget(self.address.ip());
                let counters = &self.shared.options.counters;
                counters.note_trusted(self.address.ip());
            }
            self.speaker = speaker;
            self.shared.note_speaker(self, &request);
        }
        let Some(node) = self.node.cloned() else {
            let detail = "this node takes no requests";
            return Err(End::Refused(Refused::new(Why::NoRequestsHere, detail)));
        };
        let faults = self.faults.cloned();
        let mut call: BoxFuture<'static, Answered> = Box::pin(async move {
            let outcome = match &faults {
                Some(faults) => faults.serve(request, |request| node.serve(request)).await,
                None => node.serve(request).await.map_err(TransportError::from),
            };
            (number, bytes, outcome)
        });
        match call.as_mut().poll(cx) {
            Poll::Ready((number, _, outcome)) => self.answer(number, outcome),
            Poll::Pending => {
                self.calls_bytes += bytes;
                self.calls.push(call);
                Ok(())
            }
        }
    }

    fn answer(
        &mut self,
        number: u64,
        outcome: Result<Response, TransportError>,
    ) -> Result<(), End> {
        match outcome {
            Ok(response) => {
                self.shared.note_promised(self.id, response.state.promised);
                let parts = wire::encode_response(&response);
                self.conduit.queue(Kind::Response, number, parts);
            }
            Err(TransportError::Injected) => {
                let body = Bytes::from_static(&packet::FAILURE_INJECTED);
                self.conduit.queue(Kind::Failure, number, vec![body]);
            }
            Err(_) => return Err(End::Left("the node has stopped".to_owned())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

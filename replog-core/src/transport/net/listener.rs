//! [`ClusterListener`]: where other nodes connect.
//!
//! Owns a node's listening socket, who may come in, and the streams that are open. Refuses before it
//! understands: the first byte, then the protocol that TLS offers, then the certificate, then the
//! names; only then is a message looked at. What a message means is the node's business.
//!
//! ```text
//!   accept ─▶ first byte ─▶ TLS hello ─▶ certificate ─▶ names, version ─▶ stream ─▶ node
//!               │ HTTP, garbage │ other ALPN  │ other secret  │ other name     │ foreign sender, malformed
//!               ▼               ▼             ▼               ▼                ▼
//!            closed          closed        alert         told why, closed   told why, closed
//! ```
//!
//! One stream a run of a node, as `streams` says. Arithmetic for strangers has a `budget`.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
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
    conduit::{Broken, Conduit, Wire, tls_socket},
    counters::{Gauge, NetCounters, RefusedConnection as Why},
    framing::{self, FRAME_BYTES_MAX, Frame, Kind, Preamble},
    identity,
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

/// How long the system is left alone after it gave no connection: it has no more files.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How long the last words of a connection may take.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(1);

/// Bytes of answers that wait for a node that does not read them. Beyond it nothing more of it is read.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Addresses whose last refusal is remembered, to say it once.
const REFUSED_ADDRESSES_MAX: usize = 64;

/// Lines about refused connections in [`REFUSALS_LOGGED_TIME`], at most: strangers do not fill logs.
const REFUSALS_LOGGED_MAX: u32 = 20;
/// See [`REFUSALS_LOGGED_MAX`].
const REFUSALS_LOGGED_TIME: Duration = Duration::from_secs(60);

/// Bytes that are taken of a request that belongs elsewhere.
const HTTP_DROPPED_BYTES_MAX: usize = 4 << 10;

/// The first byte of TLS: a handshake record.
const TLS_FIRST_BYTE: u8 = 0x16;

/// A bound listener that serves nobody yet.
#[derive(Debug)]
pub struct ClusterListener {
    listener: StdListener,
    address: SocketAddr,
}

/// What a listener needs to serve.
pub struct ServeOptions {
    identity: ClusterIdentity,
    node: Option<Arc<dyn Serve>>,
    faults: Option<FaultInjector>,
    counters: Arc<NetCounters>,
    handshakes_max: usize,
    clients_url: Option<String>,
}

impl ServeOptions {
    /// A listener that proves `identity` and refuses every request, as the master of a fixed cluster
    /// does.
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

    /// Lets in at most so many connections at once that have not proved yet whose they are, and at least one: each is
    /// an open file. [`CLUSTER_HANDSHAKES_MAX`] unless said.
    #[must_use]
    pub fn handshakes_max(mut self, connections: usize) -> ServeOptions {
        self.handshakes_max = connections.clamp(1, CLUSTER_HANDSHAKES_MAX);
        self
    }

    /// Names this URL to clients that come to the listener by mistake.
    #[must_use]
    pub fn clients_at(mut self, url: Option<String>) -> ServeOptions {
        self.clients_url = url;
        self
    }

    /// Hands requests to `node`.
    #[must_use]
    pub fn node(mut self, node: Arc<dyn Serve>) -> ServeOptions {
        self.node = Some(node);
        self
    }

    /// Lets the faults of `injector` happen to requests.
    #[must_use]
    pub fn faults(mut self, injector: FaultInjector) -> ServeOptions {
        self.faults = Some(injector);
        self
    }

    /// Counts in `counters`.
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
    /// Binds an address; port 0 takes a free one. Connections wait in the system's queue until it is
    /// served.
    ///
    /// # Errors
    ///
    /// The system's, where the address cannot be bound.
    pub fn bind(address: SocketAddr) -> io::Result<ClusterListener> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(ClusterListener { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves other nodes, by tasks of the `LocalSet` or actix arbiter that this is called within: best
    /// the one of the node's actors, so that a request wakes no other thread.
    ///
    /// # Errors
    ///
    /// The system's, where the socket cannot be watched.
    ///
    /// # Panics
    ///
    /// Outside of a `LocalSet` on a tokio runtime with sockets and timers.
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

/// A listener that serves. Dropped, it closes the socket and every connection.
#[derive(Debug)]
pub struct Serving {
    stop: watch::Sender<bool>,
    address: SocketAddr,
}

impl Serving {
    /// Where it listens.
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

/// What the connections of one listener share.
struct Shared {
    options: ServeOptions,
    stopped: watch::Receiver<bool>,
    next: Cell<u64>,
    /// Sockets whose owner is not known, those among them that are about to be closed.
    sockets: Cell<usize>,
    handshakes: RefCell<Vec<Handshake>>,
    budget: RefCell<HandshakeBudget>,
    streams: RefCell<Streams>,
    log: RefCell<RefusalLog>,
}

/// A connection that has not proved yet whose it is.
struct Handshake {
    id: u64,
    address: IpAddr,
    /// Dropped to make room for a newer one.
    _evict: oneshot::Sender<()>,
}

/// What a connection has shown for the name that it will say.
enum Proof {
    /// This node is insecure: it believes every name.
    NotAsked,
    Certificate(CertificateDer<'static>),
}

/// Why a connection gets no further, and what is told to the log.
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

/// Does `work` until it is done or the listener stops.
async fn until_stopped(mut stopped: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        // An error: the handle is gone, which means the same.
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
                let (socket, handled) = (Unknown(Rc::clone(shared)), Rc::clone(shared));
                tokio::task::spawn_local(
                    async move { handled.handle(stream, address, socket).await },
                );
                // Each is an open file: the ones that made room are closed before there is another.
                while shared.sockets.get() > shared.options.handshakes_max {
                    tokio::task::yield_now().await;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut fails, true) {
                    let node = shared.options.identity.name();
                    tracing::warn!(%node, %error, "the cluster listener gets no connections");
                }
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

impl Shared {
    /// Serves one connection to its end.
    async fn handle(self: Rc<Self>, stream: TcpStream, address: SocketAddr, socket: Unknown) {
        until_stopped(self.stopped.clone(), self.serve(stream, address, socket)).await;
    }

    async fn serve(&self, stream: TcpStream, address: SocketAddr, socket: Unknown) {
        let id = self.next.replace(self.next.get() + 1);
        let admitted = self.admit_in_time(id, stream, address.ip()).await;
        drop(socket);
        let (from, conduit) = match admitted {
            Ok(admitted) => admitted,
            Err(refused) => return self.refuse(address, &refused),
        };
        let (replaced, displaced) = self.streams.borrow_mut().open(id, &from, address);
        self.count_replaced(replaced);
        let _registered = Registered { shared: self, id };
        NetCounters::count(&self.options.counters.accepted);
        let _open = Gauge::raise(&self.options.counters.streams);
        let node = self.options.identity.name();
        tracing::debug!(%node, %from, %address, "a stream of another node was opened");
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
                let reason = Bytes::copy_from_slice(framing::shortened(&refused.detail).as_bytes());
                stream.conduit.queue(Kind::Refusal, 0, vec![reason]);
                self.refuse(address, &refused);
                stream.conduit.close(CLOSING_TIME_MAX).await;
            }
        }
    }

    /// Finds out whose connection it is, within a time and as long as there is room for it.
    async fn admit_in_time(
        &self,
        id: u64,
        stream: TcpStream,
        address: IpAddr,
    ) -> Result<(NodeName, Conduit), Refused> {
        let evicted = self.enter_handshake(id, address);
        let _entered = Entered { shared: self, id };
        let _under_way = Gauge::raise(&self.options.counters.handshakes);
        tokio::select! {
            biased;
            _ = evicted => Err(Refused::new(Why::TooMany, "it made room for newer connections")),
            admitted = timeout(CLUSTER_HANDSHAKE_TIME_MAX, self.admit(stream, address)) => {
                admitted.unwrap_or_else(|_| {
                    let detail = format!("it did not prove who it is within {CLUSTER_HANDSHAKE_TIME_MAX:?}");
                    Err(Refused::new(Why::TimedOut, detail))
                })
            }
        }
    }

    /// Notes a connection whose owner is not known. Where there are too many of them, the oldest one
    /// of the address that has the most makes room: one address cannot keep all others out.
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

    /// Waits until the arithmetic of one more handshake may be done for this address.
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
            faults.pass_cable().await;
        }
        let broken = |error: io::Error| Refused::new(Why::Garbage, error.to_string());
        stream.set_nodelay(true).map_err(broken)?;
        let mut first = [0; 4];
        let have = stream.peek(&mut first).await.map_err(broken)?;
        let credentials = self.options.identity.credentials();
        let expected = match credentials {
            Some(_) => TLS_FIRST_BYTE,
            None => framing::MAGIC[0],
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
        // Before any arithmetic is done for it.
        let speaks_it = hello
            .client_hello()
            .alpn()
            .is_some_and(|mut offered| offered.any(|protocol| protocol == identity::ALPN));
        if !speaks_it {
            let detail = "it speaks TLS and not the protocol between nodes: a browser, or an https URL \
                          where the address of a cluster listener belongs";
            return Err(Refused::new(Why::OtherProtocol, detail));
        }
        self.wait_for_budget(address).await;
        let stream = hello
            .into_stream(credentials.server())
            .await
            .map_err(handshake_broke)?;
        let chain = stream.get_ref().1.peer_certificates();
        let Some(certificate) = chain.and_then(|chain| chain.first()) else {
            // The TLS settings ask for one; nothing here rests on that.
            let detail = "it shows no certificate";
            return Err(Refused::new(Why::Handshake, detail));
        };
        let proof = Proof::Certificate(certificate.clone().into_owned());
        let wire = Wire::Tls(Box::new(TlsStream::Server(stream)));
        self.read_preamble(wire, &proof).await
    }

    /// Reads and answers what a node says first, and checks it against its certificate.
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
                    "it left before it said who it is",
                ));
            }
        };
        let reply = self.judge(&preamble, proof);
        let bytes = framing::encode_reply(&match &reply {
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
                // An error: it did not want to know.
                let _ = wire.shutdown().await;
                Err(refused)
            }
        }
    }

    /// What a broken TLS handshake, or what broke right behind it, says about the other end.
    fn refused_by_tls(&self, error: &io::Error) -> Refused {
        match classify(error, &self.options.identity) {
            TlsFailure::OtherAuthority(detail) => Refused::new(Why::WrongSecret, detail),
            TlsFailure::OtherName(detail) => Refused::new(Why::WrongName, detail),
            TlsFailure::NotTls(detail) | TlsFailure::Other(detail) => {
                Refused::new(Why::Handshake, detail)
            }
        }
    }

    /// The version to speak with a node that says this, or why none.
    fn judge(&self, preamble: &Preamble, proof: &Proof) -> Result<u16, Refused> {
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
                "it is called {own} as this node is: a node connects to itself, or two have one name"
            );
            return Err(Refused::new(Why::WrongName, detail));
        }
        let version = preamble
            .version()
            .map_err(|detail| Refused::new(Why::Version, detail))?;
        if self.options.node.is_none() {
            let detail = format!(
                "{own} is the master of a fixed cluster, and takes no requests of other nodes"
            );
            return Err(Refused::new(Why::NoRequestsHere, detail));
        }
        if !self.streams.borrow().has_room_for(from) {
            let detail = format!("{own} has streams of {CLUSTER_STREAMS_MAX} nodes already");
            return Err(Refused::new(Why::TooMany, detail));
        }
        Ok(version)
    }

    fn count_replaced(&self, count: usize) {
        for _ in 0..count {
            NetCounters::count(&self.options.counters.replaced);
        }
    }

    /// Notes what this node says that it has promised.
    fn note_promised(&self, id: u64, promised: Epoch) {
        let fenced = self.streams.borrow_mut().on_promised(id, promised);
        if fenced > 0 {
            let node = self.options.identity.name();
            tracing::debug!(%node, fenced, epoch = promised.0, "streams of nodes of older epochs were ended");
        }
    }

    /// Notes who speaks on a stream, and says in the log where two do so under one name.
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
                "two processes with different data directories go by the same node name: stop the one that is not wanted"
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
struct Unknown(Rc<Shared>);

impl Drop for Unknown {
    fn drop(&mut self) {
        self.0.sockets.set(self.0.sockets.get() - 1);
    }
}

/// Takes a handshake off the list.
struct Entered<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut handshakes = self.shared.handshakes.borrow_mut();
        handshakes.retain(|handshake| handshake.id != self.id);
    }
}

/// Takes a stream off the list.
struct Registered<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.streams.borrow_mut().close(self.id);
    }
}

/// Refuses what is not the expected protocol by how it begins.
fn check_first_bytes(first: &[u8], expected: u8) -> Result<(), Refused> {
    match first.first() {
        None => Err(Refused::new(Why::Garbage, "it left without a word")),
        Some(byte) if *byte == expected => Ok(()),
        Some(&TLS_FIRST_BYTE) => Err(Refused::new(
            Why::OtherProtocol,
            "it speaks TLS, and this node is insecure: start both nodes with the same kind of identity",
        )),
        Some(_) if first == framing::MAGIC => Err(Refused::new(
            Why::OtherProtocol,
            "it is insecure, and this node speaks TLS: start both nodes with the same kind of identity",
        )),
        Some(byte) if byte.is_ascii_alphabetic() => Err(Refused::new(
            Why::Http,
            "it speaks HTTP: clients belong to the node's other address",
        )),
        Some(_) => Err(Refused::new(Why::Garbage, "it does not speak TLS")),
    }
}

/// Tells a client that speaks HTTP where it belongs. What it asks is not looked at: it is only taken, since the system
/// would otherwise reset the connection, and the client might lose the answer.
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
    // Nothing was written before: there is room.
    let _ = stream.writable().await;
    let _ = stream.try_write(answer.as_bytes());
}

/// Which refusals are news: one line a change, and few lines a minute whatever comes.
struct RefusalLog {
    last: BTreeMap<IpAddr, Why>,
    /// Pairs of instances of one name that were told.
    rivals: BTreeSet<[InstanceId; 2]>,
    since: Instant,
    lines: u32,
}

impl RefusalLog {
    fn new() -> RefusalLog {
        RefusalLog {
            last: BTreeMap::new(),
            rivals: BTreeSet::new(),
            since: Instant::now(),
            lines: 0,
        }
    }

    fn is_news(&mut self, address: IpAddr, why: Why) -> bool {
        if self.last.get(&address) == Some(&why) || !self.has_a_line_left() {
            return false;
        }
        if self.last.len() >= REFUSED_ADDRESSES_MAX && !self.last.contains_key(&address) {
            self.last.pop_first();
        }
        self.last.insert(address, why);
        true
    }

    fn is_news_of_rivals(&mut self, one: InstanceId, other: InstanceId) -> bool {
        let pair = [one.min(other), one.max(other)];
        if self.rivals.contains(&pair) || !self.has_a_line_left() {
            return false;
        }
        if self.rivals.len() >= REFUSED_ADDRESSES_MAX {
            self.rivals.pop_first();
        }
        self.rivals.insert(pair)
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
        self.last.remove(&address);
    }
}

/// Why a stream ends.
enum End {
    /// The other end left, or nothing more can be done.
    Left(String),
    /// It said what no node says.
    Refused(Refused),
}

impl From<Broken> for End {
    fn from(broken: Broken) -> End {
        match broken {
            Broken::Closed | Broken::Io(_) => End::Left(broken.to_string()),
            Broken::Framing(error) => End::Refused(Refused::new(Why::Malformed, error.to_string())),
        }
    }
}

type Answered = (u64, usize, Result<Response, TransportError>);

/// One node's stream: its requests in, the answers out, many under way at once.
struct NodeStream<'a> {
    shared: &'a Shared,
    id: u64,
    address: SocketAddr,
    /// Who speaks on it and for which epoch, once a good request came.
    speaker: Option<(InstanceId, Epoch)>,
    from: NodeName,
    node: Option<&'a Arc<dyn Serve>>,
    faults: Option<&'a FaultInjector>,
    conduit: Conduit,
    calls: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Bytes of the requests under way.
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

    /// Serves to the end. While the node is isolated nothing is read and nothing sent.
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
                faults.pass_cable().await;
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
                    0 => FRAME_BYTES_MAX,
                    bytes => CLUSTER_BUFFER_BYTES_MAX.saturating_sub(bytes),
                };
                let frame = self.conduit.poll_frame(cx, room);
                self.note_received();
                if let Poll::Ready(frame) = frame {
                    self.take(cx, frame?)?;
                    continue;
                }
            }
            self.conduit.queue_receipt();
            let sent = self.conduit.poll_send(cx);
            if let Poll::Ready(sent) = sent {
                sent.map_err(Broken::from)?;
                if !reads && self.calls.len() < CLUSTER_CALLS_MAX {
                    // There is room again.
                    continue;
                }
            }
            ready!(self.poll_idle(cx));
            let detail = format!("nothing came for {CLUSTER_IDLE_TIME_MAX:?}");
            return Poll::Ready(Err(End::Left(detail)));
        }
    }

    fn note_received(&mut self) {
        let received_bytes = self.conduit.received_bytes();
        if received_bytes > self.received_bytes {
            (self.received_bytes, self.received_at) = (received_bytes, Instant::now());
        }
    }

    /// Ready when nothing came for too long.
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

    fn take(&mut self, cx: &mut Context<'_>, frame: Frame) -> Result<(), End> {
        match frame.front.kind {
            Kind::Request => self.call(cx, frame),
            Kind::Receipt => Ok(()),
            Kind::Refusal => Err(End::Left(framing::readable(&frame.body))),
            Kind::Response | Kind::Failure => {
                let detail = "an answer to nothing that was asked";
                Err(End::Refused(Refused::new(Why::Malformed, detail)))
            }
        }
    }

    /// Hands a request over before the next one is read: the node gets them in their order.
    fn call(&mut self, cx: &mut Context<'_>, frame: Frame) -> Result<(), End> {
        let (number, bytes) = (frame.front.number, frame.front.bytes);
        let request = wire::decode_request(frame.body)
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
                counters.note_believed(self.address.ip());
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
                let body = Bytes::from_static(&framing::FAILURE_INJECTED);
                self.conduit.queue(Kind::Failure, number, vec![body]);
            }
            Err(_) => return Err(End::Left("the node has stopped".to_owned())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

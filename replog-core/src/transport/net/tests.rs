//! Tests of both ends together: conformance, order, slow lines, and authentication.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::*;
use crate::{
    config::Peer,
    transport::{
        FaultInjector, FaultSettings, Network, Serve, Transport, TransportError,
        message::{Request, RequestBody},
        suite::{self, Bench, StandIn},
    },
    types::NodeName,
};

pub(super) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

pub(super) fn secret(byte: u8) -> ClusterSecret {
    ClusterSecret::from_bytes([byte; SECRET_BYTES])
}

/// Returns the identity of a node in the cluster whose secret all tests share.
pub(super) fn identity(text: &str) -> ClusterIdentity {
    ClusterIdentity::from_secret(&secret(7), &name(text)).unwrap()
}

/// A stand-in for a secondary behind a listener.
pub(super) struct Node {
    pub(super) stand_in: Arc<StandIn>,
    pub(super) counters: Arc<NetCounters>,
    pub(super) address: SocketAddr,
    _serving: Serving,
}

impl Node {
    pub(super) fn start() -> Node {
        Node::with(identity("secondary-1"), FaultInjector::new())
    }

    pub(super) fn with(identity: ClusterIdentity, faults: FaultInjector) -> Node {
        let stand_in = StandIn::new();
        let counters: Arc<NetCounters> = Arc::default();
        let options = ServeOptions::new(identity)
            .node(stand_in.clone())
            .faults(faults)
            .counters(counters.clone());
        let listener = ClusterListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let serving = listener.serve_here(options).unwrap();
        Node {
            stand_in,
            counters,
            address: serving.local_addr(),
            _serving: serving,
        }
    }

    pub(super) fn refused(&self, why: RefusedConnection) -> u64 {
        self.counters.snapshot().refused[why as usize].1
    }

    /// Waits until at least `count` connections were refused for this reason.
    pub(super) async fn has_refused(&self, why: RefusedConnection, count: u64) {
        eventually(|| self.refused(why) >= count).await;
    }

    pub(super) async fn has_streams(&self, count: u64) {
        eventually(|| self.counters.snapshot().streams == count).await;
    }
}

/// Polls until the condition holds; the test's own deadline ends it.
pub(super) async fn eventually(condition: impl Fn() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    while !condition() {
        tick.tick().await;
    }
}

pub(super) fn connect_as(identity: ClusterIdentity, address: impl ToString) -> Rc<dyn Transport> {
    connect_to(identity, "secondary-1", address)
}

pub(super) fn connect_to(
    identity: ClusterIdentity,
    peer: &str,
    address: impl ToString,
) -> Rc<dyn Transport> {
    let network = ClusterNetwork::new(identity, NetworkOptions::default());
    network.connect(&Peer {
        name: name(peer),
        address: address.to_string(),
    })
}

async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

mod with_tls {
    use super::*;

    async fn bench() -> Bench {
        super::bench(identity("master"), identity("secondary-1")).await
    }

    suite::conformance!(bench().await);
}

mod insecure {
    use super::*;

    async fn bench() -> Bench {
        let of = |text| ClusterIdentity::insecure(&name(text));
        super::bench(of("master"), of("secondary-1")).await
    }

    suite::conformance!(bench().await);
}

async fn bench(master: ClusterIdentity, secondary: ClusterIdentity) -> Bench {
    let node = Node::with(secondary, FaultInjector::new());
    Bench {
        transport: connect_as(master.clone(), node.address),
        nobody: connect_as(master, nobody().await),
        stand_in: node.stand_in.clone(),
        keep: Box::new(node),
    }
}

/// A node that records the kinds of its requests, in order.
struct Notes {
    stand_in: Arc<StandIn>,
    asked: std::sync::Mutex<Vec<&'static str>>,
}

impl Serve for Notes {
    fn serve(&self, request: Request) -> crate::transport::ServeFuture {
        self.asked.lock().unwrap().push(match request.body {
            RequestBody::Heartbeat(_) => "heartbeat",
            RequestBody::Append(_) => "append",
            _ => "other",
        });
        Box::pin(StandIn::serve(&self.stand_in, request))
    }
}

/// Starts a proxy that carries `bytes_per_second` in each direction, and joins and splits data arbitrarily.
async fn slow_line(to: SocketAddr, bytes_per_second: usize) -> SocketAddr {
    const PIECE_BYTES: usize = 16 << 10;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let piece_time = Duration::from_secs_f64(PIECE_BYTES as f64 / bytes_per_second as f64);
    tokio::task::spawn_local(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(to).await.unwrap();
            let (near, far) = (near.into_split(), far.into_split());
            for (mut from, mut to) in [(near.0, far.1), (far.0, near.1)] {
                tokio::task::spawn_local(async move {
                    let mut tick = tokio::time::interval(piece_time);
                    let mut piece = vec![0; PIECE_BYTES];
                    while let Ok(bytes @ 1..) = from.read(&mut piece).await {
                        tick.tick().await;
                        if to.write_all(&piece[..bytes]).await.is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown().await;
                });
            }
        }
    });
    address
}

/// Awaits a call as a link does: its timeout restarts whenever its bytes move.
async fn with_timeout(
    transport: &Rc<dyn Transport>,
    request: Request,
    time_max: Duration,
) -> Result<crate::transport::Response, TransportError> {
    let deadline = Rc::new(Cell::new(Instant::now() + time_max));
    let extended = Rc::clone(&deadline);
    let moved = Rc::new(move |_| extended.set(Instant::now() + time_max));
    let mut call = transport.call_observed(request, moved);
    loop {
        let at = deadline.get();
        match tokio::time::timeout_at(at, call.as_mut()).await {
            Ok(outcome) => return outcome,
            Err(_) if deadline.get() > at => {}
            Err(_) => return Err(TransportError::TimedOut),
        }
    }
}

#[test]
fn a_long_record_on_a_slow_line_arrives_and_so_do_the_heartbeats_behind_it() {
    suite::run(async {
        for identity in [identity as fn(&str) -> ClusterIdentity, |text| {
            ClusterIdentity::insecure(&name(text))
        }] {
            let node = Node::with(identity("secondary-1"), FaultInjector::new());
            let line = slow_line(node.address, 2 << 20).await;
            let transport = connect_as(identity("master"), line);
            // The connection is known to lead to an incarnation of the secondary.
            transport.call(suite::heartbeat(1)).await.unwrap();
            let time_max = Duration::from_secs(1);
            let began = Instant::now();
            let append = suite::long_append(5 << 20);
            let expected = suite::answer(append.clone());
            let (appended, heartbeat, fetched) = tokio::join!(
                biased;
                with_timeout(&transport, append, time_max),
                with_timeout(&transport, suite::heartbeat(2), time_max),
                with_timeout(&transport, suite::fetch(1 << 20), time_max),
            );
            assert_eq!(appended, Ok(expected));
            assert_eq!(heartbeat, Ok(suite::taken(2)));
            assert_eq!(fetched, Ok(suite::answer(suite::fetch(1 << 20))));
            assert!(began.elapsed() > 2 * time_max, "the line is not slow");
        }
    });
}

#[test]
fn a_message_that_takes_longer_than_every_timeout_reaches_a_node_that_stays_in_contact() {
    suite::run(async {
        let storage = || Arc::new(crate::storage::MemoryStorage::new());
        let config = crate::SecondaryConfig::new(name("secondary-1"));
        let secondary = crate::Secondary::start(config, storage()).await.unwrap();
        let listener = ClusterListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let options = ServeOptions::new(identity("secondary-1")).node(Arc::new(secondary.clone()));
        let serving = listener.serve_here(options).unwrap();
        let line = slow_line(serving.local_addr(), 2 << 20).await;
        let peer = Peer {
            name: name("secondary-1"),
            address: line.to_string(),
        };
        let mut config = crate::MasterConfig::new(name("master"), vec![peer]);
        config.max_message_bytes = 7 << 20;
        let longest = config
            .timing
            .unhealthy_after
            .max(config.timing.request_timeout);
        let network = ClusterNetwork::new(identity("master"), NetworkOptions::default());
        let master = crate::Master::start(config, storage(), Arc::new(network))
            .await
            .unwrap();
        master.wait_until_writable().await.unwrap();
        let began = Instant::now();
        let all = crate::AppendOptions::concern(crate::Concern::All);
        let mut append = std::pin::pin!(master.append(vec![b'x'; 7 << 20], all));
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        let receipt = loop {
            tokio::select! {
                receipt = &mut append => break receipt.unwrap(),
                _ = tick.tick() => {
                    let health = master.health().await.unwrap();
                    let status = health.secondaries[0].status;
                    assert_ne!(status, crate::Status::Unhealthy, "{health:?}");
                }
            }
        };
        assert!(receipt.concern_met);
        assert!(began.elapsed() > longest, "the line is not slow");
        master.stop().await;
        secondary.stop().await;
    });
}

#[test]
fn a_held_request_makes_no_progress() {
    suite::run(async {
        let node = Node::start();
        let transport = connect_as(identity("master"), node.address);
        transport.call(suite::heartbeat(1)).await.unwrap();
        let moved = Rc::new(Cell::new(0));
        let counted = Rc::clone(&moved);
        let observer = Rc::new(move |_| counted.set(counted.get() + 1));
        let mut held = transport.call_observed(suite::held_append(2), observer);
        suite::meanwhile(&mut held, node.stand_in.has_arrived(2)).await;
        // Answers to other requests show once that it has arrived; that the node is alive is progress of those
        // requests, not of this one.
        for end in 3..20 {
            transport.call(suite::heartbeat(end)).await.unwrap();
        }
        assert!(moved.get() <= 1, "{}", moved.get());
    });
}

#[test]
fn progress_names_the_incarnation_that_answered_on_the_same_connection() {
    suite::run(async {
        let node = Node::start();
        let line = slow_line(node.address, 8 << 20).await;
        let transport = connect_as(identity("master"), line);
        let named = Rc::new(RefCell::new(Vec::new()));
        let observe = || {
            let named = Rc::clone(&named);
            Rc::new(move |moved: crate::transport::BytesMoved| {
                named.borrow_mut().push(moved.incarnation);
            })
        };
        let long = || suite::long_append(2 << 20);
        transport.call_observed(long(), observe()).await.unwrap();
        let before = named.take();
        assert!(
            !before.is_empty() && before.iter().all(Option::is_none),
            "{before:?}"
        );
        let answered = transport.call_observed(long(), observe()).await.unwrap();
        let after = named.take();
        let expected = Some(answered.incarnation);
        assert!(
            !after.is_empty() && after.iter().all(|named| *named == expected),
            "{after:?}"
        );
    });
}

#[test]
fn an_answer_is_no_sign_of_life_for_other_requests() {
    suite::run(async {
        let node = Node::start();
        let transport = connect_as(identity("master"), node.address);
        transport.call(suite::heartbeat(1)).await.unwrap();
        let named = Rc::new(RefCell::new(Vec::new()));
        let observe = || {
            let named = Rc::clone(&named);
            Rc::new(move |moved: crate::transport::BytesMoved| {
                named.borrow_mut().push(moved.incarnation);
            })
        };
        // The answer may be a refusal, so only the answer itself counts for its request.
        let answered = transport.call_observed(suite::heartbeat(2), observe());
        answered.await.unwrap();
        assert_eq!(named.take(), []);
        let mut held = transport.call_observed(suite::held_append(3), observe());
        suite::meanwhile(&mut held, node.stand_in.has_arrived(3)).await;
        transport.call(suite::heartbeat(4)).await.unwrap();
        assert_eq!(named.take(), [None]);
    });
}

#[test]
fn requests_arrive_in_the_order_of_the_calls() {
    suite::run(async {
        let notes = Arc::new(Notes {
            stand_in: StandIn::new(),
            asked: Default::default(),
        });
        let listener = ClusterListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let options = ServeOptions::new(identity("secondary-1")).node(notes.clone());
        let serving = listener.serve_here(options).unwrap();
        let transport = connect_as(identity("master"), serving.local_addr());
        // Called before there is a connection, and polled in a different order.
        let mut calls = Vec::new();
        let mut expected = Vec::new();
        for end in 1..30 {
            let (request, what) = match end % 3 {
                0 => (
                    suite::append(suite::large_batch(crate::Offset(end))),
                    "append",
                ),
                1 => (suite::small_append(end), "append"),
                _ => (suite::heartbeat(end), "heartbeat"),
            };
            calls.push(transport.call(request));
            expected.push(what);
        }
        for call in calls.into_iter().rev() {
            call.await.unwrap();
        }
        assert_eq!(*notes.asked.lock().unwrap(), expected);
    });
}

#[test]
fn two_nodes_with_different_secrets_both_report_it() {
    suite::run(async {
        let node = Node::start();
        let other = ClusterIdentity::from_secret(&secret(8), &name("master")).unwrap();
        let other = other.kept_in(std::path::Path::new("/data/cluster.secret"));
        let transport = connect_as(other, node.address);
        for _ in 0..3 {
            let error = transport.call(suite::heartbeat(1)).await.unwrap_err();
            let TransportError::WrongSecret(text) = &error else {
                panic!("{error:?}");
            };
            assert!(
                text.contains("master the one in /data/cluster.secret"),
                "{text}"
            );
        }
        node.has_refused(RefusedConnection::WrongSecret, 3).await;
        assert_eq!(node.stand_in.arrived(), 0);
        let last = node.counters.last_refusal().unwrap();
        assert_eq!(last.address, node.address.ip());
        assert_eq!(last.reason, RefusedConnection::WrongSecret);
        assert!(
            last.detail.contains("different cluster secrets"),
            "{last:?}"
        );
        // Cleared as soon as a node at that address has a working stream.
        let transport = connect_as(identity("master"), node.address);
        transport.call(suite::heartbeat(1)).await.unwrap();
        assert_eq!(node.counters.last_refusal(), None);
    });
}

#[test]
fn a_node_at_the_address_of_another_gets_no_requests() {
    suite::run(async {
        let node = Node::start();
        let transport = connect_to(identity("master"), "secondary-2", node.address);
        let error = transport.call(suite::heartbeat(1)).await.unwrap_err();
        assert!(matches!(error, TransportError::WrongNode(_)), "{error:?}");
        assert!(
            error.to_string().contains("proves that it is secondary-1"),
            "{error}"
        );
        node.has_refused(RefusedConnection::WrongName, 1).await;
        // It is detected without certificates too.
        let of = |text| ClusterIdentity::insecure(&name(text));
        let node = Node::with(of("secondary-1"), FaultInjector::new());
        let transport = connect_to(of("master"), "secondary-2", node.address);
        let error = transport.call(suite::heartbeat(1)).await.unwrap_err();
        assert!(
            error.to_string().contains("this node is secondary-1"),
            "{error}"
        );
        assert_eq!(node.stand_in.arrived(), 0);
    });
}

#[test]
fn secure_and_insecure_nodes_report_the_mismatch() {
    suite::run(async {
        let insecure = |text| ClusterIdentity::insecure(&name(text));
        let node = Node::start();
        let transport = connect_as(insecure("master"), node.address);
        transport.call(suite::heartbeat(1)).await.unwrap_err();
        node.has_refused(RefusedConnection::OtherProtocol, 1).await;
        let node = Node::with(insecure("secondary-1"), FaultInjector::new());
        let transport = connect_as(identity("master"), node.address);
        transport.call(suite::heartbeat(1)).await.unwrap_err();
        node.has_refused(RefusedConnection::OtherProtocol, 1).await;
    });
}

#[test]
fn a_master_refuses_requests_with_the_reason() {
    suite::run(async {
        let listener = ClusterListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let options = ServeOptions::new(identity("master"));
        let serving = listener.serve_here(options).unwrap();
        let transport = connect_to(identity("secondary-1"), "master", serving.local_addr());
        let error = transport.call(suite::heartbeat(1)).await.unwrap_err();
        assert!(
            error.to_string().contains("master of a fixed cluster"),
            "{error}"
        );
    });
}

#[test]
fn an_isolated_node_is_silent_and_requests_in_flight_arrive_late() {
    suite::run(async {
        let faults = FaultInjector::new();
        let node = Node::with(identity("secondary-1"), faults.clone());
        let transport = connect_as(identity("master"), node.address);
        transport.call(suite::heartbeat(1)).await.unwrap();
        let isolate = FaultSettings {
            isolate: true,
            ..FaultSettings::default()
        };
        faults.set(isolate).unwrap();
        let mut held = transport.call(suite::heartbeat(2));
        // Neither an open stream nor a new connection is answered.
        let other = connect_as(identity("other"), node.address);
        let mut new = other.call(suite::heartbeat(3));
        let silent = tokio::time::timeout(Duration::from_millis(300), async {
            tokio::select! {
                _ = &mut held => {}
                _ = &mut new => {}
            }
        });
        assert!(silent.await.is_err());
        assert_eq!(node.stand_in.arrived(), 1);
        faults.clear();
        assert_eq!(held.await, Ok(suite::taken(2)));
        drop(new);
    });
}

#[test]
fn a_newer_connection_of_a_node_replaces_the_older() {
    suite::run(async {
        let node = Node::start();
        let first = connect_as(identity("master"), node.address);
        let mut held = first.call(suite::held_heartbeat(1));
        suite::meanwhile(&mut held, node.stand_in.has_arrived(1)).await;
        let second = connect_as(identity("master"), node.address);
        second.call(suite::heartbeat(2)).await.unwrap();
        assert!(held.await.is_err());
        let snapshot = node.counters.snapshot();
        assert_eq!((snapshot.replaced, snapshot.accepted), (1, 2));
        node.has_streams(1).await;
    });
}

#[test]
fn two_processes_of_one_name_do_not_end_each_others_streams() {
    suite::run(async {
        let node = Node::start();
        let first = connect_as(identity("master"), node.address);
        let second = connect_as(identity("master"), node.address);
        let of_another = |end| {
            let mut request = suite::heartbeat(end);
            request.incarnation.instance = crate::types::InstanceId::from_bytes([9; 16]);
            request
        };
        for end in 1..5 {
            first.call(suite::heartbeat(end)).await.unwrap();
            second.call(of_another(end)).await.unwrap();
        }
        let snapshot = node.counters.snapshot();
        assert_eq!((snapshot.replaced, snapshot.accepted), (0, 2));
        node.has_streams(2).await;
    });
}

#[test]
fn a_listener_that_stops_closes_its_streams() {
    suite::run(async {
        let stand_in = StandIn::new();
        let listener = ClusterListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr();
        let options = ServeOptions::new(identity("secondary-1")).node(stand_in.clone());
        let serving = listener.serve_here(options).unwrap();
        let transport = connect_as(identity("master"), address);
        let mut held = transport.call(suite::held_heartbeat(1));
        suite::meanwhile(&mut held, stand_in.has_arrived(1)).await;
        serving.stop().await;
        assert!(held.await.is_err());
        let refused = transport.call(suite::heartbeat(2)).await;
        assert_eq!(refused, Err(TransportError::ConnectionRefused));
        // The address is free again.
        ClusterListener::bind(address).unwrap();
    });
}

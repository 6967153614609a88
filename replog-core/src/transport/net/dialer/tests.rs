//! Tests with rogue and broken listeners at a node's address: what they learn, and what a caller is told.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    limits::CLUSTER_BUFFER_BYTES_MAX,
    transport::{
        net::{
            ClusterSecret,
            packet::{PACKET_HEADER_BYTES, PacketHeader},
            tests::{Node, connect_as, connect_to, eventually, identity, name, secret},
        },
        suite,
    },
    types::NodeName,
};

/// Starts a listener whose connections the test serves through `serve`, which gets their number from 0.
async fn rogue<F: Future<Output = ()> + 'static>(
    serve: impl Fn(usize, TcpStream) -> F + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        for count in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(serve(count, stream));
        }
    });
    address
}

fn insecure_call(address: SocketAddr) -> Rc<dyn Transport> {
    connect_as(ClusterIdentity::insecure(&name("master")), address)
}

/// Returns a line without a transport.
fn line(address: &str) -> Line {
    Line {
        peer: Peer {
            name: name("secondary-1"),
            address: address.to_owned(),
        },
        identity: identity("master"),
        options: NetworkOptions::default(),
        resolver: Rc::default(),
        logged_failure: RefCell::default(),
        state: RefCell::default(),
    }
}

/// Returns a request that waits for its turn, and the receiver of its answer.
fn waiting(parts: Vec<Bytes>) -> (Pending, oneshot::Receiver<Outcome>) {
    let (answer_to, answer) = oneshot::channel();
    let pending = Pending {
        parts,
        answer_to,
        moved: Rc::new(|_| {}),
        taken_at: None,
        sent_end: None,
        on_reused: false,
        sent_again: false,
    };
    (pending, answer)
}

/// Reads a preamble and accepts it.
async fn welcome(stream: &mut TcpStream) {
    let mut preamble = BytesMut::new();
    while packet::Preamble::decode(&preamble).unwrap().is_none() {
        assert_ne!(stream.read_buf(&mut preamble).await.unwrap(), 0);
    }
    let reply = packet::encode_reply(&Ok(packet::VERSION_MAX));
    stream.write_all(&reply).await.unwrap();
}

/// Reads a request; returns `None` at the end of the stream.
async fn read_request(stream: &mut TcpStream) -> Option<(u64, Request)> {
    let mut header = [0; PACKET_HEADER_BYTES];
    stream.read_exact(&mut header).await.ok()?;
    let header = PacketHeader::decode(&header).unwrap();
    let mut body = vec![0; header.bytes];
    stream.read_exact(&mut body).await.ok()?;
    Some((header.number, wire::decode_request(body.into()).unwrap()))
}

async fn respond(stream: &mut TcpStream, number: u64, response: &Response) {
    let body = wire::encode_response(response).concat();
    let header = PacketHeader {
        bytes: body.len(),
        kind: Kind::Response,
        number,
        received: 0,
    };
    // An error means that the caller is gone.
    let _ = stream
        .write_all(&[&header.encode()[..], &body].concat())
        .await;
}

#[test]
fn a_rogue_with_another_secret_learns_nothing() {
    suite::run(async {
        let other = ClusterIdentity::from_secret(&secret(8), &name("secondary-1")).unwrap();
        let server: Arc<ServerConfig> = other.credentials().unwrap().server();
        let learnt: Rc<RefCell<Vec<String>>> = Rc::default();
        let notes = Rc::clone(&learnt);
        let address = rogue(move |_, stream| {
            let (acceptor, notes) = (TlsAcceptor::from(Arc::clone(&server)), Rc::clone(&notes));
            async move {
                let note = match acceptor.accept(stream).await {
                    Ok(_) => "it spoke to me".to_owned(),
                    Err(error) => error.to_string(),
                };
                notes.borrow_mut().push(note);
            }
        })
        .await;
        let transport = connect_as(identity("master"), address);
        let error = transport.call(suite::heartbeat(1)).await.unwrap_err();
        assert!(matches!(error, TransportError::WrongSecret(_)), "{error:?}");
        eventually(|| !learnt.borrow().is_empty()).await;
        // It was told that its certificate is unknown before the node showed one.
        let learnt = learnt.borrow();
        assert!(learnt[0].contains("UnknownCA"), "{learnt:?}");
    });
}

#[test]
fn listeners_that_are_not_nodes_are_reported_by_kind() {
    suite::run(async {
        let http = rogue(|_, mut stream| async move {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.read(&mut [0; 1000]).await;
        });
        let http = http.await;
        let error = connect_as(identity("master"), http)
            .call(suite::heartbeat(1))
            .await;
        assert!(
            matches!(error, Err(TransportError::BadAnswer(_))),
            "{error:?}"
        );
        let error = insecure_call(http).call(suite::heartbeat(1)).await;
        assert!(
            matches!(error, Err(TransportError::BadAnswer(_))),
            "{error:?}"
        );
        let closing = rogue(|_, stream| async move { drop(stream) }).await;
        for transport in [
            connect_as(identity("master"), closing),
            insecure_call(closing),
        ] {
            let error = transport.call(suite::heartbeat(1)).await;
            assert!(
                matches!(error, Err(TransportError::Connection(_))),
                "{error:?}"
            );
        }
        let refusing = rogue(|_, mut stream| async move {
            let reply = packet::encode_reply(&Err("not today\n".to_owned()));
            let _ = stream.write_all(&reply).await;
            let _ = stream.read(&mut [0; 1000]).await;
        });
        let error = insecure_call(refusing.await)
            .call(suite::heartbeat(1))
            .await;
        assert_eq!(error, Err(TransportError::Refused("not today ".to_owned())));
    });
}

#[test]
fn invalid_answers_end_the_connection() {
    suite::run(async {
        let connections = Rc::new(AtomicUsize::new(0));
        let counted = Rc::clone(&connections);
        let address = rogue(move |count, mut stream| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                welcome(&mut stream).await;
                let Some((number, request)) = read_request(&mut stream).await else {
                    return;
                };
                let mut header = vec![0; PACKET_HEADER_BYTES];
                match count {
                    // A huge length, an unknown kind, a request, garbage after a valid packet header.
                    0 => header[..5].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 2]),
                    1 => header[4] = 77,
                    2 => header[4] = 1,
                    3 => header[..5].copy_from_slice(&[0, 0, 0, 0, 2]),
                    // More bytes received than were sent; an answer to a request that was never sent.
                    4 => {
                        header[4] = 4;
                        header[16..].copy_from_slice(&(1_u64 << 40).to_le_bytes());
                    }
                    5 => {
                        respond(&mut stream, number + 1, &suite::answer(request)).await;
                        let _ = read_request(&mut stream).await;
                        return;
                    }
                    // An answer in the name of another node.
                    _ => {
                        let mut response = suite::answer(request);
                        response.name = name("secondary-2");
                        respond(&mut stream, number, &response).await;
                        let _ = read_request(&mut stream).await;
                        return;
                    }
                }
                let _ = stream.write_all(&header).await;
                let _ = read_request(&mut stream).await;
            }
        })
        .await;
        let transport = insecure_call(address);
        for count in 1..=6 {
            let error = transport.call(suite::heartbeat(1)).await;
            assert!(
                matches!(error, Err(TransportError::BadAnswer(_))),
                "{error:?}"
            );
            assert_eq!(connections.load(Ordering::SeqCst), count);
        }
        let error = transport.call(suite::heartbeat(1)).await;
        assert!(
            matches!(error, Err(TransportError::WrongNode(_))),
            "{error:?}"
        );
    });
}

#[test]
fn requests_on_a_reused_connection_that_closes_are_sent_once_more_in_order() {
    suite::run(async {
        let asked: Arc<Mutex<Vec<(usize, u64)>>> = Arc::default();
        let notes = Arc::clone(&asked);
        let address = rogue(move |count, mut stream| {
            let notes = Arc::clone(&notes);
            async move {
                welcome(&mut stream).await;
                let mut served = 0;
                while let Some((number, request)) = read_request(&mut stream).await {
                    notes.lock().unwrap().push((count, number));
                    served += 1;
                    match count {
                        // The first one answers once, swallows three requests and closes.
                        0 if served == 1 => {}
                        0 if served < 4 => continue,
                        0 => return,
                        _ => {}
                    }
                    respond(&mut stream, number, &suite::answer(request)).await;
                }
            }
        })
        .await;
        let transport = insecure_call(address);
        transport.call(suite::heartbeat(1)).await.unwrap();
        let calls: Vec<_> = (2..5)
            .map(|end| transport.call(suite::heartbeat(end)))
            .collect();
        for (call, end) in calls.into_iter().zip(2..) {
            assert_eq!(call.await, Ok(suite::taken(end)));
        }
        let expected = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)];
        assert_eq!(*asked.lock().unwrap(), expected);
    });
}

#[test]
fn a_connection_that_swallows_a_request_is_abandoned_with_it() {
    suite::run(async {
        let address = rogue(|count, mut stream| async move {
            welcome(&mut stream).await;
            while let Some((number, request)) = read_request(&mut stream).await {
                if count > 0 {
                    respond(&mut stream, number, &suite::answer(request)).await;
                }
            }
        })
        .await;
        let transport = insecure_call(address);
        let swallowed = transport.call(suite::heartbeat(1));
        let abandoned = tokio::time::timeout(3 * SILENCE_MIN, swallowed).await;
        assert!(abandoned.is_err());
        assert_eq!(
            transport.call(suite::heartbeat(2)).await,
            Ok(suite::taken(2))
        );
    });
}

#[test]
fn a_node_that_holds_a_request_but_answers_others_keeps_its_connection() {
    suite::run(async {
        let node = Node::start();
        let transport = connect_as(identity("master"), node.address);
        let mut held = transport.call(suite::held_append(1));
        suite::meanwhile(&mut held, node.stand_in.has_arrived(1)).await;
        let patience = tokio::time::sleep(2 * SILENCE_MIN);
        tokio::pin!(patience);
        let mut end = 2;
        loop {
            tokio::select! {
                biased;
                () = &mut patience => break,
                answered = transport.call(suite::heartbeat(end)) => answered.unwrap(),
            };
            end += 1;
        }
        drop(held);
        transport.call(suite::heartbeat(end)).await.unwrap();
        assert_eq!(node.counters.snapshot().accepted, 1);
    });
}

#[test]
fn a_name_without_an_address_is_reported_as_unresolved() {
    suite::run(async {
        let transport = connect_as(identity("master"), "no-such-node.invalid:6000");
        let error = transport.call(suite::heartbeat(1)).await.unwrap_err();
        let TransportError::NameNotResolved(text) = &error else {
            panic!("{error:?}");
        };
        assert!(text.contains("no-such-node.invalid"), "{text}");
        let transport = connect_as(identity("master"), "no port");
        let error = transport.call(suite::heartbeat(1)).await;
        assert!(
            matches!(error, Err(TransportError::Connection(_))),
            "{error:?}"
        );
    });
}

#[test]
fn a_look_up_that_outlasts_an_attempt_serves_a_later_one_and_runs_alone() {
    suite::run(async {
        let node = Node::start();
        let (address, look_ups) = (node.address, Arc::new(AtomicUsize::new(0)));
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (counted, released) = (Arc::clone(&look_ups), Mutex::new(released));
        let mut line = line("slow.example:1");
        line.options.connect_timeout = Duration::from_millis(40);
        line.resolver = Rc::new(RefCell::new(Resolver::with_look_up(Arc::new(
            move |_, _| {
                counted.fetch_add(1, Ordering::SeqCst);
                released.lock().unwrap().recv().unwrap();
                Ok(vec![address])
            },
        ))));
        let transport = ClusterTransport(Rc::new(line));
        for _ in 0..3 {
            let error = transport.call(suite::heartbeat(1)).await;
            assert!(
                matches!(error, Err(TransportError::NameNotResolved(_))),
                "{error:?}"
            );
        }
        release.send(()).unwrap();
        while transport.call(suite::heartbeat(2)).await.is_err() {}
        assert_eq!(look_ups.load(Ordering::SeqCst), 1);
    });
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_abandoned_only_if_nothing_arrived_since_the_request() {
    // The time since bytes last arrived when the request is abandoned; it was sent 10 * SILENCE_MIN ago.
    let cases = [
        (None, true),
        (Some(SILENCE_MIN / 2), false),
        (Some(3 * SILENCE_MIN), false),
        (Some(10 * SILENCE_MIN), true),
        (Some(11 * SILENCE_MIN), true),
    ];
    tokio::time::advance(20 * SILENCE_MIN).await;
    let now = Instant::now();
    for (received_ago, expected) in cases {
        let mut state = State {
            last_received_at: received_ago.map(|ago| now - ago),
            ..State::default()
        };
        let (mut pending, _answer) = waiting(Vec::new());
        pending.taken_at = Some(now - 10 * SILENCE_MIN);
        state.pending.insert(0, pending);
        state.abandon(0);
        assert_eq!(state.abandoned, expected, "{received_ago:?}");
    }
}

#[test]
fn a_peer_that_closes_a_connection_before_any_request_is_not_redialled_at_once() {
    suite::run(async {
        let connections = Rc::new(Cell::new(0));
        let counted = Rc::clone(&connections);
        let address = rogue(move |_, mut stream| {
            counted.set(counted.get() + 1);
            async move {
                // In one piece, so that the dialer sees the end together with the beginning.
                let refusal = PacketHeader {
                    bytes: 7,
                    kind: Kind::Refusal,
                    number: 0,
                    received: 0,
                };
                let mut bytes = packet::encode_reply(&Ok(packet::VERSION_MAX));
                bytes.extend_from_slice(&refusal.encode());
                bytes.extend_from_slice(b"not now");
                let _ = stream.write_all(&bytes).await;
                let _ = stream.read(&mut [0; 1000]).await;
            }
        })
        .await;
        let transport = insecure_call(address);
        for count in 1..=3 {
            let refused = transport.call(suite::heartbeat(1)).await;
            assert_eq!(refused, Err(TransportError::Refused("not now".to_owned())));
            assert_eq!(connections.get(), count);
        }
    });
}

#[test]
fn requests_beyond_the_limit_wait_for_room_in_their_order() {
    suite::run(async {
        let address = rogue(|_, stream| async move {
            let _stream = stream;
            std::future::pending::<()>().await;
        });
        let stream = TcpStream::connect(address.await).await.unwrap();
        let conduit = Conduit::new(Wire::Plain(stream), BytesMut::new(), Arc::default());
        let mut connection = Connection::new(conduit);
        // The first one is queued whatever its length.
        let longest = Bytes::from(vec![0; CLUSTER_BUFFER_BYTES_MAX + 1]);
        assert!(connection.conduit.has_room_for(&[longest]));
        let line = line("127.0.0.1:1");
        // Never touched, so it takes no memory.
        let long = Bytes::from(vec![0; CLUSTER_BUFFER_BYTES_MAX / 2]);
        let mut answers = Vec::new();
        for (number, part) in (0..).zip([long.clone(), long.clone(), Bytes::from_static(b"short")])
        {
            let (pending, answer) = waiting(vec![part]);
            line.state.borrow_mut().pending.insert(number, pending);
            answers.push(answer);
        }
        connection.queue(&line).unwrap();
        let state = line.state.borrow();
        let sent: Vec<bool> = state
            .pending
            .values()
            .map(|pending| pending.sent_end.is_some())
            .collect();
        assert_eq!(sent, [true, false, false]);
        assert!(
            state
                .pending
                .values()
                .all(|pending| pending.taken_at.is_some())
        );
        assert!(connection.conduit.outgoing_bytes() <= CLUSTER_BUFFER_BYTES_MAX);
    });
}

#[test]
fn localhost_is_reached_whichever_address_it_resolves_to() {
    suite::run(async {
        let node = Node::start();
        let address = format!("localhost:{}", node.address.port());
        let transport = connect_as(identity("master"), address);
        assert_eq!(
            transport.call(suite::heartbeat(1)).await,
            Ok(suite::taken(1))
        );
    });
}

#[tokio::test(start_paused = true)]
async fn dialling_a_silent_listener_times_out() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let silent = rogue(|_, stream| async move {
                let _stream = stream;
                std::future::pending::<()>().await;
            });
            let silent = silent.await;
            for transport in [
                connect_as(identity("master"), silent),
                insecure_call(silent),
            ] {
                let error = transport.call(suite::heartbeat(1)).await;
                assert_eq!(error, Err(TransportError::TimedOut));
            }
        })
        .await;
}

#[test]
fn the_same_failure_is_logged_once_and_again_after_it_was_over() {
    let line = line("127.0.0.1:1");
    let wrong = TransportError::WrongSecret("they differ".to_owned());
    let logged_failure = |error: Option<&TransportError>| line.log_failure(error);
    assert!(logged_failure(Some(&wrong)));
    assert!(!logged_failure(Some(&wrong)));
    assert!(!logged_failure(Some(&TransportError::TimedOut)));
    assert!(!logged_failure(Some(&wrong)));
    assert!(!logged_failure(None));
    assert!(logged_failure(Some(&wrong)));
}

#[test]
fn a_network_is_send_and_sync_and_a_dropped_transport_leaves_nothing() {
    fn anywhere<T: Send + Sync + 'static>() {}
    anywhere::<ClusterNetwork>();
    anywhere::<ClusterSecret>();
    anywhere::<ClusterIdentity>();
    anywhere::<NodeName>();
    suite::run(async {
        // If it is dropped while it connects, nothing is left.
        let address = rogue(|_, mut stream| async move {
            while let Ok(1..) = stream.read(&mut [0; 1000]).await {}
        });
        let transport = connect_to(identity("master"), "secondary-1", address.await);
        let mut call = transport.call(suite::heartbeat(1));
        assert!(suite::is_pending(&mut call).await);
        drop(call);
        drop(transport);
    });
}

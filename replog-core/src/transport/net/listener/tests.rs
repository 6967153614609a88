//! Tests with strangers, rogues, browsers and broken nodes at a listener: what they get, and what they cost.

use std::{sync::Mutex, time::Duration};

use bytes::BytesMut;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_rustls::{TlsConnector, client};

use super::*;
use crate::limits::{
    CLUSTER_HANDSHAKE_BURST, CLUSTER_HANDSHAKE_INTERVAL, CLUSTER_HANDSHAKE_INTERVAL_OF_ADDRESS,
};
use crate::transport::{
    net::{
        packet::{PACKET_HEADER_BYTES, PacketHeader},
        tests::{Node, connect_as, eventually, identity, name, secret},
    },
    suite,
};

async fn connect(node: &Node) -> TcpStream {
    TcpStream::connect(node.address).await.unwrap()
}

/// Reads everything until the other end closes.
async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset counts as closing.
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

/// Opens a stream of an insecure node, past its preamble.
async fn insecure_stream(node: &Node, from: &str) -> TcpStream {
    let mut stream = connect(node).await;
    let preamble = Preamble::new(name(from), name("secondary-1"));
    stream.write_all(&preamble.encode()).await.unwrap();
    let mut reply = [0; 8];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply, *b"RPLN\x02\0\0\0");
    stream
}

fn insecure_node() -> Node {
    let identity = ClusterIdentity::insecure(&name("secondary-1"));
    Node::with(identity, FaultInjector::new())
}

fn request_packet(number: u64, request: &crate::transport::Request) -> Vec<u8> {
    let body = wire::encode_request(request).concat();
    let header = PacketHeader {
        bytes: body.len(),
        kind: Kind::Request,
        number,
        received: 0,
    };
    [&header.encode()[..], &body].concat()
}

async fn read_packet(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> (PacketHeader, Vec<u8>) {
    let mut header = [0; PACKET_HEADER_BYTES];
    stream.read_exact(&mut header).await.unwrap();
    let header = PacketHeader::decode(&header).unwrap();
    let mut body = vec![0; header.bytes];
    stream.read_exact(&mut body).await.unwrap();
    (header, body)
}

/// A TLS client that trusts every server, and records the certificate it saw.
#[derive(Debug, Default)]
struct Credulous(Mutex<Option<CertificateDer<'static>>>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = Some(certificate.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("only TLS 1.3 is spoken")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Returns a stranger's TLS connector, with the identity of `owner` or none.
fn stranger(owner: Option<&ClusterIdentity>, alpn: &[&[u8]]) -> TlsConnector {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous::default()));
    let mut config = match owner {
        None => builder.with_no_client_auth(),
        Some(owner) => {
            let (chain, key) = owner.credentials().unwrap().certificate_and_key();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn tls(node: &Node, connector: &TlsConnector) -> io::Result<client::TlsStream<TcpStream>> {
    let nobody = ServerName::try_from("node.invalid").unwrap();
    connector.connect(nobody, connect(node).await).await
}

/// Returns the answer to a stranger that sends `preamble` after TLS: nothing, or a sentence.
async fn said_after_tls(node: &Node, owner: Option<&ClusterIdentity>, preamble: &[u8]) -> Vec<u8> {
    let connector = stranger(owner, &[identity::ALPN]);
    let Ok(mut stream) = tls(node, &connector).await else {
        return Vec::new();
    };
    // An error means that it has already been refused.
    let _ = stream.write_all(preamble).await;
    let _ = stream.flush().await;
    rest(&mut stream).await
}

#[test]
fn browsers_and_http_clients_only_learn_which_address_to_use() {
    suite::run(async {
        let node = Node::start();
        let requests = [
            "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "GET /replication/v1/stream HTTP/1.1\r\nHost: a\r\nOrigin: http://evil.example\r\n\
             Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-Fetch-Mode: websocket\r\n\r\n",
            "POST /replication/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ];
        for request in requests {
            let mut stream = connect(&node).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = String::from_utf8(rest(&mut stream).await).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 400 "), "{request}: {answer}");
            let length = format!("content-length: {}\r\n", body.len());
            assert!(head.contains(&length), "{request}: {answer}");
            // The same for every request: nothing about the node.
            let sentence = "this port is for the other nodes of the cluster: clients use the node's other port\n";
            assert_eq!(body, sentence, "{request}");
        }
        node.has_refused(Why::Http, 4).await;
        // A browser with an https URL.
        for alpn in [&[&b"h2"[..], b"http/1.1"][..], &[]] {
            assert!(tls(&node, &stranger(None, alpn)).await.is_err());
        }
        node.has_refused(Why::OtherProtocol, 2).await;
        assert_eq!(node.stand_in.arrived(), 0);
    });
}

#[test]
fn garbage_gets_nothing() {
    suite::run(async {
        let node = Node::start();
        for bytes in [
            &[0_u8; 100][..],
            b"\x16\x03\x01\xff\xff",
            &[0x16; 5000],
            b"\x80\x2e\x01",
        ] {
            let mut stream = connect(&node).await;
            stream.write_all(bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            // At most a TLS alert that says that the bytes are not understood.
            assert!(rest(&mut stream).await.len() <= 7, "{bytes:?}");
        }
        eventually(|| node.refused(Why::Garbage) + node.refused(Why::Handshake) == 4).await;
        assert_eq!(node.stand_in.arrived(), 0);
    });
}

#[test]
fn without_a_certificate_of_the_cluster_nothing_is_answered() {
    suite::run(async {
        let node = Node::start();
        let preamble = Preamble::new(name("master"), name("secondary-1")).encode();
        assert_eq!(said_after_tls(&node, None, &preamble).await, b"");
        node.has_refused(Why::Handshake, 1).await;
        // Regardless of the certificate's issuer and content.
        let rogue = ClusterIdentity::from_secret(&secret(8), &name("master")).unwrap();
        assert_eq!(said_after_tls(&node, Some(&rogue), &preamble).await, b"");
        node.has_refused(Why::WrongSecret, 1).await;
        assert_eq!(node.counters.snapshot().accepted, 0);
        assert_eq!(node.stand_in.arrived(), 0);
    });
}

#[test]
fn a_node_cannot_speak_in_the_name_of_another() {
    suite::run(async {
        let node = Node::start();
        let one = identity("secondary-2");
        let as_master = Preamble::new(name("master"), name("secondary-1")).encode();
        let said = said_after_tls(&node, Some(&one), &as_master).await;
        let text = String::from_utf8_lossy(&said);
        assert!(text.contains("does not prove that it is master"), "{text}");
        node.has_refused(Why::WrongName, 1).await;
        // Nor on its own stream.
        let transport = connect_as(one, node.address);
        let forged = suite::heartbeat(1);
        assert_eq!(forged.from, name("master"));
        let refused = transport.call(forged).await.unwrap_err();
        assert!(
            refused.to_string().contains("in the name of master"),
            "{refused}"
        );
        node.has_refused(Why::WrongName, 2).await;
        node.has_streams(0).await;
        assert_eq!(node.stand_in.arrived(), 0);
    });
}

#[test]
fn a_node_does_not_connect_to_itself() {
    suite::run(async {
        let node = Node::start();
        let transport = connect_as(identity("secondary-1"), node.address);
        let refused = transport.call(suite::heartbeat(1)).await.unwrap_err();
        assert!(
            refused.to_string().contains("connects to itself"),
            "{refused}"
        );
    });
}

#[test]
fn another_version_is_refused_with_an_error_that_names_both() {
    suite::run(async {
        let node = insecure_node();
        let mut stream = connect(&node).await;
        let newer = Preamble {
            version_min: 7,
            version_max: 9,
            ..Preamble::new(name("master"), name("secondary-1"))
        };
        stream.write_all(&newer.encode()).await.unwrap();
        let reply = rest(&mut stream).await;
        let (reply, _) = packet::decode_reply(&reply).unwrap().unwrap();
        let why = reply.unwrap_err();
        assert!(
            why.contains("master speaks 7 to 9, this node 2 to 2"),
            "{why}"
        );
        node.has_refused(Why::Version, 1).await;
    });
}

#[test]
fn packets_may_be_split_and_joined_anywhere() {
    suite::run(async {
        let node = insecure_node();
        let mut stream = insecure_stream(&node, "master").await;
        stream.set_nodelay(true).unwrap();
        let requests = [
            suite::heartbeat(1),
            suite::small_append(2),
            suite::heartbeat(3),
        ];
        let packets: Vec<u8> = (0..)
            .zip(&requests)
            .flat_map(|(number, request)| request_packet(number, request))
            .collect();
        // All at once, then byte by byte.
        stream.write_all(&packets).await.unwrap();
        for byte in &packets {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answers = Vec::new();
        while answers.len() < 6 {
            let (header, body) = read_packet(&mut stream).await;
            if header.kind == Kind::Receipt {
                continue;
            }
            assert_eq!(header.kind, Kind::Response);
            let response = wire::decode_response(body.into()).unwrap();
            assert_eq!(
                response,
                suite::answer(requests[header.number as usize].clone())
            );
            answers.push(header.number);
        }
        assert_eq!(answers, [0, 1, 2, 0, 1, 2]);
    });
}

#[test]
fn invalid_packets_end_the_stream_with_the_reason() {
    suite::run(async {
        let node = insecure_node();
        let header = |kind: u8, bytes: u32| {
            let mut header = vec![0; PACKET_HEADER_BYTES];
            header[..4].copy_from_slice(&bytes.to_le_bytes());
            header[4] = kind;
            header
        };
        let mut damaged = request_packet(0, &suite::heartbeat(1));
        *damaged.last_mut().unwrap() ^= 1;
        let cases = [
            header(1, u32::MAX),
            header(9, 0),
            header(2, 0),
            header(3, 0),
            header(1, 0),
            damaged,
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        ];
        for (count, bytes) in (1..).zip(cases) {
            let mut stream = insecure_stream(&node, "master").await;
            stream.write_all(&bytes).await.unwrap();
            let (header, reason) = read_packet(&mut stream).await;
            assert_eq!(header.kind, Kind::Refusal, "{bytes:?}");
            assert!(!reason.is_empty());
            assert_eq!(rest(&mut stream).await, b"");
            node.has_refused(Why::Malformed, count).await;
        }
        assert_eq!(node.stand_in.arrived(), 0);
    });
}

#[test]
fn memory_grows_with_received_bytes_and_not_with_a_claimed_length() {
    suite::run(async {
        let header = PacketHeader {
            bytes: PACKET_BYTES_MAX,
            kind: Kind::Request,
            number: 0,
            received: 0,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        far.write_all(&header.encode()).await.unwrap();
        far.write_all(&[0; 1000]).await.unwrap();
        let wire = Wire::Plain(listener.accept().await.unwrap().0);
        let mut conduit = Conduit::new(wire, BytesMut::new(), Arc::default());
        let read = poll_fn(|cx| {
            assert!(conduit.poll_packet(cx, PACKET_BYTES_MAX).is_pending());
            match conduit.received_bytes() == PACKET_HEADER_BYTES as u64 + 1000 {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        read.await;
        assert!(
            conduit.buffered_capacity() < 4 << 20,
            "{}",
            conduit.buffered_capacity()
        );
    });
}

#[test]
fn a_packet_that_does_not_fit_next_to_others_waits() {
    suite::run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let packet = request_packet(1, &suite::append(suite::large_batch(crate::Offset(1))));
        let body_bytes = packet.len() - PACKET_HEADER_BYTES;
        tokio::task::spawn_local(async move {
            far.write_all(&packet).await.unwrap();
            std::future::pending::<()>().await;
        });
        let wire = Wire::Plain(listener.accept().await.unwrap().0);
        let mut conduit = Conduit::new(wire, BytesMut::new(), Arc::default());
        let front_is_there = poll_fn(|cx| {
            assert!(conduit.poll_packet(cx, body_bytes - 1).is_pending());
            match conduit.received_bytes() >= PACKET_HEADER_BYTES as u64 {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        front_is_there.await;
        let whole = poll_fn(|cx| conduit.poll_packet(cx, body_bytes))
            .await
            .unwrap();
        assert_eq!(whole.body.len(), body_bytes);
    });
}

#[test]
fn silent_connections_keep_no_node_out() {
    suite::run(async {
        let node = Node::start();
        let mut silent = Vec::new();
        for _ in 0..2 * CLUSTER_HANDSHAKES_MAX {
            silent.push(connect(&node).await);
        }
        let transport = connect_as(identity("master"), node.address);
        assert_eq!(
            transport.call(suite::heartbeat(1)).await,
            Ok(suite::taken(1))
        );
        let snapshot = node.counters.snapshot();
        assert!(
            snapshot.handshakes <= CLUSTER_HANDSHAKES_MAX as u64,
            "{snapshot:?}"
        );
        node.has_refused(Why::TooMany, CLUSTER_HANDSHAKES_MAX as u64)
            .await;
        // The oldest ones are closed.
        assert_eq!(rest(&mut silent[0]).await, b"");
    });
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_proves_nothing_is_closed_after_the_time_limit() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let node = Node::start();
            // Nothing, and part of a TLS hello that goes no further.
            for bytes in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00"] {
                let began = Instant::now();
                let mut stream = connect(&node).await;
                stream.write_all(bytes).await.unwrap();
                assert_eq!(rest(&mut stream).await, b"");
                let took = began.elapsed();
                assert!(
                    took <= CLUSTER_HANDSHAKE_TIME_MAX + Duration::from_secs(1),
                    "{took:?}"
                );
            }
            node.has_refused(Why::TimedOut, 2).await;
        })
        .await;
}

#[tokio::test]
async fn a_silent_stream_is_closed() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let began = Instant::now();
            let node = insecure_node();
            let mut stream = insecure_stream(&node, "master").await;
            node.has_streams(1).await;
            // From here on nothing is in flight that a paused clock could overtake.
            tokio::time::pause();
            assert_eq!(rest(&mut stream).await, b"");
            assert!(began.elapsed() >= CLUSTER_IDLE_TIME_MAX);
            node.has_streams(0).await;
        })
        .await;
}

#[test]
fn refusals_are_logged_once_for_each_address_and_in_limited_number() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _in_it = runtime.enter();
    let address = |n: u8| IpAddr::from([10, 0, 0, n]);
    let mut log = RefusalLog::new();
    assert!(log.is_news(address(1), Why::WrongSecret));
    assert!(!log.is_news(address(1), Why::WrongSecret));
    assert!(log.is_news(address(1), Why::Http));
    log.forget(address(1));
    assert!(log.is_news(address(1), Why::Http));
    let told = (2..=200)
        .filter(|n| log.is_news(address(*n), Why::Garbage))
        .count();
    assert_eq!(told as u32, REFUSALS_LOGGED_MAX - 3);
    assert!(log.last.len() <= REFUSED_ADDRESSES_MAX);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_refusal_is_forgotten_and_not_the_lowest_address() {
    let mut log = RefusalLog::new();
    let address = |n: usize| IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()]);
    let instance = |n: usize| InstanceId::from_bytes([u8::try_from(n).unwrap(); 16]);
    // The lowest is the newest, and is refused again and again.
    for n in (1..=REFUSED_ADDRESSES_MAX + 1).rev() {
        tokio::time::advance(REFUSALS_LOGGED_TIME).await;
        assert!(log.is_news(address(n), Why::Garbage), "{n}");
        assert!(log.is_news_of_rivals(instance(n), instance(0)), "{n}");
    }
    for more in 100..100 + REFUSED_ADDRESSES_MAX {
        tokio::time::advance(REFUSALS_LOGGED_TIME).await;
        assert!(!log.is_news(address(1), Why::Garbage), "before {more}");
        assert!(log.is_news(address(more), Why::Garbage));
    }
    assert!(!log.is_news_of_rivals(instance(1), instance(0)));
    let oldest = REFUSED_ADDRESSES_MAX + 1;
    assert!(log.is_news_of_rivals(instance(oldest), instance(0)));
    assert!(log.is_news(address(oldest), Why::Garbage));
    assert_eq!(log.last.len(), REFUSED_ADDRESSES_MAX);
    assert_eq!(log.rivals.len(), REFUSED_ADDRESSES_MAX);
}

/// A node that has promised every epoch for which it is contacted.
struct Promising(Arc<crate::transport::suite::StandIn>);

impl Serve for Promising {
    fn serve(&self, request: Request) -> crate::transport::ServeFuture {
        let (promised, answer) = (request.epoch, self.0.serve(request));
        Box::pin(async move {
            let mut response = answer.await?;
            response.state.promised = promised;
            Ok(response)
        })
    }
}

#[test]
fn a_long_record_of_a_fenced_master_is_read_no_further() {
    suite::run(async {
        let listener = ClusterListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let options = ServeOptions::new(ClusterIdentity::insecure(&name("secondary-1")))
            .node(Arc::new(Promising(suite::StandIn::new())));
        let serving = listener.serve_here(options).unwrap();
        let open = async |instance: u8, epoch: u64| {
            let mut stream = TcpStream::connect(serving.local_addr()).await.unwrap();
            let preamble = Preamble::new(name("master"), name("secondary-1"));
            stream.write_all(&preamble.encode()).await.unwrap();
            stream.read_exact(&mut [0; 8]).await.unwrap();
            let mut request = suite::heartbeat(1);
            request.incarnation.instance = InstanceId::from_bytes([instance; 16]);
            request.epoch = Epoch(epoch);
            let packet = request_packet(0, &request);
            stream.write_all(&packet).await.unwrap();
            assert_eq!(read_packet(&mut stream).await.0.kind, Kind::Response);
            stream
        };
        let mut old = open(1, 5).await;
        let long = request_packet(1, &suite::long_append(1 << 20));
        old.write_all(&long[..long.len() / 2]).await.unwrap();
        let _new = open(2, 6).await;
        // Possibly receipts, and then the end.
        rest(&mut old).await;
    });
}

#[tokio::test(start_paused = true)]
async fn handshakes_of_one_address_are_rate_limited_without_delaying_other_addresses() {
    let (_stop, stopped) = watch::channel(false);
    let shared = Shared {
        options: ServeOptions::new(identity("secondary-1")),
        stopped,
        next: Cell::new(0),
        sockets: Cell::new(0),
        handshakes: RefCell::default(),
        budget: RefCell::new(HandshakeBudget::new(Instant::now())),
        streams: RefCell::default(),
        log: RefCell::new(RefusalLog::new()),
    };
    let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
    for _ in 0..CLUSTER_HANDSHAKE_BURST {
        shared.wait_for_budget(one).await;
    }
    tokio::time::advance(CLUSTER_HANDSHAKE_INTERVAL).await;
    let mut waiting = Box::pin(shared.wait_for_budget(one));
    assert!(suite::is_pending(&mut waiting).await);
    shared.wait_for_budget(other).await;
    tokio::time::advance(CLUSTER_HANDSHAKE_INTERVAL_OF_ADDRESS).await;
    waiting.await;
}

#[test]
fn two_processes_of_one_name_are_logged_once() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _in_it = runtime.enter();
    let instance = |byte| InstanceId::from_bytes([byte; 16]);
    let mut log = RefusalLog::new();
    assert!(log.is_news_of_rivals(instance(1), instance(2)));
    assert!(!log.is_news_of_rivals(instance(2), instance(1)));
    assert!(log.is_news_of_rivals(instance(1), instance(3)));
}

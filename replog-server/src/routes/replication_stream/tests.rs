use actix_web::{
    App, FromRequest as _, dev,
    http::StatusCode,
    test::{self, TestRequest},
};
use futures_util::future::poll_immediate;
use replog_core::{
    NodeName,
    transport::{Answer, Request, RequestBody},
    types::{Epoch, Incarnation, InstanceId},
};

use super::*;
use crate::{app, node::Node, paths, route_tests::Pair};

/// A stream to a secondary, and the master's end of it.
struct Ends {
    pair: Pair,
    stream: ReplicationStream,
    /// Sends bytes; `None`: the master left.
    sender: Option<Box<dyn FnMut(Bytes)>>,
    codec: Codec,
}

impl Ends {
    async fn open() -> Ends {
        let pair = Pair::start(None).await;
        let Node::Secondary(secondary) = &pair.secondary.node else {
            panic!("it is a secondary")
        };
        let (mut sender, payload) = actix_http::h1::Payload::create(false);
        let mut payload = dev::Payload::from(payload);
        let request = TestRequest::get().to_http_request();
        let payload = web::Payload::from_request(&request, &mut payload)
            .await
            .unwrap();
        let stream = ReplicationStream::new(&pair.secondary, secondary.clone(), payload);
        Ends {
            pair,
            stream,
            sender: Some(Box::new(move |bytes| sender.feed_data(bytes))),
            codec: Codec::new().client_mode(),
        }
    }

    fn send_bytes(&mut self, bytes: impl Into<Bytes>) {
        let send = self.sender.as_mut().unwrap();
        send(bytes.into());
    }

    fn send(&mut self, message: Message) {
        let mut bytes = BytesMut::new();
        self.codec.encode(message, &mut bytes).unwrap();
        self.send_bytes(bytes);
    }

    fn ask(&mut self, number: u64) {
        let message = wire::stream::encode_request(number, &identify()).concat();
        self.send(Message::Binary(message.into()));
    }

    /// The next messages; none when the stream has ended.
    async fn receive(&mut self) -> Vec<Frame> {
        let Some(Ok(chunk)) = self.stream.next().await else {
            return Vec::new();
        };
        let mut bytes = BytesMut::from(&*chunk);
        std::iter::from_fn(|| self.codec.decode(&mut bytes).unwrap()).collect()
    }

    /// The numbers of the next answers, and what they are.
    async fn answers(&mut self) -> Vec<(u64, Result<Response, TransportError>)> {
        let frames = self.receive().await.into_iter();
        let answer = |frame| match frame {
            Frame::Binary(answer) => wire::stream::decode_answer(&answer).unwrap(),
            other => panic!("{other:?}"),
        };
        frames.map(answer).collect()
    }

    /// Whether it says that it ends, and does.
    async fn has_ended(&mut self) -> bool {
        self.receive().await == [Frame::Close(None)] && self.stream.next().await.is_none()
    }
}

fn identify() -> Request {
    Request {
        cluster: None,
        from: NodeName::new("master").unwrap(),
        incarnation: Incarnation {
            instance: InstanceId::from_bytes([1; 16]),
            start: 1,
        },
        to: NodeName::new("secondary-1").unwrap(),
        epoch: Epoch(1),
        body: RequestBody::Identify,
    }
}

fn is_identity(answer: &Result<Response, TransportError>) -> bool {
    matches!(
        answer,
        Ok(Response {
            answer: Answer::Identity(_),
            ..
        })
    )
}

#[actix_web::test]
async fn requests_are_answered_with_their_numbers() {
    let mut ends = Ends::open().await;
    for number in [7, 3] {
        ends.ask(number);
        let answers = ends.answers().await;
        assert!(matches!(&answers[..], [(n, answer)] if *n == number && is_identity(answer)));
    }
}

#[actix_web::test]
async fn requests_that_come_together_are_all_answered_and_more_than_are_handled_at_once() {
    let mut ends = Ends::open().await;
    let count = 3 * CALLS_MAX as u64;
    (0..count).for_each(|number| ends.ask(number));
    let mut numbers = Vec::new();
    while (numbers.len() as u64) < count {
        numbers.extend(ends.answers().await.iter().map(|(number, _)| *number));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
}

#[actix_web::test]
async fn a_request_may_come_byte_by_byte_and_in_fragments() {
    let mut ends = Ends::open().await;
    let message = Bytes::from(wire::stream::encode_request(5, &identify()).concat());
    let mut bytes = BytesMut::new();
    let fragments = [Item::FirstBinary(message), Item::Last(Bytes::new())];
    for fragment in fragments {
        let message = Message::Continuation(fragment);
        ends.codec.encode(message, &mut bytes).unwrap();
    }
    for byte in bytes {
        assert!(poll_immediate(ends.stream.next()).await.is_none());
        ends.send_bytes(vec![byte]);
    }
    let answers = ends.answers().await;
    assert!(matches!(&answers[..], [(5, answer)] if is_identity(answer)));
}

#[actix_web::test]
async fn the_longest_message_may_be_followed_by_others_in_the_same_read() {
    let mut ends = Ends::open().await;
    let mut longest = 6_u64.to_le_bytes().to_vec();
    longest.resize(MESSAGE_BYTES_MAX, 0);
    let mut bytes = BytesMut::new();
    let message = Message::Binary(longest.into());
    ends.codec.encode(message, &mut bytes).unwrap();
    let mut rest = bytes.split_off(bytes.len() - 1);
    for _ in 0..10 {
        let message = wire::stream::encode_request(7, &identify()).concat();
        let message = Message::Binary(message.into());
        ends.codec.encode(message, &mut rest).unwrap();
    }
    ends.send_bytes(bytes);
    assert!(poll_immediate(ends.stream.next()).await.is_none());
    ends.send_bytes(rest);
    let mut answers = Vec::new();
    while answers.len() < 11 {
        let more = ends.answers().await;
        assert!(!more.is_empty(), "the stream ended after {answers:?}");
        answers.extend(more);
    }
    assert_eq!(answers[0], (6, Err(TransportError::HttpStatus(400))));
    assert!(answers[1..].iter().all(|(_, answer)| is_identity(answer)));
}

#[actix_web::test]
async fn what_is_no_request_is_answered_so_and_the_next_one_served() {
    let mut ends = Ends::open().await;
    let nonsense = [&9_u64.to_le_bytes()[..], b"RPLX"].concat();
    ends.send(Message::Binary(nonsense.into()));
    assert_eq!(
        ends.answers().await,
        [(9, Err(TransportError::HttpStatus(400)))]
    );
    ends.ask(10);
    assert!(matches!(&ends.answers().await[..], [(10, answer)] if is_identity(answer)));
}

#[actix_web::test]
async fn faults_are_answered_with_their_status() {
    let mut ends = Ends::open().await;
    let faults = ends.pair.secondary.faults.as_ref().unwrap();
    let settings = replog_core::transport::FaultSettings {
        isolate: true,
        ..Default::default()
    };
    faults.set(settings).unwrap();
    ends.ask(1);
    assert_eq!(
        ends.answers().await,
        [(1, Err(TransportError::HttpStatus(503)))]
    );
}

#[actix_web::test]
async fn a_ping_is_answered() {
    let mut ends = Ends::open().await;
    ends.send(Message::Ping("x".into()));
    assert_eq!(ends.receive().await, [Frame::Pong("x".into())]);
}

#[actix_web::test]
async fn a_stream_ends_with_its_master_and_with_its_node() {
    let mut ends = Ends::open().await;
    ends.sender = None;
    assert!(ends.has_ended().await);
    let mut ends = Ends::open().await;
    ends.send(Message::Close(None));
    assert!(ends.has_ended().await);
    let mut ends = Ends::open().await;
    assert!(poll_immediate(ends.stream.next()).await.is_none());
    ends.pair.secondary.node.stop().await;
    assert!(ends.has_ended().await);
}

#[actix_web::test]
async fn what_no_master_sends_ends_the_stream() {
    let unmasked = [0x82, 1, 0].to_vec();
    let endless = |bytes: usize| {
        let mut frame = vec![0x82, 0xff];
        frame.extend_from_slice(&(1_u64 << 40).to_be_bytes());
        frame.resize(bytes, 0);
        frame
    };
    let mut text = BytesMut::new();
    let message = Message::Text("hello".into());
    Codec::new()
        .client_mode()
        .encode(message, &mut text)
        .unwrap();
    let mut short = BytesMut::new();
    let message = Message::Binary(Bytes::from_static(b"1234567"));
    Codec::new()
        .client_mode()
        .encode(message, &mut short)
        .unwrap();
    let table = [
        ("an unmasked frame", unmasked),
        ("an endless frame", endless(MESSAGE_BYTES_MAX + 100)),
        ("text", text.to_vec()),
        ("no number", short.to_vec()),
    ];
    for (what, bytes) in table {
        let mut ends = Ends::open().await;
        ends.send_bytes(bytes);
        assert!(ends.has_ended().await, "{what}");
        drop(ends.stream);
        let left = ends.pair.secondary.replication_budget.used_bytes();
        assert_eq!(left, 0, "{what}");
    }
}

#[actix_web::test]
async fn many_fragments_are_no_way_round_the_longest_message() {
    let mut ends = Ends::open().await;
    let part = Bytes::from(vec![0; MESSAGE_BYTES_MAX / 2]);
    ends.send(Message::Continuation(Item::FirstBinary(part.clone())));
    assert!(poll_immediate(ends.stream.next()).await.is_none());
    ends.send(Message::Continuation(Item::Continue(part.clone())));
    ends.send(Message::Continuation(Item::Continue(part)));
    assert!(ends.has_ended().await);
}

#[actix_web::test]
async fn memory_for_what_came_is_given_back_when_it_is_answered() {
    let mut ends = Ends::open().await;
    for number in 0..10 {
        ends.ask(number);
        assert_eq!(ends.answers().await.len(), 1);
    }
    assert_eq!(ends.pair.secondary.replication_budget.used_bytes(), 0);
    // A part of a message counts.
    ends.send_bytes(vec![0x82, 0xff, 0]);
    assert!(poll_immediate(ends.stream.next()).await.is_none());
    assert_eq!(ends.pair.secondary.replication_budget.used_bytes(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stream_on_which_nothing_comes_ends_after_a_while() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let mut ends = Ends::open().await;
            let begun = Instant::now();
            assert!(ends.has_ended().await);
            assert_eq!(begun.elapsed().as_secs(), IDLE_TIME_MAX.as_secs());
        })
        .await;
}

#[actix_web::test]
async fn only_a_websocket_of_the_subprotocol_becomes_a_stream() {
    let pair = Pair::start(None).await;
    let upgrade = || {
        TestRequest::get()
            .uri(paths::REPLICATION_STREAM)
            .insert_header(("connection", "upgrade"))
            .insert_header(("upgrade", "websocket"))
            .insert_header(("sec-websocket-version", "13"))
            .insert_header(("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="))
    };
    let known = ("sec-websocket-protocol", wire::stream::PROTOCOL);
    let plain = TestRequest::get().uri(paths::REPLICATION_STREAM);
    let other = upgrade().insert_header(("sec-websocket-protocol", "chat"));
    let posted = TestRequest::post().uri(paths::REPLICATION_STREAM);
    let app = |state| App::new().configure(move |config| app::configure(config, &state));
    let secondary = test::init_service(app(pair.secondary.clone())).await;
    for (status, request) in [
        (101, upgrade().insert_header(known)),
        (400, plain),
        (400, upgrade()),
        (400, other),
        (405, posted),
    ] {
        let response = test::call_service(&secondary, request.to_request()).await;
        assert_eq!(response.status().as_u16(), status);
    }
    let master = test::init_service(app(pair.master.clone())).await;
    let request = upgrade().insert_header(known).to_request();
    let response = test::call_service(&master, request).await;
    assert_eq!(response.status(), StatusCode::MISDIRECTED_REQUEST);
}

use std::{
    rc::Rc,
    sync::{Arc, Mutex},
};

use super::*;
use crate::{
    transport::{
        CallFuture, HttpNetwork, HttpOptions, Network as _, RequestBody, Transport,
        http::tests::{connect, is_connection, peer},
        responder::{Asked, Reply, Responder, StreamReply, Told},
        suite::{self, StandIn, answer, held_append, small_append},
    },
    types::Offset,
};

fn connect_with(responder: &Responder, options: HttpOptions) -> Rc<dyn Transport> {
    HttpNetwork::new(options).connect(&peer(responder.url()))
}

/// A stand-in for a secondary, and the way to it.
fn serving() -> (Arc<StandIn>, Responder, Rc<dyn Transport>) {
    let fake = StandIn::new();
    let responder = Responder::serving(fake.clone());
    let transport = connect(&responder);
    (fake, responder, transport)
}

/// A call that has arrived as the `count`th, and is held back.
async fn held(transport: &dyn Transport, fake: &StandIn, count: usize) -> CallFuture {
    let mut call = transport.call(held_append(count as u64));
    suite::meanwhile(&mut call, fake.has_arrived(count)).await;
    call
}

/// The answer of a node that takes what it is sent.
fn good(told: Told) -> StreamReply {
    let (number, request) = told.request();
    StreamReply::Answer(wire::stream::encode_answer(number, Ok(&answer(request))))
}

async fn is_answered(transport: &dyn Transport, end: u64) {
    let request = small_append(end);
    let expected = answer(request.clone());
    assert_eq!(transport.call(request).await, Ok(expected));
}

#[test]
fn all_appends_to_a_peer_go_over_one_connection() {
    suite::run(async {
        let (fake, responder, transport) = serving();
        let mut held: Vec<_> = (1..9).map(|end| transport.call(held_append(end))).collect();
        for (call, count) in held.iter_mut().zip(1..) {
            suite::meanwhile(call, fake.has_arrived(count)).await;
        }
        fake.let_go();
        for (call, end) in held.into_iter().zip(1..) {
            assert_eq!(call.await, Ok(answer(held_append(end))));
        }
        is_answered(&*transport, 9).await;
        assert_eq!((responder.asked(), responder.connections()), (9, 1));
    });
}

#[test]
fn records_go_as_they_lie_in_the_log_each_batch_in_a_fragment() {
    suite::run(async {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        let responder = Responder::streaming(move |message: Told| {
            told.lock().unwrap().push(message.fragments.clone());
            good(message)
        });
        let mut request = suite::append(suite::large_batch(Offset(0)));
        let RequestBody::Append(append) = &mut request.body else {
            panic!("{request:?}")
        };
        let first = append.records[0].clone();
        let second = suite::large_batch(first.end());
        append.records.push(second.clone());
        let expected = answer(request.clone());
        assert_eq!(connect(&responder).call(request).await, Ok(expected));
        let seen = seen.lock().unwrap();
        assert_eq!(seen[0].len(), 3);
        assert_eq!(
            &seen[0][1..],
            [first.bytes().clone(), second.bytes().clone()]
        );
    });
}

#[test]
fn a_call_that_is_dropped_closes_its_connection_once_the_others_are_answered() {
    suite::run(async {
        let (fake, responder, transport) = serving();
        let dropped = held(&*transport, &fake, 1).await;
        let other = held(&*transport, &fake, 2).await;
        drop(dropped);
        // Perhaps the connection swallows what is sent: what comes now does not go there.
        is_answered(&*transport, 3).await;
        assert_eq!(responder.connections(), 2);
        fake.let_go();
        assert_eq!(other.await, Ok(answer(held_append(2))));
        drop(transport);
        responder.all_closed().await;
    });
}

#[test]
fn a_dropped_call_that_was_alone_closes_its_connection_at_once() {
    suite::run(async {
        let (fake, responder, transport) = serving();
        drop(held(&*transport, &fake, 1).await);
        fake.let_go();
        responder.all_closed().await;
    });
}

#[test]
fn a_kept_stream_that_was_closed_is_not_noticed_by_callers() {
    suite::run(async {
        let responder = Responder::streaming(|told: Told| match told.nth {
            0 => good(told),
            _ => StreamReply::Close,
        });
        let transport = connect(&responder);
        for connections in 1..4 {
            is_answered(&*transport, 1).await;
            assert_eq!(responder.connections(), connections);
        }
        assert_eq!(responder.asked(), 5);
    });
}

#[test]
fn a_new_stream_that_breaks_is_reported_and_the_request_not_repeated() {
    suite::run(async {
        let responder = Responder::streaming(|_| StreamReply::Close);
        let outcome = connect(&responder).call(small_append(1)).await;
        assert!(is_connection(&outcome), "{outcome:?}");
        assert_eq!((responder.asked(), responder.connections()), (1, 1));
    });
}

#[test]
fn a_request_is_repeated_once_and_no_more() {
    suite::run(async {
        let responder = Responder::streaming(|told: Told| match (told.connection, told.nth) {
            (0, 0) => good(told),
            _ => StreamReply::Close,
        });
        let transport = connect(&responder);
        is_answered(&*transport, 1).await;
        let outcome = transport.call(small_append(2)).await;
        assert!(is_connection(&outcome), "{outcome:?}");
        assert_eq!((responder.asked(), responder.connections()), (3, 2));
    });
}

#[test]
fn a_stream_that_was_idle_for_long_is_not_trusted() {
    suite::run(async {
        let responder = Responder::streaming(good);
        let options = HttpOptions {
            keep_alive: Duration::ZERO,
            ..HttpOptions::default()
        };
        let transport = connect_with(&responder, options);
        for connections in 1..4 {
            is_answered(&*transport, 1).await;
            assert_eq!(responder.connections(), connections);
        }
    });
}

#[test]
fn a_peer_without_streams_is_asked_once_and_sent_posts() {
    suite::run(async {
        let responder = Responder::start(|asked: Asked| match asked.head.starts_with("GET") {
            true => Reply::Answer(Responder::answer("404 No", "text/plain", b"")),
            false => {
                let request = wire::decode_request(asked.body).expect("a request");
                let body = wire::encode_response(&answer(request)).concat();
                Reply::Answer(Responder::answer("200 OK", wire::CONTENT_TYPE, &body))
            }
        });
        let transport = connect(&responder);
        for end in 1..4 {
            is_answered(&*transport, end).await;
        }
        assert_eq!(responder.asked(), 4);
    });
}

#[test]
fn the_upgrade_names_the_subprotocol_and_who_may_send() {
    suite::run(async {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::clone(&seen);
        let responder = Responder::start(move |request: Asked| {
            asked.lock().unwrap().push(request.head);
            Reply::Answer(Responder::answer("401 Who", "text/plain", b""))
        });
        let options = HttpOptions {
            token: Some("secret".to_owned()),
            ..HttpOptions::default()
        };
        let outcome = connect_with(&responder, options)
            .call(small_append(1))
            .await;
        // The POST after it says why there is none.
        assert_eq!(outcome, Err(TransportError::HttpStatus(401)));
        let head = seen.lock().unwrap()[0].to_ascii_lowercase();
        for line in [
            "get /replication/v1/stream http/1.1",
            "upgrade: websocket",
            "sec-websocket-protocol: replog.replication.v1",
            "authorization: bearer secret",
        ] {
            assert!(
                head.lines().any(|other| other == line),
                "{line} is not in {head}"
            );
        }
    });
}

#[test]
fn a_status_instead_of_a_response_is_reported_and_the_stream_kept() {
    suite::run(async {
        let responder = Responder::streaming(|told: Told| match told.nth {
            0 => {
                let (number, _) = told.request();
                StreamReply::Answer(wire::stream::encode_answer(number, Err(503)))
            }
            _ => good(told),
        });
        let transport = connect(&responder);
        let outcome = transport.call(small_append(1)).await;
        assert_eq!(outcome, Err(TransportError::HttpStatus(503)));
        is_answered(&*transport, 1).await;
        assert_eq!(responder.connections(), 1);
    });
}

#[test]
fn what_is_no_answer_ends_the_stream_or_the_call_and_says_so() {
    let binary = |bytes: &[u8]| StreamReply::Answer(Bytes::copy_from_slice(bytes));
    let text = {
        let mut bytes = BytesMut::new();
        let text = Message::Text("hello".into());
        Codec::new().encode(text, &mut bytes).unwrap();
        StreamReply::Raw(bytes.to_vec())
    };
    let table = [
        ("half a number", binary(&[0; 7])),
        ("a number alone", binary(&[0; 8])),
        (
            "no response",
            binary(&[0, 0, 0, 0, 0, 0, 0, 0, 200, 0, b'R']),
        ),
        ("text", text),
        ("no frame", StreamReply::Raw(vec![0xff; 9])),
        (
            "an endless frame",
            StreamReply::Raw(
                [
                    &[0x82, 127, 0x7f][..],
                    &vec![0; BoundedCodec::BYTES_MAX + 8],
                ]
                .concat(),
            ),
        ),
    ];
    for (what, reply) in table {
        suite::run(async {
            let responder = Responder::streaming(move |_| reply.clone());
            let outcome = connect(&responder).call(small_append(1)).await;
            assert!(
                matches!(outcome, Err(TransportError::BadAnswer(_))),
                "{what}: {outcome:?}"
            );
        });
    }
}

#[test]
fn a_ping_is_answered_and_an_answer_to_nobody_dropped() {
    suite::run(async {
        let responder = Responder::streaming(|told: Told| {
            let (number, request) = told.request();
            let answer = wire::stream::encode_answer(number, Ok(&answer(request)));
            let stray = wire::stream::encode_answer(77, Err(500));
            let mut bytes = BytesMut::new();
            for message in [
                Message::Ping("x".into()),
                Message::Binary(stray),
                Message::Binary(answer),
            ] {
                Codec::new().encode(message, &mut bytes).unwrap();
            }
            StreamReply::Raw(bytes.to_vec())
        });
        let transport = connect(&responder);
        is_answered(&*transport, 1).await;
        is_answered(&*transport, 2).await;
        assert_eq!(responder.connections(), 1);
    });
}

#[test]
fn a_peer_that_says_it_closes_the_stream_is_closed_first() {
    suite::run(async {
        let mut close = BytesMut::new();
        Codec::new()
            .encode(Message::Close(None), &mut close)
            .unwrap();
        let responder = Responder::streaming(move |_| StreamReply::Raw(close.to_vec()));
        let outcome = connect(&responder).call(small_append(1)).await;
        assert!(is_connection(&outcome), "{outcome:?}");
        responder.all_closed().await;
    });
}

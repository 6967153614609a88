use bytes::Bytes;
use proptest::prelude::*;

use super::{
    RecordError, WireError, encode_request as encode_body,
    stream::{decode_answer, decode_request, encode_answer, encode_request},
    tests::{batch, joined, progress, request, requests, response, responses},
};
use crate::{
    record::{Record, RecordBatch},
    transport::{
        TransportError,
        message::{Answer, Append, Request, RequestBody},
    },
    types::{Epoch, Offset},
};

fn append(records: Vec<RecordBatch>) -> Request {
    let progress = progress();
    request(RequestBody::Append(Append { progress, records }))
}

/// What comes of these fragments.
fn decoded(mut fragments: Vec<Bytes>) -> (u64, Result<Request, WireError>) {
    let head = fragments.remove(0);
    decode_request(&head, fragments).expect("the number is there")
}

#[test]
fn a_request_has_its_number_and_then_the_bytes_of_a_post() {
    for request in requests() {
        let fragments = encode_request(0x0102_0304_0506_0708, &request);
        let bytes = joined(&fragments);
        assert_eq!(bytes[..8], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[8..], joined(&encode_body(&request)));
        assert_eq!(decoded(fragments), (0x0102_0304_0506_0708, Ok(request)));
    }
}

#[test]
fn an_answer_has_number_and_status_and_comes_back_as_it_was() {
    for response in responses() {
        let message = encode_answer(7, Ok(&response));
        assert_eq!(message[..10], [7, 0, 0, 0, 0, 0, 0, 0, 200, 0]);
        let (number, outcome) = decode_answer(&message).unwrap();
        // Several batches of records come back as one.
        let again = encode_answer(7, outcome.as_ref().map_err(|_| 0));
        assert_eq!((number, again), (7, message));
    }
    let refused = encode_answer(7, Err(503));
    assert_eq!(refused, [7, 0, 0, 0, 0, 0, 0, 0, 247, 1][..]);
    assert_eq!(
        decode_answer(&refused),
        Ok((7, Err(TransportError::HttpStatus(503))))
    );
}

#[test]
fn each_batch_is_the_fragment_that_it_came_in() {
    let batches = vec![batch(5, &[b"1", b"2"]), batch(7, &[b"3"])];
    let fragments = encode_request(0, &append(batches.clone()));
    let sent: Vec<_> = fragments[1..].iter().map(|part| part.as_ptr()).collect();
    let (_, request) = decoded(fragments);
    let RequestBody::Append(append) = request.unwrap().body else {
        panic!("an append was sent")
    };
    assert_eq!(append.records, batches);
    let got = append.records.iter().map(|batch| batch.bytes().as_ptr());
    assert_eq!(got.collect::<Vec<_>>(), sent);
}

#[test]
fn fragments_must_be_batches_that_follow_each_other() {
    let batches = vec![batch(5, &[b"1", b"2"]), batch(7, &[b"3"])];
    let good = encode_request(0, &append(batches));
    let split_elsewhere = |at: usize| {
        let whole = joined(&good[1..]);
        vec![good[0].clone(), whole.slice(..at), whole.slice(at..)]
    };
    let (_, outcome) = decoded(split_elsewhere(3));
    assert!(
        matches!(outcome, Err(WireError::Records { position: 0, .. })),
        "{outcome:?}"
    );
    let turned = vec![good[0].clone(), good[2].clone(), good[1].clone()];
    let (_, outcome) = decoded(turned);
    assert!(
        matches!(outcome, Err(WireError::Records { position: 0, .. })),
        "{outcome:?}"
    );
    let short = good[..2].to_vec();
    let (_, outcome) = decoded(short);
    assert!(
        matches!(outcome, Err(WireError::RecordsLength { .. })),
        "{outcome:?}"
    );
    let mut with_nothing = good.clone();
    with_nothing.insert(2, Bytes::new());
    let (_, outcome) = decoded(with_nothing);
    assert!(
        matches!(outcome, Err(WireError::Records { .. })),
        "{outcome:?}"
    );
    let mut long = good;
    long.push(Bytes::from_static(b"x"));
    let (_, outcome) = decoded(long);
    assert!(
        matches!(outcome, Err(WireError::RecordsLength { .. })),
        "{outcome:?}"
    );
}

#[test]
fn epochs_do_not_fall_from_one_fragment_to_the_next() {
    let of_epoch = |offset: u64, epoch: u64| {
        let mut bytes = bytes::BytesMut::new();
        Record {
            offset: Offset(offset),
            epoch: Epoch(epoch),
            timestamp_ms: 0,
            kind: 0,
            flags: 0,
            key: b"",
            payload: b"1",
        }
        .encode(&mut bytes);
        RecordBatch::check(Offset(offset), bytes.freeze()).unwrap()
    };
    let first = of_epoch(5, 4);
    let position = first.bytes().len();
    let (_, outcome) = decoded(encode_request(0, &append(vec![first, of_epoch(6, 3)])));
    let source = RecordError::Epoch {
        found: Epoch(3),
        before: Epoch(4),
    };
    assert_eq!(outcome, Err(WireError::Records { position, source }));
}

#[test]
fn a_message_without_a_whole_number_or_status_is_refused() {
    let answer = encode_answer(1, Ok(&response(Answer::Taken)));
    for have in 0..8 {
        let error = WireError::Truncated { needed: 8, have };
        assert_eq!(decode_answer(&answer.slice(..have)), Err(error.clone()));
        assert_eq!(
            decode_request(&answer.slice(..have), Vec::new()),
            Err(error)
        );
    }
    for have in 8..10 {
        let error = WireError::Truncated { needed: 10, have };
        assert_eq!(decode_answer(&answer.slice(..have)), Err(error));
    }
}

proptest! {
    #[test]
    fn no_fragments_make_it_panic(
        fragments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..4),
        request in 0..7_usize,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut fragments: Vec<Bytes> = fragments.into_iter().map(Bytes::from).collect();
        let _ = decode_answer(&fragments[0]);
        let good = encode_request(1, &requests()[request % requests().len()]);
        let whole = joined(&good);
        fragments.insert(0, whole.slice(..cut.index(whole.len())));
        let head = fragments.remove(0);
        let _ = decode_request(&head, fragments);
    }
}

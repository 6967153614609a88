//! Tests of the wire format: exact bytes, every kind of damage distinguished, no panic on any bytes.

use bytes::{BufMut as _, BytesMut};
use proptest::prelude::*;
use rand::{SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::golden::assert_golden;
use crate::{frame::FrameFields, transport::message::FencedBy, types::InstanceId};

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a good name")
}

pub(super) fn batch(first: u64, payloads: &[&[u8]]) -> FrameBatch {
    let mut bytes = BytesMut::new();
    for (payload, at) in payloads.iter().zip(first..) {
        let fields = FrameFields {
            first: Offset(at),
            epoch: Epoch(4),
            timestamp_ms: 1_700_000_000_000,
            key: b"",
        };
        fields.encode(&[payload], &mut bytes);
    }
    FrameBatch::check(Offset(first), bytes.freeze()).expect("encoded just now")
}

pub(super) fn progress() -> Progress {
    Progress {
        to_incarnation: Incarnation {
            instance: InstanceId::from_bytes([2; 16]),
            start: 7,
        },
        end: Offset(120),
        committed: Some(Offset(118)),
        refill_target: None,
    }
}

pub(super) fn request(body: RequestBody) -> Request {
    Request {
        cluster: Some(ClusterId::from_bytes([1; 16])),
        from: node("master"),
        incarnation: Incarnation {
            instance: InstanceId::from_bytes([3; 16]),
            start: 1,
        },
        to: node("secondary-1"),
        epoch: Epoch(4),
        body,
    }
}

pub(super) fn response(answer: Answer) -> Response {
    Response {
        cluster: None,
        name: node("secondary-1"),
        incarnation: Incarnation {
            instance: InstanceId::from_bytes([2; 16]),
            start: 7,
        },
        state: NodeState {
            durable_end: Offset(120),
            log_epoch: Some(Epoch(4)),
            promised: Epoch(4),
            buffered: 0,
        },
        answer,
    }
}

pub(super) fn joined(parts: &[Bytes]) -> Bytes {
    Bytes::from(parts.concat())
}

fn starts(pairs: &[(u64, u64)]) -> Vec<EpochStart> {
    let pair = |&(epoch, first)| EpochStart {
        epoch: Epoch(epoch),
        first: Offset(first),
    };
    pairs.iter().map(pair).collect()
}

/// Puts a correct checksum on deliberately changed bytes.
fn resealed(mut bytes: Vec<u8>) -> Bytes {
    if bytes.len() >= PREFIX_BYTES {
        let header_bytes = u32_at(&bytes, 8) as usize;
        if let Some(header) = bytes.get(PREFIX_BYTES..PREFIX_BYTES.saturating_add(header_bytes)) {
            let crc = checksum(&bytes[..CHECKSUM_AT], header);
            bytes[CHECKSUM_AT..PREFIX_BYTES].copy_from_slice(&crc.to_le_bytes());
        }
    }
    Bytes::from(bytes)
}

/// Returns a message with this header, valid or not.
fn message(kind: u8, header: &str, rest: &[u8]) -> Bytes {
    let mut bytes = Vec::from(MAGIC);
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[kind, 0]);
    bytes.put_u32_le(header.len() as u32);
    bytes.put_u32_le(0);
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(rest);
    resealed(bytes)
}

const HEARTBEAT: &str = concat!(
    r#"{"cluster":"01010101010101010101010101010101","from":"master","#,
    r#""incarnation":{"instance":"03030303030303030303030303030303","start":1},"#,
    r#""to":"secondary-1","epoch":4,"body":{"heartbeat":{"to_incarnation":"#,
    r#"{"instance":"02020202020202020202020202020202","start":7},"#,
    r#""end":120,"committed":118,"refill_target":null}}}"#,
);

#[test]
fn a_heartbeat_has_these_bytes() {
    let parts = encode_request(&request(RequestBody::Heartbeat(progress())));
    assert_eq!(parts.len(), 1);
    let prefix = *b"RPLW\x02\x00\x01\x00\x34\x01\x00\x00\x05\xf4\x98\x4c";
    assert_eq!(parts[0][..PREFIX_BYTES], prefix);
    assert_eq!(
        std::str::from_utf8(&parts[0][PREFIX_BYTES..]),
        Ok(HEARTBEAT)
    );
}

#[test]
fn an_append_has_these_bytes_and_then_the_records_as_they_are() {
    let records = batch(118, &[b"\"a\"", b"{}"]);
    let append = Append {
        progress: progress(),
        records: vec![records.clone()],
    };
    let parts = encode_request(&request(RequestBody::Append(append)));
    assert_golden("append", &joined(&parts));
    assert_eq!(parts.len(), 2);
    assert_eq!(
        parts[1].as_ptr(),
        records.bytes().as_ptr(),
        "the log's own buffer"
    );
}

#[test]
fn a_hello_has_these_bytes() {
    let hello = Hello {
        nodes: vec![node("master"), node("secondary-1")],
        public_url: Some("http://127.0.0.1:8000".parse().expect("a good URL")),
        log_epoch: Some(Epoch(4)),
        end: Offset(120),
        adopted_end: Offset(100),
        epoch_starts: starts(&[(1, 0), (4, 100)]),
        epoch_starts_end: Offset(120),
        forced_epoch: None,
    };
    let hello = joined(&encode_request(&request(RequestBody::Hello(hello))));
    assert_golden("hello", &hello);
}

#[test]
fn an_answer_has_these_bytes() {
    let answer = joined(&encode_response(&response(Answer::Taken)));
    assert_golden("taken", &answer);
}

#[test]
fn every_request_and_answer_survives_a_round_trip() {
    for request in requests() {
        let decoded = decode_request(joined(&encode_request(&request)));
        assert_eq!(decoded, Ok(request));
    }
    for response in responses() {
        let decoded = decode_response(joined(&encode_response(&response)));
        assert_eq!(decoded, Ok(response));
    }
}

#[test]
fn several_batches_arrive_as_one_that_shares_the_body() {
    let batches = vec![batch(5, &[b"1", b"2"]), batch(7, &[b"3"])];
    let append = Append {
        progress: progress(),
        records: batches,
    };
    let body = joined(&encode_request(&request(RequestBody::Append(append))));
    let decoded = decode_request(body.clone()).expect("just encoded");
    let RequestBody::Append(append) = decoded.body else {
        panic!("{decoded:?}")
    };
    assert_eq!(append.records, [batch(5, &[b"1", b"2", b"3"])]);
    assert!(
        body.as_ptr_range()
            .contains(&append.records[0].bytes().as_ptr())
    );
}

#[test]
fn members_of_a_later_version_are_ignored() {
    let later = HEARTBEAT
        .replacen('{', r#"{"compression":{"kind":"zstd"},"#, 1)
        .replacen(r#""end":120"#, r#""end":120,"lease_ms":3000"#, 1);
    let decoded = decode_request(message(1, &later, b""));
    assert_eq!(decoded, Ok(request(RequestBody::Heartbeat(progress()))));
    let later = HEARTBEAT.replace(r#","refill_target":null"#, "");
    let decoded = decode_request(message(1, &later, b""));
    assert_eq!(decoded, Ok(request(RequestBody::Heartbeat(progress()))));
}

#[test]
fn another_version_is_distinguished_from_damage_whatever_follows() {
    let newer = WireError::Version { theirs: 3, ours: 2 };
    assert_eq!(
        decode_request(Bytes::from_static(b"RPLW\x03\x00")),
        Err(newer.clone())
    );
    assert_eq!(
        decode_response(Bytes::from_static(b"RPLW\x03\x00something else")),
        Err(newer)
    );
}

#[test]
fn each_kind_of_damage_to_the_prefix_has_its_own_error() {
    let good = joined(&encode_request(&request(RequestBody::Identify)));
    for html in [&b""[..], b"RPL", b"<html>", b"HTTP/1.1 200 OK"] {
        assert_eq!(
            decode_request(Bytes::copy_from_slice(html)),
            Err(WireError::NotThisProtocol)
        );
    }
    for have in 4..PREFIX_BYTES {
        let expected = WireError::Truncated {
            needed: PREFIX_BYTES,
            have,
        };
        assert_eq!(decode_request(good.slice(..have)), Err(expected));
    }
    for have in PREFIX_BYTES..good.len() {
        let expected = WireError::Truncated {
            needed: good.len(),
            have,
        };
        assert_eq!(decode_request(good.slice(..have)), Err(expected));
    }
    for at in 6..good.len() {
        let mut damaged = good.to_vec();
        damaged[at] ^= 0x20;
        let error = decode_request(damaged.into()).expect_err("a flipped bit");
        let in_length = (8..12).contains(&at);
        match error {
            WireError::Checksum { .. } => assert!(!in_length || at == 8, "{at}"),
            WireError::Truncated { .. } | WireError::HeaderTooLong { .. } => {
                assert!(in_length, "{at}");
            }
            other => panic!("{at}: {other}"),
        }
    }
}

#[test]
fn a_long_header_is_refused_before_it_has_arrived() {
    let mut prefix = Vec::from(*b"RPLW\x02\x00\x01\x00");
    let bytes = WIRE_HEADER_BYTES_MAX as u32 + 1;
    prefix.put_u32_le(bytes);
    prefix.put_u32_le(0);
    assert_eq!(
        decode_request(prefix.into()),
        Err(WireError::HeaderTooLong { bytes })
    );
}

#[test]
fn a_response_is_not_a_request() {
    let answer = joined(&encode_response(&response(Answer::Taken)));
    assert_eq!(
        decode_request(answer),
        Err(WireError::Kind {
            found: 2,
            expected: 1
        })
    );
    let question = joined(&encode_request(&request(RequestBody::Identify)));
    assert_eq!(
        decode_response(question),
        Err(WireError::Kind {
            found: 1,
            expected: 2
        })
    );
}

#[test]
fn an_invalid_header_is_refused() {
    let table = [
        "",
        "null",
        "[]",
        "{}",
        r#"{"from":"master"}"#,
        &HEARTBEAT[1..],
        &format!("{HEARTBEAT}x"),
        &HEARTBEAT.replace("heartbeat", "dance"),
        &HEARTBEAT.replace(r#""from":"master""#, r#""from":"../x""#),
        &HEARTBEAT.replace(r#""epoch":4"#, r#""epoch":-4"#),
        &HEARTBEAT.replace(r#""epoch":4"#, r#""epoch":4,"epoch":5"#),
        &"[".repeat(10_000),
    ];
    for header in table {
        let error = decode_request(message(1, header, b"")).expect_err(header);
        assert!(
            matches!(error, WireError::Header { .. }),
            "{header}: {error}"
        );
    }
}

#[test]
fn records_must_be_what_the_header_announces() {
    let records = batch(118, &[b"\"a\"", b"{}"]);
    let bytes = records.bytes().to_vec();
    let append = |first: u64, length: usize| {
        let span = format!(r#"}},"records":{{"first":{first},"bytes":{length}}}}}"#);
        HEARTBEAT
            .replace("heartbeat", "append")
            .replace("}}}", &format!("}}{span}"))
    };
    let decode = |header: &str, rest: &[u8]| decode_request(message(1, header, rest));
    assert!(decode(&append(118, 97), &bytes).is_ok());

    let without = HEARTBEAT.replace("heartbeat", "append");
    assert_eq!(decode(&without, b""), Err(WireError::RecordsMissing));
    assert_eq!(
        decode(&without, &bytes),
        Err(WireError::RecordsUnexpected { bytes: 97 })
    );
    assert_eq!(
        decode(HEARTBEAT, b"x"),
        Err(WireError::RecordsUnexpected { bytes: 1 })
    );
    let empty = WireError::Records {
        position: 0,
        source: FrameError::Absent,
    };
    assert_eq!(decode(&append(118, 0), b""), Err(empty));

    // Cut where the first record ends: only the announced length reveals it.
    let cut = WireError::RecordsLength {
        announced: 97,
        found: 49,
    };
    assert_eq!(decode(&append(118, 97), &bytes[..49]), Err(cut));
    let garbage = [&bytes[..], b"garbage"].concat();
    let joined = WireError::RecordsLength {
        announced: 97,
        found: 104,
    };
    assert_eq!(decode(&append(118, 97), &garbage), Err(joined));
    let error = decode(&append(118, 104), &garbage).expect_err("garbage after the records");
    assert!(
        matches!(error, WireError::Records { position: 97, .. }),
        "{error}"
    );

    let error = decode(&append(117, 97), &bytes).expect_err("another offset");
    let source = FrameError::Offset {
        found: Offset(118),
        expected: Offset(117),
    };
    assert_eq!(
        error,
        WireError::Records {
            position: 0,
            source
        }
    );
    let mut flipped = bytes.clone();
    flipped[96] ^= 1;
    let error = decode(&append(118, 97), &flipped).expect_err("a flipped bit");
    assert!(
        matches!(
            error,
            WireError::Records {
                position: 49,
                source: FrameError::Checksum { .. }
            }
        ),
        "{error}"
    );
    let far = u64::MAX;
    let error = WireError::OffsetTooLarge {
        offset: Offset(far),
    };
    assert_eq!(decode(&append(far, 97), &bytes), Err(error));
}

#[test]
fn lists_must_be_bounded_and_in_order() {
    let nodes = |count: usize| {
        (0..count)
            .map(|n| node(&format!("n{n}")))
            .collect::<Vec<_>>()
    };
    let promise = |count| {
        let promise = Promise {
            nodes: nodes(count),
            log_epoch: None,
        };
        decode_request(joined(&encode_request(&request(RequestBody::Promise(
            promise,
        )))))
    };
    assert!(promise(NODES_MAX).is_ok());
    assert_eq!(
        promise(NODES_MAX + 1),
        Err(WireError::TooManyNodes {
            count: NODES_MAX + 1
        })
    );
    let refused = Answer::Refused(Refusal::OtherNodes {
        nodes: nodes(NODES_MAX + 1),
    });
    let decoded = decode_response(joined(&encode_response(&response(refused))));
    assert_eq!(
        decoded,
        Err(WireError::TooManyNodes {
            count: NODES_MAX + 1
        })
    );

    let promised = |epoch_starts| {
        let answer = Answer::Promised(Promised {
            last_whole: None,
            epoch_starts,
            forced_epoch: None,
        });
        decode_response(joined(&encode_response(&response(answer))))
    };
    let many = |count: u64| starts(&(0..count).map(|n| (n, n)).collect::<Vec<_>>());
    assert!(promised(many(EPOCH_STARTS_MAX as u64)).is_ok());
    let count = EPOCH_STARTS_MAX + 1;
    assert_eq!(
        promised(many(count as u64)),
        Err(WireError::TooManyEpochStarts { count })
    );
    assert!(promised(starts(&[(1, 0), (3, 5), (4, 5)])).is_ok());
    let order = |epoch| {
        Err(WireError::EpochStartsOrder {
            epoch: Epoch(epoch),
        })
    };
    assert_eq!(promised(starts(&[(1, 0), (1, 5)])), order(1));
    assert_eq!(promised(starts(&[(2, 0), (1, 5)])), order(1));
    assert_eq!(promised(starts(&[(1, 5), (2, 4)])), order(2));
}

#[test]
fn offsets_beyond_the_limit_are_refused() {
    let offset = OFFSET_LIMIT;
    let far = || Err(WireError::OffsetTooLarge { offset });
    let bodies = [
        RequestBody::Heartbeat(Progress {
            end: offset,
            ..progress()
        }),
        RequestBody::Heartbeat(Progress {
            committed: Some(offset),
            ..progress()
        }),
        RequestBody::Fetch(Fetch {
            to_incarnation: progress().to_incarnation,
            from: offset,
            bytes_max: 1,
            epoch_starts: false,
        }),
    ];
    for body in bodies {
        let decoded = decode_request(joined(&encode_request(&request(body))));
        assert_eq!(decoded.map(|_| ()), far());
    }
    let answer = Answer::OlderStartsNeeded { before: offset };
    assert_eq!(
        decode_response(joined(&encode_response(&response(answer)))).map(|_| ()),
        far()
    );
}

/// One request of each kind, and more where lists may be empty.
pub(super) fn requests() -> Vec<Request> {
    let hello = Hello {
        nodes: vec![node("master"), node("secondary-1")],
        log_epoch: Some(Epoch(4)),
        public_url: Some("https://log.example".parse().unwrap()),
        end: Offset(120),
        adopted_end: Offset(100),
        epoch_starts: starts(&[(1, 0), (2, 17), (4, 100)]),
        epoch_starts_end: Offset(120),
        forced_epoch: None,
    };
    let to_incarnation = progress().to_incarnation;
    let fetch = Fetch {
        to_incarnation,
        from: Offset(3),
        bytes_max: 1 << 20,
        epoch_starts: true,
    };
    [
        RequestBody::Identify,
        RequestBody::Promise(Promise {
            nodes: vec![node("a")],
            log_epoch: None,
        }),
        RequestBody::Hello(hello),
        RequestBody::Heartbeat(progress()),
        RequestBody::Append(Append {
            progress: progress(),
            records: vec![batch(118, &[b"\"a\"", b"", b"{\"b\":[1,2]}"])],
        }),
        RequestBody::Fetch(fetch),
    ]
    .map(request)
    .into()
}

/// One answer of each kind, including refusals.
pub(super) fn responses() -> Vec<Response> {
    let fenced = FencedBy {
        name: node("other"),
        instance: InstanceId::from_bytes([9; 16]),
        epoch: Epoch(5),
    };
    let refusals = [
        Refusal::WrongNode,
        Refusal::WrongCluster,
        Refusal::OtherNodes {
            nodes: vec![node("a"), node("b")],
        },
        Refusal::Fenced(fenced.clone()),
        Refusal::Replaced(fenced.clone()),
        Refusal::OutOfDate(fenced),
        Refusal::HelloFirst,
        Refusal::WrongIncarnation,
        Refusal::NotAligned,
        Refusal::BeyondWindow,
        Refusal::Storage {
            detail: "no space left on device".to_owned(),
        },
        Refusal::Malformed {
            detail: "a \"quoted\" word".to_owned(),
        },
        Refusal::Stopping,
    ];
    let answers = [
        Answer::Identity(Identity {
            nodes: vec![],
            master: None,
        }),
        Answer::Promised(Promised {
            last_whole: None,
            epoch_starts: starts(&[(1, 0)]),
            forced_epoch: None,
        }),
        Answer::Aligned(Aligned {
            cut_records: 3,
            public_url: Some("http://secondary-1:5000".parse().unwrap()),
        }),
        Answer::OlderStartsNeeded { before: Offset(17) },
        Answer::Taken,
        Answer::Records(Fetched {
            epoch_starts: starts(&[(1, 0), (4, 9)]),
            records: vec![],
        }),
        Answer::Records(Fetched {
            epoch_starts: vec![],
            records: vec![batch(9, &[b"null"])],
        }),
    ];
    answers
        .into_iter()
        .chain(refusals.map(Answer::Refused))
        .map(response)
        .collect()
}

#[test]
fn no_damaged_message_makes_it_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let corpus: Vec<Vec<u8>> = requests()
        .iter()
        .map(encode_request)
        .chain(responses().iter().map(encode_response))
        .map(|parts| parts.concat())
        .collect();
    let (mut read, mut refused) = (0, 0);
    for case in 0..100_000 {
        let bytes = damaged(&corpus, &mut rng);
        for result in [reread_request(bytes.clone()), reread_response(bytes)] {
            match result {
                Some(true) => read += 1,
                Some(false) => panic!("case {case} changes when it is encoded again"),
                None => refused += 1,
            }
        }
    }
    assert!(
        read > 1_000 && refused > 100_000,
        "{read} read, {refused} refused"
    );
}

/// A message of the corpus with one to three changes; half of the time with a corrected checksum, so
/// that the checks after it are tried too.
fn damaged(corpus: &[Vec<u8>], rng: &mut ChaCha8Rng) -> Bytes {
    let mut bytes = corpus.choose(rng).expect("not empty").clone();
    for _ in 0..rng.random_range(1..=3) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.random()),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at < bytes.len() => bytes[at] = *b"0918-\"{}[],:".choose(rng).expect("some"),
            4 => {
                let other = corpus.choose(rng).expect("not empty");
                let from = rng.random_range(0..other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            5 => {
                let mut noise = [0; 9];
                rng.fill_bytes(&mut noise);
                bytes.splice(at..at, noise);
            }
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            _ => {}
        }
    }
    // In some cases the header's length is adjusted to the changes.
    if rng.random_bool(0.3) && bytes.len() >= PREFIX_BYTES {
        let end = bytes
            .windows(3)
            .position(|w| w == b"}}}")
            .map_or(bytes.len(), |at| at + 3);
        let length = end.saturating_sub(PREFIX_BYTES) as u32;
        bytes[8..CHECKSUM_AT].copy_from_slice(&length.to_le_bytes());
    }
    if rng.random_bool(0.5) {
        resealed(bytes)
    } else {
        bytes.into()
    }
}

/// Reports whether a decoded message stays the same when it is encoded and decoded again; `None` if it was refused.
fn reread_request(bytes: Bytes) -> Option<bool> {
    let request = decode_request(bytes).ok()?;
    Some(decode_request(joined(&encode_request(&request))).as_ref() == Ok(&request))
}

/// Does for responses what [`reread_request`] does for requests.
fn reread_response(bytes: Bytes) -> Option<bool> {
    let response = decode_response(bytes).ok()?;
    Some(decode_response(joined(&encode_response(&response))).as_ref() == Ok(&response))
}

fn any_offset() -> impl Strategy<Value = Offset> {
    (0..OFFSET_LIMIT.0).prop_map(Offset)
}

fn any_progress() -> impl Strategy<Value = Progress> {
    let optional = || prop::option::of(any_offset());
    (
        any::<[u8; 16]>(),
        any::<u64>(),
        any_offset(),
        optional(),
        optional(),
    )
        .prop_map(
            |(instance, start, end, committed, refill_target)| Progress {
                to_incarnation: Incarnation {
                    instance: InstanceId::from_bytes(instance),
                    start,
                },
                end,
                committed,
                refill_target,
            },
        )
}

fn any_batch() -> impl Strategy<Value = FrameBatch> {
    let payload = prop::collection::vec(any::<u8>(), 0..50);
    (0..1_u64 << 60, prop::collection::vec(payload, 1..5)).prop_map(|(first, payloads)| {
        let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        batch(first, &payloads)
    })
}

proptest! {
    #[test]
    fn any_append_survives_a_round_trip(progress in any_progress(), records in any_batch()) {
        let body = RequestBody::Append(Append { progress, records: vec![records] });
        let sent = request(body);
        prop_assert_eq!(decode_request(joined(&encode_request(&sent))), Ok(sent));
    }

    #[test]
    fn any_split_of_a_batch_arrives_as_the_whole(
        progress in any_progress(),
        whole in any_batch(),
        at in 0_u64..5,
    ) {
        let middle = whole.first().plus(at);
        let halves = [whole.slice(whole.first(), middle), whole.slice(middle, whole.end())];
        let records = halves.into_iter().flatten().collect();
        let split = request(RequestBody::Append(Append { progress, records }));
        let records = vec![whole];
        let expected = request(RequestBody::Append(Append { progress, records }));
        prop_assert_eq!(decode_request(joined(&encode_request(&split))), Ok(expected));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_request(Bytes::from(bytes.clone()));
        let behind_magic = [&b"RPLW\x01\x00"[..], &bytes].concat();
        let _ = decode_response(Bytes::from(behind_magic));
        let _ = decode_request(resealed([&b"RPLW\x01\x00\x01\x00\x10\x00\x00\x00"[..], &bytes].concat()));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let _ = decode_response(message(2, &text, &bytes));
    }
}

#[test]
fn a_forced_epoch_is_encoded_only_by_a_node_that_knows_one() {
    for forced_epoch in [None, Some(Epoch(1 << 32))] {
        let mut sent = requests().swap_remove(2);
        let RequestBody::Hello(hello) = &mut sent.body else {
            panic!("{sent:?}");
        };
        hello.forced_epoch = forced_epoch;
        let bytes = joined(&encode_request(&sent));
        let said = String::from_utf8_lossy(&bytes).contains("forced_epoch");
        assert_eq!(said, forced_epoch.is_some(), "an older node reads the rest");
        assert_eq!(decode_request(bytes), Ok(sent));
        let sent = response(Answer::Promised(Promised {
            last_whole: None,
            epoch_starts: starts(&[(1, 0)]),
            forced_epoch,
        }));
        let bytes = joined(&encode_response(&sent));
        let said = String::from_utf8_lossy(&bytes).contains("forced_epoch");
        assert_eq!(said, forced_epoch.is_some());
        assert_eq!(decode_response(bytes), Ok(sent));
    }
}

use bytes::Bytes;
use proptest::prelude::*;

use super::{testing::fields, *};
use crate::{
    golden::{assert_golden, golden},
    types::EpochStart,
};

#[test]
fn the_encoding_of_a_frame_is_fixed_byte_for_byte() {
    let fields = FrameFields {
        first: Offset(0x0102_0304_0506_0708),
        epoch: Epoch(0x1112_1314_1516_1718),
        timestamp_ms: 0x2122_2324_2526_2728,
        key: b"key",
    };
    let expected = golden("frame");
    let bytes = encoded(&fields, &[b"one", b"two"]);
    assert_golden("frame", &bytes);
    assert_eq!(encoded_len(&bytes), Ok(expected.len()));
    let frame = Frame::decode(&bytes).unwrap();
    assert_eq!(frame.encoded_bytes(), expected.len());
    assert!(frame.payloads().eq([&b"one"[..], b"two"]));
    let claimed = Claimed {
        bytes: expected.len(),
        first: fields.first,
        end: fields.first.plus(2),
        epoch: fields.epoch,
    };
    assert_eq!(Claimed::read(&bytes[..HEADER_BYTES]), Ok(claimed));
}

#[test]
fn the_smallest_frame_has_an_empty_message() {
    let bytes = encoded(&fields(0, 1), &[b""]);
    assert_eq!(bytes.len(), HEADER_BYTES + MESSAGE_HEADER_BYTES);
    assert!(Frame::decode(&bytes).unwrap().payloads().eq([&b""[..]]));
}

#[test]
fn only_the_first_message_of_an_append_has_its_key() {
    let keyed = FrameFields {
        key: b"key",
        ..fields(7, 3)
    };
    let bytes = encoded(&keyed, &[b"one", b"two"]);
    let frame = Frame::decode(&bytes).unwrap();
    let message = |offset, key, payload| MessageRef {
        offset: Offset(offset),
        epoch: Epoch(3),
        timestamp_ms: 0,
        key,
        payload,
    };
    let messages = [message(7, b"key", b"one"), message(8, b"", b"two")];
    assert!(frame.messages().eq(messages));
}

#[test]
fn invalid_bytes_are_refused_with_the_reason() {
    let good = encoded(&fields(4, 1), &[b"payload"]);
    let needed = good.len();
    assert_eq!(Frame::decode(&[]), Err(FrameError::Absent));
    assert_eq!(Frame::decode(&[0; 100]), Err(FrameError::Absent));
    for have in 1..needed {
        let expected = if have < 4 { HEADER_BYTES } else { needed };
        let error = FrameError::Incomplete {
            needed: expected,
            have,
        };
        assert_eq!(Frame::decode(&good[..have]), Err(error), "{have} bytes");
    }
    for length in [1, (FRAME_BYTES_MAX - PREFIX_BYTES + 1) as u32, u32::MAX] {
        let mut bad = good.to_vec();
        bad[..4].copy_from_slice(&length.to_le_bytes());
        assert_eq!(Frame::decode(&bad), Err(FrameError::Length { length }));
    }
    let mut bad = good.to_vec();
    bad[40] = 200;
    assert_eq!(refused(bad), FrameError::Key { key_bytes: 200 });
    for count in [0, 2, u32::MAX] {
        let mut bad = good.to_vec();
        bad[36..40].copy_from_slice(&count.to_le_bytes());
        assert_eq!(refused(bad), FrameError::Messages { count });
    }
    for length in [0_u8, 6, 8, 255] {
        let mut bad = good.to_vec();
        bad[HEADER_BYTES] = length;
        assert_eq!(refused(bad), FrameError::Messages { count: 1 });
    }
    let mut bad = good.to_vec();
    bad[12..20].fill(0xff);
    assert_eq!(refused(bad), FrameError::Messages { count: 1 }, "no offset");
}

#[test]
fn a_frame_of_another_version_or_kind_is_refused_as_such_and_never_for_its_fields() {
    let good = encoded(&fields(4, 1), &[b"payload"]);
    for (at, error) in [(8, FrameError::Version(3)), (9, FrameError::Kind(3))] {
        let mut other = good.to_vec();
        other[at] = 3;
        // Whatever it means by these.
        other[36..].fill(0xff);
        assert_eq!(refused(other.clone()), error);
        assert!(error.is_unknown());
        assert_eq!(Claimed::read(&other), Err(error));
        other[30] ^= 1;
        let damaged = Frame::decode(&other).unwrap_err();
        assert!(!damaged.is_unknown(), "it may be damage: {damaged}");
    }
    let mut shorter = good[..10].to_vec();
    shorter[0] = 2;
    shorter[8] = 3;
    assert_eq!(refused(shorter), FrameError::Version(3));
}

#[test]
fn unknown_flags_are_kept() {
    let mut bytes = encoded(&fields(4, 1), &[b"payload"]).to_vec();
    bytes[10..12].copy_from_slice(&0xfedc_u16.to_le_bytes());
    seal(&mut bytes);
    assert_eq!(Frame::decode(&bytes).unwrap().flags, 0xfedc);
}

#[test]
#[should_panic(expected = "was admitted")]
fn a_frame_beyond_the_limit_is_not_encoded() {
    let payload = vec![0; FRAME_BYTES_MAX - HEADER_BYTES - MESSAGE_HEADER_BYTES + 1];
    fields(0, 1).encode(&[&payload], &mut BytesMut::new());
}

#[test]
#[should_panic(expected = "without a message")]
fn a_frame_without_a_message_is_not_encoded() {
    fields(0, 1).encode(&[], &mut BytesMut::new());
}

#[test]
fn a_batch_takes_only_consecutive_frames() {
    let check = |frames: &[(u64, u64, usize)]| FrameBatch::check(Offset(5), frames_of(frames));
    let length = HEADER_BYTES + MESSAGE_HEADER_BYTES + 1;
    let good = check(&[(5, 2, 1), (6, 2, 2), (8, 3, 1)]).unwrap();
    assert_eq!(
        (good.first(), good.end(), good.count()),
        (Offset(5), Offset(9), 4)
    );
    assert_eq!(
        (good.first_epoch(), good.last_epoch()),
        (Epoch(2), Epoch(3))
    );
    let starts = [(2, 5), (3, 8)].map(|(epoch, first)| EpochStart {
        epoch: Epoch(epoch),
        first: Offset(first),
    });
    assert_eq!(good.epoch_starts().collect::<Vec<_>>(), starts);
    assert_eq!(check(&[]).unwrap_err(), (0, FrameError::Absent));
    let wrong = FrameError::Offset {
        found: Offset(4),
        expected: Offset(5),
    };
    assert_eq!(check(&[(4, 1, 1)]).unwrap_err(), (0, wrong));
    for first in [5, 7] {
        let (found, expected) = (Offset(first), Offset(6));
        let wrong = FrameError::Offset { found, expected };
        assert_eq!(
            check(&[(5, 1, 1), (first, 1, 1)]).unwrap_err(),
            (length, wrong)
        );
    }
    let falls = FrameError::Epoch {
        found: Epoch(1),
        before: Epoch(2),
    };
    assert_eq!(check(&[(5, 2, 1), (6, 1, 1)]).unwrap_err(), (length, falls));
    let mut torn = frames_of(&[(5, 1, 1), (6, 1, 1)]);
    torn.truncate(length + 3);
    let (at, error) = FrameBatch::check(Offset(5), torn).unwrap_err();
    assert_eq!(at, length);
    assert!(matches!(error, FrameError::Incomplete { have: 3, .. }));
}

#[test]
fn a_part_of_a_batch_never_splits_a_frame() {
    // Frames 3..4, 4..6, 6..9.
    let all = testing::appends(3, 1, &[1, 2, 3]);
    let range = |part: Option<FrameBatch>| part.map(|part| (part.first().0, part.end().0));
    let table = [
        ((0, 20), Some((3, 9)), Some((3, 9))),
        ((3, 4), Some((3, 4)), Some((3, 4))),
        ((4, 6), Some((4, 6)), Some((4, 6))),
        ((5, 9), Some((6, 9)), Some((4, 9))),
        ((3, 8), Some((3, 6)), Some((3, 9))),
        ((5, 8), None, Some((4, 9))),
        ((7, 8), None, Some((6, 9))),
        ((4, 4), None, None),
        ((5, 5), None, None),
        ((9, 12), None, None),
    ];
    for ((from, until), within, covering) in table {
        let (from, until) = (Offset(from), Offset(until));
        assert_eq!(range(all.slice(from, until)), within, "{from}..{until}");
        assert_eq!(
            range(all.covering(from, until)),
            covering,
            "{from}..{until}"
        );
    }
    let splits: Vec<u64> = (0..12).filter(|at| all.splits(Offset(*at))).collect();
    assert_eq!(splits, [5, 7, 8]);
}

fn refused(mut bytes: Vec<u8>) -> FrameError {
    seal(&mut bytes);
    Frame::decode(&bytes).unwrap_err()
}

/// Gives a frame the right checksum.
fn seal(bytes: &mut [u8]) {
    let crc = checksum(bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn encoded(fields: &FrameFields<'_>, payloads: &[&[u8]]) -> Bytes {
    let mut bytes = BytesMut::new();
    fields.encode(payloads, &mut bytes);
    bytes.freeze()
}

/// Frames by first offset, epoch and number of messages, each with the payload `x`.
fn frames_of(frames: &[(u64, u64, usize)]) -> Bytes {
    let mut bytes = BytesMut::new();
    for &(first, epoch, count) in frames {
        fields(first, epoch).encode(&vec![&b"x"[..]; count], &mut bytes);
    }
    bytes.freeze()
}

/// A frame except its offset and epoch: its time, key and payloads.
type Made = (u64, Vec<u8>, Vec<Vec<u8>>);

fn made() -> impl Strategy<Value = Made> {
    let bytes = |length| prop::collection::vec(any::<u8>(), 0..length);
    let payloads = prop::collection::vec(bytes(100), 1..5);
    (any::<u64>(), bytes(40), payloads)
}

fn put(first: u64, epoch: u64, (timestamp_ms, key, payloads): &Made, into: &mut BytesMut) {
    let fields = FrameFields {
        first: Offset(first),
        epoch: Epoch(epoch),
        timestamp_ms: *timestamp_ms,
        key,
    };
    let payloads: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..]).collect();
    fields.encode(&payloads, into);
}

/// Encodes frames from offset 3 on, and returns the bytes, the ends in bytes and the ends in offsets.
fn put_all(all: &[(Made, u64)]) -> (Bytes, Vec<usize>, Vec<u64>) {
    let (mut bytes, mut next) = (BytesMut::new(), 3);
    let (mut ends, mut offsets) = (Vec::new(), Vec::new());
    for (made, epoch) in all {
        put(next, *epoch, made, &mut bytes);
        next += made.2.len() as u64;
        ends.push(bytes.len());
        offsets.push(next);
    }
    (bytes.freeze(), ends, offsets)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_frame_survives_a_round_trip(
        first in 0..u64::MAX / 2, epoch in any::<u64>(), made in made(),
    ) {
        let mut bytes = BytesMut::new();
        put(first, epoch, &made, &mut bytes);
        let whole = bytes.len();
        bytes.put_slice(b"whatever follows");
        let frame = Frame::decode(&bytes).unwrap();
        prop_assert_eq!(frame.encoded_bytes(), whole);
        prop_assert_eq!((frame.first, frame.epoch), (Offset(first), Epoch(epoch)));
        prop_assert_eq!((frame.timestamp_ms, frame.key), (made.0, &made.1[..]));
        prop_assert!(frame.payloads().eq(made.2.iter().map(|payload| &payload[..])));
        prop_assert_eq!(frame.end().0 - first, made.2.len() as u64);
    }

    #[test]
    fn a_few_changed_bytes_are_always_noticed(
        made in made(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
    ) {
        let mut good = BytesMut::new();
        put(3, 4, &made, &mut good);
        let mut bad = good.to_vec();
        for (at, change) in changes {
            let at = at.index(bad.len());
            bad[at] ^= change;
        }
        if bad[..] != good[..] {
            prop_assert!(Frame::decode(&bad).is_err());
        }
    }

    #[test]
    fn decoding_any_bytes_does_not_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        length in 0..220_u32,
        known in any::<bool>(),
        right_checksum in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if bytes.len() >= HEADER_BYTES {
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            if known {
                bytes[8..10].copy_from_slice(&[VERSION, KIND_MESSAGES]);
                bytes[37..40].fill(0);
            }
            let end = (PREFIX_BYTES + length as usize).min(bytes.len());
            if right_checksum {
                seal(&mut bytes[..end]);
            }
        }
        let _ = Claimed::read(&bytes);
        if let Ok(frame) = Frame::decode(&bytes) {
            let claimed = Claimed::read(&bytes).unwrap();
            prop_assert_eq!((claimed.first, claimed.end), (frame.first, frame.end()));
            prop_assert_eq!(frame.messages().count(), frame.count as usize);
        }
        let _ = FrameBatch::check(Offset(0), bytes.into());
    }

    /// Rule 10: damage is found where it is, and nothing after it is trusted.
    #[test]
    fn a_changed_byte_in_a_batch_is_found_in_its_frame(
        all in prop::collection::vec(made(), 1..8),
        at in any::<prop::sample::Index>(),
        change in 1..=255_u8,
    ) {
        let all: Vec<_> = all.into_iter().map(|made| (made, 4)).collect();
        let (bytes, ends, _) = put_all(&all);
        let mut bytes = bytes.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let (begin, _) = FrameBatch::check(Offset(3), bytes.into()).unwrap_err();
        let before = ends.iter().rfind(|end| **end <= at);
        prop_assert_eq!(begin, before.copied().unwrap_or(0));
    }

    /// Rule 10: the rest of a truncated batch is its first frames, or is refused.
    #[test]
    fn a_truncated_batch_is_refused_unless_cut_between_frames(
        all in prop::collection::vec(made(), 1..8),
        keep in any::<prop::sample::Index>(),
    ) {
        let all: Vec<_> = all.into_iter().map(|made| (made, 4)).collect();
        let (whole, ends, offsets) = put_all(&all);
        let keep = keep.index(whole.len());
        let full = ends.iter().filter(|end| **end <= keep).count();
        let full_bytes = full.checked_sub(1).map_or(0, |last| ends[last]);
        match FrameBatch::check(Offset(3), whole.slice(..keep)) {
            Ok(batch) => {
                prop_assert_eq!(full_bytes, keep);
                prop_assert_eq!(batch.end().0, offsets[full - 1]);
            }
            Err((at, _)) => {
                prop_assert_eq!(at, full_bytes);
                prop_assert!(full_bytes < keep || keep == 0);
            }
        }
    }

    #[test]
    fn parts_of_a_batch_are_the_frames_asked_for(
        all in prop::collection::vec((made(), 0..3_u64), 1..12),
        from in 0..40_u64, until in 0..40_u64, bytes_max in 0..2000_usize,
    ) {
        let mut epoch = 1;
        let all: Vec<(Made, u64)> = all.into_iter().map(|(made, bump)| {
            epoch += bump / 2;
            (made, epoch)
        }).collect();
        let (bytes, ends, _) = put_all(&all);
        let batch = FrameBatch::check(Offset(3), bytes.clone()).unwrap();
        prop_assert_eq!(batch.frames().count(), all.len());
        let ranges: Vec<(u64, u64)> =
            batch.frames().map(|frame| (frame.first.0, frame.end().0)).collect();
        let expect = |part: Option<FrameBatch>, wanted: &dyn Fn(&(u64, u64)) -> bool| {
            let begin = ranges.iter().position(wanted);
            let expected = begin.map(|begin| {
                let end = ranges.iter().rposition(wanted).unwrap();
                let start = begin.checked_sub(1).map_or(0, |before| ends[before]);
                let first = Offset(ranges[begin].0);
                FrameBatch::check(first, bytes.slice(start..ends[end])).unwrap()
            });
            prop_assert_eq!(part, expected);
            Ok(())
        };
        let part = batch.slice(Offset(from), Offset(until));
        expect(part, &|(first, end)| from <= *first && *end <= until)?;
        let part = batch.covering(Offset(from), Offset(until));
        expect(part, &|(first, end)| from < until && from < *end && *first < until)?;
        let head = batch.head(bytes_max);
        let frames = head.frames().count();
        prop_assert_eq!(head.first(), batch.first());
        prop_assert!(head.bytes().len() <= bytes_max || frames == 1);
        if let Some(next) = ends.get(frames) {
            prop_assert!(*next > bytes_max);
        }
    }
}

//! Tables of keys against a naive search through the log.

use bytes::BytesMut;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::golden::{assert_golden, golden};
use crate::{
    frame::{FrameFields, testing},
    types::ClusterId,
};

/// A record of a log: epoch, key (0: none), payload.
type Plain = (u64, u8, u8);

fn key(number: u8) -> IdempotencyKey {
    IdempotencyKey::new(&format!("key {number}")).unwrap()
}

fn claim(number: u8, payload: u8) -> Claim {
    Claim::new(key(number), &[payload])
}

/// Rule 3 by naive search: finds the newest of the last `horizon` records with this key.
fn naive(log: &[Plain], horizon: u64, number: u8, payload: u8) -> Found {
    let first = log.len().saturating_sub(horizon as usize);
    let found = (first..log.len()).rev().find(|at| log[*at].1 == number);
    let Some(at) = found else { return Found::New };
    let offset = Offset(at as u64);
    if log[at].2 == payload {
        let epoch = Epoch(log[at].0);
        Found::Same { offset, epoch }
    } else {
        Found::Other { offset }
    }
}

fn assert_as_naive(keys: &Keys, log: &[Plain], horizon: u64) {
    keys.check();
    for number in 1..=6 {
        for payload in 0..2 {
            let found = keys.find(&claim(number, payload));
            assert_eq!(found, naive(log, horizon, number, payload), "{number}");
        }
    }
}

fn grown(mut keys: Keys, log: &[Plain]) -> Keys {
    for (epoch, number, payload) in &log[keys.end().0 as usize..] {
        let claim = (*number > 0).then(|| claim(*number, *payload));
        keys.push(Epoch(*epoch), claim.as_ref());
    }
    keys
}

fn batch(log: &[Plain], from: usize, until: usize) -> FrameBatch {
    let mut bytes = BytesMut::new();
    for (at, (epoch, number, payload)) in log.iter().enumerate().take(until).skip(from) {
        let key = if *number > 0 {
            key(*number).to_string()
        } else {
            String::new()
        };
        let fields = FrameFields {
            first: Offset(at as u64),
            epoch: Epoch(*epoch),
            timestamp_ms: 0,
            key: key.as_bytes(),
        };
        fields.encode(&[&[*payload]], &mut bytes);
    }
    FrameBatch::check(Offset(from as u64), bytes.freeze()).unwrap()
}

/// Reads a log to its end, some records at a time.
fn read(mut reading: KeyReading, log: &[Plain], sizes: &[usize]) -> Keys {
    let mut sizes = sizes.iter().cycle();
    while let Some((from, until)) = reading.wanted() {
        let (from, size) = (from.0 as usize, *sizes.next().unwrap());
        assert_eq!(until.0 as usize, log.len());
        reading.on_read(&[batch(log, from, (from + size).min(log.len()))]);
    }
    reading.finish()
}

fn cluster() -> ClusterId {
    ClusterId::from_bytes([7; 16])
}

#[test]
fn a_key_is_known_while_its_record_is_within_the_horizon() {
    let mut keys = Keys::new(3, Offset(10));
    keys.push(Epoch(4), Some(&claim(1, 0)));
    for _ in 0..2 {
        let same = Found::Same {
            offset: Offset(10),
            epoch: Epoch(4),
        };
        assert_eq!(keys.find(&claim(1, 0)), same);
        assert_eq!(keys.find(&claim(1, 1)), Found::Other { offset: Offset(10) });
        assert_eq!(keys.find(&claim(2, 0)), Found::New);
        keys.push(Epoch(5), None);
    }
    keys.push(Epoch(5), None);
    assert_eq!(keys.find(&claim(1, 0)), Found::New, "three others followed");
    keys.check();
    assert_eq!(
        (keys.entries.len(), keys.newest.len()),
        (0, 0),
        "rule 11: nothing is left of it"
    );
}

#[test]
fn removing_an_older_record_of_a_key_keeps_the_newer_one() {
    let log = [(1, 1, 0), (1, 0, 0), (1, 1, 1), (1, 0, 0), (1, 0, 0)];
    let keys = grown(Keys::new(3, Offset::ZERO), &log);
    assert_eq!(
        keys.find(&claim(1, 1)),
        Found::Same {
            offset: Offset(2),
            epoch: Epoch(1)
        }
    );
    keys.check();
}

#[test]
fn a_record_that_cannot_be_read_makes_every_unknown_key_uncertain() {
    let log: Vec<Plain> = (1..=6).map(|number| (1, number, 0)).collect();
    let mut reading = KeyReading::new(5, Offset(6), None);
    assert_eq!(
        reading.wanted(),
        Some((Offset(1), Offset(6))),
        "no more than the horizon is read"
    );
    reading.on_read(&[batch(&log, 1, 2)]);
    assert_eq!(reading.on_failed(), 1);
    assert_eq!(
        reading.on_failed(),
        2,
        "what follows damage may be hidden by it"
    );
    reading.on_read(&[batch(&log, 5, 6)]);
    let mut keys = reading.finish();
    let uncertain = Found::Unreadable { from: Offset(2) };
    for number in [1, 3, 4, 5] {
        assert_eq!(keys.find(&claim(number, 0)), uncertain, "rule 10: {number}");
    }
    assert!(matches!(keys.find(&claim(2, 0)), Found::Same { .. }));
    assert!(matches!(keys.find(&claim(6, 1)), Found::Other { .. }));
    assert_eq!(
        keys.encode(cluster()),
        None,
        "it is not kept for the next start"
    );
    for _ in 0..3 {
        assert_eq!(keys.find(&claim(1, 0)), uncertain);
        keys.push(Epoch(1), None);
    }
    assert_eq!(keys.find(&claim(1, 0)), uncertain);
    keys.push(Epoch(1), None);
    assert_eq!(
        keys.find(&claim(1, 0)),
        Found::New,
        "the horizon has passed it"
    );
    assert!(keys.encode(cluster()).is_some());
}

#[test]
fn an_unreadable_log_takes_few_attempts() {
    let mut reading = KeyReading::new(1_000_000, Offset(1_000_000), None);
    let mut tries = 0;
    while reading.wanted().is_some() {
        reading.on_failed();
        tries += 1;
    }
    assert_eq!(tries, 20);
    assert!(matches!(
        reading.finish().find(&claim(1, 0)),
        Found::Unreadable { .. }
    ));
}

#[test]
fn the_snapshot_format_is_fixed_byte_for_byte() {
    let keys = grown(Keys::new(9, Offset::ZERO), &[(3, 0, 0), (4, 1, 2)]);
    assert_golden("keys", &keys.encode(cluster()).unwrap());
    let digests = [&Sha256::digest(b"key 1")[..16], &Sha256::digest([2])].concat();
    let written = golden("keys");
    assert!(written.windows(digests.len()).any(|found| found == digests));
}

#[test]
fn a_snapshot_of_an_empty_log_is_valid() {
    let bytes = Keys::new(9, Offset::ZERO).encode(cluster()).unwrap();
    let snapshot = Snapshot::decode(&bytes).unwrap();
    assert_eq!(
        snapshot.agrees_with(cluster(), 9, Offset(5), |_| None),
        Ok(())
    );
}

#[test]
fn a_snapshot_with_any_changed_or_missing_byte_is_refused() {
    let keys = grown(Keys::new(9, Offset::ZERO), &[(3, 2, 0), (4, 1, 2)]);
    let good = keys.encode(cluster()).unwrap();
    assert!(Snapshot::decode(&good).is_ok());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(Snapshot::decode(&bad).is_err(), "byte {at}");
        assert!(Snapshot::decode(&good[..at]).is_err(), "{at} bytes");
    }
}

#[test]
fn a_snapshot_of_another_log_is_refused() {
    let keys = grown(Keys::new(9, Offset::ZERO), &[(3, 2, 0), (4, 1, 2)]);
    let snapshot = Snapshot::decode(&keys.encode(cluster()).unwrap()).unwrap();
    let fits = |cluster, horizon, end: u64, epoch: Option<u64>| {
        let epoch_at = |at: Offset| epoch.filter(|_| at == Offset(1)).map(Epoch);
        snapshot
            .agrees_with(cluster, horizon, Offset(end), epoch_at)
            .is_ok()
    };
    assert!(fits(cluster(), 9, 2, Some(4)));
    assert!(fits(cluster(), 5, 7, Some(4)));
    assert!(
        !fits(ClusterId::from_bytes([8; 16]), 9, 2, Some(4)),
        "another cluster"
    );
    assert!(
        !fits(cluster(), 10, 2, Some(4)),
        "it does not look back as far"
    );
    assert!(!fits(cluster(), 9, 1, Some(4)), "the log was cut");
    assert!(
        !fits(cluster(), 9, 2, Some(5)),
        "the log was cut and grew again"
    );
    assert!(!fits(cluster(), 9, 2, None), "the epoch there is unknown");
}

#[test]
fn records_without_keys_cost_nothing() {
    let mut keys = Keys::new(1000, Offset::ZERO);
    keys.push_frames(&testing::batch(0..500, 1));
    assert_eq!((keys.end(), keys.entries.len()), (Offset(500), 0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Rule 3: a table agrees with the log, however it was built.
    #[test]
    fn every_way_to_the_same_log_gives_the_same_table(
        log in prop::collection::vec((0..2_u64, 0..7_u8, 0..2_u8), 0..60),
        horizon in 1..40_u64,
        wider in 0..20_u64,
        sizes in prop::collection::vec(1..9_usize, 1..5),
        stop in any::<prop::sample::Index>(),
    ) {
        let mut epoch = 1;
        let log: Vec<Plain> = log.into_iter().map(|(step, number, payload)| {
            epoch += step;
            (epoch, number, payload)
        }).collect();
        let end = Offset(log.len() as u64);
        let mut keys = Keys::new(horizon, Offset::ZERO);
        for until in 0..=log.len() {
            keys = grown(keys, &log[..until]);
            assert_as_naive(&keys, &log[..until], horizon);
        }
        let rebuilt = read(KeyReading::new(horizon, end, None), &log, &sizes);
        assert_as_naive(&rebuilt, &log, horizon);
        // Both remain the same afterwards, including the entries that newer ones have replaced.
        let newest = |keys: &Keys| {
            let kept = keys.newest.values().map(|number| *keys.entry(*number));
            kept.collect::<Vec<_>>()
        };
        prop_assert_eq!(newest(&rebuilt), newest(&keys));
        let stop = stop.index(log.len() + 1);
        let before = grown(Keys::new(horizon + wider, Offset::ZERO), &log[..stop]);
        let snapshot = Snapshot::decode(&before.encode(cluster()).unwrap()).unwrap();
        let epoch_at = |at: Offset| log.get(at.0 as usize).map(|record| Epoch(record.0));
        prop_assert_eq!(snapshot.agrees_with(cluster(), horizon, end, epoch_at), Ok(()));
        let resumed = read(KeyReading::new(horizon, end, Some(snapshot)), &log, &sizes);
        assert_as_naive(&resumed, &log, horizon);
        prop_assert_eq!(newest(&resumed), newest(&keys));
    }
}

/// Keys of appends of several records, against a table that grows as they are appended.
mod batches {
    use super::*;
    use crate::frame::MessageBatch;

    /// An append: key (0: none), payloads.
    type Append = (u8, Vec<u8>);

    fn messages(append: &Append) -> MessageBatch {
        append.1.iter().map(|payload| vec![*payload; 3]).collect()
    }

    fn claim_of(append: &Append) -> Option<Claim> {
        (append.0 > 0).then(|| Claim::of_batch(key(append.0), &messages(append)))
    }

    /// Returns the table as a leader has it, and the log.
    fn appended(appends: &[Append], horizon: u64) -> (Keys, Vec<FrameBatch>) {
        let mut keys = Keys::new(horizon, Offset::ZERO);
        let mut log = Vec::new();
        for append in appends {
            let (claim, mut batch) = (claim_of(append), messages(append));
            if let Some(claim) = &claim {
                batch.set_key(claim.key_bytes());
            }
            let count = batch.count();
            log.push(batch.stamp(keys.end(), Epoch(1), 0));
            keys.push_append(Epoch(1), claim.as_ref(), count);
            keys.check();
        }
        (keys, log)
    }

    fn append() -> impl Strategy<Value = Append> {
        (0..4_u8, prop::collection::vec(0..2_u8, 1..5))
    }

    #[test]
    fn a_key_whose_append_cannot_be_read_is_uncertain() {
        let (_, log) = appended(&[(1, vec![0, 0, 0]), (2, vec![0])], 100);
        let mut reading = KeyReading::new(100, Offset(4), None);
        reading.on_failed();
        reading.on_failed();
        reading.on_read(&log[1..]);
        let keys = reading.finish();
        let found = keys.find(&claim_of(&(1, vec![0, 0, 0])).unwrap());
        assert_eq!(found, Found::Unreadable { from: Offset(0) });
        let found = keys.find(&claim_of(&(2, vec![0])).unwrap());
        assert!(matches!(found, Found::Same { .. }));
    }

    #[test]
    fn a_key_is_known_though_the_reading_goes_on_inside_its_append() {
        let (_, log) = appended(&[(0, vec![0]), (1, vec![0, 0, 0])], 100);
        let mut reading = KeyReading::new(100, Offset(4), None);
        reading.on_failed();
        reading.on_failed();
        assert_eq!(reading.wanted(), Some((Offset(3), Offset(4))));
        reading.on_read(&log[1..]);
        let keys = reading.finish();
        keys.check();
        let found = keys.find(&claim_of(&(1, vec![0, 0, 0])).unwrap());
        assert!(matches!(found, Found::Same { .. }));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn the_table_read_from_the_log_is_the_appended_one_however_it_is_split(
            appends in prop::collection::vec(append(), 1..20),
            asked in prop::collection::vec(append(), 1..20),
            horizon in 1..30_u64,
            sizes in prop::collection::vec(1..5_u64, 1..6),
        ) {
            let (kept, log) = appended(&appends, horizon);
            let mut reading = KeyReading::new(horizon, kept.end(), None);
            let mut sizes = sizes.iter().cycle();
            while let Some((from, _)) = reading.wanted() {
                let until = from.plus(*sizes.next().unwrap()).min(kept.end());
                let parts = log.iter().filter_map(|batch| batch.covering(from, until));
                reading.on_read(&parts.collect::<Vec<_>>());
            }
            let read = reading.finish();
            read.check();
            for claim in appends.iter().chain(&asked).filter_map(claim_of) {
                prop_assert_eq!(read.find(&claim), kept.find(&claim));
            }
            prop_assert_eq!(read.encode(cluster()), kept.encode(cluster()));
        }
    }
}

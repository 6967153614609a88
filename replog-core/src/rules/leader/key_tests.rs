//! Keys and expected offsets when a leader admits appends.

use super::{
    tests::{Bench, ENDS, SECOND, append},
    *,
};
use crate::{error::Outcome, rules::keys::KeyReading, types::IdempotencyKey};

const ONE: Concern = Concern::Count(1);

fn claim(key: &str, payload: &[u8]) -> Option<Claim> {
    Some(Claim::new(IdempotencyKey::new(key).unwrap(), payload))
}

impl Bench {
    /// Returns an append with a key; its payload is that of all appends here.
    fn keyed(&self, key: &str, concern: Concern, caller: u32) -> NewAppend<u32> {
        NewAppend {
            claim: claim(key, b"12345"),
            ..append(concern, None, self.now, caller)
        }
    }

    /// Returns an append with the same key and another payload.
    fn changed(&self, key: &str, caller: u32) -> NewAppend<u32> {
        NewAppend {
            payload: Bytes::from_static(b"other"),
            claim: claim(key, b"other"),
            ..append(ONE, None, self.now, caller)
        }
    }

    fn admit_one(&mut self, append: NewAppend<u32>) -> Result<(), AppendError> {
        match self.admit(vec![append]).refused.pop() {
            Some(refused) => refused.result.map(drop),
            None => Ok(()),
        }
    }

    /// Returns the answers due now: caller, offset, epoch, and true for a replay.
    fn receipts(&mut self) -> Vec<(u32, u64, u64, bool)> {
        let answered = self.leader.settle(self.now);
        let receipt = |Answered { caller, result }: Answered<u32>| {
            let receipt = result.unwrap();
            (caller, receipt.offset.0, receipt.epoch.0, receipt.replayed)
        };
        answered.into_iter().map(receipt).collect()
    }

    /// Returns a bench that serves epoch 6 from offset 11 on: the record at 10 is of epoch 5 and has the key
    /// `k`.
    fn with_key() -> Bench {
        let mut bench = Bench::recovering();
        let mut keys = Keys::new(1000, Offset(10));
        keys.push(Epoch(5), claim("k", b"12345").as_ref());
        bench.leader.serve(Epoch(6), keys);
        bench.health.on_contact(bench.now);
        bench.report(0, Some(10));
        bench.report(1, Some(10));
        bench
    }
}

#[test]
fn a_known_key_is_answered_with_the_receipt_of_the_first_append() {
    let mut bench = Bench::with_key();
    let admitted = bench.admit(vec![bench.keyed("k", ONE, 1)]);
    assert!(admitted.batches.is_empty() && admitted.refused.is_empty());
    assert_eq!(
        admitted.dropped_bytes, 5,
        "rule 11: its payload is not kept"
    );
    assert_eq!(bench.receipts(), [(1, 10, 5, true)], "rule 3");
    assert_eq!(bench.leader.next_offset(), Offset(11));
}

#[test]
fn a_known_key_waits_for_the_concern_of_the_retry() {
    let mut bench = Bench::with_key();
    bench.admit(vec![
        bench.keyed("k", Concern::All, 1),
        bench.keyed("k", Concern::Majority, 2),
        NewAppend {
            timeout: Some(SECOND),
            ..bench.keyed("k", Concern::All, 3)
        },
    ]);
    assert_eq!(bench.receipts(), []);
    bench.report(0, Some(11));
    assert_eq!(bench.receipts(), [(2, 10, 5, true)]);
    bench.now += SECOND;
    assert_eq!(bench.answered(), [(3, 10, false)], "its time is up");
    bench.report(1, Some(11));
    assert_eq!(bench.receipts(), [(1, 10, 5, true)]);
}

#[test]
fn the_second_of_two_appends_with_a_new_key_joins_the_first() {
    let mut bench = Bench::serving();
    let admitted = bench.admit(vec![
        bench.keyed("k", ONE, 1),
        bench.keyed("l", ONE, 2),
        bench.keyed("k", ONE, 3),
    ]);
    let [batch] = &admitted.batches[..] else {
        panic!("{admitted:?}")
    };
    let keys: Vec<&[u8]> = batch.frames().map(|frame| frame.key).collect();
    assert_eq!(keys, [b"k", b"l"], "rule 3: and the frame names its key");
    bench.leader.on_durable(Offset(12));
    let expected = [(1, 10, 5, false), (3, 10, 5, true), (2, 11, 5, false)];
    assert_eq!(bench.receipts(), expected);
}

#[test]
fn a_key_with_another_payload_is_refused() {
    let mut bench = Bench::with_key();
    let error = bench.admit_one(bench.changed("k", 1)).unwrap_err();
    assert!(matches!(
        error,
        AppendError::KeyReused { offset: Offset(10) }
    ));
    assert_eq!(error.outcome(), Outcome::NotAppended);
    bench.now += 3 * SECOND;
    let error = bench.admit_one(bench.changed("k", 1)).unwrap_err();
    assert!(
        matches!(error, AppendError::KeyReused { .. }),
        "read-only too: {error}"
    );
}

#[test]
fn a_known_key_is_answered_without_a_quorum_too() {
    let mut bench = Bench::with_key();
    bench.now += 3 * SECOND;
    assert_eq!(
        bench.leader.mode(bench.now, &bench.disk).mode,
        Mode::ReadOnly
    );
    bench.admit_one(bench.keyed("k", ONE, 1)).unwrap();
    bench
        .admit_one(bench.keyed("k", Concern::Majority, 2))
        .unwrap();
    assert_eq!(bench.receipts(), [(1, 10, 5, true)]);
    let error = bench.admit_one(bench.keyed("l", ONE, 3)).unwrap_err();
    assert!(
        matches!(error, AppendError::ReadOnly { offset: None, .. }),
        "{error}"
    );
    assert_eq!(
        error.outcome(),
        Outcome::NotAppended,
        "no record has this key"
    );
    bench.report(0, Some(11));
    assert_eq!(bench.receipts(), [(2, 10, 5, true)], "it went on waiting");
}

#[test]
fn a_refused_append_leaves_no_key_behind() {
    let mut bench = Bench::serving();
    let wrong = NewAppend {
        expected_offset: Some(Offset(9)),
        ..bench.keyed("k", ONE, 1)
    };
    assert!(bench.admit_one(wrong).is_err());
    bench.now += 3 * SECOND;
    assert!(bench.admit_one(bench.keyed("k", ONE, 1)).is_err());
    bench.health.on_contact(bench.now);
    bench.report(0, Some(10));
    bench.admit_one(bench.changed("k", 2)).unwrap();
    bench.leader.on_durable(Offset(11));
    assert_eq!(
        bench.receipts(),
        [(2, 10, 5, false)],
        "the key is still free"
    );
}

#[test]
fn during_recovery_nothing_is_known_about_a_key() {
    let mut never = Bench::recovering();
    let mut stopping = Bench::recovering();
    stopping.leader.become_stopping();
    let mut fenced = Bench::recovering();
    fenced.fence();
    for bench in [&mut never, &mut stopping, &mut fenced] {
        let error = bench.admit_one(bench.keyed("k", ONE, 1)).unwrap_err();
        assert_eq!((error.outcome(), error.offset()), (Outcome::Unknown, None));
        assert!(error.is_retryable());
        let plain = bench.one(ONE, None, 1).unwrap();
        assert_eq!(plain.outcome(), Outcome::NotAppended);
        let AppendError::Unsettled { refusal, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(
            refusal.to_string(),
            plain.to_string(),
            "refused for the same reason"
        );
    }
}

#[test]
fn after_leadership_ends_a_key_is_answered_from_what_is_known() {
    for end in ENDS {
        let mut bench = Bench::with_key();
        bench.report(0, Some(11));
        end(&mut bench);
        bench
            .admit_one(bench.keyed("k", Concern::Majority, 1))
            .unwrap();
        assert_eq!(bench.receipts(), [(1, 10, 5, true)], "two nodes hold it");
        let error = bench
            .admit_one(bench.keyed("k", Concern::All, 2))
            .unwrap_err();
        let told = (error.outcome(), error.offset());
        assert_eq!(told, (Outcome::Unknown, Some(Offset(10))), "{error}");
        let error = bench.admit_one(bench.keyed("l", ONE, 3)).unwrap_err();
        assert_eq!(
            error.outcome(),
            Outcome::NotAppended,
            "no record has this key"
        );
        assert_eq!(bench.leader.waiting(), 0);
    }
}

#[test]
fn a_key_can_be_used_again_once_its_record_is_beyond_the_horizon() {
    let mut bench = Bench::recovering();
    let mut keys = Keys::new(2, Offset(10));
    keys.push(Epoch(5), claim("k", b"12345").as_ref());
    bench.leader.serve(Epoch(6), keys);
    bench.health.on_contact(bench.now);
    bench.report(0, None);
    let mut written = Vec::new();
    for (caller, key) in ["l", "k", "m", "k"].into_iter().enumerate() {
        let admitted = bench.admit(vec![bench.keyed(key, ONE, caller as u32)]);
        let batch = admitted.batches.first();
        written.push(batch.map(|batch| batch.first().0));
        bench.leader.on_durable(bench.leader.next_offset());
        assert_eq!(bench.receipts().len(), 1);
    }
    assert_eq!(written, [Some(11), None, Some(12), Some(13)]);
}

#[test]
fn a_key_that_damage_may_hide_is_not_appended() {
    let mut bench = Bench::recovering();
    let mut reading = KeyReading::new(3, Offset(10), None);
    while reading.wanted().is_some() {
        reading.on_failed();
    }
    bench.leader.serve(Epoch(6), reading.finish());
    bench.health.on_contact(bench.now);
    bench.report(0, None);
    for _ in 0..3 {
        let error = bench.admit_one(bench.keyed("k", ONE, 1)).unwrap_err();
        let AppendError::Unsettled {
            refusal,
            offset: None,
        } = &error
        else {
            panic!("{error:?}")
        };
        assert!(
            matches!(**refusal, AppendError::Storage { .. }),
            "rule 10: {error}"
        );
        assert_eq!(error.outcome(), Outcome::Unknown);
        assert!(bench.one(ONE, None, 2).is_none(), "rule 6: others go on");
        bench.leader.on_durable(bench.leader.next_offset());
        assert_eq!(bench.receipts().len(), 1);
    }
    bench
        .admit_one(bench.keyed("k", ONE, 1))
        .expect("three records have followed");
}

#[test]
fn a_retry_that_may_not_wait_is_answered_with_the_offset_of_its_message() {
    let mut bench = Bench::with_key();
    for caller in 0..3 {
        bench
            .admit_one(bench.keyed("k", Concern::All, caller))
            .unwrap();
    }
    let error = bench
        .admit_one(bench.keyed("k", Concern::All, 3))
        .unwrap_err();
    assert_eq!(
        (error.outcome(), error.offset()),
        (Outcome::Unknown, Some(Offset(10)))
    );
    let AppendError::Unsettled { refusal, .. } = error else {
        panic!("{error:?}")
    };
    assert!(matches!(*refusal, AppendError::Overloaded { .. }));
    bench
        .admit_one(bench.keyed("k", ONE, 4))
        .expect("rule 6: it need not wait");
    assert_eq!(bench.receipts(), [(4, 10, 5, true)]);
}

#[test]
fn an_append_is_made_only_at_the_offset_that_it_expects() {
    let mut bench = Bench::serving();
    let expecting = |bench: &Bench, offset| NewAppend {
        expected_offset: Some(Offset(offset)),
        ..append(ONE, None, bench.now, 1)
    };
    for wrong in [9, 11] {
        let error = bench.admit_one(expecting(&bench, wrong)).unwrap_err();
        assert!(matches!(
            error,
            AppendError::OffsetMismatch { next: Offset(10) }
        ));
        assert_eq!(
            (error.outcome(), error.is_retryable()),
            (Outcome::NotAppended, false)
        );
    }
    let admitted = bench.admit(vec![
        expecting(&bench, 10),
        expecting(&bench, 10),
        expecting(&bench, 11),
    ]);
    assert_eq!(
        (admitted.refused.len(), bench.leader.next_offset()),
        (1, Offset(12))
    );
}

#[test]
fn the_key_decides_before_the_mode_and_the_mode_before_the_expected_offset() {
    let mut bench = Bench::with_key();
    let expecting = |append| NewAppend {
        expected_offset: Some(Offset(0)),
        ..append
    };
    bench
        .admit_one(expecting(bench.keyed("k", ONE, 1)))
        .expect("a replay ignores the expected offset");
    let error = bench
        .admit_one(expecting(bench.changed("k", 2)))
        .unwrap_err();
    assert!(matches!(error, AppendError::KeyReused { .. }));
    bench.now += 3 * SECOND;
    let error = bench
        .admit_one(expecting(bench.keyed("l", ONE, 3)))
        .unwrap_err();
    assert!(matches!(error, AppendError::ReadOnly { .. }), "{error}");
}

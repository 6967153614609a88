//! Admission of batches by a leader.

use super::{
    tests::{Bench, SECOND, append},
    *,
};
use crate::{error::Outcome, frame::testing, types::IdempotencyKey};

const ONE: Concern = Concern::Count(1);

fn messages(count: usize) -> MessageBatch {
    std::iter::repeat_n("12345", count).collect()
}

fn of(bench: &Bench, batch: MessageBatch, concern: Concern, caller: u32) -> NewAppend<u32> {
    NewAppend {
        payload: Bytes::new(),
        batch: Some(Box::new(batch)),
        ..append(concern, None, bench.now, caller)
    }
}

/// Returns an append of a batch with the key `k`, as the handle prepares it.
fn keyed(bench: &Bench, payloads: &[&str], concern: Concern, caller: u32) -> NewAppend<u32> {
    let mut batch: MessageBatch = payloads.iter().collect();
    let claim = Claim::of_batch(IdempotencyKey::new("k").unwrap(), &batch);
    batch.set_key(claim.key_bytes());
    NewAppend {
        claim: Some(claim),
        ..of(bench, batch, concern, caller)
    }
}

fn refused(mut admitted: Admitted<u32>) -> AppendError {
    assert_eq!(admitted.batches, []);
    admitted.refused.pop().expect("one").result.unwrap_err()
}

#[test]
fn a_batch_gets_consecutive_offsets_apart_from_appends_that_come_with_it() {
    let mut bench = Bench::serving();
    let appends = vec![
        append(ONE, None, bench.now, 1),
        of(&bench, messages(3), ONE, 2),
        append(ONE, None, bench.now, 3),
    ];
    let admitted = bench.admit(appends);
    let ranges: Vec<(u64, u64, usize)> = admitted
        .batches
        .iter()
        .map(|batch| (batch.first().0, batch.end().0, batch.frames().count()))
        .collect();
    assert_eq!(ranges, [(10, 11, 1), (11, 14, 1), (14, 15, 1)]);
    assert_eq!(
        bench.leader.on_written(Offset(14)),
        5 + 42 + 3 * 9,
        "rule 11: counted as encoded"
    );
    bench.leader.on_durable(Offset(15));
    assert_eq!(
        bench.answered(),
        [(1, 10, true), (2, 11, true), (3, 14, true)]
    );
}

/// Checks rules 2 and 4.
#[test]
fn a_batch_is_acknowledged_and_committed_once_enough_nodes_hold_it() {
    let mut bench = Bench::serving();
    bench.admit(vec![of(&bench, messages(4), Concern::Majority, 1)]);
    bench.leader.on_durable(Offset(14));
    bench.report(0, Some(10));
    assert_eq!(bench.answered(), []);
    assert_eq!(bench.leader.committed(), Some(Offset(10)));
    let waiting = bench.leader.waiting_appends(bench.now, 10);
    assert_eq!(waiting.appends[0].offset, Offset(10));
    assert_eq!(waiting.appends[0].acks.len(), 1);
    bench.report(0, Some(14));
    assert_eq!(bench.answered(), [(1, 10, true)]);
    assert_eq!(bench.leader.committed(), Some(Offset(14)));
}

#[test]
fn a_batch_that_the_master_does_not_hold_yet_is_not_answered_when_its_time_is_up() {
    let mut bench = Bench::serving();
    let mut with_timeout = of(&bench, messages(4), Concern::All, 1);
    with_timeout.timeout = Some(SECOND);
    bench.admit(vec![with_timeout]);
    bench.now += SECOND;
    bench.leader.on_durable(Offset(10));
    assert_eq!(bench.answered(), []);
    bench.leader.on_durable(Offset(14));
    assert_eq!(bench.answered(), [(1, 10, false)]);
}

#[test]
fn a_batch_that_waits_when_leadership_ends_is_answered_with_its_first_offset() {
    let mut bench = Bench::serving();
    bench.admit(vec![of(&bench, messages(4), Concern::All, 1)]);
    let error = bench
        .leader
        .become_stopping()
        .pop()
        .unwrap()
        .result
        .unwrap_err();
    assert_eq!(
        (error.offset(), error.outcome()),
        (Some(Offset(10)), Outcome::Unknown)
    );
}

#[test]
fn a_key_covers_all_messages_of_a_batch_byte_for_byte() {
    let mut bench = Bench::serving();
    bench.admit(vec![keyed(&bench, &["a", "bc"], ONE, 1)]);
    bench.leader.on_durable(Offset(12));
    assert_eq!(bench.answered(), [(1, 10, true)]);
    let again = bench.admit(vec![keyed(&bench, &["a", "bc"], Concern::All, 2)]);
    assert!(again.batches.is_empty() && again.refused.is_empty());
    assert!(again.dropped_bytes > 0, "rule 11");
    bench.report(0, Some(10));
    bench.report(1, Some(12));
    assert_eq!(bench.answered(), []);
    bench.report(0, Some(12));
    assert_eq!(bench.answered(), [(2, 10, true)]);
    for other in [&["ab", "c"][..], &["abc"], &["a", "bc", ""], &["a", "bd"]] {
        let error = refused(bench.admit(vec![keyed(&bench, other, ONE, 3)]));
        assert!(
            matches!(error, AppendError::KeyReused { offset: Offset(10) }),
            "{other:?}: {error:?}"
        );
    }
}

#[test]
fn a_keyed_batch_with_more_messages_than_the_key_horizon_is_refused() {
    let mut bench = Bench::recovering();
    bench.leader.serve(Epoch(5), Keys::new(2, Offset(10)));
    bench.health.on_contact(bench.now);
    bench.report(0, Some(10));
    let error = refused(bench.admit(vec![keyed(&bench, &["a", "b", "c"], ONE, 1)]));
    assert!(
        matches!(
            error,
            AppendError::BatchBeyondHorizon {
                count: 3,
                horizon: 2
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.outcome(), Outcome::NotAppended);
    assert!(
        bench
            .admit(vec![keyed(&bench, &["a", "b"], ONE, 1)])
            .refused
            .is_empty()
    );
    assert!(
        bench
            .admit(vec![of(&bench, messages(3), ONE, 1)])
            .refused
            .is_empty()
    );
}

#[test]
fn a_batch_is_appended_only_if_its_first_message_gets_the_expected_offset() {
    let mut bench = Bench::serving();
    let expecting = |bench: &Bench, offset| NewAppend {
        expected_offset: Some(Offset(offset)),
        ..of(bench, messages(2), ONE, 1)
    };
    let error = refused(bench.admit(vec![expecting(&bench, 11)]));
    assert!(matches!(
        error,
        AppendError::OffsetMismatch { next: Offset(10) }
    ));
    assert!(bench.admit(vec![expecting(&bench, 10)]).refused.is_empty());
    assert_eq!(bench.leader.next_offset(), Offset(12));
}

#[test]
fn a_batch_of_one_is_an_append_like_any_other() {
    let mut bench = Bench::serving();
    let admitted = bench.admit(vec![of(&bench, ["x"].iter().collect(), ONE, 1)]);
    let expected = testing::appends(10, 5, &[1]);
    assert_eq!(admitted.batches, [expected]);
}

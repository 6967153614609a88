//! Buckets, and the count that an answer belongs to.

use super::*;
use crate::{
    error::{LimitName, ModeState},
    types::{Epoch, Mode, ModeReason, Offset},
};

#[test]
fn a_value_belongs_to_the_first_bound_that_is_not_below_it() {
    static BOUNDS: [f64; 3] = [1.0, 4.0, 16.0];
    let mut tally = Tally::new(&BOUNDS);
    for value in [0.0, 1.0, 1.5, 4.0, 16.0, 16.5, 1e9] {
        tally.record(value);
    }
    let histogram = tally.snapshot();
    let buckets = [(1.0, 2), (4.0, 2), (16.0, 1), (f64::INFINITY, 2)];
    assert_eq!(histogram.buckets(), buckets);
    assert_eq!(
        (histogram.count(), histogram.sum()),
        (7, 1e9 + 16.5 + 16.0 + 4.0 + 1.5 + 1.0)
    );
}

#[test]
fn bounds_ascend() {
    let ascend = |bounds: &[f64]| bounds.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(ascend(&SECONDS) && ascend(&RECORDS) && ascend(&BYTES));
}

#[test]
fn each_refusal_reason_has_its_own_index_and_word() {
    let mut words: Vec<_> = RefusalReason::ALL.map(RefusalReason::as_str).into();
    for (at, reason) in RefusalReason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, at, "{reason:?}");
    }
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), RefusalReason::ALL.len());
}

fn receipt(concern: u32, concern_met: bool, replayed: bool) -> Result<Receipt, AppendError> {
    Ok(Receipt {
        offset: Offset(7),
        epoch: Epoch(1),
        concern,
        concern_met,
        acks: [].into(),
        waiting_for: [].into(),
        durable: true,
        replayed,
        elapsed: Duration::from_millis(3),
    })
}

fn read_only(reason: ModeReason, offset: Option<Offset>) -> AppendError {
    let state = Box::new(ModeState {
        mode: Mode::ReadOnly,
        reason: Some(reason),
        detail: String::new(),
        alive: 1,
        needed: 2,
        nodes: 3,
    });
    AppendError::ReadOnly { state, offset }
}

fn overloaded() -> AppendError {
    AppendError::Overloaded {
        limit: LimitName::MaxQueuedBytes,
        value: 1,
    }
}

#[test]
fn an_append_is_counted_by_its_answer() {
    let mut tally = AppendTally::new(3);
    tally.count(&receipt(1, true, false));
    tally.count(&receipt(3, true, false));
    tally.count(&receipt(3, true, false));
    tally.count(&receipt(2, true, true));
    tally.count(&receipt(2, false, false));
    tally.count(&receipt(2, false, true));
    for reason in [
        ModeReason::NoQuorum,
        ModeReason::WaitingForNodes,
        ModeReason::Storage,
        ModeReason::Fenced,
        ModeReason::Asked,
    ] {
        tally.count(&Err(read_only(reason, None)));
    }
    tally.count(&Err(read_only(ModeReason::Fenced, Some(Offset(9)))));
    tally.count(&Err(AppendError::Unsettled {
        refusal: Box::new(overloaded()),
        offset: None,
    }));

    let metrics = tally.snapshot();
    assert_eq!(
        (
            metrics.acknowledged,
            metrics.replayed,
            metrics.timed_out,
            metrics.unknown
        ),
        (3, 1, 2, 2)
    );
    let refused: Vec<_> = metrics
        .refused
        .iter()
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(
        refused,
        [
            &(RefusalReason::NoQuorum, 1),
            &(RefusalReason::WaitingForNodes, 1),
            &(RefusalReason::Fenced, 1),
            &(RefusalReason::Asked, 1),
            &(RefusalReason::Storage, 1),
        ]
    );
    assert_eq!(metrics.refused_total(), 5);
    let latencies: Vec<u64> = metrics.latency.iter().map(Histogram::count).collect();
    assert_eq!(latencies, [1, 0, 2], "by concern, of acknowledged appends");
}

#[test]
fn appends_refused_before_the_queue_are_added_to_the_counts_of_the_coordinator() {
    let door = DoorTally::default();
    door.count(&AppendError::EmptyBatch);
    door.count(&overloaded());
    door.count(&overloaded());
    door.count(&AppendError::Unsettled {
        refusal: Box::new(overloaded()),
        offset: None,
    });
    let mut tally = AppendTally::new(1);
    tally.count(&Err(overloaded()));
    let mut metrics = tally.snapshot();
    door.add_to(&mut metrics);
    let of = |wanted| {
        let found = metrics.refused.iter().find(|(reason, _)| *reason == wanted);
        found.map(|(_, count)| *count)
    };
    assert_eq!(of(RefusalReason::EmptyBatch), Some(1));
    assert_eq!(of(RefusalReason::Overloaded), Some(3));
    assert_eq!((metrics.refused_total(), metrics.unknown), (4, 1));
}

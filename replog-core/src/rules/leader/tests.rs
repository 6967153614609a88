//! A leader under test: appends, reports and time in, answers out.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{
    config::Timing,
    error::Outcome,
    events::FailedRequest,
    rules::{
        health::Health,
        link::{Failure, Link},
    },
    types::{DiskState, InstanceId},
};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) struct Bench {
    pub(super) leader: Leader<u32>,
    pub(super) disk: DiskSpace,
    pub(super) now: Instant,
    pub(super) health: Health,
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn config() -> MasterConfig {
    let peer = |text: &str| Peer {
        name: name(text),
        address: text.to_owned(),
    };
    let mut config = MasterConfig::new(name("m"), vec![peer("s1"), peer("s2")]);
    config.max_waiting_appends = 3;
    config
}

/// A way to end leadership; returns the answers given.
type End = fn(&mut Bench) -> Vec<Answered<u32>>;

/// The ways in which leadership ends for good.
pub(super) const ENDS: [End; 3] = [
    |bench| bench.fence(),
    |bench| bench.fail(),
    |bench| bench.leader.become_stopping(),
];

/// Returns the keys of a log of ten records, none of which has a key.
fn keys() -> Keys {
    Keys::new(1000, Offset(10))
}

pub(super) fn by() -> FencedBy {
    FencedBy {
        name: name("m"),
        instance: InstanceId::from_bytes([9; 16]),
        epoch: Epoch(9),
    }
}

pub(super) fn append(
    concern: Concern,
    timeout: Option<Duration>,
    now: Instant,
    caller: u32,
) -> NewAppend<u32> {
    NewAppend {
        payload: Bytes::from_static(b"12345"),
        batch: None,
        concern,
        timeout,
        arrived: now,
        claim: None,
        expected_offset: None,
        waiter: new_waiter(),
        caller,
    }
}

/// Returns an id that no other waiter has in any test.
pub(super) fn new_waiter() -> WaiterId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    WaiterId(NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Bench {
    pub(super) fn fence(&mut self) -> Vec<Answered<u32>> {
        self.leader.become_fenced(self.now, &self.disk, by())
    }

    pub(super) fn fail(&mut self) -> Vec<Answered<u32>> {
        self.disk.on_failed("broken".into());
        self.leader.become_failed(&"broken".into())
    }

    pub(super) fn run_out_of_space(
        &mut self,
        end: u64,
        outage: WriteOutage,
    ) -> (Vec<Answered<u32>>, usize) {
        let detail = outage.detail.clone();
        self.disk.on_write_failed(self.now, outage);
        self.leader.become_out_of_space(Offset(end), &detail)
    }

    pub(super) fn resume(&mut self) -> bool {
        self.disk.on_resumed(self.now);
        self.leader.on_resumed()
    }

    /// Returns a bench that is recovering, with secondaries that were never reached.
    pub(super) fn recovering() -> Bench {
        let now = Instant::now();
        let link = || Link::new(name("s"), Timing::default(), 1, now).report(now);
        Bench {
            leader: Leader::new(&config(), true, vec![link(), link()]),
            disk: DiskSpace::new(),
            now,
            health: Health::new(&Timing::default(), now),
        }
    }

    /// Returns a bench that serves epoch 5 from offset 10 on, both secondaries Healthy and up to date.
    pub(super) fn serving() -> Bench {
        let mut bench = Bench::recovering();
        bench.leader.serve(Epoch(5), keys());
        bench.health.on_contact(bench.now);
        bench.report(0, Some(10));
        bench.report(1, Some(10));
        bench
    }

    fn link_report(&self, counted: Option<u64>) -> LinkReport {
        LinkReport {
            health: self.health,
            epoch: Some(self.leader.epoch()),
            counted: counted.map(Offset),
            durable_end: counted.map(Offset),
            failed_attempts: 0,
            failure: None,
            failed_request: FailedRequest::Heartbeat,
            next_retry_at: None,
            in_flight_end: Offset::ZERO,
            intact: true,
            public_url: None,
        }
    }

    pub(super) fn report(&mut self, secondary: usize, counted: Option<u64>) {
        let report = self.link_report(counted);
        self.leader.on_report(secondary, report);
    }

    pub(super) fn admit(&mut self, mut appends: Vec<NewAppend<u32>>) -> Admitted<u32> {
        self.leader.admit(self.now, 0, &self.disk, &mut appends)
    }

    /// Admits one append; returns the error if it is refused.
    pub(super) fn one(
        &mut self,
        concern: Concern,
        timeout: Option<Duration>,
        caller: u32,
    ) -> Option<AppendError> {
        let append = append(concern, timeout, self.now, caller);
        let mut admitted = self.admit(vec![append]);
        let refused = admitted.refused.pop()?;
        assert_eq!((admitted.batches.len(), admitted.dropped_bytes), (0, 5));
        assert_eq!(refused.caller, caller);
        refused.result.err()
    }

    /// Returns the answers due now: caller, offset, and true if the concern is met.
    pub(super) fn answered(&mut self) -> Vec<(u32, u64, bool)> {
        let answered = self.leader.settle(self.now);
        answered
            .into_iter()
            .map(|Answered { caller, result }| {
                let receipt = result.unwrap();
                (caller, receipt.offset.0, receipt.concern_met)
            })
            .collect()
    }
}

#[test]
fn appends_get_consecutive_offsets_and_one_batch() {
    let mut bench = Bench::serving();
    let now = bench.now;
    let appends = [
        append(Concern::Count(1), None, now, 1),
        append(Concern::Count(4), None, now, 2),
        append(Concern::All, None, now, 3),
    ];
    let admitted = bench.admit(appends.into());
    let [batch] = &admitted.batches[..] else {
        panic!("{:?}", admitted.batches)
    };
    assert_eq!((batch.first(), batch.end()), (Offset(10), Offset(12)));
    assert_eq!(
        (batch.first_epoch(), batch.last_epoch()),
        (Epoch(5), Epoch(5))
    );
    let refused = &admitted.refused[0];
    assert!(matches!(
        refused.result,
        Err(AppendError::Concern { nodes: 3 })
    ));
    assert_eq!((refused.caller, admitted.dropped_bytes), (2, 5));
    assert_eq!(bench.leader.next_offset(), Offset(12));
    assert_eq!(
        bench.leader.on_written(Offset(11)),
        0,
        "the batch is not written yet"
    );
    assert_eq!(bench.leader.on_written(Offset(12)), 10);
}

#[test]
fn an_append_is_answered_once_its_concern_is_met() {
    let mut bench = Bench::serving();
    bench.one(Concern::Count(1), None, 1);
    bench.one(Concern::Majority, None, 2);
    bench.one(Concern::All, None, 3);
    bench.report(0, Some(13));
    assert_eq!(
        bench.answered(),
        [],
        "the master's own disk is part of every ack"
    );
    bench.leader.on_durable(Offset(13));
    assert_eq!(bench.answered(), [(1, 10, true), (2, 11, true)]);
    assert_eq!(bench.leader.committed(), Some(Offset(13)));
    bench.report(0, None);
    bench.report(1, Some(13));
    assert_eq!(bench.answered(), [], "an end that does not count any more");
    bench.report(0, Some(13));
    assert_eq!(bench.answered(), [(3, 12, true)]);
    assert_eq!(bench.leader.waiting(), 0);
}

#[test]
fn an_append_whose_time_is_up_is_answered_with_what_is_known() {
    let mut bench = Bench::serving();
    bench.one(Concern::All, Some(SECOND), 1);
    bench.one(Concern::All, Some(Duration::ZERO), 2);
    assert_eq!(
        bench.leader.next_deadline(bench.now),
        Some(bench.now + SECOND)
    );
    bench.leader.on_durable(Offset(11));
    assert_eq!(bench.answered(), []);
    bench.now += SECOND;
    assert_eq!(bench.answered(), [(1, 10, false)]);
    bench.leader.on_durable(Offset(12));
    assert_eq!(
        bench.answered(),
        [(2, 11, false)],
        "it did not wait for others at all"
    );
}

#[test]
fn no_more_appends_wait_for_a_concern_than_allowed() {
    let mut bench = Bench::serving();
    for caller in 0..3 {
        assert!(bench.one(Concern::All, None, caller).is_none());
    }
    let refused = bench.one(Concern::All, None, 3);
    assert!(matches!(
        refused,
        Some(AppendError::Overloaded {
            limit: LimitName::MaxWaitingAppends,
            value: 3
        })
    ));
    assert!(
        bench.one(Concern::Count(1), None, 4).is_none(),
        "rule 6: others go on"
    );
    assert!(bench.one(Concern::All, Some(Duration::ZERO), 5).is_none());
    assert_eq!(bench.leader.waiting(), 5);
}

#[test]
fn an_append_whose_caller_is_gone_frees_its_place_and_leaves_its_message_in_the_log() {
    let mut bench = Bench::serving();
    let now = bench.now;
    let gone = append(Concern::All, Some(SECOND), now, 1);
    let waiter = gone.waiter;
    bench.admit(vec![gone]);
    for caller in 2..=3 {
        assert!(bench.one(Concern::All, None, caller).is_none());
    }
    assert!(bench.one(Concern::All, None, 4).is_some(), "it is full");
    bench.leader.forget(waiter);
    assert_eq!(bench.leader.waiting_appends(now, 10).total, 2);
    assert_eq!(bench.leader.next_offset(), Offset(13));
    assert!(bench.one(Concern::All, None, 5).is_none());
    bench.now += SECOND;
    bench.leader.on_durable(Offset(14));
    assert_eq!(
        bench.answered(),
        [],
        "an append without a caller is not answered"
    );
    for secondary in 0..2 {
        bench.report(secondary, Some(14));
    }
    let answered = [(2, 11, true), (3, 12, true), (5, 13, true)];
    assert_eq!(bench.answered(), answered);
    assert_eq!(bench.leader.committed(), Some(Offset(14)));
}

#[test]
fn mode_follows_from_state_and_clock() {
    let mut bench = Bench::recovering();
    let mode = |bench: &Bench| {
        let state = bench.leader.mode(bench.now, &bench.disk);
        (state.mode, state.reason, state.alive)
    };
    let recovering = (Mode::Recovering, Some(ModeReason::WaitingForNodes), 3);
    assert_eq!(mode(&bench), recovering);
    bench = Bench::serving();
    assert_eq!(mode(&bench), (Mode::ReadWrite, None, 3));
    bench.now += 2 * SECOND;
    assert_eq!(
        mode(&bench),
        (Mode::ReadWrite, None, 3),
        "Suspected nodes count"
    );
    bench.now += SECOND;
    let no_quorum = (Mode::ReadOnly, Some(ModeReason::NoQuorum), 1);
    assert_eq!(mode(&bench), no_quorum, "without any event in between");
    bench.health.on_contact(bench.now);
    bench.report(1, None);
    assert_eq!(mode(&bench), (Mode::ReadWrite, None, 2));
    bench.fence();
    assert_eq!(mode(&bench), (Mode::ReadOnly, Some(ModeReason::Fenced), 2));
    bench.fail();
    assert_eq!(mode(&bench), (Mode::ReadOnly, Some(ModeReason::Storage), 2));
    assert_eq!(bench.disk.disk(), DiskState::Failed);
}

#[test]
fn a_refused_append_gets_no_offset() {
    let mut recovering = Bench::recovering();
    let mut alone = Bench::serving();
    alone.now += 3 * SECOND;
    let mut fenced = Bench::serving();
    fenced.fence();
    let mut failed = Bench::serving();
    failed.fail();
    let mut stopping = Bench::serving();
    stopping.leader.become_stopping();
    let benches = [
        &mut recovering,
        &mut alone,
        &mut fenced,
        &mut failed,
        &mut stopping,
    ];
    for bench in benches {
        let next = bench.leader.next_offset();
        let error = bench.one(Concern::Count(1), None, 1).unwrap();
        assert_eq!(error.outcome(), Outcome::NotAppended, "{error}");
        assert_eq!(bench.leader.next_offset(), next);
        let error = bench.one(Concern::Count(9), None, 1).unwrap();
        assert!(matches!(error, AppendError::Concern { nodes: 3 }));
    }
}

#[test]
fn waiting_appends_are_answered_unknown_when_leadership_ends() {
    for end in ENDS {
        let mut bench = Bench::serving();
        bench.one(Concern::All, Some(SECOND), 1);
        bench.one(Concern::Count(1), None, 2);
        let mut told: Vec<(u32, Option<Offset>)> = end(&mut bench)
            .into_iter()
            .map(|answered| {
                let error = answered.result.unwrap_err();
                assert_eq!(error.outcome(), Outcome::Unknown);
                (answered.caller, error.offset())
            })
            .collect();
        told.sort_unstable();
        assert_eq!(told, [(1, Some(Offset(10))), (2, Some(Offset(11)))]);
        bench.leader.on_durable(Offset(12));
        bench.now += 2 * SECOND;
        assert_eq!(bench.answered(), [], "no append is answered twice");
    }
}

#[test]
fn waiting_appends_go_on_waiting_without_a_quorum_and_are_answered_with_one() {
    let mut bench = Bench::serving();
    bench.one(Concern::Majority, None, 1);
    bench.leader.on_durable(Offset(11));
    bench.now += 10 * SECOND;
    assert!(bench.one(Concern::Majority, None, 2).is_some());
    assert_eq!(bench.answered(), []);
    bench.health.on_contact(bench.now);
    bench.report(0, Some(11));
    assert_eq!(bench.answered(), [(1, 10, true)]);
    assert!(
        bench.one(Concern::Majority, None, 3).is_none(),
        "it serves again by itself"
    );
}

#[test]
fn a_receipt_names_the_nodes_that_hold_the_record_and_why_the_others_do_not() {
    let mut bench = Bench::serving();
    bench.one(Concern::Majority, None, 1);
    bench.leader.on_durable(Offset(11));
    bench.report(0, Some(11));
    bench.now += SECOND / 10;
    let answered = bench.leader.settle(bench.now).pop().unwrap();
    let receipt = answered.result.unwrap();
    assert_eq!(
        (receipt.offset, receipt.epoch, receipt.concern),
        (Offset(10), Epoch(5), 2)
    );
    assert_eq!(receipt.acks[..], [name("m"), name("s1")]);
    assert_eq!((receipt.durable, receipt.elapsed), (true, SECOND / 10));
    let [waiting] = &receipt.waiting_for[..] else {
        panic!("{receipt:?}")
    };
    assert_eq!(
        (&waiting.name, waiting.status),
        (&name("s2"), Status::Healthy)
    );
}

#[test]
fn a_waited_for_node_is_reported_with_the_reason() {
    let mut bench = Bench::serving();
    bench.one(Concern::All, None, 1);
    let never = Bench::recovering().leader.secondaries[0].report.clone();
    let behind = bench.link_report(Some(10));
    let in_flight = LinkReport {
        in_flight_end: Offset(11),
        ..behind.clone()
    };
    let failure = |reason| LinkReport {
        failure: Some(Failure {
            reason,
            detail: "why".into(),
        }),
        next_retry_at: Some(bench.now + SECOND),
        ..in_flight.clone()
    };
    let table = [
        (never, WaitReason::NotReachedYet),
        (behind, WaitReason::CatchingUp),
        (in_flight.clone(), WaitReason::InFlight),
        (failure(WaitReason::TimedOut), WaitReason::TimedOut),
        (failure(WaitReason::Storage), WaitReason::Storage),
    ];
    for (report, reason) in table {
        let retry = report.next_retry_at.map(|_| SECOND);
        bench.leader.on_report(1, report);
        let holders = bench.leader.holders(bench.now, Offset(10));
        let waiting: Vec<_> = holders.waiting_for.iter().collect();
        assert_eq!(
            (&waiting[0].name, waiting[0].reason),
            (&name("m"), WaitReason::InFlight)
        );
        assert_eq!((waiting[2].reason, waiting[2].next_retry), (reason, retry));
        let listed = bench.leader.waiting_appends(bench.now, 10);
        assert_eq!(
            (listed.total, &listed.appends[0].waiting_for),
            (1, &holders.waiting_for)
        );
    }
}

#[test]
fn committed_is_unknown_after_a_start_until_a_majority_has_the_log_epoch() {
    let mut bench = Bench::recovering();
    bench.leader.serve(Epoch(5), keys());
    assert_eq!(bench.leader.committed(), None);
    bench.report(0, None);
    assert_eq!(bench.leader.committed(), None);
    bench.report(0, Some(8));
    assert_eq!(bench.leader.committed(), Some(Offset(8)));
    bench.report(0, None);
    assert_eq!(
        bench.leader.committed(),
        Some(Offset(8)),
        "it never goes back"
    );
}

fn full() -> WriteOutage {
    WriteOutage {
        disk: DiskState::Full,
        detail: "no room".into(),
    }
}

#[test]
fn a_full_disk_ends_leadership_and_appends_with_an_offset_are_answered_unknown() {
    let mut bench = Bench::serving();
    for caller in 1..=2 {
        assert!(bench.one(Concern::Majority, None, caller).is_none());
    }
    bench.leader.on_written(Offset(11));
    let (answered, freed_bytes) = bench.run_out_of_space(11, full());
    assert_eq!(freed_bytes, 5, "the second one is not queued any more");
    let told: Vec<_> = answered
        .iter()
        .map(|answered| match &answered.result {
            Err(error @ AppendError::Storage { offset, .. }) => {
                (answered.caller, *offset, error.outcome())
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        (1, Some(Offset(10)), Outcome::Unknown),
        (2, Some(Offset(11)), Outcome::Unknown),
    ];
    assert_eq!(told, expected);
    let state = bench.leader.mode(bench.now, &bench.disk);
    assert_eq!(
        (state.mode, state.reason, bench.disk.disk()),
        (Mode::Recovering, Some(ModeReason::Storage), DiskState::Full)
    );
    assert_eq!(bench.leader.next_offset(), Offset(11));
    assert!(!bench.leader.is_serving() && bench.leader.may_be_lost());

    let refused = bench.one(Concern::Count(1), None, 3).unwrap();
    assert!(matches!(refused, AppendError::Storage { offset: None, .. }));
    bench.now += 10 * SECOND;
    let refused = bench.one(Concern::Count(1), None, 4).unwrap();
    assert!(
        matches!(refused, AppendError::Storage { .. }),
        "507 comes before 503, without a quorum too"
    );
}

#[test]
fn with_disk_space_again_the_master_repeats_its_start_and_counts_afresh() {
    let mut bench = Bench::serving();
    bench.leader.on_durable(Offset(10));
    assert_eq!(bench.leader.committed(), Some(Offset(10)));
    bench.run_out_of_space(10, full());
    assert!(!bench.disk.should_probe(bench.now), "not at once");
    bench.now = bench.disk.next_deadline().unwrap();
    assert!(bench.disk.should_probe(bench.now));
    assert!(!bench.disk.should_probe(bench.now));
    assert!(bench.resume());
    let state = bench.leader.mode(bench.now, &bench.disk);
    let waiting = (Mode::Recovering, Some(ModeReason::WaitingForNodes));
    assert_eq!((state.mode, state.reason), waiting);
    assert_eq!(bench.disk.disk(), DiskState::Ok);
    assert_eq!(bench.leader.committed(), None);
    let refused = bench.one(Concern::Count(1), None, 1).unwrap();
    assert!(matches!(refused, AppendError::ReadOnly { .. }));

    // A report of the old conversation arrives late, before and after the new epoch began.
    bench.report(0, Some(10));
    assert_eq!(bench.leader.committed(), None);
    let late = bench.link_report(Some(10));
    bench.leader.serve(Epoch(6), keys());
    bench.leader.on_report(0, late);
    assert_eq!(bench.leader.committed(), None, "that was epoch 5");
    bench.report(0, Some(10));
    assert_eq!(bench.leader.committed(), Some(Offset(10)));
}

#[test]
fn a_fenced_master_stays_fenced_on_a_full_disk() {
    let mut bench = Bench::serving();
    bench.fence();
    bench.run_out_of_space(10, full());
    assert_eq!(
        bench.leader.mode(bench.now, &bench.disk).reason,
        Some(ModeReason::Fenced)
    );
    assert!(!bench.resume(), "no start of its own");
    let mut bench = Bench::serving();
    bench.run_out_of_space(10, full());
    bench.fence();
    assert!(!bench.resume());
}

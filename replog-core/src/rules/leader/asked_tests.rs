//! Read-only because an operator asked for it.

use super::{
    tests::{Bench, SECOND},
    *,
};
use crate::{error::Outcome, rules::disk_space::WriteOutage, types::DiskState};

const ONE: Concern = Concern::Count(1);

fn mode(bench: &Bench) -> (Mode, Option<ModeReason>) {
    let state = bench.leader.mode(bench.now, &bench.disk);
    (state.mode, state.reason)
}

const ASKED: (Mode, Option<ModeReason>) = (Mode::ReadOnly, Some(ModeReason::Asked));
const NO_QUORUM: (Mode, Option<ModeReason>) = (Mode::ReadOnly, Some(ModeReason::NoQuorum));

#[test]
fn a_requested_pause_refuses_new_appends_while_waiting_ones_go_on_waiting() {
    let mut bench = Bench::serving();
    assert!(bench.one(Concern::All, None, 1).is_none());
    assert!(bench.one(Concern::All, Some(SECOND), 2).is_none());
    bench.leader.pause_appends();
    bench.leader.pause_appends();
    assert_eq!(mode(&bench), ASKED);
    let refused = bench.one(ONE, None, 3).unwrap();
    assert_eq!(
        (refused.outcome(), refused.is_retryable()),
        (Outcome::NotAppended, true)
    );
    assert_eq!(bench.leader.next_offset(), Offset(12));
    assert_eq!(
        bench.answered(),
        [],
        "an append that has an offset goes on waiting"
    );
    bench.leader.on_written(Offset(12));
    bench.leader.on_durable(Offset(12));
    bench.report(0, Some(12));
    bench.now += SECOND;
    assert_eq!(bench.answered(), [(2, 11, false)], "its time is up");
    bench.report(1, Some(12));
    assert_eq!(bench.answered(), [(1, 10, true)]);
    assert_eq!(bench.leader.waiting(), 0, "no append waits any more");

    bench.leader.resume_appends();
    assert_eq!(mode(&bench), (Mode::ReadWrite, None));
    assert!(bench.one(ONE, None, 4).is_none());
    bench.leader.resume_appends();
    assert_eq!(mode(&bench), (Mode::ReadWrite, None));
}

#[test]
fn a_requested_pause_is_reported_before_a_missing_quorum_and_after_all_else() {
    let mut bench = Bench::serving();
    bench.leader.pause_appends();
    bench.now += 3 * SECOND;
    assert_eq!(mode(&bench), ASKED);
    assert_eq!(
        bench.leader.mode(bench.now, &bench.disk).alive,
        1,
        "the quorum's numbers are reported as well"
    );
    bench.leader.resume_appends();
    assert_eq!(
        mode(&bench),
        NO_QUORUM,
        "only the operator's request is lifted"
    );
    bench.leader.pause_appends();
    bench.health.on_contact(bench.now);
    bench.report(0, Some(10));
    assert_eq!(mode(&bench), ASKED, "a quorum is not enough");

    let fenced = (Mode::ReadOnly, Some(ModeReason::Fenced));
    bench.fence();
    assert_eq!(mode(&bench), fenced);
    bench.leader.resume_appends();
    assert_eq!(mode(&bench), fenced);
    bench.leader.pause_appends();
    bench.fail();
    assert_eq!(mode(&bench), (Mode::ReadOnly, Some(ModeReason::Storage)));
}

#[test]
fn a_requested_pause_holds_in_a_later_epoch_too() {
    let mut bench = Bench::recovering();
    let recovering = (Mode::Recovering, Some(ModeReason::WaitingForNodes));
    bench.leader.pause_appends();
    assert_eq!(mode(&bench), recovering);
    bench.leader.serve(Epoch(5), Keys::new(1000, Offset(10)));
    assert_eq!(mode(&bench), ASKED, "no append slips in between");

    let outage = WriteOutage {
        disk: DiskState::Full,
        detail: "full".into(),
    };
    bench.run_out_of_space(10, outage);
    assert_eq!(mode(&bench), (Mode::Recovering, Some(ModeReason::Storage)));
    bench.resume();
    assert_eq!(mode(&bench), recovering);
    bench.leader.serve(Epoch(6), Keys::new(1000, Offset(10)));
    assert_eq!(mode(&bench), ASKED);
}

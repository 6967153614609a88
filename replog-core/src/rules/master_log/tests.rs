use std::sync::Arc;

use super::*;
use crate::{
    frame::testing::batch,
    log::{ClusterIdentity, Meta},
    types::{ClusterId, DiskState, InstanceId, LastWhole, NodeName},
};

use MasterState::{Idle, Leading, Recovering, Won};

const LEADING: MasterState = Leading(Epoch(5));
/// An offset beyond every log: the inspection finds nothing, and reports the ends.
const BEYOND: u64 = u64::MAX;

/// Short form of an action in tests.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Did {
    /// The log epoch that is saved.
    Save(Option<u64>),
    /// Inspects, and goes on meanwhile.
    Inspect(u64),
    /// Inspects, and holds back what follows the damage.
    InspectHeldBack(u64),
    DropRecovery,
    StepDown,
    Recover,
    /// The holes.
    Publish(Vec<(u64, u64)>),
    RereadKeys,
    Irreparable(u64, u64),
}
use Did::{DropRecovery, Inspect, InspectHeldBack, Publish, Recover, RereadKeys, Save, StepDown};

/// A master with a log of ten records.
struct Bench {
    log: MasterLog,
    now: Instant,
}

impl Bench {
    /// Returns a bench with an intact log of log epoch 5.
    fn new() -> Bench {
        let name = NodeName::new("m").unwrap();
        let meta = Meta {
            name: name.clone(),
            instance: InstanceId::from_bytes([7; 16]),
            start: 3,
            cluster: Some(ClusterIdentity {
                id: ClusterId::from_bytes([1; 16]),
                nodes: vec![name],
            }),
            promised: None,
            log_epoch: Some(Epoch(5)),
            last_whole: None,
            forced_epoch: None,
        };
        Bench {
            log: MasterLog::new(MasterNode::new(meta, OwnLog::whole(Offset(10)))),
            now: Instant::now(),
        }
    }

    fn did(&mut self) -> Vec<Did> {
        let did = |action| {
            Some(match action {
                MasterLogAction::Save(save) => Save(save.meta.log_epoch.map(|epoch| epoch.0)),
                MasterLogAction::Inspect {
                    offset,
                    held_back: HeldBack::No,
                } => Inspect(offset.0),
                MasterLogAction::Inspect {
                    offset,
                    held_back: HeldBack::Yes,
                } => InspectHeldBack(offset.0),
                MasterLogAction::DropRecovery => DropRecovery,
                MasterLogAction::StepDown => StepDown,
                MasterLogAction::Recover => Recover,
                MasterLogAction::PublishMissing(holes) => Publish(
                    holes
                        .iter()
                        .map(|hole| (hole.start.0, hole.end.0))
                        .collect(),
                ),
                MasterLogAction::RereadKeys => RereadKeys,
                MasterLogAction::Changed(MasterLogChange::Irreparable(missing)) => {
                    Did::Irreparable(missing.from.0, missing.until.0)
                }
                MasterLogAction::Changed(_) => return None,
            })
        };
        let actions = self.log.take_actions().into_iter();
        actions.filter_map(did).collect()
    }

    fn notice(&mut self, offset: u64, state: MasterState) -> Vec<Did> {
        self.log
            .on_damage_noticed(Offset(offset), Offset(10), state);
        self.did()
    }

    /// Reports all saves as done.
    fn saved(&mut self, saves: u64) {
        for _ in 0..saves {
            let ticket = self.log.node.first_ticket();
            self.log.node_mut().on_saved(ticket);
        }
        assert_eq!(self.did(), []);
    }

    /// Reports an inspection that found these holes.
    fn inspected(&mut self, holes: &[(u64, u64)], state: MasterState) -> Vec<Did> {
        let own = OwnLog {
            whole_end: Offset(holes.first().map_or(10, |(from, _)| *from)),
            end: Offset(10),
        };
        let holes = holes.iter();
        let holes = holes.map(|(from, until)| Offset(*from)..Offset(*until));
        self.log.on_inspected(holes.collect(), own, state);
        self.did()
    }

    /// Returns a bench with a leader that lacks a record.
    fn lacking() -> Bench {
        let mut bench = Bench::new();
        bench.notice(3, LEADING);
        bench.saved(1);
        assert_eq!(bench.inspected(&[(3, 4)], LEADING), [publish(3, 4)]);
        bench
    }

    fn fill_disk(&mut self) {
        let outage = WriteOutage {
            disk: DiskState::Full,
            detail: Arc::from("no space"),
        };
        self.log.on_write_failed(self.now, outage);
        assert_eq!(self.did(), []);
    }

    fn make_room(&mut self, has_stepped_down: bool) -> Vec<Did> {
        let own = OwnLog::whole(Offset(10));
        self.log.on_resumed(self.now, own, has_stepped_down);
        self.did()
    }

    fn log_epoch(&self) -> Option<u64> {
        self.log.node().saved().log_epoch.map(|epoch| epoch.0)
    }

    /// Ends the inspection of 3, after which that of 8 comes before a recovery.
    #[track_caller]
    fn inspects_another_before_it_recovers(&mut self) {
        assert_eq!(
            self.inspected(&[(3, 4)], Idle),
            [DropRecovery, Save(None), InspectHeldBack(8)]
        );
        self.saved(1);
        assert_eq!(self.inspected(&[(3, 4), (8, 9)], Idle), [Recover]);
    }
}

fn publish(from: u64, until: u64) -> Did {
    Publish(vec![(from, until)])
}

#[test]
fn a_damaged_log_is_held_back_before_the_recovery_and_not_while_leading() {
    let table = [
        (
            Recovering,
            vec![DropRecovery, Save(None), InspectHeldBack(3)],
        ),
        (Won, vec![Save(None), Inspect(3)]),
        (LEADING, vec![Save(None), Inspect(3)]),
        (Idle, vec![Save(None), Inspect(3)]),
    ];
    for (state, expected) in table {
        assert_eq!(Bench::new().notice(3, state), expected, "{state:?}");
    }
}

#[test]
fn a_recovery_starts_over_once_the_damage_is_known() {
    let mut bench = Bench::new();
    bench.notice(3, Recovering);
    bench.saved(1);
    assert_eq!(bench.inspected(&[(3, 5)], Idle), [Recover]);
    let node = bench.log.node();
    let own = OwnLog {
        whole_end: Offset(3),
        end: Offset(10),
    };
    assert_eq!((node.own_log(), node.saved().log_epoch), (own, None));
}

#[test]
fn what_a_dropped_recovery_had_not_asked_to_save_goes_with_it() {
    let mut bench = Bench::new();
    bench.log.node_mut().promise_to_self(Epoch(6));
    let _save = bench.log.node_mut().save(MasterWork::Recovery);
    bench.log.node_mut().stage_forced_epoch(Some(Epoch(2)));
    bench.notice(3, Recovering);
    let staged = bench.log.node().staged();
    assert_eq!((staged.forced_epoch, staged.log_epoch), (None, None));
    let held = LastWhole {
        log_epoch: Epoch(5),
        end: Offset(10),
    };
    assert_eq!(staged.last_whole, Some(held));
    assert_eq!(bench.log.node().promised_epoch(), Epoch(6));
}

#[test]
fn a_leader_is_intact_again_once_nothing_is_missing() {
    let mut bench = Bench::lacking();
    assert_eq!(bench.log_epoch(), None);
    let epoch_at = |_| Some(Epoch(5));
    let fetched = bench.log.on_fetched(&[batch(3..4, 5)], epoch_at);
    assert_eq!(fetched, [batch(3..4, 5)]);
    bench.log.on_whole(Offset(10), LEADING);
    assert_eq!(bench.did(), [Publish(vec![]), Save(Some(5)), RereadKeys]);
    bench.saved(1);
    assert_eq!(bench.log_epoch(), Some(5));
}

#[test]
fn a_record_that_can_be_read_after_all_leaves_the_leader_intact() {
    let mut bench = Bench::new();
    bench.notice(3, LEADING);
    bench.saved(1);
    assert_eq!(bench.log_epoch(), None, "not while it is inspected");
    let did = bench.inspected(&[], LEADING);
    assert_eq!(did, [Publish(vec![]), Save(Some(5)), RereadKeys]);
}

#[test]
fn a_log_under_inspection_is_not_intact_even_if_nothing_is_missing() {
    let mut bench = Bench::lacking();
    assert_eq!(bench.notice(8, LEADING), [Save(None), Inspect(8)]);
    bench.log.on_whole(Offset(10), LEADING);
    assert_eq!(bench.did(), [Publish(vec![])]);
    bench.log.on_leading(Epoch(5));
    assert_eq!(bench.did(), [Publish(vec![])]);
}

#[test]
fn damage_found_just_before_it_leads_is_repaired_while_it_leads() {
    let mut bench = Bench::new();
    assert_eq!(bench.notice(3, Won), [Save(None), Inspect(3)]);
    bench.saved(1);
    assert_eq!(bench.inspected(&[(3, 4)], Won), [publish(3, 4)]);
    bench.log.on_leading(Epoch(6));
    assert_eq!(bench.did(), [publish(3, 4)]);
    bench.log.on_whole(Offset(10), Leading(Epoch(6)));
    assert_eq!(bench.did(), [Publish(vec![]), Save(Some(6)), RereadKeys]);
}

#[test]
fn damage_that_was_nothing_leaves_the_log_intact_when_it_begins_to_lead() {
    let mut bench = Bench::new();
    bench.notice(3, Won);
    bench.saved(1);
    assert_eq!(bench.inspected(&[], Won), [Publish(vec![])]);
    bench.log.on_leading(Epoch(6));
    assert_eq!(bench.did(), [Publish(vec![]), Save(Some(6)), RereadKeys]);
}

#[test]
fn damage_noticed_during_an_inspection_is_inspected_next_before_a_recovery() {
    let mut bench = Bench::new();
    bench.notice(3, Recovering);
    assert_eq!(bench.notice(8, Idle), []);
    bench.saved(1);
    bench.inspects_another_before_it_recovers();
}

#[test]
fn damage_noticed_during_an_inspection_is_inspected_next_while_leading() {
    let mut bench = Bench::new();
    bench.notice(3, LEADING);
    assert_eq!(bench.notice(8, LEADING), []);
    bench.saved(1);
    assert_eq!(
        bench.inspected(&[(3, 4)], LEADING),
        [publish(3, 4), Save(None), Inspect(8)]
    );
}

#[test]
fn a_log_of_which_another_record_is_to_be_inspected_is_not_called_intact() {
    let mut bench = Bench::new();
    bench.notice(3, LEADING);
    bench.notice(8, LEADING);
    bench.saved(1);
    // The first record can be read after all.
    assert_eq!(
        bench.inspected(&[], LEADING),
        [Publish(vec![]), Save(None), Inspect(8)]
    );
}

#[test]
fn a_raised_epoch_asked_for_during_an_inspection_follows_it() {
    let mut bench = Bench::new();
    bench.notice(3, LEADING);
    assert!(!bench.log.on_epoch_contested(LEADING), "not yet");
    assert_eq!(bench.did(), []);
    bench.saved(1);
    assert_eq!(
        bench.inspected(&[(3, 4)], LEADING),
        [publish(3, 4), StepDown, InspectHeldBack(BEYOND)]
    );
    // The log that is recovered with is known only once everything queued is done.
    assert_eq!(bench.notice(8, Idle), []);
    bench.inspects_another_before_it_recovers();
}

#[test]
fn a_contested_epoch_is_followed_by_a_higher_one_at_once_without_an_inspection() {
    let mut bench = Bench::new();
    assert!(bench.log.on_epoch_contested(LEADING));
    assert_eq!(bench.did(), [StepDown, InspectHeldBack(BEYOND)]);
    assert_eq!(bench.inspected(&[], Idle), [Recover]);
    assert_eq!(bench.log_epoch(), Some(5), "an intact log stays intact");
    for state in [Recovering, Won, Idle] {
        let mut bench = Bench::new();
        assert!(!bench.log.on_epoch_contested(state), "{state:?}");
        assert_eq!(bench.did(), []);
    }
}

#[test]
fn a_leader_starts_over_when_no_node_has_what_is_missing() {
    let mut bench = Bench::lacking();
    bench.log.on_ends(&[Offset(3), Offset(10)], 2);
    assert_eq!(bench.did(), [], "one has it");
    bench.log.on_ends(&[Offset(3), Offset(2)], 2);
    assert_eq!(
        bench.did(),
        [Did::Irreparable(3, 4), StepDown, InspectHeldBack(BEYOND)]
    );
    bench.log.on_ends(&[Offset(3), Offset(2)], 2);
    assert_eq!(bench.did(), [], "once");
    assert_eq!(bench.inspected(&[(3, 4)], Idle), [Recover]);
}

#[test]
fn damage_noticed_before_the_disk_ran_full_is_inspected_before_the_next_recovery() {
    let mut bench = Bench::new();
    bench.notice(3, LEADING);
    bench.fill_disk();
    assert_eq!(bench.log_epoch(), None, "the damage stays known");
    assert_eq!(bench.notice(3, Idle), [], "nothing while it is full");
    assert_eq!(
        bench.make_room(true),
        [DropRecovery, Save(None), InspectHeldBack(3)]
    );
    bench.saved(1);
    assert_eq!(bench.inspected(&[(3, 4)], Idle), [Recover]);
}

#[test]
fn a_fenced_master_inspects_what_it_noticed_but_does_not_recover() {
    let mut bench = Bench::new();
    bench.fill_disk();
    bench.notice(3, Idle);
    assert_eq!(bench.make_room(false), [Save(None), Inspect(3)]);
    bench.saved(1);
    assert_eq!(bench.inspected(&[(3, 4)], Idle), [publish(3, 4)]);
}

#[test]
fn a_master_whose_disk_takes_writes_again_recovers_if_it_had_stepped_down() {
    for (has_stepped_down, expected) in [(true, vec![Recover]), (false, vec![])] {
        let mut bench = Bench::new();
        bench.fill_disk();
        assert_eq!(bench.make_room(has_stepped_down), expected);
    }
}

#[test]
fn a_node_that_stops_inspects_nothing_more() {
    let mut bench = Bench::new();
    assert!(bench.log.node_mut().begin_closing());
    assert_eq!(bench.notice(3, LEADING), []);
    assert!(!bench.log.node_mut().begin_closing(), "once");
}

//! A recovery under test: answers and reports in, exact actions out.

use std::{collections::VecDeque, time::Duration};

use super::*;
use crate::{
    frame::testing::batch,
    log::Meta,
    rules::{durable::OwnLog, fence::promise_to},
    transport::{Identity, MasterContact, NodeState, Promised},
    types::InstanceId,
};

struct Bench {
    recovery: Recovery,
    node: MasterNode,
    now: Instant,
    starts: Vec<EpochStart>,
    /// The serial of the latest question.
    serial: u64,
    /// Messages to an operator at the level of an error.
    alarms: Vec<String>,
    /// Warnings to an operator.
    warnings: Vec<String>,
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn start(epoch: u64, first: u64) -> EpochStart {
    EpochStart {
        epoch: Epoch(epoch),
        first: Offset(first),
    }
}

fn nodes(count: usize) -> Vec<NodeName> {
    let mut nodes = vec![name("m")];
    nodes.extend((1..count).map(|n| name(&format!("s{n}"))));
    nodes
}

fn cluster() -> ClusterId {
    ClusterId::from_bytes([1; 16])
}

fn life(byte: u8, start: u64) -> Incarnation {
    Incarnation {
        instance: InstanceId::from_bytes([byte; 16]),
        start,
    }
}

fn by(epoch: u64) -> FencedBy {
    FencedBy {
        name: name("m"),
        instance: life(9, 0).instance,
        epoch: Epoch(epoch),
    }
}

/// Returns the meta of a master of three nodes that promised `promised` before and has this log epoch.
fn meta(promised: Option<u64>, log_epoch: Option<u64>) -> Meta {
    Meta {
        last_whole: None,
        name: name("m"),
        instance: life(7, 0).instance,
        start: 3,
        cluster: promised.map(|_| ClusterIdentity {
            id: cluster(),
            nodes: nodes(3),
        }),
        promised: promised.map(|epoch| promise_to(None, Epoch(epoch), &name("m"), life(7, 2))),
        log_epoch: log_epoch.map(Epoch),
        forced_epoch: None,
    }
}

/// Short form of an action in tests.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Did {
    Identify,
    /// Asks all nodes for the promise of this epoch.
    Promise(u64),
    /// Source and first offset of the fetch.
    Fetch(&'static str, u64),
    /// The promised epoch and the log epoch to be saved.
    Save(u64, Option<u64>),
    Quarantine(u64, u64),
    Truncate(u64),
    Append(u64, u64),
    /// Epoch and adopted end.
    Serve(u64, u64),
    Fenced(u64),
    Alarm,
    Warning,
    Malformed,
}
use Did::{Fenced, Identify, Save, Serve, Truncate};

impl Bench {
    fn with(meta: Meta, own: &[(u64, u64)], end: u64, founding: Founding, count: usize) -> Bench {
        let now = Instant::now();
        let settings = Settings {
            nodes: nodes(count),
            founding,
            forced_recovery: ForcedRecovery::Never,
            take_over: TakeOver::WhenSilent,
            timing: Timing::default(),
            drawn: cluster(),
        };
        let mut node = MasterNode::new(meta, OwnLog::whole(Offset(end)));
        Bench {
            recovery: Recovery::new(settings, &mut node, now),
            node,
            now,
            starts: own.iter().map(|(e, f)| start(*e, *f)).collect(),
            serial: 0,
            alarms: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Returns a bench with a master of three nodes that may go on without a majority.
    fn forcing(meta: Meta, own: &[(u64, u64)], end: u64) -> Bench {
        let mut bench = Bench::new(meta, own, end);
        bench.recovery.settings.forced_recovery = ForcedRecovery::LoseAcknowledged;
        bench
    }

    fn new(meta: Meta, own: &[(u64, u64)], end: u64) -> Bench {
        Bench::with(meta, own, end, Founding::Allowed, 3)
    }

    /// Returns a bench with an intact master with log epoch 4 that asks for promises of epoch 5.
    fn promising(end: u64) -> Bench {
        let mut bench = Bench::new(meta(Some(4), Some(4)), &[(4, 0)], end);
        assert_eq!(bench.did(), [Save(5, Some(4))]);
        assert_eq!(bench.saved(), [Did::Promise(5)]);
        bench
    }

    fn did(&mut self) -> Vec<Did> {
        self.node.check();
        let mut did = Vec::new();
        let mut actions = VecDeque::from(self.recovery.take_actions());
        while let Some(action) = actions.pop_front() {
            did.push(match action {
                RecoveryAction::Ask {
                    to,
                    epoch,
                    serial,
                    body,
                    ..
                } => {
                    self.serial = serial;
                    match body {
                        RequestBody::Identify => Identify,
                        RequestBody::Promise(_) => Did::Promise(epoch.0),
                        RequestBody::Fetch(fetch) => {
                            let whom = if to == [name("s1")] { "s1" } else { "s2" };
                            Did::Fetch(whom, fetch.from.0)
                        }
                        other => panic!("{other:?}"),
                    }
                }
                RecoveryAction::Save(save) => Save(
                    save.meta.promised.map_or(0, |promised| promised.epoch.0),
                    save.meta.log_epoch.map(|epoch| epoch.0),
                ),
                RecoveryAction::Quarantine { from, epoch } => Did::Quarantine(from.0, epoch.0),
                RecoveryAction::Truncate { to, .. } => Truncate(to.0),
                RecoveryAction::Append(batches) => Did::Append(
                    batches.first().expect("never empty").first().0,
                    batches.last().expect("never empty").end().0,
                ),
                RecoveryAction::Serve {
                    epoch, adopted_end, ..
                } => Serve(epoch.0, adopted_end.0),
                RecoveryAction::BecomeFenced(by) => Fenced(by.epoch.0),
                RecoveryAction::Note(_) => continue,
                RecoveryAction::Warning(text) => {
                    self.warnings.push(text);
                    Did::Warning
                }
                RecoveryAction::Alarm(text) => {
                    self.alarms.push(text);
                    Did::Alarm
                }
                RecoveryAction::Malformed { .. } => Did::Malformed,
            });
        }
        did
    }

    fn saved(&mut self) -> Vec<Did> {
        self.node.on_saved(self.node.first_ticket());
        self.recovery.on_saved(&mut self.node, self.now);
        self.did()
    }

    /// Begins anew, with a log that can be read up to `whole_end`.
    fn begin_with_hole(&mut self, meta: Meta, whole_end: u64, end: u64) {
        let own = OwnLog {
            whole_end: Offset(whole_end),
            end: Offset(end),
        };
        self.node = MasterNode::new(meta, own);
        let settings = self.recovery.settings.clone();
        self.recovery = Recovery::new(settings, &mut self.node, self.now);
    }

    fn truncated(&mut self, to: u64) {
        self.node.on_cut(self.node.first_ticket(), Offset(to));
        self.recovery.on_truncated(&mut self.node, self.now);
    }

    fn durable(&mut self, end: u64) -> Vec<Did> {
        self.recovery
            .on_durable(&mut self.node, self.now, Offset(end));
        self.did()
    }

    fn pass(&mut self, seconds: u64) -> Vec<Did> {
        self.now += Duration::from_secs(seconds);
        self.recovery
            .on_deadline(&mut self.node, self.now, &self.starts);
        self.did()
    }

    fn answer_to(&mut self, serial: u64, response: Response) -> Vec<Did> {
        let starts = self.starts.clone();
        self.recovery
            .on_answer(&mut self.node, self.now, serial, response, &starts);
        self.did()
    }

    /// Handles an answer from a node that has promised the requested epoch.
    fn answer(&mut self, from: &str, end: u64, log_epoch: Option<u64>, answer: Answer) -> Vec<Did> {
        let mut response = response(from, end, log_epoch, answer);
        response.state.promised = self
            .node
            .promised_epoch()
            .max(Epoch(log_epoch.unwrap_or(0)));
        self.answer_to(self.serial, response)
    }

    fn promised(&mut self, from: &str, end: u64, log_epoch: Option<u64>) -> Vec<Did> {
        let mut answer = promised();
        if let Answer::Promised(granted) = &mut answer {
            granted
                .epoch_starts
                .retain(|start| start.first < Offset(end));
        }
        self.answer(from, end, log_epoch, answer)
    }

    /// Handles the promise of a node that is not intact, with one epoch in its log.
    fn half_filled(&mut self, from: &str, epoch: u64, end: u64) -> Vec<Did> {
        let promised = Answer::Promised(Promised {
            last_whole: None,
            epoch_starts: vec![start(epoch, 0)],
            forced_epoch: None,
        });
        self.answer(from, end, None, promised)
    }

    fn records(&mut self, from: &str, records: FrameBatch) -> Vec<Did> {
        let fetched = Fetched {
            epoch_starts: Vec::new(),
            records: vec![records],
        };
        self.answer(from, 0, None, Answer::Records(fetched))
    }
}

fn promised() -> Answer {
    let epoch_starts = vec![start(4, 0)];
    Answer::Promised(Promised {
        last_whole: None,
        epoch_starts,
        forced_epoch: None,
    })
}

fn response(from: &str, end: u64, log_epoch: Option<u64>, answer: Answer) -> Response {
    Response {
        cluster: Some(cluster()),
        name: name(from),
        incarnation: life(1, 1),
        state: NodeState {
            durable_end: Offset(end),
            log_epoch: log_epoch.map(Epoch),
            promised: Epoch(0),
            buffered: 0,
        },
        answer,
    }
}

fn blank_node(from: &str) -> Response {
    let identity = Answer::Identity(Identity {
        nodes: Vec::new(),
        master: None,
    });
    Response {
        cluster: None,
        ..response(from, 0, None, identity)
    }
}

fn joined_node(from: &str, nodes: Vec<NodeName>) -> Response {
    let master = None;
    response(from, 0, None, Answer::Identity(Identity { nodes, master }))
}

#[test]
fn a_blank_master_founds_a_cluster_once_all_nodes_answer_blank() {
    let mut bench = Bench::new(meta(None, None), &[], 0);
    assert_eq!(bench.did(), [Identify]);
    assert_eq!(bench.answer_to(1, blank_node("s1")), []);
    assert_eq!(
        bench.answer_to(1, blank_node("s1")),
        [],
        "a repeated answer counts once"
    );
    let founded = bench.answer_to(1, blank_node("s2"));
    assert_eq!(
        founded,
        [Save(1, Some(1))],
        "identity, epoch and log epoch in one write"
    );
    assert_eq!(
        bench.saved(),
        [Save(2, Some(1))],
        "then it starts like any other"
    );
    assert_eq!(bench.saved(), [Did::Promise(2)]);
}

#[test]
fn a_blank_master_founds_with_a_majority_after_a_while_if_it_is_allowed_to() {
    // Columns: founding, number of blank nodes that answer, and true if it founds in the end.
    let table = [
        (Founding::Allowed, 1, true),
        (Founding::Allowed, 0, false),
        (Founding::Never, 1, false),
        (Founding::Never, 2, false),
    ];
    for (founding, blank, founds) in table {
        let mut bench = Bench::with(meta(None, None), &[], 0, founding, 3);
        bench.did();
        for (nth, node) in ["s1", "s2"].into_iter().take(blank).enumerate() {
            // With the last answer it is certain that no node has a cluster.
            let expected: &[Did] = if nth == 1 { &[Did::Warning] } else { &[] };
            assert_eq!(bench.answer_to(1, blank_node(node)), expected);
        }
        assert_eq!(bench.pass(2), []);
        let expected: &[Did] = if founds { &[Save(1, Some(1))] } else { &[] };
        assert_eq!(bench.pass(1), expected, "{founding:?} {blank}");
        assert_eq!(bench.recovery.next_deadline(&bench.node), None);
    }
}

#[test]
fn one_identity_means_that_the_cluster_exists() {
    for founding in [Founding::Allowed, Founding::Never] {
        let mut bench = Bench::with(meta(None, None), &[], 0, founding, 3);
        bench.did();
        bench.answer_to(1, blank_node("s1"));
        let did = bench.answer_to(1, joined_node("s2", nodes(3)));
        assert_eq!(did, [Save(0, None)], "not intact");
        assert_eq!(bench.saved(), [Save(1, None)]);

        // It waits for a node that does not answer, since that may hear another master.
        let mut bench = Bench::with(meta(None, None), &[], 0, founding, 3);
        bench.did();
        assert_eq!(bench.answer_to(1, joined_node("s2", nodes(3))), []);
        assert_eq!(
            (bench.pass(2), bench.pass(1)),
            (vec![], vec![Save(0, None)])
        );
    }
}

/// Returns the answer of a node that heard the master of another directory `elapsed_ms` ago.
fn hearing(from: &str, elapsed_ms: u64) -> Response {
    let master = Some(MasterContact {
        name: name("m"),
        instance: life(9, 0).instance,
        elapsed_ms,
    });
    let nodes = nodes(3);
    response(from, 0, None, Answer::Identity(Identity { nodes, master }))
}

#[test]
fn a_blank_master_does_not_depose_a_master_that_other_nodes_hear() {
    let mut bench = Bench::new(meta(None, None), &[], 0);
    bench.did();
    assert_eq!(bench.answer_to(1, hearing("s1", 60_000)), []);
    assert_eq!(bench.answer_to(1, hearing("s2", 200)), [Did::Warning]);
    let other = bench.recovery.health(&bench.node).other_master.unwrap();
    assert_eq!(
        (other.heard_by, other.instance),
        (name("s2"), life(9, 0).instance)
    );
    // It waits as long as the other master is heard.
    for _ in 0..100 {
        bench.now += Duration::from_millis(500);
        bench.recovery.on_deadline(&mut bench.node, bench.now, &[]);
        assert_eq!(bench.did(), []);
        assert_eq!(bench.answer_to(1, hearing("s2", 200)), [], "said once");
        assert_eq!(bench.answer_to(1, hearing("s1", 60_000)), []);
    }
    // And for a while longer.
    assert_eq!(bench.pass(2), []);
    assert_eq!(bench.pass(1), [Save(0, None)]);
    assert_eq!(bench.saved(), [Save(1, None)]);

    // After a restart between the two saves it does not depose the other master either.
    let mut joined = meta(Some(4), None);
    joined.promised = None;
    let mut bench = Bench::new(joined, &[], 0);
    assert_eq!(bench.did(), [Identify]);
    bench.answer_to(1, hearing("s1", 200));
    assert_eq!(bench.answer_to(1, hearing("s2", 200)), [Did::Warning]);
    assert_eq!(bench.pass(3), [Save(1, None)]);

    // A contact with its own directory is from an earlier run.
    let mut bench = Bench::new(meta(None, None), &[], 0);
    bench.did();
    for node in ["s1", "s2"] {
        let mut own = hearing(node, 200);
        if let Answer::Identity(Identity {
            master: Some(master),
            ..
        }) = &mut own.answer
        {
            master.instance = life(7, 0).instance;
        }
        bench.answer_to(1, own);
    }
    assert_ne!(bench.recovery.step, Step::Identifying);
}

#[test]
fn a_blank_master_takes_over_at_once_if_it_is_allowed_to() {
    let mut bench = Bench::new(meta(None, None), &[], 0);
    bench.recovery.settings.take_over = TakeOver::AtOnce;
    bench.did();
    assert_eq!(bench.answer_to(1, hearing("s1", 0)), [Save(0, None)]);
}

#[test]
fn a_cluster_of_other_nodes_is_not_joined_and_prevents_founding() {
    let mut bench = Bench::new(meta(None, None), &[], 0);
    bench.did();
    let other = || joined_node("s1", nodes(5));
    assert_eq!(bench.answer_to(1, other()), [Did::Alarm]);
    assert_eq!(bench.answer_to(1, other()), [], "said once");
    assert_eq!(bench.answer_to(1, blank_node("s2")), [Did::Warning]);
    let text = &bench.warnings[0];
    assert!(
        text.contains("these nodes belong to another cluster or cannot be understood, and the others are blank: s1."),
        "{text}"
    );
    assert_eq!(bench.pass(60), []);
    assert_eq!(bench.recovery.health(&bench.node).waiting_for, [name("s1")]);
}

#[test]
fn a_single_node_recovers_alone() {
    let mut bench = Bench::with(meta(None, None), &[], 0, Founding::Allowed, 1);
    assert_eq!(bench.did(), [Identify, Save(1, Some(1))]);
    assert_eq!(bench.saved(), [Save(2, Some(1))]);
    assert_eq!(bench.saved(), [Did::Promise(2), Save(2, Some(2))]);
    assert_eq!(bench.saved(), [Serve(2, 0)]);
}

#[test]
fn it_waits_for_all_nodes_for_a_while_and_then_a_majority_is_enough() {
    let mut bench = Bench::promising(7);
    assert_eq!(bench.promised("s1", 7, Some(4)), []);
    assert_eq!(
        bench.promised("s1", 7, Some(4)),
        [],
        "a repeated answer counts once"
    );
    assert_eq!(bench.recovery.health(&bench.node).waiting_for, [name("s2")]);
    assert_eq!(bench.pass(2), []);
    assert_eq!(bench.pass(1), [Save(5, Some(5))]);
    assert_eq!(
        bench.saved(),
        [Serve(5, 7)],
        "not before the log epoch is saved"
    );

    let mut bench = Bench::promising(7);
    bench.promised("s1", 7, Some(4));
    assert_eq!(
        bench.promised("s2", 5, Some(3)),
        [Save(5, Some(5))],
        "all answered"
    );

    let mut bench = Bench::promising(7);
    assert_eq!(bench.pass(100), [], "without a majority it stays");
    assert_eq!(
        bench.promised("s1", 7, Some(4)),
        [Save(5, Some(5))],
        "it waits for no other node"
    );
}

#[test]
fn promises_count_if_they_or_the_master_are_intact() {
    // Columns: the master's log epoch, those of the nodes that answer, and true if it goes on.
    type Case = (Option<u64>, [Option<Option<u64>>; 2], bool);
    let table: [Case; 5] = [
        (Some(4), [Some(None), None], true),
        (Some(4), [None, None], false),
        (None, [Some(Some(4)), None], false),
        (None, [Some(Some(4)), Some(None)], false),
        (None, [Some(Some(4)), Some(Some(3))], true),
    ];
    for (own, others, goes_on) in table {
        let mut bench = Bench::new(meta(Some(4), own), &[], 0);
        bench.did();
        bench.saved();
        for (node, log_epoch) in ["s1", "s2"].into_iter().zip(others) {
            if let Some(log_epoch) = log_epoch {
                bench.promised(node, 0, log_epoch);
            }
        }
        bench.pass(60);
        let decided = !matches!(bench.recovery.step, Step::Promising { .. });
        assert_eq!(decided, goes_on, "{own:?} {others:?}");
    }
}

#[test]
fn promises_of_a_lower_epoch_do_not_count_once_the_epoch_is_raised() {
    let mut bench = Bench::promising(7);
    let earlier = bench.serial;
    bench.promised("s1", 7, Some(4));
    let fenced = Answer::Refused(Refusal::Fenced(by(8)));
    assert_eq!(bench.answer("s2", 7, Some(4), fenced), [Save(9, Some(4))]);
    assert_eq!(bench.saved(), [Did::Promise(9)]);
    let late = response("s1", 7, Some(4), promised());
    assert_eq!(bench.answer_to(earlier, late), []);
    assert_eq!(bench.pass(60), [], "s1 has not promised epoch 9");
    assert_eq!(bench.promised("s1", 7, Some(4)), [Save(9, Some(9))]);
}

#[test]
fn an_answer_from_a_higher_epoch_raises_the_next_one() {
    let mut bench = Bench::promising(7);
    let mut far = response("s1", 0, None, Answer::Refused(Refusal::Stopping));
    far.state.promised = Epoch(20);
    assert_eq!(bench.answer_to(bench.serial, far), []);
    let fenced = Answer::Refused(Refusal::Fenced(by(8)));
    assert_eq!(bench.answer("s2", 7, Some(4), fenced), [Save(21, Some(4))]);
}

#[test]
fn a_replaced_or_out_of_date_master_is_fenced() {
    for refusal in [Refusal::Replaced(by(8)), Refusal::OutOfDate(by(8))] {
        let mut bench = Bench::promising(7);
        let answer = Answer::Refused(refusal);
        assert_eq!(bench.answer("s1", 7, Some(4), answer), [Fenced(8)]);
        assert_eq!(bench.promised("s2", 7, Some(4)), []);
        assert_eq!(bench.pass(60), []);
    }
}

#[test]
fn an_intact_master_adopts_a_longer_tail_and_cuts_nothing() {
    let mut bench = Bench::promising(7);
    bench.promised("s1", 9, Some(4));
    assert_eq!(
        bench.promised("s2", 12, Some(3)),
        [Did::Fetch("s1", 7)],
        "s2's log epoch is lower"
    );
    assert_eq!(bench.records("s1", batch(7..8, 4)), [Did::Append(7, 8)]);
    assert_eq!(
        bench.records("s1", batch(7..8, 4)),
        [],
        "the same answer twice"
    );
    assert_eq!(bench.durable(8), [Did::Fetch("s1", 8)]);
    let more = bench.records("s1", batch(8..11, 4));
    assert_eq!(more, [Did::Append(8, 9)], "no more than was promised");
    assert_eq!(bench.durable(9), [Save(5, Some(5))]);
    assert_eq!(bench.saved(), [Serve(5, 9)]);
}

#[test]
fn a_wiped_master_fetches_everything_and_a_diverging_one_cuts_first() {
    let mut wiped = Bench::new(meta(Some(4), None), &[], 0);
    wiped.did();
    wiped.saved();
    wiped.promised("s1", 2, Some(4));
    assert_eq!(wiped.promised("s2", 3, Some(4)), [Did::Fetch("s2", 0)]);
    wiped.records("s2", batch(0..3, 4));
    assert_eq!(wiped.durable(3), [Save(5, Some(5))]);

    let mut diverged = Bench::new(meta(Some(4), None), &[(3, 0)], 6);
    diverged.did();
    diverged.saved();
    diverged.promised("s1", 2, Some(4));
    assert_eq!(
        diverged.promised("s2", 3, Some(4)),
        [Did::Quarantine(0, 5), Truncate(0)]
    );
    diverged.truncated(0);
    assert_eq!(diverged.did(), [Did::Fetch("s2", 0)]);

    let mut longer = Bench::new(meta(Some(4), None), &[(4, 0)], 6);
    longer.did();
    longer.saved();
    longer.promised("s1", 2, Some(4));
    assert_eq!(
        longer.promised("s2", 3, Some(4)),
        [Did::Quarantine(3, 5), Truncate(3)]
    );
    longer.truncated(3);
    assert_eq!(longer.did(), [Save(5, Some(5))]);
}

#[test]
fn a_source_that_disappears_or_refuses_causes_a_new_round() {
    let adopting = || {
        let mut bench = Bench::promising(7);
        bench.promised("s1", 9, Some(4));
        assert_eq!(bench.promised("s2", 7, Some(4)), [Did::Fetch("s1", 7)]);
        bench
    };
    let mut silent = adopting();
    assert_eq!(silent.pass(2), []);
    assert_eq!(silent.pass(1), [Save(6, Some(4))]);
    assert_eq!(silent.saved(), [Did::Promise(6)]);
    silent.promised("s2", 7, Some(4));
    assert_eq!(
        silent.pass(1),
        [Save(6, Some(6))],
        "a majority without it is enough"
    );

    for refusal in [Refusal::WrongIncarnation, Refusal::HelloFirst] {
        let mut bench = adopting();
        let answer = Answer::Refused(refusal);
        assert_eq!(bench.answer("s1", 9, Some(4), answer), [Save(6, Some(4))]);
    }
    let mut empty = adopting();
    let fetched = Fetched {
        epoch_starts: Vec::new(),
        records: Vec::new(),
    };
    let did = empty.answer("s1", 9, Some(4), Answer::Records(fetched));
    assert_eq!(did, [Save(6, Some(4))], "it has less than it said");
}

#[test]
fn an_incarnation_that_contradicts_its_promise_is_not_adopted_from_again() {
    // Records at another offset than requested, of an older epoch than the record before, or of an epoch that
    // no master has yet.
    for records in [batch(8..9, 4), batch(7..9, 3), batch(7..9, 5 + 1)] {
        let mut bench = Bench::promising(7);
        bench.promised("s1", 9, Some(4));
        assert_eq!(bench.promised("s2", 7, Some(4)), [Did::Fetch("s1", 7)]);
        let did = bench.records("s1", records.clone());
        if records.last_epoch() > Epoch(5) {
            // It makes no sense by itself: it counts as no answer.
            assert_eq!(did, [Did::Malformed]);
            continue;
        }
        assert_eq!(did, [Did::Malformed, Save(6, Some(4))], "{records:?}");
        assert_eq!(bench.saved(), [Did::Promise(6)]);
        assert_eq!(bench.promised("s1", 9, Some(4)), []);
        assert_eq!(
            bench.recovery.health(&bench.node).waiting_for,
            [name("s1"), name("s2")]
        );
        let did = bench.promised("s2", 7, Some(4));
        assert_eq!(did, [Save(6, Some(6))], "the others are enough");
    }
}

#[test]
fn promises_that_make_no_sense_do_not_count() {
    let damaged_before = |log_epoch| {
        Answer::Promised(Promised {
            last_whole: Some(whole(log_epoch, 3)),
            epoch_starts: Vec::new(),
            forced_epoch: None,
        })
    };
    let granted = |starts: &[(u64, u64)], forced: Option<u64>| {
        Answer::Promised(Promised {
            last_whole: None,
            epoch_starts: starts.iter().map(|(e, f)| start(*e, *f)).collect(),
            forced_epoch: forced.map(Epoch),
        })
    };
    let fine = || granted(&[(4, 0)], None);
    // Columns: the epoch that the node claims to have promised, its log epoch, and its answer.
    let table = [
        (4, Some(4), fine()),
        (6, Some(4), fine()),
        (5, Some(6), fine()),
        // Intact with a newer log than this master, it would have refused.
        (5, Some(5), fine()),
        (5, Some(4), granted(&[(6, 0)], None)),
        (5, Some(4), granted(&[(4, 8)], None)),
        (5, Some(4), granted(&[(4, 0), (3, 2)], None)),
        (5, Some(4), granted(&[(4, 0)], Some(6))),
        (5, None, Answer::Refused(Refusal::Fenced(by(4)))),
        (5, Some(4), damaged_before(4)),
        (5, None, damaged_before(6)),
    ];
    for (promised, log_epoch, answer) in table {
        let mut bench = Bench::promising(7);
        let text = format!("{promised} {log_epoch:?} {answer:?}");
        let mut response = response("s1", 8, log_epoch, answer);
        response.state.promised = Epoch(promised);
        assert_eq!(
            bench.answer_to(bench.serial, response),
            [Did::Malformed],
            "{text}"
        );
        assert_eq!(bench.recovery.highest, Epoch(5), "{text}");
        assert_eq!(bench.pass(60), [], "it is no majority");
        assert_eq!(
            bench.promised("s2", 7, Some(4)),
            [Save(5, Some(5))],
            "{text}"
        );
    }
}

/// With any epoch that a node makes up, the next round is one that the nodes of this cluster can promise at
/// once, and a real epoch far above is reached over several rounds.
#[test]
fn a_node_that_names_an_epoch_far_above_is_followed_only_part_of_the_way() {
    let follow = crate::limits::EPOCH_FOLLOW_MAX;
    for named in [6 + follow, 1 << 40, Epoch::MAX.0] {
        for fenced in [true, false] {
            let mut bench = Bench::promising(7);
            let answer = match fenced {
                true => Answer::Refused(Refusal::Fenced(by(named))),
                false => Answer::Refused(Refusal::Stopping),
            };
            let mut response = response("s1", 8, None, answer);
            response.state.promised = Epoch(named);
            bench.answer_to(bench.serial, response);
            // Refused, it takes the next one at once.
            let expected = 5 + follow + u64::from(fenced);
            assert_eq!(bench.recovery.highest, Epoch(expected));
        }
    }
    let mut bench = Bench::promising(7);
    let mut epoch = 5;
    for _ in 0..4 {
        let mut did = bench.answer("s1", 7, None, Answer::Refused(Refusal::Fenced(by(1 << 40))));
        if did.is_empty() {
            bench.now = bench
                .recovery
                .next_deadline(&bench.node)
                .expect("another round follows");
            bench
                .recovery
                .on_deadline(&mut bench.node, bench.now, &bench.starts);
            did = bench.did();
        }
        epoch += follow + 1;
        did.retain(|did| matches!(did, Save(..)));
        assert_eq!(did, [Save(epoch, Some(4))]);
        assert_eq!(bench.saved(), [Did::Promise(epoch)]);
    }
}

/// A blank master does not follow a node whose cluster it does not join.
#[test]
fn strangers_do_not_raise_the_epoch_of_a_blank_master() {
    let mut bench = Bench::new(meta(None, None), &[], 0);
    bench.did();
    let nobody = Identity {
        nodes: Vec::new(),
        master: None,
    };
    let mut blank = response("s1", 0, None, Answer::Identity(nobody));
    (blank.cluster, blank.state.promised) = (None, Epoch(1 << 61));
    bench.answer_to(bench.serial, blank);
    assert_eq!(bench.recovery.highest, Epoch(0));
}

#[test]
fn a_source_that_never_delivers_is_left_out_if_the_others_are_enough() {
    let mut bench = Bench::promising(7);
    let mut asked = 5;
    for _ in 0..3 {
        assert_eq!(bench.promised("s1", 9, Some(4)), []);
        assert_eq!(bench.promised("s2", 7, Some(4)), [Did::Fetch("s1", 7)]);
        let detail = "an I/O error".to_owned();
        let mut did = bench.answer(
            "s1",
            9,
            Some(4),
            Answer::Refused(Refusal::Storage { detail }),
        );
        if did.is_empty() {
            bench.now = bench
                .recovery
                .next_deadline(&bench.node)
                .expect("another round follows");
            bench
                .recovery
                .on_deadline(&mut bench.node, bench.now, &bench.starts);
            did = bench.did();
        }
        asked += 1;
        assert_eq!(did, [Save(asked, Some(4))]);
        assert_eq!(bench.saved(), [Did::Promise(asked)]);
    }
    bench.promised("s1", 9, Some(4));
    // Alone with the master it is still needed.
    assert_eq!(bench.promised("s2", 7, Some(4)), [Save(asked, Some(asked))]);
}

#[test]
fn refused_rounds_follow_each_other_more_and_more_slowly() {
    let mut bench = Bench::promising(7);
    let (mut epoch, began) = (5, bench.now);
    let mut delays = Vec::new();
    for _ in 0..12 {
        let fenced = Answer::Refused(Refusal::Fenced(by(epoch + 1)));
        let mut did = bench.answer("s1", 7, Some(4), fenced);
        let failed = bench.now;
        if did.is_empty() {
            bench.now = bench
                .recovery
                .next_deadline(&bench.node)
                .expect("another round follows");
            bench
                .recovery
                .on_deadline(&mut bench.node, bench.now, &bench.starts);
            did = bench.did();
        }
        delays.push(bench.now - failed);
        epoch += 2;
        assert_eq!(did, [Save(epoch, Some(4))]);
        assert_eq!(bench.saved(), [Did::Promise(epoch)]);
    }
    assert_eq!(delays[0], Duration::ZERO);
    assert!(delays[4] > delays[1], "{delays:?}");
    assert!(bench.now - began > Duration::from_secs(10), "{delays:?}");
    let longest = Timing::default().retry_max;
    assert!(delays.iter().all(|delay| *delay <= longest), "{delays:?}");
}

#[test]
fn records_that_become_durable_after_their_round_was_given_up_are_in_the_log() {
    let mut bench = Bench::promising(7);
    bench.promised("s1", 9, Some(4));
    bench.promised("s2", 7, Some(4));
    assert_eq!(bench.records("s1", batch(7..9, 4)), [Did::Append(7, 9)]);
    assert_eq!(bench.pass(3), [Save(6, Some(4))], "the disk is slow");
    assert_eq!(bench.durable(9), []);
    assert_eq!(bench.saved(), [Did::Promise(6)]);
    bench.promised("s2", 7, Some(4));
    assert_eq!(bench.pass(1), [Save(6, Some(6))]);
    assert_eq!(
        bench.saved(),
        [Serve(6, 9)],
        "the next record's offset is 9"
    );
}

#[test]
fn answers_of_unknown_nodes_or_to_no_question_are_ignored() {
    let mut bench = Bench::promising(7);
    assert_eq!(bench.promised("x", 9, Some(9)), []);
    bench.promised("s1", 7, Some(4));
    bench.promised("s2", 7, Some(4));
    assert_eq!(
        bench.promised("s1", 9, Some(4)),
        [],
        "while the log epoch is saved"
    );
    assert_eq!(bench.saved(), [Serve(5, 7)]);
    assert_eq!(bench.pass(60), []);
    assert_eq!(bench.node.promised_epoch(), Epoch(5));
}

/// Amount by which a forced recovery raises the epoch.
const FAR: u64 = 1 << 32;

#[test]
fn a_forced_master_goes_on_alone_when_no_node_answers_in_time() {
    let mut bench = Bench::forcing(meta(Some(4), Some(4)), &[(4, 0)], 10);
    bench.did();
    bench.saved();
    assert_eq!(bench.pass(2), []);
    let far = 5 + FAR;
    assert_eq!(bench.pass(1), [Did::Alarm, Save(far, Some(4))]);
    // Its own log is all there is, and one synced write records that recovery was forced.
    assert_eq!(
        bench.saved(),
        [Did::Promise(far), Did::Alarm, Save(far, Some(far))]
    );
    assert_eq!(bench.node.staged().forced_epoch, Some(Epoch(far)));
    assert_eq!(bench.saved(), [Serve(far, 10)]);
    // Without the setting it waits for ever.
    let mut bench = Bench::promising(10);
    assert_eq!((bench.pass(3), bench.pass(1000)), (vec![], vec![]));
}

#[test]
fn recovery_is_not_forced_if_a_majority_answers() {
    let mut bench = Bench::forcing(meta(Some(4), Some(4)), &[(4, 0)], 10);
    bench.did();
    bench.saved();
    assert_eq!(bench.promised("s1", 10, Some(4)), []);
    assert_eq!(bench.pass(3), [Save(5, Some(5))]);
    assert_eq!(bench.saved(), [Serve(5, 10)]);
    assert_eq!(bench.node.staged().forced_epoch, None);
}

#[test]
fn a_wiped_master_recovers_by_force_from_the_one_node_that_is_left() {
    let mut bench = Bench::forcing(meta(Some(4), None), &[], 0);
    bench.did();
    bench.saved();
    assert_eq!(
        bench.promised("s2", 3, Some(4)),
        [],
        "only one of the two that are needed"
    );
    let far = 5 + FAR;
    assert_eq!(bench.pass(3), [Did::Alarm, Save(far, None)]);
    assert_eq!(bench.saved(), [Did::Promise(far)]);
    assert_eq!(
        bench.promised("s2", 3, Some(4)),
        [Did::Alarm, Did::Fetch("s2", 0)]
    );
    assert_eq!(bench.records("s2", batch(0..3, 4)), [Did::Append(0, 3)]);
    assert_eq!(bench.durable(3), [Save(far, Some(far))]);
    assert_eq!(bench.saved(), [Serve(far, 3)]);
}

#[test]
fn a_forced_blank_master_waits_while_no_node_has_a_log() {
    let mut bench = Bench::forcing(meta(None, None), &[], 0);
    assert_eq!(bench.did(), [Identify]);
    assert_eq!(
        (bench.pass(3), bench.pass(1000)),
        (vec![], vec![]),
        "it founds nothing"
    );
    // A node that was emptied answers: it may have held everything.
    let mut bench = Bench::forcing(meta(Some(4), None), &[], 0);
    bench.did();
    bench.saved();
    bench.promised("s1", 0, None);
    assert_eq!((bench.pass(3), bench.pass(1000)), (vec![], vec![]));
    assert_eq!(
        bench.recovery.next_deadline(&bench.node),
        None,
        "no timer spins"
    );
    assert_eq!(
        bench.promised("s2", 3, Some(4)),
        [Did::Alarm, Save(5 + FAR, None)],
        "as soon as there is one"
    );
}

#[test]
fn a_forced_recovery_prefers_an_intact_log_to_longer_damaged_ones() {
    let far = 5 + FAR;
    let mut bench = Bench::forcing(meta(Some(4), None), &[(4, 0)], 20);
    bench.did();
    bench.saved();
    bench.half_filled("s1", 4, 30);
    bench.promised("s2", 3, Some(4));
    assert_eq!(bench.did(), []);
    assert_eq!(bench.saved(), [Did::Promise(far)]);
    bench.half_filled("s1", 4, 30);
    assert_eq!(
        bench.promised("s2", 3, Some(4)),
        [Did::Alarm, Did::Quarantine(3, far), Truncate(3)],
        "its own, which is cut to the adopted one, is quarantined"
    );
    bench.truncated(3);
    assert_eq!(bench.did(), [Save(far, Some(far))]);
}

#[test]
fn a_forced_recovery_without_an_intact_log_adopts_the_newest_records() {
    // Columns: own log, the other's log, and true if the other's is adopted. Each log: the epoch of its
    // records, its end.
    let table = [
        ((4, 10), (4, 20), true),
        ((4, 20), (4, 10), false),
        ((4, 20), (5, 10), true),
        ((5, 10), (4, 20), false),
    ];
    for ((own_epoch, own_end), (epoch, end), theirs) in table {
        let mut bench = Bench::forcing(meta(Some(9), None), &[(own_epoch, 0)], own_end);
        bench.did();
        bench.saved();
        bench.half_filled("s1", epoch, end);
        assert_eq!(bench.pass(3), [Did::Alarm, Save(10 + FAR, None)]);
        bench.saved();
        let did = bench.half_filled("s1", epoch, end);
        let taken = !matches!(did[..], [Did::Alarm, Save(..)]);
        assert_eq!(
            taken, theirs,
            "{own_epoch} {own_end} {epoch} {end}: {did:?}"
        );
    }
}

#[test]
fn a_forced_recovery_reports_all_answers_and_where_records_may_be_lost() {
    // All nodes answer, and none is left out: it is damage that makes a majority impossible.
    let mut bench = damaged_master(None, 3);
    bench.recovery.settings.forced_recovery = ForcedRecovery::LoseAcknowledged;
    bench.promised("s2", 9, Some(4));
    assert_eq!(
        damaged(&mut bench, "s1", Some(whole(4, 11))),
        [Did::Alarm, Save(5 + FAR, None)]
    );
    assert_eq!(
        bench.alarms,
        [
            "FORCED without a majority: 2 of 3 nodes must answer with a log that counts, and 1 did. \
          m (this master): NOT INTACT, end 3; what it held before is not known; \
          s1: NOT INTACT, readable up to 2; before the damage log epoch 4, end 11; \
          s2: intact, log epoch 4, end 9. Asking for promises of an epoch above all that the other \
          nodes can have promised"
        ]
    );
    // One node does not answer, and the master's own log is the best one there is.
    let mut bench = Bench::forcing(meta(Some(4), None), &[(4, 0)], 20);
    bench.did();
    bench.saved();
    bench.half_filled("s1", 4, 10);
    assert_eq!(bench.pass(3), [Did::Alarm, Save(5 + FAR, None)]);
    let text = &bench.alarms[0];
    assert!(text.contains("s1: NOT INTACT, end 10"), "{text}");
    assert!(text.contains("; s2: no answer. "), "{text}");
}

#[test]
fn a_forced_recovery_reports_the_loss_of_the_log_that_it_adopts_whoever_answered_before() {
    let forced = || {
        let mut bench = Bench::forcing(meta(Some(4), None), &[(4, 0)], 2);
        bench.did();
        bench.saved();
        bench.promised("s2", 9, Some(4));
        assert_eq!(bench.pass(3), [Did::Alarm, Save(5 + FAR, None)]);
        assert_eq!(bench.saved(), [Did::Promise(5 + FAR)]);
        bench
    };
    let mut bench = forced();
    assert_eq!(
        bench.promised("s2", 9, Some(4)),
        [Did::Alarm, Did::Fetch("s2", 2)]
    );
    assert_eq!(
        bench.alarms[1],
        "FORCED: adopting the log of s2, which ends at 9: records from offset 9 on may be lost, acknowledged \
         or not, and so may records below it that a master of an epoch above 4 wrote"
    );
    // The node with the longer log stays away in the second round, and what only it held is given up.
    let mut bench = forced();
    let adopted = bench.pass(3);
    assert_eq!(adopted.first(), Some(&Did::Alarm), "{adopted:?}");
    assert_eq!(
        bench.alarms[1],
        "FORCED: adopting the log of m, which ends at 2: records from offset 2 on may be lost, acknowledged \
         or not, and so may any record below it, since that log is not intact"
    );
}

#[test]
fn the_forced_round_waits_for_the_nodes_of_the_first_round() {
    let mut bench = Bench::forcing(meta(Some(4), None), &[(4, 0)], 2);
    bench.did();
    bench.saved();
    bench.promised("s2", 9, Some(4));
    bench.pass(3);
    assert_eq!(bench.saved(), [Did::Promise(5 + FAR)]);
    assert_eq!((bench.pass(1), bench.pass(1)), (vec![], vec![]));
    assert_eq!(
        bench.promised("s2", 9, Some(4)),
        [Did::Alarm, Did::Fetch("s2", 2)]
    );
    // The source goes away: start over, with a majority if there is one.
    assert_eq!(bench.pass(3), [Save(6 + FAR, None)]);
    assert_eq!(bench.saved(), [Did::Promise(6 + FAR)]);
    bench.promised("s1", 9, Some(4));
    assert_eq!(bench.promised("s2", 9, Some(4)), [Did::Fetch("s1", 2)]);
    bench.records("s1", batch(2..9, 4));
    let now = 6 + FAR;
    assert_eq!(bench.durable(9), [Save(now, Some(now))]);
    assert_eq!(
        bench.node.staged().forced_epoch,
        None,
        "this round was not forced"
    );
}

#[test]
fn a_forced_master_still_obeys_nodes_that_fence_it() {
    for refusal in [Refusal::OutOfDate(by(7)), Refusal::Replaced(by(7))] {
        let mut bench = Bench::forcing(meta(Some(4), Some(4)), &[(4, 0)], 10);
        bench.did();
        bench.saved();
        assert_eq!(
            bench.answer("s1", 20, Some(7), Answer::Refused(refusal)),
            [Fenced(7)]
        );
        assert_eq!(bench.pass(1000), []);
    }
}

#[test]
fn a_replaced_master_learns_of_the_last_forced_recovery() {
    let mut bench = Bench::new(meta(Some(FAR), None), &[], 0);
    bench.did();
    bench.saved();
    let told = Answer::Promised(Promised {
        last_whole: None,
        epoch_starts: Vec::new(),
        forced_epoch: Some(Epoch(FAR)),
    });
    bench.answer("s1", 0, Some(FAR), told);
    bench.promised("s2", 0, Some(FAR));
    assert_eq!(bench.node.staged().forced_epoch, Some(Epoch(FAR)));
}

/// Returns a bench with a master that is not intact: its log ends at 9 and has a hole at 3.
fn with_hole() -> Bench {
    let mut bench = Bench::new(meta(Some(4), None), &[(4, 0)], 9);
    bench.begin_with_hole(meta(Some(4), None), 3, 9);
    bench.did();
    assert_eq!(bench.saved(), [Did::Promise(5)]);
    bench
}

#[test]
fn a_damaged_master_fills_its_hole_and_goes_on_behind_the_records_it_has() {
    let mut bench = with_hole();
    bench.promised("s1", 12, Some(4));
    assert_eq!(bench.promised("s2", 5, Some(4)), [Did::Fetch("s1", 3)]);
    assert_eq!(
        bench.records("s1", batch(3..5, 4)),
        [Did::Append(3, 5)],
        "the hole"
    );
    assert_eq!(bench.durable(9), [Did::Fetch("s1", 9)], "it is filled");
    assert_eq!(bench.records("s1", batch(9..12, 4)), [Did::Append(9, 12)]);
    assert_eq!(bench.durable(12), [Save(5, Some(5))]);
}

#[test]
fn a_damaged_master_quarantines_records_that_the_adopted_log_lacks() {
    let mut bench = with_hole();
    bench.promised("s1", 7, Some(4));
    let did = bench.promised("s2", 5, Some(4));
    assert_eq!(did, [Did::Quarantine(7, 5), Truncate(7)]);
    bench.truncated(7);
    assert_eq!(bench.did(), [Did::Fetch("s1", 3)], "from its hole on");
    bench.records("s1", batch(3..7, 4));
    assert_eq!(bench.durable(7), [Save(5, Some(5))]);
}

#[test]
fn a_damaged_master_does_not_count_itself() {
    let mut bench = with_hole();
    bench.promised("s1", 7, Some(4));
    assert_eq!(bench.pass(1000), []);
}

/// A node must deliver the log that it promised, which ends between two appends.
#[test]
fn a_log_that_is_said_to_end_inside_an_append_is_not_adopted() {
    let mut bench = Bench::promising(7);
    bench.promised("s1", 7, Some(4));
    assert_eq!(bench.promised("s2", 9, Some(4)), [Did::Fetch("s2", 7)]);
    let did = bench.records("s2", crate::frame::testing::appends(7, 4, &[3]));
    assert_eq!(did, [Did::Malformed, Save(6, Some(4))]);
}

/// Returns a damaged node's log epoch and end from before it was damaged.
fn whole(log_epoch: u64, end: u64) -> LastWhole {
    LastWhole {
        log_epoch: Epoch(log_epoch),
        end: Offset(end),
    }
}

/// Returns a bench with a master that has a hole at 3 in a log of 10 of epoch 4, and had this log before.
fn damaged_master(last_whole: Option<LastWhole>, nodes: usize) -> Bench {
    let meta = Meta {
        last_whole,
        ..meta(Some(4), None)
    };
    let mut bench = Bench::with(meta.clone(), &[(4, 0)], 10, Founding::Never, nodes);
    bench.begin_with_hole(meta, 3, 10);
    bench.did();
    bench.saved();
    bench
}

fn damaged(bench: &mut Bench, from: &str, last_whole: Option<LastWhole>) -> Vec<Did> {
    let epoch_starts = vec![start(4, 0)];
    let answer = Answer::Promised(Promised {
        epoch_starts,
        forced_epoch: None,
        last_whole,
    });
    bench.answer(from, 2, None, answer)
}

/// One bad byte on the master, another on a secondary, and the third node intact.
#[test]
fn the_only_intact_log_is_adopted_if_it_covers_what_damaged_nodes_held() {
    let mut bench = damaged_master(Some(whole(4, 10)), 3);
    assert_eq!(
        bench.promised("s2", 10, Some(4)),
        [],
        "the other may still answer"
    );
    assert_eq!(
        damaged(&mut bench, "s1", Some(whole(4, 10))),
        [Did::Fetch("s2", 3)]
    );
    // It waits for an answer that never comes no longer than ever.
    let mut bench = damaged_master(Some(whole(4, 10)), 3);
    bench.promised("s2", 12, Some(4));
    assert_eq!(bench.pass(3000), [Did::Fetch("s2", 3)]);
    // A newer log epoch covers any end of an older one.
    let mut bench = damaged_master(Some(whole(3, 90)), 3);
    damaged(&mut bench, "s1", None);
    assert_eq!(bench.promised("s2", 10, Some(4)), [Did::Fetch("s2", 3)]);
}

#[test]
fn an_intact_log_that_may_lack_what_damaged_nodes_acknowledged_is_not_adopted() {
    // In each case, only the damaged nodes may have the rest.
    let table = [
        ("the master held more", Some(whole(4, 11)), None),
        ("the master held a newer log", Some(whole(5, 2)), None),
        ("the master does not know", None, None),
        ("it appended more since", Some(whole(4, 5)), None),
        ("both held more", Some(whole(4, 11)), Some(whole(4, 10))),
    ];
    for (what, own, other) in table {
        let mut bench = damaged_master(own, 3);
        bench.promised("s2", 9, Some(4));
        assert_eq!(damaged(&mut bench, "s1", other), [Did::Warning], "{what}");
        assert_eq!(bench.pass(60_000), [], "{what}");
        let not_intact = bench.recovery.health(&bench.node).not_intact;
        assert_eq!(not_intact, [name("m"), name("s1")], "{what}");
    }
}

fn stuck(bench: &Bench) -> Option<StuckReason> {
    bench
        .recovery
        .health(&bench.node)
        .stuck
        .map(|stuck| stuck.reason)
}

#[test]
fn a_recovery_that_missing_nodes_could_complete_waits_without_a_warning() {
    // The master's own log is intact: any promise of another node counts with it.
    let mut bench = Bench::promising(10);
    assert_eq!((bench.pass(60_000), stuck(&bench)), (vec![], None));
    // It is damaged and knows what it held, or is wiped and two others are missing.
    for own in [Some(whole(4, 10)), None] {
        let mut bench = damaged_master(own, 3);
        assert_eq!((bench.pass(60_000), stuck(&bench)), (vec![], None));
        bench.promised("s2", 9, Some(4));
        assert_eq!(
            (bench.pass(1_000), stuck(&bench)),
            (vec![], None),
            "{own:?}"
        );
        let done = bench.promised("s1", 10, Some(4));
        assert_eq!((done, stuck(&bench)), (vec![Did::Fetch("s1", 3)], None));
    }
    // A node that gives a senseless answer may do better after a restart.
    let mut bench = damaged_master(Some(whole(4, 10)), 3);
    damaged(&mut bench, "s1", Some(whole(4, 10)));
    assert_eq!((bench.pass(60_000), stuck(&bench)), (vec![], None));
}

#[test]
fn a_recovery_that_no_answer_can_complete_warns_once_and_names_the_remedy() {
    let mut bench = damaged_master(Some(whole(4, 11)), 3);
    bench.promised("s2", 9, Some(4));
    assert_eq!(damaged(&mut bench, "s1", None), [Did::Warning]);
    assert_eq!(stuck(&bench), Some(StuckReason::TooFewIntact));
    assert_eq!(
        bench.warnings,
        [
            "recovery cannot finish without an operator: 2 of 3 nodes must vouch for a log, and these \
          cannot, because of a wipe or of damage: m, s1; all nodes have answered. Start one of them with the directory that has \
          its whole log, or, if that is lost for good, start this master with \
          --force-recovery-and-lose-acknowledged-messages, which loses what only they held (see \
          docs/src/operating/recovery.md)"
        ]
    );
    // The same answers again, and the same round again.
    assert_eq!(damaged(&mut bench, "s1", None), []);
    assert_eq!(bench.pass(60_000), []);
    assert_eq!(
        bench.recovery.next_deadline(&bench.node),
        None,
        "no timer spins"
    );
    let refused = Answer::Refused(Refusal::Fenced(by(9)));
    assert_eq!(bench.answer("s2", 9, Some(4), refused), [Save(10, None)]);
    assert_eq!(stuck(&bench), None, "while it asks for another epoch");
    bench.saved();
    bench.promised("s2", 9, Some(4));
    assert_eq!(damaged(&mut bench, "s1", None), []);
    // The remaining node has the complete log.
    assert_eq!(
        bench.promised("s1", 11, Some(4)),
        [Did::Fetch("s1", 3)],
        "it was found"
    );
    assert_eq!(stuck(&bench), None);
}

#[test]
fn a_recovery_is_stuck_before_the_last_answer_if_that_cannot_help() {
    let mut bench = damaged_master(None, 3);
    assert_eq!(damaged(&mut bench, "s1", None), []);
    assert_eq!(stuck(&bench), Some(StuckReason::TooFewIntact), "at once");
    assert_eq!(bench.pass(3), [Did::Warning], "others may answer meanwhile");
    let text = &bench.warnings[0];
    assert!(
        text.contains("the answers still missing (s2) would not be enough"),
        "{text}"
    );
    assert_eq!(
        bench.recovery.next_deadline(&bench.node),
        None,
        "no timer spins"
    );
    assert_eq!(
        bench.promised("s2", 9, Some(4)),
        [Did::Warning],
        "all have now"
    );
}

#[test]
fn a_forced_recovery_is_stuck_only_if_no_log_is_left() {
    let wiped = || {
        let mut bench = Bench::forcing(meta(Some(4), None), &[], 0);
        bench.did();
        bench.saved();
        bench.promised("s1", 0, None);
        bench
    };
    let mut bench = wiped();
    assert_eq!(
        (bench.pass(60), stuck(&bench)),
        (vec![], None),
        "s2 may have one"
    );
    assert_eq!(bench.promised("s2", 0, None), [Did::Warning]);
    assert_eq!(stuck(&bench), Some(StuckReason::NoLog));
    let text = &bench.warnings[0];
    assert!(text.contains("would find nothing either. Start"), "{text}");
    // A node that held ten messages, the first of which is damaged.
    let mut bench = wiped();
    let answer = Answer::Promised(Promised {
        epoch_starts: Vec::new(),
        forced_epoch: None,
        last_whole: Some(whole(4, 10)),
    });
    assert_eq!(bench.answer("s2", 0, None, answer), [Did::Warning]);
    assert_eq!(stuck(&bench), Some(StuckReason::NoLog));
    let text = &bench.warnings[0];
    assert!(text.contains("so keep their directories: s2."), "{text}");
    let mut bench = wiped();
    let forced = [Did::Alarm, Save(5 + FAR, None)];
    assert_eq!(bench.promised("s2", 1, Some(4)), forced);
}

#[test]
fn a_blank_master_that_may_not_found_warns_if_no_node_has_a_cluster() {
    let mut bench = Bench::with(meta(None, None), &[], 0, Founding::Never, 3);
    assert_eq!(bench.did(), [Identify]);
    assert_eq!(bench.answer_to(1, blank_node("s1")), []);
    assert_eq!(
        (bench.pass(60), stuck(&bench)),
        (vec![], None),
        "s2 may have one"
    );
    assert_eq!(bench.answer_to(1, blank_node("s2")), [Did::Warning]);
    assert_eq!(stuck(&bench), Some(StuckReason::NoCluster));
    assert!(bench.warnings[0].contains("without --existing"));
    assert_eq!(bench.answer_to(1, blank_node("s2")), [], "once");
    // The node comes back with its directory.
    let joined = bench.answer_to(1, joined_node("s2", nodes(3)));
    assert_eq!((joined, stuck(&bench)), (vec![Save(0, None)], None));
}

/// A majority of the intact node and those that held no more than its log is enough: records that another held
/// beyond it were acknowledged by none of them.
#[test]
fn a_damaged_node_that_held_more_is_left_out_if_a_majority_held_no_more() {
    let mut bench = damaged_master(Some(whole(4, 20)), 5);
    damaged(&mut bench, "s3", Some(whole(4, 10)));
    damaged(&mut bench, "s2", Some(whole(4, 11)));
    assert_eq!(bench.promised("s1", 10, Some(4)), []);
    assert_eq!(bench.pass(60_000), []);
    assert_eq!(
        damaged(&mut bench, "s4", Some(whole(3, 99))),
        [Did::Fetch("s1", 3)]
    );
}

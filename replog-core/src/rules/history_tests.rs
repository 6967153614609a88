//! `Recovery` and `agreement` on logs that a long history left behind, in clusters of up to five.
//!
//! The history is naive: terms of office on plain lists of epochs, each with its own majority, secondaries
//! that got a part, power cuts, wiped and damaged disks. It remembers what a majority held, and whichever
//! nodes answer afterwards, the adopted log must hold that: rule 5.

use proptest::{prelude::*, test_runner::TestRunner};
use tokio::time::Instant;

use super::{
    alignment::{Agreement, Outline, agreement},
    durable::OwnLog,
    fence::promise_to,
    master_log::MasterNode,
    recovery::{Recovery, RecoveryAction, Settings},
};
use crate::{
    config::{ForcedRecovery, Founding, Timing},
    frame::{FrameBatch, testing::batch},
    log::{ClusterIdentity, Meta},
    transport::{Answer, Fetched, NodeState, Promised, RequestBody, Response},
    types::{
        ClusterId, Epoch, EpochStart, Incarnation, InstanceId, LastWhole, NodeName, Offset,
        majority,
    },
};

/// A log: the epoch of each record.
type Log = Vec<u64>;

fn starts(log: &[u64]) -> Vec<EpochStart> {
    let mut starts: Vec<EpochStart> = Vec::new();
    for (&epoch, first) in log.iter().zip(0..) {
        let (epoch, first) = (Epoch(epoch), Offset(first));
        if starts.last().is_none_or(|last| last.epoch != epoch) {
            starts.push(EpochStart { epoch, first });
        }
    }
    starts
}

fn end(log: &[u64]) -> Offset {
    Offset(log.len() as u64)
}

fn common(one: &[u64], other: &[u64]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

#[derive(Clone, Debug, Default)]
struct Node {
    log: Log,
    log_epoch: Option<u64>,
    /// The earlier log of a damaged node that knows what it held.
    last_whole: Option<LastWhole>,
}

impl Node {
    /// Damages the log down to `left` records. Once damaged, a secondary acknowledges nothing more: its memory
    /// of the first damage stays.
    fn damage(&mut self, left: usize) {
        if let Some(held) = self.held() {
            self.last_whole = Some(held);
        }
        self.log_epoch = None;
        self.log.truncate(left);
    }

    /// Returns the log that an intact node holds.
    fn held(&self) -> Option<LastWhole> {
        self.log_epoch.map(|log_epoch| LastWhole {
            log_epoch: Epoch(log_epoch),
            end: end(&self.log),
        })
    }
}

/// One term of office.
#[derive(Clone, Debug)]
struct Term {
    /// Bit n: node n answers the promise, if it is needed.
    answer: u8,
    appends: usize,
    /// The part of its missing records that each secondary gets; none if the hello did not reach it.
    fills: Vec<Option<prop::sample::Index>>,
    /// The master loses power and up to this number of records that no majority has.
    lost: usize,
    /// This secondary is wiped at the end, if that leaves a majority that was never wiped; or it is damaged,
    /// and this part of its log is left.
    wiped: Option<(usize, Option<prop::sample::Index>)>,
}

fn any_term(nodes: usize) -> impl Strategy<Value = Term> {
    let fill = prop::option::weighted(0.8, any::<prop::sample::Index>());
    (
        any::<u8>(),
        0..4_usize,
        prop::collection::vec(fill, nodes),
        0..4_usize,
        prop::option::weighted(
            0.2,
            (1..nodes, prop::option::of(any::<prop::sample::Index>())),
        ),
    )
        .prop_map(|(answer, appends, fills, lost, wiped)| Term {
            answer,
            appends,
            fills,
            lost,
            wiped,
        })
}

/// A cluster with node 0 as its master.
#[derive(Clone, Debug)]
struct History {
    nodes: Vec<Node>,
    epoch: u64,
    /// All records ever held by a majority whose logs count.
    acknowledged: Log,
    wipes: usize,
}

impl History {
    fn new(nodes: usize) -> History {
        let founded = Node {
            log: Vec::new(),
            log_epoch: Some(1),
            last_whole: None,
        };
        History {
            nodes: vec![founded; nodes],
            epoch: 1,
            acknowledged: Vec::new(),
            wipes: 0,
        }
    }

    fn majority(&self) -> usize {
        majority(self.nodes.len() as u32) as usize
    }

    fn serve(&mut self, term: &Term) {
        self.epoch += 1;
        let epoch = self.epoch;
        let mut asked: Vec<usize> = (0..self.nodes.len()).collect();
        // Nodes that answer come first; the others only as far as a majority needs them.
        asked[1..].sort_by_key(|node| term.answer & (1 << node) == 0);
        let answers = asked[1..]
            .iter()
            .filter(|node| term.answer & (1 << **node) != 0)
            .count();
        asked.truncate(self.majority().max(1 + answers));
        let rank = |node: &Node| node.log_epoch.map(|log_epoch| (log_epoch, node.log.len()));
        let best = asked
            .iter()
            .map(|node| &self.nodes[*node])
            .max_by_key(|node| rank(node));
        let mut log = best.expect("the master is one of them").log.clone();
        assert_eq!(
            common(&log, &self.nodes[0].log),
            self.nodes[0].log.len(),
            "a master was cut"
        );
        let adopted = log.len();
        log.extend(vec![epoch; term.appends]);
        let mut counted = vec![log.len()];
        for (node, fill) in self.nodes.iter_mut().zip(&term.fills).skip(1) {
            let Some(fill) = fill else { continue };
            node.log.truncate(common(&node.log, &log));
            let from = node.log.len();
            let until = from + fill.index(log.len() - from + 1);
            node.log.extend(&log[from..until]);
            let needed = if node.log_epoch.is_some() {
                adopted
            } else {
                log.len()
            };
            if until >= needed {
                (node.log_epoch, node.last_whole) = (Some(epoch), None);
                counted.push(until);
            }
        }
        counted.sort_unstable_by(|a, b| b.cmp(a));
        let committed = counted.get(self.majority() - 1).copied().unwrap_or(0);
        let known = common(&self.acknowledged, &log);
        assert_eq!(
            known,
            self.acknowledged.len().min(log.len()),
            "rule 1, by the history itself"
        );
        if committed > self.acknowledged.len() {
            self.acknowledged = log[..committed].to_vec();
        }
        // Records that the master had not synced were never acknowledged.
        let kept = log.len() - term.lost.min(log.len() - adopted.max(committed));
        log.truncate(kept);
        self.nodes[0] = Node {
            log,
            log_epoch: Some(epoch),
            last_whole: None,
        };
        if let Some((wiped, damaged)) = term.wiped
            && self.wipes + 1 < self.majority()
        {
            self.wipes += 1;
            match damaged {
                Some(left) => {
                    let left = left.index(self.nodes[wiped].log.len() + 1);
                    self.nodes[wiped].damage(left);
                }
                None => self.nodes[wiped] = Node::default(),
            }
        }
    }
}

fn any_history() -> impl Strategy<Value = History> {
    (2..=5_usize).prop_flat_map(|nodes| {
        prop::collection::vec(any_term(nodes), 1..9).prop_map(move |terms| {
            let mut history = History::new(nodes);
            terms.iter().for_each(|term| history.serve(term));
            history
        })
    })
}

fn name(node: usize) -> NodeName {
    NodeName::new(&format!("n{node}")).unwrap()
}

fn life(node: usize) -> Incarnation {
    Incarnation {
        instance: InstanceId::from_bytes([node as u8; 16]),
        start: 1,
    }
}

fn cluster() -> ClusterId {
    ClusterId::from_bytes([9; 16])
}

/// Returns the records of `from..until`, limited to what one answer carries.
fn records(log: &[u64], from: usize, until: usize) -> Vec<FrameBatch> {
    let mut batches = Vec::new();
    let mut from = from;
    while from < until {
        let same = log[from..until]
            .iter()
            .take_while(|epoch| **epoch == log[from])
            .count();
        batches.push(batch(from as u64..(from + same) as u64, log[from]));
        from += same;
    }
    batches
}

/// The recovery of node 0 with the answers of the other nodes.
struct Start {
    recovery: Recovery,
    node: MasterNode,
    now: Instant,
    own: Log,
    nodes: Vec<Node>,
    /// The nodes that answer at all.
    answers: u8,
    /// Number of records in one answer.
    at_once: usize,
}

impl Start {
    fn new(history: &History, answers: u8, at_once: usize) -> Start {
        let nodes: Vec<NodeName> = (0..history.nodes.len()).map(name).collect();
        let master = &history.nodes[0];
        let meta = Meta {
            last_whole: master.last_whole,
            name: name(0),
            instance: life(0).instance,
            start: 1,
            cluster: Some(ClusterIdentity {
                id: cluster(),
                nodes: nodes.clone(),
            }),
            promised: Some(promise_to(None, Epoch(history.epoch), &name(0), life(0))),
            log_epoch: master.log_epoch.map(Epoch),
            forced_epoch: None,
        };
        let settings = Settings {
            nodes,
            founding: Founding::Never,
            forced_recovery: ForcedRecovery::default(),
            take_over: crate::config::TakeOver::default(),
            timing: Timing::default(),
            drawn: cluster(),
        };
        let now = Instant::now();
        let mut node = MasterNode::new(meta, OwnLog::whole(end(&master.log)));
        Start {
            recovery: Recovery::new(settings, &mut node, now),
            node,
            now,
            own: master.log.clone(),
            nodes: history.nodes.clone(),
            answers,
            at_once,
        }
    }

    /// Runs until it serves, or until nothing more happens.
    fn run(&mut self) -> Option<Offset> {
        for _ in 0..500 {
            let actions = self.recovery.take_actions();
            if actions.is_empty() {
                self.now = self.recovery.next_deadline(&self.node)?;
                let own = starts(&self.own);
                self.recovery.on_deadline(&mut self.node, self.now, &own);
            }
            for action in actions {
                match action {
                    RecoveryAction::Save(save) => {
                        self.node.on_saved(save.ticket);
                        self.recovery.on_saved(&mut self.node, self.now);
                    }
                    RecoveryAction::Truncate { ticket, to } => {
                        assert!(
                            self.nodes[0].log_epoch.is_none(),
                            "an intact master was cut"
                        );
                        self.own.truncate(to.0 as usize);
                        self.node.on_cut(ticket, to);
                        self.recovery.on_truncated(&mut self.node, self.now);
                    }
                    RecoveryAction::Append(batches) => {
                        for message in batches.iter().flat_map(|batch| batch.messages()) {
                            assert_eq!(message.offset, end(&self.own));
                            self.own.push(message.epoch.0);
                        }
                        self.recovery
                            .on_durable(&mut self.node, self.now, end(&self.own));
                    }
                    RecoveryAction::Ask {
                        to,
                        epoch,
                        serial,
                        body,
                        ..
                    } => self.ask(&to, epoch, serial, &body),
                    RecoveryAction::Serve { adopted_end, .. } => return Some(adopted_end),
                    RecoveryAction::Quarantine { .. }
                    | RecoveryAction::Note(_)
                    | RecoveryAction::Warning(_) => {}
                    action @ RecoveryAction::Alarm(_) => panic!("nothing is forced: {action:?}"),
                    RecoveryAction::BecomeFenced(by) => panic!("{by:?}"),
                    RecoveryAction::Malformed { from, detail } => panic!("{from}: {detail}"),
                }
            }
        }
        panic!("the recovery never ends: {:?}", self.recovery);
    }

    fn ask(&mut self, to: &[NodeName], promised: Epoch, serial: u64, body: &RequestBody) {
        for node in 1..self.nodes.len() {
            if !to.contains(&name(node)) || self.answers & (1 << node) == 0 {
                continue;
            }
            let Node {
                log,
                log_epoch,
                last_whole,
            } = &self.nodes[node];
            let answer = match body {
                RequestBody::Promise(_) => Answer::Promised(Promised {
                    last_whole: *last_whole,
                    epoch_starts: starts(log),
                    forced_epoch: None,
                }),
                RequestBody::Fetch(fetch) => {
                    let from = fetch.from.0 as usize;
                    Answer::Records(Fetched {
                        epoch_starts: Vec::new(),
                        records: records(log, from, log.len().min(from + self.at_once)),
                    })
                }
                other => panic!("{other:?}"),
            };
            let response = Response {
                cluster: Some(cluster()),
                name: name(node),
                incarnation: life(node),
                state: NodeState {
                    durable_end: end(log),
                    log_epoch: log_epoch.map(Epoch),
                    promised,
                    buffered: 0,
                },
                answer,
            };
            let own = starts(&self.own);
            self.recovery
                .on_answer(&mut self.node, self.now, serial, response, &own);
        }
    }

    /// Returns `true` if enough nodes answer, by the letter of the protocol.
    fn may_serve(&self) -> bool {
        let intact = self.nodes[0].log_epoch.is_some();
        let answer = |node: &usize| self.answers & (1 << node) != 0;
        let counts = |node: &usize| intact || self.nodes[*node].log_epoch.is_some();
        let others = (1..self.nodes.len()).filter(|node| answer(node) && counts(node));
        let promises = others.count() + usize::from(intact);
        // It is also enough if a majority is known to have held no more than the best intact log.
        let there = || (0..self.nodes.len()).filter(|node| *node == 0 || answer(node));
        let nodes = || there().map(|node| &self.nodes[node]);
        let best = nodes().filter_map(Node::held).max();
        let is_covered = |node: &&Node| {
            let held = node.held().or(node.last_whole);
            held.is_some() && held <= best
        };
        let covered = nodes().filter(is_covered).count();
        promises.max(covered) >= majority(self.nodes.len() as u32) as usize
    }
}

/// Damage to the nodes at the end of a history, before the start under test.
#[derive(Clone, Debug)]
struct Harm {
    /// The master is wiped, or half refilled: this part of its log is left, and it does not know what it held.
    master: Option<prop::sample::Index>,
    /// The part of each node's log that is left where its disk is damaged.
    damaged: Vec<Option<prop::sample::Index>>,
}

fn any_harm() -> impl Strategy<Value = Harm> {
    let index = any::<prop::sample::Index>;
    let master = prop::option::weighted(0.3, index());
    let damaged = prop::collection::vec(prop::option::weighted(0.3, index()), 5);
    (master, damaged).prop_map(|(master, damaged)| Harm { master, damaged })
}

/// A damaged node's memory of what it held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    Right,
    /// Memory of an earlier moment: as of a master that went on despite damage and was damaged again.
    OutOfDate,
}

impl History {
    fn harm(&mut self, harm: &Harm, memory: Memory) {
        if let Some(left) = &harm.master
            && self.wipes + 1 < self.majority()
        {
            let left = left.index(self.nodes[0].log.len() + 1);
            self.nodes[0].log.truncate(left);
            self.nodes[0].log_epoch = None;
        }
        for (node, left) in self.nodes.iter_mut().zip(&harm.damaged) {
            if let Some(left) = left {
                let left = left.index(node.log.len() + 1);
                node.damage(left);
                if let (Memory::OutOfDate, Some(whole)) = (memory, &mut node.last_whole) {
                    whole.end = whole.end.min(Offset(left as u64));
                }
            }
        }
    }
}

/// Checks rule 5 for one start after a history; the letter of the protocol decides whether it serves.
fn check_start(history: &History, answers: u8, at_once: usize) -> Result<(), TestCaseError> {
    let mut start = Start::new(history, answers, at_once);
    let may_serve = start.may_serve();
    let served = start.run();
    prop_assert_eq!(served.is_some(), may_serve);
    if let Some(adopted_end) = served {
        prop_assert_eq!(adopted_end, end(&start.own));
        let held = common(&start.own, &history.acknowledged);
        prop_assert_eq!(
            held,
            history.acknowledged.len(),
            "{:?} {:?}",
            start.own,
            history
        );
    }
    Ok(())
}

/// The checks detect a damaged node that remembers less than it held.
#[test]
fn an_outdated_memory_of_damage_loses_acknowledged_records() {
    let config = ProptestConfig {
        cases: 20_000,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let cases = (any_history(), any_harm(), any::<u8>());
    let found = runner.run(&cases, |(mut history, harm, answers)| {
        history.harm(&harm, Memory::OutOfDate);
        check_start(&history, answers, 3)
    });
    assert!(found.is_err(), "nothing is lost");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Rule 5, and that an intact master never cuts its own log.
    #[test]
    fn the_adopted_log_holds_what_a_majority_held_whichever_nodes_answer(
        history in any_history(),
        answers in any::<u8>(),
        at_once in 1..5_usize,
        harm in any_harm(),
    ) {
        let mut history = history;
        history.harm(&harm, Memory::Right);
        check_start(&history, answers, at_once)?;
    }

    /// Rule 1: agreement is the common prefix, however few of the newest pairs are sent at a time.
    #[test]
    fn agreement_is_the_common_prefix(
        history in any_history(),
        at_a_time in 1..4_usize,
        own_at_a_time in 1..4_usize,
    ) {
        for own in &history.nodes {
            for other in &history.nodes {
                let found = asked_until_known(&own.log, &other.log, own_at_a_time, at_a_time);
                prop_assert_eq!(found, common(&own.log, &other.log), "{:?} {:?}", own, other);
            }
        }
    }
}

/// Asks for older pairs, of the other log and of its own, as a secondary does.
fn asked_until_known(own: &[u64], other: &[u64], own_at_a_time: usize, at_a_time: usize) -> usize {
    let newest_before = |log: &[u64], before: Offset, count: usize| -> Vec<EpochStart> {
        let mut pairs = starts(log);
        pairs.retain(|pair| pair.first < before);
        pairs.split_off(pairs.len().saturating_sub(count))
    };
    let mut own_starts = newest_before(own, Offset(u64::MAX), own_at_a_time);
    let mut other_starts = newest_before(other, Offset(u64::MAX), at_a_time);
    let mut other_end = end(other);
    for _ in 0..100 {
        let mine = Outline {
            starts: &own_starts,
            end: end(own),
        };
        let theirs = Outline {
            starts: &other_starts,
            end: other_end,
        };
        match agreement(mine, theirs) {
            Agreement::Below(end) => return end.0 as usize,
            Agreement::OlderNeeded { before } => {
                other_starts = newest_before(other, before, at_a_time);
                other_end = before;
            }
            Agreement::OwnOlderNeeded { before } => {
                let older = newest_before(own, before, own_at_a_time);
                own_starts.splice(..0, older);
            }
        }
    }
    panic!("it never stops asking");
}

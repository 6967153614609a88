//! Start of a master: found a cluster or recover, collect promises, adopt a log, and only then serve.
//!
//! Owns the order of the steps that keeps every acknowledged message; the promise, the log epoch and the ends of the
//! log are in the node's [`Durable`](crate::rules::durable::Durable), which it borrows. Never sends, saves or fetches
//! itself: it says what to ask, save, cut and append, and is told when that is done. Keeps rules 5, 7 and 9.
//!
//! ```text
//!  blank: Identifying ──▶ Saving(identity) ─┐
//!  intact or not:                           ├─▶ Saving(promise) ─▶ Promising ─▶ Cutting ─▶ Adopting
//!                         ▲ a higher epoch was seen, or the source is gone │         │          │
//!                         └────────────────── BackingOff ◀─────────────────┴─────────┴──────────┤
//!                                                  Serving ◀─ Saving(log epoch) ◀───────────────┘
//! ```
//!
//! An intact master never cuts its own log.
//!
//! A refused round is followed by another at once, and then after growing delays, so that two masters that
//! outbid each other do not fill the disks of all nodes at full speed. An answer must make sense (`bounds.rs`),
//! or it counts as none; an incarnation that sent records that contradict its promise is not adopted from
//! again.
//!
//! A blank master asks all nodes which master they hear from, and deposes none that one of them has heard
//! within `unhealthy_after`: its own directory may be the wrong one.
//!
//! If forced recovery is allowed and no majority answers, the same steps run with the nodes that do, in an
//! epoch far above; `config.rs` says what that means.
//!
//! After Viewstamped Replication's view change and Zab's recovery phase: the log of the highest
//! (log epoch, end) among a majority holds everything that was acknowledged at a majority.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    config::{ForcedRecovery, Founding, TakeOver, Timing},
    frame::FrameBatch,
    limits::{BATCH_BYTES_MAX, SOURCE_FAILURES_MAX},
    log::ClusterIdentity,
    rules::{
        alignment::{Agreement, Outline, agreement},
        backoff::Backoff,
        bounds,
        durable::{Save, Ticket},
        master_log::{MasterNode, MasterWork},
    },
    transport::{Answer, FencedBy, Fetch, Fetched, Promise, Refusal, RequestBody, Response},
    types::{
        ClusterId, Epoch, EpochStart, Incarnation, InstanceId, LastWhole, NodeName, Offset,
        StuckReason, majority,
    },
    views::{OtherMaster, RecoveryHealth, StuckRecovery},
};

/// The flag of a forced recovery.
const FORCE: &str = "--force-recovery-and-lose-acknowledged-messages";
/// The operators' page in the repository.
const PAGE: &str = "docs/src/operating/recovery.md";

/// Recovery of one start of a master.
#[derive(Debug)]
pub(crate) struct Recovery {
    settings: Settings,
    step: Step,
    step_since: Instant,
    started: Instant,
    /// Stamped on each question, so that a late answer to an earlier one is recognised.
    serial: u64,
    /// The latest answer of each other node to the current question.
    answers: BTreeMap<NodeName, PeerReply>,
    /// The highest epoch seen anywhere, as far as it is followed.
    highest: Epoch,
    /// Delays between rounds.
    backoff: Backoff,
    /// Incarnations that promised one log and sent another.
    liars: BTreeMap<NodeName, Incarnation>,
    /// Incarnations that did not deliver the log that they promised, and how often.
    failed_sources: BTreeMap<NodeName, (Incarnation, u32)>,
    /// Set once the warning about another master was published.
    published_other_master: bool,
    /// The end of the records fetched last, until they are durable.
    appending_to: Offset,
    /// Set when no majority answered in time: the nodes that had answered by then, which are asked to promise
    /// the forced epoch.
    forced_with: Option<BTreeSet<NodeName>>,
    /// The stuck state of the last warning.
    warned_stuck: Option<StuckRecovery>,
    out: Vec<RecoveryAction>,
}

/// Settings that a recovery depends on.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) nodes: Vec<NodeName>,
    pub(crate) founding: Founding,
    pub(crate) forced_recovery: ForcedRecovery,
    pub(crate) take_over: TakeOver,
    pub(crate) timing: Timing,
    /// The id given to the cluster if this master founds it.
    pub(crate) drawn: ClusterId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// A blank master asks the other nodes for their identities.
    Identifying,
    /// Founding a cluster, or rejoining one whose master was wiped.
    SavingIdentity,
    SavingPromise {
        epoch: Epoch,
    },
    Promising {
        epoch: Epoch,
    },
    /// A round failed; the next one begins at `until`.
    BackingOff {
        until: Instant,
    },
    /// A log that is not intact is cut to where it agrees with the adopted one.
    Cutting {
        epoch: Epoch,
        source: Source,
    },
    Adopting {
        epoch: Epoch,
        source: Source,
    },
    SavingLogEpoch {
        epoch: Epoch,
    },
    Done,
    Fenced,
}

/// The node whose log is adopted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    name: NodeName,
    incarnation: Incarnation,
    end: Offset,
}

/// Quality of a log, compared in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    log_epoch: Option<Epoch>,
    /// The epoch of its last record, if the log is not intact.
    newest: Option<Epoch>,
    end: Offset,
}

/// A master that another node has heard.
#[derive(Clone, Debug)]
struct OtherContact {
    name: NodeName,
    instance: InstanceId,
    heard_at: Instant,
}

/// Answer of another node.
#[derive(Clone, Debug)]
enum PeerReply {
    /// It has no identity.
    Blank,
    /// It knows its cluster, and may have heard another master.
    Identity(ClusterIdentity, Option<OtherContact>),
    /// It promised the epoch.
    Promised {
        incarnation: Incarnation,
        log_epoch: Option<Epoch>,
        /// Its log before damage made it not intact.
        last_whole: Option<LastWhole>,
        end: Offset,
        starts: Vec<EpochStart>,
    },
    /// It belongs to another cluster, or its answer is useless for another reason.
    Stranger,
}

/// Steps for the actor to carry out, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecoveryAction {
    /// Ask these nodes until told otherwise, and no others.
    Ask {
        to: Vec<NodeName>,
        cluster: Option<ClusterId>,
        epoch: Epoch,
        serial: u64,
        body: RequestBody,
    },
    /// Save this meta and report with the ticket.
    Save(Save),
    /// Quarantine the records that are about to be cut from this node's log.
    Quarantine { from: Offset, epoch: Epoch },
    /// Cut this node's log and report with the ticket.
    Truncate { ticket: Ticket, to: Offset },
    /// Append to this node's log and report when the records are durable.
    Append(Vec<FrameBatch>),
    /// The recovery is done.
    Serve { epoch: Epoch, adopted_end: Offset },
    /// Another master is the leader.
    BecomeFenced(FencedBy),
    /// A node's answer makes no sense: count it, but do not believe it.
    Malformed { from: NodeName, detail: String },
    /// A message of interest to an operator.
    Note(String),
    /// A message that may call for action by an operator.
    Warning(String),
    /// A message that an operator must read.
    Alarm(String),
}

impl Recovery {
    /// Starts from the contents of the directory.
    pub(crate) fn new(settings: Settings, node: &mut MasterNode, now: Instant) -> Recovery {
        Recovery::again(settings, node, 0, now)
    }

    /// Starts as [`Recovery::new`] does, but later in the same run, after a recovery whose last question had
    /// `serial`.
    pub(crate) fn again(
        settings: Settings,
        node: &mut MasterNode,
        serial: u64,
        now: Instant,
    ) -> Recovery {
        let own = node.own_log();
        assert!(
            own.whole_end == own.end || node.staged().log_epoch.is_none(),
            "an intact log with a hole: {own:?}"
        );
        if node.staged().log_epoch.is_none() {
            // Whatever a master appended despite damage, it acknowledged too. Saved with the promise of the first
            // round, before anything is cut: after a cut, a restart would find less.
            node.extend_last_whole();
        }
        let highest = node.promised_epoch();
        // A new seed at each start, so that two masters do not wait in step.
        let drawn = settings.drawn.to_bytes();
        let seed = drawn
            .iter()
            .fold(0, |seed: u64, byte| seed.rotate_left(8) ^ u64::from(*byte));
        let backoff = Backoff::new(&settings.timing, seed);
        let mut recovery = Recovery {
            settings,
            step: Step::Identifying,
            step_since: now,
            started: now,
            serial,
            answers: BTreeMap::new(),
            highest,
            backoff,
            liars: BTreeMap::new(),
            failed_sources: BTreeMap::new(),
            published_other_master: false,
            appending_to: Offset::ZERO,
            forced_with: None,
            warned_stuck: None,
            out: Vec::new(),
        };
        // A master that has joined but promised nothing yet may still depose another.
        if node.staged().cluster.is_some() && node.promised().is_some() {
            recovery.choose_epoch(node, now);
        } else {
            recovery.become_identifying(node, now);
        }
        recovery
    }

    /// Takes the pending actions.
    pub(crate) fn take_actions(&mut self) -> Vec<RecoveryAction> {
        std::mem::take(&mut self.out)
    }

    /// Handles a node's answer to the question with `serial`.
    pub(crate) fn on_answer(
        &mut self,
        node: &mut MasterNode,
        now: Instant,
        serial: u64,
        response: Response,
        own_starts: &[EpochStart],
    ) {
        if serial != self.serial || !self.settings.nodes.contains(&response.name) {
            return;
        }
        if let Err(detail) = bounds::check_response(self.asked_epoch(node), &response) {
            self.on_malformed(response.name, detail);
            self.decide_if_all_answered(node, now, own_starts);
            return;
        }
        if self.step != Step::Identifying {
            self.follow(node, response.state.promised);
        }
        match self.step.clone() {
            Step::Identifying => self.on_identity(node, now, response),
            Step::Promising { epoch } => self.on_promise(node, now, epoch, response, own_starts),
            Step::Adopting { epoch, source } => {
                self.on_fetched(node, now, epoch, &source, response, own_starts);
            }
            Step::SavingIdentity
            | Step::SavingPromise { .. }
            | Step::BackingOff { .. }
            | Step::Cutting { .. }
            | Step::SavingLogEpoch { .. }
            | Step::Done
            | Step::Fenced => {}
        }
    }

    /// Continues once the requested meta is durable.
    pub(crate) fn on_saved(&mut self, node: &mut MasterNode, now: Instant) {
        match self.step.clone() {
            Step::SavingIdentity => self.choose_epoch(node, now),
            Step::SavingPromise { epoch } => self.become_promising(node, now, epoch),
            Step::SavingLogEpoch { epoch } => {
                self.step = Step::Done;
                let adopted_end = node.whole_end();
                self.out.push(RecoveryAction::Serve { epoch, adopted_end });
            }
            Step::Identifying
            | Step::Promising { .. }
            | Step::BackingOff { .. }
            | Step::Cutting { .. }
            | Step::Adopting { .. }
            | Step::Done
            | Step::Fenced => {}
        }
    }

    /// Continues once this node's log was cut.
    pub(crate) fn on_truncated(&mut self, node: &mut MasterNode, now: Instant) {
        if let Step::Cutting { epoch, source } = self.step.clone() {
            self.become_adopting(node, now, epoch, source);
        }
    }

    /// Notes that this node's log is durable up to `end`, without a hole.
    pub(crate) fn on_durable(&mut self, node: &mut MasterNode, now: Instant, end: Offset) {
        // In every step: fetched records may become durable only after their round was given up, and the next
        // round must not take the log for shorter than it is.
        let grown = end > node.whole_end();
        node.on_durable(end);
        if let Step::Adopting { epoch, source } = self.step.clone()
            && grown
            && end >= self.appending_to
        {
            self.become_adopting(node, now, epoch, source);
        }
    }

    /// Acts when the time of [`Recovery::next_deadline`] has come.
    pub(crate) fn on_deadline(
        &mut self,
        node: &mut MasterNode,
        now: Instant,
        own_starts: &[EpochStart],
    ) {
        if self
            .next_deadline(node)
            .is_none_or(|deadline| now < deadline)
        {
            return;
        }
        match self.step.clone() {
            Step::Identifying => self.decide_identity(node, now),
            Step::Promising { epoch } => self.decide_promises(node, now, epoch, own_starts),
            // The source is gone: start a round without it, and with a majority if there is one now.
            Step::Adopting { source, .. } => {
                self.forced_with = None;
                self.count_failure(&source);
                self.note(format!(
                    "{} no longer answers: starting a new round of promises",
                    source.name
                ));
                self.begin_another_round(node, now);
            }
            Step::BackingOff { .. } => self.choose_epoch(node, now),
            _ => {}
        }
    }

    /// Returns when to call [`Recovery::on_deadline`] if nothing happens before.
    pub(crate) fn next_deadline(&self, node: &MasterNode) -> Option<Instant> {
        let patience = self.patience();
        match self.step {
            Step::Identifying if self.known_cluster(node).is_some() => {
                let all = self.answers.len() + 1 == self.settings.nodes.len();
                let silent_at = self.others_silent_at();
                match all {
                    true => silent_at,
                    false => Some(silent_at.map_or(patience, |at| at.max(patience))),
                }
            }
            Step::Identifying if self.may_found() => Some(patience),
            Step::Promising { .. } if self.may_decide(node) || self.may_force(node) => {
                Some(patience)
            }
            // The warning is due then; answers that arrive earlier may still change it.
            Step::Promising { .. }
                if self
                    .stuck(node)
                    .is_some_and(|stuck| Some(stuck) != self.warned_stuck) =>
            {
                Some(patience)
            }
            Step::Adopting { .. } => Some(patience),
            Step::BackingOff { until } => Some(until),
            _ => None,
        }
    }

    /// Returns the time until which to wait for nodes that have not answered. In a later round, nodes that have
    /// been silent for `unhealthy_after` since the start get no longer than one request takes.
    fn patience(&self) -> Instant {
        let Timing {
            unhealthy_after,
            request_timeout,
            ..
        } = self.settings.timing;
        match self.step {
            // A slow node that takes part in a forced recovery is not left out.
            Step::Promising { .. } if self.forced_with.is_some() => {
                self.step_since + unhealthy_after
            }
            Step::Promising { .. } => {
                (self.started + unhealthy_after).max(self.step_since + request_timeout)
            }
            _ => self.step_since + unhealthy_after,
        }
    }

    /// Reports whether the recovery is done: this master leads its epoch.
    pub(crate) fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// Returns the progress of the recovery for people to read.
    pub(crate) fn health(&self, node: &MasterNode) -> RecoveryHealth {
        let answered =
            |name: &&NodeName| !matches!(self.answers.get(*name), None | Some(PeerReply::Stranger));
        let source = match &self.step {
            Step::Cutting { source, .. } | Step::Adopting { source, .. } => Some(source),
            _ => None,
        };
        let waits = matches!(
            self.step,
            Step::Identifying | Step::Promising { .. } | Step::BackingOff { .. }
        );
        let waiting_for = match source {
            Some(source) => vec![source.name.clone()],
            None if waits => self
                .others(node)
                .filter(|name| !answered(name))
                .cloned()
                .collect(),
            None => Vec::new(),
        };
        RecoveryHealth {
            waiting_for,
            not_intact: self.not_intact(node),
            from: source.map(|source| source.name.clone()),
            adopted: source.map(|_| node.whole_end()),
            of: source.map(|source| source.end),
            stuck: self.stuck(node),
            other_master: self
                .other_master()
                .filter(|_| self.published_other_master)
                .map(|(by, other)| OtherMaster {
                    name: other.name.clone(),
                    instance: other.instance,
                    heard_by: by.clone(),
                }),
        }
    }

    /// Warns once of a recovery that can never end, and again only when the reason changes.
    fn warn_if_stuck(&mut self, node: &MasterNode) {
        let stuck = self.stuck(node);
        if let Some(stuck) = stuck.filter(|stuck| Some(stuck) != self.warned_stuck.as_ref()) {
            let text = format!(
                "recovery cannot finish without an operator: {}",
                stuck.detail
            );
            self.out.push(RecoveryAction::Warning(text));
            self.warned_stuck = Some(stuck);
        }
    }

    /// Returns why the recovery can never end by itself, even if every missing node answered with a complete,
    /// intact log; `None` while it can.
    pub(crate) fn stuck(&self, node: &MasterNode) -> Option<StuckRecovery> {
        let reason = match self.step {
            Step::Identifying => self.stuck_without_cluster(node)?,
            Step::Promising { .. } => self.stuck_without_log(node)?,
            _ => return None,
        };
        let detail = self.describe_stuck(node, reason);
        Some(StuckRecovery { reason, detail })
    }

    fn stuck_without_cluster(&self, node: &MasterNode) -> Option<StuckReason> {
        let all = self.answers.len() + 1 == self.settings.nodes.len();
        let is_over = all && self.known_cluster(node).is_none() && !self.may_found();
        is_over.then_some(StuckReason::NoCluster)
    }

    fn stuck_without_log(&self, node: &MasterNode) -> Option<StuckReason> {
        let missing = self.without_promise(node).count();
        let may_force = match self.settings.forced_recovery {
            ForcedRecovery::LoseAcknowledged => missing > 0 || self.has_log(node),
            ForcedRecovery::Never => false,
        };
        if self.may_decide(node) || may_force {
            return None;
        }
        if missing == 0 && !self.has_log(node) {
            return Some(StuckReason::NoLog);
        }
        let missing = u32::try_from(missing).expect("bounded by NODES_MAX");
        let needed = self.needed();
        let may_end = missing > 0
            && (self.promises(node) + missing >= needed
                || self.known_logs(node) + missing >= needed);
        (!may_end).then_some(StuckReason::TooFewIntact)
    }

    /// Returns the other nodes that have given no usable promise.
    fn without_promise(&self, node: &MasterNode) -> impl Iterator<Item = &NodeName> {
        self.others(node)
            .filter(|name| !matches!(self.answers.get(*name), Some(PeerReply::Promised { .. })))
    }

    fn describe_stuck(&self, node: &MasterNode, reason: StuckReason) -> String {
        let (needed, nodes) = (self.needed(), self.settings.nodes.len());
        match reason {
            StuckReason::TooFewIntact => {
                let missing: Vec<&NodeName> = self.without_promise(node).collect();
                let (those, others) = (list(&self.not_intact(node)), list(missing.iter().copied()));
                let even = match missing.is_empty() {
                    true => "all nodes have answered".to_owned(),
                    false => format!("the answers still missing ({others}) would not be enough"),
                };
                format!(
                    "{needed} of {nodes} nodes must vouch for a log, and these cannot, because of a wipe or of damage: \
                     {those}; {even}. Start one of them with the directory that has its whole log, or, \
                     if that is lost for good, start this master with {FORCE}, which loses what only they \
                     held (see {PAGE})"
                )
            }
            StuckReason::NoLog => {
                let damaged: Vec<&NodeName> = self.damaged_from_the_start(node).collect();
                let (found, then) = match damaged.is_empty() {
                    true => (
                        String::new(),
                        "if all are lost, save these directories, start a new cluster with empty ones, and restore a backup",
                    ),
                    false => (
                        format!(
                            ". These hold messages behind damage at the beginning of their logs, so keep their \
                             directories: {}",
                            list(damaged)
                        ),
                        "else save those directories, start a new cluster with empty ones, and restore a backup",
                    ),
                };
                format!(
                    "all {nodes} nodes have answered, and none has a message that can be read or an intact log, so \
                     that {FORCE} would find nothing either{found}. Start one of them with the directory that has \
                     its log; {then} (see {PAGE})"
                )
            }
            StuckReason::NoCluster => {
                let strangers = self.answers.iter();
                let strangers: Vec<&NodeName> = strangers
                    .filter(|(_, heard)| matches!(heard, PeerReply::Stranger))
                    .map(|(name, _)| name)
                    .collect();
                match strangers.is_empty() {
                    true => format!(
                        "all {nodes} nodes are blank, and with --existing this master founds no cluster. Start \
                         one of them with the directory that has its log, or, if this is a new cluster, start this \
                         master without --existing (see {PAGE})"
                    ),
                    false => format!(
                        "these nodes belong to another cluster or cannot be understood, and the others are blank: {}. \
                         Correct the list of nodes, or start these with the right directories (see {PAGE})",
                        list(strangers.iter().copied())
                    ),
                }
            }
        }
    }

    /// Returns the nodes that had a whole log once, and now have no record that can be read.
    fn damaged_from_the_start<'a>(
        &'a self,
        node: &'a MasterNode,
    ) -> impl Iterator<Item = &'a NodeName> {
        let others = self.answers.iter().filter_map(|(name, heard)| match heard {
            PeerReply::Promised {
                last_whole, end, ..
            } => Some((name, *last_whole, *end)),
            PeerReply::Blank | PeerReply::Identity(..) | PeerReply::Stranger => None,
        });
        let own = (
            &node.staged().name,
            node.staged().last_whole,
            node.whole_end(),
        );
        let all = [own].into_iter().chain(others);
        all.filter(|(_, last_whole, end)| {
            *end == Offset::ZERO && last_whole.is_some_and(|whole| whole.end > Offset::ZERO)
        })
        .map(|(name, ..)| name)
    }

    /// Returns the nodes that answered but whose logs do not count, this master first.
    fn not_intact(&self, node: &MasterNode) -> Vec<NodeName> {
        let own = node.staged().cluster.is_some() && node.staged().log_epoch.is_none();
        let own = own.then(|| node.staged().name.clone());
        let others = self.answers.iter().filter_map(|(name, heard)| {
            let without = matches!(
                heard,
                PeerReply::Promised {
                    log_epoch: None,
                    ..
                }
            );
            without.then(|| name.clone())
        });
        own.into_iter().chain(others).collect()
    }

    /// Returns the epoch that this master tries to lead, or the highest seen.
    pub(crate) fn epoch(&self, node: &MasterNode) -> Epoch {
        node.promised_epoch()
    }

    fn others(&self, node: &MasterNode) -> impl Iterator<Item = &NodeName> {
        self.settings
            .nodes
            .iter()
            .filter(|name| **name != node.staged().name)
    }

    fn needed(&self) -> u32 {
        majority(u32::try_from(self.settings.nodes.len()).expect("bounded by NODES_MAX"))
    }

    fn note(&mut self, text: String) {
        self.out.push(RecoveryAction::Note(text));
    }

    fn enter(&mut self, now: Instant, step: Step) {
        self.step = step;
        self.step_since = now;
    }

    /// Returns the epoch that the other nodes are asked for, durably promised by this node; 0 while they are
    /// asked for their identities.
    fn asked_epoch(&self, node: &MasterNode) -> Epoch {
        match self.step {
            Step::Identifying => Epoch(0),
            _ => self.epoch(node),
        }
    }

    /// Counts an answer that makes no sense as no answer, without waiting for a better one.
    fn on_malformed(&mut self, from: NodeName, detail: String) {
        if matches!(self.step, Step::Identifying | Step::Promising { .. }) {
            self.answers
                .entry(from.clone())
                .or_insert(PeerReply::Stranger);
        }
        self.out.push(RecoveryAction::Malformed { from, detail });
    }

    fn ask(&mut self, node: &MasterNode, to: Vec<NodeName>, epoch: Epoch, body: RequestBody) {
        self.serial += 1;
        let (serial, cluster) = (self.serial, node.staged().cluster.as_ref().map(|c| c.id));
        self.out.push(RecoveryAction::Ask {
            to,
            cluster,
            epoch,
            serial,
            body,
        });
    }

    fn become_identifying(&mut self, node: &mut MasterNode, now: Instant) {
        self.enter(now, Step::Identifying);
        self.answers.clear();
        let others = self.others(node).cloned().collect();
        self.ask(node, others, Epoch(0), RequestBody::Identify);
        self.decide_when_all_answered(node, now);
    }

    fn on_identity(&mut self, node: &mut MasterNode, now: Instant, response: Response) {
        let heard = match (response.cluster, response.answer) {
            (None, Answer::Identity(_)) => PeerReply::Blank,
            (Some(id), Answer::Identity(identity)) if identity.nodes == self.settings.nodes => {
                self.follow(node, response.state.promised);
                let contact = identity
                    .master
                    .filter(|master| master.instance != node.staged().instance);
                let other = contact.and_then(|master| {
                    let elapsed = Duration::from_millis(master.elapsed_ms);
                    Some(OtherContact {
                        name: master.name,
                        instance: master.instance,
                        heard_at: now.checked_sub(elapsed)?,
                    })
                });
                let nodes = identity.nodes;
                PeerReply::Identity(ClusterIdentity { id, nodes }, other)
            }
            (Some(id), Answer::Identity(identity)) => {
                let (name, nodes) = (&response.name, identity.nodes);
                let known = matches!(self.answers.get(name), Some(PeerReply::Stranger));
                if !known {
                    let text = format!(
                        "{name} belongs to cluster {id} of the nodes {nodes:?}, not of {:?}: founding \
                         nothing, and taking nothing from it",
                        self.settings.nodes
                    );
                    self.out.push(RecoveryAction::Alarm(text));
                }
                PeerReply::Stranger
            }
            _ => return,
        };
        self.answers.insert(response.name, heard);
        self.decide_when_all_answered(node, now);
    }

    fn decide_when_all_answered(&mut self, node: &mut MasterNode, now: Instant) {
        let all = self.answers.len() + 1 == self.settings.nodes.len();
        let may_depose = self.settings.take_over == TakeOver::AtOnce;
        if all || may_depose && self.known_cluster(node).is_some() {
            self.decide_identity(node, now);
        }
    }

    /// Returns the existing cluster, as far as this blank master knows.
    fn known_cluster(&self, node: &MasterNode) -> Option<ClusterIdentity> {
        let answered = self.answers.values().find_map(|heard| match heard {
            PeerReply::Identity(identity, _) => Some(identity.clone()),
            _ => None,
        });
        node.staged().cluster.clone().or(answered)
    }

    /// Returns the other master heard most recently, and the node that heard it.
    fn other_master(&self) -> Option<(&NodeName, &OtherContact)> {
        let heard = self.answers.iter().filter_map(|(by, heard)| match heard {
            PeerReply::Identity(_, other) => Some((by, other.as_ref()?)),
            _ => None,
        });
        heard
            .filter(|_| self.settings.take_over == TakeOver::WhenSilent)
            .max_by_key(|(_, other)| other.heard_at)
    }

    /// Returns when every other master will have been silent for long enough; `None` if no node has heard one.
    fn others_silent_at(&self) -> Option<Instant> {
        let (_, other) = self.other_master()?;
        Some(other.heard_at + self.settings.timing.unhealthy_after)
    }

    /// Joins the existing cluster, but deposes no master that the other nodes still hear.
    fn join(&mut self, node: &mut MasterNode, now: Instant, cluster: ClusterIdentity) {
        if self.others_silent_at().is_some_and(|at| now < at) {
            self.warn_of_other_master();
            return;
        }
        if node.staged().cluster.is_some() {
            self.choose_epoch(node, now);
            return;
        }
        self.note(format!(
            "this master is blank and cluster {} exists: recovering",
            cluster.id
        ));
        node.stage_cluster(cluster);
        self.save(node, now, Step::SavingIdentity);
    }

    fn warn_of_other_master(&mut self) {
        if std::mem::replace(&mut self.published_other_master, true) {
            return;
        }
        let Some((by, OtherContact { name, instance, .. })) = self.other_master() else {
            return;
        };
        let text = format!(
            "{by} still hears master {name} (directory {instance}), which this one would depose: its own \
             directory is blank. Is it the right one? Waiting until that master has been silent for \
             {:?}; --take-over skips the wait",
            self.settings.timing.unhealthy_after
        );
        self.out.push(RecoveryAction::Warning(text));
    }

    /// Reports whether this master may found a cluster: every answer came from a blank node, and with this one
    /// they are a majority.
    fn may_found(&self) -> bool {
        let all_blank = self
            .answers
            .values()
            .all(|heard| matches!(heard, PeerReply::Blank));
        let blank = u32::try_from(self.answers.len()).expect("bounded by NODES_MAX") + 1;
        self.settings.founding == Founding::Allowed && all_blank && blank >= self.needed()
    }

    fn decide_identity(&mut self, node: &mut MasterNode, now: Instant) {
        if let Some(cluster) = self.known_cluster(node) {
            self.join(node, now, cluster);
            return;
        }
        if !self.may_found() {
            self.warn_if_stuck(node);
            return;
        }
        let (id, nodes) = (self.settings.drawn, self.settings.nodes.clone());
        self.note(format!("founding cluster {id} of the nodes {nodes:?}"));
        node.stage_cluster(ClusterIdentity { id, nodes });
        self.promise_myself(node, Epoch(1));
        node.take_log_epoch(Epoch(1));
        self.save(node, now, Step::SavingIdentity);
    }

    fn save(&mut self, node: &mut MasterNode, now: Instant, step: Step) {
        self.enter(now, step);
        // Ask nothing while a promise is not durable.
        self.serial += 1;
        let save = node.save(MasterWork::Recovery);
        self.out.push(RecoveryAction::Save(save));
    }

    /// Follows an epoch that another node names: the next one that this node takes is above it, or above as
    /// much of it as this node may follow.
    fn follow(&mut self, node: &MasterNode, named: Epoch) {
        self.highest = self
            .highest
            .max(named.capped_for_recovery(self.epoch(node)));
    }

    fn promise_myself(&mut self, node: &mut MasterNode, epoch: Epoch) {
        node.promise_to_self(epoch);
        self.highest = self.highest.max(epoch);
    }

    /// Ends a failed round. The first time another follows at once, and then after growing delays.
    fn begin_another_round(&mut self, node: &mut MasterNode, now: Instant) {
        let delay = self.backoff.on_failure();
        if delay.is_zero() {
            self.choose_epoch(node, now);
        } else {
            let until = now + delay;
            self.enter(now, Step::BackingOff { until });
        }
    }

    /// Takes an epoch above all seen. Promises for lower ones no longer count.
    fn choose_epoch(&mut self, node: &mut MasterNode, now: Instant) {
        let epoch = self.highest.next();
        self.take_epoch(node, now, epoch);
    }

    fn take_epoch(&mut self, node: &mut MasterNode, now: Instant, epoch: Epoch) {
        self.promise_myself(node, epoch);
        self.answers.clear();
        self.save(node, now, Step::SavingPromise { epoch });
    }

    fn become_promising(&mut self, node: &mut MasterNode, now: Instant, epoch: Epoch) {
        self.enter(now, Step::Promising { epoch });
        let others = self.others(node).cloned().collect();
        let promise = Promise {
            nodes: self.settings.nodes.clone(),
            log_epoch: node.staged().log_epoch,
        };
        self.ask(node, others, epoch, RequestBody::Promise(promise));
        if self.all_promised(node) {
            self.decide_promises(node, now, epoch, &[]);
        }
    }

    fn on_promise(
        &mut self,
        node: &mut MasterNode,
        now: Instant,
        epoch: Epoch,
        response: Response,
        own_starts: &[EpochStart],
    ) {
        let heard = match response.answer {
            Answer::Promised(_)
                if self.liars.get(&response.name) == Some(&response.incarnation) =>
            {
                PeerReply::Stranger
            }
            // It would have refused a log older than its own.
            Answer::Promised(_)
                if node.staged().log_epoch.is_some()
                    && response.state.log_epoch > node.staged().log_epoch =>
            {
                let detail = format!(
                    "promised to a master of log epoch {:?} with a newer one, {:?}",
                    node.staged().log_epoch,
                    response.state.log_epoch
                );
                self.on_malformed(response.name, detail);
                return;
            }
            Answer::Promised(promised) => {
                node.stage_forced_epoch(promised.forced_epoch);
                PeerReply::Promised {
                    incarnation: response.incarnation,
                    log_epoch: response.state.log_epoch,
                    last_whole: promised.last_whole,
                    end: response.state.durable_end,
                    starts: promised.epoch_starts,
                }
            }
            Answer::Refused(Refusal::Fenced(by)) => {
                self.follow(node, by.epoch);
                self.note(format!(
                    "{} refuses epoch {epoch}: {}",
                    response.name,
                    by.describe()
                ));
                self.begin_another_round(node, now);
                return;
            }
            Answer::Refused(Refusal::Replaced(by) | Refusal::OutOfDate(by)) => {
                self.step = Step::Fenced;
                self.serial += 1;
                self.out.push(RecoveryAction::BecomeFenced(by));
                return;
            }
            _ => return,
        };
        self.answers.insert(response.name, heard);
        self.decide_if_all_answered(node, now, own_starts);
    }

    /// Decides once no further answer is awaited.
    fn decide_if_all_answered(
        &mut self,
        node: &mut MasterNode,
        now: Instant,
        own_starts: &[EpochStart],
    ) {
        match self.step {
            Step::Identifying => self.decide_when_all_answered(node, now),
            Step::Promising { epoch } if self.all_promised(node) || now >= self.patience() => {
                self.decide_promises(node, now, epoch, own_starts);
            }
            _ => {}
        }
    }

    /// Reports whether every node that was asked has answered.
    fn all_promised(&self, node: &MasterNode) -> bool {
        let is_there = |name: &NodeName| self.answers.contains_key(name);
        match &self.forced_with {
            Some(with) => with.iter().all(is_there),
            None => self.others(node).all(is_there),
        }
    }

    fn has_majority(&self, node: &MasterNode) -> bool {
        self.promises(node) >= self.needed()
    }

    /// Reports whether to go on without a majority: the settings allow it, and some node has a log. An empty
    /// log that is not intact does not count: it may have had everything.
    fn may_force(&self, node: &MasterNode) -> bool {
        self.settings.forced_recovery == ForcedRecovery::LoseAcknowledged && self.has_log(node)
    }

    /// Reports whether this master or a node that answered has a log that is intact or not empty.
    fn has_log(&self, node: &MasterNode) -> bool {
        let has_log = |log_epoch: Option<Epoch>, end| log_epoch.is_some() || end > Offset::ZERO;
        let promised = |heard: &PeerReply| match heard {
            PeerReply::Promised { log_epoch, end, .. } => has_log(*log_epoch, *end),
            PeerReply::Blank | PeerReply::Identity(..) | PeerReply::Stranger => false,
        };
        has_log(node.staged().log_epoch, node.whole_end()) || self.answers.values().any(promised)
    }

    /// Gives up on a majority, and asks the nodes that answered to promise an epoch above everything that the
    /// others can have promised.
    fn force(&mut self, node: &mut MasterNode, now: Instant) {
        self.forced_with = Some(self.answers.keys().cloned().collect());
        let text = self.describe_forced(node);
        self.out.push(RecoveryAction::Alarm(text));
        let epoch = self.highest.forced();
        self.take_epoch(node, now, epoch);
    }

    /// Describes which nodes a forced recovery goes on with, and which ones it leaves out.
    fn describe_forced(&self, node: &MasterNode) -> String {
        let own = describe_log(
            node.staged().log_epoch,
            node.staged().last_whole,
            node.whole_end(),
        );
        let mut told = vec![format!("{} (this master): {own}", node.staged().name)];
        told.extend(self.others(node).map(|name| match self.answers.get(name) {
            Some(PeerReply::Promised {
                log_epoch,
                last_whole,
                end,
                ..
            }) => format!("{name}: {}", describe_log(*log_epoch, *last_whole, *end)),
            Some(_) => format!("{name}: an answer that cannot be used"),
            None => format!("{name}: no answer"),
        }));
        format!(
            "FORCED without a majority: {} of {} nodes must answer with a log that counts, and {} did. {}. \
             Asking for promises of an epoch above all that the other nodes can have promised",
            self.needed(),
            self.settings.nodes.len(),
            self.promises(node),
            told.join("; "),
        )
    }

    /// Describes which log a forced recovery adopts, and which records may be lost by that. The answers may be
    /// others than those for which it was forced.
    fn describe_forced_adoption(
        &self,
        node: &MasterNode,
        best: Option<Rank>,
        source: Option<&Source>,
    ) -> String {
        let (name, end) = match source {
            Some(source) => (&source.name, source.end),
            None => (&node.staged().name, node.whole_end()),
        };
        let newer = match best.and_then(|best| best.log_epoch) {
            Some(log_epoch) => {
                format!("records below it that a master of an epoch above {log_epoch} wrote")
            }
            None => "any record below it, since that log is not intact".to_owned(),
        };
        format!(
            "FORCED: adopting the log of {name}, which ends at {end}: records from offset {end} on may be lost, \
             acknowledged or not, and so may {newer}"
        )
    }

    /// Returns the number of promises that count. With an intact master, those of nodes that are not intact count
    /// too; a master that is not intact does not count itself.
    fn promises(&self, node: &MasterNode) -> u32 {
        let intact = node.staged().log_epoch.is_some();
        let counts = |heard: &&PeerReply| match heard {
            PeerReply::Promised { log_epoch, .. } => intact || log_epoch.is_some(),
            PeerReply::Blank | PeerReply::Identity(..) | PeerReply::Stranger => false,
        };
        let others = self.answers.values().filter(counts).count();
        u32::from(intact) + u32::try_from(others).expect("bounded by NODES_MAX")
    }

    /// Reports whether some log surely has everything.
    fn may_decide(&self, node: &MasterNode) -> bool {
        self.has_majority(node) || self.covered(node) >= self.needed()
    }

    /// Counts the nodes whose logs the best intact log covers: the logs of intact nodes, and those that damaged
    /// nodes held when they were last whole.
    ///
    /// A damaged node kept its promises, and knows what it had acknowledged as well as an intact one does: only
    /// its records are missing. So the log of the highest (log epoch, end) among a majority of both has
    /// everything that was acknowledged at a majority, as it would without any damage, and if that log is
    /// intact, it can be adopted. If it is not, it cannot: what is only on damaged disks must come from another
    /// node, or be given up by force.
    fn covered(&self, node: &MasterNode) -> u32 {
        let best = self.logs(node).filter_map(|(intact, _)| intact).max();
        let covered = self
            .logs(node)
            .filter(|(_, whole)| whole.is_some() && *whole <= best);
        u32::try_from(covered.count()).expect("bounded by NODES_MAX")
    }

    /// Counts the nodes whose logs are known, from now or from before their damage.
    fn known_logs(&self, node: &MasterNode) -> u32 {
        let known = self.logs(node).filter(|(_, whole)| whole.is_some());
        u32::try_from(known.count()).expect("bounded by NODES_MAX")
    }

    /// Returns the log of this node and of each node that promised, twice: as it is now, if intact, and as it was
    /// when last whole.
    fn logs(
        &self,
        node: &MasterNode,
    ) -> impl Iterator<Item = (Option<LastWhole>, Option<LastWhole>)> {
        let others = self.answers.values().filter_map(|heard| match heard {
            PeerReply::Promised {
                log_epoch,
                last_whole,
                end,
                ..
            } => Some((*log_epoch, *last_whole, *end)),
            PeerReply::Blank | PeerReply::Identity(..) | PeerReply::Stranger => None,
        });
        let own = (
            node.staged().log_epoch,
            node.staged().last_whole,
            node.whole_end(),
        );
        others
            .chain([own])
            .map(|(log_epoch, last_whole, end): (Option<Epoch>, _, _)| {
                let intact = log_epoch.map(|log_epoch| LastWhole { log_epoch, end });
                (intact, intact.or(last_whole))
            })
    }

    /// Adopts the log of the highest (log epoch, end) among the intact ones, itself included.
    fn decide_promises(
        &mut self,
        node: &mut MasterNode,
        now: Instant,
        epoch: Epoch,
        own_starts: &[EpochStart],
    ) {
        self.leave_out_failed_sources(node);
        let is_forced = !self.may_decide(node);
        if is_forced {
            match self.forced_with {
                _ if !self.may_force(node) => return self.warn_if_stuck(node),
                None => return self.force(node, now),
                Some(_) => {}
            }
        }
        let (best, source) = self.best_log(node, own_starts);
        if is_forced {
            let text = self.describe_forced_adoption(
                node,
                best,
                source.as_ref().map(|(source, _)| source),
            );
            self.out.push(RecoveryAction::Alarm(text));
        }
        let own = node.staged().log_epoch.is_some();
        let Some((source, starts)) = source else {
            self.adopt_own(node, now, epoch);
            return;
        };
        let agree = if own {
            // An intact master never cuts its own log here: it holds the beginning of the adopted log, since
            // its log epoch is the highest.
            let adopted = best.and_then(|best| best.log_epoch);
            assert_eq!(
                adopted,
                node.staged().log_epoch,
                "adopting a newer log than an intact one"
            );
            assert!(
                source.end > node.whole_end(),
                "adopting a log that is not longer than this node's"
            );
            node.whole_end()
        } else {
            let (own, adopted) = (
                Outline {
                    starts: own_starts,
                    end: node.own_log().end,
                },
                Outline {
                    starts: &starts,
                    end: source.end,
                },
            );
            match agreement(own, adopted) {
                Agreement::Below(end) => end.min(node.own_log().end),
                // A log that is not intact may be refilled from the beginning: nothing of it counts.
                Agreement::OlderNeeded { .. } | Agreement::OwnOlderNeeded { .. } => Offset::ZERO,
            }
        };
        let (name, end) = (&source.name, source.end);
        self.note(format!(
            "adopting the log of {name} up to {end}, from {agree} on"
        ));
        if agree < node.own_log().end {
            self.cut(node, now, agree, epoch, source);
        } else {
            self.become_adopting(node, now, epoch, source);
        }
    }

    /// Returns the best rank among the logs that answered and this node's own, and the log that has it if it is
    /// another node's.
    fn best_log(
        &self,
        node: &MasterNode,
        own_starts: &[EpochStart],
    ) -> (Option<Rank>, Option<(Source, Vec<EpochStart>)>) {
        let before_hole = own_starts.partition_point(|start| start.first < node.whole_end());
        let readable = &own_starts[..before_hole];
        let own_rank = self.rank(node.staged().log_epoch, readable, node.whole_end());
        let mut best = own_rank;
        let mut source = None;
        for (name, heard) in &self.answers {
            let PeerReply::Promised {
                incarnation,
                log_epoch,
                end,
                starts,
                ..
            } = heard
            else {
                continue;
            };
            let rank = self.rank(*log_epoch, starts, *end);
            if rank.is_some() && rank > best {
                best = rank;
                let (name, incarnation, end) = (name.clone(), *incarnation, *end);
                source = Some((
                    Source {
                        name,
                        incarnation,
                        end,
                    },
                    starts.clone(),
                ));
            }
        }
        (best, source)
    }

    /// Adopts this node's own log, as no other is better. A log with a hole, which only a forced recovery
    /// adopts, ends at the hole.
    fn adopt_own(&mut self, node: &mut MasterNode, now: Instant, epoch: Epoch) {
        if node.whole_end() == node.own_log().end {
            self.become_leader(node, now, epoch);
            return;
        }
        let source = self.own_log(node);
        self.cut(node, now, node.whole_end(), epoch, source);
    }

    /// Returns this node as the source of its own log, up to where that can be read.
    fn own_log(&self, node: &MasterNode) -> Source {
        Source {
            name: node.staged().name.clone(),
            incarnation: node.incarnation(),
            end: node.whole_end(),
        }
    }

    /// Cuts this node's log and quarantines the records cut: they may have been acknowledged below a majority.
    fn cut(
        &mut self,
        node: &mut MasterNode,
        now: Instant,
        to: Offset,
        epoch: Epoch,
        source: Source,
    ) {
        self.out
            .push(RecoveryAction::Quarantine { from: to, epoch });
        self.enter(now, Step::Cutting { epoch, source });
        let ticket = node.cut(to, MasterWork::Recovery);
        self.out.push(RecoveryAction::Truncate { ticket, to });
    }

    /// Returns the rank by which logs are compared for adoption. In a forced recovery without an intact log,
    /// the newest records decide; otherwise a log that is not intact has no rank.
    fn rank(&self, log_epoch: Option<Epoch>, starts: &[EpochStart], end: Offset) -> Option<Rank> {
        let newest = match log_epoch {
            Some(_) => None,
            None => starts.last().map(|newest| newest.epoch),
        };
        let counts = log_epoch.is_some() || self.forced_with.is_some();
        counts.then_some(Rank {
            log_epoch,
            newest,
            end,
        })
    }

    fn become_adopting(
        &mut self,
        node: &mut MasterNode,
        now: Instant,
        epoch: Epoch,
        source: Source,
    ) {
        if node.whole_end() >= source.end {
            self.become_leader(node, now, epoch);
            return;
        }
        let fetch = Fetch {
            to_incarnation: source.incarnation,
            from: node.whole_end(),
            bytes_max: u32::try_from(BATCH_BYTES_MAX).expect("a batch is small"),
            epoch_starts: false,
        };
        let to = vec![source.name.clone()];
        self.enter(now, Step::Adopting { epoch, source });
        self.ask(node, to, epoch, RequestBody::Fetch(fetch));
    }

    fn on_fetched(
        &mut self,
        node: &mut MasterNode,
        now: Instant,
        epoch: Epoch,
        source: &Source,
        response: Response,
        own_starts: &[EpochStart],
    ) {
        match response.answer {
            Answer::Records(Fetched { records, .. })
                if response.incarnation == source.incarnation && !records.is_empty() =>
            {
                if let Err(detail) = self.check_fetched(node, &records, source, own_starts) {
                    self.liars.insert(source.name.clone(), source.incarnation);
                    self.on_malformed(source.name.clone(), detail);
                    self.begin_another_round(node, now);
                    return;
                }
                let wanted: Vec<FrameBatch> = records
                    .iter()
                    .filter_map(|batch| batch.slice(batch.first(), source.end))
                    .collect();
                // A repeated answer must not be appended again.
                self.serial += 1;
                self.appending_to = wanted.last().map_or(node.whole_end(), FrameBatch::end);
                self.out.push(RecoveryAction::Append(wanted));
            }
            Answer::Refused(Refusal::Replaced(by) | Refusal::OutOfDate(by)) => {
                self.step = Step::Fenced;
                self.serial += 1;
                self.out.push(RecoveryAction::BecomeFenced(by));
            }
            // It promised a newer epoch, or restarted, or has less than it said, or cannot read its log: start
            // a new round.
            _ => {
                self.count_failure(source);
                self.note(format!(
                    "the log of {} can no longer be adopted ({epoch})",
                    source.name
                ));
                self.begin_another_round(node, now);
            }
        }
    }

    /// Checks that records of another node continue this node's log: they begin where it ends, their epochs do not
    /// fall, and what the node promised ends between two of its frames.
    fn check_fetched(
        &self,
        node: &MasterNode,
        records: &[FrameBatch],
        source: &Source,
        own_starts: &[EpochStart],
    ) -> Result<(), String> {
        let (Some(first), end) = (records.first(), node.whole_end()) else {
            return Ok(());
        };
        if let Some(split) = records.iter().find(|batch| batch.splits(source.end)) {
            return Err(format!(
                "{split:?} and an end of {} inside an append",
                source.end
            ));
        }
        if first.first() != end {
            return Err(format!("{first:?} instead of offset {end}"));
        }
        let before = own_starts.partition_point(|start| start.first < end);
        let before = before.checked_sub(1).map(|nth| own_starts[nth].epoch);
        match before.filter(|before| first.first_epoch() < *before) {
            Some(before) => Err(format!(
                "a record of epoch {} at {end}, behind one of {before}",
                first.first_epoch()
            )),
            None => Ok(()),
        }
    }

    /// Counts a failure of a source to deliver the log that it had promised. A source that never delivers must
    /// not be asked for ever if the others are enough.
    fn count_failure(&mut self, source: &Source) {
        let failed = self.failed_sources.entry(source.name.clone());
        let (life, failures) = failed.or_insert((source.incarnation, 0));
        if *life != source.incarnation {
            (*life, *failures) = (source.incarnation, 0);
        }
        *failures += 1;
    }

    /// Leaves out nodes that failed repeatedly as a source, if the answers of the others are enough.
    fn leave_out_failed_sources(&mut self, node: &MasterNode) {
        let has_failed = |name: &NodeName, heard: &PeerReply| match heard {
            PeerReply::Promised { incarnation, .. } => {
                let failures = self.failed_sources.get(name);
                failures.is_some_and(|(life, count)| {
                    life == incarnation && *count >= SOURCE_FAILURES_MAX
                })
            }
            PeerReply::Blank | PeerReply::Identity(..) | PeerReply::Stranger => false,
        };
        let all = self.answers.clone();
        self.answers.retain(|name, heard| !has_failed(name, heard));
        if self.answers.len() == all.len() {
            return;
        }
        if self.may_decide(node) {
            let without: Vec<_> = all
                .keys()
                .filter(|name| !self.answers.contains_key(*name))
                .collect();
            self.note(format!(
                "{without:?} did not give the log that they promised: going on without them"
            ));
        } else {
            self.answers = all;
        }
    }

    fn become_leader(&mut self, node: &mut MasterNode, now: Instant, epoch: Epoch) {
        assert_eq!(
            node.whole_end(),
            node.own_log().end,
            "a leader's log must have no hole"
        );
        // Answers to earlier questions no longer count.
        self.serial += 1;
        node.take_log_epoch(epoch);
        if self.forced_with.is_some() {
            node.stage_forced_epoch(Some(epoch));
        }
        self.save(node, now, Step::SavingLogEpoch { epoch });
    }
}

fn list<'a>(names: impl IntoIterator<Item = &'a NodeName>) -> String {
    let names: Vec<&str> = names.into_iter().map(NodeName::as_str).collect();
    names.join(", ")
}

/// Describes a node's log for people to read.
fn describe_log(log_epoch: Option<Epoch>, last_whole: Option<LastWhole>, end: Offset) -> String {
    match (log_epoch, last_whole) {
        (Some(log_epoch), _) => format!("intact, log epoch {log_epoch}, end {end}"),
        (None, Some(whole)) => format!(
            "NOT INTACT, readable up to {end}; before the damage log epoch {}, end {}",
            whole.log_epoch, whole.end
        ),
        (None, None) => format!("NOT INTACT, end {end}; what it held before is not known"),
    }
}

#[cfg(test)]
mod tests;

//! Durable state of a node: what its disk holds, what it is about to hold, and what is wrong with it.
//!
//! Owns, for a node of either role, the meta on disk and the one that is staged, the saves and cuts under way, the
//! promise, the ends of the log, the inspections of unreadable records, and the disk's outages. Never writes, sends or
//! reads a clock: it hands out what the log writer is to do, and is told when that is done. Which saves are needed, and
//! what follows one, is decided by its owner, who leaves a `T` with each. Keeps rules 5, 9 and 10.
//!
//! ```text
//!   promise, take_log_epoch, lose_log_epoch ─▶ staged ──save──▶ under way ──on_saved──▶ saved ─▶ answers, messages
//!                        ▲                                          │ on_write_failed
//!                        └────────── back to what is saved ◀────────┘
//! ```
//!
//! The log epoch is the exception to this order: it is lost in the saved meta too, as soon as damage is found, and a
//! save that was requested before cannot bring it back. So nothing relies on a log that is known to be damaged, however
//! long the disk takes to say so.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
    sync::Arc,
};

use tokio::time::Instant;

use crate::{
    limits::NOTICED_RECORDS_MAX,
    log::{ClusterIdentity, Meta, Promised},
    planted::planted,
    rules::{
        disk_space::{DiskSpace, WriteOutage},
        fence::{check_epoch, check_identity, check_nodes, check_promise, promise_to},
    },
    transport::{Refusal, Request},
    types::{ClusterId, DiskState, Epoch, Incarnation, NodeName, Offset},
};

/// Identifies a save or a cut until it is done: the next number each time, so that a report is attributed to what it
/// reports on.
pub(crate) type Ticket = u64;

/// Durable state of a node. `T` is what its owner does once a save or a cut is done.
#[derive(Debug)]
pub(crate) struct Durable<T> {
    /// The meta as it is on disk, except that it claims no log epoch that damage has taken away.
    saved: Meta,
    /// The meta as it will be once every requested save is done.
    staged: Meta,
    /// Saves and cuts that the writer was asked for, in order.
    under_way: VecDeque<Work<T>>,
    /// The ticket given out last.
    last_ticket: Ticket,
    ends: OwnLog,
    inspection: Option<Inspection>,
    /// Unreadable records that were noticed when they could not be inspected.
    noticed: BTreeSet<Offset>,
    disk_space: DiskSpace,
    /// The writer was told to stop.
    closing: bool,
}

/// Extent of this node's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnLog {
    /// The offset up to which it is held and can be read.
    pub(crate) whole_end: Offset,
    /// The offset after its last record, with or without holes before it. Records that are not held yet may follow.
    pub(crate) end: Offset,
}

impl OwnLog {
    /// A log without a hole.
    #[cfg(test)]
    pub(crate) fn whole(end: Offset) -> OwnLog {
        OwnLog {
            whole_end: end,
            end,
        }
    }
}

/// A save or a cut that the writer was asked for.
#[derive(Debug)]
struct Work<T> {
    ticket: Ticket,
    kind: WorkKind,
    then: T,
}

#[derive(Debug)]
enum WorkKind {
    Save(Box<Meta>),
    Cut(Offset),
}

/// Request to the writer: save this meta and report with the ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the report of a save that was not requested never comes"]
pub(crate) struct Save {
    pub(crate) ticket: Ticket,
    pub(crate) meta: Box<Meta>,
}

/// Inspection that the writer was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inspection {
    /// Of the segment of this record, which could not be read.
    Of(Offset),
    /// Of no record: its report comes after everything that was queued before, with the ends of the log.
    OfEnds,
}

/// Answer to the news that a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DamageNoticed {
    /// It is inspected now: the owner saves the staged meta, which has no log epoch, and then asks the writer for the
    /// inspection.
    Inspect,
    /// It is inspected when another inspection has ended, or the disk takes writes again.
    Later,
    /// The disk has failed, or the node stops: nothing is inspected any more.
    Never,
}

/// Changes that a promise made to the staged meta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StagedPromise {
    /// The cluster that the node has joined, if it was blank.
    pub(crate) joined: Option<ClusterId>,
    /// The epoch is higher than the one promised before.
    pub(crate) raised: bool,
}

/// Losses from a refused write.
#[derive(Debug)]
pub(crate) struct WriteRefused<T> {
    /// The outage was not known before.
    pub(crate) is_news: bool,
    /// The continuations of the saves and cuts that will not be done.
    pub(crate) dropped: Vec<T>,
}

impl<T> Durable<T> {
    /// Starts from the contents of the directory; `meta` is durable and contains this start's number.
    pub(crate) fn new(meta: Meta, own: OwnLog) -> Durable<T> {
        Durable {
            staged: meta.clone(),
            saved: meta,
            under_way: VecDeque::new(),
            last_ticket: 0,
            ends: own,
            inspection: None,
            noticed: BTreeSet::new(),
            disk_space: DiskSpace::new(),
            closing: false,
        }
    }

    /// Returns the durable meta. It has no log epoch from the moment on at which damage was found.
    pub(crate) fn saved(&self) -> &Meta {
        &self.saved
    }

    /// Returns the meta as it will be once every requested save is done.
    pub(crate) fn staged(&self) -> &Meta {
        &self.staged
    }

    /// Returns this run of the node, as other nodes may know it.
    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation {
            instance: self.saved.instance,
            start: self.saved.start,
        }
    }

    /// Returns the end up to which the log is held and can be read.
    pub(crate) fn whole_end(&self) -> Offset {
        self.ends.whole_end
    }

    /// Returns the same as [`Durable::whole_end`] after the cuts under way: an answer may leave after a cut and before
    /// its report.
    pub(crate) fn whole_end_after_cuts(&self) -> Offset {
        let cuts = self.under_way.iter().filter_map(|work| match work.kind {
            WorkKind::Cut(to) => Some(to),
            WorkKind::Save(_) => None,
        });
        cuts.fold(self.ends.whole_end, Offset::min)
    }

    /// Returns the extent of the log, as far as the writer has reported it.
    pub(crate) fn own_log(&self) -> OwnLog {
        self.ends
    }

    /// Checks the invariants: called after every event in debug builds, tests and simulation.
    #[cfg(any(debug_assertions, test, feature = "sim"))]
    pub(crate) fn check(&self) {
        let Durable {
            saved,
            staged,
            under_way,
            ends: OwnLog { whole_end, end },
            ..
        } = self;
        assert!(
            under_way.iter().is_sorted_by(|a, b| a.ticket < b.ticket),
            "tickets in the order of the writer's queue: {:?}",
            under_way.iter().map(|work| work.ticket).collect::<Vec<_>>()
        );
        assert!(
            under_way
                .back()
                .is_none_or(|work| work.ticket <= self.last_ticket),
            "a ticket above {}",
            self.last_ticket
        );
        let epoch = |meta: &Meta| meta.promised.as_ref().map(|promised| promised.epoch);
        assert!(epoch(saved) <= epoch(staged), "a promise is taken back");
        assert!(saved.start <= staged.start, "an incarnation is taken back");
        assert!(
            saved.log_epoch.is_none() || staged.log_epoch.is_some(),
            "a log epoch that is to be removed still counts"
        );
        assert!(
            whole_end <= end,
            "whole up to {whole_end} in a log that ends at {end}"
        );
        // A mistake of the simulation is to be found by what comes of it.
        if let Some(Inspection::Of(offset)) = self.inspection
            && !planted!(IntactDuringInspection)
        {
            assert_eq!(
                staged.log_epoch, None,
                "{offset} cannot be read in a log that counts"
            );
        }
        assert!(
            self.noticed.len() <= NOTICED_RECORDS_MAX,
            "rule 11: {} records are remembered",
            self.noticed.len()
        );
        assert!(
            self.inspection.is_some()
                || self.disk_space.refusal().is_some()
                || self.closing
                || self.noticed.is_empty(),
            "{:?} are forgotten",
            self.noticed
        );
        if self.disk_space.outage().is_some() {
            assert!(under_way.is_empty(), "a disk that refuses writes saves");
            assert_eq!(
                self.inspection, None,
                "a disk that refuses writes is inspected"
            );
        }
    }
}

/// The promise.
impl<T> Durable<T> {
    /// Returns the promise as it will be once every requested save is done. What it shuts out is refused before it is
    /// durable.
    pub(crate) fn promised(&self) -> Option<&Promised> {
        self.staged.promised.as_ref()
    }

    /// Returns the epoch of [`Durable::promised`], 0 without one.
    pub(crate) fn promised_epoch(&self) -> Epoch {
        self.promised().map_or(Epoch(0), |promised| promised.epoch)
    }

    /// Returns the durable promise's epoch, 0 without one.
    pub(crate) fn durable_epoch(&self) -> Epoch {
        let promised = self.saved.promised.as_ref();
        promised.map_or(Epoch(0), |promised| promised.epoch)
    }

    /// As [`check_identity`].
    pub(crate) fn check_identity(&self, request: &Request) -> Result<(), Refusal> {
        check_identity(&self.staged, request)
    }

    /// As [`check_epoch`].
    pub(crate) fn check_epoch(&self, request: &Request) -> Result<(), Refusal> {
        check_epoch(&self.staged, request)
    }

    /// Checks that the sender of a promise request or hello may have the promise of its epoch, with its list of nodes
    /// and the log epoch that it names.
    pub(crate) fn check_promise(
        &self,
        request: &Request,
        nodes: &[NodeName],
        log_epoch: Option<Epoch>,
    ) -> Result<(), Refusal> {
        check_nodes(&self.staged, &request.from, nodes)?;
        check_promise(&self.staged, request, log_epoch)
    }

    /// Returns how far a request for this epoch may raise the promise, if that is only part of the way.
    pub(crate) fn partial_epoch(&self, epoch: Epoch) -> Option<Epoch> {
        let durable = self.saved.promised.as_ref()?.epoch;
        Some(epoch.capped_for_request(durable)).filter(|part| *part < epoch)
    }

    /// Stages the promise of `epoch` to the sender of a request that passed [`Durable::check_promise`]. A blank node
    /// joins the cluster with it.
    ///
    /// # Errors
    ///
    /// [`Refusal::WrongCluster`] if the request names no cluster.
    pub(crate) fn stage_promise(
        &mut self,
        request: &Request,
        epoch: Epoch,
        nodes: &[NodeName],
    ) -> Result<StagedPromise, Refusal> {
        let Some(id) = request.cluster else {
            return Err(Refusal::WrongCluster);
        };
        let joined = self.staged.cluster.is_none().then_some(id);
        if joined.is_some() {
            self.staged.cluster = Some(ClusterIdentity {
                id,
                nodes: nodes.to_vec(),
            });
        }
        let before = self.staged.promised.as_ref();
        let raised = before.is_none_or(|before| epoch > before.epoch);
        if raised {
            let promised = promise_to(before, epoch, &request.from, request.incarnation);
            self.staged.promised = Some(promised);
        }
        Ok(StagedPromise { joined, raised })
    }

    /// Stages this node's promise of `epoch` to itself.
    pub(crate) fn promise_to_self(&mut self, epoch: Epoch) {
        let (own, before) = (self.incarnation(), self.staged.promised.as_ref());
        let promised = promise_to(before, epoch, &self.staged.name, own);
        self.staged.promised = Some(promised);
    }

    /// Stages the cluster that a blank node founds or joins.
    pub(crate) fn stage_cluster(&mut self, cluster: ClusterIdentity) {
        self.staged.cluster = Some(cluster);
    }

    /// Stages the epoch of a forced recovery, of which another node told.
    pub(crate) fn stage_forced_epoch(&mut self, forced: Option<Epoch>) {
        self.staged.forced_epoch = self.staged.forced_epoch.max(forced);
    }

    /// Stages a log epoch: the log agrees with the master of this epoch and covers the end that it adopted.
    pub(crate) fn take_log_epoch(&mut self, epoch: Epoch) {
        self.staged.take_log_epoch(epoch);
    }

    /// Stages a new incarnation of this node: messages that are meant for the one before have no effect once it is
    /// durable.
    pub(crate) fn begin_incarnation(&mut self) {
        self.staged.start += 1;
    }
}

/// Saves and cuts.
impl<T> Durable<T> {
    /// Returns the ticket that the next save or cut gets.
    pub(crate) fn next_ticket(&self) -> Ticket {
        self.last_ticket + 1
    }

    /// Returns the ticket of what the writer reports next.
    #[cfg(test)]
    pub(crate) fn first_ticket(&self) -> Ticket {
        let first = self.under_way.front();
        first.expect("a save or a cut is under way").ticket
    }

    /// Requests a save of the staged meta; `then` is returned once it is durable.
    pub(crate) fn save(&mut self, then: T) -> Save {
        let meta = Box::new(self.staged.clone());
        let ticket = self.queue(WorkKind::Save(meta.clone()), then);
        Save { ticket, meta }
    }

    /// Requests a cut of the log; `then` is returned once it is made, or known not to be made.
    pub(crate) fn cut(&mut self, to: Offset, then: T) -> Ticket {
        self.queue(WorkKind::Cut(to), then)
    }

    /// Takes back what was staged and not requested to be saved.
    pub(crate) fn unstage(&mut self) {
        let mut works = self.under_way.iter().rev();
        let requested = works.find_map(|work| match &work.kind {
            WorkKind::Save(meta) => Some(&**meta),
            WorkKind::Cut(_) => None,
        });
        self.staged = requested.unwrap_or(&self.saved).clone();
    }

    fn queue(&mut self, kind: WorkKind, then: T) -> Ticket {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.under_way.push_back(Work { ticket, kind, then });
        ticket
    }

    /// Returns what follows the last request to the writer, if that is a save of what is staged: another such save may
    /// join it.
    pub(crate) fn last_save(&mut self) -> Option<&mut T> {
        let Work { kind, then, .. } = self.under_way.back_mut()?;
        match kind {
            WorkKind::Save(meta) if **meta == self.staged => Some(then),
            WorkKind::Save(_) | WorkKind::Cut(_) => None,
        }
    }

    /// Handles the report of a save. If damage was found after the save was requested, what it saved claims too much and
    /// is corrected.
    pub(crate) fn on_saved(&mut self, ticket: Ticket) -> T {
        let Work { kind, then, .. } = self.done(ticket);
        let WorkKind::Save(meta) = kind else {
            panic!("ticket {ticket} was a cut, not a save");
        };
        self.saved = *meta;
        if self.staged.log_epoch.is_none() {
            self.forget_saved_log_epoch();
        }
        then
    }

    /// Handles the report of a cut, which is durable: the log now ends at `from`, or before that at a hole.
    pub(crate) fn on_cut(&mut self, ticket: Ticket, from: Offset) -> T {
        let then = self.cut_done(ticket);
        self.ends = OwnLog {
            whole_end: self.ends.whole_end.min(from),
            end: from,
        };
        then
    }

    /// Handles the report that a cut was not made.
    pub(crate) fn on_not_cut(&mut self, ticket: Ticket) -> T {
        self.cut_done(ticket)
    }

    fn cut_done(&mut self, ticket: Ticket) -> T {
        let Work { kind, then, .. } = self.done(ticket);
        assert!(
            matches!(kind, WorkKind::Cut(_)),
            "ticket {ticket} was a save, not a cut"
        );
        then
    }

    fn done(&mut self, ticket: Ticket) -> Work<T> {
        let work = self
            .under_way
            .pop_front()
            .expect("the writer reports only what it was asked for");
        assert_eq!(
            ticket, work.ticket,
            "the writer keeps the order of its commands"
        );
        work
    }
}

/// The ends of the log.
impl<T> Durable<T> {
    /// Notes that everything below `whole_end` is held and can be read. After a hole was filled, that may be further
    /// than what was written: the records behind the hole were already there.
    pub(crate) fn on_durable(&mut self, whole_end: Offset) {
        self.ends.whole_end = self.ends.whole_end.max(whole_end);
        self.ends.end = self.ends.end.max(whole_end);
    }
}

/// Damage.
impl<T> Durable<T> {
    /// Handles an unreadable record at `offset`. If it is inspected now, the log epoch is lost from now on, even if a
    /// save that contains it is on its way to the disk: the log that counted ended at `held`.
    pub(crate) fn on_damage_noticed(&mut self, offset: Offset, held: Offset) -> DamageNoticed {
        if self.inspection.is_some() || self.disk_space.outage().is_some() {
            self.remember(offset);
            return DamageNoticed::Later;
        }
        if self.disk_space.failure().is_some() || self.closing {
            return DamageNoticed::Never;
        }
        self.lose_log_epoch(held);
        self.inspection = Some(Inspection::Of(offset));
        DamageNoticed::Inspect
    }

    fn remember(&mut self, offset: Offset) {
        if self.noticed.len() < NOTICED_RECORDS_MAX && !planted!(NoticedDamageForgotten) {
            self.noticed.insert(offset);
        }
    }

    /// Notes that the log, which ended at `held`, does not count any more.
    pub(crate) fn lose_log_epoch(&mut self, held: Offset) {
        self.staged.lose_log_epoch(Some(held));
        self.forget_saved_log_epoch();
    }

    /// Stages that a log without a log epoch ends where it does now, if this node is the master that went on despite
    /// damage: what it appended since, it may have acknowledged.
    pub(crate) fn extend_last_whole(&mut self) {
        self.staged.extend_last_whole(Some(self.ends.end));
    }

    fn forget_saved_log_epoch(&mut self) {
        (self.saved.log_epoch, self.saved.last_whole) = (None, self.staged.last_whole);
    }

    /// Notes that the writer is asked for an inspection of no record, to know the ends of the log once everything that is
    /// queued is done. Damage noticed meanwhile is inspected afterwards.
    pub(crate) fn inspect_ends(&mut self) {
        assert_eq!(self.inspection, None, "one inspection at a time");
        self.inspection = Some(Inspection::OfEnds);
    }

    /// Returns true while an inspection runs.
    pub(crate) fn is_inspecting(&self) -> bool {
        self.inspection.is_some()
    }

    /// Handles the report of an inspection: the records in `holes` cannot be read. Returns the first of the records
    /// that were noticed meanwhile and that the inspection did not cover: the owner calls
    /// [`Durable::on_damage_noticed`] with it.
    pub(crate) fn on_inspected(&mut self, holes: &[Range<Offset>], own: OwnLog) -> Option<Offset> {
        let inspected = self.inspection.take();
        self.ends = own;
        let is_known = |offset: &Offset| {
            inspected == Some(Inspection::Of(*offset))
                || holes.iter().any(|hole| hole.contains(offset))
        };
        self.noticed.retain(|offset| !is_known(offset));
        self.noticed.pop_first()
    }
}

/// Disk space and failures.
impl<T> Durable<T> {
    /// Handles a refused write: what was handed to the writer is neither done nor in progress any more. A promise that
    /// was not saved does not count; damage stays known, and an inspection that was not completed is repeated once there
    /// is disk space.
    pub(crate) fn on_write_failed(&mut self, now: Instant, outage: WriteOutage) -> WriteRefused<T> {
        let is_news = self.disk_space.on_write_failed(now, outage);
        let dropped = self.under_way.drain(..).map(|work| work.then).collect();
        self.staged = self.saved.clone();
        if let Some(Inspection::Of(offset)) = self.inspection.take() {
            self.remember(offset);
        }
        if planted!(FullDiskForgetsDamage) {
            self.noticed.clear();
        }
        WriteRefused { is_news, dropped }
    }

    /// Handles the return of disk space. Returns the first of the records that were noticed before: the owner
    /// calls [`Durable::on_damage_noticed`] with it.
    pub(crate) fn on_resumed(&mut self, now: Instant, own: OwnLog) -> Option<Offset> {
        self.disk_space.on_resumed(now);
        self.ends = own;
        self.noticed.pop_first()
    }

    /// Notes that the writer is told to stop. Returns true if it was not before.
    pub(crate) fn begin_closing(&mut self) -> bool {
        !std::mem::replace(&mut self.closing, true)
    }

    /// Returns true once the writer was told to stop.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Handles a permanent failure of the disk.
    pub(crate) fn on_failed(&mut self, detail: Arc<str>) {
        self.disk_space.on_failed(detail);
    }

    /// Returns true if it is time to probe for disk space; only once per deadline.
    pub(crate) fn should_probe(&mut self, now: Instant) -> bool {
        self.disk_space.should_probe(now)
    }

    /// Returns the next time at which [`Durable::should_probe`] returns true.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.disk_space.next_deadline()
    }

    /// Returns the outages and failures of the disk.
    pub(crate) fn disk_space(&self) -> &DiskSpace {
        &self.disk_space
    }

    /// Returns the condition of the disk.
    pub(crate) fn disk(&self) -> DiskState {
        self.disk_space.disk()
    }
}

#[cfg(test)]
mod tests;

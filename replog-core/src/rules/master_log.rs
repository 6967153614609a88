//! A master's own log: what is done about records in it that cannot be read, and when it recovers again.
//!
//! Owns the durable state of the node, the purpose of an inspection, and the [`Repair`] of what a serving master lacks.
//! Knows of recovery and leadership only what [`MasterState`] says. Never writes, sends or answers: it returns what to do.
//! Keeps rules 5 and 10.
//!
//! ```text
//!              a record cannot be read
//!                │              │
//!      before it leads      while it leads, or is about to
//!                │              │
//!   the recovery is dropped   goes on, not intact
//!     held back, inspected    inspected ──▶ what is missing is fetched ──▶ intact again
//!                │              │
//!                ▼              │ a higher epoch is needed, or nobody has what is missing
//!        recovers again ◀───────┘
//! ```

use std::ops::Range;

use tokio::time::Instant;

use crate::{
    frame::FrameBatch,
    log::HeldBack,
    planted::planted,
    rules::{
        disk_space::WriteOutage,
        durable::{DamageNoticed, Durable, OwnLog, Save},
        repair::{MissingRange, Repair},
    },
    types::{Epoch, Offset},
};

/// Durable state of a master.
pub(crate) type MasterNode = Durable<MasterWork>;

/// Purpose of a save or a cut of a master: what its report is delivered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MasterWork {
    /// A step of the recovery.
    Recovery,
    /// The log has lost its log epoch.
    Damaged,
    /// The log is intact again.
    Intact,
}

/// State of a master, as far as its log is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MasterState {
    /// It recovers.
    Recovering,
    /// Its recovery is done, and it is about to lead.
    Won,
    /// It leads this epoch.
    Leading(Epoch),
    /// Neither: it was fenced, or waits for disk space, an inspection or its end.
    Idle,
}

/// A master's own log.
#[derive(Debug)]
pub(crate) struct MasterLog {
    node: MasterNode,
    /// Holes in the log, found while leading.
    repair: Repair,
    /// Purpose of the inspection under way.
    purpose: Option<Purpose>,
    /// The epoch is too low for another node: a new one must follow once the inspection is done.
    raise_epoch: bool,
    out: Vec<MasterLogAction>,
}

/// Purpose of an inspection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To know what is missing while the master leads or is about to: it goes on meanwhile.
    WhileLeading,
    /// To recover afterwards, with the log as it is then.
    BeforeRecovery,
}

/// Steps for the actor to carry out, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MasterLogAction {
    /// Save this meta and report with the ticket.
    Save(Save),
    /// Read the segment of this record through and call [`MasterLog::on_inspected`]. Beyond the end of the log there is
    /// none, and the report comes after everything that is queued.
    Inspect { offset: Offset, held_back: HeldBack },
    /// Drop the current recovery.
    DropRecovery,
    /// Step down: every waiting append is answered with outcome `unknown`.
    StepDown,
    /// Start a recovery with the durable state as it is.
    Recover,
    /// These ranges are missing from the log, and no others: publish them.
    PublishMissing(Vec<Range<Offset>>),
    /// Nothing is missing any more: read the keys of records that could not be read.
    RereadKeys,
    /// A change that is worth a line in the log.
    Changed(MasterLogChange),
}

/// A change that is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MasterLogChange {
    /// A record cannot be read.
    Damaged { offset: Offset },
    /// No secondary has the records that cannot be read.
    Irreparable(MissingRange),
    /// Everything missing was repaired.
    Intact,
}

impl MasterLog {
    /// Starts from the durable state, before the first recovery.
    pub(crate) fn new(node: MasterNode) -> MasterLog {
        MasterLog {
            node,
            repair: Repair::default(),
            purpose: None,
            raise_epoch: false,
            out: Vec::new(),
        }
    }

    /// Takes the pending actions.
    pub(crate) fn take_actions(&mut self) -> Vec<MasterLogAction> {
        #[cfg(any(debug_assertions, test, feature = "sim"))]
        self.check();
        std::mem::take(&mut self.out)
    }

    /// Returns the durable state.
    pub(crate) fn node(&self) -> &MasterNode {
        &self.node
    }

    /// Returns the durable state, for a recovery or the writer's reports.
    pub(crate) fn node_mut(&mut self) -> &mut MasterNode {
        &mut self.node
    }

    /// Returns true while records are missing.
    pub(crate) fn is_damaged(&self) -> bool {
        self.repair.is_needed()
    }

    /// Handles an unreadable record; the log is written up to `written_end`. A leading master goes on: clients and
    /// secondaries are served from the readable records, and the rest comes from a secondary that has it. If it restarts
    /// before that, it knows that its log is not intact.
    pub(crate) fn on_damage_noticed(
        &mut self,
        offset: Offset,
        written_end: Offset,
        state: MasterState,
    ) {
        self.inspect(offset, written_end, state);
    }

    /// Returns true if the record is inspected now.
    fn inspect(&mut self, offset: Offset, written_end: Offset, state: MasterState) -> bool {
        // What the master appended despite earlier damage, it may have acknowledged too.
        match self.node.on_damage_noticed(offset, written_end) {
            DamageNoticed::Inspect => {}
            DamageNoticed::Later | DamageNoticed::Never => return false,
        }
        self.out
            .push(MasterLogAction::Changed(MasterLogChange::Damaged {
                offset,
            }));
        let (purpose, held_back) = match state {
            MasterState::Recovering => (Purpose::BeforeRecovery, HeldBack::Yes),
            MasterState::Won | MasterState::Leading(_) | MasterState::Idle => {
                (Purpose::WhileLeading, HeldBack::No)
            }
        };
        if purpose == Purpose::BeforeRecovery {
            // What the recovery staged goes with it; what it had asked to save does not.
            self.node.unstage();
            self.node.lose_log_epoch(written_end);
            self.out.push(MasterLogAction::DropRecovery);
        }
        self.purpose = Some(purpose);
        let save = self.node.save(MasterWork::Damaged);
        self.out.push(MasterLogAction::Save(save));
        self.out
            .push(MasterLogAction::Inspect { offset, held_back });
        true
    }

    /// Handles the report of an inspection: the records in `holes` cannot be read, and the log is as `own` says.
    pub(crate) fn on_inspected(
        &mut self,
        holes: Vec<Range<Offset>>,
        own: OwnLog,
        state: MasterState,
    ) {
        let noticed = self.node.on_inspected(&holes, own);
        let raise_epoch = std::mem::take(&mut self.raise_epoch);
        match self.purpose.take() {
            Some(Purpose::BeforeRecovery) => return self.recover(noticed),
            Some(Purpose::WhileLeading) => {
                self.repair.on_inspected(holes);
                self.publish_missing();
                match state {
                    MasterState::Leading(_) if raise_epoch && !planted!(RaisedEpochForgotten) => {
                        self.begin_another_epoch();
                    }
                    // Another record cannot be read, perhaps in a segment that a start does not read: if the log were
                    // called intact until its inspection, a crash in between would leave it so.
                    _ if noticed.is_some() && !planted!(IntactDuringInspection) => {}
                    _ => self.become_intact(state),
                }
            }
            None => {}
        }
        if let Some(offset) = noticed {
            self.inspect(offset, own.end, state);
        }
    }

    /// Starts a recovery later in this run, unless another record is to be inspected first. A log with a hole counts for
    /// nothing.
    fn recover(&mut self, noticed: Option<Offset>) {
        let OwnLog { whole_end, end } = self.node.own_log();
        if whole_end < end {
            self.node.lose_log_epoch(end);
        }
        let inspects =
            noticed.is_some_and(|offset| self.inspect(offset, end, MasterState::Recovering));
        if !inspects {
            self.out.push(MasterLogAction::Recover);
        }
    }

    /// Handles the news that a node has promised this epoch to another directory, although this master leads it: a
    /// higher one must follow.
    pub(crate) fn on_epoch_contested(&mut self, state: MasterState) -> bool {
        if self.purpose.is_some() {
            self.raise_epoch = true;
            return false;
        }
        let leads = matches!(state, MasterState::Leading(_));
        if leads {
            self.begin_another_epoch();
        }
        leads
    }

    /// Starts over because no node can supply the records that this log lacks, if that is so: the other nodes' logs are
    /// adopted, as at a start with a damaged log. The records cut then are quarantined. `ends` are those of the
    /// secondaries whose logs are intact and agree with this one, and `needed` is a majority.
    pub(crate) fn on_ends(&mut self, ends: &[Offset], needed: u32) {
        if self.purpose.is_none()
            && !planted!(MissingRangeWaitedFor)
            && let Some(missing) = self.repair.missing()
            && self.repair.is_irreparable(ends, needed)
        {
            self.out
                .push(MasterLogAction::Changed(MasterLogChange::Irreparable(
                    missing,
                )));
            self.begin_another_epoch();
        }
    }

    /// Steps down and recovers, in a higher epoch.
    fn begin_another_epoch(&mut self) {
        if !planted!(HolesKeptAcrossRecovery) {
            self.repair = Repair::default();
        }
        self.out.push(MasterLogAction::StepDown);
        // An inspection beyond the end of the log finds nothing, but its report comes after everything that is already
        // queued.
        self.node.inspect_ends();
        self.purpose = Some(Purpose::BeforeRecovery);
        let (offset, held_back) = (Offset(u64::MAX), HeldBack::Yes);
        self.out
            .push(MasterLogAction::Inspect { offset, held_back });
    }

    /// Accepts records from a secondary. Returns those that belong in the log, if any.
    pub(crate) fn on_fetched(
        &mut self,
        records: &[FrameBatch],
        epoch_at: impl Fn(Offset) -> Option<Epoch>,
    ) -> Vec<FrameBatch> {
        self.repair.on_fetched(records, epoch_at)
    }

    /// Notes that everything before `whole_end` is held and can be read.
    pub(crate) fn on_whole(&mut self, whole_end: Offset, state: MasterState) {
        if self.repair.on_whole(whole_end) {
            self.publish_missing();
            self.become_intact(state);
        }
    }

    /// Handles the end of a recovery because another master leads.
    pub(crate) fn on_fenced(&mut self) {
        self.node.unstage();
    }

    /// Handles the beginning of leadership: damage found shortly before was not worth a new recovery.
    pub(crate) fn on_leading(&mut self, epoch: Epoch) {
        if !planted!(HolesForgottenAtServe) {
            self.publish_missing();
        }
        if self.node.saved().log_epoch.is_none() {
            self.become_intact(MasterState::Leading(epoch));
        }
    }

    fn publish_missing(&mut self) {
        let holes = self.repair.holes().to_vec();
        self.out.push(MasterLogAction::PublishMissing(holes));
    }

    /// Marks the log of a leader as intact again if everything missing has been repaired. A log under inspection is not
    /// known to be intact.
    fn become_intact(&mut self, state: MasterState) {
        let MasterState::Leading(epoch) = state else {
            return;
        };
        let is_inspected = self.purpose.is_some() && !planted!(IntactDuringInspection);
        if self.repair.is_needed() || is_inspected {
            return;
        }
        self.out
            .push(MasterLogAction::Changed(MasterLogChange::Intact));
        self.node.take_log_epoch(epoch);
        let save = self.node.save(MasterWork::Intact);
        self.out.push(MasterLogAction::Save(save));
        self.out.push(MasterLogAction::RereadKeys);
    }

    /// Handles a refused write. Returns true if the outage was not known before.
    pub(crate) fn on_write_failed(&mut self, now: Instant, outage: WriteOutage) -> bool {
        self.purpose = None;
        self.repair = Repair::default();
        self.node.on_write_failed(now, outage).is_news
    }

    /// Handles the return of disk space, with the log as it is then: a master that had stepped down recovers.
    pub(crate) fn on_resumed(&mut self, now: Instant, own: OwnLog, has_stepped_down: bool) {
        let noticed = self.node.on_resumed(now, own);
        if has_stepped_down {
            self.recover(noticed);
        } else if let Some(offset) = noticed {
            self.inspect(offset, own.end, MasterState::Idle);
        }
    }

    /// Checks the invariants: called after every event in debug builds, tests and simulation.
    #[cfg(any(debug_assertions, test, feature = "sim"))]
    pub(crate) fn check(&self) {
        self.node.check();
        assert_eq!(
            self.purpose.is_some(),
            self.node.is_inspecting(),
            "an inspection has a purpose: {:?}",
            self.purpose
        );
        // Mistakes of the simulation are to be found by what comes of them.
        let mistakes = [
            planted!(HolesKeptAcrossRecovery),
            planted!(IntactDuringInspection),
        ];
        let is_mistaken = mistakes.contains(&true);
        assert!(
            is_mistaken || !self.repair.is_needed() || self.node.staged().log_epoch.is_none(),
            "a log that counts lacks {:?}",
            self.repair.missing()
        );
    }
}

#[cfg(test)]
mod tests;

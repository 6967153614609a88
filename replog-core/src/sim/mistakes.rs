//! Planted mistakes: each check must find those that it is there for.
//!
//! Most of them change what passes between a node and its surroundings (requests, answers, the
//! commands and reports of its writer, its disk), so that the node behaves as if it had the mistake;
//! the code of the nodes knows nothing of them. A few cannot be expressed like that: what a
//! coordinator forgets, or does too early, depends on its own state, which no message shows. For
//! these there is a hook at the decision in question, in its code or in `rules/`: `planted!`, which
//! is compiled only with the feature `sim` (`planted.rs`).

mod messages;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

pub(crate) use messages::{instead_of_call, on_answer, on_request, on_response};

use super::{
    Machine,
    world::{self, Life, MachineId, World},
};
use crate::{
    MasterConfig, TakeOver,
    error::AppendError,
    frame::FrameBatch,
    handle::Followed,
    log::{HeldBack, NextStep, Promised, WriteCommand, WriteReport, WriterLoop},
    transport::Response,
    types::{Epoch, Incarnation, Mode, NodeName, Offset},
    views::Receipt,
};

impl Mistake {
    /// Returns the name as people write it, as in `answered-before-sync`.
    #[must_use]
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.extend(letter.to_lowercase());
        }
        name
    }

    /// Returns the behaviour of a node with this mistake.
    #[must_use]
    pub fn about(self) -> &'static str {
        let known = Mistake::TEXTS.iter().find(|(known, _)| *known == self);
        known.map_or("", |(_, text)| text.trim())
    }
}

macro_rules! mistakes {
    ($($(#[doc = $text:literal])+ $name:ident,)+) => {
        /// A mistake that every node of a run makes, planted with [`Simulation::plant`](super::Simulation::plant).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Mistake {
            $($(#[doc = $text])+ $name,)+
        }

        impl Mistake {
            /// Every mistake.
            pub const ALL: &[Mistake] = &[$(Mistake::$name,)+];

            const TEXTS: &[(Mistake, &'static str)] =
                &[$((Mistake::$name, concat!($($text),+)),)+];
        }
    };
}

mistakes! {
    /// a secondary answers records before it has synced them
    AnsweredBeforeSync,
    /// the master counts its own records before it has synced them
    OwnEndBeforeSync,
    /// one link's answer counts for another secondary too
    AnswerCountedTwice,
    /// an end counts whatever log epoch the answer names
    EndsCountBeforeAlignment,
    /// an answer of an earlier life of a node is believed
    EarlierLifeBelieved,
    /// the log epoch is taken before the log covers what the master had adopted
    LogEpochTakenEarly,
    /// a node that is being refilled counts before it reaches its target
    RefillTargetIgnored,
    /// a wiped node's promise counts like an intact one's
    WipedNodeVotes,
    /// the ends that promises name are ignored: what is missing is not fetched
    EndsOfPromisesIgnored,
    /// the log of the newest records is adopted, not that of the newest log epoch
    AdoptedByRecordsEpoch,
    /// a hello carries an epoch that is not on the master's disk
    EpochSentBeforeSync,
    /// a promise is answered before it is on disk
    PromiseAnsweredBeforeSync,
    /// requests of an older epoch than promised are served
    OlderEpochServed,
    /// a promise is answered while older writes still wait
    PromiseOvertakesWrites,
    /// the pairs of a hello are not compared, and duplicates go by offset alone
    DivergenceOverlooked,
    /// an aligned log may be longer than the master's
    LongerLogKept,
    /// a cut goes one record too deep
    CutTooDeep,
    /// a cut of a file is not synced
    CutNotSynced,
    /// the master's end passes for committed
    CommittedTooFar,
    /// a record on its way to the writer is lost, and the next one appended
    AppendedPastGap,
    /// a record is given to the writer twice
    AppendedTwice,
    /// a failed sync is tried again, and believed
    FailedSyncTriedAgain,
    /// the directory is not synced after a rename
    RenameNotSynced,
    /// the directory is not synced after a segment was made
    SegmentEntryNotSynced,
    /// the meta file is not synced before it is renamed
    MetaNotSynced,
    /// what the cache holds after an unclean stop is believed
    CacheBelieved,
    /// a start shows what it read and does not sync it
    StartSyncsNothing,
    /// records are not checked at a start
    NoChecksumAtStart,
    /// damage below the mark passes for a torn tail
    DamagePassesForTornTail,
    /// a log without a mark passes for whole
    MissingMarkBelieved,
    /// the mark is not synced before a log epoch is taken
    MarkNotSynced,
    /// what a damaged node had acknowledged is forgotten
    DamagedEndForgotten,
    /// what was written into a hole is believed, though its sync failed
    FillBelieved,
    /// a cut is believed, though its sync failed
    CutBelieved,
    /// a master whose disk was lost founds a cluster beside the one that exists
    FoundsBesideOthers,
    /// a node that was heard long ago passes for alive
    OldNewsBelieved,
    /// an append is handled only when the one before is answered
    OneAfterTheOther,
    /// a waiting append is forgotten
    WaiterForgotten,
    /// the keys of the log are not read at a start
    KeysForgotten,
    /// what waits behind a gap has no limit
    GapWithoutLimit,
    /// a hello of an older epoch than promised is obeyed
    OldHelloObeyed,
    /// a node takes over what is committed before its log is aligned
    CommittedBeforeAlignment,
    /// the pairs of a hello are not compared
    PairsNotCompared,
    /// what waits behind a gap is kept across a promise
    BufferKeptAcrossPromise,
    /// a cut removes the oldest segment first
    CutOldestFirst,
    /// a log that was half filled passes for intact after a restart
    HalfFilledPassesForIntact,
    /// a write that was refused passes for done
    RefusedWritePassesForDone,
    /// a blank master counts nodes that do not answer as blank ones
    FoundsWithoutMajority,
    /// a replaced instance is believed to be the one in its place
    OldInstanceAccepted,
    /// a master that is intact with an older log than the node's own is given a promise
    OutOfDatePromised,
    /// a waiting append is released twice: the next caller is given its receipt
    ReleasedTwice,
    /// nobody looks at the name of who asks or answers
    NamesNotCompared,
    /// the end that an earlier life of a node named counts for the next one
    EndOutlivesItsLife,
    /// what is committed ends one record too early, inside an append if need be
    CommittedInsideAppend,
    /// who follows is not told of a cut
    CutNotTold,
    /// a blank master takes over from one that the others hear
    BlankMasterTakesOver,
    /// what a hello makes a node cut is not quarantined
    CutNotQuarantined,
    /// an epoch is believed, however high
    EpochUnbounded,
    /// a hello below what is known to be committed is obeyed
    HelloBelowCommittedObeyed,
    /// a heartbeat that overtakes an append is answered as if the append had come
    HeartbeatAnswersForAppend,
    /// an append that a heartbeat of a newer epoch has overtaken passes for one of that epoch
    HeartbeatOvertakesAppend,
    /// a master counts the promise of a node whose log is newer than its own, and keeps its own log
    NewerLogPassedOver,
    /// a refusal that names the master's own epoch fences it, as one that names a newer epoch does
    EveryRefusalFences,
    /// an epoch that another directory has been promised is not raised after an inspection
    RaisedEpochForgotten,
    /// damage that is noticed while other damage is inspected, or while the disk is full, is forgotten
    NoticedDamageForgotten,
    /// damage whose inspection ends because the disk is full is forgotten
    FullDiskForgetsDamage,
    /// a master that finds damage in its log keeps its log epoch on disk
    LogEpochKeptOnDamage,
    /// a log counts as intact again while damage in it is inspected
    IntactDuringInspection,
    /// a recovering master shows what lies behind damage in its log
    DamagedLogNotHeldBack,
    /// keys that were read for an earlier round of the recovery are taken, and the master serves
    KeysOfEarlierRoundTaken,
    /// holes that are found just before a master serves are forgotten when it does
    HolesForgottenAtServe,
    /// a master waits for missing records that no node has
    MissingRangeWaitedFor,
    /// the holes of a log that was replaced are looked for in the log in its place
    HolesKeptAcrossRecovery,
}

/// State that mistakes keep.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    best_end: BTreeMap<Epoch, Offset>,
    first_life: BTreeMap<NodeName, Incarnation>,
    last_answer: BTreeMap<(MachineId, String), Response>,
    best_of_node: BTreeMap<NodeName, (Epoch, Offset)>,
    /// Records that came behind a gap, with their epoch.
    behind_gap: BTreeMap<MachineId, Vec<(Epoch, FrameBatch)>>,
    /// Target of the present cut of a machine.
    pub(crate) cut_to: BTreeMap<MachineId, Offset>,
    /// The end of the records that a writer was given.
    given_to_writer: BTreeMap<MachineId, Offset>,
    last_receipt: Option<Receipt>,
    /// Nodes that were not intact when they last saved their meta.
    not_intact: BTreeSet<MachineId>,
    /// The boots of a machine, and the records that its log had quarantined at its last cut.
    quarantined: BTreeMap<MachineId, (u64, u64)>,
    /// Metas that were reported before they were saved.
    reported_early: BTreeMap<MachineId, u64>,
    /// An epoch that no node may believe, by the machine that believes it.
    unbounded: BTreeMap<MachineId, Epoch>,
    /// The newest epoch of a heartbeat that came to a node: its sender, and the life that it was meant for.
    heartbeats: BTreeMap<MachineId, (Epoch, Incarnation, Incarnation)>,
}

/// Returns true if the node whose code runs now makes this mistake. For the hooks in the code of the
/// nodes: anything else is changed on its way to or from them.
pub(crate) fn is_planted(mistake: Mistake) -> bool {
    world::exists() && world::with(|world| world.planted(mistake))
}

/// Returns the mistake that was planted, not the one planted with it.
fn planted() -> Option<Mistake> {
    world::with(|world| world.mistakes.first().copied())
}

/// Changes the configuration that a master is started with.
pub(crate) fn on_start(machine: &Machine, config: &mut MasterConfig) {
    if planted() == Some(Mistake::KeysForgotten) && machine.boots() > 1 {
        config.key_horizon = 1;
    }
    if planted() == Some(Mistake::BlankMasterTakesOver) {
        config.take_over = TakeOver::AtOnce;
    }
}

/// Changes a caller's answer before it is delivered.
pub(crate) fn on_answered_client(
    result: Result<Receipt, AppendError>,
) -> Result<Receipt, AppendError> {
    if planted() != Some(Mistake::ReleasedTwice) {
        return result;
    }
    result.map(|receipt| {
        world::with(|world| {
            let last = world.memory.last_receipt.take();
            match last {
                Some(last) if last.epoch == receipt.epoch => last,
                _ => {
                    world.memory.last_receipt = Some(receipt.clone());
                    receipt
                }
            }
        })
    })
}

/// Changes what a follower is given before it is delivered.
pub(crate) fn on_followed(followed: Followed) -> Option<Followed> {
    match (planted(), followed) {
        (Some(Mistake::CutNotTold), Followed::Cut { .. }) => None,
        (_, followed) => Some(followed),
    }
}

/// Lock that lets appends take turns.
pub(crate) type Turns = tokio::sync::Mutex<()>;

/// Waits for the turn, if appends take turns.
pub(crate) async fn turn(turns: &Turns) -> Option<tokio::sync::MutexGuard<'_, ()>> {
    match planted() {
        Some(Mistake::OneAfterTheOther) => Some(turns.lock().await),
        _ => None,
    }
}

/// Place of a command in the queue of a writer.
pub(crate) enum Place {
    Back,
    Front,
}

/// Changes a command of a node to its writer.
pub(crate) fn on_command(
    life: Life,
    command: WriteCommand,
    mut submit: impl FnMut(Place, WriteCommand),
) {
    let is_master = |world: &World| world.checks.is_master(life.machine);
    world::with(|world| match &command {
        WriteCommand::Append(batch) => {
            let given = &mut world.memory.given_to_writer;
            given.insert(life.machine, batch.end());
        }
        WriteCommand::Truncate { to, .. } => {
            world.memory.cut_to.insert(life.machine, *to);
        }
        _ => {}
    });
    match (planted(), command) {
        (Some(Mistake::HalfFilledPassesForIntact), WriteCommand::SaveMeta { ticket, mut meta }) => {
            let view = world::with(|world| world.checks.view(life.machine));
            let newest = view.and_then(|view| Some(view.epoch_starts(1).last()?.epoch));
            meta.log_epoch = meta.log_epoch.or(newest);
            meta.last_whole = meta.last_whole.filter(|_| meta.log_epoch.is_none());
            submit(Place::Back, WriteCommand::SaveMeta { ticket, meta });
        }
        (Some(Mistake::EpochUnbounded), WriteCommand::SaveMeta { ticket, mut meta }) => {
            let believed = world::with(|world| world.memory.unbounded.get(&life.machine).copied());
            if let (Some(believed), Some(promised)) = (believed, &mut meta.promised) {
                promised.epoch = believed;
            }
            submit(Place::Back, WriteCommand::SaveMeta { ticket, meta });
        }
        (Some(Mistake::CutTooDeep), WriteCommand::Truncate { ticket, to }) => {
            let to = Offset(to.0.saturating_sub(1));
            submit(Place::Back, WriteCommand::Truncate { ticket, to });
        }
        (Some(Mistake::AppendedPastGap), WriteCommand::Append(batch)) => {
            let lost = world::with(|world| !is_master(world) && world.chance(0.02));
            if !lost {
                submit(Place::Back, WriteCommand::Append(batch));
            }
        }
        (Some(Mistake::AppendedTwice), WriteCommand::Append(batch)) => {
            if world::with(|world| !is_master(world) && world.chance(0.02)) {
                submit(Place::Back, WriteCommand::Append(batch.clone()));
            }
            submit(Place::Back, WriteCommand::Append(batch));
        }
        (Some(Mistake::PromiseOvertakesWrites), command @ WriteCommand::SaveMeta { .. }) => {
            submit(Place::Front, command);
        }
        (Some(Mistake::CutNotQuarantined), WriteCommand::Quarantine { .. }) => {}
        (Some(Mistake::LogEpochKeptOnDamage), WriteCommand::SaveMeta { ticket, mut meta }) => {
            let kept = world::with(|world| world.log_epoch_while_leading(life.machine));
            if meta.log_epoch.is_none() && kept.is_some() {
                (meta.log_epoch, meta.last_whole) = (kept, None);
            }
            submit(Place::Back, WriteCommand::SaveMeta { ticket, meta });
        }
        (Some(Mistake::DamagedLogNotHeldBack), WriteCommand::Inspect { offset, .. })
            if world::with(|world| is_master(world)) =>
        {
            let held_back = HeldBack::No;
            submit(Place::Back, WriteCommand::Inspect { offset, held_back });
        }
        (_, command) => submit(Place::Back, command),
    }
}

/// Changes a report of a writer to its node.
pub(crate) fn on_report(life: Life, done: WriteReport, report: &mut dyn FnMut(WriteReport)) {
    world::with(|world| match &done {
        WriteReport::Written { .. } if world.checks.is_master(life.machine) => {
            world.lie_in_wait(life.machine, 1.0);
            world.divide(life.machine);
        }
        WriteReport::MetaSaved { .. } => {
            if world.memory.unbounded.remove(&life.machine).is_some() {
                // It goes on from the state of its disk.
                world.machine(life.machine).dying = true;
            }
            world.note_whether_intact(life.machine);
            world.lie_in_wait(life.machine, 3.0);
        }
        WriteReport::Truncated { cut, .. } => {
            world.count("log cut");
            world.check_quarantined(life.machine, cut.records);
            world.lie_in_wait(life.machine, 10.0);
        }
        _ => {}
    });
    let Some(mistake) = planted() else {
        report(done);
        return;
    };
    let is_master = world::with(|world| world.checks.is_master(life.machine));
    let early = match (mistake, &done) {
        (Mistake::AnsweredBeforeSync, WriteReport::Written { end }) if !is_master => Some(*end),
        (Mistake::OwnEndBeforeSync, WriteReport::Written { end }) if is_master => Some(*end),
        _ => None,
    };
    if let (Mistake::RefusedWritePassesForDone, WriteReport::WriteFailed { .. }) = (mistake, &done)
        && let Some(end) =
            world::with(|world| world.memory.given_to_writer.get(&life.machine).copied())
    {
        report(WriteReport::Written { end });
        let whole_end = end;
        report(WriteReport::Durable { end, whole_end });
        return;
    }
    let forgotten = match (mistake, &done) {
        (Mistake::WaiterForgotten, WriteReport::Durable { .. }) => {
            is_master && world::with(|world| world.chance(0.1))
        }
        (
            Mistake::EpochSentBeforeSync | Mistake::PromiseAnsweredBeforeSync,
            WriteReport::MetaSaved { ticket, .. },
        ) => world::with(|world| {
            let early = &mut world.memory.reported_early;
            early.get(&life.machine) == Some(ticket) && early.remove(&life.machine).is_some()
        }),
        _ => false,
    };
    if !forgotten {
        report(done);
    }
    if let Some(end) = early {
        let whole_end = end;
        report(WriteReport::Durable { end, whole_end });
    }
}

/// Runs before a step of a writer; returns true if something else was done in its place.
pub(crate) fn on_step(
    life: Life,
    step: NextStep,
    writer: &WriterLoop,
    report: &mut dyn FnMut(WriteReport),
) -> bool {
    let mistake = match planted() {
        Some(mistake @ (Mistake::EpochSentBeforeSync | Mistake::PromiseAnsweredBeforeSync))
            if step == NextStep::Alone =>
        {
            mistake
        }
        _ => return false,
    };
    let is_master = world::with(|world| world.checks.is_master(life.machine));
    if is_master != (mistake == Mistake::EpochSentBeforeSync) {
        return false;
    }
    let Some((ticket, durable_end)) = writer.meta_next() else {
        return false;
    };
    // A master numbers nothing: presence is enough to know that this one was reported.
    let told = world::with(|world| {
        let early = &mut world.memory.reported_early;
        early.insert(life.machine, ticket) == Some(ticket)
    });
    if !told {
        report(WriteReport::MetaSaved {
            ticket,
            durable_end,
        });
    }
    !told
}

impl World {
    /// Counts that a node that was not intact has become so.
    fn note_whether_intact(&mut self, machine: MachineId) {
        let meta = self.machines[machine.0].disk.meta.as_ref();
        let intact = meta.is_some_and(|meta| meta.log_epoch.is_some());
        if !intact {
            self.memory.not_intact.insert(machine);
        } else if self.memory.not_intact.remove(&machine) {
            let is_master = self.checks.is_master(machine);
            self.count(match is_master {
                true => "log: a wiped master's is intact",
                false => "log: a secondary has reached its refill target",
            });
        }
    }

    /// Checks that a secondary that has cut records quarantined those that it could read.
    fn check_quarantined(&mut self, machine: MachineId, records: u64) {
        let Some(view) = self.checks.view(machine) else {
            return;
        };
        let kept = view.records_quarantined();
        let before = self
            .memory
            .quarantined
            .insert(machine, (self.machines[machine.0].boot, kept));
        let before = before.filter(|(boots, _)| *boots == self.machines[machine.0].boot);
        let new = kept - before.map_or(0, |(_, kept)| kept);
        let is_master = self.checks.is_master(machine);
        if records > 0 && new == 0 && !is_master && self.faults.flipped_bits == 0.0 {
            let name = self.machine(machine).name.clone();
            self.violate(format!(
                "rule 10: {name} cuts {records} records and quarantines none of them"
            ));
        }
    }

    /// Returns the life that a node on `machine` claims.
    fn own_life(&self, machine: MachineId) -> Option<Incarnation> {
        let meta = self.machines[machine.0].disk.meta.as_ref()?;
        Some(Incarnation {
            instance: meta.instance,
            start: meta.start,
        })
    }

    /// Returns the log epoch to name to the master on `machine`, so that it compares the newest
    /// records of two logs where it compares their log epochs.
    fn rank_by_records(&self, machine: MachineId, newest: Epoch) -> Epoch {
        let meta = self.machines[machine.0].disk.meta.as_ref();
        let Some(own_log_epoch) = meta.and_then(|meta| meta.log_epoch) else {
            return newest;
        };
        let view = self.checks.view(machine);
        let own_newest = view.and_then(|view| Some(view.epoch_starts(1).last()?.epoch));
        match newest.cmp(&own_newest.unwrap_or(Epoch(0))) {
            Ordering::Less => Epoch(own_log_epoch.0.saturating_sub(1)),
            Ordering::Equal => own_log_epoch,
            Ordering::Greater => own_log_epoch.next(),
        }
    }

    /// Returns the log epoch on the disk of a master that leads; `None` on any other node.
    fn log_epoch_while_leading(&self, machine: MachineId) -> Option<Epoch> {
        let mode = self.checks.mode(machine)?;
        let meta = self.machines[machine.0].disk.meta.as_ref();
        let leads = self.checks.is_master(machine) && mode != Mode::Recovering;
        meta.filter(|_| leads)?.log_epoch
    }

    /// Returns the name of the node on `machine`.
    fn own_name(&self, machine: MachineId) -> Option<NodeName> {
        let meta = self.machines[machine.0].disk.meta.as_ref()?;
        Some(meta.name.clone())
    }

    /// Returns the epoch that the disk of `machine` has promised.
    fn promised(&self, machine: MachineId) -> Option<Promised> {
        let meta = self.machines[machine.0].disk.meta.as_ref()?;
        meta.promised.clone()
    }
}

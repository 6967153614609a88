//! The rules, checked at every step by an observer that sees everything.
//!
//! One file per rule. The content of a disk is read from its synced data, never from a node's
//! statements. A check sees the world from outside: it uses none of the decisions that it checks.

mod authors;
mod coverage;
mod r01_total_order;
mod r02_contiguous_prefix;
mod r02_followers;
mod r02_whole_appends;
mod r03_exactly_once;
mod r04_concern;
mod r05_nothing_lost;
mod r06_only_me;
mod r07_never_give_up;
mod r08_quorum;
mod r09_fencing;
mod r10_no_silent_damage;
mod r11_bounded;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{
    disk::RecordId,
    world::{Life, Machine, MachineId, Part, World},
};
use crate::{
    frame::FrameBatch,
    handle::{
        Followed,
        host::{Role, Watched},
    },
    log::{LogView, Meta},
    transport::{Request, Response},
    types::{Epoch, Mode, Offset, ReadLevel},
    views::Receipt,
};

/// Result of a check: the violation, with the number of the rule.
pub(crate) type Finding = Result<(), String>;

/// All checks of a run.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    nodes: BTreeMap<MachineId, Node>,
    /// Machines on which a node was ever started.
    ever: BTreeSet<MachineId>,
    authors: authors::Authors,
    total_order: r01_total_order::TotalOrder,
    exactly_once: r03_exactly_once::ExactlyOnce,
    concern: r04_concern::Concern,
    nothing_lost: r05_nothing_lost::NothingLost,
    followers: r02_followers::Followers,
    quorum: r08_quorum::Quorum,
    fencing: r09_fencing::Fencing,
}

/// A node under observation: what it shows, and what it showed at the last step.
#[derive(Debug)]
struct Node {
    watched: Watched,
    shown_local: Offset,
    shown_committed: Offset,
    mode: Mode,
    /// The records that it showed below `shown_local`.
    ids: Vec<Option<RecordId>>,
}

/// The disks and their content.
#[derive(Clone, Copy)]
struct Disks<'a>(&'a [Machine]);

impl Disks<'_> {
    fn held(&self, machine: MachineId, offset: Offset) -> Option<RecordId> {
        self.0[machine.0].disk.held(offset)
    }

    fn meta(&self, machine: MachineId) -> Option<&Meta> {
        self.0[machine.0].disk.meta.as_ref()
    }

    fn name(&self, machine: MachineId) -> &str {
        &self.0[machine.0].name
    }

    /// Returns the machines that are nodes of the cluster now.
    fn targets(&self) -> impl Iterator<Item = MachineId> {
        let machines = self.0.iter().enumerate();
        machines
            .filter(|(_, machine)| machine.part == Part::Node)
            .map(|(at, _)| MachineId(at))
    }

    /// Returns how many nodes hold a record that the master on `machine` speaks of: itself and
    /// those of other names. Of two machines with one name each is the node to itself.
    ///
    /// A node on which the record rotted counts, as does one that `held` it before it was damaged.
    fn holders(
        &self,
        machine: MachineId,
        offset: Offset,
        id: RecordId,
        held: impl Fn(MachineId) -> bool,
    ) -> usize {
        let own_name = self.meta(machine).map(|meta| &meta.name);
        let machines = (0..self.0.len()).map(MachineId);
        machines
            .filter(|other| {
                let name = self.meta(*other).map(|meta| &meta.name);
                *other == machine || name != own_name
            })
            .filter(|other| {
                self.held(*other, offset) == Some(id) || self.rotted(*other, offset) || held(*other)
            })
            .count()
    }

    /// Returns true if a node was replaced and its process or directory still exists.
    fn has_replaced(&self) -> bool {
        let mut machines = self.0.iter();
        machines.any(|machine| machine.part == Part::Replaced)
    }

    /// Returns all records that the disk of `machine` holds durably; `None` for each that rotted.
    fn ids(&self, machine: MachineId) -> Vec<Option<RecordId>> {
        let end = self.0[machine.0].disk.held_end();
        (0..end.0)
            .map(|offset| self.held(machine, Offset(offset)))
            .collect()
    }

    fn nodes(&self) -> u32 {
        self.targets().count() as u32
    }

    /// Returns the last log epoch that its disk had, whatever became of it.
    fn had_log_epoch(&self, machine: MachineId) -> Option<Epoch> {
        self.0[machine.0].disk.had_log_epoch
    }

    /// Returns the identity that the record at `offset` had, if it rotted.
    fn rotted_id(&self, machine: MachineId, offset: Offset) -> Option<RecordId> {
        self.0[machine.0].disk.rotted_id(offset)
    }

    /// Returns true if the record at `offset` rotted there: that is damage, not loss.
    fn rotted(&self, machine: MachineId, offset: Offset) -> bool {
        self.0[machine.0].disk.rotted(offset)
    }
}

impl Checks {
    /// Returns true if the node on `machine` is a master.
    pub(crate) fn is_master(&self, machine: MachineId) -> bool {
        let node = self.nodes.get(&machine);
        node.is_some_and(|node| matches!(node.watched.role, Role::Master { .. }))
    }

    /// Returns the log of the node on `machine`.
    pub(crate) fn view(&self, machine: MachineId) -> Option<Arc<LogView>> {
        self.nodes
            .get(&machine)
            .map(|node| node.watched.view.clone())
    }

    /// Returns the mode that the master on `machine` shows.
    pub(crate) fn mode(&self, machine: MachineId) -> Option<Mode> {
        let is_master = self.is_master(machine);
        let node = self.nodes.get(&machine).filter(|_| is_master)?;
        Some(*node.watched.shared.watch_mode().borrow())
    }

    /// Returns the committed end that the node on `machine` shows.
    pub(crate) fn committed(&self, machine: MachineId) -> Option<Offset> {
        self.nodes.get(&machine)?.watched.shared.committed()
    }

    /// Returns the message in the record at `offset` with identity `id`.
    pub(crate) fn payload(&self, offset: Offset, id: RecordId) -> Option<Bytes> {
        let record = self.authors.record(offset, id)?;
        Some(record.payload.clone())
    }

    /// Makes the node on `machine` show this as committed: for a planted mistake.
    pub(crate) fn show(&self, machine: MachineId, committed: Offset) {
        if let Some(node) = self.nodes.get(&machine) {
            node.watched.shared.set_committed(Some(committed));
        }
    }

    /// Observes that a master sends a request.
    pub(crate) fn on_request_sent(&mut self, machine: MachineId, request: &Request) {
        self.fencing.on_request_sent(machine, request);
    }

    /// Observes that a client is told that its payload is in no log.
    pub(crate) fn on_refused(&mut self, payload: &[u8]) {
        self.exactly_once.on_refused(payload);
    }

    /// Observes that a client sends a payload that no one else sends.
    pub(crate) fn on_sent(&mut self, payload: &[u8]) {
        self.exactly_once.on_sent(payload);
    }
}

impl World {
    fn check(&mut self, what: impl FnOnce(&mut Checks, Disks<'_>, u64) -> Finding) {
        let found = what(&mut self.checks, Disks(&self.machines), self.now_us);
        if let Err(text) = found {
            self.violate(text);
        }
    }

    /// Observes that a node has started on `machine`.
    pub(crate) fn on_started(&mut self, machine: MachineId, watched: Watched) {
        let shown_local = watched.view.durable_end();
        let node = Node {
            watched,
            shown_local: Offset::ZERO,
            shown_committed: Offset::ZERO,
            mode: Mode::Recovering,
            ids: Vec::new(),
        };
        self.machine(machine).disk.on_started();
        self.checks.nodes.insert(machine, node);
        self.checks.ever.insert(machine);
        self.checks.quorum.on_started(machine);
        self.checks.followers.on_started(machine);
        self.note_of(
            machine,
            format_args!("has opened its log: end {shown_local}"),
        );
        self.after_poll(machine);
    }

    /// Observes that the process on `machine` is gone.
    pub(crate) fn on_ended(&mut self, machine: MachineId) {
        if self.machines[machine.0].disk.has_rot() {
            self.checks.concern.on_flip(Disks(&self.machines), machine);
        }
        self.checks.nodes.remove(&machine);
        self.checks.fencing.on_ended(machine);
    }

    /// Observes that the code of `machine` ran.
    pub(crate) fn after_poll(&mut self, machine: MachineId) {
        self.checks.concern.after_poll(machine);
        if let Some(node) = self.checks.nodes.get_mut(&machine) {
            let mode = *node.watched.shared.watch_mode().borrow();
            if std::mem::replace(&mut node.mode, mode) != mode {
                self.count(match mode {
                    Mode::Recovering => "mode: recovering",
                    Mode::ReadWrite => "mode: read-write",
                    Mode::ReadOnly => "mode: read-only",
                });
            }
        }
        self.check(|checks, disks, _| {
            let Some(node) = checks.nodes.get_mut(&machine) else {
                return Ok(());
            };
            let end = node.watched.view.durable_end();
            if end < node.shown_local {
                let cut = node.ids.split_off(end.0 as usize);
                checks.nothing_lost.on_cut(disks, machine, end, &cut)?;
                node.shown_local = end;
                node.shown_committed = node.shown_committed.min(end);
            }
            let written = node.watched.view.written_end();
            checks.fencing.on_written(disks, machine, written)?;
            let before = node.shown_local;
            r02_contiguous_prefix::on_shown(disks, machine, node, end)?;
            let Node { watched, ids, .. } = &*node;
            let committed = watched.shared.committed();
            let ends = [Some(end), committed.map(|committed| committed.min(end))];
            let ends = ends.into_iter().flatten();
            r02_whole_appends::on_shown(disks, machine, &checks.authors, ids, ends)?;
            r02_whole_appends::on_more_shown(disks, machine, &checks.authors, ids, before)?;
            r11_bounded::on_step(disks, machine, node)?;
            node.shown_local = end;
            let shown = node.shown_committed;
            if let Some(committed) = committed
                && committed.min(end) > shown
            {
                let new = shown..committed.min(end);
                node.shown_committed = new.end;
                let Checks {
                    total_order,
                    nothing_lost,
                    exactly_once,
                    authors,
                    ..
                } = checks;
                total_order.on_shown(disks, machine, new, |offset, id| {
                    nothing_lost.on_committed(offset, id)?;
                    exactly_once.on_committed(offset, authors.record(offset, id))
                })?;
            }
            let Checks {
                followers,
                total_order,
                ..
            } = checks;
            followers.on_shown(disks, machine, total_order)
        });
    }

    /// Observes that a node gives records to its writer.
    pub(crate) fn on_append(&mut self, machine: MachineId, batch: &FrameBatch) {
        self.check(|checks, disks, now_us| {
            let Checks {
                nodes,
                authors,
                quorum,
                ..
            } = checks;
            let role = nodes.get(&machine).map(|node| &node.watched.role);
            match role {
                Some(Role::Master { nodes, timing }) if !authors.knows(batch) => {
                    let patience = timing.unhealthy_after;
                    quorum.on_authored(disks, machine, nodes, patience, now_us)?;
                    authors.on_authored(disks, machine, batch)
                }
                Some(_) => r10_no_silent_damage::on_taken(disks, machine, authors, batch),
                None => Ok(()),
            }
        });
    }

    /// Observes that a node answers a request.
    pub(crate) fn on_answered(
        &mut self,
        machine: MachineId,
        request: &Request,
        response: &Response,
    ) {
        self.count(coverage::of_request(request));
        self.count(coverage::of_answer(response));
        self.check(|checks, disks, _| {
            let view = checks.view(machine);
            let written_end = view.map_or(Offset::ZERO, |view| view.written_end());
            checks
                .fencing
                .on_answer(machine, request.epoch, response, written_end);
            r09_fencing::on_answered(disks, machine, request, response)?;
            r11_bounded::on_answered(disks, machine, response)?;
            r10_no_silent_damage::on_answered(disks, machine, response)
        });
    }

    /// Observes that a master gets an answer.
    pub(crate) fn on_contact(&mut self, life: Life, response: &Response) {
        if self.lives(life) {
            let now_us = self.now_us;
            let name = response.name.clone();
            self.checks.concern.on_contact(life.machine, response);
            self.checks.quorum.on_contact(life.machine, name, now_us);
        }
    }

    /// Observes that the master on `machine` tells a caller the position of its message.
    pub(crate) fn on_receipt(&mut self, machine: MachineId, receipt: &Receipt, payload: &Bytes) {
        if receipt.replayed {
            self.count("append replayed");
        }
        self.check(|checks, disks, _| {
            r03_exactly_once::on_receipt(disks, machine, &checks.authors, receipt, payload)
        });
    }

    /// Observes that the master on `machine` tells a caller that its concern is met.
    pub(crate) fn on_acknowledged(&mut self, machine: MachineId, receipt: &Receipt) {
        let (offset, concern) = (receipt.offset, receipt.concern);
        let met = receipt.concern_met;
        self.note_of(
            machine,
            format_args!("tells a client: offset {offset} at concern {concern}, met: {met}"),
        );
        if !met {
            return;
        }
        self.count("append acknowledged");
        self.check(|checks, disks, _| {
            let id = checks.concern.on_acknowledged(disks, machine, receipt)?;
            checks
                .nothing_lost
                .on_acknowledged(disks, machine, receipt, id)
        });
    }

    /// Observes that a node shows messages to a client.
    pub(crate) fn on_read(&mut self, machine: MachineId, shown: &[(Offset, Bytes)]) {
        self.check(|checks, disks, _| {
            r10_no_silent_damage::on_read(disks, machine, &checks.authors, shown)
        });
    }

    /// Observes that a follower of the node on `machine` starts.
    pub(crate) fn on_follows(&mut self, machine: MachineId, level: ReadLevel) {
        self.checks.followers.on_follows(machine, level);
    }

    /// Observes what a follower of the node on `machine` is given.
    pub(crate) fn on_followed(
        &mut self,
        machine: MachineId,
        level: ReadLevel,
        followed: &Followed,
    ) {
        match followed {
            Followed::Records(_) => {}
            Followed::Cut { offset } => {
                self.note_of(machine, format_args!("a follower is told: cut at {offset}"));
                self.count("follower: told of a cut");
            }
        }
        self.check(|checks, disks, _| {
            let Checks {
                followers, authors, ..
            } = checks;
            followers.on_followed(disks, machine, authors, level, followed)
        });
    }

    /// Observes that a caller of the master on `machine` had to wait for its answer.
    pub(crate) fn on_waited(&mut self, machine: MachineId, concern: u32, since_us: u64) {
        let entry = self.machine(machine);
        if entry.slowness > 1 {
            return;
        }
        let since_us = since_us.max(entry.troubled_until_us);
        let waited = Duration::from_micros(self.now_us.saturating_sub(since_us));
        self.check(|_, disks, _| r06_only_me::on_waited(disks, machine, concern, waited));
    }

    /// Checks a master's requests once its own code has run: by then everything they rely on must
    /// be on its disk.
    pub(crate) fn check_requests(&mut self) {
        self.check(|checks, disks, _| {
            let Checks {
                fencing,
                nothing_lost,
                ..
            } = checks;
            fencing.check(disks, |machine, epoch| {
                nothing_lost.on_leader(disks, machine, epoch)
            })
        });
    }

    /// Observes that the disk of `machine` is about to be lost for good.
    pub(crate) fn on_wipe(&mut self, machine: MachineId) {
        self.checks.concern.on_wipe(Disks(&self.machines), machine);
        self.checks.nodes.remove(&machine);
        self.checks.nothing_lost.on_wiped(machine);
    }

    /// Reports that the node on `machine` found damage after nothing but a crash.
    pub(crate) fn on_false_damage(&mut self, machine: MachineId) {
        let name = self.machine(machine).name.clone();
        self.violate(format!(
            "rule 10: {name} mistakes the traces of a crash for damage"
        ));
    }

    /// Reports that the node on `machine` counts again although its disk holds a record that it
    /// found to be damaged.
    pub(crate) fn on_damage_forgotten(&mut self, machine: MachineId) {
        let name = self.machine(machine).name.clone();
        self.violate(format!(
            "rule 10: {name} counts, and its disk still has the damage that it found"
        ));
    }

    /// Observes that a bit flips on the disk of `machine`: a record held by less than a majority
    /// may be on no other disk.
    pub(crate) fn on_flip(&mut self, machine: MachineId) {
        self.checks.concern.on_flip(Disks(&self.machines), machine);
        self.checks.nothing_lost.on_wiped(machine);
    }

    /// Returns true if the promise still holds when `machine` loses its disk: every other node must
    /// be intact, as far as all but a minority are.
    pub(crate) fn may_lose_disk(&self, machine: MachineId) -> bool {
        let disks = Disks(&self.machines);
        let targets: Vec<MachineId> = disks.targets().collect();
        let intact = |machine: &MachineId| {
            disks
                .meta(*machine)
                .is_some_and(|meta| meta.log_epoch.is_some())
                && !self.machines[machine.0].disk.has_rot()
        };
        let others = targets.iter().filter(|other| **other != machine);
        let lost = others.filter(|other| !intact(other)).count() + 1;
        let minority = (targets.len() - 1) / 2;
        lost <= minority && !disks.has_replaced() && self.checks.nothing_lost.has_begun()
    }

    /// Returns true if `machine` is not the master's, or every other node has met the directory on
    /// it. A node that has not cannot tell which of two is the newer, and a late request of the
    /// master that is gone may fence the one that replaced it, for ever: the operating rule is one
    /// replacement at a time.
    pub(crate) fn all_know(&self, machine: MachineId) -> bool {
        let disks = Disks(&self.machines);
        let Some(own) = disks.meta(machine) else {
            return true;
        };
        let others = || disks.targets().filter(|other| *other != machine);
        let promised = |other| disks.meta(other).and_then(|meta| meta.promised.as_ref());
        let is_master = others().any(|other| promised(other).is_some_and(|by| by.name == own.name));
        !is_master
            || others().all(|other| promised(other).is_some_and(|by| by.instance == own.instance))
    }

    /// Checks, at the end of a run that was healed, that everything is well again.
    pub(crate) fn check_end(&mut self) {
        let goals = self.goals.len();
        self.check(|checks, disks, _| {
            r07_never_give_up::at_the_end(disks, &checks.nodes, &checks.ever, goals)?;
            checks.nothing_lost.at_the_end(disks)?;
            checks.followers.at_the_end(disks, &checks.nodes)?;
            checks.exactly_once.at_the_end(disks, &checks.authors)
        });
    }
}

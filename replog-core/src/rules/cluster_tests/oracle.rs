//! The properties that must hold after anything that happened: one check for each rule that pure parts can
//! break.
//!
//! Owns a record of what clients and nodes were told. Sees every disk; changes nothing.

use std::collections::BTreeMap;

use super::disk::{Disk, Entry};
use crate::{
    transport::{Answer, RequestBody, Response},
    types::{Epoch, Offset, majority},
};

/// Everything that clients and nodes were told, and what was found wrong with it.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    nodes: u32,
    /// True to check only what clients and readers can see, not how nodes come to it.
    pub(super) only_outcomes: bool,
    /// The acknowledged records, each with its concern.
    acked: BTreeMap<Offset, ((Epoch, u64), u32)>,
    /// The records that any node showed as committed.
    committed: Vec<(Epoch, u64)>,
    /// Every record ever written, with the epoch of the one before it.
    given: BTreeMap<(Epoch, Offset), (u64, Option<Epoch>)>,
    /// Logs that were lost with their disks.
    lost: Vec<Vec<Entry>>,
    /// The newest epoch for which each node accepted anything.
    accepted: BTreeMap<usize, Epoch>,
    pub(super) violation: Option<String>,
    pub(super) acks_at_majority: u64,
    pub(super) cuts: u64,
}

impl Oracle {
    pub(super) fn new(nodes: u32) -> Oracle {
        Oracle {
            nodes,
            ..Oracle::default()
        }
    }

    pub(super) fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Checks rules 1, 2 and 3: offsets have no gaps, epochs never fall, an offset is given out once in an
    /// epoch, and what came before it is the same everywhere.
    pub(super) fn on_written(&mut self, disk: &Disk, written: &[Entry]) {
        let first = disk.log.len() - written.len();
        for (at, entry) in written.iter().enumerate() {
            let position = first + at;
            if entry.offset.0 as usize != position {
                return self.fail(format!(
                    "rule 2: {} written at {position} on {}",
                    entry.offset, disk.meta.name
                ));
            }
            let before = position.checked_sub(1).map(|p| disk.log[p].epoch);
            if before > Some(entry.epoch) {
                return self.fail(format!("rule 1: the epoch falls at {}", entry.offset));
            }
            let key = (entry.epoch, entry.offset);
            let given = *self.given.entry(key).or_insert((entry.id, before));
            if given != (entry.id, before) {
                return self.fail(format!(
                    "rule 1: {} of epoch {} is two records, or follows two",
                    entry.offset, entry.epoch
                ));
            }
        }
    }

    /// Checks rule 9, and that nothing is reported before it is durable.
    pub(super) fn on_answer(
        &mut self,
        node: usize,
        disk: &Disk,
        asked: (Epoch, &RequestBody),
        response: &Response,
    ) {
        if self.only_outcomes {
            return;
        }
        let (epoch, body) = asked;
        let state = response.state;
        if state.log_epoch > disk.meta.log_epoch {
            return self.fail(format!("rule 5: node {node} names a log epoch not saved"));
        }
        // A refusal may name the end from before a cut in progress. Records for a recovery are decided on first
        // and read later.
        let yes = matches!(
            response.answer,
            Answer::Promised(_) | Answer::Aligned(_) | Answer::Taken
        );
        if !yes {
            return;
        }
        if state.durable_end > disk.durable_end() {
            return self.fail(format!(
                "rule 4: node {node} names end {}, and {} is durable",
                state.durable_end,
                disk.durable_end()
            ));
        }
        let promised = disk.meta.promised.as_ref().map_or(Epoch(0), |p| p.epoch);
        if promised < epoch {
            return self.fail(format!(
                "rule 9: node {node} accepts epoch {epoch}, and {promised} is saved"
            ));
        }
        let newest = self.accepted.entry(node).or_default();
        if epoch < *newest {
            let text = format!("rule 9: node {node} accepts epoch {epoch} after {newest}");
            return self.fail(text);
        }
        *newest = epoch;
        if let (RequestBody::Append(append), Answer::Taken) = (body, &response.answer) {
            for entry in append.records.iter().flat_map(Entry::all_of) {
                if !disk.holds(entry.offset, entry.identity()) {
                    return self.fail(format!(
                        "rule 4: node {node} takes {} and does not hold it",
                        entry.offset
                    ));
                }
            }
        }
    }

    /// Checks rule 9 where records enter a log.
    pub(super) fn on_submitted(&mut self, node: usize, disk: &Disk, sender: Epoch) {
        if sender < disk.promise_asked && !self.only_outcomes {
            self.fail(format!(
                "rule 9: node {node} takes records of epoch {sender} behind promise {}",
                disk.promise_asked
            ));
        }
    }

    /// Checks rule 4 at an answer, and records it for rule 5 from then on.
    pub(super) fn on_acked(
        &mut self,
        disks: &[Disk],
        master: usize,
        record: (Offset, Epoch, u64),
        concern: u32,
        counts_below_majority: bool,
    ) {
        let (offset, epoch, id) = record;
        let identity = (epoch, id);
        let holds = |log: &[Entry]| {
            log.get(offset.0 as usize)
                .is_some_and(|entry| entry.identity() == identity)
        };
        if !disks[master].holds(offset, identity) {
            return self.fail(format!("rule 4: {offset} acknowledged, not durable here"));
        }
        let held = disks.iter().filter(|d| d.holds(offset, identity)).count()
            + self.lost.iter().filter(|log| holds(log)).count();
        if (held as u32) < concern {
            return self.fail(format!("rule 4: {offset} on {held} nodes, not {concern}"));
        }
        if concern >= majority(self.nodes) {
            self.acks_at_majority += 1;
        } else if !counts_below_majority {
            return;
        }
        let known = self.acked.entry(offset).or_insert((identity, concern));
        known.1 = known.1.max(concern);
        if known.0 != identity {
            self.fail(format!("rule 5: {offset} acknowledged as two records"));
        }
    }

    /// Checks rule 1: what one node shows as committed, from `from` on, every other one shows too.
    pub(super) fn on_committed(&mut self, disk: &Disk, from: Offset, committed: Offset) {
        for at in from.0 as usize..committed.0 as usize {
            let Some(entry) = disk.log.get(at) else {
                return self.fail(format!("rule 1: {} shows {at}, not held", disk.meta.name));
            };
            if at == self.committed.len() {
                self.committed.push(entry.identity());
            } else if self.committed.get(at) != Some(&entry.identity()) {
                return self.fail(format!("rule 1: {at} is shown as two records"));
            }
        }
    }

    /// Checks rule 5, when a master becomes leader and at the end.
    pub(super) fn check_acked(&mut self, disk: &Disk) {
        let missing = self
            .acked
            .iter()
            .find(|(offset, (identity, _))| !disk.holds(**offset, *identity));
        if let Some((offset, (identity, concern))) = missing {
            let text = format!(
                "rule 5: {offset} {identity:?} was acknowledged at {concern} and is not on {}",
                disk.meta.name
            );
            return self.fail(text);
        }
        let shown = self.committed.iter().enumerate();
        let missing = shown
            .filter(|(at, identity)| !disk.holds(Offset(*at as u64), **identity))
            .map(|(at, _)| at)
            .next();
        if let Some(at) = missing {
            self.fail(format!(
                "rule 5: {at} was committed, not on {}",
                disk.meta.name
            ));
        }
    }

    /// Checks rule 3 over a whole log: a message is in it once, and one with a key once within the horizon.
    pub(super) fn check_once(&mut self, disk: &Disk, horizon: u64) {
        let mut last: BTreeMap<u64, Offset> = BTreeMap::new();
        for entry in &disk.log {
            let before = last.insert(entry.id, entry.offset);
            let keyed = entry.batch.frames().any(|frame| !frame.key.is_empty());
            let once =
                before.is_none_or(|before| keyed && entry.offset.records_since(before) > horizon);
            if !once {
                let (name, at) = (&disk.meta.name, entry.offset);
                let text = format!("rule 3: {} is at {before:?} and {at} of {name}", entry.id);
                return self.fail(text);
            }
        }
    }

    /// Notes that a disk is lost. With the master's disk, everything is lost that only the master had to hold.
    pub(super) fn on_disk_lost(&mut self, disk: &Disk, of_master: bool) {
        self.lost.push(disk.log[..disk.synced].to_vec());
        if of_master {
            self.forget_below_majority();
        }
    }

    /// Notes that a master was replaced.
    pub(super) fn forget_below_majority(&mut self) {
        let needed = majority(self.nodes);
        self.acked.retain(|_, (_, concern)| *concern >= needed);
    }

    /// Notes that a node's directory is new.
    pub(super) fn on_wiped(&mut self, node: usize) {
        self.accepted.remove(&node);
    }
}

//! Rule 4: an append with concern w is answered with success only when the master and at least
//! w−1 secondaries hold it.

use std::collections::BTreeMap;

use super::Disks;
use crate::{
    sim::{disk::RecordId, world::MachineId},
    transport::Response,
    types::{InstanceId, NodeName},
    views::Receipt,
};

/// Content of a disk, by offset; `None` for a record that rotted.
type Ids = Vec<Option<RecordId>>;

/// Content of lost disks, for as long as no master can know that they are lost.
#[derive(Debug, Default)]
pub(super) struct Concern {
    lost: BTreeMap<NodeName, Vec<Lost>>,
    /// The lost directories of each node, in order.
    lost_lives: BTreeMap<NodeName, Vec<InstanceId>>,
    /// Content of damaged disks before the damage, until a master learns of it.
    damaged: BTreeMap<NodeName, Option<(MachineId, Ids)>>,
    /// Answers that arrived: at which machine, from which node and directory, and whether its log
    /// counts.
    heard: Vec<(MachineId, NodeName, InstanceId, bool)>,
}

#[derive(Debug)]
struct Lost {
    instance: InstanceId,
    ids: Ids,
}

impl Concern {
    /// Observes that a disk is about to be lost.
    pub(super) fn on_wipe(&mut self, disks: Disks<'_>, machine: MachineId) {
        if let Some(meta) = disks.meta(machine) {
            let lost = Lost {
                instance: meta.instance,
                ids: disks.ids(machine),
            };
            let lives = self.lost_lives.entry(meta.name.clone()).or_default();
            lives.push(meta.instance);
            self.lost.entry(meta.name.clone()).or_default().push(lost);
        }
    }

    /// Observes that a bit of a disk is about to flip, or that its node is about to start and find
    /// that: the records behind it may go.
    pub(super) fn on_flip(&mut self, disks: Disks<'_>, machine: MachineId) {
        let Some(meta) = disks.meta(machine) else {
            return;
        };
        let ids = disks.ids(machine);
        let before = self.damaged.entry(meta.name.clone()).or_default();
        match before {
            Some((known, held)) if *known == machine => {
                let gone = held.drain(ids.len().min(held.len())..).collect::<Vec<_>>();
                *held = ids;
                held.extend(gone);
            }
            _ => *before = Some((machine, ids)),
        }
    }

    /// Observes that a master has an answer of a node that not all of its actors have processed.
    pub(super) fn on_contact(&mut self, machine: MachineId, response: &Response) {
        let counts = response.state.log_epoch.is_some();
        let heard = (
            machine,
            response.name.clone(),
            response.incarnation.instance,
            counts,
        );
        self.heard.push(heard);
    }

    /// Observes that the code of `machine` ran: it must know now which lives have answered it, and
    /// whether their logs count.
    pub(super) fn after_poll(&mut self, machine: MachineId) {
        for (_, name, instance, counts) in self.heard.extract_if(.., |heard| heard.0 == machine) {
            if !counts {
                self.damaged.remove(&name);
            }
            let (Some(lost), Some(lives)) = (self.lost.get_mut(&name), self.lost_lives.get(&name))
            else {
                continue;
            };
            // An answer from a life says that earlier lives are over. A late one says no more than
            // that.
            let nth = |instance| lives.iter().position(|life| *life == instance);
            let nth_heard = nth(instance).unwrap_or(lives.len());
            lost.retain(|lost| nth(lost.instance) >= Some(nth_heard));
        }
    }

    /// Checks a caller's "concern met": counts the disks that hold the record, or held it until
    /// they were lost without the master being able to know.
    pub(super) fn on_acknowledged(
        &self,
        disks: Disks<'_>,
        machine: MachineId,
        receipt: &Receipt,
    ) -> Result<RecordId, String> {
        let (offset, concern) = (receipt.offset, receipt.concern);
        let has = |ids: &[Option<RecordId>], id| {
            let there = ids.get(offset.0 as usize);
            there.is_some_and(|there| there.is_none_or(|there| there == id))
        };
        let was_held = |at: MachineId, id: RecordId| {
            let mut damaged = self.damaged.values().flatten();
            damaged.any(|(damaged, ids)| *damaged == at && has(ids, id))
        };
        // A record that rots on the master's disk is still the one that others hold.
        let machines = (0..disks.0.len()).map(MachineId);
        let held = machines.filter_map(|other| disks.held(other, offset));
        let mut ids = held.chain(disks.rotted_id(machine, offset));
        let rotted = disks.rotted(machine, offset);
        let id = ids.find(|id| {
            let own = disks.held(machine, offset) == Some(*id);
            id.0 == receipt.epoch && (own || rotted || was_held(machine, *id))
        });
        let Some(id) = id else {
            return Err(format!(
                "rule 4: {} acknowledges offset {offset} of epoch {}, which its own disk does not hold",
                disks.name(machine),
                receipt.epoch
            ));
        };
        let held = |lost: &Lost| has(&lost.ids, id);
        let lost = self
            .lost
            .values()
            .filter(|lost| lost.iter().any(held))
            .count();
        let holders = disks.holders(machine, offset, id, |other| was_held(other, id)) + lost;
        if holders < concern as usize {
            return Err(format!(
                "rule 4: offset {offset} is acknowledged at concern {concern}, and {holders} disks hold it"
            ));
        }
        Ok(id)
    }
}

//! Rule 8: without a majority the master refuses new appends, at most `unhealthy_after` after the
//! last contact.

use std::{collections::BTreeMap, time::Duration};

use super::{Disks, Finding};
use crate::{
    sim::world::MachineId,
    types::{NodeName, majority},
};

/// Time at which each master last heard from each secondary.
#[derive(Debug, Default)]
pub(super) struct Quorum {
    contacts: BTreeMap<MachineId, BTreeMap<NodeName, u64>>,
}

impl Quorum {
    pub(super) fn on_started(&mut self, machine: MachineId) {
        self.contacts.remove(&machine);
    }

    pub(super) fn on_contact(&mut self, machine: MachineId, name: NodeName, now_us: u64) {
        self.contacts
            .entry(machine)
            .or_default()
            .insert(name, now_us);
    }

    /// Checks the contacts of a master that assigns an offset.
    pub(super) fn on_authored(
        &self,
        disks: Disks<'_>,
        machine: MachineId,
        nodes: &[NodeName],
        patience: Duration,
        now_us: u64,
    ) -> Finding {
        let since = now_us.saturating_sub(patience.as_micros() as u64);
        let alive = self
            .contacts
            .get(&machine)
            .map_or(0, |heard| heard.values().filter(|at| **at >= since).count());
        let needed = majority(nodes.len() as u32) as usize;
        if alive + 1 < needed {
            return Err(format!(
                "rule 8: {} takes an append with {} of {} nodes in contact: {:?}",
                disks.name(machine),
                alive + 1,
                nodes.len(),
                self.contacts.get(&machine)
            ));
        }
        Ok(())
    }
}

//! Rule 5: with w at or above a majority, an acknowledged record survives the loss of any
//! minority of nodes. Below that, it survives every crash that leaves the master its disk.

use std::collections::BTreeMap;

use super::{Disks, Finding};
use crate::{
    sim::{disk::RecordId, world::MachineId},
    types::{Epoch, Offset, majority},
    views::Receipt,
};

#[derive(Debug, Default)]
pub(super) struct NothingLost {
    /// Records acknowledged at a majority or more.
    acknowledged: BTreeMap<Offset, RecordId>,
    /// Records acknowledged at less, and the machine whose disk promised them.
    below: BTreeMap<Offset, (RecordId, MachineId)>,
    /// The newest epoch that any master has led.
    newest: Option<Epoch>,
}

impl NothingLost {
    /// Returns true if there is anything that could be lost.
    pub(super) fn has_begun(&self) -> bool {
        self.newest.is_some()
    }

    pub(super) fn on_acknowledged(
        &mut self,
        disks: Disks<'_>,
        machine: MachineId,
        receipt: &Receipt,
        id: RecordId,
    ) -> Finding {
        let offset = receipt.offset;
        if receipt.concern < majority(disks.nodes()) {
            // A master whose disk rots unnoticed is one that may be replaced.
            if !disks.0[machine.0].disk.has_rot() {
                self.below.insert(offset, (id, machine));
            }
            return Ok(());
        }
        match self.acknowledged.insert(offset, id) {
            Some(before) if before != id => Err(format!(
                "rule 5: offset {offset} was acknowledged as {before:?} and is acknowledged as {id:?}"
            )),
            _ => Ok(()),
        }
    }

    /// Observes a record that is shown as committed for the first time.
    pub(super) fn on_committed(&self, offset: Offset, id: RecordId) -> Finding {
        match self.acknowledged.get(&offset) {
            Some(known) if *known != id => Err(format!(
                "rule 5: {id:?} is committed at offset {offset}, where {known:?} was acknowledged"
            )),
            _ => Ok(()),
        }
    }

    /// Observes that a node cut its own log while it ran: what it showed from `end` on is gone from
    /// it.
    pub(super) fn on_cut(
        &self,
        disks: Disks<'_>,
        machine: MachineId,
        end: Offset,
        cut: &[Option<RecordId>],
    ) -> Finding {
        // A node that is not intact may have been half-way through another's log: it never counted.
        // Nor did records of an epoch beyond its log epoch: its end did not count in that epoch.
        let log_epoch = disks.meta(machine).and_then(|meta| meta.log_epoch);
        let lost = self.acknowledged.range(end..).find(|(offset, id)| {
            let nth = offset.records_since(end) as usize;
            cut.get(nth) == Some(&Some(**id)) && Some(id.0) <= log_epoch
        });
        match lost {
            Some((offset, _)) => Err(format!(
                "rule 5: {} is intact and cuts offset {offset}, which was acknowledged",
                disks.name(machine)
            )),
            None => Ok(()),
        }
    }

    /// Observes that a master becomes leader: it must hold everything ever acknowledged.
    pub(super) fn on_leader(
        &mut self,
        disks: Disks<'_>,
        machine: MachineId,
        epoch: Epoch,
    ) -> Finding {
        if self.newest > Some(epoch) {
            // Promised before the newer one, and late: no node lets it serve any more.
            return Ok(());
        }
        self.newest = Some(epoch);
        for (offset, id) in &self.acknowledged {
            if disks.held(machine, *offset) != Some(*id) && !disks.rotted(machine, *offset) {
                return Err(format!(
                    "rule 5: {} becomes leader of epoch {epoch} without offset {offset}, which was acknowledged as {id:?}",
                    disks.name(machine)
                ));
            }
        }
        for (offset, (id, author)) in &self.below {
            if *author == machine
                && disks.held(machine, *offset) != Some(*id)
                && !disks.rotted(machine, *offset)
            {
                return Err(format!(
                    "rule 5: {} becomes leader of epoch {epoch} without offset {offset}, which it acknowledged at a low concern, although its disk was never lost",
                    disks.name(machine)
                ));
            }
        }
        Ok(())
    }

    /// Observes a lost disk: records that only it was said to hold may be gone.
    pub(super) fn on_wiped(&mut self, machine: MachineId) {
        self.below.retain(|_, (_, author)| *author != machine);
    }

    /// Checks that everything acknowledged is on every node.
    pub(super) fn at_the_end(&self, disks: Disks<'_>) -> Finding {
        for (offset, id) in &self.acknowledged {
            for machine in disks.targets() {
                // Unread rot is found when it is read.
                if disks.held(machine, *offset) != Some(*id) && !disks.rotted(machine, *offset) {
                    return Err(format!(
                        "rule 5: {} does not hold offset {offset} in the end, which was acknowledged",
                        disks.name(machine)
                    ));
                }
            }
        }
        Ok(())
    }
}

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

/// What lost disks held, for as long as no master can know that they are lost.
#[derive(Debug, Default)]
pub(super) struct Concern {
    lost: BTreeMap<NodeName, Vec<Lost>>,
}

#[derive(Debug)]
struct Lost {
    instance: InstanceId,
    ids: Vec<RecordId>,
}

impl Concern {
    /// A disk is about to be lost.
    pub(super) fn on_wipe(&mut self, disks: Disks<'_>, machine: MachineId) {
        if let Some(meta) = disks.meta(machine) {
            let lost = Lost {
                instance: meta.instance,
                ids: disks.ids(machine),
            };
            self.lost.entry(meta.name.clone()).or_default().push(lost);
        }
    }

    /// A master hears of a node: from now on it must know which life that is.
    pub(super) fn on_contact(&mut self, response: &Response) {
        if let Some(lost) = self.lost.get_mut(&response.name) {
            lost.retain(|lost| lost.instance == response.incarnation.instance);
        }
    }

    /// A caller is told that its concern is met: counts the disks that hold the record, or held
    /// it until they were lost, of which the master cannot have heard.
    pub(super) fn on_acknowledged(
        &self,
        disks: Disks<'_>,
        machine: MachineId,
        receipt: &Receipt,
    ) -> Result<RecordId, String> {
        let (offset, concern) = (receipt.offset, receipt.concern);
        let id = disks
            .held(machine, offset)
            .filter(|(epoch, _)| *epoch == receipt.epoch);
        let Some(id) = id else {
            return Err(format!(
                "rule 4: {} acknowledges offset {offset} of epoch {}, which its own disk does not hold",
                disks.name(machine),
                receipt.epoch
            ));
        };
        let held = |lost: &Lost| lost.ids.get(offset.0 as usize) == Some(&id);
        let lost = self
            .lost
            .values()
            .filter(|lost| lost.iter().any(held))
            .count();
        let holders = disks.holders(machine, offset, id) + lost;
        if holders < concern as usize {
            return Err(format!(
                "rule 4: offset {offset} is acknowledged at concern {concern}, and {holders} disks hold it"
            ));
        }
        Ok(id)
    }
}

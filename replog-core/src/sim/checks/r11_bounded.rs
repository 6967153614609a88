//! Rule 11: memory does not grow with the log.

use super::{Disks, Finding, Node};
use crate::{limits::TAIL_BYTES_MAX, sim::world::MachineId};

pub(super) fn on_step(disks: Disks<'_>, machine: MachineId, node: &Node) -> Finding {
    let bytes = node.watched.view.tail_memory();
    if bytes > 2 * TAIL_BYTES_MAX {
        return Err(format!(
            "rule 11: {} keeps {bytes} bytes of recent records in memory",
            disks.name(machine)
        ));
    }
    Ok(())
}

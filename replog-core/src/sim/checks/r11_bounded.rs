//! Rule 11: memory does not grow with the log.

use super::{Disks, Finding, Node};
use crate::{
    limits::{REORDER_RECORDS_MAX, TAIL_BYTES_MAX},
    sim::world::MachineId,
    transport::Response,
};

/// Checks how much a node holds back behind a gap.
pub(super) fn on_answered(disks: Disks<'_>, machine: MachineId, response: &Response) -> Finding {
    let buffered = response.state.buffered;
    if buffered > REORDER_RECORDS_MAX {
        return Err(format!(
            "rule 11: {} holds back {buffered} records behind a gap",
            disks.name(machine)
        ));
    }
    Ok(())
}

/// Checks how much of its log a node keeps in memory.
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

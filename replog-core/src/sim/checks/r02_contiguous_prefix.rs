//! Rule 2: a node shows offsets 0..end and nothing after a gap.

use super::{Disks, Finding, Node};
use crate::{sim::world::MachineId, types::Offset};

/// Checks that a node holds everything below `end`, which it shows as its own.
pub(super) fn on_shown(
    disks: Disks<'_>,
    machine: MachineId,
    node: &mut Node,
    end: Offset,
) -> Finding {
    for offset in (node.shown_local.0..end.0).map(Offset) {
        let id = disks.held(machine, offset);
        node.ids.push(id);
        if id.is_none() && !disks.rotted(machine, offset) {
            return Err(format!(
                "rule 2: {} shows everything below {end}, and its disk does not hold {offset} for good",
                disks.name(machine)
            ));
        }
    }
    Ok(())
}

//! Rule 7: a secondary that comes back receives everything that it lacks, without anyone's help;
//! and every waiting caller is answered.

use std::collections::{BTreeMap, BTreeSet};

use super::{Disks, Finding, Node};
use crate::{handle::host::Role, sim::world::MachineId, types::Mode};

/// Checks the cluster when all faults ended a while ago.
pub(super) fn at_the_end(
    disks: Disks<'_>,
    nodes: &BTreeMap<MachineId, Node>,
    ever: &BTreeSet<MachineId>,
    goals: usize,
) -> Finding {
    let mut ends = Vec::new();
    for machine in disks.targets().filter(|machine| ever.contains(machine)) {
        let machine = &machine;
        let name = disks.name(*machine);
        let Some(node) = nodes.get(machine) else {
            return Err(format!("rule 7: {name} is not up"));
        };
        let mode = *node.watched.shared.watch_mode().borrow();
        if matches!(node.watched.role, Role::Master { .. }) && mode != Mode::ReadWrite {
            return Err(format!("rule 7: {name} is still {mode}"));
        }
        let end = disks.0[machine.0].disk.held_end();
        let committed = node.watched.shared.committed();
        if committed != Some(end) {
            return Err(format!(
                "rule 7: {name} holds everything below {end} and shows {committed:?} as committed"
            ));
        }
        let intact = disks.meta(*machine).and_then(|meta| meta.log_epoch);
        ends.push((name.to_owned(), end, intact));
    }
    if let Some(pair) = ends
        .windows(2)
        .find(|pair| pair[0].1 != pair[1].1 || pair[0].2 != pair[1].2)
    {
        return Err(format!("rule 7: {:?} and {:?} differ", pair[0], pair[1]));
    }
    if goals > 0 {
        return Err(format!("rule 7: {goals} goals were not reached"));
    }
    Ok(())
}

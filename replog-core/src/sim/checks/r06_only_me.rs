//! Rule 6: an append that waits delays no other append.

use std::time::Duration;

use super::{Disks, Finding};
use crate::sim::world::MachineId;

/// Maximum time of one append on the master's own disk, with a margin.
const PATIENCE: Duration = Duration::from_secs(5);

/// Checks the time that an append waited, in which its master ran at its usual speed.
pub(super) fn on_waited(
    disks: Disks<'_>,
    machine: MachineId,
    concern: u32,
    waited: Duration,
) -> Finding {
    if concern == 1 && waited > PATIENCE {
        return Err(format!(
            "rule 6: an append of concern 1 waited {waited:?} at {}, which was up all the time",
            disks.name(machine)
        ));
    }
    Ok(())
}

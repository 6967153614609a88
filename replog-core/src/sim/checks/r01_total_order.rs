//! Rule 1: at level `committed` an offset shows the same record on every node, for ever.

use std::ops::Range;

use super::{Disks, Finding};
use crate::{
    sim::{disk::RecordId, world::MachineId},
    types::Offset,
};

/// All records ever shown as committed, by any node.
#[derive(Debug, Default)]
pub(super) struct TotalOrder {
    /// `None`: it rotted before any other node showed it.
    history: Vec<Option<RecordId>>,
}

impl TotalOrder {
    /// Returns true if a record was shown as committed, or may have been: a record that rotted
    /// before any other node showed it is unknown.
    pub(super) fn may_be(&self, offset: Offset, id: RecordId) -> bool {
        let known = self.history.get(offset.0 as usize);
        known.is_some_and(|known| known.is_none_or(|known| known == id))
    }

    /// Observes that a node shows more; calls `first_time` for each record that no node showed
    /// before.
    pub(super) fn on_shown(
        &mut self,
        disks: Disks<'_>,
        machine: MachineId,
        new: Range<Offset>,
        mut first_time: impl FnMut(Offset, RecordId) -> Finding,
    ) -> Finding {
        for offset in (new.start.0..new.end.0).map(Offset) {
            if disks.rotted(machine, offset) {
                if self.history.len() as u64 == offset.0 {
                    self.history.push(None);
                }
                continue;
            }
            let name = disks.name(machine);
            let Some(id) = disks.held(machine, offset) else {
                return Err(format!(
                    "rule 2: {name} shows offset {offset} as committed, and its disk does not hold it"
                ));
            };
            let shown = self.history.len() as u64;
            match self.history.get_mut(offset.0 as usize) {
                Some(Some(known)) if *known == id => {}
                Some(unknown @ None) => {
                    *unknown = Some(id);
                    first_time(offset, id)?;
                }
                Some(known) => {
                    return Err(format!(
                        "rule 1: {name} shows {id:?} at offset {offset}, where {known:?} was shown"
                    ));
                }
                None if shown == offset.0 => {
                    self.history.push(Some(id));
                    first_time(offset, id)?;
                }
                None => {
                    return Err(format!(
                        "rule 1: {name} shows offset {offset} before any node showed {shown}"
                    ));
                }
            }
        }
        Ok(())
    }
}

//! Rules 1 and 2 for followers: what a follower was given is the log as it is, after each cut that was
//! reported to it.

use std::collections::BTreeMap;

use super::{
    Disks, Finding, Node,
    authors::{Authors, messages},
    r01_total_order::TotalOrder,
};
use crate::{
    handle::{Followed, MessageRange},
    sim::{disk::RecordId, world::MachineId},
    types::{Offset, ReadLevel},
};

/// The records that the followers of each node were given, at each level, since it started.
#[derive(Debug, Default)]
pub(super) struct Followers {
    local: BTreeMap<MachineId, Delivered>,
    committed: BTreeMap<MachineId, Delivered>,
}

#[derive(Debug, Default)]
struct Delivered {
    ids: Vec<RecordId>,
    /// Number of them that were compared with what all nodes show as committed.
    compared: usize,
}

impl Followers {
    /// Observes that a node started: the followers of its earlier life are gone.
    pub(super) fn on_started(&mut self, machine: MachineId) {
        self.local.remove(&machine);
        self.committed.remove(&machine);
    }

    /// Observes that a follower of the node on `machine` starts, from the first record on.
    pub(super) fn on_follows(&mut self, machine: MachineId, level: ReadLevel) {
        *self.given(machine, level) = Delivered::default();
    }

    fn given(&mut self, machine: MachineId, level: ReadLevel) -> &mut Delivered {
        let followers = match level {
            ReadLevel::Local => &mut self.local,
            ReadLevel::Committed => &mut self.committed,
        };
        followers.entry(machine).or_default()
    }

    /// Observes what a follower of the node on `machine` is given.
    pub(super) fn on_followed(
        &mut self,
        disks: Disks<'_>,
        machine: MachineId,
        authors: &Authors,
        level: ReadLevel,
        followed: &Followed,
    ) -> Finding {
        let given = self.given(machine, level);
        let name = disks.name(machine);
        match followed {
            Followed::Records(ranges) => given.on_messages(disks, machine, authors, ranges),
            Followed::Cut { offset } if level == ReadLevel::Committed => Err(format!(
                "rule 1: a follower of {name} at `committed` is told of a cut at {offset}"
            )),
            Followed::Cut { offset } if offset.0 >= given.ids.len() as u64 => Err(format!(
                "rule 2: a follower of {name} that was given {} records is told of a cut at {offset}",
                given.ids.len()
            )),
            Followed::Cut { offset } => {
                given.ids.truncate(offset.0 as usize);
                Ok(())
            }
        }
    }

    /// Compares followers with what the node on `machine` shows as committed.
    pub(super) fn on_shown(
        &mut self,
        disks: Disks<'_>,
        machine: MachineId,
        total_order: &TotalOrder,
    ) -> Finding {
        let Some(given) = self.committed.get_mut(&machine) else {
            return Ok(());
        };
        for (nth, id) in given.ids.iter().enumerate().skip(given.compared) {
            let offset = Offset(nth as u64);
            if !total_order.may_be(offset, *id) {
                return Err(format!(
                    "rule 1: a follower of {} at `committed` was given {id:?} at offset {offset}, which no node showed",
                    disks.name(machine)
                ));
            }
        }
        given.compared = given.ids.len();
        Ok(())
    }

    /// Checks, after all faults ended a while ago, that followers have everything.
    pub(super) fn at_the_end(
        &self,
        disks: Disks<'_>,
        nodes: &BTreeMap<MachineId, Node>,
    ) -> Finding {
        let at_local = nodes
            .iter()
            .map(|(machine, node)| (machine, node, node.shown_local, &self.local));
        let at_committed = nodes
            .iter()
            .map(|(machine, node)| (machine, node, node.shown_committed, &self.committed));
        for (machine, node, end, followers) in at_local.chain(at_committed) {
            let Some(given) = followers.get(machine) else {
                continue;
            };
            let shown = &node.ids[..end.0 as usize];
            let same = shown.len() == given.ids.len()
                && shown
                    .iter()
                    .zip(&given.ids)
                    // It showed a record that had rotted since it was written: what that was is
                    // unknown.
                    .all(|(shown, given)| shown.is_none_or(|shown| shown == *given));
            if !same {
                return Err(format!(
                    "rule 2: {} shows a client {} records, and a follower of it has {} that differ",
                    disks.name(*machine),
                    shown.len(),
                    given.ids.len()
                ));
            }
        }
        Ok(())
    }
}

impl Delivered {
    fn on_messages(
        &mut self,
        disks: Disks<'_>,
        machine: MachineId,
        authors: &Authors,
        ranges: &[MessageRange],
    ) -> Finding {
        let name = disks.name(machine);
        // The log may have been cut below what was given, and have grown again.
        if let Some(last) = self.ids.len().checked_sub(1)
            && let Some(held) = disks.held(machine, Offset(last as u64))
            && held != self.ids[last]
        {
            return Err(format!(
                "rule 2: a follower of {name} was given {:?} at offset {last}, and goes on although that is {held:?} now",
                self.ids[last]
            ));
        }
        let messages = ranges.iter().flat_map(|range| {
            let asked = range.first()..range.end();
            let all = messages(range.frames());
            all.filter(move |(message, ..)| asked.contains(&message.offset))
        });
        for (message, crc, _) in messages {
            let (offset, id) = (message.offset, (message.epoch, crc));
            let next = self.ids.len() as u64;
            if offset.0 != next {
                return Err(format!(
                    "rule 2: a follower of {name} is given offset {offset} instead of {next}"
                ));
            }
            if authors.record(offset, id).is_none() {
                return Err(format!(
                    "rule 10: a follower of {name} is given a record at offset {offset} that was not written like this"
                ));
            }
            self.ids.push(id);
        }
        Ok(())
    }
}

//! Rule 9: a node that has promised an epoch refuses everything from an older one; and no master
//! speaks of an epoch that is not safe on its own disk.

use std::collections::BTreeMap;

use super::{Disks, Finding};
use crate::{
    sim::world::MachineId,
    transport::{Answer, Request, RequestBody, Response},
    types::{Epoch, Offset},
};

#[derive(Debug, Default)]
pub(super) struct Fencing {
    /// Sent and not looked at yet: from where, of which epoch, and whether it speaks for an office.
    sent: Vec<(MachineId, Epoch, bool)>,
    /// The newest office of each machine.
    leaders: BTreeMap<MachineId, Epoch>,
    /// The newest promise of each node and how far it had written then, until the log is aligned.
    promised: BTreeMap<MachineId, (Epoch, Offset)>,
    /// The newest epoch for which each node has aligned its log since it started.
    aligned: BTreeMap<MachineId, Epoch>,
}

impl Fencing {
    /// A node that has written everything below `written_end` answers: behind a promise it writes
    /// nothing that is older. It may still have to cut what it does not name any more.
    pub(super) fn on_answer(
        &mut self,
        machine: MachineId,
        epoch: Epoch,
        response: &Response,
        written_end: Offset,
    ) {
        match response.answer {
            Answer::Promised(_) if self.aligned.get(&machine) < Some(&epoch) => {
                self.promised.insert(machine, (epoch, written_end));
            }
            Answer::Aligned(_) => {
                self.promised.remove(&machine);
                self.aligned.insert(machine, epoch);
            }
            _ => {}
        }
    }

    /// Its process is gone.
    pub(super) fn on_ended(&mut self, machine: MachineId) {
        self.promised.remove(&machine);
        self.aligned.remove(&machine);
    }

    /// A node has written everything below `end`.
    pub(super) fn on_written(&self, disks: Disks<'_>, machine: MachineId, end: Offset) -> Finding {
        match self.promised.get(&machine) {
            Some((epoch, written)) if end > *written => Err(format!(
                "rule 9: {} has promised epoch {epoch} with a log up to {written}, and then writes older records up to {end}",
                disks.name(machine)
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn on_request_sent(&mut self, machine: MachineId, request: &Request) {
        let leader = match request.body {
            RequestBody::Identify => return,
            RequestBody::Promise(_) | RequestBody::Fetch(_) => false,
            RequestBody::Hello(_) | RequestBody::Heartbeat(_) | RequestBody::Append(_) => true,
        };
        self.sent.push((machine, request.epoch, leader));
    }

    pub(super) fn check(
        &mut self,
        disks: Disks<'_>,
        mut on_leader: impl FnMut(MachineId, Epoch) -> Finding,
    ) -> Finding {
        for (machine, epoch, leader) in self.sent.drain(..) {
            let name = disks.name(machine);
            let meta = disks.meta(machine);
            let promised = meta
                .as_ref()
                .and_then(|meta| meta.promised.as_ref())
                .map(|promised| promised.epoch);
            if promised < Some(epoch) {
                return Err(format!(
                    "rule 9: {name} speaks of epoch {epoch} before its own promise of it is on disk"
                ));
            }
            if !leader {
                continue;
            }
            if self.leaders.get(&machine) != Some(&epoch) {
                let log_epoch = meta.and_then(|meta| meta.log_epoch);
                // Who finds damage behind that goes on.
                let is_damaged = log_epoch.is_none() && disks.had_log_epoch(machine) == Some(epoch);
                if log_epoch != Some(epoch) && !is_damaged {
                    return Err(format!(
                        "rule 9: {name} speaks for epoch {epoch} and its log epoch is {log_epoch:?}"
                    ));
                }
                self.leaders.insert(machine, epoch);
                on_leader(machine, epoch)?;
            }
        }
        Ok(())
    }
}

/// A node did what it was asked.
pub(super) fn on_answered(
    disks: Disks<'_>,
    machine: MachineId,
    request: &Request,
    response: &Response,
) -> Finding {
    match response.answer {
        Answer::Refused(_) | Answer::Identity(_) => return Ok(()),
        Answer::Promised(_)
        | Answer::Aligned(_)
        | Answer::OlderStartsNeeded { .. }
        | Answer::Taken
        | Answer::Records(_) => {}
    }
    let promised = disks.meta(machine).and_then(|meta| meta.promised.as_ref());
    let (name, epoch) = (disks.name(machine), request.epoch);
    match promised {
        Some(promised) if promised.epoch > epoch => Err(format!(
            "rule 9: {name} has promised epoch {} and serves a request of epoch {epoch}",
            promised.epoch
        )),
        Some(promised) if promised.epoch == epoch => Ok(()),
        _ => Err(format!(
            "rule 9: {name} answers a request of epoch {epoch} before its promise of it is on disk"
        )),
    }
}

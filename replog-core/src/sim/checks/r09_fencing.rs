//! Rule 9: a node that has promised an epoch refuses everything from an older one; and no master
//! uses an epoch that is not durable on its own disk.

use std::collections::BTreeMap;

use super::{Disks, Finding};
use crate::{
    sim::world::MachineId,
    transport::{Answer, Request, RequestBody, Response},
    types::{Epoch, Offset},
};

#[derive(Debug, Default)]
pub(super) struct Fencing {
    /// Requests sent and not checked yet: the sender, the epoch, and whether it is sent as leader
    /// of that epoch.
    sent: Vec<(MachineId, Epoch, bool)>,
    /// The newest epoch that each machine has led.
    leaders: BTreeMap<MachineId, Epoch>,
    /// The newest promise of each node and the end that it had written then, until its log is
    /// aligned.
    promised: BTreeMap<MachineId, (Epoch, Offset)>,
    /// The newest epoch for which each node has aligned its log since it started.
    aligned: BTreeMap<MachineId, Epoch>,
}

impl Fencing {
    /// Observes an answer of a node that has written everything below `written_end`: after a
    /// promise it writes nothing older. It may still have to cut records that it does not
    /// name any more.
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

    /// Observes that its process is gone.
    pub(super) fn on_ended(&mut self, machine: MachineId) {
        self.promised.remove(&machine);
        self.aligned.remove(&machine);
    }

    /// Checks a node that has written everything below `end`.
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
                    "rule 9: {name} uses epoch {epoch} before its own promise of it is on disk"
                ));
            }
            if !leader {
                continue;
            }
            if self.leaders.get(&machine) != Some(&epoch) {
                let log_epoch = meta.and_then(|meta| meta.log_epoch);
                // A leader that finds damage afterwards goes on.
                let is_damaged = log_epoch.is_none() && disks.had_log_epoch(machine) == Some(epoch);
                if log_epoch != Some(epoch) && !is_damaged {
                    return Err(format!(
                        "rule 9: {name} is leader of epoch {epoch} and its log epoch is {log_epoch:?}"
                    ));
                }
                self.leaders.insert(machine, epoch);
                on_leader(machine, epoch)?;
            }
        }
        Ok(())
    }
}

/// Checks a node that did what it was asked.
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

//! Rule 10: a damaged record is never served, shipped or copied; no node holds a record that was
//! not written.

use bytes::Bytes;

use super::{
    Disks, Finding,
    authors::{Authors, messages},
};
use crate::{
    frame::FrameBatch,
    sim::world::MachineId,
    transport::{Answer, Response},
    types::Offset,
};

/// Checks records that a node takes over from another: each must be as its author made it.
pub(super) fn on_taken(
    disks: Disks<'_>,
    machine: MachineId,
    authors: &Authors,
    batch: &FrameBatch,
) -> Finding {
    for (message, crc, _) in messages(batch) {
        let (offset, epoch) = (message.offset, message.epoch);
        if authors.record(offset, (epoch, crc)).is_none() {
            return Err(format!(
                "rule 10: {} takes a record at offset {offset} of epoch {epoch} that was not written like this",
                disks.name(machine)
            ));
        }
    }
    Ok(())
}

/// Checks messages that a node shows: each must be as its author made it, and as the disk holds it.
pub(super) fn on_read(
    disks: Disks<'_>,
    machine: MachineId,
    authors: &Authors,
    shown: &[(Offset, Bytes)],
) -> Finding {
    let name = disks.name(machine);
    for (offset, payload) in shown {
        let record = disks
            .held(machine, *offset)
            .and_then(|id| authors.record(*offset, id));
        let good = record.is_some_and(|record| record.payload == payload);
        if !good && !disks.rotted(machine, *offset) {
            return Err(format!(
                "rule 10: {name} shows a client something at offset {offset} that its disk does not hold"
            ));
        }
    }
    let gap = shown.windows(2).find(|pair| pair[0].0.plus(1) != pair[1].0);
    match gap {
        Some(pair) => Err(format!(
            "rule 2: {name} shows offset {} after {}",
            pair[1].0, pair[0].0
        )),
        None => Ok(()),
    }
}

/// Checks a node's statement of how far it holds the log: its disk must agree.
pub(super) fn on_answered(disks: Disks<'_>, machine: MachineId, response: &Response) -> Finding {
    if matches!(response.answer, Answer::Refused(_)) {
        return Ok(());
    }
    let end = response.state.durable_end;
    let last = end.0.checked_sub(1).map(Offset);
    let disk = &disks.0[machine.0].disk;
    if let Some(last) = last
        && disk.held(last).is_none()
        && !disk.rotted(last)
    {
        return Err(format!(
            "rule 10: {} says that it holds everything below {end}, and its disk does not",
            disks.name(machine)
        ));
    }
    Ok(())
}

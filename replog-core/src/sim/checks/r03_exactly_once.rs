//! Rule 3: a record is in a node's log at most once, however often it was sent, and a request with
//! a key is appended at most once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    Disks, Finding,
    authors::{Authored, Authors},
};
use crate::{sim::world::MachineId, types::Offset, views::Receipt};

/// Checks the position that a caller is told: its message must be there, and not another one.
pub(super) fn on_receipt(
    disks: Disks<'_>,
    machine: MachineId,
    authors: &Authors,
    receipt: &Receipt,
    payload: &Bytes,
) -> Finding {
    let held = disks.held(machine, receipt.offset);
    let record = held.and_then(|id| authors.record(receipt.offset, id));
    match record {
        Some(record) if record.payload != payload => Err(format!(
            "rule 3: {} tells a caller that its message is at offset {}, where another one is",
            disks.name(machine),
            receipt.offset
        )),
        _ => Ok(()),
    }
}

#[derive(Debug, Default)]
pub(super) struct ExactlyOnce {
    keys: BTreeMap<Bytes, Offset>,
    /// Payloads that clients declared unique, and the offset at which each was committed.
    sent: BTreeMap<Bytes, Option<Offset>>,
    /// Payloads that were refused for good.
    refused: BTreeSet<Bytes>,
}

impl ExactlyOnce {
    pub(super) fn on_sent(&mut self, payload: &[u8]) {
        self.sent
            .entry(Bytes::copy_from_slice(payload))
            .or_default();
    }

    pub(super) fn on_refused(&mut self, payload: &[u8]) {
        self.refused.insert(Bytes::copy_from_slice(payload));
    }

    /// Observes a record that is shown as committed for the first time.
    pub(super) fn on_committed(&mut self, offset: Offset, record: Option<&Authored>) -> Finding {
        let Some(record) = record else {
            return Err(format!(
                "rule 10: the record at offset {offset} is committed, and was never written"
            ));
        };
        if let Some(key) = &record.key
            && let Some(before) = self.keys.insert(key.clone(), offset)
        {
            return Err(format!(
                "rule 3: the key {key:?} was appended at offset {before} and again at {offset}"
            ));
        }
        if let Some(place) = self.sent.get_mut(&record.payload)
            && let Some(before) = place.replace(offset)
        {
            return Err(format!(
                "rule 3: the message at offset {before} is there again at {offset}"
            ));
        }
        Ok(())
    }

    /// Checks that no log holds a message that no client sent, if clients declared what they send.
    pub(super) fn at_the_end(&self, disks: Disks<'_>, authors: &Authors) -> Finding {
        if self.sent.is_empty() {
            return Ok(());
        }
        for machine in disks.targets() {
            let end = disks.0[machine.0].disk.held_end();
            let mut seen = BTreeSet::new();
            for offset in (0..end.0).map(Offset) {
                if disks.rotted(machine, offset) {
                    continue;
                }
                let id = disks.held(machine, offset);
                let record = id.and_then(|id| authors.record(offset, id));
                let known = record.is_some_and(|record| self.sent.contains_key(&record.payload));
                if !known {
                    return Err(format!(
                        "rule 10: {} holds a record at offset {offset} that no client sent",
                        disks.name(machine)
                    ));
                }
                if record.is_some_and(|record| self.refused.contains(&record.payload)) {
                    return Err(format!(
                        "rule 3: {} holds the message of offset {offset}, which was refused",
                        disks.name(machine)
                    ));
                }
                if let Some(record) = record
                    && !seen.insert(record.payload.clone())
                {
                    return Err(format!(
                        "rule 3: {} holds the message of offset {offset} twice",
                        disks.name(machine)
                    ));
                }
            }
        }
        Ok(())
    }
}

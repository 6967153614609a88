//! Authorship: every record as its author gave it to its writer.
//!
//! Also checks that an offset is assigned at most once within an epoch, ever.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;

use super::{Disks, Finding};
use crate::{
    frame::{FrameBatch, MessageRef},
    sim::{disk::RecordId, world::MachineId},
    types::{Epoch, Offset},
};

/// A record as it was made.
#[derive(Clone, Debug)]
pub(super) struct Authored {
    pub(super) crc: u32,
    pub(super) key: Option<Bytes>,
    pub(super) payload: Bytes,
    /// From the first record of its append to the end of its last.
    pub(super) append: Range<Offset>,
}

#[derive(Debug, Default)]
pub(super) struct Authors {
    records: BTreeMap<(Offset, Epoch), Authored>,
}

impl Authors {
    /// Returns true if the first record of this batch is known: then it is a copy.
    pub(super) fn knows(&self, batch: &FrameBatch) -> bool {
        let first = (batch.first(), batch.first_epoch());
        self.records.contains_key(&first)
    }

    pub(super) fn on_authored(
        &mut self,
        disks: Disks<'_>,
        machine: MachineId,
        batch: &FrameBatch,
    ) -> Finding {
        for (message, crc, append) in messages(batch) {
            let place = (message.offset, message.epoch);
            let authored = Authored {
                crc,
                key: (!message.key.is_empty()).then(|| batch.bytes().slice_ref(message.key)),
                payload: batch.bytes().slice_ref(message.payload),
                append,
            };
            if let Some(before) = self.records.insert(place, authored)
                && before.crc != crc
            {
                return Err(format!(
                    "rule 1: {} assigns offset {} of epoch {} a second time",
                    disks.name(machine),
                    message.offset,
                    message.epoch
                ));
            }
        }
        Ok(())
    }

    /// Returns the record at `offset` with identity `id`, as it was made.
    pub(super) fn record(&self, offset: Offset, id: RecordId) -> Option<&Authored> {
        self.records
            .get(&(offset, id.0))
            .filter(|authored| authored.crc == id.1)
    }
}

/// Returns the messages of a batch, each with the checksum of its frame and the offsets of its append.
pub(super) fn messages(
    batch: &FrameBatch,
) -> impl Iterator<Item = (MessageRef<'_>, u32, Range<Offset>)> {
    let mut position = 0;
    batch.frames().flat_map(move |frame| {
        let bytes = &batch.bytes()[position..];
        position += frame.encoded_bytes();
        let crc = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let append = frame.first..frame.end();
        let messages = frame.messages();
        messages.map(move |message| (message, crc, append.clone()))
    })
}

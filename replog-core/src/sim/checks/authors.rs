//! Authorship: every record as its author gave it to its writer.
//!
//! Also checks that an offset is assigned at most once within an epoch, ever.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;

use super::{Disks, Finding};
use crate::{
    record::RecordBatch,
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
    pub(super) fn knows(&self, batch: &RecordBatch) -> bool {
        let first = (batch.first(), batch.first_epoch());
        self.records.contains_key(&first)
    }

    pub(super) fn on_authored(
        &mut self,
        disks: Disks<'_>,
        machine: MachineId,
        batch: &RecordBatch,
    ) -> Finding {
        let appends = appends(batch);
        for ((record, crc), append) in records(batch).zip(appends) {
            let place = (record.offset, record.epoch);
            let authored = Authored {
                crc,
                key: (!record.key.is_empty()).then(|| batch.bytes().slice_ref(record.key)),
                payload: batch.bytes().slice_ref(record.payload),
                append,
            };
            if let Some(before) = self.records.insert(place, authored)
                && before.crc != crc
            {
                return Err(format!(
                    "rule 1: {} assigns offset {} of epoch {} a second time",
                    disks.name(machine),
                    record.offset,
                    record.epoch
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

/// Returns, for each record of a batch, the records of its append. A master hands out only whole
/// appends at once, as long as they are shorter than one batch of a link.
fn appends(batch: &RecordBatch) -> Vec<Range<Offset>> {
    let mut appends = Vec::new();
    let mut first = batch.first();
    for record in batch.records() {
        if !record.append_goes_on() {
            let append = first..record.offset.plus(1);
            appends.resize(
                append.end.records_since(batch.first()) as usize,
                append.clone(),
            );
            first = append.end;
        }
    }
    appends
}

/// Returns the records of a batch with their checksums.
pub(super) fn records(
    batch: &RecordBatch,
) -> impl Iterator<Item = (crate::record::Record<'_>, u32)> {
    let mut position = 0;
    batch.records().map(move |record| {
        let bytes = &batch.bytes()[position..];
        position += record.encoded_bytes();
        let crc = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        (record, crc)
    })
}

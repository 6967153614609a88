//! How a table of keys is made from a log: which records to read next, and what to do when they
//! cannot be read.
//!
//! Owns how far the reading got. Never reads itself: it says which records it wants and is given
//! them. Keeps rules 3 and 10: a record that cannot be read makes the table say so about every
//! key that it does not know, until the record is beyond the horizon. So a keyed append may be
//! refused for a damaged record, and is never appended twice because of one.

use super::{Keys, Snapshot};
use crate::{record::RecordBatch, types::Offset};

/// A table that is being made.
#[derive(Debug)]
pub(crate) struct KeyReading {
    keys: Keys,
    until: Offset,
    /// How many records are passed over when the next ones cannot be read. Grows while that goes
    /// on: damage to a record's length hides where those behind it begin.
    stride: u64,
}

impl KeyReading {
    /// Of the last `horizon` records of a log that ends at `until`. With a snapshot that agrees
    /// with that log, only what is not in it is read.
    pub(crate) fn new(horizon: u64, until: Offset, snapshot: Option<Snapshot>) -> KeyReading {
        let first = Offset(until.0.saturating_sub(horizon));
        let keys = match snapshot.map(Snapshot::into_keys) {
            Some(mut keys) if keys.end >= first => {
                assert!(keys.end <= until, "a snapshot from beyond the log's end");
                keys.narrow(horizon);
                keys
            }
            _ => Keys::new(horizon, first),
        };
        KeyReading {
            keys,
            until,
            stride: 1,
        }
    }

    /// The records to read next, from the first to the end of the last; `None`: all were read.
    pub(crate) fn wanted(&self) -> Option<(Offset, Offset)> {
        (self.keys.end < self.until).then_some((self.keys.end, self.until))
    }

    /// The first of the wanted records, at least one.
    pub(crate) fn on_read(&mut self, records: &[RecordBatch]) {
        assert!(!records.is_empty(), "nothing was read");
        for batch in records {
            self.keys.push_records(batch);
        }
        assert!(self.keys.end <= self.until, "more was read than wanted");
        self.stride = 1;
    }

    /// The first of the wanted records cannot be read. Returns how many are passed over.
    pub(crate) fn on_failed(&mut self) -> u64 {
        let before = self.keys.end;
        let end = Offset(before.0.saturating_add(self.stride)).min(self.until);
        self.keys.skip(end);
        self.stride = self.stride.saturating_mul(2);
        end.records_since(before)
    }

    /// The table, once all was read.
    pub(crate) fn finish(self) -> Keys {
        assert_eq!(self.keys.end, self.until, "there is more to read");
        assert!(self.keys.open.is_none(), "the log ends inside an append");
        self.keys
    }
}

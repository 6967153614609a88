//! Building of a table of keys from a log: the records to read next, and the handling of unreadable
//! ones.
//!
//! Owns the progress of the reading. Never reads itself: it says which records it wants and is
//! given them. Keeps rules 3 and 10: after a record that cannot be read, the table reports every
//! unknown key as uncertain until that record is beyond the horizon. So a keyed append may be
//! refused because of a damaged record, and is never appended twice because of one.

use super::{Keys, Snapshot};
use crate::{frame::FrameBatch, types::Offset};

/// A table that is being built.
#[derive(Debug)]
pub(crate) struct KeyReading {
    keys: Keys,
    until: Offset,
    /// Number of records to skip when the next ones cannot be read. Grows while that continues:
    /// damage to a frame's length hides where the following ones begin.
    stride: u64,
}

impl KeyReading {
    /// Creates the reading of the last `horizon` records of a log that ends at `until`. With a
    /// snapshot that agrees with that log, only the records after the snapshot are read.
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

    /// Returns the records to read next, from the first to the end of the last; `None` once all
    /// were read.
    pub(crate) fn wanted(&self) -> Option<(Offset, Offset)> {
        (self.keys.end < self.until).then_some((self.keys.end, self.until))
    }

    /// Accepts the first of the wanted records, at least one.
    pub(crate) fn on_read(&mut self, records: &[FrameBatch]) {
        assert!(!records.is_empty(), "nothing was read");
        for batch in records {
            self.keys.push_frames(batch);
        }
        assert!(self.keys.end <= self.until, "more was read than wanted");
        self.stride = 1;
    }

    /// Skips the first of the wanted records, which cannot be read. Returns the number of records
    /// skipped.
    pub(crate) fn on_failed(&mut self) -> u64 {
        let before = self.keys.end;
        let end = Offset(before.0.saturating_add(self.stride)).min(self.until);
        self.keys.skip(end);
        self.stride = self.stride.saturating_mul(2);
        end.records_since(before)
    }

    /// Returns the table, once everything was read.
    pub(crate) fn finish(self) -> Keys {
        assert_eq!(self.keys.end, self.until, "there is more to read");
        self.keys
    }
}

//! The known idempotency keys and their records.
//!
//! Owns the table from keys to records. A key is known while its record is among the last `horizon`
//! ones of the log: a number and not an age, so that every node builds the same table from the same
//! log. Entries are added in the order of offsets and removed only with their record. Never reads a
//! log and never refuses an append: `Leader` does the latter. Keeps rules 3 and 11.
//!
//! ```text
//!   entries   │ 17 a │ 18 b │ 21 c │ 40 a' │     in the order of offsets: the oldest go first
//!   newest    a ─▶ #3   b ─▶ #1   c ─▶ #2      by key: the number of its newest entry
//! ```
//!
//! Neither keys nor payloads are kept, only digests of them, so that an entry is small and of one
//! size: 64 bytes, and about 40 in the index. Keys are distinguished by 128 bits of their SHA-256. A
//! payload's full SHA-256 replaces a byte-for-byte comparison with the previous payload: no two payloads
//! with the same one are known, and a client that finds two fools only itself. The index is a B-tree
//! rather than a hash table: it never moves as a whole, which would hold up every append for that
//! long, and no client can choose keys that make it slow.

mod digest;
mod reading;
mod snapshot;

use std::collections::{BTreeMap, VecDeque};

use digest::{KeyDigest, PayloadDigest};
pub(crate) use reading::KeyReading;
pub(crate) use snapshot::Snapshot;

use crate::{
    frame::{Frame, FrameBatch, MessageBatch},
    types::{Epoch, IdempotencyKey, Offset},
};

/// An append's key with its payload. Created on the caller's thread: digesting a long payload takes
/// milliseconds, which no other append should wait for.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    key: IdempotencyKey,
    digest: KeyDigest,
    payload: PayloadDigest,
}

impl Claim {
    pub(crate) fn new(key: IdempotencyKey, payload: &[u8]) -> Claim {
        Claim {
            digest: KeyDigest::of(key.as_str().as_bytes()),
            payload: PayloadDigest::of(payload),
            key,
        }
    }

    /// Creates the claim of messages that are appended together: the key covers all of them.
    pub(crate) fn of_batch(key: IdempotencyKey, batch: &MessageBatch) -> Claim {
        Claim {
            digest: KeyDigest::of(key.as_str().as_bytes()),
            payload: PayloadDigest::of_all(batch.payloads()),
            key,
        }
    }

    /// Returns the key as it is written in a record.
    pub(crate) fn key_bytes(&self) -> &[u8] {
        self.key.as_str().as_bytes()
    }
}

/// An append with a key, by its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    key: KeyDigest,
    payload: PayloadDigest,
    offset: Offset,
    epoch: Epoch,
}

/// Result of looking a key up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No record within the horizon has it.
    New,
    /// This record has it, and the same payload.
    Same { offset: Offset, epoch: Epoch },
    /// This record has it, with another payload.
    Other { offset: Offset },
    /// No readable record has it; some records from this offset on could not be read.
    Unreadable { from: Offset },
}

/// The keys of the last records of a log.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    horizon: u64,
    /// The end of the log whose keys are known.
    end: Offset,
    /// The epoch of the record before the end; `None` where it is not known.
    last_epoch: Option<Epoch>,
    /// Entries in ascending order of offsets.
    entries: VecDeque<Entry>,
    /// Number of removed entries, which is the number of the oldest remaining one.
    gone: u64,
    /// Number of the newest entry of each key. With a horizon that was raised, a key may be in the log
    /// twice: the older record was forgotten before the newer one was appended.
    newest: BTreeMap<KeyDigest, u64>,
    /// Records that could not be read, from the first to the end of the last.
    unread: Option<(Offset, Offset)>,
}

impl Keys {
    /// Creates an empty table that follows a log from `end` on.
    pub(crate) fn new(horizon: u64, end: Offset) -> Keys {
        assert!(horizon > 0, "a horizon of 0 records");
        Keys {
            horizon,
            end,
            last_epoch: None,
            entries: VecDeque::new(),
            gone: 0,
            newest: BTreeMap::new(),
            unread: None,
        }
    }

    /// Returns the number of the log's last records whose keys are known.
    pub(crate) fn horizon(&self) -> u64 {
        self.horizon
    }

    /// Returns the number of known keys.
    pub(crate) fn count(&self) -> usize {
        self.newest.len()
    }

    /// Returns the end of the log whose keys are known.
    pub(crate) fn end(&self) -> Offset {
        self.end
    }

    /// Returns the record that has the key of this append, if any.
    pub(crate) fn find(&self, claim: &Claim) -> Found {
        match (self.newest.get(&claim.digest), self.unread) {
            (Some(number), _) => {
                let entry = self.entry(*number);
                let Entry { offset, epoch, .. } = *entry;
                if entry.payload == claim.payload {
                    Found::Same { offset, epoch }
                } else {
                    Found::Other { offset }
                }
            }
            (None, Some((from, _))) => Found::Unreadable { from },
            (None, None) => Found::New,
        }
    }

    /// Extends the log by a record, with the key of an append or without one.
    pub(crate) fn push(&mut self, epoch: Epoch, claim: Option<&Claim>) {
        self.push_append(epoch, claim, 1);
    }

    /// Extends the log by an append of this number of records, the first of them with the key.
    pub(crate) fn push_append(&mut self, epoch: Epoch, claim: Option<&Claim>, records: u64) {
        if let Some(claim) = claim {
            self.enter(Entry {
                key: claim.digest,
                payload: claim.payload,
                offset: self.end,
                epoch,
            });
        }
        self.advance(self.end.plus(records), Some(epoch));
    }

    /// Extends the log by these frames, which were read from it. The first may begin before the end of what is
    /// known, which may lie inside a frame: at the horizon, or after records that could not be read.
    pub(crate) fn push_frames(&mut self, batch: &FrameBatch) {
        let follows = batch.first() <= self.end && self.end < batch.end();
        assert!(follows, "{batch:?} do not follow {}", self.end);
        for frame in batch.frames() {
            self.read(&frame);
            self.advance(frame.end(), Some(frame.epoch));
        }
    }

    fn read(&mut self, frame: &Frame<'_>) {
        let known = self.entries.back();
        let is_known = known.is_some_and(|entry| entry.offset >= frame.first);
        if frame.key.is_empty() || is_known {
            return;
        }
        self.enter(Entry {
            key: KeyDigest::of(frame.key),
            payload: PayloadDigest::of_all(frame.payloads()),
            offset: frame.first,
            epoch: frame.epoch,
        });
    }

    /// Extends the log up to `end` by records that cannot be read: any key that is not known may be
    /// one of theirs.
    fn skip(&mut self, end: Offset) {
        let from = self.unread.map_or(self.end, |(from, _)| from);
        self.unread = Some((from, end));
        self.advance(end, None);
    }

    /// Returns `true` if some of the last records could not be read.
    pub(crate) fn has_unread(&self) -> bool {
        self.unread.is_some()
    }

    /// Takes over what `newer` has learned of the log since this table was read from it.
    pub(crate) fn catch_up(&mut self, newer: &Keys) {
        assert!(self.end <= newer.end, "keys from beyond the log's end");
        let first = newer
            .entries
            .partition_point(|entry| entry.offset < self.end);
        newer
            .entries
            .range(first..)
            .for_each(|entry| self.enter(*entry));
        self.advance(newer.end, newer.last_epoch);
    }

    /// Reduces the horizon to this number of records.
    fn narrow(&mut self, horizon: u64) {
        assert!(
            (1..=self.horizon).contains(&horizon),
            "records before the horizon of {} are not known",
            self.horizon
        );
        self.horizon = horizon;
        self.advance(self.end, self.last_epoch);
    }

    fn entry(&self, number: u64) -> &Entry {
        let at = usize::try_from(number - self.gone).expect("bounded by the horizon");
        &self.entries[at]
    }

    fn enter(&mut self, entry: Entry) {
        let number = self.gone + self.entries.len() as u64;
        self.entries.push_back(entry);
        self.newest.insert(entry.key, number);
    }

    fn advance(&mut self, end: Offset, last_epoch: Option<Epoch>) {
        (self.end, self.last_epoch) = (end, last_epoch);
        let first = Offset(end.0.saturating_sub(self.horizon));
        self.unread = self.unread.filter(|(_, unread_end)| first < *unread_end);
        while let Some(oldest) = self.entries.pop_front_if(|entry| entry.offset < first) {
            if self.newest.get(&oldest.key) == Some(&self.gone) {
                self.newest.remove(&oldest.key);
            }
            self.gone += 1;
        }
    }

    /// Asserts the invariants.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let first = Offset(self.end.0.saturating_sub(self.horizon));
        let offsets: Vec<Offset> = self.entries.iter().map(|entry| entry.offset).collect();
        assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
        assert!(offsets.iter().all(|at| (first..self.end).contains(at)));
        assert!(self.newest.len() <= self.entries.len());
        for (number, entry) in (self.gone..).zip(&self.entries) {
            let newest = self.newest[&entry.key];
            assert!(newest >= number && self.entry(newest).key == entry.key);
        }
        for (key, number) in &self.newest {
            assert_eq!(self.entry(*number).key, *key);
        }
    }
}

#[cfg(test)]
mod tests;

//! Reordering on a secondary: sorts records into new ones, duplicates, and those that must wait for a
//! gap.
//!
//! Owns the held-back batches and their limits. Knows nothing of the authority of epochs (`fence.rs`
//! has checked it before) or of disks: batches that pass go to the log writer in order, with epochs
//! that never decrease. Keeps rules 1, 2, 3 and 11.

use std::collections::BTreeMap;

use crate::{
    frame::FrameBatch,
    limits::{REORDER_BYTES_MAX, REORDER_RECORDS_MAX},
    types::{Epoch, Offset},
};

/// The reorder buffer of one secondary.
#[derive(Debug, Default)]
pub(crate) struct Reorder {
    /// The offset after the last record that passed.
    end: Offset,
    /// The epoch of that record, if it passed since the last reset.
    last_epoch: Option<Epoch>,
    /// Batches behind a gap, by their first offset; they may overlap.
    held: BTreeMap<Offset, FrameBatch>,
    held_bytes: usize,
}

/// Result of offering a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// The batch continues the log, along with the batches that waited behind it: to be written now.
    Continues(Vec<FrameBatch>),
    /// All of its records have already passed.
    Duplicate,
    /// It lies behind a gap and is held back.
    Held,
    /// It lies behind a gap, and is too far ahead or too large to be held back.
    BeyondWindow,
}

impl Reorder {
    pub(crate) fn new(end: Offset) -> Reorder {
        Reorder {
            end,
            ..Reorder::default()
        }
    }

    /// Returns the offset after the last record that passed.
    pub(crate) fn end(&self) -> Offset {
        self.end
    }

    /// Returns the epoch of the last record that passed; `None` if that was before the last reset and
    /// only the log knows.
    pub(crate) fn last_epoch(&self) -> Option<Epoch> {
        self.last_epoch
    }

    /// Returns `true` if the batch and the held-back ones can be of one log: the same epoch wherever
    /// both have a record, appends that both have as a whole or not at all, and epochs that never
    /// decrease. The caller has to compare with the records that passed.
    pub(crate) fn agrees(&self, batch: &FrameBatch) -> bool {
        // All before it, since a long one may overlap it from behind a short one.
        let before = self.held.range(..batch.end());
        let behind = self.held.range(batch.end()..).next();
        before
            .chain(behind)
            .map(|(_, held)| held)
            .all(|held| agree(held, batch))
    }

    /// Returns the number of records held back.
    pub(crate) fn held_records(&self) -> u64 {
        let mut counted_to = self.end;
        let mut records = 0;
        for batch in self.held.values() {
            let from = batch.first().max(counted_to);
            records += batch.end().records_since(from);
            counted_to = counted_to.max(batch.end());
        }
        records
    }

    /// Returns the number of bytes held back.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Discards the held-back batches: a promise was given, or the log was cut to `end`.
    pub(crate) fn reset(&mut self, end: Offset) {
        let last_epoch = self.last_epoch.filter(|_| end == self.end);
        *self = Reorder {
            last_epoch,
            ..Reorder::new(end)
        };
    }

    /// Offers a batch that arrived.
    pub(crate) fn offer(&mut self, batch: FrameBatch) -> Offered {
        if batch.end() <= self.end {
            return Offered::Duplicate;
        }
        if batch.first() > self.end {
            return self.hold(batch);
        }
        let mut released = Vec::new();
        self.release(batch, &mut released);
        self.release_held(&mut released);
        Offered::Continues(released)
    }

    /// Moves the end to `end`, because the log already holds everything below it without it having
    /// been offered. Returns the batches that waited for that.
    pub(crate) fn skip_to(&mut self, end: Offset) -> Vec<FrameBatch> {
        let mut released = Vec::new();
        if end > self.end {
            (self.end, self.last_epoch) = (end, None);
            self.release_held(&mut released);
        }
        released
    }

    fn release_held(&mut self, released: &mut Vec<FrameBatch>) {
        while let Some((&first, _)) = self.held.first_key_value() {
            if first > self.end {
                break;
            }
            let batch = self
                .held
                .remove(&first)
                .expect("the first key was just seen");
            self.held_bytes -= batch.bytes().len();
            self.release(batch, released);
        }
    }

    fn release(&mut self, batch: FrameBatch, released: &mut Vec<FrameBatch>) {
        let fresh = batch.slice(self.end, batch.end());
        // Batches that overlap agree about where appends end: they were compared when they came.
        if let Some(fresh) = fresh.filter(|fresh| fresh.first() == self.end) {
            (self.end, self.last_epoch) = (fresh.end(), Some(fresh.last_epoch()));
            released.push(fresh);
        }
    }

    fn hold(&mut self, batch: FrameBatch) -> Offered {
        let known = self.held.get(&batch.first());
        if known.is_some_and(|known| known.end() >= batch.end()) {
            return Offered::Held;
        }
        let bytes = batch.bytes().len();
        let freed = known.map_or(0, |known| known.bytes().len());
        if self.held_bytes - freed + bytes > REORDER_BYTES_MAX
            || batch.end().records_since(self.end) > REORDER_RECORDS_MAX
        {
            return Offered::BeyondWindow;
        }
        self.held_bytes = self.held_bytes - freed + bytes;
        self.held.insert(batch.first(), batch);
        Offered::Held
    }

    /// Asserts the invariants.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let bytes: usize = self.held.values().map(|batch| batch.bytes().len()).sum();
        assert_eq!(bytes, self.held_bytes);
        assert!(bytes <= REORDER_BYTES_MAX);
        for (first, batch) in &self.held {
            assert_eq!(*first, batch.first());
            assert!(
                *first > self.end,
                "{batch:?} is held and would continue {}",
                self.end
            );
        }
    }
}

/// Returns `true` if two batches can be of one log.
fn agree(one: &FrameBatch, other: &FrameBatch) -> bool {
    let (first, second) = match one.first() <= other.first() {
        true => (one, other),
        false => (other, one),
    };
    let both = (second.first(), first.end().min(second.end()));
    if first.splits(both.0) || first.splits(both.1) || second.splits(both.1) {
        return false;
    }
    match (first.slice(both.0, both.1), second.slice(both.0, both.1)) {
        // Epochs do not decrease within a batch: two batches with the same epochs at both ends have
        // the same ones in between, as far as anything here rests on it.
        (Some(a), Some(b)) => {
            (a.first_epoch(), a.last_epoch()) == (b.first_epoch(), b.last_epoch())
        }
        _ => first.last_epoch() <= second.first_epoch(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(range: std::ops::Range<u64>) -> FrameBatch {
        crate::frame::testing::batch(range, 1)
    }

    fn offsets(offered: &Offered) -> Vec<u64> {
        match offered {
            Offered::Continues(batches) => batches
                .iter()
                .flat_map(|batch| batch.messages().map(|m| m.offset.0).collect::<Vec<_>>())
                .collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn records_behind_a_gap_wait_until_it_is_filled() {
        let mut reorder = Reorder::new(Offset(0));
        assert_eq!(offsets(&reorder.offer(batch(0..2))), [0, 1]);
        assert_eq!(reorder.offer(batch(3..4)), Offered::Held);
        assert_eq!((reorder.end(), reorder.held_records()), (Offset(2), 1));
        assert_eq!(offsets(&reorder.offer(batch(2..3))), [2, 3]);
        assert_eq!((reorder.end(), reorder.held_records()), (Offset(4), 0));
    }

    #[test]
    fn a_full_or_partial_duplicate_is_recognised() {
        let mut reorder = Reorder::new(Offset(5));
        assert_eq!(reorder.offer(batch(0..5)), Offered::Duplicate);
        assert_eq!(offsets(&reorder.offer(batch(3..7))), [5, 6]);
        assert_eq!(reorder.offer(batch(6..7)), Offered::Duplicate);
    }

    #[test]
    fn a_batch_too_far_ahead_is_refused_and_none_of_it_is_kept() {
        let mut reorder = Reorder::new(Offset(0));
        let far = REORDER_RECORDS_MAX + 1;
        assert_eq!(reorder.offer(batch(far..far + 1)), Offered::BeyondWindow);
        assert_eq!(reorder.held_records(), 0);
    }

    #[test]
    fn a_batch_must_agree_with_those_held_back() {
        let of = |range, epoch| crate::frame::testing::batch(range, epoch);
        let mut reorder = Reorder::new(Offset(0));
        assert_eq!(reorder.offer(of(4..8, 3)), Offered::Held);
        assert_eq!(reorder.offer(of(12..14, 5)), Offered::Held);
        // Columns: a batch, and whether it can be of the same log.
        let table = [
            (of(0..4, 3), true),
            (of(0..4, 4), false),
            (of(0..5, 3), true),
            (of(0..5, 2), false),
            (of(4..6, 3), true),
            (of(4..6, 4), false),
            (of(8..12, 5), true),
            (of(8..12, 6), false),
            (of(9..10, 2), false),
            (of(14..15, 4), false),
            (of(20..21, 5), true),
            (of(0..20, 3), false),
        ];
        for (batch, expected) in table {
            let epoch = batch.last_epoch();
            assert_eq!(
                reorder.agrees(&batch),
                expected,
                "{batch:?} of epoch {epoch}"
            );
        }
        reorder.offer(of(0..4, 3));
        assert_eq!(reorder.last_epoch(), Some(Epoch(3)));
        reorder.reset(Offset(8));
        assert_eq!(reorder.last_epoch(), Some(Epoch(3)), "the same end");
        reorder.reset(Offset(6));
        assert_eq!(reorder.last_epoch(), None);
    }

    /// Three batches of another node that cannot be of one log are found where they enter.
    #[test]
    fn a_batch_that_splits_an_append_of_one_that_waits_does_not_agree_however_many_wait() {
        use crate::frame::testing::appends;
        let mut reorder = Reorder::new(Offset(0));
        let long = appends(10, 1, &[1; 30]);
        for batch in [long, appends(12, 1, &[1, 1])] {
            assert!(reorder.agrees(&batch));
            assert_eq!(reorder.offer(batch), Offered::Held);
        }
        assert!(!reorder.agrees(&appends(30, 1, &[15, 5])));
        assert!(reorder.agrees(&appends(30, 1, &[1; 20])));
    }

    proptest! {
        #[test]
        fn each_record_passes_once_and_in_order_whatever_arrives_twice_or_late(
            mut cuts in prop::collection::vec(0u64..40, 0..12),
            order in prop::collection::vec((0usize..64, 0usize..3), 1..80),
        ) {
            cuts.extend([0, 40]);
            cuts.sort_unstable();
            cuts.dedup();
            let mut reorder = Reorder::new(Offset(0));
            let mut passed = Vec::new();
            let pieces = cuts.len() - 1;
            let all = (0..pieces).map(|piece| (piece, 0));
            for (piece, wider) in order.into_iter().map(|(p, w)| (p % pieces, w)).chain(all) {
                let until = cuts[(piece + 1 + wider).min(pieces)];
                passed.extend(offsets(&reorder.offer(batch(cuts[piece]..until))));
                reorder.check();
            }
            prop_assert_eq!(passed, (0..40).collect::<Vec<_>>());
        }
    }
}

//! Repair of a leader's own log: the missing records, and the secondaries that can supply them.
//!
//! Owns the list of holes that were found while the master serves. Only a secondary that also holds
//! the record after a hole can fill it: it is aligned, so its log is this master's up to there. Never
//! reads or sends: it names the missing records and is given the fetched ones. Keeps rule 10.

use std::ops::Range;

use crate::{
    frame::FrameBatch,
    types::{Epoch, Offset},
};

/// The holes in a leader's log.
#[derive(Debug, Default)]
pub(crate) struct Repair {
    /// The holes in ascending order.
    holes: Vec<Range<Offset>>,
    /// Records up to here are on their way to the disk.
    filled_to: Offset,
}

/// A range of records that the master's log lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MissingRange {
    /// The first missing record.
    pub(crate) from: Offset,
    /// The end of the last missing record.
    pub(crate) until: Offset,
}

impl MissingRange {
    /// Returns the first of these holes, if there is one.
    pub(crate) fn first_of(holes: &[Range<Offset>]) -> Option<MissingRange> {
        let first = holes.first()?;
        Some(MissingRange {
            from: first.start,
            until: first.end,
        })
    }
}

impl Repair {
    /// Returns `true` if any record is missing.
    pub(crate) fn is_needed(&self) -> bool {
        !self.holes.is_empty()
    }

    /// Returns all missing ranges in ascending order.
    pub(crate) fn holes(&self) -> &[Range<Offset>] {
        &self.holes
    }

    /// Returns the next missing range; `None` if there is none.
    pub(crate) fn missing(&self) -> Option<MissingRange> {
        MissingRange::first_of(&self.holes)
    }

    /// Returns `true` if the missing records cannot be fetched: at least `needed` other nodes, a
    /// majority, lack them, by the `ends` of logs that are intact and agree with this one. Then the
    /// records were never acknowledged at a majority, no secondary can get past them, and those nodes
    /// are enough for a recovery without this one.
    pub(crate) fn is_irreparable(&self, ends: &[Offset], needed: u32) -> bool {
        let Some(missing) = self.missing() else {
            return false;
        };
        let lacking = ends.iter().filter(|end| **end <= missing.from);
        lacking.count() >= needed as usize
    }

    /// Sets the holes that an inspection found; there are no others.
    pub(crate) fn on_inspected(&mut self, holes: Vec<Range<Offset>>) {
        (self.holes, self.filled_to) = (holes, Offset::ZERO);
    }

    /// Accepts records from a secondary. Returns those that belong in the log, if any: a repeated
    /// answer has none.
    pub(crate) fn on_fetched(
        &mut self,
        records: &[FrameBatch],
        epoch_at: impl Fn(Offset) -> Option<Epoch>,
    ) -> Vec<FrameBatch> {
        let Some(missing) = self.missing() else {
            return Vec::new();
        };
        let same = |offset, epoch| epoch_at(offset).is_none_or(|own| own == epoch);
        let mut next = missing.from;
        let mut wanted = Vec::new();
        for batch in records {
            // An append that begins or ends elsewhere than the hole is a lie, or the hole is: damage that looked like
            // a frame. The master goes on without it, and its next start, which counts for nothing, cuts there.
            let Some(part) = batch.slice(missing.from, missing.until) else {
                continue;
            };
            let last = Offset(part.end().0 - 1);
            let follows = part.first() == next && next >= self.filled_to;
            if !follows || !same(part.first(), part.first_epoch()) || !same(last, part.last_epoch())
            {
                return Vec::new();
            }
            next = part.end();
            wanted.push(part);
        }
        self.filled_to = self.filled_to.max(next);
        wanted
    }

    /// Notes that everything before `whole_end` can be read. Returns `true` if that changed the
    /// missing ranges.
    pub(crate) fn on_whole(&mut self, whole_end: Offset) -> bool {
        let before = self.missing();
        self.holes.retain(|hole| hole.end > whole_end);
        if let Some(first) = self.holes.first_mut() {
            first.start = first.start.max(whole_end);
        }
        self.missing() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::testing::batch;

    fn missing(from: u64, until: u64) -> Option<MissingRange> {
        Some(MissingRange {
            from: Offset(from),
            until: Offset(until),
        })
    }

    fn with_holes() -> Repair {
        let mut repair = Repair::default();
        let hole = |from, until| Offset(from)..Offset(until);
        repair.on_inspected(vec![hole(3, 6), hole(9, 10)]);
        repair
    }

    #[test]
    fn holes_are_filled_one_after_the_other() {
        let mut repair = with_holes();
        assert_eq!(repair.missing(), missing(3, 6));
        let part = repair.on_fetched(&[batch(3..5, 1)], |_| Some(Epoch(1)));
        assert_eq!(part, [batch(3..5, 1)]);
        assert!(repair.on_whole(Offset(5)));
        assert_eq!(repair.missing(), missing(5, 6));
        let part = repair.on_fetched(&[batch(5..12, 1)], |_| None);
        assert_eq!(part, [batch(5..6, 1)]);
        assert!(repair.on_whole(Offset(9)));
        assert_eq!(repair.missing(), missing(9, 10));
        repair.on_fetched(&[batch(9..10, 1)], |_| None);
        repair.on_whole(Offset(40));
        assert!(!repair.is_needed());
    }

    #[test]
    fn records_that_a_majority_of_others_lacks_cannot_be_repaired() {
        let repair = with_holes();
        assert!(repair.is_irreparable(&[Offset(3), Offset(2)], 2));
        assert!(
            !repair.is_irreparable(&[Offset(3), Offset(4)], 2),
            "one may have it"
        );
        assert!(!repair.is_irreparable(&[Offset(3)], 2), "one is away");
        assert!(!Repair::default().is_irreparable(&[Offset(0), Offset(0)], 2));
    }

    #[test]
    fn a_repeated_answer_fills_a_hole_once() {
        let mut repair = with_holes();
        assert_eq!(repair.on_fetched(&[batch(3..6, 1)], |_| None).len(), 1);
        assert_eq!(repair.on_fetched(&[batch(3..6, 1)], |_| None), []);
    }

    #[test]
    fn records_that_differ_from_the_missing_ones_are_refused() {
        let mut repair = with_holes();
        let other_epoch = repair.on_fetched(&[batch(3..6, 2)], |_| Some(Epoch(1)));
        assert_eq!(other_epoch, []);
        assert_eq!(repair.on_fetched(&[batch(4..6, 1)], |_| None), []);
        assert_eq!(repair.on_fetched(&[], |_| None), []);
        assert_eq!(repair.missing(), missing(3, 6));
    }
}

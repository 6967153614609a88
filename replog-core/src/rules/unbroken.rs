//! Appends of several records, none of which is committed before all are.
//!
//! Owns the bounds of those that are not committed yet. Never reads a log: it is told the bounds when an
//! append gets its offsets. Where there are too many, neighbours are merged into one, which is committed
//! later than it could be but never in part. Keeps rule 2, for appends too, and rule 11.

use std::collections::VecDeque;

use crate::{limits::UNBROKEN_MAX, types::Offset};

/// The ranges inside which the committed end may not lie.
#[derive(Debug, Default)]
pub(crate) struct Unbroken {
    /// From the first record to the end of the last, ascending.
    spans: VecDeque<(Offset, Offset)>,
}

impl Unbroken {
    /// Adds an append, which must come after all that were added before.
    pub(crate) fn push(&mut self, first: Offset, end: Offset) {
        assert!(first < end, "an append without a record at {first}");
        let before = self.spans.back().map_or(Offset::ZERO, |(_, end)| *end);
        assert!(before <= first, "an append at {first} before {before}");
        if self.spans.len() == UNBROKEN_MAX {
            self.merge();
        }
        self.spans.push_back((first, end));
    }

    /// Returns the largest end, at or before `end`, that splits no append. `end` must not decrease from call
    /// to call.
    pub(crate) fn floor(&mut self, end: Offset) -> Offset {
        while self
            .spans
            .pop_front_if(|(_, span_end)| *span_end <= end)
            .is_some()
        {}
        match self.spans.front() {
            Some((first, _)) => end.min(*first),
            None => end,
        }
    }

    /// Halves the number of ranges.
    fn merge(&mut self) {
        let spans = std::mem::take(&mut self.spans);
        let mut spans = spans.into_iter();
        while let Some((first, end)) = spans.next() {
            let end = spans.next().map_or(end, |(_, end)| end);
            self.spans.push_back((first, end));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_committed_end_never_lies_inside_an_append() {
        let mut unbroken = Unbroken::default();
        unbroken.push(Offset(5), Offset(8));
        unbroken.push(Offset(8), Offset(10));
        unbroken.push(Offset(12), Offset(14));
        let floors: Vec<u64> = (4..16).map(|end| unbroken.floor(Offset(end)).0).collect();
        assert_eq!(floors, [4, 5, 5, 5, 8, 8, 10, 11, 12, 12, 14, 15]);
        assert!(
            unbroken.spans.is_empty(),
            "rule 11: nothing is kept of what is committed"
        );
    }

    #[test]
    fn memory_is_bounded_and_all_appends_are_committed_in_the_end() {
        let mut unbroken = Unbroken::default();
        let many = 3 * UNBROKEN_MAX as u64;
        for nth in 0..many {
            unbroken.push(Offset(2 * nth), Offset(2 * nth + 2));
            assert!(unbroken.spans.len() <= UNBROKEN_MAX);
        }
        let before = unbroken.floor(Offset(many));
        assert!(before > Offset::ZERO && before.0 % 2 == 0, "{before}");
        assert_eq!(unbroken.floor(Offset(2 * many)), Offset(2 * many));
    }

    proptest! {
        #[test]
        fn a_floor_is_the_largest_end_that_splits_no_append(
            appends in prop::collection::vec(1..5_u64, 1..40),
            steps in prop::collection::vec(0..6_u64, 1..40),
        ) {
            let mut unbroken = Unbroken::default();
            let mut ends = vec![0];
            let mut next = 0;
            for records in appends {
                if records > 1 {
                    unbroken.push(Offset(next), Offset(next + records));
                }
                next += records;
                ends.push(next);
            }
            let mut asked = 0;
            for step in steps {
                asked = (asked + step).min(next);
                let naive = *ends.iter().rfind(|end| **end <= asked).unwrap();
                prop_assert_eq!(unbroken.floor(Offset(asked)), Offset(naive));
            }
        }
    }
}

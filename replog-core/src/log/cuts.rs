//! History of cuts: how far back a log was cut since any given moment.
//!
//! Owns a count and a short list. Never reads the log and never takes a lock. A reader remembers the count at the
//! moment when it showed a part of the log; later it asks how far back the log was cut since then, over all cuts,
//! and so knows if what it showed is still there. Keeps rules 2 and 11.
//!
//! Of the ends that the log was cut to, the list keeps only those below all later ones: no other matters to any
//! reader. They ascend, oldest first, so that the answer is the first one after the given count. A list of all
//! readers, each with the lowest end since its start, was rejected: it would grow with them, and every cut would
//! walk it.

use std::collections::VecDeque;

use crate::{limits::CUTS_KEPT, types::Offset};

/// The cuts of a log since it was opened.
#[derive(Debug, Default)]
pub(crate) struct Cuts {
    count: u64,
    /// Number of the cut, from 1, and the end that it left. Both ascend.
    lowest: VecDeque<(u64, Offset)>,
}

impl Cuts {
    /// Returns the number of cuts so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Adds a cut, after which the log ends at `to`.
    pub(crate) fn on_cut(&mut self, to: Offset) {
        self.count += 1;
        while self.lowest.back().is_some_and(|(_, end)| *end >= to) {
            self.lowest.pop_back();
        }
        self.lowest.push_back((self.count, to));
        if self.lowest.len() > CUTS_KEPT
            && let Some((_, oldest)) = self.lowest.pop_front()
            && let Some((_, end)) = self.lowest.front_mut()
        {
            // The two oldest count as one, which went as far back as both: a reader that saw the first of them is
            // told of more than it missed, and no reader of less.
            *end = oldest;
        }
    }

    /// Returns the lowest end that the log had since the given number of cuts; `None` if it was not cut since.
    /// After very many cuts it may be the end of an earlier, lower cut.
    pub(crate) fn lowest_since(&self, count: u64) -> Option<Offset> {
        let first = self.lowest.partition_point(|(nth, _)| *nth <= count);
        self.lowest.get(first).map(|(_, end)| *end)
    }

    /// Checks the invariants.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let pairs = self.lowest.iter().zip(self.lowest.iter().skip(1));
        for ((nth, end), (next_nth, next_end)) in pairs {
            assert!(nth < next_nth && end < next_end, "{self:?}");
        }
        assert!(self.lowest.len() <= CUTS_KEPT, "{self:?}");
        assert_eq!(self.lowest.back().map_or(0, |(nth, _)| *nth), self.count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cuts(ends: impl IntoIterator<Item = u64>) -> Cuts {
        let mut cuts = Cuts::default();
        for end in ends {
            cuts.on_cut(Offset(end));
            cuts.check();
        }
        cuts
    }

    #[test]
    fn the_lowest_cut_since_then_counts() {
        let table: [(&[u64], &[Option<u64>]); 5] = [
            (&[], &[None]),
            (&[7], &[Some(7), None]),
            (&[7, 3, 9], &[Some(3), Some(3), Some(9), None]),
            (&[3, 7, 7, 9], &[Some(3), Some(7), Some(7), Some(9), None]),
            (&[9, 7, 3], &[Some(3), Some(3), Some(3), None]),
        ];
        for (ends, expected) in table {
            let cuts = cuts(ends.iter().copied());
            for (count, lowest) in expected.iter().enumerate() {
                let found = cuts.lowest_since(count as u64);
                assert_eq!(found, lowest.map(Offset), "{ends:?} since {count}");
            }
        }
    }

    #[test]
    fn of_very_many_cuts_the_newest_are_kept_apart_and_none_is_missed() {
        let many = 3 * CUTS_KEPT as u64;
        let cuts = cuts(0..many);
        assert_eq!(cuts.lowest_since(0), Some(Offset(0)));
        assert_eq!(cuts.lowest_since(many - 1), Some(Offset(many - 1)));
        for count in 0..many {
            assert!(
                cuts.lowest_since(count)
                    .is_some_and(|end| end <= Offset(count))
            );
        }
    }

    proptest! {
        #[test]
        fn any_cuts_give_the_same_answers_as_a_full_list(
            ends in prop::collection::vec(0..50_u64, 0..CUTS_KEPT),
        ) {
            let cuts = cuts(ends.iter().copied());
            for count in 0..=ends.len() {
                let expected = ends[count..].iter().min().map(|end| Offset(*end));
                prop_assert_eq!(cuts.lowest_since(count as u64), expected);
            }
        }
    }
}

//! Position of a follower in a log, and the effect of a cut on it.
//!
//! Owns the range of delivered records and the number of known cuts. Never reads and never waits. A read
//! counts only once it is known that the log was not cut meanwhile: it may mix two branches, or replace
//! records that were delivered. Keeps rules 1 and 2.
//!
//! ```text
//!   read ──▶ number of cuts, and their lowest ──▶ on_cut_check ──▶ NoCut: deliver it, on_delivered
//!                                                              ├─▶ CutAhead: read again
//!                                                              └─▶ CutBehind: deliveries from here on are gone
//! ```

use crate::types::Offset;

/// A follower's place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Following {
    /// The start of the follower: it delivered nothing before this offset.
    from: Offset,
    /// The end of the delivered records: all of `from..next`.
    next: Offset,
    /// The number of times that the log had been cut by then.
    cuts: u64,
}

/// The effect of the log's cuts on a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutCheck {
    /// The log was not cut.
    NoCut,
    /// The log was cut, but no delivered record; the read may mix two branches.
    CutAhead,
    /// The delivered records from this offset on are no longer in the log.
    CutBehind(Offset),
}

impl Following {
    /// Starts at `from`, in a log that has been cut this number of times.
    pub(crate) fn new(from: Offset, cuts: u64) -> Following {
        Following {
            from,
            next: from,
            cuts,
        }
    }

    /// Returns the offset of the next record to deliver.
    pub(crate) fn next(&self) -> Offset {
        self.next
    }

    /// Returns the number of known cuts: ask for the lowest cut since.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts
    }

    /// Checks a read, even an empty one, after which the log had been cut `cuts` times; since the known cuts
    /// its end had fallen as low as `lowest`.
    pub(crate) fn on_cut_check(&mut self, cuts: u64, lowest: Option<Offset>) -> CutCheck {
        assert!(
            self.cuts <= cuts,
            "{cuts} cuts, fewer than the {} known",
            self.cuts
        );
        let Some(lowest) = lowest else {
            return CutCheck::NoCut;
        };
        self.cuts = cuts;
        let kept = lowest.clamp(self.from, self.next);
        match kept < self.next {
            true => {
                self.next = kept;
                CutCheck::CutBehind(kept)
            }
            false => CutCheck::CutAhead,
        }
    }

    /// Notes that all records up to `end` were delivered.
    pub(crate) fn on_delivered(&mut self, end: Offset) {
        assert!(self.next < end, "{end} was delivered after {}", self.next);
        self.next = end;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::cuts::Cuts;

    #[test]
    fn only_a_cut_of_delivered_records_is_reported() {
        let table = [
            // from, next, lowest, result, next after that
            (3, 7, None, CutCheck::NoCut, 7),
            (3, 7, Some(9), CutCheck::CutAhead, 7),
            (3, 7, Some(7), CutCheck::CutAhead, 7),
            (3, 7, Some(6), CutCheck::CutBehind(Offset(6)), 6),
            (3, 7, Some(3), CutCheck::CutBehind(Offset(3)), 3),
            (3, 7, Some(0), CutCheck::CutBehind(Offset(3)), 3),
            (3, 3, Some(9), CutCheck::CutAhead, 3),
            (3, 3, Some(0), CutCheck::CutAhead, 3),
        ];
        for (from, next, lowest, expected, next_after) in table {
            let mut following = Following::new(Offset(from), 5);
            if from < next {
                following.on_delivered(Offset(next));
            }
            let cuts = 5 + u64::from(lowest.is_some());
            let looked = following.on_cut_check(cuts, lowest.map(Offset));
            assert_eq!(looked, expected, "{from}..{next}, {lowest:?}");
            assert_eq!(following.next(), Offset(next_after));
            // The same cuts are not reported again.
            assert_eq!(following.on_cut_check(cuts, None), CutCheck::NoCut);
        }
    }

    /// One step of a log and its follower.
    #[derive(Clone, Debug)]
    enum Step {
        Append(usize),
        Cut(usize),
        /// A follower reads this many records.
        Read(usize),
        /// It checks the cuts, and delivers the read if it may.
        Look,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1..5_usize).prop_map(Step::Append),
            1 => (0..20_usize).prop_map(Step::Cut),
            3 => (1..9_usize).prop_map(Step::Read),
            3 => Just(Step::Look),
        ]
    }

    proptest! {
        #[test]
        fn a_follower_that_goes_back_at_each_cut_ends_with_the_actual_log(
            steps in prop::collection::vec(step(), 0..120), from in 0..12_usize,
        ) {
            let (mut log, mut drawn) = (Vec::new(), 0);
            let mut cuts = Cuts::default();
            let mut following = Following::new(Offset(from as u64), 0);
            let (mut given, mut read) = (Vec::new(), Vec::new());
            let calm = (0..40).flat_map(|_| [Step::Read(9), Step::Look]);
            for step in steps.into_iter().chain(calm) {
                match step {
                    Step::Append(count) => for _ in 0..count {
                        log.push(drawn);
                        drawn += 1;
                    },
                    Step::Cut(back) => if back > 0 && !log.is_empty() {
                        let to = log.len().saturating_sub(back);
                        log.truncate(to);
                        cuts.on_cut(Offset(to as u64));
                    },
                    Step::Read(count) => {
                        let next = following.next().0 as usize;
                        let end = log.len().min(next + count);
                        read = log.get(next..end).unwrap_or_default().to_vec();
                    }
                    Step::Look => {
                        let lowest = cuts.lowest_since(following.cuts());
                        match following.on_cut_check(cuts.count(), lowest) {
                            CutCheck::NoCut if !read.is_empty() => {
                                given.append(&mut read);
                                following.on_delivered(Offset((from + given.len()) as u64));
                            }
                            CutCheck::NoCut => {}
                            CutCheck::CutAhead => read.clear(),
                            CutCheck::CutBehind(offset) => {
                                read.clear();
                                given.truncate(offset.0 as usize - from);
                            }
                        }
                    }
                }
                prop_assert_eq!(following.next().0 as usize, from + given.len());
            }
            prop_assert_eq!(given, log.get(from..).unwrap_or_default());
        }
    }
}

//! Agreement of two logs, from the offsets at which their epochs begin.
//!
//! Owns one comparison. Rests on the log matching property: within an epoch an offset is assigned
//! only once, ever, so two logs that hold the same epoch at the same offset agree up to there.
//! Compares (epoch, offset) pairs, never lengths (KIP-101, KIP-279). Keeps rules 1 and 5.

use crate::types::{EpochStart, Offset};

/// Outline of a log: its end and the beginnings of its newest epochs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outline<'a> {
    /// Starts of the newest epochs, ascending.
    pub(crate) starts: &'a [EpochStart],
    /// The log's end.
    pub(crate) end: Offset,
}

/// Result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agreement {
    /// The logs agree below this offset, and not at it.
    Below(Offset),
    /// The pairs of the other log do not reach back to a common epoch: those with a first offset
    /// below this one are needed.
    OlderNeeded {
        /// The beginning of the known pairs of the other log.
        before: Offset,
    },
    /// The pairs of this node's log do not reach back to a common epoch: those with a first offset
    /// below this one are needed.
    OwnOlderNeeded {
        /// The beginning of the known pairs of this node's log.
        before: Offset,
    },
}

impl Outline<'_> {
    /// Returns `true` if the pairs reach back to the log's beginning.
    fn is_complete(&self) -> bool {
        self.starts
            .first()
            .is_none_or(|oldest| oldest.first == Offset::ZERO)
    }

    /// Returns the end of the run of records that begins with pair `index`.
    fn run_end(&self, index: usize) -> Offset {
        self.starts
            .get(index + 1)
            .map_or(self.end, |next| next.first)
    }
}

/// Returns the offset up to which `own` agrees with `other`.
///
/// The newest epoch that both hold decides: they agree to the end of the shorter of its two
/// runs. Without a common epoch they agree nowhere, if the pairs of `other` are complete.
pub(crate) fn agreement(own: Outline<'_>, other: Outline<'_>) -> Agreement {
    let (mut mine, mut theirs) = (own.starts.len(), other.starts.len());
    while mine > 0 && theirs > 0 {
        let (a, b) = (own.starts[mine - 1], other.starts[theirs - 1]);
        if a.epoch == b.epoch {
            return Agreement::Below(own.run_end(mine - 1).min(other.run_end(theirs - 1)));
        }
        if a.epoch > b.epoch {
            mine -= 1;
        } else {
            theirs -= 1;
        }
    }
    // The remaining pairs of one side are older than everything known of the other.
    match (own.starts.first(), other.starts.first()) {
        (_, Some(oldest)) if theirs == 0 && !other.is_complete() => Agreement::OlderNeeded {
            before: oldest.first,
        },
        (Some(oldest), _) if mine == 0 && !own.is_complete() => Agreement::OwnOlderNeeded {
            before: oldest.first,
        },
        _ => Agreement::Below(Offset::ZERO),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::Epoch;

    fn starts(pairs: &[(u64, u64)]) -> Vec<EpochStart> {
        pairs
            .iter()
            .map(|&(epoch, first)| EpochStart {
                epoch: Epoch(epoch),
                first: Offset(first),
            })
            .collect()
    }

    /// Pairs and end of a log.
    type Case = (&'static [(u64, u64)], u64);

    fn compare(own: Case, other: Case) -> Agreement {
        let (a, b) = (starts(own.0), starts(other.0));
        agreement(
            Outline {
                starts: &a,
                end: Offset(own.1),
            },
            Outline {
                starts: &b,
                end: Offset(other.1),
            },
        )
    }

    #[test]
    fn the_newest_common_epoch_decides() {
        let below = |end| Agreement::Below(Offset(end));
        let table: [(Case, Case, Agreement); 7] = [
            ((&[], 0), (&[(1, 0)], 9), below(0)),
            ((&[(1, 0)], 9), (&[], 0), below(0)),
            ((&[(1, 0)], 5), (&[(1, 0)], 9), below(5)),
            ((&[(1, 0)], 9), (&[(1, 0)], 5), below(5)),
            ((&[(1, 0), (2, 5)], 9), (&[(1, 0), (3, 7)], 9), below(5)),
            (
                (&[(1, 0), (2, 5)], 9),
                (&[(1, 0), (2, 5), (4, 8)], 20),
                below(8),
            ),
            ((&[(2, 0)], 9), (&[(3, 0)], 9), below(0)),
        ];
        for (own, other, expected) in table {
            assert_eq!(compare(own, other), expected, "{own:?} {other:?}");
        }
    }

    #[test]
    fn older_pairs_are_requested_if_the_known_ones_do_not_reach_back() {
        let asked = compare((&[(1, 0)], 50), (&[(7, 100), (8, 120)], 130));
        assert_eq!(
            asked,
            Agreement::OlderNeeded {
                before: Offset(100)
            }
        );
        let asked = compare((&[(7, 100), (8, 120)], 130), (&[(1, 0)], 50));
        assert_eq!(
            asked,
            Agreement::OwnOlderNeeded {
                before: Offset(100)
            }
        );
    }

    /// Returns the epoch starts of a naive log: the epoch of each record.
    fn outline(log: &[u64]) -> Vec<EpochStart> {
        let mut starts: Vec<EpochStart> = Vec::new();
        for (first, &epoch) in log.iter().enumerate() {
            if starts.last().is_none_or(|last| last.epoch != Epoch(epoch)) {
                starts.push(EpochStart {
                    epoch: Epoch(epoch),
                    first: Offset(first as u64),
                });
            }
        }
        starts
    }

    proptest! {
        /// Two logs grow from a common prefix, each with its own epochs after it.
        #[test]
        fn logs_with_a_common_prefix_agree_exactly_on_it(
            stem in prop::collection::vec(1u64..4, 0..20),
            mine in prop::collection::vec(0u64..3, 0..10),
            theirs in prop::collection::vec(0u64..3, 0..10),
        ) {
            let mut stem = stem;
            stem.sort_unstable();
            let branch = |epochs: &[u64], odd: u64| {
                let mut epochs: Vec<u64> = epochs.iter().map(|e| 10 + 2 * e + odd).collect();
                epochs.sort_unstable();
                [stem.clone(), epochs].concat()
            };
            let (a, b) = (branch(&mine, 0), branch(&theirs, 1));
            let naive = a.iter().zip(&b).take_while(|(x, y)| x == y).count() as u64;
            let (sa, sb) = (outline(&a), outline(&b));
            let found = agreement(
                Outline { starts: &sa, end: Offset(a.len() as u64) },
                Outline { starts: &sb, end: Offset(b.len() as u64) },
            );
            prop_assert_eq!(found, Agreement::Below(Offset(naive)));
        }
    }
}

//! Record of what a follower was given: enough to find where a log diverges from it.
//!
//! Within an epoch an offset is assigned once, so the same offset and epoch are the same message with the same
//! ones before it. Only the first given offset of each epoch is kept, which gives the epoch of every offset.

use std::{collections::VecDeque, ops::Range};

use crate::types::{Epoch, Offset};

/// Maximum number of epochs that are remembered: each is a start or a recovery of a master.
const EPOCHS_MAX: usize = 1024;

/// Epochs of the messages that were given.
#[derive(Clone, Debug, Default)]
pub(super) struct Delivered {
    /// The first offset of each epoch, ascending.
    begins: VecDeque<(Offset, Epoch)>,
    /// The last message.
    last: Option<(Offset, Epoch)>,
}

impl Delivered {
    /// Adds a message after all others.
    pub(super) fn push(&mut self, offset: Offset, epoch: Epoch) {
        if self.begins.back().is_none_or(|begin| begin.1 != epoch) {
            if self.begins.len() == EPOCHS_MAX {
                self.begins.pop_front();
            }
            self.begins.push_back((offset, epoch));
        }
        self.last = Some((offset, epoch));
    }

    /// Returns the last message: the node must still have it.
    pub(super) fn last(&self) -> Option<(Offset, Epoch)> {
        self.last
    }

    /// Forgets everything from `end` on, which is gone.
    pub(super) fn cut(&mut self, end: Offset) {
        while self.begins.back().is_some_and(|begin| begin.0 >= end) {
            self.begins.pop_back();
        }
        let before = |last: Offset| last.min(Offset(end.0.saturating_sub(1)));
        self.last = match (self.last, self.begins.back()) {
            (Some((last, _)), Some(&(_, epoch))) => Some((before(last), epoch)),
            _ => None,
        };
    }

    /// Returns the range that contains the first diverging offset, when the last message is gone.
    pub(super) fn divergence_range(&self) -> Option<Range<Offset>> {
        Some(self.begins.front()?.0..self.last?.0)
    }

    /// Returns true if a node that shows this message has everything that was given up to there.
    pub(super) fn has(&self, offset: Offset, epoch: Epoch) -> bool {
        let mut begins = self.begins.iter().rev();
        let begin = begins.find(|begin| begin.0 <= offset);
        self.last.is_some_and(|last| offset <= last.0)
            && begin.is_some_and(|begin| begin.1 == epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epochs_of_given_messages_are_known_until_they_are_cut() {
        let mut delivered = Delivered::default();
        assert!(delivered.last().is_none() && delivered.divergence_range().is_none());
        for (offset, epoch) in [(5, 1), (6, 1), (7, 3), (8, 3), (9, 3)] {
            delivered.push(Offset(offset), Epoch(epoch));
        }
        let has =
            |delivered: &Delivered, offset, epoch| delivered.has(Offset(offset), Epoch(epoch));
        assert!(has(&delivered, 5, 1) && has(&delivered, 6, 1) && has(&delivered, 9, 3));
        assert!(!has(&delivered, 4, 1) && !has(&delivered, 7, 1) && !has(&delivered, 9, 4));
        assert!(!has(&delivered, 10, 3), "it was not given");
        assert_eq!(delivered.divergence_range(), Some(Offset(5)..Offset(9)));
        delivered.cut(Offset(8));
        assert_eq!(delivered.last(), Some((Offset(7), Epoch(3))));
        delivered.cut(Offset(7));
        assert_eq!(delivered.last(), Some((Offset(6), Epoch(1))));
        delivered.cut(Offset(3));
        assert!(delivered.last().is_none() && !has(&delivered, 5, 1));
    }

    #[test]
    fn only_the_last_of_many_epochs_are_kept() {
        let mut delivered = Delivered::default();
        for offset in 0..2_000 {
            delivered.push(Offset(offset), Epoch(offset));
        }
        assert_eq!(
            delivered.divergence_range(),
            Some(Offset(976)..Offset(1_999))
        );
    }
}

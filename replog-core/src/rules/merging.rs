//! Merging of events: frequent changes are reported in intervals, as the newest state and not each
//! step to it.
//!
//! Owns the ends and counts that one listener was last told, and the time. Never reads a clock and
//! knows no listener itself: the same newest state, however many steps led to it, yields the same
//! events. Keeps rule 11: changes that a listener has not been told of yet are two states, not a
//! queue.

use tokio::time::Instant;

use crate::{
    events::{Change, Fault},
    limits::EVENT_INTERVAL_MIN,
    types::Offset,
};

/// Ends and counts of a node and its secondaries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    /// The end of the records that the node shows.
    pub(crate) own: Offset,
    /// The ends of its secondaries' logs; `None` for one whose log does not count.
    pub(crate) acked: Vec<Option<Offset>>,
    /// Number of times that each fault has happened, in the order of [`Fault::ALL`].
    pub(crate) faults: [u64; Fault::ALL.len()],
}

/// Subject of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// The node that reports it.
    Own,
    /// The secondary with this index.
    Secondary(usize),
}

/// The last report to one listener.
#[derive(Debug)]
pub(crate) struct Merging {
    published: Ends,
    next_at: Instant,
}

impl Merging {
    /// Creates the state of a listener that knows the current ends when it begins.
    pub(crate) fn new(now: Instant, known: Ends) -> Merging {
        Merging {
            published: known,
            next_at: now,
        }
    }

    /// Returns the time before which nothing is reported.
    pub(crate) fn next_at(&self) -> Instant {
        self.next_at
    }

    /// Returns the events for the newest state: at most one per kind and node, and none before
    /// [`Merging::next_at`].
    pub(crate) fn publish(&mut self, now: Instant, newest: &Ends) -> Vec<(About, Change)> {
        if now < self.next_at {
            return Vec::new();
        }
        let events = self.publish_now(newest);
        if !events.is_empty() {
            self.next_at = now + EVENT_INTERVAL_MIN;
        }
        events
    }

    /// Returns the last events, as [`Merging::publish`] does, but without the wait.
    pub(crate) fn publish_now(&mut self, newest: &Ends) -> Vec<(About, Change)> {
        let mut events = Vec::new();
        let from = std::mem::replace(&mut self.published.own, newest.own);
        // A cut is not an append. Records appended after it are reported from there on.
        if from < newest.own {
            let next = newest.own;
            events.push((About::Own, Change::Append { from, next }));
        }
        self.published.acked.resize(newest.acked.len(), None);
        for (secondary, acked) in newest.acked.iter().enumerate() {
            // While an end does not count, there is nothing new to report about it.
            if let Some(durable_end) = *acked
                && self.published.acked[secondary] != Some(durable_end)
            {
                self.published.acked[secondary] = Some(durable_end);
                events.push((About::Secondary(secondary), Change::Ack { durable_end }));
            }
        }
        for (nth, fault) in Fault::ALL.into_iter().enumerate() {
            let before = std::mem::replace(&mut self.published.faults[nth], newest.faults[nth]);
            let count = newest.faults[nth].saturating_sub(before);
            if count > 0 {
                events.push((About::Own, Change::FaultsHappened { fault, count }));
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ends(own: u64, acked: &[Option<u64>]) -> Ends {
        Ends {
            own: Offset(own),
            acked: acked.iter().map(|end| end.map(Offset)).collect(),
            faults: [0; Fault::ALL.len()],
        }
    }

    fn append(from: u64, next: u64) -> (About, Change) {
        let (from, next) = (Offset(from), Offset(next));
        (About::Own, Change::Append { from, next })
    }

    fn ack(secondary: usize, end: u64) -> (About, Change) {
        let durable_end = Offset(end);
        (About::Secondary(secondary), Change::Ack { durable_end })
    }

    #[test]
    fn the_state_known_at_the_beginning_is_not_reported() {
        let (t0, known) = (Instant::now(), ends(7, &[Some(5), None]));
        let mut merging = Merging::new(t0, known.clone());
        assert_eq!(merging.next_at(), t0, "nothing has to be waited for");
        assert_eq!(merging.publish(t0, &known), []);
        let newest = ends(8, &[Some(5), Some(8)]);
        assert_eq!(merging.publish(t0, &newest), [append(7, 8), ack(1, 8)]);
    }

    #[test]
    fn steps_are_merged_and_no_kind_is_reported_more_than_twenty_times_a_second() {
        let t0 = Instant::now();
        let mut merging = Merging::new(t0, ends(0, &[Some(0)]));
        let (mut appends, mut acks) = (Vec::new(), 0);
        // One append and one ack each millisecond, for a second.
        for step in 0..1_000 {
            let now = t0 + Duration::from_millis(step);
            for (_, what) in merging.publish(now, &ends(step + 1, &[Some(step)])) {
                match what {
                    Change::Append { from, next } => appends.push((from.0, next.0)),
                    Change::Ack { .. } => acks += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!((appends.len(), acks), (20, 19), "{appends:?}");
        assert_eq!(appends[0], (0, 1), "the first one is told at once");
        for pair in appends.windows(2) {
            assert_eq!(pair[0].1, pair[1].0, "nothing is left out");
        }
        let rest = merging.publish(merging.next_at(), &ends(1_000, &[Some(1_000)]));
        assert_eq!(rest, [append(951, 1_000), ack(0, 1_000)]);
    }

    #[test]
    fn an_unchanged_state_delays_no_later_event() {
        let t0 = Instant::now();
        let mut merging = Merging::new(t0, ends(0, &[]));
        assert_eq!(merging.publish(t0, &ends(0, &[])), []);
        assert_eq!(merging.publish(t0, &ends(1, &[])), [append(0, 1)]);
        assert_eq!(merging.publish(t0, &ends(2, &[])), [], "too soon");
        assert_eq!(merging.publish_now(&ends(2, &[])), [append(1, 2)]);
    }

    #[test]
    fn a_cut_log_is_reported_from_the_cut_on_and_an_end_that_does_not_count_is_not() {
        let t0 = Instant::now();
        let mut merging = Merging::new(t0, ends(9, &[Some(9)]));
        let mut publish = |newest| merging.publish_now(&newest);
        assert_eq!(publish(ends(4, &[None])), []);
        assert_eq!(publish(ends(6, &[Some(9)])), [append(4, 6)]);
        assert_eq!(publish(ends(6, &[Some(2)])), [ack(0, 2)], "of a wiped node");
    }

    #[test]
    fn faults_are_counted() {
        let t0 = Instant::now();
        let mut merging = Merging::new(t0, ends(0, &[]));
        let mut newest = ends(0, &[]);
        (newest.faults[0], newest.faults[4]) = (2, 1);
        let happened = |fault, count| (About::Own, Change::FaultsHappened { fault, count });
        assert_eq!(
            merging.publish_now(&newest),
            [
                happened(Fault::ErrorBeforeAppend, 2),
                happened(Fault::Isolate, 1)
            ]
        );
        newest.faults[4] = 4;
        assert_eq!(merging.publish_now(&newest), [happened(Fault::Isolate, 3)]);
    }
}

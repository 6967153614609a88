//! Progress of one secondary: the records to send next, in flight, and durable there.
//!
//! Owns a cursor into the log, not a queue: the records that a secondary lacks are already in the
//! log. Knows record sizes only as the reads report them. Never decides whether to send (`link.rs`
//! does, by status and backoff), only what. Keeps rules 7 and 11.

use std::collections::BTreeMap;

use crate::{
    limits::{BATCH_BYTES_MAX, BATCH_BYTES_MIN},
    types::Offset,
};

/// The records that one secondary has, lacks, and is being sent.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The next offset that was never sent in this conversation.
    cursor: Offset,
    /// Ranges that must be sent again: disjoint, below the cursor.
    resend: BTreeMap<Offset, Offset>,
    in_flight: BTreeMap<u64, InFlight>,
    /// The end that the secondary last reported: a hint, never an ack.
    durable_end: Offset,
    /// Bytes that the next batch may have: halved by time-outs, doubled by successes.
    batch_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    first: Offset,
    /// The end of the batch, not known until the records were read.
    end: Option<Offset>,
    /// The limit of the read.
    until: Offset,
    bytes: usize,
}

/// Records to read and send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) from: Offset,
    pub(crate) until: Offset,
    pub(crate) bytes_max: usize,
}

impl Progress {
    /// Starts at the end that the secondary reports for its log.
    pub(crate) fn new(durable_end: Offset) -> Progress {
        Progress {
            cursor: durable_end,
            resend: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            durable_end,
            batch_bytes: BATCH_BYTES_MAX,
        }
    }

    /// Returns the end that the secondary last reported.
    pub(crate) fn durable_end(&self) -> Offset {
        self.durable_end
    }

    /// Returns the number of batches in flight.
    pub(crate) fn batches_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Returns `true` if the records of `attempt` are in flight.
    pub(crate) fn is_in_flight(&self, attempt: u64) -> bool {
        self.in_flight.contains_key(&attempt)
    }

    /// Returns the number of batches in flight before the records that are sent next.
    pub(crate) fn batches_ahead(&self) -> usize {
        let next = self
            .resend
            .first_key_value()
            .map_or(self.cursor, |(first, _)| *first);
        self.in_flight
            .values()
            .filter(|batch| batch.first < next)
            .count()
    }

    /// Returns the offset after the last record in flight.
    pub(crate) fn in_flight_end(&self) -> Offset {
        self.in_flight
            .values()
            .filter_map(|batch| batch.end)
            .max()
            .unwrap_or(Offset::ZERO)
    }

    /// Returns the next records to send, if there are any below `written_end`; they count as in
    /// flight under `attempt` from now on. Returns `None` while a read is in progress: its end
    /// decides what comes next.
    pub(crate) fn next(&mut self, attempt: u64, written_end: Offset) -> Option<Wanted> {
        if self.in_flight.values().any(|batch| batch.end.is_none()) {
            return None;
        }
        let (first, until) = match self.resend.pop_first() {
            Some(range) => range,
            None if self.cursor < written_end => (self.cursor, written_end),
            None => return None,
        };
        self.in_flight.insert(
            attempt,
            InFlight {
                first,
                end: None,
                until,
                bytes: 0,
            },
        );
        Some(Wanted {
            from: first,
            until,
            bytes_max: self.batch_bytes,
        })
    }

    /// Notes that the records of `attempt` were read: they end at `end`, which is past their
    /// beginning. Returns `false` if the attempt is no longer wanted.
    pub(crate) fn on_read(&mut self, attempt: u64, end: Offset, bytes: usize) -> bool {
        let Some(batch) = self.in_flight.get_mut(&attempt) else {
            return false;
        };
        assert!(batch.end.is_none(), "attempt {attempt} was read twice");
        assert!(batch.first < end, "read {}..{end}", batch.first);
        // Only whole appends are read, and a secondary may report an end inside one.
        let end = end.min(batch.until);
        (batch.end, batch.bytes) = (Some(end), bytes);
        // Records beyond the cursor are sent from there. The cursor may have passed a fresh batch
        // during its read, when the secondary reported a later end.
        let until = batch.until.min(self.cursor);
        if end < until {
            self.resend.insert(end, until);
        }
        self.cursor = self.cursor.max(end);
        self.skip_held();
        true
    }

    /// Returns the number of records in `attempt`; 0 before they were read, or if it is not in
    /// flight.
    pub(crate) fn records_in(&self, attempt: u64) -> u64 {
        let batch = self.in_flight.get(&attempt);
        let end = batch.and_then(|batch| batch.end.map(|end| end.records_since(batch.first)));
        end.unwrap_or(0)
    }

    /// Notes that the secondary holds the records of `attempt`. Returns `false` if it was not in
    /// flight.
    pub(crate) fn on_taken(&mut self, attempt: u64) -> bool {
        let Some(batch) = self.in_flight.remove(&attempt) else {
            return false;
        };
        if batch.bytes >= self.batch_bytes / 2 {
            self.batch_bytes = (self.batch_bytes * 2).min(BATCH_BYTES_MAX);
        }
        true
    }

    /// Queues the records of `attempt` to be sent again; after a time-out in smaller batches, or a
    /// slow disk and a large batch would repeat for ever. Returns `false` if it was not in flight.
    pub(crate) fn on_failed(&mut self, attempt: u64, timed_out: bool) -> bool {
        let Some(batch) = self.in_flight.remove(&attempt) else {
            return false;
        };
        if timed_out && batch.bytes > 0 {
            self.batch_bytes = (batch.bytes / 2).clamp(BATCH_BYTES_MIN, self.batch_bytes);
        }
        let end = match batch.end {
            Some(end) => end,
            // The read failed. A range to be sent again is still wanted; a fresh one begins at the
            // cursor and is sent from there.
            None if batch.first < self.cursor => batch.until.min(self.cursor),
            None => return true,
        };
        self.resend.insert(batch.first, end);
        self.skip_held();
        true
    }

    /// Sets the end that the secondary reported: records below it need not be sent again.
    pub(crate) fn on_durable_end(&mut self, durable_end: Offset) {
        if durable_end > self.durable_end {
            self.durable_end = durable_end;
            self.skip_held();
        }
    }

    fn skip_held(&mut self) {
        self.cursor = self.cursor.max(self.durable_end);
        while let Some((&first, &end)) = self.resend.first_key_value() {
            if first >= self.durable_end {
                break;
            }
            self.resend.remove(&first);
            if end > self.durable_end {
                self.resend.insert(self.durable_end, end);
            }
        }
    }

    /// Asserts the invariants.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let mut before = self.durable_end;
        for (first, end) in &self.resend {
            assert!(
                *first >= before && first < end && *end <= self.cursor,
                "{self:?}"
            );
            before = *end;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fresh_records_are_sent_in_order_and_failed_ones_are_resent_first() {
        let mut progress = Progress::new(Offset(10));
        let wanted = progress.next(1, Offset(30)).unwrap();
        assert_eq!((wanted.from, wanted.until), (Offset(10), Offset(30)));
        assert_eq!(
            progress.next(2, Offset(30)),
            None,
            "the read of 1 decides what comes next"
        );
        assert!(progress.on_read(1, Offset(20), 500));
        assert_eq!(progress.next(2, Offset(30)).unwrap().from, Offset(20));
        assert!(progress.on_read(2, Offset(30), 500));
        assert!(progress.on_failed(1, false));
        let again = progress.next(3, Offset(40)).unwrap();
        assert_eq!((again.from, again.until), (Offset(10), Offset(20)));
        progress.on_read(3, Offset(15), 250);
        let rest = progress.next(4, Offset(40)).unwrap();
        assert_eq!((rest.from, rest.until), (Offset(15), Offset(20)));
        progress.check();
    }

    #[test]
    fn records_that_the_secondary_holds_are_not_sent_again() {
        let mut progress = Progress::new(Offset(0));
        progress.next(1, Offset(10));
        progress.on_read(1, Offset(10), 100);
        progress.on_failed(1, false);
        progress.on_durable_end(Offset(6));
        let again = progress.next(2, Offset(10)).unwrap();
        assert_eq!((again.from, again.until), (Offset(6), Offset(10)));
    }

    #[test]
    fn a_batch_read_while_the_secondary_reports_a_later_end_is_sent_only_once() {
        let mut progress = Progress::new(Offset(10));
        progress.next(1, Offset(100));
        progress.on_durable_end(Offset(20));
        assert!(progress.on_read(1, Offset(15), 500));
        progress.check();
        let next = progress.next(2, Offset(100)).unwrap();
        assert_eq!((next.from, next.until), (Offset(20), Offset(100)));
        progress.on_read(2, Offset(100), 500);
        assert_eq!(progress.next(3, Offset(100)), None);
    }

    #[test]
    fn batches_shrink_after_time_outs_down_to_one_record_and_grow_again() {
        let mut progress = Progress::new(Offset(0));
        for attempt in 0..40 {
            let wanted = progress.next(attempt, Offset(1000)).unwrap();
            progress.on_read(attempt, wanted.from.plus(1), wanted.bytes_max);
            progress.on_failed(attempt, true);
            progress.check();
        }
        let wanted = progress.next(100, Offset(1000)).unwrap();
        assert_eq!(wanted.bytes_max, BATCH_BYTES_MIN);
        progress.on_read(100, wanted.from.plus(1), wanted.bytes_max);
        progress.on_taken(100);
        assert_eq!(progress.next(101, Offset(1000)).unwrap().bytes_max, 2);
    }

    proptest! {
        /// A naive secondary accepts each read range or not; in the end it must hold everything.
        #[test]
        fn everything_is_sent_in_the_end_whatever_fails(
            script in prop::collection::vec((0u64..5, 1u64..7, any::<bool>()), 0..200),
        ) {
            let end = Offset(40);
            let mut progress = Progress::new(Offset(0));
            let mut holds = [false; 40];
            let mut flying: Vec<(u64, Offset, Offset)> = Vec::new();
            let mut attempt = 0;
            let healing = (0..400).map(|_| (0, 3, true));
            for (kind, size, good) in script.into_iter().chain(healing) {
                attempt += 1;
                if flying.len() < 4
                    && let Some(wanted) = progress.next(attempt, end)
                {
                    let to = wanted.from.plus(size).min(wanted.until);
                    progress.on_read(attempt, to, 100);
                    flying.push((attempt, wanted.from, to));
                }
                progress.check();
                if flying.is_empty() { continue }
                let (attempt, from, to) = flying.remove(kind as usize % flying.len());
                if good {
                    holds[from.0 as usize..to.0 as usize].fill(true);
                    progress.on_taken(attempt);
                } else {
                    progress.on_failed(attempt, kind == 1);
                }
                let held = holds.iter().take_while(|held| **held).count() as u64;
                progress.on_durable_end(Offset(held));
                progress.check();
            }
            prop_assert!(holds.iter().all(|held| *held));
        }
    }
}

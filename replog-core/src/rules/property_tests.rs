//! `Reorder`, `Acks` and `Progress` against naive references, in any history of events.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use tokio::time::Instant;

use super::{
    acks::{Acks, WaiterId},
    progress::Progress,
    reorder::{Offered, Reorder},
};
use crate::{frame::testing::batch, limits::REORDER_RECORDS_MAX, types::Offset};

const SECONDARIES: usize = 3;

#[derive(Clone, Debug)]
enum Arrival {
    /// A batch at this distance from the end, or before it, with this number of records.
    Batch { ahead: i64, count: u64 },
    /// A batch about as far ahead as may be held back, just within or beyond the limit.
    Far { beyond: i64, count: u64 },
    /// A promise, or a cut of this number of records.
    Reset { cut: u64 },
}

fn any_arrival() -> impl Strategy<Value = Arrival> {
    prop_oneof![
        8 => (-6..9_i64, 1..7_u64).prop_map(|(ahead, count)| Arrival::Batch { ahead, count }),
        1 => (-3..3_i64, 1..3_u64).prop_map(|(beyond, count)| Arrival::Far { beyond, count }),
        1 => (0..4_u64).prop_map(|cut| Arrival::Reset { cut }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Rules 2, 3 and 11: batches that pass continue the log, each record once, and the window
    /// limits what is held back.
    #[test]
    fn a_reorder_buffer_is_a_set_of_offsets(
        arrivals in prop::collection::vec(any_arrival(), 1..60),
    ) {
        let mut reorder = Reorder::new(Offset(10));
        let (mut end, mut held) = (10_u64, BTreeSet::<u64>::new());
        for arrival in arrivals {
            let (first, count) = match arrival {
                Arrival::Batch { ahead, count } => (end.saturating_add_signed(ahead), count),
                Arrival::Far { beyond, count } => {
                    (end + REORDER_RECORDS_MAX.saturating_add_signed(beyond) - count, count)
                }
                Arrival::Reset { cut } => {
                    end -= cut.min(end);
                    held.clear();
                    reorder.reset(Offset(end));
                    continue;
                }
            };
            let until = first + count;
            let offered = reorder.offer(batch(first..until, 1));
            reorder.check();
            if until <= end {
                prop_assert_eq!(offered, Offered::Duplicate);
            } else if first > end && until - end > REORDER_RECORDS_MAX {
                prop_assert_eq!(offered, Offered::BeyondWindow);
            } else if first > end {
                prop_assert_eq!(offered, Offered::Held);
                held.extend(first..until);
            } else {
                held.extend(end..until);
                let Offered::Continues(batches) = offered else {
                    return Err(TestCaseError::fail(format!("{offered:?}")));
                };
                for batch in batches {
                    prop_assert_eq!(batch.first(), Offset(end));
                    end = batch.end().0;
                }
                held = held.split_off(&end);
                prop_assert!(!held.contains(&end), "{} might have passed", end);
            }
            prop_assert_eq!((reorder.end().0, reorder.held_records()), (end, held.len() as u64));
        }
    }
}

/// A waiting append: concern, offset, deadline, and caller.
type Waiting = (u32, u64, Option<u64>, u32);

#[derive(Clone, Debug)]
enum Event {
    OwnEnd(u64),
    End(usize, Option<u64>),
    Wait(u32, u64, Option<u64>),
    /// This number of seconds passes.
    Expire(u64),
    /// This caller is gone, if it waits.
    Gone(u32),
    Drain,
}

fn any_event() -> impl Strategy<Value = Event> {
    let end = || prop::option::weighted(0.8, 0..25_u64);
    prop_oneof![
        3 => (0..25_u64).prop_map(Event::OwnEnd),
        6 => (0..SECONDARIES, end()).prop_map(|(secondary, end)| Event::End(secondary, end)),
        8 => (1..=4_u32, 0..25_u64, prop::option::of(0..30_u64))
            .prop_map(|(concern, offset, deadline)| Event::Wait(concern, offset, deadline)),
        3 => (0..4_u64).prop_map(Event::Expire),
        3 => (0..100_u32).prop_map(Event::Gone),
        1 => Just(Event::Drain),
    ]
}

/// Every waiting append and every end, compared one by one.
#[derive(Default)]
struct NaiveAcks {
    own: u64,
    ends: [Option<u64>; SECONDARIES],
    committed: Option<u64>,
    waiting: Vec<Waiting>,
}

impl NaiveAcks {
    fn holders(&self, offset: u64) -> u32 {
        let others = self.ends.iter().flatten().filter(|end| offset < **end);
        u32::from(offset < self.own) + others.count() as u32
    }

    fn is_met(&self, concern: u32, offset: u64) -> bool {
        offset < self.own && self.holders(offset) >= concern
    }

    /// Two of three secondaries and the master are a majority of four.
    fn commit(&mut self) {
        let mut ends: Vec<u64> = self.ends.iter().flatten().copied().collect();
        ends.sort_unstable();
        if ends.len() >= 2 {
            let held = self.own.min(ends[ends.len() - 2]);
            self.committed = self.committed.max(Some(held));
        }
    }

    fn take(&mut self, gone: impl Fn(&NaiveAcks, &Waiting) -> bool) -> Vec<u32> {
        let waiting = std::mem::take(&mut self.waiting);
        let (mut taken, left): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|w| gone(self, w));
        self.waiting = left;
        taken.sort_unstable_by_key(|(.., who)| *who);
        taken.into_iter().map(|(.., who)| who).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Rules 4 and 6: appends are answered when a count of the ends says so.
    #[test]
    fn acks_answer_the_appends_that_a_count_would_answer(
        events in prop::collection::vec(any_event(), 1..100),
    ) {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut acks, mut naive) = (Acks::new(Offset(0), SECONDARIES), NaiveAcks::default());
        let mut now = 0;
        for (event, who) in events.into_iter().zip(0..) {
            let mut answered = Vec::new();
            let mut expected = Vec::new();
            match event {
                Event::OwnEnd(end) => {
                    naive.own = naive.own.max(end);
                    acks.on_own_end(Offset(end));
                }
                Event::End(secondary, end) => {
                    naive.ends[secondary] = end;
                    acks.on_end(secondary, end.map(Offset));
                }
                Event::Wait(concern, offset, deadline) => {
                    naive.waiting.push((concern, offset, deadline, who));
                    let id = WaiterId(who.into());
                    acks.wait(concern, Offset(offset), deadline.map(at), id, who);
                }
                Event::Expire(seconds) => {
                    now += seconds;
                    answered.extend(acks.expire(at(now)));
                    let due = |waiting: &Waiting| waiting.2.is_some_and(|deadline| deadline <= now);
                    expected = naive.take(|naive, w| due(w) && w.1 < naive.own);
                    for waiting in naive.waiting.iter_mut().filter(|waiting| due(waiting)) {
                        (waiting.0, waiting.2) = (1, None);
                    }
                }
                Event::Gone(who) => {
                    acks.forget(WaiterId(who.into()));
                    naive.take(|_, waiting| waiting.3 == who);
                }
                Event::Drain => {
                    answered.extend(acks.drain());
                    expected = naive.take(|_, _| true);
                }
            }
            naive.commit();
            acks.check();
            let mut who_is: Vec<u32> = answered.into_iter().map(|released| released.waiter).collect();
            who_is.sort_unstable();
            prop_assert_eq!(who_is, expected);
            let released = acks.release();
            acks.check();
            let mut who_is: Vec<u32> = released.into_iter().map(|released| released.waiter).collect();
            who_is.sort_unstable();
            prop_assert_eq!(who_is, naive.take(|naive, w| naive.is_met(w.0, w.1)));
            prop_assert_eq!(acks.committed(), naive.committed.map(Offset));
            prop_assert_eq!(acks.waiting(), naive.waiting.len());
            prop_assert_eq!(acks.next_deadline(), naive.waiting.iter().filter_map(|w| w.2).min().map(at));
            let oldest: Vec<u64> = acks.oldest(5).into_iter().map(|(offset, _)| offset.0).collect();
            let mut offsets: Vec<u64> = naive.waiting.iter().map(|w| w.1).collect();
            offsets.sort_unstable();
            offsets.truncate(5);
            prop_assert_eq!(oldest, offsets);
            for offset in 0..25 {
                prop_assert_eq!(acks.holders(Offset(offset)).count(), naive.holders(offset));
            }
        }
    }
}

/// An event of one of the batches, or around them.
#[derive(Clone, Debug)]
enum Flight {
    Next,
    /// The current read returns with this number of records, or fails.
    Read(u64),
    ReadFailed,
    Taken(usize),
    Failed(usize, bool),
    /// The master writes more.
    Written(u64),
    /// The secondary reports its end.
    Named,
    /// The secondary holds more than this conversation sent it: a batch of an older one arrived
    /// late.
    Late(u64),
}

fn any_flight() -> impl Strategy<Value = Flight> {
    prop_oneof![
        6 => Just(Flight::Next),
        6 => (1..8_u64).prop_map(Flight::Read),
        1 => Just(Flight::ReadFailed),
        3 => (0..64_usize).prop_map(Flight::Taken),
        3 => (0..64_usize, any::<bool>()).prop_map(|(at, timed_out)| Flight::Failed(at, timed_out)),
        2 => (1..10_u64).prop_map(Flight::Written),
        3 => Just(Flight::Named),
        1 => (1..5_u64).prop_map(Flight::Late),
    ]
}

/// A secondary and a network, record by record.
#[derive(Default)]
struct NaiveFlight {
    written: u64,
    /// Offsets that the secondary has, including those behind gaps.
    has: BTreeSet<u64>,
    /// The attempt that is being read, and its range.
    reading: Option<(u64, u64, u64)>,
    /// Attempts that were sent, and their records.
    sent: Vec<(u64, u64, u64)>,
}

impl NaiveFlight {
    fn end(&self) -> u64 {
        (0..).find(|offset| !self.has.contains(offset)).unwrap_or(0)
    }

    fn step(&mut self, progress: &mut Progress, flight: &Flight, attempt: u64) {
        match flight {
            Flight::Next => {
                let Some(wanted) = progress.next(attempt, Offset(self.written)) else {
                    return;
                };
                assert!(self.reading.is_none(), "one read at a time");
                assert!(wanted.from >= progress.durable_end() && wanted.from < wanted.until);
                assert!(wanted.until.0 <= self.written, "{wanted:?} is not written");
                self.reading = Some((attempt, wanted.from.0, wanted.until.0));
            }
            Flight::Read(count) => {
                let Some((attempt, from, until)) = self.reading.take() else {
                    return;
                };
                let end = until.min(from + count);
                assert!(progress.on_read(attempt, Offset(end), 100));
                // Rule 7: nothing twice. Records in flight are not sent again until they failed.
                let mut others = self.sent.iter();
                assert!(others.all(|(_, first, until)| end <= *first || *until <= from));
                self.sent.push((attempt, from, end));
            }
            Flight::ReadFailed => {
                if let Some((attempt, ..)) = self.reading.take() {
                    assert!(progress.on_failed(attempt, false));
                }
            }
            Flight::Taken(at) if !self.sent.is_empty() => {
                let (attempt, from, end) = self.sent.remove(at % self.sent.len());
                self.has.extend(from..end);
                assert!(progress.on_taken(attempt));
            }
            Flight::Failed(at, timed_out) if !self.sent.is_empty() => {
                let (attempt, ..) = self.sent.remove(at % self.sent.len());
                assert!(progress.on_failed(attempt, *timed_out));
                assert!(!progress.on_failed(attempt, *timed_out), "it failed twice");
            }
            Flight::Written(count) => self.written += count,
            Flight::Named => progress.on_durable_end(Offset(self.end())),
            Flight::Late(count) => {
                let end = self.end();
                self.has.extend(end..self.written.min(end + count));
            }
            Flight::Taken(_) | Flight::Failed(..) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Rule 7: whatever fails, and whenever, everything arrives, and nothing is in flight twice.
    #[test]
    fn progress_sends_everything_and_has_nothing_in_flight_twice(
        flights in prop::collection::vec(any_flight(), 1..150),
    ) {
        let mut naive = NaiveFlight { written: 10, ..NaiveFlight::default() };
        let mut progress = Progress::new(Offset(0));
        let mut attempt = 0;
        for flight in &flights {
            attempt += 1;
            naive.step(&mut progress, flight, attempt);
            progress.check();
        }
        // After that, everything succeeds and completes.
        let good = [Flight::Next, Flight::Read(8), Flight::Taken(0), Flight::Named];
        for _ in 0..2 * naive.written {
            for flight in &good {
                attempt += 1;
                naive.step(&mut progress, flight, attempt);
                progress.check();
            }
        }
        prop_assert_eq!(naive.end(), naive.written);
        prop_assert_eq!(progress.batches_in_flight(), 0);
        prop_assert_eq!(progress.next(attempt + 1, Offset(naive.written)), None);
    }
}

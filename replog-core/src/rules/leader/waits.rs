//! Waits for the concern of a message that was appended before.
//!
//! Owns nothing: a part of [`Leader`] that has an interface of its own. Such a wait joins the waiting appends,
//! counts towards the same limit, and is answered as they are. Keeps rules 4 and 6.

use super::*;

/// A wait to be admitted.
#[derive(Debug)]
pub(crate) struct NewWait<W> {
    /// Offset of the last message of the append.
    pub(crate) last: Offset,
    pub(crate) concern: Concern,
    /// Maximum wait, from its arrival; zero: answer once the master holds the message.
    pub(crate) timeout: Option<Duration>,
    pub(crate) arrived: Instant,
    /// Unique among those that wait.
    pub(crate) waiter: WaiterId,
    pub(crate) caller: W,
}

impl<W> Leader<W> {
    /// Registers a wait; [`Leader::settle`] answers it, perhaps at once. Returns the answer if the wait is
    /// refused; a message that does not exist is reported as [`AppendError::OffsetMismatch`].
    pub(crate) fn wait(
        &mut self,
        now: Instant,
        disk: &DiskSpace,
        wait: NewWait<W>,
    ) -> Option<Answered<W>> {
        let concern = match self.check_new_wait(now, disk, &wait) {
            Ok(concern) => concern,
            Err(error) => {
                return Some(Answered {
                    caller: wait.caller,
                    result: Err(error),
                });
            }
        };
        let NewWait {
            last,
            timeout,
            arrived,
            waiter: id,
            caller,
            ..
        } = wait;
        let place = Place {
            concern,
            offset: last,
            last,
            epoch: self.epoch,
            replayed: true,
        };
        let waiter = Waiter {
            caller,
            place,
            arrived,
        };
        let deadline = deadline_of(timeout, arrived);
        self.acks
            .wait(queue_of(concern, timeout), last, deadline, id, waiter);
        None
    }

    fn check_new_wait(
        &self,
        now: Instant,
        disk: &DiskSpace,
        wait: &NewWait<W>,
    ) -> Result<u32, AppendError> {
        let nodes = self.acks.nodes();
        let Some(concern) = wait.concern.resolve(nodes) else {
            return Err(AppendError::Concern { nodes });
        };
        if self.acks.holders(wait.last).meets(concern) {
            return Ok(concern);
        }
        // Refuses waits that can never complete. A missing quorum may come back, so it is not a reason.
        if (self.stopping || self.state != State::Serving)
            && let Some(closed) = self.refusal(now, disk)
        {
            return Err(closed);
        }
        if wait.last >= self.next {
            return Err(AppendError::OffsetMismatch { next: self.next });
        }
        self.check_limit(queue_of(concern, wait.timeout))?;
        Ok(concern)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::*, *};

    /// Returns a wait for the message at offset 10.
    fn wait(concern: Concern, timeout: Option<Duration>, now: Instant) -> NewWait<u32> {
        NewWait {
            last: Offset(10),
            concern,
            timeout,
            arrived: now,
            waiter: new_waiter(),
            caller: 7,
        }
    }

    /// Returns a bench with one message at offset 10 that the master and the first secondary hold.
    fn held_by_two() -> Bench {
        let mut bench = Bench::serving();
        bench.admit(vec![append(Concern::Count(1), None, bench.now, 1)]);
        bench.leader.on_durable(Offset(11));
        bench.report(0, Some(11));
        assert_eq!(bench.leader.settle(bench.now).len(), 1);
        bench
    }

    fn met(answered: &[Answered<u32>]) -> Vec<(u32, u32, bool)> {
        let each = answered.iter().map(|answered| {
            let receipt = answered.result.as_ref().unwrap();
            (answered.caller, receipt.concern, receipt.concern_met)
        });
        each.collect()
    }

    #[test]
    fn a_met_concern_is_answered_at_once_and_an_unmet_one_when_it_is_met() {
        let mut bench = held_by_two();
        let (now, two, all) = (bench.now, Concern::Count(2), Concern::All);
        assert!(
            bench
                .leader
                .wait(now, &bench.disk, wait(two, None, now))
                .is_none()
        );
        assert_eq!(met(&bench.leader.settle(now)), [(7, 2, true)]);
        assert!(
            bench
                .leader
                .wait(now, &bench.disk, wait(all, None, now))
                .is_none()
        );
        assert!(bench.leader.settle(now).is_empty());
        bench.report(1, Some(11));
        assert_eq!(met(&bench.leader.settle(now)), [(7, 3, true)]);
    }

    #[test]
    fn a_wait_whose_time_is_up_is_answered_with_concern_not_met() {
        let mut bench = held_by_two();
        let (now, later) = (bench.now, bench.now + SECOND);
        for timeout in [SECOND, Duration::ZERO] {
            let refused =
                bench
                    .leader
                    .wait(now, &bench.disk, wait(Concern::All, Some(timeout), now));
            assert!(refused.is_none());
        }
        assert_eq!(met(&bench.leader.settle(now)), [(7, 3, false)]);
        assert_eq!(met(&bench.leader.settle(later)), [(7, 3, false)]);
    }

    #[test]
    fn a_refused_wait_is_answered_with_the_reason() {
        let mut bench = held_by_two();
        let now = bench.now;
        let mut refused = |wait| {
            let answered = bench
                .leader
                .wait(now, &bench.disk, wait)
                .expect("it is refused");
            answered.result.unwrap_err()
        };
        let error = refused(wait(Concern::Count(4), None, now));
        assert!(matches!(error, AppendError::Concern { nodes: 3 }));
        let next = Offset(11);
        let error = refused(NewWait {
            last: next,
            ..wait(Concern::All, None, now)
        });
        assert!(matches!(error, AppendError::OffsetMismatch { next: n } if n == next));
        for _ in 0..3 {
            let waits = bench
                .leader
                .wait(now, &bench.disk, wait(Concern::All, None, now));
            assert!(waits.is_none());
        }
        let error = bench
            .leader
            .wait(now, &bench.disk, wait(Concern::All, None, now))
            .unwrap();
        assert!(matches!(error.result, Err(AppendError::Overloaded { .. })));
    }

    #[test]
    fn the_longest_wait_is_that_of_the_first_arrival_at_any_offset() {
        let mut bench = held_by_two();
        let began = bench.now;
        assert_eq!(bench.leader.oldest_waiting(began), None);
        assert!(bench.one(Concern::All, None, 1).is_none());
        bench.now += SECOND;
        // For a message before that one.
        let wait = wait(Concern::All, None, bench.now);
        assert!(bench.leader.wait(bench.now, &bench.disk, wait).is_none());
        let listed = bench.leader.waiting_appends(bench.now, 1);
        assert_eq!(listed.appends[0].offset, Offset(10));
        bench.now += SECOND;
        assert_eq!(bench.leader.oldest_waiting(bench.now), Some(2 * SECOND));
        // Waits whose record cannot be read count too.
        bench.leader.on_own_holes(&[Offset(11)..Offset(12)]);
        assert_eq!(bench.leader.oldest_waiting(bench.now), Some(2 * SECOND));
    }

    #[test]
    fn a_wait_ends_when_its_caller_is_gone() {
        let mut bench = held_by_two();
        let now = bench.now;
        let gone = wait(Concern::All, None, now);
        let waiter = gone.waiter;
        assert!(bench.leader.wait(now, &bench.disk, gone).is_none());
        bench.leader.forget(waiter);
        assert_eq!(bench.leader.waiting(), 0);
        bench.report(1, Some(11));
        assert!(bench.leader.settle(now).is_empty());
    }

    #[test]
    fn waits_end_when_leadership_ends() {
        for end in ENDS {
            let mut bench = held_by_two();
            let now = bench.now;
            let waits = bench
                .leader
                .wait(now, &bench.disk, wait(Concern::All, None, now));
            assert!(waits.is_none());
            let ended = end(&mut bench);
            assert!(ended.len() == 1 && ended[0].result.is_err(), "{ended:?}");
            let refused = bench
                .leader
                .wait(now, &bench.disk, wait(Concern::All, None, now));
            assert!(refused.is_some_and(|refused| refused.result.is_err()));
        }
    }
}

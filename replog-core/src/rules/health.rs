//! Status of one secondary, as the master sees it: `Healthy`, `Suspected`, `Unhealthy`.
//!
//! Owns the times of the last contact and of the last records accepted, and nothing else. Never
//! reads a clock, never sends, never logs: the link does. Keeps rule 8: the status is a function of
//! the time asked about, so a master that was paused does not act on outdated information.

use std::time::Duration;

use tokio::time::Instant;

use crate::{config::Timing, types::Status};

/// Times of a secondary's last contact and of its last progress. Small, and copied to parts that
/// need the status at another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    suspect_after: Duration,
    unhealthy_after: Duration,
    watched_since: Instant,
    last_contact: Option<Instant>,
    /// The time since which records have been due and none was accepted.
    stalled_since: Option<Instant>,
}

impl Health {
    pub(crate) fn new(timing: &Timing, now: Instant) -> Health {
        Health {
            suspect_after: timing.suspect_after,
            unhealthy_after: timing.unhealthy_after,
            watched_since: now,
            last_contact: None,
            stalled_since: None,
        }
    }

    /// Notes a valid answer of the right node. After an absence, the time in which it must accept the
    /// records due starts again: records that could not be sent do not count against it.
    pub(crate) fn on_contact(&mut self, now: Instant) {
        if self.silence(now) >= self.suspect_after
            && let Some(stalled_since) = &mut self.stalled_since
        {
            *stalled_since = now;
        }
        self.last_contact = Some(self.last_contact.map_or(now, |before| before.max(now)));
    }

    /// Notes that there are records to send to this secondary. Repeated calls change nothing.
    pub(crate) fn on_records_due(&mut self, now: Instant) {
        self.stalled_since.get_or_insert(now);
    }

    /// Notes that the secondary accepted records; `more_due` says whether it still lacks some.
    pub(crate) fn on_records_taken(&mut self, now: Instant, more_due: bool) {
        self.stalled_since = more_due.then_some(now);
    }

    /// Returns the status at `now`.
    pub(crate) fn status(&self, now: Instant) -> Status {
        if self.silence(now) >= self.unhealthy_after {
            Status::Unhealthy
        } else if self.last_contact.is_none()
            || self.silence(now) >= self.suspect_after
            || self.is_stalled(now)
        {
            Status::Suspected
        } else {
            Status::Healthy
        }
    }

    /// Returns `true` if the secondary answers, but has accepted none of the records due for
    /// `suspect_after`.
    pub(crate) fn is_stalled(&self, now: Instant) -> bool {
        self.stalled_since
            .is_some_and(|since| now.duration_since(since) >= self.suspect_after)
    }

    /// Returns the time of the last contact.
    pub(crate) fn last_contact(&self) -> Option<Instant> {
        self.last_contact
    }

    /// Returns the time of the next change of status if nothing happens until then.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let heard = self.last_contact.unwrap_or(self.watched_since);
        let moments = [
            Some(heard + self.suspect_after),
            Some(heard + self.unhealthy_after),
            self.stalled_since.map(|since| since + self.suspect_after),
        ];
        moments
            .into_iter()
            .flatten()
            .filter(|moment| *moment > now)
            .min()
    }

    fn silence(&self, now: Instant) -> Duration {
        now.duration_since(self.last_contact.unwrap_or(self.watched_since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn watched() -> (Health, Instant) {
        let now = Instant::now();
        (Health::new(&Timing::default(), now), now)
    }

    #[test]
    fn a_secondary_that_was_never_reached_is_suspected_and_then_unhealthy() {
        let (health, t0) = watched();
        assert_eq!(health.status(t0), Status::Suspected);
        assert_eq!(health.status(t0 + 3 * SECOND), Status::Unhealthy);
    }

    #[test]
    fn silence_leads_through_suspected_to_unhealthy_and_one_contact_back() {
        let (mut health, t0) = watched();
        health.on_contact(t0);
        let table = [
            (0, Status::Healthy),
            (999, Status::Healthy),
            (1000, Status::Suspected),
            (2999, Status::Suspected),
            (3000, Status::Unhealthy),
            (1_000_000, Status::Unhealthy),
        ];
        for (after_ms, status) in table {
            assert_eq!(
                health.status(t0 + Duration::from_millis(after_ms)),
                status,
                "{after_ms}"
            );
        }
        health.on_contact(t0 + 100 * SECOND);
        assert_eq!(health.status(t0 + 100 * SECOND), Status::Healthy);
    }

    #[test]
    fn a_secondary_that_answers_but_accepts_no_records_is_suspected() {
        let (mut health, t0) = watched();
        health.on_records_due(t0);
        for tenth in 0..=20 {
            health.on_contact(t0 + tenth * SECOND / 10);
            health.on_records_due(t0 + tenth * SECOND / 10);
        }
        assert_eq!(health.status(t0 + 2 * SECOND), Status::Suspected);
        health.on_records_taken(t0 + 2 * SECOND, true);
        assert_eq!(health.status(t0 + 2 * SECOND), Status::Healthy);
        health.on_records_taken(t0 + 2 * SECOND, false);
        health.on_contact(t0 + 9 * SECOND);
        assert_eq!(health.status(t0 + 9 * SECOND), Status::Healthy);
    }

    #[test]
    fn a_secondary_that_returns_is_healthy_at_once_and_gets_time_to_accept_records() {
        let (mut health, t0) = watched();
        health.on_contact(t0);
        health.on_records_due(t0);
        let back = t0 + 60 * SECOND;
        assert_eq!(health.status(back), Status::Unhealthy);
        health.on_contact(back);
        assert_eq!(health.status(back), Status::Healthy);
        // It answers but accepts nothing.
        for tenth in 1..=10 {
            health.on_contact(back + tenth * SECOND / 10);
        }
        assert_eq!(health.status(back + SECOND), Status::Suspected);
    }

    #[test]
    fn the_status_changes_at_the_next_deadline() {
        let (mut health, t0) = watched();
        health.on_contact(t0);
        assert_eq!(health.next_deadline(t0), Some(t0 + SECOND));
        assert_eq!(health.next_deadline(t0 + SECOND), Some(t0 + 3 * SECOND));
        assert_eq!(health.next_deadline(t0 + 3 * SECOND), None);
    }

    #[test]
    fn an_older_contact_that_is_reported_late_changes_nothing() {
        let (mut health, t0) = watched();
        health.on_contact(t0 + SECOND);
        health.on_contact(t0);
        assert_eq!(health.last_contact(), Some(t0 + SECOND));
    }
}

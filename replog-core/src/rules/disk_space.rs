//! A disk that refuses writes or has failed: the times at which to check for space again.
//!
//! Owns the disk's last error, whether that is final, and the time of the next probe. Never writes: the log writer probes
//! when told to, and both results come back. A node that has just found space and loses it again
//! waits longer each time, so that it does not flap. Keeps rule 10.
//!
//! ```text
//!   Ok ──on_write_failed──▶ outage; probe after a wait ──on_resumed──▶ Ok
//!                            ▲ longer each time │ refused again
//!                            └──────────────────┘
//! ```

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    limits::{SPACE_CALM, SPACE_PROBE_DELAY_MAX, SPACE_PROBE_DELAY_MIN},
    types::DiskState,
};

/// Disk space and write outages of a node's disk.
#[derive(Debug)]
pub(crate) struct DiskSpace {
    outage: Option<WriteOutage>,
    /// Length of the last delay before a probe.
    delay: Duration,
    probe_at: Option<Instant>,
    resumed_at: Option<Instant>,
    /// The error of a disk that has failed for good.
    failure: Option<Arc<str>>,
}

/// The refusal of writes by a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WriteOutage {
    /// Full, or failing in another way.
    pub(crate) disk: DiskState,
    /// The disk's error.
    pub(crate) detail: Arc<str>,
}

impl DiskSpace {
    /// Creates the state of a disk that accepts writes.
    pub(crate) fn new() -> DiskSpace {
        DiskSpace {
            outage: None,
            delay: SPACE_PROBE_DELAY_MIN,
            probe_at: None,
            resumed_at: None,
            failure: None,
        }
    }

    /// Notes a refused write, or a failed probe. Returns `true` if the outage was not known
    /// before.
    pub(crate) fn on_write_failed(&mut self, now: Instant, outage: WriteOutage) -> bool {
        assert_ne!(outage.disk, DiskState::Ok, "an outage has a cause");
        let is_news = self.outage.replace(outage).is_none();
        let calm = self.resumed_at.is_none_or(|at| now >= at + SPACE_CALM);
        self.delay = match is_news && calm {
            true => SPACE_PROBE_DELAY_MIN,
            false => (self.delay * 2).min(SPACE_PROBE_DELAY_MAX),
        };
        self.probe_at = Some(now + self.delay);
        is_news
    }

    /// Ends the outage: a probe found space.
    pub(crate) fn on_resumed(&mut self, now: Instant) {
        self.outage = None;
        self.probe_at = None;
        self.resumed_at = Some(now);
    }

    /// Notes a permanent failure: the node stops, and nothing is written any more.
    pub(crate) fn on_failed(&mut self, detail: Arc<str>) {
        self.failure = Some(detail);
    }

    /// Returns `true` if it is time to probe; only once per deadline.
    pub(crate) fn should_probe(&mut self, now: Instant) -> bool {
        self.probe_at.take_if(|at| *at <= now).is_some()
    }

    /// Returns the next time at which [`DiskSpace::should_probe`] returns `true`.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.probe_at
    }

    /// Returns the outage while the disk refuses writes.
    pub(crate) fn outage(&self) -> Option<&WriteOutage> {
        self.outage.as_ref()
    }

    /// Returns the error of a disk that has failed for good.
    pub(crate) fn failure(&self) -> Option<&Arc<str>> {
        self.failure.as_ref()
    }

    /// Returns the error because of which nothing can be written now.
    pub(crate) fn refusal(&self) -> Option<&Arc<str>> {
        let outage = self.outage.as_ref().map(|outage| &outage.detail);
        self.failure.as_ref().or(outage)
    }

    /// Returns the condition of the disk.
    pub(crate) fn disk(&self) -> DiskState {
        match (&self.failure, &self.outage) {
            (Some(_), _) => DiskState::Failed,
            (None, Some(outage)) => outage.disk,
            (None, None) => DiskState::Ok,
        }
    }
}

impl WriteOutage {
    /// Describes the outage in one sentence for people.
    pub(crate) fn describe(&self) -> String {
        match self.disk {
            DiskState::Full => format!("its disk is full: {}", self.detail),
            DiskState::Ok | DiskState::Failed => {
                format!("its disk refuses writes: {}", self.detail)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> WriteOutage {
        WriteOutage {
            disk: DiskState::Full,
            detail: "no space".into(),
        }
    }

    /// Lets time pass up to the next probe; returns the time that it took.
    fn wait(disk_space: &mut DiskSpace, now: &mut Instant) -> Duration {
        assert!(!disk_space.should_probe(*now));
        let at = disk_space.next_deadline().unwrap();
        let waited = at - std::mem::replace(now, at);
        assert!(disk_space.should_probe(*now));
        assert!(!disk_space.should_probe(*now), "one probe for each time");
        assert_eq!(
            disk_space.next_deadline(),
            None,
            "no second probe while one is in progress"
        );
        waited
    }

    #[test]
    fn the_probe_delay_grows_up_to_a_limit_while_the_disk_is_full() {
        let (mut disk_space, mut now) = (DiskSpace::new(), Instant::now());
        assert_eq!(
            (disk_space.disk(), disk_space.next_deadline()),
            (DiskState::Ok, None)
        );
        assert!(disk_space.on_write_failed(now, full()));
        assert_eq!(disk_space.disk(), DiskState::Full);
        let mut expected = SPACE_PROBE_DELAY_MIN;
        for _ in 0..10 {
            assert_eq!(wait(&mut disk_space, &mut now), expected);
            assert!(
                !disk_space.on_write_failed(now, full()),
                "the outage is already known"
            );
            expected = (expected * 2).min(SPACE_PROBE_DELAY_MAX);
        }
        assert_eq!(expected, SPACE_PROBE_DELAY_MAX);
        wait(&mut disk_space, &mut now);
        disk_space.on_resumed(now);
        assert_eq!(
            (disk_space.disk(), disk_space.next_deadline()),
            (DiskState::Ok, None)
        );
    }

    #[test]
    fn a_disk_that_fills_up_again_at_once_waits_longer_each_time() {
        let (mut disk_space, mut now) = (DiskSpace::new(), Instant::now());
        let mut waited = Vec::new();
        for _ in 0..8 {
            assert!(disk_space.on_write_failed(now, full()));
            waited.push(wait(&mut disk_space, &mut now));
            disk_space.on_resumed(now);
            now += Duration::from_millis(1);
        }
        assert!(waited.is_sorted() && waited[0] < waited[3], "{waited:?}");
        assert_eq!(waited[7], SPACE_PROBE_DELAY_MAX);
        now += SPACE_CALM;
        assert!(disk_space.on_write_failed(now, full()));
        assert_eq!(wait(&mut disk_space, &mut now), SPACE_PROBE_DELAY_MIN);
    }
}

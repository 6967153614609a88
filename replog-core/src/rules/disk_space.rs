//! A disk that refuses writes: when to see whether there is room again.
//!
//! Owns what the disk last said and the time of the next probe. Never writes: the log writer
//! probes when told to, and both its answers come back. A node that has just found room and
//! loses it again waits longer each time, so that it does not flap. Keeps rule 10.
//!
//! ```text
//!   Ok ──on_write_failed──▶ short, probe after a delay ──on_resumed──▶ Ok
//!                            ▲ longer each time │ refused again
//!                            └──────────────────┘
//! ```

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    limits::{ROOM_CALM, ROOM_PROBE_DELAY_MAX, ROOM_PROBE_DELAY_MIN},
    types::DiskState,
};

/// Whether a node's disk takes writes.
#[derive(Debug)]
pub(crate) struct DiskSpace {
    outage: Option<WriteOutage>,
    /// How long it waited last before it looked.
    delay: Duration,
    probe_at: Option<Instant>,
    resumed_at: Option<Instant>,
}

/// What a disk that refuses writes said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WriteOutage {
    /// Full, or failing in another way.
    pub(crate) disk: DiskState,
    /// What the disk said.
    pub(crate) detail: Arc<str>,
}

impl DiskSpace {
    /// Of a disk that takes writes.
    pub(crate) fn new() -> DiskSpace {
        DiskSpace {
            outage: None,
            delay: ROOM_PROBE_DELAY_MIN,
            probe_at: None,
            resumed_at: None,
        }
    }

    /// A write was refused, that of a probe too. True: it was not known to be so before.
    pub(crate) fn on_write_failed(&mut self, now: Instant, outage: WriteOutage) -> bool {
        assert_ne!(outage.disk, DiskState::Ok, "a refusal says why");
        let is_news = self.outage.replace(outage).is_none();
        let calm = self.resumed_at.is_none_or(|at| now >= at + ROOM_CALM);
        self.delay = match is_news && calm {
            true => ROOM_PROBE_DELAY_MIN,
            false => (self.delay * 2).min(ROOM_PROBE_DELAY_MAX),
        };
        self.probe_at = Some(now + self.delay);
        is_news
    }

    /// A probe found room.
    pub(crate) fn on_resumed(&mut self, now: Instant) {
        self.outage = None;
        self.probe_at = None;
        self.resumed_at = Some(now);
    }

    /// Whether to probe now; true once for each time that comes.
    pub(crate) fn should_probe(&mut self, now: Instant) -> bool {
        self.probe_at.take_if(|at| *at <= now).is_some()
    }

    /// When [`Room::should_probe`] says yes.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.probe_at
    }

    /// What the disk said, while it refuses writes.
    pub(crate) fn outage(&self) -> Option<&WriteOutage> {
        self.outage.as_ref()
    }

    /// How the disk does.
    pub(crate) fn disk(&self) -> DiskState {
        self.outage
            .as_ref()
            .map_or(DiskState::Ok, |outage| outage.disk)
    }
}

impl WriteOutage {
    /// One sentence for people.
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

    /// Lets time pass up to the next probe; how long that took.
    fn wait(disk_space: &mut DiskSpace, now: &mut Instant) -> Duration {
        assert!(!disk_space.should_probe(*now));
        let at = disk_space.next_deadline().unwrap();
        let waited = at - std::mem::replace(now, at);
        assert!(disk_space.should_probe(*now));
        assert!(!disk_space.should_probe(*now), "one probe for each time");
        assert_eq!(
            disk_space.next_deadline(),
            None,
            "none while one is under way"
        );
        waited
    }

    #[test]
    fn probes_come_less_often_up_to_a_limit_while_there_is_no_room() {
        let (mut disk_space, mut now) = (DiskSpace::new(), Instant::now());
        assert_eq!(
            (disk_space.disk(), disk_space.next_deadline()),
            (DiskState::Ok, None)
        );
        assert!(disk_space.on_write_failed(now, full()));
        assert_eq!(disk_space.disk(), DiskState::Full);
        let mut expected = ROOM_PROBE_DELAY_MIN;
        for _ in 0..10 {
            assert_eq!(wait(&mut disk_space, &mut now), expected);
            assert!(!disk_space.on_write_failed(now, full()), "that is no news");
            expected = (expected * 2).min(ROOM_PROBE_DELAY_MAX);
        }
        assert_eq!(expected, ROOM_PROBE_DELAY_MAX);
        wait(&mut disk_space, &mut now);
        disk_space.on_resumed(now);
        assert_eq!(
            (disk_space.disk(), disk_space.next_deadline()),
            (DiskState::Ok, None)
        );
    }

    #[test]
    fn one_that_runs_full_again_at_once_waits_longer_each_time() {
        let (mut disk_space, mut now) = (DiskSpace::new(), Instant::now());
        let mut waited = Vec::new();
        for _ in 0..8 {
            assert!(disk_space.on_write_failed(now, full()));
            waited.push(wait(&mut disk_space, &mut now));
            disk_space.on_resumed(now);
            now += Duration::from_millis(1);
        }
        assert!(waited.is_sorted() && waited[0] < waited[3], "{waited:?}");
        assert_eq!(waited[7], ROOM_PROBE_DELAY_MAX);
        now += ROOM_CALM;
        assert!(disk_space.on_write_failed(now, full()));
        assert_eq!(wait(&mut disk_space, &mut now), ROOM_PROBE_DELAY_MIN);
    }
}

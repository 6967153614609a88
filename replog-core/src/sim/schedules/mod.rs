//! Schedules: exact event sequences that broke lesser protocols, replayed with the real actors.
//!
//! Each leaves irrelevant details to the seed (delays, order of execution, amounts) and claims the
//! relevant ones, so that it cannot silently come to nothing. For each there are mistakes
//! (`MISTAKES.md`) that it must find.

mod damage;
mod disks;
mod epochs;
mod forged;
mod hellos;
mod masters;
mod refill;
mod repair;

use std::{fmt, future::Future, pin::Pin, rc::Rc, time::Duration};

use super::{Faults, Simulation, cluster::Cluster, stage::Stage};
use crate::TakeOver;

const MASTER: &str = "master";
const S1: &str = "secondary-1";
const S2: &str = "secondary-2";
const S3: &str = "secondary-3";
const S4: &str = "secondary-4";

/// A story ends with an append at concern `all` that it does not wait for: rule 7 checks that it is
/// answered before the run ends.
type Story = Rc<dyn Fn(Stage) -> Pin<Box<dyn Future<Output = ()>>>>;

/// A schedule: a story, and the cluster that it runs on.
#[derive(Clone)]
#[non_exhaustive]
pub struct Schedule {
    /// Its name, for the command line.
    pub name: &'static str,
    /// The events in it.
    pub about: &'static str,
    secondaries: usize,
    standby_masters: usize,
    /// Drawn from the seed if not given.
    segment_bytes: Option<u64>,
    preallocate_bytes: u64,
    /// False if nothing reads a log by itself.
    is_read: bool,
    take_over: TakeOver,
    story: Story,
}

impl Schedule {
    /// Returns all schedules.
    #[must_use]
    pub fn all() -> Vec<Schedule> {
        [
            epochs::all(),
            hellos::all(),
            refill::all(),
            masters::all(),
            disks::all(),
            damage::all(),
            repair::all(),
            forged::all(),
        ]
        .concat()
    }

    /// Returns the run of it from a seed.
    #[must_use]
    pub fn simulation(&self, seed: u64) -> Simulation {
        use rand::{RngExt as _, SeedableRng as _};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed ^ 0x5c_4e_d0_1e);
        let segment_bytes = rng.random_range(4 << 10..16 << 10);
        let cluster = Cluster {
            secondaries: self.secondaries,
            standby_masters: self.standby_masters,
            take_over: self.take_over,
            clients: 0,
            segment_bytes: self.segment_bytes.unwrap_or(segment_bytes),
            tail_bytes: rng.random_range(0..4 << 10),
            preallocate_bytes: self.preallocate_bytes,
            key_horizon: match self.is_read {
                true => Cluster::default().key_horizon,
                false => 1,
            },
            followers: self.is_read,
            ..Cluster::default()
        };
        let faults = Faults {
            delay_us: (100, rng.random_range(1_000..5_000)),
            ..Faults::none()
        };
        let story = self.story.clone();
        cluster
            .build(Simulation::new(seed))
            .director("director", move |machine| {
                let (stage, story) = (Stage::new(machine), story.clone());
                async move {
                    story(stage.clone()).await;
                    stage.finish();
                    std::future::pending::<()>().await;
                }
            })
            .faults(faults)
            .lasting(Duration::ZERO, Duration::from_secs(30))
    }

    /// Makes a schedule for a master and two secondaries.
    fn new<F>(
        name: &'static str,
        about: &'static str,
        story: impl Fn(Stage) -> F + 'static,
    ) -> Schedule
    where
        F: Future<Output = ()> + 'static,
    {
        Schedule {
            name,
            about,
            secondaries: 2,
            standby_masters: 0,
            take_over: TakeOver::AtOnce,
            segment_bytes: None,
            preallocate_bytes: Cluster::default().preallocate_bytes,
            is_read: true,
            story: Rc::new(move |stage| Box::pin(story(stage))),
        }
    }

    fn standby_masters(mut self, standby_masters: usize) -> Schedule {
        self.standby_masters = standby_masters;
        self
    }

    /// Makes standbys depose no master that other nodes are in contact with.
    fn waiting_standby(mut self) -> Schedule {
        (self.standby_masters, self.take_over) = (1, TakeOver::WhenSilent);
        self
    }

    fn segment_bytes(mut self, segment_bytes: u64) -> Schedule {
        self.segment_bytes = Some(segment_bytes);
        self
    }

    /// Turns preallocation off, so that writes fail on a full disk.
    fn without_preallocation(mut self) -> Schedule {
        self.preallocate_bytes = 0;
        self
    }

    /// Makes nothing read a log by itself: no follower, and no keys but the last record's.
    fn unread(mut self) -> Schedule {
        self.is_read = false;
        self
    }

    fn secondaries(mut self, secondaries: usize) -> Schedule {
        self.secondaries = secondaries;
        self
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

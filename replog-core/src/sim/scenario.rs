//! Short scenarios in which every step is a point to crash at.
//!
//! Each is run once to count its events; then every event times every node is a run of its own, in
//! which that node crashes at exactly that event, between any two operations on its disk.

use std::time::Duration;

use super::{Faults, Simulation, cluster::Cluster};

/// A scenario: a cluster, its load and its faults, all from one seed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scenario {
    /// The events in it.
    pub name: &'static str,
    seed: u64,
    secondaries: usize,
    faults: Faults,
}

impl Scenario {
    /// Returns all scenarios.
    #[must_use]
    pub fn all() -> Vec<Scenario> {
        let none = Faults::none;
        let scenario = |name, seed, secondaries, faults| Scenario {
            name,
            seed,
            secondaries,
            faults,
        };
        vec![
            scenario("founding, and appends", 1, 2, none()),
            scenario("founding, and appends, with five nodes", 2, 4, none()),
            scenario(
                "a network that loses, doubles and reorders",
                3,
                2,
                Faults {
                    loss: 0.1,
                    duplicate: 0.1,
                    late: 0.1,
                    ..none()
                },
            ),
            scenario(
                "partitions",
                4,
                2,
                Faults {
                    partitions: 60.0,
                    ..none()
                },
            ),
            scenario(
                "killed processes",
                5,
                2,
                Faults {
                    kills: 60.0,
                    ..none()
                },
            ),
            scenario(
                "power cuts",
                6,
                2,
                Faults {
                    power_cuts: 60.0,
                    ..none()
                },
            ),
            scenario(
                "all nodes lose power at once",
                7,
                2,
                Faults {
                    blackouts: 30.0,
                    ..none()
                },
            ),
            scenario(
                "wiped disks",
                8,
                2,
                Faults {
                    wipes: 60.0,
                    ..none()
                },
            ),
            scenario(
                "a replaced master that comes back",
                9,
                2,
                Faults {
                    replacements: 60.0,
                    ..none()
                },
            ),
            scenario(
                "full disks",
                10,
                2,
                Faults {
                    full_disks: 60.0,
                    ..none()
                },
            ),
            scenario(
                "records on one secondary only",
                12,
                2,
                Faults {
                    ambushes: 0.3,
                    ..none()
                },
            ),
            scenario("everything at once", 11, 2, Faults::all()),
            scenario(
                "nodes that stand still",
                13,
                2,
                Faults {
                    pauses: 60.0,
                    ..none()
                },
            ),
            scenario(
                "slow disks and failed syncs",
                14,
                2,
                Faults {
                    slow_disks: 30.0,
                    failed_sync: 0.005,
                    ..none()
                },
            ),
            scenario(
                "trouble where others rely on a step",
                15,
                2,
                Faults {
                    ambushes: 0.1,
                    late: 0.05,
                    ..none()
                },
            ),
            scenario(
                "five nodes, wiped and cut off",
                16,
                4,
                Faults {
                    wipes: 30.0,
                    partitions: 30.0,
                    ..none()
                },
            ),
        ]
    }

    /// Returns the names of the machines that can crash.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        let secondaries = (1..=self.secondaries).map(|nth| format!("secondary-{nth}"));
        std::iter::once("master".to_owned())
            .chain(secondaries)
            .collect()
    }

    /// Returns the run of it, without a crash other than its own.
    #[must_use]
    pub fn simulation(&self) -> Simulation {
        let cluster = Cluster {
            secondaries: self.secondaries,
            standby_masters: 1,
            clients: 2,
            think: Duration::from_millis(150),
            segment_bytes: 4 << 10,
            ..Cluster::default()
        };
        cluster
            .build(Simulation::new(self.seed))
            .faults(self.faults.clone())
            .lasting(Duration::from_secs(4), Duration::from_secs(26))
    }
}

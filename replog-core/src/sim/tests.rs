//! The simulator's own tests: it repeats itself, it finds what it must, and what it once found.

mod planted;

use std::time::Duration;

use super::{Faults, Simulation, cluster::Cluster, mistakes::Mistake};

/// A run of the size that a campaign has.
fn drawn(seed: u64) -> Simulation {
    Cluster::drawn(seed)
        .build(Simulation::new(seed))
        .faults(Faults::drawn(seed))
        .lasting(Duration::from_secs(60), Duration::from_secs(30))
}

#[test]
fn a_cluster_without_faults_does_its_work() {
    let outcome = Cluster::default().build(Simulation::new(1)).run();
    assert_eq!(outcome.violation, None);
    assert!(outcome.counts["append acknowledged"] > 100);
}

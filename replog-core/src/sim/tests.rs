//! The simulator's own tests, and what it found.

use std::time::Duration;

use super::{Faults, Outcome, Simulation, cluster::Cluster};

fn run(seed: u64, faults: Faults) -> Outcome {
    Cluster::default()
        .build(Simulation::new(seed))
        .faults(faults)
        .lasting(Duration::from_secs(60), Duration::from_secs(30))
        .run()
}

#[test]
fn a_cluster_without_faults_does_its_work() {
    let outcome = run(1, Faults::none());
    assert_eq!(outcome.violation, None);
    eprintln!("{:?} {}", outcome.counts, outcome.events);
    assert!(outcome.counts["append acknowledged"] > 100);
}

#[test]
fn many_seeds() {
    let first: u64 = std::env::var("REPLOG_SEED").map_or(0, |seed| seed.parse().unwrap());
    let count: u64 = std::env::var("REPLOG_SEEDS").map_or(50, |seed| seed.parse().unwrap());
    for seed in first..first + count {
        let mut faults = Faults::drawn(seed);
        faults.flipped_bits = 0.0;
        faults.full_disks = 0.0;
        let outcome = run(seed, faults.clone());
        assert_eq!(outcome.violation, None, "seed {seed}");
    }
}

//! Tests of the simulator: runs are reproducible, and planted mistakes and earlier bugs are found.

mod planted;
mod schedules;

use std::{
    hint,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use replog_core::sim::{
    Faults, Mistake, OCCURRENCES, SCHEDULED, Scenario, Simulation, cluster::Cluster,
};

/// Draws a run of the size that a campaign has.
fn drawn(seed: u64) -> Simulation {
    Cluster::drawn(seed)
        .build(Simulation::new(seed))
        .faults(Faults::drawn(seed))
        .lasting(Duration::from_secs(60), Duration::from_secs(30))
}

fn hashes(seeds: std::ops::Range<u64>) -> Vec<u64> {
    seeds.map(|seed| drawn(seed).run().hash).collect()
}

#[test]
fn a_cluster_without_faults_works() {
    let outcome = Cluster::default().build(Simulation::new(1)).run();
    assert_eq!(outcome.violation, None);
    assert!(outcome.counts["append acknowledged"] > 100);
    assert_eq!(outcome.simulated, Duration::from_secs(90));
}

#[test]
fn no_rule_is_broken_under_faults() {
    for seed in 0..20 {
        let outcome = drawn(seed).run();
        assert_eq!(outcome.violation, None, "seed {seed}");
    }
}

#[test]
fn clients_that_hang_up_break_no_rule_and_no_append_waits_for_them() {
    let mut hung_up = 0;
    for seed in 0..10 {
        let mut cluster = Cluster::drawn(seed);
        cluster.hang_ups = true;
        let outcome = cluster
            .build(Simulation::new(seed))
            .faults(Faults::drawn(seed))
            .lasting(Duration::from_secs(60), Duration::from_secs(30))
            .run();
        assert_eq!(outcome.violation, None, "seed {seed}");
        hung_up += outcome.counts.get("client: hung up").copied().unwrap_or(0);
    }
    assert!(hung_up > 100, "only {hung_up} hung up");
}

#[test]
fn the_same_seed_gives_the_same_trace_to_the_last_byte() {
    let first = drawn(7).keep_trace().run();
    let second = drawn(7).keep_trace().run();
    let differs = first.trace.iter().zip(&second.trace).find(|(a, b)| a != b);
    assert_eq!(differs, None);
    assert_eq!(first.trace.len(), second.trace.len());
    assert!(first.trace.len() > 1_000, "{} lines", first.trace.len());
    assert_eq!(first.hash, second.hash);
    assert_ne!(first.hash, drawn(8).run().hash);
}

#[test]
fn the_same_seeds_give_the_same_traces_on_other_threads_while_the_cpus_are_busy() {
    let seeds = 0..8;
    let here = hashes(seeds.clone());
    let is_over = AtomicBool::new(false);
    let there = thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    hint::spin_loop();
                }
            });
        }
        let runs = [(); 2].map(|()| scope.spawn(|| hashes(seeds.clone())));
        let there = runs.map(thread::ScopedJoinHandle::join);
        is_over.store(true, Relaxed);
        there
    });
    for there in there {
        assert_eq!(there.unwrap(), here);
    }
}

/// Two followers of one node wait for the same value, and if both read files the one woken first is the first
/// to draw how long that takes: `tokio::sync::watch` woke them in a random order of its own.
#[test]
fn a_run_with_many_followers_is_reproducible() {
    let run = || drawn(59).plant(Mistake::RefillTargetIgnored).run().hash;
    let first = run();
    for _ in 0..8 {
        assert_eq!(run(), first);
    }
}

#[test]
#[ignore = "another test runs it as a process of its own"]
fn print_hashes() {
    println!("hashes {:?}", hashes(0..8));
}

#[test]
fn the_same_seeds_give_the_same_traces_in_another_process() {
    let itself = std::env::current_exe().unwrap();
    let output = Command::new(itself)
        .args(["--exact", "print_hashes", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let here = format!("hashes {:?}", hashes(0..8));
    assert!(output.contains(&here), "{output} lacks {here}");
}

#[test]
fn a_node_may_crash_at_any_step() {
    // All steps: scripts/simulate --crash-points 1.
    for scenario in Scenario::all() {
        let events = scenario.simulation().run().events_until_quiet;
        for (nth, event) in (1..events).step_by(events as usize / 5).enumerate() {
            let nodes = scenario.nodes();
            let node = &nodes[nth % nodes.len()];
            let outcome = scenario.simulation().crash_at(event, node).run();
            let what = format!("{}: {node} crashes at {event}", scenario.name);
            assert_eq!(outcome.violation, None, "{what}");
        }
    }
}

#[test]
fn required_occurrences_are_listed_once() {
    for names in [OCCURRENCES, SCHEDULED] {
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
    }
}

#[test]
fn a_panic_on_a_machine_ends_the_run() {
    let outcome = Simulation::new(1)
        .client("alone", async |machine| {
            machine.sleep(Duration::from_secs(1)).await;
            panic!("a mistake");
        })
        .run();
    let violation = outcome.violation.expect("the panic");
    assert!(violation.contains("a mistake"), "{violation}");
}

#[test]
fn a_goal_that_is_not_reached_fails_the_run() {
    let outcome = Simulation::new(1)
        .client("alone", async |machine| {
            let _goal = machine.goal();
            std::future::pending::<()>().await;
        })
        .run();
    let violation = outcome.violation.expect("the goal");
    assert!(violation.starts_with("rule 7"), "{violation}");
}

#[test]
fn time_that_does_not_advance_ends_the_run() {
    let outcome = Simulation::new(1)
        .client("alone", async |_| {
            loop {
                tokio::task::yield_now().await;
            }
        })
        .run();
    let violation = outcome.violation.expect("the standstill");
    assert!(violation.contains("time does not advance"), "{violation}");
}

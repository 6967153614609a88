//! Every schedule comes to pass and breaks no rule.

use std::collections::BTreeSet;

use replog_core::sim::{SCHEDULED, Schedule};

#[test]
fn every_schedule_comes_to_pass_and_breaks_no_rule() {
    let mut occurred = BTreeSet::new();
    for schedule in Schedule::all() {
        for seed in 0..20 {
            let outcome = schedule.simulation(seed).run();
            assert_eq!(outcome.violation, None, "{schedule:?}, seed {seed}");
            occurred.extend(outcome.counts.into_keys());
        }
    }
    let never: Vec<_> = SCHEDULED
        .iter()
        .filter(|what| !occurred.contains(*what))
        .collect();
    assert!(never.is_empty(), "never occurred: {never:?}");
}

#[test]
fn schedule_names_are_unique() {
    let mut names: Vec<&str> = Schedule::all().iter().map(|it| it.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
}

#[test]
fn a_schedule_is_reproducible_to_the_last_byte() {
    for schedule in Schedule::all() {
        let (first, second) = (schedule.simulation(1).run(), schedule.simulation(1).run());
        assert_eq!(first.hash, second.hash, "{schedule:?}");
        assert_ne!(
            first.hash,
            schedule.simulation(2).run().hash,
            "{schedule:?}"
        );
    }
}

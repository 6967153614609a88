//! A cluster of the pure parts in virtual time: crashes, wiped disks, a bad network, and a check of the rules
//! after each step.
//!
//! Everything comes from one seed. After the faults everything heals, and then the cluster must converge. The
//! checks are tested too: with a mistake planted around the rules, some seed must fail.
//!
//! | to | command |
//! | --- | --- |
//! | run more seeds | `REPLOG_SEEDS=10000 cargo test -p replog-core --lib cluster_tests` |
//! | start from another seed | additionally `REPLOG_FIRST_SEED=5000` |
//! | see one run | `REPLOG_TRACE=1 REPLOG_SEEDS=1 REPLOG_FIRST_SEED=17 ... -- --nocapture` |

mod disk;
mod master;
mod node;
mod oracle;
mod simulation;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use simulation::{Outcome, Simulation};
use world::Planted;

/// Runs one seed; a failed assertion of the rules is a violation too.
fn run(seed: u64, planted: Option<Planted>, only_outcomes: bool) -> Result<Outcome, String> {
    let run = || Simulation::new(seed, planted, only_outcomes).run();
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

fn number(variable: &str, default: u64) -> u64 {
    let value = std::env::var(variable).ok();
    value.map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn a_cluster_keeps_its_rules_under_faults_and_converges_after_them() {
    let first = number("REPLOG_FIRST_SEED", 0);
    let seeds = number("REPLOG_SEEDS", 300);
    let mut total = Outcome::default();
    let mut failed = Vec::new();
    for seed in first..first + seeds {
        match run(seed, None, false) {
            Ok(outcome) => total.add(outcome),
            Err(violation) => failed.push(format!("seed {seed}: {violation}")),
        }
        if failed.len() >= 20 {
            break;
        }
    }
    println!("{total:?}");
    assert!(
        failed.is_empty(),
        "{} seeds failed; repeat one with REPLOG_FIRST_SEED=<seed> REPLOG_SEEDS=1 REPLOG_TRACE=1 \
         cargo test -p replog-core --lib cluster_keeps -- --nocapture\n{}",
        failed.len(),
        failed.join("\n")
    );
    // The faults must have the effects that they are for.
    if seeds >= 300 {
        assert!(total.acks_at_majority > seeds * 10, "{total:?}");
        assert!(
            total.cuts > 0 && total.wipes > 0 && total.replaced > 0 && total.filled > 0,
            "{total:?}"
        );
    }
}

#[test]
fn a_mistake_around_the_rules_is_found() {
    // Columns: the planted mistake; true to check only what clients and readers see; the violations that find
    // it; and the first seed: from there the search is short, while any other seed finds it later.
    let table: [(Planted, bool, &[&str], u64); 14] = [
        (Planted::SecondaryDurableTooEarly, false, &["rule 4"], 0),
        (
            Planted::SecondaryDurableTooEarly,
            true,
            &["rule 4", "rule 5"],
            0,
        ),
        (
            Planted::MasterDurableTooEarly,
            true,
            &["rule 4", "rule 5", "serving"],
            0,
        ),
        (Planted::MetaForgotten, false, &["rule 9"], 68),
        (Planted::MetaForgotten, true, &["rule 1", "rule 5"], 135),
        (Planted::OnePromiseFewer, true, &["rule 1", "rule 5"], 249),
        (Planted::WipedLogEpochKept, true, &["rule 1", "rule 5"], 55),
        (Planted::NoRefillTarget, true, &["rule 1", "rule 5"], 3),
        (Planted::NothingCut, false, &["rule"], 416),
        (Planted::NothingCut, true, &["rule 1"], 416),
        // Clients see nothing of it: the master does not believe a node whose log is longer than its own.
        (Planted::EndlessHello, false, &["rule"], 416),
        (Planted::FullMasterGoesOn, false, &["rule 1", "rule 4"], 2),
        (Planted::KeysForgotten, true, &["rule 3"], 2),
        (Planted::SnapshotBelieved, true, &["rule 3", "rule 4"], 2),
    ];
    let seeds = number("REPLOG_PLANTED_SEEDS", 1000);
    let mut unseen = Vec::new();
    for (planted, only_outcomes, expected, first) in table {
        let found = (first..first + seeds).find_map(|seed| {
            let violation = run(seed, Some(planted), only_outcomes).err()?;
            let known = expected.iter().any(|start| violation.starts_with(start));
            known.then_some((seed, violation))
        });
        println!("{planted:?}, only outcomes {only_outcomes}: {found:?}");
        if found.is_none() {
            unseen.push(planted);
        }
    }
    assert!(unseen.is_empty(), "not found: {unseen:?}");
}

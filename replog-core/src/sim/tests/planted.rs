//! Each check is tested by mistakes that it must find.

use super::{Mistake, drawn};

/// Mistake, the rule whose check finds it first, and within how many seeds.
const TABLE: &[(Mistake, &str, u64)] = &[];

#[test]
#[ignore = "makes the table anew"]
fn make_the_table() {
    let seeds: u64 = std::env::var("REPLOG_SEEDS").map_or(100, |seeds| seeds.parse().unwrap());
    let only = std::env::var("REPLOG_MISTAKE").ok();
    for (mistake, text) in Mistake::ALL {
        if only
            .as_ref()
            .is_some_and(|only| *only != format!("{mistake:?}"))
        {
            continue;
        }
        let mut found = 0;
        let mut first = None;
        for seed in 0..seeds {
            let outcome = drawn(seed).plant(*mistake).run();
            if let Some(violation) = outcome.violation {
                found += 1;
                first.get_or_insert((seed, violation));
                if std::env::var("REPLOG_ALL").is_err() {
                    break;
                }
            }
        }
        println!("{mistake:?} |{text} | {found} | {first:?}");
    }
}

//! Each check is tested by mistakes that it must find.
//!
//! The table is part of `MISTAKES.md` beside the simulator, and this keeps it true.

use super::{Mistake, drawn};

/// Mistake, what finds it (a rule's check, or an assertion of the product), and the first seed in
/// which that does.
const TABLE: &[(Mistake, &str, u64)] = &[
    (Mistake::AnsweredBeforeSync, "rule 10", 0),
    (Mistake::OwnEndBeforeSync, "rule 4", 0),
    (Mistake::AnswerCountedTwice, "rule 4", 0),
    (Mistake::EndsCountBeforeAlignment, "rule 7", 0),
    (Mistake::EarlierLifeBelieved, "rule 7", 2),
    (Mistake::LogEpochTakenEarly, "rule 5", 470),
    (Mistake::EndsOfPromisesIgnored, "rule 5", 2),
    (Mistake::EpochSentBeforeSync, "rule 9", 0),
    (Mistake::PromiseAnsweredBeforeSync, "rule 9", 0),
    (Mistake::OlderEpochServed, "rule 9", 2),
    (Mistake::PromiseOvertakesWrites, "panic", 2),
    (Mistake::DivergenceOverlooked, "rule 4", 5),
    (Mistake::LongerLogKept, "rule 4", 16),
    (Mistake::CutTooDeep, "rule 5", 5),
    (Mistake::CutNotSynced, "rule 1", 12),
    (Mistake::CommittedTooFar, "rule 1", 5),
    (Mistake::AppendedPastGap, "panic", 0),
    (Mistake::AppendedTwice, "panic", 0),
    (Mistake::FailedSyncTriedAgain, "rule 2", 0),
    (Mistake::RenameNotSynced, "rule 9", 0),
    (Mistake::SegmentEntryNotSynced, "rule 2", 0),
    (Mistake::MetaNotSynced, "rule 9", 0),
    (Mistake::CacheBelieved, "rule 2", 0),
    (Mistake::NoChecksumAtStart, "rule 10", 78),
    (Mistake::FoundsBesideOthers, "rule 7", 2),
    (Mistake::OldNewsBelieved, "rule 8", 1),
    (Mistake::OneAfterTheOther, "rule 6", 0),
    (Mistake::WaiterForgotten, "rule 6", 3),
    (Mistake::KeysForgotten, "rule 3", 0),
    (Mistake::GapWithoutLimit, "rule 11", 1),
];

/// Mistakes that no check finds in a thousand seeds, and why that is known to be no blind spot.
const ELSEWHERE: &[(Mistake, &str)] = &[
    (
        Mistake::RefillTargetIgnored,
        "needs a majority lost around a node that is being refilled; found by the model, `rules/model`",
    ),
    (
        Mistake::WipedNodeVotes,
        "needs a majority of wiped and lagging nodes at one promise round; found by the model, `rules/model`",
    ),
    (
        Mistake::AdoptedByRecordsEpoch,
        "needs three epochs with alternating quorums and no append in the second; found by the model, `rules/model`",
    ),
];

#[test]
fn every_mistake_is_found_or_explained() {
    for (mistake, text) in Mistake::ALL {
        let found = TABLE.iter().filter(|(row, ..)| row == mistake).count();
        let explained = ELSEWHERE.iter().filter(|(row, _)| row == mistake).count();
        assert_eq!(found + explained, 1, "{mistake:?}: {text}");
    }
    assert!(TABLE.len() >= 25);
}

#[test]
fn each_planted_mistake_is_found_by_its_check() {
    let mut wrong = Vec::new();
    for (mistake, finder, seed) in TABLE {
        let violation = drawn(*seed).plant(*mistake).run().violation;
        if !violation
            .as_ref()
            .is_some_and(|text| text.starts_with(finder))
        {
            wrong.push(format!(
                "{mistake:?} at seed {seed}: {violation:?}, not {finder}"
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "make the table anew:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_table_for_people_says_the_same() {
    let document = include_str!("../MISTAKES.md");
    for line in rows() {
        assert!(document.contains(&line), "MISTAKES.md lacks {line}");
    }
}

fn rows() -> Vec<String> {
    let text = |mistake: &Mistake| {
        let known = Mistake::ALL.iter().find(|(known, _)| known == mistake);
        known.map_or("", |(_, text)| *text).trim()
    };
    let found = TABLE
        .iter()
        .map(|(mistake, finder, seed)| format!("| {} | {finder} | {} |", text(mistake), seed + 1));
    let elsewhere = ELSEWHERE
        .iter()
        .map(|(mistake, why)| format!("| {} | {why} |", text(mistake)));
    found.chain(elsewhere).collect()
}

/// Prints the table as it is now, for the constant and for `MISTAKES.md`.
#[test]
#[ignore = "makes the table anew"]
fn make_the_table() {
    let seeds: u64 = std::env::var("REPLOG_SEEDS").map_or(1_000, |seeds| seeds.parse().unwrap());
    for (mistake, text) in Mistake::ALL {
        let violation = |seed: u64| drawn(seed).plant(*mistake).run().violation;
        let found = (0..seeds).find_map(|seed| Some((seed, violation(seed)?)));
        match found {
            Some((seed, violation)) => {
                let finder = match violation.split_once(':') {
                    Some((finder, _)) => finder,
                    None => &violation,
                };
                println!("    (Mistake::{mistake:?}, {finder:?}, {seed}),");
            }
            None => println!("    // {mistake:?} ({}) is not found", text.trim()),
        }
    }
    rows().iter().for_each(|row| println!("{row}"));
}

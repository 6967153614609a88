//! Each check is tested by mistakes that it must find.
//!
//! The table is part of `MISTAKES.md` next to the simulator, and this test keeps it true.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use replog_core::sim::{Mistake, Schedule, Simulation};

use super::drawn;

/// The finder of a mistake (a rule's check, or an assertion of the product), and the seed.
type Found = (&'static str, u64);

/// A mistake, the first of a thousand drawn seeds that finds it, and the schedules that do.
type Row = (Mistake, Option<Found>, &'static [(&'static str, Found)]);

/// The findings for each mistake. `make_the_table` generates it.
const TABLE: &[Row] = &[
    (Mistake::AnsweredBeforeSync, Some(("rule 10", 0)), &[]),
    (Mistake::OwnEndBeforeSync, Some(("rule 4", 0)), &[]),
    (Mistake::AnswerCountedTwice, Some(("rule 4", 0)), &[]),
    (
        Mistake::EndsCountBeforeAlignment,
        Some(("rule 7", 0)),
        &[("before-alignment", ("rule 7", 0))],
    ),
    (Mistake::EarlierLifeBelieved, Some(("rule 7", 0)), &[]),
    (Mistake::LogEpochTakenEarly, Some(("rule 1", 164)), &[]),
    (
        Mistake::RefillTargetIgnored,
        None,
        &[("hello-twice-at-a-wiped-node", ("rule 5", 0))],
    ),
    (
        Mistake::WipedNodeVotes,
        None,
        &[("wiped-nodes-at-a-promise-round", ("rule 5", 0))],
    ),
    (
        Mistake::EndsOfPromisesIgnored,
        Some(("rule 5", 0)),
        &[("half-adopted-master", ("rule 5", 0))],
    ),
    (
        Mistake::AdoptedByRecordsEpoch,
        Some(("rule 7", 19)),
        &[("figure-8", ("rule 5", 0))],
    ),
    (Mistake::EpochSentBeforeSync, Some(("rule 9", 0)), &[]),
    (Mistake::PromiseAnsweredBeforeSync, Some(("rule 9", 0)), &[]),
    (
        Mistake::OlderEpochServed,
        Some(("rule 9", 3)),
        &[("old-master-paused", ("rule 9", 0))],
    ),
    (
        Mistake::PromiseOvertakesWrites,
        Some(("panic", 2)),
        &[("write-queued-at-a-promise", ("rule 9", 0))],
    ),
    (
        Mistake::DivergenceOverlooked,
        Some(("rule 5", 12)),
        &[("other-epoch-at-a-held-offset", ("rule 1", 0))],
    ),
    (
        Mistake::LongerLogKept,
        Some(("rule 2", 51)),
        &[("longer-log-whose-pairs-agree", ("rule 4", 0))],
    ),
    (Mistake::CutTooDeep, Some(("rule 5", 19)), &[]),
    (Mistake::CutNotSynced, Some(("rule 1", 101)), &[]),
    (
        Mistake::CommittedTooFar,
        Some(("rule 1", 10)),
        &[("follower-over-a-cut", ("rule 1", 0))],
    ),
    (Mistake::AppendedPastGap, Some(("panic", 0)), &[]),
    (Mistake::AppendedTwice, Some(("panic", 0)), &[]),
    (Mistake::FailedSyncTriedAgain, Some(("rule 9", 6)), &[]),
    (
        Mistake::RenameNotSynced,
        Some(("rule 9", 0)),
        &[("crash-while-founding", ("rule 9", 0))],
    ),
    (Mistake::SegmentEntryNotSynced, Some(("rule 2", 0)), &[]),
    (Mistake::MetaNotSynced, Some(("rule 9", 0)), &[]),
    (Mistake::CacheBelieved, Some(("rule 2", 49)), &[]),
    (
        Mistake::StartSyncsNothing,
        Some(("rule 2", 0)),
        &[("power-cut-after-kill", ("rule 2", 0))],
    ),
    (
        Mistake::NoChecksumAtStart,
        None,
        &[("torn-middle", ("rule 10", 1))],
    ),
    (
        Mistake::DamagePassesForTornTail,
        Some(("rule 5", 16)),
        &[("rot-with-one-node-down", ("rule 5", 0))],
    ),
    (
        Mistake::MissingMarkBelieved,
        None,
        &[("mark-lost-with-one-node-down", ("rule 5", 0))],
    ),
    (
        Mistake::MarkNotSynced,
        Some(("rule 10", 0)),
        &[("power-cut-after-founding", ("rule 10", 0))],
    ),
    (
        Mistake::DamagedEndForgotten,
        None,
        &[("one-whole-log-among-damaged", ("rule 5", 0))],
    ),
    (
        Mistake::FillBelieved,
        None,
        &[("fill-whose-sync-fails", ("rule 10", 0))],
    ),
    (
        Mistake::CutBelieved,
        None,
        &[("cut-whose-sync-fails", ("rule 5", 0))],
    ),
    (
        Mistake::FoundsBesideOthers,
        Some(("rule 7", 0)),
        &[("blank-majority", ("rule 7", 0))],
    ),
    (Mistake::OldNewsBelieved, Some(("rule 7", 0)), &[]),
    (Mistake::OneAfterTheOther, Some(("rule 6", 14)), &[]),
    (Mistake::WaiterForgotten, Some(("rule 7", 1)), &[]),
    (Mistake::KeysForgotten, Some(("rule 3", 3)), &[]),
    (Mistake::GapWithoutLimit, Some(("rule 11", 2)), &[]),
    (
        Mistake::OldHelloObeyed,
        Some(("rule 9", 11)),
        &[("old-hello-late", ("rule 9", 0))],
    ),
    (
        Mistake::CommittedBeforeAlignment,
        Some(("rule 1", 12)),
        &[("before-alignment", ("rule 1", 0))],
    ),
    (
        Mistake::PairsNotCompared,
        Some(("rule 5", 12)),
        &[("other-epoch-at-a-held-offset", ("rule 1", 0))],
    ),
    (
        Mistake::BufferKeptAcrossPromise,
        Some(("rule 1", 11)),
        &[("gap-across-a-promise", ("rule 4", 0))],
    ),
    (
        Mistake::CutOldestFirst,
        Some(("rule 4", 96)),
        &[("crash-while-cutting", ("rule 10", 0))],
    ),
    (
        Mistake::HalfFilledPassesForIntact,
        Some(("rule 5", 4)),
        &[
            ("half-refilled-secondary", ("rule 5", 0)),
            ("half-adopted-master", ("rule 5", 0)),
        ],
    ),
    (
        Mistake::RefusedWritePassesForDone,
        Some(("rule 10", 4)),
        &[("full-disk-after-shipping", ("rule 4", 0))],
    ),
    (
        Mistake::FoundsWithoutMajority,
        Some(("rule 7", 19)),
        &[("blank-majority", ("rule 7", 0))],
    ),
    (Mistake::OldInstanceAccepted, Some(("rule 5", 239)), &[]),
    (Mistake::OutOfDatePromised, None, &[]),
    (Mistake::ReleasedTwice, Some(("rule 3", 0)), &[]),
    (
        Mistake::NamesNotCompared,
        None,
        &[("two-names-one-process", ("rule 4", 0))],
    ),
    (
        Mistake::EndOutlivesItsLife,
        Some(("rule 4", 47)),
        &[("answer-of-a-wiped-life", ("rule 4", 0))],
    ),
    (Mistake::CommittedInsideAppend, Some(("rule 2", 0)), &[]),
    (Mistake::CutNotTold, Some(("rule 2", 13)), &[]),
    (
        Mistake::BlankMasterTakesOver,
        None,
        &[("second-blank-master", ("rule 8", 0))],
    ),
    (Mistake::CutNotQuarantined, Some(("rule 10", 21)), &[]),
    (
        Mistake::EpochUnbounded,
        None,
        &[("epoch-without-bounds", ("rule 7", 0))],
    ),
    (
        Mistake::HelloBelowCommittedObeyed,
        None,
        &[("hello-below-committed", ("rule 1", 0))],
    ),
    (
        Mistake::HeartbeatAnswersForAppend,
        Some(("rule 10", 0)),
        &[("heartbeat-overtakes-append", ("rule 10", 0))],
    ),
    (
        Mistake::HeartbeatOvertakesAppend,
        None,
        &[("heartbeat-overtakes-append", ("rule 9", 0))],
    ),
    (Mistake::NewerLogPassedOver, None, &[]),
    (
        Mistake::EveryRefusalFences,
        None,
        &[("epoch-promised-to-a-lost-directory", ("rule 7", 0))],
    ),
    (
        Mistake::RaisedEpochForgotten,
        None,
        &[("refused-during-an-inspection", ("rule 7", 0))],
    ),
    (
        Mistake::NoticedDamageForgotten,
        None,
        &[
            ("second-damage-during-an-inspection", ("rule 10", 0)),
            ("full-disk-during-an-inspection", ("rule 10", 0)),
        ],
    ),
    (
        Mistake::FullDiskForgetsDamage,
        None,
        &[("full-disk-during-an-inspection", ("rule 10", 0))],
    ),
    (
        Mistake::LogEpochKeptOnDamage,
        None,
        &[("crash-before-the-repair", ("rule 10", 0))],
    ),
    (
        Mistake::IntactDuringInspection,
        None,
        &[("serving-during-an-inspection", ("rule 10", 0))],
    ),
    (
        Mistake::DamagedLogNotHeldBack,
        Some(("rule 2", 766)),
        &[("damage-during-a-recovery", ("rule 2", 0))],
    ),
    (
        Mistake::KeysOfEarlierRoundTaken,
        None,
        &[("keys-of-an-earlier-round", ("rule 9", 1))],
    ),
    (
        Mistake::HolesForgottenAtServe,
        None,
        &[("damage-while-keys-are-read", ("rule 4", 0))],
    ),
    (
        Mistake::MissingRangeWaitedFor,
        None,
        &[("records-that-no-node-has", ("rule 7", 0))],
    ),
    (
        Mistake::HolesKeptAcrossRecovery,
        None,
        &[("records-that-no-node-has", ("rule 7", 7))],
    ),
];

/// A mistake that another check catches before it breaks a rule, and its finder when that check is turned off by
/// another mistake.
struct Caught {
    mistake: Mistake,
    /// The check that catches it.
    by: &'static str,
    /// The mistake that turns that check off.
    beside: Mistake,
    schedule: &'static str,
    found: Found,
}

const CAUGHT_ELSEWHERE: &[Caught] = &[
    Caught {
        mistake: Mistake::OutOfDatePromised,
        by: "a master counts no promise of a node whose log is newer than its own",
        beside: Mistake::NewerLogPassedOver,
        schedule: "directory-from-the-past",
        found: ("rule 10", 0),
    },
    Caught {
        mistake: Mistake::OldInstanceAccepted,
        by: "a master counts no promise of a node whose log is newer than its own",
        beside: Mistake::NewerLogPassedOver,
        schedule: "old-master-restarted",
        found: ("rule 5", 0),
    },
    Caught {
        mistake: Mistake::NewerLogPassedOver,
        by: "a node promises nothing to a master whose log is older than its own",
        beside: Mistake::OutOfDatePromised,
        schedule: "directory-from-the-past",
        found: ("rule 10", 0),
    },
];

/// The mistakes that each schedule must find.
const AIMS: &[(&str, &[Mistake])] = &[
    ("figure-8", &[Mistake::AdoptedByRecordsEpoch]),
    ("longer-log-whose-pairs-agree", &[Mistake::LongerLogKept]),
    (
        "other-epoch-at-a-held-offset",
        &[Mistake::DivergenceOverlooked, Mistake::PairsNotCompared],
    ),
    ("gap-across-a-promise", &[Mistake::BufferKeptAcrossPromise]),
    (
        "write-queued-at-a-promise",
        &[Mistake::PromiseOvertakesWrites],
    ),
    ("old-hello-late", &[Mistake::OldHelloObeyed]),
    (
        "hello-twice-at-a-wiped-node",
        &[Mistake::RefillTargetIgnored],
    ),
    ("wiped-nodes-at-a-promise-round", &[Mistake::WipedNodeVotes]),
    (
        "before-alignment",
        &[
            Mistake::CommittedBeforeAlignment,
            Mistake::EndsCountBeforeAlignment,
        ],
    ),
    ("answer-of-a-wiped-life", &[Mistake::EndOutlivesItsLife]),
    ("two-names-one-process", &[Mistake::NamesNotCompared]),
    (
        "half-refilled-secondary",
        &[Mistake::HalfFilledPassesForIntact],
    ),
    (
        "half-adopted-master",
        &[
            Mistake::HalfFilledPassesForIntact,
            Mistake::EndsOfPromisesIgnored,
        ],
    ),
    ("crash-while-founding", &[Mistake::RenameNotSynced]),
    (
        "blank-majority",
        &[Mistake::FoundsWithoutMajority, Mistake::FoundsBesideOthers],
    ),
    ("old-master-paused", &[Mistake::OlderEpochServed]),
    ("old-master-restarted", &[Mistake::OldInstanceAccepted]),
    ("directory-from-the-past", &[Mistake::OutOfDatePromised]),
    ("second-blank-master", &[Mistake::BlankMasterTakesOver]),
    (
        "full-disk-after-shipping",
        &[Mistake::RefusedWritePassesForDone],
    ),
    ("torn-middle", &[Mistake::NoChecksumAtStart]),
    ("power-cut-after-kill", &[Mistake::StartSyncsNothing]),
    ("crash-while-cutting", &[Mistake::CutOldestFirst]),
    ("follower-over-a-cut", &[Mistake::CommittedTooFar]),
    (
        "rot-with-one-node-down",
        &[Mistake::DamagePassesForTornTail],
    ),
    (
        "mark-lost-with-one-node-down",
        &[Mistake::MissingMarkBelieved],
    ),
    ("power-cut-after-founding", &[Mistake::MarkNotSynced]),
    (
        "one-whole-log-among-damaged",
        &[Mistake::DamagedEndForgotten],
    ),
    ("fill-whose-sync-fails", &[Mistake::FillBelieved]),
    ("cut-whose-sync-fails", &[Mistake::CutBelieved]),
    ("epoch-without-bounds", &[Mistake::EpochUnbounded]),
    (
        "hello-below-committed",
        &[Mistake::HelloBelowCommittedObeyed],
    ),
    (
        "heartbeat-overtakes-append",
        &[
            Mistake::HeartbeatOvertakesAppend,
            Mistake::HeartbeatAnswersForAppend,
        ],
    ),
    (
        "second-damage-during-an-inspection",
        &[Mistake::NoticedDamageForgotten],
    ),
    (
        "full-disk-during-an-inspection",
        &[
            Mistake::FullDiskForgetsDamage,
            Mistake::NoticedDamageForgotten,
        ],
    ),
    ("crash-before-the-repair", &[Mistake::LogEpochKeptOnDamage]),
    (
        "serving-during-an-inspection",
        &[Mistake::IntactDuringInspection],
    ),
    (
        "damage-during-a-recovery",
        &[Mistake::DamagedLogNotHeldBack],
    ),
    (
        "damage-while-keys-are-read",
        &[Mistake::HolesForgottenAtServe],
    ),
    (
        "keys-of-an-earlier-round",
        &[Mistake::KeysOfEarlierRoundTaken],
    ),
    (
        "records-that-no-node-has",
        &[
            Mistake::MissingRangeWaitedFor,
            Mistake::HolesKeptAcrossRecovery,
        ],
    ),
    (
        "epoch-promised-to-a-lost-directory",
        &[Mistake::EveryRefusalFences],
    ),
    (
        "refused-during-an-inspection",
        &[Mistake::RaisedEpochForgotten],
    ),
];

/// Drawn seeds of a campaign.
const DRAWN_SEEDS: u64 = 1_000;

/// Seeds within which a schedule must find its mistake.
const SCHEDULE_SEEDS: u64 = 20;

#[test]
fn every_mistake_is_found() {
    for mistake in Mistake::ALL {
        let rows = TABLE.iter().filter(|(row, ..)| row == mistake);
        assert_eq!(rows.count(), 1, "{mistake:?}: {}", mistake.about());
    }
    for (mistake, drawn, schedules) in TABLE {
        let found = drawn.is_some() || !schedules.is_empty();
        assert!(found || caught_elsewhere(*mistake).is_some(), "{mistake:?}");
    }
}

#[test]
fn every_schedule_finds_its_mistakes() {
    for schedule in Schedule::all() {
        let aims = aims_of(schedule.name);
        assert!(!aims.is_empty(), "{schedule:?} has no mistakes to find");
        for mistake in aims {
            let row = TABLE.iter().find(|(row, ..)| row == mistake);
            let found = row.is_some_and(|(_, _, found)| {
                let mut names = found.iter().map(|(name, _)| *name);
                names.any(|name| name == schedule.name)
            });
            let caught =
                caught_elsewhere(*mistake).is_some_and(|caught| caught.schedule == schedule.name);
            assert!(found || caught, "{schedule:?} does not find {mistake:?}");
        }
    }
}

#[test]
fn each_planted_mistake_is_found_by_its_check() {
    let mut wrong = Vec::new();
    let mut check = |mistake: Mistake, what: &str, run: Simulation, (finder, seed): Found| {
        let violation = run.plant(mistake).run().violation;
        if violation.as_deref().map(finder_of) != Some(finder) {
            wrong.push(format!(
                "{mistake:?}, {what}, seed {seed}: {violation:?}, not {finder}"
            ));
        }
    };
    for (mistake, found, schedules) in TABLE {
        if let Some(found) = found {
            check(*mistake, "drawn", drawn(found.1), *found);
        }
        for (name, found) in *schedules {
            check(*mistake, name, schedule(name).simulation(found.1), *found);
        }
    }
    assert!(
        wrong.is_empty(),
        "regenerate the table:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn mistakes_caught_by_another_check_are_found_when_that_check_is_turned_off() {
    for caught in CAUGHT_ELSEWHERE {
        let Caught {
            mistake,
            beside,
            found: (finder, seed),
            ..
        } = caught;
        let run = || schedule(caught.schedule).simulation(*seed);
        let what = format!("{mistake:?} beside {beside:?}");
        let violation = run().plant(*mistake).plant(*beside).run().violation;
        assert_eq!(
            violation.as_deref().map(finder_of),
            Some(*finder),
            "{what}: {violation:?}"
        );
        for alone in [*mistake, *beside] {
            let violation = run().plant(alone).run().violation;
            // A mistake that is caught may stop the story from coming to pass: that breaks no rule.
            let is_harmless = violation
                .as_deref()
                .map(finder_of)
                .is_none_or(|finder| finder == "story");
            assert!(is_harmless, "{alone:?} alone: {violation:?}");
        }
    }
}

#[test]
fn the_table_in_mistakes_md_is_up_to_date() {
    let document = include_str!("../../src/sim/MISTAKES.md");
    for row in TABLE {
        let line = line_of(row);
        assert!(document.contains(&line), "MISTAKES.md lacks {line}");
    }
}

fn schedule(name: &str) -> Schedule {
    let mut all = Schedule::all().into_iter();
    all.find(|schedule| schedule.name == name)
        .unwrap_or_else(|| panic!("no schedule has the name {name}"))
}

fn caught_elsewhere(mistake: Mistake) -> Option<&'static Caught> {
    CAUGHT_ELSEWHERE
        .iter()
        .find(|caught| caught.mistake == mistake)
}

fn aims_of(schedule: &str) -> &'static [Mistake] {
    let aims = AIMS.iter().find(|(name, _)| *name == schedule);
    aims.map_or(&[], |(_, mistakes)| mistakes)
}

fn finder_of(violation: &str) -> &str {
    violation
        .split_once(':')
        .map_or(violation, |(finder, _)| finder)
}

/// Formats a row of the table in `MISTAKES.md`.
fn line_of((mistake, drawn, schedules): &Row) -> String {
    let text = mistake.about();
    let (finder, seeds) = match drawn {
        Some((finder, seed)) => (*finder, (seed + 1).to_string()),
        None => ("", "not found".to_owned()),
    };
    let found = schedules
        .iter()
        .map(|(name, (finder, _))| format!("`{name}`: {finder}"));
    let mut found: Vec<_> = found.collect();
    if let Some(caught) = caught_elsewhere(*mistake) {
        let Caught {
            by,
            schedule,
            found: (finder, _),
            ..
        } = caught;
        found.push(format!("caught: {by}; without that `{schedule}`: {finder}"));
    }
    let found = found.join(", ");
    format!("| {text} | {finder} | {seeds} | {found} |")
}

/// Prints the current table, for the constant, and writes it into `MISTAKES.md`. `REPLOG_MISTAKES=CutNotTold,KeysForgotten`
/// keeps the rows of all others.
#[test]
#[ignore = "regenerates the table"]
fn make_the_table() {
    let seeds = std::env::var("REPLOG_SEEDS").map_or(DRAWN_SEEDS, |seeds| seeds.parse().unwrap());
    let named = std::env::var("REPLOG_MISTAKES").ok();
    let is_named = |mistake: Mistake| {
        let name = format!("{mistake:?}");
        let named = named.as_deref();
        named.is_none_or(|named| named.split(',').any(|known| known == name))
    };
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Relaxed);
                    let Some(&mistake) = Mistake::ALL.get(place) else {
                        break;
                    };
                    let known = TABLE.iter().find(|(known, ..)| *known == mistake);
                    let row = match known.filter(|_| !is_named(mistake)) {
                        Some(&(mistake, drawn, schedules)) => (mistake, drawn, schedules.to_vec()),
                        None => row_of(mistake, seeds),
                    };
                    rows.lock().unwrap().insert(place, row);
                }
            });
        }
    });
    let (mut table, mut lines) = (String::new(), String::new());
    for (mistake, drawn, schedules) in rows.into_inner().unwrap().values() {
        let leaked: &'static [(&'static str, Found)] = schedules.clone().leak();
        let _ = writeln!(table, "    (Mistake::{mistake:?}, {drawn:?}, &{leaked:?}),");
        let _ = writeln!(lines, "{}", line_of(&(*mistake, *drawn, leaked)));
    }
    rewrite(
        "tests/simulation/planted.rs",
        "const TABLE: &[Row] = &[\n",
        "];\n",
        &table,
    );
    rewrite(
        "src/sim/MISTAKES.md",
        "| --- | --- | --- | --- |\n",
        "\n",
        &lines,
    );
}

/// Prints the rows of the table from the mistake `REPLOG_MISTAKE=EveryRefusalFences` on: what takes the least
/// time when mistakes are added at the end.
#[test]
#[ignore = "prints rows of the table"]
fn print_the_rows_from_a_mistake_on() {
    let first = std::env::var("REPLOG_MISTAKE").expect("REPLOG_MISTAKE names a mistake");
    let all = Mistake::ALL.iter();
    for &mistake in all.skip_while(|known| format!("{known:?}") != first) {
        let (mistake, drawn, schedules) = row_of(mistake, DRAWN_SEEDS);
        let schedules: &'static [(&'static str, Found)] = schedules.leak();
        println!("    (Mistake::{mistake:?}, {drawn:?}, &{schedules:?}),");
        println!("{}", line_of(&(mistake, drawn, schedules)));
    }
}

/// Prints the trace of a run with a mistake: `REPLOG_MISTAKE=RefillTargetIgnored`, `REPLOG_SCHEDULE=figure-8`
/// (or a drawn run without it), `REPLOG_SEED=0`; `REPLOG_BESIDE`: another mistake.
#[test]
#[ignore = "prints a trace"]
fn print_a_planted_mistake() {
    let given = |name: &str| std::env::var(name).ok();
    let mistake = |variable: &str| {
        let wanted = given(variable)?;
        let mut all = Mistake::ALL.iter();
        let found = all.find(|known| format!("{known:?}") == wanted);
        Some(*found.unwrap_or_else(|| panic!("{variable}: there is no mistake {wanted}")))
    };
    let planted = mistake("REPLOG_MISTAKE").expect("REPLOG_MISTAKE names a mistake");
    let beside = mistake("REPLOG_BESIDE");
    let seed = given("REPLOG_SEED").map_or(0, |seed| seed.parse().unwrap());
    let run = given("REPLOG_SCHEDULE")
        .map_or_else(|| drawn(seed), |name| schedule(&name).simulation(seed));
    let run = beside
        .into_iter()
        .fold(run.plant(planted), Simulation::plant);
    let outcome = run.print_trace().run();
    println!("{:?}", outcome.violation);
}

type NewRow = (Mistake, Option<Found>, Vec<(&'static str, Found)>);

fn row_of(mistake: Mistake, seeds: u64) -> NewRow {
    let found = |run: Simulation, seed| {
        let violation = run.plant(mistake).run().violation?;
        let finder = finder_of(&violation).to_owned();
        // The story did not come to pass: that finds nothing.
        (finder != "story").then(|| (&*finder.leak(), seed))
    };
    let by_drawn = (0..seeds).find_map(|seed| found(drawn(seed), seed));
    let schedules = Schedule::all().into_iter();
    let aimed = schedules.filter(|schedule| aims_of(schedule.name).contains(&mistake));
    let by_schedule = aimed.filter_map(|schedule| {
        let found = (0..SCHEDULE_SEEDS).find_map(|seed| found(schedule.simulation(seed), seed))?;
        Some((schedule.name, found))
    });
    (mistake, by_drawn, by_schedule.collect())
}

/// Replaces the text of a file between `begin` and the next `end` at the beginning of a line, or the end of the file,
/// by `new`.
fn rewrite(path: &str, begin: &str, end: &str, new: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/").to_owned() + path;
    let text = std::fs::read_to_string(&path).expect("the file is there");
    let from = text.find(begin).expect("the table begins") + begin.len();
    let end = format!("\n{end}");
    let until = text[from - 1..]
        .find(&end)
        .map_or(text.len(), |at| from + at);
    std::fs::write(&path, text[..from].to_owned() + new + &text[until..])
        .expect("the file can be written");
}

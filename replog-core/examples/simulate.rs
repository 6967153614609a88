//! Simulates clusters under faults, seed after seed, and checks the rules at every step.
//!
//! `scripts/simulate` runs it. It prints how often each occurrence was counted and exits 0. A
//! violation prints the rule, the seed and the one command that replays it, and exits 1; so does a
//! fault, a state or an answer that never occurred in a thousand seeds or more: a simulator proves
//! nothing about anything that it does not try.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use replog_core::sim::{
    Faults, Mistake, OCCURRENCES, Outcome, Scenario, Schedule, Simulation, cluster::Cluster,
};

/// The shortest calm part of a run. A restart that is drawn at its very end takes up to ten seconds,
/// and every goal must be reached after it, however short the part with faults is.
const CALM_MIN: Duration = Duration::from_secs(30);

/// Simulates clusters under faults and checks every rule at every step.
#[derive(Debug, Parser)]
struct Args {
    /// Number of seeds to run.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Simulated seconds with faults; half as many follow without, and at least 30.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Threads; each runs seeds of its own. As many as there are cores, if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Run this seed alone and print its trace.
    #[arg(long)]
    replay: Option<u64>,
    /// Instead of seeds: crash each node of each scenario at every N-th event (1: at each).
    #[arg(long, value_name = "EVERY")]
    crash_points: Option<u64>,
    /// Instead of seeds: crash each node of each scenario at every N-th event, and then crash it
    /// again, or another node, in the recovery.
    #[arg(long, value_name = "EVERY")]
    double_crashes: Option<u64>,
    /// Run one crash point alone and print its trace: SCENARIO:EVENT:NODE[:EVENT:NODE].
    #[arg(long, value_name = "POINT")]
    replay_point: Option<String>,
    /// Instead of seeds: run each schedule from this many seeds.
    #[arg(long, value_name = "SEEDS")]
    schedules: Option<u64>,
    /// Run this schedule alone, from `--seed`, and print its trace. `list` names them all.
    #[arg(long, value_name = "NAME")]
    schedule: Option<String>,
    /// The seed of `--schedule`.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Let every node make one of the planted mistakes, and print the shortest run found that breaks a rule: its last
    /// lines, the rule, and what would have been lost. `list` names the mistakes.
    #[arg(long, value_name = "NAME")]
    mistake: Option<String>,
    /// Write a line for each run to this file: the hash of its trace, and what it counted. Two builds whose files are
    /// equal behaved the same, byte for byte of every message and every write.
    #[arg(long, value_name = "FILE")]
    digests: Option<PathBuf>,
    /// Of a trace, print only the lines of this kind; may be repeated.
    #[arg(long, value_name = "KIND")]
    only: Vec<Kind>,
    /// Of a trace, print only the lines of this node; may be repeated.
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
    /// Of the trace of a mistake, print this many lines, the last ones.
    #[arg(long, default_value_t = 40)]
    lines: usize,
}

/// Kind of a line of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Requests and answers between nodes.
    Messages,
    /// Operations of the disks.
    Disk,
    /// Log lines of the nodes.
    Log,
    /// Everything else: starts, faults, the story, the violated rule.
    Faults,
}

impl Kind {
    fn of(line: &str) -> Kind {
        if line.contains(" -> ") {
            Kind::Messages
        } else if line.contains(" disk: ") {
            Kind::Disk
        } else if line.contains(" says: ") {
            Kind::Log
        } else {
            Kind::Faults
        }
    }
}

impl Args {
    /// Returns true if a line of a trace is asked for. The story and the violation are always
    /// shown.
    fn shows(&self, line: &str) -> bool {
        let is_end = line.contains(" VIOLATION ") || line.contains(" STORY ");
        let is_kind = self.only.is_empty() || self.only.contains(&Kind::of(line));
        let names = |node: &String| line.split([' ', ':']).any(|word| word == node);
        is_end || (is_kind && (self.node.is_empty() || self.node.iter().any(names)))
    }

    fn shows_all(&self) -> bool {
        self.only.is_empty() && self.node.is_empty()
    }
}

fn main() {
    let args = Args::parse();
    let replayed = match replayed(&args) {
        Ok(replayed) => replayed,
        Err(why) => {
            eprintln!("{why}");
            std::process::exit(2);
        }
    };
    if let Some(name) = &args.mistake {
        std::process::exit(show_mistake(&args, name));
    }
    if let Some((simulation, what)) = replayed {
        let outcome = match args.shows_all() {
            true => simulation.print_trace().run(),
            false => simulation.keep_trace().run(),
        };
        for line in outcome.trace.iter().filter(|line| args.shows(line)) {
            println!("{line}");
        }
        println!("{}", ending(&what, &outcome));
        std::process::exit(i32::from(outcome.violation.is_some()));
    }
    let failures = match (args.crash_points, args.double_crashes, args.schedules) {
        (Some(every), ..) => crash_points(&args, "crash points", every, Point::single),
        (None, Some(every), _) => crash_points(&args, "double crashes", every, Point::double),
        (None, None, Some(count)) => schedules(&args, count),
        (None, None, None) => seeds(&args),
    };
    for failure in &failures {
        println!("{failure}");
    }
    std::process::exit(i32::from(!failures.is_empty()));
}

/// Returns a line that equal runs have in common, and others do not: the hash of the trace, then the number of its lines
/// and a hash of the counts, which stay the same where only the wording of a trace differs.
fn digest(what: &str, outcome: &Outcome) -> String {
    // Its keys are fixed, so that two builds with one toolchain can be compared.
    let mut counts = DefaultHasher::new();
    outcome.counts.hash(&mut counts);
    let violation = outcome.violation.as_deref().unwrap_or("no rule was broken");
    format!(
        "{what}: trace {:016x}, {} events, counts {:016x}, {violation}",
        outcome.hash,
        outcome.events,
        counts.finish()
    )
}

/// Returns the single run that is asked for, and how to ask for it again; `None` if many are.
fn replayed(args: &Args) -> Result<Option<(Simulation, String)>, String> {
    if let Some(name) = &args.schedule {
        let all = Schedule::all();
        let known = all.iter().find(|schedule| schedule.name == name);
        let list = || {
            let mut text = "the schedules are:".to_owned();
            for Schedule { name, about, .. } in &all {
                let _ = write!(text, "\n  {name:<32} {about}");
            }
            text
        };
        if name == "list" {
            println!("{}", list());
            std::process::exit(0);
        }
        let schedule = known.ok_or_else(|| format!("there is no schedule {name:?}; {}", list()))?;
        return Ok(Some((
            schedule.simulation(args.seed),
            replay_schedule(schedule, args.seed),
        )));
    }
    if let Some(seed) = args.replay {
        return Ok(Some((drawn(args, seed), replay_seed(args, seed))));
    }
    let Some(text) = &args.replay_point else {
        return Ok(None);
    };
    let point = Point::parse(text);
    let point = point.ok_or(format!("{text:?} is not SCENARIO:EVENT:NODE[:EVENT:NODE]"))?;
    Ok(Some((point.simulation(), point.replay())))
}

/// Maximum number of drawn seeds tried to find a rule that a mistake breaks, and number of runs that break one that is
/// enough.
const MISTAKE_SEEDS: u64 = 500;
const MISTAKE_RUNS: usize = 8;

/// Shows the effect of a mistake. Returns the exit code.
fn show_mistake(args: &Args, name: &str) -> i32 {
    if name == "list" {
        for mistake in Mistake::ALL {
            println!("{:<32} {}", mistake.name(), mistake.about());
        }
        return 0;
    }
    let Some(&mistake) = Mistake::ALL.iter().find(|known| known.name() == name) else {
        eprintln!("there is no mistake {name:?}: --mistake list names them");
        return 2;
    };
    let about = mistake.about();
    // A schedule that finds the mistake is shorter than any drawn run.
    let all = Schedule::all();
    let schedules = all.iter().flat_map(|schedule| {
        (0..3).map(move |seed| (schedule.simulation(seed), replay_schedule(schedule, seed)))
    });
    let seeds = (0..MISTAKE_SEEDS).map(|seed| (drawn(args, seed), replay_seed(args, seed)));
    let mut broken = Vec::new();
    for (simulation, replay) in schedules.chain(seeds) {
        let outcome = simulation.plant(mistake).keep_trace().run();
        if let Some(violation) = outcome.violation {
            broken.push((outcome.trace, violation, replay));
        }
        if broken.len() == MISTAKE_RUNS {
            break;
        }
    }
    let Some((trace, violation, replay)) = broken.into_iter().min_by_key(|(trace, ..)| trace.len())
    else {
        println!(
            "{name}: {about}\nno rule was broken in {MISTAKE_SEEDS} seeds, nor in any schedule"
        );
        return 1;
    };
    println!("{name}: {about}\n\nThe last lines of the shortest run that was found ({replay}):\n");
    let lines: Vec<&String> = trace.iter().filter(|line| args.shows(line)).collect();
    for line in &lines[lines.len().saturating_sub(args.lines)..] {
        println!("{line}");
    }
    println!("\n{violation}\n{}", would_be_lost(&violation));
    0
}

/// Returns what users of a log would lose if its nodes broke that rule.
fn would_be_lost(violation: &str) -> &'static str {
    let number = violation.split_once("rule ").map(|(_, rest)| {
        let digits = rest.find(|c: char| !c.is_ascii_digit());
        &rest[..digits.unwrap_or(rest.len())]
    });
    match number {
        Some("1") => "Two readers would have seen different messages at the same offset.",
        Some("2") => "A reader would have seen a message without those before it.",
        Some("3") => "A message that was sent once would have been there twice.",
        Some("4") => "A client would have been told that nodes hold its message which do not.",
        Some("5") => "A message that a client was promised would be gone.",
        Some("6") => "Clients would have waited for others' messages.",
        Some("7") => {
            "A node would never have received what it lacks, or a client never its answer."
        }
        Some("8") => "Messages would have been accepted that no majority could confirm.",
        Some("9") => "Two masters would have written to the log at the same time.",
        Some("10") => "A node would have served or acknowledged records that are not on its disk.",
        Some("11") => "A node would have used up its memory.",
        _ => {
            "A node would have ended with a failed assertion, and its messages would be on fewer disks."
        }
    }
}

fn replay_seed(args: &Args, seed: u64) -> String {
    format!("--replay {seed} --seconds {}", args.seconds)
}

fn replay_schedule(schedule: &Schedule, seed: u64) -> String {
    format!("--schedule {} --seed {seed}", schedule.name)
}

fn drawn(args: &Args, seed: u64) -> Simulation {
    let with_faults = Duration::from_secs(args.seconds);
    Cluster::drawn(seed)
        .build(Simulation::new(seed))
        .faults(Faults::drawn(seed))
        .lasting(with_faults, (with_faults / 2).max(CALM_MIN))
}

fn ending(what: &str, outcome: &Outcome) -> String {
    match &outcome.violation {
        None => format!("no rule was broken in {} events", outcome.events),
        Some(violation) => format!("{violation}\n  replay: scripts/simulate {what}"),
    }
}

/// Runs all seeds; returns the failures.
fn seeds(args: &Args) -> Vec<String> {
    let job = |nth| {
        let seed = args.first + nth;
        (drawn(args, seed), replay_seed(args, seed))
    };
    let mut totals = run_all(args, "seeds", args.seeds, &job);
    if args.seeds >= 1_000 {
        let never = OCCURRENCES
            .iter()
            .filter(|what| !totals.counts.contains_key(*what));
        let never: Vec<String> = never
            .map(|what| format!("never occurred: {what}"))
            .collect();
        totals.failures.extend(never);
    }
    totals.failures
}

/// Runs each schedule from `count` seeds; returns the failures.
fn schedules(args: &Args, count: u64) -> Vec<String> {
    let all = Schedule::all().len() as u64;
    let job = |nth: u64| {
        let schedule = &Schedule::all()[(nth % all) as usize];
        let seed = args.first + nth / all;
        (schedule.simulation(seed), replay_schedule(schedule, seed))
    };
    run_all(args, "schedules", all * count, &job).failures
}

/// Runs every N-th crash point of every scenario; returns the failures.
fn crash_points(
    args: &Args,
    what: &str,
    every: u64,
    point: fn(usize, &Scenario, u64, usize) -> Point,
) -> Vec<String> {
    let mut points = Vec::new();
    for (scenario, of) in Scenario::all().iter().enumerate() {
        let events = of.simulation().run().events_until_quiet;
        for event in (1..=events).step_by(every.max(1) as usize) {
            for node in 0..of.nodes().len() {
                points.push(point(scenario, of, event, node));
            }
        }
    }
    let job = |nth: u64| {
        let point = &points[nth as usize];
        (point.simulation(), point.replay())
    };
    run_all(args, what, points.len() as u64, &job).failures
}

/// The events at which to crash, and the nodes.
struct Point {
    scenario: usize,
    crashes: Vec<(u64, usize)>,
}

/// Approximate number of events in which a crashed node starts and recovers, and the others learn
/// of it.
const RECOVERY_EVENTS: u64 = 300;

impl Point {
    fn single(scenario: usize, _: &Scenario, event: u64, node: usize) -> Point {
        let crashes = vec![(event, node)];
        Point { scenario, crashes }
    }

    /// The second crash is soon after: of the same node every other time. Its event depends on the
    /// first and on nothing else, and may be any.
    fn double(scenario: usize, of: &Scenario, event: u64, node: usize) -> Point {
        let drawn = (event * 31 + node as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let nodes = of.nodes().len();
        let other = match drawn % 2 {
            0 => node,
            _ => (drawn / 2) as usize % nodes,
        };
        let later = event + 1 + drawn / 16 % RECOVERY_EVENTS;
        let crashes = vec![(event, node), (later, other)];
        Point { scenario, crashes }
    }

    fn parse(text: &str) -> Option<Point> {
        let mut numbers = text.split(':').map(|number| number.parse::<u64>().ok());
        let scenario = numbers.next()?? as usize;
        let scenarios = Scenario::all();
        let nodes = scenarios.get(scenario)?.nodes().len();
        let mut crashes = Vec::new();
        while let Some(event) = numbers.next() {
            let node = numbers.next()?? as usize;
            crashes.push((event?, Some(node).filter(|node| *node < nodes)?));
        }
        Some(Point { scenario, crashes })
    }

    fn replay(&self) -> String {
        let mut text = format!("--replay-point {}", self.scenario);
        for (event, node) in &self.crashes {
            let _ = write!(text, ":{event}:{node}");
        }
        text
    }

    fn simulation(&self) -> Simulation {
        let scenario = &Scenario::all()[self.scenario];
        let nodes = scenario.nodes();
        let crashes = self.crashes.iter();
        crashes.fold(scenario.simulation(), |simulation, (event, node)| {
            simulation.crash_at(*event, &nodes[*node])
        })
    }
}

/// Runs `count` jobs on all threads.
fn run_all(
    args: &Args,
    what: &str,
    count: u64,
    job: &(dyn Fn(u64) -> (Simulation, String) + Sync),
) -> Totals {
    let campaign = Campaign {
        totals: Mutex::new(Totals {
            digests: args.digests.as_ref().map(|_| BTreeMap::new()),
            ..Totals::default()
        }),
        ..Campaign::default()
    };
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..args.threads.unwrap_or_else(cores) {
            scope.spawn(|| campaign.work(count, job));
        }
        campaign.show_progress(what, count, began);
    });
    let totals = campaign.totals.into_inner();
    let mut totals = totals.unwrap_or_else(PoisonError::into_inner);
    println!("{}", totals.summary(what, began.elapsed()));
    if let (Some(path), Some(digests)) = (&args.digests, &totals.digests) {
        let text = digests.values().map(|line| format!("{line}\n"));
        let text: String = text.collect();
        if let Err(error) = fs::write(path, text) {
            let path = path.display();
            totals
                .failures
                .push(format!("{path} was not written: {error}"));
        }
    }
    totals
}

/// State that the threads share.
#[derive(Default)]
struct Campaign {
    next: AtomicU64,
    done: AtomicBool,
    totals: Mutex<Totals>,
}

#[derive(Default)]
struct Totals {
    runs: u64,
    events: u64,
    simulated: Duration,
    counts: BTreeMap<&'static str, u64>,
    /// A line for each run, by its number, if they are asked for.
    digests: Option<BTreeMap<u64, String>>,
    failures: Vec<String>,
}

impl Campaign {
    fn work(&self, count: u64, job: &(dyn Fn(u64) -> (Simulation, String) + Sync)) {
        loop {
            let nth = self.next.fetch_add(1, Ordering::Relaxed);
            if nth >= count {
                self.done.store(true, Ordering::Relaxed);
                return;
            }
            let (simulation, what) = job(nth);
            let outcome = simulation.run();
            let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
            totals.add(nth, &what, outcome);
        }
    }

    fn show_progress(&self, what: &str, count: u64, began: Instant) {
        let mut told = began;
        while !self.done.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
            if told.elapsed() >= Duration::from_secs(10) {
                told = Instant::now();
                let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
                let seconds = began.elapsed().as_secs_f64();
                eprintln!(
                    "{:>8} of {count} {what}, {:.0} a second, {:.0} events/s, {} failed",
                    totals.runs,
                    totals.runs as f64 / seconds,
                    totals.events as f64 / seconds,
                    totals.failures.len()
                );
            }
        }
    }
}

impl Totals {
    fn add(&mut self, nth: u64, what: &str, outcome: Outcome) {
        if let Some(digests) = &mut self.digests {
            digests.insert(nth, digest(what, &outcome));
        }
        self.runs += 1;
        self.events += outcome.events;
        self.simulated += outcome.simulated;
        if outcome.violation.is_some() {
            let text = ending(what, &outcome);
            eprintln!("{text}");
            self.failures.push(text);
        }
        for (what, count) in outcome.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    fn summary(&self, what: &str, took: Duration) -> String {
        let seconds = took.as_secs_f64();
        let mut text = format!(
            "{} {what}, {:.1} simulated hours, {} events in {seconds:.0} s: {:.0} {what}/s, {:.0} events/s; {} failed\n",
            self.runs,
            self.simulated.as_secs_f64() / 3600.0,
            self.events,
            self.runs as f64 / seconds,
            self.events as f64 / seconds,
            self.failures.len()
        );
        for (what, count) in &self.counts {
            let _ = writeln!(text, "{count:>12}  {what}");
        }
        text
    }
}

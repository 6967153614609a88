//! Simulates clusters under faults, seed after seed, and checks the rules at every step.
//!
//! `scripts/simulate` runs it. Without a violation it prints what occurred how often and exits 0;
//! a violation prints the rule, the seed and the one command that replays it, and exits 1.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use replog_core::sim::{Faults, Outcome, Simulation, cluster::Cluster};

/// Simulates clusters under faults and checks every rule at every step.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Simulated seconds with faults; as long as half of it follows without.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Threads; each runs seeds of its own.
    #[arg(long)]
    threads: Option<usize>,
    /// Run this seed alone and print its trace.
    #[arg(long)]
    replay: Option<u64>,
}

fn main() {
    let args = Args::parse();
    if let Some(seed) = args.replay {
        let outcome = simulation(&args, seed).print_trace().run();
        println!("{}", story_end(&args, &outcome));
        std::process::exit(i32::from(outcome.violation.is_some()));
    }
    let campaign = Campaign::default();
    let threads = args
        .threads
        .or_else(|| thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1);
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| campaign.work(&args));
        }
        campaign.show_progress(&args, began);
    });
    let totals = campaign
        .totals
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    println!("{}", totals.summary(began.elapsed()));
    if !totals.failures.is_empty() {
        for failure in &totals.failures {
            println!("{failure}");
        }
        std::process::exit(1);
    }
}

fn simulation(args: &Args, seed: u64) -> Simulation {
    let with_faults = Duration::from_secs(args.seconds);
    Cluster::drawn(seed)
        .build(Simulation::new(seed))
        .faults(Faults::drawn(seed))
        .lasting(with_faults, with_faults / 2)
}

fn story_end(args: &Args, outcome: &Outcome) -> String {
    let (seed, seconds) = (outcome.seed, args.seconds);
    match &outcome.violation {
        None => format!(
            "seed {seed}: no rule was broken in {} events",
            outcome.events
        ),
        Some(violation) => format!(
            "seed {seed}: {violation}\n  replay: scripts/simulate --replay {seed} --seconds {seconds}"
        ),
    }
}

/// What the threads share.
#[derive(Default)]
struct Campaign {
    next: AtomicU64,
    done: AtomicBool,
    totals: Mutex<Totals>,
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    events: u64,
    simulated: Duration,
    counts: BTreeMap<&'static str, u64>,
    failures: Vec<String>,
}

impl Campaign {
    fn work(&self, args: &Args) {
        loop {
            let nth = self.next.fetch_add(1, Ordering::Relaxed);
            if nth >= args.seeds {
                self.done.store(true, Ordering::Relaxed);
                return;
            }
            let outcome = simulation(args, args.first + nth).run();
            let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
            totals.add(args, outcome);
        }
    }

    fn show_progress(&self, args: &Args, began: Instant) {
        let mut told = began;
        while !self.done.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(100));
            if told.elapsed() >= Duration::from_secs(10) {
                told = Instant::now();
                let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
                let seconds = began.elapsed().as_secs_f64();
                eprintln!(
                    "{:>8} of {} seeds, {:.0} seeds/s, {:.0} events/s, {} failed",
                    totals.seeds,
                    args.seeds,
                    totals.seeds as f64 / seconds,
                    totals.events as f64 / seconds,
                    totals.failures.len()
                );
            }
        }
    }
}

impl Totals {
    fn add(&mut self, args: &Args, outcome: Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.simulated += outcome.simulated;
        if outcome.violation.is_some() {
            let text = story_end(args, &outcome);
            eprintln!("{text}");
            self.failures.push(text);
        }
        for (what, count) in outcome.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    fn summary(&self, took: Duration) -> String {
        let seconds = took.as_secs_f64();
        let mut text = format!(
            "{} seeds, {:.1} simulated hours, {} events in {seconds:.0} s: {:.0} seeds/s, {:.0} events/s; {} failed\n",
            self.seeds,
            self.simulated.as_secs_f64() / 3600.0,
            self.events,
            self.seeds as f64 / seconds,
            self.events as f64 / seconds,
            self.failures.len()
        );
        for (what, count) in &self.counts {
            text.push_str(&format!("{count:>12}  {what}\n"));
        }
        text
    }
}

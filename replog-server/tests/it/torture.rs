//! Clusters of real processes under trouble and load, one after the other, for as long as you like.
//!
//! `scripts/torture` runs it: the harness of the system tests, in a separate program. It prints
//! its progress every few seconds, and ends with exit code 1 when a node breaks a promise. Then it
//! reports what was done, what is wrong, and where directories and logs of the nodes are. Ctrl-C
//! ends it, and the nodes with it.

mod chaos;
#[allow(dead_code, reason = "the tests use the rest")]
mod http;
#[allow(dead_code, reason = "the tests use the rest")]
mod nodes;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use chaos::{End, Plan, Summary};
use clap::Parser;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

/// Rounds in the life of a cluster: its log is compared as a whole after each.
const ROUNDS_OF_CLUSTER: u64 = 12;
const TROUBLES_OF_ROUND: usize = 10;
const CLIENTS: usize = 12;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Exit code after a signal, as in shells.
const INTERRUPTED: u8 = 130;

/// Set by a signal.
static STOP: AtomicBool = AtomicBool::new(false);

/// Tortures clusters of real processes, and checks after each round what was promised.
#[derive(Debug, Parser)]
struct Args {
    /// Duration in seconds: no round begins after that.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    duration: u64,
    /// Number of rounds, however long they take [default: as many as fit into the duration].
    #[arg(long, conflicts_with = "duration")]
    rounds: Option<u64>,
    /// The first cluster's seed; the next one has the next [default: drawn].
    #[arg(long)]
    seed: Option<u64>,
    /// Nodes of each cluster: 3 or 5.
    #[arg(long, default_value = "3", value_parser = parse_nodes)]
    nodes: usize,
}

fn parse_nodes(text: &str) -> Result<usize, String> {
    match text {
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("a cluster under torture has 3 or 5 nodes".to_owned()),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    watch_signals();
    let seed = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    println!("seed {seed}, {} nodes", args.nodes);
    let until = Instant::now() + Duration::from_secs(args.duration);
    let mut progress = Progress::new();
    for cluster in 0.. {
        let rounds_left = match args.rounds {
            Some(rounds) => rounds - progress.done.rounds,
            None if Instant::now() < until => u64::MAX,
            None => 0,
        };
        if rounds_left == 0 {
            break;
        }
        let plan = Plan {
            seed: seed + cluster,
            nodes: args.nodes,
            clients: CLIENTS,
            rounds: rounds_left.min(ROUNDS_OF_CLUSTER),
            troubles: TROUBLES_OF_ROUND,
            until: args.rounds.is_none().then_some(until),
        };
        match chaos::run(plan, &STOP, &mut |now| progress.show(now)) {
            Ok(summary) => progress.finish(&summary),
            Err(End::Interrupted) => {
                println!("interrupted\n{}", progress.all());
                return ExitCode::from(INTERRUPTED);
            }
            Err(End::Violated(failure)) => {
                println!("{failure}");
                println!(
                    "again: scripts/torture --seed {} --nodes {}",
                    plan.seed, plan.nodes
                );
                return ExitCode::FAILURE;
            }
        }
    }
    println!("no promise was broken\n{}", progress.done);
    ExitCode::SUCCESS
}

/// Shows the progress now and then.
struct Progress {
    started: Instant,
    shown: Instant,
    /// Results of the clusters that are over.
    done: Summary,
    /// Progress of the one that is running.
    current: Summary,
}

impl Progress {
    fn new() -> Progress {
        let now = Instant::now();
        Progress {
            started: now,
            shown: now,
            done: Summary::default(),
            current: Summary::default(),
        }
    }

    /// Returns the results so far, of all clusters.
    fn all(&self) -> Summary {
        let mut all = self.done.clone();
        all.add(&self.current);
        all
    }

    /// Adds the results of a cluster that is over.
    fn finish(&mut self, cluster: &Summary) {
        self.done.add(cluster);
        self.current = Summary::default();
    }

    fn show(&mut self, current: &Summary) {
        self.current = current.clone();
        if self.shown.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        self.shown = Instant::now();
        let all = self.all();
        let troubles: Vec<String> = all
            .troubles
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        println!(
            "{:5} s: {} rounds, {} appends acknowledged; {}",
            self.started.elapsed().as_secs(),
            all.rounds,
            all.tally.acknowledged,
            troubles.join(", ")
        );
    }
}

/// Makes a signal end the run in order, and a second one end it at once.
fn watch_signals() {
    thread::spawn(|| {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).expect("a signal");
            let mut terminate = signal(SignalKind::terminate()).expect("a signal");
            loop {
                tokio::select! {
                    biased;
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if STOP.swap(true, Ordering::Relaxed) {
                    std::process::exit(INTERRUPTED.into());
                }
            }
        });
    });
}

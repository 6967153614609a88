//! Appends by number of secondaries, and with one that is dead or slow.
//!
//! A slow secondary is one whose process is frozen nine tenths of the time: making a disk slow
//! takes more rights than this program wants. It is slow at everything, including its answers to
//! heartbeats.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::{
    args::Args,
    cluster::{Cluster, Replog},
    measure::{self, Figures, Run},
    report,
    wire::{Protocol, Work},
};

/// Clients that append, and their concern.
const CLIENTS: usize = 64;
const CONCERN: u32 = 2;
/// Time for which a slow secondary runs, and for which it is frozen, alternately.
const RUNS: Duration = Duration::from_millis(5);
const STANDS: Duration = Duration::from_millis(45);

/// A kind of cluster.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Healthy { secondaries: usize },
    OneDead,
    OneSlow,
}

const SHAPES: [Shape; 6] = [
    Shape::Healthy { secondaries: 1 },
    Shape::Healthy { secondaries: 2 },
    Shape::Healthy { secondaries: 4 },
    Shape::Healthy { secondaries: 8 },
    Shape::OneDead,
    Shape::OneSlow,
];

/// Results.
#[derive(Debug, Serialize)]
pub(crate) struct Secondaries {
    rows: Vec<(Shape, Figures)>,
}

/// Measures each shape on fresh clusters.
pub(crate) async fn run(args: &Args, replog: Replog<'_>) -> Result<Secondaries, String> {
    let mut runs = [const { Vec::new() }; SHAPES.len()];
    for repetition in 1..=args.repetitions {
        eprintln!(
            "secondaries, repetition {repetition} of {}",
            args.repetitions
        );
        for (shape, runs) in SHAPES.into_iter().zip(&mut runs) {
            runs.push(measure(args, replog, shape).await?);
        }
    }
    let rows = SHAPES.into_iter().zip(runs);
    Ok(Secondaries {
        rows: rows
            .map(|(shape, runs)| (shape, Figures::of(runs)))
            .collect(),
    })
}

async fn measure(args: &Args, replog: Replog<'_>, shape: Shape) -> Result<Run, String> {
    let secondaries = match shape {
        Shape::Healthy { secondaries } => secondaries,
        Shape::OneDead | Shape::OneSlow => 2,
    };
    let mut cluster = replog.start_with(secondaries).await?;
    let slow = match shape {
        Shape::Healthy { .. } => None,
        Shape::OneDead => {
            cluster.secondaries[1].kill().await?;
            None
        }
        Shape::OneSlow => Some(Slow::begin(cluster.secondaries[1].running()?)?),
    };
    let run = measure::run_once(args.times(), &cluster, work(args, &cluster)?).await;
    drop(slow);
    let run = run?;
    cluster.stop().await?;
    Ok(run)
}

fn work(args: &Args, cluster: &Cluster) -> Result<Work, String> {
    Ok(Work {
        address: cluster.master_address()?,
        protocol: Protocol::Http { concern: CONCERN },
        clients: CLIENTS,
        payload_bytes: args.payload_bytes,
    })
}

/// Makes a process slow until it is dropped.
struct Slow {
    ended: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Slow {
    fn begin(process: u32) -> Result<Slow, String> {
        let process = i32::try_from(process).ok().and_then(Pid::from_raw);
        let process = process.ok_or("a process id out of range")?;
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                // The process may be gone already: then nothing is slow.
                let _ = kill_process(process, Signal::STOP);
                thread::sleep(STANDS);
                let _ = kill_process(process, Signal::CONT);
                thread::sleep(RUNS);
            }
        });
        Ok(Slow {
            ended,
            thread: Some(thread),
        })
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // The thread's last act resumes the process.
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Healthy { secondaries: 1 } => f.write_str("1 secondary"),
            Shape::Healthy { secondaries } => write!(f, "{secondaries} secondaries"),
            Shape::OneDead => f.write_str("2, one dead"),
            Shape::OneSlow => f.write_str("2, one slow"),
        }
    }
}

impl fmt::Display for Secondaries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "By secondaries: w={CONCERN}, {CLIENTS} clients; a slow one stands still nine tenths of \
             the time (SIGSTOP)\n"
        )?;
        let mut heading = vec![""];
        heading.extend(measure::HEADING);
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|(shape, figures)| {
                let mut cells = vec![shape.to_string()];
                cells.extend(figures.cells());
                cells
            })
            .collect();
        write!(f, "{}", report::table(&heading, &rows))
    }
}

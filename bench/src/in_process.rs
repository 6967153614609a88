//! The library in one process, without HTTP: in memory and on files, compared with another library.
//!
//! Everything runs on threads of this process, including the tasks that append, so the cost of the
//! nodes and of the load cannot be separated.

#[cfg(feature = "peers")]
mod raft;
mod replog;

use std::{
    fmt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{runtime::Runtime, sync::oneshot, task::JoinSet};

use crate::{
    args::Args,
    load,
    measure::Times,
    pinning, proc,
    report::{self, Spread},
};

/// Tasks that append; each sends its next message when the previous one was acknowledged.
const TASKS: [usize; 3] = [1, 64, 1_024];

/// The library under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Library {
    ReplogMemory,
    ReplogFiles,
    #[cfg(feature = "peers")]
    Openraft,
}

const LIBRARIES: &[Library] = &[
    Library::ReplogMemory,
    Library::ReplogFiles,
    #[cfg(feature = "peers")]
    Library::Openraft,
];

/// Results.
#[derive(Debug, Serialize)]
pub(crate) struct InProcess {
    payload_bytes: usize,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    library: Library,
    tasks: usize,
    per_second: Spread,
    p50_ms: Spread,
    p99_ms: Spread,
    cpu_s: Spread,
    runs: Vec<Run>,
}

/// Appends per second, latencies, and CPU seconds of the whole process per 1,000 appends.
#[derive(Clone, Copy, Debug, Serialize)]
struct Run {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_s: f64,
}

/// Appends one message and waits until two of three nodes hold it.
trait Append: Clone + Send + 'static {
    fn append(&mut self, number: u64) -> impl Future<Output = Result<(), String>> + Send;
}

/// Measures it on threads of its own.
pub(crate) async fn run(args: &Args, directory: &Path) -> Result<InProcess, String> {
    let (sender, measured) = oneshot::channel();
    // Held here: ending the run early removes it, which the thread could not do.
    let all = crate::cluster::fresh_directory(directory)?;
    let (args, directory) = (args.clone(), all.path().to_owned());
    // Its threads inherit the servers' CPUs: there is no separate load.
    let thread = pinning::as_server(|| {
        thread::Builder::new().spawn(move || {
            let rows = Runtime::new()
                .map_err(|error| format!("no runtime: {error}"))
                .and_then(|runtime| runtime.block_on(measure_all(&args, &directory)));
            // The receiver may have been told to end.
            let _ = sender.send(rows);
        })
    });
    thread.map_err(|error| format!("no thread: {error}"))?;
    measured
        .await
        .map_err(|_| "the measuring thread panicked".to_owned())?
}

async fn measure_all(args: &Args, directory: &Path) -> Result<InProcess, String> {
    let works: Vec<(Library, usize)> = LIBRARIES
        .iter()
        .flat_map(|library| TASKS.map(|tasks| (*library, tasks)))
        .collect();
    let mut runs = vec![Vec::new(); works.len()];
    for repetition in 1..=args.repetitions {
        eprintln!(
            "in process, repetition {repetition} of {}",
            args.repetitions
        );
        for ((library, tasks), runs) in works.iter().zip(&mut runs) {
            runs.push(measure(*library, *tasks, args, directory).await?);
        }
    }
    let row = |((library, tasks), runs): ((Library, usize), Vec<Run>)| {
        let spread = |value: fn(&Run) -> f64| Spread::of(runs.iter().map(value));
        Row {
            library,
            tasks,
            per_second: spread(|run| run.per_second),
            p50_ms: spread(|run| run.p50_ms),
            p99_ms: spread(|run| run.p99_ms),
            cpu_s: spread(|run| run.cpu_s),
            runs,
        }
    };
    Ok(InProcess {
        payload_bytes: args.payload_bytes,
        rows: works.into_iter().zip(runs).map(row).collect(),
    })
}

async fn measure(
    library: Library,
    tasks: usize,
    args: &Args,
    directory: &Path,
) -> Result<Run, String> {
    let (times, bytes) = (args.times(), args.payload_bytes);
    match library {
        Library::ReplogMemory => {
            let cluster = replog::Cluster::in_memory(bytes).await?;
            let run = append_all(times, tasks, cluster.appender()).await?;
            cluster.stop().await;
            Ok(run)
        }
        Library::ReplogFiles => {
            let directory = crate::cluster::fresh_directory(directory)?;
            let below = |name: &str| -> PathBuf { directory.path().join(name) };
            let cluster = replog::Cluster::on_files(bytes, below).await?;
            let run = append_all(times, tasks, cluster.appender()).await?;
            cluster.stop().await;
            Ok(run)
        }
        #[cfg(feature = "peers")]
        Library::Openraft => {
            let cluster = raft::Cluster::start(bytes).await?;
            let run = append_all(times, tasks, cluster.appender()).await?;
            cluster.stop().await?;
            Ok(run)
        }
    }
}

async fn append_all(times: Times, tasks: usize, appender: impl Append) -> Result<Run, String> {
    let begun = Instant::now();
    let counts_from = begun + times.warm_up;
    let until = counts_from + times.measured;
    let mut all = JoinSet::new();
    for _ in 0..tasks {
        all.spawn(append_until(appender.clone(), counts_from, until));
    }
    tokio::time::sleep(times.warm_up).await;
    let before = proc::Usage::of(&[])?;
    tokio::time::sleep(until.saturating_duration_since(Instant::now())).await;
    let used = proc::Usage::of(&[])? - before;
    let mut latencies_us = load::histogram();
    while let Some(ended) = all.join_next().await {
        let own: Vec<Duration> = ended.map_err(|error| error.to_string())??;
        for latency in own {
            load::record(&mut latencies_us, latency);
        }
    }
    Ok(outcome(times, used.own, &latencies_us))
}

/// Returns the latencies of one task: tasks share nothing while they are measured.
async fn append_until(
    mut appender: impl Append,
    counts_from: Instant,
    until: Instant,
) -> Result<Vec<Duration>, String> {
    let mut latencies = Vec::new();
    for number in 0.. {
        let begun = Instant::now();
        appender.append(number).await?;
        let ended = Instant::now();
        if ended >= until {
            break;
        }
        if ended >= counts_from {
            latencies.push(ended - begun);
        }
    }
    Ok(latencies)
}

fn outcome(times: Times, cpu_s: f64, latencies_us: &Histogram<u64>) -> Run {
    let appends = latencies_us.len() as f64;
    Run {
        per_second: appends / times.measured.as_secs_f64(),
        p50_ms: load::quantile_ms(latencies_us, 0.50),
        p99_ms: load::quantile_ms(latencies_us, 0.99),
        cpu_s: cpu_s / appends.max(1.0) * 1_000.0,
    }
}

impl Library {
    fn name(self) -> &'static str {
        match self {
            Library::ReplogMemory => "replog-core, memory",
            Library::ReplogFiles => "replog-core, files, synced",
            #[cfg(feature = "peers")]
            Library::Openraft => "openraft 0.9, its in-memory store",
        }
    }
}

impl fmt::Display for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "In one process, without HTTP: three nodes, two must hold it, {} bytes. openraft's store \
             is the one it is tested with: it keeps each entry as JSON text, and applies it\n",
            self.payload_bytes
        )?;
        let heading = [
            "",
            "tasks",
            "appends/s",
            "min",
            "max",
            "p50 ms",
            "p99 ms",
            "CPU s/1k",
        ];
        let rows: Vec<Vec<String>> = self.rows.iter().map(Row::cells).collect();
        write!(f, "{}", report::table(&heading, &rows))
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let Spread { median, min, max } = self.per_second;
        let mut cells = vec![self.library.name().to_owned(), self.tasks.to_string()];
        cells.extend([median, min, max].map(|per_second| format!("{per_second:.0}")));
        cells.extend([
            format!("{:.3}", self.p50_ms.median),
            format!("{:.3}", self.p99_ms.median),
            format!("{:.4}", self.cpu_s.median),
        ]);
        cells
    }
}

//! Appends by concern and number of clients.
//!
//! Repetitions are interleaved: every run is made once before any is made again, so that a
//! machine that was busy for a while was so for all. Each round has a fresh cluster.

use std::time::Duration;

use serde::Serialize;

use crate::{
    args::Args,
    cluster::Cluster,
    load::{Load, Work},
    proc,
    report::{self, Spread},
};

/// One run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// CPU seconds of all nodes, and of the load, for 1,000 appends.
    pub(crate) nodes_cpu_s: f64,
    pub(crate) load_cpu_s: f64,
    /// The peaks of all nodes together.
    pub(crate) peak_mib: f64,
    /// CPUs that everything else on the machine used.
    pub(crate) other_cpus: f64,
}

/// All repetitions of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) concern: u32,
    pub(crate) clients: usize,
    pub(crate) per_second: Spread,
    pub(crate) p50_ms: Spread,
    pub(crate) p99_ms: Spread,
    pub(crate) nodes_cpu_s: Spread,
    pub(crate) load_cpu_s: Spread,
    pub(crate) peak_mib: Spread,
    pub(crate) other_cpus: Spread,
    pub(crate) runs: Vec<Run>,
}

impl Row {
    pub(crate) fn of(work: Work, runs: Vec<Run>) -> Row {
        let spread = |value: fn(&Run) -> f64| Spread::of(runs.iter().map(value));
        Row {
            concern: work.concern,
            clients: work.clients,
            per_second: spread(|run| run.per_second),
            p50_ms: spread(|run| run.p50_ms),
            p99_ms: spread(|run| run.p99_ms),
            nodes_cpu_s: spread(|run| run.nodes_cpu_s),
            load_cpu_s: spread(|run| run.load_cpu_s),
            peak_mib: spread(|run| run.peak_mib),
            other_cpus: spread(|run| run.other_cpus),
            runs,
        }
    }

    /// Its cells, in the order of [`HEADING`].
    pub(crate) fn cells(&self) -> Vec<String> {
        vec![
            self.concern.to_string(),
            self.clients.to_string(),
            format!("{:.0}", self.per_second.median),
            format!("{:.0}", self.per_second.min),
            format!("{:.0}", self.per_second.max),
            format!("{:.2}", self.p50_ms.median),
            format!("{:.2}", self.p99_ms.median),
            format!("{:.4}", self.nodes_cpu_s.median),
            format!("{:.4}", self.load_cpu_s.median),
            format!("{:.0}", self.peak_mib.median),
            format!("{:.2}", self.other_cpus.median),
        ]
    }
}

/// The columns of a table of runs.
pub(crate) const HEADING: [&str; 11] = [
    "w",
    "clients",
    "appends/s",
    "min",
    "max",
    "p50 ms",
    "p99 ms",
    "CPU s/1k nodes",
    "CPU s/1k load",
    "RSS MiB",
    "other CPUs",
];

/// Runs everything as often as wanted.
pub(crate) async fn run<S, F>(args: &Args, start: &S) -> Result<Vec<Row>, String>
where
    S: Fn() -> F,
    F: Future<Output = Result<Cluster, String>>,
{
    let works: Vec<Work> = args
        .concerns
        .iter()
        .flat_map(|&concern| {
            args.clients.iter().map(move |&clients| Work {
                concern,
                clients,
                payload_bytes: args.payload_bytes,
            })
        })
        .collect();
    let mut runs = vec![Vec::new(); works.len()];
    for repetition in 1..=args.repetitions {
        eprintln!("repetition {repetition} of {}", args.repetitions);
        let cluster = start().await?;
        for (work, runs) in works.iter().zip(&mut runs) {
            runs.push(run_once(args, &cluster, *work).await?);
        }
        cluster.stop().await?;
    }
    let rows = works.into_iter().zip(runs);
    Ok(rows.map(|(work, runs)| Row::of(work, runs)).collect())
}

/// Runs one load for the wanted time.
pub(crate) async fn run_once(args: &Args, cluster: &Cluster, work: Work) -> Result<Run, String> {
    let (warm_up, measured) = (seconds(args.warm_up), seconds(args.seconds));
    let load = Load::start(cluster.master_address()?, work).await?;
    tokio::time::sleep(warm_up).await;
    cluster.processes().into_iter().for_each(proc::forget_peak);
    let before = cluster.cpu_times()?;
    let measured = load.measure(measured).await;
    let cpu = cluster.cpu_times()? - before;
    let peak_mib = cluster.peak_mib()?;
    load.stop().await?;
    let thousands = measured.appends as f64 / 1_000.0;
    Ok(Run {
        per_second: measured.per_second(),
        p50_ms: measured.latency_ms(0.50),
        p99_ms: measured.latency_ms(0.99),
        nodes_cpu_s: cpu.nodes / thousands,
        load_cpu_s: cpu.own / thousands,
        peak_mib,
        other_cpus: cpu.others() / measured.elapsed.as_secs_f64(),
    })
}

/// The table for people.
pub(crate) fn table(rows: &[Row]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
    format!(
        "Appends by concern and clients\n\n{}",
        report::table(&HEADING, &rows)
    )
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

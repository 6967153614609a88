//! One run of one load on one cluster, and all repetitions of it.

use std::time::Duration;

use serde::Serialize;

use crate::{cluster::Cluster, load::Load, pinning, proc, report::Spread, wire::Work};

/// CPUs of everything else above which a run says nothing: the system's own work for the servers is
/// less.
const OTHER_CPUS_MAX: f64 = 0.5;
/// The part of the load's threads' time above which the load itself may be the limit.
const LOAD_PART_MAX: f64 = 0.9;

/// Times of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// Results of one run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// CPU seconds of all nodes, and of the load, per 1,000 appends.
    pub(crate) nodes_cpu_s: f64,
    pub(crate) load_cpu_s: f64,
    /// CPUs used by the load.
    pub(crate) load_cpus: f64,
    /// KiB that all nodes together sent to storage, per append.
    pub(crate) written_kib: f64,
    /// The sum of the nodes' peaks.
    pub(crate) peak_mib: f64,
    /// CPUs used by everything else on the machine.
    pub(crate) other_cpus: f64,
}

/// Runs one load for the wanted time.
///
/// # Errors
///
/// If anything was not appended: the figures would be those of refusals.
pub(crate) async fn run_once(times: Times, cluster: &Cluster, work: Work) -> Result<Run, String> {
    let load = Load::start(work).await?;
    tokio::time::sleep(times.warm_up).await;
    cluster.processes().into_iter().for_each(proc::forget_peak);
    let before = cluster.usage()?;
    let measured = load.measure(times.measured).await;
    let used = cluster.usage()? - before;
    let peak_mib = cluster.peak_mib()?;
    load.stop().await?;
    if measured.appends == 0 {
        return Err(format!(
            "no append was answered within {:?}",
            times.measured
        ));
    }
    let (appends, seconds) = (measured.appends as f64, measured.elapsed.as_secs_f64());
    Ok(Run {
        per_second: measured.per_second(),
        p50_ms: measured.latency_ms(0.50),
        p99_ms: measured.latency_ms(0.99),
        nodes_cpu_s: used.nodes / appends * 1_000.0,
        load_cpu_s: used.own / appends * 1_000.0,
        load_cpus: used.own / seconds,
        written_kib: used.written_bytes / appends / 1_024.0,
        peak_mib,
        other_cpus: used.others() / seconds,
    })
}

/// All repetitions of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) per_second: Spread,
    pub(crate) p50_ms: Spread,
    pub(crate) p99_ms: Spread,
    pub(crate) nodes_cpu_s: Spread,
    pub(crate) load_cpu_s: Spread,
    pub(crate) load_cpus: Spread,
    pub(crate) written_kib: Spread,
    pub(crate) peak_mib: Spread,
    pub(crate) other_cpus: Spread,
    pub(crate) runs: Vec<Run>,
}

/// The columns of [`Figures::cells`].
pub(crate) const HEADING: [&str; 11] = [
    "appends/s",
    "min",
    "max",
    "p50 ms",
    "p99 ms",
    "CPU s/1k nodes",
    "CPU s/1k load",
    "load CPUs",
    "KiB/append",
    "RSS MiB",
    "other CPUs",
];

impl Figures {
    /// Summarizes at least one run.
    pub(crate) fn of(runs: Vec<Run>) -> Figures {
        let spread = |value: fn(&Run) -> f64| Spread::of(runs.iter().map(value));
        Figures {
            per_second: spread(|run| run.per_second),
            p50_ms: spread(|run| run.p50_ms),
            p99_ms: spread(|run| run.p99_ms),
            nodes_cpu_s: spread(|run| run.nodes_cpu_s),
            load_cpu_s: spread(|run| run.load_cpu_s),
            load_cpus: spread(|run| run.load_cpus),
            written_kib: spread(|run| run.written_kib),
            peak_mib: spread(|run| run.peak_mib),
            other_cpus: spread(|run| run.other_cpus),
            runs,
        }
    }

    /// Returns the cells of a table, in the order of [`HEADING`]. Doubtful values have a mark.
    pub(crate) fn cells(&self) -> Vec<String> {
        let marked = |value: f64, limit: f64| match value > limit {
            true => format!("{value:.2}!"),
            false => format!("{value:.2}"),
        };
        vec![
            format!("{:.0}", self.per_second.median),
            format!("{:.0}", self.per_second.min),
            format!("{:.0}", self.per_second.max),
            format!("{:.2}", self.p50_ms.median),
            format!("{:.2}", self.p99_ms.median),
            format!("{:.4}", self.nodes_cpu_s.median),
            format!("{:.4}", self.load_cpu_s.median),
            marked(
                self.load_cpus.median,
                LOAD_PART_MAX * pinning::load_threads() as f64,
            ),
            format!("{:.2}", self.written_kib.median),
            format!("{:.0}", self.peak_mib.median),
            marked(self.other_cpus.median, OTHER_CPUS_MAX),
        ]
    }
}

//! Cost of an idle cluster.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{args::Args, cluster::Cluster, proc};

/// A cluster at rest: heartbeats and nothing else.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    /// CPUs used by all nodes together.
    nodes_cpus: f64,
    /// Memory of each node, the master first.
    resident_mib: Vec<f64>,
}

/// Watches a fresh cluster for the length of one run.
pub(crate) async fn run(args: &Args, cluster: Cluster) -> Result<Idle, String> {
    let time = Duration::from_secs_f64(args.seconds);
    let before = cluster.usage()?;
    tokio::time::sleep(time).await;
    let used = cluster.usage()? - before;
    let resident: Result<Vec<f64>, String> = cluster
        .processes()
        .into_iter()
        .map(proc::resident_mib)
        .collect();
    let idle = Idle {
        nodes_cpus: used.nodes / time.as_secs_f64(),
        resident_mib: resident?,
    };
    cluster.stop().await?;
    Ok(idle)
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resident: Vec<String> = self
            .resident_mib
            .iter()
            .map(|mib| format!("{mib:.1}"))
            .collect();
        write!(
            f,
            "Idle: the three nodes use {:.4} CPUs and {} MiB",
            self.nodes_cpus,
            resident.join(" + ")
        )
    }
}

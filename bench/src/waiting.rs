//! Appends while thousands of clients wait for a secondary.
//!
//! One secondary is frozen in both cases, so that only the waiting clients differ. The two cases
//! take turns.

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    args::Args,
    cluster::{Cluster, is_caught_up},
    load::Waiters,
    measure::{self, Figures, Run},
    node::Held,
    proc, report,
    wire::{Protocol, Work},
};

/// Clients that append while others wait.
const CLIENTS: usize = 64;
/// Their concerns: those that can be met.
const CONCERNS: [u32; 2] = [1, 2];

/// Pause before memory is read again: the master keeps closed connections for a few seconds.
const QUIET: Duration = Duration::from_secs(5);

/// Results with and without waiting clients.
#[derive(Debug, Serialize)]
pub(crate) struct Waiting {
    clients: u32,
    /// Figures by concern, as in [`CONCERNS`].
    without: Vec<Figures>,
    beside: Vec<Figures>,
    /// Memory of the master, by repetition.
    master: Vec<Memory>,
}

/// The master's memory in MiB, and the time from the secondary's return until the last waiting
/// client was answered.
#[derive(Clone, Copy, Debug, Serialize)]
struct Memory {
    before_mib: f64,
    during_mib: f64,
    after_mib: f64,
    released_s: f64,
}

pub(crate) async fn run(args: &Args, cluster: Cluster) -> Result<Waiting, String> {
    let (mut without, mut beside) = ([vec![], vec![]], [vec![], vec![]]);
    let mut memory = Vec::new();
    for repetition in 1..=args.repetitions {
        eprintln!(
            "with {} waiting clients, repetition {repetition} of {}",
            args.waiting_clients, args.repetitions
        );
        let held = Held::hold(&cluster.secondaries[1])?;
        measure(args, &cluster, &mut without).await?;
        drop(held);
        caught_up(&cluster).await?;
        memory.push(with_waiters(args, &cluster, &mut beside).await?);
    }
    cluster.stop().await?;
    Ok(Waiting {
        clients: args.waiting_clients,
        without: without.map(Figures::of).into(),
        beside: beside.map(Figures::of).into(),
        master: memory,
    })
}

async fn with_waiters(
    args: &Args,
    cluster: &Cluster,
    runs: &mut [Vec<Run>; 2],
) -> Result<Memory, String> {
    let master = cluster.master.running()?;
    let before_mib = proc::resident_mib(master)?;
    let held = Held::hold(&cluster.secondaries[1])?;
    let work = work(args, cluster, 3, args.waiting_clients as usize)?;
    let waiters = Waiters::start(work).await?;
    let all_wait = |health: &serde_json::Value| health["waiting_appends"] == work.clients;
    cluster.eventually(all_wait).await?;
    measure(args, cluster, runs).await?;
    let during_mib = proc::resident_mib(master)?;
    let back = Instant::now();
    drop(held);
    waiters.released().await?;
    let released_s = back.elapsed().as_secs_f64();
    caught_up(cluster).await?;
    tokio::time::sleep(QUIET).await;
    Ok(Memory {
        before_mib,
        during_mib,
        after_mib: proc::resident_mib(master)?,
        released_s,
    })
}

async fn measure(args: &Args, cluster: &Cluster, runs: &mut [Vec<Run>; 2]) -> Result<(), String> {
    for (concern, runs) in CONCERNS.into_iter().zip(runs) {
        let work = work(args, cluster, concern, CLIENTS)?;
        runs.push(measure::run_once(args.times(), cluster, work).await?);
    }
    Ok(())
}

async fn caught_up(cluster: &Cluster) -> Result<(), String> {
    cluster
        .eventually(|health| is_caught_up(health, 1))
        .await
        .map(drop)
}

fn work(args: &Args, cluster: &Cluster, concern: u32, clients: usize) -> Result<Work, String> {
    Ok(Work {
        address: cluster.master_address()?,
        protocol: Protocol::Http { concern },
        clients,
        payload_bytes: args.payload_bytes,
    })
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Beside clients that wait, one secondary hanging\n")?;
        let mut heading = vec!["waiting", "w", "clients"];
        heading.extend(measure::HEADING);
        let cells = |waiting: u32, concern: u32, figures: &Figures| {
            let mut cells = [waiting, concern].map(|number| number.to_string()).to_vec();
            cells.push(CLIENTS.to_string());
            cells.extend(figures.cells());
            cells
        };
        let rows: Vec<Vec<String>> = CONCERNS
            .into_iter()
            .zip(self.without.iter().zip(&self.beside))
            .flat_map(|(concern, (without, beside))| {
                [
                    cells(0, concern, without),
                    cells(self.clients, concern, beside),
                ]
            })
            .collect();
        writeln!(f, "{}", report::table(&heading, &rows))?;
        for memory in &self.master {
            writeln!(
                f,
                "Master's RSS {:.0} MiB before, {:.0} MiB while they wait, {:.0} MiB after; \
                 the last was answered {:.2} s after the secondary went on",
                memory.before_mib, memory.during_mib, memory.after_mib, memory.released_s
            )?;
        }
        Ok(())
    }
}

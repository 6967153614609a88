//! A secondary that was down while others appended: from its first answered heartbeat until it
//! holds everything that it missed, synced.

use std::{fmt, time::Instant};

use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    args::Args,
    cluster::{Cluster, Replog, is_caught_up},
    load::Load,
    node::PATIENCE,
    report::Spread,
    wire::{Protocol, Work},
};

/// Clients that append what it misses.
const CLIENTS: usize = 256;
/// Interval between two looks at the master's health: the figure is no finer.
const LOOK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(2);

/// Results.
#[derive(Debug, Serialize)]
pub(crate) struct Missed {
    messages: u64,
    payload_bytes: usize,
    /// From the start of its process until it answered a heartbeat, and from then on.
    noticed_s: Spread,
    synced_s: Spread,
}

/// Measures it on fresh clusters.
pub(crate) async fn run(args: &Args, replog: Replog<'_>) -> Result<Missed, String> {
    let mut all = Vec::new();
    for repetition in 1..=args.repetitions {
        eprintln!(
            "missed messages, repetition {repetition} of {}",
            args.repetitions
        );
        all.push(once(args, replog.start().await?).await?);
    }
    Ok(Missed {
        messages: args.missed_messages,
        payload_bytes: args.payload_bytes,
        noticed_s: Spread::of(all.iter().map(|(noticed, _)| *noticed)),
        synced_s: Spread::of(all.iter().map(|(_, synced)| *synced)),
    })
}

async fn once(args: &Args, mut cluster: Cluster) -> Result<(f64, f64), String> {
    cluster.secondaries[1].kill().await?;
    let work = Work {
        address: cluster.master_address()?,
        protocol: Protocol::Http { concern: 2 },
        clients: CLIENTS,
        payload_bytes: args.payload_bytes,
    };
    let load = Load::start_of(work, args.missed_messages).await?;
    load.finish(Instant::now()).await?;
    // Its next answer counts as its first only after it was considered gone.
    let is_gone = |health: &Value| health["secondaries"][1]["status"] == "Unhealthy";
    cluster.eventually(is_gone).await?;
    let begun = Instant::now();
    cluster.secondaries[1].start().await?;
    // Both are checked at once: between two looks it may have got everything.
    let mut answered = None;
    loop {
        let health = cluster.master.health().await?;
        let secondary = &health["secondaries"][1];
        if answered.is_none() && secondary["failed_attempts"] == 0 {
            answered = Some(begun.elapsed());
        }
        if let Some(answered) = answered
            && is_caught_up(&health, 1)
        {
            let synced = begun.elapsed() - answered;
            cluster.stop().await?;
            return Ok((answered.as_secs_f64(), synced.as_secs_f64()));
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!(
                "a secondary did not catch up; the health is {health}"
            ));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Missed {
            messages,
            payload_bytes,
            noticed_s,
            synced_s,
        } = self;
        write!(
            f,
            "A secondary that missed {messages} messages of {payload_bytes} bytes: {:.3} s \
             ({:.3} to {:.3}) from its first answered heartbeat until it holds them synced; that \
             heartbeat {:.3} s ({:.3} to {:.3}) after the start of its process",
            synced_s.median,
            synced_s.min,
            synced_s.max,
            noticed_s.median,
            noticed_s.min,
            noticed_s.max
        )
    }
}

//! Many messages in one request, as NDJSON.

use std::fmt;

use serde::Serialize;

use crate::{
    args::Args,
    cluster::{Cluster, Replog},
    measure::{self, Figures},
    report,
    wire::{Client, Protocol, Work},
};

/// Messages in each request.
const MESSAGES: usize = 1_000;
const CONCERN: u32 = 2;
/// Answer of a server without support for batches.
const NOT_THERE: &str = "answered with 415";
/// Numbers of clients that send them.
const CLIENTS: [usize; 2] = [1, 16];

/// Results, or the reason why there are none.
#[derive(Debug, Serialize)]
pub(crate) struct Batches {
    messages: usize,
    payload_bytes: usize,
    /// Figures by number of clients.
    rows: Vec<(usize, Figures)>,
    refused: Option<String>,
}

/// Measures batches on fresh clusters.
pub(crate) async fn run(args: &Args, replog: Replog<'_>) -> Result<Batches, String> {
    let mut runs = [const { Vec::new() }; CLIENTS.len()];
    let mut refused = None;
    for repetition in 1..=args.repetitions {
        eprintln!("batches, repetition {repetition} of {}", args.repetitions);
        let cluster = replog.start().await?;
        // A server without batches refuses at once: that is not a failure of this run.
        let mut first = Client::open(work(args, &cluster, 1)?, 0).await?;
        match first.append().await {
            Ok(()) => {}
            Err(error) if error.contains(NOT_THERE) => {
                refused = Some(error);
                cluster.stop().await?;
                break;
            }
            Err(error) => return Err(error),
        }
        drop(first);
        for (clients, runs) in CLIENTS.into_iter().zip(&mut runs) {
            let work = work(args, &cluster, clients)?;
            runs.push(measure::run_once(args.times(), &cluster, work).await?);
        }
        cluster.stop().await?;
    }
    let measured = CLIENTS.into_iter().zip(runs);
    Ok(Batches {
        messages: MESSAGES,
        payload_bytes: args.payload_bytes,
        rows: measured
            .filter(|(_, runs)| !runs.is_empty())
            .map(|(clients, runs)| (clients, Figures::of(runs)))
            .collect(),
        refused,
    })
}

fn work(args: &Args, cluster: &Cluster, clients: usize) -> Result<Work, String> {
    Ok(Work {
        address: cluster.master_address()?,
        protocol: Protocol::HttpBatch {
            concern: CONCERN,
            messages: MESSAGES,
        },
        clients,
        payload_bytes: args.payload_bytes,
    })
}

impl fmt::Display for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Batches of {} messages of {} bytes as NDJSON, w={CONCERN}; an append here is a batch\n",
            self.messages, self.payload_bytes
        )?;
        if let Some(refused) = &self.refused {
            return write!(f, "This server does not accept batches: {refused}");
        }
        let mut heading = vec!["clients", "messages/s", "least", "most"];
        heading.extend(measure::HEADING);
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|(clients, figures)| {
                let spread = figures.per_second;
                let mut cells = vec![clients.to_string()];
                cells.extend(
                    [spread.median, spread.min, spread.max]
                        .map(|batches| format!("{:.0}", batches * self.messages as f64)),
                );
                cells.extend(figures.cells());
                cells
            })
            .collect();
        write!(f, "{}", report::table(&heading, &rows))
    }
}

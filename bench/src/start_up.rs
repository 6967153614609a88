//! How long a node takes to start with a long log.
//!
//! The log is the first secondary's too, since a master alone is no cluster; the other one is dead
//! from the beginning and holds nothing.

use std::{fmt, time::Instant};

use serde::Serialize;

use crate::{args::Args, catch_up, cluster::Replog, proc};

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct StartUp {
    messages: u64,
    log_mib: f64,
    append_s: f64,
    starts: Vec<Start>,
}

#[derive(Debug, Serialize)]
struct Start {
    how: &'static str,
    /// From the start of the process.
    listens_s: f64,
    ready_s: f64,
    resident_mib: f64,
}

/// Measures it, once.
pub(crate) async fn run(args: &Args, replog: Replog<'_>) -> Result<StartUp, String> {
    eprintln!("a start with a log of {} MiB", args.start_up_mib);
    let mut cluster = replog.start_with(1).await?;
    let messages = catch_up::messages_of(args.start_up_bytes());
    let append_s = catch_up::fill(cluster.master_address()?, 1, messages).await?;
    let health = cluster.master.health().await?;
    let log_mib = health["log"]["bytes"].as_f64().unwrap_or(0.0) / f64::from(1 << 20);
    let mut starts = Vec::new();
    for how in ["after SIGTERM", "after SIGKILL"] {
        match how {
            "after SIGTERM" => cluster.master.stop().await?,
            _ => cluster.master.kill().await?,
        }
        let begun = Instant::now();
        cluster.master.start().await?;
        let listens_s = begun.elapsed().as_secs_f64();
        cluster.master.ready_for_appends().await?;
        starts.push(Start {
            how,
            listens_s,
            ready_s: begun.elapsed().as_secs_f64(),
            resident_mib: proc::resident_mib(cluster.master.running()?)?,
        });
    }
    cluster.stop().await?;
    Ok(StartUp {
        messages,
        log_mib,
        append_s,
        starts,
    })
}

impl fmt::Display for StartUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "A start with a log of {:.0} MiB, {} messages, appended in {:.0} s (w=1, one secondary); \
             what was just written may be in the system's memory\n",
            self.log_mib, self.messages, self.append_s
        )?;
        for start in &self.starts {
            writeln!(
                f,
                "- {}: listens after {:.3} s, takes appends after {:.3} s; {:.0} MiB",
                start.how, start.listens_s, start.ready_s, start.resident_mib
            )?;
        }
        Ok(())
    }
}

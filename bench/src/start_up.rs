//! Start-up time of a node with a long log.
//!
//! Measured on a master with one secondary that has the same log: a master alone is no cluster.

use std::{fmt, fs::File, io, path::Path, time::Instant};

use rustix::fs::{Advice, fadvise};
use serde::Serialize;

use crate::{args::Args, catch_up, cluster::Replog, proc};

/// Results.
#[derive(Debug, Serialize)]
pub(crate) struct StartUp {
    messages: u64,
    log_mib: f64,
    append_s: f64,
    starts: Vec<Start>,
}

/// End of the previous process.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Ended {
    Asked,
    Killed,
    KilledAndForgotten,
}

#[derive(Debug, Serialize)]
struct Start {
    how: Ended,
    /// Since the start of the process.
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
    let data = cluster.directory().join(&cluster.master.name);
    for how in [Ended::Asked, Ended::Killed, Ended::KilledAndForgotten] {
        match how {
            Ended::Asked => cluster.master.stop().await?,
            Ended::Killed => cluster.master.kill().await?,
            Ended::KilledAndForgotten => {
                cluster.master.kill().await?;
                forget(&data).map_err(|error| format!("{}: {error}", data.display()))?;
            }
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

/// Drops the files of a directory from the page cache, as far as the system allows.
fn forget(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget(&entry.path())?;
            continue;
        }
        let file = File::open(entry.path())?;
        // Data that is not on the disk yet would stay.
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ended::Asked => "after SIGTERM",
            Ended::Killed => "after SIGKILL",
            Ended::KilledAndForgotten => {
                "after SIGKILL, its files no longer in the system's memory"
            }
        })
    }
}

impl fmt::Display for StartUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "A start with a log of {:.0} MiB, {} messages, appended in {:.0} s (w=1, one secondary)\n",
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

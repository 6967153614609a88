//! A long log: appends while a secondary is down, a restart, and the return of the secondary.

use std::{fmt, time::Instant};

use serde::Serialize;
use serde_json::Value;

use crate::{
    args::Args,
    cluster::{Cluster, is_caught_up},
    load::Load,
    proc,
    wire::{Protocol, Work},
};

/// Clients that append it.
const CLIENTS: usize = 256;

/// Results.
#[derive(Debug, Serialize)]
pub(crate) struct Million {
    messages: u64,
    append_s: f64,
    log_mib: f64,
    /// The master's memory: after all appends, its peak till then, and after a restart.
    master_mib: f64,
    master_peak_mib: f64,
    master_restarted_mib: f64,
    /// From the start of the process until it listens, and until it takes appends.
    listens_s: f64,
    ready_s: f64,
    /// From the secondary's start until it has the first records, and from then until its lag is
    /// zero.
    noticed_s: f64,
    catch_up_s: f64,
    catch_up_peak_mib: f64,
}

pub(crate) async fn run(args: &Args, mut cluster: Cluster) -> Result<Million, String> {
    let messages = args.million_messages;
    eprintln!("{messages} messages while a secondary is down");
    cluster.secondaries[1].kill().await?;
    let master = cluster.master.running()?;
    let work = Work {
        address: cluster.master_address()?,
        protocol: Protocol::Http { concern: 2 },
        clients: CLIENTS,
        payload_bytes: args.payload_bytes,
    };
    let begun = Instant::now();
    let load = Load::start_of(work, messages).await?;
    let append_s = load.finish(begun).await?.elapsed.as_secs_f64();
    let (master_mib, master_peak_mib) = (proc::resident_mib(master)?, proc::peak_mib(master)?);

    cluster.master.kill().await?;
    let begun = Instant::now();
    cluster.master.start().await?;
    let listens_s = begun.elapsed().as_secs_f64();
    cluster.master.ready_for_appends().await?;
    let ready_s = begun.elapsed().as_secs_f64();
    let master = cluster.master.running()?;
    let master_restarted_mib = proc::resident_mib(master)?;

    proc::forget_peak(master);
    let begun = Instant::now();
    cluster.secondaries[1].start().await?;
    let has_records = |health: &Value| {
        let durable_end = health["secondaries"][1]["durable_end"].as_u64();
        durable_end.is_some_and(|end| end > 0)
    };
    cluster.eventually(has_records).await?;
    let noticed = begun.elapsed();
    let health = cluster.eventually(|health| is_caught_up(health, 1)).await?;
    let catch_up_s = (begun.elapsed() - noticed).as_secs_f64();
    let catch_up_peak_mib = cluster.peak_mib()?;
    let bytes = health["log"]["bytes"].as_f64().unwrap_or(0.0);
    cluster.stop().await?;
    Ok(Million {
        messages,
        append_s,
        log_mib: bytes / f64::from(1 << 20),
        master_mib,
        master_peak_mib,
        master_restarted_mib,
        listens_s,
        ready_s,
        noticed_s: noticed.as_secs_f64(),
        catch_up_s,
        catch_up_peak_mib,
    })
}

impl fmt::Display for Million {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} messages while a secondary is down\n", self.messages)?;
        writeln!(
            f,
            "appended in {:.1} s ({:.0}/s, w=2, {CLIENTS} clients); the log has {:.0} MiB",
            self.append_s,
            self.messages as f64 / self.append_s,
            self.log_mib
        )?;
        writeln!(
            f,
            "master's RSS: {:.0} MiB, peak {:.0} MiB; {:.0} MiB after kill -9 and restart",
            self.master_mib, self.master_peak_mib, self.master_restarted_mib
        )?;
        writeln!(
            f,
            "master restarted: listens after {:.3} s, takes appends after {:.3} s",
            self.listens_s, self.ready_s
        )?;
        write!(
            f,
            "the secondary had the first records {:.2} s after its start and all {:.2} s later \
             ({:.0} MiB/s); peak RSS of all nodes {:.0} MiB",
            self.noticed_s,
            self.catch_up_s,
            self.log_mib / self.catch_up_s,
            self.catch_up_peak_mib
        )
    }
}

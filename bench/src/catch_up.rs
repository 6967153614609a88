//! A long log: an empty secondary gets it, and clients read it from beginning to end.

use std::{fmt, fs::File, io, path::Path, time::Instant};

use serde::Serialize;
use serde_json::Value;

use crate::{
    args::Args,
    cluster::{Cluster, is_caught_up},
    contestants::Places,
    load::Load,
    node::{LOOK_INTERVAL, Listens, Node, PATIENCE},
    proc,
    wire::{Protocol, Work, http},
};

/// Clients that append it, and the size of its messages.
const CLIENTS: usize = 64;
const PAYLOAD_BYTES: usize = 10 << 10;

/// Results.
#[derive(Debug, Serialize)]
pub(crate) struct CatchUp {
    messages: u64,
    log_mib: f64,
    append_s: f64,
    /// Since the start of its process.
    caught_up_s: f64,
    peak_mib: f64,
    /// Seconds since the start of the secondary's process, and the percentage that it held.
    pub(crate) held: Vec<(f64, f64)>,
    reads: Vec<Read>,
}

/// One read of the whole log.
#[derive(Debug, Serialize)]
struct Read {
    what: &'static str,
    mib: f64,
    seconds: f64,
    /// CPU seconds of the sender.
    cpu_s: f64,
}

impl CatchUp {
    /// Returns the size of the log on the master's disk.
    pub(crate) fn log_mib(&self) -> f64 {
        self.log_mib
    }
}

/// Measures both, once.
pub(crate) async fn run(args: &Args, places: Places<'_>) -> Result<CatchUp, String> {
    eprintln!("a log of {} MiB for an empty secondary", args.catch_up_mib);
    let mut cluster = places.replog.start().await?;
    cluster.secondaries[1].kill().await?;
    let messages = messages_of(args.catch_up_bytes());
    let append_s = fill(cluster.master.address()?, 2, messages).await?;
    let name = cluster.secondaries[1].name.clone();
    remove(&cluster.directory().join(name))?;

    cluster.processes().into_iter().for_each(proc::forget_peak);
    let (held, caught_up_s, log_mib) = catch_up(&mut cluster, messages).await?;
    let peak_mib = cluster.peak_mib()?;
    let mut reads = Vec::new();
    for (what, accept) in [
        ("JSON", "application/json"),
        ("NDJSON", "application/x-ndjson"),
    ] {
        let request = http::get_once_request("/messages", accept);
        reads.push(read(what, &cluster.master, &request).await?);
    }
    let length_mib = reads.iter().map(|read| read.mib).fold(0.0, f64::max);
    reads.extend(read_file(&cluster, places, length_mib).await?);
    cluster.stop().await?;
    Ok(CatchUp {
        messages,
        log_mib,
        append_s,
        caught_up_s,
        peak_mib,
        held,
        reads,
    })
}

/// Appends `messages` long messages, and returns how long that took.
pub(crate) async fn fill(
    address: std::net::SocketAddr,
    concern: u32,
    messages: u64,
) -> Result<f64, String> {
    let work = Work {
        address,
        protocol: Protocol::Http { concern },
        clients: CLIENTS,
        payload_bytes: PAYLOAD_BYTES,
    };
    let begun = Instant::now();
    let load = Load::start_of(work, messages).await?;
    Ok(load.finish(begun).await?.elapsed.as_secs_f64())
}

/// Returns how many such messages make this many bytes.
pub(crate) fn messages_of(bytes: u64) -> u64 {
    bytes / PAYLOAD_BYTES as u64
}

async fn catch_up(
    cluster: &mut Cluster,
    messages: u64,
) -> Result<(Vec<(f64, f64)>, f64, f64), String> {
    let begun = Instant::now();
    let mut held = vec![(0.0, 0.0)];
    cluster.secondaries[1].start().await?;
    loop {
        let health = cluster.master.health().await?;
        let seconds = begun.elapsed().as_secs_f64();
        // Unknown until it was asked once.
        let end = health["secondaries"][1]["durable_end"].as_f64();
        held.push((seconds, end.unwrap_or(0.0) / messages as f64 * 100.0));
        if is_caught_up(&health, 1) {
            return Ok((held, seconds, log_mib(&health)));
        }
        if begun.elapsed() > PATIENCE * 10 {
            return Err(format!(
                "a secondary did not catch up; the health is {health}"
            ));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn log_mib(health: &Value) -> f64 {
    health["log"]["bytes"].as_f64().unwrap_or(0.0) / f64::from(1 << 20)
}

async fn read(what: &'static str, node: &Node, request: &[u8]) -> Result<Read, String> {
    let failed = |error: io::Error| format!("reading as {what}: {error}");
    let connection = http::Connection::open(node.address()?)
        .await
        .map_err(failed)?;
    let process = [node.running()?];
    let before = proc::Usage::of(&process)?;
    let begun = Instant::now();
    let bytes = connection.read_through(request).await.map_err(failed)?;
    Ok(Read {
        what,
        mib: bytes as f64 / f64::from(1 << 20),
        seconds: begun.elapsed().as_secs_f64(),
        cpu_s: (proc::Usage::of(&process)? - before).nodes,
    })
}

/// Reads a file of that length by actix-files; `None` if that was not built.
async fn read_file(
    cluster: &Cluster,
    places: Places<'_>,
    length_mib: f64,
) -> Result<Option<Read>, String> {
    let program = places.own.join("bare-files");
    if !program.is_file() {
        return Ok(None);
    }
    let directory = cluster.directory().join("files");
    let length = (length_mib * f64::from(1 << 20)) as u64;
    write_file(&directory, length).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut node = Node::new(
        "bare-files",
        &program,
        [&directory],
        Listens::AsItSays,
        cluster.directory(),
    );
    node.start().await?;
    let request = http::get_once_request("/all", "*/*");
    read("a file by actix-files", &node, &request)
        .await
        .map(Some)
}

fn write_file(directory: &Path, length: u64) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut file = File::create(directory.join("all"))?;
    // Real bytes: reading a hole would cost nothing.
    io::copy(&mut io::Read::take(io::repeat(b'x'), length), &mut file)?;
    file.sync_all()
}

fn remove(directory: &Path) -> Result<(), String> {
    std::fs::remove_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))
}

impl fmt::Display for CatchUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "A log of {:.0} MiB, {} messages of {PAYLOAD_BYTES} bytes\n",
            self.log_mib, self.messages
        )?;
        let appended_mib = self.log_mib / self.append_s;
        writeln!(
            f,
            "- appended in {:.1} s ({:.0}/s, {appended_mib:.0} MiB/s, w=2, {CLIENTS} clients, one \
             secondary dead)",
            self.append_s,
            self.messages as f64 / self.append_s
        )?;
        writeln!(
            f,
            "- an empty secondary has it {:.2} s after the start of its process ({:.0} MiB/s); peak \
             RSS of all nodes {:.0} MiB",
            self.caught_up_s,
            self.log_mib / self.caught_up_s,
            self.peak_mib
        )?;
        for read in &self.reads {
            writeln!(
                f,
                "- reading everything, {}: {:.0} MiB in {:.2} s ({:.0} MiB/s), {:.2} CPU seconds",
                read.what,
                read.mib,
                read.seconds,
                read.mib / read.seconds,
                read.cpu_s
            )?;
        }
        Ok(())
    }
}

//! The command line: what to measure, how long, and where.

use std::path::PathBuf;

use clap::Parser;
use serde::Serialize;

/// Measures a replog cluster of three processes on this machine.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(name = "replog-bench", version)]
pub(crate) struct Args {
    /// About a minute in all: shorter and fewer runs
    #[arg(long)]
    pub(crate) quick: bool,

    /// Seconds that each run measures
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) seconds: f64,

    /// Seconds of load before each run measures
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) warm_up: f64,

    /// How often each run is repeated, all others between
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repetitions: u32,

    /// Concerns to measure
    #[arg(long, default_value = "1,2,3", value_delimiter = ',', value_name = "W,…",
          value_parser = clap::value_parser!(u32).range(1..=3))]
    pub(crate) concerns: Vec<u32>,

    /// Numbers of clients to measure
    #[arg(
        long,
        default_value = "1,16,64,256",
        value_delimiter = ',',
        value_name = "N,…"
    )]
    pub(crate) clients: Vec<usize>,

    /// Bytes of each message, as JSON text
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    pub(crate) payload_bytes: usize,

    /// Clients that wait while others append; 0: leave that part out
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub(crate) waiting_clients: usize,

    /// Leave out the runs by concern and clients
    #[arg(long = "no-matrix", action = clap::ArgAction::SetFalse)]
    pub(crate) matrix: bool,

    /// Append a million messages while a secondary is down, restart, and let it catch up
    #[arg(long)]
    pub(crate) million: bool,

    /// Messages of that part
    #[arg(long, default_value_t = 1_000_000, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) million_messages: u64,

    /// Where the nodes keep their logs, in a directory that is removed afterwards
    /// [default: beside this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// Writes everything measured to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// The program under test [default: replog-server beside this program]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) server: Option<PathBuf>,

    /// A flag that every node is started with; may be repeated
    #[arg(long = "server-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) server_args: Vec<String>,
}

impl Args {
    /// What follows from the flags together.
    pub(crate) fn settle(mut self) -> Args {
        if self.quick {
            (self.seconds, self.warm_up, self.repetitions) = (1.0, 0.3, 2);
            self.million = false;
        }
        self
    }

    /// The most clients that append at once.
    pub(crate) fn clients_max(&self) -> usize {
        self.clients.iter().copied().max().unwrap_or(0)
    }

    /// Where the server's program is.
    pub(crate) fn server_program(&self) -> Result<PathBuf, String> {
        let path = match &self.server {
            Some(path) => path.clone(),
            None => own_directory()?.join("replog-server"),
        };
        if !path.is_file() {
            let path = path.display();
            return Err(format!(
                "there is no {path}: build it with cargo build --release, or name it with --server"
            ));
        }
        Ok(path)
    }

    /// Where the logs go: never the system's place for temporary files unless told, since that is
    /// memory on many machines, and a sync costs nothing there.
    pub(crate) fn data_directory(&self) -> Result<PathBuf, String> {
        let directory = match &self.dir {
            Some(directory) => directory.clone(),
            None => own_directory()?,
        };
        std::fs::create_dir_all(&directory)
            .and_then(|()| directory.canonicalize())
            .map_err(|error| format!("{}: {error}", directory.display()))
    }
}

fn own_directory() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let directory = program
        .parent()
        .ok_or("this program is in no directory")?
        .to_owned();
    Ok(directory)
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds, from 0.1 to 3600".to_owned()),
    }
}

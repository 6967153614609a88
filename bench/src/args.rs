//! The command line: the parts to measure, times, and directories.

use std::{path::PathBuf, time::Duration};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, ValueEnum, parser::ValueSource};
use serde::Serialize;

use crate::{contestants::Contestant, measure::Times, sweep::Cell};

const MIB: u64 = 1 << 20;

/// A part that can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    /// An idle cluster
    Idle,
    /// All contestants by clients and sizes, and at a fixed rate
    Contestants,
    /// Appends while other clients wait
    Waiting,
    /// 1, 2, 4 and 8 secondaries, a dead one and a slow one
    Secondaries,
    /// Many messages in one request
    Batches,
    /// A secondary that was down for a while
    Missed,
    /// An empty secondary, and reading the whole log
    CatchUp,
    /// Start with a long log
    StartUp,
    /// The library in one process
    InProcess,
    /// A million messages while a secondary is down; not part of a full run
    Million,
}

/// Measures a replog cluster of real processes on this machine, and its peers for comparison.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(name = "replog-bench", version)]
pub(crate) struct Args {
    /// A minute or two in all: one repetition of shorter and fewer runs, unless other flags say
    /// otherwise
    #[arg(long)]
    pub(crate) quick: bool,

    /// Measure only these parts
    #[arg(long, value_delimiter = ',', value_name = "PART,…")]
    pub(crate) only: Vec<Part>,

    /// Contestants to measure
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub(crate) contestants: Vec<Contestant>,

    /// Seconds that each run measures
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) seconds: f64,

    /// Seconds of load before each run measures
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) warm_up: f64,

    /// Number of repetitions of each run, interleaved with all others
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repetitions: u32,

    /// Numbers of clients to measure
    #[arg(
        long,
        default_value = "1,16,64,256,1024",
        value_delimiter = ',',
        value_name = "N,…"
    )]
    pub(crate) clients: Vec<usize>,

    /// Bytes of each message, as JSON text
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    pub(crate) payload_bytes: usize,

    /// More sizes of messages, which 64 clients append
    #[arg(
        long,
        default_value = "1024,10240",
        value_delimiter = ',',
        value_name = "BYTES,…"
    )]
    pub(crate) more_bytes: Vec<usize>,

    /// Leave out the runs at a fixed rate
    #[arg(long = "no-rate", action = clap::ArgAction::SetFalse)]
    pub(crate) rate: bool,

    /// Clients that wait while others append
    #[arg(long, default_value_t = 10_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) waiting_clients: u32,

    /// Messages that a secondary misses
    #[arg(long, default_value_t = 100_000, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) missed_messages: u64,

    /// Size of the log that an empty secondary gets and that is read
    #[arg(long, default_value_t = 1024, value_name = "MIB",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) catch_up_mib: u64,

    /// Size of the log that a node starts with
    #[arg(long, default_value_t = 10_240, value_name = "MIB",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) start_up_mib: u64,

    /// Messages of the part `million`
    #[arg(long, default_value_t = 1_000_000, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) million_messages: u64,

    /// Maximum wait, before the run, for the machine to have nothing else to do
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", value_parser = seconds_or_none)]
    pub(crate) wait_for_quiet: f64,

    /// Directory for the nodes' logs, in directories that are removed afterwards [default: next to
    /// this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// Directory for the report, all figures as JSON and the plots [default: `bench` next to the
    /// directory of this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    /// Directory of the peers' programs [default: `peers` next to the directory of this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) peers: Option<PathBuf>,

    /// The program under test [default: replog-server next to this program]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) server: Option<PathBuf>,

    /// A flag that every node of replog is started with; may be repeated
    #[arg(long = "server-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) server_args: Vec<String>,
}

impl Args {
    /// Reads the command line.
    pub(crate) fn read() -> Args {
        let matches = Args::command().get_matches();
        let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        args.settle(|name| matches.value_source(name) == Some(ValueSource::CommandLine))
    }

    /// Applies the defaults that follow from other flags; flags that were `given` keep their
    /// values.
    fn settle(mut self, given: impl Fn(&str) -> bool) -> Args {
        fn set<T>(value: &mut T, quick: T, given: bool) {
            if !given {
                *value = quick;
            }
        }
        if self.quick {
            set(&mut self.seconds, 1.0, given("seconds"));
            set(&mut self.warm_up, 0.3, given("warm_up"));
            set(&mut self.repetitions, 1, given("repetitions"));
            set(&mut self.clients, vec![1, 64], given("clients"));
            set(&mut self.more_bytes, Vec::new(), given("more_bytes"));
            set(&mut self.waiting_clients, 2_000, given("waiting_clients"));
            set(&mut self.missed_messages, 20_000, given("missed_messages"));
            set(&mut self.catch_up_mib, 64, given("catch_up_mib"));
            set(&mut self.start_up_mib, 128, given("start_up_mib"));
            set(
                &mut self.million_messages,
                100_000,
                given("million_messages"),
            );
            set(&mut self.wait_for_quiet, 5.0, given("wait_for_quiet"));
        }
        self
    }

    /// Returns true if a part is wanted.
    pub(crate) fn wants(&self, part: Part) -> bool {
        match self.only.is_empty() {
            true => part != Part::Million,
            false => self.only.contains(&part),
        }
    }

    /// Returns the contestants, in the order of the report.
    pub(crate) fn contestants(&self) -> Vec<Contestant> {
        let all = Contestant::value_variants().iter().copied();
        all.filter(|one| self.contestants.is_empty() || self.contestants.contains(one))
            .collect()
    }

    /// Returns the cells that each of them is measured in.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        /// Clients that append larger messages.
        const CLIENTS: usize = 64;
        let by_clients = self.clients.iter().map(|&clients| Cell {
            clients,
            payload_bytes: self.payload_bytes,
        });
        let by_size = self.more_bytes.iter().map(|&payload_bytes| Cell {
            clients: CLIENTS,
            payload_bytes,
        });
        by_clients.chain(by_size).collect()
    }

    /// Returns the times of one run.
    pub(crate) fn times(&self) -> Times {
        Times {
            warm_up: Duration::from_secs_f64(self.warm_up),
            measured: Duration::from_secs_f64(self.seconds),
        }
    }

    /// Returns the largest number of clients that append at once.
    pub(crate) fn clients_max(&self) -> usize {
        self.clients.iter().copied().max().unwrap_or(0)
    }

    /// Returns the size of the log that an empty secondary gets.
    pub(crate) fn catch_up_bytes(&self) -> u64 {
        self.catch_up_mib * MIB
    }

    /// Returns the size of the log that a node starts with.
    pub(crate) fn start_up_bytes(&self) -> u64 {
        self.start_up_mib * MIB
    }

    /// Returns the disk space that catching up needs: three logs, and a file as long as an answer.
    pub(crate) fn catch_up_space(&self) -> (&'static str, u64) {
        ("catch-up", self.catch_up_bytes() * 5)
    }

    /// Returns the disk space that the start-up part needs: two logs.
    pub(crate) fn start_up_space(&self) -> (&'static str, u64) {
        ("start-up", self.start_up_bytes() * 5 / 2)
    }

    /// Returns the path of the server's program.
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

    /// Returns the directory for the logs: never the system's temporary directory unless told so,
    /// since that is memory on many machines, and a sync costs nothing there.
    pub(crate) fn data_directory(&self) -> Result<PathBuf, String> {
        made(match &self.dir {
            Some(directory) => directory.clone(),
            None => own_directory()?,
        })
    }

    /// Returns the directory for the results.
    pub(crate) fn out_directory(&self) -> Result<PathBuf, String> {
        made(match &self.out {
            Some(directory) => directory.clone(),
            None => beside_own_directory("bench")?,
        })
    }

    /// Returns the directory of the peers' programs.
    pub(crate) fn peers_directory(&self) -> Result<PathBuf, String> {
        match &self.peers {
            Some(directory) => Ok(directory.clone()),
            None => beside_own_directory("peers"),
        }
    }
}

fn made(directory: PathBuf) -> Result<PathBuf, String> {
    std::fs::create_dir_all(&directory)
        .and_then(|()| directory.canonicalize())
        .map_err(|error| format!("{}: {error}", directory.display()))
}

/// Returns the directory of this program, and of the bare programs.
pub(crate) fn own_directory() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let directory = program
        .parent()
        .ok_or("this program has no parent directory")?
        .to_owned();
    Ok(directory)
}

fn beside_own_directory(name: &str) -> Result<PathBuf, String> {
    Ok(own_directory()?.with_file_name(name))
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds, from 0.1 to 3600".to_owned()),
    }
}

fn seconds_or_none(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds, from 0 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_quick_run_keeps_what_was_asked_for() {
        let args = Args::parse_from(["replog-bench", "--quick", "--clients", "3,4"]);
        let args = args.settle(|name| name == "clients");
        assert_eq!((args.clients, args.repetitions), (vec![3, 4], 1));
    }

    #[test]
    fn a_full_run_has_all_parts_but_the_longest_one() {
        let args = Args::parse_from(["replog-bench"]);
        assert!(args.wants(Part::StartUp) && !args.wants(Part::Million));
        let args = Args::parse_from(["replog-bench", "--only", "million,idle"]);
        assert!(args.wants(Part::Million) && !args.wants(Part::StartUp));
    }
}

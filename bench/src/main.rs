//! Measures a replog cluster of real processes, and its peers, under load from a process of its own.
//!
//! ```text
//!   replog-bench ── HTTP ──> master ──> secondary-1
//!                             │
//!                             └───────> secondary-2
//! ```
//!
//! Judges nothing: it prints its measurements and their conditions. It fails if an append to replog
//! was not answered with 201, since the figures would then be those of refusals. Ends no process
//! except those that it started.

mod args;
mod batches;
mod catch_up;
mod cluster;
mod contestants;
mod idle;
mod in_process;
mod load;
mod machine;
mod measure;
mod million;
mod missed;
mod node;
mod outcome;
mod pinning;
mod plot;
mod plots;
mod proc;
mod rate;
mod report;
mod secondaries;
mod start_up;
mod sweep;
mod waiting;
mod wire;

use std::{io, path::Path, process::ExitCode};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

use crate::{
    args::{Args, Part},
    cluster::Replog,
    contestants::Places,
    machine::{Machine, OpenFiles},
    outcome::Outcome,
    pinning::Pinning,
};

fn main() -> ExitCode {
    let args = Args::read();
    // First: all threads inherit it.
    let pinning = Pinning::settle();
    let result = match runtime(pinning.load_threads()) {
        Ok(runtime) => runtime.block_on(run_until_told(&args, pinning)),
        Err(error) => Err(format!("no runtime: {error}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("replog-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn runtime(threads: usize) -> io::Result<Runtime> {
    match threads {
        1 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build(),
    }
}

/// Runs to the end or to a signal. Either way, dropping ends everything that was started and
/// removes the data.
async fn run_until_told(args: &Args, pinning: Pinning) -> Result<(), String> {
    let no_signals = |error| format!("cannot handle signals: {error}");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    tokio::select! {
        result = run(args, pinning) => result,
        _ = interrupt.recv() => Err("interrupted".to_owned()),
        _ = terminate.recv() => Err("told to end".to_owned()),
    }
}

async fn run(args: &Args, pinning: Pinning) -> Result<(), String> {
    let files = OpenFiles::raise();
    files.suffice_for(args.clients_max())?;
    if args.wants(Part::Waiting) {
        files.suffice_for_waiting(args.waiting_clients as usize)?;
    }
    let program = args.server_program()?;
    let directory = args.data_directory()?;
    let (own, peers) = (args::own_directory()?, args.peers_directory()?);
    let replog = Replog {
        program: &program,
        directory: &directory,
        args: &args.server_args,
    };
    let places = Places {
        replog,
        own: &own,
        peers: &peers,
    };
    let machine = Machine::look(&directory, sweep::seconds(args.wait_for_quiet)).await?;
    let mut outcome = Outcome::begin(args, machine, pinning)?;

    if args.wants(Part::Idle) {
        outcome.idle(idle::run(args, replog.start().await?).await?)?;
    }
    if args.wants(Part::Contestants) {
        outcome.contestants(sweep::run(args, places).await?)?;
    }
    if args.wants(Part::Waiting) {
        outcome.waiting(waiting::run(args, replog.start().await?).await?)?;
    }
    if args.wants(Part::Secondaries) {
        outcome.secondaries(secondaries::run(args, replog).await?)?;
    }
    if args.wants(Part::Batches) {
        outcome.batches(batches::run(args, replog).await?)?;
    }
    if args.wants(Part::Missed) {
        outcome.missed(missed::run(args, replog).await?)?;
    }
    if args.wants(Part::CatchUp) && has_space(&mut outcome, args.catch_up_space(), &directory)? {
        outcome.catch_up(catch_up::run(args, places).await?)?;
    }
    if args.wants(Part::StartUp) && has_space(&mut outcome, args.start_up_space(), &directory)? {
        outcome.start_up(start_up::run(args, replog).await?)?;
    }
    if args.wants(Part::InProcess) {
        outcome.in_process(in_process::run(args, &directory).await?)?;
    }
    if args.wants(Part::Million) {
        outcome.million(million::run(args, replog.start().await?).await?)?;
    }
    outcome.end();
    Ok(())
}

/// Returns true if there is disk space for a part that writes this many bytes; it is left out
/// otherwise.
fn has_space(
    outcome: &mut Outcome,
    (part, bytes): (&str, u64),
    directory: &Path,
) -> Result<bool, String> {
    let free = machine::free_bytes(directory)?;
    if free >= bytes {
        return Ok(true);
    }
    let [free, needed] = [free, bytes].map(|bytes| bytes >> 30);
    outcome.left_out(
        part,
        &format!("needs {needed} GiB of disk, {free} GiB are free"),
    )?;
    Ok(false)
}

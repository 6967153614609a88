//! Measures a replog cluster of three real processes, under load from a process of its own.
//!
//! ```text
//!   replog-bench ── HTTP ──> master ──> secondary-1
//!    one thread               │
//!                             └───────> secondary-2
//! ```
//!
//! Judges nothing: it prints what it measured, and beside what. It fails where an append was not
//! answered with 201, since the figures would then be those of refusals. Ends no process but those
//! that it started.

mod args;
mod cluster;
mod http;
mod idle;
mod load;
mod machine;
mod matrix;
mod million;
mod proc;
mod report;
mod waiting;

use std::{io::Write as _, path::Path, process::ExitCode};

use clap::Parser as _;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::Args,
    cluster::Cluster,
    machine::{Machine, OpenFiles},
};

/// All that one call measured.
#[derive(Serialize)]
struct Outcome {
    machine: Machine,
    settings: Args,
    idle: Option<idle::Idle>,
    matrix: Vec<matrix::Row>,
    waiting: Option<waiting::Waiting>,
    million: Option<million::Million>,
}

fn main() -> ExitCode {
    let args = Args::parse().settle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run_until_told(&args)),
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

/// Runs to the end or to a signal. Either way what was started is ended, and the data removed,
/// by what is dropped here.
async fn run_until_told(args: &Args) -> Result<(), String> {
    let no_signals = |error| format!("no signals: {error}");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    tokio::select! {
        result = run(args) => result,
        _ = interrupt.recv() => Err("interrupted".to_owned()),
        _ = terminate.recv() => Err("told to end".to_owned()),
    }
}

async fn run(args: &Args) -> Result<(), String> {
    let files = OpenFiles::raise();
    files.suffice_for(args.clients_max())?;
    if args.waiting_clients > 0 {
        files.suffice_for_waiting(args.waiting_clients)?;
    }
    let server = args.server_program()?;
    let directory = args.data_directory()?;
    let machine = Machine::look(&directory)?;
    say(&machine.to_string());

    let mut outcome = Outcome {
        machine,
        settings: args.clone(),
        idle: None,
        matrix: Vec::new(),
        waiting: None,
        million: None,
    };
    let start = || Cluster::start(&server, &directory, &args.server_args);
    if args.matrix {
        let idle = idle::run(args, start().await?).await?;
        say(&idle.to_string());
        outcome.idle = Some(idle);
        outcome.matrix = matrix::run(args, &start).await?;
        say(&matrix::table(&outcome.matrix));
    }
    if args.waiting_clients > 0 {
        let waiting = waiting::run(args, start().await?).await?;
        say(&waiting.to_string());
        outcome.waiting = Some(waiting);
    }
    if args.million {
        let million = million::run(args, start().await?).await?;
        say(&million.to_string());
        outcome.million = Some(million);
    }
    match &args.json {
        Some(path) => write_json(path, &outcome),
        None => Ok(()),
    }
}

/// Text for people, at once: a run takes minutes.
fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // Who reads may have gone; the figures go to the file all the same.
    let _ = writeln!(stdout, "{}\n", text.trim_end()).and_then(|()| stdout.flush());
}

fn write_json(path: &Path, outcome: &Outcome) -> Result<(), String> {
    let text = serde_json::to_string_pretty(outcome).map_err(|error| error.to_string())?;
    std::fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
}

//! The program `replog`, for people and scripts: a file a command.
//!
//! Owns its command line, its exit codes, and where its words go: data to stdout, everything else to
//! stderr. Starts no node.

mod check;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::args::{explain, one_line};

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "replog", version, about = "Looks after a replicated log")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON, for machines.
    #[arg(long, global = true)]
    json: bool,
}

/// What the program shall do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Reads all that a stopped node keeps, and tells what is damaged.
    ///
    /// Changes nothing. The exit code is 1 where there is damage; a torn tail, which the node's next
    /// start cuts away, is none.
    Check(check::CheckArgs),
}

/// How data is written to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Runs the program with the arguments and the environment of this process.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain("replog", "say what to do: check", &error),
    };
    let form = if cli.json { Form::Json } else { Form::Text };
    let done = match &cli.command {
        Command::Check(args) => check::run(args, form),
    };
    match done {
        Ok(code) => code,
        Err(reason) => {
            complain(&reason);
            ExitCode::FAILURE
        }
    }
}

/// Writes data to stdout.
///
/// # Errors
///
/// What the system says, unless nobody reads it any more.
fn print(data: &str) -> Result<(), String> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(data.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("stdout: {error}")),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// One line on stderr.
fn complain(reason: &str) {
    eprintln!("replog: {}", one_line(reason));
}

//! The program `replog`, for people and scripts, one file per command.
//!
//! Owns its command line, its exit codes, and the destinations of its output: data to stdout, everything else to
//! stderr. Starts no node.

mod admin;
mod append;
mod appends;
mod bench;
mod check;
mod compare;
mod events;
mod export;
pub(crate) mod eyes;
mod failure;
mod fault;
mod holders;
mod import;
mod lines;
mod output;
mod pages;
mod position;
mod progress;
mod read;
mod repair_epoch;
mod shell;
mod status;
mod table;
mod wait;

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::{FromArgMatches as _, Parser, Subcommand, parser::ValueSource};
use replog_core::client::Client;

use self::{
    failure::Failure,
    output::{print, print_error, tell},
};
use crate::{
    args::{self, explain},
    paths, variables,
};

/// Message for a missing command.
const COMMANDS: &str = "say what to do: append, read, status, appends, wait, check, export, import, \
                        bench, events, read-only, read-write, log-level, fault, repair-epoch, completions or man";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "replog",
    version,
    about = "Reads, writes and looks after a replicated log"
)]
#[command(
    after_help = "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the concern was not met in time; \
                        4 refused because the master is read-only; 10 unhealthy (status)"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The node to talk to.
    #[arg(
        long,
        global = true,
        env = "REPLOG_URL",
        default_value = "http://localhost:5000"
    )]
    url: String,
    /// Print JSON, for machines.
    #[arg(long, global = true)]
    json: bool,
}

/// The program's commands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Appends a message, or each line of stdin.
    ///
    /// Prints the position of each: only the offset if stdout is not a terminal.
    Append(append::AppendArgs),
    /// Prints messages, one per line.
    Read(read::ReadArgs),
    /// Shows a node's state, and on the master that of every other node.
    ///
    /// The exit code is 10 if a master takes no appends or a node is not well.
    Status(status::StatusArgs),
    /// Shows the appends that wait for their concern, oldest first, and the nodes that they wait for.
    Appends(appends::AppendsArgs),
    /// Waits until enough nodes hold a message, even one that is still to be appended.
    Wait(wait::WaitArgs),
    /// Looks for damage in a stopped node's directory, or compares the logs of running nodes.
    ///
    /// Changes nothing. The exit code is 1 if there is damage, or two nodes differ; a torn tail, which a node's next
    /// start cuts off, is not damage.
    Check(check::CheckArgs),
    /// Makes a stopped cluster usable again if its nodes have promised an epoch that no master can follow.
    ///
    /// Takes the directories of all its nodes, none of which may be running; changes their promises, and no log.
    /// Refuses if a directory is missing, in use or another cluster's, if none is the master's, or if the master's log
    /// is not intact.
    RepairEpoch(repair_epoch::RepairEpochArgs),
    /// Writes messages as NDJSON, with all their fields.
    Export(export::ExportArgs),
    /// Appends what `export` wrote, in the same order.
    ///
    /// Offsets and timestamps are new, idempotency keys are kept. A run that ends early says where to continue with
    /// `--from`. Repeating the whole run appends nothing twice only as long as the cluster remembers the keys of
    /// everything in the file (`--key-horizon` of its nodes).
    Import(import::ImportArgs),
    /// Appends as fast as a number of clients can, and reports the speed.
    Bench(bench::BenchArgs),
    /// Shows events on the node as they happen: changes of status and mode, retries, appends, acks, faults.
    ///
    /// Ends with exit code 1 when the node stops.
    Events(events::EventsArgs),
    /// Asks the master to take no appends until `read-write`; reads go on.
    ReadOnly,
    /// Lets the master take appends again after `read-only`.
    ReadWrite,
    /// Shows or sets the filter of the node's log lines, until it is restarted.
    LogLevel(admin::LogLevelArgs),
    /// Shows, sets or clears the faults of a node that was started with `--allow-faults`.
    Fault(fault::FaultArgs),
    /// Prints a shell's completions.
    Completions(shell::CompletionsArgs),
    /// Prints the manual page.
    Man,
}

/// Format of data on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Values that every command has.
struct Context {
    client: Client,
    form: Form,
}

impl Context {
    /// Returns `true` if a person is looking at the output now: not a file, a pipe or a machine.
    fn is_for_terminal(&self) -> bool {
        self.form == Form::Text && io::stdout().is_terminal()
    }

    /// Returns the URL of the node.
    fn url(&self) -> &str {
        self.client.url()
    }

    /// Prints a value as a line of JSON.
    fn print_json(&self, value: &impl serde::Serialize) -> Result<(), Failure> {
        tell(&line_of(value)?)
    }
}

/// Runs the program with the arguments and the environment of this process.
pub(crate) fn run() -> ExitCode {
    let (cli, url_setting) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => return explain("replog", COMMANDS, &error),
    };
    let server = args::program();
    for ignored in variables::ignored(&definition(), "", &[&definition(), &server]) {
        print_error(&ignored.to_string());
    }
    match dispatch(cli, url_setting) {
        Ok(code) => code,
        Err(failure) => {
            if !failure.reason.is_empty() {
                print_error(&failure.reason);
            }
            failure.code
        }
    }
}

/// Parses the arguments and the environment of this process; also returns which of them gives the URL.
fn parse() -> Result<(Cli, &'static str), clap::Error> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let program = variables::without_empty_variables(definition());
    let matches = program.clone().try_get_matches_from(&args);
    let matches = matches.map_err(|error| variables::name_variable(error, &program, &args))?;
    let url_setting = match matches.value_source("url") {
        Some(ValueSource::EnvVariable) => "REPLOG_URL",
        _ => "--url",
    };
    Ok((Cli::from_arg_matches(&matches)?, url_setting))
}

fn dispatch(cli: Cli, url_setting: &str) -> Result<ExitCode, Failure> {
    let Cli { command, url, json } = cli;
    let form = if json { Form::Json } else { Form::Text };
    let context = || -> Result<Context, Failure> {
        let client = Client::builder(&url).build();
        let client = client.map_err(|error| error.to_string());
        let client = client.and_then(|client| check_base(client.url()).map(|()| client));
        let client = client.map_err(|what| Failure::usage(format!("{url_setting}: {what}")))?;
        Ok(Context { client, form })
    };
    // It does not need a runtime, and may take long.
    if let Command::Check(args) = &command
        && !args.is_of_nodes()
    {
        return check::run(args, form).map_err(Failure::new);
    }
    let system = actix_web::rt::System::new();
    let done = system.block_on(async {
        match command {
            Command::RepairEpoch(args) => repair_epoch::run(&args).map_err(Failure::new),
            Command::Append(args) => append::run(&args, &context()?).await,
            Command::Read(args) => read::run(&args, &context()?).await,
            Command::Status(args) => status::run(&args, &context()?).await,
            Command::Appends(args) => appends::run(&args, &context()?).await,
            Command::Wait(args) => wait::run(&args, &context()?).await,
            Command::Check(args) => compare::run(args.targets(), args.data_alone(), form).await,
            Command::Export(args) => export::run(&args, &context()?).await,
            Command::Import(args) => import::run(&args, &context()?).await,
            Command::Bench(args) => bench::run(&args, &context()?).await,
            Command::Events(args) => events::run(&args, &context()?).await,
            Command::Fault(args) => fault::run(&args, &context()?).await,
            Command::Completions(args) => shell::completions(&args),
            Command::Man => shell::man(),
            Command::ReadOnly => admin::read_only(&context()?).await,
            Command::ReadWrite => admin::read_write(&context()?).await,
            Command::LogLevel(args) => admin::log_level(&args, &context()?).await,
        }
    });
    // Ending a runtime means waiting for its threads, one of which may still be asking a name server that hangs. The
    // process ends now, and they with it.
    std::mem::forget(system);
    done
}

/// Refuses the URL of one of a node's paths in place of the node's own URL.
fn check_base(url: &str) -> Result<(), String> {
    let paths = [
        paths::MESSAGES,
        paths::APPENDS,
        paths::HEALTH,
        paths::LIVE,
        paths::READY,
        paths::METRICS,
        paths::EVENTS,
    ];
    let found = paths
        .iter()
        .find_map(|path| Some((url.strip_suffix(path)?, path)));
    match found {
        Some((base, path)) => Err(format!("give the URL of the node, {base}, without {path}")),
        None => Ok(()),
    }
}

/// Returns the definition of the command line, for completions and the manual page.
fn definition() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Returns a value as a line of JSON.
fn line_of(value: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::new(format!("the answer is not JSON: {error}")))?;
    Ok(text + "\n")
}

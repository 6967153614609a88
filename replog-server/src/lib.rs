//! The HTTP server around `replog-core`: routes that call the library, and nothing else. And
//! `replog`, the program for people and scripts.
//!
//! Owns the command lines, the HTTP interface, and the way a process starts and stops. No rule of
//! replication lives here. Everything but [`run`] and [`run_client`] is private: embed a node with
//! `replog-core` instead.

mod args;
mod client;
mod config_file;
mod demo;
mod probe;
mod variables;

mod log_lines;
mod log_name;
mod panics;
mod process;
mod stderr;
mod telemetry;
mod web_server;

mod client_socket;
mod cluster;
mod connections;
mod files;
mod first_screen;
mod identity;
mod preflight;
mod serve;
mod shutdown;

mod app;
mod metrics;
mod node;
mod paths;
mod process_metrics;

mod accept;
mod append_body;
mod append_lines;
mod body;
mod events_stream;
mod message;
mod origin;
mod problem;
mod protocol;
mod query;
mod routes;
mod shares;
mod stream;

#[cfg(test)]
mod book;
#[cfg(test)]
mod route_tests;

use std::process::ExitCode;

use args::Command;
use replog_core::words;

/// Runs the program with the arguments and the environment of this process.
///
/// The exit code is 0 when it did what it was asked to, 1 when it could not start or had to
/// stop, and 2 for wrong usage.
#[must_use]
pub fn run() -> ExitCode {
    let command = match args::from_process() {
        Ok(command) => command,
        Err(code) => return code,
    };
    if matches!(command, Command::Demo) {
        return finish(demo::run());
    }
    if let Command::Probe(probe) = &command {
        return finish(probe.url().and_then(|url| match probe.write {
            true => probe::run_write(&url),
            false => probe::run(&url),
        }));
    }
    let result = run_nodes(command);
    if let Err(reason) = &result {
        log_lines::say(reason);
    }
    log_lines::finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints why a program without log lines failed, if it did.
fn finish(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            stderr::say("replog-server", &reason);
            ExitCode::FAILURE
        }
    }
}

/// Runs a node, or a cluster, until it is asked to stop.
fn run_nodes(command: Command) -> Result<(), String> {
    panics::end_the_process();
    if matches!(command, Command::Cluster(_)) {
        log_lines::default_to_warnings();
    }
    if command.log_format() == args::LogFormat::Json {
        log_lines::write_json();
    }
    log_lines::install()?;
    // Before the runtime starts: the exporter has its own.
    telemetry::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime did not start: {error}"))?;
    let system = actix_web::rt::System::with_tokio_rt(|| runtime);
    let result = system.block_on(process::run(command));
    telemetry::end();
    result
}

/// Runs the program `replog` with the arguments and the environment of this process.
///
/// The exit code is 0 when it did what it was asked to and found nothing wrong, 1 when not, and 2
/// for wrong usage.
#[must_use]
pub fn run_client() -> ExitCode {
    client::run()
}

//! `replog read-only`, `read-write`, `log-level`: an operator's requests to a running node.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{Context, Failure, Form, tell};
use crate::paths;

/// Arguments of `log-level`.
#[derive(Debug, Args)]
pub(super) struct LogLevelArgs {
    /// The most verbose level of lines that are written; without it, the current one is shown.
    level: Option<Level>,
    /// Restore the filter of the start.
    #[arg(long, conflicts_with = "level")]
    reset: bool,
}

/// A level, from no lines to all of them.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Asks the master to take no appends.
pub(super) async fn read_only(context: &Context) -> Result<ExitCode, Failure> {
    mode(context, paths::ADMIN_READ_ONLY).await
}

/// Asks the master to take appends again.
pub(super) async fn read_write(context: &Context) -> Result<ExitCode, Failure> {
    mode(context, paths::ADMIN_READ_WRITE).await
}

async fn mode(context: &Context, path: &str) -> Result<ExitCode, Failure> {
    let state = ask(context, "POST", path, None).await?;
    match context.form {
        Form::Json => context.print_json(&state)?,
        Form::Text => {
            let mode = state["mode"].as_str().unwrap_or("unknown");
            let reason = state["mode_reason"].as_str();
            let reason = reason.map(|reason| format!(" ({reason})"));
            tell(&format!("{mode}{}\n", reason.unwrap_or_default()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows or sets the filter of the node's log lines.
pub(super) async fn log_level(args: &LogLevelArgs, context: &Context) -> Result<ExitCode, Failure> {
    let path = paths::ADMIN_LOG_LEVEL;
    let filter = match args.level {
        Some(level) => {
            let level = level.to_possible_value();
            let level = level.as_ref().map(|level| level.get_name());
            let body = serde_json::json!({ "level": level }).to_string();
            ask(context, "PUT", path, Some(body)).await?
        }
        None if args.reset => ask(context, "DELETE", path, None).await?,
        None => ask(context, "GET", path, None).await?,
    };
    match context.form {
        Form::Json => context.print_json(&filter)?,
        Form::Text => {
            let filter = filter["filter"].as_str().unwrap_or("unknown");
            tell(&format!("{filter}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(
    context: &Context,
    method: &str,
    path: &str,
    body: Option<String>,
) -> Result<Value, Failure> {
    let json = [("content-type", "application/json")];
    let headers: &[(&str, &str)] = if body.is_some() { &json } else { &[] };
    let body = body.unwrap_or_default().into();
    let answer = context.client.request(method, path, headers, body).await;
    let answer = answer.and_then(|answer| answer.checked()?.json());
    answer.map_err(|error| Failure::of(context.url(), &error))
}

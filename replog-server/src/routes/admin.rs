//! `/admin`: an operator's requests to a running node. None of them has an effect after its
//! restart.

use actix_web::{HttpRequest, HttpResponse, web};
use log::LevelFilter;
use replog_core::{
    Master,
    error::{ModeState, Stopped},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    body, log_lines,
    node::Node,
    origin,
    problem::Problem,
    query::Query,
    routes::{State, json_object, not_master, ok_json},
};

/// Pauses appends on the master.
pub(crate) async fn read_only(
    state: State,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let master = addressed(&state, &request, payload).await?;
    answer(master.pause_appends().await)
}

/// Resumes appends on the master.
pub(crate) async fn read_write(
    state: State,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let master = addressed(&state, &request, payload).await?;
    answer(master.resume_appends().await)
}

/// The body of a request to change the log level.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogLevel {
    level: Level,
}

/// A level, from no lines to all of them.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Shows the filter of log lines.
pub(crate) async fn show_log_level(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Query::of(&request, &[])?;
    Ok(ok_json(&log_lines::filter()))
}

/// Sets the level of log lines.
pub(crate) async fn set_log_level(
    state: State,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    origin::check(&request, state.names())?;
    Query::of(&request, &[])?;
    let asked: LogLevel = json_object(&state, &request, payload, "log level").await?;
    Ok(ok_json(&log_lines::set(match asked.level {
        Level::Off => LevelFilter::Off,
        Level::Error => LevelFilter::Error,
        Level::Warn => LevelFilter::Warn,
        Level::Info => LevelFilter::Info,
        Level::Debug => LevelFilter::Debug,
        Level::Trace => LevelFilter::Trace,
    })))
}

/// Restores the filter of the start.
pub(crate) async fn reset_log_level(
    state: State,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    origin::check(&request, state.names())?;
    Query::of(&request, &[])?;
    Ok(ok_json(&log_lines::reset()))
}

/// Returns this node's master, for a request that has nothing but its path.
async fn addressed<'a>(
    state: &'a State,
    request: &HttpRequest,
    mut payload: web::Payload,
) -> Result<&'a Master, Problem> {
    origin::check(request, state.names())?;
    Query::of(request, &[])?;
    if !body::is_absent(request, &mut payload, state.append_limits.drain_bytes).await {
        return Err(Problem::malformed("this request must have no body"));
    }
    match &state.node {
        Node::Master(master) => Ok(master),
        Node::Secondary(secondary) => Err(not_master(state, secondary).await),
    }
}

fn answer(state: Result<ModeState, Stopped>) -> Result<HttpResponse, Problem> {
    let state = state?;
    Ok(ok_json(
        &json!({ "mode": state.mode, "mode_reason": state.reason }),
    ))
}

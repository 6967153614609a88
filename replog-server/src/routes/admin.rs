//! `/admin`: what an operator asks of a node while it runs. Nothing of it outlives the process.

use actix_web::{HttpRequest, HttpResponse, web};
use replog_core::{
    Master,
    error::{ModeState, Stopped},
};
use serde_json::json;

use crate::{
    body,
    node::Node,
    origin,
    problem::Problem,
    query::Query,
    routes::{State, not_master, ok_json},
};

/// Asks the master for read-only.
pub(crate) async fn read_only(
    state: State,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let master = addressed(&state, &request, payload).await?;
    answer(master.ask_read_only().await)
}

/// Lifts that again.
pub(crate) async fn read_write(
    state: State,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let master = addressed(&state, &request, payload).await?;
    answer(master.allow_read_write().await)
}

/// The master here, for a request that has nothing but its path.
async fn addressed<'a>(
    state: &'a State,
    request: &HttpRequest,
    mut payload: web::Payload,
) -> Result<&'a Master, Problem> {
    origin::check(request.headers())?;
    Query::of(request, &[])?;
    if !body::is_absent(request, &mut payload, state.append_limits.drain_bytes).await {
        return Err(Problem::malformed("this request has no body"));
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

//! `/faults`: makes this node fail on purpose. Only if it was started with `--allow-faults`.

use actix_web::{HttpRequest, HttpResponse, web};
use replog_core::transport::{FaultInjector, FaultSettings};

use crate::{
    origin,
    problem::{Kind, Problem},
    query::Query,
    routes::{State, json_object, ok_json},
};

/// Shows the active faults.
pub(crate) async fn show(state: State, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Query::of(&request, &[])?;
    Ok(ok_json(&injector(&state)?.get()))
}

/// Replaces all faults.
pub(crate) async fn replace(
    state: State,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let injector = injector(&state)?;
    origin::check(&request, state.names())?;
    Query::of(&request, &[])?;
    let settings: FaultSettings = json_object(&state, &request, payload, "set of faults").await?;
    let settings = injector
        .set(settings)
        .map_err(|error| Problem::malformed(error.to_string()))?;
    Ok(ok_json(&settings))
}

/// Clears all faults.
pub(crate) async fn clear(state: State, request: HttpRequest) -> Result<HttpResponse, Problem> {
    origin::check(&request, state.names())?;
    Query::of(&request, &[])?;
    Ok(ok_json(&injector(&state)?.clear()))
}

fn injector(state: &State) -> Result<&FaultInjector, Problem> {
    let missing = || {
        Problem::new(
            Kind::NotFound,
            "this node was not started with --allow-faults",
        )
    };
    state.faults.as_ref().ok_or_else(missing)
}

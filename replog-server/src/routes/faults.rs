//! `/faults`: makes this node fail on purpose. Only where it was started with `--allow-faults`.

use actix_web::{HttpRequest, HttpResponse, web};
use replog_core::transport::{FaultInjector, FaultSettings};

use crate::{
    accept::{self, JSON},
    body,
    problem::{Kind, Problem},
    query::Query,
    routes::{State, ok_json},
};

/// Shows the faults that hold.
pub(crate) async fn show(state: State, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Query::of(&request, &[])?;
    Ok(ok_json(&injector(&state)?.get()))
}

/// Replaces all faults.
pub(crate) async fn replace(
    state: State,
    request: HttpRequest,
    mut payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let injector = injector(&state)?;
    Query::of(&request, &[])?;
    if accept::media_type(request.headers()).as_deref() != Some(JSON) {
        body::drain(&request, &mut payload, state.append_limits.drain_bytes).await;
        let text = format!("the body must be {JSON}, and the Content-Type must say so");
        return Err(Problem::new(Kind::UnsupportedMediaType, text));
    }
    let body = body::read(
        &request,
        &mut payload,
        state.append_limits,
        &state.append_budget,
    )
    .await?;
    // Without this an array would do for an object: its items, in order, for the fields.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::malformed(
            "the body is no set of faults: expected an object",
        ));
    }
    let settings: FaultSettings = serde_json::from_slice(&body)
        .map_err(|error| Problem::malformed(format!("the body is no set of faults: {error}")))?;
    let settings = injector
        .set(settings)
        .map_err(|error| Problem::malformed(error.to_string()))?;
    Ok(ok_json(&settings))
}

/// Clears all faults.
pub(crate) async fn clear(state: State, request: HttpRequest) -> Result<HttpResponse, Problem> {
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

//! `GET /appends`: the waiting appends and the nodes that they wait for, on the master.

use actix_web::{HttpRequest, HttpResponse};

use crate::{
    node::Node,
    problem::Problem,
    query::Query,
    routes::{State, not_master, ok_json},
};

/// Number of appends that are shown when the request does not set one.
const LIMIT_DEFAULT: u64 = 100;

/// Lists the oldest waiting appends.
pub(crate) async fn list(state: State, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let limit = Query::of(&request, &["limit"])?
        .positive("limit")?
        .unwrap_or(LIMIT_DEFAULT);
    match &state.node {
        Node::Master(master) => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            Ok(ok_json(&master.waiting_appends(limit).await?))
        }
        Node::Secondary(secondary) => Err(not_master(&state, secondary).await),
    }
}

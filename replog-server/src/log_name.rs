//! The name of the log that offsets belong to: the identity of the cluster that it was founded with.
//!
//! An offset is a position in one log. A node that lost its directory, or never had one, comes back with another log
//! whose offsets begin at 0 again. So every answer about messages names the log, and a request may name the log that
//! its offsets belong to: in the header, or in a parameter, because a browser's event stream can send no header.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{HeaderName, HeaderValue},
};
use replog_core::types::ClusterId;

use crate::{
    node::NodeState,
    problem::Problem,
    query::{self, Query},
};

/// Names the log, in requests and in answers.
const HEADER: HeaderName = HeaderName::from_static("replog-cluster");
/// Names the log in the query of a read.
pub(crate) const PARAMETER: &str = "cluster_id";

/// Returns the log that the request's offsets belong to, if the request names it.
pub(crate) fn named_by(request: &HttpRequest) -> Result<Option<ClusterId>, Problem> {
    let mut given = request.headers().get_all(HEADER);
    let Some(value) = given.next() else {
        return Ok(None);
    };
    if given.next().is_some() {
        return Err(Problem::malformed(
            "the header Replog-Cluster is given twice",
        ));
    }
    let text = String::from_utf8_lossy(value.as_bytes());
    query::cluster_id(&text, "the header Replog-Cluster").map(Some)
}

/// Does what [`named_by`] does, for requests whose query may name the log too.
pub(crate) fn named_by_read(
    request: &HttpRequest,
    query: &Query,
) -> Result<Option<ClusterId>, Problem> {
    match (named_by(request)?, query.cluster_id(PARAMETER)?) {
        (Some(header), Some(parameter)) if header != parameter => Err(Problem::malformed(
            "the header Replog-Cluster and the parameter cluster_id differ: give one of them",
        )),
        (header, parameter) => Ok(header.or(parameter)),
    }
}

/// Refuses a request whose offsets belong to another log than the node's.
pub(crate) fn check(state: &NodeState, named: Option<ClusterId>) -> Result<(), Problem> {
    let own = state.node.reader().cluster_id();
    match named {
        Some(named) if own != Some(named) => Err(Problem::another_log(named, own)),
        _ => Ok(()),
    }
}

/// Returns the answer, with the name of the node's log.
pub(crate) fn answered(state: &NodeState, answer: Result<HttpResponse, Problem>) -> HttpResponse {
    let mut response = answer.unwrap_or_else(|problem| problem.response());
    if let Some(own) = state.node.reader().cluster_id()
        && let Ok(value) = HeaderValue::try_from(own.to_string())
    {
        response.headers_mut().insert(HEADER, value);
    }
    response
}

//! `GET /metrics`: the node's metrics, for Prometheus and similar tools.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{HeaderValue, VARY},
    web,
};
use replog_core::{error::Stopped, transport::net::NetCounters};
use tokio::time::timeout;

use crate::{
    accept, log_lines,
    metrics::{Format, NodeMetrics, Scrape},
    node::{Node, NodeState},
    problem::{Kind, Problem},
    process_metrics::ProcessMetrics,
    query::Query,
    routes::{State, health::ANSWER_TIME_MAX},
};

/// Shows all series of the node, and of its process.
pub(crate) async fn show(state: State, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Query::of(&request, &[])?;
    let node = match timeout(ANSWER_TIME_MAX, measure(&state)).await {
        Ok(node) => node?,
        Err(_elapsed) => {
            return Err(Problem::new(Kind::NotReady, "the node does not answer"));
        }
    };
    // With ten thousand connections it takes a while to count them: not on the actors' thread.
    let process = web::block(ProcessMetrics::read).await.ok().flatten();
    let faults = state.faults.as_ref().map(|faults| faults.get());
    let scrape = Scrape {
        node,
        faults: faults.unwrap_or_default(),
        // A node without a listener for other nodes has the series too, all 0.
        between_nodes: state.between_nodes.as_ref().map_or_else(
            || NetCounters::default().snapshot(),
            |between_nodes| between_nodes.counters.snapshot(),
        ),
        refused_clients: state.connections.refused(),
        process,
        log_lines_dropped: log_lines::dropped_total(),
    };
    let format = match accept::prefers_open_metrics(request.headers()) {
        true => Format::OpenMetrics,
        false => Format::Plain,
    };
    Ok(HttpResponse::Ok()
        .content_type(format.content_type())
        .insert_header((VARY, HeaderValue::from_static("accept")))
        .body(scrape.text(format)))
}

async fn measure(state: &NodeState) -> Result<NodeMetrics, Stopped> {
    Ok(match &state.node {
        Node::Master(master) => NodeMetrics::Master(Box::new(master.metrics().await?)),
        Node::Secondary(secondary) => NodeMetrics::Secondary(Box::new(secondary.metrics().await?)),
    })
}

//! `GET /health` and the three probes.

use std::{net::IpAddr, time::Duration};

use actix_web::{HttpRequest, HttpResponse};
use replog_core::{
    address::{HostPort, NodeUrl},
    error::Stopped,
    transport::net::LastRefusal,
    types::{DiskState, Mode},
    views::{MasterHealth, SecondaryHealth},
};
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    node::{Node, NodeState},
    problem::{Kind, Problem},
    query::Query,
    routes::{State, ok_json},
    words::counted,
};

/// Time after which a node that has not reported its state counts as hanging.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// A node's report about itself.
enum Health {
    Master(Box<MasterHealth>),
    Secondary(Box<SecondaryHealth>),
}

async fn ask(state: &NodeState) -> Result<Health, Stopped> {
    match &state.node {
        Node::Master(master) => Ok(Health::Master(Box::new(master.health().await?))),
        Node::Secondary(secondary) => {
            let mut health = Box::new(secondary.health().await?);
            if let Some(master) = &mut health.master {
                master.url = state.url_of_master(master.url.take());
            }
            Ok(Health::Secondary(health))
        }
    }
}

/// Shows the node's state.
pub(crate) async fn health(state: State, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Query::of(&request, &[])?;
    Ok(match ask(&state).await? {
        Health::Master(health) => ok_json(&Shown::new(&state, &health)),
        Health::Secondary(health) => ok_json(&Shown::new(&state, &health)),
    })
}

/// A node's health, and its addresses.
#[derive(Serialize)]
struct Shown<'a, H> {
    #[serde(flatten)]
    health: &'a H,
    /// Address of its cluster listener.
    address: Option<&'a HostPort>,
    /// URL of the node for clients, as far as it knows.
    url: Option<&'a NodeUrl>,
    /// The last node that its cluster listener refused, if the nodes are misconfigured.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_refusal: Option<ShownRefusal>,
}

#[derive(Serialize)]
struct ShownRefusal {
    address: IpAddr,
    reason: &'static str,
    detail: String,
    elapsed_ms: u64,
}

impl ShownRefusal {
    fn new(refusal: LastRefusal) -> ShownRefusal {
        ShownRefusal {
            address: refusal.address,
            reason: refusal.reason.as_str(),
            detail: refusal.detail,
            elapsed_ms: u64::try_from(refusal.elapsed.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl<'a, H> Shown<'a, H> {
    fn new(state: &'a NodeState, health: &'a H) -> Shown<'a, H> {
        let between_nodes = state.between_nodes.as_ref();
        Shown {
            health,
            address: between_nodes.map(|between_nodes| &between_nodes.address),
            url: state.own_url.as_ref(),
            last_refusal: between_nodes
                .and_then(|between_nodes| between_nodes.counters.last_refusal())
                .map(ShownRefusal::new),
        }
    }
}

/// Reports whether the process works.
pub(crate) async fn live(state: State) -> Result<HttpResponse, Problem> {
    probe(&state).await?;
    Ok(fine())
}

/// Reports whether the node can serve reads.
pub(crate) async fn ready(state: State) -> Result<HttpResponse, Problem> {
    match probe(&state).await? {
        Health::Secondary(health) if health.cluster_id.is_none() => Err(Problem::new(
            Kind::NotReady,
            "this secondary has never joined a cluster",
        )),
        Health::Master(_) | Health::Secondary(_) => Ok(fine()),
    }
}

/// Reports whether the node can take appends.
pub(crate) async fn ready_write(state: State) -> Result<HttpResponse, Problem> {
    let health = match probe(&state).await? {
        Health::Master(health) => health,
        Health::Secondary(_) => {
            return Err(Problem::new(Kind::NotReady, "a secondary takes no appends"));
        }
    };
    if health.mode == Mode::ReadWrite && health.log.disk == DiskState::Ok {
        return Ok(fine());
    }
    let reason = match health.mode_reason {
        Some(reason) => format!(" ({reason})"),
        None if health.log.disk != DiskState::Ok => {
            " and its disk accepts no more writes".to_owned()
        }
        None => String::new(),
    };
    let quorum = health.quorum;
    let detail = format!(
        "the master is {}{reason}; {} of {} in contact, {} needed",
        health.mode,
        quorum.alive,
        counted(quorum.nodes, "node"),
        quorum.needed
    );
    Err(Problem::new(Kind::ReadOnly, detail)
        .member("mode", health.mode)
        .member("mode_reason", health.mode_reason)
        .member("alive", quorum.alive)
        .member("needed", quorum.needed)
        .member("nodes", quorum.nodes)
        .retry_after())
}

async fn probe(state: &NodeState) -> Result<Health, Problem> {
    match timeout(ANSWER_TIME_MAX, ask(state)).await {
        Ok(health) => Ok(health?),
        Err(_elapsed) => Err(Problem::new(Kind::NotReady, "the node does not answer")),
    }
}

fn fine() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; charset=utf-8")
        .body("ok\n")
}

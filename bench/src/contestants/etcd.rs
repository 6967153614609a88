//! etcd: three members. Clients put to the leader, as replog's append to the master.

use std::{net::SocketAddr, time::Instant};

use serde_json::Value;
use tokio::time::sleep;

use super::{Places, Running};
use crate::{
    cluster::{Cluster, fresh_directory},
    node::{LOOK_INTERVAL, Listens, Node, PATIENCE, free_addresses},
    wire::{Protocol, http},
};

const NODES: usize = 3;
/// The minimum space that it must have: its own default is 2 GiB, and a log only grows.
const QUOTA_BYTES: &str = "8589934592";

pub(super) async fn start(places: Places<'_>) -> Result<Running, String> {
    let program = places.peer("etcd")?;
    let directory = fresh_directory(places.replog.directory)?;
    let addresses = free_addresses(2 * NODES)?;
    let (clients, peers) = addresses.split_at(NODES);
    let name = |index: usize| format!("etcd-{}", index + 1);
    let members: Vec<String> = peers
        .iter()
        .enumerate()
        .map(|(index, peer)| format!("{}=http://{peer}", name(index)))
        .collect();
    let members = members.join(",");
    let mut nodes = Vec::new();
    // Each is ready only when two are: all are started before any is waited for.
    for (index, (client, peer)) in clients.iter().zip(peers).enumerate() {
        let data = directory.path().join(name(index)).display().to_string();
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let own = name(index);
        let args = [
            ["--name", &own],
            ["--data-dir", &data],
            ["--listen-client-urls", &client_url],
            ["--advertise-client-urls", &client_url],
            ["--listen-peer-urls", &peer_url],
            ["--initial-advertise-peer-urls", &peer_url],
            ["--initial-cluster", &members],
            ["--initial-cluster-state", "new"],
            ["--quota-backend-bytes", QUOTA_BYTES],
            ["--log-level", "warn"],
        ];
        let args = args.concat();
        let listens = Listens::At(*client);
        nodes.push(Node::new(&own, &program, args, listens, directory.path()));
    }
    let [first, second, third] = &mut nodes[..] else {
        return Err("etcd: three members were to be started".to_owned());
    };
    tokio::try_join!(first.start(), second.start(), third.start())?;
    let leader = leader(clients).await.map_err(|error| {
        let words: Vec<String> = nodes.iter().map(Node::log_tail).collect();
        format!("etcd: {error}: {}", words.join("\n"))
    })?;
    let leader = nodes.remove(leader);
    Ok(Running {
        cluster: Cluster::of(leader, nodes, directory),
        protocol: Protocol::Etcd,
    })
}

/// Returns the index of the leader, once the members agree on it.
async fn leader(clients: &[SocketAddr]) -> Result<usize, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for (index, client) in clients.iter().enumerate() {
            let status = status(*client).await.unwrap_or(Value::Null);
            let leader = status["leader"].as_str().filter(|leader| *leader != "0");
            if leader.is_some() && leader == status["header"]["member_id"].as_str() {
                return Ok(index);
            }
        }
        if Instant::now() > deadline {
            return Err("no leader".to_owned());
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Returns the status that a member reports by the JSON gateway.
async fn status(client: SocketAddr) -> Result<Value, String> {
    let said = |error: std::io::Error| error.to_string();
    let mut connection = http::Connection::open(client).await.map_err(said)?;
    let request = "POST /v3/maintenance/status HTTP/1.1\r\nHost: etcd\r\n\
                   Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let answer = connection
        .exchange(request.as_bytes())
        .await
        .map_err(said)?;
    serde_json::from_slice(answer.body).map_err(|error| error.to_string())
}

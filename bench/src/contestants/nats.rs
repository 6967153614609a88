//! NATS JetStream: three servers, one stream with three replicas in files.
//!
//! Clients publish to the server that leads the stream, as replog's append to the master.

use std::{net::SocketAddr, path::Path, time::Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Places, Running};
use crate::{
    cluster::{Cluster, fresh_directory},
    node::{LOOK_INTERVAL, Listens, Node, PATIENCE, free_addresses},
    wire::{
        Protocol,
        nats::{Connection, SUBJECT},
    },
};

const NODES: usize = 3;
const STREAM: &str = "LOG";
/// Connection number that no client of a load has.
const OWN_NUMBER: usize = usize::MAX;

pub(super) async fn start(
    places: Places<'_>,
    sync_interval: Option<&str>,
) -> Result<Running, String> {
    let program = places.peer("nats-server")?;
    let directory = fresh_directory(places.replog.directory)?;
    let addresses = free_addresses(2 * NODES)?;
    let (clients, routes) = addresses.split_at(NODES);
    let mut nodes = Vec::new();
    for (index, address) in clients.iter().enumerate() {
        let name = format!("nats-{}", index + 1);
        let path = directory.path().join(format!("{name}.conf"));
        let store = directory.path().join(&name);
        let text = config(
            &name,
            *address,
            routes[index],
            routes,
            &store,
            sync_interval,
        );
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        let args = [Path::new("--config"), &path];
        let listens = Listens::At(*address);
        let mut node = Node::new(&name, &program, args, listens, directory.path());
        node.start().await?;
        nodes.push(node);
    }
    let leader = created_stream(clients[0]).await.map_err(|error| {
        let words: Vec<String> = nodes.iter().map(Node::log_tail).collect();
        format!("nats: {error}: {}", words.join("\n"))
    })?;
    let position = nodes.iter().position(|node| node.name == leader);
    let leader = nodes.remove(position.ok_or("nats: the stream's leader is not a known server")?);
    Ok(Running {
        cluster: Cluster::of(leader, nodes, directory),
        protocol: Protocol::Nats,
    })
}

fn config(
    name: &str,
    client: SocketAddr,
    route: SocketAddr,
    routes: &[SocketAddr],
    store: &Path,
    sync_interval: Option<&str>,
) -> String {
    let routes: Vec<String> = routes
        .iter()
        .map(|route| format!("nats-route://{route}"))
        .collect();
    let sync = sync_interval.map_or(String::new(), |sync| format!("  sync_interval: {sync}\n"));
    format!(
        "server_name: {name}\nlisten: \"{client}\"\n\
         jetstream {{\n  store_dir: \"{}\"\n{sync}}}\n\
         cluster {{\n  name: bench\n  listen: \"{route}\"\n  routes: [{}]\n}}\n",
        store.display(),
        routes.join(", ")
    )
}

/// Creates the stream once the servers agree, waits until all replicas are there, and returns the
/// name of the server that leads it.
async fn created_stream(server: SocketAddr) -> Result<String, String> {
    let deadline = Instant::now() + PATIENCE;
    let said = |error: std::io::Error| error.to_string();
    let mut connection = Connection::open(server, OWN_NUMBER).await.map_err(said)?;
    let wanted = json!({
        "name": STREAM, "subjects": [SUBJECT], "storage": "file", "num_replicas": NODES,
    });
    let create = format!("$JS.API.STREAM.CREATE.{STREAM}");
    let info = format!("$JS.API.STREAM.INFO.{STREAM}");
    let mut created = false;
    loop {
        let (subject, request) = match created {
            false => (&create, &wanted),
            true => (&info, &Value::Null),
        };
        // Until they have a leader no server answers the API, and a request may stay unanswered.
        let answer = tokio::time::timeout(LOOK_INTERVAL * 200, connection.call(subject, request));
        let answer = match answer.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Value::String(error.to_string()),
            Err(_elapsed) => {
                connection = Connection::open(server, OWN_NUMBER).await.map_err(said)?;
                Value::Null
            }
        };
        created |= answer["error"].is_null() && answer["cluster"].is_object();
        if let Some(leader) = leader_with_all_replicas(&answer) {
            return Ok(leader.to_owned());
        }
        if Instant::now() > deadline {
            return Err(format!(
                "no stream of {NODES} replicas; the last answer was {answer}"
            ));
        }
        sleep(LOOK_INTERVAL * 5).await;
    }
}

/// Returns the leader, once it has all its replicas.
fn leader_with_all_replicas(answer: &Value) -> Option<&str> {
    let cluster = &answer["cluster"];
    let replicas = cluster["replicas"].as_array()?;
    let whole = replicas.len() == NODES - 1 && replicas.iter().all(|one| one["current"] == true);
    cluster["leader"].as_str().filter(|_| whole)
}

//! Redis: a master and two replicas, each with an append-only file.

use std::time::Instant;

use tokio::time::sleep;

use super::{Places, Running};
use crate::{
    cluster::{Cluster, fresh_directory},
    node::{LOOK_INTERVAL, Listens, Node, PATIENCE, free_addresses},
    wire::{Protocol, redis::Connection},
};

/// Replicas, in addition to the master, that must have an entry before it counts.
const REPLICAS: u32 = 1;

pub(super) async fn start(places: Places<'_>, appendfsync: &str) -> Result<Running, String> {
    let program = places.peer("redis-server")?;
    let directory = fresh_directory(places.replog.directory)?;
    let addresses = free_addresses(3)?;
    let master_port = addresses[0].port().to_string();
    let mut nodes = Vec::new();
    for (index, address) in addresses.into_iter().enumerate() {
        let name = format!("redis-{}", index + 1);
        let data = directory.path().join(&name);
        std::fs::create_dir(&data).map_err(|error| format!("{}: {error}", data.display()))?;
        let (port, data) = (address.port().to_string(), data.display().to_string());
        let mut args = vec!["--port", &port, "--bind", "127.0.0.1", "--dir", &data];
        // Snapshots in addition to the append-only file would be a second copy that is not needed
        // here.
        args.extend([
            "--appendonly",
            "yes",
            "--appendfsync",
            appendfsync,
            "--save",
            "",
        ]);
        if index > 0 {
            args.extend(["--replicaof", "127.0.0.1", &master_port]);
        }
        let listens = Listens::At(address);
        let node = Node::new(&name, &program, args, listens, directory.path());
        let mut node = node.with_libraries(places.libraries());
        node.start().await?;
        nodes.push(node);
    }
    let replicas = nodes.split_off(1);
    let cluster = Cluster::of(nodes.remove(0), replicas, directory);
    replicas_are_online(&cluster).await?;
    Ok(Running {
        cluster,
        protocol: Protocol::Redis { replicas: REPLICAS },
    })
}

async fn replicas_are_online(cluster: &Cluster) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    let failed = |error| format!("redis: {error}: {}", cluster.log_tail());
    let master = cluster.master_address()?;
    let mut connection = Connection::open(master, 0).await.map_err(failed)?;
    loop {
        let info = connection.ask(&["INFO", "replication"]).await;
        let info = info.map_err(failed)?;
        if info.matches("state=online").count() == cluster.secondaries.len() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("redis: its replicas are not online: {info}"));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

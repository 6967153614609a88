//! The bare programs: yardsticks next to this program.

use std::ffi::OsString;

use super::{Places, Running};
use crate::{
    cluster::{Cluster, fresh_directory},
    node::{Listens, Node},
    wire::Protocol,
};

/// They wait as each is built to wait; the concern is only parsed.
const PROTOCOL: Protocol = Protocol::Http { concern: 2 };

pub(super) async fn http(places: Places<'_>) -> Result<Running, String> {
    alone(places, "bare-http").await
}

pub(super) async fn one(places: Places<'_>) -> Result<Running, String> {
    alone(places, "bare-one").await
}

async fn alone(places: Places<'_>, name: &str) -> Result<Running, String> {
    let directory = fresh_directory(places.replog.directory)?;
    let program = places.own.join(name);
    let args = [directory.path().join("data")];
    let mut node = Node::new(name, &program, args, Listens::AsItSays, directory.path());
    node.start().await?;
    Ok(Running {
        cluster: Cluster::of(node, Vec::new(), directory),
        protocol: PROTOCOL,
    })
}

pub(super) async fn three(places: Places<'_>) -> Result<Running, String> {
    let directory = fresh_directory(places.replog.directory)?;
    let program = places.own.join("bare-three");
    let node = |name: &str, role: &str, followers: &[String]| {
        let mut args: Vec<OsString> = vec![role.into(), directory.path().join(name).into()];
        args.extend(followers.iter().map(OsString::from));
        Node::new(name, &program, args, Listens::AsItSays, directory.path())
    };
    let mut followers = Vec::new();
    let mut addresses = Vec::new();
    for name in ["follower-1", "follower-2"] {
        let mut follower = node(name, "follower", &[]);
        addresses.push(follower.start().await?.to_string());
        followers.push(follower);
    }
    let mut leader = node("leader", "leader", &addresses);
    leader.start().await?;
    Ok(Running {
        cluster: Cluster::of(leader, followers, directory),
        protocol: PROTOCOL,
    })
}

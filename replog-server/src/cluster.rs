//! `replog-server cluster`: all nodes in one process, each with its own ports and directory.
//!
//! The nodes talk over encrypted connections as if they were far apart. Every port is bound before any node starts: the
//! master must be told the real addresses.

use std::net::{Ipv4Addr, SocketAddr};

use replog_core::{
    ForcedRecovery, NodeName, Peer,
    address::HostPort,
    transport::net::{ClusterIdentity, ClusterSecret},
};

use crate::{
    args::{self, ClusterArgs},
    files::FileLimit,
    identity::{SecretPlace, check_identity, identity},
    preflight::{Planned, Role},
    serve::{
        Listeners, MasterStart, RunningNode, SecondaryStart, start_master, start_secondary, url_of,
    },
};

/// Web workers of each node: they share the process's cores.
const WORKERS: usize = 1;

/// Starts the secondaries, then the master, and returns the master first.
///
/// # Errors
///
/// The node that did not start, and the reason.
pub(crate) async fn start(
    args: &ClusterArgs,
    files: FileLimit,
) -> Result<Vec<RunningNode>, String> {
    // All nodes share the files of one process: each may use its own part.
    let nodes = 1 + usize::from(args.secondaries);
    let files = files.share(nodes, nodes, WORKERS);
    let master_listeners = listen_on(args, 0)?;
    let master_url = url_of(&master_listeners.clients)?;
    let (mut peers, mut listeners) = (Vec::new(), Vec::new());
    for number in 1..=args.secondaries {
        let listener = listen_on(args, number)?;
        peers.push(Peer {
            name: secondary_name(number),
            address: listener.nodes.local_addr().to_string(),
        });
        listeners.push(listener);
    }
    // All nodes are checked before anything is created for one: a start that is refused leaves nothing behind.
    for node in planned(args) {
        node.check_directory(&args.common)?;
    }
    let secret = Secret::of(args)?;
    let mut secondaries = Vec::new();
    for (peer, listeners) in peers.iter().zip(listeners) {
        let start = SecondaryStart {
            name: peer.name.clone(),
            master_url: Some(master_url.clone()),
            public_url: None,
            directory: args.data_dir.join(peer.name.as_str()),
            identity: secret.identity(args, &peer.name)?,
            workers: WORKERS,
        };
        secondaries.push(start_secondary(start, &args.common, &files, listeners).await?);
    }
    let name = name("master");
    let start = MasterStart {
        directory: args.data_dir.join(name.as_str()),
        identity: secret.identity(args, &name)?,
        name,
        secondaries: peers,
        public_url: None,
        forced_recovery: ForcedRecovery::Never,
        workers: WORKERS,
    };
    let master = start_master(start, &args.common, &files, master_listeners).await?;
    Ok(std::iter::once(master).chain(secondaries).collect())
}

/// Returns the cluster's nodes, as their directories must know them: their addresses are not known yet.
pub(crate) fn planned(args: &ClusterArgs) -> Vec<Planned> {
    let peers = (1..=args.secondaries).map(|number| Peer {
        name: secondary_name(number),
        address: String::new(),
    });
    let peers: Vec<Peer> = peers.collect();
    let secondaries = peers.iter().map(|peer| Planned {
        directory: args.data_dir.join(peer.name.as_str()),
        role: Role::Secondary(args.common.secondary_config(peer.name.clone())),
    });
    let mut nodes: Vec<Planned> = secondaries.collect();
    let name = name("master");
    nodes.push(Planned {
        directory: args.data_dir.join(name.as_str()),
        role: Role::Master(args.common.master_config(name, peers)),
    });
    nodes
}

/// Checks the files by which the cluster's nodes prove their identity.
///
/// # Errors
///
/// The file, and what is wrong with it.
pub(crate) fn check_files(args: &ClusterArgs) -> Result<(), String> {
    let place = SecretPlace::of_cluster(&args.common, &args.data_dir);
    check_identity(&args.common, &name("master"), &place)
}

/// Place of the cluster's secret.
enum Secret {
    /// In memory, like everything that the nodes keep: it ends with them.
    InMemory(ClusterSecret),
    /// In a file, or replaced by certificates in files.
    InFiles,
}

impl Secret {
    fn of(args: &ClusterArgs) -> Result<Secret, String> {
        match args.common.memory && args.common.cluster_secret_file.is_none() {
            true => ClusterSecret::random()
                .map(Secret::InMemory)
                .map_err(|error| error.to_string()),
            false => Ok(Secret::InFiles),
        }
    }

    fn identity(&self, args: &ClusterArgs, name: &NodeName) -> Result<ClusterIdentity, String> {
        let has_files = args.common.cluster_cert.is_some() || args.common.cluster_insecure;
        match self {
            Secret::InMemory(secret) if !has_files => {
                ClusterIdentity::from_secret(secret, name).map_err(|error| error.to_string())
            }
            _ => {
                let place = SecretPlace::of_cluster(&args.common, &args.data_dir);
                identity(&args.common, name, &place)
            }
        }
    }
}

fn listen_on(args: &ClusterArgs, number: u16) -> Result<Listeners, String> {
    let port = match args.port {
        0 => 0,
        // Checked with the arguments: there are enough ports.
        first => first.saturating_add(number),
    };
    let clients = HostPort::from(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let nodes = args::cluster_listen(&clients, None)?;
    Listeners::bind(&clients, &nodes)
}

fn secondary_name(number: u16) -> NodeName {
    name(&format!("secondary-{number}"))
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("letters, digits and a dash")
}

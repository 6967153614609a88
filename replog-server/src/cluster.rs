//! `replog-server cluster`: all nodes in one process, each with its own port and directory.
//!
//! The nodes talk over HTTP as if they were far apart. Every port is bound before any node
//! starts: the master must be told the real URLs.

use std::net::TcpListener;

use replog_core::{ForcedRecovery, NodeName, Peer};

use crate::{
    args::ClusterArgs,
    files::OpenFiles,
    serve::{
        MasterStart, RunningNode, SecondaryStart, listen, start_master, start_secondary, url_of,
    },
};

/// Web workers of each node: they share the process's cores.
const WORKERS: usize = 1;

/// Starts the secondaries, then the master, and returns the master first.
///
/// # Errors
///
/// Which node did not start, and why.
pub(crate) async fn start(
    args: &ClusterArgs,
    files: &OpenFiles,
) -> Result<Vec<RunningNode>, String> {
    // They are files of one process: each may fill its own part.
    let files = files.share(1 + usize::from(args.secondaries));
    let master_listener = listen_on(args, 0)?;
    let master_url = url_of(&master_listener)?;
    let (mut peers, mut listeners) = (Vec::new(), Vec::new());
    for number in 1..=args.secondaries {
        let listener = listen_on(args, number)?;
        peers.push(Peer {
            name: name(&format!("secondary-{number}")),
            address: url_of(&listener)?.to_string(),
        });
        listeners.push(listener);
    }
    let mut secondaries = Vec::new();
    for (peer, listener) in peers.iter().zip(listeners) {
        let start = SecondaryStart {
            name: peer.name.clone(),
            master_url: Some(master_url.clone()),
            public_url: None,
            directory: args.data_dir.join(peer.name.as_str()),
            workers: WORKERS,
        };
        secondaries.push(start_secondary(start, &args.common, &files, listener).await?);
    }
    let name = name("master");
    let start = MasterStart {
        directory: args.data_dir.join(name.as_str()),
        name,
        secondaries: peers,
        public_url: None,
        forced_recovery: ForcedRecovery::Never,
        workers: WORKERS,
    };
    let master = start_master(start, &args.common, &files, master_listener).await?;
    Ok(std::iter::once(master).chain(secondaries).collect())
}

fn listen_on(args: &ClusterArgs, number: u16) -> Result<TcpListener, String> {
    let port = match args.port {
        0 => 0,
        // Checked with the arguments: there are as many ports.
        first => first.saturating_add(number),
    };
    listen(&format!("127.0.0.1:{port}"))
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("letters, digits and a dash")
}

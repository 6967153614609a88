//! A process from its command to its end: nodes, signals.
//!
//! Owns the output on stdout: one line per node, and `ready` from a cluster.

use std::{
    io::{self, IsTerminal as _, Write as _},
    num::NonZeroUsize,
    path::Path,
    thread::available_parallelism,
};

use replog_core::{ForcedRecovery, check::DirectoryOwner};

use crate::{
    args::{self, Command, CommonArgs, MasterArgs, SecondaryArgs},
    cluster,
    files::FileLimit,
    first_screen,
    identity::{self, SecretPlace, identity},
    node::Node,
    preflight::Planned,
    serve::{Listeners, MasterStart, RunningNode, SecondaryStart, start_master, start_secondary},
    shutdown::{self, Signals},
};

/// Maximum number of web workers of a node that has a process to itself: they parse, hand over and wait. The node lives
/// on the first one's thread.
const WORKERS_MAX: usize = 4;

/// Runs a node, or a cluster, until it is asked to stop.
///
/// # Errors
///
/// The reason why it could not start or had to stop.
pub(crate) async fn run(command: Command) -> Result<(), String> {
    let signals = Signals::take().map_err(|error| format!("no signals: {error}"))?;
    let files = FileLimit::raise();
    for ignored in args::ignored_variables(&command) {
        match ignored.is_unknown() {
            true => log::warn!("{ignored}"),
            // In a container image, or where several commands share an environment.
            false => log::info!("{ignored}"),
        }
    }
    let is_cluster = matches!(command, Command::Cluster(_));
    let mut hint = None;
    let nodes = match command {
        Command::Master(args) => vec![start_master_process(args, files).await?],
        Command::Secondary(args) => vec![start_secondary_process(args, files).await?],
        Command::Cluster(args) => {
            let directory = (!args.common.memory).then(|| args.data_dir.clone());
            let nodes = cluster::start(&args, files).await;
            let nodes = nodes.map_err(first_screen::with_port)?;
            if io::stdout().is_terminal()
                && let Some(master) = nodes.first()
            {
                hint = Some(first_screen::line(&master.url, directory.as_deref()));
            }
            nodes
        }
        Command::Demo | Command::Probe(_) | Command::CheckConfig(_) => {
            return Err("it starts no node".to_owned());
        }
    };
    for node in &nodes {
        say(&format!("{} {}", node.state.node.name(), node.url));
    }
    if is_cluster && let Some(Node::Master(master)) = nodes.first().map(|first| &first.state.node) {
        let master = master.clone();
        actix_web::rt::spawn(async move {
            if master.wait_until_writable().await.is_ok() {
                say("ready");
                if let Some(hint) = hint {
                    say(&hint);
                }
            }
        });
    }
    shutdown::wait_and_stop(nodes, signals).await
}

/// Prints one line on stdout at once. The process's parent may have closed it: no reason to stop.
pub(crate) fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

async fn start_master_process(args: MasterArgs, files: FileLimit) -> Result<RunningNode, String> {
    let nodes = args::cluster_listen(&args.listen, args.cluster_listen.as_ref())?;
    let listeners = Listeners::bind(&args.listen, &nodes)?;
    // Before a secret is drawn: a start that is refused leaves nothing behind.
    let planned = Planned::master(&args);
    planned.check_directory(&args.common)?;
    let directory = planned.directory;
    let identity = identity(
        &args.common,
        &args.name,
        &SecretPlace::of_node(&args.common, &directory),
    )?;
    let start = MasterStart {
        name: args.name,
        secondaries: args.secondaries,
        public_url: args.public_url,
        forced_recovery: match args.force_recovery_and_lose_acknowledged_messages {
            true => ForcedRecovery::LoseAcknowledged,
            false => ForcedRecovery::Never,
        },
        directory,
        identity,
        workers: workers(),
    };
    let files = files.share(1, 1 + start.secondaries.len(), start.workers);
    start_master(start, &args.common, &files, listeners).await
}

async fn start_secondary_process(
    args: SecondaryArgs,
    files: FileLimit,
) -> Result<RunningNode, String> {
    let nodes = args::cluster_listen(&args.listen, args.cluster_listen.as_ref())?;
    let listeners = Listeners::bind(&args.listen, &nodes)?;
    let planned = Planned::secondary(&args);
    planned.check_directory(&args.common)?;
    let directory = planned.directory;
    let identity = identity(
        &args.common,
        &args.name,
        &SecretPlace::of_node(&args.common, &directory),
    )?;
    // The start reports in more words whatever is wrong with the directory.
    if let Ok(Some(owner)) = owner_of(&args.common, &directory)
        && owner.was_master
    {
        log::warn!(
            "{}: {} was a master's directory: as a secondary this node waits for another master",
            args.name,
            directory.display()
        );
    }
    let start = SecondaryStart {
        name: args.name,
        master_url: args.master,
        public_url: args.public_url,
        directory,
        identity,
        workers: workers(),
    };
    // Only the master connects to it.
    let files = files.share(1, 2, start.workers);
    start_secondary(start, &args.common, &files, listeners).await
}

/// Returns the owner of the directory, for a node that keeps anything on disk.
fn owner_of(common: &CommonArgs, directory: &Path) -> Result<Option<DirectoryOwner>, String> {
    match common.memory {
        true => Ok(None),
        false => identity::owner(directory),
    }
}

fn workers() -> usize {
    // On few cores a second worker costs more than it brings: the log writer has its own thread.
    let cores = available_parallelism().map_or(1, NonZeroUsize::get);
    (cores / 2).clamp(1, WORKERS_MAX)
}

//! The checks of a start before it creates anything, and all checks of `check-config`.
//!
//! Owns the order of these checks. Creates no file, no directory and no listener: a start that is refused leaves
//! nothing behind, and a node with the same settings may run meanwhile.

use std::path::{Path, PathBuf};

use replog_core::{
    Master, MasterConfig, NodeName, Secondary, SecondaryConfig, address::HostPort,
    storage::FileStorage,
};

use crate::{
    args::{self, Command, CommonArgs, MasterArgs, SecondaryArgs},
    cluster,
    identity::{SecretPlace, check_identity},
    serve::{check_listen, not_started},
};

/// A node that is about to be started.
pub(crate) struct Planned {
    pub(crate) directory: PathBuf,
    pub(crate) role: Role,
}

/// Role of the planned node.
pub(crate) enum Role {
    Master(MasterConfig),
    Secondary(SecondaryConfig),
}

impl Planned {
    /// Plans a master that has a process to itself.
    pub(crate) fn master(args: &MasterArgs) -> Planned {
        let (name, secondaries) = (args.name.clone(), args.secondaries.clone());
        Planned {
            directory: directory_of(args.data_dir.as_deref(), &name),
            role: Role::Master(args.common.master_config(name, secondaries)),
        }
    }

    /// Plans a secondary that has a process to itself.
    pub(crate) fn secondary(args: &SecondaryArgs) -> Planned {
        let name = args.name.clone();
        Planned {
            directory: directory_of(args.data_dir.as_deref(), &name),
            role: Role::Secondary(args.common.secondary_config(name)),
        }
    }

    fn name(&self) -> &NodeName {
        match &self.role {
            Role::Master(config) => &config.name,
            Role::Secondary(config) => &config.name,
        }
    }

    /// Checks that the node's directory is its own, or could be created.
    ///
    /// # Errors
    ///
    /// The directory, and why the node cannot start from it.
    pub(crate) fn check_directory(&self, common: &CommonArgs) -> Result<(), String> {
        if common.memory {
            return Ok(());
        }
        let directory = &*self.directory;
        let told = |error| format!("{}: {error}", directory.display());
        FileStorage::check(directory).map_err(told)?;
        if !directory.exists() {
            return Ok(());
        }
        let storage = FileStorage::open_read_only(directory).map_err(told)?;
        let checked = match &self.role {
            Role::Master(config) => Master::check_start(config, &storage),
            Role::Secondary(config) => Secondary::check_start(config, &storage),
        };
        checked.map_err(|error| not_started(self.name(), directory, &error))
    }
}

/// Checks everything that the start of a command would refuse, except for ports that are taken: a node with these
/// settings may be running.
///
/// # Errors
///
/// The mistake, and the setting or file that has it.
pub(crate) fn check(command: &Command) -> Result<(), String> {
    match command {
        Command::Master(args) => {
            let listeners = (&args.listen, args.cluster_listen.as_ref());
            check_node(&Planned::master(args), &args.common, listeners)
        }
        Command::Secondary(args) => {
            let listeners = (&args.listen, args.cluster_listen.as_ref());
            check_node(&Planned::secondary(args), &args.common, listeners)
        }
        Command::Cluster(args) => {
            for node in cluster::planned(args) {
                node.check_directory(&args.common)?;
            }
            cluster::check_files(args)
        }
        Command::Demo | Command::Probe(_) | Command::CheckConfig(_) => Ok(()),
    }
}

/// Checks a node that has a process to itself.
fn check_node(
    node: &Planned,
    common: &CommonArgs,
    (listen, cluster_listen): (&HostPort, Option<&HostPort>),
) -> Result<(), String> {
    check_listen(listen, &args::cluster_listen(listen, cluster_listen)?)?;
    node.check_directory(common)?;
    check_identity(
        common,
        node.name(),
        &SecretPlace::of_node(common, &node.directory),
    )
}

/// Returns the directory of a node: the given one, or its default.
fn directory_of(given: Option<&Path>, name: &NodeName) -> PathBuf {
    match given {
        Some(directory) => directory.to_owned(),
        None => Path::new("./replog-data").join(name.as_str()),
    }
}

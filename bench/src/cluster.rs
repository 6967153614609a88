//! A cluster of real processes, with their logs in a directory that is removed with them.
//!
//! Owns the parts that replog's clusters and its peers' have in common: the processes, their usage,
//! their end. Dropping it ends them at once and removes their data.

use std::{net::SocketAddr, path::Path, time::Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    node::{LOOK_INTERVAL, Listens, Node, PATIENCE},
    proc::{self, Usage},
};

/// A master, or another node that takes appends, and the other nodes.
pub(crate) struct Cluster {
    pub(crate) master: Node,
    pub(crate) secondaries: Vec<Node>,
    // Last: removed after the nodes are gone.
    directory: TempDir,
}

/// Settings for starting replog.
#[derive(Clone, Copy)]
pub(crate) struct Replog<'a> {
    pub(crate) program: &'a Path,
    /// Parent of the clusters' directories.
    pub(crate) directory: &'a Path,
    /// Flags for every node.
    pub(crate) args: &'a [String],
}

impl Replog<'_> {
    /// Starts a master and two secondaries with fresh logs, and waits until they take appends.
    pub(crate) async fn start(self) -> Result<Cluster, String> {
        self.start_with(2).await
    }

    /// Starts as [`Replog::start`] does, with no encryption between the nodes.
    pub(crate) async fn start_insecure(self) -> Result<Cluster, String> {
        let args = [self.args, &["--cluster-insecure".to_owned()]].concat();
        Replog {
            args: &args,
            ..self
        }
        .start()
        .await
    }

    /// Starts a master without secondaries: a cluster of one, in one process.
    pub(crate) async fn start_alone(self) -> Result<Cluster, String> {
        let directory = fresh_directory(self.directory)?;
        let data = directory.path().join("data").display().to_string();
        let args = [
            "cluster",
            "--secondaries",
            "0",
            "--port",
            "0",
            "--data-dir",
            &data,
        ];
        let args = args.map(str::to_owned).into_iter();
        let args = args.chain(self.args.iter().cloned());
        let mut master = Node::new(
            "master",
            self.program,
            args,
            Listens::AsItSays,
            directory.path(),
        );
        master.start().await?;
        let cluster = Cluster::of(master, Vec::new(), directory);
        cluster.master.ready_for_appends().await?;
        Ok(cluster)
    }

    /// Starts as [`Replog::start`] does, with this many secondaries.
    pub(crate) async fn start_with(self, secondaries: usize) -> Result<Cluster, String> {
        let directory = fresh_directory(self.directory)?;
        let node = |role: &str, name: &str, own: &[String]| {
            let data = directory.path().join(name).display().to_string();
            let mut args: Vec<String> = [role, "--name", name, "--data-dir", &data]
                .map(str::to_owned)
                .into();
            args.extend_from_slice(own);
            args.extend_from_slice(self.args);
            Node::new(
                name,
                self.program,
                args,
                Listens::AsToldNow,
                directory.path(),
            )
        };
        let mut nodes: Vec<Node> = (1..=secondaries)
            .map(|number| node("secondary", &format!("secondary-{number}"), &[]))
            .collect();
        let mut own = Vec::new();
        for secondary in &mut nodes {
            secondary.start().await?;
            own.push("--secondary".to_owned());
            let address = secondary.cluster_address()?;
            own.push(format!("{}={address}", secondary.name));
        }
        let mut master = node("master", "master", &own);
        master.start().await?;
        let cluster = Cluster::of(master, nodes, directory);
        cluster.master.ready_for_appends().await?;
        // Without this, the first appends with a concern of all nodes would measure the start of the
        // links.
        cluster
            .eventually(|health| (0..secondaries).all(|one| is_caught_up(health, one)))
            .await?;
        Ok(cluster)
    }
}

impl Cluster {
    /// Makes a cluster of nodes that were started with their data in `directory`.
    pub(crate) fn of(master: Node, secondaries: Vec<Node>, directory: TempDir) -> Cluster {
        Cluster {
            master,
            secondaries,
            directory,
        }
    }

    /// Returns the address that takes appends.
    pub(crate) fn master_address(&self) -> Result<SocketAddr, String> {
        self.master.address()
    }

    /// Returns the directory of its nodes' data.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        std::iter::once(&self.master).chain(&self.secondaries)
    }

    /// Returns the running processes.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.nodes().filter_map(Node::process).collect()
    }

    /// Returns their usage up to now.
    pub(crate) fn usage(&self) -> Result<Usage, String> {
        Usage::of(&self.processes())
    }

    /// Returns the sum of the nodes' memory peaks, which need not coincide.
    pub(crate) fn peak_mib(&self) -> Result<f64, String> {
        let peaks: Result<Vec<f64>, String> =
            self.processes().into_iter().map(proc::peak_mib).collect();
        Ok(peaks?.iter().sum())
    }

    /// Waits until the master's health is as wanted, and returns it.
    pub(crate) async fn eventually(
        &self,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let health = self.master.health().await?;
            if wanted(&health) {
                return Ok(health);
            }
            if Instant::now() > deadline {
                return Err(format!("not within {PATIENCE:?}; the health is {health}"));
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Returns the last log lines of the nodes, for an error report.
    pub(crate) fn log_tail(&self) -> String {
        let words: Vec<String> = self
            .nodes()
            .map(|node| format!("{}: {}", node.name, node.log_tail()))
            .collect();
        words.join("\n")
    }

    /// Stops all nodes in order, and expects each to end with success.
    pub(crate) async fn stop(mut self) -> Result<(), String> {
        self.master.stop().await?;
        for secondary in &mut self.secondaries {
            if secondary.process().is_some() {
                secondary.stop().await?;
            }
        }
        Ok(())
    }
}

/// Makes a directory for one cluster.
pub(crate) fn fresh_directory(parent: &Path) -> Result<TempDir, String> {
    tempfile::Builder::new()
        .prefix("replog-bench-")
        .tempdir_in(parent)
        .map_err(|error| format!("{}: {error}", parent.display()))
}

/// Returns true if a secondary takes part and holds everything that the master has.
pub(crate) fn is_caught_up(health: &Value, secondary: usize) -> bool {
    let secondary = &health["secondaries"][secondary];
    secondary["status"] == "Healthy" && secondary["lag"] == 0
}

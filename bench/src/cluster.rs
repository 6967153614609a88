//! A cluster of real processes, with their logs in a directory that goes with them.
//!
//! Owns what is common to replog's clusters and its peers': the processes, what they use, their
//! end. Dropped, it ends them at once and removes what they wrote.

use std::{net::SocketAddr, path::Path, time::Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    node::{LOOK_INTERVAL, Listens, Node, PATIENCE},
    proc::{self, Usage},
};

/// A master, or whatever takes appends, and the others.
pub(crate) struct Cluster {
    pub(crate) master: Node,
    pub(crate) secondaries: Vec<Node>,
    // Last: removed when the nodes are gone.
    directory: TempDir,
}

/// How replog is started.
#[derive(Clone, Copy)]
pub(crate) struct Replog<'a> {
    pub(crate) program: &'a Path,
    /// The clusters' directories are made in it.
    pub(crate) directory: &'a Path,
    /// For every node.
    pub(crate) args: &'a [String],
}

impl Replog<'_> {
    /// Starts a master and two secondaries with fresh logs, and waits until they take appends.
    pub(crate) async fn start(self) -> Result<Cluster, String> {
        self.start_with(2).await
    }

    /// As [`Replog::start`], with nothing encrypted between the nodes.
    pub(crate) async fn start_insecure(self) -> Result<Cluster, String> {
        let args = [self.args, &["--cluster-insecure".to_owned()]].concat();
        Replog {
            args: &args,
            ..self
        }
        .start()
        .await
    }

    /// Starts a master that has no secondaries: a cluster of one, in one process.
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

    /// As [`Replog::start`], with so many secondaries.
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
        // Before that, the first appends of all nodes' concern would measure the start of the links.
        cluster
            .eventually(|health| (0..secondaries).all(|one| is_caught_up(health, one)))
            .await?;
        Ok(cluster)
    }
}

impl Cluster {
    /// Of nodes that were started with their data in `directory`.
    pub(crate) fn of(master: Node, secondaries: Vec<Node>, directory: TempDir) -> Cluster {
        Cluster {
            master,
            secondaries,
            directory,
        }
    }

    /// Where appends go.
    pub(crate) fn master_address(&self) -> Result<SocketAddr, String> {
        self.master.address()
    }

    /// Where its nodes keep their data.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        std::iter::once(&self.master).chain(&self.secondaries)
    }

    /// The processes that there are.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.nodes().filter_map(Node::process).collect()
    }

    /// What they used up to now.
    pub(crate) fn usage(&self) -> Result<Usage, String> {
        Usage::of(&self.processes())
    }

    /// The most memory that all nodes had, each at its own worst moment.
    pub(crate) fn peak_mib(&self) -> Result<f64, String> {
        let peaks: Result<Vec<f64>, String> =
            self.processes().into_iter().map(proc::peak_mib).collect();
        Ok(peaks?.iter().sum())
    }

    /// Waits until the master's health is as wanted, and gives it.
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

    /// What the nodes logged last, for whoever cannot go on.
    pub(crate) fn last_words(&self) -> String {
        let words: Vec<String> = self
            .nodes()
            .map(|node| format!("{}: {}", node.name, node.last_words()))
            .collect();
        words.join("\n")
    }

    /// Ends all in order, and expects that each ends well.
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

/// A directory for one cluster.
pub(crate) fn fresh_directory(parent: &Path) -> Result<TempDir, String> {
    tempfile::Builder::new()
        .prefix("replog-bench-")
        .tempdir_in(parent)
        .map_err(|error| format!("{}: {error}", parent.display()))
}

/// Whether a secondary takes part and holds all that the master has.
pub(crate) fn is_caught_up(health: &Value, secondary: usize) -> bool {
    let secondary = &health["secondaries"][secondary];
    secondary["status"] == "Healthy" && secondary["lag"] == 0
}

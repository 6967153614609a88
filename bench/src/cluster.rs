//! Three nodes, each a process of its own, with their logs in a directory that goes with them.
//!
//! Owns the processes that it started and no others. Dropped, it ends them at once and removes
//! what they wrote.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    http::{self, Connection},
    proc::{self, CpuTimes},
};

/// How long a node may take to start, to become ready, or to end.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a state that shall change.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A master and two secondaries.
pub(crate) struct Cluster {
    pub(crate) master: Node,
    pub(crate) secondaries: [Node; 2],
    // Last: removed when the nodes are gone.
    _directory: TempDir,
}

/// One node: how it is started, and its process while it has one.
pub(crate) struct Node {
    pub(crate) name: String,
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    /// As the node said; the next process gets the same.
    pub(crate) address: Option<SocketAddr>,
    child: Option<Child>,
}

impl Cluster {
    /// Starts all three with fresh logs below `directory`, and waits until they take appends.
    pub(crate) async fn start(
        program: &Path,
        directory: &Path,
        args: &[String],
    ) -> Result<Cluster, String> {
        let directory = tempfile::Builder::new()
            .prefix("replog-bench-")
            .tempdir_in(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        let node = |role: &str, name: &str, own: &[String]| {
            let data = directory.path().join(name).display().to_string();
            let mut all: Vec<String> = [role, "--name", name, "--data-dir", &data]
                .map(str::to_owned)
                .into();
            all.extend_from_slice(own);
            all.extend_from_slice(args);
            Node {
                name: name.to_owned(),
                program: program.to_owned(),
                args: all,
                log: directory.path().join(format!("{name}.log")),
                address: None,
                child: None,
            }
        };
        let mut secondaries =
            ["secondary-1", "secondary-2"].map(|name| node("secondary", name, &[]));
        let mut own = Vec::new();
        for secondary in &mut secondaries {
            let address = secondary.start().await?;
            own.push("--secondary".to_owned());
            own.push(format!("{}=http://{address}", secondary.name));
        }
        let mut master = node("master", "master", &own);
        master.start().await?;
        let cluster = Cluster {
            master,
            secondaries,
            _directory: directory,
        };
        cluster.master.ready_for_appends().await?;
        // Before that, the first appends of concern 3 would measure the start of the links.
        cluster
            .eventually(|health| is_caught_up(health, 0) && is_caught_up(health, 1))
            .await?;
        Ok(cluster)
    }

    /// Where appends go.
    pub(crate) fn master_address(&self) -> Result<SocketAddr, String> {
        self.master.address()
    }

    /// The processes that there are.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let nodes = std::iter::once(&self.master).chain(&self.secondaries);
        nodes.filter_map(Node::process).collect()
    }

    /// Time on a CPU up to now.
    pub(crate) fn cpu_times(&self) -> Result<CpuTimes, String> {
        CpuTimes::of(&self.processes())
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

    /// Ends all three in order.
    pub(crate) async fn stop(mut self) -> Result<(), String> {
        self.master.stop().await?;
        for secondary in &mut self.secondaries {
            secondary.stop().await?;
        }
        Ok(())
    }
}

/// Whether a secondary takes part and holds all that the master has.
pub(crate) fn is_caught_up(health: &Value, secondary: usize) -> bool {
    let secondary = &health["secondaries"][secondary];
    secondary["status"] == "Healthy" && secondary["lag"] == 0
}

impl Node {
    /// Starts a process and waits until it says where it listens.
    pub(crate) async fn start(&mut self) -> Result<SocketAddr, String> {
        let listen = self
            .address
            .map_or("127.0.0.1:0".to_owned(), |known| known.to_string());
        let mut command = Command::new(&self.program);
        // Settings of whoever runs this are not those that are measured.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("REPLOG_") || name == "RUST_LOG" {
                command.env_remove(&*name);
            }
        }
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|error| format!("{}: {error}", self.log.display()))?;
        let mut child = command
            .args(&self.args)
            .args(["--listen", &listen])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        let stdout = child.stdout.take().ok_or("a process without stdout")?;
        self.child = Some(child);
        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        let read = timeout(PATIENCE, stdout.read_line(&mut line)).await;
        let said = matches!(read, Ok(Ok(1..)));
        let address = line
            .trim_end()
            .split_once(" http://")
            .and_then(|(_, address)| address.parse().ok())
            .filter(|_| said)
            .ok_or_else(|| format!("{} did not start: {}", self.name, self.last_words()))?;
        self.address = Some(address);
        Ok(address)
    }

    pub(crate) fn address(&self) -> Result<SocketAddr, String> {
        self.address
            .ok_or_else(|| format!("{} was never started", self.name))
    }

    /// Its process, while there is one.
    pub(crate) fn process(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// As [`Node::process`], where there must be one.
    pub(crate) fn running(&self) -> Result<u32, String> {
        self.process()
            .ok_or_else(|| format!("{} does not run: {}", self.name, self.last_words()))
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), String> {
        let process = i32::try_from(self.running()?).ok().and_then(Pid::from_raw);
        let process = process.ok_or("a process id out of range")?;
        kill_process(process, signal).map_err(|error| format!("{}: {error}", self.name))
    }

    /// Ends it at once, as a crash would.
    pub(crate) async fn kill(&mut self) -> Result<(), String> {
        self.signal(Signal::KILL)?;
        self.ended().await.map(drop)
    }

    /// Asks it to end, and expects that it does so well.
    pub(crate) async fn stop(&mut self) -> Result<(), String> {
        self.signal(Signal::TERM)?;
        let status = self.ended().await?;
        if status.success() {
            Ok(())
        } else {
            Err(format!(
                "{} ended with {status}: {}",
                self.name,
                self.last_words()
            ))
        }
    }

    async fn ended(&mut self) -> Result<ExitStatus, String> {
        let Some(mut child) = self.child.take() else {
            return Err(format!("{} does not run", self.name));
        };
        match timeout(PATIENCE, child.wait()).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => Err(format!("{}: {error}", self.name)),
            Err(_elapsed) => Err(format!("{} does not end", self.name)),
        }
    }

    /// Waits until it takes appends.
    pub(crate) async fn ready_for_appends(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let mut connection = self.connect().await?;
        let request = http::get_request("/readyz/write");
        loop {
            let answer = connection.exchange(&request).await;
            match answer.map(|answer| answer.status) {
                Ok(200) => return Ok(()),
                Ok(_) if Instant::now() < deadline => sleep(LOOK_INTERVAL / 5).await,
                Ok(status) => return Err(format!("{} is not ready: {status}", self.name)),
                Err(error) => return Err(format!("{}: {error}: {}", self.name, self.last_words())),
            }
        }
    }

    /// What it says about itself.
    pub(crate) async fn health(&self) -> Result<Value, String> {
        let mut connection = self.connect().await?;
        let answer = connection
            .exchange(&http::get_request("/health"))
            .await
            .map_err(|error| format!("{}: {error}: {}", self.name, self.last_words()))?;
        serde_json::from_slice(answer.body).map_err(|error| format!("{}: {error}", self.name))
    }

    async fn connect(&self) -> Result<Connection, String> {
        Connection::open(self.address()?)
            .await
            .map_err(|error| format!("{}: {error}: {}", self.name, self.last_words()))
    }

    /// The end of what it logged: the directory is about to go.
    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

/// Holds a node still, as a machine that hangs; it goes on when dropped.
pub(crate) struct Held<'a> {
    node: &'a Node,
}

impl Held<'_> {
    pub(crate) fn hold(node: &Node) -> Result<Held<'_>, String> {
        node.signal(Signal::STOP)?;
        Ok(Held { node })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Gone already: then nothing is held.
        let _ = self.node.signal(Signal::CONT);
    }
}

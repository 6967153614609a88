//! One server's process: its start, signals and end, and its last output.
//!
//! Owns the process that it started and no other. Dropping it ends the process at once.

use std::{
    ffi::OsString,
    fs::File,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    pinning,
    wire::http::{self, Connection},
};

/// Maximum time for a node to start, to become ready, or to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Interval between two looks at a state that is expected to change.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Source of a program's address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Listens {
    /// A node of replog: it gets `--listen` and `--cluster-listen` with free ports, or with its last ones, prints
    /// on stdout its address for clients, and reports in its health its address for other nodes.
    AsToldNow,
    /// It takes a free port and prints it on stdout.
    AsItSays,
    /// Its arguments contain it.
    At(SocketAddr),
}

/// One node, and its process while it has one.
pub(crate) struct Node {
    pub(crate) name: String,
    program: PathBuf,
    args: Vec<OsString>,
    libraries: Option<PathBuf>,
    log: PathBuf,
    listens: Listens,
    /// The next process gets the same, if it can be told.
    address: Option<SocketAddr>,
    /// The address for other nodes; the next process gets the same.
    cluster_address: Option<SocketAddr>,
    child: Option<Child>,
}

impl Node {
    /// Makes a node whose output goes to a file in `directory`. It is not started yet.
    pub(crate) fn new(
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = impl Into<OsString>>,
        listens: Listens,
        directory: &Path,
    ) -> Node {
        Node {
            name: name.to_owned(),
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            libraries: None,
            log: directory.join(format!("{name}.log")),
            listens,
            address: None,
            cluster_address: None,
            child: None,
        }
    }

    /// Sets the directory in which its program finds libraries that the system does not have.
    pub(crate) fn with_libraries(mut self, libraries: Option<PathBuf>) -> Node {
        self.libraries = libraries;
        self
    }

    /// Starts a process and waits until it listens.
    pub(crate) async fn start(&mut self) -> Result<SocketAddr, String> {
        let mut command = Command::new(&self.program);
        // Settings in the environment of this program must not affect the measurement.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("REPLOG_") || name.starts_with("ETCD_") || name == "RUST_LOG" {
                command.env_remove(&*name);
            }
        }
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.args(&self.args);
        if let Listens::AsToldNow = self.listens {
            let known = |address: Option<SocketAddr>| {
                address.map_or("127.0.0.1:0".to_owned(), |known| known.to_string())
            };
            command.args(["--listen", &known(self.address)]);
            command.args(["--cluster-listen", &known(self.cluster_address)]);
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|error| format!("{}: {error}", self.log.display()))?;
        let stdout = match self.listens {
            Listens::At(_) => Stdio::from(log.try_clone().map_err(|error| error.to_string())?),
            Listens::AsToldNow | Listens::AsItSays => Stdio::piped(),
        };
        command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(log)
            .kill_on_drop(true);
        let child = pinning::as_server(|| command.spawn())
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        self.child = Some(child);
        let address = match self.listens {
            Listens::At(address) => self.listening_at(address).await?,
            Listens::AsToldNow | Listens::AsItSays => self.address_said().await?,
        };
        self.address = Some(address);
        if let Listens::AsToldNow = self.listens {
            let told = self.health().await?["address"].take();
            let told = told.as_str().and_then(|told| told.parse().ok());
            self.cluster_address = Some(told.ok_or("a node without a cluster listener")?);
        }
        Ok(address)
    }

    /// Returns its address for other nodes, once it was started.
    pub(crate) fn cluster_address(&self) -> Result<SocketAddr, String> {
        self.cluster_address
            .ok_or_else(|| format!("{} was never started", self.name))
    }

    async fn address_said(&mut self) -> Result<SocketAddr, String> {
        let stdout = self
            .child
            .as_mut()
            .and_then(|child| child.stdout.take())
            .ok_or("a process without stdout")?;
        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        let read = timeout(PATIENCE, stdout.read_line(&mut line)).await;
        let said = matches!(read, Ok(Ok(1..)));
        line.trim_end()
            .split_once(" http://")
            .and_then(|(_, address)| address.parse().ok())
            .filter(|_| said)
            .ok_or_else(|| format!("{} did not start: {}", self.name, self.log_tail()))
    }

    async fn listening_at(&mut self, address: SocketAddr) -> Result<SocketAddr, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.as_mut().map(Child::try_wait);
            if let Some(Ok(Some(status))) = ended {
                let words = self.log_tail();
                return Err(format!("{} ended with {status}: {words}", self.name));
            }
            if TcpStream::connect(address).await.is_ok() {
                return Ok(address);
            }
            if Instant::now() > deadline {
                let words = self.log_tail();
                return Err(format!("{} does not listen: {words}", self.name));
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    pub(crate) fn address(&self) -> Result<SocketAddr, String> {
        self.address
            .ok_or_else(|| format!("{} was never started", self.name))
    }

    /// Returns its process, if there is one.
    pub(crate) fn process(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Returns its process as [`Node::process`] does; an error if there is none.
    pub(crate) fn running(&self) -> Result<u32, String> {
        self.process()
            .ok_or_else(|| format!("{} does not run: {}", self.name, self.log_tail()))
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

    /// Asks it to end, and expects it to end with success.
    pub(crate) async fn stop(&mut self) -> Result<(), String> {
        self.signal(Signal::TERM)?;
        let status = self.ended().await?;
        if status.success() {
            Ok(())
        } else {
            Err(format!(
                "{} ended with {status}: {}",
                self.name,
                self.log_tail()
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
            Err(_elapsed) => Err(format!("{} did not end in time", self.name)),
        }
    }

    /// Waits until it takes appends, as replog's nodes report it.
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
                Err(error) => return Err(format!("{}: {error}: {}", self.name, self.log_tail())),
            }
        }
    }

    /// Returns the health that a node of replog reports.
    pub(crate) async fn health(&self) -> Result<Value, String> {
        let mut connection = self.connect().await?;
        let answer = connection
            .exchange(&http::get_request("/health"))
            .await
            .map_err(|error| format!("{}: {error}: {}", self.name, self.log_tail()))?;
        let body = serde_json::from_slice(answer.body);
        let body: Value = body.map_err(|error| format!("{}: {error}", self.name))?;
        match answer.status {
            200 => Ok(body),
            status => Err(format!(
                "{}: its health request was answered with {status}: {body}",
                self.name
            )),
        }
    }

    async fn connect(&self) -> Result<Connection, String> {
        Connection::open(self.address()?)
            .await
            .map_err(|error| format!("{}: {error}: {}", self.name, self.log_tail()))
    }

    /// Returns the end of its log: the directory is about to be removed.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

/// Returns ports that were free a moment ago, for programs that must be given theirs.
pub(crate) fn free_addresses(count: usize) -> Result<Vec<SocketAddr>, String> {
    let no_port = |error: std::io::Error| format!("no free port: {error}");
    // All are held until the last is known, so that no two are the same.
    let held: Result<Vec<TcpListener>, _> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect();
    let held = held.map_err(no_port)?;
    let addresses: Result<Vec<SocketAddr>, _> = held.iter().map(TcpListener::local_addr).collect();
    addresses.map_err(no_port)
}

/// Freezes a node, as a machine that hangs; it resumes when dropped.
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
        // The process may be gone already: then nothing is frozen.
        let _ = self.node.signal(Signal::CONT);
    }
}

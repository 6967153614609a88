//! Processes under test: started, watched and ended.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU16, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{self, Answer, get};

/// Maximum time for anything that depends on another process.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Ports for nodes under test.
const PORTS: Range<u16> = 11_000..29_000;

/// The file of a cluster's secret, beside the directories of its nodes.
const SECRET_FILE: &str = "cluster.secret";

/// Flags that make nodes notice failures soon, without taking a busy machine for one.
const FAST: [(&str, &str); 5] = [
    ("--heartbeat-interval", "100ms"),
    ("--suspect-after", "500ms"),
    ("--unhealthy-after", "1500ms"),
    ("--retry-max", "500ms"),
    ("--request-timeout", "1s"),
];

/// Waits until `condition` returns a value.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns a port that is unused now, and that no other test uses until this process ends.
///
/// Not in the range from which the system takes ports for outgoing connections: while its node
/// is down, a connection to it could get the same port and connect to itself. A lock on a file keeps
/// tests in other processes from taking it while its node is down.
pub(crate) fn free_port() -> u16 {
    free_ports(&[0])
}

/// Returns a free port for clients such that the port this distance above it is free, too.
pub(crate) fn free_ports_of_node(distance: u16) -> u16 {
    free_ports(&[0, distance])
}

/// Returns a port such that the ports at all these distances from it are free.
fn free_ports(distances: &[u16]) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static TAKEN: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let locks = std::env::temp_dir().join("replog-test-ports");
    fs::create_dir_all(&locks).expect("a directory for locks");
    let take = |port: u16| {
        let lock = File::create(locks.join(port.to_string())).expect("a lock file");
        let is_free = lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok();
        is_free.then_some(lock)
    };
    loop {
        let port = PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        let taken: Option<Vec<File>> = distances.iter().map(|more| take(port + more)).collect();
        if let Some(taken) = taken {
            TAKEN.lock().expect("no panic").extend(taken);
            return port;
        }
    }
}

/// Builds the command of the program under test.
pub(crate) fn program() -> Command {
    command(&program_path("replog-server"))
}

/// Builds the command of the program for people and scripts.
pub(crate) fn client() -> Command {
    command(&program_path("replog"))
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    // A developer's own settings must not affect a test.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("REPLOG_") || name_text.starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command.env("RUST_LOG", "info,actix_server=warn");
    command
}

/// Returns the program's path, which Cargo gives to tests. `torture`, which is an example, is built beside it.
pub(crate) fn program_path(name: &str) -> PathBuf {
    let by_cargo = match name {
        "replog" => option_env!("CARGO_BIN_EXE_replog"),
        _ => option_env!("CARGO_BIN_EXE_replog-server"),
    };
    if let Some(path) = by_cargo {
        return path.into();
    }
    let own = std::env::current_exe().expect("this program has a path");
    let built = own.parent().and_then(Path::parent);
    built
        .expect("examples have a directory of their own")
        .join(name)
}

/// One process.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Process {
    /// Starts the program; its stderr goes to `log`.
    pub(crate) fn start(args: &[&str], log: &Path) -> Process {
        let mut command = program();
        command.args(args);
        Process::run(command, log)
    }

    /// Starts a command; its stderr goes to `log`.
    pub(crate) fn run(command: Command, log: &Path) -> Process {
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("a log file");
        Process::heard_at(command, stderr, log)
    }

    /// Starts a command; its stderr goes there. What was logged is looked for in `log`.
    pub(crate) fn heard_at(mut command: Command, stderr: impl Into<Stdio>, log: &Path) -> Process {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Process {
            child,
            lines,
            log: log.to_owned(),
        }
    }

    /// Returns the next line on stdout.
    pub(crate) fn line(&self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|error| panic!("no line on stdout ({error}): {}", self.log_text()))
    }

    /// Returns its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns its log so far.
    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is there");
    }

    /// Kills it, as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the process is there");
        self.child.wait().expect("the process ends");
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Returns how it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("the process ends", || self.ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already over, if a test ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let text = self.log_text();
            let from = text.len().saturating_sub(6_000);
            let from = (from..text.len())
                .find(|at| text.is_char_boundary(*at))
                .unwrap_or(0);
            eprintln!("--- {}\n{}", self.log.display(), &text[from..]);
        }
    }
}

/// One node of a [`Cluster`]: its place, with or without a running process.
pub(crate) struct Node {
    pub(crate) name: String,
    /// The address for clients.
    pub(crate) address: SocketAddr,
    /// The address for other nodes.
    pub(crate) cluster_address: SocketAddr,
    pub(crate) directory: PathBuf,
    pub(crate) log: PathBuf,
    args: Vec<String>,
    process: Option<Process>,
}

impl Node {
    /// Starts its process, and waits until it listens.
    pub(crate) fn start(&mut self) {
        self.launch();
        let line = self.process().line();
        assert_eq!(line, format!("{} http://{}", self.name, self.address));
    }

    /// Starts its process without waiting.
    pub(crate) fn launch(&mut self) {
        assert!(self.process.is_none(), "{} runs", self.name);
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        self.process = Some(Process::start(&args, &self.log));
    }

    /// Returns how its process ended, if it did so without being asked.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// Adds a flag to its later processes.
    pub(crate) fn add_flag(&mut self, flag: &str) {
        self.args.push(flag.to_owned());
    }

    /// Returns its process.
    pub(crate) fn process(&self) -> &Process {
        self.process
            .as_ref()
            .unwrap_or_else(|| panic!("{} is down", self.name))
    }

    /// Takes its process away: the test ends it.
    pub(crate) fn take(&mut self) -> Process {
        self.process
            .take()
            .unwrap_or_else(|| panic!("{} is down", self.name))
    }

    /// Kills its process, as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.take().kill();
    }

    /// Asks its process to end, which it does with exit code 0.
    pub(crate) fn terminate(&mut self) {
        let name = self.name.clone();
        let status = self.take().terminate();
        assert_eq!(status.code(), Some(0), "{name}");
    }

    /// Returns the answer to `GET /health`.
    pub(crate) fn health(&self) -> Value {
        get(self.address, "/health").json()
    }

    /// Replaces its faults.
    pub(crate) fn set_faults(&self, faults: &str) -> Value {
        let answer = http::request(
            self.address,
            "PUT",
            "/faults",
            &[http::JSON],
            Some(faults.as_bytes()),
        )
        .expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Returns all messages that it shows as (offset, data), checked for gaps.
    pub(crate) fn messages(&self) -> Vec<Value> {
        let body = get(self.address, "/messages").json();
        let messages = body["messages"].as_array().expect("an array").clone();
        for (at, message) in messages.iter().enumerate() {
            assert_eq!(message["offset"], at, "{} shows a gap", self.name);
        }
        assert_eq!(body["next"], messages.len(), "{}", self.name);
        messages
    }

    /// Returns the files of its log: names and contents.
    pub(crate) fn log_files(&self) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(self.directory.join("log")).expect("a log");
        let mut files: Vec<(String, Vec<u8>)> = entries
            .map(|entry| {
                let path = entry.expect("an entry").path();
                let name = path.file_name().expect("a name").to_string_lossy();
                (name.into_owned(), fs::read(&path).expect("a file"))
            })
            .collect();
        files.sort();
        files
    }

    /// Returns the data of all messages that it shows.
    pub(crate) fn data(&self) -> Vec<Value> {
        self.messages()
            .into_iter()
            .map(|message| message["data"].clone())
            .collect()
    }
}

/// A master and its secondaries, each in a separate process.
pub(crate) struct Cluster {
    pub(crate) master: Node,
    pub(crate) secondaries: Vec<Node>,
    /// Dropped last: the processes' directories.
    directory: TempDir,
}

impl Cluster {
    /// Prepares a cluster of this many secondaries whose nodes are all down. `flags` go to every node.
    pub(crate) fn prepare(secondaries: usize, flags: &[&str]) -> Cluster {
        Cluster::prepare_behind(secondaries, flags, |secondary| secondary)
    }

    /// The same, with a proxy between the master and each secondary: `way_to` gets the address of a
    /// secondary's cluster listener, and returns the one at which the master finds it.
    pub(crate) fn prepare_behind(
        secondaries: usize,
        flags: &[&str],
        mut way_to: impl FnMut(SocketAddr) -> SocketAddr,
    ) -> Cluster {
        let directory = TempDir::new().expect("a temporary directory");
        let node = |name: &str, kind: &str, more: Vec<String>| {
            let [address, cluster_address] =
                [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            let data = directory.path().join(name);
            let mut args: Vec<String> = [kind, "--name", name, "--listen"]
                .map(str::to_owned)
                .to_vec();
            args.push(address.to_string());
            args.extend(["--cluster-listen".to_owned(), cluster_address.to_string()]);
            if flags.contains(&"--memory") {
                // With `--memory` there is no directory to put the secret beside.
                let secret = directory.path().join(SECRET_FILE).display().to_string();
                args.extend(["--cluster-secret-file".to_owned(), secret]);
            } else {
                args.extend(["--data-dir".to_owned(), data.display().to_string()]);
            }
            args.extend(flags.iter().map(|flag| (*flag).to_owned()));
            for (flag, value) in FAST.iter().filter(|(flag, _)| !flags.contains(flag)) {
                args.extend([(*flag).to_owned(), (*value).to_owned()]);
            }
            args.extend(more);
            Node {
                name: name.to_owned(),
                address,
                cluster_address,
                directory: data,
                log: directory.path().join(format!("{name}.log")),
                args,
                process: None,
            }
        };
        let secondaries: Vec<Node> = (1..=secondaries)
            .map(|number| node(&format!("secondary-{number}"), "secondary", Vec::new()))
            .collect();
        let peers = secondaries.iter().flat_map(|secondary| {
            [
                "--secondary".to_owned(),
                format!("{}={}", secondary.name, way_to(secondary.cluster_address)),
            ]
        });
        let master = node("master", "master", peers.collect());
        Cluster {
            master,
            secondaries,
            directory,
        }
    }

    /// Returns the file of the cluster's secret.
    pub(crate) fn secret_file(&self) -> PathBuf {
        self.directory.path().join(SECRET_FILE)
    }

    /// Keeps the directories and logs of the nodes for inspection, and prints their location.
    pub(crate) fn keep_directory(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }

    /// Starts a cluster of this many secondaries, and waits until it takes appends with every node in contact.
    pub(crate) fn start(secondaries: usize, flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::prepare(secondaries, flags);
        for secondary in &mut cluster.secondaries {
            secondary.start();
        }
        cluster.master.start();
        cluster.wait_read_write();
        cluster.wait_alive(secondaries + 1);
        cluster
    }

    /// Waits until the master takes appends.
    pub(crate) fn wait_read_write(&self) {
        eventually("the master takes appends", || {
            let answer = http::request(self.master.address, "GET", "/readyz/write", &[], None);
            answer
                .is_ok_and(|answer| answer.status == 200)
                .then_some(())
        });
    }

    /// Waits until this many nodes are in contact.
    pub(crate) fn wait_alive(&self, nodes: usize) {
        eventually("the nodes are in contact", || {
            (self.master.health()["quorum"]["alive"] == nodes).then_some(())
        });
    }

    /// Waits until the master considers every secondary Healthy.
    pub(crate) fn wait_healthy(&self) {
        eventually("the secondaries are Healthy", || {
            let health = self.master.health();
            let secondaries = health["secondaries"].as_array()?;
            let healthy = |secondary: &Value| secondary["status"] == "Healthy";
            secondaries.iter().all(healthy).then_some(())
        });
    }

    /// Waits until every node shows as much as the master does, and returns that end.
    pub(crate) fn wait_equal(&self) -> u64 {
        eventually("all nodes have the same end", || {
            let next = |node: &Node| node.health()["log"]["next"].as_u64();
            let end = next(&self.master)?;
            let equal = self.secondaries.iter().all(|node| next(node) == Some(end));
            equal.then_some(end)
        })
    }

    /// Appends a text, and waits for the answer.
    pub(crate) fn append(&self, text: &str, concern: impl std::fmt::Display) -> Answer {
        http::post(self.master.address, &http::message(text, concern))
    }

    /// Appends a text in a new thread, which waits for ever.
    pub(crate) fn append_behind(&self, text: &str, concern: u32) -> Receiver<Answer> {
        let (sender, receiver) = channel();
        let (address, body) = (self.master.address, http::message(text, concern));
        thread::spawn(move || {
            let mut connection = http::Connection::open(address)
                .expect("a connection")
                .patience(None);
            let answer =
                connection.request("POST", "/messages", &[http::JSON], Some(body.as_bytes()));
            // After the end of a test nothing listens any more, and its node may be gone.
            if let Ok(answer) = answer {
                let _ = sender.send(answer);
            }
        });
        receiver
    }

    /// Waits until this many appends wait, and returns the answer to `GET /appends`.
    pub(crate) fn wait_waiting(&self, count: usize) -> Value {
        eventually("the appends wait", || {
            let appends = get(self.master.address, "/appends").json();
            (appends["total"] == count).then_some(appends)
        })
    }
}

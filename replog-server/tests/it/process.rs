//! A process in its environment: pipes that are not read, limits of the system, signals. A node works, or it ends
//! with a reason; it never stays half alive.

use std::{
    fs,
    io::{self, Read as _},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    http::{self, get, message, post},
    nodes::{Cluster, Process, eventually, program, program_path},
};

/// Starts a cluster in one process. Returns the process and the address of its master.
fn cluster(command: Command, log: &Path) -> (Process, SocketAddr) {
    let process = Process::run(command, log);
    let address = ready(&process);
    (process, address)
}

fn ready(cluster: &Process) -> SocketAddr {
    let line = cluster.line();
    let address = line.rsplit_once('/').expect("a URL").1;
    while cluster.line() != "ready" {}
    address.parse().expect("an address")
}

/// Builds the program, started by a shell that runs `first` before it becomes the program.
fn program_after(first: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{first} && exec \"$0\" \"$@\"")]);
    command.arg(program_path("replog-server"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REPLOG_") {
            command.env_remove(name);
        }
    }
    command
}

#[test]
fn an_unread_pipe_of_log_lines_holds_up_nothing_and_lost_lines_are_counted() {
    let mut command = program();
    command.args(["cluster", "--port", "0", "--memory"]);
    command.env("RUST_LOG", "trace");
    let (mut stderr, writer) = io::pipe().expect("a pipe");
    let mut cluster = Process::heard_at(command, writer, Path::new("nowhere"));
    let address = ready(&cluster);
    let dropped = || {
        let metrics = get(address, "/metrics");
        let metrics = metrics.text();
        let name = "replog_log_lines_dropped_total ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.expect("the series").parse::<f64>().expect("a number")
    };
    eventually("the pipe and the queue are full", || {
        for _ in 0..50 {
            assert_eq!(post(address, &message("x", "\"all\"")).status, 201);
        }
        (dropped() > 0.0).then_some(())
    });
    assert_eq!(get(address, "/livez").status, 200);
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.wait().code(), Some(0));
    let mut text = String::new();
    stderr
        .read_to_string(&mut text)
        .expect("what is in the pipe");
    assert!(text.contains("listening on"), "{text}");
}

#[test]
fn log_lines_resume_with_the_number_of_missing_lines() {
    let mut command = program();
    command.args(["cluster", "--port", "0", "--memory"]);
    command.env("RUST_LOG", "trace");
    let (mut stderr, writer) = io::pipe().expect("a pipe");
    let cluster = Process::heard_at(command, writer, Path::new("nowhere"));
    let address = ready(&cluster);
    eventually("lines are dropped", || {
        for _ in 0..50 {
            assert_eq!(post(address, &message("x", "\"all\"")).status, 201);
        }
        let metrics = get(address, "/metrics");
        (!metrics
            .text()
            .contains("replog_log_lines_dropped_total 0\n"))
        .then_some(())
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut text, mut part) = (String::new(), [0; 1 << 16]);
    while !text.contains("log lines were dropped: stderr took nothing\n") {
        let length = stderr.read(&mut part).expect("more lines");
        text.push_str(&String::from_utf8_lossy(&part[..length]));
        assert!(Instant::now() < deadline, "{} bytes", text.len());
    }
}

#[test]
fn the_second_signal_ends_it_even_if_its_lines_are_not_read() {
    let mut command = program();
    command.args(["cluster", "--port", "0", "--memory"]);
    command.env("RUST_LOG", "trace");
    let (_stderr, writer) = io::pipe().expect("a pipe");
    let mut cluster = Process::heard_at(command, writer, Path::new("nowhere"));
    let address = ready(&cluster);
    for _ in 0..16 {
        let text = message(&"x".repeat(1_000_000), 1);
        assert_eq!(post(address, &text).status, 201);
    }
    // It keeps the cluster from stopping at once.
    let mut reader = http::Connection::open(address).expect("a connection");
    reader
        .send(b"GET /messages HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .expect("sent");
    reader.socket().peek(&mut [0]).expect("an answer");
    // Signals that come together with the first do not count.
    let status = eventually("it ends", || {
        let ended = cluster.ended();
        if ended.is_none() {
            cluster.signal(Signal::TERM);
        }
        ended
    });
    assert_eq!(status.code(), Some(1));
}

/// Runs a process until it ends by itself.
fn run_to_end(mut command: Command) -> Output {
    command.env("RUST_LOG", "off");
    let directory = TempDir::new().expect("a temporary directory");
    let log = directory.path().join("log");
    let mut process = Process::run(command, &log);
    let status = process.wait();
    Output {
        status,
        stdout: Vec::new(),
        stderr: fs::read(&log).expect("a log"),
    }
}

fn check_gave_up(what: &str, output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{what}: {text}");
    // The allocator, which has threads too, reports this itself.
    let own = text.lines().filter(|line| !line.starts_with("<jemalloc>"));
    let own: Vec<&str> = own.collect();
    assert_eq!(own.len(), 1, "{what}: {text}");
    assert!(own[0].starts_with("replog-server: "), "{what}: {text}");
}

#[test]
fn a_start_without_files_ends_with_a_reason() {
    for files in 4..20 {
        let mut command = program_after(&format!("ulimit -n {files}"));
        command.args(["cluster", "--port", "0", "--memory"]);
        let output = run_to_end(command);
        check_gave_up(&format!("{files} files"), &output);
    }
}

#[test]
fn a_start_without_threads_ends_with_a_reason() {
    // Root may have any number of threads: the process is started as another user.
    let uid = rustix::process::geteuid();
    let directory = TempDir::new().expect("a temporary directory");
    let copy = directory.path().join("replog-server");
    fs::copy(program_path("replog-server"), &copy).expect("room for a copy");
    if !uid.is_root() || Command::new("setpriv").arg("--version").output().is_err() {
        println!("skipped: nobody else can start a process here");
        return;
    }
    let open = PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), open).expect("a directory of ours");
    for threads in 1..5 {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "54321", "--regid", "54321", "--clear-groups"]);
        command.args(["prlimit", &format!("--nproc={threads}")]);
        command.arg(&copy);
        command.args(["cluster", "--port", "0", "--memory"]);
        check_gave_up(&format!("{threads} threads"), &run_to_end(command));
    }
}

#[test]
fn a_limit_on_file_size_counts_as_a_full_disk() {
    let directory = TempDir::new().expect("a temporary directory");
    // In blocks of 512 bytes: 2 MiB, twice the size that is allocated ahead.
    let mut command = program_after("ulimit -f 4096");
    command.args(["cluster", "--port", "0", "--secondaries", "0", "--data-dir"]);
    command.arg(directory.path().join("data"));
    let (mut process, address) = cluster(command, &directory.path().join("log"));
    let text = message(&"x".repeat(300_000), 1);
    let refused = (0..20).map(|_| post(address, &text));
    let refused = refused.into_iter().find(|answer| answer.status != 201);
    let refused = refused.expect("a limit");
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (507, "/problems/storage")
    );
    assert_eq!(get(address, "/livez").status, 200);
    assert_eq!(get(address, "/health").json()["log"]["disk"], "full");
    process.signal(Signal::TERM);
    assert_eq!(process.wait().code(), Some(0), "{}", process.log_text());
}

#[test]
fn lines_of_one_process_name_their_node_and_an_ordinary_start_writes_no_warning() {
    let directory = TempDir::new().expect("a temporary directory");
    let mut command = program();
    command.args(["cluster", "--port", "0", "--memory"]);
    let (process, _) = cluster(command, &directory.path().join("log"));
    let log = eventually("every node has a line", || {
        let log = process.log_text();
        let names = ["master", "secondary-1", "secondary-2"];
        let has_one = |name: &&str| log.contains(&format!(" node={name}] "));
        names.iter().all(has_one).then_some(log)
    });
    let of_actors = log
        .lines()
        .filter(|line| line.contains(" replog_core::actors"));
    for line in of_actors {
        assert!(line.contains(" node="), "{line}");
    }
    assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
}

#[test]
fn a_hang_up_and_a_quit_are_a_clean_stop() {
    for (signal, name) in [(Signal::HUP, "SIGHUP"), (Signal::QUIT, "SIGQUIT")] {
        if signal == Signal::HUP && ignores_hang_ups() {
            eprintln!(
                "SKIPPED: these tests were started to outlive a terminal, and so are their nodes"
            );
            continue;
        }
        let mut cluster = Cluster::start(1, &["--memory"]);
        let mut node = cluster.secondaries[0].take();
        node.signal(signal);
        assert_eq!(node.wait().code(), Some(0), "{name}");
        let log = node.log_text();
        assert!(log.contains(&format!("{name}: stopping")), "{log}");
        assert!(log.trim_end().ends_with("stopped"), "{log}");
    }
}

/// Reports whether this process ignores SIGHUP, which its children inherit.
fn ignores_hang_ups() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells it");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = u64::from_str_radix(ignored.expect("a mask").trim(), 16).expect("hexadecimal");
    mask >> (Signal::HUP.as_raw() - 1) & 1 == 1
}

#[test]
fn a_process_that_outlives_its_terminal_ignores_the_hang_up() {
    let directory = TempDir::new().expect("a temporary directory");
    // As `nohup` does.
    let mut command = program_after("trap '' HUP");
    command.args(["cluster", "--port", "0", "--memory"]);
    let (mut process, address) = cluster(command, &directory.path().join("log"));
    process.signal(Signal::HUP);
    assert_eq!(get(address, "/livez").status, 200);
    process.signal(Signal::TERM);
    assert_eq!(process.wait().code(), Some(0));
    assert!(!process.log_text().contains("SIGHUP"));
}

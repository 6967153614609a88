//! Connections, waits and memory that one address uses cost another address nothing.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use replog_core::limits::{CLUSTER_HANDSHAKE_BURST, CLUSTER_HANDSHAKE_INTERVAL_OF_ADDRESS};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with},
    param::clock_ticks_per_second,
};
use tempfile::TempDir;

use crate::{
    http::{ANSWER_TIME_MAX, Connection, JSON, message},
    nodes::{Process, eventually, program_path},
    rogues::hello,
};

/// The client that takes everything it can get.
const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);
/// The client that comes later.
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 8);

/// Time that a client waits while the processor is measured.
const WAIT: Duration = Duration::from_secs(2);
/// Appends that are timed.
const APPENDS: usize = 50;
/// Heartbeats that are timed, at least.
const HEARTBEATS: f64 = 3.0;
/// Time that a machine shared with other tests adds to an append.
const NOISE: Duration = Duration::from_millis(5);
/// Time that it adds to one append in ten, or to a heartbeat.
const NOISE_OF_SLOW: Duration = Duration::from_millis(20);
/// Number of times that the pace is measured before it counts as too slow.
const TRIES: usize = 5;

/// Requests that a client sends behind one that waits, of [`PIPELINED_BYTES`] each: more than a web server that reads
/// ahead without a limit holds.
const PIPELINED: usize = 300;
const PIPELINED_BYTES: usize = 1_000;

/// Connects from an address: on this system all of 127/8 belongs to this machine.
fn connect_from(own: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    // Nodes that other tests start must not inherit it.
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrV4::new(own, 0))?;
    connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
    Ok(stream)
}

/// Starts a cluster of two nodes in one process with 256 open files. Returns it and the address of its master.
fn cluster(directory: &Path, flags: &[&str]) -> (Process, SocketAddr) {
    let (process, [master, _secondary]) = nodes(directory, flags);
    (process, master)
}

/// Starts a cluster of this many nodes, like [`cluster`]. Returns it and the addresses of all, the master's first.
fn nodes<const N: usize>(directory: &Path, flags: &[&str]) -> (Process, [SocketAddr; N]) {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 256 && exec \"$0\" \"$@\""]);
    command.arg(program_path("replog-server"));
    command.args(["cluster", "--port", "0", "--memory"]);
    command.args(["--secondaries", &(N - 1).to_string()]);
    command.args(flags);
    command.env("RUST_LOG", "info,actix_server=warn");
    let process = Process::run(command, &directory.join("log"));
    let addresses = [(); N].map(|()| {
        let line = process.line();
        let address = line.rsplit_once('/').expect("a URL").1;
        address.parse().expect("an address")
    });
    while process.line() != "ready" {}
    (process, addresses)
}

/// Returns user and system time of a process.
fn cpu_time(process: &Process) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("its name");
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum();
    Duration::from_millis(ticks * 1000 / clock_ticks_per_second())
}

/// Returns the processor time that it costs to let one client wait for nothing.
fn cpu_time_of_a_wait(process: &Process, address: SocketAddr) -> Duration {
    let before = cpu_time(process);
    let mut connection = Connection::of(connect_from(OTHER, address).expect("a connection"));
    let path = format!("/messages?wait_for=1000&timeout_ms={}", WAIT.as_millis());
    let answer = connection
        .request("GET", &path, &[], None)
        .expect("an answer");
    assert_eq!(answer.status, 404, "{answer:?}");
    cpu_time(process) - before
}

fn set_faults(address: SocketAddr, faults: &str) {
    let mut connection = Connection::of(connect_from(OTHER, address).expect("a connection"));
    let answer = connection.request("PUT", "/faults", &[JSON], Some(faults.as_bytes()));
    assert_eq!(answer.expect("an answer").status, 200);
}

/// Appends a message as the other client, on a new connection. Returns the time that it takes.
fn append(address: SocketAddr) -> Duration {
    let started = Instant::now();
    let stream = connect_from(OTHER, address).expect("a connection");
    let mut connection = Connection::of(stream);
    let body = message("x", "\"majority\"");
    let answer = connection.request("POST", "/messages", &[JSON], Some(body.as_bytes()));
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 201, "{answer:?}");
    started.elapsed()
}

/// Pace of the other client's appends and of the first secondary's heartbeats.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Time that half of the appends exceed.
    median: Duration,
    /// Time that one append in ten exceeds.
    slow: Duration,
    /// Average time of a heartbeat.
    heartbeat: Duration,
}

impl Pace {
    fn of(address: SocketAddr) -> Pace {
        let (count, seconds) = heartbeats(address);
        let mut times = [(); APPENDS].map(|()| append(address));
        times.sort();
        let (more, more_seconds) = eventually("there are more heartbeats", || {
            let (now, now_seconds) = heartbeats(address);
            let more = now - count;
            (more >= HEARTBEATS).then_some((more, now_seconds - seconds))
        });
        Pace {
            median: times[APPENDS / 2],
            slow: times[APPENDS / 10 * 9],
            heartbeat: Duration::from_secs_f64(more_seconds / more),
        }
    }
}

/// Returns the number of heartbeats that the first secondary answered, and the seconds that they took together.
fn heartbeats(address: SocketAddr) -> (f64, f64) {
    let stream = connect_from(OTHER, address).expect("a connection");
    let metrics = Connection::of(stream).request("GET", "/metrics", &[], None);
    let metrics = metrics.expect("an answer");
    let [count, seconds] = ["count", "sum"].map(|what| {
        let series = format!("replog_secondary_heartbeat_seconds_{what}{{");
        let mut lines = metrics.text().lines();
        let line = lines.find(|line| line.starts_with(&series) && line.contains("secondary-1"));
        let value = line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok());
        value.unwrap_or_else(|| panic!("{series} in {}", metrics.text()))
    });
    (count, seconds)
}

/// Checks that neither the other client's appends nor heartbeats take more than twice as long as before.
fn check_costs_nothing(address: SocketAddr, alone: Pace) {
    let allowed = Pace {
        median: alone.median * 2 + NOISE,
        slow: alone.slow * 2 + NOISE_OF_SLOW,
        heartbeat: alone.heartbeat * 2 + NOISE_OF_SLOW,
    };
    let mut seen = Vec::new();
    // A machine shared with other tests is slow for a while; the cost of other clients shows every time.
    let is_allowed = (0..TRIES).any(|_| {
        let beside = Pace::of(address);
        seen.push(beside);
        beside.median < allowed.median
            && beside.slow < allowed.slow
            && beside.heartbeat < allowed.heartbeat
    });
    assert!(is_allowed, "before: {alone:?}, now {seen:?}");
    let stream = connect_from(OTHER, address).expect("a connection");
    let health = Connection::of(stream).request("GET", "/health", &[], None);
    let health = health.expect("an answer").json();
    assert_eq!(health["secondaries"][0]["status"], "Healthy", "{health}");
}

/// Opens connections of the greedy client that send this, until one is refused.
fn take_all(address: SocketAddr, first_bytes: &[u8]) -> Vec<TcpStream> {
    let mut taken = Vec::new();
    loop {
        assert!(taken.len() < 256, "it is never refused");
        let mut stream = connect_from(GREEDY, address).expect("a connection");
        let _ = stream.write_all(first_bytes);
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a time-out");
        let mut answer = Vec::new();
        // An open connection gets nothing, or the beginning of an answer, and so do the first ones that are refused.
        if stream.read_to_end(&mut answer).is_ok() {
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
            assert!(answer.contains("open-files"), "{answer}");
            return taken;
        }
        taken.push(stream);
    }
}

/// Checks that as many connections as fit, on each of which this is sent, cost other clients nothing.
fn check_connections(address: SocketAddr, first_bytes: &[u8]) {
    let alone = Pace::of(address);
    let taken = take_all(address, first_bytes);
    assert!(taken.len() > 30, "{}", taken.len());
    check_costs_nothing(address, alone);
    drop(taken);
    eventually("its slots are free again", || {
        let stream = connect_from(GREEDY, address).ok()?;
        let answer = Connection::of(stream).request("GET", "/livez", &[], None);
        answer
            .is_ok_and(|answer| answer.status == 200)
            .then_some(())
    });
}

#[test]
fn idle_connections_of_one_address_leave_some_for_others() {
    let directory = TempDir::new().expect("a directory");
    let (_process, address) = cluster(directory.path(), &[]);
    check_connections(address, b"");
}

#[test]
fn followers_that_never_read_leave_slots_for_others() {
    let directory = TempDir::new().expect("a directory");
    let (_process, address) = cluster(directory.path(), &[]);
    let follow =
        b"GET /messages?follow=true HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n";
    check_connections(address, follow);
    let _taken = take_all(address, follow);
    // The other client may follow too.
    let mut connection = Connection::of(connect_from(OTHER, address).expect("a connection"));
    connection.send(follow).expect("sent");
    assert_eq!(connection.head().expect("an answer").status, 200);
}

#[test]
fn stalled_bodies_on_as_many_connections_as_fit_delay_no_other_client() {
    let directory = TempDir::new().expect("a directory");
    let (_process, address) = cluster(directory.path(), &[]);
    let head = "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 1000000\r\n\r\n{\"data\":\"";
    let part = format!("{head}{}", "x".repeat(50_000));
    check_connections(address, part.as_bytes());
}

#[test]
fn requests_pipelined_behind_waiting_appends_delay_no_other_client() {
    let directory = TempDir::new().expect("a directory");
    let (_process, [master, _, blocked]) = nodes(directory.path(), &["--allow-faults"]);
    set_faults(blocked, r#"{"block_replication":true}"#);
    let body = message("waits", "\"all\"");
    let append = format!(
        "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let pipelined = "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(PIPELINED);
    check_connections(master, format!("{append}{pipelined}").as_bytes());
}

#[test]
fn stalled_bodies_lose_their_memory_when_it_is_needed() {
    let directory = TempDir::new().expect("a directory");
    let flags = ["--max-queued-bytes", "4MiB", "--max-request-bytes", "2MiB"];
    let (_process, address) = cluster(directory.path(), &flags);
    let alone = Pace::of(address);
    let line = format!("\"{}\"\n", "x".repeat(500_000));
    let head = "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n\
                content-length: 2000000\r\n\r\n";
    let stalled: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = connect_from(GREEDY, address).expect("a connection");
            let _ = stream.write_all(format!("{head}{line}{line}").as_bytes());
            stream
        })
        .collect();
    check_costs_nothing(address, alone);
    // A body of the same length from the same client gets through, too, once the others have stalled.
    eventually("there is memory for a body that moves", || {
        let stream = connect_from(GREEDY, address).ok()?;
        let body = line.repeat(3);
        let headers = [("content-type", "application/x-ndjson")];
        let answer = Connection::of(stream).request(
            "POST",
            "/messages?concern=1",
            &headers,
            Some(body.as_bytes()),
        );
        answer
            .is_ok_and(|answer| answer.status == 201)
            .then_some(())
    });
    drop(stalled);
}

#[test]
fn requests_pipelined_behind_one_that_waits_cost_nothing_and_are_answered() {
    let directory = TempDir::new().expect("a directory");
    // An isolated secondary is no reason to refuse.
    let flags = [
        "--allow-faults",
        "--suspect-after",
        "50s",
        "--unhealthy-after",
        "60s",
    ];
    let (process, [master, secondary]) = nodes(directory.path(), &flags);
    set_faults(secondary, r#"{"isolate":true}"#);
    let pad = "x".repeat(PIPELINED_BYTES);
    let pipelined =
        format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx-pad: {pad}\r\n\r\n").repeat(PIPELINED);
    let body = message("waits", "\"all\"");
    let append = format!(
        "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let follow = "GET /messages?follow=true HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n";
    let [waiting, following] = [&append, follow].map(|first| {
        let mut connection = Connection::of(connect_from(GREEDY, master).expect("a connection"));
        connection.send(first.as_bytes()).expect("sent");
        connection.send(pipelined.as_bytes()).expect("sent");
        let cost = cpu_time_of_a_wait(&process, master);
        assert!(cost < WAIT / 4, "{cost:?} of {WAIT:?} behind {first}");
        connection
    });
    // A client that disconnects is noticed, whatever it has sent.
    drop(following);
    set_faults(secondary, "{}");
    let mut connection = waiting;
    assert_eq!(connection.answer().expect("an answer").status, 201);
    for number in 0..PIPELINED {
        let answer = connection
            .answer()
            .unwrap_or_else(|error| panic!("{number}: {error}"));
        assert_eq!(answer.status, 200, "{number}");
    }
}

#[test]
fn a_request_on_a_refused_connection_is_not_carried_out() {
    let directory = TempDir::new().expect("a directory");
    let (_process, address) = cluster(directory.path(), &[]);
    let _taken = take_all(address, b"");
    let body = message("refused", 1);
    let append = format!(
        "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for _ in 0..20 {
        let mut connection = Connection::of(connect_from(GREEDY, address).expect("a connection"));
        connection.send(append.as_bytes()).expect("sent");
        let answer = connection.answer().expect("an answer");
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (429, "/problems/overloaded")
        );
        let problem = answer.json();
        assert_eq!(problem["outcome"], "not_appended", "{problem}");
        assert_eq!(problem["retriable"], true, "{problem}");
        assert_eq!(problem["limit"], "open-files", "{problem}");
    }
    let mut connection = Connection::of(connect_from(OTHER, address).expect("a connection"));
    let health = connection
        .request("GET", "/health", &[], None)
        .expect("an answer")
        .json();
    assert_eq!(health["log"]["next"], 0, "{health}");
}

#[test]
fn a_flood_of_tls_hellos_from_one_address_delays_no_other_client() {
    /// Hellos that are sent before the first of them is looked at.
    const AT_ONCE: usize = 48;

    let directory = TempDir::new().expect("a directory");
    let (_process, [master, _]) = nodes(directory.path(), &[]);
    let hello = hello();
    assert_eq!(hello.first(), Some(&0x16), "a TLS handshake");
    let alone = Pace::of(master);
    let between = cluster_listener(master);
    let (over, started) = (AtomicBool::new(false), Instant::now());
    let (sent, answered) = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let (mut sent, mut answered) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                let mut streams: Vec<TcpStream> = (0..AT_ONCE)
                    .filter_map(|_| connect_from(GREEDY, between).ok())
                    .filter_map(|mut stream| stream.write_all(&hello).ok().map(|()| stream))
                    .collect();
                sent += streams.len();
                // An answer to a hello shows that the node has computed its part of the handshake.
                for stream in &mut streams {
                    answered += usize::from(matches!(stream.read(&mut [0; 100]), Ok(1..)));
                }
            }
            (sent, answered)
        });
        // The flood ends however the checks end.
        let checked = catch_unwind(AssertUnwindSafe(|| check_costs_nothing(master, alone)));
        over.store(true, Ordering::Relaxed);
        let counts = flood.join().expect("no panic");
        checked.unwrap_or_else(|panic| resume_unwind(panic));
        counts
    });
    let more = started
        .elapsed()
        .div_duration_f64(CLUSTER_HANDSHAKE_INTERVAL_OF_ADDRESS);
    let most = CLUSTER_HANDSHAKE_BURST as usize + more as usize + 1;
    assert!(
        sent > CLUSTER_HANDSHAKE_BURST as usize,
        "{sent} are a flood"
    );
    assert!(
        0 < answered && answered <= most,
        "{answered} of {sent}, at most {most}"
    );
}

/// Returns the address of the first secondary's listener for nodes.
fn cluster_listener(master: SocketAddr) -> SocketAddr {
    let mut connection = Connection::of(connect_from(OTHER, master).expect("a connection"));
    let health = connection.request("GET", "/health", &[], None);
    let health = health.expect("an answer").json();
    let address = health["secondaries"][0]["address"].as_str();
    let address = address.and_then(|address| address.parse().ok());
    address.expect("an address")
}

#[test]
fn clients_and_strangers_together_leave_a_node_files_of_its_own() {
    let directory = TempDir::new().expect("a directory");
    let (process, [master, secondary]) = nodes(directory.path(), &[]);
    let between = cluster_listener(master);
    let mut connection = Connection::of(connect_from(OTHER, master).expect("a connection"));
    let addresses = (10..26).map(|last| Ipv4Addr::new(127, 0, 0, last));
    let all: Vec<TcpStream> = addresses
        .flat_map(|own| [master, secondary, between].map(|to| (own, to)))
        .flat_map(|(own, to)| (0..12).map(move |_| connect_from(own, to)))
        .map(|stream| stream.expect("a connection"))
        .collect();
    // As many as are admitted are open: the rest wait for them, or are refused.
    let metrics = connection
        .request("GET", "/metrics", &[], None)
        .expect("an answer");
    assert_eq!(metrics.status, 200);
    let open = fs::read_dir(format!("/proc/{}/fd", process.id()))
        .expect("it runs")
        .count();
    assert!(open > 150, "{open} of 256 open");
    assert!(open < 256 - 16, "{open} of 256 open");
    drop(all);
    append(master);
}

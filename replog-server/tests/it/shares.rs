//! Connections, waits and memory of one address cost another one nothing.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use tempfile::TempDir;

use crate::{
    http::{ANSWER_TIME_MAX, Connection, JSON, message},
    nodes::{Process, eventually, program_path},
};

/// Who takes all it can get.
const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);
/// Who comes later.
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 8);

/// Connects from an address: on this system all of 127/8 are this machine's.
fn connect_from(own: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(own, 0))?;
    connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
    Ok(stream)
}

/// A cluster of two nodes in one process with 256 open files, and the address of its master.
fn cluster(directory: &Path, flags: &[&str]) -> (Process, SocketAddr) {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 256 && exec \"$0\" \"$@\""]);
    command.arg(program_path("replog-server"));
    command.args(["cluster", "--port", "0", "--secondaries", "1", "--memory"]);
    command.args(flags);
    command.env("RUST_LOG", "info,actix_server=warn");
    let process = Process::run(command, &directory.join("log"));
    let line = process.line();
    let address = line.rsplit_once('/').expect("a URL").1;
    let address = address.parse().expect("an address");
    while process.line() != "ready" {}
    (process, address)
}

/// How long this many appends of the other take, each on a connection of its own.
fn append(address: SocketAddr, count: usize) -> Duration {
    let started = Instant::now();
    for _ in 0..count {
        let stream = connect_from(OTHER, address).expect("a connection");
        let mut connection = Connection::of(stream);
        let body = message("x", "\"all\"");
        let answer = connection.request("POST", "/messages", &[JSON], Some(body.as_bytes()));
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    started.elapsed()
}

/// Appends of the other go on as before, and so do heartbeats.
fn check_costs_nothing(address: SocketAddr, alone: Duration) {
    let beside = append(address, 40);
    // A second: what a busy machine may add to the shortest times.
    assert!(
        beside < alone * 2 + Duration::from_secs(1),
        "{alone:?}, now {beside:?}"
    );
    let stream = connect_from(OTHER, address).expect("a connection");
    let health = Connection::of(stream).request("GET", "/health", &[], None);
    let health = health.expect("an answer").json();
    assert_eq!(health["secondaries"][0]["status"], "Healthy", "{health}");
}

/// Opens connections of the greedy one that send this, until one is refused.
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
        // An open one says nothing, or begins an answer.
        if stream.read_to_end(&mut answer).is_ok() {
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
            assert!(answer.contains("open-files"), "{answer}");
            return taken;
        }
        taken.push(stream);
    }
}

#[test]
fn idle_connections_of_one_address_leave_some_for_others() {
    let directory = TempDir::new().expect("a directory");
    let (_process, address) = cluster(directory.path(), &[]);
    let alone = append(address, 40);
    let taken = take_all(address, b"");
    assert!(taken.len() > 60, "{}", taken.len());
    check_costs_nothing(address, alone);
    drop(taken);
    eventually("its places are free again", || {
        let stream = connect_from(GREEDY, address).ok()?;
        let answer = Connection::of(stream).request("GET", "/livez", &[], None);
        answer
            .is_ok_and(|answer| answer.status == 200)
            .then_some(())
    });
}

#[test]
fn followers_that_never_read_leave_places_for_others() {
    let directory = TempDir::new().expect("a directory");
    let (_process, address) = cluster(directory.path(), &[]);
    let alone = append(address, 40);
    let follow =
        b"GET /messages?follow=true HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n";
    let mut taken = Vec::new();
    for _ in 0..80 {
        let mut stream = connect_from(GREEDY, address).expect("a connection");
        let _ = stream.write_all(follow);
        taken.push(stream);
    }
    check_costs_nothing(address, alone);
    // The other may follow too.
    let mut connection = Connection::of(connect_from(OTHER, address).expect("a connection"));
    connection.send(follow).expect("sent");
    assert_eq!(connection.head().expect("an answer").status, 200);
}

#[test]
fn bodies_that_stall_lose_their_place_when_it_is_needed() {
    let directory = TempDir::new().expect("a directory");
    let flags = ["--max-queued-bytes", "4MiB", "--max-request-bytes", "2MiB"];
    let (_process, address) = cluster(directory.path(), &flags);
    let alone = append(address, 40);
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
    // As long a body of the same client gets through, too, once the others have stood still.
    eventually("there is room for one that moves", || {
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

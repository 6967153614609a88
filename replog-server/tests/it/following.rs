//! Following: reads that go on as the log grows, on every node, across stops, kills and cuts.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::mpsc::{Receiver, channel},
    thread,
};

use replog_core::{
    client::{Client, ClientError},
    types::Offset,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

use crate::{
    http::{ANSWER_TIME_MAX, JSON, get, message, post, request},
    nodes::{Cluster, Node, PATIENCE, Process, eventually, program},
};

const NDJSON: &str = "application/x-ndjson";
const EVENTS: &str = "text/event-stream";

/// An answer that is read as it arrives.
pub(crate) struct Body {
    stream: BufReader<TcpStream>,
    /// Bytes that came and do not form a complete line yet.
    part: Vec<u8>,
    ended: bool,
}

impl Body {
    /// Asks for a stream, and reads the head of the answer.
    fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Body {
        let stream = TcpStream::connect_timeout(&address, ANSWER_TIME_MAX).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        (&stream)
            .write_all(format!("{head}\r\n").as_bytes())
            .expect("sent");
        let mut body = Body {
            stream: BufReader::new(stream),
            part: Vec::new(),
            ended: false,
        };
        let status = body.head_line().expect("a status line");
        assert!(status.starts_with("HTTP/1.1 200"), "{path}: {status}");
        loop {
            let header = body.head_line().expect("a header");
            if header.is_empty() {
                break;
            }
            // A short read that ends has a length and no chunks.
            if let Some(length) = header.strip_prefix("content-length: ") {
                body.part.resize(length.parse().expect("a length"), 0);
                body.ended = true;
            }
        }
        body.stream
            .read_exact(&mut body.part)
            .expect("a whole body");
        body
    }

    fn head_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Returns the next line; `None` if the body ends properly.
    pub(crate) fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.part.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.part.drain(..=at).collect();
                let line = String::from_utf8(line).expect("UTF-8");
                return Some(line.trim_end_matches('\n').to_owned());
            }
            if self.ended {
                assert!(self.part.is_empty(), "a part of a line");
                return None;
            }
            let size = self.head_line().expect("a chunk");
            let size = usize::from_str_radix(&size, 16).expect("a size");
            let begin = self.part.len();
            self.part.resize(begin + size, 0);
            self.stream
                .read_exact(&mut self.part[begin..])
                .expect("a whole chunk");
            self.head_line().expect("the chunk's end");
            self.ended = size == 0;
        }
    }

    /// Returns the next line as JSON.
    pub(crate) fn json(&mut self) -> Value {
        let line = self.line().expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Returns the next event, without comments: its name, its id and its data.
    pub(crate) fn event(&mut self) -> (String, Option<String>, Value) {
        let (mut name, mut id, mut data) = ("message".to_owned(), None, None);
        loop {
            let line = self.line().expect("a line of an event");
            if line.is_empty() {
                if let Some(data) = data {
                    return (name, id, data);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => {}
                "event" => name = value.to_owned(),
                "id" => id = Some(value.to_owned()),
                "data" => data = Some(serde_json::from_str(value).expect("JSON on one line")),
                _ => panic!("an unknown field: {line}"),
            }
        }
    }
}

pub(crate) fn lines(address: SocketAddr, path: &str) -> Body {
    Body::open(address, path, &[("accept", NDJSON)])
}

pub(crate) fn events(address: SocketAddr, path: &str, had: Option<&str>) -> Body {
    let mut headers = vec![("accept", EVENTS)];
    headers.extend(had.map(|had| ("Last-Event-ID", had)));
    Body::open(address, path, &headers)
}

fn offset(message: &Value) -> u64 {
    message["offset"]
        .as_u64()
        .unwrap_or_else(|| panic!("no message: {message}"))
}

#[test]
fn live_appends_are_followed_on_every_node_in_lines_and_in_events() {
    let cluster = Cluster::start(1, &[]);
    assert_eq!(cluster.append("before", 2).status, 201);
    for address in [cluster.master.address, cluster.secondaries[0].address] {
        let from = offset(&lines(address, "/messages?last=1").json()) + 1;
        let mut lines = lines(address, &format!("/messages?follow=true&from={from}"));
        let path = format!("/messages?follow=true&from={from}&level=committed&view=data");
        let mut events = events(address, &path, None);
        for number in 0..20 {
            let text = format!("live-{number}");
            assert_eq!(cluster.append(&text, 2).status, 201);
            let message = lines.json();
            assert_eq!(
                (offset(&message), &message["data"]),
                (from + number, &json!(text))
            );
            let (name, id, data) = events.event();
            assert_eq!((name.as_str(), data), ("message", json!(text)));
            assert_eq!(id, Some((from + number).to_string()));
        }
        let batch = "1\n2\n3\n";
        let headers = [("content-type", NDJSON)];
        let answer = request(
            cluster.master.address,
            "POST",
            "/messages",
            &headers,
            Some(batch.as_bytes()),
        );
        assert_eq!(answer.expect("an answer").status, 201);
        for number in 1..4 {
            assert_eq!(lines.json()["data"], number);
            assert_eq!(events.event().2, number);
        }
    }
}

#[test]
fn a_browser_that_reconnects_resumes_after_its_last_event() {
    let cluster = Cluster::start(1, &["--memory"]);
    let path = "/messages?follow=true&from=1";
    let mut had = None;
    let mut seen = Vec::new();
    for round in 0..4 {
        for number in 0..3 {
            assert_eq!(cluster.append(&format!("{round}-{number}"), 2).status, 201);
        }
        // The same URL each time, first on one node and then on the other.
        let nodes = [cluster.master.address, cluster.secondaries[0].address];
        let mut events = events(nodes[round % 2], path, had.as_deref());
        let wanted = if round == 0 { 2 } else { 3 };
        for _ in 0..wanted {
            let (_, id, message) = events.event();
            seen.push(offset(&message));
            had = id;
        }
    }
    assert_eq!(seen, (1..12).collect::<Vec<_>>());
    // Without `follow` the stream ends where the log does.
    let mut rest = events(cluster.master.address, "/messages?from=0", Some("10"));
    assert_eq!(offset(&rest.event().2), 11);
    assert_eq!(rest.line(), None);
}

#[test]
fn a_stopping_node_says_so_to_all_followers() {
    let mut cluster = Cluster::start(1, &[]);
    assert_eq!(cluster.append("a", 2).status, 201);
    let mut addresses = vec![cluster.secondaries[0].address, cluster.master.address];
    while let Some(address) = addresses.pop() {
        let path = "/messages?follow=true";
        let mut all_lines: Vec<Body> = (0..20).map(|_| lines(address, path)).collect();
        let mut all_events: Vec<Body> = (0..20).map(|_| events(address, path, None)).collect();
        let mut bare = lines(address, &format!("{path}&view=data"));
        for lines in &mut all_lines {
            assert_eq!(lines.json()["data"], "a");
        }
        assert_eq!(bare.json(), "a");
        match addresses.is_empty() {
            true => cluster.secondaries[0].terminate(),
            false => cluster.master.terminate(),
        }
        for lines in &mut all_lines {
            assert_eq!(lines.json(), json!({"event": "bye"}));
            assert_eq!(lines.line(), None);
        }
        for events in &mut all_events {
            assert_eq!(events.event().2["data"], "a");
            let (name, id, data) = events.event();
            assert_eq!((name.as_str(), id), ("bye", None), "{data}");
            assert_eq!(events.line(), None);
        }
        assert_eq!(bare.line(), None, "nothing but data");
    }
}

/// Collects the output of a follower of the library until it is no longer wanted.
fn follow(node: &Node, from: u64) -> Receiver<Result<(u64, String), ClientError>> {
    let (sender, told) = channel();
    let url = format!("http://{}", node.address);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut follow = Client::new(&url).expect("a URL").follow(Offset(from));
            loop {
                let message = follow.next().await;
                let message = message.map(|message| (message.offset.0, message.data.to_string()));
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
    });
    told
}

#[test]
fn a_client_follows_a_node_across_kills_and_gets_every_offset_once() {
    let mut cluster = Cluster::start(2, &[]);
    let told = [
        follow(&cluster.secondaries[0], 0),
        follow(&cluster.master, 0),
    ];
    let mut seen = [Vec::new(), Vec::new()];
    for round in 0..4 {
        for number in 0..25 {
            let text = format!("{round}-{number}");
            // Refused, or of unknown outcome, while the master starts: only what is in the log counts.
            eventually("it is appended", || {
                (cluster.append(&text, 2).status == 201).then_some(())
            });
        }
        // In the middle of the load.
        for (told, seen) in told.iter().zip(&mut seen) {
            while seen.len() < 10 * (round + 1) {
                seen.push(
                    told.recv_timeout(PATIENCE)
                        .expect("a message")
                        .expect("no error"),
                );
            }
        }
        if round == 3 {
            break;
        }
        cluster.secondaries[0].kill();
        cluster.secondaries[0].start();
        if round == 1 {
            cluster.master.kill();
            cluster.master.start();
        }
    }
    let end = cluster.wait_equal();
    let expected: Vec<(u64, String)> = cluster
        .master
        .messages()
        .iter()
        .map(|message| (offset(message), message["data"].to_string()))
        .collect();
    assert_eq!(expected.len() as u64, end);
    for (told, seen) in told.iter().zip(&mut seen) {
        while seen.len() < expected.len() {
            seen.push(
                told.recv_timeout(PATIENCE)
                    .expect("a message")
                    .expect("no error"),
            );
        }
        assert_eq!(*seen, expected, "every offset once, in order");
    }
}

#[test]
fn a_client_that_waits_for_an_offset_reads_its_own_write_on_a_secondary() {
    let cluster = Cluster::start(2, &["--allow-faults"]);
    let secondary = &cluster.secondaries[1];
    for number in 0..50 {
        let answer = cluster.append(&format!("own-{number}"), 1);
        assert_eq!(answer.status, 201);
        let own = offset(&answer.json());
        let read = get(
            secondary.address,
            &format!("/messages?from={own}&wait_for={own}"),
        );
        assert_eq!(read.status, 200);
        assert_eq!(read.json()["messages"][0]["data"], format!("own-{number}"));
    }
    // An offset that does not reach it.
    secondary.set_faults(r#"{"block_replication":true}"#);
    let own = offset(&cluster.append("late", 2).json());
    let path = format!("/messages?from={own}&wait_for={own}");
    let none = get(secondary.address, &format!("{path}&timeout_ms=30"));
    assert_eq!(
        (none.status, none.problem().as_str()),
        (404, "/problems/no-such-offset")
    );
    assert_eq!(none.json()["next"], own);
    let (address, waits) = (secondary.address, path.clone());
    let read = thread::spawn(move || get(address, &waits).json());
    secondary.set_faults("{}");
    let read = read.join().expect("an answer");
    assert_eq!(read["messages"][0]["data"], "late");
    // The same by the message itself, on the master.
    let answer = get(
        cluster.master.address,
        &format!("/messages/{own}?concern=3&timeout_ms=60000"),
    );
    assert_eq!(
        (answer.status, &answer.json()["concern_met"]),
        (200, &true.into())
    );
}

#[test]
fn a_cut_of_a_record_that_was_sent_ends_the_stream_with_cut() {
    let mut cluster = Cluster::start(4, &["--allow-faults"]);
    assert_eq!(cluster.append("a", 5).status, 201);
    let shown = cluster.secondaries[0].address;
    let path = "/messages?follow=true";
    let (mut lines, mut events) = (lines(shown, path), events(shown, path, None));
    let told = follow(&cluster.secondaries[0], 0);
    // The second message reaches a minority.
    for secondary in &cluster.secondaries[1..] {
        secondary.set_faults(r#"{"block_replication":true}"#);
    }
    assert_eq!(cluster.append("lost", 2).status, 201);
    for expected in ["a", "lost"] {
        assert_eq!(lines.json()["data"], expected);
        assert_eq!(events.event().2["data"], expected);
        let message = told.recv_timeout(PATIENCE).expect("a message");
        assert_eq!(message.expect("no error").1, json!(expected).to_string());
    }
    // That minority is the master's disk, which is lost, and a node that is isolated.
    cluster.secondaries[0].set_faults(r#"{"isolate":true}"#);
    cluster.master.kill();
    fs::remove_dir_all(&cluster.master.directory).expect("a directory");
    for secondary in &cluster.secondaries[1..] {
        secondary.set_faults("{}");
    }
    cluster.master.start();
    cluster.wait_read_write();
    assert_eq!(cluster.append("instead", 4).status, 201);
    cluster.secondaries[0].set_faults("{}");
    assert_eq!(lines.json(), json!({"event": "cut", "offset": 1}));
    assert_eq!(lines.line(), None);
    let (name, id, data) = events.event();
    assert_eq!((name.as_str(), id.as_deref()), ("cut", Some("0")));
    assert_eq!(data["offset"], 1);
    assert_eq!(events.line(), None);
    match told.recv_timeout(PATIENCE).expect("something") {
        Err(ClientError::Cut { offset: Offset(1) }) => {}
        other => panic!("{other:?}"),
    }
    let message = told.recv_timeout(PATIENCE).expect("a message");
    assert_eq!(message.expect("no error"), (1, "\"instead\"".to_owned()));
}

#[test]
fn a_follower_that_stops_reading_resumes_from_the_log() {
    let cluster = Cluster::start(1, &[]);
    let address = cluster.secondaries[0].address;
    let mut slow = lines(address, "/messages?follow=true");
    // More than the node keeps in memory, and far more than a socket buffers.
    let (count, text) = (40, "x".repeat(500_000));
    for number in 0..count {
        let body = format!(r#"{{"data":[{number},"{text}"],"meta":{{"concern":2}}}}"#);
        assert_eq!(post(cluster.master.address, &body).status, 201);
    }
    for number in 0..count {
        assert_eq!(slow.json()["data"][0], number);
    }
    assert_eq!(cluster.append("and now", 2).status, 201);
    assert_eq!(slow.json()["data"], "and now");
}

/// Starts a cluster in one process that may have few files open. Returns it and the addresses of its nodes.
fn cluster_of_few_files(files: u64, secondaries: usize) -> (Process, Vec<SocketAddr>, TempDir) {
    let directory = TempDir::new().expect("a temporary directory");
    let program = program();
    let mut command = Command::new("sh");
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\"")])
        .arg(program.get_program())
        .args(["cluster", "--port", "0", "--memory", "--allow-faults"])
        .args(["--secondaries", &secondaries.to_string()]);
    let process = Process::run(command, &directory.path().join("log"));
    let addresses = (0..=secondaries).map(|_| {
        let line = process.line();
        let (_, url) = line.split_once(" http://").expect("a URL");
        url.parse().expect("an address")
    });
    let addresses = addresses.collect();
    assert_eq!(process.line(), "ready");
    (process, addresses, directory)
}

/// Opens a connection on which this is sent and nothing is read.
fn sent(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIME_MAX).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

/// Reports whether a new follower gets a slot.
fn is_room(address: SocketAddr) -> bool {
    let follow = "GET /messages?follow=true HTTP/1.1\r\nhost: localhost\r\n";
    let stream = sent(address, &format!("{follow}accept: {NDJSON}\r\n\r\n"));
    let mut status = String::new();
    BufReader::new(stream)
        .read_line(&mut status)
        .expect("an answer");
    match status.split(' ').nth(1) {
        Some("200") => true,
        Some("429") => false,
        _ => panic!("{status}"),
    }
}

#[test]
fn a_waiting_client_that_disconnects_frees_its_slot() {
    let (_process, nodes, _directory) = cluster_of_few_files(512, 2);
    for secondary in &nodes[1..] {
        let faults = br#"{"block_replication":true}"#;
        let answer = request(*secondary, "PUT", "/faults", &[JSON], Some(faults));
        assert_eq!(answer.expect("an answer").status, 200);
    }
    assert_eq!(post(nodes[0], &message("held by one", 1)).status, 201);
    let append = message("waits", 2);
    let waits = [
        "GET /messages?wait_for=99999999 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        "GET /messages/0?concern=all HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        format!(
            "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{append}",
            append.len()
        ),
    ];
    for wait in waits {
        let mut waiting = Vec::new();
        while is_room(nodes[0]) {
            assert!(waiting.len() < 512, "there is always room: {wait}");
            waiting.extend([(); 10].map(|()| sent(nodes[0], &wait)));
        }
        drop(waiting);
        eventually("there is room again", || is_room(nodes[0]).then_some(()));
    }
}

#[test]
fn followers_of_all_nodes_of_one_process_leave_files_for_other_clients() {
    let (_process, nodes, _directory) = cluster_of_few_files(512, 2);
    let mut following = Vec::new();
    let follow = format!(
        "GET /messages?follow=true HTTP/1.1\r\nhost: localhost\r\naccept: {NDJSON}\r\n\r\n"
    );
    for node in &nodes {
        while is_room(*node) {
            following.extend([(); 10].map(|()| sent(*node, &follow)));
            assert!(following.len() < 512, "there is always room");
        }
    }
    for node in &nodes {
        assert_eq!(get(*node, "/health").status, 200);
    }
    assert_eq!(post(nodes[0], &message("beside them", 3)).status, 201);
}

#[test]
fn a_thousand_followers_get_everything() {
    const FOLLOWERS: usize = 1_000;
    const MESSAGES: u64 = 60;
    // Each is one file here, and one at its node.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("allowed");
    let cluster = Cluster::start(1, &[]);
    let nodes = [cluster.master.address, cluster.secondaries[0].address];
    let (following, all_follow) = channel();
    let followers = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut followers = tokio::task::JoinSet::new();
            for number in 0..FOLLOWERS {
                let stream = follow_raw(nodes[number % 2]).await;
                followers.spawn(count_messages(stream, MESSAGES));
            }
            following.send(()).expect("the test waits");
            while let Some(counted) = followers.join_next().await {
                counted.expect("it got all of them");
            }
        });
    });
    all_follow
        .recv_timeout(PATIENCE)
        .expect("all of them follow");
    for number in 0..MESSAGES {
        assert_eq!(cluster.append(&format!("m{number}"), 2).status, 201);
    }
    // They delay no other client.
    assert_eq!(get(nodes[0], "/health").status, 200);
    followers.join().expect("all of them got everything");
}

type AsyncBody = tokio::io::BufReader<tokio::net::TcpStream>;

/// Follows from the beginning. Returns once the answer's head was read.
async fn follow_raw(address: SocketAddr) -> AsyncBody {
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("a connection");
    let request = format!(
        "GET /messages?follow=true HTTP/1.1\r\nhost: localhost\r\naccept: {NDJSON}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut stream = AsyncBody::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).await.expect("a head");
    }
    stream
}

/// Reads this many messages and checks their order. Sizes of chunks are lines too.
async fn count_messages(mut stream: AsyncBody, count: u64) {
    let mut expected = 0;
    while expected < count {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_line(&mut line)).await;
        assert!(read.expect("in time").expect("no error") > 0, "it ended");
        let Some(rest) = line.trim_start().strip_prefix("{\"offset\":") else {
            continue;
        };
        let digits = rest.split(',').next().expect("a number");
        assert_eq!(digits.parse(), Ok(expected), "{line}");
        expected += 1;
    }
}

//! A position is valid within one log only: a node that comes back with another log says so to every client that
//! holds a position in the old one.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    following::{events, lines},
    http::{Answer, JSON, get, post, request},
    nodes::{PATIENCE, Process, client, eventually, free_port},
};

/// A node without a disk: each start founds another log.
pub(crate) struct Forgetful {
    pub(crate) address: SocketAddr,
    process: Option<Process>,
    directory: TempDir,
}

impl Forgetful {
    pub(crate) fn start() -> Forgetful {
        let mut node = Forgetful {
            address: SocketAddr::from(([127, 0, 0, 1], free_port())),
            process: None,
            directory: TempDir::new().expect("a temporary directory"),
        };
        node.restart();
        node
    }

    /// Starts the node, or kills it as a power cut would and starts it again.
    pub(crate) fn restart(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        let port = self.address.port().to_string();
        let args = [
            "cluster",
            "--secondaries",
            "0",
            "--memory",
            "--port",
            &port,
            "--allow-faults",
        ];
        let process = Process::start(&args, &self.directory.path().join("log"));
        while process.line() != "ready" {}
        self.process = Some(process);
    }

    /// Appends these numbers.
    pub(crate) fn append(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let body = json!({ "data": number }).to_string();
            assert_eq!(post(self.address, &body).status, 201);
        }
    }

    fn log(&self) -> String {
        let health = get(self.address, "/health").json();
        health["cluster_id"].as_str().expect("a log").to_owned()
    }

    fn replog(&self, args: &[&str]) -> Command {
        let mut command = client();
        command.env("REPLOG_URL", format!("http://{}", self.address));
        command.args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.replog(args).output().expect("the program runs")
    }

    /// Builds a request whose offsets belong to this log.
    fn ask_in(&self, log: &str, method: &str, path: &str, body: Option<&str>) -> Answer {
        let headers = [JSON, ("replog-cluster", log)];
        let body = body.map(str::as_bytes);
        request(self.address, method, path, &headers, body).expect("an answer")
    }
}

/// A program that keeps running, and its output.
struct Following {
    child: Child,
    out: Receiver<String>,
    said: Receiver<String>,
}

impl Following {
    fn start(mut command: Command) -> Following {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let out = heard(child.stdout.take().expect("a pipe"));
        let said = heard(child.stderr.take().expect("a pipe"));
        Following { child, out, said }
    }

    /// Returns offset and data of the next messages.
    fn messages(&self, count: usize) -> Vec<(u64, u64)> {
        let message = |line: String| -> Option<(u64, u64)> {
            let line: Value = serde_json::from_str(&line).ok()?;
            Some((line["offset"].as_u64()?, line["data"].as_u64()?))
        };
        let next = || self.out.recv_timeout(PATIENCE).expect("a line");
        (0..count)
            .map(|_| message(next()).expect("a message"))
            .collect()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn heard(pipe: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, heard) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    heard
}

/// Returns offsets and data of consecutive numbers, the first of them at offset 0.
fn numbered(numbers: std::ops::Range<u64>) -> Vec<(u64, u64)> {
    let first = numbers.start;
    numbers.map(|number| (number - first, number)).collect()
}

#[test]
fn a_follower_is_told_of_another_log_and_gets_it_from_its_start() {
    let mut node = Forgetful::start();
    node.append(0..3);
    let following = Following::start(node.replog(&["read", "--follow"]));
    assert_eq!(following.messages(3), numbered(0..3));
    // First longer than the old log, then shorter.
    for numbers in [100..106, 200..202] {
        node.restart();
        node.append(numbers.clone());
        let count = (numbers.end - numbers.start) as usize;
        assert_eq!(following.messages(count), numbered(numbers));
        let log = node.log();
        let told = eventually("another log is told", || {
            let line = following.said.recv_timeout(PATIENCE).ok()?;
            line.contains("another log").then_some(line)
        });
        assert!(told.contains(&log), "{told}");
    }
}

#[test]
fn an_event_stream_that_names_its_log_reports_another_one() {
    let mut node = Forgetful::start();
    node.append(0..3);
    let log = node.log();
    let path = format!("/messages?follow=true&cluster_id={log}");
    let mut stream = events(node.address, &path, None);
    for number in 0..3 {
        assert_eq!(stream.event().1, Some(number.to_string()));
    }
    node.restart();
    node.append(100..106);
    let notice = json!({ "event": "another_log", "cluster_id": node.log() });
    let mut stream = events(node.address, &path, Some("2"));
    assert_eq!(
        stream.event(),
        (
            "another_log".to_owned(),
            Some(String::new()),
            notice.clone()
        )
    );
    for (offset, number) in numbered(100..106) {
        let (_, id, message) = stream.event();
        assert_eq!(
            (id, &message["data"]),
            (Some(offset.to_string()), &json!(number))
        );
    }
    let mut stream = lines(node.address, &format!("{path}&from=3"));
    assert_eq!(stream.json(), notice);
    assert_eq!(stream.json()["data"], 100);
    // A stream of bare data cannot express it.
    let headers = [("accept", "application/x-ndjson")];
    let path = format!("{path}&view=data");
    let refused = request(node.address, "GET", &path, &headers, None).expect("an answer");
    assert_eq!(
        (refused.status, refused.problem()),
        (412, "/problems/another-log".to_owned())
    );
}

#[test]
fn every_offset_of_another_log_is_refused_if_the_request_names_its_log() {
    let mut node = Forgetful::start();
    node.append(0..3);
    let log = node.log();
    let append = json!({"data": 3, "meta": {"expected_offset": 3}}).to_string();
    let answer = node.ask_in(&log, "POST", "/messages", Some(&append));
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("replog-cluster"), Some(&*log));
    let reads = [
        "/messages?from=2",
        "/messages?wait_for=2",
        "/messages?last=1",
        "/messages/2",
        "/messages/2?concern=1",
    ];
    for path in reads {
        let answer = node.ask_in(&log, "GET", path, None);
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("replog-cluster"), Some(&*log), "{path}");
    }
    node.restart();
    node.append(100..103);
    let own = node.log();
    let appends = [append.as_str(), r#"{"data": 3}"#];
    let asked = reads.map(|path| ("GET", path, None)).into_iter();
    for (method, path, body) in asked.chain(appends.map(|body| ("POST", "/messages", Some(body)))) {
        let answer = node.ask_in(&log, method, path, body);
        assert_eq!(
            (answer.status, answer.problem()),
            (412, "/problems/another-log".to_owned()),
            "{path}"
        );
        assert_eq!(answer.json()["cluster_id"], own, "{path}");
        assert_eq!(answer.header("replog-cluster"), Some(&*own), "{path}");
        if method == "POST" {
            assert_eq!(answer.json()["outcome"], "not_appended");
        }
    }
    let bad = [
        (("replog-cluster", "x"), ""),
        (JSON, "?cluster_id=7"),
        (("replog-cluster", &*own), &*format!("?cluster_id={log}")),
    ];
    for (header, query) in bad {
        let path = format!("/messages{query}");
        let answer = request(node.address, "GET", &path, &[header], None).expect("an answer");
        assert_eq!(answer.status, 400, "{path}");
    }
    let next = get(node.address, "/health").json()["log"]["next"].clone();
    assert_eq!(next, 3, "nothing was appended");
}

#[test]
fn programs_that_resume_from_a_position_do_so_only_in_its_log() {
    let mut node = Forgetful::start();
    node.append(0..3);
    let log = node.log();
    let position = format!("1@{log}");
    for args in [
        &["read", "--from", &position] as &[&str],
        &["export", "--from", &position],
        &["wait", &position],
    ] {
        let output = node.run(args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    let mut importing = node
        .replog(&["import", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut file = importing.stdin.take().expect("a pipe");
    let line = |offset: u64| {
        format!(r#"{{"offset":{offset},"epoch":1,"timestamp_ms":5,"data":{offset}}}"#) + "\n"
    };
    // More than two batches: once the second one is there, the first one's answer has named the log.
    for offset in 0..1_100 {
        file.write_all(line(offset).as_bytes()).expect("it reads");
    }
    eventually("two batches are imported", || {
        let next = get(node.address, "/health").json()["log"]["next"].clone();
        (next == 1_003).then_some(())
    });
    node.restart();
    node.append(100..103);
    drop(file);
    let output = importing.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&log) && said.contains("without --from"),
        "{said}"
    );
    for args in [
        &["read", "--from", &position] as &[&str],
        &["export", "--from", &position],
        &["wait", &position],
    ] {
        let output = node.run(args);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("another log"), "{said}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    // A client that follows from a position is told, and gets all of the new log.
    let following = Following::start(node.replog(&["read", "--follow", "--from", &position]));
    assert_eq!(following.messages(3), numbered(100..103));
}

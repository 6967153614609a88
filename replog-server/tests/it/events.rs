//! `GET /events`: every node reports changes as they happen, until it stops.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    http::{ANSWER_TIME_MAX, Connection, get, request},
    nodes::{Cluster, PATIENCE},
};

/// A reader of event streams that also checks their text.
pub(crate) struct Listener {
    stream: BufReader<TcpStream>,
    /// Bytes that came and were not taken yet.
    text: String,
    /// True once the body has ended properly.
    complete: bool,
}

impl Listener {
    /// Sends the request, and waits until the node listens for events.
    pub(crate) fn open(address: SocketAddr) -> Listener {
        let mut listener = Listener::ask(address);
        let greeting = listener.block().expect("a greeting");
        assert_eq!(greeting, ": listening");
        listener
    }

    /// Sends the request, and reads only the head of the answer.
    fn ask(address: SocketAddr) -> Listener {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream
            .set_read_timeout(Some(ANSWER_TIME_MAX))
            .expect("a time-out that is not 0");
        let head = "GET /events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("sent");
        let mut listener = Listener {
            stream: BufReader::new(stream),
            text: String::new(),
            complete: false,
        };
        assert_eq!(listener.line(), "HTTP/1.1 200 OK");
        let head: Vec<String> = std::iter::from_fn(|| Some(listener.line()))
            .take_while(|line| !line.is_empty())
            .collect();
        for expected in [
            "content-type: text/event-stream",
            "cache-control: no-store",
            "transfer-encoding: chunked",
        ] {
            assert!(head.iter().any(|line| line == expected), "{head:?}");
        }
        listener
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line");
        line.trim_end_matches("\r\n").to_owned()
    }

    /// Returns the next lines up to an empty one; `None` at the end of the body.
    fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Some(block);
            }
            if self.complete {
                assert_eq!(self.text, "", "an event in part at the end");
                return None;
            }
            let size = usize::from_str_radix(&self.line(), 16).expect("a chunk");
            let mut chunk = vec![0; size];
            self.stream.read_exact(&mut chunk).expect("a whole chunk");
            assert_eq!(self.line(), "");
            self.text.push_str(str::from_utf8(&chunk).expect("UTF-8"));
            self.complete = size == 0;
        }
    }

    /// Returns the next event, its kind and its data; `None` at the end of the body.
    pub(crate) fn next(&mut self) -> Option<(String, Value)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let block = self.block()?;
            if block.starts_with(':') {
                assert!(Instant::now() < deadline, "nothing but comments");
                continue;
            }
            let (kind, data) = block.split_once('\n').expect("two lines");
            let kind = kind.strip_prefix("event: ").expect("an event");
            let data = data.strip_prefix("data: ").expect("data");
            let data = serde_json::from_str(data).unwrap_or_else(|e| panic!("{data}: {e}"));
            return Some((kind.to_owned(), data));
        }
    }

    /// Returns the first event from now on of this kind that `wanted` accepts.
    fn find(&mut self, kind: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let [found] = self.find_each(|found, data| (found == kind && wanted(data)).then_some(0));
        found
    }

    /// Returns the first event from now on for each of the places that `place` assigns, in whatever order they come.
    fn find_each<const N: usize>(
        &mut self,
        mut place: impl FnMut(&str, &Value) -> Option<usize>,
    ) -> [Value; N] {
        let deadline = Instant::now() + PATIENCE;
        let mut found = [const { None }; N];
        while found.iter().any(Option::is_none) {
            let (kind, data) = self.next().expect("the node goes on");
            assert!(Instant::now() < deadline, "found {found:?}");
            assert_ne!(kind, "missed", "{data}");
            assert!(data["at_ms"].as_u64() > Some(1_600_000_000_000), "{data}");
            assert!(data["node"].is_string(), "{data}");
            if let Some(at) = place(&kind, &data) {
                found[at].get_or_insert(data);
            }
        }
        found.map(|data| data.expect("all were found"))
    }
}

#[test]
fn a_killed_secondary_is_reported_step_by_step_until_it_has_caught_up() {
    let mut cluster = Cluster::start(2, &[]);
    cluster.wait_healthy();
    let mut events = Listener::open(cluster.master.address);
    cluster.secondaries[1].kill();
    let mut steps = Vec::new();
    let (mut retries, killed) = (0, cluster.secondaries[1].name.clone());
    while steps.len() < 2 {
        let (kind, data) = events.next().expect("the node goes on");
        if data["node"] != killed {
            continue;
        }
        match kind.as_str() {
            "retry" => {
                retries += 1;
                assert_eq!(data["attempt"], retries, "{data}");
                assert_eq!(data["reason"], "connection_refused", "{data}");
                assert!(data["next_retry_ms"].is_u64(), "{data}");
            }
            "status" => {
                assert_eq!(data["reason"], "connection_refused", "{data}");
                steps.push((data["from"].clone(), data["to"].clone()));
            }
            _ => {}
        }
    }
    let step = |from: &str, to: &str| (Value::from(from), Value::from(to));
    let expected = [step("Healthy", "Suspected"), step("Suspected", "Unhealthy")];
    assert_eq!(steps, expected);
    assert!(retries > 0);

    assert_eq!(cluster.append("without it", 2).status, 201);
    let appended = events.find("append", |_| true);
    assert_eq!(appended["node"], "master");
    assert_eq!(
        (&appended["from"], &appended["next"]),
        (&0.into(), &1.into())
    );
    events.find("ack", |data| {
        data["node"] == "secondary-1" && data["durable_end"] == 1
    });

    cluster.secondaries[1].start();
    let back = events.find("status", |data| data["node"] == killed);
    assert_eq!(
        (&back["from"], &back["to"]),
        (&"Unhealthy".into(), &"Healthy".into())
    );
    events.find("ack", |data| {
        data["node"] == killed && data["durable_end"] == 1
    });
}

#[test]
fn isolation_is_reported_by_the_isolated_node_and_by_its_master() {
    let cluster = Cluster::start(2, &["--allow-faults"]);
    cluster.wait_healthy();
    let secondary = &cluster.secondaries[0];
    let mut own = Listener::open(secondary.address);
    let mut masters = Listener::open(cluster.master.address);
    secondary.set_faults(r#"{"isolate":true}"#);
    let set = own.find("fault", |data| data.get("faults").is_some());
    assert_eq!(set["node"], "secondary-1");
    assert_eq!(set["faults"]["isolate"], true);
    let happened = own.find("fault", |data| data.get("fault").is_some());
    assert_eq!(happened["fault"], "isolate");
    assert!(happened["count"].as_u64() >= Some(1), "{happened}");
    let _: [Value; 2] = masters.find_each(|kind, data| match kind {
        _ if data["node"] != "secondary-1" => None,
        "retry" if data["reason"] == "timed_out" => Some(0),
        "status" if data["to"] == "Unhealthy" => Some(1),
        _ => None,
    });

    // Without both it has no majority.
    cluster.secondaries[1].set_faults(r#"{"isolate":true}"#);
    let mode = masters.find("mode", |_| true);
    assert_eq!(mode["node"], "master");
    assert_eq!(
        (&mode["mode"], &mode["mode_reason"]),
        (&"read-only".into(), &"no_quorum".into())
    );
    assert!(mode["detail"].is_string(), "{mode}");
    for secondary in &cluster.secondaries {
        secondary.set_faults("{}");
    }
    // The first one that is back completes the majority.
    let [mode, back] = masters.find_each(|kind, data| match kind {
        "mode" => Some(0),
        "status" if data["node"] == "secondary-1" => Some(1),
        _ => None,
    });
    assert_eq!(
        (&mode["mode"], &mode["mode_reason"]),
        (&"read-write".into(), &Value::Null)
    );
    assert_eq!(back["to"], "Healthy");
}

#[test]
fn a_secondary_reports_the_new_epoch_when_its_master_restarts() {
    let mut cluster = Cluster::start(1, &[]);
    let before = cluster.secondaries[0].health()["epoch"].as_u64();
    let mut events = Listener::open(cluster.secondaries[0].address);
    cluster.master.kill();
    cluster.master.start();
    let promised = events.find("epoch", |_| true);
    assert_eq!(
        (&promised["node"], &promised["master"]),
        (&"secondary-1".into(), &"master".into())
    );
    assert!(promised["epoch"].as_u64() > before, "{promised}");
}

#[test]
fn a_client_that_does_not_read_misses_events_and_the_node_goes_on() {
    let cluster = Cluster::start(1, &["--allow-faults"]);
    let master = cluster.master.address;
    let mut slow = Listener::ask(master);
    // More than sockets buffer: each set of faults is an event, and requests may follow each other closely.
    let body = r#"{"error_before_append":0.123456789,"error_after_append":0.123456789}"#;
    let put = format!(
        "PUT /faults HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = Connection::open(master).expect("a connection");
    let (rounds, requests) = (60, 500);
    for _ in 0..rounds {
        connection
            .send(put.repeat(requests).as_bytes())
            .expect("sent");
        for _ in 0..requests {
            assert_eq!(connection.answer().expect("an answer").status, 200);
        }
    }
    assert_eq!(cluster.append("meanwhile", 2).status, 201);
    let (mut told, mut missed) = (0, 0);
    while told + missed < rounds * requests as u64 {
        let (kind, data) = slow.next().expect("the node goes on");
        match kind.as_str() {
            "missed" => missed += data["count"].as_u64().expect("a count"),
            "fault" => told += 1,
            _ => {}
        }
    }
    assert!(missed > 0 && told > 0, "told {told}, missed {missed}");
    // It goes on with new events.
    assert_eq!(cluster.append("afterwards", 2).status, 201);
    slow.find("append", |data| data["next"] == 2);
}

#[test]
fn a_stopping_node_says_goodbye_and_waits_for_no_listener() {
    let mut cluster = Cluster::start(1, &[]);
    for of_master in [false, true] {
        let node = match of_master {
            true => &mut cluster.master,
            false => &mut cluster.secondaries[0],
        };
        let mut listeners: Vec<Listener> = (0..20).map(|_| Listener::open(node.address)).collect();
        let started = Instant::now();
        node.terminate();
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{:?}",
            started.elapsed()
        );
        for listener in &mut listeners {
            let (mut last, mut kind) = (Value::Null, String::new());
            while let Some((next, data)) = listener.next() {
                (last, kind) = (data, next);
            }
            assert_eq!(
                (kind.as_str(), &last["node"]),
                ("bye", &node.name.clone().into())
            );
        }
    }
}

#[test]
fn invalid_requests_for_events_are_refused() {
    let cluster = Cluster::start(1, &[]);
    for node in [cluster.master.address, cluster.secondaries[0].address] {
        let answer = get(node, "/events?from=1");
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (400, "/problems/malformed")
        );
        let json = [("accept", "application/json")];
        let answer = request(node, "GET", "/events", &json, None).expect("an answer");
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (406, "/problems/not-acceptable")
        );
        let answer = request(node, "POST", "/events", &[], None).expect("an answer");
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("GET, HEAD"))
        );
    }
}

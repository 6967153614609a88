//! `replog import` against a master that is simulated by the test: one behind limits that are not its own, and that
//! disappears at a moment of the test's choice.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::json;

use crate::nodes::client;

/// A log with keys, and the limits of a proxy before it.
#[derive(Default)]
struct Played {
    log: Vec<String>,
    /// By key: the offset of its append, and the data.
    keys: HashMap<String, (usize, String)>,
    /// Maximum number of bytes of a request.
    limit_bytes: usize,
    /// After this many appends the next one is taken but its answer lost, and everything behind it is lost.
    dies_after: Option<usize>,
    /// This many requests are refused with 429 first.
    busy: usize,
    /// The requests that had a body, by their lines.
    requests: Vec<usize>,
}

impl Played {
    fn start(self) -> (SocketAddr, Arc<Mutex<Played>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let played = Arc::new(Mutex::new(self));
        let shared = Arc::clone(&played);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                // A connection that is dropped without an answer counts as broken.
                if let Some((is_append, key, body)) = read(&stream) {
                    let answer = match is_append {
                        true => shared.lock().expect("nobody panicked").append(key, &body),
                        // It is asked whether it is alive.
                        false => Some(("200 OK", "", String::new())),
                    };
                    if let Some((status, headers, body)) = answer {
                        let length = body.len();
                        let answer = format!(
                            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
                        );
                        // A client that is gone does not read it.
                        let _ = (&stream).write_all(answer.as_bytes());
                    }
                }
            }
        });
        (address, played)
    }

    /// Returns status, headers and body of the answer to a batch; `None` if this master is gone.
    fn append(&mut self, key: String, body: &str) -> Option<(&'static str, &'static str, String)> {
        let lines: Vec<&str> = body.lines().collect();
        self.requests.push(lines.len());
        let text = "content-type: text/html\r\n";
        if self.busy > 0 {
            self.busy -= 1;
            return Some(("429 Too Many Requests", "retry-after: 0\r\n", String::new()));
        }
        if body.len() > self.limit_bytes {
            return Some(("413 Content Too Large", text, "too large".to_owned()));
        }
        if self.dies_after == Some(usize::MAX) {
            return None;
        }
        let known = self.keys.get(&key).cloned();
        let (first, status) = match known {
            Some((first, data)) if data == body => (first, "200 OK"),
            Some((first, _)) => {
                let problem = json!({
                    "type": "/problems/key-reused", "title": "key", "status": 422, "detail": "other data",
                    "outcome": "not_appended", "retriable": false, "offset": first,
                });
                let problem_type = "content-type: application/problem+json\r\n";
                return Some((
                    "422 Unprocessable Content",
                    problem_type,
                    problem.to_string(),
                ));
            }
            None => {
                let first = self.log.len();
                self.log.extend(lines.iter().map(|&line| line.to_owned()));
                self.keys.insert(key, (first, body.to_owned()));
                if let Some(left) = &mut self.dies_after {
                    if *left == 0 {
                        *left = usize::MAX;
                        return None;
                    }
                    *left -= 1;
                }
                (first, "201 Created")
            }
        };
        let receipt = json!({
            "first_offset": first, "count": lines.len(), "epoch": 1, "concern": 1, "concern_met": true,
            "acks": ["master"], "waiting_for": [], "durable": true, "elapsed_ms": 1,
        });
        let replayed = match status {
            "200 OK" => "idempotent-replayed: true\r\ncontent-type: application/json\r\n",
            _ => "content-type: application/json\r\n",
        };
        Some((status, replayed, receipt.to_string()))
    }
}

/// Reads the only request of a connection: whether it is an append, its key and its body.
fn read(stream: &TcpStream) -> Option<(bool, String, String)> {
    let mut stream = BufReader::new(stream);
    let (mut is_append, mut key, mut length) = (false, String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        is_append |= line.starts_with("POST /messages");
        let Some((name, value)) = line.trim_end().split_once(':') else {
            match line.trim_end().is_empty() {
                true => break,
                false => continue,
            }
        };
        match name.to_ascii_lowercase().as_str() {
            "idempotency-key" => value.trim().clone_into(&mut key),
            "content-length" => length = value.trim().parse().expect("a length"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((is_append, key, String::from_utf8(body).expect("UTF-8")))
}

fn import(address: SocketAddr, args: &[&str], file: &str) -> Output {
    let mut command: Command = client();
    let mut child = command
        .env("REPLOG_URL", format!("http://{address}"))
        .args(["import", "-", "--concern", "1"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut pipe = child.stdin.take().expect("a pipe");
    // It may end before it has read everything.
    let _ = pipe.write_all(file.as_bytes());
    drop(pipe);
    child.wait_with_output().expect("the program ends")
}

/// Returns a message of the file, whose length depends on its offset.
fn data(offset: u64) -> String {
    let length = 1 + (offset * 7919 % 400) as usize;
    format!("\"{offset} {}\"", "x".repeat(length))
}

fn lines(offsets: std::ops::Range<u64>) -> String {
    let line = |offset: u64| {
        let data = data(offset);
        format!(r#"{{"offset":{offset},"epoch":1,"timestamp_ms":5,"data":{data}}}"#) + "\n"
    };
    offsets.map(line).collect()
}

/// Returns the position at which a run that ended early says to resume, and its output.
fn place(output: &Output) -> (String, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let (_, from) = said.rsplit_once("--from ").expect("a place");
    let from = from.split(' ').next().expect("a number").to_owned();
    (from, said)
}

#[test]
fn a_run_that_ends_within_the_parts_of_a_batch_resumes_where_it_says_and_doubles_nothing() {
    let file = lines(0..1_100);
    let expected: Vec<String> = (0..1_100).map(data).collect();
    // It may end anywhere among the parts of its batches, with or without the limit at the next run.
    for (dies_after, then) in [
        (0, 7_000),
        (3, 7_000),
        (4, 1 << 20),
        (19, 7_000),
        (21, 9_000),
    ] {
        let (address, played) = Played {
            limit_bytes: 7_000,
            dies_after: Some(dies_after),
            ..Played::default()
        }
        .start();
        let (from, said) = place(&import(address, &["--retry", "0s"], &file));
        assert!(["0", "500"].contains(&&*from), "{said}");
        {
            let mut played = played.lock().expect("nobody panicked");
            assert!(
                !played.log.is_empty(),
                "{dies_after}: {said} {:?}",
                played.requests
            );
            played.dies_after = None;
            played.limit_bytes = then;
        }
        let rest = import(address, &["--retry", "0s", "--from", &from], &file);
        assert_eq!(rest.status.code(), Some(0), "{dies_after}: {rest:?}");
        let played = played.lock().expect("nobody panicked");
        assert_eq!(played.log, expected, "{dies_after}");
    }
}

#[test]
fn a_proxy_that_is_busy_is_asked_again_with_no_more_requests_than_before() {
    let (address, played) = Played {
        limit_bytes: usize::MAX,
        busy: 2,
        ..Played::default()
    }
    .start();
    let output = import(address, &[], &lines(0..600));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let played = played.lock().expect("nobody panicked");
    assert_eq!(played.requests, [500, 500, 500, 100]);
}

#[test]
fn an_error_in_a_file_is_reported_with_one_number_and_with_what_is_known() {
    let master = Played {
        limit_bytes: usize::MAX,
        ..Played::default()
    };
    let (address, played) = master.start();
    let (from, said) = place(&import(address, &[], &(lines(0..3) + "no line\n")));
    assert_eq!(from, "0", "{said}");
    assert!(said.contains("line 4 is not as export writes it"), "{said}");
    assert!(!said.contains("line 1 "), "{said}");
    assert!(
        said.contains("nothing of the file from offset 0 on"),
        "{said}"
    );
    assert!(played.lock().expect("nobody panicked").log.is_empty());

    let beyond = import(address, &["--from", "9"], &lines(0..3));
    assert_eq!(beyond.status.code(), Some(1), "{beyond:?}");
    let said = String::from_utf8_lossy(&beyond.stderr);
    assert!(said.contains("it ends before offset 3"), "{said}");
    // All of it is already there.
    let all = import(address, &["--from", "3"], &lines(0..3));
    assert_eq!(all.status.code(), Some(0), "{all:?}");
}

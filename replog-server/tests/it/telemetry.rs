//! Spans of appends and of link attempts, as a collector receives them.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use serde_json::Value;

use crate::{
    http::{JSON, message, request},
    nodes::{PATIENCE, Process, program},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector that accepts what exporters post, on a free port, for as long as the test runs.
struct Collector {
    address: SocketAddr,
    posts: Receiver<Post>,
}

/// One of these posts.
struct Post {
    path: String,
    content_type: String,
    body: Vec<u8>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, posts) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                thread::spawn(move || take_posts(stream, &sender));
            }
        });
        Collector { address, posts }
    }

    /// Returns all spans that come until `enough`.
    fn spans(&self, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let mut spans = Vec::new();
        while !enough(&spans) {
            let post = self.posts.recv_timeout(PATIENCE).expect("a post");
            assert_eq!(post.path, "/v1/traces");
            assert_eq!(post.content_type, "application/json");
            let body: Value = serde_json::from_slice(&post.body).expect("JSON");
            for resource in body["resourceSpans"].as_array().expect("an array") {
                let service = attribute(&resource["resource"], "service.name");
                assert_eq!(service, Some("replog-test".into()), "{resource}");
                let scopes = resource["scopeSpans"].as_array().expect("an array");
                let all = scopes.iter().filter_map(|scope| scope["spans"].as_array());
                spans.extend(all.flatten().cloned().map(Span));
            }
        }
        spans
    }
}

fn take_posts(stream: TcpStream, posts: &Sender<Post>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            match stream.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line.trim().is_empty() => break,
                Ok(_) => head.push(line.trim().to_owned()),
            }
        }
        let header = |name: &str| {
            let lines = head.iter().filter_map(|line| line.split_once(": "));
            let mut found = lines.filter(|(own, _)| own.eq_ignore_ascii_case(name));
            found
                .next()
                .map(|(_, value)| value.to_owned())
                .unwrap_or_default()
        };
        let mut body = vec![0; header("content-length").parse().expect("a length")];
        stream.read_exact(&mut body).expect("a body");
        let post = Post {
            path: head[0].split(' ').nth(1).unwrap_or_default().to_owned(),
            content_type: header("content-type"),
            body,
        };
        let answer =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        stream.get_mut().write_all(answer).expect("answered");
        if posts.send(post).is_err() {
            return;
        }
    }
}

/// A span in its JSON form.
#[derive(Debug)]
struct Span(Value);

impl Span {
    fn is(&self, name: &str) -> bool {
        self.0["name"] == name
    }

    fn get(&self, key: &str) -> Option<Value> {
        attribute(&self.0, key)
    }
}

/// Returns an attribute; numbers of 64 bits are texts in JSON.
fn attribute(of: &Value, key: &str) -> Option<Value> {
    let all = of["attributes"].as_array()?;
    let found = all.iter().find(|attribute| attribute["key"] == key)?;
    found["value"].as_object()?.values().next().cloned()
}

fn append(node: SocketAddr, text: &str, traceparent: &str) -> u16 {
    let headers = [JSON, ("traceparent", traceparent)];
    let body = message(text, 2);
    let answer = request(node, "POST", "/messages", &headers, Some(body.as_bytes()));
    answer.expect("an answer").status
}

/// Starts a cluster in one process whose spans go to the collector. Returns its master and the cluster.
fn start(collector: &Collector, protocol: &str, log: &std::path::Path) -> (SocketAddr, Process) {
    let mut command = program();
    command
        .args(["cluster", "--secondaries", "1", "--port", "0", "--memory"])
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", collector.address),
        )
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .env("OTEL_SERVICE_NAME", "replog-test")
        .env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let process = Process::run(command, log);
    let line = process.line();
    let address = line.split_once("http://").expect("a URL").1.parse();
    process.line();
    assert_eq!(process.line(), "ready");
    (address.expect("an address"), process)
}

#[test]
fn an_append_is_a_span_of_its_callers_trace_and_so_is_each_attempt_of_a_link() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let collector = Collector::start();
    let log = directory.path().join("log");
    let (node, process) = start(&collector, "http/json", &log);
    assert_eq!(
        append(node, "traced", &format!("00-{TRACE}-{PARENT}-01")),
        201
    );
    assert_eq!(
        append(node, "not sampled", &format!("00-{TRACE}-{PARENT}-00")),
        201
    );
    assert_eq!(append(node, "no trace", "nonsense"), 201);
    let lines = request(
        node,
        "POST",
        "/messages?concern=9",
        &[
            ("content-type", "application/x-ndjson"),
            ("traceparent", &format!("00-{TRACE}-{PARENT}-01")),
        ],
        Some(b"1\n2\n"),
    );
    assert_eq!(lines.expect("an answer").status, 422);
    let ours = |span: &&Span| span.is("append");
    let sent =
        |span: &&Span| span.is("link attempt") && span.get("request") == Some("append".into());
    let spans = collector.spans(|spans| {
        spans.iter().filter(ours).count() >= 3 && spans.iter().filter(sent).count() >= 3
    });

    let appends: Vec<&Span> = spans.iter().filter(ours).collect();
    let traced = appends
        .iter()
        .find(|span| span.0["traceId"] == TRACE && span.get("offset").is_some())
        .expect("the first");
    assert_eq!(traced.0["parentSpanId"], PARENT);
    assert_eq!(traced.get("node"), Some("master".into()));
    assert_eq!(traced.get("concern"), Some("2".into()));
    assert_eq!(traced.get("concern_met"), Some(true.into()));
    assert_eq!(traced.get("offset"), Some("0".into()));
    let own = appends
        .iter()
        .find(|span| span.0["traceId"] != TRACE)
        .expect("the third");
    assert_eq!(
        own.get("offset"),
        Some("2".into()),
        "one that is not sampled is not sent"
    );
    let refused = appends
        .iter()
        .find(|span| span.0["status"]["code"] == 2)
        .expect("the batch");
    assert_eq!(
        (&refused.0["traceId"], refused.get("count")),
        (&TRACE.into(), Some("2".into()))
    );

    let first = spans
        .iter()
        .filter(sent)
        .find(|span| span.get("first_offset") == Some("0".into()))
        .expect("the first record");
    assert_eq!(first.get("secondary"), Some("secondary-1".into()));
    assert!(
        spans
            .iter()
            .all(|span| span.get("request") != Some("heartbeat".into()))
    );
    let text = format!("{spans:?}");
    assert!(!text.contains("traced\""), "payloads never: {text}");

    // The last ones are sent before the end, and log lines go on in parallel.
    assert_eq!(append(node, "last", ""), 201);
    assert!(process.log_text().contains("mode is read-write"));
    assert_eq!(process.terminate().code(), Some(0));
    collector.spans(|spans| {
        spans
            .iter()
            .any(|span| span.get("offset") == Some("3".into()))
    });
}

#[test]
fn a_collector_that_is_gone_causes_no_delay() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let mut collector = Collector::start();
    // No collector listens there.
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
    collector.address = gone.local_addr().expect("an address");
    drop(gone);
    let (node, process) = start(&collector, "http/protobuf", &directory.path().join("log"));
    assert_eq!(append(node, "x", ""), 201);
    assert_eq!(process.terminate().code(), Some(0));
}

#[test]
fn an_unsupported_protocol_is_refused_at_the_start() {
    let output = program()
        .args(["cluster", "--port", "0", "--memory"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("http/protobuf or http/json"), "{said}");
}

#[test]
fn spans_are_sent_as_protobuf_by_default() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let collector = Collector::start();
    let (node, process) = start(&collector, "", &directory.path().join("log"));
    assert_eq!(append(node, "x", &format!("00-{TRACE}-{PARENT}-01")), 201);
    let trace = u128::from_str_radix(TRACE, 16)
        .expect("a number")
        .to_be_bytes();
    loop {
        let post = collector.posts.recv_timeout(PATIENCE).expect("a post");
        assert_eq!(
            (&*post.path, &*post.content_type),
            ("/v1/traces", "application/x-protobuf")
        );
        if post.body.windows(trace.len()).any(|bytes| bytes == trace) {
            break;
        }
    }
    assert_eq!(process.terminate().code(), Some(0));
}

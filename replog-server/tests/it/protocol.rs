//! HTTP/1 exactly as in RFC 9110 and 9112, in the parts that clients, proxies and probes rely on.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use crate::{
    http::{self, ANSWER_TIME_MAX, Connection, JSON, get, message},
    nodes::{Cluster, Process},
};

/// Sends bytes, and returns everything that comes until the node ends the connection.
fn say(address: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream
        .set_read_timeout(Some(ANSWER_TIME_MAX))
        .expect("a time-out");
    stream.write_all(bytes.as_bytes()).expect("sent");
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("its end");
    String::from_utf8(text).expect("UTF-8")
}

/// Starts a pair whose log is longer than one chunk of an answer.
fn pair() -> Cluster {
    let cluster = Cluster::start(1, &["--memory"]);
    for _ in 0..3 {
        let text = "x".repeat(300_000);
        assert_eq!(cluster.append(&text, 2).status, 201);
    }
    cluster
}

#[test]
fn head_is_get_without_a_body_on_every_readable_resource() {
    let cluster = pair();
    let paths = [
        "/",
        "/messages",
        "/messages?last=1",
        "/messages/0",
        "/appends",
        "/health",
        "/livez",
        "/readyz",
        "/readyz/write",
        "/metrics",
        "/openapi.json",
        "/admin/log-level",
        "/messages/99",
        "/nowhere",
    ];
    let mut connection = Connection::open(cluster.master.address).expect("a connection");
    for path in paths {
        let request = format!("HEAD {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        connection.send(request.as_bytes()).expect("sent");
        let head = connection.head().expect(path);
        // A body would be taken for the next answer.
        let full = connection.request("GET", path, &[], None).expect(path);
        assert_eq!(head.status, full.status, "{path}");
        let names = ["content-type", "transfer-encoding", "cache-control"];
        for name in names {
            assert_eq!(head.header(name), full.header(name), "{path} {name}");
        }
        // Values that change between the two have another length.
        if !["/metrics", "/health", "/appends"].contains(&path) {
            let name = "content-length";
            assert_eq!(head.header(name), full.header(name), "{path}");
        }
    }
    for path in ["/events", "/messages?follow=true"] {
        let request =
            format!("HEAD {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n");
        connection.send(request.as_bytes()).expect("sent");
        let head = connection.head().expect(path);
        assert_eq!(head.status, 200, "{path}");
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        assert_eq!(get(cluster.master.address, "/livez").status, 200);
    }
    let answer = connection.request("DELETE", "/health", &[], None);
    let answer = answer.expect("the connection is good for more");
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, Some("GET, HEAD"))
    );
}

#[test]
fn an_older_client_gets_no_chunks() {
    let cluster = pair();
    let address = cluster.master.address;
    for path in ["/messages", "/health", "/messages?limit=2"] {
        let text = say(address, &format!("GET {path} HTTP/1.0\r\n\r\n"));
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).expect(path);
        assert!(body.is_object(), "{path}");
    }
    let text = say(
        address,
        "GET /messages?follow=true&limit=2 HTTP/1.0\r\naccept: application/x-ndjson\r\nconnection: keep-alive\r\n\r\n",
    );
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(!head.to_lowercase().contains("keep-alive"), "{head}");
    assert_eq!(body.lines().count(), 2);
    assert!(body.lines().all(|line| line.starts_with('{')));
}

#[test]
fn a_request_to_upgrade_is_ignored() {
    let cluster = pair();
    let address = cluster.master.address;
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
    let body = message("with a wish", 2);
    for (method, path, body) in [
        ("GET", "/messages?last=1", None),
        ("GET", "/messages", None),
        ("GET", "/health", None),
        ("POST", "/messages", Some(body.as_bytes())),
    ] {
        let headers = [upgrade[0], upgrade[1], JSON];
        let answer = http::request(address, method, path, &headers, body);
        let answer = answer.expect("an answer");
        let expected = if method == "POST" { 201 } else { 200 };
        assert_eq!(answer.status, expected, "{method} {path}: {answer:?}");
        assert_ne!(answer.header("connection"), Some("upgrade"));
    }
    // The bytes after the body are not part of it.
    let body = message("once", 2);
    let request = format!(
        "POST /messages HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}GET / HTTP/1.1\r\n",
        body.len()
    );
    let text = say(address, &request);
    assert!(text.starts_with("HTTP/1.1 201"), "{text}");
    assert!(text.contains("connection: close"), "{text}");
    let text = say(
        address,
        "GET /messages?follow=true&limit=2 HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n\
         connection: upgrade\r\naccept: application/x-ndjson\r\n\r\n",
    );
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert_eq!(body.lines().count(), 2);
    // A protocol that is not supported here.
    let h2c = [
        ("connection", "upgrade, http2-settings"),
        ("upgrade", "h2c"),
    ];
    let answer = http::request(address, "GET", "/health", &h2c, None);
    assert_eq!(answer.expect("an answer").status, 200);
}

#[test]
fn requests_pipelined_behind_several_that_wait_are_all_answered() {
    let cluster = Cluster::start(1, &["--memory"]);
    let waiting = "GET /messages?wait_for=1000&timeout_ms=300 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    // Answered at once, without another turn of the connection's task.
    let quick = "GET /nope HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(200);
    for count in 1..=3 {
        let mut connection = Connection::open(cluster.master.address).expect("a connection");
        let all = waiting.repeat(count) + &quick;
        connection.send(all.as_bytes()).expect("sent");
        for number in 0..count + 200 {
            let answer = connection
                .answer()
                .unwrap_or_else(|error| panic!("{number} behind {count}: {error}"));
            assert_eq!(answer.status, 404, "{number} behind {count}");
        }
    }
}

#[test]
fn a_connection_ends_if_an_unread_body_never_does() {
    let cluster = Cluster::start(1, &["--memory"]);
    for (method, path, status) in [("POST", "/nope", 404), ("GET", "/health", 200)] {
        for length in ["transfer-encoding: chunked", "content-length: 500"] {
            let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{length}\r\n");
            let text = say(cluster.master.address, &format!("{head}\r\n5\r\nhe"));
            let expected = format!("HTTP/1.1 {status} ");
            assert!(text.starts_with(&expected), "{path} {length}: {text}");
            assert!(
                text.contains("connection: close"),
                "{path} {length}: {text}"
            );
        }
    }
}

#[test]
fn an_invalid_host_is_malformed() {
    let cluster = Cluster::start(1, &["--memory"]);
    let address = cluster.master.address;
    for host in ["a b/c@d", "user@localhost", "localhost:99999", "[::1"] {
        let request = format!("GET /health HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let text = say(address, &request);
        assert!(text.starts_with("HTTP/1.1 400"), "{host}: {text}");
        assert!(text.contains("/problems/malformed"), "{host}: {text}");
    }
}

fn status_as(address: SocketAddr, host: &str) -> u16 {
    let request = format!("GET /messages HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let text = say(address, &request);
    let status = text.split(' ').nth(1).expect("a status");
    status.parse().expect("a number")
}

#[test]
fn dns_rebinding_cannot_read_a_node_on_a_loopback_address() {
    let mut cluster = Cluster::prepare(1, &["--memory"]);
    cluster.master.start();
    let address = cluster.master.address;
    for host in [
        "localhost",
        "LOCALHOST:1",
        "log.localhost",
        "127.0.0.1:5000",
        "[::1]:5000",
        "10.1.2.3",
    ] {
        assert_eq!(status_as(address, host), 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:5000",
        "localhost.evil.example",
        "replog",
    ] {
        assert_eq!(status_as(address, host), 403, "{host}");
    }
    let text = say(address, "GET /health HTTP/1.1\r\nhost: replog\r\n\r\n");
    assert!(text.contains("--allowed-host replog"), "{text}");
    cluster.master.terminate();

    cluster
        .master
        .add_flag("--allowed-host=replog,log.example.com");
    cluster.master.start();
    for host in [
        "localhost",
        "replog:5000",
        "Log.Example.com",
        "log.example.com.",
    ] {
        assert_eq!(status_as(address, host), 200, "{host}");
    }
    assert_eq!(status_as(address, "evil.example"), 403);
}

#[test]
fn dns_rebinding_cannot_read_a_node_that_other_machines_reach() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let secret = directory
        .path()
        .join("cluster.secret")
        .display()
        .to_string();
    let args = [
        "secondary",
        "--name=secondary-1",
        "--memory",
        "--allow-faults",
        "--listen=0.0.0.0:0",
        "--cluster-listen=127.0.0.1:0",
        "--public-url=http://log.example.com:5000",
        "--cluster-secret-file",
        &secret,
    ];
    let process = Process::start(&args, &directory.path().join("log"));
    let line = process.line();
    let (_, port) = line.rsplit_once(':').expect("a port");
    let address = SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a port")));
    // Names of services and containers, and its own.
    for host in [
        "localhost",
        "10.1.2.3:5000",
        "master:5000",
        "replog.log.svc",
        "log.example.com",
    ] {
        assert_eq!(status_as(address, host), 200, "{host}");
    }
    for host in [
        "evil.example:5000",
        "master.evil.example",
        "svc.evil.example",
    ] {
        assert_eq!(status_as(address, host), 403, "{host}");
    }
    // Behind a proxy that gives the request another `Host`.
    for (page, status) in [
        ("http://evil.example:5000", 403),
        ("http://log.example.com", 200),
    ] {
        let headers = [JSON, ("origin", page), ("sec-fetch-site", "same-origin")];
        let answer = http::request(address, "PUT", "/faults", &headers, Some(b"{}"));
        assert_eq!(answer.expect("an answer").status, status, "{page}");
    }
}

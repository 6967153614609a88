//! Bad input gets the right status and problem, and the node goes on.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    thread,
    time::Duration,
};

use crate::{
    http::{Answer, Connection, JSON, get, post, request},
    nodes::Cluster,
};

/// Asserts that nothing was appended, and that the answer says so.
fn assert_refused(answer: &Answer, status: u16, problem: &str, what: &str) {
    assert_eq!(answer.status, status, "{what:.100}: {}", answer.text());
    assert_eq!(
        answer.problem(),
        format!("/problems/{problem}"),
        "{what:.100}"
    );
    assert_eq!(answer.json()["outcome"], "not_appended", "{what:.100}");
    assert!(answer.json()["retriable"].is_boolean(), "{what:.100}");
}

fn assert_well(node: SocketAddr) {
    assert_eq!(get(node, "/health").status, 200);
    assert_eq!(post(node, r#"{"data":"still well"}"#).status, 201);
}

#[test]
fn bad_appends_are_refused_by_name() {
    let cluster = Cluster::start(2, &["--memory"]);
    let node = cluster.master.address;
    let malformed = [
        "",
        " ",
        "{",
        "[",
        "null",
        "[]",
        "7",
        "{}",
        "{\"data\":1} x",
        "{\"data\":1,\"data\":1}",
        "{\"data\":NaN}",
        "{\"data\":1,\"more\":1}",
        "{\"data\":1,\"meta\":null}",
        "{\"data\":1,\"meta\":{\"w\":1}}",
        "{\"data\":\"\n\"}",
        "\u{feff}{\"data\":1}",
    ];
    for body in malformed {
        assert_refused(&post(node, body), 400, "malformed", body);
    }
    for deep in [
        "[".repeat(200_000),
        format!(r#"{{"data":{}{}}}"#, "[".repeat(129), "]".repeat(129)),
    ] {
        assert_refused(&post(node, &deep), 400, "malformed", "too deep");
    }
    let raw =
        |body: &[u8]| request(node, "POST", "/messages", &[JSON], Some(body)).expect("answered");
    assert_refused(
        &raw(b"{\"data\":\"\xff\xfe\"}"),
        400,
        "malformed",
        "not UTF-8",
    );
    let utf_16: Vec<u8> = "{\"data\":1}"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_refused(&raw(&utf_16), 400, "malformed", "UTF-16");

    for concern in [
        "1.5",
        "1e9",
        "\"x\"",
        "\"\"",
        "null",
        "true",
        "[]",
        "\"Majority\"",
    ] {
        let body = format!(r#"{{"data":1,"meta":{{"concern":{concern}}}}}"#);
        assert_refused(&post(node, &body), 400, "malformed", concern);
    }
    for concern in [
        "0",
        "-1",
        "4",
        "1000000000",
        "18446744073709551616",
        "-18446744073709551616",
    ] {
        let body = format!(r#"{{"data":1,"meta":{{"concern":{concern}}}}}"#);
        let answer = post(node, &body);
        assert_refused(&answer, 422, "concern", concern);
        assert_eq!(answer.json()["nodes"], 3);
    }
    for timeout in ["-1", "1.5", "null", "\"1\""] {
        let body = format!(r#"{{"data":1,"meta":{{"timeout_ms":{timeout}}}}}"#);
        assert_refused(&post(node, &body), 400, "malformed", timeout);
    }
    for kind in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("json"),
    ] {
        let headers: Vec<_> = kind
            .map(|kind| ("content-type", kind))
            .into_iter()
            .collect();
        let answer = request(node, "POST", "/messages", &headers, Some(br#"{"data":1}"#));
        assert_refused(
            &answer.expect("answered"),
            415,
            "unsupported-media-type",
            "content type",
        );
    }
    let zipped = [JSON, ("content-encoding", "gzip")];
    let answer = request(node, "POST", "/messages", &zipped, Some(b"\x1f\x8b")).expect("answered");
    assert_refused(&answer, 415, "unsupported-media-type", "gzip");
    let answer = request(
        node,
        "POST",
        "/messages?x=1",
        &[JSON],
        Some(br#"{"data":1}"#),
    );
    assert_refused(&answer.expect("answered"), 400, "malformed", "query");
    assert!(cluster.master.messages().is_empty(), "nothing was appended");

    let good = [
        "{\"data\":null}",
        "{\"data\":1e400}",
        "{\"data\":\"\\ud800\\u0000\"}",
        "{\"data\":-0}",
        "{\"data\":1,\"meta\":{}}",
        "{\"data\":1,\"meta\":{\"concern\":\"all\",\"timeout_ms\":0}}",
    ];
    for body in good {
        assert!([201, 202].contains(&post(node, body).status), "{body}");
    }
    let kind = [("content-type", "Application/JSON; Charset=UTF-8")];
    let answer = request(node, "POST", "/messages", &kind, Some(br#"{"data":1}"#));
    assert_eq!(answer.expect("answered").status, 201);
    assert_well(node);
}

#[test]
fn bad_reads_and_paths_are_refused_by_name() {
    let cluster = Cluster::start(1, &["--memory"]);
    let node = cluster.master.address;
    let malformed = [
        "/messages?from=-1",
        "/messages?from=x",
        "/messages?from=",
        "/messages?from=1.0",
        "/messages?from=18446744073709551616",
        "/messages?limit=0",
        "/messages?limit=-1",
        "/messages?last=0",
        "/messages?from=0&last=1",
        "/messages?limit=1&limit=2",
        "/messages?page=1",
        "/messages/x",
        "/messages/-1",
        "/messages/1.5",
        "/messages/%00",
        "/messages/18446744073709551616",
        "/appends?limit=0",
        "/appends?from=1",
        "/health?x=1",
    ];
    for path in malformed {
        let answer = get(node, path);
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (400, "/problems/malformed"),
            "{path}"
        );
    }
    for path in [
        "/nothing",
        "/messages/",
        "/messages/1/2",
        "/MESSAGES",
        "/..%2f",
        "/%00",
        "/%ff",
    ] {
        let answer = get(node, path);
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (404, "/problems/not-found"),
            "{path}"
        );
    }
    let methods = [
        ("PUT", "/messages", "GET, HEAD, POST"),
        ("DELETE", "/messages/0", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("BREW", "/appends", "GET, HEAD"),
    ];
    for (method, path, allow) in methods {
        let answer = request(node, method, path, &[], None).expect("answered");
        assert_eq!(
            answer.problem(),
            "/problems/method-not-allowed",
            "{method} {path}"
        );
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some(allow)),
            "{method} {path}"
        );
    }
    for accept in ["text/html", "image/*", "application/json;q=0"] {
        let answer =
            request(node, "GET", "/messages", &[("accept", accept)], None).expect("answered");
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (406, "/problems/not-acceptable")
        );
    }
    let secondary = cluster.secondaries[0].address;
    for (method, path) in [("POST", "/messages"), ("GET", "/appends")] {
        let answer = request(secondary, method, path, &[JSON], Some(b"{}")).expect("answered");
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (421, "/problems/not-master"),
            "{path}"
        );
        assert_eq!(answer.json()["master"]["name"], "master", "{path}");
    }
    assert_well(node);
}

#[test]
fn a_body_beyond_the_limit_is_refused_after_it_was_read() {
    let flags = [
        "--memory",
        "--max-message-bytes",
        "64KiB",
        "--max-request-bytes",
        "4MiB",
    ];
    let cluster = Cluster::start(1, &flags);
    let node = cluster.master.address;
    let body = |bytes: usize| format!(r#"{{"data":"{}"}}"#, "x".repeat(bytes - 11));
    assert_eq!(post(node, &body(64 << 10)).status, 201, "exactly the limit");
    for bytes in [(64 << 10) + 1, 1 << 20, 4 << 20] {
        let answer = post(node, &body(bytes));
        assert_refused(&answer, 413, "too-large", "a long body");
        assert_eq!(answer.json()["limit_bytes"], 64 << 10);
        assert_eq!(answer.json()["limit"], "max-message-bytes");
        let detail = "the body is longer than max-message-bytes, which is 65536 bytes";
        assert_eq!(answer.json()["detail"], detail);
    }
    // The same without an announced length.
    let mut connection = Connection::open(node).expect("a connection");
    let head = "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    connection
        .send(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes())
        .expect("sent");
    for _ in 0..32 {
        connection.send(b"8000\r\n").expect("sent");
        connection.send(&[b'x'; 0x8000]).expect("sent");
        connection.send(b"\r\n").expect("sent");
    }
    connection.send(b"0\r\n\r\n").expect("sent");
    assert_refused(
        &connection.answer().expect("an answer"),
        413,
        "too-large",
        "chunks",
    );
    // Ten gigabytes announced: answered without waiting for them.
    let mut connection = Connection::open(node).expect("a connection");
    connection
        .send(format!("{head}content-length: 10737418240\r\n\r\n").as_bytes())
        .expect("sent");
    assert_refused(
        &connection.answer().expect("an answer"),
        413,
        "too-large",
        "announced",
    );
    assert_well(node);
}

#[test]
fn broken_transports_hurt_no_other_client() {
    let cluster = Cluster::start(1, &["--memory"]);
    let node = cluster.master.address;
    let long_header = format!(
        "GET /health HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "y".repeat(200 << 10)
    );
    let many_headers = format!(
        "GET /health HTTP/1.1\r\nhost: localhost\r\n{}\r\n",
        "a: b\r\n".repeat(10_000)
    );
    let post = "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let table = [
        long_header,
        many_headers,
        "NONSENSE\r\n\r\n".to_owned(),
        "GET /health\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}".to_owned(),
        format!("{post}content-length: 10\r\ncontent-length: 11\r\n\r\n{{\"data\":1}}"),
        format!("{post}content-length: 10\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n"),
        format!("{post}transfer-encoding: chunked\r\n\r\nnot a size\r\n"),
        format!("{post}content-length: -1\r\n\r\n"),
        format!("{post}content-length: 50\r\n\r\n{{\"data\":1"),
    ];
    for bytes in table {
        let mut connection = Connection::open(node).expect("a connection");
        // The node may answer and close before all of it is sent.
        let _ = connection.send(bytes.as_bytes());
        let _ = connection.socket().shutdown(Shutdown::Write);
        if let Ok(answer) = connection.answer() {
            assert!(
                (400..500).contains(&answer.status),
                "{bytes:.60}: {answer:?}"
            );
        }
    }
    let mut pipelined = Connection::open(node).expect("a connection");
    pipelined
        .send(
            "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
                .repeat(1_000)
                .as_bytes(),
        )
        .expect("sent");
    for number in 0..1_000 {
        let answer = pipelined
            .answer()
            .unwrap_or_else(|error| panic!("{number}: {error}"));
        assert_eq!(answer.status, 200);
    }
    assert!(cluster.master.messages().is_empty(), "nothing was appended");
    assert_well(node);
}

#[test]
fn a_head_that_cannot_be_read_and_a_body_that_ends_early_are_answered_with_a_problem() {
    let cluster = Cluster::start(1, &["--memory"]);
    let node = cluster.master.address;
    let head = "GET /livez HTTP/1.1\r\nhost: localhost\r\n";
    let post = "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    for bytes in [
        "NONSENSE\r\n\r\n".to_owned(),
        "GET /a b HTTP/1.1\r\n\r\n".to_owned(),
        "GET /livez HTTP/9.9\r\n\r\n".to_owned(),
        format!("{head}no header\r\n\r\n"),
        format!("{post}content-length: ten\r\n\r\n"),
        format!("{post}content-length: 50\r\n\r\n{{\"data\":1"),
        format!("{post}transfer-encoding: chunked\r\n\r\nnot a size\r\n"),
    ] {
        let mut connection = Connection::open(node).expect("a connection");
        connection.send(bytes.as_bytes()).expect("sent");
        connection
            .socket()
            .shutdown(Shutdown::Write)
            .expect("it is open");
        let answer = connection.answer().expect("an answer");
        assert_refused(&answer, 400, "malformed", &bytes);
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
        assert!(
            !answer.text().contains("payload reached EOF"),
            "{}",
            answer.text()
        );
    }
    assert_well(node);
}

#[test]
fn slow_and_vanishing_clients_delay_no_other_client() {
    let mut cluster = Cluster::start(2, &["--memory"]);
    let node = cluster.master.address;
    let head = b"POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n";
    let mut slow: Vec<Connection> = (0..50)
        .map(|number| {
            let mut connection = Connection::open(node).expect("a connection");
            let sent = head.len() * (number % 5 + 1) / 5;
            connection.send(&head[..sent]).expect("sent");
            connection
        })
        .collect();
    assert_well(node);
    // One client whose head is complete goes on, a byte at a time.
    let mut steady = Connection::open(node).expect("a connection");
    for byte in [&head[..], br#"{"data":7}"#].concat() {
        steady.send(&[byte]).expect("sent");
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(steady.answer().expect("an answer").status, 201);
    // One that never completes its head is disconnected.
    let stalled = &mut slow[0];
    stalled
        .socket()
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a time-out");
    assert_eq!(stalled.answer().expect("an answer").status, 408);

    // Clients that go away while their append waits: the message stays, and waits.
    cluster.secondaries[1].kill();
    let next = cluster.master.health()["log"]["next"]
        .as_u64()
        .expect("a number");
    let gone = 20;
    for _ in 0..gone {
        let mut connection = Connection::open(node).expect("a connection");
        let body = br#"{"data":"gone","meta":{"concern":3}}"#;
        let head = format!(
            "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection
            .send(&[head.as_bytes(), body].concat())
            .expect("sent");
        let _ = connection.socket().flush();
        // Half of them close only their own direction.
        let _ = connection.socket().shutdown(Shutdown::Write);
        let _ = connection.socket().set_nonblocking(true);
        let _ = connection.socket().read(&mut [0; 1]);
    }
    crate::nodes::eventually("all of them are in the log", || {
        let now = cluster.master.health()["log"]["next"].as_u64()?;
        (now == next + gone).then_some(())
    });
    cluster.secondaries[1].start();
    assert_eq!(cluster.append("with all", 3).status, 201);
    cluster.wait_equal();
    assert_well(node);
}

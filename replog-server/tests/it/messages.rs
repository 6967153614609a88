//! Reading: formats, ranges, single messages, and an answer that is larger than the node's memory
//! should be.

use std::{fs, time::Instant};

use serde_json::{Value, json};

use crate::{
    http::{Connection, JSON, get, message, post, request},
    nodes::Cluster,
};

fn offsets(body: &Value) -> Vec<u64> {
    let messages = body["messages"].as_array().expect("an array");
    messages
        .iter()
        .map(|message| message["offset"].as_u64().expect("a number"))
        .collect()
}

#[test]
fn messages_are_read_from_any_offset_in_either_format_on_every_node() {
    let cluster = Cluster::start(1, &[]);
    for number in 0..5 {
        // A line break, and more digits than a float has: both are kept.
        let body = format!("{{\"data\":{{\"n\":{number},\r\n \"big\":18446744073709551617}}}}");
        assert_eq!(post(cluster.master.address, &body).status, 201);
    }
    cluster.wait_equal();
    for node in [cluster.master.address, cluster.secondaries[0].address] {
        let table: [(&str, &[u64], u64); 9] = [
            ("/messages", &[0, 1, 2, 3, 4], 5),
            ("/messages?from=0", &[0, 1, 2, 3, 4], 5),
            ("/messages?from=3", &[3, 4], 5),
            ("/messages?from=1&limit=2", &[1, 2], 3),
            ("/messages?limit=1000000000", &[0, 1, 2, 3, 4], 5),
            ("/messages?last=2", &[3, 4], 5),
            ("/messages?last=99&limit=1", &[0], 1),
            ("/messages?from=5", &[], 5),
            ("/messages?from=90", &[], 90),
        ];
        for (path, expected, next) in table {
            let answer = get(node, path);
            assert_eq!(
                (answer.status, answer.header("content-type")),
                (200, Some("application/json"))
            );
            let body = answer.json();
            assert_eq!(
                (offsets(&body), &body["next"]),
                (expected.to_vec(), &json!(next)),
                "{path}"
            );
        }
        let body = get(node, "/messages?limit=1");
        assert!(
            body.text()
                .contains("{\"n\":0,\r\n \"big\":18446744073709551617}")
        );
        let first = &body.json()["messages"][0];
        assert!(
            first["epoch"].is_u64() && first["timestamp_ms"].is_u64(),
            "{first}"
        );
        assert!(first.get("idempotency_key").is_none(), "{first}");

        let lines = request(
            node,
            "GET",
            "/messages?from=1",
            &[("accept", "application/x-ndjson")],
            None,
        )
        .expect("an answer");
        assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
        let parsed: Vec<Value> = lines
            .text()
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(parsed.len(), 4);
        assert_eq!(parsed[0]["offset"], 1);
        assert!(
            lines
                .text()
                .contains("{\"n\":1,   \"big\":18446744073709551617}"),
            "{}",
            lines.text()
        );

        let one = get(node, "/messages/4").json();
        assert_eq!((&one["offset"], &one["data"]["n"]), (&json!(4), &json!(4)));
        for path in ["/messages/5", "/messages/18446744073709551615"] {
            let none = get(node, path);
            assert_eq!(
                (none.status, none.problem().as_str()),
                (404, "/problems/no-such-offset")
            );
            assert_eq!(none.json()["next"], 5);
        }
    }
    let one = get(cluster.master.address, "/messages/4").json();
    assert_eq!(
        (&one["acks"], &one["waiting_for"]),
        (&json!(["master", "secondary-1"]), &json!([]))
    );
}

#[test]
fn hanging_readers_cost_neither_memory_nor_other_clients() {
    const MESSAGES: usize = 48;
    const READERS: usize = 24;
    let cluster = Cluster::start(1, &[]);
    for _ in 0..MESSAGES {
        let body = format!(r#"{{"data":"{}"}}"#, "x".repeat(1_000_000));
        assert_eq!(post(cluster.master.address, &body).status, 201);
    }
    let memory_mib = || {
        let path = format!("/proc/{}/status", cluster.master.process().id());
        let status = fs::read_to_string(path).expect("a process");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .expect("VmRSS");
        let kib = line
            .split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse::<usize>().ok());
        kib.expect("a number") / 1024
    };
    // One reader runs to the end, so that the figure includes the cost of a read.
    assert_eq!(
        get(cluster.master.address, "/messages").json()["next"],
        MESSAGES
    );
    let before = memory_mib();
    let readers: Vec<Connection> = (0..READERS)
        .map(|_| {
            let mut reader = Connection::open(cluster.master.address).expect("a connection");
            reader
                .send(b"GET /messages HTTP/1.1\r\nhost: localhost\r\n\r\n")
                .expect("sent");
            reader
        })
        .collect();
    for number in 0..50 {
        let asked = Instant::now();
        assert_eq!(cluster.append(&format!("m{number}"), 2).status, 201);
        assert_eq!(get(cluster.master.address, "/health").status, 200);
        assert!(asked.elapsed().as_secs() < 5, "{:?}", asked.elapsed());
    }
    let after = memory_mib();
    // Together they ask for more than a gigabyte.
    assert!(after < before + 250, "{before} MiB, then {after} MiB");
    drop(readers);
    assert_eq!(cluster.append("after", 2).status, 201);
}

#[test]
fn pages_of_other_sites_cannot_append_but_the_nodes_own_page_and_programs_can() {
    let cluster = Cluster::start(1, &["--memory", "--allow-faults"]);
    let node = cluster.master.address;
    const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
    // Requests by `http://localhost`, as all of this client's.
    let pages: [(&[(&str, &str)], bool); 8] = [
        (&[], true),
        (&[("origin", "http://localhost")], true),
        (
            &[
                ("origin", "http://front"),
                ("sec-fetch-site", "same-origin"),
            ],
            false,
        ),
        (&[("origin", "http://test")], false),
        (&[("origin", "http://localhost:8080")], false),
        (&[("origin", "http://evil.example")], false),
        (&[("origin", "null")], false),
        (&[("sec-fetch-site", "cross-site")], false),
    ];
    let body = message("x", 1);
    for (page, may) in pages {
        for (form, body) in [(JSON, body.as_str()), (NDJSON, "1\n2\n")] {
            let headers = [page, &[form]].concat();
            let body = Some(body.as_bytes());
            let answer = request(node, "POST", "/messages", &headers, body).expect("an answer");
            if may {
                assert_eq!(answer.status, 201, "{page:?}");
                continue;
            }
            assert_eq!(
                (answer.status, &*answer.problem()),
                (403, "/problems/cross-origin"),
                "{page:?}"
            );
            assert_eq!(answer.json()["outcome"], "not_appended");
        }
        for (method, body) in [("PUT", Some(&b"{}"[..])), ("DELETE", None)] {
            let headers = [page, &[JSON]].concat();
            let answer = request(node, method, "/faults", &headers, body).expect("an answer");
            let expected = if may { 200 } else { 403 };
            assert_eq!(answer.status, expected, "{method} {page:?}");
        }
    }
    assert_eq!(cluster.master.messages().len(), 2 * 3, "nothing else");
    // By its address, as requests of the node's own page.
    let mut connection = Connection::open(node).expect("a connection");
    let length = body.len();
    let append = format!(
        "POST /messages HTTP/1.1\r\nhost: {node}\r\norigin: http://{node}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    connection.send(append.as_bytes()).expect("sent");
    assert_eq!(connection.answer().expect("an answer").status, 201);
}

//! Batches: one append of several messages, even if something fails in the middle of it.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    http::{Answer, Connection, get, post, request},
    kill::StopOnDrop,
    nodes::{Cluster, Node, eventually},
};

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

fn send(node: &Node, query: &str, key: Option<&str>, body: &[u8]) -> Answer {
    let mut headers = vec![NDJSON];
    headers.extend(key.map(|key| ("idempotency-key", key)));
    request(
        node.address,
        "POST",
        &format!("/messages{query}"),
        &headers,
        Some(body),
    )
    .expect("an answer")
}

#[test]
fn the_lines_of_a_body_are_appended_at_consecutive_offsets() {
    let cluster = Cluster::start(2, &["--allow-faults"]);
    let node = &cluster.master;
    cluster.append("before", 3);
    let answer = send(
        node,
        "?concern=all",
        None,
        b"1\r\n {\"a\" :  1e9} \n\"x\"\n",
    );
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.header("location"), Some("/messages/1"));
    let receipt = answer.json();
    assert_eq!(
        (&receipt["first_offset"], &receipt["count"]),
        (&1.into(), &3.into())
    );
    assert_eq!(
        (&receipt["concern"], &receipt["concern_met"]),
        (&3.into(), &true.into())
    );
    assert_eq!(receipt["acks"].as_array().map(Vec::len), Some(3));
    for member in ["epoch", "waiting_for", "durable", "elapsed_ms"] {
        assert!(!receipt[member].is_null(), "{receipt}");
    }
    assert!(receipt.get("offset").is_none(), "{receipt}");
    let message = get(node.address, "/messages/2");
    let text = message.text();
    assert!(
        text.contains("\"data\":{\"a\" :  1e9}"),
        "byte for byte: {text}"
    );
    cluster.wait_equal();
    for node in &cluster.secondaries {
        assert_eq!(node.messages().len(), 4, "{}", node.name);
    }
    let cut_off = &cluster.secondaries[0];
    cut_off.set_faults(r#"{"isolate":true}"#);
    let answer = send(node, "?concern=all&timeout_ms=50", None, b"1\n2");
    assert_eq!(answer.status, 202, "{}", answer.text());
    let receipt = answer.json();
    assert_eq!(
        (&receipt["first_offset"], &receipt["concern_met"]),
        (&4.into(), &false.into())
    );
}

#[test]
fn a_batch_that_is_refused_leaves_nothing_behind_and_says_where() {
    let flags = ["--max-message-bytes", "100", "--max-request-bytes", "2000"];
    let cluster = Cluster::start(1, &flags);
    let node = &cluster.master;
    let long = format!("1\n\"{}\"", "x".repeat(200));
    let huge = "1\n".repeat(2000);
    let table = [
        ("", "", 400, "malformed", "empty"),
        ("", "\n", 400, "malformed", "empty"),
        ("", "1\n\n2", 400, "malformed", "line 2"),
        ("", "1\n2\n{\"a\"}", 400, "malformed", "line 3"),
        ("", "1\n\u{feff}2", 400, "malformed", "line 2"),
        (
            "",
            &long,
            413,
            "too-large",
            "line 2 is longer than max-message-bytes, which is 100 bytes",
        ),
        (
            "",
            &huge,
            413,
            "too-large",
            "the body is longer than max-request-bytes, which is 2000 bytes",
        ),
        ("?concern=9", "1", 422, "concern", "1 to 2"),
        ("?concern=x", "1", 400, "malformed", "concern"),
        ("?concern=1.5", "1", 400, "malformed", "concern"),
        ("?timeout_ms=-1", "1", 400, "malformed", "timeout_ms"),
        ("?concern=1&concern=1", "1", 400, "malformed", "twice"),
        ("?expected_offset=0", "1", 400, "malformed", "unknown"),
        ("?x=1", "1", 400, "malformed", "unknown"),
    ];
    for (query, body, status, kind, what) in table {
        let answer = send(node, query, None, body.as_bytes());
        let shown = format!("{query} {body:.30}: {}", answer.text());
        assert_eq!(
            (answer.status, answer.problem()),
            (status, format!("/problems/{kind}")),
            "{shown}"
        );
        assert_eq!(answer.json()["outcome"], "not_appended", "{shown}");
        assert!(
            answer.json()["detail"]
                .as_str()
                .is_some_and(|text| text.contains(what)),
            "{shown}"
        );
        if status == 413 {
            assert!(answer.json()["limit_bytes"].is_u64(), "{shown}");
        }
    }
    let answer = post(node.address, r#"{"data":1}"#);
    assert_eq!(answer.json()["offset"], 0, "nothing was appended before");
}

/// Returns lines that are together this long, and whose messages are together that much shorter as there are line ends.
fn lines(bytes: usize) -> String {
    let line = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
    let mut lines = String::new();
    while bytes - lines.len() > 1 << 20 {
        lines += &line((1 << 19) - 1);
        lines.push('\n');
    }
    let last = line(bytes - lines.len());
    lines + &last
}

fn send_in_chunks(node: &Node, body: &[u8]) -> Answer {
    let mut connection = Connection::open(node.address).expect("a connection");
    let head = "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n\
                transfer-encoding: chunked\r\n\r\n";
    connection.send(head.as_bytes()).expect("sent");
    for chunk in body.chunks(100_000) {
        let size = format!("{:x}\r\n", chunk.len());
        let chunk = [size.as_bytes(), chunk, b"\r\n"].concat();
        connection.send(&chunk).expect("sent");
    }
    connection.send(b"0\r\n\r\n").expect("sent");
    connection.answer().expect("an answer")
}

/// Checks that a batch was refused for this limit, and that its sender was told so.
fn assert_too_large(answer: &Answer, limit_bytes: usize, detail: &str) {
    let shown = answer.text();
    let problem = (answer.status, answer.problem());
    assert_eq!(problem, (413, "/problems/too-large".to_owned()), "{shown}");
    let answer = answer.json();
    assert_eq!(answer["limit"], "max-request-bytes", "{shown}");
    assert_eq!(answer["limit_bytes"], limit_bytes, "{shown}");
    let found = answer["detail"].as_str().expect("a detail");
    assert!(found.contains(detail), "{shown}");
    let outcome = (&answer["outcome"], &answer["retriable"]);
    assert_eq!(outcome, (&"not_appended".into(), &false.into()), "{shown}");
}

#[test]
fn a_body_of_exactly_the_limit_is_appended_and_one_byte_more_is_refused_after_it_was_read() {
    let limit_bytes = 2 << 20;
    let cluster = Cluster::start(1, &["--memory", "--max-request-bytes", "2MiB"]);
    let node = &cluster.master;
    let send_at_once = |body: &[u8]| send(node, "", None, body);
    let in_chunks = |body: &[u8]| send_in_chunks(node, body);
    let mut next = 0;
    for send in [&send_at_once as &dyn Fn(&[u8]) -> Answer, &in_chunks] {
        for bytes in [limit_bytes + 1, 2 * limit_bytes] {
            let answer = send(lines(bytes).as_bytes());
            let detail = "the body is longer than max-request-bytes, which is 2097152 bytes";
            assert_too_large(&answer, limit_bytes, detail);
        }
        let answer = send(lines(limit_bytes).as_bytes());
        assert_eq!(answer.status, 201, "{}", answer.text());
        let receipt = answer.json();
        assert_eq!(receipt["first_offset"], next, "nothing was appended before");
        next += receipt["count"].as_u64().expect("a number");
    }
}

#[test]
fn a_batch_of_exactly_what_an_append_may_have_in_the_log_is_appended_and_one_byte_more_is_not() {
    const FRAME_BYTES_MAX: usize = 8 << 20;
    let cluster = Cluster::start(1, &["--memory"]);
    let node = &cluster.master;
    // Each line has 4 bytes more in the log, where its end is not, and all together 42.
    let in_the_log = |text: &str| 42 + text.lines().map(|line| line.len() + 4).sum::<usize>();
    let count = lines(FRAME_BYTES_MAX).lines().count();
    let bytes = FRAME_BYTES_MAX - 42 - 4 * count + (count - 1);
    let (most, more) = (lines(bytes), lines(bytes + 1));
    assert_eq!(in_the_log(&most), FRAME_BYTES_MAX);
    let answer = send(node, "", None, more.as_bytes());
    let detail = format!(
        "with line {} the batch has more than the 8388608 bytes that one append may have",
        more.lines().count()
    );
    assert_too_large(&answer, FRAME_BYTES_MAX, &detail);
    // The key is in the log, too.
    let answer = send(node, "", Some("k"), most.as_bytes());
    let detail = "the append has 8388609 bytes and 8388608 are allowed (max-request-bytes)";
    assert_too_large(&answer, FRAME_BYTES_MAX, detail);
    let answer = send(node, "", None, most.as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.json()["first_offset"], 0);
    // Many short messages are more in the log than in the request.
    let answer = send(node, "", None, "1\n".repeat(2 << 20).as_bytes());
    assert_too_large(&answer, FRAME_BYTES_MAX, "with line 1677714 the batch");
    let answer = post(node.address, r#"{"data":1}"#);
    assert_eq!(answer.json()["offset"], most.lines().count());
}

#[test]
fn a_batch_that_could_never_be_queued_is_refused_and_the_limit_named() {
    let flags = ["--max-queued-bytes", "10000", "--max-message-bytes", "5000"];
    let cluster = Cluster::start(1, &flags);
    let answer = send(&cluster.master, "", None, "1\n".repeat(3000).as_bytes());
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (429, "/problems/overloaded")
    );
    assert_eq!(answer.json()["limit"], "max-queued-bytes");
    let answer = send(&cluster.master, "", None, "1\n".repeat(100).as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
}

#[test]
fn a_key_covers_all_lines_across_a_restart() {
    let mut cluster = Cluster::start(2, &[]);
    let body = b"1\n2\n3\n";
    let first = send(&cluster.master, "", Some("k"), body);
    assert_eq!(
        (first.status, &first.json()["first_offset"]),
        (201, &0.into())
    );
    for restarted in [false, true] {
        let again = send(&cluster.master, "?concern=all", Some("k"), b" 1\n2\r\n3");
        assert_eq!(again.status, 200, "{}", again.text());
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!(
            (&again.json()["first_offset"], &again.json()["count"]),
            (&0.into(), &3.into())
        );
        for other in [&b"1\n2"[..], b"1\n2\n4", b"12\n3", b"1\n2\n3\n4"] {
            let refused = send(&cluster.master, "", Some("k"), other);
            assert_eq!(refused.status, 422, "{}", refused.text());
            assert_eq!(refused.json()["offset"], 0);
        }
        if !restarted {
            cluster.master.kill();
            cluster.master.start();
            cluster.wait_read_write();
        }
    }
    assert_eq!(cluster.master.messages().len(), 3);
}

#[test]
fn a_secondary_refers_a_batch_to_its_master() {
    let cluster = Cluster::start(1, &[]);
    let answer = send(&cluster.secondaries[0], "", None, b"1\n2");
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (421, "/problems/not-master")
    );
}

const KILLS: usize = 9;
const CLIENTS: usize = 3;
/// The longest batch: more than one write, and more than one replication request.
const LINES: usize = 3_000;

/// The batch and line of a message, and the number of lines of that batch.
fn parts(message: &Value) -> (String, usize, usize) {
    let text = message["data"].as_str().expect("a text");
    let mut parts = text.split(' ');
    let mut next = || parts.next().expect("three parts");
    let batch = next().to_owned();
    let mut number = || next().parse().expect("a number");
    (batch, number(), number())
}

/// Asserts that all or none of each batch is there, with its lines in order and at consecutive offsets.
fn check_whole(node: &str, messages: &[Value]) -> BTreeMap<String, u64> {
    let mut first_offsets = BTreeMap::new();
    let mut rest = messages;
    while let Some(first) = rest.first() {
        let (batch, _, lines) = parts(first);
        assert!(
            lines <= rest.len(),
            "{node} shows {} of {lines} lines of {batch}",
            rest.len()
        );
        let (own, behind) = rest.split_at(lines);
        for (nth, message) in own.iter().enumerate() {
            assert_eq!(parts(message), (batch.clone(), nth, lines), "{node}");
        }
        let offset = first["offset"].as_u64().expect("an offset");
        assert_eq!(
            first_offsets.insert(batch, offset),
            None,
            "{node} has a batch twice"
        );
        rest = behind;
    }
    first_offsets
}

fn load(
    client: usize,
    address: std::net::SocketAddr,
    stop: &AtomicBool,
    acknowledged: &Mutex<BTreeMap<String, u64>>,
) {
    let mut connection = None;
    for number in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let batch = format!("{client}-{number}");
        let lines = [2, 50, 300, LINES][(number + client) % 4];
        let body: String = (0..lines)
            .map(|line| format!("\"{batch} {line} {lines} {}\"\n", "x".repeat(line % 900)))
            .collect();
        let open = connection.take().or_else(|| Connection::open(address).ok());
        let Some(mut open) = open else {
            // The node is down: not a wait for a condition, only a pause so as not to spin.
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        let Ok(answer) = open.request("POST", "/messages", &[NDJSON], Some(body.as_bytes())) else {
            continue;
        };
        if answer.status == 201 {
            let offset = answer.json()["first_offset"].as_u64().expect("an offset");
            acknowledged.lock().expect("no panic").insert(batch, offset);
        } else {
            assert!([503, 507].contains(&answer.status), "{answer:?}");
        }
        connection = Some(open);
    }
}

#[test]
fn a_kill_in_the_middle_of_a_batch_leaves_all_of_it_or_none() {
    let mut cluster = Cluster::start(2, &[]);
    let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new(BTreeMap::new()));
    let count = || acknowledged.lock().expect("no panic").len();
    let address = cluster.master.address;
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (stop, acknowledged) = (&stop, &acknowledged);
            scope.spawn(move || load(client, address, stop, acknowledged));
        }
        // Stops the load also when an assertion below fails, because the scope waits for it.
        let _stop = StopOnDrop(&stop);
        for kill in 0..KILLS {
            let before = count();
            eventually("batches are acknowledged", || {
                (count() > before + 3).then_some(())
            });
            // Under load, on every node: only the newest batch may be incomplete.
            for node in cluster.secondaries.iter().chain([&cluster.master]) {
                let last = get(node.address, "/messages?last=1").json();
                let last = &last["messages"][0];
                if !last.is_null() {
                    let (batch, line, lines) = parts(last);
                    assert_eq!(line + 1, lines, "{} shows a part of {batch}", node.name);
                }
            }
            let node = match kill % 3 {
                0 => &mut cluster.master,
                number => &mut cluster.secondaries[number - 1],
            };
            node.kill();
            node.start();
            cluster.wait_read_write();
            cluster.wait_alive(3);
        }
    });

    cluster.wait_equal();
    let acknowledged = acknowledged.into_inner().expect("no panic");
    let on_master = cluster.master.messages();
    let held = check_whole("the master", &on_master);
    for (batch, offset) in &acknowledged {
        assert_eq!(held.get(batch), Some(offset), "{batch} was acknowledged");
    }
    for node in &cluster.secondaries {
        assert_eq!(
            check_whole(&node.name, &node.messages()),
            held,
            "{}",
            node.name
        );
    }
}

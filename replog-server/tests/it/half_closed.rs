//! Clients that shut down their sending side after a request, or send nonsense after it, get its answer.

use std::{
    io::Read as _,
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use crate::{
    http::{Answer, Connection, message},
    nodes::Cluster,
};

/// Time within which a client that sends nothing more is checked: less than that between the signs of life that every
/// follower gets.
const CHECK_TIME_MAX: Duration = Duration::from_secs(5);

/// Opens a connection on which this is sent, and nothing more.
fn only_sent(address: SocketAddr, bytes: &[u8]) -> Connection {
    let mut connection = sent(address, bytes);
    let socket = connection.socket();
    socket.shutdown(Shutdown::Write).expect("open");
    connection
}

fn sent(address: SocketAddr, bytes: &[u8]) -> Connection {
    let mut connection = Connection::open(address).expect("a connection");
    connection.send(bytes).expect("sent");
    connection
}

fn append_of(body: &str, version: &str) -> Vec<u8> {
    let head = format!("POST /messages {version}\r\nhost: localhost\r\n");
    let length = body.len();
    format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into()
}

/// Returns all answers, until the node closes the connection.
fn rest(mut connection: Connection) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Ok(answer) = connection.answer() {
        answers.push(answer);
    }
    let ended = connection.socket().read(&mut [0]);
    assert_eq!(ended.expect("it is closed, not reset"), 0);
    answers
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

#[test]
fn a_client_that_shuts_down_its_sending_side_gets_its_answers() {
    let cluster = Cluster::start(1, &[]);
    let master = cluster.master.address;
    let short = append_of(&message("short", 2), "HTTP/1.1");
    assert_eq!(statuses(&rest(only_sent(master, &short))), [201]);
    let long = append_of(&message(&"x".repeat(1_000_000), 2), "HTTP/1.1");
    assert_eq!(statuses(&rest(only_sent(master, &long))), [201]);
    let many = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(300);
    assert_eq!(statuses(&rest(only_sent(master, &many))), [200; 300]);
    for _ in 0..20 {
        cluster.append(&"y".repeat(1_000_000), 1);
    }
    let read = b"GET /messages HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let read = rest(only_sent(master, read));
    let messages = read[0].json()["messages"].as_array().map(Vec::len);
    assert_eq!(messages, Some(22));
    // The rest of this body never comes.
    let part = rest(only_sent(master, &long[..500_000]));
    assert_eq!(statuses(&part), [400]);
    assert_eq!(part[0].problem(), "/problems/malformed");
}

#[test]
fn a_client_that_shuts_down_its_sending_side_and_waits_is_answered_when_its_concern_is_met() {
    let mut cluster = Cluster::start(2, &[]);
    let master = cluster.master.address;
    cluster.secondaries[1].kill();
    let waits = message("waits", 3);
    let mut waiting = only_sent(master, &append_of(&waits, "HTTP/1.1"));
    let oldest = only_sent(master, &append_of(&waits, "HTTP/1.0"));
    let follow = "GET /messages?follow=true HTTP/1.1\r\nhost: localhost\r\n";
    let follow = format!("{follow}accept: application/x-ndjson\r\n\r\n");
    let following = only_sent(master, follow.as_bytes());
    let mut following = following.patience(Some(CHECK_TIME_MAX));
    assert_eq!(following.head().expect("an answer").status, 200);
    let wait = b"GET /messages?wait_for=2 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut reading = only_sent(master, wait);
    // The node checks that they are still there.
    for waiting in [&mut waiting, &mut reading] {
        assert_eq!(waiting.head().expect("an interim answer").status, 100);
    }
    // Behind the messages there are so far.
    while following.chunk().expect("a sign of life") != b" " {}
    cluster.wait_waiting(2);
    cluster.secondaries[1].start();
    assert_eq!(statuses(&rest(waiting)), [201]);
    assert_eq!(statuses(&rest(oldest)), [201]);
    assert_eq!(cluster.append("the last one", 3).status, 201);
    assert_eq!(statuses(&rest(reading)), [200]);
    let mut text = String::new();
    while !text.contains("the last one") {
        let part = following.chunk().expect("it goes on");
        assert!(!part.is_empty(), "it goes on: {text}");
        text.push_str(std::str::from_utf8(&part).expect("text"));
    }
}

#[test]
fn nonsense_behind_a_waiting_append_does_not_cost_it_its_answer() {
    let mut cluster = Cluster::start(2, &[]);
    let master = cluster.master.address;
    cluster.secondaries[1].kill();
    let append = append_of(&message("waits", 3), "HTTP/1.1");
    let nonsense: [&[u8]; 4] = [
        b"no request\r\n\r\n",
        b"POST /messages HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        &[0; 100],
        &[0; 30_000],
    ];
    let waiting = nonsense.map(|nonsense| sent(master, &[&append, nonsense].concat()));
    let gone = nonsense.map(|nonsense| sent(master, &[&append, nonsense].concat()));
    cluster.wait_waiting(8);
    // Clients that leave are noticed, though nothing more of their input is read.
    drop(gone);
    cluster.wait_waiting(4);
    cluster.secondaries[1].start();
    for (waiting, nonsense) in waiting.into_iter().zip(nonsense) {
        let answers = rest(waiting);
        let bytes = nonsense.len();
        assert_eq!(statuses(&answers), [201, 400], "{bytes} bytes of it");
        assert_eq!(answers[1].problem(), "/problems/malformed");
    }
    assert!(!cluster.master.process().log_text().contains("actix_http"));
}

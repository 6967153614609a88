//! A graceful stop: waiting requests are answered, and nothing is left open.

use std::{
    io::{self, BufRead as _, BufReader},
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    http::{Connection, message, post},
    nodes::{Cluster, PATIENCE, Process, eventually, program},
};

#[test]
fn a_stop_answers_waiting_appends_with_an_unknown_outcome() {
    let mut cluster = Cluster::start(2, &[]);
    assert_eq!(cluster.append("before", 3).status, 201);
    cluster.secondaries[1].kill();
    let waiting: Vec<_> = (0..10)
        .map(|number| cluster.append_behind(&format!("w{number}"), 3))
        .collect();
    cluster.wait_waiting(10);
    // A connection without a request delays nothing.
    let _idle = Connection::open(cluster.master.address).expect("a connection");
    let started = Instant::now();
    cluster.master.terminate();
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    let mut offsets: Vec<u64> = waiting
        .iter()
        .map(|waiting| {
            let answer = waiting.recv_timeout(PATIENCE).expect("an answer");
            assert_eq!(
                (answer.status, answer.problem().as_str()),
                (503, "/problems/stopping")
            );
            assert_eq!(answer.json()["outcome"], "unknown");
            assert_eq!(answer.json()["retriable"], true);
            answer.json()["offset"].as_u64().expect("an offset")
        })
        .collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (1..=10).collect::<Vec<_>>());

    cluster.master.start();
    cluster.wait_read_write();
    assert_eq!(
        cluster.master.messages().len(),
        11,
        "they were in the log and stay there"
    );
    cluster.secondaries[1].start();
    assert_eq!(cluster.append("after", 3).status, 201);
}

#[test]
fn an_interrupt_is_a_stop_and_a_second_signal_ends_it_at_once() {
    let mut cluster = Cluster::start(1, &["--memory"]);
    let node = cluster.secondaries[0].take();
    node.signal(Signal::INT);
    let mut node = node;
    assert_eq!(node.wait().code(), Some(0));

    // A reader that hangs in the middle of an answer keeps the master from stopping at once.
    for _ in 0..16 {
        let body = format!(
            r#"{{"data":"{}","meta":{{"concern":1}}}}"#,
            "x".repeat(1_000_000)
        );
        let answer = post(cluster.master.address, &body);
        // Without its secondary the master becomes read-only at some time.
        assert!([201, 503].contains(&answer.status), "{answer:?}");
    }
    let mut reader = Connection::open(cluster.master.address).expect("a connection");
    reader
        .send(b"GET /messages HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .expect("sent");
    let mut master = cluster.master.take();
    master.signal(Signal::TERM);
    eventually("it is stopping", || {
        master
            .log_text()
            .contains("SIGTERM: stopping")
            .then_some(())
    });
    master.signal(Signal::TERM);
    let status = master.wait();
    // 0 if the reader was faster than the second signal.
    assert!([Some(0), Some(1)].contains(&status.code()), "{status}");
}

#[test]
fn a_second_signal_ends_it_at_once_even_if_stderr_is_not_read() {
    let mut command = program();
    command.args(["cluster", "--port", "0", "--memory"]);
    let (stderr, writer) = io::pipe().expect("a pipe");
    let mut cluster = Process::heard_at(command, writer, Path::new("nowhere"));
    let line = cluster.line();
    let address = line.rsplit_once('/').expect("a URL").1;
    let address = address.parse().expect("an address");
    while cluster.line() != "ready" {}
    for _ in 0..16 {
        let text = message(&"x".repeat(1_000_000), 1);
        assert_eq!(post(address, &text).status, 201);
    }
    // As above, it keeps the cluster from stopping at once.
    let mut reader = Connection::open(address).expect("a connection");
    reader
        .send(b"GET /messages HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .expect("sent");
    reader.socket().peek(&mut [0]).expect("an answer");
    cluster.signal(Signal::TERM);
    let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("SIGTERM: stopping")));
    drop(lines);
    // A signal that comes together with the first does not count.
    let status = eventually("it ends", || {
        let ended = cluster.ended();
        if ended.is_none() {
            cluster.signal(Signal::TERM);
        }
        ended
    });
    assert_eq!(status.code(), Some(1));
}

/// Starts a pair whose log is longer than the buffers on the way to a reader.
fn cluster_with_long_messages(count: usize) -> Cluster {
    let cluster = Cluster::start(1, &["--memory"]);
    for _ in 0..count {
        let answer = cluster.append(&"x".repeat(1_000_000), 2);
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    cluster
}

#[test]
fn an_answer_in_flight_is_completed_before_the_end() {
    const MESSAGES: usize = 16;
    let mut cluster = cluster_with_long_messages(MESSAGES);
    let mut readers: Vec<Connection> = [cluster.master.address, cluster.secondaries[0].address]
        .into_iter()
        .map(|node| {
            let mut reader = Connection::open(node).expect("a connection");
            let head = b"GET /messages HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n";
            reader.send(head).expect("sent");
            // Its beginning is there: it is in flight.
            reader.socket().peek(&mut [0]).expect("an answer");
            reader
        })
        .collect();
    let mut nodes = [cluster.master.take(), cluster.secondaries[0].take()];
    for (node, reader) in nodes.iter_mut().zip(&mut readers) {
        node.signal(Signal::TERM);
        eventually("it is stopping", || {
            node.log_text().contains("SIGTERM: stopping").then_some(())
        });
        let answer = reader.answer().expect("all of it");
        assert_eq!(
            (answer.status, answer.text().lines().count()),
            (200, MESSAGES)
        );
        assert_eq!(node.wait().code(), Some(0));
    }
}

#[test]
fn a_follower_that_reads_nothing_holds_up_no_stop() {
    let mut cluster = cluster_with_long_messages(16);
    let mut followers: Vec<Connection> = [cluster.master.address, cluster.secondaries[0].address]
        .into_iter()
        .map(|node| {
            let mut follower = Connection::open(node).expect("a connection");
            let head = b"GET /messages?follow=true HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";
            follower.send(head).expect("sent");
            // The buffers are filling up.
            eventually("there is more than it reads", || {
                let there = follower.socket().peek(&mut [0; 32 << 10]);
                (there.expect("an answer") == 32 << 10).then_some(())
            });
            follower
        })
        .collect();
    let nodes = [cluster.master.take(), cluster.secondaries[0].take()];
    for (mut node, follower) in nodes.into_iter().zip(&mut followers) {
        node.signal(Signal::TERM);
        assert_eq!(node.wait().code(), Some(0));
        // It did not wait until the time for answers in flight was up. It closed the connection, unless it
        // was stopped before the buffers were full, and there was space for its last words.
        let closed = "closing 1 connection of followers and listeners that do not read";
        let said_bye = follower
            .answer()
            .is_ok_and(|answer| answer.text().contains("event: bye"));
        let log = node.log_text();
        assert!(said_bye || log.contains(closed), "{log}");
    }
}

#[test]
fn two_signals_that_come_together_are_one_request_to_stop() {
    let mut cluster = Cluster::start(1, &[]);
    let process = cluster.master.take();
    // It sees both when it resumes. `timeout` sends a signal to the program, and at once to its group.
    for signal in [Signal::STOP, Signal::TERM, Signal::INT, Signal::CONT] {
        process.signal(signal);
    }
    let mut process = process;
    assert_eq!(process.wait().code(), Some(0));
    let log = process.log_text();
    assert!(log.contains("] stopped"), "{log}");
}

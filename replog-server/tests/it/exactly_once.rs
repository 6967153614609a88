//! Secondaries that fail half of their requests, before and after they stored the records: every message is
//! there once, in one order, and no reader ever sees a gap.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use crate::{
    http::{Connection, JSON, message},
    nodes::Cluster,
};

const APPENDS: usize = 2_000;
const CLIENTS: usize = 32;

/// Reads repeatedly, and checks that each answer begins where the last one ended. Returns the number
/// of messages it has seen.
fn watch(address: SocketAddr, over: &AtomicBool) -> u64 {
    let mut connection = Connection::open(address).expect("a connection");
    let mut next = 0;
    loop {
        // Read before the answer: messages that were complete by then must be in it.
        let last_time = over.load(Ordering::Relaxed);
        let path = format!("/messages?from={next}");
        let body = connection
            .request("GET", &path, &[], None)
            .expect("an answer")
            .json();
        for message in body["messages"].as_array().expect("an array") {
            assert_eq!(message["offset"], next, "{address} shows a gap");
            next += 1;
        }
        assert_eq!(body["next"], next);
        if last_time {
            return next;
        }
        // Often enough to meet every state that lasts, without a load worth mentioning.
        thread::sleep(Duration::from_millis(1));
    }
}

fn append_some(address: SocketAddr, numbers: &AtomicUsize) {
    let mut connection = Connection::open(address).expect("a connection");
    loop {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        if number >= APPENDS {
            return;
        }
        let body = message(&format!("m{number}"), number % 3 + 1);
        let answer = connection
            .request("POST", "/messages", &[JSON], Some(body.as_bytes()))
            .expect("an answer");
        assert_eq!(answer.status, 201, "{answer:?}");
    }
}

#[test]
fn thousands_of_appends_are_there_once_although_every_other_request_fails() {
    let flags = [
        "--allow-faults",
        "--retry-min",
        "5ms",
        "--retry-max",
        "50ms",
    ];
    let cluster = Cluster::start(2, &flags);
    for (number, node) in cluster.secondaries.iter().enumerate() {
        let faults = format!(
            r#"{{"error_before_append":0.5,"error_after_append":0.5,"delay_ms":[0,3],"seed":{number}}}"#
        );
        let held = node.set_faults(&faults);
        assert_eq!(held["error_after_append"], 0.5);
    }
    let (over, numbers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let master = cluster.master.address;
    thread::scope(|scope| {
        let watchers: Vec<_> = cluster
            .secondaries
            .iter()
            .map(|node| {
                let (address, over) = (node.address, &over);
                scope.spawn(move || watch(address, over))
            })
            .collect();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| append_some(master, &numbers)))
            .collect();
        let appended: Vec<_> = clients
            .into_iter()
            .map(|client| client.join().is_ok())
            .collect();
        let equal = appended
            .iter()
            .all(|appended| *appended)
            .then(|| cluster.wait_equal());
        over.store(true, Ordering::Relaxed);
        for watcher in watchers {
            assert_eq!(watcher.join().expect("no gap"), APPENDS as u64);
        }
        assert_eq!(equal, Some(APPENDS as u64), "every append was answered");
    });
    let on_master = cluster.master.messages();
    let texts: BTreeSet<String> = on_master
        .iter()
        .map(|message| message["data"].to_string())
        .collect();
    assert_eq!(
        (on_master.len(), texts.len()),
        (APPENDS, APPENDS),
        "each is there once"
    );
    for node in &cluster.secondaries {
        assert_eq!(node.messages(), on_master, "{}", node.name);
    }
}

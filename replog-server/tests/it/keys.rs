//! Appends with an idempotency key are made once, whatever happens to the master.

use serde_json::Value;

use crate::{
    http::{Answer, JSON, post, request},
    nodes::{Cluster, eventually},
};

fn body(text: &str, key: &str, more: &str) -> String {
    format!(r#"{{"data":"{text}","meta":{{"idempotency_key":"{key}"{more}}}}}"#)
}

/// Sends one append until it is answered with a receipt, like a client that never gives up.
fn insist(cluster: &Cluster, body: &str) -> Answer {
    eventually("the append is answered", || {
        let address = cluster.master.address;
        let answer = request(address, "POST", "/messages", &[JSON], Some(body.as_bytes())).ok()?;
        if answer.status == 503 {
            let problem = answer.json();
            let recovering = problem["mode"] == "recovering";
            assert!(!recovering || problem["outcome"] == "unknown", "{problem}");
            return None;
        }
        assert!([200, 201].contains(&answer.status), "{answer:?}");
        Some(answer)
    })
}

#[test]
fn an_append_with_a_key_is_made_once_across_kills_and_restarts_of_the_master() {
    let mut cluster = Cluster::start(2, &[]);
    let mut receipts: Vec<Value> = Vec::new();
    for round in 0..4 {
        for number in 0..=round * 5 {
            let body = body(&format!("m{number}"), &format!("k{number}"), "");
            let answer = insist(&cluster, &body);
            let (receipt, known) = (answer.json(), receipts.get(number));
            let replayed = answer.header("idempotent-replayed") == Some("true");
            assert_eq!(
                (answer.status == 200, replayed),
                (known.is_some(), known.is_some())
            );
            if let Some(first) = known {
                assert_eq!(receipt["offset"], first["offset"], "rule 3");
                assert_eq!(receipt["epoch"], first["epoch"]);
            } else {
                receipts.push(receipt);
            }
        }
        // Once there is a snapshot, it is out of date at every other start.
        if round % 2 == 0 {
            cluster.master.kill();
        } else {
            cluster.master.terminate();
        }
        cluster.master.start();
    }
    cluster.wait_read_write();
    assert_eq!(cluster.wait_equal(), receipts.len() as u64, "rule 3");
    for node in &cluster.secondaries {
        assert_eq!(node.messages(), cluster.master.messages());
    }
}

#[test]
fn the_retry_of_an_append_that_waited_at_a_killed_master_finds_the_same_message() {
    let mut cluster = Cluster::start(2, &[]);
    cluster.secondaries[1].kill();
    let body = body("once", "k", r#","concern":3"#);
    let (address, sent) = (cluster.master.address, body.clone());
    let waits = std::thread::spawn(move || {
        // The connection breaks off.
        let _ = request(address, "POST", "/messages", &[JSON], Some(sent.as_bytes()));
    });
    cluster.wait_waiting(1);
    // What the secondary holds survives, no matter what the master had synced.
    eventually("the other secondary holds it", || {
        (cluster.secondaries[0].health()["log"]["next"] == 1).then_some(())
    });
    cluster.master.kill();
    waits.join().expect("no panic");
    cluster.master.start();
    cluster.secondaries[1].start();
    let answer = insist(&cluster, &body);
    assert_eq!(
        (answer.status, &answer.json()["offset"]),
        (200, &0.into()),
        "{answer:?}"
    );
    assert_eq!(cluster.wait_equal(), 1, "rule 3");
    let messages = cluster.master.messages();
    assert_eq!(messages[0]["idempotency_key"], "k");
}

#[test]
fn the_snapshot_of_keys_is_used_but_not_required() {
    let mut cluster = Cluster::start(1, &[]);
    for number in 0..10 {
        let body = body(&format!("m{number}"), &format!("k{number}"), "");
        assert_eq!(post(cluster.master.address, &body).status, 201);
    }
    let snapshot = cluster.master.directory.join("keys");
    assert!(!snapshot.exists());
    for (how, starts) in [("as it is", 2), ("damaged", 3), ("missing", 4)] {
        cluster.master.terminate();
        match how {
            "damaged" => std::fs::write(&snapshot, b"RLKY").expect("it is there"),
            "missing" => std::fs::remove_file(&snapshot).expect("it is there"),
            _ => assert!(snapshot.exists()),
        }
        cluster.master.start();
        cluster.wait_read_write();
        // Lines are written by a thread of their own, which may come later than the mode.
        let line = eventually("a line about the keys", || {
            let log = cluster.master.process().log_text();
            let mut lines = log
                .lines()
                .filter(|line| line.contains("reading the keys of the log's last records"));
            lines.nth(starts - 1).map(str::to_owned)
        });
        let records = if how == "as it is" {
            "records=0"
        } else {
            "records=10"
        };
        assert!(line.contains(records), "{how}: {line}");
        let answer = post(cluster.master.address, &body("m3", "k3", ""));
        assert_eq!(
            (answer.status, &answer.json()["offset"]),
            (200, &3.into()),
            "{how}"
        );
    }
}

#[test]
fn a_key_is_free_again_beyond_the_horizon() {
    let cluster = Cluster::start(1, &["--key-horizon", "3"]);
    let send = |key| post(cluster.master.address, &body("x", key, "")).status;
    let statuses = ["a", "b", "c", "a", "d", "a"].map(send);
    assert_eq!(statuses, [201, 201, 201, 200, 201, 201]);
}

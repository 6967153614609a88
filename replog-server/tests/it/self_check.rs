//! The check that this project grew from, with real processes; and the README's command.

use crate::{
    http::{self, get},
    nodes::{Cluster, PATIENCE, Process, eventually},
};

#[test]
fn a_blocked_append_waits_for_the_secondary_and_delays_no_other() {
    let mut cluster = Cluster::prepare(2, &[]);
    cluster.secondaries[0].start();
    cluster.master.start();
    cluster.wait_read_write();
    cluster.wait_alive(2);

    let first = cluster.append("Msg1", 1);
    assert_eq!(
        (first.status, first.header("location")),
        (201, Some("/messages/0"))
    );
    let second = cluster.append("Msg2", 2);
    assert_eq!(second.status, 201);
    assert_eq!(
        second.json()["acks"],
        serde_json::json!(["master", "secondary-1"])
    );

    let third = cluster.append_behind("Msg3", 3);
    let waiting = eventually("Msg3 waits for nobody but secondary-2", || {
        let waiting = cluster.wait_waiting(1)["appends"][0].clone();
        (waiting["acks"].as_array().map(Vec::len) == Some(2)).then_some(waiting)
    });
    assert_eq!(
        (&waiting["offset"], &waiting["concern"]),
        (&2.into(), &3.into())
    );
    assert_eq!(waiting["waiting_for"][0]["name"], "secondary-2");
    assert_eq!(waiting["waiting_for"][0]["reason"], "connection_refused");

    let fourth = cluster.append("Msg4", 1);
    assert_eq!(
        (fourth.status, &fourth.json()["offset"]),
        (201, &serde_json::json!(3))
    );
    assert!(third.try_recv().is_err(), "Msg3 waits for secondary-2");

    cluster.secondaries[1].start();
    let third = third.recv_timeout(PATIENCE).expect("Msg3 is answered");
    assert_eq!(
        (third.status, &third.json()["concern_met"]),
        (201, &serde_json::json!(true))
    );
    assert_eq!(third.json()["acks"].as_array().map(Vec::len), Some(3));
    assert_eq!(cluster.wait_equal(), 4);
    for node in &cluster.secondaries {
        assert_eq!(
            node.data(),
            ["Msg1", "Msg2", "Msg3", "Msg4"],
            "{}",
            node.name
        );
    }
}

#[test]
fn the_first_command_of_the_readme_works_as_written() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let data = directory.path().join("data").display().to_string();
    let cluster = Process::start(
        &["cluster", "--port", "0", "--data-dir", &data],
        &directory.path().join("log"),
    );
    let mut nodes = Vec::new();
    for expected in ["master", "secondary-1", "secondary-2"] {
        let line = cluster.line();
        let (name, url) = line.split_once(' ').expect("a name and a URL");
        assert_eq!(name, expected);
        let address = url.strip_prefix("http://").expect("a URL");
        nodes.push(address.parse().expect("an address"));
    }
    assert_eq!(cluster.line(), "ready");

    let body = r#"{"data": {"text": "Hello, world"}, "meta" : {"concern": 3 }}"#;
    let answer = http::post(nodes[0], body);
    assert_eq!(answer.status, 201, "{answer:?}");
    let receipt = answer.json();
    assert_eq!(receipt["offset"], 0);
    assert_eq!(receipt["concern"], 3);
    assert_eq!(
        receipt["acks"],
        serde_json::json!(["master", "secondary-1", "secondary-2"])
    );
    assert_eq!(receipt["waiting_for"], serde_json::json!([]));
    assert_eq!(receipt["durable"], true);
    for node in &nodes {
        let text = eventually("every node shows the message", || {
            let answer = get(*node, "/messages");
            answer
                .text()
                .contains("Hello")
                .then(|| answer.text().to_owned())
        });
        assert!(
            text.contains(r#""data":{"text": "Hello, world"}"#),
            "{text}"
        );
    }
    // A client at the wrong address is told where the master is.
    let answer = http::post(nodes[1], body);
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (421, "/problems/not-master")
    );
    assert_eq!(
        answer.json()["master"]["url"],
        format!("http://{}", nodes[0])
    );
    assert_eq!(cluster.terminate().code(), Some(0));
}

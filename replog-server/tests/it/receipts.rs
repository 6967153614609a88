//! Reasons why an append waits: the receipt gives one for each node that does not hold it.

use serde_json::Value;

use crate::{
    http::{get, post},
    nodes::{Cluster, eventually},
};

/// Appends until the receipt gives `reason` for secondary-2, and returns that entry.
fn waits_for(cluster: &Cluster, reason: &str) -> Value {
    eventually(
        &format!("an append waits for secondary-2 because of {reason}"),
        || {
            let body = r#"{"data":1,"meta":{"concern":3,"timeout_ms":50}}"#;
            let answer = post(cluster.master.address, body);
            assert_eq!(answer.status, 202, "{answer:?}");
            let receipt = answer.json();
            assert_eq!(
                (&receipt["concern"], &receipt["concern_met"]),
                (&3.into(), &false.into())
            );
            assert_eq!(
                answer.header("location").map(str::to_owned),
                receipt["offset"]
                    .as_u64()
                    .map(|offset| format!("/messages/{offset}"))
            );
            let waiting_for = receipt["waiting_for"].as_array().expect("an array");
            let entry = waiting_for
                .iter()
                .find(|entry| entry["name"] == "secondary-2");
            let entry = entry.unwrap_or_else(|| panic!("{receipt}"));
            (entry["reason"] == reason).then(|| entry.clone())
        },
    )
}

#[test]
fn a_receipt_names_the_missing_nodes_and_the_reasons() {
    let mut cluster = Cluster::start(2, &["--allow-faults"]);
    let faulty = &cluster.secondaries[1];

    faulty.set_faults(r#"{"block_replication":true}"#);
    let entry = waits_for(&cluster, "http_status");
    assert!(
        entry["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("an injected fault")),
        "{entry}"
    );
    eventually("heartbeats go on and records do not", || {
        (cluster.master.health()["secondaries"][1]["status"] == "Suspected").then_some(())
    });

    faulty.set_faults(r#"{"isolate":true}"#);
    eventually("an isolated secondary is Unhealthy", || {
        (cluster.master.health()["secondaries"][1]["status"] == "Unhealthy").then_some(())
    });
    assert_eq!(waits_for(&cluster, "timed_out")["status"], "Unhealthy");
    assert!(
        !faulty.messages().is_empty() || faulty.messages().is_empty(),
        "reads go on"
    );

    faulty.set_faults("{}");
    cluster.wait_equal();
    cluster.secondaries[1].kill();
    let entry = waits_for(&cluster, "connection_refused");
    assert!(
        entry["next_retry_ms"].is_u64() || entry["next_retry_ms"].is_null(),
        "{entry}"
    );

    // Any client can ask later, and gets the same answer from the message itself.
    let message = get(cluster.master.address, "/messages/0").json();
    assert!(
        message["acks"]
            .as_array()
            .is_some_and(|acks| acks.len() >= 2),
        "{message}"
    );
    assert!(message["waiting_for"].is_array(), "{message}");
    let message = get(cluster.secondaries[0].address, "/messages/0").json();
    assert!(
        message.get("acks").is_none(),
        "only the master knows: {message}"
    );
}

#[test]
fn a_timeout_of_the_server_applies_if_the_request_has_none() {
    let mut cluster = Cluster::start(2, &["--append-timeout", "100ms"]);
    cluster.secondaries[1].kill();
    let answer = cluster.append("late", 3);
    assert_eq!(
        (answer.status, &answer.json()["concern_met"]),
        (202, &false.into())
    );
    assert_eq!(cluster.append("in time", 2).status, 201);
}

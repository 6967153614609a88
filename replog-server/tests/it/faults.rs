//! `/faults`, with and without the flag that allows it.

use crate::{
    http::{JSON, get, request},
    nodes::Cluster,
};

#[test]
fn faults_are_replaced_shown_and_cleared_as_a_whole() {
    let cluster = Cluster::start(1, &["--allow-faults"]);
    let node = cluster.secondaries[0].address;
    let none = get(node, "/faults").json();
    assert_eq!(
        (&none["isolate"], &none["error_before_append"]),
        (&false.into(), &0.0.into())
    );
    let put = |body: &str| {
        request(node, "PUT", "/faults", &[JSON], Some(body.as_bytes())).expect("an answer")
    };
    assert_eq!(
        put(r#"{"block_replication":true,"seed":7}"#).json()["seed"],
        7
    );
    assert_eq!(
        put(r#"{"delay_ms":[1,2]}"#).json()["block_replication"],
        false
    );
    assert_eq!(
        get(node, "/faults").json()["delay_ms"],
        serde_json::json!([1, 2])
    );
    let bad = [
        "",
        "[]",
        "null",
        r#"{"unknown":1}"#,
        r#"{"isolate":1}"#,
        r#"{"error_before_append":1.5}"#,
        r#"{"error_after_append":-0.1}"#,
        r#"{"delay_ms":[5,1]}"#,
        r#"{"delay_ms":5}"#,
    ];
    for body in bad {
        let answer = put(body);
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (400, "/problems/malformed")
        );
    }
    assert_eq!(
        get(node, "/faults").json()["delay_ms"],
        serde_json::json!([1, 2]),
        "unchanged"
    );
    let cleared = request(node, "DELETE", "/faults", &[], None).expect("an answer");
    assert_eq!((cleared.status, cleared.json()), (200, none));
    let text = request(node, "PUT", "/faults", &[], Some(b"{}")).expect("an answer");
    assert_eq!(text.status, 415);
    assert_eq!(
        request(node, "POST", "/faults", &[], None)
            .expect("an answer")
            .status,
        405
    );
    assert_eq!(get(cluster.master.address, "/faults").status, 200);
}

#[test]
fn without_the_flag_there_are_no_faults() {
    let cluster = Cluster::start(1, &[]);
    for node in [cluster.master.address, cluster.secondaries[0].address] {
        for method in ["GET", "PUT", "DELETE", "POST"] {
            let answer = request(node, method, "/faults", &[JSON], Some(b"{}")).expect("an answer");
            assert_eq!(
                (answer.status, answer.problem().as_str()),
                (404, "/problems/not-found")
            );
        }
    }
}

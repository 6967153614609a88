//! Without a majority appends are refused at once with the reason, reads go on, and appends resume by themselves.

use std::time::{Duration, Instant};

use crate::{
    http::get,
    nodes::{Cluster, PATIENCE, eventually},
};

#[test]
fn appends_are_refused_without_a_quorum_and_resume_with_one() {
    let mut cluster = Cluster::start(2, &[]);
    assert_eq!(cluster.append("before", 3).status, 201);
    cluster.secondaries[0].kill();
    let waiting = cluster.append_behind("waits", 3);
    cluster.wait_waiting(1);
    cluster.secondaries[1].kill();
    let lost = Instant::now();

    let refused = eventually("an append is refused", || {
        // A time-out of 0: answered as soon as the master holds it, with or without a quorum.
        let body = r#"{"data":"x","meta":{"concern":1,"timeout_ms":0}}"#;
        let answer = crate::http::post(cluster.master.address, body);
        (answer.status == 503).then_some(answer)
    });
    assert!(
        lost.elapsed() < Duration::from_secs(10),
        "{:?}",
        lost.elapsed()
    );
    assert_eq!(refused.problem(), "/problems/read-only");
    assert!(refused.header("retry-after").is_some());
    let body = refused.json();
    assert_eq!(
        (&body["mode"], &body["mode_reason"]),
        (&"read-only".into(), &"no_quorum".into())
    );
    assert_eq!([&body["alive"], &body["needed"], &body["nodes"]], [1, 2, 3]);
    assert_eq!(
        (&body["outcome"], &body["retriable"]),
        (&"not_appended".into(), &true.into())
    );

    let asked = Instant::now();
    assert_eq!(cluster.append("refused at once", 1).status, 503);
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    let health = cluster.master.health();
    assert_eq!(health["mode"], "read-only");
    assert!(
        health["secondaries"].as_array().is_some_and(|all| all
            .iter()
            .all(|secondary| secondary["status"] == "Unhealthy"
                && secondary["reason"] == "connection_refused")),
        "{health}"
    );
    let answer = get(cluster.master.address, "/readyz/write");
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (503, "/problems/read-only")
    );
    assert_eq!(get(cluster.master.address, "/readyz").status, 200);
    assert_eq!(get(cluster.master.address, "/livez").status, 200);
    assert_eq!(cluster.master.data()[0], "before", "reads go on");
    assert!(waiting.try_recv().is_err(), "what waits keeps waiting");

    cluster.secondaries[0].start();
    cluster.wait_read_write();
    assert_eq!(cluster.append("after", 2).status, 201);
    cluster.secondaries[1].start();
    assert_eq!(
        waiting.recv_timeout(PATIENCE).expect("an answer").status,
        201
    );
    cluster.wait_equal();
    let data = cluster.master.data();
    assert!(!data.contains(&"refused at once".into()), "{data:?}");
    assert_eq!(cluster.secondaries[1].data(), data);
}

//! A restart of all nodes loses nothing.

use crate::{http::get, nodes::Cluster};

#[test]
fn a_stopped_cluster_resumes_where_it_was() {
    let mut cluster = Cluster::start(2, &[]);
    for number in 0..50 {
        assert_eq!(
            cluster.append(&format!("m{number}"), number % 3 + 1).status,
            201
        );
    }
    cluster.wait_equal();
    let before = cluster.master.messages();
    let health = cluster.master.health();
    for round in 1..=2 {
        cluster.master.terminate();
        for node in &mut cluster.secondaries {
            node.terminate();
        }
        for node in &mut cluster.secondaries {
            node.start();
            assert_eq!(node.messages(), before, "reads need no master");
            assert_eq!(get(node.address, "/readyz").status, 200, "it joined before");
        }
        cluster.master.start();
        cluster.wait_read_write();
        let now = cluster.master.health();
        assert_eq!(now["cluster_id"], health["cluster_id"]);
        assert!(
            now["epoch"].as_u64() > health["epoch"].as_u64(),
            "round {round}: {now}"
        );
        assert_eq!(cluster.master.messages(), before);
    }
    let receipt = cluster.append("after", 3);
    assert_eq!(
        (receipt.status, &receipt.json()["offset"]),
        (201, &before.len().into())
    );
}

#[test]
fn a_node_in_memory_says_that_it_is_not_durable() {
    let cluster = Cluster::start(1, &["--memory"]);
    let receipt = cluster.append("gone tomorrow", 2);
    assert_eq!(
        (receipt.status, &receipt.json()["durable"]),
        (201, &false.into())
    );
    assert!(!cluster.master.directory.exists(), "nothing is on disk");
}

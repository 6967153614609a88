//! A majority lost for good: a forced recovery, in the real program.

use std::fs;

use crate::{
    http,
    nodes::{Cluster, Node, client, eventually},
};

const FLAG: &str = "--force-recovery-and-lose-acknowledged-messages";

/// Returns the names and contents of the files that a node quarantined.
fn quarantine(node: &Node) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(node.directory.join("quarantine")) else {
        return Vec::new();
    };
    entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let bytes = fs::read(&path).expect("a file");
            (
                path.display().to_string(),
                String::from_utf8_lossy(&bytes).into_owned(),
            )
        })
        .collect()
}

#[test]
fn with_two_of_three_nodes_lost_the_third_is_recovered_only_by_force() {
    let mut cluster = Cluster::start(2, &[]);
    for number in 0..20 {
        assert_eq!(
            cluster.append(&format!("everywhere-{number}"), 3).status,
            201
        );
    }
    cluster.secondaries[1].kill();
    for number in 0..10 {
        assert_eq!(cluster.append(&format!("on-two-{number}"), 2).status, 201);
    }
    let before = cluster.master.health();
    cluster.secondaries[0].kill();
    cluster.master.kill();
    fs::remove_dir_all(&cluster.master.directory).expect("its directory");
    cluster.secondaries[1].start();

    cluster.master.start();
    eventually("it waits for the lost one", || {
        let health = cluster.master.health();
        let waiting = health["recovery"]["waiting_for"].as_array()?.clone();
        (health["cluster_id"] == before["cluster_id"] && waiting == ["secondary-1"]).then_some(())
    });
    assert_eq!(cluster.append("not yet", 1).status, 503);
    cluster.master.kill();
    cluster.master.add_flag(FLAG);
    cluster.master.start();
    cluster.wait_read_write();
    let health = cluster.master.health();
    assert_eq!(health["cluster_id"], before["cluster_id"]);
    assert_eq!(health["forced_epoch"], health["epoch"]);
    assert!(health["epoch"].as_u64() > Some(1 << 32), "{health}");
    let log = cluster.master.process().log_text();
    let shouted: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("ERROR") && line.contains("FORCED"))
        .collect();
    for (nth, part) in [
        (0, "secondary-1: no answer"),
        (0, "secondary-2: intact"),
        (1, "records from offset 20 on may be lost"),
    ] {
        assert!(shouted[nth].contains(part), "{part}: {shouted:?}");
    }
    assert_eq!(cluster.master.data().len(), 20, "what was on two is lost");
    assert_eq!(cluster.append("after", 2).status, 201);

    // The lost one was not lost after all.
    cluster.secondaries[0].start();
    cluster.wait_alive(3);
    assert_eq!(cluster.append("for all", 3).status, 201);
    cluster.wait_equal();
    let expected = cluster.master.data();
    assert_eq!(expected.len(), 22);
    for node in &cluster.secondaries {
        assert_eq!(node.data(), expected, "{}", node.name);
    }
    let kept = quarantine(&cluster.secondaries[0]);
    let [(path, content)] = &kept[..] else {
        panic!("{kept:?}");
    };
    assert!(path.contains("20-") && path.contains("30-epoch-"), "{path}");
    for number in 0..10 {
        assert!(content.contains(&format!("on-two-{number}")), "{number}");
    }
    assert!(!content.contains("everywhere"));
    let log = cluster.secondaries[0].process().log_text();
    assert!(log.contains("quarantined"), "it says so");
    assert!(quarantine(&cluster.secondaries[1]).is_empty());

    // The flag is left in place: nothing is forced again if a majority answers.
    cluster.master.terminate();
    cluster.master.start();
    cluster.wait_read_write();
    let again = cluster.master.health();
    assert_eq!(again["forced_epoch"], health["forced_epoch"]);
    let next = health["epoch"].as_u64().map(|epoch| epoch + 1);
    assert_eq!(again["epoch"].as_u64(), next);
    assert_eq!(cluster.master.data(), expected);
    let answer = http::get(cluster.master.address, "/readyz/write");
    assert_eq!(answer.status, 200);
}

#[test]
fn a_recovery_that_no_node_can_complete_says_everywhere_what_helps() {
    let mut cluster = Cluster::start(2, &[]);
    assert_eq!(cluster.append("kept", 3).status, 201);
    cluster.secondaries[0].kill();
    cluster.secondaries[1].kill();
    cluster.master.kill();
    for node in [&cluster.master, &cluster.secondaries[0]] {
        fs::remove_dir_all(&node.directory).expect("its directory");
    }
    let stuck = |cluster: &Cluster| {
        let recovery = cluster.master.health()["recovery"].clone();
        recovery["stuck"].is_object().then_some(recovery)
    };
    cluster.secondaries[1].start();
    cluster.master.start();
    eventually("it waits for the one that is down", || {
        let recovery = cluster.master.health()["recovery"].clone();
        (recovery["waiting_for"] == serde_json::json!(["secondary-1"])).then_some(())
    });
    assert_eq!(stuck(&cluster), None, "that one might have the log");
    cluster.secondaries[0].start();
    let recovery = eventually("it waits in vain", || stuck(&cluster));
    assert_eq!(recovery["stuck"]["reason"], "too_few_intact");
    let detail = recovery["stuck"]["detail"].as_str().expect("a sentence");
    for part in [
        "of damage: master, secondary-1;",
        FLAG,
        "operating/recovery.md",
    ] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    let health = cluster.master.health();
    assert_eq!(health["mode_reason"], "waiting_for_nodes");
    let refused = cluster.append("not yet", 1);
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains(FLAG), "{}", refused.text());
    let mut status = client();
    status.args([
        "--url",
        &format!("http://{}", cluster.master.address),
        "status",
    ]);
    let said = status.output().expect("the program runs");
    assert_eq!(said.status.code(), Some(10));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("cannot finish without an operator"), "{said}");
    let warnings = || {
        let log = cluster.master.process().log_text();
        let mut lines = log
            .lines()
            .filter(|line| line.contains("cannot finish without an operator"));
        let first = lines.next().map(str::to_owned);
        first.map(|first| (first, lines.count()))
    };
    let (warning, more) = eventually("it warns", warnings);
    assert!(warning.contains("WARN"), "{warning}");
    assert_eq!(more, 0, "once");
}

//! A secondary that was away, or was emptied, receives everything it lacks.

use std::fs;

use crate::{
    http::{get, post},
    nodes::{Cluster, eventually},
};

#[test]
fn a_secondary_that_was_away_or_emptied_receives_everything_it_lacks() {
    let mut cluster = Cluster::start(2, &[]);
    assert_eq!(get(cluster.secondaries[1].address, "/readyz").status, 200);
    cluster.append("before", 3);
    cluster.secondaries[1].kill();
    for number in 0..200 {
        assert_eq!(cluster.append(&format!("away-{number}"), 2).status, 201);
    }
    // Messages so long that a few fill a batch.
    for number in 0..12 {
        let body = format!(r#"{{"data":"{number}{}"}}"#, "x".repeat(500_000));
        assert_eq!(post(cluster.master.address, &body).status, 201);
    }
    cluster.secondaries[1].start();
    assert_eq!(cluster.wait_equal(), 213);
    let expected = cluster.master.messages();
    assert_eq!(cluster.secondaries[1].messages(), expected);

    cluster.secondaries[1].terminate();
    fs::remove_dir_all(&cluster.secondaries[1].directory).expect("its directory");
    assert_eq!(cluster.append("while it was empty", 2).status, 201);
    cluster.secondaries[1].start();
    assert_eq!(cluster.wait_equal(), 214);
    assert_eq!(cluster.secondaries[1].messages()[..213], expected[..]);
    eventually("it counts again", || {
        (cluster.secondaries[1].health()["intact"] == true).then_some(())
    });
    assert_eq!(cluster.append("with all", 3).status, 201);
}

#[test]
fn a_secondary_that_never_joined_is_empty_and_not_ready() {
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.secondaries[0].start();
    let node = &cluster.secondaries[0];
    assert_eq!(node.messages().len(), 0);
    assert_eq!(get(node.address, "/livez").status, 200);
    let answer = get(node.address, "/readyz");
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (503, "/problems/not-ready")
    );
    let health = node.health();
    assert_eq!(
        (&health["cluster_id"], &health["master"]),
        (&().into(), &().into()),
        "{health}"
    );
    assert_eq!(health["role"], "secondary");
}

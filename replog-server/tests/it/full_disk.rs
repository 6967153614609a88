//! A disk that really is full: a file system in memory of a few MiB, mounted below a node.
//!
//! Mounting needs root; without it, the tests say so and do nothing.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    http::{self, get},
    nodes::{Cluster, Node, eventually},
};

/// Size of the small file system, in bytes.
const DISK_BYTES: usize = 8 << 20;
/// Bytes that are taken from it at first, and given back later.
const BALLAST_BYTES: usize = 6 << 20;

/// A small file system, mounted as long as this lives.
struct SmallDisk {
    directory: PathBuf,
}

impl SmallDisk {
    /// Mounts it at an unused directory; returns `None` if that is not allowed.
    fn mount(directory: &Path) -> Option<SmallDisk> {
        fs::create_dir_all(directory).expect("a directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs"])
            .arg(directory)
            .output();
        match mounted {
            Ok(output) if output.status.success() => {}
            refused => {
                println!("skipped: no file system can be mounted here ({refused:?})");
                return None;
            }
        }
        let disk = SmallDisk {
            directory: directory.to_owned(),
        };
        let mut ballast = File::create(disk.ballast()).expect("a file");
        ballast
            .write_all(&vec![1; BALLAST_BYTES])
            .expect("room for it");
        Some(disk)
    }

    fn ballast(&self) -> PathBuf {
        self.directory.join("ballast")
    }

    /// Gives the ballast back.
    fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("the ballast is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy: the node's process still has files there, and ends after this.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.directory)
            .status();
    }
}

/// Starts a cluster of three with a small disk below one node. Returns `None` if no file system can be mounted.
fn with_small_disk(below: impl Fn(&Cluster) -> &Node) -> Option<(Cluster, SmallDisk)> {
    let mut cluster = Cluster::prepare(2, &[]);
    let disk = SmallDisk::mount(&below(&cluster).directory)?;
    for node in &mut cluster.secondaries {
        node.start();
    }
    cluster.master.start();
    cluster.wait_read_write();
    Some((cluster, disk))
}

fn text(number: usize) -> String {
    format!("{number}:{}", "x".repeat(50_000))
}

fn check_equal(cluster: &mut Cluster, acknowledged: &[String]) {
    cluster.wait_equal();
    let held: Vec<Value> = cluster.master.data();
    let mut rest = held.iter();
    for text in acknowledged {
        let found = rest.any(|data| data == text.as_str());
        assert!(found, "{} was acknowledged and is lost", &text[..10]);
    }
    cluster.master.terminate();
    let log = cluster.master.log_files();
    for node in &mut cluster.secondaries {
        node.terminate();
        assert!(node.log_files() == log, "{} differs", node.name);
    }
}

#[test]
fn a_master_on_a_full_disk_answers_507_and_takes_appends_again_by_itself() {
    let Some((mut cluster, disk)) = with_small_disk(|cluster| &cluster.master) else {
        return;
    };
    let epoch = cluster.master.health()["epoch"].as_u64();
    let mut acknowledged = Vec::new();
    let refused = loop {
        let text = text(acknowledged.len());
        let answer = cluster.append(&text, 2);
        if answer.status != 201 {
            break answer;
        }
        acknowledged.push(text);
    };
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (507, "/problems/storage")
    );
    let body = refused.json();
    assert_eq!(
        (&body["outcome"], &body["offset"]),
        (&"unknown".into(), &acknowledged.len().into()),
        "it had an offset"
    );

    let refused = cluster.append("at the door", 1);
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (507, "/problems/storage")
    );
    let body = refused.json();
    assert_eq!(
        (&body["outcome"], &body["retriable"], &body["offset"]),
        (&"not_appended".into(), &true.into(), &Value::Null)
    );
    let health = cluster.master.health();
    assert_eq!(health["log"]["disk"], "full");
    assert_eq!(
        (&health["mode"], &health["mode_reason"]),
        (&"recovering".into(), &"storage".into())
    );
    let ready = |path| get(cluster.master.address, path).status;
    assert_eq!(
        (ready("/readyz/write"), ready("/readyz"), ready("/livez")),
        (503, 200, 200)
    );
    let shown = cluster.master.data();
    assert_eq!(shown.len(), acknowledged.len(), "reads go on");

    disk.make_room();
    cluster.wait_read_write();
    let health = cluster.master.health();
    assert_eq!(health["log"]["disk"], "ok");
    assert!(health["epoch"].as_u64() > epoch, "{health}");
    for number in 0..10 {
        let text = format!("after, {number}");
        assert_eq!(cluster.append(&text, 3).status, 201);
        acknowledged.push(text);
    }
    check_equal(&mut cluster, &acknowledged);
}

#[test]
fn a_secondary_on_a_full_disk_is_named_and_catches_up_when_there_is_room() {
    let Some((mut cluster, disk)) = with_small_disk(|cluster| &cluster.secondaries[1]) else {
        return;
    };
    cluster.wait_alive(3);
    let mut acknowledged = Vec::new();
    for number in 0..70 {
        let text = text(number);
        assert_eq!(cluster.append(&text, 2).status, 201, "the others go on");
        acknowledged.push(text);
    }
    let waiting = cluster.append_behind("for all", 3);
    let appends = cluster.wait_waiting(1);
    let secondary = eventually("the full disk is named", || {
        let health = cluster.master.health();
        let secondary = health["secondaries"][1].clone();
        (secondary["status"] == "Unhealthy").then_some(secondary)
    });
    assert_eq!(secondary["reason"], "storage", "{appends}");
    assert_eq!(cluster.secondaries[1].health()["log"]["disk"], "full");
    let held = cluster.secondaries[1].messages();
    assert!(!held.is_empty() && held.len() < 70, "{}", held.len());
    assert!(waiting.try_recv().is_err());

    disk.make_room();
    let answer = waiting
        .recv_timeout(crate::nodes::PATIENCE)
        .expect("an answer");
    assert_eq!(answer.status, 201);
    acknowledged.push("for all".to_owned());
    assert_eq!(cluster.secondaries[1].health()["log"]["disk"], "ok");
    cluster.wait_alive(3);
    check_equal(&mut cluster, &acknowledged);
}

#[test]
fn a_node_that_is_killed_on_a_full_disk_starts_again_when_there_is_room() {
    let Some((mut cluster, disk)) = with_small_disk(|cluster| &cluster.master) else {
        return;
    };
    let mut acknowledged = Vec::new();
    loop {
        let text = text(acknowledged.len());
        let body = http::message(&text, 3);
        if http::post(cluster.master.address, &body).status != 201 {
            break;
        }
        acknowledged.push(text);
    }
    cluster.master.kill();
    disk.make_room();
    cluster.master.start();
    cluster.wait_read_write();
    assert_eq!(cluster.append("after", 3).status, 201);
    acknowledged.push("after".to_owned());
    check_equal(&mut cluster, &acknowledged);
}

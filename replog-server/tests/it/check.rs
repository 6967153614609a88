//! `replog check`: the directories of stopped nodes, inspected from outside.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    process::Output,
};

use replog_core::frame::encoded_len;
use serde_json::{Value, json};

use crate::nodes::{Cluster, client};

/// Number of messages in the log of every node here.
const MESSAGES: usize = 12;

/// Starts a master and a secondary, lets them take messages and stops them. Returns the epoch of those messages.
fn stopped_cluster() -> (Cluster, u64) {
    let mut cluster = Cluster::start(1, &[]);
    for number in 0..MESSAGES {
        assert_eq!(cluster.append(&format!("message {number}"), 2).status, 201);
    }
    cluster.wait_equal();
    let epoch = cluster.master.health()["epoch"].as_u64().expect("a number");
    cluster.master.terminate();
    cluster.secondaries[0].terminate();
    (cluster, epoch)
}

fn check(args: &[&str], directory: &Path) -> Output {
    client()
        .arg("check")
        .args(args)
        .arg(directory)
        .output()
        .expect("the program runs")
}

/// Returns the lines on stdout of a check that ended with this exit code and printed nothing else.
fn lines(output: &Output, code: i32) -> Vec<String> {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    text.lines().map(str::to_owned).collect()
}

/// Returns the reason on stderr of a check that failed and printed nothing on stdout.
fn reason(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "{text}");
    text.strip_prefix("replog: ")
        .expect("whose line it is")
        .trim_end()
        .to_owned()
}

/// Returns every file below a directory, with its content.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let content = fs::read(&path).expect("a file");
            found.insert(path, content);
        }
    }
    found
}

fn segment(directory: &Path) -> PathBuf {
    directory.join("log/00000000000000000000.log")
}

/// Returns the position of each record in a segment.
fn records(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut at = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes")) as usize;
    let mut records = Vec::new();
    while let Ok(length) = encoded_len(&bytes[at..]) {
        records.push(at..at + length);
        at += length;
    }
    records
}

#[test]
fn a_stopped_node_is_found_in_order_and_left_unchanged() {
    let (cluster, epoch) = stopped_cluster();
    for node in [&cluster.master, &cluster.secondaries[0]] {
        fs::remove_file(node.directory.join("lock")).expect("a lock file");
        let before = files(&node.directory);
        let found = lines(&check(&[], &node.directory), 0);
        assert_eq!(
            files(&node.directory),
            before,
            "not even a lock file is made"
        );
        assert_eq!(found.len(), 3, "{found:?}");
        let begin = format!("{}: node {}, cluster ", node.directory.display(), node.name);
        assert!(found[0].starts_with(&begin), "{found:?}");
        let end = format!(", log epoch {epoch}");
        assert!(found[0].ends_with(&end), "{found:?}");
        let bytes = before[&segment(&node.directory)].len();
        let expected = format!(
            "{MESSAGES} records in 1 segment, {bytes} bytes; end {MESSAGES}, mark {MESSAGES}"
        );
        assert_eq!(found[1], expected);
        assert_eq!(found[2], "nothing is wrong");
    }
}

#[test]
fn a_flipped_bit_is_reported_by_file_byte_and_offset() {
    let (cluster, epoch) = stopped_cluster();
    let directory = &cluster.master.directory;
    let path = segment(directory);
    let mut bytes = fs::read(&path).expect("a segment");
    let records = records(&bytes);
    assert_eq!(records.len(), MESSAGES);
    let damaged = &records[7];
    bytes[damaged.end - 3] ^= 0x10;
    fs::write(&path, bytes).expect("a file");

    let found = lines(&check(&[], directory), 1);
    assert_eq!(found[1].split(' ').next(), Some("11"), "{found:?}");
    assert_eq!(found[2], "1 finding of damage, 0 torn tails, 0 notes");
    let begin = format!(
        "{} at byte {}, offset 7: damage, the checksum is ",
        path.display(),
        damaged.start
    );
    assert!(found[3].starts_with(&begin), "{found:?}");
    assert!(
        found[3].ends_with("; offsets 7..8 cannot be read"),
        "{found:?}"
    );
    assert_eq!(found.len(), 4);

    let found = lines(&check(&["--json"], directory), 1);
    assert_eq!(found.len(), 1);
    let report: Value = serde_json::from_str(&found[0]).expect("JSON");
    assert_eq!(report["directory"], directory.display().to_string());
    assert_eq!(report["name"], "master");
    assert_eq!(
        (&report["intact"], &report["log_epoch"]),
        (&json!(true), &json!(epoch))
    );
    assert_eq!(
        (&report["segments"], &report["records"]),
        (&json!(1), &json!(11))
    );
    assert_eq!((&report["end"], &report["mark"]), (&json!(12), &json!(12)));
    assert_eq!(
        report["counts"],
        json!({"damage": 1, "torn_tail": 0, "note": 0})
    );
    let mut finding = report["findings"][0].clone();
    let what = finding["what"].take();
    assert!(
        what.as_str()
            .is_some_and(|what| what.starts_with("the checksum is ")),
        "{what}"
    );
    let expected = json!({
        "class": "damage",
        "path": "log/00000000000000000000.log",
        "position": damaged.start,
        "offset": 7,
        "until": 8,
        "torn_bytes": null,
        "what": null,
    });
    assert_eq!(finding, expected);
}

#[test]
fn a_torn_tail_is_reported_and_is_not_a_failure() {
    let (mut cluster, _) = stopped_cluster();
    let directory = cluster.secondaries[0].directory.clone();
    let path = segment(&directory);
    let whole = fs::read(&path).expect("a segment");
    let torn = &whole[records(&whole)[3].clone()][..50];
    fs::write(&path, [&whole[..], torn].concat()).expect("a file");
    let found = lines(&check(&[], &directory), 0);
    assert_eq!(found[2], "0 findings of damage, 1 torn tail, 0 notes");
    let begin = format!(
        "{} at byte {}, offset {MESSAGES}: torn tail, ",
        path.display(),
        whole.len()
    );
    assert!(found[3].starts_with(&begin), "{found:?}");
    assert!(
        found[3].ends_with("; the next start cuts 50 bytes away"),
        "{found:?}"
    );
    // And it does start.
    cluster.secondaries[0].start();
    cluster.secondaries[0].terminate();
    assert_eq!(fs::read(&path).expect("a segment"), whole);
    assert_eq!(lines(&check(&[], &directory), 0)[2], "nothing is wrong");
}

#[test]
fn a_running_node_is_not_inspected() {
    let mut cluster = Cluster::start(1, &[]);
    let directory = cluster.secondaries[0].directory.clone();
    for args in [&[][..], &["--json"]] {
        let refused = reason(&check(args, &directory), 1);
        let expected = "a node is running in the directory: stop it first";
        assert_eq!(refused, format!("{}: {expected}", directory.display()));
    }
    // It is not disturbed either.
    assert_eq!(cluster.append("goes on", 2).status, 201);
    cluster.secondaries[0].terminate();
    assert_eq!(lines(&check(&[], &directory), 0)[2], "nothing is wrong");
}

#[test]
fn a_directory_with_one_folder_per_node_is_checked_node_by_node() {
    let (mut cluster, _) = stopped_cluster();
    let all = cluster
        .master
        .directory
        .parent()
        .expect("a directory")
        .to_owned();
    let found = lines(&check(&[], &all), 0);
    assert_eq!(found.len(), 3 + 1 + 3, "{found:?}");
    assert!(found[0].contains(": node master, cluster "), "{found:?}");
    assert!(
        found[4].contains(": node secondary-1, cluster "),
        "{found:?}"
    );
    let found = lines(&check(&["--json"], &all), 0);
    let names: Vec<Value> = found
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["name"].clone())
        .collect();
    assert_eq!(names, ["master", "secondary-1"]);

    // A running node does not hide the other one, and is reported.
    cluster.secondaries[0].start();
    let output = check(&[], &all);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3);
    assert!(String::from_utf8_lossy(&output.stderr).contains("secondary-1: a node is running"));
}

#[test]
fn targets_that_cannot_be_checked_are_reported_in_one_line() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let empty = reason(&check(&[], directory.path()), 1);
    assert!(empty.contains("not a node's directory"), "{empty}");
    assert!(files(directory.path()).is_empty());
    let missing = directory.path().join("missing");
    assert!(reason(&check(&[], &missing), 1).contains("No such file or directory"));
    assert!(!missing.exists());
    fs::write(directory.path().join("file"), "x").expect("a file");
    let file = reason(&check(&[], &directory.path().join("file")), 1);
    assert!(file.contains("not a directory"), "{file}");

    for args in [
        &[][..],
        &["fly"],
        &["check"],
        &["check", "--fast", "x"],
        &["check", "a", "http://localhost:1"],
    ] {
        let output = client().args(args).output().expect("the program runs");
        reason(&output, 2);
    }
    for args in [
        &["--help"][..],
        &["--version"],
        &["check", "--help"],
        &["help", "check"],
    ] {
        let output = client().args(args).output().expect("the program runs");
        assert_eq!(
            (output.status.code(), output.stderr.len()),
            (Some(0), 0),
            "{args:?}"
        );
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn directories_of_two_clusters_are_not_checked_as_one() {
    let [one, other] = [stopped_cluster().0, stopped_cluster().0];
    let output = check(
        &[&one.master.directory.display().to_string()],
        &other.secondaries[0].directory,
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("belong to 2 different clusters"), "{said}");
    let output = check(
        &[&one.master.directory.display().to_string()],
        &one.secondaries[0].directory,
    );
    lines(&output, 0);
}

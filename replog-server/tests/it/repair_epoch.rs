//! `replog repair-epoch`: repairs a cluster that was poisoned before epochs had bounds.

use std::{fs, path::Path, process::Output};

use crate::nodes::{Cluster, Node, client};

/// The epoch of a stranger, which no master can follow.
const POISON: u64 = 1 << 63;

/// CRC-32C (RFC 3720, section 12.1), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    };
    !bytes.iter().fold(!0, step)
}

/// Raises a node's promise to this epoch, as an earlier version did for any stranger.
fn poison(directory: &Path) {
    let path = directory.join("meta.json");
    let text = fs::read_to_string(&path).expect("a meta file");
    let (_, rest) = text.split_once("\"meta\": ").expect("its fields");
    let mut meta = rest
        .trim_end()
        .strip_suffix('}')
        .expect("the end")
        .trim_end()
        .to_owned();
    let promised = meta.find("\"promised\": {").expect("a promise");
    let epoch =
        promised + meta[promised..].find("\"epoch\": ").expect("its epoch") + "\"epoch\": ".len();
    let end = epoch + meta[epoch..].find(',').expect("more behind it");
    meta.replace_range(epoch..end, &POISON.to_string());
    let crc = crc32c(meta.as_bytes());
    let text = format!("{{\n\"format\": 2,\n\"crc32c\": \"{crc:08x}\",\n\"meta\": {meta}\n}}\n");
    fs::write(path, text).expect("room for it");
}

fn repair(nodes: &[&Node]) -> Output {
    let directories = nodes.iter().map(|node| &node.directory);
    let output = client().arg("repair-epoch").args(directories).output();
    output.expect("the program runs")
}

#[test]
fn a_poisoned_cluster_is_repaired_as_the_book_says() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    let mut cluster = Cluster::start(2, &[]);
    for text in ["one", "two"] {
        assert_eq!(cluster.append(text, 3).status, 201);
    }
    cluster.wait_equal();
    let running = repair(&[
        &cluster.master,
        &cluster.secondaries[0],
        &cluster.secondaries[1],
    ]);
    assert_eq!(running.status.code(), Some(1), "{running:?}");
    cluster.master.terminate();
    cluster.secondaries.iter_mut().for_each(Node::terminate);
    poison(&cluster.secondaries[0].directory);

    // It says at its start what to do.
    cluster.secondaries[0].launch();
    let mut process = cluster.secondaries[0].take();
    assert_eq!(process.wait().code(), Some(1));
    let log = process.log_text();
    assert!(log.contains("repair-epoch"), "{log}");
    drop(process);

    // The directory above is not accepted, and the message names the nodes' directories in it.
    let above = cluster.master.directory.parent().expect("it has one");
    let said = client()
        .arg("repair-epoch")
        .arg(above)
        .output()
        .expect("it runs");
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    for node in cluster.secondaries.iter().chain([&cluster.master]) {
        assert!(said.contains(&*node.directory.to_string_lossy()), "{said}");
    }

    // It refuses an incomplete list of directories.
    let meta = |node: &Node| fs::read(node.directory.join("meta.json")).expect("a file");
    let before = meta(&cluster.secondaries[0]);
    let some = repair(&[&cluster.master, &cluster.secondaries[0]]);
    assert_eq!(some.status.code(), Some(1), "{some:?}");
    assert!(
        String::from_utf8_lossy(&some.stderr).contains("secondary-2"),
        "{some:?}"
    );
    assert_eq!(meta(&cluster.secondaries[0]), before);

    let all = [
        &cluster.master,
        &cluster.secondaries[0],
        &cluster.secondaries[1],
    ];
    let repaired = repair(&all);
    assert_eq!(repaired.status.code(), Some(0), "{repaired:?}");
    let said = String::from_utf8_lossy(&repaired.stdout).into_owned();
    let expected = format!("secondary-1: had promised epoch {POISON}, and now epoch ");
    assert!(said.contains(&expected), "{said}");
    assert_eq!(
        said.matches("is filled from the master's").count(),
        1,
        "{said}"
    );
    let again = repair(&all);
    assert!(
        String::from_utf8_lossy(&again.stdout).contains("nothing to repair"),
        "{again:?}"
    );

    cluster.secondaries.iter_mut().for_each(Node::start);
    cluster.master.start();
    cluster.wait_read_write();
    cluster.wait_alive(3);
    assert_eq!(cluster.append("three", 3).status, 201);
    cluster.wait_equal();
    for node in cluster.secondaries.iter().chain([&cluster.master]) {
        assert_eq!(node.data(), ["one", "two", "three"], "{}", node.name);
    }
}

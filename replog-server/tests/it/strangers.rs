//! Mistaken identities: refused with a reason at both ends, and nothing is changed.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
};

use serde_json::Value;

use crate::{
    chaos::links::Link,
    http::{self, get},
    nodes::{Cluster, Process, eventually, free_port},
};

/// Returns the reason why the oldest waiting append waits for this node.
fn why(master: SocketAddr, node: &str, reason: &str) -> Value {
    eventually("the reason is named", || {
        let appends = get(master, "/appends").json();
        let waiting_for = appends["appends"][0]["waiting_for"].as_array()?.clone();
        let found = waiting_for.into_iter().find(|w| w["name"] == node)?;
        (found["reason"] == reason).then_some(found)
    })
}

/// Builds a master over these secondaries, in a directory below `directory`, with the secret in this file.
fn start_master(
    directory: &Path,
    secret_file: &Path,
    secondaries: &[(&str, String)],
) -> (Process, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (listen, data) = (address.to_string(), directory.join("data"));
    let data = data.display().to_string();
    let secret_file = secret_file.display().to_string();
    let peers: Vec<String> = secondaries
        .iter()
        .map(|(name, address)| format!("--secondary={name}={address}"))
        .collect();
    let mut args = vec!["master", "--listen", &listen, "--data-dir", &data];
    args.extend(["--cluster-listen", "127.0.0.1:0"]);
    args.extend(["--cluster-secret-file", &secret_file]);
    args.extend(["--heartbeat-interval", "100ms", "--suspect-after", "500ms"]);
    args.extend(["--unhealthy-after", "1500ms"]);
    args.extend(peers.iter().map(String::as_str));
    let process = Process::start(&args, &directory.join("log"));
    process.line();
    (process, address)
}

#[test]
fn two_names_that_lead_to_one_process_count_as_one_node() {
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.secondaries[0].start();
    let secondary = &cluster.secondaries[0];
    // The wrong name comes later: a refusal is logged again after a stream from the same address works.
    let other_way = Link::open(secondary.cluster_address);
    other_way.refuse();
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let (_process, master) = start_master(
        directory.path(),
        &cluster.secret_file(),
        &[
            ("secondary-1", secondary.cluster_address.to_string()),
            ("secondary-2", other_way.address.to_string()),
        ],
    );
    eventually("it takes appends", || {
        (get(master, "/readyz/write").status == 200).then_some(())
    });
    assert_eq!(http::post(master, &http::message("two", 2)).status, 201);
    other_way.mend();
    let body = r#"{"data":"three","meta":{"concern":3,"timeout_ms":0}}"#;
    assert_eq!(http::post(master, body).status, 202);
    // An append waits for all three, so that the reason is visible.
    std::thread::spawn(move || http::post(master, &http::message("waits", 3)));
    let found = why(master, "secondary-2", "wrong_node");
    let detail = found["detail"].as_str().expect("a sentence");
    assert!(detail.contains("proves that it is secondary-1"), "{detail}");
    assert_eq!(get(master, "/health").json()["quorum"]["nodes"], 3);
    let attempts = || get(master, "/health").json()["secondaries"][1]["failed_attempts"].as_u64();
    let before = attempts().expect("a number");
    eventually("it tries again and again", || {
        (attempts()? >= before + 3).then_some(())
    });
    let log = secondary.process().log_text();
    let refused = log.lines().filter(|line| line.contains("refused"));
    let refused: Vec<&str> = refused.collect();
    assert_eq!(refused.len(), 1, "said at this end too, once: {refused:?}");
    assert!(
        refused[0].contains("expected a node other than secondary-1"),
        "{refused:?}"
    );
}

#[test]
fn a_master_of_another_cluster_or_with_another_list_changes_nothing() {
    let mut cluster = Cluster::start(2, &[]);
    assert_eq!(cluster.append("kept", 3).status, 201);
    let secondary = &cluster.secondaries[0];
    let before = secondary.health();
    let meta = || fs::read(secondary.directory.join("meta.json")).expect("a meta");
    let meta_before = meta();

    // A blank master that knows only one secondary.
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let (secret, address) = (cluster.secret_file(), secondary.cluster_address.to_string());
    let (process, other) = start_master(directory.path(), &secret, &[("secondary-1", address)]);
    eventually("it says why it founds nothing", || {
        let log = process.log_text();
        log.contains("belongs to cluster").then_some(())
    });
    let health = get(other, "/health").json();
    assert_eq!(
        (&health["mode"], &health["cluster_id"]),
        (&"recovering".into(), &Value::Null)
    );
    assert_eq!(process.terminate().code(), Some(0));

    // A master of its own cluster, which is then given a secondary of this one.
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let secret_text = secret.display().to_string();
    let mut own = Cluster::prepare(2, &["--cluster-secret-file", &secret_text]);
    for node in &mut own.secondaries {
        node.start();
    }
    let addresses = |nodes: [SocketAddr; 2]| {
        [
            ("secondary-1", nodes[0].to_string()),
            ("secondary-2", nodes[1].to_string()),
        ]
    };
    let [first, second] =
        [&own.secondaries[0], &own.secondaries[1]].map(|node| node.cluster_address);
    let (process, other) = start_master(directory.path(), &secret, &addresses([first, second]));
    eventually("it takes appends", || {
        (get(other, "/readyz/write").status == 200).then_some(())
    });
    assert_eq!(http::post(other, &http::message("other", 3)).status, 201);
    assert_eq!(process.terminate().code(), Some(0));
    let both = addresses([secondary.cluster_address, second]);
    let (_process, other) = start_master(directory.path(), &secret, &both);
    eventually("it takes appends", || {
        (get(other, "/readyz/write").status == 200).then_some(())
    });
    std::thread::spawn(move || http::post(other, &http::message("waits", 3)));
    why(other, "secondary-1", "wrong_node");
    let log = secondary.process().log_text();
    assert!(log.contains("it comes from another cluster"), "{log}");

    assert_eq!(meta(), meta_before, "nothing is overwritten");
    let now = secondary.health();
    for field in ["cluster_id", "epoch", "intact"] {
        assert_eq!(now[field], before[field], "{field}");
    }
    assert_eq!(cluster.append("still kept", 3).status, 201);
    cluster.master.terminate();
}

#[test]
fn a_directory_of_another_node_is_refused_and_left_unchanged() {
    let mut cluster = Cluster::start(2, &[]);
    assert_eq!(cluster.append("kept", 3).status, 201);
    cluster.secondaries[0].terminate();
    cluster.secondaries[1].terminate();
    let [from, to] = [&cluster.secondaries[0], &cluster.secondaries[1]];
    let meta = fs::read(from.directory.join("meta.json")).expect("a meta");
    fs::write(to.directory.join("meta.json"), &meta).expect("room for it");
    let data = to.directory.display().to_string();
    let args = [
        "secondary",
        "--name",
        "secondary-2",
        "--listen",
        "127.0.0.1:0",
    ];
    let output = crate::nodes::program()
        .args(args)
        .args(["--data-dir", &data])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let reason = String::from_utf8_lossy(&output.stderr);
    assert!(reason.contains("belongs to node secondary-1"), "{reason}");
    let after = fs::read(to.directory.join("meta.json")).expect("a meta");
    assert_eq!(after, meta, "nothing is overwritten");
}

#[test]
fn a_client_at_the_wrong_port_is_told_the_right_one() {
    let cluster = Cluster::start(1, &["--memory"]);
    let node = &cluster.secondaries[0];
    let answer = http::request(node.cluster_address, "GET", "/health", &[], None);
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 400, "{answer:?}");
    let url = format!("http://{}", node.address);
    assert!(answer.text().contains(&url), "{answer:?}");

    // The other way round, and another kind of client.
    for (first, words) in [
        (&b"\x16\x03\x01\0\x05\x01\0\0\x01\x03"[..], "plain HTTP"),
        (b"SSH-2.0-OpenSSH_10.0\r\n\r\n", "400 Bad Request"),
    ] {
        for _ in 0..3 {
            let mut stream = TcpStream::connect(node.address).expect("a connection");
            stream
                .set_read_timeout(Some(http::ANSWER_TIME_MAX))
                .expect("a time-out");
            stream.write_all(first).expect("sent");
            let mut answer = String::new();
            stream
                .read_to_string(&mut answer)
                .expect("an answer and the end");
            assert!(answer.contains(words), "{answer}");
        }
    }
    let metrics = get(node.address, "/metrics");
    let counted = "replog_client_connections_refused_total{reason=\"not_http\"} 3\n";
    assert!(metrics.text().contains(counted), "{}", metrics.text());
    let log = node.process().log_text();
    assert!(!log.contains("actix_http"), "{log}");
}

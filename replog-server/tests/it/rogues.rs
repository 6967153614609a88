//! Peers without the cluster secret, or with another one, at a node's listener or in a node's place: they learn
//! nothing and change nothing.

use std::{
    fs,
    future::Future,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use futures_util::future::BoxFuture;
use replog_core::{
    Epoch, Incarnation, InstanceId, NodeName, Offset, Peer,
    error::Stopped,
    transport::{
        Hello, Network as _, NodeState, Progress, Promise, Request, RequestBody, Response, Serve,
        TransportError,
        net::{ClusterIdentity, ClusterListener, ClusterNetwork, ClusterSecret, ServeOptions},
    },
};
use serde_json::{Value, json};

use crate::{
    http::get,
    nodes::{Cluster, PATIENCE, Process, eventually, free_port},
};

/// An epoch that no master could follow.
const LAST_EPOCH: Epoch = Epoch((1 << 62) - 1);

fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a name")
}

/// Runs a future whose tasks need their own thread.
fn run<T>(story: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, story)
}

/// Returns the part of a node's state that no stranger may change. The committed end is left out: it follows
/// with the next heartbeat.
fn state(health: &Value) -> [Value; 5] {
    let own = ["cluster_id", "epoch", "mode"].map(|field| health[field].clone());
    let log = ["next", "bytes"].map(|field| health["log"][field].clone());
    let ([cluster, epoch, mode], [next, bytes]) = (own, log);
    [cluster, epoch, mode, next, bytes]
}

/// Returns every request that a master sends, in the highest possible epoch, with every power over a log.
fn requests(to: &str) -> Vec<Request> {
    let nodes: Vec<NodeName> = ["master", "secondary-1", "secondary-2"].map(name).to_vec();
    let rogue = Incarnation {
        instance: InstanceId::from_bytes([7; 16]),
        start: u64::MAX,
    };
    let bodies = [
        RequestBody::Identify,
        RequestBody::Promise(Promise {
            nodes: nodes.clone(),
            log_epoch: Some(LAST_EPOCH),
        }),
        RequestBody::Hello(Hello {
            nodes,
            log_epoch: Some(LAST_EPOCH),
            public_url: Some("http://rogue.example".parse().expect("a URL")),
            end: Offset(0),
            adopted_end: Offset(0),
            epoch_starts: Vec::new(),
            epoch_starts_end: Offset(0),
            forced_epoch: Some(LAST_EPOCH),
        }),
        RequestBody::Heartbeat(Progress {
            to_incarnation: rogue,
            end: Offset(0),
            committed: Some(Offset(1 << 40)),
            refill_target: None,
        }),
    ];
    let request = |body| Request {
        cluster: None,
        from: name("master"),
        incarnation: rogue,
        to: name(to),
        epoch: LAST_EPOCH,
        body,
    };
    bodies.into_iter().map(request).collect()
}

/// Sends all [`requests`] to the node at `address`, as `identity`; returns the errors.
fn ask(identity: &ClusterIdentity, node: &str, address: SocketAddr) -> Vec<TransportError> {
    run(async {
        let peer = Peer {
            name: name(node),
            address: address.to_string(),
        };
        let network = ClusterNetwork::new(identity.clone(), Default::default());
        let mut told = Vec::new();
        for request in requests(node) {
            let transport = network.connect(&peer);
            let answer = tokio::time::timeout(PATIENCE, transport.call(request)).await;
            told.push(answer.expect("in time").expect_err("it is refused"));
        }
        told
    })
}

/// Returns the number of connections that the node's listener refused for this reason.
fn refused(node: SocketAddr, reason: &str) -> u64 {
    let answer = get(node, "/metrics");
    let metrics = answer.text();
    let series = format!("replog_cluster_connections_refused_total{{reason=\"{reason}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&series));
    value.and_then(|value| value.parse().ok()).expect("a count")
}

#[test]
fn a_peer_with_another_secret_or_none_is_not_a_node() {
    let cluster = Cluster::start(2, &[]);
    assert_eq!(cluster.append("kept", 3).status, 201);
    cluster.wait_equal();
    let node = &cluster.secondaries[0];
    let before = state(&node.health());
    let master_before = state(&cluster.master.health());

    let other_secret = ClusterSecret::from_bytes([1; 32]);
    let rogue = ClusterIdentity::from_secret(&other_secret, &name("master")).expect("an identity");
    for error in ask(&rogue, "secondary-1", node.cluster_address) {
        assert!(matches!(error, TransportError::WrongSecret(_)), "{error:?}");
    }
    let without = ClusterIdentity::insecure(&name("master"));
    ask(&without, "secondary-1", node.cluster_address);
    // At the master's listener too, as a peer that says it is a secondary.
    let secondary = ClusterIdentity::from_secret(&other_secret, &name("secondary-1"));
    ask(
        &secondary.expect("an identity"),
        "master",
        cluster.master.cluster_address,
    );

    assert_eq!(state(&node.health()), before);
    assert_eq!(state(&cluster.master.health()), master_before);
    assert!(refused(node.address, "wrong_secret") >= 4);
    let log = node.process().log_text();
    let lines = log
        .lines()
        .filter(|line| line.contains("different cluster secrets"));
    let lines: Vec<&str> = lines.collect();
    assert_eq!(
        lines.len(),
        1,
        "logged once, not for each attempt: {lines:?}"
    );
    assert!(lines[0].contains("cluster.secret"), "{lines:?}");
    assert_eq!(cluster.append("still kept", 3).status, 201);
}

#[test]
fn a_node_cannot_speak_as_another_node() {
    let cluster = Cluster::start(2, &[]);
    assert_eq!(cluster.append("kept", 3).status, 201);
    let node = &cluster.secondaries[0];
    let before = state(&node.health());
    let secret = ClusterSecret::load(&cluster.secret_file()).expect("the cluster's");
    // It has the secret of the cluster, and speaks in the name of another node.
    let other = ClusterIdentity::from_secret(&secret, &name("secondary-2")).expect("an identity");
    ask(&other, "secondary-1", node.cluster_address);
    assert_eq!(state(&node.health()), before);
    assert!(refused(node.address, "wrong_name") > 0);
    assert_eq!(cluster.append("still kept", 3).status, 201);
}

#[test]
fn clients_browsers_and_noise_get_nothing_at_the_listener_for_nodes() {
    let cluster = Cluster::start(1, &[]);
    assert_eq!(cluster.append("kept", 2).status, 201);
    let node = &cluster.secondaries[0];
    let before = state(&node.health());
    let id = before[0].as_str().expect("a cluster");
    check_noise_gets_nothing(node.cluster_address, node.address, &[id, "secondary-1"]);
    assert_eq!(state(&node.health()), before);
    assert_eq!(cluster.append("still kept", 2).status, 201);
}

#[test]
fn strangers_get_nothing_at_a_listener_that_other_machines_reach() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let file = directory.path().join("cluster.secret");
    let port = free_port();
    let args = [
        "secondary",
        "--name=secondary-1",
        "--memory",
        "--listen=0.0.0.0:0",
        &format!("--cluster-listen=0.0.0.0:{port}"),
        "--cluster-secret-file",
        &file.display().to_string(),
    ];
    let process = Process::start(&args, &directory.path().join("log"));
    let line = process.line();
    let (_, clients_port) = line.rsplit_once(':').expect("a port");
    let clients = SocketAddr::from(([127, 0, 0, 1], clients_port.parse().expect("a port")));
    let before = state(&get(clients, "/health").json());
    let rogue = ClusterSecret::from_bytes([1; 32]);
    let rogue = ClusterIdentity::from_secret(&rogue, &name("master")).expect("an identity");
    for own in [[127, 0, 0, 1], [127, 0, 0, 9]] {
        let nodes = SocketAddr::from((own, port));
        check_noise_gets_nothing(nodes, clients, &["secondary-1"]);
        for error in ask(&rogue, "secondary-1", nodes) {
            assert!(matches!(error, TransportError::WrongSecret(_)), "{error:?}");
        }
    }
    assert_eq!(state(&get(clients, "/health").json()), before);
}

/// Checks that input from anything but a node ends its connection to the listener for nodes, and that no answer has one
/// of these words.
fn check_noise_gets_nothing(nodes: SocketAddr, clients: SocketAddr, words: &[&str]) {
    let upgrade = "GET /replication/v1/stream HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\n\
                   upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let noise = [0_u8; 4096];
    let nothing_more = [0x16_u8, 3, 1, 0xff, 0xff];
    let inputs: [&[u8]; 6] = [
        b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST /replication/v1 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nx",
        upgrade.as_bytes(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &noise,
        &nothing_more,
    ];
    for input in inputs {
        let mut stream = TcpStream::connect(nodes).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        // It may be closed before everything is sent.
        let _ = stream.write_all(input);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("it is not closed: {error}"),
        }
        let said = String::from_utf8_lossy(&answer);
        assert!(!words.iter().any(|word| said.contains(word)), "{said}");
    }
    assert!(refused(clients, "http") >= 3);
    assert!(refused(clients, "garbage") >= 1);
}

#[test]
fn heartbeats_are_not_held_up_by_connections_of_strangers() {
    let cluster = Cluster::start(1, &[]);
    let node = &cluster.secondaries[0];
    // Far more than the maximum number of handshakes; none of them ever sends a byte.
    let silent: Vec<TcpStream> = (0..200)
        .map_while(|_| TcpStream::connect(node.cluster_address).ok())
        .collect();
    assert!(silent.len() > 100, "{}", silent.len());
    for number in 0..20 {
        assert_eq!(cluster.append(&format!("{number}"), 2).status, 201);
        let health = cluster.master.health();
        assert_eq!(health["secondaries"][0]["status"], "Healthy", "{health}");
    }
}

/// Starts a listener that records every byte it gets and answers nothing.
fn eavesdropper() -> (SocketAddr, std::sync::mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (sender, received) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = stream;
            let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
            let mut bytes = Vec::new();
            // Ends with an error if the other end waits for an answer.
            let _ = stream.read_to_end(&mut bytes);
            if sender.send(bytes).is_err() {
                break;
            }
        }
    });
    (address, received)
}

/// Returns the first bytes that a node sends to another one, over TLS.
pub(crate) fn hello() -> Vec<u8> {
    let (address, received) = eavesdropper();
    let secret = ClusterSecret::from_bytes([1; 32]);
    let identity = ClusterIdentity::from_secret(&secret, &name("master")).expect("an identity");
    run(async {
        let peer = Peer {
            name: name("secondary-1"),
            address: address.to_string(),
        };
        let network = ClusterNetwork::new(identity, Default::default());
        let request = requests("secondary-1").remove(0);
        let called = network.connect(&peer).call(request);
        let called = tokio::time::timeout(PATIENCE, called).await;
        called.expect("it ends").expect_err("nothing answers");
    });
    received.recv_timeout(PATIENCE).expect("it was sent")
}

/// A node that answers everything that a master could wish for.
struct Liar;

impl Serve for Liar {
    fn serve(&self, request: Request) -> BoxFuture<'static, Result<Response, Stopped>> {
        Box::pin(async move {
            Ok(Response {
                cluster: request.cluster,
                name: request.to,
                incarnation: Incarnation {
                    instance: InstanceId::from_bytes([9; 16]),
                    start: 1,
                },
                state: NodeState {
                    durable_end: Offset(1 << 40),
                    log_epoch: Some(LAST_EPOCH),
                    promised: LAST_EPOCH,
                    buffered: 0,
                },
                answer: replog_core::transport::Answer::Taken,
            })
        })
    }
}

#[test]
fn a_rogue_in_a_secondarys_place_learns_nothing_and_changes_nothing() {
    let (address, received) = eavesdropper();
    let mut ways = vec![address];
    let mut cluster = Cluster::prepare_behind(2, &[], |own| ways.pop().unwrap_or(own));
    cluster.secondaries[1].start();
    cluster.master.start();
    cluster.wait_read_write();
    let before = state(&cluster.master.health());
    let body = json!({"data": "a secret message", "meta": {"concern": 3, "timeout_ms": 0}});
    let answer = crate::http::post(cluster.master.address, &body.to_string());
    assert_eq!(answer.status, 202);
    let secret = fs::read_to_string(cluster.secret_file()).expect("the cluster's");
    let id = before[0].as_str().expect("a cluster").to_owned();
    let mut has_begun = false;
    for _ in 0..3 {
        let bytes = received.recv_timeout(PATIENCE).expect("the master tries");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for word in [secret.trim(), &id, "a secret message", "master"] {
            assert!(!text.contains(word), "{word} is sent: {text}");
        }
        // The beginning of TLS, which reveals nothing.
        if let Some(first) = bytes.first() {
            assert_eq!(*first, 0x16, "{bytes:?}");
            has_begun = true;
        }
    }
    assert!(has_begun, "nothing was ever sent");
    let health = cluster.master.health();
    assert_eq!(health["epoch"], before[1]);
    assert_ne!(health["secondaries"][0]["status"], "Healthy");
    assert_eq!(health["secondaries"][0]["durable_end"], Value::Null);
}

#[test]
fn a_rogue_with_another_secret_in_a_secondarys_place_is_reported_at_both_ends() {
    let rogue = ClusterListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = rogue.local_addr();
    let secret = ClusterSecret::from_bytes([1; 32]);
    let identity = ClusterIdentity::from_secret(&secret, &name("secondary-1")).expect("one");
    let mut ways = vec![address];
    let mut cluster = Cluster::prepare_behind(2, &[], |own| ways.pop().unwrap_or(own));
    cluster.secondaries[1].start();
    // On its own thread for as long as the test lasts.
    thread::spawn(move || {
        run(async {
            let options = ServeOptions::new(identity).node(Arc::new(Liar));
            let _serving = rogue.serve_here(options).expect("a socket");
            std::future::pending::<()>().await;
        });
    });
    cluster.master.start();
    cluster.wait_read_write();
    let secondary = eventually("the reason is named", || {
        let health = cluster.master.health();
        let secondary = health["secondaries"][0].clone();
        (secondary["reason"] == "wrong_secret").then_some(secondary)
    });
    assert_ne!(secondary["status"], "Healthy");
    assert_eq!(secondary["durable_end"], Value::Null);
    assert_eq!(cluster.master.health()["epoch"], 2);
    let log = cluster.master.process().log_text();
    assert!(log.contains("different cluster secrets"), "{log}");
}

#[test]
fn two_nodes_with_different_secrets_both_say_what_to_copy() {
    let mut cluster = Cluster::prepare(1, &[]);
    let other = tempfile::TempDir::new().expect("a temporary directory");
    let file = other.path().join("other.secret").display().to_string();
    cluster.secondaries[0].add_flag("--cluster-secret-file");
    cluster.secondaries[0].add_flag(&file);
    cluster.secondaries[0].start();
    cluster.master.start();
    let health = eventually("the master knows why", || {
        let health = cluster.master.health();
        (health["secondaries"][0]["reason"] == "wrong_secret").then_some(health)
    });
    assert_eq!(health["mode"], "recovering");
    for (node, file) in [
        (&cluster.master, cluster.secret_file().display().to_string()),
        (&cluster.secondaries[0], file),
    ] {
        let line = eventually("it says so", || {
            let log = node.process().log_text();
            let mut lines = log.lines().map(str::to_owned);
            lines.find(|line| line.contains("different cluster secrets"))
        });
        let whose = format!("{} the one in {file}", node.name);
        assert!(line.contains(&whose), "{line}");
    }
    let refusal = cluster.secondaries[0].health()["last_refusal"].clone();
    assert_eq!(refusal["reason"], "wrong_secret");
    assert_eq!(refusal["address"], "127.0.0.1");
    let detail = refusal["detail"].as_str().expect("a sentence");
    assert!(detail.contains("different cluster secrets"), "{detail}");
}

#[test]
fn a_secret_readable_by_its_user_alone_is_accepted_and_any_other_file_refused() {
    use std::os::unix::fs::PermissionsExt as _;

    let mut cluster = Cluster::start(1, &[]);
    let file = cluster.secret_file();
    let mode = fs::metadata(&file)
        .expect("it was made")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    cluster.secondaries[0].terminate();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("its own file");
    cluster.secondaries[0].launch();
    let node = &mut cluster.secondaries[0];
    let status = eventually("it ends", || node.ended());
    assert_eq!(status.code(), Some(1));
    let log = node.process().log_text();
    assert!(log.contains("cluster.secret"), "{log}");
}

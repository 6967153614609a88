//! Ten thousand clients blocked by one secondary, while all others are served as usual.

use std::{
    env,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    net::sockopt::set_socket_linger,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime,
    task::JoinSet,
};

use crate::{
    http::{Connection, get, message, post},
    nodes::{Cluster, eventually},
};

const CLIENTS_MAX: usize = 10_000;
/// Maximum number of connections that are being opened at once.
const OPENING_MAX: usize = 256;
/// The address that the load is sent to, and the number of clients; set only by the test below.
const LOAD: &str = "REPLOG_TEST_LOAD";

#[test]
fn ten_thousand_blocked_clients_delay_no_other_client() {
    // With so many clients, a machine that other tests share may delay a heartbeat for seconds.
    let patient = ["--suspect-after", "20s", "--unhealthy-after", "60s"];
    let mut cluster = Cluster::start(2, &patient);
    let master = cluster.master.address;
    assert_eq!(cluster.append("first", 3).status, 201);
    cluster.secondaries[1].kill();

    // The node keeps a quarter of the files free; the rest of the machine needs some, too.
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let clients = CLIENTS_MAX.min(usize::try_from(files / 2).unwrap_or(CLIENTS_MAX));
    let mut load = Command::new(env::current_exe().expect("this program"))
        .args([
            "--ignored",
            "--exact",
            "blocked::load_process",
            "--nocapture",
        ])
        .env(LOAD, format!("{master} {clients}"))
        .stdout(Stdio::piped())
        .spawn()
        .map(Load)
        .expect("a process of its own");
    let lines = BufReader::new(load.0.stdout.take().expect("a pipe")).lines();
    let mut said = lines
        .map_while(Result::ok)
        .filter_map(|line| line.split_once("load: ").map(|(_, said)| said.to_owned()));

    assert_eq!(said.next().as_deref(), Some("sent"));
    eventually("all of them wait", || {
        let health = get(master, "/health").json();
        (health["waiting_appends"] == clients).then_some(())
    });
    let appends = get(master, "/appends?limit=3").json();
    assert_eq!(
        (
            &appends["total"],
            appends["appends"].as_array().map(Vec::len)
        ),
        (&clients.into(), Some(3))
    );

    let mut times: Vec<Duration> = (0..200)
        .map(|number| {
            let started = Instant::now();
            assert_eq!(
                cluster
                    .append(&format!("beside-{number}"), number % 2 + 1)
                    .status,
                201
            );
            assert_eq!(get(master, "/health").status, 200);
            started.elapsed()
        })
        .collect();
    times.sort();
    // Generous, because other tests share the machine. If the blocked appends delayed it, it would be minutes.
    assert!(
        times[100] < Duration::from_secs(1),
        "median {:?}",
        times[100]
    );
    assert!(
        times[199] < Duration::from_secs(10),
        "slowest {:?}",
        times[199]
    );

    cluster.secondaries[1].start();
    assert_eq!(
        said.next(),
        Some(format!("answered {clients}")),
        "all of them, with 201"
    );
    assert!(load.0.wait().expect("a child").success());
    assert_eq!(get(master, "/health").json()["waiting_appends"], 0);
    assert_eq!(cluster.wait_equal(), 201 + clients as u64);
}

/// Ends the load with the test, even if the test fails.
struct Load(std::process::Child);

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_limit_on_waiting_appends_is_named_and_holds_for_one_concern_only() {
    let mut cluster = Cluster::start(2, &["--max-waiting-appends", "5", "--memory"]);
    cluster.secondaries[1].kill();
    let waiting: Vec<_> = (0..5)
        .map(|number| cluster.append_behind(&format!("w{number}"), 3))
        .collect();
    cluster.wait_waiting(5);
    let next = cluster.master.health()["log"]["next"].clone();
    let refused = post(cluster.master.address, &message("one too many", 3));
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (429, "/problems/overloaded")
    );
    assert!(refused.header("retry-after").is_some());
    let body = refused.json();
    assert_eq!(
        (&body["limit"], &body["value"]),
        (&"max-waiting-appends".into(), &5.into())
    );
    assert_eq!(
        (&body["outcome"], &body["retriable"]),
        (&"not_appended".into(), &true.into())
    );
    assert_eq!(
        cluster.master.health()["log"]["next"],
        next,
        "nothing was appended"
    );
    assert_eq!(cluster.append("w=1 is not shut out", 1).status, 201);
    assert_eq!(cluster.append("w=2 is not shut out", 2).status, 201);
    cluster.secondaries[1].start();
    for answer in waiting {
        assert_eq!(
            answer
                .recv_timeout(crate::nodes::PATIENCE)
                .expect("an answer")
                .status,
            201
        );
    }
}

#[test]
fn a_client_that_hangs_up_frees_its_place_and_its_message_stays_in_the_log() {
    let mut cluster = Cluster::start(2, &["--max-waiting-appends", "3", "--memory"]);
    assert_eq!(cluster.append("first", 3).status, 201);
    cluster.secondaries[1].kill();
    let body = message("hangs up", 3);
    let append = format!(
        "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(cluster.append("second", 2).status, 201);
    let wait = "GET /messages/1?concern=3 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned();
    let mut clients = Vec::new();
    for request in [&append, &append, &wait] {
        let mut client = Connection::open(cluster.master.address).expect("a connection");
        client.send(request.as_bytes()).expect("sent");
        clients.push(client);
    }
    cluster.wait_waiting(3);
    assert_eq!(cluster.append("one too many", 3).status, 429);
    for mut client in clients {
        // The other end learns it at once, not only when it answers.
        set_socket_linger(client.socket(), Some(Duration::ZERO)).expect("a socket");
    }
    cluster.wait_waiting(0);
    let waiting = cluster.append_behind("waits", 3);
    cluster.wait_waiting(1);
    cluster.secondaries[1].start();
    let answer = waiting.recv_timeout(crate::nodes::PATIENCE);
    let answer = answer.expect("an answer");
    assert_eq!((answer.status, &answer.json()["offset"]), (201, &4.into()));
    for offset in 2..4 {
        let kept = get(
            cluster.secondaries[1].address,
            &format!("/messages/{offset}"),
        );
        assert_eq!(kept.json()["data"], "hangs up");
    }
}

/// Not a test: the load of the test above, in a separate process so that it has its own open
/// files. Prints `sent` when every request has been sent, and the number of answers with 201.
#[test]
#[ignore = "the load generator of another test, which starts it"]
fn load_process() {
    let Ok(load) = env::var(LOAD) else { return };
    let (address, clients) = load.split_once(' ').expect("an address and a number");
    let address: SocketAddr = address.parse().expect("an address");
    let clients: usize = clients.parse().expect("a number");
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )
    .expect("allowed");
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut opening = JoinSet::new();
        let mut waiting = JoinSet::new();
        for number in 0..clients {
            if opening.len() == OPENING_MAX {
                let stream = opening.join_next().await.expect("some").expect("no panic");
                waiting.spawn(status(stream));
            }
            opening.spawn(send(address, number));
        }
        while let Some(stream) = opening.join_next().await {
            waiting.spawn(status(stream.expect("no panic")));
        }
        println!("load: sent");
        let mut answered = 0;
        while let Some(status) = waiting.join_next().await {
            if status.expect("no panic") == b"HTTP/1.1 201"[..] {
                answered += 1;
            }
        }
        println!("load: answered {answered}");
    });
}

async fn send(address: SocketAddr, number: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let body = message(&format!("blocked-{number}"), 3);
    let request = format!(
        "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream
}

async fn status(mut stream: TcpStream) -> Vec<u8> {
    let mut status = vec![0; b"HTTP/1.1 201".len()];
    stream.read_exact(&mut status).await.expect("an answer");
    status
}

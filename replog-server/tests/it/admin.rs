//! Operator requests to a running node.

use std::net::SocketAddr;

use crate::{
    http::{Answer, JSON, get, request},
    nodes::{Cluster, PATIENCE, eventually},
};

fn ask(node: SocketAddr, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Answer {
    request(node, "POST", path, headers, body).expect("an answer")
}

#[test]
fn a_master_is_drained_by_read_only_and_stopped_with_no_append_waiting() {
    let mut cluster = Cluster::start(2, &[]);
    let node = cluster.master.address;
    let keyed = |data: &str| {
        let body = format!(r#"{{"data":"{data}","meta":{{"idempotency_key":"k"}}}}"#);
        crate::http::post(node, &body)
    };
    assert_eq!(keyed("known").status, 201);
    cluster.secondaries[1].kill();
    let waiting = cluster.append_behind("waits", 3);
    cluster.wait_waiting(1);

    let asked = ask(node, "/admin/read-only", &[], None);
    assert_eq!((asked.status, asked.text()), (200, MODE_ASKED));
    let again = ask(node, "/admin/read-only", &[], Some(b""));
    assert_eq!((again.status, again.text()), (200, MODE_ASKED));
    let health = cluster.master.health();
    assert_eq!(
        (&health["mode"], &health["mode_reason"]),
        (&"read-only".into(), &"asked".into())
    );
    let refused = cluster.append("refused", 1);
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (503, "/problems/read-only")
    );
    assert!(refused.header("retry-after").is_some());
    let body = refused.json();
    assert_eq!(
        [&body["mode"], &body["mode_reason"], &body["outcome"]],
        ["read-only", "asked", "not_appended"]
    );
    assert_eq!(keyed("known").status, 200, "nothing is appended for it");
    let ready = get(node, "/readyz/write");
    assert_eq!(
        (ready.status, ready.problem().as_str()),
        (503, "/problems/read-only")
    );
    assert_eq!(ready.json()["mode_reason"], "asked");
    assert_eq!(get(node, "/readyz").status, 200, "reads go on");
    assert!(waiting.try_recv().is_err(), "what waits keeps waiting");

    cluster.secondaries[1].start();
    eventually("nobody waits any more", || {
        (cluster.master.health()["waiting_appends"] == 0).then_some(())
    });
    let answer = waiting.recv_timeout(PATIENCE).expect("an answer");
    assert_eq!(answer.status, 201, "{}", answer.text());
    cluster.master.terminate();

    cluster.master.start();
    cluster.wait_read_write();
    assert_eq!(cluster.append("after", 3).status, 201, "it is forgotten");
    assert_eq!(cluster.master.data(), ["known", "waits", "after"]);
}

const MODE_ASKED: &str = "{\"mode\":\"read-only\",\"mode_reason\":\"asked\"}\n";

#[test]
fn read_write_lifts_what_read_only_asked_for_and_nothing_else() {
    let mut cluster = Cluster::start(2, &[]);
    let node = cluster.master.address;
    assert_eq!(ask(node, "/admin/read-only", &[], None).status, 200);
    cluster.secondaries.iter_mut().for_each(|node| node.kill());
    cluster.wait_alive(1);
    assert_eq!(cluster.master.health()["mode_reason"], "asked");
    let lifted = ask(node, "/admin/read-write", &[], None);
    let no_quorum = "{\"mode\":\"read-only\",\"mode_reason\":\"no_quorum\"}\n";
    assert_eq!((lifted.status, lifted.text()), (200, no_quorum));
    cluster.secondaries[0].start();
    cluster.wait_read_write();
    let writable = ask(node, "/admin/read-write", &[], None);
    let read_write = "{\"mode\":\"read-write\",\"mode_reason\":null}\n";
    assert_eq!((writable.status, writable.text()), (200, read_write));
    assert_eq!(cluster.append("0", 2).status, 201);
}

#[test]
fn a_request_that_is_not_allowed_or_too_long_changes_nothing() {
    let cluster = Cluster::start(1, &["--memory"]);
    let (master, secondary) = (cluster.master.address, cluster.secondaries[0].address);
    for path in ["/admin/read-only", "/admin/read-write"] {
        let answer = ask(secondary, path, &[], None);
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (421, "/problems/not-master")
        );
        for method in ["GET", "PUT", "DELETE"] {
            let answer = request(master, method, path, &[], None).expect("an answer");
            assert_eq!(
                (answer.status, answer.header("allow")),
                (405, Some("POST")),
                "{method}"
            );
        }
        let pages: [&[(&str, &str)]; 3] = [
            &[("origin", "http://elsewhere.example")],
            &[("origin", "null")],
            &[("sec-fetch-site", "cross-site")],
        ];
        for headers in pages {
            let answer = ask(master, path, headers, None);
            assert_eq!(
                (answer.status, answer.problem().as_str()),
                (403, "/problems/cross-origin"),
                "{headers:?}"
            );
        }
        let answer = ask(master, &format!("{path}?for=1h"), &[], None);
        assert_eq!(answer.status, 400, "{}", answer.text());
        let answer = ask(master, path, &[JSON], Some(b"{}"));
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (400, "/problems/malformed")
        );
        let mut connection = crate::http::Connection::open(master).expect("a connection");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let body = "2\r\n{}\r\n0\r\n\r\n";
        connection.send((head + body).as_bytes()).expect("sent");
        assert_eq!(connection.answer().expect("an answer").status, 400);
    }
    assert_eq!(cluster.master.health()["mode"], "read-write");
    let own = format!("http://{master}");
    let page: [(&str, &str); 1] = [("origin", &own)];
    let answer = ask(master, "/admin/read-only", &page, None);
    assert_eq!(answer.status, 403, "the host is another one here");
    let page = [("origin", "http://test")];
    let answer = ask(master, "/admin/read-only", &page, None);
    assert_eq!(answer.status, 403, "that name only leads here");
    let mut connection = crate::http::Connection::open(master).expect("a connection");
    let head = format!("POST /admin/read-only HTTP/1.1\r\nhost: {master}\r\norigin: {own}\r\n\r\n");
    connection.send(head.as_bytes()).expect("sent");
    assert_eq!(connection.answer().expect("an answer").status, 200);
    assert_eq!(cluster.master.health()["mode"], "read-only");
}

#[test]
fn the_log_level_is_changed_while_a_node_runs() {
    let cluster = Cluster::start(1, &["--memory"]);
    let node = cluster.secondaries[0].address;
    let put =
        |body: &str| request(node, "PUT", PATH, &[JSON], Some(body.as_bytes())).expect("an answer");
    const PATH: &str = "/admin/log-level";
    const AT_START: &str = "{\"level\":\"info\",\"filter\":\"info,actix_server=warn\"}\n";
    const LINE: &str = " DEBUG replog_core::";
    let log = || cluster.secondaries[0].process().log_text();
    let shown = get(node, PATH);
    assert_eq!((shown.status, shown.text()), (200, AT_START));
    assert!(!log().contains(LINE));

    let debug = put(r#"{"level": "debug"}"#);
    let expected = "{\"level\":\"debug\",\"filter\":\"debug,actix_server=warn\"}\n";
    assert_eq!((debug.status, debug.text()), (200, expected));
    assert_eq!(get(node, PATH).text(), expected);
    assert_eq!(cluster.append("0", 2).status, 201);
    eventually("a line of that level", || {
        log().contains(LINE).then_some(())
    });

    let off = put(r#"{"level": "off"}"#);
    assert_eq!(off.json()["filter"], "off,actix_server=off");
    // A line that passed the filter earlier may still be on its way.
    assert_eq!(cluster.append("1", 2).status, 201);
    let before = log();
    assert_eq!(cluster.append("2", 2).status, 201);
    assert_eq!(log(), before);
    let back = request(node, "DELETE", PATH, &[], None).expect("an answer");
    assert_eq!((back.status, back.text()), (200, AT_START));

    for body in [
        "",
        "[]",
        "{}",
        r#"{"level":"loud"}"#,
        r#"{"level":1}"#,
        r#"{"level":"info","x":1}"#,
        r#"["info"]"#,
    ] {
        let answer = put(body);
        assert_eq!(
            (answer.status, &*answer.problem()),
            (400, "/problems/malformed"),
            "{body}"
        );
    }
    let plain = [("content-type", "text/plain")];
    let answer = request(node, "PUT", PATH, &plain, Some(b"{}")).expect("an answer");
    assert_eq!(answer.status, 415);
    for method in ["PUT", "DELETE"] {
        let page = [JSON, ("origin", "http://elsewhere.example")];
        let answer = request(node, method, PATH, &page, Some(b"{}")).expect("an answer");
        assert_eq!(answer.status, 403, "{method}");
    }
    assert_eq!(get(node, PATH).text(), AT_START);
}

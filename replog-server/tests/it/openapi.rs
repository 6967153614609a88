//! `GET /openapi.json` is accurate: every real answer is one that the document lists, with every member,
//! and everything that it lists is answered at some time.

mod schema;

use std::{cell::RefCell, collections::BTreeSet, net::SocketAddr};

use serde_json::Value;

use crate::{
    events::Listener,
    http::{self, Answer, Connection, JSON, get},
    nodes::{Cluster, PATIENCE, eventually},
};

/// Answers that the document lists and no request here causes: a body that stalls for minutes, a disk
/// that is full (`full_disk.rs`) or damaged, a node that stops in the middle of a short request, and
/// limits that are too high to reach here.
const NOT_ANSWERED: [(&str, &str, &[&str]); 12] = [
    ("get", "/metrics", &["503"]),
    ("post", "/admin/read-only", &["503"]),
    ("post", "/admin/read-write", &["503"]),
    ("put", "/admin/log-level", &["408", "429"]),
    ("get", "/appends", &["503"]),
    ("get", "/events", &["429"]),
    ("get", "/health", &["503"]),
    ("get", "/livez", &["503"]),
    ("get", "/messages", &["429", "500", "503"]),
    ("get", "/messages/{offset}", &["500", "503", "507"]),
    ("post", "/messages", &["408", "507"]),
    ("put", "/faults", &["408", "429"]),
];

/// Events that nothing here causes.
const NOT_TOLD: [&str; 2] = ["gap", "missed"];

/// The document, and the answers of it that were seen.
struct Api {
    document: Value,
    seen: RefCell<BTreeSet<(String, String, String)>>,
    told: RefCell<BTreeSet<String>>,
}

impl Api {
    fn of(node: SocketAddr) -> Api {
        Api {
            document: get(node, "/openapi.json").json(),
            seen: RefCell::default(),
            told: RefCell::default(),
        }
    }

    /// Sends a request, and checks the answer against the document.
    fn ask(
        &self,
        node: SocketAddr,
        request: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Answer {
        let (method, path) = request.split_once(' ').expect("a method and a path");
        let answer = http::request(node, method, path, headers, body.map(str::as_bytes));
        let answer = answer.unwrap_or_else(|error| panic!("{request} at {node}: {error}"));
        let template = match path.split('?').next() {
            Some(path) if path.starts_with("/messages/") => "/messages/{offset}",
            path => path.expect("a path"),
        };
        self.check(&method.to_lowercase(), template, &answer);
        let said = headers.iter().find(|(name, _)| *name == "content-type");
        if let (Some(body), Some((_, media_type)), 200..300) = (body, said, answer.status) {
            let content = &self.document["paths"][template][method.to_lowercase()]["requestBody"];
            self.check_content(&content["content"], media_type, body)
                .unwrap_or_else(|why| panic!("{request} of {body}: {why}"));
        }
        answer
    }

    /// Sends a request, and accepts only this status.
    fn expect(
        &self,
        status: u16,
        node: SocketAddr,
        request: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Answer {
        let answer = self.ask(node, request, headers, body);
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, status, "{request} {body:?}: {said}");
        answer
    }

    fn check(&self, method: &str, template: &str, answer: &Answer) {
        let what = format!("{method} {template}: {answer:?}");
        let status = answer.status.to_string();
        let responses = &self.document["paths"][template][method]["responses"];
        let response = responses.get(&status);
        let response = response.unwrap_or_else(|| panic!("the status is not listed: {what}"));
        let response = schema::resolve(&self.document, response);
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            let header = schema::resolve(&self.document, header);
            match answer.header(name) {
                Some(value) => schema::check(&self.document, &header["schema"], &value.into())
                    .unwrap_or_else(|why| panic!("{name}: {why}: {what}")),
                None => assert_ne!(header["required"], true, "{name} is missing: {what}"),
            }
        }
        let media_type = answer.header("content-type").expect("a content type");
        self.check_content(&response["content"], media_type, answer.text())
            .unwrap_or_else(|why| panic!("{why}: {what}"));
        let seen = (method.to_owned(), template.to_owned(), status);
        self.seen.borrow_mut().insert(seen);
    }

    fn check_content(&self, content: &Value, media_type: &str, body: &str) -> Result<(), String> {
        let listed = content.get(media_type);
        let listed = listed.ok_or_else(|| format!("{media_type} is not listed"))?;
        let parse = |text| serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
        let text = match media_type.ends_with("json") && listed.get("x-each-line").is_none() {
            true => parse(body)?,
            false => body.into(),
        };
        schema::check(&self.document, &listed["schema"], &text)?;
        if let Some(each) = listed.get("x-each-line") {
            for line in body.lines() {
                schema::check(&self.document, each, &parse(line)?)?;
            }
        }
        if let Some(schemas) = listed.get("x-events") {
            let comment = |event: &&str| event.starts_with(':');
            for event in body
                .split_terminator("\n\n")
                .filter(|event| !comment(event))
            {
                let field = |name| event.lines().find_map(|line| line.strip_prefix(name));
                // An event without a name is a message.
                let kind = field("event: ").unwrap_or("message");
                let data = field("data: ").ok_or_else(|| format!("no data: {event}"))?;
                self.check_event(schemas, kind, &parse(data)?)?;
            }
        }
        Ok(())
    }

    fn check_event(&self, schemas: &Value, kind: &str, data: &Value) -> Result<(), String> {
        let listed = schemas.get(kind);
        let listed = listed.ok_or_else(|| format!("the event {kind} is not listed"))?;
        schema::check(&self.document, listed, data)
    }

    /// Checks the events up to the end of the stream against the document.
    fn check_events(&self, mut listener: Listener) {
        let listed = &self.document["paths"]["/events"]["get"]["responses"]["200"];
        let schemas = &listed["content"]["text/event-stream"]["x-events"];
        while let Some((kind, data)) = listener.next() {
            self.check_event(schemas, &kind, &data)
                .unwrap_or_else(|why| panic!("{why}: {kind} {data}"));
            self.told.borrow_mut().insert(kind);
        }
        let seen = ("get".to_owned(), "/events".to_owned(), "200".to_owned());
        self.seen.borrow_mut().insert(seen);
    }

    /// Asserts that everything in the document was answered.
    fn check_all_seen(&self) {
        let mut listed = BTreeSet::new();
        for (path, methods) in self.document["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                let responses = operation["responses"].as_object().expect("responses");
                listed.extend(
                    responses
                        .keys()
                        .map(|status| (method.clone(), path.clone(), status.clone())),
                );
            }
        }
        for (method, path, statuses) in NOT_ANSWERED {
            for status in statuses {
                let known = (method.to_owned(), path.to_owned(), (*status).to_owned());
                assert!(listed.remove(&known), "{known:?} is not listed any more");
            }
        }
        assert_eq!(&listed, &*self.seen.borrow());
        let events = &self.document["paths"]["/events"]["get"]["responses"]["200"]["content"];
        let events = events["text/event-stream"]["x-events"].as_object();
        let mut kinds: BTreeSet<String> = events.expect("events").keys().cloned().collect();
        kinds.retain(|kind| !NOT_TOLD.contains(&kind.as_str()));
        assert_eq!(&kinds, &*self.told.borrow());
    }
}

/// Asks for all messages and new ones, in this format, and reads nothing yet.
fn follow(node: SocketAddr, media_type: &str) -> Connection {
    let mut connection = Connection::open(node).expect("a connection");
    let head = format!(
        "GET /messages?follow=true HTTP/1.1\r\nhost: localhost\r\naccept: {media_type}\r\n\r\n"
    );
    connection.send(head.as_bytes()).expect("sent");
    connection
}

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

#[test]
fn every_answer_is_one_that_the_document_lists() {
    let flags = ["--allow-faults", "--max-message-bytes", "2KiB"];
    let flags = [&flags[..], &["--max-waiting-appends", "1"]].concat();
    let mut cluster = Cluster::start(2, &flags);
    cluster.wait_healthy();
    let api = Api::of(cluster.master.address);
    let (master, secondary) = (cluster.master.address, cluster.secondaries[0].address);
    let of_master = Listener::open(master);
    let of_secondary = Listener::open(secondary);
    let followers = ["application/x-ndjson", "text/event-stream"].map(|form| follow(master, form));
    appends(&api, master, secondary);
    for node in [master, secondary] {
        reads(&api, node);
        health(&api, node);
        faults(&api, node);
    }
    let waited = "GET /messages/0?concern=all&timeout_ms=60000";
    api.expect(200, master, waited, &[], None);
    api.expect(421, secondary, waited, &[], None);
    api.expect(422, master, "GET /messages/0?concern=9", &[], None);
    admin(&api, master, secondary);
    api.expect(200, master, "GET /appends?limit=1", &[], None);
    api.expect(400, master, "GET /appends?limit=0", &[], None);
    api.expect(421, secondary, "GET /appends", &[], None);
    api.expect(200, master, "GET /readyz/write", &[], None);
    api.expect(503, secondary, "GET /readyz/write", &[], None);

    // Without one secondary, appends at concern `all` wait; without both they are refused.
    cluster.secondaries[1].kill();
    let late = r#"{"data":0,"meta":{"concern":"all","timeout_ms":0}}"#;
    let late = api.expect(202, master, "POST /messages", &[JSON], Some(late));
    let waiting = cluster.append_behind("waits", 3);
    cluster.wait_waiting(1);
    api.expect(200, master, "GET /appends", &[], None);
    api.expect(200, master, "GET /messages/0", &[], None);
    let more = http::message("one more", 3);
    api.expect(429, master, "POST /messages", &[JSON], Some(&more));
    let unmet = late.json()["offset"].clone();
    let request = format!("GET /messages/{unmet}?concern=3");
    api.expect(429, master, &request, &[], None);
    cluster.secondaries[0].set_faults(r#"{"isolate":true}"#);
    eventually("the master is read-only", || {
        (cluster.master.health()["mode"] == "read-only").then_some(())
    });
    api.expect(
        503,
        master,
        "POST /messages",
        &[JSON],
        Some(r#"{"data":1}"#),
    );
    api.expect(503, master, "GET /readyz/write", &[], None);
    api.expect(200, master, "GET /health", &[], None);
    cluster.master.terminate();
    let stopped = waiting.recv_timeout(PATIENCE).expect("an answer");
    assert_eq!(stopped.problem(), "/problems/stopping");
    api.check("post", "/messages", &stopped);
    api.check_events(of_master);
    for mut follower in followers {
        let answer = follower.answer().expect("all of it");
        api.check("get", "/messages", &answer);
        assert!(answer.text().contains("bye"), "{}", answer.text());
    }

    cluster.secondaries[0].set_faults("{}");
    cluster.master.add_flag("--public-url");
    cluster.master.add_flag("http://log.test:80");
    cluster.master.start();
    cluster.wait_read_write();
    api.expect(200, master, "GET /health", &[], None);
    eventually("the secondary knows where clients reach the master", || {
        let url = &cluster.secondaries[0].health()["master"]["url"];
        url.is_string().then_some(())
    });
    api.expect(
        307,
        secondary,
        "POST /messages",
        &[JSON],
        Some(r#"{"data":1}"#),
    );
    cluster.secondaries[0].terminate();
    api.check_events(of_secondary);

    let mut alone = Cluster::prepare(1, &[]);
    alone.secondaries[0].start();
    let alone = alone.secondaries[0].address;
    api.expect(200, alone, "GET /health", &[], None);
    api.expect(503, alone, "GET /readyz", &[], None);
    api.expect(421, alone, "POST /messages", &[JSON], Some(r#"{"data":1}"#));
    for method in ["GET", "PUT", "DELETE"] {
        api.expect(
            404,
            alone,
            &format!("{method} /faults"),
            &[JSON],
            Some("{}"),
        );
    }
    api.check_all_seen();
}

fn appends(api: &Api, master: SocketAddr, secondary: SocketAddr) {
    let post = |status, headers: &[(&str, &str)], body: &str| {
        api.expect(status, master, "POST /messages", headers, Some(body))
    };
    post(201, &[JSON], r#"{"data":{"text":"one"}}"#);
    let all = r#"{"data":[2],"meta":{"concern":"all","timeout_ms":60000,"idempotency_key":"k","expected_offset":1}}"#;
    post(201, &[JSON], all);
    post(200, &[JSON], all);
    post(201, &[JSON], r#"{"data":null,"meta":{"concern":1}}"#);
    post(201, &[NDJSON, ("idempotency-key", "b")], "1\n{\"two\":2}\n");
    post(200, &[NDJSON, ("idempotency-key", "b")], "1\n{\"two\":2}\n");
    let request = "POST /messages?concern=all&timeout_ms=60000";
    api.expect(201, master, request, &[NDJSON], Some("3"));
    api.expect(
        400,
        master,
        "POST /messages?concern=x",
        &[NDJSON],
        Some("3"),
    );
    post(400, &[JSON], r#"{"data":1,"more":2}"#);
    let elsewhere = ("origin", "http://elsewhere.test");
    post(403, &[JSON, elsewhere], r#"{"data":1}"#);
    post(412, &[JSON], r#"{"data":1,"meta":{"expected_offset":99}}"#);
    let other = ("replog-cluster", "000102030405060708090a0b0c0d0eff");
    post(412, &[JSON, other], r#"{"data":1}"#);
    post(413, &[JSON], &http::message(&"x".repeat(3_000), 1));
    post(413, &[NDJSON], &format!("1\n\"{}\"\n", "x".repeat(3_000)));
    post(415, &[("content-type", "text/plain")], "x");
    post(422, &[JSON], &http::message("x", 9));
    post(
        422,
        &[JSON],
        r#"{"data":"other","meta":{"idempotency_key":"k"}}"#,
    );
    let one = http::message("x", 1);
    api.expect(421, secondary, "POST /messages", &[JSON], Some(&one));
}

fn reads(api: &Api, node: SocketAddr) {
    let ndjson = [("accept", "application/x-ndjson")];
    let html = [("accept", "text/html")];
    eventually("the node shows what was appended", || {
        (get(node, "/messages").json()["next"] == 6).then_some(())
    });
    api.expect(200, node, "GET /messages", &[], None);
    api.expect(200, node, "GET /messages?from=1&limit=2", &ndjson, None);
    api.expect(200, node, "GET /messages?last=2", &[], None);
    api.expect(400, node, "GET /messages?last=2&from=1", &[], None);
    api.expect(406, node, "GET /messages", &html, None);
    api.expect(200, node, "GET /messages/1", &[], None);
    api.expect(400, node, "GET /messages/one", &[], None);
    api.expect(404, node, "GET /messages/99", &[], None);
    api.expect(200, node, "GET /messages?view=data", &[], None);
    api.expect(200, node, "GET /messages?level=committed", &ndjson, None);
    let events = [("accept", "text/event-stream"), ("last-event-id", "3")];
    api.expect(200, node, "GET /messages", &events, None);
    let other = ("replog-cluster", "000102030405060708090a0b0c0d0eff");
    api.expect(412, node, "GET /messages", &[other], None);
    api.expect(412, node, "GET /messages/1", &[other], None);
    for form in ["application/x-ndjson", "text/event-stream"] {
        let request = "GET /messages?follow=true&limit=1";
        let headers = [("accept", form), other];
        let told = api.expect(200, node, request, &headers, None);
        assert!(told.text().contains("another_log"), "{}", told.text());
    }
    let late = "GET /messages?wait_for=99&timeout_ms=1";
    api.expect(404, node, late, &[], None);
    api.expect(200, node, "GET /openapi.json", &[], None);
    api.expect(200, node, "GET /", &[], None);
    api.expect(200, node, "GET /favicon.ico", &[], None);
    api.expect(400, node, "GET /?theme=dark", &[], None);
    api.expect(400, node, "GET /openapi.json?format=yaml", &[], None);
}

fn health(api: &Api, node: SocketAddr) {
    api.expect(200, node, "GET /health", &[], None);
    api.expect(400, node, "GET /health?full=true", &[], None);
    api.expect(200, node, "GET /livez", &[], None);
    api.expect(200, node, "GET /metrics", &[], None);
    let newer = ("accept", "application/openmetrics-text");
    api.expect(200, node, "GET /metrics", &[newer], None);
    api.expect(400, node, "GET /metrics?name=x", &[], None);
    api.expect(200, node, "GET /readyz", &[], None);
    api.expect(400, node, "GET /events?from=1", &[], None);
    api.expect(406, node, "GET /events", &[("accept", "text/html")], None);
}

fn faults(api: &Api, node: SocketAddr) {
    let put = |status, headers: &[(&str, &str)], body: &str| {
        api.expect(status, node, "PUT /faults", headers, Some(body))
    };
    api.expect(200, node, "GET /faults", &[], None);
    api.expect(400, node, "GET /faults?all=true", &[], None);
    put(
        200,
        &[JSON],
        r#"{"error_before_append":0.5,"delay_ms":[0,1],"seed":7}"#,
    );
    put(
        200,
        &[JSON],
        r#"{"isolate":false,"block_replication":false,"delay_ms":null,"seed":null}"#,
    );
    put(400, &[JSON], r#"{"error_before_append":2}"#);
    put(
        413,
        &[JSON],
        &format!("{{\"seed\":{}1}}", " ".repeat(3_000)),
    );
    put(415, &[], "{}");
    let elsewhere = ("origin", "http://elsewhere.test");
    put(403, &[JSON, elsewhere], "{}");
    api.expect(403, node, "DELETE /faults", &[elsewhere], None);
    api.expect(200, node, "DELETE /faults", &[], None);
    api.expect(400, node, "DELETE /faults?all=true", &[], None);
}

fn admin(api: &Api, master: SocketAddr, secondary: SocketAddr) {
    let elsewhere = [("origin", "http://elsewhere.test")];
    for path in ["/admin/read-only", "/admin/read-write"] {
        let post = format!("POST {path}");
        api.expect(200, master, &post, &[], None);
        api.expect(400, master, &format!("{post}?now=true"), &[], None);
        api.expect(403, master, &post, &elsewhere, None);
        api.expect(421, secondary, &post, &[], None);
    }
    let path = "/admin/log-level";
    let put = |status, headers: &[(&str, &str)], body: &str| {
        api.expect(
            status,
            secondary,
            &format!("PUT {path}"),
            headers,
            Some(body),
        )
    };
    put(200, &[JSON], r#"{"level":"info"}"#);
    put(400, &[JSON], r#"{"level":"loud"}"#);
    put(403, &[JSON, elsewhere[0]], r#"{"level":"info"}"#);
    put(413, &[JSON], &format!("{{{}}}", " ".repeat(3_000)));
    put(415, &[], r#"{"level":"info"}"#);
    for method in ["GET", "DELETE"] {
        api.expect(200, secondary, &format!("{method} {path}"), &[], None);
        api.expect(
            400,
            secondary,
            &format!("{method} {path}?all=true"),
            &[],
            None,
        );
    }
    api.expect(403, secondary, &format!("DELETE {path}"), &elsewhere, None);
}

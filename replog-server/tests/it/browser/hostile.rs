//! A page of another site, in the browser of a person whose machine reaches the nodes: it changes nothing and
//! reads nothing, whatever port it tries.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread,
};

use serde_json::{Value, json};

use super::{Browser, NAME, page_of};
use crate::{
    http::{get, post},
    nodes::{Cluster, Node},
};

/// A script that sends everything that a page can send without permission: reads with and without CORS, requests
/// that need no preflight, requests that need one, forms, beacons and WebSockets. It returns the data that it could
/// read and the sockets that opened.
const ATTACK: &str = r#"
const [bases] = args;
const got = [], body = '{"data":"forged","meta":{"concern":1,"timeout_ms":0}}';
async function attempt(what, work) {
  const abort = new AbortController(), timer = setTimeout(() => abort.abort(), 3000);
  try {
    const said = await work({ signal: abort.signal });
    if (said) got.push(`${what}: ${said}`);
  } catch { /* Refused. */ }
  clearTimeout(timer);
}
const readable = async answer => answer.type === "opaque" ? "" : `${answer.status} ${(await answer.text()).slice(0, 200)}`;
const read = (url, options) => attempt(`read ${url}`, async signal => readable(await fetch(url, { ...signal, ...options })));
const write = (method, url, type, mode, body) => attempt(`${method} ${url} ${type}`, async signal => {
  const headers = type ? { "content-type": type } : {};
  return readable(await fetch(url, { method, mode, headers, body, ...signal }));
});
const socket = (url, protocols) => attempt(`socket ${url}`, () => new Promise((resolve, reject) => {
  const socket = new WebSocket(url, protocols);
  setTimeout(reject, 3000);
  socket.onerror = reject;
  socket.onopen = () => { socket.send(new Uint8Array(64)); resolve("opened"); };
}));
const stream = url => attempt(`stream ${url}`, () => new Promise((resolve, reject) => {
  const stream = new EventSource(url);
  setTimeout(() => { stream.close(); reject(); }, 1000);
  stream.onopen = () => { stream.close(); resolve("opened"); };
}));
const form = (url, enctype) => attempt(`form ${url}`, () => new Promise(resolve => {
  const frame = Object.assign(document.createElement("iframe"), { name: `frame${Math.random()}` });
  const form = Object.assign(document.createElement("form"), { method: "post", action: url, enctype, target: frame.name });
  // Sent as text/plain, the body is JSON with the equals sign in its data.
  form.append(Object.assign(document.createElement("input"), { name: '{"meta":{"concern":1},"data":"', value: '"}' }));
  document.body.append(frame, form);
  frame.onload = () => resolve("");
  setTimeout(() => resolve(""), 2000);
  form.submit();
}));
const tries = [];
for (const base of bases) {
  for (const path of ["/", "/health", "/messages", "/messages/0", "/messages?view=data", "/appends", "/metrics", "/openapi.json", "/faults", "/admin/log-level"]) {
    tries.push(read(base + path), read(base + path, { mode: "no-cors" }));
  }
  for (const type of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]) {
    tries.push(write("POST", base + "/messages", type, "no-cors", body), write("POST", base + "/replication/v1", type, "no-cors", body));
  }
  for (const type of ["application/json", "application/x-ndjson"]) tries.push(write("POST", base + "/messages", type, "cors", body));
  tries.push(write("POST", base + "/admin/read-only", "", "no-cors"), write("POST", base + "/admin/read-only", "", "cors"));
  tries.push(write("PUT", base + "/faults", "application/json", "cors", '{"isolate":true}'), write("DELETE", base + "/faults", "", "cors"));
  tries.push(write("PUT", base + "/admin/log-level", "application/json", "cors", '{"level":"error"}'));
  tries.push(attempt("beacon", async () => { navigator.sendBeacon(base + "/messages", body); navigator.sendBeacon(base + "/admin/read-only"); }));
  for (const enctype of ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded"]) tries.push(form(base + "/messages", enctype));
  tries.push(form(base + "/admin/read-only", "text/plain"));
  const web = base.replace("http", "ws");
  for (const path of ["/", "/messages", "/events", "/replication/v1", "/replication/v1/stream"]) tries.push(socket(web + path));
  tries.push(socket(web + "/replication/v1/stream", ["replog.replication.v1"]));
  tries.push(stream(base + "/events"), stream(base + "/messages?follow=true"));
}
await Promise.all(tries);
return got;
"#;

/// The body that the form of the page above sends as text/plain, without its line end.
const FORM_BODY: &str = r#"{"meta":{"concern":1},"data":"="}"#;

/// Serves an empty page to every client. Its thread ends with the program.
fn other_site() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // Browsers open connections that they may not use: no connection may hold up another.
            thread::spawn(move || {
                let page = "<!DOCTYPE html><title>another site</title><body>";
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length:";
                let _ = stream.read(&mut [0; 4096]);
                let _ = write!(stream, "{head} {}\r\n\r\n{page}", page.len());
            });
        }
    });
    address
}

/// Returns everything that a page might change on a node.
fn state_of(node: &Node) -> Vec<Value> {
    let health = node.health();
    let fields = ["cluster_id", "epoch", "mode", "mode_reason", "intact"];
    let mut state: Vec<Value> = fields.iter().map(|field| health[field].clone()).collect();
    state.push(health["log"]["next"].clone());
    for path in ["/faults", "/admin/log-level", "/messages"] {
        state.push(get(node.address, path).json());
    }
    let mut log = DefaultHasher::new();
    node.log_files().hash(&mut log);
    state.push(log.finish().into());
    let meta = fs::read_to_string(node.directory.join("meta.json"));
    state.push(meta.expect("a meta").into());
    state
}

#[test]
fn a_page_of_another_site_changes_nothing_and_reads_nothing() {
    let Some(browser) = Browser::start(NAME) else {
        return;
    };
    let cluster = Cluster::start(2, &["--allow-faults"]);
    assert_eq!(cluster.append("kept", 3).status, 201);
    // It would be an append, except for its content type.
    assert_eq!(post(cluster.master.address, FORM_BODY).status, 201);
    cluster.wait_equal();
    let nodes = || [&cluster.master].into_iter().chain(&cluster.secondaries);
    let before: Vec<_> = nodes().map(state_of).collect();
    let unchanged = |by: &str| {
        let now: Vec<_> = nodes().map(state_of).collect();
        assert_eq!(now, before, "{by}");
    };

    let mut bases = Vec::new();
    for node in nodes() {
        let (clients, nodes) = (node.address.port(), node.cluster_address.port());
        for host in ["127.0.0.1", "localhost"] {
            bases.push(format!("http://{host}:{clients}"));
            bases.extend(["http", "https"].map(|scheme| format!("{scheme}://{host}:{nodes}")));
        }
    }
    let site = other_site().port();
    for host in ["127.0.0.1", "localhost", NAME] {
        browser.open(&format!("http://{host}:{site}/"));
        let got = browser.run_async(ATTACK, &json!([bases]));
        assert_eq!(got, json!([]), "by a page of {host}");
        unchanged(host);
    }

    // DNS rebinding: the name leads to the node once the page has loaded, and the browser takes both for one site.
    for node in nodes() {
        let own = format!("http://{NAME}:{}", node.address.port());
        browser.open(&format!("{own}/livez"));
        let got = browser.run_async(ATTACK, &json!([[own]]));
        for line in got.as_array().expect("what it got") {
            let line = line.as_str().expect("a text");
            let is_refused = line.contains(": 4") || line.contains("/problems/");
            assert!(is_refused && !line.contains("kept"), "{line}");
        }
        unchanged(NAME);
    }

    // The same from the node's own page, to show that these requests work if they are allowed.
    browser.open(&page_of(cluster.master.address));
    let own = format!("http://{}", cluster.master.address);
    let got = browser.run_async(ATTACK, &json!([[own]])).to_string();
    let put = |path: &str| format!("PUT {own}{path} application/json: 200");
    let taken = [put("/faults"), put("/admin/log-level")];
    for teeth in ["kept", "stream", &taken[0], &taken[1]] {
        assert!(got.contains(teeth), "{teeth}: {got}");
    }
    assert_eq!(
        get(cluster.master.address, "/health").json()["mode_reason"],
        "asked"
    );
}

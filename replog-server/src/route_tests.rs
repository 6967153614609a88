//! The routes of real nodes, without a socket: the answer of each; and no request, however mangled,
//! makes a node fail.

use std::sync::Arc;

use actix_http::Request;
use actix_web::{
    App, Error,
    body::{BoxBody, to_bytes},
    dev::{Service, ServiceResponse},
    http::{Method, header},
    test,
};
use replog_core::{
    Concern, Master, MasterConfig, NodeName, Peer, Secondary, SecondaryConfig,
    storage::MemoryStorage,
    transport::{FaultInjector, LocalNetwork},
};
use serde_json::Value;

use crate::{
    app,
    args::{self, Command},
    files::FileLimit,
    node::{Node, NodeState},
    shares::Client,
};

/// The client's address when nobody connects.
const NOBODY: Option<std::net::SocketAddr> = None;

/// A master and a secondary in this process.
pub(crate) struct Pair {
    pub(crate) master: Arc<NodeState>,
    pub(crate) secondary: Arc<NodeState>,
}

impl Pair {
    pub(crate) async fn start(public_url: Option<&str>) -> Pair {
        let network = LocalNetwork::new();
        let name = |text| NodeName::new(text).expect("a good name");
        let config = SecondaryConfig::new(name("secondary-1"));
        let secondary = Secondary::start(config, Arc::new(MemoryStorage::new())).await;
        let secondary = secondary.expect("a secondary");
        network.register(secondary.clone());
        let peer = Peer::named(name("secondary-1"));
        let mut config = MasterConfig::new(name("master"), vec![peer]);
        config.public_url = public_url.map(|url| url.parse().expect("a URL"));
        let master = Master::start(config, Arc::new(MemoryStorage::new()), Arc::new(network)).await;
        let master = master.expect("a master");
        master.wait_until_writable().await.expect("a majority");
        let command = args::parse(["replog-server", "cluster", "--max-message-bytes", "4KiB"]);
        let Ok(Command::Cluster(args)) = command else {
            panic!("{command:?}")
        };
        let state = |node, faults| {
            let (files, url) = (
                FileLimit::raise().share(1, 2, 1),
                Some("http://told:5000".parse().expect("a URL")),
            );
            Arc::new(NodeState::new(node, &args.common, &files, url, faults).of_nodes(2))
        };
        Pair {
            master: state(Node::Master(master), None),
            secondary: state(Node::Secondary(secondary), Some(FaultInjector::new())),
        }
    }

    pub(crate) async fn stop(self) {
        self.master.node.stop().await;
        self.secondary.node.stop().await;
    }
}

/// Returns the application of a node, without a server around it.
macro_rules! application {
    ($state:expr) => {
        test::init_service(App::new().configure(|config| app::configure(config, &$state))).await
    };
}

mod reading;

struct Answer {
    status: u16,
    headers: header::HeaderMap,
    body: Value,
}

async fn call<S>(service: &S, request: test::TestRequest) -> Answer
where
    S: Service<Request, Response = ServiceResponse<BoxBody>, Error = Error>,
{
    let response = match service.call(request.to_request()).await {
        Ok(response) => response.into_parts().1,
        Err(error) => error.error_response(),
    };
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = to_bytes(response.into_body()).await.expect("a whole body");
    Answer {
        status,
        headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }
}

fn post(body: impl Into<bytes::Bytes>) -> test::TestRequest {
    test::TestRequest::post()
        .uri("/messages")
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .set_payload(body)
}

#[actix_web::test]
async fn an_append_is_answered_with_a_receipt_and_can_be_read_back() {
    let pair = Pair::start(None).await;
    let master = application!(pair.master);
    let answer = call(&master, post(r#"{"data":{"a" : 1},"meta":{"concern":2}}"#)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(
        answer.headers.get(header::LOCATION).map(|v| v.as_bytes()),
        Some(&b"/messages/0"[..])
    );
    assert_eq!(
        answer.body["acks"],
        serde_json::json!(["master", "secondary-1"])
    );
    assert_eq!(answer.body["durable"], false, "memory is not a disk");
    let secondary = application!(pair.secondary);
    for service in [&master, &secondary] {
        let read = call(service, test::TestRequest::get().uri("/messages")).await;
        assert_eq!((read.status, &read.body["next"]), (200, &1.into()));
        assert_eq!(read.body["messages"][0]["data"]["a"], 1);
    }
    pair.stop().await;
}

#[actix_web::test]
async fn an_append_with_a_key_is_made_once_and_replayed_after_that() {
    let pair = Pair::start(None).await;
    let master = application!(pair.master);
    let keyed = |data, meta| post(format!(r#"{{"data":{data},"meta":{{{meta}}}}}"#));
    let replayed = |answer: &Answer| {
        let header = answer.headers.get("idempotent-replayed");
        header.map(|value| value.as_bytes().to_vec())
    };
    let first = call(&master, keyed("1", r#""idempotency_key":"k","concern":1"#)).await;
    assert_eq!(
        (first.status, replayed(&first)),
        (201, None),
        "{}",
        first.body
    );
    let by_header = post(r#"{"data":1}"#).insert_header(("Idempotency-Key", "k"));
    let by_both = keyed("1", r#""idempotency_key":"k""#).insert_header(("Idempotency-Key", "k"));
    let expecting = keyed("1", r#""idempotency_key":"k","expected_offset":9"#);
    for again in [by_header, by_both, expecting] {
        let answer = call(&master, again).await;
        let yes = Some(b"true".to_vec());
        assert_eq!((answer.status, replayed(&answer)), (200, yes));
        assert_eq!(answer.body["offset"], first.body["offset"]);
        assert_eq!(answer.body["epoch"], first.body["epoch"]);
        assert_eq!(answer.body["concern"], 2, "its own concern");
        assert!(answer.body.get("replayed").is_none(), "{}", answer.body);
    }
    let answer = call(&master, keyed("1.0", r#""idempotency_key":"k""#)).await;
    assert_eq!(
        (answer.status, &answer.body["offset"]),
        (422, &0.into()),
        "byte for byte"
    );
    assert_eq!(answer.body["type"], "/problems/key-reused");
    let read = call(&master, test::TestRequest::get().uri("/messages/0")).await;
    assert_eq!(read.body["idempotency_key"], "k");
    let read = call(&master, test::TestRequest::get().uri("/messages")).await;
    assert_eq!(read.body["messages"][0]["idempotency_key"], "k");
    assert_eq!(read.body["next"], 1);
    drop(master);
    pair.stop().await;
}

#[actix_web::test]
async fn a_key_whose_concern_is_not_met_in_time_is_answered_as_being_copied() {
    let pair = Pair::start(None).await;
    let master = application!(pair.master);
    pair.secondary.node.stop().await;
    let append = || {
        let body = r#"{"data":1,"meta":{"concern":2,"timeout_ms":20,"idempotency_key":"k"}}"#;
        call(&master, post(body))
    };
    let first = append().await;
    assert_eq!(
        (first.status, &first.body["concern_met"]),
        (202, &false.into())
    );
    assert!(first.headers.get("idempotent-replayed").is_none());
    let again = append().await;
    assert_eq!(
        (again.status, &again.body["offset"]),
        (202, &0.into()),
        "{}",
        again.body
    );
    assert!(again.headers.get("idempotent-replayed").is_some());
    drop(master);
    pair.stop().await;
}

#[actix_web::test]
async fn wrong_keys_and_expected_offsets_are_refused_by_name() {
    let pair = Pair::start(None).await;
    let master = application!(pair.master);
    let with_header = |value: &[u8]| {
        let value = header::HeaderValue::from_bytes(value).expect("a header");
        let name = header::HeaderName::from_static("idempotency-key");
        post(r#"{"data":1,"meta":{"idempotency_key":"k"}}"#).insert_header((name, value))
    };
    for value in [&b"other"[..], b"\"k\"", b"", b"\xe9", &[b'x'; 129]] {
        let answer = call(&master, with_header(value)).await;
        let detail = answer.body["detail"].as_str().expect("a detail");
        assert!(detail.contains("Idempotency-Key"), "{detail}");
        assert_eq!(
            (answer.status, &answer.body["outcome"]),
            (400, &"not_appended".into())
        );
    }
    let twice = with_header(b"k").append_header(("idempotency-key", "k"));
    assert_eq!(call(&master, twice).await.status, 400);
    let expecting = |offset| {
        post(format!(
            r#"{{"data":1,"meta":{{"expected_offset":{offset}}}}}"#
        ))
    };
    let answer = call(&master, expecting(1)).await;
    assert_eq!((answer.status, &answer.body["next"]), (412, &0.into()));
    assert_eq!(answer.body["type"], "/problems/offset-mismatch");
    assert_eq!(answer.body["outcome"], "not_appended");
    assert_eq!(call(&master, expecting(0)).await.status, 201);
    drop(master);
    pair.stop().await;
}

#[actix_web::test]
async fn a_secondary_sends_clients_to_the_master() {
    for public_url in [None, Some("http://public:80/base/")] {
        let pair = Pair::start(public_url).await;
        let master = application!(pair.master);
        let secondary = application!(pair.secondary);
        // Once it holds a message, the secondary knows its master.
        let answer = call(&master, post(r#"{"data":1,"meta":{"concern":2}}"#)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        let answer = call(&secondary, post(r#"{"data":1}"#)).await;
        assert_eq!(answer.body["type"], "/problems/not-master");
        assert_eq!(answer.body["outcome"], "not_appended");
        assert_eq!(answer.body["master"]["name"], "master");
        let location = answer
            .headers
            .get(header::LOCATION)
            .map(|value| value.as_bytes().to_vec());
        // Its health reports the same.
        let health = call(&secondary, test::TestRequest::get().uri("/health")).await;
        assert_eq!(health.body["master"], answer.body["master"]);
        match public_url {
            None => {
                assert_eq!((answer.status, location), (421, None));
                assert_eq!(answer.body["master"]["url"], "http://told:5000");
            }
            Some(url) => {
                assert_eq!(answer.status, 307);
                assert_eq!(
                    location.as_deref(),
                    Some(&b"http://public:80/base/messages"[..])
                );
                assert_eq!(answer.body["master"]["url"], url.trim_end_matches('/'));
            }
        }
        let answer = call(&secondary, test::TestRequest::get().uri("/appends")).await;
        assert_eq!(answer.status, 421);
        pair.stop().await;
    }
}

#[actix_web::test]
async fn a_limit_on_all_that_may_be_blocked_does_not_touch_concern_one() {
    let pair = Pair::start(None).await;
    let master = application!(pair.master);
    let mut entered = Vec::new();
    let refused = loop {
        match pair.master.enter(Client::at(NOBODY), Concern::All) {
            Ok(guard) => entered.push(guard),
            Err(problem) => break problem,
        }
    };
    assert!(refused.to_string().starts_with("429"), "{refused}");
    let answer = call(&master, post(r#"{"data":1,"meta":{"concern":2}}"#)).await;
    assert_eq!(
        (answer.status, &answer.body["limit"]),
        (429, &"max-waiting-appends".into())
    );
    assert_eq!(answer.body["outcome"], "not_appended");
    let keyed = r#"{"data":1,"meta":{"idempotency_key":"k"}}"#;
    let answer = call(&master, post(keyed)).await;
    let expected = (429, &"unknown".into());
    assert_eq!(
        (answer.status, &answer.body["outcome"]),
        expected,
        "it was not looked up"
    );
    let answer = call(&master, post(r#"{"data":1,"meta":{"concern":1}}"#)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    drop(entered);
    let answer = call(&master, post(r#"{"data":1,"meta":{"concern":2}}"#)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    drop(master);
    pair.stop().await;
}

#[actix_web::test]
async fn no_mangled_request_makes_a_node_fail() {
    const REQUESTS: usize = 6_000;
    let pair = Pair::start(None).await;
    let master = application!(pair.master);
    let secondary = application!(pair.secondary);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for number in 0..REQUESTS {
        let (request, shown) = mangled(&mut dice);
        let answer = match number % 4 {
            0 => call(&secondary, request).await,
            _ => call(&master, request).await,
        };
        assert!(answer.status < 500, "{number}: {} {shown}", answer.status);
        if answer.status >= 400 {
            assert_eq!(answer.body["status"], answer.status, "{number}: {shown}");
        }
    }
    let answer = call(&master, post(r#"{"data":"still well"}"#)).await;
    assert_eq!(answer.status, 201);
    drop((master, secondary));
    pair.stop().await;
}

/// Returns a valid request with a few bytes changed; and the same for people.
fn mangled(dice: &mut Dice) -> (test::TestRequest, String) {
    const METHODS: [Method; 4] = [Method::GET, Method::POST, Method::PUT, Method::DELETE];
    const PATHS: [&str; 12] = [
        "/messages",
        "/messages?from=1&limit=3",
        "/messages?wait_for=1&timeout_ms=1&level=committed",
        "/messages?view=data&follow=false",
        "/messages/0?concern=2&timeout_ms=1",
        "/messages?last=2",
        "/messages/0",
        "/appends?limit=2",
        "/admin/read-write",
        "/health",
        "/faults",
        "/readyz",
    ];
    const BODIES: [&str; 5] = [
        r#"{"data":[],"meta":{"expected_offset":7,"idempotency_key":"key 2"}}"#,
        r#"{"data":{"text":"Hello","n":[1,2.5e3,null]},"meta":{"concern":1,"timeout_ms":5}}"#,
        r#"{"data":"x","meta":{"concern":"majority","idempotency_key":"k"}}"#,
        r#"{"error_before_append":0.0,"delay_ms":[0,1]}"#,
        "RPLW\u{1}\0\u{1}\0\u{2}\0\0\0\0\0\0\0{}",
    ];
    let method = METHODS[dice.below(METHODS.len())].clone();
    let mut path = PATHS[dice.below(PATHS.len())].to_owned();
    let mut body = BODIES[dice.below(BODIES.len())].as_bytes().to_vec();
    for _ in 0..dice.below(4) {
        let at = dice.below(body.len());
        body[at] = dice.below(256) as u8;
    }
    if dice.below(3) == 0 {
        body.truncate(dice.below(body.len()));
    }
    if dice.below(3) == 0 {
        let at = 1 + dice.below(path.len());
        let piece = ["%00", "%ff", "-", "9", "&x", "=", "/", "%2f"][dice.below(8)];
        path.insert_str(at.min(path.len()), piece);
    }
    let kinds = [
        "application/json",
        "application/x-ndjson",
        "text/plain",
        "Application/JSON;x",
    ];
    let kind = kinds[dice.below(6).min(3)];
    let shown = format!("{method} {path} {kind} {}", body.escape_ascii());
    let request = test::TestRequest::default()
        .method(method)
        .uri(&path)
        .insert_header((header::CONTENT_TYPE, kind))
        .set_payload(body);
    (request, shown)
}

/// Pseudo-random numbers that are the same in every run: xorshift64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % end.max(1)
    }
}

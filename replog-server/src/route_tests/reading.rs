//! Reads that wait, follow, or ask for a concern.

use actix_web::http::header::ACCEPT;

use super::*;

const NDJSON: (header::HeaderName, &str) = (ACCEPT, "application/x-ndjson");
const EVENTS: (header::HeaderName, &str) = (ACCEPT, "text/event-stream");

fn read(path: &str) -> test::TestRequest {
    test::TestRequest::get().uri(path)
}

async fn append_three<S>(master: &S)
where
    S: Service<Request, Response = ServiceResponse<BoxBody>, Error = Error>,
{
    for number in 0..3 {
        let body = format!(r#"{{"data":{{"n":{number}}},"meta":{{"concern":2}}}}"#);
        assert_eq!(call(master, post(body)).await.status, 201);
    }
}

#[actix_web::test]
async fn a_read_waits_until_the_node_shows_an_offset_or_times_out() {
    let pair = Pair::start(None).await;
    let master = application!(pair.master);
    let secondary = application!(pair.secondary);
    append_three(&master).await;

    for path in [
        "/messages?wait_for=2&from=2",
        "/messages?wait_for=2&from=2&level=committed",
    ] {
        let answer = call(&secondary, read(path)).await;
        assert_eq!((answer.status, &answer.body["next"]), (200, &3.into()));
        assert_eq!(answer.body["messages"][0]["data"]["n"], 2);
    }
    let answer = call(&master, read("/messages?wait_for=3&timeout_ms=1")).await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.body["type"], "/problems/no-such-offset");
    assert_eq!(answer.body["next"], 3);
    // It is woken by the record that it waits for.
    let waits = call(&master, read("/messages?wait_for=3&from=3"));
    let appends = call(&master, post(r#"{"data":3}"#));
    let (waited, appended) = tokio::join!(waits, appends);
    assert_eq!((waited.status, appended.status), (200, 201));
    assert_eq!(waited.body["messages"][0]["data"], 3);
    // Such a wait ends with the node.
    let waits = call(&secondary, read("/messages?wait_for=99"));
    let (waited, ()) = tokio::join!(waits, pair.secondary.node.stop());
    assert_eq!(waited.status, 503);
    assert_eq!(waited.body["type"], "/problems/stopping");
    drop((master, secondary));
    pair.stop().await;
}

#[actix_web::test]
async fn data_alone_is_an_array() {
    let pair = Pair::start(None).await;
    let master = application!(pair.master);
    append_three(&master).await;
    let answer = call(&master, read("/messages?view=data&from=1")).await;
    assert_eq!(answer.body, serde_json::json!([{"n": 1}, {"n": 2}]));
    let answer = call(&master, read("/messages?view=data&from=9")).await;
    assert_eq!(answer.body, serde_json::json!([]));
    drop(master);
    pair.stop().await;
}

#[actix_web::test]
async fn a_follower_is_told_when_the_node_stops() {
    for (accept, bye) in [
        (NDJSON, "{\"event\":\"bye\"}\n"),
        (EVENTS, "event: bye\ndata: {\"event\":\"bye\"}\n\n"),
    ] {
        let pair = Pair::start(None).await;
        let master = application!(pair.master);
        append_three(&master).await;
        let request = read("/messages?follow=true&last=2").insert_header(accept.clone());
        let response = master.call(request.to_request()).await.expect("an answer");
        assert_eq!(response.status(), 200);
        let content_type = response.headers().get(header::CONTENT_TYPE);
        assert_eq!(
            content_type.map(|value| value.as_bytes()),
            Some(accept.1.as_bytes())
        );
        let body = to_bytes(response.into_body());
        let (body, ()) = tokio::join!(body, pair.master.node.stop());
        let body = body.expect("a whole body");
        let text = std::str::from_utf8(&body).expect("UTF-8");
        assert!(text.ends_with(bye), "{text}");
        drop(master);
        pair.stop().await;
    }
}

#[actix_web::test]
async fn a_concern_can_be_waited_for_after_the_append_on_the_master() {
    let pair = Pair::start(None).await;
    let master = application!(pair.master);
    let secondary = application!(pair.secondary);
    append_three(&master).await;
    let answer = call(&master, read("/messages/1?concern=all")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        (&answer.body["concern"], &answer.body["concern_met"]),
        (&2.into(), &true.into())
    );
    assert_eq!(
        answer.body["acks"],
        serde_json::json!(["master", "secondary-1"])
    );
    assert_eq!(
        (&answer.body["offset"], &answer.body["data"]["n"]),
        (&1.into(), &1.into())
    );
    let answer = call(&secondary, read("/messages/1?concern=1")).await;
    assert_eq!(
        (answer.status, &answer.body["type"]),
        (421, &"/problems/not-master".into())
    );
    let table = [
        ("/messages/3?concern=1", 404, "no-such-offset"),
        ("/messages/1?concern=3", 422, "concern"),
        ("/messages/1?concern=0", 422, "concern"),
        ("/messages/1?concern=x", 400, "malformed"),
        ("/messages/1?timeout_ms=5", 400, "malformed"),
        ("/messages/1?from=5", 400, "malformed"),
    ];
    for (path, status, kind) in table {
        let answer = call(&master, read(path)).await;
        let expected = (status, &format!("/problems/{kind}").into());
        assert_eq!((answer.status, &answer.body["type"]), expected, "{path}");
        assert!(
            answer.body.get("outcome").is_none(),
            "no append: {}",
            answer.body
        );
    }
    // One that only the master gets.
    pair.secondary.node.stop().await;
    let body = r#"{"data":3,"meta":{"concern":1}}"#;
    assert_eq!(call(&master, post(body)).await.status, 201);
    for timeout in [0, 1] {
        let path = format!("/messages/3?concern=2&timeout_ms={timeout}");
        let answer = call(&master, read(&path)).await;
        assert_eq!(
            (answer.status, &answer.body["concern_met"]),
            (200, &false.into())
        );
        assert_eq!(answer.body["waiting_for"][0]["name"], "secondary-1");
    }
    let waits = call(&master, read("/messages/3?concern=2"));
    let (waited, ()) = tokio::join!(waits, pair.master.node.drain());
    assert_eq!(
        (waited.status, &waited.body["type"]),
        (503, &"/problems/stopping".into())
    );
    drop((master, secondary));
    pair.stop().await;
}

#[actix_web::test]
async fn a_message_not_known_to_be_committed_is_not_called_missing() {
    let pair = Pair::start(None).await;
    let master = application!(pair.master);
    append_three(&master).await;
    // One that only the master gets.
    pair.secondary.node.stop().await;
    let body = r#"{"data":3,"meta":{"concern":1}}"#;
    assert_eq!(call(&master, post(body)).await.status, 201);
    let path = "/messages?wait_for=3&level=committed&timeout_ms=1";
    let answer = call(&master, read(path)).await;
    assert_eq!((answer.status, &answer.body["next"]), (404, &3.into()));
    assert_eq!(answer.body["type"], "/problems/no-such-offset");
    assert_eq!(
        answer.body["detail"],
        "message 3 is not known to be held by a majority yet; the committed end is 3"
    );
    drop(master);
    pair.stop().await;
}

#[actix_web::test]
async fn a_read_of_more_than_one_chunk_takes_the_slot_of_a_reader() {
    let pair = Pair::start(None).await;
    let master = application!(pair.master);
    let line = format!("\"{}\"\n", "x".repeat(3_000));
    let batch = test::TestRequest::post()
        .uri("/messages?concern=1")
        .insert_header((header::CONTENT_TYPE, NDJSON.1))
        .set_payload(line.repeat(200));
    assert_eq!(call(&master, batch).await.status, 201);
    let mut entered = Vec::new();
    while let Ok(guard) = pair.master.enter_reader(Client::at(NOBODY)) {
        entered.push(guard);
    }
    for request in [read("/messages"), read("/messages").insert_header(NDJSON)] {
        let answer = call(&master, request).await;
        assert_eq!(
            (answer.status, &answer.body["limit"]),
            (429, &"open-files".into())
        );
    }
    assert_eq!(call(&master, read("/messages?last=9")).await.status, 200);
    entered.pop();
    for _ in 0..2 {
        let request = read("/messages").to_request();
        let response = master.call(request).await.expect("an answer");
        assert_eq!(response.status(), 200);
        // While the rest of it is not taken.
        assert!(pair.master.enter_reader(Client::at(NOBODY)).is_err());
        drop(response);
        assert!(pair.master.enter_reader(Client::at(NOBODY)).is_ok());
    }
    drop(master);
    pair.stop().await;
}

#[actix_web::test]
async fn slow_readers_leave_slots_for_appends() {
    let pair = Pair::start(None).await;
    let master = application!(pair.master);
    append_three(&master).await;
    let mut entered = Vec::new();
    while let Ok(guard) = pair.master.enter_reader(Client::at(NOBODY)) {
        entered.push(guard);
    }
    let refused = [
        read("/messages?follow=true").insert_header(NDJSON),
        read("/messages?wait_for=9"),
    ];
    for request in refused {
        let answer = call(&master, request).await;
        assert_eq!(
            (answer.status, &answer.body["limit"]),
            (429, &"open-files".into())
        );
        assert!(answer.headers.contains_key(header::RETRY_AFTER));
        assert!(
            answer.body.get("outcome").is_none(),
            "no append: {}",
            answer.body
        );
    }
    // Reads that need not wait are served, and so are appends.
    for request in [read("/messages?wait_for=2"), read("/messages?from=1")] {
        assert_eq!(call(&master, request).await.status, 200);
    }
    append_three(&master).await;
    // A follower releases its slot with its connection.
    entered.pop();
    for _ in 0..2 {
        let request = read("/messages?follow=true").insert_header(EVENTS);
        let response = master.call(request.to_request()).await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert!(pair.master.enter_reader(Client::at(NOBODY)).is_err());
        drop(response);
        assert!(pair.master.enter_reader(Client::at(NOBODY)).is_ok());
    }
    drop(master);
    pair.stop().await;
}

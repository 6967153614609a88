//! Tests of the client against a server with canned answers.

use std::sync::{Arc, Mutex};

use serde_json::value::RawValue;

use super::*;
use crate::{
    client::responder::{Asked, Reply, Responder},
    transport::suite,
    types::{Epoch, Mode, Status},
};

const RECEIPT: &str = concat!(
    r#"{"offset":17,"epoch":4,"concern":3,"concern_met":false,"acks":["master"],"#,
    r#""waiting_for":[{"name":"secondary-1","status":"Unhealthy","reason":"connection_refused","#,
    r#""detail":"nobody listens","next_retry_ms":400},{"name":"secondary-2","status":"Healthy","#,
    r#""reason":"something_new","detail":null,"next_retry_ms":null}],"#,
    r#""durable":true,"elapsed_ms":3,"something":"newer"}"#,
);

fn json(status: &str, body: &str) -> Reply {
    Reply::Answer(Responder::answer(
        status,
        "application/json",
        body.as_bytes(),
    ))
}

fn problem(status: &str, body: &str) -> Reply {
    let content_type = "application/problem+json; charset=utf-8";
    Reply::Answer(Responder::answer(status, content_type, body.as_bytes()))
}

/// Starts a server that answers everything with `reply`; returns it and the requests that it got.
fn answering(reply: Reply) -> (Responder, Arc<Mutex<Vec<Asked>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&seen);
    let responder = Responder::start(move |request| {
        asked.lock().unwrap().push(request);
        reply.clone()
    });
    (responder, seen)
}

fn of(responder: &Responder) -> Client {
    Client::new(&responder.url()).unwrap()
}

/// Returns the error of an append that gets this answer.
fn append_error(reply: Reply) -> ClientError {
    suite::run(async {
        let (responder, seen) = answering(reply);
        let error = of(&responder)
            .append("1", &AppendRequest::default())
            .await
            .unwrap_err();
        assert_eq!(seen.lock().unwrap().len(), 1, "an append is sent once");
        error
    })
}

fn line(asked: &Asked) -> String {
    asked.head.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn an_append_is_sent_as_it_is_written() {
    suite::run(async {
        let (responder, seen) = answering(json("202 Accepted", RECEIPT));
        let client = of(&responder);
        let data = r#"{"a" : 1.50, "a":"\u00e9é"}"#;
        let appended = client
            .append(data, &AppendRequest::default())
            .await
            .unwrap();
        assert_eq!((appended.status, appended.replayed), (202, false));
        let receipt = appended.receipt;
        assert_eq!((receipt.offset, receipt.epoch), (Offset(17), Epoch(4)));
        assert!(!receipt.concern_met);
        assert_eq!(receipt.waiting_for[0].status, Status::Unhealthy);
        assert_eq!(receipt.waiting_for[1].reason, "something_new");
        let all = AppendRequest {
            concern: Some(Concern::All),
            timeout: Some(Duration::from_millis(1500)),
            idempotency_key: Some("a\"b".to_owned()),
            expected_offset: Some(Offset(17)),
            base64: false,
        };
        client.append("null", &all).await.unwrap();
        let two = AppendRequest {
            concern: Some(Concern::Count(2)),
            ..AppendRequest::default()
        };
        client.append_value(&[1, 2], &two).await.unwrap();

        let seen = seen.lock().unwrap();
        assert_eq!(line(&seen[0]), "POST /messages HTTP/1.1");
        assert!(seen[0].head.contains("content-type: application/json\r\n"));
        assert_eq!(seen[0].body, format!(r#"{{"data":{data}}}"#));
        let meta: serde_json::Value = serde_json::from_slice(&seen[1].body).unwrap();
        let expected = serde_json::json!({"data": null, "meta": {
            "concern": "all", "timeout_ms": 1500, "idempotency_key": "a\"b", "expected_offset": 17,
        }});
        assert_eq!(meta, expected);
        assert_eq!(seen[2].body, r#"{"data":[1,2],"meta":{"concern":2}}"#);
    });
}

#[test]
fn a_batch_is_one_line_per_message_with_options_in_query_and_headers() {
    suite::run(async {
        let receipt = RECEIPT.replace(r#""offset":17"#, r#""first_offset":17,"count":2"#);
        let (responder, seen) = answering(json("201 Created", &receipt));
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let messages = [raw("{\"a\" :\n1.50}"), raw("null")];
        let request = AppendRequest {
            concern: Some(Concern::All),
            timeout: Some(Duration::from_millis(1500)),
            idempotency_key: Some("k".to_owned()),
            expected_offset: None,
            base64: false,
        };
        let client = of(&responder);
        let messages = || messages.iter().map(|message| &**message);
        let appended = client.append_batch(messages(), &request).await.unwrap();
        let receipt = appended.receipt;
        assert_eq!((receipt.first_offset, receipt.count), (Offset(17), 2));
        let plain = AppendRequest::default();
        client.append_batch(messages(), &plain).await.unwrap();
        let expecting = AppendRequest {
            expected_offset: Some(Offset(1)),
            ..plain
        };
        let error = client.append_batch(messages(), &expecting).await;
        assert!(
            matches!(error, Err(ClientError::Unsendable(_))),
            "{error:?}"
        );

        let seen = seen.lock().unwrap();
        assert_eq!(
            line(&seen[0]),
            "POST /messages?concern=all&timeout_ms=1500 HTTP/1.1"
        );
        let head = &seen[0].head;
        assert!(
            head.contains("content-type: application/x-ndjson\r\n"),
            "{head}"
        );
        assert!(head.contains("idempotency-key: k\r\n"), "{head}");
        assert_eq!(seen[0].body, "{\"a\" : 1.50}\nnull");
        assert_eq!(line(&seen[1]), "POST /messages HTTP/1.1");
        assert_eq!(seen.len(), 2);
    });
}

#[test]
fn a_message_that_is_not_json_is_not_sent() {
    suite::run(async {
        let (responder, seen) = answering(json("201 Created", RECEIPT));
        for bad in ["", "{", r#"1,"meta":{"concern":1}"#, "1 2"] {
            let error = of(&responder)
                .append(bad, &AppendRequest::default())
                .await
                .unwrap_err();
            assert!(
                matches!(error, ClientError::Unsendable(_)),
                "{bad}: {error}"
            );
            assert!(!error.is_retryable() && error.outcome() == Outcome::NotAppended);
        }
        assert!(seen.lock().unwrap().is_empty());
    });
}

#[test]
fn a_replayed_append_is_reported_as_replayed() {
    suite::run(async {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nIdempotent-Replayed: true\r\ncontent-length: {}\r\n\r\n{RECEIPT}",
            RECEIPT.len(),
        );
        let (responder, _) = answering(Reply::Answer(answer.into_bytes()));
        let appended = of(&responder)
            .append("1", &AppendRequest::default())
            .await
            .unwrap();
        assert_eq!((appended.status, appended.replayed), (200, true));
    });
}

#[test]
fn a_problem_comes_with_all_its_members() {
    let error = append_error(problem(
        "503 Unavailable",
        r#"{"type":"/problems/read-only","title":"The master is read-only","status":503,
            "detail":"2 of 3 nodes are needed","outcome":"not_appended","retriable":true,
            "mode":"read-only","mode_reason":"no_quorum","alive":1,"needed":2,"nodes":3}"#,
    ));
    assert_eq!(error.outcome(), Outcome::NotAppended);
    assert!(error.is_retryable());
    let text = "The master is read-only: 2 of 3 nodes are needed (503)";
    assert_eq!(error.to_string(), text);
    let problem = error.problem().unwrap();
    assert_eq!(
        (problem.kind.as_str(), problem.status),
        ("/problems/read-only", 503)
    );
    assert_eq!(problem.members["mode_reason"], "no_quorum");
    assert_eq!(problem.members["alive"], 1);
    assert!(!problem.members.contains_key("status"));
}

#[test]
fn a_detail_that_begins_with_the_title_is_printed_alone() {
    let table = [
        ("The node is stopping", "the node is stopping (503)"),
        ("The node", "the node is stopping (503)"),
        ("Stopping", "Stopping: the node is stopping (503)"),
        (
            "The node is stopping now",
            "The node is stopping now: the node is stopping (503)",
        ),
    ];
    for (title, text) in table {
        let body = format!(r#"{{"title":"{title}","detail":"the node is stopping"}}"#);
        let error = append_error(problem("503 Unavailable", &body));
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn an_error_without_a_problem_document_becomes_a_problem() {
    let table = [
        Reply::Answer(Responder::answer(
            "502 Bad",
            "text/html",
            b" <h1>proxy</h1> ",
        )),
        problem("502 Bad", " <h1>proxy</h1> "),
    ];
    for reply in table {
        let error = append_error(reply);
        assert_eq!(error.outcome(), Outcome::Unknown);
        let problem = error.problem().unwrap();
        assert_eq!(
            (problem.kind.as_str(), problem.status),
            ("about:blank", 502)
        );
        assert_eq!(problem.detail, "<h1>proxy</h1>");
    }
}

#[test]
fn not_sent_is_distinguished_from_not_answered() {
    suite::run(async {
        let nobody = Client::new(&Responder::nobody()).unwrap();
        let error = nobody
            .append("1", &AppendRequest::default())
            .await
            .unwrap_err();
        assert!(
            matches!(&error, ClientError::NotSent(why) if why.contains("refused")),
            "{error}"
        );
        assert_eq!(error.outcome(), Outcome::NotAppended);
    });
    let half = Responder::answer("201 Created", "application/json", RECEIPT.as_bytes());
    for reply in [Reply::Close, Reply::Last(half[..half.len() - 5].to_vec())] {
        let error = append_error(reply);
        assert!(matches!(error, ClientError::NoAnswer(_)), "{error}");
        assert_eq!(error.outcome(), Outcome::Unknown);
    }
    for body in ["", "{}", "<html>"] {
        let error = append_error(json("201 Created", body));
        assert!(
            matches!(error, ClientError::Unreadable { status: 201, .. }),
            "{error}"
        );
        assert_eq!(error.outcome(), Outcome::Unknown);
    }
}

#[test]
fn an_append_is_not_repeated_on_a_kept_connection_that_was_closed_and_a_read_is() {
    suite::run(async {
        let responder = Responder::start(|asked: Asked| match asked.nth {
            0 if asked.head.starts_with("GET") => json("200 OK", "{}"),
            0 => json("201 Created", RECEIPT),
            _ => Reply::Close,
        });
        let client = of(&responder);
        assert!(client.health().await.is_ok());
        assert!(client.health().await.is_ok());
        assert_eq!((responder.asked(), responder.connections()), (3, 2));
        let error = client
            .append("1", &AppendRequest::default())
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::NoAnswer(_)), "{error}");
        assert_eq!(responder.asked(), 4);
    });
}

#[test]
fn an_append_follows_one_redirect_to_the_master() {
    suite::run(async {
        let (master, seen) = answering(json("201 Created", RECEIPT));
        let there = format!("{}/messages", master.url());
        let to = |location: String| {
            let head =
                format!("HTTP/1.1 307 There\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
            Reply::Answer(head.into_bytes())
        };
        let (secondary, _) = answering(to(there));
        let appended = of(&secondary)
            .append("1", &AppendRequest::default())
            .await
            .unwrap();
        assert_eq!((appended.status, appended.url), (201, master.url()));
        assert_eq!(seen.lock().unwrap()[0].body, r#"{"data":1}"#);

        let (lost, asked) = answering(to("/messages".to_owned()));
        let error = of(&lost)
            .append("1", &AppendRequest::default())
            .await
            .unwrap_err();
        assert!(
            matches!(error, ClientError::Unreadable { status: 307, .. }),
            "{error}"
        );
        assert_eq!(asked.lock().unwrap().len(), 2);
        for bad in ["", "ftp://a/", "//a/messages", "https://a/messages"] {
            let (lost, _) = answering(to(bad.to_owned()));
            let error = of(&lost)
                .append("1", &AppendRequest::default())
                .await
                .unwrap_err();
            assert!(
                matches!(error, ClientError::Unsendable(_)),
                "{bad}: {error}"
            );
            assert!(!error.is_retryable() && error.outcome() == Outcome::NotAppended);
        }
    });
}

#[test]
fn a_chunked_body_that_breaks_off_is_not_an_answer() {
    suite::run(async {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let body = r#"{"messages":[{"offset":3,"#;
        let part = format!("{head}{:x}\r\n{body}\r\n", body.len());
        let (responder, _) = answering(Reply::Last(part.into_bytes()));
        let error = of(&responder).messages(&ReadQuery::default()).await;
        let error = error.expect_err("a part of a page");
        assert!(matches!(error, ClientError::NoAnswer(_)), "{error}");
        assert!(error.is_retryable());
    });
}

#[test]
fn an_error_names_the_redirect_target_that_does_not_answer() {
    suite::run(async {
        let there = format!("{}/messages", Responder::nobody());
        let head = format!("HTTP/1.1 307 There\r\nlocation: {there}\r\ncontent-length: 0\r\n\r\n");
        let (secondary, _) = answering(Reply::Answer(head.into_bytes()));
        let error = of(&secondary).append("1", &AppendRequest::default()).await;
        assert!(
            matches!(&error, Err(ClientError::NotSent(why)) if why.contains(&there)),
            "{error:?}"
        );
    });
}

#[test]
fn a_key_that_no_header_can_carry_is_never_sent() {
    suite::run(async {
        let (responder, seen) = answering(json("201 Created", RECEIPT));
        let request = AppendRequest {
            idempotency_key: Some("a\nb".to_owned()),
            ..AppendRequest::default()
        };
        let message = RawValue::from_string("1".to_owned()).unwrap();
        let (client, messages) = (of(&responder), [&*message]);
        let given_up = client.append_batch_retrying(&messages, &request, None);
        let given_up = given_up.await.unwrap_err();
        assert_eq!(given_up.attempts, 1);
        assert!(
            matches!(given_up.last, ClientError::Unsendable(_)),
            "{given_up:?}"
        );
        assert!(seen.lock().unwrap().is_empty());
    });
}

#[test]
fn an_append_that_no_node_takes_is_not_sent_and_a_batch_is_not_split() {
    suite::run(async {
        let (responder, seen) = answering(json("201 Created", RECEIPT));
        let client = of(&responder);
        let request = AppendRequest::default();
        let value =
            |bytes: usize| RawValue::from_string(format!("\"{}\"", "x".repeat(bytes - 2))).unwrap();
        let refused = |error: ClientError| {
            let limit_bytes = crate::limits::FRAME_BYTES_MAX;
            assert!(
                matches!(
                    error,
                    ClientError::TooLarge { bytes, limit_bytes: limit }
                        if bytes == limit_bytes + 1 && limit == limit_bytes
                ),
                "{error}"
            );
            assert_eq!(error.outcome(), Outcome::NotAppended);
            assert!(!error.is_retryable());
        };
        // Around the value: `{"data":` and `}`.
        let most = crate::limits::FRAME_BYTES_MAX - 9;
        refused(
            client
                .append_raw(&value(most + 1), &request)
                .await
                .unwrap_err(),
        );
        let one = RawValue::from_string("1".to_owned()).unwrap();
        // Between the values: a line break.
        let rest = value(crate::limits::FRAME_BYTES_MAX - 1);
        let batch = [&*one, &*rest];
        refused(client.append_batch(batch, &request).await.unwrap_err());
        let given_up = client.append_batch_retrying(&batch, &request, None).await;
        refused(given_up.unwrap_err().last);
        assert!(seen.lock().unwrap().is_empty());
        client.append_raw(&value(most), &request).await.unwrap();
        assert_eq!(seen.lock().unwrap().len(), 1);
    });
}

#[test]
fn resources_that_take_no_appends_have_appended_nothing() {
    let table = [
        (
            404,
            r#"{"type":"/problems/not-found"}"#,
            Outcome::NotAppended,
        ),
        (
            405,
            r#"{"type":"/problems/method-not-allowed"}"#,
            Outcome::NotAppended,
        ),
        (405, "<h1>proxy</h1>", Outcome::NotAppended),
        // A proxy that answers this may have asked the node before.
        (404, "<h1>proxy</h1>", Outcome::Unknown),
        (408, "<h1>proxy</h1>", Outcome::Unknown),
    ];
    for (status, body, expected) in table {
        let error = append_error(problem(&format!("{status} No"), body));
        assert_eq!(error.outcome(), expected, "{status} {body}");
    }
}

#[test]
fn messages_come_back_byte_for_byte() {
    suite::run(async {
        let body = concat!(
            r#"{"messages":[{"offset":3,"epoch":4,"timestamp_ms":5,"data":{"a" :1.0},"#,
            r#""idempotency_key":"k"},{"offset":4,"epoch":4,"timestamp_ms":6,"data":null}],"#,
            r#""next":5}"#,
        );
        let (responder, seen) = answering(json("200 OK", body));
        let query = ReadQuery {
            from: Some(Offset(3)),
            limit: Some(2),
            last: None,
            level: Some(ReadLevel::Committed),
            wait_for: Some(Offset(4)),
            timeout: Some(Duration::from_secs(1)),
        };
        let page = of(&responder).messages(&query).await.unwrap();
        assert_eq!(page.next, Offset(5));
        assert_eq!(page.messages[0].data.get(), r#"{"a" :1.0}"#);
        assert_eq!(page.messages[0].idempotency_key.as_deref(), Some("k"));
        assert_eq!(page.messages[1].data.get(), "null");
        of(&responder)
            .messages(&ReadQuery::default())
            .await
            .unwrap();
        let last = ReadQuery {
            last: Some(10),
            ..ReadQuery::default()
        };
        of(&responder).messages(&last).await.unwrap();
        let seen = seen.lock().unwrap();
        let query = "?from=3&limit=2&level=committed&wait_for=4&timeout_ms=1000";
        assert_eq!(line(&seen[0]), format!("GET /messages{query} HTTP/1.1"));
        assert_eq!(line(&seen[1]), "GET /messages HTTP/1.1");
        assert_eq!(line(&seen[2]), "GET /messages?last=10 HTTP/1.1");
    });
}

#[test]
fn a_message_from_the_master_names_its_holders() {
    suite::run(async {
        let body = concat!(
            r#"{"offset":3,"epoch":4,"timestamp_ms":5,"data":1,"acks":["master"],"#,
            r#""waiting_for":[]}"#,
        );
        let (responder, seen) = answering(json("200 OK", body));
        let message = of(&responder).message(Offset(3)).await.unwrap();
        assert_eq!(message.acks.unwrap().len(), 1);
        assert_eq!(line(&seen.lock().unwrap()[0]), "GET /messages/3 HTTP/1.1");
    });
}

#[test]
fn the_health_of_either_role_can_be_read() {
    suite::run(async {
        let master = concat!(
            r#"{"name":"master","role":"master","version":"0.1.0","cluster_id":null,"epoch":4,"#,
            r#""mode":"read-only","mode_reason":"no_quorum","#,
            r#""quorum":{"nodes":3,"needed":2,"alive":1},"#,
            r#""log":{"next":120,"committed":null,"bytes":16384,"disk":"ok"},"#,
            r#""waiting_appends":2,"secondaries":[{"name":"secondary-1","address":"a:2","url":"http://a:1","#,
            r#""status":"Suspected","durable_end":null,"lag":120,"last_contact_ms":null,"#,
            r#""failed_attempts":17,"reason":"not_reached_yet","next_retry_ms":400}]}"#,
        );
        let (responder, _) = answering(json("200 OK", master));
        let client = of(&responder);
        let status = client.master_status().await.unwrap();
        assert_eq!((status.mode, status.quorum.alive), (Mode::ReadOnly, 1));
        assert_eq!(
            status.secondary("secondary-1").unwrap().status,
            Status::Suspected
        );
        assert_eq!(status.secondary("secondary-2"), None);
        assert_eq!(client.health().await.unwrap()["log"]["next"], 120);
        assert!(matches!(
            client.secondary_health().await.unwrap_err(),
            ClientError::Unreadable { status: 200, .. }
        ));

        let secondary = concat!(
            r#"{"name":"secondary-1","role":"secondary","version":"0.1.0","#,
            r#""cluster_id":"000102030405060708090a0b0c0d0eff","epoch":4,"#,
            r#""log":{"next":7,"committed":7,"bytes":1,"disk":"full"},"intact":true,"#,
            r#""buffered":0,"master":{"name":"master","url":null},"last_contact_ms":3}"#,
        );
        let (responder, _) = answering(json("200 OK", secondary));
        let health = of(&responder).secondary_health().await.unwrap();
        assert_eq!(health.master.unwrap().name.as_str(), "master");
    });
}

#[test]
fn a_concern_is_waited_for_as_long_as_requested() {
    suite::run(async {
        let body = concat!(
            r#"{"offset":3,"epoch":1,"timestamp_ms":5,"data":1,"concern":2,"concern_met":false,"#,
            r#""acks":["master"],"waiting_for":[]}"#,
        );
        let (responder, seen) = answering(json("200 OK", body));
        let client = of(&responder);
        let timeout = Some(Duration::from_millis(50));
        let waited = client.wait_for_concern(Offset(3), Concern::Count(2), timeout);
        let message = waited.await.unwrap();
        assert_eq!(
            (message.concern, message.concern_met),
            (Some(2), Some(false))
        );
        let waited = client.wait_for_concern(Offset(3), Concern::All, None);
        waited.await.unwrap();
        let lines: Vec<String> = seen.lock().unwrap().iter().map(line).collect();
        assert_eq!(
            lines,
            [
                "GET /messages/3?concern=2&timeout_ms=50 HTTP/1.1",
                "GET /messages/3?concern=all HTTP/1.1",
            ]
        );
    });
}

#[test]
fn events_come_one_by_one_and_their_end_is_reported() {
    suite::run(async {
        let body = concat!(
            ": listening\n\n",
            "event: append\ndata: {\"node\":\"master\",\"from\":3}\n\n",
            ":\n\n",
            "event: bye\ndata: {\"node\":\"master\"}\n\n",
            "event: ack\ndata: {\"cut",
        );
        let answer = Responder::answer("200 OK", "text/event-stream", body.as_bytes());
        let (responder, seen) = answering(Reply::Answer(answer));
        let mut events = of(&responder).events().await.unwrap();
        let first = events.next().await.unwrap();
        assert_eq!(
            (first.kind.as_str(), first.data.get()),
            ("append", r#"{"node":"master","from":3}"#)
        );
        assert_eq!(events.next().await.unwrap().kind, "bye");
        let end = events.next().await.unwrap_err();
        assert!(matches!(end, ClientError::NoAnswer(_)), "{end:?}");
        assert_eq!(line(&seen.lock().unwrap()[0]), "GET /events HTTP/1.1");
        // Anything but a stream is an error.
        let refused = Responder::answer("404 Not Found", "text/plain", b"no");
        let (responder, _) = answering(Reply::Answer(refused));
        assert!(of(&responder).events().await.is_err());
    });
}

#[test]
fn waiting_appends_faults_and_texts_have_their_paths() {
    suite::run(async {
        let (responder, seen) = answering(json("200 OK", r#"{"appends":[],"total":0}"#));
        let client = of(&responder);
        assert_eq!(client.appends(None).await.unwrap().total, 0);
        client.appends(Some(5)).await.unwrap();
        assert_eq!(
            client.get_text("/metrics").await.unwrap(),
            r#"{"appends":[],"total":0}"#
        );
        let lines: Vec<String> = seen.lock().unwrap().iter().map(line).collect();
        let expected = [
            "GET /appends HTTP/1.1",
            "GET /appends?limit=5 HTTP/1.1",
            "GET /metrics HTTP/1.1",
        ];
        assert_eq!(lines, expected);

        let (responder, seen) = answering(json("200 OK", r#"{"isolate":true,"delay_ms":[1,2]}"#));
        let client = of(&responder);
        let held = client.faults().await.unwrap();
        assert_eq!((held.isolate, held.delay_ms), (true, Some([1, 2])));
        assert_eq!(client.set_faults(&held).await.unwrap(), held);
        assert_eq!(client.clear_faults().await.unwrap(), held);
        let seen = seen.lock().unwrap();
        let lines: Vec<String> = seen.iter().map(line).collect();
        let expected = [
            "GET /faults HTTP/1.1",
            "PUT /faults HTTP/1.1",
            "DELETE /faults HTTP/1.1",
        ];
        assert_eq!(lines, expected);
        let sent: FaultSettings = serde_json::from_slice(&seen[1].body).unwrap();
        assert_eq!(sent, held);
    });
}

#[test]
fn a_raw_request_is_not_checked() {
    suite::run(async {
        let (responder, seen) = answering(problem("405 No", "{}"));
        let client = of(&responder);
        let body = Bytes::from_static(b"\xff\x00");
        let headers = [("x-a", "1"), ("content-type", "text/plain")];
        let answer = client
            .request("PATCH", "/messages?x=1", &headers, body)
            .await
            .unwrap();
        assert_eq!(answer.status, 405);
        assert_eq!(answer.header("content-length"), Some("2"));
        let bad_header = client
            .request("GET", "/", &[("a\nb", "c")], Bytes::new())
            .await;
        assert!(
            matches!(bad_header, Err(ClientError::Unsendable(_))),
            "{bad_header:?}"
        );
        let bad_path = client.request("GET", "/a b", &[], Bytes::new()).await;
        assert!(
            matches!(bad_path, Err(ClientError::Unsendable(_))),
            "{bad_path:?}"
        );
        let seen = seen.lock().unwrap();
        assert_eq!(line(&seen[0]), "PATCH /messages?x=1 HTTP/1.1");
        assert!(seen[0].head.contains("x-a: 1\r\n"));
        assert_eq!(&seen[0].body[..], b"\xff\x00");
    });
}

#[test]
fn an_answer_that_takes_too_long_or_is_too_long_is_given_up() {
    suite::run(async {
        let (responder, _) = answering(json("200 OK", r#"{"a":"0123456789"}"#));
        let client = Client::builder(&responder.url())
            .answer_bytes_max(10)
            .build()
            .unwrap();
        let error = client.health().await.unwrap_err();
        assert!(
            matches!(error, ClientError::Unreadable { status: 200, .. }),
            "{error}"
        );

        // Accepts connections and never reads from them.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let timeout = Some(Duration::from_millis(20));
        let client = Client::builder(&url).timeout(timeout).build().unwrap();
        let error = client.health().await.unwrap_err();
        assert!(matches!(error, ClientError::NoAnswer(_)), "{error}");
        let at_once = AppendRequest {
            timeout: Some(Duration::ZERO),
            ..AppendRequest::default()
        };
        let error = client.append("1", &at_once).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown);
    });
}

#[test]
fn an_invalid_url_is_refused_at_once() {
    let table = [
        ("", "expected a URL"),
        (
            "http://127.0.0.1:99999",
            "a port is a number from 1 to 65535",
        ),
        ("http://user:hush@a", "a user name or a password"),
        ("https://localhost", "https is not supported"),
        ("http://", "expected a URL"),
        ("ftp://a", "expected a URL"),
        ("http://a b", "neither a host name nor an address"),
        ("http://a?x=1", "a query does not belong here"),
        ("http://a/b#x", "a fragment does not belong here"),
    ];
    for (bad, expected) in table {
        let Err(ClientError::Unsendable(why)) = Client::new(bad) else {
            panic!("{bad} is taken")
        };
        assert!(why.contains(expected), "{bad}: {why}");
    }
    for good in [
        "http://localhost:5000/",
        "HTTP://LOCALHOST:5000",
        "localhost:5000",
    ] {
        assert_eq!(Client::new(good).unwrap().url(), "http://localhost:5000");
    }
}

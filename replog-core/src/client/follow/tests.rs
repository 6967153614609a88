//! A follower of a node with canned answers.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::*;
use crate::{
    client::responder::{Asked, Reply, Responder},
    transport::suite,
};

fn line(offset: u64, epoch: u64) -> String {
    format!(r#"{{"offset":{offset},"epoch":{epoch},"timestamp_ms":5,"data":[{offset}]}}"#) + "\n"
}

/// The log that the node has, unless a test says otherwise.
const LOG: &str = "000000000000000000000000000000aa";
/// Another log.
const OTHER: &str = "000000000000000000000000000000bb";

/// An unfinished body, of a node that has this log.
fn begun_in(log: Option<&str>, text: &str) -> String {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n";
    let log = log.map(|log| format!("replog-cluster: {log}\r\n"));
    let log = log.unwrap_or_default();
    format!("{head}{log}\r\n{:x}\r\n{text}\r\n", text.len())
}

/// An unfinished body.
fn begun(text: &str) -> String {
    begun_in(Some(LOG), text)
}

/// A body that breaks off.
fn broken(text: &str) -> Reply {
    Reply::Last(begun(text).into_bytes())
}

/// A body that ends as it should.
fn ended(text: &str) -> Reply {
    Reply::Answer((begun(text) + "0\r\n\r\n").into_bytes())
}

fn refused(status: &str, kind: &str) -> Reply {
    let body = format!(r#"{{"type":"/problems/{kind}","detail":"no"}}"#);
    let content_type = "application/problem+json";
    Reply::Answer(Responder::answer(status, content_type, body.as_bytes()))
}

/// Starts a node that gives these answers one after the other; returns it and the request lines
/// that it got.
fn answering(replies: Vec<Reply>) -> (Responder, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&seen);
    let responder = Responder::start(move |asked: Asked| {
        let mut lines = lines.lock().unwrap();
        let line = asked.head.lines().next().unwrap_or_default();
        lines.push(line.replace("GET /messages?", "").replace(" HTTP/1.1", ""));
        // Notices a follower that asks too often.
        replies
            .get(lines.len() - 1)
            .cloned()
            .unwrap_or(Reply::Close)
    });
    (responder, seen)
}

fn follow(responder: &Responder, from: u64) -> Follow {
    let delays = Duration::from_millis(1)..=Duration::from_millis(2);
    let client = Client::builder(&responder.url()).retry_delays(delays);
    client.build().unwrap().follow(Offset(from))
}

/// A page of this one message.
fn page(line: &str) -> Reply {
    let body = format!(r#"{{"messages":[{}],"next":9}}"#, line.trim_end());
    Reply::Answer(Responder::answer(
        "200 OK",
        "application/json",
        body.as_bytes(),
    ))
}

/// Returns the offset of the cut that must be reported next.
async fn cut_at(follow: &mut Follow) -> u64 {
    match follow.next().await {
        Err(ClientError::Cut { offset }) => offset.0,
        other => panic!("{other:?}"),
    }
}

/// Returns the offsets of the next messages.
async fn offsets(follow: &mut Follow, count: usize) -> Vec<u64> {
    let mut offsets = Vec::new();
    for _ in 0..count {
        offsets.push(follow.next().await.unwrap().offset.0);
    }
    offsets
}

#[test]
fn every_message_is_given_once_across_any_interruption() {
    suite::run(async {
        let half = |line: &str| line[..line.len() - 1].to_owned();
        let replies = vec![
            // Complete lines count, and the last one has no line break.
            broken(&(line(7, 1) + &line(8, 1) + &half(&line(9, 1)))),
            Reply::Close,
            refused("503 Service Unavailable", "stopping"),
            refused("429 Too Many Requests", "overloaded"),
            // Keep-alives before a line and before the end.
            ended(&format!(
                "  {}  {{\"event\":\"bye\"}}\n",
                line(8, 1) + &line(9, 2)
            )),
            // Nothing new.
            broken(&line(9, 2)),
            broken(&(line(9, 2) + &line(12, 2))),
        ];
        let (responder, seen) = answering(replies);
        let mut follow = follow(&responder, 7);
        assert_eq!(offsets(&mut follow, 4).await, [7, 8, 9, 12]);
        let seen = seen.lock().unwrap();
        let asked: Vec<&str> = seen
            .iter()
            .map(|line| line.strip_suffix("&follow=true&level=local").unwrap())
            .collect();
        assert_eq!(
            asked,
            [
                "from=7", "from=8", "from=8", "from=8", "from=8", "from=9", "from=9"
            ]
        );
    });
}

#[test]
fn a_cut_is_reported_and_its_replacement_is_given() {
    suite::run(async {
        let cut = |text: String, offset: u64| {
            ended(&format!(
                "{text}{{\"event\":\"cut\",\"offset\":{offset}}}\n"
            ))
        };
        let replies = vec![
            cut(line(0, 1) + &line(1, 1) + &line(2, 1), 1),
            // The message before the cut is still compared.
            broken(&(line(0, 1) + &line(1, 2) + &line(2, 2))),
            // The same offset, of another epoch: cut while no connection was open.
            broken(&(line(2, 3) + &line(3, 3))),
            page(&line(1, 2)),
            broken(&(line(1, 2) + &line(2, 3) + &line(3, 3))),
        ];
        let (responder, seen) = answering(replies);
        let mut follow = follow(&responder, 0).level(ReadLevel::Committed);
        assert_eq!(offsets(&mut follow, 3).await, [0, 1, 2]);
        assert_eq!(cut_at(&mut follow).await, 1);
        assert_eq!(offsets(&mut follow, 2).await, [1, 2]);
        assert_eq!(cut_at(&mut follow).await, 2);
        assert_eq!(offsets(&mut follow, 2).await, [2, 3]);
        let seen = seen.lock().unwrap();
        assert_eq!(seen[0], "from=0&follow=true&level=committed");
        assert_eq!(seen[3], "from=1&limit=1&level=committed");
    });
}

#[test]
fn a_cut_without_a_connection_is_reported_from_the_first_replaced_message_on() {
    suite::run(async {
        // The log that the node comes back with, given that the follower has that of epochs 1 and
        // 2.
        let table: [(&[u64], u64); 5] = [
            (&[1, 1, 1, 1, 2, 2, 2, 3], 7),
            (&[1, 1, 1, 1, 2, 3, 3, 3], 5),
            (&[1, 1, 1, 1, 3, 3, 3, 3], 4),
            (&[1, 3, 3, 3, 3, 3, 3, 3], 1),
            (&[3, 3, 3, 3, 3, 3, 3, 3], 0),
        ];
        for (epochs, expected) in table {
            let had: Vec<u64> = vec![1, 1, 1, 1, 2, 2, 2, 2];
            let epochs = epochs.to_vec();
            let responder = Responder::start(move |asked: Asked| {
                let from = asked.head.split(['=', '&']).nth(1).unwrap();
                let from: usize = from.parse().unwrap();
                let lines = |epochs: &[u64]| -> String {
                    let lines = (from..epochs.len()).map(|at| line(at as u64, epochs[at]));
                    lines.collect()
                };
                if asked.head.contains("limit=1") {
                    return page(&line(from as u64, epochs[from]));
                }
                // On its first connection it has the old log.
                broken(&lines(if asked.connection == 0 { &had } else { &epochs }))
            });
            let mut follow = follow(&responder, 0);
            offsets(&mut follow, 8).await;
            assert_eq!(cut_at(&mut follow).await, expected);
            let again: Vec<u64> = (expected..8).collect();
            assert_eq!(offsets(&mut follow, again.len()).await, again);
        }
    });
}

#[test]
fn an_interruption_is_reported_once_unless_the_node_is_back_at_once() {
    suite::run(async {
        let replies = vec![
            broken(&line(0, 1)),
            // Back at once: not an interruption to report.
            broken(&(line(0, 1) + &line(1, 1))),
            refused("503 Service Unavailable", "stopping"),
            refused("503 Service Unavailable", "stopping"),
            Reply::Close,
            broken(&(line(1, 1) + &line(2, 1))),
        ];
        let (responder, _) = answering(replies);
        let told = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let tell = std::rc::Rc::clone(&told);
        let follow = follow(&responder, 0);
        let mut follow = follow.on_interruption(move |why| tell.borrow_mut().push(why.to_string()));
        assert_eq!(offsets(&mut follow, 3).await, [0, 1, 2]);
        assert_eq!(told.borrow().len(), 1, "{told:?}");
    });
}

#[test]
fn permanent_errors_are_returned_and_the_next_call_goes_on() {
    suite::run(async {
        let replies = vec![
            refused("400 Bad Request", "malformed"),
            ended("{\"event\":\"something newer\"}\n"),
            ended("no line\n"),
            Reply::Answer(Responder::answer("200 OK", "text/html", b"<html>\n")),
            broken(&(line(5, 1) + &line(4, 1))),
            broken(&(line(5, 1) + &line(6, 1))),
        ];
        let (responder, _) = answering(replies);
        let mut follow = follow(&responder, 5);
        let error = follow.next().await.unwrap_err();
        assert_eq!(error.problem().map(|problem| problem.status), Some(400));
        for _ in 0..3 {
            let error = follow.next().await.unwrap_err();
            assert!(matches!(error, ClientError::Unreadable { .. }), "{error}");
        }
        assert_eq!(offsets(&mut follow, 1).await, [5]);
        let error = follow.next().await.unwrap_err();
        assert!(matches!(error, ClientError::Unreadable { .. }), "{error}");
        assert_eq!(offsets(&mut follow, 1).await, [6]);
    });
}

#[test]
fn a_dropped_future_loses_nothing() {
    suite::run(async {
        let replies = vec![
            broken(&(line(0, 1) + &line(1, 1))),
            broken(&(line(1, 1) + &line(2, 1))),
        ];
        let (responder, _) = answering(replies);
        let mut follow = follow(&responder, 0);
        let mut delivered = Vec::new();
        while delivered.len() < 3 {
            // Dropped whenever something else comes first, which is most of the time.
            tokio::select! {
                biased;
                message = follow.next() => delivered.push(message.unwrap().offset.0),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(delivered, [0, 1, 2]);
    });
}

#[test]
fn another_log_is_reported_and_given_from_its_start() {
    suite::run(async {
        let notice = format!("{{\"event\":\"another_log\",\"cluster_id\":\"{OTHER}\"}}\n");
        let blank = r#"{"type":"/problems/another-log","cluster_id":null}"#;
        let blank = Responder::answer("412 Other", "application/problem+json", blank.as_bytes());
        let other = |text: &str| Reply::Last(begun_in(Some(OTHER), text).into_bytes());
        let replies = [
            // It has no log yet when it answers: the follower asks which log the message belongs
            // to.
            Reply::Last(begun_in(None, &line(2, 1)).into_bytes()),
            broken(&(line(2, 1) + &line(3, 1))),
            // Its directory is gone, and it has not joined again.
            Reply::Answer(blank),
            // The same offset and epoch as the last message, but not the same message.
            other(&(notice.clone() + &line(0, 1) + &line(1, 1) + &line(2, 1))),
            other(&(line(2, 1) + &line(3, 1) + &line(4, 1))),
        ];
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let responder = Responder::start(move |asked: Asked| {
            let mut seen = seen.lock().unwrap();
            let head = asked.head.to_lowercase();
            let log = head
                .lines()
                .find_map(|line| line.strip_prefix("replog-cluster: "));
            seen.push(log.map(str::to_owned));
            replies.get(seen.len() - 1).cloned().unwrap_or(Reply::Close)
        });
        let mut follow = follow(&responder, 2);
        assert_eq!(offsets(&mut follow, 2).await, [2, 3]);
        match follow.next().await {
            Err(ClientError::AnotherLog { cluster_id }) => {
                assert_eq!(cluster_id.to_string(), OTHER);
            }
            told => panic!("{told:?}"),
        }
        assert_eq!(offsets(&mut follow, 5).await, [0, 1, 2, 3, 4]);
        let heads = heads.lock().unwrap();
        let heads: Vec<Option<&str>> = heads.iter().map(Option::as_deref).collect();
        let expected = [None, None, Some(LOG), Some(LOG), Some(OTHER)];
        assert_eq!(heads[..5], expected);
    });
}

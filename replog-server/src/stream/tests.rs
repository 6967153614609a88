//! Bodies of a made-up log.

use std::{future::pending, pin::pin};

use super::*;
use futures_util::{StreamExt as _, TryStreamExt as _};
use replog_core::{
    frame::{FrameBatch, FrameError, FrameFields},
    types::Epoch,
};
use serde_json::{Value, json};

use crate::shares::{Client, Waits};

/// A log of `count` messages; every third payload has a line break. The record at `fails_at` cannot
/// be read.
#[derive(Clone)]
struct MadeUpLog {
    next: u64,
    count: u64,
    payload_bytes: usize,
    fails_at: Option<(u64, ReadError)>,
    cut_at: Option<(u64, Offset)>,
}

impl MadeUpLog {
    fn message(&self, at: u64) -> MessageRange {
        let payload = format!(
            "[{at},{}\"{}\"]",
            if at.is_multiple_of(3) { "\r\n" } else { "" },
            "x".repeat(self.payload_bytes)
        );
        let fields = FrameFields {
            first: Offset(at),
            epoch: Epoch(1),
            timestamp_ms: 5,
            key: b"",
        };
        let mut bytes = BytesMut::new();
        fields.encode(&[payload.as_bytes()], &mut bytes);
        let frame = FrameBatch::check(Offset(at), bytes.freeze()).expect("a good frame");
        MessageRange::new(frame, Offset(at), Offset(at + 1)).expect("one message")
    }

    fn from(self, next: u64) -> MadeUpLog {
        MadeUpLog { next, ..self }
    }
}

impl Source for MadeUpLog {
    fn offset(&self) -> Offset {
        Offset(self.next)
    }

    async fn read_on(
        &mut self,
        until: Offset,
        bytes_max: usize,
    ) -> Result<Option<Followed>, ReadError> {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while self.next < until.0.min(self.count) && bytes < bytes_max {
            let at = self.next;
            let fails = self.fails_at.as_ref().filter(|(fails, _)| *fails == at);
            let cut = self.cut_at.filter(|(cut, _)| *cut == at);
            match (fails, cut) {
                (None, None) => {}
                _ if !messages.is_empty() => break,
                (Some((_, error)), _) => return Err(error.clone()),
                (_, Some((_, offset))) => return Ok(Some(Followed::Cut { offset })),
            }
            let message = self.message(at);
            bytes += message.frames().bytes().len();
            messages.push(message);
            self.next += 1;
        }
        Ok((!messages.is_empty()).then_some(Followed::Records(messages)))
    }

    async fn next(&mut self, bytes_max: usize) -> Result<Followed, ReadError> {
        match self.read_on(Offset(u64::MAX), bytes_max).await? {
            Some(followed) => Ok(followed),
            None => pending().await,
        }
    }
}

fn made(count: u64) -> MadeUpLog {
    MadeUpLog {
        next: 0,
        count,
        payload_bytes: 10,
        fails_at: None,
        cut_at: None,
    }
}

fn to(end: u64, limit: u64) -> Span {
    Span {
        until: Until::End(Offset(end)),
        limit,
        slot: None,
        other: None,
    }
}

fn following(limit: u64) -> Span {
    Span {
        until: Until::Stopped,
        limit,
        slot: None,
        other: None,
    }
}

fn layout(form: Form) -> Layout {
    Layout {
        form,
        view: View::Message,
    }
}

fn data(form: Form) -> Layout {
    Layout {
        form,
        view: View::Data,
    }
}

async fn text(
    records: MadeUpLog,
    span: Span,
    layout: Layout,
) -> Result<(String, usize), ReadError> {
    let stream = chunks(None, Messages::new(records, span, layout));
    let parts: Vec<Bytes> = Box::pin(stream).try_collect().await?;
    let text = String::from_utf8(parts.concat()).expect("UTF-8");
    Ok((text, parts.iter().map(Bytes::len).max().unwrap_or(0)))
}

fn offsets(messages: &Value) -> Vec<u64> {
    let messages = messages["messages"].as_array().expect("an array");
    messages
        .iter()
        .map(|message| message["offset"].as_u64().expect("a number"))
        .collect()
}

fn damaged(offset: u64) -> ReadError {
    ReadError::Damaged {
        path: "log/0.log".to_owned(),
        position: 99,
        offset: Offset(offset),
        source: FrameError::Absent,
    }
}

#[tokio::test]
async fn json_has_the_messages_and_the_offset_to_continue_from() {
    let table = [
        (0, 3, u64::MAX, vec![0, 1, 2], 3),
        (1, 3, 1, vec![1], 2),
        (0, 0, u64::MAX, vec![], 0),
        (3, 3, u64::MAX, vec![], 3),
        (90, 3, u64::MAX, vec![], 90),
        (u64::MAX, 3, u64::MAX, vec![], u64::MAX),
        (3, 7, u64::MAX, vec![3, 4, 5, 6], 7),
        (3, 7, 2, vec![3, 4], 5),
    ];
    for (from, end, limit, expected, next) in table {
        let (text, _) = text(made(10).from(from), to(end, limit), layout(Form::Json))
            .await
            .expect("readable");
        let parsed: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(offsets(&parsed), expected, "from {from} limit {limit}");
        assert_eq!(parsed["next"], next, "from {from} limit {limit}");
    }
}

#[tokio::test]
async fn ndjson_is_one_message_per_line_whatever_the_payload() {
    let (text, _) = text(made(10), to(10, u64::MAX), layout(Form::Ndjson))
        .await
        .expect("readable");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
        .collect();
    assert_eq!(lines.len(), 10);
    assert_eq!(lines[3]["data"][0], json!(3));
    assert!(text.ends_with('\n'));
}

#[tokio::test(start_paused = true)]
async fn followers_that_end_take_no_turn() {
    let (waits, client) = (Waits::new(8, 8, 8), Client::at(None));
    let slot = || waits.reader(client).expect("a slot");
    for count in 0..100 {
        let span = Span {
            slot: Some(slot()),
            ..following(if count % 2 == 0 { 1 } else { 5 })
        };
        let mut parts = Box::pin(chunks(
            None,
            Messages::new(made(4), span, layout(Form::Ndjson)),
        ));
        // Half of them have all they wanted, the other half leave.
        let part = parts.next().await.expect("a part");
        assert!(!part.expect("readable").is_empty());
        if count % 2 == 0 {
            assert!(parts.next().await.is_none());
        }
    }
    let now = Instant::now();
    assert_eq!(slot().next_turn(now), now);
}

#[tokio::test]
async fn events_end_at_the_end_of_the_log_unless_it_is_followed() {
    let (text, _) = text(made(10), to(3, u64::MAX), layout(Form::Events))
        .await
        .expect("readable");
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(events.len(), 3, "{text}");
    for (at, event) in events.iter().enumerate() {
        let (id, data) = event.split_once('\n').expect("two lines");
        assert_eq!(id, format!("id: {at}"));
        let data = data.strip_prefix("data: ").expect("data");
        let message: Value = serde_json::from_str(data).expect("JSON on one line");
        assert_eq!(message["offset"], at);
    }
}

#[tokio::test]
async fn a_long_answer_comes_in_parts_of_a_bounded_size() {
    let log = MadeUpLog {
        payload_bytes: 200,
        ..made(20_000)
    };
    let (text, largest) = text(log, to(20_000, u64::MAX), layout(Form::Json))
        .await
        .expect("readable");
    assert!(text.len() > 4 << 20, "{}", text.len());
    assert!(largest < 2 * READ_BYTES, "{largest}");
    let parsed: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(offsets(&parsed).len(), 20_000);
}

#[tokio::test]
async fn a_read_ends_before_a_damaged_record() {
    let log = MadeUpLog {
        fails_at: Some((5, damaged(5))),
        ..made(10)
    };
    let (text, _) = text(log, to(10, u64::MAX), layout(Form::Json))
        .await
        .expect("a whole answer");
    let parsed: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (offsets(&parsed), &parsed["next"]),
        (vec![0, 1, 2, 3, 4], &json!(5))
    );
}

#[tokio::test]
async fn a_failed_read_aborts_the_transfer() {
    let log = MadeUpLog {
        payload_bytes: 100_000,
        fails_at: Some((7, ReadError::Cut { offset: Offset(7) })),
        ..made(10)
    };
    let messages = Messages::new(log, to(10, u64::MAX), layout(Form::Json));
    let parts: Vec<Result<Bytes, ReadError>> = Box::pin(chunks(None, messages)).collect().await;
    assert!(parts.len() > 1 && parts[0].is_ok());
    assert!(matches!(parts.last(), Some(Err(ReadError::Cut { .. }))));
}

#[tokio::test(start_paused = true)]
async fn a_follower_is_sent_the_existing_messages_and_then_occasional_signs_of_life() {
    let messages = Messages::new(made(2), following(u64::MAX), layout(Form::Ndjson));
    let mut parts = pin!(chunks(None, messages));
    let started = tokio::time::Instant::now();
    let first = parts.next().await.expect("a part").expect("readable");
    assert_eq!(first.iter().filter(|byte| **byte == b'\n').count(), 2);
    for signs in 1..4 {
        let sign = parts.next().await.expect("a part").expect("readable");
        assert_eq!(&sign[..], b" ");
        assert_eq!(started.elapsed(), signs * FOLLOW_SIGN_INTERVAL);
    }
}

#[tokio::test]
async fn a_follower_ends_with_the_node_its_limit_or_a_cut() {
    let stopped = || MadeUpLog {
        fails_at: Some((3, ReadError::Stopped)),
        ..made(10)
    };
    let cut = || MadeUpLog {
        cut_at: Some((3, Offset(1))),
        ..made(10)
    };
    let last = |text: &str| text.lines().last().unwrap_or_default().to_owned();
    let (bye, _) = text(stopped(), following(u64::MAX), layout(Form::Ndjson))
        .await
        .expect("a whole body");
    assert_eq!(
        (bye.lines().count(), last(&bye)),
        (4, r#"{"event":"bye"}"#.to_owned())
    );
    let (bye, _) = text(stopped(), following(u64::MAX), data(Form::Events))
        .await
        .expect("a whole body");
    assert!(
        bye.ends_with("event: bye\ndata: {\"event\":\"bye\"}\n\n"),
        "{bye}"
    );
    let (bare, _) = text(stopped(), following(u64::MAX), data(Form::Ndjson))
        .await
        .expect("a whole body");
    assert_eq!(bare.lines().count(), 3, "only data: {bare}");

    let (limited, _) = text(made(10).from(3), following(2), layout(Form::Ndjson))
        .await
        .expect("a whole body");
    assert_eq!(limited.lines().count(), 2, "offsets 3 and 4: {limited}");

    let (told, _) = text(cut(), following(u64::MAX), layout(Form::Ndjson))
        .await
        .expect("a whole body");
    assert_eq!(last(&told), r#"{"event":"cut","offset":1}"#);
    for span in [following(u64::MAX), to(10, u64::MAX)] {
        let broken = text(cut(), span, data(Form::Ndjson)).await;
        assert!(
            matches!(broken, Err(ReadError::Cut { offset: Offset(1) })),
            "{broken:?}"
        );
    }
}

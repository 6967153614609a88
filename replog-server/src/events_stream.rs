//! A node's events as a body of server-sent events (WHATWG HTML, section 9.2).
//!
//! Owns the text of an event and the time of a comment. Nothing is queued here: an event is taken from the node when
//! the connection has space for it, and a reader that is too slow is told how many it missed. Keeps rule 11.

use std::{convert::Infallible, fmt::Write as _, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use replog_core::{Events, NodeName, events::Notice};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

/// Interval between comments: they keep intermediaries from closing the connection, and show the node one that is gone.
pub(crate) const COMMENT_INTERVAL: Duration = Duration::from_secs(15);

/// The first text: it shows the reader that the stream works.
const GREETING: &str = ": listening\n\n";
const COMMENT: &str = ":\n\n";

/// Returns the body: events of `node` until it ends, then `bye`. `kept` is dropped with it.
pub(crate) fn body<K: 'static>(
    node: NodeName,
    events: Events,
    kept: K,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let listening = Listening {
        node,
        events,
        comment_at: Instant::now() + COMMENT_INTERVAL,
        phase: Phase::Begin,
        _kept: kept,
    };
    stream::unfold(listening, |mut listening| async move {
        let text = listening.next_text().await?;
        Some((Ok(text), listening))
    })
}

/// Writes one event. JSON has no line break outside of a string, and none within: it is one line.
pub(crate) fn write_event(text: &mut BytesMut, name: &str, data: &impl Serialize) {
    let data = serde_json::to_string(data).expect("names, numbers and texts are JSON");
    write!(text, "event: {name}\ndata: {data}\n\n").expect("memory takes any text");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Begin,
    Middle,
    Over,
}

struct Listening<K> {
    node: NodeName,
    events: Events,
    comment_at: Instant,
    phase: Phase,
    _kept: K,
}

impl<K> Listening<K> {
    /// Returns the next part of the body; `None` after the last one.
    async fn next_text(&mut self) -> Option<Bytes> {
        match self.phase {
            Phase::Begin => {
                self.phase = Phase::Middle;
                return Some(Bytes::from_static(GREETING.as_bytes()));
            }
            Phase::Middle => {}
            Phase::Over => return None,
        }
        let notice = tokio::select! {
            biased;
            () = tokio::time::sleep_until(self.comment_at) => {
                self.comment_at = Instant::now() + COMMENT_INTERVAL;
                return Some(Bytes::from_static(COMMENT.as_bytes()));
            }
            notice = self.events.next() => notice,
        };
        let mut text = BytesMut::new();
        match notice {
            Some(Notice::Event(event)) => write_event(&mut text, event.what.kind(), &event),
            Some(Notice::Missed { count }) => {
                write_event(&mut text, "missed", &json!({ "count": count }));
            }
            None => {
                write_event(&mut text, "bye", &json!({ "node": self.node }));
                self.phase = Phase::Over;
            }
        }
        Some(text.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;
    use replog_core::{
        Master, MasterConfig,
        storage::MemoryStorage,
        transport::{FaultInjector, FaultSettings, LocalNetwork},
    };
    use std::sync::Arc;

    async fn master() -> Master {
        let config = MasterConfig::new(NodeName::new("m").expect("a name"), Vec::new());
        let network = Arc::new(LocalNetwork::new());
        let master = Master::start(config, Arc::new(MemoryStorage::new()), network).await;
        let master = master.expect("a master");
        master
            .wait_until_writable()
            .await
            .expect("a majority of one");
        master
    }

    #[tokio::test]
    async fn a_slow_reader_misses_events_and_is_told_how_many() {
        let (master, injector) = (master().await, FaultInjector::new());
        master.publish_faults(&injector);
        let mut body = Box::pin(body(master.name().clone(), master.events(), ()));
        for _ in 0..1_000 {
            injector
                .set(FaultSettings::default())
                .expect("good settings");
        }
        master.stop().await;
        let mut text = String::new();
        while let Some(Ok(part)) = body.next().await {
            text.push_str(str::from_utf8(&part).expect("UTF-8"));
        }
        let (greeting, rest) = text.split_at(GREETING.len());
        assert_eq!(greeting, GREETING);
        let events: Vec<&str> = rest.split_terminator("\n\n").collect();
        let (missed, kept) = (events[0], &events[1..events.len() - 1]);
        assert_eq!(
            missed,
            format!("event: missed\ndata: {{\"count\":{}}}", 1_000 - kept.len())
        );
        for event in kept {
            assert!(
                event.starts_with("event: fault\ndata: {\"at_ms\":"),
                "{event}"
            );
        }
        assert_eq!(
            events.last(),
            Some(&"event: bye\ndata: {\"node\":\"m\"}"),
            "{rest}"
        );
    }

    #[tokio::test]
    async fn a_comment_is_sent_every_fifteen_seconds_whatever_else_is_sent() {
        let master = master().await;
        tokio::time::pause();
        let mut body = Box::pin(body(master.name().clone(), master.events(), ()));
        let started = Instant::now();
        for expected in [GREETING, COMMENT, COMMENT] {
            let part = body.next().await.expect("no end").expect("no error");
            assert_eq!(part, expected);
        }
        assert_eq!(started.elapsed().as_secs(), 30);
    }
}

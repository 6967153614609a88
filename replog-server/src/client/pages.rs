//! A node's log, read page by page: with no more than one page of it in memory.
//!
//! Each page is an answer of its own, so that a broken connection costs one page, and no part is ever taken for the
//! whole.

use replog_core::{
    Offset, ReadLevel,
    client::{Client, ClientError, LogStatus, Message, Page, ReadQuery, Reason},
    types::{ClusterId, Epoch},
};
use serde::Deserialize;

use super::{Failure, position::Position};

/// Maximum number of messages of the first page: their length is not known yet.
const PAGE_FIRST: u64 = 64;
/// Maximum number of messages of a page.
const PAGE_MAX: u64 = 4096;
/// Approximate number of bytes of a page.
const PAGE_BYTES: u64 = 1 << 20;
/// Maximum number of bytes of a page's answer, if it has more than one message.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// Bytes of a message besides its data.
const MESSAGE_OVERHEAD: u64 = 100;

/// A range of a log being read.
pub(super) struct Pages {
    /// For a message that is a page of its own.
    client: Client,
    /// For pages of more than one message.
    limited: Client,
    level: Option<ReadLevel>,
    cluster_id: Option<ClusterId>,
    /// The last message of the page before, and its epoch.
    given: Option<(Offset, Epoch)>,
    next: Offset,
    end: Offset,
    /// Maximum number of messages of the next page.
    page: u64,
}

/// Fields that every node reports, whatever its role.
#[derive(Debug, Deserialize)]
struct Health {
    cluster_id: Option<ClusterId>,
    log: LogStatus,
}

impl Pages {
    /// Reads from `from` to the end that the node has now.
    pub(super) async fn from(
        client: &Client,
        from: Position,
        level: Option<ReadLevel>,
    ) -> Result<Pages, Failure> {
        let health = health(client).await?;
        let log = from.log.or(health.cluster_id);
        let client = &Position { log, ..from }.client(client);
        let end = end_of(&health.log, visible_end(client).await?, level);
        let end = end.map_err(|failure| failure.of_node(client.url()))?;
        let limited = Client::builder(client.url()).answer_bytes_max(PAGE_BYTES_MAX);
        let limited = match log {
            Some(log) => limited.cluster_id(log),
            None => limited,
        };
        let limited = limited.build();
        Ok(Pages {
            client: client.clone(),
            limited: limited.map_err(|error| Failure::of(client.url(), &error))?,
            level,
            cluster_id: log,
            given: None,
            next: from.offset,
            end,
            page: PAGE_FIRST,
        })
    }

    /// Does what [`Pages::from`] does, for the last `count` offsets.
    pub(super) async fn last(
        client: &Client,
        count: u64,
        level: Option<ReadLevel>,
    ) -> Result<Pages, Failure> {
        let mut pages = Pages::from(client, Position::default(), level).await?;
        pages.next = Offset(pages.end.0.saturating_sub(count));
        Ok(pages)
    }

    /// Limits the range to offsets before `end`.
    pub(super) fn until(mut self, end: Offset) -> Pages {
        self.end = self.end.min(end);
        self
    }

    /// Limits the range to this number of offsets.
    pub(super) fn at_most(self, count: Option<u64>) -> Pages {
        match count.and_then(|count| self.next.0.checked_add(count)) {
            Some(end) => self.until(Offset(end)),
            None => self,
        }
    }

    /// Returns the offset to continue from.
    pub(super) fn next(&self) -> Offset {
        self.next
    }

    /// Returns the offset to continue from, with the name of its log.
    pub(super) fn position(&self) -> Position {
        Position {
            offset: self.next,
            log: self.cluster_id,
        }
    }

    /// Returns the node's cluster, if it has one.
    pub(super) fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id
    }

    /// Returns the end of the range.
    pub(super) fn end(&self) -> Offset {
        self.end
    }

    /// Returns the next messages; `None` at the end.
    pub(super) async fn page(&mut self) -> Result<Option<Vec<Message>>, Failure> {
        if self.next >= self.end {
            return Ok(None);
        }
        let mut page = self.ask().await?;
        if page.next <= self.next {
            return Err(Failure::new(format!(
                "{} shows nothing from offset {} on, though its log went to {}: a record there cannot be \
                 read, or was taken back",
                self.client.url(),
                self.next,
                self.end
            )));
        }
        self.check_that_it_continues(&page).await?;
        self.next = page.next;
        page.messages.retain(|message| message.offset < self.end);
        self.page = page_after(self.page, &page.messages);
        let last = page.messages.last();
        self.given = last.map(|last| (last.offset, last.epoch)).or(self.given);
        Ok(Some(page.messages))
    }

    /// Checks that a page is of the same log as the one before: the node may have adopted another node's between the
    /// two. Within an epoch an offset is given out once, so the same epoch is the same log up to there; at the border
    /// of two epochs the last message of the one before must still be there.
    async fn check_that_it_continues(&self, page: &Page) -> Result<(), Failure> {
        let (Some((offset, epoch)), Some(first)) = (self.given, page.messages.first()) else {
            return Ok(());
        };
        if first.epoch == epoch {
            return Ok(());
        }
        let message = self.client.message(offset).await;
        let message = message.map_err(|error| Failure::of(self.client.url(), &error))?;
        match message.epoch == epoch {
            true => Ok(()),
            false => Err(Failure::new(format!(
                "{}: message {offset}, which was read already, was cut from the node's log and replaced: read it \
                 again from its start, or with --level committed",
                self.client.url()
            ))),
        }
    }

    /// Requests the next page, with fewer messages if this many are too long together.
    async fn ask(&mut self) -> Result<Page, Failure> {
        loop {
            let limit = self.end.records_since(self.next).min(self.page);
            let query = ReadQuery {
                from: Some(self.next),
                limit: Some(limit),
                level: self.level,
                ..ReadQuery::default()
            };
            let client = if limit == 1 {
                &self.client
            } else {
                &self.limited
            };
            match client.messages(&query).await {
                Ok(page) => return Ok(page),
                Err(ClientError::Unreadable { .. }) if limit > 1 => self.page = (limit / 4).max(1),
                Err(error) => return Err(Failure::of(client.url(), &error)),
            }
        }
    }
}

/// Returns the number of messages to request after a page: as many of this length as make a page, but without a sudden
/// increase.
fn page_after(page: u64, messages: &[Message]) -> u64 {
    let bytes = |message: &Message| {
        let base64 = message.data_base64.as_deref().map_or(0, str::len);
        (message.data.get().len() + base64) as u64 + MESSAGE_OVERHEAD
    };
    let (count, bytes) = (
        messages.len() as u64,
        messages.iter().map(bytes).sum::<u64>(),
    );
    if count == 0 {
        return page;
    }
    (PAGE_BYTES * count / bytes).clamp(1, (page * 4).min(PAGE_MAX))
}

/// Returns the log of the node that answers, if it has one.
///
/// # Errors
///
/// Nothing answers, or something other than a node does.
pub(super) async fn find(client: &Client) -> Result<Option<ClusterId>, Failure> {
    Ok(health(client).await?.cluster_id)
}

/// Returns the position where a follower begins, to get the last `count` messages first.
pub(super) async fn last_to_follow(
    client: &Client,
    count: u64,
    level: Option<ReadLevel>,
) -> Result<Position, Failure> {
    let health = health(client).await?;
    let shown = visible_end(client).await?;
    // What is not known to be committed yet will be: the last messages that the node holds will be among those that
    // become visible.
    let end = end_of(&health.log, shown, level).unwrap_or(shown);
    Ok(Position {
        offset: Offset(end.0.saturating_sub(count)),
        log: health.cluster_id,
    })
}

async fn health(client: &Client) -> Result<Health, Failure> {
    let health = client.health().await;
    let health = health.map_err(|error| Failure::of(client.url(), &error))?;
    // Anything else that answers with JSON has no log, and would look like an empty one.
    serde_json::from_value(health).map_err(|error| {
        let reason = format!("its health is not that of a node, is it one? {error}");
        Failure::new(reason).of_node(client.url())
    })
}

/// Returns the visible end of the node's log. A master counts a record as soon as it has its offset, and shows it once
/// it is durable: until then nothing can be read there, and nothing is wrong.
async fn visible_end(client: &Client) -> Result<Offset, Failure> {
    // No log goes that far, and the refusal of a missing message says where the log ends.
    match client.message(Offset(u64::MAX)).await {
        Err(error) => match error.problem().map(|problem| problem.reason()) {
            Some(Reason::NoSuchOffset { next }) => Ok(next),
            _ => Err(Failure::of(client.url(), &error)),
        },
        Ok(_) => {
            let failure = Failure::new("it shows a message where none can be, is it a node?");
            Err(failure.of_node(client.url()))
        }
    }
}

/// Returns the end that can be read now, of a log that is visible up to `shown`. An unknown end is not taken for an
/// empty log: an empty answer would look like everything there is.
fn end_of(log: &LogStatus, shown: Offset, level: Option<ReadLevel>) -> Result<Offset, Failure> {
    match level {
        Some(ReadLevel::Committed) => {
            let committed = log.committed.map(|committed| committed.min(shown));
            committed.ok_or_else(|| {
                Failure::new(
                    "it does not know yet which messages are committed: its master says so, once in contact; \
                     --level local gives what it holds",
                )
            })
        }
        Some(ReadLevel::Local) | None => Ok(shown),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use actix_web::{App, HttpResponse, HttpServer, rt::System, web};
    use serde_json::{Value, json};

    use super::*;

    /// Calls `check` with a client of a node that shows 7 messages. Its log has 10, of which 8 are committed, or it
    /// does not know how many are.
    fn with_a_busy_node(committed: Option<u64>, check: impl AsyncFnOnce(Client)) {
        System::new().block_on(async {
            let health = Arc::new(json!({
                "cluster_id": null,
                "log": {"next": 10, "committed": committed, "bytes": 1, "disk": "ok"},
            }));
            let page = async |query: web::Query<HashMap<String, String>>| {
                let number = |name: &str| query.get(name).and_then(|text| text.parse().ok());
                let (from, limit) = (number("from").unwrap_or(0), number("limit").unwrap_or(9));
                let next = (from + limit).clamp(from, 7.max(from));
                let message = |offset| {
                    json!({"offset": offset, "epoch": 1, "timestamp_ms": 5, "data": offset})
                };
                let messages: Vec<Value> = (from..next).map(message).collect();
                HttpResponse::Ok().json(json!({"messages": messages, "next": next}))
            };
            let none = async || {
                let problem = json!({"type": "/problems/no-such-offset", "status": 404, "next": 7});
                let mut answer = HttpResponse::NotFound();
                answer.content_type("application/problem+json");
                answer.json(problem)
            };
            let app = move || {
                let health = Arc::clone(&health);
                let health = move || {
                    let health = Arc::clone(&health);
                    async move { HttpResponse::Ok().json(&*health) }
                };
                App::new()
                    .route("/health", web::get().to(health))
                    .route("/messages", web::get().to(page))
                    .route("/messages/{offset}", web::get().to(none))
            };
            let server = HttpServer::new(app).workers(1).disable_signals();
            let server = server.bind(("127.0.0.1", 0)).expect("a port");
            let url = format!("http://{}", server.addrs()[0]);
            let server = server.run();
            let handle = server.handle();
            let running = actix_web::rt::spawn(server);
            check(Client::new(&url).expect("a URL")).await;
            handle.stop(false).await;
            running.await.expect("no panic").expect("a good end");
        });
    }

    #[test]
    fn a_log_is_read_to_its_visible_end_and_not_to_what_a_busy_master_counts() {
        with_a_busy_node(Some(8), async |client| {
            for level in [None, Some(ReadLevel::Local), Some(ReadLevel::Committed)] {
                let mut pages = Pages::last(&client, 3, level).await.expect("an end");
                let page = pages.page().await.expect("no damage");
                let offsets = page.into_iter().flatten().map(|message| message.offset.0);
                assert_eq!(offsets.collect::<Vec<_>>(), [4, 5, 6], "{level:?}");
                assert!(pages.page().await.expect("no damage").is_none());
            }
        });
    }

    #[test]
    fn a_follower_gets_the_last_messages_even_if_the_committed_end_is_not_known() {
        with_a_busy_node(None, async |client| {
            let committed = Some(ReadLevel::Committed);
            let from = last_to_follow(&client, 3, committed).await;
            assert_eq!(from.expect("a position").offset, Offset(4));
            assert!(Pages::last(&client, 3, committed).await.is_err());
        });
    }

    #[test]
    fn an_unknown_end_or_something_else_than_a_node_is_not_taken_for_an_empty_log() {
        let health = |text: &str| serde_json::from_str::<Health>(text);
        for other in ["{}", "[]", "null", r#"{"status":"ok"}"#, r#"{"log":{}}"#] {
            assert!(health(other).is_err(), "{other}");
        }
        let text = |committed: &str| {
            format!(
                r#"{{"cluster_id":null,"log":{{"next":7,"committed":{committed},"bytes":1,"disk":"ok"}}}}"#
            )
        };
        let ends = |committed: &str| {
            let log = health(&text(committed)).expect("a node's").log;
            [None, Some(ReadLevel::Local), Some(ReadLevel::Committed)]
                .map(|level| end_of(&log, Offset(6), level).ok())
        };
        let shown = Some(Offset(6));
        assert_eq!(ends("5"), [shown, shown, Some(Offset(5))]);
        assert_eq!(ends("7"), [shown, shown, shown]);
        assert_eq!(ends("null"), [shown, shown, None]);
    }

    #[test]
    fn a_page_has_as_many_messages_as_fill_its_bytes_and_grows_slowly() {
        let messages = |count: u64, bytes: usize| -> Vec<Message> {
            let message = json!({
                "offset": 0, "epoch": 1, "timestamp_ms": 0, "data": "x".repeat(bytes),
            });
            let text = message.to_string();
            let message = || serde_json::from_str(&text).expect("a message");
            (0..count).map(|_| message()).collect()
        };
        let table = [
            // Messages requested, messages received, bytes of each; messages to request next.
            (64, 64, 8, 256),
            (4096, 4096, 8, 4096),
            (64, 64, 1_000_000, 1),
            (64, 4, 100_000, 10),
            (1, 1, 8, 4),
            (64, 0, 0, 64),
        ];
        for (page, count, bytes, expected) in table {
            let next = page_after(page, &messages(count, bytes));
            assert_eq!(next, expected, "{count} of {bytes} bytes after {page}");
        }
    }
}

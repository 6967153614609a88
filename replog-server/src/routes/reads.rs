//! The query of `GET /messages` and its answer: from where, up to where, in which form, and after which wait.
//!
//! Owns the meaning of the query. Parameters that contradict each other, or have no effect without another, are
//! refused.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{HeaderMap, HeaderValue},
};
use replog_core::{
    Reader,
    types::{ClusterId, Offset, ReadLevel},
};

use crate::{
    accept::{self, EVENT_STREAM, Form, JSON, NDJSON},
    connections, log_name,
    node::NodeState,
    problem::{Kind, Problem},
    query::{self, Query},
    shares::Client,
    stream::{self, Layout, Span, Until, View},
};

/// Header with the last event that a reconnecting browser received.
const LAST_EVENT_ID: &str = "last-event-id";

/// A read as requested.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    start: Start,
    limit: u64,
    level: ReadLevel,
    /// The offset that the node must show first.
    wait_for: Option<Offset>,
    /// Maximum time to wait for it.
    timeout: Option<Duration>,
    follow: bool,
    layout: Layout,
    /// The log that its offsets belong to.
    log: Option<ClusterId>,
}

#[derive(Debug, PartialEq, Eq)]
enum Start {
    At(Offset),
    /// This many messages before the end.
    BeforeEnd(u64),
}

impl Options {
    fn of(request: &HttpRequest) -> Result<Options, Problem> {
        let query = Query::of(
            request,
            &[
                "from",
                "limit",
                "last",
                "level",
                "wait_for",
                "timeout_ms",
                "follow",
                "view",
                log_name::PARAMETER,
            ],
        )?;
        let Some(form) = accept::negotiate(request.headers()) else {
            let text = format!("the forms here are {JSON}, {NDJSON} and {EVENT_STREAM}");
            return Err(Problem::new(Kind::NotAcceptable, text));
        };
        let levels = [
            ("local", ReadLevel::Local),
            ("committed", ReadLevel::Committed),
        ];
        let asked = Options {
            start: start(&query, request.headers(), form)?,
            limit: query.positive("limit")?.unwrap_or(u64::MAX),
            level: query.word("level", &levels)?.unwrap_or(ReadLevel::Local),
            wait_for: query.number("wait_for")?.map(Offset),
            timeout: query.timeout()?,
            follow: query
                .word("follow", &[("true", true), ("false", false)])?
                .unwrap_or(false),
            layout: Layout {
                form,
                view: query
                    .word("view", &[("data", View::Data)])?
                    .unwrap_or(View::Message),
            },
            log: log_name::named_by_read(request, &query)?,
        };
        if asked.start == Start::BeforeEnd(0) && !asked.follow {
            let text = "last=0 asks only for messages to come: use it with follow=true";
            return Err(Problem::malformed(text));
        }
        if asked.timeout.is_some() && asked.wait_for.is_none() {
            let text = "timeout_ms ends the wait of wait_for, but wait_for is not given";
            return Err(Problem::malformed(text));
        }
        if asked.follow && form == Form::Json {
            let text = format!(
                "{JSON} has an end and follow=true has none: send {NDJSON} or {EVENT_STREAM} in Accept"
            );
            return Err(Problem::malformed(text));
        }
        Ok(asked)
    }

    /// Returns the node's log if the request's offsets belong to another one: a follower is then sent the node's log
    /// from its start.
    ///
    /// # Errors
    ///
    /// A problem, if the answer cannot express that.
    fn in_another_log(&mut self, own: Option<ClusterId>) -> Result<Option<ClusterId>, Problem> {
        match (self.log, own) {
            (None, _) => Ok(None),
            (Some(named), Some(own)) if named == own => Ok(None),
            (Some(_), Some(own))
                if self.follow && self.wait_for.is_none() && self.layout.has_notices() =>
            {
                self.start = Start::At(Offset::ZERO);
                Ok(Some(own))
            }
            (Some(named), own) => Err(Problem::another_log(named, own)),
        }
    }

    /// Returns the range of offsets, by the end of the log at each level.
    fn range(&self, mut end_of: impl FnMut(ReadLevel) -> Option<Offset>) -> (Offset, Until) {
        // Looked up once: the log grows meanwhile, and the last N before one end would be more before a later one.
        let end = end_of(self.level);
        let from = match self.start {
            Start::At(offset) => offset,
            Start::BeforeEnd(count) => {
                // While committed is not known, its end is not either: the last messages that the node holds will be
                // among those that become visible.
                let end = match self.follow {
                    true => end.or_else(|| end_of(ReadLevel::Local)),
                    false => end,
                };
                Offset(end.unwrap_or_default().0.saturating_sub(count))
            }
        };
        let until = match self.follow {
            true => Until::Stopped,
            false => Until::End(end.unwrap_or_default()),
        };
        (from, until)
    }
}

/// Returns the start. A browser's last event takes precedence over its query, which is still the one of its first
/// request.
fn start(query: &Query, headers: &HeaderMap, form: Form) -> Result<Start, Problem> {
    let from = query.number("from")?;
    let last = query.number("last")?;
    let had = headers
        .get(LAST_EVENT_ID)
        .map(HeaderValue::as_bytes)
        .filter(|had| form == Form::Events && !had.is_empty());
    match (had, from, last) {
        (_, Some(_), Some(_)) => Err(Problem::malformed(
            "from and last contradict each other: give one of them",
        )),
        (Some(had), _, _) => {
            let text = String::from_utf8_lossy(had);
            let had = query::number(&text, "the header Last-Event-ID")?;
            Ok(Start::At(Offset(had.saturating_add(1))))
        }
        (None, _, Some(last)) => Ok(Start::BeforeEnd(last)),
        (None, from, None) => Ok(Start::At(Offset(from.unwrap_or(0)))),
    }
}

/// Reads messages.
pub(super) async fn read(
    state: &NodeState,
    request: &HttpRequest,
) -> Result<HttpResponse, Problem> {
    let mut asked = Options::of(request)?;
    let reader = state.node.reader();
    let other = asked.in_another_log(reader.cluster_id())?;
    let level = asked.level;
    let visible_end = |reader: &Reader| reader.end(level).unwrap_or_default();
    let awaited = asked
        .wait_for
        .filter(|offset| *offset >= visible_end(&reader));
    let client = Client::at(request.peer_addr());
    // Slow readers must leave connections for others.
    let entered = match asked.follow || awaited.is_some() {
        true => Some(state.enter_reader(client)?),
        false => None,
    };
    if let Some(offset) = awaited
        && !wait(&reader, offset, level, asked.timeout).await?
    {
        return Err(match level {
            ReadLevel::Local => Problem::no_such_offset(offset, visible_end(&reader)),
            ReadLevel::Committed => Problem::not_committed(offset, reader.end(level)),
        });
    }
    if asked.follow {
        connections::listen_on_connection_of(request);
    }
    let (from, until) = asked.range(|level| reader.end(level));
    let span = Span {
        until,
        limit: asked.limit,
        slot: entered,
        other,
    };
    let enter = || state.enter_reader(client);
    stream::respond(reader.follow(from, level), span, asked.layout, enter).await
}

/// Waits until the node shows `offset`; `false`: it did not in time.
async fn wait(
    reader: &Reader,
    offset: Offset,
    level: ReadLevel,
    timeout: Option<Duration>,
) -> Result<bool, Problem> {
    let shown = reader.wait_for(offset, level);
    match timeout {
        None => shown.await?,
        Some(timeout) => match tokio::time::timeout(timeout, shown).await {
            Ok(shown) => shown?,
            Err(_) => return Ok(false),
        },
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    const NDJSON_LINES: (&str, &str) = ("accept", NDJSON);
    const SENT_EVENTS: (&str, &str) = ("accept", EVENT_STREAM);

    fn asked(query: &str, headers: &[(&str, &str)]) -> Result<Options, String> {
        let mut request = TestRequest::get().uri(&format!("/messages?{query}"));
        for header in headers {
            request = request.insert_header(*header);
        }
        Options::of(&request.to_http_request()).map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_browser_continues_after_its_last_event_whatever_its_query() {
        let at = |offset| Start::At(Offset(offset));
        let table = [
            ("", SENT_EVENTS, None, at(0)),
            ("from=3", SENT_EVENTS, None, at(3)),
            ("from=3", SENT_EVENTS, Some(""), at(3)),
            ("from=3", SENT_EVENTS, Some("16"), at(17)),
            ("last=3", SENT_EVENTS, Some("16"), at(17)),
            ("last=3", SENT_EVENTS, None, Start::BeforeEnd(3)),
            ("", SENT_EVENTS, Some("18446744073709551615"), at(u64::MAX)),
            // It applies to event streams, and to nothing else.
            ("from=3", NDJSON_LINES, Some("16"), at(3)),
        ];
        for (query, accept, had, expected) in table {
            let mut headers = vec![accept];
            headers.extend(had.map(|had| ("last-event-id", had)));
            let asked = asked(query, &headers).expect(query);
            assert_eq!(asked.start, expected, "{query} {had:?}");
        }
    }

    #[test]
    fn the_last_messages_are_as_many_as_requested_however_the_log_grows_meanwhile() {
        let mut ends = (10..).map(|end| Some(Offset(end)));
        let asked = asked("last=3", &[]).expect("a good query");
        let range = asked.range(|_| ends.next().flatten());
        assert_eq!(range, (Offset(7), Until::End(Offset(10))));
    }

    #[test]
    fn the_last_0_of_a_follower_are_those_to_come() {
        let asked = asked("last=0&follow=true", &[NDJSON_LINES]).expect("a good query");
        let range = asked.range(|_| Some(Offset(10)));
        assert_eq!(range, (Offset(10), Until::Stopped));
    }

    #[test]
    fn contradictory_and_useless_parameters_are_refused() {
        let table = [
            ("last=0", NDJSON_LINES, "follow=true"),
            ("from=1&last=2", SENT_EVENTS, "contradict"),
            ("timeout_ms=5", NDJSON_LINES, "wait_for"),
            ("follow=true", ("accept", "*/*"), "text/event-stream"),
            ("follow=true", ("accept", JSON), "application/x-ndjson"),
            ("follow=yes", NDJSON_LINES, "true or false"),
            ("level=all", NDJSON_LINES, "local or committed"),
            ("view=offset", NDJSON_LINES, "must be data"),
            ("wait_for=x", NDJSON_LINES, "wait_for"),
            ("wait_for=1&timeout_ms=x", NDJSON_LINES, "timeout_ms"),
            ("concern=1", NDJSON_LINES, "unknown here"),
        ];
        for (query, accept, expected) in table {
            let problem = asked(query, &[accept]).expect_err(query);
            assert!(
                problem.starts_with("400") && problem.contains(expected),
                "{query}: {problem}"
            );
        }
        let had = ("last-event-id", "x");
        let problem = asked("", &[SENT_EVENTS, had]).expect_err("no number");
        assert!(problem.contains("Last-Event-ID"), "{problem}");
        let problem = asked("", &[("accept", "image/png")]).expect_err("no form");
        assert!(problem.starts_with("406"), "{problem}");
    }

    #[test]
    fn every_parameter_is_accepted() {
        let query = "from=3&limit=9&level=committed&wait_for=7&timeout_ms=50&follow=true&view=data";
        let expected = Options {
            start: Start::At(Offset(3)),
            limit: 9,
            level: ReadLevel::Committed,
            wait_for: Some(Offset(7)),
            timeout: Some(Duration::from_millis(50)),
            follow: true,
            layout: Layout {
                form: Form::Events,
                view: View::Data,
            },
            log: None,
        };
        assert_eq!(asked(query, &[SENT_EVENTS]), Ok(expected));
        let asked = asked("follow=false", &[]).expect("no follower");
        assert!(!asked.follow && asked.layout.form == Form::Json);
    }
}

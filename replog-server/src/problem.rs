//! Every error as an answer: `application/problem+json` (RFC 9457).
//!
//! Owns the types of problems, their statuses and members, and the one `match` from the library's errors to answers.
//! Every error meets HTTP here: the refusals of a route, of the library and of the framework.

use std::fmt;

use actix_web::{
    HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};
use replog_core::{
    error::{AppendError, LimitName, ModeState, Outcome, ReadError, Stopped, WaitError},
    types::{ClusterId, Offset},
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::words::counted;

/// Seconds after which a refused append is worth a retry: a quorum comes back with the next heartbeats, a queue drains
/// at the speed of a disk.
const RETRY_AFTER_S: &str = "1";
/// The media type of every error.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// Kind of a problem: its type, title and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Malformed,
    CrossOrigin,
    NotFound,
    NoSuchOffset,
    MethodNotAllowed,
    NotAcceptable,
    TimedOut,
    TooLarge,
    UnsupportedMediaType,
    NotMaster,
    OffsetMismatch,
    AnotherLog,
    Concern,
    KeyReused,
    Overloaded,
    Internal,
    ReadOnly,
    NotReady,
    Stopping,
    Storage,
}

impl Kind {
    fn describe(self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Kind::Malformed => (
                "/problems/malformed",
                "The request is malformed",
                StatusCode::BAD_REQUEST,
            ),
            Kind::CrossOrigin => (
                "/problems/cross-origin",
                "The request comes from another site's page",
                StatusCode::FORBIDDEN,
            ),
            Kind::NotFound => (
                "/problems/not-found",
                "Nothing exists at this path",
                StatusCode::NOT_FOUND,
            ),
            Kind::NoSuchOffset => (
                "/problems/no-such-offset",
                "There is no such message yet",
                StatusCode::NOT_FOUND,
            ),
            Kind::MethodNotAllowed => (
                "/problems/method-not-allowed",
                "The method is not allowed here",
                StatusCode::METHOD_NOT_ALLOWED,
            ),
            Kind::NotAcceptable => (
                "/problems/not-acceptable",
                "No form of the answer is acceptable",
                StatusCode::NOT_ACCEPTABLE,
            ),
            Kind::TimedOut => (
                "/problems/request-timeout",
                "The request did not arrive in time",
                StatusCode::REQUEST_TIMEOUT,
            ),
            Kind::TooLarge => (
                "/problems/too-large",
                "The request is too large",
                StatusCode::PAYLOAD_TOO_LARGE,
            ),
            Kind::UnsupportedMediaType => (
                "/problems/unsupported-media-type",
                "The media type is not supported",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ),
            Kind::NotMaster => (
                "/problems/not-master",
                "This node is not the master",
                StatusCode::MISDIRECTED_REQUEST,
            ),
            Kind::OffsetMismatch => (
                "/problems/offset-mismatch",
                "The next message has another offset",
                StatusCode::PRECONDITION_FAILED,
            ),
            Kind::AnotherLog => (
                "/problems/another-log",
                "The offsets belong to another log",
                StatusCode::PRECONDITION_FAILED,
            ),
            Kind::KeyReused => (
                "/problems/key-reused",
                "The idempotency key belongs to another message",
                StatusCode::UNPROCESSABLE_ENTITY,
            ),
            Kind::Concern => (
                "/problems/concern",
                "The write concern cannot be met",
                StatusCode::UNPROCESSABLE_ENTITY,
            ),
            Kind::Overloaded => (
                "/problems/overloaded",
                "A limit is reached",
                StatusCode::TOO_MANY_REQUESTS,
            ),
            Kind::Internal => (
                "/problems/internal",
                "The node failed",
                StatusCode::INTERNAL_SERVER_ERROR,
            ),
            Kind::ReadOnly => (
                "/problems/read-only",
                "The master takes no appends now",
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Kind::NotReady => (
                "/problems/not-ready",
                "The node is not ready",
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Kind::Stopping => (
                "/problems/stopping",
                "The node is stopping",
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Kind::Storage => (
                "/problems/storage",
                "The data directory accepts no more writes",
                StatusCode::INSUFFICIENT_STORAGE,
            ),
        }
    }
}

/// An error answer.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    kind: Kind,
    /// The status, if it is not the kind's own.
    status: StatusCode,
    detail: String,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// Returns a problem of this kind; `detail` is one sentence that a person can act on.
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Problem {
        let (_, _, status) = kind.describe();
        Problem {
            kind,
            status,
            detail: detail.into(),
            members: Map::new(),
            headers: Vec::new(),
        }
    }

    /// 400: the request itself is wrong.
    pub(crate) fn malformed(detail: impl Into<String>) -> Problem {
        Problem::new(Kind::Malformed, detail)
    }

    /// 405, with the methods of the path.
    pub(crate) fn method_not_allowed(allow: &'static str) -> Problem {
        Problem::new(
            Kind::MethodNotAllowed,
            format!("the allowed methods are {allow}"),
        )
        .header(header::ALLOW, HeaderValue::from_static(allow))
    }

    /// 413: `what`, a part of the request or all of it, is longer than the limit of this name.
    pub(crate) fn too_large(
        what: impl fmt::Display,
        limit: LimitName,
        limit_bytes: usize,
    ) -> Problem {
        let bytes = counted(limit_bytes, "byte");
        let detail = format!("{what} is longer than {limit}, which is {bytes}");
        Problem::new(Kind::TooLarge, detail).limit_bytes(limit, limit_bytes)
    }

    /// Adds the name of the limit on bytes that was exceeded, and its value.
    pub(crate) fn limit_bytes(self, limit: LimitName, limit_bytes: usize) -> Problem {
        self.member("limit", limit.as_str())
            .member("limit_bytes", limit_bytes)
    }

    /// 404: nothing at `offset` yet.
    pub(crate) fn no_such_offset(offset: Offset, next: Offset) -> Problem {
        let detail = format!("there is no message {offset} here yet; the next one gets {next}");
        Problem::new(Kind::NoSuchOffset, detail).member("next", next)
    }

    /// 404: `offset` is not known to be committed. The log may still have it.
    pub(crate) fn not_committed(offset: Offset, committed: Option<Offset>) -> Problem {
        let end = committed.map_or("not known".to_owned(), |end| end.to_string());
        let detail = format!(
            "message {offset} is not known to be held by a majority yet; the committed end is {end}"
        );
        Problem::new(Kind::NoSuchOffset, detail).member("next", committed.unwrap_or_default())
    }

    /// 412: the request's offsets belong to the log of `named`, and this node has another one, or none yet.
    pub(crate) fn another_log(named: ClusterId, own: Option<ClusterId>) -> Problem {
        let detail = match own {
            Some(own) => format!(
                "this node has the log of cluster {own}, not that of {named}: offsets in one mean nothing in the other"
            ),
            None => format!(
                "this node has not joined a cluster yet and has nothing of the log of cluster {named}"
            ),
        };
        Problem::new(Kind::AnotherLog, detail).member("cluster_id", own)
    }

    /// 503: the node is stopping, and nothing was appended.
    pub(crate) fn no_more_appends() -> Problem {
        let detail = "the node is stopping and accepts no more appends";
        Problem::new(Kind::Stopping, detail).retry_after()
    }

    /// 429: a limit is reached.
    pub(crate) fn overloaded(limit: &str, value: u64) -> Problem {
        let detail = format!("{limit} is reached at {value}; try again a little later");
        Problem::new(Kind::Overloaded, detail)
            .member("limit", limit)
            .member("value", value)
            .retry_after()
    }

    /// 503: the mode of the master does not allow the append.
    pub(crate) fn read_only(state: &ModeState) -> Problem {
        let detail = format!("the master is {}: {}", state.mode, state.detail);
        Problem::new(Kind::ReadOnly, detail)
            .member("mode", state.mode)
            .member("mode_reason", state.reason)
            .member("alive", state.alive)
            .member("needed", state.needed)
            .member("nodes", state.nodes)
            .retry_after()
    }

    /// Adds a member.
    pub(crate) fn member(mut self, name: &str, value: impl Serialize) -> Problem {
        let value = serde_json::to_value(value)
            .expect("members are numbers, strings and structs of them, which JSON can represent");
        self.members.insert(name.to_owned(), value);
        self
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.headers.push((name, value));
        self
    }

    /// Adds the time after which a retry makes sense.
    pub(crate) fn retry_after(self) -> Problem {
        self.header(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S))
    }

    /// Sets another status than the kind's own.
    pub(crate) fn status(mut self, status: StatusCode) -> Problem {
        self.status = status;
        self
    }

    /// Marks it as the answer to an append that left nothing behind.
    pub(crate) fn not_appended(self) -> Problem {
        let retriable = matches!(
            self.kind,
            Kind::TimedOut | Kind::Overloaded | Kind::Stopping
        );
        let known = self.members.contains_key("retriable");
        let problem = self.member("outcome", "not_appended");
        match known {
            true => problem,
            false => problem.member("retriable", retriable),
        }
    }

    /// Marks that an earlier request with the same key may have appended the message: this one was refused before the
    /// key was looked up.
    pub(crate) fn unsettled(self) -> Problem {
        self.member("outcome", "unknown")
    }

    /// Returns it as an answer.
    pub(crate) fn response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.content_type(PROBLEM_JSON);
        for (name, value) in &self.headers {
            response.insert_header((name.clone(), value.clone()));
        }
        response.body(self.body())
    }

    /// Returns the body of the answer.
    pub(crate) fn body(&self) -> String {
        let (path, title, _) = self.kind.describe();
        let mut body = Map::new();
        body.insert("type".to_owned(), path.into());
        body.insert("title".to_owned(), title.into());
        body.insert("status".to_owned(), self.status.as_u16().into());
        body.insert("detail".to_owned(), self.detail.as_str().into());
        body.extend(self.members.clone());
        format!("{}\n", Value::Object(body))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status.as_u16(), self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        self.response()
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Problem {
        let (offset, retriable) = (error.offset(), error.is_retryable());
        let outcome = match error.outcome() {
            Outcome::NotAppended => "not_appended",
            Outcome::Unknown => "unknown",
        };
        let problem = Problem::of_refusal(error);
        let problem = match offset {
            Some(offset) => problem.member("offset", offset),
            None => problem,
        };
        problem
            .member("outcome", outcome)
            .member("retriable", retriable)
    }
}

impl Problem {
    /// Returns the reason for a failed append, without the outcome for its message.
    fn of_refusal(error: AppendError) -> Problem {
        match error {
            AppendError::Concern { nodes } => {
                let detail = error.to_string();
                Problem::new(Kind::Concern, detail).member("nodes", nodes)
            }
            AppendError::TooLarge {
                limit,
                bytes: _,
                limit_bytes,
            } => {
                let detail = error.to_string();
                Problem::new(Kind::TooLarge, detail).limit_bytes(limit, limit_bytes)
            }
            AppendError::Overloaded { limit, value } => Problem::overloaded(limit.as_str(), value),
            AppendError::ReadOnly { state, offset: _ } => Problem::read_only(&state),
            AppendError::Storage { detail, offset: _ } => Problem::new(
                Kind::Storage,
                format!("the master's data directory accepts no more writes: {detail}"),
            ),
            AppendError::Stopping { offset } => {
                let Some(offset) = offset else {
                    return Problem::no_more_appends();
                };
                let detail =
                    format!("the node is stopping while message {offset} waits for its concern");
                Problem::new(Kind::Stopping, detail).retry_after()
            }
            AppendError::KeyReused { offset } => {
                let detail =
                    format!("the key was used for message {offset}, whose data is not the same");
                Problem::new(Kind::KeyReused, detail).member("offset", offset)
            }
            AppendError::OffsetMismatch { next } => {
                let detail = format!("the next message gets offset {next}");
                Problem::new(Kind::OffsetMismatch, detail).member("next", next)
            }
            error @ (AppendError::EmptyBatch | AppendError::BatchBeyondHorizon { .. }) => {
                Problem::malformed(error.to_string())
            }
            AppendError::Unsettled { refusal, offset: _ } => {
                let mut problem = Problem::of_refusal(*refusal);
                problem.detail.push_str(
                    "; whether an earlier request with this key was carried out is not known: \
                     send it again with the same key",
                );
                problem
            }
            AppendError::Ended => {
                Problem::new(Kind::Stopping, "the node stopped without an answer").retry_after()
            }
        }
    }
}

impl From<Stopped> for Problem {
    fn from(stopped: Stopped) -> Problem {
        Problem::new(Kind::Stopping, stopped.to_string()).retry_after()
    }
}

impl From<WaitError> for Problem {
    fn from(error: WaitError) -> Problem {
        let detail = error.to_string();
        match error {
            WaitError::Concern { nodes } => {
                Problem::new(Kind::Concern, detail).member("nodes", nodes)
            }
            WaitError::NoSuchOffset { next } => {
                Problem::new(Kind::NoSuchOffset, detail).member("next", next)
            }
            WaitError::Overloaded { limit, value } => Problem::overloaded(limit.as_str(), value),
            WaitError::ReadOnly { state } => Problem::read_only(&state),
            WaitError::Storage { detail: _ } => Problem::new(Kind::Storage, detail),
            // Variants added later: nothing is known about them except that there is no answer.
            _ => Problem::new(Kind::Stopping, detail).retry_after(),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Problem {
        match error {
            ReadError::Stopped => {
                Problem::new(Kind::Stopping, "the node has stopped").retry_after()
            }
            error => {
                log::warn!("a read failed: {}", chain(&error));
                Problem::new(
                    Kind::Internal,
                    format!("the message cannot be read: {error}"),
                )
            }
        }
    }
}

/// Returns an error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::body::MessageBody as _;
    use replog_core::types::{Mode, ModeReason};
    use serde_json::json;

    fn answer(problem: Problem) -> (u16, HttpResponse, Value) {
        let response = problem.response();
        let body = problem
            .response()
            .into_body()
            .try_into_bytes()
            .expect("a whole body");
        let body = serde_json::from_slice(&body).expect("JSON");
        (response.status().as_u16(), response, body)
    }

    fn no_quorum() -> Box<ModeState> {
        Box::new(ModeState {
            mode: Mode::ReadOnly,
            reason: Some(ModeReason::NoQuorum),
            detail: "1 of 3 nodes is in contact and 2 are needed".to_owned(),
            alive: 1,
            needed: 2,
            nodes: 3,
        })
    }

    #[test]
    fn every_failed_append_reports_the_outcome_for_its_message() {
        let at = Some(Offset(7));
        let table = [
            (
                AppendError::Concern { nodes: 3 },
                422,
                "concern",
                "not_appended",
                false,
            ),
            (
                AppendError::TooLarge {
                    limit: LimitName::MaxMessageBytes,
                    bytes: 9,
                    limit_bytes: 8,
                },
                413,
                "too-large",
                "not_appended",
                false,
            ),
            (
                AppendError::Overloaded {
                    limit: LimitName::MaxWaitingAppends,
                    value: 5,
                },
                429,
                "overloaded",
                "not_appended",
                true,
            ),
            (
                AppendError::ReadOnly {
                    state: no_quorum(),
                    offset: None,
                },
                503,
                "read-only",
                "not_appended",
                true,
            ),
            (
                AppendError::ReadOnly {
                    state: no_quorum(),
                    offset: at,
                },
                503,
                "read-only",
                "unknown",
                true,
            ),
            (
                AppendError::Storage {
                    detail: "full".into(),
                    offset: None,
                },
                507,
                "storage",
                "not_appended",
                true,
            ),
            (
                AppendError::Storage {
                    detail: "full".into(),
                    offset: at,
                },
                507,
                "storage",
                "unknown",
                true,
            ),
            (
                AppendError::Stopping { offset: None },
                503,
                "stopping",
                "not_appended",
                true,
            ),
            (
                AppendError::Stopping { offset: at },
                503,
                "stopping",
                "unknown",
                true,
            ),
            (AppendError::Ended, 503, "stopping", "unknown", true),
            (
                AppendError::OffsetMismatch { next: Offset(7) },
                412,
                "offset-mismatch",
                "not_appended",
                false,
            ),
            (
                AppendError::Unsettled {
                    refusal: Box::new(AppendError::ReadOnly {
                        state: no_quorum(),
                        offset: None,
                    }),
                    offset: None,
                },
                503,
                "read-only",
                "unknown",
                true,
            ),
            (
                AppendError::Unsettled {
                    refusal: Box::new(AppendError::Overloaded {
                        limit: LimitName::MaxWaitingAppends,
                        value: 5,
                    }),
                    offset: at,
                },
                429,
                "overloaded",
                "unknown",
                true,
            ),
        ];
        for (error, status, kind, outcome, retriable) in table {
            let offset = error.offset();
            let (found, _, body) = answer(error.into());
            assert_eq!((found, &body["status"]), (status, &json!(status)), "{body}");
            assert_eq!(body["type"], format!("/problems/{kind}"), "{body}");
            assert_eq!(body["outcome"], outcome, "{body}");
            assert_eq!(body["retriable"], retriable, "{body}");
            assert_eq!(
                body.get("offset"),
                offset.map(|offset| json!(offset)).as_ref(),
                "{body}"
            );
            assert!(
                body["detail"].is_string() && body["title"].is_string(),
                "{body}"
            );
        }
    }

    #[test]
    fn a_refusal_without_a_quorum_carries_the_numbers() {
        let error = AppendError::ReadOnly {
            state: no_quorum(),
            offset: None,
        };
        let (_, response, body) = answer(error.into());
        assert_eq!(
            response
                .headers()
                .get(header::RETRY_AFTER)
                .map(|v| v.as_bytes()),
            Some(&b"1"[..])
        );
        assert_eq!(body["mode"], "read-only");
        assert_eq!(body["mode_reason"], "no_quorum");
        assert_eq!([&body["alive"], &body["needed"], &body["nodes"]], [1, 2, 3]);
    }

    #[test]
    fn a_reused_key_names_its_message_and_a_wrong_offset_the_right_one() {
        let error = AppendError::KeyReused { offset: Offset(7) };
        let (status, _, body) = answer(error.into());
        assert_eq!(
            (status, &body["type"]),
            (422, &json!("/problems/key-reused"))
        );
        assert_eq!(
            (&body["offset"], &body["outcome"]),
            (&json!(7), &json!("not_appended"))
        );
        let (_, _, body) = answer(AppendError::OffsetMismatch { next: Offset(9) }.into());
        assert_eq!(body["next"], 9);
    }

    /// A client that prints only the detail must know what it is about.
    #[test]
    fn the_detail_of_a_stop_stands_alone() {
        let detail = |offset| answer(AppendError::Stopping { offset }.into()).2["detail"].clone();
        let expected = "the node is stopping while message 17 waits for its concern";
        assert_eq!(detail(Some(Offset(17))), expected);
        let expected = "the node is stopping and accepts no more appends";
        assert_eq!(detail(None), expected);
    }

    #[test]
    fn a_limit_is_named_with_its_value() {
        let error = AppendError::Overloaded {
            limit: LimitName::MaxQueuedBytes,
            value: 99,
        };
        let (_, response, body) = answer(error.into());
        assert!(response.headers().contains_key(header::RETRY_AFTER));
        assert_eq!(
            (&body["limit"], &body["value"]),
            (&json!("max-queued-bytes"), &json!(99))
        );
        let at_the_door = Problem::too_large("line 2", LimitName::MaxMessageBytes, 8);
        let (_, _, body) = answer(at_the_door);
        assert_eq!(body["limit_bytes"], 8);
        assert_eq!(body["limit"], "max-message-bytes");
        let detail = "line 2 is longer than max-message-bytes, which is 8 bytes";
        assert_eq!(body["detail"], detail);
        let error = AppendError::TooLarge {
            limit: LimitName::MaxRequestBytes,
            bytes: 9,
            limit_bytes: 8,
        };
        let (_, _, body) = answer(error.into());
        assert_eq!(body["limit_bytes"], 8);
        assert_eq!(body["limit"], "max-request-bytes");
        let detail = "the append has 9 bytes and 8 are allowed (max-request-bytes)";
        assert_eq!(body["detail"], detail);
    }

    #[test]
    fn refusals_of_the_framework_are_problem_documents_too() {
        let (status, response, body) = answer(Problem::method_not_allowed("GET, POST"));
        assert_eq!(
            (status, &body["type"]),
            (405, &json!("/problems/method-not-allowed"))
        );
        assert_eq!(
            response.headers().get(header::ALLOW).map(|v| v.as_bytes()),
            Some(&b"GET, POST"[..])
        );
        let content_type = response.headers().get(header::CONTENT_TYPE);
        assert_eq!(
            content_type.map(|v| v.as_bytes()),
            Some(PROBLEM_JSON.as_bytes())
        );
    }
}

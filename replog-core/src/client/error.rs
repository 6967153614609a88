//! Errors of client requests, and what each says about a message.
//!
//! "Unknown" is never reported as "failed".

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    client::RawAnswer,
    types::{ClusterId, Offset},
    words::counted,
};

/// Maximum characters of a body that is no problem document and stands in for its detail.
const DETAIL_CHARS_MAX: usize = 300;

/// Reasons why a request has no successful answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nothing was sent, because no connection could be made. Nothing was appended.
    #[error("not sent: {0}")]
    NotSent(String),
    /// Nothing was sent, because the request cannot be: an invalid URL, key or header, a message that is not
    /// JSON, a redirect to somewhere that does not speak HTTP. Nothing was appended.
    #[error("{0}")]
    Unsendable(String),
    /// Nothing was sent, because no node takes an append of this length. Nothing was appended, and nothing was split:
    /// that is for the caller to decide.
    #[error(
        "the request has {} and one append may have {limit_bytes}",
        counted(bytes, "byte")
    )]
    TooLarge {
        /// Length of the request's body in bytes.
        bytes: usize,
        /// The limit in bytes: [`FRAME_BYTES_MAX`](crate::limits::FRAME_BYTES_MAX).
        limit_bytes: usize,
    },
    /// The request was sent and no complete answer came, in time or at all. Its outcome is unknown:
    /// an append may be in the log.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// The node answered that it could not. [`Problem::outcome`] says what that means for an
    /// append.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// Messages that a [`Follow`](super::Follow) gave are not in the node's log any more: the node adopted
    /// the log of another one. Except after a forced recovery, no majority ever held them.
    #[error("the messages from {offset} on were cut from the node's log")]
    Cut {
        /// The first offset that was given and is gone. After more than a thousand epochs it may be a later
        /// one.
        offset: Offset,
    },
    /// The node that a [`Follow`](super::Follow) follows now has another log than the one followed so far: a node
    /// without a disk was restarted, or the cluster was founded again. The messages given before are not in it.
    #[error("the node has another log now, of cluster {cluster_id}")]
    AnotherLog {
        /// The log that the node has now, which is given from offset 0 on.
        cluster_id: ClusterId,
    },
    /// The client does not understand the answer. An append may be in the log.
    #[error("the answer of status {status} cannot be read: {detail}")]
    Unreadable {
        /// Its HTTP status.
        status: u16,
        /// The part that could not be read.
        detail: String,
    },
}

/// State of a message after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is not in the log and will not be.
    NotAppended,
    /// It may or may not be in the log.
    Unknown,
}

/// An error as a node reports it (RFC 9457).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Problem {
    /// The problem type, a path such as `/problems/read-only`; `about:blank` if the status says it
    /// all.
    #[serde(rename = "type", default = "blank")]
    pub kind: String,
    /// The type in words.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// One sentence that a person can act on.
    #[serde(default)]
    pub detail: String,
    /// For an append, the state of the message.
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// True if the same append may succeed later.
    #[serde(default)]
    pub retriable: Option<bool>,
    /// Time to wait before asking again, if the node says so.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
    /// All other members.
    #[serde(flatten)]
    pub members: Map<String, Value>,
}

impl ClientError {
    /// Returns the state of the message, if this answers an append.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            ClientError::NotSent(_) | ClientError::Unsendable(_) | ClientError::TooLarge { .. } => {
                Outcome::NotAppended
            }
            ClientError::NoAnswer(_)
            | ClientError::Cut { .. }
            | ClientError::AnotherLog { .. }
            | ClientError::Unreadable { .. } => Outcome::Unknown,
            ClientError::Problem(problem) => problem.known_outcome(),
        }
    }

    /// Returns true if the same request may succeed later. An append whose outcome is unknown may
    /// then be in the log twice, unless it has an idempotency key.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            ClientError::NotSent(_) | ClientError::NoAnswer(_) => true,
            ClientError::Problem(problem) => problem
                .retriable
                // A 429 from a proxy: it is overloaded for now.
                .unwrap_or(problem.status == 429 || problem.status >= 500),
            ClientError::Unsendable(_)
            | ClientError::TooLarge { .. }
            | ClientError::Cut { .. }
            | ClientError::AnotherLog { .. }
            | ClientError::Unreadable { .. } => false,
        }
    }

    /// Adds that the error occurred at this URL, to which the node that was asked redirected the
    /// request.
    pub(super) fn at(self, url: &str) -> ClientError {
        match self {
            ClientError::NotSent(why) => {
                ClientError::NotSent(format!("redirected to {url}: {why}"))
            }
            ClientError::NoAnswer(why) => {
                ClientError::NoAnswer(format!("redirected to {url}: {why}"))
            }
            other => other,
        }
    }

    /// Returns the problem that the node reported, if this is one.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            ClientError::Problem(problem) => Some(problem),
            ClientError::NotSent(_)
            | ClientError::Unsendable(_)
            | ClientError::TooLarge { .. }
            | ClientError::NoAnswer(_)
            | ClientError::Cut { .. }
            | ClientError::AnotherLog { .. }
            | ClientError::Unreadable { .. } => None,
        }
    }
}

impl Problem {
    /// Returns the problem in an answer; if it contains none, one made of its status and the start
    /// of its body.
    pub(super) fn of(answer: &RawAnswer) -> Problem {
        let essence = answer
            .header("content-type")
            .and_then(|given| given.split(';').next());
        if essence.is_some_and(|essence| essence.trim() == "application/problem+json")
            && let Ok(mut problem) = answer.json::<Problem>()
        {
            // The status that was sent counts, whatever the body says.
            problem.status = answer.status;
            problem.retry_after = retry_after(answer);
            return problem;
        }
        let text = String::from_utf8_lossy(&answer.body);
        Problem {
            kind: blank(),
            title: format!("HTTP status {}", answer.status),
            status: answer.status,
            detail: text.trim().chars().take(DETAIL_CHARS_MAX).collect(),
            outcome: None,
            retriable: None,
            retry_after: retry_after(answer),
            members: Map::new(),
        }
    }
}

impl Problem {
    /// Returns the state of the message, if this answers an append: as the answer says, or as its type
    /// implies. A resource that takes no appends at all has appended nothing.
    fn known_outcome(&self) -> Outcome {
        let is_elsewhere = ["/problems/not-found", "/problems/method-not-allowed"];
        match self.outcome {
            Some(outcome) => outcome,
            None if is_elsewhere.contains(&self.kind.as_str()) => Outcome::NotAppended,
            // Refused before anything looks at the body, even if by a proxy.
            None if self.status == 405 => Outcome::NotAppended,
            None => Outcome::Unknown,
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.title.is_empty(), self.detail.is_empty()) {
            (_, true) => write!(f, "{} ({})", self.title, self.status),
            (true, false) => write!(f, "{} ({})", self.detail, self.status),
            // A detail that begins with the title says it for both.
            (false, false) if begins_with(&self.detail, &self.title) => {
                write!(f, "{} ({})", self.detail, self.status)
            }
            (false, false) => write!(f, "{}: {} ({})", self.title, self.detail, self.status),
        }
    }
}

fn begins_with(text: &str, begin: &str) -> bool {
    let start = text.get(..begin.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(begin))
}

/// The seconds of `Retry-After`; a date there is for machines with a calendar.
fn retry_after(answer: &RawAnswer) -> Option<Duration> {
    let seconds = answer.header("retry-after")?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn blank() -> String {
    "about:blank".to_owned()
}

//! Why a request of the client failed, and what that says about a message.
//!
//! "Not known" is never reported as "failed".

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    client::RawAnswer,
    types::{ClusterId, Offset},
};

/// Characters of a body that is no problem and stands in for its detail, at most.
const DETAIL_CHARS_MAX: usize = 300;

/// Why there is no answer as it should be.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nothing was sent, since no connection could be made. Nothing was appended.
    #[error("not sent: {0}")]
    NotSent(String),
    /// Nothing was sent, since this is nothing that can be: a URL, a key or a header that is none, a message that
    /// is no JSON, a redirect to where no HTTP is spoken. Nothing was appended.
    #[error("{0}")]
    Unsendable(String),
    /// The request was sent and no whole answer came, in time or at all. Whether it was carried
    /// out is not known: an append may be in the log.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// The node answered that it could not. What that means for an append is in
    /// [`Problem::outcome`].
    #[error("{0}")]
    Problem(Box<Problem>),
    /// Messages that a [`Follow`](super::Follow) gave are not in the node's log any more: it adopted that of
    /// another node. But for a forced recovery, no majority ever held them.
    #[error("the messages from {offset} on were cut from the node's log")]
    Cut {
        /// The first offset that was given and is not there any more. After more than a thousand epochs it may
        /// be a later one.
        offset: Offset,
    },
    /// The node that a [`Follow`](super::Follow) follows has another log than the one it followed: a node without
    /// a disk was started again, or the cluster was founded anew. What was given before is not in it.
    #[error("the node has another log now, of cluster {cluster_id}")]
    AnotherLog {
        /// The log that it has now, and that is given from offset 0 on.
        cluster_id: ClusterId,
    },
    /// An answer that this client does not understand. Whether an append is in the log is not
    /// known.
    #[error("the answer of status {status} cannot be read: {detail}")]
    Unreadable {
        /// Its HTTP status.
        status: u16,
        /// What is wrong with it.
        detail: String,
    },
}

/// What is true of a message after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is not in the log and will not be.
    NotAppended,
    /// It may or may not be in the log.
    Unknown,
}

/// An error as a node tells it, by RFC 9457.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Problem {
    /// What kind of problem, a path such as `/problems/read-only`; `about:blank` where the
    /// status says it all.
    #[serde(rename = "type", default = "blank")]
    pub kind: String,
    /// The kind in words.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// One sentence that a person can act on.
    #[serde(default)]
    pub detail: String,
    /// What is true of the message, for an append.
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// Whether the same append may succeed later.
    #[serde(default)]
    pub retriable: Option<bool>,
    /// How long to wait before asking again, where the node says so.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
    /// Everything else that it says.
    #[serde(flatten)]
    pub members: Map<String, Value>,
}

impl ClientError {
    /// What is true of the message, if this answers an append.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            ClientError::NotSent(_) | ClientError::Unsendable(_) => Outcome::NotAppended,
            ClientError::NoAnswer(_)
            | ClientError::Cut { .. }
            | ClientError::AnotherLog { .. }
            | ClientError::Unreadable { .. } => Outcome::Unknown,
            ClientError::Problem(problem) => problem.known_outcome(),
        }
    }

    /// Whether the same request may succeed later. An append whose outcome is not known may be
    /// in the log twice then, unless it has an idempotency key.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            ClientError::NotSent(_) | ClientError::NoAnswer(_) => true,
            ClientError::Problem(problem) => problem
                .retriable
                // 429 of a proxy: it takes no more just now.
                .unwrap_or(problem.status == 429 || problem.status >= 500),
            ClientError::Unsendable(_)
            | ClientError::Cut { .. }
            | ClientError::AnotherLog { .. }
            | ClientError::Unreadable { .. } => false,
        }
    }

    /// The same, of a request that was sent on to this URL by the node that was asked.
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

    /// The problem that the node told, if that is what it is.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            ClientError::Problem(problem) => Some(problem),
            ClientError::NotSent(_)
            | ClientError::Unsendable(_)
            | ClientError::NoAnswer(_)
            | ClientError::Cut { .. }
            | ClientError::AnotherLog { .. }
            | ClientError::Unreadable { .. } => None,
        }
    }
}

impl Problem {
    /// The problem that an answer tells; one made of its status and its first words, where it
    /// tells none.
    pub(super) fn of(answer: &RawAnswer) -> Problem {
        let essence = answer
            .header("content-type")
            .and_then(|given| given.split(';').next());
        if essence.is_some_and(|essence| essence.trim() == "application/problem+json")
            && let Ok(mut problem) = answer.json::<Problem>()
        {
            // What was sent counts, whatever the body says.
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
    /// What is true of the message, if this answers an append: what it says, or what its kind does. Where no
    /// append is taken at all, none was made.
    fn known_outcome(&self) -> Outcome {
        let is_elsewhere = ["/problems/not-found", "/problems/method-not-allowed"];
        match self.outcome {
            Some(outcome) => outcome,
            None if is_elsewhere.contains(&self.kind.as_str()) => Outcome::NotAppended,
            // Said before anything looks at the body, whoever says it.
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
            // Whoever answers may have no more to say than the title does.
            (false, false) if self.title.eq_ignore_ascii_case(&self.detail) => {
                write!(f, "{} ({})", self.detail, self.status)
            }
            (false, false) => write!(f, "{}: {} ({})", self.title, self.detail, self.status),
        }
    }
}

/// The seconds of `Retry-After`; a date there is for machines with a calendar.
fn retry_after(answer: &RawAnswer) -> Option<Duration> {
    let seconds = answer.header("retry-after")?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn blank() -> String {
    "about:blank".to_owned()
}

//! [`Client`]: talks to a cluster from outside, over its HTTP interface.
//!
//! Owns requests and the way their outcome is reported: refused before anything was sent, answered, or
//! unknown. Keeps no state but connections. Never retries an append by itself, because only the caller
//! knows whether the message may be stored twice, unless it is told to and the message has a key
//! ([`Client::append_retrying`]). A read is repeated once when a kept-alive connection turns out to be
//! closed, and a [`Follow`] reconnects as often as it takes.
//!
//! A client lives on one thread, in a tokio `LocalSet` (or an actix runtime) with I/O and time
//! enabled:
//!
//! ```no_run
//! use replog_core::{Concern, client::{AppendRequest, Client, ReadQuery}};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! tokio::task::LocalSet::new().block_on(&runtime, async {
//!     let client = Client::new("http://localhost:5000")?;
//!     let request = AppendRequest { concern: Some(Concern::All), ..AppendRequest::default() };
//!     let appended = client.append(r#"{"text": "Hello, world"}"#, &request).await?;
//!     println!("held by {:?}", appended.receipt.acks);
//!     for message in client.messages(&ReadQuery::default()).await?.messages {
//!         println!("{}: {}", message.offset, message.data);
//!     }
//!     Ok(())
//! })
//! # }
//! ```

mod answers;
mod append;
mod error;
mod events;
mod exchange;
mod follow;
mod http;
mod message;
mod reason;
#[cfg(test)]
mod responder;
mod retry;
mod streamed;
#[cfg(test)]
mod tests;

use std::{fmt::Write as _, ops::RangeInclusive, time::Duration};

use bytes::Bytes;

pub use answers::{
    Appended, AppendedBatch, Appends, BatchReceipt, FencedBy, LastRefusal, LogStatus,
    MasterAddress, MasterStatus, Message, Page, Quorum, Receipt, Recovery, SecondaryHealth,
    SecondaryStatus, StuckRecovery, WaitingAppend, WaitingFor,
};
pub use append::AppendRequest;
pub use error::{ClientError, Outcome, Problem};
pub use events::{EventStream, NodeEvent};
pub use exchange::RawAnswer;
pub use follow::Follow;
pub use reason::Reason;
pub use retry::GivenUp;

use self::{exchange::base_of, http::client};
use crate::{
    transport::FaultSettings,
    types::{ClusterId, Concern, Offset, ReadLevel},
};

/// Maximum bytes of one answer, unless [`ClientBuilder::answer_bytes_max`] says otherwise.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Time that an unused connection is kept: shorter than servers keep it.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Delays before a [`Follow`] reconnects and between attempts of an append, unless [`ClientBuilder::retry_delays`] says
/// otherwise.
pub const RETRY_DELAYS: RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_secs(5);

/// Header, of requests and of answers, that names the log that offsets belong to.
const CLUSTER: &str = "replog-cluster";

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// A client of one node. Clones share its connections.
///
/// # Cancel safety
///
/// Every future may be dropped. A request in flight may still be carried out: after an append is
/// dropped, its outcome is unknown.
#[derive(Clone)]
pub struct Client {
    awc: awc::Client,
    base: String,
    settings: Settings,
}

/// Builder of a [`Client`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    url: String,
    settings: Settings,
}

#[derive(Clone, Debug)]
struct Settings {
    connect_timeout: Duration,
    timeout: Option<Duration>,
    answer_bytes_max: usize,
    retry_delays: RangeInclusive<Duration>,
    /// The log that all offsets belong to.
    cluster_id: Option<ClusterId>,
}

/// The messages to read. The default is all that the node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadQuery {
    /// The first offset; `None`: 0. Excludes `last`.
    pub from: Option<Offset>,
    /// Maximum number of messages, at least 1; `None`: to the current end.
    pub limit: Option<u64>,
    /// Reads this many messages before the end, instead of `from`.
    pub last: Option<u64>,
    /// The level to read at: how up to date they must be; `None`: whatever the node holds.
    pub level: Option<ReadLevel>,
    /// Waits until the node shows this offset before it reads.
    pub wait_for: Option<Offset>,
    /// Maximum wait for `wait_for`; `None`: unlimited.
    pub timeout: Option<Duration>,
}

impl ClientBuilder {
    /// Sets the time-out for making a connection. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.settings.connect_timeout = timeout;
        self
    }

    /// Sets the time to wait for an answer beyond the time that the request itself gives the
    /// server; `None`: unlimited. Default: 30 s. A request that gives the server no limit (an
    /// append, or a read with `wait_for`, without a time-out) has none here either.
    pub fn timeout(mut self, timeout: Option<Duration>) -> ClientBuilder {
        self.settings.timeout = timeout;
        self
    }

    /// Sets the delays before a [`Follow`] whose connection broke reconnects, and before [`Client::append_retrying`]
    /// sends again: none the first time, then from the shortest to the longest, doubling each time. Default:
    /// [`RETRY_DELAYS`].
    pub fn retry_delays(mut self, delays: RangeInclusive<Duration>) -> ClientBuilder {
        self.settings.retry_delays = delays;
        self
    }

    /// Makes every request name this log as the one that its offsets belong to. A node that has another log then
    /// refuses it with [`Reason::AnotherLog`] instead of taking the offset for one of its own; a [`Follow`] reports
    /// that and gives that log from its start. Default: whichever log the node has.
    pub fn cluster_id(mut self, cluster_id: ClusterId) -> ClientBuilder {
        self.settings.cluster_id = Some(cluster_id);
        self
    }

    /// Sets the maximum bytes of one answer, or of one line of a stream. Default:
    /// [`ANSWER_BYTES_MAX`].
    pub fn answer_bytes_max(mut self, bytes: usize) -> ClientBuilder {
        self.settings.answer_bytes_max = bytes;
        self
    }

    /// Builds the client. It connects on first use.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unsendable`] when the URL is not `[http://]HOST[:PORT][/PREFIX]`.
    pub fn build(self) -> Result<Client, ClientError> {
        let base = base_of(&self.url)?;
        let awc = client(self.settings.connect_timeout, KEEP_ALIVE);
        Ok(Client {
            awc,
            base,
            settings: self.settings,
        })
    }
}

impl Client {
    /// Returns a client of the node at this URL, with the default settings.
    ///
    /// # Errors
    ///
    /// As [`ClientBuilder::build`].
    pub fn new(url: &str) -> Result<Client, ClientError> {
        Client::builder(url).build()
    }

    /// Returns a builder of a client of the node at this URL, for other settings.
    pub fn builder(url: &str) -> ClientBuilder {
        let settings = Settings {
            connect_timeout: Duration::from_secs(5),
            timeout: Some(Duration::from_secs(30)),
            answer_bytes_max: ANSWER_BYTES_MAX,
            retry_delays: RETRY_DELAYS,
            cluster_id: None,
        };
        ClientBuilder {
            url: url.to_owned(),
            settings,
        }
    }

    /// Returns a client of the same node, sharing its connections, whose offsets belong to this
    /// log: see [`ClientBuilder::cluster_id`].
    #[must_use]
    pub fn in_log(&self, cluster_id: ClusterId) -> Client {
        let mut client = self.clone();
        client.settings.cluster_id = Some(cluster_id);
        client
    }

    /// Returns the URL of the node, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Reads messages.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn messages(&self, query: &ReadQuery) -> Result<Page, ClientError> {
        let waits = query.wait_for.is_some();
        let deadline = match query.timeout {
            Some(given) => self.settings.timeout.map(|beyond| given + beyond),
            None if waits => None,
            None => self.settings.timeout,
        };
        let answer = self
            .get(&format!("/messages{}", query.to_text()), deadline)
            .await?;
        let page: Page = answer.json()?;
        Ok(Page {
            cluster_id: answer.cluster_id(),
            ..page
        })
    }

    /// Returns the message at `offset`; from the master, also which nodes hold it.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a [`Problem`] of status 404 if there is no such message yet.
    pub async fn message(&self, offset: Offset) -> Result<Message, ClientError> {
        self.get(&format!("/messages/{offset}"), self.settings.timeout)
            .await?
            .json()
    }

    /// Waits until as many nodes as `concern` says hold the message at `offset`, or until `timeout` is over;
    /// `None`: as long as an append waits by default. [`Message::concern_met`] then says which came first.
    /// Only on the master.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a [`Problem`] of status 404 if there is no such message.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing. The node may keep the dropped wait in its queue until the message is held or
    /// `timeout` is over.
    pub async fn wait_for_concern(
        &self,
        offset: Offset,
        concern: Concern,
        timeout: Option<Duration>,
    ) -> Result<Message, ClientError> {
        let mut path = format!("/messages/{offset}?concern={concern}");
        if let Some(timeout) = timeout {
            write!(path, "&timeout_ms={}", timeout.as_millis()).expect("a string takes everything");
        }
        let deadline = timeout.and_then(|given| Some(given + self.settings.timeout?));
        self.get(&path, deadline).await?.json()
    }

    /// Returns the appends that wait for their concern, oldest first, at most `limit`; `None`: as
    /// many as the server gives. Only on the master.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn appends(&self, limit: Option<u64>) -> Result<Appends, ClientError> {
        let query = limit
            .map(|limit| format!("?limit={limit}"))
            .unwrap_or_default();
        self.get(&format!("/appends{query}"), self.settings.timeout)
            .await?
            .json()
    }

    /// Returns the node's health, whatever its role.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn health(&self) -> Result<serde_json::Value, ClientError> {
        self.get("/health", self.settings.timeout).await?.json()
    }

    /// Returns the health of a master.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; [`ClientError::Unreadable`] when the node is a secondary.
    pub async fn master_status(&self) -> Result<MasterStatus, ClientError> {
        self.get("/health", self.settings.timeout).await?.json()
    }

    /// Returns the health of a secondary.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; [`ClientError::Unreadable`] when the node is a master.
    pub async fn secondary_health(&self) -> Result<SecondaryHealth, ClientError> {
        self.get("/health", self.settings.timeout).await?.json()
    }

    /// Returns the faults that are set on the node.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a [`Problem`] of status 404 where faults are not allowed.
    pub async fn faults(&self) -> Result<FaultSettings, ClientError> {
        self.get("/faults", self.settings.timeout).await?.json()
    }

    /// Replaces the faults of the node and returns those now in effect.
    ///
    /// # Errors
    ///
    /// As [`faults`](Client::faults), and a [`Problem`] of status 400 where they make no sense.
    pub async fn set_faults(&self, faults: &FaultSettings) -> Result<FaultSettings, ClientError> {
        let body = serde_json::to_vec(faults).map_err(|error| {
            ClientError::Unsendable(format!("the faults are not JSON: {error}"))
        })?;
        let headers = [("content-type", JSON)];
        self.request("PUT", "/faults", &headers, body.into())
            .await?
            .checked()?
            .json()
    }

    /// Clears the faults of the node and returns those now in effect: none.
    ///
    /// # Errors
    ///
    /// As [`faults`](Client::faults).
    pub async fn clear_faults(&self) -> Result<FaultSettings, ClientError> {
        self.request("DELETE", "/faults", &[], Bytes::new())
            .await?
            .checked()?
            .json()
    }

    /// Returns a text below the node's URL, such as `/metrics`.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a [`Problem`] for every status of 400 and above.
    pub async fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let answer = self
            .request("GET", path, &[], Bytes::new())
            .await?
            .checked()?;
        match String::from_utf8(answer.body.into()) {
            Ok(text) => Ok(text),
            Err(_) => Err(ClientError::Unreadable {
                status: answer.status,
                detail: "the text is not UTF-8".to_owned(),
            }),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.base)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl ReadQuery {
    /// Formats the query with its question mark; empty if nothing is asked for.
    fn to_text(&self) -> String {
        let level = self.level.map(|level| match level {
            ReadLevel::Local => "local".to_owned(),
            ReadLevel::Committed => "committed".to_owned(),
        });
        let pairs = [
            ("from", self.from.map(|offset| offset.to_string())),
            ("limit", self.limit.map(|limit| limit.to_string())),
            ("last", self.last.map(|last| last.to_string())),
            ("level", level),
            ("wait_for", self.wait_for.map(|offset| offset.to_string())),
            (
                "timeout_ms",
                self.timeout.map(|timeout| timeout.as_millis().to_string()),
            ),
        ];
        let mut text = String::new();
        for (name, value) in pairs {
            if let Some(value) = value {
                let mark = if text.is_empty() { '?' } else { '&' };
                write!(text, "{mark}{name}={value}").expect("a string takes everything");
            }
        }
        text
    }
}

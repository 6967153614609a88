//! [`Client`]: talks to a cluster from outside, by its HTTP interface.
//!
//! Owns requests and how their outcome is told: refused before anything was sent, answered,
//! or not known. Keeps no state but connections; never retries an append by itself, because
//! only the caller knows whether a message may be there twice, unless it is told to and
//! the message has a key ([`Client::append_retrying`]). Reads are sent once more when a kept connection
//! turns out to be closed, and a [`Follow`] connects again as often as it takes.
//!
//! A client lives on one thread, in a tokio `LocalSet` (or an actix runtime) with I/O and time:
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

/// Bytes of one answer, at most, unless [`ClientBuilder::answer_bytes_max`] says otherwise.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How long a connection is kept without use: less than servers keep it.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// How long a [`Follow`] waits before it connects again, and between attempts of an append, unless [`ClientBuilder::retry_delays`] says otherwise.
pub const RETRY_DELAYS: RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_secs(5);

/// Names the log that positions are of, in requests and in answers.
const CLUSTER: &str = "replog-cluster";

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// A client of one node. Clones share its connections.
///
/// # Cancel safety
///
/// Every future may be dropped. A request that was under way may still be carried out: to drop
/// an append is to know nothing about it.
#[derive(Clone)]
pub struct Client {
    awc: awc::Client,
    base: String,
    settings: Settings,
}

/// Makes a [`Client`].
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
    /// The log that all positions are of.
    cluster_id: Option<ClusterId>,
}

/// Which messages to read. The default is all that the node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadQuery {
    /// The first offset; `None`: 0. Not together with `last`.
    pub from: Option<Offset>,
    /// How many messages at most, at least 1; `None`: to the current end.
    pub limit: Option<u64>,
    /// This many messages before the end, instead of `from`.
    pub last: Option<u64>,
    /// How up to date they must be; `None`: what the node holds.
    pub level: Option<ReadLevel>,
    /// First wait until the node shows this offset.
    pub wait_for: Option<Offset>,
    /// How long to wait for `wait_for`; `None`: for ever.
    pub timeout: Option<Duration>,
}

impl ClientBuilder {
    /// How long making a connection may take. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How long to wait for an answer beyond the time that the request itself gives the server;
    /// `None`: for ever. Default: 30 s. Where a request gives the server no limit (an append or
    /// a read with `wait_for`, and without a time-out), there is none here either.
    pub fn timeout(mut self, timeout: Option<Duration>) -> ClientBuilder {
        self.settings.timeout = timeout;
        self
    }

    /// How long a [`Follow`] whose connection broke waits before it connects again, and
    /// [`Client::append_retrying`] before it sends again: the first time not at all, then from the least to the most, twice as long each time. Default: [`RETRY_DELAYS`].
    pub fn retry_delays(mut self, delays: RangeInclusive<Duration>) -> ClientBuilder {
        self.settings.retry_delays = delays;
        self
    }

    /// Makes every request name this log as the one that its offsets are of. A node that has another log then
    /// refuses it with [`Reason::AnotherLog`] instead of taking the offset for one of its own; a [`Follow`] says so and
    /// gives that log from its start. Default: whichever log the node has.
    pub fn cluster_id(mut self, cluster_id: ClusterId) -> ClientBuilder {
        self.settings.cluster_id = Some(cluster_id);
        self
    }

    /// Bytes of one answer, or of one line that is followed, at most. Default: [`ANSWER_BYTES_MAX`].
    pub fn answer_bytes_max(mut self, bytes: usize) -> ClientBuilder {
        self.settings.answer_bytes_max = bytes;
        self
    }

    /// Makes the client. Connects when it is first used.
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
    /// A client of the node at this URL, with the default settings.
    ///
    /// # Errors
    ///
    /// As [`ClientBuilder::build`].
    pub fn new(url: &str) -> Result<Client, ClientError> {
        Client::builder(url).build()
    }

    /// Makes a client with other settings.
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

    /// Returns a client of the same node, with the same connections, whose offsets are of this log:
    /// [`ClientBuilder::cluster_id`].
    #[must_use]
    pub fn in_log(&self, cluster_id: ClusterId) -> Client {
        let mut client = self.clone();
        client.settings.cluster_id = Some(cluster_id);
        client
    }

    /// The URL of the node, without a slash at its end.
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

    /// The message at `offset`; on the master also who holds it.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a [`Problem`] of status 404 while there is none.
    pub async fn message(&self, offset: Offset) -> Result<Message, ClientError> {
        self.get(&format!("/messages/{offset}"), self.settings.timeout)
            .await?
            .json()
    }

    /// Waits until as many nodes as `concern` says hold the message at `offset`, or until `timeout` is over;
    /// `None`: as long as an append waits by default. Then [`Message::concern_met`] says which it was. On
    /// the master.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a [`Problem`] of status 404 while there is no such message.
    ///
    /// # Cancel safety
    ///
    /// Nothing changes. The node may keep the place of who waited until the message is held, or `timeout`
    /// is over.
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

    /// The appends that wait for their concern, oldest first, at most `limit`; `None`: as many
    /// as the server gives. On the master.
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

    /// The node's health, whatever its role.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn health(&self) -> Result<serde_json::Value, ClientError> {
        self.get("/health", self.settings.timeout).await?.json()
    }

    /// The health of a master.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; [`ClientError::Unreadable`] when the node is a secondary.
    pub async fn master_status(&self) -> Result<MasterStatus, ClientError> {
        self.get("/health", self.settings.timeout).await?.json()
    }

    /// The health of a secondary.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; [`ClientError::Unreadable`] when the node is a master.
    pub async fn secondary_health(&self) -> Result<SecondaryHealth, ClientError> {
        self.get("/health", self.settings.timeout).await?.json()
    }

    /// The faults that are set on the node.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a [`Problem`] of status 404 where faults are not allowed.
    pub async fn faults(&self) -> Result<FaultSettings, ClientError> {
        self.get("/faults", self.settings.timeout).await?.json()
    }

    /// Replaces the faults of the node; returns those that now hold.
    ///
    /// # Errors
    ///
    /// As [`faults`](Client::faults), and a [`Problem`] of status 400 where they make no sense.
    pub async fn set_faults(&self, faults: &FaultSettings) -> Result<FaultSettings, ClientError> {
        let body = serde_json::to_vec(faults)
            .map_err(|error| ClientError::Unsendable(format!("the faults are no JSON: {error}")))?;
        let headers = [("content-type", JSON)];
        self.request("PUT", "/faults", &headers, body.into())
            .await?
            .checked()?
            .json()
    }

    /// Clears the faults of the node; returns those that now hold: none.
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

    /// A text below the node's URL, such as `/metrics`.
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
    /// The query, with its question mark; empty where nothing is asked for.
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

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
mod error;
mod follow;
mod reason;
mod retry;
#[cfg(test)]
mod tests;

use std::{fmt::Write as _, ops::RangeInclusive, time::Duration};

use awc::{
    error::SendRequestError,
    http::{
        Method, Uri,
        header::{ACCEPT, CONTENT_TYPE, HeaderValue, LOCATION},
    },
};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

pub use answers::{
    Appended, AppendedBatch, Appends, BatchReceipt, FencedBy, LogStatus, MasterAddress,
    MasterStatus, Message, Page, Quorum, Receipt, Recovery, SecondaryHealth, SecondaryStatus,
    WaitingAppend, WaitingFor,
};
pub use error::{ClientError, Outcome, Problem};
pub use follow::Follow;
pub use reason::Reason;
pub use retry::GivenUp;

use crate::{
    transport::{
        FaultSettings, TransportError,
        http::{BodyError, broke_before_answer, client, failed, not_sent, read_body, tracked},
    },
    types::{Concern, Offset, ReadLevel},
};

/// Bytes of one answer, at most, unless [`ClientBuilder::answer_bytes_max`] says otherwise.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How long a connection is kept without use: less than servers keep it.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// How long a [`Follow`] waits before it connects again, and between attempts of an append, unless [`ClientBuilder::retry_delays`] says otherwise.
pub const RETRY_DELAYS: RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_secs(5);

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
/// Says that an idempotency key was seen before.
const REPLAYED: &str = "idempotent-replayed";

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
}

/// What an append asks for. The default leaves everything to the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppendRequest {
    /// How many nodes must hold the message; `None`: a majority.
    pub concern: Option<Concern>,
    /// How long to wait for that; `None`: as long as the server does by default. Zero: be
    /// answered as soon as the master holds it.
    pub timeout: Option<Duration>,
    /// The same key is appended once.
    pub idempotency_key: Option<String>,
    /// Append only if the message gets this offset.
    pub expected_offset: Option<Offset>,
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

/// An answer as it came, whatever its status.
#[derive(Clone, Debug)]
pub struct RawAnswer {
    /// The HTTP status.
    pub status: u16,
    /// Names, in lower case, and values of the headers; a value that is no text is left out.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
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

    /// Bytes of one answer, or of one line that is followed, at most. Default: [`ANSWER_BYTES_MAX`].
    pub fn answer_bytes_max(mut self, bytes: usize) -> ClientBuilder {
        self.settings.answer_bytes_max = bytes;
        self
    }

    /// Makes the client. Connects when it is first used.
    ///
    /// # Errors
    ///
    /// [`ClientError::NotSent`] when the URL is not `http://HOST[:PORT][/PREFIX]`.
    pub fn build(self) -> Result<Client, ClientError> {
        let base = self.url.trim_end_matches('/').to_owned();
        base_uri(&base)?;
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
        };
        ClientBuilder {
            url: url.to_owned(),
            settings,
        }
    }

    /// The URL of the node, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Appends a JSON value, which is stored as it is written, without the white space around
    /// it. Waits as long as the request and the server say; follows one redirect of a
    /// secondary to its master.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; [`ClientError::outcome`] says whether the message was appended. A text
    /// that is no JSON is not sent.
    pub async fn append(
        &self,
        json: &str,
        request: &AppendRequest,
    ) -> Result<Appended, ClientError> {
        let data: &RawValue = serde_json::from_str(json)
            .map_err(|error| ClientError::NotSent(format!("the message is no JSON: {error}")))?;
        self.append_raw(data, request).await
    }

    /// As [`append`](Client::append), for anything that becomes JSON.
    ///
    /// # Errors
    ///
    /// As [`append`](Client::append).
    pub async fn append_value(
        &self,
        value: &impl Serialize,
        request: &AppendRequest,
    ) -> Result<Appended, ClientError> {
        let data = serde_json::value::to_raw_value(value)
            .map_err(|error| ClientError::NotSent(format!("the message is no JSON: {error}")))?;
        self.append_raw(&data, request).await
    }

    /// As [`append`](Client::append), for JSON that was checked before.
    ///
    /// # Errors
    ///
    /// As [`append`](Client::append).
    pub async fn append_raw(
        &self,
        data: &RawValue,
        request: &AppendRequest,
    ) -> Result<Appended, ClientError> {
        let body = Bytes::from(append_body(data, request));
        let deadline = request
            .timeout
            .and_then(|given| Some(given + self.settings.timeout?));
        let here = format!("{}/messages", self.base);
        let headers = &[(CONTENT_TYPE.as_str(), JSON)];
        let answer = self.post(&here, headers, body, deadline).await?;
        Ok(Appended {
            status: answer.status,
            replayed: answer.header(REPLAYED) == Some("true"),
            receipt: answer.json()?,
        })
    }

    /// Appends JSON values together: all of them get a place in the log, next to each other, or none
    /// does. Each is stored as it is written, but for line breaks between its tokens, which become
    /// spaces. In all else it is as [`append`](Client::append).
    ///
    /// # Errors
    ///
    /// As [`append`](Client::append). [`AppendRequest::expected_offset`] cannot be asked for: nothing
    /// is sent then.
    pub async fn append_batch<'a>(
        &self,
        messages: impl IntoIterator<Item = &'a RawValue>,
        request: &AppendRequest,
    ) -> Result<AppendedBatch, ClientError> {
        if request.expected_offset.is_some() {
            let why = "a batch cannot be sent with an expected offset".to_owned();
            return Err(ClientError::NotSent(why));
        }
        let mut body = String::new();
        for message in messages {
            body.push_str(&message.get().replace(['\r', '\n'], " "));
            body.push('\n');
        }
        let deadline = request
            .timeout
            .and_then(|given| Some(given + self.settings.timeout?));
        let here = format!("{}/messages{}", self.base, batch_query(request));
        let mut headers = vec![(CONTENT_TYPE.as_str(), NDJSON)];
        let key = request.idempotency_key.as_deref();
        headers.extend(key.map(|key| ("idempotency-key", key)));
        let answer = self.post(&here, &headers, body.into(), deadline).await?;
        Ok(AppendedBatch {
            status: answer.status,
            replayed: answer.header(REPLAYED) == Some("true"),
            receipt: answer.json()?,
        })
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
        self.get(&format!("/messages{}", query.to_text()), deadline)
            .await?
            .json()
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
            .map_err(|error| ClientError::NotSent(format!("the faults are no JSON: {error}")))?;
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

    /// Any request, as it stands: for tests and tools. `path` begins with a slash and carries
    /// its query. The answer is not judged, and no redirect is followed.
    ///
    /// # Errors
    ///
    /// [`ClientError::NotSent`] for a method, path or header that HTTP does not know, else as
    /// for every request; never a [`Problem`].
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<RawAnswer, ClientError> {
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|error| ClientError::NotSent(format!("bad method {method:?}: {error}")))?;
        let uri = uri(&format!("{}{path}", self.base))?;
        let outgoing = Outgoing {
            method,
            uri,
            headers,
            body,
        };
        within(self.settings.timeout, self.exchange(&outgoing)).await
    }

    async fn get(&self, path: &str, deadline: Option<Duration>) -> Result<RawAnswer, ClientError> {
        let uri = uri(&format!("{}{path}", self.base))?;
        let headers = &[(ACCEPT.as_str(), JSON)];
        let outgoing = Outgoing {
            method: Method::GET,
            uri,
            headers,
            body: Bytes::new(),
        };
        within(deadline, self.exchange(&outgoing)).await?.checked()
    }

    /// Sends an append, and on to the master where a secondary says so.
    async fn post(
        &self,
        here: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        deadline: Option<Duration>,
    ) -> Result<RawAnswer, ClientError> {
        let mut outgoing = Outgoing {
            method: Method::POST,
            uri: uri(here)?,
            headers,
            body,
        };
        let mut answer = within(deadline, self.exchange(&outgoing)).await?;
        if answer.status == 307 {
            outgoing.uri = uri(&self.redirected(&answer)?)?;
            answer = within(deadline, self.exchange(&outgoing)).await?;
        }
        answer.checked()
    }

    /// Where a 307 sends an append. Only to HTTP: nothing else can be spoken here.
    fn redirected(&self, answer: &RawAnswer) -> Result<String, ClientError> {
        let location = answer.header(LOCATION.as_str()).unwrap_or_default();
        let there = match location.strip_prefix('/') {
            Some(rest) if !rest.starts_with('/') => {
                let base = base_uri(&self.base)?;
                let authority = base
                    .authority()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                format!("http://{authority}{location}")
            }
            _ => location.to_owned(),
        };
        match base_uri(&there) {
            Ok(_) => Ok(there),
            // The message is not there: the node that was asked only pointed somewhere.
            Err(_) => Err(ClientError::NotSent(format!("redirected to {location:?}"))),
        }
    }

    /// Sends a request and reads its answer. What may arrive twice without harm is sent once
    /// more when a kept connection breaks before any answer.
    async fn exchange(&self, outgoing: &Outgoing<'_>) -> Result<RawAnswer, ClientError> {
        let repeatable = outgoing.method != Method::POST;
        match self.exchange_once(outgoing).await {
            Err((_, OnReuse::Yes)) if repeatable => self.exchange_once(outgoing).await,
            outcome => outcome,
        }
        .map_err(|(error, _)| error)
    }

    async fn exchange_once(
        &self,
        outgoing: &Outgoing<'_>,
    ) -> Result<RawAnswer, (ClientError, OnReuse)> {
        let mut request = self
            .awc
            .request(outgoing.method.clone(), &outgoing.uri)
            .no_decompress();
        for (name, value) in outgoing.headers {
            request = request.append_header((*name, *value));
        }
        let (sent, connected) = tracked(request.send_body(outgoing.body.clone())).await;
        let mut response = sent.map_err(|error| {
            let broke = !connected && broke_before_answer(&error);
            (
                unanswered(&error),
                if broke { OnReuse::Yes } else { OnReuse::No },
            )
        })?;
        let status = response.status().as_u16();
        let text = |(name, value): (&awc::http::header::HeaderName, &HeaderValue)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        };
        let headers = response.headers().iter().filter_map(text).collect();
        let body = read_body(&mut response, self.settings.answer_bytes_max).await;
        let body = body.map_err(|error| {
            let detail = error.to_string();
            let error = match error {
                BodyError::TooLong { .. } => ClientError::Unreadable { status, detail },
                BodyError::Broken(_) => ClientError::NoAnswer(detail),
            };
            (error, OnReuse::No)
        })?;
        Ok(RawAnswer {
            status,
            headers,
            body,
        })
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

impl RawAnswer {
    /// The first value of a header; `name` in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreadable`] when it is none, or other JSON than `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| ClientError::Unreadable {
            status: self.status,
            detail: error.to_string(),
        })
    }

    /// This answer, where it is a success.
    ///
    /// # Errors
    ///
    /// [`ClientError::Problem`] for a status of 400 and above, also where the body is not one;
    /// [`ClientError::Unreadable`] for any other that is no success.
    pub fn checked(self) -> Result<RawAnswer, ClientError> {
        match self.status {
            200..=299 => Ok(self),
            400.. => Err(ClientError::Problem(Box::new(Problem::of(&self)))),
            status => {
                let detail = "neither a success nor a problem".to_owned();
                Err(ClientError::Unreadable { status, detail })
            }
        }
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

/// One request as it is sent, once or twice.
struct Outgoing<'a> {
    method: Method,
    uri: Uri,
    headers: &'a [(&'a str, &'a str)],
    body: Bytes,
}

/// Whether a kept connection broke before any answer.
enum OnReuse {
    Yes,
    No,
}

/// The body of an append. The data is put in as it is written: it must come back byte for byte.
fn append_body(data: &RawValue, request: &AppendRequest) -> String {
    let mut meta = serde_json::Map::new();
    if let Some(concern) = request.concern {
        let concern = match concern {
            Concern::Count(count) => count.into(),
            Concern::Majority | Concern::All => concern.to_string().into(),
        };
        meta.insert("concern".to_owned(), concern);
    }
    if let Some(timeout) = request.timeout {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        meta.insert("timeout_ms".to_owned(), timeout_ms.into());
    }
    if let Some(key) = &request.idempotency_key {
        meta.insert("idempotency_key".to_owned(), key.as_str().into());
    }
    if let Some(offset) = request.expected_offset {
        meta.insert("expected_offset".to_owned(), offset.0.into());
    }
    let data = data.get();
    match meta.is_empty() {
        true => format!(r#"{{"data":{data}}}"#),
        false => format!(
            r#"{{"data":{data},"meta":{}}}"#,
            serde_json::Value::Object(meta)
        ),
    }
}

/// What a batch asks for, which has no place in its body.
fn batch_query(request: &AppendRequest) -> String {
    let concern = request.concern.map(|concern| format!("concern={concern}"));
    let timeout = request
        .timeout
        .map(|timeout| format!("timeout_ms={}", timeout.as_millis()));
    let given: Vec<String> = concern.into_iter().chain(timeout).collect();
    match given.is_empty() {
        true => String::new(),
        false => format!("?{}", given.join("&")),
    }
}

/// What a request that got no answer is reported as.
fn unanswered(error: &SendRequestError) -> ClientError {
    match not_sent(error) {
        Some(TransportError::Connection(why)) => ClientError::NotSent(why),
        Some(why) => ClientError::NotSent(why.to_string()),
        None => ClientError::NoAnswer(failed(error).to_string()),
    }
}

async fn within<T>(
    deadline: Option<Duration>,
    answer: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let Some(deadline) = deadline else {
        return answer.await;
    };
    match tokio::time::timeout(deadline, answer).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ClientError::NoAnswer(format!("none within {deadline:?}"))),
    }
}

fn base_uri(url: &str) -> Result<Uri, ClientError> {
    let uri = uri(url)?;
    let names_a_host = uri.host().is_some_and(|host| !host.is_empty());
    match uri.scheme_str() == Some("http") && names_a_host {
        true => Ok(uri),
        false => Err(ClientError::NotSent(format!(
            "{url:?} is not http://HOST[:PORT]"
        ))),
    }
}

fn uri(url: &str) -> Result<Uri, ClientError> {
    Uri::try_from(url).map_err(|error| ClientError::NotSent(format!("bad URL {url:?}: {error}")))
}

//! Appends: what is asked of them, how that is put into words, and the way to the master.
//!
//! Never sends one twice, but on to the master where a secondary says so.

use std::{cell::RefCell, fmt::Write as _, time::Duration};

use awc::http::{
    Method,
    header::{CONTENT_TYPE, LOCATION},
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Appended, AppendedBatch, Client, ClientError, JSON, NDJSON, RawAnswer,
    exchange::{Outgoing, http_uri, uri, within},
};
use crate::types::{Concern, Offset};

/// Where appends are taken, below a node's URL.
const MESSAGES: &str = "/messages";
/// Says that an idempotency key was seen before.
const REPLAYED: &str = "idempotent-replayed";

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
    /// Append only if the message gets this offset; [`ClientBuilder::cluster_id`](super::ClientBuilder::cluster_id)
    /// says of which log.
    pub expected_offset: Option<Offset>,
    /// Of a batch: its messages are JSON strings with bytes in base64, and those bytes are appended, which need not be
    /// JSON.
    pub base64: bool,
}

/// Which node an append is sent to, while it is under way.
pub(super) struct Asked {
    url: RefCell<String>,
}

impl Asked {
    /// The client's own.
    pub(super) fn of(client: &Client) -> Asked {
        Asked {
            url: RefCell::new(client.base.clone()),
        }
    }

    /// Its URL, as a client's.
    pub(super) fn url(&self) -> String {
        self.url.borrow().clone()
    }

    /// It is sent on, to where a node takes appends.
    fn is_now(&self, there: &str) {
        let path = there.split(['?', '#']).next().unwrap_or_default();
        let base = path.strip_suffix(MESSAGES).unwrap_or(path);
        base.trim_end_matches('/')
            .clone_into(&mut self.url.borrow_mut());
    }
}

impl Client {
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
            .map_err(|error| ClientError::Unsendable(format!("the message is no JSON: {error}")))?;
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
            .map_err(|error| ClientError::Unsendable(format!("the message is no JSON: {error}")))?;
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
        self.append_at(&Asked::of(self), data, request).await
    }

    /// As [`append_raw`](Client::append_raw); `asked` is the node that it is sent to.
    pub(super) async fn append_at(
        &self,
        asked: &Asked,
        data: &RawValue,
        request: &AppendRequest,
    ) -> Result<Appended, ClientError> {
        if request.base64 {
            let why = "bytes are sent as a batch".to_owned();
            return Err(ClientError::Unsendable(why));
        }
        let body = Bytes::from(append_body(data, request));
        let headers = &[(CONTENT_TYPE.as_str(), JSON)];
        let answer = self.post(asked, "", headers, body, request);
        let answer = answer.await?;
        Ok(Appended {
            status: answer.status,
            replayed: answer.header(REPLAYED) == Some("true"),
            url: asked.url(),
            cluster_id: answer.cluster_id(),
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
        self.append_batch_at(&Asked::of(self), messages, request)
            .await
    }

    /// As [`append_batch`](Client::append_batch); `asked` is the node that it is sent to.
    pub(super) async fn append_batch_at<'a>(
        &self,
        asked: &Asked,
        messages: impl IntoIterator<Item = &'a RawValue>,
        request: &AppendRequest,
    ) -> Result<AppendedBatch, ClientError> {
        if request.expected_offset.is_some() {
            let why = "a batch cannot be sent with an expected offset".to_owned();
            return Err(ClientError::Unsendable(why));
        }
        let mut body = String::new();
        for message in messages {
            // None after the last one: a message that is as long as a request may be has no room for it.
            if !body.is_empty() {
                body.push('\n');
            }
            body.push_str(&message.get().replace(['\r', '\n'], " "));
        }
        let mut headers = vec![(CONTENT_TYPE.as_str(), NDJSON)];
        let key = request.idempotency_key.as_deref();
        headers.extend(
            key.filter(|key| in_header(key))
                .map(|key| ("idempotency-key", key)),
        );
        let query = batch_query(request);
        let answer = self.post(asked, &query, &headers, body.into(), request);
        let answer = answer.await?;
        Ok(AppendedBatch {
            status: answer.status,
            replayed: answer.header(REPLAYED) == Some("true"),
            url: asked.url(),
            cluster_id: answer.cluster_id(),
            receipt: answer.json()?,
        })
    }

    /// Sends an append, and on to the master where a secondary says so.
    async fn post(
        &self,
        asked: &Asked,
        query: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        request: &AppendRequest,
    ) -> Result<RawAnswer, ClientError> {
        let deadline = self.deadline_of(request);
        let mut outgoing = Outgoing {
            method: Method::POST,
            uri: uri(&format!("{}{MESSAGES}{query}", self.base))?,
            headers,
            body,
            // With a key it is appended once, however often it arrives.
            repeatable: request.idempotency_key.is_some(),
        };
        let mut answer = within(deadline, self.exchange(&outgoing)).await?;
        if answer.status == 307 {
            let there = self.redirected(&answer)?;
            outgoing.uri = uri(&there)?;
            asked.is_now(&there);
            let followed = within(deadline, self.exchange(&outgoing)).await;
            // Whoever reads of it knows another URL, where a node answered.
            answer = followed.map_err(|error| error.at(&there))?;
        }
        answer.checked()
    }

    /// How long the answer may take, where the request says how long the node may wait.
    fn deadline_of(&self, request: &AppendRequest) -> Option<Duration> {
        Some(request.timeout? + self.settings.timeout?)
    }

    /// Where a 307 sends an append. Only to HTTP: nothing else can be spoken here.
    fn redirected(&self, answer: &RawAnswer) -> Result<String, ClientError> {
        let location = answer.header(LOCATION.as_str()).unwrap_or_default();
        let there = match location.strip_prefix('/') {
            Some(rest) if !rest.starts_with('/') => {
                let base = uri(&self.base)?;
                let authority = base
                    .authority()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                format!("http://{authority}{location}")
            }
            _ => location.to_owned(),
        };
        // The message is not there: the node that was asked only pointed somewhere.
        let checked = http_uri(&there);
        let unsendable =
            |why| ClientError::Unsendable(format!("redirected to {location:?}: {why}"));
        checked.map(|_| there).map_err(unsendable)
    }
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

/// Whether a header can carry a key: spaces around it are no part of a header's value.
fn in_header(key: &str) -> bool {
    key.trim_ascii() == key
}

/// A text in a query.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => write!(encoded, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    encoded
}

/// What a batch asks for, which has no place in its body.
fn batch_query(request: &AppendRequest) -> String {
    let concern = request.concern.map(|concern| format!("concern={concern}"));
    let timeout = request
        .timeout
        .map(|timeout| format!("timeout_ms={}", timeout.as_millis()));
    let key = request.idempotency_key.as_deref();
    let key = key.filter(|key| !in_header(key));
    let key = key.map(|key| format!("idempotency_key={}", encoded(key)));
    let encoding = request.base64.then(|| "encoding=base64".to_owned());
    let given = [concern, timeout, key, encoding];
    let given: Vec<String> = given.into_iter().flatten().collect();
    match given.is_empty() {
        true => String::new(),
        false => format!("?{}", given.join("&")),
    }
}

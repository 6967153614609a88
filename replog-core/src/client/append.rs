//! Appends: their options, their encoding in a request, and the redirect to the master.
//!
//! Never sends one twice, but forwards it to the master if a secondary redirects it there.

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
use crate::{
    limits::FRAME_BYTES_MAX,
    types::{Concern, Offset},
};

/// Path, below a node's URL, that takes appends.
const MESSAGES: &str = "/messages";
/// Header that says that an idempotency key was seen before.
const REPLAYED: &str = "idempotent-replayed";

/// Options of an append. The default leaves everything to the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppendRequest {
    /// Number of nodes that must hold the message; `None`: a majority.
    pub concern: Option<Concern>,
    /// Maximum wait for that; `None`: the server's default. Zero: answered as soon as the master
    /// holds it.
    pub timeout: Option<Duration>,
    /// Key under which the message is appended only once.
    pub idempotency_key: Option<String>,
    /// Appends only if the message gets this offset, in the log that
    /// [`ClientBuilder::cluster_id`](super::ClientBuilder::cluster_id) names.
    pub expected_offset: Option<Offset>,
    /// For a batch: its messages are JSON strings of base64, and the bytes that they encode, which need not be JSON,
    /// are appended.
    pub base64: bool,
}

/// The node that an append is sent to, while it is in flight.
pub(super) struct Asked {
    url: RefCell<String>,
}

impl Asked {
    /// Starts with the client's own node.
    pub(super) fn of(client: &Client) -> Asked {
        Asked {
            url: RefCell::new(client.base.clone()),
        }
    }

    /// Returns its URL in the form that a client's has.
    pub(super) fn url(&self) -> String {
        self.url.borrow().clone()
    }

    /// Records that the append is redirected to another node's path for appends.
    fn is_now(&self, there: &str) {
        let path = there.split(['?', '#']).next().unwrap_or_default();
        let base = path.strip_suffix(MESSAGES).unwrap_or(path);
        base.trim_end_matches('/')
            .clone_into(&mut self.url.borrow_mut());
    }
}

impl Client {
    /// Appends a JSON value, which is stored as it is written, without the white space around it.
    /// Waits as long as the request and the server say; follows one redirect from a secondary to
    /// its master.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; [`ClientError::outcome`] says whether the message was appended. A text that
    /// is not JSON is not sent.
    pub async fn append(
        &self,
        json: &str,
        request: &AppendRequest,
    ) -> Result<Appended, ClientError> {
        let data: &RawValue = serde_json::from_str(json).map_err(|error| {
            ClientError::Unsendable(format!("the message is not JSON: {error}"))
        })?;
        self.append_raw(data, request).await
    }

    /// Appends any value that serializes to JSON, as [`append`](Client::append) does.
    ///
    /// # Errors
    ///
    /// As [`append`](Client::append).
    pub async fn append_value(
        &self,
        value: &impl Serialize,
        request: &AppendRequest,
    ) -> Result<Appended, ClientError> {
        let data = serde_json::value::to_raw_value(value).map_err(|error| {
            ClientError::Unsendable(format!("the message is not JSON: {error}"))
        })?;
        self.append_raw(&data, request).await
    }

    /// Appends JSON that was checked before, as [`append`](Client::append) does.
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

    /// Appends as [`append_raw`](Client::append_raw) does; `asked` is the node that it is sent to.
    pub(super) async fn append_at(
        &self,
        asked: &Asked,
        data: &RawValue,
        request: &AppendRequest,
    ) -> Result<Appended, ClientError> {
        if request.base64 {
            let why = "raw bytes can only be sent in a batch".to_owned();
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

    /// Appends JSON values together, at consecutive offsets: all of them or none. Each is stored as
    /// it is written, except that line breaks between its tokens become spaces. Otherwise the same
    /// as [`append`](Client::append).
    ///
    /// # Errors
    ///
    /// The same as [`append`](Client::append). [`AppendRequest::expected_offset`] is not supported:
    /// nothing is sent then. A batch that is too long is refused and never split:
    /// [`ClientError::TooLarge`] if it is longer than any node takes, or a [`Problem`](super::Problem) with
    /// [`Reason::TooLarge`](super::Reason::TooLarge).
    pub async fn append_batch<'a>(
        &self,
        messages: impl IntoIterator<Item = &'a RawValue>,
        request: &AppendRequest,
    ) -> Result<AppendedBatch, ClientError> {
        self.append_batch_at(&Asked::of(self), messages, request)
            .await
    }

    /// Appends as [`append_batch`](Client::append_batch) does; `asked` is the node that it is sent
    /// to.
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
            // None after the last one: it would not fit behind a message of the maximum length.
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

    /// Sends an append, and forwards it to the master if a secondary redirects it.
    async fn post(
        &self,
        asked: &Asked,
        query: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        request: &AppendRequest,
    ) -> Result<RawAnswer, ClientError> {
        // A node would have to read all of it before it could answer that it is too long.
        if body.len() > FRAME_BYTES_MAX {
            return Err(ClientError::TooLarge {
                bytes: body.len(),
                limit_bytes: FRAME_BYTES_MAX,
            });
        }
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
            // The reader of the error knows another URL, at which a node did answer.
            answer = followed.map_err(|error| error.at(&there))?;
        }
        answer.checked()
    }

    /// Returns the time limit of the answer, if the request limits the time that the node may wait.
    fn deadline_of(&self, request: &AppendRequest) -> Option<Duration> {
        Some(request.timeout? + self.settings.timeout?)
    }

    /// Returns the target of a 307. Only HTTP: nothing else is spoken here.
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
        // The message is not there: the node that was asked only redirected it.
        let checked = http_uri(&there);
        let unsendable =
            |why| ClientError::Unsendable(format!("redirected to {location:?}: {why}"));
        checked.map(|_| there).map_err(unsendable)
    }
}

/// Builds the body of an append. The data is put in as it is written: it must come back byte for
/// byte.
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

/// Returns true if a header can carry this key: spaces around it would not be part of the header's
/// value.
fn in_header(key: &str) -> bool {
    key.trim_ascii() == key
}

/// Percent-encodes a text for a query.
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

/// Builds the query of a batch: its options, which have no place in its body.
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

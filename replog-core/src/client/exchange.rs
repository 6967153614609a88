//! One request and its answer: what was sent, what came back, and the error to report if nothing
//! did.
//!
//! Owns the distinction between "not sent" and "not answered". Resends, once, only what may arrive twice
//! without harm.

use std::time::Duration;

use awc::{
    error::SendRequestError,
    http::{
        Method, Uri,
        header::{ACCEPT, CONTENT_LENGTH, HeaderValue},
    },
};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::{
    CLUSTER, Client, ClientError, JSON, Problem,
    http::{BodyError, broke_before_answer, failed, not_sent, read_body, tracked},
};
use crate::{
    address::{BadUrl, NodeUrl, Scheme},
    transport::TransportError,
    types::ClusterId,
};

/// An answer as it came, whatever its status.
#[derive(Clone, Debug)]
pub struct RawAnswer {
    /// The HTTP status.
    pub status: u16,
    /// Names, in lower case, and values of the headers; a value that is not text is left out.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Client {
    /// Sends any request as it stands: for tests and tools. `path` begins with a slash and includes
    /// its query. The answer is not checked, and no redirect is followed.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unsendable`] for a method, path or header that is invalid in HTTP, otherwise
    /// the same as for every request; never a [`Problem`].
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<RawAnswer, ClientError> {
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|error| ClientError::Unsendable(format!("bad method {method:?}: {error}")))?;
        let uri = uri(&format!("{}{path}", self.base))?;
        let outgoing = Outgoing {
            repeatable: method != Method::POST,
            method,
            uri,
            headers,
            body,
        };
        within(self.settings.timeout, self.exchange(&outgoing)).await
    }

    pub(super) async fn get(
        &self,
        path: &str,
        deadline: Option<Duration>,
    ) -> Result<RawAnswer, ClientError> {
        let uri = uri(&format!("{}{path}", self.base))?;
        let headers = &[(ACCEPT.as_str(), JSON)];
        let outgoing = Outgoing {
            method: Method::GET,
            uri,
            headers,
            body: Bytes::new(),
            repeatable: true,
        };
        within(deadline, self.exchange(&outgoing)).await?.checked()
    }

    /// Sends a request and reads its answer. A request that may arrive twice without harm is sent
    /// once more if a kept-alive connection breaks before any answer.
    pub(super) async fn exchange(&self, outgoing: &Outgoing<'_>) -> Result<RawAnswer, ClientError> {
        match self.exchange_once(outgoing).await {
            Err((_, OnReuse::Yes)) if outgoing.repeatable => self.exchange_once(outgoing).await,
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
        if let Some(cluster_id) = self.settings.cluster_id {
            request = request.append_header((CLUSTER, cluster_id.to_string()));
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

impl RawAnswer {
    /// Returns the first value of a header; `name` in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the log that the node has, if it names one: offsets in the answer belong to that
    /// log.
    #[must_use]
    pub fn cluster_id(&self) -> Option<ClusterId> {
        ClusterId::try_from(self.header(CLUSTER)?.to_owned()).ok()
    }

    /// Parses the body as JSON.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreadable`] if it is not JSON, or not a `T`; [`ClientError::NoAnswer`] if it ends
    /// within a value and did not announce its length: then it was cut off.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            // A chunked body is returned without an error if the connection ends before the last chunk.
            let may_be_cut = self.header(CONTENT_LENGTH.as_str()).is_none();
            match error.is_eof() && may_be_cut {
                true => ClientError::NoAnswer(format!("the answer broke off: {error}")),
                false => ClientError::Unreadable {
                    status: self.status,
                    detail: error.to_string(),
                },
            }
        })
    }

    /// Returns this answer if it is a success.
    ///
    /// # Errors
    ///
    /// [`ClientError::Problem`] for a status of 400 and above, even if the body is not a problem
    /// document; [`ClientError::Unreadable`] for any other status that is not a success.
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

/// One request as it is sent, once or twice.
pub(super) struct Outgoing<'a> {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: Bytes,
    /// True if it may arrive twice without harm.
    pub(super) repeatable: bool,
}

/// Tells that a kept-alive connection broke before any answer.
enum OnReuse {
    Yes,
    No,
}

/// Returns the error to report for a request that got no answer.
pub(super) fn unanswered(error: &SendRequestError) -> ClientError {
    // Both are about the request itself, which reached no node.
    match error {
        SendRequestError::Url(error) => {
            return ClientError::Unsendable(format!("bad URL: {error}"));
        }
        SendRequestError::Http(error) => {
            return ClientError::Unsendable(format!("bad request: {error}"));
        }
        _ => {}
    }
    match not_sent(error) {
        Some(TransportError::Connection(why)) => ClientError::NotSent(why),
        Some(why) => ClientError::NotSent(why.to_string()),
        None => ClientError::NoAnswer(failed(error).to_string()),
    }
}

pub(super) async fn within<T>(
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

/// Parses `[http://]HOST[:PORT][/PREFIX]`, the prefix of all paths. Returns it without a trailing
/// slash.
pub(super) fn base_of(url: &str) -> Result<String, ClientError> {
    let read = NodeUrl::from_user(url).map_err(|error| error.to_string());
    let read = read.and_then(|url| spoken_with(&url).map(|()| url.to_string()));
    read.map_err(ClientError::Unsendable)
}

/// Checks that this is a URL, possibly of a resource, of a host reached over plain HTTP.
pub(super) fn http_uri(url: &str) -> Result<Uri, String> {
    // A resource may have a query; the rest is checked as in every other URL.
    let node = url.split(['?', '#']).next().unwrap_or_default();
    let node: NodeUrl = node.parse().map_err(|error: BadUrl| error.to_string())?;
    spoken_with(&node)?;
    Uri::try_from(url).map_err(|error| format!("{url:?} is not a URL: {error}"))
}

fn spoken_with(url: &NodeUrl) -> Result<(), String> {
    match url.scheme() {
        Scheme::Http => Ok(()),
        Scheme::Https => Err(format!("{url}: https is not supported, only http")),
    }
}

pub(super) fn uri(url: &str) -> Result<Uri, ClientError> {
    Uri::try_from(url).map_err(|error| ClientError::Unsendable(format!("bad URL {url:?}: {error}")))
}

//! An endless answer: the lines that come on one connection.
//!
//! Owns the bytes that are not a complete line yet. A line counts only with its line break: a body that
//! ends within a line was cut off.

use std::{future::poll_fn, pin::Pin, time::Duration};

use awc::{
    error::PayloadError,
    http::{
        Method,
        header::{ACCEPT, CONTENT_TYPE, HeaderValue},
    },
};
use bytes::{Bytes, BytesMut};
use futures_core::Stream;

use super::{
    CLUSTER, Client, ClientError, RawAnswer,
    exchange::{unanswered, uri, within},
    http::read_body,
};
use crate::{limits::FOLLOW_SIGN_INTERVAL, types::ClusterId};

/// Maximum silence before a connection counts as broken: a node sends something at least every
/// [`FOLLOW_SIGN_INTERVAL`].
const SILENCE_MAX: Duration = FOLLOW_SIGN_INTERVAL.saturating_mul(4);

/// Maximum bytes of an error's body.
const PROBLEM_BYTES_MAX: usize = 64 << 10;

/// A body that is being read.
pub(super) struct Streamed {
    body: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>>,
    /// Bytes received that are not a complete line yet.
    part: BytesMut,
    /// Number of those bytes already searched for a line break.
    searched: usize,
    /// The log that the node had when it answered, if it named one.
    pub(super) cluster_id: Option<ClusterId>,
}

/// Asks for a body of this content type at `url`, and waits until it begins. If `cluster_id` is given, offsets in the
/// URL belong to that log.
pub(super) async fn open(
    client: &Client,
    url: &str,
    content_type: &'static str,
    cluster_id: Option<ClusterId>,
) -> Result<Streamed, ClientError> {
    let request = client.awc.request(Method::GET, &uri(url)?);
    let request = request
        .no_decompress()
        .append_header((ACCEPT, HeaderValue::from_static(content_type)));
    let request = match cluster_id {
        Some(cluster_id) => request.append_header((CLUSTER, cluster_id.to_string())),
        None => request,
    };
    let timeout = client.settings.timeout;
    let sent = async { request.send().await.map_err(|error| unanswered(&error)) };
    let mut response = within(timeout, sent).await?;
    let status = response.status().as_u16();
    if status == 200 {
        let named = response.headers().get(CLUSTER);
        let named = named.and_then(|value| value.to_str().ok());
        let cluster_id = named.and_then(|text| ClusterId::try_from(text.to_owned()).ok());
        return Ok(Streamed {
            body: Box::pin(response),
            part: BytesMut::new(),
            searched: 0,
            cluster_id,
        });
    }
    let content_type = response.headers().get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let headers = content_type.map(|value| (CONTENT_TYPE.as_str().to_owned(), value.to_owned()));
    let headers = headers.into_iter().collect();
    let read = async {
        let body = read_body(&mut response, PROBLEM_BYTES_MAX).await;
        body.map_err(|error| ClientError::NoAnswer(error.to_string()))
    };
    let body = within(timeout, read).await?;
    let answer = RawAnswer {
        status,
        headers,
        body,
    };
    answer.checked()?;
    let detail = "not a stream".to_owned();
    Err(ClientError::Unreadable { status, detail })
}

impl Streamed {
    /// Returns the next complete line, including its line break.
    pub(super) async fn next_line(&mut self, bytes_max: usize) -> Result<BytesMut, ClientError> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(line);
            }
            if self.part.len() > bytes_max {
                let detail = format!("a line is longer than {bytes_max} bytes");
                return Err(ClientError::Unreadable {
                    status: 200,
                    detail,
                });
            }
            let chunk = poll_fn(|cx| self.body.as_mut().poll_next(cx));
            let broke = |why: &str| ClientError::NoAnswer(format!("the stream broke off: {why}"));
            match tokio::time::timeout(SILENCE_MAX, chunk).await {
                Ok(Some(Ok(chunk))) => self.part.extend_from_slice(&chunk),
                Ok(Some(Err(error))) => return Err(broke(&error.to_string())),
                Ok(None) => return Err(broke("it ended")),
                Err(_) => return Err(broke(&format!("nothing received for {SILENCE_MAX:?}"))),
            }
        }
    }

    fn take_line(&mut self) -> Option<BytesMut> {
        let found = self.part[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n');
        let Some(found) = found else {
            // A keep-alive of the node, not part of a line.
            if self.part.iter().all(|byte| *byte == b' ') {
                self.part.clear();
            }
            self.searched = self.part.len();
            return None;
        };
        let line = self.part.split_to(self.searched + found + 1);
        self.searched = 0;
        Some(line)
    }
}

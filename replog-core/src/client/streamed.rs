//! An answer that does not end: the lines that come on one connection.
//!
//! Owns what came and is no whole line yet. A line counts only with its end: a body that ends within one is
//! one that broke off.

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

/// How long nothing at all may come on a connection before it counts as broken: a node says something at
/// least every [`FOLLOW_SIGN_INTERVAL`].
const SILENCE_MAX: Duration = FOLLOW_SIGN_INTERVAL.saturating_mul(4);

/// Bytes of an error's body, at most.
const PROBLEM_BYTES_MAX: usize = 64 << 10;

/// A body that is being read.
pub(super) struct Streamed {
    body: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>>,
    /// What came and is no whole line yet.
    part: BytesMut,
    /// How much of it was searched for the line's end.
    searched: usize,
    /// The log that the node had when it answered, where it said so.
    pub(super) cluster_id: Option<ClusterId>,
}

/// Asks for a body of this content type at `url`, and waits until it begins. Where `cluster_id` is given, positions in
/// the URL are of that log.
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
    let detail = "no stream".to_owned();
    Err(ClientError::Unreadable { status, detail })
}

impl Streamed {
    /// The next whole line, its end included.
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
                Err(_) => return Err(broke(&format!("nothing came for {SILENCE_MAX:?}"))),
            }
        }
    }

    fn take_line(&mut self) -> Option<BytesMut> {
        let found = self.part[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n');
        let Some(found) = found else {
            // A sign that the node is there, and no part of a line yet.
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

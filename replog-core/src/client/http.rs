//! HTTP/1.1 by awc, set up for clients of nodes.
//!
//! Owns the way connections are made and the meaning of their failures. Never follows a redirect, never
//! decompresses, never times out except while connecting: callers put their time-outs around the requests
//! and drop them.
//!
//! `TCP_NODELAY` is set on every connection: without it, the last, short segment of a request that takes
//! more than one write may wait for the node's delayed acknowledgement, 40 ms on Linux.

use std::{cell::Cell, future::poll_fn, io, pin::Pin, time::Duration};

use actix_service::{Service, ServiceExt};
use actix_tls::connect::{ConnectError as TcpConnectError, ConnectInfo, Connection};
use awc::{
    Client, ClientResponse,
    error::{ConnectError, PayloadError, SendRequestError},
    http::{Uri, header::CONTENT_LENGTH},
};
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use tokio::net::TcpStream;

use crate::{transport::TransportError, words::counted};

/// Maximum bytes allocated at once for an answer: a length that a node claims is no reason to
/// allocate more. Beyond it the buffer grows with what arrives.
const ANSWER_CAPACITY_MAX: usize = 2 << 20;

tokio::task_local! {
    /// True once a connection was made for the request in flight in this task.
    static CONNECTED: Cell<bool>;
}

/// Returns an awc client for one node, without redirects, and without time-outs except while
/// connecting.
pub(super) fn client(connect_timeout: Duration, keep_alive: Duration) -> Client {
    let connector = awc::Connector::new()
        .connector(tcp_connector())
        .timeout(connect_timeout)
        .conn_keep_alive(keep_alive);
    Client::builder()
        .connector(connector)
        .disable_timeout()
        .disable_redirects()
        .finish()
}

/// Makes TCP connections that do not wait for acknowledgements, and records that it made one.
fn tcp_connector()
-> impl Service<ConnectInfo<Uri>, Response = Connection<Uri, TcpStream>, Error = TcpConnectError> + Clone
{
    let service = actix_tls::connect::Connector::default().service();
    ServiceExt::<ConnectInfo<Uri>>::map(service, |connection: Connection<Uri, TcpStream>| {
        if let Err(error) = connection.io_ref().set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        // An error means that the connection is made outside of `tracked`.
        let _ = CONNECTED.try_with(|connected| connected.set(true));
        connection
    })
}

/// Awaits `sending`; returns its outcome, and whether a connection was made for it.
pub(super) async fn tracked<T>(sending: impl Future<Output = T>) -> (T, bool) {
    let observed = async {
        let outcome = sending.await;
        (outcome, CONNECTED.with(Cell::get))
    };
    CONNECTED.scope(Cell::new(false), observed).await
}

/// Returns true if a request ended because its connection broke before the first byte of an answer.
pub(super) fn broke_before_answer(error: &SendRequestError) -> bool {
    use awc::error::SendRequestError as E;
    match error {
        E::Connect(ConnectError::Disconnected) | E::Send(_) => true,
        E::Response(error) => parse_io_kind(error).is_some_and(|kind| {
            matches!(
                kind,
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::NotConnected
            )
        }),
        _ => false,
    }
}

/// Returns the reason if a request ended before it could be sent.
pub(super) fn not_sent(error: &SendRequestError) -> Option<TransportError> {
    use awc::error::SendRequestError as E;
    let connect = match error {
        E::Connect(ConnectError::Disconnected) => return None,
        E::Connect(error) => error,
        E::Url(error) => return Some(TransportError::Connection(format!("bad URL: {error}"))),
        E::Http(error) => return Some(TransportError::Connection(format!("bad request: {error}"))),
        _ => return None,
    };
    Some(match connect {
        ConnectError::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            TransportError::ConnectionRefused
        }
        ConnectError::Io(error) => TransportError::Connection(error.to_string()),
        ConnectError::Timeout => TransportError::TimedOut,
        ConnectError::Resolver(error) => TransportError::NameNotResolved(error.to_string()),
        ConnectError::SslIsNotSupported => {
            TransportError::Connection("https is not supported".to_owned())
        }
        other => TransportError::Connection(other.to_string()),
    })
}

/// Reads an answer's body to its end.
pub(super) async fn read_body<S: Chunks>(
    response: &mut ClientResponse<S>,
    bytes_max: usize,
) -> Result<Bytes, BodyError> {
    let announced = response
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(BodyError::TooLong { bytes_max });
    }
    let mut body = Bytes::new();
    let mut joined: Option<BytesMut> = None;
    while let Some(chunk) = next_chunk(response).await {
        let chunk = chunk.map_err(|error| BodyError::Broken(error.to_string()))?;
        let have = joined.as_ref().map_or(body.len(), BytesMut::len);
        if have + chunk.len() > bytes_max {
            return Err(BodyError::TooLong { bytes_max });
        }
        match &mut joined {
            Some(joined) => joined.extend_from_slice(&chunk),
            // Most answers are one short chunk: those are not copied.
            None if body.is_empty() => body = chunk,
            None => {
                let room = announced
                    .map_or(0, |bytes| bytes as usize)
                    .min(ANSWER_CAPACITY_MAX);
                let mut both = BytesMut::with_capacity(room.max(body.len() + chunk.len()));
                both.extend_from_slice(&body);
                both.extend_from_slice(&chunk);
                joined = Some(both);
            }
        }
    }
    let body = joined.map_or(body, BytesMut::freeze);
    // awc ends the body without an error when the connection ends within it.
    match announced {
        Some(bytes) if bytes != body.len() as u64 => Err(BodyError::Broken(format!(
            "{} of {} came",
            body.len(),
            counted(bytes, "byte")
        ))),
        _ => Ok(body),
    }
}

/// A body as awc gives it: its type changes if another crate turns decompression on.
pub(super) trait Chunks: Stream<Item = Result<Bytes, PayloadError>> + Unpin {}

impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Chunks for S {}

/// Reasons why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the answer is longer than {bytes_max} bytes")]
    TooLong { bytes_max: usize },
    #[error("the answer broke off: {0}")]
    Broken(String),
}

/// Returns the error to report for a request that got no answer.
pub(super) fn failed(error: &SendRequestError) -> TransportError {
    if let Some(error) = not_sent(error) {
        return error;
    }
    match error {
        SendRequestError::Connect(ConnectError::Disconnected) => {
            TransportError::Connection("the connection was closed before an answer".to_owned())
        }
        SendRequestError::Send(error) => TransportError::Connection(error.to_string()),
        SendRequestError::Response(error) if parse_io_kind(error).is_some() => {
            TransportError::Connection(error.to_string())
        }
        SendRequestError::Response(error) => {
            TransportError::BadAnswer(format!("not HTTP: {error}"))
        }
        other => TransportError::Connection(other.to_string()),
    }
}

/// Returns the kind of the I/O error below an error of awc's parser, whose type awc does not
/// export.
fn parse_io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = inner.source();
    }
    None
}

async fn next_chunk<S: Chunks>(
    response: &mut ClientResponse<S>,
) -> Option<Result<Bytes, PayloadError>> {
    poll_fn(|cx| Pin::new(&mut *response).poll_next(cx)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::responder::{Reply, Responder},
        transport::suite,
    };

    #[test]
    fn connections_do_not_wait_for_acknowledgements() {
        suite::run(async {
            let responder = Responder::start(|_| Reply::Close);
            let uri: Uri = responder.url().parse().unwrap();
            let connection = tcp_connector().call(ConnectInfo::new(uri)).await.unwrap();
            assert!(connection.io_ref().nodelay().unwrap());
        });
    }
}

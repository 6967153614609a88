//! [`HttpNetwork`]: nodes that talk over HTTP/1.1, by awc.
//!
//! Owns the connections of one node's actor thread: a client with its own pool for each peer, so
//! that a peer that hangs takes no connection from another. Knows `wire.rs` and HTTP, and no
//! rule. Never follows a redirect, never decompresses, never times out but while it connects:
//! links put their time-outs around the calls and drop them.
//!
//! Records go over one lasting connection to each peer that takes it, a *stream* ([`wire::stream`]);
//! all else, and all to a peer that takes none, is a POST.
//!
//! A kept connection that the peer closes in the very moment of a request breaks before any
//! answer. That says nothing about the peer, so such a request is sent once more, which is safe:
//! every request of the protocol may arrive twice. A connection that was made for the request is
//! no such case, and its failure is reported as it is.
//!
//! `TCP_NODELAY` is set on every connection: where a request takes more than one write, its last
//! and short segment may otherwise wait for the peer's delayed acknowledgement, 40 ms on Linux.
//! The listening side has the same to gain for its answers, and sets its own sockets.

mod stream;

use std::{
    cell::Cell,
    convert::Infallible,
    future::poll_fn,
    hint::black_box,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_service::{Service, ServiceExt};
use actix_tls::connect::{ConnectError as TcpConnectError, ConnectInfo, Connection};
use awc::{
    Client, ClientResponse,
    body::{BodySize, MessageBody},
    error::{ConnectError, PayloadError, SendRequestError},
    http::{
        StatusCode, Uri,
        header::{
            ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue,
        },
    },
};
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use tokio::net::TcpStream;

use crate::{
    config::Peer,
    error::ConfigError,
    transport::{
        CallFuture, Network, Transport, TransportError,
        http::stream::{NoStream, Streams},
        message::{Request, RequestBody, Response},
        wire,
    },
};

/// Room made at once for an answer, at most: a length that a peer claims is no reason to
/// allocate. Beyond it the buffer grows with what arrives.
const ANSWER_CAPACITY_MAX: usize = 2 << 20;

/// Settings of an [`HttpNetwork`].
#[derive(Clone)]
pub struct HttpOptions {
    /// Sent with every request as `Authorization: Bearer TOKEN`; `None`: nothing is sent.
    pub token: Option<String>,
    /// How long making a connection may take, the look-up of its name included. A backstop:
    /// links give up earlier.
    pub connect_timeout: Duration,
    /// How long a connection is kept without use. Shorter than the peer keeps it, or requests
    /// meet connections that are just being closed.
    pub keep_alive: Duration,
}

impl Default for HttpOptions {
    fn default() -> HttpOptions {
        HttpOptions {
            token: None,
            connect_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_secs(15),
        }
    }
}

impl HttpOptions {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the token is empty or has characters that a header cannot carry, or
    /// when no time is left to connect.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.connect_timeout.is_zero() {
            return Err(ConfigError(
                "the time to connect must be longer than 0".to_owned(),
            ));
        }
        self.authorization().map(|_| ())
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, ConfigError> {
        let Some(token) = &self.token else {
            return Ok(None);
        };
        // A space at either end does not survive a header; an empty token lets everybody in.
        let value = HeaderValue::try_from(format!("Bearer {token}"));
        match value {
            Ok(mut value) if !token.is_empty() && token.trim() == token && token.is_ascii() => {
                value.set_sensitive(true);
                Ok(Some(value))
            }
            // The token stays out of the text: it is a secret.
            _ => Err(ConfigError(
                "the cluster token must be printable ASCII".to_owned(),
            )),
        }
    }
}

impl std::fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpOptions")
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("connect_timeout", &self.connect_timeout)
            .field("keep_alive", &self.keep_alive)
            .finish()
    }
}

/// Ways to nodes by HTTP. A [`Peer`]'s URL is `http://HOST[:PORT][/PREFIX]`; requests go to
/// [`wire::PATH`] below it, by POST, and records to [`wire::stream::PATH`], a WebSocket, where the
/// peer serves one. A server needs only the former; the latter saves most of what a small batch costs.
///
/// Its transports need a tokio runtime with I/O and time, and a `LocalSet` around the calls.
#[derive(Clone, Debug)]
pub struct HttpNetwork {
    options: HttpOptions,
}

impl HttpNetwork {
    /// A network with these settings. Where [`HttpOptions::validate`] refuses them, every call
    /// fails and says so.
    #[must_use]
    pub fn new(options: HttpOptions) -> HttpNetwork {
        HttpNetwork { options }
    }
}

impl Network for HttpNetwork {
    fn connect(&self, peer: &Peer) -> Rc<dyn Transport> {
        let HttpOptions {
            connect_timeout,
            keep_alive,
            ..
        } = self.options;
        let client = client(connect_timeout, keep_alive);
        let target = self.target(peer, &client);
        Rc::new(HttpTransport {
            way: Rc::new(Way { client, target }),
        })
    }
}

impl HttpNetwork {
    fn target(&self, peer: &Peer, client: &Client) -> Result<Target, String> {
        let authorization = self
            .options
            .authorization()
            .map_err(|error| error.to_string())?;
        let stream = target(&peer.address, wire::stream::PATH)?;
        Ok(Target {
            uri: target(&peer.address, wire::PATH)?,
            streams: Streams::new(
                client.clone(),
                stream,
                authorization.clone(),
                self.options.keep_alive,
            ),
            authorization,
        })
    }
}

/// Whether a request's `Authorization` header carries the cluster's token. Takes the same time
/// wherever the two differ. Never true for an empty token.
#[must_use]
pub fn accepts_token(expected: &str, header: Option<&str>) -> bool {
    let Some((scheme, given)) = header.and_then(|header| header.split_once(' ')) else {
        return false;
    };
    let (expected, given) = (expected.as_bytes(), given.trim_ascii().as_bytes());
    // Every byte given is compared, whatever came before; only its length shows.
    let mut differs = u8::from(expected.len() != given.len() || expected.is_empty());
    for (at, byte) in given.iter().enumerate() {
        let other = expected.get(at).copied().unwrap_or(!byte);
        differs = black_box(differs | (byte ^ other));
    }
    scheme.eq_ignore_ascii_case("bearer") && differs == 0
}

tokio::task_local! {
    /// Whether a connection was made for the request under way in this task.
    static CONNECTED: Cell<bool>;
}

/// An awc client for one peer, without time-outs but while it connects, and without redirects.
pub(crate) fn client(connect_timeout: Duration, keep_alive: Duration) -> Client {
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

/// Makes TCP connections that do not wait for acknowledgements, and notes that it made one.
fn tcp_connector()
-> impl Service<ConnectInfo<Uri>, Response = Connection<Uri, TcpStream>, Error = TcpConnectError> + Clone
{
    let service = actix_tls::connect::Connector::default().service();
    ServiceExt::<ConnectInfo<Uri>>::map(service, |connection: Connection<Uri, TcpStream>| {
        if let Err(error) = connection.io_ref().set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        // An error: the connection is made outside of `tracked`.
        let _ = CONNECTED.try_with(|connected| connected.set(true));
        connection
    })
}

/// Awaits `sending`; beside its outcome, whether a connection was made for it.
pub(crate) async fn tracked<T>(sending: impl Future<Output = T>) -> (T, bool) {
    let observed = async {
        let outcome = sending.await;
        (outcome, CONNECTED.with(Cell::get))
    };
    CONNECTED.scope(Cell::new(false), observed).await
}

/// Whether a request ended because its connection broke, without a byte of an answer.
pub(crate) fn broke_before_answer(error: &SendRequestError) -> bool {
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

/// Whether a request ended before it could be sent, and why.
pub(crate) fn not_sent(error: &SendRequestError) -> Option<TransportError> {
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
        ConnectError::Resolver(error) => {
            TransportError::Connection(format!("the host name cannot be resolved: {error}"))
        }
        ConnectError::SslIsNotSupported => {
            TransportError::Connection("https is not supported".to_owned())
        }
        other => TransportError::Connection(other.to_string()),
    })
}

/// Reads an answer's body to its end.
pub(crate) async fn read_body<S: Chunks>(
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
            // Most answers are short and come as one chunk: those are not copied.
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
            "{} of {bytes} bytes came",
            body.len()
        ))),
        _ => Ok(body),
    }
}

/// A body as awc gives it: another type where a crate beside this one turns decompression on.
pub(crate) trait Chunks: Stream<Item = Result<Bytes, PayloadError>> + Unpin {}

impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Chunks for S {}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the answer is longer than {bytes_max} bytes")]
    TooLong { bytes_max: usize },
    #[error("the answer broke off: {0}")]
    Broken(String),
}

/// The way to one peer.
struct HttpTransport {
    way: Rc<Way>,
}

struct Way {
    client: Client,
    /// Or why no call can succeed.
    target: Result<Target, String>,
}

struct Target {
    uri: Uri,
    authorization: Option<HeaderValue>,
    streams: Streams,
}

impl Transport for HttpTransport {
    fn call(&self, request: Request) -> CallFuture {
        let way = Rc::clone(&self.way);
        Box::pin(async move {
            if let Some(outcome) = way.call_by_stream(&request).await {
                return outcome;
            }
            let parts = wire::encode_request(&request);
            match way.exchange(&parts).await {
                Err(Failure {
                    on_reuse: true,
                    error,
                }) => {
                    tracing::debug!(%error, "a kept connection was closed, sending once more");
                    way.exchange(&parts).await
                }
                outcome => outcome,
            }
            .map_err(|failure| failure.error)
        })
    }
}

/// Why an exchange failed.
struct Failure {
    error: TransportError,
    /// Whether a kept connection broke before any answer.
    on_reuse: bool,
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Failure {
        Failure {
            error,
            on_reuse: false,
        }
    }
}

impl Way {
    /// Records go by stream, where the peer takes one: they are what there is much of. All others
    /// go alone, so that no heartbeat waits behind a batch.
    async fn call_by_stream(&self, request: &Request) -> Option<Result<Response, TransportError>> {
        let target = self.target.as_ref().ok()?;
        if !matches!(request.body, RequestBody::Append(_)) {
            return None;
        }
        match target.streams.call(request).await {
            Ok(response) => Some(Ok(response)),
            Err(NoStream::Failed(error)) => Some(Err(error)),
            Err(NoStream::NotTaken) => None,
        }
    }

    async fn exchange(&self, parts: &[Bytes]) -> Result<Response, Failure> {
        let target = self
            .target
            .as_ref()
            .map_err(|why| TransportError::Connection(why.clone()))?;
        let mut request = self
            .client
            .post(&target.uri)
            .insert_header((CONTENT_TYPE, wire::CONTENT_TYPE))
            .insert_header((ACCEPT_ENCODING, "identity"))
            .no_decompress();
        if let Some(authorization) = &target.authorization {
            request = request.insert_header((AUTHORIZATION, authorization.clone()));
        }
        let (sent, connected) = tracked(request.send_body(Parts::new(parts.to_vec()))).await;
        let mut response = sent.map_err(|error| Failure {
            on_reuse: !connected && broke_before_answer(&error),
            error: failed(&error),
        })?;
        if response.status() != StatusCode::OK {
            let status = response.status().as_u16();
            drain_what_is_there(&mut response).await;
            return Err(TransportError::HttpStatus(status).into());
        }
        Ok(read_answer(&mut response).await?)
    }
}

async fn read_answer<S: Chunks>(
    response: &mut ClientResponse<S>,
) -> Result<Response, TransportError> {
    if !is_ours(response.headers()) {
        let given = response
            .headers()
            .get(CONTENT_TYPE)
            .map(HeaderValue::as_bytes);
        let given = String::from_utf8_lossy(given.unwrap_or(b"none"));
        let given: String = given.chars().take(100).collect();
        return Err(TransportError::BadAnswer(format!(
            "its content type is {given}"
        )));
    }
    let body = read_body(response, wire::BODY_BYTES_MAX)
        .await
        .map_err(|error| match error {
            BodyError::TooLong { .. } => TransportError::BadAnswer(error.to_string()),
            BodyError::Broken(_) => TransportError::Connection(error.to_string()),
        })?;
    wire::decode_response(body).map_err(|error| TransportError::BadAnswer(error.to_string()))
}

fn is_ours(headers: &HeaderMap) -> bool {
    let given = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = given.and_then(|given| given.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(wire::CONTENT_TYPE))
}

/// What a request that got no answer is reported as.
pub(crate) fn failed(error: &SendRequestError) -> TransportError {
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

/// The kind of the I/O error below an error of awc's parser, whose type awc does not name.
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

/// Where requests to a peer go, or why they cannot.
fn target(url: &str, path: &str) -> Result<Uri, String> {
    let url = url.trim_end_matches('/');
    let uri = Uri::try_from(format!("{url}{path}"))
        .map_err(|error| format!("bad URL {url:?}: {error}"))?;
    let names_a_host = uri.host().is_some_and(|host| !host.is_empty());
    if uri.scheme_str() != Some("http") || !names_a_host {
        return Err(format!("bad URL {url:?}: it must be http://HOST:PORT"));
    }
    Ok(uri)
}

async fn next_chunk<S: Chunks>(
    response: &mut ClientResponse<S>,
) -> Option<Result<Bytes, PayloadError>> {
    poll_fn(|cx| Pin::new(&mut *response).poll_next(cx)).await
}

/// Reads what has arrived of a body that nobody wants and does not wait for more: where it is
/// complete the connection is kept, else it is closed.
async fn drain_what_is_there<S: Chunks>(response: &mut ClientResponse<S>) {
    for _ in 0..16 {
        let next = poll_fn(|cx| Poll::Ready(Pin::new(&mut *response).poll_next(cx))).await;
        if !matches!(next, Poll::Ready(Some(Ok(_)))) {
            return;
        }
    }
}

/// A body of known length out of parts that are not joined.
struct Parts {
    parts: std::vec::IntoIter<Bytes>,
    bytes: u64,
}

impl Parts {
    fn new(parts: Vec<Bytes>) -> Parts {
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        Parts {
            parts: parts.into_iter(),
            bytes,
        }
    }
}

impl MessageBody for Parts {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        Poll::Ready(self.parts.next().map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{
        transport::{
            responder::{Asked, Reply, Responder},
            suite::{self, Bench, StandIn},
        },
        types::{NodeName, Offset},
    };

    pub(super) fn peer(url: String) -> Peer {
        Peer {
            name: NodeName::new("secondary-1").unwrap(),
            address: url,
        }
    }

    pub(super) fn connect(responder: &Responder) -> Rc<dyn Transport> {
        HttpNetwork::new(HttpOptions::default()).connect(&peer(responder.url()))
    }

    fn bench() -> Bench {
        let fake = StandIn::new();
        let responder = Responder::serving(fake.clone());
        let transport = connect(&responder);
        let nobody = HttpNetwork::new(HttpOptions::default());
        let nobody = nobody.connect(&peer(Responder::nobody()));
        Bench {
            transport,
            nobody,
            stand_in: fake,
            keep: Box::new(responder),
        }
    }

    suite::conformance!(bench());

    fn answer(content_type: &str, body: &[u8]) -> Vec<u8> {
        Responder::answer("200 OK", content_type, body)
    }

    fn good(end: u64) -> Vec<u8> {
        let parts = wire::encode_response(&suite::taken(end));
        answer(wire::CONTENT_TYPE, &parts.concat())
    }

    /// What a call comes to when this is answered, and how often it was asked.
    fn outcome(reply: Reply) -> (Result<Response, TransportError>, usize) {
        suite::run(async {
            let responder = Responder::start(move |_| reply.clone());
            let outcome = connect(&responder).call(suite::heartbeat(17)).await;
            (outcome, responder.asked())
        })
    }

    pub(super) fn is_connection(outcome: &Result<Response, TransportError>) -> bool {
        matches!(outcome, Err(TransportError::Connection(_)))
    }

    fn is_bad_answer(outcome: &Result<Response, TransportError>) -> bool {
        matches!(outcome, Err(TransportError::BadAnswer(_)))
    }

    #[test]
    fn the_network_goes_anywhere() {
        fn anywhere<T: Send + Sync + Clone + 'static>() {}
        anywhere::<HttpNetwork>();
    }

    #[test]
    fn a_request_says_what_it_is_and_who_may_send_it() {
        suite::run(async {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let asked = Arc::clone(&seen);
            let responder = Responder::start(move |request: Asked| {
                asked.lock().unwrap().push(request);
                Reply::Answer(good(17))
            });
            let options = HttpOptions {
                token: Some("secret".to_owned()),
                ..HttpOptions::default()
            };
            let transport = HttpNetwork::new(options).connect(&peer(responder.url() + "/"));
            let request = suite::append(suite::large_batch(Offset(3)));
            assert!(transport.call(request.clone()).await.is_ok());
            let seen = seen.lock().unwrap();
            // It asked for a stream before.
            let post = &seen[1];
            let head = post.head.to_ascii_lowercase();
            assert!(
                head.starts_with("post /replication/v1 http/1.1\r\n"),
                "{head}"
            );
            for line in [
                "content-type: application/vnd.replog.replication",
                "authorization: bearer secret",
                "accept-encoding: identity",
                &format!("content-length: {}", post.body.len()),
            ] {
                assert!(
                    head.lines().any(|other| other == line),
                    "{line} is not in {head}"
                );
            }
            assert!(!head.contains("transfer-encoding"), "{head}");
            assert_eq!(wire::decode_request(post.body.clone()), Ok(request));
        });
    }

    #[test]
    fn what_is_no_answer_of_the_protocol_is_called_so() {
        let html = b"<html><body>It works!</body></html>";
        let torn = wire::encode_response(&suite::taken(17)).concat();
        let table = [
            ("HTML", answer("text/html", html)),
            ("HTML under a false name", answer(wire::CONTENT_TYPE, html)),
            (
                "no content type",
                b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
            ),
            ("nothing", answer(wire::CONTENT_TYPE, b"")),
            (
                "half a message",
                answer(wire::CONTENT_TYPE, &torn[..torn.len() / 2]),
            ),
            ("another protocol", b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec()),
            (
                "an endless answer",
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ncontent-length: {}\r\n\r\nRPLW",
                    wire::CONTENT_TYPE,
                    wire::BODY_BYTES_MAX + 1,
                )
                .into_bytes(),
            ),
        ];
        for (what, bytes) in table {
            let (outcome, asked) = outcome(Reply::Last(bytes));
            assert!(is_bad_answer(&outcome), "{what}: {outcome:?}");
            assert_eq!(asked, 1, "{what}");
        }
    }

    #[test]
    fn a_status_other_than_200_is_reported_and_no_redirect_followed() {
        let table = [
            (500, Responder::answer("500 Oh", "text/plain", b"no")),
            (401, Responder::answer("401 Who", "text/plain", b"")),
            (204, b"HTTP/1.1 204 No\r\n\r\n".to_vec()),
            (
                307,
                b"HTTP/1.1 307 There\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_vec(),
            ),
        ];
        for (status, bytes) in table {
            let (outcome, asked) = outcome(Reply::Answer(bytes));
            assert_eq!(outcome, Err(TransportError::HttpStatus(status)));
            assert_eq!(asked, 1, "{status}");
        }
    }

    #[test]
    fn a_connection_is_kept_after_an_error() {
        suite::run(async {
            let responder = Responder::start(|asked: Asked| match asked.nth {
                0 => Reply::Answer(Responder::answer("500 Oh", "text/plain", b"no")),
                _ => Reply::Answer(good(17)),
            });
            let transport = connect(&responder);
            assert!(transport.call(suite::heartbeat(17)).await.is_err());
            assert!(transport.call(suite::heartbeat(17)).await.is_ok());
            assert_eq!(responder.connections(), 1);
        });
    }

    #[test]
    fn an_answer_that_breaks_off_is_a_broken_connection() {
        let whole = good(17);
        for cut in [1, 12, 40, whole.len() - 1] {
            let (outcome, asked) = outcome(Reply::Last(whole[..cut].to_vec()));
            assert!(is_connection(&outcome), "{cut}: {outcome:?}");
            assert_eq!(asked, 1, "{cut}");
        }
    }

    #[test]
    fn a_new_connection_that_breaks_is_reported_and_the_request_not_repeated() {
        let (outcome, asked) = outcome(Reply::Close);
        assert!(is_connection(&outcome), "{outcome:?}");
        assert_eq!(asked, 1);
        suite::run(async {
            let responder = Responder::resetting();
            let outcome = connect(&responder).call(suite::heartbeat(17)).await;
            assert!(is_connection(&outcome), "{outcome:?}");
            assert_eq!(responder.connections(), 1);
        });
    }

    #[test]
    fn a_kept_connection_that_was_closed_is_not_noticed_by_callers() {
        suite::run(async {
            // The second request of each connection is read and not answered: no check of the
            // connection before the request can see that coming.
            let responder = Responder::start(|asked: Asked| match asked.nth {
                0 => Reply::Answer(good(17)),
                _ => Reply::Close,
            });
            let transport = connect(&responder);
            for connections in 1..4 {
                assert_eq!(
                    transport.call(suite::heartbeat(17)).await,
                    Ok(suite::taken(17))
                );
                assert_eq!(responder.connections(), connections);
            }
            assert_eq!(responder.asked(), 5);
        });
    }

    #[test]
    fn a_request_is_repeated_once_and_no_more() {
        suite::run(async {
            let responder = Responder::start(|asked: Asked| match (asked.connection, asked.nth) {
                (0, 0) => Reply::Answer(good(17)),
                _ => Reply::Close,
            });
            let transport = connect(&responder);
            assert!(transport.call(suite::heartbeat(17)).await.is_ok());
            let outcome = transport.call(suite::heartbeat(17)).await;
            assert!(is_connection(&outcome), "{outcome:?}");
            assert_eq!((responder.asked(), responder.connections()), (3, 2));
        });
    }

    #[test]
    fn a_call_that_is_dropped_closes_its_connection() {
        suite::run(async {
            let fake = StandIn::new();
            let responder = Responder::serving(fake.clone());
            let transport = connect(&responder);
            let mut call = transport.call(suite::held_heartbeat(1));
            suite::meanwhile(&mut call, fake.has_arrived(1)).await;
            drop(call);
            fake.let_go();
            responder.all_closed().await;
        });
    }

    #[test]
    fn a_url_or_a_token_that_cannot_work_fails_calls_and_says_why() {
        suite::run(async {
            let urls = [
                "",
                "localhost:5001",
                "http://",
                "https://localhost:5001",
                "ftp://a",
                "http://a b",
            ];
            for url in urls {
                let network = HttpNetwork::new(HttpOptions::default());
                let transport = network.connect(&peer(url.to_owned()));
                let error = transport.call(suite::heartbeat(1)).await.unwrap_err();
                assert!(error.to_string().contains("bad URL"), "{url}: {error}");
            }
            for token in ["", "a\nb", " a", "ü"] {
                let options = HttpOptions {
                    token: Some(token.to_owned()),
                    ..HttpOptions::default()
                };
                assert!(options.validate().is_err(), "{token:?}");
                let transport = HttpNetwork::new(options).connect(&peer("http://a".to_owned()));
                let error = transport.call(suite::heartbeat(1)).await.unwrap_err();
                assert!(error.to_string().contains("token"), "{error}");
            }
            // A label that no resolver takes, so that nobody outside is asked.
            let unknown = peer(format!("http://{}:1", "a".repeat(64)));
            let transport = HttpNetwork::new(HttpOptions::default()).connect(&unknown);
            assert!(is_connection(&transport.call(suite::heartbeat(1)).await));
        });
    }

    #[test]
    fn connections_do_not_wait_for_acknowledgements() {
        suite::run(async {
            let responder = Responder::start(|_| Reply::Close);
            let uri: Uri = responder.url().parse().unwrap();
            let connection = tcp_connector().call(ConnectInfo::new(uri)).await.unwrap();
            assert!(connection.io_ref().nodelay().unwrap());
        });
    }

    #[test]
    fn options_do_not_show_their_token() {
        let options = HttpOptions {
            token: Some("hunter2".to_owned()),
            ..HttpOptions::default()
        };
        assert!(!format!("{:?}", HttpNetwork::new(options)).contains("hunter2"));
    }

    #[test]
    fn only_the_right_token_is_accepted() {
        let table = [
            (Some("Bearer secret"), true),
            (Some("bearer secret"), true),
            (Some("Bearer  secret "), true),
            (Some("Bearer secre"), false),
            (Some("Bearer secrets"), false),
            (Some("Bearer Secret"), false),
            (Some("Basic secret"), false),
            (Some("secret"), false),
            (Some("Bearer"), false),
            (Some("Bearer "), false),
            (Some(""), false),
            (None, false),
        ];
        for (header, accepted) in table {
            assert_eq!(accepts_token("secret", header), accepted, "{header:?}");
        }
        assert!(!accepts_token("", Some("Bearer ")));
    }
}

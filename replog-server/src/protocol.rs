//! Requirements of HTTP/1 for every request and answer that the web server's crate leaves to others.
//!
//! Owns one step around all routes. `Host` is checked before any of them (RFC 9112, section 3.2). A request to upgrade
//! is ignored, since no route speaks another protocol (RFC 9110, section 7.8): that crate would take the bytes after
//! its head for an endless body. An answer to HEAD is the one to GET without its body (RFC 9110, section 9.3.2). An
//! answer of unknown length to an HTTP/1.0 client ends with the connection (RFC 9112, section 6.1).

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_http::{ConnectionType, Payload};
use actix_web::{
    Error, HttpMessage as _,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    error::PayloadError,
    http::{
        Method, Version,
        header::{self, HeaderMap},
    },
    middleware::Next,
    web,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};

use crate::{
    accept::Form,
    client_socket::{Answering, Probe, ReadAhead},
    connections::OpenConnection,
    node::NodeState,
    origin,
    problem::Problem,
};

/// Serves a request according to HTTP/1.
///
/// # Errors
///
/// Those of the routes.
pub(crate) async fn serve(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    // There is none if a request does not arrive over a socket, as in tests.
    let connection = request.conn_data::<Rc<OpenConnection>>().cloned();
    let Some(connection) = connection else {
        return answer(request, next).await;
    };
    let probe = match request.version() >= Version::HTTP_11 {
        true => Probe::Interim,
        false => Probe::None,
    };
    let answering = ReadAhead::answer(&connection, probe);
    let request_body = watch_body(&mut request, connection);
    let response = answer(request, next).await?;
    let sign = sign_in(&response);
    answering.read_ahead().set_probe(match sign {
        Some(_) => Probe::InBody,
        None => Probe::None,
    });
    Ok(response.map_body(|_, body| {
        BoxBody::new(Answer {
            body,
            sign,
            answering,
            _request_body: request_body,
        })
    }))
}

/// Returns the sign of life that may stand between two parts of this body and means nothing to its reader.
fn sign_in(response: &ServiceResponse<BoxBody>) -> Option<&'static str> {
    if response.response().body().size() != BodySize::Stream {
        return None;
    }
    let form = response
        .headers()
        .get(header::CONTENT_TYPE)?
        .to_str()
        .ok()?;
    [Form::Ndjson, Form::Events]
        .into_iter()
        .find(|known| known.media_type() == form)
        .map(Form::sign)
}

async fn answer(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if let Err(problem) = check_host(&request) {
        let mut refused = problem.response();
        // Its body was not read.
        refused
            .head_mut()
            .set_connection_type(ConnectionType::Close);
        return Ok(request.into_response(refused));
    }
    let traits = RequestTraits::of(&request);
    if traits.has_endless_body {
        bound_body(&mut request);
    }
    let mut response = next.call(request).await?.map_into_boxed_body();
    traits.finish(&mut response);
    match traits.is_head {
        true => Ok(response.map_body(|_, body| BoxBody::new(NoBody(body.size())))),
        false => Ok(response),
    }
}

/// The body of an answer; once it is sent, the next request of its connection is read.
struct Answer {
    body: BoxBody,
    /// The sign of life that shows whether the client is there.
    sign: Option<&'static str>,
    answering: Answering,
    /// The body of the request, which may not have been read to its end. If it were dropped before the answer is sent,
    /// that crate would wait for the end of a chunked one, without any limit. It now closes the connection instead.
    _request_body: Option<Rc<RefCell<Payload>>>,
}

impl MessageBody for Answer {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let part = Pin::new(&mut self.body).poll_next(cx);
        match self.sign {
            Some(sign) if part.is_pending() && self.answering.read_ahead().take_sign() => {
                Poll::Ready(Some(Ok(Bytes::from_static(sign.as_bytes()))))
            }
            _ => part,
        }
    }
}

/// Lets the connection be read on while the handler waits for the body of its request. Returns the body, if there is
/// one.
fn watch_body(
    request: &mut ServiceRequest,
    connection: Rc<OpenConnection>,
) -> Option<Rc<RefCell<Payload>>> {
    let payload = match request.take_payload() {
        Payload::None => return None,
        payload => Rc::new(RefCell::new(payload)),
    };
    let read = Rc::clone(&payload);
    let watched = stream::poll_fn(move |cx| {
        let chunk = read.borrow_mut().poll_next_unpin(cx);
        connection.read_ahead.note_body(chunk.is_pending(), cx);
        chunk
    });
    request.set_payload(Payload::Stream {
        payload: watched.boxed_local(),
    });
    Some(payload)
}

/// Properties of a request that decide the form of its answer.
#[derive(Clone, Copy, Debug)]
struct RequestTraits {
    is_head: bool,
    is_http_1_0: bool,
    /// The request asks for another protocol.
    is_upgrade: bool,
    /// The web server's crate found no end of the request's body.
    has_endless_body: bool,
}

impl RequestTraits {
    fn of(request: &ServiceRequest) -> RequestTraits {
        RequestTraits {
            is_head: request.method() == Method::HEAD,
            is_http_1_0: request.version() < Version::HTTP_11,
            is_upgrade: request.head().connection_type() == ConnectionType::Upgrade,
            has_endless_body: is_taken_for_web_socket(request.headers()),
        }
    }

    fn finish(self, response: &mut ServiceResponse<BoxBody>) {
        let is_endless = response.response().body().size() == BodySize::Stream;
        let head = response.response_mut().head_mut();
        if is_endless && (self.is_http_1_0 || self.has_endless_body) {
            head.no_chunking(true);
            head.set_connection_type(ConnectionType::Close);
        }
        if self.is_upgrade || self.has_endless_body {
            // That crate does not know where the next request begins.
            head.set_connection_type(ConnectionType::Close);
        }
    }
}

/// Returns `true` if the web server's crate takes the request for a WebSocket one: by any such `Upgrade`, if the body
/// is not chunked.
fn is_taken_for_web_socket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(header::UPGRADE);
    let wanted = upgrades.any(|value| {
        value
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"websocket")
    });
    wanted && !headers.contains_key(header::TRANSFER_ENCODING)
}

/// Ends the body at its announced length.
fn bound_body(request: &mut ServiceRequest) {
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .unwrap_or(0);
    let payload = match (announced, request.take_payload()) {
        (0, _) => Payload::None,
        (announced, payload) => Payload::Stream {
            payload: first_bytes(payload, announced).boxed_local(),
        },
    };
    request.set_payload(payload);
}

fn first_bytes(payload: Payload, count: u64) -> impl Stream<Item = Result<Bytes, PayloadError>> {
    stream::unfold((payload, count), |(mut payload, left)| async move {
        if left == 0 {
            return None;
        }
        let mut chunk = match payload.next().await? {
            Ok(chunk) => chunk,
            Err(error) => return Some((Err(error), (payload, 0))),
        };
        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - chunk.len() as u64;
        Some((Ok(chunk), (payload, left)))
    })
}

/// A body that is not sent: only its size is.
struct NoBody(BodySize);

impl MessageBody for NoBody {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        self.0
    }

    fn poll_next(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(None)
    }
}

/// Refuses a malformed `Host`, and one that is not a name of this node.
fn check_host(request: &ServiceRequest) -> Result<(), Problem> {
    let Some(given) = request.headers().get(header::HOST) else {
        return Ok(());
    };
    let Some(host) = host_of(given.as_bytes()) else {
        return Err(Problem::malformed(
            "the header Host is not a name or address with an optional port",
        ));
    };
    let state = request.app_data::<web::Data<NodeState>>();
    match state {
        Some(state) if !host.is_empty() => origin::check_host(host, state.names()),
        _ => Ok(()),
    }
}

/// Returns the name or address in a `Host`, without its port; empty if it names none, `None` if it is malformed (RFC
/// 9110, section 7.2; RFC 3986, section 3.2.2).
fn host_of(value: &[u8]) -> Option<&str> {
    let value = std::str::from_utf8(value).ok()?;
    let (host, port) = match value.strip_prefix('[') {
        Some(rest) => {
            let (address, behind) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (&value[..address.len() + 2], behind)
        }
        None => {
            let end = value.find(':').unwrap_or(value.len());
            let (host, port) = value.split_at(end);
            let is_name =
                |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte);
            if !host.bytes().all(is_name) {
                return None;
            }
            (host, port)
        }
    };
    let is_port = match port.strip_prefix(':') {
        Some("") => true,
        Some(number) => {
            number.bytes().all(|byte| byte.is_ascii_digit()) && number.parse::<u16>().is_ok()
        }
        None => port.is_empty(),
    };
    is_port.then_some(host)
}

/// Returns the address in a host, if it is one.
pub(crate) fn address_of(host: &str) -> Option<IpAddr> {
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    address.unwrap_or(host).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_a_port_or_without() {
        let table: [(&str, Option<&str>); 20] = [
            ("localhost", Some("localhost")),
            ("localhost:5000", Some("localhost")),
            ("localhost:", Some("localhost")),
            ("10.0.0.1:80", Some("10.0.0.1")),
            ("[::1]:5000", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("a_b-c.example", Some("a_b-c.example")),
            ("", Some("")),
            ("a b/c@d", None),
            ("a@b", None),
            ("a/b", None),
            ("a?b", None),
            ("a#b", None),
            ("a\\b", None),
            ("a:b", None),
            ("a:65536", None),
            ("a:-1", None),
            ("[::1", None),
            ("[::1]5000", None),
            ("[1.2.3.4]", None),
        ];
        for (value, expected) in table {
            assert_eq!(host_of(value.as_bytes()), expected, "{value}");
        }
        assert_eq!(host_of(b"\xff"), None);
    }

    #[actix_web::test]
    async fn a_body_ends_at_its_announced_length() {
        let chunks = ["12", "345", "GET / HTTP/1.1"];
        for (count, expected) in [(0, ""), (2, "12"), (4, "1234"), (5, "12345")] {
            let payload = Payload::Stream {
                payload: stream::iter(chunks.map(|part| Ok(Bytes::from(part)))).boxed_local(),
            };
            let parts: Vec<Bytes> = first_bytes(payload, count)
                .map(|chunk| chunk.expect("no error"))
                .collect()
                .await;
            assert_eq!(parts.concat(), expected.as_bytes(), "{count}");
        }
    }
}

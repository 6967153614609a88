//! The one path between nodes: bytes in, bytes out.
//!
//! Owns the token's check and the limits on what another node may send. What a request means is
//! the library's business.

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, MessageBody},
    http::{StatusCode, header},
    web,
};
use bytes::Bytes;
use replog_core::{
    Secondary,
    limits::BATCH_BYTES_MAX,
    transport::{FaultInjector, Request, Response, TransportError, accepts_token, wire},
};
use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{
    args::Token,
    body::{self, BodyLimits},
    node::{Node, NodeState},
    problem::{Kind, Problem},
    routes::State,
};

/// Limits on the body of another node: the longest that the protocol has.
const LIMITS: BodyLimits = BodyLimits {
    keep_bytes: wire::BODY_BYTES_MAX,
    drain_bytes: wire::BODY_BYTES_MAX,
    // A batch and what is around it.
    room_bytes: 2 * BATCH_BYTES_MAX,
};

/// Answers another node.
pub(crate) async fn serve(
    state: State,
    request: HttpRequest,
    mut payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let state: &NodeState = &state;
    let secondary = admit(state, &request)?;
    let body = body::read(&request, &mut payload, LIMITS, &state.replication_budget).await?;
    let message = wire::decode_request(body).map_err(|error| {
        log::debug!("a replication request was refused: {error}");
        Problem::malformed(format!("not a request of this protocol: {error}"))
    })?;
    match answer(secondary, state.faults.as_ref(), message).await {
        Ok(response) => Ok(HttpResponse::Ok()
            .content_type(wire::CONTENT_TYPE)
            .body(Parts::new(wire::encode_response(&response)))),
        Err(error) => Err(not_served(&error)),
    }
}

/// The secondary here, for a node that may speak to it.
pub(super) fn admit<'a>(
    state: &'a NodeState,
    request: &HttpRequest,
) -> Result<&'a Secondary, Problem> {
    check_token(state, request)?;
    match &state.node {
        Node::Secondary(secondary) => Ok(secondary),
        Node::Master(_) => {
            let text = "this node is a master, and takes no requests of another one";
            Err(Problem::new(Kind::NotMaster, text))
        }
    }
}

/// What the node answers, with the faults that are set.
pub(super) async fn answer(
    secondary: &Secondary,
    faults: Option<&FaultInjector>,
    request: Request,
) -> Result<Response, TransportError> {
    match faults {
        Some(faults) => {
            faults
                .serve(request, |request| secondary.serve(request))
                .await
        }
        None => secondary.serve(request).await.map_err(TransportError::from),
    }
}

/// The status for what was not served.
pub(super) fn status_of(error: &TransportError) -> u16 {
    match error {
        TransportError::HttpStatus(status) => *status,
        // The node behind the route has ended.
        _ => StatusCode::SERVICE_UNAVAILABLE.as_u16(),
    }
}

/// Refuses who does not show the cluster's token.
fn check_token(state: &NodeState, request: &HttpRequest) -> Result<(), Problem> {
    let Some(token) = state.token.as_ref().map(Token::reveal) else {
        return Ok(());
    };
    let shown = request.headers().get(header::AUTHORIZATION);
    if accepts_token(token, shown.and_then(|value| value.to_str().ok())) {
        return Ok(());
    }
    log::debug!("a replication request without the cluster's token was refused");
    let challenge = header::HeaderValue::from_static("Bearer");
    Err(Problem::new(
        Kind::Unauthorized,
        "start both nodes with the same --cluster-token",
    )
    .header(header::WWW_AUTHENTICATE, challenge))
}

fn not_served(error: &TransportError) -> Problem {
    match error {
        TransportError::HttpStatus(status) => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Problem::new(
                Kind::Injected(status),
                "this node was told to fail, by /faults",
            )
        }
        // The node behind the route has ended.
        _ => Problem::new(Kind::Stopping, "the node is stopping").retry_after(),
    }
}

/// A body in several parts: the log's own buffers are sent as they are, not joined first.
struct Parts {
    parts: VecDeque<Bytes>,
    left_bytes: u64,
}

impl Parts {
    fn new(parts: Vec<Bytes>) -> Parts {
        let left_bytes = parts.iter().map(|part| part.len() as u64).sum();
        Parts {
            parts: parts.into(),
            left_bytes,
        }
    }
}

impl MessageBody for Parts {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.left_bytes)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let part = self.parts.pop_front();
        self.left_bytes -= part.as_ref().map_or(0, |part| part.len() as u64);
        Poll::Ready(part.map(Ok))
    }
}

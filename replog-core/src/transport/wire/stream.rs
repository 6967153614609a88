//! Requests and answers on a *stream*: a connection that one master keeps to one node, on which
//! many requests are under way at once.
//!
//! Owns what is around a message there. A stream is a WebSocket (RFC 6455) at [`PATH`] that speaks
//! the subprotocol [`PROTOCOL`]; one WebSocket message is one request or one answer, in any order.
//! It saves what an HTTP request costs beside its body, which for a batch of a few records is most
//! of it. A node that does not know of streams answers the upgrade with an error, and is sent the
//! same requests by POST.
//!
//! | bytes | field of a request |
//! | --- | --- |
//! | 8 | its number on this stream, little-endian; the answer has it too |
//! | | the request, as in the body of a POST |
//!
//! | bytes | field of an answer |
//! | --- | --- |
//! | 8 | the number of the request |
//! | 2 | the status that a POST would have been answered with, little-endian |
//! | | where that is 200 the response, as in the body of an answer to a POST |
//!
//! A request may come in fragments. The first holds all but the records, each other one a batch of
//! them as it lies in the log: so they are copied together at neither end.

use bytes::Bytes;

use super::{
    WireError, decode_request_parts, decode_response, encode_request_behind, encode_response_behind,
};
use crate::transport::{
    TransportError,
    message::{Request, Response},
};

/// Where a node takes streams, below its URL.
pub const PATH: &str = "/replication/v1/stream";

/// The WebSocket subprotocol.
pub const PROTOCOL: &str = "replog.replication.v1";

/// Before a request.
const NUMBER_BYTES: usize = 8;
/// Before an answer.
const ANSWER_FRONT_BYTES: usize = NUMBER_BYTES + 2;
const OK: u16 = 200;

/// A request as the fragments of one WebSocket message.
#[must_use]
pub fn encode_request(number: u64, request: &Request) -> Vec<Bytes> {
    encode_request_behind(&number.to_le_bytes(), request)
}

/// Reads a request out of the fragments of one message: its number, and itself.
///
/// # Errors
///
/// [`WireError::Truncated`] where not even the number is there; any [`WireError`] beside the number
/// where the rest is no request.
pub fn decode_request(
    head: &Bytes,
    parts: Vec<Bytes>,
) -> Result<(u64, Result<Request, WireError>), WireError> {
    let (number, _) = number(head)?;
    let head = head.slice(NUMBER_BYTES..);
    Ok((number, decode_request_parts(&head, parts)))
}

/// An answer as one WebSocket message: a response, or the HTTP status instead of one.
#[must_use]
pub fn encode_answer(number: u64, answer: Result<&Response, u16>) -> Bytes {
    let front = |status: u16| {
        let mut front = [0; ANSWER_FRONT_BYTES];
        front[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
        front[NUMBER_BYTES..].copy_from_slice(&status.to_le_bytes());
        front
    };
    match answer {
        Ok(response) => {
            let mut parts = encode_response_behind(&front(OK), response);
            match parts.len() {
                1 => parts.remove(0),
                // Records: no answer to an append has any.
                _ => parts.concat().into(),
            }
        }
        Err(status) => Bytes::copy_from_slice(&front(status)),
    }
}

/// Reads an answer: the number of the request, and what a call comes to.
///
/// # Errors
///
/// [`WireError::Truncated`] where number or status are not there.
pub fn decode_answer(
    message: &Bytes,
) -> Result<(u64, Result<Response, TransportError>), WireError> {
    let (number, behind) = number(message)?;
    let Some((status, _)) = behind.split_first_chunk() else {
        return Err(WireError::Truncated {
            needed: ANSWER_FRONT_BYTES,
            have: message.len(),
        });
    };
    let outcome = match u16::from_le_bytes(*status) {
        OK => decode_response(message.slice(ANSWER_FRONT_BYTES..))
            .map_err(|error| TransportError::BadAnswer(error.to_string())),
        status => Err(TransportError::HttpStatus(status)),
    };
    Ok((number, outcome))
}

fn number(bytes: &[u8]) -> Result<(u64, &[u8]), WireError> {
    match bytes.split_first_chunk() {
        Some((number, behind)) => Ok((u64::from_le_bytes(*number), behind)),
        None => Err(WireError::Truncated {
            needed: NUMBER_BYTES,
            have: bytes.len(),
        }),
    }
}

//! `POST /messages` with NDJSON: the messages of a batch are one append.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use replog_core::{
    AppendOptions, Concern, IdempotencyKey, Master, MessageBatch, error::LimitName,
    frame::MESSAGE_HEADER_BYTES,
};

use crate::{
    append_lines::{self, Encoding, LineLimits, LinesError},
    body,
    node::NodeState,
    problem::{Kind, Problem},
    query::Query,
    routes::{
        json_body,
        messages::{answer, enter},
    },
    shares::Client,
    telemetry,
    words::counted,
};

/// Larger bodies are parsed off the thread that serves other clients too.
const PARSED_AT_ONCE_BYTES: usize = 256 << 10;

/// The options of a batch.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) key: Option<IdempotencyKey>,
    pub(super) concern: Concern,
    pub(super) timeout: Option<Duration>,
    pub(super) encoding: Encoding,
}

impl Options {
    /// Returns the options in the query.
    pub(super) fn of(request: &HttpRequest) -> Result<Options, Problem> {
        let known = ["concern", "timeout_ms", "idempotency_key", "encoding"];
        let query = Query::of(request, &known)?;
        Ok(Options {
            key: query.idempotency_key()?,
            concern: query.concern()?.unwrap_or_default(),
            timeout: query.timeout()?,
            encoding: query
                .word("encoding", &[("base64", Encoding::Base64)])?
                .unwrap_or_default(),
        })
    }
}

/// Appends the messages of the body and waits for their concern.
pub(super) async fn append(
    state: &NodeState,
    master: &Master,
    request: &HttpRequest,
    mut payload: web::Payload,
    asked: Options,
) -> Result<HttpResponse, Problem> {
    let limits = state.batch_limits;
    let body = body::read(request, &mut payload, limits, &state.append_budget)
        .await
        .map_err(Problem::not_appended)?;
    let batch = parse(body, asked.encoding, state.line_limits)
        .await
        .map_err(Problem::not_appended)?;
    let Options {
        key,
        concern,
        timeout,
        encoding: _,
    } = asked;
    let _entered = enter(
        state,
        Client::at(request.peer_addr()),
        concern,
        key.is_some(),
    )?;
    let mut options = AppendOptions::concern(concern);
    options.timeout = timeout.or(state.append_timeout);
    options.idempotency_key = key;
    let appended = master.append_batch(batch, options);
    let receipt = telemetry::within(request.headers(), appended).await?;
    let mut response = answer(receipt.concern_met, receipt.replayed, receipt.first_offset);
    Ok(json_body(&mut response, &receipt))
}

/// Parses the lines. Only the resulting messages of the body are kept.
async fn parse(
    body: Bytes,
    encoding: Encoding,
    limits: LineLimits,
) -> Result<MessageBatch, Problem> {
    let parsed = if body.len() <= PARSED_AT_ONCE_BYTES {
        append_lines::parse(&body, encoding, limits)
    } else {
        web::block(move || append_lines::parse(&body, encoding, limits))
            .await
            .map_err(|_| Problem::no_more_appends())?
    };
    parsed.map_err(|error| match error {
        LinesError::Malformed(what) => Problem::malformed(what),
        LinesError::TooLong { line } => {
            let what = format!("line {line}");
            Problem::too_large(what, LimitName::MaxMessageBytes, limits.line_bytes)
        }
        LinesError::TooMuch { line } => {
            let (limit, limit_bytes) = (LimitName::MaxRequestBytes, limits.append_bytes);
            let detail = format!(
                "with line {line} the batch has more than the {} that one append may have ({limit}): each message \
                 counts with {MESSAGE_HEADER_BYTES} bytes more",
                counted(limit_bytes, "byte")
            );
            Problem::new(Kind::TooLarge, detail).limit_bytes(limit, limit_bytes)
        }
        LinesError::NeverQueued => {
            let limit = LimitName::MaxQueuedBytes.as_str();
            // A batch of this size is never accepted, however long it waits.
            Problem::overloaded(limit, limits.queued_bytes as u64).member("retriable", false)
        }
    })
}

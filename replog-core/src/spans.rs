//! Tracing of a master: a `tracing` span for each append, and one for each request of a link.
//!
//! Owns the names of spans and fields. None contains a payload or an idempotency key. A link's heartbeats
//! have no spans: they are sent all the time. Without the feature `spans` nothing is created, at no cost;
//! with it, a subscriber must enable spans of this module at the level `TRACE`, which keeps them out of log
//! lines. Fields that begin with `otel.` are for `tracing-opentelemetry`.

use tracing::{Span, field, trace_span};

use crate::{
    error::AppendError,
    handle::AppendOptions,
    transport::{RequestBody, Response, TransportError},
    types::{Epoch, NodeName},
    views::Receipt,
};

/// An append from its hand-over to its answer. If dropped before that, as when its caller is gone, it ends
/// there.
///
/// Its parent is the tracer's current context at its beginning.
#[derive(Debug)]
pub(crate) struct AppendSpan(Span);

impl AppendSpan {
    /// Starts the span of an append of `count` messages that take `bytes` bytes while they are queued.
    pub(crate) fn begin(
        node: &NodeName,
        count: u64,
        bytes: usize,
        options: &AppendOptions,
    ) -> AppendSpan {
        if !cfg!(feature = "spans") {
            return AppendSpan(Span::none());
        }
        AppendSpan(trace_span!(
            "append",
            "otel.kind" = "server",
            "otel.status_code" = field::Empty,
            "otel.status_description" = field::Empty,
            node = node.as_str(),
            count,
            bytes,
            concern = %options.concern,
            offset = field::Empty,
            epoch = field::Empty,
            concern_met = field::Empty,
            replayed = field::Empty,
        ))
    }

    pub(crate) fn end(self, result: &Result<Receipt, AppendError>) {
        let AppendSpan(span) = self;
        if span.is_none() {
            return;
        }
        match result {
            Ok(receipt) => {
                span.record("offset", receipt.offset.0);
                span.record("epoch", receipt.epoch.0);
                span.record("concern_met", receipt.concern_met);
                span.record("replayed", receipt.replayed);
            }
            Err(error) => {
                if let Some(offset) = error.offset() {
                    span.record("offset", offset.0);
                }
                fail(&span, error);
            }
        }
    }
}

/// A request of a link from its sending to its answer.
#[derive(Debug)]
pub(crate) struct AttemptSpan(Span);

impl AttemptSpan {
    pub(crate) fn begin(
        secondary: &NodeName,
        attempt: u64,
        epoch: Epoch,
        body: &RequestBody,
    ) -> AttemptSpan {
        let request = match body {
            RequestBody::Heartbeat(_) => return AttemptSpan(Span::none()),
            _ if !cfg!(feature = "spans") => return AttemptSpan(Span::none()),
            RequestBody::Identify => "identify",
            RequestBody::Promise(_) => "promise",
            RequestBody::Hello(_) => "hello",
            RequestBody::Append(_) => "append",
            RequestBody::Fetch(_) => "fetch",
        };
        let span = trace_span!(
            // One request holds records of many appends, so it has no parent.
            parent: None,
            "link attempt",
            "otel.kind" = "client",
            "otel.status_code" = field::Empty,
            "otel.status_description" = field::Empty,
            secondary = secondary.as_str(),
            attempt,
            epoch = epoch.0,
            request,
            first_offset = field::Empty,
            end_offset = field::Empty,
            bytes = field::Empty,
        );
        if let RequestBody::Append(append) = body
            && let (Some(first), Some(last)) = (append.records.first(), append.records.last())
        {
            let bytes: usize = append.records.iter().map(|batch| batch.bytes().len()).sum();
            span.record("first_offset", first.first().0);
            span.record("end_offset", last.end().0);
            span.record("bytes", bytes);
        }
        AttemptSpan(span)
    }

    pub(crate) fn end(self, result: &Result<Response, TransportError>) {
        let AttemptSpan(span) = self;
        if let Err(error) = result
            && !span.is_none()
        {
            fail(&span, error);
        }
    }
}

fn fail(span: &Span, error: &dyn std::fmt::Display) {
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", field::display(error));
}

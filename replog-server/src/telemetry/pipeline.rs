//! The library's spans, sent to a collector over HTTP.
//!
//! Owns the pipeline from spans to the collector, and its end. The exporter has a thread of its own and a bounded
//! queue; spans beyond its limit are dropped, and nothing in a node waits for a collector. Its failures are reported as
//! log lines. Everything is set by the standard variables of OpenTelemetry.

use std::{env, sync::OnceLock, time::Duration};

use actix_web::http::header::HeaderMap;
use opentelemetry::{
    Context, KeyValue,
    context::FutureExt as _,
    propagation::{Extractor, TextMapPropagator as _},
    trace::TracerProvider as _,
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource, propagation::TraceContextPropagator, resource::EnvResourceDetector,
    trace::SdkTracerProvider,
};
use tracing_subscriber::{Layer as _, filter::filter_fn, layer::SubscriberExt as _};

use super::{is_set, wanted_by};

/// Default service name, without `OTEL_SERVICE_NAME`.
const SERVICE_NAME: &str = "replog";
/// Target of the library's spans: nothing else is sent.
const SPANS: &str = "replog_core::spans";
/// Variables that set the protocol, in order: the first that is set wins.
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
/// Time limit for sending the last spans: a collector that hangs must not keep a node from stopping within the time
/// that container engines wait.
const LAST_SPANS_TIME_MAX: Duration = Duration::from_secs(2);

/// The pipeline, once started.
static PIPELINE: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Sends spans from now on, if the environment names a collector.
///
/// # Errors
///
/// If the environment's settings cannot be followed.
pub(crate) fn start() -> Result<(), String> {
    if wanted_by().is_none() {
        return Ok(());
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(protocol()?)
        .build()
        .map_err(|error| format!("OpenTelemetry: {error}"))?;
    let provider = SdkTracerProvider::builder()
        .with_resource(resource())
        .with_batch_exporter(exporter)
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(SERVICE_NAME))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(|metadata| {
            metadata.is_span() && metadata.target() == SPANS
        }));
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|error| format!("OpenTelemetry: {error}"))?;
    log::info!("spans are sent to a collector");
    // Nothing else sets it: the subscriber was the first.
    let _ = PIPELINE.set(provider);
    Ok(())
}

/// Sends the spans that have not been sent yet, and ends the pipeline.
pub(crate) fn end() {
    if let Some(provider) = PIPELINE.get()
        && let Err(error) = provider.shutdown_with_timeout(LAST_SPANS_TIME_MAX)
    {
        log::warn!("the last spans were not sent: {error}");
    }
}

/// Makes the work of `future` a part of the trace that a request's `traceparent` names.
pub(crate) fn within<F: Future>(headers: &HeaderMap, future: F) -> impl Future<Output = F::Output> {
    let context = match PIPELINE.get() {
        Some(_) => TraceContextPropagator::new().extract(&Headers(headers)),
        None => Context::new(),
    };
    future.with_context(context)
}

/// Returns the protocol for spans: by default the one that the specification recommends.
fn protocol() -> Result<Protocol, String> {
    let Some(name) = PROTOCOLS.into_iter().find(|name| is_set(name)) else {
        return Ok(Protocol::HttpBinary);
    };
    let value = env::var_os(name).unwrap_or_default();
    match value.to_str() {
        Some("http/protobuf") => Ok(Protocol::HttpBinary),
        Some("http/json") => Ok(Protocol::HttpJson),
        _ => Err(format!(
            "{name}: expected http/protobuf or http/json, not {value:?}"
        )),
    }
}

/// Returns the sender's attributes: from `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, and by default those of
/// this program.
fn resource() -> Resource {
    // The last value of an attribute wins.
    let resource = Resource::builder_empty()
        .with_service_name(SERVICE_NAME)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => resource.with_service_name(name).build(),
        _ => resource.build(),
    }
}

/// The headers of a request, from which a trace is extracted.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

//! OpenTelemetry, in a program built with the feature `otel`. In any other: nothing, at no cost.

#[cfg(not(feature = "otel"))]
mod absent;
#[cfg(feature = "otel")]
mod pipeline;

use std::env;

#[cfg(not(feature = "otel"))]
pub(crate) use absent::{end, start, within};
#[cfg(feature = "otel")]
pub(crate) use pipeline::{end, start, within};

/// Variables that name a collector.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
];

/// Returns the variable that names a collector, if spans are to be sent to one.
fn wanted_by() -> Option<&'static str> {
    let says = |name: &str, word: &str| {
        env::var(name).is_ok_and(|value| value.trim().eq_ignore_ascii_case(word))
    };
    let named = ENDPOINTS.into_iter().find(|name| is_set(name));
    named.filter(|_| !says("OTEL_SDK_DISABLED", "true") && !says("OTEL_TRACES_EXPORTER", "none"))
}

fn is_set(name: &str) -> bool {
    env::var_os(name).is_some_and(|value| !value.is_empty())
}

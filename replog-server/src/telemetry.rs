//! OpenTelemetry, in a program that is built with the feature `otel`. In every other: nothing, at no cost.

#[cfg(not(feature = "otel"))]
mod absent;
#[cfg(feature = "otel")]
mod pipeline;

#[cfg(not(feature = "otel"))]
pub(crate) use absent::{end, start, within};
#[cfg(feature = "otel")]
pub(crate) use pipeline::{end, start, within};

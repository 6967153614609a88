//! Stand-in for the pipeline of spans, in a program built without it.

use actix_web::http::header::HeaderMap;

use super::wanted_by;

/// Starts nothing, and warns if the environment asks for spans.
#[expect(clippy::unnecessary_wraps, reason = "with a pipeline it may fail")]
pub(crate) fn start() -> Result<(), String> {
    if let Some(name) = wanted_by() {
        log::warn!(
            "{name} is set, and no spans are sent: this program was built without the feature otel"
        );
    }
    Ok(())
}

/// Does nothing.
pub(crate) fn end() {}

/// Returns the future unchanged.
pub(crate) fn within<F: Future>(_: &HeaderMap, future: F) -> F {
    future
}

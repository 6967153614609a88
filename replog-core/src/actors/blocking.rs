//! Work that may block, off the actors' thread: the only way for an actor to read files.

use std::sync::Arc;

use crate::{
    error::ReadError,
    handle::host::{self, Host},
};

/// Runs work that may block off the actor's thread; an error becomes its text.
pub(super) async fn blocking<T: Send + 'static>(
    host: Arc<dyn Host>,
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, String> {
    match host::off_thread(&host, work).await {
        Some(done) => done.map_err(|error| error.to_string()),
        None => Err("the node is shutting down".to_owned()),
    }
}

//! Work that may block, off the actors' thread.
//!
//! The one way by which an actor reads files: whoever brings threads of another kind changes
//! this and nothing else.

use crate::error::ReadError;

/// Runs what may block off the actor's thread; an error becomes its text.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

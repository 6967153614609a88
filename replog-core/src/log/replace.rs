//! How a small file is replaced as a whole: written anew, synced, renamed, directory synced.

use std::io::IoSlice;

use super::LogError;
use crate::storage::{OpenHow, Storage};

/// Puts `bytes` in place of the file at `path`, by way of `path_new`, both in the node's directory.
/// When this returns, they are durable.
///
/// # Errors
///
/// What the storage says. After [`LogError::Write`] the file before is still in its place; else it
/// is not known which of the two the next start will find.
pub(super) fn replace(
    storage: &dyn Storage,
    path: &str,
    path_new: &str,
    bytes: &[u8],
) -> Result<(), LogError> {
    let file = storage
        .open(path_new, OpenHow::Truncated)
        .map_err(LogError::Write)?;
    file.append(&[IoSlice::new(bytes)])
        .map_err(LogError::Write)?;
    file.sync()?;
    storage.rename(path_new, path).map_err(LogError::Write)?;
    storage.sync_dir("")?;
    Ok(())
}

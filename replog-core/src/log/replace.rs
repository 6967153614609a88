//! Atomic replacement of a small file: write a new file, sync, rename, sync the directory.

use std::io::IoSlice;

use super::LogError;
use crate::storage::{OpenHow, Storage};

/// Replaces the content of the file at `path` with `bytes`, by way of `path_new`; both are in the
/// node's directory. When this returns, the new content is durable.
///
/// # Errors
///
/// The storage's. After [`LogError::Write`] the old file is still in place; otherwise it is not
/// known which of the two the next start will find.
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

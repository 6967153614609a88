//! The file `keys`: a snapshot of the keys in the log, written by a clean stop.
//!
//! Owns the replacement of the file, not its content. The same can always be read from the log, so
//! a missing or unreadable file only costs time at the next start.

use std::io;

use super::replace::replace;
use crate::storage::{Storage, read_file};

/// Path of the file.
pub(super) const PATH: &str = "keys";
/// Path of the next version, until it replaces the file.
pub(super) const PATH_NEW: &str = "keys.new";

/// Reads the file; `None` if there is none.
pub(crate) fn load(storage: &dyn Storage) -> io::Result<Option<Vec<u8>>> {
    read_file(storage, PATH)
}

/// Replaces the file.
///
/// # Errors
///
/// The storage's. The old file is then still there.
pub(crate) fn save(storage: &dyn Storage, bytes: &[u8]) -> io::Result<()> {
    let written = replace(storage, PATH, PATH_NEW, bytes).map_err(io::Error::from);
    if written.is_err() {
        // It may have filled the disk, and nothing will ever read it.
        let _ = storage.remove(PATH_NEW);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::testing::{Fault, FaultyStorage},
        storage::MemoryStorage,
    };

    #[test]
    fn the_last_save_is_loaded() {
        let storage = MemoryStorage::new();
        assert_eq!(load(&storage).unwrap(), None);
        for bytes in [&b"first"[..], b"", b"third"] {
            save(&storage, bytes).unwrap();
            assert_eq!(load(&storage).unwrap().unwrap(), bytes);
        }
        assert_eq!(storage.list("").unwrap(), [PATH]);
    }

    #[test]
    fn a_failed_save_leaves_the_old_file_or_the_new_one() {
        for step in 0.. {
            let storage = FaultyStorage::new();
            save(&storage, b"before").unwrap();
            storage.fail_at(step, Fault::Error(io::ErrorKind::StorageFull));
            let result = save(&storage, b"after");
            let found = load(&storage).unwrap().unwrap();
            if !storage.has_failed() {
                assert_eq!(found, b"after");
                break;
            }
            assert!(result.is_err() && [&b"before"[..], b"after"].contains(&&found[..]));
        }
    }
}

//! The file `keys`: a snapshot of the keys that a log has, left by a clean stop.
//!
//! Owns how the file is replaced, not what is in it. The log can always give the same, so that a
//! missing or unreadable file costs time at the next start and nothing else.

use std::io;

use super::replace::replace;
use crate::storage::{Storage, read_file};

/// The file.
pub(super) const PATH: &str = "keys";
/// Where the next one is written before it takes the place of the file.
pub(super) const PATH_NEW: &str = "keys.new";

/// Reads the file; `None` where there is none.
pub(crate) fn load(storage: &dyn Storage) -> io::Result<Option<Vec<u8>>> {
    read_file(storage, PATH)
}

/// Replaces the file.
///
/// # Errors
///
/// What the storage says. The file before it is still there then.
pub(crate) fn save(storage: &dyn Storage, bytes: &[u8]) -> io::Result<()> {
    let written = replace(storage, PATH, PATH_NEW, bytes).map_err(io::Error::from);
    if written.is_err() {
        // It may have filled the disk, and nobody will ever read it.
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
    fn what_was_saved_last_is_what_is_loaded() {
        let storage = MemoryStorage::new();
        assert_eq!(load(&storage).unwrap(), None);
        for bytes in [&b"first"[..], b"", b"third"] {
            save(&storage, bytes).unwrap();
            assert_eq!(load(&storage).unwrap().unwrap(), bytes);
        }
        assert_eq!(storage.list("").unwrap(), [PATH]);
    }

    #[test]
    fn a_save_that_fails_leaves_the_file_before_it_or_the_new_one() {
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

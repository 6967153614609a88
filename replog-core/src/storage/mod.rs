//! The [`Storage`] trait: a small synchronous file system that holds one node's directory.
//!
//! All of `log/` is built on it and therefore runs on files, in memory and in a simulator. Paths are relative to
//! the node's directory and use `/`. Nothing here retries: the caller decides about an error. Keeps rule 10 by
//! never hiding a failure.

mod file;
#[cfg(test)]
pub(crate) mod limited;
mod memory;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

use std::{
    fmt,
    io::{self, IoSlice},
    sync::Arc,
};

pub use file::FileStorage;
pub(crate) use file::LOCK_FILE;
#[cfg(feature = "net")]
pub(crate) use file::sync_entry;
pub use memory::MemoryStorage;

/// One node's directory, and the operations that a log needs on it.
///
/// Every method may block. Anything that [`StorageFile::sync`] or [`Storage::sync_dir`] has not confirmed may be
/// lost, in any part and any order, when the machine stops.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Returns the names of the entries in `dir` (`""` is the node's directory), in ascending order. A directory
    /// that does not exist has none.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Creates `dir` and its missing parents. Not an error when it exists.
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] when it does not exist and `how` is [`OpenHow::Existing`].
    fn open(&self, path: &str, how: OpenHow) -> io::Result<Arc<dyn StorageFile>>;

    /// Renames a file; an existing file with the new name is replaced atomically.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes the entries of `dir` durable: files created, renamed and removed in it.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Locks the directory for this process until the returned lock is dropped.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when another holder has it.
    fn lock(&self) -> io::Result<Box<dyn StorageLock>>;

    /// Checks that the directory that was opened and locked is still there under its name: it may have been
    /// removed, moved away or replaced. Called now and then while a node runs; an error stops the node, because
    /// what it writes from then on is found by no start.
    ///
    /// The default is for storages to which that cannot happen.
    ///
    /// # Errors
    ///
    /// If the directory is known to be gone. A check that cannot be made is not an error.
    fn check_place(&self) -> io::Result<()> {
        Ok(())
    }

    /// Returns `true` if synced data is still there after the process ends; in memory it is not.
    fn survives_the_process(&self) -> bool;
}

/// Treatment of existing and missing files by [`Storage::open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenHow {
    /// The file must exist.
    Existing,
    /// The file is created, or emptied where it exists.
    Truncated,
    /// The file is created where it is missing, and kept as it is where it exists.
    Create,
}

/// One open file. Reads and writes may come from different threads; writes come from one.
pub trait StorageFile: fmt::Debug + Send + Sync {
    /// Returns the length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Reads up to `buffer.len()` bytes at `position`; fewer only at the file's end.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Appends all of `parts`, in order, after the last byte of the file.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::StorageFull`] when there is no space left. Some of it may have been written.
    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// Writes all of `bytes` at `position`.
    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes all of `parts`, in order, starting at `position`; the file may end within them.
    ///
    /// # Errors
    ///
    /// Like [`StorageFile::append`].
    fn write_parts_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut at = position;
        for part in parts {
            self.write_at(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Extends the file to `size` bytes, if it is shorter, with zeros that are really written: overwriting them
    /// later does not change the length, so that a sync has only content to make durable.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::StorageFull`] when there is no space left. Some of the zeros may have been written.
    fn allocate(&self, size: u64) -> io::Result<()>;

    /// Makes content and length durable. After an error, nothing that was not synced before may be assumed to be on
    /// disk, and a successful second call proves nothing.
    fn sync(&self) -> io::Result<()>;

    /// Truncates or extends the file to `size` bytes.
    fn truncate(&self, size: u64) -> io::Result<()>;

    /// Checks that this very file is still in the storage's directory, under the name `path`. See
    /// [`Storage::check_place`].
    ///
    /// # Errors
    ///
    /// If the file is known to be gone. A check that cannot be made is not an error.
    fn check_place(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }
}

/// Lock on a directory, taken by [`Storage::lock`]; dropping it releases the lock.
pub trait StorageLock: fmt::Debug + Send + Sync {}

/// Reads a small file as a whole; `None` if it does not exist.
pub(crate) fn read_file(storage: &dyn Storage, path: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match storage.open(path, OpenHow::Existing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let size = usize::try_from(file.size()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; size];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

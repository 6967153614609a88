//! The [`Storage`] trait: a small synchronous file system that holds one node's directory.
//!
//! All of `log/` lies above it, so that all of it runs on files, in memory and in a simulator.
//! Paths are relative to the node's directory and use `/`. Nothing here retries: an error is
//! the caller's to decide on. Keeps rule 10 by never hiding a failure.

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

/// A directory for one node, and the operations that a log needs on it.
///
/// Every method may block. What [`StorageFile::sync`] and [`Storage::sync_dir`] have not
/// confirmed may be lost, in any part and any order, when the machine stops.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Names of the entries in `dir` (`""` is the node's directory), in ascending order. A
    /// directory that does not exist has none.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Makes `dir` and those above it. Not an error when it exists.
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] when it does not exist and `how` is [`OpenHow::Existing`].
    fn open(&self, path: &str, how: OpenHow) -> io::Result<Arc<dyn StorageFile>>;

    /// Renames a file; an existing file of the new name is replaced in one step.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes the entries of `dir` durable: files made, renamed and removed in it.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Takes the directory for this process until the result is dropped.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when another holder has it.
    fn lock(&self) -> io::Result<Box<dyn StorageLock>>;

    /// Checks that the directory is still the one that was opened and locked, under its name: somebody
    /// may have removed it, moved it away or put another in its place. Called now and then while a
    /// node runs; an error ends the node, which would go on writing to files that no start will find.
    ///
    /// The default is for storages to which that cannot happen.
    ///
    /// # Errors
    ///
    /// When the directory is known to be gone. A check that cannot be made is no error.
    fn check_place(&self) -> io::Result<()> {
        Ok(())
    }

    /// Whether what was synced is still there after the process ends. Memory says no.
    fn survives_the_process(&self) -> bool;
}

/// How [`Storage::open`] treats a file that is or is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenHow {
    /// It must exist.
    Existing,
    /// It is made empty, or emptied.
    Truncated,
    /// It is made where it is missing, and kept where it exists.
    Create,
}

/// One open file. Reads and writes may come from different threads; writes come from one.
pub trait StorageFile: fmt::Debug + Send + Sync {
    /// Its length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Reads up to `buffer.len()` bytes at `position`; fewer only at the file's end.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `parts`, one after the other, behind the file's last byte.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::StorageFull`] when there is no room. A part may have been written.
    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// Writes all of `bytes` at `position`.
    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes all of `parts`, one after the other, from `position` on; the file may end within them.
    ///
    /// # Errors
    ///
    /// As [`StorageFile::append`].
    fn write_parts_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut at = position;
        for part in parts {
            self.write_at(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Makes the file `size` bytes long, if it is shorter, and fills it up with zeros that take their
    /// room: what is written over them changes no length, so that a sync has nothing but content to
    /// make durable.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::StorageFull`] when there is no room. Some of the zeros may be there.
    fn allocate(&self, size: u64) -> io::Result<()>;

    /// Makes content and length durable. After an error nothing that was not synced before may
    /// be believed to be on disk, and a second call proves nothing.
    fn sync(&self) -> io::Result<()>;

    /// Cuts or extends the file to `size` bytes.
    fn truncate(&self, size: u64) -> io::Result<()>;

    /// Checks that this very file is still in the storage's directory, under the name `path`. See
    /// [`Storage::check_place`].
    ///
    /// # Errors
    ///
    /// When it is known to be gone. A check that cannot be made is no error.
    fn check_place(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }
}

/// A directory taken by [`Storage::lock`]; dropping it gives it back.
pub trait StorageLock: fmt::Debug + Send + Sync {}

/// Reads a whole small file; `None` where it does not exist.
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

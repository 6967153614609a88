//! A [`Storage`] in memory with limited space, for tests.
//!
//! Owns the space, not the files. Where a write does not fit, as much of it is written as fits, as
//! on a real file system. Counts the writes that it refused.

use std::{
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{MemoryStorage, OpenHow, Storage, StorageFile, StorageLock};

/// A disk in memory that can be full. Clones share files and space.
#[derive(Clone, Debug)]
pub(crate) struct LimitedStorage {
    files: MemoryStorage,
    room: Arc<DiskSpace>,
}

#[derive(Debug)]
struct DiskSpace {
    /// Bytes that all files together may use.
    bytes_max: AtomicU64,
    refused: AtomicU64,
}

impl LimitedStorage {
    /// Creates a storage with unlimited space.
    pub(crate) fn new() -> LimitedStorage {
        LimitedStorage {
            files: MemoryStorage::new(),
            room: Arc::new(DiskSpace {
                bytes_max: AtomicU64::new(u64::MAX),
                refused: AtomicU64::new(0),
            }),
        }
    }

    /// Leaves space for this many bytes besides those in use.
    pub(crate) fn leave(&self, bytes: u64) {
        let bytes_max = self.used().unwrap() + bytes;
        self.room.bytes_max.store(bytes_max, Ordering::SeqCst);
    }

    /// Makes space unlimited again.
    pub(crate) fn make_room(&self) {
        self.room.bytes_max.store(u64::MAX, Ordering::SeqCst);
    }

    /// Returns the number of refused writes.
    pub(crate) fn refused(&self) -> u64 {
        self.room.refused.load(Ordering::SeqCst)
    }

    fn used(&self) -> io::Result<u64> {
        let mut used = 0;
        for dir in ["", "log", "quarantine"] {
            for name in self.files.list(dir)? {
                let path = match dir {
                    "" => name,
                    _ => format!("{dir}/{name}"),
                };
                match self.files.open(&path, OpenHow::Existing) {
                    Ok(file) => used += file.size()?,
                    Err(error) => match error.kind() {
                        // A directory, or renamed by the node since it was listed.
                        io::ErrorKind::IsADirectory | io::ErrorKind::NotFound => {}
                        _ => return Err(error),
                    },
                }
            }
        }
        Ok(used)
    }

    fn left(&self) -> io::Result<u64> {
        let bytes_max = self.room.bytes_max.load(Ordering::SeqCst);
        match bytes_max {
            u64::MAX => Ok(u64::MAX),
            _ => Ok(bytes_max.saturating_sub(self.used()?)),
        }
    }

    fn refuse(&self) -> io::Error {
        self.room.refused.fetch_add(1, Ordering::SeqCst);
        io::ErrorKind::StorageFull.into()
    }
}

impl Storage for LimitedStorage {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.files.list(dir)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.files.create_dir(dir)
    }

    fn open(&self, path: &str, how: OpenHow) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(LimitedFile {
            file: self.files.open(path, how)?,
            storage: self.clone(),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.files.remove(path)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.files.sync_dir(dir)
    }

    fn lock(&self) -> io::Result<Box<dyn StorageLock>> {
        self.files.lock()
    }

    fn survives_the_process(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct LimitedFile {
    file: Arc<dyn StorageFile>,
    storage: LimitedStorage,
}

impl StorageFile for LimitedFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(position, buffer)
    }

    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut left = self.storage.left()?;
        for part in parts {
            let fits = usize::try_from(left).unwrap_or(usize::MAX).min(part.len());
            self.file.append(&[IoSlice::new(&part[..fits])])?;
            if fits < part.len() {
                return Err(self.storage.refuse());
            }
            left -= fits as u64;
        }
        Ok(())
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let grows = (position + bytes.len() as u64).saturating_sub(self.size()?);
        if grows > self.storage.left()? {
            return Err(self.storage.refuse());
        }
        self.file.write_at(position, bytes)
    }

    fn write_parts_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut at = position;
        for part in parts {
            let inside = self
                .size()?
                .saturating_sub(at)
                .saturating_add(self.storage.left()?);
            let fits = usize::try_from(inside).map_or(part.len(), |inside| inside.min(part.len()));
            self.file.write_at(at, &part[..fits])?;
            if fits < part.len() {
                return Err(self.storage.refuse());
            }
            at += fits as u64;
        }
        Ok(())
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        if size.saturating_sub(self.size()?) > self.storage.left()? {
            return Err(self.storage.refuse());
        }
        self.file.allocate(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.file.truncate(size)
    }
}

mod tests {
    use super::*;

    fn fresh() -> (Arc<dyn Storage>, ()) {
        (Arc::new(LimitedStorage::new()), ())
    }

    crate::storage::suite::conformance!(super::fresh());

    #[test]
    fn a_write_that_does_not_fit_is_written_in_part_and_refused() {
        let storage = LimitedStorage::new();
        let file = storage.open("file", OpenHow::Create).unwrap();
        file.append(&[IoSlice::new(b"1234")]).unwrap();
        storage.leave(3);
        let error = file.append(&[IoSlice::new(b"56"), IoSlice::new(b"78")]);
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!((file.size().unwrap(), storage.refused()), (7, 1));
        file.write_at(0, b"x").unwrap();
        file.truncate(0).unwrap();
        file.append(&[IoSlice::new(b"1234567")]).unwrap();
        file.append(&[IoSlice::new(b"8")]).unwrap_err();
        storage.make_room();
        file.append(&[IoSlice::new(b"8")]).unwrap();
    }
}

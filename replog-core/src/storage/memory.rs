//! [`Storage`] in memory: for `--memory`, examples and tests.
//!
//! Owns the content of its files, in chunks, so that a growing file is never moved as a whole.
//! Never fails, and forgets nothing while a clone of it lives: a node restarted on a clone finds
//! what it left.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{OpenHow, Storage, StorageFile, StorageLock};

/// Bytes of one chunk of a file: small enough that the last one wastes little, large enough that a
/// segment has few.
const CHUNK_BYTES: usize = 256 << 10;

/// A [`Storage`] in memory that lives as long as any of its clones.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    shared: Arc<Shared>,
}

impl MemoryStorage {
    /// Creates an empty storage.
    #[must_use]
    pub fn new() -> MemoryStorage {
        MemoryStorage::default()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.shared
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// Entries by full path. The node's directory itself, `""`, has no entry.
    entries: Mutex<BTreeMap<String, Entry>>,
    locked: AtomicBool,
}

#[derive(Clone, Debug)]
enum Entry {
    Directory,
    File(Arc<MemoryFile>),
}

impl Storage for MemoryStorage {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let prefix = if dir.is_empty() {
            String::new()
        } else {
            format!("{dir}/")
        };
        let entries = self.entries();
        let below = entries.keys().filter_map(|path| path.strip_prefix(&prefix));
        Ok(below
            .filter(|name| !name.contains('/'))
            .map(str::to_owned)
            .collect())
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut entries = self.entries();
        let ends = dir.match_indices('/').map(|(at, _)| at).chain([dir.len()]);
        for path in ends.map(|end| &dir[..end]).filter(|path| !path.is_empty()) {
            let entry = entries.entry(path.to_owned()).or_insert(Entry::Directory);
            if matches!(entry, Entry::File(_)) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        }
        Ok(())
    }

    fn open(&self, path: &str, how: OpenHow) -> io::Result<Arc<dyn StorageFile>> {
        let mut entries = self.entries();
        if let Some((dir, _)) = path.rsplit_once('/')
            && !matches!(entries.get(dir), Some(Entry::Directory))
        {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = match (entries.get(path), how) {
            (Some(Entry::Directory), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(Entry::File(file)), _) => file.clone(),
            (None, OpenHow::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenHow::Truncated | OpenHow::Create) => {
                let file = Arc::new(MemoryFile::default());
                entries.insert(path.to_owned(), Entry::File(file.clone()));
                file
            }
        };
        if how == OpenHow::Truncated {
            file.truncate(0)?;
        }
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut entries = self.entries();
        match entries.get(from) {
            Some(Entry::File(_)) => {
                let entry = entries.remove(from).expect("the entry was just found");
                entries.insert(to.to_owned(), entry);
                Ok(())
            }
            Some(Entry::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut entries = self.entries();
        match entries.get(path) {
            Some(Entry::File(_)) => {
                entries.remove(path);
                Ok(())
            }
            Some(Entry::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        match self.entries().get(dir) {
            Some(Entry::Directory) => Ok(()),
            Some(Entry::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None if dir.is_empty() => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn lock(&self) -> io::Result<Box<dyn StorageLock>> {
        if self.shared.locked.swap(true, Ordering::Acquire) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemoryLock {
            shared: self.shared.clone(),
        }))
    }

    fn survives_the_process(&self) -> bool {
        false
    }
}

/// One file. A handle keeps its content alive after the name is gone, as in an operating system.
#[derive(Debug, Default)]
struct MemoryFile {
    content: RwLock<Content>,
}

impl MemoryFile {
    fn change<T>(&self, change: impl FnOnce(&mut Content) -> T) -> T {
        change(&mut self.content.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn look<T>(&self, look: impl FnOnce(&Content) -> T) -> T {
        look(&self.content.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StorageFile for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.look(Content::len) as u64)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let position = usize::try_from(position).unwrap_or(usize::MAX);
        Ok(self.look(|content| content.read(position, buffer)))
    }

    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.change(|content| parts.iter().for_each(|part| content.append(part)));
        Ok(())
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let position = fits_memory(position)?;
        self.change(|content| content.write(position, bytes));
        Ok(())
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let size = fits_memory(size)?;
        self.change(|content| content.resize(size.max(content.len())));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        let size = fits_memory(size)?;
        self.change(|content| content.resize(size));
        Ok(())
    }
}

/// Bytes in chunks: each but the last has exactly [`CHUNK_BYTES`], and the last is not empty.
#[derive(Debug, Default)]
struct Content {
    chunks: Vec<Vec<u8>>,
}

impl Content {
    fn len(&self) -> usize {
        match self.chunks.last() {
            Some(last) => (self.chunks.len() - 1) * CHUNK_BYTES + last.len(),
            None => 0,
        }
    }

    fn read(&self, position: usize, buffer: &mut [u8]) -> usize {
        let readable = self.len().saturating_sub(position).min(buffer.len());
        let mut done = 0;
        while done < readable {
            let (chunk, at) = (
                (position + done) / CHUNK_BYTES,
                (position + done) % CHUNK_BYTES,
            );
            let from = &self.chunks[chunk][at..];
            let count = from.len().min(readable - done);
            buffer[done..done + count].copy_from_slice(&from[..count]);
            done += count;
        }
        readable
    }

    fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self
                .chunks
                .last()
                .is_none_or(|last| last.len() == CHUNK_BYTES)
            {
                self.chunks.push(Vec::new());
            }
            let last = self
                .chunks
                .last_mut()
                .expect("a chunk was just added where none had room");
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - last.len()));
            last.extend_from_slice(now);
            bytes = later;
        }
    }

    fn write(&mut self, position: usize, bytes: &[u8]) {
        if position > self.len() {
            self.resize(position);
        }
        let (inside, behind) = bytes.split_at(bytes.len().min(self.len() - position));
        let mut done = 0;
        while done < inside.len() {
            let (chunk, at) = (
                (position + done) / CHUNK_BYTES,
                (position + done) % CHUNK_BYTES,
            );
            let into = &mut self.chunks[chunk][at..];
            let count = into.len().min(inside.len() - done);
            into[..count].copy_from_slice(&inside[done..done + count]);
            done += count;
        }
        self.append(behind);
    }

    fn resize(&mut self, size: usize) {
        self.chunks.truncate(size.div_ceil(CHUNK_BYTES));
        let whole = (self.chunks.len() * CHUNK_BYTES).min(size);
        if let Some(last) = self.chunks.len().checked_sub(1) {
            self.chunks[last].resize(whole - last * CHUNK_BYTES, 0);
        }
        while self.len() < size {
            let count = (size - self.len()).min(CHUNK_BYTES);
            self.chunks.push(vec![0; count]);
        }
    }
}

/// Holds the storage's lock until it is dropped.
#[derive(Debug)]
struct MemoryLock {
    shared: Arc<Shared>,
}

impl StorageLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.shared.locked.store(false, Ordering::Release);
    }
}

fn fits_memory(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(|_| io::ErrorKind::StorageFull.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (Arc<dyn Storage>, ()) {
        (Arc::new(MemoryStorage::new()), ())
    }

    crate::storage::suite::conformance!(super::fresh());

    #[test]
    fn a_clone_shares_files_and_the_lock() {
        let storage = MemoryStorage::new();
        let again = storage.clone();
        let file = storage.open("file", OpenHow::Create).unwrap();
        file.append(&[IoSlice::new(b"content")]).unwrap();
        assert_eq!(
            again
                .open("file", OpenHow::Existing)
                .unwrap()
                .size()
                .unwrap(),
            7
        );
        let lock = storage.lock().unwrap();
        assert_eq!(again.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        again.lock().unwrap();
    }

    #[test]
    fn content_in_chunks_equals_content_in_one_piece() {
        let mut content = Content::default();
        let mut plain: Vec<u8> = Vec::new();
        let piece: Vec<u8> = (0..=250).cycle().take(CHUNK_BYTES + 7).collect();
        let steps = [
            0,
            1,
            CHUNK_BYTES - 1,
            CHUNK_BYTES,
            CHUNK_BYTES + 1,
            3 * CHUNK_BYTES + 5,
        ];
        for size in steps.into_iter().chain(steps.into_iter().rev()) {
            content.resize(size);
            plain.resize(size, 0);
            content.append(&piece);
            plain.extend_from_slice(&piece);
            let position = size / 2;
            content.write(position, &piece);
            plain.resize(plain.len().max(position + piece.len()), 0);
            plain[position..position + piece.len()].copy_from_slice(&piece);
            let mut read = vec![0; plain.len() + 10];
            assert_eq!(content.read(0, &mut read), plain.len());
            assert!(read[..plain.len()] == plain[..], "differs after {size}");
        }
    }
}

//! Files are read in pieces and never written.

use std::{
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::*;
use crate::storage::{OpenHow, StorageFile, StorageLock};

/// Rule 11.
#[test]
fn a_single_read_does_not_grow_with_the_file() {
    let storage = MemoryStorage::new();
    meta(Some(CLUSTER)).save(&storage).unwrap();
    let header = segment::SegmentHeader {
        cluster: CLUSTER,
        first: Offset::ZERO,
        number: 0,
        epoch_starts: Vec::new(),
    };
    let records = Records::new(0, (0..300).map(|_| (1, 20_000)));
    let mut bytes = [header.encode(), records.bytes()].concat();
    let size = bytes.len();
    // Damaged in the middle, so that it is searched too.
    bytes[size / 4..size / 2].fill(0x01);
    set_content(&storage, &seg(0), &bytes);
    set_mark(&storage, 300);
    let storage = OnlyRead {
        storage,
        longest: Arc::default(),
    };
    let found = directory(&storage).unwrap();
    assert_eq!((found.counts.damage, found.end), (1, Offset(300)));
    let longest = storage.longest.load(Ordering::Relaxed);
    assert!(longest <= 256 << 10, "{longest} of {size} bytes at once");
}

/// A read-only storage that records the longest read.
#[derive(Clone, Debug)]
struct OnlyRead {
    storage: MemoryStorage,
    longest: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct OnlyReadFile {
    file: Arc<dyn StorageFile>,
    longest: Arc<AtomicUsize>,
}

impl Storage for OnlyRead {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.storage.list(dir)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        panic!("{dir} is made")
    }

    fn open(&self, path: &str, how: OpenHow) -> io::Result<Arc<dyn StorageFile>> {
        assert_eq!(how, OpenHow::Existing);
        Ok(Arc::new(OnlyReadFile {
            file: self.storage.open(path, how)?,
            longest: self.longest.clone(),
        }))
    }

    fn rename(&self, from: &str, _: &str) -> io::Result<()> {
        panic!("{from} is renamed")
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        panic!("{path} is removed")
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        panic!("{dir:?} is synced")
    }

    fn lock(&self) -> io::Result<Box<dyn StorageLock>> {
        self.storage.lock()
    }

    fn survives_the_process(&self) -> bool {
        false
    }
}

impl StorageFile for OnlyReadFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.longest.fetch_max(buffer.len(), Ordering::Relaxed);
        self.file.read_at(position, buffer)
    }

    fn append(&self, _: &[IoSlice<'_>]) -> io::Result<()> {
        panic!("a file is appended to")
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        panic!("a file is written")
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        panic!("a file is made longer")
    }

    fn sync(&self) -> io::Result<()> {
        panic!("a file is synced")
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        panic!("a file is cut")
    }
}

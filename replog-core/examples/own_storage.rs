//! A storage of your own: files in a map, where a real one has a database or another kind of disk.
//!
//! Tests it with the behaviours that every storage must have, runs a cluster on it, restarts the
//! master and checks that the messages are there. Fails if anything is not as it should be. Run it
//! with `cargo run -p replog-core --features suite --example own_storage`.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, ErrorKind, IoSlice},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use replog_core::{
    AppendOptions, Concern, Master, MasterConfig, Offset, Secondary, SecondaryConfig,
    storage::{OpenHow, Storage, StorageFile, StorageLock, suite},
    transport::LocalNetwork,
};

/// All entries by path; a directory is an entry without content. Clones share them.
#[derive(Clone, Debug, Default)]
struct Shelf {
    entries: Arc<Mutex<BTreeMap<String, Option<Arc<Content>>>>>,
    taken: Arc<AtomicBool>,
}

impl Storage for Shelf {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let prefix = if dir.is_empty() {
            ""
        } else {
            &format!("{dir}/")
        };
        let entries = lock(&self.entries);
        let names = entries.keys().filter_map(|path| path.strip_prefix(prefix));
        let names = names.filter(|name| !name.contains('/'));
        Ok(names.map(str::to_owned).collect())
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let ends = dir.match_indices('/').map(|(at, _)| at);
        for end in ends.chain([dir.len()]) {
            let path = dir[..end].to_owned();
            lock(&self.entries).entry(path).or_default();
        }
        Ok(())
    }

    fn open(&self, path: &str, how: OpenHow) -> io::Result<Arc<dyn StorageFile>> {
        let mut entries = lock(&self.entries);
        let dir = path.rsplit_once('/').map(|(dir, _)| dir);
        if dir.is_some_and(|dir| !matches!(entries.get(dir), Some(None))) {
            return Err(ErrorKind::NotFound.into());
        }
        let file = match (entries.get(path), how) {
            (Some(None), _) => return Err(ErrorKind::IsADirectory.into()),
            (None, OpenHow::Existing) => return Err(ErrorKind::NotFound.into()),
            (Some(Some(file)), _) => file.clone(),
            (None, _) => Arc::default(),
        };
        if how == OpenHow::Truncated {
            lock(&file.0).clear();
        }
        entries.insert(path.to_owned(), Some(file.clone()));
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut entries = lock(&self.entries);
        let file = entries.remove(from).ok_or(ErrorKind::NotFound)?;
        entries.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let removed = lock(&self.entries).remove(path);
        removed.map(drop).ok_or(ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        match dir.is_empty() || lock(&self.entries).contains_key(dir) {
            true => Ok(()),
            false => Err(ErrorKind::NotFound.into()),
        }
    }

    fn lock(&self) -> io::Result<Box<dyn StorageLock>> {
        match self.taken.swap(true, Ordering::SeqCst) {
            true => Err(ErrorKind::WouldBlock.into()),
            false => Ok(Box::new(Taken(self.taken.clone()))),
        }
    }

    fn survives_the_process(&self) -> bool {
        false
    }
}

/// One file. An open file stays usable, whatever happens to its name.
#[derive(Debug, Default)]
struct Content(Mutex<Vec<u8>>);

impl StorageFile for Content {
    fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let content = lock(&self.0);
        let from = content.get(in_memory(position)?..).unwrap_or_default();
        let count = from.len().min(buffer.len());
        buffer[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }

    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut content = lock(&self.0);
        parts
            .iter()
            .for_each(|part| content.extend_from_slice(part));
        Ok(())
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut content, at) = (lock(&self.0), in_memory(position)?);
        let end = content.len().max(at + bytes.len());
        content.resize(end, 0);
        content[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let (mut content, size) = (lock(&self.0), in_memory(size)?);
        let end = content.len().max(size);
        content.resize(end, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        lock(&self.0).resize(in_memory(size)?, 0);
        Ok(())
    }
}

#[derive(Debug)]
struct Taken(Arc<AtomicBool>);

impl StorageLock for Taken {}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_memory(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(|_| ErrorKind::FileTooLarge.into())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    suite::check(|| (Arc::new(Shelf::default()) as Arc<dyn Storage>, ()));
    println!("the storage does what every storage does");

    let network = LocalNetwork::new();
    let config = SecondaryConfig::new("secondary-1".parse()?);
    let secondary = Secondary::start(config, Arc::new(Shelf::default())).await?;
    network.register(secondary.clone());
    let config = MasterConfig::new("master".parse()?, vec!["secondary-1=local".parse()?]);
    let (shelf, network) = (Shelf::default(), Arc::new(network));
    for offset in 0..2 {
        let storage = Arc::new(shelf.clone());
        let master = Master::start(config.clone(), storage, network.clone()).await?;
        master.wait_until_writable().await?;
        let options = AppendOptions::concern(Concern::All);
        let receipt = master.append(format!("message {offset}"), options).await?;
        assert_eq!(receipt.offset, Offset(offset));
        master.stop().await;
        println!("start {offset}: {:?} hold the message", receipt.acks);
    }
    for offset in 0..2 {
        let message = secondary.reader().get(Offset(offset)).await?;
        let payload = message.expect("the secondary holds it").payload;
        assert_eq!(payload, format!("message {offset}"));
    }
    println!("the secondary shows what was appended in both lives of the master");
    Ok(())
}

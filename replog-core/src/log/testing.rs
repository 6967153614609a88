//! Shared by the tests of the log: a storage that fails on demand and forgets what was not synced, and records to
//! write.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, IoSlice},
    mem,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::BytesMut;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    Cut, LogFiles, LogOptions, LogView, OpenScan, Truncation, files::OpenReport, quarantine,
    segment,
};
use crate::{
    error::OpenError,
    frame::{FrameBatch, FrameFields},
    storage::{MemoryStorage, OpenHow, Storage, StorageFile, StorageLock},
    types::{ClusterId, Epoch, EpochStart, Offset, SyncPolicy},
};

/// Writes at a position of at most this length reach the disk completely or not at all.
const SECTOR_BYTES: usize = 512;

/// Fault at the chosen step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The operation does nothing and fails.
    Error(io::ErrorKind),
    /// An append writes this many bytes and fails; any other operation does nothing and fails.
    Short(usize, io::ErrorKind),
    /// A sync fails, and the data that it should have made durable is considered clean: the last change stays in
    /// the cache only, for good; those before it reached the disk. Any other operation does nothing and fails.
    LostSync,
    /// The machine stops: this operation and all later ones fail and do nothing.
    Stop,
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Fault::Error(kind) | Fault::Short(_, kind) => kind.into(),
            Fault::LostSync => io::Error::other("the disk refuses"),
            Fault::Stop => io::Error::other("the machine stopped"),
        }
    }
}

impl Truncation {
    /// Returns the cut that was made.
    pub(crate) fn cut(self) -> Cut {
        match self {
            Truncation::Cut(cut) => cut,
            Truncation::Damaged(offset) => panic!("offset {offset} is damaged"),
        }
    }
}

type Hook = Box<dyn FnOnce() + Send>;

/// A storage in memory that counts, fails on demand, and knows what a power cut would leave.
///
/// Steps are the operations that change something or sync; reads do not count.
#[derive(Clone)]
pub(crate) struct FaultyStorage {
    shared: Arc<Mutex<Shared>>,
    lock: MemoryStorage,
}

#[derive(Default)]
struct Shared {
    entries: BTreeMap<String, Node>,
    durable_entries: BTreeMap<String, Node>,
    /// Changes of entries that no sync of their directory confirmed, in order.
    pending_entries: Vec<EntryChange>,
    steps: usize,
    fault: Option<(usize, Fault)>,
    has_failed: bool,
    stopped: bool,
    file_syncs: usize,
    appends: usize,
    reads: usize,
    hook: Option<(usize, HookTime, Hook)>,
}

/// Time when a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookTime {
    BeforeRead,
    AfterRead,
}

#[derive(Clone)]
enum Node {
    Directory,
    File(Arc<Mutex<Content>>),
}

#[derive(Clone)]
enum EntryChange {
    Set(String, Node),
    Remove(String),
    Rename(String, String),
}

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<ContentChange>,
}

#[derive(Clone)]
enum ContentChange {
    Write {
        position: usize,
        bytes: Vec<u8>,
        whole: bool,
    },
    Resize(usize),
}

impl FaultyStorage {
    pub(crate) fn new() -> FaultyStorage {
        FaultyStorage {
            shared: Arc::default(),
            lock: MemoryStorage::new(),
        }
    }

    /// Makes the step fail that comes after `steps` more.
    pub(crate) fn fail_at(&self, steps: usize, fault: Fault) {
        let mut shared = self.shared();
        shared.fault = Some((shared.steps + steps, fault));
        shared.has_failed = false;
    }

    /// Cancels the fault that [`FaultyStorage::fail_at`] planned, if it did not happen yet.
    pub(crate) fn cancel_fault(&self) {
        self.shared().fault = None;
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.shared().has_failed
    }

    pub(crate) fn steps(&self) -> usize {
        self.shared().steps
    }

    /// Returns the number of syncs of files so far.
    pub(crate) fn file_syncs(&self) -> usize {
        self.shared().file_syncs
    }

    /// Returns the number of reads of files so far.
    pub(crate) fn reads(&self) -> usize {
        self.shared().reads
    }

    /// Returns the number of appends to files so far.
    pub(crate) fn appends(&self) -> usize {
        self.shared().appends
    }

    /// Runs `hook` once, around the read that comes after `reads` more.
    pub(crate) fn hook_read(
        &self,
        reads: usize,
        time: HookTime,
        hook: impl FnOnce() + Send + 'static,
    ) {
        let mut shared = self.shared();
        shared.hook = Some((shared.reads + reads, time, Box::new(hook)));
    }

    /// Returns `true` if the hook has still to run.
    pub(crate) fn is_hooked(&self) -> bool {
        self.shared().hook.is_some()
    }

    /// Returns what a power cut leaves: everything synced, and some of the rest: of each directory's changes the
    /// first few, of each file's any, appends torn at any byte.
    pub(crate) fn after_power_cut(&self, seed: u64) -> FaultyStorage {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shared = self.shared();
        let mut entries = shared.durable_entries.clone();
        for dir in ["", segment::DIR, quarantine::DIR] {
            let pending = shared
                .pending_entries
                .iter()
                .filter(|change| change.dir() == dir);
            let pending: Vec<_> = pending.collect();
            let kept = rng.random_range(0..=pending.len());
            pending[..kept]
                .iter()
                .for_each(|change| change.apply(&mut entries));
        }
        let keep_everything = rng.random_bool(0.2);
        let after = FaultyStorage::new();
        for (path, node) in entries {
            let node = match node {
                Node::Directory => Node::Directory,
                Node::File(content) => {
                    let content = content.lock().unwrap();
                    let mut left = content.synced.clone();
                    for change in &content.pending {
                        if keep_everything {
                            change.apply(&mut left);
                        } else if let Some(part) = change.part(&mut rng) {
                            part.apply(&mut left);
                        }
                    }
                    let synced = left.clone();
                    let pending = Vec::new();
                    Node::File(Arc::new(Mutex::new(Content {
                        now: left,
                        synced,
                        pending,
                    })))
                }
            };
            let mut shared = after.shared();
            shared.entries.insert(path.clone(), node.clone());
            shared.durable_entries.insert(path, node);
        }
        after
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    /// Counts a step and returns its fault, if there is one.
    fn step(&self) -> Result<Option<Fault>, io::Error> {
        let mut shared = self.shared();
        if shared.stopped {
            return Err(io::Error::other("the machine stands still"));
        }
        let step = shared.steps;
        shared.steps += 1;
        match shared.fault.take_if(|(at, _)| *at == step) {
            None => Ok(None),
            Some((_, fault)) => {
                shared.has_failed = true;
                shared.stopped = matches!(fault, Fault::Stop);
                Ok(Some(fault))
            }
        }
    }

    /// Counts a step that does nothing when it fails.
    fn plain_step(&self) -> io::Result<()> {
        match self.step()? {
            None => Ok(()),
            Some(fault) => Err(fault.error()),
        }
    }

    fn awake(&self) -> io::Result<()> {
        match self.shared().stopped {
            true => Err(io::Error::other("the machine stands still")),
            false => Ok(()),
        }
    }

    fn change_entry(&self, change: EntryChange) {
        let mut shared = self.shared();
        change.apply(&mut shared.entries);
        shared.pending_entries.push(change);
    }

    fn run_hook(&self, time: HookTime) {
        let hook = {
            let mut shared = self.shared();
            let reads = shared.reads;
            shared
                .hook
                .take_if(|(at, when, _)| *at == reads && *when == time)
        };
        if let Some((_, _, hook)) = hook {
            hook();
        }
    }
}

impl fmt::Debug for FaultyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStorage")
    }
}

impl Storage for FaultyStorage {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.awake()?;
        let names = |path: &String| {
            (dir_of(path) == dir).then(|| path.rsplit('/').next().unwrap().to_owned())
        };
        let mut names: Vec<_> = self.shared().entries.keys().filter_map(names).collect();
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.plain_step()?;
        let ends = dir.match_indices('/').map(|(at, _)| at).chain([dir.len()]);
        for path in ends.map(|end| &dir[..end]) {
            if !self.shared().entries.contains_key(path) {
                self.change_entry(EntryChange::Set(path.to_owned(), Node::Directory));
            }
        }
        Ok(())
    }

    fn open(&self, path: &str, how: OpenHow) -> io::Result<Arc<dyn StorageFile>> {
        self.awake()?;
        if how != OpenHow::Existing {
            self.plain_step()?;
        }
        let dir = dir_of(path);
        if !dir.is_empty() && !self.shared().entries.contains_key(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let found = self.shared().entries.get(path).cloned();
        let content = match (found, how) {
            (Some(Node::Directory), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::File(content)), _) => content,
            (None, OpenHow::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenHow::Truncated | OpenHow::Create) => {
                let content = Arc::new(Mutex::new(Content::default()));
                let node = Node::File(content.clone());
                self.change_entry(EntryChange::Set(path.to_owned(), node));
                content
            }
        };
        if how == OpenHow::Truncated {
            content.lock().unwrap().change(ContentChange::Resize(0));
        }
        Ok(Arc::new(FaultyFile {
            storage: self.clone(),
            content,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.plain_step()?;
        if !self.shared().entries.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change_entry(EntryChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.plain_step()?;
        if !self.shared().entries.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change_entry(EntryChange::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.plain_step()?;
        let mut shared = self.shared();
        if !dir.is_empty() && !shared.entries.contains_key(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        for change in mem::take(&mut shared.pending_entries) {
            if change.dir() == dir {
                change.apply(&mut shared.durable_entries);
            } else {
                shared.pending_entries.push(change);
            }
        }
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn StorageLock>> {
        self.lock.lock()
    }

    fn survives_the_process(&self) -> bool {
        true
    }
}

impl EntryChange {
    fn dir(&self) -> &str {
        match self {
            EntryChange::Set(path, _) | EntryChange::Remove(path) => dir_of(path),
            EntryChange::Rename(from, to) => {
                assert_eq!(dir_of(from), dir_of(to));
                dir_of(from)
            }
        }
    }

    fn apply(&self, entries: &mut BTreeMap<String, Node>) {
        match self {
            EntryChange::Set(path, node) => {
                entries.insert(path.clone(), node.clone());
            }
            EntryChange::Remove(path) => {
                entries.remove(path);
            }
            EntryChange::Rename(from, to) => {
                if let Some(node) = entries.remove(from) {
                    entries.insert(to.clone(), node);
                }
            }
        }
    }
}

impl Content {
    fn change(&mut self, change: ContentChange) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }
}

impl ContentChange {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            ContentChange::Write {
                position, bytes, ..
            } => {
                content.resize(content.len().max(position + bytes.len()), 0);
                content[*position..position + bytes.len()].copy_from_slice(bytes);
            }
            ContentChange::Resize(size) => content.resize(*size, 0),
        }
    }

    /// Returns the part of the change that reached the disk.
    fn part(&self, rng: &mut ChaCha8Rng) -> Option<ContentChange> {
        match (rng.random_range(0..3), self) {
            (0, _) => None,
            (
                1,
                ContentChange::Write {
                    position,
                    bytes,
                    whole: false,
                },
            ) => {
                let bytes = bytes[..rng.random_range(0..=bytes.len())].to_vec();
                Some(ContentChange::Write {
                    position: *position,
                    bytes,
                    whole: false,
                })
            }
            _ => Some(self.clone()),
        }
    }
}

struct FaultyFile {
    storage: FaultyStorage,
    content: Arc<Mutex<Content>>,
}

impl fmt::Debug for FaultyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyFile")
    }
}

impl FaultyFile {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    /// Writes the parts at `position`, or after the last byte.
    fn write_parts(&self, position: Option<usize>, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let fault = self.storage.step()?;
        self.storage.shared().appends += 1;
        let mut bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let result = fault.map_or(Ok(()), |fault| Err(fault.error()));
        match fault {
            Some(Fault::Error(_) | Fault::LostSync) => return result,
            Some(Fault::Short(length, _)) => bytes.truncate(length),
            // A write in flight when the machine stopped may or may not arrive.
            Some(Fault::Stop) | None => {}
        }
        let mut content = self.content();
        let position = position.unwrap_or(content.now.len());
        content.change(ContentChange::Write {
            position,
            bytes,
            whole: false,
        });
        result
    }
}

impl StorageFile for FaultyFile {
    fn size(&self) -> io::Result<u64> {
        self.storage.awake()?;
        Ok(self.content().now.len() as u64)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.storage.awake()?;
        self.storage.run_hook(HookTime::BeforeRead);
        let read = {
            let content = self.content();
            let from = usize::try_from(position).unwrap().min(content.now.len());
            let read = buffer.len().min(content.now.len() - from);
            buffer[..read].copy_from_slice(&content.now[from..from + read]);
            read
        };
        self.storage.run_hook(HookTime::AfterRead);
        self.storage.shared().reads += 1;
        Ok(read)
    }

    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.write_parts(None, parts)
    }

    fn write_parts_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.write_parts(usize::try_from(position).ok(), parts)
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.storage.plain_step()?;
        let position = usize::try_from(position).unwrap();
        let whole = bytes.len() <= SECTOR_BYTES;
        let bytes = bytes.to_vec();
        self.content().change(ContentChange::Write {
            position,
            bytes,
            whole,
        });
        Ok(())
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        self.storage.plain_step()?;
        let mut content = self.content();
        let size = usize::try_from(size).unwrap().max(content.now.len());
        content.change(ContentChange::Resize(size));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let fault = self.storage.step()?;
        let lost = matches!(fault, Some(Fault::LostSync));
        if lost || fault.is_none() {
            let mut content = self.content();
            let mut pending = mem::take(&mut content.pending);
            if lost {
                pending.pop();
            }
            for change in pending {
                change.apply(&mut content.synced);
            }
        }
        match fault {
            None => {
                self.storage.shared().file_syncs += 1;
                Ok(())
            }
            Some(fault) => Err(fault.error()),
        }
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.storage.plain_step()?;
        let size = usize::try_from(size).unwrap();
        self.content().change(ContentChange::Resize(size));
        Ok(())
    }
}

fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Cluster of all logs in tests.
pub(crate) const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

/// Returns options with small segments, so that a few records roll, and a sync for each write.
pub(crate) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 540,
        tail_bytes: 340,
        preallocate_bytes: 0,
        sync: SyncPolicy::Always,
    }
}

pub(crate) fn open_log(
    storage: &(impl Storage + Clone),
) -> Result<(LogFiles, Arc<LogView>, OpenReport), OpenError> {
    open_log_scanning(storage, look_of(storage))
}

/// Like [`open_log`], with up to this many zeros ahead of the records.
pub(crate) fn open_log_ahead(
    storage: &(impl Storage + Clone),
    preallocate_bytes: u64,
) -> Result<(LogFiles, Arc<LogView>, OpenReport), OpenError> {
    let options = LogOptions {
        preallocate_bytes,
        ..options()
    };
    open_with(Arc::new(storage.clone()), options, Some(CLUSTER))
}

pub(crate) fn open_log_scanning(
    storage: &(impl Storage + Clone),
    look: OpenScan,
) -> Result<(LogFiles, Arc<LogView>, OpenReport), OpenError> {
    let storage = Arc::new(storage.clone());
    super::open(storage, options(), Some(CLUSTER), look, |_| Ok(()))
}

/// A node whose first start was cut off has no log epoch yet.
fn look_of(storage: &dyn Storage) -> OpenScan {
    match storage.list("log") {
        Ok(segments) if segments.is_empty() => OpenScan::AllSegments,
        _ => OpenScan::LastSegment,
    }
}

/// Opens a log without reporting its damage, if it has any.
pub(crate) fn open_with(
    storage: Arc<dyn Storage>,
    options: LogOptions,
    cluster: Option<ClusterId>,
) -> Result<(LogFiles, Arc<LogView>, OpenReport), OpenError> {
    let look = look_of(&*storage);
    super::open(storage, options, cluster, look, |_| Ok(()))
}

/// Some consecutive records, each an append of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) first: u64,
    /// Epoch and bytes of each record.
    pub(crate) encoded: Vec<(u64, Vec<u8>)>,
}

impl Records {
    /// Creates records from `first`, each of an epoch and with a payload of that many bytes.
    pub(crate) fn new(first: u64, each: impl IntoIterator<Item = (u64, usize)>) -> Records {
        let mut records = Records {
            first,
            encoded: Vec::new(),
        };
        each.into_iter()
            .for_each(|(epoch, bytes)| records.push(epoch, bytes));
        records
    }

    pub(crate) fn push(&mut self, epoch: u64, payload_bytes: usize) {
        let offset = self.end();
        // Two branches never have equal records, since they differ in epoch.
        let payload: Vec<u8> = (0..payload_bytes as u64)
            .map(|n| (n ^ offset.wrapping_mul(31) ^ epoch.wrapping_mul(17)) as u8)
            .collect();
        let mut bytes = BytesMut::new();
        let fields = FrameFields {
            first: Offset(offset),
            epoch: Epoch(epoch),
            timestamp_ms: 1_700_000_000_000 + offset,
            key: b"k",
        };
        fields.encode(&[&payload], &mut bytes);
        self.encoded.push((epoch, bytes.to_vec()));
    }

    pub(crate) fn end(&self) -> u64 {
        self.first + self.encoded.len() as u64
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.encoded
            .iter()
            .flat_map(|(_, bytes)| bytes.iter().copied())
            .collect()
    }

    /// Returns the bytes of the records in `from..until`.
    pub(crate) fn bytes_of(&self, from: u64, until: u64) -> Vec<u8> {
        let range = (from - self.first) as usize..(until - self.first) as usize;
        self.encoded[range]
            .iter()
            .flat_map(|(_, bytes)| bytes.iter().copied())
            .collect()
    }

    /// Returns all of them in one batch.
    pub(crate) fn batch(&self) -> FrameBatch {
        FrameBatch::check(Offset(self.first), self.bytes().into()).unwrap()
    }

    /// Returns all of them in batches of these sizes, repeated.
    pub(crate) fn batches(&self, sizes: &[usize]) -> Vec<FrameBatch> {
        let mut batches = Vec::new();
        let mut sizes = sizes.iter().copied().cycle();
        let mut at = 0;
        while at < self.encoded.len() {
            let until = (at + sizes.next().unwrap_or(1).max(1)).min(self.encoded.len());
            let bytes: Vec<u8> = self.encoded[at..until]
                .iter()
                .flat_map(|(_, bytes)| bytes.clone())
                .collect();
            let first = Offset(self.first + at as u64);
            batches.push(FrameBatch::check(first, bytes.into()).unwrap());
            at = until;
        }
        batches
    }

    /// Returns the records below `end`.
    pub(crate) fn truncated(&self, end: u64) -> Records {
        let mut records = self.clone();
        records
            .encoded
            .truncate(end.saturating_sub(self.first) as usize);
        records
    }

    /// Returns all pairs with a first offset below `before`, the slow way.
    pub(crate) fn epoch_starts(&self, before: u64) -> Vec<EpochStart> {
        let mut pairs: Vec<EpochStart> = Vec::new();
        for (at, (epoch, _)) in self.encoded.iter().enumerate() {
            let pair = EpochStart {
                epoch: Epoch(*epoch),
                first: Offset(self.first + at as u64),
            };
            let is_new = pairs.last().is_none_or(|last| last.epoch != pair.epoch);
            if is_new && pair.first < Offset(before) {
                pairs.push(pair);
            }
        }
        pairs
    }
}

/// Reads everything that a view shows, in steps of `bytes_max`.
pub(crate) fn read_all(view: &Arc<LogView>, bytes_max: usize) -> Vec<u8> {
    let (mut next, end) = (Offset::ZERO, view.written_end());
    let mut bytes = Vec::new();
    while next < end {
        let batches = view.read(next, end, bytes_max).unwrap();
        assert!(!batches.is_empty(), "nothing at {next} of {end}");
        let total: usize = batches.iter().map(|batch| batch.bytes().len()).sum();
        let single = batches.len() == 1 && batches[0].count() == 1;
        assert!(
            total <= bytes_max || single,
            "{total} of {bytes_max} bytes: {batches:?}"
        );
        for batch in batches {
            assert_eq!(batch.first(), next);
            bytes.extend_from_slice(batch.bytes());
            next = batch.end();
        }
    }
    bytes
}

/// Returns every file and its content.
pub(crate) fn dump(storage: &dyn Storage) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for dir in ["", "log", "quarantine"] {
        for name in storage.list(dir).unwrap() {
            let path = if dir.is_empty() {
                name
            } else {
                format!("{dir}/{name}")
            };
            if path != "log" && path != "quarantine" {
                files.insert(path.clone(), content(storage, &path));
            }
        }
    }
    files
}

/// Returns the segments of a dump.
pub(crate) fn segments(storage: &dyn Storage) -> BTreeMap<String, Vec<u8>> {
    let mut files = dump(storage);
    files.retain(|path, _| path.starts_with("log/"));
    files
}

pub(crate) fn content(storage: &dyn Storage, path: &str) -> Vec<u8> {
    crate::storage::read_file(storage, path).unwrap().unwrap()
}

pub(crate) fn set_content(storage: &dyn Storage, path: &str, bytes: &[u8]) {
    if let Some((dir, _)) = path.rsplit_once('/') {
        storage.create_dir(dir).unwrap();
    }
    let file = storage.open(path, OpenHow::Truncated).unwrap();
    file.append(&[IoSlice::new(bytes)]).unwrap();
}

/// Creates a storage with these files.
pub(crate) fn storage_of(files: &BTreeMap<String, Vec<u8>>) -> MemoryStorage {
    let storage = MemoryStorage::new();
    files
        .iter()
        .for_each(|(path, bytes)| set_content(&storage, path, bytes));
    storage
}

mod tests {
    use super::*;

    fn fresh() -> (Arc<dyn Storage>, ()) {
        (Arc::new(FaultyStorage::new()), ())
    }

    crate::storage::suite::conformance!(super::fresh());

    #[test]
    fn a_power_cut_keeps_synced_data_and_guarantees_nothing_more() {
        let storage = FaultyStorage::new();
        let file = storage.open("file", OpenHow::Create).unwrap();
        file.append(&[IoSlice::new(b"synced")]).unwrap();
        file.sync().unwrap();
        let lost = (0..50).any(|seed| storage.after_power_cut(seed).list("").unwrap().is_empty());
        assert!(lost, "an entry needs a sync of its directory");
        storage.sync_dir("").unwrap();
        file.append(&[IoSlice::new(b"more")]).unwrap();
        let left = |seed| content(&storage.after_power_cut(seed), "file");
        assert!((0..50).all(|seed| left(seed).starts_with(b"synced")));
        assert!((0..50).any(|seed| left(seed) == b"synced"));
        assert!((0..50).any(|seed| left(seed) == b"syncedmo"));
        assert!((0..50).any(|seed| left(seed) == b"syncedmore"));
    }
}

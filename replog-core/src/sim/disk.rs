//! The simulated disk: unsynced data may be gone, in part, or torn after a power cut.
//!
//! Per file and per directory: content is durable after a sync of the file, entries after a sync of
//! the directory. Unsynced data survives a killed process and may not survive a power cut: all of
//! it, a prefix, or single pages in any order do. A failed sync drops what it should have kept, and
//! the next one succeeds (as on Linux; Rebello et al., ATC 2020).

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, IoSlice},
    sync::Arc,
};

use rand::{RngExt as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

use super::{
    mistakes::Mistake,
    world::{self, Life, World},
};
use crate::{
    frame::{Claimed, Frame, encoded_len},
    log::{
        Meta,
        mark::{self, Mark, MarkState},
        segment::{self, FileName, SegmentHeader},
        unproven,
    },
    storage::{OpenHow, Storage, StorageFile, StorageLock},
    types::{Epoch, Offset},
};

/// Unit in which a disk writes.
const PAGE_BYTES: usize = 4096;

/// Unit that a disk never tears.
const SECTOR_BYTES: usize = 512;

/// The part of unsynced data that a power cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spared {
    /// Drawn from the seed.
    Drawn,
    Nothing,
    Everything,
    /// Some pages, in any order.
    Pages,
}

/// Identity of a record: the epoch of its author and the checksum of its frame.
pub(crate) type RecordId = (Epoch, u32);

/// The disk of one machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// As programs see it.
    entries: BTreeMap<String, Entry>,
    /// As it is after a power cut.
    durable: BTreeMap<String, Entry>,
    /// The changes between the two, in order.
    unsynced: Vec<EntryChange>,
    files: BTreeMap<u64, File>,
    next_file: u64,
    /// The life that holds the lock.
    locked: Option<u64>,
    /// True if it has no space for more.
    pub(crate) full: bool,
    /// The meta that it holds durably.
    pub(crate) meta: Option<Meta>,
    /// The last log epoch of any meta.
    pub(crate) had_log_epoch: Option<Epoch>,
    /// True if its node starts with a log that is not intact, and therefore reads all of it.
    reads_whole_log: bool,
    /// Set after rot or a failed sync: its node may read damaged data.
    harmed: bool,
    /// The next sync of a file whose path begins with this fails.
    pub(crate) sync_to_fail: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    File(u64),
}

#[derive(Clone, Debug)]
struct EntryChange {
    dir: String,
    /// Applied atomically.
    changes: Vec<(String, Option<Entry>)>,
}

#[derive(Clone, Debug, Default)]
struct File {
    content: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<Change>,
    /// The records of `synced`, as far as it was read.
    held: Held,
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Size(usize),
}

/// The valid records of a segment, from its beginning.
#[derive(Clone, Debug, Default)]
struct Held {
    first: Option<Offset>,
    /// `None`: it rotted.
    records: Vec<Option<RecordId>>,
    /// The index of the last frame's first record.
    last_frame: usize,
    position: usize,
    rots: Vec<Rot>,
}

/// A flipped bit: the place of its frame in the file.
#[derive(Clone, Copy, Debug)]
struct Rot {
    /// The index of the frame's first record.
    nth: usize,
    count: usize,
    position: usize,
    length: usize,
    /// The records before they rotted.
    id: Option<RecordId>,
    /// True if its node must have read it since.
    known: bool,
}

impl Held {
    /// Returns the index of the record at this offset, if the segment reaches that far.
    fn nth(&self, offset: Offset) -> Option<usize> {
        let nth = offset.0.checked_sub(self.first?.0)?;
        usize::try_from(nth).ok()
    }

    /// Reads on from the end of what was read before.
    fn read_on(&mut self, bytes: &[u8]) {
        if self.first.is_none() {
            let Ok(header) = SegmentHeader::decode(bytes) else {
                return;
            };
            self.position = usize::try_from(header.encoded_bytes()).unwrap_or(usize::MAX);
            self.first = Some(header.first);
        }
        while let Some(rest) = bytes.get(self.position..) {
            let rot = self
                .rots
                .iter()
                .position(|rot| rot.position == self.position);
            let (id, count, length) = match (frame_of(rest), rot) {
                (Some((id, count, length)), rot) => {
                    rot.map(|mended| self.rots.remove(mended));
                    (Some(id), count, length)
                }
                (None, Some(rot)) if rest.len() > self.rots[rot].length => {
                    (None, self.rots[rot].count, self.rots[rot].length)
                }
                (None, _) => break,
            };
            self.last_frame = self.records.len();
            self.records.resize(self.last_frame + count, id);
            self.position += length;
        }
    }

    /// Reads everything again.
    fn read_again(&mut self, bytes: &[u8]) {
        let mut rots = std::mem::take(&mut self.rots);
        rots.retain(|rot| rot.position + rot.length <= bytes.len());
        *self = Held {
            rots,
            ..Held::default()
        };
        self.read_on(bytes);
    }
}

/// Returns the identity of the records of the valid frame at the beginning of `bytes`, their number, and the frame's
/// length.
fn frame_of(bytes: &[u8]) -> Option<(RecordId, usize, usize)> {
    let frame = Frame::decode(bytes).ok()?;
    let crc = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    Some((
        (frame.epoch, crc),
        frame.count as usize,
        frame.encoded_bytes(),
    ))
}

impl File {
    fn apply(to: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Size(size) => to.resize(*size, 0),
            Change::Write { at, bytes } => write(to, *at, bytes),
        }
    }

    fn change(&mut self, change: Change) {
        File::apply(&mut self.content, &change);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        let (size_before, read) = (self.synced.len(), self.held.position);
        let mut only_grew = true;
        for change in std::mem::take(&mut self.pending) {
            only_grew &= match &change {
                Change::Write { at, .. } => *at >= read,
                Change::Size(size) => *size >= size_before,
            };
            File::apply(&mut self.synced, &change);
        }
        if only_grew {
            self.held.read_on(&self.synced);
        } else {
            self.held.read_again(&self.synced);
        }
    }

    /// With [`Mistake::NoChecksumAtStart`]: accepts whatever is in the place of a frame as one.
    fn pass_checks(&mut self, from: usize) {
        let Ok(header) = SegmentHeader::decode(&self.synced) else {
            return;
        };
        let mut position = usize::try_from(header.encoded_bytes()).unwrap_or(usize::MAX);
        while let Some(rest) = self.synced.get(position..)
            && let Ok(length) = encoded_len(rest)
            && length <= rest.len()
        {
            if position + length > from {
                let frame = &mut self.synced[position..position + length];
                let crc = crate::frame::checksum(frame);
                frame[4..8].copy_from_slice(&crc.to_le_bytes());
            }
            position += length;
        }
    }

    /// Applies a power cut.
    fn lose_power(&mut self, rng: &mut ChaCha8Rng, spared: Spared, checked: bool) -> bool {
        let mut torn = false;
        let synced_before = self.synced.len();
        let pending = std::mem::take(&mut self.pending);
        let how = match spared {
            Spared::Drawn => rng.random_range(0..4),
            Spared::Nothing => 0,
            Spared::Everything => 1,
            Spared::Pages => 3,
        };
        for change in pending {
            match (how, change) {
                (0, _) => break,
                (1, change) => File::apply(&mut self.synced, &change),
                (2, Change::Write { at, mut bytes }) if at >= self.synced.len() => {
                    let kept = rng.random_range(0..=bytes.len());
                    let whole = kept == bytes.len();
                    bytes.truncate(kept);
                    write(&mut self.synced, at, &bytes);
                    if !whole {
                        break;
                    }
                }
                (2, change @ Change::Size(_)) => File::apply(&mut self.synced, &change),
                // In place and small: a sector is written whole or not at all.
                (_, Change::Write { at, bytes })
                    if at + bytes.len() <= self.synced.len()
                        && at / SECTOR_BYTES
                            == (at + bytes.len()).saturating_sub(1) / SECTOR_BYTES =>
                {
                    if rng.random_bool(0.5) {
                        write(&mut self.synced, at, &bytes);
                    }
                }
                (_, Change::Write { at, bytes }) => {
                    torn |= self.write_some_pages(rng, at, &bytes);
                }
                (_, change @ Change::Size(_)) => {
                    if rng.random_bool(0.5) {
                        break;
                    }
                    File::apply(&mut self.synced, &change);
                }
            }
        }
        if !checked {
            self.pass_checks(synced_before);
        }
        self.content.clone_from(&self.synced);
        self.held.read_again(&self.synced);
        torn && self.held.first.is_some()
    }

    /// Flips a bit of the frame with the `nth` record of this segment.
    fn flip(&mut self, rng: &mut ChaCha8Rng, nth: usize) -> Option<()> {
        let header = SegmentHeader::decode(&self.synced).ok()?;
        let mut position = usize::try_from(header.encoded_bytes()).ok()?;
        let mut first = 0;
        let (count, length) = loop {
            let mut rots = self.held.rots.iter();
            let (count, length) = match rots.find(|rot| rot.position == position) {
                Some(rot) => (rot.count, rot.length),
                None => {
                    let frame = Claimed::read(&self.synced[position..]).ok()?;
                    (frame.end.records_since(frame.first) as usize, frame.bytes)
                }
            };
            if nth < first + count {
                break (count, length);
            }
            (first, position) = (first + count, position + length);
        };
        let at = position + rng.random_range(0..length);
        let bit = 1 << rng.random_range(0..8);
        self.synced[at] ^= bit;
        self.content[at] ^= bit;
        let was = self.held.rots.iter().find(|rot| rot.position == position);
        let id = was.map_or(self.held.records[first], |rot| rot.id);
        self.held.rots.push(Rot {
            nth: first,
            count,
            position,
            length,
            id,
            known: false,
        });
        self.held.records[first..first + count].fill(None);
        Some(())
    }

    /// Writes some pages, in any order; returns true if one is written behind one that is not.
    fn write_some_pages(&mut self, rng: &mut ChaCha8Rng, at: usize, bytes: &[u8]) -> bool {
        let (mut from, mut hole, mut torn) = (0, false, false);
        while from < bytes.len() {
            let page_end = ((at + from) / PAGE_BYTES + 1) * PAGE_BYTES - at;
            let until = page_end.min(bytes.len());
            if rng.random_bool(0.5) {
                torn |= hole;
                write(&mut self.synced, at + from, &bytes[from..until]);
                if self.held.first.is_some() && rng.random_bool(0.05) {
                    let flipped = at + rng.random_range(from..until);
                    self.synced[flipped] ^= 1 << rng.random_range(0..8);
                }
            } else {
                hole = true;
            }
            from = until;
        }
        torn
    }
}

fn write(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[at..end].copy_from_slice(bytes);
}

impl Disk {
    /// Applies the end of the process; the machine goes on.
    pub(crate) fn lose_process(&mut self) {
        self.locked = None;
    }

    /// Applies a power cut: unsynced data is lost or torn; returns true if this left a hole in a
    /// log.
    pub(crate) fn lose_power(
        &mut self,
        rng: &mut ChaCha8Rng,
        spared: Spared,
        checked: bool,
    ) -> bool {
        self.locked = None;
        let changes = std::mem::take(&mut self.unsynced);
        let kept = match spared {
            Spared::Drawn | Spared::Pages => rng.random_range(0..=changes.len()),
            Spared::Nothing => 0,
            Spared::Everything => changes.len(),
        };
        for change in changes.into_iter().take(kept) {
            apply_entries(&mut self.durable, &change);
        }
        self.entries.clone_from(&self.durable);
        let named: Vec<u64> = self.entries.values().filter_map(file_of).collect();
        self.files.retain(|id, _| named.contains(id));
        let mut torn = false;
        for file in self.files.values_mut() {
            torn |= file.lose_power(rng, spared, checked);
        }
        self.read_meta();
        torn
    }

    /// Erases everything.
    pub(crate) fn wipe(&mut self) {
        *self = Disk {
            next_file: self.next_file,
            full: self.full,
            ..Disk::default()
        };
    }

    /// Returns the durable content of a file; `None` if it does not exist durably.
    fn durable_file(&self, path: &str) -> Option<&[u8]> {
        let id = self.durable.get(path).and_then(file_of)?;
        Some(&self.files.get(&id)?.synced)
    }

    /// Returns the record at `offset`, if it is durable.
    pub(crate) fn held(&self, offset: Offset) -> Option<RecordId> {
        let upto = segment::path(offset);
        let mut older = self.durable.range(..=upto).rev();
        let (_, entry) = older.find(|(path, _)| is_segment(path))?;
        let held = &self.files.get(&file_of(entry)?)?.held;
        let index = usize::try_from(offset.0.checked_sub(held.first?.0)?).ok()?;
        held.records.get(index).copied().flatten()
    }

    /// Returns the offset after the last record of the log that is durable and not behind a gap.
    pub(crate) fn held_end(&self) -> Offset {
        let mut end = Offset::ZERO;
        for (path, entry) in self.durable.range("log/".to_owned()..) {
            let held = file_of(entry)
                .filter(|_| is_segment(path))
                .and_then(|id| self.files.get(&id))
                .map(|file| &file.held);
            match held {
                Some(held) if held.first == Some(end) => {
                    end = end.plus(held.records.len() as u64);
                }
                _ => break,
            }
        }
        end
    }

    /// Returns the durable segments.
    fn durable_segments(&self) -> impl Iterator<Item = &File> {
        let segments = self.durable.iter().filter(|(path, _)| is_segment(path));
        segments.filter_map(|(_, entry)| self.files.get(&file_of(entry)?))
    }

    /// Returns true if the record at `offset` rotted and is not repaired yet.
    pub(crate) fn rotted(&self, offset: Offset) -> bool {
        self.durable_segments().any(|file| {
            !file.held.rots.is_empty()
                && file
                    .held
                    .nth(offset)
                    .is_some_and(|nth| file.held.records.get(nth) == Some(&None))
        })
    }

    /// Returns the identity that the record at `offset` had, if it rotted and is not repaired yet.
    pub(crate) fn rotted_id(&self, offset: Offset) -> Option<RecordId> {
        self.durable_segments().find_map(|file| {
            let nth = file.held.nth(offset)?;
            let mut rots = file.held.rots.iter();
            let rot = rots.find(|rot| (rot.nth..rot.nth + rot.count).contains(&nth))?;
            file.held.records.get(nth)?.is_none().then_some(rot.id)?
        })
    }

    /// Notes that its node has started. With a log that was not intact it has read all of it, and
    /// knows of all rot.
    pub(crate) fn on_started(&mut self) {
        if !self.reads_whole_log {
            return;
        }
        for file in self.files.values_mut() {
            file.held.rots.iter_mut().for_each(|rot| rot.known = true);
        }
    }

    /// Returns true if its node is intact; `None` if it has no meta.
    fn is_intact(&self) -> Option<bool> {
        let meta = self.meta.as_ref()?;
        Some(meta.log_epoch.is_some())
    }

    /// Returns true if there is rot that its node must have read.
    fn has_known_rot(&self) -> bool {
        let mut rots = self.durable_segments().flat_map(|file| &file.held.rots);
        rots.any(|rot| rot.known)
    }

    /// Returns true if any record rotted.
    pub(crate) fn has_rot(&self) -> bool {
        self.durable_segments()
            .any(|file| !file.held.rots.is_empty())
    }

    /// Flips a bit of a frame that is durable, below the mark, and not the last of its segment;
    /// returns the offset of one of its records. Rot above a mark that a power cut left behind cannot be told from a torn
    /// tail, so the system promises nothing about it.
    pub(crate) fn rot(&mut self, rng: &mut ChaCha8Rng) -> Option<Offset> {
        let mark = self.durable.get(mark::PATH).and_then(file_of)?;
        // The mark was written back long ago, as far as it was written at all.
        self.files.get_mut(&mark)?.sync();
        let mark = Mark::decode(self.durable_file(mark::PATH)?)?;
        let logs = self.durable.iter().filter(|(path, _)| is_segment(path));
        let mut logs: Vec<u64> = logs.filter_map(|(_, entry)| file_of(entry)).collect();
        if rng.random_bool(0.5) {
            logs.shuffle(rng);
        } else {
            // The newest one, which a start reads.
            logs.reverse();
        }
        let file = self.files.get_mut(logs.first()?)?;
        let first = file.held.first?;
        let below_mark = mark.end.0.checked_sub(first.0)?;
        let others = (file.held.last_frame as u64).min(below_mark);
        let nth = usize::try_from(others).ok().filter(|others| *others > 0)?;
        let nth = rng.random_range(0..nth);
        file.held.records[nth]?;
        file.flip(rng, nth)?;
        self.harmed = true;
        Some(first.plus(nth as u64))
    }

    /// Flips a bit of the frame with the record at `offset`, if it is durable.
    pub(crate) fn rot_at(&mut self, rng: &mut ChaCha8Rng, offset: Offset) -> Option<()> {
        let upto = segment::path(offset);
        let mut older = self.durable.range(..=upto).rev();
        let (_, entry) = older.find(|(path, _)| is_segment(path))?;
        let file = self.files.get_mut(&file_of(entry)?)?;
        let nth = usize::try_from(offset.0.checked_sub(file.held.first?.0)?).ok()?;
        file.held.records.get(nth)?.as_ref()?;
        self.harmed = true;
        file.flip(rng, nth)
    }

    /// Flips a bit of the last durable record; returns its offset.
    pub(crate) fn rot_last(&mut self, rng: &mut ChaCha8Rng) -> Option<Offset> {
        let mut logs = self.durable.iter().rev();
        let (_, entry) = logs.find(|(path, _)| is_segment(path))?;
        let file = self.files.get_mut(&file_of(entry)?)?;
        let (first, last) = (file.held.first?, file.held.records.len().checked_sub(1)?);
        file.flip(rng, last)?;
        self.harmed = true;
        Some(first.plus(last as u64))
    }

    /// Removes the mark.
    pub(crate) fn lose_mark(&mut self) {
        for entries in [&mut self.entries, &mut self.durable] {
            entries.remove(mark::PATH);
        }
        self.unsynced
            .retain(|change| change.changes.iter().all(|(path, _)| path != mark::PATH));
        self.harmed = true;
    }

    /// With [`Mistake::MissingMarkBelieved`]: makes a mark that claims no synced records, which is all
    /// that a missing one says.
    fn make_mark(&mut self) {
        self.next_file += 1;
        let id = self.next_file;
        let mark = Mark {
            end: Offset::ZERO,
            state: MarkState::Open,
        };
        let content = mark.encode().to_vec();
        let file = File {
            synced: content.clone(),
            content,
            ..File::default()
        };
        self.files.insert(id, file);
        for entries in [&mut self.entries, &mut self.durable] {
            entries.insert(mark::PATH.to_owned(), Entry::File(id));
        }
    }

    fn file(&mut self, id: u64) -> &mut File {
        self.files.entry(id).or_default()
    }

    fn put(&mut self, changes: Vec<(String, Option<Entry>)>) {
        let dir = changes
            .first()
            .and_then(|(path, _)| path.rsplit_once('/'))
            .map_or("", |(dir, _)| dir)
            .to_owned();
        let change = EntryChange { dir, changes };
        apply_entries(&mut self.entries, &change);
        self.unsynced.push(change);
    }

    fn sync_dir(&mut self, dir: &str) {
        let (synced, rest) = std::mem::take(&mut self.unsynced)
            .into_iter()
            .partition(|change| change.dir == dir);
        self.unsynced = rest;
        let synced: Vec<EntryChange> = synced;
        for change in &synced {
            apply_entries(&mut self.durable, change);
        }
        self.read_meta();
    }

    fn read_meta(&mut self) {
        let bytes = self.durable_file("meta.json");
        self.meta = bytes.and_then(|bytes| Meta::decode(bytes).ok());
        let log_epoch = self.meta.as_ref().and_then(|meta| meta.log_epoch);
        self.had_log_epoch = log_epoch.or(self.had_log_epoch);
    }
}

fn apply_entries(to: &mut BTreeMap<String, Entry>, change: &EntryChange) {
    for (path, entry) in &change.changes {
        match entry {
            Some(entry) => to.insert(path.clone(), *entry),
            None => to.remove(path),
        };
    }
}

fn file_of(entry: &Entry) -> Option<u64> {
    match entry {
        Entry::File(id) => Some(*id),
        Entry::Directory => None,
    }
}

fn is_segment(path: &str) -> bool {
    path.strip_prefix("log/")
        .is_some_and(|name| matches!(FileName::of(name), FileName::Segment(_)))
}

fn gone() -> io::Error {
    io::Error::other("this life of the machine is over")
}

/// Changes a disk, unless the life that wants it is over.
fn act<T>(
    life: Life,
    text: fmt::Arguments<'_>,
    what: impl FnOnce(&mut World) -> io::Result<T>,
) -> io::Result<T> {
    world::with(|world| {
        if !world.lives(life) {
            world.count("disk: refused to a life that is over");
            return Err(gone());
        }
        world.note_of(life.machine, format_args!("disk: {text}"));
        // The planned crash may be exactly here.
        if !world.lives(life) {
            return Err(gone());
        }
        what(world)
    })
}

/// Reads a disk, which leaves no trace.
fn look<T>(life: Life, what: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
    world::with(|world| {
        if !world.lives(life) {
            return Err(gone());
        }
        what(&mut world.machine(life.machine).disk)
    })
}

/// The disk as one life of a machine sees it.
#[derive(Debug)]
pub(crate) struct SimulatedStorage {
    pub(crate) life: Life,
}

#[derive(Debug)]
struct OpenFile {
    life: Life,
    path: String,
    id: u64,
}

#[derive(Debug)]
struct Lock {
    life: Life,
}

impl Storage for SimulatedStorage {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let prefix = if dir.is_empty() {
            String::new()
        } else {
            format!("{dir}/")
        };
        look(self.life, |disk| {
            let below = disk.entries.keys();
            let names = below.filter_map(|path| path.strip_prefix(&prefix));
            Ok(names
                .filter(|name| !name.contains('/'))
                .map(str::to_owned)
                .collect())
        })
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        act(self.life, format_args!("make directory {dir}"), |world| {
            let disk = &mut world.machine(self.life.machine).disk;
            if !disk.entries.contains_key(dir) {
                disk.put(vec![(dir.to_owned(), Some(Entry::Directory))]);
            }
            Ok(())
        })
    }

    fn open(&self, path: &str, how: OpenHow) -> io::Result<Arc<dyn StorageFile>> {
        let believed = world::with(|world| world.planted(Mistake::MissingMarkBelieved));
        if believed && path == mark::PATH {
            look(self.life, |disk| {
                if !disk.entries.contains_key(mark::PATH) {
                    disk.make_mark();
                }
                Ok(())
            })?;
        }
        let mut known = look(self.life, |disk| Ok(disk.entries.get(path).copied()))?;
        if path == unproven::PATH && world::with(|world| world.planted(Mistake::FillBelieved)) {
            known = None;
        }
        if let Some(original) = self.believed(path)? {
            known = Some(original);
        }
        let id = match (known.as_ref().and_then(file_of), how) {
            (Some(id), OpenHow::Existing | OpenHow::Create) => id,
            (None, OpenHow::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (Some(id), OpenHow::Truncated) => {
                act(self.life, format_args!("empty {path}"), |world| {
                    if world.planted(Mistake::CacheBelieved) && path.ends_with(".log.new") {
                        return Ok(id);
                    }
                    let disk = &mut world.machine(self.life.machine).disk;
                    disk.file(id).change(Change::Size(0));
                    Ok(id)
                })?
            }
            (None, OpenHow::Truncated | OpenHow::Create) => {
                act(self.life, format_args!("make {path}"), |world| {
                    let disk = &mut world.machine(self.life.machine).disk;
                    disk.next_file += 1;
                    let id = disk.next_file;
                    disk.files.insert(id, File::default());
                    disk.put(vec![(path.to_owned(), Some(Entry::File(id)))]);
                    Ok(id)
                })?
            }
        };
        Ok(Arc::new(OpenFile {
            life: self.life,
            path: path.to_owned(),
            id,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        act(self.life, format_args!("rename {from} to {to}"), |world| {
            let disk = &mut world.machine(self.life.machine).disk;
            let entry = disk.entries.get(from).copied();
            let entry = entry.ok_or(io::ErrorKind::NotFound)?;
            let mut changes = vec![(from.to_owned(), None)];
            // No copy was made: the old file stays as it is.
            if disk.entries.get(to) != Some(&entry) {
                changes.push((to.to_owned(), Some(entry)));
            }
            disk.put(changes);
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let instead = self.oldest_to_be_cut(path);
        let path = instead.as_deref().unwrap_or(path);
        act(self.life, format_args!("remove {path}"), |world| {
            let disk = &mut world.machine(self.life.machine).disk;
            if !disk.entries.contains_key(path) {
                return Err(io::ErrorKind::NotFound.into());
            }
            disk.put(vec![(path.to_owned(), None)]);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        act(self.life, format_args!("sync directory {dir:?}"), |world| {
            if world.planted(Mistake::RenameNotSynced) && dir.is_empty() {
                return Ok(());
            }
            if world.planted(Mistake::SegmentEntryNotSynced) && dir == segment::DIR {
                return Ok(());
            }
            if world.faults_on && world.chance(world.faults.failed_sync) {
                world.count("fault: failed sync of a directory");
                world.machine(self.life.machine).disk.harmed = true;
                return Err(io::Error::other("simulated: EIO"));
            }
            let machine = self.life.machine;
            let disk = &mut world.machine(machine).disk;
            let was_intact = disk.is_intact() == Some(true);
            disk.sync_dir(dir);
            match disk.is_intact() {
                Some(false) if was_intact && !disk.harmed => world.on_false_damage(machine),
                Some(true) if !was_intact && disk.has_known_rot() => {
                    world.on_damage_forgotten(machine);
                }
                _ => {}
            }
            Ok(())
        })
    }

    fn lock(&self) -> io::Result<Box<dyn StorageLock>> {
        let life = self.life;
        look(life, |disk| match disk.locked.replace(life.boot) {
            Some(holder) if holder == life.boot => Err(io::ErrorKind::WouldBlock.into()),
            _ => {
                disk.reads_whole_log = disk.is_intact() == Some(false);
                Ok(Box::new(Lock { life }) as Box<dyn StorageLock>)
            }
        })
    }

    fn survives_the_process(&self) -> bool {
        true
    }
}

impl StorageLock for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        if !world::exists() {
            return;
        }
        let _ = look(self.life, |disk| {
            disk.locked = None;
            Ok(())
        });
    }
}

impl SimulatedStorage {
    /// With [`Mistake::CutOldestFirst`]: returns the oldest segment that the present cut removes.
    fn oldest_to_be_cut(&self, path: &str) -> Option<String> {
        if !is_segment(path) || !world::with(|world| world.planted(Mistake::CutOldestFirst)) {
            return None;
        }
        let to = world::with(|world| world.memory.cut_to.get(&self.life.machine).copied())?;
        let from = segment::path(to);
        let oldest = look(self.life, |disk| {
            let mut after = disk.entries.range(from..).map(|(path, _)| path.clone());
            Ok(after.find(|path| is_segment(path)))
        });
        oldest.ok().flatten()
    }

    /// With [`Mistake::CacheBelieved`], returns the original file in place of its copy.
    fn believed(&self, path: &str) -> io::Result<Option<Entry>> {
        if !world::with(|world| world.planted(Mistake::CacheBelieved)) {
            return Ok(None);
        }
        let Some(original) = path.strip_suffix(".new").filter(|path| is_segment(path)) else {
            return Ok(None);
        };
        look(self.life, |disk| {
            let entry = disk.entries.get(original).copied();
            if let Some(entry) = entry {
                disk.put(vec![(path.to_owned(), Some(entry))]);
            }
            Ok(entry)
        })
    }
}

impl OpenFile {
    /// Returns true if this file is such a false copy.
    fn is_believed(&self, world: &World) -> bool {
        let disk = &world.machines[self.life.machine.0].disk;
        world.planted(Mistake::CacheBelieved)
            && self.path.ends_with(".log.new")
            && disk.entries.contains_key(&self.path)
    }

    fn grow(&self, world: &mut World, at: usize, bytes: &[u8]) -> io::Result<()> {
        if self.is_believed(world) {
            return Ok(());
        }
        let disk = &mut world.machines[self.life.machine.0].disk;
        let grows = at + bytes.len() > disk.file(self.id).content.len();
        if disk.full && grows {
            let kept = world.rng.random_range(0..=bytes.len());
            let bytes = bytes[..kept].to_vec();
            let disk = &mut world.machine(self.life.machine).disk;
            disk.file(self.id).change(Change::Write { at, bytes });
            world.count("fault: no room for a write");
            return Err(io::ErrorKind::StorageFull.into());
        }
        let bytes = bytes.to_vec();
        disk.file(self.id).change(Change::Write { at, bytes });
        Ok(())
    }
}

impl OpenFile {
    /// Returns the mark as a node with a planted mistake reads it.
    fn mistaken_mark(&self) -> Option<[u8; mark::BYTES]> {
        let planted = |mistake| world::with(|world| world.planted(mistake));
        let mark = match () {
            () if planted(Mistake::DamagePassesForTornTail) => Mark {
                end: Offset::ZERO,
                state: MarkState::Open,
            },
            () if planted(Mistake::CutBelieved) => {
                let content = look(self.life, |disk| Ok(disk.file(self.id).content.clone()));
                Mark {
                    state: MarkState::Open,
                    ..Mark::decode(&content.ok()?)?
                }
            }
            () => return None,
        };
        Some(mark.encode())
    }
}

impl StorageFile for OpenFile {
    fn size(&self) -> io::Result<u64> {
        look(
            self.life,
            |disk| Ok(disk.file(self.id).content.len() as u64),
        )
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mistaken = match self.path == mark::PATH {
            true => self.mistaken_mark(),
            false => None,
        };
        look(self.life, |disk| {
            let content = &disk.file(self.id).content;
            let content = mistaken.as_ref().map_or(&content[..], |mark| mark);
            let from = usize::try_from(position).map_or(content.len(), |at| at.min(content.len()));
            let count = buffer.len().min(content.len() - from);
            buffer[..count].copy_from_slice(&content[from..from + count]);
            Ok(count)
        })
    }

    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let (path, count) = (&self.path, bytes.len());
        act(
            self.life,
            format_args!("append {count} bytes to {path}"),
            |world| {
                let disk = &mut world.machine(self.life.machine).disk;
                let at = disk.file(self.id).content.len();
                self.grow(world, at, &bytes)
            },
        )
    }

    fn write_parts_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.write_at(position, &bytes)
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let (path, count) = (&self.path, bytes.len());
        act(
            self.life,
            format_args!("write {count} bytes at {position} of {path}"),
            |world| {
                let at = usize::try_from(position).map_err(|_| io::ErrorKind::FileTooLarge)?;
                self.grow(world, at, bytes)
            },
        )
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        act(
            self.life,
            format_args!("allocate {size} for {}", self.path),
            |world| {
                let disk = &mut world.machine(self.life.machine).disk;
                let size = usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
                if disk.full {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                if disk.file(self.id).content.len() < size {
                    disk.file(self.id).change(Change::Size(size));
                }
                Ok(())
            },
        )
    }

    fn sync(&self) -> io::Result<()> {
        act(self.life, format_args!("sync {}", self.path), |world| {
            let machine = self.life.machine;
            let told = &mut world.machine(machine).disk.sync_to_fail;
            let told = told
                .take_if(|begin| self.path.starts_with(*begin))
                .is_some();
            if told || (world.faults_on && world.chance(world.faults.failed_sync)) {
                world.count("fault: failed sync");
                let path = &self.path;
                world.note_of(machine, format_args!("disk: the sync of {path} fails"));
                let disk = &mut world.machine(machine).disk;
                // The pages count as clean from now on.
                disk.file(self.id).pending.clear();
                disk.harmed = true;
                if world.planted(Mistake::FailedSyncTriedAgain) {
                    return Ok(());
                }
                return Err(io::Error::other("simulated: EIO"));
            }
            let skipped = world.planted(Mistake::MetaNotSynced) && self.path.starts_with("meta")
                || world.planted(Mistake::MarkNotSynced) && self.path == mark::PATH;
            let starts = world.planted(Mistake::StartSyncsNothing)
                && self.path.starts_with(segment::DIR)
                && world.checks.view(machine).is_none();
            let mistaken = world.planted(Mistake::CutNotSynced);
            let file = world.machine(machine).disk.file(self.id);
            let cut = file
                .pending
                .iter()
                .any(|change| matches!(change, Change::Size(_)));
            if skipped || starts || (mistaken && cut && file.pending.len() == 1) {
                return Ok(());
            }
            file.sync();
            Ok(())
        })
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        act(
            self.life,
            format_args!("cut {} to {size} bytes", self.path),
            |world| {
                let size = usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
                let disk = &mut world.machine(self.life.machine).disk;
                disk.file(self.id).change(Change::Size(size));
                Ok(())
            },
        )
    }
}

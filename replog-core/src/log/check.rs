//! Offline check of a node's whole directory: damage, torn tails and leftovers.
//!
//! Owns the report on a directory, and reads every byte of its log for it. Changes nothing, starts nothing, repairs
//! nothing. Keeps rule 10: damage is reported wherever it is, while a node would meet it only when it reads there,
//! and a torn tail is defined by the same mark as at a start. Memory does not grow with the log (rule 11).
//!
//! | class | meaning | the node |
//! | --- | --- | --- |
//! | damage | a file or a record that was synced is not as it was written, or is missing | does not serve it |
//! | torn tail | left after the mark by a crash | cuts it away at its next start |
//! | note | leftovers, and files that can be made again | loses nothing by it |

use std::{fmt, io};

use serde::Serialize;

use super::{
    PROBE_PATH, keys_file,
    mark::{self, Mark},
    meta::{self, Meta},
    quarantine, repair_epoch,
    segment::{self, FileName},
    unproven,
};
use crate::{
    error::{CheckError, OpenError},
    frame::FrameError,
    limits::FINDINGS_MAX,
    rules::keys::Snapshot,
    storage::{LOCK_FILE, Storage},
    types::{ClusterId, Epoch, NodeName, Offset},
    words::counted,
};

mod segments;

/// Reads everything that a node keeps in `storage` and reports its content and its defects.
///
/// Holds the directory's lock while it reads, so that no node starts meanwhile, and writes nothing. Files on disk
/// are best opened with [`FileStorage::open_read_only`](crate::storage::FileStorage::open_read_only), which does
/// not create a lock file either.
///
/// # Errors
///
/// [`CheckError::Locked`] while a node runs in it, [`CheckError::NoNode`] where none ever did, [`CheckError::Io`]
/// when a directory cannot be listed or the lock cannot be requested. A file that cannot be read is not an error
/// but a finding.
pub fn directory(storage: &dyn Storage) -> Result<Report, CheckError> {
    let _lock = storage.lock().map_err(|source| refused("lock", source))?;
    let names = list(storage, "")?;
    let segments = list(storage, segment::DIR)?;
    let mut report = Report::default();
    let is_there = |path: &str| names.iter().any(|name| name == path);

    let has_segments = segments
        .iter()
        .any(|name| matches!(FileName::of(name), FileName::Segment(_)));
    if !has_segments && !is_there(meta::PATH) && !is_there(mark::PATH) {
        return Err(CheckError::NoNode);
    }
    let meta = Meta::load(storage);
    // Also where the node knows how far a damaged log went: without a mark it no longer does.
    let needs_mark = |meta: &Meta| {
        meta.log_epoch.is_some() || meta.last_whole.is_some() && meta.is_promised_to_self()
    };
    let needs_mark = matches!(&meta, Ok(Some(meta)) if needs_mark(meta));
    let mark_file = (is_there(mark::PATH), needs_mark);
    let mark = check_mark(storage, &mut report, mark_file);
    let log_is_empty = !has_segments && mark.is_none_or(|mark| mark.end == Offset::ZERO);
    let owner = check_meta(meta, &mut report, log_is_empty);
    segments::look(storage, &mut report, &segments, owner, mark);
    check_keys(storage, &mut report);
    check_leftovers(&mut report, &names);
    for name in list(storage, quarantine::DIR)? {
        segments::check_quarantined(storage, &mut report, &format!("{}/{name}", quarantine::DIR));
    }
    Ok(report)
}

/// Returns the owner of a directory, from its meta file alone; `None` if no node has run in it.
///
/// Reads one small file and takes no lock: a node may be running in it.
///
/// # Errors
///
/// [`OpenError`] when the meta file is damaged, newer than this program, or cannot be read.
pub fn owner(storage: &dyn Storage) -> Result<Option<DirectoryOwner>, OpenError> {
    let owner_of = |meta: Meta| DirectoryOwner {
        was_master: meta.is_promised_to_self(),
        cluster_id: meta.cluster.map(|cluster| cluster.id),
        name: meta.name,
    };
    Ok(Meta::load(storage)?.map(owner_of))
}

/// The node that a directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectoryOwner {
    /// Name of the node.
    pub name: NodeName,
    /// Cluster that the node belongs to; `None` if it never joined one.
    pub cluster_id: Option<ClusterId>,
    /// `true` if the last epoch that it promised was its own: as a master it led that epoch, or tried to.
    pub was_master: bool,
}

/// Content of a node's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Name of the node; absent where it cannot be read.
    pub name: Option<NodeName>,
    /// Cluster that the node belongs to; absent if it never joined one.
    pub cluster_id: Option<ClusterId>,
    /// The newest epoch with whose master the log agrees.
    pub log_epoch: Option<Epoch>,
    /// `true` if it has a log epoch: a node that is not intact counts for nothing until it is refilled.
    pub intact: bool,
    /// Number of segment files.
    pub segments: u64,
    /// Number of records that can be read.
    pub records: u64,
    /// Bytes of the segment files.
    pub bytes: u64,
    /// The offset after the last record that can be read.
    pub end: Offset,
    /// Everything below this offset is known to be synced. Absent if the mark is missing or unreadable.
    pub mark: Option<Offset>,
    /// Number of findings of each class.
    pub counts: Counts,
    /// The findings, file by file: the first [`FINDINGS_MAX`] of each class.
    pub findings: Vec<Finding>,
}

/// Number of findings of each class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Findings of class [`Class::Damage`].
    pub damage: u64,
    /// Findings of class [`Class::TornTail`].
    pub torn_tail: u64,
    /// Findings of class [`Class::Note`].
    pub note: u64,
}

impl Report {
    /// Returns `true` if anything was found that a node does not serve.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.counts.damage > 0
    }

    /// Returns the number of findings that are not listed because there are too many.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        let Counts {
            damage,
            torn_tail,
            note,
        } = self.counts;
        damage + torn_tail + note - self.findings.len() as u64
    }

    fn add(&mut self, finding: Finding) {
        let count = match finding.class {
            Class::Damage => &mut self.counts.damage,
            Class::TornTail => &mut self.counts.torn_tail,
            Class::Note => &mut self.counts.note,
        };
        *count += 1;
        if *count <= FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    /// Adds a finding about a whole file.
    fn add_file(&mut self, class: Class, path: &str, what: impl Into<String>) {
        self.add(Finding::of_file(class, path, what));
    }
}

/// One defect or irregularity.
///
/// Displayed as one line: `FILE at byte N, offset O: what`, with the parts that are known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// Severity for the node.
    pub class: Class,
    /// Path of the file, below the node's directory.
    pub path: String,
    /// Position in the file; absent if the whole file is meant.
    pub position: Option<u64>,
    /// The first offset affected.
    pub offset: Option<Offset>,
    /// The first offset after `offset` that can be read again, if known: the records between cannot be read.
    pub until: Option<Offset>,
    /// Bytes of a torn tail, up to its last byte that is not zero.
    pub torn_bytes: Option<u64>,
    /// Description of the problem, for people.
    pub what: String,
}

/// Severity of a finding for the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Synced data is not as it was written, or is missing: the node does not serve it.
    Damage,
    /// Data that a crash left above the mark: the next start cuts it away, and none of it was promised.
    TornTail,
    /// A leftover, or a file that can be made again.
    Note,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Class::Damage => "damage",
            Class::TornTail => "torn tail",
            Class::Note => "note",
        })
    }
}

impl Finding {
    fn of_file(class: Class, path: &str, what: impl Into<String>) -> Finding {
        Finding {
            class,
            path: path.to_owned(),
            position: None,
            offset: None,
            until: None,
            torn_bytes: None,
            what: what.into(),
        }
    }

    /// Adds the place in the file: offset and byte.
    fn at(mut self, (offset, position): (Offset, u64)) -> Finding {
        (self.offset, self.position) = (Some(offset), Some(position));
        self
    }

    /// Adds the first offset affected, to which no byte of the file belongs.
    fn at_offset(mut self, offset: Offset) -> Finding {
        self.offset = Some(offset);
        self
    }

    /// Extends the finding to the records from its offset up to `until`, if there are any.
    fn up_to(mut self, until: Offset) -> Finding {
        self.until = Some(until).filter(|until| self.offset.is_some_and(|from| from < *until));
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(position) = self.position {
            write!(f, " at byte {position}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, ", offset {offset}")?;
        }
        write!(f, ": {}, {}", self.class, self.what)?;
        if let (Some(from), Some(until)) = (self.offset, self.until) {
            write!(f, "; offsets {from}..{until} cannot be read")?;
        }
        if let Some(bytes) = self.torn_bytes {
            write!(f, "; the next start cuts {} away", counted(bytes, "byte"))?;
        }
        Ok(())
    }
}

/// Expected owner of the segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// This cluster.
    Cluster(ClusterId),
    /// No cluster: the node never joined one.
    NoCluster,
    /// Unknown: the meta file does not say.
    Unknown,
}

/// Reads the mark. Without one, a log that counts as intact no longer does: the next start of its node takes that
/// back.
fn check_mark(
    storage: &dyn Storage,
    report: &mut Report,
    (is_there, is_needed): (bool, bool),
) -> Option<Mark> {
    let mark = match Mark::load(storage) {
        Ok(mark) => mark,
        Err(error) => {
            report.add_file(Class::Damage, mark::PATH, unreadable(&error));
            return None;
        }
    };
    report.mark = mark.map(|mark| mark.end);
    if mark.is_none() {
        let what = if is_there {
            "it is unreadable"
        } else {
            "it is missing"
        };
        let (class, then) = match is_needed {
            true => (
                Class::Damage,
                "the node counts for nothing until it is refilled from another",
            ),
            false => (Class::Note, "the next start writes one"),
        };
        let what = format!("{what}: nothing tells how far the log was synced; {then}");
        report.add_file(class, mark::PATH, what);
    }
    mark
}

fn check_meta(
    meta: Result<Option<Meta>, OpenError>,
    report: &mut Report,
    log_is_empty: bool,
) -> Owner {
    let meta = match meta {
        Ok(Some(meta)) => meta,
        Ok(None) if log_is_empty => {
            let what = "it is missing: no start of a node has got as far as writing it";
            report.add_file(Class::Note, meta::PATH, what);
            return Owner::NoCluster;
        }
        Ok(None) => {
            let what = "it is missing, and nothing else says whose log this is and what the node has promised";
            report.add_file(Class::Damage, meta::PATH, what);
            return Owner::Unknown;
        }
        Err(error) => {
            let what = match error {
                OpenError::Format { what, .. } => format!("it {what}"),
                OpenError::Version { found, known, .. } => {
                    format!("it has format {found}, and this program reads {known}")
                }
                OpenError::Io { source, .. } => unreadable(&source),
                other => other.to_string(),
            };
            report.add_file(Class::Damage, meta::PATH, what);
            return Owner::Unknown;
        }
    };
    if let Err(what) = repair_epoch::check_epochs(&meta) {
        report.add_file(Class::Damage, meta::PATH, format!("it {what}"));
    }
    if let Some(whole) = meta.last_whole {
        let what = format!(
            "the log was intact up to {} in log epoch {}, before damage was found: the node counts for nothing \
             until it is repaired from another",
            whole.end, whole.log_epoch
        );
        report.add_file(Class::Note, meta::PATH, what);
    }
    report.cluster_id = meta.cluster.map(|cluster| cluster.id);
    (report.log_epoch, report.intact) = (meta.log_epoch, meta.log_epoch.is_some());
    report.name = Some(meta.name);
    report.cluster_id.map_or(Owner::NoCluster, Owner::Cluster)
}

/// Checks the snapshot of the keys. It is never the source of truth: any error in it only costs time.
fn check_keys(storage: &dyn Storage, report: &mut Report) {
    let wrong = match keys_file::load(storage) {
        Ok(None) => return,
        Ok(Some(bytes)) => Snapshot::decode(&bytes).err(),
        Err(error) => Some(unreadable(&error)),
    };
    if let Some(what) = wrong {
        let what = format!("{what}: the next start of a master reads the keys from the log");
        report.add_file(Class::Note, keys_file::PATH, what);
    }
}

fn check_leftovers(report: &mut Report, names: &[String]) {
    let known = [
        meta::PATH,
        mark::PATH,
        keys_file::PATH,
        unproven::PATH,
        segment::DIR,
        quarantine::DIR,
        LOCK_FILE,
    ];
    for name in names.iter().filter(|name| !known.contains(&name.as_str())) {
        let what = if name == PROBE_PATH {
            "left by a node that probed a full disk for space: the next start removes it"
        } else if [meta::PATH_NEW, keys_file::PATH_NEW, unproven::PATH_NEW].contains(&name.as_str())
        {
            "an interrupted save: nothing relied on it, and the next one replaces it"
        } else {
            "it is not a node's file, and no node touches it"
        };
        report.add_file(Class::Note, name, what);
    }
}

fn list(storage: &dyn Storage, dir: &str) -> Result<Vec<String>, CheckError> {
    storage.list(dir).map_err(|source| refused(dir, source))
}

fn refused(path: &str, source: io::Error) -> CheckError {
    if source.kind() == io::ErrorKind::WouldBlock {
        return CheckError::Locked;
    }
    let path = if path.is_empty() { "." } else { path }.to_owned();
    CheckError::Io { path, source }
}

fn unreadable(error: &io::Error) -> String {
    match FrameError::unknown_in(error) {
        Some(unknown) => unknown.to_string(),
        None => format!("it cannot be read ({error})"),
    }
}

#[cfg(test)]
mod tests;

//! `meta.json`: a node's identity and its promises, synced before any message that relies on it is sent.
//!
//! Owns the file and its checks. Written to a new file, synced, renamed, directory synced; the same on every kind
//! of node. Keeps rules 5 and 9.
//!
//! The file is JSON for people to read, not to edit:
//!
//! | field | meaning |
//! | --- | --- |
//! | `format` | version of this file, 2 |
//! | `crc32c` | CRC-32C over the text of `meta`, from `{` to `}`, as 8 hexadecimal digits |
//! | `meta` | the fields of [`Meta`] |

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{LogError, replace::replace};
use crate::{
    error::OpenError,
    storage::{Storage, read_file},
    types::{ClusterId, Epoch, InstanceId, LastWhole, NodeName, Offset},
};

/// Path of the file.
pub(super) const PATH: &str = "meta.json";
/// Path of the next version, until it replaces the file. A leftover means that a save was cut off: nothing relied
/// on it, so it is overwritten.
pub(super) const PATH_NEW: &str = "meta.json.new";
/// The version that is written, and the newest that can be read.
const FORMAT: u64 = 2;

/// State that a node must remember across restarts besides its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Meta {
    /// The node's own name.
    pub(crate) name: NodeName,
    /// Identity of the directory: random, created with it.
    pub(crate) instance: InstanceId,
    /// Number of starts from this directory: raised and synced before the first message of each.
    pub(crate) start: u64,
    /// Cluster and node list, drawn or learned when the cluster is founded; absent on a blank node.
    pub(crate) cluster: Option<ClusterIdentity>,
    /// The highest epoch promised, and the master that it was promised to.
    pub(crate) promised: Option<Promised>,
    /// The newest epoch with whose master this log agrees and whose adopted end it covers. Absent: this node is not
    /// intact, and counts for nothing.
    pub(crate) log_epoch: Option<Epoch>,
    /// On a node whose log was intact until damage was found in it: the log epoch and the end up to which the node
    /// held the log. Cleared when the node is intact again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_whole: Option<LastWhole>,
    /// The epoch that a forced recovery began; set by that recovery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) forced_epoch: Option<Epoch>,
}

/// The cluster that a node belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClusterIdentity {
    /// Cluster id, drawn by the founder.
    pub(crate) id: ClusterId,
    /// The names of all nodes, in ascending order, the master's included.
    pub(crate) nodes: Vec<NodeName>,
}

/// A promise: everything older than `epoch` is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Promised {
    /// The promised epoch.
    pub(crate) epoch: Epoch,
    /// The master that it was promised to.
    pub(crate) name: NodeName,
    /// That master's directory.
    pub(crate) instance: InstanceId,
    /// That master's start.
    pub(crate) start: u64,
    /// Instances of that name that held a promise before and are refused for ever.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) replaced: Vec<InstanceId>,
}

impl Meta {
    /// Notes that damage was found in the log, which ended at `end`, where that is known: the log does not count
    /// any more. Anything known from an earlier time, when it did count, stays.
    pub(crate) fn lose_log_epoch(&mut self, end: Option<Offset>) {
        if let Some(log_epoch) = self.log_epoch.take() {
            self.last_whole = end.map(|end| LastWhole { log_epoch, end });
        }
    }

    /// Notes that the log, damaged before, ended at `end`, where that is known. A master continues despite damage
    /// and acknowledges its appends, so the log that it may have acknowledged reaches that far, and its end is
    /// unknown if `end` is. A secondary acknowledges nothing until it is intact again, no matter what is written to
    /// its log.
    pub(crate) fn extend_last_whole(&mut self, end: Option<Offset>) {
        if self.is_promised_to_self() {
            let known = self.last_whole.zip(end);
            self.last_whole = known.map(|(whole, end)| LastWhole {
                end: whole.end.max(end),
                ..whole
            });
        }
    }

    /// Returns `true` if the promise is to this directory itself, as only a master's is.
    pub(crate) fn is_promised_to_self(&self) -> bool {
        let promised = self.promised.as_ref();
        promised.is_some_and(|to| to.name == self.name && to.instance == self.instance)
    }

    /// Notes that the log agrees with the master of this epoch and covers the end that it adopted.
    pub(crate) fn take_log_epoch(&mut self, epoch: Epoch) {
        (self.log_epoch, self.last_whole) = (Some(epoch), None);
    }

    /// Reads the directory's meta; `None` if none was ever saved.
    ///
    /// # Errors
    ///
    /// [`OpenError::Format`] when the file is damaged, [`OpenError::Version`] when it has another version,
    /// [`OpenError::Io`] when it cannot be read.
    pub(crate) fn load(storage: &dyn Storage) -> Result<Option<Meta>, OpenError> {
        let bytes = read_file(storage, PATH).map_err(|source| OpenError::Io {
            path: PATH.to_owned(),
            source,
        })?;
        let Some(bytes) = bytes else { return Ok(None) };
        let refuse = |refused| {
            let path = PATH.to_owned();
            match refused {
                Refused::Format(what) => OpenError::Format { path, what },
                Refused::Version(found) => OpenError::Version {
                    path,
                    found,
                    known: FORMAT,
                },
            }
        };
        decode(&bytes).map(Some).map_err(refuse)
    }

    /// Decodes the content of a meta file.
    #[cfg(feature = "sim")]
    pub(crate) fn decode(bytes: &[u8]) -> Result<Meta, String> {
        decode(bytes).map_err(|refused| format!("{refused:?}"))
    }

    /// Saves the meta in place of the old one. When this returns, it is durable.
    ///
    /// # Errors
    ///
    /// The storage's. After [`LogError::Write`] the old one is still in place; otherwise it is not known which of
    /// the two the next start will find.
    pub(crate) fn save(&self, storage: &dyn Storage) -> Result<(), LogError> {
        replace(storage, PATH, PATH_NEW, encode(self).as_bytes())
    }
}

/// The JSON around the fields.
#[derive(Deserialize)]
struct Envelope<'a> {
    crc32c: String,
    #[serde(borrow)]
    meta: &'a RawValue,
}

/// The one field that every version has.
#[derive(Deserialize)]
struct AnyVersion {
    format: u64,
}

fn encode(meta: &Meta) -> String {
    let body = serde_json::to_string_pretty(meta).expect("names and numbers are always JSON");
    let crc = crc32c::crc32c(body.as_bytes());
    format!("{{\n\"format\": {FORMAT},\n\"crc32c\": \"{crc:08x}\",\n\"meta\": {body}\n}}\n")
}

/// Reason why a meta file is not read.
#[derive(Debug)]
enum Refused {
    Format(String),
    Version(u64),
}

fn decode(bytes: &[u8]) -> Result<Meta, Refused> {
    let damaged = |error| Refused::Format(format!("is damaged: {error}"));
    let AnyVersion { format } = serde_json::from_slice(bytes)
        .map_err(|error| Refused::Format(format!("is not a meta file: {error}")))?;
    if format != FORMAT {
        return Err(Refused::Version(format));
    }
    let Envelope { crc32c, meta } = serde_json::from_slice(bytes).map_err(damaged)?;
    let expected = crc32c::crc32c(meta.get().as_bytes());
    if u32::from_str_radix(&crc32c, 16) != Ok(expected) {
        return Err(Refused::Format(format!(
            "is damaged: its checksum is {crc32c:?}, not {expected:08x}"
        )));
    }
    serde_json::from_str(meta.get()).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use std::io::IoSlice;

    use super::*;
    use crate::golden::{assert_golden, golden};
    use crate::storage::{MemoryStorage, OpenHow};

    #[test]
    fn the_file_format_is_fixed_byte_for_byte() {
        let storage = MemoryStorage::new();
        full().save(&storage).unwrap();
        let found = read_file(&storage, PATH).unwrap().unwrap();
        assert_golden("meta", &found);
        assert_eq!(decode(&golden("meta")).unwrap(), full());
        assert_eq!(storage.list("").unwrap(), [PATH]);
    }

    #[test]
    fn a_damaged_log_is_remembered_until_the_node_is_intact_again() {
        let mut meta = Meta {
            last_whole: None,
            ..full()
        };
        let whole = |end| {
            Some(LastWhole {
                log_epoch: Epoch(8),
                end: Offset(end),
            })
        };
        meta.lose_log_epoch(Some(Offset(10)));
        assert_eq!((meta.log_epoch, meta.last_whole), (None, whole(10)));
        // When damage is found again, the log may be shorter: what it may have acknowledged is not.
        meta.lose_log_epoch(Some(Offset(3)));
        meta.lose_log_epoch(None);
        assert_eq!((meta.log_epoch, meta.last_whole), (None, whole(10)));
        meta.take_log_epoch(Epoch(9));
        assert_eq!((meta.log_epoch, meta.last_whole), (Some(Epoch(9)), None));
        meta.lose_log_epoch(None);
        assert_eq!((meta.log_epoch, meta.last_whole), (None, None));
    }

    #[test]
    fn the_last_save_is_loaded() {
        let storage = MemoryStorage::new();
        assert_eq!(Meta::load(&storage).unwrap(), None);
        for meta in [blank(), full(), blank()] {
            meta.save(&storage).unwrap();
            assert_eq!(Meta::load(&storage).unwrap(), Some(meta));
        }
    }

    #[test]
    fn a_save_that_was_cut_off_leaves_the_old_meta() {
        let storage = MemoryStorage::new();
        full().save(&storage).unwrap();
        let file = storage.open(PATH_NEW, OpenHow::Create).unwrap();
        file.append(&[IoSlice::new(&[b'x'; 5000])]).unwrap();
        assert_eq!(Meta::load(&storage).unwrap(), Some(full()));
        blank().save(&storage).unwrap();
        assert_eq!(Meta::load(&storage).unwrap(), Some(blank()));
    }

    #[test]
    fn a_changed_byte_is_refused_or_changes_nothing() {
        let text = encode(&full()).into_bytes();
        for at in 0..text.len() {
            for flip in [0x01, 0x20, 0x80] {
                let mut changed = text.clone();
                changed[at] ^= flip;
                if let Ok(meta) = decode(&changed) {
                    assert_eq!(meta, full(), "byte {at} with {flip:#x}");
                }
            }
        }
        for length in 0..text.len() - 2 {
            assert!(decode(&text[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn a_newer_file_is_refused_by_its_version() {
        let storage = MemoryStorage::new();
        let file = storage.open(PATH, OpenHow::Create).unwrap();
        file.append(&[IoSlice::new(br#"{"format": 3, "anything": []}"#)])
            .unwrap();
        let error = Meta::load(&storage).unwrap_err();
        assert!(matches!(error, OpenError::Version { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            "meta.json: has format 3, and this program reads 2"
        );
    }

    #[test]
    fn a_failure_while_saving_is_returned() {
        use crate::log::testing::{Fault, FaultyStorage};
        for step in 0.. {
            let storage = Arc::new(FaultyStorage::new());
            full().save(&*storage).unwrap();
            storage.fail_at(step, Fault::Error(io::ErrorKind::StorageFull));
            let result = blank().save(&*storage);
            if !storage.has_failed() {
                result.unwrap();
                assert!(
                    step > 3,
                    "a save has at least a write, two syncs and a rename"
                );
                break;
            }
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
    }

    fn blank() -> Meta {
        Meta {
            last_whole: None,
            name: NodeName::new("node-1").unwrap(),
            instance: id(0),
            start: 1,
            cluster: None,
            promised: None,
            log_epoch: None,
            forced_epoch: None,
        }
    }

    fn full() -> Meta {
        let nodes = ["node-1", "node-2"].map(|name| NodeName::new(name).unwrap());
        let cluster = ClusterId::from_bytes(id(16).to_bytes());
        Meta {
            start: 7,
            cluster: Some(ClusterIdentity {
                id: cluster,
                nodes: nodes.to_vec(),
            }),
            promised: Some(Promised {
                epoch: Epoch(9),
                name: nodes[1].clone(),
                instance: id(32),
                start: 3,
                replaced: vec![id(48)],
            }),
            log_epoch: Some(Epoch(8)),
            last_whole: Some(LastWhole {
                log_epoch: Epoch(7),
                end: Offset(6),
            }),
            forced_epoch: Some(Epoch(5)),
            ..blank()
        }
    }

    fn id(from: u8) -> InstanceId {
        InstanceId::from_bytes(std::array::from_fn(|n| from + n as u8))
    }
}

//! A table of keys as bytes, which a clean stop leaves for the next start.
//!
//! Owns the format and its checks. Can always be rebuilt from the log and is never the truth: if
//! anything is wrong with it, it is ignored. All integers are little-endian.
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | `RLKY` |
//! | 4 | 4 | version, 2 |
//! | 8 | 16 | cluster id |
//! | 24 | 8 | horizon: the table has the keys of this number of records before the end |
//! | 32 | 8 | end of the log that it was made from |
//! | 40 | 8 | epoch of the record before the end; 0 where there is none |
//! | 48 | 8 | number of entries |
//! | 56 | 64 each | entries by ascending offset: key digest (16), payload digest (32), offset, epoch |
//! | | 4 | CRC-32C over all before |

use super::{
    Entry, Keys,
    digest::{KeyDigest, PayloadDigest},
};
use crate::{
    types::{ClusterId, Epoch, Offset},
    words::counted,
};

const MAGIC: [u8; 4] = *b"RLKY";
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 56;
const ENTRY_BYTES: usize = 64;
const CRC_BYTES: usize = 4;

/// A table as it was at an earlier stop.
#[derive(Debug)]
pub(crate) struct Snapshot {
    cluster: ClusterId,
    keys: Keys,
}

impl Keys {
    /// Encodes the table; `None` if it would be useless, because records are missing from it.
    pub(crate) fn encode(&self, cluster: ClusterId) -> Option<Vec<u8>> {
        let last_epoch = match self.last_epoch {
            None if self.end > Offset::ZERO => return None,
            epoch => epoch.unwrap_or_default(),
        };
        if self.unread.is_some() {
            return None;
        }
        let bytes = HEADER_BYTES + self.entries.len() * ENTRY_BYTES + CRC_BYTES;
        let mut into = Vec::with_capacity(bytes);
        into.extend_from_slice(&MAGIC);
        into.extend_from_slice(&VERSION.to_le_bytes());
        into.extend_from_slice(&cluster.to_bytes());
        let count = self.entries.len() as u64;
        for number in [self.horizon, self.end.0, last_epoch.0, count] {
            into.extend_from_slice(&number.to_le_bytes());
        }
        for entry in &self.entries {
            into.extend_from_slice(&entry.key.0);
            into.extend_from_slice(&entry.payload.0);
            into.extend_from_slice(&entry.offset.0.to_le_bytes());
            into.extend_from_slice(&entry.epoch.0.to_le_bytes());
        }
        let crc = crc32c::crc32c(&into);
        into.extend_from_slice(&crc.to_le_bytes());
        Some(into)
    }
}

impl Snapshot {
    /// Decodes the output of [`Keys::encode`].
    ///
    /// # Errors
    ///
    /// A description of the defect, for people.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Snapshot, String> {
        let Some((content, crc)) = bytes.split_last_chunk::<CRC_BYTES>() else {
            return Err("it is too short".to_owned());
        };
        if content.len() < HEADER_BYTES || content[..4] != MAGIC {
            return Err("it is not a snapshot of keys".to_owned());
        }
        let version = u32::from_le_bytes(array(content, 4));
        if version != VERSION {
            return Err(format!("it has version {version}, not {VERSION}"));
        }
        if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
            return Err("its checksum does not match".to_owned());
        }
        let number = |at| u64::from_le_bytes(array(content, at));
        let (horizon, end, epoch, count) = (number(24), number(32), number(40), number(48));
        let entries = content[HEADER_BYTES..].chunks_exact(ENTRY_BYTES);
        if horizon == 0 || !entries.remainder().is_empty() || entries.len() as u64 != count {
            return Err("its length does not match".to_owned());
        }
        let mut keys = Keys::new(horizon, Offset(end));
        keys.last_epoch = (end > 0).then_some(Epoch(epoch));
        keys.entries = entries.map(Entry::decode).collect();
        let first = Offset(end.saturating_sub(horizon));
        let within = |entry: &Entry| (first..Offset(end)).contains(&entry.offset);
        let ascending = keys.entries.iter().is_sorted_by(|a, b| a.offset < b.offset);
        if !ascending || !keys.entries.iter().all(within) {
            return Err("its entries are out of order".to_owned());
        }
        let numbered = keys.entries.iter().map(|entry| entry.key).zip(0..);
        keys.newest = numbered.collect();
        let cluster = ClusterId::from_bytes(array(content, 8));
        Ok(Snapshot { cluster, keys })
    }

    /// Checks that the snapshot was made from the beginning of this log. `epoch_at` is the epoch of
    /// the log's record there, if known: two logs that have a record of the same offset and epoch have
    /// the same records before it.
    ///
    /// # Errors
    ///
    /// The reason why it cannot be used, for people.
    pub(crate) fn agrees_with(
        &self,
        cluster: ClusterId,
        horizon: u64,
        end: Offset,
        epoch_at: impl Fn(Offset) -> Option<Epoch>,
    ) -> Result<(), String> {
        let Keys {
            horizon: own_horizon,
            end: own_end,
            last_epoch,
            ..
        } = self.keys;
        if self.cluster != cluster {
            return Err(format!("it is of cluster {}", self.cluster));
        }
        if own_horizon < horizon {
            return Err(format!(
                "its horizon is {}, not {horizon}",
                counted(own_horizon, "record")
            ));
        }
        if own_end > end {
            return Err(format!("it ends at {own_end}, and the log at {end}"));
        }
        let log_epoch = own_end.0.checked_sub(1).and_then(|at| epoch_at(Offset(at)));
        if log_epoch != last_epoch {
            return Err(format!("the log before {own_end} is a different one"));
        }
        Ok(())
    }

    pub(super) fn into_keys(self) -> Keys {
        self.keys
    }
}

impl Entry {
    fn decode(bytes: &[u8]) -> Entry {
        Entry {
            key: KeyDigest(array(bytes, 0)),
            payload: PayloadDigest(array(bytes, 16)),
            offset: Offset(u64::from_le_bytes(array(bytes, 48))),
            epoch: Epoch(u64::from_le_bytes(array(bytes, 56))),
        }
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("the length was checked before")
}

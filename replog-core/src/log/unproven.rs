//! The file `unproven`: segments that were written to below their end.
//!
//! Owns that file and its format. When a hole is filled and the sync fails, the cache holds data
//! that the disk does not, and the next start would trust the cache. So a segment is noted here,
//! durably, before the first such write, and the next start copies it to a new file, as it does
//! with records above the mark. Keeps rule 10.
//!
//! All integers are little-endian.
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | `RLUP` |
//! | 4 | 4 | version, 2 |
//! | 8 | 8 each | first offsets of the segments, ascending |
//! | | 4 | CRC-32C over all before |

use std::{collections::BTreeSet, io};

use super::{LogError, replace::replace};
use crate::{
    storage::{Storage, read_file},
    types::Offset,
};

/// Path of the file.
pub(crate) const PATH: &str = "unproven";
/// Path of the next version, until it replaces the file.
pub(super) const PATH_NEW: &str = "unproven.new";

const HEAD: [u8; 8] = *b"RLUP\x02\0\0\0";
const CRC_BYTES: usize = 4;

/// Segments that the next start copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unproven {
    firsts: BTreeSet<Offset>,
    /// The file could not be parsed: any segment may have been in it.
    all: bool,
}

impl Unproven {
    /// Reads the file; if there is none, nothing is unproven.
    ///
    /// # Errors
    ///
    /// The storage's.
    pub(super) fn load(storage: &dyn Storage) -> io::Result<Unproven> {
        let Some(bytes) = read_file(storage, PATH)? else {
            return Ok(Unproven::default());
        };
        Ok(Unproven::decode(&bytes).unwrap_or(Unproven {
            firsts: BTreeSet::new(),
            all: true,
        }))
    }

    /// Returns `true` if the segment that begins at `first` is unproven.
    pub(super) fn contains(&self, first: Offset) -> bool {
        self.all || self.firsts.contains(&first)
    }

    /// Returns `true` if nothing is to be copied.
    pub(super) fn is_empty(&self) -> bool {
        !self.all && self.firsts.is_empty()
    }

    /// Notes the segment that begins at `first`, durably.
    ///
    /// # Errors
    ///
    /// The storage's, as for [`replace`].
    pub(super) fn add(&mut self, storage: &dyn Storage, first: Offset) -> Result<(), LogError> {
        if !self.contains(first) {
            let mut with = self.clone();
            with.firsts.insert(first);
            replace(storage, PATH, PATH_NEW, &with.encode())?;
            *self = with;
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = HEAD.to_vec();
        for first in &self.firsts {
            bytes.extend_from_slice(&first.0.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Unproven> {
        let (body, crc) = bytes.split_at_checked(bytes.len().checked_sub(CRC_BYTES)?)?;
        if crc != crc32c::crc32c(body).to_le_bytes() {
            return None;
        }
        let (firsts, rest) = body.strip_prefix(&HEAD)?.as_chunks();
        let first = |bytes: &[u8; 8]| Offset(u64::from_le_bytes(*bytes));
        rest.is_empty().then(|| Unproven {
            firsts: firsts.iter().map(first).collect(),
            all: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{assert_golden, golden};
    use crate::{log::testing::set_content, storage::MemoryStorage};

    #[test]
    fn the_file_format_is_fixed_byte_for_byte() {
        let mut unproven = Unproven::default();
        unproven.firsts.insert(Offset(0x0102));
        assert_golden("unproven", &unproven.encode());
        assert_eq!(Unproven::decode(&golden("unproven")), Some(unproven));
    }

    #[test]
    fn noted_segments_are_there_at_the_next_start() {
        let storage = MemoryStorage::new();
        let mut unproven = Unproven::load(&storage).unwrap();
        assert!(unproven.is_empty());
        for first in [7, 3, 7] {
            unproven.add(&storage, Offset(first)).unwrap();
        }
        let loaded = Unproven::load(&storage).unwrap();
        assert_eq!(loaded, unproven);
        assert!(loaded.contains(Offset(3)) && !loaded.contains(Offset(4)));
    }

    #[test]
    fn an_unreadable_file_makes_every_segment_unproven() {
        let storage = MemoryStorage::new();
        let mut unproven = Unproven::default();
        unproven.add(&storage, Offset(9)).unwrap();
        let good = unproven.encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            for bytes in [&bad[..], &good[..at]] {
                set_content(&storage, PATH, bytes);
                let loaded = Unproven::load(&storage).unwrap();
                assert!(loaded.contains(Offset(4)), "byte {at}");
            }
        }
    }
}

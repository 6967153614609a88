//! The mark: the end up to which the log is known to be synced.
//!
//! Owns the file `mark` next to the log. It is written after each sync of the log and not synced itself, so it may
//! lag and never leads; before a cut it is lowered and synced. A bad record below it is damage, above it a torn
//! tail: rule 10 rests on it.
//!
//! Before a file is truncated in place, the mark records that too. If the sync of that file fails, the file is
//! shorter in the cache only: the next start would trust the cache, and a power cut could bring back what was cut.
//!
//! All integers are little-endian. The file is shorter than a sector and is written by one call, so that a disk
//! holds either the old one or the new one.
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | `RLMK` |
//! | 4 | 4 | version, 2 |
//! | 8 | 8 | end: the offset after the last record that is known to be synced |
//! | 16 | 4 | 0 while records are written, 1 after a clean stop, 2 while the last segment is truncated |
//! | 20 | 4 | CRC-32C over all before |

use std::{io, sync::Arc};

use super::failure::LogError;
use crate::{
    storage::{OpenHow, Storage, StorageFile, read_file},
    types::Offset,
};

/// Path of the file.
pub(crate) const PATH: &str = "mark";

const MAGIC: [u8; 4] = *b"RLMK";
const VERSION: u32 = 2;
pub(crate) const BYTES: usize = 24;

/// Content of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Everything below this offset is synced.
    pub(crate) end: Offset,
    pub(crate) state: MarkState,
}

/// State of the log when the mark was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkState {
    /// Records were being written, or nothing was.
    Open,
    /// The log was stopped cleanly. A hint for people: it stays in the file until the next mark is written.
    Clean,
    /// The last segment was being truncated in place: the next start proves its length by copying it.
    Cutting,
}

impl MarkState {
    /// Returns the number that is stored in the file.
    fn number(self) -> u32 {
        match self {
            MarkState::Open => 0,
            MarkState::Clean => 1,
            MarkState::Cutting => 2,
        }
    }
}

impl Mark {
    /// Reads the mark; `None` if it is missing or unreadable.
    ///
    /// # Errors
    ///
    /// The storage's, except for a missing file.
    pub(crate) fn load(storage: &dyn Storage) -> io::Result<Option<Mark>> {
        Ok(read_file(storage, PATH)?.and_then(|bytes| Mark::decode(&bytes)))
    }

    /// Encodes the content of the file.
    pub(crate) fn encode(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.end.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.state.number().to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..20]);
        bytes[20..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes the content of the file; `None` if it is unreadable.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Mark> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let end = u64::from_le_bytes(bytes[8..16].try_into().ok()?);
        let state = match bytes[16] {
            0 => MarkState::Open,
            1 => MarkState::Clean,
            2 => MarkState::Cutting,
            _ => return None,
        };
        let end = Offset(end);
        let mark = Mark { end, state };
        // Anything that differs from what would be written is not understood, newer versions included.
        (mark.encode() == *bytes).then_some(mark)
    }
}

/// The open file, owned by the writer of the log.
#[derive(Debug)]
pub(crate) struct MarkFile {
    file: Arc<dyn StorageFile>,
}

impl MarkFile {
    /// Opens the file, or creates it.
    pub(crate) fn open(storage: &dyn Storage) -> io::Result<MarkFile> {
        Ok(MarkFile {
            file: storage.open(PATH, OpenHow::Create)?,
        })
    }

    /// Writes a mark without a sync. A power cut may bring back the old one: for raising only.
    pub(crate) fn write(&self, mark: Mark) -> io::Result<()> {
        self.file.write_at(0, &mark.encode())
    }

    /// Checks that the file is still in the directory.
    ///
    /// # Errors
    ///
    /// If it is known to be gone.
    pub(crate) fn check_place(&self) -> io::Result<()> {
        self.file.check_place(PATH)
    }

    /// Writes a mark and syncs it: for lowering, for anything that a start must know, and for the last mark.
    ///
    /// # Errors
    ///
    /// [`LogError::Write`] as long as nothing but the mark itself may have been affected.
    pub(crate) fn write_synced(&self, mark: Mark) -> Result<(), LogError> {
        if self.file.size()? != BYTES as u64 {
            self.file.truncate(0).map_err(LogError::Write)?;
        }
        self.write(mark).map_err(LogError::Write)?;
        self.file.sync()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{assert_golden, golden};
    use crate::storage::MemoryStorage;

    #[test]
    fn the_file_format_is_fixed_byte_for_byte() {
        let mark = Mark {
            end: Offset(0x0102_0304_0506_0708),
            state: MarkState::Clean,
        };
        assert_golden("mark", &mark.encode());
        assert_eq!(Mark::decode(&golden("mark")), Some(mark));
    }

    #[test]
    fn the_newest_mark_is_read() {
        let storage = MemoryStorage::new();
        assert_eq!(Mark::load(&storage).unwrap(), None);
        let file = MarkFile::open(&storage).unwrap();
        assert_eq!(Mark::load(&storage).unwrap(), None);
        for (end, state) in [
            (0, MarkState::Open),
            (7, MarkState::Open),
            (3, MarkState::Clean),
            (5, MarkState::Cutting),
            (u64::MAX, MarkState::Open),
        ] {
            let end = Offset(end);
            let mark = Mark { end, state };
            file.write(mark).unwrap();
            assert_eq!(Mark::load(&storage).unwrap(), Some(mark));
        }
    }

    #[test]
    fn a_mark_of_another_length_is_replaced_as_a_whole() {
        let storage = MemoryStorage::new();
        storage
            .open(PATH, OpenHow::Create)
            .unwrap()
            .truncate(100)
            .unwrap();
        let mark = Mark {
            end: Offset(5),
            state: MarkState::Open,
        };
        MarkFile::open(&storage)
            .unwrap()
            .write_synced(mark)
            .unwrap();
        assert_eq!(Mark::load(&storage).unwrap(), Some(mark));
    }

    #[test]
    fn any_changed_or_missing_byte_makes_the_mark_unreadable() {
        let good = Mark {
            end: Offset(1234),
            state: MarkState::Open,
        }
        .encode();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good;
                bad[at] ^= 1 << bit;
                assert_eq!(Mark::decode(&bad), None, "bit {bit} of byte {at}");
            }
            assert_eq!(Mark::decode(&good[..at]), None, "{at} bytes");
        }
    }
}

//! Flips a bit in a record of a node that is down, below the mark, where a start cannot mistake it
//! for a torn tail.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Position of the header's length in a segment.
const HEADER_LENGTH_AT: usize = 12;
/// Bytes of a record that its length does not count.
const PREFIX_BYTES: usize = 8;
/// Position of the marked end in the mark.
const MARK_END_AT: usize = 8;

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(field)).ok()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Returns the records of a segment that lie below `end`: offset and byte range.
fn records(segment: &[u8], end: u64) -> Vec<(u64, std::ops::Range<usize>)> {
    let mut found = Vec::new();
    let Some(mut at) = u32_at(segment, HEADER_LENGTH_AT) else {
        return found;
    };
    while let Some(length) = u32_at(segment, at).filter(|length| *length > 0)
        && let Some(offset) = u64_at(segment, at + PREFIX_BYTES).filter(|offset| *offset < end)
    {
        let until = at + PREFIX_BYTES + length;
        found.push((offset, at..until));
        at = until;
    }
    found
}

/// Flips one bit below `directory` and returns its location; `None` if there is no record to damage.
pub(crate) fn flip_bit(directory: &Path, rng: &mut ChaCha8Rng) -> Option<String> {
    let end = u64_at(&fs::read(directory.join("mark")).ok()?, MARK_END_AT)?;
    let entries = fs::read_dir(directory.join("log")).ok()?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "log"));
    paths.sort();
    let path = paths.get(rng.random_range(0..paths.len().max(1)))?;
    let mut segment = fs::read(path).ok()?;
    let records = records(&segment, end);
    let (offset, range) = records.get(rng.random_range(0..records.len().max(1)))?;
    let at = rng.random_range(range.clone());
    segment[at] ^= 1 << rng.random_range(0..8);
    fs::write(path, segment).expect("a file that can be written");
    let byte = at - range.start;
    Some(format!(
        "byte {byte} of record {offset} of {end} in {}",
        path.display()
    ))
}

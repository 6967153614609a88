//! The search for the next good record after bad bytes.
//!
//! Owns the test for what a walk may accept as a record when it does not know where one begins:
//! only bytes with a valid checksum, and an offset and an epoch that may follow. Keeps rule 10: the
//! bytes between are passed over as damage, by a caller that reports them, and never as records.

use std::{io, ops::Range};

use super::{FRAME_HEADER_BYTES, MESSAGE_HEADER_BYTES, Scan};
use crate::{
    frame::{Claimed, Frame, encoded_len},
    types::{Epoch, Offset},
};

impl Scan<'_> {
    /// Moves to the next record whose offset is at least that of the walk and below `below`, and
    /// whose epoch is not older than `epoch`. `false` if there is none before the limit; the walk
    /// has then not moved.
    ///
    /// # Errors
    ///
    /// The storage's. The walk has not moved.
    pub(crate) fn search(&mut self, below: Offset, epoch: Option<Epoch>) -> io::Result<bool> {
        let begin = self.position;
        let found = self.find_from(begin, self.offset..below, epoch.unwrap_or_default());
        match found {
            Ok(Some((offset, position))) => {
                self.seek_to(position);
                self.offset = offset;
            }
            Ok(None) | Err(_) => self.seek_to(begin),
        }
        Ok(found?.is_some())
    }

    fn find_from(
        &mut self,
        begin: u64,
        wanted: Range<Offset>,
        epoch: Epoch,
    ) -> io::Result<Option<(Offset, u64)>> {
        // Damage mostly leaves the length as it was. Trying the length first does not only save
        // time: a payload may contain bytes that look like a record, and this skips them.
        if let Some(position) = self.end_by_length()? {
            // As many messages as fit between the two.
            let most = (position - begin) / MESSAGE_HEADER_BYTES as u64;
            let next = Offset(wanted.start.0.saturating_add(1));
            let end = Offset(wanted.start.0.saturating_add(most + 1)).min(wanted.end);
            self.position = position;
            self.refuse_unknown()?;
            if let Some(next) = self.frame_among(&(next..end), epoch)? {
                return Ok(Some((next, position)));
            }
            self.seek_to(begin);
        }
        while self.position < self.limit {
            if let Some(offset) = self.frame_among(&wanted, epoch)? {
                return Ok(Some((offset, self.position)));
            }
            self.position += 1;
        }
        Ok(None)
    }

    /// Fails at an intact frame that this program does not know: what a later program wrote behind damage is not
    /// damage.
    fn refuse_unknown(&mut self) -> io::Result<()> {
        if self.position >= self.limit {
            return Ok(());
        }
        self.fill(FRAME_HEADER_BYTES)?;
        if let Ok(total) = encoded_len(&self.buffer[self.start()..]) {
            self.fill(total)?;
        }
        match Frame::decode(&self.buffer[self.start()..]) {
            Err(error) if error.is_unknown() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Returns the end of the frame at the position, if its length is valid.
    fn end_by_length(&mut self) -> io::Result<Option<u64>> {
        self.fill(FRAME_HEADER_BYTES)?;
        let total = encoded_len(&self.buffer[self.start()..]);
        Ok(total.ok().map(|total| self.position + total as u64))
    }

    /// Returns the first offset of the frame at the position, if it is a wanted one.
    fn frame_among(&mut self, wanted: &Range<Offset>, epoch: Epoch) -> io::Result<Option<Offset>> {
        let left = self.limit.saturating_sub(self.position);
        if left < FRAME_HEADER_BYTES as u64 {
            return Ok(None);
        }
        self.fill(FRAME_HEADER_BYTES)?;
        let Ok(claimed) = Claimed::read(&self.buffer[self.start()..]) else {
            return Ok(None);
        };
        if !wanted.contains(&claimed.first) || claimed.epoch < epoch || claimed.bytes as u64 > left
        {
            return Ok(None);
        }
        self.fill(claimed.bytes)?;
        let frame = Frame::decode(&self.buffer[self.start()..]);
        Ok(frame.is_ok().then_some(claimed.first))
    }

    /// Moves to a position; the buffer is kept if it is still of use.
    fn seek_to(&mut self, position: u64) {
        self.position = position;
        if position < self.buffer_at {
            self.buffer.clear();
            self.buffer_at = position;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::SCAN_BYTES, *};
    use crate::{
        log::testing::{Records, set_content},
        storage::{MemoryStorage, OpenHow, Storage as _, StorageFile},
    };

    const END: Offset = Offset(u64::MAX);

    fn file_of(bytes: &[u8]) -> Arc<dyn StorageFile> {
        let storage = MemoryStorage::new();
        set_content(&storage, "log/x", bytes);
        storage.open("log/x", OpenHow::Existing).unwrap()
    }

    /// Returns where a search from byte 0 for records of `from..below` ends.
    fn search(bytes: &[u8], from: u64, below: Offset, epoch: u64) -> Option<(u64, u64)> {
        let file = file_of(bytes);
        let mut scan = Scan::new(&*file, (Offset(from), 0), bytes.len() as u64);
        let found = scan.search(below, Some(Epoch(epoch))).unwrap();
        if !found {
            assert_eq!((scan.offset(), scan.position()), (Offset(from), 0));
            return None;
        }
        let at = (scan.offset().0, scan.position());
        let (frame, _) = scan.next().unwrap().unwrap();
        assert_eq!(frame.first.0, at.0);
        Some(at)
    }

    #[test]
    fn the_record_behind_any_flipped_bit_is_found() {
        let records = Records::new(7, [(1, 20), (1, 30), (2, 40)]);
        let first = records.encoded[0].1.len();
        for at in 0..first {
            for bit in 0..8 {
                let mut bytes = records.bytes();
                bytes[at] ^= 1 << bit;
                let found = search(&bytes, 7, END, 1);
                assert_eq!(found, Some((8, first as u64)), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_record_within_a_payload_is_accepted_only_if_the_length_is_damaged_too() {
        let within = Records::new(8, [(1, 10)]).bytes();
        let mut outer = Records::new(7, [(1, 100), (1, 20)]);
        let first = outer.encoded[0].1.len();
        outer.encoded[0].1[50..50 + within.len()].copy_from_slice(&within);
        assert_eq!(search(&outer.bytes(), 7, END, 1), Some((8, first as u64)));
        outer.encoded[0].1[..4].fill(0xff);
        assert_eq!(search(&outer.bytes(), 7, END, 1), Some((8, 50)));
    }

    #[test]
    fn only_an_offset_and_an_epoch_that_may_follow_are_accepted() {
        let good = Records::new(9, [(4, 10), (4, 10), (5, 10)]);
        let garbage = [vec![0; 40], vec![0xee; 33]].concat();
        let bytes = [garbage, good.bytes()].concat();
        let length = good.encoded[0].1.len() as u64;
        let table = [
            (9, END, 4, Some((9, 73))),
            (5, END, 0, Some((9, 73))),
            (10, END, 4, Some((10, 73 + length))),
            (9, END, 5, Some((11, 73 + 2 * length))),
            (12, END, 4, None),
            (9, END, 6, None),
            (5, Offset(9), 4, None),
        ];
        for (from, below, epoch, expected) in table {
            let found = search(&bytes, from, below, epoch);
            assert_eq!(found, expected, "{from}..{below} of epoch {epoch}");
        }
        let cut = &bytes[..bytes.len() - 1];
        assert_eq!(
            search(cut, 11, END, 0),
            None,
            "a part of a record is not a record"
        );
    }

    #[test]
    fn a_search_continues_far_beyond_one_chunk() {
        let good = Records::new(3, [(1, 10)]).bytes();
        for garbage in [SCAN_BYTES - 20, 3 * SCAN_BYTES] {
            let bytes = [vec![0; garbage], good.clone()].concat();
            assert_eq!(search(&bytes, 1, END, 1), Some((3, garbage as u64)));
        }
    }
}

//! Records of a log that cannot be read, between others that can: known, and filled in place.
//!
//! Owns the list of holes, by segment. What fills one is written where it belongs and synced; it
//! must be what was there, which whoever asks for it sees to (`rules/replica.rs`,
//! `rules/repair.rs`): records from a log that has the record behind the hole with the same
//! epoch. Nothing readable is ever written over. The next start believes such a segment only once it
//! has copied it (`unproven.rs`). Keeps rule 10.

use std::ops::Range;

use super::*;

/// Whether a node shows nothing behind a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeldBack {
    /// Its log ends at the first hole, as far as anyone is told.
    Yes,
    /// A master in office goes on.
    No,
}

/// The holes of a log.
#[derive(Debug)]
pub(crate) struct Holes {
    /// Ascending, with the segment of each.
    holes: Vec<(Offset, Hole)>,
    held_back: HeldBack,
    were_found: bool,
}

impl Holes {
    /// Those that opening the log found.
    pub(super) fn found(mut holes: Vec<(Offset, Hole)>, held_back: HeldBack) -> Holes {
        holes.sort_by_key(|(_, hole)| hole.first);
        Holes {
            were_found: !holes.is_empty(),
            holes,
            held_back,
        }
    }

    /// Whether there were any since the log was opened.
    pub(super) fn were_found(&self) -> bool {
        self.were_found
    }

    /// The first offset that cannot be read.
    pub(super) fn first(&self) -> Option<Offset> {
        self.holes.first().map(|(_, hole)| hole.first)
    }

    /// Where what is shown ends because of a hole.
    pub(super) fn readable_limit(&self) -> Option<Offset> {
        match self.held_back {
            HeldBack::Yes => self.first(),
            HeldBack::No => None,
        }
    }

    /// Ascending, with the segment of each.
    pub(super) fn all(&self) -> &[(Offset, Hole)] {
        &self.holes
    }

    /// Which offsets cannot be read.
    pub(super) fn ranges(&self) -> Vec<Range<Offset>> {
        let range = |(_, hole): &(Offset, Hole)| hole.first..hole.end;
        self.holes.iter().map(range).collect()
    }

    /// Where a cut to `to` is made: nobody knows where a record in a hole begins.
    pub(super) fn cut_at(&self, to: Offset) -> Offset {
        let mut holes = self.holes.iter().map(|(_, hole)| hole);
        holes
            .find(|hole| hole.first < to && to <= hole.end)
            .map_or(to, |hole| hole.first)
    }

    /// The first offset before `to` that a walk to it could not read and that is not known.
    pub(super) fn unknown_among(&self, scanned: &Scanned, to: Offset) -> Option<Offset> {
        let found = scanned.holes.iter().map(|hole| hole.first..hole.end);
        let mut found = found.chain([scanned.end..to]);
        found.find_map(|unread| {
            let mut next = unread.start;
            // The record beside a known hole may have rotted since: then what was read has one hole.
            for (_, hole) in &self.holes {
                if hole.first <= next && next < hole.end {
                    next = hole.end;
                }
            }
            (next < unread.end).then_some(next)
        })
    }

    /// The log is cut to `to`, which is in no hole.
    pub(super) fn truncate(&mut self, to: Offset) {
        self.holes.retain(|(_, hole)| hole.first < to);
    }
}

impl LogFiles {
    /// Which offsets cannot be read.
    pub(crate) fn damaged_ranges(&self) -> Vec<Range<Offset>> {
        self.holes.ranges()
    }

    /// Somebody could not read the record at `offset`: reads its segment through and notes what
    /// cannot be read there. A header that cannot be is made again from the log before it.
    ///
    /// # Errors
    ///
    /// The storage's, and `InvalidData` when the header cannot be made again.
    pub(crate) fn inspect(&mut self, offset: Offset, held_back: HeldBack) -> Result<(), LogError> {
        self.attempt(|files| files.try_inspect(offset, held_back))
    }

    fn try_inspect(&mut self, offset: Offset, held_back: HeldBack) -> Result<(), LogError> {
        self.holes.held_back = held_back;
        let firsts = self.view.segment_firsts();
        let after = firsts.partition_point(|first| *first <= offset);
        let Some(nth) = after.checked_sub(1).filter(|_| offset < self.synced_end) else {
            self.publish_holes();
            return Ok(());
        };
        let (first, end) = (firsts[nth], firsts.get(after).copied());
        let end = end.unwrap_or(self.synced_end);
        let path = segment::path(first);
        let file = self.storage.open(&path, OpenHow::Existing)?;
        let header = self.header_of(&*file, first, nth as u64)?;
        let bytes = match &self.active {
            Some(active) if after == firsts.len() => active.bytes,
            _ => file.size()?,
        };
        let scanned = segment::scan_past_damage(&*file, &header, (end, bytes), end)?;
        let mut holes = scanned.holes;
        if scanned.end < end {
            holes.push(Hole {
                first: scanned.end,
                end,
                position: scanned.position,
                // Behind it in the last segment is where the next record goes.
                end_position: (after == firsts.len()).then_some(bytes),
            });
        }
        for hole in &holes {
            let (offset, position) = (hole.first, hole.position);
            error!(path, position, %offset, end = %hole.end, "records cannot be read: to be mended");
        }
        self.holes.were_found |= !holes.is_empty();
        self.holes.holes.retain(|(segment, _)| *segment != first);
        let found = holes.into_iter().map(|hole| (first, hole));
        self.holes.holes.extend(found);
        self.holes.holes.sort_by_key(|(_, hole)| hole.first);
        self.publish_holes();
        self.fill_from_memory()
    }

    /// The newest records are in memory too, as they were written.
    fn fill_from_memory(&mut self) -> Result<(), LogError> {
        for hole in self.holes.ranges() {
            if let Some(records) = self.view.read_tail(hole.start, hole.end, usize::MAX) {
                self.fill_holes(&records)?;
            }
        }
        Ok(())
    }

    /// The header of a segment; where it cannot be read, made again from the log before it.
    pub(super) fn header_of(
        &mut self,
        file: &dyn StorageFile,
        first: Offset,
        number: u64,
    ) -> Result<SegmentHeader, LogError> {
        let error = match SegmentHeader::read(file)? {
            Ok(header)
                if (header.first, header.number) == (first, number)
                    && Some(header.cluster) == self.cluster =>
            {
                return Ok(header);
            }
            Ok(_) => HeaderError::Shape,
            Err(error) => error,
        };
        let path = segment::path(first);
        // Whatever comes of it, the next start looks the whole log through.
        self.unproven.add(&*self.storage, first)?;
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let before = self.view.epoch_starts_before(first, EPOCH_STARTS_MAX);
        let (Some(cluster), Ok(epoch_starts)) = (self.cluster, before) else {
            return Err(invalid(format!("{path} is damaged: {error}")).into());
        };
        warn!(path, %error, "the header is made again from the log before it");
        let header = SegmentHeader {
            cluster,
            first,
            number,
            epoch_starts,
        };
        file.write_at(0, &header.encode())?;
        file.sync()?;
        Ok(header)
    }

    /// Tells everybody what cannot be read.
    pub(super) fn publish_holes(&self) {
        let readable_limit = self.holes.readable_limit();
        self.view
            .damaged(self.holes.all(), readable_limit, self.held_end());
    }

    /// Writes what belongs into holes there, and returns what lies behind the end.
    pub(super) fn fill_holes(
        &mut self,
        batches: &[RecordBatch],
    ) -> Result<Vec<RecordBatch>, LogError> {
        let mut behind: Vec<RecordBatch> = Vec::new();
        for batch in batches {
            let mut nth = 0;
            while let Some((segment, hole)) = self.holes.holes.get(nth).copied() {
                match batch.slice(hole.first, hole.end) {
                    Some(part) if self.fill(nth, (segment, hole), &part)? => {}
                    Some(_) | None => nth += 1,
                }
            }
            let end = behind.last().map_or(self.written_end, RecordBatch::end);
            behind.extend(batch.slice(end, Offset(u64::MAX)));
        }
        Ok(behind)
    }

    /// Writes and syncs records at the beginning of a hole. Whether the hole is gone.
    ///
    /// Where they do not fit, what was read behind the hole is no record of this log: damage looked
    /// like one. Then a log that counts for nothing ends where the hole begins; a master in office
    /// fails, and starts with such a log.
    fn fill(
        &mut self,
        nth: usize,
        (segment, hole): (Offset, Hole),
        part: &RecordBatch,
    ) -> Result<bool, LogError> {
        assert_eq!(
            part.first(),
            hole.first,
            "a batch does not begin where a hole does"
        );
        let path = segment::path(segment);
        let position = hole.position + part.bytes().len() as u64;
        let is_filled = part.end() == hole.end;
        let fits = hole.end_position.is_none_or(|end| match is_filled {
            true => position == end,
            false => position < end,
        });
        // Never over what can be read: then these are not the records that were there.
        let known = self.view.epoch_at(hole.end);
        let falls = known.is_some_and(|known| part.last_epoch() > known);
        if (!fits || falls) && self.holes.held_back == HeldBack::Yes {
            warn!(path, offset = %hole.first, "what follows the damage is none of the log: cut");
            return match self.try_truncate(hole.first)? {
                Truncation::Cut(_) => Ok(true),
                Truncation::Damaged(offset) => {
                    let what = format!("{path} is damaged: offset {offset} cannot be read");
                    Err(io::Error::new(io::ErrorKind::InvalidData, what).into())
                }
            };
        }
        if !fits || falls {
            let what = format!(
                "{part:?} does not fit into {path} at byte {}",
                hole.position
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what).into());
        }
        self.unproven.add(&*self.storage, segment)?;
        let file = self.storage.open(&path, OpenHow::Existing)?;
        file.write_at(hole.position, part.bytes())
            .map_err(LogError::Write)?;
        file.sync()?;
        self.view.filled(segment, position, part);
        if is_filled {
            self.holes.holes.remove(nth);
            info!(path, end = %hole.end, "the log is mended here");
        } else {
            let hole = &mut self.holes.holes[nth].1;
            (hole.first, hole.position) = (part.end(), position);
        }
        self.publish_holes();
        Ok(is_filled)
    }
}

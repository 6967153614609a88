//! Holes: unreadable records of a log between readable ones, known and filled in place.
//!
//! Owns the list of holes, by segment. Records that fill a hole are written in its place and synced.
//! They must be the ones that were there; the code that requests them guarantees that
//! (`rules/replica.rs`, `rules/repair.rs`): they come from a log that has the record after the hole
//! with the same epoch. Readable records are never overwritten. The next start trusts such a
//! segment only once it has copied it (`unproven.rs`). Keeps rule 10.

use std::ops::Range;

use super::*;

/// Visibility of the records after a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeldBack {
    /// They are hidden: to everyone else the log ends at the first hole.
    Yes,
    /// They stay visible: a leading master continues.
    No,
}

/// The holes of a log.
#[derive(Debug)]
pub(crate) struct Holes {
    /// Holes, ascending, with the segment of each.
    holes: Vec<(Offset, Hole)>,
    held_back: HeldBack,
    were_found: bool,
}

impl Holes {
    /// Creates the list of the holes that were found by opening the log.
    pub(super) fn found(mut holes: Vec<(Offset, Hole)>, held_back: HeldBack) -> Holes {
        holes.sort_by_key(|(_, hole)| hole.first);
        Holes {
            were_found: !holes.is_empty(),
            holes,
            held_back,
        }
    }

    /// Returns `true` if there were any since the log was opened.
    pub(super) fn were_found(&self) -> bool {
        self.were_found
    }

    /// Returns the first offset that cannot be read.
    pub(super) fn first(&self) -> Option<Offset> {
        self.holes.first().map(|(_, hole)| hole.first)
    }

    /// Returns the offset at which the visible log ends because of a hole.
    pub(super) fn readable_limit(&self) -> Option<Offset> {
        match self.held_back {
            HeldBack::Yes => self.first(),
            HeldBack::No => None,
        }
    }

    /// Returns all holes, ascending, with the segment of each.
    pub(super) fn all(&self) -> &[(Offset, Hole)] {
        &self.holes
    }

    /// Returns the ranges of offsets that cannot be read.
    pub(super) fn ranges(&self) -> Vec<Range<Offset>> {
        let range = |(_, hole): &(Offset, Hole)| hole.first..hole.end;
        self.holes.iter().map(range).collect()
    }

    /// Returns the offset at which a cut to `to` is made: the position of a record in a hole is
    /// unknown.
    pub(super) fn cut_at(&self, to: Offset) -> Offset {
        let mut holes = self.holes.iter().map(|(_, hole)| hole);
        holes
            .find(|hole| hole.first < to && to <= hole.end)
            .map_or(to, |hole| hole.first)
    }

    /// Returns the first offset before `to` that a walk to it could not read and that is not known
    /// yet.
    pub(super) fn unknown_among(&self, scanned: &Scanned, to: Offset) -> Option<Offset> {
        let found = scanned.holes.iter().map(|hole| hole.first..hole.end);
        let mut found = found.chain([scanned.end..to]);
        found.find_map(|unread| {
            let mut next = unread.start;
            // The record next to a known hole may have rotted since: then the walk found both as
            // one hole.
            for (_, hole) in &self.holes {
                if hole.first <= next && next < hole.end {
                    next = hole.end;
                }
            }
            (next < unread.end).then_some(next)
        })
    }

    /// Removes the holes from `to` on, after a cut; `to` is in no hole.
    pub(super) fn truncate(&mut self, to: Offset) {
        self.holes.retain(|(_, hole)| hole.first < to);
    }
}

impl LogFiles {
    /// Returns the ranges of offsets that cannot be read.
    pub(crate) fn damaged_ranges(&self) -> Vec<Range<Offset>> {
        self.holes.ranges()
    }

    /// Reads the whole segment of `offset`, which could not be read, and notes its holes. An
    /// unreadable header is rebuilt from the log before it.
    ///
    /// # Errors
    ///
    /// The storage's, and `InvalidData` when the header cannot be rebuilt.
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
                // In the last segment, the next record goes right after the hole.
                end_position: (after == firsts.len()).then_some(bytes),
            });
        }
        for hole in &holes {
            let (offset, position) = (hole.first, hole.position);
            error!(path, position, %offset, end = %hole.end, "records cannot be read and must be refilled");
        }
        self.holes.were_found |= !holes.is_empty();
        self.holes.holes.retain(|(segment, _)| *segment != first);
        let found = holes.into_iter().map(|hole| (first, hole));
        self.holes.holes.extend(found);
        self.holes.holes.sort_by_key(|(_, hole)| hole.first);
        self.publish_holes();
        self.fill_from_memory()
    }

    /// Fills holes with the newest records, which are also in memory, as they were written.
    fn fill_from_memory(&mut self) -> Result<(), LogError> {
        for hole in self.holes.ranges() {
            if let Some(records) = self.view.read_tail(hole.start, hole.end, usize::MAX) {
                self.fill_holes(&records)?;
            }
        }
        Ok(())
    }

    /// Reads the header of a segment, or rebuilds it from the log before it if it is unreadable.
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
        // In any case, the next start reads the whole log.
        self.unproven.add(&*self.storage, first)?;
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let before = self.view.epoch_starts_before(first, EPOCH_STARTS_MAX);
        let (Some(cluster), Ok(epoch_starts)) = (self.cluster, before) else {
            return Err(invalid(format!("{path} is damaged: {error}")).into());
        };
        warn!(path, %error, "the header is unreadable: rebuilding it from the log before it");
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

    /// Publishes the holes to the view.
    pub(super) fn publish_holes(&self) {
        let readable_limit = self.holes.readable_limit();
        self.view
            .damaged(self.holes.all(), readable_limit, self.held_end());
    }

    /// Writes the records that belong into holes, and returns those that lie after the end.
    pub(super) fn fill_holes(
        &mut self,
        batches: &[FrameBatch],
    ) -> Result<Vec<FrameBatch>, LogError> {
        let mut behind: Vec<FrameBatch> = Vec::new();
        for batch in batches {
            let mut nth = 0;
            while let Some((segment, hole)) = self.holes.holes.get(nth).copied() {
                if [hole.first, hole.end, self.written_end]
                    .iter()
                    .any(|at| batch.splits(*at))
                {
                    self.refuse_fill((segment, hole), batch)?;
                    continue;
                }
                match batch.slice(hole.first, hole.end) {
                    Some(part) if self.fill(nth, (segment, hole), &part)? => {}
                    Some(_) | None => nth += 1,
                }
            }
            let end = behind.last().map_or(self.written_end, FrameBatch::end);
            behind.extend(batch.slice(end, Offset(u64::MAX)));
        }
        Ok(behind)
    }

    /// Handles records that do not fit into a hole: the frame that was read after it is not one of this
    /// log, since damage looked like one. Then a log that counts for nothing ends where the hole
    /// begins; a leading master fails, and starts with such a log.
    fn refuse_fill(
        &mut self,
        (segment, hole): (Offset, Hole),
        part: &FrameBatch,
    ) -> Result<(), LogError> {
        let path = segment::path(segment);
        let invalid = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what).into());
        if self.holes.held_back == HeldBack::No {
            return invalid(format!(
                "{part:?} do not fit into {path} at byte {}",
                hole.position
            ));
        }
        warn!(path, offset = %hole.first, "the record after the damage does not belong to the log: cutting");
        match self.try_truncate(hole.first)? {
            Truncation::Cut(_) => Ok(()),
            Truncation::Damaged(offset) => {
                invalid(format!("{path} is damaged: offset {offset} cannot be read"))
            }
        }
    }

    /// Writes and syncs records at the beginning of a hole. Returns `true` if the hole is gone, also
    /// if they do not fit and the log was cut there.
    fn fill(
        &mut self,
        nth: usize,
        (segment, hole): (Offset, Hole),
        part: &FrameBatch,
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
        // Never over readable records: then these are not the records that were there.
        let known = self.view.epoch_at(hole.end);
        let falls = known.is_some_and(|known| part.last_epoch() > known);
        if !fits || falls {
            self.refuse_fill((segment, hole), part)?;
            return Ok(true);
        }
        self.unproven.add(&*self.storage, segment)?;
        let file = self.storage.open(&path, OpenHow::Existing)?;
        file.write_at(hole.position, part.bytes())
            .map_err(LogError::Write)?;
        file.sync()?;
        self.view.filled(segment, position, part);
        if is_filled {
            self.holes.holes.remove(nth);
            info!(path, end = %hole.end, "the records of a hole are filled in");
        } else {
            let hole = &mut self.holes.holes[nth].1;
            (hole.first, hole.position) = (part.end(), position);
        }
        self.publish_holes();
        Ok(is_filled)
    }
}

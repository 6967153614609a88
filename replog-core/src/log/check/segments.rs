//! The walk over a log's segments: finds damage, torn tails, and the records that can be read after
//! either.
//!
//! Owns the order of the files and the offsets between them. Records come from the same [`Scan`]
//! that a node reads them with. What a start would cut is determined by the same two ends as in
//! [`files`](crate::log::files): the mark, and the beginning of the last segment, before which
//! everything was synced when that segment was created. But a start reads no more than it must, and
//! this reads everything.

use std::{io, sync::Arc};

use super::{Class, Finding, Owner, Report, unreadable};
use crate::{
    frame::FrameError,
    limits::EPOCH_STARTS_MAX,
    log::{
        mark::Mark,
        segment::{self, DIR, Epochs, FileName, HeaderError, Scan, ScanError, SegmentHeader},
    },
    storage::{OpenHow, Storage, StorageFile},
    types::Offset,
    words::counted,
};

/// Positions of the number and the pairs in a header, for people who look there.
const NUMBER_POSITION: u64 = 40;
const PAIRS_POSITION: u64 = 48;

/// Checks the segments among the `names` in their directory.
pub(super) fn look(
    storage: &dyn Storage,
    report: &mut Report,
    names: &[String],
    owner: Owner,
    mark: Option<Mark>,
) {
    let before = Before {
        end: Offset::ZERO,
        number: Some(0),
        last: None,
        epochs: Epochs::default(),
        is_broken: false,
    };
    let mut walk = Walk {
        storage,
        report,
        owner,
        has_mark: mark.is_some(),
        before,
    };
    let mut places = walk.places(names);
    let mark_end = mark.map_or(Offset::ZERO, |mark| mark.end);
    let floor = places
        .last()
        .map_or(mark_end, |last| mark_end.max(last.first));
    let torn = places.pop_if(|last| mark.is_some() && last.torn.is_some() && last.first >= floor);
    // A start removes a segment without records, and then looks at the one before it.
    let has_empty = places.last().is_some_and(|last| is_empty(storage, last));
    let kept = places.len() - usize::from(has_empty);
    for (at, place) in places.iter().enumerate() {
        let next = places.get(at + 1).or(torn.as_ref());
        walk.segment(&Segment {
            place,
            next_first: next.map(|next| next.first),
            is_last: at + 1 >= kept,
            floor,
        });
    }
    walk.report_gap(floor, None);
    if let Some(Place {
        first,
        size,
        torn: Some(what),
        ..
    }) = torn
    {
        walk.report
            .add(torn_tail(&segment::path(first), (first, 0), size, what));
    }
}

/// Checks a quarantined file of records that were cut.
pub(super) fn check_quarantined(storage: &dyn Storage, report: &mut Report, path: &str) {
    let read = || {
        let (file, size) = open(storage, path)?;
        let header = match SegmentHeader::read(&*file)? {
            Ok(header) => header,
            Err(error) => return Ok(Err(error)),
        };
        let scanned = segment::scan(&*file, &header, Offset(u64::MAX), size)?;
        io::Result::Ok(Ok((header.first, scanned)))
    };
    let finding = |what| Finding::of_file(Class::Note, path, what);
    report.add(match read() {
        Err(error) => finding(unreadable(&error)),
        Ok(Err(error)) => finding(format!("quarantined before a cut, but {error}")),
        Ok(Ok((first, scanned))) => {
            let end = scanned.end;
            let kept = format!("quarantined before a cut: offsets {first}..{end}");
            match scanned.bad {
                None => finding(kept),
                Some(bad) => {
                    finding(format!("{kept}, and then: {bad}")).at((end, scanned.position))
                }
            }
        }
    });
}

/// A file that has the name of a segment, and whose header does not say that it is another one.
#[derive(Debug)]
struct Place {
    first: Offset,
    size: u64,
    /// Number of segments before it by its header, if that can be read.
    number: Option<u64>,
    /// Defect of its header, if a crash may have left it so.
    torn: Option<String>,
}

/// A place and its surroundings.
#[derive(Debug)]
struct Segment<'a> {
    place: &'a Place,
    /// First offset of the next one, even of one with a torn header.
    next_first: Option<Offset>,
    /// `true` if none follows that the next start keeps.
    is_last: bool,
    /// All records below this offset were synced.
    floor: Offset,
}

impl Segment<'_> {
    fn path(&self) -> String {
        segment::path(self.place.first)
    }

    /// Returns the end that its records must reach.
    fn required_end(&self) -> Offset {
        self.next_first.unwrap_or(self.floor)
    }

    /// Returns the exclusive upper limit for the offset of a record after `offset`: the next
    /// segment's first offset, or one beyond what fits into the file.
    fn end_max(&self, offset: Offset) -> Offset {
        let more = Offset(offset.0.saturating_add(self.place.size));
        self.next_first.unwrap_or(more)
    }
}

/// State of the walk before a segment.
#[derive(Debug)]
struct Before {
    /// Offset of the next record.
    end: Offset,
    /// Number of the next segment, if known.
    number: Option<u64>,
    /// The last segment's first offset, and the end of its last record in the file.
    last: Option<(Offset, u64)>,
    /// Newest pairs of the log up to the end.
    epochs: Epochs,
    /// `true` if some may be missing from them.
    is_broken: bool,
}

struct Walk<'a> {
    storage: &'a dyn Storage,
    report: &'a mut Report,
    owner: Owner,
    has_mark: bool,
    before: Before,
}

impl Walk<'_> {
    /// Returns the segments by their names and headers, in order. Other files are reported.
    fn places(&mut self, names: &[String]) -> Vec<Place> {
        let mut places = Vec::new();
        for name in names {
            let path = format!("{DIR}/{name}");
            match FileName::of(name) {
                FileName::Segment(first) => places.extend(self.place(first)),
                FileName::Copy => {
                    let what = "a copy that was never finished: the next start removes it";
                    self.report.add_file(Class::Note, &path, what);
                }
                FileName::Malformed => {
                    let what =
                        "it is not the name of a segment, and no node starts while it is there";
                    self.report.add_file(Class::Damage, &path, what);
                }
                FileName::Foreign => {
                    let what = "it is not a node's file, and no node touches it";
                    self.report.add_file(Class::Note, &path, what);
                }
            }
        }
        places
    }

    fn place(&mut self, first: Offset) -> Option<Place> {
        self.report.segments += 1;
        let mut place = Place {
            first,
            size: 0,
            number: None,
            torn: None,
        };
        // A refusal by the disk is reported when the file is read.
        let Ok((file, size)) = open(self.storage, &segment::path(first)) else {
            return Some(place);
        };
        place.size = size;
        self.report.bytes += size;
        match SegmentHeader::read(&*file) {
            Ok(Ok(header)) if header.first != first => {
                let what = format!("it is the segment of offset {}", header.first);
                self.damage(&segment::path(first), (first, 0), None, what);
                return None;
            }
            Ok(Ok(header)) => place.number = Some(header.number),
            Ok(Err(HeaderError::Version(_))) | Err(_) => {}
            Ok(Err(error)) => place.torn = Some(error.to_string()),
        }
        Some(place)
    }

    /// Reports missing records before a segment that begins at `first`, or before the end that was
    /// synced.
    fn report_gap(&mut self, first: Offset, number: Option<u64>) {
        let (end, expected) = (self.before.end, self.before.number);
        if end < first {
            // A missing file is missing in the numbers too.
            let is_short = number.is_none() || number == expected;
            let finding = match self.before.last.filter(|_| is_short) {
                Some((last, position)) => {
                    let what = format!("the records up to {first} are missing");
                    Finding::of_file(Class::Damage, &segment::path(last), what).at((end, position))
                }
                None => {
                    let path = segment::path(end);
                    let finding = Finding::of_file(Class::Damage, &path, "the segment is missing");
                    finding.at_offset(end)
                }
            };
            self.report.add(finding.up_to(first));
            self.before.end = first;
            self.before.is_broken = true;
        } else if let (Some(number), Some(expected)) = (number, expected)
            && number != expected
        {
            let what = format!(
                "its header counts {} before it, and there are {expected}",
                counted(number, "segment")
            );
            self.damage(&segment::path(first), (first, NUMBER_POSITION), None, what);
        }
    }

    /// Checks a segment from its header to its end.
    fn segment(&mut self, segment: &Segment<'_>) {
        let Place { first, number, .. } = *segment.place;
        self.report_gap(first, number);
        let number = number.or(self.before.number);
        self.before.number = number.and_then(|number| number.checked_add(1));
        self.before.last = Some((first, 0));
        let begin = (first, 0);
        let opened = open(self.storage, &segment.path());
        let read = opened.and_then(|(file, size)| Ok((SegmentHeader::read(&*file)?, file, size)));
        let (header, file, size) = match read {
            Ok(read) => read,
            Err(error) => return self.report_unreadable(segment, begin, unreadable(&error)),
        };
        let (begin, bad) = match header {
            Ok(header) => {
                self.header(segment, &header);
                ((first, header.encoded_bytes()), None)
            }
            Err(error @ HeaderError::Version(_)) => {
                return self.report_unreadable(segment, begin, error.to_string());
            }
            Err(error) => (begin, Some(error.to_string())),
        };
        let mut scan = Scan::new(&*file, begin, size);
        if let Err(error) = self.records(segment, &mut scan, bad) {
            let at = (scan.offset(), scan.position());
            self.report_unreadable(segment, at, unreadable(&error));
        }
        self.before.last = Some((first, scan.position()));
    }

    /// Checks that a segment is the expected one.
    fn header(&mut self, segment: &Segment<'_>, header: &SegmentHeader) {
        let (found, first) = (header.cluster, header.first);
        let expected = match self.owner {
            Owner::Cluster(expected) => Some(format!("this node to {expected}")),
            Owner::NoCluster => Some("this node to none".to_owned()),
            Owner::Unknown => None,
        };
        if let Some(expected) = expected.filter(|_| self.owner != Owner::Cluster(found)) {
            let what = format!("it belongs to cluster {found}, {expected}");
            self.damage(&segment.path(), (first, 0), None, what);
        }
        if !matches!(self.owner, Owner::Cluster(_)) {
            // Once is enough; those that follow are of the same cluster.
            self.owner = Owner::Cluster(found);
        }
        let pairs = self.before.epochs.newest_before(first, EPOCH_STARTS_MAX);
        if !self.before.is_broken && pairs != header.epoch_starts {
            let what = "its epochs do not match the records before it".to_owned();
            self.damage(&segment.path(), (first, PAIRS_POSITION), None, what);
        }
        self.before.epochs = Epochs::before(header);
        self.before.is_broken = false;
    }

    /// Checks a segment's records. `bad` is the defect that stops the walk at its position, if
    /// there is one.
    fn records(
        &mut self,
        segment: &Segment<'_>,
        scan: &mut Scan<'_>,
        bad: Option<String>,
    ) -> io::Result<()> {
        if let Some(bad) = bad
            && !self.resume_after(segment, scan, &bad)?
        {
            self.report_unreadable(segment, (scan.offset(), scan.position()), bad);
            return Ok(());
        }
        let until = segment.next_first.unwrap_or(Offset(u64::MAX));
        while let Some(bad) = self.pass(scan, until)? {
            let at = (scan.offset(), scan.position());
            let mut what = bad.to_string();
            if segment.is_last && at.0 >= segment.floor {
                if self.has_mark {
                    if let Some(end) = scan.last_content()? {
                        let path = segment.path();
                        self.report.add(torn_tail(&path, at, end - at.1, what));
                    }
                    break;
                }
                what += ", and no mark tells how far the log was synced";
            }
            if self.resume_after(segment, scan, &what)? {
                continue;
            }
            if scan.last_content()?.is_none() {
                // Nothing was written here: the missing records are reported as missing.
                break;
            }
            self.report_unreadable(segment, at, what);
            return Ok(());
        }
        self.before.end = scan.offset();
        if segment.next_first == Some(scan.offset()) {
            self.check_rest(segment, scan)?;
        }
        Ok(())
    }

    /// Passes over good records, and counts them.
    fn pass(&mut self, scan: &mut Scan<'_>, until: Offset) -> io::Result<Option<FrameError>> {
        let from = scan.offset();
        let result = scan.walk(until, &mut self.before.epochs, |_, _| {});
        if scan.offset() > from {
            self.report.records += scan.offset().records_since(from);
            self.report.end = scan.offset();
        }
        result
    }

    /// Finds the next good record of the segment and reports the damage before it; `false` if there
    /// is none.
    fn resume_after(
        &mut self,
        segment: &Segment<'_>,
        scan: &mut Scan<'_>,
        what: &str,
    ) -> io::Result<bool> {
        let at = (scan.offset(), scan.position());
        let epoch = self.before.epochs.last_epoch();
        let found = scan.search(segment.end_max(at.0), epoch)?;
        if found {
            self.damage(&segment.path(), at, Some(scan.offset()), what.to_owned());
        }
        Ok(found)
    }

    /// Checks the bytes after the last record, when the next segment begins there.
    fn check_rest(&mut self, segment: &Segment<'_>, scan: &mut Scan<'_>) -> io::Result<()> {
        let at = (scan.offset(), scan.position());
        let Some(end) = scan.last_content()? else {
            return Ok(());
        };
        match scan.next() {
            Err(ScanError::Io(error)) => return Err(error),
            Err(ScanError::Bad(error)) if segment.is_last => {
                let (path, what) = (segment.path(), error.to_string());
                self.report.add(torn_tail(&path, at, end - at.1, what));
            }
            Err(ScanError::Bad(_)) => {
                let bytes = end - at.1;
                let what = format!(
                    "{} after the last record, which no node reads",
                    counted(bytes, "byte")
                );
                let finding = Finding::of_file(Class::Note, &segment.path(), what);
                self.report.add(finding.at(at));
            }
            Ok(_) => {
                let what = "it continues where the next segment begins".to_owned();
                self.damage(&segment.path(), at, None, what);
            }
        }
        Ok(())
    }

    /// Reports that nothing of a segment can be read from `at` on.
    fn report_unreadable(&mut self, segment: &Segment<'_>, at: (Offset, u64), what: String) {
        let end = segment.required_end().max(at.0);
        self.damage(&segment.path(), at, Some(end), what);
        self.before.end = end;
    }

    fn damage(&mut self, path: &str, at: (Offset, u64), until: Option<Offset>, what: String) {
        let finding = Finding::of_file(Class::Damage, path, what).at(at);
        self.report.add(match until {
            Some(until) => finding.up_to(until),
            None => finding,
        });
        self.before.is_broken = true;
    }
}

/// Returns `true` if a segment has no good record. One that cannot be read may have some.
fn is_empty(storage: &dyn Storage, place: &Place) -> bool {
    let read = || {
        let (file, size) = open(storage, &segment::path(place.first))?;
        let Ok(header) = SegmentHeader::read(&*file)? else {
            return io::Result::Ok(false);
        };
        let mut scan = Scan::new(&*file, (place.first, header.encoded_bytes()), size);
        Ok(match scan.next() {
            Ok(Some(_)) | Err(ScanError::Io(_)) => false,
            Err(ScanError::Bad(error)) => !error.is_unknown(),
            Ok(None) => true,
        })
    };
    read().unwrap_or(false)
}

fn torn_tail(path: &str, at: (Offset, u64), bytes: u64, what: String) -> Finding {
    let finding = Finding::of_file(Class::TornTail, path, what).at(at);
    Finding {
        torn_bytes: Some(bytes),
        ..finding
    }
}

fn open(storage: &dyn Storage, path: &str) -> io::Result<(Arc<dyn StorageFile>, u64)> {
    let file = storage.open(path, OpenHow::Existing)?;
    let size = file.size()?;
    Ok((file, size))
}

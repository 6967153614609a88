//! Rule 2, for appends of several records too: no node shows a part of one, and nothing else
//! follows one before all of it is there.

use super::{Disks, Finding, authors::Authors};
use crate::{
    sim::{disk::RecordId, world::MachineId},
    types::Offset,
};

/// Checks that what a node shows ends at the end of an append.
pub(super) fn on_shown(
    disks: Disks<'_>,
    machine: MachineId,
    authors: &Authors,
    ids: &[Option<RecordId>],
    ends: impl IntoIterator<Item = Offset>,
) -> Finding {
    for end in ends {
        let Some(last) = end.0.checked_sub(1).map(Offset) else {
            continue;
        };
        let id = ids.get(last.0 as usize).copied().flatten();
        let record = id.and_then(|id| authors.record(last, id));
        if let Some(record) = record
            && record.append.end != end
        {
            let append = &record.append;
            return Err(format!(
                "rule 2: {} shows everything below {end}, which is inside the append of {}..{}",
                disks.name(machine),
                append.start,
                append.end
            ));
        }
    }
    Ok(())
}

/// Checks records from `from` on that a node did not show before: each part of an append follows
/// the rest of it.
pub(super) fn on_more_shown(
    disks: Disks<'_>,
    machine: MachineId,
    authors: &Authors,
    ids: &[Option<RecordId>],
    from: Offset,
) -> Finding {
    for (at, id) in ids.iter().enumerate().skip(from.0 as usize) {
        let offset = Offset(at as u64);
        let Some(id) = id else { continue };
        let Some(record) = authors.record(offset, *id) else {
            continue;
        };
        // Within an epoch an offset is assigned once: the same epoch is the same append.
        let belongs = |at: u64| match ids.get(at as usize) {
            Some(Some(other)) => other.0 == id.0,
            // It rotted, or is not there: the end is checked above.
            Some(None) | None => true,
        };
        let append = &record.append;
        if !(append.start.0..append.end.0).all(belongs) {
            return Err(format!(
                "rule 2: {} has a part of the append of {}..{}, and other records in its place",
                disks.name(machine),
                append.start,
                append.end
            ));
        }
    }
    Ok(())
}

//! Boundaries of appends of several records in a written log.
//!
//! Owns nothing: a part of [`LogView`] that has an interface of its own. Looks at the last record first, which
//! almost always ends its append, and reads the log back to the beginning of the append only if it does not. Keeps
//! rule 2, for appends too: no node shows a part of one.

use super::*;
use crate::limits::BATCH_BYTES_MAX;

impl LogView {
    /// Returns the end of the last complete append in the log: the written end, unless the log ends inside an
    /// append. Blocking: may read files. For the writer of the log: nothing changes meanwhile.
    ///
    /// # Errors
    ///
    /// Like [`LogView::read`]: it is then unknown if the log ends inside an append.
    pub(crate) fn whole_appends_end(self: &Arc<Self>) -> Result<Offset, ReadError> {
        let (found, read) = look_back(self, self.written_end());
        read.map(|()| found)
    }
}

/// Returns the end of the last complete append before `end`, as far as can be read: unreadable records are not
/// shown.
pub(super) fn visible_before(view: &Arc<LogView>, end: Offset) -> Offset {
    look_back(view, end).0
}

/// Returns the end of the last readable append before `end`, and an error if a record that decides it is
/// unreadable.
fn look_back(view: &Arc<LogView>, end: Offset) -> (Offset, Result<(), ReadError>) {
    let Some(last) = end.0.checked_sub(1).map(Offset) else {
        return (end, Ok(()));
    };
    let mut read = Ok(());
    match view.read(last, end, 1).map(|records| last_closed(&records)) {
        Ok(Some(closed)) => return (closed, read),
        Ok(None) => {}
        Err(error) => read = Err(error),
    }
    let firsts = view.segment_firsts();
    let mut until = end;
    for &first in firsts.iter().rev().skip_while(|first| **first >= end) {
        let (mut next, mut closed) = (first, None);
        while next < until {
            match view.read(next, until, BATCH_BYTES_MAX) {
                Ok(records) => {
                    let Some(part) = records.last() else { break };
                    next = part.end();
                    closed = last_closed(&records).or(closed);
                }
                Err(error) => {
                    read = read.and(Err(error));
                    break;
                }
            }
        }
        if let Some(closed) = closed {
            return (closed, read);
        }
        until = first;
    }
    (Offset::ZERO, read)
}

/// Returns the end of the last append among these records; `None` if they all belong to one that continues, and
/// that may have begun before them.
pub(super) fn last_closed(records: &[RecordBatch]) -> Option<Offset> {
    records
        .iter()
        .rev()
        .find_map(|batch| match batch.open_from() {
            None => Some(batch.end()),
            Some(first) => (first > batch.first()).then_some(first),
        })
}

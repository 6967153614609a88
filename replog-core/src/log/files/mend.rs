//! Recovery from a refused write, and quarantine before a cut that loses records.
//!
//! A part of [`LogFiles`], which owns the files. Keeps rules 2 and 10.

use super::*;
use crate::{log::quarantine, types::Epoch};

impl LogFiles {
    /// Makes the log usable again after a refused write: partly written records are cut away, an
    /// unfinished segment is removed, and everything that is left is synced. The written end stays:
    /// readers and links never saw more. Without a failure it does nothing.
    ///
    /// # Errors
    ///
    /// The storage's. After [`LogError::Write`] it may be retried.
    pub(crate) fn mend(&mut self) -> Result<(), LogError> {
        match self.failure.take() {
            None => Ok(()),
            Some(LogError::Write(_)) => self.attempt(LogFiles::try_mend),
            Some(failure) => {
                let refusal = failure.refusal();
                self.failure = Some(failure);
                Err(refusal)
            }
        }
    }

    /// Copies the records from `from` on to the quarantine, before they are cut because of a
    /// recovery in `epoch`. When this returns, the copy is durable.
    ///
    /// # Errors
    ///
    /// The storage's, as for [`LogFiles::append`].
    ///
    /// # Panics
    ///
    /// If there are records and no cluster is set.
    pub(crate) fn quarantine(&mut self, from: Offset, epoch: Epoch) -> Result<(), LogError> {
        self.attempt(|files| {
            if from >= files.written_end {
                return Ok(());
            }
            let cluster = files.cluster.expect("records belong to a cluster");
            let (mut next, end) = (from, files.written_end);
            // Records between holes: each range becomes a file of its own.
            let mut made = 0;
            let mut keep = |range| {
                let kept =
                    quarantine::quarantine(&*files.storage, &files.view, cluster, range, epoch);
                kept.map(|is_new| made += usize::from(is_new))
            };
            for hole in files.holes.ranges() {
                keep((next, hole.start))?;
                next = next.max(hole.end);
            }
            keep((next, end))?;
            quarantine::remove_oldest(&*files.storage, made);
            Ok(())
        })
    }

    fn try_mend(&mut self) -> Result<(), LogError> {
        if let Some(first) = self.unfinished_segment {
            match self.storage.remove(&segment::path(first)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(LogError::Write(error)),
            }
            self.storage.sync_dir(DIR)?;
            self.unfinished_segment = None;
        }
        if let Some(active) = &mut self.active {
            self.mark.write_synced(Mark {
                end: self.synced_end,
                state: MarkState::Cutting,
            })?;
            active.cut_to_written()?;
        }
        self.synced_end = self.written_end;
        self.view.synced(self.synced_end);
        self.mark.write_synced(Mark {
            end: self.synced_end,
            state: MarkState::Open,
        })
    }
}

//! [`Follower`]: reads a log and goes on reading as it grows.
//!
//! Owns a position in the log and buffers nothing beyond it: a slow follower reads on from the log, never from
//! a queue of its own. [`Following`] decides what cuts mean. Keeps rules 1, 2, 10 and 11.

use std::fmt;

use crate::{
    error::ReadError,
    handle::{MessageRange, Reader},
    rules::following::{CutCheck, Following},
    types::{Offset, ReadLevel},
    watch,
};

/// A reader that starts at an offset of a node's log and waits for more records at its end.
///
/// Its memory is constant: it reads from the log only when asked, the newest records from memory that all
/// readers share. A follower that is never asked costs only its position.
///
/// At level `local` a node may show a record that is later cut from its log, when it adopts another master's:
/// a follower that delivered such a record reports the cut once and goes back.
///
/// ```
/// # use std::sync::Arc;
/// # use replog_core::{
/// #     AppendOptions, Concern, Followed, Master, MasterConfig, Offset, ReadLevel, MessageRange,
/// #     storage::MemoryStorage, transport::LocalNetwork,
/// # };
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let config = MasterConfig::new("master".parse()?, vec![]);
/// # let network = Arc::new(LocalNetwork::new());
/// # let master = Master::start(config, Arc::new(MemoryStorage::new()), network).await?;
/// # master.wait_until_writable().await?;
/// let mut follower = master.reader().follow(Offset(0), ReadLevel::Committed);
/// let appending = master.clone();
/// tokio::spawn(async move { appending.append("hello", AppendOptions::default()).await });
/// match follower.next(64 << 10).await? {
///     Followed::Records(ranges) => {
///         let first = ranges.iter().flat_map(MessageRange::messages).next().expect("at least one");
///         assert_eq!(first.payload, "hello");
///     }
///     Followed::Cut { offset } => println!("forget everything from {offset} on"),
/// }
/// # Ok(())
/// # }
/// ```
pub struct Follower {
    reader: Reader,
    level: ReadLevel,
    following: Following,
    local: watch::Receiver<Offset>,
    committed: watch::Receiver<Option<Offset>>,
    /// The offset of an append that could not be read.
    damaged_at: Option<Offset>,
}

/// A result of a follower: records, or a cut.
#[derive(Clone, Debug)]
pub enum Followed {
    /// The next records, at least one, without a gap after the previous ones. No part of a batch that was
    /// appended together is delivered before the node shows all of it, though one call may not deliver all of it.
    Records(Vec<MessageRange>),
    /// Everything from `offset` on that this follower delivered was cut from the log. The follower continues
    /// at `offset`: a record exists again only if it is delivered again.
    Cut {
        /// The first offset that was delivered and is no longer in the log.
        offset: Offset,
    },
}

impl Follower {
    pub(super) fn new(reader: Reader, from: Offset, level: ReadLevel) -> Follower {
        let cuts = reader.view.cuts();
        Follower {
            following: Following::new(from, cuts),
            local: reader.view.durable_end_watch(),
            committed: reader.shared.watch_committed(),
            reader,
            level,
            damaged_at: None,
        }
    }

    /// Returns the offset of the next record to deliver.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.following.next()
    }

    /// Returns the next messages, up to `bytes_max` bytes and at least one message, as [`Reader::read`] counts them, or
    /// reports that delivered records were cut. Waits until there is something to return: also when it starts beyond the log's end,
    /// while `committed` is not known, and before an unreadable record, which the node repairs from another
    /// one by itself.
    ///
    /// At level `committed` only a forced recovery can cut what was delivered.
    ///
    /// # Errors
    ///
    /// [`ReadError::Stopped`] as soon as the node has ended, whatever is left to read.
    /// [`ReadError::Io`] when the disk fails; the call may be repeated.
    ///
    /// # Cancel safety
    ///
    /// A dropped future consumes nothing: the next one returns the same.
    pub async fn next(&mut self, bytes_max: usize) -> Result<Followed, ReadError> {
        loop {
            if self.reader.ended.borrow().is_some() {
                return Err(ReadError::Stopped);
            }
            // Any change from here on wakes it, even one during the read.
            self.local.mark_unchanged();
            self.committed.mark_unchanged();
            if !self.is_before_known_damage() {
                match self.read_on(Offset(u64::MAX), bytes_max).await {
                    Ok(Some(followed)) => return Ok(followed),
                    Ok(None) => {}
                    // The node is already repairing this record: wait for it instead of re-reading. Ending
                    // here would only make the caller come back to the same record.
                    Err(ReadError::Damaged { offset, .. }) => self.damaged_at = Some(offset),
                    Err(error) => return Err(error),
                }
            }
            self.wait().await?;
        }
    }

    /// Returns the next records below `until`, as [`Follower::next`] does but without waiting: `None` if the
    /// node shows no more of them.
    ///
    /// # Errors
    ///
    /// [`ReadError`]. At a damaged record it fails with [`ReadError::Damaged`] instead of waiting.
    ///
    /// # Cancel safety
    ///
    /// The same as for [`Follower::next`].
    pub async fn read_on(
        &mut self,
        until: Offset,
        bytes_max: usize,
    ) -> Result<Option<Followed>, ReadError> {
        loop {
            let next = self.following.next();
            let shown = self.reader.end(self.level).unwrap_or(Offset::ZERO);
            let read = self.reader.read_shown(next, shown, until, bytes_max).await;
            // Checked after the read, so that no cut can slip in between: either the records are of the log
            // that this follower knows, or they are read again.
            let (cuts, lowest) = self.reader.view.cuts_since(self.following.cuts());
            match self.following.on_cut_check(cuts, lowest) {
                CutCheck::CutBehind(offset) => return Ok(Some(Followed::Cut { offset })),
                CutCheck::CutAhead => continue,
                CutCheck::NoCut => {}
            }
            let records = match read {
                Ok(records) => records,
                // Already cut; the visible end is about to be lowered.
                Err(ReadError::Cut { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let Some(end) = records.last().map(MessageRange::end) else {
                return Ok(None);
            };
            self.following.on_delivered(end);
            self.damaged_at = None;
            return Ok(Some(Followed::Records(records)));
        }
    }

    /// Waits until something changes that may affect this follower.
    async fn wait(&mut self) -> Result<(), ReadError> {
        tokio::select! {
            biased;
            _ = self.reader.ended.wait_for(Option::is_some) => Err(ReadError::Stopped),
            // An error would mean that the log is gone, which `reader` prevents.
            Ok(()) = self.local.changed() => Ok(()),
            Ok(()) = self.committed.changed(), if self.level == ReadLevel::Committed => Ok(()),
        }
    }

    fn is_before_known_damage(&self) -> bool {
        let next = self.following.next();
        // It may have begun inside the append that cannot be read.
        self.damaged_at.is_some_and(|at| at <= next) && self.reader.view.is_hole(next)
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower")
            .field("level", &self.level)
            .field("following", &self.following)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

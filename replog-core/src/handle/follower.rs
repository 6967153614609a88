//! [`Follower`]: reads a log and goes on reading as it grows.
//!
//! Owns a place in the log, and nothing of what lies behind it: a slow follower reads on from the log, never
//! from a queue of its own. What cuts mean is [`Following`]'s to say. Keeps rules 1, 2, 10 and 11.

use std::fmt;

use crate::{
    error::ReadError,
    handle::Reader,
    record::RecordBatch,
    rules::following::{CutCheck, Following},
    types::{Offset, ReadLevel},
    watch,
};

/// Reads the log of a node from an offset on, and waits for more at its end.
///
/// Its memory is constant: what it gives was read from the log when it was asked for, the newest records out
/// of memory that all readers share. A follower that is never asked costs nothing but its place.
///
/// At level `local` a node may show a record that is later cut from its log, when it adopts another master's:
/// a follower that gave such a record says so, once, and goes back.
///
/// ```
/// # use std::sync::Arc;
/// # use replog_core::{
/// #     AppendOptions, Concern, Followed, Master, MasterConfig, Offset, ReadLevel, messages,
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
///     Followed::Records(batches) => {
///         let first = batches.iter().flat_map(messages).next().expect("at least one");
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
    /// Where a record could not be read.
    damaged_at: Option<Offset>,
}

/// What a follower finds in the log.
#[derive(Clone, Debug)]
pub enum Followed {
    /// The next records, at least one, without a gap to those before. What was appended together is there
    /// together: no part of it is given before all of it is shown, though one call may not give all of it.
    Records(Vec<RecordBatch>),
    /// Everything from `offset` on that this follower gave was cut from the log. It is there again if the
    /// follower gives it again: it goes on at `offset`.
    Cut {
        /// The first offset that was given and is not in the log any more.
        offset: Offset,
    },
}

impl Follower {
    pub(super) fn new(reader: Reader, from: Offset, level: ReadLevel) -> Follower {
        let cuts = reader.view.cuts();
        Follower {
            following: Following::new(from, cuts),
            local: reader.view.shown_watch(),
            committed: reader.shared.watch_committed(),
            reader,
            level,
            damaged_at: None,
        }
    }

    /// The offset of the next record that it gives.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.following.next()
    }

    /// Gives the next records, up to `bytes_max` bytes and at least one record, or says that some that it
    /// gave were cut. Waits until there is something to say: also from beyond the log's end on, while
    /// `committed` is not known, and before a record that cannot be read, which the node mends from
    /// another one by itself.
    ///
    /// At level `committed` nothing that was given is ever cut, but by a forced recovery.
    ///
    /// # Errors
    ///
    /// [`ReadError::Stopped`] when the node has ended, at once, whatever is left to read.
    /// [`ReadError::Io`] when the disk refuses; it may be asked again.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped took nothing: the next one gives the same.
    pub async fn next(&mut self, bytes_max: usize) -> Result<Followed, ReadError> {
        loop {
            if self.reader.ended.borrow().is_some() {
                return Err(ReadError::Stopped);
            }
            // What changes from here on wakes it, also while it reads.
            self.local.mark_unchanged();
            self.committed.mark_unchanged();
            if !self.is_before_known_damage() {
                match self.read_on(Offset(u64::MAX), bytes_max).await {
                    Ok(Some(followed)) => return Ok(followed),
                    Ok(None) => {}
                    // The node was told and sees to it. To read it again and again helps nobody, and to end
                    // here would only make whoever follows come back to the same record.
                    Err(ReadError::Damaged { offset, .. }) => self.damaged_at = Some(offset),
                    Err(error) => return Err(error),
                }
            }
            self.wait().await?;
        }
    }

    /// As [`Follower::next`] without waiting, and no record from `until` on: `None` where the node shows
    /// nothing more before it.
    ///
    /// # Errors
    ///
    /// [`ReadError`]. Before a damaged record it ends, with [`ReadError::Damaged`].
    ///
    /// # Cancel safety
    ///
    /// As [`Follower::next`].
    pub async fn read_on(
        &mut self,
        until: Offset,
        bytes_max: usize,
    ) -> Result<Option<Followed>, ReadError> {
        loop {
            let next = self.following.next();
            let end = self
                .reader
                .end(self.level)
                .unwrap_or(Offset::ZERO)
                .min(until);
            let read = self.reader.read(next, end, bytes_max).await;
            // After the read, so that no cut can come between: what was read is of the log that this
            // follower knows, or it is read again.
            let (cuts, lowest) = self.reader.view.cuts_since(self.following.cuts());
            match self.following.on_cut_check(cuts, lowest) {
                CutCheck::CutBehind(offset) => return Ok(Some(Followed::Cut { offset })),
                CutCheck::CutAhead => continue,
                CutCheck::NoCut => {}
            }
            let records = match read {
                Ok(records) => records,
                // Known to be cut, and the end that is shown is about to be lowered.
                Err(ReadError::Cut { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let Some(end) = records.last().map(RecordBatch::end) else {
                return Ok(None);
            };
            self.following.on_delivered(end);
            self.damaged_at = None;
            return Ok(Some(Followed::Records(records)));
        }
    }

    /// Waits until something changes that may concern it.
    async fn wait(&mut self) -> Result<(), ReadError> {
        tokio::select! {
            biased;
            _ = self.reader.ended.wait_for(Option::is_some) => Err(ReadError::Stopped),
            // An error: the log is gone, which its reader here prevents.
            Ok(()) = self.local.changed() => Ok(()),
            Ok(()) = self.committed.changed(), if self.level == ReadLevel::Committed => Ok(()),
        }
    }

    fn is_before_known_damage(&self) -> bool {
        let next = self.following.next();
        self.damaged_at == Some(next) && self.reader.view.is_hole(next)
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

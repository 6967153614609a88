//! [`Reader`]: read access to a node's log.

use std::{fmt, sync::Arc};

use crate::{
    error::{ReadError, Stopped},
    frame::FrameBatch,
    handle::{
        Follower, MessageRange, Shared,
        host::{self, Host},
        runtime,
    },
    log::LogView,
    types::{ClusterId, Offset, ReadLevel},
    views::Message,
};

/// A reader of a node's log. It sees only what the node holds, and nothing of an append before all of it is there:
/// the end moves from the first message of a batch past its last in one step. Clones share the log.
#[derive(Clone)]
pub struct Reader {
    pub(super) view: Arc<LogView>,
    pub(super) shared: Arc<Shared>,
    host: Arc<dyn Host>,
    pub(super) ended: runtime::Ended,
}

impl Reader {
    pub(crate) fn new(
        view: &Arc<LogView>,
        shared: &Arc<Shared>,
        host: &Arc<dyn Host>,
        ended: &runtime::Ended,
    ) -> Reader {
        Reader {
            view: view.clone(),
            shared: shared.clone(),
            host: host.clone(),
            ended: ended.clone(),
        }
    }

    /// Returns the end of the records visible at `level`; `None` while `committed` is not known.
    #[must_use]
    pub fn end(&self, level: ReadLevel) -> Option<Offset> {
        let local = self.view.durable_end();
        match level {
            ReadLevel::Local => Some(local),
            ReadLevel::Committed => self
                .shared
                .committed()
                .map(|committed| committed.min(local)),
        }
    }

    /// Returns the identity of this node's log; `None` until the node joins a cluster. Offsets are meaningful only
    /// within one log: a newly founded cluster has another log, whose offsets begin at 0 again.
    #[must_use]
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.view.cluster()
    }

    /// Reads the messages of `from..until` that this node holds, up to `bytes_max` bytes and at least one message;
    /// none if it holds none of them. Each message counts with 42 bytes more than its own. From the disk an append is
    /// read as a whole, even if only some of its messages are asked for, and stays in memory as long as one of them.
    ///
    /// # Errors
    ///
    /// [`ReadError`]: a damaged record or a failing disk. Earlier calls returned what precedes the
    /// damage, and nothing after it is shown.
    pub async fn read(
        &self,
        from: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> Result<Vec<MessageRange>, ReadError> {
        self.read_shown(from, Offset(u64::MAX), until, bytes_max)
            .await
    }

    /// Reads as [`Reader::read`] does, of a log of which only whole appends below `shown` are visible.
    pub(super) async fn read_shown(
        &self,
        from: Offset,
        shown: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> Result<Vec<MessageRange>, ReadError> {
        loop {
            let shown = shown.min(self.view.durable_end());
            let until = until.min(shown);
            if from >= until {
                return Ok(Vec::new());
            }
            let frames = match self.view.read_tail(from, until, bytes_max) {
                Some(frames) => frames,
                None => {
                    let view = self.view.clone();
                    let read =
                        host::off_thread(&self.host, move || view.read(from, until, bytes_max));
                    read.await.unwrap_or(Err(ReadError::Stopped))?
                }
            };
            // If the log was cut meanwhile, other records may be there that are not shown yet. The end is
            // lowered before they are written.
            let end = frames.last().map(FrameBatch::end);
            if end.is_some_and(|end| end > self.view.durable_end()) {
                continue;
            }
            let whole = |frames: &FrameBatch| frames.slice(Offset::ZERO, shown);
            let ranges = frames
                .iter()
                .filter_map(whole)
                .filter_map(|frames| MessageRange::new(frames, from, until));
            let (mut read, mut left) = (Vec::new(), bytes_max);
            for range in ranges {
                let count = range.count();
                let (range, bytes) = range.head(left);
                if bytes > left && !read.is_empty() {
                    break;
                }
                left = left.saturating_sub(bytes);
                let is_whole = range.count() == count;
                read.push(range);
                if !is_whole {
                    break;
                }
            }
            return Ok(read);
        }
    }

    /// Reads one message; `None` if this node holds no message at `offset`.
    ///
    /// # Errors
    ///
    /// The same as for [`Reader::read`].
    pub async fn get(&self, offset: Offset) -> Result<Option<Message>, ReadError> {
        let ranges = self
            .read(offset, Offset(offset.0.saturating_add(1)), 1)
            .await?;
        Ok(ranges.first().and_then(|range| range.messages().next()))
    }

    /// Returns a follower that reads from `from` on and continues as the log grows at `level`.
    #[must_use]
    pub fn follow(&self, from: Offset, level: ReadLevel) -> Follower {
        Follower::new(self.clone(), from, level)
    }

    /// Returns the offset of the last message of the append to which the message at `offset` belongs: `offset`
    /// itself, unless the message was appended in a batch. Also `offset` if this node does not show the message.
    pub(crate) async fn last_of_append(&self, offset: Offset) -> Result<Offset, ReadError> {
        let ranges = self
            .read(offset, Offset(offset.0.saturating_add(1)), 1)
            .await?;
        let mut frames = ranges.iter().flat_map(|range| range.frames().frames());
        let append = frames.find(|frame| offset < frame.end());
        Ok(append.map_or(offset, |append| Offset(append.end().0 - 1)))
    }

    /// Waits until this node shows `offset` at `level`.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has ended.
    pub async fn wait_for(&self, offset: Offset, level: ReadLevel) -> Result<(), Stopped> {
        let mut ended = self.ended.clone();
        let (mut local, mut committed) =
            (self.view.durable_end_watch(), self.shared.watch_committed());
        let shown = async {
            // An error means that the node has ended, which the other branch reports.
            local.wait_for(|end| offset < *end).await.is_ok()
                && (level == ReadLevel::Local
                    || committed
                        .wait_for(|end| end.is_some_and(|end| offset < end))
                        .await
                        .is_ok())
        };
        tokio::select! {
            biased;
            true = shown => Ok(()),
            _ = ended.wait_for(Option::is_some) => Err(runtime::why_ended(&self.ended)),
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("end", &self.view.durable_end())
            .finish_non_exhaustive()
    }
}

//! [`Reader`]: read access to a node's log.

use std::{fmt, sync::Arc};

use crate::{
    error::{ReadError, Stopped},
    handle::{
        Follower, Shared,
        host::{self, Host},
        runtime,
    },
    limits::BATCH_BYTES_MAX,
    log::LogView,
    record::{KIND_MESSAGE, Record, RecordBatch},
    types::{ClusterId, Offset, ReadLevel},
    views::Message,
};

/// A reader of a node's log. It sees only what the node holds, never a part of an append: the end moves from
/// the first message of a batch past its last in one step. Clones share the log.
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
        let local = self.view.visible_end();
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

    /// Reads the records of `from..until` that this node holds, up to `bytes_max` bytes and at
    /// least one record; none if it holds none of them.
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
    ) -> Result<Vec<RecordBatch>, ReadError> {
        loop {
            let until = until.min(self.view.visible_end());
            if from >= until {
                return Ok(Vec::new());
            }
            let records = match self.view.read_tail(from, until, bytes_max) {
                Some(records) => records,
                None => {
                    let view = self.view.clone();
                    let read =
                        host::off_thread(&self.host, move || view.read(from, until, bytes_max));
                    read.await.unwrap_or(Err(ReadError::Stopped))?
                }
            };
            // If the log was cut meanwhile, other records may be there that are not shown yet. The end is
            // lowered before they are written.
            let end = records.last().map(RecordBatch::end);
            if end.is_none_or(|end| end <= self.view.visible_end()) {
                return Ok(records);
            }
        }
    }

    /// Reads one message; `None` if this node holds no message at `offset`.
    ///
    /// # Errors
    ///
    /// The same as for [`Reader::read`].
    pub async fn get(&self, offset: Offset) -> Result<Option<Message>, ReadError> {
        let records = self
            .read(offset, Offset(offset.0.saturating_add(1)), 1)
            .await?;
        Ok(records.first().and_then(|batch| messages(batch).next()))
    }

    /// Returns a follower that reads from `from` on and continues as the log grows at `level`.
    #[must_use]
    pub fn follow(&self, from: Offset, level: ReadLevel) -> Follower {
        Follower::new(self.clone(), from, level)
    }

    /// Returns the offset of the last message of the append to which the message at `offset` belongs: `offset`
    /// itself, unless the message was appended in a batch. Also `offset` if this node does not show the message.
    pub(crate) async fn last_of_append(&self, offset: Offset) -> Result<Offset, ReadError> {
        let (mut next, mut bytes_max) = (offset, 1);
        loop {
            let records = self.read(next, Offset(u64::MAX), bytes_max).await?;
            let mut each = records.iter().flat_map(RecordBatch::records);
            if let Some(last) = each.find(|record| !record.append_goes_on()) {
                return Ok(last.offset);
            }
            match records.last() {
                Some(batch) => (next, bytes_max) = (batch.end(), BATCH_BYTES_MAX),
                None => return Ok(offset),
            }
        }
    }

    /// Waits until this node shows `offset` at `level`.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has ended.
    pub async fn wait_for(&self, offset: Offset, level: ReadLevel) -> Result<(), Stopped> {
        let mut ended = self.ended.clone();
        let (mut local, mut committed) =
            (self.view.visible_end_watch(), self.shared.watch_committed());
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

/// Iterates over the messages of a batch, in order.
pub fn messages(batch: &RecordBatch) -> impl Iterator<Item = Message> {
    let bytes = batch.bytes();
    batch
        .records()
        .filter(|record| record.kind == KIND_MESSAGE)
        .map(|record: Record<'_>| Message {
            offset: record.offset,
            epoch: record.epoch,
            timestamp_ms: record.timestamp_ms,
            key: (!record.key.is_empty()).then(|| String::from_utf8_lossy(record.key).into_owned()),
            payload: bytes.slice_ref(record.payload),
        })
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("end", &self.view.visible_end())
            .finish_non_exhaustive()
    }
}

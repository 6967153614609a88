//! [`Master::wait_for_concern`]: waits until enough nodes hold a message that was appended earlier.

use std::time::Duration;

use super::{Master, WaitGuard};
use crate::{
    actors::AwaitConcern,
    error::{AppendError, WaitError},
    types::{Concern, Offset, ReadLevel},
    views::{ConcernStatus, Holders},
};

impl Master {
    /// Waits until the message at `offset` meets `concern` or `timeout` expires: then `concern_met` is false.
    /// A zero timeout does not wait for other nodes; `None` sets no limit. A message of a batch meets a concern
    /// when the whole batch does. A wait counts as an append that waits for this concern, both towards
    /// `max_waiting_appends` and in [`Master::waiting_appends`].
    ///
    /// # Errors
    ///
    /// [`WaitError`]. Whatever the error, the message is in the log as before.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing and ends the wait.
    pub async fn wait_for_concern(
        &self,
        offset: Offset,
        concern: Concern,
        timeout: Option<Duration>,
    ) -> Result<ConcernStatus, WaitError> {
        let reader = self.reader();
        let next = reader.end(ReadLevel::Local).unwrap_or_default();
        if offset >= next {
            return Err(WaitError::NoSuchOffset { next });
        }
        // An unreadable message is not known to belong to a batch, so it is taken to stand alone.
        let last = reader.last_of_append(offset).await.unwrap_or(offset);
        let waiter = self.inner.inbox.next_waiter();
        let waits = WaitGuard::of(self, waiter);
        let answer = self.describe(|answer_to| AwaitConcern {
            last,
            concern,
            timeout,
            waiter,
            answer_to,
        });
        let receipt = waits.answered(answer.await).map_err(of_refusal)?;
        Ok(ConcernStatus {
            concern: receipt.concern,
            concern_met: receipt.concern_met,
            holders: Holders {
                acks: receipt.acks,
                waiting_for: receipt.waiting_for,
            },
        })
    }
}

/// Converts the error of an append, with which waits are answered too. The errors about a message that is still to
/// be appended never occur for one that was already in the log.
fn of_refusal(error: AppendError) -> WaitError {
    match error {
        AppendError::Concern { nodes } => WaitError::Concern { nodes },
        AppendError::OffsetMismatch { next } => WaitError::NoSuchOffset { next },
        AppendError::Overloaded { limit, value } => WaitError::Overloaded { limit, value },
        AppendError::ReadOnly { state, .. } => WaitError::ReadOnly { state },
        AppendError::Storage { detail, .. } => WaitError::Storage { detail },
        AppendError::Unsettled { refusal, .. } => of_refusal(*refusal),
        AppendError::Stopping { .. }
        | AppendError::Ended
        | AppendError::TooLarge { .. }
        | AppendError::KeyReused { .. }
        | AppendError::EmptyBatch
        | AppendError::BatchBeyondHorizon { .. } => WaitError::Ended,
    }
}

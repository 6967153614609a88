//! [`Master::wait_for_concern`]: how many nodes hold a message that was appended before.

use std::time::Duration;

use super::{Master, Waits};
use crate::{
    actors::AwaitConcern,
    error::{AppendError, WaitError},
    types::{Concern, Offset, ReadLevel},
    views::{ConcernStatus, Holders},
};

impl Master {
    /// Waits until the message at `offset` meets `concern`, or its time is up: then `concern_met` is false.
    /// Zero: does not wait for other nodes; `None`: for ever. One that was appended in a batch meets a
    /// concern when all of the batch does. Whoever waits counts as an append that waits for this
    /// concern, by `max_waiting_appends` and in [`Master::waiting_appends`].
    ///
    /// # Errors
    ///
    /// [`WaitError`]. The message is in the log as before, whatever it says.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost with the future, and nobody waits any more.
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
        // What cannot be read belongs to nothing else, as far as anyone can tell.
        let last = reader.last_of_append(offset).await.unwrap_or(offset);
        let waiter = self.inner.inbox.next_waiter();
        let waits = Waits::of(self, waiter);
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

/// Waits are answered as appends are. What those are told of a message that is still to be appended, nobody
/// is told of one that was there before.
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

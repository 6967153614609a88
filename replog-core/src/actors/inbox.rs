//! The queue of appends for the coordinator: handed over in groups, with one wake-up for all.
//!
//! Owns admission: the limit on bytes that are on their way to the disk. A mailbox is not a limit,
//! so queued bytes are counted here, and appends beyond the limit are refused with an error of their
//! own. Keeps rule 11.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::oneshot;

use crate::{
    error::{AppendError, LimitName},
    rules::{acks::WaiterId, leader::NewAppend},
    views::Receipt,
};

/// Sender of an answer to a caller.
pub(crate) type AnswerTo = oneshot::Sender<Result<Receipt, AppendError>>;

/// A caller that waits for an answer, by the kind of answer.
#[derive(Debug)]
pub(crate) enum Caller {
    /// The answer to an append, which is counted.
    Append(AnswerTo),
    /// The answer to a wait for the concern of a message that was in the log before.
    Concern(AnswerTo),
}

/// The queue between callers on any thread and the coordinator.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    queued_bytes: AtomicUsize,
    max_queued_bytes: usize,
    /// Source of the numbers that identify waiting callers.
    waiters: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    appends: Vec<NewAppend<Caller>>,
    closed: bool,
}

impl Inbox {
    pub(crate) fn new(max_queued_bytes: usize) -> Inbox {
        Inbox {
            queue: Mutex::default(),
            queued_bytes: AtomicUsize::new(0),
            max_queued_bytes,
            waiters: AtomicU64::new(0),
        }
    }

    /// Returns a new number for a caller that is about to wait.
    pub(crate) fn next_waiter(&self) -> WaiterId {
        // Relaxed: the numbers only have to differ.
        WaiterId(self.waiters.fetch_add(1, Ordering::Relaxed))
    }

    /// Queues an append. `Ok(true)`: the coordinator must be woken, since the queue was empty.
    pub(crate) fn push(&self, append: NewAppend<Caller>) -> Result<bool, AppendError> {
        let bytes = append.queued_bytes();
        let before = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.max_queued_bytes {
            self.release(bytes);
            let value = self.max_queued_bytes as u64;
            let refusal = AppendError::Overloaded {
                limit: LimitName::MaxQueuedBytes,
                value,
            };
            return Err(refused(&append, refusal));
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.closed {
            self.release(bytes);
            return Err(refused(&append, AppendError::Stopping { offset: None }));
        }
        queue.appends.push(append);
        Ok(queue.appends.len() == 1)
    }

    /// Takes everything that is queued and leaves `empty` in its place.
    pub(crate) fn take(&self, empty: Vec<NewAppend<Caller>>) -> Vec<NewAppend<Caller>> {
        debug_assert!(empty.is_empty());
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut queue.appends, empty)
    }

    /// Releases queued bytes, which have been written or refused.
    pub(crate) fn release(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Closes the queue: nothing is taken out of it any more.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.closed = true;
        queue.appends.clear();
    }
}

/// Returns the error for a refused append. The queue does not know what became of an earlier append
/// with the same key.
fn refused(append: &NewAppend<Caller>, refusal: AppendError) -> AppendError {
    if append.claim.is_none() {
        return refusal;
    }
    AppendError::Unsettled {
        refusal: Box::new(refusal),
        offset: None,
    }
}

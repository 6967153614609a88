//! Where appends wait for the coordinator: handed over in groups, one wake-up for all.
//!
//! Owns the door: the limit on bytes that are on their way to the disk. A mailbox is not a
//! limit, so what waits is counted here and refused by name. Keeps rule 11.

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

/// Where an answer goes.
pub(crate) type AnswerTo = oneshot::Sender<Result<Receipt, AppendError>>;

/// Who waits for an answer, and for which.
#[derive(Debug)]
pub(crate) enum Caller {
    /// That of an append, which is counted.
    Append(AnswerTo),
    /// When a message meets a concern that was there before.
    Concern(AnswerTo),
}

/// The queue between callers on any thread and the coordinator.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    queued_bytes: AtomicUsize,
    max_queued_bytes: usize,
    /// Whoever waits has its number from here.
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

    /// A name for one who will wait.
    pub(crate) fn next_waiter(&self) -> WaiterId {
        // Relaxed: that no two are the same is all that is asked of it.
        WaiterId(self.waiters.fetch_add(1, Ordering::Relaxed))
    }

    /// Queues an append. `Ok(true)`: the coordinator must be woken, since nothing waited before.
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

    /// Takes all that waits; `empty` is what takes its place.
    pub(crate) fn take(&self, empty: Vec<NewAppend<Caller>>) -> Vec<NewAppend<Caller>> {
        debug_assert!(empty.is_empty());
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut queue.appends, empty)
    }

    /// These queued bytes are written, or were refused.
    pub(crate) fn release(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Nobody takes anything out any more.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.closed = true;
        queue.appends.clear();
    }
}

/// Nobody here knows what became of an earlier append with the same key.
fn refused(append: &NewAppend<Caller>, refusal: AppendError) -> AppendError {
    if append.claim.is_none() {
        return refusal;
    }
    AppendError::Unsettled {
        refusal: Box::new(refusal),
        offset: None,
    }
}

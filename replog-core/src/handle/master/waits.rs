//! A caller that waits for an answer of the coordinator, and may be gone before it comes.
//!
//! Owns only the caller's identity. A client that hangs up drops its future: its message stays where it is,
//! and its place among the waiting callers is freed.

use actix::Addr;

use super::Master;
use crate::{
    actors::{CallerGone, Coordinator},
    error::AppendError,
    rules::acks::WaiterId,
};

/// A guard that notifies the coordinator when it is dropped before an answer came.
pub(super) struct WaitGuard<'a> {
    coordinator: &'a Addr<Coordinator>,
    waiter: WaiterId,
}

impl<'a> WaitGuard<'a> {
    pub(super) fn of(master: &'a Master, waiter: WaiterId) -> WaitGuard<'a> {
        WaitGuard {
            coordinator: &master.inner.coordinator,
            waiter,
        }
    }

    /// Takes the answer and ends the wait. A missing answer means that the coordinator has ended.
    pub(super) fn answered<T, E>(
        self,
        answer: Result<Result<T, AppendError>, E>,
    ) -> Result<T, AppendError> {
        self.disarm();
        answer.unwrap_or(Err(AppendError::Ended))
    }

    /// Ends the wait without notifying the coordinator: it has answered, or the wait never began.
    pub(super) fn disarm(self) {
        // It owns nothing that would have to be released.
        std::mem::forget(self);
    }
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        let waiter = self.waiter;
        self.coordinator.do_send(CallerGone { waiter });
    }
}

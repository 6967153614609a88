//! Somebody who waits for an answer of the coordinator, and may be gone before that.
//!
//! Owns no more than its name. A client that hangs up is a future that is dropped: its message stays where
//! it is, and its place among those who wait is given back.

use actix::Addr;

use super::Master;
use crate::{
    actors::{CallerGone, Coordinator},
    error::AppendError,
    rules::acks::WaiterId,
};

/// Dropped before it was answered, it tells the coordinator so.
pub(super) struct Waits<'a> {
    coordinator: &'a Addr<Coordinator>,
    waiter: WaiterId,
}

impl<'a> Waits<'a> {
    pub(super) fn of(master: &'a Master, waiter: WaiterId) -> Waits<'a> {
        Waits {
            coordinator: &master.inner.coordinator,
            waiter,
        }
    }

    /// It was answered so; without an answer the coordinator has ended.
    pub(super) fn answered<T, E>(
        self,
        answer: Result<Result<T, AppendError>, E>,
    ) -> Result<T, AppendError> {
        self.no_more();
        answer.unwrap_or(Err(AppendError::Ended))
    }

    /// It was answered, or never came to wait.
    pub(super) fn no_more(self) {
        // It owns nothing that would have to be given back.
        std::mem::forget(self);
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let waiter = self.waiter;
        self.coordinator.do_send(CallerGone { waiter });
    }
}

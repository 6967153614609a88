//! Waits for the concern of a message that is in the log, and callers that have given up: delivered to the
//! leader.

use super::*;
use crate::{
    actors::messages::{AwaitConcern, CallerGone},
    rules::leader::NewWait,
};

impl Handler<AwaitConcern> for Coordinator {
    type Result = ();
    fn handle(&mut self, wait: AwaitConcern, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let AwaitConcern {
            last,
            concern,
            timeout,
            waiter,
            answer_to,
        } = wait;
        let wait = NewWait {
            last,
            concern,
            timeout,
            arrived: now,
            waiter,
            caller: Caller::Concern(answer_to),
        };
        let refused = self.leader.wait(now, self.log.node().disk_space(), wait);
        self.answer(refused.into_iter().collect());
        self.settle(ctx);
    }
}

impl Handler<CallerGone> for Coordinator {
    type Result = ();
    fn handle(&mut self, gone: CallerGone, ctx: &mut Context<Self>) {
        // Its append may still be queued: another append was to wake the coordinator for it, and that message
        // has not arrived yet.
        self.admit_queued();
        self.leader.forget(gone.waiter);
        self.settle(ctx);
    }
}

//! Waits for the concern of a message that is in the log: delivered to the office.

use super::*;
use crate::{actors::messages::AwaitConcern, rules::office::NewWait};

impl Handler<AwaitConcern> for Coordinator {
    type Result = ();
    fn handle(&mut self, wait: AwaitConcern, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let AwaitConcern {
            last,
            concern,
            timeout,
            answer_to,
        } = wait;
        let wait = NewWait {
            last,
            concern,
            timeout,
            arrived: now,
            caller: answer_to,
        };
        let refused = self.office.wait(now, wait);
        self.answer(refused.into_iter().collect());
        self.settle(ctx);
    }
}

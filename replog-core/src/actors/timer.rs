//! The one armed timer of an actor.
//!
//! Re-armed from the rules' next deadline after every event; never an interval, which would fire in
//! a burst after a pause.

use actix::{Actor, AsyncContext, Context, SpawnHandle};
use tokio::time::Instant;

/// At most one pending timer.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    armed: Option<(Instant, SpawnHandle)>,
}

impl Timer {
    /// Calls `fire` at `deadline`, in place of the deadline that was armed before. The callback
    /// must arm the timer again, after [`Timer::fired`].
    pub(crate) fn arm<A>(
        &mut self,
        ctx: &mut Context<A>,
        deadline: Option<Instant>,
        fire: fn(&mut A, &mut Context<A>),
    ) where
        A: Actor<Context = Context<A>>,
    {
        if self.armed.map(|(at, _)| at) == deadline {
            return;
        }
        if let Some((_, handle)) = self.armed.take() {
            ctx.cancel_future(handle);
        }
        if let Some(deadline) = deadline {
            let delay = deadline.saturating_duration_since(Instant::now());
            self.armed = Some((deadline, ctx.run_later(delay, fire)));
        }
    }

    /// Notes that the armed deadline has come.
    pub(crate) fn fired(&mut self) {
        self.armed = None;
    }
}

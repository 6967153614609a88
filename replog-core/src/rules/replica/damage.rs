//! A secondary that cannot read a part of its own log.
//!
//! Owns nothing: a part of [`Replica`] that has an interface of its own. A log with a hole counts
//! for nothing: the log epoch goes at once, and the node is greeted, filled and made intact like
//! any other that lacks records, from the first that it cannot read on. What lies behind the hole
//! stays, and is passed over once that is filled. Keeps rules 5 and 10.

use std::ops::Range;

use super::*;

impl Replica {
    /// Somebody could not read the record at `offset`.
    pub(crate) fn on_damage(&mut self, offset: Offset) {
        if self.inspecting.is_some() || self.disk_space.outage().is_some() {
            self.noticed = Some(offset);
            return;
        }
        if self.failed.is_some() {
            return;
        }
        self.changed(ReplicaChange::Damaged { offset });
        // From now on, whatever is on its way to the disk. What is on its way from the master must not
        // make this log intact again: a new life begins with it.
        self.staged.lose_log_epoch(Some(self.durable_end));
        (self.meta.log_epoch, self.meta.last_whole) = (None, self.staged.last_whole);
        self.staged.start += 1;
        self.intact_save = None;
        self.end_conversation(&Refusal::HelloFirst);
        let meta = self.staged.clone();
        self.save(Continuation::Damaged { meta });
        self.inspecting = Some(offset);
        self.out.push(ReplicaAction::Inspect { offset });
    }

    /// The cut of `ticket` was not made: on the way is a record that cannot be read. Once that is
    /// known, the next hello has it made.
    pub(crate) fn on_not_truncated(&mut self, ticket: u64, offset: Offset) {
        let next = self.next_continuation(ticket);
        assert!(
            matches!(next, Continuation::Cut { .. }),
            "ticket {ticket} was no cut: {next:?}"
        );
        self.on_damage(offset);
        if self.greeting.is_some() {
            self.end_conversation(&Refusal::HelloFirst);
        }
        self.settle();
    }

    /// The inspection is done: these cannot be read, and up to `whole_end` all can.
    pub(crate) fn on_inspected(&mut self, holes: &[Range<Offset>], whole_end: Offset) {
        let inspected = self.inspecting.take();
        self.durable_end = self.durable_end.min(whole_end);
        self.reorder.reset(self.durable_end);
        let is_known = |offset: &Offset| {
            Some(*offset) == inspected || holes.iter().any(|hole| hole.contains(offset))
        };
        if let Some(offset) = self.noticed.take().filter(|offset| !is_known(offset)) {
            self.on_damage(offset);
        }
        self.settle();
    }
}

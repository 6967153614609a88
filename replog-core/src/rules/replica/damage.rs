//! A secondary that cannot read a part of its own log.
//!
//! Owns nothing: a part of [`Replica`] that has an interface of its own. A log with a hole counts
//! for nothing: the log epoch goes at once, and the node is greeted, filled and made intact like
//! any other that lacks records, from the first that it cannot read on. What lies behind the hole
//! stays, and is passed over once that is filled. Keeps rules 5 and 10.

use super::*;

impl Replica {
    /// Somebody could not read the record at `offset`.
    pub(crate) fn on_damage(&mut self, offset: Offset) {
        // What lies behind a hole is not there for anybody.
        if offset < self.durable_end {
            self.inspect(offset);
        }
    }

    /// Takes the log epoch away and has the segment of a record read through.
    fn inspect(&mut self, offset: Offset) {
        let is_under_way = self.inspecting.is_some();
        if is_under_way || self.failed.is_some() || self.room.shortage().is_some() {
            return;
        }
        self.changed(ReplicaChange::Damaged { offset });
        // From now on, whatever is on its way to the disk.
        (self.staged.log_epoch, self.meta.log_epoch) = (None, None);
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
        self.inspect(offset);
        if self.greeting.is_some() {
            self.end_conversation(&Refusal::HelloFirst);
        }
        self.settle();
    }

    /// The inspection is done: up to here the log can be read.
    pub(crate) fn on_inspected(&mut self, whole_end: Offset) {
        self.inspecting = None;
        self.durable_end = self.durable_end.min(whole_end);
        self.reorder.reset(self.durable_end);
        self.settle();
    }
}

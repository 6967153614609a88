//! A secondary that cannot read a part of its own log.
//!
//! Owns nothing: a part of [`Replica`] that has an interface of its own. A log with a hole counts for nothing:
//! the log epoch is dropped at once, and the node goes through handshake, refill and becoming intact like any
//! other that lacks records, starting with the first that it cannot read. The records behind the hole stay, and
//! are skipped once the hole is filled. Keeps rules 5 and 10.

use std::ops::Range;

use super::*;

impl Replica {
    /// Handles an unreadable record at `offset`.
    pub(crate) fn on_damage(&mut self, offset: Offset) {
        if self.inspecting.is_some() || self.disk_space.outage().is_some() {
            self.damage_pending = Some(offset);
            return;
        }
        if self.failed.is_some() {
            return;
        }
        self.changed(ReplicaChange::Damaged { offset });
        // The log epoch is lost from now on, even if a save that contains it is on its way to the disk. Messages in
        // flight from the master must not make this log intact again: a new incarnation begins.
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

    /// Handles a cut that was not made because it met an unreadable record. Once the damage is known, the next
    /// hello repeats the cut.
    pub(crate) fn on_not_truncated(&mut self, ticket: u64, offset: Offset) {
        let next = self.next_continuation(ticket);
        assert!(
            matches!(next, Continuation::Cut { .. }),
            "ticket {ticket} was no cut: {next:?}"
        );
        self.on_damage(offset);
        if self.handshake.is_some() {
            self.end_conversation(&Refusal::HelloFirst);
        }
        self.settle();
    }

    /// Handles the end of an inspection: the records in `holes` cannot be read, and all below `whole_end` can.
    pub(crate) fn on_inspected(&mut self, holes: &[Range<Offset>], whole_end: Offset) {
        let inspected = self.inspecting.take();
        self.durable_end = self.durable_end.min(whole_end);
        self.reorder.reset(self.durable_end);
        let is_known = |offset: &Offset| {
            Some(*offset) == inspected || holes.iter().any(|hole| hole.contains(offset))
        };
        if let Some(offset) = self
            .damage_pending
            .take()
            .filter(|offset| !is_known(offset))
        {
            self.on_damage(offset);
        }
        self.settle();
    }
}

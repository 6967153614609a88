//! A secondary that cannot read a part of its own log.
//!
//! Owns nothing: a part of [`Replica`] that has an interface of its own. A log with a hole counts for nothing:
//! the log epoch is dropped at once, and the node goes through handshake, refill and becoming intact like any
//! other that lacks records, starting with the first that it cannot read. The records behind the hole stay, and
//! are skipped once the hole is filled. Keeps rules 5 and 10.

use std::ops::Range;

use super::*;
use crate::rules::durable::DamageNoticed;

impl Replica {
    /// Handles an unreadable record at `offset`. Messages in flight from the master must not make this log intact
    /// again: a new incarnation begins.
    pub(crate) fn on_damage(&mut self, offset: Offset) {
        let held = self.durable.whole_end();
        match self.durable.on_damage_noticed(offset, held) {
            DamageNoticed::Inspect => {}
            DamageNoticed::Later | DamageNoticed::Never => return,
        }
        self.changed(ReplicaChange::Damaged { offset });
        self.durable.begin_incarnation();
        self.intact_save = None;
        self.end_conversation(&Refusal::HelloFirst);
        self.save(Continuation::Damaged);
        self.out.push(ReplicaAction::Inspect { offset });
    }

    /// Handles a cut that was not made because it met an unreadable record. Once the damage is known, the next
    /// hello repeats the cut.
    pub(crate) fn on_not_truncated(&mut self, ticket: Ticket, offset: Offset) {
        self.durable.on_not_cut(ticket);
        self.on_damage(offset);
        if self.handshake.is_some() {
            self.end_conversation(&Refusal::HelloFirst);
        }
        self.settle();
    }

    /// Handles the end of an inspection: the records in `holes` cannot be read, and the log is as `own` says.
    pub(crate) fn on_inspected(&mut self, holes: &[Range<Offset>], own: OwnLog) {
        // What was not acknowledged before is not because of an inspection: the master fills the log from here.
        let whole_end = self.durable.whole_end().min(own.whole_end);
        let own = OwnLog { whole_end, ..own };
        let noticed = self.durable.on_inspected(holes, own);
        self.reorder.reset(self.durable.whole_end());
        if let Some(offset) = noticed {
            self.on_damage(offset);
        }
        self.settle();
    }
}

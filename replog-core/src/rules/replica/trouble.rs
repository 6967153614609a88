//! A secondary whose disk refuses writes, and senders that should not be sending to it.
//!
//! Owns nothing: a part of [`Replica`] that has an interface of its own. Records that were handed to the writer
//! and not written were never taken; a node that cannot take records does not count for a quorum. Keeps rules
//! 4, 10 and 11.

use super::*;
use crate::{limits::REFUSED_SENDERS_MAX, rules::durable::WriteRefused, types::DiskState};

impl Replica {
    /// Handles a refused write: what was handed to the writer is neither done nor in progress any more. The
    /// conversation ends, so that the master restarts the handshake once there is disk space.
    pub(crate) fn on_write_failed(&mut self, now: Instant, outage: WriteOutage) {
        let refusal = Refusal::Storage {
            detail: outage.detail.to_string(),
        };
        let WriteRefused { is_news, dropped } = self.durable.on_write_failed(now, outage.clone());
        if is_news {
            self.changed(ReplicaChange::OutOfSpace(outage));
        }
        for next in dropped {
            let requests = match next {
                Continuation::AnswerPromise { requests, .. } => requests,
                Continuation::AskAgain { request } => vec![request],
                Continuation::Align { .. }
                | Continuation::Cut { .. }
                | Continuation::Intact
                | Continuation::Damaged => Vec::new(),
            };
            for request in requests {
                self.answer(request, Answer::Refused(refusal.clone()));
            }
        }
        self.intact_save = None;
        self.end_conversation(&refusal);
        self.reorder.reset(self.durable.whole_end());
    }

    /// Handles the return of disk space, with the log as it is then, all of it durable.
    pub(crate) fn on_resumed(&mut self, now: Instant, own: OwnLog) {
        let whole_end = self.durable.whole_end().max(own.whole_end);
        let resumed = OwnLog { whole_end, ..own };
        let noticed = self.durable.on_resumed(now, resumed);
        self.reorder.reset(self.durable.whole_end());
        let end = own.whole_end;
        self.changed(ReplicaChange::Resumed { end });
        if let Some(offset) = noticed {
            self.on_damage(offset);
        }
    }

    /// Acts when the time of [`Replica::next_deadline`] has come.
    pub(crate) fn on_deadline(&mut self, now: Instant) {
        if self.durable.should_probe(now) {
            self.out.push(ReplicaAction::Resume);
        }
    }

    /// Returns when to call [`Replica::on_deadline`].
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.durable.next_deadline()
    }

    /// Returns the state of the disk.
    pub(crate) fn disk(&self) -> DiskState {
        self.durable.disk()
    }

    /// Refuses requests while the disk refuses writes, heartbeats included: a node that cannot take records
    /// must not count for a quorum. A fenced sender was refused before this check.
    pub(super) fn check_disk_space(&self) -> Result<(), Refusal> {
        match self.durable.disk_space().outage() {
            None => Ok(()),
            Some(outage) => Err(Refusal::Storage {
                detail: outage.detail.to_string(),
            }),
        }
    }

    /// Publishes a refusal that points to a mistake, such as a stranger, an out-of-date directory or a
    /// different list of nodes, so that it can be read on this node too. Refusals that are part of the protocol
    /// are not published.
    pub(super) fn publish_refusal(&mut self, from: NodeName, refusal: &Refusal) {
        let is_mistake = match refusal {
            Refusal::WrongNode
            | Refusal::WrongCluster
            | Refusal::OtherNodes { .. }
            | Refusal::Replaced(_)
            | Refusal::OutOfDate(_)
            | Refusal::BelowCommitted { .. }
            | Refusal::Malformed { .. } => true,
            Refusal::Fenced(_)
            | Refusal::HelloFirst
            | Refusal::WrongIncarnation
            | Refusal::NotAligned
            | Refusal::BeyondWindow
            | Refusal::Storage { .. }
            | Refusal::Stopping => false,
        };
        // Requests can make no sense in endless ways: each sender is named once for all of them.
        let is_malformed = |refusal: &Refusal| matches!(refusal, Refusal::Malformed { .. });
        let is_told = |(of, told): &(NodeName, Refusal)| {
            *of == from && (told == refusal || is_malformed(told) && is_malformed(refusal))
        };
        if !is_mistake || self.published_refusals.iter().any(is_told) {
            return;
        }
        let told = (from, refusal.clone());
        if self.published_refusals.len() == REFUSED_SENDERS_MAX {
            self.published_refusals.pop_front();
        }
        let (from, refusal) = told.clone();
        self.published_refusals.push_back(told);
        self.changed(ReplicaChange::Refused { from, refusal });
    }
}

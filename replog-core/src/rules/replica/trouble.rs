//! A secondary whose disk refuses writes, and senders that have no business with it.
//!
//! Owns nothing: a part of [`Replica`] that has an interface of its own. What was handed to the
//! writer and not written was never taken; a node that can take no records counts for no quorum.
//! Keeps rules 4, 10 and 11.

use super::*;
use crate::{limits::REFUSED_SENDERS_MAX, types::DiskState};

impl Replica {
    /// A write was refused: what was handed to the writer is not done and not under way any more.
    /// The conversation ends, so that the master greets again once there is room.
    pub(crate) fn on_write_failed(&mut self, now: Instant, outage: WriteOutage) {
        let detail = outage.detail.to_string();
        if self.disk_space.on_write_failed(now, outage.clone()) {
            self.changed(ReplicaChange::OutOfRoom(outage));
        }
        let refusal = Refusal::Storage { detail };
        for (_, next) in std::mem::take(&mut self.queued) {
            let requests = match next {
                Continuation::AnswerPromise { requests, .. } => requests,
                Continuation::AskAgain { request, .. } => vec![request],
                _ => Vec::new(),
            };
            for request in requests {
                self.answer(request, Answer::Refused(refusal.clone()));
            }
        }
        // A promise that was not saved is none.
        self.staged = self.meta.clone();
        self.intact_save = None;
        // What could not be seen to is, once there is room.
        self.noticed = self.inspecting.take().or(self.noticed);
        self.end_conversation(&refusal);
        self.reorder.reset(self.durable_end);
    }

    /// There is room again; the log ends here, all of it durable.
    pub(crate) fn on_resumed(&mut self, now: Instant, end: Offset) {
        self.disk_space.on_resumed(now);
        self.durable_end = self.durable_end.max(end);
        self.reorder.reset(self.durable_end);
        self.changed(ReplicaChange::Resumed { end });
        if let Some(offset) = self.noticed.take() {
            self.on_damage(offset);
        }
    }

    /// The time of [`Replica::next_deadline`] has come.
    pub(crate) fn on_deadline(&mut self, now: Instant) {
        if self.disk_space.should_probe(now) {
            self.out.push(ReplicaAction::Resume);
        }
    }

    /// When to call [`Replica::on_deadline`].
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.disk_space.next_deadline()
    }

    /// How the disk does.
    pub(crate) fn disk(&self) -> DiskState {
        match self.failed {
            Some(_) => DiskState::Failed,
            None => self.disk_space.disk(),
        }
    }

    /// While the disk refuses writes, so does this node, heartbeats included: one that can take no
    /// records must not count for a quorum. Who is fenced has been told so before.
    pub(super) fn check_room(&self) -> Result<(), Refusal> {
        match self.disk_space.outage() {
            None => Ok(()),
            Some(outage) => Err(Refusal::Storage {
                detail: outage.detail.to_string(),
            }),
        }
    }

    /// A stranger, a directory from the past, a list of other nodes: somebody made a mistake, and
    /// reads of it here too. What the protocol itself brings about is no news.
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
        // What makes no sense may do so in endless ways: each sender is named once for all of them.
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

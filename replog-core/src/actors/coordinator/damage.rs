//! The coordinator's handling of unreadable records in its own log, and of recoveries in a new epoch.
//!
//! Owns nothing: a part of [`Coordinator`] with an interface of its own. Delivers reports, holes and fetched records to
//! [`MasterLog`], and carries out its actions. Keeps rules 5 and 10.

use std::ops::Range;

use super::*;
use crate::rules::{
    master_log::{MasterLogAction, MasterLogChange},
    repair::MissingRange,
};

impl Coordinator {
    /// Returns the state of this master, as far as its log is concerned.
    pub(super) fn state(&self) -> MasterState {
        match &self.recovery {
            Some(recovery) if recovery.is_done() => MasterState::Won,
            Some(_) => MasterState::Recovering,
            None if self.leader.is_serving() => MasterState::Leading(self.leader.epoch()),
            None => MasterState::Idle,
        }
    }

    /// Returns the extent of the log, which can be read up to `whole_end`.
    pub(super) fn own_log(&self, whole_end: Offset) -> OwnLog {
        OwnLog {
            whole_end,
            end: self.view.written_end(),
        }
    }

    pub(super) fn on_damage(&mut self, offset: Offset) {
        let (written_end, state) = (self.view.written_end(), self.state());
        self.log.on_damage_noticed(offset, written_end, state);
    }

    /// Checks whether some node can supply what is missing.
    pub(super) fn check_repair(&mut self, ctx: &mut Context<Self>, now: Instant) {
        if self.log.is_damaged() && self.leader.is_serving() {
            let needed = self.leader.quorum(now).needed;
            self.log.on_ends(&self.leader.intact_ends(), needed);
            self.carry_out_log(ctx);
        }
    }

    pub(super) fn carry_out_log(&mut self, ctx: &mut Context<Self>) {
        for action in self.log.take_actions() {
            match action {
                MasterLogAction::Save(save) => self.save_meta(save),
                MasterLogAction::Inspect { offset, held_back } => {
                    self.writer
                        .submit(WriteCommand::Inspect { offset, held_back });
                }
                MasterLogAction::DropRecovery => {
                    let mut dropped = self.recovery.take();
                    let pending = dropped.as_mut().map(Recovery::take_actions);
                    assert!(
                        pending.is_none_or(|actions| actions.is_empty()),
                        "a save is under way that the writer was not asked for"
                    );
                }
                MasterLogAction::StepDown => {
                    let disk = self.log.node().disk_space();
                    let answered = self.leader.become_recovering(Instant::now(), disk);
                    self.answer(answered);
                }
                MasterLogAction::Recover => {
                    let (settings, node) = (self.settings.clone(), self.log.node_mut());
                    self.recovery =
                        Some(Recovery::again(settings, node, self.asked, Instant::now()));
                }
                MasterLogAction::PublishMissing(holes) => self.publish_missing(&holes),
                MasterLogAction::RereadKeys => self.reread_keys(ctx),
                MasterLogAction::Changed(change) => log(change),
            }
        }
    }

    /// Publishes the missing ranges: appends that wait for them go on waiting, and the links fetch the first.
    fn publish_missing(&mut self, holes: &[Range<Offset>]) {
        self.leader.on_own_holes(holes);
        let missing = MissingRange::first_of(holes);
        for link in &self.links {
            link.do_send(FetchMissing { missing });
        }
    }

    /// Reads the keys again if some could not be read: otherwise every unknown key would be refused until the horizon
    /// had passed those records.
    fn reread_keys(&self, ctx: &mut Context<Self>) {
        let cluster = self.log.node().saved().cluster.as_ref();
        let (Some(cluster), true) = (cluster, self.leader.keys().is_some_and(Keys::has_unread))
        else {
            return;
        };
        let epoch = self.leader.epoch();
        let source = self.key_source(cluster.id, self.view.durable_end());
        let read = read_keys(source).into_actor(self);
        ctx.spawn(read.map(move |keys, coordinator, _| match keys {
            Ok(keys) if coordinator.leader.is_serving() && coordinator.leader.epoch() == epoch => {
                coordinator.leader.on_keys_read_again(keys);
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "the keys of the log were not read again"),
        }));
    }
}

fn log(change: MasterLogChange) {
    match change {
        MasterLogChange::Damaged { offset } => {
            error!(%offset, "a record cannot be read: it is repaired from a secondary");
        }
        MasterLogChange::Irreparable(MissingRange { from, until }) => {
            error!(%from, %until, "no secondary has the records that cannot be read: recovering");
        }
        MasterLogChange::Intact => info!("the log is intact again"),
    }
}

impl Handler<DamageNoticed> for Coordinator {
    type Result = ();
    fn handle(&mut self, noticed: DamageNoticed, ctx: &mut Context<Self>) {
        self.on_damage(noticed.offset);
        self.carry_out_log(ctx);
        self.settle(ctx);
    }
}

impl Handler<RecordsFetched> for Coordinator {
    type Result = ();
    fn handle(&mut self, fetched: RecordsFetched, ctx: &mut Context<Self>) {
        let epoch_at = |offset| self.view.epoch_at(offset);
        for batch in self.log.on_fetched(&fetched.records, epoch_at) {
            self.writer.submit(WriteCommand::Append(batch));
        }
        self.settle(ctx);
    }
}

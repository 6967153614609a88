//! The coordinator's handling of unreadable records in its own log, and of recoveries in a new epoch.
//!
//! Owns nothing: a part of [`Coordinator`] with an interface of its own. Delivers holes and fetched
//! records to [`Repair`], and carries out its actions. Keeps rules 5 and 10.

use super::*;

/// Records that could not be read and wait for their inspection. Any more are noticed when they are
/// read again.
const NOTICED_MAX: usize = 1_000;

impl Coordinator {
    /// Handles an unreadable record of this master's log. A leading master goes on: clients and
    /// secondaries are served from the readable records, and the rest comes from a secondary that has
    /// it. If it restarts before that, it knows that its log is not intact.
    pub(super) fn on_damage(&mut self, offset: Offset) {
        if self.inspection.is_some() || self.leader.disk() != DiskState::Ok {
            if self.noticed.len() < NOTICED_MAX && !planted!(NoticedDamageForgotten) {
                self.noticed.insert(offset);
            }
            return;
        }
        if self.closing {
            return;
        }
        error!(%offset, "a record cannot be read: it is repaired from a secondary");
        let is_done = self.recovery.as_ref().is_none_or(Recovery::is_done);
        let (inspection, held_back) = match is_done {
            true => (Inspection::WhileLeading, HeldBack::No),
            false => (Inspection::BeforeRecovery, HeldBack::Yes),
        };
        if !is_done {
            self.recovery = None;
        }
        (self.inspection, self.inspected) = (Some(inspection), Some(offset));
        let mut known = self.saving.as_ref().unwrap_or(&self.meta).clone();
        known.lose_log_epoch(Some(self.view.written_end()));
        self.save_meta(known);
        self.writer
            .submit(WriteCommand::Inspect { offset, held_back });
    }

    pub(super) fn on_inspected(
        &mut self,
        ctx: &mut Context<Self>,
        holes: Vec<Range<Offset>>,
        whole_end: Offset,
    ) {
        let now = Instant::now();
        // Records noticed meanwhile count unless they are in one of the holes found.
        let is_known = |offset: &Offset| holes.iter().any(|hole| hole.contains(offset));
        let inspected = self.inspected.take();
        self.noticed
            .retain(|offset| !is_known(offset) && Some(*offset) != inspected);
        let raise_epoch = std::mem::take(&mut self.raise_epoch);
        match self.inspection.take() {
            Some(Inspection::BeforeRecovery) => self.recover(now, whole_end),
            Some(Inspection::WhileLeading) => {
                self.repair.on_inspected(holes);
                self.publish_missing();
                if raise_epoch && self.leader.is_serving() && !planted!(RaisedEpochForgotten) {
                    self.restart_recovery(now);
                } else {
                    self.become_intact(ctx);
                }
            }
            None => {}
        }
        if let Some(offset) = self.noticed.pop_first() {
            self.on_damage(offset);
        }
    }

    /// Starts a recovery later in this run. A log with a hole counts for nothing.
    pub(super) fn recover(&mut self, now: Instant, whole_end: Offset) {
        let own = OwnLog {
            whole_end,
            end: self.view.written_end(),
        };
        if own.whole_end < own.end {
            self.meta.lose_log_epoch(Some(own.end));
        }
        let (settings, meta) = (self.settings.clone(), self.meta.clone());
        self.recovery = Some(Recovery::again(settings, meta, own, self.asked, now));
    }

    pub(super) fn on_whole(&mut self, ctx: &mut Context<Self>, whole_end: Offset) {
        if self.repair.on_whole(whole_end) {
            self.publish_missing();
            self.become_intact(ctx);
        }
    }

    /// Returns the missing range that no node can supply, if there is one.
    pub(super) fn irreparable(&self) -> Option<MissingRange> {
        let may = self.leader.is_serving()
            && self.inspection.is_none()
            && !planted!(MissingRangeWaitedFor);
        let missing = self.repair.missing().filter(|_| may)?;
        let needed = self.leader.quorum(Instant::now()).needed;
        let ends = self.leader.intact_ends();
        self.repair.is_irreparable(&ends, needed).then_some(missing)
    }

    /// Marks the log as intact again if everything missing has been repaired.
    pub(super) fn become_intact(&mut self, ctx: &mut Context<Self>) {
        // A log under inspection is not known to be intact.
        let is_inspected = self.inspection.is_some() || !self.noticed.is_empty();
        let is_inspected = is_inspected && !planted!(IntactDuringInspection);
        if self.repair.is_needed() || is_inspected || !self.leader.is_serving() {
            return;
        }
        info!("the log is intact again");
        let mut known = self.meta.clone();
        known.take_log_epoch(self.leader.epoch());
        self.save_meta(known);
        if self.leader.keys().is_some_and(Keys::has_unread) {
            self.reread_keys(ctx);
        }
    }

    /// Reads the keys again, now that the unreadable records can be read: otherwise every unknown key
    /// would be refused until the horizon had passed those records.
    fn reread_keys(&self, ctx: &mut Context<Self>) {
        let Some(cluster) = &self.meta.cluster else {
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

    /// Starts over because no node can supply the records that this log lacks: the other nodes' logs
    /// are adopted, as at a start with a damaged log. The records cut then are quarantined.
    pub(super) fn replace_damaged_log(&mut self, now: Instant, missing: MissingRange) {
        let MissingRange { from, until } = missing;
        error!(%from, %until, "no secondary has the records that cannot be read: recovering");
        self.restart_recovery(now);
    }

    /// Steps down and recovers, in a higher epoch.
    pub(super) fn restart_recovery(&mut self, now: Instant) {
        let answered = self.leader.become_recovering(now);
        self.answer(answered);
        if !planted!(HolesKeptAcrossRecovery) {
            self.repair = Repair::default();
        }
        // An inspection beyond the end of the log finds nothing, but its report comes after everything
        // that is already queued.
        self.inspection = Some(Inspection::BeforeRecovery);
        let (offset, held_back) = (Offset(u64::MAX), HeldBack::Yes);
        self.writer
            .submit(WriteCommand::Inspect { offset, held_back });
    }

    /// Publishes the missing range: appends that wait for it go on waiting, and the links fetch it.
    pub(super) fn publish_missing(&mut self) {
        self.leader.on_own_holes(self.repair.holes());
        let missing = self.repair.missing();
        for link in &self.links {
            link.do_send(FetchMissing { missing });
        }
    }
}

impl Handler<DamageNoticed> for Coordinator {
    type Result = ();
    fn handle(&mut self, noticed: DamageNoticed, ctx: &mut Context<Self>) {
        self.on_damage(noticed.offset);
        self.settle(ctx);
    }
}

impl Handler<RecordsFetched> for Coordinator {
    type Result = ();
    fn handle(&mut self, fetched: RecordsFetched, ctx: &mut Context<Self>) {
        let epoch_at = |offset| self.view.epoch_at(offset);
        for batch in self.repair.on_fetched(&fetched.records, epoch_at) {
            self.writer.submit(WriteCommand::Append(batch));
        }
        self.settle(ctx);
    }
}

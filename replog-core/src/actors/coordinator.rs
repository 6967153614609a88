//! The master's coordinator as an actor: quorum, mode, appends, and the recovery before them.
//!
//! Delivers appends, reports and time to [`Leader`], [`Recovery`] and [`MasterLog`], and carries out
//! their actions. Decides nothing. Answers to clients leave through one-shot channels, never through
//! futures of the actor: ten thousand parked futures would be polled at every wake-up.

use std::sync::Arc;

use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, Addr, AsyncContext as _, Context, Handler,
    WrapFuture as _,
};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::{
    actors::{
        inbox::{Caller, Inbox},
        key_reader::{KeySource, read_keys},
        messages::{
            AppendsQueued, Ask, DamageNoticed, DescribeHolders, DescribeMaster, DescribeWaiting,
            Drain, FetchMissing, LeadershipLost, LinkReported, LogAdvanced, MeasureMaster,
            RecordsFetched, RecoveryAnswered, RequestedMode, Serve, SetMode, Stop, StopSending,
            WriterReported,
        },
        secondary_link::{LinkParts, MasterIdentity, SecondaryLink},
        timer::Timer,
    },
    config::MasterConfig,
    error::Stopped,
    events::Change,
    handle::{Shared, host::Host},
    limits::{EPOCH_STARTS_MAX, NODES_MAX},
    log::{LogView, LogWriter, Meta, WriteCommand, WriteReport, disk_state},
    metrics::{
        MasterMetrics,
        tally::{AppendTally, LinkTally},
    },
    planted::planted,
    rules::{
        disk_space::WriteOutage,
        durable::{Durable, OwnLog, Save},
        keys::Keys,
        leader::{Answered, Leader, NewAppend},
        link::Link,
        master_log::{MasterLog, MasterState, MasterWork},
        recovery::{Recovery, RecoveryAction, Settings},
    },
    storage::Storage,
    transport::Transport,
    types::{ClusterId, Epoch, Mode, ModeReason, Offset},
    views::{LogHealth, MasterHealth},
    watch,
};

/// The actor of a master.
pub(crate) struct Coordinator {
    config: MasterConfig,
    leader: Leader<Caller>,
    /// The current recovery, if one is going on.
    recovery: Option<Recovery>,
    /// Settings for a recovery at the start or later.
    settings: Settings,
    /// Number of malformed answers to the recovery.
    malformed: u64,
    /// The durable state of this node, and what is wrong with its log.
    log: MasterLog,
    /// Number of a recovery's last query.
    asked: u64,
    links: Vec<Addr<SecondaryLink>>,
    /// Counts of each link at its last report.
    link_tallies: Vec<LinkTally>,
    append_tally: AppendTally,
    inbox: Arc<Inbox>,
    /// The inbox's second buffer, swapped with the first.
    spare: Vec<NewAppend<Caller>>,
    view: Arc<LogView>,
    storage: Arc<dyn Storage>,
    writer: LogWriter,
    shared: Arc<Shared>,
    host: Arc<dyn Host>,
    published_mode: Option<(Mode, Option<ModeReason>)>,
    published_committed: Option<Offset>,
    ended: watch::Sender<Option<Stopped>>,
    timer: Timer,
}

/// An epoch that a recovery has won.
#[derive(Clone, Copy, Debug)]
struct WonEpoch {
    cluster: ClusterId,
    epoch: Epoch,
    adopted_end: Offset,
    forced_epoch: Option<Epoch>,
}

/// Parts that a coordinator is made of.
pub(crate) struct CoordinatorParts {
    pub(crate) config: MasterConfig,
    pub(crate) settings: Settings,
    pub(crate) whole_end: Offset,
    pub(crate) meta: Meta,
    pub(crate) transports: Vec<std::rc::Rc<dyn Transport>>,
    pub(crate) seed: u64,
    pub(crate) durable: bool,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) view: Arc<LogView>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) writer: LogWriter,
    pub(crate) shared: Arc<Shared>,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) ended: watch::Sender<Option<Stopped>>,
}

impl Coordinator {
    /// Returns `true` if the master leads an epoch, which it can lose to another master.
    fn leads(&self) -> bool {
        self.recovery.is_none() && self.leader.may_be_lost()
    }

    /// Creates the coordinator and its links, which start with it.
    pub(crate) fn new(parts: CoordinatorParts, own: &Addr<Coordinator>) -> Coordinator {
        let CoordinatorParts {
            config,
            settings,
            whole_end,
            meta,
            transports,
            seed,
            durable,
            inbox,
            view,
            storage,
            writer,
            shared,
            host,
            ended,
        } = parts;
        let now = Instant::now();
        let master = MasterIdentity {
            name: config.name.clone(),
            incarnation: crate::types::Incarnation {
                instance: meta.instance,
                start: meta.start,
            },
            nodes: config.node_names(),
            public_url: config.public_url.clone(),
        };
        assert!(
            transports.len() < NODES_MAX,
            "{} secondaries",
            transports.len()
        );
        let (mut links, mut initial) = (Vec::new(), Vec::new());
        for (secondary, (peer, transport)) in config.secondaries.iter().zip(transports).enumerate()
        {
            let link_seed = seed.wrapping_add(secondary as u64);
            let link = Link::new(peer.name.clone(), config.timing.clone(), link_seed, now);
            initial.push(link.report(now));
            let parts = LinkParts {
                secondary,
                name: peer.name.clone(),
                link,
                transport,
                view: view.clone(),
                coordinator: own.clone(),
                master: master.clone(),
                request_timeout: config.timing.request_timeout,
                shared: shared.clone(),
                host: host.clone(),
            };
            links.push(SecondaryLink::new(parts).start());
        }
        let own = OwnLog {
            whole_end,
            end: view.written_end(),
        };
        let mut log = MasterLog::new(Durable::new(meta, own));
        let recovery = Recovery::new(settings.clone(), log.node_mut(), now);
        Coordinator {
            leader: Leader::new(&config, durable, initial),
            link_tallies: vec![LinkTally::new(); links.len()],
            append_tally: AppendTally::new(links.len() + 1),
            config,
            recovery: Some(recovery),
            settings,
            malformed: 0,
            log,
            asked: 0,
            links,
            inbox,
            spare: Vec::new(),
            view,
            storage,
            writer,
            shared,
            host,
            published_mode: None,
            published_committed: None,
            ended,
            timer: Timer::default(),
        }
    }

    /// Brings recovery, answers, mode and timer up to date after every event.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        #[cfg(test)]
        self.shared.count_wake_up();
        let now = Instant::now();
        self.carry_out_recovery(ctx, now);
        let answered = self.leader.settle(now);
        self.answer(answered);
        if self.log.node_mut().should_probe(now) {
            self.writer.submit(WriteCommand::Resume);
        }
        self.check_repair(ctx, now);
        self.publish_committed();
        let node = self.log.node();
        let stuck = self
            .recovery
            .as_ref()
            .and_then(|recovery| recovery.stuck(node));
        self.leader.set_stuck(stuck.map(|stuck| stuck.detail));
        self.publish_mode(now);
        let node = self.log.node();
        let recovery = self.recovery.as_ref();
        let recovery = recovery.and_then(|recovery| recovery.next_deadline(node));
        let leader = self.leader.next_deadline(now);
        let deadline = [recovery, leader, node.next_deadline()]
            .into_iter()
            .flatten()
            .min();
        self.timer.arm(ctx, deadline, |coordinator, ctx| {
            coordinator.timer.fired();
            let now = Instant::now();
            if let Some(recovery) = &mut coordinator.recovery {
                let own_starts = coordinator.view.epoch_starts(EPOCH_STARTS_MAX);
                recovery.on_deadline(coordinator.log.node_mut(), now, &own_starts);
            }
            coordinator.settle(ctx);
        });
    }

    fn carry_out_recovery(&mut self, ctx: &mut Context<Self>, now: Instant) {
        while let Some(recovery) = &mut self.recovery {
            let actions = recovery.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.carry_out(ctx, now, action);
            }
        }
    }

    fn carry_out(&mut self, ctx: &mut Context<Self>, now: Instant, action: RecoveryAction) {
        match action {
            RecoveryAction::Ask {
                to,
                cluster,
                epoch,
                serial,
                body,
            } => {
                self.asked = serial;
                // The other links go on with their previous query: it keeps their nodes in contact.
                for (peer, link) in self.config.secondaries.iter().zip(&self.links) {
                    if to.contains(&peer.name) {
                        link.do_send(Ask {
                            cluster,
                            epoch,
                            serial,
                            body: body.clone(),
                        });
                    }
                }
            }
            RecoveryAction::Save(save) => self.save_meta(save),
            RecoveryAction::Quarantine { from, epoch } => {
                self.writer.submit(WriteCommand::Quarantine { from, epoch });
            }
            RecoveryAction::Truncate { ticket, to } => {
                self.writer.submit(WriteCommand::Truncate { ticket, to });
            }
            RecoveryAction::Append(batches) => {
                for batch in batches {
                    self.writer.submit(WriteCommand::Append(batch));
                }
            }
            RecoveryAction::Serve { epoch, adopted_end } => {
                let meta = self.log.node().saved();
                let cluster = meta
                    .cluster
                    .as_ref()
                    .expect("a recovered master has a cluster")
                    .id;
                let won = WonEpoch {
                    cluster,
                    epoch,
                    adopted_end,
                    forced_epoch: meta.forced_epoch,
                };
                self.read_keys(ctx, won);
            }
            RecoveryAction::BecomeFenced(by) => self.lose_leadership(now, by),
            RecoveryAction::Malformed { from, detail } => {
                self.malformed += 1;
                warn!(%from, detail, "recovery: a malformed answer is ignored");
            }
            RecoveryAction::Note(text) => info!("recovery: {text}"),
            RecoveryAction::Warning(text) => warn!("recovery: {text}"),
            RecoveryAction::Alarm(text) => error!("recovery: {text}"),
        }
    }

    /// Reads the keys of the log, which is settled and not appended to. Until they are known the
    /// master does not serve, and no link is told to replicate (rule 3).
    fn read_keys(&mut self, ctx: &mut Context<Self>, won: WonEpoch) {
        let source = self.key_source(won.cluster, won.adopted_end);
        let read = read_keys(source).into_actor(self);
        ctx.spawn(read.map(move |keys, coordinator, ctx| coordinator.on_keys(ctx, won, keys)));
    }

    fn key_source(&self, cluster: ClusterId, end: Offset) -> KeySource {
        KeySource {
            host: self.host.clone(),
            view: self.view.clone(),
            storage: self.storage.clone(),
            cluster,
            end,
            horizon: self.config.key_horizon,
        }
    }

    fn on_keys(&mut self, ctx: &mut Context<Self>, won: WonEpoch, keys: Result<Keys, String>) {
        // The recovery failed, was told to stop, or started over meanwhile.
        let node = self.log.node();
        let current = |recovery: &Recovery| {
            recovery.epoch(node) == won.epoch || planted!(KeysOfEarlierRoundTaken)
        };
        if node.is_closing() || !self.recovery.as_ref().is_some_and(current) {
            return;
        }
        match keys {
            Ok(keys) => self.serve(ctx, won, keys),
            Err(error) => {
                error!(%error, "the keys of the log could not be read: this node stops");
                self.fail(ctx, error.into());
                return;
            }
        }
        self.settle(ctx);
    }

    fn serve(&mut self, ctx: &mut Context<Self>, won: WonEpoch, keys: Keys) {
        let WonEpoch {
            cluster,
            epoch,
            adopted_end,
            forced_epoch,
        } = won;
        info!(%epoch, end = %adopted_end, "recovered: serving");
        assert_eq!(keys.end(), adopted_end, "keys of another log");
        self.recovery = None;
        self.leader.serve(epoch, keys);
        let master = self.config.name.clone();
        let took = || Change::Epoch { epoch, master };
        self.shared.events().publish_own(&*self.host, took);
        for link in &self.links {
            link.do_send(Serve {
                cluster,
                epoch,
                adopted_end,
                forced_epoch,
            });
        }
        self.log.on_leading(epoch);
        self.carry_out_log(ctx);
    }

    fn save_meta(&self, Save { ticket, meta }: Save) {
        self.writer.submit(WriteCommand::SaveMeta { ticket, meta });
    }

    fn lose_leadership(&mut self, now: Instant, by: crate::transport::FencedBy) {
        warn!(by = %by.describe(), "fenced: another master leads a newer epoch");
        self.recovery = None;
        self.log.on_fenced();
        let disk = self.log.node().disk_space();
        let answered = self.leader.become_fenced(now, disk, by);
        self.answer(answered);
        for link in &self.links {
            link.do_send(StopSending);
        }
    }

    /// Steps down after a refused write: its records are not in the log, and the links stay as they
    /// are until there is space and the next recovery sends queries.
    fn step_down(&mut self, now: Instant, error: &std::io::Error) {
        let detail: Arc<str> = error.to_string().into();
        let outage = WriteOutage {
            disk: disk_state(error),
            detail: detail.clone(),
        };
        if self.log.on_write_failed(now, outage) {
            warn!(%error, "the disk refuses writes: appends are refused until there is space");
        } else {
            debug!(%error, "the disk still refuses writes");
        }
        self.recovery = None;
        let end = self.view.written_end();
        let (answered, freed_bytes) = self.leader.become_out_of_space(end, &detail);
        self.inbox.release(freed_bytes);
        self.answer(answered);
    }

    fn admit_queued(&mut self) {
        let empty = std::mem::take(&mut self.spare);
        let mut appends = self.inbox.take(empty);
        let (now, wall_ms) = (Instant::now(), self.host.wall_ms());
        let disk = self.log.node().disk_space();
        let admitted = self.leader.admit(now, wall_ms, disk, &mut appends);
        self.spare = appends;
        for batch in admitted.batches {
            debug!(?batch, "appending");
            self.writer.submit(WriteCommand::Append(batch));
        }
        self.inbox.release(admitted.dropped_bytes);
        self.answer(admitted.refused);
    }

    fn answer(&mut self, answered: Vec<Answered<Caller>>) {
        for Answered { caller, result } in answered {
            let answer_to = match caller {
                Caller::Append(answer_to) => {
                    self.append_tally.count(&result);
                    answer_to
                }
                Caller::Concern(answer_to) => answer_to,
            };
            // A caller that is gone changes nothing about its message.
            let _ = answer_to.send(result);
        }
    }

    fn publish_committed(&mut self) {
        let committed = self.leader.committed();
        if committed != self.published_committed {
            self.published_committed = committed;
            self.shared.set_committed(committed);
            self.publish_to_links();
        }
    }

    fn publish_to_links(&self) {
        let (written_end, committed) = (self.view.written_end(), self.published_committed);
        for link in &self.links {
            link.do_send(LogAdvanced {
                written_end,
                committed,
            });
        }
    }

    fn publish_mode(&mut self, now: Instant) {
        let state = self.leader.mode(now, self.log.node().disk_space());
        let published = self.published_mode.replace((state.mode, state.reason));
        if published == Some((state.mode, state.reason)) {
            return;
        }
        self.shared
            .events()
            .publish_own(&*self.host, || Change::Mode {
                mode: state.mode,
                mode_reason: state.reason,
                detail: state.detail.as_str().into(),
            });
        match state.mode {
            Mode::ReadWrite => info!(
                alive = state.alive,
                nodes = state.nodes,
                "mode is read-write"
            ),
            // Every start recovers: problems on the way have their own log lines.
            mode @ Mode::Recovering => info!(%mode, "mode is {mode}: {}", state.detail),
            mode @ Mode::ReadOnly => warn!(%mode, "mode is {mode}: {}", state.detail),
        }
        if published.is_none_or(|(mode, _)| mode != state.mode) {
            self.shared.set_mode(state.mode);
        }
    }

    fn on_writer(&mut self, ctx: &mut Context<Self>, report: WriteReport) {
        let now = Instant::now();
        match report {
            WriteReport::Written { end } => {
                let freed = self.leader.on_written(end);
                self.inbox.release(freed);
                if self.leader.is_serving() {
                    self.publish_to_links();
                }
            }
            WriteReport::Durable { end, whole_end } => {
                let node = self.log.node_mut();
                match &mut self.recovery {
                    Some(recovery) => recovery.on_durable(node, now, whole_end),
                    None => {
                        node.on_durable(whole_end);
                        self.leader.on_durable(end);
                    }
                }
                self.log.on_whole(whole_end, self.state());
            }
            WriteReport::Inspected { holes, whole_end } => {
                let own = self.own_log(whole_end);
                self.log.on_inspected(holes, own, self.state());
            }
            WriteReport::Truncated { ticket, cut } => {
                warn!(from = %cut.from, records = cut.records, "this node's log was cut");
                self.log.node_mut().on_cut(ticket, cut.from);
                if let Some(recovery) = &mut self.recovery {
                    recovery.on_truncated(self.log.node_mut(), now);
                }
            }
            WriteReport::NotTruncated { ticket, offset } => {
                self.log.node_mut().on_not_cut(ticket);
                self.on_damage(offset);
            }
            WriteReport::MetaSaved { ticket, .. } => {
                let node = self.log.node_mut();
                match (node.on_saved(ticket), &mut self.recovery) {
                    (MasterWork::Recovery, Some(recovery)) => recovery.on_saved(node, now),
                    // A recovery that was dropped, or something that nothing waits for.
                    (MasterWork::Recovery | MasterWork::Damaged | MasterWork::Intact, _) => {}
                }
            }
            WriteReport::WriteFailed { error } => self.step_down(now, &error),
            WriteReport::Resumed { whole_end } => {
                let own = self.own_log(whole_end);
                info!(end = %own.end, "the disk takes writes again");
                let has_stepped_down = self.leader.on_resumed();
                self.log.on_resumed(now, own, has_stepped_down);
            }
            WriteReport::Failed { error } => {
                error!(%error, "the disk failed: this node stops");
                self.fail(ctx, error.to_string().into());
                return;
            }
            WriteReport::Closed => {
                self.end(ctx, None);
                return;
            }
        }
        self.carry_out_log(ctx);
        self.settle(ctx);
    }

    fn fail(&mut self, ctx: &mut Context<Self>, detail: Arc<str>) {
        self.recovery = None;
        self.log.node_mut().on_failed(detail.clone());
        let answered = self.leader.become_failed(&detail);
        self.answer(answered);
        self.end(ctx, Some(detail));
    }

    /// Saves the keys, so that the next start need not read them again. A disk that does not
    /// outlive the process has no next start.
    fn save_keys(&self) {
        let cluster = self.log.node().saved().cluster.as_ref();
        let (Some(keys), Some(cluster)) = (self.leader.keys(), cluster) else {
            return;
        };
        if self.storage.survives_the_process()
            && let Some(snapshot) = keys.encode(cluster.id)
        {
            self.writer.submit(WriteCommand::SaveKeys { snapshot });
        }
    }

    fn end(&mut self, ctx: &mut Context<Self>, reason: Option<Arc<str>>) {
        self.inbox.close();
        // The writer has sent its last report: the end of its thread releases the directory.
        self.writer.join();
        self.ended.send_replace(Some(Stopped { reason }));
        ctx.stop();
    }

    fn health(&self) -> MasterHealth {
        let now = Instant::now();
        let node = self.log.node();
        let state = self.leader.mode(now, node.disk_space());
        let epoch = match &self.recovery {
            Some(recovery) => recovery.epoch(node),
            None => self.leader.epoch(),
        };
        // A master that leads no epoch has no next offset, but a log that it reports all the same.
        let next = match self.leads() {
            true => self.leader.next_offset(),
            false => self.view.durable_end(),
        };
        MasterHealth {
            name: self.config.name.clone(),
            role: "master",
            version: env!("CARGO_PKG_VERSION"),
            cluster_id: node.saved().cluster.as_ref().map(|cluster| cluster.id),
            epoch,
            mode: state.mode,
            mode_reason: state.reason,
            intact: node.saved().log_epoch.is_some(),
            recovery: self.recovery.as_ref().map(|recovery| recovery.health(node)),
            fenced_by: self.leader.fenced_by(),
            forced_epoch: node.saved().forced_epoch,
            quorum: self.leader.quorum(now),
            log: LogHealth {
                next,
                committed: self.leader.committed(),
                bytes: self.view.bytes(),
                disk: node.disk(),
            },
            waiting_appends: self.leader.waiting(),
            secondaries: self.leader.secondaries(now, next),
        }
    }
}

impl Coordinator {
    fn metrics(&self) -> MasterMetrics {
        let health = self.health();
        let lag_bytes = |end: Option<Offset>| self.view.bytes_from(end.unwrap_or(Offset::ZERO));
        let links = self.link_tallies.iter().zip(&health.secondaries);
        MasterMetrics {
            intact: health.intact,
            malformed: self.malformed
                + self
                    .link_tallies
                    .iter()
                    .map(|tally| tally.malformed)
                    .sum::<u64>(),
            log: self.writer.metrics(&self.view),
            appends: self.append_tally.snapshot(),
            oldest_waiting: self.leader.oldest_waiting(Instant::now()),
            keys: self.leader.keys().map_or(0, |keys| keys.count() as u64),
            links: links
                .map(|(tally, status)| tally.snapshot(lag_bytes(status.durable_end)))
                .collect(),
            health,
        }
    }
}

impl Drop for Coordinator {
    /// Closes the inbox, so that no caller waits for a coordinator that is gone, however it ended.
    fn drop(&mut self) {
        self.inbox.close();
    }
}

impl Actor for Coordinator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.settle(ctx);
    }
}

impl Handler<AppendsQueued> for Coordinator {
    type Result = ();
    fn handle(&mut self, _: AppendsQueued, ctx: &mut Context<Self>) {
        self.admit_queued();
        self.settle(ctx);
    }
}

impl Handler<WriterReported> for Coordinator {
    type Result = ();
    fn handle(&mut self, report: WriterReported, ctx: &mut Context<Self>) {
        self.on_writer(ctx, report.0);
    }
}

impl Handler<LinkReported> for Coordinator {
    type Result = ();
    fn handle(&mut self, reported: LinkReported, ctx: &mut Context<Self>) {
        self.link_tallies[reported.secondary] = reported.tally;
        self.leader.on_report(reported.secondary, reported.report);
        self.settle(ctx);
    }
}

impl Handler<RecoveryAnswered> for Coordinator {
    type Result = ();
    fn handle(&mut self, answered: RecoveryAnswered, ctx: &mut Context<Self>) {
        if let Some(recovery) = &mut self.recovery {
            let own_starts = self.view.epoch_starts(EPOCH_STARTS_MAX);
            recovery.on_answer(
                self.log.node_mut(),
                Instant::now(),
                answered.serial,
                *answered.response,
                &own_starts,
            );
        }
        self.settle(ctx);
    }
}

impl Handler<LeadershipLost> for Coordinator {
    type Result = ();
    fn handle(&mut self, lost: LeadershipLost, ctx: &mut Context<Self>) {
        let (now, by) = (Instant::now(), lost.0);
        if self.leads() {
            // A directory that is gone may have got a promise of this very epoch, from a node that
            // did not know of this master. A majority has promised it to this master: not a reason
            // to be fenced.
            let own = self.log.node().incarnation().instance;
            if by.epoch > self.leader.epoch() || by.instance == own {
                self.lose_leadership(now, by);
            } else if self.log.on_epoch_contested(self.state()) {
                info!(by = %by.describe(), "a node has promised this epoch to another directory");
                self.carry_out_log(ctx);
            }
        }
        self.settle(ctx);
    }
}

impl Handler<DescribeMaster> for Coordinator {
    type Result = ();
    fn handle(&mut self, describe: DescribeMaster, _: &mut Context<Self>) {
        let _ = describe.answer_to.send(self.health());
    }
}

impl Handler<MeasureMaster> for Coordinator {
    type Result = ();
    fn handle(&mut self, measure: MeasureMaster, _: &mut Context<Self>) {
        let _ = measure.answer_to.send(self.metrics());
    }
}

impl Handler<DescribeHolders> for Coordinator {
    type Result = ();
    fn handle(&mut self, describe: DescribeHolders, _: &mut Context<Self>) {
        let _ = describe
            .answer_to
            .send(self.leader.holders(Instant::now(), describe.offset));
    }
}

impl Handler<DescribeWaiting> for Coordinator {
    type Result = ();
    fn handle(&mut self, describe: DescribeWaiting, _: &mut Context<Self>) {
        let waiting = self.leader.waiting_appends(Instant::now(), describe.limit);
        let _ = describe.answer_to.send(waiting);
    }
}

impl Handler<SetMode> for Coordinator {
    type Result = ();
    fn handle(&mut self, ask: SetMode, ctx: &mut Context<Self>) {
        info!(asked = ?ask.asked, "an operator asked for a mode");
        match ask.asked {
            RequestedMode::ReadOnly => self.leader.pause_appends(),
            RequestedMode::ReadWrite => self.leader.resume_appends(),
        }
        // Everybody else is informed first: the caller that gets the answer may wait for the mode
        // to change again.
        self.settle(ctx);
        let disk = self.log.node().disk_space();
        let _ = ask.answer_to.send(self.leader.mode(Instant::now(), disk));
    }
}

impl Handler<Drain> for Coordinator {
    type Result = ();
    fn handle(&mut self, drain: Drain, ctx: &mut Context<Self>) {
        // Queued appends have no offset yet: the next hand-over refuses them as stopping.
        let answered = self.leader.become_stopping();
        self.answer(answered);
        let _ = drain.done.send(());
        self.settle(ctx);
    }
}

impl Handler<Stop> for Coordinator {
    type Result = ();
    fn handle(&mut self, _: Stop, _: &mut Context<Self>) {
        let answered = self.leader.become_stopping();
        self.answer(answered);
        for link in &self.links {
            link.do_send(StopSending);
        }
        if self.log.node_mut().begin_closing() {
            self.save_keys();
            self.writer.submit(WriteCommand::Close);
        }
    }
}

mod damage;
mod waits;

//! A master of a simulation: recovery, then leader and links, and a disk.
//!
//! Does what the actors do, and nothing more: delivers events, carries out what comes back.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use rand::RngExt as _;

use super::{
    disk::{Command, Report},
    node::full,
    world::{Call, Event, MS, Micros, Planted, Process, SECOND, World},
};
use crate::{
    config::{Founding, MasterConfig},
    error::{AppendError, Outcome},
    limits::EPOCH_STARTS_MAX,
    rules::{
        acks::WaiterId,
        durable::{Durable, OwnLog, Save},
        keys::{Claim, KeyReading, Keys, Snapshot},
        leader::{Answered, Leader, NewAppend},
        link::{Link, LinkAction},
        master_log::{MasterLog, MasterLogAction},
        progress::Wanted,
        recovery::{Recovery, RecoveryAction, Settings},
    },
    transport::{
        Answer, Append, FencedBy, Hello, NodeState, Progress, Promised, Request, RequestBody,
        Response, TransportError,
    },
    types::{
        ClusterId, Concern, Epoch, IdempotencyKey, Incarnation, Mode, Offset, Status, majority,
    },
};

pub(super) struct Master {
    pub(super) index: usize,
    pub(super) config: MasterConfig,
    /// True for the master that clients address, false for one that was replaced.
    pub(super) current: bool,
    /// True once its process and its directory are gone.
    pub(super) gone: bool,
    pub(super) life: u64,
    pub(super) paused_until: Micros,
    pub(super) run: Option<Run>,
}

/// A client's message. A retry is the same, its caller included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) id: u64,
    pub(super) concern: Concern,
    pub(super) timeout: Option<Duration>,
    /// True if it has an idempotency key, which is its number.
    pub(super) keyed: bool,
}

/// An epoch that a recovery has won, while the keys of its log are read.
#[derive(Clone, Copy, Debug)]
struct WonEpoch {
    cluster: ClusterId,
    epoch: Epoch,
    adopted_end: Offset,
}

/// One run of a master.
pub(super) struct Run {
    log: MasterLog,
    recovery: Option<Recovery>,
    settings: Settings,
    asked: u64,
    won: Option<WonEpoch>,
    pub(super) leader: Leader<u64>,
    pub(super) links: Vec<Link>,
    incarnation: Incarnation,
    cluster: Option<ClusterId>,
    adopted_end: Offset,
    published_committed: Option<Offset>,
    armed: Option<Micros>,
    pub(super) fenced: Option<FencedBy>,
    /// The calls that are awaited.
    open_calls: BTreeSet<(usize, u64)>,
    /// The time of each secondary's last answer of any kind.
    heard: Vec<Micros>,
    /// The count of appends, from which each waiting one gets its number.
    waiters: u64,
    forged: bool,
}

impl Master {
    pub(super) fn new(index: usize, config: MasterConfig) -> Master {
        Master {
            index,
            config,
            current: true,
            gone: false,
            life: 0,
            paused_until: 0,
            run: None,
        }
    }

    fn process(&self) -> Process {
        Process::Master(self.index)
    }

    fn disk(&self, world: &World) -> usize {
        world.disk_of(self.process())
    }

    pub(super) fn start(&mut self, world: &mut World) {
        if self.run.is_some() || self.gone {
            return;
        }
        world.note(|| format!("m{} starts", self.index));
        self.life += 1;
        let (now, at, seed) = (world.instant(), world.now, world.rng.random());
        let disk = self.disk(world);
        world.disks[disk].meta.start += 1;
        let meta = world.disks[disk].meta.clone();
        let links: Vec<Link> = self
            .config
            .secondaries
            .iter()
            .map(|peer| Link::new(peer.name.clone(), self.config.timing.clone(), seed, now))
            .collect();
        let reports = links.iter().map(|link| link.report(now)).collect();
        let settings = Settings {
            nodes: self.config.node_names(),
            founding: self.config.founding,
            forced_recovery: self.config.forced_recovery,
            take_over: self.config.take_over,
            timing: self.config.timing.clone(),
            drawn: ClusterId::draw(&mut world.rng),
        };
        let own_end = world.disks[disk].durable_end();
        let own = OwnLog::whole(own_end);
        let mut log = MasterLog::new(Durable::new(meta, own));
        let incarnation = log.node().incarnation();
        self.run = Some(Run {
            leader: Leader::new(&self.config, true, reports),
            incarnation,
            recovery: Some(Recovery::new(settings.clone(), log.node_mut(), now)),
            log,
            settings,
            asked: 0,
            won: None,
            heard: vec![at; links.len()],
            links,
            cluster: None,
            adopted_end: Offset::ZERO,
            published_committed: None,
            armed: None,
            fenced: None,
            open_calls: BTreeSet::new(),
            waiters: 0,
            forged: false,
        });
        self.settle(world);
    }

    pub(super) fn crash(&mut self, world: &mut World) {
        let Some(run) = self.run.take() else { return };
        world.note(|| format!("m{} crashes", self.index));
        if world.knobs.keyed && world.chance(0.5) {
            self.leave_keys(world, &run);
        }
        self.life += 1;
        self.paused_until = 0;
        world.crash_disk(self.process());
    }

    /// Leaves a snapshot of the keys as a clean stop does, but a worse one: not all of its log is on the disk.
    fn leave_keys(&self, world: &mut World, run: &Run) {
        let disk = self.disk(world);
        if let (Some(keys), Some(cluster)) = (run.leader.keys(), run.cluster) {
            world.disks[disk].keys_snapshot = keys.encode(cluster);
        }
    }

    /// Handles a few messages of a client.
    pub(super) fn append(&mut self, world: &mut World, appends: Vec<Sent>) {
        let disk = self.disk(world);
        let Some(run) = &mut self.run else { return };
        let now = world.instant();
        let mut appends: Vec<NewAppend<u64>> = appends
            .into_iter()
            .map(|sent| NewAppend {
                payload: Bytes::copy_from_slice(&sent.id.to_be_bytes()),
                batch: None,
                concern: sent.concern,
                timeout: sent.timeout,
                arrived: now,
                claim: sent.keyed.then(|| claim(sent.id)),
                expected_offset: None,
                waiter: {
                    run.waiters += 1;
                    WaiterId(run.waiters)
                },
                caller: sent.id,
            })
            .collect();
        let keyed: BTreeSet<u64> = appends
            .iter()
            .filter(|append| append.claim.is_some())
            .map(|append| append.caller)
            .collect();
        let known_from = run
            .leader
            .next_offset()
            .0
            .saturating_sub(self.config.key_horizon);
        let disk_space = run.log.node().disk_space();
        let admitted = run
            .leader
            .admit(now, world.now / 1000, disk_space, &mut appends);
        for Answered { caller, result } in &admitted.refused {
            if keyed.contains(caller)
                && result
                    .as_ref()
                    .is_err_and(|error| error.outcome() == Outcome::NotAppended)
                && world.disks[disk].holds_id(*caller, known_from)
            {
                let text = format!(
                    "rule 3: {caller} is refused as not appended and is in the log: {result:?}"
                );
                world.oracle.fail(text);
            }
        }
        if !admitted.batches.is_empty() {
            let patience = self.config.timing.unhealthy_after.as_micros() as Micros;
            let heard = run.heard.iter().filter(|at| world.now - **at < patience);
            if heard.count() + 1 < majority(world.knobs.nodes as u32) as usize {
                world
                    .oracle
                    .fail("rule 8: an append without a quorum".to_owned());
            }
            if run.recovery.is_some() || run.fenced.is_some() {
                world
                    .oracle
                    .fail("rule 9: an append without leadership".to_owned());
            }
        }
        let life = self.life;
        self.answer(world, admitted.refused);
        for batch in admitted.batches {
            world.submit(Process::Master(self.index), life, Command::Append(batch));
        }
        self.settle(world);
    }

    pub(super) fn on_timer(&mut self, world: &mut World) {
        let starts = world
            .facts(self.process())
            .disk
            .starts(world.knobs.starts_kept);
        let Some(run) = &mut self.run else { return };
        run.armed = None;
        if let Some(recovery) = &mut run.recovery {
            recovery.on_deadline(run.log.node_mut(), world.instant(), &starts);
        }
        self.settle(world);
    }

    pub(super) fn on_answer(
        &mut self,
        world: &mut World,
        call: Call,
        result: Result<Response, TransportError>,
    ) {
        let Some(run) = &mut self.run else { return };
        let first = run.open_calls.remove(&(call.link, call.attempt));
        if !first && !world.knobs.stray_answers {
            return;
        }
        world.note(|| {
            format!(
                "m{} <- s{}.{} {result:?}",
                self.index,
                call.link + 1,
                call.attempt
            )
        });
        if result.is_ok() {
            run.heard[call.link] = world.now;
        }
        run.links[call.link].on_answer(world.instant(), call.attempt, result);
        self.settle(world);
    }

    pub(super) fn on_timed_out(&mut self, world: &mut World, call: Call) {
        let Some(run) = &mut self.run else { return };
        if run.open_calls.remove(&(call.link, call.attempt)) {
            let timed_out = Err(TransportError::TimedOut);
            run.links[call.link].on_answer(world.instant(), call.attempt, timed_out);
            self.settle(world);
        }
    }

    pub(super) fn on_report(&mut self, world: &mut World, report: Report) {
        let now = world.instant();
        let Some(run) = &mut self.run else { return };
        match report {
            Report::Written { end } => {
                run.leader.on_written(end);
                if run.leader.is_serving() {
                    run.publish_to_links(world, self.index);
                }
            }
            Report::Durable { end } => match &mut run.recovery {
                Some(recovery) => recovery.on_durable(run.log.node_mut(), now, end),
                None => {
                    run.log.node_mut().on_durable(end);
                    run.leader.on_durable(end);
                }
            },
            Report::Truncated { ticket, cut } => {
                run.log.node_mut().on_cut(ticket, cut.from);
                if let Some(recovery) = &mut run.recovery {
                    recovery.on_truncated(run.log.node_mut(), now);
                }
            }
            Report::Saved { ticket, .. } => {
                run.log.node_mut().on_saved(ticket);
                if let Some(recovery) = &mut run.recovery {
                    recovery.on_saved(run.log.node_mut(), now);
                }
            }
            Report::WriteFailed => self.step_down(world),
            Report::Resumed { end } => self.begin_again(world, end),
        }
        self.settle(world);
    }

    fn step_down(&mut self, world: &mut World) {
        let (now, end) = (world.instant(), world.disk(self.process()).written_end());
        let disk = self.disk(world);
        world.disks[disk].cuts_when_resumed = world.planted(Planted::FullMasterGoesOn);
        let Some(run) = &mut self.run else { return };
        run.recovery = None;
        run.log.on_write_failed(now, full());
        let (answered, _) = run.leader.become_out_of_space(end, &full().detail);
        self.answer(world, answered);
    }

    fn begin_again(&mut self, world: &mut World, end: Offset) {
        let now = world.instant();
        let Some(run) = &mut self.run else { return };
        let (epoch, served) = (run.leader.epoch(), run.leader.epoch() > Epoch(0));
        let has_stepped_down = run.leader.on_resumed();
        run.log
            .on_resumed(now, OwnLog::whole(end), has_stepped_down);
        if !has_stepped_down {
            return;
        }
        run.published_committed = None;
        if served && world.planted(Planted::FullMasterGoesOn) {
            run.log.take_actions();
            let keys = Keys::new(self.config.key_horizon, end);
            run.leader.serve(epoch, keys);
            return;
        }
        run.won = None;
        let actions = run.log.take_actions();
        assert_eq!(actions, [MasterLogAction::Recover]);
        let (settings, node) = (run.settings.clone(), run.log.node_mut());
        run.recovery = Some(Recovery::again(settings, node, run.asked, now));
        run.publish_to_links(world, self.index);
    }

    pub(super) fn on_batch_read(
        &mut self,
        world: &mut World,
        call: Call,
        epoch: Epoch,
        range: (Offset, Offset),
        progress: Progress,
    ) {
        let records = world.rng.random_range(1..=world.knobs.batch_records);
        let log = &world.disk(self.process()).log;
        let (from, until) = (range.0.0 as usize, range.1.0 as usize);
        let until = until.min(log.len()).min(from + records);
        let Some(run) = &mut self.run else { return };
        let link = &mut run.links[call.link];
        if from >= until {
            link.on_read_failed(world.instant(), call.attempt, "the log ends earlier".into());
        } else {
            let records: Vec<_> = log[from..until].iter().map(|e| e.batch.clone()).collect();
            let bytes = records.iter().map(|batch| batch.bytes().len()).sum();
            if link.on_read(call.attempt, Offset(until as u64), bytes) {
                let body = RequestBody::Append(Append { progress, records });
                self.call(world, call, epoch, body);
            }
        }
        self.settle(world);
    }

    /// Carries out the actions of recovery, links and leader until there are none.
    fn settle(&mut self, world: &mut World) {
        let now = world.instant();
        loop {
            let mut idle = true;
            let Some(run) = &mut self.run else { return };
            let actions = run.recovery.as_mut().map(Recovery::take_actions);
            for action in actions.into_iter().flatten() {
                idle = false;
                self.carry_out(world, action);
            }
            for link in 0..self.config.secondaries.len() {
                while let Some(run) = &mut self.run
                    && let Some(action) = run.links[link].poll(now)
                {
                    run.links[link].check_invariants();
                    idle = false;
                    self.carry_out_link(world, link, action);
                }
            }
            let Some(run) = &mut self.run else { return };
            let answered = run.leader.settle(now);
            idle &= answered.is_empty();
            if run.log.node_mut().should_probe(now) {
                world.submit(Process::Master(self.index), self.life, Command::Resume);
            }
            let committed = run.leader.committed();
            if committed != run.published_committed {
                self.show(world, committed);
                idle = false;
            }
            self.answer(world, answered);
            if idle {
                break;
            }
        }
        self.arm(world);
    }

    fn show(&mut self, world: &mut World, committed: Option<Offset>) {
        let disk = self.disk(world);
        let Some(run) = &mut self.run else { return };
        if committed < run.published_committed {
            world
                .oracle
                .fail("committed goes back within an epoch".to_owned());
        }
        let from = run.published_committed.unwrap_or(Offset::ZERO);
        if let Some(to) = committed {
            world.oracle.on_committed(&world.disks[disk], from, to);
        }
        run.published_committed = committed;
        run.publish_to_links(world, self.index);
    }

    fn arm(&mut self, world: &mut World) {
        let now = world.instant();
        let Some(run) = &mut self.run else { return };
        let deadline = run
            .recovery
            .as_ref()
            .and_then(|recovery| recovery.next_deadline(run.log.node()))
            .into_iter()
            .chain(run.leader.next_deadline(now))
            .chain(run.log.node().next_deadline())
            .chain(run.links.iter().filter_map(|link| link.next_deadline(now)))
            .min();
        let Some(deadline) = deadline else { return };
        let at = world.micros(deadline).max(world.now + MS);
        if run.armed.is_none_or(|armed| at < armed) {
            run.armed = Some(at);
            let (master, life) = (self.index, self.life);
            world.at(at, Event::TimerDue { master, life });
        }
    }

    fn carry_out(&mut self, world: &mut World, action: RecoveryAction) {
        world.note(|| format!("m{} recovery: {action:?}", self.index));
        let now = world.instant();
        let (process, life, disk) = (self.process(), self.life, self.disk(world));
        let Some(run) = &mut self.run else { return };
        match action {
            RecoveryAction::Ask {
                to,
                cluster,
                epoch,
                serial,
                body,
            } => {
                run.cluster = cluster;
                run.asked = serial;
                for (peer, link) in self.config.secondaries.iter().zip(&mut run.links) {
                    if to.contains(&peer.name) {
                        link.ask(now, cluster, epoch, serial, body.clone());
                    }
                }
                if world.planted(Planted::OnePromiseFewer)
                    && matches!(body, RequestBody::Promise(_))
                {
                    self.forge_a_promise(world, serial, epoch);
                }
            }
            RecoveryAction::Save(Save { ticket, meta }) => {
                world.submit(process, life, Command::Save { ticket, meta });
            }
            RecoveryAction::Truncate { ticket, to } => {
                if world.disks[disk].meta.log_epoch.is_some() {
                    world
                        .oracle
                        .fail("rule 5: an intact master cuts its log".to_owned());
                }
                world.submit(process, life, Command::Truncate { ticket, to });
            }
            RecoveryAction::Append(batches) => {
                for batch in batches {
                    world.submit(process, life, Command::Append(batch));
                }
            }
            RecoveryAction::Serve { epoch, adopted_end } => {
                let meta = run.log.node().saved();
                let cluster = meta.cluster.as_ref().map(|c| c.id);
                run.won = Some(WonEpoch {
                    cluster: cluster.expect("a recovered master has a cluster"),
                    epoch,
                    adopted_end,
                });
                if world.knobs.keyed {
                    let (master, delay) = (self.index, world.below(SECOND));
                    world.after(delay, Event::KeysRead { master, life });
                } else {
                    self.on_keys_read(world);
                }
            }
            RecoveryAction::BecomeFenced(by) => self.lose_leadership(world, by),
            RecoveryAction::Malformed { from, detail } => {
                world
                    .oracle
                    .fail(format!("an answer of {from} is malformed: {detail}"));
            }
            RecoveryAction::Alarm(_) => {
                world.oracle.fail("nothing is forced here".to_owned());
            }
            RecoveryAction::Quarantine { .. }
            | RecoveryAction::Note(_)
            | RecoveryAction::Warning(_) => {}
        }
    }

    /// Continues once the keys of the log are known, and with them all that is needed to serve.
    pub(super) fn on_keys_read(&mut self, world: &mut World) {
        let won = self.run.as_ref().and_then(|run| run.won);
        if let Some(won) = won.filter(|_| self.run.as_ref().is_some_and(|r| r.recovery.is_some())) {
            let keys = self.read_keys(world, won);
            self.become_leader(world, won, keys);
            if world.knobs.keyed {
                self.settle(world);
            }
        }
    }

    fn read_keys(&self, world: &mut World, won: WonEpoch) -> Keys {
        let WonEpoch {
            cluster,
            adopted_end,
            ..
        } = won;
        let horizon = self.config.key_horizon;
        if !world.knobs.keyed || world.planted(Planted::KeysForgotten) {
            return Keys::new(horizon, adopted_end);
        }
        let disk = &world.disks[self.disk(world)];
        let snapshot = disk
            .keys_snapshot
            .as_ref()
            .map(|bytes| Snapshot::decode(bytes).expect("snapshots are never damaged here"));
        let epoch_at = |at: Offset| disk.log.get(at.0 as usize).map(|entry| entry.epoch);
        let agrees = |snapshot: &Snapshot, epoch_at: &dyn Fn(Offset) -> Option<Epoch>| {
            let agrees = snapshot.agrees_with(cluster, horizon, adopted_end, epoch_at);
            agrees.is_ok()
        };
        let snapshot = snapshot.filter(|snapshot| {
            let believed = || (1..=won.epoch.0).any(|at| agrees(snapshot, &|_| Some(Epoch(at))));
            agrees(snapshot, &epoch_at) || world.planted(Planted::SnapshotBelieved) && believed()
        });
        let mut reading = KeyReading::new(horizon, adopted_end, snapshot);
        while let Some((from, until)) = reading.wanted() {
            let wanted = &disk.log[from.0 as usize..until.0 as usize];
            let records: Vec<_> = wanted.iter().take(7).map(|e| e.batch.clone()).collect();
            reading.on_read(&records);
        }
        let keys = reading.finish();
        keys.check();
        keys
    }

    fn become_leader(&mut self, world: &mut World, won: WonEpoch, keys: Keys) {
        let WonEpoch {
            cluster,
            epoch,
            adopted_end,
        } = won;
        let now = world.instant();
        let disk = &world.disks[self.disk(world)];
        let ends = (disk.written_end(), disk.durable_end());
        if ends != (adopted_end, adopted_end) || disk.meta.log_epoch != Some(epoch) {
            let text = format!("serving from {adopted_end} with a log of {ends:?}");
            world.oracle.fail(text);
        }
        let disk = disk.clone();
        if self.current {
            world.oracle.check_acked(&disk);
        }
        let Some(run) = &mut self.run else { return };
        run.recovery = None;
        run.won = None;
        run.leader.serve(epoch, keys);
        (run.cluster, run.adopted_end) = (Some(cluster), adopted_end);
        for link in &mut run.links {
            link.on_log(now, adopted_end, None);
            link.serve(now, cluster, epoch);
        }
    }

    fn lose_leadership(&mut self, world: &mut World, by: FencedBy) {
        let now = world.instant();
        let Some(run) = &mut self.run else { return };
        run.fenced = Some(by.clone());
        run.recovery = None;
        run.log.on_fenced();
        let disk_space = run.log.node().disk_space();
        let answered = run.leader.become_fenced(now, disk_space, by);
        for link in &mut run.links {
            link.stop();
        }
        self.answer(world, answered);
    }

    /// A planted bug: an answer that no node gave.
    fn forge_a_promise(&mut self, world: &World, serial: u64, epoch: Epoch) {
        let Some(run) = &mut self.run else { return };
        if std::mem::replace(&mut run.forged, true) || epoch < Epoch(3) {
            return;
        }
        let response = Response {
            cluster: run.cluster,
            name: self.config.secondaries[world.now as usize % self.config.secondaries.len()]
                .name
                .clone(),
            incarnation: run.incarnation,
            state: NodeState {
                log_epoch: Some(Epoch(0)),
                promised: epoch,
                ..NodeState::default()
            },
            answer: Answer::Promised(Promised {
                last_whole: None,
                epoch_starts: Vec::new(),
                forced_epoch: None,
            }),
        };
        if let Some(recovery) = &mut run.recovery {
            recovery.on_answer(run.log.node_mut(), world.instant(), serial, response, &[]);
        }
    }

    fn carry_out_link(&mut self, world: &mut World, link: usize, action: LinkAction) {
        let now = world.instant();
        let call = |attempt| Call {
            master: self.index,
            life: self.life,
            link,
            attempt,
        };
        match action {
            LinkAction::Ask {
                attempt,
                epoch,
                body,
            } => self.call(world, call(attempt), epoch, body),
            LinkAction::Hello {
                attempt,
                epoch,
                older_before,
            } => {
                let hello = self.hello(world, epoch, older_before);
                self.call(world, call(attempt), epoch, RequestBody::Hello(hello));
            }
            LinkAction::Heartbeat {
                attempt,
                epoch,
                progress,
            } => self.call(
                world,
                call(attempt),
                epoch,
                RequestBody::Heartbeat(progress),
            ),
            LinkAction::SendBatch {
                attempt,
                epoch,
                wanted: Wanted { from, until, .. },
                progress,
            } => {
                let call = call(attempt);
                if world.chance(0.7) {
                    self.on_batch_read(world, call, epoch, (from, until), progress);
                    return;
                }
                let delay = world.below(100 * MS);
                world.after(
                    delay,
                    Event::BatchRead {
                        call,
                        epoch,
                        from,
                        until,
                        progress,
                    },
                );
            }
            LinkAction::Answered { serial, response } => {
                let starts = world.disk(self.process()).starts(world.knobs.starts_kept);
                if let Some(run) = &mut self.run
                    && let Some(recovery) = &mut run.recovery
                {
                    recovery.on_answer(run.log.node_mut(), now, serial, *response, &starts);
                }
            }
            LinkAction::Fetched(_) => unreachable!("the naive disks do not rot"),
            LinkAction::BecomeFenced(by) => {
                let may_be_lost = |run: &Run| run.recovery.is_none() && run.leader.may_be_lost();
                if self.run.as_ref().is_some_and(may_be_lost) {
                    self.lose_leadership(world, by);
                }
            }
            LinkAction::Changed(change) => {
                world.note(|| format!("m{} link s{}: {change:?}", self.index, link + 1));
            }
            LinkAction::Report => {
                let Some(run) = &mut self.run else { return };
                let report = run.links[link].report(now);
                run.leader.on_report(link, report);
            }
        }
    }

    fn hello(&self, world: &World, epoch: Epoch, older_before: Option<Offset>) -> Hello {
        let disk = world.disk(self.process());
        let mut starts = disk.all_starts();
        let end = disk.written_end();
        if let Some(before) = older_before {
            starts.retain(|start| start.first < before);
        }
        let limit = world.knobs.hello_starts.min(EPOCH_STARTS_MAX);
        Hello {
            nodes: self.config.node_names(),
            log_epoch: Some(epoch),
            public_url: None,
            end,
            adopted_end: self
                .run
                .as_ref()
                .map_or(Offset::ZERO, |run| run.adopted_end),
            epoch_starts: starts.split_off(starts.len().saturating_sub(limit)),
            epoch_starts_end: older_before.unwrap_or(end),
            forced_epoch: None,
        }
    }

    fn call(&mut self, world: &mut World, call: Call, epoch: Epoch, body: RequestBody) {
        let Some(run) = &mut self.run else { return };
        let request = Request {
            cluster: run.cluster,
            from: self.config.name.clone(),
            incarnation: run.incarnation,
            to: self.config.secondaries[call.link].name.clone(),
            epoch,
            body,
        };
        run.open_calls.insert((call.link, call.attempt));
        let node = call.link;
        let event = Event::Request {
            node,
            call,
            request,
        };
        world.carry(Process::Master(self.index), Process::Node(node), &event);
        let timeout = self.config.timing.request_timeout.as_micros() as Micros;
        world.after(timeout, Event::TimedOut { call });
    }

    fn answer(&mut self, world: &mut World, answered: Vec<Answered<u64>>) {
        let disk = self.disk(world);
        for Answered { caller, result } in answered {
            world.note(|| format!("m{} answers {caller}: {result:?}", self.index));
            let receipt = match result {
                Ok(receipt) => receipt,
                Err(AppendError::KeyReused { offset }) => {
                    let text = format!("rule 3: {caller} is not the message at {offset}");
                    world.oracle.fail(text);
                    continue;
                }
                Err(_) => continue,
            };
            world.answered.insert(caller);
            if receipt.concern_met {
                let record = (receipt.offset, receipt.epoch, caller);
                let disks = std::mem::take(&mut world.disks);
                world
                    .oracle
                    .on_acked(&disks, disk, record, receipt.concern, self.current);
                world.disks = disks;
            }
        }
    }

    /// Returns why this master does not serve every node, if it does not.
    pub(super) fn unsettled(&self, world: &World) -> Option<String> {
        let now = world.instant();
        let Some(run) = &self.run else {
            return Some("the master is down".to_owned());
        };
        let mode = run.leader.mode(now, run.log.node().disk_space());
        if mode.mode != Mode::ReadWrite {
            return Some(format!("the master is {:?}: {}", mode.mode, mode.detail));
        }
        if run.leader.waiting() > 0 {
            return Some(format!("{} appends wait", run.leader.waiting()));
        }
        let own = world.disk(self.process());
        let end = own.written_end();
        if own.durable_end() != end || run.leader.committed() != Some(end) {
            return Some(format!(
                "of {end} records {} are durable and {:?} committed",
                own.durable_end(),
                run.leader.committed()
            ));
        }
        for node in 0..world.knobs.nodes - 1 {
            let disk = &world.disks[node];
            let status = run.links[node].report(now).health.status(now);
            let equal = disk.durable_end() == end
                && disk.written_end() == end
                && disk
                    .log
                    .iter()
                    .zip(&own.log)
                    .all(|(a, b)| a.identity() == b.identity());
            if !equal || status != Status::Healthy || disk.meta.log_epoch != own.meta.log_epoch {
                return Some(format!(
                    "s{} is {status}, has {} of {end} records, log epoch {:?} of {:?}",
                    node + 1,
                    disk.durable_end(),
                    disk.meta.log_epoch,
                    own.meta.log_epoch
                ));
            }
        }
        None
    }
}

impl Run {
    fn publish_to_links(&mut self, world: &World, master: usize) {
        let now = world.instant();
        let written_end = world.disk(Process::Master(master)).written_end();
        for link in &mut self.links {
            link.on_log(now, written_end, self.published_committed);
        }
    }
}

/// Returns the key and the payload of a message.
fn claim(id: u64) -> Claim {
    let key = IdempotencyKey::new(&id.to_string()).expect("digits");
    Claim::new(key, &id.to_be_bytes())
}

/// Returns the configuration of a master that may found a cluster, with the default times.
pub(super) fn config(nodes: usize) -> MasterConfig {
    let name = |text: String| crate::types::NodeName::new(&text).expect("a short name");
    let peers = (1..nodes)
        .map(|n| crate::config::Peer {
            name: name(format!("s{n}")),
            address: format!("s{n}"),
        })
        .collect();
    let mut config = MasterConfig::new(name("m".to_owned()), peers);
    config.founding = Founding::Allowed;
    config
}

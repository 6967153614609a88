//! Well-formed messages with correct checksums and wrong content, generated from a seed: requests to a
//! secondary, answers to a master's recovery, and answers to its link to a secondary; the first two with the
//! real log and its writer behind them.
//!
//! Nothing that another node says may make a node panic or break a rule, and a correct master, or honest nodes,
//! are served afterwards. Every message passes through its encoding, as between nodes. 20,000 per direction in
//! the gate; `REPLOG_FUZZ=1000000 cargo test --release -p replog-core --lib fuzz` for a campaign.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::{
    durable::{OwnLog, Save},
    fence::promise_to,
    link::{Link, LinkAction},
    master_log::MasterNode,
    recovery::{Recovery, RecoveryAction, Settings},
    repair::{MissingRange, Repair},
    replica::{Replica, ReplicaAction, RequestId},
};
use crate::{
    address::NodeUrl,
    config::{ForcedRecovery, Founding, TakeOver, Timing},
    frame::{FrameBatch, FrameFields},
    limits::{BATCH_BYTES_MAX, EPOCH_LEAP_MAX, EPOCH_STARTS_MAX},
    log::{
        ClusterIdentity, HeldBack, LogView, Meta, WriteCommand, WriteReport, WriterLoop,
        testing::{CLUSTER, open_log},
    },
    storage::MemoryStorage,
    transport::{
        Aligned, Answer, Append, FencedBy, Fetch, Fetched, Hello, Identity, MasterContact,
        NodeState, Progress, Promise, Promised, Refusal, Request, RequestBody, Response, wire,
    },
    types::{ClusterId, Epoch, EpochStart, Incarnation, InstanceId, LastWhole, NodeName, Offset},
};

/// Returns how many messages to send per direction.
fn messages() -> u64 {
    std::env::var("REPLOG_FUZZ").map_or(20_000, |count| count.parse().expect("a number"))
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn nodes() -> Vec<NodeName> {
    ["m", "s1", "s2"].map(name).to_vec()
}

fn life(byte: u8, start: u64) -> Incarnation {
    Incarnation {
        instance: InstanceId::from_bytes([byte; 16]),
        start,
    }
}

fn meta(node: &str, own: u8, log_epoch: Option<u64>) -> Meta {
    Meta {
        name: name(node),
        instance: life(own, 1).instance,
        start: 1,
        cluster: Some(ClusterIdentity {
            id: CLUSTER,
            nodes: nodes(),
        }),
        promised: Some(promise_to(None, Epoch(1), &name("m"), life(1, 1))),
        log_epoch: log_epoch.map(Epoch),
        forced_epoch: None,
        last_whole: None,
    }
}

/// Generator of wrong content close to correct content.
struct Chaos(ChaCha8Rng);

impl Chaos {
    fn up_to(&mut self, high: u64) -> u64 {
        self.0.random_range(0..=high)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.up_to(count - 1) == 0
    }

    fn epoch(&mut self, near: Epoch) -> Epoch {
        let near = near.0;
        Epoch(match self.up_to(15) {
            0 => 0,
            1 => near.saturating_add(EPOCH_LEAP_MAX + self.up_to(1)),
            2 => 1 << 62,
            3 => u64::MAX,
            4 | 5 => near.saturating_sub(1),
            6 | 7 => near.saturating_add(1),
            8 => 1,
            _ => near,
        })
    }

    fn maybe_epoch(&mut self, near: Epoch) -> Option<Epoch> {
        (!self.one_in(4)).then(|| self.epoch(near))
    }

    fn offset(&mut self, near: Offset) -> Offset {
        let near = near.0;
        Offset(match self.up_to(15) {
            0 => 0,
            1 | 2 => near.saturating_sub(1 + self.up_to(3)),
            3 | 4 => near + 1 + self.up_to(3),
            5 => near + (1 << 21),
            6 => 1 << 61,
            _ => near,
        })
    }

    fn maybe_offset(&mut self, near: Offset) -> Option<Offset> {
        (!self.one_in(3)).then(|| self.offset(near))
    }

    fn starts(&mut self, epoch: Epoch, end: Offset, known: &[EpochStart]) -> Vec<EpochStart> {
        let mut starts = known.to_vec();
        match self.up_to(5) {
            0 => starts.clear(),
            1 => starts.push(EpochStart {
                epoch: self.epoch(epoch),
                first: self.offset(end),
            }),
            2 if !starts.is_empty() => {
                let nth = self.up_to(starts.len() as u64 - 1) as usize;
                starts[nth].epoch = self.epoch(epoch);
                starts[nth].first = self.offset(end);
            }
            3 => starts.reverse(),
            _ => {}
        }
        starts.truncate(EPOCH_STARTS_MAX);
        starts
    }

    fn records(&mut self, end: Offset, epoch: Epoch) -> FrameBatch {
        loop {
            let first = self.offset(end);
            let (mut bytes, mut of) = (BytesMut::new(), self.epoch(epoch));
            let mut next = first;
            for _ in 0..=self.up_to(3) {
                if self.one_in(6) {
                    of = of.max(self.epoch(epoch));
                }
                let fields = FrameFields {
                    first: next,
                    epoch: of,
                    timestamp_ms: self.up_to(u64::MAX),
                    key: b"",
                };
                let count = 1 + self.up_to(2);
                fields.encode(&vec![&b"x"[..]; count as usize], &mut bytes);
                next = next.plus(count);
            }
            if let Ok(batch) = FrameBatch::check(first, bytes.freeze()) {
                return batch;
            }
        }
    }

    fn last_whole(&mut self, epoch: Epoch, end: Offset) -> Option<LastWhole> {
        (!self.one_in(3)).then(|| LastWhole {
            log_epoch: self.epoch(epoch),
            end: self.offset(end),
        })
    }

    fn public_url(&mut self) -> Option<NodeUrl> {
        let url = || "https://node.example:5001".parse::<NodeUrl>().unwrap();
        self.one_in(4).then(url)
    }

    fn cluster(&mut self) -> Option<ClusterId> {
        match self.up_to(30) {
            0 => None,
            1 => Some(ClusterId::from_bytes([9; 16])),
            _ => Some(CLUSTER),
        }
    }

    fn node(&mut self, usual: &str) -> NodeName {
        match self.up_to(30) {
            0 => name("x"),
            1 => name("s1"),
            2 => name("m"),
            _ => name(usual),
        }
    }

    fn life(&mut self, usual: Incarnation) -> Incarnation {
        match self.up_to(30) {
            0 => life(9, self.up_to(3)),
            1 => Incarnation {
                start: self.up_to(u64::MAX),
                ..usual
            },
            _ => usual,
        }
    }

    fn fenced_by(&mut self, epoch: Epoch) -> FencedBy {
        FencedBy {
            name: self.node("m"),
            instance: self.life(life(1, 1)).instance,
            epoch: self.epoch(epoch),
        }
    }
}

/// A secondary with the real log and its writer.
struct Secondary {
    replica: Replica,
    writer: WriterLoop,
    view: Arc<LogView>,
    /// Commands that the writer has not run yet.
    commands: Vec<WriteCommand>,
    asked: BTreeMap<RequestId, Epoch>,
    next: RequestId,
    now: Instant,
}

impl Secondary {
    fn new(node: &str, own: u8) -> Secondary {
        let storage = MemoryStorage::new();
        let (files, view, _) = open_log(&storage).unwrap();
        Secondary {
            replica: Replica::new(meta(node, own, Some(1)), OwnLog::whole(Offset::ZERO)),
            writer: WriterLoop::new(files, Arc::new(storage)),
            view,
            commands: Vec::new(),
            asked: BTreeMap::new(),
            next: 0,
            now: Instant::now(),
        }
    }

    fn promised(&self) -> Epoch {
        let promised = self.replica.meta().promised.as_ref();
        promised.map_or(Epoch(0), |promised| promised.epoch)
    }

    /// Handles a request and returns the answers, including those to earlier requests that waited.
    fn ask(&mut self, request: Request) -> Vec<(RequestId, Response)> {
        let id = self.next;
        self.next += 1;
        self.asked.insert(id, request.epoch);
        self.replica.on_request(self.now, id, request, &*self.view);
        self.carry_out()
    }

    /// Runs the writer until nothing is left to do.
    fn write(&mut self) -> Vec<(RequestId, Response)> {
        let mut answers = Vec::new();
        while !self.commands.is_empty() {
            let mut reports = Vec::new();
            let commands = std::mem::take(&mut self.commands);
            let flow = self
                .writer
                .run(commands, &mut |report| reports.push(report));
            assert!(flow.is_continue(), "the writer ended: {reports:?}");
            for report in reports {
                self.on_report(report);
                answers.extend(self.carry_out());
            }
        }
        self.view.check();
        answers
    }

    fn on_report(&mut self, report: WriteReport) {
        match report {
            WriteReport::Written { .. } => {}
            WriteReport::Durable { whole_end, .. } => self.replica.on_durable(whole_end),
            WriteReport::Truncated { ticket, cut } => self.replica.on_truncated(ticket, cut),
            WriteReport::MetaSaved {
                ticket,
                durable_end,
            } => self.replica.on_saved(ticket, durable_end, &*self.view),
            other => panic!("memory accepts and keeps everything: {other:?}"),
        }
    }

    fn carry_out(&mut self) -> Vec<(RequestId, Response)> {
        let mut answers = Vec::new();
        loop {
            let actions = self.replica.take_actions();
            if actions.is_empty() {
                return answers;
            }
            for action in actions {
                match action {
                    ReplicaAction::Answer { request, response } => {
                        self.check_answer(request, &response);
                        answers.push((request, response));
                    }
                    ReplicaAction::Write(batch) => self.commands.push(WriteCommand::Append(batch)),
                    ReplicaAction::Save(Save { ticket, meta }) => {
                        self.commands.push(WriteCommand::SaveMeta { ticket, meta });
                    }
                    ReplicaAction::Quarantine { from, epoch } => {
                        self.commands.push(WriteCommand::Quarantine { from, epoch });
                    }
                    ReplicaAction::Truncate { ticket, to } => {
                        self.commands.push(WriteCommand::Truncate { ticket, to });
                    }
                    ReplicaAction::Fetch {
                        fetch, response, ..
                    } => {
                        let bytes_max = (fetch.bytes_max as usize).clamp(1, BATCH_BYTES_MAX);
                        let until = response.state.durable_end;
                        // It may be refused or not, but must not panic.
                        let _ = self.view.read(fetch.from, until, bytes_max);
                        let _ = self.view.epoch_starts_before(fetch.from, EPOCH_STARTS_MAX);
                    }
                    ReplicaAction::ReadStarts {
                        serial,
                        hello,
                        before,
                    } => {
                        let older = self.view.readable_epoch_starts_before(before);
                        let mut starts = older.unwrap_or_default();
                        let known = self.view.epoch_starts(usize::MAX);
                        starts.extend(known.into_iter().filter(|start| start.first >= before));
                        let view = self.view.clone();
                        self.replica.on_older_starts(serial, hello, &starts, &*view);
                    }
                    ReplicaAction::Inspect { offset } => {
                        let held_back = HeldBack::Yes;
                        self.commands
                            .push(WriteCommand::Inspect { offset, held_back });
                    }
                    ReplicaAction::Resume => self.commands.push(WriteCommand::Resume),
                    ReplicaAction::Changed(_) => {}
                }
            }
        }
    }

    /// Checks rule 9: everything done is done for the promised epoch.
    fn check_answer(&mut self, request: RequestId, response: &Response) {
        let epoch = self.asked.remove(&request).expect("each is answered once");
        match response.answer {
            Answer::Refused(_) | Answer::Identity(_) => {}
            _ => assert_eq!(response.state.promised, epoch, "rule 9: {response:?}"),
        }
        let state = response.state;
        assert!(state.log_epoch <= Some(state.promised), "{state:?}");
    }

    /// Returns a request as any sender may send it.
    fn wrong_request(&self, chaos: &mut Chaos) -> Request {
        let meta = self.replica.meta();
        let promised = meta.promised.clone().expect("it has promised something");
        let (epoch, end) = (chaos.epoch(promised.epoch), self.view.written_end());
        let holder = Incarnation {
            instance: promised.instance,
            start: promised.start,
        };
        let own = Incarnation {
            instance: meta.instance,
            start: meta.start,
        };
        let known = self.view.epoch_starts(EPOCH_STARTS_MAX);
        let node_list = match chaos.one_in(30) {
            true => vec![name("m"), name("s1")],
            false => nodes(),
        };
        let mut progress = || Progress {
            to_incarnation: chaos.life(own),
            end: chaos.offset(end.plus(3)),
            committed: chaos.maybe_offset(end),
            refill_target: chaos.maybe_offset(end),
        };
        let body = match self.next % 8 {
            0 => RequestBody::Identify,
            1 => RequestBody::Promise(Promise {
                nodes: node_list,
                log_epoch: chaos.maybe_epoch(epoch),
            }),
            2 | 3 => RequestBody::Hello(Hello {
                nodes: node_list,
                log_epoch: match chaos.one_in(8) {
                    true => chaos.maybe_epoch(epoch),
                    false => Some(epoch),
                },
                public_url: chaos.public_url(),
                end: chaos.offset(end),
                adopted_end: chaos.offset(end),
                epoch_starts: chaos.starts(epoch, end, &known),
                epoch_starts_end: chaos.offset(end),
                forced_epoch: match chaos.one_in(8) {
                    true => chaos.maybe_epoch(epoch),
                    false => None,
                },
            }),
            4 => RequestBody::Heartbeat(progress()),
            5 => RequestBody::Fetch(Fetch {
                to_incarnation: chaos.life(own),
                from: chaos.offset(end),
                bytes_max: chaos.up_to(u64::from(u32::MAX)) as u32,
                epoch_starts: chaos.one_in(2),
            }),
            _ => RequestBody::Append(Append {
                progress: progress(),
                records: vec![chaos.records(end, promised.epoch)],
            }),
        };
        Request {
            cluster: chaos.cluster(),
            from: chaos.node(promised.name.as_str()),
            incarnation: chaos.life(holder),
            to: chaos.node("s1"),
            epoch,
            body,
        }
    }

    /// Checks that the node serves a correct master: a new directory that goes on from this node's log.
    fn serves_the_right_master(&mut self, chaos: &mut Chaos) {
        self.write();
        let epoch = self.promised().next();
        let incarnation = Incarnation {
            instance: InstanceId::draw(&mut chaos.0),
            start: 1,
        };
        let request = |body| Request {
            cluster: Some(CLUSTER),
            from: name("m"),
            incarnation,
            to: name("s1"),
            epoch,
            body,
        };
        let mut ask = |body| {
            let id = self.next;
            let mut answers = self.ask(request(body));
            answers.extend(self.write());
            let answer = answers.into_iter().find(|(of, _)| *of == id);
            (answer.expect("it is answered").1, self.view.clone())
        };
        let (response, view) = ask(RequestBody::Promise(Promise {
            nodes: nodes(),
            log_epoch: Some(Epoch(epoch.0 - 1)),
        }));
        assert!(
            matches!(response.answer, Answer::Promised(_)),
            "{response:?}"
        );
        let end = view.written_end();
        let (response, _) = ask(RequestBody::Hello(Hello {
            nodes: nodes(),
            log_epoch: Some(epoch),
            public_url: None,
            end,
            adopted_end: end,
            epoch_starts: view.epoch_starts(EPOCH_STARTS_MAX),
            epoch_starts_end: end,
            forced_epoch: None,
        }));
        assert!(
            matches!(response.answer, Answer::Aligned(_)),
            "{response:?}"
        );
        let mut bytes = BytesMut::new();
        for nth in 0..3 {
            let fields = FrameFields {
                first: end.plus(nth),
                epoch,
                timestamp_ms: 0,
                key: b"",
            };
            fields.encode(&[b"right"], &mut bytes);
        }
        let records = vec![FrameBatch::check(end, bytes.freeze()).unwrap()];
        let progress = Progress {
            to_incarnation: response.incarnation,
            end: end.plus(3),
            committed: Some(end),
            refill_target: Some(end),
        };
        let (response, view) = ask(RequestBody::Append(Append { progress, records }));
        assert_eq!(response.answer, Answer::Taken);
        assert_eq!(response.state.log_epoch, Some(epoch));
        assert_eq!(
            (response.state.durable_end, view.written_end()),
            (end.plus(3), end.plus(3))
        );
    }
}

#[test]
fn requests_with_wrong_content_break_no_rule_and_a_correct_master_is_served() {
    let mut chaos = Chaos(ChaCha8Rng::seed_from_u64(1));
    let mut node = Secondary::new("s1", 7);
    let mut arrived = 0;
    for nth in 0..messages() {
        let request = node.wrong_request(&mut chaos);
        let before = node.promised();
        let bytes = Bytes::from(wire::encode_request(&request).concat());
        if let Ok(decoded) = wire::decode_request(bytes) {
            assert_eq!(decoded, request);
            arrived += 1;
            node.ask(request);
        } else {
            node.next += 1;
        }
        if !chaos.one_in(3) {
            node.write();
        }
        assert!(node.promised() >= before, "rule 9: a promise is withdrawn");
        node.now += Duration::from_millis(chaos.up_to(50));
        if nth % 200 == 199 {
            node.serves_the_right_master(&mut chaos);
        }
    }
    assert!(arrived > messages() / 2, "only {arrived} are well-formed");
    assert!(
        node.replica.malformed() > messages() / 20,
        "too few requests are malformed"
    );
}

/// A master that recovers.
struct Recovering {
    recovery: Recovery,
    node: MasterNode,
    /// Two nodes with a log that answer truthfully.
    honest: [Secondary; 2],
    writer: WriterLoop,
    view: Arc<LogView>,
    meta: Meta,
    asked: Option<(u64, Epoch, RequestBody)>,
    is_over: bool,
    served: u64,
    malformed: u64,
    now: Instant,
}

impl Recovering {
    fn new() -> Recovering {
        let storage = MemoryStorage::new();
        let (files, view, _) = open_log(&storage).unwrap();
        let (meta, now) = (meta("m", 1, Some(1)), Instant::now());
        let mut node = Recovering::node(meta.clone(), &view);
        let mut master = Recovering {
            recovery: Recovering::begin(&mut node, ForcedRecovery::Never, now),
            node,
            honest: [Secondary::new("s1", 7), Secondary::new("s2", 8)],
            writer: WriterLoop::new(files, Arc::new(storage)),
            view,
            meta,
            asked: None,
            is_over: false,
            served: 0,
            malformed: 0,
            now,
        };
        master.carry_out();
        master
    }

    fn node(meta: Meta, view: &LogView) -> MasterNode {
        MasterNode::new(meta, OwnLog::whole(view.written_end()))
    }

    fn begin(node: &mut MasterNode, forced: ForcedRecovery, now: Instant) -> Recovery {
        let settings = Settings {
            nodes: nodes(),
            founding: Founding::Never,
            forced_recovery: forced,
            take_over: TakeOver::AtOnce,
            timing: Timing::default(),
            drawn: CLUSTER,
        };
        Recovery::new(settings, node, now)
    }

    fn restart(&mut self, forced: ForcedRecovery) {
        self.meta.start += 1;
        (self.asked, self.is_over) = (None, false);
        self.node = Recovering::node(self.meta.clone(), &self.view);
        self.recovery = Recovering::begin(&mut self.node, forced, self.now);
        self.carry_out();
    }

    /// Restarts as [`Recovering::restart`] does, but perhaps damaged, or with an empty directory.
    fn restart_somehow(&mut self, chaos: &mut Chaos) {
        let end = self.view.written_end();
        match chaos.up_to(7) {
            0 | 1 => {
                let known = chaos.maybe_offset(end);
                self.meta.lose_log_epoch(known);
            }
            2 => self.empty_the_directory(chaos),
            _ => {}
        }
        let forced = match chaos.one_in(3) {
            true => ForcedRecovery::LoseAcknowledged,
            false => ForcedRecovery::Never,
        };
        self.restart(forced);
    }

    fn empty_the_directory(&mut self, chaos: &mut Chaos) {
        let storage = MemoryStorage::new();
        let (files, view, _) = open_log(&storage).unwrap();
        self.writer = WriterLoop::new(files, Arc::new(storage));
        self.view = view;
        self.meta = Meta {
            instance: InstanceId::draw(&mut chaos.0),
            start: 0,
            cluster: None,
            promised: None,
            ..meta("m", 1, None)
        };
    }

    fn carry_out(&mut self) {
        loop {
            let actions = self.recovery.take_actions();
            if actions.is_empty() {
                break;
            }
            let mut commands = Vec::new();
            for action in actions {
                match action {
                    RecoveryAction::Ask {
                        epoch,
                        serial,
                        body,
                        ..
                    } => self.asked = Some((serial, epoch, body)),
                    RecoveryAction::Save(Save { ticket, meta }) => {
                        assert!(
                            meta.promised.as_ref().map(|to| to.epoch)
                                >= self.meta.promised.as_ref().map(|to| to.epoch),
                            "rule 9: a promise is withdrawn"
                        );
                        self.meta = Meta::clone(&meta);
                        commands.push(WriteCommand::SaveMeta { ticket, meta });
                    }
                    RecoveryAction::Quarantine { from, epoch } => {
                        commands.push(WriteCommand::Quarantine { from, epoch });
                    }
                    RecoveryAction::Truncate { ticket, to } => {
                        commands.push(WriteCommand::Truncate { ticket, to });
                    }
                    RecoveryAction::Append(batches) => {
                        commands.extend(batches.into_iter().map(WriteCommand::Append));
                    }
                    RecoveryAction::Serve { epoch, .. } => {
                        assert_eq!(self.meta.log_epoch, Some(epoch));
                        (self.is_over, self.served) = (true, self.served + 1);
                    }
                    RecoveryAction::BecomeFenced(_) => self.is_over = true,
                    RecoveryAction::Malformed { .. } => self.malformed += 1,
                    RecoveryAction::Note(_)
                    | RecoveryAction::Warning(_)
                    | RecoveryAction::Alarm(_) => {}
                }
            }
            let mut reports = Vec::new();
            let flow = self
                .writer
                .run(commands, &mut |report| reports.push(report));
            assert!(flow.is_continue(), "the writer ended: {reports:?}");
            for report in reports {
                self.on_report(report);
            }
        }
        self.view.check();
    }

    fn on_report(&mut self, report: WriteReport) {
        match report {
            WriteReport::Written { .. } => {}
            WriteReport::Durable { whole_end, .. } => {
                self.recovery
                    .on_durable(&mut self.node, self.now, whole_end);
            }
            WriteReport::Truncated { ticket, cut } => {
                self.node.on_cut(ticket, cut.from);
                self.recovery.on_truncated(&mut self.node, self.now);
            }
            WriteReport::MetaSaved { ticket, .. } => {
                self.node.on_saved(ticket);
                self.recovery.on_saved(&mut self.node, self.now);
            }
            other => panic!("memory accepts and keeps everything: {other:?}"),
        }
    }

    fn hear(&mut self, serial: u64, response: Response) {
        let starts = self.view.epoch_starts(EPOCH_STARTS_MAX);
        self.recovery
            .on_answer(&mut self.node, self.now, serial, response, &starts);
        self.carry_out();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let starts = self.view.epoch_starts(EPOCH_STARTS_MAX);
        self.recovery.on_deadline(&mut self.node, self.now, &starts);
        self.carry_out();
    }

    /// Returns an answer that any node may give.
    fn wrong_response(&self, chaos: &mut Chaos, asked: Epoch, body: &RequestBody) -> Response {
        let end = self.view.written_end();
        let known = self.view.epoch_starts(EPOCH_STARTS_MAX);
        let log_epoch = self.meta.log_epoch.unwrap_or_default();
        let answer = match (body, chaos.up_to(9)) {
            (_, 0) => Answer::Refused(Refusal::Fenced(chaos.fenced_by(asked))),
            (_, 1) if chaos.one_in(20) => {
                Answer::Refused(Refusal::Replaced(chaos.fenced_by(asked)))
            }
            (_, 1) if chaos.one_in(20) => {
                Answer::Refused(Refusal::OutOfDate(chaos.fenced_by(asked)))
            }
            (RequestBody::Identify, 3..) | (_, 2) => Answer::Identity(Identity {
                nodes: nodes(),
                master: Some(MasterContact {
                    name: name("m"),
                    instance: life(9, 1).instance,
                    elapsed_ms: chaos.up_to(u64::MAX),
                }),
            }),
            (_, 3) => Answer::Taken,
            (_, 4) => Answer::Aligned(Aligned {
                cut_records: chaos.up_to(u64::MAX),
                public_url: chaos.public_url(),
            }),
            (RequestBody::Fetch(_), _) => Answer::Records(Fetched {
                epoch_starts: Vec::new(),
                records: vec![chaos.records(end, log_epoch)],
            }),
            _ => Answer::Promised(Promised {
                epoch_starts: chaos.starts(log_epoch, end, &known),
                forced_epoch: match chaos.one_in(20) {
                    true => chaos.maybe_epoch(asked),
                    false => None,
                },
                last_whole: chaos.last_whole(log_epoch, end),
            }),
        };
        // A blank master joins the cluster that any answer names.
        let is_asked_by_blank = matches!(body, RequestBody::Identify);
        let usual = if chaos.one_in(2) { "s1" } else { "s2" };
        Response {
            cluster: match is_asked_by_blank {
                true => Some(CLUSTER),
                false => chaos.cluster(),
            },
            name: chaos.node(usual),
            incarnation: chaos.life(life(3, 1)),
            state: NodeState {
                durable_end: chaos.offset(end),
                log_epoch: chaos.maybe_epoch(log_epoch),
                promised: match chaos.one_in(4) {
                    true => chaos.epoch(asked),
                    false => asked,
                },
                buffered: chaos.up_to(u64::MAX),
            },
            answer,
        }
    }

    /// Checks that the master recovers with two nodes that were away while others lied, and that answer as real
    /// ones do, bounds and all.
    fn recovers_with_honest_nodes(&mut self) {
        self.restart(ForcedRecovery::Never);
        let before = self.served;
        for _ in 0..2000 {
            let Some((serial, epoch, body)) = self.asked.clone() else {
                panic!("nothing is asked");
            };
            let incarnation = Incarnation {
                instance: self.meta.instance,
                start: self.meta.start,
            };
            for nth in 0..self.honest.len() {
                let node = &mut self.honest[nth];
                let request = Request {
                    cluster: self.meta.cluster.as_ref().map(|cluster| cluster.id),
                    from: name("m"),
                    incarnation,
                    to: node.replica.meta().name.clone(),
                    epoch,
                    body: body.clone(),
                };
                let id = node.next;
                let mut answers = node.ask(request);
                answers.extend(node.write());
                if let Some((_, response)) = answers.into_iter().find(|(of, _)| *of == id) {
                    self.hear(serial, response);
                }
            }
            if self.served > before {
                return;
            }
            self.pass(Duration::from_secs(6));
        }
        panic!("it does not recover: {:?}", self.recovery);
    }
}

/// Messages sent to one cluster. Each lie may raise its epochs, and a master whose directory is emptied follows
/// them in steps, one per round; so a longer campaign goes on with a new cluster.
const MESSAGES_OF_A_CLUSTER: u64 = 20_000;

#[test]
fn answers_with_wrong_content_break_no_rule_and_a_master_recovers_with_honest_nodes() {
    let mut chaos = Chaos(ChaCha8Rng::seed_from_u64(2));
    let mut master = Recovering::new();
    let mut arrived = 0;
    for nth in 0..messages() {
        if nth > 0 && nth % MESSAGES_OF_A_CLUSTER == 0 {
            master = Recovering {
                malformed: master.malformed,
                served: master.served,
                ..Recovering::new()
            };
        }
        let (serial, asked, body) = master.asked.clone().expect("something is asked");
        let response = master.wrong_response(&mut chaos, asked, &body);
        let bytes = Bytes::from(wire::encode_response(&response).concat());
        if let Ok(decoded) = wire::decode_response(bytes) {
            assert_eq!(decoded, response);
            arrived += 1;
            master.hear(serial, response);
        }
        if chaos.one_in(3) {
            master.pass(Duration::from_millis(chaos.up_to(4_000)));
        }
        if nth % 200 == 199 {
            master.recovers_with_honest_nodes();
        }
        if master.is_over {
            master.restart_somehow(&mut chaos);
        }
    }
    assert!(arrived > messages() / 2, "only {arrived} are well-formed");
    assert!(
        master.malformed > messages() / 20,
        "{} are malformed",
        master.malformed
    );
    assert!(
        master.served > messages() / 200,
        "it must recover by itself now and then"
    );
}

/// A master's link to a secondary, and the repair that takes the records it fetches.
struct Linked {
    link: Link,
    repair: Repair,
    /// Requests in flight, not answered yet.
    in_flight: Vec<(u64, Epoch, RequestBody)>,
    epoch: Epoch,
    written_end: Offset,
    now: Instant,
    opened: u64,
}

impl Linked {
    fn new() -> Linked {
        let now = Instant::now();
        let mut linked = Linked {
            link: Link::new(name("s1"), Timing::default(), 1, now),
            repair: Repair::default(),
            in_flight: Vec::new(),
            epoch: Epoch(1),
            written_end: Offset(40),
            now,
            opened: 0,
        };
        linked.serve(Epoch(1));
        linked
    }

    /// Begins leadership of an epoch, with a hole in the log.
    fn serve(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.in_flight.clear();
        self.link
            .on_log(self.now, self.written_end, Some(self.written_end));
        self.link.serve(self.now, CLUSTER, epoch);
        self.lose_records();
    }

    fn lose_records(&mut self) {
        self.repair.on_inspected(vec![Offset(10)..Offset(13)]);
        self.link.on_missing(self.now, self.repair.missing());
    }

    /// Carries out the link's actions.
    fn carry_out(&mut self) {
        for _ in 0..1000 {
            self.link.check_invariants();
            let Some(action) = self.link.poll(self.now) else {
                return;
            };
            match action {
                LinkAction::Answered { .. } => panic!("no recovery asks: {action:?}"),
                LinkAction::Ask {
                    attempt,
                    epoch,
                    body,
                } => self.in_flight.push((attempt, epoch, body)),
                LinkAction::Hello { attempt, epoch, .. } => {
                    let hello = Hello {
                        nodes: nodes(),
                        log_epoch: Some(epoch),
                        public_url: None,
                        end: self.written_end,
                        adopted_end: Offset::ZERO,
                        epoch_starts: Vec::new(),
                        epoch_starts_end: self.written_end,
                        forced_epoch: None,
                    };
                    self.in_flight
                        .push((attempt, epoch, RequestBody::Hello(hello)));
                }
                LinkAction::Heartbeat {
                    attempt,
                    epoch,
                    progress,
                } => {
                    let body = RequestBody::Heartbeat(progress);
                    self.in_flight.push((attempt, epoch, body));
                }
                LinkAction::SendBatch {
                    attempt,
                    epoch,
                    wanted,
                    progress,
                } => {
                    assert!(wanted.until <= self.written_end, "{wanted:?}");
                    if self.link.on_read(attempt, wanted.until, 1000) {
                        let records = Vec::new();
                        let body = RequestBody::Append(Append { progress, records });
                        self.in_flight.push((attempt, epoch, body));
                    }
                }
                LinkAction::Fetched(records) => self.take_fetched(&records),
                // A lie about an epoch ends leadership; the next one begins above it.
                LinkAction::BecomeFenced(_) => self.serve(self.epoch.next()),
                LinkAction::Changed(_) | LinkAction::Report => {}
            }
        }
        panic!("there is always something to do");
    }

    /// Checks that only missing records, of the right epochs and without a gap, get into the log.
    fn take_fetched(&mut self, records: &[FrameBatch]) {
        let Some(MissingRange { from, until }) = self.repair.missing() else {
            return;
        };
        let own = self.epoch;
        let taken = self.repair.on_fetched(records, |_| Some(own));
        let mut next = from;
        for batch in &taken {
            assert_eq!((batch.first(), batch.first_epoch()), (next, own));
            assert_eq!(batch.last_epoch(), own);
            next = batch.end();
        }
        assert!(next <= until, "{taken:?}");
        if next > from {
            self.lose_records();
        }
    }

    fn wrong_response(&self, chaos: &mut Chaos, epoch: Epoch, body: &RequestBody) -> Response {
        let end = self.written_end;
        let usual = match body {
            RequestBody::Hello(_) => Answer::Aligned(Aligned {
                cut_records: chaos.up_to(u64::MAX),
                public_url: chaos.public_url(),
            }),
            RequestBody::Fetch(_) => Answer::Records(Fetched {
                epoch_starts: Vec::new(),
                records: vec![chaos.records(Offset(10), epoch)],
            }),
            _ => Answer::Taken,
        };
        let answer = match chaos.up_to(11) {
            0 => Answer::Refused(Refusal::Fenced(chaos.fenced_by(epoch))),
            1 => Answer::Refused(Refusal::HelloFirst),
            2 => Answer::Refused(Refusal::BeyondWindow),
            3 => Answer::OlderStartsNeeded {
                before: chaos.offset(end),
            },
            4 => Answer::Taken,
            5 => Answer::Promised(Promised {
                epoch_starts: Vec::new(),
                forced_epoch: None,
                last_whole: chaos.last_whole(epoch, end),
            }),
            _ => usual,
        };
        Response {
            cluster: chaos.cluster(),
            name: chaos.node("s1"),
            incarnation: chaos.life(life(3, 1)),
            state: NodeState {
                durable_end: chaos.offset(end),
                log_epoch: chaos.maybe_epoch(epoch),
                promised: match chaos.one_in(8) {
                    true => chaos.epoch(epoch),
                    false => epoch,
                },
                buffered: chaos.up_to(u64::MAX),
            },
            answer,
        }
    }

    fn hear(&mut self, attempt: u64, response: Response) {
        self.link.on_answer(self.now, attempt, Ok(response));
        self.carry_out();
        self.opened += u64::from(self.link.report(self.now).counted.is_some());
    }

    /// Checks that a node that tells the truth from now on counts with everything that it holds.
    fn counts_an_honest_node(&mut self) {
        self.in_flight.clear();
        self.serve(self.epoch.next());
        for _ in 0..50 {
            self.now += Duration::from_millis(500);
            self.carry_out();
            for (attempt, epoch, body) in std::mem::take(&mut self.in_flight) {
                let answer = match body {
                    RequestBody::Hello(_) => Answer::Aligned(Aligned {
                        cut_records: 0,
                        public_url: None,
                    }),
                    RequestBody::Fetch(_) => continue,
                    _ => Answer::Taken,
                };
                let response = Response {
                    cluster: Some(CLUSTER),
                    name: name("s1"),
                    incarnation: life(4, 1),
                    state: NodeState {
                        durable_end: self.written_end,
                        log_epoch: Some(epoch),
                        promised: epoch,
                        buffered: 0,
                    },
                    answer,
                };
                self.hear(attempt, response);
            }
            if self.link.report(self.now).counted == Some(self.written_end) {
                return;
            }
        }
        panic!("an honest node does not count: {:?}", self.link);
    }
}

#[test]
fn answers_with_wrong_content_at_a_link_break_no_rule_and_an_honest_node_counts() {
    let mut chaos = Chaos(ChaCha8Rng::seed_from_u64(3));
    let mut master = Linked::new();
    let mut arrived = 0;
    for nth in 0..messages() {
        master.now += Duration::from_millis(chaos.up_to(300));
        if chaos.one_in(4) {
            master.written_end = master.written_end.plus(chaos.up_to(2));
            let end = master.written_end;
            master.link.on_log(master.now, end, Some(end));
        }
        master.carry_out();
        if !master.in_flight.is_empty() {
            let which = chaos.up_to(master.in_flight.len() as u64 - 1) as usize;
            let (attempt, epoch, body) = master.in_flight.swap_remove(which);
            let response = master.wrong_response(&mut chaos, epoch, &body);
            let bytes = Bytes::from(wire::encode_response(&response).concat());
            if let Ok(decoded) = wire::decode_response(bytes) {
                assert_eq!(decoded, response);
                arrived += 1;
                master.hear(attempt, response);
            } else {
                let error = crate::transport::TransportError::TimedOut;
                master.link.on_answer(master.now, attempt, Err(error));
            }
        }
        if nth % 200 == 199 {
            master.counts_an_honest_node();
        }
    }
    assert!(arrived > messages() / 4, "only {arrived} are well-formed");
    assert!(master.opened > messages() / 50, "{} count", master.opened);
    let malformed = master.link.tally().malformed;
    assert!(malformed > messages() / 50, "{malformed} are malformed");
}

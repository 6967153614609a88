//! A secondary of a simulation: a replica and its disk.

use std::collections::BTreeMap;

use super::{
    disk::{Command, Report},
    world::{Call, Event, MS, Micros, Planted, Process, World},
};
use crate::{
    rules::{
        disk_space::WriteOutage,
        durable::{OwnLog, Save},
        replica::{Replica, ReplicaAction, ReplicaChange, RequestId},
    },
    transport::{Answer, Fetch, Fetched, Hello, Request, RequestBody, Response, TransportError},
    types::{DiskState, Epoch, Offset},
};

/// Returns the outage of a full disk.
pub(super) fn full() -> WriteOutage {
    WriteOutage {
        disk: DiskState::Full,
        detail: "no room".into(),
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) index: usize,
    pub(super) replica: Option<Replica>,
    pub(super) life: u64,
    pub(super) paused_until: Micros,
    armed: Option<Micros>,
    waiting: BTreeMap<RequestId, (Call, Epoch, RequestBody)>,
    next_request: RequestId,
    shown: Offset,
}

impl Node {
    pub(super) fn new(index: usize) -> Node {
        Node {
            index,
            replica: None,
            life: 0,
            paused_until: 0,
            armed: None,
            waiting: BTreeMap::new(),
            next_request: 0,
            shown: Offset::ZERO,
        }
    }

    fn process(&self) -> Process {
        Process::Node(self.index)
    }

    pub(super) fn start(&mut self, world: &mut World) {
        if self.replica.is_some() {
            return;
        }
        world.note(|| format!("s{} starts", self.index + 1));
        self.life += 1;
        let disk = &mut world.disks[self.index];
        disk.meta.start += 1;
        self.replica = Some(Replica::new(
            disk.meta.clone(),
            OwnLog::whole(disk.durable_end()),
        ));
    }

    pub(super) fn crash(&mut self, world: &mut World) {
        if self.replica.take().is_none() {
            return;
        }
        world.note(|| format!("s{} crashes", self.index + 1));
        self.life += 1;
        self.armed = None;
        self.waiting.clear();
        self.shown = Offset::ZERO;
        self.paused_until = 0;
        world.crash_disk(self.process());
    }

    pub(super) fn on_request(&mut self, world: &mut World, call: Call, mut request: Request) {
        let Some(replica) = &mut self.replica else {
            let event = Event::Answer {
                call,
                result: Err(TransportError::ConnectionRefused),
            };
            world.carry(
                Process::Node(self.index),
                Process::Master(call.master),
                &event,
            );
            return;
        };
        if world.planted(Planted::NoRefillTarget) {
            match &mut request.body {
                RequestBody::Heartbeat(progress) => progress.refill_target = Some(Offset::ZERO),
                RequestBody::Append(append) => append.progress.refill_target = Some(Offset::ZERO),
                _ => {}
            }
        }
        if let (true, RequestBody::Hello(hello)) =
            (world.planted(Planted::EndlessHello), &mut request.body)
        {
            hello.end = Offset(1 << 40);
            hello.epoch_starts_end = Offset(1 << 40);
        }
        world.note(|| format!("s{} <- m{} {request:?}", self.index + 1, call.master));
        let id = self.next_request;
        self.next_request += 1;
        let (epoch, body) = (request.epoch, request.body.clone());
        self.waiting.insert(id, (call, epoch, body));
        let now = world.instant();
        replica.on_request(now, id, request, &world.facts(Process::Node(self.index)));
        self.carry_out(world, Some(epoch));
    }

    pub(super) fn on_timer(&mut self, world: &mut World) {
        self.armed = None;
        if let Some(replica) = &mut self.replica {
            replica.on_deadline(world.instant());
            self.carry_out(world, None);
        }
    }

    fn arm(&mut self, world: &mut World) {
        let deadline = self.replica.as_ref().and_then(Replica::next_deadline);
        let Some(deadline) = deadline else { return };
        let at = world.micros(deadline).max(world.now);
        if self.armed.is_none_or(|armed| at < armed) {
            self.armed = Some(at);
            let (node, life) = (self.index, self.life);
            world.at(at, Event::NodeTimerDue { node, life });
        }
    }

    pub(super) fn on_report(&mut self, world: &mut World, report: Report) {
        let now = world.instant();
        let facts = world.facts(self.process());
        let Some(replica) = &mut self.replica else {
            return;
        };
        match report {
            Report::Written { .. } => {}
            Report::Durable { end } => replica.on_durable(end),
            Report::Truncated { ticket, cut } => replica.on_truncated(ticket, cut),
            Report::Saved {
                ticket,
                durable_end,
            } => replica.on_saved(ticket, durable_end, &facts),
            Report::WriteFailed => replica.on_write_failed(now, full()),
            Report::Resumed { end } => replica.on_resumed(now, OwnLog::whole(end)),
        }
        self.carry_out(world, None);
    }

    pub(super) fn on_fetch_read(
        &mut self,
        world: &mut World,
        request: RequestId,
        fetch: Fetch,
        mut response: Response,
    ) {
        let log = &world.disks[self.index].log;
        let until = (response.state.durable_end.0 as usize).min(log.len());
        let from = (fetch.from.0 as usize).min(until);
        let until = until.min(from + world.knobs.batch_records);
        response.answer = Answer::Records(Fetched {
            epoch_starts: Vec::new(),
            records: log[from..until].iter().map(|e| e.batch.clone()).collect(),
        });
        self.answer(world, request, response);
    }

    pub(super) fn on_starts_read(&mut self, world: &mut World, serial: u64, hello: Box<Hello>) {
        let starts = world.disk(self.process()).all_starts();
        let facts = world.facts(self.process());
        if let Some(replica) = &mut self.replica {
            replica.on_older_starts(serial, hello, &starts, &facts);
            self.carry_out(world, None);
        }
    }

    fn carry_out(&mut self, world: &mut World, sender: Option<Epoch>) {
        while let Some(replica) = &mut self.replica {
            let actions = replica.take_actions();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.carry_out_one(world, sender, action);
            }
        }
        self.show(world);
        self.arm(world);
    }

    fn carry_out_one(&mut self, world: &mut World, sender: Option<Epoch>, action: ReplicaAction) {
        let (process, life) = (self.process(), self.life);
        match action {
            ReplicaAction::Answer { request, response } => self.answer(world, request, response),
            ReplicaAction::Write(batch) => {
                let sender = sender.expect("records are written as they arrive");
                world
                    .oracle
                    .on_submitted(self.index, &world.disks[self.index], sender);
                world.submit(process, life, Command::Append(batch));
            }
            ReplicaAction::Save(Save { ticket, meta }) => {
                world.submit(process, life, Command::Save { ticket, meta });
            }
            // These disks keep no files besides the log.
            ReplicaAction::Quarantine { .. } => {}
            ReplicaAction::Truncate { ticket, to } => {
                let to = if world.planted(Planted::NothingCut) {
                    Offset(1 << 40)
                } else {
                    to
                };
                world.submit(process, life, Command::Truncate { ticket, to });
            }
            ReplicaAction::Fetch {
                request,
                fetch,
                response,
            } => {
                let delay = world.below(5 * MS);
                let (node, response) = (self.index, Box::new(response));
                world.after(
                    delay,
                    Event::FetchRead {
                        node,
                        life,
                        request,
                        fetch,
                        response,
                    },
                );
            }
            ReplicaAction::ReadStarts {
                serial,
                hello,
                before: _,
            } => {
                let delay = world.below(5 * MS);
                let node = self.index;
                world.after(
                    delay,
                    Event::StartsRead {
                        node,
                        life,
                        serial,
                        hello,
                    },
                );
            }
            ReplicaAction::Inspect { .. } => unreachable!("the naive disks do not rot"),
            ReplicaAction::Resume => world.submit(process, life, Command::Resume),
            ReplicaAction::Changed(change) => {
                if let ReplicaChange::Cut { cut, .. } = &change {
                    world.oracle.cuts += cut.records;
                    self.shown = self.shown.min(cut.from);
                }
                world.note(|| format!("s{} {change:?}", self.index + 1));
            }
        }
    }

    fn answer(&mut self, world: &mut World, request: RequestId, response: Response) {
        let Some((call, epoch, body)) = self.waiting.remove(&request) else {
            let text = format!("request {request} of s{} is answered twice", self.index + 1);
            return world.oracle.fail(text);
        };
        world.note(|| format!("s{} -> m{} {response:?}", self.index + 1, call.master));
        let disk = &world.disks[self.index];
        world
            .oracle
            .on_answer(self.index, disk, (epoch, &body), &response);
        let event = Event::Answer {
            call,
            result: Ok(response),
        };
        world.carry(self.process(), Process::Master(call.master), &event);
    }

    /// Checks what readers at level `committed` see.
    fn show(&mut self, world: &mut World) {
        let Some(committed) = self.replica.as_ref().and_then(Replica::committed) else {
            return;
        };
        if committed > self.shown {
            let disk = &world.disks[self.index];
            world.oracle.on_committed(disk, self.shown, committed);
            self.shown = committed;
        }
    }
}

//! The possible events: one step of one node, one message, or one accident.
//!
//! A question and its answer are one step unless something comes between: the question may be late, and the
//! answer late or lost. A save to a disk is one step with what relies on it, since a crash just before it and
//! one just after it are separate steps.

use std::fmt;

use super::{
    Mistake, Protocol, Replacing,
    state::{
        Aligned, Answer, Body, Broken, Disk, Kind, LATE_MAX, Link, Log, MASTERS_MAX, Master,
        Message, PeerReply, Promise, Record, Request, Role, SECONDARIES, Secondary, Seen, State,
        known as held,
    },
};
use crate::{
    rules::acks::{Acks, WaiterId},
    types::{Offset, majority},
};

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The master gives out an offset and writes the record.
    Append { master: u8 },
    /// A master's written records become durable.
    SyncMaster { master: u8 },
    /// A secondary's written records become durable.
    SyncSecondary { secondary: u8 },
    /// A power cut at the master that spares the records below `spares`, and a start.
    Restart { master: u8, spares: u8 },
    /// An empty directory takes the master's place.
    Replace,
    /// A power cut at a secondary, and a start.
    Crash { secondary: u8, spares: u8 },
    /// A secondary starts with an empty disk.
    Wipe { secondary: u8 },
    /// A secondary starts with a disk of which only the records below `left` can be read.
    Damage { secondary: u8, left: u8 },
    /// A master starts with a disk of which only the records below `left` can be read.
    DamageMaster { master: u8, left: u8 },
    /// A master asks a secondary something.
    Send {
        master: u8,
        secondary: u8,
        ask: Ask,
        fate: Fate,
    },
    /// A late message arrives; it may arrive again.
    Deliver { index: u8, fate: Fate },
    /// A recovering master decides which log to adopt; among equal ones, that of `first`. Both orders are
    /// steps; otherwise the secondaries could not be treated as symmetric.
    Decide { master: u8, first: u8 },
    /// A recovering master fetches one record.
    Fetch { master: u8 },
    /// A recovered master saves the log epoch and serves.
    BecomeLeader { master: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Promise,
    Hello,
    Heartbeat,
    Batch { offset: u8 },
}

/// Fate of a question and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The question itself is late, and replaces another late message.
    Late {
        over: u8,
    },
    AnswerLost,
    AnswerLate {
        over: u8,
    },
    Answered,
}

impl Protocol {
    /// Collects the steps that may be possible; those that change nothing are dropped later.
    pub(super) fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        if state.seen.broken.is_some() {
            return;
        }
        for (known, master) in state.masters.iter().zip(0..) {
            if let Some(known) = known {
                self.possible_of_master(state, known, master, actions);
            }
        }
        for (secondary, known) in (0..).zip(&state.secondaries) {
            if known.disk.synced < known.disk.log.len() {
                actions.push(Action::SyncSecondary { secondary });
            }
            if state.crashes < self.bounds.crashes {
                for spares in known.disk.synced..=known.disk.log.len() {
                    actions.push(Action::Crash { secondary, spares });
                }
            }
            if state.wipes < self.bounds.wipes {
                actions.push(Action::Wipe { secondary });
            }
            if state.damages < self.bounds.damages {
                let lefts = 0..known.disk.synced;
                actions.extend(lefts.map(|left| Action::Damage { secondary, left }));
            }
        }
        if state.newest < self.bounds.replacements {
            actions.push(Action::Replace);
        }
        for (message, index) in state.late.iter().zip(0..) {
            match message {
                None => continue,
                Some(Message::Answer(_)) => {
                    let fate = Fate::Answered;
                    actions.push(Action::Deliver { index, fate });
                }
                Some(Message::Request(_)) => {
                    for fate in [Fate::AnswerLost, Fate::Answered] {
                        actions.push(Action::Deliver { index, fate });
                    }
                    for over in 0..self.bounds.late {
                        let fate = Fate::AnswerLate { over };
                        actions.push(Action::Deliver { index, fate });
                    }
                }
            }
        }
    }

    fn possible_of_master(
        &self,
        state: &State,
        known: &Master,
        master: u8,
        actions: &mut Vec<Action>,
    ) {
        let disk = &known.disk;
        if disk.synced < disk.log.len() {
            actions.push(Action::SyncMaster { master });
        }
        if disk.promise.epoch < self.bounds.epochs {
            for spares in disk.synced..=disk.log.len() {
                actions.push(Action::Restart { master, spares });
            }
            if state.damages < self.bounds.damages {
                let lefts = 0..disk.synced;
                actions.extend(lefts.map(|left| Action::DamageMaster { master, left }));
            }
        }
        for (secondary, other) in (0..).zip(&state.secondaries) {
            let at = usize::from(secondary);
            let mut ask = |ask| {
                let late = (0..self.bounds.late)
                    .flat_map(|over| [Fate::Late { over }, Fate::AnswerLate { over }]);
                let fates = [Fate::Answered, Fate::AnswerLost].into_iter().chain(late);
                actions.extend(fates.map(|fate| Action::Send {
                    master,
                    secondary,
                    ask,
                    fate,
                }));
            };
            match &known.role {
                Role::Promising { heard, .. } if heard[at].is_none() => ask(Ask::Promise),
                Role::Serving { links, .. } if links[at].life.is_none() => ask(Ask::Hello),
                Role::Serving { .. } => {
                    ask(Ask::Heartbeat);
                    for offset in other.disk.log.len()..disk.log.len() {
                        ask(Ask::Batch { offset });
                    }
                }
                _ => {}
            }
        }
        match &known.role {
            Role::Promising { .. } => {
                actions.extend([0, 1].map(|first| Action::Decide { master, first }));
            }
            Role::Adopting { .. } => actions.push(Action::Fetch { master }),
            Role::Adopted { .. } => actions.push(Action::BecomeLeader { master }),
            Role::Serving { epoch, .. } => {
                if disk.log.len() < self.bounds.records {
                    actions.push(Action::Append { master });
                }
                if disk.log_epoch != Some(*epoch) {
                    actions.push(Action::BecomeLeader { master });
                }
            }
        }
    }

    /// Carries out a step.
    pub(super) fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Append { master } => {
                let known = known(state, master);
                if let Role::Serving { epoch, .. } = known.role {
                    let author = master;
                    known.disk.log.push(Record { epoch, author });
                }
            }
            Action::SyncMaster { master } => {
                known(state, master).disk.sync();
                self.release(state, master);
            }
            Action::SyncSecondary { secondary } => {
                let secondary = &mut state.secondaries[usize::from(secondary)];
                secondary.disk.sync();
                self.settle(secondary);
            }
            Action::Restart { master, spares } => {
                let known = known(state, master);
                known.disk.restart(spares);
                self.start_master(known, master);
            }
            Action::DamageMaster { master, left } => {
                state.damages += 1;
                let known = known(state, master);
                known.disk.extend_last_whole();
                known
                    .disk
                    .damage(left, self.end_before_damage(&known.disk, left));
                self.start_master(known, master);
            }
            Action::Damage { secondary, left } => {
                state.damages += 1;
                let secondary = &mut state.secondaries[usize::from(secondary)];
                if secondary.disk.is_intact() {
                    secondary.wiped = secondary.disk.held();
                }
                let end = self.end_before_damage(&secondary.disk, left);
                secondary.disk.damage(left, end);
                secondary.life += 1;
                secondary.aligned = None;
                secondary.refill_target = None;
            }
            Action::Replace => self.replace(state),
            Action::Crash { secondary, spares } => {
                state.crashes += 1;
                let secondary = &mut state.secondaries[usize::from(secondary)];
                secondary.disk.restart(spares);
                secondary.life += 1;
                secondary.aligned = None;
                secondary.refill_target = None;
            }
            Action::Wipe { secondary } => {
                state.wipes += 1;
                let secondary = &mut state.secondaries[usize::from(secondary)];
                *secondary = Secondary {
                    life: secondary.life + 1,
                    wiped: secondary.disk.held(),
                    ..Secondary::default()
                };
            }
            Action::Send {
                master,
                secondary,
                ask,
                fate,
            } => {
                if let Some(request) = self.question(state, master, secondary, ask) {
                    self.exchange(state, request, fate);
                }
            }
            Action::Deliver { index, fate } => match state.late[usize::from(index)] {
                Some(Message::Request(request)) => self.exchange(state, request, fate),
                Some(Message::Answer(answer)) => self.on_answer(state, answer),
                None => {}
            },
            Action::Decide { master, first } => self.decide(state, master, first),
            Action::Fetch { master } => self.fetch(state, master),
            Action::BecomeLeader { master } => self.become_leader(state, master),
        }
    }

    /// Returns the initial state, long after the founding: all nodes are intact, aligned, and empty.
    pub(super) fn beginning() -> State {
        let epoch = 1;
        let disk = Disk {
            promise: Promise {
                epoch,
                ..Promise::default()
            },
            log_epoch: Some(epoch),
            ..Disk::default()
        };
        let secondary = Secondary {
            disk,
            aligned: Some(Aligned {
                epoch,
                adopted_end: 0,
            }),
            ..Secondary::default()
        };
        let link = Link {
            life: Some(0),
            counted: Some(0),
            refill_target: 0,
        };
        let role = Role::Serving {
            epoch,
            adopted_end: 0,
            links: [link; SECONDARIES],
        };
        let mut masters = [None; MASTERS_MAX];
        masters[0] = Some(Master { disk, role });
        State {
            masters,
            newest: 0,
            secondaries: [secondary; SECONDARIES],
            late: [None; LATE_MAX],
            crashes: 0,
            wipes: 0,
            damages: 0,
            seen: Seen {
                served: epoch,
                ..Seen::default()
            },
        }
    }

    /// Returns the end before the damage, as a start knows it from its mark, which is not damaged.
    fn end_before_damage(&self, disk: &Disk, left: u8) -> u8 {
        match self.makes(Mistake::DamagedEndForgotten) {
            true => left,
            false => disk.synced,
        }
    }

    fn start_master(&self, master: &mut Master, instance: u8) {
        master.disk.extend_last_whole();
        let epoch = master.disk.promise.epoch + 1;
        master.role = Role::Adopted { epoch };
        self.become_promising(master, instance, epoch);
    }

    fn replace(&self, state: &mut State) {
        let [a, b] = state.secondaries.map(|known| known.disk.promise.epoch);
        let epoch = 1 + a.min(b);
        if epoch > self.bounds.epochs {
            return;
        }
        if !self.bounds.paused {
            state.masters[usize::from(state.newest)] = None;
        }
        state.newest += 1;
        let mut blank = Master {
            disk: Disk::default(),
            role: Role::Adopted { epoch },
        };
        for known in &state.secondaries {
            let Promise {
                holder, replaced, ..
            } = known.disk.promise;
            blank.disk.promise.replaced |= replaced | 1 << holder;
        }
        self.become_promising(&mut blank, state.newest, epoch);
        state.masters[usize::from(state.newest)] = Some(blank);
    }

    fn become_promising(&self, master: &mut Master, instance: u8, epoch: u8) {
        let mut heard = [None; SECONDARIES];
        if self.makes(Mistake::PromisesForLowerEpochsCount)
            && let Role::Promising { heard: before, .. } = master.role
        {
            heard = before;
        }
        (master.disk.promise.epoch, master.disk.promise.holder) = (epoch, instance);
        master.role = Role::Promising { epoch, heard };
    }

    fn question(&self, state: &State, master: u8, secondary: u8, ask: Ask) -> Option<Request> {
        let Master { disk, role } = state.masters[usize::from(master)]?;
        let at = usize::from(secondary);
        let (epoch, body) = match (role, ask) {
            (Role::Promising { epoch, .. }, Ask::Promise) => {
                let log_epoch = disk.log_epoch;
                (epoch, Body::Promise { log_epoch })
            }
            (
                Role::Serving {
                    epoch, adopted_end, ..
                },
                Ask::Hello,
            ) => {
                let log = disk.log;
                (epoch, Body::Hello { log, adopted_end })
            }
            (Role::Serving { epoch, links, .. }, Ask::Heartbeat | Ask::Batch { .. }) => {
                let record = match ask {
                    Ask::Batch { offset } => Some((offset, disk.log.get(offset)?)),
                    _ => None,
                };
                let (life, refill_target) = (links[at].life?, links[at].refill_target);
                let body = Body::Batch {
                    life,
                    refill_target,
                    record,
                };
                (epoch, body)
            }
            _ => return None,
        };
        Some(Request {
            from: master,
            epoch,
            to: secondary,
            older: match self.replacing {
                Replacing::Filed => 0,
                Replacing::Named => disk.promise.replaced,
            },
            body,
        })
    }

    fn exchange(&self, state: &mut State, request: Request, fate: Fate) {
        if let Fate::Late { over } = fate {
            return self.be_late(state, Message::Request(request), over);
        }
        let secondary = &mut state.secondaries[usize::from(request.to)];
        let before = secondary.disk;
        let kind = self.on_request(secondary, request);
        let after = &secondary.disk;
        // Rule 9, judged by the result: an older epoch changes nothing, a promise only grows.
        let stale = request.epoch < before.promise.epoch
            && (after.log != before.log || after.log_epoch != before.log_epoch);
        let newest = state.masters[usize::from(state.newest)];
        let older = newest.map_or(0, |newest| newest.disk.promise.replaced);
        let filed = after.promise.replaced & !before.promise.replaced;
        let newest_filed = filed & (1 << state.newest) != 0 && self.bounds.replacements > 1;
        if newest_filed && older & (1 << request.from) != 0 {
            state.seen.broken = Some(Broken::NewestReplaced);
        }
        if stale || after.promise.epoch < before.promise.epoch {
            state.seen.broken = Some(Broken::Fence);
        }
        let end = match self.makes(Mistake::WrittenEndIsNamed) {
            true => after.log.len(),
            false => after.synced,
        };
        let answer = Answer {
            to: request.from,
            epoch: request.epoch,
            from: request.to,
            life: secondary.life,
            log_epoch: after.log_epoch,
            end,
            kind,
        };
        match fate {
            Fate::Answered => self.on_answer(state, answer),
            Fate::AnswerLate { over } => self.be_late(state, Message::Answer(answer), over),
            Fate::AnswerLost | Fate::Late { .. } => {}
        }
    }

    /// Makes the message late; if there is no space for it, the one at `over` is lost.
    fn be_late(&self, state: &mut State, message: Message, over: u8) {
        // Empty slots sort first.
        let late = &mut state.late[LATE_MAX - usize::from(self.bounds.late)..];
        if late.contains(&Some(message)) {
            return;
        }
        let over = match late[0] {
            None => 0,
            Some(_) => usize::from(over),
        };
        late[over] = Some(message);
        state.late.sort_unstable();
    }

    /// Drops messages that would be refused for their epoch, now and ever after.
    pub(super) fn forget_refused(&self, state: &mut State) {
        let refused = |message: &Message| match message {
            Message::Request(request) => {
                let promised = state.secondaries[usize::from(request.to)]
                    .disk
                    .promise
                    .epoch;
                request.epoch < promised && state.wipes == self.bounds.wipes
            }
            Message::Answer(answer) => state.masters[usize::from(answer.to)]
                .is_none_or(|master| master.disk.promise.epoch > answer.epoch),
        };
        state.late = state
            .late
            .map(|slot| slot.filter(|message| !refused(message)));
        state.late.sort_unstable();
    }

    /// Handles a request at a secondary: link 1 to 4 and the fence.
    fn on_request(&self, secondary: &mut Secondary, request: Request) -> Kind {
        let promise = secondary.disk.promise;
        let refused = Kind::Fenced {
            promised: promise.epoch,
        };
        match request.body {
            Body::Promise { log_epoch } => {
                if !grants(&secondary.disk, request.from, request.epoch, log_epoch) {
                    return refused;
                }
                self.promise(secondary, request);
                Kind::Promised {
                    log: secondary.disk.log,
                    last_whole: secondary.disk.last_whole,
                }
            }
            Body::Hello { log, adopted_end } => {
                let log_epoch = Some(request.epoch);
                if !grants(&secondary.disk, request.from, request.epoch, log_epoch) {
                    return refused;
                }
                if !self.makes(Mistake::HelloIsNoPromise) {
                    self.promise(secondary, request);
                }
                self.align(secondary, request.epoch, &log, adopted_end);
                Kind::Aligned
            }
            Body::Batch {
                life,
                refill_target,
                record,
            } => {
                let fenced = !holds(&promise, request.from, request.epoch)
                    && !self.makes(Mistake::HelloIsNoPromise);
                if fenced && !self.makes(Mistake::LateBatchIsTaken) {
                    return match request.epoch > promise.epoch {
                        true => Kind::HelloFirst,
                        false => refused,
                    };
                }
                if life != secondary.life && !self.makes(Mistake::IncarnationIsIgnored) {
                    return Kind::HelloFirst;
                }
                let aligned = secondary.aligned.map(|aligned| aligned.epoch);
                if aligned != Some(request.epoch) && !self.makes(Mistake::LateBatchIsTaken) {
                    return Kind::HelloFirst;
                }
                if !secondary.disk.is_intact() {
                    secondary.refill_target = Some(refill_target);
                }
                if let Some((offset, record)) = record {
                    let log = &mut secondary.disk.log;
                    match log.get(offset) {
                        Some(held) if held.epoch != record.epoch => return Kind::HelloFirst,
                        None if offset == log.len() => log.push(record),
                        _ => {}
                    }
                }
                self.settle(secondary);
                Kind::Taken
            }
        }
    }

    fn promise(&self, secondary: &mut Secondary, request: Request) {
        // It passes through the same queue as records: everything written before it is durable.
        secondary.disk.sync();
        let promise = &mut secondary.disk.promise;
        if self.makes(Mistake::ReplacedByHelloOnly) {
            promise.met |= 1 << promise.holder | 1 << request.from;
            if matches!(request.body, Body::Hello { .. }) {
                promise.replaced = promise.met & !(1 << request.from);
            }
        }
        if request.epoch <= promise.epoch {
            return;
        }
        let replaced = promise.epoch > 0 && promise.holder != request.from;
        if replaced && !self.makes(Mistake::ReplacedByHelloOnly) {
            promise.replaced |= 1 << promise.holder;
        }
        promise.replaced |= request.older;
        (promise.epoch, promise.holder) = (request.epoch, request.from);
        secondary.aligned = None;
        secondary.refill_target = None;
    }

    fn align(&self, secondary: &mut Secondary, epoch: u8, log: &Log, adopted_end: u8) {
        let disk = &mut secondary.disk;
        disk.sync();
        let again = disk.log_epoch == Some(epoch);
        if !again || self.makes(Mistake::HelloCutsAgain) {
            let mut end = disk.log.agreement(log);
            if self.makes(Mistake::LengthsAreCompared) {
                end = disk.log.len().min(log.len());
            }
            disk.cut(end.min(log.len()));
            secondary.refill_target = None;
        }
        secondary.aligned = Some(Aligned { epoch, adopted_end });
        self.settle(secondary);
    }

    /// Takes the log epoch once the log covers what it must.
    fn settle(&self, secondary: &mut Secondary) {
        let Some(Aligned { epoch, adopted_end }) = secondary.aligned else {
            return;
        };
        let disk = &mut secondary.disk;
        let needed = match (disk.log_epoch, secondary.refill_target) {
            (Some(_), _) if self.makes(Mistake::LogEpochBeforeAdoptedEnd) => Some(0),
            (Some(_), _) => Some(adopted_end),
            (None, _) if self.makes(Mistake::IntactBeforeRefilled) => Some(adopted_end),
            (None, target) => target.map(|target| target.max(adopted_end)),
        };
        if needed.is_some_and(|needed| disk.synced >= needed) {
            disk.take_log_epoch(epoch);
            secondary.refill_target = None;
        }
    }

    fn on_answer(&self, state: &mut State, answer: Answer) {
        let Some(master) = &mut state.masters[usize::from(answer.to)] else {
            return;
        };
        let at = usize::from(answer.from);
        match &mut master.role {
            Role::Promising { epoch, heard } if *epoch == answer.epoch => match answer.kind {
                Kind::Promised { log, last_whole } => {
                    heard[at] = Some(PeerReply {
                        life: answer.life,
                        log_epoch: answer.log_epoch,
                        last_whole,
                        log: log.to(answer.end),
                    });
                }
                Kind::Fenced { promised } if (*epoch..self.bounds.epochs).contains(&promised) => {
                    self.become_promising(master, answer.to, promised + 1);
                }
                _ => {}
            },
            Role::Serving { epoch, links, .. } if *epoch == answer.epoch => {
                let link = &mut links[at];
                match answer.kind {
                    Kind::Aligned => {
                        *link = Link {
                            life: Some(answer.life),
                            counted: link.counted.filter(|_| link.life == Some(answer.life)),
                            refill_target: master.disk.log.len(),
                        };
                    }
                    Kind::Taken if link.life == Some(answer.life) => {}
                    Kind::Taken | Kind::Promised { .. } => return,
                    Kind::HelloFirst | Kind::Fenced { .. } => {
                        *link = Link::default();
                        return;
                    }
                }
                let counts = answer.log_epoch == Some(*epoch)
                    || self.makes(Mistake::EndsCountWithoutLogEpoch);
                if counts {
                    link.counted = link.counted.max(Some(answer.end));
                    self.release(state, answer.to);
                }
            }
            _ => {}
        }
    }

    /// Decides which log to adopt: master start 2 and 3.
    fn decide(&self, state: &mut State, instance: u8, first: u8) {
        let master = known(state, instance);
        let Role::Promising { epoch, heard } = master.role else {
            return;
        };
        let Disk { log, log_epoch, .. } = master.disk;
        let all_count = log_epoch.is_some() || self.makes(Mistake::WipedPromisesCount);
        let promises = heard
            .iter()
            .flatten()
            .filter(|heard| all_count || heard.log_epoch.is_some())
            .count()
            + usize::from(all_count);
        // It is also enough that a majority held no more than the best intact log, damaged nodes counted by
        // what they had.
        let logs = heard.iter().flatten();
        let logs = logs.map(|heard| (heard.log_epoch, heard.last_whole, heard.log));
        let logs = logs.chain([(log_epoch, master.disk.last_whole, log)]);
        let intact = logs.clone().filter(|(log_epoch, ..)| log_epoch.is_some());
        let best = intact.filter_map(|(epoch, whole, log)| held(epoch, whole, &log));
        let best = best.max();
        let covered = logs.filter(|(epoch, whole, log)| {
            let held = held(*epoch, *whole, log);
            held.is_some() && held <= best
        });
        let needed = majority(SECONDARIES as u32 + 1) as usize;
        if promises.max(covered.count()) < needed {
            return;
        }
        let order = |log_epoch: Option<u8>, log: &Log| {
            let by_record = self.makes(Mistake::AdoptedByRecordEpoch);
            let last = log.records().last().map_or(0, |record| record.epoch);
            let newest = log_epoch.map(|log_epoch| if by_record { last } else { log_epoch });
            (newest, log.len())
        };
        let mut best = (order(log_epoch, &log), None);
        for source in [first, first ^ 1] {
            if let Some(heard) = &heard[usize::from(source)]
                && heard.log_epoch.is_some()
                && order(heard.log_epoch, &heard.log) > best.0
            {
                best = (order(heard.log_epoch, &heard.log), Some((source, *heard)));
            }
        }
        let Some((source, found)) = best.1 else {
            master.role = Role::Adopted { epoch };
            return;
        };
        if log_epoch.is_none() {
            master.disk.cut(log.agreement(&found.log));
        } else if log_epoch != found.log_epoch || !found.log.begins_with(&log) {
            state.seen.broken = Some(Broken::MasterCut);
            return;
        }
        master.role = Role::Adopting {
            epoch,
            source,
            life: found.life,
            end: found.log.len(),
        };
    }

    /// Fetches a record (master start 3): a fetch is fenced, and bound to the incarnation that promised.
    fn fetch(&self, state: &mut State, instance: u8) {
        let secondaries = state.secondaries;
        let master = known(state, instance);
        let Role::Adopting {
            epoch,
            source,
            life,
            end,
        } = master.role
        else {
            return;
        };
        let source = &secondaries[usize::from(source)];
        let own = &mut master.disk;
        if own.log.len() >= end {
            master.role = Role::Adopted { epoch };
            return;
        }
        let refused = source.life != life || !holds(&source.disk.promise, instance, epoch);
        match source.disk.log.get(own.log.len()) {
            Some(record) if !refused => {
                own.log.push(record);
                own.sync();
                if own.log.len() == end {
                    master.role = Role::Adopted { epoch };
                }
            }
            _ if epoch < self.bounds.epochs => self.become_promising(master, instance, epoch + 1),
            _ => {}
        }
    }

    /// Saves the log epoch and serves: master start 4.
    fn become_leader(&self, state: &mut State, instance: u8) {
        let master = known(state, instance);
        let early = self.makes(Mistake::HelloBeforeLogEpoch);
        match master.role {
            Role::Adopted { epoch } => {
                let adopted_end = master.disk.log.len();
                if !early {
                    master.disk.take_log_epoch(epoch);
                }
                let mut links = [Link::default(); SECONDARIES];
                if self.makes(Mistake::EndsCountBeforeAlignment) {
                    let ends = state.secondaries.map(|other| other.disk.synced);
                    for (link, end) in links.iter_mut().zip(ends) {
                        link.counted = Some(end);
                    }
                }
                let master = known(state, instance);
                master.role = Role::Serving {
                    epoch,
                    adopted_end,
                    links,
                };
                state.seen.adopted[usize::from(epoch)] = adopted_end;
                state.seen.served = state.seen.served.max(epoch);
                self.release(state, instance);
            }
            Role::Serving { epoch, .. } => master.disk.take_log_epoch(epoch),
            _ => {}
        }
    }

    /// Releases the appends that the counted ends allow (link 5), and checks them against the contents of the
    /// disks.
    fn release(&self, state: &mut State, instance: u8) {
        let Master { disk, role } = *known(state, instance);
        let Role::Serving { epoch, links, .. } = role else {
            return;
        };
        if links.iter().all(|link| link.counted.is_none()) {
            return;
        }
        let offset = |end: u8| Offset(u64::from(end));
        let own_end = match self.makes(Mistake::MasterIsNoPartOfAcks) {
            true => disk.log.len(),
            false => disk.synced,
        };
        let mut acks = Acks::new(offset(own_end), SECONDARIES);
        let mut waiters = (0..).map(WaiterId);
        for (index, link) in links.iter().enumerate() {
            acks.on_end(index, link.counted.map(offset));
        }
        for concern in 2..=SECONDARIES as u32 + 1 {
            for end in 0..disk.log.len() {
                let id = waiters.next().expect("there is always another");
                acks.wait(concern, offset(end), None, id, (concern, end));
            }
        }
        for released in acks.release() {
            let (concern, offset) = released.waiter;
            let record = disk.log.get(offset);
            let holds = |log: Log| log.get(offset) == record;
            let secondaries = state.secondaries.iter();
            let holders = secondaries
                .filter(|other| holds(other.disk.held()) || holds(other.wiped))
                .count()
                + usize::from(holds(disk.held()));
            if holders < concern as usize {
                state.seen.broken.get_or_insert(Broken::Concern);
            }
            let acknowledged = &mut state.seen.acknowledged;
            match acknowledged.get(offset) {
                Some(before) if Some(before) != record => {
                    state.seen.broken.get_or_insert(Broken::Order);
                }
                None if offset == acknowledged.len() => {
                    acknowledged.push(record.expect("it lies below the end"));
                }
                _ => {}
            }
        }
        if let Some(Offset(end)) = acks.committed() {
            let committed = &mut state.seen.committed[usize::from(epoch)];
            *committed = (*committed).max(end as u8);
        }
    }
}

fn known(state: &mut State, instance: u8) -> &mut Master {
    state.masters[usize::from(instance)]
        .as_mut()
        .expect("steps are of masters that exist")
}

/// Reports whether a promise is granted: `fence::check_promise` on small values.
pub(super) fn grants(disk: &Disk, from: u8, epoch: u8, log_epoch: Option<u8>) -> bool {
    let promise = &disk.promise;
    if promise.epoch == 0 {
        return true;
    }
    if promise.replaced & (1 << from) != 0 {
        return false;
    }
    let again = (epoch, from) == (promise.epoch, promise.holder);
    let own = disk.known().map(|(log_epoch, _)| log_epoch);
    let out_of_date = matches!((own, log_epoch), (Some(own), Some(theirs)) if theirs < own);
    (epoch > promise.epoch || again) && !out_of_date
}

/// Reports whether a sender speaks for the promised epoch: `fence::check_epoch` on small values.
pub(super) fn holds(promise: &Promise, from: u8, epoch: u8) -> bool {
    let replaced = promise.replaced & (1 << from) != 0;
    promise.epoch > 0 && !replaced && (promise.epoch, promise.holder) == (epoch, from)
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |secondary: u8| ["a", "b"][usize::from(secondary)];
        match *self {
            Action::Append { master } => write!(f, "m{master} appends a record"),
            Action::SyncMaster { master } => write!(f, "m{master} syncs"),
            Action::SyncSecondary { secondary } => write!(f, "{} syncs", name(secondary)),
            Action::Restart { master, spares } => {
                write!(f, "m{master} loses power, keeps {spares} records, starts")
            }
            Action::Replace => f.write_str("an empty directory takes the master's place"),
            Action::Crash { secondary, spares } => {
                let name = name(secondary);
                write!(f, "{name} loses power, keeps {spares} records, starts")
            }
            Action::Wipe { secondary } => write!(f, "{} is wiped, starts", name(secondary)),
            Action::Damage { secondary, left } => {
                write!(f, "{} is damaged from {left} on, starts", name(secondary))
            }
            Action::DamageMaster { master, left } => {
                write!(f, "m{master} is damaged from {left} on, starts")
            }
            Action::Send {
                master,
                secondary,
                ask,
                fate,
            } => {
                let name = name(secondary);
                match ask {
                    Ask::Promise => write!(f, "m{master} asks {name} for a promise")?,
                    Ask::Hello => write!(f, "m{master} says hello to {name}")?,
                    Ask::Heartbeat => write!(f, "m{master} sends {name} a heartbeat")?,
                    Ask::Batch { offset } => {
                        write!(f, "m{master} sends {name} the record at {offset}")?;
                    }
                }
                write!(f, ": {fate}")
            }
            Action::Deliver { index, fate } => write!(f, "late message {index} arrives: {fate}"),
            Action::Decide { master, .. } => write!(f, "m{master} decides which log to adopt"),
            Action::Fetch { master } => write!(f, "m{master} fetches a record"),
            Action::BecomeLeader { master } => write!(f, "m{master} saves its log epoch"),
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fate::Late { .. } => "it is late",
            Fate::AnswerLost => "the answer is lost",
            Fate::AnswerLate { .. } => "the answer is late",
            Fate::Answered => "answered",
        })
    }
}

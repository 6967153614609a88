//! One run: a cluster is founded, suffers faults, heals, and must converge.

use std::time::Duration;

use super::{
    disk::Disk,
    master::{Master, Sent, config},
    node::Node,
    world::{Event, MS, Micros, Planted, Process, SECOND, Weather, World},
};
use crate::{
    log::Meta,
    types::{Concern, InstanceId, NodeName},
};

/// Maximum time to be in order again after the last fault.
const HEALING: Micros = 40 * SECOND;

pub(super) struct Simulation {
    world: World,
    nodes: Vec<Node>,
    masters: Vec<Master>,
    faults_until: Micros,
    /// True if the master is to lose its disk as soon as it may.
    replacing: bool,
    /// True if disks run full in this run: in one of four, so that the others stay as they were.
    full_disks: bool,
    next_id: u64,
    /// Messages with a key, the oldest first.
    keyed: Vec<Sent>,
    outcome: Outcome,
}

/// Counts of what happened: a run in which nothing happens proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub(super) events: u64,
    pub(super) acks_at_majority: u64,
    pub(super) cuts: u64,
    pub(super) wipes: u64,
    pub(super) replaced: u64,
    pub(super) crashes: u64,
    pub(super) filled: u64,
}

impl Outcome {
    pub(super) fn add(&mut self, other: Outcome) {
        self.events += other.events;
        self.acks_at_majority += other.acks_at_majority;
        self.cuts += other.cuts;
        self.wipes += other.wipes;
        self.replaced += other.replaced;
        self.crashes += other.crashes;
        self.filled += other.filled;
    }
}

impl Simulation {
    pub(super) fn new(seed: u64, planted: Option<Planted>, only_outcomes: bool) -> Simulation {
        let count = if seed % 3 == 2 { 5 } else { 3 };
        let mut world = World::new(seed, count, planted);
        world.oracle.only_outcomes = only_outcomes;
        let mut config = config(count);
        if world.knobs.keyed {
            config.key_horizon = [4, 50, 1_000_000][world.below(3) as usize];
        }
        for peer in &config.secondaries {
            let disk = Disk::new(blank(&mut world, &peer.name));
            world.disks.push(disk);
        }
        let disk = Disk::new(blank(&mut world, &config.name));
        world.disks.push(disk);
        let faults_until = (8 + world.below(20)) * SECOND;
        Simulation {
            world,
            nodes: (0..count - 1).map(Node::new).collect(),
            masters: vec![Master::new(0, config)],
            faults_until,
            replacing: false,
            full_disks: seed % 4 == 2,
            next_id: 0,
            keyed: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    pub(super) fn run(mut self) -> Result<Outcome, String> {
        let late = if self.world.chance(0.3) {
            8 * SECOND
        } else {
            200 * MS
        };
        for node in 0..self.nodes.len() {
            let delay = self.world.below(late);
            self.world.after(delay, Event::Start(Process::Node(node)));
        }
        self.world.after(0, Event::Start(Process::Master(0)));
        self.world.after(0, Event::ClientDue);
        self.world.after(SECOND / 2, Event::FaultDue);
        if self.full_disks {
            self.world.after(SECOND, Event::FillDue);
        }
        self.run_until(self.faults_until)?;
        self.heal();
        self.converge()?;
        self.answer_all_keyed()?;
        self.append_at_all()?;
        self.check_once()?;
        self.outcome.acks_at_majority = self.world.oracle.acks_at_majority;
        self.outcome.cuts = self.world.oracle.cuts;
        Ok(self.outcome)
    }

    fn run_until(&mut self, until: Micros) -> Result<(), String> {
        while self.world.now < until {
            let Some(event) = self.world.next() else {
                return Err("nothing happens any more".to_owned());
            };
            self.outcome.events += 1;
            self.dispatch(event);
            if let Some(violation) = self.world.oracle.violation.take() {
                return Err(format!("{violation} (at {} ms)", self.world.now / MS));
            }
        }
        Ok(())
    }

    /// Returns the process that an event belongs to, and the run of it.
    fn owner(event: &Event) -> Option<(Process, Option<u64>)> {
        Some(match event {
            Event::Request { node, .. } => (Process::Node(*node), None),
            Event::Answer { call, .. }
            | Event::TimedOut { call }
            | Event::BatchRead { call, .. } => (Process::Master(call.master), Some(call.life)),
            Event::WriterDue { process, life } | Event::Reported { process, life, .. } => {
                (*process, Some(*life))
            }
            Event::NodeTimerDue { node, life } => (Process::Node(*node), Some(*life)),
            Event::TimerDue { master, life } | Event::KeysRead { master, life } => {
                (Process::Master(*master), Some(*life))
            }
            Event::FetchRead { node, life, .. } | Event::StartsRead { node, life, .. } => {
                (Process::Node(*node), Some(*life))
            }
            Event::Start(_)
            | Event::ClientDue
            | Event::FaultDue
            | Event::LinkHealed(..)
            | Event::FillDue
            | Event::SpaceFreed(_)
            | Event::ZombieGone(_)
            | Event::AlternateDue(_) => return None,
        })
    }

    fn dispatch(&mut self, event: Event) {
        if let Some((process, life)) = Self::owner(&event) {
            let (current, paused_until) = match process {
                Process::Node(node) => (self.nodes[node].life, self.nodes[node].paused_until),
                Process::Master(m) => (self.masters[m].life, self.masters[m].paused_until),
            };
            if life.is_some_and(|life| life != current) {
                return;
            }
            // Queued after everything that is due by then: a process receives its events in order.
            if paused_until > 0 && paused_until >= self.world.now {
                self.world.at(paused_until + 1, event);
                return;
            }
        }
        let world = &mut self.world;
        match event {
            Event::Request {
                node,
                call,
                request,
            } => self.nodes[node].on_request(world, call, request),
            Event::Answer { call, result } => {
                self.masters[call.master].on_answer(world, call, result);
            }
            Event::TimedOut { call } => self.masters[call.master].on_timed_out(world, call),
            Event::WriterDue { process, life } => world.run_writer(process, life),
            Event::Reported {
                process, report, ..
            } => match process {
                Process::Node(node) => self.nodes[node].on_report(world, report),
                Process::Master(master) => self.masters[master].on_report(world, report),
            },
            Event::NodeTimerDue { node, .. } => self.nodes[node].on_timer(world),
            Event::TimerDue { master, .. } => self.masters[master].on_timer(world),
            Event::KeysRead { master, .. } => self.masters[master].on_keys_read(world),
            Event::BatchRead {
                call,
                epoch,
                from,
                until,
                progress,
            } => {
                let range = (from, until);
                self.masters[call.master].on_batch_read(world, call, epoch, range, progress);
            }
            Event::FetchRead {
                node,
                request,
                fetch,
                response,
                ..
            } => self.nodes[node].on_fetch_read(world, request, fetch, *response),
            Event::StartsRead {
                node,
                serial,
                hello,
                ..
            } => self.nodes[node].on_starts_read(world, serial, hello),
            Event::Start(Process::Node(node)) => self.nodes[node].start(world),
            Event::Start(Process::Master(master)) => self.masters[master].start(world),
            Event::ClientDue => self.append_some(),
            Event::FaultDue => self.inject_fault(),
            Event::LinkHealed(from, to) => {
                world.blocked.remove(&(from, to));
            }
            Event::FillDue => self.fill_a_disk(),
            Event::SpaceFreed(disk) => world.disks[disk].disk_space = None,
            Event::ZombieGone(master) => self.remove_master(master),
            Event::AlternateDue(node) => {
                if self.world.now < self.faults_until {
                    self.alternate(node);
                }
            }
        }
    }

    fn current(&self) -> usize {
        self.masters.len() - 1
    }

    fn append_some(&mut self) {
        if self.world.now >= self.faults_until {
            return;
        }
        let to = if self.world.chance(0.2) {
            self.world.below(self.masters.len() as u64) as usize
        } else {
            self.current()
        };
        let count = 1 + self.world.below(4);
        let mut appends: Vec<Sent> = (0..count).map(|_| self.draw_append()).collect();
        if self.world.knobs.keyed {
            self.use_keys(&mut appends);
        }
        if self.masters[to].paused_until <= self.world.now {
            self.masters[to].append(&mut self.world, appends);
        }
        let pause = self
            .world
            .below([5 * MS, 100 * MS, SECOND][self.next_id as usize % 3]);
        self.world.after(pause + MS, Event::ClientDue);
    }

    /// Gives most of these messages a key, and resends earlier ones: mostly those that were not answered,
    /// sometimes others, even twice at once.
    fn use_keys(&mut self, appends: &mut Vec<Sent>) {
        for sent in appends.iter_mut() {
            sent.keyed = self.world.chance(0.7);
        }
        let new: Vec<Sent> = appends.iter().copied().filter(|sent| sent.keyed).collect();
        let unanswered: Vec<Sent> = self.unanswered();
        for _ in 0..self.world.below(5) {
            let among = match self.world.below(8) {
                0 => &self.keyed,
                1 => &new,
                _ => &unanswered,
            };
            if !among.is_empty() {
                let at = self.world.below(among.len() as u64) as usize;
                appends.push(among[at]);
            }
        }
        self.keyed.extend(new);
    }

    fn unanswered(&self) -> Vec<Sent> {
        let answered = &self.world.answered;
        let unanswered = self
            .keyed
            .iter()
            .filter(|sent| !answered.contains(&sent.id));
        unanswered.copied().collect()
    }

    /// Checks, once all is in order, that every unanswered message with a key gets an answer.
    fn answer_all_keyed(&mut self) -> Result<(), String> {
        let current = self.current();
        let unanswered = self.unanswered();
        self.masters[current].append(&mut self.world, unanswered);
        let deadline = self.world.now + HEALING;
        while let Some(left) = self.unanswered().first() {
            if self.world.now > deadline {
                return Err(format!("{left:?} is never answered"));
            }
            self.run_until(self.world.now + 250 * MS)?;
        }
        Ok(())
    }

    fn check_once(&mut self) -> Result<(), String> {
        let master = &self.masters[self.current()];
        let horizon = master.config.key_horizon;
        for disk in self.world.disks.clone() {
            self.world.oracle.check_once(&disk, horizon);
        }
        self.world.oracle.violation.take().map_or(Ok(()), Err)
    }

    fn draw_append(&mut self) -> Sent {
        self.next_id += 1;
        let concern = match self.world.below(5) {
            0 => Concern::Count(1),
            1 => Concern::All,
            2 => Concern::Count(1 + self.world.below(self.world.knobs.nodes as u64)),
            _ => Concern::Majority,
        };
        let timeout = match self.world.below(4) {
            0 => Some(Duration::ZERO),
            1 => Some(Duration::from_micros(self.world.below(2 * SECOND))),
            _ => None,
        };
        Sent {
            id: self.next_id,
            concern,
            timeout,
            keyed: false,
        }
    }

    fn inject_fault(&mut self) {
        if self.world.now >= self.faults_until {
            return;
        }
        if self.replacing && self.may_lose_a_disk() {
            self.replacing = false;
            self.replace_master();
        }
        let longest = [200 * MS, SECOND, 5 * SECOND][self.world.below(3) as usize];
        let longest = if self.replacing { 20 * MS } else { longest };
        let pause = 20 * MS + self.world.below(longest);
        self.world.after(pause, Event::FaultDue);
        if self.replacing && self.world.chance(0.95) {
            return;
        }
        let node = self.world.below(self.nodes.len() as u64) as usize;
        let master = self.current();
        match self.world.below(25) {
            0..=3 => self.crash(Process::Node(node)),
            4..=6 => self.crash(Process::Master(master)),
            7 => self.crash_everything(),
            8 => self.pause(Process::Node(node)),
            9 => self.pause(Process::Master(master)),
            10..=12 => self.block(Process::Master(master), Process::Node(node)),
            13 => self.isolate(Process::Node(node)),
            14..=15 => {
                let disks = self.world.disks.len();
                self.world.weather = Weather::draw(&mut self.world.rng, disks);
            }
            16..=17 => self.wipe(node),
            18..=19 => self.alternate(node),
            22..=23 => self.run_ahead(node),
            20..=21 => self.lose_one_after_the_other(node),
            _ => self.replace_master(),
        }
    }

    fn draw_absence(&mut self) -> Micros {
        let limit = [50 * MS, SECOND, 6 * SECOND][self.world.below(3) as usize];
        1 + self.world.below(limit)
    }

    fn crash(&mut self, process: Process) {
        self.outcome.crashes += 1;
        match process {
            Process::Node(node) => self.nodes[node].crash(&mut self.world),
            Process::Master(master) => self.masters[master].crash(&mut self.world),
        }
        let absence = self.draw_absence();
        self.world.after(absence, Event::Start(process));
    }

    fn crash_everything(&mut self) {
        self.crash(Process::Master(self.current()));
        for node in 0..self.nodes.len() {
            self.crash(Process::Node(node));
        }
    }

    fn pause(&mut self, process: Process) {
        let until = self.world.now + self.draw_absence();
        self.world
            .note(|| format!("{process:?} pauses until {} ms", until / MS));
        let paused_until = match process {
            Process::Node(node) => &mut self.nodes[node].paused_until,
            Process::Master(master) => &mut self.masters[master].paused_until,
        };
        // Never earlier: events that were postponed until then would be overtaken.
        *paused_until = until.max(*paused_until);
    }

    fn block(&mut self, one: Process, other: Process) {
        let absence = self.draw_absence();
        let ways = match self.world.below(3) {
            0 => vec![(one, other)],
            1 => vec![(other, one)],
            _ => vec![(one, other), (other, one)],
        };
        for (from, to) in ways {
            self.world.note(|| format!("{from:?} cannot reach {to:?}"));
            self.world.blocked.insert((from, to));
            self.world.after(absence, Event::LinkHealed(from, to));
        }
    }

    fn isolate(&mut self, process: Process) {
        for master in 0..self.masters.len() {
            self.block(Process::Master(master), process);
        }
    }

    /// Lets a disk take a few more writes, and then none until space is freed: the master's as often as any
    /// secondary's.
    fn fill_a_disk(&mut self) {
        if self.world.now >= self.faults_until {
            return;
        }
        let process = match self.world.chance(0.5) {
            true => Process::Master(self.current()),
            false => Process::Node(self.world.below(self.nodes.len() as u64) as usize),
        };
        self.outcome.filled += 1;
        self.world
            .note(|| format!("the disk of {process:?} runs full"));
        let disk = self.world.disk_of(process);
        self.world.disks[disk].disk_space = Some(self.world.below(8) as usize);
        let absence = self.draw_absence();
        self.world.after(absence, Event::SpaceFreed(disk));
        let pause = 100 * MS + self.world.below(3 * SECOND);
        self.world.after(pause, Event::FillDue);
    }

    /// Restarts the master, with one node missing in the next round of promises: records of the last epoch that
    /// only that node has must give way when it is back.
    fn alternate(&mut self, without: usize) {
        let master = Process::Master(self.current());
        // Longer than a recovery waits for all nodes.
        let absence = 4 * SECOND + self.world.below(3 * SECOND);
        let there = (master, Process::Node(without));
        self.world.blocked.insert(there);
        self.world
            .after(absence, Event::LinkHealed(there.0, there.1));
        self.world.weather.slow_disk = None;
        self.outcome.crashes += 1;
        let current = self.current();
        self.masters[current].crash(&mut self.world);
        let absence = self.world.below(20 * MS);
        self.world.after(absence, Event::Start(master));
    }

    /// Gives one node records that the master has not synced and no other node gets; then the master restarts
    /// without that node.
    fn run_ahead(&mut self, node: usize) {
        let master = Process::Master(self.current());
        self.world.weather = Weather::fair();
        self.world.weather.slow_disk = Some(self.world.disk_of(master));
        let soon = SECOND + self.world.below(3 * SECOND);
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let there = (master, Process::Node(other));
            self.world.blocked.insert(there);
            self.world.after(soon, Event::LinkHealed(there.0, there.1));
        }
        self.world.after(soon, Event::AlternateDue(node));
    }

    /// Reports whether a disk may be lost without exceeding what is promised: every node has joined and is
    /// intact, and a master that was replaced is gone.
    fn may_lose_a_disk(&self) -> bool {
        let zombies = self.masters[..self.current()].iter().any(|m| !m.gone);
        let intact = |process| self.world.disk(process).meta.log_epoch.is_some();
        !zombies
            && intact(Process::Master(self.current()))
            && (0..self.nodes.len()).all(|node| intact(Process::Node(node)))
    }

    fn wipe(&mut self, node: usize) {
        if !self.may_lose_a_disk() {
            return;
        }
        self.outcome.wipes += 1;
        self.world.note(|| format!("s{} loses its disk", node + 1));
        self.nodes[node].crash(&mut self.world);
        let old = self.world.disks[node].clone();
        self.world.oracle.on_disk_lost(&old, false);
        self.world.oracle.on_wiped(node);
        let mut meta = blank(&mut self.world, &old.meta.name);
        if self.world.planted(Planted::WipedLogEpochKept) {
            meta = old.meta.clone();
        }
        self.world.disks[node] = Disk::new(meta);
        let absence = self.draw_absence();
        self.world.after(absence, Event::Start(Process::Node(node)));
    }

    /// Lets another node fall behind and this one lose its disk, and once this one is intact again, the master:
    /// records that only the master and this node had must be back on it by then.
    fn lose_one_after_the_other(&mut self, node: usize) {
        let other = (node + 1) % self.nodes.len();
        self.block(Process::Master(self.current()), Process::Node(other));
        self.wipe(node);
        self.replacing = true;
    }

    /// Gives the master a new directory. The old one is gone, or its process runs on for a while.
    fn replace_master(&mut self) {
        if !self.may_lose_a_disk() || self.masters.len() >= 4 {
            return;
        }
        self.outcome.replaced += 1;
        let old = self.current();
        self.world.note(|| format!("m{old} is replaced"));
        self.masters[old].current = false;
        let how = self.world.below(3);
        match how {
            // A node that never knew the old one would let it in again after the new one, and shut out the new
            // one for ever: a known gap, see the ignored test of the replica.
            _ if !self.all_know(old) => self.remove_master(old),
            0 => self.remove_master(old),
            1 => {
                self.crash(Process::Master(old));
                let absence = self.world.below(4 * SECOND);
                self.world.after(absence, Event::ZombieGone(old));
            }
            _ => {
                self.pause(Process::Master(old));
                let absence = self.world.below(9 * SECOND);
                self.world.after(absence, Event::ZombieGone(old));
            }
        }
        let disk = self.world.disk(Process::Master(old)).clone();
        self.world.oracle.on_disk_lost(&disk, true);
        let config = self.masters[old].config.clone();
        let disk = Disk::new(blank(&mut self.world, &config.name));
        self.world.disks.push(disk);
        let new = self.masters.len();
        self.masters.push(Master::new(new, config));
        let absence = self.draw_absence();
        self.world
            .after(absence, Event::Start(Process::Master(new)));
    }

    /// Reports whether every node has promised this instance of the master.
    fn all_know(&self, master: usize) -> bool {
        let instance = self.world.disk(Process::Master(master)).meta.instance;
        let knows = |node| {
            let promised = &self.world.disk(Process::Node(node)).meta.promised;
            promised
                .as_ref()
                .is_some_and(|promised| promised.instance == instance)
        };
        (0..self.nodes.len()).all(knows)
    }

    fn remove_master(&mut self, master: usize) {
        self.masters[master].crash(&mut self.world);
        self.masters[master].gone = true;
    }

    fn heal(&mut self) {
        self.world.note(|| "everything heals".to_owned());
        self.world.weather = Weather::fair();
        self.world.blocked.clear();
        for disk in &mut self.world.disks {
            disk.disk_space = None;
        }
        for node in &mut self.nodes {
            node.start(&mut self.world);
        }
        let current = self.current();
        for master in 0..current {
            self.remove_master(master);
        }
        let master = &mut self.masters[current];
        master.start(&mut self.world);
    }

    fn converge(&mut self) -> Result<(), String> {
        // Wait first for paused processes to come back: until then all may look well without them.
        let nodes = self.nodes.iter().map(|node| node.paused_until);
        let masters = self.masters.iter().map(|master| master.paused_until);
        let last = nodes.chain(masters).max().unwrap_or(0);
        self.run_until(last)?;
        let deadline = self.world.now + HEALING;
        let current = self.current();
        let mut restarted = 0;
        loop {
            self.run_until(self.world.now + 250 * MS)?;
            let master = &mut self.masters[current];
            if master.run.as_ref().is_some_and(|run| run.fenced.is_some()) && restarted < 2 {
                // A promise that a lost directory collected shuts the new one out until that asks for a higher
                // one.
                restarted += 1;
                master.crash(&mut self.world);
                master.start(&mut self.world);
            }
            let Some(why) = self.masters[current].unsettled(&self.world) else {
                break;
            };
            if self.world.now > deadline {
                return Err(format!("does not converge: {why}"));
            }
        }
        for node in 0..self.nodes.len() {
            let disk = self.world.disks[node].clone();
            self.world.oracle.check_acked(&disk);
        }
        let disk = self.world.disk(Process::Master(current)).clone();
        self.world.oracle.check_acked(&disk);
        match self.world.oracle.violation.take() {
            Some(violation) => Err(format!("{violation} (after healing)")),
            None => Ok(()),
        }
    }

    /// Checks, once all is in order, that every node takes a record at once.
    fn append_at_all(&mut self) -> Result<(), String> {
        self.next_id += 1;
        let current = self.current();
        let append = Sent {
            id: self.next_id,
            concern: Concern::All,
            timeout: None,
            keyed: false,
        };
        self.masters[current].append(&mut self.world, vec![append]);
        self.run_until(self.world.now + SECOND)?;
        match self.masters[current].unsettled(&self.world) {
            Some(why) => Err(format!("an append at all is not answered: {why}")),
            None => Ok(()),
        }
    }
}

/// Returns the meta of a new directory.
fn blank(world: &mut World, name: &NodeName) -> Meta {
    Meta {
        last_whole: None,
        name: name.clone(),
        instance: InstanceId::draw(&mut world.rng),
        start: 0,
        cluster: None,
        promised: None,
        log_epoch: None,
        forced_epoch: None,
    }
}

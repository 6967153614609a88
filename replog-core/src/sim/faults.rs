//! The faults of a run: their kinds, their rates, and the time of the next one.

use super::{
    disk::Spared,
    world::{Event, Machine, MachineId, Part, World},
};

/// Rates and probabilities of faults. Rates are per simulated minute over the whole cluster,
/// probabilities are per occasion.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Faults {
    /// Probability that a packet is lost.
    pub loss: f64,
    /// Probability that a request arrives twice, the second time up to five seconds later.
    pub duplicate: f64,
    /// Probability that a packet is late, up to 200 times the longest delay.
    pub late: f64,
    /// Shortest and longest delay of a packet, in microseconds.
    pub delay_us: (u64, u64),
    /// Processes that are killed.
    pub kills: f64,
    /// Machines that lose power: unsynced data is lost or torn.
    pub power_cuts: f64,
    /// Power cuts of all machines at once.
    pub blackouts: f64,
    /// Connections that are cut: between two machines, or around one; both ways or one way.
    pub partitions: f64,
    /// Machines that freeze for a while, as after SIGSTOP.
    pub pauses: f64,
    /// Disks that become ten to a hundred times slower for a while.
    pub slow_disks: f64,
    /// Probability that a sync fails.
    pub failed_sync: f64,
    /// Disks that are full for a while.
    pub full_disks: f64,
    /// Disks that are lost for good, as far as the promise allows.
    pub wipes: f64,
    /// Bits that flip in synced data, as far as the promise allows.
    pub flipped_bits: f64,
    /// Wall clocks that jump by up to ten years.
    pub clock_jumps: f64,
    /// Probability of trouble just after a step that others will rely on: after a write of the
    /// master and before its sync, after a promise, a log epoch, a cut.
    pub ambushes: f64,
    /// Nodes that are replaced by their standby while they are frozen, cut off or down, and that
    /// come back unaware of it.
    pub replacements: f64,
}

impl Faults {
    /// Returns no faults at all: a network with delays, and nothing else.
    #[must_use]
    pub fn none() -> Faults {
        Faults {
            loss: 0.0,
            duplicate: 0.0,
            late: 0.0,
            delay_us: (200, 3_000),
            kills: 0.0,
            power_cuts: 0.0,
            blackouts: 0.0,
            partitions: 0.0,
            pauses: 0.0,
            slow_disks: 0.0,
            failed_sync: 0.0,
            full_disks: 0.0,
            wipes: 0.0,
            flipped_bits: 0.0,
            clock_jumps: 0.0,
            ambushes: 0.0,
            replacements: 0.0,
        }
    }

    /// Returns all faults, often.
    #[must_use]
    pub fn all() -> Faults {
        Faults {
            loss: 0.02,
            duplicate: 0.02,
            late: 0.02,
            delay_us: (200, 10_000),
            kills: 6.0,
            power_cuts: 6.0,
            blackouts: 1.0,
            partitions: 8.0,
            pauses: 4.0,
            slow_disks: 2.0,
            failed_sync: 0.0005,
            full_disks: 1.0,
            wipes: 3.0,
            flipped_bits: 2.0,
            clock_jumps: 2.0,
            ambushes: 0.03,
            replacements: 1.0,
        }
    }

    /// Draws a mix from `seed`: each fault is present or not, so that none hides another (Groce et
    /// al., Swarm Testing, ISSTA 2012).
    #[must_use]
    pub fn drawn(seed: u64) -> Faults {
        use rand::{RngExt as _, SeedableRng as _};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed ^ 0x5eed_fa17);
        let all = Faults::all();
        let mut draw = |rate: f64| match rng.random_range(0..4) {
            0 => 0.0,
            1 => rate * 3.0,
            _ => rate,
        };
        Faults {
            loss: draw(all.loss),
            duplicate: draw(all.duplicate),
            late: draw(all.late),
            delay_us: (200, if draw(1.0) > 1.0 { 100_000 } else { 10_000 }),
            kills: draw(all.kills),
            power_cuts: draw(all.power_cuts),
            blackouts: draw(all.blackouts),
            partitions: draw(all.partitions),
            pauses: draw(all.pauses),
            slow_disks: draw(all.slow_disks),
            failed_sync: draw(all.failed_sync),
            full_disks: draw(all.full_disks),
            wipes: draw(all.wipes),
            flipped_bits: draw(all.flipped_bits),
            clock_jumps: draw(all.clock_jumps),
            ambushes: draw(all.ambushes),
            replacements: draw(all.replacements),
        }
    }
}

/// A kind of fault that occurs by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Kill,
    PowerCut,
    Blackout,
    Partition,
    Pause,
    SlowDisk,
    FullDisk,
    Wipe,
    FlippedBit,
    ClockJump,
    Replacement,
}

/// A consequence of an earlier event: the end of a fault, or planned trouble.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sequel {
    Ambush(MachineId),
    Plug(MachineId),
    Orphan { master: MachineId, only: MachineId },
    Retire { old: MachineId, new: MachineId },
    MendWay(MachineId, MachineId),
    Resume(MachineId),
    FastAgain(MachineId),
    SpaceAgain(MachineId),
}

/// All kinds.
const KINDS: [Fault; 11] = [
    Fault::Kill,
    Fault::PowerCut,
    Fault::Blackout,
    Fault::Partition,
    Fault::Pause,
    Fault::SlowDisk,
    Fault::FullDisk,
    Fault::Wipe,
    Fault::FlippedBit,
    Fault::ClockJump,
    Fault::Replacement,
];

impl Faults {
    fn per_minute(&self, kind: Fault) -> f64 {
        match kind {
            Fault::Kill => self.kills,
            Fault::PowerCut => self.power_cuts,
            Fault::Blackout => self.blackouts,
            Fault::Partition => self.partitions,
            Fault::Pause => self.pauses,
            Fault::SlowDisk => self.slow_disks,
            Fault::FullDisk => self.full_disks,
            Fault::Wipe => self.wipes,
            Fault::FlippedBit => self.flipped_bits,
            Fault::ClockJump => self.clock_jumps,
            Fault::Replacement => self.replacements,
        }
    }
}

/// The end of a machine's process, as the scheduler carries it out.
pub(crate) enum Doom {
    Kill(MachineId),
    PowerCut(MachineId, Spared),
    Wipe(MachineId),
    /// Its disk is lost, and it does not come back.
    Retire(MachineId),
}

impl World {
    /// Plans the first fault of each kind.
    pub(crate) fn plan_faults(&mut self) {
        for kind in KINDS {
            self.plan(kind);
        }
    }

    fn plan(&mut self, kind: Fault) {
        use rand::RngExt as _;
        let per_minute = self.faults.per_minute(kind);
        if per_minute > 0.0 {
            // Time to the next event of a Poisson process.
            let uniform: f64 = self.rng.random_range(f64::EPSILON..1.0);
            let minutes = -uniform.ln() / per_minute;
            let us = (minutes * 60e6) as u64;
            self.schedule(us.clamp(1, 1 << 40), Event::Fault(kind));
        }
    }

    /// Carries out a sequel that is due: changes the world, and returns the processes that end.
    pub(crate) fn follow(&mut self, sequel: Sequel) -> Vec<Doom> {
        match sequel {
            Sequel::MendWay(from, to) => self.wires.mend(from, to),
            Sequel::Resume(machine) => self.resume(machine),
            Sequel::FastAgain(machine) => {
                self.machine(machine).slowness = 1;
                self.machine(machine).troubled_until_us = self.now_us;
            }
            Sequel::SpaceAgain(machine) => self.machine(machine).disk.full = false,
            Sequel::Retire { old, new } => {
                // Two masters that compete for leadership may fence each other, and fenced is for
                // good: removing the old one restarts the new one.
                return vec![Doom::Retire(old), Doom::Kill(new)];
            }
            Sequel::Plug(machine) => return vec![Doom::PowerCut(machine, Spared::Drawn)],
            Sequel::Ambush(_) | Sequel::Orphan { .. } if !self.faults_on => {}
            Sequel::Ambush(machine) => return self.spring(machine),
            Sequel::Orphan { master, only } => return self.orphan(master, only),
        }
        Vec::new()
    }

    /// Carries out a fault that is due: changes the world, and returns the processes that end.
    pub(crate) fn strike(&mut self, kind: Fault) -> Vec<Doom> {
        if !self.faults_on {
            return Vec::new();
        }
        self.plan(kind);
        let Some(victim) = self.pick() else {
            return Vec::new();
        };
        match kind {
            Fault::Kill => return vec![Doom::Kill(victim)],
            Fault::PowerCut => return vec![Doom::PowerCut(victim, Spared::Drawn)],
            Fault::Blackout => {
                self.count("fault: blackout");
                let targets = self.targets().into_iter();
                return targets
                    .map(|target| Doom::PowerCut(target, Spared::Drawn))
                    .collect();
            }
            Fault::Wipe => {
                if self.may_lose_disk(victim) && self.all_know(victim) {
                    return vec![Doom::Wipe(victim)];
                }
            }
            Fault::Partition => self.partition(victim),
            Fault::Pause => {
                if self.machine(victim).up && !self.machine(victim).paused {
                    self.count("fault: pause");
                    let us = self.some_time();
                    self.note_of(victim, format_args!("stands still"));
                    self.machine(victim).paused = true;
                    self.schedule(us, Event::Sequel(Sequel::Resume(victim)));
                }
            }
            Fault::SlowDisk => {
                self.count("fault: slow disk");
                let slowness = self.between(10, 100);
                let name = self.machine(victim).name.clone();
                self.note(format_args!(
                    "the disk of {name} is {slowness} times slower"
                ));
                self.machine(victim).slowness = slowness;
                let us = self.some_time();
                self.schedule(us, Event::Sequel(Sequel::FastAgain(victim)));
            }
            Fault::FullDisk => {
                self.count("fault: full disk");
                let name = self.machine(victim).name.clone();
                self.note(format_args!("the disk of {name} is full"));
                self.machine(victim).disk.full = true;
                let us = self.some_time();
                self.schedule(us, Event::Sequel(Sequel::SpaceAgain(victim)));
            }
            Fault::FlippedBit => self.flip_bit(victim),
            Fault::ClockJump => {
                self.count("fault: clock jump");
                let ten_years_ms = 10 * 365 * 86_400_000;
                let to = self.between(0, 2 * ten_years_ms);
                self.machine(victim).clock_offset_ms = to as i64 - ten_years_ms as i64;
                let name = self.machine(victim).name.clone();
                self.note(format_args!("the clock of {name} jumps"));
            }
            Fault::Replacement => return self.replace_node(),
        }
        Vec::new()
    }

    /// Notes a step on `machine` that others will rely on: there may be trouble at once.
    pub(crate) fn lie_in_wait(&mut self, machine: MachineId, times: f64) {
        if self.faults_on && self.chance(self.faults.ambushes * times) {
            let us = self.between(0, 5_000);
            self.schedule(us, Event::Sequel(Sequel::Ambush(machine)));
        }
    }

    /// Notes that a master has written and not synced: a record that it ships now may be all that
    /// is left of it, and on one secondary only, which is away when the others go on.
    pub(crate) fn divide(&mut self, master: MachineId) {
        if !self.faults_on || !self.chance(self.faults.ambushes) {
            return;
        }
        let others = self.others(master);
        let Some(only) = self.one_of(&others) else {
            return;
        };
        self.count("fault: record on one secondary only");
        for other in others.into_iter().filter(|other| *other != only) {
            self.cut_way(master, other, 20_000);
        }
        let us = self.between(0, 1_500);
        self.schedule(us, Event::Sequel(Sequel::Orphan { master, only }));
    }

    fn orphan(&mut self, master: MachineId, only: MachineId) -> Vec<Doom> {
        let us = self.between(4_000_000, 20_000_000);
        self.isolate(only, us);
        vec![Doom::PowerCut(master, Spared::Drawn)]
    }

    fn spring(&mut self, machine: MachineId) -> Vec<Doom> {
        self.count("fault: ambush");
        let mut dooms = Vec::new();
        if self.chance(0.6) {
            dooms.push(match self.chance(0.8) {
                true => Doom::PowerCut(machine, Spared::Drawn),
                false => Doom::Kill(machine),
            });
        }
        if self.chance(0.5)
            && let Some(other) = self.pick()
            && other != machine
        {
            // Long enough for the others to go on without it.
            let us = self.between(3_000_000, 15_000_000);
            self.count("fault: ambush with a partition");
            self.isolate(other, us);
        }
        if self.chance(0.3)
            && let Some(other) = self.pick()
            && self.faults.wipes > 0.0
            && self.may_lose_disk(other)
            && self.all_know(other)
        {
            dooms.push(Doom::Wipe(other));
        }
        dooms
    }

    /// Replaces a node by its standby.
    fn replace_node(&mut self) -> Vec<Doom> {
        let is_leader = |of: MachineId| self.machines[of.0].part == Part::Node;
        let standby = self
            .machines
            .iter()
            .position(|machine| matches!(machine.part, Part::Standby { of } if is_leader(of)));
        let Some(standby) = standby.map(MachineId) else {
            return Vec::new();
        };
        let Part::Standby { of } = self.machine(standby).part else {
            return Vec::new();
        };
        // One replacement at a time: a node whose disk was lost is being replaced already. And
        // every node must have met the one that is replaced, or it cannot tell which is newer.
        let instance = self
            .machine(of)
            .disk
            .meta
            .as_ref()
            .map(|meta| meta.instance);
        let settled = |machine: &Machine| {
            let meta = machine.disk.meta.as_ref();
            meta.is_some_and(|meta| {
                let promised = meta.promised.as_ref().map(|promised| promised.instance);
                meta.log_epoch.is_some() && promised == instance
            })
        };
        let mut nodes = self
            .machines
            .iter()
            .filter(|machine| machine.part == Part::Node);
        if !nodes.all(settled) || !self.may_lose_disk(of) {
            return Vec::new();
        }
        self.put_in_place(of, standby);
        let until = self.some_time();
        let gone = until + self.some_time();
        self.schedule(
            gone,
            Event::Sequel(Sequel::Retire {
                old: of,
                new: standby,
            }),
        );
        match self.between(0, 2) {
            0 => {
                self.count("fault: replaced node wakes up");
                self.machine(of).paused = self.machine(of).up;
                self.schedule(until, Event::Sequel(Sequel::Resume(of)));
                Vec::new()
            }
            1 => {
                self.count("fault: replaced node was cut off");
                self.isolate(of, until);
                Vec::new()
            }
            _ => {
                self.count("fault: replaced node starts again");
                vec![Doom::Kill(of)]
            }
        }
    }

    /// Replaces a node, which may still run, by a standby.
    pub(crate) fn put_in_place(&mut self, of: MachineId, standby: MachineId) {
        self.count("fault: replaced node");
        let old = self.machine(of).name.clone();
        self.note_of(standby, format_args!("takes the place of {old}"));
        self.machine(of).part = Part::Replaced;
        self.machine(standby).part = Part::Node;
        // Another standby for the same node now waits to replace the new one.
        for machine in &mut self.machines {
            if machine.part == (Part::Standby { of }) {
                machine.part = Part::Standby { of: standby };
            }
        }
        self.schedule(1, Event::Boot(standby));
    }

    fn partition(&mut self, victim: MachineId) {
        self.count("fault: partition");
        let us = self.some_time();
        let one_way = self.chance(0.4);
        let all = self.chance(0.5);
        let others = self.others(victim);
        let one = self.one_of(&others);
        self.note_of(
            victim,
            format_args!("is cut off (one way: {one_way}, from all: {all})"),
        );
        if one_way {
            self.count("fault: one-way partition");
        }
        let inbound = self.chance(0.5);
        for other in others {
            if !all && one != Some(other) {
                continue;
            }
            if !one_way || inbound {
                self.cut_way(other, victim, us);
            }
            if !one_way || !inbound {
                self.cut_way(victim, other, us);
            }
        }
    }

    /// Cuts every connection to and from `victim`.
    fn isolate(&mut self, victim: MachineId, us: u64) {
        self.note_of(victim, format_args!("is cut off from all"));
        for other in self.others(victim) {
            self.cut_way(other, victim, us);
            self.cut_way(victim, other, us);
        }
    }

    fn cut_way(&mut self, from: MachineId, to: MachineId, us: u64) {
        self.wires.cut(from, to);
        self.schedule(us, Event::Sequel(Sequel::MendWay(from, to)));
    }

    pub(crate) fn resume(&mut self, machine: MachineId) {
        if self.machine(machine).paused {
            self.note_of(machine, format_args!("goes on"));
            self.machine(machine).paused = false;
            self.machine(machine).troubled_until_us = self.now_us;
        }
    }

    fn flip_bit(&mut self, victim: MachineId) {
        if !self.may_lose_disk(victim) {
            return;
        }
        self.on_flip(victim);
        let World { machines, rng, .. } = self;
        if let Some(offset) = machines[victim.0].disk.rot(rng) {
            self.count("fault: flipped bit");
            let name = self.machine(victim).name.clone();
            self.note(format_args!(
                "a bit of record {offset} flips on the disk of {name}"
            ));
        }
    }

    /// Returns up to ten seconds, mostly a few.
    pub(crate) fn some_time(&mut self) -> u64 {
        let longest = if self.chance(0.2) {
            10_000_000
        } else {
            2_000_000
        };
        self.between(10_000, longest)
    }

    pub(crate) fn targets(&self) -> Vec<MachineId> {
        let machines = self.machines.iter().enumerate();
        machines
            .filter(|(_, machine)| matches!(machine.part, Part::Node | Part::Replaced))
            .map(|(at, _)| MachineId(at))
            .collect()
    }

    pub(crate) fn others(&self, than: MachineId) -> Vec<MachineId> {
        let targets = self.targets().into_iter();
        targets.filter(|target| *target != than).collect()
    }

    fn pick(&mut self) -> Option<MachineId> {
        let targets = self.targets();
        self.one_of(&targets)
    }

    /// Draws one of these machines from the seed.
    fn one_of(&mut self, machines: &[MachineId]) -> Option<MachineId> {
        let last = machines.len().checked_sub(1)?;
        Some(machines[self.between(0, last as u64) as usize])
    }

    /// Ends all lasting faults.
    pub(crate) fn heal(&mut self) {
        self.faults_on = false;
        self.wires.heal();
        for machine in &mut self.machines {
            machine.slowness = 1;
            machine.slowness_of_reads = None;
            machine.disk.full = false;
        }
        for machine in self.targets() {
            self.resume(machine);
        }
        self.note(format_args!("all faults end"));
    }
}

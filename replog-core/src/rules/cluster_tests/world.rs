//! The surroundings of the nodes in a simulation: time, the network, the disks, and chance.
//!
//! Owns the queue of events and the only random generator. Decides nothing about replication.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::{
    disk::{Command, Disk, Facts, Report},
    oracle::Oracle,
};
use crate::{
    rules::replica::RequestId,
    transport::{Fetch, Hello, Progress, Request, Response, TransportError},
    types::{Epoch, Offset},
};

/// Microseconds since the start of the simulation.
pub(super) type Micros = u64;
pub(super) const MS: Micros = 1000;
pub(super) const SECOND: Micros = 1000 * MS;

/// A mistake around the rules, planted to see that the checks find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Planted {
    /// Secondaries report records as durable when they are only written.
    SecondaryDurableTooEarly,
    /// The master reports records as durable when they are only written.
    MasterDurableTooEarly,
    /// Secondaries report a save that the next start does not find.
    MetaForgotten,
    /// The master recovers with one promise fewer than a majority.
    OnePromiseFewer,
    /// A wiped secondary still names the log epoch that it had.
    WipedLogEpochKept,
    /// Every secondary that is refilled is told a refill target of zero.
    NoRefillTarget,
    /// A secondary that aligns cuts nothing.
    NothingCut,
    /// Hellos say that the master's log has no end.
    EndlessHello,
    /// A master whose disk was full cuts what was not acknowledged and goes on in its epoch.
    FullMasterGoesOn,
    /// A master serves without reading the keys of its log.
    KeysForgotten,
    /// A master trusts a snapshot of its keys without comparing its end with the log.
    SnapshotBelieved,
}

/// A request of a master, until it is answered or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call {
    pub(super) master: usize,
    pub(super) life: u64,
    pub(super) link: usize,
    pub(super) attempt: u64,
}

/// A process: a secondary or a master, numbered within its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Process {
    Node(usize),
    Master(usize),
}

#[derive(Clone, Debug)]
pub(super) enum Event {
    Request {
        node: usize,
        call: Call,
        request: Request,
    },
    Answer {
        call: Call,
        result: Result<Response, TransportError>,
    },
    TimedOut {
        call: Call,
    },
    WriterDue {
        process: Process,
        life: u64,
    },
    Reported {
        process: Process,
        life: u64,
        report: Report,
    },
    TimerDue {
        master: usize,
        life: u64,
    },
    NodeTimerDue {
        node: usize,
        life: u64,
    },
    BatchRead {
        call: Call,
        epoch: Epoch,
        from: Offset,
        until: Offset,
        progress: Progress,
    },
    FetchRead {
        node: usize,
        life: u64,
        request: RequestId,
        fetch: Fetch,
        response: Box<Response>,
    },
    StartsRead {
        node: usize,
        life: u64,
        serial: u64,
        hello: Box<Hello>,
    },
    KeysRead {
        master: usize,
        life: u64,
    },
    Start(Process),
    ClientDue,
    FaultDue,
    LinkHealed(Process, Process),
    /// A disk runs full.
    FillDue,
    /// Space was freed on a disk.
    SpaceFreed(usize),
    ZombieGone(usize),
    /// The master restarts without this node in reach.
    AlternateDue(usize),
}

/// Severity of the faults, drawn again from time to time.
#[derive(Clone, Debug)]
pub(super) struct Weather {
    pub(super) lost: f64,
    pub(super) twice: f64,
    pub(super) delay_max: Micros,
    /// Probability that a message takes seconds.
    pub(super) very_late: f64,
    pub(super) disk_max: Micros,
    /// The disk that is much slower than the others, if any. If it is a master's, secondaries get ahead of it.
    pub(super) slow_disk: Option<usize>,
}

impl Weather {
    pub(super) fn fair() -> Weather {
        Weather {
            lost: 0.0,
            twice: 0.0,
            delay_max: 10 * MS,
            very_late: 0.0,
            disk_max: 5 * MS,
            slow_disk: None,
        }
    }

    pub(super) fn draw(rng: &mut ChaCha8Rng, disks: usize) -> Weather {
        let slow_disk = match rng.random_range(0..4) {
            0 => None,
            1 => Some(rng.random_range(0..disks)),
            _ => Some(disks - 1),
        };
        let mut one_of = |values: &[f64]| values[rng.random_range(0..values.len())];
        Weather {
            lost: one_of(&[0.0, 0.02, 0.2, 0.5]),
            twice: one_of(&[0.0, 0.05, 0.3]),
            delay_max: one_of(&[5e3, 5e4, 3e5, 1.2e6]) as Micros,
            very_late: one_of(&[0.0, 0.02, 0.1]),
            disk_max: one_of(&[2e3, 2e4, 2e5]) as Micros,
            slow_disk,
        }
    }
}

/// Properties of a whole run.
#[derive(Clone, Debug)]
pub(super) struct Knobs {
    pub(super) nodes: usize,
    /// Pairs that a node keeps in memory and that a hello carries.
    pub(super) starts_kept: usize,
    pub(super) hello_starts: usize,
    /// Records in a batch and in a group of writes.
    pub(super) batch_records: usize,
    /// True if an answer may come after its time-out, or twice.
    pub(super) stray_answers: bool,
    /// True if clients use idempotency keys and retry messages whose outcome they do not know.
    pub(super) keyed: bool,
    pub(super) planted: Option<Planted>,
}

pub(super) struct World {
    base: Instant,
    pub(super) now: Micros,
    queue: BTreeMap<(Micros, u64), Event>,
    serial: u64,
    pub(super) rng: ChaCha8Rng,
    pub(super) knobs: Knobs,
    pub(super) weather: Weather,
    /// Pairs of processes of which the first cannot reach the second.
    pub(super) blocked: BTreeSet<(Process, Process)>,
    pub(super) disks: Vec<Disk>,
    /// Arrival time of each writer's last report: reports keep their order.
    last_report_at: BTreeMap<Process, Micros>,
    writing: BTreeSet<Process>,
    /// The messages that some client knows to be in the log.
    pub(super) answered: BTreeSet<u64>,
    pub(super) oracle: Oracle,
    pub(super) trace: bool,
}

impl World {
    pub(super) fn new(seed: u64, nodes: usize, planted: Option<Planted>) -> World {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let knobs = Knobs {
            nodes,
            starts_kept: [1, 2, 3, 64][rng.random_range(0..4)],
            hello_starts: [1, 2, 64][rng.random_range(0..3)],
            batch_records: [1, 2, 3, 8][rng.random_range(0..4)],
            stray_answers: rng.random_bool(0.5),
            keyed: seed % 4 == 2,
            planted,
        };
        World {
            base: Instant::now(),
            now: 0,
            queue: BTreeMap::new(),
            serial: 0,
            weather: Weather::fair(),
            rng,
            knobs,
            blocked: BTreeSet::new(),
            disks: Vec::new(),
            last_report_at: BTreeMap::new(),
            writing: BTreeSet::new(),
            answered: BTreeSet::new(),
            oracle: Oracle::new(nodes as u32),
            trace: std::env::var_os("REPLOG_TRACE").is_some(),
        }
    }

    pub(super) fn instant(&self) -> Instant {
        self.base + Duration::from_micros(self.now)
    }

    pub(super) fn micros(&self, instant: Instant) -> Micros {
        instant.duration_since(self.base).as_micros() as Micros
    }

    pub(super) fn note(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>9.3} ms  {}", self.now as f64 / 1e3, text());
        }
    }

    pub(super) fn at(&mut self, at: Micros, event: Event) {
        self.serial += 1;
        self.queue.insert((at.max(self.now), self.serial), event);
    }

    pub(super) fn after(&mut self, delay: Micros, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = at;
        Some(event)
    }

    pub(super) fn below(&mut self, limit: Micros) -> Micros {
        self.rng.random_range(0..limit.max(1))
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    pub(super) fn planted(&self, bug: Planted) -> bool {
        self.knobs.planted == Some(bug)
    }

    /// Returns the number of a process's disk: secondaries first, then masters in order of creation.
    pub(super) fn disk_of(&self, process: Process) -> usize {
        match process {
            Process::Node(node) => node,
            Process::Master(master) => self.knobs.nodes - 1 + master,
        }
    }

    pub(super) fn disk(&self, process: Process) -> &Disk {
        &self.disks[self.disk_of(process)]
    }

    pub(super) fn facts(&self, process: Process) -> Facts<'_> {
        Facts {
            disk: self.disk(process),
            starts_kept: self.knobs.starts_kept,
        }
    }

    /// Carries an event over the network: never, once, or twice, and not in order.
    pub(super) fn carry(&mut self, from: Process, to: Process, event: &Event) {
        if self.blocked.contains(&(from, to)) || self.chance(self.weather.lost) {
            return;
        }
        let copies = 1 + u64::from(self.chance(self.weather.twice));
        for _ in 0..copies {
            let very_late = if self.chance(self.weather.very_late) {
                self.below(8 * SECOND)
            } else {
                0
            };
            let delay = 200 + self.below(self.weather.delay_max) + very_late;
            self.after(delay, event.clone());
        }
    }

    pub(super) fn submit(&mut self, process: Process, life: u64, command: Command) {
        let disk = self.disk_of(process);
        self.disks[disk].submit(command);
        self.wake_writer(process, life);
    }

    fn wake_writer(&mut self, process: Process, life: u64) {
        if self.disk(process).is_busy() && self.writing.insert(process) {
            let slow = self.weather.slow_disk == Some(self.disk_of(process));
            let limit = if slow {
                3 * SECOND
            } else {
                self.weather.disk_max
            };
            let delay = 50 + self.below(limit);
            self.after(delay, Event::WriterDue { process, life });
        }
    }

    /// Runs the writer's next step; its report arrives later, in order.
    pub(super) fn run_writer(&mut self, process: Process, life: u64) {
        self.writing.remove(&process);
        let group_max = self.rng.random_range(1..=20);
        let disk = self.disk_of(process);
        let before = self.disks[disk].meta.clone();
        let (report, written) = self.disks[disk].step(group_max);
        self.oracle.on_written(&self.disks[disk], &written);
        let is_node = matches!(process, Process::Node(_));
        if let Some(report) = report {
            self.note(|| format!("{process:?} writer: {report:?}"));
            let too_early = (is_node && self.planted(Planted::SecondaryDurableTooEarly))
                || (!is_node && self.planted(Planted::MasterDurableTooEarly));
            if let (true, Report::Written { end }) = (too_early, &report) {
                self.report(process, life, Report::Durable { end: *end });
            }
            if is_node
                && self.planted(Planted::MetaForgotten)
                && matches!(report, Report::Saved { .. })
            {
                self.disks[disk].meta_before_crash.get_or_insert(before);
            }
            self.report(process, life, report);
        }
        self.wake_writer(process, life);
    }

    fn report(&mut self, process: Process, life: u64, report: Report) {
        let earliest = self.last_report_at.get(&process).copied().unwrap_or(0);
        let at = earliest.max(self.now + 10 + self.rng.random_range(0..500));
        self.last_report_at.insert(process, at);
        self.at(
            at,
            Event::Reported {
                process,
                life,
                report,
            },
        );
    }

    /// Crashes the disk of a process that is gone, with its writer.
    pub(super) fn crash_disk(&mut self, process: Process) {
        let disk = self.disk_of(process);
        self.disks[disk].crash(&mut self.rng);
        self.writing.remove(&process);
    }
}

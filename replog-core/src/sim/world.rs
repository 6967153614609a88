//! The simulated world: its time, its chance, its machines, and what happens next.
//!
//! One world a thread, while a simulation runs on it; handles are numbers that mean something
//! only there. Nothing here runs the code of a node while the world is borrowed.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::{self, Write as _},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::oneshot;

use super::{
    checks::Checks,
    direction::Direction,
    disk::Disk,
    faults::{Fault, Faults, Sequel},
    hands::Hands,
    mistakes::{Memory, Mistake},
    network::{Listener, Packet, PortId, Reply, Wires},
    trace::Trace,
};
use crate::types::Offset;

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
    /// The machine whose code runs now.
    static CURRENT: RefCell<Option<Life>> = const { RefCell::new(None) };
}

/// The wall clock at the beginning: 2001-09-09, so that a jump back stays behind 1970.
const WALL_MS_AT_START: u64 = 1_000_000_000_000;

/// A machine, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MachineId(pub(crate) usize);

/// One life of a machine: between a boot and the next crash. What belongs to a life that is over
/// can do nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) machine: MachineId,
    pub(crate) boot: u64,
}

/// Something that happens at its time.
pub(crate) enum Event {
    /// Whoever sleeps goes on.
    Wake(oneshot::Sender<()>),
    Deliver(Packet),
    Fault(Fault),
    Sequel(Sequel),
    /// The machine, if it is down, starts.
    Boot(MachineId),
    /// No more faults from here on; all is mended.
    Heal,
    /// Clients ask nothing new.
    Quiet,
    /// The end of the run.
    End,
}

/// What a machine is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A node: faults hit it.
    Node,
    /// Off, until it takes the place of another.
    Standby { of: MachineId },
    /// Another has taken its place; it may still be up, and not know.
    Replaced,
    /// Off for good.
    Retired,
    /// No node: faults spare it.
    Client,
}

/// One machine.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) boot: u64,
    pub(crate) up: bool,
    pub(crate) paused: bool,
    /// Its disk refused at the planned point of a crash: nothing of it runs any more.
    pub(crate) dying: bool,
    /// It stays down until a schedule starts it.
    pub(crate) kept_down: bool,
    /// What it is to the cluster.
    pub(crate) part: Part,
    pub(crate) disk: Disk,
    pub(crate) listeners: BTreeMap<PortId, Listener>,
    pub(crate) clock_offset_ms: i64,
    /// How many times slower than normal its disk is.
    pub(crate) slowness: u64,
    /// It stood still or was slow until then.
    pub(crate) troubled_until_us: u64,
}

/// The world of one simulation.
pub(crate) struct World {
    pub(crate) rng: ChaCha8Rng,
    pub(crate) now_us: u64,
    seq: u64,
    heap: BTreeMap<(u64, u64), Event>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) names: BTreeMap<String, MachineId>,
    pub(crate) wires: Wires,
    pub(crate) hands: Hands,
    /// The records that were last sent, from which machine and whereto.
    pub(crate) batches: BTreeMap<(MachineId, String), (Offset, Offset)>,
    pub(crate) direction: Direction,
    pub(crate) replies: BTreeMap<u64, oneshot::Sender<Reply>>,
    pub(crate) next_call: u64,
    pub(crate) faults: Faults,
    pub(crate) faults_on: bool,
    /// How long the cluster has to become well.
    pub(crate) calm_us: u64,
    /// From then on clients ask nothing new.
    pub(crate) quiet_us: u64,
    pub(crate) events_until_quiet: u64,
    pub(crate) trace: Trace,
    counts: BTreeMap<&'static str, u64>,
    pub(crate) checks: Checks,
    pub(crate) violation: Option<String>,
    /// Crash these machines, one after the other, when the trace has so many events.
    pub(crate) crashes: VecDeque<(u64, MachineId)>,
    /// The mistake that was planted, and, where it needs another one to do harm, that.
    pub(crate) mistakes: Vec<Mistake>,
    pub(crate) memory: Memory,
    /// Masters that adopt another's log.
    pub(crate) adopting: BTreeSet<MachineId>,
    pub(crate) goals: BTreeSet<u64>,
    line: String,
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults, trace: Trace) -> World {
        World {
            rng: ChaCha8Rng::seed_from_u64(seed),
            now_us: 0,
            seq: 0,
            heap: BTreeMap::new(),
            machines: Vec::new(),
            names: BTreeMap::new(),
            wires: Wires::default(),
            hands: Hands::default(),
            batches: BTreeMap::new(),
            direction: Direction::default(),
            replies: BTreeMap::new(),
            next_call: 0,
            faults,
            faults_on: true,
            calm_us: 0,
            quiet_us: u64::MAX,
            events_until_quiet: 0,
            trace,
            counts: BTreeMap::new(),
            checks: Checks::default(),
            violation: None,
            crashes: VecDeque::new(),
            mistakes: Vec::new(),
            memory: Memory::default(),
            adopting: BTreeSet::new(),
            goals: BTreeSet::new(),
            line: String::new(),
        }
    }

    /// Makes `event` happen after `delay_us`.
    pub(crate) fn schedule(&mut self, delay_us: u64, event: Event) {
        self.seq += 1;
        self.heap
            .insert((self.now_us.saturating_add(delay_us), self.seq), event);
    }

    /// When the next event happens.
    pub(crate) fn next_event_us(&self) -> Option<u64> {
        self.heap.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next event out, if it is due.
    pub(crate) fn take_due(&mut self) -> Option<Event> {
        let due = self.next_event_us()? <= self.now_us;
        due.then(|| self.heap.pop_first().map(|(_, event)| event))?
    }

    /// Writes a line of the trace: what happened, as a person would tell it.
    pub(crate) fn note(&mut self, text: fmt::Arguments<'_>) {
        self.line.clear();
        let _ = write!(self.line, "{:>11} {text}", Micros(self.now_us));
        self.trace.add(&self.line);
        if let Some((_, machine)) = self
            .crashes
            .pop_front_if(|(at, _)| self.trace.events() >= *at)
        {
            self.machines[machine.0].dying = self.machines[machine.0].up;
        }
        if let Some(machine) = self.direction.springs(&self.line) {
            let machine = &mut self.machines[machine.0];
            (machine.dying, machine.kept_down) = (machine.up, true);
        }
    }

    /// Writes a line of the trace that begins with the machine's name.
    pub(crate) fn note_of(&mut self, machine: MachineId, text: fmt::Arguments<'_>) {
        let name = std::mem::take(&mut self.machine(machine).name);
        self.note(format_args!("{name} {text}"));
        self.machine(machine).name = name;
    }

    /// Counts that something occurred.
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// How often something occurred so far.
    pub(crate) fn counted(&self, what: &'static str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }

    pub(crate) fn take_counts(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.counts)
    }

    /// A rule was broken: the first one ends the run.
    pub(crate) fn violate(&mut self, text: String) {
        self.note(format_args!("VIOLATION {text}"));
        self.violation.get_or_insert(text);
    }

    /// True with probability `p`. Draws nothing where it cannot be true.
    pub(crate) fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && self.rng.random_bool(p.min(1.0))
    }

    /// A number of `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.rng.random_range(low..=high.max(low))
    }

    /// Whether this life still goes on.
    pub(crate) fn lives(&self, life: Life) -> bool {
        let machine = &self.machines[life.machine.0];
        machine.up && machine.boot == life.boot && !machine.dying
    }

    pub(crate) fn machine(&mut self, id: MachineId) -> &mut Machine {
        &mut self.machines[id.0]
    }

    /// The machine of this name.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub(crate) fn id(&self, name: &str) -> MachineId {
        let id = self.names.get(name).copied();
        id.unwrap_or_else(|| panic!("no machine has the name {name}"))
    }

    /// The wall clock of a machine.
    pub(crate) fn wall_ms(&self, machine: MachineId) -> u64 {
        (WALL_MS_AT_START + self.now_us / 1000)
            .saturating_add_signed(self.machines[machine.0].clock_offset_ms)
    }

    /// Whether `mistake` was planted.
    pub(crate) fn planted(&self, mistake: Mistake) -> bool {
        self.mistakes.contains(&mistake)
    }
}

/// Microseconds as seconds.
struct Micros(u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// Puts a world in place; what was there is returned.
pub(crate) fn replace(world: Option<World>) -> Option<World> {
    WORLD.with(|place| place.replace(world))
}

/// Whether a simulation runs on this thread.
pub(crate) fn exists() -> bool {
    WORLD.with(|place| place.try_borrow().map_or(true, |world| world.is_some()))
}

/// Looks at the world, or changes it.
///
/// # Panics
///
/// When no simulation runs on this thread.
pub(crate) fn with<T>(what: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with(|place| {
        let mut world = place.borrow_mut();
        what(world.as_mut().expect("no simulation runs on this thread"))
    })
}

/// The machine whose code runs now.
pub(crate) fn current() -> Option<Life> {
    CURRENT.with(|current| *current.borrow())
}

/// Says whose code runs from now on; returns whose ran before.
pub(crate) fn set_current(life: Option<Life>) -> Option<Life> {
    CURRENT.with(|current| current.replace(life))
}

/// Lets simulated time pass. Never ends for a life that is over.
pub(crate) async fn sleep(duration: Duration) {
    let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    sleep_us(us).await;
}

/// As [`sleep`], in microseconds.
pub(crate) async fn sleep_us(us: u64) {
    let (wake, woken) = oneshot::channel();
    with(|world| world.schedule(us, Event::Wake(wake)));
    // An error: the simulation ended, and this with it.
    let _ = woken.await;
}

//! The simulated world: its time, its randomness, its machines, and the events to come.
//!
//! There is one world per thread while a simulation runs on it; handles are numbers that are only
//! valid there. Nothing here runs the code of a node while the world is borrowed.

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

/// Wall clock at the start: 2001-09-09, so that a jump back stays after 1970.
const WALL_MS_AT_START: u64 = 1_000_000_000_000;

/// A machine, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MachineId(pub(crate) usize);

/// One life of a machine: from a boot to the next crash. Things that belong to a life that is over
/// have no effect any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) machine: MachineId,
    pub(crate) boot: u64,
}

/// Something that happens at a given time.
pub(crate) enum Event {
    /// Wakes a sleeper.
    Wake(oneshot::Sender<()>),
    Deliver(Packet),
    Fault(Fault),
    Sequel(Sequel),
    /// Starts the machine if it is down.
    Boot(MachineId),
    /// Ends all faults and repairs everything.
    Heal,
    /// Stops clients from sending new requests.
    Quiet,
    /// The end of the run.
    End,
}

/// Role of a machine in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A node: subject to faults.
    Node,
    /// Off, until it replaces another machine.
    Standby { of: MachineId },
    /// Replaced by another machine; it may still be up, unaware of that.
    Replaced,
    /// Off for good.
    Retired,
    /// Not a node: spared by faults.
    Client,
}

/// One machine.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) boot: u64,
    pub(crate) up: bool,
    pub(crate) paused: bool,
    /// Its disk refused an operation at a planned crash point: nothing on it runs any more.
    pub(crate) dying: bool,
    /// It stays down until a schedule starts it.
    pub(crate) kept_down: bool,
    /// Its role in the cluster.
    pub(crate) part: Part,
    pub(crate) disk: Disk,
    pub(crate) listeners: BTreeMap<PortId, Listener>,
    pub(crate) clock_offset_ms: i64,
    /// Factor by which its disk is slower than normal.
    pub(crate) slowness: u64,
    /// Such a factor for what is read off the node's thread; `None`: that of the disk.
    pub(crate) slowness_of_reads: Option<u64>,
    /// It was frozen or slow until then.
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
    /// The records last sent, by sending machine and destination.
    pub(crate) batches: BTreeMap<(MachineId, String), (Offset, Offset)>,
    pub(crate) direction: Direction,
    pub(crate) replies: BTreeMap<u64, oneshot::Sender<Reply>>,
    pub(crate) next_call: u64,
    pub(crate) faults: Faults,
    pub(crate) faults_on: bool,
    /// Time that the cluster has to recover.
    pub(crate) calm_us: u64,
    /// From then on clients send no new requests.
    pub(crate) quiet_us: u64,
    pub(crate) events_until_quiet: u64,
    pub(crate) trace: Trace,
    counts: BTreeMap<&'static str, u64>,
    pub(crate) checks: Checks,
    pub(crate) violation: Option<String>,
    /// Planned crashes, one after the other: each machine crashes when the trace has that many
    /// events.
    pub(crate) crashes: VecDeque<(u64, MachineId)>,
    /// The planted mistake, and a second one where it needs that to do harm.
    pub(crate) mistakes: Vec<Mistake>,
    pub(crate) memory: Memory,
    /// Masters that are adopting another node's log.
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

    /// Schedules `event` to happen after `delay_us`.
    pub(crate) fn schedule(&mut self, delay_us: u64, event: Event) {
        self.seq += 1;
        self.heap
            .insert((self.now_us.saturating_add(delay_us), self.seq), event);
    }

    /// Returns the time of the next event.
    pub(crate) fn next_event_us(&self) -> Option<u64> {
        self.heap.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next event out, if it is due.
    pub(crate) fn take_due(&mut self) -> Option<Event> {
        let due = self.next_event_us()? <= self.now_us;
        due.then(|| self.heap.pop_first().map(|(_, event)| event))?
    }

    /// Writes a line of the trace: what happened, in words.
    pub(crate) fn note(&mut self, text: fmt::Arguments<'_>) {
        self.line.clear();
        let _ = write!(self.line, "{:>11} {text}", Micros(self.now_us));
        self.trace.add(&self.line);
        if let Some((_, machine)) = self
            .crashes
            .pop_front_if(|(at, _)| self.trace.events() >= *at && self.now_us < self.quiet_us)
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

    /// Counts an occurrence.
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Returns how often something has occurred so far.
    pub(crate) fn counted(&self, what: &'static str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }

    pub(crate) fn take_counts(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.counts)
    }

    /// Reports a broken rule: the first one ends the run.
    pub(crate) fn violate(&mut self, text: String) {
        self.note(format_args!("VIOLATION {text}"));
        self.violation.get_or_insert(text);
    }

    /// Returns true with probability `p`. Draws no random number if it cannot be true.
    pub(crate) fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && self.rng.random_bool(p.min(1.0))
    }

    /// Returns a random number in `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.rng.random_range(low..=high.max(low))
    }

    /// Returns true while this life goes on.
    pub(crate) fn lives(&self, life: Life) -> bool {
        let machine = &self.machines[life.machine.0];
        machine.up && machine.boot == life.boot && !machine.dying
    }

    pub(crate) fn machine(&mut self, id: MachineId) -> &mut Machine {
        &mut self.machines[id.0]
    }

    /// Returns the machine of this name.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub(crate) fn id(&self, name: &str) -> MachineId {
        let id = self.names.get(name).copied();
        id.unwrap_or_else(|| panic!("there is no machine {name}"))
    }

    /// Returns the wall clock of a machine.
    pub(crate) fn wall_ms(&self, machine: MachineId) -> u64 {
        (WALL_MS_AT_START + self.now_us / 1000)
            .saturating_add_signed(self.machines[machine.0].clock_offset_ms)
    }

    /// Returns true if `mistake` was planted.
    pub(crate) fn planted(&self, mistake: Mistake) -> bool {
        self.mistakes.contains(&mistake)
    }
}

/// Microseconds, displayed as seconds.
struct Micros(u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// Installs a world and returns the previous one.
pub(crate) fn replace(world: Option<World>) -> Option<World> {
    WORLD.with(|place| place.replace(world))
}

/// Returns true if a simulation runs on this thread.
pub(crate) fn exists() -> bool {
    WORLD.with(|place| place.try_borrow().map_or(true, |world| world.is_some()))
}

/// Reads or changes the world.
///
/// # Panics
///
/// If no simulation runs on this thread.
pub(crate) fn with<T>(what: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with(|place| {
        let mut world = place.borrow_mut();
        what(world.as_mut().expect("no simulation runs on this thread"))
    })
}

/// Returns the life whose code runs now.
pub(crate) fn current() -> Option<Life> {
    CURRENT.with(|current| *current.borrow())
}

/// Sets the life whose code runs from now on; returns the previous one.
pub(crate) fn set_current(life: Option<Life>) -> Option<Life> {
    CURRENT.with(|current| current.replace(life))
}

/// Lets simulated time pass. Never ends for a life that is over.
pub(crate) async fn sleep(duration: Duration) {
    let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    sleep_us(us).await;
}

/// Lets simulated time pass, as [`sleep`] does, in microseconds.
pub(crate) async fn sleep_us(us: u64) {
    let (wake, woken) = oneshot::channel();
    with(|world| world.schedule(us, Event::Wake(wake)));
    // An error means that the simulation ended, and this with it.
    let _ = woken.await;
}

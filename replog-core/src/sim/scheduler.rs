//! [`Simulation`]: one run, from one seed. Decides what runs next.
//!
//! A machine is a [`LocalSet`]: dropping it is `kill -9`, not polling it is SIGSTOP. The code of
//! all machines runs until each waits; only then the next event of the world happens, and only if
//! none is due does time advance, to the next event or timer of any machine.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    future::{Future, poll_fn},
    panic,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::{
    task::LocalSet,
    time::{Instant, Sleep},
};

use super::{
    Faults, Machine,
    direction::Order,
    disk::{Disk, Spared},
    faults::Doom,
    mistakes::Mistake,
    narrator,
    network::Arrival,
    trace::{Keep, Trace},
    world::{self, Event, Life, MachineId, Part, World},
};

/// Maximum turns without time advancing; more mean that it never will.
const TURNS_MAX: u64 = 10_000;

/// Time that no story takes.
const STORY_MAX: Duration = Duration::from_hours(2);

type Program = Rc<dyn Fn(Machine) -> Pin<Box<dyn Future<Output = ()>>>>;

/// A run to be started: its machines, its faults, its duration.
pub struct Simulation {
    seed: u64,
    faults: Faults,
    with_faults: Duration,
    calm: Duration,
    keep: Keep,
    machines: Vec<(String, Kind, Program)>,
    crashes: Vec<(u64, String)>,
    mistakes: Vec<Mistake>,
}

/// Kind of a machine, as configured.
enum Kind {
    Node,
    Standby {
        of: String,
    },
    Client,
    /// Its program is the story of a schedule: no fault occurs by itself, and the run ends a while
    /// after the story.
    Director,
}

/// Result of a run.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The seed of the run.
    pub seed: u64,
    /// The first rule that was broken, in one sentence.
    pub violation: Option<String>,
    /// Number of lines of the trace.
    pub events: u64,
    /// Number of those lines when the run began to wind down, half-way through its calm time.
    pub events_until_quiet: u64,
    /// Hash of the trace: equal runs have equal hashes.
    pub hash: u64,
    /// The simulated time.
    pub simulated: Duration,
    /// Number of occurrences of each fault, state and branch.
    pub counts: BTreeMap<&'static str, u64>,
    /// The trace, if [`Simulation::keep_trace`] asked for it.
    pub trace: Vec<String>,
}

impl Simulation {
    /// Makes a run without machines and faults, of a minute and half a minute of calm.
    #[must_use]
    pub fn new(seed: u64) -> Simulation {
        Simulation {
            seed,
            faults: Faults::none(),
            with_faults: Duration::from_secs(60),
            calm: Duration::from_secs(30),
            keep: Keep::Nothing,
            machines: Vec::new(),
            crashes: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    /// Sets which faults occur, and how often.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Simulation {
        self.faults = faults;
        self
    }

    /// Sets how long faults occur, and how long the cluster then has to recover.
    #[must_use]
    pub fn lasting(mut self, with_faults: Duration, calm: Duration) -> Simulation {
        (self.with_faults, self.calm) = (with_faults, calm);
        self
    }

    /// Keeps the lines of the trace in the outcome.
    #[must_use]
    pub fn keep_trace(mut self) -> Simulation {
        self.keep = Keep::Lines(Vec::new());
        self
    }

    /// Prints the trace as it comes.
    #[must_use]
    pub fn print_trace(mut self) -> Simulation {
        self.keep = Keep::Print;
        self
    }

    /// Adds a machine that is subject to faults. `program` runs at each of its starts; when it
    /// ends, the process has ended, and is restarted.
    #[must_use]
    pub fn node<F>(self, name: &str, program: impl Fn(Machine) -> F + 'static) -> Simulation
    where
        F: Future<Output = ()> + 'static,
    {
        self.machine(name, Kind::Node, program)
    }

    /// Adds a machine that faults spare; the network between it and the others is just as bad.
    #[must_use]
    pub fn client<F>(self, name: &str, program: impl Fn(Machine) -> F + 'static) -> Simulation
    where
        F: Future<Output = ()> + 'static,
    {
        self.machine(name, Kind::Client, program)
    }

    /// Adds a machine with an empty disk that is off until it replaces the node on the machine
    /// `of`, which is frozen, cut off or down meanwhile, and comes back for a while unaware of it.
    /// Then that one is gone for good.
    #[must_use]
    pub fn standby<F>(
        self,
        name: &str,
        of: &str,
        program: impl Fn(Machine) -> F + 'static,
    ) -> Simulation
    where
        F: Future<Output = ()> + 'static,
    {
        self.machine(name, Kind::Standby { of: of.to_owned() }, program)
    }

    /// Adds a machine as [`Simulation::client`] does, for a story that decides itself what happens.
    pub(crate) fn director<F>(
        self,
        name: &str,
        program: impl Fn(Machine) -> F + 'static,
    ) -> Simulation
    where
        F: Future<Output = ()> + 'static,
    {
        self.machine(name, Kind::Director, program)
    }

    fn machine<F>(
        mut self,
        name: &str,
        kind: Kind,
        program: impl Fn(Machine) -> F + 'static,
    ) -> Simulation
    where
        F: Future<Output = ()> + 'static,
    {
        let program: Program = Rc::new(move |machine| Box::pin(program(machine)));
        self.machines.push((name.to_owned(), kind, program));
        self
    }

    /// Crashes `machine` when the trace has `events` lines, between any two operations. Of several
    /// such crashes each comes after the one before it. None comes in the second half of the calm at the end: a node
    /// must have the time to recover.
    #[must_use]
    pub fn crash_at(mut self, events: u64, machine: &str) -> Simulation {
        self.crashes.push((events, machine.to_owned()));
        self
    }

    /// Makes every node of the run make a mistake, which a check must then find. Of two that are planted together,
    /// the second one must be one that changes messages only.
    #[must_use]
    pub fn plant(mut self, mistake: Mistake) -> Simulation {
        self.mistakes.push(mistake);
        self
    }

    /// Runs it. Occupies the thread until the end; a simulated minute takes some milliseconds.
    ///
    /// # Panics
    ///
    /// If called inside a simulation or a tokio runtime.
    #[must_use]
    pub fn run(self) -> Outcome {
        assert!(
            !world::exists(),
            "a simulation cannot run inside another one"
        );
        install_panic_hook();
        let mut world = World::new(self.seed, self.faults, Trace::new(self.keep));
        let mut programs = Vec::new();
        for (name, kind, program) in self.machines {
            let id = MachineId(world.machines.len());
            world.names.insert(name.clone(), id);
            let part = match kind {
                Kind::Node => Part::Node,
                Kind::Client => Part::Client,
                Kind::Director => {
                    world.direction.director = Some(id);
                    Part::Client
                }
                Kind::Standby { of } => Part::Standby {
                    of: *world
                        .names
                        .get(&of)
                        .expect("a standby comes after its node"),
                },
            };
            world.machines.push(world::Machine {
                name,
                boot: 0,
                up: false,
                paused: false,
                dying: false,
                kept_down: false,
                part,
                disk: Disk::default(),
                listeners: BTreeMap::new(),
                clock_offset_ms: 0,
                slowness: 1,
                slowness_of_reads: None,
                troubled_until_us: 0,
            });
            if matches!(part, Part::Node | Part::Client) {
                let is_director = world.direction.director == Some(id);
                let us = if is_director {
                    0
                } else {
                    world.between(0, 200_000)
                };
                world.schedule(us, Event::Boot(id));
            }
            programs.push(program);
        }
        world.mistakes = self.mistakes;
        let known = |(events, name)| Some((events, *world.names.get(&name)?));
        world.crashes = self.crashes.into_iter().filter_map(known).collect();
        world.calm_us = micros(self.calm);
        if world.direction.director.is_none() {
            world.plan_faults();
            world.plan_end(micros(self.with_faults));
        } else {
            // Each of its steps has a limit: this is not reached.
            world.schedule(micros(STORY_MAX), Event::End);
        }
        world::replace(Some(world));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs no system resources");
        let narrator = narrator::listen();
        runtime.block_on(async {
            let mut scheduler = Scheduler::new(programs);
            poll_fn(|cx| scheduler.poll(cx)).await;
            scheduler.end();
        });
        drop((runtime, narrator));
        let mut world = world::replace(None).expect("it was put there above");
        Outcome {
            seed: self.seed,
            violation: world.violation.take(),
            events: world.trace.events(),
            events_until_quiet: world.events_until_quiet,
            hash: world.trace.hash(),
            simulated: Duration::from_micros(world.now_us),
            counts: world.take_counts(),
            trace: world.trace.into_lines(),
        }
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Flags that a machine has something to do, and wakes the scheduler.
#[derive(Default)]
struct Flag {
    ready: AtomicBool,
    scheduler: Mutex<Option<Waker>>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.store(true, Ordering::Relaxed);
        let scheduler = self
            .scheduler
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(waker) = &*scheduler {
            waker.wake_by_ref();
        }
    }
}

/// One machine's process.
struct Process {
    tasks: Option<LocalSet>,
    flag: Arc<Flag>,
    waker: Waker,
    program: Program,
}

struct Scheduler {
    processes: Vec<Process>,
    /// Lives whose program has ended.
    ended: Rc<RefCell<Vec<Life>>>,
    began: Instant,
    sleep: Pin<Box<Sleep>>,
    turns: u64,
    /// Simulated time of the last advance, in microseconds.
    turned_at: u64,
}

impl Scheduler {
    fn new(programs: Vec<Program>) -> Scheduler {
        let process = |program| {
            let flag = Arc::new(Flag::default());
            Process {
                tasks: None,
                waker: flag.clone().into(),
                flag,
                program,
            }
        };
        Scheduler {
            processes: programs.into_iter().map(process).collect(),
            ended: Rc::default(),
            began: Instant::now(),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            turns: 0,
            turned_at: 0,
        }
    }

    /// Runs until nothing can happen before time advances, or the run is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for process in &self.processes {
            let mut scheduler = process
                .flag
                .scheduler
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if !scheduler
                .as_ref()
                .is_some_and(|waker| waker.will_wake(cx.waker()))
            {
                *scheduler = Some(cx.waker().clone());
            }
        }
        loop {
            self.notice_panic();
            if world::with(|world| world.violation.is_some()) {
                return Poll::Ready(());
            }
            self.reap();
            self.obey();
            world::with(World::look_around);
            self.turns += 1;
            if self.turns > TURNS_MAX {
                world::with(|world| world.violate("time does not advance".to_owned()));
                continue;
            }
            if self.run_one() {
                continue;
            }
            let now = micros(self.began.elapsed());
            let event = world::with(|world| {
                let due = world.next_event_us().filter(|at| *at <= now)?;
                world.now_us = world.now_us.max(due);
                world.take_due()
            });
            match event {
                Some(Event::End) => {
                    world::with(World::check_end);
                    return Poll::Ready(());
                }
                Some(event) => self.happen(event),
                None => {
                    let next = world::with(|world| world.next_event_us());
                    let next = next.expect("the end of the run is an event");
                    self.sleep
                        .as_mut()
                        .reset(self.began + Duration::from_micros(next));
                    if self.sleep.as_mut().poll(cx).is_pending() {
                        if now > self.turned_at {
                            (self.turns, self.turned_at) = (0, now);
                        }
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Runs one machine that has something to do, drawn from the seed.
    fn run_one(&mut self) -> bool {
        let chosen = world::with(|world| {
            let ready = |world: &World, nth: &usize| {
                let process = &self.processes[*nth];
                process.tasks.is_some()
                    && !world.machines[*nth].paused
                    && process.flag.ready.load(Ordering::Relaxed)
            };
            if let Some(director) = world.direction.director
                && ready(world, &director.0)
            {
                return Some(director.0);
            }
            let all = 0..self.processes.len();
            let count = all.clone().filter(|nth| ready(world, nth)).count();
            if count == 0 {
                return None;
            }
            let chosen = world.rng_below(count);
            all.filter(|nth| ready(world, nth)).nth(chosen)
        });
        let Some(nth) = chosen else { return false };
        // Timers that fired may be later than the last event, and no later than the next one.
        let now = micros(self.began.elapsed());
        world::with(|world| {
            let next = world.next_event_us().unwrap_or(now);
            world.now_us = world.now_us.max(now.min(next));
        });
        let process = &mut self.processes[nth];
        process.flag.ready.store(false, Ordering::Relaxed);
        let machine = MachineId(nth);
        let boot = world::with(|world| world.machine(machine).boot);
        let tasks = process
            .tasks
            .as_mut()
            .expect("only a running machine is chosen");
        let before = world::set_current(Some(Life { machine, boot }));
        let _ = Pin::new(tasks).poll(&mut Context::from_waker(&process.waker));
        world::set_current(before);
        world::with(|world| {
            world.check_requests();
            world.after_poll(machine);
        });
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake(wake) => {
                let _ = wake.send(());
            }
            Event::Deliver(packet) => match world::with(|world| world.deliver(packet)) {
                Some(Arrival::Request { at, serve }) => {
                    let process = &self.processes[at.machine.0];
                    if let Some(tasks) = &process.tasks {
                        tasks.spawn_local(serve.run(at));
                        process.flag.wake_by_ref();
                    }
                }
                Some(Arrival::Reply(waiting, reply)) => {
                    let _ = waiting.send(reply);
                }
                None => {}
            },
            Event::Boot(machine) => self.boot(machine),
            Event::Fault(fault) => self.doom_all(world::with(|world| world.strike(fault))),
            Event::Sequel(sequel) => self.doom_all(world::with(|world| world.follow(sequel))),
            Event::Heal => {
                world::with(World::heal);
                for nth in 0..self.processes.len() {
                    world::with(|world| world.machines[nth].kept_down = false);
                    if world::with(|world| world.direction.director.is_some()) {
                        self.boot(MachineId(nth));
                    }
                }
            }
            Event::Quiet => world::with(|world| world.events_until_quiet = world.trace.events()),
            Event::End => unreachable!("the end is not an event among others"),
        }
    }

    fn boot(&mut self, machine: MachineId) {
        let life = world::with(|world| {
            let entry = world.machine(machine);
            let off = matches!(entry.part, Part::Standby { .. } | Part::Retired);
            if entry.up || entry.kept_down || off {
                return None;
            }
            entry.up = true;
            entry.dying = false;
            entry.boot += 1;
            let (name, boot) = (entry.name.clone(), entry.boot);
            world.note_of(machine, format_args!("starts (boot {boot})"));
            Some((Life { machine, boot }, name))
        });
        let Some((life, name)) = life else { return };
        let process = &mut self.processes[machine.0];
        let tasks = LocalSet::new();
        let (program, ended) = (process.program.clone(), self.ended.clone());
        tasks.spawn_local(async move {
            program(Machine::new(life, &name)).await;
            ended.borrow_mut().push(life);
        });
        process.tasks = Some(tasks);
        process.flag.wake_by_ref();
    }

    fn doom_all(&mut self, dooms: Vec<Doom>) {
        for doom in dooms {
            self.doom(&doom);
        }
    }

    fn doom(&mut self, doom: &Doom) {
        let machine = match doom {
            Doom::Kill(machine)
            | Doom::PowerCut(machine, _)
            | Doom::Wipe(machine)
            | Doom::Retire(machine) => *machine,
        };
        let was_up = world::with(|world| {
            let (what, counted) = match doom {
                Doom::Kill(_) => ("is killed", "fault: kill"),
                Doom::PowerCut(..) => ("loses power", "fault: power cut"),
                Doom::Wipe(_) => ("loses its disk", "fault: wiped disk"),
                Doom::Retire(_) => ("is gone for good", "fault: replaced node gone"),
            };
            world.note_of(machine, format_args!("{what}"));
            world.count(counted);
            let entry = world.machine(machine);
            let was_up = std::mem::replace(&mut entry.up, false);
            entry.paused = false;
            entry.listeners.clear();
            if matches!(doom, Doom::Wipe(_)) {
                world.on_wipe(machine);
            }
            let checked = !world.planted(Mistake::NoChecksumAtStart);
            let World { machines, rng, .. } = world;
            let disk = &mut machines[machine.0].disk;
            let mut torn = false;
            match doom {
                Doom::Kill(_) => disk.lose_process(),
                Doom::PowerCut(_, spared) => torn = disk.lose_power(rng, *spared, checked),
                Doom::Wipe(_) => disk.wipe(),
                Doom::Retire(_) => {
                    disk.wipe();
                    machines[machine.0].part = Part::Retired;
                }
            }
            if torn {
                world.count("fault: log torn in the middle");
            }
            world.on_ended(machine);
            world.adopting.remove(&machine);
            was_up
        });
        // Outside of the world: what is dropped here may look at it.
        drop(self.processes[machine.0].tasks.take());
        if was_up {
            self.plan_boot(machine);
        }
    }

    fn plan_boot(&self, machine: MachineId) {
        world::with(|world| {
            if world.machine(machine).kept_down {
                return;
            }
            let us = if world.faults_on {
                world.some_time()
            } else {
                world.between(1_000, 100_000)
            };
            world.schedule(us, Event::Boot(machine));
        });
    }

    /// Carries out the orders of the story.
    fn obey(&mut self) {
        while let Some(order) = world::with(|world| world.direction.orders.pop_front()) {
            match order {
                Order::Doom(doom) => self.doom(&doom),
                Order::Boot(machine) => {
                    world::with(|world| world.machine(machine).kept_down = false);
                    self.boot(machine);
                }
                Order::Finish => world::with(|world| {
                    for packet in world.hands.open_all() {
                        world.schedule(0, Event::Deliver(packet));
                    }
                    world.plan_end(0);
                }),
            }
        }
    }

    /// Crashes the machines that are to crash, and restarts those whose program has ended.
    fn reap(&mut self) {
        let dying = world::with(|world| {
            let dying = world
                .machines
                .iter()
                .position(|machine| machine.dying && machine.up);
            if let Some(dying) = dying {
                world.count("crash at a chosen point");
                world.machines[dying].dying = false;
            }
            dying
        });
        if let Some(machine) = dying {
            let power = world::with(|world| world.chance(0.7));
            let machine = MachineId(machine);
            self.doom(&if power {
                Doom::PowerCut(machine, Spared::Drawn)
            } else {
                Doom::Kill(machine)
            });
        }
        let ended = std::mem::take(&mut *self.ended.borrow_mut());
        for life in ended {
            if world::with(|world| world.lives(life)) {
                world::with(|world| {
                    let name = world.machine(life.machine).name.clone();
                    world.count("process ended by itself");
                    world.note(format_args!("the program of {name} has ended"));
                });
                self.doom(&Doom::Kill(life.machine));
            }
        }
    }

    fn notice_panic(&self) {
        if let Some(text) = PANIC.with(|panic| panic.borrow_mut().take()) {
            world::with(|world| world.violate(format!("panic: {text}")));
        }
    }

    /// Drops everything that still runs.
    fn end(&mut self) {
        for (nth, process) in self.processes.iter_mut().enumerate() {
            world::with(|world| world.machine(MachineId(nth)).up = false);
            drop(process.tasks.take());
        }
    }
}

impl World {
    /// Schedules the end of all faults after `with_faults_us`, and the end of the run after the
    /// calm.
    fn plan_end(&mut self, with_faults_us: u64) {
        let calm_us = self.calm_us;
        self.quiet_us = self.now_us + with_faults_us + calm_us / 2;
        self.schedule(with_faults_us, Event::Heal);
        self.schedule(with_faults_us + calm_us / 2, Event::Quiet);
        self.schedule(with_faults_us + calm_us, Event::End);
    }

    fn rng_below(&mut self, count: usize) -> usize {
        if count == 1 {
            return 0;
        }
        self.between(0, count as u64 - 1) as usize
    }
}

thread_local! {
    /// The panic of a simulated machine: its task would swallow it.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if world::current().is_some() {
                PANIC.with(|panic| panic.borrow_mut().get_or_insert(info.to_string()).len());
            } else {
                before(info);
            }
        }));
    });
}

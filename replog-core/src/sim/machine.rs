//! [`Machine`]: the interface of a simulated program to its world.

use std::{
    any::{Any, TypeId},
    collections::VecDeque,
    fmt,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::Notify;

use super::{
    disk::SimulatedStorage,
    faults::Sequel,
    mistakes::{self, Place},
    network::{self, BriefAnswer, CallError, Replication, SimulatedNetwork},
    world::{self, Event, Life},
};
use crate::{
    handle::{
        Followed, Secondary,
        host::{Host, Reports, Watched, Work},
    },
    log::{LogWriter, NextStep, WriteCommand, WriterLoop},
    storage::Storage,
    transport::{Network, Request},
    types::{Offset, ReadLevel},
    views::Receipt,
};

/// One life of a simulated machine: its disk, its network, its clock and its randomness.
///
/// Clones share all of it. After a crash a program is restarted with a new one, and nothing that
/// the old one still does has any effect.
#[derive(Clone, Debug)]
pub struct Machine {
    life: Life,
    name: Arc<str>,
}

impl Machine {
    pub(crate) fn new(life: Life, name: &str) -> Machine {
        Machine {
            life,
            name: name.into(),
        }
    }

    /// Returns its name, which peers use as its URL.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how often it was started, this time included.
    #[must_use]
    pub fn boots(&self) -> u64 {
        self.life.boot
    }

    /// Returns its disk, which survives crashes as far as it was synced.
    #[must_use]
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(SimulatedStorage { life: self.life })
    }

    /// Returns its network, for a master: the URL of a peer is the name of its machine.
    #[must_use]
    pub fn network(&self) -> Arc<dyn Network> {
        Arc::new(SimulatedNetwork { life: self.life })
    }

    /// Lets masters reach this secondary.
    pub fn serve(&self, secondary: Secondary) {
        let life = self.life;
        self.listen(move |Replication(request): Replication| {
            let secondary = secondary.clone();
            async move {
                let asked: Request = request.clone();
                let request = mistakes::on_request(life, request);
                let response = secondary.serve(request).await.ok()?;
                let response = mistakes::on_response(life, &asked, response);
                world::with(|world| {
                    if world.lives(life) {
                        let text = BriefAnswer(&response);
                        world.note_of(life.machine, format_args!("-> {}: {text}", asked.from));
                        world.on_answered(life.machine, &asked, &response);
                    }
                });
                Some(response)
            }
        });
    }

    /// Serves requests of type `Req`; `None` breaks the connection. A later listener for the same
    /// type replaces this one.
    pub fn listen<Req, Resp, F>(&self, handler: impl Fn(Req) -> F + 'static)
    where
        Req: Clone + 'static,
        Resp: 'static,
        F: Future<Output = Option<Resp>> + 'static,
    {
        let listener = move |request: Box<dyn Any>| {
            let request = request
                .downcast::<Req>()
                .expect("a port is named by the type of its requests");
            let answer = handler(*request);
            let answer = async move { answer.await.map(|answer| Box::new(answer) as Box<dyn Any>) };
            Box::pin(answer) as Pin<Box<dyn Future<Output = Option<Box<dyn Any>>>>>
        };
        world::with(|world| {
            if world.lives(self.life) {
                let machine = world.machine(self.life.machine);
                machine
                    .listeners
                    .insert(TypeId::of::<Req>(), Rc::new(listener));
            }
        });
    }

    /// Sends a request to a machine and waits for the answer, without limit if necessary: the
    /// network may lose any packet.
    ///
    /// # Errors
    ///
    /// [`CallError`]: nothing listens there, or the machine went away.
    ///
    /// # Panics
    ///
    /// If the listener answers with another type.
    pub async fn call<Req, Resp>(&self, to: &str, request: Req) -> Result<Resp, CallError>
    where
        Req: Clone + 'static,
        Resp: 'static,
    {
        network::call(self.life, to, request).await
    }

    /// Lets simulated time pass.
    pub async fn sleep(&self, duration: Duration) {
        world::sleep(duration).await;
    }

    /// Returns a random number in `low..=high`, from the seed.
    #[must_use]
    pub fn random(&self, low: u64, high: u64) -> u64 {
        world::with(|world| world.between(low, high))
    }

    /// Returns the time since the start of the simulation.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(world::with(|world| world.now_us))
    }

    /// Cuts the power: unsynced data is lost or torn, and the program is restarted a while later.
    /// Takes effect once this life waits.
    pub fn lose_power(&self) {
        world::with(|world| {
            if world.lives(self.life) {
                world.schedule(0, Event::Sequel(Sequel::Plug(self.life.machine)));
            }
        });
    }

    /// Returns true once the run is winding down, half-way through its calm time: requests made
    /// from now on may not be done before it ends.
    #[must_use]
    pub fn winding_down(&self) -> bool {
        world::with(|world| world.now_us >= world.quiet_us)
    }

    /// Writes a line of the trace.
    pub fn note(&self, text: impl fmt::Display) {
        world::with(|world| {
            if world.lives(self.life) {
                world.note(format_args!("{}: {text}", self.name));
            }
        });
    }

    /// Counts an occurrence for the report of the run.
    pub fn count(&self, what: &'static str) {
        world::with(|world| world.count(what));
    }

    /// Fails the run: the program saw something that must not happen.
    pub fn fail(&self, text: impl fmt::Display) {
        world::with(|world| world.violate(text.to_string()));
    }

    /// Reports a receipt to the checks, at the time the append's caller gets it. Checks what rules
    /// 4 and 5 promise from this moment on; without it only the nodes' behaviour towards each other
    /// is checked.
    pub fn acknowledged(&self, receipt: &Receipt) {
        world::with(|world| {
            if world.lives(self.life) {
                world.on_acknowledged(self.life.machine, receipt);
            }
        });
    }

    /// Reports that a client sends `payload`, which is never sent by anyone else: no log may hold
    /// it twice, and from the first of these calls on no log may hold anything that was not sent.
    pub fn sends(&self, payload: &[u8]) {
        world::with(|world| world.checks.on_sent(payload));
    }

    /// Reports that a client was told that a payload that only it sent, once, is in no log: it must be
    /// in none.
    pub fn was_refused(&self, payload: &[u8]) {
        world::with(|world| world.checks.on_refused(payload));
    }

    /// Reports that a caller of the master is told the position of its message.
    pub(crate) fn answered(&self, receipt: &Receipt, payload: &Bytes) {
        world::with(|world| {
            if world.lives(self.life) {
                world.on_receipt(self.life.machine, receipt, payload);
            }
        });
    }

    /// Reports that a node shows these messages to a client.
    pub(crate) fn read(&self, shown: &[(Offset, Bytes)]) {
        world::with(|world| {
            if world.lives(self.life) {
                world.on_read(self.life.machine, shown);
            }
        });
    }

    /// Reports that a follower of the node starts at this level.
    pub(crate) fn follows(&self, level: ReadLevel) {
        world::with(|world| {
            if world.lives(self.life) {
                world.on_follows(self.life.machine, level);
            }
        });
    }

    /// Reports what a follower of the node is given.
    pub(crate) fn followed(&self, level: ReadLevel, followed: &Followed) {
        world::with(|world| {
            if world.lives(self.life) {
                world.on_followed(self.life.machine, level, followed);
            }
        });
    }

    /// Reports that a caller of the master has waited for its concern since then.
    pub(crate) fn waited(&self, concern: u32, since: Duration) {
        let since_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        world::with(|world| world.on_waited(self.life.machine, concern, since_us));
    }

    /// Registers something that must be done by the end of the run; the caller reports on the
    /// result when it is done.
    #[must_use]
    pub fn goal(&self) -> Goal {
        world::with(|world| {
            world.next_call += 1;
            let goal = world.next_call;
            world.goals.insert(goal);
            Goal(goal)
        })
    }

    pub(crate) fn host(&self) -> Arc<dyn Host> {
        Arc::new(SimulatedHost { life: self.life })
    }
}

/// Something that must be done by the end of the run. Dropping it withdraws it.
#[derive(Debug)]
pub struct Goal(u64);

impl Goal {
    /// Reports that it is done.
    pub fn reached(self) {
        drop(self);
    }
}

impl Drop for Goal {
    /// Reached, or withdrawn.
    fn drop(&mut self) {
        if world::exists() {
            world::with(|world| world.goals.remove(&self.0));
        }
    }
}

/// The host of a simulated node.
#[derive(Debug)]
struct SimulatedHost {
    life: Life,
}

impl Host for SimulatedHost {
    fn is_simulated(&self) -> bool {
        true
    }

    fn wall_ms(&self) -> u64 {
        world::with(|world| world.wall_ms(self.life.machine))
    }

    fn rng(&self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(world::with(|world| world.rng.next_u64()))
    }

    fn off_thread(&self, work: Work) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let us = world::with(|world| {
            let machine = world.machine(self.life.machine);
            let slowness = machine.slowness_of_reads.unwrap_or(machine.slowness);
            world.between(20, 300) * slowness.max(1)
        });
        Box::pin(async move {
            world::sleep_us(us).await;
            work();
        })
    }

    fn start_writer(&self, writer: WriterLoop, report: Reports) -> io::Result<LogWriter> {
        let queue = Arc::new(Queue::default());
        let life = self.life;
        let task = drive(life, writer, report, queue.clone());
        tokio::task::spawn_local(task);
        let submit = move |command: WriteCommand| {
            if !world::exists() {
                return;
            }
            if let WriteCommand::Append(batch) = &command {
                world::with(|world| world.on_append(life.machine, batch));
            }
            mistakes::on_command(life, command, |place, command| {
                let commands = queue.commands.lock();
                let mut commands = commands.unwrap_or_else(PoisonError::into_inner);
                match place {
                    Place::Back => commands.push_back(command),
                    Place::Front => commands.push_front(command),
                }
            });
            queue.arrived.notify_one();
        };
        Ok(LogWriter::hosted(Arc::new(submit)))
    }

    fn watch(&self, node: Watched) {
        world::with(|world| world.on_started(self.life.machine, node));
    }
}

/// Returns a duration of a disk operation of a machine, in microseconds.
fn disk_us(life: Life, low: u64, high: u64) -> u64 {
    world::with(|world| {
        let slowness = world.machine(life.machine).slowness;
        world.between(low, high) * slowness.max(1)
    })
}

/// Pending work of a writer.
#[derive(Default)]
struct Queue {
    commands: Mutex<VecDeque<WriteCommand>>,
    arrived: Notify,
}

/// Runs a writer in the simulation: time passes before each of its steps, and each step is one
/// instant, in which it can crash between any two operations on the disk.
async fn drive(life: Life, mut writer: WriterLoop, mut report: Reports, queue: Arc<Queue>) {
    loop {
        let step = writer.next_step();
        match step {
            NextStep::Ended => return,
            NextStep::Idle => match writer.sync_delay() {
                None => queue.arrived.notified().await,
                Some(delay) => {
                    let arrived = tokio::time::timeout(delay, queue.arrived.notified());
                    if arrived.await.is_err() && writer.on_sync_due(&mut report).is_break() {
                        return;
                    }
                }
            },
            NextStep::Write | NextStep::Sync | NextStep::Alone => {
                let us = match step {
                    NextStep::Write => disk_us(life, 10, 200),
                    _ => disk_us(life, 100, 5_000),
                };
                world::sleep_us(us).await;
                if world::with(|world| !world.lives(life)) {
                    return;
                }
                if !mistakes::on_step(life, step, &writer, &mut report) {
                    writer.step(&mut |done| mistakes::on_report(life, done, &mut report));
                }
            }
        }
        let mut commands = queue
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        writer.queue(commands.drain(..));
    }
}

//! [`Machine`]: what a simulated program has in its hands.

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

/// One life of a simulated machine: its disk, its network, its clock and its chance.
///
/// Clones are the same. After a crash a program is started anew with a new one, and nothing that
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

    /// Its name: what peers have as its URL.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How often it was started, this time included.
    #[must_use]
    pub fn boots(&self) -> u64 {
        self.life.boot
    }

    /// Its disk, which survives crashes as far as it was synced.
    #[must_use]
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(SimulatedStorage { life: self.life })
    }

    /// Its network, for a master: the URL of a peer is the name of its machine.
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
    /// type takes the place of this one.
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

    /// Sends a request to a machine and waits for the answer, if need be for ever: the network
    /// loses what it likes.
    ///
    /// # Errors
    ///
    /// [`CallError`]: nothing listens there, or the machine went away.
    ///
    /// # Panics
    ///
    /// When the listener answers with another type.
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

    /// A number of `low..=high`, from the seed.
    #[must_use]
    pub fn random(&self, low: u64, high: u64) -> u64 {
        world::with(|world| world.between(low, high))
    }

    /// The time since the beginning of the simulation.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(world::with(|world| world.now_us))
    }

    /// Pulls the plug: what was not synced is lost or torn, and the program starts anew a while
    /// later. Takes effect once this life waits.
    pub fn lose_power(&self) {
        world::with(|world| {
            if world.lives(self.life) {
                world.schedule(0, Event::Sequel(Sequel::Plug(self.life.machine)));
            }
        });
    }

    /// Whether the run comes to its end, half-way through its calm time: what is asked for
    /// from now on may not be done before it.
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

    /// Counts that something occurred, for the report of the run.
    pub fn count(&self, what: &'static str) {
        world::with(|world| world.count(what));
    }

    /// The run has failed: the program saw what must not be.
    pub fn fail(&self, text: impl fmt::Display) {
        world::with(|world| world.violate(text.to_string()));
    }

    /// Tells the rules what an append's caller is told, when it is told. Checks what rules 4 and
    /// 5 promise from this moment on; without it only what nodes do among themselves is checked.
    pub fn acknowledged(&self, receipt: &Receipt) {
        world::with(|world| {
            if world.lives(self.life) {
                world.on_acknowledged(self.life.machine, receipt);
            }
        });
    }

    /// A client sends `payload`, which nobody sends a second time: no log may hold it twice, and
    /// from the first of these calls on no log may hold what nobody sent.
    pub fn sends(&self, payload: &[u8]) {
        world::with(|world| world.checks.on_sent(payload));
    }

    /// A client was told that what it sent alone is in no log: it must be in none.
    pub fn was_refused(&self, payload: &[u8]) {
        world::with(|world| world.checks.on_refused(payload));
    }

    /// A caller of the master is told where its message is.
    pub(crate) fn answered(&self, receipt: &Receipt, payload: &Bytes) {
        world::with(|world| {
            if world.lives(self.life) {
                world.on_receipt(self.life.machine, receipt, payload);
            }
        });
    }

    /// A node shows these messages to a client.
    pub(crate) fn read(&self, shown: &[(Offset, Bytes)]) {
        world::with(|world| {
            if world.lives(self.life) {
                world.on_read(self.life.machine, shown);
            }
        });
    }

    /// Somebody follows the node from now on.
    pub(crate) fn follows(&self, level: ReadLevel) {
        world::with(|world| {
            if world.lives(self.life) {
                world.on_follows(self.life.machine, level);
            }
        });
    }

    /// Who follows the node is told this.
    pub(crate) fn followed(&self, level: ReadLevel, followed: &Followed) {
        world::with(|world| {
            if world.lives(self.life) {
                world.on_followed(self.life.machine, level, followed);
            }
        });
    }

    /// A caller of the master has waited for its concern since then.
    pub(crate) fn waited(&self, concern: u32, since: Duration) {
        let since_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        world::with(|world| world.on_waited(self.life.machine, concern, since_us));
    }

    /// Says that something must be done by the end of the run; the result says when it is done.
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

/// Something that must be done by the end of the run. Dropping it takes it back.
#[derive(Debug)]
pub struct Goal(u64);

impl Goal {
    /// It is done.
    pub fn reached(self) {
        drop(self);
    }
}

impl Drop for Goal {
    /// Reached, or wanted by nobody any more.
    fn drop(&mut self) {
        if world::exists() {
            world::with(|world| world.goals.remove(&self.0));
        }
    }
}

/// Where a simulated node runs.
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
        let us = disk_us(self.life, 20, 300);
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

/// How long the disk of a machine takes, in microseconds.
fn disk_us(life: Life, low: u64, high: u64) -> u64 {
    world::with(|world| {
        let slowness = world.machine(life.machine).slowness;
        world.between(low, high) * slowness.max(1)
    })
}

/// What a writer has to do.
#[derive(Default)]
struct Queue {
    commands: Mutex<VecDeque<WriteCommand>>,
    arrived: Notify,
}

/// A writer in the simulation: time passes before each of its steps, and each step is one
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

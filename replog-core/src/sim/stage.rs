//! [`Stage`]: the interface of a schedule's story to the simulation.
//!
//! A story is an async function that drives the real actors through one exact schedule: it cuts
//! connections, holds packets and releases them, crashes, wipes and starts machines, appends, and
//! waits for what it relies on. Every wait has a limit, and every expected event is claimed: a story
//! that does not come to pass is a violation of its own (`story: ..`), never a silent success. All
//! rules are checked at every step, as in every simulation.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    Machine,
    cluster::{Ask, Read},
    direction::{Look, Order},
    disk::{Disk, Spared},
    faults::Doom,
    hands::{About, Hold, HoldMode, Label, Side},
    network::Packet,
    world::{self, Event, MachineId, World},
};
use crate::{
    AppendOptions, Concern, IdempotencyKey,
    error::{AppendError, Outcome},
    transport::Request,
    types::{Offset, ReadLevel},
    views::Receipt,
};

/// Maximum time that a story waits for an expected event.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two reads of a follower.
const PAUSE: Duration = Duration::from_millis(20);

/// The answer to an append; `None` if the connection broke.
pub(crate) type Answered = Option<Result<Receipt, AppendError>>;

/// Control over the simulation. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    machine: Machine,
    serial: Rc<Cell<u64>>,
}

/// An append that was sent.
#[derive(Debug)]
pub(crate) struct PendingAppend {
    answer: oneshot::Receiver<Answered>,
    has_answer: Rc<Cell<bool>>,
}

impl PendingAppend {
    /// Returns a condition that is true once its client has an answer.
    pub(crate) fn has_answer(&self) -> impl Fn() -> bool + use<> {
        let has_answer = self.has_answer.clone();
        move || has_answer.get()
    }

    /// Returns true if its client has no answer so far.
    pub(crate) fn is_unanswered(&self) -> bool {
        !self.has_answer.get()
    }
}

impl Stage {
    pub(crate) fn new(machine: Machine) -> Stage {
        Stage {
            machine,
            serial: Rc::default(),
        }
    }

    /// Writes a line of the trace: the progress of the story.
    pub(crate) fn says(&self, text: &str) {
        world::with(|world| world.note(format_args!("STORY {text}")));
    }

    /// Claims something that the story relies on; if it is not so, the run has failed.
    pub(crate) fn claim(&self, is_so: bool, text: &str) {
        if !is_so {
            self.machine.fail(format!("story: not so: {text}"));
        }
    }

    /// Returns a random number in `low..=high`, from the seed.
    pub(crate) fn random(&self, low: u64, high: u64) -> u64 {
        self.machine.random(low, high)
    }

    /// Returns true or false with equal probability.
    pub(crate) fn coin(&self) -> bool {
        self.random(0, 1) == 1
    }

    /// Inspects the world.
    pub(crate) fn look<T>(&self, at: impl FnOnce(Look<'_>) -> T) -> T {
        world::with(|world| at(Look::new(world)))
    }

    /// Lets time pass.
    pub(crate) async fn pass(&self, time: Duration) {
        self.machine.sleep(time).await;
    }

    /// Waits until this is so, and continues before anything else runs.
    pub(crate) async fn until(&self, text: &str, is_so: impl Fn(Look<'_>) -> bool + 'static) {
        let in_time = self.within(PATIENCE, is_so).await;
        self.claim(in_time, text);
        if !in_time {
            // The run is over: anything that follows would not belong to the story.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until this is so, for at most this time; returns whether it was.
    pub(crate) async fn within(
        &self,
        time: Duration,
        is_so: impl Fn(Look<'_>) -> bool + 'static,
    ) -> bool {
        let woken = world::with(|world| world.direction.watch(Box::new(is_so)));
        let asleep = self.machine.sleep(time);
        let mut asleep = pin!(asleep);
        let mut woken = pin!(woken);
        std::future::poll_fn(|cx| {
            if woken.as_mut().poll(cx).is_ready() {
                return std::task::Poll::Ready(true);
            }
            asleep.as_mut().poll(cx).map(|()| false)
        })
        .await
    }

    /// Cuts both directions between two machines.
    pub(crate) fn part(&self, one: &str, other: &str) {
        world::with(|world| {
            world.note(format_args!(
                "{one} and {other} are cut off from each other"
            ));
            let (one, other) = (world.id(one), world.id(other));
            world.wires.cut(one, other);
            world.wires.cut(other, one);
        });
    }

    /// Restores both directions between two machines.
    pub(crate) fn join(&self, one: &str, other: &str) {
        world::with(|world| {
            world.note(format_args!("{one} and {other} reach each other"));
            let (one, other) = (world.id(one), world.id(other));
            world.wires.mend(one, other);
            world.wires.mend(other, one);
        });
    }

    /// Holds the packets of this kind on this route.
    pub(crate) fn hold(&self, from: &str, to: &str, label: Label) {
        self.grip(from, to, label, HoldMode::Hold);
    }

    /// Holds the next packet of this kind, and no other.
    pub(crate) fn hold_one(&self, from: &str, to: &str, label: Label) {
        self.grip(from, to, label, HoldMode::HoldOne);
    }

    /// Keeps a copy of each request of this kind on this route.
    pub(crate) fn copy(&self, from: &str, to: &str, about: About) {
        self.grip(from, to, asks(about), HoldMode::Copy);
    }

    fn grip(&self, from: &str, to: &str, label: Label, how: HoldMode) {
        world::with(|world| {
            let (from, to) = (world.id(from), world.id(to));
            world.hands.grip(Hold {
                from,
                to,
                label,
                how,
            });
        });
    }

    /// Releases the packets that were held, in order, and ends the hold; returns how many there
    /// were.
    pub(crate) fn release(&self, from: &str, to: &str, label: Label) -> usize {
        let kept = self.take(from, to, label);
        let count = kept.len();
        self.says(&format!("what was kept goes on from {from} to {to}"));
        self.let_go(kept);
        count
    }

    /// Releases the oldest of the packets that are held.
    pub(crate) fn release_one(&self, from: &str, to: &str, label: Label) {
        let packet = world::with(|world| {
            let (from, to) = (world.id(from), world.id(to));
            world.note(format_args!("a late packet {label:?} goes on"));
            world.hands.take_one(from, to, label)
        });
        self.claim(packet.is_some(), "there was a packet to let go");
        if let Some(packet) = packet {
            world::with(|world| world.schedule(100, Event::Deliver(packet)));
        }
    }

    /// Releases the oldest of the packets that are held, with changed content: as a node sends it that has
    /// the cluster's secret and is not correct.
    pub(crate) fn forge(
        &self,
        from: &str,
        to: &str,
        label: Label,
        change: impl FnOnce(&mut Request),
    ) {
        let packet = world::with(|world| {
            let (from, to) = (world.id(from), world.id(to));
            world.note(format_args!("a forged packet {label:?} goes on"));
            world.hands.take_one(from, to, label)
        });
        self.claim(packet.is_some(), "there was a packet to forge another from");
        if let Some(packet) = packet {
            let packet = packet.forged(change);
            world::with(|world| world.schedule(100, Event::Deliver(packet)));
        }
    }

    /// Removes and returns the packets that were held, and ends the hold.
    pub(crate) fn take_held(&self, from: &str, to: &str, label: Label) -> Vec<Packet> {
        self.take(from, to, label)
    }

    /// Releases these packets.
    pub(crate) fn let_go(&self, packets: Vec<Packet>) {
        world::with(|world| {
            world.note(format_args!("{} late packets go on", packets.len()));
            for (nth, packet) in packets.into_iter().enumerate() {
                world.schedule(100 + 50 * nth as u64, Event::Deliver(packet));
            }
        });
    }

    /// Drops the packets that were held, and ends the hold; returns how many there were.
    pub(crate) fn lose(&self, from: &str, to: &str, label: Label) -> usize {
        self.take(from, to, label).len()
    }

    fn take(&self, from: &str, to: &str, label: Label) -> Vec<Packet> {
        world::with(|world| {
            let (from, to) = (world.id(from), world.id(to));
            world.hands.open(from, to, label)
        })
    }

    /// Kills it with `kill -9`; it stays down.
    pub(crate) async fn kill(&self, name: &str) {
        self.doom(name, Doom::Kill).await;
    }

    /// Cuts its power; it stays down.
    pub(crate) async fn power_cut(&self, name: &str, spared: Spared) {
        self.doom(name, |machine| Doom::PowerCut(machine, spared))
            .await;
    }

    /// Loses its disk, only if the system promises to survive that; it stays down.
    pub(crate) async fn wipe(&self, name: &str) {
        let may = self.look(|look| look.may_lose(name));
        self.claim(may, &format!("the disk of {name} may be lost"));
        self.doom(name, Doom::Wipe).await;
    }

    /// Removes its process and its directory for good.
    pub(crate) async fn retire(&self, name: &str) {
        self.doom(name, Doom::Retire).await;
    }

    async fn doom(&self, name: &str, doom: impl FnOnce(MachineId) -> Doom) {
        world::with(|world| {
            let machine = world.id(name);
            world.machine(machine).kept_down = true;
            world.direction.orders.push_back(Order::Doom(doom(machine)));
        });
        // Orders are carried out before anything else runs.
        tokio::task::yield_now().await;
    }

    /// Keeps it from starting before the story says so.
    pub(crate) fn keep_down(&self, name: &str) {
        world::with(|world| {
            let machine = world.id(name);
            world.machine(machine).kept_down = true;
        });
    }

    /// Starts it.
    pub(crate) fn boot(&self, name: &str) {
        world::with(|world| {
            let machine = world.id(name);
            world.direction.orders.push_back(Order::Boot(machine));
        });
    }

    /// Flips a bit in this record on its disk.
    pub(crate) fn rot(&self, name: &str, offset: Offset) {
        let rotten = world::with(|world| {
            let machine = world.id(name);
            let World { machines, rng, .. } = world;
            let rotten = machines[machine.0].disk.rot_at(rng, offset);
            world.note_of(machine, format_args!("rots: {offset}"));
            world.count("fault: flipped bit");
            rotten
        });
        self.claim(rotten.is_some(), "there is a record to rot");
    }

    /// Makes the next sync of one of its files whose path begins with `path` fail.
    pub(crate) fn fail_sync(&self, name: &str, path: &'static str) {
        world::with(|world| {
            let machine = world.id(name);
            world.machine(machine).disk.sync_to_fail = Some(path);
        });
    }

    /// Flips a bit in the last record that its disk holds.
    pub(crate) fn rot_last(&self, name: &str) -> Option<Offset> {
        world::with(|world| {
            let machine = world.id(name);
            let World { machines, rng, .. } = world;
            let rotten = machines[machine.0].disk.rot_last(rng);
            world.note_of(machine, format_args!("rots: {rotten:?}"));
            world.count("fault: flipped bit");
            rotten
        })
    }

    /// Removes the mark from its disk.
    pub(crate) fn lose_mark(&self, name: &str) {
        world::with(|world| {
            let machine = world.id(name);
            world.note_of(machine, format_args!("its mark is gone"));
            world.count("fault: mark lost");
            world.machine(machine).disk.lose_mark();
        });
    }

    /// Returns a copy of the durable content of its disk.
    pub(crate) fn copy_disk(&self, name: &str) -> Disk {
        world::with(|world| {
            let machine = world.id(name);
            world.machine(machine).disk.clone()
        })
    }

    /// Replaces its disk by an older copy while it is down.
    pub(crate) fn put_disk(&self, name: &str, mut copy: Disk) {
        world::with(|world| {
            let machine = world.id(name);
            world.note_of(machine, format_args!("is given an older copy of its disk"));
            copy.lose_power(&mut world.rng, Spared::Nothing, true);
            world.machine(machine).disk = copy;
        });
    }

    /// Freezes it, as SIGSTOP does.
    pub(crate) fn pause(&self, name: &str) {
        world::with(|world| {
            let machine = world.id(name);
            world.note_of(machine, format_args!("stands still"));
            world.machine(machine).paused = true;
        });
    }

    /// Resumes it.
    pub(crate) fn resume(&self, name: &str) {
        world::with(|world| {
            let machine = world.id(name);
            world.resume(machine);
        });
    }

    /// Lets a standby replace a node that is unaware of it.
    pub(crate) fn replace(&self, old: &str, standby: &str) {
        world::with(|world| {
            let (old, standby) = (world.id(old), world.id(standby));
            world.put_in_place(old, standby);
        });
    }

    /// Makes its disk full, or ends that.
    pub(crate) fn set_full(&self, name: &str, full: bool) {
        world::with(|world| {
            let machine = world.id(name);
            world.note_of(machine, format_args!("has a full disk: {full}"));
            world.machine(machine).disk.full = full;
            world.machine(machine).troubled_until_us = world.now_us;
        });
    }

    /// Makes its disk slower than normal by this factor.
    pub(crate) fn set_slowness(&self, name: &str, slowness: u64) {
        world::with(|world| {
            let machine = world.id(name);
            world.note_of(machine, format_args!("has a disk {slowness} times slower"));
            world.machine(machine).slowness = slowness;
            world.machine(machine).troubled_until_us = world.now_us;
        });
    }

    /// Makes what it reads from its disk slower than normal by this factor, whatever it writes.
    pub(crate) fn set_slowness_of_reads(&self, name: &str, slowness: u64) {
        world::with(|world| {
            let machine = world.id(name);
            world.note_of(machine, format_args!("reads {slowness} times slower"));
            world.machine(machine).slowness_of_reads = Some(slowness);
            world.machine(machine).troubled_until_us = world.now_us;
        });
    }

    /// Makes it crash at the `nth` line of the trace from now on that has this text, between two
    /// operations; it stays down.
    pub(crate) fn crash_at_line(&self, name: &str, text: &str, nth: u64) {
        world::with(|world| {
            let machine = world.id(name);
            let text = format!("{name} {text}");
            world.direction.lay_trap(machine, text, nth);
        });
    }

    /// Makes the name `alias` lead to the machine `name` from now on.
    pub(crate) fn lead(&self, alias: &str, name: &str) {
        world::with(|world| {
            let mut machines = world.machines.iter();
            let machine = machines.position(|machine| machine.name == name);
            let machine = machine.expect("a machine of this name");
            world.names.insert(alias.to_owned(), MachineId(machine));
        });
    }

    /// Returns a message that was not sent before, of this length.
    pub(crate) fn message(&self, bytes: usize) -> Bytes {
        let serial = self.serial.replace(self.serial.get() + 1);
        let text = format!("message {serial} ");
        Bytes::from(format!(
            "{text}{}",
            "x".repeat(bytes.saturating_sub(text.len()))
        ))
    }

    /// Appends a new message.
    pub(crate) fn append(&self, master: &str, concern: Concern) -> PendingAppend {
        let payload = self.message(60);
        self.send(master, payload, AppendOptions::concern(concern))
    }

    /// Appends this message with this key.
    pub(crate) fn append_keyed(
        &self,
        master: &str,
        concern: Concern,
        key: &str,
        payload: Bytes,
    ) -> PendingAppend {
        let key = IdempotencyKey::new(key).expect("a story's key is one");
        let options = AppendOptions::concern(concern).idempotency_key(key);
        self.send(master, payload, options)
    }

    /// Sends an append.
    pub(crate) fn send(
        &self,
        master: &str,
        payload: Bytes,
        options: AppendOptions,
    ) -> PendingAppend {
        self.machine.sends(&payload);
        let (answered, answer) = oneshot::channel();
        let is_keyed = options.idempotency_key.is_some();
        let ask = Ask {
            more: Vec::new(),
            payload: payload.clone(),
            options,
            hangs_up_after: None,
        };
        let (machine, master) = (self.machine.clone(), master.to_owned());
        let asked = payload.clone();
        let has_answer = Rc::new(Cell::new(false));
        let told = has_answer.clone();
        tokio::task::spawn_local(async move {
            let answer = machine
                .call::<_, Result<Receipt, AppendError>>(&master, ask)
                .await
                .ok();
            if let Some(Err(error)) = &answer
                && error.outcome() == Outcome::NotAppended
                && !is_keyed
            {
                machine.was_refused(&asked);
            }
            told.set(true);
            // An error means that the story is not interested.
            let _ = answered.send(answer);
        });
        PendingAppend { answer, has_answer }
    }

    /// Appends `count` messages, one after the other, each acknowledged at `concern`.
    pub(crate) async fn fill(&self, master: &str, concern: Concern, count: u64) {
        for _ in 0..count {
            let asked = self.append(master, concern);
            self.acknowledged(asked).await;
        }
    }

    /// Waits until an append is acknowledged.
    pub(crate) async fn acknowledged(&self, asked: PendingAppend) -> Receipt {
        let answer = self.answered(asked).await;
        match answer {
            Some(Ok(receipt)) if receipt.concern_met => receipt,
            other => {
                self.claim(false, &format!("acknowledged, but {other:?}"));
                std::future::pending().await
            }
        }
    }

    /// Waits until an append is answered, or its connection breaks.
    pub(crate) async fn answered(&self, asked: PendingAppend) -> Answered {
        match tokio::time::timeout(PATIENCE, asked.answer).await {
            Ok(answer) => answer.unwrap_or(None),
            Err(_) => {
                self.claim(false, "an append is answered");
                std::future::pending().await
            }
        }
    }

    /// Returns true if an append is answered within this time.
    pub(crate) async fn answered_within(&self, time: Duration, asked: &PendingAppend) -> bool {
        let has_answer = asked.has_answer();
        self.within(time, move |_| has_answer()).await
    }

    /// Appends until an append is acknowledged at `concern`, as a persistent client does.
    pub(crate) async fn insist(&self, master: &str, concern: Concern) -> Receipt {
        for _ in 0..200 {
            let asked = self.append(master, concern);
            if let Some(Ok(receipt)) = self.answered(asked).await
                && receipt.concern_met
            {
                return receipt;
            }
            self.pass(Duration::from_millis(100)).await;
        }
        self.claim(false, "an append is acknowledged in the end");
        std::future::pending().await
    }

    /// Waits until the master serves.
    pub(crate) async fn serving(&self, master: &'static str) {
        let text = format!("{master} serves");
        self.until(&text, move |look| look.serves(master)).await;
    }

    /// Waits until these nodes hold the log durably up to `end`, intact.
    pub(crate) async fn hold_all(&self, names: &'static [&'static str], end: Offset) {
        let text = format!("{names:?} hold everything below {end}");
        self.until(&text, move |look| {
            let holds = |name: &&str| look.held(name) >= end && look.log_epoch(name).is_some();
            names.iter().all(holds)
        })
        .await;
    }

    /// Reads what a node shows of its own log from an offset on; `None`: it refuses.
    pub(crate) async fn read(&self, name: &str, from: Offset) -> Option<Vec<(Offset, Bytes)>> {
        let level = ReadLevel::Local;
        let answer = self
            .machine
            .call::<_, Vec<(Offset, Bytes)>>(name, Read { from, level });
        answer.await.ok()
    }

    /// Reads what a node shows as committed, continuously. The result collects what was shown.
    pub(crate) fn follow(&self, name: &'static str) -> Rc<RefCell<Vec<(Offset, Bytes)>>> {
        let shown: Rc<RefCell<Vec<(Offset, Bytes)>>> = Rc::default();
        let (machine, seen) = (self.machine.clone(), shown.clone());
        tokio::task::spawn_local(async move {
            loop {
                let from = Offset(seen.borrow().len() as u64);
                let read = Read {
                    from,
                    level: ReadLevel::Committed,
                };
                let answer = machine.call::<_, Vec<(Offset, Bytes)>>(name, read);
                if let Ok(Ok(messages)) = tokio::time::timeout(PAUSE * 20, answer).await {
                    seen.borrow_mut().extend(messages);
                }
                machine.sleep(PAUSE).await;
            }
        });
        shown
    }

    /// Reports a broken rule that only the story can see.
    pub(crate) fn broken(&self, text: &str) {
        self.machine.fail(text);
    }

    /// Ends the story: all its effects on the network and the disks end, and the run ends some time
    /// later.
    pub(crate) fn finish(&self) {
        self.says("is told");
        world::with(|world: &mut World| world.direction.orders.push_back(Order::Finish));
    }
}

/// Returns the label of requests about this.
pub(crate) fn asks(about: About) -> Label {
    let side = Side::Request;
    Label { about, side }
}

/// Returns the label of answers to requests about this.
pub(crate) fn answers(about: About) -> Label {
    let side = Side::Answer;
    Label { about, side }
}

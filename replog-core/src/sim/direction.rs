//! What a schedule has laid out in the world: conditions it waits for, orders, a trap.
//!
//! Owns nothing of the story itself (`schedules/`). A condition is looked at after every step of
//! anybody, and who waits for it runs before anybody else does: so a schedule can strike between
//! any two steps of the nodes.

use std::{collections::VecDeque, fmt};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    disk::RecordId,
    faults::Doom,
    hands::Label,
    world::{MachineId, World},
};
use crate::types::{Epoch, Mode, Offset};

/// A condition of a schedule.
pub(crate) type Condition = Box<dyn Fn(Look<'_>) -> bool>;

/// What a schedule has laid out.
#[derive(Default)]
pub(crate) struct Direction {
    /// The machine whose program is the story: it runs before all others.
    pub(crate) director: Option<MachineId>,
    pub(crate) orders: VecDeque<Order>,
    watches: Vec<(Condition, oneshot::Sender<()>)>,
    trap: Option<Trap>,
}

/// What is done at once, before anything else runs.
pub(crate) enum Order {
    Doom(Doom),
    Boot(MachineId),
    /// The story is told: all faults end, and the cluster has a while to become well.
    Finish,
}

/// A machine crashes at the line that has this text, for the so-manyth time.
struct Trap {
    machine: MachineId,
    text: String,
    nth: u64,
}

impl Direction {
    pub(crate) fn watch(&mut self, condition: Condition) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        self.watches.push((condition, wake));
        woken
    }

    pub(crate) fn lay_trap(&mut self, machine: MachineId, text: String, nth: u64) {
        self.trap = Some(Trap { machine, text, nth });
    }

    /// Whom a line of the trace fells.
    pub(crate) fn springs(&mut self, line: &str) -> Option<MachineId> {
        let trap = self
            .trap
            .as_mut()
            .filter(|trap| line.contains(&trap.text))?;
        trap.nth = trap.nth.saturating_sub(1);
        let sprung = self.trap.take_if(|trap| trap.nth == 0)?;
        Some(sprung.machine)
    }
}

impl World {
    /// Wakes whoever waits for what is true now.
    pub(crate) fn look_around(&mut self) {
        if self.direction.watches.is_empty() {
            return;
        }
        let all = std::mem::take(&mut self.direction.watches);
        for (condition, wake) in all {
            // A receiver that is gone was not willing to wait so long.
            if wake.is_closed() {
                continue;
            }
            if condition(Look(self)) {
                let _ = wake.send(());
            } else {
                self.direction.watches.push((condition, wake));
            }
        }
    }
}

impl fmt::Debug for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direction")
            .field("director", &self.director)
            .finish_non_exhaustive()
    }
}

/// The world as a schedule sees it: every disk, and what every node shows.
#[derive(Clone, Copy)]
pub(crate) struct Look<'a>(&'a World);

impl<'a> Look<'a> {
    pub(crate) fn new(world: &'a World) -> Look<'a> {
        Look(world)
    }

    fn id(&self, name: &str) -> MachineId {
        self.0.id(name)
    }

    /// Whether its process runs.
    pub(crate) fn is_up(&self, name: &str) -> bool {
        self.0.machines[self.id(name).0].up
    }

    /// How often it was started.
    pub(crate) fn boots(&self, name: &str) -> u64 {
        self.0.machines[self.id(name).0].boot
    }

    /// The mode that its master shows; `None` where none runs.
    pub(crate) fn mode(&self, name: &str) -> Option<Mode> {
        self.0.checks.mode(self.id(name))
    }

    /// Whether it is a master that takes appends.
    pub(crate) fn serves(&self, name: &str) -> bool {
        self.mode(name) == Some(Mode::ReadWrite)
    }

    /// The end of what its process has written; zero where none runs.
    pub(crate) fn written(&self, name: &str) -> Offset {
        let view = self.0.checks.view(self.id(name));
        view.map_or(Offset::ZERO, |view| view.written_end())
    }

    /// The end of what its disk holds for good.
    pub(crate) fn held(&self, name: &str) -> Offset {
        self.0.machines[self.id(name).0].disk.held_end()
    }

    /// The record that its disk holds for good at `offset`.
    pub(crate) fn record(&self, name: &str, offset: Offset) -> Option<RecordId> {
        self.0.machines[self.id(name).0].disk.held(offset)
    }

    /// The message that its disk holds for good at `offset`.
    pub(crate) fn payload(&self, name: &str, offset: Offset) -> Option<Bytes> {
        let id = self.record(name, offset)?;
        self.0.checks.payload(offset, id)
    }

    /// Whether a node runs there that has opened its log.
    pub(crate) fn is_open(&self, name: &str) -> bool {
        self.0.checks.view(self.id(name)).is_some()
    }

    /// What it shows as committed.
    pub(crate) fn committed(&self, name: &str) -> Option<Offset> {
        self.0.checks.committed(self.id(name))
    }

    /// The log epoch on its disk: `None` where it is not intact.
    pub(crate) fn log_epoch(&self, name: &str) -> Option<Epoch> {
        let meta = self.0.machines[self.id(name).0].disk.meta.as_ref()?;
        meta.log_epoch
    }

    /// The epoch that its disk has promised; zero where it is blank.
    pub(crate) fn promised(&self, name: &str) -> Epoch {
        let meta = self.0.machines[self.id(name).0].disk.meta.as_ref();
        let promised = meta.and_then(|meta| meta.promised.as_ref());
        promised.map_or(Epoch(0), |promised| promised.epoch)
    }

    /// Whether its disk knows a cluster.
    pub(crate) fn has_identity(&self, name: &str) -> bool {
        let meta = self.0.machines[self.id(name).0].disk.meta.as_ref();
        meta.is_some_and(|meta| meta.cluster.is_some())
    }

    /// Whether its disk may be lost, by what the system promises.
    pub(crate) fn may_lose(&self, name: &str) -> bool {
        self.0.may_lose_disk(self.id(name))
    }

    /// How many packets of this kind are kept on this way.
    pub(crate) fn kept(&self, from: &str, to: &str, label: Label) -> usize {
        self.0.hands.kept(self.id(from), self.id(to), label)
    }

    /// How often it occurred so far.
    pub(crate) fn count(&self, what: &'static str) -> u64 {
        self.0.counted(what)
    }
}

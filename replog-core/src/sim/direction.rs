//! The pending parts of a schedule in the world: awaited conditions, orders, a trap.
//!
//! Owns nothing of the story itself (`schedules/`). A condition is checked after every step of any
//! machine, and its waiter runs before anything else does: so a schedule can intervene between any
//! two steps of the nodes.

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

/// An awaited condition of a schedule.
pub(crate) type Condition = Box<dyn Fn(Look<'_>) -> bool>;

/// The pending parts of a schedule.
#[derive(Default)]
pub(crate) struct Direction {
    /// The machine whose program is the story: it runs before all others.
    pub(crate) director: Option<MachineId>,
    pub(crate) orders: VecDeque<Order>,
    watches: Vec<(Condition, oneshot::Sender<()>)>,
    trap: Option<Trap>,
}

/// An order that is carried out at once, before anything else runs.
pub(crate) enum Order {
    Doom(Doom),
    Boot(MachineId),
    /// Ends the story: all faults end, and the cluster has a while to recover.
    Finish,
}

/// Crashes a machine at the `nth` line that has this text.
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

    /// Returns the machine that crashes at this line of the trace.
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
    /// Wakes the waiters of all conditions that are true now.
    pub(crate) fn look_around(&mut self) {
        if self.direction.watches.is_empty() {
            return;
        }
        let all = std::mem::take(&mut self.direction.watches);
        for (condition, wake) in all {
            // A receiver that is gone gave up waiting.
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

/// The world as a schedule sees it: every disk, and everything that nodes show.
#[derive(Clone, Copy)]
pub(crate) struct Look<'a>(&'a World);

impl<'a> Look<'a> {
    pub(crate) fn new(world: &'a World) -> Look<'a> {
        Look(world)
    }

    fn id(&self, name: &str) -> MachineId {
        self.0.id(name)
    }

    /// Returns true if its process runs.
    pub(crate) fn is_up(&self, name: &str) -> bool {
        self.0.machines[self.id(name).0].up
    }

    /// Returns how often it was started.
    pub(crate) fn boots(&self, name: &str) -> u64 {
        self.0.machines[self.id(name).0].boot
    }

    /// Returns the mode that its master shows; `None` if none runs.
    pub(crate) fn mode(&self, name: &str) -> Option<Mode> {
        self.0.checks.mode(self.id(name))
    }

    /// Returns true if it is a master that takes appends.
    pub(crate) fn serves(&self, name: &str) -> bool {
        self.mode(name) == Some(Mode::ReadWrite)
    }

    /// Returns the end of what its process has written; zero if none runs.
    pub(crate) fn written(&self, name: &str) -> Offset {
        let view = self.0.checks.view(self.id(name));
        view.map_or(Offset::ZERO, |view| view.written_end())
    }

    /// Returns the end of what its disk holds durably.
    pub(crate) fn held(&self, name: &str) -> Offset {
        self.0.machines[self.id(name).0].disk.held_end()
    }

    /// Returns the record that its disk holds durably at `offset`.
    pub(crate) fn record(&self, name: &str, offset: Offset) -> Option<RecordId> {
        self.0.machines[self.id(name).0].disk.held(offset)
    }

    /// Returns the message that its disk holds durably at `offset`.
    pub(crate) fn payload(&self, name: &str, offset: Offset) -> Option<Bytes> {
        let id = self.record(name, offset)?;
        self.0.checks.payload(offset, id)
    }

    /// Returns true if a node runs there that has opened its log.
    pub(crate) fn is_open(&self, name: &str) -> bool {
        self.0.checks.view(self.id(name)).is_some()
    }

    /// Returns the committed end that it shows.
    pub(crate) fn committed(&self, name: &str) -> Option<Offset> {
        self.0.checks.committed(self.id(name))
    }

    /// Returns the log epoch on its disk: `None` if it is not intact.
    pub(crate) fn log_epoch(&self, name: &str) -> Option<Epoch> {
        let meta = self.0.machines[self.id(name).0].disk.meta.as_ref()?;
        meta.log_epoch
    }

    /// Returns the epoch that its disk has promised; zero if it is blank.
    pub(crate) fn promised(&self, name: &str) -> Epoch {
        let meta = self.0.machines[self.id(name).0].disk.meta.as_ref();
        let promised = meta.and_then(|meta| meta.promised.as_ref());
        promised.map_or(Epoch(0), |promised| promised.epoch)
    }

    /// Returns true if its disk knows a cluster.
    pub(crate) fn has_identity(&self, name: &str) -> bool {
        let meta = self.0.machines[self.id(name).0].disk.meta.as_ref();
        meta.is_some_and(|meta| meta.cluster.is_some())
    }

    /// Returns true if its disk may be lost, by the promises of the system.
    pub(crate) fn may_lose(&self, name: &str) -> bool {
        self.0.may_lose_disk(self.id(name))
    }

    /// Returns how many packets of this kind are held on this route.
    pub(crate) fn kept(&self, from: &str, to: &str, label: Label) -> usize {
        self.0.hands.kept(self.id(from), self.id(to), label)
    }

    /// Returns how often it has occurred so far.
    pub(crate) fn count(&self, what: &'static str) -> u64 {
        self.0.counted(what)
    }
}

//! State that a node's actors publish for readers on any thread: committed end, mode, and events.

use crate::{
    handle::events::EventHub,
    types::{Mode, NodeName, Offset},
    watch,
};

/// The newest published state of a node.
#[derive(Debug)]
pub(crate) struct Shared {
    committed: watch::Sender<Option<Offset>>,
    mode: watch::Sender<Mode>,
    events: EventHub,
    /// The number of times that the coordinator woke up.
    #[cfg(test)]
    wake_ups: std::sync::atomic::AtomicU64,
}

impl Shared {
    /// Creates the state of the node of this name; only a master has secondaries.
    pub(crate) fn new(node: NodeName, secondaries: Vec<NodeName>) -> Shared {
        Shared {
            committed: watch::Sender::new(None),
            mode: watch::Sender::new(Mode::Recovering),
            events: EventHub::new(node, secondaries),
            #[cfg(test)]
            wake_ups: std::sync::atomic::AtomicU64::new(0),
        }
    }

    #[cfg(test)]
    pub(crate) fn count_wake_up(&self) {
        self.wake_ups
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn wake_ups(&self) -> u64 {
        self.wake_ups.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn set_committed(&self, committed: Option<Offset>) {
        self.committed
            .send_if_modified(|known| std::mem::replace(known, committed) != committed);
    }

    pub(crate) fn committed(&self) -> Option<Offset> {
        *self.committed.borrow()
    }

    pub(crate) fn watch_committed(&self) -> watch::Receiver<Option<Offset>> {
        self.committed.subscribe()
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode
            .send_if_modified(|known| std::mem::replace(known, mode) != mode);
    }

    pub(crate) fn events(&self) -> &EventHub {
        &self.events
    }

    pub(crate) fn watch_mode(&self) -> watch::Receiver<Mode> {
        self.mode.subscribe()
    }
}

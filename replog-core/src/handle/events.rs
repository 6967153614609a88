//! [`Events`], a listener's handle, and the hub to which a node's actors publish changes.
//!
//! Changes go into a ring of fixed length, created for the first listener: without a listener,
//! publishing costs one pointer check. Ends and counts, which change with every append, are kept as the
//! newest state, and each listener merges them at its own pace (`rules/merging.rs`). No actor has
//! a timer or a message for events. Keeps rule 11.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, OnceLock},
};

use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::Instant,
};

use crate::{
    events::{Change, Fault, NodeEvent, Notice},
    handle::{Shared, host::Host, runtime},
    limits::EVENTS_KEPT,
    log::LogView,
    rules::merging::{About, Ends, Merging},
    transport::{FaultInjector, FaultNews},
    types::{NodeName, Offset},
    watch,
};

/// A listener to a node's events, from its creation on. [`Master::health`] reports the state before: a caller
/// that listens first and then asks misses nothing in between.
///
/// A listener costs the node no memory, however slow it is: it misses events, and is told how many. Appends,
/// acks and faults that happened are each reported at most 20 times a second; several within that interval
/// are merged into one event.
///
/// ```
/// # use std::sync::Arc;
/// # use replog_core::{
/// #     AppendOptions, Concern, Master, MasterConfig, storage::MemoryStorage,
/// #     transport::LocalNetwork,
/// # };
/// use replog_core::events::{Change, Notice};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let config = MasterConfig::new("master".parse()?, vec![]);
/// # let network = Arc::new(LocalNetwork::new());
/// # let master = Master::start(config, Arc::new(MemoryStorage::new()), network).await?;
/// # master.wait_until_writable().await?;
/// let mut events = master.events();
/// master.append("hello", AppendOptions::concern(Concern::All)).await?;
/// while let Some(notice) = events.next().await {
///     match notice {
///         Notice::Event(event) => {
///             println!("{} {}: {:?}", event.at_ms, event.node, event.what);
///             if matches!(event.what, Change::Append { .. }) {
///                 break;
///             }
///         }
///         Notice::Missed { count } => println!("too slow for {count} events"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// [`Master::health`]: crate::Master::health
pub struct Events {
    shared: Arc<Shared>,
    host: Arc<dyn Host>,
    ring: broadcast::Receiver<NodeEvent>,
    counts: watch::Receiver<Counts>,
    shown: watch::Receiver<Offset>,
    ended: runtime::Ended,
    merging: Merging,
    /// Merged events that were not taken yet, at most one per kind and node.
    ready: VecDeque<NodeEvent>,
    /// True once the node has ended and its last state was merged.
    over: bool,
}

impl Events {
    pub(crate) fn new(
        view: &Arc<LogView>,
        shared: &Arc<Shared>,
        host: &Arc<dyn Host>,
        ended: &runtime::Ended,
    ) -> Events {
        let ring = shared.events().listen();
        let counts = shared.events().counts.subscribe();
        let shown = view.durable_end_watch();
        let known = ends(&counts.borrow(), *shown.borrow());
        Events {
            shared: shared.clone(),
            host: host.clone(),
            ring,
            counts,
            shown,
            ended: ended.clone(),
            merging: Merging::new(Instant::now(), known),
            ready: VecDeque::new(),
            over: false,
        }
    }

    /// Waits for the next event. Returns `None` when the node has ended and all events were returned.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime with time enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Notice> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Notice::Event(event));
            }
            if self.over {
                return None;
            }
            let next_at = self.merging.next_at();
            tokio::select! {
                biased;
                published = self.ring.recv() => match published {
                    Ok(event) => return Some(Notice::Event(event)),
                    Err(RecvError::Lagged(count)) => return Some(Notice::Missed { count }),
                    Err(RecvError::Closed) => unreachable!("`shared` keeps the ring's sender"),
                },
                () = moved(next_at, &mut self.counts, &mut self.shown) => {
                    let newest = self.newest();
                    let merged = self.merging.publish(Instant::now(), &newest);
                    self.make_ready(merged);
                }
                () = end_of(&mut self.ended) => {
                    let newest = self.newest();
                    let merged = self.merging.publish_now(&newest);
                    self.make_ready(merged);
                    self.over = true;
                }
            }
        }
    }

    fn newest(&mut self) -> Ends {
        let own = *self.shown.borrow_and_update();
        ends(&self.counts.borrow_and_update(), own)
    }

    fn make_ready(&mut self, merged: Vec<(About, Change)>) {
        let at_ms = self.host.wall_ms();
        let events = self.shared.events();
        self.ready.extend(merged.into_iter().map(|(about, what)| {
            let node = match about {
                About::Own => events.node.clone(),
                About::Secondary(secondary) => events.secondaries[secondary].clone(),
            };
            NodeEvent { at_ms, node, what }
        }));
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("node", &self.shared.events().node)
            .finish_non_exhaustive()
    }
}

/// Waits until an end or a count has changed, and at least until `next_at`, so that a listener is not woken
/// by each of ten thousand appends.
async fn moved(
    next_at: Instant,
    counts: &mut watch::Receiver<Counts>,
    shown: &mut watch::Receiver<Offset>,
) {
    tokio::time::sleep_until(next_at).await;
    let changed = tokio::select! {
        biased;
        changed = counts.changed() => changed,
        changed = shown.changed() => changed,
    };
    if changed.is_err() {
        // The node has ended, which `end_of` reports.
        std::future::pending::<()>().await;
    }
}

async fn end_of(ended: &mut runtime::Ended) {
    // An error means that the node is gone without reporting its end.
    let _ = ended.wait_for(Option::is_some).await;
}

fn ends(counts: &Counts, own: Offset) -> Ends {
    Ends {
        own,
        acked: counts.acked.clone(),
        faults: counts.faults,
    }
}

/// The newest values of frequently changing state.
#[derive(Debug)]
struct Counts {
    acked: Vec<Option<Offset>>,
    faults: [u64; Fault::ALL.len()],
}

/// The hub through which a node publishes changes to its listeners.
#[derive(Debug)]
pub(crate) struct EventHub {
    node: NodeName,
    secondaries: Vec<NodeName>,
    ring: OnceLock<broadcast::Sender<NodeEvent>>,
    counts: watch::Sender<Counts>,
}

impl EventHub {
    pub(crate) fn new(node: NodeName, secondaries: Vec<NodeName>) -> EventHub {
        let counts = Counts {
            acked: vec![None; secondaries.len()],
            faults: [0; Fault::ALL.len()],
        };
        EventHub {
            node,
            secondaries,
            ring: OnceLock::new(),
            counts: watch::Sender::new(counts),
        }
    }

    /// Publishes a change of `node` to all listeners.
    pub(crate) fn publish(&self, host: &dyn Host, node: &NodeName, what: impl FnOnce() -> Change) {
        let Some(ring) = self.ring.get().filter(|ring| ring.receiver_count() > 0) else {
            return;
        };
        // An error means that the last listener has just gone.
        let _ = ring.send(NodeEvent {
            at_ms: host.wall_ms(),
            node: node.clone(),
            what: what(),
        });
    }

    /// Publishes a change of the node itself, as [`EventHub::publish`] does for any node.
    pub(crate) fn publish_own(&self, host: &dyn Host, what: impl FnOnce() -> Change) {
        self.publish(host, &self.node, what);
    }

    /// Sets the durable end of a secondary; `None` while it does not count.
    pub(crate) fn set_acked(&self, secondary: usize, durable_end: Option<Offset>) {
        self.counts.send_if_modified(|counts| {
            let known = &mut counts.acked[secondary];
            std::mem::replace(known, durable_end) != durable_end
        });
    }

    fn count_fault(&self, fault: Fault) {
        // Each fault's discriminant is its index in `ALL`.
        self.counts
            .send_modify(|counts| counts.faults[fault as usize] += 1);
    }

    fn listen(&self) -> broadcast::Receiver<NodeEvent> {
        let ring = self
            .ring
            .get_or_init(|| broadcast::Sender::new(EVENTS_KEPT));
        ring.subscribe()
    }
}

/// Includes the faults of `injector` in the node's events from now on.
pub(crate) fn publish_faults(shared: &Arc<Shared>, host: &Arc<dyn Host>, injector: &FaultInjector) {
    let (shared, host) = (shared.clone(), host.clone());
    injector.on_news(move |news| match news {
        FaultNews::Set(faults) => {
            let faults = || Change::FaultsSet { faults };
            shared.events().publish_own(&*host, faults);
        }
        FaultNews::Happened(fault) => shared.events().count_fault(fault),
    });
}

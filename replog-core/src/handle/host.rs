//! What a node takes from where it runs: threads, the wall clock, and chance.
//!
//! The one place that takes them from the system, to hand them in. In a simulation all of them
//! come from the seed, and nothing runs on a thread of its own.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tokio::sync::oneshot;

use crate::{
    config::Timing,
    handle::Shared,
    log::{LogView, LogWriter, WriteReport, WriterLoop},
    types::NodeName,
};

/// Work that may block.
pub(crate) type Work = Box<dyn FnOnce() + Send>;

/// Where a writer's reports go.
pub(crate) type Reports = Box<dyn FnMut(WriteReport) + Send>;

/// Where a node runs.
pub(crate) trait Host: fmt::Debug + Send + Sync {
    /// Whether nodes live where they are started, on no thread of their own.
    fn is_simulated(&self) -> bool {
        false
    }

    /// Milliseconds since 1970.
    fn wall_ms(&self) -> u64;

    /// A new source of chance.
    fn rng(&self) -> ChaCha8Rng;

    /// Runs what may block where it blocks no actor. The work is dropped where the host is going
    /// down.
    fn off_thread(&self, work: Work) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Starts a writer, which calls `report` for everything it did.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    fn start_writer(&self, writer: WriterLoop, report: Reports) -> io::Result<LogWriter>;

    /// A node has opened its log: whoever checks it may look at what it shows.
    fn watch(&self, node: Watched);
}

/// What a node shows, to whoever checks it.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "sim"),
    expect(dead_code, reason = "a system does not look")
)]
pub(crate) struct Watched {
    pub(crate) role: Role,
    pub(crate) view: Arc<LogView>,
    pub(crate) shared: Arc<Shared>,
}

/// What a node is.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "sim"),
    expect(dead_code, reason = "a system does not look")
)]
pub(crate) enum Role {
    Master {
        nodes: Vec<NodeName>,
        timing: Timing,
    },
    Secondary,
}

/// The operating system.
#[derive(Debug)]
pub(crate) struct System;

impl Host for System {
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn rng(&self) -> ChaCha8Rng {
        ChaCha8Rng::from_rng(&mut rand::rng())
    }

    fn off_thread(&self, work: Work) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            // An error: the work panicked, and whoever waits for its result finds none.
            let _ = tokio::task::spawn_blocking(work).await;
        })
    }

    fn start_writer(&self, writer: WriterLoop, report: Reports) -> io::Result<LogWriter> {
        LogWriter::spawn(writer, report)
    }

    fn watch(&self, _: Watched) {}
}

/// Where the calling code runs: in a simulation, or on the system.
pub(crate) fn current() -> Arc<dyn Host> {
    #[cfg(feature = "sim")]
    if let Some(host) = crate::sim::current_host() {
        return host;
    }
    Arc::new(System)
}

/// Runs what may block off the actors' thread and brings its result back; `None` when the host
/// is going down, or the work panicked.
pub(crate) async fn off_thread<T: Send + 'static>(
    host: &Arc<dyn Host>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = oneshot::channel();
    let work = Box::new(move || {
        let _ = done.send(work());
    });
    host.off_thread(work).await;
    result.await.ok()
}

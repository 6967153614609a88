//! The services of a node's environment: threads, the wall clock, and randomness.
//!
//! The only module that takes them from the system and passes them in. In a simulation all of them
//! come from the seed, and nothing runs on its own thread.

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

/// The receiver of a writer's reports.
pub(crate) type Reports = Box<dyn FnMut(WriteReport) + Send>;

/// The environment in which a node runs.
pub(crate) trait Host: fmt::Debug + Send + Sync {
    /// Reports whether nodes run on the thread that starts them, not on their own.
    fn is_simulated(&self) -> bool {
        false
    }

    /// Returns the wall-clock time in milliseconds since 1970.
    fn wall_ms(&self) -> u64;

    /// Returns a new random number generator.
    fn rng(&self) -> ChaCha8Rng;

    /// Runs work that may block where it blocks no actor. The work is dropped if the host is shutting
    /// down.
    fn off_thread(&self, work: Work) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Starts a writer, which reports everything it did through `report`.
    ///
    /// # Errors
    ///
    /// The system's error if it cannot start a thread.
    fn start_writer(&self, writer: WriterLoop, report: Reports) -> io::Result<LogWriter>;

    /// Registers a node that has opened its log, so that a checker can inspect what it shows.
    fn watch(&self, node: Watched);
}

/// The state that a node shows to a checker.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "sim"),
    expect(dead_code, reason = "only a simulation checks nodes")
)]
pub(crate) struct Watched {
    pub(crate) role: Role,
    pub(crate) view: Arc<LogView>,
    pub(crate) shared: Arc<Shared>,
}

/// The role of a node.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "sim"),
    expect(dead_code, reason = "only a simulation checks nodes")
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
            // An error means that the work panicked; the caller that waits for its result finds none.
            let _ = tokio::task::spawn_blocking(work).await;
        })
    }

    fn start_writer(&self, writer: WriterLoop, report: Reports) -> io::Result<LogWriter> {
        LogWriter::spawn(writer, report)
    }

    fn watch(&self, _: Watched) {}
}

/// Returns the host of the calling code: a simulation, or the system.
pub(crate) fn current() -> Arc<dyn Host> {
    #[cfg(feature = "sim")]
    if let Some(host) = crate::sim::current_host() {
        return host;
    }
    Arc::new(System)
}

/// Runs blocking work off the actors' thread and returns its result; `None` if the host is shutting
/// down or the work panicked.
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

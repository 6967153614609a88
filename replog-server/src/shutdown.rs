//! The end of a process: signals, and nodes that stop by themselves.
//!
//! Owns the order: what waits is answered, then the logs are synced, then the servers finish what is
//! under way. A second signal ends the process at once.

use std::io;

use futures_util::future::{join_all, select_all};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{serve::RunningNode, stderr};

/// Exit code after a second signal: nothing was finished.
const ENDED_AT_ONCE: i32 = 1;

/// The signals that ask a process to end.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over: from now on none of them ends the process by itself.
    pub(crate) fn take() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one, and names it.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Waits until the process shall end, and ends every node.
///
/// # Errors
///
/// Why it had to stop, where nobody asked for it.
pub(crate) async fn wait_and_stop(
    nodes: Vec<RunningNode>,
    mut signals: Signals,
) -> Result<(), String> {
    let asked = tokio::select! {
        biased;
        name = signals.next() => {
            log::info!("{name}: stopping");
            Ok(())
        }
        reason = first_stopped(&nodes) => Err(reason),
    };
    tokio::select! {
        biased;
        () = stop(&nodes) => {}
        name = signals.next() => {
            stderr::say("replog-server", &format!("{name} again: ended at once"));
            std::process::exit(ENDED_AT_ONCE);
        }
    }
    if asked.is_ok() {
        log::info!("stopped");
    }
    asked
}

/// Waits until a node stops by itself, and says why.
async fn first_stopped(nodes: &[RunningNode]) -> String {
    let stopped = nodes.iter().map(|running| {
        Box::pin(async {
            let stopped = running.state.node.stopped().await;
            format!("{}: {stopped}", running.state.node.name())
        })
    });
    let (reason, _, _) = select_all(stopped).await;
    log::error!("{reason}");
    reason
}

async fn stop(nodes: &[RunningNode]) {
    // The waiting first: their answers still need the servers. And the nodes before the servers, on
    // whose threads they live: reads that are under way go on without them.
    join_all(nodes.iter().map(|running| running.state.node.drain())).await;
    join_all(nodes.iter().map(|running| running.state.node.stop())).await;
    join_all(nodes.iter().map(graceful)).await;
}

/// Takes no new connections, ends those without a request, and waits for the answers under way, but for
/// those that nobody reads.
async fn graceful(running: &RunningNode) {
    tokio::select! {
        biased;
        () = running.server.stop(true) => {}
        // The server would notice within a second that nothing is left, and would wait for who listens and
        // does not read.
        left = running.connections.finished() => {
            if left > 0 {
                log::info!(
                    "{}: {left} connections of followers and listeners that take nothing are closed",
                    running.state.node.name()
                );
            }
        }
    }
}

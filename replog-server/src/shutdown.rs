//! The end of a process: signals, and nodes that stop by themselves.
//!
//! Owns the order: waiting requests are answered, then the logs are synced, then the servers finish the answers in
//! progress. A second signal ends the process at once.

use std::{
    fs,
    future::pending,
    io,
    time::{Duration, Instant},
};

use futures_util::future::{join_all, select_all};
use rustix::process::Signal as Sent;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{log_lines, serve::RunningNode, words::counted};

/// Exit code after a second signal: nothing was finished.
const ENDED_AT_ONCE: i32 = 1;

/// A signal this soon after the first does not count as a second one.
const SECOND_SIGNAL_MIN: Duration = Duration::from_millis(200);

/// The signals that ask a process to end.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    /// `None` where the process was started to outlive its terminal, as by `nohup`.
    hang_up: Option<Signal>,
}

impl Signals {
    /// Takes over the signals: from now on none of them ends the process by itself. Nor does the signal for a limit on
    /// file size, which becomes an error of the write, as on a full disk.
    pub(crate) fn take() -> io::Result<Signals> {
        // Nothing needs to wait for it: with a handler in place the write fails.
        drop(signal(SignalKind::from_raw(Sent::XFSZ.as_raw()))?);
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hang_up: match ignores(Sent::HUP) {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    /// Waits for the next signal, and returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
            _ = hang_up => "SIGHUP",
        }
    }
}

/// Returns `true` if the process was started with this signal ignored. `false` if the system does not say.
fn ignores(signal: Sent) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}

/// Waits until the process is asked to end or has to, and ends every node.
///
/// # Errors
///
/// The reason why it had to stop, if nobody asked for it.
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
    let asked_at = asked.is_ok().then(Instant::now);
    tokio::select! {
        biased;
        () = stop(&nodes) => {}
        name = asked_again(&mut signals, asked_at) => {
            log_lines::say(&format!("{name} again: ended at once"));
            log_lines::finish();
            std::process::exit(ENDED_AT_ONCE);
        }
    }
    if asked.is_ok() {
        log::info!("stopped");
    }
    asked
}

/// Waits for the signal to end without waiting any longer, and returns its name. A signal that comes with the first is
/// the same wish: `timeout` sends it to the program and to its whole group, which the program is in.
async fn asked_again(signals: &mut Signals, asked_at: Option<Instant>) -> &'static str {
    loop {
        let name = signals.next().await;
        if asked_at.is_none_or(|asked_at| asked_at.elapsed() >= SECOND_SIGNAL_MIN) {
            return name;
        }
    }
}

/// Waits until a node or its web server stops by itself, and returns the reason.
async fn first_stopped(nodes: &[RunningNode]) -> String {
    let stopped = nodes.iter().map(|running| {
        Box::pin(async {
            let name = running.state.node.name();
            tokio::select! {
                biased;
                stopped = running.state.node.stopped() => format!("{name}: {stopped}"),
                reason = running.server_end.clone().reason() => format!("{name}: {reason}"),
            }
        })
    });
    let (reason, _, _) = select_all(stopped).await;
    // At once: the end may take a while, and the program's last line comes after it.
    log::error!("{reason}");
    reason
}

async fn stop(nodes: &[RunningNode]) {
    // Waiting requests first: their answers still need the servers. And the nodes before the servers, on whose threads
    // they live: reads in progress go on without them.
    join_all(nodes.iter().map(|running| running.state.node.drain())).await;
    join_all(nodes.iter().map(|running| running.state.node.stop())).await;
    join_all(
        nodes
            .iter()
            .map(|running| running.state.stop_between_nodes()),
    )
    .await;
    join_all(nodes.iter().map(graceful)).await;
}

/// Takes no new connections, closes those without a request, and waits for the answers in progress, except for those
/// that nobody reads.
async fn graceful(running: &RunningNode) {
    tokio::select! {
        biased;
        () = running.server.stop(true) => {}
        // The server would notice within a second that nothing is left, and would wait for listeners that do not read.
        left = running.connections.finished() => {
            if left > 0 {
                log::info!(
                    "{}: closing {} of followers and listeners that do not read",
                    running.state.node.name(),
                    counted(left, "connection")
                );
            }
        }
    }
}

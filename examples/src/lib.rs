//! What the example programs share, so that each of them reads as the story that it tells.
//!
//! Owns no behaviour of the log: everything that the programs show is done by `replog-core`.
//! Nothing here sleeps for luck: every wait is for a condition and has a deadline.
//!
//! | part | is for |
//! | --- | --- |
//! | [`Story`] | the timeline on stdout, the checks at its end, the exit code |
//! | [`Cluster`] | a master and two secondaries in this process, to start, stop, empty, cut off |
//! | [`Traffic`] | what the master sent to whom, and what became of it |
//! | [`client`] | appends and reads, as clients of a node make them |
#![forbid(unsafe_code)]

pub mod client;
mod cluster;
mod story;
mod traffic;

pub use cluster::{Cluster, ModeChange, StatusChange, secondary, timing};
pub use story::Story;
pub use traffic::{Batch, Fate, Traffic};

use std::time::Duration;

/// What ends a program early: a sentence for a person.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The master's name.
pub const MASTER: &str = "master";
/// The first secondary's name.
pub const ONE: &str = "secondary-1";
/// The second secondary's name.
pub const TWO: &str = "secondary-2";

/// How long anything may take before a program gives up and fails. Long beside what is shown,
/// because a program may share its processor with others.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How many times slower than usual the timing of a program is, so that a person can follow it: what `--slow` says, as in
/// `cargo run --example retries -- --slow 5`; 1 without it.
#[must_use]
pub fn slowness() -> u32 {
    let mut args = std::env::args().skip_while(|arg| arg != "--slow").skip(1);
    let given = args.next().and_then(|times| times.parse().ok());
    given.unwrap_or(1).clamp(1, SLOWNESS_MAX)
}

/// Slower than this, nothing would happen for minutes.
const SLOWNESS_MAX: u32 = 60;

/// Waits for `future`, but no longer than [`DEADLINE`], or as many times that as [`slowness`] says.
///
/// # Errors
///
/// That `what` did not come in time.
pub async fn within<F: Future>(what: &str, future: F) -> Result<F::Output, Failure> {
    tokio::time::timeout(DEADLINE * slowness(), future)
        .await
        .map_err(|_| late(what))
}

/// What is said when the deadline has passed.
fn late(what: &str) -> Failure {
    let deadline = DEADLINE * slowness();
    format!("waited {} s in vain for {what}", deadline.as_secs()).into()
}

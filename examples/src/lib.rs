//! Shared parts of the example programs, so that each of them reads as the story that it tells.
//!
//! Owns no behaviour of the log: everything that the programs show is done by `replog-core`. There
//! are no fixed sleeps: every wait is for a condition and has a deadline.
//!
//! | part | is for |
//! | --- | --- |
//! | [`Story`] | the timeline on stdout, the checks at its end, the exit code |
//! | [`Cluster`] | a master and two secondaries in this process, to start, stop, empty, cut off |
//! | [`Traffic`] | what the master sent to whom, and what became of it |
//! | [`nodes`] | a master and two secondaries in this process, and nothing else: all that embedding takes |
//! | [`client`] | appends and reads, as clients of a node make them |
#![forbid(unsafe_code)]

pub mod client;
mod cluster;
pub mod nodes;
mod story;
mod traffic;

pub use cluster::{Cluster, ModeChange, StatusChange, secondary, timing};
pub use story::Story;
pub use traffic::{Batch, Fate, Traffic};

use std::time::Duration;

/// Error that ends a program early: a sentence for a person.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The master's name.
pub const MASTER: &str = "master";
/// The first secondary's name.
pub const ONE: &str = "secondary-1";
/// The second secondary's name.
pub const TWO: &str = "secondary-2";

/// Maximum time of any step before a program gives up and fails. Much longer than the steps take,
/// because a program may share its processor with others.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Returns the factor by which the timing of a program is slowed down, so that a person can follow it: the value of
/// `--slow`, as in `cargo run --example retries -- --slow 5`; 1 without it.
#[must_use]
pub fn slowness() -> u32 {
    let mut args = std::env::args().skip_while(|arg| arg != "--slow").skip(1);
    let given = args.next().and_then(|times| times.parse().ok());
    given.unwrap_or(1).clamp(1, SLOWNESS_MAX)
}

/// A larger factor would mean minutes in which nothing happens.
const SLOWNESS_MAX: u32 = 60;

/// Waits for `future`, but no longer than [`DEADLINE`] times [`slowness`].
///
/// # Errors
///
/// `what` did not come in time.
pub async fn within<F: Future>(what: &str, future: F) -> Result<F::Output, Failure> {
    tokio::time::timeout(DEADLINE * slowness(), future)
        .await
        .map_err(|_| late(what))
}

/// Returns the error for a deadline that has passed.
fn late(what: &str) -> Failure {
    let deadline = DEADLINE * slowness();
    format!(
        "timed out after {} s waiting for {what}",
        deadline.as_secs()
    )
    .into()
}

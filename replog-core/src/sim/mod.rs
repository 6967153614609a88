//! Simulation: whole clusters on one thread, from one seed, with faults and checks.
//!
//! The actors, the rules and the log are those of production; time, network, disks, clocks and
//! randomness are simulated. A minute of a cluster under faults takes milliseconds, the same seed
//! gives the same run to the last byte of its trace, and the rules of the system are checked at
//! every step by an observer that sees every disk. After FoundationDB's simulation (Zhou et al.,
//! SIGMOD 2021).
//!
//! ```
//! use std::time::Duration;
//!
//! use replog_core::{
//!     AppendOptions, Concern, Master, MasterConfig, Secondary, SecondaryConfig,
//!     sim::{Faults, Machine, Simulation},
//! };
//!
//! async fn secondary(machine: Machine) {
//!     let config = SecondaryConfig::new("secondary-1".parse().expect("a name"));
//!     let Ok(secondary) = Secondary::start(config, machine.storage()).await else {
//!         return; // The machine was crashed meanwhile; it will be started again.
//!     };
//!     machine.serve(secondary.clone());
//!     secondary.stopped().await;
//! }
//!
//! async fn program(machine: Machine) {
//!     // A peer's URL is the name of its machine.
//!     let peer = "secondary-1=secondary-1".parse().expect("a peer");
//!     let config = MasterConfig::new("master".parse().expect("a name"), vec![peer]);
//!     let Ok(master) = Master::start(config, machine.storage(), machine.network()).await else {
//!         return;
//!     };
//!     while !machine.winding_down() {
//!         if let Ok(receipt) = master.append("tick", AppendOptions::concern(Concern::All)).await {
//!             machine.acknowledged(&receipt);
//!         }
//!         machine.sleep(Duration::from_secs(1)).await;
//!     }
//!     master.stopped().await;
//! }
//!
//! for seed in 0..10 {
//!     let outcome = Simulation::new(seed)
//!         .node("master", program)
//!         .node("secondary-1", secondary)
//!         .faults(Faults::drawn(seed))
//!         .lasting(Duration::from_secs(20), Duration::from_secs(30))
//!         .run();
//!     assert_eq!(outcome.violation, None, "seed {seed}");
//! }
//! ```
//!
//! # Simulated parts
//!
//! - A [`Machine`] runs a program, a future, which starts nodes with [`Machine::storage`] and
//!   [`Machine::network`]. A crash drops everything that runs on the machine; data that was not
//!   synced to its disk is lost or torn; its program is restarted a while later.
//! - The network loses, delays, duplicates and reorders packets and is cut, both ways or one way.
//! - Clocks jump, machines freeze, disks are slow, full, fail to sync, or are lost for good as far
//!   as the promise of the system allows. See [`Faults`].
//!
//! # Kinds of runs
//!
//! - Drawn runs: a cluster, a load and a mix of faults from a seed ([`cluster::Cluster::drawn`],
//!   [`Faults::drawn`]). They find what no one thought of. Anything that never happened in a
//!   thousand of them was not tested: [`OCCURRENCES`] names what must happen, and a campaign fails
//!   without it.
//! - Crash points: short [`Scenario`]s in which every event times every node is a run of its own,
//!   in which that node crashes at exactly that event, and runs with a second crash in the
//!   recovery.
//! - [`Schedule`]s: exact event sequences that broke lesser protocols, replayed with the real
//!   actors. Random runs find some of them once in a million seeds.
//!
//! Mistakes are planted to verify that the checks find them: `MISTAKES.md` lists which check finds
//! which mistake. The log lines of a node are part of the trace, and counted: so a campaign's
//! report says how often each outcome of a recovery, each status and each cut occurred.
//!
//! # Restrictions on programs
//!
//! A program must not use anything that does not come from the seed: threads, sockets, the system's clock
//! or randomness, the iteration order of a `HashMap`, `tokio::select!` without `biased`,
//! `tokio::sync::watch` with several waiters (it wakes them in a random order of its own). `tokio::time` is
//! simulated.

mod checks;
pub mod cluster;
mod direction;
mod disk;
mod faults;
mod hands;
mod machine;
mod mistakes;
mod narrator;
mod network;
mod occurrences;
mod scenario;
mod scheduler;
mod schedules;
mod stage;
#[cfg(test)]
mod tests;
mod trace;
mod world;

use std::sync::Arc;

pub use faults::Faults;
pub use machine::{Goal, Machine};
pub use mistakes::Mistake;
pub(crate) use mistakes::is_planted;
pub use network::CallError;
pub use occurrences::{OCCURRENCES, SCHEDULED};
pub use scenario::Scenario;
pub use scheduler::{Outcome, Simulation};
pub use schedules::Schedule;

use crate::handle::host::Host;

/// Returns the host of the machine whose code runs now, if this thread runs a simulation.
pub(crate) fn current_host() -> Option<Arc<dyn Host>> {
    world::current().map(|life| Machine::new(life, "").host())
}

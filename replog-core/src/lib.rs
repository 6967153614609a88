// The crate's front page is in `docs/`, in this order; a part about an optional feature is included
// only with that feature.
#![doc = include_str!("../docs/1-cluster.md")]
#![cfg_attr(feature = "net", doc = include_str!("../docs/2-net.md"))]
#![cfg_attr(feature = "http", doc = include_str!("../docs/2-client.md"))]
#![doc = include_str!("../docs/3-messages.md")]
#![cfg_attr(feature = "typed", doc = include_str!("../docs/4-typed.md"))]
#![doc = include_str!("../docs/5-health.md")]
#![cfg_attr(feature = "sim", doc = include_str!("../docs/6-simulation.md"))]
#![doc = include_str!("../docs/7-embedding.md")]
#![forbid(unsafe_code)]

pub mod address;
#[cfg(feature = "http")]
pub mod client;
pub mod config;
pub mod error;
pub mod events;
pub mod frame;
pub mod limits;
pub mod metrics;
#[cfg(feature = "sim")]
pub mod sim;
pub mod storage;
pub mod transport;
#[cfg(feature = "typed")]
pub mod typed;
pub mod types;
pub mod views;
#[doc(hidden)]
pub mod words;

mod actors;
mod handle;
mod log;
mod planted;
mod rules;
mod spans;
mod watch;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod hot_path;

pub use config::{
    ForcedRecovery, Founding, LogConfig, MasterConfig, Peer, SecondaryConfig, TakeOver, Timing,
};
pub use frame::MessageBatch;
pub use handle::{
    AppendOptions, Events, Followed, Follower, Master, MessageRange, Reader, Secondary,
};
pub use log::{
    check,
    repair_epoch::{RepairEpochError, RepairedNode, repair_epoch},
};
pub use types::*;

/// The README's code is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The book's code is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/src/embedding.md")]
struct Book;

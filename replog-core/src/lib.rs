//! A replicated log to embed.
#![forbid(unsafe_code)]

#[cfg(feature = "http")]
pub mod client;
pub mod config;
pub mod error;
pub mod limits;
pub mod record;
pub mod storage;
pub mod transport;
pub mod types;
pub mod views;

mod actors;
mod handle;
mod log;
mod rules;

pub use config::{Founding, LogConfig, MasterConfig, Peer, SecondaryConfig, Timing};
pub use handle::{AppendOptions, Master, Reader, Secondary, messages};
pub use types::*;

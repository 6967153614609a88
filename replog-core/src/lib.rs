//! A replicated log to embed: one master orders messages and stores them, secondaries hold
//! copies, and a caller is answered once as many nodes hold its message as it asked for.
//!
//! ```
//! use std::sync::Arc;
//!
//! use replog_core::{
//!     AppendOptions, Concern, Master, MasterConfig, Offset, Secondary, SecondaryConfig,
//!     storage::MemoryStorage, transport::LocalNetwork,
//! };
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Two nodes in this process, in memory. On disk: `FileStorage`; elsewhere: `HttpNetwork`.
//! let network = LocalNetwork::new();
//! let config = SecondaryConfig::new("secondary-1".parse()?);
//! let secondary = Secondary::start(config, Arc::new(MemoryStorage::new())).await?;
//! network.register(secondary.clone());
//! let config = MasterConfig::new("master".parse()?, vec!["secondary-1=local".parse()?]);
//! let master = Master::start(config, Arc::new(MemoryStorage::new()), Arc::new(network)).await?;
//! master.read_write().await?;
//!
//! let receipt = master.append("hello", AppendOptions::concern(Concern::All)).await?;
//! assert_eq!(receipt.acks.len(), 2);
//!
//! let message = secondary.reader().get(Offset(0)).await?.expect("every node holds it");
//! assert_eq!(message.payload, "hello");
//! master.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What to read
//!
//! - [`Master`] and [`Secondary`]: the handles, cheap to clone, for any tokio program. The nodes
//!   run on threads of their own; futures and handles may be dropped at any time.
//! - [`MasterConfig`], [`SecondaryConfig`]: the settings and their defaults.
//! - [`AppendOptions`], [`Receipt`](views::Receipt), [`AppendError`](error::AppendError): what an
//!   append asks for, and what is known afterwards.
//! - [`Reader`]: reading a node's log; [`Follower`]: following it.
//! - [`Events`]: being told of every change of status, mode, epoch and ends.
//! - [`check`]: looking at a node's directory from outside, without starting it.
//! - [`storage`] and [`transport`]: the two traits by which nodes reach disks and each other, for
//!   those who bring their own.
//!
//! # Features
//!
//! - `http` (default): replication over HTTP by awc (`transport::HttpNetwork`), and `client`, for
//!   programs that use a remote cluster.
//! - `spans`: a span of `tracing` for each append, and for each request of a link but heartbeats, with
//!   the target `replog_core::spans` and the level `TRACE`; without it there are events alone.
//! - `sim`: simulation of whole clusters from one seed, with faults and checks (`sim`), for this
//!   library's own tests and for programs that embed it.
//! - `typed`: messages that are values of one type, by serde, as JSON (`typed`).

#![forbid(unsafe_code)]

#[cfg(feature = "http")]
pub mod client;
pub mod config;
pub mod error;
pub mod events;
pub mod limits;
pub mod record;
#[cfg(feature = "sim")]
pub mod sim;
pub mod storage;
pub mod transport;
#[cfg(feature = "typed")]
pub mod typed;
pub mod types;
pub mod views;

mod actors;
mod handle;
mod log;
mod rules;
mod spans;

#[cfg(test)]
mod hot_path;

pub use config::{
    ForcedRecovery, Founding, LogConfig, MasterConfig, Peer, SecondaryConfig, Timing,
};
pub use handle::{AppendOptions, Events, Followed, Follower, Master, Reader, Secondary, messages};
pub use log::check;
pub use record::MessageBatch;
pub use types::*;

/// The README's code is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// And the book's.
#[cfg(doctest)]
#[doc = include_str!("../../docs/src/embedding.md")]
struct Book;

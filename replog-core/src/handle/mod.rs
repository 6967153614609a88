//! The public handles, which an embedder holds instead of actors.
//!
//! They are cheap to clone, usable from any tokio program, and safe to drop at any time, as are their
//! futures. Each node runs on its own thread, independently of the embedder's runtime.

#[cfg(test)]
mod batch_tests;
#[cfg(test)]
mod event_tests;
mod events;
mod follower;
pub(crate) mod host;
#[cfg(test)]
mod key_tests;
mod master;
mod message_range;
#[cfg(test)]
mod metrics_tests;
mod reader;
mod runtime;
mod secondary;
mod shared;
#[cfg(test)]
mod tests;

pub use events::Events;
pub use follower::{Followed, Follower};
pub use master::{AppendOptions, Master};
pub use message_range::MessageRange;
pub use reader::Reader;
pub use secondary::Secondary;
pub(crate) use shared::Shared;

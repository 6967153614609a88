//! The listener between nodes, and the dialer that connects to it.
//!
//! Owns both ends of the connections between nodes: one mutually authenticated stream for each pair, with
//! heartbeats and records in order. In every message a node is the one that its certificate proves. Never
//! decides what a message means, never retries on its own account, never serves a client. Keeps rule 11, and
//! the part of rule 9 that rests on names.
//!
//! | part | owns |
//! | --- | --- |
//! | `secret` | the file of the cluster's secret |
//! | `identity` | certificates and trust |
//! | `packet` | the bytes of a stream |
//! | `conduit` | one connection as packets in each direction |
//! | `budget` | the rate limit of handshakes for unauthenticated peers |
//! | `streams` | which stream replaces which |
//! | `listener` | admission of connections, and their streams |
//! | `dialer` | outgoing connections, and the calls that wait for answers |
//!
//! ```no_run
//! # async fn example(secondary: replog_core::Secondary) -> Result<(), Box<dyn std::error::Error>> {
//! use std::{path::Path, sync::Arc};
//!
//! use replog_core::{
//!     NodeName,
//!     transport::net::{ClusterIdentity, ClusterListener, ClusterSecret, ServeOptions},
//! };
//!
//! let path = Path::new("replog-data/cluster.secret");
//! let secret = ClusterSecret::load_or_create(path)?;
//! let identity = ClusterIdentity::from_secret(&secret, secondary.name())?.kept_in(path);
//! let listener = ClusterListener::bind("127.0.0.1:6001".parse()?)?;
//! // Within a `LocalSet`, best the one of the node's actors.
//! let serving = listener.serve_here(ServeOptions::new(identity).node(Arc::new(secondary)))?;
//! # serving.stop().await;
//! # Ok(())
//! # }
//! ```

mod budget;
mod conduit;
mod counters;
mod dialer;
mod identity;
mod listener;
mod packet;
mod resolve;
mod secret;
mod streams;
mod tls_errors;

pub use counters::{LastRefusal, NetCounters, NetSnapshot, RefusedConnection};
pub use dialer::{ClusterNetwork, NetworkOptions};
pub use identity::{ClusterIdentity, IdentityError, PemFiles};
pub use listener::{ClusterListener, ServeOptions, Serving};
pub use secret::{ClusterSecret, SECRET_BYTES};

#[cfg(test)]
mod tests;

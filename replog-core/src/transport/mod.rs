//! The [`Transport`] trait: one node's way to another, whatever carries it.
//!
//! Owns the messages, their encoding, and the implementations: HTTP by awc, in process, and a
//! wrapper that injects faults. Never decides, never retries, never times out: links do. A
//! transport may lose, delay, repeat and reorder; the rules above it hold all the same.

mod faults;
#[cfg(feature = "http")]
pub(crate) mod http;
mod local;
mod message;
#[cfg(all(test, feature = "http"))]
pub(crate) mod responder;
#[cfg(any(test, feature = "suite"))]
pub mod suite;
pub mod wire;

use std::{future::Future, pin::Pin, rc::Rc};

pub(crate) use faults::FaultNews;
pub use faults::{
    FAULT_DELAY_MS_MAX, FaultInjector, FaultSettings, FaultSettingsError, FaultyNetwork,
};
#[cfg(feature = "http")]
pub use http::{HttpNetwork, HttpOptions, accepts_token};
pub use local::LocalNetwork;
pub use message::*;

use crate::{config::Peer, error::ConfigError};

/// The future of one request. Dropping it gives the request up; it may still arrive.
pub type CallFuture = Pin<Box<dyn Future<Output = Result<Response, TransportError>>>>;

/// The way to one node. Lives on its node's actor thread.
pub trait Transport {
    /// Sends a request and waits for the answer, for as long as it takes.
    fn call(&self, request: Request) -> CallFuture;
}

/// Makes the ways to nodes, on the actor thread that will use them.
pub trait Network: Send + Sync + 'static {
    /// The way to `peer`. Connects lazily: a node that is not there makes calls fail, not this.
    fn connect(&self, peer: &Peer) -> Rc<dyn Transport>;

    /// Checks the addresses of all peers, before a node starts that will connect to them. Accepts
    /// everything by default, as a network does that finds peers by name.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the address and what is wrong with it.
    fn check(&self, _peers: &[Peer]) -> Result<(), ConfigError> {
        Ok(())
    }
}

/// Why no answer came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Nobody listens there.
    #[error("connection refused")]
    ConnectionRefused,
    /// The connection could not be made or broke: the request may or may not have arrived.
    #[error("connection failed: {0}")]
    Connection(String),
    /// No connection or no answer in time. For the answer links keep the time, not transports.
    #[error("no answer in time")]
    TimedOut,
    /// An HTTP status that is not 200.
    #[error("HTTP status {0}")]
    HttpStatus(u16),
    /// Something answered, and it was no answer of this protocol.
    #[error("not an answer of this protocol: {0}")]
    BadAnswer(String),
}

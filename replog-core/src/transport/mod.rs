//! The [`Transport`] trait: one node's way to another, whatever carries it.
//!
//! Owns the messages, their encoding, and the implementations: the listener between nodes ([`net`]), in
//! process, and a wrapper that injects faults. Never decides, never retries, never times out: links do. A
//! transport may lose, delay, repeat and reorder; the rules above it hold all the same.

mod faults;
mod local;
mod message;
#[cfg(feature = "net")]
pub mod net;
#[cfg(any(test, feature = "suite"))]
pub mod suite;
pub mod wire;

use std::{future::Future, pin::Pin, rc::Rc};

pub(crate) use faults::FaultNews;
pub use faults::{
    FAULT_DELAY_MS_MAX, FaultInjector, FaultSettings, FaultSettingsError, FaultyNetwork,
};
pub use local::LocalNetwork;
pub use message::*;

use crate::{
    config::Peer,
    error::{ConfigError, Stopped},
    types::Incarnation,
};

/// The future of one request. Dropping it gives the request up; it may still arrive.
pub type CallFuture = Pin<Box<dyn Future<Output = Result<Response, TransportError>>>>;

/// The way to one node. Lives on its node's actor thread.
pub trait Transport {
    /// Sends a request and waits for the answer, for as long as it takes.
    fn call(&self, request: Request) -> CallFuture;

    /// As [`call`](Transport::call), and calls `moved` whenever bytes of this request or its answer, or
    /// of what has to arrive before it, turn out to have arrived. A caller with a time-out counts it from
    /// then: a long message on a slow line takes its time. A transport that cannot know tells nothing.
    fn call_observed(&self, request: Request, moved: OnBytesMoved) -> CallFuture {
        drop(moved);
        self.call(request)
    }
}

/// Called when bytes of a request or its answer have arrived; see [`Transport::call_observed`].
pub type OnBytesMoved = Rc<dyn Fn(BytesMoved)>;

/// Bytes of a request or its answer have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BytesMoved {
    /// The run of the node that answered on this very connection before: the bytes have arrived there.
    /// Absent where none has answered yet.
    pub incarnation: Option<Incarnation>,
}

/// The future of a request that a node answers.
pub type ServeFuture = Pin<Box<dyn Future<Output = Result<Response, Stopped>> + Send>>;

/// A node, or what stands for one, behind what carries requests to it.
pub trait Serve: Send + Sync {
    /// Answers a request, or says that the node has stopped. The request is handed over when the future
    /// is first polled.
    fn serve(&self, request: Request) -> ServeFuture;
}

/// Makes the ways to nodes, on the actor thread that will use them.
pub trait Network: Send + Sync + 'static {
    /// The way to `peer`. Connects lazily: a node that is not there makes calls fail, not this.
    fn connect(&self, peer: &Peer) -> Rc<dyn Transport>;

    /// Checks the addresses of all peers, before a node starts that will connect to them. A network that
    /// finds peers by name accepts everything; one around another asks that.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the address and what is wrong with it.
    fn check(&self, peers: &[Peer]) -> Result<(), ConfigError>;
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
    /// The node's host name has no address, or the resolver does not answer.
    #[error("the name is not resolved: {0}")]
    NameNotResolved(String),
    /// One node's certificate is not of the other's authority: they have different cluster secrets.
    #[error("{0}")]
    WrongSecret(String),
    /// Another node answers there than the one that was expected.
    #[error("{0}")]
    WrongNode(String),
    /// The node takes no stream of this one, or ended it, and said why.
    #[error("refused: {0}")]
    Refused(String),
    /// No connection or no answer in time. For the answer links keep the time, not transports.
    #[error("no answer in time")]
    TimedOut,
    /// The node failed the request on purpose, by a fault that was injected there.
    #[error("failed by an injected fault")]
    Injected,
    /// Something answered, and it was no answer of this protocol.
    #[error("not an answer of this protocol: {0}")]
    BadAnswer(String),
}

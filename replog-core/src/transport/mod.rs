//! The [`Transport`] trait: one node's connection to another, whatever carries the messages.
//!
//! Owns the messages, their encoding, and the implementations: over the network ([`net`]), within one
//! process, and a wrapper that injects faults. Never decides, never retries, never times out: links do. A
//! transport may lose, delay, repeat and reorder messages; the rules above it hold all the same.

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

/// The future of one request. Dropping it abandons the request, which may still arrive.
pub type CallFuture = Pin<Box<dyn Future<Output = Result<Response, TransportError>>>>;

/// A connection to one node. Lives on the actor thread of the node that uses it.
pub trait Transport {
    /// Sends a request and waits for the answer, for as long as it takes.
    fn call(&self, request: Request) -> CallFuture;

    /// Sends a request as [`call`](Transport::call) does, and calls `moved` whenever bytes of this request or its
    /// answer, or of what has to arrive before it, are found to have arrived. A caller restarts its timeout
    /// then, because a long message may be slow. A transport that cannot know never calls `moved`.
    fn call_observed(&self, request: Request, moved: OnBytesMoved) -> CallFuture {
        drop(moved);
        self.call(request)
    }
}

/// A callback for bytes of a request or its answer that have arrived; see [`Transport::call_observed`].
pub type OnBytesMoved = Rc<dyn Fn(BytesMoved)>;

/// A report that bytes of a request or its answer have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BytesMoved {
    /// The incarnation of the node that answered on this connection before; the bytes have arrived there.
    /// Absent if none has answered yet.
    pub incarnation: Option<Incarnation>,
}

/// The future of a node's answer to one request.
pub type ServeFuture = Pin<Box<dyn Future<Output = Result<Response, Stopped>> + Send>>;

/// A node, or a stand-in for one, to which a transport delivers requests.
pub trait Serve: Send + Sync {
    /// Answers a request, or reports that the node has stopped. The request is handed over when the future
    /// is first polled.
    fn serve(&self, request: Request) -> ServeFuture;
}

/// A factory of transports, which it creates on the actor thread that will use them.
pub trait Network: Send + Sync + 'static {
    /// Returns a transport to `peer`. Connects lazily: if the node is unreachable, calls fail, not this.
    fn connect(&self, peer: &Peer) -> Rc<dyn Transport>;

    /// Checks the addresses of all peers before a node starts that will connect to them. A network that
    /// finds peers by name accepts everything; a wrapper asks the network that it wraps.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the address and the problem.
    fn check(&self, peers: &[Peer]) -> Result<(), ConfigError>;
}

/// The reason why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Nothing listens at the address.
    #[error("connection refused")]
    ConnectionRefused,
    /// The connection could not be made or broke: the request may have arrived or not.
    #[error("connection failed: {0}")]
    Connection(String),
    /// The node's host name has no address, or the resolver does not answer.
    #[error("cannot resolve the host name: {0}")]
    NameNotResolved(String),
    /// One node's certificate is not from the other's authority: they have different cluster secrets.
    #[error("{0}")]
    WrongSecret(String),
    /// A node other than the expected one answers at the address.
    #[error("{0}")]
    WrongNode(String),
    /// The node refused or ended this node's stream, and gave the reason.
    #[error("refused: {0}")]
    Refused(String),
    /// No connection or no answer in time. Links, not transports, time out the wait for an answer.
    #[error("no answer in time")]
    TimedOut,
    /// The node failed the request because of a fault that was injected there.
    #[error("failed by an injected fault")]
    Injected,
    /// Something answered, but not in this protocol.
    #[error("not an answer of this protocol: {0}")]
    BadAnswer(String),
}

//! [`NetCounters`]: the counters of the connections between nodes.
//!
//! Owns plain tallies that any thread may read, and the last refusal that an operator should know about. Decides
//! nothing.

use std::{
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The reason why a connection to a node's listener was refused or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RefusedConnection {
    /// The first bytes are neither TLS nor this protocol.
    Garbage,
    /// The first bytes are an HTTP request: a browser, or a URL used as a cluster address.
    Http,
    /// TLS that does not offer the protocol between nodes, such as a browser with an https URL.
    OtherProtocol,
    /// A broken or failed TLS handshake, including one without a certificate.
    Handshake,
    /// A certificate from another authority, on either side: another cluster secret.
    WrongSecret,
    /// A name that the certificate does not prove, or a node other than the expected one.
    WrongName,
    /// No common version of the protocol.
    Version,
    /// A malformed message.
    Malformed,
    /// Too many connections: a newer one took the place of this one, or no stream is left.
    TooMany,
    /// A handshake that took too long.
    TimedOut,
    /// This node is a master of a fixed cluster and takes no requests.
    NoRequestsHere,
}

impl RefusedConnection {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [RefusedConnection; 11] = [
        RefusedConnection::Garbage,
        RefusedConnection::Http,
        RefusedConnection::OtherProtocol,
        RefusedConnection::Handshake,
        RefusedConnection::WrongSecret,
        RefusedConnection::WrongName,
        RefusedConnection::Version,
        RefusedConnection::Malformed,
        RefusedConnection::TooMany,
        RefusedConnection::TimedOut,
        RefusedConnection::NoRequestsHere,
    ];

    /// Returns the reason in one word, as metrics show it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RefusedConnection::Garbage => "garbage",
            RefusedConnection::Http => "http",
            RefusedConnection::OtherProtocol => "other_protocol",
            RefusedConnection::Handshake => "handshake",
            RefusedConnection::WrongSecret => "wrong_secret",
            RefusedConnection::WrongName => "wrong_name",
            RefusedConnection::Version => "version",
            RefusedConnection::Malformed => "malformed",
            RefusedConnection::TooMany => "too_many",
            RefusedConnection::TimedOut => "timed_out",
            RefusedConnection::NoRequestsHere => "no_requests_here",
        }
    }
}

impl RefusedConnection {
    /// Reports whether the reason indicates misconfigured nodes. The others come from strangers, and from nodes
    /// that will retry.
    fn is_misconfiguration(self) -> bool {
        match self {
            RefusedConnection::WrongSecret
            | RefusedConnection::WrongName
            | RefusedConnection::Version
            | RefusedConnection::Malformed => true,
            RefusedConnection::Garbage
            | RefusedConnection::Http
            | RefusedConnection::OtherProtocol
            | RefusedConnection::Handshake
            | RefusedConnection::TooMany
            | RefusedConnection::TimedOut
            | RefusedConnection::NoRequestsHere => false,
        }
    }
}

/// A connection that a node's listener refused for a reason that indicates misconfigured nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastRefusal {
    /// The address of the connection. The node behind it is unknown, because it proved nothing.
    pub address: IpAddr,
    /// The reason for the refusal.
    pub reason: RefusedConnection,
    /// The reason and its remedy, in one sentence.
    pub detail: String,
    /// Time since the refusal.
    pub elapsed: Duration,
}

#[derive(Debug)]
struct NotedRefusal {
    address: IpAddr,
    reason: RefusedConnection,
    detail: String,
    at: Instant,
}

/// Tallies of one node's connections with other nodes, in both directions.
#[derive(Debug, Default)]
pub struct NetCounters {
    pub(super) handshakes: AtomicU64,
    pub(super) streams: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) replaced: AtomicU64,
    pub(super) refused: [AtomicU64; RefusedConnection::ALL.len()],
    pub(super) dialled: AtomicU64,
    pub(super) dial_failures: AtomicU64,
    pub(super) received_bytes: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    last_refusal: Mutex<Option<NotedRefusal>>,
}

/// A snapshot of the tallies.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetSnapshot {
    /// Incoming connections that have not yet proved their identity.
    pub handshakes: u64,
    /// Incoming streams that are open.
    pub streams: u64,
    /// Total number of incoming streams.
    pub accepted: u64,
    /// Total number of streams that ended because the same node opened a newer one.
    pub replaced: u64,
    /// Total number of connections that were refused or ended, by reason.
    pub refused: [(RefusedConnection, u64); RefusedConnection::ALL.len()],
    /// Total number of streams that this node opened.
    pub dialled: u64,
    /// Total number of failures to open a stream.
    pub dial_failures: u64,
    /// Total bytes of packets received, without TLS.
    pub received_bytes: u64,
    /// Total bytes of packets sent, without TLS.
    pub sent_bytes: u64,
}

impl NetCounters {
    /// Returns the current tallies.
    #[must_use]
    pub fn snapshot(&self) -> NetSnapshot {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NetSnapshot {
            handshakes: of(&self.handshakes),
            streams: of(&self.streams),
            accepted: of(&self.accepted),
            replaced: of(&self.replaced),
            refused: RefusedConnection::ALL.map(|why| (why, of(&self.refused[why as usize]))),
            dialled: of(&self.dialled),
            dial_failures: of(&self.dial_failures),
            received_bytes: of(&self.received_bytes),
            sent_bytes: of(&self.sent_bytes),
        }
    }

    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the last connection that was refused because nodes are misconfigured: another cluster's secret,
    /// another node's name, another version. `None` once its address has a working stream.
    #[must_use]
    pub fn last_refusal(&self) -> Option<LastRefusal> {
        let last = self.last();
        last.as_ref().map(|noted| LastRefusal {
            address: noted.address,
            reason: noted.reason,
            detail: noted.detail.clone(),
            elapsed: noted.at.elapsed(),
        })
    }

    pub(super) fn note_refused(&self, address: IpAddr, reason: RefusedConnection, detail: &str) {
        NetCounters::count(&self.refused[reason as usize]);
        if reason.is_misconfiguration() {
            *self.last() = Some(NotedRefusal {
                address,
                reason,
                detail: detail.to_owned(),
                at: Instant::now(),
            });
        }
    }

    /// Forgets the last refusal if it was of this address, which now has a working stream.
    pub(super) fn note_trusted(&self, address: IpAddr) {
        let mut last = self.last();
        if last.as_ref().is_some_and(|noted| noted.address == address) {
            *last = None;
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<NotedRefusal>> {
        self.last_refusal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guard that raises a gauge for as long as it lives.
pub(super) struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    pub(super) fn raise(gauge: &'a AtomicU64) -> Gauge<'a> {
        NetCounters::count(gauge);
        Gauge(gauge)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

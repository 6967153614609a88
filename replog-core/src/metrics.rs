//! Counts and measurements of a node, for monitoring: plain values, taken at one instant.
//!
//! Owns the shapes and the words. Never counts on its own: actors, rules and the log writer do, each in a
//! tally of its own (`metrics/tally.rs`), and a snapshot copies them. Counts begin at 0 with the node and
//! only grow. The node's state alone is in [`views`](crate::views).

use std::time::Duration;

use crate::{
    error::{AppendError, Outcome},
    types::{ModeReason, Offset},
    views::{MasterHealth, SecondaryHealth, WaitReason},
};

pub(crate) mod tally;

/// Counts and measurements of a master.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MasterMetrics {
    /// Health of the master.
    pub health: MasterHealth,
    /// `true` if the master's own log counts.
    pub intact: bool,
    /// Malformed answers of other nodes: each counted for nothing and ended the conversation.
    pub malformed: u64,
    /// The master's log.
    pub log: LogMetrics,
    /// Outcomes of appends.
    pub appends: AppendMetrics,
    /// Waiting time of the append that has waited longest of those in
    /// [`Master::waiting_appends`](crate::Master::waiting_appends); `None` where none waits.
    pub oldest_waiting: Option<Duration>,
    /// Number of idempotency keys that the master knows; 0 before it first leads an epoch.
    pub keys: u64,
    /// The master's links, in the order of `health.secondaries`.
    pub links: Vec<LinkMetrics>,
}

/// Counts and measurements of a secondary.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SecondaryMetrics {
    /// Health of the secondary.
    pub health: SecondaryHealth,
    /// The secondary's log.
    pub log: LogMetrics,
    /// Size in bytes of the records held back behind a gap; `health.buffered` is their number.
    pub buffered_bytes: u64,
    /// Malformed requests of other nodes, which were refused.
    pub malformed: u64,
}

/// A node's log and the thread that writes it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LogMetrics {
    /// The offset after the last record that the node holds.
    pub durable_end: Offset,
    /// Number of segment files.
    pub segments: u64,
    /// Number of segment headers that could not be read at the node's start and were rebuilt from the log.
    pub repaired_headers: u64,
    /// Number of marks, 0 or 1, that were missing or unreadable at the node's start and were rebuilt. A log
    /// that had passed for intact was refilled from other nodes.
    pub repaired_marks: u64,
    /// Number of records that were quarantined in a file below `quarantine` before they were cut, because of
    /// a master's hello or a forced recovery.
    pub quarantined_records: u64,
    /// Time to make a group of records durable, in seconds: the group's sync alone, without its write.
    /// Nothing is recorded under a policy that does not sync each group.
    pub syncs: Histogram,
}

/// Outcomes of appends, where a batch of messages is one append. Each is counted once, when it is answered.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AppendMetrics {
    /// Appended, with the concern met.
    pub acknowledged: u64,
    /// Already in the log by its key, with the concern met.
    pub replayed: u64,
    /// In the log, new or by its key, but the time was up before the concern was met.
    pub timed_out: u64,
    /// Answered with an error that leaves open whether the message is in the log.
    pub unknown: u64,
    /// Refused with nothing appended, by reason: every reason, in the order of [`RefusalReason::ALL`].
    pub refused: Vec<(RefusalReason, u64)>,
    /// Time of `acknowledged` appends from their arrival to their answer, in seconds: an item for each
    /// concern, from 1 up to the number of nodes.
    pub latency: Vec<Histogram>,
}

impl AppendMetrics {
    /// Returns the number of appends refused for any reason.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().map(|(_, count)| count).sum()
    }
}

/// A master's link to one secondary.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LinkMetrics {
    /// Bytes of the log that the secondary lacks; all of them while nothing is known. Exact where the missing
    /// part begins in memory or at the start of a file; elsewhere estimated as if all records of that file
    /// had the same length.
    pub lag_bytes: u64,
    /// Number of batches that the secondary acknowledged.
    pub acks: u64,
    /// Number of failed attempts, of batches, heartbeats and any other request, each of which is followed by
    /// another. Holds every reason that an attempt can fail for.
    pub retries: Vec<(WaitReason, u64)>,
    /// Number of heartbeats sent.
    pub heartbeats: u64,
    /// Round-trip time of heartbeats that were answered, in seconds.
    pub round_trips: Histogram,
    /// Number of records in each batch sent, including resends.
    pub batch_records: Histogram,
    /// Size in bytes of each batch sent.
    pub batch_bytes: Histogram,
}

/// Number of measured values, by size.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    buckets: Vec<(f64, u64)>,
    sum: f64,
}

impl Histogram {
    /// Returns the buckets in ascending order: the largest value that belongs there, and the number of values
    /// in this bucket alone. The last bound is infinite.
    #[must_use]
    pub fn buckets(&self) -> &[(f64, u64)] {
        &self.buckets
    }

    /// Returns the number of measured values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// Returns the sum of all values.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

/// The reason why an append was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalReason {
    /// A concern that is impossible in this cluster.
    Concern,
    /// A message that is too long.
    TooLarge,
    /// A batch without a message.
    EmptyBatch,
    /// A batch whose key would be forgotten at once.
    BeyondHorizon,
    /// A limit on waiting appends or queued bytes.
    Overloaded,
    /// The key of another message.
    KeyReused,
    /// The next offset is not the expected one.
    OffsetMismatch,
    /// Less than a majority of the nodes is in contact.
    NoQuorum,
    /// The master is recovering.
    WaitingForNodes,
    /// Another master leads a newer epoch.
    Fenced,
    /// An operator paused appends.
    Asked,
    /// The master's disk does not accept writes.
    Storage,
    /// The node is stopping.
    Stopping,
}

impl RefusalReason {
    /// All reasons.
    pub const ALL: [RefusalReason; 13] = [
        RefusalReason::Concern,
        RefusalReason::TooLarge,
        RefusalReason::EmptyBatch,
        RefusalReason::BeyondHorizon,
        RefusalReason::Overloaded,
        RefusalReason::KeyReused,
        RefusalReason::OffsetMismatch,
        RefusalReason::NoQuorum,
        RefusalReason::WaitingForNodes,
        RefusalReason::Fenced,
        RefusalReason::Asked,
        RefusalReason::Storage,
        RefusalReason::Stopping,
    ];

    /// Returns the reason as a word; where a mode is the reason, its word in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RefusalReason::Concern => "concern",
            RefusalReason::TooLarge => "too_large",
            RefusalReason::EmptyBatch => "empty_batch",
            RefusalReason::BeyondHorizon => "beyond_horizon",
            RefusalReason::Overloaded => "overloaded",
            RefusalReason::KeyReused => "key_reused",
            RefusalReason::OffsetMismatch => "offset_mismatch",
            RefusalReason::NoQuorum => "no_quorum",
            RefusalReason::WaitingForNodes => "waiting_for_nodes",
            RefusalReason::Fenced => "fenced",
            RefusalReason::Asked => "asked",
            RefusalReason::Storage => "storage",
            RefusalReason::Stopping => "stopping",
        }
    }

    /// Returns the reason why nothing was appended; `None` where that is not known.
    #[must_use]
    pub fn of(error: &AppendError) -> Option<RefusalReason> {
        if error.outcome() == Outcome::Unknown {
            return None;
        }
        Some(match error {
            AppendError::Concern { .. } => RefusalReason::Concern,
            AppendError::TooLarge { .. } => RefusalReason::TooLarge,
            AppendError::EmptyBatch => RefusalReason::EmptyBatch,
            AppendError::BatchBeyondHorizon { .. } => RefusalReason::BeyondHorizon,
            AppendError::Overloaded { .. } => RefusalReason::Overloaded,
            AppendError::KeyReused { .. } => RefusalReason::KeyReused,
            AppendError::OffsetMismatch { .. } => RefusalReason::OffsetMismatch,
            AppendError::ReadOnly { state, .. } => match state.reason? {
                ModeReason::NoQuorum => RefusalReason::NoQuorum,
                ModeReason::WaitingForNodes => RefusalReason::WaitingForNodes,
                ModeReason::Storage => RefusalReason::Storage,
                ModeReason::Fenced => RefusalReason::Fenced,
                ModeReason::Asked => RefusalReason::Asked,
            },
            AppendError::Storage { .. } => RefusalReason::Storage,
            AppendError::Stopping { .. } => RefusalReason::Stopping,
            AppendError::Unsettled { .. } | AppendError::Ended => return None,
        })
    }
}

//! What a node counts and measures, for whoever watches it: plain values, taken at one instant.
//!
//! Owns the shapes and the words. Never counts on its own: actors, rules and the log writer do, each
//! in a tally of its own (`metrics/tally.rs`), and a snapshot copies them. Counts begin at 0 with the
//! node and only grow. Whoever watches a node's state alone has [`views`](crate::views).

use std::time::Duration;

use crate::{
    error::{AppendError, Outcome},
    types::{ModeReason, Offset},
    views::{MasterHealth, SecondaryHealth, WaitReason},
};

pub(crate) mod tally;

/// What a master counts and measures.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MasterMetrics {
    /// How it does.
    pub health: MasterHealth,
    /// Whether its own log counts.
    pub intact: bool,
    /// Answers of other nodes that made no sense: they counted for nothing, and ended the conversation.
    pub malformed: u64,
    /// Its log.
    pub log: LogMetrics,
    /// What became of appends.
    pub appends: AppendMetrics,
    /// How long the one has waited longest of those in
    /// [`Master::waiting_appends`](crate::Master::waiting_appends); `None` where none waits.
    pub oldest_waiting: Option<Duration>,
    /// Idempotency keys that it knows; 0 before it took the office.
    pub keys: u64,
    /// Its links, in the order of `health.secondaries`.
    pub links: Vec<LinkMetrics>,
}

/// What a secondary counts and measures.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SecondaryMetrics {
    /// How it does.
    pub health: SecondaryHealth,
    /// Its log.
    pub log: LogMetrics,
    /// Bytes of the records that it holds back behind a gap; `health.buffered` are the records.
    pub buffered_bytes: u64,
    /// Requests of other nodes that made no sense, and were refused for that.
    pub malformed: u64,
}

/// A node's log and the thread that writes it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LogMetrics {
    /// The offset after the last record that the node holds.
    pub durable_end: Offset,
    /// Segment files.
    pub segments: u64,
    /// Segment headers that the node's start could not read and made again from the log.
    pub repaired_headers: u64,
    /// Marks that were missing or unreadable at the node's start and were made again, 0 or 1. Where
    /// the log had passed for whole it was refilled from other nodes.
    pub repaired_marks: u64,
    /// Records that were quarantined in a file below `quarantine` before they were cut, because of a master's
    /// hello or a forced recovery.
    pub quarantined_records: u64,
    /// How long it took to make a group of records durable, in seconds: the group's sync alone,
    /// without its write. Nothing is recorded under a policy that does not sync each group.
    pub syncs: Histogram,
}

/// What became of appends, a batch of messages being one. Each is counted once, when it is answered.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AppendMetrics {
    /// Appended, and the concern met.
    pub acknowledged: u64,
    /// In the log already by its key, and the concern met.
    pub replayed: u64,
    /// In the log, new or by its key, and the time was up before the concern was met.
    pub timed_out: u64,
    /// Answered with an error that leaves open whether the message is in the log.
    pub unknown: u64,
    /// Refused, so that nothing was appended, by reason: every reason, in the order of
    /// [`RefusalReason::ALL`].
    pub refused: Vec<(RefusalReason, u64)>,
    /// How long those that are `acknowledged` took from their arrival to their answer, in seconds: an
    /// item for each concern, from 1 up to the number of nodes.
    pub latency: Vec<Histogram>,
}

impl AppendMetrics {
    /// Refused for whatever reason.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().map(|(_, count)| count).sum()
    }
}

/// A master's link to one secondary.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LinkMetrics {
    /// Bytes of the log that the secondary lacks; all of them while nothing is known. Exact where what it
    /// lacks begins in memory, or with a file; elsewhere as if all records of that file were as long.
    pub lag_bytes: u64,
    /// Batches that it acknowledged.
    pub acks: u64,
    /// Attempts that failed, batches, heartbeats and what else is asked of it: each is followed by
    /// another. Every reason that there is for that.
    pub retries: Vec<(WaitReason, u64)>,
    /// Heartbeats that were sent.
    pub heartbeats: u64,
    /// How long heartbeats took that were answered, in seconds.
    pub round_trips: Histogram,
    /// Records of each batch that was sent, again or for the first time.
    pub batch_records: Histogram,
    /// Bytes of each batch that was sent.
    pub batch_bytes: Histogram,
}

/// How many values were measured, by size.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    buckets: Vec<(f64, u64)>,
    sum: f64,
}

impl Histogram {
    /// The buckets, ascending: the largest value that belongs there, and how many values lie in this
    /// bucket alone. The last one's bound is infinite.
    #[must_use]
    pub fn buckets(&self) -> &[(f64, u64)] {
        &self.buckets
    }

    /// How many values were measured.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// All values together.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

/// Why an append was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalReason {
    /// A concern that this cluster cannot have.
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
    /// Another offset is next than was expected.
    OffsetMismatch,
    /// Too few nodes are in contact.
    NoQuorum,
    /// The master recovers.
    WaitingForNodes,
    /// Another master holds the office.
    Fenced,
    /// The master was asked to take no appends.
    Asked,
    /// The master's disk takes no more.
    Storage,
    /// The node is stopping.
    Stopping,
}

impl RefusalReason {
    /// All of them.
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

    /// The reason as a word; where a mode is the reason, its word in JSON.
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

    /// Why nothing was appended; `None` where that is not known.
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

//! Counts in the making: each tally belongs to one actor, rule or thread, which alone adds to it.
//!
//! Plain numbers, so that a message costs an addition: a snapshot is a copy that the owner makes. Where
//! there is no owner, on the callers' way to the coordinator, atomics are used instead, and only for
//! appends that are refused there. Never reads a clock: durations come from times that the owner has
//! anyway.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{AppendMetrics, Histogram, LinkMetrics, RefusalReason};
use crate::{
    error::AppendError,
    limits::BATCH_BYTES_MAX,
    views::{Receipt, WaitReason},
};

/// Bounds for durations, from a round trip in one machine's memory to an append that waits for a node.
pub(crate) const SECONDS: [f64; 18] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];

/// Bounds for the records of a batch.
pub(crate) const RECORDS: [f64; 8] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0];

/// Bounds for the bytes of a batch. Only a single, longer record exceeds the last.
pub(crate) const BYTES: [f64; 7] = [
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    BATCH_BYTES_MAX as f64,
];

/// The reasons for which an attempt can fail.
pub(crate) const RETRY_REASONS: [WaitReason; 10] = [
    WaitReason::CatchingUp,
    WaitReason::ConnectionRefused,
    WaitReason::NameNotResolved,
    WaitReason::WrongSecret,
    WaitReason::TimedOut,
    WaitReason::HttpStatus,
    WaitReason::BadAnswer,
    WaitReason::WrongNode,
    WaitReason::Fenced,
    WaitReason::Storage,
];

/// A histogram that is being filled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally<const N: usize> {
    bounds: &'static [f64; N],
    counts: [u64; N],
    /// Number of values above all bounds.
    above: u64,
    sum: f64,
}

impl<const N: usize> Tally<N> {
    /// Creates a histogram of values at or below these bounds, which ascend, or above them all.
    pub(crate) fn new(bounds: &'static [f64; N]) -> Tally<N> {
        debug_assert!(bounds.is_sorted(), "{bounds:?}");
        Tally {
            bounds,
            counts: [0; N],
            above: 0,
            sum: 0.0,
        }
    }

    pub(crate) fn record(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        *self.counts.get_mut(bucket).unwrap_or(&mut self.above) += 1;
        self.sum += value;
    }

    pub(crate) fn record_seconds(&mut self, duration: Duration) {
        self.record(duration.as_secs_f64());
    }

    pub(crate) fn snapshot(&self) -> Histogram {
        let bounded = self.bounds.iter().copied().zip(self.counts);
        Histogram {
            buckets: bounded.chain([(f64::INFINITY, self.above)]).collect(),
            sum: self.sum,
        }
    }
}

/// The appends that a coordinator answers.
#[derive(Debug)]
pub(crate) struct AppendTally {
    acknowledged: u64,
    replayed: u64,
    timed_out: u64,
    unknown: u64,
    refused: [u64; RefusalReason::ALL.len()],
    latency: Vec<Tally<{ SECONDS.len() }>>,
}

impl AppendTally {
    /// Creates the tally for a cluster of this many nodes.
    pub(crate) fn new(nodes: usize) -> AppendTally {
        AppendTally {
            acknowledged: 0,
            replayed: 0,
            timed_out: 0,
            unknown: 0,
            refused: [0; RefusalReason::ALL.len()],
            latency: vec![Tally::new(&SECONDS); nodes],
        }
    }

    /// Counts an append that is answered with this result.
    pub(crate) fn count(&mut self, result: &Result<Receipt, AppendError>) {
        match result {
            Ok(receipt) if !receipt.concern_met => self.timed_out += 1,
            Ok(receipt) if receipt.replayed => self.replayed += 1,
            Ok(receipt) => {
                self.acknowledged += 1;
                self.latency[receipt.concern as usize - 1].record_seconds(receipt.elapsed);
            }
            Err(error) => match RefusalReason::of(error) {
                Some(reason) => self.refused[reason as usize] += 1,
                None => self.unknown += 1,
            },
        }
    }

    pub(crate) fn snapshot(&self) -> AppendMetrics {
        AppendMetrics {
            acknowledged: self.acknowledged,
            replayed: self.replayed,
            timed_out: self.timed_out,
            unknown: self.unknown,
            refused: RefusalReason::ALL.into_iter().zip(self.refused).collect(),
            latency: self.latency.iter().map(Tally::snapshot).collect(),
        }
    }
}

/// The appends that are refused before the coordinator sees them, by callers on any thread.
#[derive(Debug, Default)]
pub(crate) struct DoorTally {
    refused: [AtomicU64; RefusalReason::ALL.len()],
    unknown: AtomicU64,
}

impl DoorTally {
    /// Counts an append that is answered with this error.
    pub(crate) fn count(&self, error: &AppendError) {
        let count = match RefusalReason::of(error) {
            Some(reason) => &self.refused[reason as usize],
            None => &self.unknown,
        };
        // Relaxed: the counters guard no other memory.
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds these counts to the coordinator's.
    pub(crate) fn add_to(&self, metrics: &mut AppendMetrics) {
        for ((_, all), own) in metrics.refused.iter_mut().zip(&self.refused) {
            *all += own.load(Ordering::Relaxed);
        }
        metrics.unknown += self.unknown.load(Ordering::Relaxed);
    }
}

/// Counts of a link's requests and their results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkTally {
    pub(crate) acks: u64,
    /// Number of malformed answers.
    pub(crate) malformed: u64,
    pub(crate) retries: Retries,
    pub(crate) heartbeats: u64,
    pub(crate) round_trips: Tally<{ SECONDS.len() }>,
    pub(crate) batch_records: Tally<{ RECORDS.len() }>,
    pub(crate) batch_bytes: Tally<{ BYTES.len() }>,
}

impl LinkTally {
    pub(crate) fn new() -> LinkTally {
        LinkTally {
            acks: 0,
            malformed: 0,
            retries: Retries::default(),
            heartbeats: 0,
            round_trips: Tally::new(&SECONDS),
            batch_records: Tally::new(&RECORDS),
            batch_bytes: Tally::new(&BYTES),
        }
    }

    /// Returns the metrics of a link whose secondary lacks this many bytes.
    pub(crate) fn snapshot(&self, lag_bytes: u64) -> LinkMetrics {
        LinkMetrics {
            lag_bytes,
            acks: self.acks,
            retries: RETRY_REASONS.into_iter().zip(self.retries.0).collect(),
            heartbeats: self.heartbeats,
            round_trips: self.round_trips.snapshot(),
            batch_records: self.batch_records.snapshot(),
            batch_bytes: self.batch_bytes.snapshot(),
        }
    }
}

/// Failed attempts by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retries([u64; RETRY_REASONS.len()]);

impl Retries {
    /// Counts a failed attempt.
    pub(crate) fn count(&mut self, reason: WaitReason) {
        let known = RETRY_REASONS.iter().position(|known| *known == reason);
        debug_assert!(known.is_some(), "{reason} is not a failure");
        if let Some(at) = known {
            self.0[at] += 1;
        }
    }

    /// Returns the sums of both.
    pub(crate) fn plus(self, other: Retries) -> Retries {
        Retries(std::array::from_fn(|at| self.0[at] + other.0[at]))
    }
}

#[cfg(test)]
mod tests;

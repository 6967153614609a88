//! One node's log: segments on a [`Storage`](crate::storage::Storage), the recent tail in
//! memory, and the one thread that writes.
//!
//! Owns every byte on disk. Knows nothing about epochs except those in records, nothing about other
//! nodes, and no actor. Keeps rules 2, 10 and 11.
//!
//! ```text
//!   LogWriter (thread) ── owns ──▶ LogFiles ──▶ Storage
//!        │ reports ends                │ updates
//!        ▼                             ▼
//!     an actor                     LogView (shared): ends, tail, segments ◀── readers, links
//! ```

pub mod check;
pub(crate) mod cuts;
pub(crate) mod failure;
pub(crate) mod files;
pub(crate) mod keys_file;
pub(crate) mod mark;
pub(crate) mod meta;
mod quarantine;
pub(crate) mod repair_epoch;
mod replace;
pub(crate) mod segment;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod unproven;
pub(crate) mod view;
pub(crate) mod writer;

pub(crate) use failure::{LogError, disk_state};
pub(crate) use files::{
    Cut, Damage, HeldBack, LogCondition, LogFiles, LogOptions, OpenScan, Truncation, open, was_used,
};
pub(crate) use meta::{ClusterIdentity, Meta, Promised};
pub(crate) use view::LogView;
#[cfg(feature = "sim")]
pub(crate) use writer::NextStep;
pub(crate) use writer::{LogWriter, PROBE_PATH, WriteCommand, WriteReport, WriterLoop};

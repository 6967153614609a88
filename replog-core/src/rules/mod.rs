//! Decisions as plain structs: no clock, no I/O, no actor.
//!
//! Each takes an event and the time and returns actions; the actors around them deliver the events
//! and carry out the actions. Nothing here imports actix, reads a clock, draws unseeded random
//! numbers or iterates over an unordered map: that makes a run repeatable.

pub(crate) mod acks;
pub(crate) mod alignment;
pub(crate) mod backoff;
pub(crate) mod bounds;
#[cfg(test)]
mod cluster_tests;
pub(crate) mod disk_space;
pub(crate) mod durable;
pub(crate) mod fence;
pub(crate) mod following;
#[cfg(test)]
mod fuzz_tests;
pub(crate) mod health;
#[cfg(test)]
mod history_tests;
pub(crate) mod keys;
pub(crate) mod leader;
pub(crate) mod link;
pub(crate) mod master_log;
pub(crate) mod merging;
#[cfg(test)]
mod model;
pub(crate) mod progress;
#[cfg(test)]
mod property_tests;
pub(crate) mod quorum;
pub(crate) mod recovery;
pub(crate) mod reorder;
pub(crate) mod repair;
pub(crate) mod replica;

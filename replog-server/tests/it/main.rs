//! System tests: the real program, in separate processes, over real sockets.
//!
//! A module per behaviour. Every wait is a condition with a deadline; a test ends only processes
//! that it started itself.

mod admin;
mod another_log;
mod authority;
mod bad_input;
mod batches;
mod blocked;
mod book;
mod browser;
mod catch_up;
mod chaos;
mod check;
mod cli;
mod directories;
mod events;
mod exactly_once;
mod faults;
mod following;
mod forced;
mod full_disk;
mod half_closed;
mod http;
mod import;
mod keys;
mod kill;
mod messages;
mod metrics;
mod nodes;
mod openapi;
mod process;
mod protocol;
mod quorum;
mod receipts;
mod repair_epoch;
mod restart;
mod rogues;
mod self_check;
mod shares;
mod stop;
mod strangers;
#[cfg(feature = "otel")]
mod telemetry;
mod usage;

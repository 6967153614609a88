//! The thin shells: actors that deliver events to the pure rules and carry out what comes back.
//!
//! Each owns a mailbox, one armed timer and nothing to decide. No actor awaits another in a
//! handler, none blocks, none does anything in `stopped()` that matters: a killed process does
//! not run it.

mod blocking;
mod coordinator;
mod inbox;
mod key_reader;
mod messages;
mod replica;
mod secondary_link;
mod timer;

pub(crate) use coordinator::{Coordinator, CoordinatorParts};
pub(crate) use inbox::{Caller, Inbox};
pub(crate) use messages::*;
pub(crate) use replica::{ReplicaActor, ReplicaParts};

//! Thin shells: actors that deliver events to the pure rules and carry out the actions that come
//! back.
//!
//! Each owns a mailbox and one armed timer, and decides nothing. No actor awaits another in a
//! handler, none blocks, and none does anything important in `stopped()`: a killed process does not
//! run it.

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

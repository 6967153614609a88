//! A node's view of itself and its messages: receipts, health, waiting appends and the nodes they wait
//! for.
//!
//! Plain data for embedders, serialized under the names of the HTTP interface. Durations become whole
//! milliseconds in fields that end in `_ms`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Serialize, Serializer};

use crate::address::NodeUrl;
use crate::types::{
    ClusterId, DiskState, Epoch, InstanceId, Mode, ModeReason, NodeName, Offset, Status,
    StuckReason,
};

/// A message as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// Position of the message.
    pub offset: Offset,
    /// The epoch in which the message was appended.
    pub epoch: Epoch,
    /// Milliseconds since 1970, by the master's clock.
    pub timestamp_ms: u64,
    /// Idempotency key of the message, if it has one.
    pub key: Option<String>,
    /// The payload, byte for byte.
    pub payload: Bytes,
}

/// Answer to an append: the message's position, and the nodes that hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Receipt {
    /// Position of the message.
    pub offset: Offset,
    /// The epoch in which it was appended.
    pub epoch: Epoch,
    /// The concern, as a number of nodes.
    pub concern: u32,
    /// `true` once that many nodes hold the message. `false`: the time was up first; the message is in
    /// the log and still being copied, so do not send it again.
    pub concern_met: bool,
    /// The nodes that hold the message now.
    pub acks: Arc<[NodeName]>,
    /// The other nodes, and the reason why each of them does not hold it yet.
    pub waiting_for: Arc<[WaitingFor]>,
    /// `true` if what the nodes hold survives a power cut there, by their sync policy.
    pub durable: bool,
    /// `true` if an earlier append with the same key had put the message there. The HTTP interface
    /// reports it by the status and a header.
    #[serde(skip)]
    pub replayed: bool,
    /// Time from the append to this answer.
    #[serde(rename = "elapsed_ms", serialize_with = "milliseconds")]
    pub elapsed: Duration,
}

/// Answer to an append of several messages: their positions, and the nodes that hold all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BatchReceipt {
    /// Position of the first message; the others follow it.
    pub first_offset: Offset,
    /// Number of messages.
    pub count: u64,
    /// The epoch in which they were appended.
    pub epoch: Epoch,
    /// The concern, as a number of nodes.
    pub concern: u32,
    /// `true` once that many nodes hold all of the messages. `false`: the time was up first; the
    /// messages are in the log and still being copied, so do not send them again.
    pub concern_met: bool,
    /// The nodes that hold all of the messages now.
    pub acks: Arc<[NodeName]>,
    /// The other nodes, and the reason why each of them does not hold them yet.
    pub waiting_for: Arc<[WaitingFor]>,
    /// `true` if what the nodes hold survives a power cut there, by their sync policy.
    pub durable: bool,
    /// `true` if an earlier append with the same key had put the messages there. The HTTP interface
    /// reports it by the status and a header.
    #[serde(skip)]
    pub replayed: bool,
    /// Time from the append to this answer.
    #[serde(rename = "elapsed_ms", serialize_with = "milliseconds")]
    pub elapsed: Duration,
}

impl BatchReceipt {
    /// Converts the receipt of an append that was of `count` messages.
    pub(crate) fn of(receipt: Receipt, count: u64) -> BatchReceipt {
        let Receipt {
            offset: first_offset,
            epoch,
            concern,
            concern_met,
            acks,
            waiting_for,
            durable,
            replayed,
            elapsed,
        } = receipt;
        BatchReceipt {
            first_offset,
            count,
            epoch,
            concern,
            concern_met,
            acks,
            waiting_for,
            durable,
            replayed,
            elapsed,
        }
    }
}

/// The nodes that hold a message, and those that do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Holders {
    /// The nodes that hold the message.
    pub acks: Arc<[NodeName]>,
    /// The other nodes, and the reason why each of them does not hold it yet.
    pub waiting_for: Arc<[WaitingFor]>,
}

/// Result of a wait for the concern of a message that was appended earlier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ConcernStatus {
    /// The concern, as a number of nodes.
    pub concern: u32,
    /// `true` if that many nodes hold the message.
    pub concern_met: bool,
    /// The nodes that hold the message, and the others.
    #[serde(flatten)]
    pub holders: Holders,
}

/// A node that does not hold a message yet, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WaitingFor {
    /// Name of the node.
    pub name: NodeName,
    /// Status of the node; a master that waits for its own disk is Healthy.
    pub status: Status,
    /// The reason, as a word.
    pub reason: WaitReason,
    /// The reason, as a sentence.
    pub detail: Option<Arc<str>>,
    /// Time until the next attempt; absent while a request is in flight.
    #[serde(rename = "next_retry_ms", serialize_with = "milliseconds_or_null")]
    pub next_retry: Option<Duration>,
}

/// The reason why a node does not hold a record, or does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitReason {
    /// The record is on its way.
    InFlight,
    /// Earlier records come first.
    CatchingUp,
    /// Nothing listens at the node's address, or the connection broke.
    ConnectionRefused,
    /// The node's host name has no address, or the resolver does not answer.
    NameNotResolved,
    /// The two nodes have different cluster secrets, or certificates of different authorities.
    WrongSecret,
    /// No answer within the timeout.
    TimedOut,
    /// The node failed the request, by a fault that was injected there.
    HttpStatus,
    /// An answer that cannot be understood.
    BadAnswer,
    /// Another node answers there, or one of another cluster.
    WrongNode,
    /// The node has promised a newer epoch.
    Fenced,
    /// The node's disk does not accept records.
    Storage,
    /// Not reached since this master started.
    NotReachedYet,
}

impl WaitReason {
    /// Returns the reason as it is written in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            WaitReason::InFlight => "in_flight",
            WaitReason::CatchingUp => "catching_up",
            WaitReason::ConnectionRefused => "connection_refused",
            WaitReason::NameNotResolved => "name_not_resolved",
            WaitReason::WrongSecret => "wrong_secret",
            WaitReason::TimedOut => "timed_out",
            WaitReason::HttpStatus => "http_status",
            WaitReason::BadAnswer => "bad_answer",
            WaitReason::WrongNode => "wrong_node",
            WaitReason::Fenced => "fenced",
            WaitReason::Storage => "storage",
            WaitReason::NotReachedYet => "not_reached_yet",
        }
    }
}

impl std::fmt::Display for WaitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The appends that wait for their concern, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WaitingAppends {
    /// The oldest appends.
    pub appends: Vec<WaitingAppend>,
    /// Number of all waiting appends.
    pub total: usize,
}

/// An append that waits for its concern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WaitingAppend {
    /// Position of the message.
    pub offset: Offset,
    /// The concern, as a number of nodes.
    pub concern: u32,
    /// The nodes that hold the message.
    pub acks: Arc<[NodeName]>,
    /// The other nodes, and the reason why each of them does not hold it yet.
    pub waiting_for: Arc<[WaitingFor]>,
    /// Time that the append has waited.
    #[serde(rename = "waiting_ms", serialize_with = "milliseconds")]
    pub waiting: Duration,
}

/// A master's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MasterHealth {
    /// Name of the master.
    pub name: NodeName,
    /// Always `master`.
    pub role: &'static str,
    /// The library's version.
    pub version: &'static str,
    /// Identity of the cluster; absent until it is founded or learned.
    pub cluster_id: Option<ClusterId>,
    /// Epoch of the master; 0 before the first.
    pub epoch: Epoch,
    /// State of the master with regard to appends.
    pub mode: Mode,
    /// The reason why it does not accept appends.
    pub mode_reason: Option<ModeReason>,
    /// `true` if the master's own log counts. A leading master carries on despite damage in its own
    /// log.
    pub intact: bool,
    /// Progress of the recovery, while one is going on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryHealth>,
    /// The master that fenced this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fenced_by: Option<FencedByHealth>,
    /// The epoch that a forced recovery started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forced_epoch: Option<Epoch>,
    /// The quorum.
    pub quorum: QuorumHealth,
    /// The log.
    pub log: LogHealth,
    /// Appends that wait for their concern.
    pub waiting_appends: usize,
    /// The secondaries, in the order of the settings.
    pub secondaries: Vec<SecondaryStatus>,
}

/// Progress of a recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecoveryHealth {
    /// The nodes whose answers the recovery waits for.
    pub waiting_for: Vec<NodeName>,
    /// The nodes that answered and do not count, possibly the master itself: they were wiped, or their
    /// logs are damaged or only partly refilled.
    pub not_intact: Vec<NodeName>,
    /// The node whose log is adopted.
    pub from: Option<NodeName>,
    /// End of the part of that log that has been adopted.
    pub adopted: Option<Offset>,
    /// End of that log.
    pub of: Option<Offset>,
    /// The reason why the recovery can never end by itself, whatever other nodes still answer; absent
    /// while it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck: Option<StuckRecovery>,
    /// The master that other nodes hear, while this one is blank and waits for that one to go silent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_master: Option<OtherMaster>,
}

/// A recovery that needs a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StuckRecovery {
    /// The obstacle, as a word.
    pub reason: StuckReason,
    /// The obstacle as a sentence, with the nodes and the way out.
    pub detail: String,
}

/// A master that other nodes hear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OtherMaster {
    /// Name of the master.
    pub name: NodeName,
    /// Identity of its data directory.
    pub instance: InstanceId,
    /// The node that hears it.
    pub heard_by: NodeName,
}

/// The newer master by which a master is fenced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FencedByHealth {
    /// Name of the newer master.
    pub name: NodeName,
    /// Identity of its data directory.
    pub instance: InstanceId,
    /// Epoch of the newer master.
    pub epoch: Epoch,
}

/// The numbers of a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QuorumHealth {
    /// Number of nodes in the cluster.
    pub nodes: u32,
    /// Number of nodes that make a quorum.
    pub needed: u32,
    /// Number of nodes in contact, including the master.
    pub alive: u32,
}

/// A node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LogHealth {
    /// The offset that the next record gets; on a secondary, and on a master that leads no epoch, the
    /// durable end.
    pub next: Offset,
    /// The offset after the last record that a majority holds (high watermark), once known.
    pub committed: Option<Offset>,
    /// Size of the log in bytes.
    pub bytes: u64,
    /// Condition of the disk.
    pub disk: DiskState,
}

/// A secondary as its master sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SecondaryStatus {
    /// Name of the secondary.
    pub name: NodeName,
    /// The address at which the master finds it.
    pub address: String,
    /// The URL at which clients reach the secondary, once it has sent one.
    pub url: Option<NodeUrl>,
    /// Status of the secondary. A fenced master no longer contacts any node: `Suspected`, with the
    /// reason `fenced`.
    pub status: Status,
    /// `true` if the secondary's log counts; `None` while the master does not know.
    pub intact: Option<bool>,
    /// The offset after the last record that the secondary holds, once known.
    pub durable_end: Option<Offset>,
    /// Number of records that the secondary lacks; all of them while nothing is known.
    pub lag: u64,
    /// Time since the last contact.
    #[serde(rename = "last_contact_ms", serialize_with = "milliseconds_or_null")]
    pub last_contact: Option<Duration>,
    /// Number of failures in a row.
    pub failed_attempts: u64,
    /// The reason why the last attempt failed.
    pub reason: Option<WaitReason>,
    /// Time until records or a heartbeat are sent again, after a failure.
    #[serde(rename = "next_retry_ms", serialize_with = "milliseconds_or_null")]
    pub next_retry: Option<Duration>,
}

/// A secondary's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SecondaryHealth {
    /// Name of the secondary.
    pub name: NodeName,
    /// Always `secondary`.
    pub role: &'static str,
    /// The library's version.
    pub version: &'static str,
    /// Identity of the cluster; absent until a master has founded it.
    pub cluster_id: Option<ClusterId>,
    /// The highest epoch that the secondary has promised; 0 before the first.
    pub epoch: Epoch,
    /// The secondary's log.
    pub log: LogHealth,
    /// `true` if the secondary's log counts: it agrees with a master's and covers what that master had
    /// adopted.
    pub intact: bool,
    /// Number of records held back behind a gap.
    pub buffered: u64,
    /// The master to which the secondary last made a promise.
    pub master: Option<MasterAddress>,
    /// Time since the master's last message.
    #[serde(rename = "last_contact_ms", serialize_with = "milliseconds_or_null")]
    pub last_contact: Option<Duration>,
}

/// A master and its URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MasterAddress {
    /// Name of the master.
    pub name: NodeName,
    /// The URL at which clients reach it, if it has sent one.
    pub url: Option<NodeUrl>,
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn milliseconds_or_null<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => milliseconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}

//! What a node says about itself and its messages: receipts, health, who waits for what.
//!
//! Plain data for embedders, serialized under the names of the HTTP interface. Durations become
//! whole milliseconds in fields that end in `_ms`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Serialize, Serializer};

use crate::address::NodeUrl;
use crate::types::{
    ClusterId, DiskState, Epoch, InstanceId, Mode, ModeReason, NodeName, Offset, Status,
    StuckReason,
};

/// One message as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// Its position.
    pub offset: Offset,
    /// The epoch in which it was appended.
    pub epoch: Epoch,
    /// Milliseconds since 1970, by the master's clock.
    pub timestamp_ms: u64,
    /// Its idempotency key, where it has one.
    pub key: Option<String>,
    /// The payload, byte for byte.
    pub payload: Bytes,
}

/// What a caller knows about its message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Receipt {
    /// The message's position.
    pub offset: Offset,
    /// The epoch in which it was appended.
    pub epoch: Epoch,
    /// The concern, as a number of nodes.
    pub concern: u32,
    /// Whether that many nodes hold it. `false`: the time was up before; it is in the log and
    /// still being copied, so do not send it again.
    pub concern_met: bool,
    /// The nodes that hold it now.
    pub acks: Arc<[NodeName]>,
    /// The others, and why.
    pub waiting_for: Arc<[WaitingFor]>,
    /// Whether what the nodes hold survives a power cut there, by their sync policy.
    pub durable: bool,
    /// Whether an earlier append with the same key had put the message there. Told over HTTP by
    /// the status and a header.
    #[serde(skip)]
    pub replayed: bool,
    /// From the append to this answer.
    #[serde(rename = "elapsed_ms", serialize_with = "milliseconds")]
    pub elapsed: Duration,
}

/// What a caller knows about messages that it appended together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BatchReceipt {
    /// The first message's position; the others follow it.
    pub first_offset: Offset,
    /// How many messages.
    pub count: u64,
    /// The epoch in which they were appended.
    pub epoch: Epoch,
    /// The concern, as a number of nodes.
    pub concern: u32,
    /// Whether that many nodes hold all of them. `false`: the time was up before; they are in the log
    /// and still being copied, so do not send them again.
    pub concern_met: bool,
    /// The nodes that hold all of them now.
    pub acks: Arc<[NodeName]>,
    /// The others, and why.
    pub waiting_for: Arc<[WaitingFor]>,
    /// Whether what the nodes hold survives a power cut there, by their sync policy.
    pub durable: bool,
    /// Whether an earlier append with the same key had put them there. Told over HTTP by the status
    /// and a header.
    #[serde(skip)]
    pub replayed: bool,
    /// From the append to this answer.
    #[serde(rename = "elapsed_ms", serialize_with = "milliseconds")]
    pub elapsed: Duration,
}

impl BatchReceipt {
    /// What the receipt of an append says, where that was of `count` messages.
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

/// Which nodes hold a message, and which do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Holders {
    /// The nodes that hold it.
    pub acks: Arc<[NodeName]>,
    /// The others, and why.
    pub waiting_for: Arc<[WaitingFor]>,
}

/// What a wait for the concern of a message that was appended before came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ConcernStatus {
    /// The concern, as a number of nodes.
    pub concern: u32,
    /// Whether that many nodes hold it.
    pub concern_met: bool,
    /// The nodes that hold it, and the others.
    #[serde(flatten)]
    pub holders: Holders,
}

/// Why a node does not hold a message yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WaitingFor {
    /// The node.
    pub name: NodeName,
    /// Its status; a master that waits for its own disk is Healthy.
    pub status: Status,
    /// The reason, as a word.
    pub reason: WaitReason,
    /// The reason, as a sentence.
    pub detail: Option<Arc<str>>,
    /// When it is tried next; absent while a request is under way.
    #[serde(rename = "next_retry_ms", serialize_with = "milliseconds_or_null")]
    pub next_retry: Option<Duration>,
}

/// Why a node does not hold a record, or does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitReason {
    /// The record is on its way.
    InFlight,
    /// Earlier records come first.
    CatchingUp,
    /// Nobody listens there, or the connection broke.
    ConnectionRefused,
    /// The node's host name has no address, or the resolver does not answer.
    NameNotResolved,
    /// The two nodes have different cluster secrets, or certificates of different authorities.
    WrongSecret,
    /// No answer in time.
    TimedOut,
    /// The node failed the request, by a fault that was injected there.
    HttpStatus,
    /// An answer that is none.
    BadAnswer,
    /// Another node answers there, or one of another cluster.
    WrongNode,
    /// The node has promised a newer epoch.
    Fenced,
    /// The node's disk takes no records.
    Storage,
    /// Never reached since this master started.
    NotReachedYet,
}

impl WaitReason {
    /// The reason as it stands in JSON.
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
    /// The oldest ones.
    pub appends: Vec<WaitingAppend>,
    /// How many there are in all.
    pub total: usize,
}

/// One append that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WaitingAppend {
    /// Its position.
    pub offset: Offset,
    /// The concern, as a number of nodes.
    pub concern: u32,
    /// The nodes that hold it.
    pub acks: Arc<[NodeName]>,
    /// The others, and why.
    pub waiting_for: Arc<[WaitingFor]>,
    /// How long it has waited.
    #[serde(rename = "waiting_ms", serialize_with = "milliseconds")]
    pub waiting: Duration,
}

/// A master's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MasterHealth {
    /// Its name.
    pub name: NodeName,
    /// `master`.
    pub role: &'static str,
    /// The library's version.
    pub version: &'static str,
    /// Its cluster; absent until it is founded or learned.
    pub cluster_id: Option<ClusterId>,
    /// Its epoch; 0 before the first.
    pub epoch: Epoch,
    /// What it does with appends.
    pub mode: Mode,
    /// Why it takes none.
    pub mode_reason: Option<ModeReason>,
    /// Whether its own log counts. A master in office goes on beside damage in its own log.
    pub intact: bool,
    /// How the recovery goes, while it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryHealth>,
    /// Who took its office.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fenced_by: Option<FencedByHealth>,
    /// The epoch that a forced recovery began.
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

/// How a recovery goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecoveryHealth {
    /// The nodes whose answers it waits for.
    pub waiting_for: Vec<NodeName>,
    /// The nodes that answered and do not count, the master among them: they were wiped, or their logs
    /// are damaged or only partly refilled.
    pub not_intact: Vec<NodeName>,
    /// The node whose log it adopts.
    pub from: Option<NodeName>,
    /// The end of what it has of that log.
    pub adopted: Option<Offset>,
    /// The end of that log.
    pub of: Option<Offset>,
    /// Why it can never end by itself, whoever still answers; absent while it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck: Option<StuckRecovery>,
    /// The master that other nodes hear, where this one is blank and waits for that one's silence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_master: Option<OtherMaster>,
}

/// A recovery that needs a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StuckRecovery {
    /// What is missing.
    pub reason: StuckReason,
    /// The same as a sentence, with the nodes and the way out.
    pub detail: String,
}

/// A master that other nodes hear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OtherMaster {
    /// Its name.
    pub name: NodeName,
    /// Its directory.
    pub instance: InstanceId,
    /// The node that hears it.
    pub heard_by: NodeName,
}

/// Who fenced a master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FencedByHealth {
    /// The newer master's name.
    pub name: NodeName,
    /// Its directory.
    pub instance: InstanceId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// The numbers of a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QuorumHealth {
    /// Nodes of the cluster.
    pub nodes: u32,
    /// Nodes that make a quorum.
    pub needed: u32,
    /// Nodes in contact, the master included.
    pub alive: u32,
}

/// A node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LogHealth {
    /// The offset that the next record gets; on a secondary, and on a master that is not in office, the
    /// durable end.
    pub next: Offset,
    /// The offset after the last record that a majority holds, once known.
    pub committed: Option<Offset>,
    /// Bytes of the log.
    pub bytes: u64,
    /// The disk.
    pub disk: DiskState,
}

/// A secondary, as its master sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SecondaryStatus {
    /// Its name.
    pub name: NodeName,
    /// The address at which the master finds it.
    pub address: String,
    /// The URL at which clients reach it, once it said.
    pub url: Option<NodeUrl>,
    /// What the master thinks of it. A fenced master asks nobody any more: `Suspected`, for the reason
    /// `fenced`.
    pub status: Status,
    /// Whether its log counts; `None` while the master does not know.
    pub intact: Option<bool>,
    /// The offset after the last record that it holds, once known.
    pub durable_end: Option<Offset>,
    /// Records that it lacks; all of them while nothing is known.
    pub lag: u64,
    /// Since the last contact.
    #[serde(rename = "last_contact_ms", serialize_with = "milliseconds_or_null")]
    pub last_contact: Option<Duration>,
    /// Failures in a row.
    pub failed_attempts: u64,
    /// Why the last attempt failed.
    pub reason: Option<WaitReason>,
    /// When records or a heartbeat are tried next, after a failure.
    #[serde(rename = "next_retry_ms", serialize_with = "milliseconds_or_null")]
    pub next_retry: Option<Duration>,
}

/// A secondary's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SecondaryHealth {
    /// Its name.
    pub name: NodeName,
    /// `secondary`.
    pub role: &'static str,
    /// The library's version.
    pub version: &'static str,
    /// Its cluster; absent until a master has founded it.
    pub cluster_id: Option<ClusterId>,
    /// The highest epoch that it has promised; 0 before the first.
    pub epoch: Epoch,
    /// Its log.
    pub log: LogHealth,
    /// Whether its log counts: it agrees with a master's and covers what that had adopted.
    pub intact: bool,
    /// Records held back behind a gap.
    pub buffered: u64,
    /// The master that it last promised to.
    pub master: Option<MasterAddress>,
    /// Since the master's last message.
    #[serde(rename = "last_contact_ms", serialize_with = "milliseconds_or_null")]
    pub last_contact: Option<Duration>,
}

/// Where a master is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MasterAddress {
    /// Its name.
    pub name: NodeName,
    /// The URL at which clients reach it, if it said.
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

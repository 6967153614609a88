//! Types of the answers that a node gives to clients.
//!
//! Unknown members are ignored, and words of which there may be more later stay text: an older
//! client can read a newer node. Durations are milliseconds, as they are sent.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::message::MessageBody;
use crate::types::{ClusterId, DiskState, Epoch, InstanceId, Mode, NodeName, Offset, Status};

/// Result of an append: a message that is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// HTTP status. 201: the concern is met. 202: it was not met in time; the message is in the log and
    /// is being copied, so do not send it again. 200: its idempotency key was seen before.
    pub status: u16,
    /// True if the idempotency key was seen before: the receipt is then of the earlier message.
    pub replayed: bool,
    /// The URL of the node that answered: the master's, if a secondary redirected the append.
    pub url: String,
    /// The log that the message is in, if the node names it.
    pub cluster_id: Option<ClusterId>,
    /// The message's position and the nodes that hold it.
    pub receipt: Receipt,
}

/// Receipt of an appended message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Receipt {
    /// The message's offset.
    pub offset: Offset,
    /// The epoch in which it was appended.
    pub epoch: Epoch,
    /// The concern as a number of nodes.
    pub concern: u32,
    /// True if that many nodes hold it.
    pub concern_met: bool,
    /// The nodes that hold it.
    pub acks: Vec<NodeName>,
    /// The other nodes, each with the reason.
    pub waiting_for: Vec<WaitingFor>,
    /// True if what the nodes hold survives a power cut there.
    pub durable: bool,
    /// Time from the append to the answer.
    pub elapsed_ms: u64,
}

/// Result of a batch: messages that were appended together and are in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppendedBatch {
    /// HTTP status, as in [`Appended`].
    pub status: u16,
    /// True if the idempotency key was seen before: the receipt is then of the earlier messages.
    pub replayed: bool,
    /// URL of the node that answered, as in [`Appended`].
    pub url: String,
    /// The log that the messages are in, as in [`Appended`].
    pub cluster_id: Option<ClusterId>,
    /// The messages' positions and the nodes that hold them.
    pub receipt: BatchReceipt,
}

/// Receipt of messages that were appended together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BatchReceipt {
    /// The first message's offset; the others follow it.
    pub first_offset: Offset,
    /// Number of messages.
    pub count: u64,
    /// The epoch in which they were appended.
    pub epoch: Epoch,
    /// The concern as a number of nodes.
    pub concern: u32,
    /// True if that many nodes hold all of them.
    pub concern_met: bool,
    /// The nodes that hold all of them.
    pub acks: Vec<NodeName>,
    /// The other nodes, each with the reason.
    pub waiting_for: Vec<WaitingFor>,
    /// True if what the nodes hold survives a power cut there.
    pub durable: bool,
    /// Time from the append to the answer.
    pub elapsed_ms: u64,
}

/// A node that does not hold a message yet, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WaitingFor {
    /// The node's name.
    pub name: NodeName,
    /// The node's status.
    pub status: Status,
    /// The reason, as a word such as `connection_refused`.
    pub reason: String,
    /// The reason, as a sentence.
    pub detail: Option<String>,
    /// Time until the next attempt; `None`: a request is in flight.
    pub next_retry_ms: Option<u64>,
}

/// Consecutive messages, and the offset to read on from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Page {
    /// The messages in order.
    pub messages: Vec<Message>,
    /// The offset to read from next.
    pub next: Offset,
    /// The log that they belong to, if the node names it.
    #[serde(skip)]
    pub cluster_id: Option<ClusterId>,
}

/// One message.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "MessageBody", into = "MessageBody")]
#[non_exhaustive]
pub struct Message {
    /// The message's offset.
    pub offset: Offset,
    /// The epoch in which it was appended.
    pub epoch: Epoch,
    /// Milliseconds since 1970, by the master's clock.
    pub timestamp_ms: u64,
    /// The JSON as it was appended; `null` if the payload is not JSON, and is in `data_base64`.
    pub data: Box<RawValue>,
    /// A payload that is not JSON, in base64: a program that embeds a node may append any bytes.
    pub data_base64: Option<String>,
    /// The message's idempotency key, if it has one.
    pub idempotency_key: Option<String>,
    /// The nodes that hold it: only for a single message, from the master.
    pub acks: Option<Vec<NodeName>>,
    /// The other nodes, each with the reason: only for a single message, from the master.
    pub waiting_for: Option<Vec<WaitingFor>>,
    /// Number of nodes that were to hold it: only for a message whose concern was [waited
    /// for](super::Client::wait_for_concern).
    pub concern: Option<u32>,
    /// True if that many nodes hold it: only for such a message.
    pub concern_met: Option<bool>,
}

/// Appends that wait for their concern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Appends {
    /// The oldest waiting appends.
    pub appends: Vec<WaitingAppend>,
    /// Number of all waiting appends.
    pub total: u64,
}

/// One append that waits for its concern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WaitingAppend {
    /// The message's offset.
    pub offset: Offset,
    /// The concern as a number of nodes.
    pub concern: u32,
    /// The nodes that hold it.
    pub acks: Vec<NodeName>,
    /// The other nodes, each with the reason.
    pub waiting_for: Vec<WaitingFor>,
    /// Time that it has waited.
    pub waiting_ms: u64,
}

/// A master's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MasterStatus {
    /// The master's name.
    pub name: NodeName,
    /// `master`.
    pub role: String,
    /// The version of its software.
    pub version: String,
    /// The cluster, once known.
    pub cluster_id: Option<ClusterId>,
    /// The master's epoch; 0 before the first.
    pub epoch: Epoch,
    /// The master's mode: its treatment of appends.
    pub mode: Mode,
    /// The reason why it takes no appends, as a word such as `no_quorum`.
    pub mode_reason: Option<String>,
    /// Progress of the recovery, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// The newer master that fenced this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced_by: Option<FencedBy>,
    /// The epoch that a forced recovery started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced_epoch: Option<Epoch>,
    /// The numbers of the quorum.
    pub quorum: Quorum,
    /// The master's log.
    pub log: LogStatus,
    /// Number of appends that wait for their concern.
    pub waiting_appends: u64,
    /// The secondaries, as the master sees them.
    pub secondaries: Vec<SecondaryStatus>,
}

impl MasterStatus {
    /// Returns the secondary of this name.
    #[must_use]
    pub fn secondary(&self, name: &str) -> Option<&SecondaryStatus> {
        self.secondaries
            .iter()
            .find(|secondary| secondary.name.as_str() == name)
    }
}

/// Progress of a recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Recovery {
    /// The nodes whose answers it waits for.
    pub waiting_for: Vec<NodeName>,
    /// The nodes that answered and do not count, because they were wiped or their logs are damaged.
    #[serde(default)]
    pub not_intact: Vec<NodeName>,
    /// The node whose log it adopts.
    pub from: Option<NodeName>,
    /// The end of the part of that log that it has so far.
    pub adopted: Option<Offset>,
    /// The end of that log.
    pub of: Option<Offset>,
    /// The reason why it can never end by itself, whatever nodes still answer; absent while it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<StuckRecovery>,
    /// The master that other nodes are in contact with, if this one is blank and waits until that
    /// one is silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_master: Option<OtherMaster>,
}

/// A recovery that needs a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StuckRecovery {
    /// The missing condition, as a word such as `too_few_intact`.
    pub reason: String,
    /// The same as a sentence, with the nodes and the way out.
    pub detail: String,
}

/// A master that other nodes are in contact with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OtherMaster {
    /// That master's name.
    pub name: NodeName,
    /// That master's data directory.
    pub instance: InstanceId,
    /// The node that is in contact with it.
    pub heard_by: NodeName,
}

/// The newer master that fenced a master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FencedBy {
    /// The newer master's name.
    pub name: NodeName,
    /// The newer master's data directory.
    pub instance: InstanceId,
    /// The newer master's epoch.
    pub epoch: Epoch,
}

/// Numbers of a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Quorum {
    /// Number of nodes in the cluster.
    pub nodes: u32,
    /// Number of nodes that make a quorum.
    pub needed: u32,
    /// Number of nodes in contact, the master included.
    pub alive: u32,
}

/// A node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogStatus {
    /// The offset that the next record gets; on a secondary its durable end.
    pub next: Offset,
    /// The offset after the last record that a majority holds (high watermark), once known.
    pub committed: Option<Offset>,
    /// Size of the log in bytes.
    pub bytes: u64,
    /// State of the disk.
    pub disk: DiskState,
}

/// A secondary, as its master sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SecondaryStatus {
    /// The secondary's name.
    pub name: NodeName,
    /// The address at which the master reaches it.
    pub address: String,
    /// The URL at which clients reach it, once it has announced one.
    pub url: Option<String>,
    /// The status that the master gives it.
    pub status: Status,
    /// The offset after the last record that it holds, once known.
    pub durable_end: Option<Offset>,
    /// Number of records that it lacks.
    pub lag: u64,
    /// Time since the last contact.
    pub last_contact_ms: Option<u64>,
    /// Number of consecutive failures.
    pub failed_attempts: u64,
    /// The reason of the last failure, as a word.
    pub reason: Option<String>,
    /// Time until the next attempt, after a failure.
    pub next_retry_ms: Option<u64>,
}

/// A secondary's health, as it reports it itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SecondaryHealth {
    /// The secondary's name.
    pub name: NodeName,
    /// `secondary`.
    pub role: String,
    /// The version of its software.
    pub version: String,
    /// The cluster, once known.
    pub cluster_id: Option<ClusterId>,
    /// The highest epoch that it has promised; 0 before the first.
    pub epoch: Epoch,
    /// The secondary's log.
    pub log: LogStatus,
    /// True if its log is intact and counts.
    pub intact: bool,
    /// Number of records held back behind a gap.
    pub buffered: u64,
    /// The master that it last promised to.
    pub master: Option<MasterAddress>,
    /// Time since the master's last message.
    pub last_contact_ms: Option<u64>,
    /// The last connection that its listener for other nodes refused because of a wrong setup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refusal: Option<LastRefusal>,
}

/// A connection that a node refused because of a wrong setup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastRefusal {
    /// The address that it came from.
    pub address: String,
    /// The reason, as a word.
    pub reason: String,
    /// The reason, and what to do about it, in one sentence.
    pub detail: String,
    /// Time since the refusal.
    pub elapsed_ms: u64,
}

/// Name and URL of a master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MasterAddress {
    /// The master's name.
    pub name: NodeName,
    /// The URL at which clients reach the master, if it announced one.
    pub url: Option<String>,
}

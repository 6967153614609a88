//! What a node answers to a client, as types.
//!
//! Members that are not known here are ignored, and words that may grow in number stay text: a
//! newer node can be read by an older client. Durations are milliseconds, as they are sent.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::message::AsSent;
use crate::types::{ClusterId, DiskState, Epoch, InstanceId, Mode, NodeName, Offset, Status};

/// A message that is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// 201: the concern is met. 202: it was not in time; the message is in the log and is
    /// being copied, so do not send it again. 200: its key was there before.
    pub status: u16,
    /// Whether the idempotency key was seen before: the receipt is of the message then.
    pub replayed: bool,
    /// The URL of the node that answered: the master's, where a secondary sent the append on to it.
    pub url: String,
    /// The log that the message is in, where the node says so.
    pub cluster_id: Option<ClusterId>,
    /// Where the message is and who holds it.
    pub receipt: Receipt,
}

/// What a node knows of an appended message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Receipt {
    /// Its position.
    pub offset: Offset,
    /// The epoch in which it was appended.
    pub epoch: Epoch,
    /// The concern, as a number of nodes.
    pub concern: u32,
    /// Whether that many nodes hold it.
    pub concern_met: bool,
    /// The nodes that hold it.
    pub acks: Vec<NodeName>,
    /// The others, and why.
    pub waiting_for: Vec<WaitingFor>,
    /// Whether what the nodes hold survives a power cut there.
    pub durable: bool,
    /// From the append to the answer.
    pub elapsed_ms: u64,
}

/// Messages that were appended together and are in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppendedBatch {
    /// As in [`Appended`].
    pub status: u16,
    /// Whether the idempotency key was seen before: the receipt is of those messages then.
    pub replayed: bool,
    /// As in [`Appended`].
    pub url: String,
    /// As in [`Appended`].
    pub cluster_id: Option<ClusterId>,
    /// Where the messages are and who holds them.
    pub receipt: BatchReceipt,
}

/// What a node knows of messages that were appended together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BatchReceipt {
    /// The first one's position; the others follow it.
    pub first_offset: Offset,
    /// How many messages.
    pub count: u64,
    /// The epoch in which they were appended.
    pub epoch: Epoch,
    /// The concern, as a number of nodes.
    pub concern: u32,
    /// Whether that many nodes hold all of them.
    pub concern_met: bool,
    /// The nodes that hold all of them.
    pub acks: Vec<NodeName>,
    /// The others, and why.
    pub waiting_for: Vec<WaitingFor>,
    /// Whether what the nodes hold survives a power cut there.
    pub durable: bool,
    /// From the append to the answer.
    pub elapsed_ms: u64,
}

/// Why a node does not hold a message yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WaitingFor {
    /// The node.
    pub name: NodeName,
    /// Its status.
    pub status: Status,
    /// The reason, as a word such as `connection_refused`.
    pub reason: String,
    /// The reason, as a sentence.
    pub detail: Option<String>,
    /// When it is tried next; `None`: a request is under way.
    pub next_retry_ms: Option<u64>,
}

/// Messages, and where to read on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Page {
    /// The messages in order.
    pub messages: Vec<Message>,
    /// The offset to read from next.
    pub next: Offset,
    /// The log that they are of, where the node says so.
    #[serde(skip)]
    pub cluster_id: Option<ClusterId>,
}

/// One message.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "AsSent", into = "AsSent")]
#[non_exhaustive]
pub struct Message {
    /// Its position.
    pub offset: Offset,
    /// The epoch in which it was appended.
    pub epoch: Epoch,
    /// Milliseconds since 1970, by the master's clock.
    pub timestamp_ms: u64,
    /// The JSON as it was appended; `null` where the payload is no JSON, and is in `data_base64`.
    pub data: Box<RawValue>,
    /// A payload that is no JSON, in base64: a program that embeds a node may append any bytes.
    pub data_base64: Option<String>,
    /// Its idempotency key, where it has one.
    pub idempotency_key: Option<String>,
    /// The nodes that hold it: of a single message, from the master.
    pub acks: Option<Vec<NodeName>>,
    /// The others, and why: of a single message, from the master.
    pub waiting_for: Option<Vec<WaitingFor>>,
    /// How many nodes were to hold it: of a message whose concern was
    /// [waited for](super::Client::wait_for_concern).
    pub concern: Option<u32>,
    /// Whether they do: of such a message.
    pub concern_met: Option<bool>,
}

/// The appends that wait for their concern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Appends {
    /// The oldest ones.
    pub appends: Vec<WaitingAppend>,
    /// How many there are in all.
    pub total: u64,
}

/// One append that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WaitingAppend {
    /// Its position.
    pub offset: Offset,
    /// The concern, as a number of nodes.
    pub concern: u32,
    /// The nodes that hold it.
    pub acks: Vec<NodeName>,
    /// The others, and why.
    pub waiting_for: Vec<WaitingFor>,
    /// How long it has waited.
    pub waiting_ms: u64,
}

/// A master's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MasterStatus {
    /// Its name.
    pub name: NodeName,
    /// `master`.
    pub role: String,
    /// Its version.
    pub version: String,
    /// Its cluster, once known.
    pub cluster_id: Option<ClusterId>,
    /// Its epoch; 0 before the first.
    pub epoch: Epoch,
    /// What it does with appends.
    pub mode: Mode,
    /// Why it takes none, as a word such as `no_quorum`.
    pub mode_reason: Option<String>,
    /// How the recovery goes, while it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// Who took its office.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced_by: Option<FencedBy>,
    /// The epoch that a forced recovery began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced_epoch: Option<Epoch>,
    /// The quorum.
    pub quorum: Quorum,
    /// The log.
    pub log: LogStatus,
    /// Appends that wait for their concern.
    pub waiting_appends: u64,
    /// The secondaries.
    pub secondaries: Vec<SecondaryStatus>,
}

impl MasterStatus {
    /// The secondary of this name.
    #[must_use]
    pub fn secondary(&self, name: &str) -> Option<&SecondaryStatus> {
        self.secondaries
            .iter()
            .find(|secondary| secondary.name.as_str() == name)
    }
}

/// How a recovery goes.
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
    /// The end of what it has of that log.
    pub adopted: Option<Offset>,
    /// The end of that log.
    pub of: Option<Offset>,
    /// Why it can never end by itself, whoever still answers; absent while it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<StuckRecovery>,
    /// The master that other nodes hear, where this one is blank and waits for that one's silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_master: Option<OtherMaster>,
}

/// A recovery that needs a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StuckRecovery {
    /// What is missing, as a word such as `too_few_intact`.
    pub reason: String,
    /// The same as a sentence, with the nodes and the way out.
    pub detail: String,
}

/// A master that other nodes hear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FencedBy {
    /// The newer master's name.
    pub name: NodeName,
    /// Its directory.
    pub instance: InstanceId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// The numbers of a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Quorum {
    /// Nodes of the cluster.
    pub nodes: u32,
    /// Nodes that make a quorum.
    pub needed: u32,
    /// Nodes in contact, the master included.
    pub alive: u32,
}

/// A node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogStatus {
    /// The offset that the next record gets; on a secondary its durable end.
    pub next: Offset,
    /// The offset after the last record that a majority holds, once known.
    pub committed: Option<Offset>,
    /// Bytes of the log.
    pub bytes: u64,
    /// How the disk does.
    pub disk: DiskState,
}

/// A secondary, as its master sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SecondaryStatus {
    /// Its name.
    pub name: NodeName,
    /// The address at which the master finds it.
    pub address: String,
    /// The URL at which clients reach it, once it said.
    pub url: Option<String>,
    /// What the master thinks of it.
    pub status: Status,
    /// The offset after the last record that it holds, once known.
    pub durable_end: Option<Offset>,
    /// Records that it lacks.
    pub lag: u64,
    /// Since the last contact.
    pub last_contact_ms: Option<u64>,
    /// Failures in a row.
    pub failed_attempts: u64,
    /// Why the last attempt failed, as a word.
    pub reason: Option<String>,
    /// When it is tried next, after a failure.
    pub next_retry_ms: Option<u64>,
}

/// A secondary's health, by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SecondaryHealth {
    /// Its name.
    pub name: NodeName,
    /// `secondary`.
    pub role: String,
    /// Its version.
    pub version: String,
    /// Its cluster, once known.
    pub cluster_id: Option<ClusterId>,
    /// The highest epoch that it has promised; 0 before the first.
    pub epoch: Epoch,
    /// Its log.
    pub log: LogStatus,
    /// Whether its log counts.
    pub intact: bool,
    /// Records held back behind a gap.
    pub buffered: u64,
    /// The master that it last promised to.
    pub master: Option<MasterAddress>,
    /// Since the master's last message.
    pub last_contact_ms: Option<u64>,
    /// The last connection that its listener for other nodes refused because nodes are set up wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refusal: Option<LastRefusal>,
}

/// A connection that a node refused because nodes are set up wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastRefusal {
    /// Where it came from.
    pub address: String,
    /// Why, as a word.
    pub reason: String,
    /// Why, and what to do about it, in one sentence.
    pub detail: String,
    /// Since then.
    pub elapsed_ms: u64,
}

/// Where a master is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MasterAddress {
    /// Its name.
    pub name: NodeName,
    /// Where clients reach it, if it said.
    pub url: Option<String>,
}

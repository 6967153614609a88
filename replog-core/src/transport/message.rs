//! What nodes say to each other, as types: the words of the protocol.
//!
//! Owns no encoding (`wire.rs`) and no decision (`rules/`). Every request names its sender, the
//! epoch, and whom it is for; every answer names who gave it, from which life, and where that
//! node's log stands.

use serde::{Deserialize, Serialize};

use crate::{
    address::NodeUrl,
    record::RecordBatch,
    types::{ClusterId, Epoch, EpochStart, Incarnation, InstanceId, LastWhole, NodeName, Offset},
};

/// A request from a master to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The sender's cluster; absent while it does not know.
    pub cluster: Option<ClusterId>,
    /// The sender's name.
    pub from: NodeName,
    /// The sender's life.
    pub incarnation: Incarnation,
    /// The name of the node that it is for.
    pub to: NodeName,
    /// The epoch that the sender speaks for.
    pub epoch: Epoch,
    /// What is asked.
    pub body: RequestBody,
}

/// What a request asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// Who are you? Changes nothing.
    Identify,
    /// Promise to refuse everything older than the epoch.
    Promise(Promise),
    /// The conversation of an epoch begins: align your log. A promise too, where the epoch is
    /// new.
    Hello(Hello),
    /// Are you there? Carries the master's ends.
    Heartbeat(Progress),
    /// Take these records.
    Append(Append),
    /// Give me records of your log, for a recovery.
    Fetch(Fetch),
}

/// Asks for a promise of the request's epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The names of all nodes, ascending.
    pub nodes: Vec<NodeName>,
    /// The sender's log epoch; absent while it is not intact.
    pub log_epoch: Option<Epoch>,
}

/// Opens the conversation of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The names of all nodes, ascending.
    pub nodes: Vec<NodeName>,
    /// The sender's log epoch: the request's epoch.
    pub log_epoch: Option<Epoch>,
    /// The URL at which clients reach the master, if it was given one.
    pub public_url: Option<NodeUrl>,
    /// The master's end: an aligned log is never longer.
    pub end: Offset,
    /// The end that the master had adopted when the epoch began.
    pub adopted_end: Offset,
    /// Where the epochs of the master's log begin: the newest ones, or the newest before what
    /// the secondary asked for; ascending.
    pub epoch_starts: Vec<EpochStart>,
    /// Where the last of these epochs ends: the master's end, or where the pairs that were sent
    /// before begin.
    pub epoch_starts_end: Offset,
    /// The epoch of the last forced recovery, if there was one: who joined no epoch since then
    /// quarantines what it must cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced_epoch: Option<Epoch>,
}

/// What a master tells in every message of an open conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The life that this is meant for.
    pub to_incarnation: Incarnation,
    /// The master's end.
    pub end: Offset,
    /// The offset after the last record that a majority holds, once known.
    pub committed: Option<Offset>,
    /// The end that a node that is not intact must reach to become so. Belongs to the hello
    /// that this life answered.
    pub refill_target: Option<Offset>,
}

/// Carries records, in order and without a gap among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// As in every message.
    pub progress: Progress,
    /// The records; never empty.
    pub records: Vec<RecordBatch>,
}

/// Asks for records of the receiver's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The life that promised.
    pub to_incarnation: Incarnation,
    /// The first offset wanted.
    pub from: Offset,
    /// Bytes wanted at most; one record always comes.
    pub bytes_max: u32,
    /// Whether the answer shall carry the epochs of the log that begin below `from`.
    pub epoch_starts: bool,
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The cluster of the node that answers; absent while it is blank.
    pub cluster: Option<ClusterId>,
    /// Its name.
    pub name: NodeName,
    /// Its life.
    pub incarnation: Incarnation,
    /// Where it stands.
    pub state: NodeState,
    /// The answer.
    pub answer: Answer,
}

/// Where the log of a node that answers stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// The offset after the last record that it holds.
    pub durable_end: Offset,
    /// Its log epoch; absent while it is not intact. The end counts only when this is the
    /// master's epoch.
    pub log_epoch: Option<Epoch>,
    /// The highest epoch that it has promised.
    pub promised: Epoch,
    /// Records that it holds back behind a gap.
    pub buffered: u64,
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`RequestBody::Identify`].
    Identity(Identity),
    /// To [`RequestBody::Promise`]: granted, and synced.
    Promised(Promised),
    /// To [`RequestBody::Hello`]: promised, and aligned.
    Aligned(Aligned),
    /// To [`RequestBody::Hello`]: the pairs do not reach back to a common epoch; send those
    /// that begin below.
    OlderStartsNeeded {
        /// Pairs with a first offset below this one are wanted.
        before: Offset,
    },
    /// To a heartbeat, or to records once they are held.
    Taken,
    /// To [`RequestBody::Fetch`]: records from the wanted offset on; none when the log ends there.
    Records(Fetched),
    /// Not done, and nothing was changed.
    Refused(Refusal),
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The node list it was founded with; empty on a blank node.
    pub nodes: Vec<NodeName>,
    /// The master that it has heard since it started, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<MasterContact>,
}

/// The last contact of a node with its master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterContact {
    /// The master's name.
    pub name: NodeName,
    /// The master's directory.
    pub instance: InstanceId,
    /// Milliseconds since then.
    pub elapsed_ms: u64,
}

/// A granted promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// The newest pairs of its log, ascending.
    pub epoch_starts: Vec<EpochStart>,
    /// The epoch of the last forced recovery that it knows of: a master whose disk was replaced
    /// learns it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced_epoch: Option<Epoch>,
    /// Of a node that is not intact because its log was damaged: how far it held which log before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_whole: Option<LastWhole>,
}

/// An aligned log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aligned {
    /// Records that it cut away to be so.
    pub cut_records: u64,
    /// The URL at which clients reach the node that answers, if it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_url: Option<NodeUrl>,
}

/// Records for a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Where epochs begin below the wanted offset, where asked for; ascending.
    pub epoch_starts: Vec<EpochStart>,
    /// The records.
    pub records: Vec<RecordBatch>,
}

/// Why a node refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The request is for a node of another name.
    WrongNode,
    /// The node belongs to another cluster.
    WrongCluster,
    /// The cluster was founded with another list of nodes.
    OtherNodes {
        /// The list that this node knows.
        nodes: Vec<NodeName>,
    },
    /// The node has promised a newer epoch.
    Fenced(FencedBy),
    /// The sender's directory was replaced by another one. For ever.
    Replaced(FencedBy),
    /// The sender is intact and its log older than the node's: a directory from the past. Names
    /// the master of the newer log's epoch.
    OutOfDate(FencedBy),
    /// This life of the node has not been greeted in this epoch. Of a promise request or a hello: its epoch lies
    /// further above than one message may raise a promise, which was raised part of the way; to be sent again.
    HelloFirst,
    /// The request is meant for another life of the node.
    WrongIncarnation,
    /// The hello's end lies below what this node holds and knows to be committed: to obey it would lose
    /// messages that a majority has acknowledged, and nothing tells of a forced recovery.
    BelowCommitted {
        /// Up to here the node holds the log and knows it to be committed.
        committed: Offset,
    },
    /// The logs differ where they should agree.
    NotAligned,
    /// The records lie further behind a gap than the node holds back.
    BeyondWindow,
    /// The node's disk takes no records.
    Storage {
        /// What the disk said.
        detail: String,
    },
    /// The request makes no sense.
    Malformed {
        /// What is wrong with it.
        detail: String,
    },
    /// The node is stopping.
    Stopping,
}

/// To whom a node has promised a newer epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencedBy {
    /// The master's name.
    pub name: NodeName,
    /// The master's directory.
    pub instance: InstanceId,
    /// The epoch.
    pub epoch: Epoch,
}

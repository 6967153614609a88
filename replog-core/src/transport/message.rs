//! The messages of the protocol between nodes, as types.
//!
//! Owns no encoding (`wire.rs`) and no decision (`rules/`). Every request names its sender, its
//! receiver and the epoch; every answer names the node that gave it, its incarnation, and the state of that
//! node's log.

use serde::{Deserialize, Serialize};

use crate::{
    address::NodeUrl,
    frame::FrameBatch,
    types::{ClusterId, Epoch, EpochStart, Incarnation, InstanceId, LastWhole, NodeName, Offset},
};

/// A request from a master to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The sender's cluster; absent while it does not know.
    pub cluster: Option<ClusterId>,
    /// The sender's name.
    pub from: NodeName,
    /// The sender's incarnation.
    pub incarnation: Incarnation,
    /// The receiver's name.
    pub to: NodeName,
    /// The epoch that the sender speaks for.
    pub epoch: Epoch,
    /// The question or command itself.
    pub body: RequestBody,
}

/// The question or command of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// Asks for the receiver's identity. Changes nothing.
    Identify,
    /// Asks for a promise to refuse everything older than the epoch.
    Promise(Promise),
    /// The handshake of an epoch: the receiver is to align its log. Asks for a promise too if the epoch is new
    /// to the receiver.
    Hello(Hello),
    /// A heartbeat. Carries the master's ends.
    Heartbeat(Progress),
    /// Carries records for the receiver to store.
    Append(Append),
    /// Asks for records of the receiver's log, for a recovery.
    Fetch(Fetch),
}

/// A request to promise the request's epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The names of all nodes, ascending.
    pub nodes: Vec<NodeName>,
    /// The sender's log epoch; absent while it is not intact.
    pub log_epoch: Option<Epoch>,
}

/// The handshake that opens the conversation of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The names of all nodes, ascending.
    pub nodes: Vec<NodeName>,
    /// The sender's log epoch, which is the request's epoch.
    pub log_epoch: Option<Epoch>,
    /// The URL at which clients reach the master, if it was given one.
    pub public_url: Option<NodeUrl>,
    /// The master's end: an aligned log is never longer.
    pub end: Offset,
    /// The end that the master had adopted when the epoch began.
    pub adopted_end: Offset,
    /// The first offsets of epochs in the master's log, ascending: the newest ones, or the newest below
    /// the offset that the secondary asked for.
    pub epoch_starts: Vec<EpochStart>,
    /// The end of the last of these epochs: the master's end, or the first offset of the pairs that were
    /// sent before.
    pub epoch_starts_end: Offset,
    /// The epoch of the last forced recovery, if there was one: a node that has joined no epoch since then
    /// quarantines what it must cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced_epoch: Option<Epoch>,
}

/// The master's progress, sent in every message of an open conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The incarnation that this is meant for.
    pub to_incarnation: Incarnation,
    /// The master's end.
    pub end: Offset,
    /// The offset after the last record that a majority holds (high watermark), once known.
    pub committed: Option<Offset>,
    /// The end that a node that is not intact must reach to become intact. Belongs to the hello
    /// that this incarnation answered.
    pub refill_target: Option<Offset>,
}

/// Records to store, in order and without a gap among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The master's progress, as in every message.
    pub progress: Progress,
    /// The records; never empty.
    pub records: Vec<FrameBatch>,
}

/// A request for records of the receiver's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The incarnation that promised.
    pub to_incarnation: Incarnation,
    /// The first offset wanted.
    pub from: Offset,
    /// The most bytes wanted; at least one record always comes.
    pub bytes_max: u32,
    /// True if the answer shall include the epochs of the log that begin below `from`.
    pub epoch_starts: bool,
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The cluster of the node that answers; absent while it is blank.
    pub cluster: Option<ClusterId>,
    /// The node's name.
    pub name: NodeName,
    /// The node's incarnation.
    pub incarnation: Incarnation,
    /// The state of the node's log.
    pub state: NodeState,
    /// The answer.
    pub answer: Answer,
}

/// The state of the log of a node that answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// The offset after the last record that the node holds.
    pub durable_end: Offset,
    /// The node's log epoch; absent while the node is not intact. The end counts only if this is the
    /// master's epoch.
    pub log_epoch: Option<Epoch>,
    /// The highest epoch that the node has promised.
    pub promised: Epoch,
    /// The number of records that the node holds back behind a gap.
    pub buffered: u64,
}

/// The answer of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer to [`RequestBody::Identify`].
    Identity(Identity),
    /// The answer to [`RequestBody::Promise`]: granted, and synced.
    Promised(Promised),
    /// The answer to [`RequestBody::Hello`]: promised, and aligned.
    Aligned(Aligned),
    /// The answer to [`RequestBody::Hello`] if its pairs do not reach back to a common epoch: older ones
    /// are needed.
    OlderStartsNeeded {
        /// The offset below which the wanted pairs begin.
        before: Offset,
    },
    /// The answer to a heartbeat, or to records once they are held.
    Taken,
    /// The answer to [`RequestBody::Fetch`]: records from the wanted offset on; none if the log ends there.
    Records(Fetched),
    /// A refusal: nothing was done or changed.
    Refused(Refusal),
}

/// The identity of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The node list that its cluster was founded with; empty on a blank node.
    pub nodes: Vec<NodeName>,
    /// The last master that contacted the node since it started, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<MasterContact>,
}

/// The last contact of a node with its master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterContact {
    /// The master's name.
    pub name: NodeName,
    /// The instance of the master's directory.
    pub instance: InstanceId,
    /// Milliseconds since the contact.
    pub elapsed_ms: u64,
}

/// A granted promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// The newest epoch starts of the node's log, ascending.
    pub epoch_starts: Vec<EpochStart>,
    /// The epoch of the last forced recovery that the node knows of: a master whose disk was replaced
    /// learns it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced_epoch: Option<Epoch>,
    /// The log that the node held before it was damaged, and up to which end. Set only by a node that is not
    /// intact because of damage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_whole: Option<LastWhole>,
}

/// The result of aligning a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aligned {
    /// The number of records that were cut to align the log.
    pub cut_records: u64,
    /// The URL at which clients reach the node that answers, if it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_url: Option<NodeUrl>,
}

/// Records for a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The starts of epochs below the wanted offset, ascending, if they were asked for.
    pub epoch_starts: Vec<EpochStart>,
    /// The records.
    pub records: Vec<FrameBatch>,
}

/// The reason why a node refuses a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The request is for a node with another name.
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
    /// The sender's directory was replaced by another one. Permanent.
    Replaced(FencedBy),
    /// The sender is intact but its log is older than the node's: an outdated directory. Names
    /// the master of the newer log's epoch.
    OutOfDate(FencedBy),
    /// The node's incarnation has had no handshake in this epoch. In answer to a promise request or a hello: its epoch
    /// exceeds the promise by more than one message may raise it; the promise was raised part of the way, and the
    /// request must be sent again.
    HelloFirst,
    /// The request is meant for another incarnation of the node.
    WrongIncarnation,
    /// The hello's end is below what this node holds and knows to be committed: obeying it would lose
    /// messages that a majority has acknowledged, and there is no sign of a forced recovery.
    BelowCommitted {
        /// The end up to which the node holds the log and knows it to be committed.
        committed: Offset,
    },
    /// The logs differ where they should agree.
    NotAligned,
    /// The records are further beyond a gap than the node's window reaches.
    BeyondWindow,
    /// The node's disk accepts no records.
    Storage {
        /// The error of the disk.
        detail: String,
    },
    /// The request makes no sense.
    Malformed {
        /// The problem with the request.
        detail: String,
    },
    /// The node is stopping.
    Stopping,
}

/// The master to which a node has promised a newer epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencedBy {
    /// The master's name.
    pub name: NodeName,
    /// The instance of the master's directory.
    pub instance: InstanceId,
    /// The promised epoch.
    pub epoch: Epoch,
}

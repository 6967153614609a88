//! What a node tells those who listen: one value for each change that a person would want to see.
//!
//! Plain data for embedders, serialized under the names of the HTTP interface.
//! [`Events`](crate::Events) brings them.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    transport::FaultSettings,
    types::{Epoch, Mode, ModeReason, NodeName, Offset, Status},
    views::{WaitReason, milliseconds_or_null},
};

/// What [`Events::next`](crate::Events::next) brings.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// Something has changed.
    Event(NodeEvent),
    /// The listener was too slow: events were dropped where this notice stands.
    Missed {
        /// How many.
        count: u64,
    },
}

/// A change.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NodeEvent {
    /// When it was told, by the clock of the node that tells it: milliseconds since 1970.
    pub at_ms: u64,
    /// The node that it is about: the one that tells it, or one of its secondaries.
    pub node: NodeName,
    /// What has changed.
    #[serde(flatten)]
    pub what: Change,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Change {
    /// On a master: what it thinks of a secondary.
    Status {
        /// What it thought before.
        from: Status,
        /// What it thinks now.
        to: Status,
        /// Why the last attempt failed; `None` where none has since the last contact.
        reason: Option<WaitReason>,
        /// The reason, as a sentence.
        detail: Option<Arc<str>>,
    },
    /// On a master: what it does with appends, or why it takes none.
    Mode {
        /// What it does with them now.
        mode: Mode,
        /// Why it takes none.
        mode_reason: Option<ModeReason>,
        /// The reason, as a sentence; empty where there is none.
        detail: Arc<str>,
    },
    /// A master took the office of a new epoch, or a secondary promised it one.
    Epoch {
        /// The new epoch.
        epoch: Epoch,
        /// Its master.
        master: NodeName,
    },
    /// On a master: an attempt to reach a secondary failed, and it will be tried again.
    Retry {
        /// What was sent.
        request: FailedRequest,
        /// Why, as a word.
        reason: WaitReason,
        /// Why, as a sentence.
        detail: Arc<str>,
        /// How many have failed in a row.
        attempt: u64,
        /// When it is tried next; `None` where that is not known yet.
        #[serde(rename = "next_retry_ms", serialize_with = "milliseconds_or_null")]
        next_retry: Option<Duration>,
    },
    /// On a secondary: it holds records back until those before them have come, or no more.
    Gap {
        /// The first offset that has not come; `None` once nothing is held back.
        missing: Option<Offset>,
        /// How many records are held back.
        buffered: u64,
    },
    /// The node's log has grown, and readers are shown more.
    Append {
        /// The first offset that is new.
        from: Offset,
        /// The offset behind the last one.
        next: Offset,
    },
    /// On a master: a secondary holds another part of the log than before, mostly more.
    Ack {
        /// The offset after the last record that it holds.
        durable_end: Offset,
    },
    /// The faults that the node is told to have were replaced.
    FaultsSet {
        /// All that hold now.
        faults: FaultSettings,
    },
    /// Faults happened, as the node was told.
    FaultsHappened {
        /// Which.
        fault: Fault,
        /// How often since this was told last.
        count: u64,
    },
}

impl Change {
    /// Its kind, as it stands in the HTTP interface: `status`, `mode`, `epoch`, `retry`, `gap`,
    /// `append`, `ack` or `fault`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Change::Status { .. } => "status",
            Change::Mode { .. } => "mode",
            Change::Epoch { .. } => "epoch",
            Change::Retry { .. } => "retry",
            Change::Gap { .. } => "gap",
            Change::Append { .. } => "append",
            Change::Ack { .. } => "ack",
            Change::FaultsSet { .. } | Change::FaultsHappened { .. } => "fault",
        }
    }
}

/// What a master sent to a secondary in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailedRequest {
    /// A heartbeat, or what is sent in its place until the secondary follows: a question of the recovery or a
    /// hello.
    Heartbeat,
    /// Records.
    Records,
}

/// A fault that a node can be told to have, by the name of its setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// An error before anything was stored.
    ErrorBeforeAppend,
    /// An error after the records were stored.
    ErrorAfterAppend,
    /// A delay.
    DelayMs,
    /// Replication failed.
    BlockReplication,
    /// Replication or a heartbeat failed, as behind a cut cable.
    Isolate,
}

impl Fault {
    /// All of them, each at its own place.
    pub(crate) const ALL: [Fault; 5] = [
        Fault::ErrorBeforeAppend,
        Fault::ErrorAfterAppend,
        Fault::DelayMs,
        Fault::BlockReplication,
        Fault::Isolate,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_under_the_names_of_the_interface() {
        let table = [
            (
                Change::Status {
                    from: Status::Healthy,
                    to: Status::Suspected,
                    reason: Some(WaitReason::TimedOut),
                    detail: Some("no answer in time".into()),
                },
                "status",
                r#""from":"Healthy","to":"Suspected","reason":"timed_out","detail":"no answer in time""#,
            ),
            (
                Change::Mode {
                    mode: Mode::ReadOnly,
                    mode_reason: Some(ModeReason::NoQuorum),
                    detail: "1 of 3".into(),
                },
                "mode",
                r#""mode":"read-only","mode_reason":"no_quorum","detail":"1 of 3""#,
            ),
            (
                Change::Epoch {
                    epoch: Epoch(4),
                    master: NodeName::new("m").unwrap(),
                },
                "epoch",
                r#""epoch":4,"master":"m""#,
            ),
            (
                Change::Retry {
                    request: FailedRequest::Heartbeat,
                    reason: WaitReason::ConnectionRefused,
                    detail: "refused".into(),
                    attempt: 3,
                    next_retry: Some(Duration::from_micros(1_900)),
                },
                "retry",
                r#""request":"heartbeat","reason":"connection_refused","detail":"refused","attempt":3,"next_retry_ms":1"#,
            ),
            (
                Change::Gap {
                    missing: Some(Offset(7)),
                    buffered: 2,
                },
                "gap",
                r#""missing":7,"buffered":2"#,
            ),
            (
                Change::Append {
                    from: Offset(7),
                    next: Offset(9),
                },
                "append",
                r#""from":7,"next":9"#,
            ),
            (
                Change::Ack {
                    durable_end: Offset(9),
                },
                "ack",
                r#""durable_end":9"#,
            ),
            (
                Change::FaultsHappened {
                    fault: Fault::DelayMs,
                    count: 5,
                },
                "fault",
                r#""fault":"delay_ms","count":5"#,
            ),
            (
                Change::FaultsSet {
                    faults: FaultSettings::default(),
                },
                "fault",
                concat!(
                    r#""faults":{"error_before_append":0.0,"error_after_append":0.0,"#,
                    r#""delay_ms":null,"block_replication":false,"isolate":false,"seed":null}"#,
                ),
            ),
        ];
        for (what, kind, members) in table {
            assert_eq!(what.kind(), kind);
            let event = NodeEvent {
                at_ms: 5,
                node: NodeName::new("n").unwrap(),
                what,
            };
            let told = serde_json::to_string(&event).unwrap();
            assert_eq!(told, format!(r#"{{"at_ms":5,"node":"n",{members}}}"#));
        }
    }
}

//! Events that a node sends to its listeners: one value for each change that a person would want to see.
//!
//! Plain data for embedders, serialized under the names of the HTTP interface. [`Events`](crate::Events)
//! delivers them.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    transport::FaultSettings,
    types::{Epoch, Mode, ModeReason, NodeName, Offset, Status},
    views::{WaitReason, milliseconds_or_null},
};

/// An item returned by [`Events::next`](crate::Events::next).
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A change.
    Event(NodeEvent),
    /// The listener was too slow: events were dropped at this point.
    Missed {
        /// Number of dropped events.
        count: u64,
    },
}

/// A change, with its time and node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NodeEvent {
    /// Time of the event in milliseconds since 1970, by the clock of the node that reports it.
    pub at_ms: u64,
    /// The node that the event is about: the one that reports it, or one of its secondaries.
    pub node: NodeName,
    /// The change itself.
    #[serde(flatten)]
    pub what: Change,
}

/// Kinds of change.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Change {
    /// On a master: the status of a secondary changed.
    Status {
        /// The status before.
        from: Status,
        /// The status now.
        to: Status,
        /// The reason why the last attempt failed; `None` where none has failed since the last contact.
        reason: Option<WaitReason>,
        /// The reason, as a sentence.
        detail: Option<Arc<str>>,
    },
    /// On a master: the mode, or the reason for it, changed.
    Mode {
        /// The mode now.
        mode: Mode,
        /// The reason why the master does not accept appends.
        mode_reason: Option<ModeReason>,
        /// The reason, as a sentence; empty where there is none.
        detail: Arc<str>,
    },
    /// A master became the leader of a new epoch, or a secondary promised it one.
    Epoch {
        /// The new epoch.
        epoch: Epoch,
        /// Master of the new epoch.
        master: NodeName,
    },
    /// On a master: an attempt to reach a secondary failed and will be retried.
    Retry {
        /// Kind of the request.
        request: FailedRequest,
        /// The reason, as a word.
        reason: WaitReason,
        /// The reason, as a sentence.
        detail: Arc<str>,
        /// Number of failures in a row.
        attempt: u64,
        /// Time until the next attempt; `None` where it is not known yet.
        #[serde(rename = "next_retry_ms", serialize_with = "milliseconds_or_null")]
        next_retry: Option<Duration>,
    },
    /// On a secondary: it holds records back until those before them have arrived, or no longer does.
    Gap {
        /// The first offset that has not arrived; `None` once nothing is held back.
        missing: Option<Offset>,
        /// Number of records held back.
        buffered: u64,
    },
    /// The node's log has grown, and readers see more of it.
    Append {
        /// The first offset that is new.
        from: Offset,
        /// The offset after the last new one.
        next: Offset,
    },
    /// On a master: the end of the records that a secondary holds has moved, mostly forwards.
    Ack {
        /// The offset after the last record that the secondary holds.
        durable_end: Offset,
    },
    /// The node's fault settings were replaced.
    FaultsSet {
        /// All settings that apply now.
        faults: FaultSettings,
    },
    /// Faults were injected, as the settings ask for.
    FaultsHappened {
        /// Kind of fault.
        fault: Fault,
        /// Number of times since the last report.
        count: u64,
    },
}

impl Change {
    /// Returns the kind of change as it is written in the HTTP interface: `status`, `mode`, `epoch`, `retry`,
    /// `gap`, `append`, `ack` or `fault`.
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

/// A kind of request from a master to a secondary that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailedRequest {
    /// A heartbeat, or the request sent in its place until the secondary follows: a query of the recovery or
    /// a hello.
    Heartbeat,
    /// Records of the log.
    Records,
}

/// A fault that a node can be told to have, by the name of its setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// Failure before anything was stored.
    ErrorBeforeAppend,
    /// Failure after the records were stored.
    ErrorAfterAppend,
    /// Delay of an answer.
    DelayMs,
    /// Failure of replication.
    BlockReplication,
    /// Failure of replication and heartbeats, as behind a cut cable.
    Isolate,
}

impl Fault {
    /// All faults, each at the index of its discriminant.
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
    fn events_are_serialized_under_the_names_of_the_interface() {
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

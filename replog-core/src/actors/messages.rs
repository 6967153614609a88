//! Messages between the actors, in the order of the write path.
//!
//! A request is an imperative, a fact is past tense and carries the newest state, so that a fact
//! that is late, repeated or merged does no harm.

use std::time::Duration;

use actix::Message;
use tokio::sync::oneshot;

use crate::{
    actors::inbox::AnswerTo,
    error::ModeState,
    frame::FrameBatch,
    log::WriteReport,
    metrics::{MasterMetrics, SecondaryMetrics, tally::LinkTally},
    rules::{acks::WaiterId, link::LinkReport, repair::MissingRange},
    transport::{FencedBy, Request, RequestBody, Response},
    types::{ClusterId, Concern, Epoch, Incarnation, Offset},
    views::{Holders, MasterHealth, SecondaryHealth, WaitingAppends},
};

/// To the coordinator: appends wait in the inbox.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct AppendsQueued;

/// To the coordinator: this waiting caller is gone, and its answer has no receiver.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct CallerGone {
    pub(crate) waiter: WaiterId,
}

/// To the coordinator or a replica: a report of the log writer.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct WriterReported(pub(crate) WriteReport);

/// To the coordinator or a replica: the record at this offset of its own log could not be read.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DamageNoticed {
    pub(crate) offset: Offset,
}

/// To a link: the written end or the committed end of the master's log advanced.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LogAdvanced {
    pub(crate) written_end: Offset,
    pub(crate) committed: Option<Offset>,
}

/// To the coordinator: the current state of a link.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LinkReported {
    pub(crate) secondary: usize,
    pub(crate) report: LinkReport,
    pub(crate) tally: LinkTally,
}

/// To a link: send this query of a recovery, and repeat it until another replaces it.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Ask {
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) epoch: Epoch,
    pub(crate) serial: u64,
    pub(crate) body: RequestBody,
}

/// To the coordinator: an answer to a query of the recovery.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct RecoveryAnswered {
    pub(crate) serial: u64,
    pub(crate) response: Box<Response>,
}

/// To a link: the master leads an epoch; start to replicate.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Serve {
    pub(crate) cluster: ClusterId,
    pub(crate) epoch: Epoch,
    pub(crate) adopted_end: Offset,
    pub(crate) forced_epoch: Option<Epoch>,
}

/// To a link: the master's own log lacks these records; fetch them if the secondary has them.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct FetchMissing {
    pub(crate) missing: Option<MissingRange>,
}

/// To the coordinator: records for its own log, from a secondary that holds the records after them.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct RecordsFetched {
    pub(crate) records: Vec<FrameBatch>,
}

/// To the coordinator: another master leads a newer epoch.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LeadershipLost(pub(crate) FencedBy);

/// To a link: bytes of a request, or of the data queued before it, have arrived.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct RequestMoved {
    pub(crate) attempt: u64,
    /// The run of the node that has received them, where it is known.
    pub(crate) incarnation: Option<Incarnation>,
}

/// To a link: stop sending.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopSending;

/// To a replica: a request of a master, with the sender of its answer.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Answer {
    pub(crate) request: Request,
    pub(crate) answer_to: oneshot::Sender<Response>,
}

/// To the coordinator: report your health.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DescribeMaster {
    pub(crate) answer_to: oneshot::Sender<MasterHealth>,
}

/// To the coordinator: report your metrics.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct MeasureMaster {
    pub(crate) answer_to: oneshot::Sender<MasterMetrics>,
}

/// To the coordinator: report the nodes that hold this offset.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DescribeHolders {
    pub(crate) offset: Offset,
    pub(crate) answer_to: oneshot::Sender<Holders>,
}

/// To the coordinator: answer once this message meets the concern, or its time is up.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct AwaitConcern {
    /// Offset of the last message of the append.
    pub(crate) last: Offset,
    pub(crate) concern: Concern,
    pub(crate) timeout: Option<Duration>,
    pub(crate) waiter: WaiterId,
    pub(crate) answer_to: AnswerTo,
}

/// To the coordinator: report the waiting appends.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DescribeWaiting {
    pub(crate) limit: usize,
    pub(crate) answer_to: oneshot::Sender<WaitingAppends>,
}

/// To a replica: report your health.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DescribeSecondary {
    pub(crate) answer_to: oneshot::Sender<SecondaryHealth>,
}

/// To the coordinator: an operator pauses or resumes appends.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct SetMode {
    pub(crate) asked: RequestedMode,
    pub(crate) answer_to: oneshot::Sender<ModeState>,
}

/// Mode that an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestedMode {
    /// Refuse appends.
    ReadOnly,
    /// Accept appends, where nothing else forbids them.
    ReadWrite,
}

/// To a replica: report your metrics.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct MeasureSecondary {
    pub(crate) answer_to: oneshot::Sender<SecondaryMetrics>,
}

/// To the coordinator: refuse new appends and answer the waiting ones.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Drain {
    pub(crate) done: oneshot::Sender<()>,
}

/// To the coordinator or a replica: sync and stop.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Stop;

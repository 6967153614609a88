//! What the actors tell each other, in the order of the write path.
//!
//! A request is an imperative, a fact is past tense and carries the newest state, so that a fact
//! that is late, repeated or merged does no harm.

use std::time::Duration;

use actix::Message;
use tokio::sync::oneshot;

use crate::{
    actors::inbox::AnswerTo,
    error::ModeState,
    log::WriteReport,
    metrics::{MasterMetrics, SecondaryMetrics, tally::LinkTally},
    record::RecordBatch,
    rules::{acks::WaiterId, link::LinkReport, repair::MissingRange},
    transport::{FencedBy, Request, RequestBody, Response},
    types::{ClusterId, Concern, Epoch, Incarnation, Offset},
    views::{Holders, MasterHealth, SecondaryHealth, WaitingAppends},
};

/// To the coordinator: appends wait in the inbox.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct AppendsQueued;

/// To the coordinator: nobody is there any more to take this one's answer.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct CallerGone {
    pub(crate) waiter: WaiterId,
}

/// To the coordinator or a replica: the log writer did something.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct WriterReported(pub(crate) WriteReport);

/// To the coordinator or a replica: the record at this offset of its own log could not be read.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DamageNoticed {
    pub(crate) offset: Offset,
}

/// To a link: the master's log was written further, or committed further.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LogAdvanced {
    pub(crate) written_end: Offset,
    pub(crate) committed: Option<Offset>,
}

/// To the coordinator: how a link stands now.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LinkReported {
    pub(crate) secondary: usize,
    pub(crate) report: LinkReport,
    pub(crate) tally: LinkTally,
}

/// To a link: ask this for a recovery, until something else is to be asked.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Ask {
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) epoch: Epoch,
    pub(crate) serial: u64,
    pub(crate) body: RequestBody,
}

/// To the coordinator: an answer to what the recovery asked.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct RecoveryAnswered {
    pub(crate) serial: u64,
    pub(crate) response: Box<Response>,
}

/// To a link: the office is taken, replicate.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Serve {
    pub(crate) cluster: ClusterId,
    pub(crate) epoch: Epoch,
    pub(crate) adopted_end: Offset,
    pub(crate) forced_epoch: Option<Epoch>,
}

/// To a link: the master's own log lacks this; fetch it if the secondary has it.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct FetchMissing {
    pub(crate) lack: Option<MissingRange>,
}

/// To the coordinator: records for its own log, from a secondary that holds what follows them.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct RecordsFetched {
    pub(crate) records: Vec<RecordBatch>,
}

/// To the coordinator: another master holds the office.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LeadershipLost(pub(crate) FencedBy);

/// To a link: bytes of a request, or of what stands before it, have arrived.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct RequestMoved {
    pub(crate) attempt: u64,
    /// The run of the node that has them, where it is known.
    pub(crate) incarnation: Option<Incarnation>,
}

/// To a link: send nothing more.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct FallSilent;

/// To a replica: a request of a master; whoever asked takes the answer.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Answer {
    pub(crate) request: Request,
    pub(crate) answer_to: oneshot::Sender<Response>,
}

/// To the coordinator: describe yourself.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DescribeMaster {
    pub(crate) answer_to: oneshot::Sender<MasterHealth>,
}

/// To the coordinator: what did you count?
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct MeasureMaster {
    pub(crate) answer_to: oneshot::Sender<MasterMetrics>,
}

/// To the coordinator: who holds this offset?
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
    /// The last message of its append.
    pub(crate) last: Offset,
    pub(crate) concern: Concern,
    pub(crate) timeout: Option<Duration>,
    pub(crate) waiter: WaiterId,
    pub(crate) answer_to: AnswerTo,
}

/// To the coordinator: which appends wait?
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DescribeWaiting {
    pub(crate) limit: usize,
    pub(crate) answer_to: oneshot::Sender<WaitingAppends>,
}

/// To a replica: describe yourself.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DescribeSecondary {
    pub(crate) answer_to: oneshot::Sender<SecondaryHealth>,
}

/// To the coordinator: an operator asks for read-only, or lifts that.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct AskMode {
    pub(crate) asked: AskedMode,
    pub(crate) answer_to: oneshot::Sender<ModeState>,
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskedMode {
    /// No appends.
    ReadOnly,
    /// Appends, where nothing else forbids them.
    ReadWrite,
}

/// To a replica: what did you count?
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct MeasureSecondary {
    pub(crate) answer_to: oneshot::Sender<SecondaryMetrics>,
}

/// To the coordinator: refuse new appends and answer those that wait.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Drain {
    pub(crate) done: oneshot::Sender<()>,
}

/// To the coordinator or a replica: sync and end.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Stop;

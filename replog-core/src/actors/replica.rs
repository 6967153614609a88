//! A secondary as an actor: requests in, answers out, the log writer next to it.
//!
//! Delivers requests and the writer's reports to [`Replica`], and carries out its actions. Decides
//! nothing.

use std::{collections::BTreeMap, sync::Arc};

use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler,
    WrapFuture as _,
};
use tokio::{sync::oneshot, time::Instant};
use tracing::{debug, error, info, warn};

use crate::{
    actors::{
        blocking::blocking,
        messages::{
            Answer, DamageNoticed, DescribeSecondary, MeasureSecondary, Stop, WriterReported,
        },
        timer::Timer,
    },
    error::Stopped,
    events::Change,
    handle::{Shared, host::Host},
    limits::{BATCH_BYTES_MAX, EPOCH_STARTS_MAX},
    log::{HeldBack, LogView, LogWriter, WriteCommand, WriteReport, disk_state},
    metrics::SecondaryMetrics,
    rules::{
        disk_space::WriteOutage,
        durable::{OwnLog, Save},
        replica::{LogFacts, Replica, ReplicaAction, ReplicaChange, RequestId},
    },
    transport::{self, Fetch, Fetched, Hello, Refusal, Response},
    types::{Epoch, EpochStart, Offset},
    views::{LogHealth, MasterAddress, SecondaryHealth},
    watch,
};

impl LogFacts for LogView {
    fn epoch_starts(&self, limit: usize) -> Vec<EpochStart> {
        LogView::epoch_starts(self, limit)
    }

    fn epoch_at(&self, offset: Offset) -> Option<Epoch> {
        LogView::epoch_at(self, offset)
    }

    fn end(&self) -> Offset {
        self.written_end()
    }
}

/// The actor of a secondary.
pub(crate) struct ReplicaActor {
    replica: Replica,
    view: Arc<LogView>,
    writer: LogWriter,
    shared: Arc<Shared>,
    host: Arc<dyn Host>,
    /// Senders of the answers that are waited for, by request.
    waiting: BTreeMap<RequestId, oneshot::Sender<Response>>,
    next_request: RequestId,
    /// Listeners have been informed that records are held back.
    published_gap: bool,
    ended: watch::Sender<Option<Stopped>>,
    timer: Timer,
}

/// Parts that a replica is made of.
pub(crate) struct ReplicaParts {
    pub(crate) replica: Replica,
    pub(crate) view: Arc<LogView>,
    pub(crate) writer: LogWriter,
    pub(crate) shared: Arc<Shared>,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) ended: watch::Sender<Option<Stopped>>,
}

impl ReplicaActor {
    pub(crate) fn new(parts: ReplicaParts) -> ReplicaActor {
        let ReplicaParts {
            replica,
            view,
            writer,
            shared,
            host,
            ended,
        } = parts;
        ReplicaActor {
            replica,
            view,
            writer,
            shared,
            host,
            waiting: BTreeMap::new(),
            next_request: 0,
            published_gap: false,
            ended,
            timer: Timer::default(),
        }
    }

    fn carry_out_all(&mut self, ctx: &mut Context<Self>) {
        loop {
            let actions = self.replica.take_actions();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.carry_out(ctx, action);
            }
        }
        self.shared.set_committed(self.replica.leader_committed());
        self.publish_gap();
        let deadline = self.replica.next_deadline();
        self.timer.arm(ctx, deadline, |replica, ctx| {
            replica.timer.fired();
            replica.replica.on_deadline(Instant::now());
            replica.carry_out_all(ctx);
        });
    }

    fn carry_out(&mut self, ctx: &mut Context<Self>, action: ReplicaAction) {
        match action {
            ReplicaAction::Answer { request, response } => self.answer(request, response),
            ReplicaAction::Write(batch) => {
                debug!(?batch, "taking records");
                self.writer.submit(WriteCommand::Append(batch));
            }
            ReplicaAction::Save(Save { ticket, meta }) => {
                self.writer.submit(WriteCommand::SaveMeta { ticket, meta });
            }
            ReplicaAction::Quarantine { from, epoch } => {
                self.writer.submit(WriteCommand::Quarantine { from, epoch });
            }
            ReplicaAction::Truncate { ticket, to } => {
                self.writer.submit(WriteCommand::Truncate { ticket, to });
            }
            ReplicaAction::Fetch {
                request,
                fetch,
                response,
            } => {
                self.fetch(ctx, request, fetch, response);
            }
            ReplicaAction::ReadStarts {
                serial,
                hello,
                before,
            } => {
                self.read_starts(ctx, serial, hello, before);
            }
            ReplicaAction::Inspect { offset } => {
                let held_back = HeldBack::Yes;
                self.writer
                    .submit(WriteCommand::Inspect { offset, held_back });
            }
            ReplicaAction::Resume => self.writer.submit(WriteCommand::Resume),
            ReplicaAction::Changed(change) => {
                log(&change);
                self.publish(change);
            }
        }
    }

    fn publish(&self, change: ReplicaChange) {
        if let ReplicaChange::Promised { epoch, master } = change {
            let promised = || Change::Epoch { epoch, master };
            self.shared.events().publish_own(&*self.host, promised);
        }
    }

    /// Publishes the beginning and the end of a gap: in between, `/health` has the number of
    /// records.
    fn publish_gap(&mut self) {
        let gap = self.replica.gap();
        if gap.is_some() == self.published_gap {
            return;
        }
        self.published_gap = gap.is_some();
        let (missing, buffered) = gap.unzip();
        self.shared
            .events()
            .publish_own(&*self.host, || Change::Gap {
                missing,
                buffered: buffered.unwrap_or(0),
            });
    }

    fn answer(&mut self, request: RequestId, response: Response) {
        if let Some(answer_to) = self.waiting.remove(&request) {
            // A master that gave the request up changes nothing about what was done.
            let _ = answer_to.send(response);
        }
    }

    /// Reads records for a recovery, off this thread.
    fn fetch(
        &mut self,
        ctx: &mut Context<Self>,
        request: RequestId,
        fetch: Fetch,
        mut response: Response,
    ) {
        let (view, until) = (self.view.clone(), response.state.durable_end);
        let bytes_max = (fetch.bytes_max as usize).clamp(1, BATCH_BYTES_MAX);
        let read = blocking(self.host.clone(), move || {
            let epoch_starts = match fetch.epoch_starts {
                true => view.epoch_starts_before(fetch.from, EPOCH_STARTS_MAX)?,
                false => Vec::new(),
            };
            let records = view.read(fetch.from, until, bytes_max)?;
            Ok(Fetched {
                epoch_starts,
                records,
            })
        });
        ctx.spawn(read.into_actor(self).map(move |read, replica, _| {
            let refused = |detail: String| {
                warn!(from = %fetch.from, %detail, "records for a recovery cannot be read");
                transport::Answer::Refused(Refusal::Storage { detail })
            };
            // A newer epoch was promised meanwhile, and the log may have been cut: rule 9.
            let fenced = replica.replica.state().promised != response.state.promised;
            response.answer = match read {
                _ if fenced => transport::Answer::Refused(Refusal::HelloFirst),
                Ok(fetched) => transport::Answer::Records(fetched),
                Err(detail) => refused(detail),
            };
            replica.answer(request, response);
        }));
    }

    /// Reads all epoch starts of this node's log below `before`, off this thread.
    fn read_starts(
        &mut self,
        ctx: &mut Context<Self>,
        serial: u64,
        hello: Box<Hello>,
        before: Offset,
    ) {
        let view = self.view.clone();
        let read = blocking(self.host.clone(), move || {
            let mut starts = view.readable_epoch_starts_before(before)?;
            let known = LogView::epoch_starts(&view, usize::MAX);
            starts.extend(known.into_iter().filter(|start| start.first >= before));
            Ok(starts)
        });
        ctx.spawn(read.into_actor(self).map(move |starts, replica, ctx| {
            let starts = starts.unwrap_or_default();
            replica
                .replica
                .on_older_starts(serial, hello, &starts, &*replica.view);
            replica.carry_out_all(ctx);
        }));
    }

    /// Returns the extent of the log, which can be read up to `whole_end`.
    fn own_log(&self, whole_end: Offset) -> OwnLog {
        OwnLog {
            whole_end,
            end: self.view.written_end(),
        }
    }

    fn end(&mut self, ctx: &mut Context<Self>, reason: Option<Arc<str>>) {
        // The writer has sent its last report: the end of its thread releases the directory.
        self.writer.join();
        self.ended.send_replace(Some(Stopped { reason }));
        ctx.stop();
    }

    fn health(&self) -> SecondaryHealth {
        let (meta, state) = (self.replica.meta(), self.replica.state());
        let now = Instant::now();
        SecondaryHealth {
            name: meta.name.clone(),
            role: "secondary",
            version: env!("CARGO_PKG_VERSION"),
            cluster_id: meta.cluster.as_ref().map(|cluster| cluster.id),
            epoch: state.promised,
            log: LogHealth {
                next: state.durable_end,
                committed: self.replica.committed(),
                bytes: self.view.bytes(),
                disk: self.replica.disk(),
            },
            intact: state.log_epoch.is_some(),
            buffered: state.buffered,
            master: meta.promised.as_ref().map(|promised| MasterAddress {
                name: promised.name.clone(),
                url: self.replica.master_url().cloned(),
            }),
            last_contact: self
                .replica
                .last_contact()
                .map(|at| now.saturating_duration_since(at)),
        }
    }
}

fn log(change: &ReplicaChange) {
    match change {
        ReplicaChange::Joined { cluster } => info!(%cluster, "joining the cluster"),
        ReplicaChange::Promised { epoch, master } => info!(%epoch, %master, "promised"),
        ReplicaChange::Cut { cut, forced: None } => {
            warn!(from = %cut.from, records = cut.records, "cut records that no majority holds");
        }
        ReplicaChange::Cut {
            cut,
            forced: Some(epoch),
        } => {
            warn!(
                from = %cut.from, records = cut.records, forced_epoch = %epoch,
                "cut records because a recovery was forced"
            );
        }
        ReplicaChange::Refused {
            from,
            refusal: refusal @ Refusal::BelowCommitted { .. },
        } => {
            let why = why_refused(refusal);
            error!(%from, why, "a hello is refused");
        }
        ReplicaChange::Aligned { epoch, end } => info!(%epoch, %end, "aligned with the master"),
        ReplicaChange::Intact { epoch, end } => info!(%epoch, %end, "the log counts"),
        ReplicaChange::Refused { from, refusal } => {
            let why = why_refused(refusal);
            warn!(%from, why, "a request is refused");
        }
        ReplicaChange::OutOfSpace(outage) => {
            warn!(error = %outage.detail, "the disk refuses writes: no records are accepted until there is space");
        }
        ReplicaChange::Resumed { end } => info!(%end, "the disk takes writes again"),
        ReplicaChange::Damaged { offset } => {
            error!(%offset, "a record cannot be read: this node does not count until it is repaired");
        }
    }
}

/// Describes for people why this node refuses a sender.
fn why_refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::WrongNode => {
            "it is meant for a node of another name: does its URL lead here?".to_owned()
        }
        Refusal::WrongCluster => "it comes from another cluster".to_owned(),
        Refusal::OtherNodes { nodes } => {
            format!("its list of nodes is not that of this cluster, {nodes:?}")
        }
        Refusal::Replaced(by) => format!("its directory was replaced: {}", by.describe()),
        Refusal::OutOfDate(by) => format!("its directory is outdated: {}", by.describe()),
        Refusal::Malformed { detail } => detail.clone(),
        Refusal::BelowCommitted { committed } => format!(
            "its log ends before {committed}, and this node holds messages up to there that a majority has \
             acknowledged: something was lost"
        ),
        other => format!("{other:?}"),
    }
}

impl Actor for ReplicaActor {
    type Context = Context<Self>;
}

impl Handler<Answer> for ReplicaActor {
    type Result = ();
    fn handle(&mut self, message: Answer, ctx: &mut Context<Self>) {
        let request = self.next_request;
        self.next_request += 1;
        self.waiting.insert(request, message.answer_to);
        self.replica
            .on_request(Instant::now(), request, message.request, &*self.view);
        self.carry_out_all(ctx);
    }
}

impl Handler<WriterReported> for ReplicaActor {
    type Result = ();
    fn handle(&mut self, report: WriterReported, ctx: &mut Context<Self>) {
        match report.0 {
            WriteReport::Written { .. } => {}
            WriteReport::Durable { whole_end, .. } => self.replica.on_durable(whole_end),
            WriteReport::Inspected { holes, whole_end } => {
                self.replica.on_inspected(&holes, self.own_log(whole_end));
            }
            WriteReport::Truncated { ticket, cut } => self.replica.on_truncated(ticket, cut),
            WriteReport::NotTruncated { ticket, offset } => {
                self.replica.on_not_truncated(ticket, offset);
            }
            WriteReport::MetaSaved {
                ticket,
                durable_end,
            } => {
                self.replica.on_saved(ticket, durable_end, &*self.view);
            }
            WriteReport::WriteFailed { error } => {
                let outage = WriteOutage {
                    disk: disk_state(&error),
                    detail: error.to_string().into(),
                };
                self.replica.on_write_failed(Instant::now(), outage);
            }
            WriteReport::Resumed { whole_end } => {
                let own = self.own_log(whole_end);
                self.replica.on_resumed(Instant::now(), own);
            }
            WriteReport::Failed { error } => {
                error!(%error, "the disk failed: this node stops");
                self.replica.on_failed(&error.to_string());
                self.carry_out_all(ctx);
                self.end(ctx, Some(error.to_string().into()));
                return;
            }
            WriteReport::Closed => {
                self.end(ctx, None);
                return;
            }
        }
        self.carry_out_all(ctx);
    }
}

impl Handler<DamageNoticed> for ReplicaActor {
    type Result = ();
    fn handle(&mut self, noticed: DamageNoticed, ctx: &mut Context<Self>) {
        self.replica.on_damage(noticed.offset);
        self.carry_out_all(ctx);
    }
}

impl Handler<DescribeSecondary> for ReplicaActor {
    type Result = ();
    fn handle(&mut self, describe: DescribeSecondary, _: &mut Context<Self>) {
        let _ = describe.answer_to.send(self.health());
    }
}

impl Handler<MeasureSecondary> for ReplicaActor {
    type Result = ();
    fn handle(&mut self, measure: MeasureSecondary, _: &mut Context<Self>) {
        let _ = measure.answer_to.send(SecondaryMetrics {
            health: self.health(),
            log: self.writer.metrics(&self.view),
            buffered_bytes: self.replica.buffered_bytes() as u64,
            malformed: self.replica.malformed(),
        });
    }
}

impl Handler<Stop> for ReplicaActor {
    type Result = ();
    fn handle(&mut self, _: Stop, _: &mut Context<Self>) {
        self.writer.submit(WriteCommand::Close);
    }
}

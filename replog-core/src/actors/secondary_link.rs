//! The link to one secondary as an actor: its own mailbox, its own timer, its own connection.
//!
//! Delivers answers, reads and time to [`Link`], and carries out its actions. Decides nothing.

use std::{cell::Cell, pin::pin, rc::Rc, sync::Arc, time::Duration};

use actix::{
    Actor, ActorFutureExt as _, Addr, AsyncContext as _, Context, Handler, WrapFuture as _,
};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::{
    actors::{
        Coordinator,
        blocking::blocking,
        messages::{
            Ask, FetchMissing, LeadershipLost, LinkReported, LogAdvanced, RecordsFetched,
            RecoveryAnswered, RequestMoved, Serve, StopSending,
        },
        timer::Timer,
    },
    address::NodeUrl,
    events,
    frame::FrameBatch,
    handle::{Shared, host::Host},
    limits::EPOCH_STARTS_MAX,
    log::LogView,
    rules::{
        link::{Change, Failure, Link, LinkAction, LinkReport},
        progress::Wanted,
    },
    spans::AttemptSpan,
    transport::{
        self, Append, BytesMoved, CallFuture, Hello, Progress, Request, RequestBody, Transport,
        TransportError,
    },
    types::{ClusterId, Epoch, EpochStart, Incarnation, NodeName, Offset, Status},
};

/// Numbers of failures in a row that are logged as warnings; the others are logged at debug.
const FAILURES_LOGGED: [u64; 3] = [100, 10_000, 1_000_000];

/// Fields that every request of a master carries.
#[derive(Clone, Debug)]
pub(crate) struct MasterIdentity {
    pub(crate) name: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) nodes: Vec<NodeName>,
    pub(crate) public_url: Option<NodeUrl>,
}

/// The actor of one link.
pub(crate) struct SecondaryLink {
    secondary: usize,
    name: NodeName,
    link: Link,
    transport: Rc<dyn Transport>,
    view: Arc<LogView>,
    coordinator: Addr<Coordinator>,
    master: MasterIdentity,
    request_timeout: Duration,
    shared: Arc<Shared>,
    host: Arc<dyn Host>,
    cluster: Option<ClusterId>,
    adopted_end: Offset,
    forced_epoch: Option<Epoch>,
    /// Number of failures in a row at the last report.
    published_failures: u64,
    timer: Timer,
}

/// Parts that a link is made of.
pub(crate) struct LinkParts {
    pub(crate) secondary: usize,
    pub(crate) name: NodeName,
    pub(crate) link: Link,
    pub(crate) transport: Rc<dyn Transport>,
    pub(crate) view: Arc<LogView>,
    pub(crate) coordinator: Addr<Coordinator>,
    pub(crate) master: MasterIdentity,
    pub(crate) request_timeout: Duration,
    pub(crate) shared: Arc<Shared>,
    pub(crate) host: Arc<dyn Host>,
}

impl SecondaryLink {
    pub(crate) fn new(parts: LinkParts) -> SecondaryLink {
        let LinkParts {
            secondary,
            name,
            link,
            transport,
            view,
            coordinator,
            master,
            request_timeout,
            shared,
            host,
        } = parts;
        SecondaryLink {
            secondary,
            name,
            link,
            transport,
            view,
            coordinator,
            master,
            request_timeout,
            shared,
            host,
            cluster: None,
            adopted_end: Offset::ZERO,
            forced_epoch: None,
            published_failures: 0,
            timer: Timer::default(),
        }
    }

    /// Carries out the link's actions until none is left, then arms the timer.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        while let Some(action) = self.link.poll(now) {
            self.carry_out(ctx, now, action);
        }
        self.timer
            .arm(ctx, self.link.next_deadline(now), |link, ctx| {
                link.timer.fired();
                link.pump(ctx);
            });
    }

    fn carry_out(&mut self, ctx: &mut Context<Self>, now: Instant, action: LinkAction) {
        match action {
            LinkAction::Ask {
                attempt,
                epoch,
                body,
            } => self.call(ctx, attempt, epoch, body),
            LinkAction::Hello {
                attempt,
                epoch,
                older_before,
            } => {
                self.hello(ctx, attempt, epoch, older_before);
            }
            LinkAction::Heartbeat {
                attempt,
                epoch,
                progress,
            } => {
                self.call(ctx, attempt, epoch, RequestBody::Heartbeat(progress));
            }
            LinkAction::SendBatch {
                attempt,
                epoch,
                wanted,
                progress,
            } => {
                self.send_batch(ctx, attempt, epoch, wanted, progress);
            }
            LinkAction::Answered { serial, response } => {
                self.coordinator
                    .do_send(RecoveryAnswered { serial, response });
            }
            LinkAction::Fetched(records) => {
                self.coordinator.do_send(RecordsFetched { records });
            }
            LinkAction::BecomeFenced(by) => self.coordinator.do_send(LeadershipLost(by)),
            LinkAction::Changed(change) => {
                self.log(now, &change);
                self.publish_change(now, &change);
            }
            LinkAction::Report => {
                let report = self.link.report(now);
                self.publish_report(now, &report);
                self.coordinator.do_send(LinkReported {
                    secondary: self.secondary,
                    report,
                    tally: self.link.tally(),
                });
            }
        }
    }

    fn call(&mut self, ctx: &mut Context<Self>, attempt: u64, epoch: Epoch, body: RequestBody) {
        let span = AttemptSpan::begin(&self.name, attempt, epoch, &body);
        let request = Request {
            cluster: self.cluster,
            from: self.master.name.clone(),
            incarnation: self.master.incarnation,
            to: self.name.clone(),
            epoch,
            body,
        };
        let timeout = self.request_timeout;
        let deadline = Rc::new(Cell::new(Instant::now() + timeout));
        let (extended, link) = (Rc::clone(&deadline), ctx.address().downgrade());
        let moved = Rc::new(move |BytesMoved { incarnation }| {
            extended.set(Instant::now() + timeout);
            if let Some(link) = link.upgrade() {
                link.do_send(RequestMoved {
                    attempt,
                    incarnation,
                });
            }
        });
        let call = self.transport.call_observed(request, moved);
        let answered = async move {
            let result = until(&deadline, call).await;
            span.end(&result);
            result
        };
        ctx.spawn(answered.into_actor(self).map(move |result, link, ctx| {
            link.link.on_answer(Instant::now(), attempt, result);
            link.pump(ctx);
        }));
    }

    fn hello(
        &mut self,
        ctx: &mut Context<Self>,
        attempt: u64,
        epoch: Epoch,
        older_before: Option<Offset>,
    ) {
        let Some(before) = older_before else {
            // The end is taken first: records written after that only make the newest run longer.
            let end = self.view.written_end();
            let starts = self.view.epoch_starts(EPOCH_STARTS_MAX);
            let body = self.hello_body(epoch, end, starts, end);
            self.call(ctx, attempt, epoch, body);
            return;
        };
        let view = self.view.clone();
        let read = blocking(self.host.clone(), move || {
            view.epoch_starts_before(before, EPOCH_STARTS_MAX)
        });
        ctx.spawn(read.into_actor(self).map(move |starts, link, ctx| match starts {
            Ok(starts) => {
                let end = link.view.written_end();
                let body = link.hello_body(epoch, end, starts, before);
                link.call(ctx, attempt, epoch, body);
            }
            Err(error) => {
                warn!(node = %link.name, %error, "the epochs of this master's log cannot be read");
                let failed = TransportError::Connection(error);
                link.link.on_answer(Instant::now(), attempt, Err(failed));
                link.pump(ctx);
            }
        }));
    }

    fn hello_body(
        &self,
        epoch: Epoch,
        end: Offset,
        epoch_starts: Vec<EpochStart>,
        epoch_starts_end: Offset,
    ) -> RequestBody {
        RequestBody::Hello(Hello {
            nodes: self.master.nodes.clone(),
            log_epoch: Some(epoch),
            public_url: self.master.public_url.clone(),
            end,
            adopted_end: self.adopted_end,
            epoch_starts,
            epoch_starts_end,
            forced_epoch: self.forced_epoch,
        })
    }

    /// Sends records from memory at once; older ones are read off this thread first.
    fn send_batch(
        &mut self,
        ctx: &mut Context<Self>,
        attempt: u64,
        epoch: Epoch,
        wanted: Wanted,
        progress: Progress,
    ) {
        let Wanted {
            from,
            until,
            bytes_max,
        } = wanted;
        if let Some(records) = self.view.read_tail(from, until, bytes_max) {
            self.send_records(ctx, attempt, epoch, records, progress);
            return;
        }
        let view = self.view.clone();
        let read = blocking(self.host.clone(), move || view.read(from, until, bytes_max));
        ctx.spawn(read.into_actor(self).map(move |read, link, ctx| {
            match read {
                Ok(records) => link.send_records(ctx, attempt, epoch, records, progress),
                Err(error) => {
                    warn!(node = %link.name, %from, %error, "records cannot be read");
                    link.link
                        .on_read_failed(Instant::now(), attempt, error.into());
                }
            }
            link.pump(ctx);
        }));
    }

    fn send_records(
        &mut self,
        ctx: &mut Context<Self>,
        attempt: u64,
        epoch: Epoch,
        records: Vec<FrameBatch>,
        progress: Progress,
    ) {
        let Some(end) = records.last().map(FrameBatch::end) else {
            let detail = "this master's log ends before the requested records".into();
            self.link.on_read_failed(Instant::now(), attempt, detail);
            return;
        };
        let bytes = records.iter().map(|batch| batch.bytes().len()).sum();
        if self.link.on_read(attempt, end, bytes) {
            debug!(node = %self.name, attempt, ?records, "sending records");
            self.call(
                ctx,
                attempt,
                epoch,
                RequestBody::Append(Append { progress, records }),
            );
        }
    }

    fn log(&self, now: Instant, change: &Change) {
        let node = &self.name;
        match change {
            Change::Status { from, to } => {
                let report = self.link.report(now);
                let reason = report.failure.map_or_else(
                    || "no contact".to_owned(),
                    |failure| format!("{}: {}", failure.reason, failure.detail),
                );
                match to {
                    Status::Healthy => info!(%node, %from, "secondary is Healthy"),
                    Status::Suspected => warn!(%node, %from, %reason, "secondary is Suspected"),
                    Status::Unhealthy => warn!(%node, %from, %reason, "secondary is Unhealthy"),
                }
            }
            Change::Aligned {
                incarnation,
                durable_end,
                intact,
                cut_records,
            } => {
                info!(%node, %incarnation, %durable_end, intact, cut_records, "secondary is aligned");
            }
            Change::Counts { durable_end } => {
                info!(%node, %durable_end, "secondary's log counts");
            }
        }
    }

    fn publish_change(&self, now: Instant, change: &Change) {
        let Change::Status { from, to } = *change else {
            return;
        };
        self.shared.events().publish(&*self.host, &self.name, || {
            let failure = self.link.report(now).failure;
            events::Change::Status {
                from,
                to,
                reason: failure.as_ref().map(|failure| failure.reason),
                detail: failure.map(|failure| failure.detail),
            }
        });
    }

    fn publish_report(&mut self, now: Instant, report: &LinkReport) {
        let events = self.shared.events();
        events.set_acked(self.secondary, report.counted);
        let before = std::mem::replace(&mut self.published_failures, report.failed_attempts);
        let Some(failure) = report
            .failure
            .as_ref()
            .filter(|_| report.failed_attempts > before)
        else {
            return;
        };
        events.publish(&*self.host, &self.name, || events::Change::Retry {
            request: report.failed_request,
            reason: failure.reason,
            detail: failure.detail.clone(),
            attempt: report.failed_attempts,
            next_retry: report
                .next_retry_at
                .map(|at| at.saturating_duration_since(now)),
        });
        self.log_failure(failure, report.failed_attempts);
    }

    /// Logs one line per change, not per retry: a change of status names the reason, and repeats
    /// stay at debug until a threshold.
    fn log_failure(&self, failure: &Failure, failed_attempts: u64) {
        let (node, reason, detail) = (&self.name, failure.reason, &failure.detail);
        if FAILURES_LOGGED.contains(&failed_attempts) {
            warn!(%node, %reason, %detail, failed_attempts, "secondary keeps failing");
        } else {
            debug!(%node, %reason, %detail, failed_attempts, "attempt failed");
        }
    }
}

/// Awaits a call up to its deadline, which is extended as long as its bytes arrive.
async fn until(
    deadline: &Cell<Instant>,
    call: CallFuture,
) -> Result<transport::Response, TransportError> {
    let mut call = pin!(call);
    loop {
        let at = deadline.get();
        match tokio::time::timeout_at(at, call.as_mut()).await {
            Ok(result) => return result,
            Err(_) if deadline.get() > at => {}
            Err(_) => return Err(TransportError::TimedOut),
        }
    }
}

impl Actor for SecondaryLink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.pump(ctx);
    }
}

impl Handler<Ask> for SecondaryLink {
    type Result = ();
    fn handle(&mut self, ask: Ask, ctx: &mut Context<Self>) {
        let Ask {
            cluster,
            epoch,
            serial,
            body,
        } = ask;
        self.cluster = cluster;
        self.link.ask(Instant::now(), cluster, epoch, serial, body);
        self.pump(ctx);
    }
}

impl Handler<Serve> for SecondaryLink {
    type Result = ();
    fn handle(&mut self, serve: Serve, ctx: &mut Context<Self>) {
        let Serve {
            cluster,
            epoch,
            adopted_end,
            forced_epoch,
        } = serve;
        self.forced_epoch = forced_epoch;
        (self.cluster, self.adopted_end) = (Some(cluster), adopted_end);
        let now = Instant::now();
        self.link.on_log(now, self.view.written_end(), None);
        self.link.serve(now, cluster, epoch);
        self.pump(ctx);
    }
}

impl Handler<LogAdvanced> for SecondaryLink {
    type Result = ();
    fn handle(&mut self, advanced: LogAdvanced, ctx: &mut Context<Self>) {
        self.link
            .on_log(Instant::now(), advanced.written_end, advanced.committed);
        self.pump(ctx);
    }
}

impl Handler<RequestMoved> for SecondaryLink {
    type Result = ();
    fn handle(&mut self, moved: RequestMoved, ctx: &mut Context<Self>) {
        let RequestMoved {
            attempt,
            incarnation,
        } = moved;
        self.link
            .on_bytes_moved(Instant::now(), attempt, incarnation);
        self.pump(ctx);
    }
}

impl Handler<FetchMissing> for SecondaryLink {
    type Result = ();
    fn handle(&mut self, mend: FetchMissing, ctx: &mut Context<Self>) {
        self.link.on_missing(Instant::now(), mend.missing);
        self.pump(ctx);
    }
}

impl Handler<StopSending> for SecondaryLink {
    type Result = ();
    fn handle(&mut self, _: StopSending, ctx: &mut Context<Self>) {
        self.link.stop();
        self.pump(ctx);
    }
}

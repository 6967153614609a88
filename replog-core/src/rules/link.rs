//! A master's conversation with one secondary: when to probe it, what to send, and what its answers mean.
//!
//! Owns the phase of the conversation, the times of probes and retries, and with `Health`, `Backoff` and
//! `Progress` everything the master believes about the secondary. Never reads a clock or the log, never sends:
//! [`Link::poll`] says what to do next, one thing at a time, and every event comes back in. Keeps rules 4, 5, 7
//! and 9.
//!
//! ```text
//!            ask(), from any  serve()            Aligned            WrongIncarnation, HelloFirst,
//!  (start) ───────▶ Asking ───────────▶ Handshake ──────▶ Open ──── NotAligned, an end gone back
//!                      │ answers            ▲                │          │
//!                      ▼                    └────────────────┼──────────┘
//!                 to the recovery                            └─ Fenced, Replaced: to the coordinator
//! ```

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;

use crate::{
    address::NodeUrl,
    config::Timing,
    events::FailedRequest,
    frame::FrameBatch,
    limits::{BATCH_BYTES_MAX, BATCHES_IN_FLIGHT_MAX, PROBES_IN_FLIGHT_MAX},
    metrics::tally::{LinkTally, Retries},
    rules::{
        backoff::Backoff,
        bounds,
        health::Health,
        progress::{Progress, Wanted},
        repair::MissingRange,
    },
    transport::{self, Answer, FencedBy, Refusal, RequestBody, Response, TransportError},
    types::{ClusterId, Epoch, Incarnation, NodeName, Offset, Status},
    views::WaitReason,
    words::counted,
};

/// State of a link.
#[derive(Debug)]
pub(crate) struct Link {
    name: NodeName,
    timing: Timing,
    /// The master's cluster, once known.
    cluster: Option<ClusterId>,
    phase: Phase,
    health: Health,
    published_status: Status,
    backoff: Backoff,
    /// No batch is sent before this moment.
    retry_at: Option<Instant>,
    /// Batches up to this attempt were in flight when one failed: their failures add nothing new.
    failed_with: u64,
    next_probe_at: Instant,
    last_hello_at: Option<Instant>,
    probes: BTreeMap<u64, Probe>,
    attempt: u64,
    probe_failures: Failures,
    batch_failures: Failures,
    /// The kind of failure that grew last, which is the reported reason for waiting.
    failed_last: FailedRequest,
    /// The secondary's URL for clients, as it last gave it.
    public_url: Option<Arc<NodeUrl>>,
    /// The end of the master's written log, up to which records are sent.
    written_end: Offset,
    committed: Option<Offset>,
    pending: Vec<LinkAction>,
    report_due: bool,
    /// The range that is missing from the master's own log.
    missing: Option<MissingRange>,
    next_fetch_at: Instant,
    /// Tally without the retries.
    tally: LinkTally,
}

#[derive(Debug)]
enum Phase {
    /// Nothing to send, not yet or no longer.
    Idle,
    /// A recovery asks, and repeats the question until it asks another.
    Asking {
        epoch: Epoch,
        body: RequestBody,
        serial: u64,
        answered: bool,
    },
    /// The hello of this epoch has no answer yet.
    Handshake {
        epoch: Epoch,
        older_before: Option<Offset>,
    },
    /// The hello was answered by this incarnation of the secondary.
    Open(Conversation),
}

#[derive(Debug)]
struct Conversation {
    epoch: Epoch,
    incarnation: Incarnation,
    progress: Progress,
    /// The end that counts, once the secondary's log epoch is ours.
    counted: Option<Offset>,
    refill_target: Option<Offset>,
}

#[derive(Debug)]
struct Probe {
    kind: ProbeKind,
    sent_at: Instant,
    /// The end that the secondary was known to hold when the probe was sent: an answer with less is news.
    held_before: Offset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProbeKind {
    Ask { serial: u64 },
    Hello,
    Heartbeat,
    Fetch,
}

/// Consecutive failures of one kind, and the reason of the last.
#[derive(Clone, Debug, Default)]
struct Failures {
    count: u64,
    last: Option<Failure>,
    /// All failures ever, by reason.
    retries: Retries,
}

/// Reason why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: WaitReason,
    pub(crate) detail: Arc<str>,
}

/// A step for the actor to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkAction {
    /// Send this and report its answer under `attempt`.
    Ask {
        attempt: u64,
        epoch: Epoch,
        body: RequestBody,
    },
    /// Send a hello, with the epoch starts that begin below `older_before` or the newest ones.
    Hello {
        attempt: u64,
        epoch: Epoch,
        older_before: Option<Offset>,
    },
    /// Send a heartbeat.
    Heartbeat {
        attempt: u64,
        epoch: Epoch,
        progress: transport::Progress,
    },
    /// Read these records, report the read, send them.
    SendBatch {
        attempt: u64,
        epoch: Epoch,
        wanted: Wanted,
        progress: transport::Progress,
    },
    /// An answer to the recovery's question with `serial`.
    Answered {
        serial: u64,
        response: Box<Response>,
    },
    /// Records that are missing from the master's own log.
    Fetched(Vec<FrameBatch>),
    /// The master is fenced and no longer leader.
    BecomeFenced(FencedBy),
    /// The secondary gained or lost its standing in this epoch.
    Changed(Change),
    /// Report the link's state to the coordinator.
    Report,
}

/// A change that is worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Status {
        from: Status,
        to: Status,
    },
    Aligned {
        incarnation: Incarnation,
        durable_end: Offset,
        intact: bool,
        cut_records: u64,
    },
    Counts {
        durable_end: Offset,
    },
}

/// The newest state of a link, reported to the coordinator.
#[derive(Clone, Debug)]
pub(crate) struct LinkReport {
    pub(crate) health: Health,
    /// The epoch of the conversation, while there is one.
    pub(crate) epoch: Option<Epoch>,
    /// The end that counts.
    pub(crate) counted: Option<Offset>,
    /// The end that the secondary last named.
    pub(crate) durable_end: Option<Offset>,
    pub(crate) failed_attempts: u64,
    pub(crate) failure: Option<Failure>,
    /// The kind of request that failed last.
    pub(crate) failed_request: FailedRequest,
    pub(crate) next_retry_at: Option<Instant>,
    /// The end of the records in flight.
    pub(crate) in_flight_end: Offset,
    /// True if the secondary is aligned, and was intact at the handshake or has become so.
    pub(crate) intact: bool,
    /// The secondary's URL for clients, as it last gave it.
    pub(crate) public_url: Option<Arc<NodeUrl>>,
}

impl Link {
    pub(crate) fn new(name: NodeName, timing: Timing, seed: u64, now: Instant) -> Link {
        Link {
            name,
            cluster: None,
            phase: Phase::Idle,
            health: Health::new(&timing, now),
            published_status: Status::Suspected,
            backoff: Backoff::new(&timing, seed),
            retry_at: None,
            failed_with: 0,
            next_probe_at: now,
            last_hello_at: None,
            probes: BTreeMap::new(),
            attempt: 0,
            probe_failures: Failures::default(),
            batch_failures: Failures::default(),
            failed_last: FailedRequest::Heartbeat,
            public_url: None,
            written_end: Offset::ZERO,
            committed: None,
            pending: Vec::new(),
            report_due: true,
            missing: None,
            next_fetch_at: now,
            tally: LinkTally::new(),
            timing,
        }
    }

    /// Asks the recovery's question, at once and repeatedly until the next one.
    pub(crate) fn ask(
        &mut self,
        now: Instant,
        cluster: Option<ClusterId>,
        epoch: Epoch,
        serial: u64,
        body: RequestBody,
    ) {
        self.cluster = cluster;
        self.leave_conversation();
        // Nothing is due while a recovery asks, even if the master stepped down with a batch in flight.
        self.health.on_records_taken(now, false);
        self.phase = Phase::Asking {
            epoch,
            body,
            serial,
            answered: false,
        };
        self.next_probe_at = now;
    }

    /// Begins the conversation of `epoch` after the recovery.
    pub(crate) fn serve(&mut self, now: Instant, cluster: ClusterId, epoch: Epoch) {
        self.cluster = Some(cluster);
        self.begin_handshake(now, epoch, None);
    }

    /// Stops sending: the master is no longer leader, or stops.
    pub(crate) fn stop(&mut self) {
        self.leave_conversation();
        self.phase = Phase::Idle;
        self.report_due = true;
    }

    /// Notes that the master's log or its committed end has grown.
    pub(crate) fn on_log(&mut self, now: Instant, written_end: Offset, committed: Option<Offset>) {
        self.written_end = written_end;
        self.committed = committed;
        self.note_due(now);
    }

    /// Sets or clears the range that is missing from the master's own log.
    pub(crate) fn on_missing(&mut self, now: Instant, missing: Option<MissingRange>) {
        (self.missing, self.next_fetch_at) = (missing, now);
    }

    /// Notes that the records of `attempt` were read and are being sent. Returns false if they are no longer
    /// wanted.
    pub(crate) fn on_read(&mut self, attempt: u64, end: Offset, bytes: usize) -> bool {
        self.report_due = true;
        match &mut self.phase {
            Phase::Open(open) => {
                let wanted = open.progress.on_read(attempt, end, bytes);
                if wanted {
                    let records = open.progress.records_in(attempt);
                    self.tally.batch_records.record(records as f64);
                    self.tally.batch_bytes.record(bytes as f64);
                }
                wanted
            }
            _ => false,
        }
    }

    /// Handles a failure to read the records of `attempt` from the master's own log.
    pub(crate) fn on_read_failed(&mut self, now: Instant, attempt: u64, detail: Arc<str>) {
        let failure = Failure {
            reason: WaitReason::Storage,
            detail,
        };
        self.on_batch_failed(now, attempt, false, failure);
    }

    /// Handles the answer to a probe or a batch, or its failure.
    pub(crate) fn on_answer(
        &mut self,
        now: Instant,
        attempt: u64,
        result: Result<Response, TransportError>,
    ) {
        self.report_due = true;
        let probe = self.probes.remove(&attempt);
        let in_flight = |open: &Conversation| open.progress.is_in_flight(attempt);
        if probe.is_none() && !self.open().is_some_and(in_flight) {
            // Answered before, or asked in a phase that is over: a late promise request is refused because of
            // this very epoch, which must not be taken for a fence.
            return;
        }
        let checked = result
            .map_err(Failure::from)
            .and_then(|response| self.check(response));
        if let Ok(response) = &checked
            && let Err(failure) = self.check_bounds(response)
        {
            self.on_malformed(now, failure);
            return;
        }
        match (probe, checked) {
            // A failed probe from before the last contact tells nothing new.
            (Some(probe), Err(_)) if self.health.last_contact() > Some(probe.sent_at) => {}
            (Some(_), Err(failure)) => self.on_probe_failed(failure),
            (Some(probe), Ok(response)) => self.on_probe_answer(now, &probe, response),
            (None, Err(failure)) => {
                let timed_out = failure.reason == WaitReason::TimedOut;
                self.on_batch_failed(now, attempt, timed_out, failure);
            }
            (None, Ok(response)) => self.on_batch_answer(now, attempt, response),
        }
    }

    /// Notes that bytes of `attempt`, or of requests before it, have arrived at a node whose run is
    /// `incarnation`, if that is known. From the incarnation of this conversation that is a sign of life, as an
    /// answer is: a long record on a slow line delays every answer behind it (head-of-line blocking).
    pub(crate) fn on_bytes_moved(
        &mut self,
        now: Instant,
        attempt: u64,
        incarnation: Option<Incarnation>,
    ) {
        let is_probe = self.probes.contains_key(&attempt);
        let Phase::Open(open) = &self.phase else {
            return;
        };
        let is_in_flight = is_probe || open.progress.is_in_flight(attempt);
        // A node that refuses what arrives, for example because its disk is full, is not in contact however
        // well bytes move.
        let failures = &self.probe_failures;
        let refuses = failures.count > 0
            && failures
                .last
                .as_ref()
                .is_some_and(|failure| failure.reason != WaitReason::TimedOut);
        if is_in_flight && incarnation == Some(open.incarnation) && !refuses {
            self.report_due = true;
            self.on_contact(now);
        }
    }

    /// Handles an answer that makes no sense: the conversation ends, and another hello begins the next one.
    fn on_malformed(&mut self, now: Instant, failure: Failure) {
        self.tally.malformed += 1;
        self.on_probe_failed(failure);
        self.restart_handshake(now);
    }

    /// Returns what to do next; `None` if there is nothing until the next event or deadline.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<LinkAction> {
        if !self.pending.is_empty() {
            return Some(self.pending.remove(0));
        }
        let status = self.health.status(now);
        if status != self.published_status {
            let from = std::mem::replace(&mut self.published_status, status);
            self.report_due = true;
            return Some(LinkAction::Changed(Change::Status { from, to: status }));
        }
        if let Some(probe) = self.poll_probe(now) {
            self.report_due = true;
            return Some(probe);
        }
        if let Some(fetch) = self.poll_fetch(now) {
            return Some(fetch);
        }
        if let Some(batch) = self.poll_batch(now) {
            self.report_due = true;
            return Some(batch);
        }
        std::mem::take(&mut self.report_due).then_some(LinkAction::Report)
    }

    /// Returns when [`Link::poll`] has something to do even if nothing happens.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let probe = match &self.phase {
            Phase::Idle => None,
            Phase::Asking { .. } | Phase::Handshake { .. } | Phase::Open(_) => {
                Some(self.next_probe_at)
            }
        };
        let retry = self.retry_at.filter(|at| *at > now && self.is_behind());
        let fetch = self.fetchable().map(|_| self.next_fetch_at);
        [probe, retry, fetch, self.health.next_deadline(now)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns the state of the link.
    pub(crate) fn report(&self, now: Instant) -> LinkReport {
        let (last, other) = match self.failed_last {
            FailedRequest::Heartbeat => (&self.probe_failures, &self.batch_failures),
            FailedRequest::Records => (&self.batch_failures, &self.probe_failures),
        };
        // A contact ends the series of probe failures, but not that of batch failures.
        let failures = if last.count > 0 { last } else { other };
        let open = self.open();
        LinkReport {
            health: self.health,
            epoch: open.map(|open| open.epoch),
            counted: open.and_then(|open| open.counted),
            durable_end: open.map(|open| open.progress.durable_end()),
            failed_attempts: self.probe_failures.count + self.batch_failures.count,
            failure: failures.last.clone(),
            failed_request: self.failed_last,
            next_retry_at: failures.last.as_ref().and_then(|_| self.next_retry_at(now)),
            in_flight_end: open.map_or(Offset::ZERO, |open| open.progress.in_flight_end()),
            intact: open.is_some_and(|open| open.refill_target.is_none()),
            public_url: self.public_url.clone(),
        }
    }

    /// Returns what was counted since the beginning.
    pub(crate) fn tally(&self) -> LinkTally {
        let retries = self
            .probe_failures
            .retries
            .plus(self.batch_failures.retries);
        LinkTally {
            retries,
            ..self.tally
        }
    }

    fn open(&self) -> Option<&Conversation> {
        match &self.phase {
            Phase::Open(open) => Some(open),
            _ => None,
        }
    }

    fn is_behind(&self) -> bool {
        self.open()
            .is_some_and(|open| open.progress.durable_end() < self.written_end)
    }

    fn next_retry_at(&self, now: Instant) -> Option<Instant> {
        let by_batch = self.health.status(now) != Status::Unhealthy && self.is_behind();
        match (&self.phase, self.retry_at) {
            (Phase::Idle, _) => None,
            (Phase::Open(open), None) if by_batch && open.progress.batches_in_flight() > 0 => None,
            (_, Some(retry_at)) if by_batch => Some(retry_at.min(self.next_probe_at)),
            _ => Some(self.next_probe_at),
        }
    }

    fn next_attempt(&mut self) -> u64 {
        self.attempt += 1;
        self.attempt
    }

    /// Sends the probe that is due, whatever the status: heartbeats go at their interval.
    fn poll_probe(&mut self, now: Instant) -> Option<LinkAction> {
        let silent = matches!(self.phase, Phase::Idle);
        if silent || now < self.next_probe_at {
            return None;
        }
        // From now on, not from when it was due: a master that was paused sends no burst.
        self.next_probe_at = now + self.timing.heartbeat_interval;
        if self.probes.len() >= PROBES_IN_FLIGHT_MAX {
            return None;
        }
        let attempt = self.next_attempt();
        let (kind, action) = match &self.phase {
            Phase::Idle => return None,
            Phase::Asking {
                body: RequestBody::Fetch(_),
                answered: true,
                ..
            } => return None,
            Phase::Asking {
                epoch,
                body,
                serial,
                ..
            } => (
                ProbeKind::Ask { serial: *serial },
                LinkAction::Ask {
                    attempt,
                    epoch: *epoch,
                    body: body.clone(),
                },
            ),
            Phase::Handshake {
                epoch,
                older_before,
            } => {
                self.last_hello_at = Some(now);
                let (epoch, older_before) = (*epoch, *older_before);
                (
                    ProbeKind::Hello,
                    LinkAction::Hello {
                        attempt,
                        epoch,
                        older_before,
                    },
                )
            }
            Phase::Open(open) => {
                let progress = self.progress_for(open);
                self.tally.heartbeats += 1;
                (
                    ProbeKind::Heartbeat,
                    LinkAction::Heartbeat {
                        attempt,
                        epoch: open.epoch,
                        progress,
                    },
                )
            }
        };
        let held_before = self
            .open()
            .map_or(Offset::ZERO, |open| open.progress.durable_end());
        let probe = Probe {
            kind,
            sent_at: now,
            held_before,
        };
        self.probes.insert(attempt, probe);
        Some(action)
    }

    /// Returns the range to fetch and the conversation to fetch it in: only if the secondary, which is aligned,
    /// also holds the record behind the range, or all that there is. Its end need not count.
    fn fetchable(&self) -> Option<(MissingRange, &Conversation)> {
        let (missing, open) = (self.missing?, self.open()?);
        let needed = missing.until.plus(1).min(self.written_end);
        (open.progress.durable_end() >= needed).then_some((missing, open))
    }

    /// Fetches the range missing from the master's own log, as often as heartbeats are sent.
    fn poll_fetch(&mut self, now: Instant) -> Option<LinkAction> {
        if now < self.next_fetch_at || self.fetchable().is_none() {
            return None;
        }
        // Even if it cannot be sent: a fetch that is due and not sent would be due again at once.
        self.next_fetch_at = now + self.timing.heartbeat_interval;
        if self.probes.len() >= PROBES_IN_FLIGHT_MAX {
            return None;
        }
        let (missing, open) = self.fetchable()?;
        let fetch = transport::Fetch {
            to_incarnation: open.incarnation,
            from: missing.from,
            bytes_max: u32::try_from(BATCH_BYTES_MAX).expect("a batch is small"),
            epoch_starts: false,
        };
        let (epoch, held_before) = (open.epoch, open.progress.durable_end());
        let attempt = self.next_attempt();
        let probe = Probe {
            kind: ProbeKind::Fetch,
            sent_at: now,
            held_before,
        };
        self.probes.insert(attempt, probe);
        Some(LinkAction::Ask {
            attempt,
            epoch,
            body: RequestBody::Fetch(fetch),
        })
    }

    /// Sends the batch that is due: several in flight to a Healthy secondary, one to a Suspected one or after a
    /// failure, none to an Unhealthy one.
    fn poll_batch(&mut self, now: Instant) -> Option<LinkAction> {
        let window = match self.health.status(now) {
            Status::Unhealthy => return None,
            Status::Suspected => 1,
            Status::Healthy if self.backoff.failures() > 0 => 1,
            Status::Healthy => BATCHES_IN_FLIGHT_MAX,
        };
        if self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        let (attempt, written_end) = (self.attempt + 1, self.written_end);
        let Phase::Open(open) = &mut self.phase else {
            return None;
        };
        // Batches sent behind a gap are answered once the gap is filled: they must not hold back the batch that
        // fills it.
        let ahead = open.progress.batches_ahead();
        if ahead >= window || open.progress.batches_in_flight() >= BATCHES_IN_FLIGHT_MAX {
            return None;
        }
        let wanted = open.progress.next(attempt, written_end)?;
        self.retry_at = None;
        self.attempt = attempt;
        let open = self.open()?;
        let (epoch, progress) = (open.epoch, self.progress_for(open));
        Some(LinkAction::SendBatch {
            attempt,
            epoch,
            wanted,
            progress,
        })
    }

    fn progress_for(&self, open: &Conversation) -> transport::Progress {
        transport::Progress {
            to_incarnation: open.incarnation,
            end: self.written_end,
            committed: self.committed,
            refill_target: open.refill_target,
        }
    }

    /// Checks that the answer is from the right node; a stranger's answer is a failure.
    fn check(&self, response: Response) -> Result<Response, Failure> {
        let wrong = |detail: String| Failure {
            reason: WaitReason::WrongNode,
            detail: detail.into(),
        };
        if response.name != self.name {
            return Err(wrong(format!("node {} answered instead", response.name)));
        }
        if let (Some(own), Some(theirs)) = (self.cluster, response.cluster)
            && own != theirs
        {
            return Err(wrong(format!("the node belongs to cluster {theirs}")));
        }
        match &response.answer {
            Answer::Refused(refusal) => match Failure::of_stranger(refusal) {
                Some(failure) => Err(failure),
                None => Ok(response),
            },
            _ => Ok(response),
        }
    }

    /// Checks that the answer makes sense in an open conversation, or as an answer to a hello; answers to a
    /// recovery are checked by the recovery.
    fn check_bounds(&self, response: &Response) -> Result<(), Failure> {
        let epoch = match &self.phase {
            Phase::Idle | Phase::Asking { .. } => return Ok(()),
            Phase::Handshake { epoch, .. } => *epoch,
            Phase::Open(open) => open.epoch,
        };
        bounds::check_response(epoch, response).map_err(|detail| Failure::bad_answer(&detail))?;
        // The log of a node in conversation is never longer than the master's.
        let durable_end = response.state.durable_end;
        let is_longer = matches!(response.answer, Answer::Taken) && durable_end > self.written_end;
        match &self.phase {
            Phase::Open(open) if is_longer && open.incarnation == response.incarnation => {
                let detail = format!(
                    "claims {durable_end} of {}",
                    counted(self.written_end, "record")
                );
                Err(Failure::bad_answer(&detail))
            }
            _ => Ok(()),
        }
    }

    fn on_probe_answer(&mut self, now: Instant, probe: &Probe, response: Response) {
        match probe.kind {
            ProbeKind::Ask { serial } => self.on_asked(now, serial, response),
            ProbeKind::Hello => self.on_hello_answer(now, response),
            ProbeKind::Fetch => self.on_fetch_answer(now, response),
            ProbeKind::Heartbeat => {
                if let Some(response) = self.accept(now, response) {
                    let round_trip = now.saturating_duration_since(probe.sent_at);
                    self.tally.round_trips.record_seconds(round_trip);
                    let gone_back = response.state.durable_end < probe.held_before;
                    self.on_state(now, &response, gone_back);
                }
            }
        }
    }

    /// Handles fetched records for the master's own log, accepted only from the incarnation of this
    /// conversation.
    fn on_fetch_answer(&mut self, now: Instant, response: Response) {
        let same_life = |open: &Conversation| open.incarnation == response.incarnation;
        if !self.open().is_some_and(same_life) {
            return;
        }
        match response.answer {
            Answer::Records(fetched) => {
                self.on_contact(now);
                self.pending.push(LinkAction::Fetched(fetched.records));
            }
            Answer::Refused(refusal) => self.on_refused(now, refusal),
            _ => self.on_probe_failed(Failure::bad_answer(
                "expected records for the master's own log",
            )),
        }
    }

    /// Handles an answer to a recovery: it is a contact, and the recovery judges its content.
    fn on_asked(&mut self, now: Instant, asked: u64, response: Response) {
        let Phase::Asking {
            serial, answered, ..
        } = &mut self.phase
        else {
            return;
        };
        let current = *serial == asked;
        *answered |= current;
        match &response.answer {
            Answer::Refused(refusal) => self.on_probe_failed(Failure::of_refusal(refusal)),
            _ => self.on_contact(now),
        }
        if current {
            let response = Box::new(response);
            self.pending.push(LinkAction::Answered {
                serial: asked,
                response,
            });
        }
    }

    fn on_hello_answer(&mut self, now: Instant, response: Response) {
        let Phase::Handshake {
            epoch,
            older_before,
        } = &mut self.phase
        else {
            return;
        };
        let epoch = *epoch;
        match &response.answer {
            // An aligned log is never longer than the master's.
            Answer::Aligned(_) if response.state.durable_end > self.written_end => {
                let detail = format!(
                    "aligned at {} with a log that ends at {}",
                    response.state.durable_end, self.written_end
                );
                self.on_malformed(now, Failure::bad_answer(&detail));
            }
            Answer::Aligned(aligned) => {
                self.on_contact(now);
                self.public_url = aligned.public_url.clone().map(Arc::new);
                self.open_conversation(now, epoch, &response, aligned.cut_records);
            }
            Answer::OlderStartsNeeded { before } => {
                *older_before = Some(*before);
                self.next_probe_at = now;
                self.on_contact(now);
            }
            Answer::Refused(refusal) => self.on_refused(now, refusal.clone()),
            _ => self.on_probe_failed(Failure::bad_answer("not an answer to a hello")),
        }
    }

    fn open_conversation(
        &mut self,
        now: Instant,
        epoch: Epoch,
        response: &Response,
        cut_records: u64,
    ) {
        let state = response.state;
        let (incarnation, durable_end) = (response.incarnation, state.durable_end);
        let intact = state.log_epoch.is_some();
        self.pending.push(LinkAction::Changed(Change::Aligned {
            incarnation,
            durable_end,
            intact,
            cut_records,
        }));
        // The master's end at this moment lies beyond everything that an earlier incarnation of this node may
        // have acknowledged.
        let refill_target = (!intact).then_some(self.written_end);
        self.phase = Phase::Open(Conversation {
            epoch,
            incarnation,
            progress: Progress::new(durable_end),
            counted: None,
            refill_target,
        });
        // A node that is back starts afresh, without waiting out the backoff of its absence.
        self.resume_batches();
        self.next_probe_at = if intact {
            now + self.timing.heartbeat_interval
        } else {
            now
        };
        self.on_state(now, response, false);
    }

    /// Returns an answer of an open conversation if it may be believed; handles what it says about the
    /// conversation itself.
    fn accept(&mut self, now: Instant, response: Response) -> Option<Response> {
        let Phase::Open(open) = &self.phase else {
            return None;
        };
        if response.incarnation != open.incarnation {
            // Another incarnation answers: send a new hello, and never believe the answer.
            self.restart_handshake(now);
            return None;
        }
        match response.answer {
            Answer::Taken => {
                self.on_contact(now);
                Some(response)
            }
            Answer::Refused(refusal) => {
                self.on_refused(now, refusal);
                None
            }
            _ => {
                self.on_probe_failed(Failure::bad_answer("not an answer to what was asked"));
                None
            }
        }
    }

    fn on_batch_answer(&mut self, now: Instant, attempt: u64, response: Response) {
        let Phase::Open(open) = &self.phase else {
            return;
        };
        if response.incarnation != open.incarnation {
            self.restart_handshake(now);
            return;
        }
        match response.answer {
            Answer::Taken => {
                let Phase::Open(open) = &mut self.phase else {
                    return;
                };
                if open.progress.on_taken(attempt) {
                    self.tally.acks += 1;
                    self.resume_batches();
                }
                self.on_contact(now);
                self.on_state(now, &response, false);
                let more_due = self.is_behind();
                self.health.on_records_taken(now, more_due);
            }
            Answer::Refused(refusal) => {
                let failure = Failure::of_refusal(&refusal);
                self.on_batch_failed(now, attempt, false, failure);
                // One attempt, one retry: it was counted as a batch.
                let retries = self.probe_failures.retries;
                self.on_refused(now, refusal);
                self.probe_failures.retries = retries;
            }
            _ => {
                let failure = Failure::bad_answer("not an answer to records");
                self.on_batch_failed(now, attempt, false, failure);
            }
        }
    }

    /// Takes over the end and log epoch that the secondary named.
    fn on_state(&mut self, now: Instant, response: &Response, gone_back: bool) {
        let state = response.state;
        let Phase::Open(open) = &mut self.phase else {
            return;
        };
        let counts = state.log_epoch == Some(open.epoch);
        if gone_back && !counts {
            // Its log was cut by a late hello: records sent above its end are gone.
            self.restart_handshake(now);
            return;
        }
        open.progress.on_durable_end(state.durable_end);
        if counts {
            open.refill_target = None;
            if open.counted.is_none() {
                let durable_end = state.durable_end;
                self.pending
                    .push(LinkAction::Changed(Change::Counts { durable_end }));
            }
            open.counted = open.counted.max(Some(state.durable_end));
        }
        self.note_due(now);
    }

    fn on_refused(&mut self, now: Instant, refusal: Refusal) {
        match refusal {
            Refusal::Fenced(by) | Refusal::Replaced(by) | Refusal::OutOfDate(by) => {
                let failure = Failure {
                    reason: WaitReason::Fenced,
                    detail: by.describe().into(),
                };
                self.on_probe_failed(failure);
                self.leave_conversation();
                self.phase = Phase::Idle;
                self.pending.push(LinkAction::BecomeFenced(by));
            }
            Refusal::HelloFirst | Refusal::WrongIncarnation | Refusal::NotAligned => {
                self.restart_handshake(now);
            }
            // The node is there and accepts the epoch; the batch is retried.
            Refusal::BeyondWindow => self.on_contact(now),
            Refusal::WrongNode
            | Refusal::WrongCluster
            | Refusal::OtherNodes { .. }
            | Refusal::BelowCommitted { .. }
            | Refusal::Storage { .. }
            | Refusal::Malformed { .. }
            | Refusal::Stopping => self.on_probe_failed(Failure::of_refusal(&refusal)),
        }
    }

    fn on_probe_failed(&mut self, failure: Failure) {
        self.failed_last = FailedRequest::Heartbeat;
        self.probe_failures.add(failure);
    }

    fn on_batch_failed(&mut self, now: Instant, attempt: u64, timed_out: bool, failure: Failure) {
        self.report_due = true;
        let Phase::Open(open) = &mut self.phase else {
            return;
        };
        if !open.progress.on_failed(attempt, timed_out) {
            return;
        }
        self.failed_last = FailedRequest::Records;
        self.batch_failures.add(failure);
        if attempt > self.failed_with {
            self.failed_with = self.attempt;
            self.retry_at = Some(now + self.backoff.on_failure());
        }
    }

    fn on_contact(&mut self, now: Instant) {
        let was_away = self.probe_failures.count > 0
            || (self.health.status(now) != Status::Healthy && !self.health.is_stalled(now));
        self.health.on_contact(now);
        self.probe_failures.forget();
        if was_away {
            // Back after an absence: replication starts at once. A node that answers but takes no records keeps
            // its backoff.
            self.resume_batches();
        }
    }

    /// Lifts all delay from batches: the secondary is back after an absence, or takes records.
    fn resume_batches(&mut self) {
        self.backoff.reset();
        self.retry_at = None;
        self.failed_with = self.attempt;
        self.batch_failures.forget();
    }

    fn note_due(&mut self, now: Instant) {
        if self.is_behind() {
            self.health.on_records_due(now);
        } else if self.open().is_some() {
            // Nothing is due, even if the answer to the last batch is missing: no other batch would come to end
            // the stall.
            self.health.on_records_taken(now, false);
        }
    }

    fn restart_handshake(&mut self, now: Instant) {
        if let Phase::Open(Conversation { epoch, .. }) | Phase::Handshake { epoch, .. } = self.phase
        {
            let last = self.last_hello_at;
            self.begin_handshake(now, epoch, last);
        }
    }

    /// Restarts the conversation at once, but not in a loop with a node that refuses what follows each hello.
    fn begin_handshake(&mut self, now: Instant, epoch: Epoch, last: Option<Instant>) {
        self.leave_conversation();
        self.phase = Phase::Handshake {
            epoch,
            older_before: None,
        };
        let earliest = last.map_or(now, |last| last + self.timing.retry_min);
        self.next_probe_at = now.max(earliest);
    }

    /// Leaves the conversation: answers to probes in flight are not believed any more, and no end counts.
    fn leave_conversation(&mut self) {
        self.probes.clear();
        self.retry_at = None;
        self.report_due = true;
    }

    /// Asserts the invariants.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        assert!(self.probes.len() <= PROBES_IN_FLIGHT_MAX);
        if let Phase::Open(open) = &self.phase {
            open.progress.check();
            assert!(open.progress.batches_in_flight() <= BATCHES_IN_FLIGHT_MAX);
            assert!(
                open.counted
                    .is_none_or(|counted| counted <= self.written_end)
            );
        }
    }
}

impl Failures {
    fn add(&mut self, failure: Failure) {
        self.count += 1;
        self.retries.count(failure.reason);
        self.last = Some(failure);
    }

    /// Ends the series of failures.
    fn forget(&mut self) {
        (self.count, self.last) = (0, None);
    }
}

impl Failure {
    fn bad_answer(detail: &str) -> Failure {
        Failure {
            reason: WaitReason::BadAnswer,
            detail: detail.into(),
        }
    }

    /// Returns the failure if the refusal shows that the answer came from a stranger.
    fn of_stranger(refusal: &Refusal) -> Option<Failure> {
        match refusal {
            Refusal::WrongNode | Refusal::WrongCluster | Refusal::OtherNodes { .. } => {
                Some(Failure::of_refusal(refusal))
            }
            _ => None,
        }
    }

    fn of_refusal(refusal: &Refusal) -> Failure {
        let (reason, detail) = match refusal {
            Refusal::WrongNode => (WaitReason::WrongNode, "the node has another name".into()),
            Refusal::WrongCluster => (
                WaitReason::WrongNode,
                "the node belongs to another cluster".into(),
            ),
            Refusal::OtherNodes { nodes } => (
                WaitReason::WrongNode,
                format!("the node was founded with the nodes {nodes:?}"),
            ),
            Refusal::Fenced(by) | Refusal::Replaced(by) | Refusal::OutOfDate(by) => {
                (WaitReason::Fenced, by.describe())
            }
            Refusal::HelloFirst | Refusal::WrongIncarnation => {
                (WaitReason::CatchingUp, "the node has restarted".into())
            }
            Refusal::BelowCommitted { committed } => (
                WaitReason::BadAnswer,
                format!(
                    "the node holds committed messages up to {committed}, which this master's log does \
                     not have"
                ),
            ),
            Refusal::NotAligned => (WaitReason::CatchingUp, "the node's log differs".into()),
            Refusal::BeyondWindow => (
                WaitReason::CatchingUp,
                "the node waits for earlier records".into(),
            ),
            Refusal::Storage { detail } => (WaitReason::Storage, detail.clone()),
            Refusal::Malformed { detail } => (WaitReason::BadAnswer, detail.clone()),
            Refusal::Stopping => (WaitReason::ConnectionRefused, "the node is stopping".into()),
        };
        Failure {
            reason,
            detail: detail.into(),
        }
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Failure {
        let reason = match &error {
            TransportError::ConnectionRefused | TransportError::Connection(_) => {
                WaitReason::ConnectionRefused
            }
            TransportError::NameNotResolved(_) => WaitReason::NameNotResolved,
            TransportError::WrongSecret(_) => WaitReason::WrongSecret,
            TransportError::WrongNode(_) => WaitReason::WrongNode,
            TransportError::TimedOut => WaitReason::TimedOut,
            TransportError::Injected => WaitReason::HttpStatus,
            TransportError::BadAnswer(_) | TransportError::Refused(_) => WaitReason::BadAnswer,
        };
        Failure {
            reason,
            detail: error.to_string().into(),
        }
    }
}

impl FencedBy {
    /// Describes the leader in one sentence for people.
    pub(crate) fn describe(&self) -> String {
        let FencedBy {
            name,
            instance,
            epoch,
        } = self;
        format!("{name} (directory {instance}) holds epoch {epoch}")
    }
}

#[cfg(test)]
mod tests;

//! A master's office: whether it takes appends, which offset each gets, who is answered when.
//!
//! Owns the mode, the next offset, the keys, the appends that wait, and what the links last
//! reported. Never reads a clock, never writes, never sends: it hands back batches to write and
//! answers to give. `W` is whoever gets an answer. Keeps rules 1, 3, 4, 6, 8 and 11.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::{
    config::{MasterConfig, Peer},
    error::{AppendError, LimitName, ModeState},
    limits::BATCH_BYTES_MAX,
    record::{HEADER_BYTES, KIND_MESSAGE, MessageBatch, Record, RecordBatch},
    rules::{
        acks::{Acks, NodeSet, Released, WaiterId},
        disk_space::{DiskSpace, WriteOutage},
        keys::{Claim, Found, Keys},
        link::LinkReport,
        quorum::quorum,
    },
    transport::FencedBy,
    types::{Concern, DiskState, Epoch, Mode, ModeReason, NodeName, Offset, Status, SyncPolicy},
    views::{
        FencedByHealth, Holders, QuorumHealth, Receipt, SecondaryStatus, WaitReason, WaitingAppend,
        WaitingAppends, WaitingFor,
    },
};

/// The state of a master's office.
#[derive(Debug)]
pub(crate) struct Leader<W> {
    name: NodeName,
    durable: bool,
    max_waiting_appends: usize,
    state: State,
    disk_space: DiskSpace,
    /// Why the recovery can never end by itself, while that is so.
    stuck: Option<String>,
    /// An operator asked for read-only, until that is lifted.
    asked: bool,
    stopping: bool,
    epoch: Epoch,
    next: Offset,
    /// The keys of the log up to `next`; absent until the office is taken.
    keys: Option<Keys>,
    acks: Acks<Waiter<W>>,
    /// Batches that are not written yet: their ends and how many queued bytes they hold.
    unwritten: VecDeque<(Offset, usize)>,
    secondaries: Vec<Secondary>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Recovering,
    Serving,
    /// A write was refused: the office is given up, and the next start waits for room.
    OutOfRoom,
    Fenced(FencedBy),
    Failed {
        detail: Arc<str>,
    },
}

#[derive(Debug)]
struct Secondary {
    peer: Peer,
    report: LinkReport,
}

#[derive(Debug)]
struct Waiter<W> {
    caller: W,
    place: Place,
    arrived: Instant,
}

/// An append at the door.
#[derive(Debug)]
pub(crate) struct NewAppend<W> {
    /// Empty where there is a batch.
    pub(crate) payload: Bytes,
    /// Several messages instead of one.
    pub(crate) batch: Option<Box<MessageBatch>>,
    pub(crate) concern: Concern,
    /// How long its caller waits for the concern, from its arrival.
    pub(crate) timeout: Option<Duration>,
    pub(crate) arrived: Instant,
    /// Appended once, however often it comes.
    pub(crate) claim: Option<Claim>,
    /// Appended only if it gets this offset.
    pub(crate) expected_offset: Option<Offset>,
    /// Of nobody else who waits.
    pub(crate) waiter: WaiterId,
    pub(crate) caller: W,
}

impl<W> NewAppend<W> {
    /// Bytes that it takes until it is written.
    pub(crate) fn queued_bytes(&self) -> usize {
        match &self.batch {
            None => self.payload.len(),
            Some(batch) => batch.bytes(),
        }
    }

    /// Bytes that its record takes, if it is one.
    fn encoded_bytes(&self) -> usize {
        let key_bytes = self
            .claim
            .as_ref()
            .map_or(0, |claim| claim.key_bytes().len());
        match &self.batch {
            None => HEADER_BYTES + key_bytes + self.payload.len(),
            Some(_) => 0,
        }
    }

    /// How many offsets it takes.
    fn count(&self) -> u64 {
        self.batch.as_ref().map_or(1, |batch| batch.count())
    }
}

/// Where an append's messages are or will be, and what its caller waits for.
#[derive(Clone, Copy, Debug)]
struct Place {
    concern: u32,
    /// The first one's.
    offset: Offset,
    /// The last one's: who holds that holds all of them.
    last: Offset,
    epoch: Epoch,
    /// It is in the log already, by an earlier request with the same key.
    replayed: bool,
}

/// An answer to give.
#[derive(Debug)]
pub(crate) struct Answered<W> {
    pub(crate) caller: W,
    pub(crate) result: Result<Receipt, AppendError>,
}

/// What became of a group of appends.
#[derive(Debug)]
pub(crate) struct Admitted<W> {
    /// To be written, in order.
    pub(crate) batches: Vec<RecordBatch>,
    /// Refused, with the reason.
    pub(crate) refused: Vec<Answered<W>>,
    /// Queued bytes that are not in `batches`: of those that were refused, and of those that
    /// are in the log already.
    pub(crate) dropped_bytes: usize,
}

impl<W> Leader<W> {
    /// For a master that recovers; `initial` is what each link reports before it does anything.
    pub(crate) fn new(config: &MasterConfig, durable: bool, initial: Vec<LinkReport>) -> Leader<W> {
        assert_eq!(
            initial.len(),
            config.secondaries.len(),
            "one report for each secondary"
        );
        let peers = config.secondaries.iter().cloned();
        Leader {
            name: config.name.clone(),
            durable: durable && config.sync == SyncPolicy::Always,
            max_waiting_appends: config.max_waiting_appends,
            state: State::Recovering,
            disk_space: DiskSpace::new(),
            stuck: None,
            asked: false,
            stopping: false,
            epoch: Epoch(0),
            next: Offset::ZERO,
            keys: None,
            acks: Acks::new(Offset::ZERO, config.secondaries.len()),
            unwritten: VecDeque::new(),
            secondaries: peers
                .zip(initial)
                .map(|(peer, report)| Secondary { peer, report })
                .collect(),
        }
    }

    /// The recovery is done: appends are taken from the end of these keys' log on, in this epoch.
    pub(crate) fn serve(&mut self, epoch: Epoch, keys: Keys) {
        assert_eq!(self.state, State::Recovering, "an office is taken once");
        assert_eq!(
            self.acks.waiting(),
            0,
            "nobody waits before the office is taken"
        );
        (self.state, self.epoch, self.next) = (State::Serving, epoch, keys.end());
        self.acks = Acks::new(self.next, self.secondaries.len());
        self.keys = Some(keys);
    }

    /// The recovery can never end by itself, with the reason, or can again.
    pub(crate) fn set_stuck(&mut self, stuck: Option<String>) {
        self.stuck = stuck;
    }

    /// Mode, reason and numbers at `now`.
    pub(crate) fn mode(&self, now: Instant) -> ModeState {
        let quorum = self.quorum(now);
        let QuorumHealth {
            nodes,
            needed,
            alive,
        } = quorum;
        let (mode, reason, detail) = match &self.state {
            State::Recovering => (
                Mode::Recovering,
                Some(ModeReason::WaitingForNodes),
                match &self.stuck {
                    Some(detail) => format!("it waits in vain: {detail}"),
                    None => format!(
                        "it agrees with the other nodes on an epoch, for which {needed} of {nodes} with an \
                         intact log must answer, and reads the keys of its log"
                    ),
                },
            ),
            State::OutOfRoom => (
                Mode::Recovering,
                Some(ModeReason::Storage),
                self.disk_space
                    .outage()
                    .map_or_else(String::new, WriteOutage::describe),
            ),
            State::Fenced(by) => (Mode::ReadOnly, Some(ModeReason::Fenced), by.describe()),
            State::Failed { detail } => (
                Mode::ReadOnly,
                Some(ModeReason::Storage),
                format!("its disk failed: {detail}"),
            ),
            // Before the quorum, whose numbers are told beside it: whoever looks learns of both, and
            // that a quorum alone would not be enough.
            State::Serving if self.asked => (
                Mode::ReadOnly,
                Some(ModeReason::Asked),
                "an operator asked for it".to_owned(),
            ),
            State::Serving if !quorum.is_met() => (
                Mode::ReadOnly,
                Some(ModeReason::NoQuorum),
                format!("{alive} of {nodes} nodes are in contact and {needed} are needed"),
            ),
            State::Serving => (Mode::ReadWrite, None, "it takes appends".to_owned()),
        };
        ModeState {
            mode,
            reason,
            detail,
            alive,
            needed,
            nodes,
        }
    }

    /// Gives offsets to the appends that may have one, and encodes them. Takes them all out.
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        wall_ms: u64,
        appends: &mut Vec<NewAppend<W>>,
    ) -> Admitted<W> {
        let mut admitted = Admitted {
            batches: Vec::new(),
            refused: Vec::new(),
            dropped_bytes: 0,
        };
        let closed = self.refusal(now);
        let disk_space: usize = appends.iter().map(NewAppend::encoded_bytes).sum();
        let mut buffer = BytesMut::with_capacity(disk_space.min(2 * BATCH_BYTES_MAX));
        let (mut first, mut payload_bytes) = (self.next, 0);
        for mut append in appends.drain(..) {
            let place = match self.check(&append, closed.as_ref()) {
                Ok(place) => place,
                Err(error) => {
                    admitted.dropped_bytes += append.queued_bytes();
                    admitted.refused.push(Answered {
                        caller: append.caller,
                        result: Err(error),
                    });
                    continue;
                }
            };
            if place.replayed {
                admitted.dropped_bytes += append.queued_bytes();
            } else if let Some(batch) = append.batch.take() {
                if !buffer.is_empty() {
                    let before = self.batch(first, &mut buffer, payload_bytes);
                    admitted.batches.push(before);
                }
                self.stamp(
                    wall_ms,
                    *batch,
                    append.claim.as_ref(),
                    &mut admitted.batches,
                );
                (first, payload_bytes) = (self.next, 0);
            } else {
                payload_bytes += append.payload.len();
                self.encode(wall_ms, &append, &mut buffer);
            }
            self.file(place, append);
            if buffer.len() >= BATCH_BYTES_MAX {
                admitted
                    .batches
                    .push(self.batch(first, &mut buffer, payload_bytes));
                (first, payload_bytes) = (self.next, 0);
            }
        }
        if !buffer.is_empty() {
            admitted
                .batches
                .push(self.batch(first, &mut buffer, payload_bytes));
        }
        admitted
    }

    /// An operator asks for read-only: no append gets an offset any more, in no epoch of this
    /// process, until [`Leader::resume_appends`]. Who has an offset goes on waiting.
    pub(crate) fn pause_appends(&mut self) {
        self.asked = true;
    }

    /// What was asked for is lifted, and no other reason.
    pub(crate) fn resume_appends(&mut self) {
        self.asked = false;
    }

    /// The writer has written to `end`: how many payload bytes are not queued any more.
    pub(crate) fn on_written(&mut self, end: Offset) -> usize {
        let mut freed = 0;
        while let Some((_, bytes)) = self
            .unwritten
            .pop_front_if(|(batch_end, _)| *batch_end <= end)
        {
            freed += bytes;
        }
        freed
    }

    /// The master's own log is durable to `end`.
    pub(crate) fn on_durable(&mut self, end: Offset) {
        self.acks.on_own_end(end);
    }

    /// What the master's own log lacks, all of it.
    pub(crate) fn on_own_holes(&mut self, holes: &[Range<Offset>]) {
        self.acks.on_own_holes(holes.to_vec());
    }

    /// A link reports how things stand.
    pub(crate) fn on_report(&mut self, secondary: usize, report: LinkReport) {
        // What counted in an earlier epoch of this master says nothing in this one.
        let counts = self.may_be_lost() && report.epoch == Some(self.epoch);
        let counted = report.counted.filter(|_| counts);
        self.acks.on_end(secondary, counted);
        self.secondaries[secondary].report = report;
    }

    /// The ends of the secondaries that are intact and aligned in this epoch.
    pub(crate) fn intact_ends(&self) -> Vec<Offset> {
        let reports = self.secondaries.iter().map(|secondary| &secondary.report);
        reports
            .filter(|report| report.intact && report.epoch == Some(self.epoch))
            .filter_map(|report| report.durable_end)
            .collect()
    }

    /// The keys were read again, after what could not be read before was mended.
    pub(crate) fn on_keys_read_again(&mut self, mut keys: Keys) {
        if let Some(known) = &self.keys {
            keys.catch_up(known);
            self.keys = Some(keys);
        }
    }

    /// The office is given up for an epoch of its own choice: nothing is known of what waits.
    pub(crate) fn become_recovering(&mut self, now: Instant) -> Vec<Answered<W>> {
        if self.state != State::Serving {
            return Vec::new();
        }
        self.state = State::Recovering;
        let state = Box::new(self.mode(now));
        let answered = self.dismiss(|offset| AppendError::ReadOnly {
            state: state.clone(),
            offset: Some(offset),
        });
        self.acks = Acks::new(Offset::ZERO, self.secondaries.len());
        answered
    }

    /// Takes out everyone who is to be answered at `now`: concern met, or time up.
    pub(crate) fn settle(&mut self, now: Instant) -> Vec<Answered<W>> {
        let mut done = self.acks.release();
        done.extend(self.acks.expire(now));
        let mut views = Views::default();
        done.into_iter()
            .map(|Released { offset, waiter }| {
                let set = self.acks.holders(offset);
                let holders = views.of(self, set, offset, now);
                let receipt = Receipt {
                    offset: waiter.place.offset,
                    epoch: waiter.place.epoch,
                    concern: waiter.place.concern,
                    concern_met: set.meets(waiter.place.concern),
                    replayed: waiter.place.replayed,
                    acks: holders.acks,
                    waiting_for: holders.waiting_for,
                    durable: self.durable,
                    elapsed: now.duration_since(waiter.arrived),
                };
                Answered {
                    caller: waiter.caller,
                    result: Ok(receipt),
                }
            })
            .collect()
    }

    /// Nobody is there any more to take this one's answer: it waits no longer. Its message stays where it is.
    pub(crate) fn forget(&mut self, waiter: WaiterId) {
        self.acks.forget(waiter);
    }

    /// Another master holds the office: whoever waits is told that nothing is known.
    pub(crate) fn become_fenced(&mut self, now: Instant, by: FencedBy) -> Vec<Answered<W>> {
        self.state = State::Fenced(by);
        let state = Box::new(self.mode(now));
        self.dismiss(|offset| AppendError::ReadOnly {
            state: state.clone(),
            offset: Some(offset),
        })
    }

    /// A write was refused. The log ends at `end`, and offsets were given out beyond it: the
    /// office is given up, whoever waits is told that nothing is known, and an epoch begins anew
    /// once there is room. Also says how many payload bytes are not queued any more.
    pub(crate) fn become_out_of_room(
        &mut self,
        now: Instant,
        end: Offset,
        outage: WriteOutage,
    ) -> (Vec<Answered<W>>, usize) {
        let detail = outage.detail.clone();
        self.disk_space.on_write_failed(now, outage);
        if !matches!(self.state, State::Fenced(_)) {
            self.state = State::OutOfRoom;
        }
        self.next = end;
        let freed = self.unwritten.drain(..).map(|(_, bytes)| bytes).sum();
        let answered = self.dismiss(|offset| AppendError::Storage {
            detail: detail.clone(),
            offset: Some(offset),
        });
        (answered, freed)
    }

    /// There is room again. True: the master is to go through its start.
    pub(crate) fn on_resumed(&mut self, now: Instant) -> bool {
        self.disk_space.on_resumed(now);
        let was_out = self.state == State::OutOfRoom;
        if was_out {
            self.state = State::Recovering;
            // Committed is not known until a majority has the next log epoch.
            self.acks = Acks::new(Offset::ZERO, self.secondaries.len());
        }
        was_out
    }

    /// Whether to see now whether there is room; true once for each time that comes.
    pub(crate) fn should_probe(&mut self, now: Instant) -> bool {
        self.disk_space.should_probe(now)
    }

    /// The disk failed for good.
    pub(crate) fn become_failed(&mut self, detail: &Arc<str>) -> Vec<Answered<W>> {
        self.state = State::Failed {
            detail: detail.clone(),
        };
        self.dismiss(|offset| AppendError::Storage {
            detail: detail.clone(),
            offset: Some(offset),
        })
    }

    /// The node is stopping: whoever waits is told so.
    pub(crate) fn become_stopping(&mut self) -> Vec<Answered<W>> {
        self.stopping = true;
        self.dismiss(|offset| AppendError::Stopping {
            offset: Some(offset),
        })
    }

    /// When [`Leader::settle`] has something to do even if nothing happens.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        // The mode follows from statuses, which change with time alone.
        let statuses = self
            .secondaries
            .iter()
            .filter_map(|s| s.report.health.next_deadline(now));
        let deadlines = [self.acks.next_deadline(), self.disk_space.next_deadline()];
        deadlines.into_iter().flatten().chain(statuses).min()
    }

    /// Whether it has been taken: the recovery is done and nobody else took it since.
    pub(crate) fn is_serving(&self) -> bool {
        self.state == State::Serving
    }

    /// Whether there is an office that another master may have taken.
    pub(crate) fn may_be_lost(&self) -> bool {
        matches!(self.state, State::Serving | State::OutOfRoom)
    }

    /// The epoch of the office.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The offset that the next record gets.
    pub(crate) fn next_offset(&self) -> Offset {
        self.next
    }

    /// The end of what a majority holds, with no append in part, once known.
    pub(crate) fn committed(&self) -> Option<Offset> {
        self.acks.committed()
    }

    /// The keys of its log; `None` before the office was taken.
    pub(crate) fn keys(&self) -> Option<&Keys> {
        self.keys.as_ref()
    }

    /// How the disk does.
    pub(crate) fn disk(&self) -> DiskState {
        match self.state {
            State::Failed { .. } => DiskState::Failed,
            _ => self.disk_space.disk(),
        }
    }

    /// How many appends wait.
    pub(crate) fn waiting(&self) -> usize {
        self.acks.waiting()
    }

    /// How long the one has waited that has waited longest. Looks at all of them: who retries with a key, or
    /// waits after the fact, may have come last and wait for the lowest offset.
    pub(crate) fn oldest_waiting(&self, now: Instant) -> Option<Duration> {
        let arrived = self.acks.waiters().map(|waiter| waiter.arrived).min()?;
        Some(now.saturating_duration_since(arrived))
    }

    /// Who holds the office, where it is not this master.
    pub(crate) fn fenced_by(&self) -> Option<FencedByHealth> {
        match &self.state {
            State::Fenced(by) => Some(FencedByHealth {
                name: by.name.clone(),
                instance: by.instance,
                epoch: by.epoch,
            }),
            State::Recovering | State::Serving | State::OutOfRoom | State::Failed { .. } => None,
        }
    }

    /// The quorum's numbers.
    pub(crate) fn quorum(&self, now: Instant) -> QuorumHealth {
        quorum(
            self.secondaries
                .iter()
                .map(|secondary| secondary.report.health.status(now)),
        )
    }

    /// The secondaries as they stand.
    pub(crate) fn secondaries(&self, now: Instant, next: Offset) -> Vec<SecondaryStatus> {
        let status = |secondary: &Secondary| {
            let status = secondary.status(now, next);
            match self.state {
                // Nobody is asked any more, so that silence says nothing about them.
                State::Fenced(_) => SecondaryStatus {
                    status: Status::Suspected,
                    reason: Some(WaitReason::Fenced),
                    next_retry: None,
                    ..status
                },
                _ => status,
            }
        };
        self.secondaries.iter().map(status).collect()
    }

    /// Which nodes hold `offset`, and why the others do not.
    pub(crate) fn holders(&self, now: Instant, offset: Offset) -> Holders {
        Views::default().of(self, self.acks.holders(offset), offset, now)
    }

    /// The appends that wait, the oldest `limit` of them.
    pub(crate) fn waiting_appends(&self, now: Instant, limit: usize) -> WaitingAppends {
        let mut views = Views::default();
        let appends = self.acks.oldest(limit).into_iter().map(|(offset, waiter)| {
            let holders = views.of(self, self.acks.holders(offset), offset, now);
            WaitingAppend {
                offset: waiter.place.offset,
                concern: waiter.place.concern,
                acks: holders.acks,
                waiting_for: holders.waiting_for,
                waiting: now.duration_since(waiter.arrived),
            }
        });
        WaitingAppends {
            appends: appends.collect(),
            total: self.acks.waiting(),
        }
    }

    /// Why nobody is admitted, if so.
    fn refusal(&self, now: Instant) -> Option<AppendError> {
        if self.stopping {
            return Some(AppendError::Stopping { offset: None });
        }
        if let State::Failed { detail } = &self.state {
            return Some(AppendError::Storage {
                detail: detail.clone(),
                offset: None,
            });
        }
        if let Some(outage) = self.disk_space.outage() {
            return Some(AppendError::Storage {
                detail: outage.detail.clone(),
                offset: None,
            });
        }
        let state = self.mode(now);
        (state.mode != Mode::ReadWrite).then(|| AppendError::ReadOnly {
            state: Box::new(state),
            offset: None,
        })
    }

    /// Where the append's message is or will be, if it may have a place: its key decides first,
    /// then the mode, then the offset that it expects, then the limits.
    fn check(
        &self,
        append: &NewAppend<W>,
        closed: Option<&AppendError>,
    ) -> Result<Place, AppendError> {
        let nodes = self.acks.nodes();
        let Some(concern) = append.concern.resolve(nodes) else {
            return Err(AppendError::Concern { nodes });
        };
        if let Some(claim) = &append.claim
            && let Some((offset, epoch)) = self.look_up(claim, closed)?
        {
            let place = Place {
                concern,
                offset,
                // The same payloads are as many.
                last: last_of(offset, append.count()),
                epoch,
                replayed: true,
            };
            return self.check_wait(append, place, closed).map(|()| place);
        }
        if let Some(closed) = closed {
            return Err(closed.clone());
        }
        if append.expected_offset.is_some_and(|at| at != self.next) {
            return Err(AppendError::OffsetMismatch { next: self.next });
        }
        self.check_horizon(append)?;
        self.check_limit(queue_of(concern, append.timeout))?;
        Ok(Place {
            concern,
            offset: self.next,
            last: last_of(self.next, append.count()),
            epoch: self.epoch,
            replayed: false,
        })
    }

    /// The record that has this key, if any does: its offset and epoch.
    fn look_up(
        &self,
        claim: &Claim,
        closed: Option<&AppendError>,
    ) -> Result<Option<(Offset, Epoch)>, AppendError> {
        // Out of room, some of the keys may be of records that were never written, or only so far
        // that a start would find them: what is in the log is known after the recovery.
        let keys = self
            .keys
            .as_ref()
            .filter(|_| !matches!(self.state, State::Recovering | State::OutOfRoom));
        let refusal = match keys.map(|keys| keys.find(claim)) {
            Some(Found::New) => return Ok(None),
            Some(Found::Same { offset, epoch }) => return Ok(Some((offset, epoch))),
            Some(Found::Other { offset }) => return Err(AppendError::KeyReused { offset }),
            Some(Found::Unreadable { from }) => closed.cloned().unwrap_or_else(|| {
                let detail = format!(
                    "records from offset {from} on cannot be read, and one of them may have this \
                     key"
                );
                AppendError::Storage {
                    detail: detail.into(),
                    offset: None,
                }
            }),
            None => closed.cloned().expect("without its keys it does not serve"),
        };
        let refusal = Box::new(refusal);
        Err(AppendError::Unsettled {
            refusal,
            offset: None,
        })
    }

    /// Whether an append may wait for a record that is in the log already. Nothing is appended
    /// for it, so a lack of a quorum is no reason against it; but who would never be answered
    /// must not wait.
    fn check_wait(
        &self,
        append: &NewAppend<W>,
        place: Place,
        closed: Option<&AppendError>,
    ) -> Result<(), AppendError> {
        if self.acks.holders(place.last).meets(place.concern) {
            return Ok(());
        }
        match closed {
            Some(closed) if self.stopping || self.state != State::Serving => {
                Err(closed.clone().of_message(place.offset))
            }
            _ => self
                .check_limit(queue_of(place.concern, append.timeout))
                .map_err(|refusal| {
                    let (refusal, offset) = (Box::new(refusal), Some(place.offset));
                    AppendError::Unsettled { refusal, offset }
                }),
        }
    }

    /// A key is known by its first record: with more behind that than it is known for, it would be
    /// forgotten at once, and a retry appended again.
    fn check_horizon(&self, append: &NewAppend<W>) -> Result<(), AppendError> {
        let horizon = self.keys.as_ref().map_or(u64::MAX, Keys::horizon);
        match append.count() {
            count if append.claim.is_some() && count > horizon => {
                Err(AppendError::BatchBeyondHorizon { count, horizon })
            }
            _ => Ok(()),
        }
    }

    fn check_limit(&self, queue: u32) -> Result<(), AppendError> {
        let waiting = self.acks.waiting_for_concern(queue);
        if waiting < self.max_waiting_appends {
            return Ok(());
        }
        Err(AppendError::Overloaded {
            limit: LimitName::MaxWaitingAppends,
            value: self.max_waiting_appends as u64,
        })
    }

    /// Gives the next offset to an append.
    fn encode(&mut self, wall_ms: u64, append: &NewAppend<W>, into: &mut BytesMut) {
        let claim = append.claim.as_ref();
        Record {
            offset: self.next,
            epoch: self.epoch,
            timestamp_ms: wall_ms,
            kind: KIND_MESSAGE,
            flags: 0,
            key: claim.map_or(b"", Claim::key_bytes),
            payload: &append.payload,
        }
        .encode(into);
        self.next = self.next.plus(1);
        let keys = self.keys.as_mut().expect("who serves has the keys");
        keys.push(self.epoch, claim);
        debug_assert_eq!(keys.end(), self.next, "keys of another log");
    }

    /// Gives the next offsets to the messages of a batch.
    fn stamp(
        &mut self,
        wall_ms: u64,
        batch: MessageBatch,
        claim: Option<&Claim>,
        into: &mut Vec<RecordBatch>,
    ) {
        let (first, count) = (self.next, batch.count());
        for part in batch.stamp(first, self.epoch, wall_ms) {
            self.next = part.end();
            self.unwritten.push_back((part.end(), part.bytes().len()));
            into.push(part);
        }
        assert_eq!(
            self.next,
            first.plus(count),
            "a batch miscounted its messages"
        );
        if count > 1 {
            self.acks.keep_whole(first, self.next);
        }
        let keys = self.keys.as_mut().expect("who serves has the keys");
        keys.push_append(self.epoch, claim, count);
        debug_assert_eq!(keys.end(), self.next, "keys of another log");
    }

    fn file(&mut self, place: Place, append: NewAppend<W>) {
        let queue = queue_of(place.concern, append.timeout);
        let deadline = deadline_of(append.timeout, append.arrived);
        let id = append.waiter;
        let waiter = Waiter {
            caller: append.caller,
            place,
            arrived: append.arrived,
        };
        self.acks.wait(queue, place.last, deadline, id, waiter);
    }

    fn batch(&mut self, first: Offset, buffer: &mut BytesMut, payload_bytes: usize) -> RecordBatch {
        self.unwritten.push_back((self.next, payload_bytes));
        let count = self.next.records_since(first);
        RecordBatch::encoded_here(first, count, self.epoch, buffer.split().freeze())
    }

    fn dismiss(&mut self, error: impl Fn(Offset) -> AppendError) -> Vec<Answered<W>> {
        let waiting = self.acks.drain();
        waiting
            .into_iter()
            .map(|Released { waiter, .. }| Answered {
                result: Err(error(waiter.place.offset)),
                caller: waiter.caller,
            })
            .collect()
    }
}

/// The last of `count` offsets from `first` on.
fn last_of(first: Offset, count: u64) -> Offset {
    assert!(count > 0, "an append without a message at {first}");
    first.plus(count - 1)
}

/// The concern that an append waits by: one that does not wait for others waits for the master
/// alone.
fn queue_of(concern: u32, timeout: Option<Duration>) -> u32 {
    if timeout == Some(Duration::ZERO) {
        1
    } else {
        concern
    }
}

/// Until when an append waits for its concern; `None`: for ever, or not at all.
fn deadline_of(timeout: Option<Duration>, arrived: Instant) -> Option<Instant> {
    let timeout = timeout.filter(|timeout| !timeout.is_zero())?;
    arrived.checked_add(timeout)
}

/// Lists of holders, made once for all messages that would get the same ones.
#[derive(Default)]
struct Views {
    last: Option<(NodeSet, u64, Holders)>,
}

impl Views {
    fn of<W>(&mut self, leader: &Leader<W>, set: NodeSet, offset: Offset, now: Instant) -> Holders {
        let flying = leader.in_flight(offset);
        match &self.last {
            Some((last_set, last_flying, holders))
                if (*last_set, *last_flying) == (set, flying) =>
            {
                holders.clone()
            }
            _ => {
                let holders = leader.describe(set, offset, now);
                self.last = Some((set, flying, holders.clone()));
                holders
            }
        }
    }
}

impl<W> Leader<W> {
    /// To which secondaries `offset` may be on its way, a bit for each.
    fn in_flight(&self, offset: Offset) -> u64 {
        let flies = |secondary: &Secondary| offset < secondary.report.in_flight_end;
        self.secondaries
            .iter()
            .rev()
            .fold(0, |set, s| set << 1 | u64::from(flies(s)))
    }

    fn describe(&self, set: NodeSet, offset: Offset, now: Instant) -> Holders {
        let (mut acks, mut waiting_for) = (Vec::new(), Vec::new());
        if set.has_master() {
            acks.push(self.name.clone());
        } else {
            waiting_for.push(WaitingFor {
                name: self.name.clone(),
                status: Status::Healthy,
                reason: WaitReason::InFlight,
                detail: None,
                next_retry: None,
            });
        }
        for (index, secondary) in self.secondaries.iter().enumerate() {
            if set.has_secondary(index) {
                acks.push(secondary.peer.name.clone());
            } else {
                waiting_for.push(secondary.waiting_for(now, offset));
            }
        }
        Holders {
            acks: acks.into(),
            waiting_for: waiting_for.into(),
        }
    }
}

impl Secondary {
    fn waiting_for(&self, now: Instant, offset: Offset) -> WaitingFor {
        let report = &self.report;
        let (reason, detail) = match &report.failure {
            Some(failure) => (failure.reason, Some(failure.detail.clone())),
            None if report.health.last_contact().is_none() => (WaitReason::NotReachedYet, None),
            None if offset < report.in_flight_end => (WaitReason::InFlight, None),
            None => (WaitReason::CatchingUp, None),
        };
        WaitingFor {
            name: self.peer.name.clone(),
            status: report.health.status(now),
            reason,
            detail,
            next_retry: report
                .next_retry_at
                .map(|at| at.saturating_duration_since(now)),
        }
    }

    fn status(&self, now: Instant, next: Offset) -> SecondaryStatus {
        let report = &self.report;
        let last_contact = report.health.last_contact();
        let reached = last_contact.is_some();
        let reason = report.failure.as_ref().map(|failure| failure.reason);
        SecondaryStatus {
            name: self.peer.name.clone(),
            address: self.peer.address.clone(),
            url: report.public_url.as_deref().cloned(),
            status: report.health.status(now),
            intact: report.epoch.map(|_| report.intact),
            durable_end: report.durable_end,
            lag: next.records_since(report.durable_end.unwrap_or(Offset::ZERO)),
            last_contact: last_contact.map(|at| now.saturating_duration_since(at)),
            failed_attempts: report.failed_attempts,
            reason: reason.or((!reached).then_some(WaitReason::NotReachedYet)),
            next_retry: report
                .next_retry_at
                .map(|at| at.saturating_duration_since(now)),
        }
    }
}

mod waits;

pub(crate) use waits::NewWait;

#[cfg(test)]
mod asked_tests;
#[cfg(test)]
mod batch_tests;
#[cfg(test)]
mod key_tests;
#[cfg(test)]
mod tests;

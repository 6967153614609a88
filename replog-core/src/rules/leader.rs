//! A leader: takes or refuses appends, gives each its offset, and decides when each is answered.
//!
//! Owns the mode, the next offset, the keys, the waiting appends, and the links' last reports. Never reads a
//! clock, never writes, never sends: it returns batches to write and answers to give. `W` is the recipient of
//! an answer. Keeps rules 1, 3, 4, 6, 8 and 11.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::{
    config::{MasterConfig, Peer},
    error::{AppendError, LimitName, ModeState},
    frame::{FrameBatch, FrameFields, MessageBatch, bytes_of},
    limits::BATCH_BYTES_MAX,
    rules::{
        acks::{Acks, NodeSet, Released, WaiterId},
        disk_space::{DiskSpace, WriteOutage},
        keys::{Claim, Found, Keys},
        link::LinkReport,
        quorum::quorum,
    },
    transport::FencedBy,
    types::{Concern, Epoch, Mode, ModeReason, NodeName, Offset, Status, SyncPolicy},
    views::{
        FencedByHealth, Holders, QuorumHealth, Receipt, SecondaryStatus, WaitReason, WaitingAppend,
        WaitingAppends, WaitingFor,
    },
};

/// State of a master as leader.
#[derive(Debug)]
pub(crate) struct Leader<W> {
    name: NodeName,
    durable: bool,
    max_waiting_appends: usize,
    state: State,
    /// The reason why the recovery can never end by itself, while there is one.
    stuck: Option<String>,
    /// An operator asked for read-only and has not lifted that yet.
    paused: bool,
    stopping: bool,
    epoch: Epoch,
    next: Offset,
    /// The keys of the log up to `next`; absent until leadership begins.
    keys: Option<Keys>,
    acks: Acks<Waiter<W>>,
    /// Batches that are not written yet: their ends and the queued bytes that they hold.
    unwritten: VecDeque<(Offset, usize)>,
    secondaries: Vec<Secondary>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Recovering,
    Serving,
    /// A write was refused: the leader has stepped down, and the next start waits for disk space.
    OutOfSpace,
    Fenced(FencedBy),
    /// The disk has failed for good.
    Failed,
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

/// An append to be admitted.
#[derive(Debug)]
pub(crate) struct NewAppend<W> {
    /// Empty if there is a batch.
    pub(crate) payload: Bytes,
    /// Several messages instead of one.
    pub(crate) batch: Option<Box<MessageBatch>>,
    pub(crate) concern: Concern,
    /// Maximum wait of its caller for the write concern, from its arrival.
    pub(crate) timeout: Option<Duration>,
    pub(crate) arrived: Instant,
    /// The claim of its key: appended once, however often it arrives.
    pub(crate) claim: Option<Claim>,
    /// The only offset at which it may be appended.
    pub(crate) expected_offset: Option<Offset>,
    /// Unique among those that wait.
    pub(crate) waiter: WaiterId,
    pub(crate) caller: W,
}

impl<W> NewAppend<W> {
    /// Returns the number of bytes that it occupies until it is written.
    pub(crate) fn queued_bytes(&self) -> usize {
        match &self.batch {
            None => self.payload.len(),
            Some(batch) => batch.bytes(),
        }
    }

    /// Returns the bytes of its frame, if it is a single message.
    fn encoded_bytes(&self) -> usize {
        let key_bytes = self
            .claim
            .as_ref()
            .map_or(0, |claim| claim.key_bytes().len());
        match &self.batch {
            None => bytes_of(key_bytes, 1, self.payload.len()),
            Some(_) => 0,
        }
    }

    /// Returns how many offsets it takes.
    fn count(&self) -> u64 {
        self.batch.as_ref().map_or(1, |batch| batch.count())
    }
}

/// Position of an append's messages in the log, now or later, and the concern that its caller waits for.
#[derive(Clone, Copy, Debug)]
struct Place {
    concern: u32,
    /// Offset of the first message.
    offset: Offset,
    /// Offset of the last message: a node that holds it holds all of them.
    last: Offset,
    epoch: Epoch,
    /// It is in the log already, from an earlier request with the same key.
    replayed: bool,
}

/// An answer to give.
#[derive(Debug)]
pub(crate) struct Answered<W> {
    pub(crate) caller: W,
    pub(crate) result: Result<Receipt, AppendError>,
}

/// Outcome of admitting a group of appends.
#[derive(Debug)]
pub(crate) struct Admitted<W> {
    /// Batches to write, in order.
    pub(crate) batches: Vec<FrameBatch>,
    /// Refused appends, with the reason.
    pub(crate) refused: Vec<Answered<W>>,
    /// Queued bytes that are not in `batches`: those of refused appends, and of appends that are in the log
    /// already.
    pub(crate) dropped_bytes: usize,
}

impl<W> Leader<W> {
    /// Creates the state of a recovering master; `initial` holds the report of each link before it does
    /// anything.
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
            stuck: None,
            paused: false,
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

    /// Begins leadership of `epoch` after the recovery: takes appends from the end of these keys' log on.
    pub(crate) fn serve(&mut self, epoch: Epoch, keys: Keys) {
        assert_eq!(
            self.state,
            State::Recovering,
            "only a recovering master can become leader"
        );
        assert_eq!(
            self.acks.waiting(),
            0,
            "no append waits before leadership begins"
        );
        (self.state, self.epoch, self.next) = (State::Serving, epoch, keys.end());
        self.acks = Acks::new(self.next, self.secondaries.len());
        self.keys = Some(keys);
    }

    /// Sets the reason why the recovery can never end by itself, or clears it.
    pub(crate) fn set_stuck(&mut self, stuck: Option<String>) {
        self.stuck = stuck;
    }

    /// Returns mode, reason and numbers at `now`, on this disk.
    pub(crate) fn mode(&self, now: Instant, disk: &DiskSpace) -> ModeState {
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
                    Some(detail) => format!("it cannot recover by itself: {detail}"),
                    None => format!(
                        "it is agreeing on an epoch with the other nodes ({needed} of {nodes} with an intact \
                         log must answer) and reading the keys of its log"
                    ),
                },
            ),
            State::OutOfSpace => (
                Mode::Recovering,
                Some(ModeReason::Storage),
                disk.outage()
                    .map_or_else(String::new, WriteOutage::describe),
            ),
            State::Fenced(by) => (Mode::ReadOnly, Some(ModeReason::Fenced), by.describe()),
            State::Failed => (
                Mode::ReadOnly,
                Some(ModeReason::Storage),
                disk.failure()
                    .map_or_else(String::new, |detail| format!("its disk failed: {detail}")),
            ),
            // Checked before the quorum, whose numbers are reported as well: a reader learns of both, and that
            // a quorum alone would not be enough.
            State::Serving if self.paused => (
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

    /// Gives offsets to the appends that may have one, and encodes them. Drains `appends`.
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        wall_ms: u64,
        disk: &DiskSpace,
        appends: &mut Vec<NewAppend<W>>,
    ) -> Admitted<W> {
        let mut admitted = Admitted {
            batches: Vec::new(),
            refused: Vec::new(),
            dropped_bytes: 0,
        };
        let closed = self.refusal(now, disk);
        let encoded_bytes: usize = appends.iter().map(NewAppend::encoded_bytes).sum();
        let mut buffer = BytesMut::with_capacity(encoded_bytes.min(2 * BATCH_BYTES_MAX));
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
                let frame = self.stamp(wall_ms, *batch, append.claim.as_ref());
                admitted.batches.push(frame);
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

    /// Pauses appends at an operator's request: no append gets an offset, in any epoch of this process, until
    /// [`Leader::resume_appends`]. Appends that have an offset go on waiting.
    pub(crate) fn pause_appends(&mut self) {
        self.paused = true;
    }

    /// Lifts the operator's request, and no other reason for read-only.
    pub(crate) fn resume_appends(&mut self) {
        self.paused = false;
    }

    /// Notes that the writer has written up to `end`. Returns how many payload bytes are no longer queued.
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

    /// Notes that the master's own log is durable up to `end`.
    pub(crate) fn on_durable(&mut self, end: Offset) {
        self.acks.on_own_end(end);
    }

    /// Sets all ranges that are missing from the master's own log.
    pub(crate) fn on_own_holes(&mut self, holes: &[Range<Offset>]) {
        self.acks.on_own_holes(holes.to_vec());
    }

    /// Takes over a link's report.
    pub(crate) fn on_report(&mut self, secondary: usize, report: LinkReport) {
        // An end that counted in an earlier epoch of this master says nothing in this one.
        let counts = self.may_be_lost() && report.epoch == Some(self.epoch);
        let counted = report.counted.filter(|_| counts);
        self.acks.on_end(secondary, counted);
        self.secondaries[secondary].report = report;
    }

    /// Returns the ends of the secondaries that are intact and aligned in this epoch.
    pub(crate) fn intact_ends(&self) -> Vec<Offset> {
        let reports = self.secondaries.iter().map(|secondary| &secondary.report);
        reports
            .filter(|report| report.intact && report.epoch == Some(self.epoch))
            .filter_map(|report| report.durable_end)
            .collect()
    }

    /// Takes over keys that were read again after unreadable records were repaired.
    pub(crate) fn on_keys_read_again(&mut self, mut keys: Keys) {
        if let Some(known) = &self.keys {
            keys.catch_up(known);
            self.keys = Some(keys);
        }
    }

    /// Steps down to start a new epoch. Every waiting append is answered with outcome `unknown`.
    pub(crate) fn become_recovering(&mut self, now: Instant, disk: &DiskSpace) -> Vec<Answered<W>> {
        if self.state != State::Serving {
            return Vec::new();
        }
        self.state = State::Recovering;
        let state = Box::new(self.mode(now, disk));
        let answered = self.fail_waiting(|offset| AppendError::ReadOnly {
            state: state.clone(),
            offset: Some(offset),
        });
        self.acks = Acks::new(Offset::ZERO, self.secondaries.len());
        answered
    }

    /// Removes and answers the appends that are due at `now`: concern met, or time up.
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

    /// Drops a waiter whose caller is gone. Its message stays in the log.
    pub(crate) fn forget(&mut self, waiter: WaiterId) {
        self.acks.forget(waiter);
    }

    /// Becomes fenced by another leader. Every waiting append is answered with outcome `unknown`.
    pub(crate) fn become_fenced(
        &mut self,
        now: Instant,
        disk: &DiskSpace,
        by: FencedBy,
    ) -> Vec<Answered<W>> {
        self.state = State::Fenced(by);
        let state = Box::new(self.mode(now, disk));
        self.fail_waiting(|offset| AppendError::ReadOnly {
            state: state.clone(),
            offset: Some(offset),
        })
    }

    /// Steps down after a refused write, with this error, the log ending at `end` and offsets given out beyond it. Every
    /// waiting append is answered with outcome `unknown`, and a new epoch begins once there is disk space. Also
    /// returns how many payload bytes are no longer queued.
    pub(crate) fn become_out_of_space(
        &mut self,
        end: Offset,
        detail: &Arc<str>,
    ) -> (Vec<Answered<W>>, usize) {
        if !matches!(self.state, State::Fenced(_)) {
            self.state = State::OutOfSpace;
        }
        self.next = end;
        let freed = self.unwritten.drain(..).map(|(_, bytes)| bytes).sum();
        let answered = self.fail_waiting(|offset| AppendError::Storage {
            detail: detail.clone(),
            offset: Some(offset),
        });
        (answered, freed)
    }

    /// Notes that there is disk space again. Returns true if the master must go through its start.
    pub(crate) fn on_resumed(&mut self) -> bool {
        let was_out = self.state == State::OutOfSpace;
        if was_out {
            self.state = State::Recovering;
            // Committed is not known until a majority has the next log epoch.
            self.acks = Acks::new(Offset::ZERO, self.secondaries.len());
        }
        was_out
    }

    /// Handles a permanent disk failure, with this error.
    pub(crate) fn become_failed(&mut self, detail: &Arc<str>) -> Vec<Answered<W>> {
        self.state = State::Failed;
        self.fail_waiting(|offset| AppendError::Storage {
            detail: detail.clone(),
            offset: Some(offset),
        })
    }

    /// Stops the leader: every waiting append is answered with [`AppendError::Stopping`].
    pub(crate) fn become_stopping(&mut self) -> Vec<Answered<W>> {
        self.stopping = true;
        self.fail_waiting(|offset| AppendError::Stopping {
            offset: Some(offset),
        })
    }

    /// Returns when [`Leader::settle`] has something to do even if nothing happens.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        // The mode follows from statuses, which change with time alone.
        let statuses = self
            .secondaries
            .iter()
            .filter_map(|s| s.report.health.next_deadline(now));
        self.acks.next_deadline().into_iter().chain(statuses).min()
    }

    /// Reports whether this master leads its epoch: the recovery is done and no other master has taken over
    /// since.
    pub(crate) fn is_serving(&self) -> bool {
        self.state == State::Serving
    }

    /// Reports whether there is a leadership that another master may have taken over.
    pub(crate) fn may_be_lost(&self) -> bool {
        matches!(self.state, State::Serving | State::OutOfSpace)
    }

    /// Returns the epoch that this master leads.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Returns the offset that the next record gets.
    pub(crate) fn next_offset(&self) -> Offset {
        self.next
    }

    /// Returns the end of what a majority holds (high watermark); `None` until known.
    pub(crate) fn committed(&self) -> Option<Offset> {
        self.acks.committed()
    }

    /// Returns the keys of its log; `None` until leadership begins.
    pub(crate) fn keys(&self) -> Option<&Keys> {
        self.keys.as_ref()
    }

    /// Returns how many appends wait.
    pub(crate) fn waiting(&self) -> usize {
        self.acks.waiting()
    }

    /// Returns how long the longest-waiting append has waited. Examines all of them: a retry with a key, or a
    /// wait for a record appended before, may arrive last and wait for the lowest offset.
    pub(crate) fn oldest_waiting(&self, now: Instant) -> Option<Duration> {
        let arrived = self.acks.waiters().map(|waiter| waiter.arrived).min()?;
        Some(now.saturating_duration_since(arrived))
    }

    /// Returns the leader that fenced this master, if one did.
    pub(crate) fn fenced_by(&self) -> Option<FencedByHealth> {
        match &self.state {
            State::Fenced(by) => Some(FencedByHealth {
                name: by.name.clone(),
                instance: by.instance,
                epoch: by.epoch,
            }),
            State::Recovering | State::Serving | State::OutOfSpace | State::Failed => None,
        }
    }

    /// Returns the quorum's numbers.
    pub(crate) fn quorum(&self, now: Instant) -> QuorumHealth {
        quorum(
            self.secondaries
                .iter()
                .map(|secondary| secondary.report.health.status(now)),
        )
    }

    /// Returns the current status of the secondaries.
    pub(crate) fn secondaries(&self, now: Instant, next: Offset) -> Vec<SecondaryStatus> {
        let status = |secondary: &Secondary| {
            let status = secondary.status(now, next);
            match self.state {
                // Nodes are no longer contacted, so silence says nothing about them.
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

    /// Returns which nodes hold `offset`, and why the others do not.
    pub(crate) fn holders(&self, now: Instant, offset: Offset) -> Holders {
        Views::default().of(self, self.acks.holders(offset), offset, now)
    }

    /// Returns the oldest `limit` of the waiting appends.
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

    /// Returns why no append is admitted, if none is.
    fn refusal(&self, now: Instant, disk: &DiskSpace) -> Option<AppendError> {
        if self.stopping {
            return Some(AppendError::Stopping { offset: None });
        }
        if let Some(detail) = disk.refusal() {
            return Some(AppendError::Storage {
                detail: detail.clone(),
                offset: None,
            });
        }
        let state = self.mode(now, disk);
        (state.mode != Mode::ReadWrite).then(|| AppendError::ReadOnly {
            state: Box::new(state),
            offset: None,
        })
    }

    /// Returns the place of the append's messages, now or later, if it may have one: its key decides first,
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
                // The same payloads are the same number of messages.
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

    /// Returns offset and epoch of the record that has this key, if there is one.
    fn look_up(
        &self,
        claim: &Claim,
        closed: Option<&AppendError>,
    ) -> Result<Option<(Offset, Epoch)>, AppendError> {
        // Without disk space, some keys may be of records that were never written, or were written just far enough
        // for a start to find them: the contents of the log are known only after the recovery.
        let keys = self
            .keys
            .as_ref()
            .filter(|_| !matches!(self.state, State::Recovering | State::OutOfSpace));
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
            None => closed
                .cloned()
                .expect("a leader without keys does not serve"),
        };
        let refusal = Box::new(refusal);
        Err(AppendError::Unsettled {
            refusal,
            offset: None,
        })
    }

    /// Checks that an append may wait for a record that is in the log already. Nothing is appended for it, so a
    /// missing quorum is no reason against it; but waits that can never complete are refused.
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

    /// Refuses a keyed batch with more messages than the key horizon. A key is remembered by its first record, so
    /// the key of such a batch would be forgotten at once, and a retry appended again.
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

    /// Gives the next offset to an append and encodes it.
    fn encode(&mut self, wall_ms: u64, append: &NewAppend<W>, into: &mut BytesMut) {
        let claim = append.claim.as_ref();
        let fields = FrameFields {
            first: self.next,
            epoch: self.epoch,
            timestamp_ms: wall_ms,
            key: claim.map_or(b"", Claim::key_bytes),
        };
        fields.encode(&[&append.payload], into);
        self.next = self.next.plus(1);
        let keys = self.keys.as_mut().expect("a serving leader has the keys");
        keys.push(self.epoch, claim);
        debug_assert_eq!(keys.end(), self.next, "keys of another log");
    }

    /// Gives the next offsets to the messages of a batch.
    fn stamp(&mut self, wall_ms: u64, batch: MessageBatch, claim: Option<&Claim>) -> FrameBatch {
        let frame = batch.stamp(self.next, self.epoch, wall_ms);
        self.next = frame.end();
        self.unwritten.push_back((frame.end(), frame.bytes().len()));
        let keys = self.keys.as_mut().expect("a serving leader has the keys");
        keys.push_append(self.epoch, claim, frame.count());
        debug_assert_eq!(keys.end(), self.next, "keys of another log");
        frame
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

    fn batch(&mut self, first: Offset, buffer: &mut BytesMut, payload_bytes: usize) -> FrameBatch {
        self.unwritten.push_back((self.next, payload_bytes));
        FrameBatch::encoded_here(first, self.next, self.epoch, buffer.split().freeze())
    }

    fn fail_waiting(&mut self, error: impl Fn(Offset) -> AppendError) -> Vec<Answered<W>> {
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

/// Returns the last of `count` offsets from `first` on.
fn last_of(first: Offset, count: u64) -> Offset {
    assert!(count > 0, "an append without a message at {first}");
    first.plus(count - 1)
}

/// Returns the concern under which an append is queued: one that does not wait for other nodes waits for the
/// master alone.
fn queue_of(concern: u32, timeout: Option<Duration>) -> u32 {
    if timeout == Some(Duration::ZERO) {
        1
    } else {
        concern
    }
}

/// Returns until when an append waits for its concern; `None`: for ever, or not at all.
fn deadline_of(timeout: Option<Duration>, arrived: Instant) -> Option<Instant> {
    let timeout = timeout.filter(|timeout| !timeout.is_zero())?;
    arrived.checked_add(timeout)
}

/// Lists of holders, built once for all messages that would get the same ones.
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
    /// Returns a bit for each secondary to which `offset` may be in flight.
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

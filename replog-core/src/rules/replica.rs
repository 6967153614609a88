//! A secondary: its promises, the alignment of its log, the records it takes and the answers it gives.
//!
//! Owns the reorder buffer, the conversation with the master, and the answers that wait for a disk; what its disk holds
//! and is about to hold is in [`Durable`]. Never writes or answers itself: it returns what to do, and the log writer
//! reports back. Keeps rules 1, 2, 3, 5, 9 and 11.
//!
//! Everything that changes the log or the meta goes through the one queue of the log writer, in the order of
//! the decisions: a promise is answered after every write before it, and nothing of an older epoch is written
//! after it.

use std::collections::{BTreeSet, VecDeque};

use tokio::time::Instant;

use crate::{
    address::NodeUrl,
    frame::FrameBatch,
    limits::{EPOCH_STARTS_MAX, PARKED_ANSWERS_MAX},
    log::{Cut, Meta},
    rules::{
        alignment::{Agreement, Outline, agreement},
        bounds,
        disk_space::WriteOutage,
        durable::{Durable, OwnLog, Save, StagedPromise, Ticket},
        reorder::{Offered, Reorder},
    },
    transport::{
        Aligned, Answer, Append, Fetch, Hello, Identity, MasterContact, NodeState, Progress,
        Promised, Refusal, Request, RequestBody, Response,
    },
    types::{ClusterId, Epoch, EpochStart, Incarnation, NodeName, Offset},
};

/// Facts about the written log, without what is queued, that a replica needs besides the writer's reports.
pub(crate) trait LogFacts {
    /// Returns the newest pairs, ascending.
    fn epoch_starts(&self, limit: usize) -> Vec<EpochStart>;
    /// Returns the epoch of a record, as far as it is known without reading files.
    fn epoch_at(&self, offset: Offset) -> Option<Epoch>;
    /// Returns the offset after the last record, with or without holes before it.
    fn end(&self) -> Offset;
}

/// Identifies a request until it is answered.
pub(crate) type RequestId = u64;

/// State of a secondary.
#[derive(Debug)]
pub(crate) struct Replica {
    /// The contents of its disk, now and soon, with the continuations for the writer's reports of saves and cuts.
    durable: Durable<Continuation>,
    reorder: Reorder,
    /// The hello whose alignment is in progress.
    handshake: Option<Handshake>,
    /// The epoch for which the log is aligned in this start.
    aligned: Option<Alignment>,
    refill_target: Option<Offset>,
    committed: Option<Offset>,
    /// Answers that wait until records below an end are durable.
    parked: BTreeSet<(Offset, RequestId)>,
    /// Answers that wait until the log epoch is saved.
    held_answers: Vec<(RequestId, Answer)>,
    intact_save: Option<Epoch>,
    /// The master's URL for clients, as the master gave it.
    master_url: Option<NodeUrl>,
    /// This node's URL for clients.
    public_url: Option<NodeUrl>,
    last_contact: Option<Instant>,
    /// The offset up to which this node, since it started, has held the log and known it to be committed, in
    /// any epoch.
    known_committed: Offset,
    /// Count of requests that made no sense.
    malformed: u64,
    /// Recent refusals by sender, each published once.
    published_refusals: VecDeque<(NodeName, Refusal)>,
    cut_records: u64,
    out: Vec<ReplicaAction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Alignment {
    epoch: Epoch,
    adopted_end: Offset,
}

/// A hello in progress: promise saved, log compared, log cut. A repeated hello joins it; otherwise a slow disk
/// and an eager master would start over for ever.
#[derive(Debug)]
struct Handshake {
    /// The ticket of the save that it began with.
    serial: Ticket,
    epoch: Epoch,
    requests: Vec<RequestId>,
}

/// Known part of this node's epoch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnStarts {
    /// The newest ones, in memory.
    Newest,
    /// All that can be read.
    All,
}

/// Continuation after a report of the writer.
#[derive(Debug)]
enum Continuation {
    /// A promise is durable: answer everyone who asked for it meanwhile.
    AnswerPromise {
        requests: Vec<RequestId>,
        epoch: Epoch,
    },
    /// The promise was raised part of the way to the requested epoch.
    AskAgain { request: RequestId },
    /// The promise of a hello, and every write before it, is durable: align.
    Align { serial: Ticket, hello: Box<Hello> },
    /// The log was cut to agree with the master's.
    Cut {
        serial: Ticket,
        adopted_end: Offset,
        forced: Option<Epoch>,
    },
    /// The log epoch is durable.
    Intact,
    /// The meta that marks the log as damaged is durable.
    Damaged,
}

/// Steps for the actor to carry out, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReplicaAction {
    /// Send this answer.
    Answer {
        request: RequestId,
        response: Response,
    },
    /// Hand these records to the writer.
    Write(FrameBatch),
    /// Save this meta and report with the ticket.
    Save(Save),
    /// Quarantine the records that are about to be cut because of a hello of this epoch.
    Quarantine { from: Offset, epoch: Epoch },
    /// Cut the log and report with the ticket.
    Truncate { ticket: Ticket, to: Offset },
    /// Read records for a recovery, then answer with them.
    Fetch {
        request: RequestId,
        fetch: Fetch,
        response: Response,
    },
    /// Read this node's epoch starts below an offset and call [`Replica::on_older_starts`].
    ReadStarts {
        serial: u64,
        hello: Box<Hello>,
        before: Offset,
    },
    /// Read the segment of this record through, and call [`Replica::on_inspected`].
    Inspect { offset: Offset },
    /// Check whether the disk accepts writes again.
    Resume,
    /// A change that is worth a line in the log.
    Changed(ReplicaChange),
}

/// A change that is worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReplicaChange {
    Joined {
        cluster: ClusterId,
    },
    Promised {
        epoch: Epoch,
        master: NodeName,
    },
    Cut {
        cut: Cut,
        /// The epoch of the forced recovery that caused the cut, if one did.
        forced: Option<Epoch>,
    },
    Aligned {
        epoch: Epoch,
        end: Offset,
    },
    Intact {
        epoch: Epoch,
        end: Offset,
    },
    /// A sender that should not be sending here was refused.
    Refused {
        from: NodeName,
        refusal: Refusal,
    },
    OutOfSpace(WriteOutage),
    Resumed {
        end: Offset,
    },
    /// A record cannot be read.
    Damaged {
        offset: Offset,
    },
}

impl Replica {
    /// Starts from the contents of the directory; `meta` is durable and contains this start's number.
    pub(crate) fn new(meta: Meta, own: OwnLog) -> Replica {
        Replica {
            durable: Durable::new(meta, own),
            reorder: Reorder::new(own.whole_end),
            handshake: None,
            aligned: None,
            refill_target: None,
            committed: None,
            parked: BTreeSet::new(),
            held_answers: Vec::new(),
            intact_save: None,
            master_url: None,
            public_url: None,
            last_contact: None,
            known_committed: Offset::ZERO,
            malformed: 0,
            published_refusals: VecDeque::new(),
            cut_records: 0,
            out: Vec::new(),
        }
    }

    /// Sets the URL at which clients reach this node.
    pub(crate) fn reached_at(self, public_url: Option<NodeUrl>) -> Replica {
        Replica { public_url, ..self }
    }

    /// Takes the pending actions.
    pub(crate) fn take_actions(&mut self) -> Vec<ReplicaAction> {
        #[cfg(any(debug_assertions, test, feature = "sim"))]
        self.durable.check();
        std::mem::take(&mut self.out)
    }

    /// Handles a request.
    pub(crate) fn on_request(
        &mut self,
        now: Instant,
        request: RequestId,
        message: Request,
        log: &impl LogFacts,
    ) {
        let from = message.from.clone();
        if let Err(refusal) = self.on_message(now, request, message, log) {
            self.malformed += u64::from(matches!(refusal, Refusal::Malformed { .. }));
            self.publish_refusal(from, &refusal);
            self.answer(request, Answer::Refused(refusal));
        }
    }

    /// Notes that everything below `end` is held.
    pub(crate) fn on_durable(&mut self, end: Offset) {
        self.hold(end);
        self.settle();
    }

    /// Notes that the log is held up to `end`. After a hole was filled, that may be further than what was offered:
    /// the records behind the hole were already there.
    fn hold(&mut self, end: Offset) {
        self.durable.on_durable(end);
        let released = self.reorder.skip_to(self.durable.whole_end());
        self.out
            .extend(released.into_iter().map(ReplicaAction::Write));
    }

    /// Continues after a save, which is durable with every record before it.
    pub(crate) fn on_saved(&mut self, ticket: Ticket, durable_end: Offset, log: &impl LogFacts) {
        self.hold(durable_end);
        match self.durable.on_saved(ticket) {
            Continuation::AnswerPromise { requests, epoch } => {
                let answer = self.answer_to_promise(epoch, log);
                for request in requests {
                    self.answer(request, answer.clone());
                }
            }
            Continuation::AskAgain { request } => {
                self.answer(request, Answer::Refused(Refusal::HelloFirst));
            }
            Continuation::Align { serial, hello } => {
                let own = Outline {
                    starts: &log.epoch_starts(usize::MAX),
                    end: log.end(),
                };
                self.align(serial, hello, own, OwnStarts::Newest);
            }
            // Requests in flight do not know of the damage: they are meant for the incarnation before.
            Continuation::Damaged => {}
            Continuation::Intact => {
                self.intact_save = None;
                if let Some(epoch) = self.durable.saved().log_epoch {
                    let end = self.durable.whole_end();
                    self.changed(ReplicaChange::Intact { epoch, end });
                }
            }
            Continuation::Cut { .. } => panic!("ticket {ticket} was a cut, not a save"),
        }
        self.settle();
    }

    /// Continues after a cut, which is durable.
    pub(crate) fn on_truncated(&mut self, ticket: Ticket, cut: Cut) {
        let Continuation::Cut {
            serial,
            adopted_end,
            forced,
        } = self.durable.on_cut(ticket, cut.from)
        else {
            panic!("ticket {ticket} was a save, not a cut");
        };
        self.reorder.reset(self.durable.whole_end());
        self.cut_records += cut.records;
        self.known_committed = self.known_committed.min(cut.from);
        self.changed(ReplicaChange::Cut { cut, forced });
        self.become_aligned(serial, adopted_end, cut.records);
        self.settle();
    }

    /// Continues an alignment with this node's epoch starts, from below the offset that
    /// [`ReplicaAction::ReadStarts`] named up to the newest; empty if they could not be read.
    pub(crate) fn on_older_starts(
        &mut self,
        serial: u64,
        hello: Box<Hello>,
        starts: &[EpochStart],
        log: &impl LogFacts,
    ) {
        if starts.is_empty() {
            let detail = "the epochs of this node's log cannot be read".to_owned();
            self.answer_handshake(serial, &Answer::Refused(Refusal::Storage { detail }));
        } else {
            let own = Outline {
                starts,
                end: log.end(),
            };
            self.align(serial, hello, own, OwnStarts::All);
        }
        self.settle();
    }

    /// Handles the failure of the disk: nothing more is written or acknowledged.
    pub(crate) fn on_failed(&mut self, detail: &str) {
        self.durable.on_failed(detail.into());
        let detail = detail.to_owned();
        self.refuse_waiting(&Refusal::Storage { detail });
    }

    /// Returns the durable meta.
    pub(crate) fn meta(&self) -> &Meta {
        self.durable.saved()
    }

    /// Returns the offset after the last record that a majority holds, as far as this epoch's master said;
    /// never more than this node holds.
    pub(crate) fn committed(&self) -> Option<Offset> {
        self.committed
            .map(|committed| committed.min(self.durable.whole_end()))
    }

    /// Returns [`Replica::committed`] as the master said it, for readers, who see no more than this node holds
    /// anyway.
    pub(crate) fn leader_committed(&self) -> Option<Offset> {
        self.committed
    }

    /// Returns the first missing offset and how many records wait behind it, if any do.
    pub(crate) fn gap(&self) -> Option<(Offset, u64)> {
        let records = self.reorder.held_records();
        (records > 0).then_some((self.reorder.end(), records))
    }

    /// Returns how many requests were refused because they made no sense.
    pub(crate) fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Returns how many bytes wait behind a gap.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.reorder.held_bytes()
    }

    /// Returns the newest state of the log. Records that are about to be cut no longer count as held: an answer
    /// may leave after the cut and before its report.
    pub(crate) fn state(&self) -> NodeState {
        NodeState {
            durable_end: self.durable.whole_end_after_cuts(),
            log_epoch: self.durable.saved().log_epoch,
            promised: self.durable.durable_epoch(),
            buffered: self.reorder.held_records(),
        }
    }

    /// Returns the URL at which clients reach the master, if it gave one.
    pub(crate) fn master_url(&self) -> Option<&NodeUrl> {
        self.master_url.as_ref()
    }

    /// Returns when the master was last heard from.
    pub(crate) fn last_contact(&self) -> Option<Instant> {
        self.last_contact
    }

    /// Returns the master it has heard since it started, and how long ago.
    fn master_contact(&self, now: Instant) -> Option<MasterContact> {
        let (heard, promised) = (self.last_contact?, self.durable.promised()?);
        let elapsed = now.saturating_duration_since(heard);
        Some(MasterContact {
            name: promised.name.clone(),
            instance: promised.instance,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn on_message(
        &mut self,
        now: Instant,
        request: RequestId,
        message: Request,
        log: &impl LogFacts,
    ) -> Result<(), Refusal> {
        self.durable.check_identity(&message)?;
        if let Some(detail) = self.durable.disk_space().failure() {
            return Err(Refusal::Storage {
                detail: detail.to_string(),
            });
        }
        if let Err(detail) = bounds::check_request(&message) {
            return Err(self.refuse_malformed(&message, detail));
        }
        match message.body {
            RequestBody::Identify => {
                let nodes = match &self.durable.saved().cluster {
                    Some(cluster) => cluster.nodes.clone(),
                    None => Vec::new(),
                };
                let master = self.master_contact(now);
                self.answer(request, Answer::Identity(Identity { nodes, master }));
                Ok(())
            }
            RequestBody::Promise(ref promise) => {
                self.durable
                    .check_promise(&message, &promise.nodes, promise.log_epoch)?;
                self.last_contact = Some(now);
                self.check_disk_space()?;
                if let Some(part) = self.durable.partial_epoch(message.epoch) {
                    return self.raise_to(part, request, &message, &promise.nodes);
                }
                self.stage_promise(&message, message.epoch, &promise.nodes)?;
                // A repeated promise request joins one in progress; otherwise a slow disk and an eager master
                // would wait for ever.
                if let Some(Continuation::AnswerPromise { requests, .. }) = self.durable.last_save()
                    && requests.len() < PARKED_ANSWERS_MAX
                {
                    requests.push(request);
                    return Ok(());
                }
                self.save(Continuation::AnswerPromise {
                    requests: vec![request],
                    epoch: message.epoch,
                });
                Ok(())
            }
            RequestBody::Hello(ref hello) => {
                self.durable
                    .check_promise(&message, &hello.nodes, hello.log_epoch)?;
                self.last_contact = Some(now);
                self.check_disk_space()?;
                if let Some(part) = self.durable.partial_epoch(message.epoch) {
                    return self.raise_to(part, request, &message, &hello.nodes);
                }
                self.on_hello(request, &message, hello)
            }
            RequestBody::Heartbeat(progress) => {
                self.check_conversation(&message, progress.to_incarnation)?;
                self.last_contact = Some(now);
                self.check_disk_space()?;
                self.take_progress(progress)?;
                self.held_answers.push((request, Answer::Taken));
                self.settle();
                Ok(())
            }
            RequestBody::Append(ref append) => {
                self.check_conversation(&message, append.progress.to_incarnation)?;
                self.last_contact = Some(now);
                self.check_disk_space()?;
                self.take_progress(append.progress)?;
                self.on_append(request, &message, append, log)
            }
            RequestBody::Fetch(fetch) => {
                self.check_conversation(&message, fetch.to_incarnation)?;
                self.last_contact = Some(now);
                let response = self.response(Answer::Taken);
                self.out.push(ReplicaAction::Fetch {
                    request,
                    fetch,
                    response,
                });
                Ok(())
            }
        }
    }

    /// Checks that the message is of the promised epoch and meant for this incarnation.
    fn check_conversation(&self, message: &Request, to: Incarnation) -> Result<(), Refusal> {
        self.durable.check_epoch(message)?;
        if message.cluster.is_none() {
            return Err(Refusal::WrongCluster);
        }
        if to != self.durable.incarnation() {
            return Err(Refusal::WrongIncarnation);
        }
        Ok(())
    }

    /// Refuses a request that makes no sense. If its sender is in conversation with this node, that
    /// conversation ends; a new hello can begin another.
    fn refuse_malformed(&mut self, message: &Request, detail: String) -> Refusal {
        if self.durable.check_epoch(message).is_ok() {
            self.end_conversation(&Refusal::HelloFirst);
        }
        Refusal::Malformed { detail }
    }

    /// Raises the promise part of the way to what the sender asked for; the sender then asks again. Promising
    /// it an epoch older than its own is safe: this takes away nothing that promising its own epoch would
    /// leave.
    fn raise_to(
        &mut self,
        part: Epoch,
        request: RequestId,
        message: &Request,
        nodes: &[NodeName],
    ) -> Result<(), Refusal> {
        self.stage_promise(message, part, nodes)?;
        self.save(Continuation::AskAgain { request });
        Ok(())
    }

    /// Adds the promise of `epoch` to what will be saved; a new epoch ends the old one's conversation.
    fn stage_promise(
        &mut self,
        message: &Request,
        epoch: Epoch,
        nodes: &[NodeName],
    ) -> Result<(), Refusal> {
        let StagedPromise { joined, raised } = self.durable.stage_promise(message, epoch, nodes)?;
        if let Some(cluster) = joined {
            self.changed(ReplicaChange::Joined { cluster });
        }
        if raised {
            let master = message.from.clone();
            self.changed(ReplicaChange::Promised { epoch, master });
            self.end_conversation(&Refusal::HelloFirst);
            self.known_committed = self.known_to_be_committed();
            self.committed = None;
        }
        Ok(())
    }

    /// Drops what waits behind a gap and refuses every request that waits for it.
    fn end_conversation(&mut self, refusal: &Refusal) {
        self.aligned = None;
        self.refill_target = None;
        self.reorder.reset(self.reorder.end());
        if let Some(serial) = self.handshake.as_ref().map(|handshake| handshake.serial) {
            self.answer_handshake(serial, &Answer::Refused(refusal.clone()));
        }
        self.refuse_waiting(refusal);
    }

    /// Refuses every answer that waits for a disk.
    fn refuse_waiting(&mut self, refusal: &Refusal) {
        let waiting: Vec<RequestId> = self.parked.iter().map(|(_, request)| *request).collect();
        self.parked.clear();
        let held = std::mem::take(&mut self.held_answers);
        for request in waiting
            .into_iter()
            .chain(held.into_iter().map(|(request, _)| request))
        {
            self.answer(request, Answer::Refused(refusal.clone()));
        }
    }

    fn on_hello(
        &mut self,
        request: RequestId,
        message: &Request,
        hello: &Hello,
    ) -> Result<(), Refusal> {
        let again = self
            .aligned
            .is_some_and(|aligned| aligned.epoch == message.epoch);
        let is_settled = again && self.durable.saved().log_epoch == Some(message.epoch);
        let given_up_from = match is_settled {
            true => None,
            false => self.check_committed(hello)?,
        };
        self.stage_promise(message, message.epoch, &hello.nodes)?;
        if let Some(from) = given_up_from {
            self.known_committed = from;
        }
        self.durable.stage_forced_epoch(hello.forced_epoch);
        self.master_url.clone_from(&hello.public_url);
        if is_settled {
            // Aligned, and the log epoch is the sender's: nothing is cut any more.
            let cut_records = 0;
            self.answer(request, self.aligned_answer(cut_records));
            return Ok(());
        }
        if let Some(handshake) = &mut self.handshake
            && handshake.epoch == message.epoch
            && handshake.requests.len() < PARKED_ANSWERS_MAX
        {
            handshake.requests.push(request);
            return Ok(());
        }
        self.end_conversation(&Refusal::HelloFirst);
        let serial = self.durable.next_ticket();
        self.handshake = Some(Handshake {
            serial,
            epoch: message.epoch,
            requests: vec![request],
        });
        self.save(Continuation::Align {
            serial,
            hello: Box::new(hello.clone()),
        });
        Ok(())
    }

    fn aligned_answer(&self, cut_records: u64) -> Answer {
        Answer::Aligned(Aligned {
            cut_records,
            public_url: self.public_url.clone(),
        })
    }

    /// Checks that the hello keeps what this node holds and knows to be committed. A correct recovery has
    /// adopted all of that, unless one was forced since: then it is given up from the returned offset on.
    fn check_committed(&self, hello: &Hello) -> Result<Option<Offset>, Refusal> {
        let forced_epoch = self.durable.staged().forced_epoch.max(hello.forced_epoch);
        let committed = self.known_to_be_committed();
        if hello.end >= committed {
            return Ok(None);
        }
        if forced_epoch.is_some() && self.durable.saved().log_epoch < forced_epoch {
            return Ok(Some(hello.end));
        }
        Err(Refusal::BelowCommitted { committed })
    }

    /// Returns the offset up to which this node, since it started, has held the log and knows it to be
    /// committed.
    fn known_to_be_committed(&self) -> Offset {
        self.known_committed
            .max(self.committed().unwrap_or_default())
    }

    /// Cuts the log to where the pairs agree and at most to the master's end, by this node's own comparison,
    /// and never once its log epoch is the sender's.
    ///
    /// Holes in this node's log make no difference: it agrees beyond one only if it agrees about a record
    /// behind it, and a cut within one, or within an append, is made at its beginning.
    fn align(&mut self, serial: Ticket, hello: Box<Hello>, own: Outline<'_>, known: OwnStarts) {
        let Some(handshake) = self
            .handshake
            .as_ref()
            .filter(|known| known.serial == serial)
        else {
            return;
        };
        let epoch = handshake.epoch;
        if self.durable.saved().log_epoch == Some(epoch) {
            self.become_aligned(serial, hello.adopted_end, 0);
            return;
        }
        let own_end = own.end;
        let theirs = Outline {
            starts: &hello.epoch_starts,
            end: hello.epoch_starts_end,
        };
        match agreement(own, theirs) {
            Agreement::OlderNeeded { before } => {
                self.answer_handshake(serial, &Answer::OlderStartsNeeded { before });
            }
            Agreement::OwnOlderNeeded { before } if known == OwnStarts::Newest => {
                self.out.push(ReplicaAction::ReadStarts {
                    serial,
                    hello,
                    before,
                });
            }
            agreement => {
                let end = match agreement {
                    Agreement::Below(end) => end,
                    // The log begins with a hole, and no epoch behind it is the master's.
                    _ => Offset::ZERO,
                };
                let to = end.min(hello.end).min(own_end);
                let adopted_end = hello.adopted_end;
                if to < own_end {
                    self.out.push(ReplicaAction::Quarantine { from: to, epoch });
                    let next = Continuation::Cut {
                        serial,
                        adopted_end,
                        forced: self.forced_since(),
                    };
                    let ticket = self.durable.cut(to, next);
                    self.out.push(ReplicaAction::Truncate { ticket, to });
                } else {
                    self.become_aligned(serial, adopted_end, 0);
                }
            }
        }
    }

    /// Returns the epoch of a forced recovery that this log has not seen yet: what it must cut may have been
    /// acknowledged.
    fn forced_since(&self) -> Option<Epoch> {
        let Meta {
            forced_epoch,
            log_epoch,
            ..
        } = self.durable.saved();
        forced_epoch.filter(|_| log_epoch < forced_epoch)
    }

    fn become_aligned(&mut self, serial: u64, adopted_end: Offset, cut_records: u64) {
        let Some(epoch) = self
            .handshake
            .as_ref()
            .filter(|known| known.serial == serial)
            .map(|known| known.epoch)
        else {
            return;
        };
        self.aligned = Some(Alignment { epoch, adopted_end });
        // Each hello resets the target, in the messages that follow it.
        self.refill_target = None;
        self.changed(ReplicaChange::Aligned {
            epoch,
            end: self.durable.whole_end(),
        });
        self.answer_handshake(serial, &self.aligned_answer(cut_records));
    }

    /// Ends the handshake: a positive answer waits with others for the log epoch.
    fn answer_handshake(&mut self, serial: u64, answer: &Answer) {
        let Some(handshake) = self.handshake.take_if(|known| known.serial == serial) else {
            return;
        };
        for request in handshake.requests {
            match answer {
                Answer::Refused(_) => self.answer(request, answer.clone()),
                _ => self.held_answers.push((request, answer.clone())),
            }
        }
    }

    /// Takes over what the master says about itself, once aligned with it.
    fn take_progress(&mut self, progress: Progress) -> Result<(), Refusal> {
        let epoch = self.durable.promised().map(|promised| promised.epoch);
        if self.aligned.map(|aligned| aligned.epoch) != epoch {
            return Err(Refusal::HelloFirst);
        }
        self.committed = self.committed.max(progress.committed);
        if self.durable.saved().log_epoch.is_none() && progress.refill_target.is_some() {
            self.refill_target = progress.refill_target;
        }
        Ok(())
    }

    fn on_append(
        &mut self,
        request: RequestId,
        message: &Request,
        append: &Append,
        log: &impl LogFacts,
    ) -> Result<(), Refusal> {
        if self.parked.len() >= PARKED_ANSWERS_MAX {
            return Err(Refusal::BeyondWindow);
        }
        let mut end = Offset::ZERO;
        for batch in &append.records {
            self.check_duplicates(batch, log)?;
            if let Err(detail) = self.check_record_epochs(batch, log) {
                return Err(self.refuse_malformed(message, detail));
            }
            end = batch.end();
        }
        for batch in &append.records {
            match self.reorder.offer(batch.clone()) {
                Offered::Continues(batches) => {
                    self.out
                        .extend(batches.into_iter().map(ReplicaAction::Write));
                }
                Offered::Duplicate | Offered::Held => {}
                Offered::BeyondWindow => return Err(Refusal::BeyondWindow),
            }
        }
        self.parked.insert((end, request));
        self.settle();
        Ok(())
    }

    /// Checks records that are held already. A duplicate has the same offset and epoch; another epoch at a held
    /// offset, or an append that this log has in part, means that the logs differ after all.
    fn check_duplicates(&self, batch: &FrameBatch, log: &impl LogFacts) -> Result<(), Refusal> {
        let end = self.reorder.end();
        if batch.splits(end) {
            return Err(Refusal::NotAligned);
        }
        let Some(held) = batch.slice(batch.first(), end) else {
            return Ok(());
        };
        let last = Offset(held.end().0 - 1);
        let ends = [
            (held.first(), held.first_epoch()),
            (last, held.last_epoch()),
        ];
        let same = |(offset, epoch)| log.epoch_at(offset).is_none_or(|own| own == epoch);
        if ends.into_iter().all(same) {
            Ok(())
        } else {
            Err(Refusal::NotAligned)
        }
    }

    /// Checks that the epochs of new records never fall, across the log, the records being written to it, and
    /// those that wait behind a gap.
    fn check_record_epochs(&self, batch: &FrameBatch, log: &impl LogFacts) -> Result<(), String> {
        let end = self.reorder.end();
        let Some(new) = batch.slice(end, batch.end()) else {
            return Ok(());
        };
        let of_log = || log.epoch_at(Offset(end.0.checked_sub(1)?));
        let before = self.reorder.last_epoch().or_else(of_log);
        let (first, epoch) = (new.first(), new.first_epoch());
        if let Some(before) = before.filter(|before| epoch < *before) {
            return Err(format!(
                "a record of epoch {epoch} at {first}, behind one of {before}"
            ));
        }
        if !self.reorder.agrees(&new) {
            return Err(format!("{new:?} contradict others that wait behind a gap"));
        }
        Ok(())
    }

    /// Does what has become possible: takes the log epoch, sends answers whose records are durable.
    fn settle(&mut self) {
        self.take_log_epoch();
        if self.intact_save.is_some() {
            // An end counts only in an answer that names the log epoch: the answers wait for it, rather than
            // make the master wait for the next heartbeat.
            return;
        }
        for (request, answer) in std::mem::take(&mut self.held_answers) {
            self.answer(request, answer);
        }
        while let Some(&(end, request)) = self.parked.first() {
            if end > self.durable.whole_end() {
                break;
            }
            self.parked.remove(&(end, request));
            self.answer(request, Answer::Taken);
        }
    }

    /// Takes the master's epoch as the log epoch, once the log agrees with the master's and covers what the
    /// master had adopted; a log that is not intact must reach its refill target.
    fn take_log_epoch(&mut self) {
        let Some(Alignment { epoch, adopted_end }) = self.aligned else {
            return;
        };
        let own = self.durable.staged().log_epoch;
        if own == Some(epoch) || self.durable.disk_space().failure().is_some() {
            return;
        }
        let needed = match own {
            Some(_) => Some(adopted_end),
            None => self.refill_target.map(|target| target.max(adopted_end)),
        };
        if needed.is_some_and(|needed| self.durable.whole_end() >= needed) {
            self.durable.take_log_epoch(epoch);
            self.intact_save = Some(epoch);
            self.save(Continuation::Intact);
        }
    }

    fn save(&mut self, next: Continuation) {
        let save = self.durable.save(next);
        self.out.push(ReplicaAction::Save(save));
    }

    /// Returns the answer to a promise of `epoch` that is durable: granted, unless a newer one was requested
    /// meanwhile.
    fn answer_to_promise(&self, epoch: Epoch, log: &impl LogFacts) -> Answer {
        if let Some(promised) = self.durable.promised()
            && promised.epoch > epoch
        {
            let by = crate::rules::fence::fenced_by(promised);
            return Answer::Refused(Refusal::Fenced(by));
        }
        let mut epoch_starts = log.epoch_starts(EPOCH_STARTS_MAX);
        // Records behind a hole are not available to other nodes.
        let end = self.state().durable_end;
        epoch_starts.retain(|start| start.first < end);
        Answer::Promised(Promised {
            epoch_starts,
            forced_epoch: self.durable.saved().forced_epoch,
            last_whole: self.durable.saved().last_whole,
        })
    }

    fn changed(&mut self, change: ReplicaChange) {
        self.out.push(ReplicaAction::Changed(change));
    }

    fn answer(&mut self, request: RequestId, answer: Answer) {
        let response = self.response(answer);
        self.out.push(ReplicaAction::Answer { request, response });
    }

    fn response(&self, answer: Answer) -> Response {
        let meta = self.durable.saved();
        Response {
            cluster: meta.cluster.as_ref().map(|cluster| cluster.id),
            name: meta.name.clone(),
            incarnation: self.durable.incarnation(),
            state: self.state(),
            answer,
        }
    }
}

mod damage;
mod trouble;

#[cfg(test)]
mod tests;

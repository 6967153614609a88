//! A node's disk as a simulation needs it: a log, a meta, and the writer's queue.
//!
//! Owns what survives a crash. Commands are carried out in order, one step at a time; a crash between two steps
//! loses everything that was not synced, or a random part of it.

use std::collections::VecDeque;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::{
    frame::FrameBatch,
    log::{Cut, Meta},
    rules::replica::LogFacts,
    types::{Epoch, EpochStart, Offset},
};

/// One record of a log.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) offset: Offset,
    pub(super) epoch: Epoch,
    /// The client's message: no two appends send the same.
    pub(super) id: u64,
    pub(super) batch: FrameBatch,
}

/// Command to the writer.
#[derive(Clone, Debug)]
pub(super) enum Command {
    Append(FrameBatch),
    Truncate { ticket: u64, to: Offset },
    Save { ticket: u64, meta: Box<Meta> },
    Resume,
}

/// Report of the writer.
#[derive(Clone, Debug)]
pub(super) enum Report {
    Written { end: Offset },
    Durable { end: Offset },
    Truncated { ticket: u64, cut: Cut },
    Saved { ticket: u64, durable_end: Offset },
    WriteFailed,
    Resumed { end: Offset },
}

/// A node's directory.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    /// The meta that a restart finds.
    pub(super) meta: Meta,
    pub(super) log: Vec<Entry>,
    /// The count of records that survive a crash.
    pub(super) synced: usize,
    /// The highest promise that was handed to the writer in this run.
    pub(super) promise_asked: Epoch,
    queue: VecDeque<Command>,
    /// The count of writes that still fit; `None` while there is enough space.
    pub(super) disk_space: Option<usize>,
    /// A write was refused: commands are dropped until it resumes.
    refusing: bool,
    /// The end that was last reported as written.
    reported_end: usize,
    /// A planted bug: records that were written without a report are cut on resuming.
    pub(super) cuts_when_resumed: bool,
    /// The snapshot of the log's keys that a stop left.
    pub(super) keys_snapshot: Option<Vec<u8>>,
    /// A planted bug: saves are reported but lost in a crash.
    pub(super) meta_before_crash: Option<Meta>,
}

impl Entry {
    /// Returns the records of a batch, one by one.
    pub(super) fn all_of(batch: &FrameBatch) -> Vec<Entry> {
        batch
            .messages()
            .map(|message| Entry {
                offset: message.offset,
                epoch: message.epoch,
                id: u64::from_be_bytes(message.payload.try_into().expect("eight bytes")),
                batch: batch
                    .slice(message.offset, message.offset.plus(1))
                    .expect("every message is an append of its own"),
            })
            .collect()
    }

    /// Returns the values that identify the same record on two nodes.
    pub(super) fn identity(&self) -> (Epoch, u64) {
        (self.epoch, self.id)
    }
}

impl Disk {
    pub(super) fn new(meta: Meta) -> Disk {
        Disk {
            meta,
            log: Vec::new(),
            synced: 0,
            promise_asked: Epoch(0),
            queue: VecDeque::new(),
            disk_space: None,
            refusing: false,
            reported_end: 0,
            cuts_when_resumed: false,
            keys_snapshot: None,
            meta_before_crash: None,
        }
    }

    pub(super) fn submit(&mut self, command: Command) {
        if let Command::Save { meta, .. } = &command {
            let promised = meta.promised.as_ref().map_or(Epoch(0), |p| p.epoch);
            self.promise_asked = self.promise_asked.max(promised);
        }
        self.queue.push_back(command);
    }

    /// Reports whether there is another step to do.
    pub(super) fn is_busy(&self) -> bool {
        (self.synced < self.log.len() && !self.refusing) || !self.queue.is_empty()
    }

    /// Does one step: a sync, a group of writes, a cut, or a save.
    pub(super) fn step(&mut self, group_max: usize) -> (Option<Report>, Vec<Entry>) {
        if self.refusing {
            return (self.drop_or_resume(), Vec::new());
        }
        if self.synced < self.log.len() {
            self.synced = self.log.len();
            let end = self.written_end();
            return (Some(Report::Durable { end }), Vec::new());
        }
        let mut written = Vec::new();
        while let Some(Command::Append(batch)) = self.queue.front() {
            if !written.is_empty() && written.len() >= group_max {
                break;
            }
            written.extend(Entry::all_of(batch));
            self.queue.pop_front();
        }
        if !written.is_empty() {
            if self.takes(written.len()) < written.len() {
                // Complete records may be in the log without a report: those of an earlier segment.
                written.truncate(self.disk_space.replace(0).unwrap_or(0));
                self.log.extend(written.iter().cloned());
                self.refusing = true;
                return (Some(Report::WriteFailed), written);
            }
            self.log.extend(written.iter().cloned());
            self.reported_end = self.log.len();
            let end = self.written_end();
            return (Some(Report::Written { end }), written);
        }
        let Some(command) = self.queue.pop_front() else {
            return (None, Vec::new());
        };
        (Some(self.run_alone(command)), Vec::new())
    }

    fn run_alone(&mut self, command: Command) -> Report {
        match command {
            Command::Append(_) => unreachable!("appends are written as a group"),
            Command::Resume => unreachable!("nothing was refused"),
            Command::Save { .. } if self.takes(1) == 0 => {
                self.refusing = true;
                Report::WriteFailed
            }
            Command::Truncate { ticket, to } => {
                let to = to.0 as usize;
                let records = self.log.len().saturating_sub(to) as u64;
                self.log.truncate(to);
                self.synced = self.log.len();
                self.reported_end = self.log.len();
                let from = self.written_end();
                Report::Truncated {
                    ticket,
                    cut: Cut { from, records },
                }
            }
            Command::Save { ticket, meta } => {
                self.meta = *meta;
                let durable_end = self.durable_end();
                Report::Saved {
                    ticket,
                    durable_end,
                }
            }
        }
    }

    /// Returns how many of these writes fit, and takes up the space for them if all do.
    fn takes(&mut self, writes: usize) -> usize {
        match &mut self.disk_space {
            None => writes,
            Some(disk_space) if *disk_space >= writes => {
                *disk_space -= writes;
                writes
            }
            Some(disk_space) => *disk_space,
        }
    }

    /// Drops a command whose sender did not know that writes are refused, or resumes.
    fn drop_or_resume(&mut self) -> Option<Report> {
        match self.queue.pop_front()? {
            Command::Resume if self.disk_space.is_some() => Some(Report::WriteFailed),
            Command::Resume => {
                if self.cuts_when_resumed {
                    self.log.truncate(self.reported_end.max(self.synced));
                }
                self.refusing = false;
                // Promises that were dropped are not binding.
                self.promise_asked = Epoch(0);
                self.synced = self.log.len();
                self.reported_end = self.log.len();
                let end = self.written_end();
                Some(Report::Resumed { end })
            }
            Command::Append(_) | Command::Truncate { .. } | Command::Save { .. } => None,
        }
    }

    /// Ends the process at once: the command in progress may or may not have reached the disk.
    pub(super) fn crash(&mut self, rng: &mut ChaCha8Rng) {
        let kept = rng.random_range(self.synced..=self.log.len());
        self.log.truncate(kept);
        let next_is_alone = !matches!(self.queue.front(), None | Some(Command::Append(_)));
        if next_is_alone && !self.refusing && self.synced >= self.log.len() && rng.random_bool(0.3)
        {
            let command = self
                .queue
                .pop_front()
                .expect("the queue was just found not empty");
            self.run_alone(command);
        }
        self.synced = self.log.len();
        self.reported_end = self.log.len();
        self.refusing = false;
        self.queue.clear();
        self.promise_asked = Epoch(0);
        if let Some(meta) = self.meta_before_crash.take() {
            self.meta = meta;
        }
    }

    pub(super) fn written_end(&self) -> Offset {
        Offset(self.log.len() as u64)
    }

    pub(super) fn durable_end(&self) -> Offset {
        Offset(self.synced as u64)
    }

    /// Reports whether it holds this record durably.
    pub(super) fn holds(&self, offset: Offset, identity: (Epoch, u64)) -> bool {
        offset < self.durable_end() && self.log[offset.0 as usize].identity() == identity
    }

    /// Reports whether any record from `from` on is this message.
    pub(super) fn holds_id(&self, id: u64, from: u64) -> bool {
        let mut entries = self.log.iter().skip(from as usize);
        entries.any(|entry| entry.id == id)
    }

    /// Returns all pairs of the log, ascending.
    pub(super) fn all_starts(&self) -> Vec<EpochStart> {
        let mut starts: Vec<EpochStart> = Vec::new();
        for entry in &self.log {
            if starts.last().is_none_or(|last| last.epoch != entry.epoch) {
                starts.push(EpochStart {
                    epoch: entry.epoch,
                    first: entry.offset,
                });
            }
        }
        starts
    }

    /// Returns the newest pairs, as far as they are kept in memory.
    pub(super) fn starts(&self, kept: usize) -> Vec<EpochStart> {
        let all = self.all_starts();
        all[all.len().saturating_sub(kept)..].to_vec()
    }
}

/// View of its log that a replica has.
pub(super) struct Facts<'a> {
    pub(super) disk: &'a Disk,
    pub(super) starts_kept: usize,
}

impl LogFacts for Facts<'_> {
    fn epoch_starts(&self, limit: usize) -> Vec<EpochStart> {
        self.disk.starts(limit.min(self.starts_kept))
    }

    fn epoch_at(&self, offset: Offset) -> Option<Epoch> {
        let entry = self.disk.log.get(usize::try_from(offset.0).ok()?)?;
        Some(entry.epoch)
    }

    fn end(&self) -> Offset {
        Offset(self.disk.log.len() as u64)
    }
}

//! State of the model: disks, roles, messages in flight, and what was ever promised to a client.
//!
//! Owns the values but not the events that change them (`steps.rs`). All of it is small and copied: the checker
//! keeps and compares millions.

use std::fmt;

use crate::{
    rules::alignment::{Agreement, Outline, agreement},
    types::{Epoch, EpochStart, Offset},
};

/// The longest log that any bounds allow.
pub(super) const RECORDS_MAX: usize = 3;
/// Directories that the master may have, one after another.
pub(super) const MASTERS_MAX: usize = 3;
pub(super) const SECONDARIES: usize = 2;
/// Messages that may be in flight besides the current exchange.
pub(super) const LATE_MAX: usize = 2;
pub(super) const EPOCHS_MAX: usize = 6;

/// A record as far as it matters: two are the same if both fields are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Record {
    pub(super) epoch: u8,
    pub(super) author: u8,
}

/// A log, or a prefix of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Log {
    len: u8,
    records: [Record; RECORDS_MAX],
}

impl Log {
    pub(super) fn len(&self) -> u8 {
        self.len
    }

    pub(super) fn records(&self) -> &[Record] {
        &self.records[..usize::from(self.len)]
    }

    pub(super) fn get(&self, offset: u8) -> Option<Record> {
        self.records().get(usize::from(offset)).copied()
    }

    pub(super) fn push(&mut self, record: Record) {
        self.records[usize::from(self.len)] = record;
        self.len += 1;
    }

    /// Cuts to `end` and clears what is cut, so that equal logs stay equal values.
    pub(super) fn cut(&mut self, end: u8) {
        if end < self.len {
            self.records[usize::from(end)..].fill(Record::default());
            self.len = end;
        }
    }

    pub(super) fn to(mut self, end: u8) -> Log {
        self.cut(end);
        self
    }

    /// Returns the records before the first one of a newer epoch.
    pub(super) fn until(self, epoch: u8) -> Log {
        let newer = self
            .records()
            .iter()
            .position(|record| record.epoch > epoch);
        self.to(newer.map_or(self.len, |end| end as u8))
    }

    pub(super) fn begins_with(&self, prefix: &Log) -> bool {
        self.records().starts_with(prefix.records())
    }

    /// Reports whether one is the beginning of the other.
    pub(super) fn agrees_with(&self, other: &Log) -> bool {
        self.begins_with(other) || other.begins_with(self)
    }

    /// Returns the offset up to which they agree by the product's comparison.
    pub(super) fn agreement(&self, other: &Log) -> u8 {
        let (own, theirs) = (self.starts(), other.starts());
        let outline = |starts, log: &Log| Outline {
            starts,
            end: Offset(u64::from(log.len)),
        };
        match agreement(outline(&own, self), outline(&theirs, other)) {
            Agreement::Below(Offset(end)) => u8::try_from(end).expect("no longer than the logs"),
            other => panic!("the pairs are complete: {other:?}"),
        }
    }

    pub(super) fn starts(&self) -> Vec<EpochStart> {
        let mut starts: Vec<EpochStart> = Vec::new();
        for (record, first) in self.records().iter().zip(0..) {
            let epoch = Epoch(u64::from(record.epoch));
            if starts.last().is_none_or(|last| last.epoch != epoch) {
                let first = Offset(first);
                starts.push(EpochStart { epoch, first });
            }
        }
        starts
    }
}

/// Contents of a node's disk, and how much of it survives a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Disk {
    pub(super) log: Log,
    /// The synced end; records above it may be lost.
    pub(super) synced: u8,
    pub(super) promise: Promise,
    pub(super) log_epoch: Option<u8>,
    /// Log epoch and end of the log that a damaged node held.
    pub(super) last_whole: Option<LastWhole>,
}

/// A log epoch, and the end of the log.
pub(super) type LastWhole = (u8, u8);

/// The promise of a node; epoch 0 stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Promise {
    pub(super) epoch: u8,
    /// The instance that holds it.
    pub(super) holder: u8,
    /// A bit for each instance that was replaced; in a master's own promise, for each that any node had met
    /// when its directory was made.
    pub(super) replaced: u8,
    /// Instances that will be replaced, with [`super::Mistake::ReplacedByHelloOnly`].
    pub(super) met: u8,
}

impl Disk {
    pub(super) fn is_intact(&self) -> bool {
        self.log_epoch.is_some()
    }

    /// Returns the log that it may have acknowledged, as far as it knows.
    pub(super) fn known(&self) -> Option<LastWhole> {
        known(self.log_epoch, self.last_whole, &self.log)
    }

    /// Damages the disk: a start finds that the records from `left` on cannot be read; it held them up to `end`
    /// before. A master goes on despite damage, so it may have acknowledged more since the first.
    pub(super) fn damage(&mut self, left: u8, end: u8) {
        self.last_whole = match (self.log_epoch.take(), self.last_whole) {
            (Some(log_epoch), _) => Some((log_epoch, end)),
            (None, whole) => whole,
        };
        self.restart(left);
    }

    pub(super) fn take_log_epoch(&mut self, epoch: u8) {
        (self.log_epoch, self.last_whole) = (Some(epoch), None);
    }

    pub(super) fn held(&self) -> Log {
        self.log.to(self.synced)
    }

    pub(super) fn sync(&mut self) {
        self.synced = self.log.len();
    }

    pub(super) fn cut(&mut self, end: u8) {
        self.log.cut(end);
        self.synced = self.synced.min(end);
    }

    /// Extends what is known of a damaged log to the end of a master's log.
    pub(super) fn extend_last_whole(&mut self) {
        let end = self.log.len();
        self.last_whole = self
            .last_whole
            .map(|(epoch, known)| (epoch, known.max(end)));
    }

    /// Cuts power, sparing what lies below `end`, and starts again, which syncs what is found.
    pub(super) fn restart(&mut self, end: u8) {
        self.log.cut(end);
        self.sync();
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Secondary {
    pub(super) disk: Disk,
    /// Incarnation of the node: instance and start in one number.
    pub(super) life: u8,
    pub(super) aligned: Option<Aligned>,
    pub(super) refill_target: Option<u8>,
    /// Contents of a disk that was wiped or damaged, so that rule 4 is judged by what was true.
    pub(super) wiped: Log,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Aligned {
    pub(super) epoch: u8,
    pub(super) adopted_end: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Master {
    pub(super) disk: Disk,
    pub(super) role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Role {
    Promising {
        epoch: u8,
        heard: [Option<PeerReply>; SECONDARIES],
    },
    Adopting {
        epoch: u8,
        source: u8,
        life: u8,
        end: u8,
    },
    /// The adopted log is durable, the log epoch is not.
    Adopted { epoch: u8 },
    Serving {
        epoch: u8,
        adopted_end: u8,
        links: [Link; SECONDARIES],
    },
}

/// A promise that a master was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerReply {
    pub(super) life: u8,
    pub(super) log_epoch: Option<u8>,
    pub(super) last_whole: Option<LastWhole>,
    pub(super) log: Log,
}

/// Returns the log that a node may have acknowledged, as far as it knows.
pub(super) fn known(
    log_epoch: Option<u8>,
    last_whole: Option<LastWhole>,
    log: &Log,
) -> Option<LastWhole> {
    log_epoch.map(|epoch| (epoch, log.len())).or(last_whole)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Link {
    /// The incarnation that answered the hello.
    pub(super) life: Option<u8>,
    pub(super) counted: Option<u8>,
    pub(super) refill_target: u8,
}

/// A message that is late: it may arrive at any time, any number of times, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Message {
    Request(Request),
    Answer(Answer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Request {
    pub(super) from: u8,
    pub(super) epoch: u8,
    pub(super) to: u8,
    /// The instances that the sender knows to be older than itself.
    pub(super) older: u8,
    pub(super) body: Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Body {
    Promise {
        log_epoch: Option<u8>,
    },
    Hello {
        log: Log,
        adopted_end: u8,
    },
    /// A heartbeat, or one record.
    Batch {
        life: u8,
        refill_target: u8,
        record: Option<(u8, Record)>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Answer {
    pub(super) to: u8,
    pub(super) epoch: u8,
    pub(super) from: u8,
    pub(super) life: u8,
    pub(super) log_epoch: Option<u8>,
    pub(super) end: u8,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Promised {
        log: Log,
        last_whole: Option<LastWhole>,
    },
    Aligned,
    Taken,
    /// Refused for a reason other than the epoch: begin with a hello.
    HelloFirst,
    Fenced {
        promised: u8,
    },
}

/// State of the whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct State {
    pub(super) masters: [Option<Master>; MASTERS_MAX],
    /// The instance that is the master by the operator's choice.
    pub(super) newest: u8,
    pub(super) secondaries: [Secondary; SECONDARIES],
    pub(super) late: [Option<Message>; LATE_MAX],
    pub(super) crashes: u8,
    pub(super) wipes: u8,
    pub(super) damages: u8,
    pub(super) seen: Seen,
}

/// Memory of an observer of everything; nothing acts on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Seen {
    /// All records ever acknowledged at a majority.
    pub(super) acknowledged: Log,
    /// The highest `committed` of each epoch.
    pub(super) committed: [u8; EPOCHS_MAX + 1],
    /// The end that the master of each epoch had adopted.
    pub(super) adopted: [u8; EPOCHS_MAX + 1],
    /// The newest epoch that a master served.
    pub(super) served: u8,
    pub(super) broken: Option<Broken>,
}

/// A rule that a step broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Broken {
    /// An offset was acknowledged with two records.
    Order,
    /// An append was answered although too few nodes held it.
    Concern,
    /// A message of an older epoch changed a node, or a promise went back.
    Fence,
    /// An intact master would have cut its own log.
    MasterCut,
    /// The newest directory was filed as replaced, in favour of one that was met before it was made.
    NewestReplaced,
}

impl State {
    /// Returns the same state with the secondaries swapped.
    pub(super) fn mirrored(&self) -> State {
        let mut mirrored = *self;
        mirrored.secondaries.swap(0, 1);
        for master in mirrored.masters.iter_mut().flatten() {
            match &mut master.role {
                Role::Promising { heard, .. } => heard.swap(0, 1),
                Role::Adopting { source, .. } => *source ^= 1,
                Role::Adopted { .. } => {}
                Role::Serving { links, .. } => links.swap(0, 1),
            }
        }
        for message in mirrored.late.iter_mut().flatten() {
            match message {
                Message::Request(request) => request.to ^= 1,
                Message::Answer(answer) => answer.from ^= 1,
            }
        }
        mirrored.late.sort_unstable();
        mirrored
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, record) in self.records().iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}e{}", record.epoch)?;
            if record.author > 0 {
                write!(f, "m{}", record.author)?;
            }
        }
        f.write_str("]")
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Promise {
            epoch,
            holder,
            replaced,
            ..
        } = self.promise;
        write!(f, "{} synced {}, promised {epoch}", self.log, self.synced)?;
        if holder > 0 || replaced > 0 {
            write!(f, " to m{holder} (replaced {replaced:03b})")?;
        }
        match self.log_epoch {
            Some(log_epoch) => write!(f, ", log epoch {log_epoch}"),
            None => f.write_str(", not intact"),
        }?;
        match self.last_whole {
            Some((epoch, end)) => write!(f, ", held {end} of log epoch {epoch}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Promising { epoch, heard } => {
                write!(f, "asks for promises of {epoch}")?;
                for (heard, name) in heard.iter().zip(["a", "b"]) {
                    if let Some(PeerReply { log_epoch, log, .. }) = heard {
                        write!(f, ", {name} has {log} of log epoch {log_epoch:?}")?;
                    }
                }
                Ok(())
            }
            Role::Adopting {
                epoch, source, end, ..
            } => {
                let source = ["a", "b"][usize::from(*source)];
                write!(f, "adopts the log of {source} up to {end} for {epoch}")
            }
            Role::Adopted { epoch } => write!(f, "has adopted a log for {epoch}"),
            Role::Serving {
                epoch,
                adopted_end,
                links,
            } => {
                write!(f, "serves {epoch}, adopted {adopted_end}")?;
                for (link, name) in links.iter().zip(["a", "b"]) {
                    if let Some(counted) = link.counted {
                        write!(f, ", {name} counts to {counted}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (instance, master) in self.masters.iter().enumerate() {
            let Some(Master { disk, role }) = master else {
                continue;
            };
            writeln!(f, "      m{instance}: {disk}; {role}")?;
        }
        for (secondary, name) in self.secondaries.iter().zip(["a", "b"]) {
            let aligned = secondary.aligned.map_or(0, |aligned| aligned.epoch);
            let (disk, life) = (&secondary.disk, secondary.life);
            writeln!(f, "      {name}: {disk}; life {life}, aligned {aligned}")?;
        }
        for message in self.late.iter().flatten() {
            writeln!(f, "      late: {message:?}")?;
        }
        write!(f, "      acknowledged: {}", self.seen.acknowledged)?;
        match self.seen.broken {
            Some(broken) => write!(f, ", broken: {broken:?}"),
            None => Ok(()),
        }
    }
}

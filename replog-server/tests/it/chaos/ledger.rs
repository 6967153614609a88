//! The messages that clients sent, the answers they got, and which messages must be there in the end.
//!
//! Every message is unique: its text names its sender, and the rest follows from that, so
//! that a message that is found can be compared byte for byte without being kept here.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard},
};

/// A message: the client that sent it, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MessageId {
    pub(crate) client: usize,
    pub(crate) number: usize,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.client, self.number)
    }
}

/// One message in this many is long: a batch of them takes more than one part on its way.
const LONG_ONES: usize = 50;
const LONG_BYTES: usize = 20_000;

impl MessageId {
    /// Returns its text.
    pub(crate) fn text(self) -> String {
        let MessageId { client, number } = self;
        let length = match number % LONG_ONES {
            0 => LONG_BYTES,
            small => small,
        };
        // Letters that differ from message to message, so that no mix of two messages is a third.
        let letter = |at: usize| (b'a' + ((at + number * 7 + client * 3) % 26) as u8) as char;
        let filler: String = (0..length).map(letter).collect();
        format!("{self}-{filler}")
    }

    /// Returns the message that has this text.
    pub(crate) fn of_text(text: &str) -> Option<MessageId> {
        let mut parts = text.splitn(3, '-');
        let id = MessageId {
            client: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        };
        (id.text() == text).then_some(id)
    }

    /// Returns the key that it is sent with, if it has one.
    pub(crate) fn key(self) -> String {
        format!("key-{self}")
    }
}

/// The client's knowledge of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// No byte of it left the client.
    NotSent,
    /// It was sent, and its outcome is unknown.
    Unknown,
    /// Every answer said that it was not appended.
    Refused,
    /// It is in the log.
    Acknowledged(Acknowledged),
}

/// The contents of an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) offset: u64,
    /// Minimum number of nodes that held it then.
    pub(crate) held_by: usize,
    /// Number of times that the master's disk had been lost when the message was sent.
    pub(crate) losses: usize,
}

/// One message of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) has_key: bool,
    pub(crate) told: Told,
}

/// Number of messages by outcome, and number of requests by answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) not_sent: u64,
    pub(crate) answers: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn count(&mut self, told: Told) {
        match told {
            Told::Acknowledged(_) => self.acknowledged += 1,
            Told::Refused => self.refused += 1,
            Told::Unknown => self.unknown += 1,
            Told::NotSent => self.not_sent += 1,
        }
    }

    /// Counts another one.
    pub(crate) fn add(&mut self, other: &Tally) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.not_sent += other.not_sent;
        add_counts(&mut self.answers, &other.answers);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            acknowledged,
            refused,
            unknown,
            not_sent,
            answers: _,
        } = self;
        write!(
            f,
            "{acknowledged} acknowledged, {refused} refused, {unknown} unknown, {not_sent} never sent"
        )
    }
}

/// Adds the counts of another tally.
pub(crate) fn add_counts(
    to: &mut BTreeMap<&'static str, u64>,
    other: &BTreeMap<&'static str, u64>,
) {
    for (name, count) in other {
        *to.entry(name).or_default() += count;
    }
}

/// Formats the names and their counts in one line.
pub(crate) fn counts(of: &BTreeMap<&'static str, u64>) -> String {
    let counts: Vec<String> = of
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    counts.join(", ")
}

/// Everything that the clients of one cluster sent and were told.
pub(crate) struct Ledger {
    nodes: usize,
    clients: Vec<Mutex<Vec<Entry>>>,
    /// For each loss of the master's disk: the end up to which every node was seen to hold
    /// everything before.
    losses: Mutex<Vec<u64>>,
    tally: Mutex<Tally>,
}

impl Ledger {
    pub(crate) fn new(nodes: usize, clients: usize) -> Ledger {
        Ledger {
            nodes,
            clients: (0..clients).map(|_| Mutex::default()).collect(),
            losses: Mutex::default(),
            tally: Mutex::default(),
        }
    }

    fn client(&self, client: usize) -> MutexGuard<'_, Vec<Entry>> {
        self.clients[client].lock().expect("no panic")
    }

    /// Registers a new message of a client, which may be in flight from now on.
    pub(crate) fn begin(&self, client: usize, has_key: bool) -> MessageId {
        let mut entries = self.client(client);
        let number = entries.len();
        entries.push(Entry {
            has_key,
            told: Told::Unknown,
        });
        MessageId { client, number }
    }

    /// Records that the client's knowledge is final.
    pub(crate) fn settle(&self, id: MessageId, told: Told) {
        self.client(id.client)[id.number].told = told;
        self.tally.lock().expect("no panic").count(told);
    }

    /// Returns what is known of a message.
    pub(crate) fn entry(&self, id: MessageId) -> Option<Entry> {
        let entries = self.clients.get(id.client)?.lock().expect("no panic");
        entries.get(id.number).copied()
    }

    /// Returns all messages.
    pub(crate) fn entries(&self) -> Vec<(MessageId, Entry)> {
        let of_client = |client| {
            let entries = self.client(client).clone();
            let ids = (0..).map(move |number| MessageId { client, number });
            ids.zip(entries)
        };
        (0..self.clients.len()).flat_map(of_client).collect()
    }

    /// Counts a request by its answer, or as unanswered.
    pub(crate) fn count_answer(&self, answer: &'static str) {
        let mut tally = self.tally.lock().expect("no panic");
        *tally.answers.entry(answer).or_default() += 1;
    }

    /// Returns the number of messages by outcome so far.
    pub(crate) fn tally(&self) -> Tally {
        self.tally.lock().expect("no panic").clone()
    }

    /// Returns the number of times that the master's disk was lost so far.
    pub(crate) fn losses(&self) -> usize {
        self.losses.lock().expect("no panic").len()
    }

    /// Records that the master's process is gone and its disk is lost, in part or completely; everything
    /// below `safe_end` is known to be on every node.
    pub(crate) fn master_loses_disk(&self, safe_end: u64) {
        self.losses.lock().expect("no panic").push(safe_end);
    }

    /// Reports whether an acknowledgement still holds: below a majority it is only the
    /// master's promise, and lasts as long as its disk.
    pub(crate) fn must_hold(&self, acknowledged: Acknowledged) -> bool {
        let losses = self.losses.lock().expect("no panic");
        let majority = self.nodes / 2 + 1;
        acknowledged.held_by >= majority
            || losses
                .get(acknowledged.losses)
                .is_none_or(|safe_end| acknowledged.offset < *safe_end)
    }
}

//! What clients sent and what they were told, and which of it must be there in the end.
//!
//! Every message is another one: its text says who sent it, and the rest follows from that, so
//! that a message that was found is compared byte for byte without being kept here.

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

/// Every so-manyth message is a long one: a batch of them takes more than one piece on its way.
const LONG_ONES: usize = 50;
const LONG_BYTES: usize = 20_000;

impl MessageId {
    /// Its text.
    pub(crate) fn text(self) -> String {
        let MessageId { client, number } = self;
        let length = match number % LONG_ONES {
            0 => LONG_BYTES,
            small => small,
        };
        // Letters that differ from message to message, so that no mix of two is a third.
        let letter = |at: usize| (b'a' + ((at + number * 7 + client * 3) % 26) as u8) as char;
        let filler: String = (0..length).map(letter).collect();
        format!("{self}-{filler}")
    }

    /// The message whose text this is.
    pub(crate) fn of_text(text: &str) -> Option<MessageId> {
        let mut parts = text.splitn(3, '-');
        let id = MessageId {
            client: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        };
        (id.text() == text).then_some(id)
    }

    /// The key that it is sent with, where it has one.
    pub(crate) fn key(self) -> String {
        format!("key-{self}")
    }
}

/// What a client knows of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// No byte of it left the client.
    NotSent,
    /// It was sent, and nothing is known.
    Unknown,
    /// Every answer said that it was not appended.
    Refused,
    /// It is there.
    Acknowledged(Acknowledged),
}

/// What an acknowledgement said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) offset: u64,
    /// Nodes that held it then, at least.
    pub(crate) held_by: usize,
    /// Times that the master's disk had been lost when the message was sent.
    pub(crate) losses: usize,
}

/// One message of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) has_key: bool,
    pub(crate) told: Told,
}

/// How many messages ended how, and how many requests were answered how.
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

    /// Adds another one.
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

/// Adds how often each was counted elsewhere.
pub(crate) fn add_counts(
    to: &mut BTreeMap<&'static str, u64>,
    other: &BTreeMap<&'static str, u64>,
) {
    for (name, count) in other {
        *to.entry(name).or_default() += count;
    }
}

/// Names and how often each, in a line.
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
    /// For each time that the master's disk was lost: up to where every node was seen to hold
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

    /// A new message of a client, which may be on its way from now on.
    pub(crate) fn begin(&self, client: usize, has_key: bool) -> MessageId {
        let mut entries = self.client(client);
        let number = entries.len();
        entries.push(Entry {
            has_key,
            told: Told::Unknown,
        });
        MessageId { client, number }
    }

    /// The client has been told what it will ever be told.
    pub(crate) fn settle(&self, id: MessageId, told: Told) {
        self.client(id.client)[id.number].told = told;
        self.tally.lock().expect("no panic").count(told);
    }

    /// What is known of a message.
    pub(crate) fn entry(&self, id: MessageId) -> Option<Entry> {
        let entries = self.clients.get(id.client)?.lock().expect("no panic");
        entries.get(id.number).copied()
    }

    /// All messages.
    pub(crate) fn entries(&self) -> Vec<(MessageId, Entry)> {
        let of_client = |client| {
            let entries = self.client(client).clone();
            let ids = (0..).map(move |number| MessageId { client, number });
            ids.zip(entries)
        };
        (0..self.clients.len()).flat_map(of_client).collect()
    }

    /// A request was answered, or not.
    pub(crate) fn count_answer(&self, answer: &'static str) {
        let mut tally = self.tally.lock().expect("no panic");
        *tally.answers.entry(answer).or_default() += 1;
    }

    /// How many ended how so far.
    pub(crate) fn tally(&self) -> Tally {
        self.tally.lock().expect("no panic").clone()
    }

    /// Times that the master's disk was lost so far.
    pub(crate) fn losses(&self) -> usize {
        self.losses.lock().expect("no panic").len()
    }

    /// The master's process is gone and its disk is lost, in part or as a whole; all that lies
    /// below `safe_end` is known to be on every node.
    pub(crate) fn master_loses_disk(&self, safe_end: u64) {
        self.losses.lock().expect("no panic").push(safe_end);
    }

    /// Whether an acknowledgement holds after all that happened: below a majority it is the
    /// master's word alone, and lasts as long as its disk.
    pub(crate) fn must_hold(&self, acknowledged: Acknowledged) -> bool {
        let losses = self.losses.lock().expect("no panic");
        let majority = self.nodes / 2 + 1;
        acknowledged.held_by >= majority
            || losses
                .get(acknowledged.losses)
                .is_none_or(|safe_end| acknowledged.offset < *safe_end)
    }
}

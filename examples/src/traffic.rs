//! [`Traffic`]: a network that passes everything on and keeps a list of the batches that it saw.
//!
//! Owns the list, and nothing that is on it: it never delays, fails or changes a call. It stands
//! between the master and the in-process network, which is how the programs can show attempts,
//! delays and batches in flight without any support by the library.

use std::{
    collections::BTreeMap,
    fmt,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use replog_core::{
    Offset, Peer, ReadLevel, Reader,
    error::ConfigError,
    transport::{
        Answer, CallFuture, LocalNetwork, Network, Request, RequestBody, Response, Transport,
        TransportError,
    },
};

use crate::Story;

/// Requests of a master, by secondary. Clones share the list.
#[derive(Clone)]
pub struct Traffic {
    story: Story,
    network: LocalNetwork,
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
}

/// One batch of records that was sent, and its fate.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Time since the story began at which it was sent.
    pub sent: Duration,
    /// Time since the story began at which it was answered or given up.
    pub ended: Duration,
    /// The offset of its first record.
    pub first: Offset,
    /// The offset after its last record.
    pub end: Offset,
    /// Batches in flight to the same secondary when it was sent, including this one.
    pub in_flight: usize,
    /// Number of its records that the secondary already held when it was sent.
    pub repeated: u64,
    /// True if the secondary held all of it when it was answered.
    pub held: bool,
    /// The fate of the batch.
    pub fate: Fate,
}

/// Fate of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The secondary holds it.
    Taken,
    /// The secondary refused it.
    Refused,
    /// The call failed.
    Failed(TransportError),
    /// The master waited for `request_timeout` and gave up.
    GivenUp,
}

#[derive(Default)]
struct Seen {
    batches: Vec<Batch>,
    in_flight: usize,
    heartbeats: u64,
    reader: Option<Reader>,
    told: bool,
}

impl Traffic {
    pub(crate) fn new(story: &Story, network: &LocalNetwork) -> Traffic {
        Traffic {
            story: story.clone(),
            network: network.clone(),
            seen: Arc::default(),
        }
    }

    /// Prints a line for each batch to `node` from now on.
    pub fn tell(&self, node: &str) {
        self.with(node, |seen| seen.told = true);
    }

    /// Returns the batches that were sent to `node` and answered or given up, in the order of their
    /// end.
    #[must_use]
    pub fn batches(&self, node: &str) -> Vec<Batch> {
        self.with(node, |seen| seen.batches.clone())
    }

    /// Returns how many heartbeats were sent to `node`.
    #[must_use]
    pub fn heartbeats(&self, node: &str) -> u64 {
        self.with(node, |seen| seen.heartbeats)
    }

    /// Registers the reader of a secondary that has started: it tells what the secondary holds.
    pub(crate) fn attach(&self, node: &str, reader: Reader) {
        self.with(node, |seen| seen.reader = Some(reader));
    }

    fn with<T>(&self, node: &str, act: impl FnOnce(&mut Seen) -> T) -> T {
        act(self.lock().entry(node.to_owned()).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a batch is sent. The result records its end, at the latest when it is dropped.
    fn depart(&self, node: &str, first: Offset, end: Offset) -> InFlight {
        let sent = self.story.elapsed();
        let (in_flight, repeated) = self.with(node, |seen| {
            seen.in_flight += 1;
            let held = seen.held();
            (seen.in_flight, held.min(end).records_since(first))
        });
        let batch = Batch {
            sent,
            ended: sent,
            first,
            end,
            in_flight,
            repeated,
            held: false,
            fate: Fate::GivenUp,
        };
        InFlight {
            traffic: self.clone(),
            node: node.to_owned(),
            batch: Some(batch),
        }
    }

    fn arrive(&self, node: &str, mut batch: Batch) {
        batch.ended = self.story.elapsed();
        let line = self.with(node, |seen| {
            seen.in_flight -= 1;
            batch.held = batch.end <= seen.held();
            let attempt = seen.batches.len() + 1;
            let pause = seen
                .batches
                .last()
                .map(|before| batch.sent.saturating_sub(before.ended));
            let line = seen.told.then(|| describe(attempt, &batch, pause));
            seen.batches.push(batch);
            line
        });
        if let Some(line) = line {
            self.story.line(node, line);
        }
    }
}

fn describe(attempt: usize, batch: &Batch, pause: Option<Duration>) -> String {
    let Batch {
        first, end, fate, ..
    } = batch;
    let sent = match pause {
        Some(pause) => format!("sent {:>3} ms after the one before", pause.as_millis()),
        None => "the first one".to_owned(),
    };
    format!("  batch {attempt:>2}, records {first}..{end}, {sent}: {fate}")
}

impl Seen {
    fn held(&self) -> Offset {
        let end = self.reader.as_ref().and_then(|r| r.end(ReadLevel::Local));
        end.unwrap_or(Offset::ZERO)
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Taken => f.write_str("taken"),
            Fate::Refused => f.write_str("refused"),
            Fate::Failed(error) => error.fmt(f),
            Fate::GivenUp => f.write_str("no answer in time, given up"),
        }
    }
}

impl Network for Traffic {
    fn connect(&self, peer: &Peer) -> Rc<dyn Transport> {
        Rc::new(Way {
            inner: self.network.connect(peer),
            traffic: self.clone(),
        })
    }

    fn check(&self, peers: &[Peer]) -> Result<(), ConfigError> {
        self.network.check(peers)
    }
}

struct Way {
    inner: Rc<dyn Transport>,
    traffic: Traffic,
}

impl Transport for Way {
    fn call(&self, request: Request) -> CallFuture {
        let node = request.to.to_string();
        let range = match &request.body {
            RequestBody::Append(append) => {
                let first = append.records.first().map(|batch| batch.first());
                first.zip(append.records.last().map(|batch| batch.end()))
            }
            RequestBody::Heartbeat(_) => {
                self.traffic.with(&node, |seen| seen.heartbeats += 1);
                None
            }
            RequestBody::Identify
            | RequestBody::Promise(_)
            | RequestBody::Hello(_)
            | RequestBody::Fetch(_) => None,
        };
        let Some((first, end)) = range else {
            return self.inner.call(request);
        };
        let (inner, traffic) = (Rc::clone(&self.inner), self.traffic.clone());
        Box::pin(async move {
            let under_way = traffic.depart(&node, first, end);
            let answer = inner.call(request).await;
            under_way.end(&answer);
            answer
        })
    }
}

/// A batch that has no answer yet.
struct InFlight {
    traffic: Traffic,
    node: String,
    batch: Option<Batch>,
}

impl InFlight {
    fn end(mut self, answer: &Result<Response, TransportError>) {
        if let Some(batch) = &mut self.batch {
            batch.fate = match answer {
                Ok(response) if response.answer == Answer::Taken => Fate::Taken,
                Ok(_) => Fate::Refused,
                Err(error) => Fate::Failed(error.clone()),
            };
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.traffic.arrive(&self.node, batch);
        }
    }
}

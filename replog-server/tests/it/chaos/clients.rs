//! Clients: each appends one message after the other, and records exactly what it was told.
//!
//! They talk to the master directly. Some wait for ever, others are impatient and hang up; a client
//! whose message has a key sends it again until it is answered.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::{
    gate::Gate,
    ledger::{Acknowledged, Ledger, MessageId, Told},
    report::Violations,
};
use crate::http::{Answer, Connection, JSON};

/// Longest pause between two messages of a client.
const THINK_TIME_MAX_MS: u64 = 8;
/// Pause before the same message is sent again, and after a refused one.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// One client in this many may wait for ever.
const PATIENT_ONES: usize = 3;
/// One client in this many uses no keys.
const KEYLESS_ONES: usize = 4;

/// State that the clients of a cluster share with their observers.
pub(crate) struct Shared {
    pub(crate) master: SocketAddr,
    pub(crate) nodes: usize,
    pub(crate) ledger: Ledger,
    pub(crate) violations: Violations,
    pub(crate) gate: Gate,
}

/// Threads that append.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts `count` clients, whose choices come from `seed`.
    pub(crate) fn start(count: usize, seed: u64, shared: &Arc<Shared>) -> Clients {
        let start = |number: usize| {
            let mut client = Client {
                number,
                shared: shared.clone(),
                rng: ChaCha8Rng::seed_from_u64(seed.wrapping_add(number as u64 * 7919)),
                connection: None,
            };
            thread::spawn(move || client.run())
        };
        Clients {
            shared: shared.clone(),
            threads: (0..count).map(start).collect(),
        }
    }

    /// Ends the clients. A client that waits for an answer must get one, or lose its connection.
    pub(crate) fn end(mut self) {
        self.shared.gate.end();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared
                    .violations
                    .report("a client panicked: see above".to_owned());
            }
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // The threads end when the master does.
        self.shared.gate.end();
    }
}

/// Manner in which a client sends one message.
#[derive(Clone, Copy, Debug)]
struct Manner {
    concern: usize,
    timeout: Option<Duration>,
    /// Maximum time before it hangs up.
    patience: Option<Duration>,
    has_key: bool,
    /// Sends a message with a key again even if it was refused.
    insists: bool,
    /// Sends the message once more after it is acknowledged.
    repeats: bool,
}

/// Result of a request.
enum Reply {
    /// No byte was sent.
    NotSent,
    /// It may have arrived.
    Nothing,
    /// Refused, and the answer says that nothing was appended.
    Refused,
    /// An answer that says that the outcome is unknown.
    Unknown,
    /// A receipt.
    Receipt {
        acknowledged: Acknowledged,
        concern_met: bool,
        replayed: bool,
    },
}

struct Client {
    number: usize,
    shared: Arc<Shared>,
    rng: ChaCha8Rng,
    connection: Option<Connection>,
}

impl Client {
    fn run(&mut self) {
        while self.shared.gate.enter(self.number) {
            let manner = self.manner();
            let id = self.shared.ledger.begin(self.number, manner.has_key);
            let told = self.append(id, manner);
            self.shared.ledger.settle(id, told);
            self.shared.gate.leave(self.number);
            let pause = match told {
                Told::NotSent | Told::Refused => RETRY_PAUSE,
                Told::Unknown | Told::Acknowledged(_) => {
                    Duration::from_millis(self.rng.random_range(0..=THINK_TIME_MAX_MS))
                }
            };
            thread::sleep(pause);
        }
        self.shared.gate.leave(self.number);
    }

    fn manner(&mut self) -> Manner {
        let (nodes, rng) = (self.shared.nodes, &mut self.rng);
        let majority = nodes / 2 + 1;
        let mut some_time =
            |longest_ms| Some(Duration::from_millis(rng.random_range(1..longest_ms)));
        let (timeout, patience) = (some_time(800), some_time(1_500));
        let is_patient = self.number.is_multiple_of(PATIENT_ONES);
        // Otherwise all of them would soon be stuck on one message each while the master is away.
        let is_keyless = self.number % KEYLESS_ONES == 1;
        let concern = match rng.random_range(0..10) {
            0..3 => rng.random_range(1..majority),
            3..8 => majority,
            _ => rng.random_range(majority..=nodes),
        };
        let (timeout, patience) = match rng.random_range(0..10) {
            0 => (Some(Duration::ZERO), None),
            1..4 if is_patient => (timeout, None),
            4 if is_patient => (None, patience),
            _ if is_patient => (None, None),
            1..7 => (timeout, None),
            _ => (None, patience),
        };
        Manner {
            concern,
            timeout,
            patience,
            has_key: !is_keyless && rng.random_bool(0.6),
            insists: rng.random_bool(0.5),
            repeats: rng.random_bool(0.1),
        }
    }

    /// Sends one message as often as its manner asks for, and returns what is known in the end.
    fn append(&mut self, id: MessageId, manner: Manner) -> Told {
        // True if an earlier request may have left the message behind.
        let mut is_open = false;
        loop {
            match self.send(id, manner) {
                Reply::Receipt {
                    acknowledged,
                    replayed,
                    ..
                } => {
                    if replayed && !is_open {
                        self.report(id, "was sent for the first time and was there before");
                    }
                    return match manner.has_key && manner.repeats {
                        true => self.repeat(id, manner, acknowledged),
                        false => Told::Acknowledged(acknowledged),
                    };
                }
                Reply::NotSent if !manner.has_key => return Told::NotSent,
                Reply::Refused if !manner.has_key => return Told::Refused,
                Reply::Nothing | Reply::Unknown if !manner.has_key => return Told::Unknown,
                Reply::Nothing | Reply::Unknown => is_open = true,
                Reply::Refused if !is_open && !manner.insists => return Told::Refused,
                Reply::Refused | Reply::NotSent => {}
            }
            if self.shared.gate.is_over() {
                return Told::Unknown;
            }
            thread::sleep(RETRY_PAUSE);
        }
    }

    /// Sends a message with a key once more. It must change nothing while the first
    /// acknowledgement holds.
    fn repeat(&mut self, id: MessageId, manner: Manner, before: Acknowledged) -> Told {
        let reply = self.send(id, manner);
        let must_hold = self.shared.ledger.must_hold(before);
        match reply {
            Reply::Receipt { acknowledged, .. } if !must_hold => Told::Acknowledged(acknowledged),
            Reply::Receipt {
                acknowledged: now,
                replayed,
                ..
            } => {
                if !replayed || now.offset != before.offset {
                    let what = format!("{before:?} was acknowledged, then {now:?} ({replayed})");
                    self.report(id, &what);
                }
                Told::Acknowledged(before)
            }
            // It may have been appended again.
            _ if !must_hold => Told::Unknown,
            _ => Told::Acknowledged(before),
        }
    }

    fn send(&mut self, id: MessageId, manner: Manner) -> Reply {
        let reply = self.request(id, manner);
        self.shared.ledger.count_answer(match reply {
            Reply::NotSent => "no connection",
            Reply::Nothing => "no answer",
            Reply::Refused => "refused",
            Reply::Unknown => "outcome unknown",
            Reply::Receipt {
                concern_met: true,
                replayed: false,
                ..
            } => "201",
            Reply::Receipt {
                concern_met: true,
                replayed: true,
                ..
            } => "200",
            Reply::Receipt {
                concern_met: false, ..
            } => "202",
        });
        reply
    }

    fn request(&mut self, id: MessageId, manner: Manner) -> Reply {
        self.shared
            .gate
            .doing(self.number, format!("sends {id}: {manner:?}"));
        let losses = self.shared.ledger.losses();
        let kept = self.connection.take();
        let Some(open) = kept.or_else(|| Connection::open(self.shared.master).ok()) else {
            return Reply::NotSent;
        };
        let mut meta = json!({ "concern": manner.concern });
        if let Some(timeout) = manner.timeout {
            meta["timeout_ms"] = (timeout.as_millis() as u64).into();
        }
        if manner.has_key {
            meta["idempotency_key"] = id.key().into();
        }
        let body = json!({ "data": id.text(), "meta": meta }).to_string();
        let mut open = open.patience(manner.patience);
        match open.request("POST", "/messages", &[JSON], Some(body.as_bytes())) {
            Ok(answer) => {
                self.connection = Some(open);
                self.judge(id, manner, losses, &answer)
            }
            Err(error) => {
                // Half an answer counts as none; an answer that is not HTTP is an error.
                if error.kind() == io::ErrorKind::InvalidData {
                    self.report(id, &format!("was answered by what is no answer: {error}"));
                }
                Reply::Nothing
            }
        }
    }

    /// Returns what an answer says about the message, and checks that it may say that.
    fn judge(&self, id: MessageId, manner: Manner, losses: usize, answer: &Answer) -> Reply {
        let Ok(body) = serde_json::from_slice::<Value>(&answer.body) else {
            self.report(id, &format!("was answered by {answer:?}"));
            return Reply::Unknown;
        };
        match (answer.status, body["outcome"].as_str()) {
            (200..=202, None) => {
                let replayed = answer.header("idempotent-replayed") == Some("true");
                let acks = body["acks"].as_array().map_or(&[][..], Vec::as_slice);
                let with_master = acks.contains(&"master".into());
                let held_by = acks.len();
                let met = body["concern_met"] == true;
                let fits = match answer.status {
                    201 => met && !replayed,
                    200 => met && replayed && manner.has_key,
                    _ => !met && (manner.has_key || !replayed),
                };
                let offset = body["offset"].as_u64();
                if !fits || !with_master || offset.is_none() || (met && held_by < manner.concern) {
                    self.report(id, &format!("{manner:?} was answered by {answer:?}"));
                }
                Reply::Receipt {
                    acknowledged: Acknowledged {
                        offset: offset.unwrap_or(u64::MAX),
                        held_by,
                        losses,
                    },
                    concern_met: met,
                    replayed,
                }
            }
            (408 | 429 | 503 | 507, Some("not_appended")) => Reply::Refused,
            (408 | 429 | 503 | 507, Some("unknown")) => Reply::Unknown,
            _ => {
                self.report(id, &format!("{manner:?} was answered by {answer:?}"));
                Reply::Unknown
            }
        }
    }

    fn report(&self, id: MessageId, what: &str) {
        self.shared
            .violations
            .report(format!("message {id} {what}"));
    }
}

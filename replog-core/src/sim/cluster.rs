//! A replog cluster under load, ready to be simulated: a master, secondaries, clients.
//!
//! The clients append with all concerns, with and without keys, give up, retry requests with a key
//! until they are answered, and read from every node.

use std::{cell::Cell, rc::Rc, time::Duration};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    Machine, Simulation,
    mistakes::{self, Turns},
};
use crate::{
    AppendOptions, Concern, Founding, IdempotencyKey, LogConfig, Master, MasterConfig,
    MessageBatch, MessageRange, Peer, Reader, Secondary, SecondaryConfig, TakeOver,
    error::{AppendError, Outcome, ReadError},
    types::{NodeName, Offset, ReadLevel},
    views::{BatchReceipt, Receipt},
};

/// A horizon beyond the log of any run.
const KEY_HORIZON: u64 = 1_000_000;

/// The shape of a cluster and its load.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Cluster {
    /// Number of secondaries.
    pub secondaries: usize,
    /// Number of masters with empty disks that replace the previous master, one after the other.
    pub standby_masters: usize,
    /// Condition on which a standby with a blank directory takes over from a master that other
    /// nodes are in contact with.
    pub take_over: TakeOver,
    /// Number of clients that append and read.
    pub clients: usize,
    /// The longest pause of a client between two requests.
    pub think: Duration,
    /// Size of a segment file: a small size gives many of them.
    pub segment_bytes: u64,
    /// Bytes of recent records that a node keeps in memory.
    pub tail_bytes: usize,
    /// Maximum bytes of zeros that each log writes ahead.
    pub preallocate_bytes: u64,
    /// Number of records whose keys are known.
    pub key_horizon: u64,
    /// True if each node is followed from the beginning of its log, at both levels, since its start.
    pub followers: bool,
    /// True if clients now and then hang up before they are answered. Off in drawn clusters.
    pub hang_ups: bool,
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster {
            secondaries: 2,
            standby_masters: 2,
            take_over: TakeOver::AtOnce,
            clients: 3,
            think: Duration::from_millis(400),
            segment_bytes: 16 << 10,
            tail_bytes: 4 << 10,
            preallocate_bytes: 2 << 10,
            key_horizon: KEY_HORIZON,
            followers: true,
            hang_ups: false,
        }
    }
}

/// Append request of a client.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) payload: Bytes,
    /// Further payloads, appended together with the first.
    pub(crate) more: Vec<Bytes>,
    pub(crate) options: AppendOptions,
    /// The connection is gone after this time, and with it the future that answers.
    pub(crate) hangs_up_after: Option<Duration>,
}

/// Read request of a client.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) from: Offset,
    pub(crate) level: ReadLevel,
}

impl Cluster {
    /// Draws a shape from `seed`: mostly three nodes, sometimes two, four or five.
    #[must_use]
    pub fn drawn(seed: u64) -> Cluster {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xc1_05_7e_12);
        Cluster {
            secondaries: match rng.random_range(0..8) {
                0 => 4,
                1 => 1,
                2 => 3,
                _ => 2,
            },
            standby_masters: rng.random_range(0..=2),
            take_over: TakeOver::AtOnce,
            clients: rng.random_range(1..=4),
            think: Duration::from_millis(rng.random_range(50..800)),
            segment_bytes: rng.random_range(4 << 10..32 << 10),
            tail_bytes: rng.random_range(1 << 10..8 << 10),
            preallocate_bytes: match rng.random_range(0..3) {
                0 => 0,
                _ => rng.random_range(200..4 << 10),
            },
            key_horizon: KEY_HORIZON,
            followers: true,
            hang_ups: false,
        }
    }

    /// Adds its machines to a simulation.
    #[must_use]
    pub fn build(&self, simulation: Simulation) -> Simulation {
        let names: Vec<String> = (1..=self.secondaries)
            .map(|nth| format!("secondary-{nth}"))
            .collect();
        let (log, followers) = (self.log_config(), self.followers);
        let mut config = MasterConfig::new(name("master"), peers(&names));
        config.log = log.clone();
        config.key_horizon = self.key_horizon;
        let mut masters = vec!["master".to_owned()];
        let mut simulation = {
            let config = config.clone();
            simulation.node("master", move |machine| {
                master(machine, config.clone(), followers)
            })
        };
        for secondary_name in &names {
            let mut config = SecondaryConfig::new(name(secondary_name));
            config.log = log.clone();
            simulation = simulation.node(secondary_name, move |machine| {
                secondary(machine, config.clone(), followers)
            });
        }
        config.founding = Founding::Never;
        config.take_over = self.take_over;
        for nth in 1..=self.standby_masters {
            let (config, name) = (config.clone(), format!("master-{}", nth + 1));
            let program = move |machine| master(machine, config.clone(), followers);
            simulation = simulation.standby(&name, "master", program);
            masters.push(name);
        }
        let nodes = Rc::new(Nodes {
            masters,
            secondaries: names,
            hang_ups: self.hang_ups,
        });
        for nth in 1..=self.clients {
            let (nodes, think) = (nodes.clone(), self.think);
            simulation = simulation.client(&format!("client-{nth}"), move |machine| {
                client(machine, nodes.clone(), think)
            });
        }
        simulation
    }

    fn log_config(&self) -> LogConfig {
        LogConfig {
            segment_bytes: self.segment_bytes,
            tail_bytes: self.tail_bytes,
            preallocate_bytes: self.preallocate_bytes,
        }
    }
}

/// The nodes that clients send requests to.
struct Nodes {
    masters: Vec<String>,
    secondaries: Vec<String>,
    hang_ups: bool,
}

/// The appends of a master's callers.
#[derive(Debug, Default)]
struct Callers {
    turns: Turns,
    /// Number of callers that ever came.
    came: Cell<usize>,
    /// Number of callers that were answered, or hung up.
    went: Cell<usize>,
}

impl Nodes {
    /// Draws one of the masters, or one of all nodes.
    fn draw(&self, machine: &Machine, masters_only: bool) -> &str {
        let mut all = self.masters.iter().chain(&self.secondaries);
        let count = self.masters.len()
            + if masters_only {
                0
            } else {
                self.secondaries.len()
            };
        let nth = machine.random(0, count as u64 - 1) as usize;
        all.nth(nth).expect("the number is below the count")
    }
}

fn name(text: &str) -> NodeName {
    text.parse().expect("a name made here is one")
}

fn peers(names: &[String]) -> Vec<Peer> {
    let peer = |text: &String| Peer {
        name: name(text),
        address: text.clone(),
    };
    names.iter().map(peer).collect()
}

/// Runs a master on a machine.
async fn master(machine: Machine, mut config: MasterConfig, followers: bool) {
    mistakes::on_start(&machine, &mut config);
    let started = Master::start(config, machine.storage(), machine.network()).await;
    let master = match started {
        Ok(master) => master,
        Err(error) => {
            machine.note(format!("cannot start: {error}"));
            machine.count("master: cannot start");
            return;
        }
    };
    serve_reads(&machine, master.reader());
    if followers {
        follow(&machine, &master.reader());
    }
    let callers = Rc::new(Callers::default());
    let (at, serving) = (machine.clone(), master.clone());
    machine.listen(move |ask: Ask| {
        let (machine, master, callers) = (at.clone(), serving.clone(), callers.clone());
        async move { append(&machine, &master, &callers, ask).await }
    });
    let stopped = master.stopped().await;
    machine.note(format!("the master has ended: {:?}", stopped.reason));
}

/// Appends for a client, and reports to the checks what the client is told; `None`: it hung up
/// first.
async fn append(
    machine: &Machine,
    master: &Master,
    callers: &Callers,
    ask: Ask,
) -> Option<Result<Receipt, AppendError>> {
    // An append is answered, however long it takes.
    let answered = machine.goal();
    let began = machine.elapsed();
    let _turn = mistakes::turn(&callers.turns).await;
    let (concern, payload, more) = (ask.options.concern, ask.payload.clone(), ask.more.clone());
    let handed_over = async {
        if more.is_empty() {
            return master.append(ask.payload, ask.options).await;
        }
        let batch: MessageBatch = std::iter::once(&payload).chain(&more).collect();
        let receipt = master.append_batch(batch, ask.options).await;
        receipt.map(|receipt| first_of(&receipt))
    };
    callers.came.update(|count| count + 1);
    let result = match ask.hangs_up_after {
        None => Some(handed_over.await),
        Some(after) => tokio::time::timeout(after, handed_over).await.ok(),
    };
    callers.went.update(|count| count + 1);
    let Some(result) = result else {
        answered.reached();
        machine.count("client: hung up");
        let before = callers.came.get() - callers.went.get();
        let came = callers.came.get();
        if let Ok(health) = master.health().await {
            let since = callers.came.get() - came;
            if health.waiting_appends > before + since {
                let waiting = health.waiting_appends;
                machine.fail(format_args!(
                    "rule 11: {waiting} appends wait, of {before} callers and {since} that came since"
                ));
            }
        }
        return None;
    };
    let result = mistakes::on_answered_client(result);
    answered.reached();
    match &result {
        Ok(receipt) => {
            // Each message of a batch as if it had been appended alone.
            for (payload, nth) in std::iter::once(&payload).chain(&more).zip(0..) {
                let offset = receipt.offset.plus(nth);
                let receipt = Receipt {
                    offset,
                    ..receipt.clone()
                };
                machine.answered(&receipt, payload);
                machine.acknowledged(&receipt);
            }
            if !more.is_empty() {
                machine.count("batch acknowledged");
            }
            if concern == Concern::Count(1) {
                machine.waited(1, began);
            }
        }
        Err(error) => {
            machine.note(format!("refuses an append: {error}"));
            machine.count(match error {
                AppendError::ReadOnly { .. } => "append refused: read-only",
                AppendError::Storage { .. } => "append refused: storage",
                AppendError::Unsettled { .. } => "append refused: unsettled",
                AppendError::Overloaded { .. } => "append refused: overloaded",
                AppendError::Stopping { .. } | AppendError::Ended => "append refused: ended",
                _ => "append refused: other",
            });
        }
    }
    Some(result)
}

/// Returns the part of a batch's receipt that is about its first message.
fn first_of(receipt: &BatchReceipt) -> Receipt {
    let receipt = receipt.clone();
    Receipt {
        offset: receipt.first_offset,
        epoch: receipt.epoch,
        concern: receipt.concern,
        concern_met: receipt.concern_met,
        acks: receipt.acks,
        waiting_for: receipt.waiting_for,
        durable: receipt.durable,
        replayed: receipt.replayed,
        elapsed: receipt.elapsed,
    }
}

/// Runs a secondary on a machine.
async fn secondary(machine: Machine, config: SecondaryConfig, followers: bool) {
    match Secondary::start(config, machine.storage()).await {
        Ok(secondary) => {
            machine.serve(secondary.clone());
            serve_reads(&machine, secondary.reader());
            if followers {
                follow(&machine, &secondary.reader());
            }
            let stopped = secondary.stopped().await;
            machine.note(format!("the secondary has ended: {:?}", stopped.reason));
        }
        Err(error) => {
            machine.note(format!("cannot start: {error}"));
            machine.count("secondary: cannot start");
        }
    }
}

/// Lets clients read from a node.
fn serve_reads(machine: &Machine, reader: Reader) {
    let at = machine.clone();
    machine.listen(move |read: Read| {
        let (reader, machine) = (reader.clone(), at.clone());
        async move {
            let end = reader.end(read.level)?;
            let batches = match reader.read(read.from, end, 4 << 10).await {
                Ok(batches) => batches,
                Err(error) => {
                    machine.note(format!("cannot read: {error}"));
                    machine.count("read refused");
                    return None;
                }
            };
            let payloads: Vec<(Offset, Bytes)> = batches
                .iter()
                .flat_map(MessageRange::messages)
                .map(|message| (message.offset, message.payload))
                .collect();
            machine.read(&payloads);
            Some(payloads)
        }
    });
}

/// Follows a node at both levels while it runs, and reports to the checks what is delivered.
fn follow(machine: &Machine, reader: &Reader) {
    for level in [ReadLevel::Local, ReadLevel::Committed] {
        let (machine, mut follower) = (machine.clone(), reader.follow(Offset::ZERO, level));
        machine.follows(level);
        tokio::task::spawn_local(async move {
            loop {
                match follower.next(4 << 10).await {
                    Ok(followed) => {
                        if let Some(followed) = mistakes::on_followed(followed) {
                            machine.followed(level, &followed);
                        }
                    }
                    Err(ReadError::Stopped) => return,
                    Err(error) => {
                        machine.note(format!("a follower cannot read: {error}"));
                        machine.count("follower: read refused");
                        machine.sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        });
    }
}

/// Runs a client: appends, reads, gives up, retries.
async fn client(machine: Machine, nodes: Rc<Nodes>, think: Duration) {
    // Its process stays up: a client that is done is not a crash.
    ask_on(&machine, &nodes, think).await;
    std::future::pending().await
}

async fn ask_on(machine: &Machine, nodes: &Nodes, think: Duration) {
    let think_us = think.as_micros() as u64;
    let mut serial = 0;
    while !machine.winding_down() {
        machine
            .sleep(Duration::from_micros(machine.random(0, think_us)))
            .await;
        if machine.random(0, 3) == 0 {
            read(machine, nodes).await;
            continue;
        }
        serial += 1;
        send(machine, nodes, serial).await;
    }
}

async fn read(machine: &Machine, nodes: &Nodes) {
    let level = match machine.random(0, 1) {
        0 => ReadLevel::Local,
        _ => ReadLevel::Committed,
    };
    let read = Read {
        from: Offset(machine.random(0, 200)),
        level,
    };
    let answer = machine.call::<_, Vec<(Offset, Bytes)>>(nodes.draw(machine, false), read);
    if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(1), answer).await {
        machine.count("client: read answered");
    }
}

async fn send(machine: &Machine, nodes: &Nodes, serial: u64) {
    // Mostly several to a page, sometimes one over several pages.
    let longest = match machine.random(0, 15) {
        0 => 10_000,
        _ => 300,
    };
    // Sometimes a batch, now and then one over several segments.
    let messages = match machine.random(0, 19) {
        0..=3 => machine.random(2, 6),
        4 => machine.random(7, 60),
        _ => 1,
    };
    let payloads: Vec<Bytes> = (0..messages)
        .map(|nth| {
            let filler = "x".repeat(machine.random(0, longest) as usize);
            let name = machine.name();
            Bytes::from(match nth {
                0 => format!("{name} {serial} {filler}"),
                nth => format!("{name} {serial}.{nth} {filler}"),
            })
        })
        .collect();
    let concern = match machine.random(0, 5) {
        0 => Concern::Count(1),
        1 => Concern::All,
        _ => Concern::Majority,
    };
    let mut options = AppendOptions::concern(concern);
    if machine.random(0, 3) == 0 {
        options = options.timeout(Duration::from_millis(machine.random(0, 2_000)));
    }
    payloads.iter().for_each(|payload| machine.sends(payload));
    if machine.random(0, 2) == 0 {
        let key = format!("{}-{serial}", machine.name());
        let key = IdempotencyKey::new(&key).expect("a name and a number");
        insist(machine, nodes, &payloads, options.idempotency_key(key)).await;
        return;
    }
    if let Some(Err(error)) = ask(machine, nodes, &payloads, options).await
        && error.outcome() == Outcome::NotAppended
    {
        payloads
            .iter()
            .for_each(|payload| machine.was_refused(payload));
    }
}

/// Sends an append with a key until it gets a final answer, as a client does that must know.
async fn insist(machine: &Machine, nodes: &Nodes, payloads: &[Bytes], options: AppendOptions) {
    while !machine.winding_down() {
        match ask(machine, nodes, payloads, options.clone()).await {
            Some(Ok(receipt)) => {
                if payloads.len() > 1 && receipt.replayed {
                    machine.count("client: keyed batch replayed");
                }
                machine.count(match receipt.replayed {
                    true => "client: keyed append replayed",
                    false => "client: keyed append answered",
                });
                return;
            }
            Some(Err(_)) | None => {
                let pause = machine.random(10_000, 500_000);
                machine.sleep(Duration::from_micros(pause)).await;
            }
        }
    }
}

/// Sends one request and returns its answer; `None`: no answer came in time.
async fn ask(
    machine: &Machine,
    nodes: &Nodes,
    payloads: &[Bytes],
    options: AppendOptions,
) -> Option<Result<Receipt, AppendError>> {
    let (payload, more) = payloads.split_first().expect("at least one message");
    let ask = Ask {
        payload: payload.clone(),
        more: more.to_vec(),
        options,
        hangs_up_after: (nodes.hang_ups && machine.random(0, 2) == 0)
            .then(|| Duration::from_micros(machine.random(0, 20_000))),
    };
    let patience = Duration::from_millis(machine.random(100, 4_000));
    let answer = machine.call::<_, Result<Receipt, AppendError>>(nodes.draw(machine, true), ask);
    match tokio::time::timeout(patience, answer).await {
        Ok(Ok(answer)) => {
            machine.count(match &answer {
                Ok(_) => "client: append answered",
                Err(_) => "client: append refused",
            });
            Some(answer)
        }
        Ok(Err(_)) => {
            machine.count("client: no connection");
            None
        }
        Err(_) => {
            machine.count("client: gave up waiting");
            None
        }
    }
}

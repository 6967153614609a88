//! Clients that append: each sends its next message when the one before was answered.
//!
//! Owns what a closed loop measures. Latencies are those that a client sees that waits for its
//! answer before it sends again: under overload it sends less, so they say nothing about what
//! clients would see that send at a fixed rate.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

use crate::http::{self, Connection};

/// How long the last answers may take once the load shall end.
const END_TIME_MAX: Duration = Duration::from_secs(30);
/// Connections that are being made at once.
const OPENING_MAX: usize = 256;
/// The longest latency that is told apart from longer ones.
const LATENCY_US_MAX: u64 = 60_000_000;

/// What every client does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) concern: u32,
    pub(crate) clients: usize,
    pub(crate) payload_bytes: usize,
}

/// Clients at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<Result<(), String>>,
}

/// What was answered while it was measured.
pub(crate) struct Measured {
    pub(crate) appends: u64,
    pub(crate) elapsed: Duration,
    latencies_us: Histogram<u64>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Appends that may still be begun, where there is an end to them.
    left: Option<AtomicU64>,
    window: Mutex<Window>,
}

struct Window {
    latencies_us: Histogram<u64>,
    /// Answers that were not 201, since the beginning.
    others: BTreeMap<u16, u64>,
}

impl Default for Window {
    fn default() -> Window {
        Window {
            latencies_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
                .expect("the bounds are constants"),
            others: BTreeMap::new(),
        }
    }
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.appends as f64 / self.elapsed.as_secs_f64()
    }

    /// In milliseconds; `quantile` from 0 to 1.
    pub(crate) fn latency_ms(&self, quantile: f64) -> f64 {
        self.latencies_us.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

impl Load {
    /// Connects all clients and lets them begin.
    pub(crate) async fn start(master: SocketAddr, work: Work) -> Result<Load, String> {
        Load::start_with(master, work, None).await
    }

    /// As [`Load::start`], for `appends` in all.
    pub(crate) async fn start_of(
        master: SocketAddr,
        work: Work,
        appends: u64,
    ) -> Result<Load, String> {
        Load::start_with(master, work, Some(AtomicU64::new(appends))).await
    }

    async fn start_with(
        master: SocketAddr,
        work: Work,
        left: Option<AtomicU64>,
    ) -> Result<Load, String> {
        let request: Arc<[u8]> = http::append_request(work.concern, work.payload_bytes).into();
        let shared = Arc::new(Shared {
            left,
            ..Shared::default()
        });
        let connections = open_all(master, work.clients).await?;
        let mut clients = JoinSet::new();
        for connection in connections {
            clients.spawn(append_again_and_again(
                connection,
                Arc::clone(&request),
                Arc::clone(&shared),
            ));
        }
        Ok(Load { shared, clients })
    }

    /// Measures for a while. What was answered before does not count.
    pub(crate) async fn measure(&self, time: Duration) -> Measured {
        self.shared.window().latencies_us.reset();
        let begun = Instant::now();
        tokio::time::sleep(time).await;
        self.taken(begun)
    }

    /// Lets every client end after its next answer.
    ///
    /// # Errors
    ///
    /// When a connection broke or an answer was not 201, at any time.
    pub(crate) async fn stop(self) -> Result<(), String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let Load {
            shared,
            mut clients,
        } = self;
        match timeout(END_TIME_MAX, end_of_all(&mut clients)).await {
            Ok(ended) => ended?,
            Err(_elapsed) => return Err(format!("appends without an answer in {END_TIME_MAX:?}")),
        }
        shared.only_created()
    }

    /// Waits until all that was to be appended is.
    pub(crate) async fn finish(mut self, begun: Instant) -> Result<Measured, String> {
        end_of_all(&mut self.clients).await?;
        self.shared.only_created()?;
        Ok(self.taken(begun))
    }

    fn taken(&self, begun: Instant) -> Measured {
        let latencies_us = self.shared.window().latencies_us.clone();
        Measured {
            appends: latencies_us.len(),
            elapsed: begun.elapsed(),
            latencies_us,
        }
    }
}

impl Shared {
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_begin(&self) -> bool {
        if self.stop.load(Ordering::Relaxed) {
            return false;
        }
        let take_one = |left: &AtomicU64| {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        };
        self.left.as_ref().is_none_or(take_one)
    }

    fn only_created(&self) -> Result<(), String> {
        let window = self.window();
        if window.others.is_empty() {
            return Ok(());
        }
        Err(format!(
            "appends answered with other than 201: {:?}",
            window.others
        ))
    }
}

/// Clients that have sent one message and wait for its answer.
pub(crate) struct Waiters {
    clients: JoinSet<Result<(), String>>,
}

impl Waiters {
    /// Connects them, and lets each send its message.
    pub(crate) async fn start(master: SocketAddr, work: Work) -> Result<Waiters, String> {
        let request: Arc<[u8]> = http::append_request(work.concern, work.payload_bytes).into();
        let mut clients = JoinSet::new();
        for mut connection in open_all(master, work.clients).await? {
            let request = Arc::clone(&request);
            clients.spawn(async move { created(&mut connection, &request).await });
        }
        Ok(Waiters { clients })
    }

    /// Waits until all are answered with 201; their connections are closed then.
    pub(crate) async fn released(mut self) -> Result<(), String> {
        end_of_all(&mut self.clients).await
    }
}

async fn open_all(address: SocketAddr, count: usize) -> Result<Vec<Connection>, String> {
    let turn = Arc::new(Semaphore::new(OPENING_MAX));
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let turn = Arc::clone(&turn);
        opening.spawn(async move {
            let _turn = turn.acquire_owned().await;
            Connection::open(address).await
        });
    }
    let mut connections = Vec::with_capacity(count);
    while let Some(opened) = opening.join_next().await {
        let opened = opened.map_err(|error| error.to_string())?;
        connections.push(opened.map_err(|error| format!("no connection to {address}: {error}"))?);
    }
    Ok(connections)
}

async fn append_again_and_again(
    mut connection: Connection,
    request: Arc<[u8]>,
    shared: Arc<Shared>,
) -> Result<(), String> {
    while shared.may_begin() {
        let begun = Instant::now();
        let status = connection
            .exchange(&request)
            .await
            .map_err(|error| format!("an append broke off: {error}"))?
            .status;
        let taken_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut window = shared.window();
        if status == 201 {
            window.latencies_us.saturating_record(taken_us.max(1));
        } else {
            *window.others.entry(status).or_default() += 1;
        }
    }
    Ok(())
}

async fn created(connection: &mut Connection, request: &[u8]) -> Result<(), String> {
    let answer = connection
        .exchange(request)
        .await
        .map_err(|error| format!("a waiting append broke off: {error}"))?;
    if answer.status == 201 {
        return Ok(());
    }
    let body = String::from_utf8_lossy(answer.body);
    Err(format!(
        "a waiting append was answered with {}: {body}",
        answer.status
    ))
}

async fn end_of_all(clients: &mut JoinSet<Result<(), String>>) -> Result<(), String> {
    while let Some(ended) = clients.join_next().await {
        ended.map_err(|error| format!("a client panicked: {error}"))??;
    }
    Ok(())
}

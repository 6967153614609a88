//! Clients that append: each sends its next message when the previous one was answered.
//!
//! Owns the measurements of a closed loop. Latencies are those of a client that waits for its
//! answer before it sends again: under overload it sends less, so they say nothing about clients
//! that send at a fixed rate. `rate` measures those.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

use crate::wire::{Client, Work};

/// Maximum time for the last answers once the load has to end.
const END_TIME_MAX: Duration = Duration::from_secs(30);
/// Maximum connections being made at once.
const OPENING_MAX: usize = 256;
/// The longest latency that is distinguished from longer ones.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Clients at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<Result<(), String>>,
}

/// Answers during a measurement.
pub(crate) struct Measured {
    pub(crate) appends: u64,
    pub(crate) elapsed: Duration,
    pub(crate) latencies_us: Histogram<u64>,
}

struct Shared {
    stop: AtomicBool,
    /// Appends that may still be started, if their number is limited.
    left: Option<AtomicU64>,
    latencies_us: Mutex<Histogram<u64>>,
}

/// Returns a histogram for latencies in microseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants")
}

/// Records a latency; it is at least a microsecond.
pub(crate) fn record(latencies_us: &mut Histogram<u64>, latency: Duration) {
    let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    latencies_us.saturating_record(us.max(1));
}

/// Returns a quantile in milliseconds; `quantile` from 0 to 1.
pub(crate) fn quantile_ms(latencies_us: &Histogram<u64>, quantile: f64) -> f64 {
    latencies_us.value_at_quantile(quantile) as f64 / 1_000.0
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.appends as f64 / self.elapsed.as_secs_f64()
    }

    /// Returns a quantile as [`quantile_ms`] does.
    pub(crate) fn latency_ms(&self, quantile: f64) -> f64 {
        quantile_ms(&self.latencies_us, quantile)
    }
}

impl Load {
    /// Connects all clients and starts them.
    pub(crate) async fn start(work: Work) -> Result<Load, String> {
        Load::start_with(work, None).await
    }

    /// Starts as [`Load::start`] does, for `appends` in all.
    pub(crate) async fn start_of(work: Work, appends: u64) -> Result<Load, String> {
        Load::start_with(work, Some(AtomicU64::new(appends))).await
    }

    async fn start_with(work: Work, left: Option<AtomicU64>) -> Result<Load, String> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            left,
            latencies_us: Mutex::new(histogram()),
        });
        let mut clients = JoinSet::new();
        for client in open_all(work).await? {
            clients.spawn(append_again_and_again(client, Arc::clone(&shared)));
        }
        Ok(Load { shared, clients })
    }

    /// Measures for a while. Earlier answers do not count.
    pub(crate) async fn measure(&self, time: Duration) -> Measured {
        self.shared.latencies_us().reset();
        let begun = Instant::now();
        tokio::time::sleep(time).await;
        self.taken(begun)
    }

    /// Stops every client after its next answer.
    ///
    /// # Errors
    ///
    /// If a connection broke or an append was not answered with success, at any time.
    pub(crate) async fn stop(mut self) -> Result<(), String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        match timeout(END_TIME_MAX, end_of_all(&mut self.clients)).await {
            Ok(ended) => ended,
            Err(_elapsed) => Err(format!("appends without an answer in {END_TIME_MAX:?}")),
        }
    }

    /// Waits until all appends are done.
    pub(crate) async fn finish(mut self, begun: Instant) -> Result<Measured, String> {
        end_of_all(&mut self.clients).await?;
        Ok(self.taken(begun))
    }

    fn taken(&self, begun: Instant) -> Measured {
        let elapsed = begun.elapsed();
        let latencies_us = self.shared.latencies_us().clone();
        Measured {
            appends: latencies_us.len(),
            elapsed,
            latencies_us,
        }
    }
}

impl Shared {
    fn latencies_us(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.latencies_us
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
}

/// Clients that have sent one message and wait for its answer.
pub(crate) struct Waiters {
    clients: JoinSet<Result<(), String>>,
}

impl Waiters {
    /// Connects them, and makes each send its message.
    pub(crate) async fn start(work: Work) -> Result<Waiters, String> {
        let mut clients = JoinSet::new();
        for mut client in open_all(work).await? {
            clients.spawn(async move { client.append().await });
        }
        Ok(Waiters { clients })
    }

    /// Waits until all are answered with success; their connections are then closed.
    pub(crate) async fn released(mut self) -> Result<(), String> {
        end_of_all(&mut self.clients).await
    }
}

/// Connects all clients.
pub(crate) async fn open_all(work: Work) -> Result<Vec<Client>, String> {
    let turn = Arc::new(Semaphore::new(OPENING_MAX));
    let mut opening = JoinSet::new();
    for number in 0..work.clients {
        let turn = Arc::clone(&turn);
        opening.spawn(async move {
            let _turn = turn.acquire_owned().await;
            Client::open(work, number).await
        });
    }
    let mut clients = Vec::with_capacity(work.clients);
    while let Some(opened) = opening.join_next().await {
        clients.push(opened.map_err(|error| error.to_string())??);
    }
    Ok(clients)
}

async fn append_again_and_again(mut client: Client, shared: Arc<Shared>) -> Result<(), String> {
    while shared.may_begin() {
        let begun = Instant::now();
        client.append().await?;
        record(&mut shared.latencies_us(), begun.elapsed());
    }
    Ok(())
}

/// Waits until all have ended, and returns the first error.
pub(crate) async fn end_of_all(clients: &mut JoinSet<Result<(), String>>) -> Result<(), String> {
    while let Some(ended) = clients.join_next().await {
        ended.map_err(|error| format!("a client panicked: {error}"))??;
    }
    Ok(())
}

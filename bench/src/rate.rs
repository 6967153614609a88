//! Appends at a fixed rate: the latencies of clients that do not wait for each other.
//!
//! Each append has a time at which it is due. Its latency counts from then, whether a connection
//! was free or not, so that a server that stops for a while is charged for everything due
//! meanwhile: there is no coordinated omission.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

use crate::{
    load::{self, end_of_all},
    measure::Times,
    wire::{Client, Work},
};

/// Maximum time for the appends still in progress at the end.
const END_TIME_MAX: Duration = Duration::from_secs(30);
/// Interval between two looks at what is due: the system cannot sleep much shorter.
const TICK: Duration = Duration::from_micros(100);

/// Quantiles that are reported.
pub(crate) const QUANTILES: [f64; 6] = [0.5, 0.9, 0.99, 0.999, 0.9999, 1.0];

/// Results at one rate.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RateRun {
    pub(crate) wanted_per_second: f64,
    pub(crate) per_second: f64,
    /// Latencies at [`QUANTILES`].
    pub(crate) latencies_ms: [f64; 6],
    #[serde(skip)]
    pub(crate) latencies_us: Histogram<u64>,
}

struct Schedule {
    begun: Instant,
    per_second: f64,
    appends: u64,
    /// The number of the next append.
    next: AtomicU64,
    /// One permit for each append that is due and not started.
    due: Semaphore,
    given_up: AtomicBool,
    /// Appends due from then on count.
    counts_from: Instant,
    latencies_us: Mutex<Histogram<u64>>,
}

/// Offers this many appends per second.
///
/// # Errors
///
/// If anything was not appended, or the contestant cannot keep up with the rate.
pub(crate) async fn run_once(times: Times, work: Work, per_second: f64) -> Result<RateRun, String> {
    let clients = load::open_all(work).await?;
    let time = times.warm_up + times.measured;
    let begun = Instant::now();
    let schedule = Arc::new(Schedule {
        begun,
        per_second,
        appends: (per_second * time.as_secs_f64()) as u64,
        next: AtomicU64::new(0),
        due: Semaphore::new(0),
        given_up: AtomicBool::new(false),
        counts_from: begun + times.warm_up,
        latencies_us: Mutex::new(load::histogram()),
    });
    let pacing = Arc::clone(&schedule);
    // A thread of its own: the runtime's timers only have a resolution of milliseconds.
    let pacer = thread::spawn(move || pacing.pace());
    let mut senders = JoinSet::new();
    for client in clients {
        senders.spawn(append_when_due(client, Arc::clone(&schedule)));
    }
    let ended = timeout(time + END_TIME_MAX, end_of_all(&mut senders)).await;
    let measured = begun.elapsed().saturating_sub(times.warm_up);
    schedule.given_up.store(true, Ordering::Relaxed);
    pacer.join().map_err(|_| "the pacer panicked".to_owned())?;
    match ended {
        Ok(ended) => ended?,
        Err(_elapsed) => return Err(format!("{per_second:.0}/s is more than it can handle")),
    }
    let latencies_us = schedule.latencies_us.lock();
    let latencies_us = latencies_us.unwrap_or_else(PoisonError::into_inner).clone();
    Ok(RateRun {
        wanted_per_second: per_second,
        per_second: latencies_us.len() as f64 / measured.as_secs_f64(),
        latencies_ms: QUANTILES.map(|quantile| load::quantile_ms(&latencies_us, quantile)),
        latencies_us,
    })
}

impl Schedule {
    /// Releases appends as they are due, until all are.
    fn pace(&self) {
        let mut given = 0;
        while given < self.appends && !self.given_up.load(Ordering::Relaxed) {
            let due = (self.begun.elapsed().as_secs_f64() * self.per_second) as u64;
            let due = due.min(self.appends);
            self.due.add_permits((due - given) as usize);
            given = due;
            thread::sleep(TICK);
        }
    }

    /// Returns the time at which the next append is due, once it is; `None` if there is no more.
    async fn next(&self) -> Option<Instant> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.appends {
            return None;
        }
        self.due.acquire().await.ok()?.forget();
        // The count that makes it due is this number plus one.
        let after = (number + 1) as f64 / self.per_second;
        Some(self.begun + Duration::from_secs_f64(after))
    }
}

async fn append_when_due(mut client: Client, schedule: Arc<Schedule>) -> Result<(), String> {
    while let Some(due) = schedule.next().await {
        client.append().await?;
        if due >= schedule.counts_from {
            let mut latencies_us = schedule
                .latencies_us
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            load::record(&mut latencies_us, due.elapsed());
        }
    }
    Ok(())
}

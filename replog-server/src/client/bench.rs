//! `replog bench`: appends as fast as so many clients can, each with one message under way.

use std::{
    cell::RefCell,
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use replog_core::{
    Concern,
    client::{AppendRequest, Client},
};
use serde_json::{json, value::RawValue};

use super::{
    Context, Failure, Form,
    holders::{concern, duration},
    print,
    table::Table,
};

/// Between two live figures.
const TICK: Duration = Duration::from_millis(500);
/// The latencies that are told.
const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];
/// Latencies are counted up to this.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// How many clients, each with one message under way.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// For how long.
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Bytes of a message, with its quotes.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    bytes: u32,
    /// How many nodes must hold each: a number, `majority` or `all`.
    #[arg(long, default_value = "majority", value_parser = concern)]
    concern: Concern,
}

/// What was measured so far.
struct Measured {
    latencies_us: Histogram<u64>,
}

/// Measures. The messages stay in the log.
pub(super) async fn run(args: &BenchArgs, context: &Context) -> Result<ExitCode, Failure> {
    let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
        .map_err(|error| Failure::new(format!("a histogram: {error}")))?;
    let measured = Rc::new(RefCell::new(Measured {
        latencies_us: histogram,
    }));
    let text = "x".repeat(args.bytes as usize - 2);
    let data =
        serde_json::value::to_raw_value(&text).map_err(|error| Failure::new(error.to_string()))?;
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    let begun = Instant::now();
    let end = begun + args.duration;
    let clients = (0..args.clients).map(|_| {
        // Each with a connection of its own, as real clients have.
        let client = Client::new(context.url());
        one(client, &data, args.concern, end, &measured)
    });
    let live = async {
        loop {
            actix_web::rt::time::sleep(TICK).await;
            let measured = measured.borrow();
            let latencies = &measured.latencies_us;
            let per_second = latencies.len() as f64 / begun.elapsed().as_secs_f64();
            bar.set_message(format!(
                "{} appends, {per_second:.0} a second, p50 {} ms, p99 {} ms",
                latencies.len(),
                ms(latencies.value_at_quantile(0.5)),
                ms(latencies.value_at_quantile(0.99))
            ));
        }
    };
    let done = tokio::select! {
        biased;
        done = try_join_all(clients) => done,
        () = live => Ok(Vec::new()),
    };
    let elapsed = begun.elapsed();
    bar.finish_and_clear();
    done.map_err(|error| Failure::of(context.url(), &error))?;
    report(args, context, &measured.borrow(), elapsed)?;
    Ok(ExitCode::SUCCESS)
}

/// One client.
async fn one(
    client: Result<Client, replog_core::client::ClientError>,
    data: &RawValue,
    concern: Concern,
    end: Instant,
    measured: &Rc<RefCell<Measured>>,
) -> Result<(), replog_core::client::ClientError> {
    let client = client?;
    let request = AppendRequest {
        concern: Some(concern),
        ..AppendRequest::default()
    };
    loop {
        let begun = Instant::now();
        if begun >= end {
            return Ok(());
        }
        client.append_raw(data, &request).await?;
        let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        measured.borrow_mut().latencies_us.saturating_record(us);
    }
}

fn report(
    args: &BenchArgs,
    context: &Context,
    measured: &Measured,
    elapsed: Duration,
) -> Result<(), Failure> {
    let latencies = &measured.latencies_us;
    let per_second = latencies.len() as f64 / elapsed.as_secs_f64();
    let at = |quantile| latencies.value_at_quantile(quantile);
    if context.form == Form::Json {
        let latency_us: serde_json::Map<_, _> = QUANTILES
            .iter()
            .map(|(name, quantile)| ((*name).to_owned(), at(*quantile).into()))
            .collect();
        return context.print_json(&json!({
            "clients": args.clients, "bytes": args.bytes, "appends": latencies.len(),
            "elapsed_ms": elapsed.as_millis() as u64, "per_second": per_second.round(),
            "latency_us": latency_us,
        }));
    }
    let mut table = Table::new([
        "APPENDS", "A SECOND", "P50 MS", "P90 MS", "P99 MS", "P99.9 MS", "MAX MS",
    ]);
    let [p50, p90, p99, p999, max] = QUANTILES.map(|(_, quantile)| ms(at(quantile)));
    table.row([
        latencies.len().to_string(),
        format!("{per_second:.0}"),
        p50,
        p90,
        p99,
        p999,
        max,
    ]);
    print(&table.text(context.is_for_eyes())).map_err(Failure::new)
}

fn ms(us: u64) -> String {
    format!("{}.{:02}", us / 1_000, us % 1_000 / 10)
}

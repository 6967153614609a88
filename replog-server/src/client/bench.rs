//! `replog bench`: appends as fast as a number of clients can, each with one message in flight.

use std::{
    cell::RefCell,
    io::{self, IsTerminal as _},
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use replog_core::{
    Concern,
    client::{AppendRequest, Appended, Client, ClientError},
};
use serde_json::{json, value::RawValue};
use tokio::time::error::Elapsed;

use super::{
    Context, Failure, Form, holders::ConcernParser, print_error, progress, table::Table, tell,
};
use crate::{stderr, words::counted};

/// Interval between two live figures.
const TICK: Duration = Duration::from_millis(500);
/// Time limit for the appends in flight at the end.
const GRACE: Duration = Duration::from_secs(5);
/// The longest measurement: a week.
const TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Pause between a failed append and the client's next.
const PAUSE: Duration = Duration::from_millis(50);
/// Reported latencies.
const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];
/// Upper limit of counted latencies.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Number of clients, each with one message in flight.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Duration of the measurement, in seconds.
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
    /// Bytes of a message, including its quotes.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    bytes: u32,
    /// Number of nodes that must hold each message: a number, `majority` or `all`.
    #[arg(long, default_value = "majority", value_parser = ConcernParser, hide_possible_values = true)]
    concern: Concern,
    /// Append to a log that has messages without asking. Without a terminal, such a log is refused unless this is
    /// given.
    #[arg(long)]
    yes: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse().map(Duration::try_from_secs_f64) {
        Ok(Ok(seconds)) if !seconds.is_zero() && seconds <= TIME_MAX => Ok(seconds),
        _ => Err(format!(
            "a number of seconds above 0, up to {}",
            TIME_MAX.as_secs()
        )),
    }
}

/// Results so far.
struct Measured {
    latencies_us: Histogram<u64>,
    /// Time of the last append that succeeded.
    last: Instant,
    failed: u64,
    last_failure: String,
}

/// A client's next action after an answer.
enum Next {
    Message,
    /// Wait: the problem may be temporary.
    Pause,
    /// End: its time is up.
    End,
}

impl Measured {
    /// Records the answer, or time-out, of an append that began at the given time. A failure before anything succeeded,
    /// and one that would repeat, is an error.
    fn on_answer(
        &mut self,
        begun: Instant,
        appended: Result<Result<Appended, ClientError>, Elapsed>,
    ) -> Result<Next, ClientError> {
        match appended {
            Ok(Ok(appended)) if appended.receipt.concern_met => {
                let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.latencies_us.saturating_record(us);
                self.last = Instant::now();
                Ok(Next::Message)
            }
            Ok(Ok(_)) => {
                self.fail("its concern was not met in time".to_owned());
                Ok(Next::Message)
            }
            Ok(Err(error)) if self.latencies_us.is_empty() || !error.is_retryable() => Err(error),
            Ok(Err(error)) => {
                self.fail(error.to_string());
                Ok(Next::Pause)
            }
            Err(_) => {
                self.fail(format!("no answer within {GRACE:?} after the end"));
                Ok(Next::End)
            }
        }
    }

    fn fail(&mut self, reason: String) {
        self.failed += 1;
        self.last_failure = reason;
    }
}

/// Asks before appending to a log that has messages, because the new ones stay in it.
///
/// # Errors
///
/// The answer is no, or there is no terminal to ask at.
async fn ask_first(context: &Context) -> Result<(), Failure> {
    let health = context.client.health().await;
    let health = health.map_err(|error| Failure::of(context.url(), &error))?;
    let messages = health["log"]["next"].as_u64().unwrap_or_default();
    if messages == 0 {
        return Ok(());
    }
    let what = format!(
        "{} has a log of {}, and the messages of the measurement stay in it",
        context.url(),
        counted(messages, "message")
    );
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let advice = "nothing was appended; bench --yes appends without asking";
        return Err(Failure::new(format!("{what}: {advice}")));
    }
    stderr::line(format_args!("{what}. Go on? [y/N]"));
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.map_err(|error| Failure::new(format!("stdin: {error}")))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new("nothing was appended")),
    }
}

/// Runs the measurement. The messages stay in the log. Exit code 1 if appends failed.
pub(super) async fn run(args: &BenchArgs, context: &Context) -> Result<ExitCode, Failure> {
    let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
        .map_err(|error| Failure::new(format!("a histogram: {error}")))?;
    let text = "x".repeat(args.bytes as usize - 2);
    let data =
        serde_json::value::to_raw_value(&text).map_err(|error| Failure::new(error.to_string()))?;
    if !args.yes {
        ask_first(context).await?;
    }
    let bar = progress::text();
    let begun = Instant::now();
    let end = begun + args.seconds;
    let measured = Rc::new(RefCell::new(Measured {
        latencies_us: histogram,
        last: begun,
        failed: 0,
        last_failure: String::new(),
    }));
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
                "{}, {per_second:.0} per second, p50 {} ms, p99 {} ms",
                counted(latencies.len(), "append"),
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
    bar.finish_and_clear();
    done.map_err(|error| Failure::of(context.url(), &error))?;
    let measured = measured.borrow();
    report(args, context, &measured, measured.last - begun)?;
    if measured.failed == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    print_error(&format!(
        "appends that failed, or were not answered in time: {}; the last one: {}",
        measured.failed, measured.last_failure
    ));
    Ok(ExitCode::FAILURE)
}

/// Runs one client. An error ends the measurement.
async fn one(
    client: Result<Client, ClientError>,
    data: &RawValue,
    concern: Concern,
    end: Instant,
    measured: &Rc<RefCell<Measured>>,
) -> Result<(), ClientError> {
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
        let left = end - begun + GRACE;
        let appended = tokio::time::timeout(left, client.append_raw(data, &request)).await;
        let next = measured.borrow_mut().on_answer(begun, appended)?;
        match next {
            Next::Message => {}
            Next::Pause => tokio::time::sleep(PAUSE).await,
            Next::End => return Ok(()),
        }
    }
}

fn report(
    args: &BenchArgs,
    context: &Context,
    measured: &Measured,
    elapsed: Duration,
) -> Result<(), Failure> {
    let latencies = &measured.latencies_us;
    let per_second = match elapsed.is_zero() {
        true => 0.0,
        false => latencies.len() as f64 / elapsed.as_secs_f64(),
    };
    let at = |quantile| latencies.value_at_quantile(quantile);
    if context.form == Form::Json {
        let latency_us: serde_json::Map<_, _> = QUANTILES
            .iter()
            .map(|(name, quantile)| ((*name).to_owned(), at(*quantile).into()))
            .collect();
        return context.print_json(&json!({
            "clients": args.clients, "bytes": args.bytes, "concern": args.concern.to_string(),
            "appends": latencies.len(), "failed": measured.failed,
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
    tell(&table.text(context.is_for_terminal()))
}

fn ms(us: u64) -> String {
    format!("{}.{:02}", us / 1_000, us % 1_000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_takes_more_than_0_seconds_and_at_most_a_week() {
        let second = Duration::from_secs(1);
        assert_eq!(seconds("0.5"), Ok(second / 2));
        assert_eq!(seconds("604800"), Ok(TIME_MAX));
        for bad in ["0", "-1", "604801", "1e19", "inf", "nan", "soon"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}

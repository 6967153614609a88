//! All contestants by number of clients and size of message, and at half their own best rate.
//!
//! Repetitions are interleaved: each contestant has its turn before any has its next, so that a
//! machine that was busy for a while was busy for all of them. Each turn is a fresh cluster, and
//! the next round begins with another contestant.

use std::{fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    args::Args,
    contestants::{Contestant, Places, Running},
    load, machine,
    measure::{self, Figures, Run, Times},
    node::PATIENCE,
    rate::{self, QUANTILES, RateRun},
    report::{self, Spread},
};

/// Connections over which a fixed rate is offered.
const RATE_CLIENTS: usize = 256;
/// The part of its own best rate that each is offered.
const RATE_PART: f64 = 0.5;

/// The part of it that must be reached for the latencies to mean anything.
const RATE_REACHED: f64 = 0.97;

/// Maximum time of a run besides its own times: connecting, and the last answers.
const RUN_OVERHEAD_MAX: Duration = Duration::from_secs(60);

/// A number of clients and a size of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cell {
    pub(crate) clients: usize,
    pub(crate) payload_bytes: usize,
}

/// All results.
#[derive(Debug, Serialize)]
pub(crate) struct Sweep {
    pub(crate) contestants: Vec<About>,
    /// Time of a write and an `fdatasync` on the same disk, before each repetition.
    pub(crate) sync_ms: Vec<Spread>,
    pub(crate) rows: Vec<Row>,
    pub(crate) rates: Vec<RateRow>,
    /// Contestants that were not measured, or not to the end, and why.
    pub(crate) missing: Vec<(Contestant, String)>,
}

/// Description of a contestant.
#[derive(Debug, Serialize)]
pub(crate) struct About {
    contestant: Contestant,
    name: &'static str,
    version: String,
    settings: &'static str,
}

/// One contestant's runs in one cell.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) contestant: Contestant,
    #[serde(flatten)]
    pub(crate) cell: Cell,
    pub(crate) figures: Figures,
    /// Appends per second as a part of those of the contestant that it is compared with, in the
    /// same repetition.
    pub(crate) ratio: Option<Spread>,
}

/// One contestant at a fixed rate.
#[derive(Debug, Serialize)]
pub(crate) struct RateRow {
    pub(crate) contestant: Contestant,
    pub(crate) wanted_per_second: f64,
    pub(crate) per_second: Spread,
    /// Latencies at [`QUANTILES`], of all repetitions.
    pub(crate) latencies_ms: Vec<Spread>,
    pub(crate) runs: Vec<RateRun>,
    /// All repetitions together.
    #[serde(skip)]
    pub(crate) latencies_us: Histogram<u64>,
}

/// Results of one contestant so far, by repetition.
struct Turns {
    contestant: Contestant,
    /// Runs by cell.
    runs: Vec<Vec<Run>>,
    rate: Option<f64>,
    rate_runs: Vec<RateRun>,
    missing: Option<String>,
}

/// Runs everything as often as wanted.
///
/// # Errors
///
/// Only those of replog: a peer that fails is missing from there on.
pub(crate) async fn run(args: &Args, places: Places<'_>) -> Result<Sweep, String> {
    let cells = args.cells();
    let mut all: Vec<Turns> = args
        .contestants()
        .into_iter()
        .map(|contestant| Turns {
            contestant,
            runs: vec![Vec::new(); cells.len()],
            rate: None,
            rate_runs: Vec::new(),
            missing: None,
        })
        .collect();
    let contestants = all.iter().map(|turns| turns.contestant);
    let contestants = contestants
        .map(|contestant| About {
            contestant,
            name: contestant.name(),
            version: contestant.version(places),
            settings: contestant.settings(),
        })
        .collect();
    let mut sync_ms = Vec::new();
    for repetition in 0..args.repetitions {
        sync_ms.push(machine::sync_ms(places.replog.directory)?);
        for turns in &mut all {
            if turns.missing.is_some() {
                continue;
            }
            let name = turns.contestant.name();
            eprintln!(
                "repetition {} of {}: {name}",
                repetition + 1,
                args.repetitions
            );
            let taken = timeout(turn_time_max(args), turns.take(args, places, &cells)).await;
            match taken.unwrap_or_else(|_elapsed| Err("hangs".to_owned())) {
                Ok(()) => {}
                Err(error) if turns.contestant.is_replog() => return Err(error),
                Err(error) => {
                    eprintln!("{name}: {error}");
                    turns.missing = Some(error);
                }
            }
        }
        // The first contestant gets the machine as the last round left it.
        all.rotate_left(1);
    }
    Ok(Sweep {
        contestants,
        sync_ms,
        ..outcome(args, all, &cells)
    })
}

/// Returns the maximum time of one turn: several times what it takes if nothing hangs.
fn turn_time_max(args: &Args) -> Duration {
    let Times { warm_up, measured } = args.times();
    let runs = u32::try_from(args.cells().len() + 1).expect("few cells");
    2 * PATIENCE + (warm_up + measured + RUN_OVERHEAD_MAX) * runs
}

impl Turns {
    /// Runs one turn: every cell, and the fixed rate.
    async fn take(
        &mut self,
        args: &Args,
        places: Places<'_>,
        cells: &[Cell],
    ) -> Result<(), String> {
        let running = match self.contestant.start(places).await {
            Ok(running) => running,
            // Another program may have taken a port between its choice and its use.
            Err(error) => {
                eprintln!("{}: {error}; once more", self.contestant.name());
                self.contestant.start(places).await?
            }
        };
        let taken = self.measure(args, &running, cells).await;
        taken.map_err(|error| format!("{error}\n{}", running.cluster.log_tail()))?;
        if self.contestant.is_replog() {
            running.cluster.stop().await?;
        }
        Ok(())
    }

    async fn measure(
        &mut self,
        args: &Args,
        running: &Running,
        cells: &[Cell],
    ) -> Result<(), String> {
        for (cell, runs) in cells.iter().zip(&mut self.runs) {
            let work = running.work(cell.clients, cell.payload_bytes)?;
            runs.push(measure::run_once(args.times(), &running.cluster, work).await?);
        }
        if args.rate {
            // The first repetition's best, for all repetitions: a changing rate would be another
            // measurement.
            let rate = match self.rate {
                Some(rate) => rate,
                None => self.best(cells, args.payload_bytes) * RATE_PART,
            };
            self.rate = Some(rate);
            let work = running.work(RATE_CLIENTS, args.payload_bytes)?;
            self.rate_runs
                .push(rate::run_once(args.times(), work, rate).await?);
        }
        Ok(())
    }

    fn best(&self, cells: &[Cell], payload_bytes: usize) -> f64 {
        cells
            .iter()
            .zip(&self.runs)
            .filter(|(cell, _)| cell.payload_bytes == payload_bytes)
            .flat_map(|(_, runs)| runs)
            .map(|run| run.per_second)
            .fold(0.0, f64::max)
    }

    fn rate_row(self) -> Option<RateRow> {
        if self.rate_runs.is_empty() {
            return None;
        }
        let mut latencies_us = load::histogram();
        for run in &self.rate_runs {
            latencies_us
                .add(&run.latencies_us)
                .expect("all have the same bounds");
        }
        let runs = &self.rate_runs;
        let at = |index: usize| Spread::of(runs.iter().map(|run| run.latencies_ms[index]));
        Some(RateRow {
            contestant: self.contestant,
            wanted_per_second: self.rate.unwrap_or_default(),
            per_second: Spread::of(runs.iter().map(|run| run.per_second)),
            latencies_ms: (0..QUANTILES.len()).map(at).collect(),
            latencies_us,
            runs: self.rate_runs,
        })
    }
}

fn outcome(args: &Args, mut all: Vec<Turns>, cells: &[Cell]) -> Sweep {
    let order = args.contestants();
    let place = |turns: &Turns| order.iter().position(|one| *one == turns.contestant);
    all.sort_by_key(place);
    let mut rows = Vec::new();
    for (index, cell) in cells.iter().enumerate() {
        for turns in &all {
            let runs = &turns.runs[index];
            if runs.is_empty() {
                continue;
            }
            let reference = turns.contestant.reference();
            let reference = all
                .iter()
                .find(|other| other.contestant == reference && reference != turns.contestant)
                .map(|other| &other.runs[index])
                .filter(|runs| !runs.is_empty());
            let ratio = |(run, other): (&Run, &Run)| run.per_second / other.per_second;
            rows.push(Row {
                contestant: turns.contestant,
                cell: *cell,
                figures: Figures::of(runs.clone()),
                ratio: reference.map(|reference| Spread::of(runs.iter().zip(reference).map(ratio))),
            });
        }
    }
    let missing = all
        .iter()
        .filter_map(|turns| Some((turns.contestant, turns.missing.clone()?)))
        .collect();
    Sweep {
        contestants: Vec::new(),
        sync_ms: Vec::new(),
        rows,
        rates: all.into_iter().filter_map(Turns::rate_row).collect(),
        missing,
    }
}

impl Sweep {
    /// Formats the report for people.
    pub(crate) fn text(&self) -> String {
        let mut text = "Contestants\n\n".to_owned();
        for about in &self.contestants {
            text += &format!("- {} ({}): {}\n", about.name, about.version, about.settings);
        }
        for (contestant, reason) in &self.missing {
            let reason = reason.trim_end().replace('\n', " / ");
            text += &format!("- Missing: {}: {reason}\n", contestant.name());
        }
        let syncs = Spread::of(self.sync_ms.iter().map(|repetition| repetition.median));
        text += &format!(
            "\nThe disk alone: a write and its fdatasync take {:.3} ms ({:.3} to {:.3}, the medians of \
             the repetitions), {:.0} a second one after another\n",
            syncs.median,
            syncs.min,
            syncs.max,
            1_000.0 / syncs.median
        );
        text += &format!(
            "\nAppends a second, medians, and as a part of those of replog where it promises most \
             nearly the same\n\n{}",
            self.summary()
        );
        text += &format!("\nThe same with all figures\n\n{}", self.table());
        if !self.rates.is_empty() {
            text += &format!(
                "\nAt half of its own best rate each, by a clock: latency from when an append was \
                 due\n\n{}",
                self.rate_table()
            );
        }
        text
    }

    /// Formats a line for each contestant, with a column for each cell.
    fn summary(&self) -> String {
        let mut cells: Vec<Cell> = Vec::new();
        for row in &self.rows {
            if !cells.contains(&row.cell) {
                cells.push(row.cell);
            }
        }
        let names: Vec<String> = cells.iter().map(Cell::to_string).collect();
        let mut heading = vec![""];
        heading.extend(names.iter().map(String::as_str));
        let measured = |contestant: Contestant, cell: &Cell| {
            let mut rows = self.rows.iter();
            rows.find(|row| row.contestant == contestant && row.cell == *cell)
                .map_or_else(String::new, Row::summary)
        };
        let rows: Vec<Vec<String>> = self
            .contestants
            .iter()
            .map(|about| {
                let mut line = vec![about.name.to_owned()];
                line.extend(cells.iter().map(|cell| measured(about.contestant, cell)));
                line
            })
            .collect();
        report::table(&heading, &rows)
    }

    fn table(&self) -> String {
        let mut heading = vec!["", "clients", "bytes", "÷ replog", "least", "most"];
        heading.extend(measure::HEADING);
        let rows: Vec<Vec<String>> = self.rows.iter().map(Row::cells).collect();
        report::table(&heading, &rows)
    }

    fn rate_table(&self) -> String {
        let heading = [
            "",
            "wanted/s",
            "given/s",
            "p50 ms",
            "p90",
            "p99",
            "p99.9",
            "p99.99",
            "max",
            "max least",
            "max most",
        ];
        let rows: Vec<Vec<String>> = self
            .rates
            .iter()
            .map(|row| {
                let mut cells = vec![
                    row.contestant.name().to_owned(),
                    format!("{:.0}", row.wanted_per_second),
                    row.given(),
                ];
                let medians = row.latencies_ms.iter().map(|spread| spread.median);
                cells.extend(medians.map(|ms| format!("{ms:.2}")));
                let worst = row.latencies_ms[QUANTILES.len() - 1];
                cells.extend([worst.min, worst.max].map(|ms| format!("{ms:.2}")));
                cells
            })
            .collect();
        report::table(&heading, &rows)
    }
}

impl RateRow {
    /// Formats the rate that was reached, with a mark if it is not the one that was wanted.
    fn given(&self) -> String {
        let given = self.per_second.median;
        match given < self.wanted_per_second * RATE_REACHED {
            true => format!("{given:.0}!"),
            false => format!("{given:.0}"),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {} B", self.clients, self.payload_bytes)
    }
}

impl Row {
    fn summary(&self) -> String {
        let per_second = self.figures.per_second.median;
        match self.ratio {
            Some(ratio) => format!("{per_second:.0} ({:.2})", ratio.median),
            None => format!("{per_second:.0}"),
        }
    }

    fn cells(&self) -> Vec<String> {
        let ratio = self.ratio.map_or_else(
            || vec![String::new(); 3],
            |ratio| {
                [ratio.median, ratio.min, ratio.max]
                    .map(|part| format!("{part:.2}"))
                    .into()
            },
        );
        let mut cells = vec![
            self.contestant.name().to_owned(),
            self.cell.clients.to_string(),
            self.cell.payload_bytes.to_string(),
        ];
        cells.extend(ratio);
        cells.extend(self.figures.cells());
        cells
    }
}

/// Converts seconds to a duration.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

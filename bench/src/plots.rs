//! Plots of the figures: throughput against clients, latency at a fixed rate, catching up.

use hdrhistogram::Histogram;

use crate::{
    load,
    plot::{Axis, Line, Plot, Point, Scale},
    sweep::{RateRow, Row, Sweep},
};

/// Shares of slower appends: from half of them to one in 10,000.
const SLOWER: [f64; 5] = [0.5, 0.1, 0.01, 0.001, 0.000_1];
/// Points of a line between them, for each factor of ten.
const POINTS_PER_TEN: i32 = 12;

/// Returns the plots of the contestants, with the names of their files.
pub(crate) fn of_contestants(sweep: &Sweep, payload_bytes: usize) -> Vec<(&'static str, Plot)> {
    let mut plots = vec![("throughput.svg", throughput(sweep, payload_bytes))];
    if !sweep.rates.is_empty() {
        plots.push(("latency.svg", latency(&sweep.rates, payload_bytes)));
    }
    plots
}

fn throughput(sweep: &Sweep, payload_bytes: usize) -> Plot {
    let mut lines: Vec<(_, Line)> = Vec::new();
    let mut ticks = Vec::new();
    let rows = sweep.rows.iter();
    for row in rows.filter(|row| row.cell.payload_bytes == payload_bytes) {
        let clients = row.cell.clients as f64;
        let tick = (clients, row.cell.clients.to_string());
        if !ticks.contains(&tick) {
            ticks.push(tick);
        }
        let known = lines.iter_mut().find(|(one, _)| *one == row.contestant);
        match known {
            Some((_, line)) => line.points.push(throughput_point(row)),
            None => lines.push((
                row.contestant,
                Line {
                    name: row.contestant.name().to_owned(),
                    points: vec![throughput_point(row)],
                },
            )),
        }
    }
    Plot {
        title: format!("Appends a second, {payload_bytes} bytes each: median, least and most"),
        x: axis("clients", Scale::Logarithmic, ticks),
        y: axis("appends a second", Scale::Logarithmic, Vec::new()),
        lines: lines.into_iter().map(|(_, line)| line).collect(),
    }
}

fn throughput_point(row: &Row) -> Point {
    let spread = row.figures.per_second;
    Point {
        x: row.cell.clients as f64,
        y: spread.median,
        low: spread.min,
        high: spread.max,
    }
}

fn latency(rates: &[RateRow], payload_bytes: usize) -> Plot {
    let ticks = SLOWER.map(|slower| (1.0 / slower, format!("{}%", percent(slower))));
    let lines = rates.iter().map(|row| Line {
        name: format!("{} ({:.0}/s)", row.contestant.name(), row.wanted_per_second),
        points: percentiles(&row.latencies_us),
    });
    Plot {
        title: format!(
            "Latency at half of its own best rate each, {payload_bytes} bytes, from when it was due"
        ),
        x: axis("percentile", Scale::Logarithmic, ticks.to_vec()),
        y: axis("milliseconds", Scale::Logarithmic, Vec::new()),
        lines: lines.collect(),
    }
}

fn percent(slower: f64) -> f64 {
    // No digits that only come from the binary fraction.
    ((1.0 - slower) * 1e6).round() / 1e4
}

/// Returns percentiles as far as there are enough appends for them to mean something.
fn percentiles(latencies_us: &Histogram<u64>) -> Vec<Point> {
    let most = (latencies_us.len() as f64).min(1.0 / SLOWER[SLOWER.len() - 1]);
    (0..)
        .map(|step| 2.0 * 10_f64.powf(f64::from(step) / f64::from(POINTS_PER_TEN)))
        .take_while(|one_in| *one_in <= most)
        .map(|one_in| {
            let ms = load::quantile_ms(latencies_us, 1.0 - 1.0 / one_in);
            Point::at(one_in, ms)
        })
        .collect()
}

/// Plots the share that a secondary held, over time.
pub(crate) fn of_catching_up(points: &[(f64, f64)], log_mib: f64) -> Plot {
    Plot {
        title: format!("An empty secondary gets a log of {log_mib:.0} MiB"),
        x: axis(
            "seconds since its process started",
            Scale::Linear,
            Vec::new(),
        ),
        y: axis("percent of the messages", Scale::Linear, Vec::new()),
        lines: vec![Line {
            name: "held durably".to_owned(),
            points: points.iter().map(|(x, y)| Point::at(*x, *y)).collect(),
        }],
    }
}

fn axis(label: &str, scale: Scale, ticks: Vec<(f64, String)>) -> Axis {
    Axis {
        label: label.to_owned(),
        scale,
        ticks,
    }
}

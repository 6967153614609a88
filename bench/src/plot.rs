//! Plots as SVG, for people: lines over an axis, each with its name and colour.
//!
//! Written by hand: a plot here is two axes, a few lines and a legend, which needs no library.

use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 480.0;
/// Margins: for labels, and at the right for names.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 230.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 56.0;

/// Distinguishable with colour vision deficiencies, as far as that many colours can be.
const COLOURS: [&str; 11] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000",
    "#9467bd", "#8c564b", "#bcbd22",
];

/// One plot.
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
}

/// One axis of a plot.
pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) scale: Scale,
    /// Positions of its numbers, and their labels; empty: chosen by the values.
    pub(crate) ticks: Vec<(f64, String)>,
}

/// Mapping of values to positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    /// For values above 0.
    Logarithmic,
}

/// One line of a plot.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}

/// A value, and the range around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Point {
    /// Makes a point without a range.
    pub(crate) fn at(x: f64, y: f64) -> Point {
        Point {
            x,
            y,
            low: y,
            high: y,
        }
    }
}

/// An axis with its ends, in its own scale.
struct Range<'a> {
    axis: &'a Axis,
    low: f64,
    high: f64,
    ticks: Vec<(f64, String)>,
}

impl Scale {
    fn of(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
        }
    }
}

impl<'a> Range<'a> {
    fn of(axis: &'a Axis, values: impl Iterator<Item = f64>) -> Range<'a> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.map(|value| axis.scale.of(value)) {
            (low, high) = (low.min(value), high.max(value));
        }
        if axis.scale == Scale::Linear {
            low = low.min(0.0);
        }
        if !low.is_finite() || !high.is_finite() {
            (low, high) = (0.0, 1.0);
        } else if high <= low {
            high = low + 1.0;
        }
        let ticks = match axis.scale {
            _ if !axis.ticks.is_empty() => axis.ticks.clone(),
            Scale::Linear => linear_ticks(high),
            Scale::Logarithmic => logarithmic_ticks(&mut low, &mut high),
        };
        Range {
            axis,
            low,
            high,
            ticks,
        }
    }

    /// Returns the position of a value, from 0 to 1.
    fn part(&self, value: f64) -> f64 {
        (self.axis.scale.of(value) - self.low) / (self.high - self.low)
    }

    fn visible_ticks(&self) -> impl Iterator<Item = &(f64, String)> {
        let ticks = self.ticks.iter();
        ticks.filter(|(value, _)| (-0.001..=1.001).contains(&self.part(*value)))
    }
}

/// Returns about five ticks, at round numbers.
fn linear_ticks(high: f64) -> Vec<(f64, String)> {
    let rough = high / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let count = (high / step).floor() as u32;
    (0..=count)
        .map(|number| f64::from(number) * step)
        .map(|value| (value, name(value)))
        .collect()
}

/// Returns 1, 2 and 5 of every power of ten; moves the ends outwards to the nearest of them.
fn logarithmic_ticks(low: &mut f64, high: &mut f64) -> Vec<(f64, String)> {
    let powers = low.floor() as i32..=high.ceil() as i32;
    let ticks: Vec<f64> = powers
        .flat_map(|power| [1.0, 2.0, 5.0].map(|factor| factor * 10_f64.powi(power)))
        .collect();
    let below = ticks.iter().map(|tick| tick.log10());
    *low = below.clone().rfind(|tick| tick <= low).unwrap_or(*low);
    *high = below.into_iter().find(|tick| tick >= high).unwrap_or(*high);
    ticks.into_iter().map(|tick| (tick, name(tick))).collect()
}

fn name(value: f64) -> String {
    match value {
        _ if value >= 1_000_000.0 => format!("{}M", value / 1_000_000.0),
        _ if value >= 1_000.0 => format!("{}k", value / 1_000.0),
        // No digits that only come from the binary fraction.
        _ => ((value * 1e6).round() / 1e6).to_string(),
    }
}

impl Plot {
    /// Returns the whole file.
    pub(crate) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Range::of(&self.x, points().map(|point| point.x));
        let y = Range::of(&self.y, points().flat_map(|point| [point.low, point.high]));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        let title = escaped(&self.title);
        text(
            &mut svg,
            (LEFT, 26.0),
            "start",
            &format!("<tspan font-size=\"15\">{title}</tspan>"),
        );
        axes(&mut svg, &x, &y);
        for (index, line) in self.lines.iter().enumerate() {
            draw(&mut svg, line, index, &x, &y);
        }
        svg + "</svg>\n"
    }
}

fn across(part: f64) -> f64 {
    LEFT + part * (WIDTH - LEFT - RIGHT)
}

fn down(part: f64) -> f64 {
    HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
}

fn axes(svg: &mut String, x: &Range<'_>, y: &Range<'_>) {
    for (value, name) in x.visible_ticks() {
        let place = across(x.part(*value));
        stroke(svg, (place, down(0.0)), (place, down(1.0)), "#e4e4e4");
        text(svg, (place, down(0.0) + 18.0), "middle", &escaped(name));
    }
    for (value, name) in y.visible_ticks() {
        let place = down(y.part(*value));
        stroke(svg, (across(0.0), place), (across(1.0), place), "#e4e4e4");
        text(svg, (across(0.0) - 8.0, place + 4.0), "end", &escaped(name));
    }
    stroke(
        svg,
        (across(0.0), down(0.0)),
        (across(1.0), down(0.0)),
        "#444",
    );
    stroke(
        svg,
        (across(0.0), down(0.0)),
        (across(0.0), down(1.0)),
        "#444",
    );
    text(
        svg,
        (across(0.5), HEIGHT - 14.0),
        "middle",
        &escaped(&x.axis.label),
    );
    let (left, middle) = (18.0, down(0.5));
    let _ = writeln!(
        svg,
        "<text transform=\"translate({left} {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escaped(&y.axis.label)
    );
}

fn draw(svg: &mut String, line: &Line, index: usize, x: &Range<'_>, y: &Range<'_>) {
    let colour = COLOURS[index % COLOURS.len()];
    let place = |px: f64, py: f64| (across(x.part(px)), down(y.part(py)));
    let path: Vec<String> = line
        .points
        .iter()
        .map(|point| place(point.x, point.y))
        .map(|(px, py)| format!("{px:.1},{py:.1}"))
        .collect();
    let path = path.join(" ");
    let _ = writeln!(
        svg,
        "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>"
    );
    for point in &line.points {
        if point.high > point.low {
            stroke(
                svg,
                place(point.x, point.low),
                place(point.x, point.high),
                colour,
            );
        }
        // Marks only where they can be distinguished from the line.
        if line.points.len() <= 20 {
            let (px, py) = place(point.x, point.y);
            let _ = writeln!(
                svg,
                "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"2.8\" fill=\"{colour}\"/>"
            );
        }
    }
    let beside = (WIDTH - RIGHT + 14.0, TOP + 10.0 + 20.0 * index as f64);
    let _ = writeln!(
        svg,
        "<rect x=\"{}\" y=\"{}\" width=\"14\" height=\"4\" fill=\"{colour}\"/>",
        beside.0,
        beside.1 - 6.0
    );
    text(
        svg,
        (beside.0 + 20.0, beside.1),
        "start",
        &escaped(&line.name),
    );
}

fn stroke(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, content: &str) {
    let (x, y) = at;
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>"
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(label: &str, scale: Scale) -> Axis {
        Axis {
            label: label.to_owned(),
            scale,
            ticks: Vec::new(),
        }
    }

    #[test]
    fn numbers_on_an_axis_are_round() {
        let names = |ticks: Vec<(f64, String)>| -> Vec<String> {
            ticks.into_iter().map(|(_, name)| name).collect()
        };
        assert_eq!(names(linear_ticks(1.1)), ["0", "0.5", "1"]);
        assert_eq!(names(linear_ticks(31_000.0)), ["0", "10k", "20k", "30k"]);
        let (mut low, mut high) = (0.3_f64.log10(), 40_f64.log10());
        logarithmic_ticks(&mut low, &mut high);
        assert!((low - 0.2_f64.log10()).abs() < 1e-9, "{low}");
        assert!((high - 50_f64.log10()).abs() < 1e-9, "{high}");
    }

    #[test]
    fn every_line_is_drawn_and_named_within_the_frame() {
        let line = |name: &str, points: &[(f64, f64)]| Line {
            name: name.to_owned(),
            points: points.iter().map(|(x, y)| Point::at(*x, *y)).collect(),
        };
        let plot = Plot {
            title: "a < b".to_owned(),
            x: axis("clients", Scale::Logarithmic),
            y: axis("appends/s", Scale::Linear),
            lines: vec![line("one", &[(1.0, 5.0), (64.0, 10.0)]), line("none", &[])],
        };
        let svg = plot.svg();
        assert!(svg.contains("a &lt; b") && svg.contains(">one<") && svg.contains(">none<"));
        let first = svg
            .split("points=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        for place in first.split([' ', ',']) {
            assert!((0.0..=WIDTH).contains(&place.parse().unwrap()), "{first}");
        }
    }

    #[test]
    fn a_plot_of_nothing_is_a_plot() {
        let plot = Plot {
            title: String::new(),
            x: axis("", Scale::Logarithmic),
            y: axis("", Scale::Linear),
            lines: Vec::new(),
        };
        assert!(!plot.svg().contains("NaN"));
    }
}

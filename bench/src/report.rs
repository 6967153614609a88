//! Numbers for people: medians and aligned tables.

use serde::Serialize;

/// Values of the repetitions of one run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Summarizes at least one value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        assert!(!values.is_empty(), "a spread of nothing");
        values.sort_unstable_by(f64::total_cmp);
        let (lower, upper) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Spread {
            median: f64::midpoint(lower, upper),
            min: values[0],
            max: values[values.len() - 1],
        }
    }
}

/// Minimum width of a column: Markdown wants a dash and a colon under its heading.
const WIDTH_MIN: usize = 2;

/// Formats rows below a heading; each column is as wide as its widest cell and right-aligned.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain([heading[column].chars().count()])
            .fold(WIDTH_MIN, usize::max)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .into_iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:>width$}"))
            .collect();
        format!("| {} |\n", padded.join(" | "))
    };
    let rule: Vec<String> = widths
        .iter()
        .map(|width| format!("{}:", "-".repeat(width.saturating_sub(1))))
        .collect();
    let mut text = line(heading.to_vec());
    text += &line(rule.iter().map(String::as_str).collect());
    for row in rows {
        text += &line(row.iter().map(String::as_str).collect());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_in_the_middle() {
        let cases: [(&[f64], f64); 3] = [
            (&[3.0], 3.0),
            (&[5.0, 1.0, 2.0], 2.0),
            (&[4.0, 1.0, 2.0, 9.0], 3.0),
        ];
        for (values, median) in cases {
            assert_eq!(Spread::of(values.iter().copied()).median, median);
        }
    }

    #[test]
    fn a_table_is_aligned() {
        let rows = [vec!["1".to_owned(), "10000".to_owned()]];
        let expected = "|  w |   a/s |\n| -: | ----: |\n|  1 | 10000 |\n";
        assert_eq!(table(&["w", "a/s"], &rows), expected);
    }
}

//! Tables: aligned columns for terminals, columns separated by tabs for programs.

use std::fmt::Write as _;

/// Space between two columns, for terminals.
const GAP: &str = "  ";
/// Minimum length of a shortened cell.
const CELL_CHARS_MIN: usize = 9;

/// Rows under a heading.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Returns an empty table with these headings.
    pub(super) fn new<const N: usize>(headings: [&str; N]) -> Table {
        Table {
            rows: vec![headings.map(str::to_owned).to_vec()],
        }
    }

    /// Adds a row with as many cells as there are headings.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(cells.len(), self.rows[0].len(), "a cell for each heading");
        self.rows.push(cells.to_vec());
    }

    /// For terminals, shortens the cells of a column as far as needed for the lines to fit. Cuts their middle, since
    /// names that belong together often begin or end in the same way.
    pub(super) fn fit(&mut self, column: usize, line_chars_max: usize) {
        let excess = self.widths().iter().sum::<usize>() + GAP.len() * (self.rows[0].len() - 1);
        let excess = excess.saturating_sub(line_chars_max);
        let most = self.widths()[column].saturating_sub(excess);
        let most = most.max(CELL_CHARS_MIN);
        for row in &mut self.rows {
            row[column] = shortened(&row[column], most);
        }
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        };
        (0..self.rows[0].len()).map(width).collect()
    }

    /// Returns the text, one line per row.
    pub(super) fn text(&self, for_terminal: bool) -> String {
        let mut text = String::new();
        let widths = self.widths();
        for row in &self.rows {
            let line = match for_terminal {
                false => row.join("\t"),
                true => row
                    .iter()
                    .zip(&widths)
                    .map(|(cell, width)| format!("{cell:width$}"))
                    .collect::<Vec<_>>()
                    .join(GAP),
            };
            let _ = writeln!(
                text,
                "{}",
                if for_terminal { line.trim_end() } else { &line }
            );
        }
        text
    }
}

/// Returns a text of at most this many characters, without its middle if it is longer.
fn shortened(text: &str, chars_max: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= chars_max {
        return text.to_owned();
    }
    let kept = chars_max - 1;
    let (begin, end) = (&chars[..kept / 2], &chars[chars.len() - kept.div_ceil(2)..]);
    begin.iter().chain(&['\u{2026}']).chain(end).collect()
}

/// Returns a time for people, in the unit that fits, rounded down.
pub(super) fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

/// Returns a word in colour, if a person sees it and has not asked for no colour (<https://no-color.org>).
pub(super) fn coloured(text: &str, colour: Colour, for_terminal: bool) -> String {
    let wanted = for_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match wanted {
        true => format!("\x1b[{}m{text}\x1b[0m", colour as u8),
        false => text.to_owned(),
    }
}

/// Meaning of a colour.
#[derive(Clone, Copy, Debug)]
pub(super) enum Colour {
    Bad = 31,
    Good = 32,
    Doubtful = 33,
    Aside = 2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_for_terminals_and_separated_by_tabs_for_programs() {
        let mut table = Table::new(["node", "next"]);
        table.row(["a long name".to_owned(), "7".to_owned()]);
        assert_eq!(table.text(true), "node         next\na long name  7\n");
        assert_eq!(table.text(false), "node\tnext\na long name\t7\n");
    }

    #[test]
    fn a_column_is_shortened_as_far_as_needed() {
        let table = || {
            let mut table = Table::new(["node", "next"]);
            table.row(["secondary-in-the-east-17".to_owned(), "7".to_owned()]);
            table.row(["master".to_owned(), "7".to_owned()]);
            table
        };
        let mut wide = table();
        wide.fit(0, 80);
        assert_eq!(wide.text(true), table().text(true));
        let mut narrow = table();
        narrow.fit(0, 20);
        assert_eq!(
            narrow.text(true),
            "node            next\nsecond\u{2026}east-17  7\nmaster          7\n"
        );
        let mut narrowest = table();
        narrowest.fit(0, 1);
        assert!(narrowest.text(true).contains("seco\u{2026}t-17  7"));
    }

    #[test]
    fn times_are_shown_in_a_unit_that_fits() {
        let table = [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_250, "1.2 s"),
            (119_000, "1 min"),
            (7_260_000, "2 h"),
        ];
        for (ms, expected) in table {
            assert_eq!(span(ms), expected);
        }
    }
}

//! Numbered lines of an input: UTF-8, with no more of them in memory than one that a node could take. A byte order mark
//! at the input's beginning, which some editors write, is not part of the first line.

use std::io::{BufRead, Read as _};

use replog_core::limits::FRAME_BYTES_MAX;

use super::Failure;
use crate::words::counted;

/// Maximum number of bytes of a line: the longest possible message, and space for the other fields.
const LINE_BYTES_MAX: usize = FRAME_BYTES_MAX + (1 << 20);

/// An input that is read line by line.
pub(super) struct Lines<R> {
    input: R,
    /// Name of the input in errors.
    name: String,
    line: Vec<u8>,
    line_bytes_max: usize,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn of(input: R, name: impl Into<String>) -> Lines<R> {
        Lines {
            input,
            name: name.into(),
            line: Vec::new(),
            line_bytes_max: LINE_BYTES_MAX,
            number: 0,
        }
    }

    /// Returns the next line, without its end, its number from 1 on, and its length in bytes; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(&str, u64, usize)>, Failure> {
        self.line.clear();
        let mut limited = (&mut self.input).take(self.line_bytes_max as u64 + 1);
        let bytes = limited.read_until(b'\n', &mut self.line);
        let bytes = bytes.map_err(|error| Failure::new(format!("{}: {error}", self.name)))?;
        if bytes == 0 {
            return Ok(None);
        }
        self.number += 1;
        let number = self.number;
        if bytes > self.line_bytes_max {
            let most = self.line_bytes_max;
            return Err(Failure::new(format!(
                "line {number} is longer than {}, which no message may be",
                counted(most, "byte")
            )));
        }
        let text = std::str::from_utf8(&self.line).map_err(|error| {
            let valid = error.valid_up_to();
            Failure::new(format!("line {number} is not UTF-8 from byte {valid} on"))
        })?;
        let text = match number {
            1 => text.strip_prefix('\u{feff}').unwrap_or(text),
            _ => text,
        };
        Ok(Some((text.trim_end_matches(['\n', '\r']), number, bytes)))
    }
}

/// Returns the error in the JSON of one line, without that line's number, which is always 1: the caller knows the
/// number in the input.
pub(super) fn error_without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(what) => format!("{what} at column {}", error.column()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_a_line_is_reported_with_its_column_and_without_a_line_number() {
        let error = serde_json::from_str::<u64>("no line").expect_err("no number");
        assert_eq!(error_without_line(&error), "expected ident at column 2");
    }

    #[test]
    fn lines_are_numbered_and_errors_name_the_number() {
        let mut lines = Lines::of("\u{feff}one\r\n\ntwo".as_bytes(), "it");
        let mut all = Vec::new();
        while let Some((line, number, bytes)) = lines.next().expect("text") {
            all.push((line.to_owned(), number, bytes));
        }
        let line = |text: &str, number, bytes| (text.to_owned(), number, bytes);
        assert_eq!(all, [line("one", 1, 8), line("", 2, 1), line("two", 3, 3)]);

        let table = [
            (&b"one\nt\xffo\n"[..], "line 2 is not UTF-8 from byte 1 on"),
            (&b"one\n0123456789\n"[..], "line 2 is longer than 8 bytes"),
        ];
        for (input, expected) in table {
            let mut lines = Lines::of(input, "it");
            lines.line_bytes_max = 8;
            lines.next().expect("the first line");
            let failure = lines.next().expect_err("the second line");
            assert!(failure.reason.starts_with(expected), "{}", failure.reason);
        }
    }
}

//! The division of lines into appends: as many lines as wanted, if they are not longer than an append may be.
//!
//! Owns where a batch ends. A line is never divided, and a batch has at least one: whether that one is too long is the
//! master's answer. Knows no client and no input.

use replog_core::{
    frame::bytes_of,
    limits::{FRAME_BYTES_MAX, KEY_BYTES_MAX},
};
use serde_json::value::RawValue;

/// A line of the input that is a message.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Counted from 1, blank lines included.
    pub(super) number: u64,
    pub(super) data: Box<RawValue>,
}

/// Lines that are sent as one append, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    lines: Vec<Line>,
    /// Bytes of the lines, without their ends.
    bytes: usize,
    /// The line that would have been too much, if it ends because of that.
    split_before: Option<u64>,
}

impl Batch {
    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Returns the number of the line before which the input was split, if it was.
    pub(super) fn split_before(&self) -> Option<u64> {
        self.split_before
    }

    /// Returns its lines as the beginning of a sentence about the past.
    pub(super) fn were(&self) -> String {
        match &*self.lines {
            [] => "no line was".to_owned(),
            [only] => format!("line {} was", only.number),
            [first, .., last] => format!("lines {} to {} were", first.number, last.number),
        }
    }

    /// Returns the first line that alone is longer than this.
    pub(super) fn longer_than(&self, limit_bytes: u64) -> Option<&Line> {
        let is_longer = |line: &&Line| line.data.get().len() as u64 > limit_bytes;
        self.lines.iter().find(is_longer)
    }

    /// Returns the parts of it that are no longer than this, as far as lines are not; `None` if that is all of it.
    pub(super) fn split(&self, limit_bytes: u64) -> Option<Vec<Batch>> {
        let mut batches = Batches::new(usize::MAX);
        let lines = self.lines.iter().cloned();
        let mut parts: Vec<Batch> = lines
            .flat_map(|line| batches.push(line, limit_bytes))
            .collect();
        let mut last = batches.end()?;
        last.split_before = self.split_before;
        parts.push(last);
        (parts.len() > 1).then_some(parts)
    }

    fn push(&mut self, line: Line) {
        self.bytes += line.data.get().len();
        self.lines.push(line);
    }

    /// Returns true if the batch with this line is an append that a master may take: its lines with a line break
    /// between them are no longer than a request may be, and with them and a key it is no longer in the log than an
    /// append may be.
    fn has_room_for(&self, line: &Line, limit_bytes: u64) -> bool {
        let count = self.lines.len() + 1;
        let bytes = self.bytes + line.data.get().len();
        let body_bytes = bytes + count - 1;
        let log_bytes = bytes_of(KEY_BYTES_MAX, count, bytes);
        body_bytes as u64 <= limit_bytes && log_bytes <= FRAME_BYTES_MAX
    }
}

/// The batches of an input.
#[derive(Debug)]
pub(super) struct Batches {
    lines_max: usize,
    open: Batch,
}

impl Batches {
    /// Starts without a line, for batches of up to this many.
    pub(super) fn new(lines_max: usize) -> Batches {
        Batches {
            lines_max,
            open: Batch::default(),
        }
    }

    /// Adds a line, and returns the batches to send now, in this order. A request may have `limit_bytes`.
    pub(super) fn push(&mut self, line: Line, limit_bytes: u64) -> Vec<Batch> {
        let mut ready = Vec::new();
        if !self.open.has_room_for(&line, limit_bytes)
            && let Some(mut before) = self.end()
        {
            before.split_before = Some(line.number);
            ready.push(before);
        }
        self.open.push(line);
        if self.open.lines.len() >= self.lines_max {
            ready.extend(self.end());
        }
        ready
    }

    /// Returns the last batch, if any.
    pub(super) fn end(&mut self) -> Option<Batch> {
        let batch = std::mem::take(&mut self.open);
        (!batch.lines.is_empty()).then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a line of this length.
    fn line(number: u64, length: usize) -> Line {
        let text = format!("\"{}\"", "x".repeat(length - 2));
        let data = RawValue::from_string(text).expect("JSON");
        Line { number, data }
    }

    /// Returns the numbers of the first and the last line of each batch, and of the line before which it was split.
    fn batches(
        lengths: &[usize],
        lines_max: usize,
        limit_bytes: u64,
    ) -> Vec<(u64, u64, Option<u64>)> {
        let mut batches = Batches::new(lines_max);
        let lines = (1..)
            .zip(lengths)
            .map(|(number, length)| line(number, *length));
        let mut all: Vec<Batch> = lines
            .flat_map(|line| batches.push(line, limit_bytes))
            .collect();
        all.extend(batches.end());
        all.iter().map(places).collect()
    }

    fn places(batch: &Batch) -> (u64, u64, Option<u64>) {
        let number = |line: Option<&Line>| line.expect("a line").number;
        let (first, last) = (batch.lines.first(), batch.lines.last());
        (number(first), number(last), batch.split_before)
    }

    #[test]
    fn a_batch_ends_with_its_lines_or_before_the_line_that_is_one_byte_too_much() {
        // Two line breaks.
        assert_eq!(batches(&[3, 4, 5], 9, 14), [(1, 3, None)]);
        assert_eq!(batches(&[3, 4, 6], 9, 14), [(1, 2, Some(3)), (3, 3, None)]);
        assert_eq!(batches(&[3, 4, 5], 2, 14), [(1, 2, None), (3, 3, None)]);
        // A line that is too long is sent alone: it is refused there.
        let expected = [(1, 1, Some(2)), (2, 2, Some(3)), (3, 3, None)];
        assert_eq!(batches(&[3, 15, 3], 9, 14), expected);
        assert_eq!(batches(&[], 9, 14), []);
    }

    #[test]
    fn a_batch_is_no_longer_in_the_log_than_an_append_may_be() {
        let rest = FRAME_BYTES_MAX - bytes_of(KEY_BYTES_MAX, 3, 20);
        assert_eq!(batches(&[10, rest, 10], 9, u64::MAX), [(1, 3, None)]);
        let expected = [(1, 2, Some(3)), (3, 3, None)];
        assert_eq!(batches(&[10, rest, 11], 9, u64::MAX), expected);
    }

    #[test]
    fn parts_have_everything_in_order_and_say_where_they_were_split() {
        let mut batches = Batches::new(9);
        for number in 1..=5 {
            assert!(batches.push(line(number, 10), 1000).is_empty());
        }
        let whole = batches.push(line(6, 1000), 1000).remove(0);
        assert_eq!(whole.were(), "lines 1 to 5 were");
        let parts = whole.split(21).expect("parts");
        let found: Vec<_> = parts.iter().map(places).collect();
        assert_eq!(found, [(1, 2, Some(3)), (3, 4, Some(5)), (5, 5, Some(6))]);
        assert_eq!(parts[2].were(), "line 5 was");
        assert!(whole.split(54).is_none() && parts[2].split(1).is_none());
        assert!(whole.longer_than(10).is_none());
        assert_eq!(whole.longer_than(9).map(|line| line.number), Some(1));
    }
}

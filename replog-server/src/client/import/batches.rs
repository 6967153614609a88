//! The division of a file into batches. It depends only on the file, from the line on that a run starts with.
//!
//! A message that has an idempotency key is an append of its own, with that key. If a batch was appended with a key,
//! its first message has it, and nothing shows where the batch ended: then a retry of the batch is refused, since the
//! key belongs to other data, and not appended twice.
//!
//! A key can occur twice in a file: the log it was exported from had forgotten the first message by then. So the keys
//! of the file are remembered up to its end, 16 bytes of each: a million keys take about 30 MB.

use std::collections::HashSet;

use replog_core::{
    Offset,
    frame::bytes_of,
    limits::{FRAME_BYTES_MAX, KEY_BYTES_MAX},
};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::super::export::Line;

/// Maximum number of messages of a batch: few enough for every sensible `--key-horizon`.
const BATCH: usize = 500;
/// Number of bytes after which a batch ends. With its last message it has no more than an append may have.
const BATCH_BYTES: usize = 4 << 20;

/// Messages that are sent as one append.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Derived from the position that the first message came from.
    pub(super) key: String,
    /// The key of its only message.
    pub(super) own_key: Option<String>,
    /// That key also occurs earlier in the file.
    pub(super) repeats_key: bool,
    /// The offset of the first message, in the file.
    pub(super) first: Offset,
    pub(super) messages: Vec<Box<RawValue>>,
    /// The messages are bytes in base64.
    pub(super) base64: bool,
    pub(super) bytes: usize,
    places: Vec<Place>,
}

/// A message's place in the file.
#[derive(Clone, Debug)]
struct Place {
    offset: Offset,
    /// Number of its line, from 1 on.
    line: u64,
    /// The key of a batch that begins with it.
    key: String,
}

/// The batches of a file.
#[derive(Debug)]
pub(super) struct Batches {
    keeps_keys: bool,
    open: Batch,
    seen_keys: HashSet<KeyDigest>,
}

/// Digest of a key: the first 16 bytes of its SHA-256, as in the log's own table of keys.
type KeyDigest = [u8; 16];

fn digest(key: &str) -> KeyDigest {
    let mut first = [0; 16];
    first.copy_from_slice(&Sha256::digest(key)[..16]);
    first
}

impl Batches {
    /// Starts without a line. Messages that have keys keep them, if wanted.
    pub(super) fn new(keeps_keys: bool) -> Batches {
        Batches {
            keeps_keys,
            open: Batch::default(),
            seen_keys: HashSet::new(),
        }
    }

    /// Skips a line, and remembers its key.
    pub(super) fn skip(&mut self, line: &Line) {
        if let Some(key) = &line.message.idempotency_key
            && self.keeps_keys
        {
            self.seen_keys.insert(digest(key));
        }
    }

    /// Adds the line of this number, and returns the batches to send now, in this order.
    pub(super) fn push(&mut self, mut line: Line, number: u64) -> Vec<Batch> {
        let own_key = line.message.idempotency_key.take();
        let own_key = own_key.filter(|_| self.keeps_keys);
        if let Some(own_key) = own_key {
            let mut alone = Batch::default();
            alone.push(line, number);
            alone.repeats_key = !self.seen_keys.insert(digest(&own_key));
            alone.own_key = Some(own_key);
            return self.end().into_iter().chain([alone]).collect();
        }
        let is_of_one_kind = self.open.base64 == line.message.data_base64.is_some();
        let before = match is_of_one_kind && self.open.has_room_for(&line) {
            true => None,
            false => self.end(),
        };
        self.open.push(line, number);
        let full = self.open.is_full().then(|| self.end());
        before.into_iter().chain(full.flatten()).collect()
    }

    /// Returns the last batch, if any.
    pub(super) fn end(&mut self) -> Option<Batch> {
        let batch = std::mem::take(&mut self.open);
        (!batch.messages.is_empty()).then_some(batch)
    }
}

impl Batch {
    /// Returns true if the batch with this message is no longer than an append may be.
    fn has_room_for(&self, line: &Line) -> bool {
        let bytes = match &line.message.data_base64 {
            None => line.message.data.get().len(),
            // It has quotation marks around it.
            Some(text) => text.len() + 2,
        };
        let count = self.messages.len() + 1;
        bytes_of(KEY_BYTES_MAX, count, self.bytes + bytes) <= FRAME_BYTES_MAX
    }

    fn push(&mut self, line: Line, number: u64) {
        let Line {
            message,
            cluster_id,
        } = line;
        let cluster = cluster_id.map(|id| format!("{id}-"));
        let key = format!(
            "import-{}{}-{}-{}",
            cluster.unwrap_or_default(),
            message.epoch,
            message.timestamp_ms,
            message.offset
        );
        self.base64 = message.data_base64.is_some();
        let data = match message.data_base64 {
            None => message.data,
            Some(bytes) => serde_json::value::to_raw_value(&bytes).expect("a string is valid JSON"),
        };
        let (offset, line) = (message.offset, number);
        self.add(data, Place { offset, line, key });
    }

    fn add(&mut self, data: Box<RawValue>, place: Place) {
        if self.messages.is_empty() {
            self.first = place.offset;
            self.key.clone_from(&place.key);
        }
        self.places.push(place);
        self.bytes += data.get().len();
        self.messages.push(data);
    }

    /// Returns its two halves; `None` for one message.
    pub(super) fn halves(&self) -> Option<(Batch, Batch)> {
        if self.messages.len() < 2 {
            return None;
        }
        let middle = self.messages.len() / 2;
        let part = |range: std::ops::Range<usize>| {
            let mut part = Batch {
                base64: self.base64,
                ..Batch::default()
            };
            let messages = self.messages[range.clone()].iter().cloned();
            for (data, place) in messages.zip(self.places[range].iter().cloned()) {
                part.add(data, place);
            }
            part
        };
        Some((part(0..middle), part(middle..self.messages.len())))
    }

    /// Returns the offset after its last message, in the file.
    pub(super) fn end(&self) -> Offset {
        self.places
            .last()
            .map_or(self.first, |last| last.offset.plus(1))
    }

    /// Returns the number of the line of its only message; `None` if it has more.
    pub(super) fn only_line(&self) -> Option<u64> {
        match &*self.places {
            [only] => Some(only.line),
            _ => None,
        }
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= BATCH || self.bytes >= BATCH_BYTES
    }

    /// Returns the number of bytes of its longest message.
    pub(super) fn longest(&self) -> usize {
        let lengths = self.messages.iter().map(|message| message.get().len());
        lengths.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(offset: u64, key: Option<&str>) -> Line {
        let line = serde_json::json!({
            "offset": offset, "epoch": 1, "timestamp_ms": 5, "data": offset, "idempotency_key": key,
        });
        Line::parse(&line.to_string()).expect("a line")
    }

    /// Returns first offset, number of messages and key of each batch.
    fn batches(
        offsets: impl Iterator<Item = u64>,
        keeps_keys: bool,
    ) -> Vec<(u64, usize, Option<String>)> {
        let mut batches = Batches::new(keeps_keys);
        let mut all = Vec::new();
        for offset in offsets {
            let key = (offset % 700 == 699).then_some("k");
            all.extend(batches.push(line(offset, key), offset + 1));
        }
        all.extend(batches.end());
        let told = |batch: Batch| (batch.first.0, batch.messages.len(), batch.own_key);
        all.into_iter().map(told).collect()
    }

    #[test]
    fn a_message_with_a_key_is_sent_alone_and_a_later_start_gives_the_same_borders() {
        let own = || Some("k".to_owned());
        let whole = batches(0..1_500, true);
        let expected = [
            (0, 500, None),
            (500, 199, None),
            (699, 1, own()),
            (700, 500, None),
            (1_200, 199, None),
            (1_399, 1, own()),
            (1_400, 100, None),
        ];
        assert_eq!(whole, expected);
        for (at, (first, ..)) in expected.iter().enumerate() {
            assert_eq!(batches(*first..1_500, true), expected[at..], "{first}");
        }
        let without = [(0, 500, None), (500, 500, None), (1_000, 500, None)];
        assert_eq!(batches(0..1_500, false), without);
    }

    #[test]
    fn a_key_repeats_an_earlier_one_in_the_file_even_in_the_skipped_part() {
        let mut batches = Batches::new(true);
        batches.skip(&line(0, Some("a")));
        let repeats: Vec<bool> = ["b", "a", "b", "c"]
            .into_iter()
            .zip(1..)
            .flat_map(|(key, offset)| batches.push(line(offset, Some(key)), offset + 1))
            .map(|batch| batch.repeats_key)
            .collect();
        assert_eq!(repeats, [false, true, true, false]);
    }

    #[test]
    fn halves_begin_with_their_own_keys_and_have_everything_in_order() {
        let mut all = Batches::new(false);
        for offset in 0..5 {
            assert!(all.push(line(offset, None), offset + 1).is_empty());
        }
        let whole = all.end().expect("a batch");
        let (first, second) = whole.halves().expect("halves");
        assert_eq!((first.first, second.first), (Offset(0), Offset(2)));
        assert_eq!(first.key, whole.key);
        assert_ne!(second.key, whole.key);
        assert_eq!(first.bytes + second.bytes, whole.bytes);
        let data = |batch: &Batch| -> Vec<String> {
            let data = batch.messages.iter();
            data.map(|data| data.get().to_owned()).collect()
        };
        assert_eq!([data(&first), data(&second)].concat(), data(&whole));
        let one = first.halves().expect("halves").1;
        assert!(one.halves().is_none());
        let lines = [&whole, &second, &one].map(Batch::only_line);
        assert_eq!(lines, [None, None, Some(2)]);
    }

    #[test]
    fn a_batch_ends_before_a_message_with_which_it_would_be_longer_than_an_append_may_be() {
        let long = |offset: u64, length: usize| {
            let data = "x".repeat(length - 2);
            let line = serde_json::json!({
                "offset": offset, "epoch": 1, "timestamp_ms": 5, "data": data,
            });
            Line::parse(&line.to_string()).expect("a line")
        };
        let rest = FRAME_BYTES_MAX - bytes_of(KEY_BYTES_MAX, 2, 1);
        for (more, expected) in [(0, &[2][..]), (1, &[1, 1])] {
            let mut batches = Batches::new(true);
            let mut all = batches.push(line(0, None), 1);
            all.extend(batches.push(long(1, rest + more), 2));
            all.extend(batches.end());
            let counts: Vec<usize> = all.iter().map(|batch| batch.messages.len()).collect();
            assert_eq!(counts, expected, "{more}");
        }
    }

    #[test]
    fn bytes_and_json_are_never_in_one_batch() {
        let bytes = r#"{"offset":1,"epoch":1,"timestamp_ms":5,"data_base64":"aGVsbG8="}"#;
        let mut batches = Batches::new(true);
        assert!(batches.push(line(0, None), 1).is_empty());
        let before = batches.push(Line::parse(bytes).expect("a line"), 2);
        assert_eq!((before.len(), before[0].base64), (1, false));
        let before = batches.push(line(2, None), 3);
        assert_eq!((before.len(), before[0].base64), (1, true));
        assert_eq!(before[0].messages[0].get(), r#""aGVsbG8=""#);
    }
}

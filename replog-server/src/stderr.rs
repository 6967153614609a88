//! Lines for people on stderr, where it does no harm that nobody reads it: a closed pipe there is no reason
//! to fail, as it is for `eprintln!`.

use crate::client::eyes::escaped;
use std::{
    fmt::Display,
    io::{self, Write as _},
};

/// A sentence, on one line, by the program of that name.
pub(crate) fn say(program: &str, sentence: &str) {
    // It may repeat what others said.
    let sentence = escaped(&one_line(sentence));
    line(format_args!("{program}: {sentence}"));
}

/// A line as it stands.
pub(crate) fn line(text: impl Display) {
    // In one piece, so that what others write to the same place is not mixed with it.
    let text = format!("{text}\n");
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// The same text without line breaks.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

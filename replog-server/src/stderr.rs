//! Lines for people on stderr. A closed pipe there does no harm and is no reason to fail, as it is for `eprintln!`.

use crate::client::eyes::escaped;
use std::{
    fmt::Display,
    io::{self, Write as _},
};

/// Prints a sentence of the named program on one line.
pub(crate) fn say(program: &str, sentence: &str) {
    // It may repeat text from others.
    let sentence = escaped(&one_line(sentence));
    line(format_args!("{program}: {sentence}"));
}

/// Prints a line unchanged.
pub(crate) fn line(text: impl Display) {
    // In one write, so that output from others is not mixed with it.
    let text = format!("{text}\n");
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Returns the text without line breaks.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

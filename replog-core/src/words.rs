//! Words that depend on a number.
//!
//! Owns the plural of regular nouns, for texts that people read.

use std::fmt::Display;

/// Returns a number and its noun, such as `1 node` or `3 nodes`.
pub(crate) fn counted(count: impl Display, noun: &str) -> String {
    let count = count.to_string();
    let plural = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

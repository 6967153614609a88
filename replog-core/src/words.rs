//! Words that depend on a number.
//!
//! Owns the plural of regular nouns, for texts that people read. Public for the programs of this repository only.

use std::fmt::Display;

/// Returns a number and its noun, such as `1 node` or `3 nodes`.
#[must_use]
pub fn counted(count: impl Display, noun: &str) -> String {
    let count = count.to_string();
    let plural = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_takes_the_singular() {
        for (count, expected) in [(0, "0 nodes"), (1, "1 node"), (2, "2 nodes")] {
            assert_eq!(counted(count, "node"), expected);
        }
    }
}

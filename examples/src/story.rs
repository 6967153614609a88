//! [`Story`]: the timeline that a program prints, and the checks with which it ends.
//!
//! Owns stdout and the clock that the timeline counts from. One line per event, in columns:
//! milliseconds since the beginning, the node, the event.

use std::{
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::Failure;

/// A timeline with checks at its end. Clones share it.
#[derive(Clone, Debug)]
pub struct Story {
    began: Instant,
    told: Arc<Mutex<StoryState>>,
}

#[derive(Debug)]
struct StoryState {
    title: &'static str,
    checks: Vec<Check>,
}

#[derive(Debug)]
struct Check {
    what: String,
    holds: bool,
}

impl Story {
    /// Begins a story: prints its title, what to look at, and the head of the columns.
    #[must_use]
    pub fn begin(title: &'static str, look_at: &str) -> Story {
        print(format_args!("{title}\n{}", "=".repeat(title.len())));
        print(format_args!("{}\n", look_at.trim()));
        print(format_args!("{:>6}  {:<11}  what happens", "ms", "node"));
        print(format_args!("{:->6}  {:-<11}  {:-<12}", "", "", ""));
        Story {
            began: Instant::now(),
            told: Arc::new(Mutex::new(StoryState {
                title,
                checks: Vec::new(),
            })),
        }
    }

    /// Returns the time since the story began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Prints one event at `node`.
    pub fn line(&self, node: &str, what: impl Display) {
        // The clock is read under the lock: no line is older than the one above it.
        let _told = self.told();
        let ms = self.elapsed().as_millis();
        print(wrapped(&format!("{ms:>6}  {node:<11}  {what}")));
    }

    /// Prints the heading of a part.
    pub fn part(&self, heading: impl Display) {
        let _told = self.told();
        print(format_args!("\n{:>6}  -- {heading}", ""));
    }

    /// Records whether a check that the story promised holds. Printed at the end.
    pub fn check(&self, what: impl Into<String>, holds: bool) {
        let what = what.into();
        self.told().checks.push(Check { what, holds });
    }

    /// Ends the story: prints the checks. Returns success if the outcome is a success, every check
    /// held, and there was at least one.
    #[must_use]
    pub fn end(&self, outcome: Result<(), Failure>) -> ExitCode {
        let told = self.told();
        print(format_args!("\nChecked:"));
        for Check { what, holds } in &told.checks {
            let verdict = if *holds { "ok" } else { "NOT SO" };
            print(format_args!("{verdict:>6}  {what}"));
        }
        let failed = told.checks.iter().filter(|check| !check.holds).count();
        let title = told.title;
        match outcome {
            Err(failure) => print(format_args!("\n{title}: stopped early: {failure}")),
            Ok(()) if told.checks.is_empty() => print(format_args!("\n{title}: checked nothing")),
            Ok(()) if failed > 0 => {
                let checks = told.checks.len();
                print(format_args!(
                    "\n{title}: {failed} of {checks} checks failed"
                ));
            }
            Ok(()) => {
                let checks = told.checks.len();
                print(format_args!("\n{title}: all {checks} checks held"));
                return ExitCode::SUCCESS;
            }
        }
        ExitCode::FAILURE
    }

    fn told(&self) -> MutexGuard<'_, StoryState> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maximum columns of a line, and the columns before the event.
const COLUMNS: usize = 120;
const INDENT: usize = 21;

/// Breaks a long line of the timeline between words, and continues below the event's column.
fn wrapped(line: &str) -> String {
    let mut text = String::new();
    let mut columns = 0;
    for word in line.split_inclusive(' ') {
        let width = word.trim_end().chars().count();
        if columns + width > COLUMNS && columns > INDENT {
            text.truncate(text.trim_end().len());
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', INDENT));
            columns = INDENT;
        }
        text.push_str(word);
        columns += word.chars().count();
    }
    text
}

/// Prints as `println!` does, without its panic when stdout is closed.
fn print(line: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_broken_between_words_and_continues_in_the_event_column() {
        let short = "     1  master       is Healthy";
        assert_eq!(wrapped(short), short);
        let long = format!("     1  master       {}", "word ".repeat(50));
        let text = wrapped(long.trim_end());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        for line in &lines {
            assert!(
                line.len() <= COLUMNS && line.trim_end() == *line,
                "{line:?}"
            );
        }
        assert!(
            lines[1].starts_with(&format!("{:INDENT$}word", "")),
            "{text}"
        );
        assert_eq!(text.split_whitespace().count(), 52);
        // A word that is too long for any line gets a line of its own.
        let word = "x".repeat(200);
        assert_eq!(wrapped(&word), word);
    }
}

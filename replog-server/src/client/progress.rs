//! How far long work has come, on stderr, where somebody sees it.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar for so many messages; nothing where stderr is no terminal.
pub(super) fn messages(total: u64) -> ProgressBar {
    let template = "{wide_bar} {human_pos} of {human_len} messages, {per_sec}, {eta} left";
    styled(ProgressBar::new(total), template)
}

/// As [`messages`], for so many bytes; without a bar where nobody knows how many there will be.
pub(super) fn bytes(total: Option<u64>) -> ProgressBar {
    match total {
        Some(total) => styled(
            ProgressBar::new(total),
            "{wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
        ),
        None => styled(
            ProgressBar::new_spinner(),
            "{spinner} {binary_bytes}, {binary_bytes_per_sec}",
        ),
    }
}

/// A line that says what it is told.
pub(super) fn text() -> ProgressBar {
    styled(ProgressBar::new_spinner(), "{spinner} {msg}")
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        // A template that is not understood leaves the bar as it is by default.
        Err(_) => bar,
    }
}

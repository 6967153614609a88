//! Progress of long work, on stderr, if a person sees it.

use indicatif::{ProgressBar, ProgressStyle};

/// Returns a bar for `total` messages; a hidden one if stderr is not a terminal.
pub(super) fn messages(total: u64) -> ProgressBar {
    let template = "{wide_bar} {human_pos} of {human_len} messages, {per_sec}, {eta} left";
    styled(ProgressBar::new(total), template)
}

/// Does what [`messages`] does, for bytes; without a bar if the total is not known.
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

/// Returns a line that shows the text it is given.
pub(super) fn text() -> ProgressBar {
    styled(ProgressBar::new_spinner(), "{spinner} {msg}")
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        // If the template is not understood, the bar keeps its default.
        Err(_) => bar,
    }
}

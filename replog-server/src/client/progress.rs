//! How far long work has come, on stderr, where somebody sees it.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar for so many messages; nothing where stderr is no terminal.
pub(super) fn messages(total: Option<u64>) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    let template = match total {
        Some(_) => "{wide_bar} {human_pos} of {human_len} messages, {per_sec}, {eta} left",
        None => "{spinner} {human_pos} messages, {per_sec}",
    };
    // A template that is not understood leaves the bar as it is by default.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

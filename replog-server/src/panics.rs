//! The end of the process after a panic in any thread.
//!
//! A thread that panics leaves others waiting for it: for a worker that does not start, for a date that is no longer
//! updated. Such a process answers some requests and not others, and no supervisor knows that it should be restarted.
//! So it ends, with the reason in one line. Only the program does this: the library never ends its host.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::{self, PanicHookInfo},
    process, thread,
};

use crate::log_lines;

/// Exit code of a process that panicked: the same as of one that could not start or had to stop.
const PANICKED: i32 = 1;

/// Makes every panic from now on end the process with exit code 1.
pub(crate) fn end_the_process() {
    panic::set_hook(Box::new(|info| {
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            log::error!("{backtrace}");
        }
        log_lines::say(&reason(info));
        log_lines::finish();
        process::exit(PANICKED);
    }));
}

fn reason(info: &PanicHookInfo<'_>) -> String {
    let thread = thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let what = info.payload_as_str().unwrap_or("no reason was given");
    let place = info.location().map_or(String::new(), |location| {
        // From the crate's directory on: the directories before it are those of the build machine.
        let parts: Vec<&str> = location.file().rsplit('/').take(3).collect();
        let file = parts.into_iter().rev().collect::<Vec<_>>().join("/");
        format!(" ({file}:{})", location.line())
    });
    format!("the thread {thread} panicked, and the process ends: {what}{place}")
}

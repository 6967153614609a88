//! The output of a command: data to stdout, everything else to stderr, and the behaviour after the reader is gone.
//!
//! A reader that closes a pipe has seen enough. A command that only reads is over then; one that changes something, or
//! whose exit code matters, goes on without output.

use std::{future::pending, io, sync::Arc, thread};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tokio::sync::Notify;

use super::failure::Failure;
use crate::stderr;

/// Writes data that it is the command's purpose to show.
///
/// # Errors
///
/// The system's error; if the reader is gone, a failure without a message and with exit code 0.
pub(super) fn print(data: &str) -> Result<(), Failure> {
    let written = write(&mut io::stdout().lock(), data);
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::unread(),
        _ => told(&error),
    })
}

/// Writes what a command has done or found, which holds whether or not anybody reads it.
///
/// # Errors
///
/// The system's error.
pub(super) fn tell(data: &str) -> Result<(), Failure> {
    match write(&mut io::stdout().lock(), data) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(told(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Waits until the reader of stdout is gone, which is noticed when the pipe is closed and not only at the next write;
/// for ever if that never happens.
pub(super) async fn unread() {
    let closed = Arc::new(Notify::new());
    let tell = Arc::clone(&closed);
    // A separate thread waits, for as long as the program lasts: a runtime may not be able to wait on stdout.
    let waiting = thread::Builder::new().spawn(move || {
        let stdout = io::stdout();
        loop {
            // Requests no events; those that are always reported are enough: an error, or the other end's closing.
            let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
            match poll(&mut polled, None) {
                Err(Errno::INTR) => {}
                Ok(_)
                    if polled[0]
                        .revents()
                        .intersects(PollFlags::ERR | PollFlags::HUP) =>
                {
                    tell.notify_one();
                    return;
                }
                Ok(_) | Err(_) => return,
            }
        }
    });
    match waiting {
        Ok(_) => closed.notified().await,
        // Then the next write notices it.
        Err(_) => pending().await,
    }
}

/// Prints one line on stderr.
pub(super) fn print_error(reason: &str) {
    stderr::say("replog", reason);
}

fn write(stdout: &mut impl io::Write, data: &str) -> io::Result<()> {
    stdout.write_all(data.as_bytes())?;
    stdout.flush()
}

fn told(error: &io::Error) -> Failure {
    Failure::new(format!("stdout: {error}"))
}

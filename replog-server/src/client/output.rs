//! Where a command's words go: data to stdout, everything else to stderr, and what is done where nobody reads
//! them any more.
//!
//! Whoever closes a pipe has seen enough. A command that only reads is over then; one that changes something,
//! or whose exit code says something, goes on without words.

use std::{future::pending, io, sync::Arc, thread};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tokio::sync::Notify;

use super::failure::Failure;
use crate::stderr;

/// Writes data that a command is there to show.
///
/// # Errors
///
/// What the system says; a failure that says nothing and is exit code 0, where nobody reads it any more.
pub(super) fn print(data: &str) -> Result<(), Failure> {
    let written = write(&mut io::stdout().lock(), data);
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::unread(),
        _ => told(&error),
    })
}

/// Writes what a command has done or found, which holds whether or not somebody reads it.
///
/// # Errors
///
/// What the system says.
pub(super) fn tell(data: &str) -> Result<(), Failure> {
    match write(&mut io::stdout().lock(), data) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(told(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Waits until nobody reads stdout any more, which is noticed when the pipe is closed and not only with the next
/// write; for ever where that is never so.
pub(super) async fn unread() {
    let closed = Arc::new(Notify::new());
    let tell = Arc::clone(&closed);
    // A thread of its own waits, for as long as the program lasts: stdout may be something that no runtime can wait on.
    let waiting = thread::Builder::new().spawn(move || {
        let stdout = io::stdout();
        loop {
            // Nothing is asked for but what is always told: an error, or the other end's going.
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

/// One line on stderr.
pub(super) fn complain(reason: &str) {
    stderr::say("replog", reason);
}

fn write(stdout: &mut impl io::Write, data: &str) -> io::Result<()> {
    stdout.write_all(data.as_bytes())?;
    stdout.flush()
}

fn told(error: &io::Error) -> Failure {
    Failure::new(format!("stdout: {error}"))
}

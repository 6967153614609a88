//! The minimum cost of an append to one disk: parse, append, sync a group, answer.
//!
//! ```text
//! bare-one DIRECTORY
//!
//! web worker ── channel ──> one thread: write a group, fdatasync, answer each
//! ```
//!
//! Leaves out: checksums, segments, an index, reading, recovery, limits on waiting appends, keys,
//! time limits, and everything that could tell a torn end from an intact one. A write that fails
//! ends it.

use std::{
    fs::File,
    io::{self, Write as _},
    path::PathBuf,
    sync::mpsc::{Receiver, channel},
    thread,
};

use replog_bare::{Append, encode, open_log};
use tokio::sync::oneshot;

#[actix_web::main]
async fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.ok_or_else(|| io::Error::other("usage: bare-one DIRECTORY"))?;
    let file = open_log(&directory)?;
    let (sender, appends) = channel();
    thread::spawn(move || {
        if let Err(error) = write(file, &appends) {
            eprintln!("bare-one: {error}");
            std::process::exit(1);
        }
    });
    replog_bare::serve("bare-one", move |payload| {
        let (answer, offset) = oneshot::channel();
        let payload = payload.to_vec();
        let sent = sender.send(Append { payload, answer });
        async move {
            sent.ok()?;
            offset.await.ok()
        }
    })
    .await
}

/// Everything that came while the last group was synced is the next group.
fn write(mut file: File, appends: &Receiver<Append>) -> io::Result<()> {
    let (mut next, mut bytes, mut group) = (0, Vec::new(), Vec::new());
    while let Ok(first) = appends.recv() {
        for append in std::iter::once(first).chain(appends.try_iter()) {
            encode(&mut bytes, &append.payload);
            group.push(append.answer);
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
        bytes.clear();
        for answer in group.drain(..) {
            // The caller may be gone.
            let _ = answer.send(next);
            next += 1;
        }
    }
    Ok(())
}

//! The minimum cost of an append to three disks: as in `bare-one`, with each batch also sent to two
//! followers that append and sync it.
//!
//! ```text
//! bare-three follower DIRECTORY
//! bare-three leader DIRECTORY FOLLOWER FOLLOWER
//!
//! web worker ── channel ──> writer: write a batch, fdatasync ──────────┐
//!                             ├──> follower 1: one batch in flight ────┼──> answered when the
//!                             └──> follower 2: one batch in flight ────┘    leader and one hold it
//! ```
//!
//! Leaves out, in addition to what `bare-one` leaves out: elections, epochs and fencing, any check
//! that a follower's log agrees, catching up, time limits, retries, heartbeats. A connection that
//! breaks or a write that fails ends it. A follower that hangs costs memory without limit.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use replog_bare::{Append, encode, open_log, say_listening};
use tokio::sync::oneshot;

const USAGE: &str =
    "usage: bare-three follower DIRECTORY | bare-three leader DIRECTORY FOLLOWER FOLLOWER";
/// Header of each batch: its length, and the offset after it.
const HEAD_BYTES: usize = 16;

/// Encoded messages, and the offset after them.
#[derive(Clone)]
struct Batch {
    bytes: Arc<Vec<u8>>,
    end: u64,
}

/// The synced ends, and the waiting callers.
#[derive(Default)]
struct Ends {
    /// The offset after the last message that the leader, and each follower, has synced.
    own: u64,
    followers: [u64; 2],
    /// In the order of their offsets, the first of them `next`.
    waiting: VecDeque<oneshot::Sender<u64>>,
    next: u64,
}

impl Ends {
    /// Answers the messages that the leader and one follower hold.
    fn release(&mut self) {
        let end = self.own.min(self.followers[0].max(self.followers[1]));
        while self.next < end {
            let answer = self.waiting.pop_front();
            // The caller may be gone.
            let _ = answer.map(|answer| answer.send(self.next));
            self.next += 1;
        }
    }
}

type SharedEnds = Arc<Mutex<Ends>>;

fn change(ends: &SharedEnds, change: impl FnOnce(&mut Ends)) {
    change(&mut ends.lock().unwrap_or_else(PoisonError::into_inner));
}

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["follower", directory] => follow(Path::new(directory)),
        ["leader", directory, first, second] => lead(Path::new(directory), [first, second]),
        _ => Err(io::Error::other(USAGE)),
    }
}

/// Appends and syncs each batch of one leader, and acknowledges its end.
fn follow(directory: &Path) -> io::Result<()> {
    let mut file = open_log(directory)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    say_listening("follower", &listener)?;
    let (mut leader, _) = listener.accept()?;
    leader.set_nodelay(true)?;
    let (mut head, mut bytes) = ([0; HEAD_BYTES], Vec::new());
    loop {
        leader.read_exact(&mut head)?;
        let (length, end) = head.split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        bytes.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
        leader.read_exact(&mut bytes)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        leader.write_all(end)?;
    }
}

fn lead(directory: &Path, addresses: [&str; 2]) -> io::Result<()> {
    let file = open_log(directory)?;
    let ends = SharedEnds::default();
    let mut followers = Vec::new();
    for (index, address) in addresses.into_iter().enumerate() {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let (sender, batches) = channel();
        let ends = Arc::clone(&ends);
        spawn(move || replicate(stream, index, &batches, &ends));
        followers.push(sender);
    }
    let (sender, appends) = channel();
    let written = Arc::clone(&ends);
    spawn(move || write(file, &appends, &followers, &written));
    actix_web::rt::System::new().block_on(replog_bare::serve("bare-three", move |payload| {
        let (answer, offset) = oneshot::channel();
        let payload = payload.to_vec();
        let sent = sender.send(Append { payload, answer });
        async move {
            sent.ok()?;
            offset.await.ok()
        }
    }))
}

/// Everything that came while the last batch was synced is the next batch.
fn write(
    mut file: File,
    appends: &Receiver<Append>,
    followers: &[Sender<Batch>],
    ends: &SharedEnds,
) -> io::Result<()> {
    let mut end = 0;
    while let Ok(first) = appends.recv() {
        let (mut bytes, mut answers) = (Vec::new(), Vec::new());
        for append in std::iter::once(first).chain(appends.try_iter()) {
            encode(&mut bytes, &append.payload);
            answers.push(append.answer);
            end += 1;
        }
        // Before any follower can ack them.
        change(ends, |ends| ends.waiting.extend(answers));
        let bytes = Arc::new(bytes);
        for follower in followers {
            let bytes = Arc::clone(&bytes);
            follower
                .send(Batch { bytes, end })
                .map_err(io::Error::other)?;
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
        change(ends, |ends| {
            ends.own = end;
            ends.release();
        });
    }
    Ok(())
}

/// Sends the pending messages as one batch, and waits for its ack before it sends more.
fn replicate(
    mut follower: TcpStream,
    index: usize,
    batches: &Receiver<Batch>,
    ends: &SharedEnds,
) -> io::Result<()> {
    let mut ack = [0; 8];
    while let Ok(first) = batches.recv() {
        let all: Vec<Batch> = std::iter::once(first).chain(batches.try_iter()).collect();
        let length: usize = all.iter().map(|batch| batch.bytes.len()).sum();
        let end = all.last().expect("at least the first").end;
        let mut frame = Vec::with_capacity(HEAD_BYTES + length);
        frame.extend_from_slice(&(length as u64).to_le_bytes());
        frame.extend_from_slice(&end.to_le_bytes());
        for batch in &all {
            frame.extend_from_slice(&batch.bytes);
        }
        follower.write_all(&frame)?;
        follower.read_exact(&mut ack)?;
        change(ends, |ends| {
            ends.followers[index] = u64::from_le_bytes(ack);
            ends.release();
        });
    }
    Ok(())
}

/// Starts a thread whose end is the program's.
fn spawn(work: impl FnOnce() -> io::Result<()> + Send + 'static) {
    thread::spawn(move || {
        if let Err(error) = work() {
            eprintln!("bare-three: {error}");
            std::process::exit(1);
        }
    });
}

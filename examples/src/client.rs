//! Clients of a node: they append, one after the other or many at once, and read.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use replog_core::{
    AppendOptions, Concern, Master, MessageRange, Offset, ReadLevel, Reader,
    views::{Message, Receipt},
};
use tokio::task::{JoinHandle, JoinSet};

use crate::{Failure, Story, within};

/// Bytes that a reader asks for at once.
const READ_BYTES: usize = 1 << 20;

/// An append that another task waits for.
pub type Waiting = JoinHandle<Result<Receipt, Failure>>;

/// Appends `text` with concern `w`, waits as long as it takes, and prints both steps.
///
/// # Errors
///
/// The master's answer, if it is not a receipt.
pub async fn append(
    story: &Story,
    master: &Master,
    text: &str,
    w: u64,
) -> Result<Receipt, Failure> {
    story.line("client", format_args!("append {text}, w={w}"));
    let options = AppendOptions::concern(Concern::Count(w));
    match master.append(text.to_owned(), options).await {
        Ok(receipt) => {
            let held_by: Vec<&str> = receipt.acks.iter().map(|name| name.as_str()).collect();
            story.line(
                "client",
                format_args!(
                    "{text} is answered: offset {}, held by {}, after {} ms",
                    receipt.offset,
                    held_by.join(", "),
                    receipt.elapsed.as_millis()
                ),
            );
            Ok(receipt)
        }
        Err(error) => {
            story.line("client", format_args!("{text} is refused: {error}"));
            Err(error.into())
        }
    }
}

/// Appends as [`append`] does, in a task of its own: the story goes on while it waits.
pub fn append_in_background(story: &Story, master: &Master, text: &str, w: u64) -> Waiting {
    let (story, master, text) = (story.clone(), master.clone(), text.to_owned());
    tokio::spawn(async move { append(&story, &master, &text, w).await })
}

/// Waits for the answer to an [`append_in_background`].
///
/// # Errors
///
/// No answer in time, or one that is not a receipt.
pub async fn answer(text: &str, waiting: Waiting) -> Result<Receipt, Failure> {
    within(&format!("the answer to {text}"), waiting).await??
}

/// Makes `clients` append `count` messages in all, each client one after the other, and returns the
/// offset of each message. Message `n` is `payload(n)`.
///
/// # Errors
///
/// The first append that was not answered with a receipt.
pub async fn append_many(
    master: &Master,
    clients: u64,
    count: u64,
    concern: Concern,
    payload: impl Fn(u64) -> Bytes + Clone + Send + 'static,
) -> Result<Vec<(u64, Offset)>, Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (master, next, payload) = (master.clone(), Arc::clone(&next), payload.clone());
        tasks.spawn(async move {
            let mut given = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, Failure>(given);
                }
                let options = AppendOptions::concern(concern);
                let receipt = master.append(payload(number), options).await?;
                given.push((number, receipt.offset));
            }
        });
    }
    let mut given = Vec::new();
    while let Some(client) = within("all appends", tasks.join_next()).await? {
        given.extend(client??);
    }
    Ok(given)
}

/// Returns all messages that a node shows now.
///
/// # Errors
///
/// The node's answer, if it is not messages.
pub async fn read_all(reader: &Reader) -> Result<Vec<Message>, Failure> {
    let end = reader.end(ReadLevel::Local).unwrap_or(Offset::ZERO);
    let mut shown = Vec::new();
    let mut next = Offset::ZERO;
    while next < end {
        let batches = reader.read(next, end, READ_BYTES).await?;
        let before = shown.len();
        shown.extend(batches.iter().flat_map(MessageRange::messages));
        if shown.len() == before {
            return Err(format!("nothing to read at {next}, and the log ends at {end}").into());
        }
        next = shown.last().map_or(end, |message| message.offset.plus(1));
    }
    Ok(shown)
}

/// Messages that a reader saw on a node whose log grew.
#[derive(Debug)]
pub struct Followed {
    /// The messages, in the order in which they were shown.
    pub messages: Vec<Message>,
    /// Messages whose offset was not the one after the message before.
    pub gaps: u64,
    /// Number of times that the reader looked.
    pub looks: u64,
}

/// Reads a node while its log grows, until it has shown everything before `until`.
pub fn follow(reader: Reader, until: Offset) -> JoinHandle<Result<Followed, Failure>> {
    tokio::spawn(async move {
        let mut followed = Followed {
            messages: Vec::new(),
            gaps: 0,
            looks: 0,
        };
        let mut next = Offset::ZERO;
        while next < until {
            let shown = reader.wait_for(next, ReadLevel::Local);
            within(&format!("offset {next}"), shown).await??;
            for batch in reader.read(next, until, READ_BYTES).await? {
                for message in batch.messages() {
                    followed.gaps += u64::from(message.offset != next);
                    next = message.offset.plus(1);
                    followed.messages.push(message);
                }
            }
            followed.looks += 1;
        }
        Ok(followed)
    })
}

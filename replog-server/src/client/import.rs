//! `replog import`: what `export` wrote, appended again, in the same order.
//!
//! Messages go in batches, whose borders depend on the file alone, each with a key made of where its first
//! message came from: a batch that is there already is not appended again.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use replog_core::{Concern, Offset, client::AppendRequest};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Context, Failure, Form, holders::concern, print, progress};

/// Messages of a batch, at most: few enough for every `--key-horizon` that makes sense.
const BATCH: usize = 500;
/// Bytes of a batch, about.
const BATCH_BYTES: usize = 4 << 20;

/// Arguments of `import`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// What `export` wrote; - is stdin.
    file: PathBuf,
    /// How many nodes must hold each batch before the next is sent: a number, `majority` or `all`.
    #[arg(long, default_value = "majority", value_parser = concern)]
    concern: Concern,
    /// Leave out the messages of the file before this offset.
    #[arg(long, default_value_t = 0)]
    from: u64,
}

/// A line of the file. What else it has is of the cluster that it came from.
#[derive(Deserialize)]
struct Line {
    offset: Offset,
    epoch: u64,
    timestamp_ms: u64,
    data: Box<RawValue>,
}

/// What was read and not sent yet.
#[derive(Default)]
struct Batch {
    key: String,
    first: Offset,
    messages: Vec<Box<RawValue>>,
    bytes: usize,
}

/// Appends them, and says how many there were.
pub(super) async fn run(args: &ImportArgs, context: &Context) -> Result<ExitCode, Failure> {
    let mut file: Box<dyn BufRead> = match args.file.as_os_str() == "-" {
        true => Box::new(io::stdin().lock()),
        false => {
            let file = File::open(&args.file);
            let told = |error| Failure::new(format!("{}: {error}", args.file.display()));
            Box::new(BufReader::new(file.map_err(told)?))
        }
    };
    let bar = progress::messages(None);
    let (mut text, mut number) = (String::new(), 0_u64);
    let (mut appended, mut known) = (0, 0);
    let mut batch = Batch::default();
    loop {
        text.clear();
        let read = file.read_line(&mut text);
        let is_end =
            read.map_err(|error| Failure::new(format!("{}: {error}", args.file.display())))? == 0;
        if !is_end && !text.trim().is_empty() {
            number += 1;
            let line: Line = serde_json::from_str(&text).map_err(|error| {
                Failure::new(format!("line {number} is not as export writes it: {error}"))
            })?;
            if line.offset.0 >= args.from {
                batch.push(line);
            }
        }
        if batch.is_full() || (is_end && !batch.messages.is_empty()) {
            let count = batch.messages.len() as u64;
            match send(args, context, &batch).await? {
                true => known += count,
                false => appended += count,
            }
            bar.inc(count);
            batch = Batch::default();
        }
        if is_end {
            break;
        }
    }
    bar.finish_and_clear();
    match context.form {
        Form::Json => {
            context.print_json(&serde_json::json!({ "appended": appended, "known": known }))?;
        }
        Form::Text => {
            let text = format!("{appended} appended, {known} were there already\n");
            print(&text).map_err(Failure::new)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Batch {
    fn push(&mut self, line: Line) {
        if self.messages.is_empty() {
            self.first = line.offset;
            self.key = format!(
                "import-{}-{}-{}",
                line.epoch, line.timestamp_ms, line.offset
            );
        }
        self.bytes += line.data.get().len();
        self.messages.push(line.data);
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= BATCH || self.bytes >= BATCH_BYTES
    }
}

/// Whether it was there already.
async fn send(args: &ImportArgs, context: &Context, batch: &Batch) -> Result<bool, Failure> {
    let request = AppendRequest {
        concern: Some(args.concern),
        idempotency_key: Some(batch.key.clone()),
        ..AppendRequest::default()
    };
    let messages = batch.messages.iter().map(|message| &**message);
    match context.client.append_batch(messages, &request).await {
        Ok(appended) => Ok(appended.replayed),
        Err(error) => {
            let first = batch.first;
            let mut failure = Failure::of(context.url(), &error);
            let kind = error.problem().map(|problem| problem.kind.as_str());
            failure.reason = match kind {
                // The same first message, with others behind it.
                Some("/problems/key-reused") => format!(
                    "the messages from offset {first} on were imported before, from a file that ended \
                     elsewhere: import with --from what was not in it"
                ),
                _ => format!(
                    "{}; everything before offset {first} of the file is imported: run it again to go on",
                    failure.reason
                ),
            };
            Err(failure)
        }
    }
}

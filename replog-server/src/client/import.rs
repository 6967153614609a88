//! `replog import`: what `export` wrote, appended again, in the same order.
//!
//! Messages go in batches, whose borders depend on the file alone, each with a key made of where its first
//! message came from: a batch that is there already is not appended again.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use replog_core::{
    Concern, Offset,
    client::{AppendRequest, GivenUp, Reason},
};
use serde_json::value::RawValue;

use super::{
    Context, Failure, Form,
    export::Line,
    holders::{concern, duration},
    progress, tell,
};

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
    /// How long to send a batch again where that may help: while the master is down, recovers or is
    /// read-only.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    retry: Duration,
    /// Leave out the messages of the file before this offset. Only runs with the same `--from` know of each
    /// other what they have appended.
    #[arg(long, default_value_t = 0)]
    from: u64,
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
    let told = |error| Failure::new(format!("{}: {error}", args.file.display()));
    let (mut file, length): (Box<dyn BufRead>, _) = match args.file.as_os_str() == "-" {
        true => (Box::new(io::stdin().lock()), None),
        false => {
            let file = File::open(&args.file).map_err(told)?;
            let length = file.metadata().map_err(told)?.len();
            (Box::new(BufReader::new(file)), Some(length))
        }
    };
    let bar = progress::bytes(length);
    let (mut text, mut number) = (String::new(), 0_u64);
    let (mut appended, mut known) = (0, 0);
    let mut batch = Batch::default();
    loop {
        text.clear();
        let is_end = file.read_line(&mut text).map_err(told)? == 0;
        bar.inc(text.len() as u64);
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
            tell(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Batch {
    fn push(&mut self, line: Line) {
        if self.messages.is_empty() {
            self.first = line.offset;
            let cluster = line.cluster_id.map(|id| format!("{id}-"));
            self.key = format!(
                "import-{}{}-{}-{}",
                cluster.unwrap_or_default(),
                line.epoch,
                line.timestamp_ms,
                line.offset
            );
        }
        self.bytes += line.data.get().len();
        self.messages.push(line.data);
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= BATCH || self.bytes >= BATCH_BYTES
    }
}

/// Appends a batch, and waits until enough nodes hold it. Whether it was there already.
async fn send(args: &ImportArgs, context: &Context, batch: &Batch) -> Result<bool, Failure> {
    let request = AppendRequest {
        concern: Some(args.concern),
        idempotency_key: Some(batch.key.clone()),
        ..AppendRequest::default()
    };
    let messages: Vec<&RawValue> = batch.messages.iter().map(|message| &**message).collect();
    let mut was_there = None;
    loop {
        let client = &context.client;
        let appended = client.append_batch_retrying(&messages, &request, Some(args.retry));
        let appended = appended
            .await
            .map_err(|given_up| told(context, batch.first, &given_up))?;
        let was_there = *was_there.get_or_insert(appended.replayed);
        if appended.receipt.concern_met {
            return Ok(was_there);
        }
        // The master waits no longer than it was told to; with the same key it waits again.
    }
}

/// Why a batch could not be appended, and how to go on.
fn told(context: &Context, first: Offset, given_up: &GivenUp) -> Failure {
    let mut failure = Failure::of(context.url(), &given_up.last);
    let reason = given_up.last.problem().map(|problem| problem.reason());
    failure.reason = match reason {
        // The same first message, with others behind it.
        Some(Reason::KeyReused { .. }) => format!(
            "the messages from offset {first} on were imported before, from a file that ended elsewhere: \
             import with --from what was not in it"
        ),
        _ => format!(
            "{}; everything before offset {first} of the file is imported: run it again to go on",
            failure.reason
        ),
    };
    failure
}

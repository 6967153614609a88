//! `replog append`: a message, or each line of stdin.

mod batches;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use replog_core::{
    Concern, IdempotencyKey,
    client::{AppendRequest, Client, ClientError, GivenUp, Outcome, Reason, Receipt},
    limits::FRAME_BYTES_MAX,
    types::ClusterId,
};
use serde_json::value::RawValue;

use self::batches::{Batch, Batches, Line};
use super::{
    Context, Failure, Form,
    failure::NOT_IN_TIME,
    holders::{self, ConcernParser, Held, duration, names, waits},
    lines::{Lines, error_without_line},
    position::Position,
    tell,
};
use crate::{stderr, words::counted};

/// Maximum number of lines that are sent together.
const BATCH_MAX: u64 = 100_000;

/// Arguments of `append`.
#[derive(Debug, Args)]
pub(super) struct AppendArgs {
    /// The message: JSON, or otherwise text; @FILE is the file's contents. Without it, or with -, each line of stdin is
    /// a message and must be JSON.
    #[arg(allow_negative_numbers = true)]
    message: Option<String>,
    /// Treat the input as text, even if it is JSON.
    #[arg(long)]
    text: bool,
    /// Number of nodes that must hold it before this returns: a number, `majority` or `all`.
    #[arg(long, default_value = "majority", value_parser = ConcernParser, hide_possible_values = true)]
    concern: Concern,
    /// Maximum time to wait for that, such as `3s` [default: as long as the master does, which is for ever unless
    /// configured otherwise]. The message is in the log whether or not the concern was met in time.
    #[arg(long, value_parser = duration)]
    timeout: Option<Duration>,
    /// Idempotency key: a message with the same key is appended once, however often it is sent. With lines, the first
    /// one gets `KEY-1`, the second one `KEY-2`.
    #[arg(long, value_parser = key)]
    key: Option<String>,
    /// Retry for this long, such as `30s`, where that may help: while the master is down, recovering or read-only. The
    /// message is appended once: it gets a key if it has none.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    retry: Option<Duration>,
    /// Send up to this many lines of stdin as one append: all of them or none. Fewer lines, where more would be longer
    /// than an append may be, which is 8 MiB or what the master says: stderr says where they were split.
    #[arg(long, value_name = "LINES", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=BATCH_MAX))]
    batch: u64,
    /// Report on stderr which nodes hold the message, as they come to hold it.
    #[arg(long, conflicts_with = "batch")]
    watch: bool,
}

/// Checks an idempotency key.
fn key(text: &str) -> Result<String, String> {
    let key = IdempotencyKey::new(text).map_err(|error| error.to_string())?;
    Ok(key.as_str().to_owned())
}

/// Appends, and prints the positions of the messages.
pub(super) async fn run(args: &AppendArgs, context: &Context) -> Result<ExitCode, Failure> {
    match args.message.as_deref() {
        Some(message) if message != "-" => {
            let data = match message.strip_prefix('@').filter(|_| !args.text) {
                Some(file) => of_file(file)?,
                None => one(message, args.text)?,
            };
            let appended = append(args, context, &data, args.key.clone()).await;
            appended.map_err(Refused::into_failure)
        }
        _ => lines(args, context).await,
    }
}

/// Reason why something was not appended.
enum Refused {
    /// It is longer than this limit. Nothing of it was appended.
    TooLong {
        limit_bytes: u64,
        failure: Failure,
    },
    Failed(Failure),
}

impl Refused {
    fn into_failure(self) -> Failure {
        let (Refused::TooLong { failure, .. } | Refused::Failed(failure)) = self;
        failure
    }

    fn of(url: &str, error: &ClientError, has_key: bool) -> Refused {
        let failure = Failure::of_append(url, error, has_key);
        Refused::because(error, error.outcome(), failure)
    }

    fn of_attempts(url: &str, given_up: &GivenUp) -> Refused {
        let failure = Failure::of_attempts(url, given_up);
        Refused::because(&given_up.last, given_up.outcome, failure)
    }

    fn because(error: &ClientError, outcome: Outcome, failure: Failure) -> Refused {
        let limit_bytes = match (error, error.problem().map(|problem| problem.reason())) {
            (ClientError::TooLarge { limit_bytes, .. }, _) => Some(*limit_bytes as u64),
            (_, Some(Reason::TooLarge { limit_bytes, .. })) => Some(limit_bytes),
            _ => None,
        };
        match limit_bytes {
            Some(limit_bytes) if outcome == Outcome::NotAppended => Refused::TooLong {
                limit_bytes,
                failure,
            },
            _ => Refused::Failed(failure),
        }
    }
}

async fn lines(args: &AppendArgs, context: &Context) -> Result<ExitCode, Failure> {
    if io::stdin().is_terminal() {
        super::print_error("one message per line; ^D ends");
    }
    let mut stdin = Lines::of(io::stdin().lock(), "stdin");
    let mut batches = Batches::new(usize::try_from(args.batch).unwrap_or(usize::MAX));
    let mut sending = Sending {
        args,
        context,
        sent: 0,
        limit_bytes: FRAME_BYTES_MAX as u64,
        code: ExitCode::SUCCESS,
    };
    loop {
        let line = stdin.next().map_err(|failure| sending.before(failure))?;
        let is_end = line.is_none();
        let line = match line {
            Some((text, number, _)) => of_line(text, number, args.text)
                .map_err(|failure| sending.before(failure))?
                .map(|data| Line { number, data }),
            None => None,
        };
        // While this waited for a line, nothing watched the connection: if the node closed it, that is seen here, and
        // then another one is opened.
        tokio::task::yield_now().await;
        let ready = line.map(|line| batches.push(line, sending.limit_bytes));
        for batch in ready.into_iter().flatten() {
            sending.send(batch).await?;
        }
        if is_end {
            if let Some(batch) = batches.end() {
                sending.send(batch).await?;
            }
            if sending.sent == 0 {
                super::print_error("stdin had no message: nothing was appended");
            }
            return Ok(sending.code);
        }
    }
}

/// The lines of stdin on their way to the log.
struct Sending<'a> {
    args: &'a AppendArgs,
    context: &'a Context,
    /// Number of messages that are in the log.
    sent: u64,
    /// Maximum number of bytes of a request, as far as it is known.
    limit_bytes: u64,
    code: ExitCode,
}

impl Sending<'_> {
    /// Appends a batch, or its parts one after the other if the master takes only shorter ones.
    async fn send(&mut self, batch: Batch) -> Result<(), Failure> {
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            match self.append(&part).await {
                Ok(code) => {
                    if code != ExitCode::SUCCESS {
                        self.code = code;
                    }
                    self.sent += part.lines().len() as u64;
                    if let Some(next) = part.split_before() {
                        super::print_error(&format!(
                            "{} sent as one append: with line {next} it would be longer than {}",
                            part.were(),
                            counted(self.limit_bytes, "byte")
                        ));
                    }
                }
                Err(Refused::TooLong {
                    limit_bytes,
                    failure,
                }) => {
                    let shorter = match part.longer_than(limit_bytes) {
                        Some(_) => None,
                        None => part.split(limit_bytes),
                    };
                    let Some(shorter) = shorter else {
                        return Err(self.before(too_long(&part, limit_bytes, failure)));
                    };
                    self.limit_bytes = self.limit_bytes.min(limit_bytes);
                    parts.extend(shorter.into_iter().rev());
                }
                Err(Refused::Failed(failure)) => return Err(self.before(failure)),
            }
        }
        Ok(())
    }

    async fn append(&self, batch: &Batch) -> Result<ExitCode, Refused> {
        let (args, context) = (self.args, self.context);
        let key = args.key.as_ref();
        let key = key.map(|key| format!("{key}-{}", self.sent + 1));
        match (args.batch, batch.lines()) {
            (1, [line]) => append(args, context, &line.data, key).await,
            (_, lines) => append_batch(args, context, lines, key).await,
        }
    }

    /// Adds what was appended before.
    fn before(&self, failure: Failure) -> Failure {
        failure.and(&format!("; appended before that: {}", self.sent))
    }
}

/// Names the line of a batch that is too long by itself: the master counts lines from the beginning of the batch.
fn too_long(batch: &Batch, limit_bytes: u64, failure: Failure) -> Failure {
    match (batch.longer_than(limit_bytes), batch.lines()) {
        (Some(line), [_, _, ..]) => Failure::new(format!(
            "line {} is too long: it has {} and {limit_bytes} are allowed",
            line.number,
            counted(line.data.get().len(), "byte")
        )),
        (_, [line]) => failure.of_line(line.number),
        (None, _) | (_, []) => failure,
    }
}

/// Returns the message of a line of stdin; `None` if it is blank.
fn of_line(text: &str, number: u64, as_text: bool) -> Result<Option<Box<RawValue>>, Failure> {
    if as_text {
        return text_of(text).map(Some);
    }
    if text.trim().is_empty() {
        return Ok(None);
    }
    let data = serde_json::from_str(text).map_err(|error| {
        let what = error_without_line(&error);
        Failure::new(format!(
            "line {number} is not JSON: {what}; --text treats lines as text"
        ))
    })?;
    Ok(Some(data))
}

/// Returns the message in a file, which must be JSON.
fn of_file(path: &str) -> Result<Box<RawValue>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!(
            "{path}: {error}; to append text that begins with @, use --text"
        ))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    serde_json::from_str(text)
        .map_err(|error| Failure::usage(format!("{path} is not JSON: {error}")))
}

/// Returns the message of an argument: JSON if it is that, else text. An argument that looks like JSON but is not was
/// probably meant to be JSON, and a shell has removed its quotes.
fn one(message: &str, as_text: bool) -> Result<Box<RawValue>, Failure> {
    if as_text {
        return text_of(message);
    }
    match serde_json::from_str(message) {
        Ok(data) => Ok(data),
        Err(error) if message.trim_start().starts_with(['{', '[', '"']) => {
            Err(Failure::usage(format!(
                "{message} looks like JSON but is not: {error}; quote it for the shell, or use --text"
            )))
        }
        Err(_) => text_of(message),
    }
}

fn text_of(text: &str) -> Result<Box<RawValue>, Failure> {
    serde_json::value::to_raw_value(text).map_err(|error| Failure::new(error.to_string()))
}

fn request(args: &AppendArgs, key: Option<String>) -> AppendRequest {
    AppendRequest {
        concern: Some(args.concern),
        timeout: match args.watch {
            true => Some(Duration::ZERO),
            false => args.timeout,
        },
        idempotency_key: key,
        ..AppendRequest::default()
    }
}

async fn append(
    args: &AppendArgs,
    context: &Context,
    data: &RawValue,
    key: Option<String>,
) -> Result<ExitCode, Refused> {
    let begun = Instant::now();
    let has_key = key.is_some();
    let (client, request) = (&context.client, request(args, key));
    let appended = match args.retry {
        None => client
            .append_raw(data, &request)
            .await
            .map_err(|error| Refused::of(context.url(), &error, has_key))?,
        within => client
            .append_retrying(data, &request, within)
            .await
            .map_err(|given_up| Refused::of_attempts(context.url(), &given_up))?,
    };
    let mut receipt = appended.receipt;
    let watched = match args.watch {
        // A secondary may have forwarded it, and does not know which nodes hold it.
        true => {
            let (url, log) = (&appended.url, appended.cluster_id);
            watch(args, url, log, &mut receipt, begun).await
        }
        false => Ok(()),
    };
    let told = match context.form {
        Form::Json => context.print_json(&receipt),
        Form::Text if context.is_for_terminal() => {
            let again = if appended.replayed { ", as before" } else { "" };
            let (offset, acks) = (receipt.offset, names(&receipt.acks));
            tell(&format!("offset {offset}{again}, held by {acks}\n"))
        }
        Form::Text => tell(&format!("{}\n", receipt.offset)),
    };
    let in_log = "; the message is in the log: do not send it again";
    told.and(watched)
        .map_err(|failure| Refused::Failed(failure.and(in_log)))?;
    if receipt.concern_met {
        return Ok(ExitCode::SUCCESS);
    }
    let Receipt {
        offset,
        concern,
        acks,
        waiting_for,
        ..
    } = receipt;
    let held = Held {
        offset,
        concern,
        concern_met: false,
        acks,
        waiting_for,
    };
    super::print_error(&format!(
        "{}; it is in the log: do not send it again",
        held.lacking()
    ));
    Ok(ExitCode::from(NOT_IN_TIME))
}

/// Follows a message that is in the log of the node at `url`, and reports each node that comes to hold it.
async fn watch(
    args: &AppendArgs,
    url: &str,
    log: Option<ClusterId>,
    receipt: &mut Receipt,
    begun: Instant,
) -> Result<(), Failure> {
    let deadline = args.timeout.map(|timeout| begun + timeout);
    let (offset, concern) = (receipt.offset, receipt.concern);
    let client = Client::new(url).map_err(|error| Failure::of(url, &error))?;
    let client = Position { offset, log }.client(&client);
    let held = holders::until_held(&client, offset, concern, deadline, |name| {
        stderr::line(format_args!(
            "{:>7} ms  {name}",
            begun.elapsed().as_millis()
        ));
    });
    let held = held.await?;
    receipt.concern_met = held.concern_met;
    receipt.acks = held.acks;
    receipt.waiting_for = held.waiting_for;
    receipt.elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(())
}

async fn append_batch(
    args: &AppendArgs,
    context: &Context,
    lines: &[Line],
    key: Option<String>,
) -> Result<ExitCode, Refused> {
    let has_key = key.is_some();
    let (client, request) = (&context.client, request(args, key));
    let messages: Vec<&RawValue> = lines.iter().map(|line| &*line.data).collect();
    let appended = match args.retry {
        None => client
            .append_batch(messages, &request)
            .await
            .map_err(|error| Refused::of(context.url(), &error, has_key))?,
        within => client
            .append_batch_retrying(&messages, &request, within)
            .await
            .map_err(|given_up| Refused::of_attempts(context.url(), &given_up))?,
    };
    let receipt = appended.receipt;
    let (first, end) = (
        receipt.first_offset,
        receipt.first_offset.plus(receipt.count),
    );
    let told = match context.form {
        Form::Json => context.print_json(&receipt),
        Form::Text => {
            let held = match context.is_for_terminal() {
                true => format!(", held by {}", names(&receipt.acks)),
                false => String::new(),
            };
            tell(&format!("{first}..{end}{held}\n"))
        }
    };
    let in_log = "; the messages are in the log: do not send them again";
    told.map_err(|failure| Refused::Failed(failure.and(in_log)))?;
    if receipt.concern_met {
        return Ok(ExitCode::SUCCESS);
    }
    super::print_error(&format!(
        "offsets {first}..{end} are held by {} of {} so far; they are waiting for {}; they are in \
         the log: do not send them again",
        receipt.acks.len(),
        counted(receipt.concern, "node"),
        waits(&receipt.waiting_for)
    ));
    Ok(ExitCode::from(NOT_IN_TIME))
}

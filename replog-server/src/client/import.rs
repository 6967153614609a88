//! `replog import`: appends what `export` wrote, in the same order.
//!
//! Each batch has a key derived from the position that its first message came from: a batch that is there already is
//! not appended again, as long as the cluster remembers its key. The cluster forgets all keys but those of the last
//! messages, so a run that ends early says where the next one continues: at the first offset of a whole batch, since
//! from there on the borders are the same. Parts of a batch have other borders than a batch that begins where they do:
//! a run cannot continue there.

mod batches;

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use clap::Args;
use indicatif::ProgressBar;
use replog_core::{
    Concern, Offset,
    client::{AppendRequest, ClientError, GivenUp, Reason},
    limits::FRAME_BYTES_MAX,
    types::ClusterId,
};
use serde_json::value::RawValue;
use tokio::signal::unix::{SignalKind, signal};

use self::batches::{Batch, Batches};
use super::{
    Context, Failure, Form,
    export::Line,
    holders::{ConcernParser, duration},
    lines::{Lines, error_without_line},
    position::Position,
    print_error, progress, tell,
};
use crate::words::counted;

/// Time that the master waits for a batch's concern before it is asked again, whatever its own limit: a hanging master
/// is noticed soon, and asked no more often than this.
const CONCERN_TIME: Duration = Duration::from_secs(10);

/// Arguments of `import`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The file that `export` wrote; - is stdin.
    file: PathBuf,
    /// Number of nodes that must hold each batch before the next is sent: a number, `majority` or `all`.
    #[arg(long, default_value = "majority", value_parser = ConcernParser, hide_possible_values = true)]
    concern: Concern,
    /// Time to retry a batch where that may help: while the master is down, hanging, recovering or read-only.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    retry: Duration,
    /// Skip the messages of the file before this offset. A run that ended early says where to continue; starting
    /// elsewhere may append messages again that are there already. As OFFSET@CLUSTER it continues only in the log of
    /// that cluster, which has the skipped messages.
    #[arg(long, value_name = "OFFSET", default_value = "0")]
    from: Position,
    /// Drop the messages' idempotency keys: faster, since otherwise each message that has one is sent alone, but
    /// clients that send such a message again append it again.
    #[arg(long)]
    without_keys: bool,
}

/// Position of appended messages.
#[derive(Debug)]
struct Placed {
    first: Offset,
    end: Offset,
    was_there: bool,
}

/// Reason why a batch was not appended.
enum Refused {
    /// The key of its only message belongs to another message, at this offset.
    OwnKey(Offset),
    /// It may be accepted in parts.
    InParts {
        /// The batch is too long.
        is_too_long: bool,
        failure: Failure,
    },
    Failed(Failure),
}

/// Appends the messages, and prints their number.
pub(super) async fn run(args: &ImportArgs, context: &Context) -> Result<ExitCode, Failure> {
    let told = |error| Failure::new(format!("{}: {error}", args.file.display()));
    let (file, length): (Box<dyn BufRead>, _) = match args.file.as_os_str() == "-" {
        true => (Box::new(io::stdin().lock()), None),
        false => {
            let file = File::open(&args.file).map_err(told)?;
            let length = file.metadata().map_err(told)?.len();
            (Box::new(BufReader::new(file)), Some(length))
        }
    };
    let place = Arc::new(RunProgress::of(args.from));
    report_progress_when_interrupted(Arc::clone(&place));
    let bar = progress::bytes(length);
    let mut lines = Lines::of(file, args.file.display().to_string());
    let mut batches = Batches::new(!args.without_keys);
    let mut import = Import {
        args,
        context,
        place,
        end: None,
        too_long: usize::MAX,
        bar: bar.clone(),
        counts: Counts::default(),
    };
    let mut file_end = Offset(0);
    loop {
        let next = lines.next().map_err(|failure| import.with_place(failure))?;
        let Some((text, number, bytes)) = next else {
            break;
        };
        bar.inc(bytes as u64);
        if text.trim().is_empty() {
            continue;
        }
        let line = Line::parse(text).map_err(|error| {
            let what = error_without_line(&error);
            let reason = format!("line {number} is not as export writes it: {what}");
            import.with_place(Failure::new(reason))
        })?;
        file_end = file_end.max(line.message.offset.plus(1));
        if line.message.offset < args.from.offset {
            batches.skip(&line);
            continue;
        }
        for batch in batches.push(line, number) {
            import.append_whole(batch).await?;
        }
    }
    if let Some(batch) = batches.end() {
        import.append_whole(batch).await?;
    }
    bar.finish_and_clear();
    if file_end < args.from.offset {
        return Err(Failure::new(format!(
            "{} has no message from offset {} on: it ends before offset {file_end}",
            args.file.display(),
            args.from.offset
        )));
    }
    let Counts {
        appended, known, ..
    } = import.counts;
    match context.form {
        Form::Json => {
            context.print_json(&serde_json::json!({ "appended": appended, "known": known }))?;
        }
        Form::Text => tell(&format!(
            "{appended} appended, {known} were there already\n"
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A run, and its progress.
struct Import<'a> {
    args: &'a ImportArgs,
    context: &'a Context,
    place: Arc<RunProgress>,
    /// The end of the messages placed in the log.
    end: Option<Offset>,
    /// The shortest batch that was refused for its length, in bytes: longer ones are not tried.
    too_long: usize,
    bar: ProgressBar,
    counts: Counts,
}

/// Progress of a run.
struct RunProgress {
    /// The log that all of it goes into, once it is known: a node that comes back with another one has none of the
    /// earlier messages.
    log: OnceLock<ClusterId>,
    /// Start of the run.
    start: Offset,
    /// Everything from the start to before this offset of the file is in the log.
    offset: AtomicU64,
}

impl RunProgress {
    fn of(from: Position) -> RunProgress {
        RunProgress {
            log: from.log.map_or_else(OnceLock::new, OnceLock::from),
            start: from.offset,
            offset: AtomicU64::new(from.offset.0),
        }
    }

    fn position(&self) -> Position {
        Position {
            offset: Offset(self.offset.load(Ordering::SeqCst)),
            log: self.log.get().copied(),
        }
    }

    /// Says where the next run continues: the batch in flight may be in the log or not, and its key decides that.
    fn how_to_continue(&self) -> String {
        let position = self.position();
        match position.offset == self.start {
            true => format!(
                "nothing of the file from offset {} on is known to be imported: --from {position} tries again",
                self.start
            ),
            false => format!(
                "everything of the file from offset {} to before offset {} is imported: --from {position} continues",
                self.start, position.offset
            ),
        }
    }
}

/// Numbers of messages.
#[derive(Debug, Default)]
struct Counts {
    appended: u64,
    known: u64,
    /// Offset of the first message that this run appended.
    appended_from: Option<Offset>,
}

impl Import<'_> {
    /// Appends a batch of the file. A run can continue only after the whole of it.
    async fn append_whole(&mut self, batch: Batch) -> Result<(), Failure> {
        let end = batch.end();
        self.append_parts(batch).await?;
        self.place.offset.store(end.0, Ordering::SeqCst);
        Ok(())
    }

    /// Appends a batch, by halves if the whole is too long for something on the way to the log, or if an earlier run
    /// appended it by halves. The borders depend only on the file and the limits.
    async fn append_parts(&mut self, batch: Batch) -> Result<(), Failure> {
        let (first, end, known) = (batch.first, batch.end(), self.too_long);
        let mut begins = Vec::new();
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            if part.bytes >= self.too_long
                && let Some((first, second)) = part.halves()
            {
                parts.extend([second, first]);
                continue;
            }
            match self.append(&part).await {
                Ok(()) => begins.push(part.first.to_string()),
                Err(Refused::InParts {
                    is_too_long,
                    failure,
                }) => {
                    let Some((first, second)) = part.halves() else {
                        return Err(match part.only_line() {
                            Some(line) if is_too_long => failure.of_line(line),
                            _ => failure,
                        });
                    };
                    if is_too_long {
                        self.too_long = self.too_long.min(part.bytes);
                    }
                    parts.extend([second, first]);
                }
                Err(Refused::Failed(failure)) => return Err(failure),
                Err(Refused::OwnKey(there)) => {
                    return Err(self.with_place(Failure::new(format!(
                        "the message at offset {} of the file has an idempotency key that belongs to another \
                         message here, at offset {there}: --without-keys appends it without",
                        part.first
                    ))));
                }
            }
        }
        if self.too_long < known {
            let (count, begins) = (counted(begins.len(), "append"), begins.join(", "));
            let told = format!(
                "the messages of the file from offset {first} to before offset {end} are too long for one append here: \
                 they were sent as {count}, which begin at offsets {begins}; others as long as that are split, too"
            );
            self.bar.suspend(|| print_error(&told));
        }
        Ok(())
    }

    async fn append(&mut self, batch: &Batch) -> Result<(), Refused> {
        let mut placed = self.send(batch, batch.own_key.as_deref()).await;
        // A log remembers a key only for so long, so a file may contain it twice. Its second message would be taken for
        // the first one, which is in the log before everything that was placed since; without the key it is not. If
        // nothing was placed yet, the message found is taken for the first one: a duplicated message is better than a
        // lost one.
        let is_first = |offset: Offset| self.end.is_none_or(|end| offset < end);
        let is_taken = batch.repeats_key
            && match &placed {
                Ok(placed) => placed.was_there && is_first(placed.first),
                Err(Refused::OwnKey(offset)) => is_first(*offset),
                Err(Refused::Failed(_) | Refused::InParts { .. }) => false,
            };
        if is_taken {
            placed = self.send(batch, None).await;
        }
        let placed = placed?;
        let count = batch.messages.len() as u64;
        self.counts.on_placed(&placed, count);
        self.end = self.end.max(Some(placed.end));
        Ok(())
    }

    /// Appends a batch, and waits until enough nodes hold it.
    async fn send(&self, batch: &Batch, own_key: Option<&str>) -> Result<Placed, Refused> {
        let request = AppendRequest {
            concern: Some(self.args.concern),
            timeout: Some(CONCERN_TIME),
            idempotency_key: Some(own_key.unwrap_or(&batch.key).to_owned()),
            base64: batch.base64,
            ..AppendRequest::default()
        };
        let messages: Vec<&RawValue> = batch.messages.iter().map(|message| &**message).collect();
        let within = Some(self.args.retry);
        let mut was_there = None;
        loop {
            let client = self.place.position().client(&self.context.client);
            let appended = client.append_batch_retrying(&messages, &request, within);
            let appended = appended.await.map(|appended| {
                let (receipt, log) = (appended.receipt, appended.cluster_id);
                let first = receipt.first_offset;
                (appended.replayed, log, receipt.concern_met, first)
            });
            let (replayed, log, is_met, first) =
                appended.map_err(|given_up| self.told(batch, own_key.is_some(), &given_up))?;
            if let Some(log) = log {
                self.place.log.get_or_init(|| log);
            }
            let was_there = *was_there.get_or_insert(replayed);
            if is_met {
                return Ok(Placed {
                    first,
                    end: first.plus(messages.len() as u64),
                    was_there,
                });
            }
            // With the same key the master continues to wait.
        }
    }

    /// Returns the reason why a batch could not be appended, and how to continue.
    fn told(&self, batch: &Batch, has_own_key: bool, given_up: &GivenUp) -> Refused {
        let failure = Failure::of(self.context.url(), &given_up.last);
        let reason = given_up.last.problem().map(|problem| problem.reason());
        let status = given_up.last.problem().map(|problem| problem.status);
        // Whatever the source: a proxy has limits of its own, and its own wording. A temporary overload (429) was
        // waited out already: what is still refused may be too much at once.
        let is_too_long = match reason {
            Some(Reason::Overloaded { .. }) => !given_up.last.is_retryable(),
            None => matches!(given_up.last, ClientError::TooLarge { .. }),
            Some(_) => matches!(status, Some(413 | 429)),
        };
        let failure = match reason {
            Some(Reason::KeyReused { offset }) if has_own_key => return Refused::OwnKey(offset),
            // The same first message, with others after it: an earlier run may have sent it by halves.
            Some(Reason::KeyReused { .. }) => {
                return Refused::InParts {
                    is_too_long: false,
                    failure: self.with_place(Failure::new(format!(
                        "the messages from offset {} on were imported before, in other batches: from a file that \
                         ended elsewhere, with another --from, or through smaller limits",
                        batch.first
                    ))),
                };
            }
            Some(Reason::AnotherLog { .. }) => failure.and(
                "; nothing of the file is known to be in that log: import it into that one without --from",
            ),
            Some(Reason::TooLarge { limit, limit_bytes }) => {
                let flag = limit.unwrap_or_else(|| {
                    let flag = match batch.longest() as u64 > limit_bytes {
                        true => "max-message-bytes",
                        false => "max-request-bytes",
                    };
                    flag.to_owned()
                });
                self.with_place(match limit_bytes < FRAME_BYTES_MAX as u64 {
                    true => failure.and(&format!(": start the master with a larger --{flag}")),
                    // No setting allows more.
                    false => failure,
                })
            }
            _ => self.with_place(failure),
        };
        match is_too_long {
            true => Refused::InParts {
                is_too_long,
                failure,
            },
            false => Refused::Failed(failure),
        }
    }

    /// Adds where to continue.
    fn with_place(&self, failure: Failure) -> Failure {
        failure.and(&format!("; {}", self.place.how_to_continue()))
    }
}

impl Counts {
    fn on_placed(&mut self, placed: &Placed, count: u64) {
        // What is found after this run's own appends, this run appended too: a batch arrived, its answer was lost, and
        // it was found when it was sent again. For the first batch, nothing shows that.
        let was_there =
            placed.was_there && self.appended_from.is_none_or(|from| placed.first < from);
        if was_there {
            self.known += count;
        } else {
            self.appended += count;
            self.appended_from.get_or_insert(placed.first);
        }
    }
}

/// Says where to continue when the program is asked to end. In a thread of its own: the program may be waiting for its
/// input.
fn report_progress_when_interrupted(place: Arc<RunProgress>) {
    thread::spawn(move || {
        actix_web::rt::System::new().block_on(async {
            let signals = (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
            );
            // Without these handlers the system ends the program, without a message.
            let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            print_error(&format!("interrupted; {}", place.how_to_continue()));
            std::process::exit(1);
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_which_only_the_answer_was_lost_is_counted_as_appended_not_as_already_there() {
        let mut counts = Counts::default();
        let table = [
            // First offset, whether it was found there; appended and known so far.
            (100, true, (0, 10)),
            (200, false, (10, 10)),
            (210, true, (20, 10)),
            (220, false, (30, 10)),
            // From an earlier run.
            (110, true, (30, 20)),
        ];
        for (first, was_there, expected) in table {
            let first = Offset(first);
            let placed = Placed {
                first,
                end: first.plus(10),
                was_there,
            };
            counts.on_placed(&placed, 10);
            assert_eq!((counts.appended, counts.known), expected, "{placed:?}");
        }
    }
}

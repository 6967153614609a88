//! `replog read`: messages, one per line.

use std::{pin::pin, process::ExitCode};

use clap::Args;
use replog_core::{
    ReadLevel,
    client::{ClientError, Message},
};

use super::{
    Context, Failure,
    eyes::escaped,
    holders::level,
    output,
    pages::{self, Pages},
    position::Position,
    print, print_error,
    table::{Colour, coloured},
};

/// Arguments of `read`.
#[derive(Debug, Args)]
pub(super) struct ReadArgs {
    /// The first offset; as OFFSET@CLUSTER it refers to that log only.
    #[arg(
        long,
        value_name = "OFFSET",
        default_value = "0",
        conflicts_with = "last"
    )]
    from: Position,
    /// Instead, this many messages before the end; 0, with --follow: only messages to come.
    #[arg(long)]
    last: Option<u64>,
    /// Maximum number of messages.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// `local`: messages that the node holds; `committed`: those that it knows a majority to hold.
    #[arg(long, default_value = "local", value_parser = level())]
    level: ReadLevel,
    /// Continue at the end, as messages arrive, and across restarts of the node.
    #[arg(long, short)]
    follow: bool,
}

/// Prints the messages: for a terminal offset and data, else NDJSON with all fields.
pub(super) async fn run(args: &ReadArgs, context: &Context) -> Result<ExitCode, Failure> {
    let (client, level) = (&context.client, Some(args.level));
    if args.last == Some(0) && !args.follow {
        let why = "--last 0 asks only for messages to come: use it with --follow";
        return Err(Failure::usage(why));
    }
    if args.follow {
        // A node that is not there is reported at once, although --follow would wait for it later. The committed end
        // may become known later.
        let from = match args.last {
            Some(last) => pages::last_to_follow(client, last, level).await?,
            None => {
                let found = pages::find(client).await?;
                let log = args.from.log.or(found);
                Position { log, ..args.from }
            }
        };
        return follow(from, args, context).await;
    }
    let pages = match args.last {
        Some(last) => Pages::last(client, last, level).await?,
        None => Pages::from(client, args.from, level).await?,
    };
    if pages.next() > pages.end() {
        print_error(&format!(
            "there is nothing from offset {} on: the log ends before offset {}",
            pages.next(),
            pages.end()
        ));
    }
    let mut pages = pages.at_most(args.limit);
    let for_terminal = context.is_for_terminal();
    while let Some(messages) = pages.page().await? {
        let mut text = String::new();
        for message in &messages {
            write(message, for_terminal, &mut text)?;
        }
        print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints each message as it arrives, until there are enough.
async fn follow(from: Position, args: &ReadArgs, context: &Context) -> Result<ExitCode, Failure> {
    let url = context.url().to_owned();
    let client = from.client(&context.client);
    let follow = client.follow(from.offset).level(args.level);
    let mut follow = follow.on_interruption(move |error| {
        print_error(&format!("{url}: {error}; continues once it is back"));
    });
    let for_terminal = context.is_for_terminal();
    let mut given = 0;
    let mut unread = pin!(output::unread());
    while args.limit.is_none_or(|limit| given < limit) {
        let next = tokio::select! {
            biased;
            next = follow.next() => next,
            () = &mut unread => return Ok(ExitCode::SUCCESS),
        };
        match next {
            Ok(message) => {
                let mut text = String::new();
                write(&message, for_terminal, &mut text)?;
                print(&text)?;
                given += 1;
            }
            Err(ClientError::Cut { offset }) => print_error(&format!(
                "the messages from offset {offset} on were cut from the node's log; what replaces them follows"
            )),
            Err(ClientError::AnotherLog { cluster_id }) => print_error(&format!(
                "{} has another log now, of cluster {cluster_id}: nothing of the one before is in it; it follows from \
                 its start",
                context.url()
            )),
            Err(error) => return Err(Failure::of(context.url(), &error)),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes one message as a line.
fn write(message: &Message, for_terminal: bool, text: &mut String) -> Result<(), Failure> {
    if for_terminal {
        let offset = format!("{:>8}", message.offset);
        text.push_str(&coloured(&offset, Colour::Aside, true));
        text.push_str("  ");
        match &message.data_base64 {
            None => {
                let data = message.data.get().replace(['\r', '\n'], " ");
                text.push_str(&escaped(&data));
            }
            Some(bytes) => {
                text.push_str(&coloured("base64", Colour::Aside, true));
                text.push(' ');
                text.push_str(bytes);
            }
        }
    } else {
        text.push_str(&on_one_line(message)?);
    }
    text.push('\n');
    Ok(())
}

/// Returns a message, or a value that contains one, as JSON on one line.
pub(super) fn on_one_line(message: &impl serde::Serialize) -> Result<String, Failure> {
    let line = serde_json::to_string(message)
        .map_err(|error| Failure::new(format!("a message is not JSON: {error}")))?;
    // JSON has line breaks only between tokens.
    Ok(line.replace(['\r', '\n'], " "))
}

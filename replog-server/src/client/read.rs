//! `replog read`: messages, a line each.

use std::process::ExitCode;

use clap::Args;
use replog_core::{Offset, client::Message};

use super::{
    Context, Failure,
    pages::Pages,
    print,
    table::{Colour, coloured},
};

/// Arguments of `read`.
#[derive(Debug, Args)]
pub(super) struct ReadArgs {
    /// The first offset.
    #[arg(long, default_value_t = 0, conflicts_with = "last")]
    from: u64,
    /// So many before the end, instead.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    last: Option<u64>,
    /// So many at most.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// Prints them: for eyes offset and data, else NDJSON with all fields.
pub(super) async fn run(args: &ReadArgs, context: &Context) -> Result<ExitCode, Failure> {
    let pages = match args.last {
        Some(last) => Pages::last(&context.client, last, None).await?,
        None => Pages::from(&context.client, Offset(args.from), None).await?,
    };
    let mut pages = pages.at_most(args.limit);
    let for_eyes = context.is_for_eyes();
    while let Some(messages) = pages.page().await? {
        let mut text = String::new();
        for message in &messages {
            write(message, for_eyes, &mut text)?;
        }
        print(&text).map_err(Failure::new)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One message as a line.
fn write(message: &Message, for_eyes: bool, text: &mut String) -> Result<(), Failure> {
    if for_eyes {
        let offset = format!("{:>8}", message.offset);
        text.push_str(&coloured(&offset, Colour::Aside, true));
        text.push_str("  ");
        text.push_str(&message.data.get().replace(['\r', '\n'], " "));
    } else {
        text.push_str(&on_one_line(message)?);
    }
    text.push('\n');
    Ok(())
}

/// A message, or what has one, as JSON on one line.
pub(super) fn on_one_line(message: &impl serde::Serialize) -> Result<String, Failure> {
    let line = serde_json::to_string(message)
        .map_err(|error| Failure::new(format!("a message is no JSON: {error}")))?;
    // JSON has line breaks nowhere but between tokens.
    Ok(line.replace(['\r', '\n'], " "))
}

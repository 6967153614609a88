//! `replog events`: events on a node, one per line.

use std::{pin::pin, process::ExitCode};

use clap::Args;
use replog_core::client::NodeEvent;
use serde_json::Value;

use super::{
    Context, Failure, Form,
    eyes::escaped,
    output, print,
    table::{Colour, coloured},
};

/// Arguments of `events`.
#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Only events of this kind, such as `status`; repeat the flag for each kind.
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// Maximum number of events.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// Prints each event as it arrives, until the node stops or there are enough.
pub(super) async fn run(args: &EventsArgs, context: &Context) -> Result<ExitCode, Failure> {
    let failed = |error| Failure::of(context.url(), &error);
    let mut events = context.client.events().await.map_err(failed)?;
    let mut given = 0;
    let mut unread = pin!(output::unread());
    while args.limit.is_none_or(|limit| given < limit) {
        let event = tokio::select! {
            biased;
            event = events.next() => event.map_err(failed)?,
            () = &mut unread => return Ok(ExitCode::SUCCESS),
        };
        let is_end = event.kind == "bye";
        if args.kind.is_empty() || args.kind.contains(&event.kind) {
            print(&line(&event, context))?;
            given += 1;
        }
        if is_end {
            return Err(Failure::new(format!("{}: the node stops", context.url())));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn line(event: &NodeEvent, context: &Context) -> String {
    let mut data: Value = serde_json::from_str(event.data.get()).unwrap_or_default();
    if context.form == Form::Json || !context.is_for_terminal() {
        if let Some(members) = data.as_object_mut() {
            members.insert("event".to_owned(), event.kind.as_str().into());
        }
        return format!("{data}\n");
    }
    let members = data.as_object().into_iter().flatten();
    let members = members.filter(|(name, value)| *name != "at_ms" && !value.is_null());
    let words = members.map(|(name, value)| match value.as_str() {
        Some(text) => format!("{name}={}", escaped(text)),
        None => format!("{name}={}", escaped(&value.to_string())),
    });
    let words: Vec<String> = words.collect();
    let kind = coloured(&format!("{:<7}", escaped(&event.kind)), Colour::Aside, true);
    format!("{kind} {}\n", words.join(" "))
}

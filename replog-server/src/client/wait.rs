//! `replog wait`: waits until enough nodes hold a message, which may still have to be appended.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use replog_core::{
    Concern, Offset,
    client::{Client, ReadQuery, Reason},
};

use super::{
    Context, Failure, Form,
    failure::NOT_IN_TIME,
    holders::{self, ConcernParser, duration, names},
    position::Position,
    tell,
};

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// The message's offset; as OFFSET@CLUSTER it refers to that log only.
    offset: Position,
    /// Number of nodes that must hold it: a number, `majority` or `all`.
    #[arg(long, default_value = "majority", value_parser = ConcernParser, hide_possible_values = true)]
    concern: Concern,
    /// Maximum time to wait, such as `3s` [default: as long as the master does, which is for ever unless configured
    /// otherwise].
    #[arg(long, value_parser = duration)]
    timeout: Option<Duration>,
}

/// Waits until there is a message at `offset`; `false`: there was none in time.
async fn wait_for_message(
    client: &Client,
    offset: Offset,
    time: Option<Duration>,
) -> Result<bool, Failure> {
    let query = ReadQuery {
        from: Some(offset),
        limit: Some(1),
        wait_for: Some(offset),
        timeout: time,
        ..ReadQuery::default()
    };
    match client.messages(&query).await {
        Ok(_) => Ok(true),
        Err(error) => match error.problem().map(|problem| problem.reason()) {
            Some(Reason::NoSuchOffset { .. }) => Ok(false),
            _ => Err(Failure::of(client.url(), &error)),
        },
    }
}

/// Waits, and prints the nodes that hold it.
pub(super) async fn run(args: &WaitArgs, context: &Context) -> Result<ExitCode, Failure> {
    let client = args.offset.client(&context.client);
    let begun = Instant::now();
    let message = loop {
        let left = args
            .timeout
            .map(|timeout| timeout.saturating_sub(begun.elapsed()));
        let offset = args.offset.offset;
        let message = client.wait_for_concern(offset, args.concern, left).await;
        let error = match message {
            Ok(message) => break message,
            Err(error) => error,
        };
        let reason = error.problem().map(|problem| problem.reason());
        let Some(Reason::NoSuchOffset { next }) = reason else {
            return Err(Failure::of(context.url(), &error));
        };
        if !wait_for_message(&client, offset, left).await? {
            return Err(Failure::with(
                NOT_IN_TIME,
                format!("there is no message {offset} yet; the next one gets {next}"),
            ));
        }
    };
    let held = message
        .concern
        .and_then(|concern| holders::held(&message, concern));
    let Some(mut held) = held else {
        let url = context.url();
        return Err(Failure::new(format!(
            "{url} does not say which nodes hold it"
        )));
    };
    // `concern_met` refers to the end of the wait, the names to the moment after it.
    held.concern_met |= message.concern_met == Some(true);
    match context.form {
        Form::Json => context.print_json(&held)?,
        Form::Text => tell(&format!("{}\n", names(&held.acks)))?,
    }
    match held.concern_met {
        true => Ok(ExitCode::SUCCESS),
        false => Err(Failure::with(NOT_IN_TIME, held.lacking())),
    }
}

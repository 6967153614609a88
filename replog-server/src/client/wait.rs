//! `replog wait`: until enough nodes hold a message that is in the log already.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use replog_core::Concern;

use super::{
    Context, Failure, Form,
    failure::NOT_IN_TIME,
    holders::{self, concern, duration, names},
    position::Position,
    tell,
};

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// The message's offset; as OFFSET@CLUSTER it is one of that log only.
    offset: Position,
    /// How many nodes must hold it: a number, `majority` or `all`.
    #[arg(long, default_value = "majority", value_parser = concern)]
    concern: Concern,
    /// How long to wait, such as `3s` [default: as long as the master does, which is for ever unless it was
    /// told otherwise].
    #[arg(long, value_parser = duration)]
    timeout: Option<Duration>,
}

/// Waits, and says who holds it.
pub(super) async fn run(args: &WaitArgs, context: &Context) -> Result<ExitCode, Failure> {
    let client = args.offset.client(&context.client);
    let message = client.wait_for_concern(args.offset.offset, args.concern, args.timeout);
    let message = message
        .await
        .map_err(|error| Failure::of(context.url(), &error))?;
    let held = message
        .concern
        .and_then(|concern| holders::held(&message, concern));
    let Some(mut held) = held else {
        let url = context.url();
        return Err(Failure::new(format!("{url} does not say who holds it")));
    };
    // Whether it was met is told of the end of the wait, the names of the moment after it.
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

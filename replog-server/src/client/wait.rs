//! `replog wait`: until enough nodes hold a message that is in the log already.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use replog_core::{Concern, Offset};

use super::{
    Context, Failure, Form,
    failure::NOT_IN_TIME,
    holders::{self, concern, duration, names},
    print,
};

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// The message's offset.
    offset: u64,
    /// How many nodes must hold it: a number, `majority` or `all`.
    #[arg(long, default_value = "majority", value_parser = concern)]
    concern: Concern,
    /// How long to wait, such as `3s` [default: for ever].
    #[arg(long, value_parser = duration)]
    timeout: Option<Duration>,
}

/// Waits, and says who holds it.
pub(super) async fn run(args: &WaitArgs, context: &Context) -> Result<ExitCode, Failure> {
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let concern = holders::resolve(context, args.concern).await?;
    let offset = Offset(args.offset);
    let held = holders::until_held(context, offset, concern, deadline, |_| {}).await?;
    match context.form {
        Form::Json => context.print_json(&held)?,
        Form::Text => print(&format!("{}\n", names(&held.acks))).map_err(Failure::new)?,
    }
    match held.concern_met {
        true => Ok(ExitCode::SUCCESS),
        false => Err(Failure::with(NOT_IN_TIME, held.lacking())),
    }
}

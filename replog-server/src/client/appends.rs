//! `replog appends`: waiting appends, and the nodes that they wait for.

use std::process::ExitCode;

use clap::Args;

use super::{
    Context, Failure, Form,
    holders::{names, waits},
    print,
    table::{Table, span},
};

/// Arguments of `appends`.
#[derive(Debug, Args)]
pub(super) struct AppendsArgs {
    /// Number of appends to show, the oldest ones.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

/// Shows the waiting appends.
pub(super) async fn run(args: &AppendsArgs, context: &Context) -> Result<ExitCode, Failure> {
    let appends = context.client.appends(Some(args.limit)).await;
    let appends = appends.map_err(|error| Failure::of(context.url(), &error))?;
    if context.form == Form::Json {
        context.print_json(&appends)?;
        return Ok(ExitCode::SUCCESS);
    }
    let heading = match context.is_for_terminal() {
        true => "WAITING",
        false => "WAITING_MS",
    };
    let mut table = Table::new(["OFFSET", "CONCERN", heading, "HELD BY", "WAITING FOR"]);
    for append in &appends.appends {
        let waiting = match context.is_for_terminal() {
            true => span(append.waiting_ms),
            false => append.waiting_ms.to_string(),
        };
        table.row([
            append.offset.to_string(),
            append.concern.to_string(),
            waiting,
            names(&append.acks),
            waits(&append.waiting_for),
        ]);
    }
    print(&table.text(context.is_for_terminal()))?;
    let shown = appends.appends.len() as u64;
    if appends.total > shown {
        super::print_error(&format!(
            "{} more are waiting: --limit shows more",
            appends.total - shown
        ));
    }
    Ok(ExitCode::SUCCESS)
}

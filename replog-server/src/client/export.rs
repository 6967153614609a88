//! `replog export`: messages as NDJSON, with all that is known of each.

use std::process::ExitCode;

use clap::Args;
use replog_core::Offset;

use super::{Context, Failure, pages::Pages, print, progress, read};

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The first offset.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// So many at most.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// Writes them to stdout, up to the end that the log had at the beginning.
pub(super) async fn run(args: &ExportArgs, context: &Context) -> Result<ExitCode, Failure> {
    let pages = Pages::from(&context.client, Offset(args.from), None).await?;
    let mut pages = pages.at_most(args.limit);
    let (first, total) = (pages.next(), pages.end().records_since(pages.next()));
    let bar = progress::messages(Some(total));
    while let Some(messages) = pages.page().await? {
        let mut text = String::new();
        for message in &messages {
            text.push_str(&read::line(message)?);
            text.push('\n');
        }
        print(&text).map_err(Failure::new)?;
        bar.set_position(pages.next().records_since(first));
    }
    bar.finish_and_clear();
    Ok(ExitCode::SUCCESS)
}

//! `replog export`: messages as NDJSON, with all their fields.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::Args;
use indicatif::ProgressBar;
use replog_core::{ReadLevel, client::Message, types::ClusterId};
use serde::Deserialize;

use super::{
    Context, Failure, holders::level, pages::Pages, position::Position, print, progress,
    read::on_one_line,
};

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The first offset; as OFFSET@CLUSTER it refers to that log only.
    #[arg(long, value_name = "OFFSET", default_value = "0")]
    from: Position,
    /// Maximum number of messages.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// `committed`: messages that the node knows a majority to hold, which are never taken back; `local`: all messages
    /// that it holds.
    #[arg(long, default_value = "committed", value_parser = level())]
    level: ReadLevel,
}

/// A line of an exported file.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) message: Message,
    /// The log that the message comes from; `read` does not write it.
    pub(super) cluster_id: Option<ClusterId>,
}

impl Line {
    /// Parses a line that [`Line::text`] wrote.
    pub(super) fn parse(text: &str) -> serde_json::Result<Line> {
        #[derive(Deserialize)]
        struct Origin {
            cluster_id: Option<ClusterId>,
        }
        let Origin { cluster_id } = serde_json::from_str(text)?;
        let message = serde_json::from_str(text)?;
        Ok(Line {
            message,
            cluster_id,
        })
    }

    /// Returns it as JSON on one line.
    fn text(&self) -> Result<String, Failure> {
        let mut text = on_one_line(&self.message)?;
        if let Some(cluster_id) = self.cluster_id
            && text.pop() == Some('}')
        {
            text.push_str(&format!(",\"cluster_id\":\"{cluster_id}\"}}"));
        }
        Ok(text)
    }
}

/// Writes the messages to stdout, up to the end that the log had at the beginning.
pub(super) async fn run(args: &ExportArgs, context: &Context) -> Result<ExitCode, Failure> {
    let pages = Pages::from(&context.client, args.from, Some(args.level)).await?;
    let mut pages = pages.at_most(args.limit);
    let cluster_id = pages.cluster_id();
    let (first, total) = (pages.next(), pages.end().records_since(pages.next()));
    let bar = match io::stdout().is_terminal() {
        // The messages themselves are on the screen.
        true => ProgressBar::hidden(),
        false => progress::messages(total),
    };
    loop {
        let page = pages.page().await;
        let page = page.map_err(|failure| {
            failure.and(&format!("; export --from {} continues", pages.position()))
        })?;
        let Some(messages) = page else { break };
        let mut text = String::new();
        for message in messages {
            let line = Line {
                message,
                cluster_id,
            };
            text.push_str(&line.text()?);
            text.push('\n');
        }
        print(&text)?;
        bar.set_position(pages.next().records_since(first));
    }
    bar.finish_and_clear();
    Ok(ExitCode::SUCCESS)
}

//! Completions and the manual page, made from the program's own definition.

use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::{Failure, definition, print};

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Prints the completions of a shell.
pub(super) fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut definition(), "replog", &mut text);
    written(&text)
}

/// Prints the manual page, followed by the pages of all commands.
pub(super) fn man() -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    let mut definition = definition();
    definition.build();
    let mut pages = vec![definition.clone()];
    pages.extend(definition.get_subcommands().cloned());
    for page in pages {
        clap_mangen::Man::new(page)
            .render(&mut text)
            .map_err(|error| Failure::new(format!("the manual page: {error}")))?;
    }
    // The pages of the commands follow on the same page, not separately.
    let mut text = String::from_utf8_lossy(&text).into_owned();
    for command in definition.get_subcommands() {
        let name = command.get_name().replace('-', "\\-");
        text = text.replace(
            &format!("replog\\-{name}(1)"),
            &format!("replog {name}, below"),
        );
    }
    written(text.as_bytes())
}

fn written(text: &[u8]) -> Result<ExitCode, Failure> {
    print(&String::from_utf8_lossy(text))?;
    Ok(ExitCode::SUCCESS)
}

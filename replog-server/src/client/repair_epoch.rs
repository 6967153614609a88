//! `replog repair-epoch DIR...`: the promises of a stopped cluster, given anew where some are of epochs that
//! its master cannot follow.
//!
//! Owns the words around [`replog_core::repair_epoch`], which decides and writes. Makes no directory.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::Args;
use replog_core::{
    RepairEpochError, RepairedNode, repair_epoch,
    storage::{FileStorage, Storage},
};

use super::tell;

/// Arguments of `repair-epoch`.
#[derive(Debug, Args)]
pub(super) struct RepairEpochArgs {
    /// The directories of all nodes of the cluster, none of which runs.
    #[arg(value_name = "DIR", required = true, num_args = 1..)]
    directories: Vec<PathBuf>,
}

/// Repairs, and prints a line for each directory.
///
/// # Errors
///
/// Why nothing was repaired, or that nothing can be printed.
pub(super) fn run(args: &RepairEpochArgs) -> Result<ExitCode, String> {
    let open = |directory: &PathBuf| -> Result<Arc<dyn Storage>, String> {
        let told = |what: String| format!("{}: {what}", directory.display());
        if !directory.join("meta.json").is_file() {
            return Err(told("this is no node's directory".to_owned()));
        }
        let storage = FileStorage::open(directory).map_err(|error| told(error.to_string()))?;
        Ok(Arc::new(storage))
    };
    let storages: Vec<_> = args
        .directories
        .iter()
        .map(open)
        .collect::<Result<_, _>>()?;
    let repaired = repair_epoch(&storages).map_err(|error| match error {
        RepairEpochError::Open { nth, source } => {
            format!("{}: {source}", args.directories[nth].display())
        }
        error => error.to_string(),
    })?;
    let text = match &repaired[..] {
        [] => "nothing to repair: the master can follow every promise\n".to_owned(),
        repaired => repaired.iter().map(line_of).collect(),
    };
    tell(&text).map_err(|failure| failure.reason)?;
    Ok(ExitCode::SUCCESS)
}

fn line_of(node: &RepairedNode) -> String {
    let before = node
        .promised_before
        .map_or("no epoch".to_owned(), |epoch| format!("epoch {epoch}"));
    let refilled = match node.is_refilled {
        true => "; its log counts for nothing and is filled from the master's",
        false => "",
    };
    let (name, now) = (&node.name, node.promised);
    format!("{name}: had promised {before}, and now epoch {now}{refilled}\n")
}

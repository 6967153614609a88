//! `replog repair-epoch DIR...`: renews the promises of a stopped cluster if some are of epochs that its master cannot
//! follow.
//!
//! Owns the text around [`replog_core::repair_epoch`], which decides and writes. Creates no directory.

use std::{
    fs::{self, Metadata},
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use replog_core::{
    RepairEpochError, RepairedNode, repair_epoch,
    storage::{FileStorage, Storage},
};

use super::tell;

/// Arguments of `repair-epoch`.
#[derive(Debug, Args)]
pub(super) struct RepairEpochArgs {
    /// The directories of all nodes of the cluster, none of which may be running.
    #[arg(value_name = "DIR", required = true, num_args = 1..)]
    directories: Vec<PathBuf>,
}

/// Repairs, and prints a line for each directory.
///
/// # Errors
///
/// The reason why nothing was repaired, or that nothing can be printed.
pub(super) fn run(args: &RepairEpochArgs) -> Result<ExitCode, String> {
    let open = |directory: &PathBuf| -> Result<Arc<dyn Storage>, String> {
        let told = |what: String| format!("{}: {what}", directory.display());
        let meta = meta_of(directory).map_err(told)?;
        check_user(meta.uid(), rustix::process::geteuid().as_raw()).map_err(told)?;
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

/// Returns the metadata of the file that a node's directory has.
///
/// # Errors
///
/// The reason why this is not a node's directory, or cannot be told to be one.
fn meta_of(directory: &Path) -> Result<Metadata, String> {
    match fs::metadata(directory.join("meta.json")) {
        Ok(meta) if meta.is_file() => Ok(meta),
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(error.to_string())
        }
        _ => Err(no_node(directory)),
    }
}

/// Says that a directory is not a node's, and which directories in it are.
fn no_node(directory: &Path) -> String {
    match directory.try_exists() {
        Ok(true) => {}
        Ok(false) => return "there is no such directory".to_owned(),
        Err(error) => return error.to_string(),
    }
    let what = "this is not a node's directory";
    // A directory that cannot be listed has none that could be named.
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let nodes = entries.filter(|entry| entry.path().join("meta.json").is_file());
    let mut names: Vec<String> = nodes
        .map(|entry| entry.path().display().to_string())
        .collect();
    names.sort();
    match &names[..] {
        [] => what.to_owned(),
        [one] => format!("{what}, but {one} is: name it, and those of the other nodes"),
        _ => format!(
            "{what}; the node directories in it are {}: name all of them",
            names.join(" ")
        ),
    }
}

/// Refuses to run as another user: the files written belong to the user who runs this, and only that user may read
/// them, so that another user's node could not start any more.
fn check_user(owner: u32, own: u32) -> Result<(), String> {
    match owner == own {
        true => Ok(()),
        false => Err(format!(
            "its files belong to user {owner}, and this runs as user {own}, so that the node could not read \
             what is written: run it as that user (sudo -u '#{owner}' replog repair-epoch ...)"
        )),
    }
}

fn line_of(node: &RepairedNode) -> String {
    let before = node
        .promised_before
        .map_or("no epoch".to_owned(), |epoch| format!("epoch {epoch}"));
    let refilled = match node.is_refilled {
        true => "; its log counts for nothing and is filled from the master's",
        false if !node.is_intact => {
            "; its log is not intact: the next start may need a forced recovery"
        }
        false => "",
    };
    let (name, now) = (&node.name, node.promised);
    format!("{name}: had promised {before}, and now epoch {now}{refilled}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_above_those_of_nodes_names_them() {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let says = || meta_of(directory.path()).unwrap_err();
        assert_eq!(says(), "this is not a node's directory");
        let at = |name: &str| directory.path().join(name).display().to_string();
        let make = |name: &str| {
            fs::create_dir(at(name)).expect("a free name");
            fs::write(directory.path().join(name).join("meta.json"), "{}").expect("room for it");
        };
        fs::create_dir(at("elsewhere")).expect("a free name");
        make("secondary-1");
        assert!(
            says().contains(&format!(", but {} is", at("secondary-1"))),
            "{}",
            says()
        );
        make("master");
        let expected = format!(
            "are {} {}: name all of them",
            at("master"),
            at("secondary-1")
        );
        assert!(says().contains(&expected), "{}", says());
    }

    #[test]
    fn a_directory_that_cannot_be_looked_into_is_not_said_to_be_missing() {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let missing = meta_of(&directory.path().join("missing")).unwrap_err();
        assert_eq!(missing, "there is no such directory");
        // Root may look into every directory, so a link to itself stands for one that nobody may.
        let endless = directory.path().join("endless");
        std::os::unix::fs::symlink(&endless, &endless).expect("a free name");
        for told in [meta_of(&endless).unwrap_err(), no_node(&endless)] {
            assert!(told.contains("os error"), "{told}");
        }
    }

    #[test]
    fn only_the_user_of_the_node_repairs_it() {
        assert_eq!(check_user(1000, 1000), Ok(()));
        for (owner, own) in [(10_001, 0), (0, 1000)] {
            let text = check_user(owner, own).unwrap_err();
            assert!(text.contains(&format!("sudo -u '#{owner}'")), "{text}");
        }
    }
}

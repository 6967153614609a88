//! `replog check DIR`: the library's check of a directory, for people and for machines. Running nodes are compared by
//! [`compare`](super::compare).
//!
//! A directory with one folder per node, as `replog-server cluster` makes them, is checked node by node.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use replog_core::{
    check::{self, Report},
    error::CheckError,
    storage::FileStorage,
    types::ClusterId,
};
use serde::Serialize;

use super::{Failure, Form, print_error, tell};
use crate::words::counted;

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// A node's directory, or one with a folder for each of several nodes; or the URLs of two or more nodes.
    #[arg(value_name = "DIR|URL", required = true, num_args = 1..)]
    targets: Vec<String>,
    /// Of nodes: compare only the messages' data, and not epochs, timestamps and keys, to see whether a log that was
    /// exported and imported is the same.
    #[arg(long)]
    data: bool,
}

impl CheckArgs {
    /// Returns `true` if only data is compared.
    pub(super) fn data_alone(&self) -> bool {
        self.data
    }

    /// Returns `true` if running nodes are to be compared.
    pub(super) fn is_of_nodes(&self) -> bool {
        self.targets.iter().any(|target| target.contains("://"))
    }

    /// Returns the directories, or the URLs.
    pub(super) fn targets(&self) -> &[String] {
        &self.targets
    }
}

/// Checks directories and prints the findings. Exit code 1 if anything is damaged, or a directory could not be read.
///
/// # Errors
///
/// That nothing can be printed.
pub(super) fn run(args: &CheckArgs, form: Form) -> Result<ExitCode, String> {
    if args.data {
        return Err("--data compares nodes that run: give their URLs".to_owned());
    }
    let mut code = ExitCode::SUCCESS;
    let mut clusters = Clusters::default();
    for (at, target) in args.targets.iter().enumerate() {
        if at > 0 && form == Form::Text {
            tell("\n").map_err(reason)?;
        }
        match check(Path::new(target), form, &mut clusters) {
            Ok(ExitCode::SUCCESS) => {}
            Ok(failed) => code = failed,
            Err(reason) => {
                print_error(&reason);
                code = ExitCode::FAILURE;
            }
        }
    }
    if let Some(warning) = clusters.warning() {
        print_error(&warning);
    }
    Ok(code)
}

/// The clusters that directories belong to: for each, the first directory.
#[derive(Default)]
struct Clusters(BTreeMap<ClusterId, PathBuf>);

impl Clusters {
    fn see(&mut self, directory: &Path, report: &Report) {
        if let Some(cluster) = report.cluster_id {
            let first = self.0.entry(cluster);
            first.or_insert_with(|| directory.to_owned());
        }
    }

    /// Returns the warning about more than one cluster.
    fn warning(&self) -> Option<String> {
        let named = self
            .0
            .iter()
            .map(|(cluster, directory)| format!("{} of cluster {cluster}", directory.display()));
        let named: Vec<String> = named.collect();
        (named.len() > 1).then(|| {
            format!(
                "these directories belong to {} different clusters: {}",
                named.len(),
                named.join(", ")
            )
        })
    }
}

/// Checks one directory, or each folder of it; returns the reason if nothing could be checked.
fn check(directory: &Path, form: Form, clusters: &mut Clusters) -> Result<ExitCode, String> {
    if let Some(report) = report_of(directory)? {
        clusters.see(directory, &report);
        tell(&form.show(directory, &report)).map_err(reason)?;
        return Ok(exit_code(!report.is_damaged()));
    }
    let (mut nodes, mut all_good) = (0, true);
    for directory in directories_in(directory).map_err(|error| told(directory, error))? {
        match report_of(&directory) {
            Ok(None) => continue,
            Ok(Some(report)) => {
                clusters.see(&directory, &report);
                let gap = if form == Form::Text && nodes > 0 {
                    "\n"
                } else {
                    ""
                };
                tell(&format!("{gap}{}", form.show(&directory, &report))).map_err(reason)?;
                all_good &= !report.is_damaged();
            }
            Err(reason) => {
                print_error(&reason);
                all_good = false;
            }
        }
        nodes += 1;
    }
    if nodes == 0 {
        return Err(told(directory, CheckError::NoNode));
    }
    Ok(exit_code(all_good))
}

/// Returns the report about a directory; `None` if it is not a node's.
fn report_of(directory: &Path) -> Result<Option<Report>, String> {
    let opened = FileStorage::open_read_only(directory);
    let storage = opened.map_err(|error| told(directory, error))?;
    match check::directory(&storage) {
        Ok(report) => Ok(Some(report)),
        Err(CheckError::NoNode) => Ok(None),
        Err(error) => Err(told(directory, error)),
    }
}

fn directories_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn told(directory: &Path, what: impl std::fmt::Display) -> String {
    format!("{}: {what}", directory.display())
}

fn reason(failure: Failure) -> String {
    failure.reason
}

fn exit_code(is_good: bool) -> ExitCode {
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A report and its directory, for machines.
#[derive(Serialize)]
struct Located<'a> {
    directory: String,
    #[serde(flatten)]
    report: &'a Report,
}

impl Form {
    fn show(self, directory: &Path, report: &Report) -> String {
        match self {
            Form::Text => text(directory, report),
            Form::Json => {
                let directory = directory.display().to_string();
                let line = serde_json::to_string(&Located { directory, report });
                line.expect("names and numbers are always JSON") + "\n"
            }
        }
    }
}

/// Returns a summary, then one line for each finding.
fn text(directory: &Path, report: &Report) -> String {
    let or = |value: Option<String>, otherwise: &str| value.unwrap_or_else(|| otherwise.to_owned());
    let mut text = format!(
        "{}: node {}, {}, {}\n",
        directory.display(),
        or(report.name.as_ref().map(ToString::to_string), "unknown"),
        or(
            report
                .cluster_id
                .map(|cluster| format!("cluster {cluster}")),
            "no cluster",
        ),
        or(
            report.log_epoch.map(|epoch| format!("log epoch {epoch}")),
            "not intact",
        ),
    );
    let mark = or(report.mark.map(|mark| mark.to_string()), "unknown");
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes all");
    line(format!(
        "{} in {}, {}; end {}, mark {mark}",
        counted(report.records, "record"),
        counted(report.segments, "segment"),
        counted(report.bytes, "byte"),
        report.end,
    ));
    let counts = &report.counts;
    if report.findings.is_empty() {
        line("nothing is wrong".to_owned());
        return text;
    }
    line(format!(
        "{} of damage, {}, {}",
        counted(counts.damage, "finding"),
        counted(counts.torn_tail, "torn tail"),
        counted(counts.note, "note"),
    ));
    for finding in &report.findings {
        line(directory.join(finding.to_string()).display().to_string());
    }
    if report.left_out() > 0 {
        line(format!(
            "and {} more",
            counted(report.left_out(), "finding")
        ));
    }
    text
}

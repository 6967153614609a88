//! Whether a node may be stopped: what its cluster can do without it.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use replog_core::{
    NodeName, Offset, Status,
    client::{MasterStatus, SecondaryStatus},
    types::DiskState,
};
use serde_json::json;

use super::{Node, ask};
use crate::client::{Context, Failure, Form, failure::UNHEALTHY, holders::ask_the_master, tell};

/// Between two looks of `--safe-to-stop`.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Whether the others are a majority without it.
pub(super) async fn safe_to_stop(
    name: &NodeName,
    timeout: Duration,
    context: &Context,
) -> Result<ExitCode, Failure> {
    let deadline = Instant::now() + timeout;
    let mut committed = None;
    loop {
        let Node::Master(status) = ask(context).await? else {
            return Err(ask_the_master(context).await);
        };
        let is_one = |secondary: &SecondaryStatus| secondary.name == *name;
        if status.name != *name && !status.secondaries.iter().any(is_one) {
            return Err(Failure::usage(format!(
                "the cluster has no node named {name}"
            )));
        }
        // What is appended while this asks is no reason against it.
        committed = committed.or(status.log.committed);
        let others = caught_up(&status, name, committed);
        let is_safe = others.len() >= status.quorum.needed as usize;
        if !is_safe && Instant::now() < deadline {
            actix_web::rt::time::sleep(LOOK_INTERVAL).await;
            continue;
        }
        let needed = status.quorum.needed;
        match context.form {
            Form::Json => context.print_json(&json!({
                "node": name, "safe": is_safe, "caught_up": others, "needed": needed,
            }))?,
            Form::Text => {
                tell(&safety_text(&status, name, is_safe, &others))?;
            }
        }
        return match is_safe {
            true => Ok(ExitCode::SUCCESS),
            false => Ok(ExitCode::from(UNHEALTHY)),
        };
    }
}

fn safety_text(status: &MasterStatus, name: &NodeName, is_safe: bool, others: &[String]) -> String {
    let mut text = format!(
        "{}: without {name}, {} nodes hold all that is committed, and {} are needed",
        if is_safe { "safe" } else { "not safe" },
        others.len(),
        status.quorum.needed
    );
    if !others.is_empty() {
        text += &format!(": {}", others.join(", "));
    }
    if status.name == *name {
        text += "; it is the master: nothing can be appended until it is back";
    }
    if let Some(other) = &status.fenced_by {
        text += &format!(
            "; {} is no longer the master: ask {}",
            status.name, other.name
        );
    }
    text + "\n"
}

/// The nodes but `name` that hold all below `committed`, are in contact and have a disk that works.
fn caught_up(status: &MasterStatus, name: &NodeName, committed: Option<Offset>) -> Vec<String> {
    // Not known yet: then nobody is known to hold it.
    let Some(committed) = committed else {
        return Vec::new();
    };
    // What it knows of the others is of the time when it was the master.
    if status.fenced_by.is_some() {
        return Vec::new();
    }
    let has_master = status.name != *name && status.log.disk == DiskState::Ok;
    let master = has_master.then(|| status.name.to_string());
    let secondaries = status.secondaries.iter().filter(|secondary| {
        secondary.name != *name
            && secondary.status == Status::Healthy
            && secondary.durable_end.is_some_and(|end| end >= committed)
    });
    let secondaries = secondaries.map(|secondary| secondary.name.to_string());
    master.into_iter().chain(secondaries).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::status::tests::status;

    #[test]
    fn whoever_lags_is_not_well_or_has_no_disk_is_not_counted_when_a_node_shall_be_stopped() {
        let is_safe = |status: &MasterStatus, name: &str| {
            let name = name.parse().expect("a name");
            caught_up(status, &name, status.log.committed).len() >= 2
        };
        let mut status = status();
        assert!(!is_safe(&status, "master"));
        assert!(!is_safe(&status, "secondary-1"));
        assert!(is_safe(&status, "secondary-2"));
        // In contact again, but behind.
        status.secondaries[1].status = Status::Healthy;
        assert!(!is_safe(&status, "secondary-1"));
        status.secondaries[1].durable_end = status.log.committed;
        assert!(is_safe(&status, "secondary-1") && is_safe(&status, "master"));
        status.log.disk = DiskState::Failed;
        assert!(!is_safe(&status, "secondary-1") && is_safe(&status, "master"));
        status.log.disk = DiskState::Ok;
        status.log.committed = None;
        assert!(!is_safe(&status, "secondary-1"));
    }
}

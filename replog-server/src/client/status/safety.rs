//! The decision whether a node may be stopped: what its cluster can do without it.
//!
//! A node that died is still considered alive until a heartbeat fails. So another node is counted only if it was heard
//! from since the question was asked, which takes one heartbeat.

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

/// Interval between two polls of `--safe-to-stop`.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Minimum time for the master's answer, however little time there is.
const ANSWER_TIME_MIN: Duration = Duration::from_secs(1);

/// The state of all nodes except one.
#[derive(Debug, PartialEq, Eq)]
struct Others {
    /// Nodes that hold everything committed, are well, and were heard from since the question was asked.
    caught_up: Vec<String>,
    /// Nodes that may be as well, but were not heard from since.
    not_heard_from: Vec<String>,
}

/// Answer to the question whether the node may be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Safe,
    /// It may, if the nodes that were not heard from are alive.
    Unknown,
    NotSafe,
}

/// Reports whether the other nodes are a majority without this one.
pub(super) async fn safe_to_stop(
    name: &NodeName,
    timeout: Duration,
    context: &Context,
) -> Result<ExitCode, Failure> {
    let asked_at = Instant::now();
    let deadline = asked_at + timeout;
    let mut committed = None;
    loop {
        let asked_for = asked_at.elapsed();
        let time = deadline.saturating_duration_since(Instant::now());
        let asked = tokio::time::timeout(time.max(ANSWER_TIME_MIN), ask_master(context)).await;
        let status = asked.unwrap_or_else(|_| {
            let reason = format!("it does not answer: whether {name} may be stopped is not known");
            Err(Failure::new(reason).of_node(context.url()))
        })?;
        let is_one = |secondary: &SecondaryStatus| secondary.name == *name;
        if status.name != *name && !status.secondaries.iter().any(is_one) {
            return Err(Failure::usage(format!(
                "the cluster has no node named {name}"
            )));
        }
        // Messages appended while this asks are no reason against it.
        committed = committed.or(status.log.committed);
        let others = Others::of(&status, name, committed, asked_for);
        let needed = status.quorum.needed;
        let verdict = others.verdict(needed);
        if verdict != Verdict::Safe && Instant::now() < deadline {
            actix_web::rt::time::sleep(POLL_INTERVAL).await;
            continue;
        }
        match context.form {
            Form::Json => context.print_json(&json!({
                "node": name, "safe": verdict == Verdict::Safe, "caught_up": others.caught_up,
                "not_heard_from": others.not_heard_from, "needed": needed,
            }))?,
            Form::Text => tell(&safety_text(&status, name, &others))?,
        }
        return match verdict {
            Verdict::Safe => Ok(ExitCode::SUCCESS),
            Verdict::Unknown | Verdict::NotSafe => Ok(ExitCode::from(UNHEALTHY)),
        };
    }
}

async fn ask_master(context: &Context) -> Result<Box<MasterStatus>, Failure> {
    match ask(context).await? {
        Node::Master(status) => Ok(status),
        Node::Secondary(_) => Err(ask_the_master(context).await),
    }
}

fn safety_text(status: &MasterStatus, name: &NodeName, others: &Others) -> String {
    let needed = status.quorum.needed;
    let verdict = others.verdict(needed);
    let word = match verdict {
        Verdict::Safe => "safe",
        Verdict::Unknown => "not known",
        Verdict::NotSafe => "not safe",
    };
    let names = match &others.caught_up[..] {
        [] => String::new(),
        names => format!(" ({})", names.join(", ")),
    };
    let mut text = format!(
        "{word}: nodes other than {name} known to hold all that is committed: {}{names}, needed: {needed}",
        others.caught_up.len()
    );
    if verdict == Verdict::Unknown {
        text += &format!(
            "; not heard of since this was asked: {}: give a --timeout longer than the master's \
             --heartbeat-interval",
            others.not_heard_from.join(", ")
        );
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

impl Others {
    /// Returns all nodes except `name` that hold everything below `committed` and have a working disk, according to the
    /// master's answer this long after the question.
    fn of(
        status: &MasterStatus,
        name: &NodeName,
        committed: Option<Offset>,
        asked_for: Duration,
    ) -> Others {
        let mut others = Others {
            caught_up: Vec::new(),
            not_heard_from: Vec::new(),
        };
        // Not known yet: then no node is known to hold it.
        let Some(committed) = committed else {
            return others;
        };
        // Its knowledge of the others dates from the time when it was the master.
        if status.fenced_by.is_some() {
            return others;
        }
        if status.name != *name && status.log.disk == DiskState::Ok {
            others.caught_up.push(status.name.to_string());
        }
        for secondary in &status.secondaries {
            let is_well = secondary.status == Status::Healthy && secondary.failed_attempts == 0;
            let has_all = secondary.durable_end.is_some_and(|end| end >= committed);
            if secondary.name == *name || !is_well || !has_all {
                continue;
            }
            // Whole milliseconds, of which the last one may be almost over.
            let was_heard = |ms: u64| Duration::from_millis(ms.saturating_add(1)) <= asked_for;
            match secondary.last_contact_ms.is_some_and(was_heard) {
                true => others.caught_up.push(secondary.name.to_string()),
                false => others.not_heard_from.push(secondary.name.to_string()),
            }
        }
        others
    }

    fn verdict(&self, needed: u32) -> Verdict {
        let needed = needed as usize;
        if self.caught_up.len() >= needed {
            Verdict::Safe
        } else if self.caught_up.len() + self.not_heard_from.len() >= needed {
            Verdict::Unknown
        } else {
            Verdict::NotSafe
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::status::tests::status;

    /// Long enough ago that all were heard from since.
    const HEARD: Duration = Duration::from_secs(60);

    /// Three nodes, of which the last one is not well; no attempt has failed since it was heard from.
    fn calm_status() -> MasterStatus {
        let mut status = status();
        for secondary in &mut status.secondaries {
            secondary.failed_attempts = 0;
        }
        status
    }

    fn verdict(status: &MasterStatus, name: &str, asked_for: Duration) -> Verdict {
        let name = name.parse().expect("a name");
        let others = Others::of(status, &name, status.log.committed, asked_for);
        others.verdict(status.quorum.needed)
    }

    #[test]
    fn a_node_that_lags_is_not_well_or_has_no_disk_is_not_counted() {
        let is_safe =
            |status: &MasterStatus, name: &str| verdict(status, name, HEARD) == Verdict::Safe;
        let mut status = calm_status();
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

    #[test]
    fn a_node_not_heard_from_since_the_question_or_not_answering_now_is_not_counted() {
        let mut status = calm_status();
        let table = [
            // Milliseconds since the contact, and since the question; attempts that failed since.
            (Some(99), 100, 0, Verdict::Safe),
            (Some(100), 100, 0, Verdict::Unknown),
            (Some(300), 100, 0, Verdict::Unknown),
            (Some(0), 0, 0, Verdict::Unknown),
            (None, 100, 0, Verdict::Unknown),
            (Some(50), 100, 1, Verdict::NotSafe),
        ];
        for (contact_ms, asked_ms, failed_attempts, expected) in table {
            status.secondaries[0].last_contact_ms = contact_ms;
            status.secondaries[0].failed_attempts = failed_attempts;
            let verdict = verdict(&status, "secondary-2", Duration::from_millis(asked_ms));
            assert_eq!(
                verdict, expected,
                "{contact_ms:?} {asked_ms} {failed_attempts}"
            );
        }
    }

    #[test]
    fn nodes_that_were_not_heard_from_are_named_with_what_to_do() {
        let status = calm_status();
        let name = "secondary-2".parse().expect("a name");
        let text = |asked_for| {
            let others = Others::of(&status, &name, status.log.committed, asked_for);
            safety_text(&status, &name, &others)
        };
        assert_eq!(
            text(HEARD),
            "safe: nodes other than secondary-2 known to hold all that is committed: 2 (master, secondary-1), \
             needed: 2\n"
        );
        assert_eq!(
            text(Duration::ZERO),
            "not known: nodes other than secondary-2 known to hold all that is committed: 1 (master), needed: 2; \
             not heard of since this was asked: secondary-1: give a --timeout longer than the master's \
             --heartbeat-interval\n"
        );
    }
}

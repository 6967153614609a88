//! `replog status`: a node's state, and on the master that of every other node; and whether a node may be stopped.

mod safety;

use std::{
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use replog_core::{
    Mode, NodeName, Offset, Status,
    client::{ClientError, MasterStatus, SecondaryHealth},
    types::DiskState,
};

use super::{
    Context, Failure, Form,
    failure::UNHEALTHY,
    holders::duration,
    line_of, print, print_error,
    table::{Colour, Table, coloured, span},
    tell,
};
use crate::words::counted;

/// Interval between two refreshes of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Time after which a secondary's master counts as late: some heartbeats have not arrived.
const MASTER_LATE_MS: u64 = 3_000;
/// Width of a line: most terminals are at least this wide.
const LINE_CHARS_MAX: usize = 80;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Refresh every second.
    #[arg(long)]
    watch: bool,
    /// Report whether this node may be stopped: whether the others, without it, are a majority that is alive and holds
    /// everything committed now. The exit code is 10 if not, or if that is not known.
    #[arg(long, value_name = "NODE", conflicts_with = "watch")]
    safe_to_stop: Option<NodeName>,
    /// Time for the others to catch up, and to be heard from, before the answer is no. They are heard from once in a
    /// `--heartbeat-interval` of the master: in less time the answer may not become known.
    #[arg(long, default_value = "5s", value_parser = duration, requires = "safe_to_stop")]
    timeout: Duration,
}

/// A node's report about itself.
enum Node {
    Master(Box<MasterStatus>),
    Secondary(Box<SecondaryHealth>),
}

/// Shows the status.
pub(super) async fn run(args: &StatusArgs, context: &Context) -> Result<ExitCode, Failure> {
    if let Some(name) = &args.safe_to_stop {
        return safety::safe_to_stop(name, args.timeout, context).await;
    }
    let mut before = None;
    loop {
        let node = ask(context).await;
        if !args.watch {
            let node = node?;
            tell(&text(&node, context)?)?;
            return Ok(verdict(&node));
        }
        if context.is_for_terminal() {
            // Move home, and clear what is below: no flicker, unlike clearing everything.
            print("\x1b[H\x1b[J")?;
        }
        match node {
            Ok(node) => {
                if context.is_for_terminal() {
                    print(&format!("{}{}\n\n", clock(), rate(&mut before, &node)))?;
                }
                print(&text(&node, context)?)?;
            }
            // It may come back: that is what is being watched.
            Err(failure) => print_error(&failure.reason),
        }
        actix_web::rt::time::sleep(WATCH_INTERVAL).await;
    }
}

/// Returns the time of day, in UTC.
fn clock() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.unwrap_or_default().as_secs() % (24 * 3600);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02} UTC", seconds % 60)
}

/// Returns the messages per second since the refresh before, if there was one.
fn rate(before: &mut Option<(Instant, u64)>, node: &Node) -> String {
    let next = match node {
        Node::Master(status) => status.log.next.0,
        Node::Secondary(health) => health.log.next.0,
    };
    let now = Instant::now();
    match before.replace((now, next)) {
        Some((then, earlier)) => {
            let more = next.saturating_sub(earlier) as f64;
            let seconds = (now - then).as_secs_f64();
            let rate = format!("{:.0}", more / seconds);
            format!(", {} a second", counted(rate, "message"))
        }
        None => String::new(),
    }
}

async fn ask(context: &Context) -> Result<Node, Failure> {
    let failed = |error: ClientError| Failure::of(context.url(), &error);
    let health = context.client.health().await.map_err(failed)?;
    let unreadable = |error: serde_json::Error| {
        Failure::new(format!(
            "{}: its health cannot be read: {error}",
            context.url()
        ))
    };
    match health["role"] == "master" {
        true => serde_json::from_value(health).map(|status| Node::Master(Box::new(status))),
        false => serde_json::from_value(health).map(|health| Node::Secondary(Box::new(health))),
    }
    .map_err(unreadable)
}

fn text(node: &Node, context: &Context) -> Result<String, Failure> {
    let for_terminal = context.is_for_terminal();
    match (node, context.form) {
        (Node::Master(status), Form::Json) => line_of(status),
        (Node::Secondary(health), Form::Json) => line_of(health),
        (Node::Master(status), Form::Text) => Ok(master_text(status, for_terminal)),
        (Node::Secondary(health), Form::Text) => Ok(secondary_text(health, for_terminal)),
    }
}

/// Returns exit code 10, and prints the reasons, if something is not as it should be.
fn verdict(node: &Node) -> ExitCode {
    let reasons = match node {
        Node::Master(status) => troubles_of_master(status),
        Node::Secondary(health) => troubles_of_secondary(health),
    };
    if reasons.is_empty() {
        return ExitCode::SUCCESS;
    }
    print_error(&reasons.join("; "));
    ExitCode::from(UNHEALTHY)
}

fn troubles_of_master(status: &MasterStatus) -> Vec<String> {
    let mut troubles = Vec::new();
    if status.mode != Mode::ReadWrite {
        let reason = status.mode_reason.as_deref().unwrap_or("no reason given");
        troubles.push(format!("{} is {} ({reason})", status.name, status.mode));
    }
    let recovery = status.recovery.as_ref();
    if let Some(stuck) = recovery.and_then(|recovery| recovery.stuck.as_ref()) {
        troubles.push(format!(
            "the recovery of {} cannot finish without an operator: {}",
            status.name, stuck.detail
        ));
    }
    let other = status.recovery.as_ref();
    if let Some(other) = other.and_then(|recovery| recovery.other_master.as_ref()) {
        troubles.push(format!(
            "{} hears another master, {} (instance {}), and {} waits until that one is silent",
            other.heard_by, other.name, other.instance, status.name
        ));
    }
    if status.log.disk != DiskState::Ok {
        troubles.push(format!(
            "the disk of {} is {}",
            status.name, status.log.disk
        ));
    }
    for secondary in &status.secondaries {
        if secondary.status != Status::Healthy {
            let reason = secondary.reason.as_deref().unwrap_or("no reason given");
            troubles.push(format!(
                "{} is {} ({reason})",
                secondary.name, secondary.status
            ));
        }
    }
    troubles
}

fn troubles_of_secondary(health: &SecondaryHealth) -> Vec<String> {
    let mut troubles = Vec::new();
    if !health.intact {
        troubles.push(format!(
            "{} is not intact: it is being filled, or repaired",
            health.name
        ));
    }
    match health.last_contact_ms {
        None => troubles.push(format!(
            "{} has not heard from a master since it was started",
            health.name
        )),
        Some(ms) if ms > MASTER_LATE_MS => {
            let master = health.master.as_ref().map(|master| &master.name);
            let master = master.map_or("its master".to_owned(), |name| {
                format!("its master, {name},")
            });
            troubles.push(format!(
                "{} has heard nothing from {master} for {}",
                health.name,
                span(ms)
            ));
        }
        Some(_) => {}
    }
    // A possible reason why it hears nothing. A node that hears its master is well, whatever strangers try.
    let hears_master = health
        .last_contact_ms
        .is_some_and(|ms| ms <= MASTER_LATE_MS);
    if !hears_master && let Some(refusal) = &health.last_refusal {
        troubles.push(format!(
            "{} refused a node at {}, {} s ago: {}",
            health.name,
            refusal.address,
            refusal.elapsed_ms / 1000,
            refusal.detail
        ));
    }
    if health.log.disk != DiskState::Ok {
        troubles.push(format!(
            "the disk of {} is {}",
            health.name, health.log.disk
        ));
    }
    troubles
}

fn master_text(status: &MasterStatus, for_terminal: bool) -> String {
    // For a program the heading has the unit, for a person the value does.
    let (contact, retry) = match for_terminal {
        true => ("CONTACT", "RETRY"),
        false => ("CONTACT_MS", "RETRY_MS"),
    };
    let mut table = Table::new(["NODE", "STATUS", "NEXT", "LAG", contact, "REASON", retry]);
    let ms = |ms: Option<u64>| match (ms, for_terminal) {
        (None, _) => "-".to_owned(),
        (Some(ms), true) => span(ms),
        (Some(ms), false) => ms.to_string(),
    };
    let mode = status.mode.to_string();
    table.row([
        status.name.to_string(),
        mode.clone(),
        status.log.next.to_string(),
        "0".to_owned(),
        "-".to_owned(),
        status.mode_reason.clone().unwrap_or_else(|| "-".to_owned()),
        "-".to_owned(),
    ]);
    for secondary in &status.secondaries {
        table.row([
            secondary.name.to_string(),
            secondary.status.to_string(),
            known(secondary.durable_end),
            secondary
                .durable_end
                .map_or_else(|| "-".to_owned(), |_| secondary.lag.to_string()),
            ms(secondary.last_contact_ms),
            secondary.reason.clone().unwrap_or_else(|| "-".to_owned()),
            ms(secondary.next_retry_ms),
        ]);
    }
    if !for_terminal {
        return table.text(for_terminal);
    }
    table.fit(0, LINE_CHARS_MAX);
    let rows = table.text(for_terminal);
    let colour = match status.mode {
        Mode::ReadWrite => Colour::Good,
        Mode::Recovering => Colour::Doubtful,
        Mode::ReadOnly => Colour::Bad,
    };
    let mut text = format!(
        "{}, epoch {}, {} of {} in contact, {} needed\n{}, committed {}, {}, disk {}; waiting appends: {}\n\n",
        coloured(&mode, colour, for_terminal),
        status.epoch,
        status.quorum.alive,
        counted(status.quorum.nodes, "node"),
        status.quorum.needed,
        counted(status.log.next, "message"),
        known(status.log.committed),
        bytes(status.log.bytes),
        status.log.disk,
        status.waiting_appends
    );
    for (at, line) in rows.lines().enumerate() {
        let colour = match at.checked_sub(2).map(|at| status.secondaries[at].status) {
            Some(Status::Suspected) => Some(Colour::Doubtful),
            Some(Status::Unhealthy) => Some(Colour::Bad),
            Some(Status::Healthy) => None,
            None => (at == 0).then_some(Colour::Aside),
        };
        match colour {
            Some(colour) => text += &coloured(line, colour, for_terminal),
            None => text += line,
        }
        text.push('\n');
    }
    text
}

fn secondary_text(health: &SecondaryHealth, for_terminal: bool) -> String {
    let heading = if for_terminal {
        "CONTACT"
    } else {
        "CONTACT_MS"
    };
    let mut table = Table::new(["NODE", "STATUS", "NEXT", "BUFFERED", heading, "MASTER"]);
    let contact = match health.last_contact_ms {
        None => "-".to_owned(),
        Some(ms) if for_terminal => span(ms),
        Some(ms) => ms.to_string(),
    };
    let master = health.master.as_ref();
    table.row([
        health.name.to_string(),
        if health.intact {
            "intact"
        } else {
            "not intact"
        }
        .to_owned(),
        health.log.next.to_string(),
        health.buffered.to_string(),
        contact,
        master.map_or_else(|| "-".to_owned(), |master| master.name.to_string()),
    ]);
    if for_terminal {
        table.fit(0, LINE_CHARS_MAX);
    }
    table.text(for_terminal)
}

fn known(offset: Option<Offset>) -> String {
    offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string())
}

fn bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Three nodes, of which the first is well and the last is not.
    pub(super) fn status() -> MasterStatus {
        let secondary = |name: &str, status: &str, end: u64| {
            json!({
                "name": name, "address": "localhost:6001", "url": "http://localhost:5001", "status": status, "durable_end": end,
                "lag": 123_456_789 - end, "last_contact_ms": 59_900, "failed_attempts": 17,
                "reason": (status != "Healthy").then_some("connection_refused"),
                "next_retry_ms": (status != "Healthy").then_some(4_900),
            })
        };
        let status = json!({
            "name": "master", "role": "master", "version": "0.1.0", "cluster_id": null, "epoch": 4,
            "mode": "read-write", "mode_reason": null,
            "quorum": {"nodes": 3, "needed": 2, "alive": 2},
            "log": {"next": 123_456_789, "committed": 123_456_789, "bytes": 16_384_000_000_u64, "disk": "ok"},
            "waiting_appends": 2,
            "secondaries": [
                secondary("secondary-1", "Healthy", 123_456_789),
                secondary("secondary-2", "Unhealthy", 123_000_000),
            ],
        });
        serde_json::from_value(status).expect("a status")
    }

    #[test]
    fn the_status_of_a_long_log_fits_80_columns_whatever_the_nodes_names() {
        for name in ["secondary-2", &"a-very-long-name-of-a-node-".repeat(2)] {
            let mut status = status();
            status.secondaries[1].name = name.parse().expect("a name");
            let text = master_text(&status, true);
            // Colours take no space.
            let mut lines = text.lines().map(|line| {
                let words = line.split('\x1b').map(|word| match word.split_once('m') {
                    Some((colour, rest)) if colour.starts_with('[') => rest,
                    _ => word,
                });
                words.collect::<String>()
            });
            assert!(lines.all(|line| line.chars().count() <= 80), "{text}");
            assert!(text.contains("connection_refused  4.9 s"), "{text}");
            assert!(master_text(&status, false).contains(name), "for programs");
        }
    }

    #[test]
    fn a_master_that_waits_for_another_one_to_fall_silent_names_it() {
        let mut status = serde_json::to_value(status()).expect("JSON");
        status["mode"] = "recovering".into();
        status["recovery"] = json!({
            "waiting_for": [], "not_intact": [], "from": null, "adopted": null, "of": null,
            "other_master": {
                "name": "master-2", "instance": "000102030405060708090a0b0c0d0eff", "heard_by": "secondary-1",
            },
        });
        let status: MasterStatus = serde_json::from_value(status).expect("a status");
        let troubles = troubles_of_master(&status);
        assert!(
            troubles[1].starts_with("secondary-1 hears another master, master-2"),
            "{troubles:?}"
        );
    }

    #[test]
    fn a_recovery_that_cannot_end_by_itself_says_what_to_do() {
        let mut status = serde_json::to_value(status()).expect("JSON");
        status["mode"] = "recovering".into();
        status["recovery"] = json!({
            "waiting_for": [], "not_intact": ["master", "secondary-1"], "from": null, "adopted": null, "of": null,
            "stuck": {"reason": "too_few_intact", "detail": "start a node that has its log"},
        });
        let status: MasterStatus = serde_json::from_value(status).expect("a status");
        assert_eq!(
            troubles_of_master(&status)[1],
            "the recovery of master cannot finish without an operator: start a node that has its log"
        );
    }

    #[test]
    fn a_secondary_that_has_heard_from_no_master_is_not_well() {
        let health = |contact: Option<u64>| -> SecondaryHealth {
            let health = json!({
                "name": "secondary-1", "role": "secondary", "version": "0.1.0", "cluster_id": null,
                "epoch": 4, "log": {"next": 7, "committed": null, "bytes": 1, "disk": "ok"},
                "intact": true, "buffered": 0, "master": null, "last_contact_ms": contact,
            });
            serde_json::from_value(health).expect("a health")
        };
        assert!(troubles_of_secondary(&health(Some(3))).is_empty());
        let troubles = troubles_of_secondary(&health(None));
        assert!(
            troubles[0].contains("not heard from a master"),
            "{troubles:?}"
        );
        // One that has a master, which is gone.
        let troubles = troubles_of_secondary(&health(Some(90_000)));
        let expected = "secondary-1 has heard nothing from its master for ";
        assert!(troubles[0].starts_with(expected), "{troubles:?}");
        let mut refusing = health(None);
        let refusal = json!({
            "address": "10.0.0.5", "reason": "wrong_secret", "detail": "the secrets differ",
            "elapsed_ms": 2500,
        });
        refusing.last_refusal = serde_json::from_value(refusal).expect("a refusal");
        let troubles = troubles_of_secondary(&refusing);
        assert!(
            troubles[1].contains("10.0.0.5, 2 s ago: the secrets differ"),
            "{troubles:?}"
        );
        refusing.last_contact_ms = Some(3);
        assert!(troubles_of_secondary(&refusing).is_empty());
    }
}

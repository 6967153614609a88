//! Checks whether all nodes have recovered, and whether they show what was promised.

use std::{collections::HashMap, fs};

use serde::Deserialize;
use serde_json::Value;

use super::{
    field::{Field, name_of},
    ledger::{Entry, Ledger, MessageId, Told},
};

/// A message as a node shows it.
#[derive(Debug, Deserialize)]
pub(crate) struct Shown {
    pub(crate) offset: u64,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) data: String,
}

impl Shown {
    /// Reads what a node shows, one message per line.
    pub(crate) fn read(dump: &[u8]) -> Result<Vec<Shown>, String> {
        let lines = dump
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let text = || String::from_utf8_lossy(line).into_owned();
                serde_json::from_slice(line).map_err(|error| format!("{error}: {:?}", text()))
            })
            .collect()
    }

    /// Returns the identity of the message, and what its client knows of it.
    ///
    /// # Errors
    ///
    /// Describes what is wrong with it: it was never sent, or it was refused.
    pub(crate) fn identify(&self, ledger: &Ledger) -> Result<(MessageId, Entry), String> {
        let Shown {
            offset,
            idempotency_key,
            data,
        } = self;
        let known = MessageId::of_text(data).and_then(|id| Some((id, ledger.entry(id)?)));
        let Some((id, entry)) = known else {
            return Err(format!("nobody sent what is at {offset}: {data:?}"));
        };
        let key = entry.has_key.then(|| id.key());
        if *idempotency_key != key {
            return Err(format!(
                "{id} at {offset} has key {idempotency_key:?}, not {key:?}"
            ));
        }
        match entry.told {
            Told::NotSent => Err(format!("{id} is at {offset} and was never sent")),
            Told::Refused => Err(format!("{id} is at {offset} and was refused")),
            Told::Unknown | Told::Acknowledged(_) => Ok((id, entry)),
        }
    }
}

/// Returns the reason why a node is not well; `None` if the master takes appends and all nodes are intact and
/// in contact.
pub(crate) fn illness(field: &Field) -> Option<String> {
    let mut healths = Vec::new();
    for node in 0..field.nodes() {
        match field.health(node) {
            Ok(health) => healths.push(health),
            Err(error) => return Some(format!("{} does not answer: {error}", name_of(node))),
        }
    }
    let (master, secondaries) = healths.split_first()?;
    let links = master["secondaries"].as_array();
    let is_healthy = |link: &Value| link["status"] == "Healthy" && link["reason"].is_null();
    let all_healthy = links.is_some_and(|links| links.iter().all(is_healthy));
    if master["mode"] != "read-write" || !all_healthy || master["log"]["disk"] != "ok" {
        return Some(format!("the master says {master}"));
    }
    let is_well = |health: &&Value| {
        health["intact"] == true
            && health["epoch"] == master["epoch"]
            && health["cluster_id"] == master["cluster_id"]
            && health["log"]["disk"] == "ok"
    };
    let ill = secondaries.iter().find(|health| !is_well(health))?;
    Some(format!("a secondary says {ill}, and the master {master}"))
}

/// Returns the end that all nodes have, while no client appends.
///
/// # Errors
///
/// Describes what is still missing.
pub(crate) fn common_end(field: &Field) -> Result<u64, String> {
    let health = |node| {
        let health = field.health(node);
        health.map_err(|error| format!("{} does not answer: {error}", name_of(node)))
    };
    let master = health(0)?;
    let links = master["secondaries"].as_array();
    let no_lag = links.is_some_and(|links| links.iter().all(|link| link["lag"] == 0));
    let end = master["log"]["next"].as_u64().filter(|_| no_lag);
    let (Some(end), true) = (end, master["waiting_appends"] == 0) else {
        return Err(format!("the master says {master}"));
    };
    for secondary in 1..field.nodes() {
        let health = health(secondary)?;
        if health["log"]["next"] != end || health["buffered"] != 0 {
            return Err(format!("{health}, and the master's end is {end}"));
        }
    }
    Ok(end)
}

/// Describes what is wrong with what all nodes show, once none of them changes any more. `before`: what they
/// all showed the last time.
pub(crate) fn violations(
    field: &Field,
    ledger: &Ledger,
    before: &[u8],
    dumps: &[Vec<u8>],
) -> Vec<String> {
    let mut wrong = Vec::new();
    let Some((on_master, others)) = dumps.split_first() else {
        return wrong;
    };
    for (nth, dump) in others.iter().enumerate() {
        if dump != on_master {
            let name = name_of(nth + 1);
            wrong.push(format!(
                "{name} and the master differ: {}",
                difference(on_master, dump)
            ));
        }
    }
    if !on_master.starts_with(before) {
        let difference = difference(before, on_master);
        wrong.push(format!("what was on every node is not there: {difference}"));
    }
    match Shown::read(on_master) {
        Ok(shown) => wrong.extend(broken_promises(&shown, ledger)),
        Err(error) => wrong.push(format!("the master shows no messages: {error}")),
    }
    wrong.extend((0..field.nodes()).filter_map(|node| {
        let log = fs::read_to_string(&field.node(node).log).ok()?;
        let line = log.lines().find(|line| line.contains("panicked at"))?;
        Some(format!("{}: {line}", name_of(node)))
    }));
    wrong
}

/// Checks that every acknowledged message is there, once, at its offset, and nothing else except what was sent
/// and not refused.
fn broken_promises(shown: &[Shown], ledger: &Ledger) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut found = HashMap::new();
    for (at, message) in shown.iter().enumerate() {
        if message.offset != at as u64 {
            wrong.push(format!(
                "offset {} stands where {at} belongs",
                message.offset
            ));
        }
        match message.identify(ledger) {
            Ok((id, _)) => {
                if let Some(first) = found.insert(id, message.offset) {
                    wrong.push(format!("{id} is at {first} and at {} too", message.offset));
                }
            }
            Err(what) => wrong.push(what),
        }
    }
    for (id, entry) in ledger.entries() {
        let Told::Acknowledged(acknowledged) = entry.told else {
            continue;
        };
        match found.get(&id) {
            None if ledger.must_hold(acknowledged) => {
                wrong.push(format!("{id} is lost: {acknowledged:?}"));
            }
            Some(offset) if *offset != acknowledged.offset => {
                wrong.push(format!("{id} is at {offset}: {acknowledged:?}"));
            }
            _ => {}
        }
    }
    wrong
}

/// Returns the first line in which two dumps differ.
fn difference(one: &[u8], other: &[u8]) -> String {
    let lines = |dump: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(dump);
        text.lines().map(str::to_owned).collect()
    };
    let (one, other) = (lines(one), lines(other));
    let same = one
        .iter()
        .zip(&other)
        .take_while(|(one, other)| one == other);
    let at = same.count();
    format!(
        "{} and {} messages, from line {at} on {:?} and {:?}",
        one.len(),
        other.len(),
        one.get(at),
        other.get(at)
    )
}

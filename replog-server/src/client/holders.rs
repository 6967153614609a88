//! Nodes that hold a message and nodes that do not yet: asks until enough do, and reports it.

use std::{
    ffi::OsStr,
    time::{Duration, Instant},
};

use clap::{
    Arg,
    builder::{PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser},
};
use replog_core::{
    Concern, NodeName, Offset, ReadLevel,
    client::{Client, Message, WaitingFor},
};

use super::{Context, Failure, table::span};
use crate::words::counted;

/// Time that the master is asked to wait, before it is asked again.
const WAIT_TIME: Duration = Duration::from_secs(10);

/// Parses a concern: a number, `majority` or `all`, of which a shell completes the words.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConcernParser;

impl TypedValueParser for ConcernParser {
    type Value = Concern;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Concern, clap::Error> {
        let parser = StringValueParser::new().try_map(|text| concern(&text));
        parser.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(
            ["majority", "all"].into_iter().map(PossibleValue::new),
        ))
    }
}

fn concern(text: &str) -> Result<Concern, String> {
    match text {
        "majority" => Ok(Concern::Majority),
        "all" => Ok(Concern::All),
        _ => match text.parse() {
            Ok(count @ 1..) => Ok(Concern::Count(count)),
            _ => Err("a number of nodes from 1 up, majority or all".to_owned()),
        },
    }
}

/// Parses a level: `local` or `committed`, which a shell completes.
pub(super) fn level() -> impl TypedValueParser<Value = ReadLevel> {
    PossibleValuesParser::new(["local", "committed"]).map(|level| match level.as_str() {
        "committed" => ReadLevel::Committed,
        _ => ReadLevel::Local,
    })
}

/// Parses a time, such as `500ms` or `3s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    crate::args::parse_duration(text)
}

/// The state of a message that a command waits for.
#[derive(Debug, serde::Serialize)]
pub(super) struct Held {
    pub(super) offset: Offset,
    /// Number of nodes that are to hold it.
    pub(super) concern: u32,
    pub(super) concern_met: bool,
    pub(super) acks: Vec<NodeName>,
    pub(super) waiting_for: Vec<WaitingFor>,
}

impl Held {
    /// Explains to people why too few nodes hold it.
    pub(super) fn lacking(&self) -> String {
        format!(
            "offset {} is held by {} of {} so far; it is waiting for {}",
            self.offset,
            self.acks.len(),
            counted(self.concern, "node"),
            waits(&self.waiting_for)
        )
    }
}

/// Waits until `concern` nodes hold the message at `offset`, or until the deadline. `tell` is called for each node that
/// is found to hold it.
pub(super) async fn until_held(
    client: &Client,
    offset: Offset,
    concern: u32,
    deadline: Option<Instant>,
    mut tell: impl FnMut(&NodeName),
) -> Result<Held, Failure> {
    let mut told: Vec<NodeName> = Vec::new();
    loop {
        // Answered when one more node holds it.
        let more = (told.len() as u64 + 1).min(u64::from(concern));
        let left = deadline.map(|deadline| deadline - Instant::now());
        let time = left.map_or(WAIT_TIME, |left| left.min(WAIT_TIME));
        let waited = client.wait_for_concern(offset, Concern::Count(more), Some(time));
        let message = waited
            .await
            .map_err(|error| Failure::of(client.url(), &error))?;
        let Some(held) = held(&message, concern) else {
            let url = client.url();
            return Err(Failure::new(format!(
                "{url} does not say which nodes hold it"
            )));
        };
        for name in &held.acks {
            if !told.contains(name) {
                tell(name);
                told.push(name.clone());
            }
        }
        if held.concern_met || left.is_some_and(|left| left.is_zero()) {
            return Ok(held);
        }
    }
}

/// Returns the nodes that hold it, and whether they are `concern` nodes; `None` from a secondary, which does not know.
pub(super) fn held(message: &Message, concern: u32) -> Option<Held> {
    let (acks, waiting_for) = (message.acks.as_ref()?, message.waiting_for.as_ref()?);
    Some(Held {
        offset: message.offset,
        concern,
        concern_met: acks.len() >= concern as usize,
        acks: acks.clone(),
        waiting_for: waiting_for.clone(),
    })
}

/// Returns the failure that says that this node is a secondary, and where its master is, as far as it knows.
pub(super) async fn ask_the_master(context: &Context) -> Failure {
    // Its refusal of a master's route names the master's URL, even if its health does not.
    match context.client.appends(Some(1)).await {
        Err(error) => Failure::of(context.url(), &error),
        // It has become the master since.
        Ok(_) => Failure::of_secondary(context.url(), None),
    }
}

/// Returns the names with commas between them.
pub(super) fn names(names: &[NodeName]) -> String {
    let names: Vec<&str> = names.iter().map(NodeName::as_str).collect();
    names.join(", ")
}

/// Describes the nodes that are waited for, and why.
pub(super) fn waits(waiting_for: &[WaitingFor]) -> String {
    let each: Vec<String> = waiting_for
        .iter()
        .map(|waiting| {
            let next = waiting.next_retry_ms;
            let next = next.map(|ms| format!(", next try in {}", span(ms)));
            format!(
                "{} ({}{})",
                waiting.name,
                waiting.reason,
                next.unwrap_or_default()
            )
        })
        .collect();
    each.join(", ")
}

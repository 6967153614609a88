//! Who holds a message and who does not yet: asking until enough do, and saying it.

use std::time::{Duration, Instant};

use replog_core::{
    Concern, NodeName, Offset, ReadLevel,
    client::{Message, WaitingFor},
};

use super::{Context, Failure, table::span};

/// Between two questions.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Reads a concern: a number, `majority` or `all`.
pub(super) fn concern(text: &str) -> Result<Concern, String> {
    match text {
        "majority" => Ok(Concern::Majority),
        "all" => Ok(Concern::All),
        _ => match text.parse() {
            Ok(count @ 1..) => Ok(Concern::Count(count)),
            _ => Err("a number of nodes from 1 on, majority or all".to_owned()),
        },
    }
}

/// Reads a level: `local` or `committed`.
pub(super) fn level(text: &str) -> Result<ReadLevel, String> {
    match text {
        "local" => Ok(ReadLevel::Local),
        "committed" => Ok(ReadLevel::Committed),
        _ => Err("local or committed".to_owned()),
    }
}

/// Reads a time, such as `500ms` or `3s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    crate::args::parse_duration(text)
}

/// What is known of a message that somebody waits for.
#[derive(Debug, serde::Serialize)]
pub(super) struct Held {
    pub(super) offset: Offset,
    /// How many nodes are to hold it.
    pub(super) concern: u32,
    pub(super) concern_met: bool,
    pub(super) acks: Vec<NodeName>,
    pub(super) waiting_for: Vec<WaitingFor>,
}

impl Held {
    /// Why it is not held by enough nodes, for people.
    pub(super) fn lacking(&self) -> String {
        format!(
            "offset {} is held by {} of {} nodes so far; it is waiting for {}",
            self.offset,
            self.acks.len(),
            self.concern,
            waits(&self.waiting_for)
        )
    }
}

/// Asks until `concern` nodes hold the message at `offset`, or until the deadline. `tell` is called for
/// each node that is found to hold it.
pub(super) async fn until_held(
    context: &Context,
    offset: Offset,
    concern: u32,
    deadline: Option<Instant>,
    mut tell: impl FnMut(&NodeName),
) -> Result<Held, Failure> {
    let mut told: Vec<NodeName> = Vec::new();
    loop {
        let message = context.client.message(offset).await;
        let message = message.map_err(|error| Failure::of(context.url(), &error))?;
        let Some(held) = held(&message, concern) else {
            return Err(ask_the_master(context).await);
        };
        for name in &held.acks {
            if !told.contains(name) {
                tell(name);
                told.push(name.clone());
            }
        }
        if held.concern_met || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(held);
        }
        actix_web::rt::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Who holds it, and whether that is `concern` nodes; `None` from a secondary, which does not know.
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

/// That this node is a secondary, and where its master is, as far as it knows.
pub(super) async fn ask_the_master(context: &Context) -> Failure {
    // Its refusal of what only a master has names the master's URL, also where its health does not.
    match context.client.appends(Some(1)).await {
        Err(error) => Failure::of(context.url(), &error),
        // It was made the master since.
        Ok(_) => Failure::of_secondary(context.url(), None),
    }
}

/// Names with commas between them.
pub(super) fn names(names: &[NodeName]) -> String {
    let names: Vec<&str> = names.iter().map(NodeName::as_str).collect();
    names.join(", ")
}

/// Who is waited for, and why.
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

//! Retries repeat messages, the log does not: each message is in each log once.
//!
//! Both secondaries fail half of the master's batches before they store them, and half of the rest
//! after they stored them. The master cannot tell one from the other, and sends them again.
//!
//! Run it with `cargo run --example exactly_once`.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use bytes::Bytes;
use replog_core::{
    Concern, Offset, Timing,
    transport::{FaultSettings, TransportError},
};
use replog_examples::{Cluster, Failure, Fate, MASTER, ONE, Story, TWO, client, timing, within};

const LOOK_AT: &str = "
Thousands of messages, w=3, through two secondaries that answer most batches with status 500:
half of them before storing anything, half of the rest after storing all of it. Look at how many
records were sent again though the secondary held them already: each of those was recognised by
its offset and dropped. Two readers follow both logs all the while, and must never see a gap.";

/// Number of messages.
const MESSAGES: u64 = 4_000;
/// Clients that append concurrently.
const CLIENTS: u64 = 400;

#[tokio::main]
async fn main() -> ExitCode {
    let story = Story::begin("exactly_once", LOOK_AT);
    let outcome = tell(&story).await;
    story.end(outcome)
}

async fn tell(story: &Story) -> Result<(), Failure> {
    let impatient = Timing {
        retry_min: Duration::from_millis(1),
        retry_max: Duration::from_millis(4),
        ..timing()
    };
    let mut cluster = Cluster::new(story, impatient)?;
    let mut readers = Vec::new();
    for (seed, name) in [(1, ONE), (2, TWO)] {
        let faults = FaultSettings {
            error_before_append: 0.5,
            error_after_append: 0.5,
            seed: Some(seed),
            ..FaultSettings::default()
        };
        cluster.set_faults(name, faults)?;
        let secondary = cluster.start_secondary(name).await?;
        story.line(name, format_args!("will fail, by the dice of seed {seed}"));
        readers.push((name, secondary.reader()));
    }
    let master = cluster.start_master().await?;

    story.part(format_args!(
        "{MESSAGES} messages from {CLIENTS} clients, w=3"
    ));
    let follow = |(name, reader): &(&'static str, replog_core::Reader)| {
        (*name, client::follow(reader.clone(), Offset(MESSAGES)))
    };
    let followers: Vec<_> = readers.iter().map(follow).collect();
    let payload = |number: u64| Bytes::from(format!("message {number}"));
    let clients_master = master.clone();
    let appends = tokio::spawn(async move {
        client::append_many(&clients_master, CLIENTS, MESSAGES, Concern::All, payload).await
    });
    for quarter in 1..=4 {
        let what = "the log to grow";
        cluster
            .until(what, |health| {
                let end = health.log.committed.unwrap_or(Offset::ZERO);
                end.0 >= MESSAGES * quarter / 4
            })
            .await?;
        let sent: Vec<String> = [ONE, TWO]
            .into_iter()
            .map(|name| format!("{} to {name}", cluster.traffic().batches(name).len()))
            .collect();
        let held = MESSAGES * quarter / 4;
        let line = format!(
            "{held} messages are with a majority; batches: {}",
            sent.join(", ")
        );
        story.line(MASTER, line);
    }
    let given = within("all appends", appends).await???;
    let line = format!("all {} appends are answered", given.len());
    story.line("client", line);
    cluster.until_equal().await?;

    story.part("what it took");
    let failed = Fate::Failed(TransportError::Injected);
    for name in [ONE, TWO] {
        let batches = cluster.traffic().batches(name);
        let of = |held: bool| {
            let failures = batches.iter().filter(|batch| batch.fate == failed);
            failures.filter(|batch| batch.held == held).count()
        };
        let (before, after) = (of(false), of(true));
        let given_up = batches.iter().filter(|b| b.fate == Fate::GivenUp).count();
        let sent: u64 = batches.iter().map(|b| b.end.records_since(b.first)).sum();
        let repeated: u64 = batches.iter().map(|batch| batch.repeated).sum();
        story.line(
            name,
            format_args!(
                "{} batches: {before} failed and not stored, {after} failed though stored, {given_up} \
                 without an answer in time",
                batches.len(),
            ),
        );
        story.line(
            name,
            format_args!("{sent} records were sent, {repeated} of them while it held them already"),
        );
        story.check(
            format!("{name} failed batches before and after storing, and was sent repeats"),
            before > 0 && after > 0 && repeated > 0,
        );
    }

    story.part("the three logs");
    let expected = client::read_all(&master.reader()).await?;
    let texts: BTreeSet<&[u8]> = expected.iter().map(|m| &m.payload[..]).collect();
    story.line(MASTER, format_args!("shows {} messages", expected.len()));
    story.check(
        format!("the master's log has {MESSAGES} messages, all different"),
        expected.len() as u64 == MESSAGES && texts.len() as u64 == MESSAGES,
    );
    let at_home = given.iter().all(|(number, offset)| {
        usize::try_from(offset.0)
            .ok()
            .and_then(|index| expected.get(index))
            .is_some_and(|message| message.payload == payload(*number))
    });
    story.check(
        "each client finds its message at the offset it was told",
        at_home,
    );
    for ((name, reader), (_, follower)) in readers.iter().zip(followers) {
        let shown = client::read_all(reader).await?;
        story.line(name, format_args!("shows {} messages", shown.len()));
        story.check(
            format!("{name} shows the same messages in the same order, each once"),
            shown == expected,
        );
        let followed = within("the reader to reach the end", follower).await???;
        story.check(
            format!(
                "a reader of {name} looked {} times and never saw a gap or a repeat",
                followed.looks
            ),
            followed.gaps == 0 && followed.messages == expected,
        );
    }
    master.stop().await;
    Ok(())
}

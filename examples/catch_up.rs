//! A secondary that was away gets the messages that it lacks, and nothing twice: after a stop, and
//! emptied.
//!
//! Secondary 2 misses thousands of messages and restarts on its old log; then it misses some more
//! and restarts with an empty disk. Both times it catches up in large batches, several in flight at
//! once, while new messages are appended.
//!
//! Run it with `cargo run --example catch_up`.
#![forbid(unsafe_code)]

use std::{process::ExitCode, time::Duration};

use bytes::Bytes;
use replog_core::{
    Concern, Master, Offset, ReadLevel, Secondary, Status, Timing, limits::BATCHES_IN_FLIGHT_MAX,
    transport::FaultSettings, views::MasterHealth,
};
use replog_examples::{
    Batch, Cluster, Failure, Fate, MASTER, ONE, Story, TWO, client, secondary, timing,
};

const LOOK_AT: &str = "
secondary-2 misses 20000 messages of 1 KiB. When it starts again, look at its lag: it shrinks in
batches of up to 1 MiB, four of them on their way at once (each made to take 40 to 80 ms here, so
that there is something to see). New messages are answered meanwhile. Look at where the batches
begin: at what it holds, and at offset 0 after its disk was replaced by an empty one.";

/// Messages that are missed at first.
const MISSED: u64 = 20_000;
/// Messages that are missed before the disk is replaced.
const MISSED_LATER: u64 = 2_000;
/// Messages before all of that.
const BEFORE: u64 = 500;
/// Clients that append at once.
const CLIENTS: u64 = 256;

#[tokio::main]
async fn main() -> ExitCode {
    let story = Story::begin("catch_up", LOOK_AT);
    let outcome = tell(&story).await;
    story.end(outcome)
}

async fn tell(story: &Story) -> Result<(), Failure> {
    // Longer than a batch can take on the slow connection, however busy the machine is.
    let patient = Timing {
        request_timeout: Duration::from_secs(5),
        ..timing()
    };
    let mut cluster = Cluster::new(story, patient)?;
    let first_secondary = cluster.start_secondary(ONE).await?;
    cluster.start_secondary(TWO).await?;
    let master = cluster.start_master().await?;
    append(story, &master, BEFORE, Concern::All).await?;

    story.part("secondary-2 is away, and the log grows");
    cluster.stop_secondary(TWO).await?;
    cluster.until_status(TWO, Status::Unhealthy).await?;
    append(story, &master, MISSED, Concern::Count(2)).await?;

    story.part("it starts again on its old log");
    let (_, batches) = catch_up(story, &mut cluster, &master).await?;
    let new = BEFORE + MISSED;
    story.check(
        "restarted: the first batch begins where its log ended",
        batches.first().is_some_and(|b| b.first == Offset(BEFORE)),
    );
    check_batches(story, "restarted", &batches, Offset(BEFORE));

    story.part("it is away again, and comes back with an empty disk");
    cluster.stop_secondary(TWO).await?;
    cluster.until_status(TWO, Status::Unhealthy).await?;
    cluster.empty_secondary(TWO)?;
    append(story, &master, MISSED_LATER, Concern::Count(2)).await?;
    let (second_secondary, batches) = catch_up(story, &mut cluster, &master).await?;
    story.check(
        "emptied: the first batch begins at offset 0",
        batches.first().is_some_and(|b| b.first == Offset::ZERO),
    );
    check_batches(story, "emptied", &batches, Offset::ZERO);

    story.part("the three logs");
    cluster.until_equal().await?;
    let expected = client::read_all(&master.reader()).await?;
    for (name, reader) in [
        (ONE, first_secondary.reader()),
        (TWO, second_secondary.reader()),
    ] {
        let shown = client::read_all(&reader).await?;
        story.line(name, format_args!("shows {} messages", shown.len()));
        story.check(
            format!("{name} shows the master's log, message for message"),
            shown == expected && expected.len() as u64 == new + MISSED_LATER + 2,
        );
    }
    master.stop().await;
    Ok(())
}

/// Appends `count` messages of 1 KiB.
async fn append(
    story: &Story,
    master: &Master,
    count: u64,
    concern: Concern,
) -> Result<(), Failure> {
    let began = story.elapsed();
    let payload = |number: u64| Bytes::from(format!("{number:>1024}"));
    client::append_many(master, CLIENTS, count, concern, payload).await?;
    let took = (story.elapsed() - began).as_millis();
    let line = format!("{count} messages were appended, w={concern}, in {took} ms");
    story.line("client", line);
    Ok(())
}

/// Starts secondary 2 on a slow connection, appends one more message while it is behind, reports
/// how its lag shrinks, and returns it with the batches that it was sent.
async fn catch_up(
    story: &Story,
    cluster: &mut Cluster,
    master: &Master,
) -> Result<(Secondary, Vec<Batch>), Failure> {
    let before = cluster.traffic().batches(TWO).len();
    let slow_line = FaultSettings {
        delay_ms: Some([40, 80]),
        seed: Some(1),
        ..FaultSettings::default()
    };
    cluster.set_faults(TWO, slow_line)?;
    let secondary_two = cluster.start_secondary(TWO).await?;
    cluster
        .until("the catch-up to begin", |_| {
            cluster.traffic().batches(TWO).len() > before
        })
        .await?;
    let reader = secondary_two.reader();
    let receipt = client::append(story, master, "a new message", 2).await?;
    let held = reader.end(ReadLevel::Local);
    story.check(
        "a new message, w=2, is answered while secondary-2 is still behind",
        held.is_some_and(|end| end <= receipt.offset),
    );
    let mut told = u64::MAX;
    let tell_lag = |health: &MasterHealth| {
        let lag = secondary(health, TWO).lag;
        // Prints a line for each tenth by which the lag shrinks, and for the last step.
        if lag < told && (lag == 0 || told - lag >= MISSED / 10) {
            told = lag;
            story.line(MASTER, format_args!("{TWO} lacks {lag:>5} messages"));
        }
        lag == 0
    };
    cluster.until("the lag to be 0", tell_lag).await?;
    cluster.set_faults(TWO, FaultSettings::default())?;
    let batches = cluster.traffic().batches(TWO).split_off(before);
    let at_once = batches.iter().map(|b| b.in_flight).max().unwrap_or(0);
    let line = format!(
        "{} batches were sent, at most {at_once} on their way at once",
        batches.len()
    );
    story.line(MASTER, line);
    Ok((secondary_two, batches))
}

/// Checks that every batch was taken at the first attempt, none twice, several at once.
fn check_batches(story: &Story, when: &str, batches: &[Batch], from: Offset) {
    let mut ranges: Vec<(Offset, Offset)> = batches.iter().map(|b| (b.first, b.end)).collect();
    ranges.sort();
    let covered = ranges.first().is_some_and(|range| range.0 == from)
        && ranges.windows(2).all(|pair| pair[0].1 == pair[1].0);
    story.check(
        format!("{when}: each missing message was sent exactly once"),
        covered && batches.iter().all(|batch| batch.fate == Fate::Taken),
    );
    story.check(
        format!("{when}: several batches were on their way at once, at most four"),
        batches.iter().any(|batch| batch.in_flight > 1)
            && batches
                .iter()
                .all(|batch| batch.in_flight <= BATCHES_IN_FLIGHT_MAX),
    );
}

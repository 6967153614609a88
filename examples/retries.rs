//! A master never gives up, and never hammers: retries through every kind of failure.
//!
//! Secondary 2 refuses connections, then answers errors, then does not answer, then is cut off. The
//! same messages are retried through all of it, and finally delivered.
//!
//! Run it with `cargo run --example retries`.
#![forbid(unsafe_code)]

use std::{process::ExitCode, time::Duration};

use replog_core::{
    Status,
    transport::{FaultSettings, TransportError},
    views::{MasterHealth, WaitReason},
};
use replog_examples::{
    Batch, Cluster, Failure, Fate, MASTER, ONE, Story, TWO, client, secondary, timing,
};

const LOOK_AT: &str = "
Msg1, w=3, needs secondary-2, which fails in four ways, one after the other. Look at the delays
before each batch: the first retry comes at once, the next ones after delays that double up to
200 ms (each shortened by chance, by up to a half). Look at the status: a secondary that answers
heartbeats but takes nothing is Suspected; one that is not heard at all becomes Unhealthy, and
from then on gets heartbeats only. The first one that it answers restarts delivery at once.";

#[tokio::main]
async fn main() -> ExitCode {
    let story = Story::begin("retries", LOOK_AT);
    let outcome = tell(&story).await;
    story.end(outcome)
}

async fn tell(story: &Story) -> Result<(), Failure> {
    let mut cluster = Cluster::new(story, timing())?;
    cluster.start_secondary(ONE).await?;
    cluster.start_secondary(TWO).await?;
    let master = cluster.start_master().await?;
    cluster.until_status(TWO, Status::Healthy).await?;
    cluster.traffic().tell(TWO);

    story.part("it refuses connections: nothing listens there");
    cluster.stop_secondary(TWO).await?;
    let first = client::append_in_background(story, &master, "Msg1", 3);
    let health = cluster.until_status(TWO, Status::Unhealthy).await?;
    tell_health(story, &health);
    story.check(
        "refused: the reason is connection_refused, and the secondary becomes Unhealthy",
        secondary(&health, TWO).reason == Some(WaitReason::ConnectionRefused),
    );
    heartbeats_only(story, &cluster, "refused").await?;

    story.part("it answers, with status 500 to every batch");
    let blocked = FaultSettings {
        block_replication: true,
        ..FaultSettings::default()
    };
    cluster.set_faults(TWO, blocked)?;
    let before = cluster.traffic().batches(TWO).len();
    let secondary_two = cluster.start_secondary(TWO).await?;
    cluster
        .until("nine failed batches", |_| {
            cluster.traffic().batches(TWO).len() >= before + 9
        })
        .await?;
    let health = cluster.until_status(TWO, Status::Suspected).await?;
    tell_health(story, &health);
    story.check(
        "status 500: it is heard, so it is Suspected and not Unhealthy",
        secondary(&health, TWO).reason == Some(WaitReason::HttpStatus),
    );
    let failed = cluster.traffic().batches(TWO).split_off(before);
    check_delays(story, &failed);

    story.part("it takes connections and never answers a batch");
    let slow = FaultSettings {
        delay_ms: Some([60_000, 60_000]),
        ..FaultSettings::default()
    };
    cluster.set_faults(TWO, slow)?;
    let hangs = |batch: &Batch| batch.fate == Fate::GivenUp;
    cluster
        .until("two batches to be given up", |_| {
            let batches = cluster.traffic().batches(TWO);
            batches.iter().filter(|batch| hangs(batch)).count() >= 2
        })
        .await?;
    let health = cluster
        .until("the reason to be timed_out", |health| {
            secondary(health, TWO).reason == Some(WaitReason::TimedOut)
        })
        .await?;
    tell_health(story, &health);
    let batches = cluster.traffic().batches(TWO);
    story.check(
        "hanging: each batch is given up after the request timeout of 200 ms, not before",
        batches
            .iter()
            .filter(|batch| hangs(batch))
            .all(|batch| batch.ended - batch.sent >= timing().request_timeout),
    );

    story.part("its cable is cut");
    cluster.cut(TWO)?;
    let second = client::append(story, &master, "Msg2", 2).await?;
    story.check(
        "Msg2, w=2, does not wait for secondary-2",
        second.concern_met && !first.is_finished(),
    );
    let health = cluster.until_status(TWO, Status::Unhealthy).await?;
    tell_health(story, &health);
    heartbeats_only(story, &cluster, "cut").await?;
    story.check(
        "through all of this Msg1, w=3, waits and is not failed",
        !first.is_finished(),
    );

    story.part("all is well again");
    cluster.set_faults(TWO, FaultSettings::default())?;
    cluster.heal(TWO)?;
    let receipt = client::answer("Msg1", first).await?;
    let health = cluster.until_equal().await?;
    let health = match secondary(&health, TWO).status {
        Status::Healthy => health,
        Status::Suspected | Status::Unhealthy => cluster.until_status(TWO, Status::Healthy).await?,
    };
    tell_health(story, &health);
    let shown = client::read_all(&secondary_two.reader()).await?;
    let texts: Vec<&[u8]> = shown.iter().map(|message| &message.payload[..]).collect();
    story.check(
        "Msg1 is answered, and secondary-2 shows Msg1 and Msg2, each once",
        receipt.acks.len() == 3 && texts == [b"Msg1", b"Msg2"],
    );
    story.check(
        "no failures are counted any more",
        secondary(&health, TWO).failed_attempts == 0,
    );
    master.stop().await;
    Ok(())
}

/// Prints the health that an operator sees on the master.
fn tell_health(story: &Story, health: &MasterHealth) {
    let two = secondary(health, TWO);
    let reason = two.reason.map_or("none", WaitReason::as_str);
    let retry = match (two.reason, two.next_retry) {
        (_, Some(retry)) => format!("in {} ms", retry.as_millis()),
        (Some(_), None) => "under way".to_owned(),
        (None, None) => "not needed".to_owned(),
    };
    story.line(
        MASTER,
        format_args!(
            "health of {TWO}: {}, lag {}, failed attempts {}, reason {reason}, next try {retry}",
            two.status, two.lag, two.failed_attempts
        ),
    );
}

/// Waits for five more heartbeats to an Unhealthy secondary: no batch is sent with them.
async fn heartbeats_only(story: &Story, cluster: &Cluster, when: &str) -> Result<(), Failure> {
    // A batch that was sent before may still be under way: it ends at its timeout.
    let sent_since = story.elapsed();
    let failures = |health: &MasterHealth| secondary(health, TWO).failed_attempts;
    let mut first = None;
    let enough = |health: &MasterHealth| {
        let first = *first.get_or_insert(failures(health));
        failures(health) >= first + 5
    };
    cluster.until("five failed heartbeats", enough).await?;
    let batches = cluster.traffic().batches(TWO);
    let none = batches.iter().all(|batch| batch.sent < sent_since);
    story.line(MASTER, "five more heartbeats were tried, and no batch");
    story.check(
        format!("{when}: once Unhealthy, it gets heartbeats and no batches"),
        none,
    );
    Ok(())
}

/// Checks the delays between failed batches: none, then growing to the cap, each at least half of
/// its step.
fn check_delays(story: &Story, batches: &[Batch]) {
    let failed = Fate::Failed(TransportError::Injected);
    let delays: Vec<Duration> = batches
        .windows(2)
        .filter(|pair| pair[0].fate == failed && pair[1].fate == failed)
        .map(|pair| pair[1].sent.saturating_sub(pair[0].ended))
        .collect();
    let (retry_min, retry_max) = (timing().retry_min, timing().retry_max);
    let mut step = retry_min;
    let mut grow = true;
    for delay in delays.iter().skip(1) {
        // Timers have a resolution of one millisecond.
        grow &= *delay + Duration::from_millis(1) >= step / 2;
        step = (step * 2).min(retry_max);
    }
    let shown: Vec<String> = delays.iter().map(|d| d.as_millis().to_string()).collect();
    let shown = shown.join(", ");
    story.check(
        format!("status 500: the delays grow from none to at most 200 ms: {shown} ms"),
        grow && delays.len() >= 7 && delays.first() < delays.last(),
    );
}

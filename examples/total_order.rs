//! One order on every node, although batches overtake each other in flight.
//!
//! Clients append concurrently, each batch is delayed at random, and several are in flight to each
//! secondary: later ones arrive before earlier ones. Early records are held back.
//!
//! Run it with `cargo run --example total_order`.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use replog_core::{Concern, Offset, Secondary, Timing, transport::FaultSettings};
use replog_examples::{Cluster, Failure, MASTER, ONE, Story, TWO, client, timing, within};
use tokio::task::JoinHandle;

const LOOK_AT: &str = "
Each batch takes 1 to 60 ms, by chance, and up to four are on their way to a secondary, so later
ones overtake earlier ones. Look at the records that a secondary holds back: they have arrived,
but one before them has not, so no reader sees them yet. Readers follow all three nodes all the
while: none may ever see a gap, and in the end all three logs must be equal.";

/// Number of messages.
const MESSAGES: u64 = 4_000;
/// Clients that append concurrently, each one message after the other.
const CLIENTS: u64 = 60;

#[tokio::main]
async fn main() -> ExitCode {
    let story = Story::begin("total_order", LOOK_AT);
    let outcome = tell(&story).await;
    story.end(outcome)
}

async fn tell(story: &Story) -> Result<(), Failure> {
    let patient = Timing {
        request_timeout: Duration::from_secs(5),
        ..timing()
    };
    let mut cluster = Cluster::new(story, patient)?;
    let mut secondaries = Vec::new();
    for (seed, name) in [(1, ONE), (2, TWO)] {
        let faults = FaultSettings {
            delay_ms: Some([1, 60]),
            seed: Some(seed),
            ..FaultSettings::default()
        };
        cluster.set_faults(name, faults)?;
        secondaries.push((name, cluster.start_secondary(name).await?));
    }
    let master = cluster.start_master().await?;

    story.part(format_args!(
        "{MESSAGES} messages from {CLIENTS} clients, w=majority"
    ));
    let mut followers = vec![(MASTER, client::follow(master.reader(), Offset(MESSAGES)))];
    let (mut watches, over) = (Vec::new(), Arc::new(AtomicBool::new(false)));
    for (name, secondary) in &secondaries {
        let follower = client::follow(secondary.reader(), Offset(MESSAGES));
        followers.push((*name, follower));
        watches.push((*name, watch_buffered(story, name, secondary, &over)));
    }
    let payload = |number: u64| Bytes::from(format!("message {number}"));
    let appends = client::append_many(&master, CLIENTS, MESSAGES, Concern::Majority, payload);
    let given = within("all appends", appends).await??;
    let line = format!("all {} appends are answered", given.len());
    story.line("client", line);
    cluster.until_equal().await?;

    story.part("what happened on the way");
    over.store(true, Ordering::Relaxed);
    for (name, watch) in watches {
        let batches = cluster.traffic().batches(name);
        let at_once = batches.iter().map(|b| b.in_flight).max().unwrap_or(0);
        let sent = batches.len();
        story.line(
            MASTER,
            format_args!("sent {sent} batches to {name}, at most {at_once} on their way at once"),
        );
        let HeldBack { looks, found, most } = within("the last look", watch).await???;
        story.line(
            name,
            format_args!("held something back at {found} of {looks} looks, at most {most} records"),
        );
        story.check(
            format!("{name}: batches overtook each other, and what came early was held back"),
            at_once > 1 && most > 0,
        );
    }

    story.part("the three logs");
    let expected = client::read_all(&master.reader()).await?;
    let told: BTreeMap<u64, Offset> = given.into_iter().collect();
    story.check(
        "every message has an offset of its own, without gaps from 0",
        expected.len() as u64 == MESSAGES
            && told.len() as u64 == MESSAGES
            && (0..)
                .zip(&expected)
                .all(|(at, message)| message.offset == Offset(at)),
    );
    for (name, follower) in followers {
        let followed = within("the reader to reach the end", follower).await???;
        let (shown, looks) = (followed.messages.len(), followed.looks);
        let line = format!("a reader saw {shown} messages in {looks} looks");
        story.line(name, line);
        story.check(
            format!("a reader of {name} never saw a gap, and saw the master's order"),
            followed.gaps == 0 && followed.messages == expected,
        );
    }
    for (name, secondary) in secondaries {
        let health = within("the health", secondary.health()).await??;
        let shown = client::read_all(&secondary.reader()).await?;
        story.check(
            format!("{name} shows the master's log, and holds nothing back any more"),
            shown == expected && health.buffered == 0,
        );
    }
    master.stop().await;
    Ok(())
}

/// Records that a secondary held back, over many looks.
#[derive(Default)]
struct HeldBack {
    looks: u64,
    /// Looks at which it held something back.
    found: u64,
    most: u64,
}

/// Asks a secondary every few milliseconds how much it holds back, and prints each new maximum.
/// Ends when `over` says so.
fn watch_buffered(
    story: &Story,
    name: &'static str,
    secondary: &Secondary,
    over: &Arc<AtomicBool>,
) -> JoinHandle<Result<HeldBack, Failure>> {
    let (story, secondary, over) = (story.clone(), secondary.clone(), Arc::clone(over));
    tokio::spawn(async move {
        let mut seen = HeldBack::default();
        let mut ticks = tokio::time::interval(Duration::from_millis(2));
        while !over.load(Ordering::Relaxed) {
            ticks.tick().await;
            let health = secondary.health().await?;
            let (end, buffered) = (health.log.next, health.buffered);
            seen.looks += 1;
            seen.found += u64::from(buffered > 0);
            if buffered > seen.most {
                seen.most = buffered;
                let line = format!("shows {end} messages, holds back {buffered} that came early");
                story.line(name, line);
            }
        }
        Ok(seen)
    })
}

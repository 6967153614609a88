//! An append that waits for a node blocks no other append: the whole system in its smallest scene.
//!
//! The master and secondary 1 run, secondary 2 does not. Messages with w=1 and w=2 are answered,
//! one with w=3 waits, and the next with w=1 is answered meanwhile. Then secondary 2 starts.
//!
//! Run it with `cargo run --example blocked_append`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use replog_core::views::MasterHealth;
use replog_examples::{Cluster, Failure, MASTER, ONE, Story, TWO, client, secondary, timing};

const LOOK_AT: &str = "
A message's write concern w says how many nodes must hold it before its sender is answered.
Look at Msg3, w=3: it waits for as long as secondary-2 is away, while Msg4, appended after it,
is answered at once. When secondary-2 starts, it gets all four messages, in order.";

#[tokio::main]
async fn main() -> ExitCode {
    let story = Story::begin("blocked_append", LOOK_AT);
    let outcome = tell(&story).await;
    story.end(outcome)
}

async fn tell(story: &Story) -> Result<(), Failure> {
    let mut cluster = Cluster::new(story, timing())?;

    story.part("two of three nodes run");
    cluster.start_secondary(ONE).await?;
    let master = cluster.start_master().await?;
    let first = client::append(story, &master, "Msg1", 1).await?;
    let second = client::append(story, &master, "Msg2", 2).await?;
    story.check("Msg1, w=1, is answered", first.concern_met);
    story.check(
        "Msg2, w=2, is answered once secondary-1 holds it",
        second.concern_met && second.acks.iter().any(|name| name.as_str() == ONE),
    );

    story.part("one waits, the others do not");
    let third = client::append_in_background(story, &master, "Msg3", 3);
    cluster
        .until("Msg3 to wait", |health| health.waiting_appends == 1)
        .await?;
    for append in master.waiting_appends(10).await?.appends {
        for missing in append.waiting_for.iter() {
            let (offset, w, reason) = (append.offset, append.concern, missing.reason);
            let line = format!(
                "offset {offset} (w={w}) waits for {}: {reason}",
                missing.name
            );
            story.line(MASTER, line);
        }
    }
    let fourth = client::append(story, &master, "Msg4", 1).await?;
    story.check(
        "Msg4, w=1, is answered while Msg3 waits",
        fourth.concern_met && !third.is_finished(),
    );
    let tries = |health: &MasterHealth| secondary(health, TWO).failed_attempts;
    let tried = tries(&master.health().await?);
    let health = cluster
        .until("ten more tries", |health| tries(health) >= tried + 10)
        .await?;
    let line = format!(
        "{TWO} was tried ten more times; appends that wait: {}",
        health.waiting_appends
    );
    story.line(MASTER, line);
    story.check(
        "Msg3 still waits after secondary-2 was tried ten more times",
        !third.is_finished() && health.waiting_appends == 1,
    );

    story.part("the third node starts");
    let second_secondary = cluster.start_secondary(TWO).await?;
    let receipt = client::answer("Msg3", third).await?;
    story.check(
        "Msg3, w=3, is answered, held by all three nodes",
        receipt.concern_met && receipt.acks.len() == 3,
    );
    cluster.until_equal().await?;
    let shown = client::read_all(&second_secondary.reader()).await?;
    for message in &shown {
        let text = String::from_utf8_lossy(&message.payload);
        story.line(TWO, format_args!("shows {} {text}", message.offset));
    }
    let texts: Vec<&[u8]> = shown.iter().map(|message| &message.payload[..]).collect();
    story.check(
        "secondary-2 shows Msg1, Msg2, Msg3, Msg4, in this order, each once",
        texts == [b"Msg1", b"Msg2", b"Msg3", b"Msg4"],
    );
    master.stop().await;
    Ok(())
}

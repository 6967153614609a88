//! Without a majority, no writes: refused at once and with numbers, while reads go on.
//!
//! One secondary is cut off, then the other. The master refuses new appends, serves reads, and
//! keeps the waiting appends. It takes appends again by itself when one secondary is back.
//!
//! Run it with `cargo run --example read_only`.
#![forbid(unsafe_code)]

use std::{process::ExitCode, time::Duration};

use replog_core::{
    AppendOptions, Concern, Master, Mode, ModeReason, Offset, Status,
    error::{AppendError, Outcome},
};
use replog_examples::{Cluster, Failure, MASTER, ONE, Story, TWO, client, timing};

const LOOK_AT: &str = "
Three nodes, and a majority is two. With both secondaries out of contact the master cannot know
that a message will ever be safe, so it takes none: look at the refusals, which come at once and
say why. Reads go on. Msg2 and Msg3, appended before, keep waiting, and each is answered when the
node that it waits for is back. Nobody tells the master to go on: it sees the quorum itself.";

#[tokio::main]
async fn main() -> ExitCode {
    let story = Story::begin("read_only", LOOK_AT);
    let outcome = tell(&story).await;
    story.end(outcome)
}

async fn tell(story: &Story) -> Result<(), Failure> {
    let mut cluster = Cluster::new(story, timing())?;
    let first_secondary = cluster.start_secondary(ONE).await?;
    let second_secondary = cluster.start_secondary(TWO).await?;
    let master = cluster.start_master().await?;
    client::append(story, &master, "Msg1", 3).await?;
    let changes_before = cluster.mode_changes()?.len();

    story.part("both secondaries are cut off");
    cluster.cut(TWO)?;
    let needs_all = client::append_in_background(story, &master, "Msg2", 3);
    cluster
        .until("Msg2 to wait", |health| health.waiting_appends == 1)
        .await?;
    cluster.cut(ONE)?;
    let needs_one = client::append_in_background(story, &master, "Msg3", 2);
    cluster
        .until("Msg3 to wait", |health| health.waiting_appends == 2)
        .await?;
    let health = cluster
        .until("the master to be read-only", |health| {
            health.mode == Mode::ReadOnly
        })
        .await?;
    story.check(
        "without contact for 900 ms the master is read-only: 1 of 3 nodes, 2 needed",
        health.mode_reason == Some(ModeReason::NoQuorum)
            && (health.quorum.alive, health.quorum.needed) == (1, 2),
    );

    for w in 1..=3 {
        refused(story, &master, w).await?;
    }
    let secondaries = [first_secondary.reader(), second_secondary.reader()];
    let shown = client::read_all(&master.reader()).await?;
    let line = format!("a reader sees {} messages", shown.len());
    story.line(MASTER, line);
    story.check("the master serves reads", shown.len() == 3);
    for (name, reader) in [ONE, TWO].into_iter().zip(secondaries) {
        let message = reader.get(Offset::ZERO).await?;
        story.line(name, "a reader sees Msg1");
        story.check(
            format!("{name} serves reads"),
            message.is_some_and(|message| &message.payload[..] == b"Msg1"),
        );
    }
    let health = cluster
        .until("both appends to wait", |health| health.waiting_appends == 2)
        .await?;
    let line = format!("{} appends still wait", health.waiting_appends);
    story.line(MASTER, line);
    story.check(
        "Msg2 and Msg3, appended before, keep waiting",
        !needs_all.is_finished() && !needs_one.is_finished(),
    );

    story.part("one secondary is back");
    cluster.heal(ONE)?;
    let health = cluster
        .until("the master to be read-write", |health| {
            health.mode == Mode::ReadWrite
        })
        .await?;
    let third = client::answer("Msg3", needs_one).await?;
    story.check(
        "the master is read-write by itself, with 2 of 3 nodes",
        health.quorum.alive == 2,
    );
    story.check(
        "Msg3, w=2, is answered, held by the master and secondary-1",
        third.concern_met && third.acks.iter().any(|name| name.as_str() == ONE),
    );
    let fourth = client::append(story, &master, "Msg4", 2).await?;
    story.check(
        "Msg4 follows Msg3 in the log: what was refused left no trace",
        fourth.offset == Offset(3) && !needs_all.is_finished(),
    );

    story.part("the other one is back");
    cluster.heal(TWO)?;
    let second = client::answer("Msg2", needs_all).await?;
    cluster.until_equal().await?;
    cluster.until_status(TWO, Status::Healthy).await?;
    let shown = client::read_all(&second_secondary.reader()).await?;
    story.check(
        "Msg2, w=3, is answered, and secondary-2 holds all four messages",
        second.acks.len() == 3 && shown.len() == 4,
    );
    let changes = cluster.mode_changes()?.split_off(changes_before);
    let modes: Vec<Mode> = changes.iter().map(|change| change.to).collect();
    story.check(
        "the mode changed twice: to read-only and back",
        modes == [Mode::ReadOnly, Mode::ReadWrite],
    );
    master.stop().await;
    Ok(())
}

/// Appends to a read-only master: the refusal is immediate and contains the numbers.
async fn refused(story: &Story, master: &Master, w: u64) -> Result<(), Failure> {
    let asked = story.elapsed();
    let text = format!("another message, w={w}");
    let options = AppendOptions::concern(Concern::Count(w));
    let Err(error) = master.append(text.clone(), options).await else {
        return Err(format!("{text} was taken by a master without a quorum").into());
    };
    let took = story.elapsed() - asked;
    let line = format!(
        "{text} is refused within {:.1} ms: {error}",
        took.as_secs_f64() * 1000.0
    );
    story.line("client", line);
    let numbers = match &error {
        AppendError::ReadOnly { state, .. } => {
            state.reason == Some(ModeReason::NoQuorum)
                && (state.alive, state.needed, state.nodes) == (1, 2, 3)
        }
        _ => false,
    };
    story.check(
        format!("w={w} is refused at once, with reason and numbers, and nothing is appended"),
        numbers && error.outcome() == Outcome::NotAppended && took < Duration::from_millis(500),
    );
    Ok(())
}

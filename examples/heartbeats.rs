//! Status of a secondary, as the master sees it: Healthy, Suspected, Unhealthy, and back.
//!
//! Secondary 2 is cut off briefly, then for long, then its process ends and is restarted. The
//! status follows the time since the last contact, and one contact makes it Healthy.
//!
//! Run it with `cargo run --example heartbeats`.
#![forbid(unsafe_code)]

use std::{process::ExitCode, time::Duration};

use replog_core::{Status, views::MasterHealth};
use replog_examples::{Cluster, Failure, MASTER, ONE, StatusChange, Story, TWO, secondary, timing};

const LOOK_AT: &str = "
The master asks every secondary every 100 ms whether it is there. Without an answer for 300 ms it
is Suspected, without one for 900 ms it is Unhealthy (by default: 500 ms, 1 s and 3 s). Look at
the time since the last contact at each change, and at the nodes that count for the quorum: a
Suspected secondary counts, an Unhealthy one does not. One answer makes it Healthy again.";

#[tokio::main]
async fn main() -> ExitCode {
    let story = Story::begin("heartbeats", LOOK_AT);
    let outcome = tell(&story).await;
    story.end(outcome)
}

async fn tell(story: &Story) -> Result<(), Failure> {
    let mut cluster = Cluster::new(story, timing())?;
    cluster.start_secondary(ONE).await?;
    cluster.start_secondary(TWO).await?;
    let master = cluster.start_master().await?;
    cluster.until_status(ONE, Status::Healthy).await?;
    let health = cluster.until_status(TWO, Status::Healthy).await?;
    tell_quorum(story, &health);
    let steady_from = story.elapsed();
    let sent = cluster.traffic().heartbeats(TWO);
    cluster
        .until("ten heartbeats", |_| {
            cluster.traffic().heartbeats(TWO) >= sent + 10
        })
        .await?;
    let took = story.elapsed() - steady_from;
    let line = format!("ten heartbeats in {} ms, all answered", took.as_millis());
    story.line(MASTER, line);
    story.check(
        "ten heartbeats take about a second, not less",
        took >= Duration::from_millis(850),
    );

    story.part("a short silence: Suspected and back");
    let short = silence(story, &mut cluster, Status::Suspected).await?;
    story.check(
        "a short silence: Suspected, then Healthy, never Unhealthy",
        path(&short) == [Status::Suspected, Status::Healthy],
    );

    story.part("a long silence: all the way and back");
    let long = silence(story, &mut cluster, Status::Unhealthy).await?;
    story.check(
        "a long silence: Suspected, then Unhealthy, then Healthy",
        path(&long) == [Status::Suspected, Status::Unhealthy, Status::Healthy],
    );

    story.part("its process ends, and starts again");
    let begun = cluster.status_changes()?.len();
    cluster.stop_secondary(TWO).await?;
    let health = cluster.until_status(TWO, Status::Unhealthy).await?;
    tell_quorum(story, &health);
    let secondary_two = cluster.start_secondary(TWO).await?;
    let health = cluster.until_status(TWO, Status::Healthy).await?;
    tell_quorum(story, &health);
    let restart = cluster.status_changes()?.split_off(begun);
    story.check(
        "a restart: the same path, though connections were refused at once",
        path(&restart) == [Status::Suspected, Status::Unhealthy, Status::Healthy],
    );

    let all = [short, long, restart].concat();
    check_times(story, &all);
    story.check(
        "secondary-1 was never Unhealthy",
        cluster
            .status_changes()?
            .iter()
            .all(|change| change.node != ONE || change.to != Status::Unhealthy),
    );
    master.stop().await;
    drop(secondary_two);
    Ok(())
}

/// Cuts secondary 2 off until it has reached a status, and waits until it is Healthy again.
async fn silence(
    story: &Story,
    cluster: &mut Cluster,
    until: Status,
) -> Result<Vec<StatusChange>, Failure> {
    let before = cluster.status_changes()?.len();
    cluster.cut(TWO)?;
    let health = cluster.until_status(TWO, until).await?;
    tell_quorum(story, &health);
    cluster.heal(TWO)?;
    let healed = story.elapsed();
    let health = cluster.until_status(TWO, Status::Healthy).await?;
    let line = format!(
        "{TWO} is heard {} ms after its cable was mended",
        (story.elapsed() - healed).as_millis()
    );
    story.line(MASTER, line);
    tell_quorum(story, &health);
    Ok(cluster.status_changes()?.split_off(before))
}

fn tell_quorum(story: &Story, health: &MasterHealth) {
    let (quorum, status) = (health.quorum, secondary(health, TWO).status);
    let (alive, nodes) = (quorum.alive, quorum.nodes);
    let line = format!("{alive} of {nodes} nodes count for the quorum; {TWO} is {status}");
    story.line(MASTER, line);
}

fn path(changes: &[StatusChange]) -> Vec<Status> {
    let of_two = changes.iter().filter(|change| change.node == TWO);
    of_two.map(|change| change.to).collect()
}

/// Checks that no status comes early. How late it is seen depends on the machine, and is printed
/// above.
fn check_times(story: &Story, changes: &[StatusChange]) {
    let timing = timing();
    let due = |status| match status {
        Status::Healthy => Duration::ZERO,
        Status::Suspected => timing.suspect_after,
        Status::Unhealthy => timing.unhealthy_after,
    };
    let of_two = || changes.iter().filter(|change| change.node == TWO);
    story.check(
        "Suspected not before 300 ms without contact, Unhealthy not before 900 ms",
        of_two().all(|change| {
            let silent = change.last_contact.unwrap_or(Duration::MAX);
            silent >= due(change.to)
        }),
    );
    story.check(
        "Suspected before 900 ms without contact",
        of_two().all(|change| {
            let silent = change.last_contact.unwrap_or(Duration::MAX);
            change.to != Status::Suspected || silent < timing.unhealthy_after
        }),
    );
    story.check(
        "a Suspected secondary counts for the quorum, an Unhealthy one does not",
        of_two().all(|change| match change.to {
            Status::Healthy | Status::Suspected => change.alive == 3,
            Status::Unhealthy => change.alive == 2,
        }),
    );
}

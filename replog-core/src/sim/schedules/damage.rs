//! Disks that rot: a damaged log counts for nothing until it is repaired, and only a repair that is
//! on disk counts.

use std::time::Duration;

use super::{MASTER, S1, S2, S3, S4, Schedule};
use crate::{Concern, sim::stage::Stage, types::Offset};

pub(super) fn all() -> Vec<Schedule> {
    vec![
        Schedule::new(
            "rot-with-one-node-down",
            "the last synced record of a secondary rots while the other one is down",
            rot_with_one_node_down,
        ),
        Schedule::new(
            "mark-lost-with-one-node-down",
            "a secondary loses its mark and its last records while the other one is down",
            mark_lost_with_one_node_down,
        ),
        Schedule::new(
            "one-whole-log-among-damaged",
            "of five nodes most are damaged, and an intact log may or may not have their records",
            one_whole_log_among_damaged,
        )
        .secondaries(4)
        .segment_bytes(1 << 20),
        Schedule::new(
            "fill-whose-sync-fails",
            "a hole is filled, and the sync of that fails",
            fill_whose_sync_fails,
        )
        .segment_bytes(1 << 20),
    ]
}

/// Rot below the mark is damage, not a torn tail: a secondary that cut it away and counted as intact
/// would lose an acknowledged record.
async fn rot_with_one_node_down(stage: Stage) {
    let end = only_two_hold_the_last(&stage).await;
    let rotten = stage.rot_last(S1);
    stage.claim(
        rotten.map(|offset| offset.plus(1)) == Some(end),
        "the last one rots",
    );
    counts_only_once_mended(&stage, end).await;
}

/// Without its mark a log may end anywhere: a secondary that took what it still has for everything
/// it ever had, and counted as intact, would lose an acknowledged record.
async fn mark_lost_with_one_node_down(stage: Stage) {
    let end = only_two_hold_the_last(&stage).await;
    stage.lose_mark(S1);
    stage.rot_last(S1);
    counts_only_once_mended(&stage, end).await;
}

/// Takes one secondary down, has more acknowledged without it, and then takes the other down, too. Returns the end
/// of the log that the master and the latter hold.
async fn only_two_hold_the_last(stage: &Stage) -> Offset {
    stage.serving(MASTER).await;
    let before = stage.random(1, 4);
    stage.fill(MASTER, Concern::All, before).await;
    stage.kill(S2).await;
    let more = stage.random(1, 4);
    stage.fill(MASTER, Concern::Majority, more).await;
    let end = stage.look(|look| look.held(MASTER));
    // Its mark covers what it has synced, and is still in the cache.
    stage
        .until("it has synced them all", move |look| look.held(S1) == end)
        .await;
    stage.kill(S1).await;
    end
}

/// Starts the first secondary on its damaged disk, while the other one is down, and then the master
/// without its disk.
async fn counts_only_once_mended(stage: &Stage, end: Offset) {
    stage.part(MASTER, S1);
    stage.boot(S1);
    // A secondary that believes its log intact again without another's help is lost with the next
    // disk.
    let early = stage
        .within(Duration::from_secs(3), |look| {
            look.is_open(S1) && look.may_lose(MASTER)
        })
        .await;
    if !early {
        stage.claim(
            stage.look(|look| look.log_epoch(S1).is_none()),
            "it is not intact",
        );
        stage.join(MASTER, S1);
        stage
            .until("it is mended", move |look| {
                look.may_lose(MASTER) && look.held(S1) >= end
            })
            .await;
    }
    stage.wipe(MASTER).await;
    stage.join(MASTER, S1);
    stage.boot(S2);
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage.append(MASTER, Concern::All);
}

/// A damaged node kept its promises and knows what it had: an intact log that is shorter must not be
/// adopted next to it, and one that has as much must be, or a bad byte on each of three nodes would be
/// the end of a cluster that has lost nothing.
async fn one_whole_log_among_damaged(stage: Stage) {
    let all = [MASTER, S1, S2, S3, S4];
    stage.serving(MASTER).await;
    let before = stage.random(4, 6);
    stage.fill(MASTER, Concern::All, before).await;
    stage.kill(S2).await;
    stage.kill(S4).await;
    let more = stage.random(1, 4);
    stage.fill(MASTER, Concern::Majority, more).await;
    let end = stage.look(|look| look.held(MASTER));
    stage
        .until("three hold them all", move |look| {
            [MASTER, S1, S3].iter().all(|name| look.held(name) == end)
        })
        .await;
    for node in [MASTER, S1, S3] {
        stage.kill(node).await;
    }
    stage.says("a byte rots on two of those that hold them, and the third is away");
    stage.rot(MASTER, Offset(stage.random(0, 3)));
    stage.rot(S1, Offset(stage.random(0, 3)));
    for node in [S1, S2, S4, MASTER] {
        stage.boot(node);
    }
    let early = stage
        .within(Duration::from_secs(8), |look| look.serves(MASTER))
        .await;
    stage.claim(!early, "the shorter log is not adopted");
    stage.boot(S3);
    stage.serving(MASTER).await;
    stage.fill(MASTER, Concern::All, 1).await;
    let end = stage.look(|look| look.held(MASTER));
    stage
        .until("all of them are whole", move |look| {
            let whole = |name: &&str| look.held(name) == end && look.log_epoch(name).is_some();
            all.iter().all(whole)
        })
        .await;

    stage.says("a byte rots on three, the fourth is whole, and the fifth is away");
    for node in all {
        stage.kill(node).await;
    }
    for node in [MASTER, S1, S4] {
        stage.rot(node, Offset(stage.random(0, end.0 - 2)));
    }
    for node in [S1, S2, S4, MASTER] {
        stage.boot(node);
    }
    stage.serving(MASTER).await;
    stage.boot(S3);
    stage.append(MASTER, Concern::All);
}

/// The cache has the data that was written into a hole, and the disk has not: the next start must
/// not believe the cache.
async fn fill_whose_sync_fails(stage: Stage) {
    stage.serving(MASTER).await;
    let count = stage.random(3, 8);
    stage.fill(MASTER, Concern::All, count).await;
    let end = stage.look(|look| look.held(MASTER));
    stage
        .until("it has synced them all", move |look| look.held(S1) == end)
        .await;
    stage.part(MASTER, S1);
    stage.kill(S1).await;
    let rotten = Offset(stage.random(0, end.0 - 2));
    stage.rot(S1, rotten);
    stage.boot(S1);
    stage
        .until("it knows that it is damaged", |look| {
            look.is_open(S1) && look.log_epoch(S1).is_none()
        })
        .await;
    let boots = stage.look(|look| look.boots(S1));
    stage.fail_sync(S1, "log/");
    stage.join(MASTER, S1);
    stage
        .until("the fill has failed, and it starts again", move |look| {
            look.boots(S1) > boots && look.is_open(S1)
        })
        .await;
    stage
        .until("it is mended", move |look| {
            look.held(S1) >= end && look.log_epoch(S1).is_some()
        })
        .await;
    stage.append(MASTER, Concern::All);
}

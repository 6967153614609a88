//! Disks that are full, torn, or lose cached data.

use super::{MASTER, S1, S2, S3, S4, Schedule};
use crate::{
    AppendOptions, Concern,
    error::Outcome,
    sim::{
        disk::Spared,
        hands::About,
        stage::{Stage, asks},
    },
};

pub(super) fn all() -> Vec<Schedule> {
    vec![
        Schedule::new(
            "full-disk-after-shipping",
            "the master's disk is full when a secondary has records already",
            full_disk_after_shipping,
        )
        .without_preallocation(),
        Schedule::new(
            "torn-middle",
            "a power cut leaves the pages of an unsynced group in any order",
            torn_middle,
        )
        .segment_bytes(1 << 20),
        Schedule::new(
            "power-cut-after-kill",
            "what a killed process left in the cache is gone with the next power cut",
            power_cut_after_kill,
        ),
        Schedule::new(
            "crash-while-cutting",
            "a crash while a log is cut back over several segments",
            crash_while_cutting,
        )
        .secondaries(4)
        .segment_bytes(4 << 10),
        Schedule::new(
            "cut-whose-sync-fails",
            "a log is cut, the sync of that fails, and power is lost after the next start",
            cut_whose_sync_fails,
        )
        .segment_bytes(1 << 20),
        Schedule::new(
            "follower-over-a-cut",
            "a follower of a secondary at `committed` while its log is cut",
            follower_over_a_cut,
        ),
    ]
}

/// Shipped records may be acknowledged, refused ones never; no offset is assigned twice.
async fn full_disk_after_shipping(stage: Stage) {
    stage.serving(MASTER).await;
    stage.fill(MASTER, Concern::All, 1).await;
    let (end, epoch) = stage.look(|look| (look.held(MASTER), look.promised(MASTER)));
    stage.set_slowness(MASTER, 300);
    let shipped = stage.append(MASTER, Concern::Majority);
    stage
        .until("it is shipped", move |look| {
            look.held(S1) > end && look.held(MASTER) == end
        })
        .await;
    stage.set_full(MASTER, true);
    let mut refused = Vec::new();
    for _ in 0..stage.random(1, 3) {
        let concern = if stage.coin() {
            Concern::Count(1)
        } else {
            Concern::Majority
        };
        refused.push(stage.append(MASTER, concern));
    }
    for asked in refused {
        let answer = stage.answered(asked).await;
        let unknown = matches!(
            &answer,
            Some(Err(error)) if error.outcome() == Outcome::Unknown
        );
        stage.claim(unknown, "what had an offset is answered as unknown");
    }
    stage.answered(shipped).await;
    stage.set_slowness(MASTER, 1);
    stage.set_full(MASTER, false);
    stage
        .until("it serves in a new epoch", move |look| {
            look.serves(MASTER) && look.promised(MASTER) > epoch
        })
        .await;
    stage.append(MASTER, Concern::All);
}

/// A group of many records waits for its sync.
async fn torn_middle(stage: Stage) {
    for _ in 0..12 {
        stage.serving(MASTER).await;
        stage.fill(MASTER, Concern::All, 1).await;
        let end = stage.look(|look| look.held(MASTER));
        stage.set_slowness(MASTER, 100);
        for _ in 0..30 {
            let message = stage.message(1_500);
            stage.send(MASTER, message, AppendOptions::concern(Concern::Majority));
        }
        stage
            .until("the group is written", move |look| {
                look.written(MASTER) >= end.plus(20)
            })
            .await;
        stage.power_cut(MASTER, Spared::Pages).await;
        stage.set_slowness(MASTER, 1);
        let torn = stage.look(|look| look.count("fault: log torn in the middle") > 0);
        stage.boot(MASTER);
        if torn {
            break;
        }
    }
    let torn = stage.look(|look| look.count("fault: log torn in the middle") > 0);
    stage.claim(torn, "a log was torn in the middle");
    stage.serving(MASTER).await;
    stage.append(MASTER, Concern::All);
}

/// The starting process sees the record, which is not on the disk.
async fn power_cut_after_kill(stage: Stage) {
    stage.serving(MASTER).await;
    stage.fill(MASTER, Concern::All, 1).await;
    let victim = if stage.coin() { MASTER } else { S1 };
    let end = stage.look(|look| look.held(victim));
    if victim == S1 {
        stage.part(MASTER, S2);
    }
    stage.set_slowness(victim, 500);
    stage.append(MASTER, Concern::Majority);
    stage
        .until("it is written", move |look| look.written(victim) > end)
        .await;
    stage.kill(victim).await;
    stage.set_slowness(victim, 1);
    let unsynced = stage.look(|look| look.held(victim) == end);
    stage.claim(unsynced, "it is in the cache alone");
    stage.boot(victim);
    stage
        .until("it shows its log", move |look| look.is_open(victim))
        .await;
    if stage.coin() {
        stage.join(MASTER, S2);
        stage.serving(MASTER).await;
    }
    stage.power_cut(victim, Spared::Nothing).await;
    stage.join(MASTER, S2);
    stage.boot(victim);
    stage.serving(MASTER).await;
    stage.append(MASTER, Concern::All);
}

/// Of five nodes only the master and one secondary have many records; the master's disk is lost, and
/// the others go on without them.
async fn crash_while_cutting(stage: Stage) {
    stage.serving(MASTER).await;
    stage.fill(MASTER, Concern::All, 1).await;
    let end = stage.look(|look| look.held(MASTER));
    for other in [S2, S3, S4] {
        stage.hold(MASTER, other, asks(About::Append));
    }
    for _ in 0..stage.random(12, 20) {
        let message = stage.message(1_500);
        stage.send(MASTER, message, AppendOptions::concern(Concern::Count(1)));
    }
    stage
        .until("one secondary has them", move |look| {
            look.held(S1) >= end.plus(12)
        })
        .await;
    for other in [S2, S3, S4] {
        stage.lose(MASTER, other, asks(About::Append));
        stage.part(MASTER, other);
    }
    stage.wipe(MASTER).await;
    stage.part(MASTER, S1);
    for other in [S2, S3, S4] {
        stage.join(MASTER, other);
    }
    let alone = stage.look(|look| [S2, S3, S4].map(|name| look.held(name) == end));
    stage.claim(alone == [true; 3], "the others have none of them");
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage.fill(MASTER, Concern::Majority, 2).await;

    stage.says("its log is cut back");
    stage.crash_at_line(S1, "disk: remove log/", stage.random(2, 3));
    stage.join(MASTER, S1);
    stage
        .until("it crashes while it cuts", |look| !look.is_up(S1))
        .await;
    stage.boot(S1);
    stage.append(MASTER, Concern::All);
}

/// The cache has the log cut, and the disk has it uncut: believed, it would take the log epoch and be
/// the longest log of that epoch once the cache is lost.
async fn cut_whose_sync_fails(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 4);
    stage.fill(MASTER, Concern::All, before).await;
    let end = stage.look(|look| look.held(MASTER));
    stage.part(MASTER, S2);
    stage.set_slowness(MASTER, 1_000);
    for _ in 0..3 {
        stage.append(MASTER, Concern::Majority);
    }
    stage
        .until("one secondary has them", move |look| {
            look.held(S1) == end.plus(3)
        })
        .await;
    stage.power_cut(MASTER, Spared::Nothing).await;
    stage.part(MASTER, S1);
    stage.set_slowness(MASTER, 1);
    stage.join(MASTER, S2);
    stage.boot(MASTER);
    stage.serving(MASTER).await;

    stage.says("its log is cut back");
    let boots = stage.look(|look| look.boots(S1));
    stage.fail_sync(S1, "log/");
    stage.join(MASTER, S1);
    stage
        .until("the cut has failed, and it starts again", move |look| {
            look.boots(S1) > boots && look.is_open(S1)
        })
        .await;
    stage
        .until("it is aligned", |look| {
            look.log_epoch(S1) == look.log_epoch(MASTER)
        })
        .await;
    stage.part(MASTER, S1);
    stage.power_cut(S1, Spared::Nothing).await;
    stage.fill(MASTER, Concern::Majority, 1).await;
    stage.wipe(MASTER).await;
    stage.join(MASTER, S1);
    stage.boot(S1);
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage.append(MASTER, Concern::All);
}

/// Records shown at `committed` are never taken back, whatever becomes of the records after them.
async fn follower_over_a_cut(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 4);
    stage.fill(MASTER, Concern::All, before).await;
    let shown = stage.follow(S1);
    let message = stage.message(60);
    let at = super::epochs::orphan(&stage, S1, "the key", &message).await;
    stage.join(MASTER, S2);
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    let more = stage.random(1, 4);
    stage.fill(MASTER, Concern::Majority, more).await;
    let before = stage.look(|look| look.record(S1, at));
    stage.join(MASTER, S1);
    let receipt = stage.acknowledged(stage.append(MASTER, Concern::All)).await;
    let after = stage.look(|look| look.record(S1, at));
    stage.claim(before.is_some() && before != after, "its log was cut");
    let seen = shown.clone();
    stage
        .until("the follower has seen it all", move |_| {
            seen.borrow().len() as u64 > receipt.offset.0
        })
        .await;
    let is_there = |(offset, payload): &(crate::types::Offset, bytes::Bytes)| {
        stage.look(|look| look.payload(S1, *offset).as_ref() == Some(payload))
    };
    if !shown.borrow().iter().all(is_there) {
        stage.broken("rule 1: a follower at `committed` was given records that are not there");
    }
}

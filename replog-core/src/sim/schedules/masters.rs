//! Masters that found a cluster, come back, or were replaced.

use std::time::Duration;

use super::{MASTER, S1, S2, Schedule};
use crate::{
    Concern,
    sim::{disk::Spared, stage::Stage},
    types::Mode,
};

/// The machine that replaces the master.
const NEXT_MASTER: &str = "master-2";

pub(super) fn all() -> Vec<Schedule> {
    vec![
        Schedule::new(
            "crash-while-founding",
            "a blank master crashes at any step of the founding",
            crash_while_founding,
        ),
        Schedule::new(
            "power-cut-after-founding",
            "all nodes lose power just after the cluster was founded",
            power_cut_after_founding,
        ),
        Schedule::new(
            "blank-majority",
            "a cluster is founded by a majority of blank nodes, and never by one alone",
            blank_majority,
        ),
        Schedule::new(
            "old-master-paused",
            "a master that stood still goes on when another is in its place",
            old_master_paused,
        )
        .standby_masters(1),
        Schedule::new(
            "old-master-restarted",
            "a replaced master starts again from its old directory",
            old_master_restarted,
        )
        .standby_masters(1),
        Schedule::new(
            "directory-from-the-past",
            "a master is started from an older copy of its directory",
            directory_from_the_past,
        ),
        Schedule::new(
            "second-blank-master",
            "a second master is started from a blank directory next to a healthy one",
            second_blank_master,
        )
        .waiting_standby(),
    ]
}

async fn crash_while_founding(stage: Stage) {
    for _ in 0..stage.random(1, 3) {
        let nth = stage.random(1, 20);
        let boots = stage.look(|look| look.boots(MASTER));
        stage.crash_at_line(MASTER, "disk:", nth);
        stage.boot(MASTER);
        stage
            .until("it crashes", move |look| {
                look.boots(MASTER) > boots && !look.is_up(MASTER)
            })
            .await;
    }
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage.append(MASTER, Concern::All);
}

/// A log epoch without a mark counts for nothing: the mark must be on each disk first, or three nodes
/// that lost nothing would wait for each other for ever.
async fn power_cut_after_founding(stage: Stage) {
    if stage.coin() {
        stage
            .until("it is founded", |look| look.log_epoch(MASTER).is_some())
            .await;
    } else {
        stage.serving(MASTER).await;
        stage
            .until("all of them count", |look| {
                [S1, S2].iter().all(|name| look.log_epoch(name).is_some())
            })
            .await;
    }
    if stage.coin() {
        stage.append(MASTER, Concern::Majority);
        stage.pass(Duration::from_millis(stage.random(0, 20))).await;
    }
    for node in [MASTER, S1, S2] {
        let spared = match stage.coin() {
            true => Spared::Nothing,
            false => Spared::Drawn,
        };
        stage.power_cut(node, spared).await;
    }
    for node in [S1, S2, MASTER] {
        stage.boot(node);
    }
    stage.serving(MASTER).await;
    stage.append(MASTER, Concern::All);
}

async fn blank_majority(stage: Stage) {
    stage.keep_down(S2);
    stage.serving(MASTER).await;
    let without = stage.look(|look| !look.has_identity(S2));
    stage.claim(without, "it was founded by two of three");
    stage.fill(MASTER, Concern::Majority, 2).await;
    stage.boot(S2);
    stage.fill(MASTER, Concern::All, 1).await;

    stage.says("the master is blank again, and alone");
    stage.wipe(MASTER).await;
    stage.part(MASTER, S1);
    stage.part(MASTER, S2);
    stage.boot(MASTER);
    stage.pass(Duration::from_secs(6)).await;
    if stage.coin() {
        stage.join(MASTER, S1);
        stage.pass(Duration::from_secs(4)).await;
    }
    stage.join(MASTER, S1);
    stage.join(MASTER, S2);
    stage
        .within(Duration::from_secs(20), |look| look.serves(MASTER))
        .await;
}

/// Starts a standby in the place of the master; it holds everything acknowledged before, and goes
/// on from there.
async fn replace(stage: &Stage) {
    let end = stage.look(|look| look.held(MASTER));
    stage.hold_all(&[S1, S2], end).await;
    stage.replace(MASTER, NEXT_MASTER);
    stage.serving(NEXT_MASTER).await;
    stage.fill(NEXT_MASTER, Concern::Majority, 3).await;
}

/// Removes the old master and restarts the new one: two masters that compete for leadership may
/// fence each other.
async fn take_away(stage: &Stage) {
    stage.retire(MASTER).await;
    stage.kill(NEXT_MASTER).await;
    stage.boot(NEXT_MASTER);
    stage.serving(NEXT_MASTER).await;
    stage.append(NEXT_MASTER, Concern::All);
}

async fn old_master_paused(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 3);
    stage.fill(MASTER, Concern::All, before).await;
    stage.pause(MASTER);
    // In flight to a node that is frozen; or it wakes up with nothing to do.
    let asked = stage
        .coin()
        .then(|| stage.append(MASTER, Concern::Majority));
    replace(&stage).await;
    stage.resume(MASTER);
    let late = asked
        .is_some()
        .then(|| stage.append(MASTER, Concern::Majority));
    for asked in asked.into_iter().chain(late) {
        let answer = stage.answered(asked).await;
        let met = matches!(&answer, Some(Ok(receipt)) if receipt.concern_met);
        stage.claim(!met, "the old master acknowledges nothing");
    }
    stage
        .until("the old master is read-only", |look| {
            look.mode(MASTER) == Some(Mode::ReadOnly)
        })
        .await;
    stage.claim(
        stage.look(|look| look.serves(NEXT_MASTER)),
        "the new one serves",
    );
    take_away(&stage).await;
}

async fn old_master_restarted(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 3);
    stage.fill(MASTER, Concern::All, before).await;
    stage.power_cut(MASTER, Spared::Drawn).await;
    replace(&stage).await;
    for _ in 0..stage.random(1, 3) {
        stage.boot(MASTER);
        stage
            .until("the old master is read-only", |look| {
                look.mode(MASTER) == Some(Mode::ReadOnly)
            })
            .await;
        let answer = stage
            .answered(stage.append(MASTER, Concern::Count(1)))
            .await;
        stage.claim(
            !matches!(answer, Some(Ok(_))),
            "the old master takes nothing",
        );
        stage.fill(NEXT_MASTER, Concern::Majority, 1).await;
        stage.kill(MASTER).await;
    }
    take_away(&stage).await;
}

/// Its log epoch is older than that of the others: it is told so, and serves no one until it is
/// started empty.
async fn directory_from_the_past(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 3);
    stage.fill(MASTER, Concern::All, before).await;
    let copy = stage.copy_disk(MASTER);
    stage.power_cut(MASTER, Spared::Drawn).await;
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage.fill(MASTER, Concern::All, before).await;
    let end = stage.look(|look| look.held(MASTER));
    stage.hold_all(&[S1, S2], end).await;
    stage.kill(MASTER).await;
    stage.put_disk(MASTER, copy);
    let older = stage.look(|look| look.held(MASTER) < end);
    stage.claim(older, "its log is an older one");
    stage.boot(MASTER);
    stage
        .within(Duration::from_secs(10), |look| {
            look.mode(MASTER) == Some(Mode::ReadOnly) || look.serves(MASTER)
        })
        .await;
    let asked = stage.append(MASTER, Concern::Majority);
    stage.answered_within(Duration::from_secs(5), &asked).await;
    stage.claim(
        stage.look(|look| look.mode(MASTER) == Some(Mode::ReadOnly)),
        "it is read-only",
    );
    stage.wipe(MASTER).await;
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage.append(MASTER, Concern::All);
}

/// It waits as long as the others are in contact with the first master, and takes over once that is
/// gone.
async fn second_blank_master(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 3);
    stage.fill(MASTER, Concern::All, before).await;
    stage.replace(MASTER, NEXT_MASTER);
    stage.pass(Duration::from_secs(8)).await;
    let both = stage.look(|look| (look.serves(MASTER), look.serves(NEXT_MASTER)));
    if both != (true, false) {
        stage.broken("rule 8: a blank master deposes one that the others are in contact with");
    }
    stage.fill(MASTER, Concern::All, 1).await;
    stage.retire(MASTER).await;
    stage.serving(NEXT_MASTER).await;
    stage.append(NEXT_MASTER, Concern::All);
}

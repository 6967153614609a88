//! Damage in the log of a master: what is known of it is kept until it is repaired, whatever else
//! happens meanwhile.

use std::time::Duration;

use super::{MASTER, S1, S2, S3, S4, Schedule};
use crate::{
    AppendOptions, Concern,
    sim::{
        hands::About,
        stage::{Stage, answers, asks},
    },
    types::{Epoch, Mode, Offset},
};

/// Bytes of a message, two of which fill a segment.
const LARGE_BYTES: usize = 1_500;

/// Time within which a cluster has recovered and repaired everything, if it ever does.
const REPAIRED: Duration = Duration::from_secs(30);

const FOUND: &str = "damage: found by a master";

pub(super) fn all() -> Vec<Schedule> {
    let schedules = vec![
        Schedule::new(
            "second-damage-during-an-inspection",
            "a record that cannot be read is noticed while another one is inspected",
            second_damage_during_an_inspection,
        ),
        Schedule::new(
            "full-disk-during-an-inspection",
            "the master's disk runs full while a record that cannot be read is inspected",
            full_disk_during_an_inspection,
        )
        .without_preallocation()
        .unread(),
        Schedule::new(
            "crash-before-the-repair",
            "a master has found damage in its log, and crashes before that is repaired",
            crash_before_the_repair,
        )
        .unread(),
        Schedule::new(
            "serving-during-an-inspection",
            "a master begins to serve while damage is inspected, and crashes before it is repaired",
            serving_during_an_inspection,
        )
        .unread(),
        Schedule::new(
            "damage-during-a-recovery",
            "a recovering master notices damage in its log",
            damage_during_a_recovery,
        ),
        Schedule::new(
            "damage-while-keys-are-read",
            "damage is noticed and inspected after the recovery and before the master serves",
            damage_while_keys_are_read,
        ),
        Schedule::new(
            "keys-of-an-earlier-round",
            "the keys of the log are still being read when the next round of the recovery is done",
            keys_of_an_earlier_round,
        )
        .without_preallocation(),
        Schedule::new(
            "records-that-no-node-has",
            "records that only the master has cannot be read any more",
            records_that_no_node_has,
        ),
        Schedule::new(
            "epoch-promised-to-a-lost-directory",
            "a node has promised the master's epoch to the directory that was lost before",
            epoch_promised_to_a_lost_directory,
        )
        .secondaries(4),
        Schedule::new(
            "refused-during-an-inspection",
            "a node refuses the master's epoch while damage in the master's log is inspected",
            refused_during_an_inspection,
        )
        .secondaries(4),
    ];
    let small = |schedule: Schedule| schedule.segment_bytes(4 << 10);
    schedules.into_iter().map(small).collect()
}

/// Appends `count` messages that every node holds, in segments of two: most of them are neither in
/// memory nor in the newest segment, and nothing reads them again by itself.
async fn fill_segments(stage: &Stage, count: u64) {
    stage.serving(MASTER).await;
    for _ in 0..count {
        let options = AppendOptions::concern(Concern::All);
        let asked = stage.send(MASTER, stage.message(LARGE_BYTES), options);
        stage.acknowledged(asked).await;
    }
    // All followers have read them.
    stage.pass(Duration::from_secs(1)).await;
}

/// Damages an old record of the master.
fn rot_old(stage: &Stage) -> Offset {
    let rotten = Offset(stage.random(0, 1));
    stage.rot(MASTER, rotten);
    rotten
}

/// Damages another old record of the master, in a segment of its own.
fn rot_another(stage: &Stage) -> Offset {
    let rotten = Offset(stage.random(4, 7));
    stage.rot(MASTER, rotten);
    rotten
}

/// Reads a damaged record, and goes on as soon as the master has noticed the damage.
async fn notice(stage: &Stage, rotten: Offset) {
    let before = stage.look(|look| look.count(FOUND));
    let reader = stage.clone();
    tokio::task::spawn_local(async move { reader.read(MASTER, rotten).await });
    stage
        .until("the damage is noticed", move |look| {
            look.count(FOUND) > before
        })
        .await;
}

/// Noticed damage is repaired, though nothing reads it again.
async fn is_repaired<const N: usize>(stage: &Stage, rotten: [Offset; N]) {
    let repaired = stage
        .within(REPAIRED, move |look| {
            let mut all = rotten.iter();
            look.log_epoch(MASTER).is_some() && all.all(|at| look.record(MASTER, *at).is_some())
        })
        .await;
    if !repaired {
        stage.broken("rule 10: damage that a master has noticed is not repaired");
    }
}

/// The second one is inspected when the first inspection is done.
async fn second_damage_during_an_inspection(stage: Stage) {
    let count = stage.random(12, 16);
    fill_segments(&stage, count).await;
    let (first, second) = (rot_old(&stage), rot_another(&stage));
    notice(&stage, first).await;
    let noticed = stage.look(|look| look.count(FOUND));
    stage.set_slowness(MASTER, 500);
    stage.set_slowness_of_reads(MASTER, 1);
    let shown = stage.read(MASTER, second).await;
    let is_postponed = stage.look(|look| look.count(FOUND)) == noticed;
    stage.claim(
        shown.is_none() && is_postponed,
        "the first one is still being inspected",
    );
    stage.set_slowness(MASTER, 1);
    is_repaired(&stage, [first, second]).await;
    stage.append(MASTER, Concern::All);
}

/// Known damage outlives the step down, and damage noticed while the disk is full is inspected when
/// there is space.
async fn full_disk_during_an_inspection(stage: Stage) {
    let count = stage.random(12, 16);
    fill_segments(&stage, count).await;
    let first = rot_old(&stage);
    notice(&stage, first).await;
    stage.set_full(MASTER, true);
    stage
        .until("the inspection is cut off", |look| {
            look.mode(MASTER) == Some(Mode::Recovering)
        })
        .await;
    let second = match stage.coin() {
        true => {
            let second = rot_another(&stage);
            stage.read(MASTER, second).await;
            second
        }
        false => first,
    };
    stage.set_full(MASTER, false);
    is_repaired(&stage, [first, second]).await;
    stage.append(MASTER, Concern::All);
}

/// The next start reads the whole log, because the master has said on its disk that the log is not
/// intact.
async fn crash_before_the_repair(stage: Stage) {
    let count = stage.random(12, 16);
    fill_segments(&stage, count).await;
    let rotten = rot_old(&stage);
    for secondary in [S1, S2] {
        stage.hold(MASTER, secondary, asks(About::Fetch));
    }
    notice(&stage, rotten).await;
    crash_once_inspected(&stage, rotten).await;
}

/// Lets the master ask for the record, crash before it is answered, and start again.
async fn crash_once_inspected(stage: &Stage, rotten: Offset) {
    stage
        .until("the record is asked for", |look| {
            look.kept(MASTER, S1, asks(About::Fetch)) > 0
        })
        .await;
    stage.pass(Duration::from_millis(100)).await;
    stage.kill(MASTER).await;
    for secondary in [S1, S2] {
        stage.lose(MASTER, secondary, asks(About::Fetch));
    }
    let is_repaired_early = stage.look(|look| look.record(MASTER, rotten).is_some());
    stage.claim(!is_repaired_early, "the record is not repaired");
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    is_repaired(stage, [rotten]).await;
    stage.append(MASTER, Concern::All);
}

/// A master that takes its log for intact when it begins to serve must not do so while it does not
/// know what is damaged: after a crash nothing would say so.
async fn serving_during_an_inspection(stage: Stage) {
    let count = stage.random(12, 16);
    fill_segments(&stage, count).await;
    for secondary in [S1, S2] {
        stage.hold(MASTER, secondary, asks(About::Fetch));
    }
    let older = stage.look(|look| look.promised(MASTER));
    stage.kill(MASTER).await;
    stage.set_slowness_of_reads(MASTER, 1_000);
    stage.boot(MASTER);
    stage
        .until("its keys are being read", move |look| {
            look.log_epoch(MASTER) > Some(older)
        })
        .await;
    let rotten = rot_old(&stage);
    stage.set_slowness_of_reads(MASTER, 1);
    notice(&stage, rotten).await;
    stage.set_slowness(MASTER, 5_000);
    stage.serving(MASTER).await;
    let is_inspected = stage.look(|look| look.kept(MASTER, S1, asks(About::Fetch)) > 0);
    stage.claim(!is_inspected, "it serves while the damage is inspected");
    stage.set_slowness(MASTER, 1);
    crash_once_inspected(&stage, rotten).await;
}

/// The records behind the damage may not be in the log that it adopts.
async fn damage_during_a_recovery(stage: Stage) {
    let count = stage.random(12, 16);
    fill_segments(&stage, count).await;
    stage.kill(MASTER).await;
    for secondary in [S1, S2] {
        stage.part(MASTER, secondary);
    }
    let rotten = rot_old(&stage);
    stage.boot(MASTER);
    stage
        .until("it shows its log", |look| look.is_open(MASTER))
        .await;
    stage.read(MASTER, rotten).await;
    stage
        .until("it knows that it is damaged", |look| {
            look.log_epoch(MASTER).is_none()
        })
        .await;
    stage.pass(Duration::from_millis(100)).await;
    let behind = stage.read(MASTER, rotten.plus(stage.random(1, 8))).await;
    if behind.is_none_or(|behind| !behind.is_empty()) {
        stage.broken("rule 2: a recovering master shows records behind a gap");
    }
    for secondary in [S1, S2] {
        stage.join(MASTER, secondary);
    }
    stage.serving(MASTER).await;
    is_repaired(&stage, [rotten]).await;
    stage.append(MASTER, Concern::All);
}

/// A retry is answered only when the master can read the record again.
async fn damage_while_keys_are_read(stage: Stage) {
    stage.serving(MASTER).await;
    let message = stage.message(LARGE_BYTES);
    let asked = stage.append_keyed(MASTER, Concern::All, "the key", message.clone());
    let at = stage.acknowledged(asked).await.offset;
    fill_segments(&stage, 40).await;
    for secondary in [S1, S2] {
        stage.hold(MASTER, secondary, asks(About::Fetch));
    }
    let older = stage.look(|look| look.promised(MASTER));
    stage.kill(MASTER).await;
    stage.set_slowness_of_reads(MASTER, 3_000);
    stage.boot(MASTER);
    stage
        .until("its keys are being read", move |look| {
            look.log_epoch(MASTER) > Some(older)
        })
        .await;
    // The snapshot and the first segment are read by then.
    stage.pass(Duration::from_millis(1_850)).await;
    stage.rot(MASTER, at);
    notice(&stage, at).await;
    let early = stage.look(|look| look.serves(MASTER));
    stage.claim(!early, "it does not serve yet");
    stage.serving(MASTER).await;
    let retry = stage.append_keyed(MASTER, Concern::All, "the key", message);
    let wrongly = stage.answered_within(Duration::from_secs(3), &retry).await;
    if wrongly {
        stage.broken("rule 4: a master counts itself for a record that it cannot read");
    }
    for secondary in [S1, S2] {
        stage.release(MASTER, secondary, asks(About::Fetch));
    }
    stage.acknowledged(retry).await;
    is_repaired(&stage, [at]).await;
    stage.append(MASTER, Concern::All);
}

/// A master that served in the earlier epoch would be refused by all who have promised the next one,
/// itself among them.
async fn keys_of_an_earlier_round(stage: Stage) {
    fill_segments(&stage, 40).await;
    stage.kill(MASTER).await;
    let rotten = rot_old(&stage);
    let before = stage.look(|look| look.count(FOUND));
    stage.set_slowness_of_reads(MASTER, 3_000);
    stage.boot(MASTER);
    stage
        .until("the damage is noticed", move |look| {
            look.count(FOUND) > before
        })
        .await;
    let epoch = stage.look(|look| look.promised(MASTER));
    stage.claim(
        stage.look(|look| look.log_epoch(MASTER)) == Some(epoch),
        "its keys are being read",
    );
    stage.set_full(MASTER, true);
    stage.pass(Duration::from_millis(100)).await;
    stage.set_full(MASTER, false);
    stage
        .until("the next round is done", move |look| {
            look.log_epoch(MASTER) > Some(epoch)
        })
        .await;
    stage.within(REPAIRED, |look| look.serves(MASTER)).await;
    is_repaired(&stage, [rotten]).await;
    stage.append(MASTER, Concern::All);
}

/// No secondary can get past them: the master steps down, and the log of the others is adopted.
async fn records_that_no_node_has(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 4);
    stage.fill(MASTER, Concern::All, before).await;
    let end = stage.look(|look| look.held(MASTER));
    for secondary in [S1, S2] {
        stage.part(MASTER, secondary);
    }
    let count = stage.random(6, 9);
    let options = AppendOptions::concern(Concern::Majority);
    for _ in 0..count {
        stage.send(MASTER, stage.message(LARGE_BYTES), options.clone());
    }
    stage
        .until("the master has them", move |look| {
            look.held(MASTER) == end.plus(count)
        })
        .await;
    let alone = stage.look(|look| [S1, S2].map(|name| look.held(name) == end));
    stage.claim(alone == [true; 2], "no other node has them");
    stage.rot(MASTER, end.plus(stage.random(0, 1)));
    for secondary in [S1, S2] {
        stage.join(MASTER, secondary);
    }
    stage
        .within(REPAIRED, move |look| {
            look.serves(MASTER) && look.held(MASTER) == end
        })
        .await;
    stage.append(MASTER, Concern::All);
}

/// Lets the last secondary promise an epoch to the master's lost directory, and another one of the
/// same name lead that epoch, which the others have promised to it. The two cannot reach each other.
async fn promise_to_a_lost_directory(stage: &Stage) -> Epoch {
    stage.serving(MASTER).await;
    let before = stage.random(1, 3);
    stage.fill(MASTER, Concern::All, before).await;
    for secondary in [S1, S2, S3, S4] {
        stage.hold(MASTER, secondary, asks(About::Promise));
    }
    stage.kill(MASTER).await;
    stage.boot(MASTER);
    stage
        .until("it asks for promises", |look| {
            look.kept(MASTER, S4, asks(About::Promise)) > 0
        })
        .await;
    let epoch = stage.look(|look| look.promised(MASTER));
    stage.part(MASTER, S4);
    stage.wipe(MASTER).await;
    for secondary in [S1, S2, S3] {
        stage.lose(MASTER, secondary, asks(About::Promise));
    }
    let late = stage.take_held(MASTER, S4, asks(About::Promise));
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage.claim(
        stage.look(|look| look.promised(MASTER)) == epoch,
        "the next directory leads the same epoch",
    );
    stage.let_go(late);
    stage
        .until(
            "the last one has promised it to the lost one",
            move |look| look.promised(S4) == epoch,
        )
        .await;
    epoch
}

/// A majority has promised the epoch to this master: it takes the next one, and all follow.
async fn epoch_promised_to_a_lost_directory(stage: Stage) {
    let epoch = promise_to_a_lost_directory(&stage).await;
    stage.join(MASTER, S4);
    stage
        .within(REPAIRED, move |look| {
            look.serves(MASTER) && look.promised(MASTER) > epoch
        })
        .await;
    stage.append(MASTER, Concern::All);
}

/// The link of that node sends nothing more in this epoch: if the master forgot to take the next one
/// when the inspection is done, the node would be left alone.
async fn refused_during_an_inspection(stage: Stage) {
    let epoch = promise_to_a_lost_directory(&stage).await;
    for _ in 0..stage.random(10, 14) {
        let options = AppendOptions::concern(Concern::Count(4));
        let asked = stage.send(MASTER, stage.message(LARGE_BYTES), options);
        stage.acknowledged(asked).await;
    }
    let rotten = Offset(stage.random(4, 7));
    stage.rot(MASTER, rotten);
    stage.hold(S4, MASTER, answers(About::Hello));
    stage.join(MASTER, S4);
    stage
        .until("the last one has refused", |look| {
            look.kept(S4, MASTER, answers(About::Hello)) > 0
        })
        .await;
    notice(&stage, rotten).await;
    stage.set_slowness(MASTER, 500);
    stage.release(S4, MASTER, answers(About::Hello));
    stage.pass(Duration::from_millis(20)).await;
    let is_postponed = stage.look(|look| look.serves(MASTER) && look.promised(MASTER) == epoch);
    stage.claim(is_postponed, "the damage is still being inspected");
    stage.set_slowness(MASTER, 1);
    stage
        .within(REPAIRED, move |look| {
            look.serves(MASTER) && look.promised(MASTER) > epoch
        })
        .await;
    stage.append(MASTER, Concern::All);
}

//! Crashes half-way through refilling a log.

use std::time::Duration;

use super::{MASTER, S1, S2, Schedule};
use crate::{
    AppendOptions, Concern,
    sim::{
        disk::Spared,
        hands::About,
        stage::{Stage, asks},
    },
};

pub(super) fn all() -> Vec<Schedule> {
    vec![
        Schedule::new(
            "half-refilled-secondary",
            "a wiped secondary crashes half-way, and the master's disk is lost before it is intact",
            half_refilled_secondary,
        ),
        Schedule::new(
            "half-adopted-master",
            "a wiped master crashes half-way through the log that it adopts",
            half_adopted_master,
        ),
    ]
}

/// Bytes of a message, a few of which make a batch.
const LARGE_BYTES: usize = 300_000;

/// Lets `with` and the master hold several batches of acknowledged records that the third node
/// lacks.
async fn fill_without(stage: &Stage, lacks: &'static str) {
    stage.serving(MASTER).await;
    stage.fill(MASTER, Concern::All, 1).await;
    stage.part(MASTER, lacks);
    for _ in 0..stage.random(8, 12) {
        let message = stage.message(LARGE_BYTES);
        let options = AppendOptions::concern(Concern::Majority);
        let asked = stage.send(MASTER, message, options);
        stage.acknowledged(asked).await;
    }
    let lags = stage.look(|look| look.held(lacks) < look.held(MASTER));
    stage.claim(lags, "one node lacks what was acknowledged");
}

/// Waits until `name` holds some of the log that comes from another node, and cuts its power.
async fn cut_half_way(stage: &Stage, name: &'static str, from: &'static str) {
    let whole = stage.look(|look| look.held(from));
    stage
        .until("it holds some of the log", move |look| {
            look.held(name).0 > 0
        })
        .await;
    stage.power_cut(name, Spared::Drawn).await;
    let half = stage.look(|look| look.held(name).0 > 0 && look.held(name) < whole);
    stage.claim(half, "it holds some of the log and not all of it");
    let blank = stage.look(|look| look.log_epoch(name).is_none());
    stage.claim(blank, "it is not intact");
}

async fn half_refilled_secondary(stage: Stage) {
    fill_without(&stage, S1).await;
    stage.wipe(S2).await;
    stage.boot(S2);
    cut_half_way(&stage, S2, MASTER).await;

    stage.says("a new epoch, and another crash");
    stage.hold(MASTER, S2, asks(About::Append));
    stage.boot(S2);
    stage.power_cut(MASTER, Spared::Drawn).await;
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage.power_cut(S2, Spared::Everything).await;
    stage.boot(S2);
    let early = stage
        .within(Duration::from_secs(4), |look| look.may_lose(MASTER))
        .await;
    if !early {
        stage.release(MASTER, S2, asks(About::Append));
        stage
            .until("it is refilled", |look| look.may_lose(MASTER))
            .await;
    }
    stage.wipe(MASTER).await;
    stage.join(MASTER, S1);
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage.append(MASTER, Concern::All);
}

async fn half_adopted_master(stage: Stage) {
    fill_without(&stage, S2).await;
    stage.wipe(MASTER).await;
    stage.join(MASTER, S2);
    stage.boot(MASTER);
    cut_half_way(&stage, MASTER, S1).await;

    stage.says("the one that has it all is away");
    stage.part(MASTER, S1);
    for _ in 0..2 {
        stage.boot(MASTER);
        let early = stage
            .within(Duration::from_secs(5), |look| look.serves(MASTER))
            .await;
        if early {
            stage.pass(Duration::from_secs(1)).await;
        }
        stage.claim(!early, "half a log and an intact one are no majority");
        stage.power_cut(MASTER, Spared::Everything).await;
    }
    stage.join(MASTER, S1);
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage.append(MASTER, Concern::All);
}

//! Records that only some nodes have, and epochs that decide about them.

use super::{MASTER, S1, S2, Schedule};
use crate::{
    AppendOptions, Concern, IdempotencyKey,
    sim::{disk::Spared, stage::Stage},
    types::{Epoch, Offset},
};

pub(super) fn all() -> Vec<Schedule> {
    vec![Schedule::new(
        "figure-8",
        "a record on one secondary only, three epochs with alternating quorums, a keyed retry",
        figure_8,
    )]
}

/// The master ships a record to `only` and loses power before its own sync: `only`, cut off from
/// here on, is all that has it. Returns its offset.
pub(super) async fn orphan(
    stage: &Stage,
    only: &'static str,
    key: &str,
    payload: &bytes::Bytes,
) -> Offset {
    let other = if only == S1 { S2 } else { S1 };
    let end = stage.look(|look| look.held(MASTER));
    stage.part(MASTER, other);
    stage.set_slowness(MASTER, 1_000);
    let key = IdempotencyKey::new(key).expect("a story's key is one");
    let options = AppendOptions::concern(Concern::Majority).idempotency_key(key);
    let mut asked = stage.send(MASTER, payload.clone(), options);
    stage
        .until("the secondary has it", move |look| look.held(only) > end)
        .await;
    stage.power_cut(MASTER, Spared::Nothing).await;
    stage.part(MASTER, only);
    stage.set_slowness(MASTER, 1);
    let [by_master, by_other, by_only] =
        stage.look(|look| [MASTER, other, only].map(|name| look.record(name, end)));
    stage.claim(
        by_master.is_none() && by_other != by_only,
        "the record is on one secondary only",
    );
    stage.claim(asked.is_unanswered(), "nobody answered its client");
    end
}

/// Figure 8 of the Raft paper: by the epochs of records the first record would be adopted,
/// acknowledged, and lost to the second one.
async fn figure_8(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 4);
    stage.fill(MASTER, Concern::All, before).await;
    let message = stage.message(60);
    let at = orphan(&stage, S1, "the key", &message).await;

    stage.says("second epoch, with the other one");
    stage.join(MASTER, S2);
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    let other = stage.message(60);
    let again = orphan(&stage, S2, "another key", &other).await;
    stage.claim(at == again, "both records have one offset");
    let [older, newer] = stage.look(|look| [S1, S2].map(|name| look.record(name, at)));
    let epochs = [older, newer].map(|id| id.map_or(Epoch(0), |(epoch, _)| epoch));
    stage.claim(epochs[0] < epochs[1], "each is of an epoch of its own");

    stage.says("third epoch, with the first one, and the retry");
    stage.join(MASTER, S1);
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    let retry = stage.append_keyed(MASTER, Concern::Majority, "the key", message);
    stage.acknowledged(retry).await;

    stage.says("fourth epoch, with both and without the master's disk");
    stage.wipe(MASTER).await;
    stage.join(MASTER, S2);
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage.fill(MASTER, Concern::All, 1).await;
}

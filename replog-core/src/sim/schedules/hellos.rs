//! Hellos that come late or twice, and nodes that are not what they were.

use std::time::Duration;

use super::{MASTER, S1, S2, S3, S4, Schedule};
use crate::{
    Concern,
    sim::{
        network::About,
        stage::{Stage, asks},
    },
};

pub(super) fn all() -> Vec<Schedule> {
    vec![
        Schedule::new(
            "hello-twice-at-a-wiped-node",
            "a duplicated hello reaches a wiped node, and the master's disk is lost before it is refilled",
            hello_twice_at_a_wiped_node,
        ),
        Schedule::new(
            "wiped-nodes-at-a-promise-round",
            "master and a secondary are wiped, and only one node that cannot be reached has it all",
            wiped_nodes_at_a_promise_round,
        )
        .secondaries(4),
    ]
}

/// What the first hello says is long past: a node that took it for its target would count as
/// refilled with nothing in it.
async fn hello_twice_at_a_wiped_node(stage: Stage) {
    stage.copy(MASTER, S2, About::Hello);
    stage.serving(MASTER).await;
    let shared = stage.random(0, 2);
    stage.fill(MASTER, Concern::All, shared + 1).await;
    stage.part(MASTER, S1);
    let more = stage.random(1, 5);
    stage.fill(MASTER, Concern::Majority, more).await;
    let (lags, kept) = stage.look(|look| {
        let kept = look.kept(MASTER, S2, asks(About::Hello));
        (look.held(S1) < look.held(MASTER), kept)
    });
    stage.claim(lags, "the other secondary lacks what was acknowledged");
    stage.claim(kept > 0, "there is a copy of the first hello");

    stage.wipe(S2).await;
    stage.hold(MASTER, S2, asks(About::Append));
    if stage.coin() {
        stage.hold_one(MASTER, S2, asks(About::Heartbeat));
    }
    stage.boot(S2);
    stage.release(MASTER, S2, asks(About::Hello));
    stage
        .until("the wiped node joins", |look| look.has_identity(S2))
        .await;
    let early = stage
        .within(Duration::from_secs(4), |look| look.may_lose(MASTER))
        .await;
    if !early {
        let blank = stage.look(|look| look.log_epoch(S2).is_none());
        stage.claim(blank, "a node without records is not intact");
        stage.release(MASTER, S2, asks(About::Append));
        stage
            .until("the wiped node is refilled", |look| look.may_lose(MASTER))
            .await;
    }
    stage.wipe(MASTER).await;
    stage.join(MASTER, S1);
    stage.boot(MASTER);
    stage.serving(MASTER).await;
}

/// Five nodes, of which two lost their disks and one is away: the two that answer cannot know
/// what was acknowledged, and a third that is blank does not make them a majority.
async fn wiped_nodes_at_a_promise_round(stage: Stage) {
    stage.serving(MASTER).await;
    let shared = stage.random(1, 3);
    stage.fill(MASTER, Concern::All, shared).await;
    stage.part(MASTER, S2);
    stage.part(MASTER, S3);
    let more = stage.random(1, 4);
    stage.fill(MASTER, Concern::Majority, more).await;
    let lag = stage.look(|look| [S2, S3].map(|name| look.held(name) < look.held(MASTER)));
    stage.claim(lag == [true; 2], "two lack what was acknowledged");

    stage.wipe(S4).await;
    stage.wipe(MASTER).await;
    stage.part(MASTER, S1);
    stage.join(MASTER, S2);
    stage.join(MASTER, S3);
    stage.boot(S4);
    stage.boot(MASTER);
    stage
        .until("the wiped secondary joins", |look| look.has_identity(S4))
        .await;
    let early = stage
        .within(Duration::from_secs(8), |look| look.serves(MASTER))
        .await;
    if early {
        // Whoever serves now has something to say to the others: the rules come first.
        stage.pass(Duration::from_secs(1)).await;
    }
    stage.claim(!early, "two intact nodes of five are no majority");
    stage.join(MASTER, S1);
    stage.serving(MASTER).await;
    stage.fill(MASTER, Concern::All, 1).await;
}

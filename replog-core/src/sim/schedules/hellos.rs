//! Hellos that come late or twice, and nodes that have been wiped or replaced.

use std::time::Duration;

use super::{MASTER, S1, S2, S3, S4, Schedule, epochs::orphan};
use crate::{
    Concern,
    sim::{
        disk::Spared,
        hands::About,
        stage::{Stage, answers, asks},
    },
};

pub(super) fn all() -> Vec<Schedule> {
    vec![
        Schedule::new(
            "old-hello-late",
            "a node that missed the promise round gets a hello of the epoch before",
            old_hello_late,
        ),
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
        Schedule::new(
            "before-alignment",
            "what is committed where a node's log differs must not be shown before it is aligned",
            before_alignment,
        ),
        Schedule::new(
            "answer-of-a-wiped-life",
            "an answer comes when the disk that it speaks of is gone",
            answer_of_a_wiped_life,
        ),
        Schedule::new(
            "two-names-one-process",
            "the URLs of two secondaries lead to one process",
            two_names_one_process,
        ),
    ]
}

/// The content of the first hello is long outdated: a node that took it for its target would count
/// as refilled while it is empty.
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

/// Five nodes, of which two lost their disks and one is away: the two that answer cannot know what
/// was acknowledged, and a third that is blank does not make them a majority.
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
        // A master that serves now contacts the others: the rules are checked first.
        stage.pass(Duration::from_secs(1)).await;
    }
    stage.claim(!early, "two intact nodes of five are no majority");
    stage.join(MASTER, S1);
    stage.serving(MASTER).await;
    stage.append(MASTER, Concern::All);
}

/// The late hello is a promise of its epoch and may align the log; once a newer epoch is promised
/// it has no effect.
async fn old_hello_late(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 3);
    stage.fill(MASTER, Concern::All, before).await;
    stage.hold(MASTER, S2, asks(About::Hello));
    let knew_the_epoch = stage.coin();
    if !knew_the_epoch {
        stage.hold(MASTER, S2, asks(About::Promise));
    }
    stage.power_cut(MASTER, Spared::Drawn).await;
    stage.boot(MASTER);
    stage
        .until("two hellos are on their way", |look| {
            look.kept(MASTER, S2, asks(About::Hello)) >= 2
        })
        .await;
    stage.lose(MASTER, S2, asks(About::Promise));
    let older = stage.look(|look| look.promised(MASTER));
    stage.fill(MASTER, Concern::Majority, before).await;

    stage.says("the next epoch begins without it");
    stage.part(MASTER, S2);
    stage.power_cut(MASTER, Spared::Drawn).await;
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage.fill(MASTER, Concern::Majority, before).await;
    let (newer, known) = stage.look(|look| (look.promised(MASTER), look.promised(S2)));
    stage.claim(
        known <= older && older < newer,
        "it has missed the round of promises",
    );
    stage.release_one(MASTER, S2, asks(About::Hello));
    stage
        .until("the old hello is a promise", move |look| {
            look.promised(S2) == older
        })
        .await;
    if stage.coin() {
        stage.pass(Duration::from_millis(stage.random(1, 50))).await;
    }

    stage.says("it is back");
    let late = stage.look(|look| look.kept(MASTER, S2, asks(About::Hello)));
    stage.claim(late > 0, "there is another old hello");
    stage.join(MASTER, S2);
    let kept = stage.take_held(MASTER, S2, asks(About::Hello));
    stage
        .until("it promises the new epoch", move |look| {
            look.promised(S2) == newer
        })
        .await;
    stage.let_go(kept);
    let end = stage.look(|look| look.held(MASTER));
    stage.hold_all(&[S1, S2], end).await;
    stage.append(MASTER, Concern::All);
}

/// A record that was never acknowledged is at an offset where another one is committed.
async fn before_alignment(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 3);
    stage.fill(MASTER, Concern::All, before).await;
    let message = stage.message(60);
    let at = orphan(&stage, S1, "the key", &message).await;

    stage.join(MASTER, S2);
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    let more = stage.random(1, 3);
    stage.fill(MASTER, Concern::Majority, more).await;
    stage.power_cut(MASTER, Spared::Drawn).await;
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage.fill(MASTER, Concern::Majority, 1).await;

    stage.set_slowness(S1, 50);
    if stage.coin() {
        stage.kill(S1).await;
        stage.boot(S1);
    }
    stage.join(MASTER, S1);
    stage
        .until("it has promised", |look| {
            look.promised(S1) == look.promised(MASTER)
        })
        .await;
    let differs = stage.look(|look| {
        let [there, here] = [S1, MASTER].map(|name| look.record(name, at));
        there.is_some() && there != here && look.committed(MASTER) > Some(at)
    });
    stage.claim(differs, "its log differs where another record is committed");
    let shown = stage.look(|look| look.committed(S1));
    if shown > Some(at) {
        stage.pass(Duration::from_millis(1)).await;
    }
    stage.claim(shown <= Some(at), "it shows nothing there");
    stage
        .until("it is aligned", move |look| {
            look.record(S1, at) == look.record(MASTER, at)
        })
        .await;
    stage.set_slowness(S1, 1);
    stage.append(MASTER, Concern::All);
}

/// The disk that stored the record is gone when the master receives the answer.
async fn answer_of_a_wiped_life(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 3);
    stage.fill(MASTER, Concern::All, before).await;
    let end = stage.look(|look| look.held(MASTER));
    stage.part(MASTER, S2);
    stage.hold(S1, MASTER, answers(About::Append));
    stage.hold(S1, MASTER, answers(About::Heartbeat));
    let asked = stage.append(MASTER, Concern::Majority);
    stage
        .until(
            "the record is held, and the answer on its way",
            move |look| look.held(S1) > end && look.kept(S1, MASTER, answers(About::Append)) > 0,
        )
        .await;
    stage.wipe(S1).await;
    let late = stage.take_held(S1, MASTER, answers(About::Heartbeat));
    stage.hold(MASTER, S1, asks(About::Append));
    stage.boot(S1);
    stage
        .until("the handshake with its next life is done", |look| {
            look.has_identity(S1)
        })
        .await;
    stage.let_go(late);
    stage.release(S1, MASTER, answers(About::Append));
    let wrongly = stage
        .answered_within(Duration::from_millis(2_500), &asked)
        .await;
    stage.claim(!wrongly, "only the master holds it");
    stage.release(MASTER, S1, asks(About::Append));
    stage.acknowledged(asked).await;
}

/// One process is one node, whatever names lead to it.
async fn two_names_one_process(stage: Stage) {
    stage.lead(S2, S1);
    stage.serving(MASTER).await;
    let before = stage.random(1, 3);
    stage.fill(MASTER, Concern::Count(2), before).await;
    let asked = stage.append(MASTER, Concern::All);
    let wrongly = stage.answered_within(Duration::from_secs(5), &asked).await;
    stage.claim(!wrongly, "one process does not count twice");
    stage.lead(S2, S2);
    stage.acknowledged(asked).await;
}

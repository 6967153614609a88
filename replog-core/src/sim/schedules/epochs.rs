//! Records that only some nodes have, and epochs that decide about them.

use std::time::Duration;

use super::{MASTER, S1, S2, Schedule};
use crate::{
    Concern,
    sim::{
        disk::Spared,
        hands::About,
        stage::{Stage, asks},
    },
    types::{Epoch, Offset},
};

/// Time within which a packet of a schedule has arrived.
const ARRIVED: Duration = Duration::from_millis(6);

pub(super) fn all() -> Vec<Schedule> {
    vec![
        Schedule::new(
            "figure-8",
            "a record on one secondary only, three epochs with alternating quorums, a keyed retry",
            figure_8,
        ),
        Schedule::new(
            "longer-log-whose-pairs-agree",
            "a secondary's log is longer than the master's, and no pair says so",
            longer_log_whose_pairs_agree,
        ),
        Schedule::new(
            "other-epoch-at-a-held-offset",
            "records come for offsets where a secondary holds another epoch",
            other_epoch_at_a_held_offset,
        ),
        Schedule::new(
            "gap-across-a-promise",
            "what waits behind a gap when a promise is given must not fill up the next epoch's log",
            gap_across_a_promise,
        ),
        Schedule::new(
            "write-queued-at-a-promise",
            "a promise is asked for while a write of the older epoch still waits",
            write_queued_at_a_promise,
        ),
        Schedule::new(
            "heartbeat-overtakes-append",
            "a heartbeat comes before an append that it knows of, and then one of an older epoch comes",
            heartbeat_overtakes_append,
        ),
    ]
}

/// Makes the master ship a record to `only` and lose power before its own sync: only `only`, cut
/// off from here on, has it. Returns its offset.
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
    let asked = stage.append_keyed(MASTER, Concern::Majority, key, payload.clone());
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
    stage.claim(asked.is_unanswered(), "its client has no answer");
    end
}

/// Figure 8 of the Raft paper: judged by the epochs of records, the first record would be adopted,
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
    stage.append(MASTER, Concern::All);
}

/// In the second epoch nothing is appended: all pairs agree, and only the master's end shows the
/// difference.
async fn longer_log_whose_pairs_agree(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 4);
    stage.fill(MASTER, Concern::All, before).await;
    let message = stage.message(60);
    let at = orphan(&stage, S1, "the key", &message).await;

    stage.join(MASTER, S2);
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage.part(MASTER, S2);
    stage.join(MASTER, S1);
    let longer = stage.look(|look| look.held(S1) > look.held(MASTER));
    stage.claim(longer, "its log is longer than the master's");
    // At once, or after the handshake with the longer log.
    if stage.coin() {
        stage
            .until("it has promised", |look| {
                look.promised(S1) == look.promised(MASTER)
            })
            .await;
    }
    let receipt = stage.insist(MASTER, Concern::Majority).await;
    stage.claim(receipt.offset >= at, "another record took its offset");
    let retry = stage.append_keyed(MASTER, Concern::Majority, "the key", message);
    stage.acknowledged(retry).await;
}

/// The master of the second epoch has assigned the offset again and had it acknowledged.
async fn other_epoch_at_a_held_offset(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 4);
    stage.fill(MASTER, Concern::All, before).await;
    let message = stage.message(60);
    let at = orphan(&stage, S1, "the key", &message).await;

    stage.join(MASTER, S2);
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    let more = stage.random(1, 3);
    stage.fill(MASTER, Concern::Majority, more).await;
    let [there, here] = stage.look(|look| [S1, MASTER].map(|name| look.record(name, at)));
    stage.claim(
        there.is_some() && here.is_some() && there != here,
        "they hold different records at one offset",
    );
    stage.join(MASTER, S1);
    stage.part(MASTER, S2);
    let asked = stage.append(MASTER, Concern::Majority);
    stage.answered_within(Duration::from_secs(8), &asked).await;
    stage.join(MASTER, S2);
    stage.fill(MASTER, Concern::Majority, 1).await;
}

/// The record before the gap is in the master's log, the one after it is not: its offset is
/// assigned again.
async fn gap_across_a_promise(stage: Stage) {
    stage.serving(MASTER).await;
    stage.fill(MASTER, Concern::All, 2).await;
    let end = stage.look(|look| look.held(MASTER));
    stage.part(MASTER, S2);
    stage.hold_one(MASTER, S1, asks(About::Append));
    stage.copy(MASTER, S1, About::Append);
    stage.fill(MASTER, Concern::Count(1), 1).await;
    stage.set_slowness(MASTER, 500);
    let behind = stage.append(MASTER, Concern::Majority);
    stage
        .until("the one behind the gap is sent", |look| {
            look.kept(MASTER, S1, asks(About::Append)) >= 2
        })
        .await;
    stage.pass(ARRIVED).await;
    stage.power_cut(MASTER, Spared::Nothing).await;
    stage.set_slowness(MASTER, 1);
    stage.lose(MASTER, S1, asks(About::Append));
    let (master, secondary) = stage.look(|look| (look.held(MASTER), look.written(S1)));
    stage.claim(
        master == end.plus(1),
        "the master has the one before the gap",
    );
    stage.claim(secondary == end, "the secondary has a gap");
    stage.claim(
        behind.is_unanswered(),
        "the client of the one behind it has no answer",
    );

    stage.boot(MASTER);
    stage.serving(MASTER).await;
    stage
        .until("the gap is filled", move |look| look.held(S1) > end)
        .await;
    let receipt = stage.insist(MASTER, Concern::Majority).await;
    stage.claim(
        receipt.offset == end.plus(1),
        "its offset was given out again",
    );
    stage.fill(MASTER, Concern::Majority, 2).await;
}

/// The answer to a promise names an end: the waiting write must be part of it, or never happen.
async fn write_queued_at_a_promise(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 4);
    stage.fill(MASTER, Concern::All, before).await;
    let end = stage.look(|look| look.held(MASTER));
    stage.part(MASTER, S2);
    stage.set_slowness(S1, 3_000);
    stage.copy(MASTER, S1, About::Append);
    // The first one keeps the secondary's disk busy, the second one waits behind it.
    stage.fill(MASTER, Concern::Count(1), 1).await;
    stage
        .until("the first record is sent", |look| {
            look.kept(MASTER, S1, asks(About::Append)) > 0
        })
        .await;
    stage.pass(ARRIVED).await;
    stage.set_slowness(MASTER, 300);
    let message = stage.message(60);
    stage.append_keyed(MASTER, Concern::Majority, "the key", message.clone());
    stage
        .until("the second record is sent", |look| {
            look.kept(MASTER, S1, asks(About::Append)) > 1
        })
        .await;
    stage.pass(ARRIVED).await;
    stage.power_cut(MASTER, Spared::Nothing).await;
    stage.set_slowness(MASTER, 1);
    stage.lose(MASTER, S1, asks(About::Append));
    stage.copy(MASTER, S1, About::Promise);
    stage.boot(MASTER);
    stage
        .until("a promise is asked for", |look| {
            look.kept(MASTER, S1, asks(About::Promise)) > 0
        })
        .await;
    stage.pass(ARRIVED).await;
    let (master, secondary) = stage.look(|look| (look.held(MASTER), look.held(S1)));
    stage.claim(secondary == end, "both writes wait");
    stage.claim(master == end.plus(1), "the master lost the second one");
    stage.set_slowness(S1, 1);
    stage.serving(MASTER).await;
    let retry = stage.append_keyed(MASTER, Concern::Majority, "the key", message);
    stage.acknowledged(retry).await;
}

/// The heartbeat says that a record is committed at the offset where the log still ends. A record of an older
/// epoch that arrives for that offset is another one: taken for the one that the heartbeat means, it makes the
/// logs diverge (hashicorp/raft#695).
async fn heartbeat_overtakes_append(stage: Stage) {
    stage.serving(MASTER).await;
    let before = stage.random(1, 4);
    stage.fill(MASTER, Concern::All, before).await;
    let end = stage.look(|look| look.held(MASTER));
    stage.part(MASTER, S2);
    stage.hold(MASTER, S1, asks(About::Append));
    stage.set_slowness(MASTER, 1_000);
    let asked = stage.append(MASTER, Concern::Majority);
    stage
        .until("the record is on its way", |look| {
            look.kept(MASTER, S1, asks(About::Append)) > 0
        })
        .await;
    stage.power_cut(MASTER, Spared::Nothing).await;
    stage.set_slowness(MASTER, 1);
    let late = stage.take_held(MASTER, S1, asks(About::Append));
    let nowhere = stage.look(|look| [MASTER, S1, S2].iter().all(|name| look.held(name) == end));
    stage.claim(nowhere, "the record is on no disk");
    stage.claim(asked.is_unanswered(), "its client has no answer");

    stage.says("the next epoch gives out its offset again");
    stage.join(MASTER, S2);
    stage.hold(MASTER, S1, asks(About::Append));
    stage.boot(MASTER);
    stage.serving(MASTER).await;
    let receipt = stage.insist(MASTER, Concern::Majority).await;
    stage.claim(receipt.offset == end, "another record took its offset");
    stage
        .until("a heartbeat has overtaken it", move |look| {
            look.committed(S1) > Some(end)
        })
        .await;
    let (held, on_its_way) = stage.look(|look| {
        let on_its_way = look.kept(MASTER, S1, asks(About::Append));
        (look.held(S1), on_its_way)
    });
    stage.claim(held == end && on_its_way > 0, "the record itself is late");
    stage.let_go(late);
    stage.pass(Duration::from_millis(100)).await;
    stage.claim(
        stage.look(|look| look.held(S1)) == end,
        "what comes late is not taken",
    );
    stage.release(MASTER, S1, asks(About::Append));
    stage.append(MASTER, Concern::All);
}

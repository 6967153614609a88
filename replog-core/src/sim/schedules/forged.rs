//! Messages that no correct node sends, from a sender that has the cluster's secret.

use std::time::Duration;

use super::{MASTER, S1, S2, Schedule};
use crate::{
    Concern,
    sim::{
        hands::About,
        stage::{Stage, asks},
    },
    transport::RequestBody,
    types::{Epoch, Offset},
};

/// Time within which a node has carried out a request.
const OBEYED: Duration = Duration::from_millis(200);

pub(super) fn all() -> Vec<Schedule> {
    vec![
        Schedule::new(
            "epoch-without-bounds",
            "the secondaries are asked to promise an epoch that no cluster comes to",
            epoch_without_bounds,
        ),
        Schedule::new(
            "hello-below-committed",
            "a hello of a newer epoch has a shorter log than what is known to be committed",
            hello_below_committed,
        ),
    ]
}

/// A node that promised it would refuse every epoch that a master can reach, for ever. It moves one step
/// towards it, and the next start of the master follows.
async fn epoch_without_bounds(stage: Stage) {
    for secondary in [S1, S2] {
        stage.copy(MASTER, secondary, About::Promise);
    }
    stage.serving(MASTER).await;
    let before = stage.random(1, 3);
    stage.fill(MASTER, Concern::All, before).await;
    // So high that no node may promise it, or so far away that it takes more steps than there is time
    // for.
    let epoch = Epoch(match stage.coin() {
        true => 1 << 62,
        false => 1 << stage.random(50, 61),
    });
    let log_epoch = stage.look(|look| look.log_epoch(MASTER));
    for secondary in [S1, S2] {
        stage.forge(MASTER, secondary, asks(About::Promise), |request| {
            request.epoch = epoch;
            if let RequestBody::Promise(promise) = &mut request.body {
                promise.log_epoch = log_epoch;
            }
        });
    }
    stage.pass(OBEYED).await;
    // Fenced by a promise requested in its own name, it goes on when it is restarted.
    stage.kill(MASTER).await;
    stage.boot(MASTER);
    stage
        .within(Duration::from_secs(20), |look| look.serves(MASTER))
        .await;
    stage.append(MASTER, Concern::All);
}

/// Obeying it would cut what a majority has acknowledged.
async fn hello_below_committed(stage: Stage) {
    stage.copy(MASTER, S1, About::Hello);
    stage.serving(MASTER).await;
    let before = stage.random(2, 5);
    stage.fill(MASTER, Concern::All, before).await;
    let end = stage.look(|look| look.held(MASTER));
    stage
        .until("it knows what is committed", move |look| {
            look.held(S1) == end && look.committed(S1) == Some(end)
        })
        .await;
    let epoch = stage.look(|look| look.promised(MASTER)).next();
    let shorter = Offset(stage.random(0, end.0 - 1));
    stage.forge(MASTER, S1, asks(About::Hello), |request| {
        request.epoch = epoch;
        if let RequestBody::Hello(hello) = &mut request.body {
            hello.log_epoch = Some(epoch);
            (hello.end, hello.adopted_end, hello.epoch_starts_end) = (shorter, shorter, shorter);
            hello.epoch_starts.retain(|start| start.first < shorter);
        }
    });
    stage.pass(OBEYED).await;
    let (held, promised) = stage.look(|look| (look.held(S1), look.promised(S1)));
    stage.claim(held == end, "it cuts nothing");
    stage.claim(promised < epoch, "it promises nothing");
    stage.append(MASTER, Concern::All);
}

//! Tests of entire clusters whose master was asked to pause appends.

use super::*;
use crate::types::IdempotencyKey;

fn keyed(count: u64) -> AppendOptions {
    concern(count).idempotency_key(IdempotencyKey::new("k").unwrap())
}

#[tokio::test]
async fn a_paused_master_answers_waiting_appends_and_takes_no_more() {
    let cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    within(master.append("known", keyed(3))).await.unwrap();
    cluster.network.cut(secondaries[1].name());
    let waiting = tokio::spawn({
        let master = master.clone();
        async move { master.append("waits", concern(3)).await }
    });
    until(&master, |health| health.waiting_appends == 1).await;

    let state = master.pause_appends().await.unwrap();
    let asked = (Mode::ReadOnly, Some(ModeReason::Asked));
    assert_eq!((state.mode, state.reason), asked);
    let health = master.health().await.unwrap();
    assert_eq!((health.mode, health.mode_reason), asked);
    let refused = within(master.append("refused", concern(1))).await;
    let AppendError::ReadOnly {
        state,
        offset: None,
    } = refused.unwrap_err()
    else {
        panic!("refused at the door")
    };
    assert_eq!(state.reason, Some(ModeReason::Asked));
    let replayed = within(master.append("known", keyed(2))).await.unwrap();
    assert!(replayed.replayed, "nothing is appended for a known key");
    assert_eq!(health.log.next, Offset(2));

    cluster.network.heal(secondaries[1].name());
    let receipt = within(waiting).await.unwrap().unwrap();
    assert_eq!(
        (receipt.offset, receipt.concern_met, receipt.acks.len()),
        (Offset(1), true, 3)
    );
    assert_eq!(master.health().await.unwrap().waiting_appends, 0);
    for reader in [master.reader(), secondaries[1].reader()] {
        assert_eq!(payloads(&reader).await, ["known", "waits"]);
    }

    let state = master.resume_appends().await.unwrap();
    assert_eq!((state.mode, state.reason), (Mode::ReadWrite, None));
    within(master.append("again", concern(3))).await.unwrap();
}

#[tokio::test]
async fn a_pause_is_reported_at_once_and_forgotten_at_the_next_start() {
    let cluster = Cluster::new(1);
    let master = cluster.start_master().await;
    let state = master.pause_appends().await.unwrap();
    let recovering = (Mode::Recovering, Some(ModeReason::WaitingForNodes));
    assert_eq!((state.mode, state.reason), recovering);
    let secondary = cluster.start_secondary(0).await;
    let health = until(&master, |health| health.mode != Mode::Recovering).await;
    assert_eq!(health.mode_reason, Some(ModeReason::Asked));
    master.resume_appends().await.unwrap();
    within(master.wait_until_writable()).await.unwrap();
    master.pause_appends().await.unwrap();
    let mut now = std::task::Context::from_waker(std::task::Waker::noop());
    let writable = std::pin::pin!(master.wait_until_writable());
    assert!(
        writable.poll(&mut now).is_pending(),
        "a watcher of the mode sees the pause"
    );
    master.stop().await;
    assert!(master.resume_appends().await.is_err());

    let master = cluster.start_master().await;
    within(master.wait_until_writable()).await.unwrap();
    within(master.append("0", concern(2))).await.unwrap();
    secondary.stop().await;
}

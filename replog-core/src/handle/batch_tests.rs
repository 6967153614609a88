//! Tests of batches in entire clusters in one process.

use super::tests::{Cluster, concern, payloads, until, within};
use crate::{
    IdempotencyKey, MessageBatch, Offset, ReadLevel,
    error::{AppendError, LimitName, Outcome},
};

fn batch(range: std::ops::Range<u32>) -> MessageBatch {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn a_batch_is_one_append_on_every_node_and_across_restarts() {
    let mut cluster = Cluster::new(2);
    cluster.config.log.segment_bytes = 4096;
    let (master, secondaries) = cluster.start_all().await;
    let key = IdempotencyKey::new("k").unwrap();
    let options = concern(3).idempotency_key(key);
    within(master.append("first", concern(3))).await.unwrap();
    let receipt = within(master.append_batch(batch(0..500), options.clone()))
        .await
        .unwrap();
    assert_eq!((receipt.first_offset, receipt.count), (Offset(1), 500));
    assert!(receipt.concern_met && !receipt.replayed && receipt.acks.len() == 3);
    for secondary in &secondaries {
        assert_eq!(secondary.reader().end(ReadLevel::Local), Some(Offset(501)));
    }
    within(master.stop()).await;
    let master = cluster.start_master().await;
    within(master.wait_until_writable()).await.unwrap();
    let again = within(master.append_batch(batch(0..500), options.clone()))
        .await
        .unwrap();
    assert_eq!((again.first_offset, again.count), (Offset(1), 500));
    assert!(again.replayed, "rule 3");
    let other = within(master.append_batch(batch(0..499), options)).await;
    assert!(matches!(
        other,
        Err(AppendError::KeyReused { offset: Offset(1) })
    ));
    assert_eq!(payloads(&master.reader()).await.len(), 501);
}

#[tokio::test]
async fn a_node_that_holds_a_message_of_a_batch_holds_all_of_it() {
    let cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    within(master.append_batch(batch(0..9), concern(3)))
        .await
        .unwrap();
    cluster.stop_secondary(&secondaries[1]).await;
    let waiting = {
        let master = master.clone();
        tokio::spawn(async move { master.append_batch(batch(9..12), concern(3)).await })
    };
    until(&master, |health| {
        health.waiting_appends == 1 && health.log.committed == Some(Offset(12))
    })
    .await;
    assert_eq!(
        within(master.holders(Offset(10))).await.unwrap().acks.len(),
        2
    );
    assert_eq!(
        within(master.holders(Offset(3))).await.unwrap().acks.len(),
        3
    );
    let appends = within(master.waiting_appends(9)).await.unwrap();
    assert_eq!(appends.appends[0].offset, Offset(9));
    cluster.start_secondary(1).await;
    let receipt = within(waiting).await.unwrap().unwrap();
    assert_eq!((receipt.first_offset, receipt.count), (Offset(9), 3));
}

#[tokio::test]
async fn a_refused_batch_leaves_nothing_behind() {
    let mut cluster = Cluster::new(0);
    cluster.config.max_message_bytes = 100;
    cluster.config.max_queued_bytes = 1000;
    let (master, _) = cluster.start_all().await;
    let long: MessageBatch = ["x".repeat(50), "x".repeat(101)].iter().collect();
    let table = [
        (MessageBatch::new(), "at least one message"),
        (long, "101 bytes and 100 are allowed"),
        (batch(0..40), "max-queued-bytes is reached at 1000"),
    ];
    for (batch, expected) in table {
        let error = within(master.append_batch(batch, concern(1)))
            .await
            .unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotAppended);
        assert!(error.to_string().contains(expected), "{error}");
    }
    let waits = |error: &AppendError| match error {
        AppendError::Overloaded { limit, .. } => *limit == LimitName::MaxQueuedBytes,
        _ => false,
    };
    for _ in 0..100 {
        let result = within(master.append_batch(batch(0..20), concern(1))).await;
        assert!(
            !result.is_err_and(|error| waits(&error)),
            "bytes were not given back"
        );
    }
    assert_eq!(payloads(&master.reader()).await.len(), 2000);
}

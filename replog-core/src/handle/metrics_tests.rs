//! Tests of nodes' metrics: real actors, real writer threads, in-memory disks.

use std::time::Duration;

use crate::{
    AppendOptions, Concern, Master, MessageBatch, Offset, Status,
    error::AppendError,
    handle::tests::{Cluster, concern, until, within},
    metrics::{Histogram, LinkMetrics, MasterMetrics, RefusalReason},
    views::{MasterHealth, WaitReason},
};

async fn measure(master: &Master) -> MasterMetrics {
    within(master.metrics()).await.unwrap()
}

/// Polls until the metrics are as wanted: links deliver their counts only when they report.
async fn until_measured(master: &Master, wanted: impl Fn(&MasterMetrics) -> bool) -> MasterMetrics {
    let looked = async {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        loop {
            let metrics = master.metrics().await.unwrap();
            if wanted(&metrics) {
                return metrics;
            }
            tick.tick().await;
        }
    };
    within(looked).await
}

fn refused(metrics: &MasterMetrics, wanted: RefusalReason) -> u64 {
    let mut refused = metrics.appends.refused.iter();
    let found = refused.find(|(reason, _)| *reason == wanted);
    found.expect("every reason is there").1
}

fn retries(link: &LinkMetrics, wanted: WaitReason) -> u64 {
    let found = link.retries.iter().find(|(reason, _)| *reason == wanted);
    found.expect("every reason is there").1
}

#[tokio::test]
async fn appends_are_counted_by_result_and_timed_by_concern() {
    let cluster = Cluster::new(2);
    let (master, _secondaries) = cluster.start_all().await;
    let before = measure(&master).await;
    assert_eq!(before.appends.latency.len(), 3);
    assert_eq!(before.appends.refused.len(), RefusalReason::ALL.len());
    let key = |text: &str| AppendOptions {
        idempotency_key: Some(text.parse().unwrap()),
        ..concern(2)
    };
    for nodes in [1, 3, 3] {
        within(master.append("m", concern(nodes))).await.unwrap();
    }
    for _ in 0..3 {
        within(master.append("m", key("k"))).await.unwrap();
    }
    let wrong = concern(1).expected_offset(Offset(1000));
    within(master.append("m", wrong)).await.unwrap_err();
    let error = within(master.append("m", concern(9))).await.unwrap_err();
    assert!(matches!(error, AppendError::Concern { nodes: 3 }));
    let empty = within(master.append_batch(MessageBatch::new(), concern(1))).await;
    empty.unwrap_err();
    let long = vec![b'x'; cluster.config.max_message_bytes + 1];
    within(master.append(long, concern(1))).await.unwrap_err();

    let metrics = measure(&master).await;
    let appends = &metrics.appends;
    assert_eq!(
        (appends.acknowledged, appends.replayed, appends.unknown),
        (4, 2, 0)
    );
    let timed: Vec<u64> = appends.latency.iter().map(Histogram::count).collect();
    assert_eq!(timed, [1, 1, 2]);
    assert!(appends.latency.iter().all(|latency| latency.sum() > 0.0));
    for reason in [
        RefusalReason::OffsetMismatch,
        RefusalReason::Concern,
        RefusalReason::EmptyBatch,
        RefusalReason::TooLarge,
    ] {
        assert_eq!(refused(&metrics, reason), 1, "{reason:?}");
    }
    assert_eq!(appends.refused_total(), 4);
    assert_eq!((metrics.keys, metrics.oldest_waiting), (1, None));
    assert!(metrics.intact);
    assert_eq!(metrics.log.durable_end, metrics.health.log.next);
    assert_eq!(metrics.log.segments, 1);
    let syncs = metrics.log.syncs.count();
    assert!((1..=5).contains(&syncs), "{syncs} syncs of 4 messages");
}

#[tokio::test]
async fn a_wait_for_a_concern_is_not_counted_as_an_append() {
    let cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    within(master.append("m", concern(3))).await.unwrap();
    cluster.stop_secondary(&secondaries[1]).await;
    let late = within(master.append("late", concern(2))).await.unwrap();
    let before = measure(&master).await.appends;
    let (all, soon) = (Concern::All, Some(Duration::from_millis(1)));
    let met = within(master.wait_for_concern(Offset(0), all, None)).await;
    assert!(met.unwrap().concern_met);
    let wait = within(master.wait_for_concern(late.offset, all, soon)).await;
    assert!(!wait.unwrap().concern_met, "its time is up");
    let nine = Concern::Count(9);
    let refused = within(master.wait_for_concern(Offset(0), nine, None)).await;
    refused.unwrap_err();
    let after = measure(&master).await.appends;
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_link_counts_what_it_sends_and_why_it_retries() {
    let cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    within(master.append("all", concern(3))).await.unwrap();
    let sent = |link: &LinkMetrics| link.acks > 0 && link.round_trips.count() > 0;
    let metrics = until_measured(&master, |metrics| metrics.links.iter().all(sent)).await;
    for link in &metrics.links {
        assert_eq!(link.lag_bytes, 0);
        assert!(link.heartbeats >= link.round_trips.count());
        assert_eq!(link.batch_records.count(), link.batch_bytes.count());
        assert!(link.batch_bytes.sum() > link.batch_records.sum());
    }

    cluster.stop_secondary(&secondaries[1]).await;
    let waits = concern(3).timeout(Duration::from_millis(1));
    let receipt = within(master.append("two of three", waits)).await.unwrap();
    assert!(!receipt.concern_met);
    let waiting = {
        let master = master.clone();
        tokio::spawn(async move {
            master
                .append("three", AppendOptions::concern(Concern::All))
                .await
        })
    };
    let unhealthy = |metrics: &MasterMetrics| {
        metrics.health.secondaries[1].status == Status::Unhealthy
            && metrics.oldest_waiting.is_some()
    };
    let metrics = until_measured(&master, unhealthy).await;
    assert_eq!(metrics.appends.timed_out, 1);
    let link = &metrics.links[1];
    assert!(retries(link, WaitReason::ConnectionRefused) > 0);
    let lag = metrics.health.secondaries[1].lag;
    assert_eq!(lag, 2);
    let bytes = metrics.health.log.bytes;
    assert!((1..bytes).contains(&link.lag_bytes), "{link:?}");

    let _back = cluster.start_secondary(1).await;
    within(waiting).await.unwrap().unwrap();
    let healthy = |health: &MasterHealth| {
        health.secondaries[1].status == Status::Healthy && health.secondaries[1].lag == 0
    };
    until(&master, healthy).await;
    let after = until_measured(&master, |metrics| metrics.links[1].lag_bytes == 0).await;
    assert!(
        retries(&after.links[1], WaitReason::ConnectionRefused)
            >= retries(link, WaitReason::ConnectionRefused),
        "a contact takes no count away"
    );
}

#[tokio::test]
async fn a_secondary_measures_its_log() {
    let cluster = Cluster::new(1);
    let (master, secondaries) = cluster.start_all().await;
    within(master.append("both", concern(2))).await.unwrap();
    let metrics = within(secondaries[0].metrics()).await.unwrap();
    assert_eq!(metrics.health.log.next, metrics.log.durable_end);
    assert!(metrics.health.intact && metrics.log.syncs.count() > 0);
    assert_eq!((metrics.log.segments, metrics.buffered_bytes), (1, 0));
    secondaries[0].stop().await;
    within(secondaries[0].metrics()).await.unwrap_err();
}

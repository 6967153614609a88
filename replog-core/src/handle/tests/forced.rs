//! Tests of entire clusters that lost a majority permanently.

use super::*;
use crate::{config::ForcedRecovery, types::Epoch};

/// The distance, 2^32, by which a forced recovery raises the epoch.
const FAR: u64 = 1 << 32;

/// A cluster whose second secondary missed the last five of ten messages, and whose master and
/// first secondary are gone: the master's disk for good, the secondary's for now.
async fn two_of_three_lost() -> (Cluster, Secondary) {
    let mut cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    append_numbers(&master, 0..5, 3).await;
    // Stopped, not behind a cut cable, from which records in flight would still arrive.
    cluster.stop_secondary(&secondaries[1]).await;
    append_numbers(&master, 5..10, 2).await;
    cluster.stop_secondary(&secondaries[0]).await;
    master.stop().await;
    cluster.master_disk = MemoryStorage::new();
    let left = cluster.start_secondary(1).await;
    (cluster, left)
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn a_forced_recovery_continues_with_what_is_left_and_others_quarantine_what_they_must_cut() {
    let (mut cluster, left) = two_of_three_lost().await;
    cluster.config.forced_recovery = ForcedRecovery::LoseAcknowledged;
    let master = cluster.start_master().await;
    within(master.wait_until_writable()).await.unwrap();
    let health = master.health().await.unwrap();
    assert_eq!(health.forced_epoch, Some(health.epoch));
    assert!(health.epoch > Epoch(FAR), "{health:?}");
    assert_eq!(payloads(&master.reader()).await, numbers(0..5));
    within(master.append("new", concern(2))).await.unwrap();

    // The other node is back after all, with messages that were acknowledged and are lost.
    let back = cluster.start_secondary(0).await;
    assert_eq!(payloads(&back.reader()).await, numbers(0..10));
    let receipt = within(master.append("all", concern(3))).await.unwrap();
    assert_eq!(receipt.acks.len(), 3);
    let mut expected = numbers(0..5);
    expected.extend(["new".to_owned(), "all".to_owned()]);
    for reader in [master.reader(), left.reader(), back.reader()] {
        assert_eq!(payloads(&reader).await, expected, "rule 1");
    }
    let aside = cluster.disks[0].list("quarantine").unwrap();
    let name = format!(
        "00000000000000000005-00000000000000000010-epoch-{}.log",
        health.epoch
    );
    assert_eq!(aside, [name], "what it cut is kept");
    let nothing: Vec<String> = Vec::new();
    assert_eq!(cluster.disks[1].list("quarantine").unwrap(), nothing);

    // The setting is still in place, but nothing is forced if a majority answers.
    let epoch = health.epoch;
    master.stop().await;
    let master = cluster.start_master().await;
    within(master.wait_until_writable()).await.unwrap();
    let health = master.health().await.unwrap();
    assert_eq!(health.forced_epoch, Some(epoch), "it is said for ever");
    assert_eq!(health.epoch, epoch.next());
    assert_eq!(payloads(&master.reader()).await, expected);
}

#[tokio::test]
async fn without_the_setting_the_master_waits_for_a_lost_majority() {
    let (cluster, left) = two_of_three_lost().await;
    let master = cluster.start_master().await;
    // Longer than a forced recovery waits; contacts continue meanwhile.
    let waited = Duration::from_millis(1500);
    let since = tokio::time::Instant::now();
    let health = until(&master, |_| since.elapsed() > waited).await;
    assert_eq!(
        (health.mode, health.mode_reason),
        (Mode::Recovering, Some(ModeReason::WaitingForNodes))
    );
    let recovery = health.recovery.unwrap();
    assert_eq!(recovery.waiting_for, [name("secondary-1")]);
    assert_eq!(payloads(&left.reader()).await, numbers(0..5), "reads go on");
    // It comes back, and with it everything that was acknowledged.
    cluster.start_secondary(0).await;
    within(master.wait_until_writable()).await.unwrap();
    assert_eq!(payloads(&master.reader()).await, numbers(0..10));
    assert_eq!(master.health().await.unwrap().forced_epoch, None);
}

#[tokio::test]
async fn a_master_left_alone_shows_its_log_and_continues_with_empty_nodes() {
    let mut cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    append_numbers(&master, 0..5, 3).await;
    master.stop().await;
    for secondary in &secondaries {
        cluster.stop_secondary(secondary).await;
    }
    cluster.disks = (0..2).map(|_| MemoryStorage::new()).collect();
    cluster.config.forced_recovery = ForcedRecovery::LoseAcknowledged;
    let master = cluster.start_master().await;
    let health = until(&master, |health| health.mode == Mode::ReadOnly).await;
    assert_eq!(health.mode_reason, Some(ModeReason::NoQuorum), "rule 8");
    assert!(health.forced_epoch.is_some());
    assert_eq!(payloads(&master.reader()).await, numbers(0..5));
    cluster.start_secondary(0).await;
    cluster.start_secondary(1).await;
    within(master.wait_until_writable()).await.unwrap();
    within(master.append("5", concern(3))).await.unwrap();
}

//! Tests of idempotency keys in entire clusters in one process.

use std::{sync::Arc, time::Instant};

use super::tests::{Cluster, concern, payloads, until, within};
use crate::{
    AppendOptions, IdempotencyKey, Master, Offset, SyncPolicy,
    error::{AppendError, Outcome},
    storage::FileStorage,
};

fn keyed(key: &str, count: u64) -> AppendOptions {
    concern(count).idempotency_key(IdempotencyKey::new(key).unwrap())
}

#[tokio::test]
async fn an_append_with_a_key_is_made_once_across_restarts_of_the_master() {
    let cluster = Cluster::new(2);
    let (mut master, _secondaries) = cluster.start_all().await;
    within(master.append("zero", concern(3))).await.unwrap();
    let first = within(master.append("one", keyed("k", 2))).await.unwrap();
    assert_eq!((first.offset, first.replayed), (Offset(1), false));
    for _ in 0..3 {
        let again = within(master.append("one", keyed("k", 3))).await.unwrap();
        assert_eq!((again.offset, again.epoch), (first.offset, first.epoch));
        assert!(
            again.replayed && again.concern_met && again.acks.len() == 3,
            "{again:?}"
        );
        let other = within(master.append("other", keyed("k", 1)))
            .await
            .unwrap_err();
        assert!(
            matches!(other, AppendError::KeyReused { offset: Offset(1) }),
            "{other:?}"
        );
        within(master.stop()).await;
        let ended = within(master.append("one", keyed("k", 1)))
            .await
            .unwrap_err();
        assert_eq!(
            ended.outcome(),
            Outcome::Unknown,
            "it is in the log after all"
        );
        master = cluster.start_master().await;
        within(master.wait_until_writable()).await.unwrap();
    }
    assert_eq!(payloads(&master.reader()).await, ["zero", "one"], "rule 3");
}

#[tokio::test]
async fn an_append_joins_a_waiting_one_with_the_same_key() {
    let cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    cluster.stop_secondary(&secondaries[1]).await;
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let master = master.clone();
            tokio::spawn(async move { master.append("one", keyed("k", 3)).await })
        })
        .collect();
    until(&master, |health| health.waiting_appends == 3).await;
    let now = within(master.append("one", keyed("k", 2))).await.unwrap();
    assert!(now.replayed && now.concern_met, "rule 6: {now:?}");
    cluster.start_secondary(1).await;
    let mut replayed = 0;
    for waiting in waiting {
        let receipt = within(waiting).await.unwrap().unwrap();
        assert_eq!((receipt.offset, receipt.concern_met), (Offset(0), true));
        replayed += usize::from(receipt.replayed);
    }
    assert_eq!(replayed, 2, "one of them was the first");
}

#[tokio::test]
async fn an_append_is_made_only_at_its_expected_offset() {
    let cluster = Cluster::new(0);
    let (master, _) = cluster.start_all().await;
    let expecting = |offset| concern(1).expected_offset(Offset(offset));
    within(master.append("zero", expecting(0))).await.unwrap();
    let error = within(master.append("zero", expecting(0)))
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        AppendError::OffsetMismatch { next: Offset(1) }
    ));
    within(master.append("one", expecting(1))).await.unwrap();
}

#[tokio::test]
async fn a_clean_stop_leaves_a_snapshot_of_the_keys_on_disk() {
    let cluster = Cluster::new(0);
    let directory = tempfile::tempdir().unwrap();
    let start = async || {
        let storage = Arc::new(FileStorage::open(directory.path()).unwrap());
        let network = Arc::new(cluster.network.clone());
        let master = Master::start(cluster.config.clone(), storage, network)
            .await
            .unwrap();
        within(master.wait_until_writable()).await.unwrap();
        master
    };
    let file = directory.path().join("keys");
    for round in 0..3 {
        let master = start().await;
        let receipt = within(master.append("one", keyed("k", 1))).await.unwrap();
        assert_eq!((receipt.offset, receipt.replayed), (Offset(0), round > 0));
        within(master.stop()).await;
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(bytes.len(), 56 + 64 + 4);
        if round == 1 {
            std::fs::write(&file, b"damaged").unwrap();
        }
    }
    assert!(!directory.path().join("keys.new").exists());
}

/// `cargo test --release -p replog-core --lib a_million_keys -- --ignored --nocapture`
#[tokio::test]
#[ignore = "prints what a start with a million keys takes"]
async fn a_million_keys_are_appended_kept_and_read_again() {
    const MESSAGES: u32 = 1_000_000;
    const CLIENTS: u32 = 1_000;
    let mut cluster = Cluster::new(0);
    cluster.config.sync = SyncPolicy::Never;
    let directory = tempfile::tempdir().unwrap();
    let start = async || {
        let storage = Arc::new(FileStorage::open(directory.path()).unwrap());
        let network = Arc::new(cluster.network.clone());
        let started = Instant::now();
        let master = Master::start(cluster.config.clone(), storage, network);
        let master = master.await.unwrap();
        within(master.wait_until_writable()).await.unwrap();
        (master, started.elapsed())
    };
    let stop = async |master: Master| {
        let started = Instant::now();
        within(master.stop()).await;
        started.elapsed()
    };
    let payload = "x".repeat(100);
    let options = |number: u32, has_key: bool| match has_key {
        true => keyed(&format!("a key as long as a uuid: {number:012}"), 1),
        false => concern(1),
    };
    let (mut master, _) = start().await;
    for has_key in [false, true] {
        let started = Instant::now();
        let clients = (0..CLIENTS).map(|client| {
            let (master, payload) = (master.clone(), payload.clone());
            tokio::spawn(async move {
                for number in (client..MESSAGES).step_by(CLIENTS as usize) {
                    let options = options(number, has_key);
                    master.append(payload.clone(), options).await.unwrap();
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        println!(
            "keys {has_key}: appended in {:?}, memory {}",
            started.elapsed(),
            memory()
        );
    }
    for how in ["with a snapshot", "without one"] {
        println!("stopped in {:?}", stop(master).await);
        let file = directory.path().join("keys");
        println!(
            "snapshot of {} bytes",
            std::fs::metadata(&file).unwrap().len()
        );
        if how == "without one" {
            std::fs::remove_file(file).unwrap();
        }
        let took;
        (master, took) = start().await;
        println!("{how}: serving after {took:?}, memory {}", memory());
        let again = master
            .append(payload.clone(), options(7, true))
            .await
            .unwrap();
        assert!(again.replayed);
    }
}

/// Returns the memory usage of the process, if the system reports it.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap_or("not known").trim().to_owned()
}

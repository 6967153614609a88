//! Tests of entire clusters in one process: real actors, real writer threads, in-memory disks.

use std::{sync::Arc, time::Duration};

use crate::{
    AppendOptions, Concern, Founding, Master, MasterConfig, NodeName, Offset, Peer, ReadLevel,
    Secondary, SecondaryConfig, Status, TakeOver,
    error::{AppendError, Outcome, StartError},
    storage::{MemoryStorage, Storage},
    transport::{FaultInjector, FaultSettings, LocalNetwork},
    types::{Mode, ModeReason},
    views::{MasterHealth, WaitReason},
};

/// The time limit for each step before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster in which any node can be stopped and restarted on its disk.
pub(super) struct Cluster {
    pub(super) network: LocalNetwork,
    pub(super) config: MasterConfig,
    master_disk: MemoryStorage,
    disks: Vec<MemoryStorage>,
    /// True if secondaries use the master's log settings.
    small_segments: bool,
}

impl Cluster {
    pub(super) fn new(secondaries: usize) -> Cluster {
        let peers = (1..=secondaries).map(|number| Peer {
            name: name(&format!("secondary-{number}")),
            address: format!("local:{number}"),
        });
        let mut config = MasterConfig::new(name("master"), peers.collect());
        config.timing.heartbeat_interval = Duration::from_millis(50);
        config.timing.suspect_after = Duration::from_millis(200);
        config.timing.unhealthy_after = Duration::from_millis(600);
        config.timing.request_timeout = Duration::from_millis(200);
        config.timing.retry_min = Duration::from_millis(1);
        config.timing.retry_max = Duration::from_millis(20);
        Cluster {
            network: LocalNetwork::new(),
            config,
            master_disk: MemoryStorage::new(),
            disks: (0..secondaries).map(|_| MemoryStorage::new()).collect(),
            small_segments: false,
        }
    }

    pub(super) async fn start_master(&self) -> Master {
        let storage: Arc<dyn Storage> = Arc::new(self.master_disk.clone());
        let network = Arc::new(self.network.clone());
        Master::start(self.config.clone(), storage, network)
            .await
            .unwrap()
    }

    pub(super) async fn start_secondary(&self, number: usize) -> Secondary {
        self.start_failing(number, FaultInjector::new()).await
    }

    pub(super) async fn start_failing(&self, number: usize, faults: FaultInjector) -> Secondary {
        let mut config = SecondaryConfig::new(self.config.secondaries[number].name.clone());
        if self.small_segments {
            config.log = self.config.log.clone();
        }
        let storage: Arc<dyn Storage> = Arc::new(self.disks[number].clone());
        let secondary = Secondary::start(config, storage).await.unwrap();
        self.network.register_with(secondary.clone(), faults);
        secondary
    }

    pub(super) async fn stop_secondary(&self, secondary: &Secondary) {
        self.network.unregister(secondary.name());
        secondary.stop().await;
    }

    /// Starts all nodes and waits until the master is writable.
    pub(super) async fn start_all(&self) -> (Master, Vec<Secondary>) {
        let mut secondaries = Vec::new();
        for number in 0..self.disks.len() {
            secondaries.push(self.start_secondary(number).await);
        }
        let master = self.start_master().await;
        within(master.wait_until_writable()).await.unwrap();
        (master, secondaries)
    }
}

pub(super) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

pub(super) fn concern(count: u64) -> AppendOptions {
    AppendOptions::concern(Concern::Count(count))
}

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("in time")
}

/// Polls until the master's health is as wanted.
pub(super) async fn until(master: &Master, wanted: impl Fn(&MasterHealth) -> bool) -> MasterHealth {
    let looked = async {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        loop {
            let health = master.health().await.unwrap();
            if wanted(&health) {
                return health;
            }
            tick.tick().await;
        }
    };
    within(looked).await
}

pub(super) async fn payloads(reader: &crate::Reader) -> Vec<String> {
    let end = reader.end(ReadLevel::Local).unwrap();
    let mut all = Vec::new();
    let mut next = Offset(0);
    while next < end {
        for batch in reader.read(next, end, 1 << 16).await.unwrap() {
            assert_eq!(batch.first(), next, "rule 2: no gap is shown");
            next = batch.end();
            all.extend(
                batch
                    .messages()
                    .map(|message| String::from_utf8(message.payload.into()).unwrap()),
            );
        }
    }
    all
}

/// Appends these numbers one after the other, each held by `nodes` nodes.
async fn append_numbers(master: &Master, numbers: std::ops::Range<u64>, nodes: u64) {
    for number in numbers {
        within(master.append(number.to_string(), concern(nodes)))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn an_append_that_waits_for_a_missing_secondary_is_answered_when_it_comes() {
    let cluster = Cluster::new(2);
    let first = cluster.start_secondary(0).await;
    let master = cluster.start_master().await;
    within(master.wait_until_writable()).await.unwrap();
    let receipt = within(master.append("Msg1", concern(1))).await.unwrap();
    assert_eq!(receipt.offset, Offset(0));
    within(master.append("Msg2", concern(2))).await.unwrap();
    let waiting = tokio::spawn({
        let master = master.clone();
        async move { master.append("Msg3", concern(3)).await }
    });
    until(&master, |health| health.waiting_appends == 1).await;
    within(master.append("Msg4", concern(1))).await.unwrap();
    assert!(!waiting.is_finished());
    let waits = master.waiting_appends(10).await.unwrap();
    let reason = waits.appends[0]
        .waiting_for
        .iter()
        .find(|w| w.name == name("secondary-2"));
    assert_eq!(reason.unwrap().reason, WaitReason::ConnectionRefused);

    let second = cluster.start_secondary(1).await;
    let receipt = within(waiting).await.unwrap().unwrap();
    assert_eq!((receipt.concern_met, receipt.acks.len()), (true, 3));
    within(second.reader().wait_for(Offset(3), ReadLevel::Local))
        .await
        .unwrap();
    for reader in [master.reader(), first.reader(), second.reader()] {
        assert_eq!(payloads(&reader).await, ["Msg1", "Msg2", "Msg3", "Msg4"]);
    }
}

#[tokio::test]
async fn ten_thousand_waiting_appends_cost_the_others_no_wake_up() {
    let cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    cluster.stop_secondary(&secondaries[1]).await;
    let appends = 300;
    let mut wake_ups = Vec::new();
    let mut waiting = Vec::new();
    for crowd in [0, 10_000] {
        for _ in 0..crowd {
            let master = master.clone();
            waiting.push(tokio::spawn(async move {
                master.append("waits", concern(3)).await
            }));
        }
        until(&master, |health| health.waiting_appends == crowd).await;
        let before = master.wake_ups();
        for _ in 0..appends {
            within(master.append("passes", concern(2))).await.unwrap();
        }
        wake_ups.push((master.wake_ups() - before) / appends);
    }
    // Inbox, written, durable; and a few reports from each link: none of it grows with the number of waiting appends.
    assert!(
        wake_ups.iter().all(|per_append| *per_append <= 12),
        "{wake_ups:?}"
    );
    cluster.start_secondary(1).await;
    for waiter in waiting {
        assert!(within(waiter).await.unwrap().unwrap().concern_met);
    }
    until(&master, |health| health.waiting_appends == 0).await;
}

#[tokio::test]
async fn every_node_restarts_and_nothing_is_lost_or_duplicated() {
    let cluster = Cluster::new(2);
    let mut expected = Vec::new();
    let mut epochs = Vec::new();
    for round in 0..4 {
        let (master, secondaries) = cluster.start_all().await;
        for number in 0..5 {
            let payload = format!("{round}/{number}");
            let receipt = within(master.append(payload.clone(), concern(3)))
                .await
                .unwrap();
            assert_eq!(receipt.offset.0, expected.len() as u64);
            expected.push(payload);
            epochs.push(receipt.epoch);
        }
        for reader in [
            master.reader(),
            secondaries[0].reader(),
            secondaries[1].reader(),
        ] {
            assert_eq!(payloads(&reader).await, expected);
        }
        master.stop().await;
        for secondary in &secondaries {
            cluster.stop_secondary(secondary).await;
        }
    }
    assert!(epochs.is_sorted() && epochs[0] < epochs[5] && epochs[5] < epochs[10]);
}

#[tokio::test]
async fn a_wiped_secondary_is_refilled_and_counts_only_then() {
    let mut cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    append_numbers(&master, 0..50, 3).await;
    cluster.stop_secondary(&secondaries[1]).await;
    cluster.disks[1] = MemoryStorage::new();
    let refilled = cluster.start_secondary(1).await;
    let receipt = within(master.append("last", concern(3))).await.unwrap();
    assert_eq!(receipt.acks.len(), 3);
    assert_eq!(payloads(&refilled.reader()).await.len(), 51);
    assert!(refilled.health().await.unwrap().intact);
}

#[tokio::test]
async fn a_wiped_master_recovers_from_its_secondaries_and_never_founds_again() {
    let mut cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    append_numbers(&master, 0..20, 2).await;
    let id = master.health().await.unwrap().cluster_id;
    master.stop().await;
    cluster.master_disk = MemoryStorage::new();
    cluster.config.founding = Founding::Never;
    let master = cluster.start_master().await;
    within(master.wait_until_writable()).await.unwrap();
    assert_eq!(master.health().await.unwrap().cluster_id, id);
    let receipt = within(master.append("20", concern(3))).await.unwrap();
    assert_eq!(receipt.offset, Offset(20));
    let expected: Vec<String> = (0..=20).map(|number| number.to_string()).collect();
    for reader in [
        master.reader(),
        secondaries[0].reader(),
        secondaries[1].reader(),
    ] {
        assert_eq!(payloads(&reader).await, expected);
    }
}

#[tokio::test]
async fn without_a_quorum_appends_are_refused_and_waiting_ones_go_on_waiting() {
    let cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    for peer in &cluster.config.secondaries {
        cluster.network.cut(&peer.name);
    }
    let waiting = tokio::spawn({
        let master = master.clone();
        async move { master.append("waits", concern(2)).await }
    });
    let health = until(&master, |health| health.mode == Mode::ReadOnly).await;
    assert_eq!(health.mode_reason, Some(ModeReason::NoQuorum));
    assert!(
        health
            .secondaries
            .iter()
            .all(|s| s.status == Status::Unhealthy)
    );
    let refused = within(master.append("refused", concern(1)))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.outcome(), refused.is_retryable()),
        (Outcome::NotAppended, true)
    );
    let AppendError::ReadOnly { state, .. } = refused else {
        panic!("{refused}")
    };
    assert_eq!((state.alive, state.needed, state.nodes), (1, 2, 3));
    assert!(!waiting.is_finished());
    assert_eq!(payloads(&master.reader()).await, ["waits"], "reads go on");

    cluster.network.heal(secondaries[0].name());
    within(waiting).await.unwrap().unwrap();
    within(master.wait_until_writable()).await.unwrap();
    within(master.append("again", concern(2))).await.unwrap();
}

#[tokio::test]
async fn faults_before_and_after_storing_lose_nothing_and_duplicate_nothing() {
    let cluster = Cluster::new(2);
    let mut settings = FaultSettings::default();
    (settings.error_before_append, settings.error_after_append) = (0.3, 0.5);
    settings.seed = Some(7);
    let mut secondaries = Vec::new();
    for number in 0..2 {
        let faults = FaultInjector::new();
        faults.set(settings.clone()).unwrap();
        secondaries.push(cluster.start_failing(number, faults).await);
    }
    let master = cluster.start_master().await;
    within(master.wait_until_writable()).await.unwrap();
    let mut clients = Vec::new();
    for client in 0..8 {
        let master = master.clone();
        clients.push(tokio::spawn(async move {
            for number in 0..50 {
                let payload = format!("{client}/{number}");
                within(master.append(payload, concern(3))).await.unwrap();
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    let expected = payloads(&master.reader()).await;
    assert_eq!(expected.len(), 400);
    let mut once = expected.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), 400, "rule 3");
    for secondary in &secondaries {
        assert_eq!(payloads(&secondary.reader()).await, expected, "rule 1");
    }
}

#[tokio::test]
async fn a_timeout_answers_that_the_message_is_kept_and_the_concern_not_met() {
    let cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    cluster.stop_secondary(&secondaries[0]).await;
    let options = concern(3).timeout(Duration::from_millis(20));
    let receipt = within(master.append("late", options)).await.unwrap();
    assert_eq!((receipt.concern, receipt.concern_met), (3, false));
    assert!(receipt.acks.contains(&name("master")));
    let at_once = within(master.append("now", concern(3).timeout(Duration::ZERO)))
        .await
        .unwrap();
    assert!(!at_once.concern_met);
    assert_eq!(payloads(&master.reader()).await, ["late", "now"]);
}

#[tokio::test]
async fn a_stopping_master_answers_waiting_appends_with_unknown() {
    let cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    cluster.stop_secondary(&secondaries[0]).await;
    let waiting = tokio::spawn({
        let master = master.clone();
        async move { master.append("waits", concern(3)).await }
    });
    until(&master, |health| health.waiting_appends == 1).await;
    within(master.stop()).await;
    let error = within(waiting).await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            AppendError::Stopping {
                offset: Some(Offset(0))
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.outcome(), Outcome::Unknown);
    let refused = within(master.append("more", concern(1))).await.unwrap_err();
    assert_eq!(refused.outcome(), Outcome::NotAppended);
    assert!(master.health().await.is_err());
    within(master.stop()).await;
}

#[tokio::test]
async fn a_directory_serves_one_node_of_one_cluster_at_a_time() {
    let cluster = Cluster::new(1);
    let (master, secondaries) = cluster.start_all().await;
    let network = Arc::new(cluster.network.clone());
    let disk: Arc<dyn Storage> = Arc::new(cluster.master_disk.clone());
    let second = Master::start(cluster.config.clone(), disk.clone(), network.clone()).await;
    assert!(matches!(second, Err(StartError::Open(_))), "{second:?}");
    master.stop().await;
    cluster.stop_secondary(&secondaries[0]).await;

    let other = MasterConfig::new(name("other"), cluster.config.secondaries.clone());
    let started = Master::start(other, disk.clone(), network.clone()).await;
    assert!(
        matches!(started, Err(StartError::OtherNode { .. })),
        "{started:?}"
    );
    let more = MasterConfig::new(name("master"), vec!["another=local".parse().unwrap()]);
    let started = Master::start(more, disk, network).await;
    assert!(
        matches!(started, Err(StartError::OtherNodes { .. })),
        "{started:?}"
    );
}

#[tokio::test]
async fn a_replaced_master_that_returns_is_fenced_and_takes_no_appends() {
    let mut cluster = Cluster::new(2);
    let (old, _secondaries) = cluster.start_all().await;
    within(old.append("before", concern(3))).await.unwrap();
    let old_disk = std::mem::replace(&mut cluster.master_disk, MemoryStorage::new());
    // A blank directory does not depose a master that the others are in contact with.
    let waiting = cluster.start_master().await;
    let has_told = |health: &MasterHealth| {
        let recovery = health.recovery.as_ref();
        recovery.is_some_and(|recovery| recovery.other_master.is_some())
    };
    until(&waiting, has_told).await;
    within(old.append("goes on", concern(3))).await.unwrap();
    waiting.stop().await;
    // With take-over set, it becomes leader while the old process still runs.
    cluster.config.take_over = TakeOver::AtOnce;
    let new = cluster.start_master().await;
    within(new.wait_until_writable()).await.unwrap();
    let health = until(&old, |health| {
        health.mode_reason == Some(ModeReason::Fenced)
    })
    .await;
    assert!(health.fenced_by.is_some());
    let refused = within(old.append("late", concern(1))).await.unwrap_err();
    assert_eq!(refused.outcome(), Outcome::NotAppended);
    old.stop().await;
    // Nor does its restart regain leadership.
    cluster.master_disk = old_disk;
    let again = cluster.start_master().await;
    let health = until(&again, |health| {
        health.mode_reason == Some(ModeReason::Fenced)
    })
    .await;
    // It reports the log that it shows, and nothing about nodes that it no longer asks.
    assert_eq!(payloads(&again.reader()).await, ["before", "goes on"]);
    assert_eq!(health.log.next, Offset(2));
    let later = cluster.config.timing.unhealthy_after;
    let before = tokio::time::Instant::now();
    let health = until(&again, |_| before.elapsed() > later).await;
    for secondary in health.secondaries {
        let told = (secondary.status, secondary.reason);
        assert_eq!(told, (Status::Suspected, Some(WaitReason::Fenced)));
    }
    let receipt = within(new.append("after", concern(3))).await.unwrap();
    assert_eq!(receipt.offset, Offset(2));
}

mod asked;
mod damage;
mod forced;
mod full_disks;
mod strangers;

#[tokio::test]
async fn dropping_a_handle_stops_its_node_and_releases_the_directory() {
    let cluster = Cluster::new(1);
    let (master, secondaries) = cluster.start_all().await;
    drop((master, secondaries));
    cluster
        .network
        .unregister(&cluster.config.secondaries[0].name);
    let disk: Arc<dyn Storage> = Arc::new(cluster.master_disk.clone());
    let reopened = async {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        loop {
            let network = Arc::new(cluster.network.clone());
            match Master::start(cluster.config.clone(), disk.clone(), network).await {
                Ok(master) => return master,
                Err(StartError::Open(_)) => tick.tick().await,
                Err(error) => panic!("{error}"),
            };
        }
    };
    within(reopened).await;
}

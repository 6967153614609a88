//! Tests of entire clusters whose disks fill up and get space again.

use super::*;
use crate::{storage::limited::LimitedStorage, types::DiskState, views::SecondaryHealth};

/// A cluster on disks whose free space can be set: the secondaries', then the master's.
struct Limited {
    cluster: Cluster,
    disks: Vec<LimitedStorage>,
}

impl Limited {
    fn new() -> Limited {
        let mut cluster = Cluster::new(2);
        // Otherwise records would find space on a full disk.
        cluster.config.log.preallocate_bytes = 0;
        Limited {
            cluster,
            disks: (0..3).map(|_| LimitedStorage::new()).collect(),
        }
    }

    fn master_disk(&self) -> &LimitedStorage {
        &self.disks[2]
    }

    async fn start_master(&self) -> Master {
        let network = Arc::new(self.cluster.network.clone());
        let disk = Arc::new(self.master_disk().clone());
        Master::start(self.cluster.config.clone(), disk, network)
            .await
            .unwrap()
    }

    async fn start_all(&self) -> (Master, Vec<Secondary>) {
        let mut secondaries = Vec::new();
        for (peer, disk) in self.cluster.config.secondaries.iter().zip(&self.disks) {
            let mut config = SecondaryConfig::new(peer.name.clone());
            config.log = self.cluster.config.log.clone();
            let secondary = Secondary::start(config, Arc::new(disk.clone()))
                .await
                .unwrap();
            self.cluster.network.register(secondary.clone());
            secondaries.push(secondary);
        }
        let master = self.start_master().await;
        within(master.wait_until_writable()).await.unwrap();
        (master, secondaries)
    }
}

/// Appends until the disk is full; returns the acknowledged payloads.
async fn fill(master: &Master) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let payload = format!("{number}:{}", "x".repeat(1000));
        match within(master.append(payload.clone(), concern(2))).await {
            Ok(_) => acknowledged.push(payload),
            Err(AppendError::Storage { .. }) => return acknowledged,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("no disk is endless")
}

/// Checks that all nodes have the same log, which holds all acknowledged payloads in order.
async fn check_logs(master: &Master, secondaries: &[Secondary], acknowledged: &[String]) {
    let log = payloads(&master.reader()).await;
    let mut rest = log.iter();
    for payload in acknowledged {
        assert!(rest.any(|held| held == payload), "lost: {}", &payload[..9]);
    }
    let mut once = log.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), log.len(), "rule 3");
    for secondary in secondaries {
        let end = Offset(log.len() as u64 - 1);
        within(secondary.reader().wait_for(end, ReadLevel::Local))
            .await
            .unwrap();
        assert_eq!(payloads(&secondary.reader()).await, log, "rule 1");
    }
}

async fn until_secondary(
    secondary: &Secondary,
    wanted: impl Fn(&SecondaryHealth) -> bool,
) -> SecondaryHealth {
    let looked = async {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        loop {
            let health = secondary.health().await.unwrap();
            if wanted(&health) {
                return health;
            }
            tick.tick().await;
        }
    };
    within(looked).await
}

#[tokio::test]
async fn a_master_whose_disk_is_full_refuses_appends_and_takes_them_again_by_itself() {
    let limited = Limited::new();
    let (master, secondaries) = limited.start_all().await;
    let epoch = master.health().await.unwrap().epoch;
    limited.master_disk().leave(10_500);
    let mut acknowledged = fill(&master).await;
    assert!(acknowledged.len() > 5, "{}", acknowledged.len());

    let health = until(&master, |health| health.log.disk == DiskState::Full).await;
    assert_eq!(
        (health.mode, health.mode_reason, health.waiting_appends),
        (Mode::Recovering, Some(ModeReason::Storage), 0)
    );
    let refused = within(master.append("refused", concern(1)))
        .await
        .unwrap_err();
    assert!(matches!(refused, AppendError::Storage { offset: None, .. }));
    assert_eq!(
        (refused.outcome(), refused.is_retryable()),
        (Outcome::NotAppended, true)
    );
    let shown = payloads(&master.reader()).await;
    assert!(shown.starts_with(&acknowledged), "reads go on");
    // It retries repeatedly, without success while there is no space.
    let looked = limited.master_disk().refused();
    until(&master, |_| limited.master_disk().refused() > looked + 1).await;
    assert_eq!(master.health().await.unwrap().log.disk, DiskState::Full);

    limited.master_disk().make_room();
    within(master.wait_until_writable()).await.unwrap();
    let health = master.health().await.unwrap();
    assert!(
        health.epoch > epoch,
        "the old epoch's offsets were assigned"
    );
    assert_eq!(health.log.disk, DiskState::Ok);
    let receipt = within(master.append("after", concern(3))).await.unwrap();
    assert!(receipt.concern_met && receipt.epoch == health.epoch);
    acknowledged.push("after".to_owned());
    check_logs(&master, &secondaries, &acknowledged).await;
}

#[tokio::test]
async fn appends_that_had_an_offset_are_answered_unknown() {
    let limited = Limited::new();
    let (master, secondaries) = limited.start_all().await;
    limited.cluster.stop_secondary(&secondaries[1]).await;
    let waiting = tokio::spawn({
        let master = master.clone();
        async move { master.append("waits", concern(3)).await }
    });
    // Waiting means only that it has an offset: it must be written before the disk is full.
    within(master.reader().wait_for(Offset(0), ReadLevel::Local))
        .await
        .unwrap();
    limited.master_disk().leave(10);
    let error = within(master.append("too long for it", concern(1)))
        .await
        .unwrap_err();
    for (error, offset) in [(error, 1), (within(waiting).await.unwrap().unwrap_err(), 0)] {
        assert!(matches!(error, AppendError::Storage { .. }), "{error:?}");
        assert_eq!(error.offset(), Some(Offset(offset)));
        assert_eq!(error.outcome(), Outcome::Unknown);
    }
    // It can be stopped in this state, and leaves nothing behind that would disturb the next start.
    within(master.stop()).await;
    limited.master_disk().make_room();
    let again = limited.start_master().await;
    within(again.wait_until_writable()).await.unwrap();
    assert_eq!(payloads(&again.reader()).await, ["waits"]);
    let receipt = within(again.append("next", concern(2))).await.unwrap();
    assert_eq!(receipt.offset, Offset(1), "in a new epoch");
}

#[tokio::test]
async fn a_starting_master_waits_while_its_disk_is_full() {
    for room in [0, 300, 700, 1500] {
        let limited = Limited::new();
        let (master, secondaries) = limited.start_all().await;
        within(master.append("before", concern(3))).await.unwrap();
        let network = &limited.cluster.network;
        secondaries
            .iter()
            .for_each(|secondary| network.cut(secondary.name()));
        master.stop().await;
        // No node answers. A node asks for promises once its own is saved: from the first failed request on, no
        // save is in progress whose second file would count as space that the disk has later.
        let again = limited.start_master().await;
        until(&again, |health| {
            let mut secondaries = health.secondaries.iter();
            health.recovery.is_some() && secondaries.all(|secondary| secondary.failed_attempts > 0)
        })
        .await;
        limited.master_disk().leave(room);
        secondaries
            .iter()
            .for_each(|secondary| network.heal(secondary.name()));
        let refusing = |health: &MasterHealth| health.log.disk == DiskState::Full;
        let serving = |health: &MasterHealth| health.mode == Mode::ReadWrite;
        let health = until(&again, |health| refusing(health) || serving(health)).await;
        assert!(room > 0 || refusing(&health), "{health:?}");
        limited.master_disk().make_room();
        within(again.wait_until_writable()).await.unwrap();
        within(again.append("after", concern(3))).await.unwrap();
        check_logs(&again, &secondaries, &["before".into(), "after".into()]).await;
    }
}

#[tokio::test]
async fn a_secondary_with_a_full_disk_blocks_only_appends_that_need_it_and_recovers_by_itself() {
    let limited = Limited::new();
    let (master, secondaries) = limited.start_all().await;
    within(master.append("before", concern(3))).await.unwrap();
    limited.disks[1].leave(2500);
    let mut acknowledged = vec!["before".to_owned()];
    for number in 0..20 {
        let payload = format!("{number}:{}", "x".repeat(1000));
        within(master.append(payload.clone(), concern(2)))
            .await
            .unwrap();
        acknowledged.push(payload);
    }
    let waiting = tokio::spawn({
        let master = master.clone();
        async move { master.append("all", concern(3)).await }
    });
    let health = until(&master, |health| {
        health.secondaries[1].status == Status::Unhealthy
    })
    .await;
    assert_eq!(health.secondaries[1].reason, Some(WaitReason::Storage));
    assert_eq!(health.mode, Mode::ReadWrite);
    assert!(!waiting.is_finished());
    let health =
        until_secondary(&secondaries[1], |health| health.log.disk == DiskState::Full).await;
    assert_eq!(health.buffered, 0);
    let held = payloads(&secondaries[1].reader()).await;
    assert!(acknowledged.starts_with(&held), "reads go on");

    limited.disks[1].make_room();
    within(waiting).await.unwrap().unwrap();
    acknowledged.push("all".to_owned());
    until_secondary(&secondaries[1], |health| health.log.disk == DiskState::Ok).await;
    until(&master, |health| {
        health.secondaries[1].status == Status::Healthy
    })
    .await;
    check_logs(&master, &secondaries, &acknowledged).await;
}

#[tokio::test]
async fn a_majority_of_full_disks_is_no_quorum_until_there_is_space() {
    let limited = Limited::new();
    let (master, secondaries) = limited.start_all().await;
    limited.disks[0].leave(0);
    limited.disks[1].leave(0);
    let waiting = tokio::spawn({
        let master = master.clone();
        async move { master.append("waits", concern(2)).await }
    });
    let health = until(&master, |health| health.mode == Mode::ReadOnly).await;
    assert_eq!(health.mode_reason, Some(ModeReason::NoQuorum));
    assert!(!waiting.is_finished());
    limited.disks[0].make_room();
    assert!(within(waiting).await.unwrap().unwrap().concern_met);
    limited.disks[1].make_room();
    within(master.append("last", concern(3))).await.unwrap();
    check_logs(&master, &secondaries, &["waits".into(), "last".into()]).await;
}

#[tokio::test]
async fn a_cluster_is_founded_once_there_is_space_for_it() {
    let limited = Limited::new();
    let master = {
        let config = limited.cluster.config.clone();
        let network = Arc::new(limited.cluster.network.clone());
        let disk = Arc::new(limited.master_disk().clone());
        Master::start(config, disk, network).await.unwrap()
    };
    limited.master_disk().leave(0);
    for (peer, disk) in limited
        .cluster
        .config
        .secondaries
        .iter()
        .zip(&limited.disks)
    {
        let config = SecondaryConfig::new(peer.name.clone());
        let secondary = Secondary::start(config, Arc::new(disk.clone()))
            .await
            .unwrap();
        limited.cluster.network.register(secondary);
    }
    let health = until(&master, |health| health.log.disk == DiskState::Full).await;
    assert_eq!(health.cluster_id, None, "nothing was founded");
    limited.master_disk().make_room();
    within(master.wait_until_writable()).await.unwrap();
    within(master.append("first", concern(2))).await.unwrap();
}

//! Tests of entire clusters whose disks rot: unreadable records are repaired from another node.

use super::*;
use crate::storage::OpenHow;

const MESSAGES: u64 = 40;

/// Returns all messages, long enough for a handful to fill a segment.
fn all() -> Vec<String> {
    (0..MESSAGES)
        .map(|number| format!("{number:0500}"))
        .collect()
}

/// Returns a cluster with small segments, so that there are older ones, and with no records in memory that could be
/// read instead.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(2);
    cluster.config.log.segment_bytes = 4096;
    cluster.config.log.tail_bytes = 0;
    cluster.small_segments = true;
    cluster
}

/// Returns a started cluster with all messages appended and held by every node.
async fn filled() -> (Cluster, Master, Vec<Secondary>) {
    let cluster = cluster();
    let (master, secondaries) = cluster.start_all().await;
    for message in all() {
        within(master.append(message, concern(3))).await.unwrap();
    }
    (cluster, master, secondaries)
}

/// Changes a byte in the middle of a segment, counted from the oldest or, with -1, the newest.
fn rot(disk: &MemoryStorage, segment: isize) {
    let names = disk.list("log").unwrap();
    let at = segment.rem_euclid(names.len() as isize) as usize;
    let file = disk
        .open(&format!("log/{}", names[at]), OpenHow::Existing)
        .unwrap();
    // Within the first record of a segment, whose header has at most a pair or two.
    let position = 72 + 40;
    let mut byte = [0];
    file.read_at(position, &mut byte).unwrap();
    file.write_at(position, &[byte[0] ^ 0x10]).unwrap();
}

fn logs(disk: &MemoryStorage) -> Vec<Vec<u8>> {
    let read = |name: &String| crate::storage::read_file(disk, &format!("log/{name}"));
    let names = disk.list("log").unwrap();
    names
        .iter()
        .map(|name| read(name).unwrap().unwrap())
        .collect()
}

/// Waits until a secondary is intact and shows everything.
async fn is_mended(secondary: &Secondary, end: u64) {
    let looked = async {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        loop {
            let health = secondary.health().await.unwrap();
            if health.intact && health.log.next == Offset(end) {
                return;
            }
            tick.tick().await;
        }
    };
    within(looked).await;
}

#[tokio::test]
async fn a_secondary_that_starts_with_a_damaged_record_shows_what_is_before_it_and_is_repaired() {
    let (cluster, master, secondaries) = filled().await;
    cluster.stop_secondary(&secondaries[0]).await;
    let good = logs(&cluster.disks[0]);
    rot(&cluster.disks[0], -1);
    // Without the network first, so that no node can repair it.
    let config = SecondaryConfig::new(name("secondary-1"));
    let storage: Arc<dyn Storage> = Arc::new(cluster.disks[0].clone());
    let alone = Secondary::start(config, storage).await.unwrap();
    let health = alone.health().await.unwrap();
    assert!(!health.intact, "rule 10: it counts for nothing");
    assert!(health.log.next < Offset(MESSAGES));
    assert!(all().starts_with(&payloads(&alone.reader()).await));
    alone.stop().await;

    let back = cluster.start_secondary(0).await;
    is_mended(&back, MESSAGES).await;
    assert_eq!(payloads(&back.reader()).await, all());
    assert_eq!(logs(&cluster.disks[0]), good, "in place, byte for byte");
    append_numbers(&master, MESSAGES..MESSAGES + 1, 3).await;
}

#[tokio::test]
async fn damage_found_by_a_reader_on_a_secondary_is_repaired_while_it_runs() {
    let (cluster, master, secondaries) = filled().await;
    let good = logs(&cluster.disks[1]);
    rot(&cluster.disks[1], 1);
    let reader = secondaries[1].reader();
    let mut next = Offset(0);
    while let Ok(batches) = reader.read(next, Offset(MESSAGES), 1 << 16).await {
        next = batches.last().unwrap().end();
        assert!(next < Offset(MESSAGES), "rule 10: the damage was shown");
    }
    is_mended(&secondaries[1], MESSAGES).await;
    assert_eq!(payloads(&reader).await, all());
    assert_eq!(logs(&cluster.disks[1]), good);
    append_numbers(&master, MESSAGES..MESSAGES + 1, 3).await;
}

#[tokio::test]
async fn a_leader_keeps_leading_despite_its_own_damage_and_repairs_it() {
    let (cluster, master, _secondaries) = filled().await;
    let good = logs(&cluster.master_disk);
    rot(&cluster.master_disk, 1);
    let reader = master.reader();
    let epoch = master.health().await.unwrap().epoch;
    let mut next = Offset(0);
    while let Ok(batches) = reader.read(next, Offset(MESSAGES), 1 << 16).await {
        next = batches.last().unwrap().end();
        assert!(next < Offset(MESSAGES), "rule 10: the damage was shown");
    }
    append_numbers(&master, MESSAGES..MESSAGES + 1, 3).await;
    let mended = async {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        while logs(&cluster.master_disk)[..good.len() - 1] != good[..good.len() - 1] {
            tick.tick().await;
        }
    };
    within(mended).await;
    assert_eq!(payloads(&reader).await[..MESSAGES as usize], all());
    assert_eq!(
        master.health().await.unwrap().epoch,
        epoch,
        "it is still the leader"
    );
}

#[tokio::test]
async fn records_that_are_noticed_together_are_all_repaired_though_nobody_reads_them_again() {
    let (cluster, master, _secondaries) = filled().await;
    let good = logs(&cluster.master_disk);
    let reader = master.reader();
    let names = cluster.master_disk.list("log").unwrap();
    let damaged = [0, 1, 2].map(|nth| {
        rot(&cluster.master_disk, nth as isize);
        let first = names[nth].strip_suffix(".log").unwrap();
        Offset(first.parse().unwrap())
    });
    let reads = damaged.map(|first| reader.get(first));
    let [one, two, three] = reads;
    let read = tokio::join!(one, two, three);
    assert!(read.0.is_err() && read.1.is_err() && read.2.is_err());
    let repaired = async {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        while logs(&cluster.master_disk)[..3] != good[..3] {
            tick.tick().await;
        }
    };
    within(repaired).await;
}

#[tokio::test]
async fn a_master_that_starts_with_a_damaged_record_recovers_from_the_others() {
    let (cluster, master, secondaries) = filled().await;
    master.stop().await;
    let good = logs(&cluster.master_disk);
    rot(&cluster.master_disk, -1);
    // Without its mark it does not know what it had acknowledged: both other nodes of three must answer.
    cluster.master_disk.remove("mark").unwrap();
    cluster.stop_secondary(&secondaries[1]).await;
    let master = cluster.start_master().await;
    let health = until(&master, |health| {
        let recovery = health.recovery.as_ref();
        recovery.is_some_and(|recovery| recovery.waiting_for == [name("secondary-2")])
    })
    .await;
    assert_eq!((health.mode, health.intact), (Mode::Recovering, false));
    let recovery = health.recovery.unwrap();
    assert_eq!(recovery.not_intact, [name("master")]);
    let _back = cluster.start_secondary(1).await;
    within(master.wait_until_writable()).await.unwrap();
    let intact = |health: &MasterHealth| {
        let mut all = health.secondaries.iter();
        health.intact && all.all(|secondary| secondary.intact == Some(true))
    };
    until(&master, intact).await;
    assert_eq!(payloads(&master.reader()).await, all());
    assert_eq!(logs(&cluster.master_disk), good);
}

#[tokio::test]
async fn one_intact_log_is_enough_if_the_others_lack_a_record_each() {
    let (cluster, master, secondaries) = filled().await;
    for secondary in &secondaries {
        cluster.stop_secondary(secondary).await;
    }
    master.stop().await;
    let good = logs(&cluster.master_disk);
    rot(&cluster.master_disk, -1);
    rot(&cluster.disks[0], -1);
    let _first = cluster.start_secondary(0).await;
    let _second = cluster.start_secondary(1).await;
    let master = cluster.start_master().await;
    within(master.wait_until_writable()).await.unwrap();
    assert_eq!(payloads(&master.reader()).await, all());
    append_numbers(&master, MESSAGES..MESSAGES + 1, 3).await;
    for disk in [&cluster.master_disk, &cluster.disks[0]] {
        assert_eq!(logs(disk)[..good.len() - 1], good[..good.len() - 1]);
    }
}

/// Records that exist only on damaged disks are not given up: without the node whose log has them intact, no node
/// serves.
#[tokio::test]
async fn an_intact_log_that_lacks_what_damaged_nodes_acknowledged_is_not_adopted() {
    let (cluster, master, secondaries) = filled().await;
    cluster.stop_secondary(&secondaries[1]).await;
    append_numbers(&master, MESSAGES..MESSAGES + 1, 2).await;
    cluster.stop_secondary(&secondaries[0]).await;
    master.stop().await;
    rot(&cluster.master_disk, 0);
    // A start reads the last segment; this one reads all of it.
    cluster
        .master_disk
        .open("unproven", OpenHow::Create)
        .unwrap();
    let _behind = cluster.start_secondary(1).await;
    let master = cluster.start_master().await;
    let waits = |health: &MasterHealth| {
        let recovery = health.recovery.as_ref();
        recovery.is_some_and(|recovery| recovery.waiting_for == [name("secondary-1")])
    };
    let health = until(&master, waits).await;
    assert_eq!(health.recovery.unwrap().not_intact, [name("master")]);
    let before = tokio::time::Instant::now();
    let later = 3 * cluster.config.timing.unhealthy_after;
    let health = until(&master, |_| before.elapsed() > later).await;
    assert_eq!(health.mode, Mode::Recovering);
    let _back = cluster.start_secondary(0).await;
    within(master.wait_until_writable()).await.unwrap();
    assert_eq!(payloads(&master.reader()).await.len() as u64, MESSAGES + 1);
}

#[tokio::test]
async fn a_missing_segment_is_refilled_and_the_segments_after_it_are_quarantined() {
    let (cluster, _master, secondaries) = filled().await;
    cluster.stop_secondary(&secondaries[0]).await;
    let good = logs(&cluster.disks[0]);
    let names = cluster.disks[0].list("log").unwrap();
    assert!(names.len() > 3, "{names:?}");
    cluster.disks[0]
        .remove(&format!("log/{}", names[1]))
        .unwrap();
    let back = cluster.start_secondary(0).await;
    is_mended(&back, MESSAGES).await;
    assert_eq!(logs(&cluster.disks[0]), good);
    assert_eq!(cluster.disks[0].list("quarantine").unwrap(), names[2..]);
}

/// Covers the losses other than that of the meta: after each, the log does not count until it is refilled.
#[tokio::test]
async fn a_secondary_without_its_mark_or_log_does_not_count_until_it_is_refilled() {
    let (cluster, master, secondaries) = filled().await;
    let good = logs(&cluster.disks[0]);
    let mut running = secondaries[0].clone();
    for (mark, log) in [(true, false), (false, true), (true, true)] {
        cluster.stop_secondary(&running).await;
        let disk = &cluster.disks[0];
        if mark {
            disk.remove("mark").unwrap();
        }
        if log {
            for name in disk.list("log").unwrap() {
                disk.remove(&format!("log/{name}")).unwrap();
            }
        }
        let config = SecondaryConfig::new(name("secondary-1"));
        let alone = Secondary::start(config, Arc::new(disk.clone()))
            .await
            .unwrap();
        let health = alone.health().await.unwrap();
        let metrics = alone.metrics().await.unwrap();
        assert!(!health.intact, "mark {mark}, log {log}");
        assert_eq!(metrics.log.repaired_marks, u64::from(mark));
        alone.stop().await;
        running = cluster.start_secondary(0).await;
        is_mended(&running, MESSAGES).await;
        assert_eq!(logs(&cluster.disks[0]), good);
    }
    append_numbers(&master, MESSAGES..MESSAGES + 1, 3).await;
}

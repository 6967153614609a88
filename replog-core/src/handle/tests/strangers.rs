//! Tests of nodes that do not belong together: both ends refuse with a reason, and nothing changes.

use super::*;
use crate::{
    log::testing::dump,
    types::ClusterId,
    views::{SecondaryHealth, WaitingFor},
};

/// Waits until the oldest waiting append waits for this node for the wanted reason, and returns the details.
async fn waits_for(master: &Master, node: &str, wanted: WaitReason) -> WaitingFor {
    let looked = async {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        loop {
            let waiting = master.waiting_appends(1).await.unwrap();
            let found = waiting
                .appends
                .first()
                .and_then(|append| append.waiting_for.iter().find(|w| w.name == name(node)));
            if let Some(found) = found.filter(|found| found.reason == wanted) {
                return found.clone();
            }
            tick.tick().await;
        }
    };
    within(looked).await
}

async fn cluster_of(secondary: &Secondary) -> Option<ClusterId> {
    let SecondaryHealth { cluster_id, .. } = secondary.health().await.unwrap();
    cluster_id
}

#[tokio::test]
async fn a_secondary_of_another_cluster_is_refused_and_left_unchanged() {
    let ours = Cluster::new(2);
    let (master, secondaries) = ours.start_all().await;
    within(master.append("ours", concern(3))).await.unwrap();
    let theirs = Cluster::new(2);
    let (other_master, other_secondaries) = theirs.start_all().await;
    within(other_master.append("theirs", concern(3)))
        .await
        .unwrap();
    let stranger = cluster_of(&other_secondaries[0]).await.unwrap();
    assert_ne!(Some(stranger), master.health().await.unwrap().cluster_id);

    // At our secondary's address, one of theirs with the same name answers.
    ours.stop_secondary(&secondaries[0]).await;
    ours.network.register(other_secondaries[0].clone());
    let waiting = tokio::spawn({
        let master = master.clone();
        async move { master.append("waits", concern(3)).await }
    });
    let why = waits_for(&master, "secondary-1", WaitReason::WrongNode).await;
    let detail = why.detail.unwrap();
    assert!(
        detail.contains("another cluster") || detail.contains("belongs to"),
        "{detail}"
    );
    assert_eq!(payloads(&other_secondaries[0].reader()).await, ["theirs"]);
    assert_eq!(cluster_of(&other_secondaries[0]).await, Some(stranger));
    within(other_master.append("still theirs", concern(3)))
        .await
        .unwrap();

    ours.start_secondary(0).await;
    within(waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_blank_master_founds_no_cluster_if_a_node_belongs_to_another() {
    let cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    within(master.append("kept", concern(3))).await.unwrap();
    let id = cluster_of(&secondaries[0]).await;
    master.stop().await;
    let before = dump(&cluster.disks[0]);

    let mut fewer = Cluster::new(1);
    fewer.network = cluster.network.clone();
    let stranger = fewer.start_master().await;
    // Longer than it waits for all nodes before it founds a cluster.
    let since = tokio::time::Instant::now();
    let health = until(&stranger, |_| since.elapsed() > Duration::from_millis(1500)).await;
    assert_eq!((health.mode, health.cluster_id), (Mode::Recovering, None));
    assert_eq!(health.recovery.unwrap().waiting_for, [name("secondary-1")]);
    assert_eq!(cluster_of(&secondaries[0]).await, id);
    assert_eq!(dump(&cluster.disks[0]), before, "nothing is overwritten");
}

#[tokio::test]
async fn a_master_that_must_not_found_a_cluster_waits_despite_blank_nodes() {
    let mut cluster = Cluster::new(2);
    let secondary = cluster.start_secondary(0).await;
    cluster.start_secondary(1).await;
    cluster.config.founding = Founding::Never;
    let master = cluster.start_master().await;
    let since = tokio::time::Instant::now();
    let health = until(&master, |_| since.elapsed() > Duration::from_millis(1500)).await;
    assert_eq!((health.mode, health.cluster_id), (Mode::Recovering, None));
    assert_eq!(cluster_of(&secondary).await, None);
    let refused = within(master.append("x", concern(1))).await.unwrap_err();
    assert_eq!(refused.outcome(), Outcome::NotAppended);
}

#[tokio::test]
async fn a_copied_directory_does_not_become_another_node() {
    let mut cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    within(master.append("kept", concern(3))).await.unwrap();
    cluster.stop_secondary(&secondaries[0]).await;
    cluster.stop_secondary(&secondaries[1]).await;
    cluster.disks[1] = crate::log::testing::storage_of(&dump(&cluster.disks[0]));
    let before = dump(&cluster.disks[1]);
    let config = SecondaryConfig::new(name("secondary-2"));
    let started = Secondary::start(config, Arc::new(cluster.disks[1].clone())).await;
    let error = started.expect_err("it is the directory of secondary-1");
    assert!(matches!(error, StartError::OtherNode { .. }), "{error}");
    assert!(error.to_string().contains("secondary-1"), "{error}");
    assert_eq!(dump(&cluster.disks[1]), before, "nothing is overwritten");
}

#[tokio::test]
async fn two_names_for_one_process_count_as_one_node() {
    let cluster = Cluster::new(2);
    let secondary = cluster.start_secondary(0).await;
    let there = Arc::new(secondary.clone());
    cluster.network.attach(&name("secondary-2"), there, None);
    let master = cluster.start_master().await;
    within(master.wait_until_writable()).await.unwrap();
    within(master.append("two", concern(2))).await.unwrap();
    let waiting = tokio::spawn({
        let master = master.clone();
        async move { master.append("three", concern(3)).await }
    });
    let why = waits_for(&master, "secondary-2", WaitReason::WrongNode).await;
    assert_eq!(&*why.detail.unwrap(), "node secondary-1 answered instead");
    until(&master, |health| health.quorum.alive == 2).await;
    assert!(!waiting.is_finished(), "rule 4: it holds a message once");
    within(secondary.reader().wait_for(Offset(1), ReadLevel::Local))
        .await
        .unwrap();
    assert_eq!(payloads(&secondary.reader()).await, ["two", "three"]);
    cluster.start_secondary(1).await;
    assert_eq!(within(waiting).await.unwrap().unwrap().acks.len(), 3);
}

//! Tests of listening to nodes: real actors, real writer threads, in-memory disks.

use std::time::Duration;

use crate::{
    Events, Master, Offset, Status,
    events::{Change, FailedRequest, Fault, NodeEvent, Notice},
    handle::tests::{Cluster, concern, name, until, within},
    limits::EVENTS_KEPT,
    transport::{FaultInjector, FaultSettings},
    types::{Mode, ModeReason},
    views::{MasterHealth, WaitReason},
};

/// Waits for the next event for which `wanted` returns a value.
async fn find<T>(events: &mut Events, mut wanted: impl FnMut(&NodeEvent) -> Option<T>) -> T {
    let found = async {
        loop {
            match events.next().await.expect("the node goes on") {
                Notice::Event(event) => {
                    if let Some(found) = wanted(&event) {
                        return found;
                    }
                }
                Notice::Missed { count } => panic!("{count} events were missed"),
            }
        }
    };
    within(found).await
}

/// Collects all notices until the node has ended.
async fn rest(mut events: Events) -> Vec<Notice> {
    let mut all = Vec::new();
    while let Some(notice) = within(events.next()).await {
        all.push(notice);
    }
    assert_eq!(events.next().await, None, "and nothing after the end");
    all
}

fn isolated() -> FaultSettings {
    FaultSettings {
        isolate: true,
        ..FaultSettings::default()
    }
}

async fn append(master: &Master, nodes: u64) -> Offset {
    let receipt = within(master.append("m", concern(nodes))).await;
    receipt.unwrap().offset
}

#[tokio::test]
async fn the_outage_and_return_of_a_secondary_are_reported_step_by_step() {
    let cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    let healthy = |health: &MasterHealth| {
        let mut all = health.secondaries.iter();
        all.all(|secondary| secondary.status == Status::Healthy)
    };
    until(&master, healthy).await;
    let mut events = master.events();
    cluster.stop_secondary(&secondaries[1]).await;
    let gone = name("secondary-2");
    let (mut steps, mut attempts) = (Vec::new(), Vec::new());
    find(&mut events, |event| {
        match &event.what {
            Change::Retry {
                request,
                reason,
                attempt,
                ..
            } => {
                assert_eq!(event.node, gone);
                assert_eq!(*request, FailedRequest::Heartbeat, "nothing was appended");
                assert_eq!(*reason, WaitReason::ConnectionRefused);
                attempts.push(*attempt);
            }
            Change::Status {
                from, to, reason, ..
            } => {
                assert_eq!(*reason, Some(WaitReason::ConnectionRefused));
                steps.push((*from, *to));
            }
            // From the start.
            Change::Ack { .. } => {}
            other => panic!("{other:?}"),
        }
        (steps.len() == 2).then_some(())
    })
    .await;
    assert_eq!(
        steps,
        [
            (Status::Healthy, Status::Suspected),
            (Status::Suspected, Status::Unhealthy)
        ]
    );
    let in_a_row: Vec<u64> = (1..=attempts.len() as u64).collect();
    assert_eq!(attempts, in_a_row);

    let _back = cluster.start_secondary(1).await;
    let back = find(&mut events, |event| match &event.what {
        Change::Status {
            from, to, reason, ..
        } => Some((*from, *to, *reason)),
        _ => None,
    });
    assert_eq!(back.await, (Status::Unhealthy, Status::Healthy, None));
}

#[tokio::test]
async fn without_a_majority_the_mode_is_reported_with_its_reason() {
    let cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    let mut events = master.events();
    for secondary in &secondaries {
        cluster.stop_secondary(secondary).await;
    }
    let mode = |event: &NodeEvent| match &event.what {
        Change::Mode {
            mode, mode_reason, ..
        } => Some((event.node.clone(), *mode, *mode_reason)),
        _ => None,
    };
    let no_quorum = (Mode::ReadOnly, Some(ModeReason::NoQuorum));
    let (node, mode, reason) = find(&mut events, mode).await;
    assert_eq!((node, (mode, reason)), (name("master"), no_quorum));
}

#[tokio::test]
async fn appends_and_acks_are_merged_and_reported_without_gaps() {
    let cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    let mut events = [master.events(), secondaries[0].events()];
    let mut last = Offset(0);
    for _ in 0..300 {
        last = append(&master, 3).await;
    }
    let (mut next, mut acked) = (Offset(0), [None; 2]);
    let mut told = 0;
    find(&mut events[0], |event| {
        told += 1;
        match &event.what {
            Change::Append { from, next: end } => {
                assert_eq!((&event.node, *from), (&name("master"), next));
                assert!(from < end);
                next = *end;
            }
            Change::Ack { durable_end } => {
                let nth = usize::from(event.node == name("secondary-2"));
                assert!(acked[nth] < Some(*durable_end), "{event:?}");
                acked[nth] = Some(*durable_end);
            }
            // From the start.
            Change::Status { .. } => {}
            other => panic!("{other:?}"),
        }
        (next > last && acked == [Some(next); 2]).then_some(())
    })
    .await;
    assert!(told < 300, "{told} events for 300 appends were not merged");
    let mut next = Offset(0);
    find(&mut events[1], |event| match &event.what {
        Change::Append { from, next: end } => {
            assert_eq!((&event.node, *from), (&name("secondary-1"), next));
            next = *end;
            (next > last).then_some(())
        }
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn a_slow_listener_is_told_how_many_events_it_missed_and_continues_with_the_newest() {
    let cluster = Cluster::new(0);
    let (master, _) = cluster.start_all().await;
    let injector = FaultInjector::new();
    master.publish_faults(&injector);
    let (mut slow, other) = (master.events(), master.events());
    drop(other);
    let kept = EVENTS_KEPT as u64;
    for seed in 0..kept + 7 {
        let seed = Some(seed);
        let settings = FaultSettings {
            seed,
            ..FaultSettings::default()
        };
        injector.set(settings).unwrap();
    }
    assert_eq!(slow.next().await, Some(Notice::Missed { count: 7 }));
    for expected in 7..kept + 7 {
        let seed = find(&mut slow, |event| match &event.what {
            Change::FaultsSet { faults } => faults.seed,
            other => panic!("{other:?}"),
        });
        assert_eq!(seed.await, expected);
    }
}

#[tokio::test]
async fn faults_are_reported_when_they_are_set_and_when_they_happen() {
    let cluster = Cluster::new(1);
    let injector = FaultInjector::new();
    let secondary = cluster.start_failing(0, injector.clone()).await;
    secondary.publish_faults(&injector);
    let master = cluster.start_master().await;
    within(master.wait_until_writable()).await.unwrap();
    let mut events = secondary.events();
    injector.set(isolated()).unwrap();
    let own = name("secondary-1");
    let set = find(&mut events, |event| match &event.what {
        Change::FaultsSet { faults } => Some((event.node.clone(), faults.isolate)),
        _ => None,
    });
    assert_eq!(set.await, (own.clone(), true));
    let happened = find(&mut events, |event| match &event.what {
        Change::FaultsHappened { fault, count } => Some((event.node.clone(), *fault, *count)),
        _ => None,
    });
    let (node, fault, count) = happened.await;
    assert_eq!((node, fault), (own, Fault::Isolate));
    assert!(count > 0);
    injector.clear();
    let cleared = find(&mut events, |event| match &event.what {
        Change::FaultsSet { faults } => Some(faults.clone()),
        _ => None,
    });
    assert_eq!(cleared.await, FaultSettings::default());
}

#[tokio::test]
async fn a_secondary_reports_its_promised_epoch_and_gaps_in_what_it_receives() {
    let cluster = Cluster::new(1);
    let injector = FaultInjector::new();
    let secondary = cluster.start_failing(0, injector.clone()).await;
    let mut events = secondary.events();
    let master = cluster.start_master().await;
    let mut of_master = master.events();
    within(master.wait_until_writable()).await.unwrap();
    let epoch = |event: &NodeEvent| match &event.what {
        Change::Epoch { epoch, master } => Some((event.node.clone(), *epoch, master.clone())),
        _ => None,
    };
    let by = name("master");
    let (node, taken, master_of) = find(&mut of_master, epoch).await;
    assert_eq!((&node, &master_of), (&by, &by));
    let promised = find(&mut events, epoch).await;
    assert_eq!(promised, (name("secondary-1"), taken, by));

    // Batches overtake each other: at some point one arrives before its predecessor.
    let delays = FaultSettings {
        delay_ms: Some([0, 20]),
        ..FaultSettings::default()
    };
    injector.set(delays).unwrap();
    let appending = tokio::spawn(async move {
        loop {
            append(&master, 1).await;
        }
    });
    let gap = |event: &NodeEvent| match event.what {
        Change::Gap { missing, buffered } => Some((missing.is_some(), buffered > 0)),
        _ => None,
    };
    assert_eq!(find(&mut events, gap).await, (true, true));
    assert_eq!(find(&mut events, gap).await, (false, false));
    appending.abort();
}

#[tokio::test]
async fn a_listener_gets_all_events_until_the_end_and_keeps_no_node_running() {
    let cluster = Cluster::new(0);
    let (master, _) = cluster.start_all().await;
    let events = master.events();
    // Faster than they are reported.
    for _ in 0..20 {
        append(&master, 1).await;
    }
    drop(master);
    let mut next = Offset(0);
    for notice in rest(events).await {
        match notice {
            Notice::Event(NodeEvent {
                what: Change::Append { from, next: end },
                ..
            }) => {
                assert_eq!(from, next);
                next = end;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(next, Offset(20));
}

#[tokio::test]
async fn an_abandoned_wait_loses_no_event() {
    let cluster = Cluster::new(0);
    let (master, _) = cluster.start_all().await;
    let mut events = master.events();
    let mut next = Offset(0);
    while next < Offset(50) {
        append(&master, 1).await;
        // Shorter than the interval at which appends are reported.
        let waited = tokio::time::timeout(Duration::from_millis(3), events.next());
        match waited.await {
            Ok(Some(Notice::Event(event))) => {
                let Change::Append { from, next: end } = event.what else {
                    panic!("{event:?}");
                };
                assert_eq!(from, next);
                next = end;
            }
            Ok(other) => panic!("{other:?}"),
            Err(_elapsed) => {}
        }
    }
}

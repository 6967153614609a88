//! Cost of an append in instructions: cases for `scripts/instructions`.
//!
//! Each case does its work the number of times that the environment says, and prints the number of
//! appends. A run under callgrind counts the instructions of the whole process; the difference between
//! a short and a long run is the cost of the appends in between. The counts do not depend on what else
//! the machine does.

use std::{env, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    AppendOptions, Master, Secondary,
    config::{MasterConfig, Peer, SecondaryConfig},
    frame::{FrameBatch, FrameFields},
    log::{
        LogOptions, WriteCommand, WriterLoop,
        testing::{CLUSTER, Records, open_with, options},
    },
    rules::{
        acks::{Acks, WaiterId},
        disk_space::DiskSpace,
        keys::Keys,
        leader::{Leader, NewAppend},
        link::Link,
    },
    storage::MemoryStorage,
    transport::LocalNetwork,
    types::{Concern, Epoch, NodeName, Offset},
};

/// Appends in flight together, as from that many clients.
const GROUP: u64 = 64;
const PAYLOAD: [u8; 100] = [b'x'; 100];

/// Returns the number of repetitions: a multiple of [`GROUP`].
fn groups() -> u64 {
    let times = env::var("REPLOG_GROUPS").unwrap_or_else(|_| "1".to_owned());
    times.parse().unwrap()
}

fn say(appends: u64) {
    println!("appends: {appends}");
}

fn config() -> MasterConfig {
    let name = |text: &str| NodeName::new(text).unwrap();
    let peers = ["a", "b"].map(|text| Peer {
        name: name(text),
        address: text.to_owned(),
    });
    MasterConfig::new(name("m"), peers.into())
}

#[test]
#[ignore = "counted by scripts/instructions"]
fn encode() {
    let mut buffer = BytesMut::with_capacity(1 << 16);
    for group in 0..groups() {
        buffer.clear();
        for nth in 0..GROUP {
            let fields = FrameFields {
                first: Offset(group * GROUP + nth),
                epoch: Epoch(3),
                timestamp_ms: 1_700_000_000_000,
                key: b"",
            };
            fields.encode(&[&PAYLOAD], &mut buffer);
        }
    }
    say(groups() * GROUP);
}

/// Returns batches of [`GROUP`] records.
fn batches() -> Vec<FrameBatch> {
    let records = Records::new(0, (0..groups() * GROUP).map(|_| (1, PAYLOAD.len())));
    records.batches(&[GROUP as usize])
}

#[test]
#[ignore = "counted by scripts/instructions"]
fn prepare_batches() {
    say(batches().len() as u64 * GROUP);
}

#[test]
#[ignore = "counted by scripts/instructions"]
fn append_to_the_tail() {
    let batches = batches();
    let options = LogOptions {
        segment_bytes: 64 << 20,
        tail_bytes: 4 << 20,
        ..options()
    };
    let storage = Arc::new(MemoryStorage::new());
    let (files, view, _) = open_with(storage.clone(), options, Some(CLUSTER)).unwrap();
    let mut writer = WriterLoop::new(files, storage);
    for batch in &batches {
        let commands = vec![WriteCommand::Append(batch.clone())];
        let _ = writer.run(commands, &mut |_| {});
        view.read_tail(batch.first(), batch.end(), usize::MAX)
            .unwrap();
    }
    say(batches.len() as u64 * GROUP);
}

#[test]
#[ignore = "counted by scripts/instructions"]
fn track_acks() {
    let mut acks = Acks::new(Offset::ZERO, 2);
    let mut released = 0;
    for group in 0..groups() {
        let first = group * GROUP;
        for offset in first..first + GROUP {
            acks.wait(2, Offset(offset), None, WaiterId(offset), offset);
        }
        let end = Offset(first + GROUP);
        acks.on_end(0, Some(end));
        released += acks.release().len();
        acks.on_own_end(end);
        acks.on_end(1, Some(end));
        released += acks.release().len();
    }
    assert_eq!(released as u64, groups() * GROUP);
    say(groups() * GROUP);
}

#[test]
#[ignore = "counted by scripts/instructions"]
fn admit_and_answer() {
    let config = config();
    let name = |text: &str| NodeName::new(text).unwrap();
    let now = Instant::now();
    let report = || {
        let mut report = Link::new(name("a"), config.timing.clone(), 1, now).report(now);
        report.health.on_contact(now);
        report.epoch = Some(Epoch(1));
        report
    };
    let mut leader = Leader::new(&config, true, vec![report(), report()]);
    leader.serve(Epoch(1), Keys::new(1000, Offset::ZERO));
    let payload = Bytes::from_static(&PAYLOAD);
    let mut answered = 0;
    for group in 0..groups() {
        let append = |caller| NewAppend {
            payload: payload.clone(),
            batch: None,
            concern: Concern::Majority,
            timeout: None,
            arrived: now,
            claim: None,
            expected_offset: None,
            waiter: WaiterId(caller),
            caller,
        };
        let admitted = leader.admit(
            now,
            1_700_000_000_000,
            &DiskSpace::new(),
            &mut (0..GROUP).map(append).collect(),
        );
        assert_eq!(admitted.refused.len(), 0);
        let end = Offset((group + 1) * GROUP);
        leader.on_written(end);
        leader.on_durable(end);
        answered += leader.settle(now).len();
        let mut report = report();
        report.counted = Some(end);
        leader.on_report(0, report);
        answered += leader.settle(now).len();
    }
    assert_eq!(answered as u64, groups() * GROUP);
    say(groups() * GROUP);
}

/// Three nodes, all their actors on one thread, writers on three, logs in memory, no sockets.
#[test]
#[ignore = "counted by scripts/instructions"]
fn append_through_all_actors() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let network = LocalNetwork::new();
        for name in ["a", "b"] {
            let config = SecondaryConfig::new(NodeName::new(name).unwrap());
            let storage = Arc::new(MemoryStorage::new());
            network.register(Secondary::start_here(config, storage).unwrap());
        }
        let storage = Arc::new(MemoryStorage::new());
        let master = Master::start_here(config(), storage, &network).unwrap();
        master.wait_until_writable().await.unwrap();
        for _ in 0..groups() {
            let mut appends = JoinSet::new();
            for _ in 0..GROUP {
                let master = master.clone();
                appends.spawn_local(async move {
                    let options = AppendOptions::concern(Concern::Count(2));
                    master.append(&PAYLOAD[..], options).await
                });
            }
            for receipt in appends.join_all().await {
                assert!(receipt.unwrap().concern_met);
            }
        }
    });
    say(groups() * GROUP);
}

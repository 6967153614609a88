//! The library's promises to the program around it, tested through its public interface alone.
//!
//! Covers the runtimes under which it works, the fate of nodes, appends and readers whose handles and
//! futures are dropped, and the isolation of clusters in one process. In memory; every wait is for a
//! condition, with a deadline.
#![forbid(unsafe_code)]

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use actix_web::{
    App, HttpResponse,
    web::{self, Bytes, Data},
};
use replog_core::{
    AppendOptions, Concern, Master, MasterConfig, MessageBatch, Offset, ReadLevel, Reader,
    Secondary, SecondaryConfig, Timing,
    error::{AppendError, OpenError, Outcome, StartError},
    metrics::MasterMetrics,
    storage::{MemoryStorage, Storage},
    transport::LocalNetwork,
    views::Message,
};
use tokio::{runtime, sync::oneshot, task::LocalSet};

/// Maximum time of anything here before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A master and one secondary, and their surroundings.
struct Cluster {
    master: Master,
    secondary: Secondary,
    disks: Disks,
}

/// State that outlives the nodes.
#[derive(Clone, Default)]
struct Disks {
    network: LocalNetwork,
    master: MemoryStorage,
    secondary: MemoryStorage,
}

impl Disks {
    async fn start_secondary(&self) -> Secondary {
        let storage = Arc::new(self.secondary.clone());
        let secondary = Secondary::start(secondary_config(), storage).await;
        let secondary = secondary.expect("a good directory");
        self.network.register(secondary.clone());
        secondary
    }

    async fn start_master(&self) -> Master {
        let (storage, network) = (self.master.clone(), self.network.clone());
        Master::start(master_config(), Arc::new(storage), Arc::new(network))
            .await
            .expect("a good directory")
    }
}

impl Cluster {
    async fn start() -> Cluster {
        let disks = Disks::default();
        let secondary = disks.start_secondary().await;
        let master = disks.start_master().await;
        master
            .wait_until_writable()
            .await
            .expect("a master that runs");
        Cluster {
            master,
            secondary,
            disks,
        }
    }

    /// Appends, and reads the message on both nodes.
    async fn works(&self) {
        let payload = "payload";
        let receipt = self.master.append(payload, all()).await.expect("a quorum");
        assert_eq!(receipt.acks.len(), 2);
        for reader in [self.master.reader(), self.secondary.reader()] {
            reader
                .wait_for(receipt.offset, ReadLevel::Committed)
                .await
                .expect("a node that runs");
            assert_eq!(payload_at(&reader, receipt.offset).await, payload);
        }
        self.master.health().await.expect("a master that runs");
        let health = self.secondary.health().await;
        assert!(health.expect("a secondary that runs").intact);
    }
}

fn secondary_config() -> SecondaryConfig {
    SecondaryConfig::new("secondary-1".parse().expect("a name"))
}

fn master_config() -> MasterConfig {
    let peer = "secondary-1=local".parse().expect("a peer");
    let mut config = MasterConfig::new("master".parse().expect("a name"), vec![peer]);
    config.timing = Timing {
        heartbeat_interval: Duration::from_millis(50),
        request_timeout: Duration::from_secs(1),
        suspect_after: Duration::from_secs(1),
        unhealthy_after: Duration::from_secs(10),
        retry_min: Duration::from_millis(1),
        retry_max: Duration::from_millis(20),
    };
    // Nothing but the log is kept in memory: reads go through the files.
    config.log.tail_bytes = 0;
    config
}

fn all() -> AppendOptions {
    AppendOptions::concern(Concern::All)
}

fn alone() -> AppendOptions {
    AppendOptions::concern(Concern::Count(1))
}

async fn payload_at(reader: &Reader, offset: Offset) -> Bytes {
    let message = reader.get(offset).await.expect("a log that can be read");
    message.expect("the node holds it").payload
}

/// Polls a future once.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls a future once; it must not be ready.
fn begin<F: Future>(future: Pin<&mut F>) {
    assert!(poll_once(future).is_pending(), "it was done at once");
}

/// Waits until no node holds the directory: each has ended, with everything that it wrote on disk.
fn wait_until_free(storage: &MemoryStorage) {
    until("a node to give its directory back", || {
        storage.lock().is_ok()
    });
}

fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "timed out waiting for {what}");
        thread::yield_now();
    }
}

/// Runs a test on a runtime as most programs have it; the deadline is kept by a thread, so that a test
/// needs no timer.
fn run(test: impl Future<Output = ()> + Send + 'static) {
    run_on(runtime::Builder::new_multi_thread().worker_threads(2), test);
}

fn run_on(builder: &mut runtime::Builder, test: impl Future<Output = ()> + Send + 'static) {
    let runtime = builder.build().expect("the system has room for a runtime");
    in_time(move || runtime.block_on(test));
}

/// Runs a test on a thread of its own; fails if it takes too long.
fn in_time(test: impl FnOnce() + Send + 'static) {
    let (done, is_done) = std::sync::mpsc::channel();
    let test = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    if is_done.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        panic!("the test did not end in time");
    }
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

mod runtimes {
    use super::*;

    #[test]
    fn it_works_on_a_multi_thread_runtime_and_from_any_of_its_tasks() {
        run(async {
            let cluster = Cluster::start().await;
            cluster.works().await;
            let tasks: Vec<_> = (0..8)
                .map(|_| {
                    let master = cluster.master.clone();
                    tokio::spawn(async move { master.append("from a task", all()).await })
                })
                .collect();
            for task in tasks {
                let receipt = task.await.expect("no panic").expect("a quorum");
                assert!(receipt.concern_met);
            }
        });
    }

    #[test]
    fn it_works_on_a_current_thread_runtime() {
        run_on(&mut runtime::Builder::new_current_thread(), async {
            Cluster::start().await.works().await;
        });
    }

    #[test]
    fn it_works_on_a_runtime_with_timers_and_sockets_too() {
        run_on(runtime::Builder::new_current_thread().enable_all(), async {
            Cluster::start().await.works().await
        });
    }

    #[test]
    fn it_works_in_the_tasks_of_a_local_set() {
        in_time(|| {
            let runtime = runtime::Builder::new_current_thread().build();
            let runtime = runtime.expect("the system has room for a runtime");
            LocalSet::new().block_on(&runtime, async {
                let cluster = tokio::task::spawn_local(Cluster::start());
                cluster.await.expect("no panic").works().await;
            });
        });
    }

    #[test]
    fn it_works_on_an_actix_system() {
        in_time(|| {
            actix::System::new().block_on(async {
                let cluster = Cluster::start().await;
                cluster.works().await;
                // Another arbiter is another thread with a runtime of its own.
                let (answer, answered) = oneshot::channel();
                let arbiter = actix::Arbiter::new();
                let master = cluster.master.clone();
                let spawned = arbiter.spawn(async move {
                    let _ = answer.send(master.append("from an arbiter", all()).await);
                });
                assert!(spawned, "the arbiter runs");
                assert!(answered.await.expect("it answers").is_ok());
                arbiter.stop();
            });
        });
    }

    #[test]
    fn it_works_as_state_of_an_actix_web_service() {
        async fn append(master: Data<Master>, payload: Bytes) -> HttpResponse {
            match master.append(payload, all()).await {
                Ok(receipt) => HttpResponse::Created().body(receipt.offset.to_string()),
                Err(error) => HttpResponse::ServiceUnavailable().body(error.to_string()),
            }
        }

        in_time(|| {
            actix::System::new().block_on(async {
                let cluster = Cluster::start().await;
                let app = App::new()
                    .app_data(Data::new(cluster.master.clone()))
                    .route("/", web::post().to(append));
                let app = actix_web::test::init_service(app).await;
                for offset in ["0", "1"] {
                    let request = actix_web::test::TestRequest::post().set_payload("order");
                    let response =
                        actix_web::test::call_and_read_body(&app, request.to_request()).await;
                    assert_eq!(response, offset);
                }
                let shown = payload_at(&cluster.secondary.reader(), Offset(1)).await;
                assert_eq!(shown, "order");
            });
        });
    }

    #[test]
    fn start_here_runs_nodes_on_the_callers_thread() {
        async fn nodes_here() {
            let network = LocalNetwork::new();
            let storage = Arc::new(MemoryStorage::new());
            let secondary = Secondary::start_here(secondary_config(), storage);
            let secondary = secondary.expect("a good directory");
            network.register(secondary.clone());
            let storage = Arc::new(MemoryStorage::new());
            let master = Master::start_here(master_config(), storage, &network);
            let master = master.expect("a good directory");
            master
                .wait_until_writable()
                .await
                .expect("a master that runs");
            let receipt = master.append("payload", all()).await.expect("a quorum");
            assert_eq!(receipt.acks.len(), 2);
            master.stop().await;
            secondary.stop().await;
        }

        in_time(|| actix::System::new().block_on(nodes_here()));
        in_time(|| {
            let runtime = runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.expect("the system has room for a runtime");
            LocalSet::new().block_on(&runtime, nodes_here());
        });
    }

    #[test]
    fn handles_and_their_futures_can_be_sent_to_any_thread() {
        fn anywhere<T: Send + Sync + Clone + 'static>() {}
        fn to_another_thread<T: Send>(_: T) {}
        anywhere::<Master>();
        anywhere::<Secondary>();
        anywhere::<Reader>();
        // Never called: that it compiles is the test.
        fn futures(master: &Master, secondary: &Secondary, reader: &Reader) {
            to_another_thread(master.append("", all()));
            to_another_thread(master.append_batch(MessageBatch::new(), all()));
            to_another_thread(master.holders(Offset(0)));
            to_another_thread(master.waiting_appends(1));
            to_another_thread(master.health());
            to_another_thread(master.wait_until_writable());
            to_another_thread(master.drain());
            to_another_thread(master.stop());
            to_another_thread(master.stopped());
            to_another_thread(secondary.health());
            to_another_thread(secondary.stop());
            to_another_thread(reader.get(Offset(0)));
            to_another_thread(reader.read(Offset(0), Offset(1), 1));
            to_another_thread(reader.wait_for(Offset(0), ReadLevel::Local));
        }
        let _ = futures;
    }
}

mod dropped_futures {
    use super::*;

    #[test]
    fn an_append_that_is_dropped_while_it_waits_is_carried_out() {
        run(async {
            let cluster = Cluster::start().await;
            let name = cluster.secondary.name();
            cluster.disks.network.cut(name);
            {
                let mut append = pin!(cluster.master.append("dropped", all()));
                begin(append.as_mut());
            }
            cluster.disks.network.heal(name);
            let next = cluster
                .master
                .append("kept", all())
                .await
                .expect("a quorum");
            assert_eq!(next.offset, Offset(1));
            let reader = cluster.secondary.reader();
            assert_eq!(payload_at(&reader, Offset(0)).await, "dropped");
        });
    }

    #[test]
    fn a_dropped_wait_leaves_the_queue_and_is_not_counted() {
        run(async {
            let cluster = Cluster::start().await;
            let (master, name) = (&cluster.master, cluster.secondary.name());
            let kept = master.append("kept", alone()).await.expect("a quorum");
            let before = master.metrics().await.expect("a master that runs");
            cluster.disks.network.cut(name);
            {
                let mut one = pin!(master.append("one", all()));
                let batch = ["two", "three"].into_iter().collect::<MessageBatch>();
                let mut more = pin!(master.append_batch(batch, all()));
                begin(one.as_mut());
                begin(more.as_mut());
                let mut wait = pin!(master.wait_for_concern(Offset(0), Concern::All, None));
                // It reads the log first.
                while master.health().await.expect("it runs").waiting_appends < 3 {
                    begin(wait.as_mut());
                }
            }
            let waiting = master.waiting_appends(10).await.expect("it runs");
            assert_eq!((waiting.total, waiting.appends.len()), (0, 0));
            cluster.disks.network.heal(name);
            let next = master.append("next", all()).await.expect("a quorum");
            assert_eq!(next.offset, kept.offset.plus(4));
            let reader = cluster.secondary.reader();
            for (offset, payload) in (1..).zip(["one", "two", "three"]) {
                assert_eq!(payload_at(&reader, Offset(offset)).await, payload);
            }
            let after = master.metrics().await.expect("a master that runs");
            assert_eq!(after.health.waiting_appends, 0);
            assert_eq!(after.oldest_waiting, None);
            let counted = |metrics: &MasterMetrics| {
                let timed = metrics
                    .appends
                    .latency
                    .iter()
                    .map(|latency| latency.count());
                (metrics.appends.acknowledged, timed.sum::<u64>())
            };
            let (acknowledged, timed) = counted(&before);
            assert_eq!(counted(&after), (acknowledged + 1, timed + 1));
        });
    }

    #[test]
    fn an_append_that_is_dropped_before_its_first_poll_never_happens() {
        run(async {
            let cluster = Cluster::start().await;
            drop(cluster.master.append("never", all()));
            let receipt = cluster.master.append("only", all()).await;
            assert_eq!(receipt.expect("a quorum").offset, Offset(0));
        });
    }

    #[test]
    fn dropped_waits_and_queries_leave_no_trace() {
        run(async {
            let cluster = Cluster::start().await;
            let (master, reader) = (&cluster.master, cluster.secondary.reader());
            for _ in 0..100 {
                let _ = poll_once(pin!(master.health()));
                let _ = poll_once(pin!(master.holders(Offset(0))));
                let _ = poll_once(pin!(master.waiting_appends(1)));
                let _ = poll_once(pin!(cluster.secondary.health()));
                begin(pin!(reader.wait_for(Offset(7), ReadLevel::Committed)));
                begin(pin!(master.stopped()));
            }
            cluster.works().await;
        });
    }

    #[test]
    fn a_dropped_stop_is_still_carried_out() {
        run(async {
            let cluster = Cluster::start().await;
            let _ = poll_once(pin!(cluster.master.stop()));
            assert!(cluster.master.stopped().await.reason.is_none());
            wait_until_free(&cluster.disks.master);
        });
    }

    #[test]
    fn a_dropped_start_leaves_no_node_behind() {
        run(async {
            let (storage, network) = (Arc::new(MemoryStorage::new()), LocalNetwork::new());
            for _ in 0..10 {
                let network = Arc::new(network.clone());
                let start = Master::start(master_config(), storage.clone(), network);
                // It may be done at once: then the handle is dropped.
                let _ = poll_once(pin!(start));
            }
            until("the nodes to be gone", || Arc::strong_count(&storage) == 1);
            wait_until_free(&storage);
        });
    }
}

mod dropped_handles {
    use super::*;

    #[test]
    fn a_master_runs_as_long_as_one_of_its_handles_exists() {
        run(async {
            let Cluster {
                master,
                secondary,
                disks,
            } = Cluster::start().await;
            let last = master.clone();
            drop(master);
            last.append("kept", all()).await.expect("a quorum");
            drop(last);
            wait_until_free(&disks.master);
            // The secondary plays no part in that, and the next master continues the log.
            assert_eq!(payload_at(&secondary.reader(), Offset(0)).await, "kept");
            let master = disks.start_master().await;
            master
                .wait_until_writable()
                .await
                .expect("a master that runs");
            let receipt = master.append("next", all()).await.expect("a quorum");
            assert_eq!(receipt.offset, Offset(1));
        });
    }

    #[test]
    fn a_reader_keeps_no_node_alive_and_can_still_read_its_log() {
        run(async {
            let Cluster { master, disks, .. } = Cluster::start().await;
            master.append("kept", all()).await.expect("a quorum");
            let reader = master.reader();
            drop(master);
            wait_until_free(&disks.master);
            let waited = reader.wait_for(Offset(1), ReadLevel::Local).await;
            assert!(waited.is_err(), "nothing will come any more");
            assert_eq!(payload_at(&reader, Offset(0)).await, "kept");
        });
    }

    #[test]
    fn a_network_keeps_its_registered_secondaries_alive() {
        run(async {
            let Cluster {
                master,
                secondary,
                disks,
            } = Cluster::start().await;
            drop(secondary);
            master
                .append("kept", all())
                .await
                .expect("it is still there");
            let Disks {
                network,
                master: master_disk,
                secondary: secondary_disk,
            } = disks;
            drop(network);
            // The master's transport is a part of the network.
            master
                .append("kept", all())
                .await
                .expect("it is still there");
            drop(master);
            wait_until_free(&master_disk);
            wait_until_free(&secondary_disk);
        });
    }

    #[test]
    fn every_waiting_caller_is_answered_when_a_node_ends() {
        run(async {
            let Cluster {
                master,
                secondary,
                disks,
            } = Cluster::start().await;
            disks.network.cut(secondary.name());
            let waits = tokio::spawn({
                let master = master.clone();
                async move { master.append("waits", all()).await }
            });
            let reader = master.reader();
            let reads = tokio::spawn({
                let reader = reader.clone();
                async move { reader.wait_for(Offset(9), ReadLevel::Local).await }
            });
            let waiting = reader.wait_for(Offset(0), ReadLevel::Local).await;
            waiting.expect("the master holds it");
            master.stop().await;
            let refused = waits.await.expect("no panic").expect_err("it stopped");
            assert_eq!(refused.outcome(), Outcome::Unknown);
            assert_eq!(refused.offset(), Some(Offset(0)));
            assert!(reads.await.expect("no panic").is_err());
            // And later ones at once.
            let refused = master
                .append("late", alone())
                .await
                .expect_err("it stopped");
            assert_eq!(refused.outcome(), Outcome::NotAppended);
            assert!(matches!(refused, AppendError::Stopping { offset: None }));
            assert!(master.health().await.is_err());
            assert!(master.wait_until_writable().await.is_err());
            master.stop().await;
        });
    }
}

mod ends_of_runtimes {
    use super::*;

    #[test]
    fn a_node_outlives_the_runtime_that_it_was_started_from() {
        in_time(|| {
            let start = |cluster| {
                let runtime = runtime::Builder::new_current_thread().build();
                let runtime = runtime.expect("the system has room for a runtime");
                runtime.block_on(cluster)
            };
            let cluster = start(Cluster::start());
            let runtime = runtime::Builder::new_multi_thread().build();
            let runtime = runtime.expect("the system has room for a runtime");
            runtime.block_on(cluster.works());
        });
    }

    #[test]
    fn a_runtime_that_ends_ends_the_nodes_whose_handles_its_tasks_held() {
        in_time(|| {
            let runtime = runtime::Builder::new_multi_thread().build();
            let runtime = runtime.expect("the system has room for a runtime");
            let disks = runtime.block_on(async {
                let cluster = Cluster::start().await;
                let disks = cluster.disks.clone();
                disks.network.cut(cluster.secondary.name());
                let reader = cluster.master.reader();
                tokio::spawn(async move { cluster.master.append("waits", all()).await });
                let waiting = reader.wait_for(Offset(0), ReadLevel::Local).await;
                waiting.expect("the master holds it");
                disks
            });
            drop(runtime);
            wait_until_free(&disks.master);
        });
    }

    #[test]
    fn a_node_started_here_ends_with_its_tasks_and_its_handles_report_that() {
        in_time(|| {
            let storage = MemoryStorage::new();
            let runtime = runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.expect("the system has room for a runtime");
            let tasks = LocalSet::new();
            let master = tasks.block_on(&runtime, async {
                let mut config = master_config();
                config.secondaries.clear();
                let storage = Arc::new(storage.clone());
                let master = Master::start_here(config, storage, &LocalNetwork::new());
                let master = master.expect("a good directory");
                master
                    .wait_until_writable()
                    .await
                    .expect("a master that runs");
                master.append("kept", alone()).await.expect("it is alone");
                master
            });
            drop(tasks);
            runtime.block_on(async {
                let refused = master.append("late", alone()).await;
                assert!(refused.is_err());
                assert!(master.health().await.is_err());
                assert!(master.wait_until_writable().await.is_err());
                let reader = master.reader();
                assert_eq!(payload_at(&reader, Offset(0)).await, "kept");
                assert!(reader.wait_for(Offset(1), ReadLevel::Local).await.is_err());
                assert!(master.stopped().await.reason.is_some());
            });
            wait_until_free(&storage);
        });
    }
}

mod several_clusters {
    use super::*;

    #[test]
    fn clusters_with_the_same_names_are_independent() {
        run(async {
            let mut clusters = Vec::new();
            for _ in 0..3 {
                clusters.push(Cluster::start().await);
            }
            for (number, cluster) in clusters.iter().enumerate() {
                for offset in 0..=number as u64 {
                    let payload = format!("{number}");
                    let receipt = cluster.master.append(payload, all()).await;
                    assert_eq!(receipt.expect("a quorum").offset, Offset(offset));
                }
            }
            let mut ids = Vec::new();
            for (number, cluster) in clusters.iter().enumerate() {
                let reader = cluster.secondary.reader();
                let end = Offset(number as u64 + 1);
                assert_eq!(reader.end(ReadLevel::Local), Some(end));
                let shown = payload_at(&reader, Offset(0)).await;
                assert_eq!(shown, number.to_string());
                let health = cluster.master.health().await.expect("a master that runs");
                ids.push(health.cluster_id.expect("it is founded"));
            }
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), 3);
        });
    }

    #[test]
    fn a_cluster_that_is_blocked_or_ends_disturbs_no_other() {
        run(async {
            let (blocked, other) = (Cluster::start().await, Cluster::start().await);
            blocked.disks.network.cut(blocked.secondary.name());
            let mut waits = pin!(blocked.master.append("waits", all()));
            begin(waits.as_mut());
            other.works().await;
            blocked.master.stop().await;
            assert!(waits.await.is_err());
            other.works().await;
        });
    }

    #[test]
    fn a_directory_belongs_to_one_node() {
        run(async {
            let cluster = Cluster::start().await;
            let storage = Arc::new(cluster.disks.master.clone());
            let network = Arc::new(cluster.disks.network.clone());
            let second = Master::start(master_config(), storage, network).await;
            assert!(matches!(second, Err(StartError::Open(OpenError::Locked))));
            cluster.works().await;
        });
    }

    #[test]
    fn a_cluster_accepts_no_node_of_another_one() {
        run(async {
            let (one, other) = (Cluster::start().await, Cluster::start().await);
            one.works().await;
            other.works().await;
            // As if one cluster had been given an address of the other.
            one.disks.network.register(other.secondary.clone());
            let mut waits = pin!(one.master.append("waits", all()));
            begin(waits.as_mut());
            other.works().await;
            one.disks.network.register(one.secondary.clone());
            assert!(waits.await.is_ok());
            let end = other.secondary.reader().end(ReadLevel::Local);
            assert_eq!(end, Some(Offset(2)), "what the other had appended itself");
        });
    }
}

mod payloads {
    use super::*;

    /// No bytes, every byte value, non-text, and text that looks like a record or a line.
    fn payloads() -> Vec<Vec<u8>> {
        let every_byte = (0..=255).cycle().take(1000).collect();
        vec![
            Vec::new(),
            vec![0],
            every_byte,
            vec![0xff; 64 << 10],
            b"\xc3\x28 no UTF-8 \xff\xfe".to_vec(),
            b"two\r\nlines\n".to_vec(),
            vec![0; 1 << 20],
        ]
    }

    async fn shown(reader: &Reader) -> Vec<Message> {
        let end = reader.end(ReadLevel::Local).expect("known at this level");
        let (mut shown, mut next) = (Vec::new(), Offset(0));
        while next < end {
            let read = reader.read(next, end, 1 << 16).await;
            for batch in read.expect("a log that can be read") {
                next = batch.end();
                shown.extend(batch.messages());
            }
        }
        shown
    }

    #[test]
    fn payloads_of_any_bytes_are_read_back_unchanged_from_batches_and_after_a_restart_too() {
        run(async {
            let Cluster {
                master,
                secondary,
                disks,
            } = Cluster::start().await;
            for payload in payloads() {
                master.append(payload, all()).await.expect("a quorum");
            }
            let batch: MessageBatch = payloads().iter().collect();
            master.append_batch(batch, all()).await.expect("a quorum");
            let expected = [payloads(), payloads()].concat();
            for reader in [master.reader(), secondary.reader()] {
                let all = shown(&reader).await;
                assert!(all.iter().map(|message| &message.payload).eq(&expected));
                for message in all {
                    assert_eq!(payload_at(&reader, message.offset).await, message.payload);
                }
            }
            master.stop().await;
            let master = disks.start_master().await;
            let all = shown(&master.reader()).await;
            assert!(all.iter().map(|message| &message.payload).eq(&expected));
        });
    }
}

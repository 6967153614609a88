//! The surroundings in which a node runs and starts: its thread, its directory, its meta.

use std::{sync::Arc, thread};

use tokio::{sync::oneshot, task::LocalSet};
use tracing::{error, info, warn};

use crate::{
    config::LogConfig,
    error::{OpenError, StartError, Stopped},
    handle::host::{self, Host},
    log::{
        self, Damage, LogCondition, LogFiles, LogOptions, LogView, LogWriter, Meta, OpenScan,
        PROBE_PATH, WriteReport, WriterLoop,
    },
    storage::{Storage, StorageLock},
    types::{InstanceId, NodeName, Offset, SyncPolicy},
    watch,
};

/// The reason why a node ended, once it has.
pub(crate) type Ended = watch::Receiver<Option<Stopped>>;

/// Starts a thread with its own runtime, builds a node on it, and keeps the thread until the node
/// has ended. In a simulation there is no thread: the node runs on the calling one.
pub(crate) async fn start_node<T: Send + 'static>(
    name: &NodeName,
    build: impl FnOnce(Arc<dyn Host>) -> Result<(T, Ended), StartError> + Send + 'static,
) -> Result<T, StartError> {
    let host = host::current();
    if host.is_simulated() {
        return build(host).map(|(node, _)| node);
    }
    let (built, result) = oneshot::channel();
    let run = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = built.send(Err(StartError::Thread(error)));
                return;
            }
        };
        LocalSet::new().block_on(&runtime, async move {
            match build(host) {
                Ok((node, mut ended)) => {
                    let _ = built.send(Ok(node));
                    // An error means that the actor panicked without reporting its end.
                    let _ = ended.wait_for(Option::is_some).await;
                }
                Err(error) => {
                    let _ = built.send(Err(error));
                }
            }
        });
    };
    thread::Builder::new()
        .name(format!("replog-{name}"))
        .spawn(run)
        .map_err(StartError::Thread)?;
    result.await.unwrap_or_else(|_| {
        Err(StartError::Thread(std::io::Error::other(
            "the node's thread ended at once",
        )))
    })
}

/// Builds a node on the calling thread: its actors are tasks of the caller's `LocalSet`.
pub(crate) fn start_node_here<T>(
    build: impl FnOnce(Arc<dyn Host>) -> Result<T, StartError>,
) -> Result<T, StartError> {
    build(host::current())
}

/// Waits until a node has ended.
pub(crate) async fn wait_for_end(mut ended: Ended) -> Stopped {
    match ended.wait_for(Option::is_some).await {
        Ok(stopped) => stopped.clone().unwrap_or(Stopped { reason: None }),
        Err(_) => crashed(),
    }
}

/// Returns the reason why a node that does not answer has ended.
pub(crate) fn why_ended(ended: &Ended) -> Stopped {
    ended.borrow().clone().unwrap_or_else(crashed)
}

fn crashed() -> Stopped {
    Stopped {
        reason: Some("its actor ended without giving a reason; see the log of the process".into()),
    }
}

/// A directory that was opened and locked.
pub(crate) struct Opened {
    pub(crate) files: LogFiles,
    pub(crate) view: Arc<LogView>,
    /// The offset up to which the log can be read.
    pub(crate) whole_end: Offset,
    pub(crate) meta: Meta,
    pub(crate) lock: Box<dyn StorageLock>,
    pub(crate) durable: bool,
}

/// Locks the directory, checks which node it belongs to, raises and syncs the start number, and opens the log.
///
/// `nodes` is the list in the settings; a secondary learns it from its master.
pub(crate) fn open(
    host: &dyn Host,
    storage: &Arc<dyn Storage>,
    name: &NodeName,
    nodes: Option<&[NodeName]>,
    sync: SyncPolicy,
    config: &LogConfig,
) -> Result<Opened, StartError> {
    let lock = storage.lock().map_err(|source| match source.kind() {
        std::io::ErrorKind::WouldBlock => OpenError::Locked,
        _ => OpenError::Io {
            path: "lock".to_owned(),
            source,
        },
    })?;
    let mut meta = match known_meta(&**storage, name, nodes)? {
        Some(meta) => meta,
        None => blank(host, name),
    };
    meta.start += 1;
    // Left behind by a process that ended while it probed for disk space.
    match storage.remove(PROBE_PATH) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            warn!(node = %name, %error, "{PROBE_PATH} cannot be removed");
        }
        Ok(()) | Err(_) => {}
    }
    let preallocate_bytes = match storage.survives_the_process() {
        true => config.preallocate_bytes,
        false => 0,
    };
    let options = LogOptions {
        segment_bytes: config.segment_bytes,
        tail_bytes: config.tail_bytes,
        preallocate_bytes,
        sync,
    };
    let cluster = meta.cluster.as_ref().map(|cluster| cluster.id);
    // A log that is not known to be intact is read from beginning to end: damage that was found before
    // and not repaired may be anywhere.
    let look = match meta.log_epoch {
        Some(_) => OpenScan::LastSegment,
        None => OpenScan::AllSegments,
    };
    let (files, view, report) = log::open(storage.clone(), options, cluster, look, |condition| {
        record_condition(&mut meta, condition, &**storage)
    })?;
    save_meta(&meta, &**storage)?;
    if report.torn_bytes > 0 {
        warn!(node = %name, bytes = report.torn_bytes, end = %report.end, "cut a torn tail");
    }
    info!(node = %name, end = %report.end, start = meta.start, clean = report.clean, "log opened");
    let durable = storage.survives_the_process();
    Ok(Opened {
        files,
        view,
        whole_end: report.end,
        meta,
        lock,
        durable,
    })
}

/// Reads the meta of a directory's node and checks that it is this node's; `None` if no node has run in it. Changes
/// nothing.
pub(crate) fn known_meta(
    storage: &dyn Storage,
    name: &NodeName,
    nodes: Option<&[NodeName]>,
) -> Result<Option<Meta>, StartError> {
    let Some(meta) = Meta::load(storage).map_err(with_advice)? else {
        if log::was_used(storage)? {
            let what = "is missing, and the directory has a log".to_owned();
            let path = "meta.json".to_owned();
            return Err(with_advice(OpenError::Format { path, what }).into());
        }
        return Ok(None);
    };
    crate::log::repair_epoch::check_epochs(&meta).map_err(|what| OpenError::Format {
        path: "meta.json".to_owned(),
        what,
    })?;
    if meta.name != *name {
        return Err(StartError::OtherNode {
            found: meta.name,
            expected: name.clone(),
        });
    }
    if let (Some(cluster), Some(nodes)) = (&meta.cluster, nodes)
        && cluster.nodes != nodes
    {
        return Err(StartError::OtherNodes {
            found: cluster.nodes.clone(),
            expected: nodes.to_vec(),
        });
    }
    Ok(Some(meta))
}

/// Records the condition of the log in the meta, and saves the meta if that changes it: opening the log removes
/// the signs of damage and lowers the mark to what can be read.
fn record_condition(
    meta: &mut Meta,
    condition: &LogCondition,
    storage: &dyn Storage,
) -> Result<(), OpenError> {
    let LogCondition { damage, known_end } = condition;
    let before = (meta.log_epoch, meta.last_whole);
    if let Some(damage) = damage {
        let Damage {
            path,
            position,
            offset,
            what,
        } = damage;
        error!(
            node = %meta.name, path, position, %offset, what,
            "the log is damaged: this node does not count until it is repaired from another"
        );
    }
    match (meta.log_epoch, damage) {
        (Some(_), None) => {}
        (Some(_), Some(_)) => meta.lose_log_epoch(*known_end),
        (None, _) => meta.extend_last_whole(*known_end),
    }
    match (meta.log_epoch, meta.last_whole) == before {
        true => Ok(()),
        false => save_meta(meta, storage),
    }
}

/// Adds advice for the case that there is no readable meta file.
fn with_advice(error: OpenError) -> OpenError {
    match error {
        OpenError::Format { path, what } => {
            let what = format!(
                "{what}. Only this file says what the node has promised and how far its log counts, so \
                 the node cannot start from this directory. Move the directory away and start with an \
                 empty one: the node is refilled from the others. If it was the only node, or the \
                 others are lost too, restore a backup"
            );
            OpenError::Format { path, what }
        }
        error => error,
    }
}

fn save_meta(meta: &Meta, storage: &dyn Storage) -> Result<(), OpenError> {
    meta.save(storage).map_err(|error| OpenError::Io {
        path: "meta.json".to_owned(),
        source: error.into(),
    })
}

fn blank(host: &dyn Host, name: &NodeName) -> Meta {
    Meta {
        name: name.clone(),
        instance: InstanceId::draw(&mut host.rng()),
        start: 0,
        cluster: None,
        promised: None,
        log_epoch: None,
        last_whole: None,
        forced_epoch: None,
    }
}

/// Starts the writer, which holds the lock on the directory until it ends.
pub(crate) fn start_writer(
    host: &dyn Host,
    storage: Arc<dyn Storage>,
    files: LogFiles,
    lock: Box<dyn StorageLock>,
    report: impl Fn(WriteReport) + Send + 'static,
) -> Result<LogWriter, StartError> {
    let report = move |done: WriteReport| {
        let _held = &lock;
        report(done);
    };
    host.start_writer(WriterLoop::new(files, storage), Box::new(report))
        .map_err(StartError::Thread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::testing::{CLUSTER, Fault, FaultyStorage, Records, content, options, set_content},
        log::{ClusterIdentity, Promised},
        storage::OpenHow,
        types::{Epoch, LastWhole},
    };

    const MASTER: u8 = 1;
    const SECONDARY: u8 = 2;

    /// A node that has promised its epoch to directory `promised_to`, with a damaged log of 10 records in
    /// small segments, of which the first `whole_end` were intact once.
    fn damaged_node(promised_to: u8, whole_end: u64) -> FaultyStorage {
        let storage = FaultyStorage::new();
        let nodes = ["m", "s"].map(|name| NodeName::new(name).unwrap());
        let instance = |byte| InstanceId::from_bytes([byte; 16]);
        let (name, cluster) = (nodes[0].clone(), CLUSTER);
        let meta = Meta {
            name: name.clone(),
            instance: instance(MASTER),
            start: 3,
            cluster: Some(ClusterIdentity {
                id: cluster,
                nodes: nodes.to_vec(),
            }),
            promised: Some(Promised {
                epoch: Epoch(5),
                name,
                instance: instance(promised_to),
                start: 3,
                replaced: Vec::new(),
            }),
            log_epoch: None,
            last_whole: last_whole(whole_end),
            forced_epoch: None,
        };
        meta.save(&storage).unwrap();
        let open = |storage: &FaultyStorage| crate::log::testing::open_log(storage).unwrap();
        let (mut files, _, _) = open(&storage);
        let records = Records::new(0, (0..10).map(|_| (5, 150)));
        files.append(&[records.batch()]).unwrap();
        files.close().unwrap();
        storage
    }

    fn last_whole(end: u64) -> Option<LastWhole> {
        Some(LastWhole {
            log_epoch: Epoch(5),
            end: Offset(end),
        })
    }

    /// Changes a byte of a record of the last segment.
    fn damage_the_end(storage: &FaultyStorage) {
        let last = storage.list("log").unwrap().pop().unwrap();
        let path = format!("log/{last}");
        let mut bytes = content(storage, &path);
        let at = bytes.len() - 10;
        bytes[at] ^= 1;
        set_content(storage, &path, &bytes);
        let file = storage.open(&path, OpenHow::Existing).unwrap();
        file.sync().unwrap();
    }

    /// Starts the node; returns its end and the last intact end in its meta.
    fn started(storage: &FaultyStorage) -> (Option<Offset>, Option<LastWhole>) {
        let end = start(storage);
        let meta = Meta::load(storage).unwrap().unwrap();
        assert_eq!(meta.log_epoch, None);
        (end, meta.last_whole)
    }

    /// Starts the node and returns its end; `None` if the start fails.
    fn start(storage: &FaultyStorage) -> Option<Offset> {
        let shared: Arc<dyn Storage> = Arc::new(storage.clone());
        let log = LogConfig {
            segment_bytes: options().segment_bytes,
            ..LogConfig::default()
        };
        let (host, name) = (host::current(), NodeName::new("m").unwrap());
        let opened = open(&*host, &shared, &name, None, SyncPolicy::Always, &log);
        opened.ok().map(|opened| opened.files.end())
    }

    /// Records that the master acknowledged after the first damage count, whether or not they are still readable.
    #[test]
    fn a_master_that_is_damaged_twice_still_knows_its_end() {
        let storage = damaged_node(MASTER, 7);
        damage_the_end(&storage);
        assert_eq!(started(&storage), (Some(Offset(9)), last_whole(10)));
        // The log is shorter now, and so is its mark.
        assert_eq!(started(&storage), (Some(Offset(9)), last_whole(10)));
    }

    #[test]
    fn a_damaged_master_still_knows_its_end_after_an_interrupted_start() {
        let mut starts = 0;
        loop {
            let storage = damaged_node(MASTER, 7);
            damage_the_end(&storage);
            storage.fail_at(starts, Fault::Stop);
            if start(&storage).is_some() {
                break;
            }
            let after = storage.after_power_cut(starts as u64);
            assert_eq!(started(&after).1, last_whole(10), "cut off at {starts}");
            starts += 1;
        }
        assert!(starts > 5, "{starts}");
    }

    #[test]
    fn a_damaged_master_without_its_mark_does_not_know_its_end() {
        let mut starts = 0;
        loop {
            let storage = damaged_node(MASTER, 7);
            storage.remove("mark").unwrap();
            storage.sync_dir("").unwrap();
            storage.fail_at(starts, Fault::Stop);
            if start(&storage).is_some() {
                break;
            }
            let after = storage.after_power_cut(starts as u64);
            assert_eq!(started(&after).1, None, "cut off at {starts}");
            starts += 1;
        }
    }

    /// The secondary acknowledges nothing until it is intact again: neither what is written to its log
    /// meanwhile nor what becomes of that says anything about what it had acknowledged.
    #[test]
    fn further_damage_does_not_change_what_a_damaged_secondary_had_acknowledged() {
        let storage = damaged_node(SECONDARY, 7);
        assert_eq!(started(&storage), (Some(Offset(10)), last_whole(7)));
        damage_the_end(&storage);
        assert_eq!(started(&storage), (Some(Offset(9)), last_whole(7)));
        storage.remove("mark").unwrap();
        assert_eq!(started(&storage), (Some(Offset(9)), last_whole(7)));
    }
}

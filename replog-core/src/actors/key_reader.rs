//! Reading of a log's idempotency keys before its master serves.
//!
//! Carries out the requests of [`KeyReading`]: uses the snapshot of the last clean stop if it
//! agrees with the log, and reads the rest of the log off the actor's thread, some records at a
//! time. Decides nothing about a key.

use std::sync::Arc;

use tracing::{info, warn};

use super::blocking::blocking;
use crate::{
    handle::host::Host,
    limits::KEY_READ_BYTES_MAX,
    log::{LogView, keys_file},
    rules::keys::{KeyReading, Keys, Snapshot},
    storage::Storage,
    types::{ClusterId, Offset},
};

/// The log to read, and the number of records to go back.
#[derive(Clone, Debug)]
pub(super) struct KeySource {
    pub(super) host: Arc<dyn Host>,
    pub(super) view: Arc<LogView>,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) cluster: ClusterId,
    /// The end of the log, which is not appended to meanwhile.
    pub(super) end: Offset,
    pub(super) horizon: u64,
}

/// Builds the table of a log's keys.
///
/// # Errors
///
/// Returns an error if the work itself was lost, with its thread. A record or a snapshot that
/// cannot be read is not an error: the table reports the former, and the latter is rebuilt.
pub(super) async fn read_keys(source: KeySource) -> Result<Keys, String> {
    let from = source.clone();
    let mut reading = blocking(source.host.clone(), move || Ok(from.begin())).await?;
    let records = reading
        .wanted()
        .map_or(0, |(from, until)| until.records_since(from));
    // Logged on the node's own thread: loggers identify the node by its thread.
    info!(end = %source.end, records, "reading the keys of the log's last records");
    while let Some((from, until)) = reading.wanted() {
        let view = source.view.clone();
        reading = blocking(source.host.clone(), move || {
            match view.read(from, until, KEY_READ_BYTES_MAX) {
                Ok(records) => reading.on_read(&records),
                Err(error) => {
                    let records = reading.on_failed();
                    warn!(
                        %from, records, %error,
                        "records cannot be read: keys that are not known are refused until \
                         key-horizon other messages have followed"
                    );
                }
            }
            Ok(reading)
        })
        .await?;
    }
    Ok(reading.finish())
}

impl KeySource {
    fn begin(&self) -> KeyReading {
        let snapshot = self.snapshot().unwrap_or_else(|why| {
            info!(%why, "the snapshot of keys is ignored");
            None
        });
        KeyReading::new(self.horizon, self.end, snapshot)
    }

    /// Returns the snapshot, if there is one; an error says why it cannot be used.
    fn snapshot(&self) -> Result<Option<Snapshot>, String> {
        let bytes = keys_file::load(&*self.storage).map_err(|error| error.to_string())?;
        let Some(bytes) = bytes else { return Ok(None) };
        let snapshot = Snapshot::decode(&bytes)?;
        let epoch_at = |offset| self.view.epoch_at(offset);
        snapshot.agrees_with(self.cluster, self.horizon, self.end, epoch_at)?;
        Ok(Some(snapshot))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, IoSlice};

    use bytes::BytesMut;

    use super::*;
    use crate::{
        frame::{FrameBatch, FrameFields},
        handle::host,
        log::{
            LogFiles,
            testing::{CLUSTER, open_log},
        },
        rules::keys::{Claim, Found},
        storage::{MemoryStorage, OpenHow},
        types::{Epoch, IdempotencyKey},
    };

    fn key(offset: u64) -> String {
        format!("key {offset}")
    }

    /// Appends records that each have a key; with small segments, a few of them.
    fn append(files: &mut LogFiles, range: std::ops::Range<u64>, epoch: u64) {
        for offset in range {
            let (mut bytes, key) = (BytesMut::new(), key(offset));
            let fields = FrameFields {
                first: Offset(offset),
                epoch: Epoch(epoch),
                timestamp_ms: 0,
                key: key.as_bytes(),
            };
            fields.encode(&[b"payload"], &mut bytes);
            let batch = FrameBatch::check(Offset(offset), bytes.freeze()).unwrap();
            files.append(&[batch]).unwrap();
            files.sync().unwrap();
        }
    }

    fn source(storage: &MemoryStorage, view: Arc<LogView>, horizon: u64) -> KeySource {
        KeySource {
            host: host::current(),
            end: view.durable_end(),
            view,
            storage: Arc::new(storage.clone()),
            cluster: CLUSTER,
            horizon,
        }
    }

    fn find(keys: &Keys, offset: u64) -> Found {
        let key = IdempotencyKey::new(&key(offset)).unwrap();
        keys.find(&Claim::new(key, b"payload"))
    }

    fn same(offset: u64, epoch: u64) -> Found {
        let (offset, epoch) = (Offset(offset), Epoch(epoch));
        Found::Same { offset, epoch }
    }

    fn wanted(source: &KeySource) -> Option<(u64, u64)> {
        let wanted = source.begin().wanted();
        wanted.map(|(from, until)| (from.0, until.0))
    }

    #[tokio::test]
    async fn the_keys_of_the_last_records_are_those_of_the_log() {
        let storage = MemoryStorage::new();
        let (mut files, view, _) = open_log(&storage).unwrap();
        append(&mut files, 0..40, 1);
        assert!(view.segments() > 2, "most of it is read from files");
        let keys = read_keys(source(&storage, view, 30)).await.unwrap();
        keys.check();
        assert_eq!(find(&keys, 9), Found::New);
        for offset in 10..40 {
            assert_eq!(find(&keys, offset), same(offset, 1));
        }
    }

    #[tokio::test]
    async fn with_a_snapshot_only_later_records_are_read() {
        let storage = MemoryStorage::new();
        let (mut files, view, _) = open_log(&storage).unwrap();
        append(&mut files, 0..20, 1);
        let source = |horizon| source(&storage, view.clone(), horizon);
        assert_eq!(wanted(&source(30)), Some((0, 20)));
        let keys = read_keys(source(30)).await.unwrap();
        keys_file::save(&storage, &keys.encode(CLUSTER).unwrap()).unwrap();
        assert_eq!(wanted(&source(30)), None);
        assert_eq!(
            wanted(&source(31)),
            Some((0, 20)),
            "it does not look back as far"
        );
        append(&mut files, 20..25, 2);
        assert_eq!(wanted(&source(30)), Some((20, 25)));
        assert_eq!(
            wanted(&source(3)),
            Some((22, 25)),
            "nothing of it is wanted any more"
        );
        let keys = read_keys(source(24)).await.unwrap();
        keys.check();
        let found = [0, 1, 19, 24].map(|offset| find(&keys, offset));
        assert_eq!(found, [Found::New, same(1, 1), same(19, 1), same(24, 2)]);
        files.truncate(Offset(19)).unwrap();
        append(&mut files, 19..22, 3);
        assert_eq!(
            wanted(&source(30)),
            Some((0, 22)),
            "the log was cut and grew again"
        );
        let keys = read_keys(source(30)).await.unwrap();
        assert_eq!(find(&keys, 19), same(19, 3));
    }

    #[tokio::test]
    async fn an_unreadable_snapshot_costs_only_time() {
        let storage = MemoryStorage::new();
        let (mut files, view, _) = open_log(&storage).unwrap();
        append(&mut files, 0..5, 1);
        for bytes in [&b""[..], b"RLKY and then something else"] {
            keys_file::save(&storage, bytes).unwrap();
            let keys = read_keys(source(&storage, view.clone(), 9)).await.unwrap();
            assert_eq!(find(&keys, 0), same(0, 1));
        }
    }

    /// Rules 3 and 10: a key whose record may be damaged is reported as uncertain.
    #[tokio::test]
    async fn damage_makes_unknown_keys_uncertain_and_hides_no_other() -> io::Result<()> {
        let storage = MemoryStorage::new();
        let (mut files, view, _) = open_log(&storage).unwrap();
        append(&mut files, 0..40, 1);
        let name = &storage.list("log")?[1];
        let first: u64 = name.strip_suffix(".log").unwrap().parse().unwrap();
        let file = storage.open(&format!("log/{name}"), OpenHow::Existing)?;
        let size = file.size()?;
        file.truncate(size - 1)?;
        file.append(&[IoSlice::new(b"?")])?;
        let keys = read_keys(source(&storage, view, 40)).await.unwrap();
        keys.check();
        let found: Vec<Found> = (0..40).map(|offset| find(&keys, offset)).collect();
        let uncertain = found
            .iter()
            .filter(|found| matches!(found, Found::Unreadable { .. }));
        assert_eq!(uncertain.count(), 1, "{found:?}");
        assert_eq!(found[first as usize], same(first, 1));
        assert!(matches!(find(&keys, 99), Found::Unreadable { .. }));
        Ok(())
    }
}

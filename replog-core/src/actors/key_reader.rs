//! Finds out which idempotency keys a log has, before its master serves.
//!
//! Carries out what [`KeyReading`] wants: takes the snapshot of the last clean stop if it agrees
//! with the log, and reads the rest of the log off the actor's thread, some records at a time.
//! Decides nothing about a key.

use std::sync::Arc;

use tracing::{info, warn};

use super::blocking::blocking;
use crate::{
    limits::KEY_READ_BYTES_MAX,
    log::{LogView, keys_file},
    rules::keys::{KeyReading, Keys, Snapshot},
    storage::Storage,
    types::{ClusterId, Offset},
};

/// Which log to read, and how far back.
#[derive(Clone, Debug)]
pub(super) struct KeySource {
    pub(super) view: Arc<LogView>,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) cluster: ClusterId,
    /// The end of the log. Nothing is appended to it meanwhile.
    pub(super) end: Offset,
    pub(super) horizon: u64,
}

/// Makes the table of a log's keys.
///
/// # Errors
///
/// When the work itself was lost, with its thread. A record or a snapshot that cannot be read is
/// none: of the former the table says so, the latter is made again.
pub(super) async fn read_keys(source: KeySource) -> Result<Keys, String> {
    let from = source.clone();
    let mut reading = blocking(move || Ok(from.begin())).await?;
    while let Some((from, until)) = reading.wanted() {
        let view = source.view.clone();
        reading = blocking(move || {
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
            info!(%why, "the snapshot of keys is put aside");
            None
        });
        let reading = KeyReading::new(self.horizon, self.end, snapshot);
        let records = reading
            .wanted()
            .map_or(0, |(from, until)| until.records_since(from));
        info!(end = %self.end, records, "reading the keys of the log's last records");
        reading
    }

    /// The snapshot, if there is one; an error says why it is of no use.
    fn snapshot(&self) -> Result<Option<Snapshot>, String> {
        let bytes = keys_file::load(&*self.storage).map_err(|error| error.to_string())?;
        let Some(bytes) = bytes else { return Ok(None) };
        let snapshot = Snapshot::decode(&bytes)?;
        let epoch_at = |offset| self.view.epoch_at(offset);
        snapshot.agrees_with(self.cluster, self.horizon, self.end, epoch_at)?;
        Ok(Some(snapshot))
    }
}

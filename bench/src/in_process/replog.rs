//! Three nodes of replog-core, connected by function calls.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use replog_core::{
    AppendOptions, Concern, Master, MasterConfig, Secondary, SecondaryConfig,
    storage::{FileStorage, MemoryStorage, Storage},
    transport::LocalNetwork,
};

use super::Append;

const SECONDARIES: [&str; 2] = ["secondary-1", "secondary-2"];

pub(super) struct Cluster {
    master: Master,
    secondaries: Vec<Secondary>,
    payload: Bytes,
}

#[derive(Clone)]
pub(super) struct Appender {
    master: Master,
    payload: Bytes,
}

impl Cluster {
    pub(super) async fn in_memory(payload_bytes: usize) -> Result<Cluster, String> {
        Cluster::start(payload_bytes, |_name| Ok(Arc::new(MemoryStorage::new()))).await
    }

    pub(super) async fn on_files(
        payload_bytes: usize,
        below: impl Fn(&str) -> PathBuf,
    ) -> Result<Cluster, String> {
        Cluster::start(payload_bytes, |name| {
            let storage = FileStorage::open(below(name));
            Ok(Arc::new(storage.map_err(|error| error.to_string())?))
        })
        .await
    }

    async fn start(
        payload_bytes: usize,
        storage: impl Fn(&str) -> Result<Arc<dyn Storage>, String>,
    ) -> Result<Cluster, String> {
        let network = LocalNetwork::new();
        let (mut secondaries, mut peers) = (Vec::new(), Vec::new());
        for name in SECONDARIES {
            let config = SecondaryConfig::new(name.parse().map_err(text)?);
            let secondary = Secondary::start(config, storage(name)?).await;
            let secondary = secondary.map_err(text)?;
            network.register(secondary.clone());
            secondaries.push(secondary);
            peers.push(format!("{name}={name}").parse().map_err(text)?);
        }
        let config = MasterConfig::new("master".parse().map_err(text)?, peers);
        let master = Master::start(config, storage("master")?, Arc::new(network)).await;
        let master = master.map_err(text)?;
        master.wait_until_writable().await.map_err(text)?;
        Ok(Cluster {
            master,
            secondaries,
            payload: crate::wire::payload(payload_bytes).into(),
        })
    }

    pub(super) fn appender(&self) -> Appender {
        Appender {
            master: self.master.clone(),
            payload: self.payload.clone(),
        }
    }

    pub(super) async fn stop(self) {
        self.master.stop().await;
        for secondary in self.secondaries {
            secondary.stop().await;
        }
    }
}

impl Append for Appender {
    async fn append(&mut self, _number: u64) -> Result<(), String> {
        let options = AppendOptions::concern(Concern::Majority);
        let appended = self.master.append(self.payload.clone(), options).await;
        appended.map(drop).map_err(text)
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

//! A master and two secondaries in this process: everything that embedding takes.

use std::sync::Arc;

use replog_core::{
    Master, MasterConfig, Peer, Secondary, SecondaryConfig, storage::MemoryStorage,
    transport::LocalNetwork,
};

use crate::{Failure, MASTER, ONE, TWO};

/// Starts a master that accepts appends, and its secondaries.
///
/// # Errors
///
/// If a node cannot start, or the master stops before it accepts appends.
pub async fn start() -> Result<(Master, Vec<Secondary>), Failure> {
    let network = LocalNetwork::new();
    let (mut secondaries, mut peers) = (Vec::new(), Vec::new());
    for name in [ONE, TWO] {
        let config = SecondaryConfig::new(name.parse()?);
        // `FileStorage` instead of this one keeps the log on disk.
        let storage = Arc::new(MemoryStorage::new());
        let secondary = Secondary::start(config, storage).await?;
        peers.push(Peer::named(secondary.name().clone()));
        network.register(secondary.clone());
        secondaries.push(secondary);
    }
    let config = MasterConfig::new(MASTER.parse()?, peers);
    let storage = Arc::new(MemoryStorage::new());
    let master = Master::start(config, storage, Arc::new(network)).await?;
    master.wait_until_writable().await?;
    Ok((master, secondaries))
}

/// A test of a service that embeds a log needs no server: nodes in memory start and end in milliseconds.
#[cfg(test)]
mod tests {
    use replog_core::{AppendOptions, Concern, Offset};

    use super::*;

    #[tokio::test]
    async fn an_append_for_all_nodes_is_on_each_of_them() {
        let (master, secondaries) = start().await.expect("nodes in memory start");
        let options = AppendOptions::concern(Concern::All);
        let receipt = master
            .append("one pear", options)
            .await
            .expect("it is held");
        assert_eq!(receipt.offset, Offset(0));
        for secondary in &secondaries {
            let message = secondary.reader().get(Offset(0)).await;
            let message = message.expect("it can be read").expect("it is there");
            assert_eq!(message.payload, "one pear");
        }
    }
}

//! Repair of a cluster whose epochs were raised so far that no master can follow.
//!
//! Owns rewriting the promises in all directories of a stopped cluster, and nothing of their logs. Works only on
//! all directories at once, each locked: with no process left, no promise protects anyone any more, and new
//! promises can be written, to the master whose directory is among them. Keeps rules 5 and 9.

use std::{collections::BTreeSet, sync::Arc};

use super::{ClusterIdentity, Meta, Promised};
use crate::{
    error::OpenError,
    limits::EPOCH_BELIEVABLE_MAX,
    storage::Storage,
    types::{Epoch, NodeName},
};

/// Outcome for one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairedNode {
    /// Name of the node.
    pub name: NodeName,
    /// Epoch that the node had promised before.
    pub promised_before: Option<Epoch>,
    /// Epoch that the node has promised now, to the cluster's master.
    pub promised: Epoch,
    /// `true` if its log counts for nothing from now on: it is filled from the log that the master recovers.
    pub is_refilled: bool,
    /// `true` if its log counts. If the master's does not, the recovery of its next start may have to be forced.
    pub is_intact: bool,
}

/// Reason why epochs are not repaired. Nothing was changed, except in the case of [`RepairEpochError::Save`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairEpochError {
    /// A directory cannot be read, or is in use by a running node.
    #[error("directory {nth}: {source}")]
    Open {
        /// Index of the directory among those given, from 0.
        nth: usize,
        /// The cause.
        source: OpenError,
    },
    /// The directories are not those of one complete cluster with exactly one master.
    #[error("{0}")]
    Refused(String),
    /// A meta file could not be written. Those before it were; trying again is harmless.
    #[error("the meta of {name} cannot be saved: {detail}")]
    Save {
        /// Name of the node.
        name: NodeName,
        /// The storage's error.
        detail: String,
    },
}

/// Rewrites the promises of a cluster where some are for epochs that its master cannot follow: above 2^62, or more
/// than 2^33 above the epoch of the master's log.
///
/// `directories` are those of all nodes of the cluster, none of which may run. Afterwards each of them promises the
/// epoch after the highest believable one, to the master whose directory is among them. A secondary that had
/// promised an epoch that is not believable may have obeyed a stranger: its log no longer counts, and is filled
/// from the master's at the next start. No log is changed. A master's log that is not intact stays so: its next
/// start recovers like any other, and may have to be forced.
///
/// Returns the outcome for each directory, in their order; empty if there was nothing to repair, in which case
/// nothing was changed.
///
/// # Errors
///
/// [`RepairEpochError`] when a directory is missing, given twice, another cluster's or in use, or when none is the
/// master's.
pub fn repair_epoch(
    directories: &[Arc<dyn Storage>],
) -> Result<Vec<RepairedNode>, RepairEpochError> {
    let refuse = |why: String| Err(RepairEpochError::Refused(why));
    let (mut locks, mut metas) = (Vec::new(), Vec::new());
    for (nth, storage) in directories.iter().enumerate() {
        let open = |source| RepairEpochError::Open { nth, source };
        let lock = storage.lock().map_err(|source| match source.kind() {
            std::io::ErrorKind::WouldBlock => open(OpenError::Locked),
            _ => open(OpenError::Io {
                path: "lock".to_owned(),
                source,
            }),
        })?;
        locks.push(lock);
        match Meta::load(&**storage).map_err(open)? {
            Some(meta) => metas.push(meta),
            None => return refuse(format!("directory {nth} is blank: it has promised nothing")),
        }
    }
    let cluster = the_cluster(&metas).map_err(RepairEpochError::Refused)?;
    let master = the_master(&metas)
        .map_err(RepairEpochError::Refused)?
        .clone();
    // Without the master's own, the lowest log epoch: a stranger only ever raised them.
    let own = master.log_epoch.filter(|epoch| epoch.is_believable());
    let known = metas.iter().flat_map(log_epochs_of);
    let base = own.or_else(|| known.filter(|epoch| epoch.is_believable()).min());
    let base = base.unwrap_or_default();
    let is_believed =
        |epoch: &Epoch| epoch.is_believable() && epoch.capped_for_request(base) == *epoch;
    let poisoned = |meta: &Meta| !epochs_of(meta).all(|epoch| is_believed(&epoch));
    if !metas.iter().any(poisoned) {
        return Ok(Vec::new());
    }
    let believed = metas.iter().flat_map(epochs_of).filter(is_believed);
    let epoch = believed.max().unwrap_or(base).next();
    let present: BTreeSet<_> = metas.iter().map(|meta| meta.instance).collect();
    let known = metas.iter().filter_map(|meta| meta.promised.as_ref());
    let replaced: BTreeSet<_> = known
        .flat_map(|promised| promised.replaced.iter().copied())
        .filter(|instance| !present.contains(instance))
        .collect();
    let promised = Promised {
        epoch,
        name: master.name.clone(),
        instance: master.instance,
        start: master.start,
        replaced: replaced.into_iter().collect(),
    };
    let mut repaired = Vec::new();
    for (storage, before) in directories.iter().zip(&metas) {
        let is_refilled = before.name != master.name && poisoned(before);
        let meta = Meta {
            cluster: Some(cluster.clone()),
            promised: Some(promised.clone()),
            log_epoch: before
                .log_epoch
                .filter(|epoch| !is_refilled && is_believed(epoch)),
            last_whole: before
                .last_whole
                .filter(|whole| !is_refilled && is_believed(&whole.log_epoch)),
            forced_epoch: before.forced_epoch.filter(is_believed),
            ..before.clone()
        };
        let saved = meta.save(&**storage);
        saved.map_err(|error| RepairEpochError::Save {
            name: meta.name.clone(),
            detail: std::io::Error::from(error).to_string(),
        })?;
        repaired.push(RepairedNode {
            name: meta.name,
            promised_before: before.promised.as_ref().map(|promised| promised.epoch),
            promised: epoch,
            is_refilled,
            is_intact: meta.log_epoch.is_some(),
        });
    }
    drop(locks);
    Ok(repaired)
}

/// Checks that a node may start with this meta: its promises leave room for the epochs to come.
///
/// # Errors
///
/// A message that says what to do.
pub(crate) fn check_epochs(meta: &Meta) -> Result<(), String> {
    match epochs_of(meta).find(|epoch| !epoch.is_believable()) {
        None => Ok(()),
        Some(epoch) => Err(format!(
            "has promised epoch {epoch}, above {EPOCH_BELIEVABLE_MAX}, where no master can follow: stop \
             all nodes of the cluster, and give the directories of all of them to `replog repair-epoch`"
        )),
    }
}

fn epochs_of(meta: &Meta) -> impl Iterator<Item = Epoch> {
    let promised = meta.promised.as_ref().map(|promised| promised.epoch);
    let all = [promised, meta.forced_epoch];
    all.into_iter().flatten().chain(log_epochs_of(meta))
}

/// Returns the epoch of its log, and of the log that it had before damage.
fn log_epochs_of(meta: &Meta) -> impl Iterator<Item = Epoch> {
    let last_whole = meta.last_whole.map(|whole| whole.log_epoch);
    meta.log_epoch.into_iter().chain(last_whole)
}

/// Returns the cluster, if these are the directories of all its nodes, each once.
fn the_cluster(metas: &[Meta]) -> Result<ClusterIdentity, String> {
    let Some(cluster) = metas.first().and_then(|meta| meta.cluster.clone()) else {
        return Err("the first directory belongs to no cluster".to_owned());
    };
    if let Some(other) = metas
        .iter()
        .find(|meta| meta.cluster.as_ref() != Some(&cluster))
    {
        return Err(format!(
            "{} and {} do not belong to one cluster",
            metas[0].name, other.name
        ));
    }
    let mut names: Vec<&NodeName> = metas.iter().map(|meta| &meta.name).collect();
    names.sort();
    if names != cluster.nodes.iter().collect::<Vec<_>>() {
        return Err(format!(
            "the directories of all nodes are needed, each once: of {:?}, and these are of {names:?}",
            cluster.nodes
        ));
    }
    Ok(cluster)
}

/// Returns the meta that has promised an epoch to its own directory, as only a master does.
fn the_master(metas: &[Meta]) -> Result<&Meta, String> {
    let masters: Vec<&Meta> = metas
        .iter()
        .filter(|meta| meta.is_promised_to_self())
        .collect();
    match masters[..] {
        [master] => Ok(master),
        [] => Err("none of these is the directory of a master".to_owned()),
        _ => Err(format!(
            "{:?} have all been masters: start one of them as a secondary first",
            masters.iter().map(|meta| &meta.name).collect::<Vec<_>>()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        storage::MemoryStorage,
        types::{ClusterId, InstanceId, LastWhole, Offset},
    };

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    fn instance(byte: u8) -> InstanceId {
        InstanceId::from_bytes([byte; 16])
    }

    fn cluster() -> ClusterIdentity {
        ClusterIdentity {
            id: ClusterId::from_bytes([1; 16]),
            nodes: ["m", "s1", "s2"].map(name).to_vec(),
        }
    }

    fn meta(node: &str, own: u8, epoch: u64, by: u8, log_epoch: Option<u64>) -> Meta {
        Meta {
            name: name(node),
            instance: instance(own),
            start: 4,
            cluster: Some(cluster()),
            promised: Some(Promised {
                epoch: Epoch(epoch),
                name: name("m"),
                instance: instance(by),
                start: 4,
                replaced: vec![instance(50)],
            }),
            log_epoch: log_epoch.map(Epoch),
            forced_epoch: None,
            last_whole: None,
        }
    }

    fn saved(metas: &[Meta]) -> Vec<Arc<dyn Storage>> {
        let save = |meta: &Meta| {
            let storage = MemoryStorage::new();
            meta.save(&storage).unwrap();
            Arc::new(storage) as Arc<dyn Storage>
        };
        metas.iter().map(save).collect()
    }

    /// State of a whole cluster after one request to one secondary, before epochs had bounds: its own master's
    /// directory counts as replaced, and the master overbids in vain.
    fn poisoned() -> Vec<Meta> {
        let mut stranger = meta("s1", 2, u64::MAX, 99, Some(7));
        stranger
            .promised
            .as_mut()
            .unwrap()
            .replaced
            .push(instance(1));
        vec![
            meta("m", 1, u64::MAX, 1, Some(7)),
            stranger,
            meta("s2", 3, 7, 1, Some(7)),
        ]
    }

    #[test]
    fn every_node_promises_the_next_epoch_to_the_master_and_nodes_that_obeyed_a_stranger_are_refilled()
     {
        let storages = saved(&poisoned());
        let repaired = repair_epoch(&storages).unwrap();
        let of = |nth: usize| (repaired[nth].promised.0, repaired[nth].is_refilled);
        assert_eq!([of(0), of(1), of(2)], [(8, false), (8, true), (8, false)]);
        for (storage, log_epoch) in storages.iter().zip([Some(7), None, Some(7)]) {
            let meta = Meta::load(&**storage).unwrap().unwrap();
            let promised = meta.promised.clone().unwrap();
            assert_eq!((promised.epoch, promised.instance), (Epoch(8), instance(1)));
            assert_eq!(
                promised.replaced,
                [instance(50)],
                "the master's own is welcome"
            );
            assert_eq!(meta.log_epoch, log_epoch.map(Epoch));
            assert_eq!(check_epochs(&meta), Ok(()));
        }
        // A second time, there is nothing to do.
        assert_eq!(repair_epoch(&storages).unwrap(), []);
    }

    #[test]
    fn an_interrupted_repair_can_be_repeated() {
        let storages = saved(&poisoned());
        repair_epoch(&storages).unwrap();
        poisoned()[1].save(&*storages[1]).unwrap();
        let repaired = repair_epoch(&storages).unwrap();
        assert!(
            repaired.iter().all(|node| node.promised == Epoch(9)),
            "{repaired:?}"
        );
    }

    #[test]
    fn an_epoch_below_the_limit_that_the_master_cannot_follow_is_repaired_too() {
        let mut metas = poisoned();
        metas[0] = meta("m", 1, 9, 1, Some(7));
        metas[1].promised.as_mut().unwrap().epoch = Epoch(1 << 40);
        metas[2].forced_epoch = Some(Epoch(1 << 50));
        let storages = saved(&metas);
        let repaired = repair_epoch(&storages).unwrap();
        assert!(
            repaired.iter().all(|node| node.promised == Epoch(10)),
            "{repaired:?}"
        );
        let forced = Meta::load(&*storages[2]).unwrap().unwrap().forced_epoch;
        assert_eq!(forced, None);
    }

    /// Nothing says which log to take: that is left to the recovery, which may be forced.
    #[test]
    fn a_master_that_is_not_intact_can_start_again_too() {
        let mut metas = poisoned();
        metas[0].log_epoch = None;
        metas[0].last_whole = Some(LastWhole {
            log_epoch: Epoch(7),
            end: Offset(9),
        });
        let storages = saved(&metas);
        let repaired = repair_epoch(&storages).unwrap();
        let of = |nth: usize| (repaired[nth].promised.0, repaired[nth].is_intact);
        assert_eq!([of(0), of(1), of(2)], [(8, false), (8, false), (8, true)]);
        let meta = Meta::load(&*storages[0]).unwrap().unwrap();
        assert_eq!(meta.last_whole, metas[0].last_whole);
        for storage in &storages {
            let meta = Meta::load(&**storage).unwrap().unwrap();
            assert_eq!(check_epochs(&meta), Ok(()));
        }
        assert_eq!(repair_epoch(&storages).unwrap(), []);
        // A log whose own epoch is that high counts for nothing.
        metas[0].log_epoch = Some(Epoch::MAX);
        let storages = saved(&metas);
        assert!(!repair_epoch(&storages).unwrap()[0].is_intact);
    }

    /// Otherwise it would tell the repaired master for ever that its log is newer.
    #[test]
    fn the_log_that_a_damaged_node_held_for_a_stranger_is_forgotten() {
        let mut metas = poisoned();
        metas[0] = meta("m", 1, 9, 1, Some(7));
        metas[1] = meta("s1", 2, 9, 1, None);
        metas[1].last_whole = Some(LastWhole {
            log_epoch: Epoch(1 << 40),
            end: Offset(9),
        });
        let storages = saved(&metas);
        let repaired = repair_epoch(&storages).unwrap();
        assert!(repaired[1].is_refilled);
        let meta = Meta::load(&*storages[1]).unwrap().unwrap();
        assert_eq!((meta.log_epoch, meta.last_whole), (None, None));
        assert_eq!(repair_epoch(&storages).unwrap(), []);
    }

    #[test]
    fn incomplete_or_foreign_directories_are_refused() {
        let all = poisoned;
        let mut other = all();
        other[2].cluster.as_mut().unwrap().id = ClusterId::from_bytes([2; 16]);
        let mut blank = all();
        blank[0].cluster = None;
        let mut no_master = all();
        no_master[0].promised.as_mut().unwrap().instance = instance(99);
        let twice = vec![all()[0].clone(), all()[1].clone(), all()[1].clone()];
        let table = [
            (all()[..2].to_vec(), "all nodes are needed"),
            (twice, "each once"),
            (other, "do not belong to one cluster"),
            (blank, "no cluster"),
            (no_master, "the directory of a master"),
            (Vec::new(), "no cluster"),
        ];
        for (metas, expected) in table {
            let storages = saved(&metas);
            let error = repair_epoch(&storages).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            for (storage, meta) in storages.iter().zip(&metas) {
                assert_eq!(Meta::load(&**storage).unwrap().as_ref(), Some(meta));
            }
        }
        let storages = saved(&all());
        let held = storages[1].lock().unwrap();
        assert!(matches!(
            repair_epoch(&storages),
            Err(RepairEpochError::Open {
                nth: 1,
                source: OpenError::Locked
            })
        ));
        drop(held);
        assert!(
            check_epochs(&all()[0])
                .unwrap_err()
                .contains("repair-epoch")
        );
    }
}

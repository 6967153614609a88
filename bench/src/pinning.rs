//! CPUs of servers and load: separate if there are enough, and the same for every peer.
//!
//! Owns the split. Changes the affinity of the calling thread and of no other process: threads and
//! processes that it starts inherit it.

use std::{fmt, io, sync::OnceLock};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

/// With fewer than these, servers and load share them all: a cluster on one CPU would measure the
/// scheduler.
const CPUS_MIN: usize = 4;

/// The split of the CPUs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pinning {
    servers: Vec<usize>,
    load: Vec<usize>,
}

static PINNING: OnceLock<Pinning> = OnceLock::new();

/// Returns the number of threads of the load, once that is settled.
pub(crate) fn load_threads() -> usize {
    PINNING.get().map_or(1, Pinning::load_threads)
}

impl Pinning {
    /// Splits the CPUs that this process may use, and takes the load's part for the calling thread:
    /// before it starts others.
    pub(crate) fn settle() -> Pinning {
        let pinning = PINNING.get_or_init(|| {
            let all = sched_getaffinity(None).map_or_else(|_| Vec::new(), |set| members(&set));
            Pinning::of(all)
        });
        pin(&pinning.load);
        pinning.clone()
    }

    /// Returns the number of threads of the load: one for each CPU that it has to itself, or one if
    /// it has none.
    pub(crate) fn load_threads(&self) -> usize {
        match self.servers == self.load {
            true => 1,
            false => self.load.len(),
        }
    }

    /// Gives a quarter of the CPUs, at least one, to the load, and the rest to the servers.
    fn of(all: Vec<usize>) -> Pinning {
        if all.len() < CPUS_MIN {
            return Pinning {
                servers: all.clone(),
                load: all,
            };
        }
        let mut servers = all;
        let load = servers.split_off(servers.len() - servers.len() / 4);
        Pinning { servers, load }
    }
}

impl fmt::Display for Pinning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.servers == self.load {
            return write!(
                f,
                "nothing is pinned: the servers and the load share {} CPUs",
                self.load.len()
            );
        }
        write!(
            f,
            "pinned: the servers of each contestant to CPUs {:?}, the load to {:?}, a thread each",
            self.servers, self.load
        )
    }
}

/// Starts something on the servers' CPUs.
pub(crate) fn as_server<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(pinning) = PINNING.get() else {
        return start();
    };
    pin(&pinning.servers);
    let started = start();
    pin(&pinning.load);
    started
}

fn pin(cpus: &[usize]) {
    if cpus.is_empty() {
        return;
    }
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    // Where pinning is not allowed, they share all CPUs.
    let _ = sched_setaffinity(None, &set);
}

fn members(set: &CpuSet) -> Vec<usize> {
    (0..CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_load_are_apart_where_there_are_enough_cpus() {
        let few = Pinning::of(vec![0, 1]);
        assert_eq!((&few.servers, &few.load), (&vec![0, 1], &vec![0, 1]));
        let enough = Pinning::of((0..8).collect());
        assert_eq!(enough.servers, (0..6).collect::<Vec<_>>());
        assert_eq!(enough.load, vec![6, 7]);
        assert_eq!((few.load_threads(), enough.load_threads()), (1, 2));
    }
}

//! The process's limit on open files, and the limits that follow from it.
//!
//! Every connection is an open file. Where they run out, new connections hang without an answer,
//! so appends that wait must be refused long before.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is assumed where the system sets no limit: more than it has memory for.
const UNLIMITED: usize = 1 << 20;
/// Files that a node opens for itself, with its links: a log, a listener, and what its threads wake up by.
const OWN_FILES: usize = 16;
/// The least that one of several nodes counts with: with fewer it would answer nobody, and they may still be
/// there, since hardly ever all nodes have as many clients as they may.
const PART_MIN: usize = 32;

/// How many files this process may have open, and who may take how many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenFiles {
    limit: usize,
}

impl OpenFiles {
    /// Raises this process's limit as far as it is allowed to, and takes what holds then.
    pub(crate) fn raise() -> OpenFiles {
        let mut limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum {
            let raised = Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            };
            match setrlimit(Resource::Nofile, raised) {
                Ok(()) => limit = getrlimit(Resource::Nofile),
                Err(error) => log::warn!("the limit on open files was not raised: {error}"),
            }
        }
        let current = limit.current.and_then(|files| usize::try_from(files).ok());
        OpenFiles {
            limit: current.unwrap_or(UNLIMITED).min(UNLIMITED),
        }
    }

    /// The part of each, where so many nodes share the process.
    pub(crate) fn share(&self, nodes: usize) -> OpenFiles {
        let for_clients = self.limit.saturating_sub(OWN_FILES * nodes);
        OpenFiles {
            limit: (for_clients / nodes).max(PART_MIN),
        }
    }

    /// Appends that may wait for one concern: a quarter of the files stays free.
    pub(crate) fn waiting_max(&self, wanted: usize) -> usize {
        wanted.min(self.limit / 4 * 3).max(1)
    }

    /// Appends that other nodes may block, of all concerns together.
    pub(crate) fn blockable_max(&self) -> usize {
        (self.limit / 8 * 7).max(1)
    }

    /// Connections of one listener.
    pub(crate) fn connections_max(&self) -> usize {
        (self.limit / 16 * 15).max(1)
    }
}

impl fmt::Display for OpenFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "open files {}, connections {}",
            self.limit,
            self.connections_max()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_leaves_room_for_the_next() {
        for limit in [PART_MIN, 64, 1024, 20_000, UNLIMITED] {
            let files = OpenFiles { limit };
            let waiting = files.waiting_max(usize::MAX);
            assert!(limit - waiting >= limit / 4, "{limit}");
            assert!(waiting < files.blockable_max(), "{limit}");
            assert!(files.blockable_max() < files.connections_max(), "{limit}");
            assert!(files.connections_max() < limit, "{limit}");
        }
        assert_eq!(OpenFiles { limit: UNLIMITED }.waiting_max(100_000), 100_000);
    }

    #[test]
    fn nodes_of_one_process_have_no_more_connections_together_than_it_may_have_files() {
        for (limit, nodes) in [(256, 1), (256, 3), (1024, 3), (1024, 16), (UNLIMITED, 64)] {
            let part = OpenFiles { limit }.share(nodes);
            let connections = nodes * part.connections_max();
            assert!(connections + nodes * OWN_FILES <= limit, "{limit} {nodes}");
            assert!(connections >= limit / 2, "{limit} {nodes}");
        }
        // Where there are too few for all of them, each still answers somebody.
        let part = OpenFiles { limit: 256 }.share(64);
        assert!(part.waiting_max(usize::MAX) > 1 && part.connections_max() < PART_MIN);
    }

    #[test]
    fn the_limit_of_this_process_is_raised_as_far_as_it_goes() {
        let files = OpenFiles::raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert!(files.limit > 0);
    }
}

//! The process's limit on open files, and the limits that follow from it.
//!
//! Every connection is an open file. When they run out, new connections hang without an answer, and the log cannot
//! begin its next segment: the node ends. So the files that nodes need for themselves and for each other are reserved
//! first, and appends that wait are refused long before the rest runs out.

use std::fmt;

use replog_core::limits::{CLUSTER_HANDSHAKES_MAX, SEGMENTS_OPEN_MAX};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::connections::REFUSED_OPEN_MAX;

/// Assumed limit if the system sets none: more than it has memory for.
const UNLIMITED: usize = 1 << 20;
/// Files that a node opens for itself: its segments, two more of them for a moment, the mark, the lock, its listeners,
/// the standard streams, and the descriptors that wake its own threads.
const OWN_FILES: usize = SEGMENTS_OPEN_MAX + 16;
/// Descriptors that wake one more thread of the web server.
const FILES_OF_WORKER: usize = 4;
/// Connections with each other node: one, and the next one that replaces it.
const FILES_OF_PEER: usize = 2;
/// Minimum number of connections of unknown peers to the cluster listener that a node admits at once.
const HANDSHAKES_MIN: usize = 4;
/// Divisor for the part of the files that those connections may take.
const HANDSHAKES_DIVISOR: usize = 32;
/// Minimum for one of several nodes: with fewer files it would answer nobody, and they may still be there, since hardly
/// ever all nodes have as many clients as they may.
const SHARE_MIN: usize = 32;

/// Number of files that a node may have open, and its division.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenFiles {
    /// Files left for clients.
    limit: usize,
    /// Connections of unknown peers to the cluster listener.
    handshakes_max: usize,
}

/// Number of files that this process may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileLimit(usize);

impl FileLimit {
    /// Raises this process's limit as far as allowed, and returns the resulting limit.
    pub(crate) fn raise() -> FileLimit {
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
        FileLimit(current.unwrap_or(UNLIMITED).min(UNLIMITED))
    }

    /// Returns the part of each node with this number of `workers`, where `here` nodes of a cluster of `nodes` share
    /// the process.
    pub(crate) fn share(self, here: usize, nodes: usize, workers: usize) -> OpenFiles {
        let each = self.0 / here;
        let handshakes_max =
            (each / HANDSHAKES_DIVISOR).clamp(HANDSHAKES_MIN, CLUSTER_HANDSHAKES_MAX);
        let own = own_files(nodes, workers) + handshakes_max + REFUSED_OPEN_MAX;
        OpenFiles {
            limit: each.saturating_sub(own).max(SHARE_MIN),
            handshakes_max,
        }
    }
}

/// Returns the number of files reserved for the node itself.
fn own_files(nodes: usize, workers: usize) -> usize {
    OWN_FILES + FILES_OF_PEER * (nodes - 1) + FILES_OF_WORKER * (workers - 1)
}

impl OpenFiles {
    /// Returns the number of connections of unknown peers that the cluster listener may admit at once.
    pub(crate) fn handshakes_max(&self) -> usize {
        self.handshakes_max
    }

    /// Returns the number of appends that may wait for one concern: a quarter of the files stays free.
    pub(crate) fn waiting_max(&self, wanted: usize) -> usize {
        wanted.min(self.limit / 4 * 3).max(1)
    }

    /// Returns the number of appends that other nodes may block, of all concerns together.
    pub(crate) fn blockable_max(&self) -> usize {
        (self.limit / 8 * 7).max(1)
    }

    /// Returns the number of connections of one listener.
    pub(crate) fn connections_max(&self) -> usize {
        (self.limit / 16 * 15).max(1)
    }
}

impl fmt::Display for OpenFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "open files for clients {}, connections {}",
            self.limit,
            self.connections_max()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn for_clients(limit: usize) -> OpenFiles {
        OpenFiles {
            limit,
            handshakes_max: HANDSHAKES_MIN,
        }
    }

    #[test]
    fn every_limit_leaves_room_for_the_next() {
        for limit in [SHARE_MIN, 64, 1024, 20_000, UNLIMITED] {
            let files = for_clients(limit);
            let waiting = files.waiting_max(usize::MAX);
            assert!(limit - waiting >= limit / 4, "{limit}");
            assert!(waiting < files.blockable_max(), "{limit}");
            assert!(files.blockable_max() < files.connections_max(), "{limit}");
            assert!(files.connections_max() < limit, "{limit}");
        }
        assert_eq!(for_clients(UNLIMITED).waiting_max(100_000), 100_000);
    }

    #[test]
    fn clients_and_unknown_peers_together_leave_every_node_its_own_files() {
        for (limit, here, nodes, workers) in [
            (256, 1, 3, 1),
            (256, 1, 5, 4),
            (256, 2, 2, 1),
            (256, 3, 3, 1),
            (1024, 1, 3, 4),
            (1024, 3, 3, 1),
            (4096, 1, 64, 4),
            (UNLIMITED, 64, 64, 1),
        ] {
            let part = FileLimit(limit).share(here, nodes, workers);
            let others = part.connections_max() + REFUSED_OPEN_MAX + part.handshakes_max();
            let all = here * (others + own_files(nodes, workers));
            assert!(all <= limit, "{limit} {here} {nodes}");
            assert!(part.connections_max() > SHARE_MIN, "{limit} {here} {nodes}");
        }
        // As many unknown peers as ever if there are files for them.
        assert_eq!(
            FileLimit(4096).share(1, 3, 4).handshakes_max(),
            CLUSTER_HANDSHAKES_MAX
        );
        // If there are too few for all of them, each still answers somebody.
        let part = FileLimit(256).share(64, 64, 1);
        assert!(part.waiting_max(usize::MAX) > 1 && part.connections_max() < SHARE_MIN);
    }

    #[test]
    fn the_limit_of_this_process_is_raised_as_far_as_possible() {
        let files = FileLimit::raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert!(files.0 > 0);
    }
}

//! The process's limit on open files, and the limits that follow from it.
//!
//! Every connection is an open file. Where they run out, new connections hang without an answer,
//! so appends that wait must be refused long before.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is assumed where the system sets no limit: more than it has memory for.
const UNLIMITED: usize = 1 << 20;

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
        for limit in [64, 1024, 20_000, UNLIMITED] {
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
    fn the_limit_of_this_process_is_raised_as_far_as_it_goes() {
        let files = OpenFiles::raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert!(files.limit > 0);
    }
}

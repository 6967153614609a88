//! Quorum: the number of nodes in contact, and the check that it is a majority.
//!
//! Pure arithmetic on statuses. Keeps rule 8: computed from the clock at every admission, so a
//! master that was paused refuses at once.

use crate::{
    types::{Status, majority},
    views::QuorumHealth,
};

/// Counts the master and every secondary that is not Unhealthy.
pub(crate) fn quorum(statuses: impl Iterator<Item = Status>) -> QuorumHealth {
    let (mut nodes, mut alive) = (1, 1);
    for status in statuses {
        nodes += 1;
        alive += u32::from(status != Status::Unhealthy);
    }
    QuorumHealth {
        nodes,
        needed: majority(nodes),
        alive,
    }
}

impl QuorumHealth {
    /// Returns `true` if a majority is in contact.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.alive >= self.needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_master_and_all_nodes_that_are_not_unhealthy_count() {
        use Status::{Healthy as H, Suspected as S, Unhealthy as U};
        let table: [(&[Status], u32, bool); 8] = [
            (&[], 1, true),
            (&[H], 2, true),
            (&[U], 1, false),
            (&[S, U], 2, true),
            (&[U, U], 1, false),
            (&[H, U, U], 2, false),
            (&[H, S, U, U], 3, true),
            (&[H, U, U, U], 2, false),
        ];
        for (statuses, alive, met) in table {
            let quorum = quorum(statuses.iter().copied());
            assert_eq!(
                (quorum.alive, quorum.is_met()),
                (alive, met),
                "{statuses:?}"
            );
        }
    }
}

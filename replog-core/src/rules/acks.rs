//! Waiting appends, and the decision which of them are satisfied, given every node's durable end.
//!
//! Owns the ends that count and the appends that wait, by concern and offset. Never compares clocks beyond the
//! deadlines it is given, and never sends an answer: it returns the appends to answer. A release takes from
//! the front of a queue and never scans it, and a caller that is gone is found by its id. A record that the
//! master cannot read is one that it does not hold: appends that wait for it are blocked until it is repaired.
//! Keeps rules 4 and 6.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasherDefault, Hasher},
    mem,
    ops::Range,
};

use tokio::time::Instant;

use crate::{
    limits::NODES_MAX,
    types::{Offset, majority},
};

/// A set of nodes: bit 0 is the master, bit n+1 the n-th secondary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeSet(u64);

const _: () = assert!(NODES_MAX <= 64);

impl NodeSet {
    pub(crate) fn has_master(self) -> bool {
        self.0 & 1 != 0
    }

    pub(crate) fn has_secondary(self, index: usize) -> bool {
        self.0 & (2 << index) != 0
    }

    pub(crate) fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Returns `true` if a record that these nodes hold meets this concern: the master is always one of them.
    pub(crate) fn meets(self, concern: u32) -> bool {
        self.has_master() && self.count() >= concern
    }
}

/// Unique id of a waiting caller; of two that wait for the same concern and offset, the lower id is answered
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WaiterId(pub(crate) u64);

impl WaiterId {
    const FIRST: WaiterId = WaiterId(0);
}

/// Concern and offset of each waiting caller. Only single entries are looked up, so that the arbitrary order
/// of the map is never visible. A tree would allocate as appends come and go; this does not once it is large
/// enough.
type WaitPositions = HashMap<WaiterId, (u32, Offset), BuildHasherDefault<SequentialHasher>>;

/// A hash of numbers that are assigned in sequence: randomness is neither needed nor wanted.
#[derive(Debug, Default)]
struct SequentialHasher(u64);

impl Hasher for SequentialHasher {
    fn write_u64(&mut self, number: u64) {
        // Odd: different low bits stay different. Large: the high bits depend on them.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Position of a waiting append in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct WaitKey {
    concern: u32,
    offset: Offset,
    id: WaiterId,
}

#[derive(Debug)]
struct Waiting<W> {
    waiter: W,
    deadline: Option<Instant>,
}

/// The ends of all nodes, and the appends that wait for them. `W` is the receiver of the answer.
#[derive(Debug)]
pub(crate) struct Acks<W> {
    own_end: Offset,
    /// End of each secondary's log, if it counts; `None` while it does not.
    ends: Vec<Option<Offset>>,
    committed: Option<Offset>,
    waiting: BTreeMap<WaitKey, Waiting<W>>,
    /// Records below the end of the master's own log that cannot be read.
    own_holes: Vec<Range<Offset>>,
    /// Appends that wait for a record in one of those holes.
    blocked: BTreeMap<WaitKey, Waiting<W>>,
    /// Number of waiting appends, by concern.
    counts: Vec<usize>,
    deadlines: BTreeSet<(Instant, WaitKey)>,
    /// Position of each waiting caller, to find those that are gone.
    positions: WaitPositions,
}

/// An append that need not wait any longer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Released<W> {
    pub(crate) offset: Offset,
    pub(crate) waiter: W,
}

impl<W> Acks<W> {
    /// Creates the state for a master whose log is durable to `own_end`, with this number of secondaries.
    pub(crate) fn new(own_end: Offset, secondaries: usize) -> Acks<W> {
        Acks {
            own_end,
            ends: vec![None; secondaries],
            committed: None,
            waiting: BTreeMap::new(),
            own_holes: Vec::new(),
            blocked: BTreeMap::new(),
            counts: vec![0; secondaries + 2],
            deadlines: BTreeSet::new(),
            positions: WaitPositions::default(),
        }
    }

    /// Returns the number of nodes in the cluster.
    pub(crate) fn nodes(&self) -> u32 {
        u32::try_from(self.ends.len()).expect("bounded by NODES_MAX") + 1
    }

    /// Adds an append that waits until `concern` nodes hold `offset`, or until the deadline.
    pub(crate) fn wait(
        &mut self,
        concern: u32,
        offset: Offset,
        deadline: Option<Instant>,
        id: WaiterId,
        waiter: W,
    ) {
        assert!(
            (1..=self.nodes()).contains(&concern),
            "concern {concern} of {}",
            self.nodes()
        );
        let key = WaitKey {
            concern,
            offset,
            id,
        };
        let other = self.positions.insert(id, (concern, offset));
        assert_eq!(other, None, "{id:?} is already waiting");
        self.counts[concern as usize] += 1;
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, key));
        }
        let waiting = Waiting { waiter, deadline };
        match self.is_lacking(offset) {
            false => self.waiting.insert(key, waiting),
            true => self.blocked.insert(key, waiting),
        };
    }

    /// Removes a caller that is gone. Does nothing if it was already answered.
    pub(crate) fn forget(&mut self, id: WaiterId) {
        if let Some(&(concern, offset)) = self.positions.get(&id) {
            self.remove(WaitKey {
                concern,
                offset,
                id,
            });
        }
    }

    /// Returns the number of appends that wait for this concern.
    pub(crate) fn waiting_for_concern(&self, concern: u32) -> usize {
        self.counts[concern as usize]
    }

    /// Returns the number of all waiting appends.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len() + self.blocked.len()
    }

    /// Sets the end to which the master's own log is durable.
    pub(crate) fn on_own_end(&mut self, end: Offset) {
        self.own_end = self.own_end.max(end);
        self.advance_committed();
    }

    /// Sets the ranges that cannot be read in the master's own log; all other records can.
    pub(crate) fn on_own_holes(&mut self, holes: Vec<Range<Offset>>) {
        self.own_holes = holes;
        let blocked = mem::take(&mut self.blocked);
        self.waiting.extend(blocked);
        if !self.own_holes.is_empty() {
            let lacking = |key: &WaitKey| {
                let mut holes = self.own_holes.iter();
                holes.any(|hole| hole.contains(&key.offset))
            };
            self.blocked = self.waiting.extract_if(.., |key, _| lacking(key)).collect();
        }
    }

    /// Sets a secondary's end, or `None` if its log does not count: it does not agree yet, or another run of
    /// the secondary began. May go back: a released append stays released.
    pub(crate) fn on_end(&mut self, secondary: usize, end: Option<Offset>) {
        self.ends[secondary] = end;
        self.advance_committed();
    }

    /// Removes and returns the appends whose concern is met, in the order of offsets for each concern.
    pub(crate) fn release(&mut self) -> Vec<Released<W>> {
        let mut released = Vec::new();
        for concern in 1..=self.nodes() {
            if self.counts[concern as usize] == 0 {
                continue;
            }
            let Some(held) = self.held_by(concern) else {
                break;
            };
            let from = WaitKey {
                concern,
                offset: Offset::ZERO,
                id: WaiterId::FIRST,
            };
            while let Some((&key, _)) = self.waiting.range(from..).next() {
                if key.concern != concern || key.offset >= held {
                    break;
                }
                let waiter = self.remove(key);
                released.push(Released {
                    offset: key.offset,
                    waiter,
                });
            }
        }
        released
    }

    /// Removes and returns the appends whose time is up and that the master itself holds; the others go on
    /// waiting, now only for the master.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Released<W>> {
        let mut expired = Vec::new();
        while let Some(&(deadline, key)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            let waiter = self.remove(key);
            if key.offset < self.own_end {
                // If the record cannot be read, its message is still in the log.
                expired.push(Released {
                    offset: key.offset,
                    waiter,
                });
            } else {
                self.wait(1, key.offset, None, key.id, waiter);
            }
        }
        expired
    }

    /// Removes and returns all waiting appends, oldest offset first within each concern: they will not be
    /// answered later.
    pub(crate) fn drain(&mut self) -> Vec<Released<W>> {
        self.deadlines.clear();
        self.positions.clear();
        self.counts.fill(0);
        let mut waiting = mem::take(&mut self.waiting);
        waiting.append(&mut self.blocked);
        waiting
            .into_iter()
            .map(|(key, waiting)| Released {
                offset: key.offset,
                waiter: waiting.waiter,
            })
            .collect()
    }

    /// Returns the next deadline of a waiting append.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Returns the nodes that hold `offset`.
    pub(crate) fn holders(&self, offset: Offset) -> NodeSet {
        let mut set = u64::from(offset < self.own_end && !self.is_lacking(offset));
        for (index, end) in self.ends.iter().enumerate() {
            if end.is_some_and(|end| offset < end) {
                set |= 2 << index;
            }
        }
        NodeSet(set)
    }

    /// Returns the end of what a majority holds (the high watermark); `None` until the logs of a majority count.
    /// Never goes back.
    pub(crate) fn committed(&self) -> Option<Offset> {
        self.committed
    }

    /// Returns all waiting callers.
    pub(crate) fn waiters(&self) -> impl Iterator<Item = &W> {
        let all = self.waiting.values().chain(self.blocked.values());
        all.map(|waiting| &waiting.waiter)
    }

    /// Returns the oldest waiting callers in the order of offsets, at most `limit`.
    pub(crate) fn oldest(&self, limit: usize) -> Vec<(Offset, &W)> {
        // One queue per concern, each in order; the next is the smallest of the heads.
        let queues = [&self.waiting, &self.blocked];
        let concerns = 1..=self.nodes();
        let mut fronts: Vec<_> = concerns
            .flat_map(|concern| queues.map(|queue| (queue, concern)))
            .map(|(queue, concern)| {
                let from = WaitKey {
                    concern,
                    offset: Offset::ZERO,
                    id: WaiterId::FIRST,
                };
                let until = WaitKey {
                    concern: concern + 1,
                    ..from
                };
                let mut front = queue.range(from..until);
                (front.next(), front)
            })
            .collect();
        let mut oldest = Vec::new();
        while oldest.len() < limit {
            let smallest = fronts
                .iter_mut()
                .filter_map(|(next, front)| next.map(|found| (found, next, front)))
                .min_by_key(|((key, _), ..)| (key.offset, key.id));
            let Some(((key, waiting), next, front)) = smallest else {
                break;
            };
            oldest.push((key.offset, &waiting.waiter));
            *next = front.next();
        }
        oldest
    }

    /// Returns the end below which `count` nodes hold everything, always including the master.
    fn held_by(&self, count: u32) -> Option<Offset> {
        let others = count as usize - 1;
        if others == 0 {
            return Some(self.own_end);
        }
        let mut ends: Vec<Offset> = self.ends.iter().copied().flatten().collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        ends.get(others - 1).map(|end| self.own_end.min(*end))
    }

    fn advance_committed(&mut self) {
        let Some(held) = self.held_by(majority(self.nodes())) else {
            return;
        };
        self.committed = self.committed.max(Some(held));
    }

    fn remove(&mut self, key: WaitKey) -> W {
        let waiting = self.waiting.remove(&key);
        let waiting = waiting.or_else(|| self.blocked.remove(&key));
        let waiting = waiting.expect("a key that was just seen");
        self.positions.remove(&key.id);
        self.counts[key.concern as usize] -= 1;
        if let Some(deadline) = waiting.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        waiting.waiter
    }

    /// Returns `true` if the master cannot read this record in its own log.
    fn is_lacking(&self, offset: Offset) -> bool {
        self.own_holes.iter().any(|hole| hole.contains(&offset))
    }

    /// Asserts the invariants.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert_eq!(self.counts.iter().sum::<usize>(), self.waiting());
        assert_eq!(self.positions.len(), self.waiting());
        for key in self.waiting.keys().chain(self.blocked.keys()) {
            assert_eq!(
                self.positions.get(&key.id),
                Some(&(key.concern, key.offset))
            );
        }
        for (deadline, key) in &self.deadlines {
            let waiting = self.waiting.get(key).or_else(|| self.blocked.get(key));
            assert_eq!(
                waiting.map(|waiting| waiting.deadline),
                Some(Some(*deadline))
            );
        }
        assert!(self.waiting.keys().all(|key| !self.is_lacking(key.offset)));
        assert!(self.blocked.keys().all(|key| self.is_lacking(key.offset)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    impl Acks<u32> {
        /// Adds a wait; each here has its own number.
        fn waits(&mut self, concern: u32, offset: u64, deadline: Option<Instant>, number: u32) {
            let id = WaiterId(number.into());
            self.wait(concern, Offset(offset), deadline, id, number);
        }
    }

    fn released(acks: &mut Acks<u32>) -> Vec<u32> {
        acks.check();
        acks.release()
            .into_iter()
            .map(|released| released.waiter)
            .collect()
    }

    #[test]
    fn an_append_is_released_once_its_concern_is_met() {
        let mut acks = Acks::new(Offset(0), 2);
        for concern in 1..=3 {
            acks.waits(concern, 0, None, concern);
        }
        assert_eq!(released(&mut acks), [0; 0]);
        acks.on_end(0, Some(Offset(1)));
        assert_eq!(
            released(&mut acks),
            [0; 0],
            "the master is always one of them"
        );
        acks.on_own_end(Offset(1));
        assert_eq!(released(&mut acks), [1, 2]);
        acks.on_end(1, Some(Offset(1)));
        assert_eq!(released(&mut acks), [3]);
    }

    #[test]
    fn a_waiting_append_delays_no_other() {
        let mut acks = Acks::new(Offset(0), 2);
        for offset in 0..1000 {
            acks.waits(3, offset, None, offset as u32);
        }
        acks.waits(1, 1000, None, 1000);
        acks.on_own_end(Offset(1001));
        assert_eq!(released(&mut acks), [1000]);
        assert_eq!(acks.waiting_for_concern(3), 1000);
    }

    #[test]
    fn an_end_that_no_longer_counts_releases_no_append() {
        let mut acks = Acks::new(Offset(10), 2);
        acks.on_end(0, Some(Offset(5)));
        acks.waits(2, 5, None, 1);
        acks.on_end(0, None);
        acks.on_end(0, Some(Offset(3)));
        assert_eq!(released(&mut acks), [0; 0]);
        assert_eq!(
            acks.committed(),
            Some(Offset(5)),
            "committed never goes back"
        );
    }

    #[test]
    fn committed_is_unknown_until_the_logs_of_a_majority_count() {
        let mut acks = Acks::<u32>::new(Offset(10), 4);
        assert_eq!(acks.committed(), None);
        acks.on_end(3, Some(Offset(4)));
        assert_eq!(acks.committed(), None);
        acks.on_end(1, Some(Offset(9)));
        assert_eq!(acks.committed(), Some(Offset(4)));
        acks.on_end(3, Some(Offset(20)));
        assert_eq!(acks.committed(), Some(Offset(9)));
    }

    #[test]
    fn a_single_node_is_a_majority_of_itself() {
        let mut acks = Acks::<u32>::new(Offset(0), 0);
        acks.on_own_end(Offset(3));
        assert_eq!(acks.committed(), Some(Offset(3)));
    }

    #[test]
    fn an_expired_append_is_answered_once_the_master_itself_holds_it() {
        let now = Instant::now();
        let mut acks = Acks::new(Offset(1), 2);
        acks.waits(3, 0, Some(now), 1);
        acks.waits(3, 1, Some(now), 2);
        acks.waits(3, 0, Some(now + Duration::from_secs(1)), 3);
        let expired: Vec<u32> = acks.expire(now).into_iter().map(|r| r.waiter).collect();
        assert_eq!(expired, [1]);
        acks.on_own_end(Offset(2));
        assert_eq!(released(&mut acks), [2]);
        assert_eq!(acks.next_deadline(), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn a_record_that_the_master_cannot_read_is_acknowledged_once_it_is_repaired() {
        let now = Instant::now();
        let mut acks = Acks::new(Offset(4), 2);
        acks.on_end(0, Some(Offset(4)));
        acks.on_own_holes(vec![Offset(1)..Offset(3)]);
        for offset in 0..4 {
            acks.waits(1, offset, None, offset as u32);
            acks.waits(2, offset, Some(now), 10 + offset as u32);
        }
        assert_eq!(released(&mut acks), [0, 3, 10, 13]);
        assert!(!acks.holders(Offset(2)).meets(1));
        assert_eq!(acks.waiting(), 4);
        assert_eq!(acks.oldest(9)[0].0, Offset(1));
        acks.on_own_holes(vec![Offset(2)..Offset(3)]);
        assert_eq!(released(&mut acks), [1, 11]);
        let expired: Vec<u32> = acks.expire(now).into_iter().map(|r| r.waiter).collect();
        assert_eq!(expired, [12], "its time is up, its concern not met");
        acks.on_own_holes(vec![]);
        assert_eq!(released(&mut acks), [2]);
        assert_eq!(acks.waiting(), 0);
    }

    #[test]
    fn an_append_whose_record_becomes_unreadable_goes_on_waiting() {
        let mut acks = Acks::new(Offset(0), 2);
        acks.waits(2, 0, None, 7);
        acks.on_own_end(Offset(1));
        acks.on_own_holes(vec![Offset(0)..Offset(1)]);
        acks.on_end(1, Some(Offset(1)));
        assert_eq!(released(&mut acks), [0; 0]);
        acks.on_own_holes(Vec::new());
        assert_eq!(released(&mut acks), [7]);
    }

    #[test]
    fn a_caller_that_is_gone_is_removed_from_any_queue() {
        let now = Instant::now();
        let mut acks = Acks::new(Offset(0), 2);
        acks.on_own_holes(vec![Offset(1)..Offset(2)]);
        acks.waits(2, 0, None, 1);
        acks.waits(2, 0, Some(now), 2);
        acks.waits(2, 0, None, 3);
        acks.waits(3, 1, Some(now), 4);
        acks.waits(3, 2, Some(now), 5);
        for gone in [1, 4] {
            acks.forget(WaiterId(gone));
            acks.check();
        }
        assert_eq!(
            (acks.waiting_for_concern(2), acks.waiting_for_concern(3)),
            (2, 1)
        );
        assert_eq!(acks.expire(now), [], "the master holds none of them yet");
        acks.forget(WaiterId(2));
        acks.on_end(0, Some(Offset(3)));
        acks.on_own_end(Offset(3));
        assert_eq!(released(&mut acks), [5, 3]);
        // Removing a caller that was answered, is already gone or never waited does nothing.
        for nobody in [1, 3, 9] {
            acks.forget(WaiterId(nobody));
            acks.check();
        }
        assert_eq!((acks.waiting(), acks.next_deadline()), (0, None));
    }

    #[test]
    fn the_oldest_waiting_appends_come_first_whatever_their_concern() {
        let mut acks = Acks::new(Offset(0), 2);
        for (concern, offset) in [(3, 0), (2, 1), (3, 2), (2, 3), (1, 4)] {
            acks.waits(concern, offset, None, offset as u32);
        }
        let offsets = |limit| -> Vec<u64> {
            acks.oldest(limit)
                .into_iter()
                .map(|(offset, _)| offset.0)
                .collect()
        };
        assert_eq!(offsets(3), [0, 1, 2]);
        assert_eq!(offsets(100), [0, 1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn releases_are_those_of_a_naive_count(
            events in prop::collection::vec((0usize..5, 0u64..30, 1u32..=4), 1..120),
        ) {
            let mut acks = Acks::new(Offset(0), 3);
            let (mut own, mut ends, mut next) = (0, [None::<u64>; 3], 0u32);
            let mut naive: Vec<(u32, u64, u32)> = Vec::new();
            for (kind, value, concern) in events {
                match kind {
                    0 => {
                        own = own.max(value);
                        acks.on_own_end(Offset(value));
                    }
                    1 => {
                        acks.waits(concern, value, None, next);
                        naive.push((concern, value, next));
                        next += 1;
                    }
                    _ => {
                        let end = (value < 25).then_some(value);
                        ends[kind - 2] = end;
                        acks.on_end(kind - 2, end.map(Offset));
                    }
                }
                let held = |offset: u64| {
                    let others = ends.iter().flatten().filter(|end| offset < **end).count();
                    if offset < own { 1 + others as u32 } else { 0 }
                };
                let (mut done, rest): (Vec<_>, Vec<_>) =
                    naive.into_iter().partition(|(concern, offset, _)| held(*offset) >= *concern);
                naive = rest;
                done.sort_unstable();
                let expected: Vec<u32> = done.into_iter().map(|(_, _, id)| id).collect();
                prop_assert_eq!(released(&mut acks), expected);
            }
        }
    }
}

//! Shares, by address, of what all clients have together: connections, waits, memory for bodies.
//!
//! Owns the rule and the counts by address. An address may hold seven times what is still free: alone it gets seven
//! eighths, two get seven fifteenths each, and something is always left for one that comes later. So nothing is
//! reserved for absent addresses, and no address shuts others out. Fewer than eight slots are not shared. All clients
//! behind one proxy count as one address. Keeps rule 11.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use replog_core::address::owner_of;
use tokio::time::Instant;

use crate::connections::LISTENER_STALL_MAX;

/// Ratio of what one address may hold to what stays free.
const FREE_MULTIPLE: usize = 7;

/// One client, as counted: an IPv4 address, or an IPv6 network of 64 bits, since one machine may have all addresses in
/// it. Requests that do not arrive over a socket, as in tests, count as one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client(IpAddr);

impl Client {
    /// Returns the client at the other end of a connection.
    pub(crate) fn at(peer: Option<SocketAddr>) -> Client {
        let address = peer.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |peer| peer.ip());
        Client(owner_of(address))
    }
}

/// Counts by client. Pure: nothing here waits or is notified.
#[derive(Debug, Default)]
pub(crate) struct Held {
    total: usize,
    by_client: HashMap<Client, usize>,
}

impl Held {
    /// Returns the total of all clients.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Returns the amount that a client holds.
    pub(crate) fn of(&self, client: Client) -> usize {
        self.by_client.get(&client).copied().unwrap_or(0)
    }

    /// Returns `true` if a client may hold this much more, of at most `max` in all. A client that has nothing may take
    /// any amount that is free: the rule is no reason to refuse it.
    pub(crate) fn may_take(&self, client: Client, amount: usize, max: usize) -> bool {
        let own = self.of(client);
        let Some(free) = max.checked_sub(self.total.saturating_add(amount)) else {
            return false;
        };
        own == 0 || own + amount <= free.saturating_add(1).saturating_mul(FREE_MULTIPLE)
    }

    /// Adds to a client's amount.
    pub(crate) fn add(&mut self, client: Client, amount: usize) {
        if amount == 0 {
            return;
        }
        self.total += amount;
        *self.by_client.entry(client).or_insert(0) += amount;
    }

    /// Removes what was added before.
    pub(crate) fn remove(&mut self, client: Client, amount: usize) {
        // A client that holds nothing is not listed.
        if amount == 0 {
            return;
        }
        self.total -= amount;
        let own = self.by_client.get_mut(&client);
        let own = own.expect("only what was taken is released");
        *own -= amount;
        if *own == 0 {
            self.by_client.remove(&client);
        }
    }
}

/// Slots that clients share. Clones share them too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots(Arc<Mutex<Held>>);

impl Slots {
    /// Takes a slot for a client, of at most `max` in all; `None` if it has its share, or none is left.
    pub(crate) fn take(&self, client: Client, max: usize) -> Option<Slot> {
        let mut held = self.held();
        held.may_take(client, 1, max).then(|| {
            held.add(client, 1);
            Slot {
                slots: self.clone(),
                client,
            }
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot, released when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    client: Client,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.held().remove(self.client, 1);
    }
}

/// Length of a follower's turn. All followers together are sent 5,000 parts of their answers a second, each with
/// everything that is new: an append is not delayed by the number of its readers.
const TURN: Duration = Duration::from_micros(200);

/// Maximum time that a follower waits for its turn. Clients that leave before their turn waste it: however many do, the
/// others wait no longer. Also how late a follower may learn that the node stops, hence well below
/// [`LISTENER_STALL_MAX`].
const TURN_WAIT_MAX: Duration = Duration::from_millis(250);

const _: () = assert!(TURN_WAIT_MAX.as_millis() < LISTENER_STALL_MAX.as_millis());

/// Turns of the followers of a log. Clones share them.
#[derive(Clone, Debug, Default)]
struct Turns(Arc<Mutex<Option<Instant>>>);

impl Turns {
    /// Takes the next free turn; returns its time.
    fn take(&self, now: Instant) -> Instant {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = last.map_or(now, |last| (last + TURN).clamp(now, now + TURN_WAIT_MAX));
        *last = Some(turn);
        turn
    }
}

/// Slots of requests whose length is not the node's to decide. Each kind has a limit below that of all together, and
/// each address its share of both, so that none shuts the others out of either.
#[derive(Debug)]
pub(crate) struct Waits {
    all: Slots,
    all_max: usize,
    readers: Slots,
    readers_max: usize,
    /// Slots of appends by concern, as a number of nodes.
    appends: Mutex<BTreeMap<Option<u32>, Slots>>,
    appends_max: usize,
    turns: Turns,
}

/// A slot among [`Waits`], released when dropped.
#[derive(Debug)]
pub(crate) struct Wait {
    _of_all: Slot,
    _of_kind: Slot,
    turns: Turns,
}

impl Wait {
    /// Takes the turn in which a follower that was sent something looks for more; returns its time.
    pub(crate) fn next_turn(&self, now: Instant) -> Instant {
        self.turns.take(now)
    }
}

impl Waits {
    /// Returns slots that are all free: `all_max` in all, `readers_max` of them for readers, `appends_max` for appends
    /// of one concern.
    pub(crate) fn new(all_max: usize, readers_max: usize, appends_max: usize) -> Waits {
        Waits {
            all: Slots::default(),
            all_max,
            readers: Slots::default(),
            readers_max,
            appends: Mutex::default(),
            appends_max,
            turns: Turns::default(),
        }
    }

    /// Takes the slot of a reader that waits or follows.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
    pub(crate) fn reader(&self, client: Client) -> Result<Wait, usize> {
        self.take(client, &self.readers, self.readers_max)
    }

    /// Takes the slot of an append that waits for this many nodes.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
    pub(crate) fn append(&self, client: Client, concern: Option<u32>) -> Result<Wait, usize> {
        let mut appends = self.appends.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = appends.entry(concern).or_default().clone();
        drop(appends);
        self.take(client, &slots, self.appends_max)
    }

    fn take(&self, client: Client, of_kind: &Slots, max: usize) -> Result<Wait, usize> {
        let kind = of_kind.take(client, max).ok_or(max)?;
        let all = self.all.take(client, self.all_max).ok_or(self.all_max)?;
        Ok(Wait {
            _of_all: all,
            _of_kind: kind,
            turns: self.turns.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Client {
        let address: IpAddr = address.parse().expect("an address");
        Client::at(Some(SocketAddr::new(address, 1)))
    }

    /// Lets each client take in turn as long as any may.
    fn fill(held: &mut Held, clients: &[Client], max: usize) -> Vec<usize> {
        loop {
            let before = held.total();
            for client in clients {
                if held.may_take(*client, 1, max) {
                    held.add(*client, 1);
                }
            }
            if held.total() == before {
                return clients
                    .iter()
                    .map(|client| held.by_client[client])
                    .collect();
            }
        }
    }

    #[test]
    fn an_address_gets_seven_eighths_alone_and_always_leaves_something() {
        let [a, b, c] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(client);
        let mut held = Held::default();
        assert_eq!(fill(&mut held, &[a], 240), [210]);
        let later = fill(&mut held, &[b], 240);
        assert_eq!(later, [27], "the same share of the rest");
        assert_eq!(fill(&mut Held::default(), &[a], 7), [7], "too few to share");
        assert_eq!(fill(&mut Held::default(), &[a, b], 240), [112, 112]);
        let thirds = fill(&mut Held::default(), &[a, b, c], 240);
        assert!(
            thirds.iter().all(|own| (75..=77).contains(own)),
            "{thirds:?}"
        );
        // A client that has nothing gets the last one.
        for max in 1..5 {
            let mut held = Held::default();
            assert!(held.may_take(a, 1, max));
            held.add(a, max);
            assert!(!held.may_take(b, 1, max));
        }
        held.add(c, 0);
        held.remove(c, 0);
        held.remove(b, 27);
        held.remove(a, 210);
        assert!(held.total() == 0 && held.by_client.is_empty());
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
        assert_ne!(client("10.0.0.1"), client("10.0.0.2"));
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_ne!(client("::1"), client("::2"));
    }

    #[test]
    fn a_slot_is_released_when_dropped() {
        let slots = Slots::default();
        let slot = slots.take(client("10.0.0.1"), 1);
        assert!(slot.is_some() && slots.take(client("10.0.0.2"), 1).is_none());
        drop(slot);
        assert!(slots.take(client("10.0.0.2"), 1).is_some());
    }

    #[test]
    fn followers_take_turns() {
        let waits = Waits::new(10, 10, 10);
        let [first, second] = [(); 2].map(|()| waits.reader(client("10.0.0.1")).expect("a slot"));
        let now = Instant::now();
        assert_eq!(first.next_turn(now), now, "no other follower");
        assert_eq!(second.next_turn(now), now + TURN);
        assert_eq!(first.next_turn(now), now + 2 * TURN);
        let later = now + Duration::from_secs(1);
        assert_eq!(second.next_turn(later), later);
        let turns = (0..10_000).map(|_| first.next_turn(later));
        assert_eq!(turns.max(), Some(later + TURN_WAIT_MAX), "however many");
    }

    type Take = fn(&Waits, Client) -> Result<Wait, usize>;

    #[test]
    fn no_address_shuts_others_out_of_waits() {
        let [greedy, other] = ["10.0.0.1", "10.0.0.2"].map(client);
        // As with 112, 256, 1024 and 4096 open files.
        for files in [112, 256, 1_024, 4_096] {
            let waits = || Waits::new(files / 8 * 7, files / 4 * 3, files / 4 * 3);
            let takes: [Take; 3] = [
                |waits, client| waits.append(client, Some(3)),
                |waits, client| waits.append(client, Some(2)),
                Waits::reader,
            ];
            for first in takes {
                let waits = waits();
                let mut held = Vec::new();
                // Of its kind, then of all the others.
                for take in std::iter::once(first).chain(takes) {
                    held.extend(std::iter::from_fn(|| take(&waits, greedy).ok()));
                }
                assert!(held.len() > files / 2, "{files}");
                for take in takes {
                    let others: Vec<Wait> = (0..files / 32)
                        .map(|_| take(&waits, other).expect("a slot is left"))
                        .collect();
                    drop(others);
                }
            }
        }
    }
}

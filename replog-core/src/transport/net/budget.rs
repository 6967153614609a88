//! [`HandshakeBudget`]: a rate limit on the TLS handshakes computed for unauthenticated connections.
//!
//! Owns a token bucket for all addresses together and one for each. Never reads a clock, never waits, never
//! closes a connection: the listener does. Keeps rule 11.
//!
//! Any TLS hello makes the node agree on a key and sign, on the thread of its actors, before it asks for a
//! certificate. Concurrent handshakes are limited elsewhere; this limits handshakes per second, so that a
//! flood of hellos takes a few percent of a core and not the heartbeats' thread. The alternative, handshakes
//! on their own thread, would still give strangers one core of two.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

use crate::{
    address::owner_of,
    limits::{
        CLUSTER_HANDSHAKE_BURST, CLUSTER_HANDSHAKE_INTERVAL, CLUSTER_HANDSHAKE_INTERVAL_OF_ADDRESS,
    },
};

/// The number of buckets at which full ones are discarded. It exceeds the number that can lack a token at
/// once: see the assertion in `limits.rs`.
const BUCKETS_KEPT: usize = 1024;

/// The remaining budget for handshakes.
#[derive(Debug)]
pub(super) struct HandshakeBudget {
    all: Bucket,
    by_address: BTreeMap<IpAddr, Bucket>,
}

impl HandshakeBudget {
    pub(super) fn new(now: Instant) -> HandshakeBudget {
        HandshakeBudget {
            all: Bucket { full_at: now },
            by_address: BTreeMap::new(),
        }
    }

    /// Takes the cost of one handshake.
    ///
    /// # Errors
    ///
    /// The earliest time at which asking again can succeed.
    pub(super) fn take(&mut self, now: Instant, address: IpAddr) -> Result<(), Instant> {
        if self.by_address.len() >= BUCKETS_KEPT {
            self.by_address.retain(|_, bucket| bucket.full_at > now);
        }
        let bucket = self
            .by_address
            .entry(owner_of(address))
            .or_insert(Bucket { full_at: now });
        let of_address = bucket.take_one(now, CLUSTER_HANDSHAKE_INTERVAL_OF_ADDRESS)?;
        // The common bucket is last, and only then is a token taken from either: a refused address takes none from
        // others.
        self.all = self.all.take_one(now, CLUSTER_HANDSHAKE_INTERVAL)?;
        *bucket = of_address;
        Ok(())
    }
}

/// A bucket of [`CLUSTER_HANDSHAKE_BURST`] tokens (GCRA, ITU-T I.371: its state is one point in time).
#[derive(Clone, Copy, Debug)]
struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// Returns the bucket with one token taken, at a rate of one token per `interval`; if there is none, the time
    /// at which there will be one.
    fn take_one(self, now: Instant, interval: Duration) -> Result<Bucket, Instant> {
        let full_at = self.full_at.max(now) + interval;
        let latest = now + interval * CLUSTER_HANDSHAKE_BURST;
        match full_at <= latest {
            true => Ok(Bucket { full_at }),
            false => Err(now + (full_at - latest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn now() -> Instant {
        Instant::from_std(std::time::Instant::now())
    }

    /// Returns the number of handshakes that one address gets in `time` if it asks continuously.
    fn granted(budget: &mut HandshakeBudget, address: &str, from: Instant, time: Duration) -> u32 {
        let address = address.parse().unwrap();
        let (mut at, mut count) = (from, 0);
        while at < from + time {
            match budget.take(at, address) {
                Ok(()) => count += 1,
                Err(again_at) => {
                    assert!(again_at > at);
                    at = again_at;
                }
            }
        }
        count
    }

    #[test]
    fn one_address_gets_a_burst_and_then_its_rate_without_delaying_others() {
        let now = now();
        let mut budget = HandshakeBudget::new(now);
        let second = (SECOND.as_nanos() / CLUSTER_HANDSHAKE_INTERVAL_OF_ADDRESS.as_nanos()) as u32;
        let count = granted(&mut budget, "10.0.0.1", now, SECOND);
        assert_eq!(count, CLUSTER_HANDSHAKE_BURST + second - 1);
        let after = now + SECOND;
        assert_eq!(budget.take(after, "10.0.0.2".parse().unwrap()), Ok(()));
        assert_eq!(granted(&mut budget, "10.0.0.1", after, SECOND), second);
    }

    #[test]
    fn all_addresses_together_have_a_rate_and_refusals_take_nothing() {
        let now = now();
        let mut budget = HandshakeBudget::new(now);
        let address = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        let granted = (0..10_000)
            .filter(|n| budget.take(now, address(*n)).is_ok())
            .count();
        assert_eq!(granted, CLUSTER_HANDSHAKE_BURST as usize);
        assert!(budget.by_address.len() <= BUCKETS_KEPT);
        let later = now + CLUSTER_HANDSHAKE_INTERVAL;
        assert_eq!(budget.take(later, address(10_001)), Ok(()));
        assert!(budget.take(later, address(10_002)).is_err());
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_counted_together() {
        let now = now();
        let mut budget = HandshakeBudget::new(now);
        let count = granted(&mut budget, "2001:db8::1", now, SECOND);
        assert!(count > CLUSTER_HANDSHAKE_BURST, "{count}");
        let later = now + SECOND - Duration::from_millis(1);
        let mut take = |address: &str| budget.take(later, address.parse().unwrap());
        assert!(take("2001:db8::ffff:1:2:3").is_err());
        assert_eq!(take("2001:db8:0:1::1"), Ok(()));
    }
}

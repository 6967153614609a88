//! Retry delays: none after the first failure, then exponential, jittered and capped.
//!
//! Owns the count of failures in a row and a seeded generator. "Equal jitter": half of the delay is
//! fixed, half is random, so that links neither retry in step nor ever in a burst. After
//! "Exponential Backoff And Jitter" (M. Brooker, 2015); full jitter was rejected because it
//! produces delays near zero.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::config::Timing;

/// Delays between the attempts of one link.
#[derive(Debug)]
pub(crate) struct Backoff {
    retry_min: Duration,
    retry_max: Duration,
    failures: u32,
    rng: ChaCha8Rng,
}

impl Backoff {
    pub(crate) fn new(timing: &Timing, seed: u64) -> Backoff {
        Backoff {
            retry_min: timing.retry_min,
            retry_max: timing.retry_max,
            failures: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Counts a failed attempt and returns the delay before the next one.
    pub(crate) fn on_failure(&mut self) -> Duration {
        let failures = self.failures;
        self.failures = self.failures.saturating_add(1);
        if failures == 0 {
            return Duration::ZERO;
        }
        let doublings = (failures - 1).min(31);
        let delay = self
            .retry_min
            .saturating_mul(1 << doublings)
            .min(self.retry_max);
        delay / 2 + delay.mul_f64(self.rng.random_range(0.0..=0.5))
    }

    /// Resets the delays: an attempt succeeded, or the other side is known to be back.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns the number of failures since the last success.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_retry_is_immediate_and_later_delays_grow_to_the_cap() {
        let timing = Timing::default();
        let mut backoff = Backoff::new(&timing, 1);
        assert_eq!(backoff.on_failure(), Duration::ZERO);
        let mut ceiling = timing.retry_min;
        for _ in 0..50 {
            let delay = backoff.on_failure();
            assert!(
                delay >= ceiling / 2 && delay <= ceiling,
                "{delay:?} of {ceiling:?}"
            );
            ceiling = (ceiling * 2).min(timing.retry_max);
        }
        backoff.reset();
        assert_eq!(backoff.on_failure(), Duration::ZERO);
    }

    #[test]
    fn the_same_seed_gives_the_same_delays_and_another_seed_others() {
        let delays = |seed| {
            let mut backoff = Backoff::new(&Timing::default(), seed);
            (0..8).map(|_| backoff.on_failure()).collect::<Vec<_>>()
        };
        assert_eq!(delays(7), delays(7));
        assert_ne!(delays(7), delays(8));
    }
}

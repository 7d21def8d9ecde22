//! How long to wait before the next try: the only use of the `backoff` crate, and as arithmetic only.
//!
//! Nothing ends by count or age: after the longest wait come more waits of that length.

use std::time::Duration;

use backoff::backoff::Backoff as _;
use rand::Rng;

/// The waits of one key: doubling from the shortest to the longest, with jitter of a caller's generator.
#[derive(Debug)]
pub struct Backoff(backoff::ExponentialBackoff);

impl Backoff {
    /// From `shortest`, doubling, to `longest`.
    #[must_use]
    pub fn new(shortest: Duration, longest: Duration) -> Self {
        Self(backoff::ExponentialBackoff {
            current_interval: shortest,
            initial_interval: shortest,
            // Jitter comes from our own generator, so that a seed replays it.
            randomization_factor: 0.0,
            multiplier: 2.0,
            max_interval: longest,
            max_elapsed_time: None,
            ..backoff::ExponentialBackoff::default()
        })
    }

    /// The next wait, up to a quarter longer by chance, and never shorter than what the other side asked for.
    pub fn next(&mut self, at_least: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let wait = self.0.next_backoff().unwrap_or(self.0.max_interval);
        let wait = wait.max(at_least.unwrap_or_default());
        wait + wait.mul_f64(rng.random_range(0.0..0.25))
    }

    /// It worked: the next failure waits the shortest time.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

impl Default for Backoff {
    /// One second to five minutes.
    fn default() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(300))
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_never_end() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..100).map(|_| backoff.next(None, &mut rng)).collect();
        assert!(waits[0] >= Duration::from_secs(1) && waits[0] < Duration::from_millis(1250));
        assert!(waits[99] >= Duration::from_secs(300) && waits[99] < Duration::from_secs(375));
        backoff.reset();
        assert!(backoff.next(None, &mut rng) < Duration::from_millis(1250));
        let told = backoff.next(Some(Duration::from_secs(54)), &mut rng);
        assert!(told >= Duration::from_secs(54), "the other side's word counts");
    }
}

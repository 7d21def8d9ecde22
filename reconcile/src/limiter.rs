//! How often a destination is called: governor's arithmetic, tokio's clock.

use std::{
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::{Instant, sleep_until};

/// Tokio's clock for governor, so that tests can pause it.
#[derive(Debug, Clone, Copy, Default)]
struct TokioClock;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TokioInstant(Instant);

impl std::ops::Add<Nanos> for TokioInstant {
    type Output = Self;

    fn add(self, nanos: Nanos) -> Self {
        Self(self.0 + Duration::from(nanos))
    }
}

impl Reference for TokioInstant {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_duration_since(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.checked_sub(duration.into()).unwrap_or(self.0))
    }
}

impl Clock for TokioClock {
    type Instant = TokioInstant;

    fn now(&self) -> TokioInstant {
        TokioInstant(Instant::now())
    }
}

/// Lets so many calls a second through, and none while the destination asked for a pause.
#[derive(Debug)]
pub struct Limiter {
    rate: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<TokioInstant>>,
    paused_until: Mutex<Option<Instant>>,
}

impl Limiter {
    /// `per_second` calls on average, as many at once.
    #[must_use]
    pub fn new(per_second: NonZeroU32) -> Self {
        let rate = RateLimiter::direct_with_clock(Quota::per_second(per_second), TokioClock);
        Self { rate, paused_until: Mutex::new(None) }
    }

    /// Waits for a turn. May be cancelled at any time; a turn is used only when this returns.
    pub async fn take(&self) {
        loop {
            if let Some(until) = self.pause_end() {
                sleep_until(until).await;
                continue;
            }
            match self.rate.check() {
                Ok(()) => return,
                Err(not_until) => sleep_until(not_until.earliest_possible().0).await,
            }
        }
    }

    /// Nobody calls before `wait` is over: the destination said so.
    pub fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = Some(paused.map_or(until, |earlier| earlier.max(until)));
    }

    fn pause_end(&self) -> Option<Instant> {
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = paused.filter(|until| *until > Instant::now());
        *paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_are_spread_and_a_pause_holds_all_of_them() {
        let limiter = Limiter::new(NonZeroU32::new(10).expect("not zero"));
        let start = Instant::now();
        for _ in 0..30 {
            limiter.take().await;
        }
        let spent = start.elapsed();
        assert!(spent >= Duration::from_millis(1990), "{spent:?}");
        assert!(spent <= Duration::from_millis(2100), "{spent:?}");
        limiter.pause(Duration::from_secs(54));
        limiter.take().await;
        assert!(start.elapsed() >= spent + Duration::from_secs(54));
    }
}

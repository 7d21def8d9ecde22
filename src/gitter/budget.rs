//! How many calls an account may still make.
//!
//! Gitter counts 100 requests in fixed windows of 60 seconds, per user and OAuth client, and says with every answer how
//! many are left until when. A [`Budget`] keeps to what the server last said, and, where it has said nothing yet, to a
//! steady rate. A fifth is kept for calls that a person waits for.
//!
//! *Guarantee*: background work never takes the last fifth of a window
//! (`the_last_fifth_of_a_window_is_for_people`), and after a refusal nothing is sent before the reset
//! (`a_refusal_stops_everything_until_the_reset`).

use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

/// Longest pause that a server can impose; longer ones are nonsense.
pub const MAX_PAUSE: Duration = Duration::from_secs(120);

/// Calls a minute that Gitter allows; a reserve of more would keep everything else waiting.
const GITTERS_OWN: u32 = 100;

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Somebody waits for it.
    Person,
    /// It can wait: lists of members, catching up, polling.
    Background,
}

/// Two reset times of one window differ by up to this much, as the server knows whole seconds only.
const SAME_WINDOW: Duration = Duration::from_secs(2);

/// Time as tests can pause it.
#[derive(Debug, Clone)]
struct PausableClock(Instant);

impl Clock for PausableClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

type Bucket = RateLimiter<NotKeyed, InMemoryState, PausableClock, NoOpMiddleware<Duration>>;

/// The server's word on the window we are in.
#[derive(Debug, Clone, Copy)]
struct Window {
    remaining: u32,
    until: Instant,
}

/// What the server has said.
#[derive(Debug, Default)]
struct Heard {
    window: Option<Window>,
    /// When it wants to hear of us again.
    refused: Option<Instant>,
}

/// The calls that one account may make, shared by all that make them.
#[derive(Debug)]
pub struct Budget {
    clock: PausableClock,
    all: Bucket,
    background: Bucket,
    reserve: u32,
    heard: Mutex<Heard>,
}

impl Budget {
    /// A budget of `per_minute` calls, a fifth of which is kept for people. Needs a tokio runtime's clock.
    #[must_use]
    pub fn new(per_minute: NonZeroU32) -> Self {
        let clock = PausableClock(Instant::now());
        let reserve = per_minute.get().min(GITTERS_OWN) / 5;
        let background = NonZeroU32::new(per_minute.get() - reserve).unwrap_or(per_minute);
        let bucket = |rate| RateLimiter::direct_with_clock(Quota::per_minute(rate), clock.clone());
        let (all, background) = (bucket(per_minute), bucket(background));
        Self { clock, all, background, reserve, heard: Mutex::default() }
    }

    /// Waits until a call may be made. Cancelling takes nothing. One wait is bounded by the window, but others may be
    /// first: give it a timeout where that matters.
    pub async fn take(&self, class: Class) {
        while let Err(until) = self.try_take(class) {
            tokio::time::sleep_until(until).await;
        }
    }

    /// The same, if the wait is no longer than `most`; else how long it would be, and nothing is taken.
    ///
    /// # Errors
    ///
    /// When it would be longer.
    pub async fn take_within(&self, class: Class, most: Duration) -> Result<(), Duration> {
        let by = Instant::now() + most;
        while let Err(until) = self.try_take(class) {
            if until > by {
                return Err(until.saturating_duration_since(Instant::now()));
            }
            tokio::time::sleep_until(until).await;
        }
        Ok(())
    }

    /// Takes a call, or says when to ask again.
    fn try_take(&self, class: Class) -> Result<(), Instant> {
        let now = Instant::now();
        let mut heard = self.heard();
        if let Some(until) = heard.refused.filter(|until| *until > now) {
            return Err(until);
        }
        let window = &mut heard.window;
        *window = window.filter(|window| window.until > now);
        let kept = if class == Class::Person { 0 } else { self.reserve };
        if let Some(window) = window.filter(|window| window.remaining <= kept) {
            return Err(window.until);
        }
        let ask = |bucket: &Bucket| {
            bucket.check().map_err(|refusal| now + refusal.wait_time_from(self.clock.now()))
        };
        if class == Class::Background {
            ask(&self.background)?;
        }
        ask(&self.all)?;
        if let Some(window) = window.as_mut() {
            window.remaining -= 1;
        }
        Ok(())
    }

    /// Notes what an answer said: `remaining` calls until the window ends in `left`.
    pub fn note(&self, remaining: u32, left: Duration) {
        let until = Instant::now() + left.min(MAX_PAUSE);
        let window = &mut self.heard().window;
        match window {
            // Answers overtake each other, and calls in flight aren't counted in them: the lower number is right.
            Some(known) if until <= known.until + SAME_WINDOW => {
                known.remaining = known.remaining.min(remaining);
            }
            _ => *window = Some(Window { remaining, until }),
        }
    }

    /// Notes a refusal: nothing goes out for `pause`.
    pub fn refused(&self, pause: Duration) {
        let mut heard = self.heard();
        let until = Instant::now() + pause.min(MAX_PAUSE);
        heard.refused = heard.refused.max(Some(until));
    }

    /// How long nothing may go out after a refusal.
    pub fn pause(&self) -> Option<Duration> {
        let until = self.heard().refused?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Whether forgetting this budget would forget nothing.
    pub(crate) fn is_idle(&self) -> bool {
        let (heard, now) = (self.heard(), Instant::now());
        let over = |until: Instant| until <= now;
        heard.refused.is_none_or(over) && heard.window.is_none_or(|window| over(window.until))
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(per_minute: u32) -> Budget {
        Budget::new(NonZeroU32::new(per_minute).expect("not zero"))
    }

    /// How many calls may be made at once, and then when the next one.
    fn drain(budget: &Budget, class: Class) -> (usize, Duration) {
        let mut taken = 0;
        loop {
            match budget.try_take(class) {
                Ok(()) => taken += 1,
                Err(until) => return (taken, until - Instant::now()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_word_from_the_server_the_rate_holds() {
        let budget = budget(100);
        let (taken, wait) = drain(&budget, Class::Background);
        assert_eq!(taken, 80);
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(750), "{wait:?}");
        assert_eq!(drain(&budget, Class::Person).0, 20);
        let start = Instant::now();
        for _ in 0..10 {
            budget.take(Class::Person).await;
        }
        assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_fifth_of_a_window_is_for_people() {
        let budget = budget(100);
        budget.note(25, Duration::from_secs(30));
        assert_eq!(drain(&budget, Class::Background), (5, Duration::from_secs(30)));
        assert_eq!(drain(&budget, Class::Person), (20, Duration::from_secs(30)));
        let start = Instant::now();
        budget.take(Class::Background).await;
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn who_can_do_something_else_meanwhile_is_told_how_long_it_would_take() {
        let budget = budget(100);
        budget.refused(Duration::from_secs(30));
        let some = Duration::from_secs(2);
        let told = budget.take_within(Class::Background, some).await;
        assert_eq!(told, Err(Duration::from_secs(30)));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(budget.take_within(Class::Background, some).await, Ok(()), "a short wait");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_stops_everything_until_the_reset() {
        let budget = budget(100);
        budget.refused(Duration::from_secs(20));
        // Answers that were on their way meanwhile don't lift it.
        budget.refused(Duration::from_secs(1));
        budget.note(50, Duration::from_secs(21));
        budget.note(50, Duration::from_secs(59));
        assert_eq!(drain(&budget, Class::Person), (0, Duration::from_secs(20)));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(drain(&budget, Class::Person).0, 50);
        budget.refused(Duration::from_secs(86_400));
        assert_eq!(drain(&budget, Class::Person), (0, MAX_PAUSE));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_overtake_each_other_never_raise_the_budget_of_a_window() {
        let budget = budget(100);
        budget.note(10, Duration::from_secs(30));
        budget.note(12, Duration::from_millis(30_900));
        budget.note(11, Duration::from_millis(29_200));
        assert_eq!(drain(&budget, Class::Person).0, 10);
        tokio::time::advance(Duration::from_secs(25)).await;
        budget.note(90, Duration::from_secs(58));
        assert!(drain(&budget, Class::Person).0 > 30, "a new window counts anew");
    }
}

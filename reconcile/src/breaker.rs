//! Outages: while a side is away nothing is tried there but one probe, with growing waits, which decides for all.
//!
//! Failures that speak of the destination (no connection, no answer in time, a server error) raise a doubt when several come in
//! a row. Then every new call waits for a probe: answered, the failures were those of single calls, and all go on; not answered,
//! the side is *away*, calls fail at once ([`Away`]) and work waits ([`Breaker::clear`]) until a probe is answered. What waited
//! goes on in order of service.
//!
//! # Guarantees
//!
//! - During an outage only calls that were under way and the probe reach out, however much waits
//!   (`an_outage_costs_a_bounded_number_of_calls`).
//! - A call that always fails, on a destination that works, holds up nobody (`calls_that_fail_by_themselves_are_no_outage`).
//! - A breaker that nobody watches never opens (`nothing_waits_without_a_watch`).

use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::Rng;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::{backoff::Backoff, driver::chain, queue::Class};

/// Failures in a row that raise a doubt.
const DOUBT: u32 = 3;
/// Waits between probes.
const PROBES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The two sides of the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The homeserver.
    Homeserver,
    /// Gitter's REST interface.
    Gitter,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Homeserver => "the homeserver",
            Self::Gitter => "Gitter",
        })
    }
}

/// A call was not made, because the whole side is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is away; it goes on when that is back")]
pub struct Away(pub Side);

impl Away {
    /// Finds it among the causes of an error.
    #[must_use]
    pub fn among(error: &(dyn Error + 'static)) -> Option<Side> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(Self(side)) = error.downcast_ref() {
                return Some(*side);
            }
            next = error.source();
        }
        None
    }
}

/// The breakers of both sides; clones are the same.
#[derive(Debug, Clone)]
pub struct Sides {
    /// The homeserver's.
    pub homeserver: Arc<Breaker>,
    /// Gitter's.
    pub gitter: Arc<Breaker>,
}

impl Sides {
    /// One of them.
    #[must_use]
    pub fn get(&self, side: Side) -> &Arc<Breaker> {
        match side {
            Side::Homeserver => &self.homeserver,
            Side::Gitter => &self.gitter,
        }
    }
}

impl Default for Sides {
    fn default() -> Self {
        let new = |side| Arc::new(Breaker::new(side));
        Self { homeserver: new(Side::Homeserver), gitter: new(Side::Gitter) }
    }
}

/// Whether one side is there.
#[derive(Debug)]
pub struct Breaker {
    side: Side,
    inner: Mutex<Inner>,
    /// The state has changed.
    changed: Notify,
    /// A doubt was raised.
    doubted: Notify,
    /// There is a sign of life: probe now.
    hurry: Notify,
    /// The side is back.
    back: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    watched: bool,
    failures: u32,
    state: State,
    waiting: BTreeMap<(Class, u64), oneshot::Sender<()>>,
    next: u64,
    outages: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Clear,
    Doubted,
    Away(Instant),
}

impl Breaker {
    /// A breaker that is clear.
    #[must_use]
    pub fn new(side: Side) -> Self {
        let (changed, doubted) = (Notify::new(), Notify::new());
        let (hurry, back) = (Notify::new(), Notify::new());
        Self { side, inner: Mutex::default(), changed, doubted, hurry, back }
    }

    /// Whether a call may be made now; waits out a doubt.
    ///
    /// # Errors
    ///
    /// When the side is away: the call is not to be made.
    pub async fn ask(&self) -> Result<(), Away> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.lock().state {
                State::Clear => return Ok(()),
                State::Away(_) => return Err(Away(self.side)),
                State::Doubted => {}
            }
            changed.await;
        }
    }

    /// Notes how a call ended: whether the side answered, be it with a refusal.
    pub fn note(&self, answered: bool) {
        let mut inner = self.lock();
        if answered {
            inner.failures = 0;
            return;
        }
        inner.failures = inner.failures.saturating_add(1);
        if inner.watched && inner.failures >= DOUBT && inner.state == State::Clear {
            inner.state = State::Doubted;
            self.doubted.notify_one();
        }
    }

    /// Waits until the side is there, without a doubt. Those who wait go on in order of service.
    pub async fn clear(&self, class: Class) {
        loop {
            let told = {
                let mut inner = self.lock();
                if inner.state == State::Clear {
                    return;
                }
                let (tell, told) = oneshot::channel();
                let place = (class, inner.next);
                inner.next += 1;
                inner.waiting.retain(|_, tell| !tell.is_closed());
                inner.waiting.insert(place, tell);
                told
            };
            // Dropped or told: either way it is time to look.
            drop(told.await);
        }
    }

    /// Whether the side is there, without a doubt.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.lock().state == State::Clear
    }

    /// For how long the side has been away, if it is.
    #[must_use]
    pub fn away(&self) -> Option<Duration> {
        match self.lock().state {
            State::Away(since) => Some(since.elapsed()),
            State::Clear | State::Doubted => None,
        }
    }

    /// How many outages there were, this one counted.
    #[must_use]
    pub fn outages(&self) -> u64 {
        self.lock().outages
    }

    /// A sign of life: the next probe need not wait.
    pub fn hurry(&self) {
        if self.away().is_some() {
            self.hurry.notify_one();
        }
    }

    /// Waits until the side came back from an outage. For one who waits.
    pub async fn back(&self) {
        self.back.notified().await;
    }

    /// Decides for all, for ever: `probe` is called when there is a doubt, and while the side is away; `resumed` when it is back.
    /// `probe` has to end by itself. When this ends, the breaker is clear and stays so.
    pub async fn watch<E, R>(
        &self,
        probe: impl Fn() -> R + Send,
        resumed: impl Fn() + Send,
        mut rng: impl Rng + Send,
    ) where
        E: Error + Send + 'static,
        R: Future<Output = Result<(), E>> + Send,
    {
        self.lock().watched = true;
        let _unwatched = Unwatched(self);
        loop {
            self.doubted.notified().await;
            let Err(error) = probe().await else {
                tracing::debug!(side = %self.side, "doubted, and there");
                self.settle(State::Clear);
                continue;
            };
            let since = Instant::now();
            self.settle(State::Away(since));
            tracing::warn!(side = %self.side, error = %chain(&error), "away: its work waits");
            let mut backoff = Backoff::new(PROBES.0, PROBES.1);
            loop {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(backoff.next(None, &mut rng)) => {}
                    // A sign of life is worth one look, and no more than one a second.
                    () = self.hurry.notified() => tokio::time::sleep(PROBES.0).await,
                }
                match probe().await {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::debug!(side = %self.side, error = %chain(&error), "still away");
                    }
                }
            }
            self.settle(State::Clear);
            tracing::info!(side = %self.side, away_s = since.elapsed().as_secs(), "back: its work goes on");
            self.back.notify_one();
            resumed();
        }
    }

    fn settle(&self, state: State) {
        let waiting = {
            let mut inner = self.lock();
            inner.state = state;
            inner.failures = 0;
            inner.outages += u64::from(matches!(state, State::Away(_)));
            if state == State::Clear { std::mem::take(&mut inner.waiting) } else { BTreeMap::new() }
        };
        self.changed.notify_waiters();
        for (_, tell) in waiting {
            // Whoever is gone waits no more.
            let _ = tell.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets everything pass when nobody decides any more.
struct Unwatched<'a>(&'a Breaker);

impl Drop for Unwatched<'_> {
    fn drop(&mut self) {
        self.0.lock().watched = false;
        self.0.settle(State::Clear);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    /// A destination that may be down, and counts who comes.
    #[derive(Debug, Default)]
    struct Server {
        down: AtomicBool,
        calls: AtomicUsize,
        probes: AtomicUsize,
        resumed: AtomicUsize,
    }

    impl Server {
        fn is_up(&self) -> bool {
            !self.down.load(Ordering::SeqCst)
        }

        /// A call as a client makes it.
        async fn call(&self, breaker: &Breaker) -> Result<(), Away> {
            breaker.ask().await?;
            self.calls.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            breaker.note(self.is_up());
            if self.is_up() { Ok(()) } else { Err(Away(Side::Gitter)) }
        }
    }

    fn watched() -> (Arc<Breaker>, Arc<Server>) {
        let (breaker, server) =
            (Arc::new(Breaker::new(Side::Homeserver)), Arc::<Server>::default());
        let (watch, probed) = (breaker.clone(), server.clone());
        tokio::spawn(async move {
            let probe = || async {
                probed.probes.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(100)).await;
                if probed.is_up() { Ok(()) } else { Err(Away(Side::Homeserver)) }
            };
            let resumed = || {
                probed.resumed.fetch_add(1, Ordering::SeqCst);
            };
            watch.watch(probe, resumed, StdRng::seed_from_u64(1)).await;
        });
        (breaker, server)
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_costs_a_bounded_number_of_calls() {
        for lanes in [10, 1000] {
            let (breaker, server) = watched();
            tokio::task::yield_now().await;
            server.down.store(true, Ordering::SeqCst);
            let turns = crate::turns::Turns::new(16);
            let done = Arc::new(AtomicUsize::new(0));
            for lane in 0..lanes {
                let (breaker, server, turns, done) =
                    (breaker.clone(), server.clone(), turns.clone(), done.clone());
                tokio::spawn(async move {
                    loop {
                        breaker.clear(Class::Soon).await;
                        let turn = turns.take(lane % 7, Class::Soon).await;
                        let end = server.call(&breaker).await;
                        drop(turn);
                        match end {
                            Ok(()) => break,
                            // As a lane waits for itself.
                            Err(Away(Side::Gitter)) => {
                                tokio::time::sleep(Duration::from_secs(1)).await;
                            }
                            Err(Away(Side::Homeserver)) => {}
                        }
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
            let hour = Duration::from_secs(3600);
            tokio::time::sleep(hour).await;
            assert!(breaker.away().is_some_and(|away| away > hour.mul_f64(0.99)));
            let (calls, probes) =
                (server.calls.load(Ordering::SeqCst), server.probes.load(Ordering::SeqCst));
            assert!(calls <= 2 * 16, "{lanes} lanes made {calls} calls");
            assert!((90..=130).contains(&probes), "{probes} probes in an hour");
            server.down.store(false, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(120)).await;
            assert_eq!(done.load(Ordering::SeqCst), lanes, "all that waited went on");
            assert_eq!(server.resumed.load(Ordering::SeqCst), 1);
            assert_eq!(breaker.outages(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_fail_by_themselves_are_no_outage() {
        let (breaker, server) = watched();
        tokio::task::yield_now().await;
        for _ in 0..100 {
            breaker.note(false);
            server.call(&breaker).await.expect("it is there");
        }
        for _ in 0..DOUBT {
            breaker.note(false);
        }
        assert!(!breaker.is_clear(), "a doubt is raised, and settled by a probe");
        let start = Instant::now();
        server.call(&breaker).await.expect("it is there");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(server.probes.load(Ordering::SeqCst), 1);
        assert_eq!(breaker.outages(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_goes_on_in_order_of_service() {
        let (breaker, server) = watched();
        tokio::task::yield_now().await;
        server.down.store(true, Ordering::SeqCst);
        (0..DOUBT).for_each(|_| breaker.note(false));
        let order = Arc::new(Mutex::new(Vec::new()));
        for class in [Class::Looks, Class::Members, Class::Soon, Class::Waiting, Class::Soon] {
            let (breaker, order) = (breaker.clone(), order.clone());
            tokio::spawn(async move {
                breaker.clear(class).await;
                order.lock().expect("not poisoned").push(class);
            });
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(breaker.ask().await, Err(Away(Side::Homeserver)), "calls fail at once");
        assert!(order.lock().expect("not poisoned").is_empty());
        server.down.store(false, Ordering::SeqCst);
        breaker.hurry();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let expected = [Class::Waiting, Class::Soon, Class::Soon, Class::Members, Class::Looks];
        assert_eq!(*order.lock().expect("not poisoned"), expected, "soon after a sign of life");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_without_a_watch() {
        let breaker = Arc::new(Breaker::new(Side::Gitter));
        (0..100).for_each(|_| breaker.note(false));
        assert_eq!(breaker.ask().await, Ok(()));
        let watch = tokio::spawn({
            let breaker = breaker.clone();
            let probe = || async { Err::<(), _>(Away(Side::Gitter)) };
            async move { breaker.watch(probe, || {}, StdRng::seed_from_u64(1)).await }
        });
        tokio::task::yield_now().await;
        breaker.note(false);
        assert_eq!(breaker.ask().await, Err(Away(Side::Gitter)));
        watch.abort();
        breaker.clear(Class::Looks).await;
    }
}

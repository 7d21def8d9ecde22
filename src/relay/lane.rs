//! Lanes: streams of work that stay in order, each a task only while there is something in it.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::rngs::StdRng;
use reconcile::{backoff::Backoff, panics::caught};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Turn;
use crate::metrics::Metrics;

/// A lane whose turn panicked is not tried again before the first, and then later and later up to the second.
const QUARANTINE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// The lanes of one kind.
#[derive(Debug)]
pub struct Lanes<K> {
    name: &'static str,
    metrics: Metrics,
    running: Arc<Mutex<BTreeMap<K, Lane>>>,
    stop: CancellationToken,
}

#[derive(Debug, Clone, Default)]
struct Lane {
    poked: Arc<Notify>,
    again: bool,
}

impl<K: Ord + Clone + Debug + Send + Sync + 'static> Lanes<K> {
    /// No lanes yet; `name` is theirs in the log, `metrics` counts their panics.
    #[must_use]
    pub fn new(name: &'static str, metrics: Metrics) -> Self {
        Self { name, metrics, running: Arc::default(), stop: CancellationToken::new() }
    }

    /// Makes sure that the lane's work is looked at after this call: `turn` is called until it says [`Turn::Idle`].
    ///
    /// A lane that is at work notices at its next turn; one that waits is woken.
    /// `dice` gives the chance for its waits.
    pub fn poke<F, R>(&self, key: K, dice: impl FnOnce() -> StdRng, turn: F)
    where
        F: Fn(K) -> R + Send + 'static,
        R: Future<Output = Turn> + Send + 'static,
    {
        let poked = {
            let mut running = lock(&self.running);
            if let Some(lane) = running.get_mut(&key) {
                lane.again = true;
                lane.poked.notify_one();
                return;
            }
            let lane = Lane::default();
            running.insert(key.clone(), lane.clone());
            lane.poked
        };
        let (lanes, stop, rng) = (self.running.clone(), self.stop.clone(), dice());
        let (name, metrics) = (self.name, self.metrics.clone());
        tokio::spawn(async move {
            let lane = Running { lanes: &lanes, key: &key, poked: &poked };
            let panicked = |panic: &str, wait: Duration| {
                metrics.panic();
                let wait_ms = wait.as_millis();
                tracing::error!(
                    lane = name,
                    ?key,
                    wait_ms,
                    panic,
                    "a lane panicked; it is in quarantine"
                );
            };
            if stop.run_until_cancelled(lane.run(rng, turn, panicked)).await.is_none() {
                lock(&lanes).remove(&key);
            }
        });
    }

    /// How many are at work or waiting to try again.
    #[must_use]
    pub fn busy(&self) -> usize {
        lock(&self.running).len()
    }

    /// Ends all of them where they are.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

/// A lane at work.
struct Running<'a, K> {
    lanes: &'a Mutex<BTreeMap<K, Lane>>,
    key: &'a K,
    poked: &'a Notify,
}

impl<K: Ord + Clone> Running<'_, K> {
    /// Turn by turn, until there is nothing left.
    async fn run<F, R>(&self, mut rng: StdRng, turn: F, panicked: impl Fn(&str, Duration))
    where
        F: Fn(K) -> R,
        R: Future<Output = Turn>,
    {
        let mut backoff = Backoff::default();
        let mut quarantine = Backoff::new(QUARANTINE.0, QUARANTINE.1);
        loop {
            if let Some(lane) = lock(self.lanes).get_mut(self.key) {
                lane.again = false;
            }
            let turned = match caught(turn(self.key.clone())).await {
                Ok(turned) => turned,
                Err(panic) => {
                    // No poke shortens this: what panics once does so again.
                    let wait = quarantine.next(None, &mut rng);
                    panicked(&panic, wait);
                    tokio::time::sleep(wait).await;
                    continue;
                }
            };
            quarantine.reset();
            match turned {
                Turn::Later(at_least) => {
                    if at_least.is_some() {
                        // Being told when to come is no failure: waits grow only while nobody says.
                        backoff.reset();
                    }
                    let wait = backoff.next(at_least, &mut rng);
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep(wait) => {}
                        () = self.poked.notified(), if at_least.is_none() => {}
                    }
                }
                Turn::Idle | Turn::Blocked => {
                    backoff.reset();
                    let mut lanes = lock(self.lanes);
                    if !lanes.get(self.key).is_some_and(|lane| lane.again) {
                        lanes.remove(self.key);
                        return;
                    }
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use rand::SeedableRng as _;

    use super::*;

    fn dice() -> StdRng {
        StdRng::seed_from_u64(1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_poke_while_a_lane_is_at_work_is_never_lost() {
        let lanes = Lanes::<u8>::new("test", Metrics::new());
        let turns = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Notify::new());
        let work = || {
            let (turns, gate) = (turns.clone(), gate.clone());
            move |_| {
                let (turns, gate) = (turns.clone(), gate.clone());
                async move {
                    gate.notified().await;
                    turns.fetch_add(1, Ordering::SeqCst);
                    Turn::Idle
                }
            }
        };
        lanes.poke(1, dice, work());
        tokio::task::yield_now().await;
        lanes.poke(1, dice, work());
        lanes.poke(1, dice, work());
        assert_eq!(lanes.busy(), 1, "one task however often it is poked");
        gate.notify_one();
        while turns.load(Ordering::SeqCst) < 1 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        while lanes.busy() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(turns.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_has_to_wait_tries_again_by_itself() {
        let lanes = Lanes::<u8>::new("test", Metrics::new());
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = turns.clone();
        let start = tokio::time::Instant::now();
        let minute = Turn::Later(Some(Duration::from_secs(60)));
        lanes.poke(1, dice, move |_| {
            let n = counted.fetch_add(1, Ordering::SeqCst);
            async move { if n < 3 { minute } else { Turn::Idle } }
        });
        while lanes.busy() > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(turns.load(Ordering::SeqCst), 4);
        assert!(start.elapsed() >= Duration::from_secs(180));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_that_were_asked_for_do_not_grow() {
        let lanes = Lanes::<u8>::new("test", Metrics::new());
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = turns.clone();
        let start = tokio::time::Instant::now();
        lanes.poke(1, dice, move |_| {
            let n = counted.fetch_add(1, Ordering::SeqCst);
            let second = Turn::Later(Some(Duration::from_secs(1)));
            async move { if n < 20 { second } else { Turn::Idle } }
        });
        while lanes.busy() > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(start.elapsed() <= Duration::from_secs(26), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_panics_is_tried_again_by_itself_and_not_hot() {
        let metrics = Metrics::new();
        let lanes = Lanes::<u8>::new("test", metrics.clone());
        let turns = Arc::new(AtomicUsize::new(0));
        let start = tokio::time::Instant::now();
        let work = || {
            let turns = turns.clone();
            move |_| {
                let n = turns.fetch_add(1, Ordering::SeqCst);
                async move {
                    assert!(n >= 3, "on purpose");
                    Turn::Idle
                }
            }
        };
        while lanes.busy() > 0 || turns.load(Ordering::SeqCst) == 0 {
            // Whoever pokes does not make it hot.
            lanes.poke(1, dice, work());
            tokio::time::sleep(Duration::from_secs(1)).await;
            if turns.load(Ordering::SeqCst) > 3 {
                break;
            }
        }
        assert!(start.elapsed() >= Duration::from_secs(60 + 120 + 240), "{:?}", start.elapsed());
        assert!(metrics.text().contains("matrix_gitter_panics_total 3"), "each was counted");
        // Others of its kind went on meanwhile; so does it, from now on.
        lanes.poke(2, dice, |_| async { Turn::Idle });
        while lanes.busy() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

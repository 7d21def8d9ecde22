//! Stopping: who is told, what is waited for, and for how long.
//!
//! SIGTERM or SIGINT (or a store that can't be used any more) asks everything to stop; tasks finish
//! what they are doing and end; after `shutdown_timeout` the rest is cut off, which loses nothing,
//! because every step continues from the store. A second signal ends the process at once.
//!
//! A task that panics is started anew: the process ends for the store alone.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rand::{SeedableRng as _, rngs::StdRng};
use reconcile::{backoff::Backoff, panics::caught};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::metrics::Metrics;

/// Waits before a task that panicked is started anew, from the first to the longest.
const RESTART: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A task that ran for so long was good: its next panic waits the shortest time.
const GOOD_AFTER: Duration = Duration::from_secs(600);

/// Stopping did not go as it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShutdownError {
    /// Something without which nothing can be done; the process was stopped for it.
    #[error("the bridge had to stop: {0}")]
    Failed(String),
    /// Tasks did not end in time and were cut off.
    #[error("{tasks} tasks did not end within {timeout:?} and were cut off")]
    Unfinished {
        /// How many.
        tasks: usize,
        /// How long they had.
        timeout: Duration,
    },
}

/// Handle to the process's end; clones are the same handle.
#[derive(Debug, Clone)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
    failed: Arc<OnceLock<String>>,
    timeout: Duration,
}

impl Shutdown {
    /// A handle that listens to no signal yet; tasks get `timeout` to end.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            token: CancellationToken::new(),
            tasks: TaskTracker::new(),
            failed: Arc::default(),
            timeout,
        }
    }

    /// Turns SIGTERM and SIGINT into a request to stop; the second one exits with status 130 at
    /// once.
    ///
    /// # Errors
    ///
    /// When the system refuses the handlers.
    pub fn listen_to_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if this.is_requested() {
                    tracing::warn!(signal = name, "second signal: ending at once");
                    std::process::exit(130);
                }
                tracing::info!(signal = name, timeout = ?this.timeout, "stopping");
                this.request();
            }
        });
        Ok(())
    }

    /// Asks everything to stop; asking twice changes nothing.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Whether stopping was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until stopping is asked for; cancel-safe.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// The token behind it; a child token can stop a part earlier.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs a task that [`Shutdown::finish`] waits for. If it panics, that is counted, and `make` makes
    /// it anew after a while: a bridge without one of its loops would look alive and do nothing.
    pub fn keep<R>(
        &self,
        name: &'static str,
        metrics: &Metrics,
        make: impl Fn() -> R + Send + 'static,
    ) where
        R: Future<Output = ()> + Send + 'static,
    {
        let (token, metrics) = (self.token.clone(), metrics.clone());
        self.tasks.spawn(async move {
            let mut backoff = Backoff::new(RESTART.0, RESTART.1);
            let mut rng = StdRng::from_os_rng();
            loop {
                let begun = tokio::time::Instant::now();
                let Err(panic) = caught(make()).await else { return };
                metrics.panic();
                if begun.elapsed() >= GOOD_AFTER {
                    backoff.reset();
                }
                let wait = backoff.next(None, &mut rng);
                let wait_ms = wait.as_millis();
                tracing::error!(task = name, wait_ms, panic, "a task panicked; it is started anew");
                if token.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                    return;
                }
            }
        });
    }

    /// Asks everything to stop, because nothing can be done any more; `why` is for the admin. The first
    /// reason counts.
    pub fn fail(&self, why: String) {
        let _ = self.failed.set(why);
        self.request();
    }

    /// Waits until stopping is asked for, then for the tasks, up to the timeout.
    ///
    /// # Errors
    ///
    /// When something failed, or a task did not end in time. The process should then exit with a status other
    /// than 0.
    pub async fn finish(&self) -> Result<(), ShutdownError> {
        self.requested().await;
        self.tasks.close();
        let ended = tokio::time::timeout(self.timeout, self.tasks.wait()).await;
        if let Some(why) = self.failed.get() {
            return Err(ShutdownError::Failed(why.clone()));
        }
        ended.map_err(|_| ShutdownError::Unfinished {
            tasks: self.tasks.len(),
            timeout: self.timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_signal_asks_to_stop() {
        let shutdown = Shutdown::new(TIMEOUT);
        shutdown.listen_to_signals().expect("handlers can be set");
        assert!(!shutdown.is_requested());
        // To this very process; the handler that was just set keeps it alive.
        let own_id = std::process::id().to_string();
        let sent = std::process::Command::new("kill").args(["-TERM", &own_id]).status();
        assert!(sent.expect("kill can be run").success());
        shutdown.requested().await;
    }

    #[tokio::test(start_paused = true)]
    async fn finishing_waits_for_the_tasks() {
        let shutdown = Shutdown::new(TIMEOUT);
        let token = shutdown.token().clone();
        shutdown.keep("slow", &Metrics::new(), move || {
            let token = token.clone();
            async move {
                token.cancelled().await;
                tokio::time::sleep(TIMEOUT / 2).await;
            }
        });
        let start = tokio::time::Instant::now();
        shutdown.request();
        assert_eq!(shutdown.finish().await, Ok(()));
        assert_eq!(start.elapsed(), TIMEOUT / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_hangs_is_cut_off_in_time() {
        let shutdown = Shutdown::new(TIMEOUT);
        shutdown.keep("hangs", &Metrics::new(), std::future::pending);
        let start = tokio::time::Instant::now();
        shutdown.request();
        assert_eq!(
            shutdown.finish().await,
            Err(ShutdownError::Unfinished { tasks: 1, timeout: TIMEOUT })
        );
        assert_eq!(start.elapsed(), TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_anew_and_counted() {
        let (shutdown, metrics) = (Shutdown::new(TIMEOUT), Metrics::new());
        let starts = Arc::new(AtomicUsize::new(0));
        let (counted, token) = (starts.clone(), shutdown.token().clone());
        shutdown.keep("breaks", &metrics, move || {
            let (n, token) = (counted.fetch_add(1, Ordering::SeqCst), token.clone());
            async move {
                assert!(n >= 5, "on purpose");
                token.cancelled().await;
            }
        });
        let start = tokio::time::Instant::now();
        while starts.load(Ordering::SeqCst) < 6 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(start.elapsed() >= Duration::from_secs(1 + 2 + 4 + 8 + 16), "not hot");
        assert!(metrics.text().contains("matrix_gitter_panics_total 5"));
        assert!(!shutdown.is_requested(), "it goes on");
        shutdown.request();
        assert_eq!(shutdown.finish().await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nothing_works_without_ends_the_process_with_its_reason() {
        let shutdown = Shutdown::new(TIMEOUT);
        shutdown.fail("the disk is full".to_owned());
        shutdown.fail("and so on".to_owned());
        let ended = shutdown.finish().await;
        assert_eq!(ended, Err(ShutdownError::Failed("the disk is full".to_owned())));
    }
}

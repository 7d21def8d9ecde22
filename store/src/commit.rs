//! Group commit: one thread runs whatever waits in one transaction and syncs once for all.

use std::{
    any::Any,
    error::Error,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use redb::Database;

use crate::{
    WriteTxn,
    error::{Result, StoreError},
    seal::SealKey,
};

/// Somebody's writes: what to do, and whom to tell.
pub(crate) trait Job: Send {
    /// Runs the closure and keeps what it returned. It may be run again, in a transaction made anew.
    fn run(&mut self, tx: &mut WriteTxn<'_>) -> Result<()>;
    /// Tells the caller.
    fn finish(self: Box<Self>, end: Result<()>);
}

pub(crate) struct Work<R, F, D> {
    pub(crate) write: F,
    pub(crate) done: D,
    pub(crate) result: Option<R>,
}

impl<R, F, D> Job for Work<R, F, D>
where
    R: Send,
    F: Fn(&mut WriteTxn<'_>) -> Result<R> + Send,
    D: FnOnce(Result<R>) + Send,
{
    fn run(&mut self, tx: &mut WriteTxn<'_>) -> Result<()> {
        self.result = None;
        self.result = Some((self.write)(tx)?);
        Ok(())
    }

    fn finish(self: Box<Self>, end: Result<()>) {
        let Self { done, result, .. } = *self;
        let missing = || StoreError::given_up("the transaction was not run");
        done(end.and_then(|()| result.ok_or_else(missing)));
    }
}

/// Sizes of batches are counted in classes: 1, 2 to 3, 4 to 7 and so on; the last class has no upper end.
pub const SIZE_CLASSES: usize = 10;

/// What the committer did since the store was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions that were synced to disk.
    pub commits: u64,
    /// Writes that ended well, also those that changed nothing.
    pub writes: u64,
    /// Writes that failed, by themselves or with the disk.
    pub failed: u64,
    /// How often a batch was begun anew because one of its writes failed.
    pub replays: u64,
    /// Writes that wait in the queue now; at [`QUEUE`](crate::QUEUE) the next caller is held up.
    pub waiting: u64,
    /// The most writes that shared a commit.
    pub largest: u64,
    /// Commits by the number of writes that shared them; see [`SIZE_CLASSES`].
    pub sizes: [u64; SIZE_CLASSES],
}

#[derive(Default)]
pub(crate) struct Counters {
    commits: AtomicU64,
    writes: AtomicU64,
    failed: AtomicU64,
    replays: AtomicU64,
    pub(crate) waiting: AtomicU64,
    largest: AtomicU64,
    sizes: [AtomicU64; SIZE_CLASSES],
}

impl Counters {
    pub(crate) fn read(&self) -> Stats {
        Stats {
            commits: self.commits.load(Relaxed),
            writes: self.writes.load(Relaxed),
            failed: self.failed.load(Relaxed),
            replays: self.replays.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            largest: self.largest.load(Relaxed),
            sizes: std::array::from_fn(|class| self.sizes[class].load(Relaxed)),
        }
    }

    fn committed(&self, size: usize) {
        let class = (size.max(1).ilog2() as usize).min(SIZE_CLASSES - 1);
        self.commits.fetch_add(1, Relaxed);
        self.sizes[class].fetch_add(1, Relaxed);
        self.largest.fetch_max(size as u64, Relaxed);
    }
}

type Cause = Arc<dyn Error + Send + Sync>;

fn shared(error: impl Error + Send + Sync + 'static) -> Cause {
    Arc::new(error)
}

/// Told how long each commit took.
pub(crate) type Observer = OnceLock<Box<dyn Fn(Duration) + Send + Sync>>;

/// What stopped the store, once something did.
pub(crate) type Broken = OnceLock<Cause>;

pub(crate) struct Committer {
    pub(crate) db: Arc<Database>,
    pub(crate) seal: Arc<SealKey>,
    pub(crate) window: Duration,
    pub(crate) max_batch: usize,
    pub(crate) counters: Arc<Counters>,
    pub(crate) broken: Arc<Broken>,
    pub(crate) observer: Arc<Observer>,
}

struct Entry {
    job: Box<dyn Job>,
    error: Option<StoreError>,
}

enum Attempt {
    Settled,
    /// One failed after it had written: the others are to be run again without it.
    Replay,
    /// The database gave the transaction up and can't say because of whom.
    Poisoned,
}

impl Committer {
    /// Works until all senders are gone and the queue is empty.
    pub(crate) fn run(&self, queue: &Receiver<Box<dyn Job>>) {
        let mut company = 1;
        while let Some(batch) = self.gather(queue, company) {
            company = batch.len();
            self.work(batch);
        }
    }

    /// Takes what waits, as far as it shares one commit, and does it.
    pub(crate) fn step(&self, queue: &Receiver<Box<dyn Job>>) {
        let batch: Vec<_> = queue.try_iter().take(self.max_batch).collect();
        self.counters.waiting.fetch_sub(batch.len() as u64, Relaxed);
        if !batch.is_empty() {
            self.work(batch);
        }
    }

    fn work(&self, batch: Vec<Box<dyn Job>>) {
        let mut entries: Vec<Entry> =
            batch.into_iter().map(|job| Entry { job, error: None }).collect();
        let settled = catch_unwind(AssertUnwindSafe(|| self.settle(&mut entries)));
        if let Err(panic) = settled {
            let panic = StoreError::Panicked(words(&*panic));
            self.stop(&shared(panic), &mut entries);
        }
        for Entry { job, error } in entries {
            let count = if error.is_none() { &self.counters.writes } else { &self.counters.failed };
            count.fetch_add(1, Relaxed);
            let end = error.map_or(Ok(()), Err);
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job.finish(end))) {
                tracing::error!(error = words(&*panic), "callback of a write panicked");
            }
        }
    }

    /// Takes what waits. Waits for company only if there was some last time, and only for as much: a lone writer never waits.
    fn gather(&self, queue: &Receiver<Box<dyn Job>>, company: usize) -> Option<Vec<Box<dyn Job>>> {
        let took = |job| {
            self.counters.waiting.fetch_sub(1, Relaxed);
            job
        };
        let mut batch = vec![took(queue.recv().ok()?)];
        batch.extend(queue.try_iter().take(self.max_batch - 1).map(took));
        #[expect(clippy::disallowed_methods, reason = "a thread of its own, outside any runtime")]
        let now = std::time::Instant::now;
        let begin = now();
        while batch.len() < company.min(self.max_batch) {
            let left = self.window.saturating_sub(now().duration_since(begin));
            match queue.recv_timeout(left) {
                Ok(job) => batch.push(took(job)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        Some(batch)
    }

    fn settle(&self, entries: &mut [Entry]) {
        loop {
            match self.attempt(entries) {
                Ok(Attempt::Settled) => return,
                Ok(Attempt::Replay) => {
                    self.counters.replays.fetch_add(1, Relaxed);
                }
                Ok(Attempt::Poisoned) => match entries {
                    [only] => {
                        let reason = "the database refused the transaction as half done";
                        only.error.get_or_insert_with(|| StoreError::given_up(reason));
                        return;
                    }
                    // Alone, whoever it is fails alone.
                    many => {
                        self.counters.replays.fetch_add(1, Relaxed);
                        return many.chunks_mut(1).for_each(|one| self.settle(one));
                    }
                },
                Err(cause) => return self.stop(&cause, entries),
            }
        }
    }

    fn attempt(&self, entries: &mut [Entry]) -> Result<Attempt, Cause> {
        if let Some(cause) = self.broken.get() {
            return Err(cause.clone());
        }
        let inner = self.db.begin_write().map_err(shared)?;
        let mut tx = WriteTxn::writing(&inner, self.seal.clone());
        let mut changed = false;
        let mut good = 0;
        let mut replay = false;
        for Entry { job, error } in entries.iter_mut().filter(|entry| entry.error.is_none()) {
            tx.handle.touched.set(false);
            let end = catch_unwind(AssertUnwindSafe(|| job.run(&mut tx)));
            let panicked = end.is_err();
            match end.unwrap_or_else(|panic| Err(StoreError::Panicked(words(&*panic)))) {
                Ok(()) => {
                    changed |= tx.handle.touched.get();
                    good += 1;
                }
                Err(failure) => {
                    *error = Some(failure);
                    // What failed before it wrote anything has left nothing behind.
                    replay = panicked || tx.handle.touched.get();
                }
            }
            if replay {
                break;
            }
        }
        drop(tx);
        if replay || !changed {
            inner.abort().map_err(shared)?;
            return Ok(if replay { Attempt::Replay } else { Attempt::Settled });
        }
        #[expect(clippy::disallowed_methods, reason = "a thread of its own, outside any runtime")]
        let begin = std::time::Instant::now();
        match inner.commit() {
            Ok(()) => {
                self.counters.committed(good);
                if let Some(observe) = self.observer.get() {
                    observe(begin.elapsed());
                }
                Ok(Attempt::Settled)
            }
            Err(redb::CommitError::TransactionPoisoned) => Ok(Attempt::Poisoned),
            Err(error) => Err(shared(error)),
        }
    }

    fn stop(&self, cause: &Cause, entries: &mut [Entry]) {
        if self.broken.set(cause.clone()).is_ok() {
            tracing::error!(error = %cause, "database stopped");
        }
        for entry in entries.iter_mut().filter(|entry| entry.error.is_none()) {
            entry.error = Some(StoreError::Broken(cause.clone()));
        }
    }
}

pub(crate) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

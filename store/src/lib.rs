//! The bridge's one file: typed tables over redb, with group commit. No other crate knows redb.
//!
//! ```
//! # use reconcile::model::Millis;
//! # use store::{SealKey, Store};
//! # let event = ruma::owned_event_id!("$e:example.org");
//! let store = Store::in_memory(SealKey::new([7; 32]))?;
//! let first = store.write(move |tx| tx.mark_seen(&event, Millis(1)))?;
//! assert!(first);
//! # Ok::<(), store::StoreError>(())
//! ```
//!
//! # Guarantees
//!
//! - A write whose end was told is on disk; whatever happens, each write is there wholly or not at all
//!   (`tests/laws/crash.rs`: `a_crash_at_any_sync_keeps_what_was_promised_and_halves_nothing`).
//! - Writes that come together share one sync (`tests/laws/commit.rs`: `many_writers_share_few_commits`), and one that fails or panics
//!   fails alone (`a_failing_write_among_good_ones_fails_alone`).
//! - A reader sees one state throughout and holds nobody up.
//! - Secrets are sealed: the file alone does not tell them (`tests/laws/file.rs`: `a_token_is_nowhere_in_the_file`).
//! - A newer file is refused, an older one is copied beside itself and then brought up in one transaction (`src/schema.rs`).
//! - A damaged file is refused, or is as it was at an earlier commit; it is never taken for good, and never a panic
//!   (`tests/laws/damage.rs`: `a_damaged_file_is_refused_or_as_it_was_at_a_commit`).
//! - A backup is one moment of the store, whole or not there, and holds nobody up (`tests/laws/backup.rs`).
//!
//! # What a sync promises
//!
//! One commit is one `fsync` (redb's one-phase commit with checksums). At each start the whole file is read and checked.

mod backup;
mod commit;
mod error;
mod open;
mod schema;
mod seal;
mod tables;
mod txn;

#[doc(hidden)]
pub mod disk;

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{self, SyncSender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use redb::{Database, ReadableDatabase};

pub use crate::{
    backup::{Backup, Restored, backup_closed, copy_file, replace, restore, restored_disk},
    commit::{SIZE_CLASSES, Stats},
    error::{BoxError, StoreError},
    open::holds_nothing,
    seal::SealKey,
    txn::{Meta, ReadTxn, Txn, WriteTxn},
};
use crate::{
    commit::{Broken, Committer, Counters, Job, Observer, Work},
    error::Result,
};

/// So many writes may wait for the committer; the next one waits for room.
pub const QUEUE: usize = 1024;

/// How writes share commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How long a commit waits for company, at most. It waits only if the commit before had company, and no longer than until
    /// there is as much again: a lone writer never waits.
    pub window: Duration,
    /// The most writes that share a commit; at least 1.
    pub max_batch: usize,
}

impl Default for Options {
    /// 2 ms, 256 writes.
    fn default() -> Self {
        Self { window: Duration::from_millis(2), max_batch: 256 }
    }
}

/// The store. Clones are handles to the same one; when the last is dropped, what waits is written and the file is closed.
///
/// All methods block: call them off the async runtime ([`Store::submit`] returns at once while there is room in the queue).
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    db: Arc<Database>,
    seal: Arc<SealKey>,
    counters: Arc<Counters>,
    broken: Arc<Broken>,
    observer: Arc<Observer>,
    queue: Option<SyncSender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    /// Called when a write waits, where nobody else waits for it.
    wake: Option<Wake>,
}

type Wake = Box<dyn Fn() + Send + Sync>;

/// The committer of a store without a thread of its own; see [`Store::by_hand`].
#[doc(hidden)]
pub struct Hand {
    committer: Committer,
    queue: mpsc::Receiver<Box<dyn Job>>,
}

impl Hand {
    /// Does what waits, as far as it shares one commit.
    pub fn step(&self) {
        self.committer.step(&self.queue);
    }
}

impl fmt::Debug for Hand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hand").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the file, or makes it (readable for its owner alone) if there is none. A file of an older version is copied
    /// beside itself (`<file>.schema-<version>`) and brought up to this one's.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`], [`StoreError::Locked`], [`StoreError::Foreign`], [`StoreError::Corrupt`], [`StoreError::Newer`]:
    /// each says what to do.
    pub fn open(path: &Path, key: SealKey, options: Options) -> Result<Self> {
        Self::open_migrating(path, key, options, schema::MIGRATIONS)
    }

    pub(crate) fn open_migrating(
        path: &Path,
        key: SealKey,
        options: Options,
        migrations: &[schema::Migration],
    ) -> Result<Self> {
        let db = open::guarded(path, || {
            let db = open::file(path)?;
            let known = schema::known(migrations);
            let db = match schema::version(&db)?.filter(|version| *version < known) {
                None => db,
                Some(old) => {
                    // Closed, so that what is copied is whole.
                    drop(db);
                    let copy = backup::beside(path, &format!("schema-{old}"));
                    backup::copy_file(path, &copy)?;
                    tracing::warn!(copy = %copy.display(), "database copied before it is brought to a newer version");
                    open::file(path)?
                }
            };
            schema::prepare(&db, path, migrations)?;
            Ok(db)
        })?;
        Self::start(db, path, key, options)
    }

    /// A store that lives in memory: for tests.
    ///
    /// # Errors
    ///
    /// Only for want of memory or threads.
    pub fn in_memory(key: SealKey) -> Result<Self> {
        Self::on_disk(disk::Disk::new(), key, Options::default())
    }

    /// A store on a disk that can fail: for tests.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    #[doc(hidden)]
    pub fn on_disk(disk: disk::Disk, key: SealKey, options: Options) -> Result<Self> {
        let path = Path::new("(memory)");
        let db = open::backend(disk, path, false)?;
        schema::prepare(&db, path, schema::MIGRATIONS)?;
        Self::start(db, path, key, options)
    }

    /// A store on a disk that can fail, without a thread: for simulations, in which everything happens on one.
    ///
    /// `wake` is called whenever a write waits; it is done at the next [`Hand::step`]. Only [`Store::submit`] and
    /// [`Store::read`] may be used: [`Store::write`] would wait for ever.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    #[doc(hidden)]
    pub fn by_hand(
        disk: disk::Disk,
        key: SealKey,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Result<(Self, Hand)> {
        let path = Path::new("(memory)");
        let db = open::backend(disk, path, false)?;
        schema::prepare(&db, path, schema::MIGRATIONS)?;
        let (mut inner, hand) = Self::parts(db, key, Options::default());
        inner.wake = Some(Box::new(wake));
        Ok((Self(Arc::new(inner)), hand))
    }

    fn start(db: Database, path: &Path, key: SealKey, options: Options) -> Result<Self> {
        let (mut inner, Hand { committer, queue }) = Self::parts(db, key, options);
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || committer.run(&queue))
            .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        inner.thread = Some(thread);
        Ok(Self(Arc::new(inner)))
    }

    fn parts(db: Database, key: SealKey, options: Options) -> (Inner, Hand) {
        let (db, seal) = (Arc::new(db), Arc::new(key));
        let (counters, broken) = (Arc::<Counters>::default(), Arc::<Broken>::default());
        let observer = Arc::<Observer>::default();
        let committer = Committer {
            db: db.clone(),
            seal: seal.clone(),
            window: options.window,
            max_batch: options.max_batch.max(1),
            counters: counters.clone(),
            broken: broken.clone(),
            observer: observer.clone(),
        };
        let (queue, jobs) = mpsc::sync_channel(QUEUE);
        let queue = Some(queue);
        let inner = Inner { db, seal, counters, broken, observer, queue, thread: None, wake: None };
        (inner, Hand { committer, queue: jobs })
    }

    /// Reads from a snapshot: all of `f` sees the same state, and holds up no writer.
    ///
    /// # Errors
    ///
    /// Those of `f`; [`StoreError::Disk`]; [`StoreError::Broken`] once the disk has failed.
    pub fn read<R>(&self, f: impl FnOnce(&ReadTxn) -> Result<R>) -> Result<R> {
        if self.0.broken.get().is_some() {
            return Err(self.0.stopped());
        }
        f(&ReadTxn::reading(self.0.db.begin_read()?, self.0.seal.clone()))
    }

    /// The database's own snapshot.
    pub(crate) fn snapshot<R>(
        &self,
        f: impl FnOnce(&redb::ReadTransaction) -> Result<R>,
    ) -> Result<R> {
        if self.0.broken.get().is_some() {
            return Err(self.0.stopped());
        }
        f(&self.0.db.begin_read()?)
    }

    /// Writes, and returns when it is on disk.
    ///
    /// `f` runs on the committer's thread, at once with others' closures, in the order in which they came; when one of those
    /// fails, `f` may be run again from the beginning, on a transaction without that one's doings. It must not wait for another
    /// write, and should not compute for long.
    ///
    /// # Errors
    ///
    /// Those of `f`, and then nothing was written; [`StoreError::Panicked`] likewise. [`StoreError::Broken`] when the disk
    /// failed: what was written may be there after the next start, wholly, or not at all. [`StoreError::Nested`] on the
    /// committer's own thread.
    pub fn write<R: Send + 'static>(
        &self,
        f: impl Fn(&mut WriteTxn<'_>) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let (told, end) = mpsc::sync_channel(1);
        self.submit(f, move |result| {
            // Its receiver is below.
            let _ = told.send(result);
        });
        end.recv().unwrap_or_else(|_| Err(self.0.stopped()))
    }

    /// Like [`Store::write`], without waiting: `done` is called with the end, after the sync, on the committer's thread, in the
    /// order of submission. It must not block: everybody waits behind it.
    ///
    /// Blocks only while [`QUEUE`] writes wait already. On the committer's own thread it calls `done` at once with
    /// [`StoreError::Nested`].
    pub fn submit<R: Send + 'static>(
        &self,
        f: impl Fn(&mut WriteTxn<'_>) -> Result<R> + Send + 'static,
        done: impl FnOnce(Result<R>) + Send + 'static,
    ) {
        let job: Box<dyn Job> = Box::new(Work { write: f, done, result: None });
        if self.0.on_committer() {
            return job.finish(Err(StoreError::Nested));
        }
        let Some(queue) = &self.0.queue else {
            return job.finish(Err(self.0.stopped()));
        };
        self.0.counters.waiting.fetch_add(1, Relaxed);
        if let Err(mpsc::SendError(job)) = queue.send(job) {
            self.0.counters.waiting.fetch_sub(1, Relaxed);
            return job.finish(Err(self.0.stopped()));
        }
        if let Some(wake) = &self.0.wake {
            wake();
        }
    }

    /// Whether writes wait for somebody to take a step.
    #[doc(hidden)]
    #[must_use]
    pub fn is_by_hand(&self) -> bool {
        self.0.wake.is_some()
    }

    /// What the committer did since the store was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counters.read()
    }

    /// Has `observe` told how long each commit takes, on the committer's thread. The first one counts.
    pub fn on_commit(&self, observe: impl Fn(Duration) + Send + Sync + 'static) {
        let _ = self.0.observer.set(Box::new(observe));
    }

    /// Whether the disk has failed: nothing more is read or written until the program is started again.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.broken.get().is_some()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Inner {
    fn stopped(&self) -> StoreError {
        let cause = self.broken.get().cloned();
        StoreError::Broken(cause.unwrap_or_else(|| Arc::from(BoxError::from("it was closed"))))
    }

    fn on_committer(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| thread.thread().id() == thread::current().id())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Without a sender the committer ends when the queue is empty.
        self.queue = None;
        if self.on_committer() {
            // The last handle was in a closure or callback: the thread can't wait for itself, and ends by itself.
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("committer panicked");
        }
    }
}

//! The store as async tasks see it: reads off the runtime, writes that return when they are on disk.

use std::{panic::resume_unwind, sync::Arc};

use reconcile::port::{Rows, State, TableError, Tables};
use store::{ReadTxn, Store, StoreError, WriteTxn};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinError,
};

/// Reads at a time, each on a thread of its own.
const READS: usize = 32;
/// Writes that wait for the committer: fewer than its own queue holds, so that handing one over never blocks a thread.
const WRITES: usize = store::QUEUE / 2;

/// A handle to the store; clones are the same one.
#[derive(Debug, Clone)]
pub struct Db {
    store: Store,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl Db {
    /// Wraps a store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        let (reads, writes) = (Semaphore::new(READS), Semaphore::new(WRITES));
        Self { store, reads: Arc::new(reads), writes: Arc::new(writes) }
    }

    /// The store itself.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Reads from a snapshot; waits while very many read.
    ///
    /// # Errors
    ///
    /// Those of `f`, and the store's.
    ///
    /// # Panics
    ///
    /// When `f` does: whoever asked is to blame, and is put in quarantine for it.
    pub async fn look<R: Send + 'static>(
        &self,
        f: impl FnOnce(&ReadTxn) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let store = self.store.clone();
        if store.is_by_hand() {
            return store.read(f);
        }
        // Never closed. The permit goes along, since a read goes on when nobody waits for it any more.
        let permit = self.reads.clone().acquire_owned().await.map_err(StoreError::given_up)?;
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            store.read(f)
        })
        .await;
        ended(read)
    }

    /// Writes in one transaction, shared with whoever writes at the same time; returns when it is on disk. When this future is
    /// dropped the write goes on, once it was handed over: it waits its turn while very many write.
    ///
    /// # Errors
    ///
    /// Those of `f`, and the store's; then nothing of it has happened.
    ///
    /// # Panics
    ///
    /// When `f` does, as [`Db::look`]; then nothing of it has happened, either.
    pub async fn change<R: Send + 'static>(
        &self,
        f: impl Fn(&mut WriteTxn<'_>) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let permit = self.writes.clone().acquire_owned().await.map_err(StoreError::given_up)?;
        let (told, end) = oneshot::channel();
        self.store.submit(f, move |result| {
            drop(permit);
            // Nobody waits any more: the write has happened all the same.
            let _ = told.send(result);
        });
        match end.await {
            Ok(Err(StoreError::Panicked(panic))) => resume_unwind(Box::new(panic)),
            Ok(end) => end,
            Err(error) => Err(StoreError::given_up(error)),
        }
    }
}

/// How a task that works with the store ended; if it panicked, so does whoever waited for it.
pub(crate) fn ended<R>(task: Result<Result<R, StoreError>, JoinError>) -> Result<R, StoreError> {
    task.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(error) => Err(StoreError::given_up(error)),
    })
}

impl State for Db {
    async fn read<R: Send + 'static>(
        &self,
        f: impl FnOnce(&dyn Rows) -> Result<R, TableError> + Send + 'static,
    ) -> Result<R, TableError> {
        Ok(self.look(move |t| f(t).map_err(StoreError::given_up)).await?)
    }

    async fn write<R: Send + 'static>(
        &self,
        f: impl Fn(&mut dyn Tables) -> Result<R, TableError> + Send + 'static,
    ) -> Result<R, TableError> {
        Ok(self.change(move |t| f(t).map_err(StoreError::given_up)).await?)
    }
}

#[cfg(test)]
mod tests {
    use reconcile::panics::caught;
    use store::SealKey;

    use super::*;

    #[tokio::test]
    async fn a_closure_that_panics_is_the_fault_of_whoever_gave_it_and_of_nobody_else() {
        let db = Db::new(Store::in_memory(SealKey::new([7; 32])).expect("in memory"));
        let read = caught(db.look(|_| -> Result<(), StoreError> { panic!("while reading") })).await;
        assert_eq!(read.expect_err("it panicked"), "while reading");
        let write = db.change(|_| -> Result<(), StoreError> { panic!("while writing") });
        assert_eq!(caught(write).await.expect_err("it panicked"), "while writing");
        db.change(|t| t.note_start(reconcile::model::Millis(1))).await.expect("it goes on");
        assert!(!db.store().is_broken());
    }
}

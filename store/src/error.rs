//! What can go wrong with the store, by what may be done about it.

use std::{error::Error, io, path::PathBuf, sync::Arc};

use reconcile::port::TableError;

/// The cause of an error, whatever it is.
pub type BoxError = Box<dyn Error + Send + Sync>;

pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file can't be opened or made: no folder, no permission.
    #[error(
        "opening the database {} failed; `database_path` must name a file that this user may read and write",
        path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another process has the file open.
    #[error(
        "the database {} is in use by another process; stop that one first, or give this one another `database_path`",
        path.display()
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error(
        "{} is no database of this bridge; set `database_path` to another file, or restore a backup with `matrix-gitter restore`",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How it can be told.
        #[source]
        source: BoxError,
    },
    /// The file was such a one, and is damaged beyond what can be repaired.
    #[error(
        "the database {} is damaged; restore a backup with `matrix-gitter restore`, or make a new one from the rooms with `matrix-gitter rebuild-from-matrix`",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        #[source]
        source: BoxError,
    },
    /// A file beside the database, or a backup, can't be read or written.
    #[error("{doing} {} failed", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// What was written does not read back as it should.
    #[error("the backup {} does not hold what was written; look at the disk, nothing was changed", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
    },
    /// A newer version of the program wrote the file.
    #[error(
        "the database {} has schema version {found}, and this program knows versions up to {known}; run the newer program again, or restore the backup made before it was first run",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of the file.
        found: u64,
        /// The newest version this program knows.
        known: u64,
    },
    /// A row that can't be read. The other rows are fine.
    #[error("the row {key} of the table {table} is damaged ({reason})")]
    Damaged {
        /// The table.
        table: &'static str,
        /// The row's key.
        key: String,
        /// What is wrong, without quoting the row.
        reason: String,
    },
    /// A secret that this key does not open.
    #[error(
        "{row} was sealed with another key: `unique_secret_key` has changed; set the old one again, or let the account log in anew"
    )]
    Sealed {
        /// Table and key, as in `tokens/@alice:example.com`.
        row: String,
    },
    /// A value that can't be kept as a row.
    #[error("a row for the table {table} can't be written")]
    Encode {
        /// The table.
        table: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The system's source of randomness failed.
    #[error("the system gave no random bytes")]
    Random(#[source] BoxError),
    /// The disk or the database failed in the middle of a transaction, which is void.
    #[error("the database failed")]
    Disk(#[source] BoxError),
    /// The disk failed while something was being kept: that transaction is on disk wholly or not at all, and nothing more is
    /// read or written before the file is opened again.
    #[error(
        "the database stopped after a failure of the disk; look at the disk (is it full?), then start the program again"
    )]
    Broken(#[source] Arc<dyn Error + Send + Sync>),
    /// A closure panicked; its transaction is void.
    #[error("a transaction panicked: {0}")]
    Panicked(String),
    /// A closure or callback on the committer's thread asked for another write there, which would wait for itself.
    #[error("a write was asked for from within a write")]
    Nested,
    /// The caller's own reason to give its transaction up.
    #[error("a transaction was given up")]
    GivenUp(#[source] BoxError),
}

impl StoreError {
    /// Gives a transaction up for a reason of the caller's.
    pub fn given_up(reason: impl Into<BoxError>) -> Self {
        Self::GivenUp(reason.into())
    }

    pub(crate) fn disk(source: impl Error + Send + Sync + 'static) -> Self {
        Self::Disk(Box::new(source))
    }
}

impl From<redb::StorageError> for StoreError {
    fn from(error: redb::StorageError) -> Self {
        Self::disk(error)
    }
}

impl From<redb::TableError> for StoreError {
    fn from(error: redb::TableError) -> Self {
        Self::disk(error)
    }
}

impl From<redb::TransactionError> for StoreError {
    fn from(error: redb::TransactionError) -> Self {
        Self::disk(error)
    }
}

impl From<redb::CommitError> for StoreError {
    fn from(error: redb::CommitError) -> Self {
        Self::disk(error)
    }
}

impl From<StoreError> for TableError {
    fn from(error: StoreError) -> Self {
        Self(Box::new(error))
    }
}

/// The way back: what went through [`reconcile::port::Tables`] is the same error again.
impl From<TableError> for StoreError {
    fn from(TableError(source): TableError) -> Self {
        match source.downcast::<Self>() {
            Ok(error) => *error,
            Err(other) => Self::GivenUp(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_way_through_the_trait() {
        let through = |error: StoreError| StoreError::from(TableError::from(error));
        let sealed = through(StoreError::Sealed { row: "tokens/@a:b".to_owned() });
        assert!(matches!(sealed, StoreError::Sealed { row } if row == "tokens/@a:b"));
        assert!(matches!(StoreError::from(TableError("no".into())), StoreError::GivenUp(_)));
    }
}

//! One transaction: every table, typed. What reads is there in both kinds, what writes only in [`WriteTxn`].

mod accounts;
mod messages;
mod portals;
mod recovery;
mod rooms;
mod speech;
mod tables_impl;
mod unheard;

use std::{cell::Cell, ops::Range, sync::Arc};

use redb::{ReadTransaction, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Result, StoreError},
    seal::SealKey,
    tables::{Mode, Pen, Reading, Tables, Writing},
};

/// A transaction; see [`ReadTxn`] and [`WriteTxn`].
pub struct Txn<M: Mode> {
    // Before the handle, so that tables are closed before their transaction.
    pub(crate) tables: Tables<M>,
    pub(crate) handle: M::Handle,
    seal: Arc<SealKey>,
}

/// A snapshot: what was on disk when it was taken, whatever is written meanwhile.
pub type ReadTxn = Txn<Reading>;

/// A transaction that writes; what it put, it sees. All of it is kept, or nothing.
pub type WriteTxn<'t> = Txn<Writing<'t>>;

/// What the file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Version of the tables and rows.
    pub schema: u64,
    /// When it was made, by the system's clock, in milliseconds since the Unix epoch.
    pub created: u64,
    /// A random name, 32 hex digits, that tells this file from one made anew.
    pub id: String,
}

pub(crate) const META: &str = "meta";
const SEQUENCE: &str = "sequence";

impl ReadTxn {
    pub(crate) fn reading(handle: ReadTransaction, seal: Arc<SealKey>) -> Self {
        Self { tables: Tables::new(), handle, seal }
    }
}

impl<'t> WriteTxn<'t> {
    pub(crate) fn writing(inner: &'t WriteTransaction, seal: Arc<SealKey>) -> Self {
        let handle = Pen { inner, touched: Cell::new(false) };
        Self { tables: Tables::new(), handle, seal }
    }

    /// A number greater than any given before, in this file, ever: rows that were removed do not give theirs back.
    fn next_number(&mut self) -> Result<u64> {
        let last: u64 = self.tables.meta.get(&self.handle, SEQUENCE)?.unwrap_or(0);
        self.tables.meta.put(&self.handle, SEQUENCE, &(last + 1))?;
        Ok(last + 1)
    }
}

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl<M: Mode> Txn<M> {
    /// What the file says of itself.
    pub fn meta(&self) -> Result<Meta> {
        self.tables.meta.get(&self.handle, META)?.ok_or_else(|| StoreError::Damaged {
            table: "meta",
            key: META.to_owned(),
            reason: "missing".to_owned(),
        })
    }
}

/// All pairs that begin with `first`; `end` is what comes [`after`] it.
fn pairs<'k>(first: &'k str, end: &'k str) -> Range<(&'k str, &'k str)> {
    (first, "")..(end, "")
}

/// The smallest text greater than `text`: the end of the range of keys whose part is `text`.
fn after(text: &str) -> String {
    format!("{text}\0")
}

//! The tables and their keys, each opened at most once in a transaction.

#![expect(clippy::needless_pass_by_value, reason = "keys are a few borrowed texts")]

use std::{
    cell::{Cell, OnceCell},
    marker::PhantomData,
    ops::RangeBounds,
    str::FromStr,
};

use redb::{
    Database, Durability, Key, ReadOnlyTable, ReadTransaction, ReadableTable,
    ReadableTableMetadata as _, Table, TableDefinition, Value, WriteTransaction,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Result, StoreError};

/// Reading or writing: how a transaction opens its tables.
pub trait Mode {
    /// The database's own transaction.
    type Handle;
    /// An open table.
    type Table<K: Key + 'static, V: Value + 'static>: ReadableTable<K, V>;

    /// Opens a table.
    ///
    /// # Errors
    ///
    /// When the database can't.
    fn open<K: Key + 'static, V: Value + 'static>(
        handle: &Self::Handle,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<Self::Table<K, V>, redb::TableError>;
}

/// Reading a snapshot.
pub struct Reading;

/// Writing, together with whoever shares the commit.
pub struct Writing<'t>(PhantomData<&'t ()>);

/// The transaction that is written to, and whether anything in it changed.
pub struct Pen<'t> {
    pub(crate) inner: &'t WriteTransaction,
    pub(crate) touched: Cell<bool>,
}

impl Mode for Reading {
    type Handle = ReadTransaction;
    type Table<K: Key + 'static, V: Value + 'static> = ReadOnlyTable<K, V>;

    fn open<K: Key + 'static, V: Value + 'static>(
        handle: &Self::Handle,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<Self::Table<K, V>, redb::TableError> {
        handle.open_table(definition)
    }
}

impl<'t> Mode for Writing<'t> {
    type Handle = Pen<'t>;
    type Table<K: Key + 'static, V: Value + 'static> = Table<'t, K, V>;

    fn open<K: Key + 'static, V: Value + 'static>(
        handle: &Self::Handle,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<Self::Table<K, V>, redb::TableError> {
        handle.inner.open_table(definition)
    }
}

/// A table that is opened when it is first needed.
pub(crate) struct Slot<M: Mode, K: Key + 'static, V: Value + 'static> {
    pub(crate) name: &'static str,
    table: OnceCell<M::Table<K, V>>,
}

pub(crate) type Text = &'static str;
/// A row as JSON.
pub(crate) type Json = &'static [u8];

macro_rules! tables {
    ($($name:ident: $key:ty => $value:ty,)*) => {
        pub(crate) struct Tables<M: Mode> {
            $(pub(crate) $name: Slot<M, $key, $value>,)*
        }

        impl<M: Mode> Tables<M> {
            pub(crate) fn new() -> Self {
                Self { $($name: Slot::new(stringify!($name)),)* }
            }

            /// Opens all tables; writing, this makes those that are missing.
            pub(crate) fn open_all(&self, handle: &M::Handle) -> Result<()> {
                $(self.$name.open(handle)?;)*
                Ok(())
            }
        }

        /// Copies the rows of all tables into another database, a bounded number at a time; returns how many they are.
        pub(crate) fn copy_all(from: &ReadTransaction, to: &Database) -> Result<u64> {
            let mut rows = 0;
            $(rows += copy(from, to, TableDefinition::<$key, $value>::new(stringify!($name)))?;)*
            Ok(rows)
        }

        /// How many rows there are in all tables.
        pub(crate) fn count_all(tx: &ReadTransaction) -> Result<u64> {
            let mut rows = 0;
            $(rows += count(tx, TableDefinition::<$key, $value>::new(stringify!($name)))?;)*
            Ok(rows)
        }
    };
}

// Keys of several parts sort by their parts, so that everything of one account, lane or room is one range.
tables! {
    meta: Text => Json,
    accounts: Text => Json,
    // Sealed.
    tokens: Text => &'static [u8],
    // Account, Gitter room.
    portals: (Text, Text) => Json,
    // Gitter room, account.
    portals_by_room: (Text, Text) => (),
    // Matrix room => portal key.
    portal_rooms: Text => Json,
    rooms: Text => Json,
    people: Text => Json,
    ghosts: Text => Json,
    ghost_names: Text => Text,
    // Display name as people compare it, Gitter user.
    ghost_shown: (Text, Text) => (),
    // Matrix room, ghost.
    inside: (Text, Text) => (),
    chats: Text => Json,
    // Kind of target, target, number.
    notices: (u8, Text, u64) => Json,
    // Account, Gitter room, number.
    outbox: (Text, Text, u64) => Json,
    // Account, Gitter room, message.
    links: (Text, Text, Text) => Json,
    // Event, account, Gitter room, message.
    link_events: (Text, Text, Text, Text) => (),
    // Account, Gitter room, message.
    unconfirmed: (Text, Text, Text) => (),
    // Account, Gitter room.
    cursors: (Text, Text) => Json,
    // Event => milliseconds.
    seen: Text => u64,
    seen_by_time: (u64, Text) => (),
    // Nonce => milliseconds until it expires by itself.
    nonces: Text => u64,
    nonces_by_time: (u64, Text) => (),
    // Where it comes from => where it is on the homeserver.
    media: Text => Text,
    // Account, Gitter room => since when links may be missing, in milliseconds.
    relearn: (Text, Text) => u64,
}

/// Rows copied in one transaction: a row has at most some 100 KiB.
const COPIED: usize = 200;

/// How many rows a table has; a file of an older version need not have it.
fn count<K: Key + 'static, V: Value + 'static>(
    tx: &ReadTransaction,
    definition: TableDefinition<'static, K, V>,
) -> Result<u64> {
    match tx.open_table(definition) {
        Ok(table) => Ok(table.len()?),
        Err(
            redb::TableError::TableDoesNotExist(_) | redb::TableError::TableTypeMismatch { .. },
        ) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn copy<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &Database,
    definition: TableDefinition<'static, K, V>,
) -> Result<u64> {
    let source = from.open_table(definition)?;
    let mut rows = ReadableTable::iter(&source)?;
    let mut copied = 0;
    loop {
        let mut tx = to.begin_write()?;
        // Nobody relies on the copy before it is whole, and synced as a whole.
        tx.set_durability(Durability::None).map_err(StoreError::disk)?;
        let before = copied;
        {
            let mut table = tx.open_table(definition)?;
            for row in rows.by_ref().take(COPIED) {
                let (key, value) = row?;
                table.insert(key.value(), value.value())?;
                copied += 1;
            }
        }
        tx.commit()?;
        if copied == before {
            return Ok(copied);
        }
    }
}

impl<M: Mode, K: Key + 'static, V: Value + 'static> Slot<M, K, V> {
    fn new(name: &'static str) -> Self {
        Self { name, table: OnceCell::new() }
    }

    pub(crate) fn open(&self, handle: &M::Handle) -> Result<&M::Table<K, V>> {
        if self.table.get().is_none() {
            // Cannot be set already: nothing else ran since.
            let _ = self.table.set(M::open(handle, TableDefinition::new(self.name))?);
        }
        Ok(self.table.get().expect("set above"))
    }

    pub(crate) fn has<'k>(&self, handle: &M::Handle, key: &K::SelfType<'k>) -> Result<bool>
    where
        K: 'k,
    {
        Ok(self.open(handle)?.get(key)?.is_some())
    }

    /// How many rows there are, without reading them.
    pub(crate) fn count(&self, handle: &M::Handle) -> Result<usize> {
        Ok(usize::try_from(self.open(handle)?.len()?).unwrap_or(usize::MAX))
    }

    /// The rows of a range, in order, at most `limit`.
    pub(crate) fn collect<'k, T>(
        &self,
        handle: &M::Handle,
        range: impl RangeBounds<K::SelfType<'k>> + 'k,
        limit: usize,
        mut row: impl FnMut(K::SelfType<'_>, V::SelfType<'_>) -> Result<T>,
    ) -> Result<Vec<T>>
    where
        K: 'k,
    {
        let found = self.open(handle)?.range::<K::SelfType<'k>>(range)?.take(limit);
        found.map(|found| found.map(|(key, value)| row(key.value(), value.value()))?).collect()
    }

    /// The rows of a range from its end, in reverse order, at most `limit`.
    pub(crate) fn collect_back<'k, T>(
        &self,
        handle: &M::Handle,
        range: impl RangeBounds<K::SelfType<'k>> + 'k,
        limit: usize,
        mut row: impl FnMut(K::SelfType<'_>, V::SelfType<'_>) -> Result<T>,
    ) -> Result<Vec<T>>
    where
        K: 'k,
    {
        let found = self.open(handle)?.range::<K::SelfType<'k>>(range)?.rev().take(limit);
        found.map(|found| found.map(|(key, value)| row(key.value(), value.value()))?).collect()
    }
}

impl<M: Mode, K: Key + 'static> Slot<M, K, Json> {
    /// The row, read.
    pub(crate) fn get<'k, T: DeserializeOwned>(
        &self,
        handle: &M::Handle,
        key: K::SelfType<'k>,
    ) -> Result<Option<T>>
    where
        K: 'k,
    {
        match self.open(handle)?.get(&key)? {
            Some(row) => decode(self.name, &key, row.value()).map(Some),
            None => Ok(None),
        }
    }
}

impl<'t, K: Key + 'static, V: Value + 'static> Slot<Writing<'t>, K, V> {
    pub(crate) fn open_mut(&mut self, pen: &Pen<'t>) -> Result<&mut Table<'t, K, V>> {
        self.open(pen)?;
        pen.touched.set(true);
        Ok(self.table.get_mut().expect("opened above"))
    }

    pub(crate) fn remove<'k>(&mut self, pen: &Pen<'t>, key: K::SelfType<'k>) -> Result<bool>
    where
        K: 'k,
    {
        // What changes nothing needs no commit.
        Ok(self.has(pen, &key)? && self.open_mut(pen)?.remove(&key)?.is_some())
    }

    /// Removes the rows of a range.
    pub(crate) fn clear<'k>(
        &mut self,
        pen: &Pen<'t>,
        range: impl RangeBounds<K::SelfType<'k>> + Clone + 'k,
    ) -> Result<()>
    where
        K: 'k,
    {
        let nothing = self.open(pen)?.range::<K::SelfType<'k>>(range.clone())?.next().is_none();
        if !nothing {
            self.open_mut(pen)?.retain_in::<K::SelfType<'k>, _>(range, |_, _| false)?;
        }
        Ok(())
    }
}

impl<'t, K: Key + 'static> Slot<Writing<'t>, K, Json> {
    /// Writes the row, unless it is there just so.
    pub(crate) fn put<'k, T: Serialize>(
        &mut self,
        pen: &Pen<'t>,
        key: K::SelfType<'k>,
        row: &T,
    ) -> Result<()>
    where
        K: 'k,
    {
        let bytes = serde_json::to_vec(row)
            .map_err(|source| StoreError::Encode { table: self.name, source })?;
        if self.open(pen)?.get(&key)?.is_none_or(|old| old.value() != bytes) {
            self.open_mut(pen)?.insert(&key, bytes.as_slice())?;
        }
        Ok(())
    }
}

impl<'t, K: Key + 'static> Slot<Writing<'t>, K, ()> {
    /// Writes a row that is only a key.
    pub(crate) fn mark<'k>(&mut self, pen: &Pen<'t>, key: K::SelfType<'k>) -> Result<()>
    where
        K: 'k,
    {
        if self.open(pen)?.get(&key)?.is_none() {
            self.open_mut(pen)?.insert(&key, ())?;
        }
        Ok(())
    }
}

/// Reads a row. What the row says is not repeated in the error: it may be somebody's words.
pub(crate) fn decode<T: DeserializeOwned>(
    table: &'static str,
    key: &impl std::fmt::Debug,
    row: &[u8],
) -> Result<T> {
    serde_json::from_slice(row).map_err(|error| StoreError::Damaged {
        table,
        key: format!("{key:?}"),
        reason: format!("{:?} error at column {}", error.classify(), error.column()),
    })
}

/// Reads an id out of a key.
pub(crate) fn id<T: FromStr>(table: &'static str, text: &str) -> Result<T> {
    text.parse().map_err(|_| StoreError::Damaged {
        table,
        key: format!("{text:?}"),
        reason: "not an id".to_owned(),
    })
}

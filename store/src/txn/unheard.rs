//! What the homeserver may have kept back.

use reconcile::model::Millis;

use super::Txn;
use crate::{WriteTxn, error::Result, tables::Mode};

/// Rows of the table `meta`.
const BEGAN: &str = "began";
const OBEYED: &str = "obeyed_until";
const UNHEARD: &str = "unheard_since";

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl<M: Mode> Txn<M> {
    /// From when on events may have been kept back, until rooms were read; `None` when all were heard.
    pub fn unheard_since(&self) -> Result<Option<Millis>> {
        self.tables.meta.get(&self.handle, UNHEARD)
    }

    /// When a bridge was first started on this store: no earlier one has carried what was said since. `None` if that is not known.
    pub fn began(&self) -> Result<Option<Millis>> {
        self.tables.meta.get(&self.handle, BEGAN)
    }

    /// Until when everything was obeyed, though no row knows of it: 0 but for a store that was made anew from the rooms.
    pub fn obeyed_until(&self) -> Result<Millis> {
        Ok(self.tables.meta.get(&self.handle, OBEYED)?.unwrap_or(Millis(0)))
    }
}

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl WriteTxn<'_> {
    /// See [`Txn::obeyed_until`].
    pub fn put_obeyed_until(&mut self, at: Millis) -> Result<()> {
        self.tables.meta.put(&self.handle, OBEYED, &at)
    }

    /// A bridge is started on this store; see [`Txn::began`].
    pub fn note_start(&mut self, at: Millis) -> Result<()> {
        match self.began()? {
            Some(_) => Ok(()),
            None => self.tables.meta.put(&self.handle, BEGAN, &at),
        }
    }

    /// Events from `since` on may have been kept back. What was noted before and is older stays.
    pub fn note_unheard(&mut self, since: Millis) -> Result<()> {
        match self.unheard_since()? {
            Some(before) if before <= since => Ok(()),
            _ => self.tables.meta.put(&self.handle, UNHEARD, &since),
        }
    }

    /// Rooms were read from `since` on; false when something older was noted meanwhile.
    pub fn clear_unheard(&mut self, since: Millis) -> Result<bool> {
        let cleared = self.unheard_since()?.is_none_or(|noted| noted >= since);
        if cleared {
            self.tables.meta.remove(&self.handle, UNHEARD)?;
        }
        Ok(cleared)
    }
}

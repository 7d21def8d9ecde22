//! What a store that is older than the world has to learn again.

use reconcile::model::{Millis, PortalKey};

use super::{Txn, portals::parts};
use crate::{
    Restored, WriteTxn,
    backup::RESTORED,
    error::Result,
    tables::{Mode, id},
};

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl<M: Mode> Txn<M> {
    /// That the store is an older one put in place of a newer, and what came of that is not settled yet.
    pub fn restored(&self) -> Result<Option<Restored>> {
        self.tables.meta.get(&self.handle, RESTORED)
    }

    /// Since when links of a portal may be missing, because a newer store knew them; `None` when all is known.
    pub fn relearn_since(&self, portal: &PortalKey) -> Result<Option<Millis>> {
        let table = self.tables.relearn.open(&self.handle)?;
        Ok(redb::ReadableTable::get(table, parts(portal))?.map(|since| Millis(since.value())))
    }

    /// The portals of which [`Txn::relearn_since`] tells something.
    pub fn relearn_keys(&self) -> Result<Vec<PortalKey>> {
        let table = &self.tables.relearn;
        table.collect(&self.handle, .., usize::MAX, |(account, room), _| {
            Ok(PortalKey::new(id(table.name, account)?, id(table.name, room)?))
        })
    }
}

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl WriteTxn<'_> {
    /// What came of the restored store is settled, but for the portals that have yet to learn.
    pub fn clear_restored(&mut self) -> Result<()> {
        self.tables.meta.remove(&self.handle, RESTORED).map(drop)
    }

    /// Notes since when links of a portal may be missing; `None` when all is known again.
    pub fn put_relearn(&mut self, portal: &PortalKey, since: Option<Millis>) -> Result<()> {
        match since {
            Some(since) => {
                let table = self.tables.relearn.open_mut(&self.handle)?;
                table.insert(parts(portal), since.0)?;
                Ok(())
            }
            None => self.tables.relearn.remove(&self.handle, parts(portal)).map(drop),
        }
    }
}

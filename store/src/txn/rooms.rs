//! Gitter rooms, the people in them, ghosts, media.

use reconcile::model::{
    Ghost, GitterRoom, GitterRoomId, GitterUserId, MessageId, PortalKey, alike,
};
use ruma::UserId;

use super::{Txn, after, pairs};
use crate::{
    WriteTxn,
    error::Result,
    tables::{Mode, id},
};

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl<M: Mode> Txn<M> {
    /// A Gitter room as the portal's account last saw it. Most are the same to all, whoever saw them; a conversation of two is called
    /// after the other, and not known before its account has seen it.
    pub fn room(&self, portal: &PortalKey) -> Result<Option<GitterRoom>> {
        let table = &self.tables.rooms;
        let shared: Option<GitterRoom> = table.get(&self.handle, portal.room.as_str())?;
        if shared.as_ref().is_some_and(|room| room.one_to_one) {
            return table.get(&self.handle, &portal.to_string());
        }
        Ok(shared)
    }

    /// Who should be in the portals of a room, most wanted first.
    pub fn people(&self, room: &GitterRoomId) -> Result<Vec<GitterUserId>> {
        Ok(self.tables.people.get(&self.handle, room.as_str())?.unwrap_or_default())
    }

    /// A ghost.
    pub fn ghost(&self, id: &GitterUserId) -> Result<Option<Ghost>> {
        self.tables.ghosts.get(&self.handle, id.as_str())
    }

    /// Which Gitter user a ghost is.
    pub fn ghost_named(&self, user: &UserId) -> Result<Option<GitterUserId>> {
        let table = &self.tables.ghost_names;
        let found = redb::ReadableTable::get(table.open(&self.handle)?, user.as_str())?;
        found.map(|found| id(table.name, found.value())).transpose()
    }

    /// Who on Gitter is called so, as people compare names (see [`alike`]), in order, at most `limit`.
    pub fn namesakes(&self, display_name: &str, limit: usize) -> Result<Vec<GitterUserId>> {
        let (table, name) = (&self.tables.ghost_shown, alike(display_name));
        let end = after(&name);
        table.collect(&self.handle, pairs(&name, &end), limit, |(_, person), ()| {
            id(table.name, person)
        })
    }

    /// Where the copy of a picture or file is on the homeserver (an `mxc:` uri), by where it comes from; of a picture in a
    /// message, by that message's id and the picture, what is known of it.
    pub fn media(&self, source: &str) -> Result<Option<String>> {
        let table = self.tables.media.open(&self.handle)?;
        let found = redb::ReadableTable::get(table, source)?;
        Ok(found.map(|found| found.value().to_owned()))
    }
}

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl WriteTxn<'_> {
    /// Keeps a Gitter room as the portal's account has just seen it.
    pub fn put_room(&mut self, portal: &PortalKey, row: &GitterRoom) -> Result<()> {
        let table = &mut self.tables.rooms;
        if row.one_to_one {
            table.put(&self.handle, &portal.to_string(), row)?;
        }
        // Of a conversation of two this row only tells that it is one.
        table.put(&self.handle, portal.room.as_str(), row)
    }

    /// Keeps who should be in the portals of a room; an empty list removes the row.
    pub fn put_people(&mut self, room: &GitterRoomId, people: &[GitterUserId]) -> Result<()> {
        if people.is_empty() {
            self.tables.people.remove(&self.handle, room.as_str()).map(drop)
        } else {
            self.tables.people.put(&self.handle, room.as_str(), &people)
        }
    }

    /// Keeps a ghost, which Gitter user it is, and what that one is called.
    pub fn put_ghost(&mut self, id: &GitterUserId, row: &Ghost) -> Result<()> {
        let (old, shown) = (self.ghost(id)?, alike(&row.profile.display_name));
        let before = old.as_ref().map(|old| alike(&old.profile.display_name));
        if let Some(before) = before.filter(|before| *before != shown) {
            self.tables.ghost_shown.remove(&self.handle, (before.as_str(), id.as_str()))?;
        }
        self.tables.ghost_shown.mark(&self.handle, (shown.as_str(), id.as_str()))?;
        if let Some(old) = old.filter(|old| old.user != row.user)
            && self.ghost_named(&old.user)?.as_ref() == Some(id)
        {
            self.tables.ghost_names.remove(&self.handle, old.user.as_str())?;
        }
        if self.ghost_named(&row.user)?.as_ref() != Some(id) {
            let table = self.tables.ghost_names.open_mut(&self.handle)?;
            table.insert(row.user.as_str(), id.as_str())?;
        }
        self.tables.ghosts.put(&self.handle, id.as_str(), row)
    }

    /// Forgets the copies kept for messages made before `before` (their sources begin with the message's id), oldest first, at
    /// most `limit`; returns how many.
    pub fn prune_media(&mut self, before: &MessageId, limit: usize) -> Result<usize> {
        let table = &self.tables.media;
        let old = table
            .collect(&self.handle, ..before.as_str(), limit, |source, _| Ok(source.to_owned()))?;
        for source in &old {
            self.tables.media.remove(&self.handle, source.as_str())?;
        }
        Ok(old.len())
    }

    /// Keeps where the copy of a picture or file is.
    pub fn put_media(&mut self, source: &str, mxc: &str) -> Result<()> {
        if self.media(source)?.as_deref() != Some(mxc) {
            self.tables.media.open_mut(&self.handle)?.insert(source, mxc)?;
        }
        Ok(())
    }
}

//! Portals, their indexes, and who is inside.

use reconcile::model::{Cursor, GitterRoomId, Portal, PortalKey};
use ruma::{OwnedUserId, RoomId, UserId};

use super::{Txn, after, pairs};
use crate::{
    WriteTxn,
    error::Result,
    tables::{Mode, decode, id},
};

pub(super) fn parts(key: &PortalKey) -> (&str, &str) {
    (key.account.as_str(), key.room.as_str())
}

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl<M: Mode> Txn<M> {
    /// A portal.
    pub fn portal(&self, key: &PortalKey) -> Result<Option<Portal>> {
        self.tables.portals.get(&self.handle, parts(key))
    }

    /// The portals of an account, in order of their Gitter rooms.
    pub fn portals_of(&self, account: &UserId) -> Result<Vec<(GitterRoomId, Portal)>> {
        let (table, end) = (&self.tables.portals, after(account.as_str()));
        table.collect(&self.handle, pairs(account.as_str(), &end), usize::MAX, |key, row| {
            Ok((id(table.name, key.1)?, decode(table.name, &key, row)?))
        })
    }

    /// The portals that show a Gitter room, in order of their accounts.
    pub fn portals_for(&self, room: &GitterRoomId) -> Result<Vec<PortalKey>> {
        let (table, end) = (&self.tables.portals_by_room, after(room.as_str()));
        table.collect(&self.handle, pairs(room.as_str(), &end), usize::MAX, |key, ()| {
            Ok(PortalKey::new(id(table.name, key.1)?, room.clone()))
        })
    }

    /// The portal that is at a Matrix room.
    pub fn portal_at(&self, room: &RoomId) -> Result<Option<PortalKey>> {
        self.tables.portal_rooms.get(&self.handle, room.as_str())
    }

    /// The portal that was at a Matrix room before it moved to where it is now; of an earlier room nothing is known.
    pub fn portal_before(&self, room: &RoomId) -> Result<Option<PortalKey>> {
        let Some(chat) = self.chat(room)? else { return Ok(None) };
        let portals = self.portals_of(&chat.account)?.into_iter();
        let mut was_there = portals.filter(|(_, p)| p.before.as_deref() == Some(room));
        Ok(was_there.next().map(|(id, _)| PortalKey::new(chat.account, id)))
    }

    /// How many portals there are.
    pub fn portal_count(&self) -> Result<usize> {
        self.tables.portals.count(&self.handle)
    }

    /// Every portal's key.
    pub fn portal_keys(&self) -> Result<Vec<PortalKey>> {
        let table = &self.tables.portals;
        table.collect(&self.handle, .., usize::MAX, |(account, room), _| {
            Ok(PortalKey::new(id(table.name, account)?, id(table.name, room)?))
        })
    }

    /// How far a portal has seen its Gitter room.
    pub fn cursor(&self, key: &PortalKey) -> Result<Option<Cursor>> {
        self.tables.cursors.get(&self.handle, parts(key))
    }

    /// The ghosts that are in a Matrix room, as last seen, in order.
    pub fn inside(&self, room: &RoomId) -> Result<Vec<OwnedUserId>> {
        let (table, end) = (&self.tables.inside, after(room.as_str()));
        table.collect(&self.handle, pairs(room.as_str(), &end), usize::MAX, |(_, ghost), ()| {
            id(table.name, ghost)
        })
    }

    /// Whether a ghost is in a Matrix room, as last seen.
    pub fn is_inside(&self, room: &RoomId, ghost: &UserId) -> Result<bool> {
        self.tables.inside.has(&self.handle, &(room.as_str(), ghost.as_str()))
    }
}

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl WriteTxn<'_> {
    /// Keeps a portal and the indexes from rooms to portals. Who was inside the Matrix room that it no longer is at is forgotten.
    pub fn put_portal(&mut self, key: &PortalKey, row: &Portal) -> Result<()> {
        let before = self.portal(key)?;
        let old = before.as_ref().and_then(|portal| portal.place.room());
        let new = row.place.room();
        if let Some(old) = old.filter(|old| Some(*old) != new) {
            self.leave_room(key, old)?;
            if new.is_none() && !row.open.desired {
                // Closed and empty: when it opens again, it begins then, and what was said meanwhile is not repeated.
                // Its events are in a room that nobody sees again.
                self.tables.cursors.remove(&self.handle, parts(key))?;
                self.clear_links(key)?;
                self.clear_unconfirmed(key)?;
                self.relearn_what_waits(key)?;
            }
        }
        if let Some(new) = new {
            self.tables.portal_rooms.put(&self.handle, new.as_str(), key)?;
        }
        self.tables
            .portals_by_room
            .mark(&self.handle, (key.room.as_str(), key.account.as_str()))?;
        let Some(since) = row.doubtful.filter(|_| new.is_none() || row.open.desired) else {
            return self.tables.portals.put(&self.handle, parts(key), row);
        };
        if new.is_some() {
            let noted = self.relearn_since(key)?.map_or(since, |noted| noted.min(since));
            self.put_relearn(key, Some(noted))?;
        }
        let row = Portal { doubtful: None, ..row.clone() };
        self.tables.portals.put(&self.handle, parts(key), &row)
    }

    /// Removes a portal and all that hangs on it: indexes, cursor, links, and who was inside. What waits in its outbox stays:
    /// whoever wrote it has yet to hear what became of it.
    pub fn remove_portal(&mut self, key: &PortalKey) -> Result<()> {
        if let Some(room) = self.portal(key)?.as_ref().and_then(|portal| portal.place.room()) {
            self.leave_room(key, room)?;
        }
        let by_room = (key.room.as_str(), key.account.as_str());
        self.tables.portals_by_room.remove(&self.handle, by_room)?;
        self.tables.cursors.remove(&self.handle, parts(key))?;
        self.clear_links(key)?;
        self.clear_unconfirmed(key)?;
        self.relearn_what_waits(key)?;
        self.tables.portals.remove(&self.handle, parts(key))?;
        Ok(())
    }

    /// Of a portal without a room only what waits in its outbox is still to be learned of.
    fn relearn_what_waits(&mut self, key: &PortalKey) -> Result<()> {
        if self.first_outgoing(key)?.is_none() {
            self.put_relearn(key, None)?;
        }
        Ok(())
    }

    fn leave_room(&mut self, key: &PortalKey, room: &RoomId) -> Result<()> {
        // Another portal may have been put there since: the room is that one's now.
        if self.portal_at(room)?.as_ref() == Some(key) {
            self.tables.portal_rooms.remove(&self.handle, room.as_str())?;
            let end = after(room.as_str());
            self.tables.inside.clear(&self.handle, pairs(room.as_str(), &end))?;
        }
        Ok(())
    }

    /// Keeps how far a portal has seen its Gitter room.
    pub fn put_cursor(&mut self, key: &PortalKey, row: &Cursor) -> Result<()> {
        self.tables.cursors.put(&self.handle, parts(key), row)
    }

    /// Notes that a ghost is in a Matrix room, or is not.
    pub fn put_inside(&mut self, room: &RoomId, ghost: &UserId, inside: bool) -> Result<()> {
        let key = (room.as_str(), ghost.as_str());
        if inside {
            self.tables.inside.mark(&self.handle, key)
        } else {
            self.tables.inside.remove(&self.handle, key).map(drop)
        }
    }
}

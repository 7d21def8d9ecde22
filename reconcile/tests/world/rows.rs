//! The rows, in maps: a transaction works on a copy that takes the place of the original when it succeeds.

use std::collections::{BTreeMap, BTreeSet};

use reconcile::{
    model::{
        Account, Chat, Ghost, GitterRoom, GitterRoomId, GitterUserId, Notice, Portal, PortalKey,
        Target, alike,
    },
    port::{Rows, TableError, Tables},
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

type Result<T> = std::result::Result<T, TableError>;

/// Everything that survives a crash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) accounts: BTreeMap<OwnedUserId, Account>,
    pub(crate) portals: BTreeMap<PortalKey, Portal>,
    pub(crate) rooms: BTreeMap<GitterRoomId, GitterRoom>,
    pub(crate) people: BTreeMap<GitterRoomId, Vec<GitterUserId>>,
    pub(crate) ghosts: BTreeMap<GitterUserId, Ghost>,
    pub(crate) inside: BTreeSet<(OwnedRoomId, OwnedUserId)>,
    pub(crate) chats: BTreeMap<OwnedRoomId, Chat>,
    pub(crate) notices: Vec<Notice>,
    /// The homeserver may have kept something back.
    pub(crate) unheard: bool,
    /// Tokens; which of them are good is Gitter's affair.
    pub(crate) tokens: BTreeMap<OwnedUserId, u64>,
}

impl Data {
    /// The rows of an account's portals.
    pub(crate) fn portals_of(
        &self,
        account: &UserId,
    ) -> impl Iterator<Item = (&PortalKey, &Portal)> {
        self.portals.iter().filter(move |(key, _)| key.account == account)
    }
}

impl Rows for Data {
    fn account(&self, user: &UserId) -> Result<Option<Account>> {
        Ok(self.accounts.get(user).cloned())
    }
    fn accounts(&self) -> Result<Vec<(OwnedUserId, Account)>> {
        Ok(self.accounts.clone().into_iter().collect())
    }
    fn portal(&self, key: &PortalKey) -> Result<Option<Portal>> {
        Ok(self.portals.get(key).cloned())
    }
    fn portals_of(&self, account: &UserId) -> Result<Vec<(GitterRoomId, Portal)>> {
        Ok(self.portals_of(account).map(|(k, p)| (k.room.clone(), p.clone())).collect())
    }
    fn portals_for(&self, room: &GitterRoomId) -> Result<Vec<PortalKey>> {
        Ok(self.portals.keys().filter(|key| key.room == *room).cloned().collect())
    }
    fn portal_at(&self, room: &RoomId) -> Result<Option<PortalKey>> {
        let at = |p: &Portal| p.place.room().is_some_and(|its| its == room);
        Ok(self.portals.iter().find(|(_, portal)| at(portal)).map(|(key, _)| key.clone()))
    }
    fn portal_count(&self) -> Result<usize> {
        Ok(self.portals.len())
    }
    fn portal_keys(&self) -> Result<Vec<PortalKey>> {
        Ok(self.portals.keys().cloned().collect())
    }
    fn room(&self, portal: &PortalKey) -> Result<Option<GitterRoom>> {
        Ok(self.rooms.get(&portal.room).cloned())
    }
    fn people(&self, room: &GitterRoomId) -> Result<Vec<GitterUserId>> {
        Ok(self.people.get(room).cloned().unwrap_or_default())
    }
    fn ghost(&self, id: &GitterUserId) -> Result<Option<Ghost>> {
        Ok(self.ghosts.get(id).cloned())
    }
    fn ghost_named(&self, user: &UserId) -> Result<Option<GitterUserId>> {
        Ok(self.ghosts.iter().find(|(_, ghost)| ghost.user == user).map(|(id, _)| id.clone()))
    }
    fn namesakes(&self, display_name: &str, limit: usize) -> Result<Vec<GitterUserId>> {
        let name = alike(display_name);
        let same = self.ghosts.iter().filter(|(_, g)| alike(&g.profile.display_name) == name);
        Ok(same.map(|(id, _)| id.clone()).take(limit).collect())
    }
    fn inside(&self, room: &RoomId) -> Result<Vec<OwnedUserId>> {
        Ok(self.inside.iter().filter(|(r, _)| r == room).map(|(_, ghost)| ghost.clone()).collect())
    }
    fn is_inside(&self, room: &RoomId, ghost: &UserId) -> Result<bool> {
        Ok(self.inside.contains(&(room.to_owned(), ghost.to_owned())))
    }
    fn chat(&self, room: &RoomId) -> Result<Option<Chat>> {
        Ok(self.chats.get(room).cloned())
    }
    fn chats(&self) -> Result<Vec<(OwnedRoomId, Chat)>> {
        Ok(self.chats.clone().into_iter().collect())
    }
    fn is_unheard(&self) -> Result<bool> {
        Ok(self.unheard)
    }
    fn has_notices(&self, target: &Target) -> Result<bool> {
        Ok(self.notices.iter().any(|notice| notice.to == *target))
    }
}

impl Tables for Data {
    fn put_account(&mut self, user: &UserId, row: &Account) -> Result<()> {
        self.accounts.insert(user.to_owned(), row.clone());
        Ok(())
    }
    fn put_portal(&mut self, key: &PortalKey, row: &Portal) -> Result<()> {
        self.portals.insert(key.clone(), row.clone());
        Ok(())
    }
    fn remove_portal(&mut self, key: &PortalKey) -> Result<()> {
        if let Some(room) = self.portals.remove(key).and_then(|p| p.place.room().cloned()) {
            self.inside.retain(|(r, _)| *r != room);
        }
        Ok(())
    }
    fn put_room(&mut self, portal: &PortalKey, row: &GitterRoom) -> Result<()> {
        self.rooms.insert(portal.room.clone(), row.clone());
        Ok(())
    }
    fn put_people(&mut self, room: &GitterRoomId, people: &[GitterUserId]) -> Result<()> {
        self.people.insert(room.clone(), people.to_vec());
        Ok(())
    }
    fn put_ghost(&mut self, id: &GitterUserId, row: &Ghost) -> Result<()> {
        self.ghosts.insert(id.clone(), row.clone());
        Ok(())
    }
    fn put_inside(&mut self, room: &RoomId, ghost: &UserId, inside: bool) -> Result<()> {
        let row = (room.to_owned(), ghost.to_owned());
        if inside {
            self.inside.insert(row);
        } else {
            self.inside.remove(&row);
        }
        Ok(())
    }
    fn put_chat(&mut self, room: &RoomId, row: &Chat) -> Result<()> {
        self.chats.insert(room.to_owned(), row.clone());
        Ok(())
    }
    fn remove_chat(&mut self, room: &RoomId) -> Result<()> {
        self.chats.remove(room);
        Ok(())
    }
    fn push_notice(&mut self, notice: &Notice) -> Result<()> {
        self.notices.push(notice.clone());
        Ok(())
    }
    fn wipe_token(&mut self, user: &UserId) -> Result<()> {
        self.tokens.remove(user);
        Ok(())
    }
}

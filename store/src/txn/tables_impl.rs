//! The transaction as the reconciler knows it: the inherent methods of the same names, with the trait's error.

use reconcile::{
    model::{
        Account, Chat, Ghost, GitterRoom, GitterRoomId, GitterUserId, Millis, Notice, Portal,
        PortalKey, Target,
    },
    port::{Rows, TableError, Tables},
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use super::Txn;
use crate::{WriteTxn, tables::Mode};

type Result<T> = std::result::Result<T, TableError>;

impl<M: Mode> Rows for Txn<M> {
    fn account(&self, user: &UserId) -> Result<Option<Account>> {
        Ok(self.account(user)?)
    }

    fn accounts(&self) -> Result<Vec<(OwnedUserId, Account)>> {
        Ok(self.accounts()?)
    }

    fn portal(&self, key: &PortalKey) -> Result<Option<Portal>> {
        Ok(self.portal(key)?)
    }

    fn portals_of(&self, account: &UserId) -> Result<Vec<(GitterRoomId, Portal)>> {
        Ok(self.portals_of(account)?)
    }

    fn portals_for(&self, room: &GitterRoomId) -> Result<Vec<PortalKey>> {
        Ok(self.portals_for(room)?)
    }

    fn portal_at(&self, room: &RoomId) -> Result<Option<PortalKey>> {
        Ok(self.portal_at(room)?)
    }

    fn portal_keys(&self) -> Result<Vec<PortalKey>> {
        Ok(self.portal_keys()?)
    }

    fn room(&self, portal: &PortalKey) -> Result<Option<GitterRoom>> {
        Ok(self.room(portal)?)
    }

    fn people(&self, room: &GitterRoomId) -> Result<Vec<GitterUserId>> {
        Ok(self.people(room)?)
    }

    fn ghost(&self, id: &GitterUserId) -> Result<Option<Ghost>> {
        Ok(self.ghost(id)?)
    }

    fn ghost_named(&self, user: &UserId) -> Result<Option<GitterUserId>> {
        Ok(self.ghost_named(user)?)
    }

    fn namesakes(&self, display_name: &str, limit: usize) -> Result<Vec<GitterUserId>> {
        Ok(self.namesakes(display_name, limit)?)
    }

    fn inside(&self, room: &RoomId) -> Result<Vec<OwnedUserId>> {
        Ok(self.inside(room)?)
    }

    fn is_inside(&self, room: &RoomId, ghost: &UserId) -> Result<bool> {
        Ok(self.is_inside(room, ghost)?)
    }

    fn chat(&self, room: &RoomId) -> Result<Option<Chat>> {
        Ok(self.chat(room)?)
    }

    fn chats(&self) -> Result<Vec<(OwnedRoomId, Chat)>> {
        Ok(self.chats()?)
    }

    fn is_unheard(&self) -> Result<bool> {
        Ok(self.unheard_since()?.is_some())
    }

    fn has_notices(&self, target: &Target) -> Result<bool> {
        Ok(self.has_notices(target)?)
    }

    fn portal_count(&self) -> Result<usize> {
        Ok(self.portal_count()?)
    }
}

impl Tables for WriteTxn<'_> {
    fn put_account(&mut self, user: &UserId, row: &Account) -> Result<()> {
        Ok(self.put_account(user, row)?)
    }

    fn put_portal(&mut self, key: &PortalKey, row: &Portal) -> Result<()> {
        Ok(self.put_portal(key, row)?)
    }

    fn remove_portal(&mut self, key: &PortalKey) -> Result<()> {
        Ok(self.remove_portal(key)?)
    }

    fn put_room(&mut self, portal: &PortalKey, row: &GitterRoom) -> Result<()> {
        Ok(self.put_room(portal, row)?)
    }

    fn put_people(&mut self, room: &GitterRoomId, people: &[GitterUserId]) -> Result<()> {
        Ok(self.put_people(room, people)?)
    }

    fn put_ghost(&mut self, id: &GitterUserId, row: &Ghost) -> Result<()> {
        Ok(self.put_ghost(id, row)?)
    }

    fn put_inside(&mut self, room: &RoomId, ghost: &UserId, inside: bool) -> Result<()> {
        Ok(self.put_inside(room, ghost, inside)?)
    }

    fn put_chat(&mut self, room: &RoomId, row: &Chat) -> Result<()> {
        Ok(self.put_chat(room, row)?)
    }

    fn remove_chat(&mut self, room: &RoomId) -> Result<()> {
        Ok(self.remove_chat(room)?)
    }

    fn push_notice(&mut self, notice: &Notice) -> Result<()> {
        self.push_notice(notice)?;
        Ok(())
    }

    fn relearn_all(&mut self, key: &PortalKey) -> Result<()> {
        Ok(self.put_relearn(key, Some(Millis(0)))?)
    }

    fn wipe_token(&mut self, user: &UserId) -> Result<()> {
        Ok(self.wipe_token(user)?)
    }
}

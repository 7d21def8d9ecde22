//! The rows that the reconciler reads and writes, inside one transaction or one snapshot.

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::model::{
    Account, Chat, Ghost, GitterRoom, GitterRoomId, GitterUserId, Notice, Portal, PortalKey, Target,
};

/// The store could not do it; nothing of the transaction has happened.
#[derive(Debug, thiserror::Error)]
#[error("the store failed")]
pub struct TableError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

type Result<T> = std::result::Result<T, TableError>;

/// The rows as they are: a snapshot, or a transaction that sees what it put.
///
/// # Errors
///
/// Every method fails with [`TableError`] when the store does.
#[expect(missing_docs, reason = "get rows: the row types say what they are")]
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
pub trait Rows {
    fn account(&self, user: &UserId) -> Result<Option<Account>>;
    /// All accounts, in order of their ids.
    fn accounts(&self) -> Result<Vec<(OwnedUserId, Account)>>;
    fn portal(&self, key: &PortalKey) -> Result<Option<Portal>>;
    fn portals_of(&self, account: &UserId) -> Result<Vec<(GitterRoomId, Portal)>>;
    /// The portals that show a Gitter room.
    fn portals_for(&self, room: &GitterRoomId) -> Result<Vec<PortalKey>>;
    /// The portal that is at a Matrix room.
    fn portal_at(&self, room: &RoomId) -> Result<Option<PortalKey>>;
    /// How many portals there are.
    fn portal_count(&self) -> Result<usize>;
    /// Every portal's key.
    fn portal_keys(&self) -> Result<Vec<PortalKey>>;
    /// A Gitter room as the portal's account last saw it: to each of two people who talk, their conversation is called after the
    /// other.
    fn room(&self, portal: &PortalKey) -> Result<Option<GitterRoom>>;
    /// Who should be in the portals of a room, most wanted first.
    fn people(&self, room: &GitterRoomId) -> Result<Vec<GitterUserId>>;
    fn ghost(&self, id: &GitterUserId) -> Result<Option<Ghost>>;
    /// Which Gitter user a ghost is.
    fn ghost_named(&self, user: &UserId) -> Result<Option<GitterUserId>>;
    /// Who on Gitter is called so, as people compare names (see [`alike`](crate::model::alike)), at most `limit` of them.
    fn namesakes(&self, display_name: &str, limit: usize) -> Result<Vec<GitterUserId>>;
    /// The ghosts that are in a Matrix room, as last seen.
    fn inside(&self, room: &RoomId) -> Result<Vec<OwnedUserId>>;
    fn is_inside(&self, room: &RoomId, ghost: &UserId) -> Result<bool>;
    fn chat(&self, room: &RoomId) -> Result<Option<Chat>>;
    fn chats(&self) -> Result<Vec<(OwnedRoomId, Chat)>>;
    /// Whether the homeserver may have kept back what people said, until their rooms were read once more.
    fn is_unheard(&self) -> Result<bool>;
    /// Whether words still wait for this target.
    fn has_notices(&self, target: &Target) -> Result<bool>;
}

/// One transaction over the rows of the desired state: all of it is kept, or nothing.
///
/// # Errors
///
/// Every method fails with [`TableError`] when the store does; the whole transaction is then void.
#[expect(missing_docs, reason = "put and remove rows: the row types say what they are")]
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
pub trait Tables: Rows {
    fn put_account(&mut self, user: &UserId, row: &Account) -> Result<()>;
    /// Also keeps the indexes from rooms to portals.
    fn put_portal(&mut self, key: &PortalKey, row: &Portal) -> Result<()>;
    /// Also forgets its cursor, links and members.
    fn remove_portal(&mut self, key: &PortalKey) -> Result<()>;
    fn put_room(&mut self, portal: &PortalKey, row: &GitterRoom) -> Result<()>;
    fn put_people(&mut self, room: &GitterRoomId, people: &[GitterUserId]) -> Result<()>;
    /// Also keeps who is called how.
    fn put_ghost(&mut self, id: &GitterUserId, row: &Ghost) -> Result<()>;
    fn put_inside(&mut self, room: &RoomId, ghost: &UserId, inside: bool) -> Result<()>;
    fn put_chat(&mut self, room: &RoomId, row: &Chat) -> Result<()>;
    fn remove_chat(&mut self, room: &RoomId) -> Result<()>;
    /// Puts words behind those that wait for the same target.
    fn push_notice(&mut self, notice: &Notice) -> Result<()>;
    /// The portal is at a room that no row knew: what was carried there before has to be learned from the room.
    fn relearn_all(&mut self, key: &PortalKey) -> Result<()> {
        let _ = key;
        Ok(())
    }
    /// Forgets the account's token, in the same write as whatever else.
    fn wipe_token(&mut self, user: &UserId) -> Result<()>;
}

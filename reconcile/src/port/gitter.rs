//! Gitter.

use std::future::Future;

use ruma::UserId;

use super::ActionError;
use crate::model::{Door, GitterRoom, GitterRoomId, GitterUserId, Profile};

/// A room as an account sees it in the list of its rooms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomSeen {
    /// The id that stays.
    pub id: GitterRoomId,
    /// What it looks like.
    pub room: GitterRoom,
    /// Unread messages, at most 100.
    pub unread: u32,
    /// Unread mentions, at most 100.
    pub mentions: u32,
    /// For sorting: greater is more recently active.
    pub active: u64,
}

/// What a name turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The room.
    pub room: RoomSeen,
    /// Whether the account is a member.
    pub member: bool,
}

/// A member of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonSeen {
    /// The id that stays.
    pub id: GitterUserId,
    /// The name, exact case.
    pub username: String,
    /// What they show.
    pub profile: Profile,
}

/// Who is in a room, as far as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeopleSeen {
    /// Recent speakers first, then other members.
    pub people: Vec<PersonSeen>,
    /// Whether these are the room's members, all of them and nobody else.
    pub all: bool,
}

/// Gitter, as the reconciler needs it, always in the name of an account.
pub trait Gitter: Send + Sync {
    /// Rooms the account is in. Follows the pages to the end: an error is never half a list.
    fn rooms(
        &self,
        account: &UserId,
    ) -> impl Future<Output = Result<Vec<RoomSeen>, ActionError>> + Send;
    /// The room with this uri, or the conversation with this user (`name` or `@name`).
    fn resolve(
        &self,
        account: &UserId,
        name: &str,
    ) -> impl Future<Output = Result<Resolved, ActionError>> + Send;
    /// Joins; joining twice changes nothing.
    fn join(
        &self,
        account: &UserId,
        room: &GitterRoomId,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;
    /// Leaves; leaving twice changes nothing.
    fn leave(
        &self,
        account: &UserId,
        room: &GitterRoomId,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;
    /// Whether a room that the account has lost is still open to it; a guess where that can't be found out.
    fn door(&self, account: &UserId, room: &GitterRoomId) -> impl Future<Output = Door> + Send {
        let _ = (account, room);
        std::future::ready(Door::Open)
    }
    /// Who is in the room: recent speakers first, then other members, at most `at_most`.
    fn people(
        &self,
        account: &UserId,
        room: &GitterRoomId,
        at_most: usize,
    ) -> impl Future<Output = Result<PeopleSeen, ActionError>> + Send;
    /// Whether somebody is in the room; `None` where that can't be found out.
    fn is_member(
        &self,
        account: &UserId,
        room: &GitterRoomId,
        person: &GitterUserId,
        username: &str,
    ) -> impl Future<Output = Result<Option<bool>, ActionError>> + Send {
        let _ = (account, room, person, username);
        std::future::ready(Ok(None))
    }
}

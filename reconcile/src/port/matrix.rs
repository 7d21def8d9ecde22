//! The homeserver.

use std::{collections::BTreeSet, future::Future};

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};

use super::ActionError;
use crate::model::{GitterRoom, GitterUserId, Millis, PortalKey, Profile};

/// Whether a user is in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Not in it: never was, left, declined or was removed.
    Out,
    /// Invited and not decided yet.
    Invited,
    /// Joined.
    In,
    /// Banned, and so not to be invited.
    Banned,
}

/// As whom something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who<'a> {
    /// The bot.
    Bot,
    /// A ghost.
    Ghost(&'a UserId),
}

/// A room to make. Its creation content carries [`NewRoom::marker`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewRoom {
    /// A portal.
    Portal {
        /// Whose, and for what.
        key: PortalKey,
        /// What it shows.
        shows: GitterRoom,
    },
    /// A control room for this account.
    Control(OwnedUserId),
}

impl NewRoom {
    /// What is written into the creation content, so that the room can be found again.
    #[must_use]
    pub fn marker(&self) -> String {
        match self {
            Self::Portal { key, .. } => key.to_string(),
            Self::Control(account) => format!("control/{account}"),
        }
    }
}

/// The end of a room: what its `m.room.tombstone` says.
///
/// See <https://spec.matrix.org/v1.16/client-server-api/#room-upgrades>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// The event itself.
    pub event: OwnedEventId,
    /// When it was sent, by the homeserver's clock.
    pub since: Millis,
    /// Whether its sender has the power to send one, by the levels of the room.
    pub entitled: bool,
    /// The room that goes on, if it names one.
    pub replacement: Option<OwnedRoomId>,
}

/// The beginning of a room, as far as it matters for one that replaces another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The room it says it replaces, and, in room versions below 12, that room's tombstone.
    pub predecessor: Option<(OwnedRoomId, Option<OwnedEventId>)>,
    /// Whether the bot has the power there that a portal takes.
    pub able: bool,
}

/// The homeserver, as the reconciler needs it. Every action may be repeated and may be cancelled at any await.
pub trait Matrix: Send + Sync {
    /// The bot itself.
    fn bot(&self) -> &UserId;
    /// Whether the name belongs to the bridge: a ghost, registered or not.
    fn is_ghost(&self, user: &UserId) -> bool;
    /// The Matrix id for a Gitter user; with `suffix` one that nobody else can have.
    fn ghost_id(&self, username: &str, id: &GitterUserId, suffix: bool) -> OwnedUserId;

    /// The rooms the bot is in.
    fn rooms(&self) -> impl Future<Output = Result<BTreeSet<OwnedRoomId>, ActionError>> + Send;
    /// The marker of a room that the bot itself made, or [marked](Matrix::mark); `None` when there is none, or it is
    /// somebody else's.
    fn marker(
        &self,
        room: &RoomId,
    ) -> impl Future<Output = Result<Option<String>, ActionError>> + Send;
    /// Who is joined; `None` when the room is gone, or the bot was thrown out of it.
    fn members(
        &self,
        room: &RoomId,
    ) -> impl Future<Output = Result<Option<BTreeSet<OwnedUserId>>, ActionError>> + Send;
    /// Whether one user is in the room, or invited.
    fn presence(
        &self,
        room: &RoomId,
        user: &UserId,
    ) -> impl Future<Output = Result<Presence, ActionError>> + Send;

    /// The end of a room; `None` when it goes on, or the bot is not in it.
    fn tombstone(
        &self,
        room: &RoomId,
    ) -> impl Future<Output = Result<Option<Tombstone>, ActionError>> + Send;
    /// The beginning of a room; `None` when the bot is not in it.
    fn origin(
        &self,
        room: &RoomId,
    ) -> impl Future<Output = Result<Option<Origin>, ActionError>> + Send;

    /// Writes into a room that the bot did not make as such what it is: the marker, and whatever else a homeserver does not
    /// copy when it upgrades a room. Marking twice changes nothing.
    fn mark(
        &self,
        room: &RoomId,
        is: &NewRoom,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;
    /// Takes everybody without power their word in a room, so that nothing is said where nobody listens any more. Where the bot
    /// is not in it, nothing is done.
    fn hush(&self, room: &RoomId) -> impl Future<Output = Result<(), ActionError>> + Send;
    /// Makes a room without inviting anybody. Not safe to repeat: a failure may leave a room behind.
    fn create(
        &self,
        room: &NewRoom,
    ) -> impl Future<Output = Result<OwnedRoomId, ActionError>> + Send;
    /// Invites; inviting a member or an invited user changes nothing.
    fn invite(
        &self,
        room: &RoomId,
        user: &UserId,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;
    /// Invites to a chat of two, which clients show as such; otherwise as [`Matrix::invite`].
    fn invite_direct(
        &self,
        room: &RoomId,
        user: &UserId,
    ) -> impl Future<Output = Result<(), ActionError>> + Send {
        self.invite(room, user)
    }
    /// A mark of what is to be announced in a portal as what can be done there, other for every room; 0 when nothing is.
    fn features(&self, _room: &RoomId) -> u64 {
        0
    }
    /// Announces in a portal what can be done in it; a new portal is made with that.
    fn announce(
        &self,
        _room: &RoomId,
        _key: &PortalKey,
    ) -> impl Future<Output = Result<(), ActionError>> + Send {
        std::future::ready(Ok(()))
    }
    /// Removes somebody, or withdraws an invite; removing a non-member changes nothing.
    fn remove(
        &self,
        room: &RoomId,
        user: &UserId,
        reason: &str,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;
    /// Joins; joining twice changes nothing.
    fn enter(
        &self,
        room: &RoomId,
        who: Who<'_>,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;
    /// Leaves, or declines an invite; the bot also forgets the room. Leaving twice changes nothing.
    fn leave(
        &self,
        room: &RoomId,
        who: Who<'_>,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;
    /// Whether the picture at this address can be shown; to find out, it is brought to the homeserver. One that can't be had is
    /// no failure: no room or ghost waits for its picture.
    fn has_picture(&self, address: &str) -> impl Future<Output = bool> + Send;
    /// Sets what differs of name, topic and picture. Without `old` everything else is put back, too, that strays in a room:
    /// levels, and who may come in and see.
    fn show(
        &self,
        room: &RoomId,
        new: &GitterRoom,
        old: Option<&GitterRoom>,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;
    /// Registers the ghost when `old` is `None`, and sets what differs of its profile.
    fn dress(
        &self,
        ghost: &UserId,
        new: &Profile,
        old: Option<&Profile>,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;
}

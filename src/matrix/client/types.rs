//! What the homeserver answers, as far as the bridge reads it.

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    OwnedEventId, OwnedMxcUri, OwnedRoomId, OwnedUserId, RoomVersionId, UserId,
    events::room::member::MembershipState,
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::matrix::room::{CONTROL_KEY, PORTAL_KEY};

/// The user a token stands for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Whoami {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device, if one was named.
    #[serde(default)]
    pub device_id: Option<String>,
}

/// What a homeserver supports.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Versions {
    /// Versions of the specification, like `v1.11`.
    pub versions: Vec<String>,
    /// Features beyond it.
    #[serde(default, deserialize_with = "flags")]
    pub unstable_features: BTreeMap<String, bool>,
}

/// What came of the homeserver's call to the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PingOutcome {
    /// It works, and took this long.
    Reached(Duration),
    /// The registration's `id` is another one than the bridge was told.
    OtherId,
    /// The registration has no `url`.
    NoUrl,
    /// Something at the registration's `url` answered otherwise than the bridge does: another program, or another
    /// homeserver token.
    Refused {
        /// The HTTP status.
        status: Option<u64>,
        /// The beginning of what it said.
        body: String,
    },
    /// No connection to the registration's `url`; the homeserver's words.
    Unreachable(String),
    /// A connection, but no answer within the homeserver's patience.
    TimedOut,
    /// The homeserver is too old to know pings.
    Unsupported,
}

/// How a user looks to others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Profile {
    /// The name, if one is set.
    #[serde(default, alias = "displayname", deserialize_with = "text")]
    pub display_name: Option<String>,
    /// The avatar, if one is set. Homeservers don't check it: it may be no `mxc` address at all.
    #[serde(default, deserialize_with = "mxc")]
    pub avatar_url: Option<OwnedMxcUri>,
}

/// A state event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StateEvent {
    /// Its id; homeservers always tell it.
    #[serde(default)]
    pub event_id: Option<OwnedEventId>,
    /// When, in milliseconds since 1970; homeservers always tell it.
    #[serde(default)]
    pub origin_server_ts: u64,
    /// Who set it.
    pub sender: OwnedUserId,
    /// Its content.
    pub content: Value,
}

/// A user's relation to a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who set it: the user, or another who invited, kicked or banned.
    pub sender: OwnedUserId,
    /// The membership.
    pub membership: MembershipState,
    /// The whole content.
    pub content: Value,
}

/// A room's first event, which nobody can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateEvent {
    /// Who created the room.
    pub sender: OwnedUserId,
    /// The content.
    pub content: Value,
}

impl CreateEvent {
    /// The key of the portal that `bot` made this room for.
    ///
    /// Anybody may write the key into a room of their own, hence the check of the creator.
    #[must_use]
    pub fn portal(&self, bot: &UserId) -> Option<&str> {
        self.mark(PORTAL_KEY, bot)
    }

    /// The account that `bot` made this control room for.
    #[must_use]
    pub fn control(&self, bot: &UserId) -> Option<&str> {
        self.mark(CONTROL_KEY, bot)
    }

    /// The room that this one says it replaces, and that room's last event, if it tells.
    #[must_use]
    pub fn predecessor(&self) -> Option<(OwnedRoomId, Option<OwnedEventId>)> {
        let before = self.content.get("predecessor")?;
        let text = |key: &str| before.get(key).and_then(Value::as_str);
        let room = OwnedRoomId::try_from(text("room_id")?).ok()?;
        Some((room, text("event_id").and_then(|event| event.try_into().ok())))
    }

    /// The room's version; rooms without one are of version 1.
    #[must_use]
    pub fn version(&self) -> Option<RoomVersionId> {
        match self.content.get("room_version") {
            None => Some(RoomVersionId::V1),
            Some(version) => RoomVersionId::try_from(version.as_str()?).ok(),
        }
    }

    fn mark(&self, key: &str, bot: &UserId) -> Option<&str> {
        if self.sender == bot { self.content.get(key)?.as_str() } else { None }
    }
}

/// A piece of a room's history, newest first.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Page {
    /// The events.
    pub chunk: Vec<Value>,
    /// Where to go on towards the past; absent at the beginning of the room.
    #[serde(default)]
    pub end: Option<String>,
}

// What other people's clients wrote is not checked by homeservers: a wrong type is as good as nothing, and never a
// reason to lose a whole list.

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Value::deserialize(from)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
}

fn mxc<'de, D: Deserializer<'de>>(from: D) -> Result<Option<OwnedMxcUri>, D::Error> {
    Ok(text(from)?.map(OwnedMxcUri::from))
}

fn flags<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, bool>, D::Error> {
    let Value::Object(flags) = Value::deserialize(from)? else { return Ok(BTreeMap::new()) };
    Ok(flags.into_iter().filter_map(|(name, flag)| Some((name, flag.as_bool()?))).collect())
}

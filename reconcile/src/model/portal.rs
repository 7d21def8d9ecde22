//! A portal: the private Matrix room of one account for one Gitter room.

use ruma::OwnedRoomId;
use serde::{Deserialize, Serialize};

use super::{Millis, Moment, Reason, Wish};

/// Where the portal is on Matrix.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// No room.
    #[default]
    Nowhere,
    /// A room is about to be made. From here on, a room with the portal's key in its creation content is looked for before
    /// another is made.
    Intended {
        /// When the last attempt was begun.
        since: Moment,
    },
    /// This room.
    At(OwnedRoomId),
}

impl Place {
    /// The room, if there is one.
    #[must_use]
    pub fn room(&self) -> Option<&OwnedRoomId> {
        match self {
            Self::At(room) => Some(room),
            Self::Nowhere | Self::Intended { .. } => None,
        }
    }
}

/// What the user asked for this room and is to be told the end of, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// `gjoin` or `invite`: tell when the portal is there.
    Open,
    /// `gpart`: tell when the room was left.
    Part,
}

/// Why something is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There is no such room.
    NoSuchRoom,
    /// A word alone, which is the name of a person and not of a room.
    Person,
    /// The account is not in that room.
    NotThere,
    /// Private, banned, or another rule of the room.
    NotAllowed,
    /// The room was renamed and Gitter does not say to what.
    Renamed,
    /// One-to-one rooms can't be left.
    CannotLeave,
    /// The account is banned from its own portal.
    BannedFromPortal,
    /// The homeserver refuses.
    Homeserver,
    /// The account has too much power in its portal to be removed from it.
    CannotRemove,
    /// The account has no valid login.
    NotLoggedIn,
}

/// "Refused for good": not tried again before somebody changes something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Why.
    pub why: Refusal,
    /// The words of the other side, for admins.
    pub detail: String,
    /// Since when.
    pub since: Millis,
}

/// The private Matrix room of one account for one Gitter room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Portal {
    /// Is the account a member of the Gitter room?
    pub member: Wish<bool>,
    /// Is the account in its portal, or invited to it?
    pub open: Wish<bool>,
    /// Whether the account has accepted the invite, as last seen: what `list` marks.
    #[serde(default)]
    pub joined: bool,
    /// Where it is.
    pub place: Place,
    /// What the user is still to be told.
    pub ask: Option<Ask>,
    /// Set while something is refused for good.
    pub condition: Option<Condition>,
    /// Name, topic and picture as last set on Matrix.
    pub shown: Option<GitterRoom>,
    /// How often somebody else was seen to change what the room shows: what was set before that may not be there any more.
    #[serde(default)]
    pub strayed: u32,
    /// While the room is filled with what was said before, the invite waits; no longer than until this time.
    #[serde(default)]
    pub history: Option<Millis>,
    /// What was announced in the room as what can be done there: see [`Matrix::features`](crate::port::Matrix::features).
    #[serde(default)]
    pub features: u64,
    /// When the room was first found gone or replaced, until it is found again, followed or made anew.
    pub missing_since: Option<Millis>,
    /// The room that the tombstone of its own names, written before the bot comes in there to have a look: should its own be
    /// lost, nothing else tells where the bot is for nothing.
    #[serde(default)]
    pub successor: Option<OwnedRoomId>,
    /// The room it was in before this one: upgraded, or lost. What was said there can't be changed from here any more.
    #[serde(default)]
    pub before: Option<OwnedRoomId>,
    /// Since when a message may be on Gitter of which nothing was heard before its account logged out: to be learned of from the
    /// room, should it be opened again.
    #[serde(default)]
    pub doubtful: Option<Millis>,
}

impl Portal {
    /// A portal for a room the account is in on Gitter.
    #[must_use]
    pub fn found(open: bool, reason: Reason, at: Millis) -> Self {
        Self::with(Wish::found(true, reason, at), Wish::new(open, reason, at))
    }

    /// A portal for a room the account wants to be in on Gitter.
    #[must_use]
    pub fn asked(at: Millis) -> Self {
        Self::with(Wish::new(true, Reason::Asked, at), Wish::new(true, Reason::Asked, at))
    }

    fn with(member: Wish<bool>, mut open: Wish<bool>) -> Self {
        // No room: nobody can be in it.
        open.last = Some(false);
        Self {
            member,
            open,
            joined: false,
            place: Place::Nowhere,
            ask: None,
            condition: None,
            shown: None,
            strayed: 0,
            history: None,
            features: 0,
            missing_since: None,
            successor: None,
            before: None,
            doubtful: None,
        }
    }
}

/// A Gitter room as people see it; key: the Gitter room id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitterRoom {
    /// `org/room`; for one-to-one rooms the other's username with `@` before it.
    pub uri: String,
    /// What Gitter calls it; not the uri.
    pub name: String,
    /// May be empty.
    pub topic: String,
    /// Absolute.
    pub avatar_url: Option<String>,
    /// Whether it is a conversation of two.
    pub one_to_one: bool,
}

//! An account: a Matrix user who talked to the bot.

use ruma::OwnedRoomId;
use serde::{Deserialize, Serialize};

use super::{GitterUserId, Millis, Moment};

/// A Gitter user, as far as an account needs to know itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The id that stays.
    pub id: GitterUserId,
    /// The name that may change; exact case.
    pub username: String,
    /// The name for people.
    pub display_name: String,
}

/// What the account may do on Gitter. The token itself is in a table of its own, sealed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Session {
    /// No credentials.
    #[default]
    LoggedOut,
    /// Credentials that work, as far as is known.
    Active(Person),
    /// Gitter refused the token. Portals stay as they are until the next login.
    Rejected(Person),
}

impl Session {
    /// The Gitter user behind the account, also after its token was refused.
    #[must_use]
    pub fn person(&self) -> Option<&Person> {
        match self {
            Self::LoggedOut => None,
            Self::Active(person) | Self::Rejected(person) => Some(person),
        }
    }

    /// Whether calls to Gitter make sense.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self, Self::Active(_))
    }
}

/// Where the account and the bot talk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// Nowhere: the user has to start a chat.
    #[default]
    None,
    /// The bot has to open a room itself; the intent stands since then, so a room made but not recorded is looked for first.
    Opening {
        /// When the intent was written, or the last attempt was begun.
        since: Moment,
        /// Whether a call that makes a room may already have been sent.
        attempted: bool,
    },
    /// This room.
    At(OwnedRoomId),
}

/// A command that names a Gitter room not among the account's: the name has to be looked up first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedAsk {
    /// What is asked.
    pub kind: NamedKind,
    /// When it was asked.
    pub at: Millis,
}

/// What may wait for a fresh look at Gitter; at most [`Account::MAX_ASKS`] at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedKind {
    /// Show the rooms.
    List,
    /// Become a member of the room with this uri (or username) and open its portal.
    Join(String),
    /// Open the portal of the room with this uri (or username).
    Invite(String),
    /// Leave the room with this uri, and close its portal.
    Part(String),
}

/// A Matrix user who talked to the bot; key: the Matrix user id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Where the account and the bot talk.
    pub control: Control,
    /// What the account may do on Gitter.
    pub session: Session,
    /// Commands that wait for a look at Gitter, oldest first.
    pub asks: Vec<NamedAsk>,
    /// Grows with every login and logout: answers of calls made before are void.
    pub generation: u64,
    /// Whether the first look at the rooms after a login is still due.
    pub fresh_login: Option<Millis>,
}

impl Account {
    /// More waiting commands than this are refused with a word.
    pub const MAX_ASKS: usize = 50;

    /// The control room, if there is one.
    #[must_use]
    pub fn control_room(&self) -> Option<&OwnedRoomId> {
        match &self.control {
            Control::At(room) => Some(room),
            Control::None | Control::Opening { .. } => None,
        }
    }
}

//! Rooms in which the bot talks, and what it has to say.

use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{Fate, GitterRoomId, Millis, Refusal};

/// What becomes of a room the bot was invited to or talks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatStage {
    /// Invited: join, look who is there, decide.
    Invited,
    /// The account's control room.
    Control,
    /// To be left once the bot has said why; never to be accepted again.
    Shunned,
    /// To be left and forgotten; a later invite is welcome.
    Leaving,
    /// Left, and never to be accepted again.
    Avoided,
    /// A portal or control room that was replaced: ghosts leave it, then the bot.
    Emptying,
    /// The same, left; what was said in it before may still come in.
    Former,
}

/// A room of the bot that is no portal; key: the room id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chat {
    /// Who invited the bot, or whom the bot invited.
    pub account: OwnedUserId,
    /// What is to become of it.
    pub stage: ChatStage,
    /// Whether messages there are encrypted, so that the bot can't read them.
    pub encrypted: bool,
    /// The bot made the room and has not invited the account yet.
    #[serde(default)]
    pub invite_due: bool,
    /// When the last word about it was spoken.
    pub at: Millis,
}

impl Chat {
    /// A plain room, in which nobody is to be invited.
    #[must_use]
    pub fn new(account: OwnedUserId, stage: ChatStage, at: Millis) -> Self {
        Self { account, stage, encrypted: false, invite_due: false, at }
    }
}

/// To whom the bot speaks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The account, in whatever is its control room when the words are sent.
    Account(OwnedUserId),
    /// This very room.
    Room(OwnedRoomId),
}

/// Words of the bot that wait to be sent; sent in order per target, each once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// To whom.
    pub to: Target,
    /// What.
    pub say: Say,
    /// When it was decided; together with the row's number it makes the transaction id.
    pub at: Millis,
}

/// Words, ready or still to be put into words when they are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Say {
    /// Ready words.
    Text {
        /// As plain text.
        body: String,
        /// As Matrix HTML.
        html: String,
    },
    /// Ready words, as a reply to an event in the same room.
    Reply {
        /// The event that is answered.
        event: ruma::OwnedEventId,
        /// As plain text.
        body: String,
        /// As Matrix HTML.
        html: String,
    },
    /// How an event in the same room fares on its way to Gitter.
    Fate(Fate),
    /// Something the reconciler has to tell.
    Told(Told),
}

/// Whether a room that an account is no longer in would take it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// It may join again.
    Open,
    /// Banned, or the room is private.
    Shut,
    /// There is no such room any more.
    Gone,
}

/// What the reconciler tells an account, once each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The bot joined and listens: instructions, with a login link when logged out.
    Welcome,
    /// The portals that were opened after a login, and the rooms that were not.
    LoggedIn {
        /// Rooms whose portals are being opened.
        opened: Vec<GitterRoomId>,
        /// Rooms left aside, because there are too many.
        aside: Vec<GitterRoomId>,
        /// How many portals the account is in already.
        #[serde(default)]
        here: usize,
        /// How many rooms it is in on Gitter.
        #[serde(default)]
        rooms: usize,
    },
    /// The rooms, as just seen on Gitter.
    List {
        /// Each room with unread messages and mentions, as Gitter counts them (at most 100 each).
        rooms: Vec<(GitterRoomId, u32, u32)>,
        /// False when Gitter could not be asked and these are the rooms last seen.
        fresh: bool,
    },
    /// The portal asked for is there, and the account was invited or is in it.
    Opened(GitterRoomId),
    /// Asked for, but it was so already.
    AlreadyOpen(GitterRoomId),
    /// The account left the room on Gitter, as asked.
    Parted(GitterRoomId),
    /// A portal was closed because the account left, or was removed, on Gitter.
    GoneOnGitter(GitterRoomId, Door),
    /// The portal's room was upgraded to one that the bot does not follow into: another is made.
    NotFollowed(GitterRoomId),
    /// What was asked for a room can't be done.
    Refused {
        /// The name as the user gave it, or the room's uri.
        name: String,
        /// Why.
        why: Refusal,
    },
    /// Gitter refuses the token: told once, with a login link.
    TokenRejected,
    /// The bridge has lost the login, not the rooms: told with a login link.
    LoginLost,
    /// All portals are gone after a logout.
    LoggedOut,
    /// Why the bot leaves a room with several people in it.
    TooManyPeople,
    /// Said in an encrypted room: why the bot can't talk there.
    EncryptedHere,
    /// Said in the plain room the bot opened instead.
    EncryptedThere,
}

//! How what an account says in a portal fares on its way to Gitter, where that is worth a word.

use ruma::{OwnedEventId, OwnedRoomId};
use serde::{Deserialize, Serialize};

/// What the sender of an event is to know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fate {
    /// The event.
    pub event: OwnedEventId,
    /// What has become of it.
    pub news: News,
    /// The bot's earlier words about the event, which hold no more and are taken back.
    #[serde(default)]
    pub instead: Option<OwnedEventId>,
}

/// What has become of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// It waits, and will be sent.
    Waits(Hold),
    /// It will not be on Gitter: of which kind this is, and a clause that says why.
    Failed(Failure, String),
    /// It waited, and is on Gitter now.
    Arrived,
    /// The words to be taken back came too late: there is nothing else to say.
    Moot,
}

/// What an event waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Gitter is away, or takes no more calls for now.
    Gitter,
    /// Gitter refuses the token: a new login.
    Login,
}

/// Kinds of failure, by what their sender can do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The account is logged out.
    LoggedOut,
    /// The account may not write in the Gitter room any more.
    NotAllowed,
    /// The Gitter room is gone.
    Gone,
    /// Too long, also in several messages.
    TooLong,
    /// Nothing that Gitter has, or nothing that can be read.
    Unsupported,
    /// Gitter does not take it.
    Refused,
    /// Gitter took it and shows it to nobody.
    Silenced,
    /// It may be on Gitter or not, and can't be looked for any more.
    Unsure,
    /// It was deleted, and Gitter keeps it.
    Kept,
}

/// That the sender of an event was told, or is about to be told, that it waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// What for.
    pub hold: Hold,
    /// The room in which that is said.
    pub room: OwnedRoomId,
    /// The words, once they are said.
    #[serde(default)]
    pub notice: Option<OwnedEventId>,
}

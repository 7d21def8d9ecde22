//! Messages on their way: the outbox, links, cursors.

use ruma::{OwnedEventId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{MessageId, Millis, Moment, PortalKey, Waiting};

/// A Matrix event on its way to Gitter; a row of the outbox, in order per portal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// The event it comes from.
    pub event: OwnedEventId,
    /// When the event was sent, by the homeserver's clock.
    pub sent: Millis,
    /// What to do on Gitter.
    pub payload: Payload,
    /// How many parts are on Gitter already.
    pub done: u32,
    /// Set before the call for the next part, cleared when its end is known.
    pub attempt: Option<Attempt>,
    /// Set once its sender was to be told that it waits.
    #[serde(default)]
    pub told: Option<Waiting>,
}

/// What becomes of the event on Gitter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// A message, split into parts of at most 4096 UTF-16 units.
    Say {
        /// The parts, in order, never empty.
        parts: Vec<String>,
        /// A `/me` message.
        status: bool,
        /// The event it answers; looked up when it is sent, since that event may still be on its way itself.
        #[serde(default)]
        answers: Option<Answers>,
        /// The thread on Gitter it belongs to.
        parent: Option<MessageId>,
        /// The earlier event whose parts these are: an edit made it longer, or came too late.
        #[serde(default)]
        adds_to: Option<AddsTo>,
        /// What the first part begins with that is not the event's own: a quote, a link.
        #[serde(default)]
        lead: String,
    },
    /// Other words for an earlier event.
    Edit {
        /// The earlier event.
        of: OwnedEventId,
        /// The new parts, in order, never empty.
        parts: Vec<String>,
        /// A `/me` message.
        status: bool,
    },
    /// An earlier event was redacted.
    Delete {
        /// The earlier event.
        of: OwnedEventId,
    },
}

impl Payload {
    /// A new message, in parts, perhaps an answer; everything else is found when it is sent.
    #[must_use]
    pub fn say(parts: Vec<String>, status: bool, answers: Option<Answers>) -> Self {
        Self::Say { parts, status, answers, parent: None, adds_to: None, lead: String::new() }
    }
}

/// Parts that an edit adds to an earlier event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddsTo {
    /// The earlier event.
    pub event: OwnedEventId,
    /// The number of the first part among all parts of that event.
    pub part: u32,
}

/// What a message answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// The event it answers, or the root of its thread.
    pub event: OwnedEventId,
    /// Whether it is in a thread, not a mere reply.
    pub thread: bool,
}

/// A call whose end is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it was begun.
    pub at: Moment,
    /// The newest message known then. What the call made is newer: clocks may be wrong.
    #[serde(default)]
    pub after: Option<MessageId>,
    /// When the last such call had an answer that does not tell: it may still be carried out for a moment.
    #[serde(default)]
    pub answered: Option<Moment>,
}

/// That an event and a message are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The portal in which they are the same.
    pub portal: PortalKey,
    /// The message on Gitter.
    pub message: MessageId,
    /// The event on Matrix.
    pub event: OwnedEventId,
    /// Which part of the event, from 0.
    pub part: u32,
    /// Whether it was written on Matrix.
    pub from_matrix: bool,
    /// Gitter's version of the message when it was last carried over.
    pub version: u64,
    /// Tells whether the text has changed since it was last carried over: see [`digest`].
    #[serde(default)]
    pub digest: u64,
    /// The thread on Gitter the message belongs to.
    #[serde(default)]
    pub parent: Option<MessageId>,
    /// Which ghost sent the event; `None` for the account itself, or the bot.
    #[serde(default)]
    pub sender: Option<OwnedUserId>,
    /// What the message begins with that is not the event's own, and stays when the event changes.
    #[serde(default)]
    pub lead: String,
    /// Its pictures that are events of their own, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Image>,
    /// It is deleted on both sides, or about to be.
    #[serde(default)]
    pub gone: bool,
}

/// A picture of a message, sent as an event of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Tells which picture it is: the [`digest`] of its address.
    pub source: u64,
    /// The event.
    pub event: OwnedEventId,
}

/// A short mark of a text: equal for equal texts, and practically never for others. FNV-1a, 64 bits; kept in rows.
#[must_use]
pub fn digest(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// How far a portal has seen its Gitter room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Messages made before are not shown.
    pub begin: MessageId,
    /// The newest message that was carried over, or `begin`.
    pub last: MessageId,
    /// Messages that were passed over and are still to be told of.
    #[serde(default)]
    pub gap: Option<Gap>,
}

/// Messages that the portal does not show, because there were too many to catch up with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The newest message before them that was carried over.
    pub since: MessageId,
    /// The first of them.
    pub first: MessageId,
    /// The second in which the last of them was made.
    pub until: Millis,
    /// How many they are.
    pub count: u32,
    /// Whether there are more than `count`.
    pub or_more: bool,
}

//! From a transaction's body to events, each parsed on its own.

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, error::Category, value::RawValue};

use super::error::ApiError;

/// An event has at most 64 KiB; what homeservers add (previous content, an invite's room state, old copies of both)
/// multiplies that, but not beyond this.
const EVENT_MAX: usize = 1 << 20;
/// Types and state keys, by the specification.
const KEY_MAX: usize = 255;
/// Nobody uses more; the rest of a batch is left to the periodic look at everything.
const EPHEMERAL_MAX: usize = 10_000;

/// An event as the homeserver sent it, checked for what every event must have.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Incoming {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The event's own id, by which repeats are recognised.
    pub event_id: OwnedEventId,
    /// Who sent it: possibly the bot or a ghost.
    pub sender: OwnedUserId,
    /// The type, like `m.room.message`; at most 255 bytes.
    #[serde(rename = "type")]
    pub kind: String,
    /// Present for state; at most 255 bytes.
    #[serde(default)]
    pub state_key: Option<String>,
    /// When its sender's server says that it was sent, in milliseconds since 1970. Anything may be claimed.
    pub origin_server_ts: i64,
    /// The content: an object of any shape.
    pub content: Value,
    /// Of redactions in rooms before version 11: what is redacted. From there on it is in the content.
    #[serde(default)]
    pub redacts: Option<OwnedEventId>,
    /// What the homeserver added, like `prev_content`; null if nothing.
    #[serde(default)]
    pub unsigned: Value,
}

/// What is in a transaction.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) events: Vec<Incoming>,
    pub(super) bad: Vec<Bad>,
    pub(super) ephemeral: Vec<Value>,
}

/// An event that was left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) index: usize,
    pub(super) event_id: Option<String>,
    /// Says nothing of what the event contained.
    pub(super) reason: &'static str,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    events: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    ephemeral: Vec<&'a RawValue>,
}

/// Parses a transaction's body.
///
/// # Errors
///
/// Only when the body as a whole makes no sense; single bad events are in [`Batch::bad`].
pub(super) fn parse(body: &[u8]) -> Result<Batch, ApiError> {
    let parsed = serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => ApiError::BadJson,
        Category::Syntax | Category::Eof | Category::Io => ApiError::NotJson,
    });
    let Body { events, ephemeral } = parsed?;
    let mut batch = Batch::default();
    for (index, raw) in events.into_iter().enumerate() {
        match event(raw) {
            Ok(event) => batch.events.push(event),
            Err(reason) => batch.bad.push(Bad { index, event_id: id_of(raw), reason }),
        }
    }
    // What is only true for seconds may be lost without a word.
    let small = ephemeral.into_iter().filter(|raw| raw.get().len() <= EVENT_MAX);
    batch.ephemeral = small
        .take(EPHEMERAL_MAX)
        .filter_map(|raw| serde_json::from_str(raw.get()).ok())
        .filter(Value::is_object)
        .collect();
    Ok(batch)
}

fn event(raw: &RawValue) -> Result<Incoming, &'static str> {
    if raw.get().len() > EVENT_MAX {
        return Err("too large");
    }
    // An array of the right fields would pass for the object as well.
    if !raw.get().starts_with('{') {
        return Err("not an object");
    }
    let event: Incoming = serde_json::from_str(raw.get()).map_err(|error| {
        // The parser's limit of depth counts as syntax.
        if error.is_data() { "a field is missing or of a wrong type" } else { "nested too deeply" }
    })?;
    if !event.content.is_object() {
        return Err("the content is no object");
    }
    if event.kind.len() > KEY_MAX || event.state_key.as_ref().is_some_and(|key| key.len() > KEY_MAX)
    {
        return Err("the type or state key is too long");
    }
    Ok(event)
}

/// The event's id for the log, if it can be made out.
fn id_of(raw: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Id {
        event_id: OwnedEventId,
    }
    serde_json::from_str::<Id>(raw.get()).ok().map(|id| id.event_id.to_string())
}

//! Bayeux frames: those we write, and what those we read mean.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Operation, PeopleOperation, RoomsOperation};
use crate::gitter::types::{Removed, lenient, short};

pub(super) const HANDSHAKE: &str = "/meta/handshake";
pub(super) const CONNECT: &str = "/meta/connect";
pub(super) const SUBSCRIBE: &str = "/meta/subscribe";
pub(super) const UNSUBSCRIBE: &str = "/meta/unsubscribe";
pub(super) const DISCONNECT: &str = "/meta/disconnect";
pub(super) const PING: &str = "/api/v1/ping2";

/// The channel of a room's messages.
pub(super) fn chat_channel(room: &str) -> String {
    format!("/api/v1/rooms/{room}/chatMessages")
}

/// The room whose messages go over a channel.
pub(super) fn room_of(channel: &str) -> Option<&str> {
    channel.strip_prefix("/api/v1/rooms/")?.strip_suffix("/chatMessages")
}

/// The channel of a room's members.
pub(super) fn people_channel(room: &str) -> String {
    format!("/api/v1/rooms/{room}/users")
}

/// The room whose members go over a channel.
pub(super) fn room_of_people(channel: &str) -> Option<&str> {
    channel.strip_prefix("/api/v1/rooms/")?.strip_suffix("/users")
}

/// The channel that tells of a user's rooms.
pub(super) fn rooms_channel(user_id: &str) -> String {
    format!("/api/v1/user/{user_id}/rooms")
}

pub(super) fn handshake(token: &str) -> Value {
    json!({ "channel": HANDSHAKE, "version": "1.0", "minimumVersion": "1.0",
        "supportedConnectionTypes": ["websocket"], "ext": { "token": token, "client": "matrix-gitter" } })
}

pub(super) fn connect() -> Value {
    json!({ "channel": CONNECT, "connectionType": "websocket" })
}

pub(super) fn subscribe(channel: &str) -> Value {
    json!({ "channel": SUBSCRIBE, "subscription": channel, "ext": { "snapshot": false } })
}

pub(super) fn unsubscribe(channel: &str) -> Value {
    json!({ "channel": UNSUBSCRIBE, "subscription": channel })
}

pub(super) fn disconnect() -> Value {
    json!({ "channel": DISCONNECT })
}

pub(super) fn ping() -> Value {
    json!({ "channel": PING, "data": { "reason": "ping" } })
}

/// One frame from the server; all that is missing or odd is empty.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Frame<'a> {
    pub(super) channel: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) successful: Option<bool>,
    #[serde(default, deserialize_with = "short::<_, 1024>")]
    error: Option<String>,
    #[serde(default, deserialize_with = "short::<_, 128>")]
    pub(super) client_id: Option<String>,
    #[serde(default, deserialize_with = "short::<_, 256>")]
    pub(super) subscription: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) advice: Advice,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) ext: Ext,
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
}

/// What the server would have us do.
#[derive(Debug, Default, Clone, Deserialize)]
pub(super) struct Advice {
    #[serde(default, deserialize_with = "short::<_, 32>")]
    pub(super) reconnect: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    interval: Option<u64>,
    #[serde(default, deserialize_with = "lenient")]
    timeout: Option<u64>,
}

impl Advice {
    /// How long to wait before the next attempt.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.interval.map(Duration::from_millis)
    }

    /// How long the server holds a `/meta/connect`.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.timeout.map(Duration::from_millis)
    }
}

/// Gitter's additions.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ext {
    /// Number of this message among those delivered to this client, from 1 on.
    #[serde(default, deserialize_with = "lenient")]
    pub(super) c: Option<u64>,
    /// Whom the token belongs to, after a handshake.
    #[serde(default, deserialize_with = "short::<_, 64>")]
    pub(super) user_id: Option<String>,
}

impl Frame<'_> {
    /// Status and text of an error: `403::Authorisation denied.`, `401:client:Unknown client`.
    pub(super) fn failure(&self) -> (u16, String) {
        let error = self.error.as_deref().unwrap_or_default();
        let mut parts = error.splitn(3, ':');
        let status = parts.next().and_then(|status| status.parse().ok()).unwrap_or(0);
        let text = parts.nth(1).unwrap_or(error);
        (status, text.chars().filter(|letter| !letter.is_control()).take(200).collect())
    }

    /// The server doesn't know us (any more): only another handshake helps.
    pub(super) fn wants_handshake(&self) -> bool {
        self.advice.reconnect.as_deref() == Some("handshake")
            || (self.successful == Some(false) && self.failure().0 == 401)
    }
}

/// The frames of a websocket message, and whether there was something in it that is none.
pub(super) fn parse(text: &str) -> (Vec<Frame<'_>>, bool) {
    let raw = match serde_json::from_str::<Vec<&RawValue>>(text) {
        Ok(raw) => raw,
        Err(_) => serde_json::from_str::<&RawValue>(text).into_iter().collect(),
    };
    let nothing = raw.is_empty() && text.trim() != "[]";
    let count = raw.len();
    let frames: Vec<_> =
        raw.into_iter().filter_map(|frame| serde_json::from_str(frame.get()).ok()).collect();
    let odd = nothing || frames.len() < count;
    (frames, odd)
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(default, deserialize_with = "short::<_, 64>")]
    operation: Option<String>,
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
}

impl<'a> Data<'a> {
    fn parse(data: Option<&'a RawValue>) -> Result<(String, &'a str), serde_json::Error> {
        let data: Self = serde_json::from_str(data.map_or("{}", RawValue::get))?;
        Ok((data.operation.unwrap_or_default(), data.model.map_or("null", RawValue::get)))
    }
}

/// What happened to a message; `None` if it is nothing we know.
pub(super) fn chat(data: Option<&RawValue>) -> Result<Option<Operation>, serde_json::Error> {
    let (operation, model) = Data::parse(data)?;
    Ok(Some(match operation.as_str() {
        "create" => Operation::Create(serde_json::from_str(model)?),
        "update" => Operation::Update(serde_json::from_str(model)?),
        "patch" => Operation::Patch(serde_json::from_str(model)?),
        "remove" => Operation::Remove(serde_json::from_str::<Removed>(model)?.id),
        _ => return Ok(None),
    }))
}

/// What happened to a room's members; `None` if it is nothing we know.
pub(super) fn people(
    data: Option<&RawValue>,
) -> Result<Option<PeopleOperation>, serde_json::Error> {
    let (operation, model) = Data::parse(data)?;
    Ok(Some(match operation.as_str() {
        "create" => PeopleOperation::Create(serde_json::from_str(model)?),
        "update" => PeopleOperation::Update(serde_json::from_str(model)?),
        "remove" => PeopleOperation::Remove(serde_json::from_str::<Removed>(model)?.id),
        _ => return Ok(None),
    }))
}

/// What happened to a user's list of rooms; `None` if it is nothing we know.
pub(super) fn rooms(data: Option<&RawValue>) -> Result<Option<RoomsOperation>, serde_json::Error> {
    let (operation, model) = Data::parse(data)?;
    Ok(Some(match operation.as_str() {
        "create" => RoomsOperation::Create(serde_json::from_str(model)?),
        "update" => RoomsOperation::Update(serde_json::from_str(model)?),
        "patch" => RoomsOperation::Patch(serde_json::from_str(model)?),
        "remove" => RoomsOperation::Remove(serde_json::from_str::<Removed>(model)?.id),
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_replies_are_understood() {
        let replies: Vec<_> = include_str!("../fixtures/faye-replies.txt").lines().collect();
        let one = |line: usize| {
            let (mut frames, odd) = parse(replies[line]);
            assert!(!odd, "row: {line}");
            frames.swap_remove(0)
        };
        let welcome = one(0);
        assert_eq!((welcome.channel.as_str(), welcome.successful), (HANDSHAKE, Some(true)));
        assert_eq!(welcome.client_id.as_deref(), Some("dpu7e7yipn9onqzqsccq7ibtfib1op9"));
        assert_eq!(welcome.ext.user_id.as_deref(), Some("5f000000000000000000a001"));
        assert_eq!(welcome.advice.timeout(), Some(Duration::from_secs(120)));
        let rejected = one(1);
        assert_eq!(rejected.failure(), (401, "Invalid access token".to_owned()));
        assert_eq!(rejected.advice.interval(), Some(Duration::from_secs(864_000)));
        let denied = one(2);
        assert_eq!(denied.failure(), (403, "Authorisation denied.".to_owned()));
        let channel = denied.subscription.as_deref().expect("channel");
        assert_eq!(room_of(channel), Some("5f000000000000000000e004"));
        assert!(!denied.wants_handshake());
        assert_eq!((one(3).channel.as_str(), one(3).successful), (PING, Some(true)));
        assert_eq!(one(4).advice.interval(), Some(Duration::from_millis(500)));
        assert!(matches!(parse(replies[5]), (frames, false) if frames.is_empty()));
        let forgotten = one(6);
        assert!(forgotten.wants_handshake());
        assert_eq!(forgotten.failure(), (401, "Unknown client".to_owned()));
    }

    #[test]
    fn recorded_messages_are_understood() {
        let mut seen = Vec::new();
        for (at, line) in include_str!("../fixtures/faye-live-messages.txt").lines().enumerate() {
            let (frames, odd) = parse(line);
            assert!(!odd && frames.len() == 1, "row: {line}");
            if frames[0].channel == SUBSCRIBE {
                continue;
            }
            assert_eq!(room_of(&frames[0].channel), Some("5f000000000000000000e008"));
            assert_eq!(frames[0].ext.c, u64::try_from(at).ok(), "row: {line}");
            seen.push(match chat(frames[0].data).expect("known").expect("known") {
                Operation::Create(message) if message.parent_id.is_some() => "reply",
                Operation::Create(message) if message.virtual_user.is_some() => "virtual",
                Operation::Create(message) if message.status => "action",
                Operation::Create(_) => "create",
                Operation::Update(message) if message.edited_at.is_some() => "edit",
                Operation::Update(message) if message.text.is_empty() => "blanked",
                Operation::Update(_) => "update",
                Operation::Patch(patch) if patch.read_by == Some(1) => "read",
                Operation::Patch(_) => "patch",
                Operation::Remove(_) => "remove",
            });
        }
        let expected = "create create edit edit edit update reply remove update remove action virtual read remove \
            create update reply blanked create create create create create create";
        assert_eq!(seen.join(" "), expected);
    }

    #[test]
    fn recorded_changes_of_a_users_rooms_are_understood() {
        let mut seen = Vec::new();
        for line in include_str!("../fixtures/faye-live-rooms.txt").lines() {
            let (frames, _) = parse(line);
            assert_eq!(frames[0].channel, rooms_channel("5f000000000000000000a002"));
            seen.push(match rooms(frames[0].data).expect("known").expect("known") {
                RoomsOperation::Create(room) if room.one_to_one => "one-to-one",
                RoomsOperation::Create(room) if room.is_member() => "joined",
                RoomsOperation::Create(_) => "mentioned",
                RoomsOperation::Update(_) => "update",
                RoomsOperation::Patch(patch) if patch.topic.is_some() => "topic",
                RoomsOperation::Patch(patch) if patch.unread_items.is_some() => "unread",
                RoomsOperation::Patch(_) => "patch",
                RoomsOperation::Remove(_) => "left",
            });
        }
        let expected = "topic update unread unread update joined left unread one-to-one unread unread unread unread \
            mentioned";
        assert_eq!(seen.join(" "), expected);
    }

    #[test]
    fn odd_frames_are_told_from_unknown_ones() {
        //  text, frames, odd
        let rows = [
            ("[]", 0, false),
            (" [] ", 0, false),
            ("", 0, true),
            ("not json", 0, true),
            ("5", 0, true),
            ("[5]", 0, true),
            (r#"{"channel":"/x"}"#, 1, false),
            (r#"[{"channel":"/x"},{"no":"channel"}]"#, 1, true),
            (
                r#"[{"channel":"/x","successful":"yes","error":{},"advice":[],"ext":7,"data":null,"id":{}}]"#,
                1,
                false,
            ),
            (r#"[{"channel":"/x"}"#, 0, true),
        ];
        for (text, count, odd) in rows {
            let (frames, seen) = parse(text);
            assert_eq!((frames.len(), seen), (count, odd), "row: {text}");
        }
        assert!(parse(&"[".repeat(100_000)).1);
        let data = |json: &str| -> Box<RawValue> { serde_json::from_str(json).expect("json") };
        for unknown in
            [r#"{"notification":"presence"}"#, r#"{"operation":"explode","model":5}"#, "{}"]
        {
            assert!(matches!(chat(Some(&data(unknown))), Ok(None)), "row: {unknown}");
        }
        for bad in [r#"{"operation":"create"}"#, r#"{"operation":"remove","model":{}}"#, "5"] {
            assert!(chat(Some(&data(bad))).is_err(), "row: {bad}");
            assert!(rooms(Some(&data(bad))).is_err(), "row: {bad}");
        }
    }
}

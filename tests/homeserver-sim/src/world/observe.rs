//! What a test sees: everything, without being a call.

use std::collections::BTreeMap;

use serde_json::Value;

use super::World;
use crate::event::Event;
use crate::fault::Call;
use crate::room::Room;

/// A room as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct RoomView {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: u32,
    /// Who made it.
    pub creator: String,
    /// The content of its first event.
    pub creation: Value,
    /// Contents of state without a key whose type no specification names, by type, with who set it.
    pub marks: BTreeMap<String, (String, Value)>,
    /// Everybody who ever had a membership, and which they have: `join`, `invite`, `leave` or `ban`.
    pub members: BTreeMap<String, String>,
    /// The room that replaces it.
    pub replaced_by: Option<String>,
}

impl RoomView {
    /// Who has this membership.
    pub fn with<'a>(&'a self, membership: &'a str) -> impl Iterator<Item = &'a str> {
        self.members.iter().filter(move |(_, m)| *m == membership).map(|(user, _)| user.as_str())
    }
}

/// A message as a client shows it: edits applied, redacted ones left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// The event's id, that of the first version.
    pub id: String,
    /// Who sent it.
    pub sender: String,
    /// Its type: `m.room.message`, `m.sticker`, `m.room.encrypted`, …
    pub kind: String,
    /// The content of the newest version.
    pub content: Value,
    /// Whether there is more than one version.
    pub edited: bool,
    /// The time shown, in milliseconds since 1970.
    pub ts: u64,
    /// Who reacted how, in order.
    pub reactions: Vec<(String, String)>,
}

impl Shown {
    /// Its plain text, empty if there is none.
    #[must_use]
    pub fn text(&self) -> &str {
        self.content["body"].as_str().unwrap_or_default()
    }

    /// What it answers.
    #[must_use]
    pub fn replies_to(&self) -> Option<&str> {
        self.content["m.relates_to"]["m.in_reply_to"]["event_id"].as_str()
    }
}

impl World {
    /// The homeserver's clock, in milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.lock().now()
    }

    /// All rooms.
    #[must_use]
    pub fn rooms(&self) -> Vec<RoomView> {
        self.lock().rooms.values().map(view).collect()
    }

    /// A room; `None` when there is none, or it was deleted.
    #[must_use]
    pub fn room(&self, room: &str) -> Option<RoomView> {
        self.lock().rooms.get(room).map(view)
    }

    /// The membership of a user in a room, empty for who never had one.
    #[must_use]
    pub fn membership(&self, room: &str, user: &str) -> String {
        let state = self.lock();
        state.rooms.get(room).map(|room| room.membership(user).to_owned()).unwrap_or_default()
    }

    /// The content of a state event.
    #[must_use]
    pub fn state(&self, room: &str, kind: &str, key: &str) -> Option<Value> {
        self.lock().rooms.get(room)?.get(kind, key).map(|event| event.content.clone())
    }

    /// All events of a room as they came; empty when there is no such room.
    #[must_use]
    pub fn events(&self, room: &str) -> Vec<Event> {
        self.lock().rooms.get(room).map(|room| room.events.clone()).unwrap_or_default()
    }

    /// The messages of a room as a client shows them, in the order in which they came.
    #[must_use]
    pub fn timeline(&self, room: &str) -> Vec<Shown> {
        let state = self.lock();
        let Some(room) = state.rooms.get(room) else { return Vec::new() };
        let mut reactions: BTreeMap<&str, Vec<(String, String)>> = BTreeMap::new();
        let mut edits: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
        for event in &room.events {
            if let Some(target) = event.relates("m.annotation") {
                let key = event.content["m.relates_to"]["key"].as_str().unwrap_or_default();
                reactions.entry(target).or_default().push((event.sender.clone(), key.to_owned()));
            }
            if let Some(target) = event.relates("m.replace") {
                edits.entry(target).or_default().push(event);
            }
        }
        let is_message = |event: &&Event| {
            event.state_key.is_none()
                && event.redacted_by.is_none()
                && !matches!(event.kind.as_str(), "m.reaction" | "m.room.redaction")
                && event.relates("m.replace").is_none()
        };
        let shown = room.events.iter().filter(is_message).map(|event| {
            let mine = edits.get(event.id.as_str()).into_iter().flatten();
            let mine = mine.filter(|edit| edit.sender == event.sender && edit.kind == event.kind);
            let newest = mine.max_by(|a, b| (a.ts, &a.id).cmp(&(b.ts, &b.id)));
            Shown {
                id: event.id.clone(),
                sender: event.sender.clone(),
                kind: event.kind.clone(),
                content: newest
                    .map_or(&event.content, |edit| &edit.content["m.new_content"])
                    .clone(),
                edited: newest.is_some(),
                ts: event.ts,
                reactions: reactions.remove(event.id.as_str()).unwrap_or_default(),
            }
        });
        shown.collect()
    }

    /// A user's profile: `displayname`, `avatar_url`.
    #[must_use]
    pub fn profile(&self, user: &str) -> BTreeMap<String, String> {
        self.lock().profile(user)
    }

    /// Registered users of the appservice, the bot among them.
    #[must_use]
    pub fn appservice_users(&self) -> Vec<String> {
        let state = self.lock();
        let users = state.users.iter().filter(|(id, user)| user.registered && state.owns(id));
        users.map(|(id, _)| id.clone()).collect()
    }

    /// Number of events that wait to be sent to the appservice, or to be looked at whether they should.
    #[must_use]
    pub fn unpushed(&self) -> usize {
        let state = self.lock();
        state.stream.len() + state.push.pending()
    }

    /// Whether the homeserver takes the appservice to be down, and repeats what failed only now and then.
    #[must_use]
    pub fn takes_appservice_for_down(&self) -> bool {
        self.lock().push.is_down()
    }

    /// Number of transactions that the appservice took.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.lock().push.taken
    }

    /// The last [`CALLS_KEPT`](crate::CALLS_KEPT) requests, oldest first.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.lock().faults.calls()
    }

    /// Number of requests by minute since 1970 and "METHOD route".
    #[must_use]
    pub fn calls_by_minute(&self) -> BTreeMap<(u64, String), u64> {
        self.lock().faults.calls_by_minute.clone()
    }

    /// Number of events that the bot and the ghosts caused, by minute since 1970 and type.
    #[must_use]
    pub fn events_by_minute(&self) -> BTreeMap<(u64, String), u64> {
        self.lock().faults.events_by_minute.clone()
    }

    /// Forgets calls and counts, so that the next look sees new ones alone.
    pub fn forget_calls(&self) {
        self.lock().faults.forget();
    }
}

fn view(room: &Room) -> RoomView {
    let create = room.get("m.room.create", "");
    let members = room
        .members()
        .filter_map(|event| Some((event.state_key.clone()?, event.membership().to_owned())));
    let replaced = room.get("m.room.tombstone", "").map(|event| event.text("replacement_room"));
    let marks = room.kinds().filter(|kind| !kind.starts_with("m.")).filter_map(|kind| {
        let event = room.get(kind, "")?;
        Some((kind.to_owned(), (event.sender.clone(), event.content.clone())))
    });
    RoomView {
        id: room.id.clone(),
        version: room.version,
        creator: create.map(|event| event.sender.clone()).unwrap_or_default(),
        creation: create.map(|event| event.content.clone()).unwrap_or_default(),
        marks: marks.collect(),
        members: members.collect(),
        replaced_by: replaced.map(str::to_owned),
    }
}

//! What a person's client shows: rooms, members, timelines, made from `/sync` answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

/// Where a person stands with a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Invited, not decided yet.
    Invited,
    /// In the room.
    Joined,
    /// Left, declined, kicked or banned.
    Left,
}

/// Somebody's membership as the room's state has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// `join`, `invite`, `leave`, `ban` or `knock`.
    pub membership: String,
    /// Display name; `None` when unset.
    pub name: Option<String>,
    /// Avatar, an `mxc://` address; `None` when unset.
    pub avatar: Option<String>,
}

/// An event as the client sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its id.
    pub id: String,
    /// Who sent it: a full Matrix id.
    pub sender: String,
    /// Its type, such as `m.room.message`.
    pub kind: String,
    /// The state key; `None` unless it is a state event.
    pub state_key: Option<String>,
    /// Its content as it is now: `{}` once redacted.
    pub content: Value,
    /// `origin_server_ts`: milliseconds since 1970.
    pub sent_ms: i64,
    /// Whether it was redacted.
    pub redacted: bool,
}

impl Event {
    /// From the client-server format; fields that are missing or odd read as empty.
    #[must_use]
    pub fn from_json(event: &Value) -> Self {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        Self {
            id: text("event_id"),
            sender: text("sender"),
            kind: text("type"),
            state_key: event["state_key"].as_str().map(str::to_owned),
            content: event["content"].clone(),
            sent_ms: event["origin_server_ts"].as_i64().unwrap_or_default(),
            redacted: event["unsigned"].get("redacted_because").is_some(),
        }
    }

    /// The plain text of a message; empty for anything else.
    #[must_use]
    pub fn body(&self) -> &str {
        self.content["body"].as_str().unwrap_or_default()
    }

    /// The HTML of a message; empty when it has none.
    #[must_use]
    pub fn html(&self) -> &str {
        self.content["formatted_body"].as_str().unwrap_or_default()
    }

    /// Whether this is an `m.room.message` that has not been redacted.
    #[must_use]
    pub fn is_message(&self) -> bool {
        self.kind == "m.room.message" && !self.redacted
    }

    /// The message type, such as `m.text` or `m.notice`; empty when there is none.
    #[must_use]
    pub fn msgtype(&self) -> &str {
        self.content["msgtype"].as_str().unwrap_or_default()
    }

    /// The event that this one replaces.
    #[must_use]
    pub fn replaces(&self) -> Option<&str> {
        let relation = &self.content["m.relates_to"];
        (relation["rel_type"] == "m.replace").then(|| relation["event_id"].as_str()).flatten()
    }

    /// The event that this one answers.
    #[must_use]
    pub fn replies_to(&self) -> Option<&str> {
        self.content["m.relates_to"]["m.in_reply_to"]["event_id"].as_str()
    }
}

/// A room as the client shows it.
#[derive(Debug, Clone)]
pub struct Room {
    /// Its id.
    pub id: String,
    /// Where the person stands with it.
    pub standing: Standing,
    /// Who invited the person, while [`Standing::Invited`].
    pub inviter: Option<String>,
    /// Whether the invite was for a direct chat.
    pub is_direct: bool,
    /// State events by type and key; for an invite what the invite told.
    pub state: BTreeMap<(String, String), Event>,
    /// Everything since the person came, in order, state included, each event once.
    pub timeline: Vec<Event>,
    /// Who has read up to which event (`m.read`).
    pub read_up_to: BTreeMap<String, String>,
    /// Who is typing.
    pub typing: Vec<String>,
    known: BTreeSet<String>,
}

impl Room {
    fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            standing: Standing::Left,
            inviter: None,
            is_direct: false,
            state: BTreeMap::new(),
            timeline: Vec::new(),
            read_up_to: BTreeMap::new(),
            typing: Vec::new(),
            known: BTreeSet::new(),
        }
    }

    /// The content of a state event; `None` when it is not there or redacted.
    #[must_use]
    pub fn state_content(&self, kind: &str, key: &str) -> Option<&Value> {
        let event = self.state.get(&(kind.to_owned(), key.to_owned()))?;
        (!event.redacted).then_some(&event.content)
    }

    fn state_text(&self, kind: &str, field: &str) -> Option<&str> {
        self.state_content(kind, "")?[field].as_str().filter(|text| !text.is_empty())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.state_text("m.room.name", "name")
    }

    /// Its topic.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        self.state_text("m.room.topic", "topic")
    }

    /// Its avatar, an `mxc://` address.
    #[must_use]
    pub fn avatar(&self) -> Option<&str> {
        self.state_text("m.room.avatar", "url")
    }

    /// Its version; rooms of version 1 do not say.
    #[must_use]
    pub fn version(&self) -> &str {
        self.state_text("m.room.create", "room_version").unwrap_or("1")
    }

    /// Whether it is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.state_text("m.room.encryption", "algorithm").is_some()
    }

    /// Somebody's membership.
    #[must_use]
    pub fn member(&self, user: &str) -> Option<Member> {
        let content = self.state_content("m.room.member", user)?;
        let text = |key: &str| content[key].as_str().map(str::to_owned);
        Some(Member {
            membership: text("membership")?,
            name: text("displayname"),
            avatar: text("avatar_url"),
        })
    }

    /// Whether somebody is in the room.
    #[must_use]
    pub fn has(&self, user: &str) -> bool {
        self.member(user).is_some_and(|member| member.membership == "join")
    }

    /// Ids of everybody in the room.
    #[must_use]
    pub fn joined(&self) -> BTreeSet<String> {
        let members = self.state.keys().filter(|(kind, _)| kind == "m.room.member");
        members.filter(|(_, user)| self.has(user)).map(|(_, user)| user.clone()).collect()
    }

    /// A person's display name here, else their id.
    #[must_use]
    pub fn name_of(&self, user: &str) -> String {
        self.member(user).and_then(|member| member.name).unwrap_or_else(|| user.to_owned())
    }

    /// Messages that are neither redacted nor edits of others, oldest first.
    #[must_use]
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.timeline.iter().filter(|event| event.is_message() && event.replaces().is_none())
    }

    /// Messages of one sender, oldest first.
    #[must_use]
    pub fn messages_by<'a>(&'a self, sender: &str) -> impl DoubleEndedIterator<Item = &'a Event> {
        self.messages().filter(move |event| event.sender == sender)
    }

    /// The first message whose plain text contains `part`.
    #[must_use]
    pub fn saying(&self, part: &str) -> Option<&Event> {
        self.messages().find(|event| event.body().contains(part))
    }

    /// Notices, as bots write them, oldest first.
    #[must_use]
    pub fn notices(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.messages().filter(|event| event.msgtype() == "m.notice")
    }

    /// The text of a message after all its sender's edits; `None` when there is no such message.
    #[must_use]
    pub fn text_now(&self, event: &str) -> Option<&str> {
        let original =
            self.timeline.iter().find(|known| known.id == event && known.is_message())?;
        let edit = self.timeline.iter().rev().find(|edit| {
            edit.is_message() && edit.replaces() == Some(event) && edit.sender == original.sender
        });
        Some(edit.map_or(original.body(), |edit| {
            edit.content["m.new_content"]["body"].as_str().unwrap_or_default()
        }))
    }

    /// The first link in the newest message of somebody else than `me` that has one.
    #[must_use]
    pub fn last_link(&self, me: &str) -> Option<String> {
        self.messages().rev().filter(|event| event.sender != me).find_map(|event| {
            let in_html = event.html().split_once("href=\"http").and_then(|(_, rest)| {
                let link = rest.split('"').next()?;
                Some(format!("http{}", crate::browser::decode_entities(link)))
            });
            in_html.or_else(|| {
                let body = event.body();
                let start = body.find("https://").or_else(|| body.find("http://"))?;
                let end = |c: char| c.is_whitespace() || "<>\"'()".contains(c);
                body[start..].split(end).next().map(str::to_owned)
            })
        })
    }

    /// Takes an event into state and timeline; `true` when the timeline has grown by it.
    fn absorb(&mut self, event: Event, into_timeline: bool) -> bool {
        if let Some(key) = &event.state_key {
            self.state.insert((event.kind.clone(), key.clone()), event.clone());
        }
        if !into_timeline || !self.known.insert(event.id.clone()) {
            return false;
        }
        let redacts = (event.kind == "m.room.redaction").then(|| event.content["redacts"].as_str());
        if let Some(target) = redacts.flatten() {
            let in_timeline = self.timeline.iter_mut().filter(|known| known.id == target);
            let in_state = self.state.values_mut().filter(|known| known.id == target);
            for known in in_timeline.chain(in_state) {
                known.redacted = true;
                known.content = Value::Object(serde_json::Map::new());
            }
        }
        self.timeline.push(event);
        true
    }
}

/// All that a person's client shows.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The person's own id.
    pub me: String,
    /// Every room they were told of, by id, also those they left.
    pub rooms: BTreeMap<String, Room>,
    /// How many `/sync` answers it was made from.
    pub syncs: u64,
}

/// Something new on the screen: a timeline event, or an invite (without one).
pub(crate) struct Happening {
    pub(crate) room: String,
    pub(crate) event: Option<Event>,
}

impl View {
    /// The rooms the person is in.
    pub fn joined(&self) -> impl Iterator<Item = &Room> {
        self.rooms.values().filter(|room| room.standing == Standing::Joined)
    }

    /// The rooms the person is invited to.
    pub fn invited(&self) -> impl Iterator<Item = &Room> {
        self.rooms.values().filter(|room| room.standing == Standing::Invited)
    }

    /// A room by its id, while the person is in it.
    #[must_use]
    pub fn joined_room(&self, id: &str) -> Option<&Room> {
        self.rooms.get(id).filter(|room| room.standing == Standing::Joined)
    }

    /// The room the person is invited to whose name contains `part`.
    #[must_use]
    pub fn invited_to(&self, part: &str) -> Option<&Room> {
        self.invited().find(|room| room.name().is_some_and(|name| name.contains(part)))
    }

    /// The room the person is in whose name contains `part`.
    #[must_use]
    pub fn joined_named(&self, part: &str) -> Option<&Room> {
        self.joined().find(|room| room.name().is_some_and(|name| name.contains(part)))
    }

    /// Takes in a `/sync` answer and says what is new, in order.
    ///
    /// Shape: <https://spec.matrix.org/v1.15/client-server-api/#get_matrixclientv3sync>.
    pub(crate) fn absorb(&mut self, sync: &Value) -> Vec<Happening> {
        self.syncs += 1;
        let mut news = Vec::new();
        let sections =
            [("join", Standing::Joined), ("leave", Standing::Left), ("invite", Standing::Invited)];
        for (section, standing) in sections {
            for (id, update) in sync["rooms"][section].as_object().into_iter().flatten() {
                self.absorb_room(id, standing, update, &mut news);
            }
        }
        news
    }

    fn absorb_room(&mut self, id: &str, now: Standing, update: &Value, news: &mut Vec<Happening>) {
        let room = self.rooms.entry(id.to_owned()).or_insert_with(|| Room::new(id));
        if now == Standing::Joined && room.standing != Standing::Joined {
            room.state.clear(); // an invite's stripped state, or what was true before leaving
        }
        room.standing = now;
        if now == Standing::Invited {
            for event in each(&update["invite_state"]["events"]) {
                room.absorb(event, false);
            }
            let key = ("m.room.member".to_owned(), self.me.clone());
            if let Some(invite) = room.state.get(&key) {
                room.inviter = Some(invite.sender.clone());
                room.is_direct = invite.content["is_direct"] == true;
            }
            news.push(Happening { room: id.to_owned(), event: None });
            return;
        }
        for event in each(&update["state"]["events"]) {
            room.absorb(event, false);
        }
        for event in each(&update["timeline"]["events"]) {
            if room.absorb(event.clone(), true) {
                news.push(Happening { room: id.to_owned(), event: Some(event) });
            }
        }
        for item in update["ephemeral"]["events"].as_array().into_iter().flatten() {
            room.absorb_ephemeral(item);
        }
    }

    /// The newest that each room shows, for error messages.
    #[must_use]
    pub fn tail(&self) -> String {
        let mut text = format!("{} sees, after {} syncs:", self.me, self.syncs);
        for room in self.rooms.values() {
            let name = room.name().unwrap_or("(no name)");
            let people = room.joined().into_iter().collect::<Vec<_>>().join(" ");
            let _ = write!(text, "\n  {:?} {} “{name}”: {people}", room.standing, room.id);
            for event in room.timeline.iter().rev().take(6).rev() {
                let content: String = event.content.to_string().chars().take(200).collect();
                let _ = write!(text, "\n    {} {}: {content}", event.sender, event.kind);
            }
        }
        text
    }
}

impl Room {
    fn absorb_ephemeral(&mut self, item: &Value) {
        let content = &item["content"];
        if item["type"] == "m.typing" {
            let users = content["user_ids"].as_array().into_iter().flatten();
            self.typing = users.filter_map(Value::as_str).map(str::to_owned).collect();
        } else if item["type"] == "m.receipt" {
            for (event, receipt) in content.as_object().into_iter().flatten() {
                for user in receipt["m.read"].as_object().into_iter().flat_map(|map| map.keys()) {
                    self.read_up_to.insert(user.clone(), event.clone());
                }
            }
        }
    }
}

fn each(events: &Value) -> impl Iterator<Item = Event> {
    events.as_array().into_iter().flatten().map(Event::from_json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(id: &str, sender: &str, content: &Value) -> Value {
        json!({ "event_id": id, "sender": sender, "type": "m.room.message", "content": content,
                "origin_server_ts": 5 })
    }

    fn joined(timeline: &Value) -> Value {
        json!({ "rooms": { "join": { "!r": { "timeline": { "events": timeline } } } } })
    }

    #[test]
    fn an_edit_and_a_redaction_change_what_is_shown() {
        let mut view = View { me: "@me:x".into(), ..View::default() };
        let edit = json!({ "body": "* new", "msgtype": "m.text", "m.new_content": { "body": "new" },
            "m.relates_to": { "rel_type": "m.replace", "event_id": "$1" } });
        view.absorb(&joined(&json!([
            message("$1", "@a:x", &json!({ "body": "old", "msgtype": "m.text" })),
            message("$2", "@a:x", &edit),
            message("$3", "@evil:x", &edit),
        ])));
        let room = &view.rooms["!r"];
        assert_eq!(room.text_now("$1"), Some("new"));
        assert_eq!(room.messages().count(), 1);
        view.absorb(&joined(&json!([{ "event_id": "$4", "sender": "@a:x",
            "type": "m.room.redaction", "content": { "redacts": "$1" } }])));
        assert_eq!(view.rooms["!r"].text_now("$1"), None);
    }

    #[test]
    fn an_event_told_twice_is_shown_once() {
        let mut view = View::default();
        let sync = joined(&json!([message("$1", "@a:x", &json!({ "body": "hi" }))]));
        assert_eq!(view.absorb(&sync).len(), 1);
        assert_eq!(view.absorb(&sync).len(), 0);
        assert_eq!(view.rooms["!r"].timeline.len(), 1);
    }

    #[test]
    fn an_invite_tells_who_and_what_and_joining_forgets_its_stripped_state() {
        let mut view = View { me: "@me:x".into(), ..View::default() };
        view.absorb(&json!({ "rooms": { "invite": { "!r": { "invite_state": { "events": [
            { "type": "m.room.name", "state_key": "", "sender": "@a:x", "content": { "name": "N" } },
            { "type": "m.room.member", "state_key": "@me:x", "sender": "@a:x",
              "content": { "membership": "invite", "is_direct": true } },
        ] } } } } }));
        let room = view.invited_to("N").expect("an invite");
        assert_eq!((room.inviter.as_deref(), room.is_direct), (Some("@a:x"), true));
        view.absorb(&joined(&json!([])));
        assert_eq!(view.joined_room("!r").expect("joined").name(), None);
    }

    #[test]
    fn the_last_link_is_found_in_html_and_in_plain_text() {
        let rows = [
            (
                "html",
                json!({ "body": "x", "formatted_body": "<a href=\"http://h/?a=1&amp;b=2\">l</a>" }),
                "http://h/?a=1&b=2",
            ),
            ("plain", json!({ "body": "go to http://h/p?q=1 now" }), "http://h/p?q=1"),
            ("in brackets", json!({ "body": "see (https://h/p)" }), "https://h/p"),
        ];
        for (name, content, expected) in rows {
            let mut view = View::default();
            view.absorb(&joined(&json!([
                message("$1", "@bot:x", &content),
                message("$2", "@me:x", &json!({ "body": "http://mine" })),
            ])));
            assert_eq!(
                view.rooms["!r"].last_link("@me:x").as_deref(),
                Some(expected),
                "row: {name}"
            );
        }
    }
}

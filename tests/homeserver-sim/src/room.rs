//! One room: its events in order, and what its state is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::event::Event;

/// The newest version known, in which creators have power of their own and rooms are called by their first event.
pub(crate) const NEWEST: u32 = 12;
/// More than anybody can be given.
pub(crate) const CREATOR: i64 = 1 << 53;

#[derive(Debug, Clone)]
pub(crate) struct Room {
    pub(crate) id: String,
    pub(crate) version: u32,
    pub(crate) events: Vec<Event>,
    index: BTreeMap<String, usize>,
    /// By type and key.
    state: BTreeMap<String, BTreeMap<String, usize>>,
    /// What relates to an event, in order.
    related: BTreeMap<String, Vec<usize>>,
    /// Who left and dropped it from memory.
    pub(crate) forgotten: BTreeSet<String>,
    pub(crate) typing: BTreeSet<String>,
}

impl Room {
    pub(crate) fn new(id: &str, version: u32) -> Self {
        Self {
            id: id.to_owned(),
            version,
            events: Vec::new(),
            index: BTreeMap::new(),
            state: BTreeMap::new(),
            related: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            typing: BTreeSet::new(),
        }
    }

    /// Whether creators have their own power.
    pub(crate) fn has_creators(&self) -> bool {
        self.version >= 12
    }

    /// Whether redactions name their target in the content, and creators their event's sender.
    pub(crate) fn is_modern(&self) -> bool {
        self.version >= 11
    }

    pub(crate) fn append(&mut self, mut event: Event) {
        let at = self.events.len();
        if let Some(key) = &event.state_key {
            let keys = self.state.entry(event.kind.clone()).or_default();
            let replaced = keys.insert(key.clone(), at);
            let replaced = replaced.map(|at| &self.events[at]);
            event.replaced =
                replaced.map(|old| (old.id.clone(), old.sender.clone(), old.content.clone()));
            if event.kind == "m.room.member" && event.membership() != "leave" {
                self.forgotten.remove(key);
            }
        }
        if let Some(target) = event.redacts.as_ref().and_then(|id| self.index.get(id)) {
            let modern = self.is_modern();
            self.events[*target].redact(&event.id, modern);
        }
        if let Some(target) = event.content["m.relates_to"]["event_id"].as_str() {
            self.related.entry(target.to_owned()).or_default().push(at);
        }
        self.index.insert(event.id.clone(), at);
        self.events.push(event);
    }

    pub(crate) fn event(&self, id: &str) -> Option<&Event> {
        self.index.get(id).map(|at| &self.events[*at])
    }

    /// What was sent with a relation to an event, of any type.
    pub(crate) fn related(&self, id: &str) -> impl Iterator<Item = &Event> {
        self.related.get(id).into_iter().flatten().map(|at| &self.events[*at])
    }

    /// Whether anybody is shown an event: redactions of what is not there are kept back.
    pub(crate) fn is_shown(&self, event: &Event) -> bool {
        event.redacts.as_ref().is_none_or(|target| self.index.contains_key(target))
    }

    pub(crate) fn position(&self, id: &str) -> Option<usize> {
        self.index.get(id).copied()
    }

    pub(crate) fn get(&self, kind: &str, key: &str) -> Option<&Event> {
        self.state.get(kind)?.get(key).map(|at| &self.events[*at])
    }

    /// The types of its state.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = &str> {
        self.state.keys().map(String::as_str)
    }

    /// The state after the first `end` events.
    pub(crate) fn state_before(&self, end: usize) -> BTreeMap<(&str, &str), &Event> {
        let events = self.events[..end].iter();
        events.filter_map(|e| Some(((&*e.kind, e.state_key.as_deref()?), e))).collect()
    }

    pub(crate) fn member(&self, user: &str) -> Option<&Event> {
        self.get("m.room.member", user)
    }

    pub(crate) fn membership(&self, user: &str) -> &str {
        self.member(user).map_or("", Event::membership)
    }

    pub(crate) fn is_joined(&self, user: &str) -> bool {
        self.membership(user) == "join"
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Event> {
        let members = self.state.get("m.room.member").into_iter().flat_map(BTreeMap::values);
        members.map(|at| &self.events[*at])
    }

    pub(crate) fn joined(&self) -> impl Iterator<Item = &str> {
        self.members()
            .filter(|event| event.membership() == "join")
            .filter_map(|event| event.state_key.as_deref())
    }

    /// Up to where `user` may read: everything while joined, up to the leaving for who left, nothing else.
    ///
    /// Synapse shows nothing to who was banned, or invited again.
    pub(crate) fn readable(&self, user: &str) -> Option<usize> {
        let member = self.member(user)?;
        match member.membership() {
            "join" => Some(self.events.len()),
            "leave" if !self.forgotten.contains(user) => Some(self.position(&member.id)? + 1),
            _ => None,
        }
    }

    fn levels(&self) -> Option<&Value> {
        self.get("m.room.power_levels", "").map(|event| &event.content)
    }

    /// Whether `user` made the room, or was named beside its maker.
    pub(crate) fn is_creator(&self, user: &str) -> bool {
        let Some(create) = self.get("m.room.create", "") else { return false };
        let more = create.content["additional_creators"].as_array();
        create.sender == user || more.is_some_and(|more| more.contains(&json!(user)))
    }

    /// The power of `user`.
    pub(crate) fn level(&self, user: &str) -> i64 {
        if self.has_creators() && self.is_creator(user) {
            return CREATOR;
        }
        match self.levels() {
            None if self.get("m.room.create", "").is_some_and(|e| e.sender == user) => 100,
            None => 0,
            Some(levels) => levels["users"][user]
                .as_i64()
                .or_else(|| levels["users_default"].as_i64())
                .unwrap_or(0),
        }
    }

    /// The power needed to `invite`, `kick`, `ban` or `redact`.
    pub(crate) fn needed(&self, name: &str) -> i64 {
        let default = if name == "invite" { 0 } else { 50 };
        self.levels().and_then(|levels| levels[name].as_i64()).unwrap_or(default)
    }

    /// The power needed to send an event.
    pub(crate) fn needed_for(&self, kind: &str, is_state: bool) -> i64 {
        let none = Value::Null;
        let levels = self.levels().unwrap_or(&none);
        let (name, default) = if is_state { ("state_default", 50) } else { ("events_default", 0) };
        let level = levels["events"][kind].as_i64().or_else(|| levels[name].as_i64());
        level.unwrap_or(default)
    }

    /// What an invited user is shown of the room.
    pub(crate) fn stripped(&self, inviter: &str) -> Value {
        let kinds = [
            "m.room.create",
            "m.room.join_rules",
            "m.room.canonical_alias",
            "m.room.avatar",
            "m.room.encryption",
            "m.room.name",
            "m.room.topic",
        ];
        let shown = kinds.iter().filter_map(|kind| self.get(kind, "")).chain(self.member(inviter));
        shown
            .map(|e| {
                json!({"type": e.kind, "state_key": e.state_key, "content": e.content,
                    "sender": e.sender})
            })
            .collect()
    }

    /// The newest edit of an event by its own sender.
    pub(crate) fn edit_of(&self, event: &Event) -> Option<&Event> {
        let is_edit = |e: &&Event| {
            e.relates("m.replace") == Some(&event.id)
                && e.sender == event.sender
                && e.kind == event.kind
                && e.content.get("m.new_content").is_some_and(Value::is_object)
        };
        if event.redacted_by.is_some() {
            return None;
        }
        self.related(&event.id).filter(is_edit).max_by(|a, b| (a.ts, &a.id).cmp(&(b.ts, &b.id)))
    }
}

//! Rooms and who is in them, with what Faye says about each change.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::State;
use crate::model::{Ban, Event, Group, Member, Outcome, Room};
use crate::view::RoomShape;
use crate::world::RoomSpec;

/// Above this many members joins are no longer announced on the `users` channel.
const ANNOUNCED_MEMBERS: usize = 100;

impl State {
    pub(crate) fn add_group(&mut self, id: Option<&str>, uri: &str, name: &str) -> String {
        if let Some(group) = self.groups.values_mut().find(|g| g.uri.eq_ignore_ascii_case(uri)) {
            return group.id.clone();
        }
        let id = id.map_or_else(|| self.new_id(), str::to_owned);
        let group = Group { id: id.clone(), uri: uri.into(), name: name.into() };
        self.groups.insert(id.clone(), group);
        id
    }

    pub(crate) fn add_room(&mut self, spec: &RoomSpec) -> Outcome<String> {
        if spec.uri.is_empty() || self.find_room(&spec.uri).is_some() {
            return Err(409);
        }
        let owner = spec.uri.split('/').next().unwrap_or_default().to_owned();
        let group = self.add_group(None, &owner, &owner);
        let mut admins = BTreeSet::new();
        for name in &spec.admins {
            admins.insert(self.find_user(name).ok_or(404_u16)?.id.clone());
        }
        let id = spec.id.clone().unwrap_or_else(|| self.new_id());
        let now = self.now();
        let members = admins
            .iter()
            .map(|user| Member { user: user.clone(), lurk: false, favourite: None })
            .collect();
        let room = Room {
            id: id.clone(),
            uri: Some(spec.uri.clone()),
            topic: spec.topic.clone(),
            public: spec.public,
            group: Some(group),
            members,
            access: admins.iter().map(|a| (a.clone(), now)).collect(),
            admins,
            bans: Vec::new(),
            tags: spec.tags.clone(),
            providers: spec.providers.clone(),
            noindex: false,
            v: 1,
            messages: Vec::new(),
            events: Vec::new(),
            unread: BTreeMap::new(),
            mentioned: BTreeMap::new(),
        };
        self.renamed.remove(&spec.uri.to_lowercase());
        self.rooms.insert(id.clone(), room);
        Ok(id)
    }

    /// The one-to-one room of two people, made if needed.
    pub(crate) fn one_to_one(&mut self, a: &str, b: &str) -> Outcome<String> {
        if a == b || !self.users.contains_key(a) || !self.users.contains_key(b) {
            return Err(404);
        }
        let known =
            self.rooms.values().find(|r| r.one_to_one() && r.is_member(a) && r.is_member(b));
        if let Some(room) = known {
            return Ok(room.id.clone());
        }
        let id = self.new_id();
        let now = self.now();
        let member = |user: &str| Member { user: user.into(), lurk: false, favourite: None };
        let room = Room {
            id: id.clone(),
            uri: None,
            topic: String::new(),
            public: false,
            group: None,
            members: vec![member(a), member(b)],
            admins: BTreeSet::new(),
            bans: Vec::new(),
            tags: Vec::new(),
            providers: Vec::new(),
            noindex: false,
            v: 1,
            messages: Vec::new(),
            events: Vec::new(),
            unread: BTreeMap::new(),
            mentioned: BTreeMap::new(),
            access: [a, b].map(|u| (u.to_owned(), now)).into(),
        };
        self.rooms.insert(id.clone(), room);
        for user in [a, b] {
            self.announce_to_user(user, &id);
        }
        Ok(id)
    }

    fn announce_to_user(&mut self, user: &str, room: &str) {
        let model = self.room_view(room, Some(user), RoomShape::Plain);
        let data = json!({"operation": "create", "model": model});
        self.publish(&format!("/api/v1/user/{user}/rooms"), &data);
    }

    /// Puts `user` into the room; being in already is fine.
    pub(crate) fn join(&mut self, room: &str, user: &str) -> Outcome<()> {
        let now = self.now();
        let target = self.room_mut(room)?;
        target.access.insert(user.into(), now);
        if target.is_member(user) {
            return Ok(());
        }
        target.members.push(Member { user: user.into(), lurk: false, favourite: None });
        let announced = target.members.len() <= ANNOUNCED_MEMBERS;
        if announced {
            let data = json!({"operation": "create", "model": self.user_view(user)});
            self.publish(&format!("/api/v1/rooms/{room}/users"), &data);
        }
        self.announce_to_user(user, room);
        Ok(())
    }

    /// Takes `user` out: leaving, kick or ban. Subscriptions end without a word.
    pub(crate) fn part(&mut self, room: &str, user: &str) -> Outcome<()> {
        let target = self.room_mut(room)?;
        if !target.is_member(user) {
            return Err(404);
        }
        if target.one_to_one() {
            return Err(400);
        }
        target.members.retain(|m| m.user != user);
        target.unread.remove(user);
        target.mentioned.remove(user);
        target.access.remove(user);
        self.bus.unsubscribe_user(user, &format!("/api/v1/rooms/{room}"));
        self.publish_removal(&format!("/api/v1/rooms/{room}/users"), user);
        self.publish_removal(&format!("/api/v1/user/{user}/rooms"), room);
        self.announce_counts(room, user, true);
        Ok(())
    }

    pub(crate) fn publish_removal(&mut self, channel: &str, id: &str) {
        self.publish(channel, &json!({"operation": "remove", "model": {"id": id}}));
    }

    pub(crate) fn ban(&mut self, room: &str, user: &str, by: &str) -> Outcome<()> {
        let now = self.now();
        let target = self.room_mut(room)?;
        if target.one_to_one() {
            return Err(403);
        }
        if target.is_banned(user) {
            return Ok(());
        }
        target.bans.push(Ban { user: user.into(), by: by.into(), at_ms: now });
        let member = target.is_member(user);
        self.add_ban_event(room, user, by, "banned");
        self.bus.unsubscribe_user(user, &format!("/api/v1/rooms/{room}"));
        if member {
            self.part(room, user)?;
        }
        self.room_changed(room)
    }

    pub(crate) fn unban(&mut self, room: &str, user: &str, by: &str) -> Outcome<()> {
        let target = self.room_mut(room)?;
        if !target.is_banned(user) {
            return Err(404);
        }
        target.bans.retain(|b| b.user != user);
        self.add_ban_event(room, user, by, "unbanned");
        self.room_changed(room)
    }

    fn add_ban_event(&mut self, room: &str, user: &str, by: &str, what: &str) {
        let (by, user) = (self.username(by), self.username(user));
        let prefix = if what == "unbanned" { "User " } else { "" };
        let text = format!("{prefix}@{by} {what} @{user}");
        let meta = json!({"service": "bans", "event": what, "bannedUser": user,
            "prerendered": true, "performingUser": by});
        self.add_event(room, &text, meta, None);
    }

    /// Adds to the activity feed.
    pub(crate) fn add_event(
        &mut self,
        room: &str,
        text: &str,
        meta: serde_json::Value,
        payload: Option<serde_json::Value>,
    ) {
        let (id, sent_ms) = (self.new_id(), self.now());
        let html = crate::markdown::render(text).html;
        let event = Event { id, text: text.into(), html, sent_ms, meta, payload };
        let model = crate::view::event_view(&event);
        if let Some(target) = self.rooms.get_mut(room) {
            target.events.push(event);
        }
        let data = json!({"operation": "create", "model": model});
        self.publish(&format!("/api/v1/rooms/{room}/events"), &data);
    }

    /// Counts the version up and tells the room and its members' lists.
    pub(crate) fn room_changed(&mut self, room: &str) -> Outcome<()> {
        self.room_mut(room)?.v += 1;
        let data =
            json!({"operation": "update", "model": self.room_view(room, None, RoomShape::Plain)});
        self.tell_room(room, &data)
    }

    fn tell_room(&mut self, room: &str, data: &serde_json::Value) -> Outcome<()> {
        let members: Vec<_> = self.room(room)?.members.iter().map(|m| m.user.clone()).collect();
        self.publish(&format!("/api/v1/rooms/{room}"), data);
        for user in members {
            self.publish(&format!("/api/v1/user/{user}/rooms"), data);
        }
        Ok(())
    }

    /// The only change that is told as a patch.
    pub(crate) fn set_topic(&mut self, room: &str, topic: &str) -> Outcome<()> {
        self.room_mut(room)?.topic = topic.into();
        let data = json!({"operation": "patch", "model": {"topic": topic, "id": room}});
        self.tell_room(room, &data)
    }

    pub(crate) fn rename_room(&mut self, room: &str, uri: &str) -> Outcome<()> {
        if self.find_room(uri).is_some_and(|other| other.id != room) {
            return Err(409);
        }
        let owner = uri.split('/').next().unwrap_or_default().to_owned();
        let group = self.add_group(None, &owner, &owner);
        let target = self.room_mut(room)?;
        let old = target.uri.replace(uri.into()).ok_or(400_u16)?;
        target.group = Some(group);
        self.renamed.remove(&uri.to_lowercase());
        self.renamed.insert(old.to_lowercase(), room.into());
        self.room_changed(room)
    }

    pub(crate) fn delete_room(&mut self, room: &str) -> Outcome<()> {
        let members: Vec<_> = self.room(room)?.members.iter().map(|m| m.user.clone()).collect();
        for user in &members {
            self.forget_unread(room, user);
        }
        for user in &members {
            self.publish_removal(&format!("/api/v1/rooms/{room}/users"), user);
        }
        for user in &members {
            self.publish_removal(&format!("/api/v1/user/{user}/rooms"), room);
        }
        self.bus.unsubscribe_all(&format!("/api/v1/rooms/{room}"));
        self.rooms.remove(room);
        self.renamed.retain(|_, id| id != room);
        Ok(())
    }

    /// Rooms of a user's list: joined ones, and those with an unread mention.
    pub(crate) fn rooms_of(&self, user: &str) -> Vec<String> {
        self.rooms
            .values()
            .filter(|r| r.is_member(user) || !r.mentions_of(user).is_empty())
            .map(|r| r.id.clone())
            .collect()
    }
}

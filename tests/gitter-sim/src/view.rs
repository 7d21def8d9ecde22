//! Objects as Gitter's serializers write them: absent keys are absent, not null.

use serde_json::{Map, Value, json};

use crate::ids::iso;
use crate::model::{Event, Message};
use crate::state::State;

/// Which optional parts of a room a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoomShape {
    /// Search results, Faye models.
    Plain,
    /// `GET /rooms`, `GET /user/:id/rooms`.
    Listed,
    /// `POST /rooms`, mode changes.
    LookedUp,
    /// `GET /rooms/:id`.
    Full,
    /// Joining, Faye snapshots.
    Joined,
    /// `PUT /rooms/:id`.
    Changed,
}

impl RoomShape {
    fn has(self, part: &str) -> bool {
        match part {
            "tags" => matches!(self, Self::Listed | Self::LookedUp | Self::Full),
            "permissions" => !matches!(self, Self::Plain | Self::LookedUp),
            "group" => !matches!(self, Self::Plain | Self::Listed),
            "backend" => matches!(self, Self::Full | Self::Joined | Self::Changed),
            _ => matches!(self, Self::Full | Self::Joined),
        }
    }
}

impl State {
    pub(crate) fn avatar(&self, user: &str, size: u32) -> String {
        format!("{}/api/private/avatars/u/{}?v=4&s={size}", self.origin, self.username(user))
    }

    pub(crate) fn user_view(&self, id: &str) -> Value {
        let Some(user) = self.users.get(id) else { return json!({"id": id}) };
        let name = &user.username;
        let mut view = json!({
            "id": user.id, "username": name, "displayName": user.display_name,
            "url": format!("/{name}"), "v": user.v,
            "avatarUrlSmall": self.avatar(id, 60), "avatarUrlMedium": self.avatar(id, 128),
        });
        let github = user.providers.iter().any(|p| p == "github");
        let kind = if github { "gh/uv/3" } else { "g/u" };
        view["avatarUrl"] = json!(format!("{}/api/private/avatars/{kind}/{name}", self.origin));
        if github {
            view["gv"] = json!("3");
        }
        if user.removed {
            view["removed"] = json!(true);
        }
        let pictures = ["avatarUrl", "avatarUrlSmall", "avatarUrlMedium"];
        if let (Some(url), Some(view)) = (&user.picture, view.as_object_mut()) {
            view.retain(|key, _| !pictures.contains(&key.as_str()));
            if !url.is_empty() {
                view.extend(pictures.map(|key| (key.to_owned(), json!(url))));
            }
        }
        view
    }

    /// The user with `providers`, as only its owner sees it.
    pub(crate) fn own_view(&self, id: &str) -> Value {
        let mut view = self.user_view(id);
        // Gitter names no provider but GitHub here.
        let providers = self.users.get(id).map(|u| u.providers.as_slice()).unwrap_or_default();
        let known: Vec<_> = providers.iter().filter(|p| *p == "github").collect();
        view["providers"] = json!(known);
        view
    }

    pub(crate) fn lean_user_view(&self, id: &str) -> Value {
        keep(self.user_view(id), &["id", "username", "online", "role", "removed", "v", "gv"])
    }

    /// A user in a member list: `role` for admins, `online` for those connected to Faye.
    pub(crate) fn member_view(&self, room: &str, id: &str, online: bool) -> Value {
        let mut view = self.user_view(id);
        if self.rooms.get(room).is_some_and(|r| r.is_admin(id)) {
            view["role"] = json!("admin");
        }
        if online && self.bus.is_online(id) {
            view["online"] = json!(true);
        }
        view
    }

    pub(crate) fn group_view(&self, id: &str) -> Value {
        let Some(group) = self.groups.get(id) else { return Value::Null };
        json!({"id": group.id, "name": group.name, "uri": group.uri,
            "homeUri": format!("{}/home", group.uri), "backedBy": {"type": null},
            "avatarUrl": self.group_avatar(id)})
    }

    fn group_avatar(&self, id: &str) -> String {
        format!("{}/api/private/avatars/group/i/{id}", self.origin)
    }

    /// A room as `viewer` sees it; without one, only what is the same for everyone.
    pub(crate) fn room_view(&self, id: &str, viewer: Option<&str>, shape: RoomShape) -> Value {
        let Some(room) = self.rooms.get(id) else { return json!({"id": id}) };
        let mut view = json!({"id": room.id, "topic": room.topic,
            "oneToOne": room.one_to_one(), "userCount": room.members.len(),
            "noindex": room.noindex, "groupId": room.group, "public": room.public});
        if let Some(uri) = &room.uri {
            let group = room.group.as_deref().unwrap_or_default();
            let owner = self.groups.get(group).map_or("", |g| g.name.as_str());
            let last = uri.rsplit('/').next().unwrap_or(uri);
            view["name"] = json!(format!("{owner}/{last}"));
            view["uri"] = json!(uri);
            view["url"] = json!(format!("/{uri}"));
            view["githubType"] = json!("REPO_CHANNEL");
            view["security"] = json!(if room.public { "PUBLIC" } else { "PRIVATE" });
            view["avatarUrl"] = json!(self.group_avatar(group));
            view["v"] = json!(room.v);
        } else {
            let other = room.members.iter().map(|m| &m.user).find(|u| Some(u.as_str()) != viewer);
            let other = other.map_or_else(|| json!({}), |u| self.user_view(u));
            view["name"] = other["displayName"].clone();
            view["url"] = other["url"].clone();
            view["avatarUrl"] = other["avatarUrl"].clone();
            view["githubType"] = json!("ONETOONE");
            view["user"] = other;
        }
        if !room.providers.is_empty() {
            view["providers"] = json!(room.providers);
        }
        if let Some(viewer) = viewer {
            self.add_viewer(&mut view, id, viewer, shape);
        }
        if shape.has("tags") {
            view["tags"] = json!(room.tags);
        }
        if let (true, Some(group)) = (shape.has("group"), &room.group) {
            view["group"] = self.group_view(group);
        }
        if shape.has("backend") && !room.one_to_one() {
            view["backend"] = json!({"type": null});
        }
        if shape.has("associatedRepo") {
            view["associatedRepo"] = json!(false);
        }
        view
    }

    fn add_viewer(&self, view: &mut Value, id: &str, viewer: &str, shape: RoomShape) {
        let Some(room) = self.rooms.get(id) else { return };
        let member = room.member(viewer);
        let lurk = member.is_some_and(|m| m.lurk);
        view["unreadItems"] = json!(room.unread_of(viewer).len());
        view["mentions"] = json!(room.mentions_of(viewer).len());
        view["lurk"] = json!(lurk);
        view["roomMember"] = json!(member.is_some());
        if lurk {
            view["activity"] = json!(true);
        }
        if let Some(favourite) = member.and_then(|m| m.favourite) {
            view["favourite"] = json!(favourite);
        }
        if let Some(at) = room.access.get(viewer) {
            view["lastAccessTime"] = json!(iso(*at));
        }
        if shape.has("permissions") {
            view["permissions"] = json!({"admin": room.is_admin(viewer)});
        }
    }

    /// A message; `viewer` (user and room) adds `unread`, which Faye models lack.
    pub(crate) fn message_view(&self, message: &Message, viewer: Option<(&str, &str)>) -> Value {
        let mut view = json!({"id": message.id, "text": message.text, "html": message.html,
            "sent": iso(message.sent_ms), "readBy": message.read_by.len(), "urls": message.urls,
            "mentions": message.mentions, "issues": message.issues, "meta": []});
        if let Some((user, room)) = viewer {
            let room = self.rooms.get(room);
            let unread = room.is_some_and(|r| r.unread_of(user).contains(&message.id));
            view["unread"] = json!(unread);
        }
        let optional = [
            ("status", message.status.map(Value::from)),
            ("editedAt", message.edited_ms.map(|ms| json!(iso(ms)))),
            ("parentId", message.parent.clone().map(Value::from)),
            ("threadMessageCount", message.thread_count.map(Value::from)),
            ("v", (message.v > 0).then(|| json!(message.v))),
            ("virtualUser", message.virtual_user.clone()),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                view[key] = value;
            }
        }
        view["fromUser"] = match &message.virtual_user {
            Some(v) => virtual_user_view(v),
            None => self.user_view(&message.from),
        };
        view
    }
}

/// The mock author of a message by a virtual user: its id is no object id.
fn virtual_user_view(v: &Value) -> Value {
    let text = |key: &str| v[key].as_str().unwrap_or_default().to_owned();
    let mut view = json!({"id": format!("{}-{}", text("type"), text("externalId")),
        "username": text("externalId"), "displayName": text("displayName")});
    if let Some(url) = v.get("avatarUrl") {
        for key in ["avatarUrl", "avatarUrlSmall", "avatarUrlMedium"] {
            view[key] = url.clone();
        }
    }
    view
}

/// The lean form of a message: empty lists dropped, lean author.
pub(crate) fn lean_message(mut view: Value, author: Value) -> Value {
    if let Some(map) = view.as_object_mut() {
        map.retain(|_, v| v.as_array().is_none_or(|a| !a.is_empty()));
    }
    view["fromUser"] = author;
    view
}

pub(crate) fn event_view(event: &Event) -> Value {
    let mut view = json!({"id": event.id, "text": event.text, "html": event.html,
        "sent": iso(event.sent_ms), "editedAt": null, "meta": event.meta, "v": 1});
    if let Some(payload) = &event.payload {
        view["payload"] = payload.clone();
    }
    view
}

fn keep(view: Value, keys: &[&str]) -> Value {
    let Value::Object(map) = view else { return view };
    Value::Object(
        map.into_iter().filter(|(k, _)| keys.contains(&k.as_str())).collect::<Map<_, _>>(),
    )
}

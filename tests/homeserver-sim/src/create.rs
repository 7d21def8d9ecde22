//! Making rooms, and replacing them: in steps, of which each may fail and leave what was done before.

use serde_json::{Value, json};

use crate::event::{Draft, Event};
use crate::refusal::Refusal;
use crate::room::{NEWEST, Room};
use crate::rules;
use crate::state::State;

/// What a preset sets.
struct Preset {
    join_rule: &'static str,
    guests: bool,
    invite: i64,
    invitees_have_ops: bool,
}

fn preset(body: &Value) -> Result<Preset, Refusal> {
    let visibility = body["visibility"].as_str().unwrap_or("private");
    let default = if visibility == "private" { "private_chat" } else { "public_chat" };
    let private =
        |ops| Preset { join_rule: "invite", guests: true, invite: 0, invitees_have_ops: ops };
    match body["preset"].as_str().unwrap_or(default) {
        "private_chat" => Ok(private(false)),
        "trusted_private_chat" => Ok(private(true)),
        "public_chat" => {
            Ok(Preset { join_rule: "public", guests: false, invite: 50, invitees_have_ops: false })
        }
        other => {
            let words = format!("'{other}' is not a valid preset");
            Err(Refusal::new(400, "M_BAD_JSON", words))
        }
    }
}

fn parse_version(version: Option<&Value>, default: u32) -> Result<u32, Refusal> {
    let Some(version) = version else { return Ok(default) };
    let version = version
        .as_str()
        .ok_or_else(|| Refusal::new(400, "M_BAD_JSON", "room_version must be a string"))?;
    version.parse().ok().filter(|v| (1..=NEWEST).contains(v)).ok_or_else(|| {
        let words = "Your homeserver does not support this room version";
        Refusal::new(400, "M_UNSUPPORTED_ROOM_VERSION", words)
    })
}

impl State {
    /// Makes a room. An error after the first checks leaves the room behind, with what was done before the error.
    pub(crate) fn create_room(&mut self, creator: &str, body: &Value) -> Result<String, Refusal> {
        let version = parse_version(body.get("room_version"), self.cfg.room_version)?;
        let list = |name: &str| body[name].as_array().cloned().unwrap_or_default();
        let invites = list("invite");
        for invitee in &invites {
            let valid = |id: &str| {
                id.starts_with('@')
                    && id.split_once(':').is_some_and(|(_, server)| !server.is_empty())
            };
            if !invitee.as_str().is_some_and(valid) {
                let words = format!("Invalid user_id: {}", invitee.as_str().unwrap_or_default());
                return Err(Refusal::new(400, "M_UNKNOWN", words));
            }
        }
        let levels = &body["power_level_content_override"];
        if version < 12 && levels["users"].is_object() && levels["users"].get(creator).is_none() {
            let words = format!(
                "Not a valid power_level_content_override: 'users' did not contain {creator}"
            );
            return Err(Refusal::new(400, "M_UNKNOWN", words));
        }
        if body.get("room_alias_name").is_some() && self.owns(creator) {
            let words = "This application service has not reserved this kind of alias.";
            return Err(Refusal::new(400, "M_EXCLUSIVE", words));
        }
        let preset = preset(body)?;
        let mut creation = body["creation_content"].clone();
        if !creation.is_object() {
            creation = json!({});
        }
        creation["room_version"] = json!(version.to_string());
        if version >= 12 && preset.invitees_have_ops && !invites.is_empty() {
            creation["additional_creators"] = json!(invites);
        }
        let room = self.begin_room(creator, version, creation);
        let drafts = self.first_state(creator, version, body, &preset, &invites);
        self.batch(&room, drafts)?;
        for invitee in invites.iter().filter_map(Value::as_str) {
            if self.localpart(invitee).is_none() {
                return Err(Refusal::new(502, "M_UNKNOWN", "Failed to send request"));
            }
            let direct = body["is_direct"] == true;
            let content = if direct { json!({"is_direct": true}) } else { json!({}) };
            self.change_membership(creator, &room, invitee, "invite", content, None)?;
        }
        Ok(room)
    }

    /// The create event and its sender's joining, which nothing refuses.
    fn begin_room(&mut self, creator: &str, version: u32, mut creation: Value) -> String {
        if version < 11 {
            creation["creator"] = json!(creator);
        }
        let event = self.ids.event();
        let id = if version >= 12 {
            format!("!{}", &event[1..])
        } else {
            format!("!{}:{}", self.ids.letters(18), self.cfg.domain)
        };
        self.rooms.insert(id.clone(), Room::new(&id, version));
        self.append_as(&id, Draft::state(creator, "m.room.create", "", creation), event);
        let mut member = json!({"membership": "join"});
        for (field, value) in self.profile(creator) {
            member[field] = json!(value);
        }
        self.append(&id, Draft::state(creator, "m.room.member", creator, member));
        id
    }

    /// The events that follow the creator's joining, in Synapse's order.
    fn first_state(
        &self,
        creator: &str,
        version: u32,
        body: &Value,
        preset: &Preset,
        invites: &[Value],
    ) -> Vec<Draft> {
        let mut initial: Vec<(String, String, Value)> = Vec::new();
        for state in body["initial_state"].as_array().into_iter().flatten() {
            let text = |name: &str| state[name].as_str().unwrap_or_default().to_owned();
            let (kind, key) = (text("type"), text("state_key"));
            match initial.iter_mut().find(|(k, s, _)| (k, s) == (&kind, &key)) {
                Some(known) => known.2 = state["content"].clone(),
                None => initial.push((kind, key, state["content"].clone())),
            }
        }
        let given = |initial: &[(String, String, Value)], kind: &str| {
            initial.iter().position(|(k, s, _)| k == kind && s.is_empty())
        };
        let state =
            |kind: &str, key: &str, content: Value| Draft::state(creator, kind, key, content);
        let levels = match given(&initial, "m.room.power_levels") {
            Some(at) => initial.remove(at).2,
            None => default_levels(creator, version, body, preset, invites),
        };
        let mut drafts = vec![state("m.room.power_levels", "", levels)];
        let defaults = [
            ("m.room.join_rules", json!({"join_rule": preset.join_rule}), true),
            ("m.room.history_visibility", json!({"history_visibility": "shared"}), true),
            ("m.room.guest_access", json!({"guest_access": "can_join"}), preset.guests),
        ];
        for (kind, content, wanted) in defaults {
            if wanted && given(&initial, kind).is_none() {
                drafts.push(state(kind, "", content));
            }
        }
        for (kind, key, content) in &initial {
            drafts.push(state(kind, key, content.clone()));
        }
        let private = preset.join_rule == "invite";
        if self.cfg.encrypt_private && private && given(&initial, "m.room.encryption").is_none() {
            let content = json!({"algorithm": "m.megolm.v1.aes-sha2"});
            drafts.push(state("m.room.encryption", "", content));
        }
        if let Some(name) = body["name"].as_str() {
            drafts.push(state("m.room.name", "", json!({"name": name})));
        }
        if let Some(topic) = body["topic"].as_str() {
            let content = json!({"topic": topic, "m.topic": {"m.text": [{"body": topic}]}});
            drafts.push(state("m.room.topic", "", content));
        }
        drafts
    }

    /// Appends all of these or, if one of them is refused, none.
    fn batch(&mut self, room_id: &str, drafts: Vec<Draft>) -> Result<(), Refusal> {
        let mut trial = self.room(room_id)?.clone();
        for (at, draft) in drafts.iter().enumerate() {
            rules::check(&trial, draft)?;
            trial.append(Event {
                id: format!("$trial{at}"),
                room: room_id.to_owned(),
                kind: draft.kind.clone(),
                state_key: draft.state_key.clone(),
                sender: draft.sender.clone(),
                ts: 0,
                came: 0,
                content: draft.content.clone(),
                original: Value::Null,
                redacts: None,
                redacted_by: None,
                txn: None,
                replaced: None,
                invite_state: None,
            });
        }
        for draft in drafts {
            self.append(room_id, draft);
        }
        Ok(())
    }

    /// Replaces a room by one of another version, as a client's "upgrade" does: its members are not taken along.
    ///
    /// See <https://spec.matrix.org/v1.15/client-server-api/#room-upgrades>.
    pub(crate) fn upgrade(
        &mut self,
        user: &str,
        old_id: &str,
        version: Option<&Value>,
    ) -> Result<String, Refusal> {
        let version = parse_version(version, self.cfg.room_version)?;
        let old = self.rooms.get(old_id).ok_or_else(|| Refusal::not_in_room(user, old_id))?;
        let tombstone = |new: &str| {
            let content = json!({"body": "This room has been replaced", "replacement_room": new});
            Draft::state(user, "m.room.tombstone", "", content)
        };
        rules::check(old, &tombstone("!"))?;
        let mut creation =
            json!({"room_version": version.to_string(), "predecessor": {"room_id": old_id}});
        if let Some(create) = old.get("m.room.create", "") {
            for key in ["m.federate", "type"] {
                if let Some(value) = create.content.get(key) {
                    creation[key] = value.clone();
                }
            }
        }
        let kinds = [
            "m.room.join_rules",
            "m.room.name",
            "m.room.topic",
            "m.room.history_visibility",
            "m.room.guest_access",
            "m.room.avatar",
            "m.room.encryption",
        ];
        let copied = kinds.iter().filter_map(|kind| old.get(kind, ""));
        let copied = copied.map(|e| Draft::state(user, &e.kind, "", e.content.clone()));
        let copied: Vec<Draft> = copied.collect();
        let bans = old.members().filter(|e| e.membership() == "ban");
        let bans = bans.map(|e| {
            let key = e.state_key.as_deref().unwrap_or_default();
            Draft::state(user, "m.room.member", key, e.content.clone())
        });
        let bans: Vec<Draft> = bans.collect();
        let levels = old.get("m.room.power_levels", "").map(|e| e.content.clone());
        let mut levels = levels.unwrap_or_else(|| json!({}));
        let old_levels = levels.clone();
        if version >= 12
            && let Some(users) = levels["users"].as_object_mut()
        {
            users.remove(user);
        }
        let new = self.begin_room(user, version, creation);
        let mut drafts = vec![Draft::state(user, "m.room.power_levels", "", levels)];
        drafts.extend(copied);
        self.batch(&new, drafts)?;
        self.batch(&new, bans)?;
        self.append(old_id, tombstone(&new));
        let mut closed = old_levels;
        let restricted = (closed["users_default"].as_i64().unwrap_or(0) + 1).max(50);
        for key in ["invite", "events_default"] {
            if closed[key].as_i64().unwrap_or(0) < restricted {
                closed[key] = json!(restricted);
            }
        }
        // Who lacks the power leaves the old room as it is.
        let _ = self.set_state(old_id, Draft::state(user, "m.room.power_levels", "", closed));
        Ok(new)
    }
}

fn default_levels(
    creator: &str,
    version: u32,
    body: &Value,
    preset: &Preset,
    invites: &[Value],
) -> Value {
    let mut users = json!({});
    if version < 12 {
        users[creator] = json!(100);
        for invitee in invites.iter().filter(|_| preset.invitees_have_ops) {
            users[invitee.as_str().unwrap_or_default()] = json!(100);
        }
    }
    let mut levels = json!({
        "users": users,
        "users_default": 0,
        "events": {
            "m.room.name": 50, "m.room.power_levels": 100, "m.room.history_visibility": 100,
            "m.room.canonical_alias": 50, "m.room.avatar": 50,
            "m.room.tombstone": if version >= 12 { 150 } else { 100 },
            "m.room.server_acl": 100, "m.room.encryption": 100,
        },
        "events_default": 0, "state_default": 50, "ban": 50, "kick": 50, "redact": 50,
        "invite": preset.invite, "historical": 100,
    });
    if let Some(given) = body["power_level_content_override"].as_object() {
        for (key, value) in given {
            levels[key] = value.clone();
        }
    }
    levels
}

//! Events, and how clients and appservices are shown them.

use serde_json::{Map, Value, json};

/// Where a sent event's transaction id came from; its sender is shown it again on the same device only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Txn {
    pub(crate) device: Option<String>,
    pub(crate) id: String,
}

/// An event that is to be: checked, then appended.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) kind: String,
    pub(crate) state_key: Option<String>,
    pub(crate) sender: String,
    pub(crate) content: Value,
    /// The time shown, if another than now.
    pub(crate) ts: Option<u64>,
    pub(crate) redacts: Option<String>,
    pub(crate) txn: Option<Txn>,
}

impl Draft {
    pub(crate) fn message(sender: &str, kind: &str, content: Value) -> Self {
        let (kind, sender) = (kind.to_owned(), sender.to_owned());
        Self { kind, state_key: None, sender, content, ts: None, redacts: None, txn: None }
    }

    pub(crate) fn state(sender: &str, kind: &str, key: &str, content: Value) -> Self {
        Self { state_key: Some(key.to_owned()), ..Self::message(sender, kind, content) }
    }
}

/// An event as the homeserver keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its id.
    pub id: String,
    /// Its room.
    pub room: String,
    /// Its type, like `m.room.message`.
    pub kind: String,
    /// Present for state.
    pub state_key: Option<String>,
    /// Who sent it.
    pub sender: String,
    /// The time it shows, in milliseconds since 1970.
    pub ts: u64,
    /// When it came, in milliseconds since 1970, whatever the homeserver's clock showed.
    pub came: u64,
    /// Its content; what redaction leaves of it once redacted.
    pub content: Value,
    /// The content it was sent with.
    pub original: Value,
    /// What it redacts.
    pub redacts: Option<String>,
    /// The redaction that took its content.
    pub redacted_by: Option<String>,
    pub(crate) txn: Option<Txn>,
    /// Id, sender and content of the state it replaced.
    pub(crate) replaced: Option<(String, String, Value)>,
    /// What an invited user is shown of the room.
    pub(crate) invite_state: Option<Value>,
}

impl Event {
    /// A text field of the content, empty if there is none.
    #[must_use]
    pub fn text(&self, field: &str) -> &str {
        self.content[field].as_str().unwrap_or_default()
    }

    /// The membership of a member event, empty for others.
    #[must_use]
    pub fn membership(&self) -> &str {
        if self.kind == "m.room.member" { self.text("membership") } else { "" }
    }

    /// The event it relates to by this `rel_type`.
    #[must_use]
    pub fn relates(&self, rel_type: &str) -> Option<&str> {
        let relation = &self.content["m.relates_to"];
        if relation["rel_type"] == rel_type { relation["event_id"].as_str() } else { None }
    }

    /// In the client format: to the appservice, or to a reader of the room.
    pub(crate) fn shown(&self, now: u64, redaction: Option<&Event>) -> Value {
        let mut unsigned = json!({"age": now.saturating_sub(self.ts)});
        if let Some((id, sender, content)) = &self.replaced {
            unsigned["replaces_state"] = json!(id);
            unsigned["prev_content"] = content.clone();
            unsigned["prev_sender"] = json!(sender);
        }
        if let Some(by) = redaction {
            unsigned["redacted_by"] = json!(by.id);
            unsigned["redacted_because"] = with_copies(by.shown(now, None));
        }
        let mut event = json!({
            "type": self.kind, "event_id": self.id, "room_id": self.room, "sender": self.sender,
            "origin_server_ts": self.ts, "content": self.content, "unsigned": unsigned,
        });
        if let Some(key) = &self.state_key {
            event["state_key"] = json!(key);
        }
        if let Some(redacts) = &self.redacts {
            // In both places, whatever the room's version, for clients of all ages.
            event["redacts"] = json!(redacts);
            event["content"]["redacts"] = json!(redacts);
        }
        event
    }

    /// As the appservice is sent it.
    pub(crate) fn pushed(&self, now: u64, redaction: Option<&Event>) -> Value {
        let mut event = self.shown(now, redaction);
        if let Some(state) = &self.invite_state {
            event["unsigned"]["invite_room_state"] = state.clone();
        }
        with_copies(event)
    }

    /// Takes away what a redaction takes.
    ///
    /// See <https://spec.matrix.org/v1.15/rooms/v11/#redactions>.
    pub(crate) fn redact(&mut self, by: &str, modern: bool) {
        let keep: &[&str] = match self.kind.as_str() {
            "m.room.member" => &["membership", "join_authorised_via_users_server"],
            "m.room.create" if modern => return,
            "m.room.create" => &["creator"],
            "m.room.join_rules" => &["join_rule", "allow"],
            "m.room.history_visibility" => &["history_visibility"],
            "m.room.redaction" if modern => &["redacts"],
            "m.room.power_levels" => &[
                "ban",
                "events",
                "events_default",
                "invite",
                "kick",
                "redact",
                "state_default",
                "users",
                "users_default",
            ],
            _ => &[],
        };
        let kept: Map<String, Value> = keep
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), self.content.get(*key)?.clone())))
            .collect();
        self.content = kept.into();
        self.redacted_by = Some(by.to_owned());
    }
}

/// Adds the copies at top level that Synapse keeps for old clients.
pub(crate) fn with_copies(mut event: Value) -> Value {
    let copied = ["age", "prev_content", "replaces_state", "invite_room_state", "redacted_because"];
    for key in copied {
        if let Some(value) = event["unsigned"].get(key) {
            event[key] = value.clone();
        }
    }
    event["user_id"] = event["sender"].clone();
    event
}

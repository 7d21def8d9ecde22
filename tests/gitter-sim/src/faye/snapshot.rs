//! What the answer to a subscription carries of the present state.

use serde_json::{Value, json};

use crate::state::{Page, State, page};
use crate::view::{RoomShape, event_view};

fn limit(wanted: &Value, default: u64) -> usize {
    let limit = wanted["limit"].as_u64().filter(|n| *n > 0).unwrap_or(default).min(100);
    usize::try_from(limit).unwrap_or(30)
}

impl State {
    /// The snapshot of a channel given in parts, for a subscriber who may read it.
    pub(crate) fn snapshot(&self, parts: &[&str], user: &str, wanted: &Value) -> Option<Value> {
        Some(match parts {
            ["rooms", id] => {
                let asked = wanted.is_object() || wanted == &json!(true);
                return asked.then(|| self.room_view(id, Some(user), RoomShape::Joined));
            }
            ["rooms", id, "chatMessages"] => {
                let wanted = Page {
                    limit: limit(wanted, 30),
                    threads: wanted["includeThreads"] == json!(true),
                    ..Page::default()
                };
                let (found, _) = page(self.room(id).ok()?, &wanted).ok()?;
                found.into_iter().map(|m| self.message_view(m, Some((user, id)))).collect()
            }
            ["rooms", id, "chatMessages", message, "readBy"] => {
                let message = self.room(id).ok()?.message(message)?;
                message.read_by.iter().map(|u| self.user_view(u)).collect()
            }
            ["rooms", id, "users"] => {
                let members = &self.room(id).ok()?.members;
                let shown = members.iter().take(limit(wanted, 30));
                shown.map(|m| self.member_view(id, &m.user, true)).collect()
            }
            ["rooms", id, "events"] => {
                let events = &self.room(id).ok()?.events;
                events.iter().rev().take(limit(wanted, 20)).map(event_view).collect()
            }
            ["user", _, "rooms"] => {
                let rooms = self.rooms_of(user);
                rooms.iter().map(|r| self.room_view(r, Some(user), RoomShape::Listed)).collect()
            }
            ["user", _, "groups" | "orgs"] => json!([]),
            ["user", _, "rooms", id, "unreadItems"] => {
                let room = self.room(id).ok()?;
                let mut view =
                    json!({"chat": room.unread_of(user), "mention": room.mentions_of(user)});
                if room.member(user).is_some_and(|m| m.lurk) {
                    view["_meta"] = json!({"lurk": true});
                }
                view
            }
            _ => return None,
        })
    }
}

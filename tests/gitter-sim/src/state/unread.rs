//! Unread items: at most 100 per room and person, as Gitter keeps them.

use serde_json::json;

use super::State;
use crate::model::{Message, Outcome};
use crate::view::RoomShape;

/// Tracked per room and person; older ones are forgotten.
const UNREAD_KEPT: usize = 100;

fn remember(list: &mut Vec<String>, id: &str) {
    list.push(id.into());
    if list.len() > UNREAD_KEPT {
        list.remove(0);
    }
}

impl State {
    /// Counts a new message as unread for everyone it concerns, and tells them.
    pub(crate) fn count_unread(&mut self, room: &str, message: &Message) {
        let Some(target) = self.rooms.get(room) else { return };
        let everyone =
            message.mentions.iter().any(|m| m.get("group").is_some_and(|g| g == &json!(true)));
        let named: Vec<&str> =
            message.mentions.iter().filter_map(|m| m.get("userId")?.as_str()).collect();
        let mut people: Vec<(String, bool, bool)> = target
            .members
            .iter()
            .filter(|m| m.user != message.from)
            .map(|m| (m.user.clone(), m.lurk, everyone || named.contains(&m.user.as_str())))
            .collect();
        if target.public {
            let outside = named
                .iter()
                .filter(|u| **u != message.from && !target.is_member(u) && !target.is_banned(u));
            people.extend(outside.map(|u| ((*u).to_owned(), false, true)));
        }
        for (user, lurk, mentioned) in people {
            if !lurk || mentioned {
                self.count_one(room, message, &user, mentioned);
            }
        }
    }

    fn count_one(&mut self, room: &str, message: &Message, user: &str, mentioned: bool) {
        let Some(target) = self.rooms.get_mut(room) else { return };
        let first_word_outside = !target.is_member(user) && target.mentions_of(user).is_empty();
        let direct = target.one_to_one();
        remember(target.unread.entry(user.into()).or_default(), &message.id);
        let mut items = json!({"chat": [message.id]});
        if mentioned {
            remember(target.mentioned.entry(user.into()).or_default(), &message.id);
            items["mention"] = json!([message.id]);
        }
        let data = json!({"notification": "unread_items", "items": items});
        self.publish(&format!("/api/v1/user/{user}/rooms/{room}/unreadItems"), &data);
        self.announce_counts(room, user, mentioned);
        if (direct || mentioned) && !self.bus.is_present(user, room) {
            let sender = self.users.get(&message.from);
            let name = sender.map_or_else(String::new, |u| u.display_name.clone());
            let uri = self.rooms.get(room).and_then(|r| r.uri.clone());
            let data = json!({"notification": "user_notification",
                "title": uri.as_ref().map_or_else(|| name.clone(), |u| format!("{name} 💬 {u}")),
                "text": message.text, "troupeId": room, "chatId": message.id,
                "link": format!("/{}", uri.unwrap_or_else(|| self.username(&message.from))),
                "icon": self.avatar(&message.from, 128)});
            self.publish(&format!("/api/v1/user/{user}"), &data);
        }
        if first_word_outside {
            let model = self.room_view(room, Some(user), RoomShape::Plain);
            let data = json!({"operation": "create", "model": model});
            self.publish(&format!("/api/v1/user/{user}/rooms"), &data);
        }
    }

    /// Tells `user` the counts of a room, on both of the channels that carry them.
    pub(crate) fn announce_counts(&mut self, room: &str, user: &str, mentions_too: bool) {
        let (unread, mentions) = self
            .rooms
            .get(room)
            .map_or((0, 0), |r| (r.unread_of(user).len(), r.mentions_of(user).len()));
        let own = format!("/api/v1/user/{user}");
        let data = json!({"notification": "troupe_unread", "troupeId": room,
            "totalUnreadItems": unread, "DEPRECATED": true});
        self.publish(&own, &data);
        let mut model = json!({"id": room, "unreadItems": unread});
        if mentions_too {
            let data = json!({"notification": "troupe_mention", "troupeId": room,
                "mentions": mentions, "DEPRECATED": true});
            self.publish(&own, &data);
            model["mentions"] = json!(mentions);
        }
        self.publish(&format!("{own}/rooms"), &json!({"operation": "patch", "model": model}));
    }

    /// Marks messages read; ids that are not unread change nothing.
    pub(crate) fn mark_read(&mut self, room: &str, user: &str, ids: &[String]) -> Outcome<()> {
        let target = self.room_mut(room)?;
        let unread = target.unread.entry(user.into()).or_default();
        let read: Vec<String> = ids.iter().filter(|id| unread.contains(id)).cloned().collect();
        if read.is_empty() {
            return Ok(());
        }
        unread.retain(|id| !read.contains(id));
        if let Some(mentions) = target.mentioned.get_mut(user) {
            mentions.retain(|id| !read.contains(id));
        }
        let mut patches = Vec::new();
        for id in &read {
            if let Some(message) = target.message_mut(id) {
                message.read_by.insert(user.into());
                patches.push(json!({"readBy": message.read_by.len(), "v": message.v, "id": id}));
            }
        }
        let data = json!({"notification": "unread_items_removed", "items": {"chat": read}});
        self.publish(&format!("/api/v1/user/{user}/rooms/{room}/unreadItems"), &data);
        self.announce_counts(room, user, true);
        for model in patches {
            let data = json!({"operation": "patch", "model": model});
            self.publish(&format!("/api/v1/rooms/{room}/chatMessages"), &data);
        }
        Ok(())
    }

    pub(crate) fn mark_all_read(&mut self, room: &str, user: &str) -> Outcome<()> {
        let ids = self.room(room)?.unread_of(user).to_vec();
        self.mark_read(room, user, &ids)?;
        let data = json!({"notification": "mark_all_read"});
        self.publish(&format!("/api/v1/user/{user}/rooms/{room}/unreadItems"), &data);
        Ok(())
    }

    /// Drops unread items without marking anything read: hiding, muting, deletion of the room.
    pub(crate) fn forget_unread(&mut self, room: &str, user: &str) {
        let Some(target) = self.rooms.get_mut(room) else { return };
        target.unread.remove(user);
        target.mentioned.remove(user);
        self.announce_counts(room, user, true);
    }
}

//! Messages: posting, editing, deleting, and the pages of their history.

use serde_json::{Value, json};

use super::State;
use crate::ids::{is_object_id, time_of, without_machine};
use crate::markdown;
use crate::model::{Message, Outcome, Room};

/// UTF-16 units.
pub(crate) const TEXT_LIMIT: usize = 4096;
/// By the server's clock, from the time of sending.
const EDIT_WINDOW_MS: i64 = 600_000;
const YOUNG_ACCOUNT_MS: i64 = 14 * 86_400_000;
const SPAM_WINDOW_MS: i64 = 12 * 3_600_000;

/// A message about to be posted.
#[derive(Debug, Default)]
pub(crate) struct NewMessage {
    pub(crate) text: String,
    pub(crate) status: Option<bool>,
    pub(crate) parent: Option<String>,
    pub(crate) virtual_user: Option<Value>,
    /// Made by another of Gitter's processes: its id is below all others of its second.
    pub(crate) elsewhere: bool,
}

/// What part of the history is wanted, as the query says it.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) limit: usize,
    pub(crate) skip: usize,
    pub(crate) before: Option<String>,
    pub(crate) after: Option<String>,
    pub(crate) around: Option<String>,
    pub(crate) threads: bool,
    /// Children of this message only.
    pub(crate) parent: Option<String>,
}

impl State {
    /// Posts as `from`. Rights are the caller's business; limits and the spam block are not.
    pub(crate) fn post(&mut self, room: &str, from: &str, new: NewMessage) -> Outcome<Message> {
        if new.text.is_empty() || new.text.encode_utf16().count() > TEXT_LIMIT {
            return Err(400);
        }
        let target = self.room(room)?;
        if let Some(parent) = &new.parent
            && (!is_object_id(parent) || target.message(parent).is_none())
        {
            return Err(400);
        }
        let mut message = self.render(room, from, &new.text)?;
        if new.elsewhere {
            message.id = without_machine(&message.id);
        }
        message.status = new.status;
        message.parent.clone_from(&new.parent);
        message.virtual_user = new.virtual_user;
        let silenced = self.is_silenced(from, &new.text);
        if let Some(parent) = &new.parent {
            self.bump_parent(room, parent, 1);
        }
        if silenced {
            message.v = u64::from(self.cfg.spam_with_version);
            return Ok(message);
        }
        message.v = 1;
        let sent_ms = message.sent_ms;
        let target = self.room_mut(room)?;
        target.messages.push(message.clone());
        target.access.insert(from.into(), sent_ms);
        self.publish_message(room, "create", &message);
        let model = json!({"id": room, "lastAccessTime": crate::ids::iso(sent_ms)});
        let data = json!({"operation": "patch", "model": model});
        self.publish(&format!("/api/v1/user/{from}/rooms"), &data);
        self.count_unread(room, &message);
        Ok(message)
    }

    /// A message that is not stored yet, with everything that follows from its text.
    fn render(&mut self, room: &str, from: &str, text: &str) -> Outcome<Message> {
        let (id, sent_ms) = (self.new_id(), self.now());
        let rendered = markdown::render(text);
        let admin = self.room(room)?.is_admin(from);
        let mentions = rendered.mentions.iter().filter_map(|m| self.mention(m, admin)).collect();
        Ok(Message {
            id,
            text: text.into(),
            html: rendered.html,
            status: None,
            sent_ms,
            edited_ms: None,
            parent: None,
            thread_count: None,
            read_by: std::collections::BTreeSet::default(),
            urls: rendered.urls,
            mentions,
            issues: rendered.issues,
            from: from.into(),
            virtual_user: None,
            v: 0,
        })
    }

    /// Group mentions count for admins only; unknown names stand without `userId`.
    fn mention(&self, mention: &markdown::Mention, admin: bool) -> Option<Value> {
        let name = &mention.name;
        if mention.group {
            let all = json!({"screenName": name, "userIds": [], "group": true,
                "announcement": true});
            return admin.then_some(all);
        }
        let mut value = json!({"screenName": name, "userIds": []});
        if let Some(user) = self.users.values().find(|u| u.username == *name && !u.removed) {
            value["userId"] = json!(user.id);
        }
        Some(value)
    }

    /// Young accounts that repeat themselves are silenced for ever, and never told.
    fn is_silenced(&mut self, user: &str, text: &str) -> bool {
        let now = self.now();
        let enabled = self.cfg.spam_block;
        let Some(user) = self.users.get_mut(user) else { return false };
        if user.hellbanned {
            return true;
        }
        if !enabled || now - time_of(&user.id) > YOUNG_ACCOUNT_MS {
            return false;
        }
        let most = match text.encode_utf16().count() {
            20.. => 10,
            10..20 => 20,
            _ => 100,
        };
        let times = user.said.entry(text.into()).or_default();
        times.retain(|at| now - at < SPAM_WINDOW_MS);
        times.push(now);
        user.hellbanned = times.len() > most;
        user.hellbanned
    }

    fn bump_parent(&mut self, room: &str, parent: &str, by: i64) {
        let Some(message) = self.rooms.get_mut(room).and_then(|r| r.message_mut(parent)) else {
            return;
        };
        message.thread_count = Some((message.thread_count.unwrap_or(0) + by).max(0));
        message.v += 1;
        let message = message.clone();
        self.publish_message(room, "update", &message);
    }

    fn publish_message(&mut self, room: &str, operation: &str, message: &Message) {
        let model = self.message_view(message, None);
        let data = json!({"operation": operation, "model": model});
        self.publish(&format!("/api/v1/rooms/{room}/chatMessages"), &data);
    }

    /// Edits as `user`: the author alone, within ten minutes, also to nothing.
    pub(crate) fn edit(
        &mut self,
        room: &str,
        id: &str,
        user: &str,
        text: &str,
    ) -> Outcome<Message> {
        let now = self.now();
        let message = self.room(room)?.message(id).ok_or(404_u16)?;
        if message.from != user {
            return Err(403);
        }
        if now - message.sent_ms > EDIT_WINDOW_MS || text.encode_utf16().count() > TEXT_LIMIT {
            return Err(400);
        }
        self.rewrite(room, id, text)
    }

    /// Gives a message another text, whoever asks and whenever.
    pub(crate) fn rewrite(&mut self, room: &str, id: &str, text: &str) -> Outcome<Message> {
        let now = self.now();
        let author = self.room(room)?.message(id).ok_or(404_u16)?.from.clone();
        let fresh = self.render(room, &author, text)?;
        let message = self.room_mut(room)?.message_mut(id).ok_or(404_u16)?;
        message.text = fresh.text;
        message.html = fresh.html;
        message.urls = fresh.urls;
        message.mentions = fresh.mentions;
        message.issues = fresh.issues;
        message.edited_ms = Some(now);
        message.v += 1;
        let message = message.clone();
        self.publish_message(room, "update", &message);
        Ok(message)
    }

    /// Deletes; a parent that still has children is blanked instead. Either way it is unread
    /// no more.
    pub(crate) fn delete(&mut self, room: &str, id: &str) -> Outcome<()> {
        let target = self.room_mut(room)?;
        let message = target.message_mut(id).ok_or(404_u16)?;
        let blanked = message.thread_count.unwrap_or(0) > 0;
        let parent = message.parent.clone();
        if blanked {
            message.text.clear();
            message.html.clear();
            message.urls.clear();
            message.mentions.clear();
            message.issues.clear();
            message.v += 1;
            let message = message.clone();
            self.publish_message(room, "update", &message);
        } else {
            target.messages.retain(|m| m.id != id);
            self.publish_removal(&format!("/api/v1/rooms/{room}/chatMessages"), id);
            if let Some(parent) = parent {
                self.bump_parent(room, &parent, -1);
            }
        }
        self.uncount(room, id)
    }

    /// Takes a message out of everyone's unread items.
    fn uncount(&mut self, room: &str, id: &str) -> Outcome<()> {
        let target = self.room_mut(room)?;
        let listed = |ids: &Vec<String>| ids.iter().any(|i| i == id);
        let unread = target.unread.iter().filter(|(_, ids)| listed(ids));
        let people: Vec<String> = unread.map(|(user, _)| user.clone()).collect();
        for user in people {
            let target = self.room_mut(room)?;
            for lists in [&mut target.unread, &mut target.mentioned] {
                if let Some(ids) = lists.get_mut(&user) {
                    ids.retain(|i| i != id);
                }
            }
            self.announce_counts(room, &user, false);
        }
        Ok(())
    }
}

/// One page of the history, oldest first, and the id that gets `initial`.
///
/// Markers are exclusive; a malformed one is Gitter's 500.
pub(crate) fn page<'a>(room: &'a Room, page: &Page) -> Outcome<(Vec<&'a Message>, Option<String>)> {
    for marker in [&page.before, &page.after, &page.around].into_iter().flatten() {
        if !is_object_id(marker) {
            return Err(500);
        }
    }
    let shown: Vec<&Message> = room
        .messages
        .iter()
        .filter(|m| match &page.parent {
            Some(parent) => m.parent.as_ref() == Some(parent),
            None => page.threads || m.parent.is_none(),
        })
        .collect();
    if let Some(around) = &page.around {
        return Ok(around_id(room, &shown, around, page.limit));
    }
    let mut found: Vec<&Message> = shown
        .into_iter()
        .filter(|m| page.before.as_ref().is_none_or(|b| m.id < *b))
        .filter(|m| page.after.as_ref().is_none_or(|a| m.id > *a))
        .collect();
    if page.after.is_some() {
        found.drain(..page.skip.min(found.len()));
        found.truncate(page.limit);
    } else {
        found.truncate(found.len().saturating_sub(page.skip));
        found.drain(..found.len().saturating_sub(page.limit));
    }
    Ok((found, None))
}

/// Half of the page up to and including the message, half after it; a thread child is shown at
/// the end of what surrounds its parent.
fn around_id<'a>(
    room: &'a Room,
    shown: &[&'a Message],
    id: &str,
    limit: usize,
) -> (Vec<&'a Message>, Option<String>) {
    let Some(target) = room.message(id) else {
        return (shown[shown.len().saturating_sub(50)..].to_vec(), None);
    };
    let centre = target.parent.as_deref().unwrap_or(id);
    let at = shown.partition_point(|m| m.id.as_str() <= centre);
    let (from, to) = (at.saturating_sub(limit / 2), (at + limit / 2).min(shown.len()));
    let mut found = shown[from..to].to_vec();
    if target.parent.is_some() && !found.iter().any(|m| m.id == id) {
        found.push(target);
    }
    (found, Some(id.into()))
}

#[cfg(test)]
mod tests {
    use crate::ids::time_of;
    use crate::{RoomSpec, SimConfig, World};

    use super::*;

    #[test]
    fn pages_are_in_order_of_sending_and_reach_as_far_as_ids_tell() {
        let frozen_clock_ms = Some(1_608_249_584_123);
        let world = World::new(SimConfig { frozen_clock_ms, ..SimConfig::default() });
        world.add_user("bob", "Bob B.");
        let room = world.add_room(RoomSpec::public("acme/rockets"));
        let first = world.post("bob", &room, "first");
        let second = world.post_elsewhere("bob", &room, "second");
        let third = world.post_elsewhere("bob", &room, "third");
        assert!(second < third && third < first, "{first} {second} {third}");
        assert_eq!(time_of(&second), time_of(&first));
        let state = world.lock();
        let after = |marker: &str| {
            let after = Some(marker.to_owned());
            let wanted = Page { limit: 2, after, threads: true, ..Page::default() };
            let (found, _) = page(&state.rooms[&room], &wanted).expect("a page");
            found.into_iter().map(|message| message.id.clone()).collect::<Vec<_>>()
        };
        assert_eq!(after(&format!("{}{:016}", &first[..8], 0)), [first.clone(), second.clone()]);
        assert_eq!(after(&first), [""; 0]);
        assert_eq!(after(&second), [first, third]);
    }
}

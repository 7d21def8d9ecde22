//! Coming and going, in Synapse's order of checks.

use serde_json::{Value, json};

use crate::event::{Draft, Event};
use crate::refusal::Refusal;
use crate::rules;
use crate::state::State;

impl State {
    /// Changes the membership of `target`: `join`, `invite`, `leave`, `kick`, `ban` or `unban`, with this further content.
    ///
    /// What is so already, by the same sender, makes no event and gives the old one.
    pub(crate) fn change_membership(
        &mut self,
        sender: &str,
        room_id: &str,
        target: &str,
        action: &str,
        content: Value,
        ts: Option<u64>,
    ) -> Result<String, Refusal> {
        let membership = match action {
            "kick" | "unban" => "leave",
            "join" | "invite" | "leave" | "ban" => action,
            _ => return Err(Refusal::new(400, "M_UNKNOWN", "Invalid membership key")),
        };
        let mut content = if content.is_object() { content } else { json!({}) };
        content["membership"] = json!(membership);
        if matches!(membership, "join" | "invite") {
            for (field, value) in self.profile(target) {
                if content.get(&field).is_none() {
                    content[field] = json!(value);
                }
            }
        }
        let nobody = || Refusal::new(404, "M_UNKNOWN", "Not a known room");
        let room = self.rooms.get(room_id);
        let Some(room) = room.filter(|room| room.joined().next().is_some()) else {
            let member = room.and_then(|room| room.member(target));
            return match (membership, member) {
                ("join", _) => {
                    let words = "Can't join remote room because no servers that are in the room \
                                 have been provided.";
                    Err(Refusal::new(404, "M_UNKNOWN", words))
                }
                ("leave", None) => Err(nobody()),
                ("leave", Some(old)) if old.sender == sender && old.content == content => {
                    Ok(old.id.clone())
                }
                ("leave", Some(old)) if old.membership() == "invite" && sender == target => {
                    let draft = Draft::state(sender, "m.room.member", target, content);
                    Ok(self.append(room_id, draft))
                }
                ("invite", _) if room.is_none() => Err(Refusal::forbidden("Unknown room")),
                _ => Err(Refusal::forbidden(format!("{sender} not in room {room_id}."))),
            };
        };
        let old = room.member(target);
        match (action, old.map(Event::membership)) {
            ("unban", Some(now)) if now != "ban" => {
                let words = format!("Cannot unban user who was not banned (membership={now})");
                return Err(Refusal::bad_state(words));
            }
            (action, Some("ban")) if !matches!(action, "ban" | "unban" | "leave") => {
                return Err(Refusal::bad_state(format!("Cannot {action} user who was banned")));
            }
            ("kick", None | Some("leave")) => {
                return Err(Refusal::forbidden("The target user is not in the room"));
            }
            _ => {}
        }
        if let Some(old) = old.filter(|old| old.sender == sender && old.content == content) {
            return Ok(old.id.clone());
        }
        let mut draft = Draft::state(sender, "m.room.member", target, content);
        draft.ts = ts;
        rules::check(room, &draft)?;
        Ok(self.append(room_id, draft))
    }

    /// Drops a room that `user` has left from its memory.
    pub(crate) fn forget(&mut self, user: &str, room_id: &str) -> Result<(), Refusal> {
        let Some(room) = self.rooms.get_mut(room_id) else { return Ok(()) };
        match room.membership(user) {
            "join" | "invite" => {
                let words = format!("User {user} in room {room_id}");
                Err(Refusal::new(400, "M_UNKNOWN", words))
            }
            _ => {
                room.forgotten.insert(user.to_owned());
                Ok(())
            }
        }
    }

    /// Tells that `user` has read up to an event. Who is not in the room has read nothing.
    pub(crate) fn receipt(&mut self, user: &str, room_id: &str, event: &str) {
        let now = self.now();
        let Some(room) = self.rooms.get(room_id) else { return };
        if room.is_joined(user) && room.joined().any(|user| self.owns(user)) {
            let content = json!({event: {"m.read": {user: {"ts": now}}}});
            self.push.tell(json!({"type": "m.receipt", "room_id": room_id, "content": content}));
        }
    }

    /// Tells who is typing.
    pub(crate) fn set_typing(
        &mut self,
        user: &str,
        room_id: &str,
        typing: bool,
    ) -> Result<(), Refusal> {
        let room = self.rooms.get_mut(room_id).filter(|room| room.is_joined(user));
        let room = room.ok_or_else(|| Refusal::not_in_room(user, room_id))?;
        let changed =
            if typing { room.typing.insert(user.to_owned()) } else { room.typing.remove(user) };
        let content = json!({"user_ids": room.typing});
        let told = json!({"type": "m.typing", "room_id": room_id, "content": content});
        if changed && self.rooms[room_id].joined().any(|user| self.owns(user)) {
            self.push.tell(told);
        }
        Ok(())
    }

    /// Puts somebody into a room as an admin does, whatever the room's rules are.
    pub(crate) fn put_in(&mut self, room_id: &str, user: &str) {
        if self.rooms.contains_key(room_id) {
            let draft = Draft::state(user, "m.room.member", user, json!({"membership": "join"}));
            self.append(room_id, draft);
        }
    }

    /// Deletes a room as an admin does: all local users leave and forget it, then it is gone.
    pub(crate) fn purge(&mut self, room_id: &str) {
        let Some(room) = self.rooms.get(room_id) else { return };
        let joined: Vec<String> = room.joined().map(str::to_owned).collect();
        for user in joined {
            let draft = Draft::state(&user, "m.room.member", &user, json!({"membership": "leave"}));
            self.append(room_id, draft);
        }
        if let Some(room) = self.rooms.remove(room_id) {
            self.purged.insert(room_id.to_owned(), room);
        }
    }
}

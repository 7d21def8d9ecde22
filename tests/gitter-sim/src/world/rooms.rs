//! Rooms and who is in them.

use super::{RoomSpec, World, ok, room_id, user_id};
use crate::state::State;

#[expect(clippy::must_use_candidate, reason = "most are called for what they do")]
impl World {
    /// Makes a room (and its group) and returns the id.
    #[expect(clippy::needless_pass_by_value, reason = "specs are written in place")]
    pub fn add_room(&self, spec: RoomSpec) -> String {
        ok(self.lock().add_room(&spec), "adding a room")
    }

    /// Gives a group a fixed id and a display name.
    pub fn add_group(&self, id: Option<&str>, uri: &str, name: &str) -> String {
        self.lock().add_group(id, uri, name)
    }

    /// The one-to-one room of two people, made if needed.
    pub fn one_to_one(&self, a: &str, b: &str) -> String {
        let mut state = self.lock();
        let (a, b) = (user_id(&state, a), user_id(&state, b));
        ok(state.one_to_one(&a, &b), "opening a one-to-one room")
    }

    /// Puts a person into a room; already in is fine.
    pub fn join(&self, room: &str, user: &str) {
        let mut state = self.lock();
        let (room, user) = (room_id(&state, room), user_id(&state, user));
        ok(state.join(&room, &user), "joining");
    }

    /// The person leaves; not being in is fine.
    pub fn leave(&self, room: &str, user: &str) {
        let mut state = self.lock();
        let (room, user) = (room_id(&state, room), user_id(&state, user));
        if state.rooms[&room].is_member(&user) {
            ok(state.part(&room, &user), "leaving");
        }
    }

    /// Removed by an admin; to everyone else the same as leaving.
    pub fn kick(&self, room: &str, user: &str) {
        self.leave(room, user);
    }

    /// Bans a person (and removes them), in the name of the room's first admin.
    pub fn ban(&self, room: &str, user: &str) {
        let mut state = self.lock();
        let (room, user) = (room_id(&state, room), user_id(&state, user));
        let by = first_admin(&state, &room, &user);
        ok(state.ban(&room, &user, &by), "banning");
    }

    /// Lifts a ban, if there is one.
    pub fn unban(&self, room: &str, user: &str) {
        let mut state = self.lock();
        let (room, user) = (room_id(&state, room), user_id(&state, user));
        let by = first_admin(&state, &room, &user);
        match state.unban(&room, &user, &by) {
            Err(404) => {}
            unbanned => ok(unbanned, "unbanning"),
        }
    }

    /// Renames; the old uri answers 301 from now on.
    pub fn rename_room(&self, room: &str, uri: &str) {
        let mut state = self.lock();
        let room = room_id(&state, room);
        ok(state.rename_room(&room, uri), "renaming a room");
    }

    /// Makes `old_uri` one that answers 301, as if a room had been renamed from it.
    pub fn add_former_uri(&self, old_uri: &str, room: &str) {
        let mut state = self.lock();
        let room = room_id(&state, room);
        state.renamed.insert(old_uri.to_lowercase(), room);
    }

    /// Changes the topic.
    pub fn set_topic(&self, room: &str, topic: &str) {
        let mut state = self.lock();
        let room = room_id(&state, room);
        ok(state.set_topic(&room, topic), "setting a topic");
    }

    /// Deletes a room with its messages.
    pub fn delete_room(&self, room: &str) {
        let mut state = self.lock();
        let room = room_id(&state, room);
        ok(state.delete_room(&room), "deleting a room");
    }

    /// Id of a room by uri (any case) or id.
    pub fn find_room(&self, room: &str) -> Option<String> {
        self.lock().find_room(room).map(|r| r.id.clone())
    }

    /// Usernames of the members, in the order they came.
    pub fn members(&self, room: &str) -> Vec<String> {
        let state = self.lock();
        let room = room_id(&state, room);
        state.rooms[&room].members.iter().map(|m| state.username(&m.user)).collect()
    }

    /// Uris of the rooms a person is a member of, sorted; `@other` for one-to-one rooms.
    pub fn rooms_of(&self, user: &str) -> Vec<String> {
        let state = self.lock();
        let me = user_id(&state, user);
        let mine = state.rooms.values().filter(|r| r.is_member(&me));
        let mut names: Vec<String> = mine
            .map(|r| {
                let other = || r.members.iter().find(|m| m.user != me).map(|m| m.user.as_str());
                let direct = || format!("@{}", state.username(other().unwrap_or_default()));
                r.uri.clone().unwrap_or_else(direct)
            })
            .collect();
        names.sort();
        names
    }
}

fn first_admin(state: &State, room: &str, otherwise: &str) -> String {
    state.rooms[room].admins.first().cloned().unwrap_or_else(|| otherwise.into())
}

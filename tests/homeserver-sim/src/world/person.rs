//! What people do with their clients.

use serde_json::{Value, json};

use super::World;
use crate::event::{Draft, Txn};
use crate::refusal::Refusal;
use crate::state::State;

/// A local person. Everything done is done at once, by the homeserver's rules.
///
/// Each method is refused with status 0 while the homeserver is down.
#[derive(Debug, Clone)]
pub struct Person {
    world: World,
    id: String,
}

/// What a person's client shows to the homeserver.
pub(crate) fn token_of(user: &str) -> String {
    format!("token-of-{user}")
}

type Done<T> = Result<T, Refusal>;

impl Person {
    pub(super) fn new(world: World, id: String) -> Self {
        Self { world, id }
    }

    /// The person's Matrix id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The access token of the person's client, for the router.
    #[must_use]
    pub fn token(&self) -> String {
        token_of(&self.id)
    }

    /// Makes a room, from a body as of `createRoom`; its id.
    ///
    /// # Errors
    /// When the homeserver refuses; a room may be there all the same.
    pub fn create_room(&self, body: &Value) -> Done<String> {
        self.state(|state| state.create_room(&self.id, body))
    }

    /// Starts a direct chat as Element does, encrypted or plain; the room's id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn start_chat(&self, with: &str, encrypted: bool) -> Done<String> {
        let mut initial =
            vec![json!({"type": "m.room.guest_access", "content": {"guest_access": "can_join"}})];
        if encrypted {
            let content = json!({"algorithm": "m.megolm.v1.aes-sha2"});
            initial.push(json!({"type": "m.room.encryption", "content": content}));
        }
        self.create_room(&json!({"preset": "trusted_private_chat", "is_direct": true,
            "invite": [with], "initial_state": initial}))
    }

    /// Joins a room, or accepts an invite.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn join(&self, room: &str) -> Done<()> {
        self.member(room, &self.id, "join")
    }

    /// Leaves a room, or declines an invite.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn leave(&self, room: &str) -> Done<()> {
        self.member(room, &self.id, "leave")
    }

    /// Forgets a room that was left.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn forget(&self, room: &str) -> Done<()> {
        self.state(|state| state.forget(&self.id, room))
    }

    /// Invites somebody.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn invite(&self, room: &str, user: &str) -> Done<()> {
        self.member(room, user, "invite")
    }

    /// Removes somebody, or withdraws an invite.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn kick(&self, room: &str, user: &str) -> Done<()> {
        self.member(room, user, "kick")
    }

    /// Bans somebody.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn ban(&self, room: &str, user: &str) -> Done<()> {
        self.member(room, user, "ban")
    }

    /// Takes back a ban.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn unban(&self, room: &str, user: &str) -> Done<()> {
        self.member(room, user, "unban")
    }

    /// Says something; the event's id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn say(&self, room: &str, text: &str) -> Done<String> {
        self.send(room, "m.room.message", json!({"msgtype": "m.text", "body": text}))
    }

    /// Answers a message; the event's id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn reply(&self, room: &str, to: &str, text: &str) -> Done<String> {
        let relation = json!({"m.in_reply_to": {"event_id": to}});
        let content = json!({"msgtype": "m.text", "body": text, "m.relates_to": relation});
        self.send(room, "m.room.message", content)
    }

    /// Replaces the text of a message; the edit's id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn edit(&self, room: &str, event: &str, text: &str) -> Done<String> {
        let content = json!({
            "msgtype": "m.text", "body": format!("* {text}"),
            "m.new_content": {"msgtype": "m.text", "body": text},
            "m.relates_to": {"rel_type": "m.replace", "event_id": event},
        });
        self.send(room, "m.room.message", content)
    }

    /// Reacts to a message; the reaction's id.
    ///
    /// # Errors
    /// When the homeserver refuses: the same reaction twice, too.
    pub fn react(&self, room: &str, event: &str, key: &str) -> Done<String> {
        let relation = json!({"rel_type": "m.annotation", "event_id": event, "key": key});
        self.send(room, "m.reaction", json!({"m.relates_to": relation}))
    }

    /// Sends any event; its id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn send(&self, room: &str, kind: &str, content: Value) -> Done<String> {
        self.state(|state| {
            let mut draft = Draft::message(&self.id, kind, content);
            draft.txn = Some(txn(state));
            state.send(room, draft)
        })
    }

    /// Removes a message; the redaction's id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn redact(&self, room: &str, event: &str) -> Done<String> {
        self.state(|state| {
            let mut draft = Draft::message(&self.id, "m.room.redaction", json!({}));
            draft.redacts = Some(event.to_owned());
            draft.txn = Some(txn(state));
            state.redact(room, draft)
        })
    }

    /// Sets state; the event's id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn set_state(&self, room: &str, kind: &str, key: &str, content: Value) -> Done<String> {
        self.state(|state| state.set_state(room, Draft::state(&self.id, kind, key, content)))
    }

    /// Makes a room encrypted, for ever.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn encrypt(&self, room: &str) -> Done<String> {
        let content = json!({"algorithm": "m.megolm.v1.aes-sha2"});
        self.set_state(room, "m.room.encryption", "", content)
    }

    /// Has read everything up to an event.
    ///
    /// # Errors
    /// Only while the homeserver is down.
    pub fn read(&self, room: &str, event: &str) -> Done<()> {
        self.state(|state| {
            state.receipt(&self.id, room, event);
            Ok(())
        })
    }

    /// Types, or stops typing.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn set_typing(&self, room: &str, typing: bool) -> Done<()> {
        self.state(|state| state.set_typing(&self.id, room, typing))
    }

    /// Replaces a room by one of another version, in which only this person is; the new room's id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn upgrade(&self, room: &str, version: u32) -> Done<String> {
        self.state(|state| state.upgrade(&self.id, room, Some(&json!(version.to_string()))))
    }

    /// Changes the display name; an event in every joined room follows.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub fn set_displayname(&self, name: &str) -> Done<()> {
        self.state(|state| state.set_profile(&self.id, "displayname", name))
    }

    /// Stores a file; its `mxc:` address.
    ///
    /// # Errors
    /// Only while the homeserver is down.
    pub fn upload(&self, bytes: &[u8], content_type: &str, name: &str) -> Done<String> {
        self.state(|state| {
            let id = state.ids.letters(24);
            let uri = format!("mxc://{}/{id}", state.cfg.domain);
            let (bytes, content_type) = (bytes.to_vec(), content_type.to_owned());
            let file = crate::state::File { bytes, content_type, name: Some(name.to_owned()) };
            state.media.insert(id, file);
            Ok(uri)
        })
    }

    /// Rooms this person is in.
    #[must_use]
    pub fn rooms(&self) -> Vec<String> {
        self.with_membership("join")
    }

    /// Rooms this person is invited to.
    #[must_use]
    pub fn invites(&self) -> Vec<String> {
        self.with_membership("invite")
    }

    fn with_membership(&self, membership: &str) -> Vec<String> {
        let state = self.world.lock();
        let rooms = state.rooms.values().filter(|room| room.membership(&self.id) == membership);
        rooms.map(|room| room.id.clone()).collect()
    }

    fn member(&self, room: &str, target: &str, action: &str) -> Done<()> {
        self.state(|state| {
            state.change_membership(&self.id, room, target, action, json!({}), None).map(drop)
        })
    }

    fn state<T>(&self, act: impl FnOnce(&mut State) -> Done<T>) -> Done<T> {
        if !self.world.is_running() {
            return Err(Refusal::down());
        }
        act(&mut self.world.lock())
    }
}

/// A client's transaction ids are its own.
fn txn(state: &mut State) -> Txn {
    Txn { device: Some("CLIENT".to_owned()), id: state.ids.letters(16) }
}

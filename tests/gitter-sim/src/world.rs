//! The handle through which tests and the demo look at and change the simulated Gitter.

mod faults;
mod rooms;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::SimConfig;
use crate::http::Reply;
use crate::ids::iso;
use crate::model::{Client, Message};
use crate::state::{NewMessage, State};

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    gate: Mutex<CancellationToken>,
    down: AtomicBool,
}

/// Everything in the simulated Gitter; cheap to clone, all handles see the same.
///
/// People may be given by id or username, rooms by id or uri. Nothing here checks rights or
/// counts as a call: this is the hand of fate. All effects (Faye frames, unread counters, the
/// spam block) are those the same act has over REST.
///
/// # Panics
///
/// Methods panic when a person or room they are given does not exist: a mistake in the test.
#[derive(Debug, Clone)]
pub struct World(Arc<Shared>);

/// A handle that does not keep the world alive.
#[derive(Debug, Clone)]
pub(crate) struct WeakWorld(Weak<Shared>);

impl WeakWorld {
    pub(crate) fn upgrade(&self) -> Option<World> {
        self.0.upgrade().map(World)
    }
}

/// A room to be made.
#[derive(Debug, Clone)]
pub struct RoomSpec {
    /// Fixed id of 24 hex digits; `None` makes one.
    pub id: Option<String>,
    /// `group/room`; the group is made if needed.
    pub uri: String,
    /// May be empty.
    pub topic: String,
    /// Whether everyone may read and write.
    pub public: bool,
    /// Room admins, who are members from the start.
    pub admins: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Providers writers must have signed in with; empty for any.
    pub providers: Vec<String>,
}

impl Default for RoomSpec {
    fn default() -> Self {
        Self {
            id: None,
            uri: String::new(),
            topic: String::new(),
            public: true,
            admins: Vec::new(),
            tags: Vec::new(),
            providers: Vec::new(),
        }
    }
}

impl RoomSpec {
    /// A public room without topic and admins.
    #[must_use]
    pub fn public(uri: &str) -> Self {
        Self { uri: uri.into(), ..Self::default() }
    }

    /// A private room: members (and admins) only.
    #[must_use]
    pub fn private(uri: &str) -> Self {
        Self { public: false, ..Self::public(uri) }
    }
}

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimMessage {
    /// 24 hex digits that carry the time of sending.
    pub id: String,
    /// Markdown as sent.
    pub text: String,
    /// What Gitter made of it.
    pub html: String,
    /// Username of the author.
    pub from: String,
    /// Id of the author.
    pub from_id: String,
    /// The message this one is in the thread of.
    pub parent: Option<String>,
    /// Whether it was sent as `/me`.
    pub status: bool,
    /// Whether it was edited.
    pub edited: bool,
    /// ISO 8601.
    pub sent: String,
    /// Grows with every save.
    pub v: u64,
    /// Usernames of those who marked it read.
    pub read_by: Vec<String>,
}

#[expect(clippy::must_use_candidate, reason = "most are called for what they do")]
impl World {
    /// An empty world, to be served with [`crate::GitterSim::start_with_world`].
    pub fn new(config: SimConfig) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State::new(config)),
            gate: Mutex::default(),
            down: AtomicBool::new(false),
        }))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn downgrade(&self) -> WeakWorld {
        WeakWorld(Arc::downgrade(&self.0))
    }

    pub(crate) fn serve_at(&self, origin: &str, config: SimConfig) {
        let mut state = self.lock();
        state.origin = origin.into();
        state.limits.limit = config.rate_limit;
        state.limits.window_ms = config.rate_window_ms;
        state.cfg = config;
    }

    pub(crate) fn is_down(&self) -> bool {
        self.0.down.load(Ordering::SeqCst)
    }

    /// A token that cuts one new connection, and falls with all of them.
    pub(crate) fn gate(&self) -> CancellationToken {
        self.0.gate.lock().unwrap_or_else(PoisonError::into_inner).child_token()
    }

    /// `true` cuts every connection and accepts none, until `false`.
    pub fn set_down(&self, down: bool) {
        self.0.down.store(down, Ordering::SeqCst);
        if down {
            let mut gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *gate).cancel();
        }
    }

    // People and OAuth clients.

    /// Adds a person (older than 14 days, so free of the spam block) and returns the id; a known
    /// username returns the known id.
    pub fn add_user(&self, username: &str, display_name: &str) -> String {
        self.lock().add_user(None, username, display_name)
    }

    /// Adds a person with a fixed id, which also says how old the account is.
    pub fn add_user_with_id(&self, id: &str, username: &str, display_name: &str) -> String {
        self.lock().add_user(Some(id), username, display_name)
    }

    /// Whether a person is known by this id or username.
    pub fn has_user(&self, user: &str) -> bool {
        self.lock().find_user(user).is_some()
    }

    /// Changes username and display name; members of common rooms are told.
    pub fn rename_user(&self, user: &str, username: &str, display_name: &str) {
        let mut state = self.lock();
        let id = user_id(&state, user);
        ok(state.rename_user(&id, username, display_name), "renaming a user");
    }

    /// Changes a person's picture, or takes it away; members of common rooms are told.
    pub fn set_picture(&self, user: &str, url: Option<&str>) {
        let mut state = self.lock();
        let id = user_id(&state, user);
        ok(state.set_picture(&id, url), "setting a picture");
    }

    /// Deletes an account; with `ghost` its name goes too.
    pub fn delete_user(&self, user: &str, ghost: bool) {
        let mut state = self.lock();
        let id = user_id(&state, user);
        ok(state.delete_user(&id, ghost), "deleting a user");
    }

    /// Silences a person: posts look successful and are thrown away.
    pub fn hellban(&self, user: &str) {
        let mut state = self.lock();
        let id = user_id(&state, user);
        if let Some(user) = state.users.get_mut(&id) {
            user.hellbanned = true;
        }
    }

    /// Registers an `OAuth` client.
    pub fn add_oauth_client(&self, key: &str, secret: &str, redirect_uri: &str) {
        self.add_client(key, secret, redirect_uri, false, false);
    }

    /// Registers a client that skips the consent page (`trusted`) or may send `virtualUser`
    /// (`bridge`).
    pub fn add_client(&self, key: &str, secret: &str, uri: &str, trusted: bool, bridge: bool) {
        let client = Client {
            secret: secret.into(),
            redirect_uri: uri.into(),
            revoked: false,
            trusted,
            bridge,
        };
        self.lock().add_client(key, client);
    }

    /// Revokes a client: its tokens stop working, its sockets stay.
    pub fn revoke_client(&self, key: &str) {
        if let Some(client) = self.lock().clients.get_mut(key) {
            client.revoked = true;
        }
    }

    /// Deletes a client: its tokens die and its Faye sockets are closed.
    pub fn delete_client(&self, key: &str) {
        self.lock().delete_client(key);
    }

    /// The token of a person and client, the same one each time, without any consent.
    pub fn token_for(&self, user: &str, client: &str) -> String {
        let mut state = self.lock();
        let id = user_id(&state, user);
        state.token_for(&id, client)
    }

    /// All tokens that are good.
    #[must_use]
    pub fn tokens(&self) -> Vec<String> {
        self.lock().tokens.keys().cloned().collect()
    }

    /// Deletes a token: REST and new handshakes refuse it; open sockets go on, as in Gitter.
    /// Returns whether it was known. The next grant makes another token.
    pub fn revoke_token(&self, token: &str) -> bool {
        self.lock().tokens.remove(token).is_some()
    }

    /// Deletes all tokens of a person; returns how many.
    pub fn revoke_tokens_of(&self, user: &str) -> usize {
        let mut state = self.lock();
        let id = user_id(&state, user);
        let before = state.tokens.len();
        state.tokens.retain(|_, grant| grant.user != id);
        before - state.tokens.len()
    }

    // Files.

    /// Serves a file below `/files/`; returns its address.
    pub fn add_file(&self, name: &str, content_type: &'static str, bytes: &[u8]) -> String {
        self.serve_file(name, Reply::new(200, content_type, bytes))
    }

    /// Serves a redirect below `/files/`; returns its address.
    pub fn add_redirect(&self, name: &str, to: &str) -> String {
        self.serve_file(name, Reply::redirect(to))
    }

    fn serve_file(&self, name: &str, reply: Reply) -> String {
        let (mut state, path) = (self.lock(), format!("/files/{name}"));
        let url = format!("{}{path}", state.origin);
        state.files.insert(path, reply);
        url
    }

    // Messages.

    /// Posts and returns the id, which is that of a message thrown away if the person is
    /// silenced.
    pub fn post(&self, user: &str, room: &str, text: &str) -> String {
        self.post_new(user, room, NewMessage { text: text.into(), ..NewMessage::default() })
    }

    /// Posts through another of Gitter's processes: ids of one second are in no order among those, and this one is below all
    /// that [`World::post`] makes in its second.
    pub fn post_elsewhere(&self, user: &str, room: &str, text: &str) -> String {
        let new = NewMessage { text: text.into(), elsewhere: true, ..NewMessage::default() };
        self.post_new(user, room, new)
    }

    /// Posts as `/me` does it: with the status flag and `@username` in front.
    pub fn post_as_status(&self, user: &str, room: &str, text: &str) -> String {
        let name = {
            let state = self.lock();
            state.username(&user_id(&state, user))
        };
        let text = format!("@{name} {text}");
        self.post_new(user, room, NewMessage { text, status: Some(true), ..NewMessage::default() })
    }

    /// Posts into the thread of `parent`.
    pub fn reply(&self, user: &str, room: &str, parent: &str, text: &str) -> String {
        let parent = Some(parent.to_owned());
        self.post_new(user, room, NewMessage { text: text.into(), parent, ..NewMessage::default() })
    }

    fn post_new(&self, user: &str, room: &str, new: NewMessage) -> String {
        let mut state = self.lock();
        let (room, user) = (room_id(&state, room), user_id(&state, user));
        ok(state.post(&room, &user, new), "posting").id
    }

    /// Edits in the author's name, at any age.
    pub fn edit(&self, room: &str, message: &str, text: &str) {
        let mut state = self.lock();
        let room = room_id(&state, room);
        ok(state.rewrite(&room, message, text), "editing");
    }

    /// Deletes a message, or blanks it when it has replies.
    pub fn delete(&self, room: &str, message: &str) {
        let mut state = self.lock();
        let room = room_id(&state, room);
        ok(state.delete(&room, message), "deleting");
    }

    /// All messages of a room, oldest first, replies included.
    pub fn messages(&self, room: &str) -> Vec<SimMessage> {
        let state = self.lock();
        let room = room_id(&state, room);
        state.rooms[&room].messages.iter().map(|m| sim_message(&state, m)).collect()
    }

    /// Unread items and mentions of a person in a room.
    pub fn unread(&self, room: &str, user: &str) -> (usize, usize) {
        let state = self.lock();
        let (room, user) = (room_id(&state, room), user_id(&state, user));
        let room = &state.rooms[&room];
        (room.unread_of(&user).len(), room.mentions_of(&user).len())
    }

    /// Adds an event to a room's activity feed; those of webhooks have a payload.
    pub fn add_event(&self, room: &str, text: &str, meta: Value, payload: Option<Value>) {
        let mut state = self.lock();
        let room = room_id(&state, room);
        state.add_event(&room, text, meta, payload);
    }
}

#[track_caller]
fn ok<T>(outcome: Result<T, u16>, doing: &str) -> T {
    match outcome {
        Ok(value) => value,
        Err(status) => panic!("{doing} in the simulated Gitter failed: {status}"),
    }
}

#[track_caller]
fn user_id(state: &State, user: &str) -> String {
    match state.find_user(user) {
        Some(user) => user.id.clone(),
        None => panic!("no user {user} in the simulated Gitter"),
    }
}

#[track_caller]
fn room_id(state: &State, room: &str) -> String {
    match state.find_room(room) {
        Some(room) => room.id.clone(),
        None => panic!("no room {room} in the simulated Gitter"),
    }
}

pub(crate) fn sim_message(state: &State, message: &Message) -> SimMessage {
    SimMessage {
        id: message.id.clone(),
        text: message.text.clone(),
        html: message.html.clone(),
        from: state.username(&message.from),
        from_id: message.from.clone(),
        parent: message.parent.clone(),
        status: message.status.unwrap_or(false),
        edited: message.edited_ms.is_some(),
        sent: iso(message.sent_ms),
        v: message.v,
        read_by: message.read_by.iter().map(|u| state.username(u)).collect(),
    }
}

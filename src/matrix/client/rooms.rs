//! Rooms: creating, memberships, state, messages.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::room::member::MembershipState,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    As, Call, Client, Kind, MatrixError, V3,
    types::{CreateEvent, Member, Page, Profile, StateEvent},
    users::found,
};

#[derive(Deserialize)]
struct EventAnswer {
    event_id: OwnedEventId,
}

#[derive(Deserialize)]
struct RoomAnswer {
    room_id: OwnedRoomId,
}

impl Client {
    /// Creates a room as the bot, from a body of [`room`](crate::matrix::room).
    ///
    /// Never with `invite`, and with a mark of ours in `creation_content`: a homeserver may refuse, or not answer, and
    /// leave a room behind all the same, even on a 400 or 403.
    ///
    /// # Errors
    ///
    /// After any but `Limited`, `TokenRejected` and `NotRegistered`, look for the mark in [`joined_rooms`](Self::joined_rooms)
    /// before creating again.
    pub async fn create_room(&self, body: &Value) -> Result<OwnedRoomId, MatrixError> {
        let call = self.call("creating a room", Kind::User, Method::POST, V3, &["createRoom"]);
        Ok(call.json(body).answer::<RoomAnswer>().await?.room_id)
    }

    /// Invites `user` as the bot; one who is invited or joined already is a success.
    ///
    /// # Errors
    ///
    /// `NotInRoom` when the bot has left; `Refused` with `M_BAD_STATE` when the user is banned.
    pub async fn invite(&self, room: &RoomId, user: &UserId) -> Result<(), MatrixError> {
        let call = self.in_room("inviting a user", Method::POST, room, &["invite"]);
        let done = call.json(&json!({"user_id": user})).done().await;
        self.invited(room, user, done).await
    }

    /// Invites `user` like [`invite`](Self::invite), to a room that its client should show as a direct chat.
    ///
    /// # Errors
    ///
    /// As [`invite`](Self::invite).
    pub async fn invite_direct(&self, room: &RoomId, user: &UserId) -> Result<(), MatrixError> {
        // Only `createRoom` and a membership written as state can carry the flag.
        let path = &["state", "m.room.member", user.as_str()];
        let call = self.in_room("inviting a user", Method::PUT, room, path);
        let done = call.json(&json!({"membership": "invite", "is_direct": true})).done().await;
        self.invited(room, user, done).await
    }

    async fn invited(
        &self,
        room: &RoomId,
        user: &UserId,
        done: Result<(), MatrixError>,
    ) -> Result<(), MatrixError> {
        match done {
            Err(error) if is_forbidden(&error) => match self.member(room, user).await {
                Ok(Some(member)) if is_present(&member.membership) => Ok(()),
                _ => Err(error),
            },
            done => done,
        }
    }

    /// Joins; a member already is a success.
    ///
    /// See <https://spec.matrix.org/v1.15/client-server-api/#post_matrixclientv3joinroomidoralias>.
    ///
    /// # Errors
    ///
    /// `NotInvited`; `NotFound` when the room is gone; `Refused` with `M_BAD_STATE` when banned.
    pub async fn join(&self, who: As<'_>, room: &RoomId) -> Result<(), MatrixError> {
        let path = &["join", room.as_str()];
        self.call("joining a room", Kind::Join, Method::POST, V3, path).by(who).done().await
    }

    /// Leaves, or declines an invite; one who is not in the room is a success.
    ///
    /// # Errors
    ///
    /// As every call: see [`MatrixError`].
    pub async fn leave(&self, who: As<'_>, room: &RoomId) -> Result<(), MatrixError> {
        let call = self.in_room("leaving a room", Method::POST, room, &["leave"]).by(who);
        match call.done().await {
            // Leaving needs no power: only who was never in the room (or is nobody yet) is refused. A room's state is
            // readable for its members, so that it cannot be read confirms it.
            Err(error @ (MatrixError::NotInRoom { .. } | MatrixError::NotRegistered { .. })) => {
                match self.member_as(who, room, self.id(who)).await {
                    Ok(Some(member)) if is_present(&member.membership) => Err(error),
                    Ok(_)
                    | Err(MatrixError::NotInRoom { .. } | MatrixError::NotRegistered { .. }) => {
                        Ok(())
                    }
                    Err(_) => Err(error),
                }
            }
            Err(MatrixError::NotFound { .. }) => Ok(()),
            done => done,
        }
    }

    /// Drops a room that was left from the user's memory, and, once all local users did, from the homeserver's.
    ///
    /// # Errors
    ///
    /// `Refused` while the user is still in the room.
    pub async fn forget(&self, who: As<'_>, room: &RoomId) -> Result<(), MatrixError> {
        let call = self.in_room("forgetting a room", Method::POST, room, &["forget"]).by(who);
        found(call.done().await).map(drop)
    }

    /// Removes `user`, or withdraws its invite, as the bot; one who is not there is a success.
    ///
    /// # Errors
    ///
    /// `NotInRoom` when the bot has left; `Refused` when the bot has less power than the user.
    pub async fn kick(
        &self,
        room: &RoomId,
        user: &UserId,
        reason: &str,
    ) -> Result<(), MatrixError> {
        let call = self.in_room("removing a user", Method::POST, room, &["kick"]);
        let done = call.json(&json!({"user_id": user, "reason": reason})).done().await;
        match done {
            Err(error) if is_forbidden(&error) => match self.member(room, user).await {
                Ok(None) => Ok(()),
                Ok(Some(member)) if !is_present(&member.membership) => Ok(()),
                _ => Err(error),
            },
            done => done,
        }
    }

    /// All rooms the bot is joined to.
    ///
    /// # Errors
    ///
    /// As every call: see [`MatrixError`]; an error is never part of a list.
    pub async fn joined_rooms(&self) -> Result<BTreeSet<OwnedRoomId>, MatrixError> {
        #[derive(Deserialize)]
        struct Answer {
            joined_rooms: BTreeSet<OwnedRoomId>,
        }
        let call = self.get("listing the bot's rooms", Kind::User, V3, &["joined_rooms"]);
        Ok(call.answer::<Answer>().await?.joined_rooms)
    }

    /// Everybody joined to a room the bot is in, ghosts and people.
    ///
    /// Users whose id Matrix does not allow (Synapse lets other appservices make such) are left out.
    ///
    /// # Errors
    ///
    /// `NotInRoom` when the bot is not in the room; an error is never part of a list.
    pub async fn joined_members(
        &self,
        room: &RoomId,
    ) -> Result<BTreeMap<OwnedUserId, Profile>, MatrixError> {
        #[derive(Deserialize)]
        struct Answer {
            joined: BTreeMap<String, Profile>,
        }
        let call = self.in_room("listing a room's members", Method::GET, room, &["joined_members"]);
        let mut members = BTreeMap::new();
        for (user, profile) in call.answer::<Answer>().await?.joined {
            match OwnedUserId::try_from(user) {
                Ok(user) => drop(members.insert(user, profile)),
                Err(error) => tracing::warn!(room = %room, %error, "member with an impossible id"),
            }
        }
        Ok(members)
    }

    /// A user's relation to a room the bot is in; `None` for who never had one.
    ///
    /// # Errors
    ///
    /// `NotInRoom` when the bot is not in the room.
    pub async fn member(
        &self,
        room: &RoomId,
        user: &UserId,
    ) -> Result<Option<Member>, MatrixError> {
        self.member_as(As::Bot, room, user).await
    }

    /// Whether `who` is in a room, as they see it themselves: to whoever left it a room is shown as it was then.
    ///
    /// # Errors
    ///
    /// As every call: see [`MatrixError`].
    pub async fn is_in(&self, who: As<'_>, room: &RoomId) -> Result<bool, MatrixError> {
        match self.member_as(who, room, self.id(who)).await {
            Ok(member) => Ok(member.is_some_and(|m| m.membership == MembershipState::Join)),
            Err(MatrixError::NotInRoom { .. } | MatrixError::NotRegistered { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn member_as(
        &self,
        who: As<'_>,
        room: &RoomId,
        user: &UserId,
    ) -> Result<Option<Member>, MatrixError> {
        let (call, doing) = self.read_state(who, room, "m.room.member", user.as_str());
        let Some(StateEvent { sender, content, .. }) = found(call.answer().await)? else {
            return Ok(None);
        };
        match content.get("membership").and_then(Value::as_str) {
            Some(membership) => Ok(Some(Member { sender, membership: membership.into(), content })),
            None => Err(doing.malformed("a member event without membership")),
        }
    }

    /// The event that made a room the bot is in.
    ///
    /// # Errors
    ///
    /// `NotInRoom` when the bot is not in the room.
    pub async fn create_event(&self, room: &RoomId) -> Result<CreateEvent, MatrixError> {
        let (call, _) = self.read_state(As::Bot, room, "m.room.create", "");
        let StateEvent { sender, content, .. } = call.answer().await?;
        Ok(CreateEvent { sender, content })
    }

    /// The content of a state event of a room the bot is in; `None` if there is none.
    ///
    /// # Errors
    ///
    /// `NotInRoom` when the bot is not in the room.
    pub async fn state(
        &self,
        room: &RoomId,
        event_type: &str,
        key: &str,
    ) -> Result<Option<Value>, MatrixError> {
        Ok(self.state_event(room, event_type, key).await?.map(|event| event.content))
    }

    /// A state event of a room the bot is in, with its sender; `None` if there is none.
    ///
    /// # Errors
    ///
    /// `NotInRoom` when the bot is not in the room.
    pub async fn state_event(
        &self,
        room: &RoomId,
        event_type: &str,
        key: &str,
    ) -> Result<Option<StateEvent>, MatrixError> {
        let (call, _) = self.read_state(As::Bot, room, event_type, key);
        found(call.answer().await)
    }

    fn read_state(
        &self,
        who: As<'_>,
        room: &RoomId,
        event_type: &str,
        key: &str,
    ) -> (Call<'_>, super::Doing) {
        let path = &["state", event_type, key];
        let call = self.in_room("reading a room's state", Method::GET, room, path);
        let doing = call.doing;
        (call.by(who).with("format", "event"), doing)
    }

    /// Sets state. Writing what is there already makes no event, for the same sender.
    ///
    /// # Errors
    ///
    /// `NotInRoom`; `Refused` without the power.
    pub async fn put_state(
        &self,
        who: As<'_>,
        room: &RoomId,
        event_type: &str,
        key: &str,
        content: &Value,
    ) -> Result<OwnedEventId, MatrixError> {
        let path = &["state", event_type, key];
        let call = self.in_room("setting a room's state", Method::PUT, room, path).by(who);
        Ok(call.json(content).answer::<EventAnswer>().await?.event_id)
    }

    /// Sends a message-like event, once: the same `txn_id` again gives the first event's id.
    ///
    /// The homeserver remembers `txn_id` per room, user and device for a day (this needs
    /// [`ensure_device`](Self::ensure_device)), ignoring type and content, and per room for half an hour, ignoring the user
    /// too: it must be unique over everything the bridge sends. `ts` is the time shown, in milliseconds since 1970; the
    /// event's place in the room is the end in any case.
    ///
    /// # Errors
    ///
    /// `NotRegistered` without user or device; `NotInRoom`; `Refused` when too large. Repeat with the same `txn_id`.
    pub async fn send(
        &self,
        who: As<'_>,
        room: &RoomId,
        event_type: &str,
        txn_id: &str,
        content: &Value,
        ts: Option<u64>,
    ) -> Result<OwnedEventId, MatrixError> {
        let path = &["send", event_type, txn_id];
        let mut call = self.in_room("sending an event", Method::PUT, room, path).on_device(who);
        if let Some(ts) = ts {
            call = call.with("ts", &ts.to_string());
        }
        Ok(call.json(content).answer::<EventAnswer>().await?.event_id)
    }

    /// Removes an event's content; of others' events with the power to do so. `txn_id` is as for [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub async fn redact(
        &self,
        who: As<'_>,
        room: &RoomId,
        event: &EventId,
        txn_id: &str,
        reason: Option<&str>,
    ) -> Result<OwnedEventId, MatrixError> {
        let path = &["redact", event.as_str(), txn_id];
        let call = self.in_room("redacting an event", Method::PUT, room, path).on_device(who);
        let body = reason.map_or_else(|| json!({}), |reason| json!({"reason": reason}));
        Ok(call.json(&body).answer::<EventAnswer>().await?.event_id)
    }

    /// An event of a room the bot is in; `None` if the bot may not see it or it does not exist.
    ///
    /// # Errors
    ///
    /// `NotInRoom` when the bot is not in the room.
    pub async fn event(
        &self,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Option<Value>, MatrixError> {
        let path = &["event", event.as_str()];
        found(self.in_room("reading an event", Method::GET, room, path).answer().await)
    }

    /// Up to `limit` events of a room as `who` sees them, newest first, from the end or from an earlier page's `end`.
    ///
    /// Read on the bridge's device, so that `unsigned.transaction_id` of `who`'s own events is there.
    ///
    /// # Errors
    ///
    /// `NotInRoom`.
    pub async fn messages(
        &self,
        who: As<'_>,
        room: &RoomId,
        limit: u16,
        from: Option<&str>,
    ) -> Result<Page, MatrixError> {
        let call = self.in_room("reading a room's history", Method::GET, room, &["messages"]);
        let call = call.on_device(who).with("dir", "b").with("limit", &limit.to_string());
        let call = if let Some(from) = from { call.with("from", from) } else { call };
        call.answer().await
    }

    /// Up to `limit` events that `sender` has sent to a room, as the bot sees them, newest first, from the end or from an
    /// earlier page's `end`: however much others say in between.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#filtering>
    ///
    /// # Errors
    ///
    /// `NotInRoom`.
    pub async fn messages_by(
        &self,
        sender: &UserId,
        room: &RoomId,
        limit: u16,
        from: Option<&str>,
    ) -> Result<Page, MatrixError> {
        let call = self.in_room("reading what somebody said", Method::GET, room, &["messages"]);
        let filter = json!({"senders": [sender]}).to_string();
        let call = call.with("dir", "b").with("limit", &limit.to_string()).with("filter", &filter);
        let call = if let Some(from) = from { call.with("from", from) } else { call };
        call.answer().await
    }

    fn in_room<'c>(
        &'c self,
        what: &'static str,
        method: Method,
        room: &RoomId,
        path: &[&str],
    ) -> Call<'c> {
        let path: Vec<&str> =
            ["rooms", room.as_str()].into_iter().chain(path.iter().copied()).collect();
        self.call(what, Kind::InRoom, method, V3, &path)
    }
}

fn is_present(membership: &MembershipState) -> bool {
    matches!(membership, MembershipState::Join | MembershipState::Invite)
}

/// The answers that "already so" hides behind: 403 with whatever code and words.
fn is_forbidden(error: &MatrixError) -> bool {
    matches!(error, MatrixError::NotInRoom { .. } | MatrixError::Refused { status: 403, .. })
}

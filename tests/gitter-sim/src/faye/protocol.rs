//! Bayeux messages: handshake, connect, subscribe and the rest.

use serde_json::{Value, json};

use super::bus::Out;
use crate::state::State;
use crate::view::RoomShape;

const TYPES: [&str; 6] = [
    "long-polling",
    "cross-origin-long-polling",
    "callback-polling",
    "websocket",
    "eventsource",
    "in-process",
];
/// Ten days, in ms: what a client is told to wait after a refused token.
const NEVER_MS: u64 = 864_000_000;

/// A `/meta/connect` that waits for its time or for a message.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) client: String,
    pub(crate) number: u64,
    pub(crate) after_ms: u64,
}

/// Where a message came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    /// `None` for long polling.
    pub(crate) socket: Option<u64>,
    /// How long this mount holds a connect.
    pub(crate) timeout_ms: u64,
}

pub(crate) fn unknown_client(id: &Value, client: &str) -> Value {
    json!({"id": id, "channel": "/meta/connect", "successful": false,
        "error": format!("401:{client}:Unknown client"),
        "advice": {"reconnect": "handshake", "interval": 2000}})
}

impl State {
    /// Publishes to the subscribers of a channel.
    pub(crate) fn publish(&mut self, channel: &str, data: &Value) {
        let id = self.ids.serial();
        self.bus.publish(channel, &id, data);
    }

    /// Handles one frame from a socket and answers on it.
    pub(crate) fn faye_frame(&mut self, from: Source, text: &str) -> Vec<Hold> {
        let Some(socket) = from.socket.filter(|_| !self.bus.stalled) else { return Vec::new() };
        let Ok(frame) = serde_json::from_str::<Value>(text) else { return Vec::new() };
        let (replies, holds) = self.faye_messages(from, &frame);
        if !replies.is_empty() || frame == json!([]) {
            self.bus.send(socket, Out::Text(Value::from(replies.clone()).to_string()));
        }
        // A refused unknown token is answered three times, in two frames, as recorded.
        let refused = replies.iter().find(|r| r["error"] == "401::Invalid access token");
        if let Some(refused) = refused {
            self.bus.send(socket, Out::Text(json!([refused, refused]).to_string()));
        }
        self.publish_deferred();
        holds
    }

    pub(crate) fn publish_deferred(&mut self) {
        for (channel, data) in std::mem::take(&mut self.bus.deferred) {
            self.publish(&channel, &data);
        }
    }

    /// Handles the messages of a frame or of a long poll; what they cause besides is deferred.
    pub(crate) fn faye_messages(&mut self, from: Source, frame: &Value) -> (Vec<Value>, Vec<Hold>) {
        let one = std::slice::from_ref(frame);
        let messages = frame.as_array().map_or(one, Vec::as_slice);
        let (mut replies, mut holds) = (Vec::new(), Vec::new());
        for message in messages.iter().filter(|m| m.is_object()) {
            match self.faye_message(from, message) {
                Ok(reply) => replies.push(reply),
                Err(hold) => holds.push(hold),
            }
        }
        (replies, holds)
    }

    fn faye_message(&mut self, from: Source, message: &Value) -> Result<Value, Hold> {
        let id = &message["id"];
        let channel = message["channel"].as_str().unwrap_or_default();
        if channel == "/meta/handshake" {
            return Ok(self.handshake(from, message));
        }
        let client = message["clientId"].as_str().unwrap_or_default();
        if self.bus.touch(client).is_none() {
            if channel == "/meta/connect" {
                return Ok(unknown_client(id, client));
            }
            let mut reply = json!({"id": id, "clientId": client, "channel": channel,
                "error": format!("401:{client}:Unknown client"), "successful": false,
                "advice": {"reconnect": "handshake", "interval": 2000}});
            if let Some(subscription) = message.get("subscription") {
                reply["subscription"] = subscription.clone();
            }
            return Ok(reply);
        }
        let mut reply =
            json!({"id": id, "clientId": client, "channel": channel, "successful": true});
        match channel {
            "/meta/connect" => return self.connect(from, message, client, reply),
            "/meta/subscribe" => {
                reply["subscription"] = message["subscription"].clone();
                match self.subscribe(client, message) {
                    Ok(None) => {}
                    Ok(Some(snapshot)) => reply["ext"] = json!({"snapshot": snapshot}),
                    Err(error) => {
                        reply["error"] = json!(error);
                        reply["successful"] = json!(false);
                    }
                }
            }
            "/meta/unsubscribe" => {
                reply["subscription"] = message["subscription"].clone();
                if let Some(known) = self.bus.clients.get_mut(client) {
                    known.subscriptions.remove(message["subscription"].as_str().unwrap_or(""));
                }
            }
            "/meta/disconnect" => {
                self.leave_presence(client);
                self.bus.clients.remove(client);
            }
            "/api/v1/ping2" => {}
            _ => {
                reply["error"] = json!("403::Push access denied");
                reply["successful"] = json!(false);
            }
        }
        Ok(reply)
    }

    fn handshake(&mut self, from: Source, message: &Value) -> Value {
        let mut reply = json!({"id": message["id"], "channel": "/meta/handshake",
            "successful": false, "version": "1.0", "supportedConnectionTypes": TYPES});
        let token = message["ext"]["token"].as_str();
        let grant = token.and_then(|t| self.grant_of(t).cloned());
        let revoked = token.is_some_and(|t| self.tokens.contains_key(t));
        let error = match (&self.bus.refuse, token, &grant) {
            (Some(error), ..) => Some(error.as_str()),
            (_, None, _) => Some("401::Access token required"),
            (_, _, None) if revoked => Some("401::Unauthorized"),
            (_, _, None) => Some("401::Invalid access token"),
            _ => None,
        };
        if let Some(error) = error {
            reply["error"] = json!(error);
            reply["advice"] = json!({"reconnect": "none", "interval": NEVER_MS});
            return reply;
        }
        let offered = message["supportedConnectionTypes"].as_array();
        let offered: Option<Vec<&str>> =
            offered.map(|types| types.iter().filter_map(Value::as_str).collect());
        let error = match offered {
            None => Some("402:supportedConnectionTypes:Missing required parameter".to_owned()),
            Some(types) if !types.iter().any(|t| TYPES.contains(t)) => {
                Some(format!("301:{}:Connection types not supported", types.join(",")))
            }
            Some(_) => None,
        };
        if let Some(error) = error {
            reply["error"] = json!(error);
            reply["advice"] = json!({"reconnect": "handshake"});
            return reply;
        }
        let (Some(token), Some(grant)) = (token, grant) else { return reply };
        let client = self.ids.base36(31);
        self.bus.add_client(&client, token, &grant.user, from.timeout_ms);
        let mut user = self.own_view(&grant.user);
        user["scopes"] = json!({"public_repo": false, "private_repo": false});
        let mut context = json!({"user": user});
        if let Some(room) = message["ext"]["troupeId"].as_str()
            && self.room(room).is_ok_and(|r| r.can_read(&grant.user))
        {
            self.enter_presence(&client, room);
            context["troupe"] = self.room_view(room, Some(&grant.user), RoomShape::Joined);
        }
        reply["successful"] = json!(true);
        reply["clientId"] = json!(client);
        reply["advice"] =
            json!({"reconnect": "retry", "interval": 500, "timeout": from.timeout_ms});
        reply["ext"] = json!({"appVersion": "21.15.0", "userId": grant.user, "context": context});
        reply
    }

    fn connect(
        &mut self,
        from: Source,
        message: &Value,
        client: &str,
        mut reply: Value,
    ) -> Result<Value, Hold> {
        let number = self.bus.next();
        let at_once = message["advice"]["timeout"] == json!(0);
        let waiting = self.bus.has_waiting(client);
        let Some(known) = self.bus.clients.get_mut(client) else { return Ok(reply) };
        known.socket = from.socket;
        reply["advice"] =
            json!({"reconnect": "retry", "interval": 500, "timeout": known.timeout_ms});
        let after_ms = known.timeout_ms;
        if at_once || (from.socket.is_none() && waiting) {
            return Ok(reply);
        }
        known.held = Some((number, reply));
        if from.socket.is_some() {
            self.bus.deliver(client);
        }
        Err(Hold { client: client.into(), number, after_ms })
    }

    /// Ends a held connect whose time is up; `None` when another one took its place.
    pub(crate) fn finish_connect(&mut self, hold: &Hold) -> Option<Value> {
        let client = self.bus.clients.get_mut(&hold.client)?;
        let (number, reply) = client.held.take()?;
        if number != hold.number {
            client.held = Some((number, reply));
            return None;
        }
        client.seen = tokio::time::Instant::now();
        if let Some(socket) = client.socket {
            self.bus.send(socket, Out::Text(json!([reply]).to_string()));
        }
        Some(reply)
    }

    /// Subscribes, and gives the snapshot if there is one and it is wanted.
    fn subscribe(&mut self, client: &str, message: &Value) -> Result<Option<Value>, String> {
        let (user, token) = match self.bus.clients.get(client) {
            Some(known) => (known.user.clone(), known.token.clone()),
            None => return Err(format!("401::Client {client} not authenticated")),
        };
        let wanted = &message["ext"]["snapshot"];
        let channel = crate::rest::js_text(&message["subscription"]);
        let unknown = || format!("404::Unknown subscription {channel}");
        if channel.contains('*') || !message["subscription"].is_string() {
            return Err(unknown());
        }
        let path = channel.strip_prefix("/api/v1/").ok_or_else(unknown)?;
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["rooms", id, ..] => {
                if !crate::ids::is_object_id(id) {
                    return Err(format!("400::Invalid ID: {id}"));
                }
                let room = self.room(id).map_err(|_| "404::Not Found".to_owned())?;
                if !room.can_read(&user) {
                    return Err("403::Authorisation denied.".into());
                }
                self.enter_presence(client, id);
            }
            ["user", id, ..] if id != user => return Err("403::Authorisation denied.".into()),
            ["token", own] if own != token => return Err("403::Authorisation denied.".into()),
            ["user", ..] | ["token", _] | ["ping"] => {}
            _ => return Err(unknown()),
        }
        if let Some(known) = self.bus.clients.get_mut(client) {
            known.subscriptions.insert(channel.clone());
        }
        if wanted == &json!(false) {
            return Ok(None);
        }
        Ok(self.snapshot(&parts, &user, wanted))
    }

    /// Makes the client look at a room: told to the room when the user's first or last client
    /// comes or goes, and noted as the last visit.
    fn enter_presence(&mut self, client: &str, room: &str) {
        self.leave_presence(client);
        let Some(known) = self.bus.clients.get(client) else { return };
        let user = known.user.clone();
        let first = !self.bus.is_present(&user, room);
        if let Some(known) = self.bus.clients.get_mut(client) {
            known.room = Some(room.into());
        }
        if first {
            self.publish_presence(room, &user, "in");
        }
        let now = self.now();
        let Some(target) = self.rooms.get_mut(room).filter(|r| r.is_member(&user)) else { return };
        target.access.insert(user.clone(), now);
        let model = json!({"id": room, "lastAccessTime": crate::ids::iso(now)});
        let data = json!({"operation": "patch", "model": model});
        self.bus.deferred.push((format!("/api/v1/user/{user}/rooms"), data));
    }

    pub(crate) fn leave_presence(&mut self, client: &str) {
        let Some(known) = self.bus.clients.get_mut(client) else { return };
        let (user, room) = (known.user.clone(), known.room.take());
        if let Some(room) = room.filter(|r| !self.bus.is_present(&user, r)) {
            self.publish_presence(&room, &user, "out");
        }
    }

    fn publish_presence(&mut self, room: &str, user: &str, status: &str) {
        let data = json!({"notification": "presence", "userId": user, "status": status});
        self.publish(&format!("/api/v1/rooms/{room}"), &data);
    }
}

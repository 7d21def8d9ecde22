//! The client-server API: who asks, and which endpoint answers.

mod rooms;
mod users;

use axum::http::header;
use serde_json::{Value, json};

use crate::http::{Reply, Req};
use crate::refusal::Refusal;
use crate::state::State;

/// What came of a request, and who acted.
pub(crate) enum Answer {
    Given(Reply, Option<String>),
    /// The appservice is to be pinged, with this transaction id.
    Ping(Value, String),
}

/// Who asks.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) user: String,
    pub(crate) device: Option<String>,
    /// The appservice, as whomever; otherwise a person.
    pub(crate) appservice: bool,
}

type Result<T> = std::result::Result<T, Refusal>;

/// Answers a request.
pub(crate) fn answer(state: &mut State, req: &Req) -> Answer {
    let parts: Vec<&str> = req.parts.iter().map(String::as_str).collect();
    if !known(&parts) {
        let refused = Refusal::new(404, "M_UNRECOGNIZED", "Unrecognized request");
        return Answer::Given(Err(refused).into(), None);
    }
    if parts[..] == ["_matrix", "client", "versions"] {
        return Answer::Given(users::versions(), None);
    }
    let caller = match authenticate(state, req) {
        Ok(caller) => caller,
        Err(refusal) => return Answer::Given(Err(refusal).into(), None),
    };
    if let ["_matrix", "client", "v1", "appservice", id, "ping"] = parts[..] {
        return match ping(state, req, &caller, id) {
            Ok(txn) => Answer::Ping(txn, caller.user),
            Err(refusal) => Answer::Given(Err(refusal).into(), Some(caller.user)),
        };
    }
    let reply = once(state, req, &caller, &parts).into();
    Answer::Given(reply, Some(caller.user))
}

/// Whether the path is one of those served.
fn known(parts: &[&str]) -> bool {
    match parts {
        ["_matrix", "client", "v3", rest @ ..] => matches!(
            rest.first().copied(),
            Some(
                "account"
                    | "capabilities"
                    | "register"
                    | "devices"
                    | "profile"
                    | "createRoom"
                    | "join"
                    | "joined_rooms"
                    | "rooms"
                    | "user"
            )
        ),
        ["_matrix", "client", "versions"]
        | ["_matrix", "client", "v1", "appservice", _, "ping"]
        | ["_matrix", "client", "v1", "media", ..]
        | ["_matrix", "media", "v3", "upload"] => true,
        _ => false,
    }
}

/// Answers from memory what was sent with a transaction id before; failures are not remembered.
fn once(state: &mut State, req: &Req, caller: &Caller, parts: &[&str]) -> Result<Reply> {
    let txn =
        req.method == "PUT" && matches!(parts, [_, _, _, "rooms", _, "send" | "redact", _, _]);
    // A person's is kept by user, the appservice's by path alone.
    let owner = if caller.appservice { "" } else { &caller.user };
    let key = format!("{owner} {}", req.path);
    if txn && let Some(reply) = state.cached(&key) {
        return Ok(reply);
    }
    let reply = dispatch(state, req, caller, parts)?;
    if txn {
        state.remember(&key, &reply);
    }
    Ok(reply)
}

fn dispatch(state: &mut State, req: &Req, caller: &Caller, parts: &[&str]) -> Result<Reply> {
    let method = req.method.as_str();
    match (method, parts) {
        ("POST", ["_matrix", "media", "v3", "upload"]) => users::upload(state, req),
        ("GET", [_, _, "v1", "media", "config"]) => {
            Ok(Reply::ok(&json!({"m.upload.size": users::UPLOAD_MAX})))
        }
        ("GET", [_, _, "v1", "media", "download", server, id, ..]) => {
            users::download(state, req, server, id)
        }
        (_, [_, _, _, "rooms", room, rest @ ..]) => rooms::answer(state, req, caller, room, rest),
        ("POST", [_, _, _, "join", room]) => rooms::join(state, req, caller, room),
        ("GET", [_, _, _, "joined_rooms"]) => {
            let rooms = state.rooms.values().filter(|room| room.is_joined(&caller.user));
            let rooms: Vec<&str> = rooms.map(|room| room.id.as_str()).collect();
            Ok(Reply::ok(&json!({"joined_rooms": rooms})))
        }
        ("POST", [_, _, _, "createRoom"]) => {
            let room = state.create_room(&caller.user, &req.json()?)?;
            Ok(Reply::ok(&json!({"room_id": room})))
        }
        (_, [_, _, "v3", rest @ ..]) => users::answer(state, req, caller, rest),
        _ => Err(unrecognized()),
    }
}

fn unrecognized() -> Refusal {
    Refusal::new(405, "M_UNRECOGNIZED", "Unrecognized request")
}

fn authenticate(state: &State, req: &Req) -> Result<Caller> {
    let header = req.header(header::AUTHORIZATION);
    let token = match (header, req.query("access_token")) {
        (Some(header), None) => header.strip_prefix("Bearer "),
        (None, Some(token)) => Some(token),
        _ => None,
    };
    let token =
        token.ok_or_else(|| Refusal::new(401, "M_MISSING_TOKEN", "Missing access token"))?;
    if token != state.cfg.as_token {
        let user = state.users.keys().find(|user| crate::world::token_of(user) == token);
        let user = user
            .ok_or_else(|| Refusal::new(401, "M_UNKNOWN_TOKEN", "Invalid access token passed."))?;
        let device = Some("CLIENT".to_owned());
        return Ok(Caller { user: user.clone(), device, appservice: false });
    }
    let bot = state.bot();
    let Some(user) = req.query("user_id") else {
        if req.query("device_id").is_some() {
            return Err(Refusal::new(500, "M_UNKNOWN", "Internal server error"));
        }
        return Ok(Caller { user: bot, device: None, appservice: true });
    };
    if !state.owns(user) {
        let words = format!("Application service cannot masquerade as this user ({user}).");
        return Err(Refusal::forbidden(words));
    }
    let known = state.users.get(user);
    if user != bot && known.is_none_or(|known| !known.registered) {
        let words = format!("Application service has not registered this user ({user})");
        return Err(Refusal::forbidden(words));
    }
    let device = req.query("device_id").map(str::to_owned);
    if let Some(device) = &device
        && known.is_none_or(|known| !known.devices.contains(device))
    {
        let words = format!(
            "Application service trying to use a device that doesn't exist ('{device}' for {user})"
        );
        return Err(Refusal::new(400, "M_UNKNOWN_DEVICE", words));
    }
    Ok(Caller { user: user.to_owned(), device, appservice: true })
}

fn ping(state: &State, req: &Req, caller: &Caller, id: &str) -> Result<Value> {
    if req.method != "POST" {
        return Err(unrecognized());
    }
    if !caller.appservice {
        let words = "Only application services can use the /appservice/ping endpoint";
        return Err(Refusal::forbidden(words));
    }
    if id != state.cfg.appservice_id {
        return Err(Refusal::forbidden("Mismatching application service ID in path"));
    }
    Ok(req.json()?["transaction_id"].clone())
}

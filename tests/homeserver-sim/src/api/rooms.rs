//! What is under `/rooms/{roomId}`.

use serde_json::{Value, json};

use super::{Caller, Result, unrecognized};
use crate::event::{Draft, Event, Txn};
use crate::http::{Reply, Req};
use crate::refusal::Refusal;
use crate::state::State;

const PAGE: usize = 10;
const PAGE_MAX: usize = 1000;

pub(super) fn answer(
    state: &mut State,
    req: &Req,
    caller: &Caller,
    room: &str,
    parts: &[&str],
) -> Result<Reply> {
    let user = caller.user.as_str();
    let event = |id: String| Ok(Reply::ok(&json!({"event_id": id})));
    let nothing = || Ok(Reply::ok(&json!({})));
    if req.method == "GET" {
        return read(state, req, caller, room, parts);
    }
    match (req.method.as_str(), parts) {
        ("POST", ["join"]) => join(state, req, caller, room),
        ("POST", [action @ ("invite" | "leave" | "kick" | "ban" | "unban")]) => {
            let body = req.json_or_nothing()?;
            let target = match body["user_id"].as_str() {
                _ if *action == "leave" => user,
                Some(target) if target.starts_with('@') && target.contains(':') => target,
                Some(other) => {
                    let words = format!("Expected UserID string to start with '@': {other}");
                    return Err(Refusal::new(400, "M_INVALID_PARAM", words));
                }
                None => {
                    let words = "Missing params: ['user_id']";
                    return Err(Refusal::new(400, "M_MISSING_PARAM", words));
                }
            };
            state.change_membership(user, room, target, action, reason(&body), None)?;
            nothing()
        }
        ("POST", ["forget"]) => {
            state.forget(user, room)?;
            nothing()
        }
        ("PUT", ["send", kind, txn]) => {
            let draft = sent(req, caller, kind, txn, req.json()?);
            event(state.send(room, draft)?)
        }
        ("PUT", ["redact", target, txn]) => {
            let mut draft =
                sent(req, caller, "m.room.redaction", txn, reason(&req.json_or_nothing()?));
            // The time shown can't be chosen here.
            draft.ts = None;
            draft.redacts = Some((*target).to_owned());
            event(state.redact(room, draft)?)
        }
        ("PUT", ["state", kind, rest @ ..]) => {
            let key = rest.join("/");
            let mut draft = Draft::state(user, kind, &key, req.json()?);
            draft.ts = time(req, caller);
            event(state.set_state(room, draft)?)
        }
        ("POST", ["receipt", kind, id]) => {
            req.json_or_nothing()?;
            receipt(state, user, room, kind, id);
            nothing()
        }
        ("POST", ["read_markers"]) => {
            let body = req.json()?;
            if let Some(id) = body["m.read"].as_str() {
                receipt(state, user, room, "m.read", id);
            }
            nothing()
        }
        ("PUT", ["typing", typist]) => {
            let body = req.json()?;
            if *typist != user {
                return Err(Refusal::new(
                    400,
                    "M_UNKNOWN",
                    "Cannot set another user's typing state",
                ));
            }
            state.set_typing(user, room, body["typing"] == true)?;
            nothing()
        }
        ("POST", ["upgrade"]) => {
            let body = req.json()?;
            let new = state.upgrade(user, room, body.get("new_version"))?;
            Ok(Reply::ok(&json!({"replacement_room": new})))
        }
        _ => Err(unrecognized()),
    }
}

/// What changes nothing.
fn read(state: &State, req: &Req, caller: &Caller, room: &str, parts: &[&str]) -> Result<Reply> {
    let user = caller.user.as_str();
    match parts {
        ["state", kind, rest @ ..] => {
            let key = rest.join("/");
            let (room, end) = state.readable(user, room)?;
            let found = room.state_before(end);
            let found = found.get(&(*kind, key.as_str()));
            let found = found.ok_or_else(|| Refusal::not_found("Event not found."))?;
            let whole = req.query("format") == Some("event");
            let shown = if whole { found.shown(state.now(), None) } else { found.content.clone() };
            Ok(Reply::ok(&shown))
        }
        ["state"] => {
            let (room, end) = state.readable(user, room)?;
            let all = room.state_before(end);
            let all = all.values().map(|e| state.show(room, e, user, caller.device.as_deref()));
            Ok(Reply::ok(&all.collect()))
        }
        ["joined_members"] => joined_members(state, caller, room),
        ["members"] => {
            let (room, end) = state.readable(user, room)?;
            let wanted = req.query("membership");
            let members = room.state_before(end).into_values();
            let members = members.filter(|e| {
                e.kind == "m.room.member" && wanted.is_none_or(|wanted| e.membership() == wanted)
            });
            let chunk: Vec<Value> =
                members.map(|e| state.show(room, e, user, caller.device.as_deref())).collect();
            Ok(Reply::ok(&json!({"chunk": chunk})))
        }
        ["event", id] => {
            let missing = || Refusal::not_found("Event not found.");
            let (room, end) = state.readable(user, room).map_err(|_| missing())?;
            let seen = |e: &&Event| room.is_shown(e) && room.position(&e.id) < Some(end);
            let found = room.event(id).filter(seen);
            let found = found.ok_or_else(missing)?;
            Ok(Reply::ok(&state.show_in_time(room, found, user, caller.device.as_deref())))
        }
        ["messages"] => messages(state, req, caller, room),
        _ => Err(unrecognized()),
    }
}

pub(super) fn join(state: &mut State, req: &Req, caller: &Caller, room: &str) -> Result<Reply> {
    let body = req.json_or_nothing()?;
    if !room.starts_with('!') {
        return Err(Refusal::not_found(format!("Room alias {room} not found")));
    }
    state.change_membership(&caller.user, room, &caller.user, "join", reason(&body), None)?;
    Ok(Reply::ok(&json!({"room_id": room})))
}

fn reason(body: &Value) -> Value {
    body.get("reason").map_or_else(|| json!({}), |reason| json!({"reason": reason}))
}

/// The time to be shown, which only the appservice may choose.
fn time(req: &Req, caller: &Caller) -> Option<u64> {
    req.query("ts").filter(|_| caller.appservice)?.parse().ok()
}

fn sent(req: &Req, caller: &Caller, kind: &str, txn: &str, content: Value) -> Draft {
    let mut draft = Draft::message(&caller.user, kind, content);
    draft.ts = time(req, caller);
    draft.txn = Some(Txn { device: caller.device.clone(), id: txn.to_owned() });
    draft
}

/// The appservice may read it wherever one of its users is.
fn joined_members(state: &State, caller: &Caller, room_id: &str) -> Result<Reply> {
    let room = state.rooms.get(room_id);
    let allowed = |room: &&crate::room::Room| {
        room.is_joined(&caller.user)
            || caller.appservice && room.joined().any(|user| state.owns(user))
    };
    let Some(room) = room.filter(allowed) else {
        return Err(Refusal::forbidden("Appservice not in room"));
    };
    let joined = room.members().filter(|e| e.membership() == "join").map(|e| {
        let user = e.state_key.clone().unwrap_or_default();
        let text = |field: &str| e.content.get(field).cloned().unwrap_or(Value::Null);
        (user, json!({"display_name": text("displayname"), "avatar_url": text("avatar_url")}))
    });
    let joined: serde_json::Map<String, Value> = joined.collect();
    Ok(Reply::ok(&json!({"joined": joined})))
}

fn messages(state: &State, req: &Req, caller: &Caller, room: &str) -> Result<Reply> {
    let (room, end) = state.readable(&caller.user, room)?;
    if req.query("dir") != Some("b") {
        return Err(Refusal::new(400, "M_MISSING_PARAM", "Only dir=b is simulated"));
    }
    let limit = req.query("limit").and_then(|limit| limit.parse().ok()).unwrap_or(PAGE);
    let from = match req.query("from") {
        None => end,
        Some(token) => token
            .strip_prefix('t')
            .and_then(|at| at.parse().ok())
            .ok_or_else(|| Refusal::new(400, "M_INVALID_PARAM", "Invalid stream token"))?,
    };
    let from = from.min(end);
    let filter = req.query("filter").map(serde_json::from_str::<Value>).transpose();
    let filter = filter.map_err(|_| Refusal::new(400, "M_UNKNOWN", "Invalid filter"))?;
    let senders = filter.as_ref().and_then(|filter| filter["senders"].as_array());
    let is_of = |e: &Event| senders.is_none_or(|all| all.iter().any(|one| *one == *e.sender));
    // A page is full of what the filter lets through.
    let mut places = (0..from).rev().filter(|at| is_of(&room.events[*at]));
    let begin = places.by_ref().take(limit.min(PAGE_MAX)).last().unwrap_or(0);
    let page = room.events[begin..from].iter().rev().filter(|e| room.is_shown(e) && is_of(e));
    let chunk: Vec<Value> =
        page.map(|e| state.show_in_time(room, e, &caller.user, caller.device.as_deref())).collect();
    let mut answer = json!({"start": format!("t{from}"), "chunk": chunk});
    if from > 0 {
        answer["end"] = json!(format!("t{begin}"));
    }
    Ok(Reply::ok(&answer))
}

/// A receipt of who is not in the room, or for no event, changes nothing and is no error.
fn receipt(state: &mut State, user: &str, room: &str, kind: &str, id: &str) {
    if kind == "m.read" {
        state.receipt(user, room, id);
    }
}

//! The small JSON API of the page, which also drives a standalone simulator: `/sim/..`.

use serde_json::{Value, json};

use crate::http::{Reply, Req};
use crate::model::Outcome;
use crate::state::{NewMessage, State};
use crate::world::{RoomSpec, sim_message};

/// `GET /sim/state`, `GET /sim/messages?room=`, and `POST /sim/<act>` with a JSON object.
pub(crate) fn answer(state: &mut State, req: &Req, parts: &[&str]) -> Reply {
    let outcome = match (req.method.as_str(), parts) {
        ("GET", ["state"]) => Ok(overview(state)),
        ("GET", ["messages"]) => messages(state, req.query("room").unwrap_or_default()),
        ("GET", ["calls"]) => Ok(calls(state)),
        ("POST", [act]) => perform(state, act, &req.body),
        _ => Err(404),
    };
    match outcome {
        Ok(value) => Reply::json(&value),
        Err(status) => Reply::error(status, 0),
    }
}

fn overview(state: &State) -> Value {
    let users: Vec<_> = state
        .users
        .values()
        .filter(|u| !u.removed)
        .map(|u| json!({"id": u.id, "username": u.username, "displayName": u.display_name}))
        .collect();
    let rooms: Vec<_> = state
        .rooms
        .values()
        .map(|r| {
            let members: Vec<_> = r.members.iter().map(|m| state.username(&m.user)).collect();
            let name = r.uri.clone().unwrap_or_else(|| members.join(" & "));
            json!({"id": r.id, "uri": r.uri, "name": name, "topic": r.topic, "public": r.public,
                "members": members, "messages": r.messages.len()})
        })
        .collect();
    json!({"users": users, "rooms": rooms, "calls": state.faults.total,
        "clients": state.clients.keys().collect::<Vec<_>>(), "sockets": state.bus.sockets()})
}

fn messages(state: &State, room: &str) -> Outcome<Value> {
    let room = state.find_room(room).ok_or(404_u16)?;
    Ok(room
        .messages
        .iter()
        .map(|m| {
            let m = sim_message(state, m);
            json!({"id": m.id, "text": m.text, "html": m.html, "from": m.from, "sent": m.sent,
                "parent": m.parent, "status": m.status, "edited": m.edited, "v": m.v})
        })
        .collect())
}

fn calls(state: &State) -> Value {
    let calls = state.faults.calls();
    calls
        .iter()
        .map(|c| {
            json!({"at": c.at_ms, "method": c.method, "path": c.path, "user": c.user,
                "status": c.status})
        })
        .collect()
}

fn perform(state: &mut State, act: &str, body: &Value) -> Outcome<Value> {
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    let done = json!({"success": true});
    let people = ["user", "a", "b"].map(|key| state.find_user(&text(key)).map(|u| u.id.clone()));
    let [user, a, b] = people.map(|found| found.ok_or(404_u16));
    let room = state.find_room(&text("room")).map(|r| r.id.clone()).ok_or(404_u16);
    match act {
        "add_user" => {
            let name = text("username");
            if name.is_empty() {
                return Err(400);
            }
            let display = body["displayName"].as_str().unwrap_or(&name).to_owned();
            return Ok(json!({"id": state.add_user(None, &name, &display)}));
        }
        "add_room" => {
            let admins = body["admins"].as_array().into_iter().flatten();
            let spec = RoomSpec {
                uri: text("uri"),
                topic: text("topic"),
                public: body["public"].as_bool().unwrap_or(true),
                admins: admins.filter_map(|a| a.as_str().map(str::to_owned)).collect(),
                ..RoomSpec::default()
            };
            return Ok(json!({"id": state.add_room(&spec)?}));
        }
        "one_to_one" => return Ok(json!({"id": state.one_to_one(&a?, &b?)?})),
        "token" => return Ok(json!({"token": state.token_for(&user?, &text("client"))})),
        "post" | "reply" => {
            let new = NewMessage {
                text: text("text"),
                status: body["status"].as_bool(),
                parent: body["parent"].as_str().map(str::to_owned),
                ..NewMessage::default()
            };
            return Ok(json!({"id": state.post(&room?, &user?, new)?.id}));
        }
        "edit" => drop(state.edit(&room?, &text("id"), &user?, &text("text"))?),
        "delete" => state.delete(&room?, &text("id"))?,
        "join" => state.join(&room?, &user?)?,
        "leave" | "kick" => state.part(&room?, &user?)?,
        "ban" | "unban" => {
            let (room, user) = (room?, user?);
            let by = state.room(&room)?.admins.first().cloned().unwrap_or_else(|| user.clone());
            if act == "ban" {
                state.ban(&room, &user, &by)?;
            } else {
                state.unban(&room, &user, &by)?;
            }
        }
        "topic" => state.set_topic(&room?, &text("topic"))?,
        "rename_room" => state.rename_room(&room?, &text("uri"))?,
        "delete_room" => state.delete_room(&room?)?,
        "rename_user" => {
            let display = body["displayName"].as_str().map(str::to_owned);
            let display = display.unwrap_or_else(|| text("username"));
            state.rename_user(&user?, &text("username"), &display)?;
        }
        "revoke_token" => {
            if let Some(token) = body["token"].as_str() {
                state.tokens.remove(token).ok_or(404_u16)?;
            } else {
                let user = user?;
                state.tokens.retain(|_, grant| grant.user != user);
            }
        }
        "hellban" => state.users.get_mut(&user?).ok_or(404_u16)?.hellbanned = true,
        "advance" => state.advance(body["ms"].as_i64().unwrap_or(0).max(0)),
        "rate_limit" => state.limits.limit = body["limit"].as_u64(),
        "cut" => state.bus.cut_sockets(),
        _ => return Err(404),
    }
    Ok(done)
}

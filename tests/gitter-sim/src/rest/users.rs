//! `/user/..` and `/users/:name`.

use serde_json::json;

use super::{Caller, checked_id};
use crate::http::{Reply, Req};
use crate::model::Outcome;
use crate::state::State;
use crate::view::RoomShape;

pub(super) fn route(
    state: &mut State,
    req: &Req,
    parts: &[&str],
    caller: &Caller<'_>,
) -> Outcome<Option<Reply>> {
    let method = req.method.as_str();
    let me = caller.user;
    let Some((&who, rest)) = parts.split_first() else {
        return Ok((method == "GET").then(|| own(state, req, me)));
    };
    if who != "me" && who != me {
        return Err(403);
    }
    Ok(Some(match (method, rest) {
        ("GET", []) => Reply::json(&state.own_view(me)),
        ("DELETE", []) => {
            let ghost = req.body.get("ghost").is_some_and(|g| g == &json!(true));
            state.delete_user(me, ghost)?;
            Reply::success()
        }
        ("GET", ["rooms"]) => super::rooms::list(state, me),
        ("POST", ["rooms"]) => join(state, req, me)?,
        ("PUT" | "PATCH", ["rooms", room]) => change(state, req, room, me)?,
        ("DELETE", ["rooms", room]) => {
            hide(state, checked_id(room, 400)?, me)?;
            Reply::success()
        }
        ("GET", ["rooms", room, "unreadItems"]) => {
            let room = state.room(checked_id(room, 400)?)?;
            let newest_first = |ids: &[String]| ids.iter().rev().cloned().collect::<Vec<_>>();
            Reply::json(&json!({"chat": newest_first(room.unread_of(me)),
                "mention": newest_first(room.mentions_of(me))}))
        }
        ("POST", ["rooms", room, "unreadItems"]) => {
            let room = checked_id(room, 400)?;
            let mut ids: Vec<String> = Vec::new();
            for list in ["chat", "mention"] {
                let items = req.body.get(list).and_then(|v| v.as_array()).into_iter().flatten();
                ids.extend(items.filter_map(|v| v.as_str().map(str::to_owned)));
            }
            if ids.is_empty() {
                return Err(400);
            }
            state.mark_read(room, me, &ids)?;
            Reply::success()
        }
        ("DELETE", ["rooms", room, "unreadItems", name]) => {
            if *name != "all" {
                return Err(404);
            }
            state.mark_all_read(checked_id(room, 400)?, me)?;
            Reply::success()
        }
        ("GET", ["unreadItems"]) => Reply::json(&counts(state, me)),
        ("GET", ["groups"]) => super::rooms::groups(state, req, &[], caller)?.ok_or(404_u16)?,
        ("GET", ["orgs" | "repos" | "suggestedRooms"]) => Reply::json(&json!([])),
        _ => return Ok(None),
    }))
}

fn own(state: &State, req: &Req, me: &str) -> Reply {
    match req.query("q") {
        Some(q) if !q.is_empty() => {
            let limit = usize::try_from(req.number("limit").unwrap_or(10)).unwrap_or(10);
            let q = q.to_lowercase();
            let found: Vec<_> = state
                .users
                .values()
                .filter(|u| !u.removed)
                .filter(|u| {
                    u.username.to_lowercase().contains(&q)
                        || u.display_name.to_lowercase().contains(&q)
                })
                .take(limit)
                .map(|u| state.user_view(&u.id))
                .collect();
            Reply::json(&json!({"results": found}))
        }
        _ => Reply::json(&json!([state.own_view(me)])),
    }
}

fn join(state: &mut State, req: &Req, me: &str) -> Outcome<Reply> {
    let id = checked_id(req.field("id").ok_or(400_u16)?, 400)?;
    // An unknown room is a 500 here, as recorded.
    let room = state.room(id).map_err(|_| 500_u16)?;
    if !state.can_write(room, me) {
        return Err(403);
    }
    state.join(id, me)?;
    Ok(Reply::json(&state.room_view(id, Some(me), RoomShape::Joined)))
}

fn hide(state: &mut State, room: &str, me: &str) -> Outcome<()> {
    let target = state.room_mut(room)?;
    target.access.remove(me);
    let lurks = target.member(me).is_some_and(|m| m.lurk);
    state.forget_unread(room, me);
    let model = json!({"id": room, "favourite": null, "lastAccessTime": null, "activity": 0,
        "mentions": 0, "unreadItems": 0});
    let data = json!({"operation": "patch", "model": model});
    state.publish(&format!("/api/v1/user/{me}/rooms"), &data);
    if lurks { state.part(room, me) } else { Ok(()) }
}

fn change(state: &mut State, req: &Req, room: &str, me: &str) -> Outcome<Reply> {
    let room = checked_id(room, 400)?;
    let target = state.room_mut(room)?;
    let member = target.members.iter_mut().find(|m| m.user == me).ok_or(404_u16)?;
    if let Some(favourite) = req.body.get("favourite") {
        member.favourite = match favourite {
            serde_json::Value::Bool(true) => Some(1),
            other => other.as_i64(),
        };
    }
    let mut silence = None;
    if let Some(mode) = req.body.get("mode") {
        let lurk = match mode.as_str() {
            Some("all" | "announcement" | "mention" | "default") => false,
            Some("mute") => true,
            _ => return Err(400),
        };
        if member.lurk != lurk {
            member.lurk = lurk;
            silence = Some(lurk);
        }
    }
    if let Some(lurk) = silence {
        let data = json!({"operation": "patch", "model": {"id": room, "lurk": lurk}});
        state.publish(&format!("/api/v1/user/{me}/rooms"), &data);
        let data = json!({"notification": "lurk_change", "lurk": lurk});
        state.publish(&format!("/api/v1/user/{me}/rooms/{room}/unreadItems"), &data);
        if lurk {
            state.forget_unread(room, me);
        }
    }
    if !req.accepts_json() {
        return Ok(Reply::new(200, "text/plain; charset=utf-8", "OK"));
    }
    Ok(Reply::json(&state.room_view(room, Some(me), RoomShape::LookedUp)))
}

fn counts(state: &State, me: &str) -> serde_json::Value {
    let rooms = state.rooms.values().filter(|r| !r.unread_of(me).is_empty());
    rooms
        .map(|r| {
            let mut view = json!({"id": r.id, "unreadItems": r.unread_of(me).len(),
                "mentions": r.mentions_of(me).len()});
            if let Some(uri) = &r.uri {
                view["uri"] = json!(uri);
            }
            view
        })
        .collect()
}

pub(super) fn profile(state: &State, name: &str) -> Outcome<Reply> {
    let user = state.users.values().find(|u| u.username == name).ok_or(404_u16)?;
    let mut view = json!({"id": user.id, "username": user.username,
        "displayName": user.display_name, "has_gitter_login": true, "gv": "3"});
    if user.removed {
        view["removed"] = json!(true);
    }
    Ok(Reply::json(&view))
}

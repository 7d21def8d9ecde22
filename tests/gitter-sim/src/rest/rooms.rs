//! `/rooms`, `/rooms/:id` and `/groups`.

use serde_json::json;

use super::{Caller, checked_id, guard, js_text, members, messages};
use crate::http::{Reply, Req};
use crate::model::Outcome;
use crate::state::State;
use crate::view::{RoomShape, event_view};
use crate::world::RoomSpec;

const TOPIC_LIMIT: usize = 4096;

pub(super) fn route(
    state: &mut State,
    req: &Req,
    parts: &[&str],
    caller: &Caller<'_>,
) -> Outcome<Option<Reply>> {
    let me = caller.user;
    let method = req.method.as_str();
    let Some((&id, rest)) = parts.split_first() else {
        return match method {
            "GET" => Ok(Some(match req.query("q") {
                Some(q) if !q.is_empty() => search(state, req, q, me),
                _ => list(state, me),
            })),
            "POST" => look_up(state, req, me).map(Some),
            _ => Ok(None),
        };
    };
    guard(state, req, id, me)?;
    Ok(Some(match (method, rest) {
        ("GET", []) => Reply::json(&state.room_view(id, Some(me), RoomShape::Full)),
        ("PUT", []) => change(state, req, id, me)?,
        ("DELETE", []) => {
            must_admin(state, id, me)?;
            state.delete_room(id)?;
            Reply::success()
        }
        (_, ["chatMessages", rest @ ..]) => return messages::route(state, req, id, rest, caller),
        (_, ["users" | "bans", ..]) => return members::route(state, req, id, rest, me),
        ("GET", ["events"]) => events(state, req, id)?,
        ("GET", ["issues" | "collaborators" | "suggestedRooms"]) => Reply::json(&json!([])),
        _ => return Ok(None),
    }))
}

pub(super) fn must_admin(state: &State, room: &str, user: &str) -> Outcome<()> {
    if state.room(room)?.is_admin(user) { Ok(()) } else { Err(403) }
}

pub(super) fn list(state: &State, me: &str) -> Reply {
    let rooms = state.rooms_of(me);
    let views: Vec<_> =
        rooms.iter().map(|id| state.room_view(id, Some(me), RoomShape::Listed)).collect();
    Reply::json(&json!(views))
}

fn search(state: &State, req: &Req, q: &str, me: &str) -> Reply {
    let limit = usize::try_from(req.number("limit").unwrap_or(10)).unwrap_or(10);
    let q = q.to_lowercase();
    let found: Vec<_> = state
        .rooms
        .values()
        .filter(|r| r.can_read(me))
        .filter(|r| r.uri.as_deref().is_some_and(|u| u.to_lowercase().contains(&q)))
        .take(limit)
        .map(|r| state.room_view(&r.id, Some(me), RoomShape::Plain))
        .collect();
    Reply::json(&json!({"results": found}))
}

/// Resolves a uri: a room, or by username the one-to-one room, which is made if needed.
fn look_up(state: &mut State, req: &Req, me: &str) -> Outcome<Reply> {
    let uri = req.body.get("uri").map(js_text);
    let uri = uri.or_else(|| req.query("uri").map(str::to_owned)).unwrap_or_default();
    if uri.is_empty() {
        return Err(400);
    }
    let id = if let Some(room) = state.find_room(&uri).filter(|r| r.uri.is_some()) {
        if !room.can_read(me) {
            return Err(404);
        }
        room.id.clone()
    } else if state.renamed.contains_key(&uri.to_lowercase()) {
        return Err(301);
    } else {
        let other = state
            .users
            .values()
            .find(|u| !u.removed && u.username.eq_ignore_ascii_case(&uri))
            .ok_or(404_u16)?;
        let other = other.id.clone();
        state.one_to_one(me, &other)?
    };
    Ok(Reply::json(&state.room_view(&id, Some(me), RoomShape::LookedUp)))
}

fn change(state: &mut State, req: &Req, id: &str, me: &str) -> Outcome<Reply> {
    must_admin(state, id, me)?;
    if let Some(topic) = req.body.get("topic").map(js_text) {
        if topic.encode_utf16().count() > TOPIC_LIMIT {
            return Err(400);
        }
        state.set_topic(id, &topic)?;
    }
    if let Some(tags) = req.body.get("tags") {
        let tags = tags.as_str().ok_or(500_u16)?;
        state.room_mut(id)?.tags =
            tags.split(',').map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect();
        state.room_changed(id)?;
    }
    if let Some(noindex) = req.body.get("noindex").and_then(serde_json::Value::as_bool) {
        state.room_mut(id)?.noindex = noindex;
        state.room_changed(id)?;
    }
    Ok(Reply::json(&state.room_view(id, Some(me), RoomShape::Changed)))
}

/// The activity feed, newest first.
fn events(state: &State, req: &Req, id: &str) -> Outcome<Reply> {
    let limit = req.number("limit").filter(|n| *n > 0).unwrap_or(50);
    let skip = req.number("skip").unwrap_or(0);
    let views: Vec<_> = state
        .room(id)?
        .events
        .iter()
        .rev()
        .filter(|e| req.query("beforeId").is_none_or(|b| e.id.as_str() < b))
        .skip(usize::try_from(skip).unwrap_or(0))
        .take(usize::try_from(limit).unwrap_or(50))
        .map(event_view)
        .collect();
    Ok(Reply::json(&json!(views)))
}

pub(super) fn groups(
    state: &mut State,
    req: &Req,
    parts: &[&str],
    caller: &Caller<'_>,
) -> Outcome<Option<Reply>> {
    let me = caller.user;
    Ok(Some(match (req.method.as_str(), parts) {
        ("GET", []) => {
            let views: Vec<_> = state
                .groups
                .keys()
                .filter(|g| {
                    let mut rooms = state.rooms.values();
                    rooms.any(|r| r.group.as_ref() == Some(g) && r.is_member(me))
                })
                .map(|g| state.group_view(g))
                .collect();
            Reply::json(&json!(views))
        }
        ("GET", [id]) if state.groups.contains_key(*id) => Reply::json(&state.group_view(id)),
        ("GET", [id, "rooms"]) if state.groups.contains_key(*id) => {
            let views: Vec<_> = state
                .rooms
                .values()
                .filter(|r| r.group.as_deref() == Some(*id) && r.can_read(me))
                .map(|r| state.room_view(&r.id, Some(me), RoomShape::Plain))
                .collect();
            Reply::json(&json!(views))
        }
        ("GET", [_] | [_, "rooms"]) => return Err(404),
        ("POST", [id, "rooms"]) => create(state, req, id, me)?,
        _ => return Ok(None),
    }))
}

fn create(state: &mut State, req: &Req, group: &str, me: &str) -> Outcome<Reply> {
    let owner = state.groups.get(checked_id(group, 404)?).ok_or(404_u16)?.uri.clone();
    let name = req.field("name").filter(|n| n.len() >= 2 && !n.contains('/')).ok_or(400_u16)?;
    let security = req.body.pointer("/security/security").and_then(|s| s.as_str());
    let spec = RoomSpec {
        uri: format!("{owner}/{name}"),
        topic: req.field("topic").unwrap_or_default().into(),
        public: security.is_none_or(|s| s == "PUBLIC"),
        admins: vec![me.into()],
        ..RoomSpec::default()
    };
    let id = state.add_room(&spec)?;
    let mut view = state.room_view(&id, Some(me), RoomShape::Joined);
    view["extra"] = json!({"hookCreationFailedDueToMissingScope": false});
    Ok(Reply::json(&view))
}

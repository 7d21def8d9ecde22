//! `/rooms/:id/users` and `/rooms/:id/bans`.

use serde_json::{Value, json};

use super::rooms::must_admin;
use crate::http::{Reply, Req};
use crate::ids::iso;
use crate::model::{Ban, Outcome};
use crate::state::State;

const DEFAULT_LIMIT: i64 = 30;
const MAX_LIMIT: i64 = 100;

pub(super) fn route(
    state: &mut State,
    req: &Req,
    room: &str,
    parts: &[&str],
    me: &str,
) -> Outcome<Option<Reply>> {
    Ok(Some(match (req.method.as_str(), parts) {
        ("GET", ["users"]) => list(state, req, room)?,
        ("POST", ["users"]) => {
            let name = req.field("username").ok_or(400_u16)?;
            // An unknown name is a 500 here, as recorded.
            let user = state.find_user(name).ok_or(500_u16)?.id.clone();
            let target = state.room(room)?;
            if target.is_banned(&user) || target.one_to_one() {
                return Err(403);
            }
            state.join(room, &user)?;
            Reply::json(&state.user_view(&user))
        }
        ("DELETE", ["users", who]) => {
            let by_name = req.query("type") == Some("username");
            let user = if by_name {
                state.find_user(who).ok_or(404_u16)?.id.clone()
            } else {
                (*who).to_owned()
            };
            if !state.users.contains_key(&user) {
                return Err(404);
            }
            if user != me {
                must_admin(state, room, me)?;
            }
            state.part(room, &user)?;
            Reply::success()
        }
        ("GET", ["bans"]) => {
            let bans = &state.room(room)?.bans;
            Reply::json(&bans.iter().map(|b| ban_view(state, b)).collect())
        }
        ("POST", ["bans"]) => ban(state, req, room, me)?,
        ("GET", ["bans", name]) => {
            let user = state.find_user(name).ok_or(404_u16)?;
            let bans = &state.room(room)?.bans;
            let ban = bans.iter().find(|b| b.user == user.id).ok_or(404_u16)?;
            Reply::json(&ban_view(state, ban))
        }
        ("DELETE", ["bans", name]) => {
            must_admin(state, room, me)?;
            let user = state.find_user(name).ok_or(404_u16)?.id.clone();
            state.unban(room, &user, me)?;
            Reply::success()
        }
        _ => return Ok(None),
    }))
}

fn list(state: &State, req: &Req, room: &str) -> Outcome<Reply> {
    let limit = req.number("limit").filter(|n| *n > 0).unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let skip = usize::try_from(req.number("skip").unwrap_or(0)).unwrap_or(0);
    let q = req.query("q").unwrap_or_default().to_lowercase();
    let lean = matches!(req.query("lean"), Some("true" | "1"));
    let people = state.room(room)?.members.iter().map(|m| m.user.as_str());
    let views: Vec<Value> = people
        .filter(|u| q.is_empty() || state.username(u).to_lowercase().starts_with(&q))
        .skip(skip)
        .take(usize::try_from(limit).unwrap_or(30))
        .map(|u| {
            if !q.is_empty() {
                return state.user_view(u);
            }
            let full = state.member_view(room, u, true);
            if !lean {
                return full;
            }
            let mut view = state.lean_user_view(u);
            for key in ["role", "online"] {
                if let Some(value) = full.get(key) {
                    view[key] = value.clone();
                }
            }
            view
        })
        .collect();
    Ok(Reply::json(&json!(views)))
}

fn ban(state: &mut State, req: &Req, room: &str, me: &str) -> Outcome<Reply> {
    must_admin(state, room, me)?;
    let name = req.field("username").ok_or(400_u16)?;
    let user = state.find_user(name).ok_or(404_u16)?.id.clone();
    if user == me {
        return Err(400);
    }
    let target = state.room(room)?;
    if target.is_admin(&user) {
        return Err(403);
    }
    if !target.public {
        // There is nothing to ban from: the person is only taken out.
        let _ = state.part(room, &user);
        return Ok(Reply::json_with(202, &json!({"removed": true})));
    }
    state.ban(room, &user, me)?;
    let ban = state.room(room)?.bans.iter().find(|b| b.user == user).cloned().ok_or(500_u16)?;
    Ok(Reply::json(&ban_view(state, &ban)))
}

fn ban_view(state: &State, ban: &Ban) -> Value {
    json!({"bannedBy": state.user_view(&ban.by), "dateBanned": iso(ban.at_ms),
        "user": state.user_view(&ban.user)})
}

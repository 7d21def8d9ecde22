//! `/rooms/:id/chatMessages`.

use serde_json::{Value, json};

use super::{Caller, checked_id, js_text};
use crate::http::{Reply, Req};
use crate::model::{Message, Outcome};
use crate::state::{NewMessage, Page, State, page};
use crate::view::lean_message;

const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 100;
const MAX_SKIP: i64 = 5000;

pub(super) fn route(
    state: &mut State,
    req: &Req,
    room: &str,
    parts: &[&str],
    caller: &Caller<'_>,
) -> Outcome<Option<Reply>> {
    let me = caller.user;
    let one = |state: &State, message: &Message| {
        Reply::json(&state.message_view(message, Some((me, room))))
    };
    Ok(Some(match (req.method.as_str(), parts) {
        ("GET", []) => list(state, req, room, me)?,
        ("POST", []) => {
            let message = post(state, req, room, caller)?;
            one(state, &message)
        }
        ("GET", [id]) => {
            let message = state.room(room)?.message(checked_id(id, 500)?).ok_or(404_u16)?;
            one(state, message)
        }
        ("PUT", [id]) => {
            let text = req.body.get("text");
            if text.is_some_and(Value::is_null) {
                return Err(500);
            }
            let text = text.map(js_text).unwrap_or_default();
            let message = state.edit(room, checked_id(id, 500)?, me, &text)?;
            one(state, &message)
        }
        ("DELETE", [id]) => {
            let target = state.room(room)?;
            let message = target.message(checked_id(id, 500)?).ok_or(404_u16)?;
            if message.from != me && !target.is_admin(me) {
                return Err(403);
            }
            state.delete(room, id)?;
            Reply::empty(204)
        }
        ("GET", [id, "thread"]) => {
            let wanted = Page { parent: Some((*id).to_owned()), ..wanted(req)? };
            let views = views(state, room, &wanted, me)?;
            Reply::json(&json!(views))
        }
        ("GET", [id, "readBy"]) => {
            let message = state.room(room)?.message(checked_id(id, 500)?).ok_or(500_u16)?;
            let readers: Vec<_> = message.read_by.iter().map(|u| state.user_view(u)).collect();
            Reply::json(&json!(readers))
        }
        _ => return Ok(None),
    }))
}

fn post(state: &mut State, req: &Req, room: &str, caller: &Caller<'_>) -> Outcome<Message> {
    let new = NewMessage {
        text: req.body.get("text").map(js_text).unwrap_or_default(),
        status: req.body.get("status").and_then(Value::as_bool),
        parent: req.body.get("parentId").filter(|p| !p.is_null()).map(js_text),
        virtual_user: req.body.get("virtualUser").cloned(),
        elsewhere: false,
    };
    if let Some(virtual_user) = &new.virtual_user {
        let approved = state.clients.get(caller.client).is_some_and(|c| c.bridge);
        if !approved || !state.room(room)?.public {
            return Err(403);
        }
        let complete =
            ["type", "externalId", "displayName"].iter().all(|k| virtual_user[k].is_string());
        if !complete {
            return Err(400);
        }
    }
    state.post(room, caller.user, new)
}

/// Limits as Gitter reads them: garbage and 0 become 50, more than 100 becomes 100.
fn wanted(req: &Req) -> Outcome<Page> {
    let limit = match req.number("limit") {
        None | Some(0) => DEFAULT_LIMIT,
        // A negative limit is handed to the database, which takes its size.
        Some(n) => n.saturating_abs().min(MAX_LIMIT),
    };
    let skip = req.number("skip").unwrap_or(0).max(0);
    if skip > MAX_SKIP {
        return Err(400);
    }
    let marker = |name: &str| req.query(name).map(str::to_owned);
    Ok(Page {
        limit: usize::try_from(limit).unwrap_or(50),
        skip: usize::try_from(skip).unwrap_or(0),
        before: marker("beforeId"),
        after: marker("afterId"),
        around: marker("aroundId"),
        threads: matches!(req.query("includeThreads"), Some("true" | "1")),
        parent: None,
    })
}

fn views(state: &State, room: &str, wanted: &Page, me: &str) -> Outcome<Vec<Value>> {
    let (found, initial) = page(state.room(room)?, wanted)?;
    let view = |message: &&Message| {
        let mut view = state.message_view(message, Some((me, room)));
        if initial.as_ref() == Some(&message.id) {
            view["initial"] = json!(true);
        }
        view
    };
    Ok(found.iter().map(view).collect())
}

fn list(state: &State, req: &Req, room: &str, me: &str) -> Outcome<Reply> {
    let mut wanted = wanted(req)?;
    if req.query("marker") == Some("first-unread") {
        wanted.around = state.room(room)?.unread_of(me).first().cloned();
    }
    let views = match req.query("q") {
        Some(q) if !q.is_empty() => search(state, room, &wanted, q, me)?,
        _ => views(state, room, &wanted, me)?,
    };
    if req.query("lookups") == Some("user") {
        let mut users = serde_json::Map::new();
        let items: Vec<_> = views
            .into_iter()
            .map(|mut view| {
                let author = view["fromUser"].take();
                view["fromUser"] = author["id"].clone();
                users.insert(author["id"].as_str().unwrap_or_default().into(), author);
                view
            })
            .collect();
        return Ok(Reply::json(&json!({"items": items, "lookups": {"users": users}})));
    }
    if matches!(req.query("lean"), Some("true" | "1")) {
        let lean = views.into_iter().map(|view| {
            let author = state.lean_user_view(view["fromUser"]["id"].as_str().unwrap_or_default());
            lean_message(view, author)
        });
        return Ok(Reply::json(&lean.collect()));
    }
    Ok(Reply::json(&json!(views)))
}

/// Newest first; what a search finds and how it ranks is not Gitter's.
fn search(state: &State, room: &str, wanted: &Page, q: &str, me: &str) -> Outcome<Vec<Value>> {
    let q = q.to_lowercase();
    let target = state.room(room)?;
    let hits = target.messages.iter().rev().filter(|m| m.text.to_lowercase().contains(&q));
    Ok(hits
        .skip(wanted.skip)
        .take(wanted.limit)
        .map(|m| state.message_view(m, Some((me, room))))
        .collect())
}

//! The REST API: `/v1` and, as on the web host, `/api/v1`.
//!
//! Order of checks as Gitter makes them: chunked body, body size and syntax (both before this
//! module), known path, token, rate limit, route.

mod members;
mod messages;
mod rooms;
mod users;

use serde_json::Value;

use crate::http::{Reply, Req};
use crate::ids::is_object_id;
use crate::model::{Grant, Outcome};
use crate::state::State;

/// First parts of paths that exist; anything else is 404 before the token is looked at.
const KNOWN: [&str; 8] =
    ["user", "rooms", "users", "groups", "oauth-clients", "eyeballs", "orgs", "sockets"];

/// Who asks.
pub(crate) struct Caller<'a> {
    pub(crate) user: &'a str,
    pub(crate) client: &'a str,
}

/// Answers a REST request whose path after the mount is `parts`; also says whose token it was.
pub(crate) fn answer(state: &mut State, req: &Req, parts: &[&str]) -> (Reply, Option<String>) {
    let now = state.now();
    let known = parts.first().is_some_and(|first| KNOWN.contains(first));
    if req.method == "OPTIONS" {
        return (preflight(req), None);
    }
    if !known {
        return (no_route(req, now), None);
    }
    let grant = match authenticate(state, req) {
        Ok(grant) => grant,
        Err(status) => return (Reply::error(status, now), None),
    };
    let who = Some(state.username(&grant.user));
    let quota = state.limits.take(&grant.user, &grant.client, now);
    if quota.exceeded {
        return (Reply::error(429, now).with_quota(&quota), who);
    }
    let caller = Caller { user: &grant.user, client: &grant.client };
    let reply = match route(state, req, parts, &caller) {
        Ok(Some(reply)) => reply,
        Ok(None) => no_route(req, now),
        Err(status) => Reply::error(status, now),
    };
    (with_etag(req, reply).with_quota(&quota), who)
}

fn route(
    state: &mut State,
    req: &Req,
    parts: &[&str],
    caller: &Caller<'_>,
) -> Outcome<Option<Reply>> {
    match parts {
        ["user", rest @ ..] => users::route(state, req, rest, caller),
        ["users", name] if req.method == "GET" => users::profile(state, name).map(Some),
        ["groups", rest @ ..] => rooms::groups(state, req, rest, caller),
        ["rooms", rest @ ..] => rooms::route(state, req, rest, caller),
        ["oauth-clients", key] if req.method == "DELETE" => {
            state.delete_client(key);
            Ok(Some(Reply::new(200, "text/html; charset=utf-8", "OK")))
        }
        ["eyeballs"] if req.method == "POST" => Ok(Some(Reply::success())),
        _ => Ok(None),
    }
}

fn no_route(req: &Req, now: i64) -> Reply {
    if req.method == "GET" { Reply::error(404, now) } else { Reply::cannot(&req.method, &req.path) }
}

fn preflight(req: &Req) -> Reply {
    Reply::empty(204)
        .with_header("access-control-allow-origin", req.header("origin").unwrap_or("*"))
        .with_header("vary", "Origin")
        .with_header("access-control-allow-methods", "GET,POST,PUT,DELETE,PATCH")
        .with_header(
            "access-control-allow-headers",
            "content-type,x-access-token,authorization,accept",
        )
        .with_header("access-control-max-age", "600")
}

fn with_etag(req: &Req, reply: Reply) -> Reply {
    if req.method != "GET" || reply.status != 200 {
        return reply;
    }
    let etag = reply.etag();
    let reply =
        if req.header("if-none-match") == Some(etag.as_str()) { Reply::empty(304) } else { reply };
    reply.with_header("etag", etag)
}

/// The token from header, `x-access-token` or query; two different ones are a bad request.
fn authenticate(state: &State, req: &Req) -> Outcome<Grant> {
    let mut tokens: Vec<&str> = Vec::new();
    if let Some(header) = req.header("authorization") {
        let header = header.split(',').next().unwrap_or_default();
        let parts: Vec<_> = header.split(' ').filter(|p| !p.is_empty()).collect();
        let [scheme, token] = parts[..] else { return Err(400) };
        if scheme.eq_ignore_ascii_case("bearer") {
            tokens.push(token);
        }
    }
    tokens.extend(req.header("x-access-token"));
    tokens.extend(req.query("access_token"));
    tokens.dedup();
    match tokens[..] {
        [] => Err(401),
        [token] => state.grant_of(token).cloned().ok_or(401),
        _ => Err(400),
    }
}

/// Whether an id has the form of one, or the status Gitter gives where it checks.
pub(crate) fn checked_id(id: &str, otherwise: u16) -> Outcome<&str> {
    if is_object_id(id) { Ok(id) } else { Err(otherwise) }
}

/// The room guard of `/rooms/:id/..`: form, existence, then read or write access.
pub(crate) fn guard(state: &State, req: &Req, id: &str, user: &str) -> Outcome<()> {
    let room = state.room(checked_id(id, 400)?)?;
    let allowed =
        if req.method == "GET" { room.can_read(user) } else { state.can_write(room, user) };
    if allowed { Ok(()) } else { Err(403) }
}

/// A JSON value as text, the way JavaScript joins it to a string.
pub(crate) fn js_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(js_text).collect::<Vec<_>>().join(","),
        Value::Object(_) => "[object Object]".into(),
        other => other.to_string(),
    }
}

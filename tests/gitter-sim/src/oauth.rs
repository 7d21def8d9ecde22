//! Signing in and the `OAuth` 2 authorization code grant, as on the web host.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::json;

use crate::http::{Reply, Req, encode};
use crate::markdown::escape;
use crate::model::{Code, Grant, Session, Transaction};
use crate::page::document;
use crate::state::State;

const COOKIE: &str = "g_session";

/// Answers `/login/..`; also says who was signed in.
pub(crate) fn answer(state: &mut State, req: &Req, parts: &[&str]) -> (Reply, Option<String>) {
    let user = session_user(state, req);
    let who = user.as_ref().map(|u| state.username(u));
    let reply = match (req.method.as_str(), parts) {
        ("GET", ["login"] | ["login", "github" | "gitlab" | "twitter" | "google" | "linkedin"]) => {
            login_page(state, req)
        }
        ("POST", ["login"]) => log_in(state, req),
        ("GET", ["login", "oauth", "authorize"]) => authorize(state, req, user),
        ("POST", ["login", "oauth", "authorize", "decision"]) => decide(state, req, user),
        ("POST", ["login", "oauth", "token"]) => token(state, req),
        ("GET", _) => Reply::error(404, 0),
        _ => Reply::cannot(&req.method, &req.path),
    };
    (reply, who)
}

/// Makes room for one more: what visitors leave behind must not grow for ever.
fn bound<T>(map: &mut BTreeMap<String, T>) {
    if map.len() >= 10_000 {
        map.pop_first();
    }
}

fn session_user(state: &State, req: &Req) -> Option<String> {
    let session = state.sessions.get(req.cookie(COOKIE)?)?;
    session.user.clone().filter(|u| state.users.get(u).is_some_and(|u| !u.removed))
}

fn set_cookie(reply: Reply, session: &str) -> Reply {
    reply.with_header("set-cookie", format!("{COOKIE}={session}; Path=/; HttpOnly; SameSite=Lax"))
}

/// Only paths of this server: a login must not send people elsewhere.
fn local_path(path: &str) -> Option<&str> {
    (path.starts_with('/') && !path.starts_with("//")).then_some(path)
}

fn login_page(state: &State, req: &Req) -> Reply {
    let stored = req.cookie(COOKIE).and_then(|c| state.sessions.get(c)?.return_to.clone());
    let next = req.query("next").map(str::to_owned).or(stored).unwrap_or_else(|| "/".into());
    let next = escape(&next);
    let mut body = String::from("<h1>Sign in to Gitter</h1><p>Who are you?</p>");
    for user in state.users.values().filter(|u| !u.removed) {
        let _ = write!(
            body,
            "<form method=\"post\" action=\"/login\">\
             <input type=\"hidden\" name=\"next\" value=\"{next}\">\
             <button name=\"user\" value=\"{0}\">{0} <small>{1}</small></button></form>",
            escape(&user.username),
            escape(&user.display_name)
        );
    }
    Reply::html(200, document("Sign in to Gitter", &body))
}

fn log_in(state: &mut State, req: &Req) -> Reply {
    let Some(user) = req.field("user").and_then(|u| state.find_user(u)).map(|u| u.id.clone())
    else {
        return Reply::html(400, document("Sign in to Gitter", "<p>No such user.</p>"));
    };
    let id = match req.cookie(COOKIE).filter(|c| state.sessions.contains_key(*c)) {
        Some(known) => known.to_owned(),
        None => state.ids.base36(32),
    };
    let session = state.sessions.entry(id.clone()).or_default();
    session.user = Some(user);
    let stored = session.return_to.take();
    let next = req.field("next").filter(|n| !n.is_empty()).map(str::to_owned).or(stored);
    let next = next.as_deref().and_then(local_path).unwrap_or("/");
    set_cookie(Reply::redirect(next), &id)
}

fn to_login(state: &mut State, req: &Req) -> Reply {
    let id = state.ids.base36(32);
    let query: Vec<_> =
        req.query.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
    let return_to = Some(format!("{}?{}", req.path, query.join("&")));
    bound(&mut state.sessions);
    state.sessions.insert(id.clone(), Session { user: None, return_to });
    let provider = match req.query("auth_provider") {
        Some(p @ ("github" | "gitlab" | "twitter" | "google" | "linkedin")) => format!("/{p}"),
        _ => String::new(),
    };
    set_cookie(Reply::redirect(&format!("/login{provider}")), &id)
}

/// Errors are a page with 401, never a redirect to the client.
fn failed(message: &str) -> Reply {
    let body = format!(
        "<h1>OAuth failed</h1><p>{}</p><p>If you can't resolve this issue, please contact \
         support.</p>",
        escape(message)
    );
    Reply::html(401, document("Gitter OAuth Failed", &body))
}

fn authorize(state: &mut State, req: &Req, user: Option<String>) -> Reply {
    let Some(user) = user else { return to_login(state, req) };
    match req.query("response_type") {
        None => return failed("Missing required parameter: response_type"),
        Some("code") => {}
        Some(other) => return failed(&format!("Unsupported response type: {other}")),
    }
    let Some(key) = req.query("client_id") else {
        return failed("Missing required parameter: client_id");
    };
    let Some(client) = state.clients.get(key) else {
        return failed("Provided clientKey does not exist.");
    };
    if req.query("redirect_uri") != Some(client.redirect_uri.as_str()) {
        return failed(
            "Provided redirectUri does not match registered URI for client_id/clientKey",
        );
    }
    let transaction = Transaction {
        grant: Grant { user, client: key.into() },
        redirect_uri: client.redirect_uri.clone(),
        state: req.query("state").map(str::to_owned),
    };
    if client.trusted {
        return grant_code(state, transaction);
    }
    let id = state.ids.base36(8);
    let body = format!(
        "<h1>Authorize <em>{}</em></h1><p>It wants to use Gitter as <b>{}</b>.</p>\
         <form action=\"/login/oauth/authorize/decision\" method=\"post\">\
         <input name=\"transaction_id\" type=\"hidden\" value=\"{id}\">\
         <input type=\"submit\" value=\"Allow\" id=\"allow\">\
         <input type=\"submit\" value=\"Deny\" name=\"cancel\" id=\"deny\"></form>",
        escape(key),
        escape(&state.username(&transaction.grant.user))
    );
    bound(&mut state.transactions);
    state.transactions.insert(id, transaction);
    Reply::html(200, document("Gitter Apps", &body))
}

fn back_to_client(transaction: &Transaction, query: &str) -> Reply {
    let uri = &transaction.redirect_uri;
    let joint = if uri.contains('?') { '&' } else { '?' };
    let state =
        transaction.state.as_ref().map_or_else(String::new, |s| format!("&state={}", encode(s)));
    Reply::redirect(&format!("{uri}{joint}{query}{state}"))
}

fn grant_code(state: &mut State, transaction: Transaction) -> Reply {
    let code = state.ids.secret();
    let reply = back_to_client(&transaction, &format!("code={code}"));
    let redirect_uri = transaction.redirect_uri;
    bound(&mut state.codes);
    state.codes.insert(code, Code { grant: transaction.grant, redirect_uri });
    reply
}

fn decide(state: &mut State, req: &Req, user: Option<String>) -> Reply {
    let Some(user) = user else {
        if req.accepts_json() {
            return Reply::json_with(401, &json!({"success": false, "loginRequired": true}));
        }
        return to_login(state, req);
    };
    let Some(id) = req.field("transaction_id") else {
        return Reply::html(400, document("Gitter – Bad Request", "<h1>Bad Request</h1>"));
    };
    let transaction = state.transactions.get(id).filter(|t| t.grant.user == user).cloned();
    let Some(transaction) = transaction else {
        return Reply::html(403, document("Gitter – Forbidden", "<h1>Forbidden</h1>"));
    };
    state.transactions.remove(id);
    if req.body.get("cancel").is_some() {
        return back_to_client(&transaction, "error=access_denied");
    }
    grant_code(state, transaction)
}

/// Always JSON. A failed exchange leaves the code good, a successful one burns it.
fn token(state: &mut State, req: &Req) -> Reply {
    let error = |status: u16, error: &str, description: &str| {
        Reply::json_with(status, &json!({"error": error, "error_description": description}))
    };
    let key = req.field("client_id").unwrap_or_default();
    let client = state.clients.get(key);
    if client.is_none_or(|c| Some(c.secret.as_str()) != req.field("client_secret")) {
        return error(401, "server_error", "Unauthorized");
    }
    match req.field("grant_type") {
        Some("authorization_code") => {}
        other => {
            let other = other.unwrap_or("undefined");
            let description = format!("Unsupported grant type: {other}");
            return error(501, "unsupported_grant_type", &description);
        }
    }
    let Some(code) = req.field("code") else {
        return error(400, "invalid_request", "Missing required parameter: code");
    };
    let good = state.codes.get(code).filter(|c| {
        c.grant.client == key && Some(c.redirect_uri.as_str()) == req.field("redirect_uri")
    });
    let Some(grant) = good.map(|c| c.grant.clone()) else {
        return error(403, "invalid_grant", "Invalid authorization code");
    };
    state.codes.remove(code);
    let token = state.token_for(&grant.user, &grant.client);
    Reply::json(&json!({"access_token": token, "token_type": "Bearer"}))
        .with_header("cache-control", "no-store")
        .with_header("pragma", "no-cache")
}

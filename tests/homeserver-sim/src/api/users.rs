//! Users, devices, profiles, files, and what the homeserver is.

use axum::http::header;
use serde_json::{Value, json};

use super::{Caller, Result, unrecognized};
use crate::http::{Reply, Req};
use crate::refusal::Refusal;
use crate::room::NEWEST;
use crate::state::{File, State};

pub(super) const UPLOAD_MAX: usize = 50 << 20;

pub(super) fn versions() -> Reply {
    let old = ["r0.0.1", "r0.1.0", "r0.2.0", "r0.3.0", "r0.4.0", "r0.5.0", "r0.6.0", "r0.6.1"];
    let new = (1..=15).map(|minor| format!("v1.{minor}"));
    let versions: Vec<String> = old.map(str::to_owned).into_iter().chain(new).collect();
    Reply::ok(&json!({"versions": versions, "unstable_features": {}}))
}

pub(super) fn answer(
    state: &mut State,
    req: &Req,
    caller: &Caller,
    parts: &[&str],
) -> Result<Reply> {
    let nothing = || Reply::ok(&json!({}));
    match (req.method.as_str(), parts) {
        ("GET", ["account", "whoami"]) => {
            let mut answer = json!({"user_id": caller.user, "is_guest": false});
            if let Some(device) = &caller.device {
                answer["device_id"] = json!(device);
            }
            Ok(Reply::ok(&answer))
        }
        ("GET", ["capabilities"]) => {
            let available = (1..=NEWEST).map(|v| (v.to_string(), json!("stable")));
            let available: serde_json::Map<String, Value> = available.collect();
            let versions =
                json!({"default": state.cfg.room_version.to_string(), "available": available});
            Ok(Reply::ok(&json!({"capabilities": {"m.room_versions": versions}})))
        }
        ("POST", ["register"]) => register(state, req, caller),
        ("PUT", ["devices", device]) => {
            req.json()?;
            let devices = &mut state.users.entry(caller.user.clone()).or_default().devices;
            let status = if devices.insert((*device).to_owned()) { 201 } else { 200 };
            Ok(Reply::json(status, &json!({})))
        }
        ("GET", ["profile", user]) => {
            let profile = state.profile(user);
            let known = state.users.get(*user).is_some_and(|known| known.registered);
            if profile.is_empty() && !known {
                return Err(Refusal::new(404, "M_UNKNOWN", "No row found (profiles)"));
            }
            Ok(Reply::ok(&json!(profile)))
        }
        ("PUT", ["profile", user, field]) => {
            let body = req.json()?;
            if *user != caller.user {
                return Err({
                    let words = format!("Cannot set another user's {field}");
                    Refusal::new(400, "M_FORBIDDEN", words)
                });
            }
            let value = body[*field].as_str().ok_or_else(|| {
                Refusal::new(400, "M_MISSING_PARAM", format!("Missing params: ['{field}']"))
            })?;
            state.set_profile(user, field, value)?;
            Ok(nothing())
        }
        ("PUT", ["user", user, "account_data", ..]) => {
            req.json()?;
            if *user != caller.user {
                return Err(Refusal::forbidden("Cannot add account data for other users."));
            }
            Ok(nothing())
        }
        _ => Err(unrecognized()),
    }
}

fn register(state: &mut State, req: &Req, caller: &Caller) -> Result<Reply> {
    let body = req.json()?;
    if !caller.appservice || body["type"] != "m.login.application_service" {
        return Err(Refusal::forbidden("Registration has been disabled"));
    }
    let name = body["username"]
        .as_str()
        .ok_or_else(|| Refusal::new(400, "M_MISSING_PARAM", "Missing params: ['username']"))?;
    let user = format!("@{name}:{}", state.cfg.domain);
    if !state.owns(&user) {
        let words = "Invalid user localpart for this application service.";
        return Err(Refusal::new(400, "M_EXCLUSIVE", words));
    }
    state.register(&user)?;
    let mut answer = json!({"user_id": user, "home_server": state.cfg.domain});
    if body["inhibit_login"] != true {
        let device = state.ids.letters(10).to_uppercase();
        state.users.entry(user).or_default().devices.insert(device.clone());
        answer["device_id"] = json!(device);
        answer["access_token"] = json!(state.ids.letters(40));
    }
    Ok(Reply::ok(&answer))
}

pub(super) fn upload(state: &mut State, req: &Req) -> Result<Reply> {
    if req.bytes.len() > UPLOAD_MAX {
        return Err(Refusal::new(413, "M_TOO_LARGE", "Upload request body is too large"));
    }
    if req.bytes.is_empty() {
        return Err(Refusal::new(400, "M_UNKNOWN", "Request must specify a Content-Length"));
    }
    let content_type = req.header(header::CONTENT_TYPE).unwrap_or("application/octet-stream");
    let file = File {
        content_type: content_type.to_owned(),
        name: req.query("filename").map(str::to_owned),
        bytes: req.bytes.to_vec(),
    };
    let id = state.ids.letters(24);
    let uri = format!("mxc://{}/{id}", state.cfg.domain);
    state.media.insert(id, file);
    Ok(Reply::ok(&json!({"content_uri": uri})))
}

/// A file, or the part of it that `Range: bytes=a-b` asks for; Synapse itself knows no ranges and always gives all.
pub(super) fn download(state: &State, req: &Req, server: &str, id: &str) -> Result<Reply> {
    let file = state.media.get(id).filter(|_| server == state.cfg.domain);
    let file = file.ok_or_else(|| Refusal::not_found(format!("Not found '{}'", req.path)))?;
    let disposition = match &file.name {
        Some(name) => format!("inline; filename={name}"),
        None => "inline".to_owned(),
    };
    let headers = vec![
        (header::CONTENT_TYPE, file.content_type.clone()),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CONTENT_LENGTH, file.bytes.len().to_string()),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none';".to_owned()),
        (header::ETAG, "1".to_owned()),
    ];
    Ok(Reply { status: 200, headers, body: file.bytes.clone().into() })
}

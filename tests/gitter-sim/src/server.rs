//! Reads requests, applies faults, and hands them to REST, `OAuth`, page or Faye.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State as AxumState};
use axum::http::{HeaderMap, Response, header};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::fault::{Call, Fault, route_of};
use crate::http::{Reply, Req, decode, parse_form};
use crate::state::State;
use crate::wire::{Conn, Wire};
use crate::{World, control, faye, oauth, page, rest};

/// Gitter's parser limit.
const BODY_LIMIT: usize = 102_400;
/// What is read of a body that is refused, so that the refusal arrives.
const DRAIN_LIMIT: usize = 16 << 20;
/// How long an answer waits when the echo is to be first.
const ECHO_LEAD: Duration = Duration::from_millis(150);

pub(crate) async fn run(wire: Wire, world: World, stop: CancellationToken) {
    let router = Router::new().fallback(handle).with_state(world);
    let service = router.into_make_service_with_connect_info::<Conn>();
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        _ = axum::serve(wire, service) => {}
    }
}

pub(crate) async fn handle(
    AxumState(world): AxumState<World>,
    ConnectInfo(conn): ConnectInfo<Conn>,
    request: Request,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if faye::is_mount(&path) {
        let fault = world.lock().faults.take(request.method().as_str(), &path);
        if let Some(fault) = fault.filter(|f| !f.has_effect()) {
            return fail(fault, &conn, None, 0).await;
        }
        return faye::serve(world, conn, request).await;
    }
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, DRAIN_LIMIT).await;
    let req = Req {
        method: method(&parts.method, &parts.headers),
        path,
        query: parse_form(parts.uri.query().unwrap_or_default()),
        body: Value::Null,
        headers: parts.headers,
    };
    // The page and its API are the tester's own.
    let is_api =
        !["/", "/favicon.ico"].contains(&req.path.as_str()) && !req.path.starts_with("/sim/");
    let fault = if is_api { world.lock().faults.take(&req.method, &req.path) } else { None };
    if let Some(fault) = fault.filter(|f| !f.has_effect()) {
        let status = match fault {
            Fault::Status(status) => status,
            Fault::Html502 => 502,
            _ => 0,
        };
        let now = record(&world, &req, None, status);
        return fail(fault, &conn, Some(&req), now).await;
    }
    let (reply, user) = match bytes.as_ref().map(|b| with_body(req, b)) {
        Ok(Ok(req)) => {
            let (reply, user) = dispatch(&mut world.lock(), &req);
            let lost = matches!(fault, Some(Fault::DropAfterEffect | Fault::HangAfterEffect));
            if is_api {
                record(&world, &req, user.as_deref(), if lost { 0 } else { reply.status });
            }
            (cors(&req, reply), req.method == "POST")
        }
        Ok(Err(status)) => (Reply::error(status, 0), false),
        Err(_) => (Reply::error(413, 0), false),
    };
    if user && world.lock().echo_before_answer {
        tokio::time::sleep(ECHO_LEAD).await;
    }
    match fault {
        Some(Fault::DropAfterEffect) => conn.cut.cancel(),
        Some(Fault::HangAfterEffect) => conn.cut.cancelled().await,
        Some(Fault::EmptyBody) => return Reply::empty(200).into_response(),
        Some(Fault::SlowMs(ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
        _ => {}
    }
    reply.into_response()
}

/// Fails without effect. A cut connection cannot carry the answer that is returned.
async fn fail(fault: Fault, conn: &Conn, req: Option<&Req>, now: i64) -> Response<Body> {
    match fault {
        Fault::Status(status) => {
            let reply = Reply::error(status, now);
            let limited = req.is_some() && status == 429;
            let reply = if limited {
                reply
                    .with_header("x-ratelimit-limit", "100")
                    .with_header("x-ratelimit-remaining", "0")
                    .with_header("x-ratelimit-reset", (now + 1000).to_string())
            } else {
                reply
            };
            return reply.into_response();
        }
        Fault::Html502 => {
            let body = "<html>\n<head><title>502 Bad Gateway</title></head>\n<body>\n\
                        <center><h1>502 Bad Gateway</h1></center>\n</body>\n</html>\n";
            return Reply::html(502, body).into_response();
        }
        Fault::Hang => conn.cut.cancelled().await,
        _ => conn.cut.cancel(),
    }
    Reply::empty(500).into_response()
}

fn record(world: &World, req: &Req, user: Option<&str>, status: u16) -> i64 {
    let mut state = world.lock();
    let at_ms = state.now();
    tracing::debug!(method = req.method, path = req.path, user, status, "answered");
    state.faults.record(Call {
        at_ms,
        method: req.method.clone(),
        route: route_of(&req.path),
        path: req.path.clone(),
        user: user.map(str::to_owned),
        status,
    });
    at_ms
}

fn method(method: &axum::http::Method, headers: &HeaderMap) -> String {
    let override_ = headers.get("x-http-method-override").and_then(|v| v.to_str().ok());
    match override_ {
        Some(other) if method == axum::http::Method::POST => other.to_ascii_uppercase(),
        _ => method.as_str().to_owned(),
    }
}

/// Parses the body; chunked, long and malformed ones have their status.
fn with_body(mut req: Req, bytes: &[u8]) -> Result<Req, u16> {
    if req.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(406);
    }
    if bytes.len() > BODY_LIMIT {
        return Err(413);
    }
    let content_type = req.header("content-type").unwrap_or_default().to_owned();
    req.body = if bytes.is_empty() {
        json!({})
    } else if content_type.contains("json") {
        serde_json::from_slice(bytes)
            .ok()
            .filter(|v: &Value| v.is_object() || v.is_array())
            .ok_or(400_u16)?
    } else if content_type.contains("x-www-form-urlencoded") {
        json!(parse_form(&String::from_utf8_lossy(bytes)))
    } else {
        json!({})
    };
    Ok(req)
}

fn dispatch(state: &mut State, req: &Req) -> (Reply, Option<String>) {
    let parts: Vec<String> =
        req.path.split('/').filter(|p| !p.is_empty()).map(|p| decode(p, false)).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    // HEAD is GET without the body, which the server leaves out.
    let as_get = (req.method == "HEAD").then(|| Req {
        method: "GET".into(),
        path: req.path.clone(),
        query: req.query.clone(),
        headers: req.headers.clone(),
        body: json!({}),
    });
    let req = as_get.as_ref().unwrap_or(req);
    match parts[..] {
        ["v1" | "api", ..] if parts.first() == Some(&"v1") => rest::answer(state, req, &parts[1..]),
        ["api", "v1", ..] => rest::answer(state, req, &parts[2..]),
        ["login", ..] => oauth::answer(state, req, &parts),
        ["sim", ..] => (control::answer(state, req, &parts[1..]), None),
        ["files", ..] => {
            (state.files.get(&req.path).cloned().unwrap_or_else(|| Reply::error(404, 0)), None)
        }
        ["api", "private", "avatars", ..] => (page::avatar(&req.path), None),
        ["api", "private", "health_check"] => (Reply::new(200, "text/plain", "OK"), None),
        [] => (page::page(), None),
        ["favicon.ico"] => (Reply::empty(204), None),
        _ => (Reply::error(404, 0), None),
    }
}

fn cors(req: &Req, reply: Reply) -> Reply {
    let reply = reply.with_header(
        "access-control-expose-headers",
        "X-RateLimit-Limit,X-RateLimit-Remaining,X-RateLimit-Reset",
    );
    match req.header("origin") {
        Some(origin) if req.method != "OPTIONS" => {
            reply.with_header("access-control-allow-origin", origin)
        }
        _ => reply,
    }
}

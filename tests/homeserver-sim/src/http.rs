//! Takes requests, applies faults and delays, and has them answered.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State as AxumState};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};

use crate::World;
use crate::api;
use crate::fault::{Call, Fault, route_of};
use crate::push;
use crate::refusal::Refusal;

/// Synapse's limit for uploads is 50 MiB by default; other bodies are smaller.
const BODY_MAX: usize = 64 << 20;
const HTML: &str = "<html>\n<head><title>502 Bad Gateway</title></head>\n<body>\n\
                    <center><h1>502 Bad Gateway</h1></center>\n</body>\n</html>\n";

/// Marks a response that stands for none: the connection was lost, or nobody listens.
///
/// It is among the response's extensions; whoever carries requests to the router turns such a response into an error of
/// transport. [`Lost::never_arrived`] tells whether the homeserver got the request at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// There was no connection: certainly nothing was done.
    pub never_arrived: bool,
}

impl Lost {
    /// Whether, and how, a response of the router is none.
    #[must_use]
    pub fn of<B>(response: &Response<B>) -> Option<Self> {
        response.extensions().get().copied()
    }

    fn response(never_arrived: bool) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response.extensions_mut().insert(Self { never_arrived });
        response
    }
}

/// A request, taken apart.
#[derive(Debug)]
pub(crate) struct Req {
    pub(crate) method: String,
    /// Undecoded, without the query.
    pub(crate) path: String,
    /// Decoded.
    pub(crate) parts: Vec<String>,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Req {
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body, which must be a JSON object.
    pub(crate) fn json(&self) -> Result<Value, Refusal> {
        serde_json::from_slice(&self.bytes)
            .ok()
            .filter(Value::is_object)
            .ok_or_else(|| Refusal::new(400, "M_NOT_JSON", "Content not JSON."))
    }

    /// The body, which may also be empty.
    pub(crate) fn json_or_nothing(&self) -> Result<Value, Refusal> {
        if self.bytes.is_empty() { Ok(json!({})) } else { self.json() }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(HeaderName, String)>,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(status: u16, value: &Value) -> Self {
        let headers = vec![(header::CONTENT_TYPE, "application/json".to_owned())];
        Self { status, headers, body: value.to_string().into() }
    }

    pub(crate) fn ok(value: &Value) -> Self {
        Self::json(200, value)
    }

    fn limited(wait_ms: Option<u64>) -> Self {
        let mut body = json!({"errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests"});
        let Some(ms) = wait_ms else { return Self::json(429, &body) };
        body["retry_after_ms"] = json!(ms);
        let mut reply = Self::json(429, &body);
        reply.headers.push((header::RETRY_AFTER, ms.div_ceil(1000).to_string()));
        reply
    }

    fn html502() -> Self {
        let headers = vec![(header::CONTENT_TYPE, "text/html".to_owned())];
        Self { status: 502, headers, body: Bytes::from_static(HTML.as_bytes()) }
    }
}

impl From<Result<Reply, Refusal>> for Reply {
    fn from(result: Result<Reply, Refusal>) -> Self {
        result.unwrap_or_else(|refusal| Self::json(refusal.status, &refusal.body()))
    }
}

impl From<Reply> for Response {
    fn from(reply: Reply) -> Self {
        let mut response = Response::new(Body::from(reply.body));
        *response.status_mut() =
            StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        for (name, value) in reply.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

pub(crate) fn router(world: World) -> Router {
    Router::new().fallback(handle).with_state(world)
}

async fn handle(AxumState(world): AxumState<World>, request: Request) -> Response {
    let Some(run) = world.run_token() else { return Lost::response(true) };
    tokio::select! {
        biased;
        () = run.cancelled() => Lost::response(false),
        response = serve(&world, request) => response,
    }
}

async fn serve(world: &World, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, BODY_MAX).await else {
        return Lost::response(false);
    };
    let path = parts.uri.path().to_owned();
    let req = Req {
        method: parts.method.as_str().to_owned(),
        parts: path.split('/').skip(1).map(|part| decode(part, false)).collect(),
        path,
        query: parse_query(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        bytes,
    };
    let route = route_of(&req.parts);
    let (fault, before, after) = {
        let mut state = world.lock();
        let range = state.cfg.latency_ms.clone();
        let fault = state.faults.take(&req.method, &route);
        (fault, state.ids.delay(&range) / 2, state.ids.delay(&range) / 2)
    };
    sleep(before).await;
    if let Some(fault) = fault.filter(|fault| !fault.has_effect()) {
        return fail(world, &req, route, fault).await;
    }
    let answer = api::answer(&mut world.lock(), &req);
    let (reply, user) = match answer {
        api::Answer::Given(reply, user) => (reply, user),
        api::Answer::Ping(txn, user) => (push::ping(world, txn).await, Some(user)),
    };
    let lost = matches!(fault, Some(Fault::DropAfterEffect | Fault::HangAfterEffect));
    record(world, &req, route, user, if lost { 0 } else { reply.status });
    sleep(after).await;
    match fault {
        Some(Fault::DropAfterEffect) => return Lost::response(false),
        Some(Fault::HangAfterEffect) => std::future::pending().await,
        Some(Fault::Html502AfterEffect) => return Reply::html502().into(),
        Some(Fault::SlowMs(ms)) => sleep(ms).await,
        _ => {}
    }
    reply.into()
}

/// Fails without effect.
async fn fail(world: &World, req: &Req, route: String, fault: Fault) -> Response {
    let reply = match fault {
        Fault::Limited(wait_ms) => Some(Reply::limited(wait_ms)),
        Fault::Html502 => Some(Reply::html502()),
        Fault::Status(status) => {
            let body = json!({"errcode": "M_UNKNOWN", "error": "Internal server error"});
            Some(Reply::json(status, &body))
        }
        _ => None,
    };
    record(world, req, route, None, reply.as_ref().map_or(0, |reply| reply.status));
    match reply {
        Some(reply) => reply.into(),
        None if fault == Fault::Hang => std::future::pending().await,
        None => Lost::response(false),
    }
}

fn record(world: &World, req: &Req, route: String, user: Option<String>, status: u16) {
    let mut state = world.lock();
    let at_ms = state.now();
    tracing::trace!(method = req.method, path = req.path, user, status, "answered");
    let (method, path) = (req.method.clone(), req.path.clone());
    state.faults.record(Call { at_ms, method, route, path, user, status });
}

async fn sleep(ms: u64) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// `a=b&c=d`; the first of equal names wins.
fn parse_query(text: &str) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        map.entry(decode(name, true)).or_insert_with(|| decode(value, true));
    }
    map
}

fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) if plus => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-encodes all but the unreserved characters.
pub(crate) fn encode(text: &str) -> String {
    let encoded = text.bytes().map(|byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    });
    encoded.collect()
}

//! Requests and answers, independent of the server that carries them.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::limits::Quota;

/// A request read to its end.
#[derive(Debug)]
pub(crate) struct Req {
    /// After `X-HTTP-Method-Override`.
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: HeaderMap,
    /// JSON body, or a form as an object of strings; `{}` for anything else.
    pub(crate) body: Value,
}

impl Req {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// A body field that must be text.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.body.get(name)?.as_str()
    }

    pub(crate) fn accepts_json(&self) -> bool {
        self.header("accept").is_some_and(|a| a.contains("json"))
    }

    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.query(name)?.parse().ok()
    }

    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        let all = self.header("cookie")?;
        all.split(';').find_map(|c| c.trim().strip_prefix(name)?.strip_prefix('='))
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn json(value: &Value) -> Self {
        Self::json_with(200, value)
    }

    pub(crate) fn json_with(status: u16, value: &Value) -> Self {
        Self::new(status, "application/json; charset=utf-8", value.to_string())
    }

    pub(crate) fn html(status: u16, body: impl Into<String>) -> Self {
        Self::new(status, "text/html; charset=utf-8", body.into())
    }

    pub(crate) fn success() -> Self {
        Self::json(&json!({"success": true}))
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self::new(status, "", "")
    }

    pub(crate) fn redirect(to: &str) -> Self {
        let mut reply = Self::html(302, format!("<p>Found. Redirecting to {to}</p>"));
        reply.headers.push(("location", to.into()));
        reply
    }

    /// Gitter's error body: the bare reason phrase; from 500 on with a time as id.
    pub(crate) fn error(status: u16, now_ms: i64) -> Self {
        let reason = reason(status);
        let body = if status >= 500 {
            json!({"error": reason, "uniqueId": now_ms})
        } else {
            json!({"error": reason})
        };
        Self::json_with(status, &body)
    }

    /// Express' page for a method and path without a route.
    pub(crate) fn cannot(method: &str, path: &str) -> Self {
        let path = crate::markdown::escape(path);
        Self::html(
            404,
            format!(
                "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
                 <title>Error</title>\n</head>\n<body>\n<pre>Cannot {method} {path}</pre>\n\
                 </body>\n</html>\n"
            ),
        )
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn with_quota(self, quota: &Quota) -> Self {
        self.with_header("x-ratelimit-limit", quota.limit.to_string())
            .with_header("x-ratelimit-remaining", quota.remaining.to_string())
            .with_header("x-ratelimit-reset", quota.reset_ms.to_string())
    }

    pub(crate) fn etag(&self) -> String {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.body.hash(&mut hasher);
        format!("W/\"{:x}-{:016x}\"", self.body.len(), hasher.finish())
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        if !self.content_type.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        }
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.append(name, value);
            }
        }
        response
    }
}

pub(crate) fn reason(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Unknown")
}

/// `a=b&c=d` with `+` and percent decoding; the first of equal names wins.
pub(crate) fn parse_form(text: &str) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for pair in text.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        map.entry(decode(name, true)).or_insert_with(|| decode(value, true));
    }
    map
}

pub(crate) fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        let hex = text.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 2;
            }
            (b'+', _) if plus => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-encodes everything but unreserved characters.
pub(crate) fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(b).to_string()
            }
            b => format!("%{b:02X}"),
        })
        .collect()
}

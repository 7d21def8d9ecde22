//! Replays HTTP exchanges.

use std::time::Duration;

use gitter_sim::GitterSim;
use reqwest::header::HeaderName;
use serde_json::Value;

use crate::EXEMPT;
use crate::compare::Ids;
use crate::seed::{Tokens, our_tokens, with_our_tokens};

/// One recorded exchange.
#[derive(Debug, Clone)]
pub(crate) struct Exchange(Value);

impl Exchange {
    pub(crate) fn name(&self) -> &str {
        self.0["name"].as_str().expect("a name")
    }
}

/// The exchanges of a section, in order.
pub(crate) fn section(number: &str) -> Vec<Exchange> {
    let path = format!("{}/recordings/{number}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the recordings");
    let all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    all.into_iter().map(Exchange).collect()
}

/// Sends recorded requests to the simulator, and collects what differs.
pub(crate) struct Replay {
    pub(crate) ids: Ids,
    pub(crate) tokens: Tokens,
    /// Cookie of the session, for the pages.
    pub(crate) cookie: Option<String>,
    pub(crate) replayed: usize,
    pub(crate) wrong: Vec<String>,
    origin: String,
    http: reqwest::Client,
}

impl Replay {
    pub(crate) fn new(sim: &GitterSim) -> Self {
        let http = reqwest::Client::builder()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(20))
            .build()
            .expect("a client without TLS");
        Self {
            ids: Ids::default(),
            tokens: our_tokens(&sim.world()),
            cookie: None,
            replayed: 0,
            wrong: Vec::new(),
            origin: sim.web_url(),
            http,
        }
    }

    /// Replays one exchange unless it is exempt.
    pub(crate) async fn play(&mut self, exchange: &Exchange) -> Value {
        self.play_with(exchange, str::to_owned).await
    }

    /// As `play`, with a last change to url and body.
    pub(crate) async fn play_with(
        &mut self,
        exchange: &Exchange,
        change: impl Fn(&str) -> String,
    ) -> Value {
        let name = exchange.name();
        let row = EXEMPT.iter().find(|(n, ..)| *n == name);
        if row.is_some_and(|(_, keys, _)| keys == &["*"]) {
            return Value::Null;
        }
        let loose = row.map_or(&[][..], |(_, keys, _)| keys);
        let answer = self.send(&exchange.0, &change).await;
        let outcome = self.check(&exchange.0, answer, loose).await;
        self.replayed += 1;
        outcome.unwrap_or_else(|(error, body)| {
            self.wrong.push(format!("{name}: {error}"));
            body
        })
    }

    async fn send(&self, e: &Value, change: &impl Fn(&str) -> String) -> reqwest::Response {
        let text = |key: &str| e[key].as_str().unwrap_or_default();
        let ours = |text: &str| change(&with_our_tokens(&self.tokens, &self.ids.translate(text)));
        let method = text("method").parse().expect("a method");
        let url = format!("{}{}", self.origin, ours(text("url")));
        let mut request = self.http.request(method, url);
        let mut chunked = false;
        for header in e["headers"].as_array().expect("headers") {
            let (key, value) =
                header.as_str().and_then(|h| h.split_once(": ")).unwrap_or_else(|| {
                    header.as_str().and_then(|h| h.split_once(':')).expect("a header")
                });
            chunked |= key.eq_ignore_ascii_case("transfer-encoding");
            let key: HeaderName = key.parse().expect("a header");
            request = request.header(key, ours(value));
        }
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        let body = ours(text("body"));
        if body.starts_with("(omitted") {
            let body = format!("{{\"text\":\"x\",\"pad\":\"{}\"}}", "y".repeat(110_000));
            request = request.header("content-type", "application/json").body(body);
        } else if chunked {
            let part = Ok::<_, std::io::Error>(body);
            let stream = futures_util::stream::iter([part]);
            request = request.body(reqwest::Body::wrap_stream(stream));
        } else if !body.is_empty() {
            request = request.body(body);
        }
        request.send().await.expect("an answer")
    }

    async fn check(
        &mut self,
        e: &Value,
        answer: reqwest::Response,
        loose: &[&str],
    ) -> Result<Value, (String, Value)> {
        let status = answer.status().as_u16();
        let limited = answer.headers().contains_key("x-ratelimit-limit");
        let location = answer.headers().get("location").cloned();
        let body = answer.text().await.expect("a body");
        let json: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
        let fail = |error: String| Err((error, json.clone()));
        if e["status"] != status {
            return fail(format!("status {status}, recorded {}: {body}", e["status"]));
        }
        let url = e["url"].as_str().unwrap_or_default();
        if !url.starts_with("/login") && e.get("limited").is_some_and(|l| *l != limited) {
            return fail(format!("rate limit headers: {limited}"));
        }
        if let Some(recorded) = e["location"].as_str() {
            let ours = location.and_then(|l| l.to_str().map(str::to_owned).ok());
            let ours = ours.unwrap_or_default();
            if without_code(recorded) != without_code(&ours) {
                let error = format!("location {ours}, recorded {recorded}");
                return Err((error, Value::String(ours)));
            }
            return Ok(Value::String(ours));
        }
        if e["status"] == 301 && location.is_some() {
            return fail("301 has a location".into());
        }
        if let Some(title) = e["title"].as_str() {
            let paragraph = e["paragraphs"][0].as_str().unwrap_or_default();
            if !body.contains(&format!("<title>{title}</title>")) || !body.contains(paragraph) {
                return fail(format!("page lacks {title:?} or {paragraph:?}"));
            }
            return Ok(Value::String(body));
        }
        if let Some(count) = e["count"].as_u64().filter(|_| !loose.contains(&"count")) {
            let ours = json.as_array().map_or(0, Vec::len);
            if count != ours as u64 {
                return fail(format!("{ours} elements, recorded {count}"));
            }
        }
        if let Some(recorded) = e.get("json") {
            if let Err(error) = self.ids.compare("", recorded, &json, loose) {
                return fail(error);
            }
        } else if let Some(recorded) = e["text"].as_str()
            && self.ids.translate(recorded) != body
        {
            return fail(format!("{body:?}, recorded {recorded:?}"));
        }
        Ok(json)
    }
}

/// A redirect without the code, which is random.
fn without_code(location: &str) -> String {
    match location.split_once("code=") {
        Some((before, after)) => format!("{before}code=..{}", after.get(40..).unwrap_or_default()),
        None => location.into(),
    }
}

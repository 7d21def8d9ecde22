//! The routes as the homeserver, a stranger, and a fool call them.

use std::{
    convert::Infallible,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    body::{Body, to_bytes},
    http::{Method, StatusCode, header::AUTHORIZATION},
};
use futures_util::stream;
use tower::ServiceExt as _;

use super::*;

const TOKEN: &str = "hs-secret";
const TXN: &str = "/_matrix/app/v1/transactions/7";

/// An intake in memory, that fails, hangs or panics when told to.
#[derive(Debug, Clone, Default)]
struct Memory {
    inner: Arc<Inner>,
}

/// What one call brought: the transaction's id, its events, its ephemeral data.
type Stored = (String, Vec<Incoming>, Vec<Value>);

#[derive(Debug, Default)]
struct Inner {
    stored: Mutex<Vec<Stored>>,
    fails: AtomicBool,
    hangs: AtomicBool,
    panics: AtomicBool,
    unready: AtomicBool,
}

impl Intake for Memory {
    fn sample(&self, _: &Metrics) {}

    async fn transaction(
        &self,
        txn_id: String,
        events: Vec<Incoming>,
        ephemeral: Vec<Value>,
    ) -> Result<(), BoxError> {
        assert!(!self.inner.panics.load(Ordering::Relaxed), "told to");
        if self.inner.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.inner.fails.load(Ordering::Relaxed) {
            return Err("the disk is full".into());
        }
        let mut stored = self.inner.stored.lock().expect("not poisoned");
        stored.push((txn_id, events, ephemeral));
        Ok(())
    }

    fn knows_user(&self, user: &UserId) -> bool {
        user == "@gitter_known:hs"
    }

    fn ready(&self) -> Readiness {
        let ready = !self.inner.unready.load(Ordering::Relaxed);
        let detail = "connected".to_owned();
        Readiness { parts: BTreeMap::from([("homeserver", Part { ready, detail })]) }
    }
}

#[derive(Debug, Clone, Default)]
struct Bridge {
    memory: Memory,
    metrics: Metrics,
}

impl Bridge {
    async fn call(&self, request: Request) -> (StatusCode, Value) {
        let router = router(self.memory.clone(), TOKEN.into(), self.metrics.clone());
        let response = router.oneshot(request).await.expect("infallible");
        let status = response.status();
        let kind = response.headers().get(CONTENT_TYPE).cloned();
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        assert_eq!(kind.expect("a type"), "application/json", "{status}");
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    /// As the homeserver.
    async fn put(&self, body: impl Into<Body>) -> (StatusCode, Value) {
        self.call(request(Method::PUT, TXN, body)).await
    }

    fn stored(&self) -> Vec<Stored> {
        self.memory.inner.stored.lock().expect("not poisoned").clone()
    }

    fn counted(&self, line: &str) -> bool {
        self.metrics.text().lines().any(|found| found == line)
    }
}

fn request(method: Method, path: &str, body: impl Into<Body>) -> Request {
    let request = Request::builder().method(method).uri(path);
    request.header(AUTHORIZATION, format!("Bearer {TOKEN}")).body(body.into()).expect("a request")
}

fn event(id: &str) -> Value {
    json!({"type": "m.room.message", "event_id": id, "room_id": "!r:hs", "sender": "@a:hs",
        "origin_server_ts": 1_795_343_190_188_i64, "content": {"msgtype": "m.text", "body": "hi"},
        "unsigned": {"age": 232}, "age": 232, "user_id": "@a:hs"})
}

fn with(key: &str, value: Value) -> Value {
    let mut event = event("$odd");
    event[key] = value;
    event
}

fn without(key: &str) -> Value {
    let mut event = event("$odd");
    event.as_object_mut().expect("an object").remove(key);
    event
}

fn code(body: &Value) -> &str {
    assert!(body["error"].is_string(), "{body}");
    body["errcode"].as_str().expect("a code")
}

#[tokio::test]
async fn a_transaction_is_stored_and_answered_with_an_empty_object() {
    let bridge = Bridge::default();
    let state = json!({"type": "m.room.member", "event_id": "$m", "sender": "@a:hs", "state_key": "",
        "room_id": format!("!{}", "v".repeat(43)), "origin_server_ts": 0, "content": {}});
    let body = json!({"events": [event("$1"), state], "de.sorunome.msc2409.to_device": [{}],
        "ephemeral": [{"type": "m.typing", "room_id": "!r:hs", "content": {"user_ids": []}}]});
    assert_eq!(bridge.put(body.to_string()).await, (StatusCode::OK, json!({})));
    let stored = bridge.stored();
    let [(txn_id, events, ephemeral)] = &stored[..] else { panic!("{stored:?}") };
    assert_eq!(txn_id, "7");
    assert_eq!(ephemeral.len(), 1);
    assert_eq!(events[0].event_id, "$1");
    assert_eq!(events[0].kind, "m.room.message");
    assert_eq!(events[0].content["body"], "hi");
    assert_eq!(events[0].unsigned["age"], 232);
    assert_eq!((&events[0].state_key, events[1].state_key.as_deref()), (&None, Some("")));
    assert!(bridge.counted(r#"matrix_gitter_transactions_total{outcome="stored"} 1"#));
    assert!(bridge.counted(r#"matrix_gitter_events_total{outcome="accepted"} 2"#));
}

#[tokio::test]
async fn an_empty_transaction_is_one_too() {
    let bridge = Bridge::default();
    for body in ["{}", r#"{"events": []}"#] {
        assert_eq!(bridge.put(body).await.0, StatusCode::OK, "{body}");
    }
    assert_eq!(bridge.stored().len(), 2);
}

#[tokio::test]
async fn one_bad_event_does_not_fail_the_others() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = event("$deep").to_string().replace(r#""hi""#, &deep);
    let rows = [
        ("no id", without("event_id").to_string()),
        ("no room", without("room_id").to_string()),
        ("no sender", without("sender").to_string()),
        ("no type", without("type").to_string()),
        ("no time", without("origin_server_ts").to_string()),
        ("no content", without("content").to_string()),
        ("content a string", with("content", "x".into()).to_string()),
        ("content null", with("content", Value::Null).to_string()),
        ("an id of another kind", with("event_id", "!r:hs".into()).to_string()),
        ("a sender without server", with("sender", "@a".into()).to_string()),
        ("a fractional time", with("origin_server_ts", 1.5.into()).to_string()),
        ("a huge time", with("origin_server_ts", u64::MAX.into()).to_string()),
        ("a long type", with("type", "t".repeat(256).into()).to_string()),
        ("a long state key", with("state_key", "k".repeat(256).into()).to_string()),
        ("a state key of numbers", with("state_key", 1.into()).to_string()),
        ("too deep", deep),
        ("too large", with("content", json!({"body": "x".repeat(EVENT_TOO_LARGE)})).to_string()),
        ("a list", r#"["!r:hs","$1","@a:hs","t",null,1,{},{}]"#.to_owned()),
        ("null", "null".to_owned()),
        ("a lone surrogate", event("$odd").to_string().replace(r#""hi""#, r#""\ud800""#)),
    ];
    for (name, bad) in rows {
        let bridge = Bridge::default();
        let body = format!(r#"{{"events": [{}, {bad}, {}]}}"#, event("$1"), event("$2"));
        assert_eq!(bridge.put(body).await, (StatusCode::OK, json!({})), "row: {name}");
        let stored = bridge.stored();
        let ids: Vec<&str> = stored[0].1.iter().map(|event| event.event_id.as_str()).collect();
        assert_eq!(ids, ["$1", "$2"], "row: {name}");
        assert!(
            bridge.counted(r#"matrix_gitter_events_total{outcome="malformed"} 1"#),
            "row: {name}"
        );
    }
}

const EVENT_TOO_LARGE: usize = 1 << 20;

#[tokio::test]
async fn bad_ephemeral_data_is_dropped() {
    let bridge = Bridge::default();
    let body = format!(
        r#"{{"ephemeral": [1, {{"type": "m.typing"}}, {}{}]}}"#,
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    assert_eq!(bridge.put(body).await.0, StatusCode::OK);
    assert_eq!(bridge.stored()[0].2, [json!({"type": "m.typing"})]);
}

#[tokio::test]
async fn a_body_that_makes_no_sense_is_refused_whole() {
    let rows = [
        ("nothing", String::new(), "M_NOT_JSON"),
        ("a page", "<html>".to_owned(), "M_NOT_JSON"),
        ("half", r#"{"events": ["#.to_owned(), "M_NOT_JSON"),
        ("more after the end", "{} {}".to_owned(), "M_NOT_JSON"),
        ("deep", "[".repeat(1 << 20), "M_NOT_JSON"),
        ("a number", "7".to_owned(), "M_BAD_JSON"),
        ("null", "null".to_owned(), "M_BAD_JSON"),
        ("events not a list", r#"{"events": {}}"#.to_owned(), "M_BAD_JSON"),
    ];
    for (name, body, expected) in rows {
        let bridge = Bridge::default();
        let (status, body) = bridge.put(body).await;
        assert_eq!((status, code(&body)), (StatusCode::BAD_REQUEST, expected), "row: {name}");
        assert!(bridge.stored().is_empty(), "row: {name}");
        assert!(bridge.counted(r#"matrix_gitter_transactions_total{outcome="refused"} 1"#));
    }
    let (status, body) = Bridge::default().put(&b"{\"events\": \"\xff\"}"[..]).await;
    assert_eq!((status, code(&body)), (StatusCode::BAD_REQUEST, "M_NOT_JSON"));
}

#[tokio::test]
async fn a_body_too_large_is_refused_with_and_without_a_length() {
    let bridge = Bridge::default();
    let (status, body) = bridge.put(vec![b' '; BODY_MAX + 1]).await;
    assert_eq!((status, code(&body)), (StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE"));
    let chunk = Bytes::from(vec![b' '; 1 << 20]);
    let endless = stream::repeat_with(move || Ok::<_, Infallible>(chunk.clone()));
    let (status, body) = bridge.put(Body::from_stream(endless)).await;
    assert_eq!((status, code(&body)), (StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE"));
    let full = format!("{{}}{}", " ".repeat(BODY_MAX - 2));
    assert_eq!(bridge.put(full).await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up() {
    let silent = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
    let (status, body) = Bridge::default().put(silent).await;
    assert_eq!((status, code(&body)), (StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN"));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_refused() {
    let broken = stream::iter([Ok(Bytes::from("{\"events\"")), Err("connection reset")]);
    let (status, body) = Bridge::default().put(Body::from_stream(broken)).await;
    assert_eq!((status, code(&body)), (StatusCode::BAD_REQUEST, "M_UNKNOWN"));
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_was_not_stored_is_asked_for_again() {
    let bridge = Bridge::default();
    let body = json!({"events": [event("$1")]}).to_string();
    for flag in [&bridge.memory.inner.fails, &bridge.memory.inner.hangs] {
        flag.store(true, Ordering::Relaxed);
        let (status, answer) = bridge.put(body.clone()).await;
        assert_eq!((status, code(&answer)), (StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN"));
        assert!(!answer.to_string().contains("disk"), "the homeserver needs no details");
        flag.store(false, Ordering::Relaxed);
    }
    assert!(bridge.counted(r#"matrix_gitter_transactions_total{outcome="failed"} 2"#));
    assert!(bridge.counted(r#"matrix_gitter_events_total{outcome="accepted"} 0"#));
    assert_eq!(bridge.put(body).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_panic_is_caught_counted_and_answered() {
    let bridge = Bridge::default();
    bridge.memory.inner.panics.store(true, Ordering::Relaxed);
    let (status, body) = bridge.put("{}").await;
    assert_eq!((status, code(&body)), (StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN"));
    assert!(bridge.counted("matrix_gitter_panics_total 1"));
}

#[tokio::test]
async fn only_the_homeservers_token_in_the_header_opens_the_door() {
    let rows = [
        ("none", None, "", StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN"),
        ("empty", Some(""), "", StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN"),
        (
            "another scheme",
            Some("Basic hs-secret"),
            "",
            StatusCode::UNAUTHORIZED,
            "M_MISSING_TOKEN",
        ),
        ("bare", Some("hs-secret"), "", StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN"),
        ("wrong", Some("Bearer other"), "", StatusCode::FORBIDDEN, "M_FORBIDDEN"),
        ("no token", Some("Bearer "), "", StatusCode::FORBIDDEN, "M_FORBIDDEN"),
        ("a beginning", Some("Bearer hs-secre"), "", StatusCode::FORBIDDEN, "M_FORBIDDEN"),
        ("more", Some("Bearer hs-secret2"), "", StatusCode::FORBIDDEN, "M_FORBIDDEN"),
        ("query", None, "?access_token=hs-secret", StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN"),
        (
            "query beside",
            Some("Bearer other"),
            "?access_token=hs-secret",
            StatusCode::FORBIDDEN,
            "M_FORBIDDEN",
        ),
    ];
    let paths = [
        (Method::PUT, "transactions/1"),
        (Method::GET, "users/%40gitter_known%3Ahs"),
        (Method::GET, "rooms/%23a%3Ahs"),
        (Method::POST, "ping"),
        (Method::GET, "thirdparty/protocol/gitter"),
        (Method::GET, "thirdparty/user"),
        (Method::GET, "thirdparty/location/gitter"),
    ];
    let bridge = Bridge::default();
    for (name, token, query, status, errcode) in rows {
        for (method, path) in paths.clone() {
            let mut request =
                Request::builder().method(method).uri(format!("/_matrix/app/v1/{path}{query}"));
            if let Some(token) = token {
                request = request.header(AUTHORIZATION, token);
            }
            let request = request.body(Body::from("{}")).expect("a request");
            let (found, body) = bridge.call(request).await;
            assert_eq!((found, code(&body)), (status, errcode), "row: {name}, {path}");
        }
    }
    assert!(bridge.stored().is_empty());
    let lower = Request::builder().method(Method::PUT).uri(TXN);
    let lower = lower.header(AUTHORIZATION, "bearer  hs-secret").body("{}".into()).expect("one");
    assert_eq!(bridge.call(lower).await.0, StatusCode::OK, "schemes have no case");
}

#[tokio::test]
async fn a_stranger_cannot_make_us_read_a_body() {
    let poisoned = stream::poll_fn(|_| -> std::task::Poll<Option<Result<Bytes, Infallible>>> {
        panic!("the body was read")
    });
    let request = Request::builder().method(Method::PUT).uri(TXN);
    let request = request.body(Body::from_stream(poisoned)).expect("a request");
    let (status, _) = Bridge::default().call(request).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn users_are_known_or_not_and_aliases_never() {
    let long = format!("%40{}%3Ahs", "a".repeat(300));
    let rows = [
        ("users/%40gitter_known%3Ahs", StatusCode::OK, None),
        ("users/@gitter_known:hs", StatusCode::OK, None),
        ("users/%40gitter_other%3Ahs", StatusCode::NOT_FOUND, Some("M_NOT_FOUND")),
        ("users/nonsense", StatusCode::NOT_FOUND, Some("M_NOT_FOUND")),
        ("users/%ff", StatusCode::BAD_REQUEST, Some("M_INVALID_PARAM")),
        (&format!("users/{long}"), StatusCode::NOT_FOUND, Some("M_NOT_FOUND")),
        ("rooms/%23gitter%3Ahs", StatusCode::NOT_FOUND, Some("M_NOT_FOUND")),
        ("thirdparty/protocol/irc", StatusCode::NOT_FOUND, Some("M_NOT_FOUND")),
        ("thirdparty/protocol/gitter", StatusCode::OK, None),
        ("nonsense", StatusCode::NOT_FOUND, Some("M_UNRECOGNIZED")),
    ];
    let bridge = Bridge::default();
    for (path, status, errcode) in rows {
        let path = format!("/_matrix/app/v1/{path}");
        let (found, body) = bridge.call(request(Method::GET, &path, "")).await;
        assert_eq!(found, status, "{path}");
        assert_eq!(body.get("errcode").and_then(Value::as_str), errcode, "{path}");
    }
}

#[tokio::test]
async fn a_transaction_id_is_bounded() {
    for (id, expected) in
        [("a".repeat(255), StatusCode::OK), ("a".repeat(256), StatusCode::BAD_REQUEST)]
    {
        let path = format!("/_matrix/app/v1/transactions/{id}");
        let (status, _) = Bridge::default().call(request(Method::PUT, &path, "{}")).await;
        assert_eq!(status, expected);
    }
}

#[tokio::test]
async fn a_ping_is_answered_and_third_parties_are_described() {
    let bridge = Bridge::default();
    let ping = "/_matrix/app/v1/ping";
    for (body, expected) in [
        (r#"{"transaction_id": "t"}"#, StatusCode::OK),
        ("{}", StatusCode::OK),
        ("", StatusCode::OK),
        ("<html>", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(bridge.call(request(Method::POST, ping, body)).await.0, expected, "{body}");
    }
    let protocol = "/_matrix/app/v1/thirdparty/protocol/gitter";
    let (_, body) = bridge.call(request(Method::GET, protocol, "")).await;
    let fields = ["user_fields", "location_fields", "icon", "field_types", "instances"];
    assert!(fields.iter().all(|field| body.get(field).is_some()), "{body}");
    for path in ["user", "location", "user/gitter", "location/gitter?room=x", "user?userid=%40a"] {
        let path = format!("/_matrix/app/v1/thirdparty/{path}");
        let answer = bridge.call(request(Method::GET, &path, "")).await;
        assert_eq!(answer, (StatusCode::OK, json!([])), "{path}");
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_with_a_code() {
    let rows = [
        (Method::PUT, "/transactions/1", StatusCode::NOT_FOUND),
        (Method::GET, "/users/%40gitter_known%3Ahs", StatusCode::NOT_FOUND),
        (Method::GET, "/rooms/%23a%3Ahs", StatusCode::NOT_FOUND),
        (Method::PUT, "/_matrix/app/unstable/transactions/1", StatusCode::NOT_FOUND),
        (Method::GET, "/", StatusCode::NOT_FOUND),
        (Method::GET, "/_matrix/app/v1", StatusCode::NOT_FOUND),
        (Method::GET, "/_matrix/app/v1/", StatusCode::NOT_FOUND),
        (Method::PUT, "/_matrix/app/v1/transactions/1/2", StatusCode::NOT_FOUND),
        (Method::POST, TXN, StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/_matrix/app/v1/ping", StatusCode::METHOD_NOT_ALLOWED),
        (Method::DELETE, "/metrics", StatusCode::METHOD_NOT_ALLOWED),
        (Method::POST, "/health/live", StatusCode::METHOD_NOT_ALLOWED),
    ];
    for (method, path, status) in rows {
        let name = format!("{method} {path}");
        let (found, body) = Bridge::default().call(request(method, path, "{}")).await;
        assert_eq!((found, code(&body)), (status, "M_UNRECOGNIZED"), "{name}");
    }
}

#[tokio::test]
async fn health_tells_life_from_readiness() {
    let bridge = Bridge::default();
    bridge.memory.inner.unready.store(true, Ordering::Relaxed);
    let bare = |path: &str| Request::builder().uri(path).body(Body::empty()).expect("a request");
    assert_eq!(bridge.call(bare("/health/live")).await.0, StatusCode::OK);
    let (status, body) = bridge.call(bare("/health/ready")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let parts = json!({"homeserver": {"ready": false, "detail": "connected"}});
    assert_eq!(body, json!({"ready": false, "parts": parts}));
    bridge.memory.inner.unready.store(false, Ordering::Relaxed);
    let (status, body) = bridge.call(bare("/health/ready")).await;
    assert_eq!((status, &body["ready"]), (StatusCode::OK, &json!(true)));
}

#[tokio::test]
async fn metrics_are_served_as_text() {
    let router = router(Memory::default(), TOKEN.into(), Metrics::new());
    let request = Request::builder().uri("/metrics").body(Body::empty()).expect("a request");
    let response = router.oneshot(request).await.expect("infallible");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[CONTENT_TYPE], metrics::CONTENT_TYPE);
    let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    assert!(body.ends_with(b"# EOF\n"));
}

//! The client against answers a homeserver gives, and against ones that none should.

use std::{io::Write as _, net::TcpListener};

use ruma::{event_id, mxc_uri, room_id, user_id};
use serde_json::json;
use wiremock::{
    Match, Mock, MockServer, Request, ResponseTemplate,
    matchers::{any, body_json, header, method, query_param, query_param_is_missing},
};

use super::*;

/// The path exactly as it was on the wire.
struct RawPath(&'static str);

impl Match for RawPath {
    fn matches(&self, request: &Request) -> bool {
        request.url.path() == self.0
    }
}

fn at(uri: &str) -> Client {
    let http = reqwest::Client::builder()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .expect("a client");
    let url = Url::parse(uri).expect("an address");
    let bot = user_id!("@gitter:hs").to_owned();
    Client::new(http, url, "as-secret".into(), bot, "git/ter".to_owned())
}

async fn server() -> (MockServer, Client) {
    let server = MockServer::start().await;
    let client = at(&server.uri());
    (server, client)
}

fn answer(status: u16, body: &Value) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(body)
}

fn forbidden() -> ResponseTemplate {
    answer(403, &json!({"errcode": "M_FORBIDDEN", "error": "in words that may change"}))
}

const ROOM: &str = "/_matrix/client/v3/rooms/%21r%3Ahs";

#[tokio::test]
async fn every_segment_is_encoded_in_full() {
    let (server, client) = server().await;
    let path = RawPath(
        "/_matrix/client/v3/rooms/%21r%3Ahs/state/im.gitter%2Fa%20%3F%23%25/%40g%2B%C3%A9%3Ahs",
    );
    let body = json!({"x": 1});
    Mock::given(method("PUT"))
        .and(path)
        .and(header("authorization", "Bearer as-secret"))
        .and(query_param("user_id", "@gitter_g:hs"))
        .and(body_json(&body))
        .respond_with(answer(200, &json!({"event_id": "$e"})))
        .mount(&server)
        .await;
    let ghost = As::Ghost(user_id!("@gitter_g:hs"));
    let room = room_id!("!r:hs");
    let event = client.put_state(ghost, room, "im.gitter/a ?#%", "@g+é:hs", &body).await;
    assert_eq!(event.expect("sent"), event_id!("$e"));
}

#[tokio::test]
async fn an_empty_state_key_leaves_a_slash_and_an_address_may_have_a_prefix() {
    let server = MockServer::start().await;
    let client = at(&format!("{}/behind/a%20proxy/", server.uri()));
    let path = RawPath("/behind/a%20proxy/_matrix/client/v3/rooms/%21v12/state/m.room.create/");
    let content = json!({"room_version": "12", "im.gitter.portal": "key"});
    Mock::given(method("GET"))
        .and(path)
        .and(query_param_is_missing("user_id"))
        .respond_with(answer(200, &json!({"sender": "@gitter:hs", "content": content})))
        .mount(&server)
        .await;
    let event = client.create_event(room_id!("!v12")).await.expect("read");
    assert_eq!(event.portal(client.bot()), Some("key"));
    assert_eq!(event.control(client.bot()), None);
    assert_eq!(event.version(), Some(RoomVersionId::V12));
    assert_eq!(event.portal(user_id!("@other:hs")), None, "made by somebody else");
}

#[tokio::test]
async fn sends_name_user_and_device_the_bots_too() {
    let (server, client) = server().await;
    for user in ["@gitter:hs", "@gitter_g:hs"] {
        Mock::given(method("PUT"))
            .and(RawPath("/_matrix/client/v3/rooms/%21r%3Ahs/send/m.room.message/t1"))
            .and(query_param("user_id", user))
            .and(query_param("device_id", DEVICE))
            .and(query_param("ts", "1700000000000"))
            .respond_with(answer(200, &json!({"event_id": format!("${}", &user[1..3])})))
            .expect(1)
            .mount(&server)
            .await;
    }
    let room = room_id!("!r:hs");
    let content = json!({"msgtype": "m.text", "body": "hi"});
    for who in [As::Bot, As::Ghost(user_id!("@gitter_g:hs"))] {
        let ts = Some(1_700_000_000_000);
        client.send(who, room, "m.room.message", "t1", &content, ts).await.expect("sent");
    }
}

#[tokio::test]
async fn a_segment_of_dots_is_refused_instead_of_sent_to_another_path() {
    let (server, client) = server().await;
    let error = client.state(room_id!("!r:hs"), "..", "").await.expect_err("refused");
    assert!(matches!(error, MatrixError::Refused { .. }), "{error:?}");
    assert!(server.received_requests().await.expect("recorded").is_empty());
}

#[tokio::test]
async fn answers_that_no_homeserver_gives_are_malformed() {
    let rows = [
        ("a page", ResponseTemplate::new(200).set_body_string("<html>Welcome")),
        ("nothing", ResponseTemplate::new(200)),
        ("another shape", answer(200, &json!({"room_id": 7}))),
        ("not a room id", answer(200, &json!({"room_id": "#alias:hs"}))),
        ("a list", answer(200, &json!([]))),
        ("null", answer(200, &Value::Null)),
        ("half", ResponseTemplate::new(200).set_body_string(r#"{"room_id": "!r:h"#)),
        ("too deep", ResponseTemplate::new(200).set_body_string("[".repeat(100_000))),
        ("no content", ResponseTemplate::new(204)),
    ];
    for (name, template) in rows {
        let (server, client) = server().await;
        Mock::given(any()).respond_with(template).mount(&server).await;
        let error = client.create_room(&json!({})).await.expect_err(name);
        assert!(matches!(error, MatrixError::Malformed { .. }), "row: {name}: {error:?}");
        assert!(error.maybe_done() && error.is_transient(), "row: {name}");
        let error = client.joined_rooms().await.expect_err(name);
        assert!(!error.maybe_done(), "row: {name}: a read does nothing");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_not_believed() {
    let (server, client) = server().await;
    let elsewhere = ResponseTemplate::new(302).insert_header("location", "/elsewhere");
    Mock::given(any()).respond_with(elsewhere).expect(1).mount(&server).await;
    let error = client.whoami().await.expect_err("no answer");
    assert!(matches!(error, MatrixError::Malformed { .. }), "{error:?}");
}

/// A server that answers one request with these bytes and hangs up.
fn once(bytes: &'static [u8]) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        use std::io::Read as _;
        let (mut stream, _) = listener.accept().expect("a call");
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(bytes);
    });
    at(&format!("http://127.0.0.1:{port}"))
}

#[tokio::test]
async fn a_connection_lost_after_the_request_may_have_done_it() {
    let rows: [(&str, &[u8]); 3] = [
        ("no answer", b""),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-Le"),
        ("half a body", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"room_id\": "),
    ];
    for (name, bytes) in rows {
        let error = once(bytes).create_room(&json!({})).await.expect_err(name);
        assert!(matches!(error, MatrixError::Unavailable { .. }), "row: {name}: {error:?}");
        assert!(error.maybe_done(), "row: {name}");
    }
}

#[tokio::test]
async fn a_connection_never_made_did_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let client = at(&format!("http://127.0.0.1:{port}"));
    let error = client.create_room(&json!({})).await.expect_err("nobody there");
    assert!(matches!(error, MatrixError::Unavailable { maybe_done: false, .. }), "{error:?}");
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let (server, client) = server().await;
    let mut body = br#"{"user_id": "@gitter:hs"}"#.to_vec();
    for (length, cut) in [(ANSWER_MAX, false), (ANSWER_MAX + 1, true)] {
        body.resize(length, b' ');
        server.reset().await;
        let template = ResponseTemplate::new(200).set_body_bytes(body.clone());
        Mock::given(any()).respond_with(template).mount(&server).await;
        let answer = client.whoami().await;
        assert_eq!(matches!(answer, Err(MatrixError::Malformed { .. })), cut, "{answer:?}");
        assert_eq!(answer.is_ok(), !cut);
    }
}

#[tokio::test]
async fn already_so_is_success_whatever_the_words_and_a_real_refusal_is_not() {
    // What the room's state says about the user, and whether invite, kick, leave are then done.
    let rows = [
        ("joined", Some("join"), [true, false, false]),
        ("invited", Some("invite"), [true, false, false]),
        ("left", Some("leave"), [false, true, true]),
        ("banned", Some("ban"), [false, true, true]),
        ("never there", None, [false, true, true]),
    ];
    for (name, membership, expected) in rows {
        let (server, client) = server().await;
        let state = match membership {
            Some(m) => answer(200, &json!({"sender": "@x:hs", "content": {"membership": m}})),
            None => answer(404, &json!({"errcode": "M_NOT_FOUND", "error": "Event not found."})),
        };
        Mock::given(method("GET"))
            .and(RawPath("/_matrix/client/v3/rooms/%21r%3Ahs/state/m.room.member/%40gitter_u%3Ahs"))
            .and(query_param("format", "event"))
            .respond_with(state)
            .mount(&server)
            .await;
        Mock::given(method("POST")).respond_with(forbidden()).mount(&server).await;
        Mock::given(method("PUT")).respond_with(forbidden()).mount(&server).await;
        let (room, user) = (room_id!("!r:hs"), user_id!("@gitter_u:hs"));
        let [invited, kicked, left] = expected;
        assert_eq!(client.invite(room, user).await.is_ok(), invited, "row: {name}");
        assert_eq!(client.invite_direct(room, user).await.is_ok(), invited, "row: {name}");
        assert_eq!(client.kick(room, user, "bye").await.is_ok(), kicked, "row: {name}");
        assert_eq!(client.leave(As::Ghost(user), room).await.is_ok(), left, "row: {name}");
    }
}

#[tokio::test]
async fn a_doubt_that_cannot_be_resolved_stays_an_error() {
    let (server, client) = server().await;
    Mock::given(method("GET")).respond_with(ResponseTemplate::new(502)).mount(&server).await;
    Mock::given(method("POST")).respond_with(forbidden()).mount(&server).await;
    let (room, user) = (room_id!("!r:hs"), user_id!("@gitter_u:hs"));
    for result in [
        client.invite(room, user).await,
        client.kick(room, user, "").await,
        client.leave(As::Ghost(user), room).await,
    ] {
        assert!(matches!(result, Err(MatrixError::NotInRoom { .. })), "{result:?}");
    }
    let result = client.join(As::Ghost(user), room).await;
    assert!(matches!(result, Err(MatrixError::NotInvited { .. })), "{result:?}");
}

#[tokio::test]
async fn a_bot_thrown_out_does_not_take_a_kick_for_done() {
    let (server, client) = server().await;
    Mock::given(any()).respond_with(forbidden()).mount(&server).await;
    let (room, user) = (room_id!("!r:hs"), user_id!("@gitter_u:hs"));
    let result = client.kick(room, user, "").await;
    assert!(matches!(result, Err(MatrixError::NotInRoom { .. })), "{result:?}");
}

#[tokio::test]
async fn registering_again_is_success_and_only_the_bot_may_meet_a_500() {
    let register = RawPath("/_matrix/client/v3/register");
    let rows = [
        ("new", answer(200, &json!({"user_id": "@x:hs"})), [true, true]),
        ("there", answer(400, &json!({"errcode": "M_USER_IN_USE"})), [true, true]),
        ("outside", answer(400, &json!({"errcode": "M_EXCLUSIVE"})), [false, false]),
        ("profile first", answer(500, &json!({"errcode": "M_UNKNOWN"})), [true, false]),
    ];
    for (name, template, expected) in rows {
        let (server, client) = server().await;
        Mock::given(method("POST"))
            .and(RawPath(register.0))
            .respond_with(template)
            .mount(&server)
            .await;
        Mock::given(method("GET"))
            .respond_with(answer(200, &json!({"user_id": "@gitter:hs"})))
            .mount(&server)
            .await;
        for (who, expected) in
            [As::Bot, As::Ghost(user_id!("@gitter_g:hs"))].into_iter().zip(expected)
        {
            assert_eq!(client.register(who).await.is_ok(), expected, "row: {name}, {who:?}");
        }
        let requests = server.received_requests().await.expect("recorded");
        let body: Value = requests[0].body_json().expect("JSON");
        let expected = json!({"type": "m.login.application_service", "username": "gitter",
            "inhibit_login": true});
        assert_eq!(body, expected);
    }
    let (server, client) = server().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(500)).mount(&server).await;
    client.register(As::Bot).await.expect_err("a homeserver that is down registers nobody");
}

#[tokio::test]
async fn a_ping_tells_what_is_wrong_between_homeserver_and_bridge() {
    let code = |status, code: &str| answer(status, &json!({"errcode": code, "error": "why"}));
    let bad = json!({"errcode": "M_BAD_STATUS", "status": 403, "body": "no"});
    let rows = [
        (answer(200, &json!({"duration_ms": 23})), PingOutcome::Reached(Duration::from_millis(23))),
        (code(403, "M_FORBIDDEN"), PingOutcome::OtherId),
        (code(400, "M_URL_NOT_SET"), PingOutcome::NoUrl),
        (answer(502, &bad), PingOutcome::Refused { status: Some(403), body: "no".to_owned() }),
        (code(502, "M_CONNECTION_FAILED"), PingOutcome::Unreachable("why".to_owned())),
        (code(504, "M_CONNECTION_TIMEOUT"), PingOutcome::TimedOut),
        (code(404, "M_UNRECOGNIZED"), PingOutcome::Unsupported),
    ];
    for (template, expected) in rows {
        let (server, client) = server().await;
        Mock::given(method("POST"))
            .and(RawPath("/_matrix/client/v1/appservice/git%2Fter/ping"))
            .and(body_json(json!({"transaction_id": "t"})))
            .respond_with(template)
            .mount(&server)
            .await;
        assert_eq!(client.ping("t").await.expect("an outcome"), expected);
    }
    let (server, client) = server().await;
    Mock::given(any()).respond_with(code(401, "M_UNKNOWN_TOKEN")).mount(&server).await;
    let error = client.ping("t").await.expect_err("no outcome");
    assert!(matches!(error, MatrixError::TokenRejected { .. }), "{error:?}");
}

#[tokio::test]
async fn one_odd_member_does_not_hide_the_others() {
    let (server, client) = server().await;
    let joined = json!({"joined": {
        "@a:hs": {"display_name": "A", "avatar_url": "mxc://hs/a"},
        "@b:hs": {"display_name": null, "avatar_url": 7},
        "@c:hs": {},
        "not an id": {"display_name": "D"},
    }});
    Mock::given(RawPath("/_matrix/client/v3/rooms/%21r%3Ahs/joined_members"))
        .respond_with(answer(200, &joined))
        .mount(&server)
        .await;
    let members = client.joined_members(room_id!("!r:hs")).await.expect("members");
    assert_eq!(members.len(), 3);
    let a = &members[user_id!("@a:hs")];
    assert_eq!(a.display_name.as_deref(), Some("A"));
    assert_eq!(a.avatar_url.as_deref(), Some(mxc_uri!("mxc://hs/a")));
    assert_eq!(members[user_id!("@b:hs")], Profile::default());
}

#[tokio::test]
async fn what_is_not_there_is_none_and_what_cannot_be_seen_is_an_error() {
    let (server, client) = server().await;
    let not_found = answer(404, &json!({"errcode": "M_NOT_FOUND"}));
    Mock::given(any()).respond_with(not_found).mount(&server).await;
    let room = room_id!("!r:hs");
    assert_eq!(client.state(room, "m.room.encryption", "").await.expect("none"), None);
    assert_eq!(client.event(room, event_id!("$e")).await.expect("none"), None);
    assert_eq!(client.profile(user_id!("@a:hs")).await.expect("none"), None);
    assert_eq!(client.member(room, user_id!("@a:hs")).await.expect("none"), None);
    let error = client.joined_members(room).await.expect_err("no list is no empty list");
    assert!(matches!(error, MatrixError::NotFound { .. }), "{error:?}");
    server.reset().await;
    Mock::given(any()).respond_with(forbidden()).mount(&server).await;
    let error = client.state(room, "m.room.encryption", "").await.expect_err("not seen");
    assert!(matches!(error, MatrixError::NotInRoom { .. }), "{error:?}");
}

#[tokio::test]
async fn an_upload_sends_the_bytes_as_they_are_and_demands_an_address() {
    let (server, client) = server().await;
    Mock::given(method("POST"))
        .and(RawPath("/_matrix/media/v3/upload"))
        .and(query_param("filename", "a b&c.png"))
        .and(header("content-type", "image/png"))
        .and(header("content-length", "3"))
        .respond_with(answer(200, &json!({"content_uri": "mxc://hs/abc"})))
        .mount(&server)
        .await;
    let uri = client.upload(vec![1, 0, 255], "image/png", "a b&c.png").await.expect("stored");
    assert_eq!(uri, mxc_uri!("mxc://hs/abc"));
    server.reset().await;
    let page = answer(200, &json!({"content_uri": "https://hs/abc"}));
    Mock::given(any()).respond_with(page).mount(&server).await;
    let error = client.upload(vec![1], "image/png", "a").await.expect_err("no address");
    assert!(matches!(error, MatrixError::Malformed { .. }), "{error:?}");
}

#[tokio::test]
async fn requests_are_counted_and_the_token_is_never_printed() {
    let (server, client) = server().await;
    let metrics = Metrics::new();
    let client = client.counted(metrics.clone());
    Mock::given(RawPath(ROOM)).respond_with(forbidden()).mount(&server).await;
    let error = client.whoami().await.expect_err("nothing there");
    let text = metrics.text();
    let line = r#"http_requests_total{destination="homeserver",outcome="malformed"} 1"#;
    assert!(text.contains(line), "{text}");
    assert!(!format!("{client:?} {error:?}").contains("as-secret"));
}

#[tokio::test]
async fn nothing_is_sent_to_a_homeserver_that_is_away() {
    let (server, client) = server().await;
    let breaker = Arc::new(Breaker::new(reconcile::breaker::Side::Homeserver));
    let probing = client.clone();
    let client = client.minding(Some(breaker.clone()));
    let watched = tokio::spawn({
        let breaker = breaker.clone();
        async move {
            let probe = || async { probing.versions().await.map(drop) };
            let rng = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(1);
            breaker.watch(probe, || {}, rng).await;
        }
    });
    // Refusals, of whatever kind, are answers.
    for (status, code) in
        [(403, "M_FORBIDDEN"), (401, "M_UNKNOWN_TOKEN"), (429, "M_LIMIT_EXCEEDED")]
    {
        server.reset().await;
        let refusal = answer(status, &json!({"errcode": code}));
        Mock::given(any()).respond_with(refusal).mount(&server).await;
        for _ in 0..5 {
            client.whoami().await.expect_err("refused");
        }
        assert!(breaker.is_clear(), "{status}");
    }
    server.reset().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(502)).mount(&server).await;
    for _ in 0..100 {
        client.whoami().await.expect_err("away");
    }
    assert!(breaker.away().is_some());
    let error = client.whoami().await.expect_err("away");
    assert!(!error.maybe_done(), "it was not made: {error:?}");
    let side = reconcile::breaker::Away::among(&error);
    assert_eq!(side, Some(reconcile::breaker::Side::Homeserver));
    let requests = server.received_requests().await.expect("recorded");
    let asked = requests.iter().filter(|request| request.url.path().ends_with("whoami")).count();
    assert_eq!(asked, 3, "the probe decides for all others");
    watched.abort();
}

//! The simulator as its users see it: start, speak, listen, break, restart.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use gitter_sim::{Fault, GitterSim, Matcher, RoomSpec, SimConfig, World};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const LIMIT: Duration = Duration::from_secs(10);

fn http() -> reqwest::Client {
    reqwest::Client::builder()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .timeout(LIMIT)
        .build()
        .expect("a client without TLS")
}

async fn started() -> (GitterSim, World, String) {
    let sim = GitterSim::start(SimConfig::default()).await.expect("a free port");
    let world = sim.world();
    world.add_user("alice", "Alice Example");
    world.add_user("bob", "Bob Example");
    world.add_oauth_client("key", "secret", "http://127.0.0.1:1/callback");
    world.add_room(RoomSpec { admins: vec!["alice".into()], ..RoomSpec::public("acme/widgets") });
    world.join("acme/widgets", "bob");
    let token = world.token_for("bob", "key");
    (sim, world, token)
}

/// A Faye client over websocket.
struct Faye {
    ws: tokio_tungstenite::WebSocketStream<
        tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>,
    >,
    client: String,
}

impl Faye {
    async fn open(sim: &GitterSim, token: &str) -> Self {
        let (ws, _) = tokio_tungstenite::connect_async(sim.faye_url()).await.expect("a websocket");
        let mut faye = Self { ws, client: String::new() };
        let reply = faye
            .ask(json!({"channel": "/meta/handshake", "version": "1.0", "id": "1",
                "supportedConnectionTypes": ["websocket"], "ext": {"token": token}}))
            .await;
        faye.client = reply["clientId"].as_str().expect("a client id").into();
        faye
    }

    async fn say(&mut self, mut message: Value) {
        if !self.client.is_empty() {
            message["clientId"] = json!(self.client);
        }
        let frame = Message::Text(json!([message]).to_string().into());
        self.ws.send(frame).await.expect("an open socket");
    }

    async fn ask(&mut self, message: Value) -> Value {
        self.say(message).await;
        self.next().await.expect("an answer")
    }

    /// The next message, or `None` when the socket ended.
    async fn next(&mut self) -> Option<Value> {
        loop {
            let frame = tokio::time::timeout(LIMIT, self.ws.next()).await.expect("in time")?;
            match frame.ok()? {
                Message::Text(text) => {
                    let all: Value = serde_json::from_str(&text).expect("JSON");
                    return Some(all[0].clone());
                }
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    async fn listen(&mut self, channel: &str) {
        let reply = self
            .ask(json!({"channel": "/meta/subscribe", "subscription": channel, "id": "2",
                "ext": {"snapshot": false}}))
            .await;
        assert_eq!(reply["successful"], true, "{reply}");
        let connect = json!({"channel": "/meta/connect", "connectionType": "websocket", "id": "3"});
        self.say(connect).await;
        // The answer to a heartbeat says that the connect has been taken in.
        self.ws.send(Message::Text("[]".into())).await.expect("an open socket");
        assert_eq!(self.next().await, Some(Value::Null));
    }
}

#[tokio::test]
async fn a_person_signs_in_through_the_pages_and_the_token_works() {
    let (sim, _world, token) = started().await;
    let http = http();
    let query = "client_id=key&response_type=code&state=s%201\
                 &redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fcallback";
    let url = format!("{}/authorize?{query}", sim.oauth_url());
    let answer = http.get(&url).send().await.expect("an answer");
    assert_eq!(answer.status(), 302);
    let cookie = answer.headers()["set-cookie"].to_str().expect("text").to_owned();
    let cookie = cookie.split(';').next().expect("a cookie").to_owned();
    let login = format!("{}/login", sim.web_url());
    let page = http.get(&login).header("cookie", &cookie).send().await.expect("an answer");
    assert!(page.text().await.expect("a page").contains("value=\"bob\""));
    let form = [("user", "bob")];
    let answer = http.post(&login).header("cookie", &cookie).form(&form).send().await;
    let back = answer.expect("an answer").headers()["location"].to_str().expect("text").to_owned();
    assert!(back.starts_with("/login/oauth/authorize?"), "{back}");
    let url = format!("{}{back}", sim.web_url());
    let page = http.get(&url).header("cookie", &cookie).send().await.expect("an answer");
    let page = page.text().await.expect("a page");
    let id = page.split("transaction_id\" type=\"hidden\" value=\"").nth(1).expect("a form");
    let form = [("transaction_id", &id[..8])];
    let url = format!("{}/authorize/decision", sim.oauth_url());
    let answer = http.post(&url).header("cookie", &cookie).form(&form).send().await;
    let back = answer.expect("an answer").headers()["location"].to_str().expect("text").to_owned();
    assert!(back.ends_with("&state=s%201"), "{back}");
    let code = back.split("code=").nth(1).and_then(|c| c.get(..40)).expect("a code");
    let form = [
        ("client_id", "key"),
        ("client_secret", "secret"),
        ("code", code),
        ("grant_type", "authorization_code"),
        ("redirect_uri", "http://127.0.0.1:1/callback"),
    ];
    let answer = http.post(format!("{}/token", sim.oauth_url())).form(&form).send().await;
    let answer: Value = answer.expect("an answer").json().await.expect("JSON");
    assert_eq!(answer["access_token"], json!(token));
    sim.stop().await;
}

#[tokio::test]
async fn what_is_posted_over_rest_arrives_over_faye() {
    let (sim, world, token) = started().await;
    let room = world.find_room("acme/widgets").expect("the room");
    let mut faye = Faye::open(&sim, &world.token_for("alice", "key")).await;
    faye.listen(&format!("/api/v1/rooms/{room}/chatMessages")).await;
    let url = format!("{}/rooms/{room}/chatMessages", sim.api_url());
    let body = json!({"text": "hi **all**"});
    let answer = http().post(&url).bearer_auth(&token).json(&body).send().await;
    let posted: Value = answer.expect("an answer").json().await.expect("JSON");
    let frame = faye.next().await.expect("a frame");
    assert_eq!(frame["data"]["operation"], "create");
    assert_eq!(frame["data"]["model"]["id"], posted["id"]);
    assert_eq!(frame["ext"]["c"], 1);
    assert_eq!(world.messages("acme/widgets")[0].html, "hi <strong>all</strong>");
    assert_eq!(world.count_calls("POST", "/v1/rooms/:id/chatMessages"), 1);
    // Lost frames leave a gap in the count.
    world.lose_next_frames(1);
    world.post("bob", "acme/widgets", "lost");
    world.post("bob", "acme/widgets", "seen");
    let frame = faye.next().await.expect("a frame");
    assert_eq!((&frame["data"]["model"]["text"], &frame["ext"]["c"]), (&json!("seen"), &json!(3)));
    world.forget_clients();
    let frame = faye.next().await.expect("the held connect's answer");
    assert_eq!(frame["advice"]["reconnect"], "handshake");
    world.drop_connections();
    assert!(faye.next().await.is_none());
}

#[tokio::test]
async fn a_lost_answer_leaves_its_effect() {
    let (sim, world, token) = started().await;
    let room = world.find_room("acme/widgets").expect("the room");
    let url = format!("{}/rooms/{room}/chatMessages", sim.api_url());
    let post =
        |text: &str| http().post(&url).bearer_auth(&token).json(&json!({"text": text})).send();
    world.fail_next(1, Matcher::new("POST", "chatMessages"), Fault::DropAfterEffect);
    post("one").await.expect_err("the connection is cut");
    assert_eq!(world.messages("acme/widgets").len(), 1);
    world.fail_next(1, Matcher::new("POST", "chatMessages"), Fault::Status(503));
    assert_eq!(post("two").await.expect("an answer").status(), 503);
    world.fail_next(1, Matcher::any(), Fault::Html502);
    assert_eq!(post("three").await.expect("an answer").status(), 502);
    assert_eq!(world.messages("acme/widgets").len(), 1);
    assert_eq!(world.calls().iter().map(|c| c.status).collect::<Vec<_>>(), [0, 503, 502]);
}

#[tokio::test]
async fn a_gitter_goes_away_and_comes_back_on_its_port() {
    let (sim, world, token) = started().await;
    let (port, url) = (sim.port(), format!("{}/user/me", sim.api_url()));
    let mut faye = Faye::open(&sim, &token).await;
    sim.stop().await;
    assert!(faye.next().await.is_none());
    http().get(&url).bearer_auth(&token).send().await.expect_err("nobody listens");
    let sim =
        GitterSim::start_with_world(SimConfig { port, ..SimConfig::default() }, world.clone());
    let sim = sim.await.expect("the same port");
    let get = || async { http().get(&url).bearer_auth(&token).send().await };
    assert_eq!(get().await.expect("an answer").status(), 200);
    world.set_down(true);
    get().await.expect_err("it is down");
    world.set_down(false);
    assert_eq!(get().await.expect("an answer").status(), 200);
    drop(sim);
}

#[tokio::test]
async fn the_echo_can_come_before_the_answer() {
    let (sim, world, token) = started().await;
    let room = world.find_room("acme/widgets").expect("the room");
    let mut faye = Faye::open(&sim, &token).await;
    faye.listen(&format!("/api/v1/rooms/{room}/chatMessages")).await;
    world.echo_before_answer(true);
    let url = format!("{}/rooms/{room}/chatMessages", sim.api_url());
    let post = http().post(&url).bearer_auth(&token).json(&json!({"text": "mine"})).send();
    tokio::pin!(post);
    tokio::select! {
        frame = faye.next() => assert_eq!(frame.expect("a frame")["data"]["model"]["text"], "mine"),
        _ = &mut post => panic!("the answer came first"),
    }
    assert_eq!(post.await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn faye_can_fall_silent_and_refuse() {
    let (sim, world, token) = started().await;
    let room = world.find_room("acme/widgets").expect("the room");
    let channel = format!("/api/v1/rooms/{room}/chatMessages");
    let mut faye = Faye::open(&sim, &token).await;
    faye.listen(&channel).await;
    assert_eq!(world.subscribers(&channel), 1);
    world.stall(true);
    world.post("alice", "acme/widgets", "never heard");
    world.stall(false);
    world.post("alice", "acme/widgets", "heard");
    let frame = faye.next().await.expect("a frame");
    assert_eq!(frame["ext"]["c"], 2, "the count shows what was lost: {frame}");
    world.skip_counter();
    world.post("alice", "acme/widgets", "next");
    assert_eq!(faye.next().await.expect("a frame")["ext"]["c"], 4);
    // A ban ends the subscription without a word.
    world.ban("acme/widgets", "bob");
    assert_eq!(world.subscribers(&channel), 0);
    world.refuse_handshake(Some("401::Invalid access token"));
    let reply = faye
        .ask(json!({"channel": "/meta/handshake", "version": "1.0", "id": "9",
            "supportedConnectionTypes": ["websocket"], "ext": {"token": token}}))
        .await;
    assert_eq!(reply["advice"]["reconnect"], "none");
}

#[tokio::test]
async fn the_page_is_served_and_its_api_drives_the_world() {
    let (sim, world, token) = started().await;
    let page = http().get(sim.web_url()).send().await.expect("an answer").text().await;
    assert!(page.expect("a page").contains("<title>Simulated Gitter</title>"));
    let act = |act: &str, body: Value| {
        http().post(format!("{}/sim/{act}", sim.web_url())).json(&body).send()
    };
    let steps = [
        ("add_user", json!({"username": "carol", "displayName": "Carol"}), 200),
        ("add_room", json!({"uri": "acme/lobby", "admins": ["carol"]}), 200),
        ("add_room", json!({"uri": "ACME/lobby"}), 409),
        ("join", json!({"room": "acme/lobby", "user": "bob"}), 200),
        ("join", json!({"room": "acme/nowhere", "user": "bob"}), 404),
        ("post", json!({"room": "acme/lobby", "user": "carol", "text": "hi @bob"}), 200),
        ("ban", json!({"room": "acme/lobby", "user": "bob"}), 200),
        ("revoke_token", json!({"user": "bob"}), 200),
        ("nonsense", json!({}), 404),
    ];
    for (name, body, status) in steps {
        let answer = act(name, body).await.expect("an answer");
        assert_eq!(answer.status(), status, "{name}");
    }
    assert_eq!(world.members("acme/lobby"), ["carol"]);
    assert_eq!(world.messages("acme/lobby")[0].text, "hi @bob");
    assert_eq!(world.rooms_of("bob"), ["acme/widgets"]);
    assert_eq!(world.call_count(), 0, "the page's own requests are no calls");
    let url = format!("{}/user/me", sim.api_url());
    let answer = http().get(&url).bearer_auth(&token).send().await.expect("an answer");
    assert_eq!(answer.status(), 401);
    let token = world.token_for("carol", "key");
    let me: Value = http()
        .get(&url)
        .bearer_auth(token)
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    let avatar = http().get(me["avatarUrl"].as_str().expect("a url")).send().await;
    let bytes = avatar.expect("an answer").bytes().await.expect("a picture");
    assert!(bytes.starts_with(b"\x89PNG"));
}

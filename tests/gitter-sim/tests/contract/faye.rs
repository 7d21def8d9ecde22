//! Replays Faye sessions frame by frame.
//!
//! What happened over REST between the frames is taken from the frames themselves: before a run
//! of published messages is awaited, the world is made to do what must have caused them.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use gitter_sim::{GitterSim, RoomSpec, World};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::EXEMPT;
use crate::compare::Ids;
use crate::seed::{self, Tokens, our_tokens, with_our_tokens};
use crate::story;

const LIMIT: Duration = Duration::from_secs(10);
const ROOM: &str = "acme/stream";
/// Other sessions of the recorder came and went in the rooms of these.
const CROWDED: [&str; 3] = [
    "11-faye-live-room-and-user-as-alice",
    "11-faye-live-room-and-user-as-bob",
    "11-faye-live-removals",
];

/// A recorded session.
pub(crate) struct Session {
    pub(crate) name: String,
    http: bool,
    frames: Vec<Value>,
}

/// All recorded sessions.
pub(crate) fn sessions() -> Vec<Session> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/recordings/11.json");
    let text = std::fs::read_to_string(path).expect("the recordings");
    let all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    all.into_iter()
        .map(|s| Session {
            name: s["name"].as_str().expect("a name").into(),
            http: s["http"] == true,
            frames: s["frames"].as_array().expect("frames").clone(),
        })
        .collect()
}

type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// A session being replayed.
pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) ids: Ids,
    tokens: Tokens,
    url: String,
    http_url: String,
    socket: Option<Socket>,
    /// Recorded messages as last seen, to tell edits from other updates.
    known: std::collections::BTreeMap<String, Value>,
}

impl Run {
    async fn open(&mut self) {
        let (socket, _) = tokio_tungstenite::connect_async(&self.url).await.expect("a websocket");
        self.socket = Some(socket);
    }

    async fn say(&mut self, text: String) {
        if self.socket.is_none() {
            self.open().await;
        }
        let socket = self.socket.as_mut().expect("a socket");
        socket.send(Message::Text(text.into())).await.expect("an open socket");
    }

    /// The next frame; null when the socket is closed.
    async fn hear(&mut self) -> Result<Value, String> {
        let socket = self.socket.as_mut().ok_or("no socket")?;
        loop {
            let frame = tokio::time::timeout(LIMIT, socket.next()).await;
            match frame.map_err(|_| "nothing came")? {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).map_err(|e| e.to_string());
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(Value::Null),
                Some(Ok(_)) => {}
            }
        }
    }

    fn ours(&self, recorded: &Value) -> String {
        with_our_tokens(&self.tokens, &self.ids.translate_json(recorded).to_string())
    }

    /// Makes the world do what a published message tells of.
    async fn cause(&mut self, data: &Value, channel: &str) {
        let model = &data["model"];
        let text = model["text"].as_str().unwrap_or_default();
        let recorded = model["id"].as_str().unwrap_or_default().to_owned();
        let id = self.ids.translate(&recorded);
        let before = self.known.insert(recorded.clone(), model.clone()).unwrap_or_default();
        if channel.ends_with("/events") {
            let payload = model.get("payload").cloned();
            self.world.add_event(ROOM, text, model["meta"].clone(), payload);
            return;
        }
        match data["operation"].as_str() {
            Some("create") if model.get("virtualUser").is_some() => {
                let body = json!({"text": text, "virtualUser": model["virtualUser"]});
                let room = self.world.find_room(ROOM).expect("the room");
                let token = self.world.token_for("bridgebot", "approved-client-key");
                self.post(&format!("/v1/rooms/{room}/chatMessages"), &token, &body).await;
            }
            Some("create") => {
                let from = model["fromUser"]["username"].as_str().expect("an author");
                let id = match (model["parentId"].as_str(), model["status"].as_bool()) {
                    (Some(parent), _) => {
                        self.world.reply(from, ROOM, &self.ids.translate(parent), text)
                    }
                    (None, Some(true)) => {
                        let said = text.split_once(' ').map_or(text, |(_, said)| said);
                        self.world.post_as_status(from, ROOM, said)
                    }
                    _ => self.world.post(from, ROOM, text),
                };
                self.ids.insert(&recorded, &id);
            }
            Some("update") if model["editedAt"] != before["editedAt"] => {
                self.world.edit(ROOM, &id, text);
            }
            Some("update") if text.is_empty() => self.world.delete(ROOM, &id),
            Some("remove") => self.world.delete(ROOM, &id),
            Some("patch") => {
                let room = self.world.find_room(ROOM).expect("the room");
                let token = self.world.token_for("bob", "bridge-client-key");
                let path = format!("/v1/user/me/rooms/{room}/unreadItems");
                self.post(&path, &token, &json!({"chat": [id]})).await;
            }
            _ => {}
        }
    }

    async fn post(&self, path: &str, token: &str, body: &Value) {
        self.call(reqwest::Method::POST, path, token, body).await;
    }

    pub(crate) async fn call(
        &self,
        method: reqwest::Method,
        path: &str,
        token: &str,
        body: &Value,
    ) {
        let url = format!("{}{path}", self.http_url);
        let request = client().request(method, url).bearer_auth(token).json(body);
        let answer = request.header("accept", "application/json").send().await;
        assert_eq!(answer.expect("an answer").status(), 200, "{path}");
    }

    async fn note(&mut self, note: &str) {
        match note {
            n if n.contains("drops the socket") => {
                self.socket = None;
                let gone = async {
                    while self.world.faye_sockets() > 0 {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::time::timeout(LIMIT, gone).await.expect("the server notices");
            }
            n if n.contains("frank leaves") => self.world.leave(ROOM, "frank"),
            n if n.contains("deletes it: DELETE /v1/oauth-clients") => {
                self.world.delete_client("second-client-key");
            }
            n if n.contains("the token is deleted") => {
                let token = self.world.token_for("carol", "second-client-key");
                assert!(self.world.revoke_token(&token));
            }
            n => story::act(self, n).await,
        }
    }

    fn learn(&mut self, recorded: &Value, ours: &Value) {
        for (theirs, ours) in
            recorded.as_array().into_iter().flatten().zip(ours.as_array().into_iter().flatten())
        {
            if let (Some(theirs), Some(ours)) =
                (theirs["clientId"].as_str(), ours["clientId"].as_str())
            {
                self.ids.insert(theirs, ours);
            }
        }
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().tls_certs_only([]).timeout(LIMIT).build().expect("a client")
}

/// The published messages among those of a frame.
fn published(frame: &Value) -> Vec<(Value, String)> {
    let messages = frame["hear"].as_array().into_iter().flatten();
    messages
        .filter(|m| m.get("data").is_some())
        .map(|m| (m["data"].clone(), m["channel"].as_str().unwrap_or_default().to_owned()))
        .collect()
}

async fn replay(session: &Session, sim: &GitterSim, loose: &[&str]) -> Result<(), String> {
    let mut run = Run {
        world: sim.world(),
        ids: Ids::default(),
        tokens: our_tokens(&sim.world()),
        url: sim.faye_url(),
        http_url: sim.web_url(),
        socket: None,
        known: std::collections::BTreeMap::new(),
    };
    for (theirs, ours) in &run.tokens {
        run.ids.insert(theirs, ours);
    }
    if session.name.contains("legacy") {
        run.url = run.url.replace("/bayeux", "/faye");
    }
    let crowded = CROWDED.contains(&session.name.as_str());
    let mut caused_to = 0;
    for (i, frame) in session.frames.iter().enumerate() {
        let at = format!("frame {i}");
        let here = &session.frames[i..];
        if crowded && is_presence(frame) {
            continue;
        }
        let is_start = !crowded && !published(frame).is_empty() && i >= caused_to;
        if is_start || frame.get("note").is_some_and(|n| n.as_str().is_some_and(away)) {
            if let Some(note) = frame["note"].as_str() {
                run.note(note).await;
            }
            // What was published while the socket was away comes after the next frame said.
            let skip = here.iter().take_while(|f| published(f).is_empty()).count();
            let run_of = here[skip..].iter().take_while(|f| !published(f).is_empty());
            for (data, channel) in run_of.clone().flat_map(published).collect::<Vec<_>>() {
                run.cause(&data, &channel).await;
            }
            caused_to = i + skip + run_of.count();
        }
        if let Some(said) = frame.get("say") {
            let text = run.ours(said);
            if session.http {
                // The message that ends a long poll is posted before it: it need not be awaited.
                let next = session.frames.get(i + 1).cloned().unwrap_or_default();
                for (data, channel) in published(&next) {
                    run.cause(&data, &channel).await;
                }
                caused_to = i + 2;
                let request = client().post(format!("{}/bayeux", run.http_url));
                let request = request.header("content-type", "application/json").body(text);
                let ours: Value =
                    request.send().await.expect("an answer").json().await.expect("JSON");
                run.learn(&next["hear"], &ours);
                run.ids.compare(&at, &next["hear"], &ours, loose)?;
            } else {
                run.say(text).await;
            }
        } else if let Some(note) = frame["note"].as_str().filter(|n| !away(n)) {
            run.note(note).await;
        } else if let Some(recorded) = frame.get("hear").filter(|_| !session.http) {
            let mut ours = run.hear().await.map_err(|e| format!("{at}: {e}"))?;
            while crowded && is_presence(&json!({"hear": ours})) {
                ours = run.hear().await.map_err(|e| format!("{at}: {e}"))?;
            }
            run.learn(recorded, &ours);
            run.ids.compare(&at, recorded, &ours, loose)?;
        }
    }
    if session.http || run.socket.is_none() {
        return Ok(());
    }
    if session.name.contains("client-deleted") {
        let end = run.hear().await?;
        return end.is_null().then_some(()).ok_or(format!("instead of the end: {end}"));
    }
    if session.name.contains("after-leaving") {
        run.world.post("bob", ROOM, "not for frank");
    }
    // Nothing more came: the next answer is the one to this heartbeat.
    run.say("[]".into()).await;
    let last = run.hear().await?;
    (last == json!([])).then_some(()).ok_or(format!("more than recorded: {last}"))
}

fn is_presence(frame: &Value) -> bool {
    frame["hear"][0]["data"]["notification"] == "presence"
}

fn away(note: &str) -> bool {
    note.contains("drops the socket")
}

#[tokio::test]
async fn faye_sessions_are_the_recorded_ones() {
    let (mut wrong, mut replayed) = (Vec::new(), 0);
    for session in sessions() {
        let row = EXEMPT.iter().find(|(n, ..)| *n == session.name);
        if row.is_some_and(|(_, keys, _)| keys == &["*"]) {
            continue;
        }
        let (sim, world) = seed::start().await;
        if session.name.contains("removals") {
            world.add_room(RoomSpec {
                id: Some("5f000000000000000000e00a".into()),
                admins: vec!["alice".into()],
                ..RoomSpec::public("acme/doomed")
            });
            world.join("acme/doomed", "bob");
            world.join(ROOM, "leaver");
            world.join(ROOM, "leaver2");
        }
        world.join(ROOM, if session.name.contains("leaving") { "frank" } else { "alice" });
        if session.name.contains("snapshot") || session.name.contains("subscribe") {
            world.post("bob", ROOM, "seen over long polling");
            world.post("alice", ROOM, "before subscribing");
        }
        replayed += 1;
        if let Err(error) = replay(&session, &sim, row.map_or(&[][..], |(_, keys, _)| keys)).await {
            wrong.push(format!("{}: {error}", session.name));
        }
    }
    println!("faye: {replayed} sessions replayed");
    assert!(wrong.is_empty(), "{} of {replayed} differ:\n{}", wrong.len(), wrong.join("\n"));
}

//! What the bridge must live with: rooms made by halves, forgotten transaction ids, and how transactions come.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use homeserver_sim::{CallError, Config, Fault, HomeserverSim, Lost, Matcher, World};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;

/// The appservice's side of the wire: asks, and listens.
struct Bridge {
    home: HomeserverSim,
    router: Router,
    heard: Arc<Mutex<Vec<Heard>>>,
    /// What is answered to transactions.
    status: Arc<Mutex<Option<u16>>>,
}

/// One request of the homeserver.
#[derive(Debug, Clone)]
struct Heard {
    at: Instant,
    path: String,
    body: Value,
}

impl Heard {
    fn events(&self) -> Vec<String> {
        let events = self.body["events"].as_array().into_iter().flatten();
        events.map(|e| format!("{} {}", e["type"].as_str().unwrap_or(""), text(e))).collect()
    }
}

fn text(event: &Value) -> String {
    let content = &event["content"];
    let said = content["body"].as_str().or(content["membership"].as_str());
    said.unwrap_or_default().to_owned()
}

impl Bridge {
    fn start(config: Config) -> Self {
        let home = HomeserverSim::start(config);
        let router = home.router();
        let heard = Arc::default();
        let bridge = Self { home, router, heard, status: Arc::new(Mutex::new(Some(200))) };
        bridge.listen();
        bridge
    }

    fn world(&self) -> World {
        self.home.world()
    }

    /// Transactions are answered with this; `None` never.
    fn answer(&self, status: Option<u16>) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    fn listen(&self) {
        let (heard, status) = (self.heard.clone(), self.status.clone());
        self.world().connect(Arc::new(move |request: Request<Body>| {
            let (heard, status) = (heard.clone(), status.clone());
            Box::pin(async move {
                let path = request.uri().path().to_owned();
                let body = axum::body::to_bytes(request.into_body(), 1 << 20).await;
                let body = body.map_err(|_| CallError::Reset)?;
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let at = Instant::now();
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(Heard { at, path, body });
                let status = *status.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(status) = status else { return std::future::pending().await };
                let mut response = Response::new(Body::from("{}"));
                *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                Ok(response)
            })
        }));
    }

    fn heard(&self, what: &str) -> Vec<Heard> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().filter(|heard| heard.path.contains(what)).cloned().collect()
    }

    async fn raw(&self, method: &str, path: &str, body: &Value) -> Response<Body> {
        let request = Request::builder().method(method).uri(format!("/_matrix/client{path}"));
        let request = request.header(header::AUTHORIZATION, "Bearer as-secret");
        let request = request.body(Body::from(body.to_string())).expect("a request");
        self.router.clone().oneshot(request).await.expect("infallible")
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let response = self.raw(method, path, &body).await;
        assert_eq!(Lost::of(&response), None, "{method} {path}");
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// A ghost with its device.
    async fn ghost(&self, name: &str) -> String {
        let body = json!({"type": "m.login.application_service", "username": name,
            "inhibit_login": true});
        assert_eq!(self.ask("POST", "/v3/register", body).await.0, 200);
        let user = format!("%40{name}%3Alocalhost");
        let path = format!("/v3/devices/BRIDGE?user_id={user}");
        assert_eq!(self.ask("PUT", &path, json!({})).await.0, 201);
        user
    }

    async fn room(&self) -> String {
        let (status, answer) = self.ask("POST", "/v3/createRoom", json!({})).await;
        assert_eq!(status, 200, "{answer}");
        answer["room_id"].as_str().expect("an id").to_owned()
    }

    async fn say(&self, room: &str, txn: &str, query: &str) -> (u16, Value) {
        let room = room.replace('!', "%21").replace(':', "%3A");
        let path = format!("/v3/rooms/{room}/send/m.room.message/{txn}{query}");
        self.ask("PUT", &path, json!({"msgtype": "m.text", "body": txn})).await
    }

    /// Lets everything happen that needs no more than this.
    async fn pass(&self, seconds: u64) {
        sleep(Duration::from_secs(seconds)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_room_refused_half_way_stays_and_tells_whose_it_is() {
    let bridge = Bridge::start(Config::default());
    let rows = [
        (
            "override",
            json!({"power_level_content_override": {"users": {"@gitter:localhost": 100}}}),
            400,
            2,
        ),
        (
            "state",
            json!({"initial_state": [{"type": "x", "state_key": "@a:localhost", "content": {}}]}),
            403,
            2,
        ),
        ("invite", json!({"name": "whole", "invite": ["@a:elsewhere"]}), 502, 7),
    ];
    for (name, mut body, status, events) in rows {
        body["creation_content"] = json!({"im.gitter.portal": name});
        let (got, answer) = bridge.ask("POST", "/v3/createRoom", body).await;
        assert_eq!(got, status, "row: {name}: {answer}");
        let rooms = bridge.world().rooms();
        let left = rooms.iter().find(|room| room.creation["im.gitter.portal"] == name);
        let left = left.unwrap_or_else(|| panic!("row: {name}: no room"));
        assert_eq!(left.with("join").collect::<Vec<_>>(), ["@gitter:localhost"], "row: {name}");
        assert_eq!(bridge.world().events(&left.id).len(), events, "row: {name}");
    }
    let (_, answer) = bridge.ask("GET", "/v3/joined_rooms", json!({})).await;
    assert_eq!(answer["joined_rooms"].as_array().map(Vec::len), Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_device_is_remembered_for_a_day_and_a_path_for_half_an_hour_of_one_process() {
    let bridge = Bridge::start(Config::default());
    let (ann, bob) = (bridge.ghost("gitter_ann").await, bridge.ghost("gitter_bob").await);
    let room = bridge.room().await;
    for who in [&ann, &bob] {
        let user = who.replace("%40", "@").replace("%3A", ":");
        let path = format!("/v3/rooms/{}/invite", room.replace('!', "%21"));
        assert_eq!(bridge.ask("POST", &path, json!({"user_id": user})).await.0, 200);
        let path = format!("/v3/join/{}?user_id={who}", room.replace('!', "%21"));
        assert_eq!(bridge.ask("POST", &path, json!({})).await.0, 200);
    }
    let (plain, device) = (format!("?user_id={ann}"), format!("?user_id={ann}&device_id=BRIDGE"));
    let first = bridge.say(&room, "plain", &plain).await;
    let kept = bridge.say(&room, "kept", &device).await;
    assert_eq!(bridge.say(&room, "plain", &plain).await, first, "at once");
    assert_eq!(bridge.say(&room, "plain", &format!("?user_id={bob}")).await, first, "any ghost");
    bridge.world().restart();
    let second = bridge.say(&room, "plain", &plain).await;
    assert_ne!(second, first, "forgotten with the process");
    assert_eq!(bridge.say(&room, "kept", &device).await, kept, "on disk");
    bridge.pass(29 * 60).await;
    assert_eq!(bridge.say(&room, "plain", &plain).await, second, "within half an hour");
    bridge.pass(32 * 60).await;
    assert_ne!(bridge.say(&room, "plain", &plain).await, second, "after an hour");
    assert_eq!(bridge.say(&room, "kept", &device).await, kept, "after an hour");
    bridge.pass(24 * 3600).await;
    assert_ne!(bridge.say(&room, "kept", &device).await, kept, "after a day");
}

#[tokio::test(start_paused = true)]
async fn a_failed_transaction_comes_again_with_growing_pauses_and_the_rest_follows_in_order() {
    let bridge = Bridge::start(Config { push_delay_ms: 0..=0, ..Config::default() });
    let alice = bridge.world().person("alice");
    let room = alice.start_chat("@gitter:localhost", false).expect("a chat");
    bridge.ask("POST", &format!("/v3/join/{}", room.replace('!', "%21")), json!({})).await;
    bridge.pass(1).await;
    let before = bridge.heard("transactions").len();
    bridge.answer(Some(500));
    let began = Instant::now();
    alice.say(&room, "one").expect("said");
    bridge.pass(40).await;
    alice.read(&room, "$one").expect("read");
    alice.say(&room, "two").expect("said");
    bridge.pass(30).await;
    let failed = bridge.heard("transactions").split_off(before);
    let waits: Vec<u64> = failed.iter().map(|heard| (heard.at - began).as_secs()).collect();
    assert_eq!(waits, [0, 2, 6, 14, 30, 62]);
    assert!(failed.iter().all(|h| h.path == failed[0].path && h.events() == failed[0].events()));
    assert!(bridge.world().takes_appservice_for_down());
    bridge.answer(Some(200));
    let (status, _) = bridge.ask("POST", "/v1/appservice/gitter/ping", json!({})).await;
    assert_eq!(status, 200);
    bridge.pass(1).await;
    let after = bridge.heard("transactions").split_off(before + failed.len());
    let events: Vec<String> = after.iter().flat_map(Heard::events).collect();
    assert_eq!(events, ["m.room.message one", "m.room.message two"], "at once, in order");
    assert!(after.iter().all(|h| h.body["ephemeral"] == json!([])), "receipts are lost");
    assert_eq!(bridge.world().unpushed(), 0);
    alice.read(&room, "$two").expect("read");
    bridge.pass(1).await;
    let last = bridge.heard("transactions").pop().expect("a transaction");
    assert_eq!(last.body["ephemeral"][0]["type"], "m.receipt");
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_ids_begin_anew_and_nothing_is_repeated_before_there_is_news() {
    let bridge = Bridge::start(Config { push_delay_ms: 0..=0, ..Config::default() });
    let alice = bridge.world().person("alice");
    let room = alice.start_chat("@gitter:localhost", false).expect("a chat");
    bridge.pass(1).await;
    bridge.ask("POST", &format!("/v3/join/{}", room.replace('!', "%21")), json!({})).await;
    bridge.pass(1).await;
    assert_ne!(bridge.heard("transactions/1").len(), 0);
    bridge.world().restart();
    bridge.heard.lock().expect("unpoisoned").clear();
    alice.say(&room, "hello").expect("said");
    bridge.pass(1).await;
    assert_eq!(bridge.heard("").len(), 1);
    assert!(bridge.heard("")[0].path.ends_with("/1"), "the ids begin anew");

    bridge.world().disconnect();
    alice.say(&room, "kept").expect("said");
    bridge.pass(1).await;
    bridge.world().restart();
    bridge.heard.lock().expect("unpoisoned").clear();
    bridge.listen();
    let (status, _) = bridge.ask("POST", "/v1/appservice/gitter/ping", json!({})).await;
    assert_eq!(status, 200);
    bridge.pass(3600).await;
    assert_eq!(bridge.heard("transactions").len(), 0, "no ping helps before there is news");
    alice.say(&room, "news").expect("said");
    bridge.pass(3).await;
    let events: Vec<String> = bridge.heard("transactions").iter().flat_map(Heard::events).collect();
    assert_eq!(events, ["m.room.message kept", "m.room.message news"]);
}

#[tokio::test(start_paused = true)]
async fn a_ping_does_not_wait_for_an_attempt_that_hangs() {
    let bridge = Bridge::start(Config { push_delay_ms: 0..=0, ..Config::default() });
    let alice = bridge.world().person("alice");
    let room = alice.create_room(&json!({"preset": "private_chat"})).expect("a room");
    bridge.world().disconnect();
    alice.invite(&room, "@gitter:localhost").expect("invited");
    bridge.pass(1).await;
    bridge.listen();
    bridge.answer(None);
    bridge.pass(2).await;
    assert_eq!(
        bridge.heard("transactions").len(),
        1,
        "the first repeat is under way, for a minute"
    );
    bridge.answer(Some(200));
    assert_eq!(bridge.ask("POST", "/v1/appservice/gitter/ping", json!({})).await.0, 200);
    bridge.pass(1).await;
    assert_eq!(bridge.heard("transactions").len(), 2);
    assert_eq!(bridge.world().unpushed(), 0);
}

/// What is told of after a restart with a transaction under way and three messages queued behind it.
async fn after_a_bad_restart(flaws: bool) -> Vec<String> {
    let config = Config { push_delay_ms: 0..=0, flaws, ..Config::default() };
    let bridge = Bridge::start(config);
    let alice = bridge.world().person("alice");
    let room = alice.start_chat("@gitter:localhost", false).expect("a chat");
    bridge.ask("POST", &format!("/v3/join/{}", room.replace('!', "%21")), json!({})).await;
    bridge.pass(1).await;
    bridge.answer(None);
    alice.say(&room, "under way").expect("said");
    bridge.pass(1).await;
    for text in ["one", "two", "three"] {
        alice.say(&room, text).expect("said");
    }
    bridge.pass(1).await;
    bridge.world().stop();
    bridge.answer(Some(200));
    bridge.heard.lock().expect("unpoisoned").clear();
    bridge.world().start();
    alice.say(&room, "news").expect("said");
    bridge.pass(600).await;
    let events = bridge.heard("transactions").iter().flat_map(Heard::events).collect::<Vec<_>>();
    events.iter().map(|event| event.replace("m.room.message ", "")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_restart_loses_what_was_queued_only_with_synapses_flaws() {
    let all = ["under way", "one", "two", "three", "news"];
    assert_eq!(after_a_bad_restart(false).await, all);
    assert_eq!(after_a_bad_restart(true).await, ["news"]);
}

#[tokio::test(start_paused = true)]
async fn an_event_of_the_moment_of_recovery_is_put_aside_only_with_synapses_flaws() {
    for flaws in [false, true] {
        let config = Config { push_delay_ms: 0..=0, latency_ms: 0..=0, flaws, ..Config::default() };
        let bridge = Bridge::start(config);
        let alice = bridge.world().person("alice");
        let room = alice.start_chat("@gitter:localhost", false).expect("a chat");
        bridge.ask("POST", &format!("/v3/join/{}", room.replace('!', "%21")), json!({})).await;
        bridge.pass(1).await;
        bridge.answer(Some(500));
        alice.say(&room, "fails").expect("said");
        sleep(Duration::from_millis(if flaws { 2001 } else { 1999 })).await;
        bridge.answer(Some(200));
        alice.say(&room, "aside").expect("said");
        bridge.pass(60).await;
        alice.say(&room, "later").expect("said");
        bridge.pass(60).await;
        let told: Vec<String> =
            bridge.heard("transactions").iter().flat_map(Heard::events).collect();
        let aside = told.contains(&"m.room.message aside".to_owned());
        assert!(told.contains(&"m.room.message later".to_owned()));
        assert_eq!((aside, bridge.world().unpushed()), (!flaws, usize::from(flaws)));
    }
}

#[tokio::test(start_paused = true)]
async fn while_one_transaction_is_under_way_the_next_gathers_at_most_a_hundred_events() {
    let bridge = Bridge::start(Config { push_delay_ms: 0..=0, ..Config::default() });
    let alice = bridge.world().person("alice");
    let room = alice.start_chat("@gitter:localhost", false).expect("a chat");
    bridge.ask("POST", &format!("/v3/join/{}", room.replace('!', "%21")), json!({})).await;
    bridge.pass(1).await;
    let before = bridge.heard("transactions").len();
    bridge.answer(None);
    alice.say(&room, "first").expect("said");
    bridge.pass(1).await;
    for n in 0..250 {
        alice.say(&room, &n.to_string()).expect("said");
    }
    bridge.pass(58).await;
    assert_eq!(bridge.heard("transactions").len(), before + 1, "one is under way for a minute");
    bridge.answer(Some(200));
    bridge.pass(10).await;
    let sizes: Vec<usize> =
        bridge.heard("transactions")[before..].iter().map(|h| h.events().len()).collect();
    assert_eq!(sizes, [1, 1, 100, 100, 50]);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_of_the_namespace_is_asked_for_before_its_invite_is_told() {
    let bridge = Bridge::start(Config::default());
    let alice = bridge.world().person("alice");
    let room = alice.create_room(&json!({"preset": "private_chat"})).expect("a room");
    alice.invite(&room, "@gitter_new:localhost").expect("invited");
    bridge.pass(1).await;
    let paths: Vec<String> = bridge.heard("").into_iter().map(|heard| heard.path).collect();
    let user = "/_matrix/app/v1/users/%40gitter_new%3Alocalhost";
    assert_eq!(paths, [user, "/_matrix/app/v1/transactions/1"]);
    let told = bridge.heard("transactions");
    assert_eq!(told[0].events(), ["m.room.member invite"], "and nothing else of that room");
    let state = told[0].body["events"][0]["unsigned"]["invite_room_state"].as_array().map(Vec::len);
    assert_eq!(state, Some(3), "creation, join rule, inviter");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_room_is_told_of_and_then_unknown() {
    let bridge = Bridge::start(Config::default());
    let room = bridge.room().await;
    bridge.pass(1).await;
    let before = bridge.heard("transactions").len();
    bridge.world().purge_room(&room);
    bridge.pass(1).await;
    let told: Vec<String> =
        bridge.heard("transactions")[before..].iter().flat_map(Heard::events).collect();
    assert_eq!(told, ["m.room.member leave"]);
    let path = room.replace('!', "%21");
    let (_, rooms) = bridge.ask("GET", "/v3/joined_rooms", json!({})).await;
    assert_eq!(rooms["joined_rooms"], json!([]));
    let members = bridge.ask("GET", &format!("/v3/rooms/{path}/joined_members"), json!({})).await;
    assert_eq!(members.0, 403);
    assert_eq!(bridge.ask("POST", &format!("/v3/join/{path}"), json!({})).await.0, 404);
    assert_eq!(bridge.world().room(&room), None);
}

#[tokio::test(start_paused = true)]
async fn faults_do_what_they_say_with_and_without_effect() {
    let bridge = Bridge::start(Config::default());
    let world = bridge.world();
    let rooms = || world.rooms().len();
    let create = async || {
        let response = bridge.raw("POST", "/v3/createRoom", &json!({})).await;
        Lost::of(&response).is_none().then(|| response.status().as_u16())
    };
    //        fault                      status   effect
    let rows = [
        (Fault::Status(503), Some(503), 0),
        (Fault::Limited(Some(1500)), Some(429), 0),
        (Fault::Html502, Some(502), 0),
        (Fault::Drop, None, 0),
        (Fault::DropAfterEffect, None, 1),
        (Fault::Html502AfterEffect, Some(502), 1),
        (Fault::SlowMs(90_000), Some(200), 1),
    ];
    for (fault, status, effect) in rows {
        let before = rooms();
        world.fault(1, Matcher::new("POST", "createRoom"), fault);
        assert_eq!(create().await, status, "{fault:?}");
        assert_eq!(rooms() - before, effect, "{fault:?}");
        assert_eq!(create().await, Some(200), "used up");
    }
    for (fault, effect) in [(Fault::Hang, 0), (Fault::HangAfterEffect, 1)] {
        let before = rooms();
        world.fault(1, Matcher::any(), fault);
        assert!(timeout(Duration::from_secs(600), create()).await.is_err(), "{fault:?}");
        assert_eq!(rooms() - before, effect, "{fault:?}");
    }
    world.stop();
    let gone = bridge.raw("GET", "/v3/account/whoami", &json!({})).await;
    assert_eq!(Lost::of(&gone), Some(Lost { never_arrived: true }));
    assert!(world.person("alice").say("!r", "x").is_err_and(|refusal| refusal.status == 0));
    world.start();
    assert_eq!(bridge.ask("GET", "/v3/account/whoami", json!({})).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_clients_view_has_edits_applied_and_removed_messages_left_out() {
    let bridge = Bridge::start(Config::default());
    let world = bridge.world();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = alice.start_chat(bob.id(), false).expect("a chat");
    assert_eq!(bob.invites(), std::slice::from_ref(&room));
    bob.join(&room).expect("joined");
    let one = alice.say(&room, "one").expect("said");
    alice.edit(&room, &one, "ONE").expect("edited");
    bob.edit(&room, &one, "not bob's to edit").expect("sent all the same");
    bob.react(&room, &one, "+").expect("reacted");
    let answer = bob.reply(&room, &one, "two").expect("said");
    let spam = bob.say(&room, "spam").expect("said");
    alice.redact(&room, &spam).expect("removed");
    let shown = world.timeline(&room);
    let texts: Vec<(&str, bool)> = shown.iter().map(|m| (m.text(), m.edited)).collect();
    assert_eq!(texts, [("ONE", true), ("two", false)]);
    assert_eq!(shown[0].reactions, [(bob.id().to_owned(), "+".to_owned())]);
    assert_eq!(
        (shown[1].id.as_str(), shown[1].replies_to()),
        (answer.as_str(), Some(one.as_str()))
    );
    let new = alice.upgrade(&room, 12).expect("upgraded");
    assert_eq!(world.room(&room).expect("there").replaced_by, Some(new.clone()));
    assert_eq!(world.membership(&new, bob.id()), "", "members are not taken along");
}

/// A few people and the bridge busy for a while: the whole course of the world as text.
async fn course(seed: u64) -> String {
    let bridge = Bridge::start(Config { seed, ..Config::default() });
    let world = bridge.world();
    let alice = world.person("alice");
    let room = alice.start_chat("@gitter:localhost", false).expect("a chat");
    let path = room.replace('!', "%21");
    bridge.ask("POST", &format!("/v3/join/{path}"), json!({})).await;
    let sends = (0..20).map(|n| {
        let (bridge, room) = (&bridge, &room);
        async move { bridge.say(room, &format!("t{n}"), "").await }
    });
    for n in 0..10 {
        alice.say(&room, &n.to_string()).expect("said");
    }
    let answers = futures_util::future::join_all(sends).await;
    bridge.pass(5).await;
    let heard = bridge.heard("");
    let heard: Vec<_> = heard.iter().map(|heard| (&heard.path, &heard.body)).collect();
    format!("{answers:?} {heard:?} {:?} {:?}", world.events(&room), world.calls())
}

#[tokio::test(start_paused = true)]
async fn equal_seeds_give_equal_worlds_and_others_do_not() {
    assert_eq!(course(7).await, course(7).await);
    assert_ne!(course(7).await, course(8).await);
}

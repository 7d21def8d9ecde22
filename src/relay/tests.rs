//! The relay between a homeserver that answers as told and a simulated Gitter.

use std::time::Duration;

use gitter_sim::{GitterSim, RoomSpec, SimConfig};
use reconcile::{
    breaker::Away,
    driver::Limits,
    model::{
        Account, Attempt, Control, Cursor, Failure, GitterUserId, Link, MessageId, Millis, News,
        Notice, Outgoing, Payload, Person, Place, Portal, Reason, Say, Session, Target,
    },
    port::Clock as _,
};
use ruma::{OwnedRoomId, OwnedUserId, room_id, user_id};
use serde_json::{Value, json};
use store::{ReadTxn, SealKey, Store};
use tokio_util::sync::CancellationToken;
use url::Url;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{any, method, path_regex, query_param},
};

use super::*;
use crate::{
    appservice::{Incoming, Intake as _},
    gitter::{Rest, faye::Dialler},
    http::{self, Destination, guarded::Guarded},
    intake::Intake,
    matrix::{Client, Ghosts, picture::Pictures},
};

mod amended;
mod calls;
mod cut_off;
mod deleted;
mod elsewhere;
mod emptied;
mod refused;
mod restored;
mod whole;

struct Fixture {
    sim: GitterSim,
    home: MockServer,
    db: Db,
    relay: Relay,
    intake: Intake,
    key: PortalKey,
}

fn alice() -> OwnedUserId {
    user_id!("@alice:example.org").to_owned()
}

fn portal_room() -> OwnedRoomId {
    room_id!("!portal:example.org").to_owned()
}

fn control_room() -> OwnedRoomId {
    room_id!("!control:example.org").to_owned()
}

impl Fixture {
    /// Alice is logged in and has a control room, and an open portal for `acme/rockets`, where Bob is, too.
    async fn new() -> Self {
        Self::on(SimConfig::default(), Choices::default()).await
    }

    /// What Alice said in the portal in two parts, which are on Gitter; their ids.
    async fn said_in_two_parts(&self, event: &ruma::EventId) -> Vec<MessageId> {
        let mut ids = Vec::new();
        for part in 0..2 {
            let text = format!("part {part}");
            let message = self.sim.world().post("alice", "acme/rockets", &text);
            let link = Link {
                part,
                digest: reconcile::model::digest(&text),
                ..link(&self.key, message.parse().expect("an id"), event)
            };
            ids.push(link.message.clone());
            self.db.change(move |t| t.put_link(&link)).await.expect("written");
        }
        ids
    }

    async fn with(choices: Choices) -> Self {
        Self::on(SimConfig::default(), choices).await
    }

    /// The same, on a Gitter of this kind.
    async fn on(config: SimConfig, choices: Choices) -> Self {
        let sim = GitterSim::start(config).await.expect("a port");
        let world = sim.world();
        let own = world.add_user("alice", "Alice A.");
        world.add_user("bob", "Bob B.");
        let room = world.add_room(RoomSpec::public("acme/rockets"));
        world.join("acme/rockets", "alice");
        world.join("acme/rockets", "bob");
        world.add_oauth_client("key", "secret", "http://127.0.0.1/login");
        let token = world.token_for("alice", "key");

        let home = MockServer::start().await;
        let db = Db::new(Store::in_memory(SealKey::new([7; 32])).expect("in memory"));
        let url = |text: &str| Url::parse(text).expect("a valid url");
        let http = |to| http::client(to).expect("a client");
        let bot = user_id!("@gitter:example.org").to_owned();
        let ghosts = || Ghosts::try_from(&*bot).expect("a valid bot");
        let client = Client::new(
            http(Destination::Homeserver),
            url(&home.uri()),
            "as_token".into(),
            bot.clone(),
            "gitter".to_owned(),
        );
        let sides = Sides::default();
        let client = client.minding(Some(sides.homeserver.clone()));
        let pictures = Pictures::new(
            Guarded::new(Vec::new(), http(Destination::Media).into()).expect("clients"),
            client.clone(),
            db.clone(),
        );
        let web = url(&sim.web_url());
        let homeserver = Homeserver::new(client, ghosts(), pictures, web.clone());
        let rest = Rest::new(http(Destination::Gitter), url(&sim.api_url()), 100)
            .minding(sides.gitter.clone());
        let gitter = Speaker::new(rest, db.clone(), web.clone());
        let (limits, clock) = (Limits::default(), Clocks::system());
        let bridge = Bridge::new(homeserver, gitter, db.clone(), clock, limits, 1);
        let bridge = Arc::new(bridge.minding(sides));
        let voice = words::Voice::new(url("http://127.0.0.1/"), [7; 32].into());
        let metrics = Metrics::new();
        let relay = Relay::new(bridge.clone(), metrics.clone(), voice.clone(), choices);
        let faye = url(&sim.faye_url());
        let live = live::Live::new(relay.clone(), faye, Dialler::Network, CancellationToken::new());
        let intake = Intake::new(bridge, relay.clone(), live, ghosts(), voice, &web, metrics);

        let key = PortalKey::new(alice(), room.parse().expect("a valid id"));
        let id: GitterUserId = own.parse().expect("a valid id");
        let person = Person { id, username: "alice".to_owned(), display_name: String::new() };
        let account = Account {
            control: Control::At(control_room()),
            session: Session::Active(person),
            generation: 1,
            ..Account::default()
        };
        let mut portal = Portal::found(true, Reason::Login, Millis(1));
        (portal.place, portal.open.last) = (Place::At(portal_room()), Some(true));
        let shows = reconcile::model::GitterRoom {
            uri: "acme/rockets".to_owned(),
            name: "acme/rockets".to_owned(),
            topic: String::new(),
            avatar_url: None,
            one_to_one: false,
        };
        let (at, token) = (key.clone(), secrecy::SecretString::from(token));
        let rows = db.change(move |t| {
            t.put_account(&at.account, &account)?;
            t.put_token(&at.account, &token)?;
            let chat = reconcile::model::Chat {
                account: alice(),
                stage: reconcile::model::ChatStage::Control,
                encrypted: false,
                invite_due: false,
                at: Millis(1),
            };
            t.put_chat(&control_room(), &chat)?;
            t.put_room(&at, &shows)?;
            t.put_portal(&at, &portal)
        });
        rows.await.expect("written");
        Self { sim, home, db, relay, intake, key }
    }

    /// Everything is answered with success, except what was mounted before.
    async fn agreeable(&self) {
        // No room was upgraded.
        self.refuse("GET", "state/m.room.tombstone", 404, "M_NOT_FOUND").await;
        self.holds(&[]).await;
        let body = json!({
            "event_id": "$sent:example.org", "room_id": "!r:example.org",
            "versions": ["v1.11"], "user_id": "@gitter:example.org",
        });
        let answer = ResponseTemplate::new(200).set_body_json(body);
        Mock::given(any()).respond_with(answer).mount(&self.home).await;
    }

    /// Rooms hold these events, the newest first.
    async fn holds(&self, events: &[Value]) {
        Mock::given(method("GET"))
            .and(path_regex("messages$"))
            .respond_with(ResponseTemplate::new(200).set_body_json(json!({"chunk": events})))
            .mount(&self.home)
            .await;
    }

    async fn refuse(&self, verb: &str, path: &str, status: u16, errcode: &str) {
        let body = json!({"errcode": errcode, "error": "no"});
        let answer = ResponseTemplate::new(status).set_body_json(body);
        Mock::given(method(verb))
            .and(path_regex(path))
            .respond_with(answer)
            .mount(&self.home)
            .await;
    }

    fn said_by_alice(&self, room: OwnedRoomId, id: &str, body: &str) -> Incoming {
        let now = self.relay.0.bridge.clock.now();
        Incoming {
            room_id: room,
            event_id: id.try_into().expect("a valid id"),
            sender: alice(),
            kind: "m.room.message".to_owned(),
            state_key: None,
            origin_server_ts: i64::try_from(now.0).expect("in range"),
            content: json!({"msgtype": "m.text", "body": body}),
            unsigned: Value::Null,
            redacts: None,
        }
    }

    async fn take(&self, event: Incoming) {
        let taken = self.intake.transaction("1".to_owned(), vec![event], Vec::new());
        taken.await.expect("stored");
    }

    async fn change_portal(&self, f: impl Fn(&mut Portal) + Send + 'static) {
        let key = self.key.clone();
        let changed = self.db.change(move |t| {
            let mut portal = t.portal(&key)?.expect("a portal");
            f(&mut portal);
            t.put_portal(&key, &portal)
        });
        changed.await.expect("written");
    }

    async fn until<T: Send + 'static>(
        &self,
        what: &str,
        f: impl Fn(&ReadTxn) -> Result<Option<T>, store::StoreError> + Clone + Send + 'static,
    ) -> T {
        let waiting = async {
            loop {
                if let Some(found) = self.db.look(f.clone()).await.expect("readable") {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        found.unwrap_or_else(|_| panic!("waited in vain for {what}"))
    }

    /// Puts words of the bot down; nobody is told that they are there.
    async fn put_words(&self, to: &Target, body: &str) {
        let say = Say::Text { body: body.to_owned(), html: body.to_owned() };
        let notice = Notice { to: to.clone(), say, at: Millis(1) };
        self.db.change(move |t| t.push_notice(&notice)).await.expect("written");
    }

    /// Says all words that wait.
    async fn say_all(&self) {
        self.relay.poke_waiting().await.expect("readable");
        self.until("nothing left", |t| Ok(t.notices_waiting()?.is_empty().then_some(()))).await;
    }

    /// What waits for alice's control room, as text.
    async fn told(&self) -> Vec<String> {
        let mut told = Vec::new();
        let to = Target::Account(alice());
        while let Some((number, notice)) = self
            .db
            .look({
                let to = to.clone();
                move |t| t.first_notice(&to)
            })
            .await
            .expect("readable")
        {
            if let Say::Text { body, .. } | Say::Reply { body, .. } = notice.say {
                told.push(body);
            }
            let to = to.clone();
            self.db.change(move |t| t.remove_notice(&to, number)).await.expect("written");
        }
        told
    }

    /// Messages the homeserver was sent into a room whose sending it accepted or not: their bodies.
    async fn sent_to(&self, room: &OwnedRoomId) -> Vec<String> {
        let requests = self.home.received_requests().await.expect("recorded");
        let part = room.as_str().replace('!', "%21").replace(':', "%3A");
        requests
            .iter()
            .filter(|request| {
                let path = request.url.path();
                path.contains(&part) && path.contains("/send/")
            })
            .map(|request| {
                let content: Value = serde_json::from_slice(&request.body).expect("json");
                content["body"].as_str().unwrap_or_default().to_owned()
            })
            .collect()
    }
}

#[test]
fn transaction_ids_depend_on_every_part_and_its_bounds() {
    assert_eq!(txn_id(&["a", "b"]), txn_id(&["a", "b"]));
    assert_ne!(txn_id(&["a", "b"]), txn_id(&["ab"]));
    assert_ne!(txn_id(&["a", "b"]), txn_id(&["a", "c"]));
    assert_eq!(txn_id(&[]).len(), 33);
}

#[tokio::test]
async fn a_message_goes_out_although_the_homeserver_hung_up_before_the_answer() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let event = fixture.said_by_alice(portal_room(), "$1:example.org", "hello");
    {
        let taken = fixture.intake.transaction("1".to_owned(), vec![event], Vec::new());
        // Begun, and dropped.
        tokio::select! {
            biased;
            taken = taken => panic!("nothing is on disk that fast: {taken:?}"),
            () = std::future::ready(()) => {}
        }
    }
    let event = ruma::owned_event_id!("$1:example.org");
    fixture.until("its link", move |t| Ok(t.links_of_event(&event)?.pop())).await;
    let texts: Vec<_> =
        fixture.sim.world().messages("acme/rockets").into_iter().map(|m| m.text).collect();
    assert_eq!(texts, ["hello"]);
}

#[tokio::test]
async fn who_logs_out_is_told_of_messages_that_are_not_sent_any_more() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let key = fixture.key.clone();
    let row = reconcile::model::Outgoing {
        event: ruma::owned_event_id!("$1:example.org"),
        sent: Millis(1),
        payload: reconcile::model::Payload::say(vec!["hello".to_owned()], false, None),
        done: 0,
        attempt: None,
        told: None,
    };
    fixture.db.change(move |t| t.push_outgoing(&key, &row)).await.expect("written");
    fixture.take(fixture.said_by_alice(control_room(), "$2:example.org", "logout")).await;
    let key = fixture.key.clone();
    assert_eq!(fixture.db.look(move |t| t.outgoing_count(&key)).await.expect("readable"), 0);
    let told = fixture.told().await;
    assert!(told.iter().any(|text| text.starts_with("1 message of yours")), "{told:?}");
}

#[tokio::test]
async fn a_refused_message_of_a_portal_that_was_closed_is_told_of_in_the_control_room() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    fixture.sim.world().ban("acme/rockets", "alice");
    fixture.change_portal(|portal| portal.open.desired = false).await;
    fixture.take(fixture.said_by_alice(portal_room(), "$1:example.org", "hello")).await;
    let to = Target::Account(alice());
    fixture.until("a word", move |t| t.first_notice(&to)).await;
    let told = fixture.told().await;
    assert!(told[0].starts_with("In acme/rockets: This message is not on Gitter"), "{told:?}");
}

#[tokio::test]
async fn who_is_being_put_out_of_a_portal_is_told_of_what_they_say_there_in_the_control_room() {
    let fixture = Fixture::new().await;
    // The call that puts them out is under way, which is noted before it is made.
    fixture.change_portal(|portal| (portal.open.desired, portal.open.last) = (false, None)).await;
    // That they came in once is heard only now.
    let mut came = fixture.said_by_alice(portal_room(), "$came:example.org", "");
    came.kind = "m.room.member".to_owned();
    came.state_key = Some(alice().to_string());
    came.content = json!({"membership": "join"});
    let mut said = fixture.said_by_alice(portal_room(), "$said:example.org", "hello");
    said.content = json!({"msgtype": "org.example.unknown", "body": "hello"});
    fixture.take(came).await;
    fixture.take(said).await;
    let anywhere = |t: &ReadTxn| Ok(t.notices_waiting()?.first().cloned());
    let told = fixture.until("a word", anywhere).await;
    assert_eq!(told, Target::Account(alice()), "they may be out of the room by now");
    let told = fixture.told().await;
    assert!(told.len() == 1 && told[0].starts_with("In acme/rockets: "), "{told:?}");
}

#[tokio::test]
async fn what_comes_from_a_room_that_its_portal_has_left_is_told_of_in_the_control_room() {
    let fixture = Fixture::new().await;
    let old = room_id!("!old:example.org").to_owned();
    fixture.change_portal(|portal| portal.open.desired = false).await;
    fixture.said_in_two_parts(ruma::event_id!("$before:example.org")).await;
    let at = old.clone();
    let written = fixture.db.change(move |t| {
        let stage = reconcile::model::ChatStage::Emptying;
        t.put_chat(&at, &reconcile::model::Chat::new(alice(), stage, Millis(1)))
    });
    written.await.expect("written");
    fixture.take(fixture.said_by_alice(old.clone(), "$late:example.org", "hello")).await;
    let mut deletion = fixture.said_by_alice(old, "$deletes:example.org", "");
    deletion.kind = "m.room.redaction".to_owned();
    deletion.content = json!({"redacts": "$before:example.org"});
    fixture.take(deletion).await;
    let told = fixture.told().await;
    assert!(told[0].contains("in which you wrote “hello”, so it went nowhere"), "{told:?}");
    let kept = "In acme/rockets: This message was deleted here, and is still on Gitter";
    assert!(told[1].starts_with(kept), "{told:?}");
}

#[tokio::test]
async fn what_came_too_late_is_told_of_to_whoever_has_no_chat_yet_and_to_no_stranger() {
    let fixture = Fixture::new().await;
    let gone = room_id!("!gone:example.org").to_owned();
    let users = ["@left:example.org", "@begins:example.org", "@stranger:example.org"];
    let [left, begins, stranger] = users.map(|user| OwnedUserId::try_from(user).expect("an id"));
    let (out, new) = (left.clone(), begins.clone());
    let written = fixture.db.change(move |t| {
        t.put_account(&out, &Account::default())?;
        let stage = reconcile::model::ChatStage::Invited;
        let chat = reconcile::model::Chat::new(new.clone(), stage, Millis(1));
        t.put_chat(room_id!("!new:example.org"), &chat)
    });
    written.await.expect("written");
    for (n, sender) in [&left, &begins, &stranger].into_iter().enumerate() {
        let said = fixture.said_by_alice(gone.clone(), &format!("${n}:example.org"), "hello");
        fixture.take(Incoming { sender: sender.clone(), ..said }).await;
    }
    for (user, is_told) in [(left, true), (begins, true), (stranger, false)] {
        let to = Target::Account(user);
        let told = fixture.db.look(move |t| t.has_notices(&to)).await.expect("readable");
        assert_eq!(told, is_told);
    }
}

#[tokio::test]
async fn words_for_a_portal_the_bot_is_not_in_any_more_are_said_in_the_control_room() {
    let fixture = Fixture::new().await;
    fixture.refuse("PUT", "portal.*/send/", 403, "M_FORBIDDEN").await;
    fixture.agreeable().await;
    let to = Target::Room(portal_room());
    fixture.put_words(&to, "oh").await;
    fixture.relay.poke_words(to);
    let to = Target::Account(alice());
    fixture.until("the words", move |t| t.first_notice(&to)).await;
    fixture.relay.poke_waiting().await.expect("readable");
    fixture.until("nothing left", |t| Ok(t.notices_waiting()?.is_empty().then_some(()))).await;
    assert_eq!(fixture.sent_to(&control_room()).await, ["In acme/rockets: oh"]);
}

#[tokio::test]
async fn words_the_homeserver_will_never_take_hold_up_no_others() {
    let fixture = Fixture::new().await;
    let too_large = ResponseTemplate::new(413).set_body_json(json!({"errcode": "M_TOO_LARGE"}));
    Mock::given(path_regex("/send/"))
        .respond_with(too_large)
        .up_to_n_times(1)
        .mount(&fixture.home)
        .await;
    fixture.agreeable().await;
    for body in ["one", "two"] {
        fixture.put_words(&Target::Account(alice()), body).await;
    }
    fixture.say_all().await;
    assert_eq!(fixture.sent_to(&control_room()).await, ["one", "two"]);
}

#[tokio::test]
async fn a_message_of_a_ghost_that_may_not_come_in_is_announced_and_holds_up_no_others() {
    let fixture = Fixture::new().await;
    fixture.refuse("POST", "portal.*/join|join/.*portal", 400, "M_USER_DEACTIVATED").await;
    fixture.agreeable().await;
    let message = fixture.sim.world().post("bob", "acme/rockets", "hi");
    fixture.relay.catch_up(&fixture.key);
    let (key, id) = (fixture.key.clone(), message.parse().expect("a valid id"));
    fixture.until("its link", move |t| t.link_of_message(&key, &id)).await;
    let sent = fixture.sent_to(&portal_room()).await;
    assert!(sent.len() == 1 && sent[0].starts_with("A message of bob on Gitter"), "{sent:?}");
}

#[tokio::test]
async fn what_the_homeserver_kept_back_is_read_from_the_room_after_a_start() {
    let fixture = Fixture::new().await;
    let now = fixture.relay.0.bridge.clock.now();
    let event = |id: &str, sender: &str, age_ms: u64, body: &str| {
        json!({
            "type": "m.room.message", "event_id": id, "room_id": portal_room(), "sender": sender,
            "origin_server_ts": now.0 - age_ms, "content": {"msgtype": "m.text", "body": body},
        })
    };
    let alice = alice();
    // Newest first, as homeservers answer.
    let chunk = json!([
        event("$4:example.org", alice.as_str(), 11_000, "kept back, too"),
        event("$3:example.org", alice.as_str(), 12_000, "kept back"),
        event("$2:example.org", "@mallory:example.org", 13_000, "not hers"),
        event("$1:example.org", alice.as_str(), 30_000, "before the store was made anew"),
        event("$0:example.org", alice.as_str(), 600_000, "long before the start"),
    ]);
    Mock::given(method("GET"))
        .and(path_regex("messages$"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"chunk": chunk})))
        .mount(&fixture.home)
        .await;
    fixture.agreeable().await;
    let rebuilt = Millis(now.0 - 20_000);
    fixture.db.change(move |t| t.put_obeyed_until(rebuilt)).await.expect("written");
    for _ in 0..2 {
        // The second look finds nothing new.
        let since = Millis(now.0 - 60_000);
        fixture.db.change(move |t| t.note_unheard(since)).await.expect("written");
        assert!(fixture.intake.reread().await.expect("readable"), "all rooms were read");
    }
    let last = ruma::owned_event_id!("$4:example.org");
    fixture.until("the last link", move |t| Ok(t.links_of_event(&last)?.pop())).await;
    let said = fixture.sim.world().messages("acme/rockets");
    let said: Vec<_> = said.into_iter().map(|message| message.text).collect();
    assert_eq!(said, ["kept back", "kept back, too"]);
}

#[tokio::test]
async fn what_the_homeserver_had_for_long_is_late_and_what_strangers_say_of_it_is_not_believed() {
    let fixture = Fixture::new().await;
    let abroad = user_id!("@abroad:elsewhere.org").to_owned();
    let user = abroad.clone();
    let known = fixture.db.change(move |t| t.put_account(&user, &Account::default()));
    known.await.expect("written");
    let rows = [
        ("just said", alice(), json!(12), false),
        ("no age", alice(), json!("x"), false),
        ("a negative age", alice(), json!(-1), false),
        ("kept back", alice(), json!(2_000), true),
        ("for ever", alice(), json!(u64::MAX), true),
        ("an account at another server", abroad, json!(2_000), true),
        ("a stranger there", user_id!("@eve:elsewhere.org").to_owned(), json!(2_000), false),
    ];
    for (n, (name, sender, age, late)) in rows.into_iter().enumerate() {
        let said = fixture.said_by_alice(portal_room(), &format!("${n}:example.org"), "hello");
        let unsigned = json!({"age": age});
        fixture.take(Incoming { sender, unsigned, ..said }).await;
        let since = fixture.db.look(store::Txn::unheard_since).await.expect("readable");
        assert_eq!(since.is_some(), late, "row: {name}");
        let noted = since.unwrap_or(Millis(0));
        fixture.db.change(move |t| t.clear_unheard(noted)).await.expect("written");
    }
}

#[tokio::test]
async fn what_came_after_its_portal_was_closed_is_told_to_its_author() {
    let fixture = Fixture::new().await;
    let gone = room_id!("!gone:example.org").to_owned();
    fixture.take(fixture.said_by_alice(gone.clone(), "$1:example.org", "too late")).await;
    fixture.take(fixture.said_by_alice(gone, "$1:example.org", "too late")).await;
    let told = fixture.told().await;
    assert!(matches!(&*told, [one] if one.contains("too late")), "once: {told:?}");
}

#[tokio::test]
async fn an_event_that_panics_is_passed_over() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let said = |id: &str, body: &str| fixture.said_by_alice(portal_room(), id, body);
    let mut bad = said("$2:example.org", "bad");
    bad.kind = "test.panic".to_owned();
    let events = vec![said("$1:example.org", "one"), bad, said("$3:example.org", "three")];
    let taken = fixture.intake.transaction("1".to_owned(), events, Vec::new()).await;
    taken.expect("the homeserver need not repeat it for ever");
    let last = ruma::owned_event_id!("$3:example.org");
    fixture.until("the last link", move |t| Ok(t.links_of_event(&last)?.pop())).await;
    let said = fixture.sim.world().messages("acme/rockets").into_iter();
    assert_eq!(said.map(|message| message.text).collect::<Vec<_>>(), ["one", "three"]);
    assert!(fixture.relay.0.metrics.text().contains("matrix_gitter_panics_total 1"));
}

#[tokio::test]
async fn too_many_transactions_at_once_wait_for_their_turn() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    // The disk is busy: what is written now waits behind this.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let busy = fixture.db.clone();
    let busy = tokio::spawn(async move {
        let held = busy.change(move |_| {
            let _ = wait.lock().expect("not poisoned").recv();
            Ok(())
        });
        held.await
    });
    let mut taken = Vec::new();
    for n in 0..40 {
        let event =
            fixture.said_by_alice(portal_room(), &format!("${n}:example.org"), &n.to_string());
        let intake = fixture.intake.clone();
        taken.push(tokio::spawn(async move {
            intake.transaction(n.to_string(), vec![event], Vec::new()).await.is_ok()
        }));
    }
    let stats = || fixture.db.store().stats();
    while stats().waiting < 4 {
        tokio::task::yield_now().await;
    }
    // Nobody else gets as far as the store, however long this takes.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        assert!(stats().waiting <= 5, "{}", stats().waiting);
    }
    assert!(taken.iter().all(|taken| !taken.is_finished()), "none is answered yet");
    go.send(()).expect("it waits");
    busy.await.expect("no panic").expect("written");
    for taken in taken {
        assert!(taken.await.expect("no panic"), "each is answered in the end, with success");
    }
    until_nothing_waits(&fixture).await;
}

/// Further portals of alice, each for a room of its own.
async fn more_portals(fixture: &Fixture, count: usize) -> Vec<PortalKey> {
    let world = fixture.sim.world();
    let mut keys = Vec::new();
    for n in 0..count {
        let uri = format!("acme/room{n}");
        let room = world.add_room(RoomSpec::public(&uri));
        world.join(&uri, "alice");
        world.join(&uri, "bob");
        let key = PortalKey::new(alice(), room.parse().expect("a valid id"));
        let at: OwnedRoomId = format!("!room{n}:example.org").try_into().expect("a valid id");
        let mut portal = Portal::found(true, Reason::Login, Millis(1));
        (portal.place, portal.open.last) = (Place::At(at), Some(true));
        let id = key.clone();
        fixture.db.change(move |t| t.put_portal(&id, &portal)).await.expect("written");
        keys.push(key);
    }
    keys
}

#[tokio::test]
async fn lanes_wait_for_a_homeserver_that_is_away_and_then_all_go_on() {
    let fixture = Fixture::new().await;
    let keys = more_portals(&fixture, 30).await;
    let bridge = fixture.relay.0.bridge.clone();
    let breaker = bridge.sides.homeserver.clone();
    let watched = tokio::spawn({
        let breaker = breaker.clone();
        async move {
            let rng = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(1);
            breaker.watch(|| bridge.matrix.probe(), || {}, rng).await;
        }
    });
    Mock::given(any()).respond_with(ResponseTemplate::new(503)).mount(&fixture.home).await;
    let mut messages = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        let message = fixture.sim.world().post("bob", &format!("acme/room{n}"), "hi");
        messages.push((key.clone(), message.parse().expect("a valid id")));
        fixture.relay.catch_up(key);
    }
    let is_probe = |request: &wiremock::Request| request.url.path().ends_with("/versions");
    let requests = async || fixture.home.received_requests().await.expect("recorded");
    // Until it was found away, and asked again three times.
    let asked = async {
        while requests().await.iter().filter(|r| is_probe(r)).count() < 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asked).await.expect("it is asked again");
    assert!(breaker.away().is_some());
    let calls = requests().await.iter().filter(|request| !is_probe(request)).count();
    // One account has half of the turns.
    assert!(calls <= ARRIVING / 2 + SPEAKING / 2, "{calls} calls of 30 lanes");
    fixture.home.reset().await;
    fixture.agreeable().await;
    breaker.hurry();
    for (key, message) in messages {
        fixture.until("its link", move |t| t.link_of_message(&key, &message)).await;
    }
    watched.abort();
}

#[tokio::test]
async fn while_gitter_is_away_messages_wait_and_status_says_so() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let keys = more_portals(&fixture, 30).await;
    let bridge = fixture.relay.0.bridge.clone();
    let breaker = bridge.sides.gitter.clone();
    let (away, is_away) = tokio::sync::watch::channel(true);
    let watched = tokio::spawn({
        let breaker = breaker.clone();
        async move {
            let probe = || {
                let away = *is_away.borrow();
                async move { if away { Err(Away(Side::Gitter)) } else { Ok(()) } }
            };
            let rng = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(1);
            breaker.watch(probe, || {}, rng).await;
        }
    });
    while breaker.away().is_none() {
        breaker.note(false);
        tokio::task::yield_now().await;
    }
    for n in 0..keys.len() {
        let at: OwnedRoomId = format!("!room{n}:example.org").try_into().expect("a valid id");
        fixture.take(fixture.said_by_alice(at, &format!("$m{n}:example.org"), "hello")).await;
    }
    fixture.take(fixture.said_by_alice(control_room(), "$s:example.org", "status")).await;
    let told = fixture.told().await;
    assert!(
        told.iter().any(|text| text.contains("Gitter has not answered for 1 second")),
        "{told:?}"
    );
    assert!(fixture.sim.world().messages("acme/room0").is_empty());
    let attempted =
        |key: PortalKey| move |t: &ReadTxn| Ok(t.first_outgoing(&key)?.map(|(_, row)| row.attempt));
    let attempt = fixture.until("its row", attempted(keys[0].clone())).await;
    assert_eq!(attempt, None, "not even tried");
    away.send(false).expect("watched");
    breaker.hurry();
    let last = ruma::owned_event_id!("$m29:example.org");
    fixture.until("the last link", move |t| Ok(t.links_of_event(&last)?.pop())).await;
    watched.abort();
}

/// Bob says so many things, a second apart; their ids.
fn talk(fixture: &Fixture, count: usize) -> Vec<String> {
    let world = fixture.sim.world();
    let say = |n| {
        world.advance_clock(1_000);
        world.post("bob", "acme/rockets", &format!("line {n}"))
    };
    (0..count).map(say).collect()
}

/// What is on Gitter in the portal's room.
fn on_gitter(fixture: &Fixture) -> Vec<String> {
    let said = fixture.sim.world().messages("acme/rockets").into_iter();
    said.map(|message| message.text).collect()
}

async fn until_nothing_waits(fixture: &Fixture) {
    let key = fixture.key.clone();
    let none = move |t: &ReadTxn| Ok((t.outgoing_count(&key)? == 0).then_some(()));
    fixture.until("an end of what waits", none).await;
}

/// The paths of all redactions.
async fn redactions(fixture: &Fixture) -> Vec<String> {
    let requests = fixture.home.received_requests().await.expect("recorded");
    let all = requests.iter().filter(|request| request.url.path().contains("/redact/"));
    all.map(|request| request.url.path().to_owned()).collect()
}

/// Ties a message that was written on Matrix to its event.
fn link(portal: &PortalKey, message: MessageId, event: &ruma::EventId) -> Link {
    Link {
        portal: portal.clone(),
        message,
        event: event.to_owned(),
        part: 0,
        from_matrix: true,
        version: 1,
        digest: 0,
        parent: None,
        sender: None,
        lead: String::new(),
        images: Vec::new(),
        gone: false,
    }
}

async fn until_linked(fixture: &Fixture, message: &str) -> Link {
    let (key, id) = (fixture.key.clone(), message.parse().expect("a valid id"));
    fixture.until("a link", move |t| t.link_of_message(&key, &id)).await
}

async fn until_gone(fixture: &Fixture, message: &MessageId) -> Link {
    let (key, id) = (fixture.key.clone(), message.clone());
    let gone = move |t: &ReadTxn| Ok(t.link_of_message(&key, &id)?.filter(|link| link.gone));
    fixture.until("it to be gone", gone).await
}

/// Waits until this version of a message is shown.
async fn until_version(fixture: &Fixture, message: &str, version: u64) -> Link {
    let (key, id) = (fixture.key.clone(), message.parse().expect("a valid id"));
    let is =
        move |t: &ReadTxn| Ok(t.link_of_message(&key, &id)?.filter(|link| link.version == version));
    fixture.until("the version", is).await
}

/// The contents of what the homeserver was sent into the portal.
async fn contents(fixture: &Fixture) -> Vec<Value> {
    let requests = fixture.home.received_requests().await.expect("recorded");
    let sent = requests.iter().filter(|request| request.url.path().contains("/send/"));
    sent.map(|request| serde_json::from_slice(&request.body).expect("json")).collect()
}

/// What the homeserver is sent into the portal is `$1`, `$2` and so on.
async fn numbered(fixture: &Fixture, count: usize) {
    for n in 1..=count {
        let id = json!({"event_id": format!("${n}:example.org")});
        let answer = ResponseTemplate::new(200).set_body_json(id);
        once(fixture, "PUT", "portal.*/send/", answer).await;
    }
}

/// Answers the next call of this kind, and no other.
async fn once(fixture: &Fixture, verb: &str, path: &str, answer: ResponseTemplate) {
    let mock = Mock::given(method(verb)).and(path_regex(path)).respond_with(answer);
    mock.up_to_n_times(1).mount(&fixture.home).await;
}

#[tokio::test]
async fn of_a_gap_longer_than_the_cap_the_newest_are_shown_after_a_word_about_the_others() {
    //  said, cap, passed over
    for (said, cap, over) in [(30, 10, 20), (104, 101, 3), (230, 103, 127), (12, 12, 0)] {
        let fixture = Fixture::with(Choices { catch_up: cap, ..Choices::default() }).await;
        fixture.agreeable().await;
        let ids = talk(&fixture, said);
        fixture.relay.catch_up(&fixture.key);
        until_linked(&fixture, &ids[said - 1]).await;
        let mut sent = fixture.sent_to(&portal_room()).await;
        if over > 0 {
            let word = sent.remove(0);
            assert!(word.contains(&format!("Not shown here: {over} messages, from")), "{word}");
            assert!(word.ends_with(&format!("/acme/rockets?at={}", ids[0])), "{word}");
        }
        let lines: Vec<_> = (over..said).map(|n| format!("line {n}")).collect();
        assert_eq!(sent, lines, "{said} said, at most {cap}");
        let calls = fixture.sim.world().count_calls("GET", "chatMessages");
        assert!(calls < 24, "{calls} calls for {said}");

        // What was passed over does not come in by the back door; it is not told of again.
        fixture.sim.world().edit("acme/rockets", &ids[0], "another line");
        fixture.relay.catch_up(&fixture.key);
        let last = talk(&fixture, 1).pop().expect("said");
        fixture.relay.catch_up(&fixture.key);
        until_linked(&fixture, &last).await;
        let sent = fixture.sent_to(&portal_room()).await;
        let beside = if over > 0 { "the word" } else { "the change" };
        assert_eq!(sent.len(), lines.len() + 2, "the lines, {beside}, the last: {sent:?}");
    }
}

#[tokio::test]
async fn what_was_said_while_a_portal_was_closed_goes_before_what_comes_once_it_is_open_again() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let mut said = Vec::new();
    // The first time it is a start of the bridge.
    for round in 0..2 {
        said.push(format!("missed {round}"));
        fixture.sim.world().post("bob", "acme/rockets", &said[said.len() - 1]);
        fixture
            .change_portal(|portal| {
                portal.open.desired = true;
                portal.open.generation += 1;
            })
            .await;
        for n in 0..2 {
            said.push(format!("live {round} {n}"));
            let id = live(&fixture, "bob", &said[said.len() - 1]);
            until_linked(&fixture, id.as_str()).await;
        }
        fixture.change_portal(|portal| portal.open.desired = false).await;
    }
    assert_eq!(fixture.sent_to(&portal_room()).await, said);
}

#[tokio::test]
async fn without_a_cap_everything_is_caught_up_with() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let ids = talk(&fixture, 130);
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &ids[129]).await;
    assert_eq!(fixture.sent_to(&portal_room()).await.len(), 130);
}

#[tokio::test]
async fn a_gap_whose_word_was_cut_off_is_told_of_by_the_same_transaction_after_a_start() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let ids = talk(&fixture, 3);
    let id = |n: usize| -> reconcile::model::MessageId { ids[n].parse().expect("a valid id") };
    let (since, first, until) = (id(0), id(0), id(1).made());
    let gap = reconcile::model::Gap { since, first, until, count: 7, or_more: true };
    let row = reconcile::model::Cursor { begin: id(1), last: id(1), gap: Some(gap) };
    for _ in 0..2 {
        let (key, row) = (fixture.key.clone(), row.clone());
        fixture.db.change(move |t| t.put_cursor(&key, &row)).await.expect("written");
        fixture.relay.catch_up(&fixture.key);
        let key = fixture.key.clone();
        let told = move |t: &ReadTxn| Ok(t.cursor(&key)?.filter(|row| row.gap.is_none()));
        fixture.until("the word", told).await;
    }
    until_linked(&fixture, &ids[2]).await;
    let requests = fixture.home.received_requests().await.expect("recorded");
    let words: Vec<_> = requests
        .iter()
        .filter(|r| String::from_utf8_lossy(&r.body).contains("more than 7 messages"))
        .map(|r| r.url.path().to_owned())
        .collect();
    assert!(words.len() == 2 && words[0] == words[1], "{words:?}");
    assert_eq!(fixture.sent_to(&portal_room()).await.len(), 3, "and one line");
}

#[tokio::test]
async fn what_was_changed_before_a_gap_is_changed_here() {
    let fixture = Fixture::with(Choices { catch_up: 20, ..Choices::default() }).await;
    fixture.agreeable().await;
    let world = fixture.sim.world();
    let early = talk(&fixture, 2);
    world.advance_clock(60_000);
    let last = talk(&fixture, 1).pop().expect("said");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &last).await;
    world.edit("acme/rockets", &early[0], "said otherwise");
    world.delete("acme/rockets", &early[1]);
    world.advance_clock(3_600_000);
    let late = talk(&fixture, 230);
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &late[229]).await;
    until_gone(&fixture, &early[1].parse().expect("a valid id")).await;
    let sent = fixture.sent_to(&portal_room()).await;
    assert!(sent.contains(&"* said otherwise".to_owned()), "{sent:?}");
    let word = sent.iter().find(|text| text.contains("Not shown here: 210 messages"));
    assert!(word.is_some(), "{sent:?}");
}

#[tokio::test]
async fn what_gitter_took_and_nobody_can_read_is_told_to_its_sender() {
    let config = SimConfig { spam_with_version: true, ..SimConfig::default() };
    let fixture = Fixture::on(config, Choices::default()).await;
    fixture.agreeable().await;
    fixture.take(fixture.said_by_alice(portal_room(), "$1:example.org", "hello")).await;
    let event = ruma::owned_event_id!("$1:example.org");
    fixture.until("its link", move |t| Ok(t.links_of_event(&event)?.pop())).await;
    fixture.sim.world().hellban("alice");
    for id in ["$2:example.org", "$3:example.org"] {
        fixture.take(fixture.said_by_alice(portal_room(), id, "hello?")).await;
    }
    let event = ruma::owned_event_id!("$3:example.org");
    let link = fixture.until("its link", move |t| Ok(t.links_of_event(&event)?.pop())).await;
    assert!(!link.gone, "it looked well");
    // What is read from the room meanwhile does not show it either, and that is no deletion.
    fixture.sim.world().post("bob", "acme/rockets", "Alice?");
    fixture.relay.catch_up(&fixture.key);
    let to = Target::Room(portal_room());
    fixture.until("a word", move |t| t.first_notice(&to)).await;
    let (to, mut told) = (Target::Room(portal_room()), Vec::new());
    while let Some((number, notice)) = {
        let to = to.clone();
        fixture.db.look(move |t| t.first_notice(&to)).await.expect("readable")
    } {
        let Say::Fate(fate) = notice.say else { panic!("other words: {notice:?}") };
        assert!(matches!(fate.news, News::Failed(Failure::Silenced, _)), "{fate:?}");
        told.push(fate.event.to_string());
        let to = to.clone();
        fixture.db.change(move |t| t.remove_notice(&to, number)).await.expect("written");
    }
    assert_eq!(told, ["$2:example.org", "$3:example.org"]);
    let requests = fixture.home.received_requests().await.expect("recorded");
    assert!(!requests.iter().any(|request| request.url.path().contains("/redact/")));
}

#[tokio::test]
async fn what_gitter_swallowed_before_a_restart_is_told_to_its_sender_and_not_taken_for_deleted() {
    let config = SimConfig { spam_with_version: true, ..SimConfig::default() };
    let fixture = Fixture::on(config, Choices::default()).await;
    fixture.agreeable().await;
    // The run that sent both ended before it could ask.
    fixture.relay.0.confirming.stop();
    fixture.take(fixture.said_by_alice(portal_room(), "$1:example.org", "hello")).await;
    let event = ruma::owned_event_id!("$1:example.org");
    let shown = fixture.until("its link", move |t| Ok(t.links_of_event(&event)?.pop())).await;
    fixture.sim.world().hellban("alice");
    fixture.take(fixture.said_by_alice(portal_room(), "$2:example.org", "hello?")).await;
    let event = ruma::owned_event_id!("$2:example.org");
    let link = fixture.until("its link", move |t| Ok(t.links_of_event(&event)?.pop())).await;
    fixture.relay.stop();
    let rows = {
        let key = fixture.key.clone();
        move |t: &ReadTxn| t.unconfirmed(&key)
    };
    let waiting = fixture.db.look(rows.clone()).await.expect("readable");
    assert_eq!(waiting, [shown.message, link.message.clone()]);

    let relay = Relay::new(
        fixture.relay.0.bridge.clone(),
        Metrics::new(),
        fixture.relay.0.voice.clone(),
        Choices::default(),
    );
    // What is read from the room first shows the one and not the other.
    relay.catch_up(&fixture.key);
    let word = fixture.sim.world().post("bob", "acme/rockets", "Alice?");
    until_linked(&fixture, &word).await;
    relay.poke_unconfirmed().await.expect("readable");
    let to = Target::Room(portal_room());
    let (_, notice) = fixture.until("a word", move |t| t.first_notice(&to)).await;
    let Say::Fate(fate) = notice.say else { panic!("other words: {notice:?}") };
    assert!(matches!(fate.news, News::Failed(Failure::Silenced, _)), "{fate:?}");
    assert_eq!(fate.event, "$2:example.org");
    until_gone(&fixture, &link.message).await;
    fixture.until("nothing to wait for", move |t| Ok(rows(t)?.is_empty().then_some(()))).await;
    let requests = fixture.home.received_requests().await.expect("recorded");
    assert!(!requests.iter().any(|request| request.url.path().contains("/redact/")));
}

#[tokio::test]
async fn what_was_seen_before_a_restart_and_is_missing_after_it_was_deleted() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    // Both runs end before their lane has nothing more to wait for.
    fixture.relay.0.confirming.stop();
    let key = fixture.key.clone();
    let rows = move |t: &ReadTxn| t.unconfirmed(&key);
    let mut ids = Vec::new();
    for (id, text) in [("$1:example.org", "one"), ("$2:example.org", "two")] {
        fixture.take(fixture.said_by_alice(portal_room(), id, text)).await;
        let event: ruma::OwnedEventId = id.try_into().expect("an id");
        let link = fixture.until("its link", move |t| Ok(t.links_of_event(&event)?.pop())).await;
        ids.push(link.message.clone());
        fixture.relay.catch_up(&fixture.key);
        let (relay, key) = (fixture.relay.clone(), fixture.key.clone());
        let seen = move |_: &ReadTxn| {
            Ok((relay.0.unconfirmed.settled(&key).as_ref() == Some(&link.message)).then_some(()))
        };
        fixture.until("it to be seen", seen).await;
        let waiting = fixture.db.look(rows.clone()).await.expect("readable");
        assert_eq!(waiting, ids[ids.len() - 1..], "that it was seen costs no write");
        match ids.len() {
            1 => fixture.relay.settle_all().await.expect("written"),
            _ => drop(until_linked(&fixture, live(&fixture, "bob", "three").as_str()).await),
        }
        assert!(fixture.db.look(rows.clone()).await.expect("readable").is_empty(), "{text}");
    }
    let bridge = fixture.relay.0.bridge.clone();
    let relay =
        Relay::new(bridge, Metrics::new(), fixture.relay.0.voice.clone(), Choices::default());
    for id in &ids {
        fixture.sim.world().delete("acme/rockets", id.as_str());
    }
    relay.poke_unconfirmed().await.expect("readable");
    relay.catch_up(&fixture.key);
    for id in &ids {
        until_gone(&fixture, id).await;
    }
    let requests = fixture.home.received_requests().await.expect("recorded");
    let deleted = requests.iter().filter(|request| request.url.path().contains("/redact/"));
    assert_eq!(deleted.count(), 2);
    assert!(fixture.db.look(store::Txn::notices_waiting).await.expect("readable").is_empty());
}

#[tokio::test]
async fn what_was_seen_on_gitter_is_asked_for_no_more_after_a_restart() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    fixture.take(fixture.said_by_alice(portal_room(), "$1:example.org", "hello")).await;
    let event = ruma::owned_event_id!("$1:example.org");
    fixture.until("its link", move |t| Ok(t.links_of_event(&event)?.pop())).await;
    let key = fixture.key.clone();
    let none = move |t: &ReadTxn| Ok(t.unconfirmed(&key)?.is_empty().then_some(()));
    fixture.until("nothing to wait for", none).await;
    assert!(fixture.db.look(store::Txn::unconfirmed_keys).await.expect("readable").is_empty());
    fixture.relay.0.unconfirmed.with(|all| assert!(all.is_empty(), "{all:?}"));
}

/// An outbox whose first event may be on Gitter or not, of an account whose token is refused.
async fn in_doubt(fixture: &Fixture, text: &str) {
    let now = fixture.relay.0.bridge.clock.now();
    let (key, text) = (fixture.key.clone(), text.to_owned());
    let written = fixture.db.change(move |t| {
        let mut account = t.account(&key.account)?.expect("an account");
        if let Session::Active(person) = account.session {
            account.session = Session::Rejected(person);
        }
        t.put_account(&key.account, &account)?;
        let begin = MessageId::first_of(Millis(now.0 - 60_000));
        t.put_cursor(&key, &Cursor { begin: begin.clone(), last: begin, gap: None })?;
        let row = Outgoing {
            event: ruma::owned_event_id!("$1:example.org"),
            sent: now,
            payload: Payload::say(vec![text.clone()], false, None),
            done: 0,
            attempt: Some(Attempt { at: now.into(), after: None, answered: None }),
            told: None,
        };
        t.push_outgoing(&key, &row).map(drop)
    });
    written.await.expect("written");
}

/// A message on Gitter as the live connection of somebody else in the room tells of it.
fn live(fixture: &Fixture, who: &str, text: &str) -> MessageId {
    let world = fixture.sim.world();
    let id = world.post(who, "acme/rockets", text);
    let person = world.add_user(who, who);
    let message = serde_json::from_value(json!({
        "id": id, "text": text, "html": text, "v": 1,
        "sent": jiff::Timestamp::now().to_string(),
        "fromUser": {"id": person, "username": who, "displayName": who},
    }));
    fixture.relay.receive(&fixture.key, Arc::new(message.expect("a message")));
    id.parse().expect("an id")
}

#[tokio::test]
async fn an_unsure_message_of_a_dead_login_holds_up_nobody_and_is_known_by_its_text() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    // Kept up until its login died.
    let first = live(&fixture, "bob", "first");
    until_linked(&fixture, first.as_str()).await;
    in_doubt(&fixture, "unsure").await;
    let other = live(&fixture, "alice", "typed on Gitter");
    let bobs = live(&fixture, "bob", "hi");
    for id in [other, bobs] {
        let key = fixture.key.clone();
        let link = fixture.until("its link", move |t| t.link_of_message(&key, &id)).await;
        assert!(!link.from_matrix);
    }
    let echo = live(&fixture, "alice", "unsure");
    let (key, id) = (fixture.key.clone(), echo);
    let link = fixture.until("its link", move |t| t.link_of_message(&key, &id)).await;
    assert_eq!((link.from_matrix, link.event.as_str()), (true, "$1:example.org"));
    let key = fixture.key.clone();
    assert_eq!(fixture.db.look(move |t| t.outgoing_count(&key)).await.expect("readable"), 0);
    let said = fixture.sent_to(&portal_room()).await;
    assert!(!said.contains(&"unsure".to_owned()), "not said again: {said:?}");
}

/// Alice said something, then this happened, and then she deletes it.
async fn keeps(happens: impl AsyncFnOnce(&Fixture)) {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    fixture.take(fixture.said_by_alice(portal_room(), "$1:example.org", "oh no")).await;
    let said = ruma::owned_event_id!("$1:example.org");
    let event = said.clone();
    fixture.until("its link", move |t| Ok(t.links_of_event(&event)?.pop())).await;
    happens(&fixture).await;
    // The first of these is no message that was on Gitter.
    for (id, of) in [("$2:example.org", "$0:example.org"), ("$3:example.org", said.as_str())] {
        let mut deletion = fixture.said_by_alice(portal_room(), id, "");
        let of = of.try_into().expect("an id");
        (deletion.kind, deletion.redacts) = ("m.room.redaction".to_owned(), Some(of));
        deletion.content = json!({});
        fixture.take(deletion).await;
    }
    let to = Target::Room(portal_room());
    let notice = fixture.until("a word", move |t| t.first_notice(&to)).await.1;
    let Say::Fate(fate) = notice.say else { panic!("{notice:?}") };
    assert!(matches!(fate.news, News::Failed(Failure::Kept, _)), "{fate:?}");
    assert_eq!(fate.event, said, "about the message, not about its deletion");
}

#[tokio::test]
async fn who_deletes_what_gitter_keeps_is_told_that_it_is_still_there() {
    keeps(async |fixture| fixture.sim.world().ban("acme/rockets", "alice")).await;
}

#[tokio::test]
async fn who_deletes_a_message_after_a_logout_is_told_that_it_is_still_there() {
    keeps(async |fixture| {
        let out = fixture.db.change(|t| {
            let mut account = t.account(&alice())?.unwrap_or_default();
            account.session = Session::LoggedOut;
            t.put_account(&alice(), &account)
        });
        out.await.expect("written");
    })
    .await;
}

#[tokio::test]
async fn a_name_of_the_bot_that_lands_after_a_newer_one_is_put_back() {
    let fixture = Fixture::new().await;
    for (id, name, strayed) in
        [("$1:example.org", "acme/rockets (Gitter)", 0), ("$2:example.org", "acme/old (Gitter)", 1)]
    {
        let event = Incoming {
            sender: user_id!("@gitter:example.org").to_owned(),
            kind: "m.room.name".to_owned(),
            state_key: Some(String::new()),
            content: json!({"name": name}),
            ..fixture.said_by_alice(portal_room(), id, "")
        };
        let taken = fixture.intake.transaction(id.to_owned(), vec![event], Vec::new());
        taken.await.expect("stored");
        let key = fixture.key.clone();
        let portal = fixture.db.look(move |t| t.portal(&key)).await.expect("readable");
        assert_eq!(portal.expect("a portal").strayed, strayed, "{name}");
    }
}

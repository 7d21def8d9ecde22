//! The client and the listener against a real homeserver, for who has one at hand.
//!
//! `MATRIX_GITTER_TEST_HOMESERVER` is its address; its registration must have the id `gitter`, the tokens `as-secret` and
//! `hs-secret`, the sender `gitter`, the users `@gitter_.*`, and as url port `MATRIX_GITTER_TEST_PORT` of this machine.

use std::{error::Error, net::Ipv4Addr};

use ruma::{OwnedEventId, RoomId, user_id};
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc};

use super::*;
use crate::{
    appservice::{self, Incoming, Intake, Readiness},
    matrix::{
        Ghosts,
        room::{Channel, Control, Portal, power_levels},
    },
};

/// Hands on what the homeserver sends.
#[derive(Clone)]
struct Pipe(mpsc::UnboundedSender<Incoming>);

impl Intake for Pipe {
    fn sample(&self, _: &crate::metrics::Metrics) {}

    async fn transaction(
        &self,
        _: String,
        events: Vec<Incoming>,
        _: Vec<Value>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        for event in events {
            self.0.send(event)?;
        }
        Ok(())
    }

    fn knows_user(&self, _: &UserId) -> bool {
        false
    }

    fn ready(&self) -> Readiness {
        Readiness::default()
    }
}

/// Waits for an event; those before it are lost.
async fn arrives(events: &mut mpsc::UnboundedReceiver<Incoming>, id: &OwnedEventId) -> Incoming {
    let search = async {
        loop {
            let event = events.recv().await.expect("the listener runs");
            if event.event_id == *id {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), search).await.expect("the event is pushed")
}

async fn connect() -> (Client, mpsc::UnboundedReceiver<Incoming>) {
    let env = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let port = env("MATRIX_GITTER_TEST_PORT").parse().expect("a port");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is free");
    let (sender, events) = mpsc::unbounded_channel();
    let router = appservice::router(Pipe(sender), "hs-secret".into(), Metrics::new());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let http = reqwest::Client::builder().tls_certs_only([]).build().expect("a client");
    let url = Url::parse(&env("MATRIX_GITTER_TEST_HOMESERVER")).expect("an address");
    let bot = user_id!("@gitter:localhost").to_owned();
    (Client::new(http, url, "as-secret".into(), bot, "gitter".to_owned()), events)
}

async fn portal(client: &Client, key: &str, version: &RoomVersionId) -> ruma::OwnedRoomId {
    let channel = Channel {
        id: "5709c4",
        name: "rust-lang/rust",
        topic: Some("Systems programming"),
        avatar: None,
        url: Some("https://gitter.im/rust-lang/rust"),
    };
    let account = user_id!("@alice:localhost");
    let body = Portal { key, bot: client.bot(), account, channel, version, files: None }.body();
    client.create_room(&body).await.expect("created")
}

/// A ghost that no earlier run can have left behind.
fn fresh_ghost(room: &RoomId, name: &str) -> OwnedUserId {
    let ghosts = Ghosts::try_from(user_id!("@gitter:localhost")).expect("a short bot");
    ghosts.id(name, room.as_str(), true)
}

#[tokio::test]
#[ignore = "needs a homeserver"]
async fn a_real_homeserver_does_what_the_client_promises() {
    let (client, mut events) = connect().await;
    assert_eq!(client.whoami().await.expect("known").user_id, client.bot());
    assert!(!client.versions().await.expect("told").versions.is_empty());
    client.register(As::Bot).await.expect("registered");
    client.register(As::Bot).await.expect("registered already");
    client.ensure_device(As::Bot).await.expect("made");
    assert!(matches!(client.ping("t").await, Ok(PingOutcome::Reached(_))));
    let default = client.default_room_version().await.expect("told");
    assert!(default.rules().is_some(), "{default}");

    let mut versions: Vec<_> = (1..=12).map(|v: u8| v.to_string()).collect();
    versions.push(default.to_string());
    for version in versions {
        let version = RoomVersionId::try_from(version).expect("a version");
        let key = format!("alice/5709c4/{version}");
        let room = portal(&client, &key, &version).await;
        let create = client.create_event(&room).await.expect("read");
        assert_eq!(create.portal(client.bot()), Some(&*key));
        assert_eq!(create.version(), Some(version.clone()));
        let state = |kind: &'static str, key: &'static str| {
            let (client, room) = (&client, &room);
            async move { client.state(room, kind, key).await.expect("read") }
        };
        assert_eq!(
            state("m.room.power_levels", "").await,
            Some(power_levels(client.bot(), &version)),
            "version {version}"
        );
        assert_eq!(state("m.room.encryption", "").await, None);
        assert_eq!(state("m.room.join_rules", "").await.expect("set")["join_rule"], "invite");
        assert!(state("uk.half-shot.bridge", "im.gitter/5709c4").await.is_some());
        assert!(client.joined_rooms().await.expect("listed").contains(&room));
        talk(&client, &room, &mut events).await;
        leave(&client, &room).await;
    }
}

/// Brings a ghost in, with each mistake made once, and lets it speak.
async fn talk(client: &Client, room: &RoomId, events: &mut mpsc::UnboundedReceiver<Incoming>) {
    let ghost_id = fresh_ghost(room, "Gée One");
    let ghost = As::Ghost(&ghost_id);
    let text = json!({"msgtype": "m.text", "body": "hi", "im.gitter.id": "1"});
    let say = |txn: &'static str, ts| client.send(ghost, room, "m.room.message", txn, &text, ts);
    let txn = "first";
    assert!(matches!(say(txn, None).await, Err(MatrixError::NotRegistered { .. })));
    assert!(matches!(client.join(ghost, room).await, Err(MatrixError::NotRegistered { .. })));
    client.leave(ghost, room).await.expect("who does not exist is not in the room");
    client.register(ghost).await.expect("registered");
    client.register(ghost).await.expect("registered already");
    assert!(matches!(say(txn, None).await, Err(MatrixError::NotRegistered { .. })), "no device");
    client.ensure_device(ghost).await.expect("made");
    client.ensure_device(ghost).await.expect("made already");
    client.set_displayname(ghost, "Gée One\0").await.expect("set");
    let avatar = client.upload(vec![1, 2, 3], "image/png", "é.png").await.expect("stored");
    client.set_avatar_url(ghost, &avatar).await.expect("set");
    let profile = client.profile(&ghost_id).await.expect("read").expect("there");
    assert_eq!(profile.display_name.as_deref(), Some("Gée One"));

    assert_eq!(client.member(room, &ghost_id).await.expect("read"), None);
    client.kick(room, &ghost_id, "not there").await.expect("is not there");
    client.leave(ghost, room).await.expect("was never there");
    let refused = say(txn, None).await;
    assert!(matches!(refused, Err(MatrixError::NotInRoom { .. })), "{refused:?}");
    let refused = client.join(ghost, room).await;
    assert!(matches!(refused, Err(MatrixError::NotInvited { .. })), "{refused:?}");
    client.invite(room, &ghost_id).await.expect("invited");
    client.invite(room, &ghost_id).await.expect("invited already");
    client.join(ghost, room).await.expect("joined");
    client.join(ghost, room).await.expect("joined already");
    client.invite(room, &ghost_id).await.expect("a member already");
    client.invite_direct(room, &ghost_id).await.expect("a member already");
    assert_eq!(client.joined_members(room).await.expect("listed")[&ghost_id], profile);

    let ts = 1_500_000_000_000;
    let sent = say(txn, Some(ts)).await.expect("sent");
    assert_eq!(say(txn, Some(ts)).await.expect("sent already"), sent);
    let pushed = arrives(events, &sent).await;
    assert_eq!((&*pushed.room_id, &pushed.content), (room, &text));
    assert_eq!(u64::try_from(pushed.origin_server_ts), Ok(ts));
    let page = client.messages(ghost, room, 10, None).await.expect("read");
    let own = page.chunk.iter().find(|event| event["event_id"] == sent.as_str()).expect("there");
    assert_eq!(own["unsigned"]["transaction_id"], txn);
    assert_eq!(client.event(room, &sent).await.expect("read").expect("there")["content"], text);
    let gone = client.redact(ghost, room, &sent, "redact", Some("spam")).await.expect("redacted");
    assert_eq!(arrives(events, &gone).await.kind, "m.room.redaction");

    let denied = client.put_state(ghost, room, "m.room.topic", "", &json!({"topic": "x"})).await;
    assert!(matches!(denied, Err(MatrixError::Refused { status: 403, .. })), "{denied:?}");
    let stranger = client.set_displayname(As::Ghost(user_id!("@bob:localhost")), "x").await;
    assert!(matches!(stranger, Err(MatrixError::Refused { status: 403, .. })), "{stranger:?}");
    client.leave(ghost, room).await.expect("left");
    client.leave(ghost, room).await.expect("left already");
    client.kick(room, &ghost_id, "gone").await.expect("gone already");
    client.forget(ghost, room).await.expect("forgotten");
}

/// Empties the room; the bot goes last.
async fn leave(client: &Client, room: &RoomId) {
    let topic = json!({"topic": "closed"});
    let first = client.put_state(As::Bot, room, "m.room.topic", "", &topic).await.expect("set");
    let again = client.put_state(As::Bot, room, "m.room.topic", "", &topic).await.expect("set");
    assert_eq!(first, again, "state that is so already makes no event");
    client.leave(As::Bot, room).await.expect("left");
    client.leave(As::Bot, room).await.expect("left already");
    client.forget(As::Bot, room).await.expect("forgotten");
    assert!(!client.joined_rooms().await.expect("listed").contains(room));
    let blind = client.joined_members(room).await;
    assert!(matches!(blind, Err(MatrixError::NotInRoom { .. })), "{blind:?}");
}

#[tokio::test]
#[ignore = "needs a homeserver"]
async fn a_real_homeserver_takes_control_rooms_and_direct_invites() {
    let (client, _events) = connect().await;
    let account = user_id!("@gitter_alice:localhost");
    client.register(As::Ghost(account)).await.expect("registered");
    for version in [RoomVersionId::V11, RoomVersionId::V12] {
        let body = Control { bot: client.bot(), account, version: &version }.body();
        let room = client.create_room(&body).await.expect("created");
        let create = client.create_event(&room).await.expect("read");
        assert_eq!(create.control(client.bot()), Some(account.as_str()));
        client.invite_direct(&room, account).await.expect("invited");
        let member = client.member(&room, account).await.expect("read").expect("there");
        assert_eq!(member.content["is_direct"], true);
        assert_eq!(member.sender, client.bot());
        client.kick(&room, account, "withdrawn").await.expect("withdrawn");
        client.leave(As::Bot, &room).await.expect("left");
    }
}

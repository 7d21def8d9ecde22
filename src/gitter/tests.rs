//! Both clients against the simulated Gitter.

use std::collections::BTreeSet;
use std::time::Duration;

use gitter_sim::{Fault, GitterSim, Matcher, RoomSpec, SimConfig, World};
use rand::SeedableRng;
use rand::rngs::StdRng;
use secrecy::SecretString;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::faye::{Event, FayeConfig, Operation, RoomsOperation, Timing};
use super::*;

/// A Gitter with alice in `acme/widgets`, bob beside her, and an old name and a private room.
struct Stage {
    sim: GitterSim,
    world: World,
    rest: Rest,
    alice: String,
    bob: String,
    widgets: String,
    secret: String,
}

impl Stage {
    async fn new() -> Self {
        let sim = GitterSim::start(SimConfig::default()).await.expect("starts");
        let world = sim.world();
        world.add_oauth_client("key", "secret", "http://127.0.0.1/callback");
        let (alice, bob) = (world.add_user("alice", "Alice"), world.add_user("bob", "Bob"));
        let widgets = world.add_room(RoomSpec::public("acme/widgets"));
        let secret = world.add_room(RoomSpec::private("acme/secret"));
        world.add_former_uri("acme/gadgets", &widgets);
        world.join(&widgets, &bob);
        let http =
            reqwest::Client::builder().tls_certs_only([]).no_proxy().build().expect("client");
        let rest = Rest::new(http, Url::parse(&sim.api_url()).expect("url"), 100);
        Self { sim, world, rest, alice, bob, widgets, secret }
    }

    fn token(&self, user: &str) -> SecretString {
        SecretString::from(self.world.token_for(user, "key"))
    }

    fn account(&self, user: &str) -> Account {
        self.rest.account(user, self.token(user))
    }
}

fn text(text: &str) -> NewMessage {
    NewMessage { text: text.to_owned(), ..NewMessage::default() }
}

#[tokio::test]
async fn a_day_of_an_account_over_rest() {
    let stage = Stage::new().await;
    let alice = stage.account(&stage.alice);
    let me = alice.me().await.expect("me");
    assert_eq!((me.id.as_str(), me.username.as_str()), (stage.alice.as_str(), "alice"));
    assert!(alice.rooms().await.expect("rooms").is_empty());

    assert!(alice.knows_person("BOB").await.expect("searched"));
    assert!(!alice.knows_person("bo").await.expect("searched"), "found, but not called so");
    let room = alice.resolve("ACME/Widgets").await.expect("resolved");
    assert_eq!((&room.id, room.is_member()), (&stage.widgets, false));
    assert!(matches!(alice.resolve("acme/gadgets").await, Err(GitterError::Moved)));
    assert!(matches!(alice.resolve("acme/nothing").await, Err(GitterError::NotFound)));
    assert!(matches!(alice.room(&stage.secret).await, Err(GitterError::Forbidden)));
    assert!(matches!(alice.join(&stage.secret).await, Err(GitterError::Forbidden)));
    let unknown = alice.join("5fffffffffffffffffffffff").await.expect_err("no such room");
    assert!(matches!(unknown, GitterError::Unavailable { status: Some(500), .. }), "{unknown:?}");
    assert!(alice.join(&room.id).await.expect("joined").is_member());
    let rooms = alice.rooms().await.expect("rooms");
    assert_eq!(rooms.iter().map(|room| &room.id).collect::<Vec<_>>(), [&stage.widgets]);

    let first = alice.send(&room.id, &text("hello @bob")).await.expect("sent");
    assert_eq!((first.v, first.mentions[0].user_id.as_ref()), (Some(1), Some(&stage.bob)));
    let reply = NewMessage { parent_id: Some(first.id.clone()), ..text("in a thread") };
    let reply = alice.send(&room.id, &reply).await.expect("sent");
    let edited = alice.edit(&room.id, &first.id, "hello again").await.expect("edited");
    assert!(edited.edited_at.is_some() && edited.v > first.v);
    let page = alice.messages(&room.id, Page::After(&first.id, 10)).await.expect("page");
    assert_eq!(page.iter().map(|message| &message.id).collect::<Vec<_>>(), [&reply.id]);
    let theirs = stage.world.post("bob", "acme/widgets", "mine");
    assert!(matches!(alice.edit(&room.id, &theirs, "x").await, Err(GitterError::Forbidden)));
    let unread = alice.unread_items(&room.id).await.expect("unread");
    assert_eq!(unread.chat, std::slice::from_ref(&theirs));
    alice.mark_read(&room.id, &[theirs]).await.expect("read");
    assert!(alice.unread().await.expect("unread").iter().all(|room| room.unread_items == 0));
    alice.delete(&room.id, &reply.id).await.expect("deleted");
    alice.delete(&room.id, &reply.id).await.expect("deleted before");
    assert_eq!(alice.message(&room.id, &reply.id).await.expect("asked"), None);

    // Lost answers: what may have happened is not called undone.
    stage.world.fail_next(1, Matcher::new("POST", "chatMessages"), Fault::DropAfterEffect);
    let cut = alice.send(&room.id, &text("lost")).await.expect_err("cut");
    assert!(cut.maybe_done() && !cut.is_answer(), "{cut:?}");
    stage.world.fail_next(1, Matcher::new("POST", "chatMessages"), Fault::EmptyBody);
    assert!(alice.send(&room.id, &text("empty")).await.expect_err("odd").maybe_done());
    let newest = alice.messages(&room.id, Page::Newest(2)).await.expect("page");
    assert_eq!(
        newest.iter().map(|message| message.text.as_str()).collect::<Vec<_>>(),
        ["lost", "empty"]
    );

    for number in 0..130 {
        let user = stage.world.add_user(&format!("user{number}"), "Somebody");
        stage.world.join(&room.id, &user);
    }
    assert_eq!(alice.members(&room.id, 1000).await.expect("members").len(), 132);
    alice.leave(&room.id, &stage.alice).await.expect("left");
    alice.leave(&room.id, &stage.alice).await.expect("left before");
    stage.world.revoke_tokens_of(&stage.alice);
    assert!(matches!(alice.me().await, Err(GitterError::TokenRejected)));
    stage.sim.stop().await;
    let gone = alice.me().await.expect_err("nobody there");
    assert!(matches!(gone, GitterError::Unavailable { .. }), "{gone:?}");
}

#[tokio::test]
async fn the_servers_limit_is_kept_to_without_a_refusal() {
    let stage = Stage::new().await;
    stage.world.set_rate_limit(Some(7));
    let alice = stage.account(&stage.alice);
    let calls = async {
        loop {
            alice.me().await.expect("never refused");
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(1), calls).await.is_err(),
        "waits for the reset"
    );
    assert_eq!(stage.world.count_calls("GET", "/v1/user/me"), 7);
}

/// The next event that `wanted` has an answer for.
async fn until<T>(events: &mut mpsc::Receiver<Event>, wanted: impl Fn(&Event) -> Option<T>) -> T {
    let next = async {
        loop {
            let event = events.recv().await.expect("an event");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), next).await.expect("in time")
}

fn message(event: &Event) -> Option<String> {
    match event {
        Event::Chat { operation: Operation::Create(message), .. } => Some(message.text.clone()),
        _ => None,
    }
}

fn is(expected: Event) -> impl Fn(&Event) -> Option<()> {
    move |event| (*event == expected).then_some(())
}

#[tokio::test]
async fn a_day_of_an_account_over_faye() {
    let stage = Stage::new().await;
    stage.world.join(&stage.widgets, &stage.alice);
    let timing = Timing {
        ping: Duration::from_millis(100),
        retry_first: Duration::from_millis(20),
        ..Timing::default()
    };
    let config = FayeConfig {
        url: Url::parse(&stage.sim.faye_url()).expect("url"),
        token: stage.token(&stage.alice),
        user_id: stage.alice.clone(),
        timing,
    };
    let (wanted, wants) = watch::channel(BTreeSet::from([stage.widgets.clone()]));
    let (sender, mut events) = mpsc::channel(4);
    let task = tokio::spawn(faye::run(
        config,
        wants,
        sender,
        CancellationToken::new(),
        StdRng::seed_from_u64(7),
        faye::Dialler::Network,
    ));
    let subscribed = || is(Event::Subscribed { room: stage.widgets.clone() });
    until(&mut events, is(Event::Connected)).await;
    until(&mut events, subscribed()).await;
    stage.world.post("bob", "acme/widgets", "one");
    assert_eq!(until(&mut events, message).await, "one");

    // A private room is refused, and granted when somebody adds us.
    wanted.send_replace(BTreeSet::from([stage.widgets.clone(), stage.secret.clone()]));
    let refused = |event: &Event| match event {
        Event::Refused { room, status, .. } => Some((room.clone(), *status)),
        _ => None,
    };
    assert_eq!(until(&mut events, refused).await, (stage.secret.clone(), 403));
    stage.world.join(&stage.secret, &stage.alice);
    until(&mut events, is(Event::Subscribed { room: stage.secret.clone() })).await;

    stage.world.lose_next_frames(1);
    stage.world.post("bob", "acme/widgets", "lost");
    stage.world.post("bob", "acme/widgets", "three");
    let gap_or_message = |event: &Event| match event {
        Event::Gap { room: None } => Some("gap".to_owned()),
        event => message(event),
    };
    assert_eq!(until(&mut events, gap_or_message).await, "gap");
    assert_eq!(until(&mut events, gap_or_message).await, "three");

    stage.world.forget_clients();
    until(&mut events, |event| matches!(event, Event::Disconnected { .. }).then_some(())).await;
    until(&mut events, is(Event::Connected)).await;
    until(&mut events, subscribed()).await;
    stage.world.drop_connections();
    until(&mut events, |event| matches!(event, Event::Disconnected { .. }).then_some(())).await;
    until(&mut events, subscribed()).await;
    stage.world.post("bob", "acme/widgets", "four");
    assert_eq!(until(&mut events, message).await, "four");

    // Leaving ends the subscription on the server; a public room can be read all the same.
    stage.world.leave(&stage.widgets, &stage.alice);
    until(&mut events, is(Event::Rooms(RoomsOperation::Remove(stage.widgets.clone())))).await;
    until(&mut events, subscribed()).await;
    stage.world.post("bob", "acme/widgets", "five");
    assert_eq!(until(&mut events, message).await, "five");

    stage.world.revoke_tokens_of(&stage.alice);
    stage.world.drop_connections();
    until(&mut events, is(Event::TokenRejected)).await;
    task.await.expect("ends");
}

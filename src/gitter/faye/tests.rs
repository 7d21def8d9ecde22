//! The connection against a server that we play ourselves, over pipes and on paused time.

use futures_util::{SinkExt, StreamExt};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message as Packet;

use super::*;

const ALICE: &str = "5f000000000000000000a001";
const ROOM: &str = "5f000000000000000000e001";
const OTHER: &str = "5f000000000000000000e002";

/// A connection under test, and where it dials to.
struct Bench {
    wanted: watch::Sender<BTreeSet<String>>,
    events: mpsc::Receiver<Event>,
    dialled: mpsc::UnboundedReceiver<DuplexStream>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Bench {
    fn new(rooms: &[&str], room_for_events: usize) -> Self {
        let config = FayeConfig {
            url: Url::parse("ws://gitter.example/bayeux").expect("url"),
            token: SecretString::from("secret-token"),
            user_id: ALICE.to_owned(),
            timing: Timing::default(),
        };
        let (wanted, wants) = watch::channel(rooms.iter().map(|&room| room.to_owned()).collect());
        let (sender, events) = mpsc::channel(room_for_events);
        let (dial, dialled) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let dial = || async {
                let (ours, theirs) = tokio::io::duplex(64 * 1024);
                dial.send(theirs).map_err(|_| "refused".to_owned())?;
                let url = "ws://gitter.example/bayeux";
                let dialled =
                    tokio_tungstenite::client_async_with_config(url, ours, Some(bounds()));
                dialled.await.map(|(socket, _)| socket).map_err(|error| error.to_string())
            };
            run_on(&config, wants, &sender, &stopped, StdRng::seed_from_u64(7), dial).await;
        });
        Self { wanted, events, dialled, stop, task }
    }

    fn want(&self, rooms: &[&str]) {
        self.wanted.send_replace(rooms.iter().map(|&room| room.to_owned()).collect());
    }

    /// The next connection, before its handshake.
    async fn peer(&mut self) -> Peer {
        let pipe = self.dialled.recv().await.expect("dials");
        Peer { socket: tokio_tungstenite::accept_async(pipe).await.expect("upgrade"), counted: 0 }
    }

    /// The next connection, after its handshake, with all it asks for at first granted.
    async fn served(&mut self) -> Peer {
        let mut peer = self.peer().await;
        peer.welcome().await;
        assert_eq!(self.event().await, Event::Connected);
        peer.expect(frame::CONNECT).await;
        for frame in peer.read().await {
            let channel = frame["subscription"].as_str().expect("channel").to_owned();
            peer.grant(&channel).await;
            if let Some(room) = frame::room_of(&channel) {
                assert_eq!(self.event().await, Event::Subscribed { room: room.to_owned() });
            }
        }
        peer
    }

    async fn event(&mut self) -> Event {
        self.events.recv().await.expect("an event")
    }

    async fn disconnected(&mut self) -> String {
        match self.event().await {
            Event::Disconnected { reason } => reason,
            other => panic!("expected the end, got {other:?}"),
        }
    }
}

/// The server's end of a connection.
struct Peer {
    socket: WebSocketStream<DuplexStream>,
    counted: u64,
}

impl Peer {
    async fn read(&mut self) -> Vec<Value> {
        loop {
            match self.socket.next().await.expect("open").expect("readable") {
                Packet::Text(text) => return serde_json::from_str(&text).expect("frames"),
                Packet::Pong(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// The next frame, which has to be alone in its packet and for this channel.
    async fn expect(&mut self, channel: &str) -> Value {
        let mut frames = self.read().await;
        assert_eq!((frames.len(), &frames[0]["channel"]), (1, &json!(channel)), "{frames:?}");
        frames.swap_remove(0)
    }

    async fn say(&mut self, frame: Value) {
        self.raw(json!([frame]).to_string()).await;
    }

    async fn raw(&mut self, text: String) {
        self.socket.send(Packet::text(text)).await.expect("sent");
    }

    async fn welcome(&mut self) {
        let hello = self.expect(frame::HANDSHAKE).await;
        assert_eq!(hello["ext"]["token"], "secret-token");
        self.say(json!({ "channel": frame::HANDSHAKE, "successful": true, "clientId": "c1",
            "advice": { "reconnect": "retry", "interval": 500, "timeout": 120_000 }, "ext": { "userId": ALICE } }))
        .await;
    }

    async fn grant(&mut self, channel: &str) {
        self.say(
            json!({ "channel": frame::SUBSCRIBE, "successful": true, "subscription": channel }),
        )
        .await;
    }

    async fn refuse(&mut self, channel: &str, error: &str) {
        self.say(
            json!({ "channel": frame::SUBSCRIBE, "successful": false, "subscription": channel,
            "error": error }),
        )
        .await;
    }

    async fn publish(&mut self, channel: &str, operation: &str, model: Value) {
        self.counted += 1;
        self.say(json!({ "channel": channel, "data": { "operation": operation, "model": model }, "id": "x",
            "ext": { "c": self.counted } }))
        .await;
    }

    /// Sends a message into a room.
    async fn chat(&mut self, room: &str, id: &str) {
        self.publish(&frame::chat_channel(room), "create", json!({ "id": id, "text": "hello" }))
            .await;
    }
}

fn created(event: &Event) -> &str {
    match event {
        Event::Chat { operation: Operation::Create(message), .. } => &message.id,
        other => panic!("expected a message, got {other:?}"),
    }
}

/// A frame that (un)subscribes a channel.
fn about(what: &str, channel: &str) -> (String, String) {
    (what.to_owned(), channel.to_owned())
}

/// Frames that (un)subscribe what a room tells: its messages and its members.
fn both(what: &str, room: &str) -> [(String, String); 2] {
    [about(what, &frame::chat_channel(room)), about(what, &frame::people_channel(room))]
}

/// What subscription frames are about.
fn channels(frames: &[Value]) -> Vec<(String, String)> {
    let text = |frame: &Value, key: &str| frame[key].as_str().expect("text").to_owned();
    frames.iter().map(|frame| (text(frame, "channel"), text(frame, "subscription"))).collect()
}

#[tokio::test(start_paused = true)]
async fn subscriptions_follow_what_is_wanted() {
    let mut bench = Bench::new(&[ROOM], 100);
    let mut peer = bench.peer().await;
    peer.welcome().await;
    let connect = peer.expect(frame::CONNECT).await;
    assert_eq!(
        (&connect["clientId"], &connect["connectionType"]),
        (&json!("c1"), &json!("websocket"))
    );
    let (own, room, other) =
        (frame::rooms_channel(ALICE), frame::chat_channel(ROOM), frame::chat_channel(OTHER));
    let frames = peer.read().await;
    let [chat, people] = both(frame::SUBSCRIBE, ROOM);
    assert_eq!(channels(&frames), [chat, people, about(frame::SUBSCRIBE, &own)]);
    assert!(frames.iter().all(|frame| frame["ext"]["snapshot"] == json!(false)), "{frames:?}");
    let ids: BTreeSet<_> = frames.iter().map(|frame| frame["id"].to_string()).collect();
    assert_eq!(ids.len(), 3, "each frame has an id of its own");
    peer.grant(&own).await;
    peer.grant(&room).await;
    assert_eq!(bench.event().await, Event::Connected);
    assert_eq!(bench.event().await, Event::Subscribed { room: ROOM.to_owned() });

    bench.want(&[OTHER]);
    assert_eq!(channels(&peer.read().await), both(frame::UNSUBSCRIBE, ROOM));
    assert_eq!(channels(&peer.read().await), both(frame::SUBSCRIBE, OTHER));
    // What was on its way from the room that nobody wants any more is dropped.
    peer.chat(ROOM, "late").await;
    peer.grant(&other).await;
    peer.chat(OTHER, "m1").await;
    assert_eq!(bench.event().await, Event::Subscribed { room: OTHER.to_owned() });
    assert_eq!(created(&bench.event().await), "m1");

    bench.want(&[]);
    assert_eq!(channels(&peer.read().await), both(frame::UNSUBSCRIBE, OTHER));
}

#[tokio::test(start_paused = true)]
async fn who_comes_goes_or_changes_is_told_and_a_refusal_of_that_is_not() {
    let mut bench = Bench::new(&[ROOM, OTHER], 100);
    let mut peer = bench.served().await;
    let people = frame::people_channel(ROOM);
    peer.refuse(&frame::people_channel(OTHER), "403::Authorisation denied.").await;
    for operation in ["create", "update", "explode", "remove"] {
        peer.publish(&people, operation, json!({ "id": "u1", "username": "bob" })).await;
    }
    peer.publish(&people, "create", json!("nonsense")).await;
    peer.chat(ROOM, "m1").await;
    let mut told = Vec::new();
    loop {
        match bench.event().await {
            Event::People { room, operation } => {
                assert_eq!(room, ROOM);
                told.push(match operation {
                    PeopleOperation::Create(user) => format!("+{}", user.username),
                    PeopleOperation::Update(user) => format!("={}", user.username),
                    PeopleOperation::Remove(id) => format!("-{id}"),
                });
            }
            other => break assert_eq!(created(&other), "m1"),
        }
    }
    assert_eq!(told, ["+bob", "=bob", "-u1"]);
}

#[tokio::test(start_paused = true)]
async fn many_rooms_are_asked_for_in_batches_and_no_wildcards_at_all() {
    let rooms: Vec<String> = (0..60).map(|room| format!("{room:024x}")).collect();
    let mut wanted: Vec<_> = rooms.iter().map(String::as_str).collect();
    wanted.extend(["*", "**", "", "a/b"]);
    let mut bench = Bench::new(&wanted, 100);
    let mut peer = bench.peer().await;
    peer.welcome().await;
    peer.expect(frame::CONNECT).await;
    let mut batches = Vec::new();
    for _ in 0..5 {
        batches.push(peer.read().await.len());
    }
    assert_eq!(batches, [25, 25, 25, 25, 21]);
    assert_eq!(bench.event().await, Event::Connected);
    for _ in 0..4 {
        assert!(matches!(bench.event().await, Event::Refused { status: 400, .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_room_is_told_once_and_asked_again_when_it_is_joined() {
    let mut bench = Bench::new(&[], 100);
    let mut peer = bench.served().await;
    bench.want(&[ROOM]);
    let channel = frame::chat_channel(ROOM);
    assert_eq!(channels(&peer.read().await), both(frame::SUBSCRIBE, ROOM));
    peer.refuse(&channel, "403::Authorisation denied.").await;
    let message = "Authorisation denied.".to_owned();
    let refused = Event::Refused { room: ROOM.to_owned(), status: 403, message };
    assert_eq!(bench.event().await, refused);
    bench.want(&[ROOM, OTHER]);
    let other = frame::chat_channel(OTHER);
    assert_eq!(channels(&peer.read().await), both(frame::SUBSCRIBE, OTHER), "not the refused one");
    peer.grant(&other).await;
    assert_eq!(bench.event().await, Event::Subscribed { room: OTHER.to_owned() });
    peer.publish(&frame::rooms_channel(ALICE), "create", json!({ "id": ROOM, "roomMember": true }))
        .await;
    assert!(
        matches!(bench.event().await, Event::Rooms(RoomsOperation::Create(room)) if room.id == ROOM)
    );
    assert_eq!(channels(&peer.read().await), both(frame::SUBSCRIBE, ROOM));
}

#[tokio::test(start_paused = true)]
async fn leaving_a_room_renews_its_subscription_since_the_server_ended_it_silently() {
    let mut bench = Bench::new(&[ROOM], 100);
    let mut peer = bench.served().await;
    let own = frame::rooms_channel(ALICE);
    peer.publish(&own, "remove", json!({ "id": OTHER })).await;
    peer.publish(&own, "patch", json!({ "id": ROOM, "unreadItems": 3, "lastAccessTime": null }))
        .await;
    peer.publish(&own, "remove", json!({ "id": ROOM })).await;
    assert_eq!(bench.event().await, Event::Rooms(RoomsOperation::Remove(OTHER.to_owned())));
    assert!(
        matches!(bench.event().await, Event::Rooms(RoomsOperation::Patch(patch)) if patch.unread_items == Some(3))
    );
    assert_eq!(bench.event().await, Event::Rooms(RoomsOperation::Remove(ROOM.to_owned())));
    let channel = frame::chat_channel(ROOM);
    assert_eq!(channels(&peer.read().await), both(frame::SUBSCRIBE, ROOM));
    peer.grant(&channel).await;
    assert_eq!(bench.event().await, Event::Subscribed { room: ROOM.to_owned() });
}

#[tokio::test(start_paused = true)]
async fn what_a_room_says_before_its_subscription_is_answered_is_left_to_what_was_missed() {
    let mut bench = Bench::new(&[ROOM], 100);
    let mut peer = bench.peer().await;
    peer.welcome().await;
    assert_eq!(bench.event().await, Event::Connected);
    peer.expect(frame::CONNECT).await;
    peer.read().await;
    peer.chat(ROOM, "before").await;
    peer.grant(&frame::chat_channel(ROOM)).await;
    peer.chat(ROOM, "after").await;
    assert_eq!(bench.event().await, Event::Subscribed { room: ROOM.to_owned() });
    assert_eq!(created(&bench.event().await), "after");
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_never_tried_again() {
    let mut bench = Bench::new(&[ROOM], 100);
    let mut peer = bench.peer().await;
    peer.expect(frame::HANDSHAKE).await;
    let rejected = include_str!("../fixtures/faye-replies.txt").lines().nth(1).expect("recorded");
    peer.raw(rejected.to_owned()).await;
    assert_eq!(bench.event().await, Event::TokenRejected);
    assert_eq!(bench.events.recv().await, None);
    bench.task.await.expect("ends");
    assert!(bench.dialled.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_told_before_what_follows() {
    let mut bench = Bench::new(&[ROOM], 100);
    let mut peer = bench.served().await;
    let channel = frame::chat_channel(ROOM);
    peer.chat(ROOM, "m1").await;
    peer.counted += 2;
    peer.chat(ROOM, "m4").await;
    peer.counted = 1;
    peer.chat(ROOM, "m2-late").await;
    peer.counted = 4;
    peer.publish(&channel, "create", json!({ "text": "no id" })).await;
    peer.publish(&channel, "invent", json!({ "id": "x" })).await;
    peer.say(json!({ "channel": "/api/v1/elsewhere", "data": {}, "ext": { "c": 7 } })).await;
    peer.say(json!({ "channel": "/meta/unheard-of" })).await;
    peer.raw("not json".to_owned()).await;
    peer.raw("[]".to_owned()).await;
    peer.counted = 7;
    peer.publish(&channel, "patch", json!({ "readBy": 1, "v": 3, "id": "m1" })).await;
    peer.publish(&channel, "remove", json!({ "id": "m1" })).await;
    let gap = |room: Option<&str>| Event::Gap { room: room.map(str::to_owned) };
    assert_eq!(created(&bench.event().await), "m1");
    assert_eq!(bench.event().await, gap(None));
    assert_eq!(created(&bench.event().await), "m4");
    assert_eq!(created(&bench.event().await), "m2-late");
    assert_eq!(bench.event().await, gap(Some(ROOM)), "a message without an id");
    assert_eq!(bench.event().await, gap(None), "no JSON");
    let room = ROOM.to_owned();
    let patch = MessagePatch { id: "m1".to_owned(), v: Some(3), read_by: Some(1) };
    assert_eq!(
        bench.event().await,
        Event::Chat { room: room.clone(), operation: Operation::Patch(patch) }
    );
    let operation = Operation::Remove("m1".to_owned());
    assert_eq!(bench.event().await, Event::Chat { room, operation });
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_client_shakes_hands_again_and_subscribes_anew() {
    let mut bench = Bench::new(&[ROOM, OTHER], 100);
    let mut peer = bench.served().await;
    peer.counted = 40;
    let forgotten = include_str!("../fixtures/faye-replies.txt").lines().nth(6).expect("recorded");
    peer.raw(forgotten.to_owned()).await;
    let reason = bench.disconnected().await;
    assert!(reason.contains("401 Unknown client"), "{reason}");
    let before = Instant::now();
    let mut peer = bench.served().await;
    assert!(before.elapsed() >= Duration::from_secs(2), "as advised: {:?}", before.elapsed());
    // The new client counts from one.
    peer.chat(OTHER, "m1").await;
    assert_eq!(created(&bench.event().await), "m1");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_answering_pings_is_left() {
    let mut bench = Bench::new(&[ROOM], 100);
    let mut peer = bench.served().await;
    let began = Instant::now();
    let ping = peer.expect(frame::PING).await;
    let wait = began.elapsed().as_secs();
    assert!((30..=60).contains(&wait), "{wait}");
    assert_eq!((&ping["clientId"], &ping["data"]["reason"]), (&json!("c1"), &json!("ping")));
    peer.say(json!({ "channel": frame::PING, "successful": true })).await;
    peer.expect(frame::PING).await;
    let asked = Instant::now();
    // Other traffic is no answer: messages may arrive although the server has lost our socket.
    peer.chat(ROOM, "m1").await;
    assert_eq!(created(&bench.event().await), "m1");
    assert_eq!(bench.disconnected().await, "no answer to a ping");
    assert_eq!(asked.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_connect_is_always_held_and_a_lost_one_noticed() {
    let mut bench = Bench::new(&[ROOM], 100);
    let mut peer = bench.served().await;
    let answer = |interval: u64| {
        json!({ "channel": frame::CONNECT, "successful": true,
            "advice": { "reconnect": "retry", "interval": interval, "timeout": 1 } })
    };
    //   advised, waited at least and at most
    for (advised, least, most) in [(500, 500, 510), (0, 200, 210), (864_000_000, 30_000, 61_000)] {
        let began = Instant::now();
        peer.say(answer(advised)).await;
        loop {
            let frame = peer.read().await.swap_remove(0);
            if frame["channel"] == frame::CONNECT {
                break;
            }
            peer.say(json!({ "channel": frame::PING, "successful": true })).await;
        }
        let waited = began.elapsed().as_millis();
        assert!((least..=most).contains(&waited), "row: {advised}: {waited}");
    }
    // The advised timeout of a millisecond is taken as ten seconds.
    let began = Instant::now();
    let reason = tokio::select! {
        biased;
        reason = bench.disconnected() => reason,
        () = async { loop {
            peer.expect(frame::PING).await;
            peer.say(json!({ "channel": frame::PING, "successful": true })).await;
        } } => unreachable!(),
    };
    assert_eq!(reason, "no answer to a held connect");
    assert_eq!(began.elapsed().as_secs(), 40);
}

#[tokio::test(start_paused = true)]
async fn subscriptions_without_an_answer_end_the_connection() {
    let mut bench = Bench::new(&[ROOM], 100);
    let mut peer = bench.peer().await;
    peer.welcome().await;
    assert_eq!(bench.event().await, Event::Connected);
    assert_eq!(bench.disconnected().await, "no answer to a subscription");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_drops_everybody_is_asked_less_and_less() {
    let mut bench = Bench::new(&[ROOM], 100);
    let mut waits = Vec::new();
    for _ in 0..12 {
        drop(bench.peer().await);
        bench.disconnected().await;
        let before = Instant::now();
        let pipe = bench.dialled.recv().await.expect("dials");
        waits.push(before.elapsed().as_secs_f64());
        drop(pipe);
        bench.disconnected().await;
    }
    assert!(waits[0] < 1.6, "{waits:?}");
    assert!(waits.iter().skip(6).all(|wait| (60.0..=180.0).contains(wait)), "{waits:?}");
    // After a good connection it starts from the beginning.
    let mut peer = bench.served().await;
    for _ in 0..3 {
        peer.expect(frame::PING).await;
        peer.say(json!({ "channel": frame::PING, "successful": true })).await;
    }
    drop(peer);
    bench.disconnected().await;
    let before = Instant::now();
    bench.peer().await;
    assert!(before.elapsed().as_secs_f64() < 1.6, "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn advice_of_ten_days_is_not_followed_unless_the_token_is_refused() {
    let mut bench = Bench::new(&[], 100);
    let mut peer = bench.peer().await;
    peer.expect(frame::HANDSHAKE).await;
    peer.say(json!({ "channel": frame::HANDSHAKE, "successful": false, "error": "500::Oops",
        "advice": { "reconnect": "none", "interval": 864_000_000 } }))
        .await;
    assert_eq!(bench.disconnected().await, "handshake failed: 500 Oops");
    let before = Instant::now();
    bench.served().await;
    assert_eq!(before.elapsed().as_secs(), 120);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_without_an_answer_is_given_up() {
    let mut bench = Bench::new(&[], 100);
    let mut peer = bench.peer().await;
    peer.expect(frame::HANDSHAKE).await;
    peer.raw("[]".to_owned()).await;
    peer.raw("not json".to_owned()).await;
    peer.say(json!({ "channel": "/elsewhere" })).await;
    assert_eq!(bench.disconnected().await, "no answer to the handshake");
    // Nor does a connection that is never upgraded last.
    let _pipe = bench.dialled.recv().await.expect("dials");
    assert_eq!(bench.disconnected().await, "not connected in time");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_loses_nothing() {
    let mut bench = Bench::new(&[ROOM], 1);
    let mut peer = bench.served().await;
    let writer = tokio::spawn(async move {
        for number in 0..500 {
            peer.chat(ROOM, &format!("m{number}")).await;
        }
        peer
    });
    for number in 0..500 {
        if number == 3 {
            // Long enough for every deadline to pass.
            tokio::time::advance(Duration::from_secs(600)).await;
        }
        assert_eq!(created(&bench.event().await), format!("m{number}"));
    }
    let mut peer = writer.await.expect("written");
    // That nothing was read meanwhile is not held against the server.
    loop {
        let frame = peer.read().await.swap_remove(0);
        if frame["channel"] == frame::PING {
            peer.say(json!({ "channel": frame::PING, "successful": true })).await;
            break;
        }
    }
    peer.chat(ROOM, "last").await;
    assert_eq!(created(&bench.event().await), "last");
}

#[tokio::test(start_paused = true)]
async fn stopping_says_goodbye_even_when_nobody_reads() {
    let mut bench = Bench::new(&[ROOM], 1);
    let mut peer = bench.served().await;
    for number in 0..20 {
        peer.chat(ROOM, &format!("m{number}")).await;
    }
    bench.stop.cancel();
    let goodbye = peer.expect(frame::DISCONNECT).await;
    assert_eq!(goodbye["clientId"], "c1");
    bench.task.await.expect("ends");
    assert!(bench.dialled.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_needs_ends() {
    let mut bench = Bench::new(&[ROOM], 10);
    let mut peer = bench.served().await;
    drop(bench.wanted);
    peer.expect(frame::DISCONNECT).await;
    bench.task.await.expect("ends");

    let mut bench = Bench::new(&[ROOM], 10);
    let mut peer = bench.served().await;
    drop(bench.events);
    peer.expect(frame::DISCONNECT).await;
    bench.task.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn pings_of_the_socket_are_answered_and_huge_frames_are_not_read() {
    let mut bench = Bench::new(&[ROOM], 10);
    let mut peer = bench.served().await;
    peer.socket.send(Packet::Ping("1".into())).await.expect("sent");
    assert_eq!(peer.socket.next().await.expect("open").expect("read"), Packet::Pong("1".into()));
    let huge = json!([{ "channel": frame::chat_channel(ROOM), "data": "x".repeat(MAX_FRAME) }]);
    let sent = tokio::spawn(async move { peer.socket.send(Packet::text(huge.to_string())).await });
    let reason = bench.disconnected().await;
    assert!(reason.contains("too long"), "{reason}");
    assert!(sent.await.expect("ran").is_err(), "the connection is gone");
}

#[tokio::test]
async fn it_works_over_a_real_socket() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let config = FayeConfig {
        url: Url::parse(&format!("http://{address}/bayeux")).expect("url"),
        token: SecretString::from("secret-token"),
        user_id: ALICE.to_owned(),
        timing: Timing::default(),
    };
    assert!(!format!("{config:?}").contains("secret-token"));
    let (_wanted, wants) = watch::channel(BTreeSet::new());
    let (sender, mut events) = mpsc::channel(10);
    let stop = CancellationToken::new();
    let token = stop.clone();
    let task =
        tokio::spawn(run(config, wants, sender, token, StdRng::seed_from_u64(7), Dialler::Network));
    let (socket, _) = listener.accept().await.expect("dials");
    let mut socket = tokio_tungstenite::accept_async(socket).await.expect("upgrade");
    let hello = socket.next().await.expect("open").expect("readable").into_text().expect("text");
    assert!(hello.contains("secret-token"));
    let welcome = include_str!("../fixtures/faye-replies.txt").lines().next().expect("recorded");
    socket.send(Packet::text(welcome)).await.expect("sent");
    assert_eq!(events.recv().await, Some(Event::Connected));
    stop.cancel();
    let mut said = String::new();
    while let Some(Ok(packet)) = socket.next().await {
        said += packet.to_text().expect("text");
    }
    assert!(said.contains(frame::DISCONNECT), "{said}");
    task.await.expect("ends");
}

//! What becomes of rows that are older than the world.

use super::*;

/// The store is a backup put in place, and what Alice says here waited to be sent when it was made.
pub(super) async fn waits_since_before(fixture: &Fixture, texts: &[&str]) {
    let now = fixture.relay.0.bridge.clock.now();
    let taken = Millis(now.0 - 10_000);
    for (n, text) in texts.iter().enumerate() {
        let row = Outgoing {
            event: format!("${n}:example.org").try_into().expect("a valid id"),
            sent: taken,
            payload: Payload::say(vec![(*text).to_owned()], false, None),
            done: 0,
            attempt: None,
            told: None,
        };
        let key = fixture.key.clone();
        fixture.db.change(move |t| t.push_outgoing(&key, &row)).await.expect("written");
    }
    let key = fixture.key.clone();
    fixture.db.change(move |t| t.put_relearn(&key, Some(taken))).await.expect("written");
}

pub(super) async fn waiting(fixture: &Fixture) -> Vec<String> {
    let key = fixture.key.clone();
    let rows = fixture.db.look(move |t| t.outgoing(&key, 10)).await.expect("readable");
    rows.into_iter().map(|(_, row)| row.event.to_string()).collect()
}

#[tokio::test]
async fn of_what_waits_in_a_closed_portal_its_sender_is_told_that_nobody_knows() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    waits_since_before(&fixture, &["one", "two"]).await;
    fixture.sim.world().post("alice", "acme/rockets", "one");
    fixture
        .change_portal(|portal| {
            (portal.place, portal.joined) = (Place::Nowhere, false);
            portal.open.adopt(false, Reason::LeftPortal, Millis(2));
        })
        .await;
    fixture.relay.poke_unlearned().await.expect("readable");
    until_nothing_waits(&fixture).await;
    let told = fixture.told().await;
    let doubt = "In acme/rockets: This message may be on Gitter or not";
    assert!(told.len() == 2 && told.iter().all(|text| text.starts_with(doubt)), "{told:?}");
    assert_eq!(on_gitter(&fixture), ["one"], "not sent again");
}

#[tokio::test]
async fn of_what_waits_for_a_room_that_can_not_be_read_its_sender_is_told_that_nobody_knows() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    waits_since_before(&fixture, &["one"]).await;
    fixture.sim.world().ban("acme/rockets", "alice");
    fixture.relay.poke_outward(fixture.key.clone());
    until_nothing_waits(&fixture).await;
    let to = Target::Room(portal_room());
    let notice = fixture.until("a word", move |t| t.first_notice(&to)).await.1;
    let Say::Fate(fate) = notice.say else { panic!("{notice:?}") };
    assert!(matches!(fate.news, News::Failed(Failure::Unsure, _)), "{fate:?}");
}

#[tokio::test]
async fn what_waits_and_was_said_in_a_room_that_is_gone_is_looked_for_on_gitter() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let long = ["x".repeat(4096), "y".to_owned()];
    waits_since_before(&fixture, &["one", "two"]).await;
    let (key, first) = (fixture.key.clone(), fixture.sim.world());
    let part: MessageId = first.post("alice", "acme/rockets", &long[0]).parse().expect("an id");
    let (event, parts) = (ruma::owned_event_id!("$long:example.org"), long.to_vec());
    let sent = fixture.relay.0.bridge.clock.now();
    let half = fixture.db.change(move |t| {
        t.put_link(&link(&key, part.clone(), &event))?;
        let payload = Payload::say(parts.clone(), false, None);
        let event = event.clone();
        t.push_outgoing(
            &key,
            &Outgoing { event, sent, payload, done: 1, attempt: None, told: None },
        )
    });
    half.await.expect("written");
    for text in ["one", "two", "y"] {
        fixture.sim.world().post("alice", "acme/rockets", text);
    }
    fixture.relay.poke_outward(fixture.key.clone());
    until_nothing_waits(&fixture).await;
    assert_eq!(on_gitter(&fixture), [&long[0], "one", "two", "y"], "each once");
    assert!(fixture.sent_to(&portal_room()).await.is_empty(), "and not shown as somebody else's");
}

/// What Alice said in the portal half a minute ago, or did to what she said.
fn hers(fixture: &Fixture, id: &str, kind: &str, content: &Value) -> Value {
    let now = fixture.relay.0.bridge.clock.now();
    json!({
        "type": kind, "event_id": id, "room_id": portal_room(), "sender": alice(),
        "origin_server_ts": now.0 - 30_000, "content": content,
    })
}

fn edit(fixture: &Fixture, id: &str, body: &str) -> Value {
    let content = json!({
        "msgtype": "m.text", "body": format!("* {body}"),
        "m.new_content": {"msgtype": "m.text", "body": body},
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$said:example.org"},
    });
    hers(fixture, id, "m.room.message", &content)
}

/// The portal learns from a room with these events, the newest first, and then has nothing more to send.
async fn learn_from(fixture: &Fixture, events: &[Value]) {
    let taken = Millis(fixture.relay.0.bridge.clock.now().0 - 60_000);
    fixture.holds(events).await;
    learn_since(fixture, taken).await;
    until_nothing_waits(fixture).await;
}

/// The same, from what the homeserver holds; what then waits is due when no call of before can land any more.
async fn learn_since(fixture: &Fixture, taken: Millis) {
    fixture.agreeable().await;
    let key = fixture.key.clone();
    fixture.db.change(move |t| t.put_relearn(&key, Some(taken))).await.expect("written");
    fixture.relay.catch_up(&fixture.key);
    let key = fixture.key.clone();
    let learned = move |t: &ReadTxn| Ok(t.relearn_since(&key)?.is_none().then_some(()));
    fixture.until("the lesson", learned).await;
}

#[tokio::test]
async fn what_waits_and_is_in_the_room_as_said_elsewhere_is_not_sent_again() {
    let fixture = Fixture::new().await;
    waits_since_before(&fixture, &["one"]).await;
    let id = fixture.sim.world().post("alice", "acme/rockets", "one");
    let shown = json!({
        "type": "m.room.message", "event_id": "$shown:example.org", "room_id": portal_room(),
        "sender": "@gitter_alice:example.org", "origin_server_ts": 0,
        "content": {"msgtype": "m.text", "body": "one", "im.gitter.id": id},
    });
    learn_from(&fixture, &[shown]).await;
    assert_eq!(on_gitter(&fixture), ["one"]);
    let (key, id) = (fixture.key.clone(), id.parse().expect("an id"));
    let link = fixture.until("a link", move |t| t.link_of_message(&key, &id)).await;
    assert_eq!((link.event.as_str(), link.from_matrix), ("$0:example.org", true));
}

#[tokio::test]
async fn of_several_edits_the_newest_is_not_undone() {
    let fixture = Fixture::new().await;
    fixture.sim.world().post("alice", "acme/rockets", "newest");
    let text = json!({"msgtype": "m.text", "body": "old"});
    let events = [
        edit(&fixture, "$third:example.org", "newest"),
        edit(&fixture, "$second:example.org", "newer"),
        hers(&fixture, "$said:example.org", "m.room.message", &text),
    ];
    learn_from(&fixture, &events).await;
    assert_eq!(on_gitter(&fixture), ["newest"]);
}

#[tokio::test]
async fn a_part_that_an_edit_took_away_is_not_sent_again() {
    let fixture = Fixture::new().await;
    fixture.sim.world().post("alice", "acme/rockets", "short");
    let text = json!({"msgtype": "m.text", "body": "and so on ".repeat(600)});
    let events = [
        edit(&fixture, "$second:example.org", "short"),
        hers(&fixture, "$said:example.org", "m.room.message", &text),
    ];
    learn_from(&fixture, &events).await;
    assert_eq!(on_gitter(&fixture), ["short"]);
}

#[tokio::test]
async fn of_what_was_deleted_before_it_could_be_learned_its_sender_is_told_that_it_may_be_there() {
    let fixture = Fixture::new().await;
    fixture.sim.world().post("alice", "acme/rockets", "oh no");
    let of = json!({"redacts": "$said:example.org"});
    let events = [
        hers(&fixture, "$gone:example.org", "m.room.redaction", &of),
        hers(&fixture, "$said:example.org", "m.room.message", &json!({})),
    ];
    learn_from(&fixture, &events).await;
    let to = Target::Room(portal_room());
    let notice = fixture.until("a word", move |t| t.first_notice(&to)).await.1;
    let Say::Fate(fate) = notice.say else { panic!("{notice:?}") };
    assert!(matches!(fate.news, News::Failed(Failure::Unsure, _)), "{fate:?}");
    assert_eq!(fate.event, "$said:example.org");
}

/// Alice said "one" in the portal, and then "two".
async fn holds_two(fixture: &Fixture) {
    let [first, second] = ["one", "two"].map(|body| json!({"msgtype": "m.text", "body": body}));
    let events = [
        hers(fixture, "$second:example.org", "m.room.message", &second),
        hers(fixture, "$first:example.org", "m.room.message", &first),
    ];
    fixture.holds(&events).await;
}

#[tokio::test]
async fn what_was_said_last_before_a_store_was_lost_is_sent_though_nothing_before_it_was() {
    let fixture = Fixture::new().await;
    holds_two(&fixture).await;
    learn_since(&fixture, Millis(0)).await;
    assert_eq!(waiting(&fixture).await, ["$first:example.org", "$second:example.org"]);
}

#[tokio::test]
async fn what_was_said_since_a_store_was_made_anew_is_sent_whatever_came_after_it() {
    let fixture = Fixture::new().await;
    holds_two(&fixture).await;
    fixture.sim.world().post("alice", "acme/rockets", "two");
    let began = Millis(fixture.relay.0.bridge.clock.now().0 - 60_000);
    fixture.db.change(move |t| t.note_start(began)).await.expect("written");
    learn_since(&fixture, Millis(0)).await;
    assert_eq!(waiting(&fixture).await, ["$first:example.org"]);
}

#[tokio::test]
async fn a_backup_may_be_older_than_the_clock_said_that_dated_it() {
    let fixture = Fixture::new().await;
    let [first, second] = ["one", "two"].map(|body| json!({"msgtype": "m.text", "body": body}));
    let older = hers(&fixture, "$first:example.org", "m.room.message", &first);
    let newer = hers(&fixture, "$second:example.org", "m.room.message", &second);
    let page = |content: Value| ResponseTemplate::new(200).set_body_json(content);
    let messages = || Mock::given(method("GET")).and(path_regex("messages$"));
    let last = page(json!({"chunk": [older]}));
    messages().and(query_param("from", "p2")).respond_with(last).mount(&fixture.home).await;
    let newest = page(json!({"chunk": [newer], "end": "p2"}));
    messages().respond_with(newest).mount(&fixture.home).await;
    let taken = Millis(fixture.relay.0.bridge.clock.now().0 + 7_200_000);
    learn_since(&fixture, taken).await;
    assert_eq!(waiting(&fixture).await, ["$first:example.org", "$second:example.org"]);
}

#[tokio::test]
async fn a_late_edit_that_was_edited_once_more_is_known_again() {
    let fixture = Fixture::new().await;
    let pointing = ":point_up: [Edit](http://gitter.test/acme/rockets?at=1): newest";
    for text in ["old", pointing] {
        fixture.sim.world().post("alice", "acme/rockets", text);
    }
    let text = json!({"msgtype": "m.text", "body": "old"});
    let mut last = edit(&fixture, "$third:example.org", "newest");
    // The message that it changes was said long before.
    last["origin_server_ts"] = json!(fixture.relay.0.bridge.clock.now().0 + 600_000);
    let events = [
        last,
        edit(&fixture, "$second:example.org", "newer"),
        hers(&fixture, "$said:example.org", "m.room.message", &text),
    ];
    learn_from(&fixture, &events).await;
    assert_eq!(on_gitter(&fixture), ["old", pointing]);
    let links = fixture.db.look(|t| t.links_of_event(ruma::event_id!("$said:example.org"))).await;
    let parts: Vec<u32> = links.expect("readable").iter().map(|link| link.part).collect();
    assert_eq!(parts, [0, 1000], "and is what a further edit changes");
}

#[tokio::test]
async fn what_was_being_sent_at_a_logout_is_known_again_in_the_same_room() {
    let fixture = Fixture::new().await;
    let text = json!({"msgtype": "m.text", "body": "hello?"});
    fixture.holds(&[hers(&fixture, "$1:example.org", "m.room.message", &text)]).await;
    fixture.agreeable().await;
    cut_off::was_cut_off(&fixture, fixture.relay.0.bridge.clock.now()).await;
    let key = fixture.key.clone();
    let withdrawn = fixture.db.change(move |t| {
        let mut portal = t.portal(&key)?.expect("a portal");
        portal.open.ask(false, Reason::Logout, portal.open.at);
        t.put_portal(&key, &portal)?;
        Ok((t.withdraw_outbox(&key)?, t.relearn_since(&key)?))
    });
    let (withdrawn, learns) = withdrawn.await.expect("written");
    assert_eq!((withdrawn, learns), (1, None), "of what is said now somebody else tells");
    // It lands; and somebody logs in again before the room is closed.
    let key = fixture.key.clone();
    let opened = fixture.db.change(move |t| {
        let mut portal = t.portal(&key)?.expect("a portal");
        portal.open.ask(true, Reason::Login, portal.open.at);
        t.put_portal(&key, &portal)
    });
    opened.await.expect("written");
    let id = fixture.sim.world().post("alice", "acme/rockets", "hello?");
    fixture.relay.catch_up(&fixture.key);
    let (key, id) = (fixture.key.clone(), id.parse().expect("an id"));
    let link = fixture.until("a link", move |t| t.link_of_message(&key, &id)).await;
    assert_eq!((link.event.as_str(), link.from_matrix), ("$1:example.org", true));
    assert!(fixture.sent_to(&portal_room()).await.is_empty(), "not shown as said elsewhere");
    assert_eq!(on_gitter(&fixture), ["hello?"], "and not sent again");
}

#[tokio::test]
async fn what_was_shown_in_a_room_before_is_not_shown_in_one_that_is_newer_than_the_store() {
    let fixture = Fixture::new().await;
    let world = fixture.sim.world();
    let begin = world.post("alice", "acme/rockets", "known").parse::<MessageId>().expect("an id");
    world.post("bob", "acme/rockets", "shown in the room before");
    let id = world.post("bob", "acme/rockets", "shown here");
    let key = fixture.key.clone();
    let cursor = Cursor { begin: begin.clone(), last: begin, gap: None };
    fixture.db.change(move |t| t.put_cursor(&key, &cursor)).await.expect("written");
    let now = fixture.relay.0.bridge.clock.now().0;
    let shown = json!({
        "type": "m.room.message", "event_id": "$shown:example.org", "room_id": portal_room(),
        "sender": "@gitter_bob:example.org", "origin_server_ts": now,
        "content": {"msgtype": "m.text", "body": "shown here", "im.gitter.id": id},
    });
    let made = json!({
        "type": "m.room.create", "event_id": "$made:example.org", "room_id": portal_room(),
        "sender": "@gitter:example.org", "origin_server_ts": now, "state_key": "", "content": {},
    });
    learn_from(&fixture, &[shown, made]).await;
    let new = world.post("bob", "acme/rockets", "new");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &new).await;
    assert_eq!(fixture.sent_to(&portal_room()).await, ["new"]);
}

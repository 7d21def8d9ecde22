//! What must not be left out, and what must not be added: threads, deletions, what others say in between.

use wiremock::matchers::query_param;

use super::*;

#[tokio::test]
async fn what_others_say_does_not_hide_what_was_kept_back() {
    let fixture = Fixture::new().await;
    let now = fixture.relay.0.bridge.clock.now();
    let event = |id: String, sender: &str| {
        json!({
            "type": "m.room.message", "event_id": id, "room_id": portal_room(), "sender": sender,
            "origin_server_ts": now.0 - 30_000, "content": {"msgtype": "m.text", "body": "kept"},
        })
    };
    let hers = json!({"chunk": [event("$hers:example.org".to_owned(), alice().as_str())]});
    Mock::given(method("GET"))
        .and(path_regex("portal.*messages$"))
        .and(query_param("filter", json!({"senders": [alice()]}).to_string()))
        .respond_with(ResponseTemplate::new(200).set_body_json(hers))
        .mount(&fixture.home)
        .await;
    let others = |n| event(format!("${n}:example.org"), "@gitter_bob:example.org");
    fixture.holds(&(0..50).map(others).collect::<Vec<_>>()).await;
    fixture.agreeable().await;
    let since = Millis(now.0 - 60_000);
    fixture.db.change(move |t| t.note_unheard(since)).await.expect("written");
    assert!(fixture.intake.reread().await.expect("readable"), "all rooms were read");
    let hers = ruma::owned_event_id!("$hers:example.org");
    fixture.until("a link", move |t| Ok(t.links_of_event(&hers)?.pop())).await;
}

#[tokio::test]
async fn what_was_deleted_before_it_was_shown_is_no_empty_message_although_its_thread_goes_on() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let world = fixture.sim.world();
    let first = world.post("bob", "acme/rockets", "oh no");
    let answer = world.reply("bob", "acme/rockets", &first, "why not?");
    world.delete("acme/rockets", &first);
    assert_eq!(world.messages("acme/rockets").len(), 2, "Gitter keeps it, blank");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &answer).await;
    assert_eq!(fixture.sent_to(&portal_room()).await, ["why not?"]);
}

#[tokio::test]
async fn an_answer_to_an_answer_is_in_the_thread_that_this_one_is_in() {
    let fixture = Fixture::new().await;
    numbered(&fixture, 3).await;
    fixture.agreeable().await;
    let world = fixture.sim.world();
    let first = world.post("bob", "acme/rockets", "a question");
    let second = world.reply("bob", "acme/rockets", &first, "an answer");
    let third = world.reply("bob", "acme/rockets", &second, "an answer to that");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &third).await;
    let sent = contents(&fixture).await;
    assert_eq!(sent[1]["m.relates_to"]["is_falling_back"], true);
    let nested = json!({
        "rel_type": "m.thread", "event_id": "$1:example.org", "is_falling_back": false,
        "m.in_reply_to": {"event_id": "$2:example.org"},
    });
    assert_eq!(sent[2]["m.relates_to"], nested);
}

#[tokio::test]
async fn more_deletions_than_are_looked_for_at_a_time_are_all_followed() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let ids = talk(&fixture, 40);
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &ids[39]).await;
    let (deleted, kept) = ids.split_at(25);
    for id in deleted {
        fixture.sim.world().delete("acme/rockets", id);
    }
    fixture.relay.catch_up(&fixture.key);
    for id in deleted {
        until_gone(&fixture, &id.parse().expect("a valid id")).await;
    }
    assert!(!until_linked(&fixture, &kept[0]).await.gone, "what is on Gitter stays");
}

/// Alice has read up to this event, and Gitter is to count so many messages as unread.
async fn read_up_to(fixture: &Fixture, event: &str, thread: read::Thread, left: usize) {
    let event = event.try_into().expect("a valid id");
    let receipt = read::Receipt { room: portal_room(), user: alice(), event, thread };
    fixture.relay.note_receipts(vec![receipt]).await;
    let marked = async {
        while fixture.sim.world().unread("acme/rockets", "alice").0 != left {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let marked = tokio::time::timeout(Duration::from_secs(20), marked).await;
    let unread = || fixture.sim.world().unread("acme/rockets", "alice");
    marked.unwrap_or_else(|_| panic!("{:?} unread, not {left}", unread()));
}

#[tokio::test]
async fn who_reads_up_to_somebodys_coming_has_read_what_was_said_before_it() {
    let fixture = Fixture::new().await;
    numbered(&fixture, 3).await;
    let event = |id: &str| json!({"event_id": id, "type": "m.room.member"});
    let chunk = ["$3:example.org", "$came:example.org", "$2:example.org", "$1:example.org"];
    fixture.holds(&chunk.map(event)).await;
    fixture.agreeable().await;
    let said = talk(&fixture, 3);
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &said[2]).await;
    read_up_to(&fixture, "$came:example.org", read::Thread::All, 1).await;
}

#[tokio::test]
async fn who_reads_a_thread_has_read_nothing_else_and_the_other_way_round() {
    let fixture = Fixture::new().await;
    numbered(&fixture, 4).await;
    fixture.agreeable().await;
    let world = fixture.sim.world();
    let first = world.post("bob", "acme/rockets", "a question");
    world.post("bob", "acme/rockets", "something else");
    world.reply("bob", "acme/rockets", &first, "an answer");
    world.advance_clock(1_000);
    let last = world.post("bob", "acme/rockets", "and another thing");
    fixture.relay.catch_up(&fixture.key);
    let last = until_linked(&fixture, &last).await.event;
    read_up_to(&fixture, last.as_str(), read::Thread::Main, 1).await;
    let root = until_linked(&fixture, &first).await.event;
    read_up_to(&fixture, last.as_str(), read::Thread::Of(root), 0).await;
}

#[tokio::test]
async fn what_was_said_before_follows_when_the_invite_did_not_wait_for_it() {
    let fixture = Fixture::with(Choices { history: 4, ..Choices::default() }).await;
    let slow = ResponseTemplate::new(200).set_body_json(json!({"event_id": "$1:example.org"}));
    once(&fixture, "PUT", "portal.*/send/", slow.set_delay(Duration::from_millis(300))).await;
    fixture.agreeable().await;
    let ids = talk(&fixture, 4);
    let opened = fixture.relay.0.bridge.clock.now();
    let until = Millis(opened.0 + 10_000);
    let opened = Millis(opened.0 + 3_600_000);
    fixture
        .change_portal(move |portal| (portal.open.at, portal.history) = (opened, Some(until)))
        .await;
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &ids[0]).await;
    // Meanwhile the account was invited: nobody waits any more.
    fixture.change_portal(|portal| portal.history = None).await;
    let last = ids.last().expect("said");
    until_linked(&fixture, last).await;
    let said = contents(&fixture).await;
    let lines: Vec<_> = said.iter().filter_map(|content| content["body"].as_str()).collect();
    assert_eq!(lines, ["line 0", "line 1", "line 2", "line 3"]);
    assert!(said.iter().all(|content| content["im.gitter.historical"] == true), "{said:?}");
    assert!(said.iter().all(|content| content["m.mentions"] == json!({})), "calls nobody");
}

#[tokio::test]
async fn what_was_said_by_whom_gitter_names_no_more_is_said_by_somebody_else_than_anybody() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let world = fixture.sim.world();
    // Called as Gitter calls those whose account was deleted.
    world.add_user("ghost", "The Ghost");
    world.join("acme/rockets", "ghost");
    let boo = world.post("ghost", "acme/rockets", "boo");
    fixture.relay.catch_up(&fixture.key);
    let boo = until_linked(&fixture, &boo).await;
    let (mut said, mut senders) = (vec!["boo"], vec![boo.sender.expect("a ghost")]);
    for (n, text) in [(1, "farewell"), (2, "forget me")] {
        let id = format!("{}{n:016x}", &boo.message.as_str()[..8]);
        let now = jiff::Timestamp::now().to_string();
        let message = json!({"id": id, "text": text, "html": text, "v": 1, "sent": now});
        let message = serde_json::from_value(message).expect("a message");
        fixture.relay.receive(&fixture.key, Arc::new(message));
        senders.push(until_linked(&fixture, &id).await.sender.expect("a ghost"));
        said.push(text);
    }
    assert_eq!(fixture.sent_to(&portal_room()).await, said);
    assert_eq!(senders[0], "@gitter_ghost:example.org");
    assert!(senders[1] == senders[2] && senders[1] != senders[0], "{senders:?}");
    let requests = fixture.home.received_requests().await.expect("recorded");
    let named = requests.iter().filter(|request| request.url.path().ends_with("/displayname"));
    let names: Vec<Value> =
        named.map(|request| serde_json::from_slice(&request.body).expect("json")).collect();
    assert!(names.contains(&json!({"displayname": "Somebody"})), "{names:?}");
}

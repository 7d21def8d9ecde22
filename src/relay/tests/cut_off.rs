//! Sendings whose end nobody heard: what becomes of them once it can be told.

use gitter_sim::SimClock;
use reconcile::model::Fate;

use super::*;

/// An event in the portal that shows a message of Bob's.
fn shown(id: &str, message: &MessageId, body: &str) -> Value {
    json!({
        "type": "m.room.message", "event_id": id, "room_id": portal_room(),
        "sender": "@gitter_bob:example.org", "origin_server_ts": 1,
        "content": {
            "msgtype": "m.text", "body": body,
            "im.gitter.id": message.as_str(), "im.gitter.user": "5f000000000000000000a001",
        },
    })
}

/// The portal has come up to now, as after an earlier life of the bridge.
async fn come_up(fixture: &Fixture) {
    let begin = MessageId::first_of(Millis(1));
    let row = Cursor { begin: begin.clone(), last: begin, gap: None };
    let key = fixture.key.clone();
    fixture.db.change(move |t| t.put_cursor(&key, &row)).await.expect("written");
}

#[tokio::test]
async fn a_message_deleted_after_its_sending_was_cut_off_is_taken_back() {
    let fixture = Fixture::new().await;
    let world = fixture.sim.world();
    let id = world.post("bob", "acme/rockets", "oh no");
    world.delete("acme/rockets", &id);
    let id: MessageId = id.parse().expect("an id");
    fixture.holds(&[shown("$old:example.org", &id, "oh no")]).await;
    fixture.agreeable().await;
    come_up(&fixture).await;
    fixture.relay.catch_up(&fixture.key);
    assert_eq!(until_gone(&fixture, &id).await.event, "$old:example.org");
    let requests = fixture.home.received_requests().await.expect("recorded");
    let redacted = |r: &&wiremock::Request| r.url.path().contains("/redact/%24old");
    assert_eq!(requests.iter().filter(redacted).count(), 1);
}

#[tokio::test]
async fn a_message_edited_after_its_sending_was_cut_off_is_shown_as_it_reads_now() {
    let fixture = Fixture::new().await;
    let world = fixture.sim.world();
    let id = world.post("bob", "acme/rockets", "new words");
    world.edit("acme/rockets", &id, "new words");
    let id: MessageId = id.parse().expect("an id");
    // To the same transaction id homeservers answer with the same event, whatever is in it.
    let old = ResponseTemplate::new(200).set_body_json(shown("$old:example.org", &id, "old words"));
    once(&fixture, "GET", "/event/", old).await;
    fixture.agreeable().await;
    come_up(&fixture).await;
    fixture.relay.catch_up(&fixture.key);
    let (key, mark) = (fixture.key.clone(), reconcile::model::digest("new words"));
    let shown =
        move |t: &ReadTxn| Ok(t.link_of_message(&key, &id)?.filter(|link| link.digest == mark));
    fixture.until("the edit", shown).await;
    assert_eq!(fixture.sent_to(&portal_room()).await, ["new words", "* new words"]);
}

#[tokio::test]
async fn a_message_deleted_while_its_sending_has_no_end_is_sent_to_the_end_and_taken_back() {
    let fixture = Fixture::new().await;
    once(&fixture, "PUT", "portal.*/send/", ResponseTemplate::new(500)).await;
    fixture.agreeable().await;
    let id = live(&fixture, "bob", "oh no");
    let tried = async {
        while fixture.sent_to(&portal_room()).await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), tried).await.expect("a first try");
    fixture.sim.world().delete("acme/rockets", id.as_str());
    fixture.relay.receive_removal(&fixture.key, id.clone());
    until_gone(&fixture, &id).await;
    assert_eq!(fixture.sent_to(&portal_room()).await, ["oh no", "oh no"]);
}

#[tokio::test]
async fn an_edit_of_somebody_who_is_no_longer_in_the_room_brings_them_back_for_it() {
    let fixture = Fixture::new().await;
    let sent = ResponseTemplate::new(200).set_body_json(json!({"event_id": "$first:example.org"}));
    once(&fixture, "PUT", "portal.*/send/", sent).await;
    let out = json!({"errcode": "M_FORBIDDEN", "error": "User @gitter_bob not in room"});
    let out = ResponseTemplate::new(403).set_body_json(out);
    once(&fixture, "PUT", "portal.*/send/", out).await;
    fixture.agreeable().await;
    let id = live(&fixture, "bob", "first");
    until_linked(&fixture, id.as_str()).await;
    fixture.sim.world().edit("acme/rockets", id.as_str(), "second");
    fixture.relay.catch_up(&fixture.key);
    let (key, mark) = (fixture.key.clone(), reconcile::model::digest("second"));
    let edited =
        move |t: &ReadTxn| Ok(t.link_of_message(&key, &id)?.filter(|link| link.digest == mark));
    fixture.until("the edit", edited).await;
    assert_eq!(fixture.sent_to(&portal_room()).await, ["first", "* second", "* second"]);
    let requests = fixture.home.received_requests().await.expect("recorded");
    let joins = requests.iter().filter(|r| r.url.path().contains("/join/")).count();
    assert_eq!(joins, 2, "once for each time out");
}

/// A call that was to say "hello?" on Gitter was begun at this time, and nobody heard its end.
pub(super) async fn was_cut_off(fixture: &Fixture, at: Millis) {
    let row = Outgoing {
        event: ruma::owned_event_id!("$1:example.org"),
        sent: at,
        payload: Payload::say(vec!["hello?".to_owned()], false, None),
        done: 0,
        attempt: Some(Attempt { at: at.into(), after: None, answered: None }),
        told: None,
    };
    let key = fixture.key.clone();
    fixture.db.change(move |t| t.push_outgoing(&key, &row)).await.expect("written");
}

#[tokio::test]
async fn of_what_can_not_be_looked_for_any_more_nobody_is_told_that_it_is_not_there() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    was_cut_off(&fixture, fixture.relay.0.bridge.clock.now()).await;
    fixture.sim.world().ban("acme/rockets", "alice");
    fixture.relay.poke_outward(fixture.key.clone());
    let to = Target::Room(portal_room());
    let notice = fixture.until("a word", move |t| t.first_notice(&to)).await.1;
    let Say::Fate(fate) = notice.say else { panic!("{notice:?}") };
    let News::Failed(Failure::Unsure, why) = fate.news else { panic!("{fate:?}") };
    assert_eq!(why, "Gitter does not let you write in this room");
}

#[tokio::test]
async fn what_was_read_before_the_room_was_closed_to_us_tells_that_a_message_is_there() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let key = fixture.key.clone();
    let id = fixture.sim.world().post("alice", "acme/rockets", "hello?");
    let caller = fixture.relay.0.gitter.caller(&key.account).await.expect("readable");
    let own = caller.expect("logged in").own;
    let read = json!({
        "id": id, "text": "hello?", "sent": "2026-01-01T00:00:00Z",
        "fromUser": {"id": own, "username": "alice", "displayName": "Alice"},
    });
    let read: crate::gitter::Message = serde_json::from_value(read).expect("a message");
    fixture.relay.0.inbox.put(&key, std::sync::Arc::new(read));
    was_cut_off(&fixture, fixture.relay.0.bridge.clock.now()).await;
    fixture.sim.world().ban("acme/rockets", "alice");
    fixture.relay.poke_outward(key.clone());
    let message = id.parse().expect("an id");
    let link = fixture.until("a link", move |t| t.link_of_message(&key, &message)).await;
    assert_eq!(link.event, "$1:example.org");
    assert!(fixture.sent_to(&portal_room()).await.is_empty(), "not shown as said elsewhere");
}

#[tokio::test]
async fn what_was_kept_back_is_not_overtaken_by_what_was_said_after_it() {
    let fixture = Fixture::new().await;
    let now = fixture.relay.0.bridge.clock.now();
    let event = |id: &str, age_ms: u64, body: &str| {
        json!({
            "type": "m.room.message", "event_id": id, "room_id": portal_room(), "sender": alice(),
            "origin_server_ts": now.0 - age_ms, "content": {"msgtype": "m.text", "body": body},
        })
    };
    let kept = [
        event("$3:example.org", 30_000, "two"),
        event("$2:example.org", 150_000, "one"),
        event("$1:example.org", 7_200_000, "long before"),
    ];
    fixture.holds(&kept).await;
    fixture.agreeable().await;
    let since = Millis(now.0 - 60_000);
    fixture.db.change(move |t| t.note_unheard(since)).await.expect("written");
    assert!(fixture.intake.reread().await.expect("readable"), "all rooms were read");
    let last = ruma::owned_event_id!("$3:example.org");
    fixture.until("the last link", move |t| Ok(t.links_of_event(&last)?.pop())).await;
    let said = fixture.sim.world().messages("acme/rockets").into_iter();
    assert_eq!(said.map(|message| message.text).collect::<Vec<_>>(), ["one", "two"]);
}

#[tokio::test]
async fn a_message_deleted_unheard_while_it_waits_to_be_shown_is_never_shown() {
    let fixture = Fixture::new().await;
    let busy = ResponseTemplate::new(500);
    once(&fixture, "PUT", "portal.*/send/", busy).await;
    fixture.agreeable().await;
    let first = live(&fixture, "bob", "first");
    let gone = live(&fixture, "bob", "oh no");
    let last = live(&fixture, "bob", "last");
    fixture.sim.world().delete("acme/rockets", gone.as_str());
    // The connection broke meanwhile.
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, last.as_str()).await;
    until_linked(&fixture, first.as_str()).await;
    assert_eq!(fixture.sent_to(&portal_room()).await.last().map(String::as_str), Some("last"));
    assert!(!fixture.sent_to(&portal_room()).await.contains(&"oh no".to_owned()));
}

#[tokio::test]
async fn an_edit_that_was_cut_off_behind_a_deletion_is_not_posted_anew() {
    let hour_ago = || Clocks::system().now().0 - 3_600_000;
    let clock = SimClock(Arc::new(move || i64::try_from(hour_ago()).expect("in range")));
    let config = SimConfig { clock: Some(clock), ..SimConfig::default() };
    let fixture = Fixture::on(config, Choices::default()).await;
    fixture.agreeable().await;
    let world = fixture.sim.world();
    let event = ruma::owned_event_id!("$long:example.org");
    fixture.said_in_two_parts(&event).await;
    // Both calls had their effect; the second was not noted.
    let [first, second] = &world.messages("acme/rockets")[..] else { panic!("two parts") };
    world.edit("acme/rockets", &first.id, "short");
    world.delete("acme/rockets", &second.id);
    let mut edit = fixture.said_by_alice(portal_room(), "$edit:example.org", "* short");
    edit.content["m.new_content"] = json!({"msgtype": "m.text", "body": "short"});
    edit.content["m.relates_to"] = json!({"rel_type": "m.replace", "event_id": event});
    fixture.take(edit).await;
    until_gone(&fixture, &second.id.parse().expect("an id")).await;
    let said = world.messages("acme/rockets").into_iter();
    assert_eq!(said.map(|message| message.text).collect::<Vec<_>>(), ["short"]);
}

#[tokio::test]
async fn a_repeated_call_that_is_cut_off_may_land_as_long_as_a_first_one() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let now = fixture.relay.0.bridge.clock.now();
    was_cut_off(&fixture, Millis(now.0 - 100_000)).await;
    let calls = gitter_sim::Matcher::new("POST", "/chatMessages");
    fixture.sim.world().fail_next(1, calls, gitter_sim::Fault::Hang);
    fixture.relay.poke_outward(fixture.key.clone());
    let key = fixture.key.clone();
    let begun = move |t: &ReadTxn| {
        let attempt = t.first_outgoing(&key)?.and_then(|(_, row)| row.attempt);
        Ok(attempt.filter(|attempt| attempt.at.at >= now))
    };
    fixture.until("the beginning of the second call", begun).await;
}

#[tokio::test]
async fn words_said_longer_ago_than_the_homeserver_remembers_are_not_said_again() {
    let fixture = Fixture::new().await;
    let fate = |event: &str| Fate {
        event: event.try_into().expect("a valid id"),
        news: News::Failed(Failure::Gone, "there is no such room".to_owned()),
        instead: None,
    };
    let word = fate::txn("m.room.message", &portal_room(), &fate("$old:example.org"));
    let said = json!({
        "type": "m.room.message", "event_id": "$said:example.org", "room_id": portal_room(),
        "sender": "@gitter:example.org", "origin_server_ts": 1,
        "content": {"msgtype": "m.notice", "body": "before", "im.gitter.word": word},
    });
    fixture.holds(&[said]).await;
    fixture.agreeable().await;
    let to = Target::Room(portal_room());
    for event in ["$old:example.org", "$new:example.org"] {
        let notice = Notice { to: to.clone(), say: Say::Fate(fate(event)), at: Millis(1) };
        fixture.db.change(move |t| t.push_notice(&notice)).await.expect("written");
    }
    fixture.relay.poke_words(to);
    fixture.until("nothing left", |t| Ok(t.notices_waiting()?.is_empty().then_some(()))).await;
    let sent = fixture.sent_to(&portal_room()).await;
    assert_eq!(sent.iter().filter(|body| !body.is_empty()).count(), 1, "{sent:?}");
}

#[tokio::test]
async fn only_an_answer_tells_that_a_call_is_soon_over() {
    use gitter_sim::Fault;
    for (fault, is_answer) in
        [(Fault::Status(500), true), (Fault::Html502, true), (Fault::Drop, false)]
    {
        let fixture = Fixture::new().await;
        fixture.agreeable().await;
        let calls = gitter_sim::Matcher::new("POST", "/chatMessages");
        fixture.sim.world().fail_next(1, calls, fault);
        fixture.take(fixture.said_by_alice(portal_room(), "$1:example.org", "hello")).await;
        let (key, metrics) = (fixture.key.clone(), fixture.relay.0.metrics.clone());
        let failed = move |t: &ReadTxn| {
            let delayed = metrics.text().lines().any(|line| {
                line.contains("delayed") && line.contains("to_gitter") && line.ends_with(" 1")
            });
            Ok(t.first_outgoing(&key)?.and_then(|(_, row)| row.attempt).filter(|_| delayed))
        };
        let attempt = fixture.until("the end of the call", failed).await;
        assert_eq!(attempt.answered.is_some(), is_answer, "{fault:?}");
    }
}

#[tokio::test]
async fn what_another_person_sent_from_the_same_gitter_account_is_not_taken_for_ones_own() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let now = fixture.relay.0.bridge.clock.now();
    was_cut_off(&fixture, Millis(now.0 - 100_000)).await;
    let others = fixture.sim.world().post("alice", "acme/rockets", "hello?");
    let work = PortalKey::new(ruma::owned_user_id!("@work:example.org"), fixture.key.room.clone());
    let event = ruma::event_id!("$work:example.org");
    let link = link(&work, others.parse().expect("an id"), event);
    let written = fixture.db.change(move |t| {
        t.put_portal(&work, &Portal::found(true, Reason::Login, Millis(1)))?;
        t.put_link(&link)
    });
    written.await.expect("written");
    fixture.relay.poke_outward(fixture.key.clone());
    let event = ruma::owned_event_id!("$1:example.org");
    let link = fixture.until("its link", move |t| Ok(t.links_of_event(&event)?.pop())).await;
    assert_ne!(link.message.as_str(), others, "sent as well");
}

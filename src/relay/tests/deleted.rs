//! What is deleted on Gitter, however much at once and whenever.

use super::*;

/// Shown long ago, so many messages of Bob's, of which Gitter has none any more; their ids.
async fn shown_long_ago(fixture: &Fixture, count: usize) -> Vec<MessageId> {
    let shown = |n: usize| {
        let message = format!("5f000000{n:016x}").parse().expect("an id");
        let event: ruma::OwnedEventId =
            format!("$long{n}:example.org").try_into().expect("a valid id");
        Link { from_matrix: false, digest: 1, ..link(&fixture.key, message, &event) }
    };
    let links: Vec<_> = (0..count).map(shown).collect();
    let ids = links.iter().map(|link| link.message.clone()).collect();
    let written = fixture.db.change(move |t| links.iter().try_for_each(|link| t.put_link(link)));
    written.await.expect("written");
    ids
}

/// All that was said so far was said before the portal was opened.
async fn begin_now(fixture: &Fixture) {
    let begin = MessageId::first_of(Millis(fixture.relay.0.bridge.clock.now().0 + 600_000));
    let (key, row) = (fixture.key.clone(), Cursor { begin: begin.clone(), last: begin, gap: None });
    fixture.db.change(move |t| t.put_cursor(&key, &row)).await.expect("written");
}

#[tokio::test]
async fn of_very_many_messages_deleted_at_once_none_stays_and_none_holds_up_what_is_said() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let ids = shown_long_ago(&fixture, 310).await;
    // A look does not reach back to what was deleted.
    talk(&fixture, 100);
    begin_now(&fixture).await;
    fixture.sim.world().advance_clock(3_600_000);
    for id in &ids {
        fixture.relay.receive_removal(&fixture.key, id.clone());
    }
    let said = live(&fixture, "bob", "meanwhile");
    until_linked(&fixture, said.as_str()).await;
    let key = fixture.key.clone();
    let gone = move |t: &ReadTxn| {
        let links = t.links_between(&key, &ids[0], &ids[309], 310)?;
        Ok(links.iter().all(|link| link.gone).then_some(()))
    };
    fixture.until("all to be gone", gone).await;
    let requests = fixture.home.received_requests().await.expect("recorded");
    let first = |what: &str| requests.iter().position(|r| r.url.path().contains(what));
    assert!(first("/send/") < first("/redact/"), "what is said goes first");
    assert_eq!(redactions(&fixture).await.len(), 310);
}

#[tokio::test]
async fn what_is_known_to_be_deleted_is_not_asked_for() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let ids = shown_long_ago(&fixture, 5).await;
    for id in &ids {
        fixture.relay.receive_removal(&fixture.key, id.clone());
    }
    fixture.relay.catch_up(&fixture.key);
    until_gone(&fixture, &ids[4]).await;
    assert_eq!(fixture.sim.world().count_calls("GET", &format!("/chatMessages/{}", ids[4])), 0);
}

/// A message as the live connection tells of it now.
fn updated(fixture: &Fixture, id: &str) {
    let said = fixture.sim.world().messages("acme/rockets");
    let message = said.into_iter().find(|message| message.id == id).expect("said");
    let message = json!({
        "id": id, "text": message.text, "html": message.html, "v": message.v, "sent": message.sent,
        "fromUser": {"id": message.from_id, "username": message.from, "displayName": message.from},
    });
    let message = serde_json::from_value(message).expect("a message");
    fixture.relay.receive(&fixture.key, Arc::new(message));
}

#[tokio::test]
async fn the_beginning_of_a_thread_that_is_deleted_while_much_is_caught_up_with_is_taken_back() {
    let fixture = Fixture::new().await;
    numbered(&fixture, 232).await;
    fixture.agreeable().await;
    let world = fixture.sim.world();
    let parent = world.post("bob", "acme/rockets", "who comes?");
    let reply = world.reply("bob", "acme/rockets", &parent, "I do");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &reply).await;
    world.advance_clock(3_600_000);
    let missed = talk(&fixture, 230);
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &missed[0]).await;
    world.delete("acme/rockets", &parent);
    updated(&fixture, &parent);
    let (key, id) = (fixture.key.clone(), missed[99].parse().expect("an id"));
    let hundredth = fixture.db.look(move |t| t.link_of_message(&key, &id)).await;
    assert!(hundredth.expect("readable").is_none(), "the first hundred are being shown");
    until_linked(&fixture, &missed[229]).await;
    let link = until_gone(&fixture, &parent.parse().expect("an id")).await;
    assert_eq!((link.digest, link.version), (reconcile::model::digest(""), 3), "it may be edited");
    assert_eq!(redactions(&fixture).await.len(), 1);
}

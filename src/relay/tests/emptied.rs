//! What was changed to nothing on Gitter, and got words again.

use super::*;

#[tokio::test]
async fn a_message_that_was_emptied_and_has_words_again_is_said_anew() {
    let fixture = Fixture::new().await;
    numbered(&fixture, 4).await;
    fixture.agreeable().await;
    let world = fixture.sim.world();
    let message = world.post("bob", "acme/rockets", "tea?");
    fixture.relay.catch_up(&fixture.key);
    let first = until_linked(&fixture, &message).await;
    assert_eq!(first.event, "$1:example.org");
    world.edit("acme/rockets", &message, "");
    fixture.relay.catch_up(&fixture.key);
    until_gone(&fixture, &first.message).await;
    assert_eq!(redactions(&fixture).await.len(), 1);

    // An old page, or a late live event, tells of words that are gone: they stay so.
    let old = serde_json::from_value(json!({
        "id": message, "text": "tea?", "html": "tea?", "v": 1,
        "sent": jiff::Timestamp::now().to_string(),
        "fromUser": {"id": world.add_user("bob", ""), "username": "bob", "displayName": "Bob B."},
    }));
    fixture.relay.receive(&fixture.key, Arc::new(old.expect("a message")));
    let other = live(&fixture, "bob", "hm");
    until_linked(&fixture, other.as_str()).await;
    assert_eq!(fixture.sent_to(&portal_room()).await, ["tea?", "hm"]);

    world.edit("acme/rockets", &message, "coffee?");
    fixture.relay.catch_up(&fixture.key);
    let back = until_version(&fixture, &message, 3).await;
    assert_eq!((back.event.as_str(), back.gone), ("$3:example.org", false));
    assert_eq!(back.sender.as_deref(), first.sender.as_deref());
    world.edit("acme/rockets", &message, "or coffee?");
    fixture.relay.catch_up(&fixture.key);
    until_version(&fixture, &message, 4).await;
    let said = contents(&fixture).await;
    let bodies: Vec<_> = said.iter().filter_map(|content| content["body"].as_str()).collect();
    assert_eq!(bodies, ["tea?", "hm", "coffee?", "* or coffee?"]);
    assert_eq!(said[2]["im.gitter.id"], message.as_str());
    assert_eq!(said[3]["m.relates_to"]["event_id"], "$3:example.org");
    assert_eq!(redactions(&fixture).await.len(), 1);
}

#[tokio::test]
async fn what_was_deleted_on_matrix_does_not_come_back_for_an_edit_on_gitter() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let message = fixture.sim.world().post("bob", "acme/rockets", "tea?");
    fixture.relay.catch_up(&fixture.key);
    let link = until_linked(&fixture, &message).await;
    let gone = Link { gone: true, ..link };
    fixture.db.change(move |t| t.put_link(&gone)).await.expect("written");
    fixture.sim.world().edit("acme/rockets", &message, "coffee?");
    let other = fixture.sim.world().post("bob", "acme/rockets", "hm");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &other).await;
    assert_eq!(fixture.sent_to(&portal_room()).await, ["tea?", "hm"]);
}

#[tokio::test]
async fn of_a_split_message_a_part_comes_back_as_a_word_about_it_and_all_of_it_as_said_there() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let world = fixture.sim.world();
    let event = ruma::owned_event_id!("$long:example.org");
    let ids = fixture.said_in_two_parts(&event).await;
    let change = async |part: usize, text: &str, version: u64| {
        world.edit("acme/rockets", ids[part].as_str(), text);
        fixture.relay.catch_up(&fixture.key);
        until_version(&fixture, ids[part].as_str(), version).await
    };
    assert!(change(0, "", 2).await.gone);
    assert_eq!(redactions(&fixture).await.len(), 0, "the other part is still there");
    let back = change(0, "part 0 again", 3).await;
    assert_eq!((back.gone, back.from_matrix, &back.event), (false, true, &event));
    change(0, "", 4).await;
    change(1, "", 2).await;
    assert_eq!(redactions(&fixture).await.len(), 1, "all of it is gone");
    let back = change(1, "part 1 again", 3).await;
    assert_eq!((back.gone, back.from_matrix), (false, false));
    assert_eq!(back.sender.expect("a ghost"), "@gitter_alice:example.org");
    let said = fixture.sent_to(&portal_room()).await;
    assert_eq!(said, ["This was changed on Gitter, and now reads: part 0 again", "part 1 again"]);
}

//! What the homeserver does not take of somebody who is in the room, and answers like their absence.

use wiremock::matchers::body_string_contains;

use super::*;

/// What is sent with this in it is refused with the code and words of a spam checker.
async fn dislikes(fixture: &Fixture, text: &str) {
    let body = json!({"errcode": "M_FORBIDDEN", "error": "This message has been rejected"});
    Mock::given(method("PUT"))
        .and(path_regex("/send/"))
        .and(body_string_contains(text))
        .respond_with(ResponseTemplate::new(403).set_body_json(body))
        .mount(&fixture.home)
        .await;
}

/// Whoever asks about themselves is this to every room.
async fn everybody_is(fixture: &Fixture, membership: &str) {
    let event = json!({
        "type": "m.room.member", "sender": "@gitter:example.org",
        "content": {"membership": membership},
    });
    Mock::given(method("GET"))
        .and(path_regex("state/m.room.member/"))
        .respond_with(ResponseTemplate::new(200).set_body_json(event))
        .mount(&fixture.home)
        .await;
}

/// Waits until the lane has given up for now.
async fn until_delayed(fixture: &Fixture) {
    let delayed = r#"matrix_gitter_messages_total{direction="to_matrix",outcome="delayed"} 1"#;
    let metrics = fixture.relay.0.metrics.clone();
    let delayed = move |_: &ReadTxn| Ok(metrics.text().contains(delayed).then_some(()));
    fixture.until("it to wait", delayed).await;
}

#[tokio::test]
async fn a_message_refused_like_that_of_somebody_outside_is_announced_and_holds_up_no_others() {
    let fixture = Fixture::new().await;
    dislikes(&fixture, "rude").await;
    everybody_is(&fixture, "join").await;
    fixture.agreeable().await;
    let rude = fixture.sim.world().post("bob", "acme/rockets", "rude");
    let kind = fixture.sim.world().post("bob", "acme/rockets", "kind");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &kind).await;
    assert_eq!(until_linked(&fixture, &rude).await.sender, None, "the bot's words stand for it");
    let mut sent = fixture.sent_to(&portal_room()).await;
    sent.retain(|body| body != "rude");
    assert!(sent.len() == 2 && sent[0].starts_with("A message of bob on Gitter"), "{sent:?}");
    assert_eq!(sent[1], "kind");
}

#[tokio::test]
async fn a_message_of_a_ghost_that_is_out_of_the_room_whatever_is_done_is_not_taken_for_refused() {
    for membership in ["leave", "ban"] {
        let fixture = Fixture::new().await;
        dislikes(&fixture, "hi").await;
        everybody_is(&fixture, membership).await;
        fixture.agreeable().await;
        let message = live(&fixture, "bob", "hi");
        until_delayed(&fixture).await;
        fixture.relay.stop();
        let key = fixture.key.clone();
        let link = fixture.db.look(move |t| t.link_of_message(&key, &message)).await;
        assert_eq!(link.expect("readable"), None, "{membership}");
        let sent = fixture.sent_to(&portal_room()).await;
        assert!(sent.iter().all(|body| body == "hi"), "{membership}: {sent:?}");
    }
}

#[tokio::test]
async fn words_refused_in_the_control_room_like_those_of_a_bot_outside_hold_up_no_others() {
    let fixture = Fixture::new().await;
    dislikes(&fixture, "one").await;
    everybody_is(&fixture, "join").await;
    fixture.agreeable().await;
    for body in ["one", "two"] {
        fixture.put_words(&Target::Account(alice()), body).await;
    }
    fixture.say_all().await;
    assert_eq!(fixture.sent_to(&control_room()).await, ["one", "one", "two"]);
}

#[tokio::test]
async fn words_for_a_control_room_that_the_bot_is_out_of_wait() {
    let fixture = Fixture::new().await;
    dislikes(&fixture, "one").await;
    everybody_is(&fixture, "leave").await;
    fixture.agreeable().await;
    let to = Target::Account(alice());
    fixture.put_words(&to, "one").await;
    fixture.relay.poke_words(to.clone());
    let tried = async {
        while fixture.sent_to(&control_room()).await.len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), tried).await.expect("it is tried again");
    fixture.relay.stop();
    assert!(fixture.db.look(move |t| t.has_notices(&to)).await.expect("readable"));
}

#[tokio::test]
async fn of_an_edit_that_the_homeserver_refuses_the_bot_tells_once() {
    let fixture = Fixture::new().await;
    dislikes(&fixture, "rude").await;
    fixture.agreeable().await;
    let world = fixture.sim.world();
    let message = world.post("bob", "acme/rockets", "kind");
    fixture.relay.catch_up(&fixture.key);
    let link = until_linked(&fixture, &message).await;
    world.edit("acme/rockets", &message, "rude");
    fixture.relay.catch_up(&fixture.key);
    until_version(&fixture, &message, 2).await;
    let last = world.post("bob", "acme/rockets", "kind again");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &last).await;
    let mut sent = contents(&fixture).await;
    sent.retain(|content| content["body"] != "* rude");
    let bodies: Vec<_> = sent.iter().map(|c| c["body"].as_str().unwrap_or_default()).collect();
    let told = "A message of bob was changed on Gitter, and that can't be shown here: your homeserver refuses it.";
    assert_eq!(bodies, ["kind", told, "kind again"]);
    assert_eq!(sent[1]["m.relates_to"]["m.in_reply_to"]["event_id"], link.event.as_str());
}

#[tokio::test]
async fn an_edit_waits_while_the_bot_is_out_of_the_room() {
    let fixture = Fixture::new().await;
    numbered(&fixture, 1).await;
    fixture.refuse("PUT", "portal.*/send/", 403, "M_FORBIDDEN").await;
    fixture.agreeable().await;
    let world = fixture.sim.world();
    let message = world.post("bob", "acme/rockets", "tea?");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &message).await;
    world.edit("acme/rockets", &message, "coffee?");
    fixture.relay.catch_up(&fixture.key);
    until_delayed(&fixture).await;
    fixture.relay.stop();
    assert_eq!(until_linked(&fixture, &message).await.version, 1);
}

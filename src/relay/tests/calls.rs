//! Whom a message calls, and whom its edits call.

use super::*;

fn carols() -> String {
    "https://matrix.to/#/@gitter_carol:example.org".to_owned()
}

/// The paths of what the homeserver was asked by or about Carol's ghost.
async fn about_carol(fixture: &Fixture) -> Vec<String> {
    let requests = fixture.home.received_requests().await.expect("recorded");
    let hers = requests.iter().filter(|request| {
        let body = String::from_utf8_lossy(&request.body);
        let sends = request.url.path().contains("/send/");
        !sends && (request.url.as_str().contains("gitter_carol") || body.contains("gitter_carol"))
    });
    hers.map(|request| request.url.path().to_owned()).collect()
}

#[tokio::test]
async fn somebody_who_was_never_heard_of_is_a_pill_and_comes_only_for_a_word_of_their_own() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let world = fixture.sim.world();
    world.add_user("carol", "Carol C.");
    world.post("bob", "acme/rockets", "ask `@carol`");
    let code = world.post("bob", "acme/rockets", "or @nosuch");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &code).await;
    assert_eq!(about_carol(&fixture).await, [""; 0], "she is not called");

    for text in ["ask @carol", "or ask @carol later"] {
        world.post("bob", "acme/rockets", text);
    }
    let last = world.post("bob", "acme/rockets", "yes");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &last).await;
    let said = contents(&fixture).await;
    for content in &said[2..4] {
        let html = content["formatted_body"].as_str().unwrap_or_default();
        assert!(html.contains(&carols()), "{content}");
        assert_eq!(content["m.mentions"]["user_ids"], json!(["@gitter_carol:example.org"]));
    }
    let asked = about_carol(&fixture).await;
    let registered = asked.iter().filter(|path| path.ends_with("/register")).count();
    assert_eq!(registered, 1, "once: {asked:?}");
    assert!(asked.iter().any(|path| path.ends_with("/displayname")), "{asked:?}");
    assert!(
        !asked.iter().any(|path| path.contains("join") || path.contains("invite")),
        "{asked:?}"
    );

    // She is known by her name alone until she says something.
    world.join("acme/rockets", "carol");
    let hers = world.post("carol", "acme/rockets", "here");
    fixture.relay.catch_up(&fixture.key);
    let link = until_linked(&fixture, &hers).await;
    assert_eq!(link.sender.expect("a ghost"), "@gitter_carol:example.org");
    let id: GitterUserId = world.add_user("carol", "Carol C.").parse().expect("an id");
    let row = fixture.db.look(move |t| t.ghost(&id)).await.expect("readable").expect("known");
    assert_eq!(row.profile.display_name, "Carol C.");
    let asked = about_carol(&fixture).await;
    assert!(asked.iter().any(|path| path.contains("join")), "{asked:?}");
}

#[tokio::test]
async fn whom_the_homeserver_will_not_have_stays_text_and_holds_up_nobody() {
    let fixture = Fixture::new().await;
    fixture.sim.world().add_user("carol", "Carol C.");
    // Bob is in already.
    fixture.agreeable().await;
    let first = fixture.sim.world().post("bob", "acme/rockets", "hi");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &first).await;
    fixture.home.reset().await;
    fixture.refuse("POST", "register$", 400, "M_EXCLUSIVE").await;
    fixture.agreeable().await;
    let message = fixture.sim.world().post("bob", "acme/rockets", "ask @carol");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &message).await;
    let said = contents(&fixture).await;
    assert_eq!(said[0]["body"], "ask @carol");
    assert!(said[0].get("formatted_body").is_none(), "{}", said[0]);
    assert_eq!(said[0]["m.mentions"], json!({}));
}

#[tokio::test]
async fn of_many_strangers_in_a_message_only_some_become_ghosts() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let world = fixture.sim.world();
    let people: Vec<_> = (0..20).map(|n| format!("p{n}")).collect();
    for name in &people {
        world.add_user(name, "P");
    }
    let text = format!("@{}", people.join(" @"));
    let message = world.post("bob", "acme/rockets", &text);
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &message).await;
    let called = contents(&fixture).await[0]["m.mentions"]["user_ids"].as_array().map(Vec::len);
    assert_eq!(called, Some(8));
}

#[tokio::test]
async fn an_edit_that_names_the_account_calls_it_once() {
    let fixture = Fixture::new().await;
    let there = json!({
        "event_id": "$sent:example.org", "type": "m.room.message",
        "content": {"msgtype": "m.text", "body": "who comes?", "m.mentions": {}},
    });
    once(&fixture, "GET", "/event/", ResponseTemplate::new(200).set_body_json(&there)).await;
    let mut edited = there.clone();
    let hers = json!({"user_ids": [alice()]});
    edited["unsigned"]["m.relations"]["m.replace"]["content"]["m.new_content"]["m.mentions"] = hers;
    once(&fixture, "GET", "/event/", ResponseTemplate::new(200).set_body_json(&edited)).await;
    fixture.agreeable().await;
    let world = fixture.sim.world();
    let message = world.post("bob", "acme/rockets", "who comes?");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &message).await;
    for (version, text) in [(2, "@alice, who comes?"), (3, "@alice, who comes with me?")] {
        world.edit("acme/rockets", &message, text);
        fixture.relay.catch_up(&fixture.key);
        until_version(&fixture, &message, version).await;
    }
    let said = contents(&fixture).await;
    let calls = |content: &Value| content["m.mentions"].clone();
    assert_eq!(calls(&said[1]), json!({"user_ids": [alice()]}), "newly");
    assert_eq!(calls(&said[2]), json!({}), "she knows");
    for edit in &said[1..] {
        assert_eq!(calls(&edit["m.new_content"]), json!({"user_ids": [alice()]}), "{edit}");
    }
}

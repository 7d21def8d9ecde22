//! What the account changes, and takes back.

use reconcile::model::Fate;

use super::*;

/// Alice changes what she said in the portal as `$1`.
fn edit(fixture: &Fixture, id: &str, text: &str) -> Incoming {
    let mut edit = fixture.said_by_alice(portal_room(), id, text);
    edit.content = json!({
        "msgtype": "m.text", "body": format!("* {text}"),
        "m.new_content": {"msgtype": "m.text", "body": text},
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$1:example.org"},
    });
    edit
}

/// What Alice said as `$1` is on Gitter, and was seen there.
async fn said(fixture: &Fixture, text: &str) -> Link {
    fixture.take(fixture.said_by_alice(portal_room(), "$1:example.org", text)).await;
    let event = ruma::owned_event_id!("$1:example.org");
    let link = fixture.until("its link", move |t| Ok(t.links_of_event(&event)?.pop())).await;
    fixture.relay.catch_up(&fixture.key);
    let key = fixture.key.clone();
    let seen = move |t: &ReadTxn| Ok(t.unconfirmed(&key)?.is_empty().then_some(()));
    fixture.until("it to be seen", seen).await;
    link
}

/// What is told in the portal of the fate of an event.
async fn told(fixture: &Fixture) -> Fate {
    let to = Target::Room(portal_room());
    let notice = fixture.until("a word", move |t| t.first_notice(&to)).await.1;
    let Say::Fate(fate) = notice.say else { panic!("{notice:?}") };
    fate
}

fn texts(fixture: &Fixture) -> Vec<String> {
    fixture.sim.world().messages("acme/rockets").into_iter().map(|m| m.text).collect()
}

#[tokio::test]
async fn who_changes_what_was_deleted_on_gitter_is_told_and_its_deletion_is_followed() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let link = said(&fixture, "first").await;
    // Nothing was heard of it yet.
    fixture.sim.world().delete("acme/rockets", link.message.as_str());
    fixture.take(edit(&fixture, "$2:example.org", "second")).await;
    let fate = told(&fixture).await;
    assert_eq!(fate.event, "$2:example.org");
    assert!(matches!(fate.news, News::Failed(Failure::Unsupported, _)), "{fate:?}");
    until_gone(&fixture, &link.message).await;
    let requests = fixture.home.received_requests().await.expect("recorded");
    let redacted = requests.iter().filter(|r| r.url.path().contains("/redact/%241%3A"));
    assert_eq!(redacted.count(), 1);
    assert_eq!(texts(&fixture), [""; 0]);
}

#[tokio::test]
async fn who_changes_a_message_of_a_room_that_is_gone_is_told_so() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    said(&fixture, "first").await;
    fixture.sim.world().delete_room("acme/rockets");
    fixture.take(edit(&fixture, "$2:example.org", "second")).await;
    let fate = told(&fixture).await;
    assert_eq!(fate.event, "$2:example.org");
    assert!(matches!(fate.news, News::Failed(Failure::Gone, _)), "{fate:?}");
}

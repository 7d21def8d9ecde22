//! What the account changes, and takes back.

use gitter_sim::{Fault, Matcher};
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

fn deletion(fixture: &Fixture, id: &str, of: &str) -> Incoming {
    let mut deletion = fixture.said_by_alice(portal_room(), id, "");
    deletion.kind = "m.room.redaction".to_owned();
    deletion.redacts = Some(of.try_into().expect("an id"));
    deletion.content = json!({});
    deletion
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

/// That what Alice said as `$2` failed is the first word in the portal: in which way.
async fn failure(fixture: &Fixture) -> Failure {
    let to = Target::Room(portal_room());
    let notice = fixture.until("a word", move |t| t.first_notice(&to)).await.1;
    let Say::Fate(fate) = notice.say else { panic!("{notice:?}") };
    assert_eq!(fate.event, "$2:example.org");
    let News::Failed(failure, _) = fate.news else { panic!("{fate:?}") };
    failure
}

#[tokio::test]
async fn who_changes_what_was_deleted_on_gitter_is_told_and_its_deletion_is_followed() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    let link = said(&fixture, "first").await;
    // Nothing was heard of it yet.
    fixture.sim.world().delete("acme/rockets", link.message.as_str());
    fixture.take(edit(&fixture, "$2:example.org", "second")).await;
    assert_eq!(failure(&fixture).await, Failure::Unsupported);
    until_gone(&fixture, &link.message).await;
    let redacted = redactions(&fixture).await;
    assert_eq!(redacted.iter().filter(|path| path.contains("/redact/%241%3A")).count(), 1);
    assert_eq!(on_gitter(&fixture), [""; 0]);
}

#[tokio::test]
async fn who_changes_a_message_of_a_room_that_is_gone_is_told_so() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    said(&fixture, "first").await;
    fixture.sim.world().delete_room("acme/rockets");
    fixture.take(edit(&fixture, "$2:example.org", "second")).await;
    assert_eq!(failure(&fixture).await, Failure::Gone);
}

#[tokio::test]
async fn an_edit_deleted_while_it_waits_is_never_sent() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    said(&fixture, "first").await;
    let change_session = async |rejected: bool| {
        let changed = fixture.db.change(move |t| {
            let mut account = t.account(&alice())?.unwrap_or_default();
            let person = account.session.person().cloned().expect("logged in");
            account.session =
                if rejected { Session::Rejected(person) } else { Session::Active(person) };
            t.put_account(&alice(), &account)
        });
        changed.await.expect("written");
    };
    change_session(true).await;
    fixture.take(edit(&fixture, "$2:example.org", "second")).await;
    fixture.take(deletion(&fixture, "$3:example.org", "$2:example.org")).await;
    change_session(false).await;
    fixture.relay.poke_outward(fixture.key.clone());
    until_nothing_waits(&fixture).await;
    assert_eq!(on_gitter(&fixture), ["first"]);
    let failed =
        |notice: &Notice| matches!(&notice.say, Say::Fate(Fate { news: News::Failed(..), .. }));
    let to = Target::Room(portal_room());
    let notice = fixture.db.look(move |t| t.first_notice(&to)).await.expect("readable");
    assert!(!notice.is_some_and(|(_, notice)| failed(&notice)), "nothing stays on Gitter");
}

#[tokio::test]
async fn who_deletes_an_edit_is_told_that_gitter_keeps_it_whether_it_came_in_time_or_not() {
    for late in [false, true] {
        let fixture = Fixture::new().await;
        fixture.agreeable().await;
        said(&fixture, "first").await;
        if late {
            let edits = Matcher::new("PUT", "chatMessages");
            fixture.sim.world().fail_next(1, edits, Fault::Status(400));
        }
        fixture.take(edit(&fixture, "$2:example.org", "second")).await;
        until_nothing_waits(&fixture).await;
        assert_eq!(on_gitter(&fixture).len(), if late { 2 } else { 1 });
        fixture.take(deletion(&fixture, "$3:example.org", "$2:example.org")).await;
        assert_eq!(failure(&fixture).await, Failure::Kept, "late: {late}");
    }
}

#[tokio::test]
async fn who_deletes_what_is_changed_again_or_deleted_on_gitter_is_told_nothing() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    said(&fixture, "first").await;
    for (id, text) in [("$0:example.org", "one and a half"), ("$2:example.org", "second")] {
        fixture.take(edit(&fixture, id, text)).await;
        until_nothing_waits(&fixture).await;
        assert_eq!(on_gitter(&fixture), [text]);
    }
    fixture.take(deletion(&fixture, "$5:example.org", "$0:example.org")).await;
    until_nothing_waits(&fixture).await;
    fixture.take(deletion(&fixture, "$3:example.org", "$1:example.org")).await;
    fixture.take(deletion(&fixture, "$4:example.org", "$2:example.org")).await;
    until_nothing_waits(&fixture).await;
    assert_eq!(on_gitter(&fixture), [""; 0]);
    assert!(fixture.db.look(store::Txn::notices_waiting).await.expect("readable").is_empty());
}

#[tokio::test]
async fn who_deletes_an_edit_after_a_logout_is_told_that_gitter_keeps_it() {
    let fixture = Fixture::new().await;
    fixture.agreeable().await;
    said(&fixture, "first").await;
    fixture.take(edit(&fixture, "$2:example.org", "second")).await;
    until_nothing_waits(&fixture).await;
    let out = fixture.db.change(|t| {
        let mut account = t.account(&alice())?.unwrap_or_default();
        account.session = Session::LoggedOut;
        t.put_account(&alice(), &account)
    });
    out.await.expect("written");
    fixture.take(deletion(&fixture, "$3:example.org", "$2:example.org")).await;
    assert_eq!(failure(&fixture).await, Failure::Kept);
}

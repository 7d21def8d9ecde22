//! Messages made by several of Gitter's processes: pages are in order of sending, and ids of one second are in no order.

use super::{cut_off::was_cut_off, restored::*, *};

/// Gitter's clock stands still, at the beginning of the second that it is here.
async fn frozen(choices: Choices) -> Fixture {
    let now = i64::try_from(Clocks::system().now().0 / 1_000).expect("in range") * 1_000;
    let config = SimConfig { frozen_clock_ms: Some(now), ..SimConfig::default() };
    let fixture = Fixture::on(config, choices).await;
    fixture.agreeable().await;
    fixture
}

/// A page full of messages, and behind its end what `who` says in the same second, with a lower id; its id.
fn said_behind_a_page(fixture: &Fixture, who: &str, end: &str, text: &str) -> MessageId {
    let world = fixture.sim.world();
    talk(fixture, 99);
    world.advance_clock(1_000);
    let end = world.post(who, "acme/rockets", end);
    world.advance_clock(1);
    let behind = world.post_elsewhere(who, "acme/rockets", text);
    assert!(behind < end);
    behind.parse().expect("an id")
}

#[tokio::test]
async fn what_was_said_in_the_second_of_a_pages_end_is_shown() {
    let fixture = frozen(Choices::default()).await;
    let world = fixture.sim.world();
    let behind = said_behind_a_page(&fixture, "bob", "end", "behind");
    let begin = MessageId::first_of(behind.made());
    let (key, row) = (fixture.key.clone(), Cursor { begin: begin.clone(), last: begin, gap: None });
    fixture.db.change(move |t| t.put_cursor(&key, &row)).await.expect("written");
    world.advance_clock(10_000);
    let last = talk(&fixture, 100).pop().expect("said");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &last).await;
    let sent = fixture.sent_to(&portal_room()).await;
    assert_eq!(sent[..2], ["end", "behind"]);
    assert_eq!(sent.len(), 102, "each once");
}

#[tokio::test]
async fn a_new_portal_begins_with_all_of_its_first_messages_second() {
    let fixture = frozen(Choices { history: 2, ..Choices::default() }).await;
    fixture.change_portal(|portal| portal.open.at = Millis(u64::from(u32::MAX) * 1000)).await;
    let behind = said_behind_a_page(&fixture, "bob", "end", "behind");
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, behind.as_str()).await;
    assert_eq!(fixture.sent_to(&portal_room()).await, ["end", "behind"]);
}

#[tokio::test]
async fn a_message_that_may_be_on_gitter_is_found_behind_a_pages_end() {
    let fixture = frozen(Choices::default()).await;
    let now = fixture.relay.0.bridge.clock.now();
    was_cut_off(&fixture, Millis(now.0 - 100_000)).await;
    let behind = said_behind_a_page(&fixture, "alice", "end", "hello?");
    fixture.relay.poke_outward(fixture.key.clone());
    let event = ruma::owned_event_id!("$1:example.org");
    let link = fixture.until("its link", move |t| Ok(t.links_of_event(&event)?.pop())).await;
    assert_eq!(link.message, behind, "not sent again");
}

#[tokio::test]
async fn what_waits_since_before_a_backup_is_found_behind_a_pages_end_and_each_once() {
    let fixture = frozen(Choices::default()).await;
    waits_since_before(&fixture, &["one", "one", "two"]).await;
    let behind = said_behind_a_page(&fixture, "alice", "one", "two");
    fixture.relay.poke_outward(fixture.key.clone());
    let event = ruma::owned_event_id!("$2:example.org");
    let link = fixture.until("its link", move |t| Ok(t.links_of_event(&event)?.pop())).await;
    assert_eq!(link.message, behind);
    assert_eq!(waiting(&fixture).await, ["$1:example.org"], "one of one text is there");
}

#[tokio::test]
async fn more_than_a_page_in_one_second_has_an_end() {
    let fixture = frozen(Choices::default()).await;
    let world = fixture.sim.world();
    let said: Vec<_> =
        (0..250).map(|n| world.post("bob", "acme/rockets", &format!("line {n}"))).collect();
    fixture.relay.catch_up(&fixture.key);
    until_linked(&fixture, &said[249]).await;
    let lines: Vec<_> = (0..250).map(|n| format!("line {n}")).collect();
    assert_eq!(fixture.sent_to(&portal_room()).await, lines);
}

#[test]
fn paging_goes_on_with_the_last_second_and_always_further() {
    let id = |second: u32, n: u32| format!("{second:08x}{n:016x}");
    let page = |ids: &[String]| {
        let message = |id: &String| {
            let json = json!({"id": id, "text": "hi", "sent": "2020-01-01T00:00:00Z"});
            serde_json::from_value(json).expect("a message")
        };
        ids.iter().map(message).collect::<Vec<crate::gitter::Message>>()
    };
    //  after, the page, where it goes on
    for (name, from, ids, next) in [
        ("full", id(1, 0), vec![id(1, 5), id(2, 9), id(2, 7)], Some(id(2, 0))),
        ("one second", id(1, 0), vec![id(2, 5), id(2, 6), id(2, 7)], Some(id(2, 0))),
        ("the same second", id(2, 0), vec![id(2, 5), id(2, 6), id(2, 7)], Some(id(2, 7))),
        ("in that second", id(2, 4), vec![id(2, 5), id(2, 6), id(2, 7)], Some(id(2, 7))),
        ("the end", id(1, 0), vec![id(1, 5), id(2, 7)], Some(id(2, 7))),
        ("nothing", id(1, 0), vec![], None),
        ("no step", id(2, 7), vec![id(2, 5), id(2, 6), id(2, 7)], None),
    ] {
        let went = onward(&from.parse().expect("an id"), &page(&ids), 3);
        assert_eq!(went.map(|id| id.as_str().to_owned()), next, "row: {name}");
    }
}

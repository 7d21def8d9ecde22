//! What a sender sees of a message that waits, or is not delivered: why, at the message, once.

use anyhow::{Context as _, Result};
use gitter_sim::{Fault, Matcher};
use harness::{Event, Person, World, WorldConfig};

use crate::scene::{cast, metric, on_gitter, room, say, settled, texts_on_gitter};
use crate::world;

const ROOM: &str = "acme/rockets";
const STATUS: &str = "com.beeper.message_send_status";

/// A bridge that does not wait long before it tells, and may call often.
fn impatient() -> WorldConfig {
    let mut config =
        world().setting("delivery_patience", "1s").setting("gitter_requests_per_minute", "10000");
    config.gitter = |gitter| gitter.rate_limit = Some(10_000);
    config
}

/// Alice with her chat and a portal.
async fn in_a_portal(world: &World) -> Result<(Person, String, String)> {
    room(world, ROOM, &["alice", "bob"]);
    let alice = world.person("alice").await?;
    let chat = world.log_in(&alice, "alice").await?;
    let portal = alice.accept_invite(ROOM).await?;
    settled(world, &alice, &chat).await?;
    Ok((alice, chat, portal))
}

/// The statuses of a message, oldest first.
fn statuses(room: &harness::Room, event: &str) -> Vec<(String, String)> {
    let text = |event: &Event, key: &str| event.content[key].as_str().unwrap_or("").to_owned();
    let all = room.timeline.iter().filter(|seen| {
        seen.kind == STATUS && seen.content["m.relates_to"]["event_id"].as_str() == Some(event)
    });
    all.map(|seen| (text(seen, "status"), text(seen, "reason"))).collect()
}

/// The statuses of a message, once the last of them is this one.
async fn becomes(alice: &Person, portal: &str, event: &str, last: &str) -> Result<Vec<String>> {
    let what = format!("the status {last}");
    let found = |room: &harness::Room| {
        let all = statuses(room, event);
        all.last().is_some_and(|(status, _)| status == last).then_some(all)
    };
    let all = alice.wait_in(portal, &what, found).await?;
    Ok(all.into_iter().map(|(status, _)| status).collect())
}

/// The bot's words about a message.
async fn words(alice: &Person, portal: &str, event: &str) -> Result<Event> {
    let reply = |room: &harness::Room| {
        room.notices().find(|notice| notice.replies_to() == Some(event)).cloned()
    };
    alice.wait_in(portal, "a word about the message", reply).await
}

/// All notices of a room, as the homeserver has them: those taken back have no text.
async fn all_notices(alice: &Person, portal: &str, part: &str) -> Result<Vec<Event>> {
    let history = alice.history(portal).await?.into_iter();
    Ok(history.filter(|event| event.is_message() && event.body().contains(part)).collect())
}

#[tokio::test]
async fn what_waits_for_gitter_is_told_once_and_the_words_go_when_it_arrives() -> Result<()> {
    impatient()
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            let (alice, _, portal) = in_a_portal(world).await?;
            let quick = alice.send_text(&portal, "one").await?;
            on_gitter(world, ROOM, "alice", "one").await?;

            world.stop_gitter().await;
            let first = alice.send_text(&portal, "two").await?;
            let second = alice.send_text(&portal, "three").await?;
            let told = words(&alice, &portal, &first).await?;
            assert!(told.body().contains("It waits"), "{}", told.body());
            assert_eq!(becomes(&alice, &portal, &first, "PENDING").await?, ["PENDING"]);
            world.bridge.kill9()?;
            world.bridge.start_again()?;
            world.bridge.wait_ready().await?;
            let third = alice.send_text(&portal, "four").await?;
            crate::scene::logged(world, "message waits for gitter").await?;
            assert_eq!(all_notices(&alice, &portal, "It waits").await?.len(), 1, "told once");

            world.start_gitter().await?;
            on_gitter(world, ROOM, "alice", "four").await?;
            let all = becomes(&alice, &portal, &first, "SUCCESS").await?;
            assert_eq!(all, ["PENDING", "SUCCESS"]);
            alice
                .wait_in(&portal, "the words taken back", |room| {
                    room.notices().next().is_none().then_some(())
                })
                .await?;
            let last = alice.send_text(&portal, "five").await?;
            on_gitter(world, ROOM, "alice", "five").await?;
            assert!(all_notices(&alice, &portal, "It waits").await?.is_empty());
            for (name, event) in
                [("one", quick), ("three", second), ("four", third), ("five", last)]
            {
                let none = alice.look(|view| statuses(&view.rooms[&portal], &event));
                assert!(none.is_empty(), "{name} needs no word: {none:?}");
            }
            let texts = texts_on_gitter(world, ROOM, "alice");
            assert_eq!(texts, ["one", "two", "three", "four", "five"]);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_silenced_account_is_told_what_that_means() -> Result<()> {
    impatient()
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            let (alice, _, portal) = in_a_portal(world).await?;
            world.gitter.hellban("alice");
            let event = alice.send_text(&portal, "Can you hear me?").await?;
            let told = words(&alice, &portal, &event).await?;
            assert!(told.body().contains("shows it to nobody"), "{}", told.body());
            assert!(told.body().contains("ask those who run"), "{}", told.body());
            let all = becomes(&alice, &portal, &event, "FAIL_PERMANENT").await?;
            assert_eq!(all, ["FAIL_PERMANENT"]);
            assert!(texts_on_gitter(world, ROOM, "alice").is_empty());
            Ok(())
        })
        .await
}

#[tokio::test]
async fn what_gitter_swallows_just_before_a_restart_is_told_and_not_taken_for_deleted() -> Result<()>
{
    let mut config = impatient();
    // It answers as if it had kept the message.
    config.gitter = |gitter| {
        gitter.rate_limit = Some(10_000);
        gitter.spam_with_version = true;
    };
    config
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            let (alice, _, portal) = in_a_portal(world).await?;
            world.gitter.hellban("alice");
            let event = alice.send_text(&portal, "Can you hear me?").await?;
            let delivered =
                "matrix_gitter_messages_total{direction=\"to_gitter\",outcome=\"delivered\"}";
            metric(world, delivered, |n| n > 0.5).await?;
            world.bridge.kill9()?;
            say(world, "bob", ROOM, "Alice?");
            world.bridge.start_again()?;
            alice.wait_for_text(&portal, "Alice?").await?;
            let told = words(&alice, &portal, &event).await?;
            assert!(told.body().contains("shows it to nobody"), "{}", told.body());
            let there = alice.look(|view| view.rooms[&portal].text_now(&event).map(str::to_owned));
            assert_eq!(there.as_deref(), Some("Can you hear me?"));
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_young_account_is_warned_before_gitter_takes_it_for_a_spammer() -> Result<()> {
    impatient()
        .story(async |world| {
            // The ids of Gitter's users say when they were made: this is as old as the simulator's first message.
            let old = world.gitter.add_user("carol", "Carol");
            world.gitter.add_room(gitter_sim::RoomSpec::public("acme/clock"));
            let now = world.gitter.post("carol", "acme/clock", "What time is it?");
            assert_ne!(now[..8], old[..8]);
            let id = format!("{}{:016x}", &now[..8], 1);
            world.gitter.add_user_with_id(&id, "alice", "Alice");
            cast(world, &["bob"]);
            let (alice, _, portal) = in_a_portal(world).await?;
            let same = "The rocket starts tomorrow at nine.";
            let mut events = Vec::new();
            for n in 1..=9 {
                events.push(alice.send_text(&portal, same).await?);
                // Restarts don't reset the count.
                if n == 5 {
                    world.bridge.restart().await?;
                }
            }
            alice.send_text(&portal, "something else").await?;
            on_gitter(world, ROOM, "alice", "something else").await?;
            // What the homeserver kept back over the restart comes later than what was said after it.
            let all = |gitter: &gitter_sim::World| {
                (gitter.messages(ROOM).iter().filter(|m| m.text == same).count() == 9).then_some(())
            };
            world.on_gitter("all nine", all).await?;
            let early = alice.notices_in(&portal);
            assert!(early.is_empty(), "not yet: {early:?}");
            let tenth = alice.send_text(&portal, same).await?;
            let warning = words(&alice, &portal, &tenth).await?;
            assert!(warning.body().starts_with("Careful: "), "{}", warning.body());
            assert!(warning.body().contains("10 times"), "{}", warning.body());
            let eleventh = alice.send_text(&portal, same).await?;
            let told = words(&alice, &portal, &eleventh).await?;
            assert!(told.body().contains("shows it to nobody"), "{}", told.body());
            assert_eq!(alice.notices_in(&portal).len(), 2, "warned once, told once");
            let texts = texts_on_gitter(world, ROOM, "alice");
            assert_eq!(texts.iter().filter(|text| *text == same).count(), 10);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn who_may_not_write_any_more_and_what_is_too_long_is_told_at_the_message() -> Result<()> {
    impatient()
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            let (alice, _, portal) = in_a_portal(world).await?;
            let long = vec!["word ".repeat(420).trim_end().to_owned(); 29].join("\n\n");
            let event = alice.send_text(&portal, &long).await?;
            let told = words(&alice, &portal, &event).await?;
            assert!(told.body().contains("too long"), "{}", told.body());
            assert!(told.body().contains("in several messages"), "{}", told.body());
            let all = alice.wait_in(&portal, "its status", |room| {
                Some(statuses(room, &event)).filter(|all| !all.is_empty())
            });
            let expected = ("FAIL_PERMANENT".to_owned(), "com.beeper.unsupported_event".to_owned());
            assert_eq!(all.await?, [expected]);

            // Who may read may still not write, as where a room wants accounts of another kind.
            for (status, part, kind) in [
                (
                    403,
                    "Gitter does not let you write in this room. You may have been",
                    "m.no_permission",
                ),
                (404, "the room is gone on Gitter", "m.foreign_network_error"),
                (400, "Gitter does not take this message", "m.foreign_network_error"),
            ] {
                let posts = Matcher::new("POST", "/chatMessages");
                world.gitter.fail_next(1, posts, Fault::Status(status));
                let event = alice.send_text(&portal, &format!("This meets a {status}")).await?;
                let told = words(&alice, &portal, &event).await?;
                assert!(told.body().contains(part), "{}", told.body());
                let all = alice.wait_in(&portal, "its status", |room| {
                    Some(statuses(room, &event)).filter(|all| !all.is_empty())
                });
                assert_eq!(all.await?, [("FAIL_PERMANENT".to_owned(), kind.to_owned())]);
            }
            assert!(texts_on_gitter(world, ROOM, "alice").is_empty());
            Ok(())
        })
        .await
}

#[tokio::test]
async fn portals_say_what_can_be_done_in_them_and_go_on_saying_it_when_that_changes() -> Result<()>
{
    world()
        .setting("reconcile_interval", "10s")
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            let (alice, _, portal) = in_a_portal(world).await?;
            let key = format!("im.gitter/{}", world.gitter.find_room(ROOM).context("a room")?);
            let features = |room: &harness::Room| {
                room.state_content("com.beeper.room_features", &key).cloned()
            };
            let new = alice.wait_in(&portal, "what can be done", features).await?;
            assert_eq!(new["reaction"], -1, "Gitter has none");
            assert_eq!(new["edit_max_age"], 590);
            assert_eq!(new["file"]["m.image"]["max_size"], 50_000_000);
            assert!(alice.notices_in(&portal).is_empty(), "and not a word");

            world.bridge.terminate().await?;
            let path = world.bridge.dir().join("settings.yaml");
            let settings = std::fs::read_to_string(&path)? + "\nmedia_links: \"off\"\n";
            std::fs::write(&path, settings)?;
            world.bridge.start_again()?;
            alice
                .wait_in(&portal, "that files are not passed on", |room| {
                    let now = features(room)?;
                    (now["file"].as_object()?.is_empty() && now["edit"] == 2).then_some(())
                })
                .await
        })
        .await
}

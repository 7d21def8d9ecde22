//! What was said before, and what was read.

use anyhow::Result;
use gitter_sim::RoomSpec;
use harness::{Person, World, WorldConfig};
use reqwest::Method;
use serde_json::json;

use crate::scene::{alice_in, cast, say, texts_by, told};
use crate::world;

const ROOM: &str = "acme/rockets";

#[tokio::test]
async fn a_new_portal_begins_with_the_last_messages_in_order_and_with_their_times() -> Result<()> {
    let mut config = world().setting("history_messages", "5");
    // New Year's Day, so that what was said is old.
    config.gitter = |gitter| gitter.frozen_clock_ms = Some(1_767_225_600_000);
    config
        .story(async |world| {
            for (user, name) in [("alice", "Alice A."), ("bob", "Bob B."), ("carol", "Carol C.")] {
                world.gitter.add_user(user, name);
            }
            world.gitter.add_room(RoomSpec::public(ROOM));
            for user in ["alice", "bob", "carol"] {
                world.gitter.join(ROOM, user);
            }
            for n in 0..8 {
                let user = if n % 2 == 0 { "bob" } else { "carol" };
                world.gitter.post(user, ROOM, &format!("line {n}"));
            }
            let alice = world.person("alice").await?;
            world.log_in(&alice, "alice").await?;
            let portal = alice.accept_invite(ROOM).await?;
            world.gitter.post("bob", ROOM, "and now");
            alice.wait_for_text(&portal, "and now").await?;

            let all = alice.history(&portal).await?;
            let said: Vec<_> = all.iter().filter(|e| e.is_message()).collect();
            let texts: Vec<_> = said.iter().map(|event| event.body()).collect();
            assert_eq!(texts, ["line 3", "line 4", "line 5", "line 6", "line 7", "and now"]);
            assert_eq!(said[0].sender, world.ghost("carol"));
            assert_eq!(said[1].sender, world.ghost("bob"));
            assert_eq!(said[0].sent_ms, 1_767_225_600_000, "shown with its own time");
            for old in &said[..5] {
                assert_eq!(old.content["im.gitter.historical"], true, "{}", old.body());
                assert_eq!(old.content["m.mentions"], json!({}), "{}", old.body());
            }
            let invited = all.iter().position(|event| {
                event.kind == "m.room.member"
                    && event.content["membership"] == "invite"
                    && event.state_key.as_deref() == Some(alice.id.as_str())
            });
            let last = all.iter().position(|event| event.body() == "line 7");
            assert!(
                last < invited,
                "the invite comes when the room is filled: {last:?} {invited:?}"
            );
            Ok(())
        })
        .await
}

#[tokio::test]
async fn what_is_read_on_matrix_is_marked_read_on_gitter() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, _, portal) = alice_in(world, ROOM, &["alice", "bob"]).await?;
            for n in 0..3 {
                world.gitter.post("bob", ROOM, &format!("line {n}"));
            }
            let second = alice.wait_for_text(&portal, "line 1").await?;
            alice.wait_for_text(&portal, "line 2").await?;
            assert_eq!(world.gitter.unread(ROOM, "alice").0, 3);
            alice.read(&portal, &second.id).await?;
            world
                .on_gitter("two of three read", |gitter| {
                    (gitter.unread(ROOM, "alice").0 == 1).then_some(())
                })
                .await
        })
        .await
}

#[tokio::test]
async fn what_is_read_on_matrix_in_private_stays_unread_on_gitter() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, portal, _) = rockets(world).await?;
            let mut events = vec![alice.wait_for_text(&portal, "before").await?.id];
            for n in 0..3 {
                world.gitter.post("bob", ROOM, &format!("line {n}"));
                events.push(alice.wait_for_text(&portal, &format!("line {n}")).await?.id);
            }
            assert_eq!(world.gitter.unread(ROOM, "alice").0, 4);
            let path = ["v3", "rooms", &portal, "receipt", "m.read.private", &events[3]];
            alice.call(Method::POST, &path, Some(&json!({}))).await?;
            for (event, before) in events.iter().zip([4, 3]) {
                // Of what is in no thread, and so not in place of the other.
                let path = ["v3", "rooms", &portal, "receipt", "m.read", event];
                alice.call(Method::POST, &path, Some(&json!({"thread_id": "main"}))).await?;
                let left = |gitter: &gitter_sim::World| {
                    let left = gitter.unread(ROOM, "alice").0;
                    (left < before).then_some(left)
                };
                assert_eq!(world.on_gitter("one more read", left).await?, before - 1);
            }
            Ok(())
        })
        .await
}

/// A bridge that is not held up by limits.
fn swift() -> WorldConfig {
    let config = world().setting("gitter_requests_per_minute", "10000");
    let mut config = config.setting("homeserver_requests_per_second", "1000");
    config.gitter = |gitter| gitter.rate_limit = Some(10_000);
    config
}

/// Alice with a portal, Bob on Gitter, who has said something.
async fn rockets(world: &World) -> Result<(Person, String, String)> {
    let (alice, _, portal) = alice_in(world, ROOM, &["alice", "bob"]).await?;
    let before = say(world, "bob", ROOM, "before");
    alice.wait_for_text(&portal, "before").await?;
    Ok((alice, portal, before))
}

/// Bob talks on, a second a line.
fn talk(world: &World, lines: std::ops::Range<usize>) -> Vec<String> {
    let said = lines.map(|n| {
        world.gitter.advance_clock(1_000);
        world.gitter.post("bob", ROOM, &format!("line {n}"))
    });
    said.collect()
}

#[tokio::test]
async fn after_a_long_absence_the_newest_messages_come_after_one_word_about_the_others()
-> Result<()> {
    swift()
        .setting("catch_up_messages", "5")
        .story(async |world| {
            let (alice, portal, before) = rockets(world).await?;
            let event = alice.wait_for_text(&portal, "before").await?;
            world.bridge.kill9()?;
            let lines = talk(world, 0..20);
            world.bridge.start_again()?;
            alice.wait_for_text(&portal, "line 19").await?;
            let word = alice.wait_for_text(&portal, "Not shown here: 15 messages").await?;
            assert!(word.body().ends_with(&format!("/{ROOM}?at={}", lines[0])), "{}", word.body());
            let shown: Vec<_> = (15..20).map(|n| format!("line {n}")).collect();
            let bob = world.ghost("bob");
            let expected = [vec!["before".to_owned()], shown].concat();
            assert_eq!(texts_by(&alice, &portal, &bob).await?, expected);
            let all = alice.history(&portal).await?;
            let place = |text: &str| all.iter().position(|event| event.body().contains(text));
            assert!(place("before") < place("Not shown here"), "the word stands where the gap is");
            assert!(place("Not shown here") < place("line 15"));

            // What is older than the gap still follows; what is in it stays away, whatever becomes of it.
            world.gitter.edit(ROOM, &before, "before, and changed");
            world.gitter.edit(ROOM, &lines[3], "line 3, and changed");
            world.gitter.reply("bob", ROOM, &lines[4], "an answer to what is not shown");
            world.bridge.restart().await?;
            alice.wait_for_text(&portal, "an answer to what is not shown").await?;
            alice
                .wait_in(&portal, "the change", |room| {
                    (room.text_now(&event.id) == Some("before, and changed")).then_some(())
                })
                .await?;
            assert_eq!(texts_by(&alice, &portal, &bob).await?.len(), 1 + 5 + 1);
            assert_eq!(told(&alice, &portal, "Not shown here"), 1, "said once");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn edits_and_deletions_missed_while_away_follow_however_much_was_said_since() -> Result<()> {
    swift()
        .story(async |world| {
            let (alice, portal, _) = rockets(world).await?;
            let changed = say(world, "bob", ROOM, "to be changed");
            let gone = say(world, "bob", ROOM, "to be deleted");
            let changed_event = alice.wait_for_text(&portal, "to be changed").await?.id;
            let gone_event = alice.wait_for_text(&portal, "to be deleted").await?.id;
            world.gitter.advance_clock(60_000);
            say(world, "bob", ROOM, "the last for now");
            alice.wait_for_text(&portal, "the last for now").await?;
            world.bridge.kill9()?;
            let lines = talk(world, 0..130);
            world.gitter.edit(ROOM, &changed, "was changed");
            world.gitter.delete(ROOM, &gone);
            world.gitter.delete(ROOM, &lines[7]);
            world.bridge.start_again()?;
            alice.wait_for_text(&portal, "line 129").await?;
            alice
                .wait_in(&portal, "what was missed", |room| {
                    let was_changed = room.text_now(&changed_event) == Some("was changed");
                    (was_changed && room.text_now(&gone_event).is_none()).then_some(())
                })
                .await?;
            let shown = texts_by(&alice, &portal, &world.ghost("bob")).await?;
            let lines = shown.iter().filter(|text| text.starts_with("line ")).count();
            assert_eq!(lines, 129, "all but the deleted one");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn what_was_said_before_calls_nobody_and_what_is_said_now_does() -> Result<()> {
    world()
        .story(async |world| {
            cast(world, &["alice", "bob", "carol"]);
            let admins = vec!["bob".to_owned()];
            world.gitter.add_room(RoomSpec { admins, ..RoomSpec::public(ROOM) });
            world.gitter.join(ROOM, "alice");
            world.gitter.join(ROOM, "carol");
            say(world, "bob", ROOM, "@alice and @/all, long ago");
            let alice = world.person("alice").await?;
            world.log_in(&alice, "alice").await?;
            let portal = alice.accept_invite(ROOM).await?;
            let old = alice.wait_for_text(&portal, "long ago").await?;
            assert_eq!(old.content["im.gitter.historical"], true);
            assert_eq!(old.content["org.matrix.msc2716.historical"], true);
            assert_eq!(old.content["m.mentions"], json!({}));

            say(world, "carol", ROOM, "@/all, says somebody who may not");
            say(world, "bob", ROOM, "@/all, the launch is on");
            say(world, "bob", ROOM, "@alice, bring the key");
            let may_not = alice.wait_for_text(&portal, "may not").await?;
            assert_eq!(may_not.content["m.mentions"], json!({}));
            let all = alice.wait_for_text(&portal, "launch").await?;
            assert_eq!(all.content["m.mentions"], json!({"room": true}));
            let her = alice.wait_for_text(&portal, "bring the key").await?;
            assert_eq!(her.content["m.mentions"]["user_ids"], json!([alice.id]));

            // What makes her client ring, as the homeserver has it.
            let rings = alice.call(Method::GET, &["v3", "notifications"], None).await?;
            let is_loud = |ring: &&serde_json::Value| {
                let actions = ring["actions"].as_array().into_iter().flatten();
                ring["room_id"] == portal.as_str()
                    && actions
                        .into_iter()
                        .any(|a| a["set_tweak"] == "highlight" && a["value"] != false)
            };
            let rings = rings["notifications"].as_array().into_iter().flatten().filter(is_loud);
            let mut rang: Vec<_> = rings.map(|ring| ring["event"]["event_id"].clone()).collect();
            rang.reverse();
            assert_eq!(rang, [all.id, her.id], "both calls of now, and nothing else");
            Ok(())
        })
        .await
}

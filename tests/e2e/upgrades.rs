//! Rooms that are upgraded on Matrix: a portal goes on in the room that replaces its own, and nothing is lost.

use anyhow::{Context as _, Result};
use harness::{Person, World, WorldConfig};
use reqwest::Method;
use serde_json::{Value, json};

use crate::scene::{
    alice_in, closed, heard, is_only_in, on_gitter, say, settled, texts_by, texts_on_gitter, told,
};
use crate::world;

const ROOM: &str = "acme/rockets";

/// A homeserver that makes rooms of version 11.
fn eleven() -> WorldConfig {
    world().own_synapse(|synapse| synapse.room_version = Some("11".to_owned()))
}

/// Alice in her portal, Bob on Gitter; the control room and the portal.
async fn rockets(world: &World) -> Result<(Person, String, String)> {
    let (alice, chat, portal) = alice_in(world, ROOM, &["alice", "bob"]).await?;
    say(world, "bob", ROOM, "hello");
    alice.wait_for_text(&portal, "hello").await?;
    settled(world, &alice, &chat).await?;
    Ok((alice, chat, portal))
}

/// The bot upgrades a room, as an admin of the homeserver may have it do.
async fn upgrade_as_bot(world: &World, room: &str) -> Result<String> {
    let body = json!({"new_version": "12"});
    let answer = world.as_bot(Method::POST, &["v3", "rooms", room, "upgrade"], Some(&body)).await?;
    Ok(answer["replacement_room"].as_str().context("a room")?.to_owned())
}

/// State of a room as the bot sees it.
async fn state(world: &World, room: &str, kind: &str, key: &str) -> Result<Value> {
    world.as_bot(Method::GET, &["v3", "rooms", room, "state", kind, key], None).await
}

/// Waits until only Alice is left in the old room.
async fn emptied(alice: &Person, old: &str) -> Result<()> {
    let left = |room: &harness::Room| {
        (room.joined().into_iter().collect::<Vec<_>>() == [alice.id.clone()]).then_some(())
    };
    alice.wait_in(old, "the old room emptied", left).await
}

/// Messages pass both ways in the new room.
async fn goes_on(world: &World, alice: &Person, new: &str) -> Result<()> {
    say(world, "bob", ROOM, "are you there?");
    alice.wait_for_text(new, "are you there?").await?;
    alice.send_text(new, "here I am").await?;
    on_gitter(world, ROOM, "alice", "here I am").await
}

#[tokio::test]
async fn an_upgraded_portal_goes_on_in_the_new_room_with_everything() -> Result<()> {
    eleven()
        .story(async |world| {
            let (alice, chat, old) = rockets(world).await?;
            let edited = say(world, "bob", ROOM, "teh old words");
            let deleted = say(world, "bob", ROOM, "never mind");
            let thread = say(world, "bob", ROOM, "a thread");
            alice.wait_for_text(&old, "a thread").await?;

            let new = upgrade_as_bot(world, &old).await?;
            assert_eq!(alice.accept_invite(ROOM).await?, new);
            goes_on(world, &alice, &new).await?;
            emptied(&alice, &old).await?;
            alice.look(|view| {
                let (before, now) = (&view.rooms[&old], &view.rooms[&new]);
                assert_eq!((before.version(), now.version()), ("11", "12"));
                assert_eq!(now.name(), before.name());
                assert!(now.has(&world.ghost("bob")), "ghosts follow: {:?}", now.joined());
            });
            // It can be found again by itself, and clients show what it is.
            let marker = state(world, &new, "im.gitter.portal", "").await?;
            let gitter = world.gitter.find_room(ROOM).context("the room")?;
            let key = marker["im.gitter.portal"].as_str().context("a marker")?;
            assert!(key.contains(&gitter) && key.contains(&alice.id), "{key}");
            for kind in ["m.bridge", "uk.half-shot.bridge"] {
                let info = state(world, &new, kind, &format!("im.gitter/{gitter}")).await?;
                assert_eq!(info["channel"]["displayname"], ROOM);
            }

            // What was said before can't be changed there any more: the bot tells.
            world.gitter.edit(ROOM, &edited, "the new words");
            let told_of = alice.wait_for_text(&new, "the new words").await?;
            assert_eq!(
                (told_of.sender, told_of.content["msgtype"].as_str()),
                (world.bridge.bot(), Some("m.notice"),)
            );
            world.gitter.delete(ROOM, &deleted);
            alice.wait_for_text(&new, "was deleted on Gitter").await?;
            world.gitter.reply("bob", ROOM, &thread, "in the thread");
            let child = alice.wait_for_text(&new, "in the thread").await?;
            assert!(child.content.get("m.relates_to").is_none(), "{:?}", child.content);
            is_only_in(&alice, &[&chat, &old, &new])?;
            settled(world, &alice, &chat).await?;
            world.bridge.kill9()?;
            world.bridge.start_again()?;
            goes_on(world, &alice, &new).await?;
            is_only_in(&alice, &[&chat, &old, &new])?;

            // Closed like any other; the old room is Alice's own.
            alice.send_text(&chat, "gpart rockets").await?;
            closed(&alice, &new).await
        })
        .await
}

#[tokio::test]
async fn a_portal_upgraded_by_its_account_waits_for_the_bots_invite() -> Result<()> {
    eleven()
        .story(async |world| {
            let (alice, chat, old) = rockets(world).await?;
            let mut levels = state(world, &old, "m.room.power_levels", "").await?;
            levels["users"][&alice.id] = json!(100);
            let path = ["v3", "rooms", &old, "state", "m.room.power_levels", ""];
            world.as_bot(Method::PUT, &path, Some(&levels)).await?;

            let body = json!({"new_version": "12"});
            let path = ["v3", "rooms", &old, "upgrade"];
            let answer = alice.call(Method::POST, &path, Some(&body)).await?;
            let new = answer["replacement_room"].as_str().context("a room")?.to_owned();
            // Leaving the old room is tidiness, not a word about the portal.
            alice.leave(&old).await?;
            say(world, "bob", ROOM, "meanwhile");
            heard(world, &alice, &chat).await?;
            alice.invite(&new, &world.bridge.bot()).await?;
            alice.wait_for_text(&new, "meanwhile").await?;
            goes_on(world, &alice, &new).await?;
            is_only_in(&alice, &[&chat, &new])?;
            assert_eq!(told(&alice, &chat, "You left"), 0);
            assert_eq!(told(&alice, &new, "Say"), 0, "it is no chat with the bot");
            settled(world, &alice, &chat).await?;

            // She rules there: nobody can remove her, so the bridge leaves instead.
            alice.send_text(&chat, "gpart rockets").await?;
            emptied(&alice, &new).await?;
            alice.wait_for_text(&chat, "you have too much power in its room here").await?;
            assert_eq!(told(&alice, &chat, "its room here is closed"), 0);
            world.ask_until(&alice, &chat, "status", "Everything is as you asked for").await?;
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_portal_upgraded_while_the_bridge_was_down_loses_nothing() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, chat, old) = rockets(world).await?;
            world.bridge.kill9()?;
            alice.send_text(&old, "said into the dark").await?;
            let new = upgrade_as_bot(world, &old).await?;
            say(world, "bob", ROOM, "said meanwhile");
            world.bridge.start_again()?;

            assert_eq!(alice.accept_invite(ROOM).await?, new);
            alice.wait_for_text(&new, "said meanwhile").await?;
            on_gitter(world, ROOM, "alice", "said into the dark").await?;
            goes_on(world, &alice, &new).await?;
            emptied(&alice, &old).await?;
            assert_eq!(texts_on_gitter(world, ROOM, "alice"), ["said into the dark", "here I am"]);
            let bobs = texts_by(&alice, &new, &world.ghost("bob")).await?;
            assert_eq!(bobs, ["said meanwhile", "are you there?"]);
            is_only_in(&alice, &[&chat, &old, &new])
        })
        .await
}

#[tokio::test]
async fn a_room_that_does_not_go_on_for_the_portal_is_not_followed() -> Result<()> {
    world()
        .setting("reconcile_interval", "10s")
        .story(async |world| {
            let (alice, chat, old) = rockets(world).await?;
            let body = json!({"preset": "private_chat", "name": "astray"});
            let made = world.as_bot(Method::POST, &["v3", "createRoom"], Some(&body)).await?;
            let astray = made["room_id"].as_str().context("a room")?.to_owned();
            let end = json!({"body": "gone", "replacement_room": astray});
            let path = ["v3", "rooms", &old, "state", "m.room.tombstone", ""];
            world.as_bot(Method::PUT, &path, Some(&end)).await?;

            let new = alice.accept_invite(ROOM).await?;
            assert!(new != old && new != astray, "a room of the bridge's own: {new}");
            alice.wait_for_text(&chat, "was upgraded, but I can't follow").await?;
            goes_on(world, &alice, &new).await?;
            emptied(&alice, &old).await?;
            settled(world, &alice, &chat).await?;
            assert_eq!(told(&alice, &chat, "was upgraded"), 1);
            let rooms = world.as_bot(Method::GET, &["v3", "joined_rooms"], None).await?;
            let rooms = rooms["joined_rooms"].as_array().context("a list")?;
            assert!(!rooms.contains(&json!(astray)) && !rooms.contains(&json!(old)), "{rooms:?}");
            is_only_in(&alice, &[&chat, &old, &new])
        })
        .await
}

#[tokio::test]
async fn an_upgraded_control_room_is_followed_whoever_upgrades_it() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, chat, portal) = rockets(world).await?;
            let body = json!({"new_version": "12"});
            let path = ["v3", "rooms", &chat, "upgrade"];
            let answer = alice.call(Method::POST, &path, Some(&body)).await?;
            let hers = answer["replacement_room"].as_str().context("a room")?.to_owned();
            alice.invite(&hers, &world.bridge.bot()).await?;
            alice.wait_for_answer(&hers, &world.bridge.bot(), None).await?;
            world.ask_until(&alice, &hers, "list", "* acme/rockets").await?;
            emptied(&alice, &chat).await?;

            // As Alice's client makes it, the bot is a creator of the room too.
            let more = json!({"users": {&world.bridge.bot(): 100}});
            let mut levels = state(world, &hers, "m.room.power_levels", "").await?;
            levels["users"][&world.bridge.bot()] = more["users"][&world.bridge.bot()].clone();
            levels["events"]["m.room.tombstone"] = json!(100);
            alice.set_state(&hers, "m.room.power_levels", "", &levels).await?;
            let next = upgrade_as_bot(world, &hers).await?;
            alice
                .wait_for("the invite", |view| {
                    view.invited().any(|room| room.id == next).then_some(())
                })
                .await?;
            alice.join(&next).await?;
            world.ask_until(&alice, &next, "list", "* acme/rockets").await?;
            emptied(&alice, &hers).await?;
            is_only_in(&alice, &[&chat, &hers, &next, &portal])
        })
        .await
}

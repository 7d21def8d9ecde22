//! The chat with the bot: one person, unencrypted, and only the newest one counts.

use anyhow::Result;
use serde_json::json;

use crate::scene::{cast, closed, heard, is_only_in, room, told};
use crate::world;

#[tokio::test]
async fn a_third_person_makes_the_bot_say_why_and_leave_for_ever() -> Result<()> {
    world()
        .story(async |world| {
            let bot = world.bridge.bot();
            let alice = world.person("alice").await?;
            let bob = world.person("bob").await?;

            // Two people wait for it in a room.
            let crowd = alice.create_room("Crowd", false).await?;
            alice.invite(&crowd, &bob.id).await?;
            bob.accept_invite("Crowd").await?;
            alice.invite(&crowd, &bot).await?;
            alice.wait_for_text(&crowd, "I only talk to one person at a time").await?;
            let is_out = |room: &harness::Room| (!room.has(&bot)).then_some(());
            alice.wait_in(&crowd, "the bot gone", is_out).await?;

            // One who comes later.
            let chat = world.start_chat(&alice).await?;
            alice.invite(&chat, &bob.id).await?;
            bob.join(&chat).await?;
            alice.wait_for_text(&chat, "I only talk to one person at a time").await?;
            alice.wait_in(&chat, "the bot gone", is_out).await?;

            // Neither is entered again, not even with one person in it; a new chat is.
            bob.leave(&chat).await?;
            bob.leave(&crowd).await?;
            for room in [&crowd, &chat] {
                alice.invite(room, &bot).await?;
            }
            let fresh = world.start_chat(&alice).await?;
            heard(world, &alice, &fresh).await?;
            for room in [&crowd, &chat] {
                alice
                    .wait_in(room, "the invite declined", |room| {
                        room.member(&bot).is_some_and(|m| m.membership == "leave").then_some(())
                    })
                    .await?;
                assert_eq!(told(&alice, room, "I only talk to one person"), 1, "said once");
                let joins = alice.history(room).await?;
                let joins = joins.iter().filter(|event| {
                    event.state_key.as_deref() == Some(&bot)
                        && event.content["membership"] == "join"
                });
                assert_eq!(joins.count(), 1, "came once");
            }
            Ok(())
        })
        .await
}

#[tokio::test]
async fn an_encrypted_chat_is_answered_with_a_plain_one() -> Result<()> {
    world()
        .story(async |world| {
            let bot = world.bridge.bot();
            let alice = world.person("alice").await?;
            let secret = alice.create_room("Secret", true).await?;
            alice.invite(&secret, &bot).await?;
            alice.wait_for_text(&secret, "This room is encrypted").await?;
            let plain = alice.wait_for_invite("Gitter").await?;
            alice.look(|view| {
                let room = &view.rooms[&plain];
                assert_eq!((room.inviter.as_deref(), room.is_direct), (Some(bot.as_str()), true));
            });
            alice.join(&plain).await?;
            alice.wait_for_text(&plain, "the other room is encrypted").await?;
            let link = alice.last_link_in(&plain).await?;
            assert!(link.starts_with(&world.bridge.login_url()), "{link}");
            alice.wait_in(&secret, "the bot gone", |room| (!room.has(&bot)).then_some(())).await?;
            world.ask_until(&alice, &plain, "help", "gjoin ROOM").await?;

            // With a chat there already no other is opened.
            let another = alice.create_room("Another secret", true).await?;
            alice.invite(&another, &bot).await?;
            alice.wait_for_text(&another, "in our other chat").await?;
            alice.wait_in(&another, "the bot gone", |room| (!room.has(&bot)).then_some(())).await?;
            let again = |room: &harness::Room| {
                let there = |event: &&harness::Event| event.body().contains("the other room is");
                (room.notices().filter(there).count() == 2).then_some(())
            };
            alice.wait_in(&plain, "the same word again", again).await?;
            assert_eq!(told(&alice, &plain, "Hi!"), 1, "greeted once");

            // Somebody turns encryption on later.
            let bob = world.person("bob").await?;
            let chat = world.start_chat(&bob).await?;
            let algorithm = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
            bob.set_state(&chat, "m.room.encryption", "", &algorithm).await?;
            bob.wait_for_text(&chat, "This room is encrypted").await?;
            let plain = bob.accept_invite("Gitter").await?;
            world.ask_until(&bob, &plain, "help", "gjoin ROOM").await?;
            assert_eq!(told(&bob, &chat, "This room is encrypted"), 1);
            assert!(!bob.look(|view| view.rooms[&plain].is_encrypted()));
            Ok(())
        })
        .await
}

#[tokio::test]
async fn the_newest_chat_is_the_control_room_and_leaving_it_ends_it() -> Result<()> {
    world()
        .story(async |world| {
            cast(world, &["alice"]);
            room(world, "acme/rockets", &["alice"]);
            let bot = world.bridge.bot();
            let alice = world.person("alice").await?;
            let first = world.log_in(&alice, "alice").await?;
            let portal = alice.accept_invite("acme/rockets").await?;

            let second = world.start_chat(&alice).await?;
            alice.wait_for_text(&second, "You are @alice on Gitter").await?;
            let is_out = |room: &harness::Room| (!room.has(&bot)).then_some(());
            alice.wait_in(&first, "the bot gone from the old chat", is_out).await?;
            world.ask_until(&alice, &second, "list", "acme/rockets").await?;

            alice.leave(&second).await?;
            // The bot leaves too: who comes back by an old invite finds nobody, and portals stay.
            let third = world.start_chat(&alice).await?;
            world.ask_until(&alice, &third, "list", "acme/rockets").await?;
            closed(&alice, &second).await?;
            is_only_in(&alice, &[&first, &third, &portal])?;
            let members = alice.history(&first).await?;
            assert!(members.iter().any(|event| event.state_key.as_deref() == Some(&bot)
                && event.content["membership"] == "leave"));
            Ok(())
        })
        .await
}

//! What people say to the bot about rooms: `list`, `gjoin`, `gpart`, and what is no command.

use anyhow::Result;
use gitter_sim::{Fault, Matcher, RoomSpec};

use crate::scene::{cast, closed, is_member, is_only_in, room, say, settled, told};
use crate::world;

#[tokio::test]
async fn the_list_marks_what_is_open_and_counts_what_is_unread() -> Result<()> {
    world()
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            room(world, "acme/Rockets", &["alice", "bob"]);
            room(world, "acme/tea", &["alice", "bob"]);
            room(world, "zoo/ants", &["bob"]);
            let alice = world.person("alice").await?;
            let chat = world.log_in(&alice, "alice").await?;
            alice.accept_invite("acme/Rockets (Gitter)").await?;
            alice.wait_for_invite("acme/tea (Gitter)").await?;
            say(world, "bob", "acme/tea", "Is anybody thirsty?");
            say(world, "bob", "acme/tea", "@alice, are you?");

            let list = world.ask_until(&alice, &chat, "list", "Your rooms").await?;
            assert!(list.body().contains("* acme/Rockets\n"), "marked: {}", list.body());
            assert!(
                list.body().contains("• acme/tea: 2 unread, 1 mention\n"),
                "invited is not joined: {}",
                list.body()
            );
            assert!(!list.body().contains("zoo/ants"), "{}", list.body());
            assert!(list.html().contains("<li>* <strong>acme/Rockets</strong>"), "{}", list.html());
            assert_eq!(list.msgtype(), "m.notice");

            for (said, nearest) in
                [("lsit", "`list`"), ("join acme/tea", "`gjoin ROOM`"), ("!lgoin", "`login`")]
            {
                let answer = world.ask(&alice, &chat, said).await?;
                assert!(answer.body().contains(nearest), "{said}: {}", answer.body());
            }
            let answer = world.ask(&alice, &chat, "gjoin").await?;
            assert!(answer.body().starts_with("Which room?"), "{}", answer.body());
            let help = world.ask(&alice, &chat, "HELP").await?;
            for word in ["list", "gjoin ROOM", "gpart ROOM", "invite ROOM", "status", "why ROOM"] {
                assert!(help.body().contains(&format!("• `{word}`")), "{word}: {}", help.body());
            }
            Ok(())
        })
        .await
}

#[tokio::test]
async fn gjoin_takes_a_room_by_any_of_its_names_and_says_why_it_cannot() -> Result<()> {
    world()
        .story(async |world| {
            cast(world, &["alice", "bob", "carol"]);
            for uri in ["Acme/Rockets", "acme/tea", "acme/closed"] {
                room(world, uri, &["bob"]);
            }
            world.gitter.add_room(RoomSpec::private("acme/secret"));
            world.gitter.ban("acme/closed", "alice");
            let alice = world.person("alice").await?;
            let chat = world.log_in(&alice, "alice").await?;
            alice.wait_for_text(&chat, "You are in no rooms there yet").await?;

            let acknowledged = world.ask(&alice, &chat, "gjoin acme/rockets").await?;
            assert!(acknowledged.body().starts_with("Joining acme/rockets"), "at once");
            let rockets = alice.accept_invite("Acme/Rockets (Gitter)").await?;
            assert!(is_member(world, "acme/rockets", "alice"));
            alice.wait_for_text(&chat, "Acme/Rockets is open").await?;

            let url = world.gitter_server.as_ref().expect("Gitter is up").web_url();
            alice.send_text(&chat, &format!("gjoin {url}/acme/tea?at=5f")).await?;
            let tea = alice.accept_invite("acme/tea (Gitter)").await?;
            assert!(is_member(world, "acme/tea", "alice"));

            alice.send_text(&chat, "gjoin @Carol").await?;
            let carol = alice.accept_invite("Carol (Gitter)").await?;
            assert_eq!(world.gitter.rooms_of("alice"), ["@carol", "Acme/Rockets", "acme/tea"]);
            alice.wait_for_text(&chat, "@carol is open").await?;
            settled(world, &alice, &chat).await?;

            for (said, why) in [
                ("gjoin rockets", "You are already in Acme/Rockets"),
                ("gjoin @carol", "You are already in @carol"),
                ("gjoin acme/nowhere", "I can't find a room acme/nowhere on Gitter"),
                ("gjoin bob", "bob is a person on Gitter"),
                ("gjoin @nobody", "There is nobody called @nobody on Gitter"),
                ("gjoin acme/secret", "I can't find a room acme/secret on Gitter"),
                ("gjoin acme/closed", "or you are banned there, Gitter hides it"),
                ("gpart acme/nowhere", "You are not in acme/nowhere on Gitter"),
            ] {
                world.ask_until(&alice, &chat, said, why).await?;
            }
            settled(world, &alice, &chat).await?;
            is_only_in(&alice, &[&chat, &rockets, &tea, &carol])?;
            assert_eq!(world.gitter.rooms_of("alice"), ["@carol", "Acme/Rockets", "acme/tea"]);
            for once in ["Acme/Rockets is open", "acme/tea is open", "@carol is open"] {
                assert_eq!(told(&alice, &chat, once), 1, "told once: {once}");
            }

            world.ask_until(&alice, &chat, "gpart TEA", "You are no longer in acme/tea").await?;
            closed(&alice, &tea).await?;
            assert!(!is_member(world, "acme/tea", "alice"));
            world.ask_until(&alice, &chat, "gpart @carol", "can't be left").await?;
            settled(world, &alice, &chat).await?;
            is_only_in(&alice, &[&chat, &rockets, &carol])
        })
        .await
}

#[tokio::test]
async fn a_gjoin_taken_back_while_gitter_is_slow_to_answer_leaves_nobody_there() -> Result<()> {
    world()
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            room(world, "acme/slow", &["bob"]);
            let alice = world.person("alice").await?;
            let chat = world.log_in(&alice, "alice").await?;
            alice.wait_for_text(&chat, "You are in no rooms there yet").await?;

            world.gitter.fail_next(1, Matcher::new("POST", "rooms"), Fault::SlowMs(2_000));
            alice.send_text(&chat, "gjoin acme/slow").await?;
            alice.send_text(&chat, "gpart ACME/slow").await?;
            alice.wait_for_text(&chat, "You are no longer in acme/slow").await?;
            settled(world, &alice, &chat).await?;
            assert!(!is_member(world, "acme/slow", "alice"));
            is_only_in(&alice, &[&chat])
        })
        .await
}

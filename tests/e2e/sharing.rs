//! Several Matrix users in one Gitter room, and on one Gitter account; and who has no business in a portal.

use anyhow::Result;
use gitter_sim::RoomSpec;
use harness::Consent;
use serde_json::json;

use crate::scene::{
    cast, closed, messages_by, metric, on_gitter, room, say, settled, texts_by, texts_on_gitter,
};
use crate::world;

const ROOM: &str = "acme/rockets";

#[tokio::test]
async fn two_people_in_one_room_share_a_subscription_and_hand_it_over() -> Result<()> {
    world()
        .story(async |world| {
            cast(world, &["alice", "bob", "carol"]);
            let id = room(world, ROOM, &["alice", "bob", "carol"]);
            let channel = format!("/api/v1/rooms/{id}/chatMessages");
            let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
            let chat = world.log_in(&alice, "alice").await?;
            let hers = alice.accept_invite(ROOM).await?;
            let listen = |g: &gitter_sim::World| (g.subscribers(&channel) == 1).then_some(());
            world.on_gitter("a subscription", listen).await?;
            let bobs_chat = world.log_in(&bob, "bob").await?;
            let his = bob.accept_invite(ROOM).await?;
            assert_ne!(hers, his, "a portal each");
            metric(world, "matrix_gitter_faye_connections{state=\"live\"}", |n| n > 1.5).await?;
            settled(world, &bob, &bobs_chat).await?;
            assert_eq!(world.gitter.subscribers(&channel), 1, "one subscription serves both");

            alice.send_text(&hers, "from Alice").await?;
            bob.wait_for_text(&his, "from Alice").await?;
            bob.send_text(&his, "from Bob").await?;
            alice.wait_for_text(&hers, "from Bob").await?;
            say(world, "carol", ROOM, "from Carol");
            alice.wait_for_text(&hers, "from Carol").await?;
            bob.wait_for_text(&his, "from Carol").await?;

            // The one who carries it leaves: the other goes on hearing everything.
            alice.send_text(&chat, "gpart rockets").await?;
            closed(&alice, &hers).await?;
            say(world, "carol", ROOM, "Alice has left");
            bob.wait_for_text(&his, "Alice has left").await?;
            world.on_gitter("a subscription", listen).await?;
            say(world, "carol", ROOM, "and still there");
            bob.wait_for_text(&his, "and still there").await?;
            let carols = texts_by(&bob, &his, &world.ghost("carol")).await?;
            assert_eq!(carols, ["from Carol", "Alice has left", "and still there"]);
            assert_eq!(texts_by(&bob, &his, &world.ghost("alice")).await?, ["from Alice"]);
            assert_eq!(texts_by(&bob, &his, &world.ghost("bob")).await?, [""; 0]);
            assert_eq!(texts_on_gitter(world, ROOM, "bob"), ["from Bob"]);
            settled(world, &alice, &chat).await
        })
        .await
}

#[tokio::test]
async fn two_people_on_one_gitter_account_see_each_others_words_once() -> Result<()> {
    world()
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            room(world, ROOM, &["alice", "bob"]);
            let (home, work) = (world.person("home").await?, world.person("work").await?);
            let home_chat = world.log_in(&home, "alice").await?;
            let at_home = home.accept_invite(ROOM).await?;
            let work_chat = world.log_in(&work, "alice").await?;
            let at_work = work.accept_invite(ROOM).await?;
            settled(world, &work, &work_chat).await?;

            home.send_text(&at_home, "from home").await?;
            work.wait_for_text(&at_work, "from home").await?;
            work.send_text(&at_work, "from work").await?;
            home.wait_for_text(&at_home, "from work").await?;
            world.gitter.post("alice", ROOM, "from Gitter itself");
            home.wait_for_text(&at_home, "from Gitter itself").await?;
            work.wait_for_text(&at_work, "from Gitter itself").await?;
            say(world, "bob", ROOM, "the end");
            home.wait_for_text(&at_home, "the end").await?;
            work.wait_for_text(&at_work, "the end").await?;

            let ghost = world.ghost("alice");
            let heard = texts_by(&home, &at_home, &ghost).await?;
            assert_eq!(heard, ["from work", "from Gitter itself"]);
            let heard = texts_by(&work, &at_work, &ghost).await?;
            assert_eq!(heard, ["from home", "from Gitter itself"]);
            let texts = texts_on_gitter(world, ROOM, "alice");
            assert_eq!(texts, ["from home", "from work", "from Gitter itself"]);

            // One logs out; the other notices nothing.
            home.send_text(&home_chat, "logout").await?;
            closed(&home, &at_home).await?;
            work.send_text(&at_work, "still here").await?;
            on_gitter(world, ROOM, "alice", "still here").await?;
            say(world, "bob", ROOM, "good");
            work.wait_for_text(&at_work, "good").await?;
            settled(world, &work, &work_chat).await
        })
        .await
}

#[tokio::test]
async fn a_stranger_in_a_portal_is_shown_out() -> Result<()> {
    world()
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            room(world, ROOM, &["alice", "bob"]);
            let (alice, mallory) = (world.person("alice").await?, world.person("mallory").await?);
            world.log_in(&alice, "alice").await?;
            let portal = alice.accept_invite(ROOM).await?;
            assert!(alice.invite(&portal, &mallory.id).await.is_err(), "only the bot may invite");

            // Somebody with the bridge's own rights does, and the stranger is quick.
            let url = format!("{}/_matrix/client/v3/rooms/{portal}/invite", world.synapse.url);
            let token = &world.bridge.config.registration.appservice_token;
            let invite = reqwest::Client::builder().build()?.post(url).bearer_auth(token);
            let invited = invite.json(&json!({ "user_id": mallory.id })).send().await?;
            assert!(invited.status().is_success(), "{}", invited.status());
            mallory.wait_for_invite(ROOM).await?;
            if mallory.join(&portal).await.is_ok() {
                let _ = mallory.send_text(&portal, "Let me in!").await;
            }
            closed(&mallory, &portal).await?;
            say(world, "bob", ROOM, "Who was that?");
            alice.wait_for_text(&portal, "Who was that?").await?;
            alice.send_text(&portal, "Nobody").await?;
            on_gitter(world, ROOM, "alice", "Nobody").await?;
            let all = world.gitter.messages(ROOM);
            let all: Vec<_> = all.iter().map(|message| message.text.as_str()).collect();
            assert_eq!(all, ["Who was that?", "Nobody"], "nothing of the stranger's");
            assert_eq!(messages_by(&alice, &portal, &world.ghost("bob")).await?.len(), 1);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_conversation_of_two_bridged_people_is_called_after_the_other_on_each_side() -> Result<()>
{
    world()
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
            let chat = world.log_in(&alice, "alice").await?;
            alice.send_text(&chat, "gjoin @bob").await?;
            let hers = alice.accept_invite("Bob (Gitter)").await?;
            let bobs_chat = world.log_in(&bob, "bob").await?;
            let his = bob.accept_invite("Alice (Gitter)").await?;
            alice.send_text(&hers, "from Alice").await?;
            bob.wait_for_text(&his, "from Alice").await?;

            // A start looks at everything, twice for who asks for the list.
            world.bridge.restart().await?;
            for (person, chat) in [(&alice, &chat), (&bob, &bobs_chat)] {
                world.ask_until(person, chat, "list", "Your rooms").await?;
                settled(world, person, chat).await?;
            }
            bob.send_text(&his, "from Bob").await?;
            alice.wait_for_text(&hers, "from Bob").await?;
            for (person, at, name) in [(&alice, &hers, "Bob"), (&bob, &his, "Alice")] {
                let events = person.history(at).await?;
                let names = events.iter().filter(|event| event.kind == "m.room.name");
                let names: Vec<_> = names.map(|event| event.content["name"].clone()).collect();
                assert_eq!(names, [format!("{name} (Gitter)")], "never called otherwise");
            }
            let status = world.ask(&alice, &chat, "why @bob").await?;
            assert!(status.body().contains("@bob"), "{}", status.body());
            Ok(())
        })
        .await
}

#[tokio::test]
async fn who_has_lost_their_login_and_then_the_room_hears_nothing_of_it_by_anothers_connection()
-> Result<()> {
    world()
        .story(async |world| {
            cast(world, &["alice", "bob", "carol"]);
            world.gitter.add_room(RoomSpec::private(ROOM));
            for member in ["alice", "bob", "carol"] {
                world.gitter.join(ROOM, member);
            }
            let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
            world.log_in(&alice, "alice").await?;
            let hers = alice.accept_invite(ROOM).await?;
            let bobs_chat = world.log_in(&bob, "bob").await?;
            let his = bob.accept_invite(ROOM).await?;
            say(world, "carol", ROOM, "for all");
            alice.wait_for_text(&hers, "for all").await?;
            bob.wait_for_text(&his, "for all").await?;

            world.gitter.revoke_tokens_of("bob");
            bob.send_text(&his, "am I heard?").await?;
            bob.wait_for_text(&bobs_chat, "Gitter no longer accepts your login").await?;
            world.gitter.leave(ROOM, "bob");
            say(world, "carol", ROOM, "not for Bob");
            alice.wait_for_text(&hers, "not for Bob").await?;

            let page = world.follow_login(&bob, &bobs_chat, "bob", Consent::Approve).await?;
            assert_eq!(page.status, 200, "{}", page.text());
            closed(&bob, &his).await?;
            let carols = texts_by(&bob, &his, &world.ghost("carol")).await?;
            assert_eq!(carols, ["for all"], "what was said without him");
            Ok(())
        })
        .await
}

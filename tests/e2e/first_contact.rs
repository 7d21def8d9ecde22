//! First contact: from “start chat” to the first portal.

use anyhow::Result;
use gitter_sim::RoomSpec;
use harness::Consent;

use crate::world;

#[tokio::test]
async fn who_starts_a_chat_with_the_bot_is_greeted_with_a_login_link() -> Result<()> {
    world()
        .story(async |world| {
            let alice = world.person("alice").await?;
            let chat = world.start_chat(&alice).await?;
            let link = alice.last_link_in(&chat).await?;
            assert!(link.starts_with(&world.bridge.login_url()), "{link}");
            let greeting = alice.notices_in(&chat);
            assert_eq!(greeting.len(), 1, "greeted once: {greeting:?}");
            let members = alice.look(|view| view.rooms[&chat].joined());
            assert_eq!(members.len(), 2, "nobody else: {members:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn who_denies_access_on_gitter_is_told_and_can_try_again() -> Result<()> {
    world()
        .story(async |world| {
            world.gitter.add_user("alice", "Alice A.");
            let alice = world.person("alice").await?;
            let chat = world.start_chat(&alice).await?;
            let page = world.follow_login(&alice, &chat, "alice", Consent::Deny).await?;
            assert!(page.status < 500, "a friendly page: {} {}", page.status, page.text());
            world.ask(&alice, &chat, "login").await?;
            let page = world.follow_login(&alice, &chat, "alice", Consent::Approve).await?;
            assert_eq!(page.status, 200, "{}", page.text());
            alice.wait_for_text(&chat, "@alice").await?;
            Ok(())
        })
        .await
}

#[tokio::test]
async fn who_logs_in_is_invited_to_a_portal_for_each_gitter_room() -> Result<()> {
    world()
        .story(async |world| {
            world.gitter.add_user("alice", "Alice A.");
            world.gitter.add_user("bob", "Bob B.");
            let topic = "Where we build rockets".to_owned();
            world.gitter.add_room(RoomSpec { topic, ..RoomSpec::public("acme/rockets") });
            for user in ["alice", "bob"] {
                world.gitter.join("acme/rockets", user);
            }
            let alice = world.person("alice").await?;
            world.log_in(&alice, "alice").await?;
            let portal = alice.accept_invite("acme/rockets (Gitter)").await?;
            let bob = world.ghost("bob");
            alice.wait_in(&portal, "bob's ghost", |room| room.has(&bob).then_some(())).await?;
            let (topic, name) = alice.look(|view| {
                let room = &view.rooms[&portal];
                (room.topic().map(str::to_owned), room.name_of(&bob))
            });
            assert_eq!(topic.as_deref(), Some("Where we build rockets"));
            assert_eq!(name, "Bob B.");
            Ok(())
        })
        .await
}

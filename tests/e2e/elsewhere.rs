//! What people do on Gitter itself: the rooms here follow.

use anyhow::Result;
use gitter_sim::RoomSpec;

use crate::scene::{cast, closed, is_only_in, on_gitter, room, say, settled, told};
use crate::world;

#[tokio::test]
async fn rooms_follow_what_is_done_on_gitter_itself() -> Result<()> {
    world()
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            for uri in ["acme/rockets", "acme/wine", "acme/doomed"] {
                let admins = vec!["bob".to_owned()];
                world.gitter.add_room(RoomSpec { admins, ..RoomSpec::public(uri) });
                world.gitter.join(uri, "alice");
            }
            room(world, "acme/tea", &["bob"]);
            let alice = world.person("alice").await?;
            let chat = world.log_in(&alice, "alice").await?;
            let rockets = alice.accept_invite("acme/rockets").await?;
            let wine = alice.accept_invite("acme/wine").await?;
            let doomed = alice.accept_invite("acme/doomed").await?;
            settled(world, &alice, &chat).await?;

            // Joined there: invited here. Left there: closed here. Joined again: another room.
            world.gitter.join("acme/tea", "alice");
            let tea = alice.accept_invite("acme/tea").await?;
            say(world, "bob", "acme/tea", "Milk?");
            alice.wait_for_text(&tea, "Milk?").await?;
            world.gitter.leave("acme/tea", "alice");
            closed(&alice, &tea).await?;
            alice.wait_for_text(&chat, "You are no longer in acme/tea on Gitter").await?;
            alice.wait_for_text(&chat, "`gjoin acme/tea` brings you back").await?;
            world.gitter.join("acme/tea", "alice");
            let tea = alice.accept_invite("acme/tea").await?;
            alice.send_text(&tea, "Yes, milk").await?;
            on_gitter(world, "acme/tea", "alice", "Yes, milk").await?;

            // Banned.
            world.gitter.ban("acme/wine", "alice");
            closed(&alice, &wine).await?;
            alice.wait_for_text(&chat, "or you were banned from it").await?;
            world
                .ask_until(&alice, &chat, "gjoin acme/wine", "does not let you into acme/wine")
                .await?;
            world.gitter.unban("acme/wine", "alice");
            alice.send_text(&chat, "gjoin acme/wine").await?;
            let wine = alice.accept_invite("acme/wine").await?;

            // Deleted.
            world.gitter.delete_room("acme/doomed");
            closed(&alice, &doomed).await?;
            alice.wait_for_text(&chat, "acme/doomed no longer exists on Gitter").await?;

            // Renamed, and another topic.
            world.gitter.rename_room("acme/rockets", "acme/spaceships");
            world.gitter.set_topic("acme/spaceships", "To the moon");
            let shown = |room: &harness::Room| {
                let so = room.name() == Some("acme/spaceships (Gitter)")
                    && room.topic() == Some("To the moon");
                so.then_some(())
            };
            alice.wait_in(&rockets, "the new name and topic", shown).await?;
            alice.send_text(&rockets, "New name, same people").await?;
            on_gitter(world, "acme/spaceships", "alice", "New name, same people").await?;
            settled(world, &alice, &chat).await?;
            is_only_in(&alice, &[&chat, &rockets, &wine, &tea])?;
            for once in ["acme/tea on Gitter, so", "acme/wine on Gitter, so", "no longer exists"] {
                assert_eq!(told(&alice, &chat, once), 1, "told once: {once}");
            }
            Ok(())
        })
        .await
}

//! Who leaves a portal stays out of it until they ask.

use anyhow::Result;

use crate::scene::{
    cast, closed, is_member, is_only_in, looks, on_gitter, room, say, settled, texts_by, told,
};
use crate::world;

#[tokio::test]
async fn who_leaves_a_portal_or_declines_it_is_not_invited_again_until_they_ask() -> Result<()> {
    world()
        .setting("reconcile_interval", "10s")
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            for uri in ["acme/rockets", "acme/tea", "acme/wine"] {
                room(world, uri, &["alice", "bob"]);
            }
            let alice = world.person("alice").await?;
            let chat = world.log_in(&alice, "alice").await?;
            let rockets = alice.accept_invite("acme/rockets").await?;
            let wine = alice.accept_invite("acme/wine").await?;
            let tea = alice.wait_for_invite("acme/tea").await?;
            alice.leave(&rockets).await?;
            alice.wait_for_text(&chat, "You left acme/rockets here").await?;
            alice.leave(&tea).await?;
            alice.wait_for_text(&chat, "acme/tea here").await?;
            settled(world, &alice, &chat).await?;

            // Neither talk over there, nor a look at everything, nor a restart brings them back.
            say(world, "bob", "acme/rockets", "Where is Alice?");
            world.gitter.clear_calls();
            world
                .on_gitter("a look at everything", |_| (looks(world, "alice") > 0).then_some(()))
                .await?;
            world.gitter.clear_calls();
            world.bridge.restart().await?;
            world
                .on_gitter("looks after the restart", |_| (looks(world, "alice") > 1).then_some(()))
                .await?;
            settled(world, &alice, &chat).await?;
            say(world, "bob", "acme/wine", "Still here?");
            alice.wait_for_text(&wine, "Still here?").await?;
            is_only_in(&alice, &[&chat, &wine])?;
            for uri in ["acme/rockets", "acme/tea"] {
                assert!(is_member(world, uri, "alice"), "still in {uri} on Gitter");
            }
            assert_eq!(told(&alice, &chat, "acme/rockets here"), 1, "told once");
            assert_eq!(told(&alice, &chat, "acme/tea here"), 1, "told once");

            // Asked for, they come back, and talk goes on.
            alice.send_text(&chat, "invite acme/tea").await?;
            let tea = alice.accept_invite("acme/tea").await?;
            alice.send_text(&chat, "gjoin acme/rockets").await?;
            let rockets = alice.accept_invite("acme/rockets").await?;
            say(world, "bob", "acme/rockets", "There she is!");
            alice.wait_for_text(&rockets, "There she is!").await?;
            let bobs = texts_by(&alice, &rockets, &world.ghost("bob")).await?;
            assert_eq!(bobs.last().map(String::as_str), Some("There she is!"));
            alice.send_text(&tea, "Cheers").await?;
            on_gitter(world, "acme/tea", "alice", "Cheers").await?;
            world.ask_until(&alice, &chat, "invite tea", "You are already in acme/tea").await?;

            // Leaving for good.
            world.ask_until(&alice, &chat, "gpart wine", "no longer in acme/wine").await?;
            closed(&alice, &wine).await?;
            assert!(!is_member(world, "acme/wine", "alice"));
            settled(world, &alice, &chat).await?;
            is_only_in(&alice, &[&chat, &rockets, &tea])
        })
        .await
}

//! Rooms that are renamed on Gitter: their id is what counts.

use anyhow::{Context, Result};
use harness::{Person, World};

use crate::scene::{
    alice_in, closed, is_member, is_only_in, on_gitter, say, settled, texts_by, told,
};
use crate::world;

const OLD: &str = "acme/rockets";
const NEW: &str = "acme/engines";

/// The portal is called so, and messages pass both ways.
async fn goes_on(world: &World, alice: &Person, portal: &str, uri: &str) -> Result<()> {
    let name = format!("{uri} (Gitter)");
    alice
        .wait_in(portal, &format!("the name {name}"), |room| {
            (room.name() == Some(name.as_str())).then_some(())
        })
        .await?;
    let gitter = world.gitter.find_room(uri).context("the room")?;
    let leads_there = |room: &harness::Room| {
        let info = room.state_content("m.bridge", &format!("im.gitter/{gitter}"))?;
        (info["channel"]["displayname"] == uri).then_some(())
    };
    alice.wait_in(portal, "where it leads to", leads_there).await?;
    say(world, "bob", uri, &format!("welcome to {uri}"));
    alice.wait_for_text(portal, &format!("welcome to {uri}")).await?;
    let words = format!("so {uri} it is");
    alice.send_text(portal, &words).await?;
    on_gitter(world, uri, "alice", &words).await
}

#[tokio::test]
async fn a_room_renamed_on_gitter_stays_the_same_room() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, chat, portal) = alice_in(world, OLD, &["alice", "bob"]).await?;
            say(world, "bob", OLD, "before");
            alice.wait_for_text(&portal, "before").await?;

            world.gitter.rename_room(OLD, NEW);
            goes_on(world, &alice, &portal, NEW).await?;
            world.ask_until(&alice, &chat, "list", "* acme/engines").await?;
            world.ask_until(&alice, &chat, &format!("gjoin {OLD}"), "it was renamed").await?;
            let there = world.ask(&alice, &chat, &format!("gjoin {NEW}")).await?;
            assert!(there.body().contains("already"), "{}", there.body());

            // Renamed while nobody listened.
            settled(world, &alice, &chat).await?;
            world.bridge.kill9()?;
            world.gitter.rename_room(NEW, "acme/boosters");
            say(world, "bob", "acme/boosters", "renamed again");
            world.bridge.start_again()?;
            goes_on(world, &alice, &portal, "acme/boosters").await?;
            let bobs = texts_by(&alice, &portal, &world.ghost("bob")).await?;
            assert_eq!(
                bobs,
                ["before", "welcome to acme/engines", "renamed again", "welcome to acme/boosters"],
            );
            is_only_in(&alice, &[&chat, &portal])?;
            assert_eq!(told(&alice, &chat, "no longer"), 0, "nobody has left anything");

            alice.send_text(&chat, "gpart boosters").await?;
            closed(&alice, &portal).await?;
            world
                .on_gitter("Alice gone", |_| {
                    (!is_member(world, "acme/boosters", "alice")).then_some(())
                })
                .await
        })
        .await
}

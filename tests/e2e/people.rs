//! People on Gitter: who comes, who goes, what they are called and what they look like.

use anyhow::Result;
use harness::{Person, Room, World};

use crate::{
    scene::{cast, room, say},
    world,
};

const ROOM: &str = "acme/rockets";

/// Alice in a portal.
async fn rockets(world: &World) -> Result<(Person, String)> {
    let alice = world.person("alice").await?;
    world.log_in(&alice, "alice").await?;
    let portal = alice.accept_invite(ROOM).await?;
    Ok((alice, portal))
}

/// Waits until the ghost of `name` is in the portal, or is not.
async fn is_in(
    alice: &Person,
    world: &World,
    portal: &str,
    name: &str,
    inside: bool,
) -> Result<()> {
    let ghost = world.ghost(name);
    let what = format!("{name} {}", if inside { "inside" } else { "outside" });
    alice.wait_in(portal, &what, |room| (room.has(&ghost) == inside).then_some(())).await
}

/// Waits until the ghosts of these people are called so.
async fn are_called(
    alice: &Person,
    world: &World,
    portal: &str,
    names: &[(&str, &str)],
) -> Result<()> {
    let called = |room: &Room| {
        let is = |(user, name): &(&str, &str)| room.name_of(&world.ghost(user)) == *name;
        names.iter().all(is).then_some(())
    };
    alice.wait_in(portal, &format!("{names:?}"), called).await
}

/// How often somebody's membership has changed in a room.
async fn changes(alice: &Person, portal: &str, user: &str) -> Result<Vec<String>> {
    let history = alice.history(portal).await?.into_iter();
    let theirs =
        history.filter(|e| e.kind == "m.room.member" && e.state_key.as_deref() == Some(user));
    Ok(theirs.map(|e| e.content["membership"].as_str().unwrap_or_default().to_owned()).collect())
}

#[tokio::test]
async fn who_joins_on_gitter_comes_and_who_leaves_goes() -> Result<()> {
    world()
        .story(async |world| {
            cast(world, &["alice", "bob", "carol", "dave"]);
            room(world, ROOM, &["alice", "bob", "dave"]);
            let (alice, portal) = rockets(world).await?;
            is_in(&alice, world, &portal, "bob", true).await?;
            world.gitter.join(ROOM, "carol");
            is_in(&alice, world, &portal, "carol", true).await?;
            world.gitter.leave(ROOM, "bob");
            is_in(&alice, world, &portal, "bob", false).await?;
            // Also who has just said something.
            say(world, "carol", ROOM, "I'm off");
            alice.wait_for_text(&portal, "I'm off").await?;
            world.gitter.leave(ROOM, "carol");
            is_in(&alice, world, &portal, "carol", false).await?;
            // And while nobody listens.
            world.bridge.kill9()?;
            world.gitter.leave(ROOM, "dave");
            world.gitter.join(ROOM, "bob");
            world.bridge.start_again()?;
            is_in(&alice, world, &portal, "dave", false).await?;
            is_in(&alice, world, &portal, "bob", true).await?;
            let bob = changes(&alice, &portal, &world.ghost("bob")).await?;
            assert_eq!(bob, ["invite", "join", "leave", "invite", "join"]);
            let carol = changes(&alice, &portal, &world.ghost("carol")).await?;
            assert_eq!(carol, ["invite", "join", "leave"]);
            // Who comes back comes with what they say.
            world.gitter.join(ROOM, "carol");
            say(world, "carol", ROOM, "here again");
            alice.wait_for_text(&portal, "here again").await?;
            assert!(alice.look(|view| view.rooms[&portal].has(&world.ghost("carol"))));
            Ok(())
        })
        .await
}

#[tokio::test]
async fn of_a_room_too_large_to_be_shown_those_leave_who_were_inside() -> Result<()> {
    world()
        .setting("portal_ghosts", "2")
        .story(async |world| {
            let crowd = ["alice", "bob", "carol", "dave", "erin", "frank"];
            cast(world, &crowd);
            room(world, ROOM, &crowd);
            let (alice, portal) = rockets(world).await?;
            for name in ["erin", "frank"] {
                say(world, name, ROOM, &format!("{name} was here"));
                alice.wait_for_text(&portal, &format!("{name} was here")).await?;
            }
            world.gitter.leave(ROOM, "erin");
            is_in(&alice, world, &portal, "erin", false).await?;
            assert!(alice.look(|view| view.rooms[&portal].has(&world.ghost("frank"))));
            let asked = world.gitter.count_calls("GET", "/users");
            // Of whom nobody sees anything nobody is asked.
            world.gitter.leave(ROOM, "carol");
            say(world, "frank", ROOM, "carol has left");
            alice.wait_for_text(&portal, "carol has left").await?;
            assert_eq!(world.gitter.count_calls("GET", "/users"), asked);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn names_and_pictures_follow_and_two_who_are_called_alike_are_told_apart() -> Result<()> {
    world()
        .story(async |world| {
            world.gitter.add_user("alice", "Alice A.");
            world.gitter.add_user("bob", "Bob");
            world.gitter.add_user("rob", "Rob");
            room(world, ROOM, &["alice", "bob", "rob"]);
            let (alice, portal) = rockets(world).await?;
            are_called(&alice, world, &portal, &[("bob", "Bob"), ("rob", "Rob")]).await?;
            world.gitter.rename_user("rob", "rob", "BOB");
            let apart = [("bob", "Bob (bob)"), ("rob", "BOB (rob)")];
            are_called(&alice, world, &portal, &apart).await?;
            // The third one changes nobody but himself.
            world.gitter.add_user("bobby", "bob");
            world.gitter.join(ROOM, "bobby");
            are_called(&alice, world, &portal, &[("bobby", "bob (bobby)")]).await?;
            are_called(&alice, world, &portal, &apart).await?;
            world.gitter.leave(ROOM, "bobby");
            is_in(&alice, world, &portal, "bobby", false).await?;
            world.gitter.rename_user("bobby", "bobby", "Barbara");
            world.gitter.rename_user("rob", "rob", "Robert");
            are_called(&alice, world, &portal, &[("rob", "Robert")]).await?;
            // Known by the same name, if not seen: nobody heard of Barbara.
            are_called(&alice, world, &portal, &[("bob", "Bob (bob)")]).await?;
            say(world, "bobby", ROOM, "call me Barbara");
            are_called(&alice, world, &portal, &[("bob", "Bob"), ("bobby", "Barbara")]).await?;

            let picture = |room: &Room| room.member(&world.ghost("bob"))?.avatar;
            let old = alice.wait_in(&portal, "a picture", picture).await?;
            let png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x08\0\0\0\x06\x08\x02\0\0\0";
            let url = world.gitter.add_file("face.png", "image/png", png);
            world.gitter.set_picture("bob", Some(&url));
            let new = |room: &Room| picture(room).filter(|new| *new != old);
            alice.wait_in(&portal, "another picture", new).await?;
            world.gitter.set_picture("bob", None);
            let none = |room: &Room| picture(room).is_none().then_some(());
            alice.wait_in(&portal, "no picture", none).await
        })
        .await
}

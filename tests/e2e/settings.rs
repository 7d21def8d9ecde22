//! What an admin may choose: room versions, how many portals, how many ghosts.

use anyhow::Result;
use harness::WorldConfig;

use crate::scene::{alice_in, cast, closed, is_only_in, logged, on_gitter, room, say, settled};
use crate::world;

/// A portal's whole life in rooms of one version.
async fn a_portals_life(config: WorldConfig, version: &str) -> Result<()> {
    config
        .story(async |world| {
            let (alice, chat, portal) = alice_in(world, "acme/rockets", &["alice", "bob"]).await?;
            let (is, federated) = alice.look(|view| {
                let room = &view.rooms[&portal];
                let create = room.state_content("m.room.create", "").cloned().unwrap_or_default();
                (room.version().to_owned(), create["m.federate"].clone())
            });
            assert_eq!(is, version);
            assert_eq!(federated, false);
            alice.send_text(&portal, "Hello").await?;
            on_gitter(world, "acme/rockets", "alice", "Hello").await?;
            say(world, "bob", "acme/rockets", "Hi");
            alice.wait_for_text(&portal, "Hi").await?;
            world.gitter.set_topic("acme/rockets", "Bigger ones");
            alice
                .wait_in(&portal, "the topic", |room| {
                    (room.topic() == Some("Bigger ones")).then_some(())
                })
                .await?;
            world.ask_until(&alice, &chat, "gpart rockets", "no longer in acme/rockets").await?;
            closed(&alice, &portal).await?;
            settled(world, &alice, &chat).await?;
            is_only_in(&alice, &[&chat])
        })
        .await
}

#[tokio::test]
async fn portals_live_in_rooms_of_version_11() -> Result<()> {
    let config = world().own_synapse(|synapse| synapse.room_version = Some("11".to_owned()));
    a_portals_life(config, "11").await
}

#[tokio::test]
async fn portals_live_in_rooms_of_version_12() -> Result<()> {
    let config = world().own_synapse(|synapse| synapse.room_version = Some("12".to_owned()));
    a_portals_life(config, "12").await
}

#[tokio::test]
async fn a_login_opens_the_liveliest_rooms_and_names_the_others() -> Result<()> {
    world()
        .setting("open_portals_on_login", "2")
        .setting("portal_ghosts", "0")
        .setting("history_messages", "0")
        .story(async |world| {
            cast(world, &["alice", "bob", "carol"]);
            for uri in ["acme/a", "acme/b", "acme/c", "acme/d"] {
                room(world, uri, &["alice", "bob", "carol"]);
            }
            world.gitter.advance_clock(10);
            for uri in ["acme/b", "acme/d"] {
                world.gitter.post("alice", uri, "I was here lately");
            }
            // A portal begins with the second in which it was asked for: what was said before must be in another one.
            let said = world.gitter.clock() / 1000;
            let mut look = tokio::time::interval(std::time::Duration::from_millis(50));
            while world.gitter.clock() / 1000 == said {
                look.tick().await;
            }
            let alice = world.person("alice").await?;
            let chat = world.log_in(&alice, "alice").await?;
            let lively = alice.accept_invite("acme/b").await?;
            let other = alice.accept_invite("acme/d").await?;
            let rest = alice.wait_for_text(&chat, "the 2 liveliest of your rooms").await?;
            assert!(rest.body().contains("• acme/a\n• acme/c\n"), "{}", rest.body());
            settled(world, &alice, &chat).await?;
            is_only_in(&alice, &[&chat, &lively, &other])?;

            // Without ghosts beforehand: nobody but who speaks.
            let who = |room: &str| alice.look(|view| view.rooms[room].joined());
            let two = [alice.id.clone(), world.bridge.bot()];
            assert_eq!(who(&lively), two.clone().into());
            say(world, "bob", "acme/b", "Hello");
            alice.wait_for_text(&lively, "Hello").await?;
            let [a, b] = two;
            assert_eq!(who(&lively), [a, b, world.ghost("bob")].into());

            alice.send_text(&chat, "invite a").await?;
            let asked = alice.accept_invite("acme/a").await?;
            settled(world, &alice, &chat).await?;
            is_only_in(&alice, &[&chat, &lively, &other, &asked])
        })
        .await
}

#[tokio::test]
async fn a_portal_gets_as_many_ghosts_as_allowed_speakers_first() -> Result<()> {
    world()
        .setting("portal_ghosts", "2")
        .story(async |world| {
            let people = ["bob", "carol", "dave", "erin", "frank"];
            cast(world, &["alice"]);
            cast(world, &people);
            room(world, "acme/rockets", &["alice"]);
            for name in people {
                world.gitter.join("acme/rockets", name);
            }
            for name in ["erin", "dave"] {
                world.gitter.post(name, "acme/rockets", "Long before");
            }
            let alice = world.person("alice").await?;
            let chat = world.log_in(&alice, "alice").await?;
            let portal = alice.accept_invite("acme/rockets").await?;
            let (dave, erin, frank) =
                (world.ghost("dave"), world.ghost("erin"), world.ghost("frank"));
            let both = |room: &harness::Room| (room.has(&dave) && room.has(&erin)).then_some(());
            alice.wait_in(&portal, "who spoke before", both).await?;
            settled(world, &alice, &chat).await?;
            say(world, "frank", "acme/rockets", "Me too");
            alice.wait_for_text(&portal, "Me too").await?;
            let joined = alice.look(|view| view.rooms[&portal].joined());
            let expected = [alice.id.clone(), world.bridge.bot(), dave, erin, frank];
            assert_eq!(joined, expected.into());
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_start_names_each_address_of_gitter_that_leads_nowhere() -> Result<()> {
    world()
        .setting("gitter_faye_url", "ws://127.0.0.1:9/bayeux")
        .setting("gitter_oauth_url", "http://127.0.0.1:9/login/oauth/")
        .story(async |world| {
            logged(world, "or correct gitter_faye_url").await?;
            logged(world, "or correct gitter_oauth_url").await?;
            assert!(!world.bridge.log_tail(10_000).contains("or correct gitter_api_url"));
            Ok(())
        })
        .await
}

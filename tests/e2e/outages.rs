//! Servers that go away and come back: nothing is lost, nothing comes twice, everything stays in order.

use std::time::Duration;

use anyhow::Result;

use crate::scene::{
    alice_in, is_only_in, logged, metric, on_gitter, room, say, settled, texts_by, texts_on_gitter,
};
use crate::world;

const ROOM: &str = "acme/rockets";

#[tokio::test]
async fn what_is_said_while_gitter_or_the_bridge_is_away_arrives_later_once_and_in_order()
-> Result<()> {
    world()
        .story(async |world| {
            let (alice, chat, portal) = alice_in(world, ROOM, &["alice", "bob"]).await?;
            alice.send_text(&portal, "one").await?;
            on_gitter(world, ROOM, "alice", "one").await?;

            // Gitter is away; the bridge says so and goes on trying.
            world.stop_gitter().await;
            alice.send_text(&portal, "two").await?;
            alice.send_text(&portal, "three").await?;
            logged(world, "message waits for gitter").await?;
            metric(world, "matrix_gitter_destination_away{destination=\"gitter\"}", |away| {
                away > 0.5
            })
            .await?;
            let status =
                world.ask_until(&alice, &chat, "status", "Gitter has not answered for").await?;
            assert!(status.body().contains("send 2 messages to Gitter"), "{}", status.body());
            let list = world.ask_until(&alice, &chat, "list", "Gitter does not answer").await?;
            assert!(list.body().contains("the rooms I saw last"), "{}", list.body());
            world.gitter.post("bob", ROOM, "said while nobody listened");
            world.start_gitter().await?;
            on_gitter(world, ROOM, "alice", "three").await?;
            metric(world, "matrix_gitter_destination_away{destination=\"gitter\"}", |away| {
                away < 0.5
            })
            .await?;
            alice.wait_for_text(&portal, "said while nobody listened").await?;

            // The bridge is away while both sides write; it stops in good time.
            let before = tokio::time::Instant::now();
            let ended = world.bridge.terminate().await?;
            assert!(ended.success(), "SIGTERM is a normal end: {ended}");
            assert!(before.elapsed() < Duration::from_secs(20), "within shutdown_timeout");
            for n in 1..=5 {
                alice.send_text(&portal, &format!("alice {n}")).await?;
                say(world, "bob", ROOM, &format!("bob {n}"));
            }
            world.bridge.start_again()?;
            world.bridge.wait_ready().await?;
            on_gitter(world, ROOM, "alice", "alice 5").await?;
            alice.wait_for_text(&portal, "bob 5").await?;

            // Everything is as if nothing had happened, also after yet another restart.
            world.bridge.restart().await?;
            alice.send_text(&portal, "the end").await?;
            on_gitter(world, ROOM, "alice", "the end").await?;
            say(world, "bob", ROOM, "the end");
            alice.wait_for_text(&portal, "the end").await?;
            let texts = texts_on_gitter(world, ROOM, "alice");
            assert_eq!(
                texts,
                [
                    "one", "two", "three", "alice 1", "alice 2", "alice 3", "alice 4", "alice 5",
                    "the end"
                ]
            );
            let bobs = texts_by(&alice, &portal, &world.ghost("bob")).await?;
            assert_eq!(
                bobs,
                [
                    "said while nobody listened",
                    "bob 1",
                    "bob 2",
                    "bob 3",
                    "bob 4",
                    "bob 5",
                    "the end"
                ]
            );
            settled(world, &alice, &chat).await?;
            is_only_in(&alice, &[&chat, &portal])
        })
        .await
}

#[tokio::test]
async fn without_live_events_rooms_are_read_by_turns_and_nothing_is_missed() -> Result<()> {
    let nobody = harness::free_port()?;
    world()
        .setting("gitter_faye_url", &format!("ws://127.0.0.1:{nobody}/bayeux"))
        .story(async |world| {
            let (alice, chat, portal) = alice_in(world, ROOM, &["alice", "bob"]).await?;
            logged(world, "no live connection to gitter: reading by turns").await?;
            say(world, "bob", ROOM, "first");
            say(world, "bob", ROOM, "second");
            alice.send_text(&portal, "third").await?;
            on_gitter(world, ROOM, "alice", "third").await?;
            alice.wait_for_text(&portal, "second").await?;
            let bobs = texts_by(&alice, &portal, &world.ghost("bob")).await?;
            assert_eq!(bobs, ["first", "second"]);
            assert_eq!(texts_on_gitter(world, ROOM, "alice"), ["third"]);
            let own = texts_by(&alice, &portal, &world.ghost("alice")).await?;
            assert!(own.is_empty(), "read back by polling, and not said again: {own:?}");
            // What is done elsewhere is seen too.
            room(world, "acme/tea", &["alice"]);
            alice.wait_for_invite("acme/tea").await?;
            settled(world, &alice, &chat).await
        })
        .await
}

#[tokio::test]
async fn a_restarted_homeserver_gets_everything_that_waited() -> Result<()> {
    world()
        .own_synapse(|_| {})
        .story(async |world| {
            let (alice, chat, portal) = alice_in(world, ROOM, &["alice", "bob", "carol"]).await?;
            say(world, "bob", ROOM, "before");
            alice.wait_for_text(&portal, "before").await?;

            world.own_synapse()?.stop().await?;
            for n in 1..=3 {
                say(world, "bob", ROOM, &format!("bob {n}"));
                say(world, "carol", ROOM, &format!("carol {n}"));
            }
            logged(world, "messages from gitter wait").await?;
            logged(world, "away: its work waits").await?;
            world.own_synapse()?.restart().await?;
            alice.wait_for_text(&portal, "carol 3").await?;
            // The way back is open at once, too: the homeserver was asked to look.
            metric(world, "matrix_gitter_outages_total{destination=\"homeserver\"}", |n| n > 0.5)
                .await?;
            alice.send_text(&portal, "after").await?;
            on_gitter(world, ROOM, "alice", "after").await?;
            say(world, "bob", ROOM, "the end");
            alice.wait_for_text(&portal, "the end").await?;
            let bobs = texts_by(&alice, &portal, &world.ghost("bob")).await?;
            assert_eq!(bobs, ["before", "bob 1", "bob 2", "bob 3", "the end"]);
            let carols = texts_by(&alice, &portal, &world.ghost("carol")).await?;
            assert_eq!(carols, ["carol 1", "carol 2", "carol 3"]);
            assert_eq!(texts_on_gitter(world, ROOM, "alice"), ["after"]);
            settled(world, &alice, &chat).await
        })
        .await
}

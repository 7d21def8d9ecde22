//! What somebody with power changes of a portal, the bridge puts back.

use anyhow::{Context as _, Result};
use harness::{Person, World};
use reqwest::Method;
use serde_json::{Value, json};

use crate::scene::{cast, heard, room, settled};
use crate::world;

const LEVELS: &str = "m.room.power_levels";

/// The levels of a portal as an admin of the homeserver may change them: in the bot's name. The event and its content.
async fn empower(world: &World, portal: &str, who: &Person, level: u8) -> Result<(String, Value)> {
    let path = ["v3", "rooms", portal, "state", LEVELS, ""];
    let mut levels = world.as_bot(Method::GET, &path, None).await?;
    levels["users"][&who.id] = level.into();
    let set = world.as_bot(Method::PUT, &path, Some(&levels)).await?;
    Ok((set["event_id"].as_str().context("an event")?.to_owned(), levels))
}

/// Whether this is the content of before. A homeserver that makes a room may say the same in another way besides.
fn says(now: &Value, before: &Value) -> bool {
    let mut fields = now.as_object().into_iter().flatten();
    fields.all(|(key, value)| before.get(key) == Some(value))
}

/// Waits until the content is as it was before that event.
async fn put_back(
    alice: &Person,
    portal: &str,
    (kind, event): (&str, &str),
    content: &Value,
) -> Result<()> {
    let again = |room: &harness::Room| {
        let at = room.timeline.iter().position(|e| e.id == event)?;
        let mut later = room.timeline[at + 1..].iter().filter(|e| e.kind == kind);
        later.any(|e| says(&e.content, content)).then_some(())
    };
    alice.wait_in(portal, &format!("{kind} put back"), again).await
}

#[tokio::test]
async fn what_is_changed_of_a_portal_is_put_back() -> Result<()> {
    world()
        .own_synapse(|synapse| synapse.room_version = Some("11".to_owned()))
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            room(world, "acme/rockets", &["alice", "bob"]);
            world.gitter.set_topic("acme/rockets", "Big ones");
            let alice = world.person("alice").await?;
            let chat = world.log_in(&alice, "alice").await?;
            let portal = alice.accept_invite("acme/rockets").await?;
            settled(world, &alice, &chat).await?;
            let state = |kind: &str| {
                alice
                    .look(|v| v.rooms[&portal].state_content(kind, "").cloned())
                    .unwrap_or_default()
            };

            // All of it is there from the beginning.
            let gitter = world.gitter.find_room("acme/rockets").context("the room")?;
            let avatar = state("m.room.avatar");
            assert!(
                avatar["url"].as_str().is_some_and(|url| url.starts_with("mxc://")),
                "{avatar}"
            );
            for kind in ["m.bridge", "uk.half-shot.bridge"] {
                let info = alice.look(|view| {
                    view.rooms[&portal].state_content(kind, &format!("im.gitter/{gitter}")).cloned()
                });
                let info = info.with_context(|| format!("no {kind}"))?;
                assert_eq!(info["bridgebot"], world.bridge.bot());
                assert_eq!(info["protocol"]["id"], "gitter");
                assert_eq!(info["channel"]["displayname"], "acme/rockets");
                assert_eq!(info["channel"]["avatar_url"], avatar["url"]);
            }

            let ours = state(LEVELS);
            let (given, _) = empower(world, &portal, &alice, 50).await?;
            put_back(&alice, &portal, (LEVELS, &given), &ours).await?;

            // Nobody can take what is as much as the bot's own; everything else is put back all the same.
            let (_, levels) = empower(world, &portal, &alice, 100).await?;
            let mut open = levels.clone();
            open["invite"] = 0.into();
            let changes = [
                ("m.room.name", json!({"name": "Mine"}), state("m.room.name")),
                ("m.room.topic", json!({"topic": "And mine"}), state("m.room.topic")),
                ("m.room.avatar", json!({"url": "mxc://localhost/other"}), avatar),
                ("m.room.join_rules", json!({"join_rule": "public"}), state("m.room.join_rules")),
                (
                    "m.room.history_visibility",
                    json!({"history_visibility": "world_readable"}),
                    state("m.room.history_visibility"),
                ),
                (LEVELS, open, levels),
            ];
            for (kind, change, before) in changes {
                let event = alice.set_state(&portal, kind, "", &change).await?;
                put_back(&alice, &portal, (kind, &event), &before).await?;
            }

            // And it stays so: the bridge does not put back what it put back.
            let events =
                |room: &harness::Room| room.timeline.iter().filter(|e| !e.is_message()).count();
            settled(world, &alice, &chat).await?;
            let before = alice.look(|view| events(&view.rooms[&portal]));
            heard(world, &alice, &chat).await?;
            assert_eq!(alice.look(|view| events(&view.rooms[&portal])), before);
            Ok(())
        })
        .await
}

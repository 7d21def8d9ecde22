//! The bridge is killed, again and again, at any moment, and starts again on what is on its disk.
//!
//! `STORY_KILLS=100` kills more often (30 times by default), `STORY_SEED=7` tells the story of that seed alone. The seed
//! decides what is done and when; how it meets what the bridge is just doing is up to the machine.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, Write as _};

use anyhow::{Context, Result, bail, ensure};
use gitter_sim::{Fault, Matcher, RoomSpec};
use harness::storm::Storm;
use harness::{BotEyes, Browser, Consent, Daemon, Person, World, titled, until};

use crate::world;

const KILLS: u32 = 30;
/// More in one world would only make its story longer.
const KILLS_A_WORLD: u32 = 10;

#[tokio::test]
async fn a_bridge_killed_at_random_loses_and_doubles_nothing() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let kills: u32 = number("STORY_KILLS").unwrap_or(KILLS);
    let seeds: Vec<u32> = match number("STORY_SEED") {
        Some(seed) => vec![seed],
        None => (1..=kills.div_ceil(KILLS_A_WORLD)).collect(),
    };
    for seed in seeds {
        world()
            .setting("gitter_requests_per_minute", "100000")
            .setting("history_messages", "0")
            .gitter(|gitter| gitter.rate_limit = Some(100_000))
            .story(async |world| {
                let kills = kills.min(KILLS_A_WORLD);
                let storm =
                    Storm { seed: seed.into(), kills, hurts: 0, recovery: false, disk: None };
                let report =
                    storm.rage(world).await.with_context(|| format!("STORY_SEED={seed}"))?;
                let complaints = report.complaints.join("\n");
                ensure!(report.is_clean(), "STORY_SEED={seed}: {complaints}");
                // Past the capture of tests' output: the seeds belong to what a good run shows, too.
                let (at_rest, (here, there)) = (report.converged, report.written);
                writeln!(
                    io::stderr(),
                    "kills, seed {seed}: {kills} kills, {here} messages on Matrix, {there} on Gitter, none lost or doubled, \
                     at rest {at_rest:.1?} after the last"
                )?;
                Ok(())
            })
            .await?;
    }
    Ok(())
}

/// A person in the portal of the room `acme/rockets`, where dave is too.
async fn in_a_portal(world: &World) -> Result<(Person, String, String)> {
    for user in ["alice", "dave"] {
        world.gitter.add_user(user, user);
    }
    world.gitter.add_room(RoomSpec::public("acme/rockets"));
    for user in ["alice", "dave"] {
        world.gitter.join("acme/rockets", user);
    }
    let alice = world.person("alice").await?;
    let chat = world.log_in(&alice, "alice").await?;
    let portal = alice.accept_invite("acme/rockets (Gitter)").await?;
    Ok((alice, chat, portal))
}

fn reborn(bridge: &mut Daemon) -> Result<()> {
    bridge.kill9()?;
    bridge.start_again()
}

#[tokio::test]
async fn a_message_whose_answer_the_bridge_did_not_live_to_see_is_on_gitter_once() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, _, portal) = in_a_portal(world).await?;
            let long = format!("{}{}", "one ".repeat(1_000), "two ".repeat(900));
            let mut said = Vec::new();
            for (number, text) in ["first", long.as_str(), "third"].into_iter().enumerate() {
                world.gitter.fail_next(
                    1,
                    Matcher::new("POST", "chatMessages"),
                    Fault::HangAfterEffect,
                );
                let before = world.gitter.messages("acme/rockets").len();
                alice.send_text(&portal, text).await?;
                world
                    .on_gitter("the message", |gitter| {
                        (gitter.messages("acme/rockets").len() > before).then_some(())
                    })
                    .await?;
                reborn(&mut world.bridge)?;
                let next = format!("after {number}");
                alice.send_text(&portal, &next).await?;
                world
                    .on_gitter(&next, |gitter| {
                        gitter.messages("acme/rockets").iter().any(|m| m.text == next).then_some(())
                    })
                    .await?;
                said.extend([text.trim().to_owned(), next]);
            }
            let there = world.gitter.messages("acme/rockets");
            let there: Vec<_> = there.iter().map(|m| m.text.as_str()).collect();
            let squeezed = |text: &str| text.split_whitespace().collect::<String>();
            assert_eq!(squeezed(&there.concat()), squeezed(&said.concat()));
            world.gitter.post("dave", "acme/rockets", "done");
            alice.wait_for_text(&portal, "done").await?;
            let history = alice.history(&portal).await?;
            let others = history.iter().filter(|e| e.is_message() && e.sender != alice.id);
            let others: Vec<_> = others.map(|e| e.body().to_owned()).collect();
            assert_eq!(others, ["done"], "her own words don't come back to her");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_message_from_gitter_is_shown_once_though_the_bridge_dies_on_sending_it() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, _, portal) = in_a_portal(world).await?;
            let mut said = Vec::new();
            for number in 0..4 {
                for part in ["a", "b", "c"] {
                    let text = format!("{number}{part}");
                    world.gitter.post("dave", "acme/rockets", &text);
                    said.push(text);
                }
                // Seen by alice means sent, and perhaps not linked yet.
                alice
                    .wait_for_text(&portal, &format!("{number}{}", ["a", "b"][number % 2]))
                    .await?;
                reborn(&mut world.bridge)?;
            }
            world.gitter.post("dave", "acme/rockets", "done");
            said.push("done".to_owned());
            alice.wait_for_text(&portal, "done").await?;
            let history = alice.history(&portal).await?;
            let others = history.iter().filter(|e| e.is_message() && e.sender != alice.id);
            let others: Vec<_> = others.map(|e| e.body().to_owned()).collect();
            assert_eq!(others, said);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_login_that_the_bridge_dies_in_can_be_made_again() -> Result<()> {
    world()
        .story(async |world| {
            for user in ["alice", "dave"] {
                world.gitter.add_user(user, user);
            }
            world.gitter.add_room(RoomSpec::public("acme/rockets"));
            for user in ["alice", "dave"] {
                world.gitter.join("acme/rockets", user);
            }
            let eyes = BotEyes::of(world)?;
            let alice = world.person("alice").await?;
            let chat = world.start_chat(&alice).await?;
            for (method, path) in [("POST", "/login/oauth/token"), ("GET", "/v1/user")] {
                world.gitter.fail_next(1, Matcher::new(method, path), Fault::HangAfterEffect);
                let calls = world.gitter.count_calls(method, path);
                let link = alice.last_link_in(&chat).await?;
                let mut browser = Browser::new()?;
                let page = browser.log_in(&link, "alice", Consent::Approve);
                let hangs = world.on_gitter("the call of the callback", |gitter| {
                    (gitter.count_calls(method, path) > calls).then_some(())
                });
                tokio::select! {
                    page = page => bail!("the login ended: {page:?}"),
                    hangs = hangs => hangs?,
                }
                reborn(&mut world.bridge)?;
                world.bridge.wait_ready().await?;
                world.ask(&alice, &chat, "login").await?;
            }
            let page = world.follow_login(&alice, &chat, "alice", Consent::Approve).await?;
            assert_eq!(page.status, 200, "{}", page.text());
            let portal = alice.accept_invite("acme/rockets (Gitter)").await?;
            world.gitter.post("dave", "acme/rockets", "hello");
            alice.wait_for_text(&portal, "hello").await?;
            assert_eq!(
                eyes.rooms().await?.into_keys().collect::<BTreeSet<_>>(),
                [chat, portal].into()
            );
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_logout_that_the_bridge_dies_in_is_finished_and_answered_once() -> Result<()> {
    world()
        .story(async |world| {
            let eyes = BotEyes::of(world)?;
            world.gitter.add_user("alice", "alice");
            let rooms: Vec<String> = (0..4).map(|n| format!("acme/room-{n}")).collect();
            for room in &rooms {
                world.gitter.add_room(RoomSpec::public(room));
                world.gitter.join(room, "alice");
                for n in 0..4 {
                    let user = format!("user{n}");
                    world.gitter.add_user(&user, &user);
                    world.gitter.join(room, &user);
                }
            }
            let alice = world.person("alice").await?;
            let chat = world.log_in(&alice, "alice").await?;
            for room in &rooms {
                let portal = alice.accept_invite(&titled(room)).await?;
                alice
                    .wait_in(&portal, "the ghosts", |room| (room.joined().len() == 6).then_some(()))
                    .await?;
            }
            let asked = alice.send_text(&chat, "logout").await?;
            let seen = RefCell::new(eyes.rooms().await?.len());
            assert_eq!(*seen.borrow(), 5);
            // Once when she is out of a room, then whenever the bot is out of another one.
            alice
                .wait_for("the first portal to close", |view| {
                    (view.joined().count() < 5).then_some(())
                })
                .await?;
            reborn(&mut world.bridge)?;
            until("all portals are gone", async || {
                let left = eyes.rooms().await?.len();
                if left < *seen.borrow() {
                    *seen.borrow_mut() = left;
                    reborn(&mut world.bridge)?;
                }
                ensure!(left == 1, "{left} rooms are left");
                Ok(())
            })
            .await?;
            alice.wait_for_text(&chat, "You are logged out").await?;
            world.bridge.wait_ready().await?;
            world.ask(&alice, &chat, "help").await?;
            let history = alice.history(&chat).await?;
            let start = history.iter().position(|event| event.id == asked).context("her word")?;
            let answers: Vec<_> = history[start + 1..]
                .iter()
                .filter(|event| event.is_message() && event.sender != alice.id)
                .map(|event| event.body().to_owned())
                .collect();
            assert_eq!(
                answers.len(),
                3,
                "one that it begins, one that it is done, help: {answers:?}"
            );
            assert_eq!(alice.look(|view| view.joined().count()), 1);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_portal_is_made_once_though_the_bridge_dies_on_making_it() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, chat, portal) = in_a_portal(world).await?;
            let eyes = BotEyes::of(world)?;
            let mut wanted: BTreeSet<String> = [chat.clone(), portal].into();
            for number in 0..4 {
                let room = format!("acme/new-{number}");
                world.gitter.add_room(RoomSpec::public(&room));
                alice.send_text(&chat, &format!("gjoin {room}")).await?;
                // The bot is in the new room as soon as there is one; the bridge may not know yet.
                let before = wanted.len();
                until("the new room", async || {
                    ensure!(eyes.count().await? > before, "not there");
                    Ok(())
                })
                .await?;
                reborn(&mut world.bridge)?;
                wanted.insert(alice.accept_invite(&titled(&room)).await?);
            }
            until("there is one room for each portal", async || {
                let rooms: BTreeSet<String> = eyes.rooms().await?.into_keys().collect();
                ensure!(rooms == wanted, "the bot is in {rooms:?} and should be in {wanted:?}");
                Ok(())
            })
            .await?;
            assert_eq!(alice.look(|view| view.rooms.len()), wanted.len(), "no other was seen");
            Ok(())
        })
        .await
}

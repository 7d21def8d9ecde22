//! Where nothing has changed, nothing is done; and what one message costs.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use gitter_sim::RoomSpec;
use harness::{BotEyes, Daemon, Event, Person, World, patience};
use tokio::time::{Instant, interval};

use crate::world;

const ROOMS: [&str; 3] = ["acme/rockets", "acme/parts", "acme/lunch"];
const OTHERS: [&str; 4] = ["bob", "dave", "erin", "frank"];

/// Somebody in the portals of [`ROOMS`], where all ghosts are, too, and everybody has spoken.
async fn settled(world: &World) -> Result<(Person, BTreeMap<&'static str, String>)> {
    for user in ["alice"].iter().chain(&OTHERS) {
        world.gitter.add_user(user, user);
    }
    for room in ROOMS {
        world.gitter.add_room(RoomSpec::public(room));
        for user in ["alice"].iter().chain(&OTHERS) {
            world.gitter.join(room, user);
        }
    }
    let alice = world.person("alice").await?;
    world.log_in(&alice, "alice").await?;
    let mut portals = BTreeMap::new();
    for room in ROOMS {
        let portal = alice.accept_invite(&format!("{room} (Gitter)")).await?;
        let all_in = OTHERS.len() + 2;
        alice
            .wait_in(&portal, "all ghosts", |room| (room.joined().len() == all_in).then_some(()))
            .await?;
        world.gitter.post("bob", room, "first");
        alice.wait_for_text(&portal, "first").await?;
        alice.send_text(&portal, "second").await?;
        let there = |gitter: &gitter_sim::World| gitter.messages(room).len() == 2;
        world.on_gitter("what she said", |gitter| there(gitter).then_some(())).await?;
        portals.insert(room, portal);
    }
    // What a start owes is not what a message costs.
    let deadline = Instant::now() + patience();
    let mut look = interval(Duration::from_millis(200));
    while !world.bridge.log_tail(1000).contains("rooms read once more") {
        look.tick().await;
        ensure!(Instant::now() < deadline, "the start never ends");
    }
    Ok((alice, portals))
}

/// What the bridge has spent since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spent {
    commits: u64,
    homeserver: u64,
}

impl Spent {
    /// With the number of portals for which a write is still to come: what was sent there is not settled.
    async fn by(bridge: &Daemon) -> Result<(Self, u64)> {
        let metrics = bridge.metrics().await?;
        let sum = |name: &str, label: &str| {
            let these =
                metrics.iter().filter(|(key, _)| key.starts_with(name) && key.contains(label));
            these.map(|(_, value)| *value).sum::<f64>()
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters")]
        let whole = |value: f64| value as u64;
        let spent = Self {
            commits: whole(sum("matrix_gitter_store_commits_total", "")),
            homeserver: whole(sum("matrix_gitter_http_requests_total", "\"homeserver\"")),
        };
        Ok((spent, whole(sum("matrix_gitter_queue_depth", "\"confirm\""))))
    }

    fn since(self, before: Self) -> Self {
        Self {
            commits: self.commits - before.commits,
            homeserver: self.homeserver - before.homeserver,
        }
    }
}

/// Waits until the bridge has spent nothing for two seconds, and has settled what became of all that it sent.
async fn at_rest(world: &World) -> Result<Spent> {
    let deadline = Instant::now() + patience();
    let mut look = interval(Duration::from_millis(200));
    let ((mut last, _), mut same) = (Spent::by(&world.bridge).await?, 0);
    let mut calls = world.gitter.call_count();
    while same < 10 {
        look.tick().await;
        let (spent, unsettled) = Spent::by(&world.bridge).await?;
        let now = (spent, world.gitter.call_count());
        same = if now == (last, calls) && unsettled == 0 { same + 1 } else { 0 };
        (last, calls) = now;
        ensure!(Instant::now() < deadline, "never at rest");
    }
    Ok(last)
}

async fn histories(eyes: &BotEyes) -> Result<BTreeMap<String, Vec<Event>>> {
    let mut histories = BTreeMap::new();
    for room in eyes.rooms().await?.into_keys() {
        let history = eyes.history(&room).await?;
        histories.insert(room, history);
    }
    Ok(histories)
}

#[tokio::test]
async fn a_resync_with_nothing_to_do_writes_nothing_and_changes_nothing() -> Result<()> {
    world()
        .setting("reconcile_interval", "10s")
        .story(async |world| {
            let (alice, portals) = settled(world).await?;
            let eyes = BotEyes::of(world)?;
            // A resync asks once for the account's rooms; the first one after the last change is still allowed to settle.
            let looks = |gitter: &gitter_sim::World| {
                let calls = gitter.calls();
                calls.iter().filter(|call| call.route.ends_with("/rooms")).count()
            };
            at_rest(world).await?;
            world.gitter.clear_calls();
            world.on_gitter("a resync", |gitter| (looks(gitter) > 0).then_some(())).await?;
            let before = at_rest(world).await?;
            world.gitter.clear_calls();
            let (seen, view) = (histories(&eyes).await?, alice.look(|view| view.rooms.len()));
            for resync in 1..=2 {
                let what = format!("resync {resync}");
                world.on_gitter(&what, |gitter| (looks(gitter) >= resync).then_some(())).await?;
            }
            let spent = at_rest(world).await?.since(before);
            let calls = world.gitter.calls();
            let resyncs = looks(&world.gitter);
            assert_eq!(spent.commits, 0, "nothing is written");
            let writes: Vec<_> = calls.iter().filter(|call| call.method != "GET").collect();
            assert!(writes.is_empty(), "nobody is made to join or leave on Gitter: {writes:?}");
            let routes: Vec<_> = calls.iter().map(|call| &call.route).collect();
            // Who is in the rooms is asked once an hour.
            assert_eq!(calls.len(), resyncs, "one call for the account's rooms each: {routes:?}");
            assert_eq!(histories(&eyes).await?, seen, "nothing happens in any room");
            assert_eq!(alice.look(|view| view.rooms.len()), view, "nobody is invited anywhere");
            assert_eq!(alice.look(|view| view.joined().count()), portals.len() + 1);
            eprintln!("{resyncs} resyncs of {} portals: {spent:?}", portals.len());
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_message_costs_one_call_and_few_commits() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, portals) = settled(world).await?;
            let (room, portal) = (ROOMS[1], &portals[ROOMS[1]]);

            let before = at_rest(world).await?;
            world.gitter.clear_calls();
            world.gitter.post("dave", room, "to Matrix");
            alice.wait_for_text(portal, "to Matrix").await?;
            let spent = at_rest(world).await?.since(before);
            assert_eq!(spent, Spent { commits: 1, homeserver: 1 }, "sent, and linked");
            assert_eq!(world.gitter.calls(), [], "Gitter told all by itself");

            let before = at_rest(world).await?;
            world.gitter.clear_calls();
            alice.send_text(portal, "to Gitter").await?;
            world
                .on_gitter("what she said", |gitter| {
                    gitter.messages(room).iter().any(|m| m.text == "to Gitter").then_some(())
                })
                .await?;
            let spent = at_rest(world).await?.since(before);
            assert_eq!(
                spent,
                Spent { commits: 4, homeserver: 0 },
                "kept before the homeserver is answered, marked before the call, linked after it, and settled when \
                 nothing follows"
            );
            let calls = world.gitter.calls();
            let calls: Vec<_> =
                calls.iter().map(|c| (c.method.as_str(), c.route.as_str())).collect();
            assert_eq!(calls, [("POST", "/v1/rooms/:id/chatMessages")]);
            Ok(())
        })
        .await
}

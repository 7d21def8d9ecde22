//! Random people, random faults, random crashes: one number decides all of it.

use std::time::Duration;

use rand::Rng;
use reconcile::model::{Say, Told};

use crate::{
    converge, limits, on_paused_time,
    outside::Handle,
    pass,
    people::{account, gitter_room, populate},
    supervise,
};

const ACCOUNTS: usize = 3;
const ROOMS: usize = 5;
const STEPS: usize = 40;
/// Resyncs after the end of the trouble within which all has to be well.
const RESYNCS: u32 = 6;

async fn history(world: &Handle) -> Result<(), String> {
    populate(&mut world.lock(), ACCOUNTS, ROOMS);
    for n in 0..ACCOUNTS {
        world.log_in(&account(n));
    }
    let running = supervise(world, limits());
    let faults = {
        let mut world = world.lock();
        world.slow = world.rng.random_bool(0.5);
        // A third of the worlds have no faults, so that crashes and races are seen alone.
        world.faults = [0, 5, 25][world.rng.random_range(0..3)];
        world.faults
    };
    for _ in 0..STEPS {
        world.step(ACCOUNTS, ROOMS);
        let (wait, crash) = {
            let rng = &mut world.lock().rng;
            let longest = if rng.random_bool(0.1) { 900_000 } else { 8_000 };
            (rng.random_range(0..longest), rng.random_bool(0.15))
        };
        pass(world, Duration::from_millis(wait)).await;
        if crash {
            world.killed.notify_one();
        }
    }
    {
        let mut world = world.lock();
        world.faults = 0;
        world.slow = false;
    }
    world.log(format!("-- no faults from here on; there were {faults} in a hundred --"));
    converge(world, RESYNCS).await?;
    told_once(world).await?;
    running.abort();
    world.set_driver(None);
    Ok(())
}

/// In a quiet world every command is answered exactly once.
async fn told_once(world: &Handle) -> Result<(), String> {
    let mut expected = Vec::new();
    world.say();
    let start = world.lock().said.len();
    for n in 0..ACCOUNTS {
        let active = world.lock().data.accounts[&account(n)].session.is_active();
        for room in 0..ROOMS {
            let key = reconcile::model::PortalKey::new(account(n), gitter_room(room));
            let room = key.room.clone();
            let banned = {
                let world = world.lock();
                world.gitter[&room].banned.contains(&world.who[&account(n)].id)
            };
            let member = world.lock().data.portals.get(&key).is_some_and(|p| p.member.desired);
            let part = (n + world.lock().log.len()).is_multiple_of(2);
            if !active {
                continue;
            }
            let name = world.lock().gitter[&room].looks.uri.clone();
            let why = reconcile::model::Refusal::NotAllowed;
            if part {
                if world.part(&key) {
                    expected.push((key.account.clone(), Told::Parted(room)));
                }
            } else if !world.ask_for(&key, true) {
                expected.push((key.account.clone(), Told::AlreadyOpen(room)));
            } else if banned && !member {
                expected.push((key.account.clone(), Told::Refused { name, why }));
            } else {
                expected.push((key.account.clone(), Told::Opened(room)));
            }
        }
    }
    converge(world, 2).await?;
    let told: Vec<_> = world.lock().said[start..].to_vec();
    let mut got = Vec::new();
    for notice in told {
        match (notice.to, notice.say) {
            (reconcile::model::Target::Account(user), Say::Told(told)) => got.push((user, told)),
            other => return Err(format!("nobody asked for {other:?}")),
        }
    }
    for answer in &expected {
        match got.iter().position(|told| told == answer) {
            Some(at) => drop(got.remove(at)),
            None => return Err(format!("never told: {answer:?}; rest: {got:?}")),
        }
    }
    if got.is_empty() { Ok(()) } else { Err(format!("told without being asked: {got:?}")) }
}

/// Runs the history of one seed; the story of it is told when it goes wrong.
fn run(seed: u64) -> Result<(), String> {
    on_paused_time(async {
        let world = Handle::new(seed);
        let result = history(&world).await;
        world.set_driver(None);
        result.map_err(|error| {
            let log = world.lock().log.join("\n");
            format!("SEED={seed}\n{log}\n{error}\n(again: SEED={seed} cargo test -p reconcile --test world random)")
        })
    })
}

#[test]
fn random_people_faults_and_crashes_end_as_was_asked_last() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(1000),
    };
    let mut bad = Vec::new();
    for seed in seeds {
        if let Err(story) = run(seed) {
            if bad.is_empty() {
                eprintln!("{story}");
            }
            bad.push((seed, story.lines().rev().skip(1).take(2).collect::<Vec<_>>().join(" | ")));
        }
    }
    assert!(bad.is_empty(), "{} seeds went wrong: {bad:#?}", bad.len());
}

//! The driver in worlds of memory: people who do as they like, calls that fail before or after their effect, and crashes
//! at any await. When the trouble is over, everything is as it was last asked for, and then nothing is done any more.

mod faults;
mod late;
mod outside;
mod people;
mod points;
mod rows;
mod seeds;
mod stories;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use outside::{Counts, Handle, World, bot};
use reconcile::{
    driver::{Driver, Limits},
    model::{Account, Place, Session, alike},
    port::{Matrix, Presence},
};
use ruma::OwnedUserId;
use tokio::time::sleep;

/// Few, so that the bound matters.
const GHOSTS: usize = 6;

pub(crate) fn limits() -> Limits {
    Limits { portal_ghosts: GHOSTS, ..Limits::default() }
}

/// A runtime of one thread on paused time: seconds pass when nothing else is to be done.
pub(crate) fn on_paused_time<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(f)
}

/// Keeps a driver running over the world; when it is killed, another one starts over the same rows.
pub(crate) fn supervise(world: &Handle, limits: Limits) -> tokio::task::JoinHandle<()> {
    let world = world.clone();
    tokio::spawn(async move {
        for seed in 0.. {
            let w = world.clone();
            let driver = Driver::new(w.clone(), w.clone(), w.clone(), w.clone(), limits, seed);
            let driver = Arc::new(driver.minding(w.sides.clone()));
            world.set_driver(Some(driver.clone()));
            tokio::select! {
                () = driver.run() => return,
                () = world.killed.notified() => {}
            }
            world.set_driver(None);
            drop(driver);
            world.log("-- started anew --");
            sleep(Duration::from_millis(500)).await;
        }
    })
}

/// Time passes, with the bot's words being said meanwhile.
pub(crate) async fn pass(world: &Handle, time: Duration) {
    let mut left = time;
    while !left.is_zero() {
        let some = left.min(Duration::from_secs(10));
        sleep(some).await;
        world.say();
        left -= some;
    }
}

/// What is not as it should be, when nothing is going on any more.
pub(crate) fn wrong(handle: &Handle) -> Vec<String> {
    let world = &*handle.lock();
    let mut wrong = world.broken.clone();
    accounts_are_right(world, &mut wrong);
    portals_are_right(handle, world, &mut wrong);
    chats_are_right(world, &mut wrong);
    no_room_is_left_over(handle, world, &mut wrong);
    wrong
}

fn accounts_are_right(world: &World, wrong: &mut Vec<String>) {
    for (user, account) in &world.data.accounts {
        let portals = || world.data.portals_of(user);
        match &account.session {
            Session::LoggedOut if portals().next().is_some() => {
                wrong.push(format!("{user}: logged out, but has portals"));
            }
            Session::LoggedOut => {}
            Session::Rejected(_) => wrong.push(format!("{user}: token refused")),
            Session::Active(me) => {
                if !account.asks.is_empty() || account.fresh_login.is_some() {
                    wrong.push(format!("{user}: waits: {account:?}"));
                }
                for (id, room) in &world.gitter {
                    let key = reconcile::model::PortalKey::new(user.clone(), id.clone());
                    let is_in = room.members.contains(&me.id);
                    let row = world.data.portals.get(&key);
                    if row.map_or(is_in, |row| row.member.desired != is_in) {
                        wrong.push(format!("{key}: member on Gitter: {is_in}, row: {row:?}"));
                    }
                }
            }
        }
    }
}

fn portals_are_right(handle: &Handle, world: &World, wrong: &mut Vec<String>) {
    for (key, portal) in &world.data.portals {
        if portal.member.pending() || portal.ask.is_some() || portal.missing_since.is_some() {
            wrong.push(format!("{key}: not done: {portal:?}"));
        }
        if !portal.open.desired && world.wanted.contains(key) {
            wrong.push(format!("{key}: closed although the account had asked for it: {portal:?}"));
        }
        if portal.open.desired && world.barred.contains(key) {
            wrong.push(format!("{key}: open although the account had closed it"));
        }
        if portal.member.desired && world.gone.contains(key) {
            wrong.push(format!("{key}: a member although the account had left"));
        }
        if portal.condition.is_some() {
            wrong.push(format!("{key}: refused: {portal:?}"));
            continue;
        }
        match (&portal.place, portal.open.desired) {
            (Place::Nowhere, false) => {}
            (Place::At(room), true) => {
                let Some(its) = world.matrix.get(room) else {
                    wrong.push(format!("{key}: its room is gone"));
                    continue;
                };
                let marker = key.to_string();
                if portal.open.pending()
                    || its.presence(bot()) != Presence::In
                    || !matches!(its.presence(&key.account), Presence::In | Presence::Invited)
                    || its.shows.as_ref() != Some(&world.gitter[&key.room].looks)
                    || its.marker.as_ref() != Some(&marker)
                    || its.end.is_some()
                {
                    wrong.push(format!("{key}: {portal:?}, but {its:?}"));
                }
                let joined: BTreeSet<&OwnedUserId> = its.joined().collect();
                let theirs = |m: &&&OwnedUserId| {
                    **m != bot() && **m != key.account.as_str() && !handle.is_ghost(m)
                };
                if let Some(stranger) = joined.iter().find(theirs) {
                    wrong.push(format!("{key}: {stranger} is in it"));
                }
                let me = &world.who[&key.account].id;
                let Some(wanted) = world.data.people.get(&key.room) else {
                    wrong.push(format!("{key}: nobody has read who is in it"));
                    continue;
                };
                for person in wanted.iter().filter(|person| *person != me) {
                    let ghost = world.data.ghosts.get(person).map(|ghost| &ghost.user);
                    if ghost.is_none_or(|ghost| !joined.contains(ghost)) {
                        wrong.push(format!("{key}: {person} is not in {room}"));
                    }
                }
                let members = &world.gitter[&key.room].members;
                for ghost in its.joined().filter(|member| handle.is_ghost(member)) {
                    let of = world.data.ghosts.iter().find(|(_, row)| row.user == *ghost);
                    // Whoever is not in a list cut short is asked after in turns.
                    let known = *members == wanted.iter().cloned().collect();
                    if known && of.is_some_and(|(id, _)| !wanted.contains(id)) {
                        wrong.push(format!(
                            "{key}: {ghost} is in {room}, and was seen to have left"
                        ));
                    }
                }
            }
            (_, open) => wrong.push(format!("{key}: open {open}, but {:?}", portal.place)),
        }
    }
    for (id, ghost) in &world.data.ghosts {
        let seen = &world.persons[id].profile;
        let same = |other: &reconcile::model::Ghost| {
            alike(&other.profile.display_name) == alike(&ghost.profile.display_name)
        };
        let namesakes = world.data.ghosts.values().filter(|other| same(other)).count() > 1;
        let shown = ghost.to_show(namesakes);
        // Who is nowhere is dressed before coming in again.
        let somewhere = world.matrix.values().any(|r| r.presence(&ghost.user) == Presence::In);
        let dressed = ghost.dressed.is_some() && somewhere;
        if dressed && world.dressed.get(&ghost.user) != Some(&shown) {
            wrong.push(format!("{}: not dressed as {seen:?}", ghost.user));
        }
    }
}

fn chats_are_right(world: &World, wrong: &mut Vec<String>) {
    use reconcile::model::{ChatStage, Control};
    for (id, chat) in &world.data.chats {
        let bot_in = world.matrix.get(id).is_some_and(|r| r.presence(bot()) == Presence::In);
        let control = world.data.accounts[&chat.account].control == Control::At(id.clone());
        let fine = match chat.stage {
            ChatStage::Control => bot_in && control,
            ChatStage::Avoided | ChatStage::Former => !bot_in && !control,
            ChatStage::Invited | ChatStage::Shunned | ChatStage::Leaving | ChatStage::Emptying => {
                false
            }
        };
        if !fine {
            wrong.push(format!("{id}: {chat:?}, bot in it: {bot_in}, control: {control}"));
        }
    }
    for (user, account) in &world.data.accounts {
        if let Control::Opening { .. } = account.control {
            wrong.push(format!("{user}: no control room yet"));
        }
        if let Some(room) = account.control_room() {
            let its = world.matrix.get(room).map(|r| r.presence(user));
            if !matches!(its, Some(Presence::In | Presence::Invited)) {
                wrong.push(format!("{user}: {its:?} in its control room"));
            }
        }
    }
}

fn no_room_is_left_over(handle: &Handle, world: &World, wrong: &mut Vec<String>) {
    let known: BTreeSet<_> = world
        .data
        .portals
        .values()
        .filter_map(|portal| portal.place.room())
        .chain(world.data.accounts.values().filter_map(|account| account.control_room()))
        .collect();
    for (id, room) in &world.matrix {
        if room.presence(bot()) == Presence::In {
            if !known.contains(id) {
                wrong.push(format!("{id}: the bot is in it for nothing: {room:?}"));
            }
        } else if let Some(left) = room.joined().find(|m| handle.is_ghost(m)) {
            wrong.push(format!("{id}: {left} was left behind"));
        }
    }
}

/// Goes on until nothing is wrong, for at most `resyncs` of them; then one more does nothing at all.
pub(crate) async fn converge(world: &Handle, resyncs: u32) -> Result<(), String> {
    let resync = limits().resync.mul_f64(1.1);
    let mut left = resyncs;
    pass(world, resync).await;
    while !wrong(world).is_empty() {
        if left == 0 {
            return Err(format!("does not converge:\n{}", wrong(world).join("\n")));
        }
        left -= 1;
        ask_again(world);
        pass(world, resync).await;
    }
    // Lists of members are read once an hour only: what changed in them meanwhile is work of its own.
    pass(world, Duration::from_secs(3600) + resync).await;
    let before = world.lock().counts;
    let start = world.lock().log.len();
    pass(world, resync + Duration::from_secs(60)).await;
    let after = world.lock().counts;
    let done = |c: Counts| (c.writes, c.changes);
    if done(before) != done(after) {
        let log = world.lock().log[start..].join("\n");
        return Err(format!("a resync with nothing to do: {before:?} -> {after:?}\n{log}"));
    }
    let active = world.lock().data.accounts.values().any(|account| account.session.is_active());
    if active && after.gates == before.gates {
        return Err("there was no resync at all".to_owned());
    }
    match wrong(world) {
        wrong if wrong.is_empty() => Ok(()),
        wrong => Err(wrong.join("\n")),
    }
}

/// Whoever was refused something for good asks again, and whoever lost the login logs in again.
fn ask_again(world: &Handle) {
    let (out, refused) = {
        let world = world.lock();
        let out = |(user, account): (&OwnedUserId, &Account)| {
            matches!(account.session, Session::Rejected(_)).then(|| user.clone())
        };
        let out: Vec<_> = world.data.accounts.iter().filter_map(out).collect();
        (out, world.conditions().map(|(key, _)| key.clone()).collect::<Vec<_>>())
    };
    for user in out {
        world.log_in(&user);
    }
    for key in refused {
        world.log(format!("{key}: asked again"));
        world.ask_for(&key, true);
    }
}

//! Calls that have their effect when nobody waits for it any more, or just when something else was about to be done.

use std::time::Duration;

use reconcile::{
    driver::Key,
    model::{Ghost, GitterUserId, Place, Reason, Told},
    port::Presence,
};

use crate::{
    converge, on_paused_time,
    outside::{Handle, bot},
    pass,
    people::{Upgrade, account, gitter_room},
    stories::{key, one_account, place, told},
};

/// A join was taken back before it had an end; it lands after all.
async fn lands(world: &Handle) {
    pass(world, Duration::from_secs(10)).await;
    {
        let mut world = world.lock();
        world.always.clear();
        let me = world.who[&account(0)].id.clone();
        world.gitter.get_mut(&gitter_room(0)).expect("a room").members.insert(me);
    }
    converge(world, 2).await.expect("neither there nor here");
    assert_eq!(told(world, &Told::Parted(gitter_room(0))), 1);
    assert_eq!(world.lock().matrix.len(), 0, "no portal was made of it");
    world.set_driver(None);
}

#[test]
fn a_join_that_lands_after_a_gpart_is_taken_back() {
    on_paused_time(async {
        let world = one_account(0).await;
        world.lock().always.insert("join");
        assert!(world.ask_for(&key(0), true));
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(3)).await;
        assert!(world.part(&key(0)));
        world.hint(Key::Account(account(0)));
        lands(&world).await;
    });
}

#[test]
fn a_join_of_a_bridge_that_was_killed_is_taken_back_when_it_lands_after_a_gpart() {
    on_paused_time(async {
        let world = one_account(0).await;
        world.meanwhile("join", false, |world| {
            assert!(world.part(&key(0)));
            world.lock().kill_in = Some(("join", false));
        });
        assert!(world.ask_for(&key(0), true));
        world.hint(Key::Account(account(0)));
        lands(&world).await;
    });
}

#[test]
fn a_portal_that_was_being_closed_when_the_bridge_was_killed_is_closed_soon_after() {
    for after in [false, true] {
        on_paused_time(async {
            let world = one_account(1).await;
            assert!(world.part(&key(0)));
            world.lock().kill_in = Some(("remove", after));
            world.hint(Key::Account(account(0)));
            pass(&world, Duration::from_secs(20)).await;
            assert_eq!(world.lock().kill_in, None, "it was killed");
            assert_eq!(told(&world, &Told::Parted(gitter_room(0))), 1);
            assert_eq!(world.lock().data.portals.len(), 0, "nothing is waited for");
            world.set_driver(None);
        });
    }
}

#[test]
fn an_invite_of_a_bridge_that_was_killed_is_taken_back_when_it_lands_after_a_gpart() {
    on_paused_time(async {
        let world = one_account(0).await;
        // No ghost is to be invited first.
        world.lock().gitter.get_mut(&gitter_room(0)).expect("a room").members.clear();
        world.meanwhile("invite", false, |world| {
            assert!(world.part(&key(0)));
            world.lock().kill_in = Some(("invite", false));
        });
        assert!(world.ask_for(&key(0), true));
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(10)).await;

        let room = place(&world).room().cloned().expect("made");
        let invited = (account(0), Presence::Invited);
        world.lock().matrix.get_mut(&room).expect("there").people.extend([invited]);
        converge(&world, 2).await.expect("neither there nor here");
        assert_eq!(world.lock().matrix[&room].presence(&account(0)), Presence::Out);
        assert_eq!(told(&world, &Told::Parted(gitter_room(0))), 1);
        world.set_driver(None);
    });
}

#[test]
fn a_kick_that_lands_after_an_invite_was_asked_for_is_made_good() {
    on_paused_time(async {
        let world = one_account(1).await;
        world.lock().always.insert("remove");
        let room = place(&world).room().cloned().expect("open");
        {
            let mut world = world.lock();
            let portal = world.data.portals.get_mut(&key(0)).expect("open");
            let at = portal.open.at;
            portal.open.ask(false, Reason::Asked, at);
        }
        world.hint(Key::Portal(key(0)));
        pass(&world, Duration::from_secs(3)).await;
        assert!(world.ask_for(&key(0), false));
        world.hint(Key::Portal(key(0)));
        pass(&world, Duration::from_secs(10)).await;
        {
            let mut world = world.lock();
            world.always.clear();
            world.matrix.get_mut(&room).expect("there").people.remove(&account(0));
        }
        converge(&world, 2).await.expect("open, as was asked last");
        assert!(world.lock().data.portals[&key(0)].open.desired);
        world.set_driver(None);
    });
}

#[test]
fn who_is_just_being_put_out_of_a_portal_does_not_count_as_in_it() {
    on_paused_time(async {
        let world = one_account(1).await;
        let (sent, seen) = std::sync::mpsc::channel();
        world.meanwhile("remove", false, move |world| {
            let last = world.lock().data.portals[&key(0)].open.last;
            sent.send(last).expect("waited for");
        });
        assert!(world.part(&key(0)));
        world.hint(Key::Account(account(0)));
        converge(&world, 2).await.expect("closed");
        assert_eq!(seen.try_recv(), Ok(None), "what it says now is answered in its chat");
        world.set_driver(None);
    });
}

#[test]
fn ghosts_leave_a_room_that_the_bot_was_put_out_of() {
    on_paused_time(async {
        let world = one_account(1).await;
        let room = place(&world).room().cloned().expect("open");
        assert!(world.lock().matrix[&room].joined().count() > 2, "there are ghosts in it");
        world.lock().matrix.get_mut(&room).expect("there").people.remove(bot());
        converge(&world, 4).await.expect("in another room, and nobody left behind");
        assert_ne!(place(&world), Place::At(room));
        world.set_driver(None);
    });
}

#[test]
fn a_ghost_that_comes_into_a_portal_closed_meanwhile_leaves_however_often_that_fails() {
    on_paused_time(async {
        let world = one_account(1).await;
        let room = place(&world).room().cloned().expect("open");
        let (person, ghost) = {
            let mut world = world.lock();
            let its = world.matrix.get_mut(&room).expect("there");
            let ghost = its.joined().find(|m| m.localpart().starts_with("gitter_")).cloned();
            let ghost = ghost.expect("there are ghosts in it");
            its.people.remove(&ghost);
            world.data.inside.remove(&(room.clone(), ghost.clone()));
            let its = |(_, row): &(&GitterUserId, &Ghost)| row.user == ghost;
            let person = world.data.ghosts.iter().find(its).expect("known").0.clone();
            (person, ghost)
        };
        let (left, who) = (room.clone(), ghost.clone());
        world.meanwhile("enter", true, move |world| {
            // Everybody else was out of it, and the bot left last.
            let mut world = world.lock();
            world.data.portals.remove(&key(0));
            world.data.inside.retain(|(at, _)| *at != left);
            world.matrix.get_mut(&left).expect("there").people.retain(|user, _| *user == who);
            let me = world.who[&account(0)].id.clone();
            world.gitter.get_mut(&gitter_room(0)).expect("a room").members.remove(&me);
            world.always.insert("take out");
        });
        let came = world.driver().expect("runs").bring_in(&key(0), &person).await;
        assert!(came.is_err(), "where it came is no portal any more");
        pass(&world, Duration::from_secs(60)).await;
        assert_eq!(world.lock().matrix[&room].presence(&ghost), Presence::In, "it can't leave yet");
        world.lock().always.clear();
        converge(&world, 2).await.expect("nobody left behind");
        assert_eq!(world.lock().matrix[&room].presence(&ghost), Presence::Out);
        world.set_driver(None);
    });
}

#[test]
fn a_portal_upgraded_in_the_moment_of_its_end_leaves_nobody_in_the_next_room() {
    on_paused_time(async {
        let world = one_account(1).await;
        let room = place(&world).room().cloned().expect("open");
        assert!(world.part(&key(0)));
        let old = room.clone();
        world.meanwhile("leave", false, move |world| {
            drop(world.upgrade(&old, &account(0), Upgrade::AsBot));
        });
        // Ghosts are taken out: the first that leaves by itself is the bot.
        world.hint(Key::Account(account(0)));
        converge(&world, 2).await.expect("nobody is anywhere");
        assert_eq!(world.lock().matrix.len(), 2, "it was upgraded");
        world.set_driver(None);
    });
}

//! Sides that are away, one account with very much to do, and a driver that fails itself.

use std::{collections::BTreeSet, time::Duration};

use reconcile::{
    breaker::Side,
    driver::{Key, Limits},
    model::PortalKey,
};
use tokio::time::{Instant, sleep};

use crate::{
    converge, limits, on_paused_time,
    outside::Handle,
    pass,
    people::{account, gitter_room, populate},
    supervise, wrong,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Accounts that are in all of `rooms`, logged in, with portals open and accepted.
async fn settled(accounts: usize, rooms: usize) -> Handle {
    let world = Handle::new(5);
    everybody_everywhere(&world, accounts, rooms);
    world.watch();
    supervise(&world, Limits { open_on_login: 300, ..limits() });
    for n in 0..accounts {
        world.log_in(&account(n));
        world.hint(Key::Account(account(n)));
    }
    pass(&world, Duration::from_secs(300)).await;
    for n in 0..accounts {
        world.accept(&account(n));
    }
    pass(&world, Duration::from_secs(60)).await;
    world
}

fn everybody_everywhere(world: &Handle, accounts: usize, rooms: usize) {
    let mut world = world.lock();
    populate(&mut world, accounts, rooms);
    for n in 0..accounts {
        let me = world.who[&account(n)].id.clone();
        for room in world.gitter.values_mut() {
            room.members.insert(me.clone());
        }
    }
}

fn reached(world: &Handle, side: Side) -> usize {
    world.lock().reached.get(&side).copied().unwrap_or(0)
}

#[test]
fn while_the_homeserver_is_away_few_calls_are_made_however_many_portals_there_are() {
    for rooms in [5, 100] {
        on_paused_time(async {
            let world = settled(1, rooms).await;
            let before = reached(&world, Side::Homeserver);
            world.lock().down.insert(Side::Homeserver);
            for n in 0..rooms {
                world.hint(Key::Portal(PortalKey::new(account(0), gitter_room(n))));
            }
            pass(&world, HOUR).await;
            let calls = reached(&world, Side::Homeserver) - before;
            // A probe every half minute, and what it took to find out.
            assert!((90..=160).contains(&calls), "{rooms} portals: {calls} calls in an hour");
            world.lock().down.clear();
            world.lock().calls.clear();
            let back = Instant::now();
            while reached(&world, Side::Homeserver) == before + calls {
                sleep(Duration::from_secs(1)).await;
                assert!(back.elapsed() < Duration::from_secs(60), "it is noticed");
            }
            converge(&world, 3).await.expect("all is well again");
            assert_eq!(wrong(&world), Vec::<String>::new());
            world.set_driver(None);
        });
    }
}

#[test]
fn while_gitter_is_away_few_calls_are_made_however_many_accounts_there_are() {
    for accounts in [2, 60] {
        on_paused_time(async {
            let world = settled(accounts, 2).await;
            let before = reached(&world, Side::Gitter);
            world.lock().down.insert(Side::Gitter);
            let key = PortalKey::new(account(0), gitter_room(0));
            world.part(&key);
            for n in 0..accounts {
                world.hint(Key::Account(account(n)));
            }
            pass(&world, HOUR).await;
            let calls = reached(&world, Side::Gitter) - before;
            assert!((90..=160).contains(&calls), "{accounts} accounts: {calls} calls in an hour");
            // The homeserver's side goes on meanwhile.
            assert!(world.leave_portal(&PortalKey::new(account(1), gitter_room(1)), false));
            world.lock().down.clear();
            pass(&world, Duration::from_secs(60)).await;
            let me = world.lock().who[&account(0)].id.clone();
            let member = world.lock().gitter[&gitter_room(0)].members.contains(&me);
            assert!(!member, "what was asked for in between is done soon after");
            converge(&world, 3).await.expect("all is well again");
            assert_eq!(wrong(&world), Vec::<String>::new());
            world.set_driver(None);
        });
    }
}

#[test]
fn after_an_outage_what_somebody_waits_for_goes_first() {
    on_paused_time(async {
        let world = settled(1, 40).await;
        world.lock().down.insert(Side::Homeserver);
        pass(&world, HOUR).await;
        // The resyncs of an hour wait; then somebody opens a portal that was closed.
        let key = PortalKey::new(account(0), gitter_room(39));
        world.leave_portal(&key, false);
        world.hint(Key::Portal(key.clone()));
        world.lock().calls.clear();
        world.lock().down.clear();
        pass(&world, Duration::from_secs(60)).await;
        let calls = world.lock().calls.clone();
        let room = world.lock().data.portals[&key].place.room().cloned();
        let about = |wanted: &str| {
            calls.iter().position(|(_, about)| about.contains(wanted)).unwrap_or(usize::MAX)
        };
        let first = about(room.as_ref().map_or("!0040:hs", |room| room.as_str()));
        assert!(first <= 8, "{first}: {:?}", &calls[..20]);
        assert!(calls.len() > 40, "and the rest follows: {}", calls.len());
        world.set_driver(None);
    });
}

#[test]
fn an_account_with_very_many_rooms_delays_no_other_ones_command() {
    on_paused_time(async {
        let world = settled(2, 200).await;
        // Everything of the one account at once, in the best class there is.
        world.lock().calls.clear();
        for n in 0..200 {
            world.hint(Key::Portal(PortalKey::new(account(0), gitter_room(n))));
        }
        let mine = PortalKey::new(account(1), gitter_room(7));
        let room = world.lock().data.portals[&mine].place.room().expect("open").clone();
        world.hint(Key::Portal(mine));
        pass(&world, Duration::from_secs(60)).await;
        let calls = world.lock().calls.clone();
        let rooms: BTreeSet<&String> = calls.iter().map(|(_, about)| about).collect();
        assert!(rooms.len() >= 200, "all were looked at: {}", rooms.len());
        let at = calls.iter().position(|(_, about)| *about == room.as_str());
        // Those that the workers had begun with, and one more.
        assert!(at.is_some_and(|at| at <= Limits::default().workers + 1), "{at:?}");
        world.set_driver(None);
    });
}

#[test]
fn a_pass_that_panics_is_put_in_quarantine_and_everything_else_goes_on() {
    on_paused_time(async {
        let world = Handle::new(5);
        everybody_everywhere(&world, 2, 6);
        supervise(&world, limits());
        // Every kind of pass fails once or more, the making of rooms among them.
        let calls = ["gitter rooms", "create", "members", "people", "invite", "enter", "dress"];
        world.lock().panics = calls.into_iter().map(|call| (call, 3)).collect();
        for n in 0..2 {
            world.log_in(&account(n));
            world.hint(Key::Account(account(n)));
        }
        pass(&world, Duration::from_secs(10)).await;
        let driver = world.driver().expect("runs");
        let panics = driver.take_panics();
        assert!(panics >= 2, "{panics}");
        let key = Key::Account(account(0));
        let (failure, due) = driver.trouble(&key).expect("it is told");
        assert!(failure.error.contains("on purpose, in gitter rooms"), "{failure:?}");
        let due = due.expect("it comes again");
        assert!(due > Duration::from_secs(40), "{due:?}");
        // However often it is hinted at, it stays there.
        let before = reached(&world, Side::Gitter);
        for _ in 0..100 {
            world.hint(key.clone());
            sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(reached(&world, Side::Gitter), before);
        pass(&world, HOUR).await;
        for n in 0..2 {
            world.accept(&account(n));
        }
        converge(&world, 6).await.expect("all is well after all");
        assert_eq!(driver.take_panics() + panics, 21, "each was counted");
        world.set_driver(None);
    });
}

#[test]
fn a_room_changed_is_shown_at_once_in_the_portals_of_all_who_share_it() {
    on_paused_time(async {
        let world = settled(2, 1).await;
        world.lock().gitter.get_mut(&gitter_room(0)).expect("a room").looks.topic = "New".into();
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(20)).await;
        {
            let world = world.lock();
            let shown = world.matrix.values().filter_map(|room| room.shows.as_ref());
            assert_eq!(shown.map(|room| &*room.topic).collect::<Vec<_>>(), ["New", "New"]);
        }
        world.set_driver(None);
    });
}

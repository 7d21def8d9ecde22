//! One story, killed at every point there is; and each point that the architecture names, by its name.

use std::time::Duration;

use reconcile::model::{Place, PortalKey, Say, Told};

use crate::{
    converge, limits, on_paused_time,
    outside::{Handle, World},
    pass,
    people::{Upgrade, account, gitter_room, populate},
    supervise,
};

/// What is left of a story: who is where, and what was said.
#[derive(Debug, PartialEq)]
struct End {
    portals: Vec<(PortalKey, bool, bool)>,
    members: Vec<Vec<String>>,
    rooms: usize,
}

impl End {
    fn of(world: &World) -> Self {
        let open = |p: &reconcile::model::Portal| matches!(p.place, Place::At(_));
        let portals = world.data.portals.iter();
        let portals = portals.map(|(k, p)| (k.clone(), p.member.desired, open(p))).collect();
        let of = |room: &crate::outside::GitterSide| {
            room.members.iter().map(ToString::to_string).collect()
        };
        Self {
            portals,
            members: world.gitter.values().map(of).collect(),
            rooms: world.matrix.values().filter(|room| room.joined().next().is_some()).count(),
        }
    }
}

fn key(room: usize) -> PortalKey {
    PortalKey::new(account(0), gitter_room(room))
}

/// Two people log in; one of them parts, joins, leaves, comes back and declines; the other one logs out.
async fn story(world: &Handle, within_logout: bool) -> Result<End, String> {
    const A_WHILE: Duration = Duration::from_secs(90);
    {
        let mut world = world.lock();
        populate(&mut world, 2, 4);
        let me = world.who[&account(0)].id.clone();
        for (n, room) in world.gitter.values_mut().enumerate() {
            if n == 3 {
                room.members.remove(&me)
            } else {
                room.members.insert(me.clone())
            };
        }
    }
    let armed = if within_logout { world.lock().kill_in.take() } else { None };
    let running = supervise(world, limits());
    let hear = |who: usize| world.hint(reconcile::driver::Key::Account(account(who)));
    for who in [0, 1] {
        world.log_in(&account(who));
        hear(who);
        pass(world, A_WHILE).await;
        world.accept(&account(who));
    }
    world.part(&key(0));
    hear(0);
    world.ask_for(&key(3), true);
    hear(0);
    pass(world, A_WHILE).await;
    world.leave_portal(&key(1), false);
    world.hint(reconcile::driver::Key::Portal(key(1)));
    pass(world, A_WHILE).await;
    world.ask_for(&key(1), false);
    world.hint(reconcile::driver::Key::Portal(key(1)));
    pass(world, A_WHILE).await;
    world.leave_portal(&key(2), false);
    if let Some(point) = armed.filter(|_| within_logout) {
        world.lock().kill_in = Some(point);
    }
    for hint in world.log_out(&account(1)) {
        world.hint(hint);
    }
    pass(world, A_WHILE).await;
    let gates = world.lock().counts.gates;
    converge(world, 3).await?;
    world.lock().counts.gates = gates;
    running.abort();
    world.set_driver(None);
    Ok(End::of(&world.lock()))
}

fn tell(world: &Handle, wanted: &Told) -> usize {
    let world = world.lock();
    world.said.iter().filter(|notice| notice.say == Say::Told(wanted.clone())).count()
}

fn told_as_often_as_asked(world: &Handle) -> Result<(), String> {
    let room = |n: usize| gitter_room(n);
    let rows = [
        ("parted", Told::Parted(room(0)), 1),
        ("joined", Told::Opened(room(3)), 1),
        ("invited again", Told::Opened(room(1)), 1),
        ("logged out", Told::LoggedOut, 1),
    ];
    for (name, told, times) in rows {
        let got = tell(world, &told);
        if got != times {
            return Err(format!("{name}: told {got} times"));
        }
    }
    Ok(())
}

fn run(within_logout: bool, set: impl FnOnce(&mut World)) -> Result<(End, usize), String> {
    on_paused_time(async {
        let world = Handle::new(7);
        set(&mut world.lock());
        let result = story(&world, within_logout).await;
        world.set_driver(None);
        let told = told_as_often_as_asked(&world);
        let end = result.and_then(|end| told.map(|()| end));
        let world = world.lock();
        let end = end.map_err(|error| format!("{}\n{error}", world.log.join("\n")))?;
        if world.kill_in.is_some() {
            return Err("it was never killed".to_owned());
        }
        Ok((end, world.counts.gates))
    })
}

fn same_end_when_killed(points: &[(&'static str, bool)], slow: bool, within_logout: bool) {
    let (expected, _) = run(false, |_| ()).expect("the story goes well undisturbed");
    for &point in points {
        let killed = run(within_logout, |world| {
            world.kill_in = Some(point);
            world.slow = slow;
        });
        let (end, _) = killed.unwrap_or_else(|story| panic!("{point:?}: {story}"));
        assert_eq!(end, expected, "killed at {point:?}");
    }
}

#[test]
fn killed_at_any_point_the_story_ends_the_same() {
    let (expected, gates) = run(false, |_| ()).expect("the story goes well undisturbed");
    assert!(gates > 300, "{gates} points only");
    for point in 1..=gates {
        let killed = run(false, |world| world.kill_at = Some(point));
        let (end, _) = killed.unwrap_or_else(|story| panic!("killed at point {point}: {story}"));
        assert_eq!(end, expected, "killed at point {point}");
    }
}

#[test]
fn killed_between_intent_and_create_no_room_is_missing() {
    same_end_when_killed(&[("create", false)], false, false);
}

#[test]
fn killed_between_create_and_record_no_second_room_is_made() {
    same_end_when_killed(&[("create", true)], false, false);
}

#[test]
fn a_room_that_comes_late_is_not_made_twice() {
    on_paused_time(async {
        let world = Handle::new(1);
        world.lock().slow = true;
        populate(&mut world.lock(), 1, 4);
        world.log_in(&account(0));
        let running = supervise(&world, limits());
        // Killed while the homeserver is at it.
        while !world.lock().data.portals.values().any(|p| matches!(p.place, Place::Intended { .. }))
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.killed.notify_one();
        converge(&world, 3).await.expect("one room each");
        running.abort();
        world.set_driver(None);
    });
}

#[test]
fn killed_between_invite_and_record_nobody_is_invited_twice_or_not_told() {
    same_end_when_killed(&[("invite", false), ("invite", true)], false, false);
}

#[test]
fn killed_within_logout_all_portals_close() {
    let points = [("remove", false), ("remove", true), ("write", false), ("write", true)];
    same_end_when_killed(&points, false, true);
    same_end_when_killed(&[("take out", false), ("leave", false), ("leave", true)], true, true);
}

#[test]
fn killed_within_emptying_nobody_is_left_behind() {
    let points = [("take out", true), ("leave", false), ("leave", true)];
    same_end_when_killed(&points, true, false);
}

#[test]
fn killed_within_an_upgrade_the_portal_is_in_one_room() {
    for how in [Upgrade::AsBot, Upgrade::ByAccount, Upgrade::Uninvited, Upgrade::Astray] {
        let upgrade = |kill: Option<usize>| {
            on_paused_time(async {
                let world = Handle::new(5);
                populate(&mut world.lock(), 1, 2);
                let me = world.lock().who[&account(0)].id.clone();
                for room in world.lock().gitter.values_mut() {
                    room.members.insert(me.clone());
                }
                world.log_in(&account(0));
                let running = supervise(&world, limits());
                pass(&world, Duration::from_secs(90)).await;
                world.accept(&account(0));
                let old = world.lock().data.portals[&key(0)].place.room().cloned().expect("open");
                let start = world.lock().counts.gates;
                world.lock().kill_at = kill.map(|point| start + point);
                for hint in world.upgrade(&old, &account(0), how) {
                    world.hint(hint);
                }
                pass(&world, Duration::from_secs(90)).await;
                let gates = world.lock().counts.gates - start;
                pass(&world, Duration::from_secs(700)).await;
                world.accept(&account(0));
                let end = converge(&world, 3).await;
                running.abort();
                world.set_driver(None);
                let world = world.lock();
                end.unwrap_or_else(|e| panic!("{how:?} {kill:?}: {}\n{e}", world.log.join("\n")));
                let portal = &world.data.portals[&key(0)];
                let room = portal.place.room().expect("in a room");
                assert_eq!(portal.before.as_ref(), Some(&old), "{how:?} {kill:?}");
                assert!(
                    world.matrix[&old].hushed,
                    "{how:?} {kill:?}: who speaks there is not heard"
                );
                let its = &world.matrix[room];
                assert_eq!(its.presence(&account(0)), reconcile::port::Presence::In);
                let followed = matches!(how, Upgrade::AsBot | Upgrade::ByAccount);
                assert_eq!(its.before.is_some(), followed, "{how:?} {kill:?}");
                let told = world
                    .said
                    .iter()
                    .filter(|notice| notice.say == Say::Told(Told::NotFollowed(gitter_room(0))));
                assert_eq!(told.count(), usize::from(!followed), "{how:?} {kill:?}");
                gates
            })
        };
        let gates = upgrade(None);
        assert!(gates > 10, "{how:?}: {gates} points only");
        for point in 1..=gates {
            upgrade(Some(point));
        }
    }
}

#[test]
fn killed_between_a_join_and_its_record_the_answer_still_comes_once() {
    same_end_when_killed(&[("join", true), ("part", false), ("part", true)], false, false);
}

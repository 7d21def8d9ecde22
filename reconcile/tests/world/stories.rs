//! Single things that went wrong once, or must not.

use std::time::Duration;

use reconcile::{
    driver::Key,
    model::{
        Condition, Control, Door, GitterUserId, Millis, NamedAsk, NamedKind, Notice, Place,
        PortalKey, Reason, Refusal, Say, Session, Target, Told,
    },
    port::{Clock, Presence},
};
use tokio::time::sleep;

use crate::{
    converge, limits, on_paused_time,
    outside::{Handle, bot},
    pass,
    people::{Upgrade, account, gitter_room, populate},
    supervise, wrong,
};

pub(crate) fn key(room: usize) -> PortalKey {
    PortalKey::new(account(0), gitter_room(room))
}

/// One account that is in all of `rooms`, logged in, with its portals open; none when `rooms` is 0.
pub(crate) async fn one_account(rooms: usize) -> Handle {
    let world = Handle::new(3);
    {
        let mut world = world.lock();
        populate(&mut world, 1, rooms.max(1));
        let me = world.who[&account(0)].id.clone();
        for (n, room) in world.gitter.values_mut().enumerate() {
            if n < rooms {
                room.members.insert(me.clone())
            } else {
                room.members.remove(&me)
            };
        }
    }
    world.log_in(&account(0));
    let all = reconcile::driver::Limits { open_on_login: 100, ..limits() };
    supervise(&world, all);
    pass(&world, Duration::from_secs(120)).await;
    world.accept(&account(0));
    world
}

fn open(world: &Handle) -> usize {
    world.lock().data.portals.values().filter(|p| p.open.desired).count()
}

pub(crate) fn told(world: &Handle, wanted: &Told) -> usize {
    world.say();
    let world = world.lock();
    world.said.iter().filter(|notice| notice.say == Say::Told(wanted.clone())).count()
}

#[test]
fn many_portals_left_at_once_are_held_back() {
    on_paused_time(async {
        let world = one_account(30).await;
        assert_eq!((open(&world), wrong(&world)), (30, vec![]));
        // As after a restore of the homeserver: nobody said a word.
        for n in 0..30 {
            assert!(world.leave_portal(&key(n), true));
        }
        pass(&world, Duration::from_secs(600)).await;
        let driver = world.driver().expect("runs");
        assert_eq!(driver.held(), [("portals".to_owned(), 10)]);
        assert_eq!(open(&world), 10, "twenty were believed, the rest is held");
        pass(&world, Duration::from_secs(1400)).await;
        assert_eq!((open(&world), driver.held()), (0, vec![]), "released when seen again");
        world.set_driver(None);
    });
}

#[test]
fn many_rooms_lost_on_gitter_at_once_are_held_back_and_come_back() {
    on_paused_time(async {
        let world = one_account(30).await;
        let members: Vec<_> = {
            let mut world = world.lock();
            let of = |room: &mut crate::outside::GitterSide| std::mem::take(&mut room.members);
            world.gitter.values_mut().map(of).collect()
        };
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(300)).await;
        assert_eq!(open(&world), 30, "an empty list is not believed at once");
        for (room, members) in world.lock().gitter.values_mut().zip(members) {
            room.members = members;
        }
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(1500)).await;
        let driver = world.driver().expect("runs");
        assert_eq!((open(&world), driver.held()), (30, vec![]));
        for door in [Door::Open, Door::Shut, Door::Gone] {
            assert_eq!(told(&world, &Told::GoneOnGitter(gitter_room(0), door)), 0);
        }
        world.set_driver(None);
    });
}

/// Where the first portal is.
pub(crate) fn place(world: &Handle) -> Place {
    world.lock().data.portals[&key(0)].place.clone()
}

/// The first portal's room was asked for just now, and whether it is made nobody knows.
fn intend(world: &Handle) -> Place {
    let intended = Place::Intended { since: world.moment() };
    let mut world = world.lock();
    let portal = world.data.portals.get_mut(&key(0)).expect("open");
    let room = std::mem::replace(&mut portal.place, intended.clone());
    (portal.open.last, portal.joined) = (None, false);
    world.matrix.remove(room.room().expect("made"));
    intended
}

/// Works on the first portal after each of `waits`, in seconds; its room is made in the last, and not before.
async fn is_made_after(world: &Handle, intended: &Place, waits: &[u64]) {
    for (n, wait) in waits.iter().enumerate() {
        world.hint(Key::Portal(key(0)));
        pass(world, Duration::from_secs(*wait)).await;
        if n + 1 < waits.len() {
            assert_eq!(place(world), *intended, "it may still be made");
        }
    }
    assert!(place(world).room().is_some(), "{:?}", place(world));
    world.set_driver(None);
}

#[test]
fn a_room_that_was_asked_for_before_the_clock_was_put_back_is_made() {
    on_paused_time(async {
        let world = one_account(1).await;
        let intended = intend(&world);
        world.put_clock_back(Duration::from_secs(7200));
        is_made_after(&world, &intended, &[60, 60]).await;
    });
}

#[test]
fn a_room_that_may_still_be_made_is_not_made_twice_when_the_clock_is_put_forward() {
    on_paused_time(async {
        let world = one_account(1).await;
        world.put_clock_back(Duration::from_secs(7200));
        let intended = intend(&world);
        world.put_clock_forward(Duration::from_secs(7200));
        is_made_after(&world, &intended, &[5, 50, 60]).await;
    });
}

#[test]
fn a_room_that_may_still_be_made_is_not_made_twice_when_the_machine_is_started_anew_with_another_clock()
 {
    on_paused_time(async {
        let world = one_account(1).await;
        world.put_clock_back(Duration::from_secs(7200));
        let intended = intend(&world);
        pass(&world, Duration::from_secs(50)).await;
        world.put_clock_forward(Duration::from_secs(7200));
        world.boot();
        is_made_after(&world, &intended, &[60, 30]).await;
    });
}

#[test]
fn a_bridge_that_is_killed_again_and_again_waits_no_longer_for_a_room() {
    on_paused_time(async {
        let world = one_account(1).await;
        let intended = intend(&world);
        for _ in 0..4 {
            pass(&world, Duration::from_secs(15)).await;
            assert_eq!(place(&world), intended, "it may still be made");
            world.killed.notify_one();
        }
        is_made_after(&world, &intended, &[30]).await;
    });
}

#[test]
fn a_portals_room_is_not_forgotten_before_the_last_words_in_it_are_said() {
    on_paused_time(async {
        let world = one_account(1).await;
        let before = place(&world);
        {
            let mut world = world.lock();
            let room = before.room().cloned().expect("open");
            let say = Say::Text { body: "oh".to_owned(), html: "oh".to_owned() };
            world.data.notices.push(Notice { to: Target::Room(room), say, at: Millis(1) });
            let portal = world.data.portals.get_mut(&key(0)).expect("open");
            portal.open.ask(false, Reason::Asked, portal.open.at);
        }
        world.hint(Key::Portal(key(0)));
        // Nobody speaks.
        sleep(Duration::from_secs(600)).await;
        assert_eq!(place(&world), before);
        let last = world.lock().data.portals[&key(0)].open.last;
        assert_eq!(last, Some(true), "nor is its account put out, which would not hear them");
        pass(&world, Duration::from_secs(600)).await;
        assert_eq!(place(&world), Place::Nowhere);
        world.set_driver(None);
    });
}

#[test]
fn an_upgraded_chat_is_not_waited_for_until_the_clock_comes_round_again() {
    on_paused_time(async {
        let world = one_account(1).await;
        let control = |world: &Handle| world.lock().data.accounts[&account(0)].control.clone();
        let old = world.start_chat(&account(0), false);
        world.hint(Key::Chat(old.clone()));
        pass(&world, Duration::from_secs(60)).await;
        assert_eq!(control(&world), Control::At(old.clone()));
        for hint in world.upgrade(&old, &account(0), Upgrade::Uninvited) {
            world.hint(hint);
        }
        world.put_clock_back(Duration::from_secs(7200));
        pass(&world, Duration::from_secs(120)).await;
        assert_eq!(control(&world), Control::At(old.clone()), "the bot may still be invited");
        pass(&world, Duration::from_secs(700)).await;
        assert!(matches!(control(&world), Control::At(room) if room != old));
        world.set_driver(None);
    });
}

#[test]
fn a_portal_that_waits_for_a_login_does_not_enter_the_next_room_again_and_again() {
    on_paused_time(async {
        let world = one_account(1).await;
        let old = {
            let mut world = world.lock();
            let row = world.data.accounts.get_mut(&account(0)).expect("logged in");
            let person = row.session.person().cloned().expect("logged in");
            row.session = Session::Rejected(person);
            // As after a backup was put in place that did not know the room yet.
            world.data.rooms.clear();
            world.data.portals[&key(0)].place.room().cloned().expect("open")
        };
        for hint in world.upgrade(&old, &account(0), Upgrade::ByAccount) {
            world.hint(hint);
        }
        pass(&world, Duration::from_secs(60)).await;
        let entered =
            |world: &Handle| world.lock().calls.iter().filter(|(name, _)| *name == "come").count();
        let before = entered(&world);
        assert!(before > 0, "the bot comes in to look");
        for _ in 0..3 {
            world.hint(Key::Portal(key(0)));
            pass(&world, Duration::from_secs(700)).await;
        }
        assert_eq!(entered(&world), before);
        world.set_driver(None);
    });
}

fn person(n: usize) -> GitterUserId {
    format!("6f00000000000000000000{n:02x}").parse().expect("valid")
}

/// Whether the ghost of a person is in the first room's portal.
fn is_inside(world: &Handle, n: usize) -> bool {
    let world = world.lock();
    let room = world.data.portals[&key(0)].place.room().expect("made").clone();
    let ghost = format!("@gitter_name{n}:hs");
    world.matrix[&room].joined().any(|member| member.as_str() == ghost)
}

fn set_members(world: &Handle, members: impl IntoIterator<Item = usize>) {
    let mut world = world.lock();
    let room = world.gitter.get_mut(&gitter_room(0)).expect("a room");
    room.members = members.into_iter().map(person).collect();
}

#[test]
fn who_left_a_small_room_goes_at_once_when_heard_and_within_the_hour_when_not() {
    on_paused_time(async {
        let world = one_account(1).await;
        set_members(&world, 0..4);
        pass(&world, Duration::from_secs(4500)).await;
        assert!((1..4).all(|n| is_inside(&world, n)));
        set_members(&world, [0, 2, 3]);
        let driver = world.driver().expect("runs");
        driver.said_to_leave(&gitter_room(0), &person(1)).await.expect("rows");
        pass(&world, Duration::from_secs(20)).await;
        assert_eq!([1, 2, 3].map(|n| is_inside(&world, n)), [false, true, true]);
        set_members(&world, [0, 2]);
        pass(&world, Duration::from_secs(4500)).await;
        assert_eq!([1, 2, 3].map(|n| is_inside(&world, n)), [false, true, false]);
        world.set_driver(None);
    });
}

#[test]
fn who_left_a_large_room_goes_when_heard_and_in_turns_when_not() {
    on_paused_time(async {
        let world = one_account(1).await;
        set_members(&world, 0..9);
        pass(&world, Duration::from_secs(4500)).await;
        let driver = world.driver().expect("runs");
        for n in [7, 8] {
            let name = world.lock().persons[&person(n)].clone();
            world.lock().intake(|t| {
                let handle = world.clone();
                reconcile::driver::learn(t, &handle, &name).map(drop)
            });
            driver.bring_in(&key(0), &person(n)).await.expect("speaks");
        }
        assert!([7, 8].into_iter().all(|n| is_inside(&world, n)));
        // A lie, or they came back meanwhile.
        driver.said_to_leave(&gitter_room(0), &person(8)).await.expect("rows");
        pass(&world, Duration::from_secs(60)).await;
        assert!(is_inside(&world, 8));
        set_members(&world, 0..7);
        driver.said_to_leave(&gitter_room(0), &person(8)).await.expect("rows");
        pass(&world, Duration::from_secs(60)).await;
        assert!(!is_inside(&world, 8));
        pass(&world, Duration::from_secs(4500)).await;
        assert!(!is_inside(&world, 7), "nobody said it");
        world.set_driver(None);
    });
}

#[test]
fn many_people_who_seem_to_have_left_at_once_are_held_back() {
    on_paused_time(async {
        let world = Handle::new(3);
        populate(&mut world.lock(), 1, 1);
        set_members(&world, 0..1);
        {
            let mut world = world.lock();
            for n in 9..40 {
                let (id, username) = (person(n), format!("Name{n}"));
                let profile =
                    reconcile::model::Profile { display_name: username.clone(), avatar_url: None };
                let seen = reconcile::port::PersonSeen { id: id.clone(), username, profile };
                world.persons.insert(id, seen);
            }
        }
        set_members(&world, 0..40);
        world.log_in(&account(0));
        supervise(&world, reconcile::driver::Limits { portal_ghosts: 100, ..limits() });
        pass(&world, Duration::from_secs(300)).await;
        let here = || (1..40).filter(|n| is_inside(&world, *n)).count();
        assert_eq!(here(), 39);
        set_members(&world, 0..5);
        pass(&world, Duration::from_secs(4000)).await;
        let driver = world.driver().expect("runs");
        assert_eq!(here(), 39, "not believed at once: {:?}", driver.held());
        pass(&world, Duration::from_secs(3000)).await;
        assert_eq!((here(), driver.held()), (4, vec![]), "believed when seen again");
        world.set_driver(None);
    });
}

#[test]
fn a_picture_that_could_not_be_had_is_tried_again() {
    on_paused_time(async {
        let world = one_account(1).await;
        world.lock().no_pictures = true;
        let url = Some("https://a.example/face.png".to_owned());
        world.lock().persons.get_mut(&person(1)).expect("one").profile.avatar_url = url.clone();
        set_members(&world, 0..4);
        pass(&world, Duration::from_secs(4500)).await;
        let ghost: ruma::OwnedUserId = "@gitter_name1:hs".try_into().expect("valid");
        assert!(is_inside(&world, 1));
        assert_eq!(world.lock().dressed[&ghost].avatar_url, None);
        world.lock().no_pictures = false;
        pass(&world, Duration::from_secs(4500)).await;
        assert_eq!(world.lock().dressed[&ghost].avatar_url, url);
        assert_eq!(wrong(&world), Vec::<String>::new());
        world.set_driver(None);
    });
}

#[test]
fn a_portals_picture_that_could_not_be_had_is_tried_again() {
    on_paused_time(async {
        let world = one_account(1).await;
        let picture = |file: &str| Some(format!("https://a.example/{file}.png"));
        let set = |url: Option<String>| {
            for room in world.lock().gitter.values_mut() {
                room.looks.avatar_url.clone_from(&url);
            }
        };
        let seen = || world.lock().matrix.values().find_map(|room| room.shows.clone()?.avatar_url);
        set(picture("old"));
        pass(&world, Duration::from_secs(1000)).await;
        assert_eq!(seen(), picture("old"));
        world.lock().no_pictures = true;
        set(picture("new"));
        pass(&world, Duration::from_secs(1000)).await;
        assert_eq!(seen(), picture("old"), "as before");
        let writes = world.lock().counts;
        pass(&world, Duration::from_secs(1000)).await;
        assert_eq!(world.lock().counts.writes, writes.writes, "nothing new is written down");
        world.lock().no_pictures = false;
        pass(&world, Duration::from_secs(1000)).await;
        assert_eq!(seen(), picture("new"));
        assert_eq!(wrong(&world), Vec::<String>::new());
        world.set_driver(None);
    });
}

#[test]
fn many_portals_closed_by_command_are_closed_at_once() {
    on_paused_time(async {
        let world = one_account(30).await;
        for hint in world.log_out(&account(0)) {
            world.hint(hint);
        }
        pass(&world, Duration::from_secs(60)).await;
        assert!(world.lock().data.portals.is_empty(), "a word is not braked");
        assert_eq!(told(&world, &Told::LoggedOut), 1);
        assert_eq!(wrong(&world), Vec::<String>::new());
        world.set_driver(None);
    });
}

#[test]
fn many_rooms_lost_at_once_are_not_made_anew_at_once() {
    on_paused_time(async {
        let world = one_account(30).await;
        world.lock().matrix.clear();
        pass(&world, Duration::from_secs(720)).await;
        let made = world.lock().matrix.len();
        assert!(made <= 20, "{made} rooms made");
        converge(&world, 4).await.expect("made anew when missed long enough");
        assert_eq!((open(&world), world.lock().matrix.len()), (30, 30), "nobody left them");
        world.set_driver(None);
    });
}

#[test]
fn a_named_room_opens_without_waiting_for_a_resync() {
    on_paused_time(async {
        let world = one_account(1).await;
        world.leave_portal(&key(0), false);
        world.hint(Key::Portal(key(0)));
        pass(&world, Duration::from_secs(20)).await;
        {
            // By a name the bot does not know the room by.
            let (mut world, at) = (world.lock(), world.now());
            let uri = world.gitter[&gitter_room(0)].looks.uri.to_uppercase();
            let row = world.data.accounts.get_mut(&account(0)).expect("a row");
            row.asks.push(NamedAsk { kind: NamedKind::Invite(uri), at });
            world.barred.clear();
        }
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(20)).await;
        assert_eq!(told(&world, &Told::Opened(gitter_room(0))), 1, "within seconds");
        world.set_driver(None);
    });
}

#[test]
fn what_is_over_is_cleared() {
    on_paused_time(async {
        let world = one_account(2).await;
        {
            let mut world = world.lock();
            let (why, since) = (Refusal::Homeserver, Millis(1));
            let row = world.data.portals.get_mut(&key(0)).expect("open");
            // Refused, but invited all the same.
            row.condition = Some(Condition { why, detail: String::new(), since });
            row.open.last = Some(false);
            // Asked, and overtaken by a newer word.
            let row = world.data.portals.get_mut(&key(1)).expect("open");
            row.open.ask(false, Reason::LeftPortal, Millis(u64::MAX));
            row.ask = Some(reconcile::model::Ask::Open);
        }
        converge(&world, 1).await.expect("nothing is left of it");
        world.set_driver(None);
    });
}

#[test]
fn what_fails_for_an_account_holds_up_nothing_else() {
    on_paused_time(async {
        let world = one_account(1).await;
        {
            let mut world = world.lock();
            world.always.insert("create");
            world.always.insert("join");
            let row = world.data.accounts.get_mut(&account(0)).expect("a row");
            row.control = Control::Opening { since: Millis(0).into(), attempted: false };
            row.asks.push(NamedAsk { kind: NamedKind::List, at: Millis(0) });
            row.asks.push(NamedAsk { kind: NamedKind::Join("no such room".into()), at: Millis(0) });
            let row = world.data.portals.get_mut(&key(0)).expect("open");
            // A join that will not work.
            row.member.last = Some(false);
            let me = world.who[&account(0)].id.clone();
            world.gitter.get_mut(&gitter_room(0)).expect("a room").members.remove(&me);
        }
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(20)).await;
        let asks = world.lock().data.accounts[&account(0)].asks.clone();
        assert_eq!(asks, [], "answered although neither control room nor join works");
        world.lock().always.clear();
        converge(&world, 2).await.expect("in the end all of it works");
        world.set_driver(None);
    });
}

#[test]
fn a_refused_ghost_keeps_no_other_out() {
    on_paused_time(async {
        let world = one_account(0).await;
        {
            let mut world = world.lock();
            let ids: Vec<GitterUserId> = world.persons.keys().cloned().collect();
            let room = world.gitter.get_mut(&gitter_room(0)).expect("a room");
            room.members.extend(ids);
            // The first who is to come may not.
            world.refuses.insert("@gitter_name1:hs".try_into().expect("valid"));
        }
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(60)).await;
        let inside = {
            let world = world.lock();
            let room = world.data.portals[&key(0)].place.room().expect("made").clone();
            world.matrix[&room].joined().count()
        };
        // The bot, and all whom the bound lets in but the account itself and the refused one.
        assert_eq!(inside, 1 + crate::GHOSTS - 2);
        world.set_driver(None);
    });
}

#[test]
fn a_pause_the_homeserver_asks_for_holds_all_changes() {
    on_paused_time(async {
        let world = one_account(3).await;
        world.lock().limited = Some(("show", Duration::from_secs(50)));
        for room in world.lock().gitter.values_mut() {
            room.looks.topic = "new".to_owned();
        }
        world.hint(Key::Account(account(0)));
        while world.lock().limited.is_some() {
            sleep(Duration::from_millis(10)).await;
        }
        // Calls that were on their way already may come through.
        sleep(Duration::from_secs(1)).await;
        let before = world.lock().counts.changes;
        world.part(&key(0));
        world.hint(Key::Portal(key(0)));
        sleep(Duration::from_secs(48)).await;
        let gitter_calls = 1;
        assert!(world.lock().counts.changes <= before + gitter_calls);
        converge(&world, 2).await.expect("after the pause it goes on");
        world.set_driver(None);
    });
}

#[test]
fn a_stranger_goes_and_a_lost_room_is_made_anew() {
    on_paused_time(async {
        let world = one_account(1).await;
        let room = world.lock().data.portals[&key(0)].place.room().expect("made").clone();
        let stranger = crate::people::stranger();
        {
            let mut world = world.lock();
            let people = &mut world.matrix.get_mut(&room).expect("made").people;
            people.insert(stranger.clone(), Presence::In);
        }
        world.hint(Key::Portal(key(0)));
        pass(&world, Duration::from_secs(10)).await;
        assert_eq!(world.lock().matrix[&room].presence(&stranger), Presence::Out);
        world.lock().matrix.get_mut(&room).expect("made").people.remove(bot());
        world.hint(Key::Portal(key(0)));
        pass(&world, Duration::from_secs(20)).await;
        assert_eq!(world.lock().data.portals[&key(0)].place, Place::At(room.clone()), "seen once");
        pass(&world, Duration::from_secs(40)).await;
        let place = world.lock().data.portals[&key(0)].place.clone();
        assert!(place.room().is_some_and(|anew| *anew != room), "{place:?}");
        world.set_driver(None);
    });
}

#[test]
fn a_word_spoken_while_a_row_is_dropped_keeps_it() {
    on_paused_time(async {
        let world = one_account(1).await;
        world.part(&key(0));
        // Parted and emptied, but for the last write.
        world.hint(Key::Account(account(0)));
        world.hint(Key::Portal(key(0)));
        while !world.lock().data.portals.get(&key(0)).is_some_and(|p| p.place == Place::Nowhere) {
            sleep(Duration::from_millis(1)).await;
        }
        let w = world.clone();
        world.meanwhile("write", false, move |_| assert!(w.ask_for(&key(0), true)));
        pass(&world, Duration::from_secs(5)).await;
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(60)).await;
        assert_eq!(open(&world), 1);
        assert_eq!(told(&world, &Told::Opened(gitter_room(0))), 1);
        world.set_driver(None);
    });
}

#[test]
fn a_list_of_rooms_read_before_a_logout_is_void() {
    on_paused_time(async {
        let world = one_account(1).await;
        world.lock().data.portals.remove(&key(0));
        world.meanwhile("gitter rooms", true, |world| drop(world.log_out(&account(0))));
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(30)).await;
        assert!(world.lock().data.portals.is_empty(), "somebody else's rooms");
        world.set_driver(None);
    });
}

#[test]
fn a_word_spoken_while_the_rooms_are_read_is_the_newer_one() {
    on_paused_time(async {
        let world = one_account(1).await;
        world.leave_elsewhere(&key(0), false);
        world.meanwhile("gitter rooms", true, |world| assert!(world.part(&key(0))));
        world.hint(Key::Account(account(0)));
        converge(&world, 2).await.expect("parted");
        assert_eq!(told(&world, &Told::Parted(gitter_room(0))), 1);
        for door in [Door::Open, Door::Shut, Door::Gone] {
            assert_eq!(told(&world, &Told::GoneOnGitter(gitter_room(0), door)), 0);
        }
        world.set_driver(None);
    });
}

#[test]
fn a_refusal_of_the_token_before_the_last_is_void() {
    on_paused_time(async {
        let world = one_account(1).await;
        world.lock().good_tokens.clear();
        world.meanwhile("gitter rooms", true, |world| world.log_in(&account(0)));
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(30)).await;
        assert_eq!(told(&world, &Told::TokenRejected), 0);
        assert!(world.lock().data.accounts[&account(0)].session.is_active());
        world.set_driver(None);
    });
}

#[test]
fn what_was_asked_for_before_the_token_was_refused_is_done_after_the_next_login() {
    on_paused_time(async {
        let world = one_account(0).await;
        world.lock().good_tokens.clear();
        assert!(world.ask_for(&key(0), true));
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(30)).await;
        assert_eq!(told(&world, &Told::TokenRejected), 1);
        world.log_in(&account(0));
        world.hint(Key::Account(account(0)));
        converge(&world, 2).await.expect("joined");
        assert!(world.lock().data.portals[&key(0)].place.room().is_some(), "it is open");
        world.set_driver(None);
    });
}

#[test]
fn a_room_that_is_left_after_it_was_asked_for_by_name_is_not_joined_again() {
    on_paused_time(async {
        let world = one_account(0).await;
        world.lock().always.insert("resolve");
        assert!(world.ask_for(&key(0), true));
        world.join_elsewhere(&key(0));
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(30)).await;
        assert_eq!(told(&world, &Told::Opened(gitter_room(0))), 1, "it is among the rooms seen");
        world.leave_elsewhere(&key(0), false);
        world.lock().always.clear();
        world.hint(Key::Account(account(0)));
        converge(&world, 2).await.expect("neither there nor here");
        let me = world.lock().who[&account(0)].id.clone();
        assert!(!world.lock().gitter[&gitter_room(0)].members.contains(&me));
        world.set_driver(None);
    });
}

#[test]
fn a_joined_room_opens_without_waiting_for_a_resync() {
    on_paused_time(async {
        let world = one_account(0).await;
        assert!(world.ask_for(&key(0), true));
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(20)).await;
        assert_eq!(told(&world, &Told::Opened(gitter_room(0))), 1);
        world.set_driver(None);
    });
}

#[test]
fn a_room_is_left_by_a_name_that_was_not_known_when_it_was_asked() {
    on_paused_time(async {
        let world = one_account(0).await;
        let uri = world.lock().gitter[&gitter_room(0)].looks.uri.clone();
        {
            // Asked for in one breath, while Gitter did not answer.
            let mut world = world.lock();
            let row = world.data.accounts.get_mut(&account(0)).expect("a row");
            let kinds = [NamedKind::Join(uri.clone()), NamedKind::Part(uri.to_uppercase())];
            row.asks.extend(kinds.map(|kind| NamedAsk { kind, at: Millis(1) }));
        }
        world.hint(Key::Account(account(0)));
        converge(&world, 2).await.expect("neither there nor here");
        let me = world.lock().who[&account(0)].id.clone();
        assert!(!world.lock().gitter[&gitter_room(0)].members.contains(&me));
        assert_eq!(told(&world, &Told::Parted(gitter_room(0))), 1);
        {
            let mut world = world.lock();
            let row = world.data.accounts.get_mut(&account(0)).expect("a row");
            row.asks.push(NamedAsk { kind: NamedKind::Part("no such room".into()), at: Millis(1) });
        }
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(20)).await;
        let (name, why) = ("no such room".to_owned(), Refusal::NotThere);
        assert_eq!(told(&world, &Told::Refused { name, why }), 1);
        world.set_driver(None);
    });
}

#[test]
fn a_closed_portals_room_is_kept_until_what_was_kept_back_in_it_is_read() {
    on_paused_time(async {
        let world = one_account(1).await;
        let inside = |world: &Handle| {
            let world = world.lock();
            world.data.portals.get(&key(0)).is_some_and(|portal| portal.place.room().is_some())
        };
        world.lock().data.unheard = true;
        world.leave_elsewhere(&key(0), false);
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(60)).await;
        assert_eq!((open(&world), inside(&world)), (0, true), "closed, and still to be read");
        world.lock().data.unheard = false;
        pass(&world, Duration::from_secs(60)).await;
        assert!(!inside(&world), "left without waiting for a resync");
        world.set_driver(None);
    });
}

#[test]
fn a_room_that_can_never_be_read_is_not_kept_for_ever() {
    on_paused_time(async {
        let world = one_account(1).await;
        world.lock().data.unheard = true;
        world.leave_elsewhere(&key(0), false);
        world.hint(Key::Account(account(0)));
        pass(&world, Duration::from_secs(2 * 3600)).await;
        assert!(!world.lock().data.portals.contains_key(&key(0)));
        world.set_driver(None);
    });
}

#[test]
fn a_ghost_found_in_a_portal_is_dressed_although_it_never_comes_in() {
    on_paused_time(async {
        let world = one_account(1).await;
        let (ghost, user) = {
            let mut world = world.lock();
            let inside: Vec<_> = world.data.inside.iter().map(|(_, user)| user.clone()).collect();
            let (id, row) = world
                .data
                .ghosts
                .iter_mut()
                .find(|(_, row)| inside.contains(&row.user))
                .expect("a ghost in the portal");
            // As a store made anew from the rooms knows it.
            row.dressed = None;
            let (id, user) = (id.clone(), row.user.clone());
            world.dressed.remove(&user);
            (id, user)
        };
        pass(&world, Duration::from_secs(2 * 3600)).await;
        let world = world.lock();
        let shown = world.dressed.get(&user).expect("dressed");
        assert_eq!(shown.display_name, world.persons[&ghost].profile.display_name);
    });
}

/// When the account was invited to its first portal after that was made, on paused time.
async fn invited_after(world: &Handle) -> Duration {
    let invited = |world: &Handle| {
        let world = world.lock();
        let room = world.data.portals.get(&key(0)).and_then(|portal| portal.place.room());
        let room = room.and_then(|room| world.matrix.get(room));
        room.map(|room| room.presence(&account(0)) == Presence::Invited)
    };
    let mut made = None;
    loop {
        match invited(world) {
            None => {}
            Some(false) => drop(made.get_or_insert_with(tokio::time::Instant::now)),
            Some(true) => {
                return made.map_or(Duration::ZERO, |made: tokio::time::Instant| made.elapsed());
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_person_waits_for_what_was_said_before_but_no_longer_than_is_set() {
    on_paused_time(async {
        let patience = Duration::from_secs(10);
        //  when all that was said before is in the room; when the invite goes out
        let rows = [(None, 10.0..11.0), (Some(3.0), 3.0..4.0)];
        for (shown, expected) in rows {
            let world = Handle::new(3);
            populate(&mut world.lock(), 1, 1);
            let me = world.lock().who[&account(0)].id.clone();
            world.lock().gitter.get_mut(&gitter_room(0)).expect("a room").members.insert(me);
            world.log_in(&account(0));
            supervise(&world, reconcile::driver::Limits { history: patience, ..limits() });
            if let Some(after) = shown {
                let world = world.clone();
                tokio::spawn(async move {
                    // The lane that shows it notes that, and says so.
                    let waits = |world: &Handle| {
                        let world = world.lock();
                        world.data.portals.get(&key(0)).is_some_and(|row| row.history.is_some())
                    };
                    while !waits(&world) {
                        sleep(Duration::from_millis(50)).await;
                    }
                    sleep(Duration::from_secs_f64(after)).await;
                    world.lock().data.portals.get_mut(&key(0)).expect("a portal").history = None;
                    world.hint(Key::Portal(key(0)));
                });
            }
            let waited = invited_after(&world).await.as_secs_f64();
            assert!(expected.contains(&waited), "all shown: {shown:?}, invited after {waited} s");
            pass(&world, Duration::from_secs(60)).await;
            assert_eq!(world.lock().data.portals[&key(0)].history, None, "waits no more");
            world.set_driver(None);
        }
    });
}

#[test]
fn a_room_whose_making_was_cut_off_is_filled_too_before_its_account_is_invited() {
    on_paused_time(async {
        let world = Handle::new(3);
        populate(&mut world.lock(), 1, 1);
        let me = world.lock().who[&account(0)].id.clone();
        world.lock().gitter.get_mut(&gitter_room(0)).expect("a room").members.insert(me);
        world.lock().kill_in = Some(("create", true));
        world.log_in(&account(0));
        let patience = Duration::from_secs(10);
        supervise(&world, reconcile::driver::Limits { history: patience, ..limits() });
        let found = loop {
            let portal = world.lock().data.portals.get(&key(0)).cloned();
            match portal.filter(|portal| portal.place.room().is_some()) {
                Some(portal) => break portal,
                None => sleep(Duration::from_millis(50)).await,
            }
        };
        assert_eq!(world.lock().kill_in, None, "the bridge was killed");
        assert_eq!(world.lock().matrix.len(), 1, "one room was made");
        assert!(found.history.is_some(), "its account is invited to it at once");
        world.set_driver(None);
    });
}

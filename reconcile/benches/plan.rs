//! How long it takes to plan ten thousand portals: steady, and with one in a hundred changed.

use std::collections::BTreeMap;

use divan::{Bencher, black_box, counter::ItemsCount};
use reconcile::{
    model::{GitterRoom, Millis, Place, Portal, PortalKey, Reason, Seen},
    plan,
    plan::{AccountView, PortalView, RoomReading, plan_account},
    port::Presence,
};
use ruma::{OwnedUserId, owned_user_id};

const PORTALS: u32 = 10_000;
const GHOSTS: u32 = 50;

fn main() {
    divan::main();
}

/// Rows and rooms that agree; `changed` of them, spread evenly, in one of four ways do not.
struct Portals {
    rows: BTreeMap<PortalKey, Portal>,
    readings: Vec<RoomReading>,
    shows: GitterRoom,
}

impl Portals {
    fn new(changed: u32) -> Self {
        let shows = GitterRoom {
            uri: "org/room".to_owned(),
            name: "Room".to_owned(),
            topic: "What it is about".to_owned(),
            avatar_url: Some("https://avatars.example/org".to_owned()),
            one_to_one: false,
        };
        let ghost = |n| format!("@gitter_person{n}:hs.example").try_into().expect("valid");
        let ghosts: std::collections::BTreeSet<OwnedUserId> = (0..GHOSTS).map(ghost).collect();
        let every = PORTALS.checked_div(changed).unwrap_or(PORTALS);
        let (mut rows, mut readings) = (BTreeMap::new(), Vec::new());
        for n in 0..PORTALS {
            let account = format!("@person{:04}:hs.example", n / 10).try_into().expect("valid");
            let room = format!("{n:024x}").parse().expect("valid");
            let mut row = Portal::found(true, Reason::Login, Millis(1));
            row.open.last = Some(true);
            row.joined = true;
            row.place = Place::At(format!("!{n:05}:hs.example").try_into().expect("valid"));
            row.shown = Some(shows.clone());
            let (mut presence, mut strangers) = (Presence::In, std::collections::BTreeSet::new());
            if changed > 0 && n % every == 0 {
                match n / every % 4 {
                    0 => presence = Presence::Out,
                    1 => drop(row.open.ask(false, Reason::Logout, Millis(2))),
                    2 => row.shown = None,
                    _ => drop(strangers.insert(owned_user_id!("@mallory:hs.example"))),
                }
            }
            rows.insert(PortalKey::new(account, room), row);
            let ghosts = ghosts.clone();
            let (account, successor) = (presence, None);
            readings.push(RoomReading::There { account, ghosts, strangers, successor });
        }
        Self { rows, readings, shows }
    }

    fn views(&self) -> impl Iterator<Item = (&PortalKey, PortalView<'_>)> {
        self.rows.iter().zip(&self.readings).map(|((key, portal), room)| {
            let view = PortalView {
                portal,
                shows: Some(&self.shows),
                room: Seen::Fresh(room.clone()),
                logged_in: true,
                features: 0,
                now: Millis(3),
                landing: false,
                apart_ms: 30_000,
            };
            (key, view)
        })
    }
}

/// The readings are made ready before; dropping them, as a pass does, is part of what is measured.
fn planning(bencher: Bencher, changed: u32) {
    let portals = Portals::new(changed);
    let plans = plan(portals.views()).len();
    assert_eq!(plans, usize::try_from(changed).expect("small"), "as many plans as changes");
    bencher
        .counter(ItemsCount::new(PORTALS))
        .with_inputs(|| portals.views().collect::<Vec<_>>())
        .bench_local_values(|views| black_box(plan(views)).len());
}

#[divan::bench]
fn steady(bencher: Bencher) {
    planning(bencher, 0);
}

#[divan::bench]
fn one_percent_changed(bencher: Bencher) {
    planning(bencher, PORTALS / 100);
}

/// One account that is in ten thousand rooms.
#[divan::bench]
fn memberships_of_one_account(bencher: Bencher) {
    let room = |n: u32| format!("{n:024x}").parse().expect("valid");
    let row = Portal::found(true, Reason::Login, Millis(1));
    let portals: BTreeMap<_, _> = (0..PORTALS).map(|n| (room(n), row.clone())).collect();
    let view = AccountView {
        portals: &portals,
        rooms: Seen::Fresh((0..PORTALS).map(room).collect()),
        login: None,
    };
    assert!(plan_account(&view).is_empty());
    bencher.counter(ItemsCount::new(PORTALS)).bench_local(|| plan_account(black_box(&view)));
}

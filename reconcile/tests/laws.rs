//! What the plans promise, as properties over any rows and any readings.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection, prelude::*, sample};
use reconcile::{
    brake::{Brake, BrakeLimits, Held},
    driver::ask_open,
    model::{
        Ask, Condition, GitterRoom, GitterRoomId, Millis, Place, Portal, Reason, Refusal, Seen,
        Wish,
    },
    plan::{
        AccountPlan, AccountView, Adoption, MemberAction, Note, PortalPlan, PortalView, RoomAction,
        RoomReading, Successor, Unfit, plan_account, plan_portal,
    },
    port::Presence,
    settle::{Verdict, settle},
};
use ruma::{OwnedRoomId, OwnedUserId, owned_room_id, owned_user_id};

const APART_MS: u64 = 30_000;
/// What is to be announced in portals.
const FEATURES: u64 = 7;

fn looks() -> GitterRoom {
    GitterRoom {
        uri: "org/room".to_owned(),
        name: "Room".to_owned(),
        topic: String::new(),
        avatar_url: None,
        one_to_one: false,
    }
}

fn condition() -> Condition {
    Condition { why: Refusal::Homeserver, detail: String::new(), since: Millis(1) }
}

fn room_id(n: u8) -> GitterRoomId {
    format!("5f00000000000000000000{n:02x}").parse().expect("valid")
}

fn reasons() -> impl Strategy<Value = Reason> {
    sample::select(vec![
        Reason::Asked,
        Reason::Login,
        Reason::TooMany,
        Reason::OnGitter,
        Reason::LeftPortal,
        Reason::Logout,
        Reason::Refused,
    ])
}

fn wishes() -> impl Strategy<Value = Wish<bool>> {
    let values = (
        any::<bool>(),
        any::<Option<bool>>(),
        1..9_u64,
        0..1000_u64,
        reasons(),
        any::<[bool; 2]>(),
    );
    values.prop_map(|(desired, last, generation, at, reason, [tried, overtakes])| Wish {
        desired,
        last,
        generation,
        at: Millis(at),
        reason,
        tried,
        overtakes,
    })
}

fn portals() -> impl Strategy<Value = Portal> {
    let places = prop_oneof![
        Just(Place::Nowhere),
        Just(Place::Intended { since: Millis(1).into() }),
        Just(Place::At(owned_room_id!("!old:hs"))),
    ];
    let asks = sample::select(vec![None, Some(Ask::Open), Some(Ask::Part)]);
    let missing = sample::select(vec![None, Some(Millis(0)), Some(Millis(40_000))]);
    (wishes(), wishes(), places, asks, any::<[bool; 3]>(), missing).prop_map(
        |(member, open, place, ask, [refused, shown, joined], missing_since)| Portal {
            member,
            open,
            joined: joined && place.room().is_some(),
            features: if shown { FEATURES } else { 0 },
            strayed: 0,
            history: None,
            ask,
            condition: refused.then(condition),
            shown: shown.then(looks),
            successor: None,
            before: None,
            doubtful: None,
            // Only what has a place can be missed.
            missing_since: missing_since.filter(|_| place.room().is_some()),
            place,
        },
    )
}

fn presences() -> impl Strategy<Value = Presence> {
    sample::select(vec![Presence::Out, Presence::Invited, Presence::In, Presence::Banned])
}

fn ghosts() -> impl Strategy<Value = BTreeSet<OwnedUserId>> {
    let all = vec![owned_user_id!("@gitter_a:hs"), owned_user_id!("@gitter_b:hs")];
    sample::subsequence(all, 0..=2).prop_map(|some| some.into_iter().collect())
}

fn strangers() -> impl Strategy<Value = BTreeSet<OwnedUserId>> {
    let all = vec![owned_user_id!("@mallory:hs"), owned_user_id!("@eve:else")];
    sample::subsequence(all, 0..=2).prop_map(|some| some.into_iter().collect())
}

/// A portal's room as it is on the homeserver; the model world of one portal.
#[derive(Debug, Clone, PartialEq)]
struct Room {
    account: Presence,
    ghosts: BTreeSet<OwnedUserId>,
    strangers: BTreeSet<OwnedUserId>,
    shows: GitterRoom,
    successor: Option<Successor>,
}

/// The row, if it is still there, the room, if there is one, and what was said.
#[derive(Debug, Clone, PartialEq)]
struct World {
    row: Option<Portal>,
    room: Option<Room>,
    /// A room made by an earlier attempt that no row knows.
    unrecorded: bool,
    logged_in: bool,
    now: Millis,
    told: usize,
    made: usize,
    moved: usize,
    invited: usize,
}

fn successors() -> impl Strategy<Value = Option<Successor>> {
    let some = sample::select(vec![
        Successor::Fit(owned_room_id!("!next:hs")),
        Successor::Shut,
        Successor::Unfit(Unfit::NoPredecessor),
    ]);
    proptest::option::weighted(0.3, some)
}

fn worlds() -> impl Strategy<Value = World> {
    let rooms = (presences(), ghosts(), strangers(), successors());
    let rooms = rooms.prop_map(|(account, ghosts, strangers, successor)| Room {
        account,
        ghosts,
        strangers,
        shows: looks(),
        successor,
    });
    (portals(), proptest::option::weighted(0.8, rooms), any::<[bool; 2]>()).prop_map(
        |(mut row, room, [unrecorded, logged_in])| {
            // Without a login nothing is wanted open: the logout closes all in one write.
            row.open.desired &= logged_in;
            World {
                row: Some(row),
                room,
                unrecorded,
                logged_in,
                now: Millis(50_000),
                told: 0,
                made: 0,
                moved: 0,
                invited: 0,
            }
        },
    )
}

impl World {
    fn reading(&self) -> Seen<RoomReading> {
        let at = self.row.as_ref().is_some_and(|row| row.place.room().is_some());
        if !at {
            return Seen::Unknown;
        }
        Seen::Fresh(match &self.room {
            None => RoomReading::Gone,
            Some(Room { account, ghosts, strangers, successor, .. }) => RoomReading::There {
                account: *account,
                ghosts: ghosts.clone(),
                strangers: strangers.clone(),
                successor: successor.clone(),
            },
        })
    }

    fn plan_of(&self, room: Seen<RoomReading>) -> PortalPlan {
        let Some(portal) = &self.row else { return PortalPlan::default() };
        let shows = looks();
        plan_portal(&PortalView {
            portal,
            shows: Some(&shows),
            room,
            logged_in: self.logged_in,
            features: FEATURES,
            now: self.now,
            landing: false,
            apart_ms: APART_MS,
        })
    }

    fn plan(&self) -> PortalPlan {
        self.plan_of(self.reading())
    }

    /// Carries a plan out, its actions in any order.
    fn apply(&mut self, plan: PortalPlan, order: &mut impl FnMut(usize) -> usize) {
        for note in plan.notes {
            self.note(&note);
        }
        let mut actions = plan.act;
        while !actions.is_empty() {
            let next = order(actions.len());
            self.act(actions.remove(next));
        }
    }

    fn note(&mut self, note: &Note) {
        if *note == Note::Drop {
            self.row = None;
        }
        let Some(row) = &mut self.row else { return };
        match note {
            Note::Open(open) => {
                row.open.last = Some(*open);
                row.condition = row.condition.take().filter(|_| !open);
            }
            Note::Joined(joined) => row.joined = *joined,
            Note::Left => row.open.adopt(false, Reason::LeftPortal, self.now),
            Note::Missing => row.missing_since = Some(self.now),
            Note::Found => row.missing_since = None,
            Note::Lost | Note::Dead => {
                row.place = Place::Nowhere;
                row.shown = None;
                row.missing_since = None;
                row.joined = false;
                row.open.last = Some(false);
                self.room = None;
            }
            Note::Banned => {
                row.condition = Some(condition());
                row.ask = None;
                self.told += 1;
            }
            Note::Tell => {
                row.ask = None;
                self.told += 1;
            }
            Note::Moot | Note::Parted => row.ask = None,
            Note::Drop => {}
        }
    }

    fn act(&mut self, action: RoomAction) {
        let Some(row) = &mut self.row else { return };
        let at = |row: &mut Portal, id: OwnedRoomId| row.place = Place::At(id);
        match (action, &mut self.room) {
            (RoomAction::Create, room) => {
                let made = !std::mem::take(&mut self.unrecorded) || row.place == Place::Nowhere;
                self.made += usize::from(made);
                *room = Some(Room {
                    account: Presence::Out,
                    ghosts: BTreeSet::new(),
                    strangers: BTreeSet::new(),
                    shows: looks(),
                    successor: None,
                });
                row.shown = made.then(looks);
                at(row, owned_room_id!("!new:hs"));
            }
            (RoomAction::FindOrForget, room) => {
                row.shown = None;
                if std::mem::take(&mut self.unrecorded) && room.is_some() {
                    at(row, owned_room_id!("!new:hs"));
                } else {
                    row.place = Place::Nowhere;
                }
            }
            (RoomAction::Invite(_), Some(room)) => {
                if room.account == Presence::Out {
                    room.account = Presence::Invited;
                    self.invited += 1;
                }
                row.open.last = Some(true);
                if row.ask.take_if(|ask| *ask == Ask::Open).is_some() {
                    self.told += 1;
                }
            }
            (RoomAction::RemoveAccount(_), Some(room)) => {
                room.account = Presence::Out;
                row.open.last = Some(false);
            }
            (RoomAction::RemoveStranger(_, who), Some(room)) => {
                room.strangers.remove(&who);
            }
            (RoomAction::Show(_), Some(room)) => {
                room.shows = looks();
                row.shown = Some(looks());
            }
            (RoomAction::Announce(_), Some(_)) => row.features = FEATURES,
            (RoomAction::TakeOut(_, who), Some(room)) => {
                room.ghosts.remove(&who);
            }
            (RoomAction::Abandon(_), Some(_)) => {
                self.room = None;
                row.place = Place::Nowhere;
                row.shown = None;
            }
            (RoomAction::Follow(next), Some(room)) => {
                *room = Room { successor: None, ghosts: BTreeSet::new(), ..room.clone() };
                // Whoever upgrades the room is in the new one; everybody else is not.
                if room.account != Presence::In {
                    room.account = Presence::Out;
                }
                room.strangers.clear();
                row.before = row.place.room().cloned();
                at(row, next);
                row.shown = None;
                row.missing_since = None;
                row.joined = false;
                row.open.last = Some(false);
                self.moved += 1;
            }
            (action, None) => panic!("{action:?} without a room"),
        }
    }

    /// Applies plans until there is nothing to do; how many it took.
    fn settle(&mut self, mut order: impl FnMut(usize) -> usize) -> usize {
        for step in 0..40 {
            let plan = self.plan();
            // A room missed for the first time is waited for.
            if plan.is_empty() && self.row.as_ref().is_none_or(|row| row.missing_since.is_none()) {
                return step;
            }
            self.apply(plan, &mut order);
            self.now.0 += APART_MS;
        }
        panic!("does not converge: {self:?}");
    }
}

fn removes(action: &RoomAction) -> bool {
    match action {
        RoomAction::RemoveAccount(_)
        | RoomAction::RemoveStranger(..)
        | RoomAction::TakeOut(..)
        | RoomAction::Follow(_)
        | RoomAction::Abandon(_) => true,
        RoomAction::Create
        | RoomAction::FindOrForget
        | RoomAction::Invite(_)
        | RoomAction::Show(_)
        | RoomAction::Announce(_) => false,
    }
}

/// What once failed is tried first, from a file beside this one.
fn cases(cases: u32) -> ProptestConfig {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/laws.proptest-regressions");
    let persistence = proptest::test_runner::FileFailurePersistence::Direct(file);
    let failure_persistence: Option<Box<dyn proptest::test_runner::FailurePersistence>> =
        Some(Box::new(persistence));
    ProptestConfig { cases, failure_persistence, ..ProptestConfig::default() }
}

/// An order of actions, from numbers.
fn shuffled(numbers: Vec<usize>) -> impl FnMut(usize) -> usize {
    let mut numbers = numbers.into_iter().cycle();
    move |len| numbers.next().unwrap_or(0) % len
}

fn orders() -> impl Strategy<Value = Vec<usize>> {
    collection::vec(0..1000_usize, 1..8)
}

/// What becomes of a wish: a word, a call that is begun for it, and what is seen.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Asked(bool),
    Tried,
    Seen(bool),
}

fn fates() -> impl Strategy<Value = Fate> {
    let seen = any::<bool>().prop_map(Fate::Seen);
    prop_oneof![3 => any::<bool>().prop_map(Fate::Asked), 2 => Just(Fate::Tried), 1 => seen]
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn a_wish_knows_of_a_call_for_the_contrary_that_may_still_land(
        start in any::<bool>(),
        fates in collection::vec(fates(), 1..12),
    ) {
        let mut wish = Wish::found(start, Reason::Login, Millis(0));
        let (mut begun, mut ever) = ([false; 2], false);
        for fate in fates {
            match fate {
                Fate::Asked(desired) => drop(wish.ask(desired, Reason::Asked, Millis(0))),
                Fate::Tried if wish.pending() => {
                    (wish.tried, begun[usize::from(wish.desired)], ever) = (true, true, true);
                }
                Fate::Tried => {}
                Fate::Seen(now) => (wish.last, begun) = (Some(now), [false; 2]),
            }
            if wish.last.is_none() {
                prop_assert!(wish.overtakes || !begun[usize::from(!wish.desired)], "{wish:?}");
                prop_assert!(ever || !wish.overtakes, "{wish:?}");
            }
        }
    }

    #[test]
    fn plans_applied_in_any_order_converge(mut world in worlds(), order in orders()) {
        let (before, barred) = (world.clone(), world.room.as_ref().map(|room| room.account));
        world.settle(shuffled(order));
        prop_assert!(world.made <= 1 && world.told <= 1, "{world:?}");
        let Some(row) = &world.row else { return Ok(()) };
        match (&row.place, row.open.desired) {
            (Place::At(_), true) => {
                let room = world.room.as_ref().expect("a place has a room");
                prop_assert!(room.strangers.is_empty());
                let refused = row.condition.is_some();
                let inside = matches!(room.account, Presence::In | Presence::Invited);
                prop_assert!(inside != refused, "{world:?}");
                prop_assert_eq!(row.shown.clone(), Some(looks()));
                prop_assert!(refused || row.ask != Some(Ask::Open), "never told: {:?}", world);
            }
            (Place::Nowhere, false) => {
                // An unrecorded room is looked for only if there was an intent.
                prop_assert!(!row.open.pending() && row.ask != Some(Ask::Open), "{world:?}");
                let parted = row.member.last == Some(false) && !row.member.desired;
                prop_assert!(!parted || row.ask != Some(Ask::Part), "never told: {world:?}");
            }
            // Refused, or no member yet: the account's own pass comes first.
            (Place::Nowhere, true) => {
                let member = row.member.desired && row.member.last == Some(true);
                prop_assert!(row.condition.is_some() || !member || !world.logged_in);
            }
            (place, open) => prop_assert!(false, "{place:?} {open}: {before:?} {barred:?}"),
        }
    }

    #[test]
    fn an_executed_plan_leaves_nothing_to_do(mut world in worlds(), order in orders()) {
        world.settle(shuffled(order));
        let settled = world.clone();
        prop_assert!(world.plan().is_empty());
        prop_assert_eq!(world.settle(|_| 0), 0);
        prop_assert_eq!(world, settled);
    }

    #[test]
    fn nothing_is_removed_on_a_stale_reading(world in worlds()) {
        for reading in [Seen::Unknown, match world.reading() {
            Seen::Fresh(reading) => Seen::Stale(reading),
            other => other,
        }] {
            let plan = world.plan_of(reading);
            prop_assert!(!plan.act.iter().any(removes), "{plan:?}");
            prop_assert!(!plan.removes(), "{plan:?}");
            // With a room there is nothing at all that can be said about it.
            if world.row.as_ref().is_some_and(|row| row.place.room().is_some()) {
                prop_assert!(!plan.act.iter().any(|a| matches!(a, RoomAction::Invite(_))));
                prop_assert!(plan.act.is_empty() && plan.notes.iter().all(|n| matches!(n, Note::Moot | Note::Parted)));
            }
        }
    }

    #[test]
    fn an_upgraded_portal_moves_once_or_is_made_anew_and_stays_open(
        mut world in worlds(),
        order in orders(),
        successor in successors(),
    ) {
        let row = world.row.as_mut().expect("just made");
        row.open.desired = true;
        row.place = Place::At(owned_room_id!("!old:hs"));
        row.condition = None;
        row.member = Wish::found(true, Reason::Login, Millis(1));
        world.logged_in = true;
        // Banned there, or only gone from the old room: neither is a word about the new one.
        let Some(room) = &mut world.room else { return Ok(()) };
        let Some(successor) = successor else { return Ok(()) };
        room.successor = Some(successor.clone());
        let fit = matches!(successor, Successor::Fit(_));
        let plan = world.plan();
        let follows = plan.act.iter().filter(|a| matches!(a, RoomAction::Follow(_))).count();
        prop_assert_eq!(follows, usize::from(fit), "{:?}", plan);
        prop_assert!(!fit || !plan.removes(), "following takes nothing away: {plan:?}");
        world.settle(shuffled(order));
        prop_assert_eq!((world.moved, world.made), if fit { (1, 0) } else { (0, 1) });
        let row = world.row.as_ref().expect("stays");
        prop_assert!(row.open.desired && !row.open.pending() && row.condition.is_none());
        let place = if fit { owned_room_id!("!next:hs") } else { owned_room_id!("!new:hs") };
        prop_assert_eq!(&row.place, &Place::At(place));
    }

    #[test]
    fn nobody_who_left_is_invited_without_a_newer_word(
        mut world in worlds(),
        order in orders(),
        member in wishes(),
    ) {
        let row = world.row.as_mut().expect("just made");
        // Seen inside last time, wanted inside, and gone now.
        row.open.desired = true;
        row.open.last = Some(true);
        row.place = Place::At(owned_room_id!("!old:hs"));
        row.member = member;
        world.logged_in = true;
        let Some(room) = &mut world.room else { return Ok(()) };
        room.account = Presence::Out;
        room.successor = None;
        let mut again = world.clone();
        world.settle(shuffled(order));
        prop_assert_eq!(world.invited, 0);
        let row = world.row.as_ref();
        prop_assert!(row.is_none_or(|row| !row.open.desired && row.place == Place::Nowhere));

        // A newer word counts.
        let row = again.row.as_mut().expect("just made");
        row.open.adopt(false, Reason::LeftPortal, Millis(1));
        row.member = Wish::found(true, Reason::Login, Millis(1));
        prop_assert!(ask_open(row, Millis(2)));
        again.settle(|_| 0);
        prop_assert_eq!((again.invited, again.told), (1, 1));
    }

    #[test]
    fn an_account_is_never_removed_from_an_open_portal(world in worlds()) {
        let open = world.row.as_ref().is_some_and(|row| row.open.desired);
        let plan = world.plan();
        let thrown = |a: &RoomAction| {
            matches!(a, RoomAction::RemoveAccount(_) | RoomAction::TakeOut(..) | RoomAction::Abandon(_))
        };
        prop_assert!(!open || !plan.act.iter().any(thrown), "{plan:?}");
    }

    #[test]
    fn strangers_always_go(world in worlds()) {
        let RoomReading::There { strangers, .. } = (match world.reading() {
            Seen::Fresh(reading) => reading,
            Seen::Unknown | Seen::Stale(_) => return Ok(()),
        }) else { return Ok(()) };
        let plan = world.plan();
        let gone: BTreeSet<OwnedUserId> = plan.act.iter().filter_map(|action| match action {
            RoomAction::RemoveStranger(_, who) => Some(who.clone()),
            _ => None,
        }).collect();
        // What the bridge gives up is left to whoever is in it.
        prop_assert!(gone == strangers || plan.notes.contains(&Note::Dead), "{plan:?}");
    }

    #[test]
    fn the_bot_leaves_last(world in worlds()) {
        let plan = world.plan();
        if plan.act.iter().any(|action| matches!(action, RoomAction::Abandon(_))) {
            prop_assert_eq!(plan.act.len(), 1, "{:?}", plan);
            let Seen::Fresh(RoomReading::There { account, ghosts, strangers, .. }) =
                world.reading() else { panic!("left unseen") };
            prop_assert!(ghosts.is_empty() && strangers.is_empty());
            prop_assert!(matches!(account, Presence::Out | Presence::Banned));
            prop_assert!(world.row.is_some_and(|row| !row.open.desired));
        }
    }

    #[test]
    fn the_three_way_table_holds_for_any_values(desired: u8, last: Option<u8>, now: u8) {
        let expected = if now == desired {
            Verdict::Agreed
        } else if last == Some(desired) {
            Verdict::Adopt
        } else {
            Verdict::Enforce
        };
        prop_assert_eq!(settle(&desired, last.as_ref(), &Seen::Fresh(now)), expected);
        prop_assert_eq!(settle(&desired, last.as_ref(), &Seen::Stale(now)), Verdict::Wait);
        prop_assert_eq!(settle(&desired, last.as_ref(), &Seen::Unknown), Verdict::Wait);
    }
}

/// The rows of an account and the rooms it is in.
fn memberships() -> impl Strategy<Value = (BTreeMap<GitterRoomId, Portal>, Vec<GitterRoomId>)> {
    let rows = collection::btree_map((0..12_u8).prop_map(room_id), portals(), 0..8);
    let rooms = sample::subsequence((0..12_u8).map(room_id).collect::<Vec<_>>(), 0..=12);
    (rows, rooms.prop_shuffle())
}

fn view<'a>(
    portals: &'a BTreeMap<GitterRoomId, Portal>,
    rooms: &[GitterRoomId],
    login: Option<usize>,
) -> AccountView<'a> {
    AccountView { portals, rooms: Seen::Fresh(rooms.to_vec()), login }
}

/// Carries an account's plan out: the rows and Gitter as they are then.
fn apply_account(
    rows: &mut BTreeMap<GitterRoomId, Portal>,
    rooms: &mut Vec<GitterRoomId>,
    plan: &AccountPlan,
) {
    let now = Millis(2000);
    for (room, adoption) in &plan.adopt {
        if let Adoption::Found { open } = adoption {
            let found = Portal::found(*open, Reason::Login, now);
            let row = rows.entry(room.clone()).or_insert(found);
            row.member.last = Some(true);
            row.open.ask(*open, Reason::Login, now);
            continue;
        }
        let row = rows.get_mut(room).expect("only what is found is new");
        match adoption {
            Adoption::Found { .. } => {}
            Adoption::Joined => {
                row.member.adopt(true, Reason::OnGitter, now);
                row.open.ask(true, Reason::OnGitter, now);
                row.ask = row.ask.filter(|ask| *ask != Ask::Part);
            }
            Adoption::Gone => {
                row.member.adopt(false, Reason::OnGitter, now);
                row.open.ask(false, Reason::OnGitter, now);
                row.ask = None;
            }
            Adoption::Agreed => {
                row.member.last = Some(row.member.desired);
            }
        }
    }
    for (room, action) in &plan.act {
        let row = rows.get_mut(room).expect("a command has a row");
        row.member.last = Some(*action == MemberAction::Join);
        rooms.retain(|other| other != room);
        if *action == MemberAction::Join {
            rooms.push(room.clone());
        }
    }
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn memberships_agree_after_one_plan(
        (mut rows, mut rooms) in memberships(),
        login in proptest::option::of(0..6_usize),
    ) {
        let plan = plan_account(&view(&rows, &rooms, login));
        apply_account(&mut rows, &mut rooms, &plan);
        for (id, row) in &rows {
            prop_assert_eq!(row.member.desired, rooms.contains(id));
            prop_assert!(!row.member.pending());
        }
        prop_assert!(rooms.iter().all(|room| rows.contains_key(room)));
        prop_assert!(plan_account(&view(&rows, &rooms, None)).is_empty());
    }

    #[test]
    fn a_membership_is_changed_only_by_a_word_that_is_pending(
        (rows, rooms) in memberships(),
    ) {
        let plan = plan_account(&view(&rows, &rooms, None));
        for (id, action) in &plan.act {
            let wish = &rows[id].member;
            prop_assert!(wish.pending());
            prop_assert_eq!(wish.desired, *action == MemberAction::Join);
            prop_assert!(!plan.adopt.contains_key(id));
        }
        for id in plan.removals() {
            prop_assert!(rows[id].member.desired && !rows[id].member.pending());
            prop_assert!(!rooms.contains(id));
        }
    }

    #[test]
    fn nothing_is_done_for_an_account_whose_rooms_are_not_known((rows, rooms) in memberships()) {
        for rooms in [Seen::Unknown, Seen::Stale(rooms)] {
            let plan = plan_account(&AccountView { portals: &rows, rooms, login: Some(20) });
            prop_assert!(plan.is_empty(), "{plan:?}");
        }
    }

    #[test]
    fn a_login_opens_no_more_than_its_bound(
        (rows, rooms) in memberships(),
        limit in 0..6_usize,
    ) {
        let plan = plan_account(&view(&rows, &rooms, Some(limit)));
        let opened = plan.adopt.values().filter(|a| **a == Adoption::Found { open: true }).count();
        let already = rooms.iter().filter(|r| rows.get(*r).is_some_and(|p| p.open.desired)).count();
        prop_assert!(opened <= limit.saturating_sub(already));
        let closed = rooms.iter().filter(|r| !rows.contains_key(*r)).count();
        prop_assert!(opened >= closed.min(limit.saturating_sub(already)));
    }

    #[test]
    fn the_brake_holds_many_at_once_until_seen_again(gone in 0..60_usize, total in 60..200_usize) {
        let limits = BrakeLimits::default();
        let keys: Vec<String> = (0..gone).map(|n| n.to_string()).collect();
        let mut held = Held::default();
        let mut at = |ms| {
            held.judge(&limits, "all", keys.iter().map(String::as_str), total, Millis(ms))
        };
        let many = gone > 20 && gone * 100 > total * 25;
        let first = at(0);
        prop_assert_eq!(first == Brake::Holds, many);
        if many {
            prop_assert_eq!(at(599_999), Brake::Holds);
            prop_assert_eq!(at(600_000), Brake::Released);
        }
    }
}

#[test]
fn a_condition_of_the_portal_does_not_stop_its_membership() {
    let mut row = Portal::found(true, Reason::Login, Millis(0));
    row.condition = Some(condition());
    row.member.ask(false, Reason::Asked, Millis(1));
    let rows = BTreeMap::from([(room_id(1), row)]);
    let plan = plan_account(&view(&rows, &[room_id(1)], None));
    assert_eq!(plan.act, BTreeMap::from([(room_id(1), MemberAction::Leave)]));
}

#[test]
fn a_word_that_overtakes_another_wins() {
    //           joined, unheard of?  first word  second word  in on Gitter  so
    let rows = [
        ("gjoin worked, then gpart", false, true, false, true, Some(MemberAction::Leave)),
        ("gjoin did not work, then gpart", false, true, false, false, None),
        ("gpart worked, then gjoin", true, false, true, false, Some(MemberAction::Join)),
        ("gpart did not work, then gjoin", true, false, true, true, None),
    ];
    for (name, before, first, second, is_in, expected) in rows {
        let mut row = Portal::found(true, Reason::Login, Millis(0));
        row.member = Wish::found(before, Reason::Login, Millis(0));
        row.member.ask(first, Reason::Asked, Millis(1));
        row.member.ask(second, Reason::Asked, Millis(2));
        let rows = BTreeMap::from([(room_id(1), row)]);
        let rooms: Vec<_> = is_in.then(|| room_id(1)).into_iter().collect();
        let plan = plan_account(&view(&rows, &rooms, None));
        assert_eq!(plan.act.get(&room_id(1)).copied(), expected, "row: {name}");
        let adopted = plan.adopt.get(&room_id(1)).copied();
        let agreed = expected.is_none().then_some(Adoption::Agreed);
        assert_eq!(adopted, agreed, "row: {name}");
    }
}

#[test]
fn the_table_of_who_owns_what_holds_row_by_row() {
    use Presence::{Banned, In, Invited, Out};

    let there = |account| RoomReading::There {
        account,
        ghosts: BTreeSet::new(),
        strangers: BTreeSet::new(),
        successor: None,
    };
    let room = owned_room_id!("!old:hs");
    let invite = RoomAction::Invite(room.clone());
    let remove = RoomAction::RemoveAccount(room.clone());
    //   name                 desired  last         now      notes                 actions
    let rows = [
        ("in it", true, Some(true), In, vec![], vec![]),
        ("invited", true, Some(true), Invited, vec![], vec![]),
        ("left or declined", true, Some(true), Out, vec![Note::Left], vec![]),
        ("banned by itself", true, Some(true), Banned, vec![Note::Left], vec![]),
        ("opened", true, Some(false), Out, vec![], vec![invite.clone()]),
        ("first look", true, None, Out, vec![], vec![invite]),
        ("opened, in already", true, Some(false), In, vec![Note::Open(true)], vec![]),
        ("opened, but banned", true, Some(false), Banned, vec![Note::Banned], vec![]),
        ("closed", false, Some(true), In, vec![], vec![remove.clone()]),
        ("closed, invited", false, Some(true), Invited, vec![], vec![remove.clone()]),
        ("came back in", false, Some(false), In, vec![], vec![remove]),
        (
            "closed, left already",
            false,
            Some(true),
            Out,
            vec![Note::Open(false)],
            vec![RoomAction::Abandon(room.clone())],
        ),
    ];
    for (name, desired, last, now, notes, act) in rows {
        let mut portal = Portal::found(true, Reason::Login, Millis(0));
        portal.place = Place::At(room.clone());
        portal.open = Wish { desired, last, ..portal.open };
        portal.joined = now == In;
        let view = PortalView {
            portal: &portal,
            shows: None,
            room: Seen::Fresh(there(now)),
            logged_in: true,
            features: 0,
            now: Millis(0),
            landing: false,
            apart_ms: APART_MS,
        };
        assert_eq!(plan_portal(&view), PortalPlan { notes, act }, "row: {name}");
    }
}

#[test]
fn a_room_is_believed_lost_only_when_missed_twice_apart_in_time() {
    let mut portal = Portal::found(true, Reason::Login, Millis(0));
    portal.place = Place::At(owned_room_id!("!old:hs"));
    portal.open.last = Some(true);
    let plan = |portal: &Portal, now| {
        plan_portal(&PortalView {
            portal,
            shows: None,
            room: Seen::Fresh(RoomReading::Gone),
            logged_in: true,
            features: 0,
            now: Millis(now),
            landing: false,
            apart_ms: APART_MS,
        })
        .notes
    };
    assert_eq!(plan(&portal, 0), [Note::Missing]);
    portal.missing_since = Some(Millis(0));
    assert_eq!(plan(&portal, APART_MS - 1), []);
    assert_eq!(plan(&portal, APART_MS), [Note::Lost], "and not Left");
}

#[test]
fn a_login_after_a_logout_opens_what_the_logout_closed() {
    let at = Millis(0);
    let closed = |reason| {
        let mut row = Portal::found(true, Reason::Login, at);
        row.open.ask(false, reason, at);
        row
    };
    let rows = BTreeMap::from([
        (room_id(1), closed(Reason::Logout)),
        (room_id(2), closed(Reason::LeftPortal)),
    ]);
    let rooms = [room_id(1), room_id(2), room_id(3)];
    let plan = plan_account(&view(&rows, &rooms, Some(20)));
    let found = Adoption::Found { open: true };
    assert_eq!(plan.adopt, BTreeMap::from([(room_id(1), found), (room_id(3), found)]));
    assert!(!plan_account(&view(&rows, &rooms, None)).adopt.contains_key(&room_id(1)));
}
